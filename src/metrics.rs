//! What keyway counts (Prometheus conventions; every label comes from a fixed set).
//!
//! A worker counts in cells of its own, so that requests write nothing that another thread reads;
//! the cells are added up when somebody asks.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use http::{Method, StatusCode};
use prometheus::local::LocalHistogram;
use prometheus::{
    Encoder as _, GaugeVec, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec,
    Opts, Registry, TextEncoder,
};

/// The states of `keyway_token_breaker_state`.
pub const BREAKER_STATES: [&str; 4] = ["closed", "backing_off", "open", "stopped"];

/// The causes of `keyway_token_logins_left`.
const LOGINS_LEFT: [&str; 3] = ["refusals", "new_scopes", "rejections"];

/// From a cached list to a long boot: 1 ms to 60 s.
const SECONDS: [f64; 13] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 60.0];

/// The process' metrics.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    requests: IntCounterVec,
    duration: HistogramVec,
    upstream_duration: HistogramVec,
    in_flight: IntGauge,
    /// Requests sent a second time after a 401: `{cloud,service,result}`, see [`Retry`].
    pub retries: IntCounterVec,
    /// Requests that keyway answered itself with an error, or whose answer broke off: `{reason}`.
    pub errors: IntCounterVec,
    /// Answers in JSON that went out as they came, since they were too large to look for links: `{reason}`.
    pub links_unmapped: IntCounterVec,
    /// Requests that a policy denied: `{policy,rule}`, both as the configuration calls them.
    pub denied: IntCounterVec,
    /// Logins at keyway's own Keystone: `{result}`, `ok`, `refused` or `limited`.
    pub logins: IntCounterVec,
    /// Requests of identities that had too many: `{identity, limit}`.
    pub identity_limited: IntCounterVec,
    /// Lines of the audit that could not be written.
    pub audit_lost: IntCounter,
    /// 1 while the audit can't be written.
    pub audit_failing: IntGauge,
    /// Requests whose token of keyway's was not good, or missing: `{why}`, see [`Metrics::show_refusals`].
    pub sessions_refused: IntCounterVec,
    /// Calls to Keystone for a token: `{cloud,reason,result}`.
    pub token_requests: IntCounterVec,
    /// How long they took: `{cloud}`.
    pub token_request_duration: HistogramVec,
    /// When the current token ends, UNIX seconds: `{cloud}`.
    pub token_expiry: GaugeVec,
    /// When the login of a person ends, UNIX seconds; 0 where there is none: `{cloud}`.
    pub login_expiry: GaugeVec,
    /// When an API key was last used, UNIX seconds: `{identity, key}`, by the key's name.
    pub key_used: IntGaugeVec,
    /// Attempts to read the configuration anew: `{result}`, `ok` or `failed`.
    reloads: IntCounterVec,
    last_reload_successful: IntGauge,
    last_reload_timestamp: IntGauge,
    /// Until when Keystone is left alone, UNIX seconds; 0 after a success: `{cloud}`.
    pub token_backoff: GaugeVec,
    /// Keystone's last word on the credentials was no: `{cloud}`.
    pub breaker_open: IntGaugeVec,
    /// Refused tokens that were not replaced, since there were too many of late: `{cloud}`.
    pub refusals_capped: IntCounterVec,
    /// Questions to Keystone for the user's projects: `{cloud, result}`.
    pub project_lists: IntCounterVec,
    /// What the store that keyways share was asked: `{result}`.
    pub token_store_requests: IntCounterVec,
    /// Whether it can be used: one sample without labels, none where there is no such store.
    pub token_store_up: IntGaugeVec,
    /// Tokens of earlier logins or of other keyways that were found, so that Keystone was not asked: `{cloud}`.
    pub tokens_restored: IntCounterVec,
    /// How many more logins there may be right now: `{cloud, cause}`.
    pub logins_left: IntGaugeVec,
    /// Scopes beside the cloud's own that there is a token of: `{cloud}`.
    pub scopes: IntGaugeVec,
    /// Logins that Keystone rejected since the last success: `{cloud}`.
    pub rejections: IntGaugeVec,
    /// 1 for how the breaker stands, 0 for the other states: `{cloud, state}`.
    pub breaker_state: IntGaugeVec,
    token_requests_saved: IntCounterVec,
    connections: IntGaugeVec,
    closed: IntCounterVec,
    admin: Arc<ConnectionMetrics>,
    body_bytes: IntCounterVec,
    workers: Mutex<Vec<Arc<WorkerMetrics>>>,
}

/// What became of a request that met a 401, or why it went out again for another reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retry {
    /// Sent once more with a new token, and accepted.
    Accepted,
    /// Sent once more, and refused again.
    Refused,
    /// Not sent again: part of its body was gone.
    BodyGone,
    /// Not sent again: no new token was to be had.
    NoToken,
    /// Sent again, as configured: no connection came about.
    Connect,
    /// Sent again, as configured: the service answered that it can't do it now.
    Status,
}

impl Retry {
    /// The metric's label.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Accepted => "accepted",
            Self::Refused => "refused",
            Self::BodyGone => "body_gone",
            Self::NoToken => "no_token",
            Self::Connect => "connect",
            Self::Status => "status",
        }
    }
}

/// Why keyway closed or refused a connection (with HTTP/2, in some cases, a stream).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Closed {
    /// Without a request for longer than `timeouts.keepalive`.
    Keepalive,
    /// The longest without a request when there was no room for another one.
    Evicted,
    /// A request's head took longer than `timeouts.head`.
    Head,
    /// The TLS handshake took longer than `timeouts.handshake`.
    Handshake,
    /// The TLS handshake failed, for one because the client had no certificate.
    Tls,
    /// The client neither sent nor read, although it was its turn, for `timeouts.stall`.
    Stall,
    /// A request's body came slower than `limits.min_rate`.
    Rate,
    /// Most of the requests were reset by the client before their answer (HTTP/2).
    Resets,
    /// What came was not HTTP, or went against its rules.
    Protocol,
    /// Refused: there are as many connections as may be, and none is idle.
    Full,
    /// Refused: this client has as many connections as one client may have.
    Client,
    /// Refused: this user may not connect to the socket file.
    User,
    /// The system could not hand over a connection, for one for lack of descriptors. It waits.
    Accept,
}

impl Closed {
    /// All of them.
    const ALL: [Self; 13] = [
        Self::Keepalive,
        Self::Evicted,
        Self::Head,
        Self::Handshake,
        Self::Tls,
        Self::Stall,
        Self::Rate,
        Self::Resets,
        Self::Protocol,
        Self::Full,
        Self::Client,
        Self::User,
        Self::Accept,
    ];

    /// The metric's label.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Keepalive => "keepalive",
            Self::Evicted => "evicted",
            Self::Head => "head",
            Self::Handshake => "handshake",
            Self::Tls => "tls",
            Self::Stall => "stall",
            Self::Rate => "rate",
            Self::Resets => "resets",
            Self::Protocol => "protocol",
            Self::Full => "refused_full",
            Self::Client => "refused_client",
            Self::User => "refused_user",
            Self::Accept => "accept_error",
        }
    }
}

/// The cells of one worker's listeners.
#[derive(Debug, Default)]
pub struct ConnectionMetrics {
    /// Open connections of clients.
    pub open: AtomicI64,
    closed: [AtomicU64; Closed::ALL.len()],
}

impl ConnectionMetrics {
    /// One was closed or refused.
    pub fn count(&self, why: Closed) {
        self.closed[why as usize].fetch_add(1, Ordering::Relaxed);
    }
}

impl Metrics {
    /// A registry of its own, with everything registered.
    pub fn new() -> Arc<Self> {
        let registry = Registry::new();
        let counters = |name: &str, help: &str, labels: &[&str]| {
            let vec = IntCounterVec::new(Opts::new(name, help), labels).expect("names and labels are valid");
            registry.register(Box::new(vec.clone())).expect("names are unique");
            vec
        };
        let histograms = |name: &str, help: &str| HistogramOpts::new(name, help).buckets(SECONDS.to_vec());
        let histogram = |opts: HistogramOpts, labels: &[&str]| {
            let vec = HistogramVec::new(opts, labels).expect("names and labels are valid");
            registry.register(Box::new(vec.clone())).expect("names are unique");
            vec
        };
        let gauge = |name: &str, help: &str| {
            let gauge = IntGauge::new(name, help).expect("names and labels are valid");
            registry.register(Box::new(gauge.clone())).expect("names are unique");
            gauge
        };
        let audit_lost =
            IntCounter::new("keyway_audit_lost_total", "Lines of the audit that could not be written")
                .expect("names and labels are valid");
        registry.register(Box::new(audit_lost.clone())).expect("names are unique");
        let audit_failing = gauge("keyway_audit_failing", "1 while the audit can't be written");
        let in_flight = gauge("keyway_requests_in_flight", "Requests being served");
        let last_reload_successful = gauge(
            "keyway_config_last_reload_successful",
            "Whether the last attempt to read the configuration was successful",
        );
        let last_reload_timestamp = gauge(
            "keyway_config_last_reload_success_timestamp_seconds",
            "When the configuration in force was read",
        );
        let reloads = counters(
            "keyway_reloads_total",
            "Attempts to read the configuration anew, by what came of them",
            &["result"],
        );
        for result in ["ok", "failed"] {
            reloads.with_label_values(&[result]);
        }
        let logins = counters("keyway_logins_total", "Logins at keyway's own Keystone", &["result"]);
        for result in ["ok", "refused", "limited"] {
            logins.with_label_values(&[result]);
        }
        let connections = IntGaugeVec::new(
            Opts::new("keyway_connections", "Open connections: downstream active, upstream idle"),
            &["side", "state"],
        )
        .expect("names and labels are valid");
        registry.register(Box::new(connections.clone())).expect("names are unique");
        let token_expiry = GaugeVec::new(
            Opts::new(
                "keyway_token_expiry_timestamp_seconds",
                "When the current token ends, by Keystone's clock",
            ),
            &["cloud"],
        )
        .expect("names and labels are valid");
        registry.register(Box::new(token_expiry.clone())).expect("names are unique");
        let login_expiry = GaugeVec::new(
            Opts::new(
                "keyway_login_expiry_timestamp_seconds",
                "When the login of a person ends, for clouds that need one; 0 where there is none",
            ),
            &["cloud"],
        )
        .expect("names and labels are valid");
        registry.register(Box::new(login_expiry.clone())).expect("names are unique");
        let key_used = IntGaugeVec::new(
            Opts::new("keyway_api_key_last_used_timestamp_seconds", "When an API key was last used"),
            &["identity", "key"],
        )
        .expect("names and labels are valid");
        registry.register(Box::new(key_used.clone())).expect("names are unique");
        let token_backoff = GaugeVec::new(
            Opts::new(
                "keyway_token_backoff_until_timestamp_seconds",
                "Until when Keystone is left alone after a failure; 0 when the last call went well",
            ),
            &["cloud"],
        )
        .expect("names and labels are valid");
        registry.register(Box::new(token_backoff.clone())).expect("names are unique");
        let breaker_open = IntGaugeVec::new(
            Opts::new(
                "keyway_token_breaker_open",
                "1 from when Keystone rejected the credentials until it accepts them",
            ),
            &["cloud"],
        )
        .expect("names and labels are valid");
        registry.register(Box::new(breaker_open.clone())).expect("names are unique");
        let gauges = |name: &str, help: &str, labels: &[&str]| {
            let vec = IntGaugeVec::new(Opts::new(name, help), labels).expect("names and labels are valid");
            registry.register(Box::new(vec.clone())).expect("names are unique");
            vec
        };
        let build = IntGaugeVec::new(Opts::new("keyway_build_info", "1, labelled by version"), &["version"])
            .expect("names and labels are valid");
        build.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
        registry.register(Box::new(build)).expect("names are unique");
        let process = prometheus::process_collector::ProcessCollector::for_self();
        registry.register(Box::new(process)).expect("names are unique");
        Arc::new(Self {
            requests: counters(
                "keyway_requests_total",
                "Requests answered, by the service's or keyway's status",
                &["cloud", "service", "method", "code"],
            ),
            duration: histogram(
                histograms(
                    "keyway_request_duration_seconds",
                    "From a request's head to the end of its answer",
                ),
                &["cloud", "service"],
            ),
            upstream_duration: histogram(
                histograms(
                    "keyway_upstream_duration_seconds",
                    "From a request's head to the head of the service's answer",
                ),
                &["cloud", "service"],
            ),
            retries: counters(
                "keyway_retries_total",
                "Requests that met a 401 or went out again, by what became of them or why",
                &["cloud", "service", "result"],
            ),
            errors: counters(
                "keyway_errors_total",
                "Errors that keyway answered itself, and answers that broke off",
                &["reason"],
            ),
            audit_lost,
            audit_failing,
            logins,
            identity_limited: counters(
                "keyway_identity_limited_total",
                "Requests that were refused because their identity had too many",
                &["identity", "limit"],
            ),
            sessions_refused: counters(
                "keyway_sessions_refused_total",
                "Requests with a token of keyway's that is not good, or without one where it is wanted",
                &["why"],
            ),
            links_unmapped: counters(
                "keyway_links_unmapped_total",
                "Answers in JSON that were too large to look for links",
                &["reason"],
            ),
            denied: counters("keyway_denied_total", "Requests that a policy denied", &["policy", "rule"]),
            token_requests: counters(
                "keyway_token_requests_total",
                "Calls to Keystone for a token",
                &["cloud", "reason", "result"],
            ),
            token_request_duration: histogram(
                histograms(
                    "keyway_token_request_duration_seconds",
                    "How long calls to Keystone for a token took",
                ),
                &["cloud"],
            ),
            reloads,
            last_reload_successful,
            last_reload_timestamp,
            token_store_requests: counters(
                "keyway_token_store_requests_total",
                "Questions to the store of tokens that keyways share, by what came of them",
                &["result"],
            ),
            token_store_up: gauges(
                "keyway_token_store_up",
                "1 while the store of tokens that keyways share can be used, 0 while each logs in by itself",
                &[],
            ),
            tokens_restored: counters(
                "keyway_tokens_restored_total",
                "Tokens that were found on disk or in the store that keyways share, without a call to Keystone",
                &["cloud"],
            ),
            token_requests_saved: counters(
                "keyway_token_requests_saved_total",
                "Requests that were sent with a token from the cache",
                &["cloud"],
            ),
            body_bytes: counters(
                "keyway_body_bytes_total",
                "Bytes of bodies, up (to services) and down (to clients)",
                &["direction"],
            ),
            closed: counters(
                "keyway_connections_closed_total",
                "Connections (HTTP/2: also streams) that keyway closed or refused",
                &["reason"],
            ),
            admin: Arc::default(),
            refusals_capped: counters(
                "keyway_token_refusals_capped_total",
                "Refused tokens that were not replaced, since services refused too many of late",
                &["cloud"],
            ),
            project_lists: counters(
                "keyway_project_lists_total",
                "Questions to Keystone for the user's projects",
                &["cloud", "result"],
            ),
            logins_left: gauges(
                "keyway_token_logins_left",
                "How many more logins there may be right now because of refused tokens (refusals), scopes nobody had \
                 so far (new_scopes), and with credentials that Keystone rejects (rejections; none: any number)",
                &["cloud", "cause"],
            ),
            scopes: gauges(
                "keyway_token_scopes",
                "Scopes beside the cloud's own that there is a token of",
                &["cloud"],
            ),
            rejections: gauges(
                "keyway_token_rejections",
                "Logins that Keystone rejected since it accepted one",
                &["cloud"],
            ),
            breaker_state: gauges(
                "keyway_token_breaker_state",
                "1 for how logins stand (closed: all is well; backing_off: Keystone fails; open: it rejects the \
                 credentials; stopped: they are not tried again), 0 for the others",
                &["cloud", "state"],
            ),
            token_backoff,
            breaker_open,
            token_expiry,
            login_expiry,
            key_used,
            connections,
            in_flight,
            registry,
            workers: Mutex::default(),
        })
    }

    /// The configuration was read at start, at this time (UNIX seconds).
    pub fn configured(&self, at: i64) {
        self.last_reload_successful.set(1);
        self.last_reload_timestamp.set(at);
    }

    /// It was read anew.
    pub fn reloaded(&self, at: i64) {
        self.reloads.with_label_values(&["ok"]).inc();
        self.configured(at);
    }

    /// It could not be read anew; the old one stays.
    pub fn reload_failed(&self) {
        self.reloads.with_label_values(&["failed"]).inc();
        self.last_reload_successful.set(0);
    }

    /// Whether the last attempt to read the configuration was successful.
    pub fn last_reload_successful(&self) -> bool {
        self.last_reload_successful.get() == 1
    }

    /// Forgets what would go on to be told of a cloud that is no longer served.
    pub fn forget_cloud(&self, cloud: &str) {
        // It may have had no token at all.
        let _ = self.token_expiry.remove_label_values(&[cloud]);
        let _ = self.login_expiry.remove_label_values(&[cloud]);
        for cause in LOGINS_LEFT {
            let _ = self.logins_left.remove_label_values(&[cloud, cause]);
        }
        for state in BREAKER_STATES {
            let _ = self.breaker_state.remove_label_values(&[cloud, state]);
        }
        let _ = self.scopes.remove_label_values(&[cloud]);
        let _ = self.rejections.remove_label_values(&[cloud]);
    }

    /// Shows what is counted by cloud from the start, so that an alert needs no first event.
    pub fn show_clouds(&self, names: &[String]) {
        for name in names {
            let _ = self.token_backoff.with_label_values(&[name]);
            let _ = self.breaker_open.with_label_values(&[name]);
            let _ = self.refusals_capped.with_label_values(&[name]);
            let _ = self.tokens_restored.with_label_values(&[name]);
        }
    }

    /// The same for the store that keyways share, if there is one.
    pub fn show_token_store(&self, results: Option<impl IntoIterator<Item = &'static str>>) {
        let none: [&str; 0] = [];
        let Some(results) = results else {
            let _ = self.token_store_up.remove_label_values(&none);
            return;
        };
        for result in results {
            self.token_store_requests.with_label_values(&[result]);
        }
        self.token_store_up.with_label_values(&none);
    }

    /// The same for each reason why a token of keyway's is refused.
    pub fn show_refusals(&self, reasons: impl IntoIterator<Item = &'static str>) {
        for why in reasons {
            self.sessions_refused.with_label_values(&[why]);
        }
    }

    /// Cells for one more worker.
    pub fn worker(&self) -> Arc<WorkerMetrics> {
        let worker = Arc::new(WorkerMetrics::default());
        lock(&self.workers).push(Arc::clone(&worker));
        worker
    }

    /// Cells for one service, to be kept by `worker`.
    pub fn service(&self, worker: &WorkerMetrics, cloud: &str, service: &str) -> Arc<ServiceMetrics> {
        let mut services = lock(&worker.services);
        if let Some(known) = services.iter().find(|known| known.cloud == cloud && known.service == service) {
            return Arc::clone(known);
        }
        let labels = [cloud, service];
        let metrics = Arc::new(ServiceMetrics {
            cloud: cloud.to_owned(),
            service: service.to_owned(),
            cells: Mutex::new(Cells {
                answers: Vec::new(),
                saved: 0,
                duration: self.duration.with_label_values(&labels).local(),
                upstream: self.upstream_duration.with_label_values(&labels).local(),
            }),
        });
        services.push(Arc::clone(&metrics));
        metrics
    }

    /// The cells of the admin listener. What it closed is counted like any other; its open connections
    /// are not.
    pub fn admin_connections(&self) -> Arc<ConnectionMetrics> {
        Arc::clone(&self.admin)
    }

    /// Everything in Prometheus' text format.
    pub fn render(&self) -> String {
        self.collect();
        let mut text = Vec::new();
        if let Err(error) = TextEncoder::new().encode(&self.registry.gather(), &mut text) {
            tracing::error!(%error, "the metrics can't be written");
        }
        String::from_utf8_lossy(&text).into_owned()
    }

    /// Adds up what the workers counted since the last time.
    fn collect(&self) {
        let (mut in_flight, mut downstream, mut idle) = (0, 0, 0);
        let direction = |name: &str| -> IntCounter { self.body_bytes.with_label_values(&[name]) };
        self.collect_closed(&self.admin);
        for worker in lock(&self.workers).iter() {
            self.collect_closed(&worker.connections);
            in_flight += worker.in_flight.load(Ordering::Relaxed);
            downstream += worker.connections.open.load(Ordering::Relaxed);
            idle += worker.upstream_idle.load(Ordering::Relaxed);
            direction("up").inc_by(worker.bytes_up.swap(0, Ordering::Relaxed));
            direction("down").inc_by(worker.bytes_down.swap(0, Ordering::Relaxed));
            for (reason, cuts) in
                [("upstream_timeout", &worker.cut_stalled), ("upstream_broken", &worker.cut_broken)]
            {
                let cuts = cuts.swap(0, Ordering::Relaxed);
                if cuts > 0 {
                    self.errors.with_label_values(&[reason]).inc_by(cuts);
                }
            }
            for service in lock(&worker.services).iter() {
                let mut cells = lock(&service.cells);
                for (method, code, count) in cells.answers.drain(..) {
                    let labels = [&service.cloud, &service.service, method, code.as_str()];
                    self.requests.with_label_values(&labels).inc_by(count);
                }
                self.token_requests_saved
                    .with_label_values(&[&service.cloud])
                    .inc_by(std::mem::take(&mut cells.saved));
                cells.duration.flush();
                cells.upstream.flush();
            }
        }
        self.in_flight.set(in_flight);
        self.connections.with_label_values(&["downstream", "active"]).set(downstream);
        self.connections.with_label_values(&["upstream", "idle"]).set(idle);
    }

    fn collect_closed(&self, cells: &ConnectionMetrics) {
        for why in Closed::ALL {
            // At zero too, so that a rate over it is there before the first one.
            let count = cells.closed[why as usize].swap(0, Ordering::Relaxed);
            self.closed.with_label_values(&[why.as_str()]).inc_by(count);
        }
    }
}

/// One worker's cells.
#[derive(Debug, Default)]
pub struct WorkerMetrics {
    /// Requests being served.
    pub in_flight: AtomicI64,
    /// Connections of clients.
    pub connections: Arc<ConnectionMetrics>,
    /// Connections to services that wait for a request.
    pub upstream_idle: AtomicI64,
    /// Bytes of request bodies.
    pub bytes_up: AtomicU64,
    /// Bytes of answers' bodies.
    pub bytes_down: AtomicU64,
    /// Answers that a service stopped sending.
    pub cut_stalled: AtomicU64,
    /// Answers that broke off otherwise.
    pub cut_broken: AtomicU64,
    services: Mutex<Vec<Arc<ServiceMetrics>>>,
}

/// One worker's cells of one service.
#[derive(Debug)]
pub struct ServiceMetrics {
    /// The cloud's name.
    pub cloud: String,
    /// The service's official type.
    pub service: String,
    cells: Mutex<Cells>,
}

#[derive(Debug)]
struct Cells {
    answers: Vec<(&'static str, StatusCode, u64)>,
    saved: u64,
    duration: LocalHistogram,
    upstream: LocalHistogram,
}

impl ServiceMetrics {
    /// Counts one request once its answer ended. `upstream` is how long the service took to answer,
    /// if one was asked; `cached_token` tells that nobody had to wait for a token.
    pub fn record(
        &self,
        method: &Method,
        code: StatusCode,
        duration: Duration,
        upstream: Option<Duration>,
        cached_token: bool,
    ) {
        let method = method_label(method);
        let mut cells = lock(&self.cells);
        match cells.answers.iter_mut().find(|(m, c, _)| *c == code && *m == method) {
            Some((.., count)) => *count += 1,
            None => cells.answers.push((method, code, 1)),
        }
        cells.saved += u64::from(cached_token);
        cells.duration.observe(duration.as_secs_f64());
        if let Some(upstream) = upstream {
            cells.upstream.observe(upstream.as_secs_f64());
        }
    }
}

/// A fixed set, whatever clients come up with.
fn method_label(method: &Method) -> &'static str {
    match method.as_str() {
        "GET" => "GET",
        "HEAD" => "HEAD",
        "POST" => "POST",
        "PUT" => "PUT",
        "DELETE" => "DELETE",
        "PATCH" => "PATCH",
        "OPTIONS" => "OPTIONS",
        "COPY" => "COPY",
        _ => "other",
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_workers_counted_is_added_up_once() {
        let metrics = Metrics::new();
        for _ in 0..2 {
            let worker = metrics.worker();
            let service = metrics.service(&worker, "lab", "compute");
            service.record(
                &Method::GET,
                StatusCode::OK,
                Duration::from_millis(3),
                Some(Duration::from_millis(2)),
                true,
            );
            worker.bytes_down.fetch_add(10, Ordering::Relaxed);
        }
        for _ in 0..2 {
            let text = metrics.render();
            for line in [
                r#"keyway_requests_total{cloud="lab",code="200",method="GET",service="compute"} 2"#,
                r#"keyway_request_duration_seconds_count{cloud="lab",service="compute"} 2"#,
                r#"keyway_token_requests_saved_total{cloud="lab"} 2"#,
                r#"keyway_body_bytes_total{direction="down"} 20"#,
            ] {
                assert!(text.contains(line), "{line} is not in\n{text}");
            }
        }
    }

    #[test]
    fn made_up_methods_share_a_label() {
        assert_eq!(method_label(&Method::from_bytes(b"BREW").unwrap()), "other");
    }
}
