//! Pools by origin, and small whole exchanges for keyway's own needs.

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderName, Request, Response};
use http_body::Body as _;
use http_body_util::BodyExt as _;
use zeroize::{Zeroize as _, Zeroizing};

use super::deadline::Deadlines;
use super::pool::{Pool, TlsSetup};
use super::{Head, Origin, tls};
use crate::body::RequestBody;
use crate::secret;

/// How often idle connections are looked at.
const SWEEP: Duration = Duration::from_secs(5);

/// How long things may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// TCP connection and TLS handshake.
    pub connect: Duration,
    /// From the end of a request to the head of its answer; and before and after that, how long the
    /// service may take nothing of an upload or send nothing of an answer that is waited for.
    pub response: Duration,
    /// How long an unused connection is kept.
    pub idle: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(10),
            response: Duration::from_secs(300),
            idle: Duration::from_secs(55),
        }
    }
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No connection: refused, unreachable, unknown name, or too slow.
    #[error("could not connect to {origin}")]
    Connect {
        /// Where to.
        origin: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A connection, but no TLS session.
    #[error("no TLS session with {origin}")]
    Tls {
        /// With whom.
        origin: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The connection ended before the answer did.
    #[error("{origin} closed the connection before its answer was whole")]
    Closed {
        /// Who.
        origin: String,
    },
    /// Not HTTP, or against its rules.
    #[error("{origin} answered with something that is not HTTP: {what}")]
    Protocol {
        /// Who.
        origin: String,
        /// What was wrong.
        what: String,
    },
    /// No answer in time.
    #[error("{origin} did not answer in time")]
    Timeout {
        /// Who.
        origin: String,
    },
    /// More than the caller wanted to hold.
    #[error("{origin} answered with more than {limit} bytes")]
    TooLarge {
        /// Who.
        origin: String,
        /// The limit, bytes.
        limit: usize,
    },
    /// The client went away, broke the framing of its body, or sent too much.
    #[error("the client's request ended early")]
    Client {
        /// Why.
        #[source]
        source: crate::body::BodyError,
    },
}

/// Connections to any number of origins with one TLS configuration. A clone shares them.
#[derive(Clone, Debug)]
pub struct Client {
    tls: TlsSetup,
    timeouts: Timeouts,
    deadlines: Deadlines,
    pools: Arc<Mutex<HashMap<Origin, Arc<Pool>>>>,
}

impl Client {
    /// Reads the TLS files. No connection is made yet.
    ///
    /// # Errors
    /// A certificate or key file can't be used.
    pub fn new(tls: &tls::Config, timeouts: Timeouts) -> Result<Self, tls::Error> {
        Ok(Self::with_tls(tls.load()?, timeouts))
    }

    /// The same with TLS files that were read before: one reading serves every worker.
    pub fn with_tls(tls: Arc<rustls::ClientConfig>, timeouts: Timeouts) -> Self {
        Self { tls: TlsSetup(tls), timeouts, deadlines: Deadlines::default(), pools: Arc::default() }
    }

    /// Ends what is overdue and closes what is idle: run it on the worker that owns this client. It
    /// holds nothing, and ends soon after the last clone, pool and answer of this client have.
    pub fn watch(&self) -> impl Future<Output = ()> + Send + use<> {
        let deadlines = self.deadlines.watch();
        let pools = Arc::downgrade(&self.pools);
        let sweep = async move {
            let mut tick = tokio::time::interval(SWEEP);
            loop {
                tick.tick().await;
                let Some(pools) = pools.upgrade() else { return };
                let pools: Vec<_> =
                    pools.lock().unwrap_or_else(PoisonError::into_inner).values().cloned().collect();
                pools.iter().for_each(|pool| pool.sweep());
            }
        };
        async {
            tokio::join!(deadlines, sweep);
        }
    }

    /// The connections to one origin.
    ///
    /// # Errors
    /// Its host is no name that a certificate could have.
    pub fn pool(&self, origin: &Origin) -> Result<Arc<Pool>, Error> {
        let mut pools = self.lock();
        if let Some(pool) = pools.get(origin) {
            return Ok(Arc::clone(pool));
        }
        let pool = Pool::new(origin.clone(), &self.tls, self.timeouts, self.deadlines.clone())?;
        let pool = Arc::new(pool);
        pools.insert(origin.clone(), Arc::clone(&pool));
        Ok(pool)
    }

    /// How many connections wait for their next request.
    pub fn idle(&self) -> usize {
        self.lock().values().map(|pool| pool.idle()).sum()
    }

    /// Sends a small request and reads the whole answer, up to `limit` bytes of body. The request's
    /// URI is a path and query; `Host` and `Content-Length` are added. Redirects are not followed.
    /// The answer may hold a token: its body is wiped when it is dropped.
    ///
    /// # Errors
    /// See [`Error`]. An answer with any status is no error.
    pub async fn fetch(
        &self,
        origin: &Origin,
        request: Request<Bytes>,
        limit: usize,
    ) -> Result<Response<Bytes>, Error> {
        let (parts, body) = request.into_parts();
        let head = Head {
            method: &parts.method,
            target: parts.uri.path_and_query().map_or("/", |target| target.as_str()),
            authority: origin.authority(),
            headers: &parts.headers,
            withhold: |_: &HeaderName| false,
            listed: &[],
            extra: &[],
            defaults: &[],
            had_length: false,
            expect_continue: false,
            read_ahead: false,
        };
        let pool = self.pool(origin)?;
        let response = pool.send(&head, &mut RequestBody::from_bytes(body), &mut true).await?;
        let (parts, mut body) = response.into_parts();
        let announced = usize::try_from(body.size_hint().lower()).unwrap_or(usize::MAX);
        let mut whole = Zeroizing::new(Vec::with_capacity(announced.min(limit)));
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|_| Error::Closed { origin: origin.to_string() })?;
            let Ok(piece) = frame.into_data() else { continue };
            if piece.len() > limit - whole.len() {
                return Err(Error::TooLarge { origin: origin.to_string(), limit });
            }
            whole.extend_from_slice(&piece);
            if let Ok(mut piece) = piece.try_into_mut() {
                piece.as_mut().zeroize();
            }
        }
        Ok(Response::from_parts(parts, secret::hold(std::mem::take(&mut *whole))))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<Origin, Arc<Pool>>> {
        self.pools.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
