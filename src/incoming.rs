//! A request's body as its listener hands it over, and whose turn it is.
//!
//! A listener ends what a client does not go on with, but never what waits for a service. [`Transfer`]
//! tells the two apart: whoever reads a body, or hands over a piece of an answer, notes there whether
//! the client has to move next. Looking at it is the listener's matter, now and then, so that no
//! request needs a timer.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

/// Whose turn it is in one direction, and how far it has come.
#[derive(Debug, Default)]
pub struct Turn {
    open: AtomicBool,
    client: AtomicBool,
    progress: AtomicU64,
}

impl Turn {
    /// It begins, and it is not the client's turn.
    pub fn begin(&self) {
        self.client.store(false, Ordering::Relaxed);
        self.open.store(true, Ordering::Relaxed);
    }

    /// It has ended.
    pub fn end(&self) {
        self.client.store(false, Ordering::Relaxed);
        self.open.store(false, Ordering::Relaxed);
    }

    /// The client has to move next.
    pub fn give_to_client(&self) {
        self.client.store(true, Ordering::Relaxed);
    }

    /// The client moved, by so much.
    pub fn take(&self, progress: u64) {
        self.client.store(false, Ordering::Relaxed);
        // Only one task writes.
        self.progress.store(self.progress.load(Ordering::Relaxed).wrapping_add(progress), Ordering::Relaxed);
    }

    /// It has begun and not ended.
    pub fn is_open(&self) -> bool {
        self.open.load(Ordering::Relaxed)
    }

    /// The client has to move next.
    pub fn is_clients(&self) -> bool {
        self.client.load(Ordering::Relaxed)
    }

    /// How far it has come.
    pub fn progress(&self) -> u64 {
        self.progress.load(Ordering::Relaxed)
    }
}

/// Both directions of an exchange.
#[derive(Debug, Default)]
pub struct Transfer {
    /// The request's body, bytes.
    pub upload: Turn,
    /// The answer's body, pieces.
    pub answer: Turn,
}

/// A request's body.
#[derive(Debug)]
pub struct Incoming {
    body: hyper::body::Incoming,
    transfer: Option<Arc<Transfer>>,
}

impl Incoming {
    /// `transfer` is kept only if there is a body.
    pub fn new(body: hyper::body::Incoming, transfer: &Arc<Transfer>) -> Self {
        let transfer = (!body.is_end_stream()).then(|| {
            transfer.upload.begin();
            Arc::clone(transfer)
        });
        Self { body, transfer }
    }
}

/// One that nobody looks after.
impl From<hyper::body::Incoming> for Incoming {
    fn from(body: hyper::body::Incoming) -> Self {
        Self { body, transfer: None }
    }
}

impl Body for Incoming {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let polled = Pin::new(&mut self.body).poll_frame(cx);
        if let Some(transfer) = &self.transfer {
            match &polled {
                Poll::Pending => transfer.upload.give_to_client(),
                Poll::Ready(Some(Ok(frame))) => {
                    transfer.upload.take(frame.data_ref().map_or(0, |data| data.len() as u64));
                }
                Poll::Ready(_) => transfer.upload.end(),
            }
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for Incoming {
    fn drop(&mut self) {
        if let Some(transfer) = &self.transfer {
            transfer.upload.end();
        }
    }
}
