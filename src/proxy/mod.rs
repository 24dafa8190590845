//! The upstream leg: one request to its service with a token, once more if the token was refused.

pub mod headers;
pub mod limit;
pub mod links;
pub mod origins;
pub mod rewrite;
mod sent;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use http::header::{self, HeaderName, HeaderValue};
use http::request::Parts;
use http::{Method, Response, StatusCode, Version};
use http_body::Body as _;
use http_body_util::BodyExt as _;

use self::headers::Fields;
use self::limit::Limit;
pub use self::sent::Sent;
use crate::body::{BodyError, Budget, RequestBody};
use crate::error::ProxyError;
use crate::incoming::Incoming;
use crate::keystone::{self, AuthError, NoEndpoint, Retries, Token, TokenCache, Versions, service_type};
use crate::metrics::{Metrics, Retry, ServiceMetrics, WorkerMetrics};
use crate::policy;
use crate::upstream::{self, Head, Pool};

/// Tells a client why its 401 was not retried.
const X_KEYWAY_RETRY: HeaderName = HeaderName::from_static("x-keyway-retry");
/// How long, and how much, a client may go on sending a body that its service did not want.
const DRAIN_TIME: Duration = Duration::from_secs(30);
const DRAIN_BYTES: usize = 64 << 20;
/// How long it may pause meanwhile.
const DRAIN_PAUSE: Duration = Duration::from_secs(5);
const DRAIN_TIME_H2: Duration = Duration::from_secs(1);
const DRAIN_BYTES_H2: usize = 64 << 10;

/// How large the body of a request may be, bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BodyLimits {
    /// For services that have no limit of their own; `None`: any size.
    pub default: Option<u64>,
    /// By official service type.
    pub services: BTreeMap<String, u64>,
}

/// Where requests with one path prefix go, and with which token.
#[derive(Debug)]
pub struct Destination {
    /// Whose token.
    pub key: keystone::Key,
    /// The token.
    pub token: Arc<Token>,
    /// The token cache's version that all of this was read at.
    pub version: u64,
    /// The connections to the endpoint.
    pub pool: Arc<Pool>,
    /// The endpoint's path.
    pub base: rewrite::Base,
    /// The endpoint's URL.
    pub url: crate::upstream::BaseUrl,
    /// The same without version and account, where the service says which versions it has.
    pub unversioned: crate::upstream::BaseUrl,
    /// The major version that the operator chose for requests that name none.
    pub asked_version: Option<u32>,
    /// What else the operator decided for this service. `None` if nothing.
    pub extras: Option<Box<Extras>>,
    /// Everything that the token's catalog refers to.
    pub origins: Arc<origins::Origins>,
    /// Its region, where the catalog names one.
    pub region: Option<Box<str>>,
    /// What may be done there: one for each listener, those that identities have, then the cloud's. `None` if
    /// there is no policy at all.
    pub policies: Option<Vec<Option<policy::Scoped>>>,
    /// What identities may do, if anything there is Keystone's. `None` also where nobody has an identity.
    pub guard: Option<Box<policy::Guard>>,
    /// Which of its answers' bodies may hold links. `None` where links stay as they are.
    pub links: Option<links::Bodies>,
    /// The service is Keystone.
    pub identity: bool,
    /// The paths below which Keystone is at this origin, without a version; whatever the service is.
    pub keystones: Vec<String>,
    /// See [`BodyLimits`].
    pub body_limit: Option<u64>,
    /// Where requests are counted.
    pub metrics: Arc<ServiceMetrics>,
}

/// What an operator may decide for a service, and mostly does not.
#[derive(Debug)]
pub struct Extras {
    /// The fields that say the default microversion.
    microversion: Vec<(HeaderName, HeaderValue)>,
    /// When a request goes out again. `None` if never.
    retries: Option<Retries>,
    /// How much the service may be asked. `None`: as much as clients do.
    limit: Option<Arc<Limit>>,
}

impl Extras {
    /// Those of a service that has these names; the first one is the catalog's.
    pub fn new(cloud: &keystone::Config, names: [&str; 2], limits: &limit::Register) -> Option<Box<Self>> {
        let limit = cloud.limits_of(names);
        let limit = limit.map(|limit| limits.limit(&cloud.name, &service_type::canonical(names[0]), limit));
        let extras =
            Self { microversion: cloud.microversion_of(names), retries: cloud.retries_of(names), limit };
        (!extras.microversion.is_empty() || extras.is_careful()).then(|| Box::new(extras))
    }

    /// Whether a request may have to wait, or goes out more than once.
    fn is_careful(&self) -> bool {
        self.retries.is_some() || self.limit.is_some()
    }

    /// The right to one more attempt.
    async fn admit(&self) -> Result<Option<limit::Turn<'_>>, ProxyError> {
        match &self.limit {
            Some(limit) => limit.admit().await.map(Some),
            None => Ok(None),
        }
    }

    /// The fields to add: none if the client says a microversion by itself, in any of them.
    fn fields(&self, headers: &http::HeaderMap) -> &[(HeaderName, HeaderValue)] {
        let said = self.microversion.iter().any(|(name, _)| headers.contains_key(name));
        if said { &[] } else { &self.microversion }
    }
}

impl Destination {
    /// The path segment to put in for a request that names no version.
    ///
    /// # Errors
    /// [`NoEndpoint::NoVersion`] where the service lacks the version that the operator chose.
    pub fn segment<'a>(&self, versions: &'a Versions) -> Result<Option<&'a str>, NoEndpoint> {
        versions.segment(self.asked_version).map_err(|available| NoEndpoint::NoVersion {
            service: self.metrics.service.to_string(),
            asked: self.asked_version.unwrap_or_default(),
            available,
        })
    }

    /// Says that the version which the operator chose can't be found out.
    #[cold]
    pub fn warn_without_versions(&self, versions: &Versions) {
        if let Some(asked) = self.asked_version.filter(|_| versions.is_empty()) {
            tracing::warn!(
                cloud = self.metrics.cloud,
                service = self.metrics.service,
                "the service does not say which versions it has, so requests that name none go to the catalog's URL \
                 and not to version {asked}"
            );
        }
    }

    /// Asks the policies of a listener and of the cloud about a request with this path at the service.
    ///
    /// # Errors
    /// One of them denies it.
    pub fn permits(
        &self,
        (listener, identity): (usize, Option<usize>),
        method: &Method,
        path: &str,
    ) -> Result<(), policy::Denied<'_>> {
        let Some(policies) = &self.policies else { return Ok(()) };
        let asked = [Some(listener), identity, Some(policies.len() - 1)];
        for policy in asked.into_iter().flatten().filter_map(|index| policies[index].as_ref()) {
            policy.decide(method, path)?;
        }
        Ok(())
    }
}

impl BodyLimits {
    /// The limit of one service, by its official type. Nothing is limited unless the operator says so:
    /// images and objects are huge.
    pub fn of(&self, service: &str) -> Option<u64> {
        let named = self
            .services
            .iter()
            .find(|(name, _)| service_type::same(&service_type::canonical(name), service))
            .map(|(_, limit)| *limit);
        named.or(self.default)
    }
}

/// What a service answered, and when its head was there.
#[derive(Debug)]
pub struct Answer {
    /// The answer; its body streams.
    pub response: Response<upstream::Body>,
    /// When its head was there.
    pub at: Instant,
    /// What must not show in its trailers either.
    pub sent: Sent,
}

/// What holds for a request wherever it goes.
#[derive(Clone, Copy, Debug, Default)]
pub struct Terms<'a> {
    /// A field that is between the client and its listener.
    pub withheld: Option<&'a HeaderName>,
    /// How many bytes its body may have.
    pub most: Option<u64>,
}

/// Sends requests. One per worker.
#[derive(Debug)]
pub struct Proxy {
    tokens: TokenCache,
    metrics: Arc<Metrics>,
    worker: Arc<WorkerMetrics>,
    replay: Arc<Budget>,
    proof: Duration,
}

impl Proxy {
    /// `replay` bounds what this worker keeps of request bodies. A token that no service accepted for
    /// `proof` is checked before a body goes out that can't be sent again.
    pub fn new(
        tokens: TokenCache,
        metrics: Arc<Metrics>,
        worker: Arc<WorkerMetrics>,
        replay: Arc<Budget>,
        proof: Duration,
    ) -> Self {
        Self { tokens, metrics, worker, replay, proof }
    }

    /// Sends one request to its service and returns the service's answer. Beside the body, the bytes that were read of
    /// it are counted.
    ///
    /// A 401 means the service no longer honors our token, so the request goes out once more with a
    /// new one if its body can still be replayed. A second 401 is the service's answer: it goes back, and so
    /// does the first where nothing secret was sent, since there is nothing to get anew.
    ///
    /// # Errors
    /// There is no answer: no token, no connection, or the client's body broke off.
    pub async fn forward(
        &self,
        destination: &Destination,
        target: &str,
        parts: &Parts,
        fields: Fields,
        Terms { withheld, most }: Terms<'_>,
        (incoming, received): (Incoming, &mut u64),
    ) -> Result<Answer, ProxyError> {
        let limit = destination.body_limit.unwrap_or(u64::MAX).min(most.unwrap_or(u64::MAX));
        let mut body = RequestBody::new(incoming, Arc::clone(&self.replay)).limited(limit);
        if body.length().is_some_and(|length| length > limit) {
            if let Some(rest) = body.into_rest() {
                drain_unasked(parts, rest);
            }
            return Err(ProxyError::BodyTooLarge { limit });
        }
        let outcome = self.exchange(destination, target, parts, fields, withheld, &mut body).await;
        let asked = body.received() > 0;
        if asked {
            *received = body.received();
            self.worker.bytes_up.fetch_add(*received, Ordering::Relaxed);
        }
        if let Some(rest) = body.into_rest() {
            if asked { drain(parts, rest) } else { drain_unasked(parts, rest) }
        }
        outcome
    }

    async fn exchange(
        &self,
        destination: &Destination,
        target: &str,
        parts: &Parts,
        fields: Fields,
        withheld: Option<&HeaderName>,
        body: &mut RequestBody,
    ) -> Result<Answer, ProxyError> {
        let client_waits = fields.expect;
        if !body.is_empty() && !client_waits && body.length().is_some() && body.may_fit() {
            body.fill().await.map_err(unread)?;
        }
        let mut listed =
            if fields.connection { headers::named_by_connection(&parts.headers) } else { Vec::new() };
        listed.extend(withheld.cloned());
        let mut sent = Sent { token: self.proven(destination, body).await?, refused: None };
        let mut head = Head {
            method: &parts.method,
            target,
            authority: destination.pool.origin().authority(),
            headers: &parts.headers,
            withhold: headers::is_withheld,
            listed: &listed,
            extra: sent.token.fields(),
            defaults: destination.extras.as_ref().map_or(&[], |extras| extras.fields(&parts.headers)),
            had_length: fields.content_lengths > 0,
            expect_continue: !body.is_whole(),
            read_ahead: !client_waits,
        };

        // One for both attempts: what the service may have seen does not go out a third time.
        let mut once_more = true;
        let careful = destination.extras.as_ref().filter(|extras| extras.is_careful());
        let mut response = match careful {
            None => destination.pool.send(&head, body, &mut once_more).await.map_err(unanswered)?,
            Some(extras) => {
                Box::pin(self.persist(destination, extras, &mut head, body, &mut once_more)).await?
            }
        };
        let mut at = Instant::now();
        let mut why_not_again = None;
        if response.status() != StatusCode::UNAUTHORIZED {
            sent.token.mark_proved(at);
        } else if !sent.token.secrets().is_empty()
            && !is_about_other_credentials(destination, &parts.method, target)
        {
            match Box::pin(self.after_refusal(destination, &sent.token, body)).await? {
                Ok(next) => {
                    head.extra = next.fields();
                    head.expect_continue = !body.is_whole();
                    let sending = Box::pin(async {
                        let _turn = match careful {
                            Some(extras) => extras.admit().await?,
                            None => None,
                        };
                        destination.pool.send(&head, body, &mut once_more).await.map_err(unanswered)
                    });
                    response = sending.await?;
                    at = Instant::now();
                    let refused = response.status() == StatusCode::UNAUTHORIZED;
                    if !refused {
                        next.mark_proved(at);
                    }
                    sent = Sent { token: next, refused: Some(sent.token) };
                    self.count(destination, if refused { Retry::Refused } else { Retry::Accepted });
                }
                Err(why) => {
                    self.count(destination, why);
                    why_not_again = Some(why);
                }
            }
        }

        let asked = if destination.identity { parts.headers.get(&headers::X_SUBJECT_TOKEN) } else { None };
        headers::clean_answer(response.headers_mut(), destination.identity, asked, &sent);
        if let Some(why) = why_not_again {
            response.headers_mut().insert(X_KEYWAY_RETRY, HeaderValue::from_static(why.as_str()));
        }
        Ok(Answer { response, at, sent })
    }

    /// Sends one request when the operator's limits let it, and as often as the operator wants it: again where no
    /// connection came about, since then the service has seen nothing of it, and again after an answer that says to
    /// come back later, if the body is still there. What became of a request that went out and met with silence is not
    /// known, so it does not go out again, whatever is configured.
    async fn persist(
        &self,
        destination: &Destination,
        extras: &Extras,
        head: &mut Head<'_>,
        body: &mut RequestBody,
        once_more: &mut bool,
    ) -> Result<Response<upstream::Body>, ProxyError> {
        let none = Retries::default();
        let retries = extras.retries.as_ref().unwrap_or(&none);
        let (mut unconnected, mut put_off) = (0, 0);
        loop {
            let turn = extras.admit().await?;
            let outcome = destination.pool.send(head, body, once_more).await;
            drop(turn);
            let (delay, why) = match &outcome {
                Err(upstream::Error::Connect { .. }) if unconnected < retries.connect.unwrap_or_default() => {
                    unconnected += 1;
                    (Retries::delay(retries.connect_delay, unconnected - 1), Retry::Connect)
                }
                Ok(response)
                    if put_off < retries.status.unwrap_or_default()
                        && retries.is_retriable(response.status().as_u16())
                        && body.rewind() =>
                {
                    put_off += 1;
                    let named = wanted_delay(response.headers());
                    (
                        named.unwrap_or_else(|| Retries::delay(retries.status_delay, put_off - 1)),
                        Retry::Status,
                    )
                }
                _ => return outcome.map_err(unanswered),
            };
            drop(outcome);
            self.count(destination, why);
            tracing::debug!(
                cloud = destination.metrics.cloud,
                service = destination.metrics.service,
                ?delay,
                why = why.as_str(),
                "the request goes out again"
            );
            tokio::time::sleep(delay).await;
            head.expect_continue = !body.is_whole();
        }
    }

    /// The destination's token; for a body that can't go twice, one that is known to be good.
    async fn proven(&self, destination: &Destination, body: &RequestBody) -> Result<Arc<Token>, ProxyError> {
        let token = &destination.token;
        token.mark_used();
        // Reading the body may have taken longer than the token had to live.
        if !body.is_empty() && !token.is_fresh(Instant::now()) {
            return Box::pin(self.tokens.current(&destination.key)).await.map_err(ProxyError::Auth);
        }
        if body.is_whole() || token.proved_within(Instant::now(), self.proof) {
            return Ok(Arc::clone(token));
        }
        match Box::pin(self.tokens.validate(destination.key.cloud, token)).await {
            Ok(false) => {
                Box::pin(self.tokens.replace(&destination.key, &token.id)).await.map_err(ProxyError::Auth)
            }
            // Keystone's trouble is no reason to doubt a token that still lives.
            Ok(true) | Err(_) => Ok(Arc::clone(token)),
        }
    }

    /// A new token and a body at its start; or why there will be no second attempt.
    async fn after_refusal(
        &self,
        destination: &Destination,
        refused: &Token,
        body: &mut RequestBody,
    ) -> Result<Result<Arc<Token>, Retry>, ProxyError> {
        if !body.rewind() {
            tracing::warn!(
                cloud = destination.metrics.cloud,
                service = destination.metrics.service,
                "a service refused the token after part of the body was gone, so the request was not sent again; the next one has a new token"
            );
            let (tokens, key, id) = (self.tokens.clone(), destination.key.clone(), refused.id.clone());
            tokio::spawn(async move { tokens.replace(&key, &id).await.map(drop) });
            return Ok(Err(Retry::BodyGone));
        }
        match self.tokens.replace(&destination.key, &refused.id).await {
            Ok(next) => Ok(Ok(next)),
            // The service's answer is the better one where Keystone is not at fault.
            Err(error) if matches!(*error, AuthError::TooManyRefusals { .. } | AuthError::FixedToken) => {
                Ok(Err(Retry::NoToken))
            }
            Err(error) => {
                self.count(destination, Retry::NoToken);
                Err(ProxyError::Auth(error))
            }
        }
    }

    fn count(&self, destination: &Destination, retry: Retry) {
        let metrics = &destination.metrics;
        self.metrics.retries.with_label_values(&[&metrics.cloud, &metrics.service, retry.as_str()]).inc();
    }
}

/// What a service says of when to come back, in seconds.
fn wanted_delay(headers: &http::HeaderMap) -> Option<Duration> {
    let seconds = headers.get(header::RETRY_AFTER)?.to_str().ok()?.trim().parse().ok()?;
    Some(Duration::from_secs(seconds).min(keystone::service::LONGEST_DELAY))
}

/// Why a request's body was not read to its end.
fn unread(error: BodyError) -> ProxyError {
    match error {
        BodyError::TooLarge { limit } => ProxyError::BodyTooLarge { limit },
        BodyError::Broken(source) => ProxyError::Body(source),
    }
}

/// Why there is no answer.
fn unanswered(error: upstream::Error) -> ProxyError {
    match error {
        upstream::Error::Client { source } => unread(source),
        error => ProxyError::Upstream(error),
    }
}

/// A 401 that says nothing about our token: a login, or a password change with the wrong old one.
fn is_about_other_credentials(destination: &Destination, method: &Method, target: &str) -> bool {
    let path = target.split('?').next().unwrap_or_default();
    destination.identity
        && method == Method::POST
        && (path.ends_with("/auth/tokens") || path.ends_with("/tokens") || path.ends_with("/password"))
}

/// Lets the client finish a body that nobody reads any more, so that it gets to read its answer:
/// a connection closed while it still sends would be reset, and the answer lost.
///
/// In HTTP/2 only the stream would be reset, after its answer: there it is enough to let it end by
/// itself if its end is under way already.
pub fn drain(parts: &Parts, rest: Incoming) {
    if rest.is_end_stream() {
        return;
    }
    let h2 = parts.version >= Version::HTTP_2;
    let (time, bytes) = if h2 { (DRAIN_TIME_H2, DRAIN_BYTES_H2) } else { (DRAIN_TIME, DRAIN_BYTES) };
    tokio::spawn(tokio::time::timeout(time, async move {
        let mut rest = std::pin::pin!(http_body_util::Limited::new(rest, bytes));
        // A client that sends nothing any more has had the time to read its answer.
        while let Ok(Some(Ok(_))) = tokio::time::timeout(DRAIN_PAUSE, rest.frame()).await {}
    }));
}

/// The same for a body of which nothing was read yet. A client that waits for 100 won't send it, and
/// reading would tell it to.
pub fn drain_unasked(parts: &Parts, unread: Incoming) {
    if !parts.headers.contains_key(header::EXPECT) {
        drain(parts, unread);
    }
}
