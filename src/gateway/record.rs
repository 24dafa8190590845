//! What is told of a request once it has ended: one line in the log, one observation.

use std::borrow::Cow;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use http::request::Parts;
use http::{HeaderValue, StatusCode};

use crate::error::ProxyError;
use crate::metrics::{ServiceMetrics, WorkerMetrics};

/// A request from its head to the end of its answer; then one line in the log and one observation,
/// also when its client went away before.
#[derive(Debug)]
pub(super) struct Record {
    pub(super) parts: Parts,
    pub(super) start: Instant,
    pub(super) upstream: Option<Duration>,
    /// When all of the answer was there, if that is known before it went out.
    pub(super) ended: Option<Instant>,
    pub(super) status: StatusCode,
    pub(super) bytes: u64,
    /// The answer was passed on to its end.
    pub(super) whole: bool,
    /// The token was at hand.
    pub(super) cached_token: bool,
    pub(super) request_id: Option<HeaderValue>,
    pub(super) error: Option<ProxyError>,
    /// The service's answer broke off: why, as in `keyway_errors_total`.
    cut: Option<&'static str>,
    pub(super) service: Arc<ServiceMetrics>,
    pub(super) worker: Arc<WorkerMetrics>,
}

/// What is counted for a client that went away before its answer began (nginx's convention).
const CLIENT_GONE: u16 = 499;

impl Record {
    /// Boxed, since it moves with the answer through many hands.
    pub(super) fn new(parts: Parts, service: Arc<ServiceMetrics>, worker: Arc<WorkerMetrics>) -> Box<Self> {
        worker.in_flight.fetch_add(1, Ordering::Relaxed);
        Box::new(Self {
            parts,
            start: Instant::now(),
            upstream: None,
            ended: None,
            status: StatusCode::from_u16(CLIENT_GONE).expect("three digits"),
            bytes: 0,
            whole: false,
            cached_token: false,
            request_id: None,
            error: None,
            cut: None,
            service,
            worker,
        })
    }

    /// The service's answer broke off, which its client sees as well.
    #[cold]
    pub(super) fn cut(&mut self, reason: &'static str, error: &(dyn std::error::Error + 'static)) {
        let ServiceMetrics { cloud, service, .. } = &*self.service;
        tracing::warn!(cloud, service, reason, error, "a service's answer broke off");
        self.cut = Some(reason);
        let cuts =
            if reason == "upstream_timeout" { &self.worker.cut_stalled } else { &self.worker.cut_broken };
        cuts.fetch_add(1, Ordering::Relaxed);
    }

    #[cold]
    fn log(&self, duration: Duration) {
        let request_id = self.request_id.as_ref().and_then(|id| id.to_str().ok());
        let error = self.error.as_ref().map(|error| error.reason().as_str()).or(self.cut);
        let cause = self.error.as_ref().and_then(cause);
        tracing::event!(
            target: "keyway::request",
            tracing::Level::INFO,
            http.request.method = %self.parts.method,
            url.path = %without_tokens(self.parts.uri.path()),
            url.query = self.parts.uri.query().map(names_only),
            http.response.status_code = self.status.as_u16(),
            http.response.body.size = self.bytes,
            cloud = self.service.cloud,
            service = self.service.service,
            duration_ms = (duration.as_secs_f64() * 1e6).round() / 1e3,
            openstack.request_id = request_id,
            "error.type" = error,
            "error.cause" = cause,
            aborted = (!self.whole).then_some(true),
            "request"
        );
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        let duration = self.ended.unwrap_or_else(Instant::now) - self.start;
        self.worker.in_flight.fetch_sub(1, Ordering::Relaxed);
        self.worker.bytes_down.fetch_add(self.bytes, Ordering::Relaxed);
        self.service.record(&self.parts.method, self.status, duration, self.upstream, self.cached_token);
        if tracing::enabled!(target: "keyway::request", tracing::Level::INFO) {
            self.log(duration);
        }
    }
}

/// A path without the token that Identity v2.0 puts into it: `/identity/v2.0/tokens/{token}`.
fn without_tokens(path: &str) -> Cow<'_, str> {
    let Some((before, after)) = path.split_once("/tokens/") else { return path.into() };
    let rest = after.find('/').map_or("", |end| &after[end..]);
    format!("{before}/tokens/***{rest}").into()
}

/// `a=1&b=2` as `a=&b=`: values may be signatures or secrets.
fn names_only(query: &str) -> String {
    let names = query.split('&').map(|pair| match pair.split_once('=') {
        Some((name, _)) => format!("{name}="),
        None => pair.to_owned(),
    });
    names.collect::<Vec<_>>().join("&")
}

/// What is behind an error, for the operator only.
fn cause(error: &ProxyError) -> Option<String> {
    let first: &dyn std::error::Error = match error {
        ProxyError::Auth(error) => error,
        ProxyError::Upstream(error) => error,
        // No input of the client's: the names are the configuration's.
        ProxyError::Denied { .. } => return Some(error.to_string()),
        _ => return None,
    };
    let mut text = first.to_string();
    let mut source = first.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    Some(text)
}
