//! Settings that have one value each: limits, times, the log, what Keystone is spared.

use std::collections::BTreeMap;
use std::thread;
use std::time::Duration;

use super::layers::Layers;
use super::{Config, Listener, policy, value};
use crate::keystone::{Protection, service_type};
use crate::proxy::BodyLimits;

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

/// hyper's smallest read buffer, which a request's head must be able to fill.
const SMALLEST_HEAD: usize = 8 << 10;

impl Layers<'_> {
    pub(super) fn settings(&mut self, listeners: Vec<Listener>, admin: Listener) -> Config {
        let (limits, timeouts, log) = (Limits::default(), Timeouts::default(), Log::default());
        let cores = thread::available_parallelism().map_or(1, usize::from);
        Config {
            listeners,
            admin,
            workers: self.setting("workers", cores, |text| value::at_most(value::count(text)?, 1024)),
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
                    value::within(value::size(text)?, SMALLEST_HEAD, 1 << 20)
                }),
                target: self.setting("limits.target", limits.target, |text| {
                    value::within(value::size(text)?, 256, 1 << 20)
                }),
            },
            body_limits: self.body_limits(),
            timeouts: Timeouts {
                handshake: self.setting("timeouts.handshake", timeouts.handshake, value::nonzero),
                head: self.setting("timeouts.head", timeouts.head, value::nonzero),
                keepalive: self.setting("timeouts.keepalive", timeouts.keepalive, value::nonzero),
                stall: self.setting("timeouts.stall", timeouts.stall, value::nonzero),
                connect: self.setting("timeouts.connect", timeouts.connect, value::nonzero),
                response: self.setting("timeouts.response", timeouts.response, value::nonzero),
                keystone: self.setting("timeouts.keystone", timeouts.keystone, value::nonzero),
                idle: self.setting("timeouts.idle", timeouts.idle, value::nonzero),
                proof: self.setting("timeouts.proof", timeouts.proof, value::nonzero),
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
                layers.setting(most, default.0, |text| value::small(text, 1)),
                layers.setting(every, default.1, |text| value::within_times(text, "10ms", "1h")),
            )
        };
        let backoff = |layers: &mut Self, first: &str, longest: &str, default: (Duration, Duration)| {
            // A failure that is forgotten at once would make a login of each request.
            let wait = |text: &str| value::within_times(text, "100ms", "24h");
            (layers.setting(first, default.0, wait), layers.setting(longest, default.1, wait))
        };
        Protection {
            rejections: self.setting("keystone.rejections", default.rejections, |text| match text {
                "none" => Ok(None),
                text => value::small(text, 2).map(Some).map_err(|message| format!("{message}, or \"none\"")),
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
}

impl Config {
    /// Checks what concerns several settings.
    pub(super) fn check(&self, layers: &mut Layers<'_>) {
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
