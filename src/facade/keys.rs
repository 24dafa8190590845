//! Sealing and opening tokens, and which of them were revoked.
//!
//! A token looks as Fernet's do, which clients check: base64url of 0x80, eight bytes of time, 16 bytes, a part
//! whose length is a multiple of 16, 32 bytes. What a client can't see is how the parts are used: a key for
//! this token alone is made from one of ours and 32 random bytes (the 16, and the last 16), and the part
//! between is sealed with it (AES-256-GCM, its tag before the last 16), together with all that is in the open.

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE;
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use ring::hmac;
use ring::rand::{SecureRandom as _, SystemRandom};
use zeroize::Zeroizing;

use super::{Config, Login, Session, Unusable, Vouched};

/// How each of our tokens begins, as Keystone's Fernet tokens do: 0x80 and a time before the year 4147.
const START: &[u8] = b"gAAAAA";

/// The longest token that is looked at, characters.
const LONGEST: usize = 4096;

const BLOCK: usize = 16;
/// Version, time, random bytes.
const HEAD: usize = 1 + 8 + 16;
/// The tag and more random bytes.
const TAIL: usize = 16 + 16;

/// A key that seals, 32 random bytes.
pub(super) type Key = Zeroizing<[u8; 32]>;

/// The keys that seal tokens, and the tokens that were revoked. All workers share one; a reload keeps it.
pub struct Keys {
    /// The first seals, all open. Never empty.
    keys: Mutex<Arc<[Key]>>,
    revoked: Mutex<Revoked>,
    /// Grows whenever a token that was good may not be any more.
    changes: AtomicU64,
}

/// What was revoked.
#[derive(Debug, Default)]
struct Revoked {
    /// Tokens and when they end, UNIX seconds.
    tokens: HashMap<[u8; 16], i64>,
}

impl Keys {
    /// Reads the keys of a configuration, or makes them.
    pub fn load(_config: &Config) -> Self {
        Self::default()
    }

    fn with(keys: Vec<Key>) -> Self {
        Self { keys: Mutex::new(keys.into()), revoked: Mutex::default(), changes: AtomicU64::new(0) }
    }

    /// The token of a session: `gAAAAA`, and about 200 characters more.
    pub fn seal(&self, session: &Session) -> String {
        let mut token = vec![0x80];
        let issued_at = u64::try_from(session.issued_at).unwrap_or(0);
        token.extend_from_slice(&issued_at.to_be_bytes());
        token.extend_from_slice(&random::<16>());
        let salt = random::<16>();
        let mut part = session.encode();
        let padding = BLOCK - part.len() % BLOCK;
        part.resize(part.len() + padding, u8::try_from(padding).expect("at most 16"));
        let key = Sealing::of(&self.keys()[0], &token, salt);
        let tag = key
            .key
            .seal_in_place_separate_tag(key.nonce, Aad::from(&token), &mut part)
            .expect("a part of this length can be sealed");
        token.extend_from_slice(&part);
        token.extend_from_slice(tag.as_ref());
        token.extend_from_slice(&salt);
        URL_SAFE.encode(token)
    }

    /// The session of a token that is good at `now`, UNIX seconds.
    ///
    /// # Errors
    /// Why it is not.
    pub fn open(&self, token: &[u8], now: i64) -> Result<Session, Unusable> {
        if !token.starts_with(START) {
            return Err(Unusable::NoToken);
        }
        let session = self.unseal(token).ok_or(Unusable::Foreign)?;
        if session.expires_at <= now {
            return Err(Unusable::Expired);
        }
        if self.revoked().covers(&session) {
            return Err(Unusable::Revoked);
        }
        Ok(session)
    }

    fn unseal(&self, token: &[u8]) -> Option<Session> {
        if token.len() > LONGEST {
            return None;
        }
        let token = URL_SAFE.decode(token).ok()?;
        let (head, rest) = token.split_at_checked(HEAD)?;
        let (part, tail) = rest.split_at_checked(rest.len().checked_sub(TAIL)?)?;
        if part.is_empty() || part.len() % BLOCK != 0 {
            return None;
        }
        let (tag, salt) = tail.split_at(16);
        let salt = salt.try_into().expect("16 of 32 bytes");
        self.keys().iter().find_map(|key| {
            let key = Sealing::of(key, head, salt);
            let mut sealed = [part, tag].concat();
            let opened = key.key.open_in_place(key.nonce, Aad::from(head), &mut sealed).ok()?;
            let padding = usize::from(*opened.last()?);
            let opened = opened.get(..opened.len().checked_sub(padding)?)?;
            let issued_at = u64::from_be_bytes(head[1..9].try_into().expect("8 of 25 bytes"));
            Session::decode(opened, i64::try_from(issued_at).ok()?)
        })
    }

    /// Makes a token worthless before its time.
    #[expect(clippy::unused_async, reason = "it will be written down")]
    pub async fn revoke(&self, session: &Session) {
        self.revoked().tokens.insert(session.id, session.expires_at);
        self.changed();
    }

    /// Grows whenever a token that was good may not be any more: what was opened before has to be opened
    /// again.
    pub fn changes(&self) -> u64 {
        self.changes.load(Ordering::Acquire)
    }

    fn changed(&self) {
        self.changes.fetch_add(1, Ordering::Release);
    }

    /// A login that has shown its password, for its sessions.
    pub fn vouch(&self, login: &Login) -> Vouched {
        Vouched { name: login.name.clone(), proof: proof(&self.keys()[0], login) }
    }

    /// Whether the login still has the password that it had then.
    pub fn still(&self, vouched: &Vouched, login: &Login) -> bool {
        vouched.name == login.name && self.keys().iter().any(|key| proof(key, login) == vouched.proof)
    }

    fn keys(&self) -> Arc<[Key]> {
        Arc::clone(&lock(&self.keys))
    }

    fn revoked(&self) -> MutexGuard<'_, Revoked> {
        lock(&self.revoked)
    }
}

impl Revoked {
    fn covers(&self, session: &Session) -> bool {
        self.tokens.contains_key(&session.id)
    }
}

/// A key in memory only.
impl Default for Keys {
    fn default() -> Self {
        Self::with(vec![Zeroizing::new(random())])
    }
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keys").field("changes", &self.changes()).finish_non_exhaustive()
    }
}

/// What seals one token.
struct Sealing {
    key: LessSafeKey,
    nonce: Nonce,
}

impl Sealing {
    /// A key for one token alone, so that no number of tokens wears ours out.
    fn of(key: &Key, head: &[u8], salt: [u8; 16]) -> Self {
        let mut own = Zeroizing::new([0; 32]);
        own.copy_from_slice(derive(key, &[b"keyway token", head, &salt]).as_ref());
        let own = UnboundKey::new(&AES_256_GCM, own.as_slice()).expect("32 bytes are a key");
        let nonce = head[HEAD - 12..].try_into().expect("12 of 25 bytes");
        Self { key: LessSafeKey::new(own), nonce: Nonce::assume_unique_for_key(nonce) }
    }
}

/// A login's name and password, as a token of it has them.
fn proof(key: &Key, login: &Login) -> [u8; 16] {
    let tag = derive(key, &[b"keyway login", login.name.as_bytes(), login.password.expose().as_bytes()]);
    tag.as_ref()[..16].try_into().expect("16 of 32 bytes")
}

/// Each part with its length, so that no two lists of parts are the same bytes.
fn derive(key: &Key, parts: &[&[u8]]) -> hmac::Tag {
    let mut context = hmac::Context::with_key(&hmac::Key::new(hmac::HMAC_SHA256, key.as_slice()));
    for part in parts {
        context.update(&(part.len() as u64).to_be_bytes());
        context.update(part);
    }
    context.sign()
}

/// A new session's id.
pub fn random_id() -> [u8; 16] {
    random()
}

/// # Panics
/// The system has no random numbers, without which nothing here is safe.
pub(super) fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    SystemRandom::new().fill(&mut bytes).expect("the system gives random numbers");
    bytes
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::keystone::{Domain, Project, Scope, Secret};

    fn session() -> Session {
        Session {
            id: random_id(),
            key: ("lab".into(), Scope::Project(Project::Id("0123456789abcdef0123456789abcdef".into()))),
            login: None,
            methods: vec!["password".to_owned()],
            issued_at: 1_764_000_000,
            expires_at: 1_764_043_200,
        }
    }

    fn login(name: &str, password: &str) -> Login {
        Login { name: name.to_owned(), password: Secret::new(password) }
    }

    #[test]
    fn a_token_looks_as_fernets_do() {
        let keys = Keys::default();
        let token = keys.seal(&session());
        assert!(token.starts_with("gAAAAA") && (180..=300).contains(&token.len()), "{}", token.len());
        let raw = URL_SAFE.decode(&token).unwrap();
        assert_eq!((raw[0], (raw.len() - 57) % 16), (0x80, 0));
        assert_eq!(raw[1..9], 1_764_000_000u64.to_be_bytes());
        assert!(!raw.windows(3).any(|window| window == b"lab"));
        assert_ne!(keys.seal(&session()), token);
    }

    #[test]
    fn what_was_not_sealed_by_us_or_has_ended_opens_nothing() {
        let (keys, session) = (Keys::default(), session());
        let token = keys.seal(&session);
        let open = |token: &str, now| keys.open(token.as_bytes(), now);
        assert_eq!(open(&token, session.issued_at).unwrap(), session);
        assert_eq!(open(&token, session.expires_at - 1).unwrap(), session);
        assert_eq!(open(&token, session.expires_at), Err(Unusable::Expired));
        let foreign = Keys::default().seal(&session);
        for (token, why) in [
            ("", Unusable::NoToken),
            ("secret", Unusable::NoToken),
            ("gAAAA", Unusable::NoToken),
            ("gAAAAA", Unusable::Foreign),
            ("gAAAAABk", Unusable::Foreign),
            (&token[..token.len() - 4], Unusable::Foreign),
            (token.trim_end_matches('='), Unusable::Foreign),
            (&foreign, Unusable::Foreign),
            (&format!("{token}AAAA"), Unusable::Foreign),
            (&"gAAAAA".repeat(10_000), Unusable::Foreign),
        ] {
            assert_eq!(open(token, session.issued_at), Err(why), "{token:.40}");
        }
    }

    #[tokio::test]
    async fn a_revoked_token_opens_nothing_and_its_neighbours_do() {
        let (keys, session, other) = (Keys::default(), session(), session());
        let (token, neighbour) = (keys.seal(&session), keys.seal(&other));
        let before = keys.changes();
        keys.revoke(&session).await;
        assert_ne!(keys.changes(), before);
        assert_eq!(keys.open(token.as_bytes(), session.issued_at), Err(Unusable::Revoked));
        assert_eq!(keys.open(neighbour.as_bytes(), session.issued_at).unwrap(), other);
    }

    #[test]
    fn every_changed_bit_makes_a_token_worthless() {
        let (keys, session) = (Keys::default(), session());
        let token = keys.seal(&session).into_bytes();
        for index in 0..token.len() {
            for bit in 0..8 {
                let mut changed = token.clone();
                changed[index] ^= 1 << bit;
                let why = if index < START.len() { Unusable::NoToken } else { Unusable::Foreign };
                assert_eq!(keys.open(&changed, session.issued_at), Err(why), "bit {bit} of {index}");
            }
        }
    }

    #[test]
    fn a_login_is_vouched_for_until_its_password_changes() {
        let keys = Keys::default();
        let vouched = keys.vouch(&login("ada", "hunter2"));
        assert!(keys.still(&vouched, &login("ada", "hunter2")));
        assert!(!keys.still(&vouched, &login("ada", "hunter3")));
        assert!(!keys.still(&vouched, &login("bob", "hunter2")));
        assert!(!Keys::default().still(&vouched, &login("ada", "hunter2")));
    }

    // Promise 80.
    #[test]
    fn a_key_is_never_printed() {
        let keys = Keys::with(vec![Zeroizing::new([0x41; 32])]);
        let shown = format!("{keys:?}");
        assert!(!shown.contains("65") && !shown.contains("AAA") && !shown.contains("41"), "{shown}");
    }

    fn text() -> impl Strategy<Value = String> {
        prop_oneof!["[a-z0-9]{0,40}", "\\PC{0,60}"]
    }

    fn domain() -> impl Strategy<Value = Domain> {
        prop_oneof![text().prop_map(Domain::Id), text().prop_map(Domain::Name)]
    }

    fn scope() -> impl Strategy<Value = Scope> {
        prop_oneof![
            Just(Scope::Default),
            Just(Scope::Unscoped),
            Just(Scope::System),
            domain().prop_map(Scope::Domain),
            text().prop_map(|id| Scope::Project(Project::Id(id))),
            (text(), prop::option::of(domain()))
                .prop_map(|(name, domain)| Scope::Project(Project::Name { name, domain })),
        ]
    }

    proptest! {
        #[test]
        fn what_was_sealed_opens_again(
            cloud in text(), scope in scope(), name in prop::option::of(text()),
            methods in prop::collection::vec("[a-z_]{0,32}", 0..9), issued_at in 0..1i64 << 35, life in 1..3_000_000i64,
        ) {
            let keys = Keys::default();
            let login = name.map(|name| keys.vouch(&login(&name, "hunter2")));
            let (key, expires_at) = ((cloud.into(), scope), issued_at + life);
            let session = Session { id: random_id(), key, login, methods, issued_at, expires_at };
            let token = keys.seal(&session);
            prop_assert!(token.starts_with("gAAAAA"));
            prop_assert_eq!(keys.open(token.as_bytes(), issued_at), Ok(session));
        }

        #[test]
        fn no_bytes_open_anything(mut bytes in prop::collection::vec(any::<u8>(), 0..400)) {
            let keys = Keys::default();
            prop_assert_eq!(keys.open(&bytes, 0), Err(Unusable::NoToken));
            let mut token = START.to_vec();
            token.append(&mut bytes);
            prop_assert_eq!(keys.open(&token, 0), Err(Unusable::Foreign));
            let mut raw = vec![0x80, 0, 0, 0, 0];
            raw.extend_from_slice(&token);
            let token = URL_SAFE.encode(&raw);
            prop_assert_eq!(keys.open(token.as_bytes(), 0), Err(Unusable::Foreign));
        }
    }
}
