//! What services are shown where no Keystone issues tokens.
//!
//! It is the operator's word: a fixed token, a user's name and password, a scope, or nothing. It never
//! expires and there is nobody to ask for another, but a token or a password may be read anew from where it is.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::{Status, slot};
use crate::keystone::{self, Auth, AuthError, Catalog, Source, Token, TokenId, proof};
use crate::upstream::BaseUrl;

/// A secret is not read again within this after the last time, however often services refuse it.
const SOONEST_READ: Duration = Duration::from_secs(5);

pub(super) struct Standing {
    secret: Option<Secret>,
    state: Mutex<State>,
    /// Held by the one who reads the secret.
    reading: tokio::sync::Mutex<()>,
}

/// What there is to read.
struct Secret {
    source: Source,
    /// Whose password it is; `None` for a token.
    username: Option<String>,
    endpoint: Option<BaseUrl>,
}

#[derive(Default)]
struct State {
    token: Option<Arc<Token>>,
    /// Why the secret could not be read.
    failure: Option<Arc<AuthError>>,
    read: Option<Instant>,
}

impl Standing {
    /// What a cloud's configuration says, other than a login at Keystone.
    ///
    /// # Errors
    /// [`AuthError::BadReply`] for what no header can hold.
    pub(super) fn new(auth: &Auth) -> Result<Self, AuthError> {
        let now = slot::now();
        let secret = match auth {
            Auth::Fixed { endpoint, token: source } => {
                Some(Secret { source: source.clone(), username: None, endpoint: Some(endpoint.clone()) })
            }
            Auth::Basic { endpoint, username, password: source } => Some(Secret {
                source: source.clone(),
                username: Some(username.clone()),
                endpoint: endpoint.clone(),
            }),
            Auth::None { .. } | Auth::Tokenless { .. } | Auth::Identity(_) => None,
        };
        let token = match auth {
            Auth::Fixed { .. } | Auth::Basic { .. } => match &secret {
                Some(place @ Secret { source: Source::Given(given), .. }) => Some(place.token(given, now)?),
                _ => None,
            },
            Auth::None { endpoint } => Some(Token::none(catalog(endpoint.as_ref()), now)),
            Auth::Tokenless { auth_url, scope } => {
                Some(Token::tokenless(scope, Catalog::identity(auth_url), now))
            }
            Auth::Identity(_) => None,
        };
        let state = State { token: token.map(Arc::new), ..State::default() };
        Ok(Self { secret, state: Mutex::new(state), reading: tokio::sync::Mutex::default() })
    }

    /// What there is right now.
    pub(super) fn known(&self) -> Option<Arc<Token>> {
        self.lock().token.clone()
    }

    /// Something other than what a service refused.
    ///
    /// # Errors
    /// [`AuthError::FixedToken`] where that is still all there is.
    pub(super) async fn replace(&self, used: &TokenId) -> Result<Arc<Token>, Arc<AuthError>> {
        match &self.secret {
            Some(Secret { source: Source::Given(_), .. }) | None => Err(Arc::new(AuthError::FixedToken)),
            Some(_) => self.read(Some(used)).await,
        }
    }

    pub(super) fn status(&self) -> Status {
        let state = self.lock();
        let failure = state.failure.clone().map(|error| (error, SOONEST_READ));
        Status { token: state.token.clone(), failure, ..Status::default() }
    }

    /// Reads the secret, unless there is something other than `used` by then.
    ///
    /// # Errors
    /// See [`Standing::replace`]; why it can't be read.
    pub(super) async fn read(&self, used: Option<&TokenId>) -> Result<Arc<Token>, Arc<AuthError>> {
        let fixed = || Arc::new(AuthError::FixedToken);
        let secret = self.secret.as_ref().ok_or_else(fixed)?;
        let _turn = self.reading.lock().await;
        {
            let state = self.lock();
            if let Some(token) = state.token.as_ref().filter(|token| used != Some(&token.id)) {
                return Ok(Arc::clone(token));
            }
            if state.read.is_some_and(|read| slot::now().saturating_duration_since(read) < SOONEST_READ) {
                return Err(state.failure.clone().unwrap_or_else(fixed));
            }
        }
        let read = proof::read(&secret.source).await;
        let now = slot::now();
        let read = read.and_then(|read| secret.token(&read, now));
        let mut state = self.lock();
        state.read = Some(now);
        match read {
            Ok(token) => {
                state.failure = None;
                let token = Arc::new(token);
                if used == Some(&token.id) {
                    return Err(fixed());
                }
                state.token = Some(Arc::clone(&token));
                Ok(token)
            }
            Err(error) => {
                let error = Arc::new(error);
                state.failure = Some(Arc::clone(&error));
                // What a service refused is better than nothing for those that did not.
                Err(if state.token.is_some() { fixed() } else { error })
            }
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Secret {
    /// What services are shown, where this is the secret.
    ///
    /// # Errors
    /// [`AuthError::BadReply`] for what no header can hold.
    fn token(&self, secret: &keystone::Secret, now: Instant) -> Result<Token, AuthError> {
        let catalog = catalog(self.endpoint.as_ref());
        if let Some(username) = &self.username {
            return Ok(Token::basic(username, secret, catalog, now));
        }
        let id = TokenId::new(secret.expose()).map_err(|invalid| AuthError::BadReply {
            what: format!("the configured token can't be sent: {invalid}"),
        })?;
        Ok(Token::fixed(id, catalog, now))
    }
}

/// One endpoint for every service; none where only overrides lead anywhere.
fn catalog(endpoint: Option<&BaseUrl>) -> Catalog {
    endpoint.cloned().map(Catalog::single).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    // Promise 64.
    #[tokio::test(start_paused = true)]
    async fn a_secret_in_a_file_is_read_again_when_it_was_refused_and_not_all_the_time() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("password");
        let auth = |source| Auth::Basic { endpoint: None, username: "ada".to_owned(), password: source };
        let standing = Standing::new(&auth(Source::File(path.clone()))).unwrap();
        assert!(standing.known().is_none());
        let error = standing.read(None).await.unwrap_err();
        assert!(matches!(*error, AuthError::NoSecret { .. }), "{error:?}");
        assert!(standing.status().failure.is_some());

        fs::write(&path, "one\n").unwrap();
        assert!(standing.read(None).await.is_err(), "it was tried just now");
        tokio::time::advance(SOONEST_READ).await;
        let one = standing.read(None).await.unwrap();
        assert_eq!(one.id.expose(), "YWRhOm9uZQ==");
        assert!(standing.status().failure.is_none());

        tokio::time::advance(SOONEST_READ).await;
        let error = standing.replace(&one.id).await.unwrap_err();
        assert!(matches!(*error, AuthError::FixedToken), "it is still the same");
        fs::write(&path, "two\n").unwrap();
        assert!(standing.replace(&one.id).await.is_err(), "it was read just now");
        assert_eq!(standing.read(None).await.unwrap().id, one.id);
        tokio::time::advance(SOONEST_READ).await;
        let two = standing.replace(&one.id).await.unwrap();
        assert_eq!(two.id.expose(), "YWRhOnR3bw==");
        assert_eq!(standing.replace(&one.id).await.unwrap().id, two.id, "who comes late gets the new one");

        let fixed = Auth::Fixed {
            endpoint: BaseUrl::parse("http://127.0.0.1:1").unwrap(),
            token: Source::File(path.clone()),
        };
        fs::write(&path, "no token").unwrap();
        let standing = Standing::new(&fixed).unwrap();
        let error = standing.read(None).await.unwrap_err();
        assert!(error.to_string().contains("the configured token can't be sent"), "{error}");
        fs::write(&path, "one\n").unwrap();
        tokio::time::advance(SOONEST_READ).await;
        let one = standing.read(None).await.unwrap();
        assert_eq!((one.id.expose(), one.catalog.is_single()), ("one", true));
        fs::write(&path, "two\n").unwrap();
        tokio::time::advance(SOONEST_READ).await;
        assert_eq!(standing.replace(&one.id).await.unwrap().id.expose(), "two");

        let given = Standing::new(&auth(Source::Given(crate::keystone::Secret::new("one")))).unwrap();
        let error = given.replace(&given.known().unwrap().id).await.unwrap_err();
        assert!(matches!(*error, AuthError::FixedToken), "{error:?}");
    }
}
