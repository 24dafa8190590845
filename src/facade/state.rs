//! What outlives the process: the keys that seal tokens, and which tokens were revoked.
//!
//! A directory holds both, for its owner only. `keys` has 32 random bytes in base64 per line; the first line
//! seals, all open; it is written when a first token is sealed, not before. `revoked` has a line for each token that was revoked before its end; lines are only ever
//! added to it, under a lock, until so many tokens of it have ended that it is written anew. Any number of
//! keyways may share the directory.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE};
use rustix::fs::{Access, AtFlags, CWD};
use zeroize::Zeroizing;

use super::keys::{Key, random};

const KEYS: &str = "keys";
const REVOKED: &str = "revoked";

/// Keys that a file may have.
pub(super) const MAX_KEYS: usize = 16;

/// How large the file of keys may be, bytes.
const MAX_KEY_FILE: u64 = 16 << 10;

/// How large the file of revocations may become before it is written anew, bytes; and how large one may be
/// that is read at all: a line has up to 54 bytes, and there are [`super::keys::MAX_REVOKED`] of them twice.
const PRUNE_AT: u64 = 256 << 10;
const MAX_REVOKED_FILE: u64 = 16 << 20;

/// How often the lock is tried for, and how long after the last time.
const TRIES: u32 = 100;
const PAUSE: Duration = Duration::from_millis(20);

/// Why the directory is of no use.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// Others can read a key, or put another one in its place.
    #[error(
        "{} {what} by other users than keyway's own, who could then make tokens of keyway's: chmod {mode} {}, and \
         remove `keys` in it if they may have read it", path.display(), path.display()
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
    #[error("{} belongs to another user (id {owner}): chown it to keyway's own, or set facade.state to a directory of its own", path.display())]
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

impl StateError {
    /// Whether the operator has to act; else there is just no such place for this process.
    pub(super) fn is_mistake(&self) -> bool {
        !matches!(self, Self::System { .. })
    }
}

/// Checks a directory as far as it is there, and writes nothing.
///
/// # Errors
/// What is wrong with it. A directory that can't be read is not wrong.
pub fn check(directory: &Path) -> Result<(), StateError> {
    match read_keys(directory) {
        Err(error) if error.is_mistake() => Err(error),
        _ => Ok(()),
    }
}

/// The keys that are there; `None` if there is no such file.
pub(super) fn read_keys(directory: &Path) -> Result<Option<Vec<Key>>, StateError> {
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |source| StateError::System { path, source }
    };
    match fs::metadata(directory) {
        Ok(metadata) => check_owner(directory, &metadata, 0o022)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(directory)(error)),
    }
    let path = directory.join(KEYS);
    let file = match File::open(&path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(&path)(error)),
    };
    let metadata = file.metadata().map_err(failed(&path))?;
    check_owner(&path, &metadata, 0o077)?;
    let mut text = Zeroizing::new(String::with_capacity(4096));
    file.take(MAX_KEY_FILE).read_to_string(&mut text).map_err(failed(&path))?;
    parse_keys(&text).map(Some).map_err(|line| StateError::NoKey { path, line })
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

/// Whether the directory can be made, or a file in it: asked without doing so.
pub(super) fn may_write(directory: &Path) -> Result<(), StateError> {
    let there = directory.ancestors().find(|path| path.exists()).unwrap_or(directory);
    let rights = Access::WRITE_OK | Access::EXEC_OK;
    let may = match there.is_dir() {
        true => rustix::fs::accessat(CWD, there, rights, AtFlags::EACCESS).map_err(io::Error::from),
        false => Err(io::ErrorKind::NotADirectory.into()),
    };
    may.map_err(|source| StateError::System { path: directory.to_owned(), source })
}

/// Makes the directory and writes this key into it. Where another keyway was quicker, the keys are its own.
pub(super) fn write_key(directory: &Path, key: &Key) -> Result<Vec<Key>, StateError> {
    let path = directory.join(KEYS);
    let write = || {
        DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
        let text = Zeroizing::new(format!("{}\n", *Zeroizing::new(STANDARD.encode(key.as_slice()))));
        // A link to a whole file is there or not; to write under the name itself would show a part to others.
        let whole = write_beside(&path, text.as_bytes())?;
        let linked = fs::hard_link(&whole, &path);
        fs::remove_file(&whole)?;
        match linked {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
        File::open(directory)?.sync_all()
    };
    write().map_err(|source| StateError::System { path: path.clone(), source })?;
    let gone = || StateError::System { path, source: io::ErrorKind::NotFound.into() };
    read_keys(directory)?.ok_or_else(gone)
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

/// Checks that nobody but this user (and root) has anything to say here.
fn check_owner(path: &Path, metadata: &fs::Metadata, forbidden: u32) -> Result<(), StateError> {
    let owner = metadata.uid();
    if owner != 0 && owner != rustix::process::geteuid().as_raw() {
        return Err(StateError::Owner { path: path.to_owned(), owner });
    }
    if metadata.mode() & forbidden == 0 {
        return Ok(());
    }
    let (what, mode) = match metadata.is_dir() {
        true => ("can be changed", "700"),
        false if metadata.mode() & 0o022 != 0 => ("can be changed", "600"),
        false => ("can be read", "600"),
    };
    Err(StateError::Exposed { path: path.to_owned(), what, mode })
}

/// A line of the file of revocations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Revocation {
    /// This token, which ends then.
    Token([u8; 16], i64),
    /// All that were issued until then.
    Until(i64),
}

impl Revocation {
    fn line(self) -> String {
        match self {
            Self::Token(id, end) => format!("{:032x} {end}\n", u128::from_be_bytes(id)),
            Self::Until(at) => format!("until {at}\n"),
        }
    }

    fn parse(line: &str) -> Option<Self> {
        let (what, at) = line.split_once(' ')?;
        let at = at.parse().ok()?;
        if what == "until" {
            return Some(Self::Until(at));
        }
        let hex = what.len() == 32 && what.bytes().all(|byte| byte.is_ascii_hexdigit());
        let id = u128::from_str_radix(what, 16).ok().filter(|_| hex)?;
        Some(Self::Token(id.to_be_bytes(), at))
    }
}

/// The file of revocations, as far as it was read.
#[derive(Debug)]
pub(super) struct Journal {
    path: PathBuf,
    /// Which file it was: device and number.
    file: (u64, u64),
    /// How much of it was read.
    read: u64,
    /// At which size it is next looked through for what has ended.
    prune_at: u64,
}

impl Journal {
    /// Of this directory; nothing was read yet.
    pub(super) fn of(directory: &Path) -> Self {
        Self { path: directory.join(REVOKED), file: (0, 0), read: 0, prune_at: PRUNE_AT }
    }

    /// What was added since the last time, by whomever.
    pub(super) fn news(&mut self) -> io::Result<Vec<Revocation>> {
        match fs::metadata(&self.path) {
            Ok(metadata) if which(&metadata) == self.file && metadata.len() == self.read => {
                return Ok(Vec::new());
            }
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(error),
        }
        let mut file = File::open(&self.path)?;
        let metadata = file.metadata()?;
        check_owner(&self.path, &metadata, 0o022).map_err(io::Error::other)?;
        if which(&metadata) != self.file || metadata.len() < self.read {
            (self.file, self.read) = (which(&metadata), 0);
        }
        file.seek(SeekFrom::Start(self.read))?;
        let mut text = Vec::new();
        file.take(MAX_REVOKED_FILE).read_to_end(&mut text)?;
        // A line without its end is still being written.
        let whole = text.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
        self.read += whole as u64;
        Ok(parse(&text[..whole]))
    }

    /// Adds a line, and writes the file anew if it has become long: without what has ended by `now`, UNIX
    /// seconds. `oldest` is when the oldest token that can still be good was issued.
    pub(super) fn add(&mut self, revocation: Revocation, now: i64, oldest: i64) -> io::Result<()> {
        let mut file = self.lock()?;
        let mut line = revocation.line();
        let length = file.seek(SeekFrom::End(0))?;
        if length > 0 {
            let mut last = [0];
            file.seek(SeekFrom::End(-1))?;
            file.read_exact(&mut last)?;
            // Somebody could not write all of a line.
            if last != *b"\n" {
                line.insert(0, '\n');
            }
        }
        file.write_all(line.as_bytes())?;
        file.sync_data()?;
        let length = length + line.len() as u64;
        if length > self.prune_at {
            let kept = self.prune(&mut file, now, oldest)?;
            self.prune_at = PRUNE_AT.max(kept * 2);
        }
        Ok(())
    }

    /// Lets go of what has ended; called at start.
    pub(super) fn clean(&mut self, now: i64, oldest: i64) -> io::Result<()> {
        if !self.path.exists() {
            return Ok(());
        }
        let mut file = self.lock()?;
        let kept = self.prune(&mut file, now, oldest)?;
        self.prune_at = PRUNE_AT.max(kept * 2);
        Ok(())
    }

    /// The file, which nobody else adds to as long as this is open.
    fn lock(&self) -> io::Result<File> {
        let open = || OpenOptions::new().read(true).append(true).create(true).mode(0o600).open(&self.path);
        for _ in 0..TRIES {
            let file = open()?;
            match file.try_lock() {
                // It may have been replaced before it was locked.
                Ok(()) if fs::metadata(&self.path).is_ok_and(|there| same(&there, &file)) => {
                    check_owner(&self.path, &file.metadata()?, 0o022).map_err(io::Error::other)?;
                    return Ok(file);
                }
                Ok(()) => {}
                Err(fs::TryLockError::WouldBlock) => std::thread::sleep(PAUSE),
                Err(fs::TryLockError::Error(error)) => return Err(error),
            }
        }
        Err(io::ErrorKind::ResourceBusy.into())
    }

    /// Puts another file in the place of this one, which is locked; how long it is.
    fn prune(&self, file: &mut File, now: i64, oldest: i64) -> io::Result<u64> {
        let mut text = Vec::new();
        file.rewind()?;
        file.take(MAX_REVOKED_FILE).read_to_end(&mut text)?;
        let kept: String = parse(&text)
            .into_iter()
            .filter(|revocation| match revocation {
                Revocation::Token(_, end) => *end > now,
                Revocation::Until(at) => *at >= oldest,
            })
            .map(Revocation::line)
            .collect();
        if kept.len() == text.len() {
            return Ok(kept.len() as u64);
        }
        let whole = write_beside(&self.path, kept.as_bytes())?;
        fs::rename(&whole, &self.path).inspect_err(|_| drop(fs::remove_file(&whole)))?;
        if let Some(directory) = self.path.parent() {
            File::open(directory)?.sync_all()?;
        }
        Ok(kept.len() as u64)
    }
}

/// Lines that are none are left out: what they said can't be known.
fn parse(text: &[u8]) -> Vec<Revocation> {
    String::from_utf8_lossy(text).lines().filter_map(Revocation::parse).collect()
}

fn which(metadata: &fs::Metadata) -> (u64, u64) {
    (metadata.dev(), metadata.ino())
}

fn same(there: &fs::Metadata, file: &File) -> bool {
    file.metadata().is_ok_and(|metadata| which(&metadata) == which(there))
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
        assert!(read_keys(&state).unwrap().is_none());
        may_write(&state).unwrap();
        assert!(!home.path().join("a").exists());
        let made = write_key(&state, &Key::new([1; 32])).unwrap();
        assert_eq!(made, [Key::new([1; 32])]);
        assert_eq!((mode(&state), mode(&state.join(KEYS))), (0o700, 0o600));
        assert_eq!(read_keys(&state).unwrap().unwrap(), made);
        assert_eq!(write_key(&state, &Key::new([2; 32])).unwrap(), made);
        assert_eq!(fs::read_dir(&state).unwrap().count(), 1, "nothing is left beside it");
    }

    #[test]
    fn of_many_that_make_a_key_at_once_one_wins() {
        let home = directory();
        let home = home.path();
        let all: Vec<_> = std::thread::scope(|scope| {
            let made: Vec<_> =
                (0..8).map(|n| scope.spawn(move || write_key(home, &Key::new([n; 32])).unwrap())).collect();
            made.into_iter().map(|made| made.join().unwrap()).collect()
        });
        assert!(all.iter().all(|keys| *keys == all[0]));
    }

    // Promise 84.
    #[test]
    fn a_key_that_others_can_read_or_change_is_refused() {
        let home = directory();
        let path = home.path().join(KEYS);
        write_key(home.path(), &Key::default()).unwrap();
        for (path, mode, expected) in [
            (&path, 0o644, "can be read"),
            (&path, 0o640, "can be read"),
            (&path, 0o620, "can be changed"),
            (&home.path().to_owned(), 0o770, "can be changed"),
        ] {
            let before = fs::metadata(path).unwrap().permissions();
            fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
            let error = check(home.path()).unwrap_err().to_string();
            assert!(error.contains(expected) && error.contains("chmod"), "{error}");
            fs::set_permissions(path, before).unwrap();
            check(home.path()).unwrap();
        }
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
        write_key(home.path(), &Key::default()).unwrap();
        fs::write(home.path().join(KEYS), "hunter2\n").unwrap();
        let error = check(home.path()).unwrap_err().to_string();
        assert!(error.contains("line 1") && !error.contains("hunter2"), "{error}");
    }

    #[test]
    fn what_one_adds_all_read_and_torn_lines_spoil_nothing() {
        let home = directory();
        let (mut one, mut other) = (Journal::of(home.path()), Journal::of(home.path()));
        assert_eq!(other.news().unwrap(), []);
        let all = [Revocation::Token([0xab; 16], 100), Revocation::Token([0; 16], 50), Revocation::Until(7)];
        one.add(all[0], 0, 0).unwrap();
        assert_eq!(other.news().unwrap(), all[..1]);
        assert_eq!(other.news().unwrap(), []);
        let path = home.path().join(REVOKED);
        assert_eq!(mode(&path), 0o600);
        fs::OpenOptions::new().append(true).open(&path).unwrap().write_all(b"abab").unwrap();
        assert_eq!(other.news().unwrap(), []);
        other.add(all[1], 0, 0).unwrap();
        other.add(all[2], 0, 0).unwrap();
        assert_eq!(other.news().unwrap(), all[1..]);
        assert_eq!(one.news().unwrap(), all);
        // What has ended goes, and the file is another one then.
        one.clean(60, 7).unwrap();
        assert_eq!(other.news().unwrap(), [all[0], all[2]]);
        one.clean(60, 8).unwrap();
        assert_eq!(Journal::of(home.path()).news().unwrap(), all[..1]);
    }

    #[test]
    fn a_long_file_is_written_anew_without_what_has_ended() {
        let home = directory();
        let path = home.path().join(REVOKED);
        let mut journal = Journal::of(home.path());
        journal.prune_at = 1000;
        for number in 0..100u8 {
            journal
                .add(Revocation::Token([number; 16], i64::from(number)), i64::from(number) - 5, 0)
                .unwrap();
            journal.prune_at = 1000;
            assert!(fs::metadata(&path).unwrap().len() < 1100);
        }
        let left = Journal::of(home.path()).news().unwrap();
        assert!(left.len() < 30 && left.contains(&Revocation::Token([99; 16], 99)), "{left:?}");
    }
}
