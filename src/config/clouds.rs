//! Which clouds are there, and what was written about each?
//!
//! clouds.yaml and secure.yaml are found and merged as openstacksdk does it ([`files`]), `OS_*`
//! variables become an entry of the same form, and all that applies to an entry is put in place
//! ([`layers`], [`profile`]). What an entry then means is [`super::cloud`]'s question.

mod files;
mod layers;
mod profile;
mod template;

use std::collections::BTreeMap;
use std::fmt;

use serde_json::{Map, Value};

use self::files::{Files, may_be_secret, search_path};
use self::layers::Asked;
use self::profile::Profiles;
use super::cloud::{Entry, Place};
use super::problems::{ENVIRONMENT, Problems};
use super::{Env, cloud};
use crate::{keystone, secret};

/// `OS_*` variables that choose or describe, but make no cloud.
const SELECTORS: [&str; 5] =
    ["OS_CLOUD", "OS_REGION_NAME", "OS_CLIENT_CONFIG_FILE", "OS_CLIENT_SECURE_FILE", "OS_CLOUD_NAME"];

/// Clouds that somebody asked for by name.
pub(super) struct Wanted {
    pub(super) source: String,
    pub(super) key: &'static str,
    pub(super) names: Vec<String>,
    /// Whether keyway.toml asked, rather than this one run.
    pub(super) by_file: bool,
}

/// The clouds to serve.
pub(super) struct Served<T> {
    /// All of them, also those that are wrong.
    pub(super) names: Vec<String>,
    /// Those that are right.
    pub(super) clouds: Vec<T>,
    /// See [`Wanted::by_file`].
    pub(super) by_file: bool,
}

/// One cloud as it is written, with everything in place that applies to it: vendor profile, secure.yaml,
/// the values of its region, login options under `auth` with the names that they have today, templates
/// filled in. Nothing in it is checked. Secrets are in it, but neither `Display` nor `Debug` shows any.
pub struct Written {
    name: String,
    options: Map<String, Value>,
}

impl Written {
    /// What the cloud is called.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its options. Each is a text, a list, a mapping or null.
    pub fn options(&self) -> &Map<String, Value> {
        &self.options
    }
}

impl Drop for Written {
    fn drop(&mut self) {
        secret::wipe_members(&mut self.options);
    }
}

/// As an entry of clouds.yaml, in JSON's form: `"lab": {"auth": {"auth_url": ..}, ..}`.
impl fmt::Display for Written {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = Value::Object(without_secrets(&self.options));
        write!(f, "{}: {shown:#}", Value::String(self.name.clone()))
    }
}

impl fmt::Debug for Written {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

fn without_secrets(options: &Map<String, Value>) -> Map<String, Value> {
    let shown = |(key, value): (&String, &Value)| {
        let value = match value {
            Value::Object(members) => Value::Object(without_secrets(members)),
            Value::Null => Value::Null,
            _ if may_be_secret(key) => Value::String("(not shown)".to_owned()),
            // A URL may have a password in it.
            Value::String(text) if text.contains('@') => Value::String("(not shown)".to_owned()),
            value => value.clone(),
        };
        (key.clone(), value)
    };
    options.iter().map(shown).collect()
}

/// The clouds that the environment and the files define. The files are read when they are needed.
pub(super) struct Clouds<'a> {
    env: &'a Env,
    problems: &'a mut Problems,
    warnings: &'a mut Vec<String>,
    files: Option<Files>,
    profiles: Profiles,
}

impl<'a> Clouds<'a> {
    pub(super) fn new(env: &'a Env, problems: &'a mut Problems, warnings: &'a mut Vec<String>) -> Self {
        Self { env, problems, warnings, files: None, profiles: Profiles::default() }
    }

    /// Chooses the clouds to serve, and checks each: those asked for, else the one of `OS_*`, else
    /// the only one there is.
    pub(super) fn served(&mut self, wanted: Option<Wanted>) -> Served<keystone::Config> {
        self.each(wanted, |clouds, entry| cloud::check(&entry, clouds.env, clouds.problems, clouds.warnings))
    }

    /// The same clouds as they are written.
    pub(super) fn written(&mut self, wanted: Option<Wanted>) -> Vec<Written> {
        let written = |_: &mut Self, mut entry: Entry| {
            let (name, options) = (entry.name.clone(), std::mem::take(&mut entry.values));
            Some(Written { name, options })
        };
        self.each(wanted, written).clouds
    }

    fn each<T>(&mut self, wanted: Option<Wanted>, read: impl Fn(&mut Self, Entry) -> Option<T>) -> Served<T> {
        let mut served = Served { names: Vec::new(), clouds: Vec::new(), by_file: false };
        match wanted {
            Some(wanted) => {
                served.by_file = wanted.by_file;
                if wanted.names.is_empty() {
                    let message = "names no cloud: name one, or remove it";
                    self.problems.add(&wanted.source, wanted.key, message);
                }
                for name in &wanted.names {
                    if name.is_empty() {
                        let message = "an empty name: name a cloud, or remove it";
                        self.problems.add(&wanted.source, wanted.key, message);
                    } else if served.names.contains(name) {
                        let message = format!("names the cloud `{name}` twice: name it once");
                        self.problems.add(&wanted.source, wanted.key, message);
                    } else {
                        served.names.push(name.clone());
                        let entry = self.named(name, &wanted);
                        served.clouds.extend(entry.and_then(|entry| read(self, entry)));
                    }
                }
            }
            None => {
                let (name, entry) = match self.environment() {
                    Some(entry) => (Some(self.environment_name()), self.effective(entry, None)),
                    None => self.only(),
                };
                served.names.extend(name);
                served.clouds.extend(entry.and_then(|entry| read(self, entry)));
            }
        }
        served
    }

    /// Whether anything defines a cloud of this name.
    pub(super) fn knows(&mut self, name: &str) -> bool {
        self.environment().is_some_and(|entry| entry.name == name) || self.files().entries.contains_key(name)
    }

    fn named(&mut self, name: &str, wanted: &Wanted) -> Option<Entry> {
        if name == self.environment_name()
            && let Some(entry) = self.environment()
        {
            if self.env.var("OS_CLOUD_NAME").is_some() && self.files().entries.contains_key(name) {
                let message = format!("clouds.yaml has a cloud `{name}` too: choose another name");
                self.problems.add(ENVIRONMENT, "OS_CLOUD_NAME", message);
            }
            return self.effective(entry, None);
        }
        if self.files().entries.contains_key(name) {
            // `OS_CLOUD` and `OS_REGION_NAME` are set together; another way of asking for a cloud
            // has nothing to do with the variable.
            let region = self.env.var("OS_REGION_NAME").filter(|_| wanted.key == "OS_CLOUD");
            return self.entry_of_files(name, region);
        }
        if !self.files().broken {
            let known = self.known();
            let message = if name == self.environment_name() {
                format!("there is no cloud `{name}`, since no OS_* variable describes one: set OS_AUTH_URL")
            } else if known.is_empty() {
                format!("there is no cloud `{name}`, and no other: {}", self.ways())
            } else {
                format!("there is no cloud `{name}`: there is {}", known.join(", "))
            };
            self.problems.add(&wanted.source, wanted.key, message);
        }
        None
    }

    /// The only cloud in clouds.yaml, and its name. None or several are a problem.
    fn only(&mut self) -> (Option<String>, Option<Entry>) {
        let mut names = self.files().entries.keys();
        let (first, several) = (names.next().cloned(), names.next().is_some());
        match (first, several) {
            (Some(name), false) => {
                let entry = self.entry_of_files(&name, self.env.var("OS_REGION_NAME"));
                return (Some(name), entry);
            }
            (None, _) if self.files().broken => {}
            (None, _) => {
                let message = format!("no cloud is configured: {}", self.ways());
                self.problems.add(ENVIRONMENT, "", message);
            }
            (Some(_), true) => {
                let source = self.files().place().path.display().to_string();
                let message = format!(
                    "several clouds and none is chosen: choose with --cloud NAME, OS_CLOUD or `clouds` in \
                     keyway.toml; there is {}",
                    self.known().join(", ")
                );
                self.problems.add(source, "clouds", message);
            }
        }
        (None, None)
    }

    fn ways(&self) -> String {
        let searched: Vec<_> = search_path(self.env).iter().map(|dir| dir.display().to_string()).collect();
        format!(
            "set OS_* variables (OS_AUTH_URL, OS_USERNAME, OS_PASSWORD, ..), or write a clouds.yaml (in {}) and \
             choose with --cloud NAME, or try `keyway demo`",
            searched.join(", ")
        )
    }

    fn known(&mut self) -> Vec<String> {
        let mut known: Vec<_> = self.environment().into_iter().map(|entry| entry.name.clone()).collect();
        known.extend(self.files().entries.keys().cloned());
        known
    }

    fn environment_name(&self) -> String {
        self.env.var("OS_CLOUD_NAME").unwrap_or("envvars").to_owned()
    }

    /// The cloud of `OS_*`. openstacksdk takes any variable for a sign that there is one; but some
    /// systems set `OS_NAME` or `OS_VERSION` with no thought of OpenStack, and `OS_INTERFACE` alone
    /// is no cloud either, so here it takes one that says where or who.
    fn environment(&self) -> Option<Entry> {
        let mut values = Map::new();
        for (name, value) in self.env.vars() {
            let Some(key) = name.strip_prefix("OS_") else { continue };
            let ignored = SELECTORS.contains(&name) && name != "OS_REGION_NAME"
                || ["TEST", "STD", "LOG"].iter().any(|prefix| key.starts_with(prefix));
            if !ignored {
                values.insert(key.to_ascii_lowercase(), Value::String(value.to_owned()));
            }
        }
        values.keys().any(|key| cloud::is_login(key)).then(|| Entry {
            name: self.environment_name(),
            values,
            place: Place::Environment,
            places: BTreeMap::new(),
        })
    }

    fn entry_of_files(&mut self, name: &str, region: Option<&str>) -> Option<Entry> {
        let files = self.files();
        let place = files.place();
        let values = match files.entries.get(name) {
            Some(Value::Object(entry)) => entry.clone(),
            Some(Value::Null) => Map::new(),
            _ => {
                let message = "not a mapping: write `auth:` and its values below it";
                self.problems.add(place.path.display(), format!("clouds.{name}"), message);
                return None;
            }
        };
        let (name, place) = (name.to_owned(), Place::File(place));
        self.effective(Entry { name, values, place, places: BTreeMap::new() }, region)
    }

    fn effective(&mut self, entry: Entry, region: Option<&str>) -> Option<Entry> {
        let asked = region.map(|region| Asked { region, variable: "OS_REGION_NAME" });
        layers::effective(entry, asked.as_ref(), &mut self.profiles, self.env, self.problems, self.warnings)
    }

    fn files(&mut self) -> &Files {
        if self.files.is_none() {
            self.files = Some(Files::read(self.env, self.problems, self.warnings));
        }
        self.files.as_ref().expect("it was just read")
    }
}
