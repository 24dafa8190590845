//! A request's body on its way up, which may have to go twice.
//!
//! [`RequestBody`] keeps what it read from the client as long as that fits the replay buffer, so
//! that the same bytes can be sent again from the start. A body that outgrew the buffer flows
//! through and is gone: it is never replayed in part.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use http::HeaderMap;
use http_body::{Body as _, Frame};

use crate::incoming::Incoming;

/// Pieces smaller than this go out together, bytes.
const SMALL: usize = 8 * 1024;
/// Together they have about so many at most, bytes.
const GATHERED: usize = 32 * 1024;

/// How many bytes all buffers of one kind may hold together in one worker.
#[derive(Debug)]
pub struct Budget {
    free: AtomicUsize,
    per_request: usize,
}

impl Budget {
    /// `total` bytes for all requests, at most `per_request` for one.
    pub fn new(total: usize, per_request: usize) -> Self {
        Self { free: AtomicUsize::new(total), per_request }
    }

    /// The most that one request may hold, bytes.
    pub fn per_request(&self) -> usize {
        self.per_request
    }

    /// Takes so many bytes out of it, if they are there.
    #[must_use]
    pub fn take(&self, bytes: usize) -> bool {
        self.free.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |free| free.checked_sub(bytes)).is_ok()
    }

    /// Puts bytes back.
    pub fn give_back(&self, bytes: usize) {
        self.free.fetch_add(bytes, Ordering::Relaxed);
    }
}

/// Why a request's body can't be read to its end.
#[derive(Debug, thiserror::Error)]
pub enum BodyError {
    /// The client went away, or broke HTTP's framing.
    #[error("the client's body ended early or is malformed")]
    Broken(#[source] hyper::Error),
    /// More came than this request may bring.
    #[error("the client's body is larger than {limit} bytes")]
    TooLarge {
        /// The limit, bytes.
        limit: u64,
    },
}

/// See the module's documentation.
pub struct RequestBody {
    /// What the client has still to send; `None` once it ended.
    source: Option<Incoming>,
    /// What was read and is kept: all of the body so far, unless `passed` is set. Copied, so that it
    /// takes what the budget counts, and not the read buffers that hyper's pieces are cut from.
    kept: Vec<u8>,
    /// How much of `kept` went out in this attempt, bytes.
    sent: usize,
    /// Read ahead but too large to keep: goes out next.
    ahead: Option<Bytes>,
    /// Some of the body left this process and was not kept.
    passed: bool,
    /// Small pieces that will go out as one.
    gathered: BytesMut,
    /// What came behind them.
    behind: Option<Option<Result<Frame<Bytes>, BodyError>>>,
    /// Whoever fills this body had its turn since the last piece, and had nothing more.
    waited: bool,
    trailers: Option<HeaderMap>,
    trailers_sent: bool,
    length: Option<u64>,
    received: u64,
    /// The most that it may have, bytes.
    limit: u64,
    budget: Arc<Budget>,
    /// All of a body of keyway's own.
    own: Option<Bytes>,
}

impl fmt::Debug for RequestBody {
    /// Without its bytes, which may be a login.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RequestBody").field("received", &self.received).finish_non_exhaustive()
    }
}

impl RequestBody {
    /// Wraps what hyper received. Nothing is read yet.
    pub fn new(source: Incoming, budget: Arc<Budget>) -> Self {
        let length = source.size_hint().exact();
        let source = (!source.is_end_stream()).then_some(source);
        Self::of(source, length, budget, None)
    }

    /// The same with at most so many bytes: reading more is an error, so that nobody gets a whole body
    /// that is too large.
    #[must_use]
    pub fn limited(mut self, limit: u64) -> Self {
        self.limit = limit;
        self
    }

    /// The body of a request of keyway's own: here already, and never copied, since it may hold a
    /// password.
    pub fn from_bytes(whole: Bytes) -> Self {
        Self::of(None, None, Arc::new(Budget::new(0, 0)), Some(whole))
    }

    fn of(source: Option<Incoming>, length: Option<u64>, budget: Arc<Budget>, own: Option<Bytes>) -> Self {
        Self {
            source,
            kept: Vec::new(),
            sent: 0,
            ahead: None,
            passed: false,
            gathered: BytesMut::new(),
            behind: None,
            waited: false,
            trailers: None,
            trailers_sent: false,
            length,
            received: 0,
            limit: u64::MAX,
            budget,
            own,
        }
    }

    /// The request is keyway's own: what is said and heard may be a secret.
    pub fn is_own(&self) -> bool {
        self.own.is_some()
    }

    /// What there is for another attempt.
    fn kept(&self) -> &[u8] {
        self.own.as_ref().map_or(&self.kept[..], |own| &own[..])
    }

    /// Its length in bytes where it is known: from Content-Length, or because all of it is here.
    pub fn length(&self) -> Option<u64> {
        if self.is_whole() && self.trailers.is_none() { Some(self.kept().len() as u64) } else { self.length }
    }

    /// There is no body at all, and there never was one.
    pub fn is_empty(&self) -> bool {
        self.is_whole() && self.kept().is_empty() && self.trailers.is_none()
    }

    /// All of it is in the replay buffer.
    pub fn is_whole(&self) -> bool {
        self.source.is_none() && self.ahead.is_none() && !self.passed
    }

    /// How much of it the client has sent, bytes.
    pub fn received(&self) -> u64 {
        self.received
    }

    /// It may fit the replay buffer, going by its announced length.
    pub fn may_fit(&self) -> bool {
        self.length.is_none_or(|length| length <= self.budget.per_request as u64)
    }

    /// Goes back to the start for another attempt. `false` if some of it is gone.
    #[must_use]
    pub fn rewind(&mut self) -> bool {
        if self.passed {
            return false;
        }
        self.sent = 0;
        self.gathered.clear();
        self.behind = None;
        self.trailers_sent = false;
        true
    }

    /// Reads ahead without sending, until the body is whole (`true`) or the buffer is full (`false`).
    pub fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<Result<bool, BodyError>> {
        loop {
            if self.source.is_none() && self.ahead.is_none() {
                return Poll::Ready(Ok(!self.passed));
            }
            if self.ahead.is_some() || self.passed {
                return Poll::Ready(Ok(false));
            }
            ready!(self.poll_read(cx))?;
        }
    }

    /// Waits until the body is whole in the buffer, or too large for it.
    ///
    /// # Errors
    /// See [`BodyError`].
    pub async fn fill(&mut self) -> Result<bool, BodyError> {
        std::future::poll_fn(|cx| self.poll_fill(cx)).await
    }

    /// The whole body as one piece, if it is whole.
    pub fn whole(&self) -> Option<Bytes> {
        if !self.is_whole() || self.trailers.is_some() {
            return None;
        }
        Some(self.own.clone().unwrap_or_else(|| Bytes::copy_from_slice(&self.kept)))
    }

    /// The next piece to send.
    pub fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        loop {
            if self.sent < self.kept().len() {
                let rest = self.sent..;
                self.sent = self.kept().len();
                let piece = match &self.own {
                    Some(own) => own.slice(rest),
                    None => Bytes::copy_from_slice(&self.kept[rest]),
                };
                return Poll::Ready(Some(Ok(Frame::data(piece))));
            }
            if let Some(piece) = self.ahead.take() {
                self.pass();
                return Poll::Ready(Some(Ok(Frame::data(piece))));
            }
            if self.source.is_none() {
                let trailers = self.trailers.as_ref().filter(|_| !self.trailers_sent).cloned();
                self.trailers_sent = true;
                return Poll::Ready(trailers.map(|trailers| Ok(Frame::trailers(trailers))));
            }
            if let Err(error) = ready!(self.poll_read(cx)) {
                return Poll::Ready(Some(Err(error)));
            }
        }
    }

    /// The next piece to send, small ones gathered into one: a client that writes in drops must not
    /// make us do so. What is here goes out as soon as the client pauses.
    pub fn poll_gathered(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        loop {
            if let Some(behind) = self.behind.take() {
                return Poll::Ready(behind);
            }
            match self.poll_frame(cx) {
                Poll::Ready(Some(Ok(frame)))
                    if !self.is_own() && frame.data_ref().is_some_and(|data| data.len() < SMALL) =>
                {
                    self.waited = false;
                    self.gathered.extend_from_slice(&frame.into_data().unwrap_or_default());
                    if self.gathered.len() < GATHERED {
                        continue;
                    }
                }
                Poll::Ready(next) if self.gathered.is_empty() => return Poll::Ready(next),
                Poll::Ready(next) => self.behind = Some(next),
                Poll::Pending if self.gathered.is_empty() => return Poll::Pending,
                // hyper hands over one piece at a time: more may be there once it had its turn.
                Poll::Pending if !std::mem::replace(&mut self.waited, true) => {
                    cx.waker().wake_by_ref();
                    return Poll::Pending;
                }
                Poll::Pending => {}
            }
            return Poll::Ready(Some(Ok(Frame::data(self.gathered.split().freeze()))));
        }
    }

    /// Takes one piece from the client into `kept` or `ahead`.
    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BodyError>> {
        let Some(source) = &mut self.source else { return Poll::Ready(Ok(())) };
        match ready!(Pin::new(source).poll_frame(cx)) {
            Some(Ok(frame)) => match frame.into_data() {
                Ok(piece) => {
                    self.received += piece.len() as u64;
                    if self.received > self.limit {
                        return Poll::Ready(Err(BodyError::TooLarge { limit: self.limit }));
                    }
                    self.keep(piece);
                }
                Err(frame) => self.trailers = frame.into_trailers().ok(),
            },
            Some(Err(error)) => return Poll::Ready(Err(BodyError::Broken(error))),
            None => self.source = None,
        }
        Poll::Ready(Ok(()))
    }

    fn keep(&mut self, piece: Bytes) {
        if piece.is_empty() {
            return;
        }
        let fits = !self.passed && self.kept.len() + piece.len() <= self.budget.per_request;
        if fits && self.budget.take(piece.len()) {
            self.kept.extend_from_slice(&piece);
        } else {
            self.ahead = Some(piece);
        }
    }

    /// A piece goes out that is not kept: what was kept is of no use any more.
    fn pass(&mut self) {
        self.passed = true;
        self.sent = 0;
        self.release();
    }

    fn release(&mut self) {
        self.budget.give_back(std::mem::take(&mut self.kept).len());
    }

    /// What the client has still to send, to be drained once nobody wants it.
    pub fn into_rest(mut self) -> Option<Incoming> {
        self.source.take()
    }
}

impl Drop for RequestBody {
    fn drop(&mut self) {
        self.release();
    }
}
