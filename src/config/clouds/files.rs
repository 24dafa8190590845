//! Where are clouds.yaml, secure.yaml and clouds-public.yaml, and what do they say together?
//!
//! In one point keyway is stricter than openstacksdk: a file that would have been used but can't be
//! read is a problem, not a reason to look for another one.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};
use zeroize::Zeroizing;

use super::super::cloud::FilePlace;
use super::super::file::is_absent;
use super::super::problems::{ENVIRONMENT, Problems};
use super::super::{Env, exposure, yaml};
use crate::secret;

/// clouds.yaml and secure.yaml.
#[derive(Default)]
pub(super) struct Files {
    clouds: Option<PathBuf>,
    secure: Option<(PathBuf, Value)>,
    /// `clouds:` of both, merged.
    pub(super) entries: Map<String, Value>,
    /// A file is there but of no use, so that an unknown cloud is no surprise.
    pub(super) broken: bool,
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
    pub(super) fn read(env: &Env, problems: &mut Problems, warnings: &mut Vec<String>) -> Self {
        let mut files = Self::default();
        let mut document = Map::new();
        for (base, variable) in [("clouds", "OS_CLIENT_CONFIG_FILE"), ("secure", "OS_CLIENT_SECURE_FILE")] {
            match find(env, base, Some(variable), problems, warnings) {
                Found::Nothing => {}
                Found::Broken => files.broken = true,
                Found::File(path, mut map) => {
                    merge(&mut document, &map);
                    if base == "clouds" {
                        secret::wipe_members(&mut map);
                        files.clouds = Some(path);
                    } else {
                        files.secure = Some((path, Value::Object(map)));
                    }
                }
            }
        }
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

    pub(super) fn place(&self) -> FilePlace {
        let secure = self.secure.clone();
        let path = match (&self.clouds, &secure) {
            (Some(path), _) | (None, Some((path, _))) => path.clone(),
            (None, None) => PathBuf::from("clouds.yaml"),
        };
        FilePlace { path, secure }
    }
}

/// What the search for a file came to.
pub(super) enum Found {
    Nothing,
    /// It is of no use, and a problem says why.
    Broken,
    File(PathBuf, Map<String, Value>),
}

/// The first file that exists: the one that the variable names, else `BASE.yaml`, `.yml` or `.json`
/// on the search path. An empty one is an empty mapping.
pub(super) fn find(
    env: &Env,
    base: &str,
    variable: Option<&str>,
    problems: &mut Problems,
    warnings: &mut Vec<String>,
) -> Found {
    let named = variable.and_then(|name| env.var(name)).map(|path| env.path(path));
    let searched = search_path(env)
        .into_iter()
        .flat_map(|dir| ["yaml", "yml", "json"].map(|suffix| dir.join(format!("{base}.{suffix}"))));
    for path in named.iter().cloned().chain(searched) {
        let text = match fs::read_to_string(&path) {
            Ok(text) => Zeroizing::new(text),
            Err(error) if is_absent(&path, &error) && named.as_ref() != Some(&path) => continue,
            Err(error) if is_absent(&path, &error) => {
                let message = format!("there is no file {}: correct or unset it", path.display());
                problems.add(ENVIRONMENT, variable.unwrap_or_default(), message);
                return Found::Broken;
            }
            Err(error) => {
                let message = format!("cannot be read ({error}): make it a file that keyway may read");
                problems.add(path.display(), "", message);
                return Found::Broken;
            }
        };
        let is_json = path.extension().is_some_and(|suffix| suffix == "json");
        let parsed = if is_json { yaml::parse_json(text.as_bytes()) } else { yaml::parse(&text) };
        return match parsed {
            Ok(value) => {
                if holds_secret(&value) {
                    exposure::warn(&path, env, warnings);
                }
                match value {
                    Value::Object(map) => Found::File(path, map),
                    Value::Null => Found::File(path, Map::new()),
                    _ => {
                        let first = if base == "clouds-public" { "public-clouds" } else { "clouds" };
                        problems.add(path.display(), "", format!("not a mapping: it starts with `{first}:`"));
                        Found::Broken
                    }
                }
            }
            Err(error) => {
                let kind = if is_json { "JSON" } else { "YAML" };
                problems.add(path.display(), "", format!("not {kind}: {error}"));
                Found::Broken
            }
        };
    }
    Found::Nothing
}

/// openstacksdk's order; a directory that is named twice counts once.
pub(super) fn search_path(env: &Env) -> Vec<PathBuf> {
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

/// What is above over what is below: mappings are merged at any depth, all else is replaced.
pub(super) fn merge(below: &mut Map<String, Value>, above: &Map<String, Value>) {
    for (key, value) in above {
        match (below.get_mut(key), value) {
            (Some(Value::Object(below)), Value::Object(above)) => merge(below, above),
            _ => drop(below.insert(key.clone(), value.clone())),
        }
    }
}

/// Words in the names of options that are secrets, or say where to find one.
const SECRETS: [&str; 5] = ["password", "secret", "token", "passcode", "otp_key"];

/// Whether an option has to do with a secret, by its name: it is one, or says where to find one.
pub(super) fn may_be_secret(key: &str) -> bool {
    let key = key.replace('-', "_");
    let is_place = ["_endpoint", "_type"].iter().any(|ending| key.ends_with(ending));
    // keystoneauth's name for what an identity provider gave, and its old name.
    let is_code = ["code", "authorization_code"].contains(&&*key);
    is_code || !is_place && SECRETS.iter().any(|word| key.contains(word))
}

fn holds_secret(value: &Value) -> bool {
    match value {
        Value::Object(map) => map.iter().any(|(key, value)| {
            let key = key.replace('-', "_");
            let is_secret = SECRETS.iter().any(|word| key.ends_with(word));
            is_secret && value.as_str().is_some_and(|text| !text.is_empty()) || holds_secret(value)
        }),
        Value::Array(items) => items.iter().any(holds_secret),
        _ => false,
    }
}
