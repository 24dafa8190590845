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
    /// Requests that keyway answered itself with an error: `{reason}`.
    pub errors: IntCounterVec,
    /// Calls to Keystone for a token: `{cloud,reason,result}`.
    pub token_requests: IntCounterVec,
    /// How long they took: `{cloud}`.
    pub token_request_duration: HistogramVec,
    /// When the current token ends, UNIX seconds: `{cloud}`.
    pub token_expiry: GaugeVec,
    /// Attempts to read the configuration anew: `{result}`, `ok` or `failed`.
    reloads: IntCounterVec,
    last_reload_successful: IntGauge,
    last_reload_timestamp: IntGauge,
    token_requests_saved: IntCounterVec,
    connections: IntGaugeVec,
    body_bytes: IntCounterVec,
    workers: Mutex<Vec<Arc<WorkerMetrics>>>,
}

/// What became of a request that met a 401.
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
}

impl Retry {
    /// The metric's label.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Accepted => "accepted",
            Self::Refused => "refused",
            Self::BodyGone => "body_gone",
            Self::NoToken => "no_token",
        }
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
                "Requests that met a 401, by what became of them",
                &["cloud", "service", "result"],
            ),
            errors: counters("keyway_errors_total", "Errors that keyway answered itself", &["reason"]),
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
            token_expiry,
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
        for worker in lock(&self.workers).iter() {
            in_flight += worker.in_flight.load(Ordering::Relaxed);
            downstream += worker.connections.load(Ordering::Relaxed);
            idle += worker.upstream_idle.load(Ordering::Relaxed);
            direction("up").inc_by(worker.bytes_up.swap(0, Ordering::Relaxed));
            direction("down").inc_by(worker.bytes_down.swap(0, Ordering::Relaxed));
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
}

/// One worker's cells.
#[derive(Debug, Default)]
pub struct WorkerMetrics {
    /// Requests being served.
    pub in_flight: AtomicI64,
    /// Open connections of clients.
    pub connections: Arc<AtomicI64>,
    /// Connections to services that wait for a request.
    pub upstream_idle: AtomicI64,
    /// Bytes of request bodies.
    pub bytes_up: AtomicU64,
    /// Bytes of answers' bodies.
    pub bytes_down: AtomicU64,
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
