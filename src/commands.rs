//! The commands that ask and print, without serving: check, routes, token, env, health, key.

mod health;
pub mod identities;
pub mod keys;

use std::fmt::Write as _;
use std::io;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::{Request, header};

pub use self::health::health;
use crate::config::{Config, Listener};
use crate::directory::{self, Entry};
use crate::facade::Logins;
use crate::gateway::Shared;
use crate::keystone::client::Tell;
use crate::keystone::{self, Auth, AuthError, Key, Secret};
use crate::openrc::{self, Access};
use crate::secret::causes;
use crate::upstream::{self, BaseUrl};

/// How long a service may take to show that it is there.
const PROBE: Duration = Duration::from_secs(10);

/// What a command printed, and whether all was well.
#[derive(Debug, Default)]
pub struct Outcome {
    /// For standard output.
    pub text: String,
    /// Something is wrong that the text tells of.
    pub failed: bool,
}

/// `keyway check`: says what the configuration, which is right, would serve; logs in to every cloud,
/// compares the clocks, lists the services and asks each whether it answers (without a token).
pub async fn check(config: &Config, shared: &Shared) -> Outcome {
    let mut outcome = Outcome::default();
    outcome.line("configuration is right");
    for listener in config.listeners.iter().chain([&config.admin]) {
        let Listener { name, server, policy, pinned, .. } = listener;
        let only = pinned.as_ref().map_or_else(String::new, |pinned| format!(", only {pinned}"));
        let policy = policy.as_ref().map_or_else(String::new, |policy| format!(", policy {}", policy.name()));
        let tls = match &server.tls {
            Some(tls) if tls.clients.is_some() => ", TLS with client certificates",
            Some(_) => ", TLS",
            None => "",
        };
        outcome.line(&format!("  {name:<11} {}{only}{tls}{policy}", server.address));
    }
    if let Some(store) = &config.token_store {
        let said = keystone::shared::reach(store.clone()).await;
        outcome.failed |= said.is_err();
        let said = match said {
            Ok(()) => "ok: can be read and written".to_owned(),
            Err(why) => format!("FAILED: it {why}"),
        };
        outcome.line(&format!("token store {}\n  shared      {said}", store.address));
    }
    for (index, cloud) in shared.clouds.iter().enumerate() {
        outcome.line(&format!("cloud {}", cloud.name));
        match &cloud.auth {
            Auth::Identity(identity) => {
                outcome.line(&format!("  auth_url    {}", identity.auth_url));
                let skew = clock_skew(&shared.clients[index], &identity.auth_url).await;
                outcome.line(&format!("  clock       {skew}"));
            }
            standing => {
                let what = match standing {
                    Auth::Basic { .. } => "a user and a password",
                    Auth::None { .. } => "no login",
                    Auth::Tokenless { .. } => "a client certificate",
                    Auth::Fixed { .. } | Auth::Identity(_) => "fixed token",
                };
                let url = standing.url().map_or_else(|| "-".to_owned(), ToString::to_string);
                outcome.line(&format!("  endpoint    {url} ({what})"));
            }
        }
        let token = match shared.tokens.current(&Key::of_cloud(index)).await {
            Ok(token) => token,
            Err(error) => {
                outcome.line(&format!("  login       FAILED: {}", whole(&error)));
                outcome.failed = true;
                continue;
            }
        };
        let name =
            |named: &Option<keystone::Named>| named.as_ref().map_or_else(|| "-".into(), |n| n.name.clone());
        let life = token.expires().map_or_else(|| "no known end".into(), |_| seconds(token.lifetime()));
        outcome.line(&format!(
            "  login       ok: user {}, project {}, token life {life}",
            name(&token.user),
            name(&token.project)
        ));
        for entry in directory::entries(cloud, index == 0, &token) {
            let answers = match (&entry.problem, &entry.upstream) {
                (Some(problem), _) => Err(problem.clone()),
                (None, Some(url)) => answers(&shared.clients[index], url).await,
                (None, None) => Err("no endpoint".to_owned()),
            };
            outcome.failed |= answers.is_err();
            let (word, why) = match answers {
                Ok(status) => ("ok    ", format!("answers {status}")),
                Err(why) => ("FAILED", why),
            };
            let upstream = entry.upstream.as_deref().unwrap_or("-");
            outcome.line(&format!("  {word}      {:<34} {upstream} ({why})", entry.path));
        }
    }
    outcome
}

/// `keyway routes`: service, local URL, upstream URL; and where a listener serves one of them alone.
pub async fn routes(config: &Config, shared: &Shared) -> Outcome {
    let mut outcome = Outcome::default();
    let base = &config.listeners[0].url();
    for (index, cloud) in shared.clouds.iter().enumerate() {
        match shared.tokens.current(&Key::of_cloud(index)).await {
            Ok(token) => {
                let entries = directory::entries(cloud, index == 0, &token);
                outcome.text.push_str(&table(&entries, base));
            }
            Err(error) => {
                outcome.line(&format!("cloud {}: {}", cloud.name, whole(&error)));
                outcome.failed = true;
            }
        }
    }
    let listeners = config.listeners.iter();
    let pinned = listeners.filter_map(|listener| Some((listener.url(), listener.pinned.as_deref()?)));
    outcome.text.push_str(&roots(pinned, base));
    outcome
}

/// The listeners that serve one service alone, one per line: their URL, and what it is the same as.
fn roots<'a>(listeners: impl Iterator<Item = (String, &'a str)>, base: &str) -> String {
    listeners.map(|(url, stands_for)| format!("{url} is the root of {base}{stands_for}\n")).collect()
}

/// Services with their addresses, one per line.
pub fn table(entries: &[Entry], base: &str) -> String {
    let width = |texts: &mut dyn Iterator<Item = usize>| texts.max().unwrap_or(0);
    let types = width(&mut entries.iter().map(|entry| entry.service_type.len()));
    let urls = width(&mut entries.iter().map(|entry| base.len() + entry.path.len()));
    let mut text = String::new();
    for Entry { service_type, path, upstream, problem, .. } in entries {
        let url = format!("{base}{path}");
        let upstream = upstream.as_deref().unwrap_or("-");
        let _ = write!(text, "{service_type:<types$}  {url:<urls$}  {upstream}");
        if let Some(problem) = problem {
            let _ = write!(text, "  ({problem})");
        }
        text.push('\n');
    }
    text
}

/// `keyway token`: the default cloud's token, for a script that insists on having it.
///
/// # Errors
/// There is none.
pub async fn token(shared: &Shared) -> Result<String, String> {
    match shared.tokens.current(&Key::of_cloud(0)).await {
        Ok(token) => match token.value() {
            Some(id) => Ok(format!("{}\n", id.expose())),
            None => {
                Err("this cloud's login (auth_type) has no token: its services are shown something else, or \
                         nothing; send requests through keyway instead"
                    .to_owned())
            }
        },
        Err(error) => Err(whole(&error)),
    }
}

/// Asks a person for a secret.
pub type Ask<'a> = dyn FnMut(&str) -> io::Result<Secret> + Send + 'a;

/// `keyway login`: goes through the logins that need a person, who is told what to do by `tell`, and asked for a
/// passcode by `ask`.
///
/// # Errors
/// No cloud here needs a person, or a login failed.
pub async fn login(
    config: &Config,
    shared: &Shared,
    tell: &mut Tell<'_>,
    ask: &mut Ask<'_>,
) -> Result<String, String> {
    let mut done = Vec::new();
    let mut text = String::new();
    for (cloud, http) in shared.clouds.iter().zip(&shared.clients) {
        let Some((identity, place)) = cloud.by_person() else { continue };
        // Clouds that log in alike share what comes of it.
        if done.contains(&place) {
            continue;
        }
        let fail = |why: String| format!("cloud {}: {why}", cloud.name);
        let mut identity = identity.clone();
        if identity.method.wants_passcode() {
            let typed = ask(&format!("Passcode for cloud {}", cloud.name)).map_err(|error| {
                fail(format!("no passcode ({error}): enter it at the terminal, or hand it in as a line of standard input"))
            })?;
            identity.method = identity.method.with_passcode(&typed);
        }
        let client = keystone::Client::new(http.clone(), identity, config.timeouts.keystone);
        let kept = client.log_in_with_person(tell).await.map_err(|error| fail(whole(&error)))?;
        // A running keyway may be about to renew the login that this one replaces.
        let saved = async {
            let _lock = place.lock().await?;
            place.save(&kept)
        };
        saved.await.map_err(|error| fail(causes(&error)))?;
        let _ = writeln!(text, "cloud {}: {}; a running keyway finds it", cloud.name, login_line(&kept));
        done.push(place);
    }
    if done.is_empty() {
        return Err("no cloud here has a login that needs a person: keyway logs in by itself".to_owned());
    }
    Ok(text)
}

/// `keyway logout`: forgets the logins of people, and has Keystone revoke them.
pub async fn logout(config: &Config, shared: &Shared) -> Outcome {
    let mut outcome = Outcome::default();
    let mut is_any = false;
    for (cloud, http) in shared.clouds.iter().zip(&shared.clients) {
        let Some((identity, place)) = cloud.by_person() else { continue };
        is_any = true;
        // What is renewed just now is forgotten as well.
        let forgotten = async {
            if place.load()?.is_none() {
                return Ok(None);
            }
            let _lock = place.lock().await?;
            let kept = place.load()?;
            place.forget().map(|_| kept)
        };
        let line = match forgotten.await {
            Err(error) => {
                outcome.failed = true;
                causes(&error)
            }
            Ok(None) => "there was no login".to_owned(),
            Ok(Some(kept)) => {
                let client = keystone::Client::new(http.clone(), identity.clone(), config.timeouts.keystone);
                match client.revoke_login(&kept).await {
                    Ok(()) => "the login is forgotten, and revoked at Keystone".to_owned(),
                    Err(error) => {
                        outcome.failed = true;
                        format!("the login is forgotten, but it could not be revoked: {}", whole(&error))
                    }
                }
            }
        };
        outcome.line(&format!("cloud {}: {line}", cloud.name));
    }
    if !is_any {
        outcome.line("no cloud here has a login that needs a person");
    }
    outcome
}

/// `keyway status`: says of each cloud whether it needs a person's login, and when that ends. Nobody is asked.
pub fn status(shared: &Shared) -> Outcome {
    let mut outcome = Outcome::default();
    for cloud in &shared.clouds {
        let line = match cloud.by_person().map(|(.., place)| place.load()) {
            None => "logs in by itself".to_owned(),
            Some(Err(error)) => {
                outcome.failed = true;
                causes(&error)
            }
            Some(Ok(Some(kept))) if !kept.is_over(SystemTime::now()) => login_line(&kept),
            Some(Ok(kept)) => {
                outcome.failed = true;
                let why = if kept.is_some() { "its login is over" } else { "nobody is logged in" };
                format!("{why}; run keyway login --cloud {}", cloud.name)
            }
        };
        outcome.line(&format!("cloud {}: {line}", cloud.name));
    }
    outcome
}

fn login_line(kept: &keystone::Kept) -> String {
    let user = kept.user.as_deref().unwrap_or("an unknown user");
    let until = jiff::Timestamp::try_from(kept.ends)
        .ok()
        .and_then(|at| jiff::Timestamp::from_second(at.as_second()).ok());
    let until = until.map_or_else(|| "-".to_owned(), |until| until.to_string());
    let renewed = if kept.refresh.is_some() { ", renewed by itself" } else { "" };
    match kept.left(SystemTime::now()) {
        Some(left) => format!("logged in as {user} until {until} ({} left{renewed})", seconds(left)),
        None => format!("logged in as {user} until {until} (renewed when it is needed)"),
    }
}

/// `keyway env`: what an OpenStack client has to know to log in at a running keyway. Lines for a shell, for the
/// default cloud; or a clouds.yaml with an entry for each cloud that is served. `by_name`: the clouds of this
/// command line need not be those that are served, so each is asked for by its name.
///
/// # Errors
/// There is no token, or no listener that such a client can use.
pub async fn env(config: &Config, shared: &Shared, by_name: bool, as_yaml: bool) -> Result<String, String> {
    let listener = config.listeners.iter().find(|listener| serves_clients(listener)).ok_or_else(|| {
        let places: Vec<_> = config.listeners.iter().map(|listener| &listener.server.address).collect();
        format!(
            "OpenStack clients need an IP address and a port that stays the same, and keyway listens at {} only; \
             say --listen 127.0.0.1:8180, or add a [listener.NAME] with such an address",
            places.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
        )
    })?;
    let base = listener.url();
    let mut text = String::new();
    for remark in remarks(config, listener) {
        // Once for who reads the lines, once for who hands them to a shell.
        let _ = writeln!(text, "# {remark}");
        tracing::warn!("{remark}");
    }
    let (user, password) = match (listener.logins, config.identities.first()) {
        (Logins::Configured, Some(identity)) => (identity.name.as_str(), None),
        (Logins::Configured, None) => (openrc::USER, None),
        (Logins::Any, _) => (openrc::USER, Some(openrc::USER)),
    };
    if as_yaml {
        text.push_str("clouds:\n");
    }
    for (index, cloud) in shared.clouds.iter().enumerate() {
        let token = shared.tokens.current(&Key::of_cloud(index)).await;
        let token = token.map_err(|error| format!("cloud {}: {}", cloud.name, whole(&error)))?;
        let name = crate::route::encode(&cloud.name);
        let prefix = if index > 0 || by_name { format!("/cloud/{name}") } else { String::new() };
        let region = config.facade.clouds.get(&cloud.name).and_then(|view| view.region.as_deref());
        let access = Access::new(&format!("{base}{prefix}/identity"), cloud, region, &token);
        if !as_yaml {
            text.push_str(&openrc::exports(&access.variables(user, password)));
            return Ok(text);
        }
        // The SDK keeps this name for the cloud of OS_* variables.
        let name = if cloud.name == "envvars" { openrc::USER } else { &cloud.name };
        text.push_str(&access.entry(name, user, password));
    }
    Ok(text)
}

/// Whether an OpenStack client can be pointed at a listener.
fn serves_clients(listener: &Listener) -> bool {
    listener.pinned.is_none() && listener.server.address.tcp().is_some_and(|address| address.port() != 0)
}

/// What the lines that `keyway env` prints can't do by themselves.
fn remarks(config: &Config, listener: &Listener) -> Vec<String> {
    let mut remarks = Vec::new();
    if listener.logins == Logins::Configured {
        let names: Vec<_> = config.identities.iter().map(|identity| identity.name.as_str()).collect();
        remarks.push(format!(
            "the listener {} wants a login: set the password (or a key) of one of {}",
            listener.name,
            names.join(", ")
        ));
    }
    if let Some(tls) = &listener.server.tls {
        remarks.push(format!(
            "the listener {} has TLS: set cacert (OS_CACERT) to the authority of its certificate",
            listener.name
        ));
        if tls.clients.is_some() {
            remarks
                .push("and asks for a certificate: set cert and key (OS_CERT, OS_KEY) to yours".to_owned());
        }
    }
    if let Some((name, _)) = &listener.entry.required {
        remarks.push(format!(
            "the listener {} wants the header {name}, which most OpenStack clients can't send",
            listener.name
        ));
    }
    remarks
}

/// Keystone's clock against ours, from the `Date` of an answer.
async fn clock_skew(client: &upstream::Client, auth_url: &BaseUrl) -> String {
    let path = format!("{}/", auth_url.path());
    let answer = match fetch(client, auth_url, &path).await {
        Ok(answer) => answer,
        Err(why) => return format!("unknown: {why}"),
    };
    let date = answer.headers().get(header::DATE).and_then(|date| date.to_str().ok());
    let Some(date) = date.and_then(|date| httpdate::parse_http_date(date).ok()) else {
        return "unknown: Keystone sends no Date".to_owned();
    };
    let (ahead, skew) = match date.duration_since(SystemTime::now()) {
        Ok(skew) => (true, skew),
        Err(behind) => (false, behind.duration()),
    };
    // The header has whole seconds, and the answer took its time.
    if skew < Duration::from_secs(2) {
        return "as ours".to_owned();
    }
    let word = if ahead { "ahead of" } else { "behind" };
    format!("Keystone is {} {word} us; token lifetimes are not affected", seconds(skew))
}

async fn answers(client: &upstream::Client, url: &str) -> Result<u16, String> {
    let url = BaseUrl::parse(url).map_err(|error| error.to_string())?;
    let path = if url.path().is_empty() { "/" } else { url.path() };
    fetch(client, &url, path).await.map(|answer| answer.status().as_u16())
}

async fn fetch(
    client: &upstream::Client,
    url: &BaseUrl,
    path: &str,
) -> Result<http::Response<Bytes>, String> {
    let request = Request::get(path).body(Bytes::new()).map_err(|error| error.to_string())?;
    match tokio::time::timeout(PROBE, client.fetch(url.origin(), request, 8 << 20)).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(error)) => Err(causes(&error)),
        Err(_) => Err(format!("no answer within {} s", PROBE.as_secs())),
    }
}

/// A login's failure with its causes.
pub fn whole(error: &AuthError) -> String {
    causes(error.root())
}

fn seconds(duration: Duration) -> String {
    format!("{} s", duration.as_secs())
}

impl Outcome {
    fn line(&mut self, line: &str) {
        self.text.push_str(line);
        self.text.push('\n');
    }
}

/// What `keyway serve` says once it can: the address, the cloud, and each service as a URL.
pub fn banner(config: &Config, shared: &Shared, base: &str, admin: &str) -> String {
    let mut text = String::new();
    for (index, cloud) in config.clouds.iter().enumerate() {
        let Some(token) = shared.tokens.status(index).token else { continue };
        let project = token.project.as_ref().map_or("(no project)", |project| project.name.as_str());
        let _ = writeln!(text, "\ncloud {}, project {project}:", cloud.name);
        text.push_str(&table(&directory::entries(cloud, index == 0, &token), base));
    }
    let pinned = shared.doors.iter().filter_map(|door| Some((door.url(), door.pinned.as_deref()?)));
    let roots = roots(pinned, base);
    if !roots.is_empty() {
        let _ = write!(text, "\n{roots}");
    }
    if serves_clients(&config.listeners[0]) {
        let password = match config.listeners[0].logins {
            Logins::Any => "any password",
            Logins::Configured => "one of your identities",
        };
        let _ =
            writeln!(text, "\nOpenStack clients: OS_AUTH_URL={base}/identity and {password}; see keyway env");
    }
    let _ = writeln!(text, "serving on {base}; metrics and /status on {admin}");
    text
}
