//! Tokens of keyway's own: whose request is it, and who may send one at all?

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use keyway::config::Config;
use keyway::demo::{self, Cloud};
use keyway::facade::{Config as Facade, Keys, Logins, Session, View, Vouched, random_id};
use keyway::identity;
use keyway::keystone::{Project, Scope, Secret};
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::facade;
use crate::support::{Answer, Connection, Process, TestKeyway, cloud, cloud_variables, eventually, request};

const PASSWORD: &str = "canary-hunter2-of-ada";

/// Nobody's token, which looks like one.
const FOREIGN: &str = "gAAAAABpIT8AAAECAwQFBgcICQoLDA0ODwABAgMEBQYHCAkKCwwNDg8AAQIDBAUGBwgJCgsMDQ4P\
                       AAECAwQFBgcICQoLDA0ODwABAgMEBQYHCAkKCwwNDg8=";

fn now() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs();
    i64::try_from(now).expect("a time in this millennium")
}

fn other_project() -> Scope {
    Scope::Project(Project::Id(demo::OTHER_PROJECT_ID.to_owned()))
}

fn session(cloud: &str, scope: Scope) -> Session {
    Session {
        id: random_id(),
        key: (cloud.into(), scope),
        login: None,
        methods: vec!["password".to_owned()],
        issued_at: now(),
        expires_at: now() + 3600,
    }
}

fn ada() -> identity::Config {
    identity::Config { name: "ada".to_owned(), password: Some(Secret::new(PASSWORD)), ..Default::default() }
}

/// What ada shows.
fn vouched(keys: &Keys) -> Vouched {
    keys.vouch("ada", &Secret::new(PASSWORD))
}

/// Its main listener takes configured logins only, of which there is one.
fn strict(config: &mut Config) {
    config.listeners[0].logins = Logins::Configured;
    config.identities = vec![ada()];
}

fn keep_state(directory: &Path) -> impl FnOnce(&mut Config) {
    let state = Some(directory.to_owned());
    move |config| config.facade.state = state
}

fn seal(keyway: &TestKeyway, session: &Session) -> String {
    keyway.app().shared().keys.seal(session)
}

/// A token that ada got.
fn ada_token(keyway: &TestKeyway) -> String {
    let keys = &keyway.app().shared().keys;
    keys.seal(&Session { login: Some(vouched(keys)), ..session("demo", Scope::Default) })
}

async fn get(keyway: &TestKeyway, path: &str, token: &str) -> Answer {
    keyway.get_with(path, &[("x-auth-token", token)]).await
}

/// Checks that this is Keystone's 401, which makes a client log in again; its message.
#[track_caller]
fn unauthorized(answer: &Answer, keyway: &TestKeyway, identity: &str) -> String {
    let message = answer.message(401, "bad_token");
    assert_eq!(answer.json()["error"]["title"], "Unauthorized");
    let uri = format!("Keystone uri=\"http://{}{identity}\"", keyway.listen());
    assert_eq!(answer.header("www-authenticate"), uri);
    message
}

/// What the local Keystone says of a token to someone who may ask.
async fn validate(keyway: &TestKeyway, token: &str) -> Answer {
    let subject = [("x-auth-token", "anybody's"), ("x-subject-token", token)];
    keyway.get_with("/identity/v3/auth/tokens", &subject).await
}

async fn refused(keyway: &TestKeyway, why: &str) -> f64 {
    keyway.metric(&format!("keyway_sessions_refused_total{{why=\"{why}\"}}")).await
}

async fn logins(keyway: &TestKeyway, result: &str) -> f64 {
    keyway.metric(&format!("keyway_logins_total{{result=\"{result}\"}}")).await
}

/// The project of the last server list that compute was asked for.
fn last_token(cloud: &Cloud) -> String {
    let seen = cloud.requests("compute").pop().expect("a request");
    let mut tokens = seen.headers.get_all("x-auth-token").iter();
    let token = tokens.next().expect("a token").to_str().expect("ASCII").to_owned();
    assert!(tokens.next().is_none() && seen.token_was_good);
    token
}

// Promise 20.
#[tokio::test(flavor = "multi_thread")]
async fn a_request_runs_with_the_scope_of_its_session() {
    let cloud = cloud().await;
    let keyway = TestKeyway::in_front_of(&cloud).await;
    let own = keyway.token().await;
    let token = seal(&keyway, &session("demo", other_project()));
    for _ in 0..3 {
        assert_eq!(get(&keyway, "/compute/servers", &token).await.status, 200);
        let sent = last_token(&cloud);
        assert!(sent != own && sent != token);
    }
    assert_eq!(cloud.token_requests(), 2, "one login for the other project");
    // The name that Swift had for it counts where there is no other.
    let elsewhere = last_token(&cloud);
    for (fields, sent) in [
        (&[("x-storage-token", token.as_str())][..], &elsewhere),
        (&[("x-storage-token", token.as_str()), ("x-auth-token", "anything")], &own),
        (&[("x-storage-token", "anything")], &own),
    ] {
        assert_eq!(keyway.get_with("/compute/servers", fields).await.status, 200);
        assert_eq!(last_token(&cloud), *sent);
    }
    let token = seal(&keyway, &session("demo", Scope::Default));
    assert_eq!(get(&keyway, "/compute/servers", &token).await.status, 200);
    assert_eq!(last_token(&cloud), own);
    // Dummies are nothing.
    for dummy in ["anything", "", "gAAAA", "GAAAAA"] {
        assert_eq!(get(&keyway, "/compute/servers", dummy).await.status, 200);
        assert_eq!(last_token(&cloud), own);
    }
    assert_eq!(keyway.get("/compute/servers").await.status, 200);
    assert_eq!((cloud.token_requests(), last_token(&cloud)), (2, own));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_is_not_good_makes_its_client_log_in_again() {
    let cloud = cloud().await;
    let keyway = TestKeyway::in_front_of(&cloud).await;
    let good = session("demo", Scope::Default);
    let token = seal(&keyway, &good);
    let expired = seal(&keyway, &Session { expires_at: now() - 1, ..good.clone() });
    let revoked = session("demo", Scope::Default);
    let revoked_token = seal(&keyway, &revoked);
    assert_eq!(get(&keyway, "/compute/servers", &revoked_token).await.status, 200);
    keyway.app().shared().keys.revoke(&revoked).await;
    let asked = cloud.requests("compute").len();
    let (beginning, last) = token.split_at(token.len() - 1);
    let forged = format!("{beginning}{}", if last == "A" { "B" } else { "A" });
    for (bad, expected, why) in [
        (FOREIGN, "none of keyway's", "foreign"),
        (&token[..token.len() - 8], "none of keyway's", "foreign"),
        (&forged, "none of keyway's", "foreign"),
        (&Keys::default().seal(&good), "none of keyway's", "foreign"),
        (&cloud_token(&cloud, &keyway).await, "none of keyway's", "foreign"),
        ("gAAAAA", "none of keyway's", "foreign"),
        (&expired, "has expired", "expired"),
        (&revoked_token, "was revoked", "revoked"),
    ] {
        for path in ["/compute/servers", "/cloud/demo/compute/servers", "/identity/v3/users"] {
            let before = refused(&keyway, why).await;
            let answer = get(&keyway, path, bad).await;
            let identity = if path.starts_with("/cloud") { "/cloud/demo/identity" } else { "/identity" };
            let message = unauthorized(&answer, &keyway, identity);
            assert!(message.contains(expected) && message.contains("log in"), "{message}");
            assert_eq!(refused(&keyway, why).await, before + 1.0);
            assert!(!answer.text().contains(bad) && !format!("{:?}", answer.headers).contains(bad));
        }
    }
    assert_eq!(cloud.requests("compute").len(), asked, "nothing of it reached the cloud");
    assert_eq!(get(&keyway, "/compute/servers", &token).await.status, 200);
}

/// A token of the cloud's own, which begins as ours do.
async fn cloud_token(cloud: &Cloud, keyway: &TestKeyway) -> String {
    let token = keyway.token().await;
    assert!(cloud.accepts(&token));
    if token.starts_with("gAAAAA") { token } else { format!("gAAAAA{token}") }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_is_good_for_its_own_cloud_and_its_own_scope() {
    let (one, two) = (cloud().await, cloud().await);
    let mut lab = two.keystone_config();
    lab.name = "lab".to_owned();
    let keyway = TestKeyway::cold(vec![one.keystone_config(), lab], |_| {});
    let (demo, lab) = (session("demo", Scope::Default), session("lab", Scope::Default));
    let (demo, lab) = (seal(&keyway, &demo), seal(&keyway, &lab));
    assert_eq!(get(&keyway, "/compute/servers", &demo).await.status, 200);
    assert_eq!(get(&keyway, "/cloud/lab/compute/servers", &lab).await.status, 200);
    let message = unauthorized(
        &get(&keyway, "/cloud/lab/compute/servers", &demo).await,
        &keyway,
        "/cloud/lab/identity",
    );
    assert!(message.contains("for another cloud"), "{message}");
    unauthorized(&get(&keyway, "/compute/servers", &lab).await, &keyway, "/identity");
    assert_eq!(refused(&keyway, "other_cloud").await, 2.0);
    assert_eq!((one.requests("compute").len(), two.requests("compute").len()), (1, 1));
    let answer = get(&keyway, "/project/other/compute/servers", &demo).await;
    answer.message(403, "token_scope");
}

// Promises 20, 46.
#[tokio::test(flavor = "multi_thread")]
async fn no_token_of_keyways_own_reaches_the_cloud() {
    let cloud = cloud().await;
    let keyway = TestKeyway::in_front_of(&cloud).await;
    let token = seal(&keyway, &session("demo", Scope::Default));
    let bare = token.trim_end_matches('=');
    let asked = cloud.requests("identity").len();
    for (path, subject) in [
        ("/identity/v3/users".to_owned(), token.as_str()),
        ("/compute/servers".to_owned(), token.as_str()),
        (format!("/identity/v2.0/tenants/{token}"), ""),
        (format!("/identity/v2.0/tenants/{}/x", token.replace('=', "%3D")), ""),
        (format!("/identity/v3/users?token={token}"), ""),
        (format!("/identity/v3/users?token={bare}&x=y"), ""),
    ] {
        let subject = Some(("x-subject-token", subject)).filter(|(_, value)| !value.is_empty());
        let headers: Vec<_> = [("x-auth-token", token.as_str())].into_iter().chain(subject).collect();
        keyway.get_with(&path, &headers).await.message(404, "own_token");
    }
    assert_eq!((cloud.requests("identity").len(), cloud.requests("compute").len()), (asked, 0));
    // Another token is the cloud's business.
    keyway.get_with("/identity/v3/users", &[("x-subject-token", FOREIGN)]).await.passed_on(200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_listener_with_logins_serves_nobody_else() {
    let cloud = cloud().await;
    let keyway = TestKeyway::with(&cloud, strict).await;
    for path in ["/compute/servers", "/cloud/nobodys/compute", "/nothing", "/compute/../x"] {
        let message = unauthorized(
            &keyway.get(path).await,
            &keyway,
            if path.starts_with("/cloud") { "/cloud/nobodys/identity" } else { "/identity" },
        );
        assert!(message.contains("it brings none"), "{message}");
    }
    assert_eq!(refused(&keyway, "no_token").await, 4.0);
    // From a listener where anybody may log in.
    let anybodys = seal(&keyway, &session("demo", Scope::Default));
    unauthorized(&get(&keyway, "/compute/servers", &anybodys).await, &keyway, "/identity");
    assert_eq!(cloud.requests("compute").len(), 0);

    for token in [PASSWORD, &ada_token(&keyway)] {
        for _ in 0..3 {
            assert_eq!(get(&keyway, "/compute/servers", token).await.status, 200);
            assert!(!last_token(&cloud).contains(token));
        }
    }
    // Who may log in is no matter of the admin listener's.
    assert_eq!(keyway.admin_get("/livez").await.status, 200);
}

/// A login by Identity v3.
async fn log_in(keyway: &TestKeyway, name: &str, password: &str) -> Answer {
    let user = json!({"name": name, "domain": {"id": "default"}, "password": password});
    log_in_with(keyway, json!({"methods": ["password"], "password": {"user": user}})).await
}

async fn log_in_with(keyway: &TestKeyway, identity: Value) -> Answer {
    keyway.post("/identity/v3/auth/tokens", &json!({"auth": {"identity": identity}})).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_configured_login_gets_a_token_and_nobody_else_does() {
    let cloud = cloud().await;
    let keyway = TestKeyway::with(&cloud, strict).await;
    // Whoever wants to log in has to find out how.
    assert_eq!(keyway.get("/identity").await.status, 300);
    assert_eq!(keyway.get("/identity/v3").await.status, 200);
    unauthorized(&keyway.get("/identity/v3/auth/catalog").await, &keyway, "/identity");
    unauthorized(&keyway.get("/identity/v3/users").await, &keyway, "/identity");

    let mut answers = Vec::new();
    for (name, password) in [("ada", "another-password"), ("bob", PASSWORD), ("ada", ""), (PASSWORD, "ada")] {
        let answer = log_in(&keyway, name, password).await;
        facade::refused(&answer, 401);
        assert!(!answer.text().contains(PASSWORD));
        answers.push(answer.body);
    }
    answers.dedup();
    assert_eq!(answers.len(), 1, "what was wrong is not told");
    for identity in [
        json!({"methods": ["token"], "token": {"id": "anything"}}),
        json!({"methods": ["token"], "token": {"id": FOREIGN}}),
        json!({"methods": ["token"], "token": {"id": seal(&keyway, &session("demo", Scope::Default))}}),
        json!({"methods": ["totp"], "totp": {"user": {"id": "ada", "passcode": "1"}}}),
    ] {
        facade::refused(&log_in_with(&keyway, identity).await, 401);
    }
    let keyed = [("x-auth-user", "demo:ada"), ("x-auth-key", "another-password")];
    assert_eq!(keyway.get_with("/auth/v1.0", &keyed).await.status, 401);
    assert_eq!((logins(&keyway, "ok").await, logins(&keyway, "refused").await), (0.0, 5.0));

    let token = facade::issued(&log_in(&keyway, "ada", PASSWORD).await);
    assert!(token.starts_with("gAAAAA"));
    assert_eq!(get(&keyway, "/compute/servers", &token).await.status, 200);
    assert_eq!(get(&keyway, "/identity/v3/auth/catalog", &token).await.status, 200);
    let again = log_in_with(&keyway, json!({"methods": ["token"], "token": {"id": token}})).await;
    assert_eq!(get(&keyway, "/compute/servers", &facade::issued(&again)).await.status, 200);
    assert_eq!(logins(&keyway, "ok").await, 2.0);

    let revoked = keyway.about(http::Method::DELETE, "/identity/v3/auth/tokens", &token).await;
    assert_eq!(revoked.status, 204);
    let message = unauthorized(&get(&keyway, "/compute/servers", &token).await, &keyway, "/identity");
    assert!(message.contains("revoked"), "{message}");
    facade::issued(&log_in(&keyway, "ada", PASSWORD).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn passwords_are_not_there_to_be_guessed() {
    let cloud = cloud().await;
    let keyway = TestKeyway::with(&cloud, strict).await;
    let known = ada_token(&keyway);
    let mut connection = keyway.connect().await;
    let mut guess = async |password: &str| {
        let headers = [("x-auth-token", password)];
        connection.send(request(http::Method::GET, "/compute/servers", &headers, "")).await
    };
    let mut wrong = 0;
    let limited = loop {
        let answer = guess(&format!("{PASSWORD}{wrong}")).await;
        if answer.status == 429 {
            break answer;
        }
        unauthorized(&answer, &keyway, "/identity");
        wrong += 1;
        assert!(wrong < 10_000, "nothing stops it");
    };
    assert!(wrong >= 10, "{wrong}");
    let message = limited.message(429, "too_many_logins");
    assert!(message.contains("try again"), "{message}");
    assert!(limited.header("retry-after").parse::<u64>().expect("seconds") >= 1);
    assert_eq!(logins(&keyway, "refused").await, f64::from(wrong));
    assert!(logins(&keyway, "limited").await >= 1.0);
    log_in(&keyway, "ada", "another-password").await.message(429, "too_many_logins");
    // Who is logged in goes on, and nothing of it reached the cloud.
    assert_eq!(cloud.requests("compute").len(), 0);
    assert_eq!(get(&keyway, "/compute/servers", &known).await.status, 200);
    // The right one is right again soon.
    eventually("the right password", async || (guess(PASSWORD).await.status == 200).then_some(())).await;
}

// Promise 84.
#[tokio::test(flavor = "multi_thread")]
async fn sessions_survive_a_restart_and_revoked_ones_do_not() {
    let (cloud, home) = (cloud().await, tempfile::tempdir().expect("a directory for temporary files"));
    let state = home.path().join("state");
    let keyway = TestKeyway::with(&cloud, keep_state(&state)).await;
    let (kept, revoked) = (session("demo", other_project()), session("demo", Scope::Default));
    let (token, revoked_token) = (seal(&keyway, &kept), seal(&keyway, &revoked));
    keyway.app().shared().keys.revoke(&revoked).await;
    drop(keyway);

    let keyway = TestKeyway::with(&cloud, keep_state(&state)).await;
    assert_eq!(get(&keyway, "/compute/servers", &token).await.status, 200);
    unauthorized(&get(&keyway, "/compute/servers", &revoked_token).await, &keyway, "/identity");

    // Another keyway beside it knows its tokens, and hears of what it revokes.
    let beside = TestKeyway::with(&cloud, keep_state(&state)).await;
    assert_eq!(get(&beside, "/compute/servers", &token).await.status, 200);
    keyway.app().shared().keys.revoke(&kept).await;
    eventually("the revocation", async || {
        (get(&beside, "/compute/servers", &token).await.status == 401).then_some(())
    })
    .await;
    for file in ["keys", "revoked"] {
        let mode = fs::metadata(state.join(file)).expect("a file").permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{file}");
    }
    // Neither token nor scope stands there.
    let written = fs::read_to_string(state.join("revoked")).expect("a file");
    assert!(!written.contains("gAAAAA") && !written.contains(demo::OTHER_PROJECT_ID), "{written}");
}

/// Reloads a keyway's configuration: the test's own with these changes.
fn reload(keyway: &TestKeyway, cloud: &Cloud, change: impl FnOnce(&mut Config)) {
    let env = keyway::config::Env::new::<&str, &str>([], "/nonexistent").with_root("/nonexistent");
    let overrides = keyway::config::Overrides {
        listen: Some("127.0.0.1:0".to_owned()),
        admin: Some("127.0.0.1:0".to_owned()),
        workers: Some("2".to_owned()),
        ..Default::default()
    };
    let mut config = Config::load_without_clouds(&overrides, &env).expect("defaults are right");
    config.clouds = vec![cloud.keystone_config()];
    change(&mut config);
    assert!(keyway.app().reload(Ok(config)));
}

// Promise 71.
#[tokio::test(flavor = "multi_thread")]
async fn a_reload_ends_the_sessions_of_a_login_that_is_gone_or_has_another_password() {
    let cloud = cloud().await;
    let keyway = TestKeyway::with(&cloud, strict).await;
    let token = ada_token(&keyway);
    let revoked =
        Session { login: Some(vouched(&keyway.app().shared().keys)), ..session("demo", Scope::Default) };
    let revoked_token = seal(&keyway, &revoked);
    keyway.app().shared().keys.revoke(&revoked).await;
    let reload = |identities: Vec<identity::Config>| {
        reload(&keyway, &cloud, |config| {
            strict(config);
            config.identities = identities.clone();
        });
    };
    assert_eq!(get(&keyway, "/compute/servers", &token).await.status, 200);
    reload(vec![ada()]);
    assert_eq!(get(&keyway, "/compute/servers", &token).await.status, 200);
    assert_eq!(get(&keyway, "/compute/servers", PASSWORD).await.status, 200);
    assert!(
        unauthorized(&get(&keyway, "/compute/servers", &revoked_token).await, &keyway, "/identity")
            .contains("revoked")
    );
    let other = identity::Config { password: Some(Secret::new("another-password")), ..ada() };
    reload(vec![other]);
    for token in [token.as_str(), PASSWORD] {
        unauthorized(&get(&keyway, "/compute/servers", token).await, &keyway, "/identity");
    }
    assert_eq!(refused(&keyway, "login_changed").await, 1.0);
    let bob = identity::Config { name: "bob".to_owned(), ..ada() };
    reload(vec![bob]);
    unauthorized(&get(&keyway, "/compute/servers", &token).await, &keyway, "/identity");
    reload(vec![ada()]);
    assert_eq!(get(&keyway, "/compute/servers", &token).await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reload_ends_the_sessions_of_a_project_that_is_no_longer_listed() {
    let cloud = cloud().await;
    let keyway = TestKeyway::in_front_of(&cloud).await;
    let listing = |project: &str| {
        reload(&keyway, &cloud, |config| {
            let view = View { projects: vec![project.to_owned()], ..View::default() };
            config.facade.clouds.insert(config.clouds[0].name.clone(), view);
        });
    };
    let token = seal(&keyway, &session("demo", other_project()));
    let other = seal(&keyway, &session("demo", Scope::Project(Project::Id(demo::PROJECT_ID.to_owned()))));
    for listed in [demo::OTHER_PROJECT, demo::OTHER_PROJECT_ID] {
        listing(listed);
        assert_eq!(get(&keyway, "/compute/servers", &token).await.status, 200);
        assert_eq!(validate(&keyway, &token).await.status, 200);
        unauthorized(&get(&keyway, "/compute/servers", &other).await, &keyway, "/identity");
    }
    listing(demo::PROJECT);
    unauthorized(&get(&keyway, "/compute/servers", &token).await, &keyway, "/identity");
    assert_eq!(validate(&keyway, &token).await.status, 404);
    assert_eq!(get(&keyway, "/compute/servers", &other).await.status, 200);
}

// Promises 74, 75, 76, 79, 84.
#[tokio::test(flavor = "multi_thread")]
async fn the_program_keeps_its_keys_and_tells_no_token_and_no_password() {
    let (cloud, home) = (cloud().await, tempfile::tempdir().expect("a directory for temporary files"));
    let toml = home.path().join(".config/keyway/keyway.toml");
    fs::create_dir_all(toml.parent().expect("a parent")).expect("directories");
    let text = format!("[listener.main]\nlogin = 'configured'\n[identity.ada]\npassword = '{PASSWORD}'\n");
    fs::write(&toml, text).expect("a file");
    fs::set_permissions(&toml, fs::Permissions::from_mode(0o600)).expect("permissions");
    let arguments =
        ["--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--log-format", "json", "--log-level", "trace"];

    let state = home.path().join(".local/state/keyway");
    let mut process = Process::start(home.path(), &arguments, &cloud_variables(&cloud));
    let (listen, admin) = process.addresses().await;
    assert!(!state.exists(), "nothing is written before there is a token");
    let config = Facade { state: Some(state.clone()), ..Facade::default() };
    let keys = Keys::load(&config);
    let good = Session { login: Some(vouched(&keys)), ..session("envvars", Scope::Default) };
    let (token, bad) = (keys.seal(&good), keys.seal(&Session { expires_at: 1, ..good.clone() }));
    let key = fs::read_to_string(state.join("keys")).expect("a key").trim().to_owned();
    let send = async |address: &str, path: &str, token: &str| {
        let mut connection = Connection::open(address.parse().expect("an address")).await;
        let headers = [("x-auth-token", token)];
        connection.send(request(http::Method::GET, path, &headers, "")).await
    };
    eventually("the key that was just made", async || {
        (send(&listen, "/compute/servers", &token).await.status == 200).then_some(())
    })
    .await;
    let mut said = String::new();
    for (token, path, status) in [
        (token.as_str(), "/compute/servers".to_owned(), 200),
        (PASSWORD, "/compute/servers".to_owned(), 200),
        (&bad, "/compute/servers".to_owned(), 401),
        (&format!("{PASSWORD}x"), "/compute/servers".to_owned(), 401),
        (&token, format!("/identity/v2.0/tokens/{bad}"), 404),
        (&token, "/nothing".to_owned(), 404),
    ] {
        let answer = send(&listen, &path, token).await;
        assert_eq!(answer.status, status, "{path} {answer:?}");
        said.push_str(&format!("{:?} {}", answer.headers, answer.text()));
    }
    for path in ["/metrics", "/status"] {
        said.push_str(&send(&admin, path, "").await.text());
    }
    // What was revoked elsewhere is so here, and over a restart.
    keys.revoke(&good).await;
    eventually("the revocation", async || {
        (send(&listen, "/compute/servers", &token).await.status == 401).then_some(())
    })
    .await;
    process.signal(Signal::TERM);
    process.exit().await;
    said.push_str(&process.stdout());
    said.push_str(&process.stderr());
    assert!(process.stderr().contains("/compute/servers"), "the log has requests");
    for secret in [PASSWORD, &token, &token[20..60], &bad, &key] {
        assert!(!said.contains(secret), "{secret} was told");
    }
    let process = Process::start(home.path(), &arguments, &cloud_variables(&cloud));
    let (listen, _) = process.addresses().await;
    assert_eq!(send(&listen, "/compute/servers", &token).await.status, 401);
    assert_eq!(
        send(&listen, "/compute/servers", &keys.seal(&Session { id: random_id(), ..good })).await.status,
        200
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn where_nothing_can_be_written_keyway_says_so_and_serves() {
    let (cloud, home) = (cloud().await, tempfile::tempdir().expect("a directory for temporary files"));
    let file = home.path().join("file");
    fs::write(&file, "").expect("a file");
    let state = format!("{}/keyway", file.display());
    let mut variables = cloud_variables(&cloud);
    variables.push(("KEYWAY_FACADE_STATE", state));
    let arguments = ["--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--log-format", "json"];
    let process = Process::start(home.path(), &arguments, &variables);
    let (listen, _) = process.addresses().await;
    let mut connection = Connection::open(listen.parse().expect("an address")).await;
    let answer = connection.send(request(http::Method::GET, "/compute/servers", &[], "")).await;
    assert_eq!(answer.status, 200);
    let told = process.stderr();
    let warnings: Vec<_> = told.lines().filter(|line| line.contains("\"WARN\"")).collect();
    assert_eq!(warnings.len(), 1, "{told}");
    assert!(
        warnings[0].contains("end with this process") && warnings[0].contains("facade.state"),
        "{warnings:?}"
    );
    assert!(!home.path().join(".local").exists());
}
