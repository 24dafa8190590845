//! How does the cache log in, without harm to the account?
//!
//! Before each login the breaker is asked, and after it told what came of it: whether a no was about the scope alone or
//! about the credentials, which may be shown only so often.

use std::sync::Arc;
use std::time::Instant;

use super::account::Secrets;
use super::breaker::{Breaker, Permit, Verdict};
use super::slot::{self, Login, Trouble};
use super::{Asked, Cloud, Event, Issuer, Outcome, Shared, Source};
use crate::keystone::{Auth, AuthError, Project, Scope, Token};

impl Shared {
    /// One login: finds the project, if that is still to be done, and asks Keystone for its token, unless one
    /// was kept.
    pub(super) async fn log_in(self: &Arc<Self>, login: &mut Login) -> Result<Token, Trouble> {
        let cloud = self.clouds.get(login.key.cloud).ok_or(Trouble::NotAsked(AuthError::NoSuchCloud))?;
        let (Source::Keystone(keystone), Auth::Identity(identity)) = (&cloud.source, &cloud.config.auth)
        else {
            return Err(Trouble::NotAsked(AuthError::FixedToken));
        };
        let scope = match &login.key.scope {
            Asked::Own => identity.scope.clone(),
            Asked::Exactly(scope) => scope.clone(),
            Asked::Project(asked) => {
                let id = match (&login.project_id, &login.lister) {
                    (Some(id), _) => id.clone(),
                    (None, Some(own)) => self.find_project(asked, own, login).await?,
                    (None, None) => return Err(Trouble::NotAsked(AuthError::Stopped)),
                };
                login.project_id = Some(id.clone());
                Scope::Project(Project::Id(id))
            }
        };
        self.obtain(cloud, identity, keystone.as_ref(), &scope, login).await
    }

    /// Asks Keystone for a token when its turn comes.
    pub(super) async fn authenticate(
        self: &Arc<Self>,
        cloud: &Cloud,
        keystone: &dyn Issuer,
        scope: &Scope,
        login: &Login,
    ) -> Result<Token, Trouble> {
        let breaker = cloud.breaker();
        let permit = self.in_time(login.start, breaker.admit()).await.map_err(Trouble::NotAsked)?;
        if login.known || !cloud.may_be_made_up(&login.key.scope) {
            return self.ask(cloud, keystone, scope, login, permit).await;
        }
        // There is a limit to those that Keystone may refuse.
        breaker.take_scope().map_err(Trouble::NotAsked)?;
        let result = self.ask(cloud, keystone, scope, login, permit).await;
        if !matches!(&result, Err(Trouble::OfScope(AuthError::ScopeRefused { .. }))) {
            breaker.put_scope_back();
        }
        result
    }

    /// Asks Keystone for a token, and tells the breaker what came of it while nobody else's turn has
    /// come yet.
    async fn ask(
        self: &Arc<Self>,
        cloud: &Cloud,
        keystone: &dyn Issuer,
        scope: &Scope,
        login: &Login,
        permit: Permit<'_>,
    ) -> Result<Token, Trouble> {
        let (breaker, index, start) = (cloud.breaker(), login.key.cloud, login.start);
        // Where a client named the scope and Keystone says no to it, that is the client's answer.
        let about_scope = |error: AuthError| {
            Trouble::OfScope(if login.key.scope == Asked::Own { error } else { error.of_scope() })
        };
        let mut sent = slot::now();
        let mut secrets = match self.in_time(start, self.secrets(&breaker, keystone)).await {
            Ok(secrets) => secrets,
            Err(error) => return Err(self.fail(index, error, sent)),
        };
        if breaker.is_last_chance(&secrets) && cloud.takes_scope() && *scope != Scope::Unscoped {
            // Once more may be once too often: without a scope, the answer is about the credentials alone.
            match self.show(cloud, keystone, &Scope::Unscoped, &secrets, login).await {
                Ok(_) => sent = slot::now(),
                Err(error) if error.is_rejection() || is_about_keystone(&error) => {
                    return Err(self.fail(index, error, sent));
                }
                // That is none of Keystone's answers to a wrong password.
                Err(_) => {}
            }
        }
        let mut answer = self.in_time(start, keystone.authenticate(scope)).await;
        let mut permit = permit;
        if let Err(error) = &answer
            && error.is_rejection()
        {
            breaker.account().reject(&secrets, error);
            permit = match self.in_time(start, breaker.alone(permit)).await {
                Ok(permit) => permit,
                Err(_) => {
                    return Err(
                        answer.map_or_else(Trouble::OfScope, |_| Trouble::NotAsked(AuthError::Stopped))
                    );
                }
            };
            // Somebody may have changed the password just now.
            let other = self.in_time(start, keystone.secrets(Some(&secrets))).await;
            if let Some(other) =
                other.ok().filter(|other| *other != secrets && breaker.may_show(other).is_ok())
            {
                tracing::info!(
                    cloud = cloud.config.name,
                    "the secret to log in with has changed: trying the new one"
                );
                self.asked(login, Outcome::Rejected, sent, None);
                (secrets, sent) = (other, slot::now());
                answer = self.in_time(start, keystone.authenticate(scope)).await;
                if let Err(error) = &answer
                    && error.is_rejection()
                {
                    breaker.account().reject(&secrets, error);
                }
            }
        }
        let _permit = permit;
        match answer {
            Ok(token) => {
                self.accept(cloud, scope, login);
                Ok(token)
            }
            Err(error) if is_about_keystone(&error) => Err(self.fail(index, error, sent)),
            Err(error) if error.is_rejection() => {
                let scope_alone = match breaker.verdict(scope, sent) {
                    Verdict::Good => true,
                    Verdict::Bad | Verdict::Unknown => false,
                    Verdict::Ask(other) => self.show(cloud, keystone, &other, &secrets, login).await.is_ok(),
                };
                if scope_alone {
                    breaker.absolve(scope);
                    return Err(about_scope(error));
                }
                Err(self.fail(index, error, sent))
            }
            Err(error @ AuthError::NotInV2 { .. }) => Err(about_scope(error)),
            Err(error) => Err(Trouble::OfScope(error)),
        }
    }

    /// What a login shows now. What Keystone rejected before is asked for anew, where that may help; and if it must not
    /// be shown once more, that is the answer.
    async fn secrets(&self, breaker: &Breaker, keystone: &dyn Issuer) -> Result<Secrets, AuthError> {
        let mut secrets = keystone.secrets(None).await?;
        if breaker.account().times(&secrets) > 0 {
            secrets = keystone.secrets(Some(&secrets)).await?;
        }
        breaker.may_show(&secrets)?;
        Ok(secrets)
    }

    /// Logs in for `scope` to see whether Keystone accepts these credentials at all.
    async fn show(
        &self,
        cloud: &Cloud,
        keystone: &dyn Issuer,
        scope: &Scope,
        secrets: &Secrets,
        login: &Login,
    ) -> Result<(), AuthError> {
        let (breaker, started) = (cloud.breaker(), slot::now());
        breaker.may_show(secrets)?;
        let answer = self.in_time(login.start, keystone.authenticate(scope)).await;
        let outcome = answer.as_ref().map_or_else(Outcome::of, |_| Outcome::Ok);
        self.asked(login, outcome, started, None);
        match answer {
            Ok(_) => {
                self.accept(cloud, scope, login);
                Ok(())
            }
            Err(error) => {
                if error.is_rejection() {
                    breaker.account().reject(secrets, &error);
                }
                Err(error)
            }
        }
    }

    /// Tells of a login beside the one that brings the token.
    fn asked(&self, login: &Login, outcome: Outcome, started: Instant, expires_at: Option<i64>) {
        (self.observer)(&Event::Asked {
            cloud: login.key.cloud,
            reason: login.reason,
            outcome,
            took: slot::now().saturating_duration_since(started),
            expires_at,
        });
    }

    fn accept(&self, cloud: &Cloud, scope: &Scope, login: &Login) {
        if cloud.breaker().accept(scope) {
            tracing::info!(cloud = cloud.config.name, "Keystone accepts logins again");
            (self.observer)(&Event::Resumed { cloud: login.key.cloud });
        }
    }

    pub(super) fn fail(self: &Arc<Self>, cloud: usize, error: AuthError, sent: Instant) -> Trouble {
        let failure = self.clouds[cloud].breaker().fail(error, sent);
        if failure.error.is_rejection() {
            self.watch_secrets(cloud);
        }
        (self.observer)(&Event::Paused {
            cloud,
            wait: failure.until.saturating_duration_since(slot::now()),
            rejected: failure.error.is_rejection(),
        });
        Trouble::OfCloud(failure)
    }
}

/// Whether a failure would meet every login alike. A 500 may be about one project's catalog.
pub(super) fn is_about_keystone(error: &AuthError) -> bool {
    match error {
        AuthError::Unreachable(_)
        | AuthError::Timeout { .. }
        | AuthError::NoSecret { .. }
        | AuthError::PasscodeUsed { .. }
        | AuthError::LoginRequired { .. }
        | AuthError::Provider(_) => true,
        AuthError::Unavailable { status, retry_after, .. } => {
            matches!(status, 429 | 502 | 503 | 504) || retry_after.is_some()
        }
        _ => false,
    }
}
