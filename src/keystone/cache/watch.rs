//! What changes without a request, so that somebody has to look or listen?
//!
//! A rejected secret where it comes from, a person's login, and what other keyways hear from services.

use std::sync::{Arc, PoisonError, Weak};
use std::time::Duration;

use tokio::sync::broadcast::{self, error::RecvError};

use super::projects::Projects;
use super::{Shared, Source};
use crate::keystone::shared::News;
use crate::keystone::{LoginId, Place};
use crate::secret;

/// How often it is looked whether a rejected secret has changed, or a person's login.
const WATCH: Duration = Duration::from_secs(1);

impl Shared {
    /// Looks again and again whether a rejected secret has changed where it comes from, until Keystone accepts one.
    pub(super) fn watch_secrets(self: &Arc<Self>, index: usize) {
        let (shared, watch) = (Arc::downgrade(self), self.clouds[index].breaker().watch());
        self.runtime.spawn(async move {
            loop {
                tokio::time::sleep(WATCH).await;
                let Some(shared) = shared.upgrade() else { return };
                let cloud = &shared.clouds[index];
                let breaker = cloud.breaker();
                let Source::Keystone(keystone) = &cloud.source else { return };
                if !breaker.watches(watch) {
                    return;
                }
                let changed = match breaker.account().last_rejected() {
                    Some(rejected) => keystone.has_changed(&rejected).await,
                    // Another cloud's login went well since.
                    None => true,
                };
                if changed
                    && let Ok(secrets) = keystone.secrets(None).await
                    && breaker.may_show(&secrets).is_ok()
                {
                    tracing::info!(
                        cloud = cloud.config.name,
                        "the rejected secret has changed: trying the new one"
                    );
                    breaker.lift();
                    cloud.slot.hurry(&shared);
                }
            }
        });
    }

    /// Looks again and again whether a person's login is still the one that tokens were got with. Once it is not,
    /// because of `keyway logout` or another login, they are used no more. Keystone does not end them with the login.
    pub(super) async fn watch_login(shared: Weak<Self>, index: usize, place: Place) {
        loop {
            tokio::time::sleep(WATCH).await;
            let asked = place.clone();
            let Ok(loaded) = tokio::task::spawn_blocking(move || asked.load()).await else { return };
            let Some(shared) = shared.upgrade() else { return };
            // What is wrong with the place is told where the token is wanted, and is no logout.
            let Ok(kept) = loaded else { continue };
            shared.forget_logins(index, kept.map(|kept| kept.login)).await;
        }
    }

    /// Lets go of tokens that came of other logins than this one. Where there is none, Keystone revokes them.
    async fn forget_logins(self: &Arc<Self>, index: usize, login: Option<LoginId>) {
        let cloud = &self.clouds[index];
        let others = self.scopes.iter().chain(&self.tried);
        let others = others.filter(|(key, _)| key.cloud == index).map(|(_, slot)| slot);
        let slots: Vec<_> = std::iter::once(Arc::clone(&cloud.slot)).chain(others).collect();
        // The cloud's own goes last: it asks for another one at once.
        let forgotten: Vec<_> = slots.iter().rev().filter_map(|slot| slot.forget(self, login)).collect();
        if forgotten.is_empty() {
            return;
        }
        *cloud.projects.lock().unwrap_or_else(PoisonError::into_inner) = Projects::default();
        tracing::info!(
            cloud = cloud.config.name,
            tokens = forgotten.len(),
            "the login that these tokens came of is gone, and they with it"
        );
        let (Source::Keystone(keystone), None) = (&cloud.source, login) else { return };
        for token in forgotten {
            if let Err(error) = keystone.revoke(&token.id).await {
                let (cloud, error) = (&cloud.config.name, secret::causes(&error));
                tracing::warn!(cloud, error, "tokens of the login that is gone could not be revoked");
                return;
            }
        }
    }
}

/// Hears which tokens services refused to other keyways, and replaces those here as well.
pub(super) async fn listen(mut news: broadcast::Receiver<Arc<[News]>>, shared: Weak<Shared>) {
    loop {
        let news = match news.recv().await {
            Ok(news) => news,
            // What was missed is learnt from the services.
            Err(RecvError::Lagged(_)) => continue,
            Err(RecvError::Closed) => return,
        };
        let Some(shared) = shared.upgrade() else { return };
        for news in news.iter() {
            let News::Refused(token) = news else { continue };
            let own = shared.clouds.iter().map(|cloud| Arc::clone(&cloud.slot));
            for slot in own.chain(shared.scopes.iter().map(|(_, slot)| slot)) {
                slot.hear_of_refusal(&shared, token);
            }
        }
    }
}
