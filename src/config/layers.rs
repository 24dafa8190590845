//! Which layer's value of a setting wins, and who wrote it?
//!
//! A key of keyway.toml is a variable and sometimes a flag as well. What a value may be is not known here.

use super::env::Env;
use super::file::File;
use super::problems::{COMMAND_LINE, ENVIRONMENT, Problems, closest};
use super::{Overrides, clouds};

/// Every key of keyway.toml that holds one value. Its variable is `KEYWAY_` and the key in capitals,
/// `_` for the dot.
pub(super) const SETTINGS: [&str; 56] = [
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

/// The three layers over the defaults.
pub(super) struct Layers<'a> {
    pub(super) overrides: &'a Overrides,
    pub(super) env: &'a Env,
    pub(super) file: &'a File,
    pub(super) problems: &'a mut Problems,
}

/// A value and who wrote it where.
pub(super) struct Written<'a> {
    pub(super) source: String,
    pub(super) key: String,
    pub(super) text: &'a str,
}

impl Layers<'_> {
    /// The highest layer's value. The others are checked all the same: a mistake that is hidden today
    /// would bite when the flag goes away.
    pub(super) fn setting<T>(
        &mut self,
        key: &str,
        default: T,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> T {
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

    /// What each layer has for a key, the lowest layer first.
    pub(super) fn written(&self, key: &str) -> Vec<Written<'_>> {
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
    pub(super) fn problem(&mut self, key: &str, message: &str) {
        let (source, key) = match self.written(key).pop() {
            Some(written) => (written.source, written.key),
            None => ("default".to_owned(), key.to_owned()),
        };
        self.problems.add(source, key, message);
    }

    /// The clouds that somebody asked for by name, and who did.
    pub(super) fn wanted(&self) -> Option<clouds::Wanted> {
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

/// The name of a key's variable.
pub(super) fn variable(key: &str) -> String {
    format!("KEYWAY_{}", key.replace('.', "_").to_ascii_uppercase())
}

/// A variable that is nearly one of ours is a typing error. Others may be anybody's: Kubernetes sets
/// `KEYWAY_SERVICE_HOST` and more for a service of that name.
pub(super) fn warn_of_unknown_variables(env: &Env, warnings: &mut Vec<String>) {
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
