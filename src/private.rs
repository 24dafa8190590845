//! Files for keyway alone: how are they written, and who else may have had a hand in them?
//!
//! What outlives the process lies in directories and files that only keyway's own user may use. Here is what
//! they have in common: who owns them and what their modes let others do, keys of 32 random bytes, files that
//! are there as a whole or not at all, and locks. What the files mean is not known here.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE};
use ring::hmac;
use ring::rand::{SecureRandom as _, SystemRandom};
use rustix::fs::{Access, AtFlags, CWD};
use zeroize::Zeroizing;

/// Keys that a file may have.
pub const MAX_KEYS: usize = 16;

/// How large a file of keys may be, bytes.
const MAX_KEY_FILE: u64 = 16 << 10;

/// What nobody but the owner may do with a file; the same with a directory whose names tell nobody anything.
pub const NOTHING: u32 = 0o077;
/// What nobody but the owner may do: change it.
pub const NO_CHANGE: u32 = 0o022;

/// 32 random bytes.
pub type Key = Zeroizing<[u8; 32]>;

/// Why a file or a directory is of no use.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Others can read what is in it, or put something else in its place.
    #[error(
        "{} {what} by other users than keyway's own, who could then use its tokens or make some: chmod {mode} {}, and \
         remove the keys in it if they may have read them", path.display(), path.display()
    )]
    Exposed {
        /// What.
        path: PathBuf,
        /// `can be read`, `can be changed`.
        what: &'static str,
        /// What it should be.
        mode: &'static str,
    },
    /// It belongs to somebody else.
    #[error("{} belongs to another user (id {owner}): chown it to keyway's own, or name a directory of its own", path.display())]
    Owner {
        /// What.
        path: PathBuf,
        /// Whose.
        owner: u32,
    },
    /// The file of keys has none, or something else.
    #[error(
        "{}: line {line} is no key: write 32 random bytes in base64 per line, as `openssl rand -base64 32` does, or \
         remove the file for a new one", path.display()
    )]
    NoKey {
        /// The file.
        path: PathBuf,
        /// The first line that is wrong; 0 where there is none at all.
        line: usize,
    },
    /// The system says no.
    #[error("{} cannot be used", path.display())]
    System {
        /// What.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

impl Error {
    /// Whether the operator has to act; else there is just no such place for this process.
    pub fn is_mistake(&self) -> bool {
        !matches!(self, Self::System { .. })
    }

    /// The system's refusal to do something with this path.
    pub fn system(path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::System { path, source }
    }
}

/// Checks that nobody but this user (and root) has anything to say here; `forbidden` are the bits of the mode
/// that others may not have.
///
/// # Errors
/// [`Error::Owner`], [`Error::Exposed`].
pub fn check_owner(path: &Path, metadata: &fs::Metadata, forbidden: u32) -> Result<(), Error> {
    let owner = metadata.uid();
    if owner != 0 && owner != rustix::process::geteuid().as_raw() {
        return Err(Error::Owner { path: path.to_owned(), owner });
    }
    let open = metadata.mode() & forbidden & !handed_over(metadata);
    if open == 0 {
        return Ok(());
    }
    let what = if open & NO_CHANGE != 0 { "can be changed" } else { "can be read" };
    let mode = if metadata.is_dir() { "700" } else { "600" };
    Err(Error::Exposed { path: path.to_owned(), what, mode })
}

/// The bit of a file's mode by which root has handed it to this process, and which therefore exposes it to nobody.
///
/// Kubernetes mounts a Secret so: the files stay root's, their group is the pod's (`fsGroup`), and reading is all that
/// it may do. So it has to be the very group that the process runs as; one that it is merely in has other members.
pub fn handed_over(metadata: &fs::Metadata) -> u32 {
    let own = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    if metadata.is_file() { handed_over_to(own, (metadata.uid(), metadata.gid())) } else { 0 }
}

fn handed_over_to((user, own_group): (u32, u32), (owner, group): (u32, u32)) -> u32 {
    if owner == 0 && user != 0 && group == own_group { 0o040 } else { 0 }
}

/// The same for a directory; whether it is there at all.
///
/// # Errors
/// As with [`check_owner`], and [`Error::System`].
pub fn check_directory(directory: &Path, forbidden: u32) -> Result<bool, Error> {
    match fs::metadata(directory) {
        Ok(metadata) => check_owner(directory, &metadata, forbidden).map(|()| true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(Error::system(directory)(error)),
    }
}

/// The keys of a file, one a line, at least one; `None` if there is no such file.
///
/// # Errors
/// See [`Error`].
pub fn read_keys(path: &Path, forbidden: u32) -> Result<Option<Vec<Key>>, Error> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(Error::system(path)(error)),
    };
    let metadata = file.metadata().map_err(Error::system(path))?;
    check_owner(path, &metadata, forbidden)?;
    let mut text = Zeroizing::new(String::with_capacity(4096));
    file.take(MAX_KEY_FILE).read_to_string(&mut text).map_err(Error::system(path))?;
    parse_keys(&text).map(Some).map_err(|line| Error::NoKey { path: path.to_owned(), line })
}

/// # Errors
/// The first line that is no key; 0 if there is none.
fn parse_keys(text: &str) -> Result<Vec<Key>, usize> {
    let mut keys = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let mut key = Key::default();
        let decoded = [STANDARD, URL_SAFE].iter().any(|form| form.decode_slice(line, &mut key[..]) == Ok(32));
        if !decoded || keys.len() == MAX_KEYS {
            return Err(number + 1);
        }
        keys.push(key);
    }
    if keys.is_empty() { Err(0) } else { Ok(keys) }
}

/// Makes a file of this key, and the directory that it is in. Where somebody else was quicker, the keys are the
/// other's.
///
/// # Errors
/// See [`Error`].
pub fn write_key(path: &Path, key: &Key) -> Result<Vec<Key>, Error> {
    let write = || {
        let directory = path.parent().unwrap_or(Path::new("/"));
        make_directory(directory)?;
        let text = Zeroizing::new(format!("{}\n", *Zeroizing::new(STANDARD.encode(key.as_slice()))));
        // A link to a whole file is there or not; to write under the name itself would show a part to others.
        let whole = write_beside(path, text.as_bytes())?;
        let linked = fs::hard_link(&whole, path);
        fs::remove_file(&whole)?;
        match linked {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
        File::open(directory)?.sync_all()
    };
    write().map_err(Error::system(path))?;
    read_keys(path, NOTHING)?.ok_or_else(|| Error::system(path)(io::ErrorKind::NotFound.into()))
}

/// Makes a directory that only its owner may enter, and those that it is in.
///
/// # Errors
/// The system's own.
pub fn make_directory(directory: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(directory)
}

/// Whether the directory can be made, or a file in it: asked without doing so.
///
/// # Errors
/// [`Error::System`].
pub fn may_write(directory: &Path) -> Result<(), Error> {
    let there = directory.ancestors().find(|path| path.exists()).unwrap_or(directory);
    let rights = Access::WRITE_OK | Access::EXEC_OK;
    let may = match there.is_dir() {
        true => rustix::fs::accessat(CWD, there, rights, AtFlags::EACCESS).map_err(io::Error::from),
        false => Err(io::ErrorKind::NotADirectory.into()),
    };
    may.map_err(Error::system(directory))
}

/// A new file beside `path`, for its owner only, with these contents.
fn write_beside(path: &Path, contents: &[u8]) -> io::Result<PathBuf> {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{:016x}", u64::from_be_bytes(random())));
    let whole = PathBuf::from(name);
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&whole)?;
    let written = file.write_all(contents).and_then(|()| file.sync_all());
    if let Err(error) = written {
        let _ = fs::remove_file(&whole);
        return Err(error);
    }
    Ok(whole)
}

/// Puts a new file, for its owner only, in the place of the one at `path`, if any. Whoever opens it has all of
/// one or of the other.
///
/// # Errors
/// The system's own.
pub fn replace(path: &Path, contents: &[u8]) -> io::Result<()> {
    let whole = write_beside(path, contents)?;
    fs::rename(&whole, path).inspect_err(|_| drop(fs::remove_file(&whole)))?;
    match path.parent() {
        Some(directory) => File::open(directory)?.sync_all(),
        None => Ok(()),
    }
}

/// Locks the file at `path`, which is made if it is not there, as long as the result is open; `None` while
/// somebody else has it.
///
/// # Errors
/// The system's own, and what [`check_owner`] has against it.
pub fn try_lock(path: &Path) -> io::Result<Option<File>> {
    let file = OpenOptions::new().read(true).append(true).create(true).mode(0o600).open(path)?;
    match file.try_lock() {
        // It may have been replaced or removed before it was locked.
        Ok(()) if fs::metadata(path).is_ok_and(|there| same(&there, &file)) => {
            check_owner(path, &file.metadata()?, NO_CHANGE).map_err(io::Error::other)?;
            Ok(Some(file))
        }
        Ok(()) | Err(fs::TryLockError::WouldBlock) => Ok(None),
        Err(fs::TryLockError::Error(error)) => Err(error),
    }
}

/// The right to do something, which one process has at a time: a locked file that goes with it.
#[derive(Debug)]
pub struct Lock {
    path: PathBuf,
    /// Closing it unlocks it, which is after the path was removed.
    _file: File,
}

impl Lock {
    /// The one at `path`, whose directory is made if it is not there; `None` while somebody else has it.
    ///
    /// # Errors
    /// As with [`try_lock`].
    pub fn take(path: &Path) -> io::Result<Option<Self>> {
        make_directory(path.parent().unwrap_or(Path::new("/")))?;
        Ok(try_lock(path)?.map(|file| Self { path: path.to_owned(), _file: file }))
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

fn same(there: &fs::Metadata, file: &File) -> bool {
    file.metadata().is_ok_and(|metadata| which(&metadata) == which(there))
}

/// Which file it is, whatever its name: device and number.
pub fn which(metadata: &fs::Metadata) -> (u64, u64) {
    (metadata.dev(), metadata.ino())
}

/// What tells one state of a file from another: which it is, when it was written, and its length.
pub type Stamp = ((u64, u64), Option<SystemTime>, u64);

/// The state that the file is in now; the default where it can't be seen.
pub fn stamp(path: &Path) -> Stamp {
    let metadata = fs::metadata(path).ok();
    metadata.map(|metadata| (which(&metadata), metadata.modified().ok(), metadata.len())).unwrap_or_default()
}

/// Random bytes.
///
/// # Panics
/// The system has no random numbers, without which nothing here is safe.
pub fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    SystemRandom::new().fill(&mut bytes).expect("the system gives random numbers");
    bytes
}

/// A keyed hash (HMAC-SHA256) of each part with its length, so that no two lists of parts are the same bytes.
pub fn derive(key: &Key, parts: &[&[u8]]) -> hmac::Tag {
    let mut context = hmac::Context::with_key(&hmac::Key::new(hmac::HMAC_SHA256, key.as_slice()));
    for part in parts {
        context.update(&(part.len() as u64).to_be_bytes());
        context.update(part);
    }
    context.sign()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn directory() -> tempfile::TempDir {
        tempfile::tempdir().expect("a temporary directory")
    }

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).expect("it is there").mode() & 0o7777
    }

    // Promise 84.
    #[test]
    fn a_key_is_made_once_and_for_its_owner_only() {
        let home = directory();
        let state = home.path().join("a/keyway");
        let keys = state.join("keys");
        assert!(read_keys(&keys, NOTHING).unwrap().is_none());
        may_write(&state).unwrap();
        assert!(!home.path().join("a").exists());
        let made = write_key(&keys, &Key::new([1; 32])).unwrap();
        assert_eq!(made, [Key::new([1; 32])]);
        assert_eq!((mode(&state), mode(&keys)), (0o700, 0o600));
        assert_eq!(read_keys(&keys, NOTHING).unwrap().unwrap(), made);
        assert_eq!(write_key(&keys, &Key::new([2; 32])).unwrap(), made);
        assert_eq!(fs::read_dir(&state).unwrap().count(), 1, "nothing is left beside it");
    }

    #[test]
    fn of_many_that_make_a_key_at_once_one_wins() {
        let home = directory();
        let keys = &home.path().join("keys");
        let all: Vec<_> = std::thread::scope(|scope| {
            let made: Vec<_> =
                (0..8).map(|n| scope.spawn(move || write_key(keys, &Key::new([n; 32])).unwrap())).collect();
            made.into_iter().map(|made| made.join().unwrap()).collect()
        });
        assert!(all.iter().all(|keys| *keys == all[0]));
    }

    // Promise 84.
    #[test]
    fn what_others_can_read_or_change_is_told_with_what_to_do() {
        let home = directory();
        let path = home.path().join("keys");
        write_key(&path, &Key::default()).unwrap();
        for (bits, forbidden, expected) in [
            (0o644, NOTHING, Some("can be read")),
            (0o640, NOTHING, Some("can be read")),
            (0o620, NOTHING, Some("can be changed")),
            (0o644, NO_CHANGE, None),
            (0o622, NO_CHANGE, Some("can be changed")),
        ] {
            fs::set_permissions(&path, fs::Permissions::from_mode(bits)).unwrap();
            let error = read_keys(&path, forbidden).err().map(|error| error.to_string());
            assert_eq!(error.is_some(), expected.is_some(), "{bits:o} {error:?}");
            if let (Some(error), Some(expected)) = (error, expected) {
                assert!(error.contains(expected) && error.contains("chmod 600"), "{error}");
            }
        }
        fs::set_permissions(home.path(), fs::Permissions::from_mode(0o750)).unwrap();
        assert!(check_directory(home.path(), NO_CHANGE).unwrap());
        let error = check_directory(home.path(), NOTHING).unwrap_err().to_string();
        assert!(error.contains("can be read") && error.contains("chmod 700"), "{error}");
        assert!(!check_directory(&home.path().join("none"), NOTHING).unwrap());
    }

    // Promises 14, 84.
    #[test]
    fn what_root_handed_to_this_process_s_group_is_no_exposure_and_nothing_else_is() {
        for (own, file, expected) in [
            ((1000, 1000), (0, 1000), 0o040),
            // Another group has other members, and a file of its own is the user's to chmod.
            ((1000, 1000), (0, 100), 0),
            ((1000, 1000), (0, 0), 0),
            ((1000, 1000), (1000, 1000), 0),
            ((1000, 1000), (1001, 1000), 0),
            // Root needs no group.
            ((0, 0), (0, 0), 0),
            ((0, 1000), (0, 1000), 0),
        ] {
            assert_eq!(handed_over_to(own, file), expected, "{own:?} {file:?}");
        }
        let home = directory();
        assert_eq!(handed_over(&fs::metadata(home.path()).unwrap()), 0, "a directory is not handed over");
    }

    #[test]
    fn keys_are_one_a_line_and_anything_else_is_named() {
        let (a, b) = (STANDARD.encode([0xfb; 32]), URL_SAFE.encode([0xff; 32]));
        assert_eq!(
            parse_keys(&format!("# new\n{a}\n\n{b}\n")).unwrap(),
            [Key::new([0xfb; 32]), Key::new([0xff; 32])]
        );
        for (text, line) in [
            (String::new(), 0),
            ("\n#\n".to_owned(), 0),
            (format!("{a}\nhunter2\n"), 2),
            (STANDARD.encode([1; 31]), 1),
            (STANDARD.encode([1; 33]), 1),
            (STANDARD.encode([1; 64]), 1),
            (format!("{a}\n").repeat(17), 17),
        ] {
            assert_eq!(parse_keys(&text).unwrap_err(), line, "{text}");
        }
        let home = directory();
        let path = home.path().join("keys");
        write_key(&path, &Key::default()).unwrap();
        fs::write(&path, "hunter2\n").unwrap();
        let error = read_keys(&path, NOTHING).unwrap_err().to_string();
        assert!(error.contains("line 1") && !error.contains("hunter2"), "{error}");
    }

    #[test]
    fn a_lock_is_one_holders_and_a_removed_file_is_none() {
        let home = directory();
        let path = home.path().join("lock");
        let held = try_lock(&path).unwrap().expect("nobody has it");
        assert_eq!(mode(&path), 0o600);
        assert!(try_lock(&path).unwrap().is_none());
        fs::remove_file(&path).unwrap();
        let next = try_lock(&path).unwrap().expect("that is another file");
        drop(held);
        assert!(try_lock(&path).unwrap().is_none());
        drop(next);
        assert!(try_lock(&path).unwrap().is_some());
    }

    #[test]
    fn a_file_is_replaced_as_a_whole() {
        let home = directory();
        let path = home.path().join("file");
        for contents in [&b"one"[..], b"another"] {
            replace(&path, contents).unwrap();
            assert_eq!((fs::read(&path).unwrap().as_slice(), mode(&path)), (contents, 0o600));
        }
        assert_eq!(fs::read_dir(home.path()).unwrap().count(), 1);
    }

    #[test]
    fn lists_of_parts_are_told_apart() {
        let key = Key::default();
        let of = |parts: &[&[u8]]| derive(&key, parts).as_ref().to_vec();
        assert_ne!(of(&[b"ab", b"c"]), of(&[b"a", b"bc"]));
        assert_ne!(of(&[b"a"]), of(&[b"a", b""]));
    }
}
