//! Which clouds are there, and what was written about each?
//!
//! clouds.yaml and secure.yaml are found and merged as openstacksdk does it, and `OS_*` variables
//! become an entry of the same form. What an entry means is [`super::cloud`]'s question.
//!
//! In one point keyway is stricter than openstacksdk: a file that would have been used but can't be
//! read is a problem, not a reason to look for another one.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};
use zeroize::Zeroizing;

use super::cloud::{Entry, Place};
use super::file::is_absent;
use super::problems::{ENVIRONMENT, Problems};
use super::{Env, cloud, exposure, yaml};
use crate::keystone;
use crate::secret;

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
#[derive(Default)]
pub(super) struct Served {
    /// All of them, also those that are wrong.
    pub(super) names: Vec<String>,
    /// Those that are right.
    pub(super) clouds: Vec<keystone::Config>,
    /// See [`Wanted::by_file`].
    pub(super) by_file: bool,
}

/// The clouds that the environment and the files define. The files are read when they are needed.
pub(super) struct Clouds<'a> {
    env: &'a Env,
    problems: &'a mut Problems,
    warnings: &'a mut Vec<String>,
    files: Option<Files>,
}

/// clouds.yaml and secure.yaml.
#[derive(Default)]
struct Files {
    clouds: Option<PathBuf>,
    secure: Option<(PathBuf, Value)>,
    /// `clouds:` of both, merged.
    entries: Map<String, Value>,
    /// A file is there but of no use, so that an unknown cloud is no surprise.
    broken: bool,
}

impl<'a> Clouds<'a> {
    pub(super) fn new(env: &'a Env, problems: &'a mut Problems, warnings: &'a mut Vec<String>) -> Self {
        Self { env, problems, warnings, files: None }
    }

    /// Chooses the clouds to serve, and checks each: those asked for, else the one of `OS_*`, else
    /// the only one there is.
    pub(super) fn served(&mut self, wanted: Option<Wanted>) -> Served {
        let mut served = Served::default();
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
                        served.clouds.extend(entry.and_then(|entry| self.check(entry)));
                    }
                }
            }
            None => {
                let entry = self.environment().or_else(|| self.only());
                served.names.extend(entry.iter().map(|entry| entry.name.clone()));
                served.clouds.extend(entry.and_then(|entry| self.check(entry)));
            }
        }
        served
    }

    /// Whether anything defines a cloud of this name.
    pub(super) fn knows(&mut self, name: &str) -> bool {
        self.environment().is_some_and(|entry| entry.name == name) || self.files().entries.contains_key(name)
    }

    fn check(&mut self, entry: Entry) -> Option<keystone::Config> {
        cloud::check(&entry, self.env, self.problems, self.warnings)
    }

    fn named(&mut self, name: &str, wanted: &Wanted) -> Option<Entry> {
        if name == self.environment_name()
            && let Some(entry) = self.environment()
        {
            if self.env.var("OS_CLOUD_NAME").is_some() && self.files().entries.contains_key(name) {
                let message = format!("clouds.yaml has a cloud `{name}` too: choose another name");
                self.problems.add(ENVIRONMENT, "OS_CLOUD_NAME", message);
            }
            return Some(entry);
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

    /// The only cloud in clouds.yaml. None or several are a problem.
    fn only(&mut self) -> Option<Entry> {
        let mut names = self.files().entries.keys();
        let (first, several) = (names.next().cloned(), names.next().is_some());
        match (first, several) {
            (Some(name), false) => return self.entry_of_files(&name, self.env.var("OS_REGION_NAME")),
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
        None
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
        })
    }

    fn entry_of_files(&mut self, name: &str, region: Option<&str>) -> Option<Entry> {
        let files = self.files();
        let place = files.place();
        let entry = match files.entries.get(name) {
            Some(Value::Object(entry)) => normalized(entry),
            Some(Value::Null) => Map::new(),
            _ => {
                let message = "not a mapping: write `auth:` and its values below it";
                self.problems.add(place.path.display(), format!("clouds.{name}"), message);
                return None;
            }
        };
        let entry = Entry { name: name.to_owned(), values: entry, place: Place::File(place) };
        effective(entry, region, self.problems, self.warnings)
    }

    fn files(&mut self) -> &Files {
        if self.files.is_none() {
            self.files = Some(read_files(self.env, self.problems, self.warnings));
        }
        self.files.as_ref().expect("it was just read")
    }
}

/// Passwords are in most of them.
impl Drop for Files {
    fn drop(&mut self) {
        secret::wipe_members(&mut self.entries);
        if let Some((_, document)) = &mut self.secure {
            secret::wipe(document);
        }
    }
}

impl Files {
    fn place(&self) -> cloud::FilePlace {
        let secure = self.secure.clone();
        let path = match (&self.clouds, &secure) {
            (Some(path), _) | (None, Some((path, _))) => path.clone(),
            (None, None) => PathBuf::from("clouds.yaml"),
        };
        cloud::FilePlace { path, secure }
    }
}

/// An entry with everything in place that applies to it: what is more specific wins. Only `auth` is
/// merged, and only one level deep; any other key is replaced.
///
/// Layers today: the entry, then its region's `values`. A vendor profile would be one below them.
fn effective(
    mut entry: Entry,
    region: Option<&str>,
    problems: &mut Problems,
    warnings: &mut Vec<String>,
) -> Option<Entry> {
    for key in ["profile", "cloud"] {
        if entry.values.get(key).is_some_and(|value| !value.is_null()) {
            let (source, key) = entry.name_of(key, false);
            let message = "vendor profiles are not supported yet: write the profile's auth_url and other values \
                           into the cloud itself";
            problems.add(source, key, message);
            return None;
        }
    }
    let listed = regions(&entry, problems);
    let written = entry.values.remove("region_name");
    let names: Vec<_> = listed.iter().map(|(name, _)| name.clone()).collect();
    let chosen = match region {
        None => listed.into_iter().next(),
        Some(region) if names.is_empty() => Some((region.to_owned(), Map::new())),
        Some(region) => {
            let found = listed.into_iter().find(|(name, _)| name == region);
            if found.is_none() {
                let message = format!("the cloud has no region `{region}`: it has {}", names.join(", "));
                problems.add(ENVIRONMENT, "OS_REGION_NAME", message);
            }
            found
        }
    };
    if let Some((name, values)) = chosen {
        if region.is_none()
            && let Some(Value::String(written)) = written
            && names.len() > 1
            && entry.values.contains_key("regions")
            && written != name
        {
            // openstacksdk ignores it without a word, and the same file should mean the same region.
            let (source, key) = entry.name_of("region_name", false);
            warnings.push(format!(
                "{source}: {key}: ignored, since `regions` is there too: its first one, {name}, is used"
            ));
        }
        layer(&mut entry.values, values);
        entry.values.insert("region_name".to_owned(), Value::String(name));
    }
    Some(entry)
}

/// The regions of an entry with the values that each brings: `regions`, or else `region_name`, which
/// in old files is a list or a comma-separated text.
fn regions(entry: &Entry, problems: &mut Problems) -> Vec<(String, Map<String, Value>)> {
    let mut problem = |key, message| {
        let (source, key) = entry.name_of(key, false);
        problems.add(source, key, message);
    };
    let mut regions = Vec::new();
    match (entry.values.get("regions"), entry.values.get("region_name")) {
        (None | Some(Value::Null), Some(Value::String(names))) => {
            let names = names.split(',').map(str::trim).filter(|name| !name.is_empty());
            regions.extend(names.map(|name| (name.to_owned(), Map::new())));
        }
        (None | Some(Value::Null), None | Some(Value::Null)) => {}
        (Some(Value::Array(items)), _) | (None | Some(Value::Null), Some(Value::Array(items))) => {
            for item in items {
                let (name, values) = match item {
                    Value::Object(region) => (region.get("name"), region.get("values")),
                    item => (Some(item), None),
                };
                let values = match values {
                    Some(Value::Object(values)) => normalized(values),
                    None | Some(Value::Null) => Map::new(),
                    Some(_) => {
                        problem("regions", "a region's `values` must be a mapping");
                        Map::new()
                    }
                };
                match name {
                    Some(Value::String(name)) => regions.push((name.clone(), values)),
                    _ => problem("regions", "each region is a name, or has `name:` and perhaps `values:`"),
                }
            }
        }
        (Some(_), _) if entry.values.get("regions").is_some_and(|regions| !regions.is_null()) => {
            problem("regions", "not a list: write `regions: [NAME, ..]`");
        }
        _ => problem("region_name", "not a name"),
    }
    regions
}

fn layer(below: &mut Map<String, Value>, above: Map<String, Value>) {
    for (key, value) in above {
        match (below.get_mut(&key), value) {
            (Some(Value::Object(below)), Value::Object(above)) if key == "auth" => below.extend(above),
            (_, value) => drop(below.insert(key, value)),
        }
    }
}

/// The same with `_` for `-` in its keys, and in those of `auth`.
fn normalized(values: &Map<String, Value>) -> Map<String, Value> {
    let fold = |key: &str| key.replace('-', "_");
    let mut folded = Map::new();
    for (key, value) in values {
        let key = fold(key);
        let value = match value {
            Value::Object(auth) if key == "auth" => {
                Value::Object(auth.iter().map(|(key, value)| (fold(key), value.clone())).collect())
            }
            value => value.clone(),
        };
        folded.insert(key, value);
    }
    folded
}

/// secure.yaml over clouds.yaml: mappings are merged at any depth, all else is replaced.
fn merge(below: &mut Map<String, Value>, above: &Map<String, Value>) {
    for (key, value) in above {
        match (below.get_mut(key), value) {
            (Some(Value::Object(below)), Value::Object(above)) => merge(below, above),
            _ => drop(below.insert(key.clone(), value.clone())),
        }
    }
}

fn read_files(env: &Env, problems: &mut Problems, warnings: &mut Vec<String>) -> Files {
    let mut files = Files::default();
    let mut document = Map::new();
    let mut secure = None;
    for (base, name) in [("clouds", "OS_CLIENT_CONFIG_FILE"), ("secure", "OS_CLIENT_SECURE_FILE")] {
        match find(env, base, name, problems) {
            Found::Nothing => {}
            Found::Broken => files.broken = true,
            Found::File(path, value) => {
                if holds_secret(&value) {
                    exposure::warn(&path, env, warnings);
                }
                let Value::Object(mut map) = value else {
                    if !value.is_null() {
                        problems.add(path.display(), "", "not a mapping: it starts with `clouds:`");
                        files.broken = true;
                    }
                    continue;
                };
                merge(&mut document, &map);
                if base == "clouds" {
                    secret::wipe_members(&mut map);
                    files.clouds = Some(path);
                } else {
                    secure = Some((path, Value::Object(map)));
                }
            }
        }
    }
    files.secure = secure;
    match document.remove("clouds") {
        Some(Value::Object(entries)) => files.entries = entries,
        None | Some(Value::Null) => {}
        Some(_) => {
            let message = "not a mapping: write the clouds' names below it";
            problems.add(files.place().path.display(), "clouds", message);
            files.broken = true;
        }
    }
    files
}

enum Found {
    Nothing,
    Broken,
    File(PathBuf, Value),
}

/// The first file that exists: the one that the variable names, else `BASE.yaml`, `.yml` or `.json`
/// on the search path.
fn find(env: &Env, base: &str, variable: &str, problems: &mut Problems) -> Found {
    let named = env.var(variable).map(|path| env.path(path));
    let searched = search_path(env)
        .into_iter()
        .flat_map(|dir| ["yaml", "yml", "json"].map(|suffix| dir.join(format!("{base}.{suffix}"))));
    for path in named.iter().cloned().chain(searched) {
        let text = match fs::read_to_string(&path) {
            Ok(text) => Zeroizing::new(text),
            Err(error) if is_absent(&path, &error) && named.as_ref() != Some(&path) => continue,
            Err(error) if is_absent(&path, &error) => {
                let message = format!("there is no file {}: correct or unset it", path.display());
                problems.add(ENVIRONMENT, variable, message);
                return Found::Broken;
            }
            Err(error) => {
                let message = format!("cannot be read ({error}): make it a file that keyway may read");
                problems.add(path.display(), "", message);
                return Found::Broken;
            }
        };
        return match yaml::parse(&text) {
            Ok(value) => Found::File(path, value),
            Err(error) => {
                problems.add(path.display(), "", format!("not YAML: {error}"));
                Found::Broken
            }
        };
    }
    Found::Nothing
}

/// openstacksdk's order; a directory that is named twice counts once.
fn search_path(env: &Env) -> Vec<PathBuf> {
    let mut dirs = vec![env.current_dir().to_owned()];
    dirs.extend(env.config_home().map(|dir| dir.join("openstack")));
    dirs.extend(env.home().map(|home| home.join(".config/openstack")));
    match env.var("XDG_CONFIG_DIRS") {
        Some(list) => {
            let listed = list.split(':').filter(|dir| !dir.is_empty());
            dirs.extend(listed.map(|dir| Path::new(dir).join("openstack")));
        }
        None => dirs.push(env.etc("xdg/openstack")),
    }
    dirs.push(env.etc("openstack"));
    let mut seen = Vec::new();
    for dir in dirs {
        if !seen.contains(&dir) {
            seen.push(dir);
        }
    }
    seen
}

fn holds_secret(value: &Value) -> bool {
    match value {
        Value::Object(map) => map.iter().any(|(key, value)| {
            let key = key.replace('-', "_");
            let secret = ["password", "secret", "token", "passcode"].iter().any(|word| key.ends_with(word));
            secret && value.as_str().is_some_and(|text| !text.is_empty()) || holds_secret(value)
        }),
        Value::Array(items) => items.iter().any(holds_secret),
        _ => false,
    }
}
