//! What became of each request.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// What a client does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    Get,
    Head,
    Post,
    Put,
    Delete,
    ObjectPut,
    ObjectGet,
    ObjectDelete,
    List,
    EarlyAnswer,
    AbortedUpload,
    AbortedDownload,
    HalfClosed,
    Refused,
    Reset,
    ResetAfterwards,
    CutAnswer,
}

impl Kind {
    /// Each kind, and how many of a thousand requests are of it.
    const SHARES: [(Self, usize); 17] = [
        (Self::Get, 330),
        (Self::Head, 50),
        (Self::Post, 220),
        (Self::Put, 60),
        (Self::Delete, 40),
        (Self::ObjectPut, 40),
        (Self::ObjectGet, 50),
        (Self::ObjectDelete, 10),
        (Self::List, 40),
        (Self::EarlyAnswer, 10),
        (Self::AbortedUpload, 30),
        (Self::AbortedDownload, 30),
        (Self::HalfClosed, 20),
        (Self::Refused, 40),
        (Self::Reset, 10),
        (Self::ResetAfterwards, 10),
        (Self::CutAnswer, 10),
    ];

    pub(crate) fn pick(random: &mut fastrand::Rng) -> Self {
        let mut number = random.usize(..1000);
        for (kind, share) in Self::SHARES {
            if number < share {
                return kind;
            }
            number -= share;
        }
        Self::Get
    }

    fn name(self) -> &'static str {
        match self {
            Self::Get => "GET",
            Self::Head => "HEAD",
            Self::Post => "POST",
            Self::Put => "PUT",
            Self::Delete => "DELETE",
            Self::ObjectPut => "PUT of an object",
            Self::ObjectGet => "GET of an object",
            Self::ObjectDelete => "DELETE of an object",
            Self::List => "GET of a list",
            Self::EarlyAnswer => "answered before its body was read",
            Self::AbortedUpload => "client aborts its upload",
            Self::AbortedDownload => "client aborts its download",
            Self::HalfClosed => "client closes its half",
            Self::Refused => "refused by keyway",
            Self::Reset => "service resets, no answer",
            Self::ResetAfterwards => "service executes, then resets",
            Self::CutAnswer => "service cuts its answer",
        }
    }
}

/// How a request ended.
#[derive(Debug)]
pub(crate) enum Outcome {
    /// With the answer that belongs to it, all of it.
    Right,
    /// As it has to where somebody broke off, refused or revoked.
    Designed,
    /// Without an answer, for no reason.
    Lost(String),
    /// With an answer that is not its own, or not all of it.
    Wrong(String),
}

#[derive(Default)]
struct Row {
    sent: usize,
    right: usize,
    designed: usize,
    lost: usize,
    wrong: usize,
}

pub(crate) struct Book {
    requests: usize,
    next: AtomicUsize,
    /// How often the service executed a POST, by the request's number.
    executed: Box<[AtomicU8]>,
    rows: Mutex<BTreeMap<Kind, Row>>,
    /// The first few faults.
    notes: Mutex<Vec<String>>,
    /// Requests that must not have been executed.
    barred: Mutex<Vec<usize>>,
    revocations: AtomicUsize,
    restarts: Mutex<(usize, Option<Instant>)>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Book {
    pub(crate) fn new(requests: usize) -> Self {
        Self {
            requests,
            next: AtomicUsize::new(0),
            executed: (0..requests).map(|_| AtomicU8::new(0)).collect(),
            rows: Mutex::default(),
            notes: Mutex::default(),
            barred: Mutex::default(),
            revocations: AtomicUsize::new(0),
            restarts: Mutex::default(),
        }
    }

    /// The number of the next request.
    pub(crate) fn take(&self) -> Option<usize> {
        Some(self.next.fetch_add(1, Ordering::Relaxed)).filter(|id| *id < self.requests)
    }

    pub(crate) fn sent(&self) -> usize {
        self.next.load(Ordering::Relaxed).min(self.requests)
    }

    /// The service did what this request asks for.
    pub(crate) fn execute(&self, id: usize) {
        if let Some(count) = self.executed.get(id) {
            count.fetch_add(1, Ordering::Relaxed);
        }
    }

    pub(crate) fn executions(&self, id: usize) -> u8 {
        self.executed.get(id).map_or(0, |count| count.load(Ordering::Relaxed))
    }

    /// This request must never be executed.
    pub(crate) fn bar(&self, id: usize) {
        lock(&self.barred).push(id);
    }

    pub(crate) fn note_revocation(&self) {
        self.revocations.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn revocations(&self) -> usize {
        self.revocations.load(Ordering::Relaxed)
    }

    /// The service begins to cut all of its connections, or is done with it.
    pub(crate) fn note_restart(&self, begins: bool) {
        let mut restarts = lock(&self.restarts);
        *restarts = (restarts.0 + usize::from(begins), Some(Instant::now()));
    }

    /// Whether the service restarted since `then`, or so shortly before that nobody could know.
    pub(crate) fn restarted_around(&self, then: Instant) -> bool {
        lock(&self.restarts).1.is_some_and(|at| at + Duration::from_secs(1) > then)
    }

    pub(crate) fn record(&self, kind: Kind, id: usize, outcome: Outcome) {
        let mut rows = lock(&self.rows);
        let row = rows.entry(kind).or_default();
        row.sent += 1;
        let (word, why) = match outcome {
            Outcome::Right => return row.right += 1,
            Outcome::Designed => return row.designed += 1,
            Outcome::Lost(why) => {
                row.lost += 1;
                ("lost", why)
            }
            Outcome::Wrong(why) => {
                row.wrong += 1;
                ("wrong", why)
            }
        };
        drop(rows);
        let mut notes = lock(&self.notes);
        if notes.len() < 20 {
            notes.push(format!("{word}: request {id} ({}): {why}", kind.name()));
        }
    }

    /// Prints the table.
    pub(crate) fn report(&self, took: Duration) {
        let rows = lock(&self.rows);
        let columns = ["sent", "right", "by design", "lost", "wrong"];
        let mut total = [0; 5];
        print!("\n{:<36}", "");
        columns.iter().for_each(|column| print!("{column:>10}"));
        println!();
        for (kind, row) in rows.iter() {
            let numbers = [row.sent, row.right, row.designed, row.lost, row.wrong];
            print!("{:<36}", kind.name());
            for (number, total) in numbers.iter().zip(&mut total) {
                print!("{number:>10}");
                *total += number;
            }
            println!();
        }
        print!("{:<36}", "all");
        total.iter().for_each(|number| print!("{number:>10}"));
        let rate = total[0] as f64 / took.as_secs_f64();
        println!("\n\nexecuted twice: {}", self.twice().len());
        println!("service restarts: {}", lock(&self.restarts).0);
        println!("{:.0} s, {rate:.0} requests/s", took.as_secs_f64());
    }

    fn twice(&self) -> Vec<usize> {
        (0..self.requests).filter(|id| self.executions(*id) > 1).collect()
    }

    /// Everything that must not be.
    pub(crate) fn faults(&self) -> Vec<String> {
        let mut faults = lock(&self.notes).clone();
        let (lost, wrong) =
            lock(&self.rows).values().fold((0, 0), |(l, w), row| (l + row.lost, w + row.wrong));
        if lost + wrong > 0 {
            faults.push(format!("{lost} lost, {wrong} wrong"));
        }
        for id in self.twice().iter().take(5) {
            faults.push(format!("request {id} was executed {} times", self.executions(*id)));
        }
        for id in lock(&self.barred).iter().filter(|id| self.executions(**id) > 0).take(5) {
            faults.push(format!("request {id} was executed although it was refused or broke off"));
        }
        faults
    }
}
