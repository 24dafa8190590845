//! Sockets and connections: accept, speak HTTP/1.1 or HTTP/2, drain. Knows no OpenStack.

mod address;
mod drain;
mod io;
mod listener;
mod streak;
pub mod tls;

use std::convert::Infallible;
use std::future::poll_fn;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use hyper::body::Incoming;
use hyper_util::rt::TokioExecutor;
use hyper_util::server::conn::auto;
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};
use tower::{Service, ServiceBuilder, ServiceExt as _};

use self::io::Io;

pub use address::Address;
pub use drain::Drain;
pub use listener::bind;

/// hyper's read buffer: large enough that a large upload is read in large pieces. The size of a
/// request's head is limited by the handler.
const READ_BUFFER: usize = 400 * 1024;
const MAX_FIELDS: usize = 200;
const MAX_STREAMS: u32 = 100;

/// Where a listener is, how it speaks TLS, and who may connect to its socket file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Where.
    pub address: Address,
    /// With TLS.
    pub tls: Option<tls::Config>,
    /// A socket file's mode.
    pub mode: u32,
    /// The users (uid) that may connect to a socket file. Empty: the one that keyway runs as, and root.
    pub users: Vec<u32>,
}

impl Config {
    /// Without TLS; a socket file for its owner alone.
    pub fn at(address: Address) -> Self {
        Self { address, tls: None, mode: 0o600, users: Vec::new() }
    }
}

/// How much one worker may take on, and how long a client may take. It changes on reload, for
/// connections that come afterwards.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Connections at a time.
    pub connections: usize,
    /// Requests at a time; further ones are answered with `overloaded`.
    pub requests: usize,
    /// Connections at a time of one client address, on all workers together. `None`: no limit.
    pub per_client: Option<usize>,
    /// For a TLS handshake.
    pub handshake: Duration,
    /// For a request's whole head.
    pub head: Duration,
    /// How long a connection without a request is kept.
    pub keepalive: Duration,
    /// How long a client that has to send or to read may do neither.
    pub stall: Duration,
    /// What a client that has to send must send at least, bytes per second, measured over `stall`.
    pub min_rate: u64,
}

/// What a listener needs while it serves. A reload replaces it.
#[derive(Clone)]
pub struct Settings {
    /// See [`Limits`].
    pub limits: Limits,
    /// With TLS.
    pub tls: Option<Arc<rustls::ServerConfig>>,
    /// See [`Config::users`].
    pub users: Vec<u32>,
}

/// What a handler answers when it can't.
#[derive(Debug)]
pub struct Fallback<B> {
    /// Too many requests at a time.
    pub overloaded: fn() -> Response<B>,
    /// The handler panicked.
    pub panicked: fn() -> Response<B>,
}

impl<B> Clone for Fallback<B> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<B> Copy for Fallback<B> {}

/// Serves connections until `drain` begins; those that are open then finish what they are at.
///
/// `open` counts the connections.
pub async fn serve<H, F, B>(
    listener: TcpListener,
    settings: watch::Receiver<Settings>,
    handler: H,
    fallback: Fallback<B>,
    drain: Drain,
    open: Arc<AtomicI64>,
) where
    H: Fn(Request<Incoming>) -> F + Clone + Send + 'static,
    F: Future<Output = Response<B>> + Send + 'static,
    B: http_body::Body<Data = Bytes, Error: Into<Box<dyn std::error::Error + Send + Sync>>> + Send + 'static,
{
    let config = settings.borrow().limits;
    let stack = ServiceBuilder::new()
        .load_shed()
        .concurrency_limit(config.requests)
        // Boxed, since each layer would move the whole future once more.
        .service(tower::service_fn(move |request| guarded(Box::pin(handler(request)), fallback.panicked)));
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().max_buf_size(READ_BUFFER).max_headers(MAX_FIELDS);
    builder
        .http2()
        .max_concurrent_streams(MAX_STREAMS)
        .max_header_list_size(64 * 1024)
        .initial_stream_window_size(1 << 20)
        .initial_connection_window_size(4 << 20);
    let builder = Arc::new(builder);
    let slots = Arc::new(Semaphore::new(config.connections));
    let mut draining = pin!(drain.begun());
    loop {
        let slot = Arc::clone(&slots).acquire_owned();
        let accepted = tokio::select! {
            biased;
            () = draining.as_mut() => return,
            accepted = async { (slot.await, listener.accept().await) } => accepted,
        };
        let (Ok(slot), Ok((stream, _))) = accepted else {
            let (_, Err(error)) = accepted else { return };
            pause_after(&error).await;
            continue;
        };
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "a connection ended before it began");
            continue;
        }
        let stack = stack.clone();
        let service = hyper::service::service_fn(move |request| {
            let mut stack = stack.clone();
            async move {
                let answer = match stack.ready().await {
                    Ok(ready) => ready.call(request).await,
                    Err(error) => Err(error),
                };
                Ok::<_, Infallible>(answer.unwrap_or_else(|_| (fallback.overloaded)()))
            }
        });
        let (builder, drain, open) = (Arc::clone(&builder), drain.clone(), Arc::clone(&open));
        open.fetch_add(1, Ordering::Relaxed);
        tokio::spawn(async move {
            let connection = builder.serve_connection(Io::new(stream), service);
            if let Err(error) = drain.watch(pin!(connection)).await {
                tracing::debug!(%error, "a connection ended badly");
            }
            open.fetch_sub(1, Ordering::Relaxed);
            drop(slot);
        });
    }
}

/// A connection that died in the queue is nothing; running out of descriptors needs a pause, or the
/// loop would spin.
async fn pause_after(error: &std::io::Error) {
    use std::io::ErrorKind::{ConnectionAborted, ConnectionReset, Interrupted};
    if !matches!(error.kind(), ConnectionAborted | ConnectionReset | Interrupted) {
        tracing::warn!(%error, "no connection could be accepted; is the limit of open files too low?");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// A panic in a handler costs its request, not the connection or the worker.
async fn guarded<F: Future<Output = Response<B>>, B>(
    mut answer: Pin<Box<F>>,
    panicked: fn() -> Response<B>,
) -> Result<Response<B>, Infallible> {
    let outcome = poll_fn(|cx| match catch_unwind(AssertUnwindSafe(|| answer.as_mut().poll(cx))) {
        Ok(Poll::Pending) => Poll::Pending,
        Ok(Poll::Ready(response)) => Poll::Ready(response),
        Err(_) => Poll::Ready(panicked()),
    });
    Ok(outcome.await)
}
