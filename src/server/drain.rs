//! The end of service: no new connections, and those that are open finish what they are at.

use std::collections::HashMap;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Poll, Waker};

use super::connection::{Connection, Exec, Order};
use super::io::Io;
use super::streak::Streak;

use bytes::Bytes;
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::service::Service;
use hyper_util::rt::TokioIo;
use hyper_util::server::conn::auto;

/// A clone shares it.
#[derive(Clone, Debug, Default)]
pub struct Drain(Arc<State>);

#[derive(Debug, Default)]
struct State {
    begun: AtomicBool,
    waiting: Mutex<Waiting>,
}

#[derive(Debug, Default)]
struct Waiting {
    next: u64,
    wakers: HashMap<u64, Waker>,
    /// Whoever waits for the last connection to end.
    ended: Option<Waker>,
}

impl Drain {
    /// Ends service. Idle connections close now, busy ones after their answers.
    pub fn begin(&self) {
        self.0.begun.store(true, Ordering::Release);
        self.lock().wakers.values().for_each(Waker::wake_by_ref);
    }

    /// Waits until service ends.
    pub async fn begun(&self) {
        let mut place = None;
        poll_fn(|cx| {
            if self.has_begun() {
                return Poll::Ready(());
            }
            place.get_or_insert_with(|| self.place(cx.waker().clone()));
            if self.has_begun() { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
    }

    /// Waits until every watched connection has ended.
    pub async fn ended(&self) {
        poll_fn(|cx| {
            let mut waiting = self.lock();
            if waiting.wakers.is_empty() {
                return Poll::Ready(());
            }
            waiting.ended = Some(cx.waker().clone());
            Poll::Pending
        })
        .await;
    }

    /// Runs a connection, and tells it when service ends, or what its listener orders. Costs two loads
    /// per wake-up.
    pub(super) async fn watch<S, B>(
        &self,
        mut serving: Pin<&mut auto::Connection<'_, TokioIo<Io>, S, Exec>>,
        connection: &Connection,
    ) -> Result<(), Box<dyn std::error::Error + Send + Sync>>
    where
        S: Service<Request<Incoming>, Response = Response<B>, Future: Send + 'static>,
        S::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
        B: http_body::Body<Data = Bytes, Error: Into<Box<dyn std::error::Error + Send + Sync>>>
            + Send
            + 'static,
    {
        let mut place = None;
        let mut told = false;
        let mut streak = None;
        poll_fn(|cx| {
            if place.is_none() {
                connection.listen(cx.waker());
                place = Some(self.place(cx.waker().clone()));
            }
            let order = connection.order();
            if order == Order::Cut {
                return Poll::Ready(Ok(()));
            }
            if !told && (self.has_begun() || matches!(order, Order::Finish | Order::Leave)) {
                told = true;
                serving.as_mut().graceful_shutdown();
            }
            let streak = streak.get_or_insert_with(|| Streak::new(cx.waker()));
            let polled = streak.poll(|cx| serving.as_mut().poll(cx));
            // It had its chance to say goodbye.
            if matches!(order, Order::Leave | Order::TooLate) { Poll::Ready(Ok(())) } else { polled }
        })
        .await
    }

    fn has_begun(&self) -> bool {
        self.0.begun.load(Ordering::Acquire)
    }

    fn place(&self, waker: Waker) -> Place {
        let mut waiting = self.lock();
        let id = waiting.next;
        waiting.next += 1;
        waiting.wakers.insert(id, waker);
        Place { drain: self.clone(), id }
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.0.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct Place {
    drain: Drain,
    id: u64,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut waiting = self.drain.lock();
        waiting.wakers.remove(&self.id);
        if waiting.wakers.is_empty()
            && let Some(waker) = waiting.ended.take()
        {
            waker.wake();
        }
    }
}
