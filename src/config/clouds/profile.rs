//! What does the vendor that a cloud names with `profile` say about its cloud?
//!
//! A profile is looked for in clouds-public.yaml, then among those that come with keyway
//! (`src/config/vendors`); a profile that is a URL is asked for at its host's well-known address. That
//! request carries nothing of the operator's, follows no redirect, and is bounded in time and size.
//! What comes back says where a cloud is and how it is used, and nothing else: neither files nor
//! commands of this machine, nor whether certificates count.

use std::collections::BTreeMap;
use std::thread;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, StatusCode};
use serde::Deserialize;
use serde_json::{Map, Value};

use super::super::cloud::crosses_in_the_clear;
use super::super::problems::{ENVIRONMENT, Problems, closest};
use super::super::{Env, yaml};
use super::files::{Found, find, merge};
use super::layers::normalized;
use crate::upstream::{BaseUrl, Client, Timeouts, tls};

/// The path of [the specification](https://docs.openstack.org/openstacksdk/latest/user/config/vendor-support.html).
const WELL_KNOWN: &str = "/.well-known/openstack/api";

/// How long a profile may take, from the look-up of its host to its last byte.
const DEADLINE: Duration = Duration::from_secs(10);

/// The largest profile, bytes. The largest known one has 1 KiB.
const LIMIT: usize = 256 << 10;

/// What comes with keyway, see `src/config/vendors/README.md`.
const BUNDLED: &str = include_str!("../vendors/profiles.json");

/// Options of `auth` that a profile from the network may bring.
const AUTH: [&str; 17] = [
    "auth_url",
    "domain_id",
    "domain_name",
    "user_domain_id",
    "user_domain_name",
    "project_domain_id",
    "project_domain_name",
    "default_domain_id",
    "default_domain_name",
    "identity_provider",
    "protocol",
    "discovery_endpoint",
    "access_token_endpoint",
    "device_authorization_endpoint",
    "identity_provider_url",
    "service_provider_endpoint",
    "service_provider_entity_id",
];

/// Other options that it may bring, and endings of those of a service.
const OPTIONS: [&str; 4] = ["auth_type", "regions", "region_name", "interface"];
/// See [`OPTIONS`].
const SERVICE_OPTIONS: [&str; 8] = [
    "_api_version",
    "_default_microversion",
    "_interface",
    "_endpoint_type",
    "_region_name",
    "_service_type",
    "_service_name",
    "_endpoint_override",
];

/// What a vendor says.
#[derive(Clone, Debug)]
pub(super) struct Profile {
    /// What it is called in a problem.
    pub(super) source: String,
    /// What stands before the key of one of its options there; ends in a dot unless it is empty.
    pub(super) prefix: String,
    pub(super) values: Map<String, Value>,
}

/// `profiles.json`.
#[derive(Deserialize)]
struct Bundle {
    profiles: BTreeMap<String, Map<String, Value>>,
}

/// What is at the well-known address.
#[derive(Deserialize)]
struct Published {
    name: String,
    profile: Map<String, Value>,
}

/// Everything that was looked up so far.
#[derive(Default)]
pub(super) struct Profiles {
    public: Option<Found>,
    fetched: BTreeMap<String, Result<Published, String>>,
}

impl Profiles {
    /// The profile that the option at `at` (source and key) of a cloud names. One that nobody knows is
    /// none, with a warning, as openstacksdk has it. `Err` means that there are problems.
    pub(super) fn named(
        &mut self,
        name: &str,
        at: &(String, String),
        env: &Env,
        problems: &mut Problems,
        warnings: &mut Vec<String>,
    ) -> Result<Option<Profile>, ()> {
        let (source, key) = at;
        let public = self.public.get_or_insert_with(|| find(env, "clouds-public", None, problems, warnings));
        match public {
            Found::Broken => return Err(()),
            Found::File(path, document) => {
                if let Some(Value::Object(clouds)) = document.get("public-clouds")
                    && let Some(values) = clouds.get(name)
                {
                    let prefix = format!("public-clouds.{name}");
                    let Value::Object(values) = values else {
                        problems.add(
                            path.display(),
                            prefix,
                            "not a mapping: write `auth:` and more below it",
                        );
                        return Err(());
                    };
                    let source = path.display().to_string();
                    let values = normalized(values.clone());
                    return Ok(Some(Profile { source, prefix: prefix + ".", values }));
                }
            }
            Found::Nothing => {}
        }

        let bundled = bundled();
        let asked = match bundled.get(name) {
            None => name,
            Some(values) => match values.get("profile").and_then(Value::as_str) {
                None => {
                    let profile = Profile {
                        source: format!("vendor profile {name}"),
                        prefix: String::new(),
                        values: values.clone(),
                    };
                    return live(profile, name, at, problems, warnings).map(Some);
                }
                Some(other) => other,
            },
        };
        if !asked.contains("://") {
            // What the environment calls a profile may be a key: osprofiler's is in OS_PROFILE.
            let named = if source == ENVIRONMENT { String::new() } else { format!(" `{name}`") };
            let near = closest(name, bundled.keys().map(String::as_str)).filter(|_| source != ENVIRONMENT);
            let near = near.map(|near| format!(": did you mean `{near}`?")).unwrap_or_default();
            warnings.push(format!(
                "{source}: {key}: there is no vendor profile{named}, so the cloud goes without{near}"
            ));
            return Ok(None);
        }
        let url = BaseUrl::parse(asked).map_err(|error| {
            let message = format!("no usable URL: {error}; write for example https://cloud.example");
            problems.add(source, key, message);
        })?;
        let place = format!("{}{WELL_KNOWN}", url.origin());
        let published = self.fetched.entry(url.origin().to_string()).or_insert_with(|| {
            if crosses_in_the_clear(&url) {
                warnings.push(format!(
                    "{source}: {key}: {place} is plain http: whoever is on the way decides where the password goes"
                ));
            }
            if env.has_network() { fetch(&url, DEADLINE) } else { Err("there is no network".to_owned()) }
        });
        match published {
            Ok(published) => {
                let mut values = published.profile.clone();
                if let Some(local) = bundled.get(&published.name) {
                    merge(&mut values, local);
                }
                let profile = Profile { source: place, prefix: "profile.".to_owned(), values };
                live(profile, name, at, problems, warnings).map(Some)
            }
            Err(why) => {
                let message =
                    format!("no vendor profile from {place}: {why}; write its values into the cloud instead");
                problems.add(source, key, message);
                Err(())
            }
        }
    }
}

/// The profile, unless its cloud is gone.
fn live(
    mut profile: Profile,
    name: &str,
    (source, key): &(String, String),
    problems: &mut Problems,
    warnings: &mut Vec<String>,
) -> Result<Profile, ()> {
    match profile.values.remove("status").as_ref().and_then(Value::as_str) {
        Some("shutdown") => {
            let message = format!("the vendor of `{name}` has shut this cloud down: remove it");
            problems.add(source, key, message);
            Err(())
        }
        status => {
            if status == Some("deprecated") {
                warnings.push(format!(
                    "{source}: {key}: the vendor profile `{name}` is deprecated: ask the vendor what to use"
                ));
            }
            Ok(profile)
        }
    }
}

fn bundled() -> BTreeMap<String, Map<String, Value>> {
    serde_json::from_str::<Bundle>(BUNDLED).expect("a test reads it").profiles
}

/// Asks a vendor. The configuration is read before any runtime is there, or on one that must not run
/// another, so this has a thread of its own.
fn fetch(url: &BaseUrl, deadline: Duration) -> Result<Published, String> {
    let asked = thread::scope(|scope| scope.spawn(|| fetch_on_this_thread(url, deadline)).join());
    asked.unwrap_or_else(|_| Err("keyway failed to ask".to_owned()))
}

fn fetch_on_this_thread(url: &BaseUrl, deadline: Duration) -> Result<Published, String> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| format!("the system refused ({error})"))?;
    let asked = runtime.block_on(async {
        let client = Client::new(&tls::Config::default(), Timeouts::default())
            .map_err(|error| crate::secret::causes(&error))?;
        let request = Request::get(WELL_KNOWN)
            .header("accept", "application/json")
            .header("user-agent", concat!("keyway/", env!("CARGO_PKG_VERSION")))
            .body(Bytes::new())
            .expect("fixed texts");
        match tokio::time::timeout(deadline, client.fetch(url.origin(), request, LIMIT)).await {
            Ok(answer) => answer.map_err(|error| crate::secret::causes(&error)),
            Err(_) => Err(format!("it took longer than {} s", deadline.as_secs_f32())),
        }
    });
    // A look-up of a name may still be under way on a thread of its own.
    runtime.shutdown_background();
    let answer = asked?;
    match answer.status() {
        StatusCode::OK => {}
        status if status.is_redirection() => {
            return Err(format!("it answered {status}, and redirects are not followed"));
        }
        status => return Err(format!("it answered {status}")),
    }
    let unusable = |_| "it answered with something that is no profile".to_owned();
    let document =
        yaml::parse_json(answer.body()).map_err(|error| format!("its answer is not JSON: {error}"))?;
    let mut published: Published = serde_json::from_value(document).map_err(unusable)?;
    published.profile = normalized(published.profile);
    keep_what_is_a_vendors(&mut published.profile);
    Ok(published)
}

/// Leaves what a profile is for: see the module.
fn keep_what_is_a_vendors(values: &mut Map<String, Value>) {
    values.retain(|key, value| match (key.as_str(), value) {
        ("auth", Value::Object(auth)) => {
            auth.retain(|key, _| AUTH.contains(&key.as_str()));
            true
        }
        ("regions", Value::Array(regions)) => {
            for region in regions {
                if let Some(Value::Object(values)) = region.get_mut("values") {
                    *values = normalized(std::mem::take(values));
                    keep_what_is_a_vendors(values);
                }
            }
            true
        }
        ("status", _) => true,
        (key, _) => OPTIONS.contains(&key) || SERVICE_OPTIONS.iter().any(|ending| key.ends_with(ending)),
    });
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    // Promise 66.
    #[test]
    fn a_vendor_that_says_nothing_is_left_in_time() {
        // Nobody takes the connection, but the system makes it.
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let url = format!("http://{}", listener.local_addr().expect("an address"));
        let url = BaseUrl::parse(&url).expect("a URL");
        let error = fetch(&url, Duration::from_millis(100)).map(|_| ()).unwrap_err();
        assert_eq!(error, "it took longer than 0.1 s");
    }

    #[test]
    fn the_bundled_profiles_are_vendors_words() {
        let profiles = bundled();
        assert!(profiles.len() > 20, "{}", profiles.len());
        for (name, values) in profiles {
            let mut kept = values.clone();
            keep_what_is_a_vendors(&mut kept);
            kept.extend(values.get("profile").map(|profile| ("profile".to_owned(), profile.clone())));
            assert_eq!(kept, values, "{name}");
            assert_eq!(normalized(values.clone()), values, "{name}");
        }
    }

    // Promise 17.
    #[test]
    fn a_vendor_decides_neither_about_certificates_nor_files_nor_commands() {
        let yaml = "{auth: {auth_url: 'https://c.example', username: x, password_command: x, token_file: /x},
            insecure: true, verify: false, cacert: /x, cert: /x, key: /x, password: x, password_command: x,
            compute_api_version: 2, cache: {auth: true},
            regions: [a, {name: b, values: {verify: false, interface: internal, auth: {password: x}}}]}";
        let Ok(Value::Object(mut values)) = yaml::parse(yaml) else { panic!("a mapping") };
        keep_what_is_a_vendors(&mut values);
        let kept = yaml::parse(
            "{auth: {auth_url: 'https://c.example'}, compute_api_version: 2,
            regions: [a, {name: b, values: {interface: internal, auth: {}}}]}",
        );
        assert_eq!(Ok(Value::Object(values)), kept);
    }
}
