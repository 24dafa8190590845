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
use std::time::Duration;

use crate::facade::Logins;
use crate::keystone::{Auth, Identity, Place, Protection};
use crate::policy::Policy;
use crate::proxy::BodyLimits;
use crate::server::Address;
use crate::{entry, keystone, server};

mod audit;
mod cloud;
mod cloud_tables;
mod clouds;
mod env;
mod exposure;
mod facade;
mod file;
mod identity;
mod layers;
mod listener;
mod policy;
mod problems;
mod settings;
mod sources;
mod tokens;
mod value;
mod yaml;

pub use clouds::Written as WrittenCloud;
pub use env::Env;
use file::File;
pub use identity::time;
use layers::{Layers, warn_of_unknown_variables};
use listener::ADMIN_PORT;
use policy::Policies;
pub use problems::{Problem, Problems};
pub use settings::{Limits, Log, LogFormat, Timeouts};

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

/// What a configuration is read for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Purpose {
    Serve,
    /// A program that brings a cloud of its own, and keeps nothing.
    Demo,
    /// No cloud is asked.
    Identities,
}

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
            let misplaced = cloud_tables::misplaced(&file, &served, &mut clouds);
            cloud_tables::check_names(&file, &served, &misplaced, &config.identities, &mut problems);
            config.clouds = served.clouds;
            config.place_logins(logins.as_deref(), &mut problems);
        }
        config.read_cloud_tables(&file, &policies, &mut problems);
        policies.warn_of_unused(&file, &mut warnings);
        config.warnings = warnings;
        if problems.is_empty() { Ok(config) } else { Err(problems) }
    }
}

impl Layers<'_> {
    /// Where people's logins lie. They outlive a process whose own tokens do not (`none`), as that of `keyway run`.
    fn login_state(&self) -> Option<PathBuf> {
        let written = self.written("facade.state");
        let named = written.iter().rev().map(|written| written.text.trim());
        let named = named.into_iter().find(|text| !["", "none"].contains(text));
        named.map(|path| self.env.path(path)).or_else(|| self.env.state_home())
    }
}

#[cfg(test)]
mod tests;
