//! Which tokens outlive the process, and which of them are still good?
//!
//! A [`Store`] is a directory with one file for each login and scope, [sealed](super::seal) with a key from a file
//! elsewhere. Any number of keyways of this machine may share the directory; a lock by entry keeps two of them from
//! logging in for the same. Several machines share a [server](super::shared).
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
use std::time::Duration;

use rustix::fs::OFlags;
use rustix::io::Errno;

use super::seal::{ENTRY, MAGIC, Moment, Seal, Unusable};
use super::{Identity, Scope, Secret, Token};
use crate::private::{self, Key, Lock, NO_CHANGE, NOTHING};
use crate::secret;
use crate::upstream::tls;

/// The largest file that is read or written, bytes: the longest answer of Keystone's, and what stands around it.
const LARGEST: u64 = 9 << 20;

/// How many entries the directory may have; beyond that those go that end first.
const MOST: usize = 256;

/// How many files of the directory are looked at.
const MOST_LISTED: usize = 4 * MOST;

/// What follows the hash in the name of an entry's lock.
const LOCK: &str = ".lock";

/// The age from which something unfinished is a crashed keyway's.
const ABANDONED: Duration = Duration::from_secs(3600);

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
    use std::time::{Instant, SystemTime};

    use super::super::seal::tests::{NAME, token};
    use super::*;

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
