//! One request in, one response out, always.
//!
//! [`Gateway`] finds the destination of a request, hands it to [`Proxy`], turns what went wrong into
//! an answer, and writes the request's line in the log once its answer has ended. Destinations are
//! kept by path prefix, and read anew when the token cache says that anything changed.

mod address;
mod body;
mod held;
mod links;
mod local;
mod record;
mod session;

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::request::Parts;
use http::{Method, Request, Response};

use self::held::Held;
use self::record::{Audited, Record, Trail};
use self::session::{Caller, Opened};
use crate::audit::Audit;
use crate::body::Budget;
use crate::entry::Entry;
use crate::error::ProxyError;
use crate::facade::call::{self, Call};
use crate::facade::{self, Logins, Session, Unusable};
use crate::framing;
use crate::identity::{Attempts, Identities, Identity};
use crate::incoming::Incoming;
use crate::keystone::{
    self, AllowHttp, Asked, Auth, AuthError, Discovery, Scope, Token, TokenCache, service_type,
};
use crate::metrics::{Metrics, ServiceMetrics, WorkerMetrics};
use crate::policy::{Denied, Policy, View};
use crate::proxy::headers::{self, Fields};
use crate::proxy::links::{Here, Mapping, There};
use crate::proxy::origins::{self, Origins, Place};
use crate::proxy::{self, Answer, BodyLimits, Destination, Extras, Proxy, Terms, rewrite};
use crate::route::{Form, Route, RouteError};
use crate::server;
use crate::upstream::{self, BaseUrl, Scheme};

pub use self::address::Address;
pub use self::body::{Body, X_KEYWAY_ERROR, refuse};

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
    /// How large a body is held so that its links can be mapped, bytes; none if it is 0.
    pub links: usize,
    /// What all bodies that are held may have together, bytes.
    pub links_total: usize,
    /// How long a token is known to be good after a service accepted it.
    pub proof: Duration,
}

/// A listener, as a request sees it.
#[derive(Clone, Debug)]
pub struct Door {
    /// As the configuration calls it.
    pub name: Arc<str>,
    /// Who may log in through it.
    pub logins: Logins,
    /// The wrong passwords that came in by it.
    pub attempts: Arc<Attempts>,
    /// How a client names it: `http://127.0.0.1:8180`.
    pub url: String,
    /// The address that it stands for, if it serves one service only: `/cloud/lab/compute`.
    pub pinned: Option<String>,
    /// What a client writes before `://`.
    pub scheme: Scheme,
    /// Where it is bound.
    pub address: server::Address,
    /// What it asks of a request before anything else.
    pub entry: Entry,
    /// What may be done through it.
    pub policy: Option<Arc<Policy>>,
}

impl Door {
    /// How a client names it, see [`server::Address::url`].
    pub fn url(&self) -> String {
        self.address.url(self.scheme == Scheme::Https)
    }
}

/// What all workers share. A reload makes a new one.
#[derive(Debug)]
pub struct Shared {
    /// The listeners, in the configuration's order; the admin listener last.
    pub doors: Vec<Door>,
    /// See [`Config`].
    pub config: Config,
    /// What local clients may log in with, and what they see.
    pub facade: facade::Config,
    /// Who may come in.
    pub identities: Identities,
    /// The keys of the tokens that identities get.
    pub keys: Arc<facade::Keys>,
    /// How large a request's body may be, by service.
    pub body_limits: BodyLimits,
    /// The clouds, the default one first.
    pub clouds: Vec<Arc<keystone::Config>>,
    /// What may be done with each of them, whatever the listener.
    pub cloud_policies: Vec<Option<Arc<Policy>>>,
    /// The services of each of them whose links stay as they are, by official type; `*` for all.
    pub raw_links: Vec<Vec<String>>,
    /// Their tokens.
    pub tokens: TokenCache,
    /// How much services may be asked.
    pub limits: proxy::limit::Register,
    /// What services say of their versions.
    pub discovery: Discovery,
    /// Connections for keyway's own questions, by cloud.
    pub clients: Vec<upstream::Client>,
    /// Service is ending.
    pub draining: Arc<AtomicBool>,
    /// When the configuration was read.
    pub read_at: jiff::Timestamp,
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// Where each request has its line, if the operator wants that.
    pub audit: Option<Arc<Audit>>,
}

/// A cloud's name, and a scope there; without a name, of whatever cloud the path names.
type ScopeKey = (Box<str>, Scope);

/// Destinations that were found: of requests with the cloud's own scope, and of others.
#[derive(Debug, Default)]
struct Destinations {
    own: Found,
    of_scopes: HashMap<ScopeKey, Found>,
}

/// Destinations by path prefix.
#[derive(Debug, Default)]
struct Found {
    services: HashMap<Box<str>, Arc<Destination>>,
    /// An origin may have several: there, the rest of the path tells which.
    origins: HashMap<Box<str>, AtOrigin>,
}

/// The destinations at one origin.
#[derive(Debug)]
struct AtOrigin {
    place: Arc<Place>,
    /// Of each entry of the place, once somebody asked for it.
    destinations: Vec<Option<Arc<Destination>>>,
}

/// One worker's entrance.
#[derive(Debug)]
pub struct Gateway {
    shared: Arc<Shared>,
    clients: Vec<upstream::Client>,
    proxy: Proxy,
    destinations: Mutex<Destinations>,
    opened: Mutex<Opened>,
    /// For answers that are held.
    held: Arc<Budget>,
    worker: Arc<WorkerMetrics>,
    /// Where requests are counted that name no service.
    nowhere: Arc<ServiceMetrics>,
}

impl Gateway {
    /// `clients` are this worker's own connections, one for each cloud, and `worker` its counters;
    /// `workers` share the replay budget.
    pub fn new(
        shared: Arc<Shared>,
        clients: Vec<upstream::Client>,
        worker: Arc<WorkerMetrics>,
        workers: usize,
    ) -> Self {
        let nowhere = shared.metrics.service(&worker, "none", "none");
        let config = &shared.config;
        let replay = Arc::new(Budget::new(config.replay_total / workers.max(1), config.replay_buffer));
        let held =
            Arc::new(Budget::new((config.links_total / workers.max(1)).max(2 * config.links), config.links));
        let proxy = Proxy::new(
            shared.tokens.clone(),
            Arc::clone(&shared.metrics),
            Arc::clone(&worker),
            replay,
            config.proof,
        );
        Self {
            shared,
            clients,
            proxy,
            destinations: Mutex::default(),
            opened: Mutex::default(),
            held,
            worker,
            nowhere,
        }
    }

    /// This worker's connections, by cloud.
    pub fn clients(&self) -> &[upstream::Client] {
        &self.clients
    }

    /// What it shares with the others.
    pub fn shared(&self) -> &Shared {
        &self.shared
    }

    /// Answers one request that came in by `listener`, an index into [`Shared::doors`].
    pub async fn handle(
        self: Arc<Self>,
        listener: usize,
        client: Arc<server::Client>,
        request: Request<Incoming>,
    ) -> Response<Body> {
        let door = &self.shared.doors[listener];
        let (parts, incoming) = request.into_parts();
        let mut record = Record::new(parts, Arc::clone(&self.nowhere), Arc::clone(&self.worker));
        let mut incoming = Some(incoming);
        let outcome = match self.audit(door, &client, &mut record) {
            Ok(()) => self.answer(door, listener, &client, &mut incoming, &mut record).await,
            Err(error) => Err(error),
        };
        if let Some(unread) = incoming {
            proxy::drain_unasked(&record.parts, unread);
        }
        match outcome {
            Ok(Reply::Own(response)) => {
                record.status = response.status();
                response.map(|body| Body::own(body, record))
            }
            Ok(Reply::Service(Answer { response, at, sent }, held)) => {
                record.upstream = Some(at - record.start);
                // Reading the clock costs as much as the rest of the bookkeeping.
                record.ended = (held.is_none() && response.body().is_buffered()).then_some(at);
                record.status = response.status();
                record.request_id = headers::request_id(response.headers()).cloned();
                response.map(|body| match held {
                    None => Body::upstream(body, sent, record),
                    Some(held) => Body::held(held, sent, record),
                })
            }
            Err(error) => {
                self.count(&error);
                let mut response = refuse(&error, record.parts.method == Method::HEAD);
                record.status = error.status();
                record.error = Some(error);
                response.body_mut().record(record);
                response
            }
        }
    }

    #[cold]
    fn count(&self, error: &ProxyError) {
        let metrics = &self.shared.metrics;
        metrics.errors.with_label_values(&[error.reason().as_str()]).inc();
        if let ProxyError::Denied { policy, rule } = error {
            metrics.denied.with_label_values(&[policy, rule]).inc();
        }
    }

    /// Sees to it that a request has a line in the audit, where there is one.
    ///
    /// # Errors
    /// It can't have one, and must not be served without.
    fn audit(
        &self,
        door: &Door,
        client: &Arc<server::Client>,
        record: &mut Record,
    ) -> Result<(), ProxyError> {
        let Some(audit) = &self.shared.audit else { return Ok(()) };
        let ticket = audit.admit().map_err(|_| ProxyError::AuditUnavailable)?;
        let (listener, client) = (Arc::clone(&door.name), Arc::clone(client));
        record.audit = Some(Box::new(Audited { ticket, listener, client }));
        record.trail.is_audited = true;
        Ok(())
    }

    async fn answer(
        &self,
        door: &Door,
        listener: usize,
        client: &server::Client,
        incoming: &mut Option<Incoming>,
        record: &mut Record,
    ) -> Result<Reply, ProxyError> {
        let (parts, trail) = (&record.parts, &mut record.trail);
        let fields = Fields::of(&parts.headers);
        let below_localhost = door.entry.check(parts, &fields)?;
        self.check(parts, &fields)?;
        let shows = fields.token || fields.authorization || !self.shared.identities.is_empty();
        let caller = if shows || door.logins == Logins::Configured {
            self.caller(door, client, parts, &fields, record.start)?
        } else {
            Caller::default()
        };
        if trail.is_audited {
            trail.proved.clone_from(&caller.proved);
        }
        if let Some(proved) = &caller.proved {
            record.under_way = self.enter(proved)?;
        }
        let named = match below_localhost {
            Some(name) if door.pinned.is_none() => Some(self.prefix_of(name)?),
            _ => None,
        };
        let route = match (route_of(door, named.as_deref(), parts), caller.refused) {
            (Ok(route), _) => route,
            (Err(_), Some(why)) => return Err(self.unauthorized(door, None, parts, why)),
            (Err(error), None) => return Err(error.into()),
        };
        if let Some(call) = Call::of(&parts.method, &route, parts.uri.path()) {
            let local = self.facade(call, (door, client, &route), &caller, parts, incoming, trail);
            if let Some(reply) = Box::pin(local).await? {
                return Ok(Reply::Own(reply));
            }
        }
        if let Some(why) = caller.refused {
            return Err(self.unauthorized(door, Some(&route), parts, why));
        }
        let session = caller.session.as_deref();
        let identity = caller.proved.as_ref().map(|proved| &*proved.identity);
        let asked = Asking { door, listener, session, identity, now: record.start, may_ask: true };
        let (destination, mut target) = self.aim(&asked, &route, parts, trail).await?;
        if let Some(query) = parts.uri.query() {
            target.push('?');
            target.push_str(query);
        }
        if fields.subject || destination.identity {
            self.keep_own_tokens(parts)?;
        }
        let incoming = incoming.take().expect("it is taken here only");
        let most = identity.and_then(|identity| identity.rights.body);
        let terms = Terms { withheld: door.entry.required(), most };
        let body = (incoming, &mut trail.received);
        let answer = self.proxy.forward(&destination, &target, parts, fields, terms, body);
        let mut answer = answer.await?;
        let Some(bodies) = destination.links else { return Ok(Reply::Service(answer, None)) };
        let Destination { url, base, origins, .. } = &*destination;
        let there = There { url, base, origins, target: &target };
        if self.has_no_links(&answer, &parts.method, session.is_none(), &there) {
            return Ok(Reply::Service(answer, None));
        }
        let address = Address::new(&self.shared.doors[0], door, &route, parts);
        let ordinary = if route.form == Form::Root { address.ordinary() } else { None };
        let mapping = Mapping {
            here: Here {
                scheme: address.scheme,
                authority: address.authority,
                prefix: route.prefix,
                form: route.form,
                rest: route.rest,
                ordinary: ordinary.as_deref(),
                rooted: session.is_none(),
            },
            there,
        };
        let held = if self.localize(&mut answer, &parts.method, bodies, &mapping) {
            Some(Box::pin(self.hold(&mut answer, bodies, &mapping)).await)
        } else {
            None
        };
        Ok(Reply::Service(answer, held))
    }

    /// Where a request goes, and the path there: its destination is found, and rights and policies are asked.
    #[inline]
    async fn aim(
        &self,
        asking: &Asking<'_>,
        route: &Route<'_>,
        parts: &Parts,
        trail: &mut Trail,
    ) -> Result<(Arc<Destination>, String), ProxyError> {
        let &Asking { door, listener, session, identity, now, may_ask } = asking;
        let of_identity = identity.and_then(|identity| identity.rights.policy.as_ref());
        for policy in [door.policy.as_ref(), of_identity].into_iter().flatten() {
            policy.before(&parts.method)?;
        }
        let scope = scope_of(session, identity, route);
        let (destination, cached_token) = match self.known(scope, route, now) {
            Some(destination) => (destination, true),
            // Boxed, as all that is rare: a request's future is moved a few times, so it should be small.
            None => {
                let resolving =
                    self.resolve(door, (session, identity, scope), route, parts, &mut trail.service);
                Box::pin(resolving).await?
            }
        };
        trail.service = Arc::clone(&destination.metrics);
        if trail.is_audited {
            trail.token = Some(Arc::clone(&destination.token));
        }
        if let Some(identity) = identity {
            self.check_rights(identity, &destination)?;
        }
        trail.cached_token = cached_token;
        // Listeners have theirs first, then identities.
        let policy_of_identity =
            identity.and_then(|identity| identity.policy).map(|index| self.shared.doors.len() + index);
        let asked = (listener, policy_of_identity);
        let at_endpoint = route.form == Form::Endpoint;
        let versions;
        let current = if at_endpoint && destination.base.needs_version(route.rest) {
            versions = match self.shared.discovery.known(&destination.unversioned) {
                Some(known) => Some(known),
                None => {
                    // The question carries a token too, so nobody asks it for a request that is denied.
                    // Which version it will be does not matter to a policy.
                    let likely = destination.base.target(route.rest, Some("v1"));
                    destination.permits(asked, &parts.method, &likely)?;
                    if may_ask {
                        let client = &self.shared.clients[destination.key.cloud];
                        let token = Some(&destination.token);
                        let asked = self.shared.discovery.versions(client, &destination.unversioned, token);
                        let versions = Box::pin(asked).await;
                        destination.warn_without_versions(&versions);
                        Some(versions)
                    } else {
                        None
                    }
                }
            };
            match &versions {
                Some(versions) => destination.segment(versions)?,
                None => None,
            }
        } else {
            None
        };
        let target = match route.form {
            Form::Endpoint => destination.base.target(route.rest, current),
            Form::Root => verbatim(destination.base.root(), route.rest, parts),
            Form::Origin => verbatim("", route.rest, parts),
        };
        destination.permits(asked, &parts.method, &target)?;
        Ok((destination, target))
    }

    /// What would become of a request of this identity at the listener with this index, if it came now: nothing is
    /// sent to a service, and no limit counts it.
    ///
    /// # Errors
    /// It would be refused.
    pub async fn dry_run(
        &self,
        listener: usize,
        identity: &Identity,
        request: Request<()>,
    ) -> Result<Trial, ProxyError> {
        let (door, (parts, ())) = (&self.shared.doors[listener], request.into_parts());
        let fields = Fields::of(&parts.headers);
        self.check(&parts, &fields)?;
        let route = route_of(door, None, &parts)?;
        if identity.rights.ends.is_some_and(|ends| ends <= jiff::Timestamp::now()) {
            return Err(self.unauthorized(door, Some(&route), &parts, Unusable::IdentityExpired));
        }
        if let Some(call) = Call::of(&parts.method, &route, parts.uri.path()) {
            let cloud = self.local_cloud(&route)?.map(|index| &self.shared.clouds[index]);
            if let Some(cloud) = cloud.filter(|_| !call.is_open())
                && !identity.rights.has_cloud(&cloud.name)
            {
                return Err(ProxyError::beyond(identity, "clouds"));
            }
            let view = cloud.and_then(|cloud| self.shared.facade.clouds.get(&cloud.name));
            let is_limited =
                !identity.rights.projects.is_empty() || view.is_some_and(|view| !view.projects.is_empty());
            // Where there is no limit, the real Keystone's own list is right.
            let is_local = match call {
                Call::Projects(None) | Call::Domains | Call::System | Call::Tenants => is_limited,
                Call::Projects(Some(_)) => false,
                _ => true,
            };
            if is_local && cloud.is_some() {
                return Ok(Trial::Local);
            }
        }
        let identity = Some(identity);
        let asking = Asking { door, listener, session: None, identity, now: Instant::now(), may_ask: false };
        let mut trail = Trail::new(Arc::clone(&self.nowhere));
        let (destination, target) = self.aim(&asking, &route, &parts, &mut trail).await?;
        let query = parts.uri.query().map_or_else(String::new, |query| format!("?{query}"));
        Ok(Trial::Service {
            url: format!("{}{target}{query}", destination.url.origin()),
            cloud: trail.service.cloud.clone(),
            service: trail.service.service.clone(),
            project: destination.token.project.as_ref().map(|project| project.name.clone()),
        })
    }

    /// Refuses what could be read in two ways, or is larger than allowed.
    fn check(&self, parts: &Parts, fields: &Fields) -> Result<(), ProxyError> {
        let config = &self.shared.config;
        framing::check_method(&parts.method)?;
        framing::check_target(parts)?;
        let target = parts.uri.path_and_query().map_or(0, |target| target.as_str().len());
        if target > config.target {
            return Err(ProxyError::TargetTooLong { limit: config.target });
        }
        if fields.size > config.head {
            return Err(ProxyError::HeadTooLarge { limit: config.head });
        }
        framing::check_framing(parts, fields)
    }

    /// The prefix that a host name below `localhost` stands for: `compute`, `compute.lab`.
    #[cold]
    fn prefix_of(&self, name: &str) -> Result<String, ProxyError> {
        let name = name.to_ascii_lowercase();
        let Some((service, cloud)) = name.split_once('.') else {
            return Ok(Route::prefix_of(None, None, &name));
        };
        // A host name's case tells nothing, and browsers write it small.
        let clouds = &self.shared.clouds;
        let cloud = clouds.iter().find(|known| known.name.eq_ignore_ascii_case(cloud));
        let cloud = cloud.ok_or_else(|| self.unknown_cloud())?;
        Ok(Route::prefix_of(Some(&cloud.name), None, service))
    }

    fn unknown_cloud(&self) -> ProxyError {
        ProxyError::UnknownCloud {
            known: self.shared.clouds.iter().map(|cloud| cloud.name.clone()).collect(),
        }
    }

    /// Checks that a destination is within an identity's rights, whatever the request does there.
    fn check_rights(&self, identity: &Identity, destination: &Destination) -> Result<(), ProxyError> {
        let (rights, shared) = (&identity.rights, &self.shared);
        let beyond = if !rights.has_cloud(&shared.clouds[destination.key.cloud].name) {
            "clouds"
        } else if !rights.has_project(destination.token.project.as_ref()) {
            "projects"
        } else if !rights.has_region(destination.region.as_deref()) {
            "regions"
        } else {
            return Ok(());
        };
        Err(ProxyError::beyond(identity, beyond))
    }

    /// A destination that was resolved before and still holds.
    fn known(&self, scope: Option<&ScopeKey>, route: &Route<'_>, now: Instant) -> Option<Arc<Destination>> {
        let destinations = self.destinations.lock().unwrap_or_else(PoisonError::into_inner);
        let found = match scope {
            None => &destinations.own,
            // A session's cloud and scope never change, so its key is made once.
            Some(scope) => destinations.of_scopes.get(scope)?,
        };
        let destination = match route.form {
            Form::Endpoint | Form::Root => found.services.get(route.prefix)?,
            Form::Origin => found.origins.get(route.prefix)?.of(route.rest)?,
        };
        let holds = destination.version == self.shared.tokens.version() && destination.token.is_fresh(now);
        holds.then(|| Arc::clone(destination))
    }

    /// Finds a route's destination, and tells whether its token was at hand. Where it fails once the
    /// cloud is known, that is where the request is `counted`.
    async fn resolve(
        &self,
        door: &Door,
        (session, identity, scope): (Option<&Session>, Option<&Identity>, Option<&ScopeKey>),
        route: &Route<'_>,
        parts: &Parts,
        counted: &mut Arc<ServiceMetrics>,
    ) -> Result<(Arc<Destination>, bool), ProxyError> {
        let shared = &self.shared;
        let index = match route.cloud()? {
            None => 0,
            Some(asked) => {
                let named = shared.clouds.iter().position(|cloud| cloud.name == asked);
                named.ok_or_else(|| self.unknown_cloud())?
            }
        };
        let cloud = &shared.clouds[index];
        if let Some(identity) = identity.filter(|identity| !identity.rights.has_cloud(&cloud.name)) {
            return Err(ProxyError::beyond(identity, "clouds"));
        }
        let cloud_policy = &shared.cloud_policies[index];
        if let Some(policy) = cloud_policy {
            policy.before(&parts.method)?;
        }
        *counted = shared.metrics.service(&self.worker, &cloud.name, "none");
        let asked = match (session, route.project()?) {
            (Some(session), _) if session.cloud() != cloud.name => {
                return Err(self.unauthorized(door, Some(route), parts, Unusable::OtherCloud));
            }
            (Some(session), None) => session.asked(),
            (Some(_), Some(_)) => return Err(ProxyError::TokenScope),
            (None, Some(project)) => Asked::Project(project.into_owned()),
            (None, None) => match identity.and_then(|identity| identity.rights.projects.first()) {
                Some(first) => Asked::Project(first.clone()),
                None => Asked::Own,
            },
        };
        let key = keystone::Key { cloud: index, scope: asked };
        // Read first: what changes while this goes on is noticed by the next request.
        let version = shared.tokens.version();
        let cached = shared.tokens.snapshot(&key).is_some();
        let token = shared.tokens.current(&key).await.map_err(|error| match identity {
            // What other projects there are is nothing that it may know.
            Some(identity) if !identity.rights.projects.is_empty() && is_about_project(&error) => {
                ProxyError::beyond(identity, "projects")
            }
            _ => ProxyError::Auth(error),
        })?;
        if let Some(view) = shared.facade.clouds.get(&cloud.name)
            && !view.permits(&key.scope, token.project.as_ref())
        {
            // A session is from before a reload that took its project away.
            return Err(match session {
                Some(_) => self.unauthorized(door, Some(route), parts, Unusable::Revoked),
                None => ProxyError::Auth(Arc::new(AuthError::UnknownProject {
                    asked: key.scope.to_string(),
                    available: view.projects.clone(),
                })),
            });
        }
        let cloud = &*cloud.of_token(&token);
        let origins = self.origins(scope, cloud, &token);
        let asked_service = if route.form == Form::Origin { None } else { Some(route.service()?) };
        let at_origin = match route.origin()? {
            None => None,
            Some(id) => Some(at_origin(&origins, &id, route.rest).ok_or_else(|| no_origin(&token))?),
        };
        let found = match &at_origin {
            None => {
                let (service, region) = (asked_service.as_deref().unwrap_or_default(), route.region()?);
                keystone::catalog::choose(cloud, &token.catalog, service, region.as_deref())?
            }
            Some((place, entry)) => {
                let origins::Entry { service_type, region, url, .. } = &place.entries()[*entry];
                keystone::Destination { service_type, region: region.as_deref(), url }
            }
        };
        let official = service_type::canonical(found.service_type);
        if !may_carry_token(cloud, found.url, found.service_type) {
            return Err(ProxyError::PlainHttp { service: official.into_owned(), cloud: cloud.name.clone() });
        }
        let project = token.project.as_ref();
        let base = rewrite::Base::new(found.url.path(), project.map(|project| project.id.as_str()));
        let of_doors = shared.doors.iter().map(|door| door.policy.as_ref());
        let of_identities = shared.identities.policies.iter().map(Some);
        let policies = of_doors.chain(of_identities).chain([cloud_policy.as_ref()]);
        let policies = if policies.clone().all(|policy| policy.is_none()) {
            None
        } else {
            let views = views(&token, &origins, &found, &base);
            let project = project.map(|project| (project.id.as_str(), project.name.as_str()));
            Some(policies.map(|policy| policy.map(|policy| policy.at(&views, project))).collect())
        };
        let asked_service = asked_service.as_deref().unwrap_or(found.service_type);
        let asked_version = cloud.api_version_of(asked_service);
        let base = base.wanting(asked_version);
        let destination = Arc::new(Destination {
            unversioned: found.url.with_path(base.root()),
            asked_version,
            extras: Extras::new(cloud, [found.service_type, asked_service], &shared.limits),
            base,
            policies,
            pool: self.clients[index].pool(found.url.origin()).map_err(ProxyError::Upstream)?,
            url: found.url.clone(),
            links: self.links(index, &official, route)?,
            identity: official == "identity",
            region: found.region.map(Into::into),
            body_limit: shared.body_limits.of(&official),
            metrics: shared.metrics.service(&self.worker, &cloud.name, &official),
            key,
            version,
            token: Arc::clone(&token),
            origins: Arc::clone(&origins),
        });
        let mut destinations = self.destinations.lock().unwrap_or_else(PoisonError::into_inner);
        if destinations.len() >= MAX_DESTINATIONS {
            *destinations = Destinations::default();
        }
        let known = match scope {
            None => &mut destinations.own,
            Some(scope) => destinations.of_scopes.entry(scope.clone()).or_default(),
        };
        match at_origin {
            None => drop(known.services.insert(route.prefix.into(), Arc::clone(&destination))),
            Some((place, entry)) => known.add(route.prefix, place, entry, Arc::clone(&destination)),
        }
        Ok((destination, cached))
    }

    /// The origins of a token's catalog, of which a destination that was found before may know.
    fn origins(
        &self,
        scope: Option<&ScopeKey>,
        cloud: &keystone::Config,
        token: &Arc<Token>,
    ) -> Arc<Origins> {
        let destinations = self.destinations.lock().unwrap_or_else(PoisonError::into_inner);
        let found = match scope {
            None => Some(&destinations.own),
            Some(scope) => destinations.of_scopes.get(scope),
        };
        let same = found.and_then(|found| found.all().find(|known| Arc::ptr_eq(&known.token, token)));
        match same {
            Some(known) => Arc::clone(&known.origins),
            None => Arc::new(Origins::new(cloud, token)),
        }
    }

    /// Brings the counters that are only known on demand up to date, and lets go of destinations with
    /// a token that was replaced, which nobody may ask for again; called on the worker's tick.
    pub fn refresh(&self) {
        let version = self.shared.tokens.version();
        let mut destinations = self.destinations.lock().unwrap_or_else(PoisonError::into_inner);
        destinations.own.keep(version);
        destinations.of_scopes.retain(|_, found| {
            found.keep(version);
            found.all().next().is_some()
        });
        drop(destinations);
        self.forget_ended();
        let idle: usize = self.clients.iter().map(upstream::Client::idle).sum();
        self.worker.upstream_idle.store(i64::try_from(idle).unwrap_or(i64::MAX), Ordering::Relaxed);
    }
}

/// What a request asks for by its path; `named` is the prefix that its host name stands for.
fn route_of<'a>(door: &'a Door, named: Option<&'a str>, parts: &'a Parts) -> Result<Route<'a>, RouteError> {
    let path = parts.uri.path();
    match (&door.pinned, named) {
        (None, None) if call::is_at_root(&parts.method, path) => Route::at_root("/identity", path),
        // Swift's capabilities, which its clients look for at the root of whatever host it has.
        (None, None) if path == "/info" => Route::at_root("/object-store", path),
        (None, None) => Route::parse(path),
        (Some(pinned), _) => Route::at_root(pinned, path),
        (None, Some(named)) => Route::at_root(named, path),
    }
}

/// Whether the project that was asked for is what is wrong.
fn is_about_project(error: &AuthError) -> bool {
    matches!(error.root(), AuthError::UnknownProject { .. } | AuthError::AmbiguousProject { .. })
}

/// Under which scope the destinations of a request are known. `None` is the cloud's own.
fn scope_of<'a>(
    session: Option<&'a Session>,
    identity: Option<&'a Identity>,
    route: &Route<'_>,
) -> Option<&'a ScopeKey> {
    match session {
        Some(session) => Some(&session.key),
        // A project that the path names is part of what destinations are known by.
        None if route.names_project() => None,
        None => identity?.key.as_ref(),
    }
}

impl Destinations {
    fn len(&self) -> usize {
        [&self.own].into_iter().chain(self.of_scopes.values()).map(|found| found.all().count()).sum()
    }
}

impl Found {
    fn all(&self) -> impl Iterator<Item = &Arc<Destination>> {
        let at_origins = self.origins.values().flat_map(|at| at.destinations.iter().flatten());
        self.services.values().chain(at_origins)
    }

    /// Keeps a destination at a place, with those that are of the same catalog.
    fn add(&mut self, prefix: &str, place: Arc<Place>, entry: usize, destination: Arc<Destination>) {
        let none = vec![None; place.entries().len()];
        let at = self
            .origins
            .entry(prefix.into())
            .or_insert_with(|| AtOrigin { place: Arc::clone(&place), destinations: none.clone() });
        if !Arc::ptr_eq(&at.place, &place) {
            *at = AtOrigin { place, destinations: none };
        }
        at.destinations[entry] = Some(destination);
    }

    /// Lets go of what was read at another version of the token cache.
    fn keep(&mut self, version: u64) {
        let current = |destination: &Arc<Destination>| destination.version == version;
        self.services.retain(|_, destination| current(destination));
        self.origins.retain(|_, at| at.destinations.iter().flatten().all(current));
    }
}

impl AtOrigin {
    /// The destination that a path at the origin leads to.
    fn of(&self, path: &str) -> Option<&Arc<Destination>> {
        self.destinations[self.place.entry(path)?].as_ref()
    }
}

/// The place of an origin's id, and which of its entries a path there belongs to.
fn at_origin(origins: &Origins, id: &str, path: &str) -> Option<(Arc<Place>, usize)> {
    let place = origins.place(id)?;
    let entry = place.entry(path)?;
    Some((Arc::clone(place), entry))
}

#[cold]
fn no_origin(token: &Token) -> ProxyError {
    ProxyError::NoOrigin { available: token.catalog.official_types() }
}

/// Who asks for something, by which listener, and when.
struct Asking<'a> {
    door: &'a Door,
    /// The door's place among all.
    listener: usize,
    session: Option<&'a Session>,
    identity: Option<&'a Identity>,
    now: Instant,
    /// A service that did not say yet which versions it has may be asked.
    may_ask: bool,
}

/// What would become of a request, see [`Gateway::dry_run`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Trial {
    /// It would go to a service.
    Service {
        /// There.
        url: String,
        /// The cloud's name.
        cloud: String,
        /// The service's official type.
        service: String,
        /// The name of the token's project.
        project: Option<String>,
    },
    /// keyway's own Keystone would answer.
    Local,
}

/// What a request is answered with.
enum Reply {
    /// What its service said, with the body that was held.
    Service(Answer, Option<Box<Held>>),
    /// What keyway says itself.
    Own(Response<Bytes>),
}

/// The path at a service that is `path` below `root` and nothing else, with room for the query.
fn verbatim(root: &str, path: &str, parts: &Parts) -> String {
    let query = parts.uri.query().map_or(0, |query| query.len() + 1);
    let mut target = String::with_capacity(root.len() + path.len().max(1) + query);
    target.push_str(root);
    target.push_str(path);
    if target.is_empty() {
        target.push('/');
    }
    target
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

/// What the URLs of an endpoint may belong to: its service, and whatever else is at the same origin
/// above or below it.
fn views(
    token: &Token,
    origins: &Origins,
    found: &keystone::Destination<'_>,
    base: &rewrite::Base,
) -> Arc<[View]> {
    let catalog = &token.catalog;
    let names = |service: &str, url: Option<&BaseUrl>| -> Vec<&str> {
        let of_service = catalog.endpoints().filter(|endpoint| endpoint.service_type == service);
        let there = of_service.filter(|endpoint| url.is_none() || endpoint.url.as_ref().ok() == url);
        there.map(|endpoint| endpoint.service_name.as_str()).collect()
    };
    if catalog.is_single() && found.service_type == "*" {
        return [View::new(None, [], base.clone())].into();
    }
    let own = View::new(Some(found.service_type), names(found.service_type, None), base.clone());
    let mut views = vec![own];
    let above = |upper: &str, lower: &str| {
        lower.strip_prefix(upper).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    };
    let there = origins.at(found.url.origin()).into_iter().flat_map(|place| place.entries());
    for origins::Entry { service_type, url, base: other, .. } in there {
        if service_type == found.service_type && other == base
            || !above(base.root(), other.root()) && !above(other.root(), base.root())
        {
            continue;
        }
        let view = View::new(Some(service_type), names(service_type, Some(url)), other.clone());
        if !views.contains(&view) {
            views.push(view);
        }
    }
    views.into()
}

impl From<Denied<'_>> for ProxyError {
    #[cold]
    fn from(denied: Denied<'_>) -> Self {
        Self::Denied { policy: denied.policy.to_owned(), rule: denied.rule.to_owned() }
    }
}
