//! Who has taken too long? A look at all connections of a listener, a few times a second.
//!
//! No request and no connection has a timer of its own: a connection notes what happens
//! ([`Connection`]), and [`Watch`] compares that with what it saw before. So a deadline is met to
//! within a [`TICK`].

use std::collections::VecDeque;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use super::connection::{Connection, Order, Stream, lock};
use super::{Limits, Settings, tls};
use crate::incoming::Turn;
use crate::metrics::Closed;

/// How often.
pub(super) const TICK: Duration = Duration::from_millis(250);

/// How long a client whose idle connection is closing may take to let go of it (HTTP/2: GOAWAY).
const GRACE: Duration = Duration::from_secs(2);

/// How many connections may be looked at between two ticks to find idle ones. It bounds what a flood
/// costs where there are many connections; where there are few, every idle one is found.
const SEARCH: usize = 100_000;

/// What goes out on an idle connection of HTTP/2 besides the ends of answers is less, bytes.
const CHATTER: u64 = 4096;

/// How often the certificates of a client that stays are verified again: one may have come to its end. How many in one
/// look, since that takes some 0.1 ms for each.
const VERIFY: Duration = Duration::from_secs(60);
const MOST_VERIFIED: usize = 200;

/// The connections of one listener on one worker.
#[derive(Debug, Default)]
pub(super) struct Watch {
    seen: Vec<Seen>,
    /// Those that make room first, with the number of requests they had when they were listed.
    idle: VecDeque<(Arc<Connection>, u32)>,
    /// How many were looked at for that since the last tick.
    searched: usize,
}

/// A connection as it was when somebody last looked.
#[derive(Debug)]
struct Seen {
    connection: Arc<Connection>,
    phase: Phase,
    requests: u32,
    /// Since when it is in this phase.
    since: Instant,
    /// What had gone out when it came to that, bytes.
    sent_before: u64,
    sent: u64,
    /// When something went out last, or nothing was to go out.
    sent_at: Instant,
    upload: Pace,
    /// By what and when the certificates that its client showed were verified.
    verified: Option<(Weak<tls::Loaded>, Instant)>,
    /// How many requests it had when its certificates were found to be good no more, and when.
    unwanted: Option<(u32, Instant)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Idle,
    Head,
    Busy,
}

impl Watch {
    /// One more.
    pub(super) fn add(&mut self, connection: Arc<Connection>, tls: Option<&Arc<tls::Loaded>>, now: Instant) {
        self.seen.push(Seen {
            connection,
            phase: Phase::Idle,
            requests: 0,
            since: now,
            sent_before: 0,
            sent: 0,
            sent_at: now,
            upload: Pace::default(),
            verified: tls.map(|tls| (Arc::downgrade(tls), now)),
            unwanted: None,
        });
    }

    /// There is none.
    pub(super) fn is_empty(&self) -> bool {
        self.seen.is_empty()
    }

    /// Forgets those that have ended, and ends those that have taken too long.
    pub(super) fn look(&mut self, settings: &Settings, now: Instant) {
        self.seen.retain(|seen| !seen.connection.is_over());
        if let Some(tls) = &settings.tls {
            let due = self.seen.iter_mut().filter(|seen| seen.is_due(tls, now));
            due.take(MOST_VERIFIED).for_each(|seen| seen.verify(tls, now));
        }
        self.seen.iter_mut().for_each(|seen| seen.look(&settings.limits, now));
        self.idle.clear();
        self.searched = 0;
    }

    /// Ends the connection that has been idle for longest. `false` if none is.
    pub(super) fn make_room(&mut self) -> bool {
        loop {
            while let Some((connection, requests)) = self.idle.pop_front() {
                if connection.requests() == requests && is_idle(&connection) {
                    connection.tell(Order::Leave, Closed::Evicted);
                    return true;
                }
            }
            if self.searched > 0 && self.searched + self.seen.len() > SEARCH {
                return false;
            }
            self.searched += self.seen.len().max(1);
            let mut idle: Vec<_> = self.seen.iter().filter(|seen| is_idle(&seen.connection)).collect();
            if idle.is_empty() {
                return false;
            }
            // Those that became idle after the last look come last.
            idle.sort_by_key(|seen| (seen.phase != Phase::Idle || seen.is_new(), seen.since));
            let entry = |seen: &Seen| (Arc::clone(&seen.connection), seen.connection.requests());
            self.idle = idle.into_iter().map(entry).collect();
        }
    }
}

/// Nothing is under way, nothing is half read, and it was not told to close.
fn is_idle(connection: &Connection) -> bool {
    !connection.is_over()
        && connection.order() == Order::None
        && !connection.is_busy()
        && !connection.is_reading_head()
}

impl Seen {
    /// It had a request since the last look.
    fn is_new(&self) -> bool {
        self.connection.requests() != self.requests
    }

    /// Its client showed certificates, and they were verified long ago or by what was in force before a reload.
    fn is_due(&self, tls: &Arc<tls::Loaded>, now: Instant) -> bool {
        self.connection.shown.get().is_some()
            && self.unwanted.is_none()
            && self.verified.as_ref().is_none_or(|(by, at)| {
                by.as_ptr() != Arc::as_ptr(tls) || now.saturating_duration_since(*at) >= VERIFY
            })
    }

    /// Who would not get in any more goes when its requests are answered.
    fn verify(&mut self, tls: &Arc<tls::Loaded>, now: Instant) {
        self.verified = Some((Arc::downgrade(tls), now));
        if self.connection.shown.get().is_some_and(|shown| !tls.takes(shown)) {
            tracing::info!("a client's certificate is not good any more, so its connection ends");
            self.unwanted = Some((self.connection.requests(), now));
            self.connection.tell(Order::Finish, Closed::Tls);
        }
    }

    fn look(&mut self, limits: &Limits, now: Instant) {
        if let Some((requests, since)) = self.unwanted
            && self.connection.requests() != requests
            && now.saturating_duration_since(since) >= GRACE
        {
            // It was told, and goes on.
            return self.connection.give(Order::Cut);
        }
        let order = self.connection.order();
        if matches!(order, Order::Leave | Order::TooLate | Order::Cut) {
            return;
        }
        if let Some(why) = self.stalled(limits, now) {
            self.connection.tell(Order::Cut, why);
            return;
        }
        let connection = &self.connection;
        let phase = if connection.is_busy() {
            Phase::Busy
        } else if connection.is_reading_head() && !connection.is_h2() {
            Phase::Head
        } else {
            Phase::Idle
        };
        let requests = connection.requests();
        // The end of an answer may wait within hyper for an HTTP/2 client that reads slowly.
        let sent = connection.sent();
        let answering = connection.is_h2() && sent.wrapping_sub(self.sent_before) > CHATTER;
        if (phase, requests) != (self.phase, self.requests) || answering {
            (self.phase, self.requests, self.since, self.sent_before) = (phase, requests, now, sent);
        }
        let past = now.saturating_duration_since(self.since);
        match phase {
            Phase::Idle if order == Order::Finish && past >= limits.keepalive + GRACE => {
                // It is counted already.
                connection.give(Order::Cut);
            }
            Phase::Idle if order == Order::None && past >= limits.keepalive => {
                connection.tell(Order::Finish, Closed::Keepalive);
            }
            Phase::Head if order == Order::None && past >= limits.head => {
                connection.tell(Order::TooLate, Closed::Head);
            }
            _ => {}
        }
    }

    /// Whether the connection has to end because it is the client's turn, and it does not move. With
    /// HTTP/2, single streams end here.
    fn stalled(&mut self, limits: &Limits, now: Instant) -> Option<Closed> {
        let connection = &self.connection;
        let sent = connection.sent();
        if !connection.is_blocked() {
            self.sent_at = now;
        } else if sent != self.sent {
            (self.sent, self.sent_at) = (sent, now);
        } else if now.saturating_duration_since(self.sent_at) >= limits.stall {
            return Some(Closed::Stall);
        }
        if connection.is_h2() {
            self.end_streams(limits, now);
            return None;
        }
        let upload = &connection.transfer.upload;
        self.upload.late(upload, connection.requests(), limits.stall, Some(limits.min_rate), now)
    }
}

impl Seen {
    /// Ends the streams of HTTP/2 that have to end.
    fn end_streams(&self, limits: &Limits, now: Instant) {
        let connection = &self.connection;
        let streams = connection.streams();
        // One whose body no service takes may have used up the connection's window, so that the client
        // can't send for the others either.
        let uploads = |stream: &Arc<Stream>| {
            let upload = &stream.transfer.upload;
            upload.is_open() && !upload.is_clients()
        };
        let may_send = !streams.iter().any(uploads);
        // All answers share what the system takes: a slow connection is no stalled stream.
        let may_read = !connection.is_blocked();
        for stream in streams.iter().filter(|stream| !stream.is_cut()) {
            let [upload, answer] = &mut *lock(&stream.pace);
            let late = |pace: &mut Pace, turn, counts: bool, rate| {
                if counts {
                    return pace.late(turn, 0, limits.stall, rate, now);
                }
                pace.last = None;
                None
            };
            let why = late(upload, &stream.transfer.upload, may_send, Some(limits.min_rate))
                .or_else(|| late(answer, &stream.transfer.answer, may_read, None));
            if let Some(why) = why {
                connection.count(why);
                stream.cut();
            }
        }
    }
}

/// How one direction of an exchange gets on while it is the client's turn.
#[derive(Debug, Default)]
pub(super) struct Pace {
    exchange: u32,
    /// When it was last found to be the client's turn, if it was at the last look.
    last: Option<Instant>,
    progress: u64,
    /// For how long it was the client's turn without any progress.
    still: Duration,
    /// For how long it was the client's turn in this window, and the progress at its start.
    window: Duration,
    start: u64,
}

impl Pace {
    /// Whether the client stood still for `stall`, or made less progress than `rate` per second within
    /// a `stall` of its own time.
    fn late(
        &mut self,
        turn: &Turn,
        exchange: u32,
        stall: Duration,
        rate: Option<u64>,
        now: Instant,
    ) -> Option<Closed> {
        let progress = turn.progress();
        if self.exchange != exchange || !turn.is_open() {
            *self = Self { exchange, progress, start: progress, ..Self::default() };
        }
        if !turn.is_clients() {
            self.last = None;
            return None;
        }
        let Some(last) = self.last.replace(now) else {
            (self.progress, self.still) = (progress, Duration::ZERO);
            return None;
        };
        let past = now.saturating_duration_since(last);
        self.window += past;
        if self.progress == progress {
            self.still += past;
        } else {
            (self.progress, self.still) = (progress, Duration::ZERO);
        }
        if self.still >= stall {
            return Some(Closed::Stall);
        }
        if self.window >= stall {
            let wanted = rate.unwrap_or(0).saturating_mul(self.window.as_millis() as u64) / 1000;
            if progress.wrapping_sub(self.start) < wanted {
                return Some(Closed::Rate);
            }
            (self.window, self.start) = (Duration::ZERO, progress);
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STALL: Duration = Duration::from_secs(10);

    /// A client whose turn it always is, and who moves by so much at each of these seconds. When, and
    /// for what, it is ended.
    fn check_pace(moves: impl Fn(u64) -> u64, ended: Option<(u64, Closed)>) {
        let (turn, mut pace, start) = (Turn::default(), Pace::default(), Instant::now());
        turn.begin();
        for second in 0..100 {
            let moved = moves(second);
            if moved > 0 {
                turn.take(moved);
            }
            turn.give_to_client();
            if let Some(why) = pace.late(&turn, 1, STALL, Some(256), start + Duration::from_secs(second)) {
                assert_eq!(Some((second, why)), ended);
                return;
            }
        }
        assert_eq!(ended, None);
    }

    // Promise 57.
    #[test]
    fn who_stands_still_is_ended_after_the_time_for_that() {
        check_pace(|_| 0, Some((10, Closed::Stall)));
        check_pace(|second| if second < 5 { 10_000 } else { 0 }, Some((14, Closed::Stall)));
    }

    // Promise 57.
    #[test]
    fn who_is_slower_than_the_rate_is_ended_and_who_keeps_to_it_is_not() {
        check_pace(|_| 255, Some((10, Closed::Rate)));
        check_pace(|_| 256, None);
        // In bursts, with pauses that are short enough.
        check_pace(|second| if second % 9 == 0 { 10 * 256 } else { 0 }, None);
    }

    // Promise 57.
    #[test]
    fn the_time_that_a_service_takes_is_not_the_clients() {
        let (turn, mut pace, start) = (Turn::default(), Pace::default(), Instant::now());
        turn.begin();
        for second in 0..1000 {
            // Every other second it is the service that does not take what the client sent.
            turn.take(1000);
            if second % 2 == 0 {
                turn.give_to_client();
            }
            assert_eq!(pace.late(&turn, 1, STALL, Some(256), start + Duration::from_secs(second)), None);
        }
        turn.take(1);
        for second in 1000..2000 {
            assert_eq!(pace.late(&turn, 1, STALL, Some(256), start + Duration::from_secs(second)), None);
        }
    }

    // Promise 57.
    #[test]
    fn each_exchange_has_the_time_anew() {
        let (turn, mut pace, start) = (Turn::default(), Pace::default(), Instant::now());
        for second in 0..1000 {
            if second % 9 == 0 {
                turn.begin();
            }
            turn.give_to_client();
            let now = start + Duration::from_secs(second);
            assert_eq!(pace.late(&turn, (second / 9) as u32, STALL, Some(256), now), None);
        }
    }
}
