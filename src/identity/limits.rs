//! How much may one identity do at a time?

use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use governor::clock::{Clock as _, MonotonicClock};
use governor::middleware::NoOpMiddleware;
use governor::state::{InMemoryState, NotKeyed};
use governor::{Quota, RateLimiter};

/// What an identity may do at a time, as the operator decided. `None`: any number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Config {
    /// Requests per second, and how many may come at once after a pause.
    pub rate: Option<(NonZeroU32, NonZeroU32)>,
    /// Requests under way.
    pub requests: Option<usize>,
}

/// One identity's, over all workers.
#[derive(Debug)]
pub struct Limits {
    config: Config,
    rate: Option<RateLimiter<NotKeyed, InMemoryState, MonotonicClock, NoOpMiddleware<std::time::Instant>>>,
    under_way: AtomicUsize,
}

/// A request that is under way; it is over when this is dropped.
#[derive(Debug)]
pub struct UnderWay(Arc<Limits>);

/// What there was too much of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exceeded {
    /// Requests per second; how long until there is room for one more.
    Rate(Duration),
    /// Requests under way.
    Requests,
}

impl Limits {
    /// With nothing under way.
    pub fn new(config: Config) -> Self {
        let rate = config.rate.map(|(rate, burst)| {
            RateLimiter::direct_with_clock(Quota::per_second(rate).allow_burst(burst), MonotonicClock)
        });
        Self { config, rate, under_way: AtomicUsize::default() }
    }

    /// As the operator decided.
    pub fn config(&self) -> Config {
        self.config
    }

    /// Lets one more request in. `None` if nothing has to be counted.
    ///
    /// # Errors
    /// There are too many; the request is not counted.
    pub fn enter(self: &Arc<Self>) -> Result<Option<UnderWay>, Exceeded> {
        let entered = match self.config.requests {
            None => None,
            Some(most) => {
                // Over at once if it is one too many.
                let entered = UnderWay(Arc::clone(self));
                if self.under_way.fetch_add(1, Ordering::Relaxed) >= most {
                    return Err(Exceeded::Requests);
                }
                Some(entered)
            }
        };
        if let Some(rate) = &self.rate {
            rate.check().map_err(|until| Exceeded::Rate(until.wait_time_from(MonotonicClock.now())))?;
        }
        Ok(entered)
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.under_way.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn so_many_requests_are_under_way_and_not_one_more() {
        let limits = Arc::new(Limits::new(Config { requests: Some(2), rate: None }));
        let first = limits.enter().expect("there is room");
        let _second = limits.enter().expect("there is room");
        assert_eq!(limits.enter().unwrap_err(), Exceeded::Requests);
        assert_eq!(limits.enter().unwrap_err(), Exceeded::Requests);
        drop(first);
        let _third = limits.enter().expect("there is room again");
        assert_eq!(limits.enter().unwrap_err(), Exceeded::Requests);
    }

    #[test]
    fn so_many_requests_come_at_once_and_then_as_time_goes_by() {
        let one = NonZeroU32::MIN;
        let config = Config { rate: Some((one, one.saturating_add(2))), requests: Some(9) };
        let limits = Arc::new(Limits::new(config));
        for _ in 0..3 {
            assert!(limits.enter().is_ok());
        }
        let Err(Exceeded::Rate(wait)) = limits.enter() else { panic!("one too many came in") };
        assert!(wait > Duration::ZERO && wait <= Duration::from_secs(1), "{wait:?}");
        // What was refused is not under way.
        assert_eq!(limits.under_way.load(Ordering::Relaxed), 0);
    }
}
