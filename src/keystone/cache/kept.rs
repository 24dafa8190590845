//! A token that an earlier login left on disk or another keyway in the store that they share, or a new one, which is
//! left there for the next.
//!
//! Both are asked by the login's own task, the disk on the threads for what blocks, and never for long: whatever
//! becomes of them, there is a token as soon as Keystone gives one.

use std::sync::Arc;
use std::time::Duration;

use super::slot::{Login, Trouble, now};
use super::{Cloud, Event, Issuer, Outcome, Reason, Shared};
use crate::keystone::seal;
use crate::keystone::shared::{self, Lease};
use crate::keystone::{Identity, Method, Scope, Store, Token, TokenId};
use crate::private::Lock;
use crate::secret;

/// How long the disk may take for anything.
const PATIENCE: Duration = Duration::from_secs(2);

/// The longest wait for another keyway that logs in for the same, and how often it is looked whether it is done.
const LONGEST_WAIT: Duration = Duration::from_secs(10);
const LOOK: Duration = Duration::from_millis(25);

/// What is left at least of a token that serves for want of a new one.
const LEAST_LEFT: Duration = Duration::from_secs(1);

/// Where tokens are kept.
#[derive(Clone, Debug)]
pub enum Keeping {
    /// On disk, for the keyways of this machine.
    Disk(Arc<Store>),
    /// On a server, for those of many.
    Shared(Arc<shared::Store>),
}

impl Shared {
    /// The token for a scope: one that was kept and is no worse than a new one, else Keystone's, which is
    /// kept. Of several keyways one asks, and the others find what it got.
    pub(super) async fn obtain(
        self: &Arc<Self>,
        cloud: &Cloud,
        identity: &Identity,
        keystone: &dyn Issuer,
        scope: &Scope,
        login: &mut Login,
    ) -> Result<Token, Trouble> {
        let Some(mut entry) = Entry::of(self.store.as_ref(), cloud, identity, scope).await else {
            return self.authenticate(cloud, keystone, scope, login).await;
        };
        if let Some(token) = entry.load().await
            && is_as_good_as_new(&token, login)
        {
            return Ok(restored(cloud, scope, login, token));
        }
        let lock = entry.lock(self.deadline).await;
        // Whoever had the lock may have logged in.
        let kept = entry.load().await;
        if let Some(token) = kept.as_ref().filter(|token| login.present.as_ref() == Some(&token.id))
            && login.reason == Reason::Rejected
        {
            tracing::debug!(token = token.id.fingerprint(), "a kept token was refused, so it is removed");
            entry.refuse(&token.id).await;
        }
        let spare = match kept {
            Some(token) if is_as_good_as_new(&token, login) => {
                entry.unlock(lock).await;
                return Ok(restored(cloud, scope, login, token));
            }
            // One that is about to end serves as long as there is no other.
            Some(token) => token.life_left(now()).filter(|left| *left > LEAST_LEFT).map(|_| token),
            None => None,
        };
        match self.authenticate(cloud, keystone, scope, login).await {
            Ok(token) => {
                entry.save(&token, lock).await;
                Ok(token)
            }
            Err(trouble) => {
                entry.unlock(lock).await;
                let Some(token) = spare.filter(|_| login.reason == Reason::Cold) else { return Err(trouble) };
                let error = trouble.error();
                if !matches!(trouble, Trouble::NotAsked(_)) {
                    (self.observer)(&Event::Asked {
                        cloud: login.key.cloud,
                        reason: login.reason,
                        outcome: Outcome::of(error),
                        took: now().saturating_duration_since(login.start),
                        expires_at: None,
                    });
                }
                tracing::warn!(
                    cloud = cloud.config.name,
                    error = secret::causes(error),
                    "no token from Keystone; the one that was kept serves until its end"
                );
                Ok(restored(cloud, scope, login, token))
            }
        }
    }
}

/// Whether nobody would ask for another one yet.
fn is_as_good_as_new(token: &Token, login: &Login) -> bool {
    let now = now();
    token.is_fresh(now)
        && login.present.as_ref() != Some(&token.id)
        && login.good_until.is_none_or(|until| token.born() > until)
        && token.renew_at(0.0).is_none_or(|due| now < due)
}

fn restored(cloud: &Cloud, scope: &Scope, login: &mut Login, token: Token) -> Token {
    cloud.breaker().was_accepted(scope);
    login.restored = true;
    token
}

/// The place of one token.
enum Entry {
    Disk { store: Arc<Store>, name: Arc<str> },
    Shared(shared::Entry),
}

/// The right to log in for it.
enum Right {
    Lock(#[expect(dead_code, reason = "dropping it is what it is for")] Lock),
    Lease(Lease),
}

impl Entry {
    async fn of(store: Option<&Keeping>, cloud: &Cloud, identity: &Identity, scope: &Scope) -> Option<Self> {
        let store = store.filter(|_| keeps(&identity.method))?;
        let bearer = match seal::bearer(&identity.method) {
            Some(source) => Some(source.read().await.ok()?),
            None => None,
        };
        let store = match store {
            Keeping::Disk(store) => store,
            Keeping::Shared(store) => {
                return Some(Self::Shared(store.entry(identity, &cloud.config.tls, scope, bearer.as_ref())));
            }
        };
        let (identity, tls, scope) = (identity.clone(), cloud.config.tls.clone(), scope.clone());
        let name =
            in_time(store, move |store| store.name(&identity, &tls, &scope, bearer.as_ref())).await??;
        Some(Self::Disk { store: Arc::clone(store), name: name.into() })
    }

    async fn load(&mut self) -> Option<Token> {
        match self {
            Self::Disk { store, name } => ask(store, name, |store, name| store.load(name)).await?,
            Self::Shared(entry) => entry.load().await,
        }
    }

    /// The token that was loaded is of no use to anybody.
    async fn refuse(&mut self, token: &TokenId) {
        match self {
            Self::Disk { store, name } => {
                ask(store, name, |store, name| store.remove(name)).await;
            }
            Self::Shared(entry) => entry.refuse(token).await,
        }
    }

    /// Writes the token down, and only then lets others look.
    async fn save(&mut self, token: &Token, right: Option<Right>) {
        match (self, right) {
            (Self::Disk { store, name }, right) => {
                let file = store.close(name, token);
                let save = |store: &Store, name: &str| {
                    if let Some(file) = file {
                        store.save(name, &file);
                    }
                    drop(right);
                };
                ask(store, name, save).await;
            }
            (Self::Shared(entry), Some(Right::Lease(lease))) => entry.save(token, Some(lease)).await,
            (Self::Shared(entry), _) => entry.save(token, None).await,
        }
    }

    /// Waits until nobody else logs in for this; without the right, where that takes too long. `deadline` is how long
    /// a login may take in all.
    async fn lock(&mut self, deadline: Duration) -> Option<Right> {
        let (store, name) = match self {
            Self::Disk { store, name } => (store, name),
            // Whoever holds it lives, since it is extended.
            Self::Shared(entry) => return entry.lease(now() + deadline * 2 / 3).await.map(Right::Lease),
        };
        let until = now() + LONGEST_WAIT.min(deadline / 3);
        loop {
            match ask(store, name, |store, name| store.try_lock(name)).await? {
                Ok(Some(lock)) => return Some(Right::Lock(lock)),
                Err(_) => return None,
                Ok(None) if now() >= until => {
                    tracing::debug!(
                        "another keyway logs in for the same, and takes long: not waiting for it"
                    );
                    return None;
                }
                Ok(None) => tokio::time::sleep(LOOK).await,
            }
        }
    }

    async fn unlock(&self, right: Option<Right>) {
        match (self, right) {
            (Self::Disk { store, name }, right) => {
                ask(store, name, |_, _| drop(right)).await;
            }
            (Self::Shared(entry), Some(Right::Lease(lease))) => entry.release(lease).await,
            (Self::Shared(_), _) => {}
        }
    }
}

/// Whether what a login gets is kept. An access token beside the token is not; what a person's login led to ends with
/// that; and whose ticket it was, nothing here tells.
fn keeps(method: &Method) -> bool {
    !matches!(method, Method::OAuth2 { .. } | Method::Kerberos(_) | Method::Federated(_))
        && method.person().is_none()
}

async fn ask<T: Send + 'static>(
    store: &Arc<Store>,
    name: &Arc<str>,
    question: impl FnOnce(&Store, &str) -> T + Send + 'static,
) -> Option<T> {
    let name = Arc::clone(name);
    in_time(store, move |store| question(store, &name)).await
}

/// What the disk says, if it answers.
async fn in_time<T: Send + 'static>(
    store: &Arc<Store>,
    question: impl FnOnce(&Store) -> T + Send + 'static,
) -> Option<T> {
    let asked = Arc::clone(store);
    let answer = tokio::task::spawn_blocking(move || question(&asked));
    match tokio::time::timeout(PATIENCE, answer).await {
        Ok(answer) => answer.ok(),
        Err(_) => {
            store.give_up();
            None
        }
    }
}
