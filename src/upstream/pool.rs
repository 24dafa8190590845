//! The connections to one origin.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use http::{Method, Response};
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::deadline::Deadlines;
use super::h1::{Connection, Failure};
use super::stream::Stream;
use super::{Body, Error, Head, Origin, Scheme, Timeouts, h2};
use crate::body::RequestBody;

/// The most connections that wait for their next request.
const MAX_IDLE: usize = 512;
/// A request that must not go twice takes only a connection that was in use just now: a service
/// that closes an older one at the same moment would leave us not knowing whether it was processed.
const FRESH: Duration = Duration::from_secs(2);

/// See the module's documentation.
#[derive(Debug)]
pub struct Pool {
    origin: Origin,
    tls: Option<(TlsSetup, ServerName<'static>)>,
    idle: Mutex<Idle>,
    http2: Mutex<Option<h2::Sender>>,
    /// The service chose HTTP/1.1, so there is no point in waiting for a shared connection.
    speaks_http1: AtomicBool,
    connecting: tokio::sync::Mutex<()>,
    timeouts: Timeouts,
    pub(super) deadlines: Deadlines,
    pub(super) response_timeout: Duration,
}

/// rustls' configuration, which has no useful `Debug` of its own.
#[derive(Clone)]
pub(super) struct TlsSetup(pub(super) Arc<rustls::ClientConfig>);

impl std::fmt::Debug for TlsSetup {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("TlsSetup")
    }
}

/// The most recently used one last. Boxed, since they move in and out all the time.
type Idle = Vec<Box<Connection>>;

enum Lease {
    /// A connection, and whether it served a request before.
    Http1(Box<Connection>, bool),
    /// The shared connection, and whether it was there before.
    Http2(h2::Sender, bool),
}

impl Pool {
    pub(super) fn new(
        origin: Origin,
        tls: &TlsSetup,
        timeouts: Timeouts,
        deadlines: Deadlines,
    ) -> Result<Self, Error> {
        let tls = match origin.scheme() {
            Scheme::Http => None,
            Scheme::Https => {
                let name = ServerName::try_from(origin.host().to_owned()).map_err(|source| Error::Tls {
                    origin: origin.to_string(),
                    source: io::Error::new(io::ErrorKind::InvalidInput, source),
                })?;
                Some((tls.clone(), name))
            }
        };
        Ok(Self {
            tls,
            idle: Mutex::default(),
            http2: Mutex::default(),
            speaks_http1: AtomicBool::new(origin.scheme() == Scheme::Http),
            connecting: tokio::sync::Mutex::default(),
            response_timeout: timeouts.response,
            timeouts,
            deadlines,
            origin,
        })
    }

    /// Whom it connects to.
    pub fn origin(&self) -> &Origin {
        &self.origin
    }

    /// How many connections wait for their next request.
    pub fn idle(&self) -> usize {
        self.lock_idle().len()
    }

    /// Sends one request and waits for the head of its answer. The answer's body streams.
    ///
    /// A pooled connection that turns out to be dead before a byte of the answer came is replaced by
    /// a new one where the request may go twice (RFC 9110, section 9.2.2) or never left; and a request
    /// that the service says it did not process is sent again. That happens at most once, and only if
    /// `once_more` says so; it is false afterwards.
    ///
    /// # Errors
    /// See [`Error`]. An answer with any status is no error.
    pub async fn send(
        self: &Arc<Self>,
        head: &Head<'_>,
        body: &mut RequestBody,
        once_more: &mut bool,
    ) -> Result<Response<Body>, Error> {
        let repeatable = is_idempotent(head.method);
        let mut lease = self.lease(repeatable).await?;
        loop {
            let (outcome, reused) = match lease {
                Lease::Http1(connection, reused) => {
                    (connection.exchange(self, head, body, reused).await, reused)
                }
                Lease::Http2(sender, reused) => {
                    (Box::pin(h2::exchange(sender, self, head, body)).await, reused)
                }
            };
            let failure = match outcome {
                Ok(response) => return Ok(response),
                Err(failure) => failure,
            };
            if matches!(failure, Failure::Silent { sent: false, .. } | Failure::Refused { leaving: true }) {
                // It may take a moment until a shared connection knows itself that it is closed.
                *self.http2.lock().unwrap_or_else(PoisonError::into_inner) = None;
            }
            let may_go_again = match failure {
                Failure::Silent { sent, .. } => reused && (repeatable || !sent),
                Failure::Crossed => reused && repeatable,
                Failure::Refused { .. } => true,
                _ => false,
            };
            if !may_go_again || !*once_more || !body.rewind() {
                return Err(self.error(failure));
            }
            *once_more = false;
            tracing::debug!(origin = %self.origin, ?failure, "the request goes once more, on another connection");
            lease = Box::pin(self.connect()).await?;
        }
    }

    /// Closes what has been idle for too long.
    pub(super) fn sweep(&self) {
        let mut idle = self.lock_idle();
        idle.retain(|connection| !self.is_old(connection, self.timeouts.idle));
    }

    pub(super) fn give_back(&self, mut connection: Box<Connection>) {
        connection.idle_since = self.deadlines.now();
        let mut idle = self.lock_idle();
        if idle.len() < MAX_IDLE {
            idle.push(connection);
        }
    }

    async fn lease(&self, repeatable: bool) -> Result<Lease, Error> {
        if let Some(connection) = self.pooled(repeatable) {
            return Ok(Lease::Http1(connection, true));
        }
        if let Some(sender) = self.shared() {
            return Ok(Lease::Http2(sender, true));
        }
        // Boxed, as all that is rare: a request's future is moved a few times, so it should be small.
        Box::pin(self.connect()).await
    }

    /// The most recently used connection that is still good.
    fn pooled(&self, repeatable: bool) -> Option<Box<Connection>> {
        let limit = if repeatable { self.timeouts.idle } else { FRESH };
        let mut idle = self.lock_idle();
        while let Some(mut connection) = idle.pop() {
            if self.is_old(&connection, limit) {
                if !self.is_old(&connection, self.timeouts.idle) {
                    idle.push(connection);
                }
                return None;
            }
            // One that was in use just now costs no system call.
            let asks = connection.idle_since != self.deadlines.now();
            if !connection.is_stale(asks) {
                return Some(connection);
            }
        }
        None
    }

    fn is_old(&self, connection: &Connection, limit: Duration) -> bool {
        // A second of margin towards what the service announced.
        let announced = connection.keep_for.map(|keep| keep.saturating_sub(Duration::from_secs(1)));
        let limit = announced.map_or(limit, |announced| announced.min(limit));
        self.deadlines.now().saturating_sub(connection.idle_since) > Deadlines::ticks(limit)
    }

    fn shared(&self) -> Option<h2::Sender> {
        let mut http2 = self.http2.lock().unwrap_or_else(PoisonError::into_inner);
        if http2.as_ref().is_some_and(h2::Sender::is_closed) {
            *http2 = None;
        }
        http2.clone()
    }

    async fn connect(&self) -> Result<Lease, Error> {
        // Whoever waits for another's attempt waits no longer than for one of its own.
        let connecting = tokio::time::timeout(self.timeouts.connect, async {
            // Until it is known that the service speaks HTTP/1.1 only, one connection attempt is
            // enough: it may turn out to be one that all requests share.
            let _guard = if self.speaks_http1.load(Ordering::Relaxed) {
                None
            } else {
                let guard = self.connecting.lock().await;
                if let Some(sender) = self.shared() {
                    return Ok(Lease::Http2(sender, true));
                }
                Some(guard)
            };
            self.open().await
        });
        let timed_out = || Error::Connect {
            origin: self.origin.to_string(),
            source: io::Error::new(io::ErrorKind::TimedOut, "no connection in time"),
        };
        connecting.await.unwrap_or_else(|_| Err(timed_out()))
    }

    async fn open(&self) -> Result<Lease, Error> {
        let connect = |source| Error::Connect { origin: self.origin.to_string(), source };
        let tcp = TcpStream::connect((self.origin.host(), self.origin.port())).await.map_err(connect)?;
        tcp.set_nodelay(true).map_err(connect)?;
        let Some((tls, name)) = &self.tls else {
            return Ok(Lease::Http1(Connection::new(Stream::Plain(tcp)), false));
        };
        let failed = |source| Error::Tls { origin: self.origin.to_string(), source };
        let connector = TlsConnector::from(Arc::clone(&tls.0));
        let stream = connector.connect(name.clone(), tcp).await.map_err(failed)?;
        let http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
        self.speaks_http1.store(!http2, Ordering::Relaxed);
        let stream = Stream::Tls(Box::new(stream));
        if !http2 {
            return Ok(Lease::Http1(Connection::new(stream), false));
        }
        let sender = h2::handshake(stream).await.map_err(|error| failed(io::Error::other(error)))?;
        *self.http2.lock().unwrap_or_else(PoisonError::into_inner) = Some(sender.clone());
        Ok(Lease::Http2(sender, false))
    }

    fn error(&self, failure: Failure) -> Error {
        let origin = self.origin.to_string();
        match failure {
            Failure::Silent { source, .. } if source.kind() == io::ErrorKind::InvalidData => {
                Error::Tls { origin, source }
            }
            Failure::Silent { .. } | Failure::Refused { .. } | Failure::Crossed | Failure::Truncated => {
                Error::Closed { origin }
            }
            Failure::Malformed(what) => Error::Protocol { origin, what: what.to_owned() },
            Failure::Client(source) => Error::Client { source },
            Failure::Timeout => {
                // Whatever is wrong with a shared connection, the next request gets a new one.
                *self.http2.lock().unwrap_or_else(PoisonError::into_inner) = None;
                Error::Timeout { origin }
            }
        }
    }

    fn lock_idle(&self) -> MutexGuard<'_, Idle> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// RFC 9110, section 9.2.2.
fn is_idempotent(method: &Method) -> bool {
    matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS | Method::PUT | Method::DELETE)
}
