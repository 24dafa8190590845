//! Where does a secret come from, and what is it now?

use std::fs;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use super::{Command, Secret};

/// The longest secret that is read from elsewhere, bytes.
pub(super) const LONGEST: u64 = 64 << 10;

/// A secret of the configuration: itself, or where it is to be had.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// It stands in the configuration.
    Given(Secret),
    /// A file holds it, and perhaps a line's end behind it. It is read for each login.
    File(PathBuf),
    /// A program prints it. It is asked once, and again when the secret turns out to be wrong.
    Command(Command),
}

/// Why there is no secret: one sentence, without anything of what was read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Unreadable(String);

impl Unreadable {
    pub(super) fn new(why: String) -> Self {
        Self(why)
    }
}

impl From<Secret> for Source {
    fn from(secret: Secret) -> Self {
        Self::Given(secret)
    }
}

impl Source {
    /// The secret as it is now.
    ///
    /// # Errors
    /// [`Unreadable`], also for what is empty or no text.
    pub async fn read(&self) -> Result<Secret, Unreadable> {
        self.look(None).await
    }

    /// The same when it is known that `wrong` is of no use, so that another one is worth asking for.
    ///
    /// # Errors
    /// See [`Source::read`].
    pub async fn read_again(&self, wrong: &Secret) -> Result<Secret, Unreadable> {
        self.look(Some(wrong)).await
    }

    /// Whether it has changed since it was `known`, as far as that costs nothing to find out: commands are not run.
    pub async fn has_changed(&self, known: &Secret) -> bool {
        match self {
            Self::Given(_) | Self::Command(_) => false,
            Self::File(_) => self.read().await.is_ok_and(|secret| secret != *known),
        }
    }

    async fn look(&self, wrong: Option<&Secret>) -> Result<Secret, Unreadable> {
        match self {
            Self::Given(secret) => Ok(secret.clone()),
            Self::Command(command) => command.read(wrong).await,
            Self::File(path) => {
                let path = path.clone();
                let read = tokio::task::spawn_blocking(move || read_file(&path));
                read.await.unwrap_or_else(|_| Err(Unreadable("keyway is stopping".to_owned())))
            }
        }
    }
}

/// Reads a file that holds a secret, without the end of its line.
///
/// # Errors
/// See [`Source::read`].
pub fn read_file(path: &Path) -> Result<Secret, Unreadable> {
    let fail = |why: String| Unreadable(format!("{} {why}", path.display()));
    // Large enough for most, so that it need not grow and leave a copy behind.
    let mut bytes = Zeroizing::new(Vec::with_capacity(4096));
    let read = fs::File::open(path).and_then(|file| file.take(LONGEST + 1).read_to_end(&mut bytes));
    read.map_err(|error| fail(format!("cannot be read: {error}")))?;
    text(&bytes).map_err(fail)
}

/// The secret in what was read.
pub(super) fn text(bytes: &[u8]) -> Result<Secret, String> {
    if bytes.len() as u64 > LONGEST {
        return Err(format!("holds more than {LONGEST} bytes: is it a secret?"));
    }
    let text = std::str::from_utf8(bytes).map_err(|_| "is no UTF-8 text".to_owned())?;
    let line = text.strip_suffix('\n').unwrap_or(text);
    let line = line.strip_suffix('\r').unwrap_or(line);
    if line.is_empty() {
        return Err("is empty".to_owned());
    }
    Ok(Secret::new(line))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_a_text_without_its_lines_end() {
        for (written, expected) in [("s3cret", "s3cret"), ("s3cret\n", "s3cret"), (" a\nb\r\n", " a\nb")] {
            assert_eq!(text(written.as_bytes()).unwrap().expose(), expected);
        }
        for wrong in [&b""[..], b"\n", b"\r\n", b"\xff", &vec![b'a'; 1 << 17]] {
            assert!(text(wrong).is_err());
        }
    }

    #[tokio::test]
    async fn a_file_is_read_each_time() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("password");
        let source = Source::File(path.clone());
        assert!(source.read().await.unwrap_err().to_string().contains("cannot be read"));
        for secret in ["one", "two"] {
            fs::write(&path, format!("{secret}\n")).unwrap();
            assert!(source.has_changed(&Secret::new("none")).await);
            let read = source.read().await.unwrap();
            assert_eq!(read.expose(), secret);
            assert!(!source.has_changed(&read).await);
        }
        fs::remove_file(&path).unwrap();
        assert!(!source.has_changed(&Secret::new("two")).await, "there is nothing else yet");
    }
}
