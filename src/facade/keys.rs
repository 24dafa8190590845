//! Sealing and opening tokens, and which of them were revoked.
//!
//! A token looks as Fernet's do, which clients check: base64url of 0x80, eight bytes of time, 16 bytes, a part
//! whose length is a multiple of 16, 32 bytes. What a client can't see is how the parts are used: a key for
//! this token alone is made from one of ours and 32 random bytes (the 16, and the last 16), and the part
//! between is sealed with it (AES-256-GCM, its tag before the last 16), together with all that is in the open.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;
use std::{fmt, io};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE;
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use tokio::runtime::Handle;
use tokio::sync::broadcast::error::RecvError;
use zeroize::Zeroizing;

use super::state::{self, Journal, Revocation};
use super::{Config, Session, Unusable, Vouched};
use crate::keystone::Secret;
use crate::keystone::shared::{self, LONGEST_NEWS, News};
use crate::private::{self, Key, Stamp, derive, random};
use crate::secret;

/// How each of our tokens begins, as Keystone's Fernet tokens do: 0x80 and a time before the year 4147.
pub const TOKEN_START: &[u8] = b"gAAAAA";

/// The longest token that is looked at, characters.
const LONGEST: usize = 4096;

const BLOCK: usize = 16;
/// Version, time, random bytes.
const HEAD: usize = 1 + 8 + 16;
/// The tag and more random bytes.
const TAIL: usize = 16 + 16;

/// Tokens that are remembered as revoked. Where there are more, all that were issued until then are revoked:
/// their clients log in again.
pub(super) const MAX_REVOKED: usize = 100_000;

/// How often the files of revocations and of keys are looked at.
const LOOK: Duration = Duration::from_secs(1);

/// The longest life of a token, seconds: `facade.token_life` has it as its limit.
pub const LONGEST_LIFE: i64 = 30 * 24 * 3600;

// What was revoked is told for as long as it may matter.
const _: () = assert!(LONGEST_LIFE <= LONGEST_NEWS);

/// The keys that seal tokens, and the tokens that were revoked. All workers share one; a reload keeps it.
pub struct Keys {
    /// The first seals, all open. Never empty.
    keys: Mutex<Arc<[Key]>>,
    revoked: Mutex<Revoked>,
    /// Grows whenever a token that was good may not be any more.
    changes: AtomicU64,
    state: Option<State>,
    /// Where other machines' keyways hear what was revoked.
    store: Mutex<Weak<shared::Store>>,
    named: Option<Named>,
}

/// A file of keys that somebody else writes, and what it was when it was read.
struct Named {
    file: PathBuf,
    seen: Mutex<Option<Stamp>>,
    /// It was of no use, which was told.
    failing: AtomicBool,
}

/// Where keys and revocations are kept.
struct State {
    directory: PathBuf,
    journal: Arc<Mutex<Journal>>,
    /// The keys are those of a file. Else there is none yet: nothing is written before there is a token that
    /// could outlive the process.
    kept: AtomicBool,
}

/// What was revoked.
#[derive(Debug)]
struct Revoked {
    /// Tokens and when they end, UNIX seconds.
    tokens: HashMap<[u8; 16], i64>,
    /// All that were issued until then, UNIX seconds.
    until: i64,
}

impl Keys {
    /// Reads the keys of a configuration, or makes one. Where it can't be kept, which is told in the log, it
    /// ends with the process.
    pub fn load(config: &Config) -> Self {
        if let Some(file) = &config.keys {
            let named = Named { file: file.clone(), seen: Mutex::default(), failing: AtomicBool::default() };
            let new = Self { named: Some(named), ..Self::default() };
            new.look_at_keys();
            return if let Some(directory) = &config.state { new.with_state(directory, true) } else { new };
        }
        let Some(directory) = &config.state else { return Self::default() };
        let keys = match state::read_keys(directory) {
            Ok(None) => private::may_write(directory).map(|()| None),
            read => read,
        };
        let keys = match keys {
            Ok(keys) => keys,
            Err(error) => {
                cannot_keep(&error);
                return Self::default();
            }
        };
        let kept = keys.is_some();
        keys.map_or_else(Self::default, Self::with).with_state(directory, kept)
    }

    fn with_state(mut self, directory: &Path, kept: bool) -> Self {
        let mut journal = Journal::of(directory);
        let cleaned = journal.clean(now(), now() - LONGEST_LIFE);
        let (directory, kept) = (directory.to_owned(), AtomicBool::new(kept));
        self.state =
            Some(State { directory: directory.clone(), journal: Arc::new(Mutex::new(journal)), kept });
        if let Err(error) = cleaned.and_then(|()| self.look()) {
            tracing::warn!(%error, "{} can't be used: revoked tokens may be good again", directory.display());
        }
        self
    }

    /// The same after the configuration was read again: other keys may be in their file, or another directory
    /// in the configuration. What was revoked stays so, and with another directory the tokens that there are
    /// stay good.
    #[must_use]
    pub fn reload(self: &Arc<Self>, config: &Config) -> Arc<Self> {
        let (directory, file) = (self.state.as_ref().map(|state| &state.directory), self.named.as_ref());
        let same =
            (directory, file.map(|named| &named.file)) == (config.state.as_ref(), config.keys.as_ref());
        if let (true, Some(named)) = (same, file) {
            *lock(&named.seen) = None;
            named.failing.store(false, Ordering::Relaxed);
            self.look_at_keys();
            return Arc::clone(self);
        }
        if let (true, Some(state)) = (same, &self.state) {
            match state::read_keys(&state.directory) {
                Ok(Some(keys)) => {
                    *lock(&self.keys) = keys.into();
                    state.kept.store(true, Ordering::Relaxed);
                }
                // Whoever removes the file wants the tokens to end.
                Ok(None) if state.kept.swap(false, Ordering::Relaxed) => {
                    *lock(&self.keys) = [Zeroizing::new(random())].into();
                }
                Ok(None) => {}
                Err(error) => tracing::warn!("{}: tokens are sealed as before", secret::causes(&error)),
            }
            self.changed();
            return Arc::clone(self);
        }
        if same {
            return Arc::clone(self);
        }
        let new = Self::load(config);
        new.adopt(new.keys().to_vec(), &self.keys());
        let old = self.revoked();
        new.remember(old.tokens.iter().map(|(id, end)| Revocation::Token(*id, *end)));
        new.remember([Revocation::Until(old.until)]);
        drop(old);
        Arc::new(new)
    }

    /// Looks from time to time what others revoked, and for other keys in a file of theirs; ends with the last of the
    /// others that hold these keys.
    pub fn watch(self: &Arc<Self>) -> impl Future<Output = ()> + Send + use<> {
        let keys = Arc::downgrade(self);
        async move {
            let mut failed = false;
            loop {
                tokio::time::sleep(LOOK).await;
                let is_kept = |keys: &Arc<Self>| keys.state.is_some() || keys.named.is_some();
                let Some(keys) = keys.upgrade().filter(is_kept) else { return };
                let look = move || {
                    keys.look_at_keys();
                    keys.look()
                };
                let Ok(looked) = tokio::task::spawn_blocking(look).await else { return };
                if let (Err(error), false) = (&looked, failed) {
                    tracing::warn!(%error, "the file of revoked tokens can't be read: what others revoke stays good");
                }
                failed = looked.is_err();
            }
        }
    }

    /// From now on what is revoked is told by this store too, and what others revoke is heard from it.
    pub fn share(self: &Arc<Self>, store: Option<&Arc<shared::Store>>, runtime: &Handle) {
        *lock(&self.store) = store.map(Arc::downgrade).unwrap_or_default();
        let Some(mut news) = store.map(|store| store.news()) else { return };
        let keys = Arc::downgrade(self);
        runtime.spawn(async move {
            loop {
                let news = match news.recv().await {
                    Ok(news) => news,
                    Err(RecvError::Lagged(missed)) => {
                        tracing::warn!(missed, "too much was revoked at once: some of it stays good here");
                        continue;
                    }
                    Err(RecvError::Closed) => return,
                };
                let revoked = |news: &News| match *news {
                    News::Revoked(id, end) => Some(Revocation::Token(id, end)),
                    News::RevokedUntil(at) => Some(Revocation::Until(at)),
                    News::Refused(_) => None,
                };
                let revoked: Vec<_> = news.iter().filter_map(revoked).collect();
                let Some(keys) = keys.upgrade() else { return };
                if !revoked.is_empty() {
                    keys.remember(revoked);
                }
            }
        });
    }

    /// Seals with the first of these keys; the `old` ones still open.
    fn adopt(&self, mut keys: Vec<Key>, old: &[Key]) {
        let more: Vec<_> = old.iter().filter(|key| !keys.contains(key)).cloned().collect();
        keys.extend(more);
        keys.truncate(private::MAX_KEYS);
        *lock(&self.keys) = keys.into();
    }

    /// Writes the key down before it seals the first token.
    #[cold]
    fn keep(&self, state: &State) {
        match state::write_key(&state.directory, &self.keys()[0]) {
            Ok(keys) => self.adopt(keys, &self.keys()),
            Err(error) => cannot_keep(&error),
        }
        state.kept.store(true, Ordering::Relaxed);
    }

    fn with(keys: Vec<Key>) -> Self {
        Self {
            keys: Mutex::new(keys.into()),
            revoked: Mutex::new(Revoked { tokens: HashMap::new(), until: i64::MIN }),
            changes: AtomicU64::new(0),
            state: None,
            named: None,
            store: Mutex::default(),
        }
    }

    /// The token of a session: `gAAAAA`, and about 200 characters more.
    pub fn seal(&self, session: &Session) -> String {
        if let Some(state) = self.state.as_ref().filter(|state| !state.kept.load(Ordering::Relaxed)) {
            self.keep(state);
        }
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
        if !token.starts_with(TOKEN_START) {
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

    /// Whether a token was sealed by us, good or not.
    pub fn is_own(&self, token: &[u8]) -> bool {
        token.starts_with(TOKEN_START) && self.unseal(token).is_some()
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

    /// Makes a token worthless before its time. At once in this process; when this returns, also for every
    /// later one with the same directory.
    pub async fn revoke(&self, session: &Session) {
        let news = self.remember([Revocation::Token(session.id, session.expires_at)]);
        let store = lock(&self.store).upgrade();
        if let Some(store) = store {
            for news in &news {
                store
                    .tell(match *news {
                        Revocation::Token(id, end) => News::Revoked(id, end),
                        Revocation::Until(at) => News::RevokedUntil(at),
                    })
                    .await;
            }
        }
        let Some(state) = &self.state else { return };
        let journal = Arc::clone(&state.journal);
        let write = move || {
            let (now, mut journal) = (now(), lock(&journal));
            news.into_iter().try_for_each(|news| journal.add(news, now, now - LONGEST_LIFE))
        };
        if let Ok(Err(error)) = tokio::task::spawn_blocking(write).await {
            tracing::warn!(%error, "a revoked token can't be written down: it is good again after a restart");
        }
    }

    /// Reads the keys of a file that somebody else writes, if it is another one than it was. Those that are not in it
    /// any more open nothing. One that can't be read changes nothing: it is told once.
    fn look_at_keys(&self) {
        let Some(Named { file, seen, failing }) = &self.named else { return };
        let stamp = private::stamp(file);
        if lock(seen).replace(stamp) == Some(stamp) {
            return;
        }
        match state::read_file(file) {
            Ok(keys) => {
                failing.store(false, Ordering::Relaxed);
                *lock(&self.keys) = keys.into();
                self.changed();
            }
            Err(error) => {
                // It is read again the next time: what was wrong may not have been the file (too many open ones).
                *lock(seen) = None;
                if !failing.swap(true, Ordering::Relaxed) {
                    let error = secret::causes(&error);
                    tracing::error!(
                        error,
                        "tokens are sealed as before: the file of facade.keys is of no use"
                    );
                }
            }
        }
    }

    /// Reads what was added to the file of revocations, and keys that another keyway wrote down first.
    fn look(&self) -> io::Result<()> {
        let Some(state) = &self.state else { return Ok(()) };
        if !state.kept.load(Ordering::Relaxed)
            && let Ok(Some(keys)) = state::read_keys(&state.directory)
        {
            self.adopt(keys, &self.keys());
            state.kept.store(true, Ordering::Relaxed);
        }
        let news = lock(&state.journal).news()?;
        if !news.is_empty() {
            self.remember(news);
        }
        Ok(())
    }

    /// Remembers what was revoked, within bounds: what others have to know of it.
    fn remember(&self, news: impl IntoIterator<Item = Revocation>) -> Vec<Revocation> {
        let now = now();
        let mut revoked = self.revoked();
        let mut told = Vec::new();
        for revocation in news {
            told.push(revoked.add(revocation, now, MAX_REVOKED));
        }
        drop(revoked);
        self.changed();
        told
    }

    /// Grows whenever a token that was good may not be any more: what was opened before has to be opened
    /// again.
    pub fn changes(&self) -> u64 {
        self.changes.load(Ordering::Acquire)
    }

    fn changed(&self) {
        self.changes.fetch_add(1, Ordering::Release);
    }

    /// An identity that has shown this, for its sessions.
    pub fn vouch(&self, name: &str, shown: &Secret) -> Vouched {
        Vouched { name: name.to_owned(), proof: proof(&self.keys()[0], name, shown) }
    }

    /// Whether it was this that the identity showed then.
    pub fn still(&self, vouched: &Vouched, shown: &Secret) -> bool {
        self.keys().iter().any(|key| proof(key, &vouched.name, shown) == vouched.proof)
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
        session.issued_at <= self.until || self.tokens.contains_key(&session.id)
    }

    /// Adds one, or what stands for it where there would be more than `most`.
    fn add(&mut self, revocation: Revocation, now: i64, most: usize) -> Revocation {
        if self.tokens.len() >= most {
            self.tokens.retain(|_, end| *end > now);
        }
        match revocation {
            Revocation::Token(..) if self.tokens.len() >= most => {
                tracing::warn!(
                    "more than {most} tokens were revoked: all until now are, and clients log in again"
                );
                self.tokens.clear();
                self.until = now;
                Revocation::Until(now)
            }
            Revocation::Token(id, end) => {
                if end > now {
                    self.tokens.insert(id, end);
                }
                revocation
            }
            Revocation::Until(at) => {
                self.until = self.until.max(at);
                revocation
            }
        }
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

#[cold]
fn cannot_keep(error: &private::Error) {
    let why = secret::causes(error);
    tracing::warn!(
        "{why}: tokens of keyway's own end with this process; set facade.state to a directory that it may write to"
    );
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

/// An identity's name and what it showed, as a token of it has them.
fn proof(key: &Key, name: &str, shown: &Secret) -> [u8; 16] {
    let tag = derive(key, &[b"keyway login", name.as_bytes(), shown.expose().as_bytes()]);
    tag.as_ref()[..16].try_into().expect("16 of 32 bytes")
}

/// A new session's id.
pub fn random_id() -> [u8; 16] {
    random()
}

/// UNIX seconds.
fn now() -> i64 {
    jiff::Timestamp::now().as_second()
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
            issued_at: now(),
            expires_at: now() + 3600,
        }
    }

    fn config(state: &std::path::Path) -> Config {
        Config { state: Some(state.to_owned()), ..Config::default() }
    }

    #[test]
    fn a_token_looks_as_fernets_do() {
        let keys = Keys::default();
        let session = session();
        let token = keys.seal(&session);
        assert!(token.starts_with("gAAAAA") && (180..=300).contains(&token.len()), "{}", token.len());
        let raw = URL_SAFE.decode(&token).unwrap();
        assert_eq!((raw[0], (raw.len() - 57) % 16), (0x80, 0));
        assert_eq!(raw[1..9], session.issued_at.to_be_bytes());
        assert!(!raw.windows(3).any(|window| window == b"lab"));
        assert_ne!(keys.seal(&session), token);
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

    // Promise 84.
    #[tokio::test]
    async fn keys_and_revocations_outlive_the_process_and_are_shared() {
        let home = tempfile::tempdir().unwrap();
        let (first, second) = (Keys::load(&config(home.path())), Keys::load(&config(home.path())));
        let (kept, revoked) = (session(), session());
        assert!(!home.path().join("keys").exists(), "there is no token yet");
        // Vouched for by the key that there is before the one of the file.
        let vouched = second.vouch("ada", &Secret::new("hunter2"));
        let [good, bad] = [&kept, &revoked].map(|session| first.seal(session).into_bytes());
        second.look().unwrap();
        assert!(second.still(&vouched, &Secret::new("hunter2")));
        assert_eq!(second.keys()[0], first.keys()[0]);
        assert_eq!(second.open(&good, now()).unwrap(), kept);
        assert_eq!(second.open(&bad, now()).unwrap(), revoked);
        let before = second.changes();
        first.revoke(&revoked).await;
        second.look().unwrap();
        assert_ne!(second.changes(), before);
        for keys in [first, second, Keys::load(&config(home.path()))] {
            assert_eq!(keys.open(&good, now()).unwrap(), kept);
            assert_eq!(keys.open(&bad, now()), Err(Unusable::Revoked));
        }
    }

    #[tokio::test]
    async fn a_reload_reads_new_keys_and_forgets_no_revocation() {
        let home = tempfile::tempdir().unwrap();
        let (one, other) = (home.path().join("one"), home.path().join("other"));
        let keys = Arc::new(Keys::load(&config(&one)));
        let (kept, revoked) = (session(), session());
        let [good, bad] = [&kept, &revoked].map(|session| keys.seal(session).into_bytes());
        keys.revoke(&revoked).await;
        // A new key before the old one.
        let file = one.join("keys");
        let text = std::fs::read_to_string(&file).unwrap();
        std::fs::write(
            &file,
            format!("{}\n{text}", base64::engine::general_purpose::STANDARD.encode([1; 32])),
        )
        .unwrap();
        assert!(Arc::ptr_eq(&keys, &keys.reload(&config(&one))));
        assert_eq!((keys.keys().len(), &keys.keys()[0][..]), (2, &[1; 32][..]));
        assert_eq!(keys.open(&good, now()).unwrap(), kept);
        assert_eq!(keys.open(&bad, now()), Err(Unusable::Revoked));
        // Another directory.
        let keys = keys.reload(&config(&other));
        assert_eq!(keys.open(&good, now()).unwrap(), kept);
        assert_eq!(keys.open(&bad, now()), Err(Unusable::Revoked));
        let sealed = keys.seal(&kept).into_bytes();
        assert_eq!(Keys::load(&config(&other)).open(&sealed, now()).unwrap(), kept);
        // Whoever removes the file wants tokens to end.
        std::fs::remove_file(other.join("keys")).unwrap();
        let keys = keys.reload(&config(&other));
        assert_eq!(keys.open(&good, now()), Err(Unusable::Foreign));
    }

    fn write(path: &std::path::Path, keys: &[u8]) {
        let encode = |key: &u8| base64::engine::general_purpose::STANDARD.encode([*key; 32]) + "\n";
        let text: String = keys.iter().map(encode).collect();
        private::replace(path, text.as_bytes()).unwrap();
    }

    // Promise 84.
    #[tokio::test]
    async fn a_named_file_of_keys_is_shared_followed_and_never_written() {
        let home = tempfile::tempdir().unwrap();
        let file = home.path().join("secret");
        write(&file, &[1]);
        let named = |state: &str| Config { keys: Some(file.clone()), ..config(&home.path().join(state)) };
        let (one, other) = (Keys::load(&named("one")), Keys::load(&named("other")));
        let (kept, revoked) = (session(), session());
        let [good, bad] = [&kept, &revoked].map(|session| one.seal(session).into_bytes());
        assert_eq!(other.open(&good, now()).unwrap(), kept);
        // What was revoked lies where each keeps its own.
        one.revoke(&revoked).await;
        assert_eq!(one.open(&bad, now()), Err(Unusable::Revoked));
        assert!(home.path().join("one/revoked").exists() && !home.path().join("one/keys").exists());
        assert_eq!(Keys::load(&named("one")).open(&bad, now()), Err(Unusable::Revoked));
        // A new key opens before it seals, so that no replica meets a token that it does not know.
        for (keys, seals) in [(&[1, 2][..], 1), (&[2, 1], 2), (&[2], 2)] {
            write(&file, keys);
            one.look_at_keys();
            assert_eq!((one.keys().len(), one.keys()[0][0]), (keys.len(), seals));
        }
        assert_eq!(one.open(&good, now()), Err(Unusable::Foreign), "its key is gone");
        let (sealed, before) = (one.seal(&kept).into_bytes(), one.changes());
        one.look_at_keys();
        assert_eq!(one.changes(), before, "it is the same file");
        assert_eq!(other.open(&sealed, now()), Err(Unusable::Foreign));
        let other = Arc::new(other).reload(&named("other"));
        assert_eq!(other.open(&sealed, now()).unwrap(), kept);
        // One that is of no use, or gone, changes nothing.
        std::fs::write(&file, "REPLACE-ME\n").unwrap();
        one.look_at_keys();
        std::fs::remove_file(&file).unwrap();
        one.look_at_keys();
        assert_eq!(one.open(&sealed, now()).unwrap(), kept);
        assert!(!file.exists());
        // Without the name, the keys that there are still open.
        let other = other.reload(&config(&home.path().join("other")));
        assert_eq!(other.open(&sealed, now()).unwrap(), kept);
    }

    #[test]
    fn where_nothing_can_be_kept_tokens_end_with_the_process() {
        let home = tempfile::tempdir().unwrap();
        let file = home.path().join("file");
        std::fs::write(&file, "").unwrap();
        let keys = Keys::load(&config(&file.join("keyway")));
        assert!(keys.state.is_none());
        let session = session();
        assert_eq!(keys.open(keys.seal(&session).as_bytes(), now()).unwrap(), session);
    }

    #[test]
    fn of_too_many_revoked_tokens_all_that_were_issued_are_revoked() {
        let mut revoked = Revoked { tokens: HashMap::new(), until: i64::MIN };
        let add =
            |revoked: &mut Revoked, number, end| revoked.add(Revocation::Token([number; 16], end), 100, 3);
        add(&mut revoked, 1, 101);
        add(&mut revoked, 2, 100);
        add(&mut revoked, 3, 200);
        add(&mut revoked, 4, 200);
        assert_eq!((revoked.tokens.len(), revoked.until), (3, i64::MIN));
        assert_eq!(add(&mut revoked, 5, 200), Revocation::Until(100));
        assert_eq!((revoked.tokens.len(), revoked.until), (0, 100));
        let token = |id, issued_at| Session { id: [id; 16], issued_at, ..session() };
        assert!(revoked.covers(&token(1, 99)) && revoked.covers(&token(6, 100)));
        assert!(!revoked.covers(&token(6, 101)));
        add(&mut revoked, 6, 200);
        assert!(revoked.covers(&token(6, 101)));
    }

    #[test]
    fn every_changed_bit_makes_a_token_worthless() {
        let (keys, session) = (Keys::default(), session());
        let token = keys.seal(&session).into_bytes();
        for index in 0..token.len() {
            for bit in 0..8 {
                let mut changed = token.clone();
                changed[index] ^= 1 << bit;
                let why = if index < TOKEN_START.len() { Unusable::NoToken } else { Unusable::Foreign };
                assert_eq!(keys.open(&changed, session.issued_at), Err(why), "bit {bit} of {index}");
            }
        }
    }

    #[test]
    fn a_login_is_vouched_for_until_its_password_changes() {
        let keys = Keys::default();
        let vouched = keys.vouch("ada", &Secret::new("hunter2"));
        assert!(keys.still(&vouched, &Secret::new("hunter2")));
        assert!(!keys.still(&vouched, &Secret::new("hunter3")));
        let other = Vouched { name: "bob".to_owned(), ..vouched.clone() };
        assert!(!keys.still(&other, &Secret::new("hunter2")));
        assert!(!Keys::default().still(&vouched, &Secret::new("hunter2")));
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
            text().prop_map(Scope::Trust),
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
            let login = name.map(|name| keys.vouch(&name, &Secret::new("hunter2")));
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
            let mut token = TOKEN_START.to_vec();
            token.append(&mut bytes);
            prop_assert_eq!(keys.open(&token, 0), Err(Unusable::Foreign));
            let mut raw = vec![0x80, 0, 0, 0, 0];
            raw.extend_from_slice(&token);
            let token = URL_SAFE.encode(&raw);
            prop_assert_eq!(keys.open(token.as_bytes(), 0), Err(Unusable::Foreign));
        }
    }
}
