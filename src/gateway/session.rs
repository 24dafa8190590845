//! Who does a request come from?

use std::collections::HashMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::HeaderValue;
use http::header::AUTHORIZATION;
use http::request::Parts;
use jiff::Timestamp;
use memchr::memmem;
use percent_encoding::percent_decode;
use zeroize::Zeroizing;

use super::{Address, Door, Gateway};
use crate::error::ProxyError;
use crate::facade::{Logins, Session, TOKEN_START, Unusable, Vouched};
use crate::identity::{Exceeded, Guesser, KEY_START, Proof, Proved, UnderWay, key};
use crate::proxy::headers::{Fields, X_AUTH_TOKEN, X_STORAGE_TOKEN, X_SUBJECT_TOKEN};
use crate::route::Route;
use crate::secret;
use crate::server::Client;

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
    /// Whose request it is. None where anybody may come in.
    pub(super) proved: Option<Proved>,
    /// Why the request may do nothing but log in; see [`Gateway::unauthorized`].
    pub(super) refused: Option<Unusable>,
}

/// Tokens, keys and passwords of requests that were seen before.
#[derive(Debug, Default)]
pub(super) struct Opened {
    /// What [`Gateway::changes`] was then.
    changes: u64,
    tokens: HashMap<Bytes, Known>,
}

#[derive(Debug)]
struct Known {
    session: Option<Arc<Session>>,
    proved: Option<Proved>,
    ends: Option<Instant>,
    /// When it was last used, if that was not noted yet.
    used: Option<Instant>,
    /// What a connection must prove for it to be good there.
    own: Option<Proof>,
}

/// Where a request has what it shows.
enum Shown<'a> {
    /// In a field for tokens.
    Token(&'a [u8]),
    /// `Authorization`.
    Authorization(&'a [u8]),
}

impl<'a> Shown<'a> {
    /// Only what is there is looked for.
    fn of(parts: &'a Parts, fields: &Fields) -> Option<Self> {
        let field = |name| parts.headers.get(name).map(HeaderValue::as_bytes);
        if fields.token {
            return field(&X_AUTH_TOKEN).or_else(|| field(&X_STORAGE_TOKEN)).map(Self::Token);
        }
        if fields.authorization { field(&AUTHORIZATION).map(Self::Authorization) } else { None }
    }

    fn bytes(&self) -> &'a [u8] {
        match self {
            Self::Token(bytes) | Self::Authorization(bytes) => bytes,
        }
    }
}

impl Gateway {
    /// Who a request comes from.
    ///
    /// # Errors
    /// Too many wrong passwords came from this client.
    pub(super) fn caller(
        &self,
        door: &Door,
        client: &Client,
        parts: &Parts,
        fields: &Fields,
        now: Instant,
    ) -> Result<Caller, ProxyError> {
        if let Some(shown) = Shown::of(parts, fields) {
            let at_any = door.logins == Logins::Any;
            let is_plain = matches!(shown, Shown::Token(token) if !token.starts_with(TOKEN_START) && !token.starts_with(KEY_START));
            // Where anybody may come in, what else a client shows is not for keyway.
            if !(at_any && is_plain) {
                if let Some(known) = self.opened().known(shown.bytes(), self.changes(), now)
                    && known.serves(door.logins)
                    && (known.own.is_none() || known.own == self.by_connection(client).map(|own| own.proof))
                {
                    known.used = Some(now);
                    return Ok(Caller {
                        session: known.session.clone(),
                        proved: known.proved.clone(),
                        refused: None,
                    });
                }
                if let Some(caller) = self.open(door, client, &shown, now)? {
                    return Ok(caller);
                }
            }
        }
        Ok(match self.by_connection(client) {
            Some(proved) if proved.identity.rights.ends.is_some_and(|ends| ends <= Timestamp::now()) => {
                Caller::refused(Unusable::IdentityExpired)
            }
            None if door.logins == Logins::Configured => Caller::refused(Unusable::NoToken),
            proved => Caller { proved, ..Caller::default() },
        })
    }

    /// Whose connection this is, by its certificate or its user.
    fn by_connection(&self, client: &Client) -> Option<Proved> {
        let identities = &self.shared.identities;
        let by_certificate = || identities.by_certificate(client.names.get()?);
        let by_user = || client.user.and_then(|(user, group)| identities.by_user(user, group));
        if identities.is_empty() { None } else { by_certificate().or_else(by_user) }
    }

    /// What a connection proves, if a login was by the same.
    fn still_proved(&self, login: &Vouched, client: &Client) -> Option<Proof> {
        let own = self.by_connection(client).filter(|own| own.identity.name == login.name)?;
        self.shared.keys.still(login, &self.shared.identities.shown(&own)).then_some(own.proof)
    }

    /// The same by something that this worker has not seen. `None` if it is not for keyway.
    #[cold]
    fn open(
        &self,
        door: &Door,
        client: &Client,
        shown: &Shown<'_>,
        now: Instant,
    ) -> Result<Option<Caller>, ProxyError> {
        let changes = self.changes();
        let wall = Timestamp::now();
        let (name, text) = match shown {
            Shown::Token(token) => (None, Zeroizing::new(token.to_vec())),
            Shown::Authorization(value) => match credentials(value) {
                Some(shown) => shown,
                None if door.logins == Logins::Any => return Ok(None),
                None => return Ok(Some(Caller::refused(Unusable::NoToken))),
            },
        };
        let is_key = text.starts_with(KEY_START);
        if door.logins == Logins::Any && !is_key && !text.starts_with(TOKEN_START) {
            return Ok(None);
        }
        let caller = match self.session((door, client), &text, wall.as_second()) {
            Ok(session) => {
                let proved = session.login.as_ref().and_then(|vouched| {
                    let identity = Arc::clone(self.shared.identities.named(&vouched.name)?);
                    Some(Proved { identity, proof: Proof::Token, key: None })
                });
                Caller { session: Some(Arc::new(session)), proved, refused: None }
            }
            // It may be a key or a password.
            Err(Unusable::NoToken) => match self.prove((door, client), name.as_deref(), &text, now)? {
                Some(proved) => Caller { proved: Some(proved), ..Caller::default() },
                None => return Ok(Some(Caller::refused(Unusable::Foreign))),
            },
            Err(why) => return Ok(Some(Caller::refused(why))),
        };
        let rights_end = caller.proved.as_ref().and_then(|proved| proved.identity.rights.ends);
        if rights_end.is_some_and(|ends| ends <= wall) {
            return Ok(Some(Caller::refused(Unusable::IdentityExpired)));
        }
        let session_ends =
            caller.session.as_ref().and_then(|session| Timestamp::from_second(session.expires_at).ok());
        let key_ends = caller.proved.as_ref().and_then(|proved| proved.key.as_ref()?.key.ends);
        let ends = [rights_end, session_ends, key_ends].into_iter().flatten().min();
        let left = ends.map(|ends| Duration::try_from(ends.duration_since(wall)).unwrap_or_default());
        let ends = match left.map(|left| now.checked_add(left)) {
            None => None,
            Some(Some(ends)) => Some(ends),
            Some(None) => return Ok(Some(caller)),
        };
        let Caller { session, proved, .. } = caller.clone();
        let login = session.as_ref().and_then(|session| session.login.as_ref());
        let own = login.and_then(|login| self.still_proved(login, client));
        let known = Known { session, proved, ends, used: Some(now), own };
        self.opened().insert(shown.bytes(), changes, now, known);
        Ok(Some(caller))
    }

    /// Grows whenever something that was good may not be any more.
    fn changes(&self) -> u64 {
        self.shared.keys.changes() + self.shared.identities.keyring.changes()
    }

    /// Counts a request of an identity, as long as it is under way.
    ///
    /// # Errors
    /// It has too many.
    pub(super) fn enter(&self, proved: &Proved) -> Result<Option<UnderWay>, ProxyError> {
        proved.identity.limits.enter().map_err(|exceeded| {
            let what = match exceeded {
                Exceeded::Rate(_) => "rate",
                Exceeded::Requests => "requests",
            };
            self.shared.metrics.identity_limited.with_label_values(&[&proved.identity.name, what]).inc();
            ProxyError::Limited { identity: proved.identity.name.clone(), exceeded }
        })
    }

    /// The session that a token means at this listener, whoever brings it; `now` is UNIX seconds. For the token of a request, see
    /// [`Gateway::caller`]; this is for tokens that a request asks about (`X-Subject-Token`, the method `token`). One that
    /// was got by what a connection proves is good on such connections alone.
    ///
    /// # Errors
    /// Why it is none.
    pub(super) fn session(
        &self,
        (door, client): (&Door, &Client),
        token: &[u8],
        now: i64,
    ) -> Result<Session, Unusable> {
        let session = self.shared.keys.open(token, now)?;
        match &session.login {
            // From a listener where anybody may log in: it says nothing where not everybody may.
            None if door.logins == Logins::Configured => return Err(Unusable::Foreign),
            None => {}
            Some(vouched) if self.still_proved(vouched, client).is_some() => {}
            Some(vouched) => {
                let at = Timestamp::from_second(now).unwrap_or_default();
                let shown = self.shared.identities.all_shown(&vouched.name, at);
                if !shown.iter().any(|shown| self.shared.keys.still(vouched, shown)) {
                    return Err(Unusable::LoginChanged);
                }
            }
        }
        Ok(session)
    }

    /// Checks that nothing about a token or key of keyway's own goes to a service: neither as the token that the request
    /// is about nor in its target, as Identity v2.0 has it.
    pub(super) fn keep_own_tokens(&self, parts: &Parts) -> Result<(), ProxyError> {
        let subjects = parts.headers.get_all(&X_SUBJECT_TOKEN).iter().map(http::HeaderValue::as_bytes);
        let target = parts.uri.path_and_query().map_or("", |target| target.as_str());
        let has = |start: &[u8]| memmem::find(target.as_bytes(), start).is_some();
        // An encoder may have taken the `_` for something that it has to encode.
        let in_target = if has(TOKEN_START) || has(&KEY_START[..3]) { target } else { "" };
        let pieces = in_target.split(['/', '?', '&', '=', ';']).map(str::as_bytes);
        for text in subjects.chain(pieces) {
            let mut token: Vec<u8> = percent_decode(text).collect();
            if key::id_of(text).or_else(|| key::id_of(&token)).is_some() {
                return Err(ProxyError::OwnToken);
            }
            // What a query or an encoder took off.
            token.resize(token.len().next_multiple_of(4), b'=');
            if self.shared.keys.is_own(text) || self.shared.keys.is_own(&token) {
                return Err(ProxyError::OwnToken);
            }
        }
        Ok(())
    }

    /// Lets go of sessions that have ended, and notes which keys were used; called on the worker's tick.
    pub(super) fn forget_ended(&self) {
        let (now, wall) = (Instant::now(), Timestamp::now().as_second());
        let mut opened = self.opened();
        for known in opened.tokens.values_mut() {
            if let Some(used) = known.used.take()
                && let Some(key) = known.proved.as_ref().and_then(|proved| proved.key.as_ref())
            {
                let ago = i64::try_from(now.saturating_duration_since(used).as_secs()).unwrap_or(0);
                key.used.fetch_max(wall - ago, Ordering::Relaxed);
            }
        }
        opened.forget_ended(now);
    }

    /// Lets a client log in with a name and a password (for an application credential, its id or name and its
    /// secret): whose that is, which [`Gateway::vouch`] puts into its [`Session`]. Where anybody may log in, all are
    /// right and it is nobody's. On a connection that proves an identity, its name is enough: clients must send some
    /// password, and any but an API key will do.
    /// A client that shows a token instead goes on with that session's login; see [`Gateway::session`].
    ///
    /// # Errors
    /// Name or password is wrong, or too many were.
    pub(super) fn log_in(
        &self,
        (door, client): (&Door, &Client),
        route: &Route<'_>,
        parts: &Parts,
        name: &str,
        password: &str,
    ) -> Result<Option<Proved>, ProxyError> {
        if door.logins == Logins::Any {
            return Ok(None);
        }
        let own = self.by_connection(client).filter(|own| own.identity.name == name);
        if own.is_some() && !password.as_bytes().starts_with(KEY_START) {
            return Ok(own);
        }
        match self.prove((door, client), Some(name), password.as_bytes(), Instant::now())? {
            Some(proved) => Ok(Some(proved)),
            None => Err(ProxyError::WrongPassword { keystone: self.keystone(door, Some(route), parts) }),
        }
    }

    /// For the sessions of an identity.
    pub(super) fn vouch(&self, proved: &Proved) -> Vouched {
        self.shared.keys.vouch(&proved.identity.name, &self.shared.identities.shown(proved))
    }

    /// The token of a new session. Every login ends here, so here it is counted.
    pub(super) fn issue(&self, session: &Session) -> String {
        self.shared.metrics.logins.with_label_values(&["ok"]).inc();
        self.shared.keys.seal(session)
    }

    /// Whose password or key this is.
    #[cold]
    fn prove(
        &self,
        (door, client): (&Door, &Client),
        name: Option<&str>,
        secret: &[u8],
        now: Instant,
    ) -> Result<Option<Proved>, ProxyError> {
        let logins = &self.shared.metrics.logins;
        let who = Guesser::of(client.address, client.user);
        let may_look = door.attempts.check(who, now);
        // There is nothing to guess of a key, so a right one always gets in, whoever else sends wrong ones from there.
        if (may_look.is_ok() || key::id_of(secret).is_some())
            && let Some(proved) = self.shared.identities.by_secret(name, secret, Timestamp::now())
        {
            return Ok(Some(proved));
        }
        if let Err(wait) = may_look {
            logins.with_label_values(&["limited"]).inc();
            return Err(ProxyError::TooManyLogins { wait });
        }
        door.attempts.wrong(who, now);
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
        Self { refused: Some(why), ..Self::default() }
    }
}

impl Known {
    /// Whether it is good at a listener with these logins, too.
    fn serves(&self, logins: Logins) -> bool {
        logins == Logins::Any || self.proved.is_some()
    }
}

impl Opened {
    fn known(&mut self, token: &[u8], changes: u64, now: Instant) -> Option<&mut Known> {
        if self.changes != changes {
            return None;
        }
        let known = self.tokens.get_mut(token)?;
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

/// What `Authorization` has: the name and the password of `Basic`, or the token of `Bearer`. None for anything else.
fn credentials(value: &[u8]) -> Option<(Option<String>, Zeroizing<Vec<u8>>)> {
    let (scheme, rest) = value.split_at(memchr::memchr(b' ', value)?);
    let rest = rest.trim_ascii();
    if scheme.eq_ignore_ascii_case(b"bearer") {
        return Some((None, Zeroizing::new(rest.to_vec())));
    }
    if !scheme.eq_ignore_ascii_case(b"basic") {
        return None;
    }
    let pair = Zeroizing::new(STANDARD.decode(rest).ok()?);
    let (name, password) = pair.split_at(memchr::memchr(b':', &pair)?);
    let (name, password) = (std::str::from_utf8(name).ok()?, &password[1..]);
    // With a key nobody has to know whose it is: `curl -u :KEY`, and `curl -u KEY:`.
    let (name, secret) = match (name, password) {
        (key, b"") if key::id_of(key.as_bytes()).is_some() => (None, key.as_bytes()),
        ("", secret) => (None, secret),
        (name, secret) => (Some(name.to_owned()), secret),
    };
    Some((name, Zeroizing::new(secret.to_vec())))
}
