//! Who does a request come from?

use std::collections::HashMap;
use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::request::Parts;
use memchr::memmem;
use percent_encoding::percent_decode;

use super::{Address, Door, Gateway};
use crate::error::ProxyError;
use crate::facade::{Logins, Session, TOKEN_START, Unusable, Vouched};
use crate::proxy::headers::{X_AUTH_TOKEN, X_STORAGE_TOKEN, X_SUBJECT_TOKEN};
use crate::route::Route;
use crate::secret;

/// Tokens that one worker keeps open; clients decide how many there are.
const MAX_OPENED: usize = 1024;

/// Who a request comes from.
///
/// [`Gateway::facade`] is asked before `refused` is looked at: what logs in (version documents, token requests,
/// Swift's v1 auth) it answers to anybody. Whatever else it answers needs `refused` to be `None`, and so does all
/// that it leaves to a service, which is checked after it.
#[derive(Clone, Debug, Default)]
pub(super) struct Caller {
    /// The session of the token that the request brings, if it is one of ours and good.
    pub(super) session: Option<Arc<Session>>,
    /// Why the request may do nothing but log in; see [`Gateway::unauthorized`].
    pub(super) refused: Option<Unusable>,
}

/// Tokens of requests that were seen before.
#[derive(Debug, Default)]
pub(super) struct Opened {
    /// What [`crate::facade::Keys::changes`] was then.
    changes: u64,
    tokens: HashMap<Bytes, Known>,
}

#[derive(Debug)]
struct Known {
    /// None: the token is a login's password.
    session: Option<Arc<Session>>,
    ends: Option<Instant>,
}

impl Gateway {
    /// Who a request comes from that brings a token, or came in where one is wanted.
    ///
    /// # Errors
    /// Too many wrong passwords came in by this listener.
    pub(super) fn caller(&self, door: &Door, parts: &Parts, now: Instant) -> Result<Caller, ProxyError> {
        let token = parts.headers.get(&X_AUTH_TOKEN).or_else(|| parts.headers.get(&X_STORAGE_TOKEN));
        let Some(token) = token.map(http::HeaderValue::as_bytes) else {
            return Ok(Caller::refused(Unusable::NoToken));
        };
        if door.logins == Logins::Any && !token.starts_with(TOKEN_START) {
            return Ok(Caller::default());
        }
        if let Some(known) = self.opened().known(token, self.shared.keys.changes(), now)
            && known.serves(door.logins)
        {
            return Ok(Caller { session: known.session.clone(), refused: None });
        }
        self.open(door, token, now)
    }

    /// The same for a token that this worker does not know.
    #[cold]
    fn open(&self, door: &Door, token: &[u8], now: Instant) -> Result<Caller, ProxyError> {
        let changes = self.shared.keys.changes();
        let wall = jiff::Timestamp::now().as_second();
        let session = match self.session(door, token, wall) {
            Ok(session) => session,
            // It may be a password.
            Err(Unusable::NoToken) => {
                return match self.password(door, None, token, now)? {
                    Some(_) => {
                        self.opened().insert(token, changes, now, Known { session: None, ends: None });
                        Ok(Caller::default())
                    }
                    None => Ok(Caller::refused(Unusable::Foreign)),
                };
            }
            Err(why) => return Ok(Caller::refused(why)),
        };
        let life = u64::try_from(session.expires_at.saturating_sub(wall)).unwrap_or(0);
        let session = Arc::new(session);
        if let Some(ends) = now.checked_add(Duration::from_secs(life)) {
            let known = Known { session: Some(Arc::clone(&session)), ends: Some(ends) };
            self.opened().insert(token, changes, now, known);
        }
        Ok(Caller { session: Some(session), refused: None })
    }

    /// The session that a token means at this listener, whoever brings it; `now` is UNIX seconds. For the token of a request, see
    /// [`Gateway::caller`]; this is for tokens that a request asks about (`X-Subject-Token`, the method `token`).
    ///
    /// # Errors
    /// Why it is none.
    pub(super) fn session(&self, door: &Door, token: &[u8], now: i64) -> Result<Session, Unusable> {
        let session = self.shared.keys.open(token, now)?;
        match &session.login {
            // From a listener where anybody may log in: it says nothing where not everybody may.
            None if door.logins == Logins::Configured => return Err(Unusable::Foreign),
            None => {}
            Some(vouched) => {
                let login = self.shared.passwords.named(&vouched.name).ok_or(Unusable::LoginChanged)?;
                if !self.shared.keys.still(vouched, login) {
                    return Err(Unusable::LoginChanged);
                }
            }
        }
        Ok(session)
    }

    /// Checks that nothing about a token of keyway's own goes to a service: neither as the token that the request is
    /// about nor in its target, as Identity v2.0 has it.
    pub(super) fn keep_own_tokens(&self, parts: &Parts) -> Result<(), ProxyError> {
        let subjects = parts.headers.get_all(&X_SUBJECT_TOKEN).iter().map(http::HeaderValue::as_bytes);
        let target = parts.uri.path_and_query().map_or("", |target| target.as_str());
        let in_target = if memmem::find(target.as_bytes(), TOKEN_START).is_some() { target } else { "" };
        let pieces = in_target.split(['/', '?', '&', '=', ';']).map(str::as_bytes);
        for text in subjects.chain(pieces) {
            let mut token: Vec<u8> = percent_decode(text).collect();
            // What a query or an encoder took off.
            token.resize(token.len().next_multiple_of(4), b'=');
            if self.shared.keys.is_own(text) || self.shared.keys.is_own(&token) {
                return Err(ProxyError::OwnToken);
            }
        }
        Ok(())
    }

    /// Lets go of sessions that have ended; called on the worker's tick.
    pub(super) fn forget_ended(&self) {
        self.opened().forget_ended(Instant::now());
    }

    /// Lets a client log in with a name and a password (for an application credential, its id or name and its
    /// secret): the login to put into its [`Session`]. Where anybody may log in, all are right and there is none.
    /// A client that shows a token instead goes on with that session's login; see [`Gateway::session`].
    ///
    /// # Errors
    /// Name or password is wrong, or too many were.
    pub(super) fn log_in(
        &self,
        door: &Door,
        route: &Route<'_>,
        parts: &Parts,
        name: &str,
        password: &str,
    ) -> Result<Option<Vouched>, ProxyError> {
        if door.logins == Logins::Any {
            return Ok(None);
        }
        match self.password(door, Some(name), password.as_bytes(), Instant::now())? {
            Some(vouched) => Ok(Some(vouched)),
            None => Err(ProxyError::WrongPassword { keystone: self.keystone(door, Some(route), parts) }),
        }
    }

    /// The token of a new session. Every login ends here, so here it is counted.
    pub(super) fn issue(&self, session: &Session) -> String {
        self.shared.metrics.logins.with_label_values(&["ok"]).inc();
        self.shared.keys.seal(session)
    }

    #[cold]
    fn password(
        &self,
        door: &Door,
        name: Option<&str>,
        password: &[u8],
        now: Instant,
    ) -> Result<Option<Vouched>, ProxyError> {
        let logins = &self.shared.metrics.logins;
        if let Err(wait) = door.attempts.check(now) {
            logins.with_label_values(&["limited"]).inc();
            return Err(ProxyError::TooManyLogins { wait });
        }
        if let Some(login) = self.shared.passwords.login(name, password) {
            return Ok(Some(self.shared.keys.vouch(login)));
        }
        door.attempts.wrong(now);
        logins.with_label_values(&["refused"]).inc();
        Ok(None)
    }

    /// The answer to a request whose token is not good, or that brings none where one is wanted.
    #[cold]
    pub(super) fn unauthorized(
        &self,
        door: &Door,
        route: Option<&Route<'_>>,
        parts: &Parts,
        why: Unusable,
    ) -> ProxyError {
        self.shared.metrics.sessions_refused.with_label_values(&[why.as_str()]).inc();
        ProxyError::Unauthorized { why, keystone: self.keystone(door, route, parts) }
    }

    /// Where this client logs in, as it sees it: `http://localhost:8180/identity`.
    fn keystone(&self, door: &Door, route: Option<&Route<'_>>, parts: &Parts) -> String {
        let cloud = route.and_then(|route| {
            let (start, rest) = route.prefix.split_once("/cloud/")?;
            start.is_empty().then(|| rest.split('/').next().unwrap_or(rest))
        });
        let cloud = cloud.map_or_else(String::new, |cloud| format!("/cloud/{cloud}"));
        let top = Route::at_root("/identity", "/").expect("it names a service");
        let address = Address::new(&self.shared.doors[0], door, route.unwrap_or(&top), parts);
        let root = address.ordinary().unwrap_or_else(|| door.url.clone());
        format!("{root}{cloud}/identity")
    }

    fn opened(&self) -> MutexGuard<'_, Opened> {
        self.opened.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Caller {
    fn refused(why: Unusable) -> Self {
        Self { session: None, refused: Some(why) }
    }
}

impl Known {
    /// Whether it is good at a listener with these logins, too.
    fn serves(&self, logins: Logins) -> bool {
        match &self.session {
            Some(session) => logins == Logins::Any || session.login.is_some(),
            None => logins == Logins::Configured,
        }
    }
}

impl Opened {
    fn known(&self, token: &[u8], changes: u64, now: Instant) -> Option<&Known> {
        let known = self.tokens.get(token).filter(|_| self.changes == changes)?;
        known.ends.is_none_or(|ends| now < ends).then_some(known)
    }

    /// `changes` were counted before the token was opened, so that what changed meanwhile is noticed.
    fn insert(&mut self, token: &[u8], changes: u64, now: Instant, known: Known) {
        if self.changes != changes {
            *self = Self { changes, tokens: HashMap::new() };
        }
        if self.tokens.len() >= MAX_OPENED {
            self.forget_ended(now);
        }
        if self.tokens.len() >= MAX_OPENED {
            self.tokens.clear();
        }
        self.tokens.insert(secret::hold(token.to_vec()), known);
    }

    fn forget_ended(&mut self, now: Instant) {
        self.tokens.retain(|_, known| known.ends.is_none_or(|ends| now < ends));
    }
}
