//! Who comes in where not everybody may, how they prove who they are, and how far their rights reach.

use std::num::NonZeroU32;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::Method;
use jiff::Timestamp;
use keyway::commands::keys;
use keyway::config::{Config, Listener};
use keyway::demo::{self, Cloud};
use keyway::facade::Logins;
use keyway::identity::{self, Rights, limits};
use keyway::policy::{Effect, Policy, Rule};
use keyway::server;
use keyway::server::certificate::SubjectName;
use keyway::server::tls::Clients;
use rcgen::{DnType, ExtendedKeyUsagePurpose, SanType};
use rustls::pki_types::ServerName;
use serde_json::json;
use tokio::net::{TcpStream, UnixStream};

use crate::support::raw::{Peer, field, status};
use crate::support::tls::{self, Authority};
use crate::support::{Answer, TestKeyway, cloud, eventually, request};

/// A team's keyway: a file of keys, and these identities.
pub(crate) struct Team {
    pub(crate) cloud: Cloud,
    pub(crate) keyway: TestKeyway,
    pub(crate) config: Config,
    home: tempfile::TempDir,
}

impl Team {
    pub(crate) async fn of(identities: Vec<identity::Config>) -> Self {
        Self::with(identities, |_| {}).await
    }

    /// The same, with changes to its configuration.
    pub(crate) async fn with(identities: Vec<identity::Config>, change: impl FnOnce(&mut Config)) -> Self {
        let (cloud, home) = (cloud().await, tempfile::tempdir().expect("a directory"));
        let mut kept = None;
        let keyway = TestKeyway::with(&cloud, |config| {
            config.listeners[0].logins = Logins::Configured;
            config.api_keys = Some(home.path().join("api-keys"));
            config.identities = identities;
            change(config);
            kept = Some(config.clone());
        })
        .await;
        Self { cloud, keyway, config: kept.expect("it was changed"), home }
    }

    fn file(&self) -> PathBuf {
        self.home.path().join("api-keys")
    }

    /// A key that keyway knows by now.
    pub(crate) async fn key(&self, name: &str, ends: Option<Timestamp>) -> String {
        let key = keys::new(&self.config, name, ends, "", &mut |_| {}).expect("a key").trim().to_owned();
        let id = identity::key::id_of(key.as_bytes()).expect("a key");
        let ring = Arc::clone(&self.keyway.app().shared().identities.keyring);
        eventually("the key is known", async || ring.get(id)).await;
        key
    }

    pub(crate) async fn get(&self, path: &str, key: &str) -> Answer {
        self.keyway.get_with(path, &[("x-auth-token", key)]).await
    }

    /// The token of the last request to compute: one, good, and nothing of the client's beside it.
    pub(crate) fn sent(&self) -> String {
        let seen = self.cloud.requests("compute").pop().expect("a request");
        assert!(seen.token_was_good && seen.headers.get("authorization").is_none(), "{seen:?}");
        seen.headers["x-auth-token"].to_str().expect("ASCII").to_owned()
    }

    pub(crate) fn reload(&self, identities: Vec<identity::Config>) {
        let config = Config { identities, ..self.config.clone() };
        assert!(self.keyway.app().reload(Ok(config)));
    }
}

pub(crate) fn ada() -> identity::Config {
    identity::Config { name: "ada".to_owned(), ..Default::default() }
}

pub(crate) fn with(rights: Rights) -> identity::Config {
    identity::Config { rights, ..ada() }
}

pub(crate) fn basic(name: &str, password: &str) -> String {
    format!("Basic {}", STANDARD.encode(format!("{name}:{password}")))
}

// Promises 22, 73.
#[tokio::test(flavor = "multi_thread")]
async fn a_key_is_shown_in_any_usual_way_and_never_goes_further() {
    let team = Team::of(vec![ada()]).await;
    let key = team.key("ada", None).await;
    let id = &key[4..20];
    for (name, value) in [
        ("x-auth-token", key.clone()),
        ("x-storage-token", key.clone()),
        ("authorization", format!("Bearer {key}")),
        ("authorization", format!("bearer  {key}")),
        ("authorization", basic("ada", &key)),
        ("authorization", basic("", &key)),
        ("authorization", basic(&key, "")),
        ("authorization", basic(id, &key)),
    ] {
        for _ in 0..2 {
            let answer = team.keyway.get_with("/compute/servers", &[(name, &value)]).await;
            answer.passed_on(200);
            assert_eq!(team.sent(), team.keyway.token().await, "{name}");
        }
    }
    let asked = team.cloud.requests("compute").len();
    let (start, _) = key.split_at(key.len() - 4);
    for (name, value) in [
        ("x-auth-token", format!("{start}AAAA")),
        ("x-auth-token", start.to_owned()),
        ("authorization", format!("Bearer {start}AAAA")),
        ("authorization", format!("Token {key}")),
        ("authorization", basic("bob", &key)),
        ("authorization", "Basic %".to_owned()),
        ("x-other", key.clone()),
    ] {
        let answer = team.keyway.get_with("/compute/servers", &[(name, &value)]).await;
        let message = answer.message(401, "bad_token");
        assert!(!message.contains(start), "{message}");
        assert_eq!(answer.header("www-authenticate").split(' ').next(), Some("Keystone"));
    }
    assert_eq!(team.cloud.requests("compute").len(), asked);
    let used = format!("keyway_api_key_last_used_timestamp_seconds{{identity=\"ada\",key=\"{id}\"}}");
    let used =
        eventually("its last use", async || Some(team.keyway.metric(&used).await).filter(|at| *at > 0.0))
            .await;
    assert!(used > 1_700_000_000.0);
    // What is kept is no key.
    let kept = std::fs::read_to_string(team.file()).unwrap();
    assert!(kept.contains(id) && !kept.contains(&key[21..]), "{kept}");
}

// Promise 73.
#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_is_revoked_or_over_is_refused_and_so_are_its_tokens() {
    let team = Team::of(vec![ada()]).await;
    let (first, second) = (team.key("ada", None).await, team.key("ada", None).await);
    let token = log_in(&team, "ada", &first).await;
    for shown in [&first, &second, &token] {
        team.get("/compute/servers", shown).await.passed_on(200);
    }
    keys::revoke(&team.config, &first[4..20]).unwrap();
    for shown in [&first, &token] {
        eventually("it is refused", async || {
            let answer = team.get("/compute/servers", shown).await;
            (answer.status != 200).then(|| answer.message(401, "bad_token"))
        })
        .await;
    }
    team.get("/compute/servers", &second).await.passed_on(200);

    let soon = Timestamp::now().checked_add(std::time::Duration::from_secs(4)).unwrap();
    let short = team.key("ada", Some(soon)).await;
    let token = log_in(&team, "ada", &short).await;
    for shown in [&short, &token] {
        eventually("it is over", async || {
            let answer = team.get("/compute/servers", shown).await;
            (answer.status != 200).then(|| answer.message(401, "bad_token"))
        })
        .await;
    }
}

// Promise 73.
#[tokio::test(flavor = "multi_thread")]
async fn an_identity_that_a_reload_removed_is_refused_at_its_next_request() {
    let bob = identity::Config { name: "bob".to_owned(), ..Default::default() };
    let team = Team::of(vec![ada(), bob.clone()]).await;
    let (of_ada, of_bob) = (team.key("ada", None).await, team.key("bob", None).await);
    let token = log_in(&team, "ada", &of_ada).await;
    for shown in [&of_ada, &of_bob, &token] {
        team.get("/compute/servers", shown).await.passed_on(200);
    }
    team.reload(vec![bob]);
    for shown in [&of_ada, &token] {
        team.get("/compute/servers", shown).await.message(401, "bad_token");
    }
    team.get("/compute/servers", &of_bob).await.passed_on(200);
    let over = Timestamp::now();
    team.reload(vec![with(Rights { ends: Some(over), ..Rights::default() })]);
    let message = team.get("/compute/servers", &of_ada).await.message(401, "bad_token");
    assert!(message.contains("expired"), "{message}");
}

/// A token of keyway's own, got with a name and a key.
pub(crate) async fn log_in(team: &Team, name: &str, key: &str) -> String {
    let user = json!({"name": name, "domain": {"id": "default"}, "password": key});
    let identity = json!({"methods": ["password"], "password": {"user": user}});
    let answer = team.keyway.post("/identity/v3/auth/tokens", &json!({"auth": {"identity": identity}})).await;
    assert_eq!(answer.status, 201, "{answer:?}");
    answer.header("x-subject-token").to_owned()
}

// Promise 73.
#[tokio::test(flavor = "multi_thread")]
async fn a_client_certificate_says_whose_a_request_is() {
    let (cloud, authority) = (cloud().await, Authority::new());
    let localhost = authority.issue("localhost");
    let key_file = authority.write("key.pem", &localhost.key);
    std::fs::set_permissions(&key_file, std::fs::Permissions::from_mode(0o600)).unwrap();
    let names = [
        SubjectName::Uri("spiffe://team.example/ada".to_owned()),
        SubjectName::Dns("ada.example".to_owned()),
        SubjectName::Email("ada@team.example".to_owned()),
    ];
    let other = Rights { projects: vec![demo::OTHER_PROJECT.to_owned()], ..Rights::default() };
    let keyway = TestKeyway::with(&cloud, |config| {
        config.identities = vec![identity::Config { certificates: names.to_vec(), ..with(other) }];
        let main = &mut config.listeners[0];
        main.logins = Logins::Configured;
        let clients = Clients { optional: true, ..Clients::of(authority.file()) };
        let cert = authority.write("cert.pem", &localhost.certificate);
        main.server.tls = Some(server::tls::Config { cert, key: key_file, clients: Some(clients) });
    })
    .await;
    let get = async |certificate: Option<&tls::Identity>| {
        let client = tls::client(&authority, certificate, &["http/1.1"]);
        let stream = TcpStream::connect(keyway.listen()).await.unwrap();
        let name = ServerName::try_from("localhost").unwrap();
        let mut client = Peer::new(client.connect(name, stream).await.unwrap());
        client.send("GET /compute/servers HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").await;
        String::from_utf8_lossy(&client.rest().await).into_owned()
    };
    let issue = |names: Vec<SanType>, common_name: &str| {
        authority.issue_with("nobody.example", |params| {
            params.subject_alt_names.extend(names);
            params.distinguished_name.push(DnType::CommonName, common_name);
            params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        })
    };
    let text = |text: &str| text.try_into().unwrap();
    for name in [
        SanType::URI(text("spiffe://team.example/ada")),
        SanType::DnsName(text("Ada.Example")),
        SanType::Rfc822Name(text("ada@team.example")),
    ] {
        let answer = get(Some(&issue(vec![name], "x"))).await;
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
        let seen = cloud.requests("compute").pop().unwrap();
        assert_ne!(
            seen.headers["x-auth-token"],
            keyway.token().await.as_str(),
            "its first project is another one"
        );
    }
    // A subject's common name says nothing.
    let asked = cloud.requests("compute").len();
    for certificate in [Some(&issue(Vec::new(), "ada.example")), None] {
        let answer = get(certificate).await;
        assert!(answer.starts_with("HTTP/1.1 401 "), "{answer}");
    }
    assert_eq!(cloud.requests("compute").len(), asked);
}

/// A login with this identity of Keystone's, as it is sent.
fn login(identity: &serde_json::Value) -> String {
    let body = json!({"auth": {"identity": identity}}).to_string();
    format!(
        "POST /identity/v3/auth/tokens HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\
         Content-Length: {}\r\n\r\n{body}",
        body.len()
    )
}

fn login_request(name: &str, password: &str) -> String {
    let user = json!({"name": name, "domain": {"id": "default"}, "password": password});
    login(&json!({"methods": ["password"], "password": {"user": user}}))
}

fn list_request(token: &str) -> String {
    format!(
        "GET /compute/servers HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nX-Auth-Token: {token}\r\n\r\n"
    )
}

// Promise 73.
#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_logs_in_with_its_identitys_name_and_the_token_is_good_with_it_alone() {
    let (cloud, authority, home) = (cloud().await, Authority::new(), tempfile::tempdir().unwrap());
    let localhost = authority.issue("localhost");
    let key_file = authority.write("key.pem", &localhost.key);
    std::fs::set_permissions(&key_file, std::fs::Permissions::from_mode(0o600)).unwrap();
    let named = |name: &str| SubjectName::Dns(format!("{name}.example"));
    let bob = identity::Config { name: "bob".to_owned(), certificates: vec![named("bob")], ..ada() };
    let with_name = |name: &str| identity::Config { certificates: vec![named(name)], ..ada() };
    let mut kept = None;
    let keyway = TestKeyway::with(&cloud, |config| {
        config.api_keys = Some(home.path().join("api-keys"));
        config.identities = vec![with_name("ada"), bob.clone()];
        let main = &mut config.listeners[0];
        main.logins = Logins::Configured;
        let clients = Clients { optional: true, ..Clients::of(authority.file()) };
        let cert = authority.write("cert.pem", &localhost.certificate);
        main.server.tls = Some(server::tls::Config { cert, key: key_file, clients: Some(clients) });
        kept = Some(config.clone());
    })
    .await;
    let config = kept.unwrap();
    let of_ada = keys::new(&config, "ada", None, "", &mut |_| {}).expect("a key").trim().to_owned();
    let issue = |name: &str| {
        authority.issue_with(name, |params| {
            params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        })
    };
    let (by_ada, by_bob, by_nobody) = (issue("ada.example"), issue("bob.example"), issue("nobody.example"));
    let send = async |certificate: Option<&tls::Identity>, request: String| {
        let client = tls::client(&authority, certificate, &["http/1.1"]);
        let stream = TcpStream::connect(keyway.listen()).await.unwrap();
        let name = ServerName::try_from("localhost").unwrap();
        let mut client = Peer::new(client.connect(name, stream).await.unwrap());
        client.send(request).await;
        let (head, _) = client.response().await;
        (status(&head), field(&head, "x-subject-token").map(str::to_owned))
    };
    let log_in = async |certificate, name, password: &str| {
        let (status, token) = send(certificate, login_request(name, password)).await;
        assert_eq!(token.is_some(), status == 201, "{status}");
        token
    };
    let lists = async |certificate, token: &str| send(certificate, list_request(token)).await.0;

    // Any password will do, but a key that is wrong.
    let wrong = format!("{}AAAA", &of_ada[..of_ada.len() - 4]);
    let token = log_in(Some(&by_ada), "ada", "anything").await.expect("a token");
    assert_eq!(log_in(Some(&by_ada), "ada", &wrong).await, None);
    for (certificate, name) in
        [(None, "ada"), (Some(&by_bob), "ada"), (Some(&by_nobody), "ada"), (Some(&by_ada), "x")]
    {
        assert_eq!(log_in(certificate, name, "anything").await, None, "{name}");
    }
    // Also where a worker has seen the token before.
    for _ in 0..8 {
        assert_eq!(lists(Some(&by_ada), &token).await, 200);
        for thief in [None, Some(&by_bob), Some(&by_nobody)] {
            assert_eq!(lists(thief, &token).await, 401);
        }
    }
    // A token for a token is bound alike.
    let exchange = |token: &str| login(&json!({"methods": ["token"], "token": {"id": token}}));
    assert_eq!(send(Some(&by_bob), exchange(&token)).await.0, 401);
    let another = send(Some(&by_ada), exchange(&token)).await.1.expect("a token");
    assert_eq!(lists(Some(&by_ada), &another).await, 200);
    assert_eq!(lists(None, &another).await, 401);
    // One that was got with a key needs nothing else.
    let ring = Arc::clone(&keyway.app().shared().identities.keyring);
    let id = identity::key::id_of(of_ada.as_bytes()).expect("a key");
    eventually("the key is known", async || ring.get(id)).await;
    let by_key = log_in(Some(&by_ada), "ada", &of_ada).await.expect("a token");
    for certificate in [None, Some(&by_ada), Some(&by_bob)] {
        assert_eq!(lists(certificate, &by_key).await, 200);
    }

    // The certificate is another identity's from now on.
    let reloaded = Config { identities: vec![with_name("other"), bob], ..config };
    assert!(keyway.app().reload(Ok(reloaded)));
    assert_eq!(lists(Some(&by_ada), &token).await, 401);
    assert_eq!(log_in(Some(&by_ada), "ada", "anything").await, None);
    assert_eq!(lists(None, &by_key).await, 200);
}

// Promise 10.
#[tokio::test(flavor = "multi_thread")]
async fn a_connection_to_a_socket_file_is_its_users() {
    let (cloud, home) = (cloud().await, tempfile::tempdir().unwrap());
    let own = rustix::process::geteuid().as_raw();
    let socket = home.path().join("keyway.sock");
    let users = |user: u32| vec![identity::Config { users: vec![user], ..ada() }];
    let mut kept = None;
    let keyway = TestKeyway::with(&cloud, |config| {
        let mut listener = Listener::at("team", server::Address::Unix(socket.clone()));
        listener.logins = Logins::Configured;
        config.listeners.push(listener);
        config.identities = users(own);
        kept = Some(config.clone());
    })
    .await;
    let get = async || {
        let mut client = Peer::new(UnixStream::connect(&socket).await.unwrap());
        client.send("GET /compute/servers HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").await;
        String::from_utf8_lossy(&client.rest().await).into_owned()
    };
    let answer = get().await;
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    // A client that must log in says its identity's name; the token is of no use elsewhere.
    let send = async |request: String| {
        let mut client = Peer::new(UnixStream::connect(&socket).await.unwrap());
        client.send(request).await;
        client.response().await.0
    };
    let head = send(login_request("ada", "anything")).await;
    let token = field(&head, "x-subject-token").unwrap_or_else(|| panic!("{head}"));
    assert_eq!(status(&send(login_request("bob", "anything")).await), 401);
    assert_eq!(status(&send(list_request(token)).await), 200);
    assert_eq!(keyway.get_with("/compute/servers", &[("x-auth-token", token)]).await.status, 401);
    assert!(keyway.app().reload(Ok(Config { identities: users(own + 1), ..kept.unwrap() })));
    let answer = get().await;
    assert!(answer.starts_with("HTTP/1.1 401 "), "{answer}");
    assert_eq!(status(&send(list_request(token)).await), 401);
}

#[tokio::test(flavor = "multi_thread")]
async fn openstacks_own_tools_log_in_with_a_key_as_password_or_as_an_application_credential() {
    let team = Team::of(vec![ada()]).await;
    let key = team.key("ada", None).await;
    let id = &key[4..20];
    for credential in [json!({"id": id, "secret": key}), json!({"id": "ada", "secret": key})] {
        let identity = json!({"methods": ["application_credential"], "application_credential": credential});
        let answer =
            team.keyway.post("/identity/v3/auth/tokens", &json!({"auth": {"identity": identity}})).await;
        assert_eq!(answer.status, 201, "{answer:?}");
        let token = answer.header("x-subject-token").to_owned();
        team.get("/compute/servers", &token).await.passed_on(200);
    }
    let (start, _) = key.split_at(key.len() - 4);
    let wrong = json!({"id": id, "secret": format!("{start}AAAA")});
    let identity = json!({"methods": ["application_credential"], "application_credential": wrong});
    let answer = team.keyway.post("/identity/v3/auth/tokens", &json!({"auth": {"identity": identity}})).await;
    assert_eq!(answer.status, 401);
}

// Promise 73.
#[tokio::test(flavor = "multi_thread")]
async fn rights_reach_to_named_clouds_projects_and_regions_and_no_further() {
    let rights = |clouds: &[&str], projects: &[&str], regions: &[&str]| {
        let owned = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        Rights {
            clouds: owned(clouds),
            projects: owned(projects),
            regions: owned(regions),
            ..Rights::default()
        }
    };
    let team = Team::of(vec![ada()]).await;
    let key = team.key("ada", None).await;
    let check = async |rights: Rights, path: &str, rule: Option<&str>| {
        team.reload(vec![with(rights)]);
        let asked = team.cloud.requests("compute").len();
        // Once unknown, once known.
        for _ in 0..2 {
            let answer = team.get(path, &key).await;
            match rule {
                None => answer.passed_on(200),
                Some(rule) => {
                    let message = answer.message(403, "denied");
                    assert!(message.contains(&format!("`{rule}` of identity `ada`")), "{message}");
                }
            }
        }
        let asked = team.cloud.requests("compute").len() - asked;
        assert_eq!(asked, if rule.is_none() { 2 } else { 0 }, "{path}");
    };
    check(rights(&["demo"], &[], &[]), "/compute/servers", None).await;
    check(rights(&["other"], &[], &[]), "/compute/servers", Some("clouds")).await;
    check(rights(&[], &[demo::PROJECT], &[]), "/compute/servers", None).await;
    check(rights(&[], &[demo::PROJECT_ID], &[]), "/project/demo/compute/servers", None).await;
    check(rights(&[], &[demo::PROJECT], &[]), "/project/other/compute/servers", Some("projects")).await;
    // Nor does it hear which projects there are.
    check(rights(&[], &[demo::PROJECT], &[]), "/project/nowhere/compute/servers", Some("projects")).await;
    check(rights(&[], &[], &["RegionOne"]), "/compute/servers", None).await;
    check(rights(&[], &[], &["RegionTwo"]), "/compute/servers", Some("regions")).await;
    // Nor which regions and clouds there are, or what is in other regions only.
    check(rights(&[], &[], &["RegionOne"]), "/region/nowhere/compute/servers", Some("regions")).await;
    check(rights(&["demo"], &[], &[]), "/cloud/nowhere/compute/servers", Some("clouds")).await;
    team.reload(vec![with(rights(&["demo"], &[], &["RegionTwo"]))]);
    let message = team.get("/region/RegionTwo/network/networks", &key).await.message(404, "no_region");
    assert_eq!(message, "the service is in no such region; it is in none");
    let message = team.get("/region/RegionTwo/nonesuch/x", &key).await.message(404, "no_service");
    assert_eq!(message, "the catalog has no such service; it has compute, image");
    let message = team.get("/origin/http-nowhere-80/x", &key).await.message(404, "no_origin");
    assert!(message.ends_with("where there are compute, image"), "{message}");
    let host = [("host", "compute.nowhere.localhost"), ("x-auth-token", key.as_str())];
    let message = team.keyway.get_with("/v2.1/servers", &host).await.message(403, "denied");
    assert!(message.contains("`clouds` of identity `ada`"), "{message}");
    team.keyway.get_with("/v2.1/servers", &host[..1]).await.message(401, "bad_token");

    // The first project is that of requests that name none.
    team.reload(vec![with(rights(&[], &["other", "demo"], &[]))]);
    let own = team.keyway.token().await;
    for path in ["/compute/servers", "/cloud/demo/compute/servers", "/project/other/compute/servers"] {
        team.get(path, &key).await.passed_on(200);
        assert_ne!(team.sent(), own, "{path}");
    }
    team.get("/project/demo/compute/servers", &key).await.passed_on(200);

    // At /identity it is the same: no token of another project, no word of it.
    let token = log_in(&team, "ada", &key).await;
    team.get("/compute/servers", &token).await.passed_on(200);
    assert_ne!(team.sent(), own);
    team.reload(vec![with(rights(&[], &["other"], &[]))]);
    let projects = team.get("/identity/v3/auth/projects", &key).await.json();
    let names: Vec<_> =
        projects["projects"].as_array().unwrap().iter().map(|project| &project["name"]).collect();
    assert_eq!(names, ["other"]);
    let user = json!({"name": "ada", "domain": {"id": "default"}, "password": key});
    let auth = json!({"auth": {"identity": {"methods": ["password"], "password": {"user": user}},
                               "scope": {"project": {"id": demo::PROJECT_ID}}}});
    let answer = team.keyway.post("/identity/v3/auth/tokens", &auth).await;
    assert_eq!(answer.status, 401, "{answer:?}");
    assert!(answer.text().contains("only: other"), "{answer:?}");
}

// Promise 73.
#[tokio::test(flavor = "multi_thread")]
async fn the_policy_of_an_identity_holds_beside_the_others() {
    let rule = Rule {
        name: "lists".to_owned(),
        effect: Effect::Allow,
        services: vec!["compute".to_owned()],
        paths: vec!["/servers".to_owned()],
        ..Rule::default()
    };
    let policy = Policy::new("lists-only", true, Effect::Deny, vec![rule]).expect("it is right");
    let ada = with(Rights { policy: Some(Arc::new(policy)), ..Rights::default() });
    let bob = identity::Config { name: "bob".to_owned(), ..Default::default() };
    let team = Team::of(vec![ada, bob]).await;
    let (of_ada, of_bob) = (team.key("ada", None).await, team.key("bob", None).await);
    for _ in 0..2 {
        team.get("/compute/servers", &of_ada).await.passed_on(200);
        let message = team.get("/compute/flavors", &of_ada).await.message(403, "denied");
        assert!(message.contains("rule `default` of policy `lists-only`"), "{message}");
        team.get("/compute/flavors", &of_bob).await.passed_on(200);
    }
    let headers = [("x-auth-token", of_ada.as_str())];
    let answer = team.keyway.send(request(Method::DELETE, "/compute/servers/x", &headers, "")).await;
    assert!(answer.message(403, "denied").contains("read_only"));
}

// Promise 62.
#[tokio::test(flavor = "multi_thread")]
async fn an_identity_has_so_many_requests_at_a_time_and_bodies_of_so_many_bytes() {
    let one = NonZeroU32::MIN;
    let limited = identity::Config {
        limits: limits::Config { rate: Some((one, one.saturating_add(3))), requests: None },
        ..with(Rights { body: Some(10), ..Rights::default() })
    };
    let bob = identity::Config { name: "bob".to_owned(), ..Default::default() };
    let team = Team::of(vec![limited, bob]).await;
    let (of_ada, of_bob) = (team.key("ada", None).await, team.key("bob", None).await);
    let put = |key: &str, body: &'static str| {
        request(Method::PUT, "/object-store/box/thing", &[("x-auth-token", key)], body)
    };
    let container = request(Method::PUT, "/object-store/box", &[("x-auth-token", &of_bob)], "");
    team.keyway.send(container).await.passed_on(201);
    team.keyway.send(put(&of_ada, "0123456789")).await.passed_on(201);
    team.keyway.send(put(&of_ada, "0123456789+")).await.message(413, "body_too_large");
    team.keyway.send(put(&of_bob, "0123456789+")).await.passed_on(201);
    let refused = eventually("too many", async || {
        Some(team.get("/compute/servers", &of_ada).await).filter(|answer| answer.status != 200)
    })
    .await;
    assert!(refused.message(429, "too_many_requests").contains("identity `ada`"));
    assert_eq!(refused.header("retry-after"), "1");
    team.get("/compute/servers", &of_bob).await.passed_on(200);
    let counted = team.keyway.metric("keyway_identity_limited_total{identity=\"ada\",limit=\"rate\"}").await;
    assert!(counted >= 1.0);
    // A reload does not start anew.
    let mut refused = false;
    for _ in 0..3 {
        team.reload(team.config.identities.clone());
        refused |= team.get("/compute/servers", &of_ada).await.status == 429;
    }
    assert!(refused);
}
