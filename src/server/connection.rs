//! What is known of a client's connection, without asking hyper.
//!
//! The connection's own tasks note here what happens, with plain stores; the listener looks at it on
//! its tick ([`super::watch`]) and gives orders. Whose turn it is follows from what is noted: a request
//! that waits for its service is nobody's fault, and is never ended from here.

use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use http::{Method, Request, Response, Version};
use http_body::{Body, Frame, SizeHint};
use rustls::pki_types::CertificateDer;

use super::watch::Pace;
use crate::framing::Fragment;
use crate::incoming::Transfer;
use crate::metrics::{Closed, ConnectionMetrics};

/// A client may give up on so many requests of one connection before anybody asks whether it ever
/// wanted answers.
const RESETS: u32 = 100;

const PREFACE: &[u8] = b"PRI * HTTP/2";

/// What a connection is told to do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Order {
    /// Go on.
    #[default]
    None = 0,
    /// Finish what is under way, then close.
    Finish = 1,
    /// Say goodbye, and close at once: nothing is under way.
    Leave = 2,
    /// The same, with an answer that says that the request's head was too slow.
    TooLate = 3,
    /// Close at once, whatever is under way.
    Cut = 4,
}

impl Order {
    fn read(value: u8) -> Self {
        match value {
            0 => Self::None,
            1 => Self::Finish,
            2 => Self::Leave,
            3 => Self::TooLate,
            _ => Self::Cut,
        }
    }
}

/// What the connections of one listener on one worker share.
#[derive(Debug)]
pub(super) struct Shared {
    /// Requests without an answer, and how many there may be.
    pub(super) requests: AtomicUsize,
    pub(super) most: AtomicUsize,
    pub(super) metrics: Arc<ConnectionMetrics>,
    // keyway's own answers, as bytes for a client whose request nobody can answer properly.
    /// To a request whose head was too slow.
    pub(super) late: Bytes,
    /// To a client for whom there is no room.
    pub(super) full: Bytes,
}

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) shared: Arc<Shared>,
    order: AtomicU8,
    waker: Mutex<Option<Waker>>,
    over: AtomicBool,
    h2: AtomicBool,
    /// A TLS handshake, or (HTTP/1) a request up to the last piece of its answer.
    busy: AtomicBool,
    /// Some of a request's head is here (HTTP/1).
    head: AtomicBool,
    /// The next request's target has a fragment (HTTP/1).
    fragment: AtomicBool,
    /// hyper has something to send that the system does not take.
    blocked: AtomicBool,
    /// An answer whose end is the connection's end has not ended.
    unframed: AtomicBool,
    sent: AtomicU64,
    requests: AtomicU32,
    resets: AtomicU32,
    /// HTTP/1 has one exchange at a time.
    pub(super) transfer: Arc<Transfer>,
    /// The exchanges of HTTP/2.
    streams: Mutex<Vec<Arc<Stream>>>,
    /// The one whose task hyper is about to start.
    next: Mutex<Option<Arc<Stream>>>,
    /// The certificates that the client showed; unset where it showed none.
    pub(super) shown: OnceLock<Vec<CertificateDer<'static>>>,
}

/// An exchange of HTTP/2.
#[derive(Debug, Default)]
pub(super) struct Stream {
    pub(super) transfer: Arc<Transfer>,
    pub(super) pace: Mutex<[Pace; 2]>,
    cut: AtomicBool,
    waker: Mutex<Option<Waker>>,
}

impl Stream {
    pub(super) fn is_cut(&self) -> bool {
        self.cut.load(Ordering::Acquire)
    }

    /// Ends it, with RST_STREAM.
    pub(super) fn cut(&self) {
        self.cut.store(true, Ordering::Release);
        if let Some(waker) = lock(&self.waker).take() {
            waker.wake();
        }
    }
}

impl Connection {
    /// Busy, until [`Connection::is_ready`].
    pub(super) fn new(shared: Arc<Shared>) -> Arc<Self> {
        Arc::new(Self {
            shared,
            order: AtomicU8::default(),
            waker: Mutex::default(),
            over: AtomicBool::default(),
            h2: AtomicBool::default(),
            busy: AtomicBool::new(true),
            head: AtomicBool::default(),
            fragment: AtomicBool::default(),
            blocked: AtomicBool::default(),
            unframed: AtomicBool::default(),
            sent: AtomicU64::default(),
            requests: AtomicU32::default(),
            resets: AtomicU32::default(),
            transfer: Arc::default(),
            streams: Mutex::default(),
            next: Mutex::default(),
            shown: OnceLock::new(),
        })
    }

    /// Requests can come.
    pub(super) fn is_ready(&self) {
        self.busy.store(false, Ordering::Relaxed);
    }

    /// Bytes came. Whether a request's head begins with them (HTTP/1).
    pub(super) fn read(&self, bytes: &[u8]) -> bool {
        if self.busy.load(Ordering::Relaxed)
            || self.h2.load(Ordering::Relaxed)
            || self.transfer.upload.is_open()
            || self.head.load(Ordering::Relaxed)
            // Some clients end a body with an empty line too many.
            || bytes.iter().all(|byte| matches!(byte, b'\r' | b'\n'))
        {
            return false;
        }
        let h2 = bytes.starts_with(PREFACE);
        if h2 { &self.h2 } else { &self.head }.store(true, Ordering::Relaxed);
        !h2
    }

    /// The target of the request that comes has a fragment.
    pub(super) fn has_fragment(&self) {
        self.fragment.store(true, Ordering::Relaxed);
    }

    /// Bytes went out.
    pub(super) fn wrote(&self, length: usize) {
        // Only the connection's own task writes.
        let sent = self.sent.load(Ordering::Relaxed).wrapping_add(length as u64);
        self.sent.store(sent, Ordering::Relaxed);
        self.blocked.store(false, Ordering::Relaxed);
    }

    /// Bytes would go out, if the client took them.
    pub(super) fn write_blocked(&self) {
        self.blocked.store(true, Ordering::Relaxed);
    }

    /// What to say instead of reading on.
    pub(super) fn farewell(&self) -> Option<&[u8]> {
        (self.order() == Order::TooLate).then_some(&*self.shared.late)
    }

    /// Closed now, the client could take a part of an answer for all of it, or waits for the rest.
    pub(super) fn is_cut_short(&self) -> bool {
        self.blocked.load(Ordering::Relaxed) || self.unframed.load(Ordering::Relaxed)
    }

    /// hyper has something to send that the system does not take.
    pub(super) fn is_blocked(&self) -> bool {
        self.blocked.load(Ordering::Relaxed)
    }

    /// How much went out, bytes.
    pub(super) fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    /// How many requests came.
    pub(super) fn requests(&self) -> u32 {
        self.requests.load(Ordering::Relaxed)
    }

    pub(super) fn is_h2(&self) -> bool {
        self.h2.load(Ordering::Relaxed)
    }

    /// Some of a request's head is here, and no request is under way.
    pub(super) fn is_reading_head(&self) -> bool {
        self.head.load(Ordering::Relaxed)
    }

    /// A request or its answer is under way.
    pub(super) fn is_busy(&self) -> bool {
        self.busy.load(Ordering::Relaxed)
            || self.is_blocked()
            || self.transfer.upload.is_open()
            || (self.is_h2() && !self.streams().is_empty())
    }

    /// The exchanges of HTTP/2 that are under way.
    pub(super) fn streams(&self) -> MutexGuard<'_, Vec<Arc<Stream>>> {
        lock(&self.streams)
    }

    /// Whether the connection has ended.
    pub(super) fn is_over(&self) -> bool {
        self.over.load(Ordering::Relaxed)
    }

    /// It has ended.
    pub(super) fn end(&self) {
        self.over.store(true, Ordering::Relaxed);
    }

    pub(super) fn order(&self) -> Order {
        Order::read(self.order.load(Ordering::Acquire))
    }

    /// Counts why something ended.
    pub(super) fn count(&self, why: Closed) {
        self.shared.metrics.count(why);
    }

    /// Tells the connection to do something, and counts why.
    pub(super) fn tell(&self, order: Order, why: Closed) {
        self.count(why);
        self.give(order);
    }

    /// The same for a reason that was counted already.
    pub(super) fn give(&self, order: Order) {
        self.order.store(order as u8, Ordering::Release);
        if let Some(waker) = lock(&self.waker).as_ref() {
            waker.wake_by_ref();
        }
    }

    /// Whom to wake when there is an order.
    pub(super) fn listen(&self, waker: &Waker) {
        *lock(&self.waker) = Some(waker.clone());
    }

    /// A request came.
    pub(super) fn begin<T>(self: &Arc<Self>, request: &mut Request<T>) -> Exchange {
        self.requests.store(self.requests().wrapping_add(1), Ordering::Relaxed);
        self.head.store(false, Ordering::Relaxed);
        let mut exchange =
            Exchange { connection: Arc::clone(self), stream: None, unanswered: true, unframed: false };
        self.shared.requests.fetch_add(1, Ordering::Relaxed);
        if self.fragment.load(Ordering::Relaxed) {
            self.fragment.store(false, Ordering::Relaxed);
            request.extensions_mut().insert(Fragment);
        }
        if request.version() == Version::HTTP_2 {
            self.begin_stream(&mut exchange);
        } else {
            self.busy.store(true, Ordering::Relaxed);
            exchange.unframed = request.version() == Version::HTTP_10 && request.method() != Method::HEAD;
        }
        exchange
    }

    fn begin_stream(&self, exchange: &mut Exchange) {
        self.h2.store(true, Ordering::Relaxed);
        let (requests, resets) = (self.requests(), self.resets.load(Ordering::Relaxed));
        if resets >= RESETS && resets > requests / 2 && self.order() != Order::Leave {
            tracing::warn!(requests, resets, "a client resets its requests instead of reading their answers");
            self.tell(Order::Leave, Closed::Resets);
        }
        let stream = Arc::<Stream>::default();
        self.streams().push(Arc::clone(&stream));
        *lock(&self.next) = Some(Arc::clone(&stream));
        exchange.stream = Some(stream);
    }
}

/// A request, from its head to the last piece of its answer.
#[derive(Debug)]
pub(super) struct Exchange {
    connection: Arc<Connection>,
    /// With HTTP/2, until there is an answer.
    stream: Option<Arc<Stream>>,
    unanswered: bool,
    /// Only the end of the connection could end an answer of unknown length.
    unframed: bool,
}

impl Exchange {
    /// There are not too many requests without an answer.
    pub(super) fn is_admitted(&self) -> bool {
        let shared = &self.connection.shared;
        shared.requests.load(Ordering::Relaxed) <= shared.most.load(Ordering::Relaxed)
    }

    fn has_answer(&mut self) {
        if std::mem::take(&mut self.unanswered) {
            self.connection.shared.requests.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// Whose turn it is.
    pub(super) fn transfer(&self) -> &Arc<Transfer> {
        self.stream.as_ref().map_or(&self.connection.transfer, |stream| &stream.transfer)
    }

    /// There is an answer.
    pub(super) fn answer<B: Body>(mut self, response: Response<B>) -> Response<Answer<B>> {
        self.has_answer();
        let transfer = self.stream.take().map(|stream| {
            stream.transfer.answer.begin();
            stream.transfer.answer.give_to_client();
            Arc::clone(&stream.transfer)
        });
        if self.unframed {
            let body = response.body();
            self.unframed = !body.is_end_stream() && body.size_hint().exact().is_none();
            self.connection.unframed.store(self.unframed, Ordering::Relaxed);
        }
        response.map(|body| Answer { body, transfer, broken: false, exchange: self })
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        self.has_answer();
        if self.stream.is_some() {
            // Gone before its answer.
            self.connection.resets.fetch_add(1, Ordering::Relaxed);
        }
        self.connection.busy.store(false, Ordering::Relaxed);
    }
}

/// An answer's body, which notes its progress and its end.
#[derive(Debug)]
pub(super) struct Answer<B: Body> {
    body: B,
    /// With HTTP/2; with HTTP/1 it is enough to see what the system takes.
    transfer: Option<Arc<Transfer>>,
    broken: bool,
    exchange: Exchange,
}

impl<B: Body + Unpin> Body for Answer<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        let polled = Pin::new(&mut self.body).poll_frame(cx);
        if let Some(transfer) = &self.transfer {
            transfer.answer.take(1);
            if polled.is_ready() {
                // hyper has it, and asks for more once the client makes room.
                transfer.answer.give_to_client();
            }
        }
        if let Poll::Ready(Some(Err(_))) = polled {
            self.broken = true;
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

impl<B: Body> Drop for Answer<B> {
    fn drop(&mut self) {
        if let Some(transfer) = &self.transfer {
            transfer.answer.end();
        }
        if self.exchange.unframed && !self.broken && self.body.is_end_stream() {
            self.exchange.connection.unframed.store(false, Ordering::Relaxed);
        }
    }
}

/// Where hyper runs the exchanges of HTTP/2: each is a task that ends when its stream is cut.
#[derive(Clone, Debug)]
pub(super) struct Exec(pub(super) Arc<Connection>);

impl<F> hyper::rt::Executor<F> for Exec
where
    F: Future<Output = ()> + Send + 'static,
{
    fn execute(&self, exchange: F) {
        let Some(stream) = lock(&self.0.next).take() else {
            tokio::spawn(exchange);
            return;
        };
        let open = OpenStream { connection: Arc::clone(&self.0), stream };
        tokio::spawn(async move {
            let mut exchange = std::pin::pin!(exchange);
            let mut known = false;
            std::future::poll_fn(|cx| {
                if !known {
                    known = true;
                    *lock(&open.stream.waker) = Some(cx.waker().clone());
                }
                if open.stream.is_cut() {
                    return Poll::Ready(());
                }
                exchange.as_mut().poll(cx)
            })
            .await;
        });
    }
}

struct OpenStream {
    connection: Arc<Connection>,
    stream: Arc<Stream>,
}

impl Drop for OpenStream {
    fn drop(&mut self) {
        let mut streams = self.connection.streams();
        if let Some(at) = streams.iter().position(|stream| Arc::ptr_eq(stream, &self.stream)) {
            streams.swap_remove(at);
        }
    }
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
