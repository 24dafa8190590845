//! Which tokens outlive the process, and which of them are still good?
//!
//! A [`Store`] is a directory (several machines share a [server](super::shared)) with one file for each login and scope: the token, what Keystone said of it, and
//! what is left of its life, sealed with a key from a file elsewhere. A file's name is a keyed hash of who logs in
//! where, how and for what, and what is sealed opens under its own name only: whoever can write to the directory
//! (and lacks the key) can remove tokens, but neither make one nor hand one login's token to another. Any
//! number of keyways may share the directory; a lock by entry keeps two of them from logging in for the same.
//!
//! What can't be used is told in the log, removed, and costs a login: nothing here is an error to anyone. All
//! of it blocks, and when to ask is [`TokenCache`](super::TokenCache)'s business.

use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime};

use ring::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use rustix::fs::OFlags;
use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::{Identity, Method, Scope, Secret, Source, Token, TokenId, protocol};
use crate::private::{self, Key, Lock, NO_CHANGE, NOTHING};
use crate::secret;
use crate::upstream::tls;

/// How each entry's file begins.
const MAGIC: &[u8; 16] = b"keyway token v1\n";
/// Beginning, end of life, nonce.
pub(super) const HEAD: usize = MAGIC.len() + 8 + NONCE_LEN;

/// What holds for each message: none is taken for an entry.
const MESSAGE: &[u8] = b"keyway message v1";

/// The largest file that is read or written, bytes: the longest answer of Keystone's, and what stands around it.
const LARGEST: u64 = 9 << 20;

/// How many entries the directory may have; beyond that those go that end first.
const MOST: usize = 256;

/// How many files of the directory are looked at.
const MOST_LISTED: usize = 4 * MOST;

/// What follows the hash in the name of an entry, and of its lock.
const ENTRY: &str = ".token";
const LOCK: &str = ".lock";

/// The age from which something unfinished is a crashed keyway's.
const ABANDONED: Duration = Duration::from_secs(3600);

/// How far a file may be from the future: clocks are set by small steps all the time. Milliseconds.
const LEEWAY: i64 = 1000;

/// Where tokens are kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// The directory of the entries, which nobody else may read.
    pub directory: PathBuf,
    /// The file of the key that seals them.
    pub key_file: PathBuf,
    /// Whether keyway makes that file when it is not there: the operator did not name it.
    pub makes_key: bool,
}

/// The tokens that outlive the process.
pub struct Store {
    config: Config,
    /// What seals, and which boot of the system this is; `None` where the store is of no use.
    opened: OnceLock<Option<(Seal, Option<String>)>>,
    /// It failed, and that was told. Or it does not answer at all, and is left alone.
    failing: AtomicBool,
    given_up: AtomicBool,
}

/// Why an entry is of no use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unusable {
    /// It is no entry, or cut off.
    #[error("is no whole entry")]
    NoEntry,
    /// It was not sealed with this key, or under another name, or changed since.
    #[error("was not sealed by this keyway's key, or was changed since")]
    Foreign,
    /// It was written later than now, and nothing tells how long ago that really was.
    #[error("is from the future: was the clock set back?")]
    Future,
    /// The token is over.
    #[error("holds a token that is over")]
    Expired,
    /// What was sealed is no token.
    #[error("holds no token")]
    NoToken,
}

/// A moment by every clock that there is.
#[derive(Clone, Debug)]
pub struct Moment {
    /// By the clock that tokens live by.
    pub instant: Instant,
    /// By the wall clock, UNIX milliseconds.
    pub wall: i64,
    /// Which boot of the system this is, and milliseconds since then, also those that it slept: a clock that
    /// nobody sets. `None` where the system does not say.
    pub boot: Option<(String, u64)>,
}

impl Moment {
    /// Now; `boot` is the id of this boot of the system.
    fn now(boot: Option<&String>) -> Self {
        let wall = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let up = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
        let up =
            u64::try_from(up.tv_sec).unwrap_or(0) * 1000 + u64::try_from(up.tv_nsec).unwrap_or(0) / 1_000_000;
        Self {
            instant: tokio::time::Instant::now().into_std(),
            wall: i64::try_from(wall.as_millis()).unwrap_or(i64::MAX),
            boot: boot.map(|boot| (boot.clone(), up)),
        }
    }
}

/// How long a token lives, as it is written down.
#[derive(Debug, Serialize, Deserialize)]
struct Life {
    /// When it was written down: by the wall clock, UNIX milliseconds, and by the clock since the system's boot.
    saved: i64,
    boot: Option<(String, u64)>,
    /// What was left of it then, and the whole of it, milliseconds.
    left: u64,
    whole: u64,
    /// Identity v2.0 issued the token.
    by_v2: bool,
}

impl Life {
    /// What is left of it now, milliseconds.
    ///
    /// A clock that was set back must not make a dead token live, so of the two clocks the one counts by which
    /// more time went by; and where the wall clock is of no use, the other must tell.
    fn left(&self, now: &Moment) -> Result<u64, Unusable> {
        let by_wall = now.wall.checked_sub(self.saved).filter(|passed| *passed >= -LEEWAY);
        let by_wall = by_wall.map(|passed| u64::try_from(passed).unwrap_or(0));
        let by_boot = match (&self.boot, &now.boot) {
            (Some((then, at)), Some((boot, up))) if then == boot => up.checked_sub(*at),
            _ => None,
        };
        let passed = by_wall.max(by_boot).ok_or(Unusable::Future)?;
        self.left.checked_sub(passed).filter(|left| *left > 0).ok_or(Unusable::Expired)
    }
}

/// What seals entries, and names them.
pub struct Seal {
    names: Key,
    contents: LessSafeKey,
}

impl Seal {
    /// Both from one key.
    ///
    /// # Panics
    /// Never: 32 bytes are a key.
    pub fn new(key: &Key) -> Self {
        let own = |what: &[u8]| {
            let mut own = Key::default();
            own.copy_from_slice(private::derive(key, &[b"keyway kept tokens", what]).as_ref());
            own
        };
        let contents =
            UnboundKey::new(&AES_256_GCM, own(b"contents").as_slice()).expect("32 bytes are a key");
        Self { names: own(b"names"), contents: LessSafeKey::new(contents) }
    }

    /// The name of the entry for a login and a scope. It is not about the secret, which may change, except
    /// where nothing else says who logs in: `bearer`, see [`bearer`].
    pub fn name(
        &self,
        login: &Identity,
        tls: &tls::Config,
        scope: &Scope,
        bearer: Option<&Secret>,
    ) -> String {
        // Debug shows all of a login but its secrets, also what will be added to it. If it ever reads otherwise,
        // entries have new names, which costs a login each.
        let login = format!("{:?}", Identity { scope: scope.clone(), ..login.clone() });
        let bearer = bearer.map_or("", Secret::expose);
        // Whom we believed to be Keystone is part of what its catalog is worth.
        let tls = format!("{tls:?}");
        let hash = private::derive(&self.names, &[login.as_bytes(), tls.as_bytes(), bearer.as_bytes()]);
        let half: [u8; 16] = hash.as_ref()[..16].try_into().expect("16 of 32 bytes");
        format!("{:032x}{ENTRY}", u128::from_be_bytes(half))
    }

    /// The entry of a token; `None` for one that has no end or no document, or is over.
    ///
    /// # Panics
    /// Never: what Keystone says is shorter than what can be sealed.
    pub fn close(&self, name: &str, token: &Token, now: &Moment) -> Option<Vec<u8>> {
        let document = token.document.as_ref()?;
        let millis = |span: Duration| u64::try_from(span.as_millis()).unwrap_or(u64::MAX);
        let left = token.life_left(now.instant).map(millis).filter(|left| *left > 0)?;
        let whole = millis(token.lifetime()).max(left);
        let life = Life { saved: now.wall, boot: now.boot.clone(), left, whole, by_v2: token.by_v2 };
        let life = serde_json::to_vec(&life).ok()?;
        let end = now.wall.saturating_add(i64::try_from(left).unwrap_or(i64::MAX));

        let id = token.id.expose().as_bytes();
        // Nothing that holds the token may grow: it would leave a copy behind.
        let mut file =
            Vec::with_capacity(HEAD + id.len() + life.len() + document.len() + 2 + AES_256_GCM.tag_len());
        file.extend_from_slice(MAGIC);
        file.extend_from_slice(&end.to_be_bytes());
        let nonce = private::random::<NONCE_LEN>();
        file.extend_from_slice(&nonce);
        for part in [id, b"\n", &life, b"\n", document] {
            file.extend_from_slice(part);
        }
        let about = about(&file[..HEAD], name);
        let nonce = Nonce::assume_unique_for_key(nonce);
        let tag = self.contents.seal_in_place_separate_tag(nonce, Aad::from(about), &mut file[HEAD..]);
        file.extend_from_slice(tag.expect("a document of this length can be sealed").as_ref());
        Some(file)
    }

    /// The token of an entry, with what is left of its life.
    ///
    /// # Errors
    /// See [`Unusable`].
    ///
    /// # Panics
    /// Never: the parts have the lengths that were asked for.
    pub fn open(&self, name: &str, file: Vec<u8>, now: &Moment) -> Result<Token, Unusable> {
        let mut file = Zeroizing::new(file);
        if file.len() < HEAD || !file.starts_with(MAGIC) {
            return Err(Unusable::NoEntry);
        }
        let (head, sealed) = file.split_at_mut(HEAD);
        let nonce = head[HEAD - NONCE_LEN..].try_into().expect("that many bytes");
        let opened = self.contents.open_in_place(
            Nonce::assume_unique_for_key(nonce),
            Aad::from(about(head, name)),
            sealed,
        );
        read(opened.map_err(|_| Unusable::Foreign)?, now)
    }

    /// Something short that one keyway says to others: a nonce, and what it says, sealed.
    ///
    /// # Panics
    /// Never: anything short can be sealed.
    pub fn close_message(&self, said: &[u8]) -> Vec<u8> {
        let (nonce, mut sealed) = (private::random::<NONCE_LEN>(), said.to_vec());
        let closed = self.contents.seal_in_place_append_tag(
            Nonce::assume_unique_for_key(nonce),
            Aad::from(MESSAGE),
            &mut sealed,
        );
        closed.expect("something short can be sealed");
        [&nonce[..], &sealed].concat()
    }

    /// What was said; `None` if that was not with this key.
    pub fn open_message(&self, message: &[u8]) -> Option<Vec<u8>> {
        let (nonce, sealed) = message.split_first_chunk::<NONCE_LEN>()?;
        let mut sealed = sealed.to_vec();
        let nonce = Nonce::assume_unique_for_key(*nonce);
        let said = self.contents.open_in_place(nonce, Aad::from(MESSAGE), &mut sealed).ok()?;
        Some(said.to_vec())
    }
}

impl fmt::Debug for Seal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Seal(redacted)")
    }
}

/// What is in the open, and holds for this entry alone.
fn about(head: &[u8], name: &str) -> Vec<u8> {
    [head, name.as_bytes()].concat()
}

/// Reads what was sealed: the token, its life, its document, on a line each. It is checked as an answer of
/// Keystone's is.
///
/// # Errors
/// See [`Unusable`].
pub fn read(opened: &[u8], now: &Moment) -> Result<Token, Unusable> {
    let mut lines = opened.splitn(3, |byte| *byte == b'\n');
    let [Some(id), Some(life), Some(document)] = [(); 3].map(|()| lines.next()) else {
        return Err(Unusable::NoToken);
    };
    let id = std::str::from_utf8(id).ok().and_then(|id| TokenId::new(id).ok()).ok_or(Unusable::NoToken)?;
    let life: Life = serde_json::from_slice(life).map_err(|_| Unusable::NoToken)?;
    let left = life.left(now)?;
    let spent = Duration::from_millis(life.whole.checked_sub(left).ok_or(Unusable::NoToken)?);
    let born = now.instant.checked_sub(spent).ok_or(Unusable::NoToken)?;
    let whole = Duration::from_millis(life.whole);
    let token = protocol::read_document(id, document, life.by_v2, born, whole);
    let token = token.ok_or(Unusable::NoToken)?;
    // The longest life that is counted with may be shorter than what the entry says.
    if token.is_fresh(now.instant) { Ok(token) } else { Err(Unusable::Expired) }
}

/// The secret that alone says who logs in: tokens are somebody's, and nothing beside them tells whose.
pub fn bearer(method: &Method) -> Option<&Source> {
    match method {
        Method::Token(token) => Some(token),
        Method::MultiFactor { shown, spare } => shown.iter().chain(spare).find_map(bearer),
        Method::Password { .. }
        | Method::ApplicationCredential { .. }
        | Method::Totp { .. }
        | Method::OAuth2 { .. }
        | Method::OAuth2Mtls { .. }
        | Method::OAuth1 { .. }
        | Method::Kerberos(_) => None,
        Method::Federated(_) => None,
    }
}

/// Whether what a login gets is kept. An access token beside the token is not; what a person's login led to ends with
/// that; and whose ticket it was, nothing here tells.
pub fn keeps(method: &Method) -> bool {
    !matches!(method, Method::OAuth2 { .. } | Method::Kerberos(_) | Method::Federated(_))
        && method.person().is_none()
}

impl Store {
    /// A store at this place. Nothing is read or written before something is asked of it.
    pub fn new(config: Config) -> Self {
        Self {
            config,
            opened: OnceLock::new(),
            failing: AtomicBool::new(false),
            given_up: AtomicBool::new(false),
        }
    }

    /// The name of the entry for a login and a scope; `None` where nothing can be kept.
    pub fn name(
        &self,
        login: &Identity,
        tls: &tls::Config,
        scope: &Scope,
        bearer: Option<&Secret>,
    ) -> Option<String> {
        Some(self.opened()?.0.name(login, tls, scope, bearer))
    }

    /// The token of an entry, if there is one that lives.
    pub fn load(&self, name: &str) -> Option<Token> {
        let (seal, boot) = self.opened()?;
        let path = self.config.directory.join(name);
        let (why, is_bad) = match read_file(&path) {
            Ok(None) => return None,
            Ok(Some(file)) => match seal.open(name, file, &Moment::now(boot.as_ref())) {
                Ok(token) => return Some(token),
                Err(Unusable::Expired) => {
                    let _ = fs::remove_file(&path);
                    return None;
                }
                Err(unusable) => (format!("{} {unusable}", path.display()), true),
            },
            Err(error) => (what_is_wrong(&error), is_about_the_file(&error)),
        };
        if is_bad {
            tracing::warn!("{why}: it is removed, and Keystone is asked for a token");
            let _ = fs::remove_file(&path);
        } else {
            tracing::warn!("{why} now: Keystone is asked for a token");
        }
        None
    }

    /// The entry of a token, to be written; `None` where it can't be kept.
    pub fn close(&self, name: &str, token: &Token) -> Option<Vec<u8>> {
        let (seal, boot) = self.opened()?;
        let file = seal.close(name, token, &Moment::now(boot.as_ref()))?;
        (file.len() as u64 <= LARGEST).then_some(file)
    }

    /// Puts an entry in its place, and lets go of what the directory need not have any more.
    pub fn save(&self, name: &str, file: &[u8]) {
        let directory = &self.config.directory;
        let saved = private::make_directory(directory)
            .and_then(|()| private::replace(&directory.join(name), file))
            .and_then(|()| sweep(directory, name));
        self.settle(&saved);
    }

    /// Removes an entry, whose token is no good any more.
    pub fn remove(&self, name: &str) {
        let removed = fs::remove_file(self.config.directory.join(name));
        self.settle(&removed.or_else(|error| match error.kind() {
            io::ErrorKind::NotFound => Ok(()),
            _ => Err(error),
        }));
    }

    /// The right to log in for an entry; `None` while another keyway has it.
    ///
    /// # Errors
    /// There can be no lock.
    pub fn try_lock(&self, name: &str) -> io::Result<Option<Lock>> {
        if self.given_up.load(Ordering::Relaxed) {
            return Err(io::ErrorKind::TimedOut.into());
        }
        let path = self.config.directory.join(format!("{}{LOCK}", name.trim_end_matches(ENTRY)));
        let locked = Lock::take(&path);
        self.settle(&locked);
        locked
    }

    /// The disk does not answer: from now on nothing is asked of it.
    pub fn give_up(&self) {
        if !self.given_up.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                "{} does not answer: tokens are kept in memory only until the configuration is read again",
                self.config.directory.display()
            );
        }
    }

    fn opened(&self) -> Option<&(Seal, Option<String>)> {
        if self.given_up.load(Ordering::Relaxed) {
            return None;
        }
        let open = || match self.open() {
            Ok(seal) => {
                let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").ok();
                Some((seal, boot.map(|boot| boot.trim().to_owned())))
            }
            Err(error) => {
                tracing::warn!("{}: tokens are not kept beyond this process", secret::causes(&error));
                None
            }
        };
        self.opened.get_or_init(open).as_ref()
    }

    fn open(&self) -> Result<Seal, private::Error> {
        let Config { key_file, makes_key, .. } = &self.config;
        let keys = match look(&self.config)? {
            Some(keys) => keys,
            None if *makes_key => private::write_key(key_file, &Key::new(private::random()))?,
            None => return Err(private::Error::system(key_file)(io::ErrorKind::NotFound.into())),
        };
        Ok(Seal::new(&keys[0]))
    }

    /// Tells once that something can't be written, until it can again.
    fn settle<T>(&self, outcome: &io::Result<T>) {
        let Err(error) = outcome else { return self.failing.store(false, Ordering::Relaxed) };
        if !self.failing.swap(true, Ordering::Relaxed) {
            let directory = self.config.directory.display();
            tracing::warn!(%error, "{directory} can't be written to: tokens end with this process");
        }
    }
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store").field("config", &self.config).finish_non_exhaustive()
    }
}

/// Checks the place as far as it is there, and writes nothing.
///
/// # Errors
/// What is wrong with it. What can't be read is not wrong.
pub fn check(config: &Config) -> Result<(), private::Error> {
    match look(config) {
        Err(error) if error.is_mistake() => Err(error),
        _ => Ok(()),
    }
}

/// The keys that there are, of which the first seals; `None` if there is no such file.
fn look(Config { directory, key_file, makes_key }: &Config) -> Result<Option<Vec<Key>>, private::Error> {
    private::check_directory(directory, NOTHING)?;
    // Who else may read a key that the operator named was looked at with the configuration.
    if !makes_key {
        return private::read_keys(key_file, 0);
    }
    if let Some(home) = key_file.parent() {
        private::check_directory(home, NO_CHANGE)?;
    }
    private::read_keys(key_file, NOTHING)
}

/// A file of keyway's own, all of it; `None` if there is none.
fn read_file(path: &Path) -> Result<Option<Vec<u8>>, private::Error> {
    // No link is followed, and nothing that is no file can hold us up.
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let file = OpenOptions::new().read(true).custom_flags(flags.bits().cast_signed()).open(path);
    let file = match file {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(private::Error::system(path)(error)),
    };
    let metadata = file.metadata().map_err(private::Error::system(path))?;
    private::check_owner(path, &metadata, NOTHING)?;
    let system = |why: &str| private::Error::system(path)(io::Error::other(why.to_owned()));
    if !metadata.is_file() {
        return Err(system("it is no file"));
    }
    if metadata.len() > LARGEST {
        return Err(system("it is too large for a token"));
    }
    let mut contents = Vec::with_capacity(usize::try_from(metadata.len()).unwrap_or(0) + 1);
    file.take(LARGEST).read_to_end(&mut contents).map_err(private::Error::system(path))?;
    Ok(Some(contents))
}

/// Without what the operator would do about a file that stays.
fn what_is_wrong(error: &private::Error) -> String {
    match error {
        private::Error::Exposed { path, what, .. } => format!("{} {what} by other users", path.display()),
        private::Error::Owner { path, owner } => {
            format!("{} belongs to another user (id {owner})", path.display())
        }
        error => secret::causes(error),
    }
}

/// Whether a file will never be of use, rather than that the system can't read it now.
fn is_about_the_file(error: &private::Error) -> bool {
    let private::Error::System { source, .. } = error else { return true };
    // A link and a socket can't be opened as a file.
    let ours = |code| [Errno::LOOP, Errno::NXIO].iter().any(|errno| errno.raw_os_error() == code);
    source.raw_os_error().is_none_or(ours)
}

/// Removes entries whose tokens are over, what crashed keyways left behind, and where there are too many entries
/// those that end first, but for `latest`.
fn sweep(directory: &Path, latest: &str) -> io::Result<()> {
    let now = Moment::now(None).wall;
    let mut living = Vec::new();
    for file in fs::read_dir(directory)?.take(MOST_LISTED).flatten() {
        let name = file.file_name();
        let (path, Some(name)) = (file.path(), name.to_str()) else { continue };
        let Some((hash, rest)) = name.split_at_checked(32) else { continue };
        if !hash.bytes().all(|byte| byte.is_ascii_hexdigit()) || name == latest {
            continue;
        }
        let is_old = || {
            let age = file.metadata().and_then(|metadata| metadata.modified()).map(|at| at.elapsed());
            matches!(age, Ok(Ok(age)) if age > ABANDONED)
        };
        let is_over = match rest {
            ENTRY => match end(&path) {
                Some(end) if end > now => {
                    living.push((end, path));
                    continue;
                }
                Some(_) => true,
                None => is_old(),
            },
            // Whoever makes one locks it at once, and has it for as long as a login takes.
            LOCK => is_old() && matches!(private::try_lock(&path), Ok(Some(_))),
            _ => rest.strip_prefix(ENTRY).is_some_and(|rest| rest.starts_with('.')) && is_old(),
        };
        if is_over {
            let _ = fs::remove_file(&path);
        }
    }
    living.sort();
    let too_many = (living.len() + 1).saturating_sub(MOST);
    for (_, path) in living.into_iter().take(too_many) {
        let _ = fs::remove_file(path);
    }
    Ok(())
}

/// When an entry's token ends, UNIX milliseconds; `None` for what is no entry.
fn end(path: &Path) -> Option<i64> {
    let mut head = [0; MAGIC.len() + 8];
    File::open(path).ok()?.read_exact(&mut head).ok()?;
    let (magic, end) = head.split_at(MAGIC.len());
    (magic == MAGIC).then(|| i64::from_be_bytes(end.try_into().expect("8 bytes")))
}

#[cfg(test)]
mod tests {
    use http::Response;
    use serde_json::{Value, json};

    use super::*;
    use crate::keystone::{ApplicationCredential, Domain, IdentityVersion, Project, User};
    use crate::upstream::BaseUrl;

    const NAME: &str = "0123456789abcdef0123456789abcdef.token";
    const TOKEN: &str = "gAAAAABcanary-of-a-token";

    fn seal() -> Seal {
        Seal::new(&Key::new([7; 32]))
    }

    /// So many milliseconds after the moment at which tests write entries.
    fn at(start: Instant, wall: i64, boot: Option<(&str, u64)>) -> Moment {
        let passed = boot.map_or_else(|| u64::try_from(wall).unwrap_or(0), |(_, up)| up);
        Moment {
            instant: start + Duration::from_millis(passed),
            wall: 1_790_000_000_000 + wall,
            boot: boot.map(|(id, up)| (id.to_owned(), 5_000_000 + up)),
        }
    }

    fn sent(at: Instant) -> protocol::Sent {
        protocol::Sent { at, wall: SystemTime::UNIX_EPOCH + Duration::from_secs(1_790_000_000) }
    }

    /// What Keystone answers to a login, v3; the token lives for an hour.
    fn token(born: Instant) -> Token {
        let endpoint = |interface| {
            json!({"id": "e", "interface": interface, "region": "R", "region_id": "R",
                                          "url": "https://nova.example/v2.1"})
        };
        let document = json!({"token": {
            "methods": ["password"], "user": {"id": "u", "name": "ada", "domain": {"id": "default", "name": "Default"}},
            "project": {"id": "p", "name": "demo", "domain": {"id": "default", "name": "Default"}},
            "issued_at": "2026-11-21T21:21:13.000000Z", "expires_at": "2026-11-21T22:21:13.000000Z",
            "catalog": [{"type": "compute", "name": "nova", "id": "s",
                         "endpoints": [endpoint("public"), endpoint("odd")]}],
        }});
        let answer = Response::builder().header("x-subject-token", TOKEN).body(document.to_string().into());
        protocol::read_v3_token(&answer.unwrap(), sent(born)).unwrap()
    }

    /// The same by v2.0.
    fn v2_token(born: Instant) -> Token {
        let document = json!({"access": {
            "token": {"id": TOKEN, "expires": "2026-11-21T22:21:13Z", "issued_at": "2026-11-21T21:21:13Z",
                      "tenant": {"id": "p", "name": "demo"}},
            "serviceCatalog": [{"type": "compute", "name": "nova", "endpoints": [
                {"region_id": "R", "publicURL": "https://nova.example/v2", "adminURL": "http://nova.example/v2"}]}],
        }});
        protocol::read_v2_token(&Response::new(document.to_string().into()), sent(born)).unwrap()
    }

    /// Everything that a token is, but for the clock.
    fn shown(token: &Token) -> String {
        let Token { id, catalog, project, domain, system, user, document, by_v2, expires_at, .. } = token;
        let document: Value = serde_json::from_slice(document.as_ref().unwrap()).unwrap();
        let id = id.expose();
        format!("{id} {catalog:?} {project:?} {domain:?} {system} {user:?} {document} {by_v2} {expires_at:?}")
    }

    // Promise 84.
    #[test]
    fn what_was_kept_is_the_same_token_with_what_is_left_of_its_life() {
        let start = Instant::now();
        for token in [token(start), v2_token(start)] {
            let saved = at(start, 60_000, None);
            let file = seal().close(NAME, &token, &saved).unwrap();
            let now = at(start, 600_000, None);
            let kept = seal().open(NAME, file, &now).unwrap();
            assert_eq!(shown(&kept), shown(&token));
            assert_eq!(kept.life_left(now.instant), Some(Duration::from_secs(3600 - 600)));
            assert_eq!(kept.lifetime(), token.lifetime());
            assert_eq!(kept.renew_at(0.0), token.renew_at(0.0), "it is renewed when it would have been");
            assert!(!kept.proved_within(now.instant, Duration::from_secs(60)), "nobody accepted it just now");
        }
    }

    #[test]
    fn no_clock_makes_a_dead_token_live() {
        let start = Instant::now();
        let (hour, boot) = (3_600_000, Some(("b", 0)));
        for (saved_boot, wall, boot, expected) in [
            (None, 0, None, Ok(3600)),
            (None, hour - 1000, None, Ok(1)),
            (None, hour, None, Err(Unusable::Expired)),
            (None, 1_000_000 * hour, None, Err(Unusable::Expired)),
            // A small step back is none; a large one, or a file from the future, tells nothing.
            (None, -1000, None, Ok(3600)),
            (None, -1001, None, Err(Unusable::Future)),
            (None, -1_000_000 * hour, None, Err(Unusable::Future)),
            (None, -1001, boot, Err(Unusable::Future)),
            // The clock that nobody sets counts as well, as long as it is the same.
            (boot, 1000, Some(("b", 2000)), Ok(3598)),
            (boot, 3000, Some(("b", 2000)), Ok(3597)),
            (boot, -hour, Some(("b", 2000)), Ok(3598)),
            (boot, -hour, Some(("b", 3_600_000)), Err(Unusable::Expired)),
            (boot, 10, Some(("b", 3_600_000)), Err(Unusable::Expired)),
            (boot, -hour, Some(("c", 2000)), Err(Unusable::Future)),
            (boot, 1000, Some(("c", 3_600_000)), Ok(3599)),
        ] {
            let file = seal().close(NAME, &token(start), &at(start, 0, saved_boot)).unwrap();
            let now = at(start, wall, boot);
            let kept = seal().open(NAME, file, &now);
            let left = kept.map(|token| token.life_left(now.instant).unwrap().as_secs());
            assert_eq!(left, expected, "{wall} {boot:?}");
        }
    }

    #[test]
    fn what_is_over_or_has_no_end_is_not_kept() {
        let start = Instant::now();
        assert!(seal().close(NAME, &token(start), &at(start, 3_600_000, None)).is_none());
        let fixed = Token::fixed(TokenId::new("fixed").unwrap(), crate::keystone::Catalog::default(), start);
        assert!(seal().close(NAME, &fixed, &at(start, 0, None)).is_none());
    }

    // Promise 84.
    #[test]
    fn an_entry_opens_whole_with_its_key_and_under_its_name_only() {
        let (start, now) = (Instant::now(), at(Instant::now(), 0, None));
        let file = seal().close(NAME, &token(start), &now).unwrap();
        let open = |name: &str, file: &[u8]| seal().open(name, file.to_vec(), &now).map(|_| ());
        assert_eq!(open(NAME, &file), Ok(()));
        assert_eq!(open(&NAME.replace('0', "1"), &file), Err(Unusable::Foreign));
        let other = Seal::new(&Key::new([8; 32]));
        assert_eq!(other.open(NAME, file.clone(), &now).map(|_| ()), Err(Unusable::Foreign));
        for length in 0..file.len() {
            let expected = if length < HEAD { Unusable::NoEntry } else { Unusable::Foreign };
            assert_eq!(open(NAME, &file[..length]), Err(expected), "{length}");
        }
        assert_eq!(open(NAME, &[&file[..], b"x"].concat()), Err(Unusable::Foreign));
        for index in 0..file.len() {
            let mut changed = file.clone();
            changed[index] ^= 1 << (index % 8);
            let expected = if index < MAGIC.len() { Unusable::NoEntry } else { Unusable::Foreign };
            assert_eq!(open(NAME, &changed), Err(expected), "byte {index}");
        }
        for secret in [TOKEN, "ada", "nova.example", "demo"] {
            assert!(!file.windows(secret.len()).any(|window| window == secret.as_bytes()), "{secret}");
        }
        assert_ne!(seal().close(NAME, &token(start), &now).unwrap(), file, "a nonce is used once");
    }

    #[test]
    fn what_was_sealed_is_checked_as_an_answer_of_keystones_is() {
        let now = at(Instant::now(), 0, None);
        let life = |left: u64, whole: u64| {
            json!({"saved": now.wall, "boot": null, "left": left, "whole": whole, "by_v2": false}).to_string()
        };
        let document = r#"{"expires_at": "2026-11-21T22:21:13Z"}"#;
        let whole = format!("{TOKEN}\n{}\n{document}", life(1000, 2000));
        assert_eq!(read(whole.as_bytes(), &now).map(|_| ()), Ok(()));
        for wrong in [
            String::new(),
            TOKEN.to_owned(),
            format!("{TOKEN}\n{}", life(1000, 2000)),
            format!("\n{}\n{document}", life(1000, 2000)),
            format!("a b\n{}\n{document}", life(1000, 2000)),
            format!("{TOKEN}\n{{}}\n{document}"),
            format!("{TOKEN}\n{}\n{document}", life(2001, 2000)),
            format!("{TOKEN}\n{}\n{{}}", life(1000, 2000)),
            format!("{TOKEN}\n{}\n[]", life(1000, 2000)),
            format!("{TOKEN}\n{}\n{document}x", life(1000, 2000)),
        ] {
            assert_eq!(read(wrong.as_bytes(), &now).map(|_| ()), Err(Unusable::NoToken), "{wrong}");
        }
    }

    fn password(user: User, password: &str) -> Identity {
        Identity {
            auth_url: BaseUrl::parse("https://keystone.example/v3").unwrap(),
            version: IdentityVersion::Discover,
            method: Method::Password { user, password: Secret::new(password).into() },
            scope: Scope::Default,
        }
    }

    fn by_name(name: &str, domain: Domain) -> User {
        User::Name { name: name.to_owned(), domain: Some(domain) }
    }

    // Promise 84.
    #[test]
    fn logins_that_differ_in_more_than_their_password_have_entries_of_their_own() {
        let domain = |name: &str| Domain::Name(name.to_owned());
        let ada = || password(by_name("ada", domain("Default")), "hunter2");
        let tls = tls::Config::default();
        let of = |login: &Identity, scope: &Scope| seal().name(login, &tls, scope, None);
        let own = of(&ada(), &Scope::Default);
        assert_eq!(own.len(), NAME.len());
        assert_eq!(of(&password(by_name("ada", domain("Default")), "hunter3"), &Scope::Default), own);
        // The cloud's own scope is not what this token is for.
        assert_eq!(of(&Identity { scope: Scope::System, ..ada() }, &Scope::Default), own);

        let project = |name: &str, domain: Option<Domain>| {
            Scope::Project(Project::Name { name: name.to_owned(), domain })
        };
        let credential = |which, secret: &str| Identity {
            method: Method::ApplicationCredential { which, secret: Secret::new(secret).into() },
            ..ada()
        };
        let elsewhere = BaseUrl::parse("https://keystone.example:5000/v3").unwrap();
        let id = |id: &str| ApplicationCredential::Id(id.to_owned());
        let named = |user| ApplicationCredential::Name { name: "ada".to_owned(), user };
        let mut names = vec![
            own,
            of(&password(by_name("bob", domain("Default")), "hunter2"), &Scope::Default),
            of(&password(by_name("ada", domain("Other")), "hunter2"), &Scope::Default),
            of(&password(by_name("ada", Domain::Id("Default".to_owned())), "hunter2"), &Scope::Default),
            of(&password(User::Id("ada".to_owned()), "hunter2"), &Scope::Default),
            of(&Identity { auth_url: elsewhere, ..ada() }, &Scope::Default),
            of(&Identity { version: IdentityVersion::V2, ..ada() }, &Scope::Default),
            of(&ada(), &Scope::Unscoped),
            of(&ada(), &Scope::System),
            of(&ada(), &Scope::Domain(domain("demo"))),
            of(&ada(), &Scope::Project(Project::Id("demo".to_owned()))),
            of(&ada(), &project("demo", None)),
            of(&ada(), &project("demo", Some(domain("Default")))),
            of(&ada(), &project("demo", Some(Domain::Id("Default".to_owned())))),
            of(&credential(id("ada"), "s"), &Scope::Default),
            of(&credential(named(User::Id("ada".to_owned())), "s"), &Scope::Default),
            of(&credential(named(User::Id("bob".to_owned())), "s"), &Scope::Default),
            seal().name(&ada(), &tls::Config { insecure: true, ..tls.clone() }, &Scope::Default, None),
            Seal::new(&Key::new([8; 32])).name(&ada(), &tls, &Scope::Default, None),
        ];
        // Nothing but the token itself says whose it is.
        for token in ["one", "other"] {
            let method = Method::Token(Secret::new(token).into());
            let Some(Source::Given(given)) = bearer(&method) else { panic!("it stands there") };
            let login = Identity { method: method.clone(), ..ada() };
            names.push(seal().name(&login, &tls, &Scope::Default, Some(given)));
        }
        let count = names.len();
        names.sort();
        names.dedup();
        assert_eq!(names.len(), count);
        assert!(bearer(&ada().method).is_none());
    }

    #[test]
    fn what_is_over_or_too_much_or_left_behind_goes_and_nothing_else() {
        let home = tempfile::tempdir().unwrap();
        let path = |name: &str| home.path().join(name);
        let entry = |number: usize| format!("{number:032x}{ENTRY}");
        let write = |name: &str, end: i64| {
            let mut file = MAGIC.to_vec();
            file.extend_from_slice(&end.to_be_bytes());
            fs::write(path(name), file).unwrap();
        };
        let now = Moment::now(None).wall;
        write(&entry(0), now - 1);
        write(&entry(1), now + 100_000);
        // Nobody can say what these are, and they are young.
        fs::write(path(&entry(2)), "hunter2").unwrap();
        fs::write(path(&format!("{}.0123456789abcdef", entry(3))), "").unwrap();
        fs::write(path(&format!("{:032x}{LOCK}", 4)), "").unwrap();
        fs::write(path("0123456789abcdef0123456789abcdef"), "a file of somebody's").unwrap();
        fs::write(path("notes"), "a file of somebody's").unwrap();
        sweep(home.path(), NAME).unwrap();
        assert_eq!(fs::read_dir(home.path()).unwrap().count(), 6);
        assert!(!path(&entry(0)).exists());
        for file in fs::read_dir(home.path()).unwrap() {
            let file = File::options().write(true).open(file.unwrap().path()).unwrap();
            file.set_modified(SystemTime::now() - 2 * ABANDONED).unwrap();
        }
        sweep(home.path(), NAME).unwrap();
        let mut left: Vec<_> =
            fs::read_dir(home.path()).unwrap().map(|file| file.unwrap().file_name()).collect();
        left.sort();
        assert_eq!(left, [entry(1).as_str(), "0123456789abcdef0123456789abcdef", "notes"]);

        for number in 1..=MOST + 10 {
            write(&entry(number), now + 100_000 + i64::try_from(number).unwrap());
        }
        sweep(home.path(), &entry(1)).unwrap();
        assert_eq!(fs::read_dir(home.path()).unwrap().count(), MOST + 2);
        assert!(path(&entry(1)).exists() && path(&entry(MOST + 10)).exists());
        assert!((2..=11).all(|number| !path(&entry(number)).exists()));
    }

    #[test]
    fn what_can_t_be_read_just_now_is_not_taken_for_bad() {
        let failed = |code: Errno| private::Error::system(Path::new("/t"))(code.into());
        assert!(!is_about_the_file(&failed(Errno::MFILE)) && !is_about_the_file(&failed(Errno::IO)));
        assert!(is_about_the_file(&failed(Errno::LOOP)));
        let ours = private::Error::system(Path::new("/t"))(io::Error::other("it is no file"));
        assert!(is_about_the_file(&ours));
        assert!(is_about_the_file(&private::Error::Owner { path: "/t".into(), owner: 1 }));
    }

    #[test]
    fn a_disk_that_does_not_answer_is_asked_no_more() {
        let home = tempfile::tempdir().unwrap();
        let config = Config {
            directory: home.path().join("tokens"),
            key_file: home.path().join("token-key"),
            makes_key: true,
        };
        let store = Store::new(config);
        let start = Instant::now();
        let file = store.close(NAME, &token(start)).unwrap();
        store.save(NAME, &file);
        assert!(store.load(NAME).is_some());
        store.give_up();
        assert!(store.load(NAME).is_none() && store.close(NAME, &token(start)).is_none());
        assert!(store.try_lock(NAME).is_err());
    }
}
