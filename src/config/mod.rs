//! What did the operator write, and is it right?
//!
//! [`Config::load`] puts four layers together, each winning over the next: flags ([`Overrides`]),
//! `KEYWAY_*` variables ([`Env`]), keyway.toml, and defaults. Which clouds there are and how to log in
//! comes from clouds.yaml and secure.yaml or from `OS_*` variables, as the OpenStack clients read them.
//! The result is checked: an address, not a text. Everything that is wrong is reported at once
//! ([`Problems`]), each problem with its file and key. No other part reads a file of the operator's
//! or asks the environment.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use crate::facade::{Logins, View};
use crate::keystone::credentials::AllowHttp;
use crate::keystone::{Auth, Identity, Place, Protection, service_type};
use crate::policy::Policy;
use crate::proxy::BodyLimits;
use crate::server::Address;
use crate::upstream::{BaseUrl, Scheme};
use crate::{entry, keystone, server};

mod audit;
mod cloud;
mod clouds;
mod env;
mod exposure;
mod facade;
mod file;
mod identity;
mod listener;
mod policy;
mod problems;
mod sources;
mod tokens;
mod value;
mod yaml;

pub use clouds::Written as WrittenCloud;
pub use env::Env;
use file::File;
pub use identity::time;
use policy::Policies;
use problems::{COMMAND_LINE, ENVIRONMENT, closest};
pub use problems::{Problem, Problems};

/// Everything that the operator decides, checked.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where the services are served; the first one, `main`, is `listen`. Never empty.
    pub listeners: Vec<Listener>,
    /// Where metrics, health and status are served.
    pub admin: Listener,
    /// Worker threads; at least 1.
    pub workers: usize,
    /// The clouds that are served, the default one first. Never empty, but for
    /// [`Config::load_without_clouds`].
    pub clouds: Vec<keystone::Config>,
    /// What may be done with a cloud, by the cloud's name, whatever the listener.
    pub cloud_policies: BTreeMap<String, Arc<Policy>>,
    /// `[facade]`, and what clients see of each cloud.
    pub facade: crate::facade::Config,
    /// `[identity.NAME]`: who may come in.
    pub identities: Vec<crate::identity::Config>,
    /// The file of their API keys, if there is a place for one.
    pub api_keys: Option<PathBuf>,
    /// Where the clouds' tokens outlive the process, if they do.
    pub tokens: Option<keystone::store::Config>,
    /// Where each request has a line, if it has.
    pub audit: Option<crate::audit::Config>,
    /// Where several keyways share them, if they do.
    pub token_store: Option<keystone::shared::Config>,
    /// Services whose answers keep the links that they wrote, by the cloud's name; `*` for all of a cloud.
    pub raw_links: BTreeMap<String, Vec<String>>,
    /// What is logged, and how.
    pub log: Log,
    /// How long requests in flight may take to finish once keyway was told to stop.
    pub drain: Duration,
    /// How much of anything is too much.
    pub limits: Limits,
    /// How large a request's body may be: `limits.body` and `[limits.bodies]`.
    pub body_limits: BodyLimits,
    /// How long anything may take.
    pub timeouts: Timeouts,
    /// `[keystone]`: what Keystone is spared.
    pub protection: Protection,
    /// What is allowed but unwise, for the log at start.
    pub warnings: Vec<String>,
}

/// `[listener.NAME]`: where it is, and what it asks of a request before anything else.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listener {
    /// As the configuration calls it.
    pub name: String,
    /// Its address, TLS and users.
    pub server: server::Config,
    /// Which requests come in.
    pub entry: entry::Config,
    /// What they may do.
    pub policy: Option<Arc<Policy>>,
    /// Who may log in.
    pub logins: Logins,
    /// The address that it stands for, if it serves one service only: `/cloud/lab/compute`.
    pub pinned: Option<String>,
    /// Nobody named its port: it is the service's by convention (`emulate_ports`).
    pub emulated: bool,
}

impl Listener {
    /// One with nothing but a name and an address.
    pub fn at(name: &str, address: impl Into<Address>) -> Self {
        Self {
            name: name.to_owned(),
            server: server::Config::at(address.into()),
            entry: entry::Config::default(),
            policy: None,
            logins: Logins::default(),
            pinned: None,
            emulated: false,
        }
    }

    /// How a client names it, see [`Address::url`].
    pub fn url(&self) -> String {
        self.server.address.url(self.server.tls.is_some())
    }
}

/// `[log]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Log {
    /// How a line looks.
    pub format: LogFormat,
    /// A filter as `tracing_subscriber::EnvFilter` reads it; checked.
    pub level: String,
}

impl Default for Log {
    fn default() -> Self {
        Self { format: LogFormat::Auto, level: "info".to_owned() }
    }
}

/// How a log line looks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// Text on a terminal, else JSON.
    #[default]
    Auto,
    /// For people.
    Text,
    /// One JSON object per line.
    Json,
}

/// `[limits]`. Sizes are in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// How much of a request's body is kept so that it can be sent once more after a 401.
    pub replay_buffer: usize,
    /// The same, for all requests together.
    pub replay_total: usize,
    /// How large an answer's body in JSON is held so that its links can be mapped; none if it is 0.
    pub links: usize,
    /// The same, for all answers together.
    pub links_total: usize,
    /// Connections from clients.
    pub max_connections: usize,
    /// Connections of one client address. Unless it is set, loopback has no such limit.
    pub connections_per_client: Option<usize>,
    /// What a client that is sending a body must send at least, bytes per second, measured over
    /// `timeouts.stall`.
    pub min_rate: u64,
    /// A request's head.
    pub head: usize,
    /// A request's target (path and query).
    pub target: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            replay_buffer: 64 << 10,
            replay_total: 64 << 20,
            links: 1 << 20,
            links_total: 64 << 20,
            max_connections: 10_000,
            connections_per_client: None,
            min_rate: 256,
            head: 64 << 10,
            target: 16 << 10,
        }
    }
}

/// `[timeouts]`. None of them is zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// For a client's TLS handshake.
    pub handshake: Duration,
    /// For a request's whole head.
    pub head: Duration,
    /// How long a client's connection is kept without a request.
    pub keepalive: Duration,
    /// How long a client that has to send or to read may do neither.
    pub stall: Duration,
    /// Until there is a connection to a service, TLS included.
    pub connect: Duration,
    /// Until the head of a service's answer is there.
    pub response: Duration,
    /// For one call to Keystone, all of it.
    pub keystone: Duration,
    /// How long an unused connection to a service is kept.
    pub idle: Duration,
    /// A token that no service has accepted for this long is checked with Keystone before a body
    /// goes out that can't be sent once more.
    pub proof: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            handshake: Duration::from_secs(10),
            head: Duration::from_secs(30),
            keepalive: Duration::from_secs(75),
            stall: Duration::from_secs(60),
            connect: Duration::from_secs(10),
            response: Duration::from_secs(300),
            keystone: Duration::from_secs(30),
            idle: Duration::from_secs(55),
            proof: Duration::from_secs(60),
        }
    }
}

/// What the command line says, as written. It wins over everything else.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Overrides {
    /// `--config`.
    pub config: Option<PathBuf>,
    /// `--cloud`, each of them.
    pub clouds: Vec<String>,
    /// `--listen`.
    pub listen: Option<String>,
    /// `--admin`.
    pub admin: Option<String>,
    /// `--emulate-ports`.
    pub emulate_ports: Option<String>,
    /// `--tokens-cache`.
    pub tokens_cache: Option<String>,
    /// `--workers`.
    pub workers: Option<String>,
    /// `--log-format`.
    pub log_format: Option<String>,
    /// `--log-level`.
    pub log_level: Option<String>,
}

/// Every key of keyway.toml that holds one value. Its variable is `KEYWAY_` and the key in capitals,
/// `_` for the dot.
const SETTINGS: [&str; 56] = [
    "listen",
    "admin",
    "emulate_ports",
    "workers",
    "drain",
    "log.format",
    "log.level",
    "limits.replay_buffer",
    "limits.replay_total",
    "limits.links",
    "limits.links_total",
    "limits.max_connections",
    "limits.connections_per_client",
    "limits.min_rate",
    "limits.head",
    "limits.target",
    "limits.body",
    "timeouts.handshake",
    "timeouts.head",
    "timeouts.keepalive",
    "timeouts.stall",
    "timeouts.connect",
    "timeouts.response",
    "timeouts.keystone",
    "timeouts.idle",
    "timeouts.proof",
    "keystone.rejections",
    "keystone.pause",
    "keystone.longest_pause",
    "keystone.backoff",
    "keystone.longest_backoff",
    "keystone.refusals",
    "keystone.refusal_every",
    "keystone.scope_refusals",
    "keystone.scope_refusal_every",
    "keystone.new_scopes",
    "keystone.new_scope_every",
    "facade.token_life",
    "facade.state",
    "facade.keys",
    "identities.directory",
    "identities.keys",
    "tokens.cache",
    "tokens.cache_key",
    "tokens.store",
    "tokens.store_user",
    "tokens.store_password_file",
    "tokens.store_password_command",
    "tokens.store_password_credential",
    "tokens.store_ca",
    "tokens.store_cert",
    "tokens.store_key",
    "tokens.store_prefix",
    "tokens.store_timeout",
    "audit.sink",
    "audit.on_failure",
];

/// What a configuration is read for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Purpose {
    Serve,
    /// A program that brings a cloud of its own, and keeps nothing.
    Demo,
    /// No cloud is asked.
    Identities,
}

/// The ports of the main and of the admin listener, on 127.0.0.1, unless they are elsewhere.
const PORT: u16 = 8180;
const ADMIN_PORT: u16 = 8181;

/// hyper's smallest read buffer, which a request's head must be able to fill.
const SMALLEST_HEAD: usize = 8 << 10;

impl Config {
    /// Reads and checks everything: flags, environment, keyway.toml, clouds.yaml and secure.yaml.
    ///
    /// # Errors
    /// Everything that is wrong.
    pub fn load(overrides: &Overrides, env: &Env) -> Result<Self, Problems> {
        Self::read(overrides, env, Purpose::Serve)
    }

    /// The same without any cloud, for a program that brings its own (`keyway demo`): neither
    /// clouds.yaml nor `OS_*` is looked at, and [`Config::clouds`] is empty.
    ///
    /// # Errors
    /// Everything that is wrong.
    pub fn load_without_clouds(overrides: &Overrides, env: &Env) -> Result<Self, Problems> {
        Self::read(overrides, env, Purpose::Demo)
    }

    /// The same for a program that looks after identities and their keys, and serves nothing.
    ///
    /// # Errors
    /// Everything that is wrong.
    pub fn load_identities(overrides: &Overrides, env: &Env) -> Result<Self, Problems> {
        Self::read(overrides, env, Purpose::Identities)
    }

    /// Where the admin listener is of a keyway with the same settings. Nothing else is looked at: what has become wrong
    /// with it does not matter to a keyway that runs already.
    ///
    /// # Errors
    /// The address itself is wrong.
    pub fn admin_address(overrides: &Overrides, env: &Env) -> Result<Address, Problems> {
        let mut problems = Problems::default();
        let file = File::load(overrides, env, &mut Problems::default());
        let address =
            Layers { overrides, env, file: &file, problems: &mut problems }.address("admin", ADMIN_PORT);
        if problems.is_empty() { Ok(address) } else { Err(problems) }
    }

    /// Says where the tokens of those logins lie that need a person.
    fn place_logins(&mut self, state: Option<&Path>, problems: &mut Problems) {
        for cloud in &mut self.clouds {
            let Auth::Identity(Identity { auth_url, method, .. }) = &mut cloud.auth else { continue };
            if method.person().is_none() {
                continue;
            }
            match state {
                Some(state) => method.set_place(&Place::new(state, auth_url, method)),
                None => problems.add(
                    "keyway.toml",
                    "facade.state",
                    format!(
                        "no directory for the login of cloud {}, which needs a person once: set HOME, or facade.state",
                        cloud.name
                    ),
                ),
            }
        }
    }

    /// The clouds that [`Config::load`] would check, as they are written: for who asks why a cloud is what
    /// it is. Options that are wrong are no problem here.
    ///
    /// # Errors
    /// What stands in the way of reading them.
    pub fn written_clouds(overrides: &Overrides, env: &Env) -> Result<Vec<WrittenCloud>, Problems> {
        let mut problems = Problems::default();
        let file = File::load(overrides, env, &mut problems);
        let wanted = Layers { overrides, env, file: &file, problems: &mut problems }.wanted();
        let written = clouds::Clouds::new(env, &mut problems, &mut Vec::new()).written(wanted);
        if problems.is_empty() { Ok(written) } else { Err(problems) }
    }

    fn read(overrides: &Overrides, env: &Env, purpose: Purpose) -> Result<Self, Problems> {
        let (with_clouds, is_demo) = (purpose == Purpose::Serve, purpose == Purpose::Demo);
        let mut problems = Problems::default();
        let mut warnings = Vec::new();
        env.check(&mut problems);
        let file = File::load(overrides, env, &mut problems);
        let policies = Policies::check(&file, &mut problems, &mut warnings);
        let mut layers = Layers { overrides, env, file: &file, problems: &mut problems };
        let (listeners, admin) = layers.listeners(&policies, &mut warnings);
        let mut config = layers.settings(listeners, admin);
        config.check(&mut layers);
        config.facade = layers.facade(is_demo, &mut warnings);
        let places = layers.identity_places(config.facade.state.as_deref());
        config.identities = layers.identities(&places, &policies, &mut warnings);
        config.api_keys = places.keys;
        layers.check_logins(&config.listeners, &config.identities);
        config.audit = layers.audit(&config.listeners);
        let logins = layers.login_state();
        config.token_store = layers.token_store(!with_clouds, &mut warnings);
        if config.token_store.is_none() {
            config.tokens = layers.tokens(config.facade.state.as_deref(), !with_clouds, &mut warnings);
        }
        if config.listeners.iter().chain([&config.admin]).any(|listener| listener.entry.required.is_some()) {
            exposure::warn(&file.path, env, &mut warnings);
        }
        warn_of_unknown_variables(env, &mut warnings);
        if with_clouds {
            let wanted = layers.wanted();
            let mut clouds = clouds::Clouds::new(env, &mut problems, &mut warnings);
            let served = clouds.served(wanted);
            let listed = file.clouds.iter().flatten();
            let mut misplaced = Vec::new();
            for name in file.cloud_tables.keys() {
                let elsewhere =
                    !served.by_file && (listed.clone().any(|listed| listed == name) || clouds.knows(name));
                if !served.names.contains(name) && !elsewhere {
                    misplaced.push(name);
                }
            }
            for (name, cloud) in file.pinned_clouds() {
                if !served.names.is_empty() && !served.names.iter().any(|known| known == cloud) {
                    let message = format!("no such cloud is served, only {}", served.names.join(", "));
                    let message = format!("{message}: correct the name, or serve the cloud");
                    problems.add(file.path.display(), format!("listener.{name}.cloud"), message);
                }
            }
            for identity in &config.identities {
                let unknown = identity.rights.clouds.iter().find(|cloud| !served.names.contains(cloud));
                if let Some(cloud) = unknown.filter(|_| !served.names.is_empty()) {
                    let served = served.names.join(", ");
                    let message = format!(
                        "no cloud `{cloud}` is served, only {served}: correct the name, or serve the cloud"
                    );
                    problems.add(file.path.display(), format!("identity.{}.clouds", identity.name), message);
                }
            }
            for name in misplaced {
                let message = if served.names.is_empty() {
                    "no such cloud is served: remove the table".to_owned()
                } else {
                    let served = served.names.join(", ");
                    format!("no such cloud is served, only {served}: correct the name, or remove the table")
                };
                problems.add(file.path.display(), format!("cloud.{name}"), message);
            }
            config.clouds = served.clouds;
            config.place_logins(logins.as_deref(), &mut problems);
        }
        config.read_cloud_tables(&file, &policies, &mut problems);
        policies.warn_of_unused(&file, &mut warnings);
        config.warnings = warnings;
        if problems.is_empty() { Ok(config) } else { Err(problems) }
    }

    /// `[cloud.NAME]`, for clouds that are served and for others.
    fn read_cloud_tables(&mut self, file: &File, policies: &Policies, problems: &mut Problems) {
        for (name, options) in &file.cloud_tables {
            let mut problem = |option: &str, message: String| {
                problems.add(file.path.display(), format!("cloud.{name}.{option}"), message);
            };
            let mut allowed = Vec::new();
            for text in options.list("allow_http") {
                match plain_http(text) {
                    Ok(text) => allowed.push(text),
                    Err(message) => problem("allow_http", message),
                }
            }
            let mut raw = Vec::new();
            for text in options.list("raw_links") {
                match if text == "*" { Ok(text.to_owned()) } else { policy::service(text) } {
                    Ok(service) => raw.push(service_type::canonical(&service).into_owned()),
                    Err(message) => problem("raw_links", message),
                }
            }
            if !raw.is_empty() {
                self.raw_links.insert(name.clone(), raw);
            }
            let cloud = self.clouds.iter_mut().find(|cloud| cloud.name == *name);
            match options.text("policy").map(|policy| policies.named(policy)) {
                Some(Ok(Some(policy))) if cloud.is_some() => {
                    self.cloud_policies.insert(name.clone(), policy);
                }
                Some(Err(message)) => problem("policy", message),
                _ => {}
            }
            let view = facade::view(options, &mut problem);
            let Some(cloud) = cloud else { continue };
            if !allowed.is_empty() {
                cloud.allow_http = AllowHttp::Only(allowed);
            }
            if view != View::default() {
                self.facade.clouds.insert(name.clone(), view);
            }
        }
    }

    /// Checks what concerns several settings.
    fn check(&self, layers: &mut Layers<'_>) {
        if self.limits.replay_total < self.limits.replay_buffer {
            let message = "smaller than limits.replay_buffer: it holds all requests' buffers, so raise it";
            layers.problem("limits.replay_total", message);
        }
        if self.limits.links_total < self.limits.links {
            let message = "smaller than limits.links: it holds all answers that are held, so raise it";
            layers.problem("limits.links_total", message);
        }
        if self.limits.target > self.limits.head {
            layers.problem("limits.target", "larger than limits.head, of which it is a part: lower it");
        }
        let protection = &self.protection;
        for (first, longest, (least, most)) in [
            ("keystone.pause", "keystone.longest_pause", protection.pause),
            ("keystone.backoff", "keystone.longest_backoff", protection.backoff),
        ] {
            if least > most {
                layers.problem(longest, &format!("shorter than {first}, with which it begins: raise it"));
            }
        }
        if protection.scope_refusals.0 > protection.refusals.0 {
            let message = "more than keystone.refusals, of which it is a part: lower it";
            layers.problem("keystone.scope_refusals", message);
        }
    }
}

/// The three layers over the defaults.
struct Layers<'a> {
    overrides: &'a Overrides,
    env: &'a Env,
    file: &'a File,
    problems: &'a mut Problems,
}

/// A value and who wrote it where.
struct Written<'a> {
    source: String,
    key: String,
    text: &'a str,
}

impl Layers<'_> {
    fn settings(&mut self, listeners: Vec<Listener>, admin: Listener) -> Config {
        let (limits, timeouts, log) = (Limits::default(), Timeouts::default(), Log::default());
        let cores = thread::available_parallelism().map_or(1, usize::from);
        Config {
            listeners,
            admin,
            workers: self.setting("workers", cores, |text| at_most(value::count(text)?, 1024)),
            clouds: Vec::new(),
            cloud_policies: BTreeMap::new(),
            facade: crate::facade::Config::default(),
            identities: Vec::new(),
            api_keys: None,
            tokens: None,
            audit: None,
            token_store: None,
            raw_links: BTreeMap::new(),
            log: Log {
                format: self.setting("log.format", log.format, log_format),
                level: self.setting("log.level", log.level, log_level),
            },
            drain: self.setting("drain", Duration::from_secs(30), value::duration),
            limits: Limits {
                replay_buffer: self.setting("limits.replay_buffer", limits.replay_buffer, value::size),
                replay_total: self.setting("limits.replay_total", limits.replay_total, value::size),
                links: self.setting("limits.links", limits.links, value::size),
                links_total: self.setting("limits.links_total", limits.links_total, value::size),
                max_connections: self.setting("limits.max_connections", limits.max_connections, value::count),
                connections_per_client: self.setting(
                    "limits.connections_per_client",
                    limits.connections_per_client,
                    |text| value::count(text).map(Some),
                ),
                min_rate: self.setting("limits.min_rate", limits.min_rate, |text| {
                    value::size(text).map(|size| size as u64)
                }),
                head: self.setting("limits.head", limits.head, |text| {
                    within(value::size(text)?, SMALLEST_HEAD, 1 << 20)
                }),
                target: self
                    .setting("limits.target", limits.target, |text| within(value::size(text)?, 256, 1 << 20)),
            },
            body_limits: self.body_limits(),
            timeouts: Timeouts {
                handshake: self.setting("timeouts.handshake", timeouts.handshake, nonzero),
                head: self.setting("timeouts.head", timeouts.head, nonzero),
                keepalive: self.setting("timeouts.keepalive", timeouts.keepalive, nonzero),
                stall: self.setting("timeouts.stall", timeouts.stall, nonzero),
                connect: self.setting("timeouts.connect", timeouts.connect, nonzero),
                response: self.setting("timeouts.response", timeouts.response, nonzero),
                keystone: self.setting("timeouts.keystone", timeouts.keystone, nonzero),
                idle: self.setting("timeouts.idle", timeouts.idle, nonzero),
                proof: self.setting("timeouts.proof", timeouts.proof, nonzero),
            },
            protection: self.protection(),
            warnings: Vec::new(),
        }
    }

    /// `[keystone]`.
    fn protection(&mut self) -> Protection {
        let default = Protection::default();
        let bucket = |layers: &mut Self, most: &str, every: &str, default: (u32, Duration)| {
            (
                layers.setting(most, default.0, |text| small(text, 1)),
                layers.setting(every, default.1, |text| within_times(text, "10ms", "1h")),
            )
        };
        let backoff = |layers: &mut Self, first: &str, longest: &str, default: (Duration, Duration)| {
            // A failure that is forgotten at once would make a login of each request.
            let wait = |text: &str| within_times(text, "100ms", "24h");
            (layers.setting(first, default.0, wait), layers.setting(longest, default.1, wait))
        };
        Protection {
            rejections: self.setting("keystone.rejections", default.rejections, |text| match text {
                "none" => Ok(None),
                text => small(text, 2).map(Some).map_err(|message| format!("{message}, or \"none\"")),
            }),
            pause: backoff(self, "keystone.pause", "keystone.longest_pause", default.pause),
            backoff: backoff(self, "keystone.backoff", "keystone.longest_backoff", default.backoff),
            refusals: bucket(self, "keystone.refusals", "keystone.refusal_every", default.refusals),
            scope_refusals: bucket(
                self,
                "keystone.scope_refusals",
                "keystone.scope_refusal_every",
                default.scope_refusals,
            ),
            new_scopes: bucket(self, "keystone.new_scopes", "keystone.new_scope_every", default.new_scopes),
        }
    }

    fn body_limits(&mut self) -> BodyLimits {
        let default = self.setting("limits.body", None, value::size_or_none);
        let mut services = BTreeMap::new();
        for (service, text) in &self.file.bodies {
            let checked = policy::service(service).and_then(|service| {
                let limit = value::size_or_none(text.trim())?.unwrap_or(u64::MAX);
                Ok((service_type::canonical(&service).into_owned(), limit))
            });
            let message = match checked {
                Ok((service, limit)) => match services.insert(service, limit) {
                    None => continue,
                    Some(_) => "another name of this service has a limit too: remove one".to_owned(),
                },
                Err(message) => message,
            };
            self.problems.add(self.file.path.display(), format!("limits.bodies.{service}"), message);
        }
        BodyLimits { default, services }
    }

    /// The highest layer's value. The others are checked all the same: a mistake that is hidden today
    /// would bite when the flag goes away.
    fn setting<T>(&mut self, key: &str, default: T, parse: impl Fn(&str) -> Result<T, String>) -> T {
        let mut value = default;
        let mut problems = Vec::new();
        for written in self.written(key) {
            match parse(written.text.trim()) {
                Ok(parsed) => value = parsed,
                Err(message) => problems.push((written.source, written.key, message)),
            }
        }
        for (source, key, message) in problems {
            self.problems.add(source, key, message);
        }
        value
    }

    /// Where people's logins lie. They outlive a process whose own tokens do not (`none`), as that of `keyway run`.
    fn login_state(&self) -> Option<PathBuf> {
        let written = self.written("facade.state");
        let named = written.iter().rev().map(|written| written.text.trim());
        let named = named.into_iter().find(|text| !["", "none"].contains(text));
        named.map(|path| self.env.path(path)).or_else(|| self.env.state_home())
    }

    /// What each layer has for a key, the lowest layer first.
    fn written(&self, key: &str) -> Vec<Written<'_>> {
        let file = self.file.settings.get(key).map(|text| Written {
            source: self.file.path.display().to_string(),
            key: key.to_owned(),
            text,
        });
        let name = variable(key);
        let variable = self.env.var(&name).map(|text| Written {
            source: ENVIRONMENT.to_owned(),
            key: name.clone(),
            text,
        });
        let flag = match key {
            "listen" => &self.overrides.listen,
            "admin" => &self.overrides.admin,
            "emulate_ports" => &self.overrides.emulate_ports,
            "tokens.cache" => &self.overrides.tokens_cache,
            "workers" => &self.overrides.workers,
            "log.format" => &self.overrides.log_format,
            "log.level" => &self.overrides.log_level,
            _ => &None,
        };
        let flag = flag.as_deref().map(|text| Written {
            source: COMMAND_LINE.to_owned(),
            key: format!("--{}", key.replace(['.', '_'], "-")),
            text,
        });
        [file, variable, flag].into_iter().flatten().collect()
    }

    /// Notes a problem of a setting with whoever set it last.
    fn problem(&mut self, key: &str, message: &str) {
        let (source, key) = match self.written(key).pop() {
            Some(written) => (written.source, written.key),
            None => ("default".to_owned(), key.to_owned()),
        };
        self.problems.add(source, key, message);
    }

    /// The clouds that somebody asked for by name, and who did.
    fn wanted(&self) -> Option<clouds::Wanted> {
        let (source, key, names, by_file) = if !self.overrides.clouds.is_empty() {
            (COMMAND_LINE.to_owned(), "--cloud", self.overrides.clouds.clone(), false)
        } else if let Some(names) = self.env.var("KEYWAY_CLOUDS") {
            let names = names.split(',').map(|name| name.trim().to_owned()).collect();
            (ENVIRONMENT.to_owned(), "KEYWAY_CLOUDS", names, false)
        } else if let Some(names) = &self.file.clouds {
            (self.file.path.display().to_string(), "clouds", names.clone(), true)
        } else if let Some(name) = self.env.var("OS_CLOUD") {
            (ENVIRONMENT.to_owned(), "OS_CLOUD", vec![name.to_owned()], false)
        } else {
            return None;
        };
        Some(clouds::Wanted { source, key, names, by_file })
    }
}

fn variable(key: &str) -> String {
    format!("KEYWAY_{}", key.replace('.', "_").to_ascii_uppercase())
}

/// A variable that is nearly one of ours is a typing error. Others may be anybody's: Kubernetes sets
/// `KEYWAY_SERVICE_HOST` and more for a service of that name.
fn warn_of_unknown_variables(env: &Env, warnings: &mut Vec<String>) {
    let mut known: Vec<_> = SETTINGS.iter().map(|key| variable(key)).collect();
    known.extend(["KEYWAY_CONFIG".to_owned(), "KEYWAY_CLOUDS".to_owned()]);
    for (name, _) in env.vars() {
        if name.starts_with("KEYWAY_")
            && !known.iter().any(|known| known == name)
            && let Some(near) = closest(name, known.iter().map(String::as_str))
        {
            warnings.push(format!("the variable {name} means nothing: did you mean {near}?"));
        }
    }
}

/// An entry of `allow_http`: a service type, or an origin in its normal form.
fn plain_http(text: &str) -> Result<String, String> {
    if text.contains("://") {
        let url = BaseUrl::parse(text).map_err(|error| match text.contains('@') {
            // There may be a password before it.
            true => error.to_string(),
            false => format!("`{text}`: {error}"),
        })?;
        if url.origin().scheme() != Scheme::Http {
            return Err(format!("`{text}` is not plain http, so it needs no permission: remove it"));
        }
        if !url.path().is_empty() {
            return Err(format!("`{text}` has a path: write {}", url.origin()));
        }
        return Ok(url.origin().to_string());
    }
    let is_type =
        !text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_'));
    if is_type {
        Ok(text.to_ascii_lowercase().replace('_', "-"))
    } else {
        Err(format!(
            "`{text}` is neither a service type, such as image, nor an origin, such as http://host:9292"
        ))
    }
}

fn at_most(count: usize, most: usize) -> Result<usize, String> {
    if count <= most { Ok(count) } else { Err(format!("must be at most {most}")) }
}

fn within(size: usize, least: usize, most: usize) -> Result<usize, String> {
    if (least..=most).contains(&size) {
        Ok(size)
    } else {
        Err(format!("must be at least {least} and at most {most} bytes"))
    }
}

/// A number from `least` to 1000.
fn small(text: &str, least: u32) -> Result<u32, String> {
    match text.parse() {
        Ok(number) if (least..=1000).contains(&number) => Ok(number),
        _ => Err(format!("`{text}` is no whole number from {least} to 1000")),
    }
}

/// A duration from `least` to `most`, as people write them.
fn within_times(text: &str, least: &str, most: &str) -> Result<Duration, String> {
    let duration = value::duration(text)?;
    let bounds = value::duration(least)?..=value::duration(most)?;
    if bounds.contains(&duration) {
        Ok(duration)
    } else {
        Err(format!("`{text}` is not between {least} and {most}"))
    }
}

fn nonzero(text: &str) -> Result<Duration, String> {
    let duration = value::duration(text)?;
    if duration.is_zero() { Err("must not be zero".to_owned()) } else { Ok(duration) }
}

fn log_format(text: &str) -> Result<LogFormat, String> {
    match text {
        "auto" => Ok(LogFormat::Auto),
        "text" => Ok(LogFormat::Text),
        "json" => Ok(LogFormat::Json),
        _ => Err(format!("`{text}` is no log format: auto, text or json")),
    }
}

/// A level or a filter. A bare word that is no level would be a target's name to the filter, and
/// silence all others.
fn log_level(text: &str) -> Result<String, String> {
    let is_level = |text: &str| text.parse::<tracing_subscriber::filter::LevelFilter>().is_ok();
    let bad = |text: &str| {
        format!(
            "`{text}` is no log level: off, error, warn, info, debug or trace, or a filter such as info,keyway=debug"
        )
    };
    if text.is_empty() {
        return Err(bad(text));
    }
    for part in text.split(',') {
        if !part.contains(['=', '[']) && !is_level(part.trim()) {
            return Err(bad(part));
        }
    }
    match text.parse::<tracing_subscriber::EnvFilter>() {
        Ok(_) => Ok(text.to_owned()),
        Err(_) => Err(bad(text)),
    }
}

#[cfg(test)]
mod tests;
