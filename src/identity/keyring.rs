//! The file of API keys: who has one, until when, and what is kept of it.
//!
//! A line for each key: its name, whose it is, its hash, when it was made, when it ends (`-`: never), and a note:
//!
//! ```text
//! 4f1d0c5ab2e97780 ada sha256:9f86d0.. 2026-11-22T10:00:00Z 2027-02-20T10:00:00Z laptop
//! ```
//!
//! Nothing in it is good for a request, but whoever can change it makes keys: so only keyway's user may. Lines are
//! added and taken away under a lock, and the file is replaced as a whole. A keyway that serves looks each second
//! whether it is another one.

use std::collections::HashMap;
use std::fmt::{self, Write as _};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use jiff::Timestamp;

use super::key::{KeyHash, KeyId};
use crate::private::{self, NO_CHANGE, Stamp, stamp};
use crate::secret;

/// How large the file may be, bytes: some 50,000 keys.
const LARGEST: u64 = 8 << 20;

/// The longest note, bytes.
const LONGEST_NOTE: usize = 200;

/// How often the file is looked at.
const LOOK: Duration = Duration::from_secs(1);

/// How often its lock is tried for, and how long after the last time.
const TRIES: u32 = 100;
const PAUSE: Duration = Duration::from_millis(20);

/// One key, as its line has it.
#[derive(Clone, Debug)]
pub struct ApiKey {
    /// Its name.
    pub id: KeyId,
    /// Whose it is.
    pub identity: String,
    /// What is kept of it.
    pub hash: KeyHash,
    /// When.
    pub made: Timestamp,
    /// Until when it is good.
    pub ends: Option<Timestamp>,
    /// What its maker wrote.
    pub note: String,
}

/// Why the file is of no use.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Others may change it, or the system says no.
    #[error(transparent)]
    Private(#[from] private::Error),
    /// It is too large.
    #[error("{} has more than {LARGEST} bytes, which no file of keys has; name another file", .0.display())]
    TooLarge(PathBuf),
    /// Somebody else writes it all the time.
    #[error("{} is locked by another process; try again", .0.display())]
    Locked(PathBuf),
    /// There is no such key.
    #[error("{} has no key {id}; `keyway key list` shows what there is", .path.display())]
    Unknown {
        /// The file.
        path: PathBuf,
        /// The key.
        id: KeyId,
    },
}

impl ApiKey {
    fn parse(line: &str) -> Option<Self> {
        let mut words = line.splitn(6, ' ');
        let mut word = || words.next().filter(|word| !word.is_empty());
        let (id, identity) = (word()?.parse().ok()?, word()?.to_owned());
        let (hash, made) = (word()?.parse().ok()?, word()?.parse().ok()?);
        let ends = match word()? {
            "-" => None,
            time => Some(time.parse().ok()?),
        };
        Some(Self { id, identity, hash, made, ends, note: words.next().unwrap_or_default().to_owned() })
    }

    /// Whether it is good at that time.
    pub fn is_good(&self, now: Timestamp) -> bool {
        self.ends.is_none_or(|ends| now < ends)
    }
}

impl fmt::Display for ApiKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { id, identity, hash, made, ends, note } = self;
        write!(f, "{id} {identity} {hash} {made:.0} ")?;
        match ends {
            Some(ends) => write!(f, "{ends:.0}")?,
            None => f.write_char('-')?,
        }
        if note.is_empty() { Ok(()) } else { write!(f, " {note}") }
    }
}

/// A note as it can stand in a line.
///
/// # Errors
/// What is wrong with it.
pub fn note(text: &str) -> Result<String, String> {
    let text = text.trim();
    if text.len() > LONGEST_NOTE {
        return Err(format!("a note has at most {LONGEST_NOTE} bytes"));
    }
    if text.chars().any(char::is_control) {
        return Err("a note is one line of text".to_owned());
    }
    Ok(text.to_owned())
}

/// The keys of a file, and the numbers of lines that are none. No file, no keys.
///
/// # Errors
/// See [`Error`].
pub fn read(path: &Path) -> Result<(Vec<ApiKey>, Vec<usize>), Error> {
    let system = || private::Error::system(path);
    let metadata = match fs::metadata(path) {
        Ok(metadata) => metadata,
        // Where no directory can be made there is no file, either.
        Err(error) if [io::ErrorKind::NotFound, io::ErrorKind::NotADirectory].contains(&error.kind()) => {
            return Ok(Default::default());
        }
        Err(error) => return Err(system()(error).into()),
    };
    private::check_owner(path, &metadata, NO_CHANGE)?;
    if metadata.len() > LARGEST {
        return Err(Error::TooLarge(path.to_owned()));
    }
    let text = fs::read_to_string(path).map_err(system())?;
    let (mut keys, mut wrong) = (Vec::new(), Vec::new());
    for (number, line) in text.lines().enumerate() {
        let line = line.trim_end();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        match ApiKey::parse(line) {
            Some(key) => keys.push(key),
            None => wrong.push(number + 1),
        }
    }
    Ok((keys, wrong))
}

/// Adds a key.
///
/// # Errors
/// See [`Error`].
pub fn add(path: &Path, key: &ApiKey) -> Result<(), Error> {
    change(path, |lines| {
        lines.push(key.to_string());
        Ok(())
    })
}

/// Takes a key away, and returns it.
///
/// # Errors
/// See [`Error`].
pub fn remove(path: &Path, id: KeyId) -> Result<ApiKey, Error> {
    change(path, |lines| {
        let parsed = |line: &String| ApiKey::parse(line).filter(|key| key.id == id);
        let found = lines.iter().find_map(parsed);
        lines.retain(|line| parsed(line).is_none());
        found.ok_or_else(|| Error::Unknown { path: path.to_owned(), id })
    })
}

/// Changes the lines of the file; what is no key stays as it is.
fn change<T>(path: &Path, with: impl FnOnce(&mut Vec<String>) -> Result<T, Error>) -> Result<T, Error> {
    let system = || private::Error::system(path);
    if let Some(directory) = path.parent() {
        private::make_directory(directory).map_err(system())?;
    }
    let mut lock = path.as_os_str().to_owned();
    lock.push(".lock");
    let mut tries = 0;
    let _locked = loop {
        match private::try_lock(Path::new(&lock)).map_err(system())? {
            Some(file) => break file,
            None if tries < TRIES => std::thread::sleep(PAUSE),
            None => return Err(Error::Locked(path.to_owned())),
        }
        tries += 1;
    };
    // For what it checks.
    read(path)?;
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
        Err(error) => return Err(system()(error).into()),
    };
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    let done = with(&mut lines)?;
    let text = lines.iter().fold(String::new(), |text, line| text + line + "\n");
    private::replace(path, text.as_bytes()).map_err(system())?;
    Ok(done)
}

/// A key that is in force.
#[derive(Debug)]
pub struct Known {
    /// As its line has it.
    pub key: ApiKey,
    /// When it was last used, UNIX seconds; 0: not since keyway started.
    pub used: AtomicI64,
}

impl Known {
    /// A key that nobody has.
    fn nobody() -> Self {
        let key = ApiKey {
            id: KeyId::default(),
            identity: String::new(),
            hash: KeyHash::of_nothing(),
            made: Timestamp::UNIX_EPOCH,
            ends: None,
            note: String::new(),
        };
        Self { key, used: AtomicI64::default() }
    }
}

/// The keys in force. All workers share it; a reload keeps it.
pub struct Keyring {
    path: Option<PathBuf>,
    keys: Mutex<HashMap<KeyId, Arc<Known>>>,
    /// What a name that nobody has is compared with.
    nobody: Arc<Known>,
    /// What the file was when it was read.
    seen: Mutex<Option<Stamp>>,
    /// It was of no use, which was told.
    failing: AtomicBool,
    /// Grows whenever a key may be gone.
    changes: AtomicU64,
}

impl Keyring {
    /// Of a file, which is read. What is wrong with it is told in the log, and with it there are no keys.
    pub fn load(path: Option<PathBuf>) -> Self {
        let ring = Self {
            path,
            keys: Mutex::default(),
            nobody: Arc::new(Known::nobody()),
            seen: Mutex::default(),
            failing: AtomicBool::default(),
            changes: AtomicU64::new(0),
        };
        ring.look();
        ring
    }

    /// The same after the configuration was read again.
    #[must_use]
    pub fn reload(self: &Arc<Self>, path: Option<PathBuf>) -> Arc<Self> {
        if self.path != path {
            return Arc::new(Self::load(path));
        }
        *lock(&self.seen) = None;
        self.failing.store(false, Ordering::Relaxed);
        self.look();
        Arc::clone(self)
    }

    /// The key of this name, good or not.
    pub fn get(&self, id: KeyId) -> Option<Arc<Known>> {
        lock(&self.keys).get(&id).cloned()
    }

    /// The key of this name, good or not, if this is its hash. A name that nobody has goes the same way as one with
    /// another hash, so how long the answer takes does not tell them apart.
    pub fn find(&self, id: KeyId, hash: &KeyHash) -> Option<Arc<Known>> {
        let known = Arc::clone(lock(&self.keys).get(&id).unwrap_or(&self.nobody));
        known.key.hash.is(hash).then_some(known)
    }

    /// All keys.
    pub fn all(&self) -> Vec<Arc<Known>> {
        lock(&self.keys).values().cloned().collect()
    }

    /// Grows whenever a key that was good may not be any more.
    pub fn changes(&self) -> u64 {
        self.changes.load(Ordering::Acquire)
    }

    /// Looks each second whether the file is another one, as long as the ring is in use.
    pub fn watch(self: &Arc<Self>) -> impl Future<Output = ()> + use<> {
        let ring = Arc::downgrade(self);
        async move {
            loop {
                tokio::time::sleep(LOOK).await;
                let Some(ring) = Weak::upgrade(&ring) else { return };
                if ring.path.is_some() && tokio::task::spawn_blocking(move || ring.look()).await.is_err() {
                    return;
                }
            }
        }
    }

    /// Reads the file if it is another one than it was. One that can't be read changes nothing: that is told once, and
    /// it is read again the next time, since what was wrong may not have been the file (too many open ones).
    fn look(&self) {
        let Some(path) = &self.path else { return };
        let stamp = stamp(path);
        if lock(&self.seen).replace(stamp) == Some(stamp) {
            return;
        }
        let (read, wrong) = match read(path) {
            Ok(read) => read,
            Err(error) => {
                *lock(&self.seen) = None;
                if !self.failing.swap(true, Ordering::Relaxed) {
                    let error = secret::causes(&error);
                    tracing::error!(error, "API keys stay as they were: the file of keys is of no use");
                }
                return;
            }
        };
        self.failing.store(false, Ordering::Relaxed);
        if !wrong.is_empty() {
            tracing::error!(
                path = %path.display(), lines = ?wrong,
                "these lines are no API keys: make keys with `keyway key new`"
            );
        }
        let mut keys = lock(&self.keys);
        *keys = read
            .into_iter()
            .map(|key| {
                let used = keys.get(&key.id).map_or(0, |known| known.used.load(Ordering::Relaxed));
                (key.id, Arc::new(Known { key, used: AtomicI64::new(used) }))
            })
            .collect();
        drop(keys);
        self.changes.fetch_add(1, Ordering::Release);
    }
}

impl fmt::Debug for Keyring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keyring").field("path", &self.path).finish_non_exhaustive()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::super::key;
    use super::*;

    fn made(identity: &str, ends: Option<&str>, note: &str) -> ApiKey {
        let (id, secret) = key::make();
        ApiKey {
            id,
            identity: identity.to_owned(),
            hash: KeyHash::of(secret.expose().as_bytes()),
            made: "2026-11-22T10:00:00Z".parse().unwrap(),
            ends: ends.map(|ends| ends.parse().unwrap()),
            note: note.to_owned(),
        }
    }

    #[test]
    fn keys_are_added_and_taken_away_and_other_lines_stay() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("below/api-keys");
        assert_eq!(read(&path).unwrap().0.len(), 0);
        let (ada, bob) =
            (made("ada", Some("2027-01-01T00:00:00Z"), "a laptop, at home"), made("bob", None, ""));
        add(&path, &ada).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        fs::write(&path, format!("# team\n\nnonsense\n{ada}\n")).unwrap();
        add(&path, &bob).unwrap();
        let (keys, wrong) = read(&path).unwrap();
        let lines: Vec<_> = keys.iter().map(ToString::to_string).collect();
        assert_eq!(lines, [ada.to_string(), bob.to_string()]);
        assert_eq!(wrong, [3]);
        assert!(keys[0].is_good("2026-12-31T23:59:59Z".parse().unwrap()));
        assert!(!keys[0].is_good("2027-01-01T00:00:00Z".parse().unwrap()));
        assert_eq!(remove(&path, ada.id).unwrap().note, "a laptop, at home");
        assert!(matches!(remove(&path, ada.id), Err(Error::Unknown { .. })));
        assert_eq!(fs::read_to_string(&path).unwrap(), format!("# team\n\nnonsense\n{bob}\n"));
    }

    #[test]
    fn a_file_that_others_may_change_has_no_keys() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("api-keys");
        add(&path, &made("ada", None, "")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o620)).unwrap();
        let error = read(&path).unwrap_err().to_string();
        assert!(error.contains("chmod 600"), "{error}");
        assert_eq!(Keyring::load(Some(path)).all().len(), 0);
    }

    #[test]
    fn a_file_that_was_of_no_use_is_read_once_it_is_again_though_nobody_wrote_it() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("api-keys");
        let (ada, bob) = (made("ada", None, ""), made("bob", None, ""));
        add(&path, &ada).unwrap();
        add(&path, &bob).unwrap();
        let ring = Keyring::load(Some(path.clone()));
        remove(&path, ada.id).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o620)).unwrap();
        ring.look();
        assert!(ring.get(ada.id).is_some(), "what can't be trusted changes nothing");
        // Neither its time nor its length changes.
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        ring.look();
        assert!(ring.get(ada.id).is_none() && ring.get(bob.id).is_some());
    }

    #[test]
    fn many_who_make_keys_at_once_lose_none() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("api-keys");
        let keys: Vec<_> = (0..12).map(|_| made("ada", None, "")).collect();
        std::thread::scope(|scope| {
            for key in &keys {
                scope.spawn(|| add(&path, key).unwrap());
            }
        });
        let (read, wrong) = read(&path).unwrap();
        assert_eq!((read.len(), wrong.len()), (12, 0));
        assert!(keys.iter().all(|key| read.iter().any(|read| read.id == key.id)));
    }

    #[test]
    fn a_ring_follows_its_file_and_remembers_when_a_key_was_used() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("api-keys");
        let ring = Keyring::load(Some(path.clone()));
        let (ada, bob) = (made("ada", None, ""), made("bob", None, ""));
        let before = ring.changes();
        add(&path, &ada).unwrap();
        ring.look();
        assert!(ring.changes() > before);
        ring.get(ada.id).unwrap().used.store(7, Ordering::Relaxed);
        add(&path, &bob).unwrap();
        ring.look();
        assert_eq!(ring.get(ada.id).unwrap().used.load(Ordering::Relaxed), 7);
        let same = ring.changes();
        ring.look();
        assert_eq!(ring.changes(), same);
        remove(&path, ada.id).unwrap();
        ring.look();
        assert!(ring.get(ada.id).is_none() && ring.get(bob.id).is_some());
        fs::remove_file(&path).unwrap();
        ring.look();
        assert_eq!(ring.all().len(), 0);
    }
}
