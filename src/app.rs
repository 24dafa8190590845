//! Builds the parts, binds the listeners, runs the workers, and ends them.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::header::HeaderValue;
use http::{Response, StatusCode};
use http_body_util::Full;
use tokio::net::TcpListener;
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::admin::{self, Admin};
use crate::config::{self, Config};
use crate::error::ProxyError;
use crate::gateway::{self, Door, Gateway, Shared};
use crate::keystone::{Discovery, Event, Observer, TokenCache};
use crate::metrics::Metrics;
use crate::server::{self, Address, Drain, Fallback};
use crate::upstream::{self, tls};

/// How many requests may be under way per connection that may be open.
const REQUESTS_PER_CONNECTION: usize = 2;

/// How often a worker looks at what it does not count as it happens.
const TICK: Duration = Duration::from_secs(1);

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
    /// The operating system refused a thread or a socket.
    #[error("the system refused a thread or a socket; check the limits of this process")]
    System(#[from] io::Error),
}

/// keyway, running.
#[derive(Debug)]
pub struct App {
    /// Where the services are served: each listener's address, and its URL.
    listeners: Vec<(Address, String)>,
    admin: (Address, String),
    shared: Arc<Shared>,
    drains: Vec<Drain>,
    admin_drain: Drain,
    running: watch::Receiver<()>,
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
        let mut sockets: Vec<Vec<std::net::TcpListener>> = Vec::new();
        sockets.resize_with(config.workers, Vec::new);
        for listener in &config.listeners {
            let (address, bound) = bind(listener, config.workers)?;
            let url = address.url(listener.server.tls.is_some());
            listeners.push((address, url));
            sockets.iter_mut().zip(bound).for_each(|(sockets, socket)| sockets.push(socket));
        }
        let (address, mut admin_socket) = bind(&config.admin, 1)?;
        let url = address.url(config.admin.server.tls.is_some());
        let admin = (address, url);

        let tls = load_tls(config)?;
        let timeouts = timeouts(config);
        let clients = || {
            tls.iter().map(|tls| upstream::Client::with_tls(Arc::clone(tls), timeouts)).collect::<Vec<_>>()
        };
        let metrics = Metrics::new();
        let (shared, clients_of_side) = shared(config, clients(), metrics, runtime.clone());
        for client in clients_of_side {
            runtime.spawn(client.watch());
        }
        shared.tokens.warm();

        let (ended, running) = watch::channel(());
        let ended = Arc::new(ended);
        let mut drains = Vec::new();
        let (settings, _) =
            watch::channel(server::Settings { limits: limits(config), tls: None, users: Vec::new() });
        for (index, sockets) in sockets.into_iter().enumerate() {
            let drain = Drain::default();
            drains.push(drain.clone());
            let worker = Worker {
                sockets,
                gateway: Arc::new(Gateway::new(Arc::clone(&shared), clients(), config.workers)),
                settings: settings.subscribe(),
                drain,
                patience: config.drain,
            };
            let ended = Arc::clone(&ended);
            std::thread::Builder::new().name(format!("keyway-{index}")).spawn(move || {
                worker.run();
                drop(ended);
            })?;
        }
        let admin_drain = Drain::default();
        let handler = Arc::new(Admin::new(Arc::clone(&shared), listeners[0].1.clone()));
        let listener = TcpListener::from_std(admin_socket.pop().expect("one was asked for"))?;
        runtime.spawn(server::serve(
            listener,
            settings.subscribe(),
            move |request| Arc::clone(&handler).handle(request),
            ADMIN_FALLBACK,
            admin_drain.clone(),
            Arc::new(AtomicI64::new(0)),
        ));
        Ok(Self { listeners, admin, shared, drains, admin_drain, running })
    }

    /// Where the services are served: each listener's address, in the configuration's order.
    pub fn addresses(&self) -> impl Iterator<Item = &Address> {
        self.listeners.iter().map(|(address, _)| address)
    }

    /// The main listener's URL.
    pub fn url(&self) -> &str {
        &self.listeners[0].1
    }

    /// Where metrics, health and status are served.
    pub fn admin(&self) -> &Address {
        &self.admin.0
    }

    /// The admin listener's URL.
    pub fn admin_url(&self) -> &str {
        &self.admin.1
    }

    /// What the workers share.
    pub fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// Stops accepting; requests in flight finish, as long as the configuration lets them.
    pub fn drain(&self) {
        self.shared.draining.store(true, Ordering::Relaxed);
        self.drains.iter().for_each(Drain::begin);
    }

    /// Waits until every worker has ended, which they do after [`App::drain`].
    pub async fn ended(&self) {
        let mut running = self.running.clone();
        while running.changed().await.is_ok() {}
        self.admin_drain.begin();
    }
}

/// Dropped without having drained (a test that failed): the workers end all the same.
impl Drop for App {
    fn drop(&mut self) {
        self.drain();
        self.admin_drain.begin();
    }
}

/// Binds one listener, `count` times; where port 0 was asked for, the address tells which one it is.
fn bind(
    listener: &config::Listener,
    count: usize,
) -> Result<(Address, Vec<std::net::TcpListener>), StartError> {
    let address = &listener.server.address;
    let failed = |source| {
        let setting = match listener.name.as_str() {
            "main" => "--listen".to_owned(),
            "admin" => "--admin".to_owned(),
            name => format!("[listener.{name}] address"),
        };
        StartError::Bind { address: address.clone(), setting, source }
    };
    let Some(tcp) = address.tcp() else { return Err(failed(io::ErrorKind::Unsupported.into())) };
    let sockets = server::bind(tcp, count).map_err(failed)?;
    let bound = sockets[0].local_addr().map_err(failed)?;
    Ok((bound.into(), sockets))
}

/// A listener as the gateway sees it.
fn door(listener: &config::Listener) -> Door {
    Door { entry: listener.entry.clone(), policy: listener.policy.clone() }
}

/// What one worker may take on: its part of what the process may.
fn limits(config: &Config) -> server::Limits {
    let (limits, timeouts) = (&config.limits, &config.timeouts);
    let connections = limits.max_connections.div_ceil(config.workers);
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

fn timeouts(config: &Config) -> upstream::Timeouts {
    let timeouts = &config.timeouts;
    upstream::Timeouts { connect: timeouts.connect, response: timeouts.response, idle: timeouts.idle }
}

/// The parts that do not serve requests: tokens, discovery, metrics. For commands that only ask.
///
/// # Errors
/// A cloud's TLS files can't be used.
pub fn parts(config: &Config, runtime: &Handle) -> Result<Arc<Shared>, StartError> {
    let tls = load_tls(config)?;
    let clients = tls.into_iter().map(|tls| upstream::Client::with_tls(tls, timeouts(config))).collect();
    let (shared, clients) = shared(config, clients, Metrics::new(), runtime.clone());
    for client in clients {
        runtime.spawn(client.watch());
    }
    Ok(shared)
}

fn shared(
    config: &Config,
    clients: Vec<upstream::Client>,
    metrics: Arc<Metrics>,
    runtime: Handle,
) -> (Arc<Shared>, Vec<upstream::Client>) {
    let names: Vec<_> = config.clouds.iter().map(|cloud| cloud.name.clone()).collect();
    let observed = Arc::clone(&metrics);
    let observer: Observer = Arc::new(move |event: &Event| observe(&observed, &names, event));
    let clouds = config.clouds.iter().cloned().zip(clients.iter().cloned()).collect();
    let shared = Shared {
        doors: config.listeners.iter().map(door).collect(),
        config: gateway::Config {
            head: config.limits.head,
            target: config.limits.target,
            replay_buffer: config.limits.replay_buffer,
            replay_total: config.limits.replay_total,
            proof: config.timeouts.proof,
        },
        clouds: config.clouds.iter().cloned().map(Arc::new).collect(),
        tokens: TokenCache::new(clouds, config.timeouts.keystone, runtime, observer),
        discovery: Discovery::new(),
        clients: clients.clone(),
        draining: AtomicBool::new(false),
        metrics,
    };
    (Arc::new(shared), clients)
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
            if let Some(at) = expires_at {
                #[expect(clippy::cast_precision_loss, reason = "a time in this millennium")]
                metrics.token_expiry.with_label_values(&[cloud]).set(*at as f64);
            }
        }
        // Counted once per request, by the gateway.
        Event::Saved { .. } => {}
    }
}

struct Worker {
    /// One for each listener, in the configuration's order.
    sockets: Vec<std::net::TcpListener>,
    gateway: Arc<Gateway>,
    settings: watch::Receiver<server::Settings>,
    drain: Drain,
    patience: Duration,
}

impl Worker {
    fn run(self) {
        let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
            Ok(runtime) => runtime,
            Err(error) => return tracing::error!(%error, "a worker could not start"),
        };
        runtime.block_on(async {
            for client in self.gateway.clients() {
                tokio::spawn(client.clone().watch());
            }
            let gateway = Arc::clone(&self.gateway);
            tokio::spawn(async move {
                let mut tick = tokio::time::interval(TICK);
                loop {
                    tick.tick().await;
                    gateway.refresh();
                }
            });
            let mut serving = JoinSet::new();
            for (index, socket) in self.sockets.into_iter().enumerate() {
                let listener = match TcpListener::from_std(socket) {
                    Ok(listener) => listener,
                    Err(error) => return tracing::error!(%error, "a worker could not listen"),
                };
                let gateway = Arc::clone(&self.gateway);
                let open = Arc::clone(&gateway.worker().connections);
                let handler = move |request| Arc::clone(&gateway).handle(index, request);
                let (settings, drain) = (self.settings.clone(), self.drain.clone());
                serving.spawn(server::serve(listener, settings, handler, DATA_FALLBACK, drain, open));
            }
            serving.join_all().await;
            if tokio::time::timeout(self.patience, self.drain.ended()).await.is_err() {
                tracing::warn!("requests in flight did not finish in time and are cut off");
            }
        });
        runtime.shutdown_background();
    }
}

const DATA_FALLBACK: Fallback<gateway::Body> = Fallback {
    overloaded: || gateway::refuse(&ProxyError::Overloaded, false),
    panicked: || gateway::refuse(&ProxyError::Internal, false),
};

const ADMIN_FALLBACK: Fallback<Full<Bytes>> = Fallback {
    overloaded: || plain(StatusCode::SERVICE_UNAVAILABLE, "too many requests at a time\n"),
    panicked: || {
        plain(StatusCode::INTERNAL_SERVER_ERROR, "keyway failed on this request; its log says more\n")
    },
};

fn plain(status: StatusCode, text: &str) -> Response<Full<Bytes>> {
    admin::answer(status, HeaderValue::from_static("text/plain; charset=utf-8"), text.to_owned())
}
