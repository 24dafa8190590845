//! What is told of a request once it has ended: one line in the log, one observation.

use std::borrow::Cow;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use http::request::Parts;
use http::{HeaderValue, StatusCode};
use percent_encoding::percent_decode_str;

use crate::error::ProxyError;
use crate::identity::UnderWay;
use crate::metrics::{ServiceMetrics, WorkerMetrics};
use crate::secret::causes;

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
    /// Counted among its identity's.
    pub(super) under_way: Option<UnderWay>,
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
            under_way: None,
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
        let request_id =
            self.request_id.as_ref().and_then(|id| id.to_str().ok()).filter(|id| is_request_id(id));
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

/// A path without the token that Identity v2.0 puts into it: `/identity/v2.0/tokens/{token}`. What
/// stands behind a segment that is read as `tokens` is left out, whatever it is.
fn without_tokens(path: &str) -> Cow<'_, str> {
    let is_tokens =
        |segment: &str| percent_decode_str(segment).map(|byte| byte.to_ascii_lowercase()).eq(*b"tokens");
    if !path.split('/').any(is_tokens) {
        return path.into();
    }
    let mut behind = false;
    // Empty segments and dots change nothing for some servers, so the token may stand behind them.
    let segments = path.split('/').map(|segment| {
        let hidden = behind && !matches!(segment, "" | ".");
        behind = is_tokens(segment) || behind && !hidden;
        if hidden { "***" } else { segment }
    });
    segments.collect::<Vec<_>>().join("/").into()
}

/// Whether a service's id of a request looks like one: `req-` and a UUID, or Swift's `tx..`. The service
/// chose it, so it might be anything that keyway sent to it.
fn is_request_id(id: &str) -> bool {
    let known = id.starts_with("req-") || id.starts_with("tx");
    known && id.len() <= 64 && id.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
}

/// `a=1&b=2` as `a=&b=`: values may be signatures or secrets. What does not look like a name is taken
/// for a value.
fn names_only(query: &str) -> String {
    let is_name = |name: &str, longest| {
        name.len() <= longest
            && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.:".contains(&byte))
    };
    let names = query.split('&').map(|pair| match pair.split_once('=') {
        Some((name, _)) if is_name(name, 64) => format!("{name}="),
        None if is_name(pair, 24) => pair.to_owned(),
        _ => "***".to_owned(),
    });
    names.collect::<Vec<_>>().join("&")
}

/// What is behind an error, for the operator only.
fn cause(error: &ProxyError) -> Option<String> {
    match error {
        ProxyError::Auth(error) => Some(causes(&**error)),
        ProxyError::Upstream(error) => Some(causes(error)),
        // No input of the client's: the names are the configuration's.
        ProxyError::Denied { .. } => Some(error.to_string()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // Promise 74.
    #[test]
    fn a_token_in_a_path_is_not_logged_however_it_is_written() {
        for (path, logged) in [
            ("/identity/v2.0/tokens/gAAAA", "/identity/v2.0/tokens/***"),
            ("/identity/v2.0/tokens/gAAAA/endpoints", "/identity/v2.0/tokens/***/endpoints"),
            ("/cloud/tokens/identity/v2.0/tokens/gAAAA", "/cloud/tokens/***/v2.0/tokens/***"),
            ("/tokens/tokens/gAAAA", "/tokens/***/***"),
            ("/identity/v2.0/%74okens/gAAAA", "/identity/v2.0/%74okens/***"),
            ("/identity/v2.0/TOKENS//./gAAAA/x", "/identity/v2.0/TOKENS//./***/x"),
            ("/identity/v3/auth/tokens", "/identity/v3/auth/tokens"),
            ("/object-store/box/tokens.txt", "/object-store/box/tokens.txt"),
        ] {
            assert_eq!(without_tokens(path), logged, "{path}");
        }
    }

    // Promise 78.
    #[test]
    fn a_query_is_logged_without_its_values() {
        for (query, logged) in [
            ("temp_url_sig=abc&temp_url_expires=1", "temp_url_sig=&temp_url_expires="),
            ("token=abc", "token="),
            ("a=b=c&d", "a=&d"),
            ("multipart-manifest=get&acl", "multipart-manifest=&acl"),
            ("gAAAAABrAgtJ05gAAAAABrAgtJ05", "***"),
            ("token%3DgAAAA&token;gAAAA", "***&***"),
            ("", ""),
        ] {
            assert_eq!(names_only(query), logged, "{query}");
        }
    }

    // Promise 74.
    #[test]
    fn an_id_that_is_none_is_not_logged() {
        assert!(is_request_id("req-2b6f24a7-4b1f-4c0f-9b7a-3d3e8a6f1c55"));
        assert!(is_request_id("tx0a1b2c3d4e5f60718293a-00692a3b4c"));
        for id in ["gAAAAABrAgtJ05", "req-a b", "", "req-x=y", &format!("req-{}", "A".repeat(180))] {
            assert!(!is_request_id(id), "{id}");
        }
    }
}
