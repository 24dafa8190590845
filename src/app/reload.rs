//! A configuration that was read again, put in the place of the one in force.

use std::fmt::Display;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};

use super::{App, Parts, StartError, doors, listener_settings, load_tls, start_audit};
use crate::config::{self, Config, Problems};
use crate::facade::Logins;
use crate::keystone::{self, Auth};
use crate::secret;

impl App {
    /// Serves with a configuration that was just read, and says in the log what came of it. Where
    /// something is wrong with it, nothing changes. What only a restart can change stays as it is, and
    /// is named. `true` if the configuration is in force now.
    pub fn reload(&self, read: Result<Config, Problems>) -> bool {
        // The signal for a reload is what log rotation sends, too.
        self.reopen_audit();
        if self.draining.load(Ordering::Relaxed) {
            tracing::info!("keyway is stopping: the configuration is not read again");
            return false;
        }
        let mut config = match read {
            Ok(config) => config,
            Err(problems) => return self.stay(problems.iter()),
        };
        let mut current = self.config.lock().unwrap_or_else(PoisonError::into_inner);
        let restart = keep_what_is_fixed(&current, &mut config);
        if let Err(error) = self.replace(&current, &config) {
            return self.stay([secret::causes(&error)]);
        }
        for warning in &config.warnings {
            tracing::warn!("{warning}");
        }
        for what in restart {
            tracing::warn!("{what}: restart keyway to change it; everything else is in force now");
        }
        tracing::info!("the configuration was read again and is in force");
        *current = config;
        true
    }

    /// Goes on with the configuration that there is.
    fn stay(&self, problems: impl IntoIterator<Item = impl Display>) -> bool {
        for problem in problems {
            tracing::error!("{problem}");
        }
        tracing::error!("the configuration was not reloaded: the old one stays in force");
        self.shared.borrow().metrics.reload_failed();
        false
    }

    /// Makes everything anew that can fail, and only then puts it in the place of what there is.
    fn replace(&self, old_config: &Config, config: &Config) -> Result<(), StartError> {
        let tls = load_tls(config)?;
        let mut settings = Vec::new();
        for (running, listener) in
            self.listeners.iter().zip(&config.listeners).chain([(&self.admin, &config.admin)])
        {
            settings.push((running, listener_settings(config, listener)?));
        }

        let old = self.shared();
        let same = old.audit.as_ref().filter(|audit| Some(audit.config()) == config.audit.as_ref());
        let audit = match same {
            Some(audit) => Some(Arc::clone(audit)),
            None => start_audit(config, &old.metrics)?,
        };
        let parts = Parts {
            config,
            tls: &tls,
            metrics: Arc::clone(&old.metrics),
            discovery: old.discovery.clone(),
            limits: old.limits.clone(),
            keys: old.keys.reload(&config.facade),
            keyring: old.identities.keyring.reload(config.api_keys.clone()),
            draining: Arc::clone(&self.draining),
            audit,
        };
        let addresses = self.listeners.iter().chain([&self.admin]).map(|running| &running.address);
        let shared = parts.shared(doors(config, addresses), Some(&old.identities), &self.runtime);
        shared.tokens.adopt(&old.tokens, &same_logins(old_config, config));
        shared.tokens.warm();
        if !Arc::ptr_eq(&parts.keys, &old.keys) {
            self.runtime.spawn(parts.keys.watch());
        }
        if !Arc::ptr_eq(&parts.keyring, &old.identities.keyring) {
            self.runtime.spawn(parts.keyring.watch());
        }
        for worker in &self.workers {
            let gateway = parts.gateway(&shared, &worker.metrics, self.workers.len());
            worker.gateway.send_replace(gateway);
        }
        for (running, settings) in settings {
            running.settings.send_replace(settings);
        }
        self.patience.send_replace(config.drain);
        for cloud in &old_config.clouds {
            if !config.clouds.iter().any(|new| new.name == cloud.name) {
                shared.metrics.forget_cloud(&cloud.name);
            }
        }
        shared.metrics.reloaded(shared.read_at.as_second());
        self.shared.send_replace(shared);
        Ok(())
    }
}

/// Puts into `config` what only a restart can change, as it is in `running`, and says what that is.
fn keep_what_is_fixed(running: &Config, config: &mut Config) -> Vec<String> {
    let mut fixed = Vec::new();
    let mut kept = Vec::new();
    for listener in &running.listeners {
        let Some(at) = config.listeners.iter().position(|new| new.name == listener.name) else {
            fixed.push(format!("the listener `{}` was removed, and goes on as it was", listener.name));
            kept.push(listener.clone());
            continue;
        };
        let mut new = config.listeners.remove(at);
        keep_socket(listener, &mut new, &mut fixed);
        kept.push(new);
    }
    for listener in &config.listeners {
        fixed.push(format!("the listener `{}` is new", listener.name));
    }
    config.listeners = kept;
    keep_socket(&running.admin, &mut config.admin, &mut fixed);
    if config.workers != running.workers {
        fixed.push(format!("`workers` changed to {}", config.workers));
        config.workers = running.workers;
    }
    if config.log != running.log {
        fixed.push("`log` changed".to_owned());
        config.log = running.log.clone();
    }
    fixed
}

/// A listener that is to be elsewhere stays where it is, and its TLS with it: what the new place would
/// ask of clients may be too little for the old one.
fn keep_socket(running: &config::Listener, new: &mut config::Listener, fixed: &mut Vec<String>) {
    let (old, server) = (&running.server, &mut new.server);
    let what = if old.address != server.address {
        format!("its address changed to {}", server.address)
    } else if old.tls.is_some() != server.tls.is_some() {
        format!("it is to be {} TLS", if server.tls.is_some() { "with" } else { "without" })
    } else if old.mode != server.mode {
        format!("its mode changed to {:04o}", server.mode)
    } else {
        return;
    };
    fixed.push(format!("the listener `{}` stays at {}, although {what}", running.name, old.address));
    // Nor may anybody log in at the old one because the new one is out of others' reach.
    if running.logins == Logins::Configured {
        new.logins = Logins::Configured;
    }
    *server = old.clone();
}

/// The clouds that log in as before: their places in `old`, and in `new`.
fn same_logins(old: &Config, new: &Config) -> Vec<(usize, usize)> {
    let place = |(to, cloud): (usize, &keystone::Config)| {
        let from = old
            .clouds
            .iter()
            .position(|old| old.name == cloud.name && old.auth == cloud.auth && old.tls == cloud.tls)?;
        matches!(cloud.auth, Auth::Identity(_)).then_some((from, to))
    };
    new.clouds.iter().enumerate().filter_map(place).collect()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::config::{Env, Listener, Overrides};
    use crate::server::{self, Address};

    fn config(change: impl FnOnce(&mut Config)) -> Config {
        let env = Env::new::<&str, &str>([], "/nonexistent").with_root("/nonexistent");
        let mut config =
            Config::load_without_clouds(&Overrides::default(), &env).expect("defaults are right");
        config.workers = 2;
        change(&mut config);
        config
    }

    fn at(name: &str, address: &str) -> Listener {
        Listener::at(name, address.parse::<Address>().expect("an address"))
    }

    fn with_tls(mut listener: Listener) -> Listener {
        let file = std::path::PathBuf::from;
        listener.server.tls = Some(server::tls::Config {
            cert: file("c"),
            key: file("k"),
            clients: Some(server::tls::Clients::of(file("ca"))),
        });
        listener
    }

    /// What stays fixed, and what is served, when `running` meets `new`.
    fn fixed(running: &Config, mut new: Config) -> (Vec<String>, Config) {
        (keep_what_is_fixed(running, &mut new), new)
    }

    // Promise 71.
    #[test]
    fn what_only_a_restart_changes_is_named_and_stays() {
        let running = config(|config| {
            config.listeners.extend([
                at("gone", "127.0.0.1:1"),
                at("moved", "127.0.0.1:2"),
                at("same", "127.0.0.1:3"),
            ]);
        });
        let (told, served) = fixed(
            &running,
            config(|config| {
                config.workers = 3;
                config.log.level = "debug".to_owned();
                config.admin = at("admin", "127.0.0.1:9");
                config.drain = Duration::from_secs(1);
                let mut moved = at("moved", "unix:/run/k.sock");
                moved.entry.hosts = vec!["keyway.example".to_owned()];
                let mut same = at("same", "127.0.0.1:3");
                same.entry.hosts = vec!["same.example".to_owned()];
                config.listeners.extend([same, at("new", "127.0.0.1:4"), moved]);
            }),
        );
        assert_eq!(
            told,
            [
                "the listener `gone` was removed, and goes on as it was",
                "the listener `moved` stays at 127.0.0.1:2, although its address changed to unix:/run/k.sock",
                "the listener `new` is new",
                "the listener `admin` stays at 127.0.0.1:8181, although its address changed to 127.0.0.1:9",
                "`workers` changed to 3",
                "`log` changed",
            ]
        );
        // Everything is where it was, in the order of the sockets, and asks what it is to ask now.
        let places = |config: &Config| -> Vec<_> {
            config
                .listeners
                .iter()
                .chain([&config.admin])
                .map(|l| (l.name.clone(), l.server.clone()))
                .collect()
        };
        assert_eq!(places(&served), places(&running));
        assert_eq!(served.listeners[2].entry.hosts, ["keyway.example"]);
        assert_eq!(served.listeners[3].entry.hosts, ["same.example"]);
        assert_eq!((served.workers, &served.log), (running.workers, &running.log));
        assert_eq!(served.drain, Duration::from_secs(1));
        assert_eq!(fixed(&running, running.clone()).0, [""; 0]);
    }

    // Promises 1, 71.
    #[test]
    fn a_listener_that_others_reach_keeps_its_tls_until_a_restart() {
        let running = config(|config| config.listeners[0] = with_tls(at("main", "10.0.0.1:1")));
        let (told, served) = fixed(&running, config(|_| {}));
        assert_eq!(told.len(), 1, "{told:?}");
        assert_eq!(served.listeners[0].server, running.listeners[0].server);
        // Other files at the same place are what a reload is for.
        let mut new = running.clone();
        let tls = new.listeners[0].server.tls.as_mut().expect("it has TLS");
        tls.cert = "c2".into();
        let (told, served) = fixed(&running, new.clone());
        assert_eq!((told.len(), &served.listeners[0]), (0, &new.listeners[0]));
        // With or without TLS changes what clients must speak.
        let (told, _) = fixed(
            &config(|_| {}),
            config(|config| {
                config.listeners[0] = with_tls(at("main", "127.0.0.1:8180"));
            }),
        );
        assert_eq!(told, ["the listener `main` stays at 127.0.0.1:8180, although it is to be with TLS"]);
    }
}
