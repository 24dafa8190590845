//! One request in, one response out, always.
//!
//! [`Gateway`] finds the destination of a request, hands it to [`Proxy`], turns what went wrong into
//! an answer, and writes the request's line in the log once its answer has ended. Destinations are
//! kept by path prefix, and read anew when the token cache says that anything changed.

use std::borrow::Cow;
use std::collections::HashMap;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::header::{self, HeaderName, HeaderValue};
use http::request::Parts;
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body::{Frame, SizeHint};
use hyper::body::Incoming;

use crate::body::ReplayBudget;
use crate::entry;
use crate::error::ProxyError;
use crate::framing;
use crate::keystone::{self, AllowHttp, Auth, Discovery, TokenCache, service_type};
use crate::metrics::{Metrics, ServiceMetrics, WorkerMetrics};
use crate::policy::Policy;
use crate::proxy::headers::{self, Fields};
use crate::proxy::{self, Answer, Destination, Proxy, rewrite};
use crate::route::Route;
use crate::upstream::{self, BaseUrl, Scheme};

/// Tells keyway's own answers from a service's.
pub const X_KEYWAY_ERROR: HeaderName = HeaderName::from_static("x-keyway-error");
/// Destinations that one worker keeps; clients decide how many different prefixes there are.
const MAX_DESTINATIONS: usize = 1024;

/// How much a request may bring, and for how long a token needs no proof.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Config {
    /// All field names and values together, bytes.
    pub head: usize,
    /// The target, bytes.
    pub target: usize,
    /// What one request's replay buffer may hold, bytes.
    pub replay_buffer: usize,
    /// What all of them may hold together, bytes.
    pub replay_total: usize,
    /// How long a token is known to be good after a service accepted it.
    pub proof: Duration,
}

/// A listener, as a request sees it.
#[derive(Clone, Debug)]
pub struct Door {
    /// What it asks of a request before anything else.
    pub entry: entry::Config,
    /// What may be done through it.
    pub policy: Option<Arc<Policy>>,
}

/// What all workers share.
#[derive(Debug)]
pub struct Shared {
    /// The listeners, in the configuration's order.
    pub doors: Vec<Door>,
    /// See [`Config`].
    pub config: Config,
    /// The clouds, the default one first.
    pub clouds: Vec<Arc<keystone::Config>>,
    /// Their tokens.
    pub tokens: TokenCache,
    /// What services say of their versions.
    pub discovery: Discovery,
    /// Connections for keyway's own questions, by cloud.
    pub clients: Vec<upstream::Client>,
    /// Service is ending.
    pub draining: AtomicBool,
    /// What is counted.
    pub metrics: Arc<Metrics>,
}

/// One worker's entrance.
#[derive(Debug)]
pub struct Gateway {
    shared: Arc<Shared>,
    clients: Vec<upstream::Client>,
    proxy: Proxy,
    destinations: Mutex<HashMap<Box<str>, Arc<Destination>>>,
    worker: Arc<WorkerMetrics>,
    /// Where requests are counted that name no service.
    nowhere: Arc<ServiceMetrics>,
}

impl Gateway {
    /// `clients` are this worker's own connections, one for each cloud; `workers` share the replay
    /// budget.
    pub fn new(shared: Arc<Shared>, clients: Vec<upstream::Client>, workers: usize) -> Self {
        let worker = shared.metrics.worker();
        let nowhere = shared.metrics.service(&worker, "none", "none");
        let config = &shared.config;
        let replay = Arc::new(ReplayBudget::new(config.replay_total / workers.max(1), config.replay_buffer));
        let proxy = Proxy::new(
            shared.tokens.clone(),
            Arc::clone(&shared.metrics),
            Arc::clone(&worker),
            replay,
            config.proof,
        );
        Self { shared, clients, proxy, destinations: Mutex::default(), worker, nowhere }
    }

    /// This worker's connections, by cloud.
    pub fn clients(&self) -> &[upstream::Client] {
        &self.clients
    }

    /// This worker's counters.
    pub fn worker(&self) -> &Arc<WorkerMetrics> {
        &self.worker
    }

    /// Answers one request that came in by `listener`, an index into [`Shared::doors`].
    pub async fn handle(self: Arc<Self>, listener: usize, request: Request<Incoming>) -> Response<Body> {
        let _door = &self.shared.doors[listener];
        let (parts, incoming) = request.into_parts();
        let mut record = Record::new(parts, Arc::clone(&self.nowhere), Arc::clone(&self.worker));
        let mut incoming = Some(incoming);
        let outcome = self.answer(&mut incoming, &mut record).await;
        if let Some(unread) = incoming {
            proxy::drain_unasked(&record.parts, unread);
        }
        match outcome {
            Ok(Answer { response, at }) => {
                record.upstream = Some(at - record.start);
                // Reading the clock costs as much as the rest of the bookkeeping.
                record.ended = response.body().is_buffered().then_some(at);
                record.status = response.status();
                record.request_id = headers::request_id(response.headers()).cloned();
                response.map(|body| Body { kind: Kind::Upstream(body), broken: false, record: Some(record) })
            }
            Err(error) => {
                self.shared.metrics.errors.with_label_values(&[error.reason().as_str()]).inc();
                let mut response = refuse(&error, record.parts.method == Method::HEAD);
                record.status = error.status();
                record.error = Some(error);
                response.body_mut().record = Some(record);
                response
            }
        }
    }

    async fn answer(
        &self,
        incoming: &mut Option<Incoming>,
        record: &mut Record,
    ) -> Result<Answer, ProxyError> {
        let parts = &record.parts;
        let fields = self.check(parts)?;
        let route = Route::parse(parts.uri.path())?;
        let (destination, cached_token) = match self.known(route.prefix, record.start) {
            Some(destination) => (destination, true),
            // Boxed, as all that is rare: a request's future is moved a few times, so it should be small.
            None => Box::pin(self.resolve(&route, &mut record.service)).await?,
        };
        record.service = Arc::clone(&destination.metrics);
        record.cached_token = cached_token;
        let current = if destination.base.needs_version(route.rest) {
            match self.shared.discovery.known(&destination.url) {
                Some(known) => known,
                None => {
                    let client = &self.clients[destination.key.cloud];
                    let asked =
                        self.shared.discovery.current(client, &destination.url, Some(&destination.token.id));
                    Box::pin(asked).await
                }
            }
        } else {
            None
        };
        let mut target = destination.base.target(route.rest, current.as_deref());
        if let Some(query) = parts.uri.query() {
            target.push('?');
            target.push_str(query);
        }
        let incoming = incoming.take().expect("it is taken here only");
        self.proxy.forward(&destination, &target, parts, fields, incoming).await
    }

    /// Refuses what could be read in two ways, or is larger than allowed.
    fn check(&self, parts: &Parts) -> Result<Fields, ProxyError> {
        let config = &self.shared.config;
        framing::check_method(&parts.method)?;
        framing::check_target(parts)?;
        let target = parts.uri.path_and_query().map_or(0, |target| target.as_str().len());
        if target > config.target {
            return Err(ProxyError::TargetTooLong { limit: config.target });
        }
        let fields = Fields::of(&parts.headers);
        if fields.size > config.head {
            return Err(ProxyError::HeadTooLarge { limit: config.head });
        }
        framing::check_framing(parts, &fields)?;
        Ok(fields)
    }

    /// A destination that was resolved before and still holds.
    fn known(&self, prefix: &str, now: Instant) -> Option<Arc<Destination>> {
        let destinations = self.destinations.lock().unwrap_or_else(PoisonError::into_inner);
        let destination = destinations.get(prefix)?;
        let holds = destination.version == self.shared.tokens.version() && destination.token.is_fresh(now);
        holds.then(|| Arc::clone(destination))
    }

    /// Finds a route's destination, and tells whether its token was at hand. Where it fails once the
    /// cloud is known, that is where the request is `counted`.
    async fn resolve(
        &self,
        route: &Route<'_>,
        counted: &mut Arc<ServiceMetrics>,
    ) -> Result<(Arc<Destination>, bool), ProxyError> {
        let shared = &self.shared;
        let index = match route.cloud()? {
            None => 0,
            Some(asked) => shared.clouds.iter().position(|cloud| cloud.name == asked).ok_or_else(|| {
                ProxyError::UnknownCloud {
                    asked: asked.into_owned(),
                    known: shared.clouds.iter().map(|cloud| cloud.name.clone()).collect(),
                }
            })?,
        };
        let cloud = &shared.clouds[index];
        *counted = shared.metrics.service(&self.worker, &cloud.name, "none");
        let key = keystone::Key { cloud: index, project: route.project()?.map(Cow::into_owned) };
        // Read first: what changes while this goes on is noticed by the next request.
        let version = shared.tokens.version();
        let cached = shared.tokens.snapshot(&key).is_some();
        let token = shared.tokens.current(&key).await.map_err(ProxyError::Auth)?;
        let (service, region) = (route.service()?, route.region()?);
        let found = keystone::catalog::choose(cloud, &token.catalog, &service, region.as_deref())?;
        let official = service_type::canonical(found.service_type);
        if !may_carry_token(cloud, found.url, found.service_type) {
            return Err(ProxyError::PlainHttp { service: official.into_owned(), cloud: cloud.name.clone() });
        }
        let destination = Arc::new(Destination {
            base: rewrite::Base::new(
                found.url.path(),
                token.project.as_ref().map(|project| project.id.as_str()),
            ),
            pool: self.clients[index].pool(found.url.origin()).map_err(ProxyError::Upstream)?,
            url: found.url.clone(),
            identity: official == "identity",
            metrics: shared.metrics.service(&self.worker, &cloud.name, &official),
            key,
            version,
            token: Arc::clone(&token),
        });
        let mut destinations = self.destinations.lock().unwrap_or_else(PoisonError::into_inner);
        if destinations.len() >= MAX_DESTINATIONS {
            destinations.clear();
        }
        destinations.insert(route.prefix.into(), Arc::clone(&destination));
        Ok((destination, cached))
    }

    /// Brings the counters that are only known on demand up to date; called on the worker's tick.
    pub fn refresh_counters(&self) {
        let idle: usize = self.clients.iter().map(upstream::Client::idle).sum();
        self.worker.upstream_idle.store(i64::try_from(idle).unwrap_or(i64::MAX), Ordering::Relaxed);
    }
}

/// Whether an endpoint may get a token: over plain http only if Keystone gives it out that way, or
/// the configuration allows it for this service or origin.
pub fn may_carry_token(cloud: &keystone::Config, url: &BaseUrl, service: &str) -> bool {
    let Auth::Identity(identity) = &cloud.auth else { return true };
    if url.origin().scheme() == Scheme::Https || identity.auth_url.origin().scheme() == Scheme::Http {
        return true;
    }
    match &cloud.allow_http {
        AllowHttp::Never => false,
        AllowHttp::Only(allowed) => allowed.iter().any(|allowed| match BaseUrl::parse(allowed) {
            Ok(allowed) => allowed.origin() == url.origin(),
            Err(_) => {
                service_type::same(&service_type::canonical(allowed), &service_type::canonical(service))
            }
        }),
    }
}

/// An error as the client sees it, in Keystone's shape.
fn describe(error: &ProxyError, head_only: bool) -> (StatusCode, HeaderMap, Option<Bytes>) {
    let (status, reason) = (error.status(), error.reason().as_str());
    let document = serde_json::json!({"error": {
        "code": status.as_u16(),
        "title": status.canonical_reason().unwrap_or("Error"),
        "message": error.to_string(),
        "reason": reason,
    }});
    let text = format!("{document}\n");
    let mut headers = HeaderMap::new();
    headers.insert(X_KEYWAY_ERROR, HeaderValue::from_static(reason));
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(header::CONTENT_LENGTH, text.len().into());
    if let Some(wait) = error.retry_after() {
        headers.insert(
            header::RETRY_AFTER,
            wait.as_millis().div_ceil(1000).try_into().unwrap_or(u64::MAX).into(),
        );
    }
    (status, headers, (!head_only).then(|| text.into()))
}

/// keyway's own answer to a request.
pub fn refuse(error: &ProxyError, head_only: bool) -> Response<Body> {
    let (status, headers, text) = describe(error, head_only);
    let mut response = Response::new(Body { kind: Kind::Own(text), broken: false, record: None });
    *response.status_mut() = status;
    *response.headers_mut() = headers;
    response
}

/// A request from its head to the end of its answer; then one line in the log and one observation,
/// also when its client went away before.
#[derive(Debug)]
struct Record {
    parts: Parts,
    start: Instant,
    upstream: Option<Duration>,
    /// When all of the answer was there, if that is known before it went out.
    ended: Option<Instant>,
    status: StatusCode,
    bytes: u64,
    /// The answer was passed on to its end.
    whole: bool,
    /// The token was at hand.
    cached_token: bool,
    request_id: Option<HeaderValue>,
    error: Option<ProxyError>,
    service: Arc<ServiceMetrics>,
    worker: Arc<WorkerMetrics>,
}

/// What is counted for a client that went away before its answer began (nginx's convention).
const CLIENT_GONE: u16 = 499;

impl Record {
    /// Boxed, since it moves with the answer through many hands.
    fn new(parts: Parts, service: Arc<ServiceMetrics>, worker: Arc<WorkerMetrics>) -> Box<Self> {
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
            service,
            worker,
        })
    }

    #[cold]
    fn log(&self, duration: Duration) {
        let request_id = self.request_id.as_ref().and_then(|id| id.to_str().ok());
        let error = self.error.as_ref().map(|error| error.reason().as_str());
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

/// An answer's body; when it has ended, so has the request.
#[derive(Debug)]
pub struct Body {
    kind: Kind,
    broken: bool,
    record: Option<Box<Record>>,
}

#[derive(Debug)]
enum Kind {
    Own(Option<Bytes>),
    Upstream(upstream::Body),
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = Box<dyn std::error::Error + Send + Sync>;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let mut frame = match &mut self.kind {
            Kind::Own(text) => text.take().map(|text| Ok(Frame::data(text))),
            Kind::Upstream(body) => ready!(Pin::new(body).poll_frame(cx)),
        };
        if let Some(Ok(frame)) = &mut frame
            && let Some(trailers) = frame.trailers_mut()
        {
            headers::clean_trailers(trailers);
        }
        match (&frame, &mut self.record) {
            (Some(Ok(frame)), Some(record)) => {
                record.bytes += frame.data_ref().map_or(0, |data| data.len() as u64);
            }
            (Some(Err(error)), _) => {
                tracing::warn!(%error, "a service's answer broke off");
                self.broken = true;
            }
            _ => {}
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        match &self.kind {
            Kind::Own(text) => text.is_none(),
            Kind::Upstream(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.kind {
            Kind::Own(text) => SizeHint::with_exact(text.as_ref().map_or(0, |text| text.len() as u64)),
            Kind::Upstream(body) => body.size_hint(),
        }
    }
}

impl Drop for Body {
    fn drop(&mut self) {
        let whole = !self.broken && http_body::Body::is_end_stream(self);
        if let Some(record) = &mut self.record {
            record.whole = whole;
        }
    }
}
