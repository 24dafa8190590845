//! Health, metrics and status, on a listener of their own. Nothing here uses a token or shows one.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Instant, SystemTime};

use bytes::Bytes;
use http::header::{self, HeaderValue};
use http::request::Parts;
use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;
use serde_json::{Value, json};
use tokio::sync::watch;

use crate::directory;
use crate::entry::Refusal;
use crate::gateway::{Shared, X_KEYWAY_ERROR};
use crate::identity::Keyring;
use crate::incoming::Incoming;
use crate::keystone::{self, Auth, AuthError, Status};
use crate::metrics::{BREAKER_STATES, Metrics};
use crate::proxy::headers::Fields;

const JSON: HeaderValue = HeaderValue::from_static("application/json");
const TEXT: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");
const METRICS: HeaderValue = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");

/// The admin listener's handler.
#[derive(Debug)]
pub struct Admin {
    shared: watch::Receiver<Arc<Shared>>,
    /// `http://address:port` of the data listener.
    base: String,
    started: Instant,
}

impl Admin {
    /// `shared` changes with each reload; `base` is the data listener's URL, without a trailing `/`.
    pub fn new(shared: watch::Receiver<Arc<Shared>>, base: String) -> Self {
        Self { shared, base, started: Instant::now() }
    }

    /// Answers `GET` and `HEAD` of `/livez`, `/readyz`, `/metrics` and `/status`.
    pub async fn handle(self: Arc<Self>, request: Request<Incoming>) -> Response<Full<Bytes>> {
        let (parts, _) = request.into_parts();
        let shared = Arc::clone(&self.shared.borrow());
        let door = shared.doors.last().expect("the admin listener's is the last");
        let mut response = match door.entry.check(&parts, &Fields::of(&parts.headers)) {
            Ok(_) => self.answer(&shared, &parts),
            Err(refusal) => refuse(&shared, &refusal),
        };
        if parts.method == Method::HEAD {
            let length = http_body::Body::size_hint(response.body()).exact().unwrap_or(0);
            response.headers_mut().insert(header::CONTENT_LENGTH, length.into());
            *response.body_mut() = Full::default();
        }
        response
    }

    fn answer(&self, shared: &Shared, parts: &Parts) -> Response<Full<Bytes>> {
        if !matches!(parts.method, Method::GET | Method::HEAD) {
            let mut response = answer(StatusCode::METHOD_NOT_ALLOWED, TEXT, "only GET and HEAD\n".to_owned());
            response.headers_mut().insert(header::ALLOW, HeaderValue::from_static("GET, HEAD"));
            return response;
        }
        match parts.uri.path() {
            "/livez" => answer(StatusCode::OK, TEXT, "ok\n".to_owned()),
            "/readyz" => ready(shared),
            "/metrics" => {
                for (index, cloud) in shared.clouds.iter().enumerate() {
                    show_state(&shared.metrics, &cloud.name, &shared.tokens.status(index));
                }
                show_logins(shared);
                show_keys(&shared.metrics, &shared.identities.keyring);
                answer(StatusCode::OK, METRICS, shared.metrics.render())
            }
            "/status" => answer(StatusCode::OK, JSON, format!("{:#}\n", self.status(shared))),
            _ => answer(
                StatusCode::NOT_FOUND,
                TEXT,
                "there are /livez, /readyz, /metrics and /status\n".to_owned(),
            ),
        }
    }

    fn status(&self, shared: &Shared) -> Value {
        let clouds = shared.clouds.iter().enumerate();
        let pinned = shared.doors.iter().filter_map(|door| Some((door, door.pinned.as_ref()?)));
        json!({
            "version": env!("CARGO_PKG_VERSION"),
            "uptime_seconds": self.started.elapsed().as_secs(),
            "url": self.base,
            "listeners": pinned.map(|(door, pinned)| json!({
                "url": door.url(),
                "stands_for": format!("{}{pinned}", self.base),
            })).collect::<Vec<_>>(),
            "config": {
                "read_at": seconds(shared.read_at).to_string(),
                "last_reload_successful": shared.metrics.last_reload_successful(),
            },
            "token_store": shared.tokens.store().map(|store| json!({
                "address": store.address,
                "up": store.up,
                "error": store.error,
            })),
            "clouds": clouds.map(|(index, cloud)| self.cloud(shared, index, cloud)).collect::<Vec<_>>(),
        })
    }

    fn cloud(&self, shared: &Shared, index: usize, cloud: &keystone::Config) -> Value {
        let status = shared.tokens.status(index);
        let token = status.token.as_deref();
        let services = token.map(|token| {
            let mut entries = directory::entries(cloud, index == 0, token);
            entries.iter_mut().for_each(|entry| entry.path.insert_str(0, &self.base));
            entries
        });
        let services: Vec<Value> = services
            .into_iter()
            .flatten()
            .map(|entry| {
                json!({
                    "type": entry.service_type,
                    "name": entry.name,
                    "region": entry.region,
                    "local": entry.path,
                    "upstream": entry.upstream,
                    "problem": entry.problem,
                })
            })
            .collect();
        json!({
            "name": cloud.name,
            "default": index == 0,
            "auth_url": match &cloud.auth {
                Auth::Identity(keystone::Identity { auth_url, .. }) | Auth::Tokenless { auth_url, .. } => {
                    Value::from(auth_url.to_string())
                }
                Auth::Fixed { .. } | Auth::Basic { .. } | Auth::None { .. } => Value::Null,
            },
            "user": token.and_then(|token| token.user.as_ref()).map(|user| &user.name),
            "project": token.and_then(|token| token.project.as_ref()).map(|project| &project.name),
            "region": cloud.region,
            "interfaces": cloud.interfaces.iter().map(|interface| interface.as_str()).collect::<Vec<_>>(),
            "token": token.map(|token| json!({
                "seconds_left": token.life_left(Instant::now()).map(|left| left.as_secs()),
                "lifetime_seconds": token.expires().map(|_| token.lifetime().as_secs()),
                "expires_at": token.expires_at.and_then(|at| jiff::Timestamp::from_second(at).ok()).map(|at| at.to_string()),
            })),
            "login": login(cloud),
            "error": status.failure.as_ref().map(|(error, _)| why(error)),
            "next_attempt_seconds": status.failure.as_ref().map(|(_, wait)| wait.as_secs()),
            "breaker": status.breaker(),
            "breaker_open": status.breaker_open,
            "rejections": status.rejections.0,
            "rejections_left": status.rejections.1,
            "refusals_left": status.refusals_left,
            "cloud_refusals_left": status.cloud_refusals_left,
            "new_scopes_left": status.new_scopes_left,
            "scopes": status.scopes,
            "services": services,
        })
    }
}

/// The login of a person, for a cloud that needs one; else `null`.
fn login(cloud: &keystone::Config) -> Value {
    let Some((_, place)) = cloud.by_person() else { return Value::Null };
    // What is wrong with the place is told where the token is wanted.
    let kept = place.load().ok().flatten();
    let now = SystemTime::now();
    let left = kept.as_ref().and_then(|kept| kept.left(now));
    json!({
        "required": kept.as_ref().is_none_or(|kept| kept.is_over(now)),
        "ends_soon": kept.as_ref().is_none_or(|kept| kept.ends_soon(now)),
        "user": kept.as_ref().and_then(|kept| kept.user.as_ref()),
        "renews": kept.as_ref().is_some_and(|kept| kept.refresh.is_some()),
        "seconds_left": left.map(|left| left.as_secs()),
        "ends_at": kept.as_ref().and_then(|kept| jiff::Timestamp::try_from(kept.ends).ok()).map(|at| seconds(at).to_string()),
        "command": format!("keyway login --cloud {}", cloud.name),
    })
}

/// Reads what may have changed since the last time.
fn show_logins(shared: &Shared) {
    for cloud in &shared.clouds {
        let Some((_, place)) = cloud.by_person() else { continue };
        let ends = place.load().ok().flatten().map(|kept| kept.ends);
        let ends = ends.and_then(|ends| ends.duration_since(SystemTime::UNIX_EPOCH).ok()).unwrap_or_default();
        shared.metrics.login_expiry.with_label_values(&[&cloud.name]).set(ends.as_secs_f64());
    }
}

/// The default cloud has a token, and requests are let in: what other clouds lack must not take this process out of
/// service.
fn ready(shared: &Shared) -> Response<Full<Bytes>> {
    if shared.draining.load(Ordering::Relaxed) {
        return answer(StatusCode::SERVICE_UNAVAILABLE, TEXT, "stopping\n".to_owned());
    }
    if shared.audit.as_ref().is_some_and(|audit| !audit.is_available()) {
        let text = "the audit can't be written, and nothing is served without it; the log says more\n";
        return later(text.to_owned());
    }
    let status = shared.tokens.status(0);
    if status.token.is_some() {
        return answer(StatusCode::OK, TEXT, "ok\n".to_owned());
    }
    let text = match (&status.failure, status.breaker()) {
        (None, _) => "no token yet; /status says why\n".to_owned(),
        (Some((error, _)), "stopped") => format!("no token: {}\n", why(error)),
        (Some((error, wait)), _) => {
            format!("no token: {}; the next attempt is in {} s\n", why(error), wait.as_secs())
        }
    };
    later(text)
}

fn later(text: String) -> Response<Full<Bytes>> {
    let mut response = answer(StatusCode::SERVICE_UNAVAILABLE, TEXT, text);
    response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
    response
}

/// When each key was last used; of those that are gone, nothing is left.
fn show_keys(metrics: &Metrics, keyring: &Keyring) {
    metrics.key_used.reset();
    for known in keyring.all() {
        let used = known.used.load(Ordering::Relaxed);
        if used > 0 {
            let labels = [known.key.identity.as_str(), &known.key.id.to_string()];
            metrics.key_used.with_label_values(&labels).set(used);
        }
    }
}

/// How a cloud's logins stand right now, for its metrics.
fn show_state(metrics: &Metrics, cloud: &str, status: &Status) {
    let left = |cause, left: u32| metrics.logins_left.with_label_values(&[cloud, cause]).set(left.into());
    left("refusals", status.cloud_refusals_left);
    left("new_scopes", status.new_scopes_left);
    let (rejections, rejections_left) = status.rejections;
    match rejections_left {
        Some(rejections_left) => left("rejections", rejections_left),
        // There may be none, too.
        None => drop(metrics.logins_left.remove_label_values(&[cloud, "rejections"])),
    }
    metrics.rejections.with_label_values(&[cloud]).set(rejections.into());
    metrics.scopes.with_label_values(&[cloud]).set(i64::try_from(status.scopes).unwrap_or(i64::MAX));
    for state in BREAKER_STATES {
        let is = i64::from(state == status.breaker());
        metrics.breaker_state.with_label_values(&[cloud, state]).set(is);
    }
}

/// What is wrong, for the operator; for credentials that are tried no more, both what was said and what follows.
fn why(error: &AuthError) -> String {
    match error {
        AuthError::Waiting { cause, .. } => why(cause),
        AuthError::Spent { cause, .. } => format!("{error} ({})", cause.root()),
        error => error.to_string(),
    }
}

/// A time without its fraction.
fn seconds(time: jiff::Timestamp) -> jiff::Timestamp {
    jiff::Timestamp::from_second(time.as_second()).unwrap_or(time)
}

#[cold]
fn refuse(shared: &Shared, refusal: &Refusal) -> Response<Full<Bytes>> {
    shared.metrics.errors.with_label_values(&[refusal.reason()]).inc();
    let mut response = answer(refusal.status(), TEXT, format!("{refusal}\n"));
    response.headers_mut().insert(X_KEYWAY_ERROR, HeaderValue::from_static(refusal.reason()));
    response
}

/// An answer of the admin listener that nobody should keep or guess the type of.
pub fn answer(status: StatusCode, content_type: HeaderValue, text: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(text.into()));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, content_type);
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}
