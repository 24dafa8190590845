//! What outlives the process: the keys that seal tokens, and which tokens were revoked.
//!
//! A directory holds both, for its owner only. `keys` has 32 random bytes in base64 per line; the first line
//! seals, all open; it is written when a first token is sealed, not before. `revoked` has a line for each token that
//! was revoked before its end; lines are only ever added to it, under a lock, until so many tokens of it have ended
//! that it is written anew. Any number of keyways may share the directory.

use std::fs::{self, File};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::private::{self, Error, Key, NO_CHANGE, NOTHING, which};

const KEYS: &str = "keys";
const REVOKED: &str = "revoked";

/// How large the file of revocations may become before it is written anew, bytes; and how large one may be
/// that is read at all: a line has up to 54 bytes, and there are [`super::keys::MAX_REVOKED`] of them twice.
const PRUNE_AT: u64 = 256 << 10;
const MAX_REVOKED_FILE: u64 = 16 << 20;

/// How often the lock is tried for, and how long after the last time.
const TRIES: u32 = 100;
const PAUSE: Duration = Duration::from_millis(20);

/// Checks a directory as far as it is there, and writes nothing.
///
/// # Errors
/// What is wrong with it. A directory that can't be read is not wrong.
pub fn check(directory: &Path) -> Result<(), Error> {
    match read_keys(directory) {
        Err(error) if error.is_mistake() => Err(error),
        _ => Ok(()),
    }
}

/// The keys that are there; `None` if there is no such file.
pub(super) fn read_keys(directory: &Path) -> Result<Option<Vec<Key>>, Error> {
    if !private::check_directory(directory, NO_CHANGE)? {
        return Ok(None);
    }
    private::read_keys(&directory.join(KEYS), NOTHING)
}

/// The keys of a file that the operator named and keyway never writes.
///
/// # Errors
/// Why it is of no use; that there is no such file, too.
pub fn read_file(path: &Path) -> Result<Vec<Key>, Error> {
    private::read_keys(path, NOTHING)?.ok_or_else(|| Error::system(path)(io::ErrorKind::NotFound.into()))
}

/// Makes the directory and writes this key into it. Where another keyway was quicker, the keys are its own.
pub(super) fn write_key(directory: &Path, key: &Key) -> Result<Vec<Key>, Error> {
    private::write_key(&directory.join(KEYS), key)
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
        private::check_owner(&self.path, &metadata, NO_CHANGE).map_err(io::Error::other)?;
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
        // Where the keys are elsewhere, nobody has made it.
        self.path.parent().map_or(Ok(()), private::make_directory)?;
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
        for _ in 0..TRIES {
            if let Some(file) = private::try_lock(&self.path)? {
                return Ok(file);
            }
            std::thread::sleep(PAUSE);
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
        private::replace(&self.path, kept.as_bytes())?;
        Ok(kept.len() as u64)
    }
}

/// Lines that are none are left out: what they said can't be known.
fn parse(text: &[u8]) -> Vec<Revocation> {
    String::from_utf8_lossy(text).lines().filter_map(Revocation::parse).collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};

    use super::*;

    fn directory() -> tempfile::TempDir {
        tempfile::tempdir().expect("a temporary directory")
    }

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).expect("it is there").mode() & 0o7777
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
