//! A file, standard output, syslog or the journal: whole lines go in.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use log::{Level, Record};
use rustix::fs::OFlags;
use syslog::{Facility, Formatter3164, LoggerBackend};
use systemd_journal_logger::JournalLog;

use super::{Line, Target};
use crate::private::which;

/// Under which name syslog and the journal have the lines.
const IDENTIFIER: &str = "keyway-audit";

/// How long a pipe that does not take anything is waited for.
const PATIENCE: Duration = Duration::from_secs(1);
const PAUSE: Duration = Duration::from_millis(5);

/// See the module's documentation.
pub(super) enum Sink {
    File(LogFile),
    Stdout(Cut),
    Syslog { path: PathBuf, logger: Option<Box<syslog::Logger<LoggerBackend, Formatter3164>>> },
    Journald(Box<JournalLog>),
}

/// A file, as long as it is at its path.
pub(super) struct LogFile {
    path: PathBuf,
    file: Option<File>,
    cut: Cut,
}

/// A line of which only a part went out before a failure, and how much of it. It is finished before anything else.
#[derive(Default)]
pub(super) struct Cut(Option<(Line, usize)>);

impl Sink {
    pub(super) fn open(target: &Target) -> io::Result<Self> {
        Ok(match target {
            Target::File(path) => {
                let file = Some(open(path)?);
                Self::File(LogFile { path: path.clone(), file, cut: Cut::default() })
            }
            Target::Stdout => Self::Stdout(Cut::default()),
            Target::Syslog(path) => {
                Self::Syslog { path: path.clone(), logger: Some(Box::new(connect(path)?)) }
            }
            Target::Journald => {
                let journal = JournalLog::empty()?.with_syslog_identifier(IDENTIFIER.to_owned());
                Self::Journald(Box::new(journal))
            }
        })
    }

    /// A file may have another name by now.
    pub(super) fn reopen(&mut self) {
        if let Self::File(LogFile { file, .. }) = self {
            *file = None;
        }
    }

    /// Writes lines, and says how many need not be written again; whatever comes next, a line that was begun is
    /// finished.
    pub(super) fn write(&mut self, lines: &[Line]) -> (usize, io::Result<()>) {
        match self {
            Self::File(file) => file.write(lines),
            Self::Stdout(cut) => cut.pour(lines, |bytes| Ok(rustix::io::write(io::stdout(), bytes)?)),
            Self::Syslog { path, logger } => one_by_one(lines, |text| send(path, logger, text)),
            Self::Journald(journal) => one_by_one(lines, |text| {
                let arguments = format_args!("{text}");
                let record = Record::builder().level(Level::Info).target(IDENTIFIER).args(arguments).build();
                journal.journal_send(&record)
            }),
        }
    }
}

impl LogFile {
    fn write(&mut self, lines: &[Line]) -> (usize, io::Result<()>) {
        if !self.is_there() {
            self.file = None;
        }
        // Once more if it was taken away just then: what went out went nowhere.
        for _ in 0..2 {
            let file = match &mut self.file {
                Some(file) => file,
                None => match open(&self.path) {
                    Ok(file) => {
                        // The file that has the beginning is another one.
                        self.cut.start_again();
                        self.file.insert(file)
                    }
                    Err(error) => return (0, Err(error)),
                },
            };
            let before = self.cut.0.clone();
            let poured = self.cut.pour(lines, |bytes| io::Write::write(file, bytes));
            match file.metadata() {
                Ok(metadata) if metadata.nlink() == 0 => {}
                _ => return poured,
            }
            self.cut.0 = before;
            self.file = None;
        }
        (0, Err(io::Error::new(io::ErrorKind::NotFound, "the file is taken away again and again")))
    }

    /// Whether the path still leads to the open file.
    fn is_there(&self) -> bool {
        let at_path = fs::metadata(&self.path);
        let open = self.file.as_ref().map(File::metadata);
        matches!((at_path, open), (Ok(there), Some(Ok(open))) if which(&there) == which(&open))
    }
}

impl Cut {
    /// Writes lines with as few calls as possible, and says how many need not be written again.
    fn pour(
        &mut self,
        lines: &[Line],
        mut write: impl FnMut(&[u8]) -> io::Result<usize>,
    ) -> (usize, io::Result<()>) {
        let mut text = Vec::new();
        if let Some((line, from)) = &self.0 {
            text.extend_from_slice(&line[*from..]);
        }
        let first = text.len();
        lines.iter().for_each(|line| text.extend_from_slice(line));
        let (mut at, mut outcome, started) = (0, Ok(()), Instant::now());
        while at < text.len() {
            match write(&text[at..]) {
                Ok(0) => {
                    outcome = Err(io::ErrorKind::WriteZero.into());
                    break;
                }
                Ok(length) => at += length,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock && started.elapsed() < PATIENCE => {
                    std::thread::sleep(PAUSE);
                }
                Err(error) => {
                    outcome = Err(error);
                    break;
                }
            }
        }
        let Some(mut left) = at.checked_sub(first) else {
            if let Some((_, from)) = &mut self.0 {
                *from += at;
            }
            return (0, outcome);
        };
        self.0 = None;
        let mut whole = 0;
        while let Some(line) = lines.get(whole).filter(|_| left > 0) {
            whole += 1;
            if left < line.len() {
                self.0 = Some((line.clone(), left));
                break;
            }
            left -= line.len();
        }
        (whole, outcome)
    }

    /// What is begun is written whole.
    fn start_again(&mut self) {
        if let Some((_, from)) = &mut self.0 {
            *from = 0;
        }
    }
}

/// Each line as a message of its own.
fn one_by_one(lines: &[Line], mut write: impl FnMut(&str) -> io::Result<()>) -> (usize, io::Result<()>) {
    for (index, line) in lines.iter().enumerate() {
        if let Err(error) = write(String::from_utf8_lossy(line).trim_end()) {
            return (index, Err(error));
        }
    }
    (lines.len(), Ok(()))
}

/// For its owner alone where it is made here; one that is there keeps its mode, which logrotate may have given it.
fn open(path: &Path) -> io::Result<File> {
    // Nobody waits for the reader of a pipe.
    let flags = (OFlags::NONBLOCK | OFlags::NOCTTY).bits().cast_signed();
    let file = OpenOptions::new().append(true).create(true).mode(0o600).custom_flags(flags).open(path)?;
    let metadata = file.metadata()?;
    if metadata.is_file() && metadata.len() > 0 {
        // A machine that went down may have left a part of a line, and the next one begins behind it.
        let mut last = [b'\n'];
        let read = File::open(path).and_then(|file| file.read_exact_at(&mut last, metadata.len() - 1));
        if read.is_ok() && last != [b'\n'] {
            io::Write::write_all(&mut &file, b"\n")?;
        }
    }
    Ok(file)
}

fn connect(path: &Path) -> io::Result<syslog::Logger<LoggerBackend, Formatter3164>> {
    let formatter = Formatter3164 {
        facility: Facility::LOG_AUTHPRIV,
        // A syslog of this machine knows its name.
        hostname: None,
        process: IDENTIFIER.to_owned(),
        pid: std::process::id(),
    };
    syslog::unix_custom(formatter, path).map_err(failed)
}

/// One that was started anew is connected to again.
fn send(
    path: &Path,
    logger: &mut Option<Box<syslog::Logger<LoggerBackend, Formatter3164>>>,
    text: &str,
) -> io::Result<()> {
    if let Some(connected) = logger
        && connected.info(text).is_ok()
    {
        return Ok(());
    }
    *logger = None;
    logger.insert(Box::new(connect(path)?)).info(text).map_err(failed)
}

fn failed(error: syslog::Error) -> io::Error {
    match error {
        syslog::Error::Io(error) | syslog::Error::Write(error) => error,
        syslog::Error::Initialization(error) => io::Error::other(error),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;
    use std::os::unix::net::UnixDatagram;

    use super::*;

    fn line(text: &str) -> Line {
        format!("{text}\n").into_bytes().into()
    }

    /// Pours lines into something that takes so many bytes at a time, and fails where there are none left.
    fn pour(cut: &mut Cut, out: &mut Vec<u8>, room: usize, lines: &[&str]) -> (usize, bool) {
        let lines: Vec<_> = lines.iter().map(|text| line(text)).collect();
        let mut left = room;
        let (whole, outcome) = cut.pour(&lines, |bytes| match bytes.len().min(left).min(3) {
            0 => Err(io::ErrorKind::StorageFull.into()),
            length => {
                left -= length;
                out.extend_from_slice(&bytes[..length]);
                Ok(length)
            }
        });
        (whole, outcome.is_ok())
    }

    #[test]
    fn a_line_that_was_cut_is_finished_first() {
        for room in 0..12 {
            let (mut cut, mut out) = (Cut::default(), Vec::new());
            let (whole, ok) = pour(&mut cut, &mut out, room, &["abc", "de", "fgh"]);
            assert_eq!(ok, room >= 11, "{room}");
            let left = &["abc", "de", "fgh"][whole..];
            // Nothing fits, then a single byte, then all of it.
            assert_eq!(pour(&mut cut, &mut out, 0, &[]).0, 0);
            let (more, _) = pour(&mut cut, &mut out, 1, left);
            assert!(pour(&mut cut, &mut out, 99, &left[more..]).1);
            assert_eq!(String::from_utf8_lossy(&out), "abc\nde\nfgh\n", "{room}");
        }
    }

    #[test]
    fn a_file_is_its_owners_and_follows_its_path() {
        let home = tempfile::tempdir().unwrap();
        let directory = home.path().join("d");
        fs::create_dir(&directory).unwrap();
        let path = directory.join("audit.log");
        let mut sink = Sink::open(&Target::File(path.clone())).unwrap();
        let mut write = |text: &str| sink.write(&[line(text)]);
        assert!(write("one").1.is_ok());
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        // Another name.
        fs::rename(&path, home.path().join("old")).unwrap();
        assert!(write("two").1.is_ok());
        assert_eq!(fs::read_to_string(home.path().join("old")).unwrap(), "one\n");
        assert_eq!(fs::read_to_string(&path).unwrap(), "two\n");
        // No directory.
        fs::remove_dir_all(&directory).unwrap();
        let (written, outcome) = write("three");
        assert_eq!((written, outcome.unwrap_err().kind()), (0, io::ErrorKind::NotFound));
        fs::create_dir(&directory).unwrap();
        // What others left behind is no part of a line.
        fs::write(&path, "{\"cut").unwrap();
        assert!(write("three").1.is_ok());
        assert_eq!(fs::read_to_string(&path).unwrap(), "{\"cut\nthree\n");
    }

    #[test]
    fn a_full_disk_takes_nothing() {
        let mut sink = Sink::open(&Target::File("/dev/full".into())).unwrap();
        let (written, outcome) = sink.write(&[line("one")]);
        assert_eq!((written, outcome.unwrap_err().kind()), (0, io::ErrorKind::StorageFull));
    }

    #[test]
    fn a_syslog_that_is_started_anew_is_found() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("log");
        let target = Target::Syslog(path.clone());
        assert!(Sink::open(&target).is_err());
        let mut sink = None;
        for text in ["one", "two"] {
            let daemon = UnixDatagram::bind(&path).unwrap();
            let sink = sink.get_or_insert_with(|| Sink::open(&target).unwrap());
            assert!(matches!(sink.write(&[line(text)]), (1, Ok(()))));
            let mut message = [0; 999];
            let length = daemon.recv(&mut message).unwrap();
            let message = std::str::from_utf8(&message[..length]).unwrap();
            // authpriv.info
            assert!(message.starts_with("<86>"), "{message}");
            let (_, rest) = message.split_once(IDENTIFIER).unwrap();
            assert_eq!(rest, format!("[{}]: {text}", std::process::id()));
            drop(daemon);
            fs::remove_file(&path).unwrap();
            assert!(matches!(sink.write(&[line("lost")]), (0, Err(_))));
        }
    }
}
