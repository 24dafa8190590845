//! What is told of a request once it has ended: one line in the log, one in the audit, one observation.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use http::request::Parts;
use http::{HeaderValue, StatusCode};
use jiff::Timestamp;

use crate::audit::{self, Decision, Ticket};
use crate::error::ProxyError;
use crate::identity::{Proved, UnderWay};
use crate::keystone::Token;
use crate::metrics::{ServiceMetrics, WorkerMetrics};
use crate::secret::causes;
use crate::server::Client;
use crate::shown;

/// A request from its head to the end of its answer; then one line in the log and one observation,
/// also when its client went away before. Where there is an audit, one line there, too.
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
    pub(super) request_id: Option<HeaderValue>,
    pub(super) error: Option<ProxyError>,
    /// The service's answer broke off: why, as in `keyway_errors_total`.
    cut: Option<&'static str>,
    pub(super) trail: Trail,
    pub(super) worker: Arc<WorkerMetrics>,
    /// Counted among its identity's.
    pub(super) under_way: Option<UnderWay>,
    /// Where its line in the audit goes. `None` if there is no audit.
    pub(super) audit: Option<Box<Audited>>,
}

/// What is found out of a request on its way.
#[derive(Debug)]
pub(super) struct Trail {
    /// Where it is counted.
    pub(super) service: Arc<ServiceMetrics>,
    /// The token was at hand.
    pub(super) cached_token: bool,
    /// Bytes of its body that were read.
    pub(super) received: u64,
    /// There is an audit, so what only that needs is noted here, too.
    pub(super) is_audited: bool,
    /// Whose it is.
    pub(super) proved: Option<Proved>,
    /// The cloud's token that it is to carry, or that the token it got stands for.
    pub(super) token: Option<Arc<Token>>,
    /// keyway's own Keystone said no, in the shape of its own.
    pub(super) refused: Option<(Decision, &'static str)>,
}

/// What the audit has to know of a request beside all that.
#[derive(Debug)]
pub(super) struct Audited {
    pub(super) ticket: Ticket,
    pub(super) listener: Arc<str>,
    pub(super) client: Arc<Client>,
}

impl Trail {
    pub(super) fn new(service: Arc<ServiceMetrics>) -> Self {
        let (proved, token, refused) = (None, None, None);
        Self { service, cached_token: false, received: 0, is_audited: false, proved, token, refused }
    }
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
            request_id: None,
            error: None,
            cut: None,
            trail: Trail::new(service),
            worker,
            under_way: None,
            audit: None,
        })
    }

    /// The service's answer broke off, which its client sees as well.
    #[cold]
    pub(super) fn cut(&mut self, reason: &'static str, error: &(dyn std::error::Error + 'static)) {
        let ServiceMetrics { cloud, service, .. } = &*self.trail.service;
        tracing::warn!(cloud, service, reason, error, "a service's answer broke off");
        self.cut = Some(reason);
        let cuts =
            if reason == "upstream_timeout" { &self.worker.cut_stalled } else { &self.worker.cut_broken };
        cuts.fetch_add(1, Ordering::Relaxed);
    }

    #[cold]
    fn log(&self, duration: Duration) {
        let request_id = shown::request_id(self.request_id.as_ref());
        let error = self.error.as_ref().map(|error| error.reason().as_str()).or(self.cut);
        let cause = self.error.as_ref().and_then(cause);
        tracing::event!(
            target: "keyway::request",
            tracing::Level::INFO,
            http.request.method = %self.parts.method,
            url.path = %shown::path(self.parts.uri.path()),
            url.query = self.parts.uri.query().map(shown::query),
            http.response.status_code = self.status.as_u16(),
            http.response.body.size = self.bytes,
            cloud = self.trail.service.cloud,
            service = self.trail.service.service,
            duration_ms = milliseconds(duration),
            openstack.request_id = request_id,
            "error.type" = error,
            "error.cause" = cause,
            aborted = (!self.whole).then_some(true),
            "request"
        );
    }

    /// The line in the audit.
    #[cold]
    fn audit(&self, listener: &str, client: &Client, duration: Duration) -> audit::Line {
        let Trail { service, proved, token, received, .. } = &self.trail;
        let known = |name: &'_ str| name != "none";
        let project = token.as_ref().and_then(|token| token.project.as_ref());
        // The answer to a defect is made where this record is not at hand.
        let status = if std::thread::panicking() { StatusCode::INTERNAL_SERVER_ERROR } else { self.status };
        let (decision, rule) = self.decision();
        let query = self.parts.uri.query().map(shown::query);
        audit::Entry {
            timestamp: Timestamp::now() - self.start.elapsed(),
            identity: proved.as_ref().map(|proved| &*proved.identity.name),
            proof: proved.as_ref().map(|proved| proved.proof.to_string()),
            peer: audit::peer(client.address, client.user),
            listener,
            cloud: Some(&*service.cloud).filter(|name| known(name)),
            project_id: project.map(|project| &*project.id),
            project_name: project.map(|project| &*project.name),
            service: Some(&*service.service).filter(|name| known(name)),
            method: shown::method(&self.parts.method),
            path: &shown::path(self.parts.uri.path()),
            query: query.as_deref(),
            status: status.as_u16(),
            received: *received,
            sent: self.bytes,
            duration_ms: milliseconds(duration),
            request_id: shown::request_id(self.request_id.as_ref()),
            global_request_id: shown::global_request_id(&self.parts.headers),
            decision,
            rule,
        }
        .line()
    }

    /// What keyway made of the request, and what decided that.
    fn decision(&self) -> (Decision, Option<String>) {
        let Some(error) = &self.error else {
            return match self.trail.refused {
                Some((decision, rule)) => (decision, Some(rule.to_owned())),
                None => (Decision::Allowed, None),
            };
        };
        error.decision()
    }
}

fn milliseconds(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1e6).round() / 1e3
}

impl Drop for Record {
    fn drop(&mut self) {
        let duration = self.ended.unwrap_or_else(Instant::now) - self.start;
        self.worker.in_flight.fetch_sub(1, Ordering::Relaxed);
        self.worker.bytes_down.fetch_add(self.bytes, Ordering::Relaxed);
        let Trail { service, cached_token, .. } = &self.trail;
        service.record(&self.parts.method, self.status, duration, self.upstream, *cached_token);
        if tracing::enabled!(target: "keyway::request", tracing::Level::INFO) {
            self.log(duration);
        }
        if let Some(audited) = self.audit.take() {
            let Audited { ticket, listener, client } = *audited;
            ticket.write(self.audit(&listener, &client, duration));
        }
    }
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
    use http::Request;
    use proptest::prelude::*;
    use serde_json::Value;

    use super::*;
    use crate::metrics::Metrics;

    /// The line of a request with this target and these fields.
    fn line(target: &str, fields: &[(&str, &str)]) -> String {
        let metrics = Metrics::new();
        let worker = metrics.worker();
        let service = metrics.service(&worker, "lab", "compute");
        let mut request = Request::builder().uri(target);
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        let (parts, ()) = request.body(()).expect("the test writes a valid request").into_parts();
        let record = Record::new(parts, service, worker);
        let line = record.audit("main", &Client::default(), Duration::ZERO);
        String::from_utf8(line.into()).expect("ASCII")
    }

    proptest! {
        // Promises 74, 78.
        #[test]
        fn no_credential_and_no_value_of_a_query_is_in_a_line(
            secret in "[A-Za-z0-9_-]{25,200}",
            name in "[a-z][a-z0-9_-]{0,20}",
            segment in "[A-Za-z0-9._~%:@!$&'()*+,;=-]{0,20}",
            dots in "(/|/\\./|//|/\\.//\\./)",
            tokens in "([tT]|%74|%54)[oO](k|%6b|%4B)(e|%65)ns",
        ) {
            let segment = segment.replace('%', "");
            let fields = [
                ("x-auth-token", secret.as_str()),
                ("x-subject-token", &secret),
                ("x-storage-token", &secret),
                ("authorization", &format!("Bearer {secret}")),
                ("cookie", &format!("session={secret}")),
                ("x-openstack-request-id", &format!("req-{secret}")),
                ("user-agent", &secret),
            ];
            for target in [
                format!("/identity/v2.0/{tokens}{dots}{secret}/{segment}?{name}={secret}"),
                format!("/compute/{segment}gAAAAA{secret}/{segment}?{secret}&{name}={segment}{secret}"),
                format!("/compute/kwk_{secret}{segment}?{name}=a={secret}&=&={secret}&{secret}={name}"),
                format!("/compute/%67AAAAA{secret}?%{secret}"),
            ] {
                // Some of these are no targets at all.
                if target.parse::<http::Uri>().is_err() {
                    continue;
                }
                let line = line(&target, &fields);
                let value: Value = serde_json::from_str(&line).expect("JSON");
                prop_assert!(!line.contains(&secret), "{}", line);
                prop_assert_eq!(&value["openstack.global_request_id"], &Value::Null);
                prop_assert_eq!(line.matches('\n').count(), 1);
            }
        }
    }

    #[test]
    fn a_request_id_of_a_client_is_in_its_line_if_it_is_one() {
        let id = "req-2b6f24a7-4b1f-4c0f-9b7a-3d3e8a6f1c55";
        let line: Value =
            serde_json::from_str(&line("/compute/x?a=b", &[("x-openstack-request-id", id)])).unwrap();
        assert_eq!(line["openstack.global_request_id"], id);
        assert_eq!((&line["url.query"], &line["cloud"]), (&"a=".into(), &"lab".into()));
    }

    // Promise 72.
    #[test]
    fn a_request_that_met_a_defect_has_a_line_too() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("audit");
        let metrics = Metrics::new();
        let target = audit::Target::File(path.clone());
        let config = audit::Config { target, on_failure: audit::OnFailure::Stop };
        let audit = audit::Audit::start(&config, &metrics).unwrap();
        let worker = metrics.worker();
        let service = metrics.service(&worker, "lab", "compute");
        let (parts, ()) = Request::get("/compute/x").body(()).unwrap().into_parts();
        let mut record = Record::new(parts, service, worker);
        let (ticket, client) = (audit.admit().unwrap(), Arc::default());
        record.audit = Some(Box::new(Audited { ticket, listener: "main".into(), client }));
        let defect = std::panic::AssertUnwindSafe(move || {
            let _record = record;
            panic!("a defect");
        });
        assert!(std::panic::catch_unwind(defect).is_err());
        let text = (0..6000).find_map(|_| {
            std::thread::sleep(Duration::from_millis(10));
            std::fs::read_to_string(&path).ok().filter(|text| text.ends_with('\n'))
        });
        let line: Value = serde_json::from_str(&text.expect("a line")).unwrap();
        assert_eq!(
            (&line["http.response.status_code"], &line["url.path"]),
            (&500.into(), &"/compute/x".into())
        );
    }
}
