//! Who asked for what, and was it let through?
//!
//! One line of JSON for each request, to a sink of its own. Lines wait in a bounded queue for one thread that writes
//! them, so that no request waits for a disk. What happens where a line can't be written is the operator's choice
//! ([`OnFailure`]): either no request is served without a line, and a place in the queue is taken before the request is
//! looked at; or the request is served, and the line that is lost is counted.
//!
//! A request is what has a whole head: also one that its listener refuses, or for which there is no room. What never
//! got so far has no line and is counted (`keyway_connections_closed_total`): connections for which there is no room or
//! whose user may not connect, TLS handshakes that fail (the log has why), and heads that are late, are no HTTP or have
//! more fields than are read. Streams of HTTP/2 that break its rules are reset where they are read, and counted once
//! their connection ends for that. A request that is refused because no line can be written has none, either; it is
//! counted (`keyway_errors_total`).

mod line;
mod sink;
mod writer;

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use prometheus::{IntCounter, IntGauge};
use tokio::sync::mpsc;

pub use self::line::{Decision, Entry, Line, peer};
use self::sink::Sink;
use crate::metrics::Metrics;

/// How many lines may wait; where none may be lost, a request that is under way has a place among them.
const QUEUE: usize = 32_768;

/// How often [`Audit::written`] looks whether all lines are.
const LOOK: Duration = Duration::from_millis(5);

/// Where the local syslog listens.
const SYSLOG: &str = "/dev/log";

/// `[audit]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Where the lines go.
    pub target: Target,
    /// What happens where they can't.
    pub on_failure: OnFailure,
}

/// Where lines go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// The end of a file.
    File(PathBuf),
    /// Standard output.
    Stdout,
    /// The syslog that listens at this socket.
    Syslog(PathBuf),
    /// The systemd journal.
    Journald,
}

/// What happens to requests whose line can't be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnFailure {
    /// None is served.
    Stop,
    /// They are served, and the lines that are lost are counted.
    Count,
}

impl FromStr for Target {
    type Err = String;

    /// `stdout`, `syslog`, `syslog:/path`, `journald`, or a file's path.
    fn from_str(text: &str) -> Result<Self, String> {
        match (text, text.split_once(':')) {
            ("stdout", _) => Ok(Self::Stdout),
            ("syslog", _) => Ok(Self::Syslog(SYSLOG.into())),
            ("journald", _) => Ok(Self::Journald),
            (_, Some(("syslog", path))) if path.starts_with('/') => Ok(Self::Syslog(path.into())),
            _ if text.contains('/') && !text.ends_with('/') => Ok(Self::File(text.into())),
            _ => Err(format!(
                "`{text}` is no sink: write a file's path such as /var/log/keyway/audit.log, stdout, syslog, journald or none"
            )),
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => path.display().fmt(f),
            Self::Stdout => f.write_str("stdout"),
            Self::Syslog(path) => write!(f, "syslog:{}", path.display()),
            Self::Journald => f.write_str("journald"),
        }
    }
}

/// The audit of a running keyway.
#[derive(Debug)]
pub struct Audit {
    config: Config,
    lines: mpsc::Sender<Line>,
    state: Arc<State>,
}

/// What those who write lines and the thread that puts them into the sink know of each other.
#[derive(Debug)]
struct State {
    /// The last attempt to write failed.
    failing: AtomicBool,
    /// A file is to be opened anew before the next line.
    reopen: AtomicBool,
    /// Lines that are neither written nor lost yet.
    pending: AtomicUsize,
    lost: IntCounter,
    shown: IntGauge,
}

/// The permission to serve one request, which then has a line.
#[derive(Debug)]
pub enum Ticket {
    /// Its line has a place.
    Kept(mpsc::OwnedPermit<Line>, Arc<Audit>),
    /// Its line takes a place if there is one then.
    Tried(Arc<Audit>),
}

/// No line can be written right now, and none may be lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unavailable;

impl Audit {
    /// Opens the sink, and starts the thread that writes to it. It ends with the last of the tickets.
    ///
    /// # Errors
    /// The sink can't be opened, or the system has no thread.
    pub fn start(config: &Config, metrics: &Metrics) -> std::io::Result<Arc<Self>> {
        let sink = Sink::open(&config.target)?;
        let (lines, queue) = mpsc::channel(QUEUE);
        let state = Arc::new(State {
            failing: AtomicBool::default(),
            reopen: AtomicBool::default(),
            pending: AtomicUsize::default(),
            lost: metrics.audit_lost.clone(),
            shown: metrics.audit_failing.clone(),
        });
        state.shown.set(0);
        let writer = writer::Writer { queue, sink, config: config.clone(), state: Arc::clone(&state) };
        std::thread::Builder::new().name("keyway-audit".to_owned()).spawn(move || writer.run())?;
        Ok(Arc::new(Self { config: config.clone(), lines, state }))
    }

    /// As the operator decided.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Lets one request in.
    ///
    /// # Errors
    /// It must not be served.
    pub fn admit(self: &Arc<Self>) -> Result<Ticket, Unavailable> {
        if self.config.on_failure == OnFailure::Count {
            return Ok(Ticket::Tried(Arc::clone(self)));
        }
        if self.state.failing.load(Ordering::Relaxed) {
            return Err(Unavailable);
        }
        let permit = self.lines.clone().try_reserve_owned().map_err(|_| Unavailable)?;
        Ok(Ticket::Kept(permit, Arc::clone(self)))
    }

    /// Whether requests are let in.
    pub fn is_available(&self) -> bool {
        let is_stuck = || self.state.failing.load(Ordering::Relaxed) || self.lines.capacity() == 0;
        self.config.on_failure == OnFailure::Count || !is_stuck()
    }

    /// Has a file opened anew before the next line: it may have been renamed.
    pub fn reopen(&self) {
        self.state.reopen.store(true, Ordering::Release);
    }

    /// Waits until all lines so far are written, but not for longer than that. How many are not.
    pub async fn written(&self, most: Duration) -> usize {
        let pending = || self.state.pending.load(Ordering::Acquire);
        let _ = tokio::time::timeout(most, async {
            while pending() > 0 {
                tokio::time::sleep(LOOK).await;
            }
        })
        .await;
        pending()
    }
}

impl Ticket {
    /// Hands over the line.
    pub fn write(self, line: Line) {
        let state = |audit: &Audit| {
            audit.state.pending.fetch_add(1, Ordering::AcqRel);
        };
        match self {
            Self::Kept(permit, audit) => {
                state(&audit);
                permit.send(line);
            }
            Self::Tried(audit) => {
                state(&audit);
                if audit.lines.try_send(line).is_err() {
                    audit.state.lose(1);
                }
            }
        }
    }
}

impl State {
    /// So many lines are written.
    fn wrote(&self, lines: usize) {
        self.pending.fetch_sub(lines, Ordering::AcqRel);
    }

    /// So many lines will never be.
    fn lose(&self, lines: usize) {
        self.lost.inc_by(lines as u64);
        self.wrote(lines);
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixDatagram;

    use super::*;

    #[test]
    fn a_sink_is_a_word_or_a_path() {
        for (text, target) in [
            ("stdout", Target::Stdout),
            ("journald", Target::Journald),
            ("syslog", Target::Syslog("/dev/log".into())),
            ("syslog:/run/log.sock", Target::Syslog("/run/log.sock".into())),
            ("/var/log/audit.log", Target::File("/var/log/audit.log".into())),
            ("./audit.log", Target::File("./audit.log".into())),
        ] {
            assert_eq!(text.parse(), Ok(target), "{text}");
        }
        for text in ["", "file", "audit.log", "/var/log/", "syslog:", "sysloog", "stderr"] {
            assert!(text.parse::<Target>().is_err(), "{text}");
        }
    }

    /// An audit to a syslog that does not read, and that syslog.
    fn unread(home: &tempfile::TempDir, on_failure: OnFailure) -> (Arc<Audit>, Arc<Metrics>, UnixDatagram) {
        let path = home.path().join(format!("{on_failure:?}"));
        let daemon = UnixDatagram::bind(&path).unwrap();
        let metrics = Metrics::new();
        let config = Config { target: Target::Syslog(path), on_failure };
        (Audit::start(&config, &metrics).unwrap(), metrics, daemon)
    }

    fn line(number: usize) -> Line {
        format!("line {number}\n").into_bytes().into()
    }

    /// The numbers of so many messages.
    fn read(daemon: &UnixDatagram, count: usize) -> Vec<usize> {
        let mut message = [0; 999];
        let number = |_| {
            let length = daemon.recv(&mut message).unwrap();
            let text = std::str::from_utf8(&message[..length]).unwrap();
            text.rsplit(' ').next().unwrap().parse().unwrap()
        };
        (0..count).map(number).collect()
    }

    #[test]
    fn where_no_line_may_be_lost_a_full_queue_lets_nobody_in() {
        let home = tempfile::tempdir().unwrap();
        let (audit, metrics, daemon) = unread(&home, OnFailure::Stop);
        // Who is let in has a place, also if the line comes late.
        let late = audit.admit().unwrap();
        let mut admitted = 0;
        while let Ok(ticket) = audit.admit() {
            ticket.write(line(admitted));
            admitted += 1;
            assert!(admitted < 2 * QUEUE, "the queue has no end");
        }
        assert!(admitted >= QUEUE - 1 && !audit.is_available());
        late.write(line(admitted));
        assert_eq!(read(&daemon, admitted + 1), (0..=admitted).collect::<Vec<_>>());
        assert!(audit.admit().is_ok() && audit.is_available());
        assert_eq!(metrics.audit_lost.get(), 0);
    }

    #[test]
    fn where_lines_may_be_lost_those_that_find_no_place_are_counted() {
        let home = tempfile::tempdir().unwrap();
        let (audit, metrics, daemon) = unread(&home, OnFailure::Count);
        let sent = QUEUE + 5000;
        for number in 0..sent {
            audit.admit().unwrap().write(line(number));
        }
        let lost = usize::try_from(metrics.audit_lost.get()).unwrap();
        assert!(lost > 0 && audit.is_available());
        assert_eq!(read(&daemon, sent - lost).len(), sent - lost);
        audit.admit().unwrap().write(line(sent));
        assert_eq!(read(&daemon, 1), [sent]);
    }

    #[tokio::test]
    async fn the_end_waits_for_the_last_line_but_not_for_ever() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("audit");
        let metrics = Metrics::new();
        let config = Config { target: Target::File(path.clone()), on_failure: OnFailure::Stop };
        let audit = Audit::start(&config, &metrics).unwrap();
        for number in 0..1000 {
            audit.admit().unwrap().write(line(number));
        }
        assert_eq!(audit.written(Duration::from_secs(60)).await, 0);
        assert_eq!(std::fs::read_to_string(&path).unwrap().lines().count(), 1000);

        let config = Config { target: Target::File("/dev/full".into()), on_failure: OnFailure::Stop };
        let audit = Audit::start(&config, &metrics).unwrap();
        audit.admit().unwrap().write(line(0));
        assert_eq!(audit.written(Duration::from_millis(10)).await, 1);
    }
}
