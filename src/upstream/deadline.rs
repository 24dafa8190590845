//! Deadlines without a timer per request: one coarse tick per worker looks at what is in flight.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Poll, Waker};
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
    waker: Waker,
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
        u64::try_from(duration.as_millis().div_ceil(TICK.as_millis())).unwrap_or(u64::MAX / 2)
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
                let flights = flights.lock();
                flights
                    .places
                    .iter()
                    .flatten()
                    .filter(|flight| flight.due <= now)
                    .for_each(|f| f.waker.wake_by_ref());
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
        let mut place: Option<Place<'_>> = None;
        poll_fn(|cx| {
            if let Poll::Ready(done) = future.as_mut().poll(cx) {
                return Poll::Ready(Ok(done));
            }
            let mut flights = self.lock();
            match &place {
                None => {
                    let due = self.now() + 1 + Self::ticks(limit);
                    let index = flights.add(Flight { due, waker: cx.waker().clone() });
                    drop(flights);
                    place = Some(Place { deadlines: self, index });
                }
                Some(Place { index, .. }) => {
                    let now = self.now();
                    let flight =
                        flights.places[*index].as_mut().expect("a place is emptied by its drop only");
                    if flight.due <= now {
                        return Poll::Ready(Err(Expired));
                    }
                    flight.waker.clone_from(cx.waker());
                }
            }
            Poll::Pending
        })
        .await
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Flights> {
        self.shared.flights.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Flights {
    fn add(&mut self, flight: Flight) -> usize {
        match self.free.pop() {
            Some(index) => {
                self.places[index] = Some(flight);
                index
            }
            None => {
                self.places.push(Some(flight));
                self.places.len() - 1
            }
        }
    }
}

struct Place<'a> {
    deadlines: &'a Deadlines,
    index: usize,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let mut flights = self.deadlines.lock();
        flights.places[self.index] = None;
        flights.free.push(self.index);
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
}
