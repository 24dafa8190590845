//! Builds the parts, binds the listeners, runs the workers, and ends them.
//!
//! What serves requests is made of a configuration in one piece ([`Shared`], and a [`Gateway`] for each
//! worker), and a reload makes it anew: requests that come afterwards meet the new one, those in flight
//! end with the one that they began with, and with the last of them the old one is gone. Sockets,
//! threads and counters stay.

mod reload;

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http::header::HeaderValue;
use http::{Response, StatusCode};
use http_body_util::Full;
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::admin::{self, Admin};
use crate::audit::{self, Audit};
use crate::config::{self, Config};
use crate::entry::Entry;
use crate::error::ProxyError;
use crate::facade;
use crate::gateway::{self, Door, Gateway, Shared};
use crate::identity::{self, Identities, Keyring};
use crate::keystone::{self, Discovery, Event, Keeping, Observer, Store, TokenCache, shared};
use crate::metrics::{Metrics, WorkerMetrics};
use crate::proxy::limit::Register;
use crate::secret;
use crate::server::{self, Address, Clients, Drain, Fallback, Socket};
use crate::upstream::{self, Scheme, tls};

/// How many requests may be under way per connection that may be open.
const REQUESTS_PER_CONNECTION: usize = 2;

/// How often a worker looks at what it does not count as it happens.
const TICK: Duration = Duration::from_secs(1);

/// How long the audit's last lines are waited for.
const LAST_LINES: Duration = Duration::from_secs(5);

/// Why keyway could not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// An address can't be listened on.
    #[error(
        "can't listen on {address} ({source}); is another keyway running? choose another one with {setting}"
    )]
    Bind {
        /// Which one.
        address: Address,
        /// The setting that changes it.
        setting: String,
        /// Why.
        source: io::Error,
    },
    /// A cloud's TLS files can't be used.
    #[error("cloud `{cloud}`: its TLS files can't be used; correct cacert, cert or key")]
    Tls {
        /// Which cloud.
        cloud: String,
        /// Why.
        source: tls::Error,
    },
    /// The token store's TLS files can't be used.
    #[error("the token store's TLS files can't be used; correct tokens.store_ca, store_cert or store_key")]
    StoreTls(#[source] tls::Error),
    /// A listener's TLS files can't be used.
    #[error("the listener `{listener}`: its TLS files can't be used; correct tls_cert, tls_key or client_ca")]
    ListenerTls {
        /// Which listener.
        listener: String,
        /// Why.
        source: Box<server::tls::Error>,
    },
    /// Where the audit goes can't be written to.
    #[error("the audit can't be written to {target}; correct [audit] sink, or see to it")]
    Audit {
        /// Where.
        target: audit::Target,
        /// Why.
        source: io::Error,
    },
    /// The operating system refused a thread or a socket.
    #[error("the system refused a thread or a socket; check the limits of this process")]
    System(#[from] io::Error),
}

/// keyway, running.
#[derive(Debug)]
pub struct App {
    /// Where the services are served, in the order of the configuration that it was started with.
    listeners: Vec<Running>,
    admin: Running,
    /// What it serves with.
    config: Mutex<Config>,
    shared: watch::Sender<Arc<Shared>>,
    workers: Vec<WorkerHandle>,
    patience: watch::Sender<Duration>,
    runtime: Handle,
    draining: Arc<AtomicBool>,
    admin_drain: Drain,
    running: watch::Receiver<()>,
}

/// A listener that is bound.
struct Running {
    name: String,
    address: Address,
    url: String,
    settings: watch::Sender<server::Settings>,
}

impl std::fmt::Debug for Running {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Running")
            .field("name", &self.name)
            .field("address", &self.address)
            .finish_non_exhaustive()
    }
}

/// A worker as seen from outside its thread.
#[derive(Debug)]
struct WorkerHandle {
    gateway: watch::Sender<Arc<Gateway>>,
    metrics: Arc<WorkerMetrics>,
    drain: Drain,
}

impl App {
    /// Binds, starts the workers, and begins to log in. Keystone work and the admin listener run on
    /// `runtime`, each worker on a thread of its own.
    ///
    /// # Errors
    /// See [`StartError`]. A Keystone that can't be reached is none.
    pub fn start(config: &Config, runtime: &Handle) -> Result<Self, StartError> {
        let _guard = runtime.enter();
        let mut listeners = Vec::new();
        // One of each listener's sockets for each worker.
        let mut sockets: Vec<Vec<Socket>> = Vec::new();
        sockets.resize_with(config.workers, Vec::new);
        for listener in &config.listeners {
            let (running, bound) = Running::bind(config, listener, config.workers)?;
            listeners.push(running);
            sockets.iter_mut().zip(bound).for_each(|(sockets, socket)| sockets.push(socket));
        }
        let (admin, mut admin_socket) = Running::bind(config, &config.admin, 1)?;

        let (metrics, draining) = (Metrics::new(), Arc::new(AtomicBool::new(false)));
        let tls = load_tls(config)?;
        let parts = Parts {
            config,
            tls: &tls,
            metrics: Arc::clone(&metrics),
            discovery: Discovery::new(runtime.clone()),
            limits: Register::default(),
            keys: Arc::new(facade::Keys::load(&config.facade)),
            keyring: Arc::new(Keyring::load(config.api_keys.clone())),
            draining: Arc::clone(&draining),
            audit: start_audit(config, &metrics)?,
        };
        let doors = doors(config, listeners.iter().chain([&admin]).map(|running| &running.address));
        let shared = parts.shared(doors, None, runtime);
        metrics.configured(shared.read_at.as_second());
        shared.tokens.warm();
        runtime.spawn(parts.keys.watch());
        runtime.spawn(parts.keyring.watch());

        let (patience, _) = watch::channel(config.drain);
        let (ended, running) = watch::channel(());
        let ended = Arc::new(ended);
        let mut workers = Vec::new();
        let clients = Clients::default();
        for (index, sockets) in sockets.into_iter().enumerate() {
            let (drain, metrics) = (Drain::default(), metrics.worker());
            let (gateway, current) = watch::channel(parts.gateway(&shared, &metrics, config.workers));
            let worker = Worker {
                listeners: listeners
                    .iter()
                    .map(|running| running.settings.subscribe())
                    .zip(sockets)
                    .collect(),
                clients: clients.clone(),
                gateway: current,
                metrics: Arc::clone(&metrics),
                drain: drain.clone(),
                patience: patience.subscribe(),
            };
            workers.push(WorkerHandle { gateway, metrics, drain });
            let ended = Arc::clone(&ended);
            std::thread::Builder::new().name(format!("keyway-{index}")).spawn(move || {
                worker.run();
                drop(ended);
            })?;
        }
        let (shared, current) = watch::channel(shared);
        let admin_drain = Drain::default();
        let handler = Arc::new(Admin::new(current, listeners[0].url.clone()));
        runtime.spawn(server::serve(
            admin_socket.pop().expect("one was asked for"),
            admin.settings.subscribe(),
            move |_, request| Arc::clone(&handler).handle(request),
            ADMIN_FALLBACK,
            admin_drain.clone(),
            metrics.admin_connections(),
            Clients::default(),
        ));
        Ok(Self {
            listeners,
            admin,
            config: Mutex::new(config.clone()),
            shared,
            workers,
            patience,
            runtime: runtime.clone(),
            draining,
            admin_drain,
            running,
        })
    }

    /// Where the services are served: each listener's address, in the configuration's order.
    pub fn addresses(&self) -> impl Iterator<Item = &Address> {
        self.listeners.iter().map(|running| &running.address)
    }

    /// The main listener's URL.
    pub fn url(&self) -> &str {
        &self.listeners[0].url
    }

    /// Where metrics, health and status are served.
    pub fn admin(&self) -> &Address {
        &self.admin.address
    }

    /// The admin listener's URL.
    pub fn admin_url(&self) -> &str {
        &self.admin.url
    }

    /// What the workers share until the next reload.
    pub fn shared(&self) -> Arc<Shared> {
        Arc::clone(&self.shared.borrow())
    }

    /// Stops accepting; requests in flight finish, as long as the configuration lets them.
    pub fn drain(&self) {
        self.draining.store(true, Ordering::Relaxed);
        self.workers.iter().for_each(|worker| worker.drain.begin());
    }

    /// Waits until every worker has ended, which they do after [`App::drain`].
    pub async fn ended(&self) {
        let mut running = self.running.clone();
        while running.changed().await.is_ok() {}
        self.admin_drain.begin();
    }

    /// Has the audit's file opened anew before the next line: somebody gave it another name.
    pub fn reopen_audit(&self) {
        if let Some(audit) = &self.shared.borrow().audit {
            audit.reopen();
        }
    }

    /// Waits until the audit's lines are written, once nobody is served any more; but not for ever.
    pub async fn finish_audit(&self) {
        let Some(audit) = self.shared().audit.clone() else { return };
        let lines = audit.written(LAST_LINES).await;
        if lines > 0 {
            tracing::error!(lines, "lines of the audit are lost: they could not be written before the end");
        }
    }
}

/// Dropped without having drained (a test that failed): the workers end all the same.
impl Drop for App {
    fn drop(&mut self) {
        self.drain();
        self.admin_drain.begin();
    }
}

impl Running {
    /// Binds one listener, `count` times; where port 0 was asked for, the address tells which one it is.
    fn bind(
        config: &Config,
        listener: &config::Listener,
        count: usize,
    ) -> Result<(Self, Vec<Socket>), StartError> {
        let failed = |source| {
            let setting = match listener.name.as_str() {
                "main" => "--listen".to_owned(),
                "admin" => "--admin".to_owned(),
                _ if listener.emulated => {
                    let service = listener.pinned.as_deref().unwrap_or_default().trim_start_matches('/');
                    format!(
                        "address and service = \"{service}\" of a [listener.NAME], and leave {service} out of emulate_ports"
                    )
                }
                name => format!("[listener.{name}] address"),
            };
            StartError::Bind { address: listener.server.address.clone(), setting, source }
        };
        let (settings, _) = watch::channel(listener_settings(config, listener)?);
        let sockets = server::bind(&listener.server, count).map_err(failed)?;
        let address = sockets[0].address().clone();
        let url = address.url(listener.server.tls.is_some());
        Ok((Self { name: listener.name.clone(), address, url, settings }, sockets))
    }
}

/// Each listener as a request sees it, the admin listener last; `addresses` are where they are bound.
fn doors<'a>(config: &Config, addresses: impl Iterator<Item = &'a Address>) -> Vec<Door> {
    let listeners = config.listeners.iter().chain([&config.admin]);
    listeners.zip(addresses).map(|(listener, address)| door(listener, address)).collect()
}

fn door(listener: &config::Listener, address: &Address) -> Door {
    let tls = listener.server.tls.is_some();
    Door {
        name: listener.name.as_str().into(),
        logins: listener.logins,
        attempts: Arc::default(),
        url: address.url(tls),
        pinned: listener.pinned.clone(),
        scheme: if tls { Scheme::Https } else { Scheme::Http },
        entry: Entry::new(&listener.entry, address, tls),
        address: address.clone(),
        policy: listener.policy.clone(),
    }
}

/// What a listener serves with; its TLS files are read.
fn listener_settings(config: &Config, listener: &config::Listener) -> Result<server::Settings, StartError> {
    let failed =
        |source| StartError::ListenerTls { listener: listener.name.clone(), source: Box::new(source) };
    let tls = listener.server.tls.as_ref().map(server::tls::Config::load).transpose().map_err(failed)?;
    let ids =
        |of: fn(&identity::Config) -> &Vec<u32>| config.identities.iter().flat_map(of).copied().collect();
    let users = server::Users {
        listed: listener.server.users.clone(),
        identities: (ids(|identity| &identity.users), ids(|identity| &identity.groups)),
    };
    Ok(server::Settings { limits: limits(config), tls, users })
}

/// What the listeners may take on. Connections are counted over all workers, since the system spreads
/// them as it likes; requests by each.
fn limits(config: &Config) -> server::Limits {
    let (limits, timeouts) = (&config.limits, &config.timeouts);
    let connections = limits.max_connections;
    server::Limits {
        connections,
        requests: connections * REQUESTS_PER_CONNECTION,
        per_client: limits.connections_per_client,
        handshake: timeouts.handshake,
        head: timeouts.head,
        keepalive: timeouts.keepalive,
        stall: timeouts.stall,
        min_rate: limits.min_rate,
    }
}

fn load_tls(config: &Config) -> Result<Vec<Arc<rustls::ClientConfig>>, StartError> {
    if let Some(store) = config.token_store.as_ref().filter(|store| store.address.tls) {
        // Its client reads them anew for each connection; what is wrong with them is to be told now.
        store.tls.load().map_err(StartError::StoreTls)?;
    }
    // Reading the system's authorities takes milliseconds, and most clouds share one setting.
    let mut loaded: Vec<(&tls::Config, Arc<rustls::ClientConfig>)> = Vec::new();
    for cloud in &config.clouds {
        let known = loaded.iter().find(|(tls, _)| **tls == cloud.tls).map(|(_, tls)| Arc::clone(tls));
        let tls = match known {
            Some(tls) => tls,
            None => {
                cloud.tls.load().map_err(|source| StartError::Tls { cloud: cloud.name.clone(), source })?
            }
        };
        loaded.push((&cloud.tls, tls));
    }
    Ok(loaded.into_iter().map(|(_, tls)| tls).collect())
}

fn timeouts(config: &Config, cloud: &keystone::Config) -> upstream::Timeouts {
    let timeouts = &config.timeouts;
    upstream::Timeouts {
        // A service that needs long to answer needs no longer than others to be there.
        connect: timeouts.connect.min(cloud.api_timeout.unwrap_or(Duration::MAX)),
        response: cloud.api_timeout.unwrap_or(timeouts.response),
        idle: timeouts.idle,
    }
}

/// The parts that do not serve requests: tokens, discovery, metrics. For commands that only ask.
///
/// # Errors
/// TLS files of a cloud or a listener can't be used.
pub fn parts(config: &Config, runtime: &Handle) -> Result<Arc<Shared>, StartError> {
    for listener in config.listeners.iter().chain([&config.admin]) {
        listener_settings(config, listener)?;
    }
    let tls = load_tls(config)?;
    Ok(Parts::unserved(config, &tls, runtime).shared(Vec::new(), None, runtime))
}

/// A gateway that nobody reaches, for [`Gateway::dry_run`].
///
/// # Errors
/// As for [`parts`].
pub fn unbound(config: &Config, runtime: &Handle) -> Result<Arc<Gateway>, StartError> {
    let tls = load_tls(config)?;
    let parts = Parts::unserved(config, &tls, runtime);
    let addresses = config.listeners.iter().chain([&config.admin]).map(|listener| &listener.server.address);
    let shared = parts.shared(doors(config, addresses), None, runtime);
    Ok(parts.gateway(&shared, &parts.metrics.worker(), 1))
}

fn start_audit(config: &Config, metrics: &Metrics) -> Result<Option<Arc<Audit>>, StartError> {
    let Some(config) = &config.audit else { return Ok(None) };
    match Audit::start(config, metrics) {
        Ok(audit) => Ok(Some(audit)),
        Err(source) => Err(StartError::Audit { target: config.target.clone(), source }),
    }
}

/// What everything that serves requests is made of.
struct Parts<'a> {
    config: &'a Config,
    /// Of each cloud.
    tls: &'a [Arc<rustls::ClientConfig>],
    metrics: Arc<Metrics>,
    discovery: Discovery,
    limits: Register,
    keys: Arc<facade::Keys>,
    keyring: Arc<Keyring>,
    draining: Arc<AtomicBool>,
    audit: Option<Arc<Audit>>,
}

impl<'a> Parts<'a> {
    /// Those of a keyway that serves nobody: without API keys, the facade's keys, and an audit.
    fn unserved(config: &'a Config, tls: &'a [Arc<rustls::ClientConfig>], runtime: &Handle) -> Self {
        Self {
            config,
            tls,
            metrics: Metrics::new(),
            discovery: Discovery::new(runtime.clone()),
            limits: Register::default(),
            keys: Arc::default(),
            keyring: Arc::new(Keyring::load(None)),
            draining: Arc::default(),
            audit: None,
        }
    }

    fn clients(&self) -> Vec<upstream::Client> {
        let clouds = self.tls.iter().zip(&self.config.clouds);
        clouds
            .map(|(tls, cloud)| upstream::Client::with_tls(Arc::clone(tls), timeouts(self.config, cloud)))
            .collect()
    }

    /// `old` are the identities so far.
    fn shared(&self, doors: Vec<Door>, old: Option<&Identities>, runtime: &Handle) -> Arc<Shared> {
        let (config, clients) = (self.config, self.clients());
        for client in &clients {
            runtime.spawn(client.watch());
        }
        let names: Vec<_> = config.clouds.iter().map(|cloud| cloud.name.clone()).collect();
        self.metrics.show_clouds(&names);
        self.metrics.show_refusals(facade::Unusable::ALL.map(facade::Unusable::as_str));
        let observed = Arc::clone(&self.metrics);
        let observer: Observer = Arc::new(move |event: &Event| observe(&observed, &names, event));
        let clouds = config.clouds.iter().cloned().zip(clients.iter().cloned()).collect();
        let store = self.keeping(&observer, runtime);
        Arc::new(Shared {
            doors,
            config: gateway::Config {
                head: config.limits.head,
                target: config.limits.target,
                replay_buffer: config.limits.replay_buffer,
                replay_total: config.limits.replay_total,
                links: config.limits.links,
                links_total: config.limits.links_total,
                proof: config.timeouts.proof,
            },
            facade: config.facade.clone(),
            identities: Identities::new(&config.identities, Arc::clone(&self.keyring), old),
            keys: Arc::clone(&self.keys),
            body_limits: config.body_limits.clone(),
            clouds: config.clouds.iter().cloned().map(Arc::new).collect(),
            cloud_policies: config
                .clouds
                .iter()
                .map(|cloud| config.cloud_policies.get(&cloud.name).cloned())
                .collect(),
            raw_links: config
                .clouds
                .iter()
                .map(|cloud| config.raw_links.get(&cloud.name).cloned().unwrap_or_default())
                .collect(),
            tokens: TokenCache::new(
                clouds,
                store,
                config.timeouts.keystone,
                config.protection,
                runtime.clone(),
                observer,
            ),
            discovery: self.discovery.clone(),
            limits: self.limits.clone(),
            clients,
            draining: Arc::clone(&self.draining),
            read_at: jiff::Timestamp::now(),
            metrics: Arc::clone(&self.metrics),
            audit: self.audit.clone(),
        })
    }

    /// Where tokens are kept. A store that keyways share has a connection of its own with each configuration: other
    /// keys, another password or certificate are in force from then on.
    fn keeping(&self, observer: &Observer, runtime: &Handle) -> Option<Keeping> {
        let results =
            self.config.token_store.as_ref().map(|_| shared::Answer::ALL.map(shared::Answer::as_str));
        self.metrics.show_token_store(results);
        let Some(config) = self.config.token_store.clone() else {
            self.keys.share(None, runtime);
            return self.config.tokens.clone().map(|config| Keeping::Disk(Arc::new(Store::new(config))));
        };
        match shared::Store::new(config, Arc::clone(observer)) {
            Ok(store) => {
                self.keys.share(Some(&store), runtime);
                runtime.spawn(store.keep());
                Some(Keeping::Shared(store))
            }
            // It was right when the configuration was read.
            Err(error) => {
                tracing::warn!("{}: tokens are not shared", secret::causes(&error));
                self.keys.share(None, runtime);
                None
            }
        }
    }

    fn gateway(&self, shared: &Arc<Shared>, metrics: &Arc<WorkerMetrics>, workers: usize) -> Arc<Gateway> {
        Arc::new(Gateway::new(Arc::clone(shared), self.clients(), Arc::clone(metrics), workers))
    }
}

fn observe(metrics: &Metrics, clouds: &[String], event: &Event) {
    match event {
        Event::Asked { cloud, reason, outcome, took, expires_at } => {
            let Some(cloud) = clouds.get(*cloud) else { return };
            metrics
                .token_requests
                .with_label_values(&[cloud.as_str(), reason.as_str(), outcome.as_str()])
                .inc();
            metrics.token_request_duration.with_label_values(&[cloud]).observe(took.as_secs_f64());
            show_end(metrics, cloud, *expires_at);
        }
        Event::Restored { cloud, expires_at } => {
            let Some(cloud) = clouds.get(*cloud) else { return };
            metrics.tokens_restored.with_label_values(&[cloud]).inc();
            show_end(metrics, cloud, *expires_at);
        }
        Event::Paused { cloud, wait, rejected } => {
            let Some(cloud) = clouds.get(*cloud) else { return };
            let until = std::time::SystemTime::now() + *wait;
            let until = until.duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
            metrics.token_backoff.with_label_values(&[cloud]).set(until.as_secs_f64());
            if *rejected {
                metrics.breaker_open.with_label_values(&[cloud]).set(1);
            }
        }
        Event::Resumed { cloud } => {
            let Some(cloud) = clouds.get(*cloud) else { return };
            metrics.token_backoff.with_label_values(&[cloud]).set(0.0);
            metrics.breaker_open.with_label_values(&[cloud]).set(0);
        }
        Event::Listed { cloud, outcome } => {
            let Some(cloud) = clouds.get(*cloud) else { return };
            metrics.project_lists.with_label_values(&[cloud, outcome.as_str()]).inc();
        }
        Event::Capped { cloud } => {
            let Some(cloud) = clouds.get(*cloud) else { return };
            metrics.refusals_capped.with_label_values(&[cloud]).inc();
        }
        Event::StoreAsked(answer) => {
            metrics.token_store_requests.with_label_values(&[answer.as_str()]).inc();
        }
        Event::StoreIs { up } => {
            metrics.token_store_up.with_label_values::<&str>(&[]).set(i64::from(*up));
        }
    }
}

/// The end of a cloud's own token, UNIX seconds.
fn show_end(metrics: &Metrics, cloud: &str, expires_at: Option<i64>) {
    let Some(at) = expires_at else { return };
    #[expect(clippy::cast_precision_loss, reason = "a time in this millennium")]
    metrics.token_expiry.with_label_values(&[cloud]).set(at as f64);
}

struct Worker {
    /// Each listener's settings and socket, in the configuration's order.
    listeners: Vec<(watch::Receiver<server::Settings>, Socket)>,
    clients: Clients,
    gateway: watch::Receiver<Arc<Gateway>>,
    metrics: Arc<WorkerMetrics>,
    drain: Drain,
    patience: watch::Receiver<Duration>,
}

impl Worker {
    fn run(self) {
        let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
            Ok(runtime) => runtime,
            Err(error) => return tracing::error!(%error, "a worker could not start"),
        };
        runtime.block_on(async {
            tokio::spawn(look_after(self.gateway.clone()));
            let mut serving = JoinSet::new();
            for (index, (settings, socket)) in self.listeners.into_iter().enumerate() {
                let (gateway, crowded) = (self.gateway.clone(), self.gateway.clone());
                // Only a reload ever locks a worker's gateway against it.
                let handler =
                    move |client, request| Arc::clone(&gateway.borrow()).handle(index, client, request);
                serving.spawn(server::serve(
                    socket,
                    settings,
                    handler,
                    Fallback {
                        overloaded: move |request| match request {
                            Some((client, head)) => crowded.borrow().overloaded(index, client, head),
                            None => gateway::refuse(&ProxyError::Overloaded, false),
                        },
                        panicked: || gateway::refuse(&ProxyError::Internal, false),
                        late: || gateway::refuse(&ProxyError::Late, false),
                    },
                    self.drain.clone(),
                    Arc::clone(&self.metrics.connections),
                    self.clients.clone(),
                ));
            }
            serving.join_all().await;
            let patience = *self.patience.borrow();
            if tokio::time::timeout(patience, self.drain.ended()).await.is_err() {
                tracing::warn!("requests in flight did not finish in time and are cut off");
            }
        });
        runtime.shutdown_background();
    }
}

/// Runs on each worker what its gateway needs from time to time. Holds no gateway meanwhile, so that one
/// that was replaced can go.
async fn look_after(mut gateway: watch::Receiver<Arc<Gateway>>) {
    let mut tick = tokio::time::interval(TICK);
    loop {
        for client in gateway.borrow_and_update().clients() {
            tokio::spawn(client.watch());
        }
        loop {
            tokio::select! {
                _ = tick.tick() => gateway.borrow().refresh(),
                changed = gateway.changed() => match changed {
                    Ok(()) => break,
                    // Nobody is left to change it: this worker is about to end.
                    Err(_) => return,
                },
            }
        }
    }
}

/// Whose request was one too many, and its head.
type Beyond = Option<(Arc<server::Client>, http::request::Parts)>;
type Page = Full<Bytes>;

const ADMIN_FALLBACK: Fallback<fn(Beyond) -> Response<Page>, Page> = Fallback {
    overloaded: |_| plain(StatusCode::SERVICE_UNAVAILABLE, "too many requests at a time\n"),
    panicked: || {
        plain(StatusCode::INTERNAL_SERVER_ERROR, "keyway failed on this request; its log says more\n")
    },
    late: || {
        plain(StatusCode::REQUEST_TIMEOUT, "the request's head took too long; send it again, and faster\n")
    },
};

fn plain(status: StatusCode, text: &str) -> Response<Full<Bytes>> {
    admin::answer(status, HeaderValue::from_static("text/plain; charset=utf-8"), text.to_owned())
}
