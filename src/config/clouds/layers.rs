//! What does an entry come to when everything that applies to it is in place?
//!
//! What is more specific wins: vendor profile, entry, values of the region. Only `auth` is merged, and
//! only one level deep; any other key is replaced. Then login options move into `auth` under the names
//! that they have today, and templates are filled in. An option remembers where it was written, so
//! that whoever finds it wrong can name that place.

use serde_json::{Map, Value};

use super::super::cloud::{Entry, Place};
use super::super::problems::{ENVIRONMENT, Problems};
use super::super::{Env, cloud};
use super::files::may_be_secret;
use super::profile::{Profile, Profiles};
use super::template::expand;
use crate::secret;

/// What an option comes to where nobody says anything, for templates that name it. Each is applied where
/// its option is read.
const DEFAULTS: [(&str, &str); 4] = [
    ("region_name", ""),
    ("interface", "public"),
    ("network_api_version", "2"),
    ("object_store_api_version", "1"),
];

/// Login options that win beside `auth` over those in it, with their old names.
const TOP_FIRST: [(&str, &[&str]); 10] = [
    ("domain_id", &[]),
    ("domain_name", &[]),
    ("user_domain_id", &[]),
    ("user_domain_name", &[]),
    ("project_domain_id", &[]),
    ("project_domain_name", &[]),
    ("token", &["auth_token"]),
    ("passcode", &[]),
    ("project_id", &["tenant_id"]),
    ("project_name", &["tenant_name"]),
];

/// Login options that win in `auth`, with their old names.
const AUTH_FIRST: [(&str, &[&str]); 39] = [
    ("auth_url", &[]),
    ("username", &["user_name"]),
    ("user_id", &[]),
    ("password", &[]),
    ("default_domain_id", &[]),
    ("default_domain_name", &[]),
    ("system_scope", &[]),
    ("trust_id", &[]),
    ("application_credential_id", &[]),
    ("application_credential_name", &[]),
    ("application_credential_secret", &[]),
    ("endpoint", &["url"]),
    ("identity_provider", &[]),
    ("protocol", &[]),
    ("client_id", &[]),
    ("client_secret", &[]),
    ("access_token", &[]),
    ("access_token_endpoint", &[]),
    ("access_token_type", &[]),
    ("discovery_endpoint", &[]),
    ("device_authorization_endpoint", &[]),
    ("code_challenge_method", &[]),
    ("code", &["authorization_code"]),
    ("idp_otp_key", &[]),
    ("redirect_uri", &[]),
    ("redirect_host", &[]),
    ("redirect_port", &[]),
    ("login_timeout", &[]),
    ("oauth2_endpoint", &[]),
    ("oauth2_client_id", &[]),
    ("oauth2_client_secret", &[]),
    ("consumer_key", &[]),
    ("consumer_secret", &[]),
    ("access_key", &[]),
    ("access_secret", &[]),
    ("mutual_auth", &[]),
    ("identity_provider_url", &[]),
    ("service_provider_endpoint", &[]),
    ("service_provider_entity_id", &[]),
];

/// A region that was asked for, and the variable that did.
pub(super) struct Asked<'a> {
    pub(super) region: &'a str,
    pub(super) variable: &'static str,
}

/// A region's name, and the values that it brings.
type Region = (String, Map<String, Value>);

/// Puts everything in place. `None` means that there are problems.
pub(super) fn effective(
    mut entry: Entry,
    asked: Option<&Asked<'_>>,
    profiles: &mut Profiles,
    env: &Env,
    problems: &mut Problems,
    warnings: &mut Vec<String>,
) -> Option<Entry> {
    entry.values = normalized(std::mem::take(&mut entry.values));
    let profile = match profile_name(&entry, problems)? {
        Some((name, at)) => profiles.named(&name, &at, env, problems, warnings).ok()?,
        None => None,
    };
    // `null` there is nothing, rather than nothing in place of what the profile has.
    if entry.values.get("auth").is_some_and(Value::is_null) {
        entry.values.remove("auth");
    }
    let region = region(&entry, profile.as_ref(), asked, problems, warnings)?;
    for key in ["profile", "cloud", "regions", "region_name"] {
        entry.values.remove(key);
    }
    if let Some(profile) = profile {
        lay_under(&mut entry, profile);
    }
    if let Some((name, values)) = region {
        let values: Map<_, _> = values.into_iter().filter(|(_, value)| !value.is_null()).collect();
        written_by_hand(&mut entry, &values);
        layer(&mut entry.values, values);
        entry.values.insert("region_name".to_owned(), Value::String(name));
    }
    clean(&mut entry);
    fill_in(&mut entry, problems)?;
    Some(entry)
}

/// The profile that an entry names, and where it does.
fn profile_name(entry: &Entry, problems: &mut Problems) -> Option<Option<(String, (String, String))>> {
    // `cloud` is the old word for it.
    let key = if entry.values.contains_key("profile") { "profile" } else { "cloud" };
    let at = entry.name_of(key, false);
    match entry.values.get(key) {
        None | Some(Value::Null) => Some(None),
        Some(Value::String(name)) if name.is_empty() => Some(None),
        Some(Value::String(name)) => Some(Some((name.clone(), at))),
        Some(_) => {
            problems.add(at.0, at.1, "not a name: write a vendor's, or the URL of its profile");
            None
        }
    }
}

/// The region to use: the one that was asked for, else the first. What the entry says of regions hides
/// what its profile says. `None` means that there are problems.
fn region(
    entry: &Entry,
    profile: Option<&Profile>,
    asked: Option<&Asked<'_>>,
    problems: &mut Problems,
    warnings: &mut Vec<String>,
) -> Option<Option<Region>> {
    let has = |values: &Map<String, Value>| {
        ["regions", "region_name"].iter().any(|key| values.get(*key).is_some_and(|value| !value.is_null()))
    };
    let listed = match profile {
        Some(profile) if !has(&entry.values) => {
            let place = |key: &str| (profile.source.clone(), format!("{}{key}", profile.prefix));
            regions(&profile.values, place, problems)
        }
        _ => regions(&entry.values, |key| entry.name_of(key, false), problems),
    };
    let names: Vec<_> = listed.iter().map(|(name, _)| name.clone()).collect();
    let Some(asked) = asked else {
        let first = listed.into_iter().next();
        if let (Some((name, _)), Some(Value::String(written))) = (&first, entry.values.get("region_name"))
            && entry.values.get("regions").is_some_and(|regions| !regions.is_null())
            && names.len() > 1
            && written != name
        {
            // openstacksdk ignores it without a word, and the same file should mean the same region.
            let (source, key) = entry.name_of("region_name", false);
            warnings.push(format!(
                "{source}: {key}: ignored, since `regions` is there too: its first one, {name}, is used"
            ));
        }
        return Some(first);
    };
    if names.is_empty() {
        return Some(Some((asked.region.to_owned(), Map::new())));
    }
    let found = listed.into_iter().find(|(name, _)| name == asked.region);
    if found.is_none() {
        let message = format!("the cloud has no region `{}`: it has {}", asked.region, names.join(", "));
        problems.add(ENVIRONMENT, asked.variable, message);
    }
    found.map(Some)
}

/// The regions of a layer with the values that each brings: `regions`, or else `region_name`, which
/// in old files is a list or a comma-separated text.
fn regions(
    values: &Map<String, Value>,
    place: impl Fn(&str) -> (String, String),
    problems: &mut Problems,
) -> Vec<Region> {
    let mut problem = |key, message| {
        let (source, key) = place(key);
        problems.add(source, key, message);
    };
    let mut regions = Vec::new();
    match (values.get("regions"), values.get("region_name")) {
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
                    Some(Value::Object(values)) => normalized(values.clone()),
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
        (Some(regions), _) if !regions.is_null() => {
            problem("regions", "not a list: write `regions: [NAME, ..]`");
        }
        _ => problem("region_name", "not a name"),
    }
    regions
}

/// Puts a profile under an entry, and remembers what came from it.
fn lay_under(entry: &mut Entry, mut profile: Profile) {
    for key in ["profile", "status", "message", "regions", "region_name"] {
        profile.values.remove(key);
    }
    for (key, value) in &profile.values {
        match value {
            Value::Object(auth) if key == "auth" => {
                for key in auth.keys() {
                    let place = (profile.source.clone(), format!("{}auth.{key}", profile.prefix));
                    entry.places.insert((true, key.clone()), place);
                }
            }
            _ => {
                let place = (profile.source.clone(), format!("{}{key}", profile.prefix));
                entry.places.insert((false, key.clone()), place);
            }
        }
    }
    let own = std::mem::replace(&mut entry.values, profile.values);
    written_by_hand(entry, &own);
    layer(&mut entry.values, own);
}

/// What is laid over the entry now was not written by its vendor.
fn written_by_hand(entry: &mut Entry, values: &Map<String, Value>) {
    for (key, value) in values {
        entry.places.remove(&(false, key.clone()));
        if let (Value::Object(auth), "auth") = (value, key.as_str()) {
            for key in auth.keys() {
                entry.places.remove(&(true, key.clone()));
            }
        }
    }
}

fn layer(below: &mut Map<String, Value>, above: Map<String, Value>) {
    for (key, value) in above {
        match (below.get_mut(&key), value) {
            (Some(Value::Object(below)), Value::Object(above)) if key == "auth" => {
                for (key, value) in above {
                    replace(below, key, value);
                }
            }
            (_, value) => replace(below, key, value),
        }
    }
}

/// What was there may have been a password.
fn replace(values: &mut Map<String, Value>, key: String, value: Value) {
    if let Some(mut old) = values.insert(key, value) {
        secret::wipe(&mut old);
    }
}

/// The same with `_` for `-` in its keys, and in those of all that is in it.
pub(super) fn normalized(values: Map<String, Value>) -> Map<String, Value> {
    let mut folded = Map::new();
    for (key, value) in values {
        let key = if key.contains('-') { key.replace('-', "_") } else { key };
        let value = match value {
            Value::Object(members) => Value::Object(normalized(members)),
            value => value,
        };
        replace(&mut folded, key, value);
    }
    folded
}

/// Moves login options into `auth`, and gives everything the name that it has today.
fn clean(entry: &mut Entry) {
    clean_auth_type(entry);
    clean_interfaces(entry);
    if entry.values.get("auth").is_some_and(|auth| !auth.is_object()) {
        // Whoever reads it says so.
        return;
    }
    // Identity v2.0 calls a project a tenant, and its own methods know no other word.
    let by_tenant = entry.values.get("auth_type").and_then(Value::as_str) == Some("v2password");
    for (name, others) in TOP_FIRST {
        let (name, old) = match others {
            [tenant] if by_tenant && tenant.starts_with("tenant") => (*tenant, name),
            _ => (name, others.first().copied().unwrap_or(name)),
        };
        settle(entry, name, &[(false, name), (true, name), (false, old), (true, old)]);
    }
    for (name, others) in AUTH_FIRST {
        let old = others.first().copied().unwrap_or(name);
        settle(entry, name, &[(true, name), (true, old), (false, name), (false, old)]);
    }
    // Written `openid_scope`, but keystoneauth works with it as `scope`.
    let (scope, written) = ("scope", "openid_scope");
    settle(entry, scope, &[(true, written), (false, written), (true, scope), (false, scope)]);
    share_domain(entry);
}

/// Keeps the first of these places that has a value, in `auth` under `name`, and clears the others. A
/// place that has no single value stays, for whoever reads it to name.
fn settle(entry: &mut Entry, name: &str, candidates: &[(bool, &str)]) {
    let mut winner = None;
    for (in_auth, key) in candidates {
        let from = if *in_auth {
            let Some(Value::Object(auth)) = entry.values.get_mut("auth") else { continue };
            auth
        } else {
            &mut entry.values
        };
        let is_single = matches!(from.get(*key), Some(Value::String(_) | Value::Null));
        if !is_single {
            continue;
        }
        match from.remove(*key) {
            Some(Value::String(text)) if !text.is_empty() && winner.is_none() => {
                winner = Some((text, entry.name_of(key, *in_auth)));
            }
            Some(mut lost) => secret::wipe(&mut lost),
            None => {}
        }
    }
    if let Some((text, place)) = winner {
        put(entry, name, text, place);
    }
}

/// Puts an option into `auth`, and remembers where it was written.
fn put(entry: &mut Entry, name: &str, text: String, place: (String, String)) {
    let auth = entry.values.entry("auth").or_insert_with(|| Value::Object(Map::new()));
    let auth = auth.as_object_mut().expect("it was looked at");
    auth.insert(name.to_owned(), Value::String(text));
    entry.places.insert((true, name.to_owned()), place);
}

/// A domain that is given with a project is the user's and the project's.
fn share_domain(entry: &mut Entry) {
    let Some(Value::Object(auth)) = entry.values.get_mut("auth") else { return };
    if !auth.contains_key("project_id") && !auth.contains_key("project_name") {
        return;
    }
    for (given, shared) in [
        ("domain_id", ["user_domain_id", "project_domain_id"]),
        ("domain_name", ["user_domain_name", "project_domain_name"]),
    ] {
        let place = entry.name_of(given, true);
        let Some(Value::Object(auth)) = entry.values.get_mut("auth") else { return };
        let Some(Value::String(domain)) = auth.remove(given) else { continue };
        let missing = shared.into_iter().filter(|name| !auth.contains_key(*name)).collect::<Vec<_>>();
        for name in missing {
            put(entry, name, domain.clone(), place.clone());
        }
    }
}

/// `auth_plugin` is the old name of `auth_type`, nothing there means no login, and `token_endpoint` is
/// what people call `admin_token`.
fn clean_auth_type(entry: &mut Entry) {
    if let Some(old) = entry.values.remove("auth_plugin")
        && !entry.values.contains_key("auth_type")
    {
        let place = entry.name_of("auth_plugin", false);
        entry.places.insert((false, "auth_type".to_owned()), place);
        entry.values.insert("auth_type".to_owned(), old);
    }
    let kind = match entry.values.get("auth_type") {
        Some(Value::Null) => "none",
        Some(Value::String(text)) if text.is_empty() || text == "None" => "none",
        Some(Value::String(text)) if text == "token_endpoint" => "admin_token",
        _ => return,
    };
    entry.values.insert("auth_type".to_owned(), Value::String(kind.to_owned()));
}

/// `endpoint_type` is the old name of `interface`, and wins over it; that of a service does not.
fn clean_interfaces(entry: &mut Entry) {
    let old: Vec<_> = entry.values.keys().filter(|key| key.ends_with("endpoint_type")).cloned().collect();
    for old in old {
        let name = old.replace("endpoint_type", "interface");
        let Some(value) = entry.values.remove(&old) else { continue };
        let is_empty = |value: &Value| value.is_null() || value.as_str() == Some("");
        let is_taken = name != "interface" && entry.values.get(&name).is_some_and(|value| !is_empty(value));
        if !is_empty(&value) && !is_taken {
            let place = entry.name_of(&old, false);
            entry.places.insert((false, name.clone()), place);
            entry.values.insert(name, value);
        }
    }
}

/// Fills in templates: in `auth_url`, and in all that is beside `auth`. A secret is neither filled in nor
/// filled into anything. `None` means that there are problems.
fn fill_in(entry: &mut Entry, problems: &mut Problems) -> Option<()> {
    let empty = Map::new();
    let auth = entry.values.get("auth").and_then(Value::as_object).unwrap_or(&empty);
    let beside = entry.values.iter().map(|(key, value)| (false, key, value));
    let auth_url = auth.iter().filter(|(key, _)| *key == "auth_url").map(|(key, value)| (true, key, value));
    let look_up = |name: &str| {
        let written = [&entry.values, auth].into_iter().find_map(|values| values.get(name));
        let default = || DEFAULTS.iter().find(|(key, _)| *key == name).map(|(_, value)| *value);
        let found = match written {
            None | Some(Value::Null) => default(),
            Some(value) => value.as_str(),
        };
        found.filter(|_| !may_be_secret(name))
    };
    let mut filled = Vec::new();
    let mut right = true;
    for (in_auth, key, value) in beside.chain(auth_url) {
        let Some(text) = value.as_str().filter(|text| text.contains(['{', '}'])) else { continue };
        if may_be_secret(key) {
            continue;
        }
        // Of what a URL becomes without its region, nobody has any use.
        match expand(text, |name| look_up(name).filter(|value| key != "auth_url" || !value.is_empty())) {
            Ok(text) => filled.push((in_auth, key.clone(), text)),
            // Some systems have `OS_*` variables that nobody here reads.
            Err(_) if matches!(entry.place, Place::Environment) && !cloud::is_login(key) => {}
            Err(error) => {
                let (source, key) = entry.name_of(key, in_auth);
                problems.add(source, key, error);
                right = false;
            }
        }
    }
    for (in_auth, key, text) in filled {
        let values = match entry.values.get_mut("auth") {
            Some(Value::Object(auth)) if in_auth => auth,
            _ => &mut entry.values,
        };
        values.insert(key, Value::String(text));
    }
    right.then_some(())
}
