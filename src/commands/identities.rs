//! `keyway identity`: who may come in, and what may they do?

use http::{Method, Request, header};
use jiff::Timestamp;

use super::Outcome;
use crate::config::Config;
use crate::gateway::{Gateway, Trial};
use crate::identity::keyring::{self, ApiKey};
use crate::identity::{self, Rights};
use crate::policy::{Effect, IdentityApi, Policy};
use crate::secret::causes;

/// Lists all identities: what each may show, its keys and their ends, its rights in short.
///
/// # Errors
/// The file of keys is of no use.
pub fn list(config: &Config) -> Result<Outcome, String> {
    let keys = keys(config)?;
    let mut outcome = Outcome::default();
    for identity in &config.identities {
        let mut shows = proofs(identity);
        let own = keys.iter().filter(|key| key.identity == identity.name);
        shows.extend(own.map(|key| format!("key {} ({})", key.id, end(key))));
        let shows = if shows.is_empty() { "nothing to show yet".to_owned() } else { shows.join(", ") };
        outcome.line(&format!("{:<16}  {shows}; {}", identity.name, in_short(identity)));
    }
    if config.identities.is_empty() {
        outcome.line("there is no identity: write [identity.NAME] into keyway.toml");
    }
    Ok(outcome)
}

/// Says all about one identity, but its secrets.
///
/// # Errors
/// There is no such identity, or the file of keys is of no use.
pub fn show(config: &Config, name: &str) -> Result<Outcome, String> {
    let keys = keys(config)?;
    let identity = config.identities.iter().find(|identity| identity.name == name);
    let names = || config.identities.iter().map(|identity| identity.name.as_str()).collect();
    let identity = identity.ok_or_else(|| unknown(name, names()))?;
    let identity::Config { certificates, users, groups, rights, limits, .. } = identity;
    let mut outcome = Outcome::default();
    let mut tell = |what: &str, text: &str| outcome.line(&format!("{what:<13} {text}"));
    tell("identity", name);
    tell("password", if identity.password.is_some() { "has one" } else { "none" });
    tell("certificates", &joined(certificates, "none"));
    tell("users", &joined(users, "none"));
    tell("groups", &joined(groups, "none"));
    let mut own = keys.iter().filter(|key| key.identity == *name).peekable();
    if own.peek().is_none() {
        tell("keys", "none");
    }
    for key in own {
        let note = if key.note.is_empty() { String::new() } else { format!(", {}", key.note) };
        tell("key", &format!("{}, made {:.0}, {}{note}", key.id, key.made, end(key)));
    }
    tell("clouds", &joined(&rights.clouds, "all"));
    tell("projects", &joined(&rights.projects, "all"));
    tell("regions", &joined(&rights.regions, "all"));
    match &rights.policy {
        None => tell("policy", "none of its own"),
        Some(policy) => {
            tell("policy", &head(policy));
            for (rule, effect) in policy.rules() {
                tell("", &format!("{} {rule}", word(effect)));
            }
        }
    }
    tell("identity_api", at_keystone(rights));
    let rate = limits.rate.map(|(rate, burst)| format!("{rate} requests per second, {burst} at once"));
    tell("rate", rate.as_deref().unwrap_or("any"));
    tell("requests", &limits.requests.map_or_else(|| "any".to_owned(), |most| format!("{most} under way")));
    tell("body", &rights.body.map_or_else(|| "any size".to_owned(), |most| format!("{most} bytes")));
    tell("expires", &until(rights));
    Ok(outcome)
}

/// Says what would become of a request of this identity that came by this listener. It is not sent.
///
/// # Errors
/// There is no such identity or listener, it is no request, or nobody can say: there is no token, for one.
pub async fn test(
    gateway: &Gateway,
    name: &str,
    listener: &str,
    method: &Method,
    path: &str,
) -> Result<Outcome, String> {
    let shared = gateway.shared();
    let identity = shared.identities.named(name).ok_or_else(|| unknown(name, shared.identities.names()))?;
    // The last one is the admin listener's.
    let doors = shared.doors.split_last().map_or(&[][..], |(_, doors)| doors);
    let Some(index) = doors.iter().position(|door| *door.name == *listener) else {
        let known: Vec<_> = doors.iter().map(|door| &*door.name).collect();
        return Err(format!("there is no listener `{listener}`, only {}", known.join(", ")));
    };
    if !path.starts_with('/') {
        return Err(
            "the path begins with no /: write it as a client has it, such as /compute/servers".to_owned()
        );
    }
    let host =
        doors[index].address.tcp().map_or_else(|| "localhost".to_owned(), |address| address.to_string());
    let request = Request::builder().method(method).uri(path).header(header::HOST, host).body(());
    let request = request.map_err(|error| format!("that is no request: {error}"))?;
    let mut outcome = Outcome::default();
    match gateway.dry_run(index, identity, request).await {
        Ok(Trial::Service { url, cloud, service, project }) => {
            let project = project.map_or_else(String::new, |project| format!(", project {project}"));
            outcome.line(&format!("allowed: {method} {url} ({service} of cloud {cloud}{project})"));
        }
        Ok(Trial::Local) => outcome.line("allowed: keyway answers that itself, as Keystone would"),
        Err(error) => {
            let (_, Some(rule)) = error.decision() else { return Err(causes(&error)) };
            outcome.failed = true;
            outcome.line(&format!("denied: {rule} ({}: {error})", error.status().as_u16()));
        }
    }
    Ok(outcome)
}

fn unknown(name: &str, mut known: Vec<&str>) -> String {
    known.sort_unstable();
    match &known[..] {
        [] => format!("there is no identity `{name}`: write [identity.NAME] into keyway.toml"),
        known => format!("there is no identity `{name}`, only {}", known.join(", ")),
    }
}

fn keys(config: &Config) -> Result<Vec<ApiKey>, String> {
    let Some(path) = &config.api_keys else { return Ok(Vec::new()) };
    Ok(keyring::read(path).map_err(|error| causes(&error))?.0)
}

fn end(key: &ApiKey) -> String {
    match key.ends {
        None => "never ends".to_owned(),
        Some(ends) if ends <= Timestamp::now() => format!("ended {ends:.0}"),
        Some(ends) => format!("ends {ends:.0}"),
    }
}

/// What an identity may show beside keys, without secrets.
fn proofs(identity: &identity::Config) -> Vec<String> {
    let password = identity.password.as_ref().map(|_| "password".to_owned());
    let certificates = identity.certificates.iter().map(|name| format!("certificate {name}"));
    let users = identity.users.iter().map(|user| format!("user {user}"));
    let groups = identity.groups.iter().map(|group| format!("group {group}"));
    password.into_iter().chain(certificates).chain(users).chain(groups).collect()
}

fn in_short(identity: &identity::Config) -> String {
    let (rights, limits) = (&identity.rights, &identity.limits);
    let mut parts = Vec::new();
    for (what, names) in
        [("clouds", &rights.clouds), ("projects", &rights.projects), ("regions", &rights.regions)]
    {
        if !names.is_empty() {
            parts.push(format!("{what} {}", names.join(" ")));
        }
    }
    parts.extend(rights.policy.as_ref().map(|policy| format!("policy {}", policy.name())));
    if rights.identity_api != IdentityApi::default() {
        parts.push(format!("identity_api {}", rights.identity_api.as_str()));
    }
    parts.extend(limits.rate.map(|(rate, _)| format!("{rate} requests per second")));
    parts.extend(limits.requests.map(|most| format!("{most} under way")));
    parts.extend(rights.body.map(|most| format!("bodies of {most} bytes")));
    parts.extend(rights.ends.map(|_| until(rights)));
    if parts.is_empty() { "everything but writes at Keystone".to_owned() } else { parts.join(", ") }
}

fn at_keystone(rights: &Rights) -> &'static str {
    match rights.identity_api {
        IdentityApi::ReadOnly => "read-only: reads at Keystone that show no credential",
        IdentityApi::All => "all: whatever the cloud's user may at Keystone",
        IdentityApi::None => "none: nothing at Keystone but logging in",
    }
}

fn until(rights: &Rights) -> String {
    match rights.ends {
        None => "never".to_owned(),
        Some(ends) if ends <= Timestamp::now() => format!("expired {ends:.0}"),
        Some(ends) => format!("until {ends:.0}"),
    }
}

fn head(policy: &Policy) -> String {
    let read_only = if policy.is_read_only() { "read only, " } else { "" };
    format!("{}: {read_only}{} where no rule speaks", policy.name(), word(policy.default_effect()))
}

fn word(effect: Effect) -> &'static str {
    match effect {
        Effect::Allow => "allow",
        Effect::Deny => "deny",
    }
}

fn joined(items: &[impl ToString], none: &str) -> String {
    if items.is_empty() {
        return none.to_owned();
    }
    items.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}
