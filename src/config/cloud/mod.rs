//! What does one cloud's entry mean, and is it complete?
//!
//! The rules are keystoneauth's and openstacksdk's, and [`super::clouds`] has applied those about names and
//! places: what keystoneauth knows is under `auth` by its name of today. One rule is the `openstack` command's: where
//! an Identity v3 name needs a domain and none is given, it is the domain with the id `default`.

mod federation;
mod login;
mod secret;
mod services;
mod tls;

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde_json::{Map, Value};
use zeroize::Zeroize as _;

pub(super) use self::tls::crosses_in_the_clear;
use super::problems::{ENVIRONMENT, Problems};
use super::{Env, sources, value};
use crate::keystone::{AllowHttp, Auth, Config, Identity, Method};
use crate::secret::{wipe, wipe_members};
use crate::upstream::BaseUrl;

/// Options of federated logins.
const FEDERATION: [&str; 11] = [
    "identity_provider",
    "protocol",
    "client_id",
    "client_secret",
    "access_token",
    "access_token_endpoint",
    "discovery_endpoint",
    "idp_otp_key",
    "identity_provider_url",
    "service_provider_endpoint",
    "service_provider_entity_id",
];

/// One cloud as written: `OS_*` variables (in small letters, without `OS_`), or an entry of
/// clouds.yaml with all that applies to it.
#[derive(Clone)]
pub(super) struct Entry {
    pub(super) name: String,
    pub(super) values: Map<String, Value>,
    pub(super) place: Place,
    /// Where an option was written (source and key), by whether it is in `auth` and by its name, if that
    /// is not where [`Entry::name_of`] would look.
    pub(super) places: BTreeMap<(bool, String), (String, String)>,
}

/// There may be a password in it.
impl Drop for Entry {
    fn drop(&mut self) {
        wipe_members(&mut self.values);
        if let Place::File(FilePlace { secure: Some((_, document)), .. }) = &mut self.place {
            wipe(document);
        }
    }
}

/// Where an entry stands.
#[derive(Clone)]
pub(super) enum Place {
    Environment,
    File(FilePlace),
}

/// clouds.yaml, and the secure.yaml that was merged over it.
#[derive(Clone)]
pub(super) struct FilePlace {
    pub(super) path: PathBuf,
    pub(super) secure: Option<(PathBuf, Value)>,
}

impl Entry {
    /// Where a person finds or writes an option: source and key.
    pub(super) fn name_of(&self, option: &str, in_auth: bool) -> (String, String) {
        if let Some(place) = self.places.get(&(in_auth, option.to_owned())) {
            return place.clone();
        }
        match &self.place {
            Place::Environment => (ENVIRONMENT.to_owned(), format!("OS_{}", option.to_ascii_uppercase())),
            Place::File(place) => {
                let mut path = vec!["clouds", &self.name];
                path.extend(in_auth.then_some("auth"));
                path.push(option);
                let source = match &place.secure {
                    Some((secure, document)) if holds(document, &path) => secure,
                    _ => &place.path,
                };
                (source.display().to_string(), path.join("."))
            }
        }
    }
}

fn holds(document: &Value, path: &[&str]) -> bool {
    let found = path.iter().try_fold(document, |value, name| {
        value
            .as_object()?
            .iter()
            .find(|(key, _)| key.replace('-', "_") == name.replace('-', "_"))
            .map(|(_, v)| v)
    });
    found.is_some()
}

/// Whether a variable (in small letters, without `OS_`) says where to log in or as whom.
pub(super) fn is_login(key: &str) -> bool {
    let exact =
        ["auth_url", "auth_type", "auth_plugin", "username", "user_id", "user_name", "password", "token"];
    // Where a secret is to be had says as much as the secret.
    let key = sources::without_form(key);
    exact.contains(&key)
        || ["passcode", "totp_secret", "auth_methods", "trust_id"].contains(&key)
        || key.starts_with("oauth2_")
        || ["consumer_key", "consumer_secret", "access_key", "access_secret"].contains(&key)
        || FEDERATION.contains(&key)
        || ["auth_token", "endpoint", "project_id", "project_name", "tenant_id", "tenant_name"].contains(&key)
        || key.starts_with("application_credential_")
}

/// Checks an entry. `None` means that there are problems.
pub(super) fn check(
    entry: &Entry,
    env: &Env,
    problems: &mut Problems,
    warnings: &mut Vec<String>,
) -> Option<Config> {
    let before = problems.len();
    let empty = Map::new();
    let auth = match entry.values.get("auth") {
        Some(Value::Object(auth)) => auth,
        None | Some(Value::Null) => &empty,
        Some(_) => {
            let (source, key) = entry.name_of("auth", false);
            problems.add(source, key, "not a mapping: write auth_url and the other values below it");
            &empty
        }
    };
    let mut reader = Reader { entry, auth, env, problems, warnings };
    let auth = reader.login();
    let region = reader.text(&["region_name"]);
    let interfaces = reader.interfaces();
    let has_ids = matches!(auth, Some(Auth::Identity(_)) | None);
    let endpoint_overrides = reader.endpoint_overrides(has_ids);
    let services = reader.services();
    let retries = reader.retries();
    let limits = reader.limits();
    let api_timeout = reader.api_timeout();
    let tls = reader.tls();
    // Without a login there is nothing to protect.
    if let Some(url) = auth.as_ref().filter(|auth| !matches!(auth, Auth::None { .. })).and_then(Auth::url) {
        reader.warn_of_plain_http(url);
    }
    if let Some(Auth::Identity(Identity { auth_url, method: Method::OAuth2 { endpoint, .. }, .. })) = &auth
        && endpoint.origin() != auth_url.origin()
    {
        reader.warn_of_plain_http(endpoint);
    }
    if problems.len() > before {
        return None;
    }
    Some(Config {
        name: entry.name.clone(),
        auth: auth?,
        region: region.map(|region| region.text),
        interfaces,
        endpoint_overrides,
        services,
        retries,
        limits,
        api_timeout,
        tls,
        allow_http: AllowHttp::Never,
    })
}

/// Reads one entry's options, and notes what is wrong with them.
struct Reader<'a> {
    entry: &'a Entry,
    auth: &'a Map<String, Value>,
    env: &'a Env,
    problems: &'a mut Problems,
    warnings: &'a mut Vec<String>,
}

/// An option's value, and what its place is called.
struct Written {
    text: String,
    source: String,
    key: String,
}

impl Reader<'_> {
    /// An option that has a value, by any of its names: the first name wins. An empty value is none.
    fn text(&mut self, names: &[&str]) -> Option<Written> {
        for name in names {
            let places = [(true, self.auth.get(*name)), (false, self.entry.values.get(*name))];
            for (in_auth, value) in places {
                match value {
                    None | Some(Value::Null) => {}
                    Some(Value::String(text)) if text.is_empty() => {}
                    Some(Value::String(text)) => {
                        let (source, key) = self.entry.name_of(name, in_auth);
                        return Some(Written { text: text.clone(), source, key });
                    }
                    Some(_) => {
                        let (source, key) = self.entry.name_of(name, in_auth);
                        self.problems.add(source, key, "a list or a mapping where one value belongs");
                    }
                }
            }
        }
        None
    }

    /// Whether an option has a value, which may be a secret.
    fn has(&mut self, names: &[&str]) -> bool {
        let found = self.text(names);
        let has = found.is_some();
        found.into_iter().for_each(|mut found| found.text.zeroize());
        has
    }

    fn problem_at(&mut self, at: &Written, message: impl std::fmt::Display) {
        self.problems.add(&at.source, &at.key, message);
    }

    /// Notes that a login option is missing, under the name that it should have.
    fn missing(&mut self, option: &str, message: &str) {
        let (source, key) = self.entry.name_of(option, true);
        self.problems.add(source, key, message);
    }

    fn required(&mut self, names: &[&str], message: &str) -> Option<String> {
        let found = self.text(names);
        if found.is_none() {
            self.missing(names[0], message);
        }
        found.map(|found| found.text)
    }

    fn url(&mut self, at: &Written) -> Option<BaseUrl> {
        // The value itself may hold a password, in its userinfo: it is not shown.
        if at.text.contains("%(") || at.text.contains("$(") {
            self.problem_at(at, "no template can be put in here, only into the path of an endpoint override: write the URL out");
            return None;
        }
        self.url_of(at)
    }

    fn url_of(&mut self, at: &Written) -> Option<BaseUrl> {
        match BaseUrl::parse(&at.text) {
            Ok(url) => Some(url),
            Err(error) => {
                self.problem_at(
                    at,
                    format!("no usable URL: {error}; write for example https://cloud.example:5000"),
                );
                None
            }
        }
    }

    fn boolean(&mut self, name: &str, default: bool) -> bool {
        let Some(at) = self.text(&[name]) else { return default };
        value::boolean(&at.text).unwrap_or_else(|message| {
            self.problem_at(&at, message);
            default
        })
    }
}
