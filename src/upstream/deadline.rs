//! Deadlines without a timer per request: one coarse tick per worker looks at what is in flight.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

/// How often the tick looks; a deadline may be late by this much.
const TICK: Duration = Duration::from_millis(500);

/// What is in flight on one worker. A clone shares it.
#[derive(Clone, Debug, Default)]
pub(super) struct Deadlines {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    /// Ticks so far: the clock of this module.
    now: AtomicU64,
    flights: Mutex<Flights>,
}

#[derive(Debug, Default)]
struct Flights {
    places: Vec<Option<Flight>>,
    free: Vec<usize>,
}

#[derive(Debug)]
struct Flight {
    due: u64,
    /// Taken by the tick that finds it due.
    waker: Option<Waker>,
}

/// The deadline passed.
#[derive(Debug)]
pub(super) struct Expired;

impl Deadlines {
    /// Ticks so far.
    pub(super) fn now(&self) -> u64 {
        self.shared.now.load(Ordering::Relaxed)
    }

    /// `duration` in ticks, rounded up.
    pub(super) fn ticks(duration: Duration) -> u64 {
        u64::try_from(duration.as_millis().div_ceil(TICK.as_millis())).unwrap_or(u64::MAX).min(u64::MAX / 2)
    }

    /// Looks at what is in flight, as long as anybody has a clone of this. Without it no deadline ever
    /// passes.
    pub(super) fn watch(&self) -> impl Future<Output = ()> + Send + use<> {
        let shared = Arc::downgrade(&self.shared);
        async move {
            let mut tick = tokio::time::interval(TICK);
            loop {
                tick.tick().await;
                let Some(shared) = shared.upgrade() else { return };
                let now = shared.now.fetch_add(1, Ordering::Relaxed) + 1;
                let flights = Self { shared };
                let mut flights = flights.lock();
                let due = flights.places.iter_mut().flatten().filter(|flight| flight.due <= now);
                due.filter_map(|flight| flight.waker.take()).for_each(Waker::wake);
            }
        }
    }

    /// Runs `future`, but no longer than `limit` (and two ticks). Costs nothing when it is ready at once.
    pub(super) async fn within<T>(
        &self,
        limit: Duration,
        future: impl Future<Output = T>,
    ) -> Result<T, Expired> {
        let mut future = pin!(future);
        let mut patience = None;
        poll_fn(|cx| {
            if let Poll::Ready(done) = future.as_mut().poll(cx) {
                return Poll::Ready(Ok(done));
            }
            patience.get_or_insert_with(|| self.patience(limit)).poll(cx).map(Err)
        })
        .await
    }

    /// See [`Patience`].
    pub(super) fn patience(&self, limit: Duration) -> Patience {
        Patience { deadlines: self.clone(), limit: Self::ticks(limit), place: None, waiting: false }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Flights> {
        self.shared.flights.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How long a peer may do nothing while it is the one that everything waits for. Any progress, and
/// any wait for somebody else, starts it anew.
#[derive(Debug)]
pub(super) struct Patience {
    deadlines: Deadlines,
    limit: u64,
    place: Option<usize>,
    waiting: bool,
}

impl Patience {
    /// The peer moved, or it is somebody else's turn.
    pub(super) fn rest(&mut self) {
        self.waiting = false;
    }

    /// It is the peer's turn, and it does nothing. Ready once that has lasted for too long.
    pub(super) fn poll(&mut self, cx: &Context<'_>) -> Poll<Expired> {
        let mut flights = self.deadlines.lock();
        let now = self.deadlines.now();
        let index = *self.place.get_or_insert_with(|| flights.place());
        let begins = !std::mem::replace(&mut self.waiting, true);
        let flight = flights.places[index].get_or_insert(Flight { due: 0, waker: None });
        if begins {
            flight.due = now + 1 + self.limit;
        } else if flight.due <= now {
            return Poll::Ready(Expired);
        }
        match &mut flight.waker {
            Some(waker) => waker.clone_from(cx.waker()),
            none => *none = Some(cx.waker().clone()),
        }
        Poll::Pending
    }
}

impl Drop for Patience {
    fn drop(&mut self) {
        if let Some(index) = self.place {
            let mut flights = self.deadlines.lock();
            flights.places[index] = None;
            flights.free.push(index);
        }
    }
}

impl Flights {
    /// An empty place.
    fn place(&mut self) -> usize {
        self.free.pop().unwrap_or_else(|| {
            self.places.push(None);
            self.places.len() - 1
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_is_late_ends_and_what_is_not_goes_on() {
        let deadlines = Deadlines::default();
        let watch = tokio::spawn(deadlines.watch());
        let late = deadlines.within(Duration::from_secs(1), std::future::pending::<()>());
        assert!(late.await.is_err());
        let timely = deadlines.within(Duration::from_secs(5), tokio::time::sleep(Duration::from_secs(3)));
        assert!(timely.await.is_ok());
        assert!(deadlines.lock().places.iter().all(Option::is_none), "places are given back");
        watch.abort();
    }

    #[tokio::test(start_paused = true)]
    async fn only_the_time_that_a_peer_was_waited_for_counts() {
        let deadlines = Deadlines::default();
        let watch = tokio::spawn(deadlines.clone().watch());
        let mut patience = deadlines.patience(Duration::from_secs(3));
        for _ in 0..4 {
            assert!(poll_fn(|cx| Poll::Ready(patience.poll(cx))).await.is_pending());
            tokio::time::sleep(Duration::from_secs(2)).await;
            assert!(poll_fn(|cx| Poll::Ready(patience.poll(cx))).await.is_pending());
            patience.rest();
            // Somebody else's turn, however long it takes.
            tokio::time::sleep(Duration::from_secs(10)).await;
        }
        poll_fn(|cx| patience.poll(cx)).await;
        drop(patience);
        assert!(deadlines.lock().places.iter().all(Option::is_none), "places are given back");
        watch.abort();
    }
}
