//! May the service be asked now?
//!
//! The operator's `rate_limit` and `concurrency` of a service hold for all workers, projects and regions of a cloud
//! together. Requests wait in the order in which they came, each attempt by itself; who goes away leaves the queue at
//! no cost for the others. Services without a limit have no [`Limit`], and their requests never come here.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::Instant;

use crate::error::ProxyError;
use crate::keystone::service::Limits;

/// How long a request may wait for its turn.
const LONGEST_WAIT: Duration = Duration::from_secs(60);

/// The limits that there are, by cloud and official service type. A clone shares them.
#[derive(Clone, Debug, Default)]
pub struct Register(Arc<Mutex<Known>>);

type Known = HashMap<(String, String), Arc<Limit>>;

/// One service's limits. See the module's documentation.
#[derive(Debug)]
pub struct Limit {
    limits: Limits,
    slots: Option<Semaphore>,
    /// When the next request may go out. Held by the one whose turn it is to wait for that.
    next: tokio::sync::Mutex<Instant>,
    waiting: AtomicU32,
}

/// The right to one request, until it is dropped.
#[derive(Debug)]
pub struct Turn<'a> {
    _slot: Option<SemaphorePermit<'a>>,
}

/// Counts one that waits.
struct Waiting<'a>(&'a AtomicU32);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Register {
    /// The limit of a service, by its official type: the one that there is, or a new one where the configuration says
    /// something else now.
    pub fn limit(&self, cloud: &str, service: &str, limits: Limits) -> Arc<Limit> {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (cloud.to_owned(), service.to_owned());
        if let Some(limit) = known.get(&key).filter(|limit| limit.limits == limits) {
            return Arc::clone(limit);
        }
        let limit = Arc::new(Limit::new(limits));
        known.insert(key, Arc::clone(&limit));
        limit
    }
}

impl Limit {
    fn new(limits: Limits) -> Self {
        Self {
            limits,
            slots: limits.concurrency.map(|slots| Semaphore::new(slots as usize)),
            next: tokio::sync::Mutex::new(Instant::now()),
            waiting: AtomicU32::new(0),
        }
    }

    /// Waits until one more request may go out.
    ///
    /// # Errors
    /// [`ProxyError::ServiceLimit`], at once where it is clear that there are too many before it.
    pub async fn admit(&self) -> Result<Turn<'_>, ProxyError> {
        let before = self.waiting.fetch_add(1, Ordering::Relaxed);
        let waiting = Waiting(&self.waiting);
        // Whoever holds it waits, and is counted.
        let free = self
            .next
            .try_lock()
            .map_or(Duration::ZERO, |next| next.saturating_duration_since(Instant::now()));
        let expected = free.saturating_add(self.limits.pace.unwrap_or_default().saturating_mul(before));
        if expected > LONGEST_WAIT {
            return Err(ProxyError::ServiceLimit { wait: expected - LONGEST_WAIT });
        }
        let turn = tokio::time::timeout(LONGEST_WAIT, self.turn()).await;
        drop(waiting);
        turn.map_err(|_| ProxyError::ServiceLimit { wait: self.limits.pace.unwrap_or_default() })
    }

    async fn turn(&self) -> Turn<'_> {
        let slot = match &self.slots {
            Some(slots) => Some(slots.acquire().await.expect("it is never closed")),
            None => None,
        };
        if let Some(pace) = self.limits.pace {
            let mut next = self.next.lock().await;
            tokio::time::sleep_until(*next).await;
            *next = Instant::now() + pace;
        }
        Turn { _slot: slot }
    }
}

#[cfg(test)]
mod tests {
    use tokio::task::JoinSet;

    use super::*;

    fn limit(pace: Option<u64>, concurrency: Option<u32>) -> Arc<Limit> {
        Arc::new(Limit::new(Limits { pace: pace.map(Duration::from_millis), concurrency }))
    }

    #[tokio::test(start_paused = true)]
    async fn a_pace_spreads_requests_evenly_in_the_order_in_which_they_came() {
        let limit = limit(Some(500), None);
        let start = Instant::now();
        let mut tasks = JoinSet::new();
        for n in 0..5 {
            let limit = Arc::clone(&limit);
            tasks.spawn(async move {
                limit.admit().await.unwrap();
                (n, start.elapsed().as_millis())
            });
            tokio::task::yield_now().await;
        }
        let mut went = tasks.join_all().await;
        went.sort_unstable();
        let expected = [(0, 0), (1, 500), (2, 1000), (3, 1500), (4, 2000)];
        assert!(
            went.iter()
                .zip(expected)
                .all(|(at, expected)| at.0 == expected.0 && at.1.abs_diff(expected.1) < 20),
            "{went:?}"
        );
        // What was not used is not saved up.
        tokio::time::advance(Duration::from_secs(60)).await;
        let start = Instant::now();
        limit.admit().await.unwrap();
        limit.admit().await.unwrap();
        assert!(start.elapsed() >= Duration::from_millis(500));
    }

    #[tokio::test(start_paused = true)]
    async fn who_goes_away_costs_the_others_nothing() {
        let limit = limit(Some(1000), None);
        limit.admit().await.unwrap();
        for _ in 0..40 {
            tokio::time::timeout(Duration::from_millis(1), limit.admit()).await.unwrap_err();
        }
        let start = Instant::now();
        limit.admit().await.unwrap();
        assert!(start.elapsed() <= Duration::from_secs(1));
        assert_eq!(limit.waiting.load(Ordering::Relaxed), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn no_more_than_the_slots_are_under_way_and_nobody_waits_for_ever() {
        let limit = limit(None, Some(2));
        let one = limit.admit().await.unwrap();
        let two = limit.admit().await.unwrap();
        tokio::time::timeout(Duration::from_secs(1), limit.admit()).await.unwrap_err();
        drop(one);
        let three = limit.admit().await.unwrap();
        assert!(matches!(limit.admit().await, Err(ProxyError::ServiceLimit { .. })), "after a minute");
        drop((two, three));
        limit.admit().await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn where_too_many_wait_the_next_hears_of_it_at_once() {
        let limit = limit(Some(20_000), None);
        limit.admit().await.unwrap();
        let mut tasks = JoinSet::new();
        for _ in 0..4 {
            let limit = Arc::clone(&limit);
            tasks.spawn(async move { limit.admit().await.is_ok() });
            tokio::task::yield_now().await;
        }
        let start = Instant::now();
        let error = limit.admit().await.unwrap_err();
        assert!(
            matches!(error, ProxyError::ServiceLimit { wait } if wait == Duration::from_secs(20)),
            "{error:?}"
        );
        assert_eq!(start.elapsed(), Duration::ZERO);
    }

    #[test]
    fn a_limit_is_shared_until_it_is_another() {
        let register = Register::default();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let _inside = runtime.enter();
        let limits = Limits { pace: None, concurrency: Some(2) };
        let one = register.limit("a", "compute", limits);
        assert!(Arc::ptr_eq(&one, &register.clone().limit("a", "compute", limits)));
        assert!(!Arc::ptr_eq(&one, &register.limit("b", "compute", limits)));
        assert!(!Arc::ptr_eq(&one, &register.limit("a", "image", limits)));
        let other = Limits { concurrency: Some(3), ..limits };
        assert!(!Arc::ptr_eq(&one, &register.limit("a", "compute", other)));
    }
}
