//! One request in, one response out, always.
//!
//! [`Gateway`] finds the destination of a request, hands it to [`Proxy`], turns what went wrong into
//! an answer, and writes the request's line in the log once its answer has ended.

mod address;
mod body;
mod destination;
mod held;
mod known;
mod links;
mod local;
mod record;
mod session;
mod spelling;
mod trial;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http::request::Parts;
use http::{Method, Request, Response};

use self::destination::Asking;
use self::held::Held;
use self::known::Destinations;
use self::record::{Audited, Record};
use self::session::{Caller, Opened};
use crate::audit::Audit;
use crate::body::Budget;
use crate::entry::Entry;
use crate::error::ProxyError;
use crate::facade::call::{self, Call};
use crate::facade::{self, Logins};
use crate::framing;
use crate::identity::{Attempts, Identities, Identity};
use crate::incoming::Incoming;
use crate::keystone::{self, Discovery, TokenCache};
use crate::metrics::{Metrics, ServiceMetrics, WorkerMetrics};
use crate::policy::{Denied, Policy};
use crate::proxy::headers::{self, Fields};
use crate::proxy::links::{Here, Mapping, There};
use crate::proxy::{self, Answer, BodyLimits, Destination, Proxy, Terms};
use crate::route::{Form, Route, RouteError};
use crate::server;
use crate::upstream::{self, Scheme};

pub use self::address::Address;
pub use self::body::{Body, X_KEYWAY_ERROR, refuse};
pub use self::destination::may_carry_token;
pub use self::trial::Trial;

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
    /// The wrong passwords that came in by it, by client.
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
            Err(error) => self.refused(error, record),
        }
    }

    /// Answers a request that came in by `listener` when there were as many as there may be: nothing of it is looked
    /// at, but it has its line as all have.
    #[cold]
    pub fn overloaded(&self, listener: usize, client: Arc<server::Client>, head: Parts) -> Response<Body> {
        let mut record = Record::new(head, Arc::clone(&self.nowhere), Arc::clone(&self.worker));
        let outcome = self.audit(&self.shared.doors[listener], &client, &mut record);
        self.refused(outcome.err().unwrap_or(ProxyError::Overloaded), record)
    }

    fn refused(&self, error: ProxyError, mut record: Box<Record>) -> Response<Body> {
        self.count(&error);
        let mut response = refuse(&error, record.parts.method == Method::HEAD);
        record.status = error.status();
        record.error = Some(error);
        response.body_mut().record(record);
        response
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
        let identity = caller.proved.as_ref().map(|proved| &*proved.identity);
        let named = match below_localhost {
            Some(name) if door.pinned.is_none() => match (self.prefix_of(name, identity), caller.refused) {
                (Ok(prefix), _) => Some(prefix),
                (Err(_), Some(why)) => return Err(self.unauthorized(door, None, parts, why)),
                (Err(error), None) => return Err(error),
            },
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
    fn prefix_of(&self, name: &str, identity: Option<&Identity>) -> Result<String, ProxyError> {
        let name = name.to_ascii_lowercase();
        let Some((service, cloud)) = name.split_once('.') else {
            return Ok(Route::prefix_of(None, None, &name));
        };
        // A host name's case tells nothing, and browsers write it small.
        let clouds = &self.shared.clouds;
        let cloud = clouds.iter().find(|known| known.name.eq_ignore_ascii_case(cloud));
        let cloud = cloud.ok_or_else(|| self.unknown_cloud(identity))?;
        Ok(Route::prefix_of(Some(&cloud.name), None, service))
    }

    /// What clouds there are besides its own is nothing that an identity may know.
    #[cold]
    fn unknown_cloud(&self, identity: Option<&Identity>) -> ProxyError {
        match identity {
            Some(identity) if !identity.rights.clouds.is_empty() => ProxyError::beyond(identity, "clouds"),
            _ => ProxyError::UnknownCloud {
                known: self.shared.clouds.iter().map(|cloud| cloud.name.clone()).collect(),
            },
        }
    }

    /// Brings the counters that are only known on demand up to date, and lets go of destinations with
    /// a token that was replaced, which nobody may ask for again; called on the worker's tick.
    pub fn refresh(&self) {
        self.forget_replaced();
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

/// What a request is answered with.
enum Reply {
    /// What its service said, with the body that was held.
    Service(Answer, Option<Box<Held>>),
    /// What keyway says itself.
    Own(Response<Bytes>),
}

impl From<Denied<'_>> for ProxyError {
    #[cold]
    fn from(denied: Denied<'_>) -> Self {
        Self::Denied { policy: denied.policy.to_owned(), rule: denied.rule.to_owned() }
    }
}
