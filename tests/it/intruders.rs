//! What an identity tries that wants more than its own, and what somebody tries who has none.

use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::os::unix::fs::PermissionsExt as _;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::Method;
use keyway::config::{Config, Listener};
use keyway::demo::{self, Cloud};
use keyway::facade::Logins;
use keyway::identity::{self, Rights, limits};
use keyway::keystone::Secret;
use keyway::policy::{Effect, Policy, Rule};
use keyway::server::certificate::SubjectName;
use keyway::server::tls::Clients;
use keyway::server::{self, Address};
use rcgen::{CertificateParams, ExtendedKeyUsagePurpose};
use rustls::pki_types::ServerName;
use serde_json::{Value, json};
use tokio::net::{TcpSocket, TcpStream, UnixStream};
use tokio_rustls::TlsConnector;

use crate::identities::{Team, ada, basic, log_in, with};
use crate::support::raw::{Peer, status};
use crate::support::tls::{self, Authority};
use crate::support::{Answer, Process, TestKeyway, cloud, cloud_variables, eventually, request};

const PASSWORD: &str = "hunter2-of-bob";

/// An identity that may use the other project only.
fn bob() -> identity::Config {
    let rights = Rights { projects: vec![demo::OTHER_PROJECT.to_owned()], ..Rights::default() };
    identity::Config {
        name: "bob".to_owned(),
        password: Some(Secret::new(PASSWORD)),
        rights,
        ..identity::Config::default()
    }
}

fn by_password(name: &str, password: &str) -> Value {
    let user = json!({"name": name, "domain": {"id": "default"}, "password": password});
    json!({"methods": ["password"], "password": {"user": user}})
}

fn by_token(token: &str) -> Value {
    json!({"methods": ["token"], "token": {"id": token}})
}

/// Everything that any service of the cloud has seen, as text.
fn seen(team: &Team) -> String {
    let services =
        ["identity", "compute", "image", "network", "block-storage", "object-store", "orchestration"];
    let requests = services.iter().flat_map(|service| team.cloud.requests(service));
    requests.map(|seen| format!("{} {:?} {:?}\n", seen.target, seen.headers, seen.trailers)).collect()
}

fn count(team: &Team, service: &str) -> usize {
    team.cloud.requests(service).len()
}

// Promises 20, 73.
#[tokio::test(flavor = "multi_thread")]
async fn of_two_things_shown_the_token_counts_and_what_is_wrong_is_not_made_up_for() {
    let team = Team::of(vec![ada(), bob()]).await;
    let (of_ada, of_bob) = (team.key("ada", None).await, team.key("bob", None).await);
    let (token_of_ada, token_of_bob) =
        (log_in(&team, "ada", &of_ada).await, log_in(&team, "bob", &of_bob).await);
    let own = team.keyway.token().await;
    let bearer = |key: &str| format!("Bearer {key}");
    let both =
        |one: &str, other: &str| vec![("x-auth-token", one.to_owned()), ("authorization", bearer(other))];
    for (fields, is_ada) in [
        (both(&of_ada, &of_bob), true),
        (both(&of_bob, &of_ada), false),
        (both(&token_of_bob, &of_ada), false),
        (both(&token_of_ada, &of_bob), true),
        (vec![("x-auth-token", of_bob.clone()), ("x-storage-token", of_ada.clone())], false),
        (vec![("x-auth-token", of_bob.clone()), ("x-auth-token", of_ada.clone())], false),
        (vec![("x-auth-token", token_of_bob.clone()), ("x_auth_token", of_ada.clone())], false),
        (vec![("x-auth-token", of_bob.clone()), ("x-service-token", of_ada.clone())], false),
        (vec![("authorization", bearer(&of_bob)), ("authorization", bearer(&of_ada))], false),
        (vec![("authorization", bearer(&of_bob)), ("proxy-authorization", bearer(&of_ada))], false),
    ] {
        for _ in 0..2 {
            let shown: Vec<_> = fields.iter().map(|(name, value)| (*name, value.as_str())).collect();
            team.keyway.get_with("/compute/servers", &shown).await.passed_on(200);
            assert_eq!(team.sent() == own, is_ada, "{fields:?}");
        }
    }
    let asked = count(&team, "compute");
    for fields in [
        both("wrong", &of_ada),
        both("", &of_ada),
        both("gAAAAAwrong", &of_ada),
        vec![("x-storage-token", "wrong".to_owned()), ("authorization", bearer(&of_ada))],
        vec![("authorization", "Bearer wrong".to_owned()), ("authorization", bearer(&of_ada))],
    ] {
        let shown: Vec<_> = fields.iter().map(|(name, value)| (*name, value.as_str())).collect();
        team.keyway.get_with("/compute/servers", &shown).await.message(401, "bad_token");
    }
    // Where nobody looks for it.
    for name in [
        "x_auth_token",
        "x-subject-token",
        "x-service-token",
        "x-auth-key",
        "openstack-auth-token",
        "proxy-authorization",
        "cookie",
        "auth-token",
    ] {
        team.keyway.get_with("/compute/servers", &[(name, &of_ada)]).await.message(401, "bad_token");
    }
    for path in [
        format!("/compute/servers?token={of_ada}"),
        format!("/object-store/x/y?temp_url_sig={of_ada}&temp_url_expires=9"),
    ] {
        team.keyway.get(&path).await.message(401, "bad_token");
    }
    assert_eq!(count(&team, "compute"), asked);
    assert!(!seen(&team).contains("kwk_"));
}

// Promise 73.
#[tokio::test(flavor = "multi_thread")]
async fn a_key_has_one_spelling() {
    let team = Team::of(vec![ada(), bob()]).await;
    let key = team.key("ada", None).await;
    let (id, start) = (key[4..20].to_owned(), &key[..key.len() - 1]);
    let mut tried = Vec::new();
    // Four of 64 last characters stand for the same 32 bytes.
    let alphabet = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    for last in alphabet.iter().filter(|last| **last != key.as_bytes()[key.len() - 1]) {
        tried.push(("x-auth-token", format!("{start}{}", char::from(*last))));
    }
    let bytes = STANDARD.encode(format!(":{key}"));
    for text in [
        format!("{key}="),
        format!("{key}x"),
        format!("\"{key}\""),
        format!("{key}, {key}"),
        key.to_uppercase(),
        key.to_lowercase(),
        key.replacen("kwk_", "KWK_", 1),
        key.replacen(&id, &id.to_uppercase(), 1),
        format!("{key}{}", "x".repeat(20_000)),
        id.clone(),
    ] {
        // Some of them are no other ones, where a key has nothing but digits.
        if text != key {
            tried.push(("x-auth-token", text.clone()));
            tried.push(("authorization", format!("Bearer {text}")));
            tried.push(("authorization", basic("ada", &text)));
        }
    }
    tried.extend([
        ("authorization", format!("Basic {}", bytes.trim_end_matches('=').to_owned() + "====")),
        ("authorization", format!("Basic {} {}", &bytes[..20], &bytes[20..])),
        ("authorization", format!("Basic {}", STANDARD.encode(&key))),
        ("authorization", format!("Basic {}", STANDARD.encode(format!("\0:{key}")))),
        ("authorization", format!("Basic {}", STANDARD.encode(format!("ada\0:{key}")))),
        ("authorization", format!("Basic {}", STANDARD.encode(format!("ADA:{key}")))),
        ("authorization", format!("Basic {}", STANDARD.encode(format!("bob:{key}")))),
        ("authorization", format!("Basic {}", STANDARD.encode(format!("ada:{key}\n")))),
        ("authorization", format!("Basic {}", STANDARD.encode([b"\xff:", key.as_bytes()].concat()))),
        ("authorization", format!("Digest {key}")),
        ("authorization", format!("Bearer{key}")),
        ("authorization", key.clone()),
        ("authorization", "Basic".to_owned()),
        ("authorization", "Basic ".to_owned()),
    ]);
    for (name, value) in &tried {
        let answer = team.keyway.get_with("/compute/servers", &[(*name, value)]).await;
        // Too many wrong ones are answered without a look.
        assert!([401, 429].contains(&answer.status), "{name}: {value}: {answer:?}");
    }
    assert_eq!(count(&team, "compute"), 0);
    // A right one is right all the same, though nobody has seen it before.
    let new = team.key("ada", None).await;
    team.get("/compute/servers", &new).await.passed_on(200);
}

// Promises 22, 73.
#[tokio::test(flavor = "multi_thread")]
async fn a_key_stays_here_wherever_its_client_puts_it() {
    let team = Team::of(vec![ada()]).await;
    let key = team.key("ada", None).await;
    let encoded = key.replace('_', "%5F");
    let subject = [("x-auth-token", key.as_str()), ("x-subject-token", key.as_str())];
    for (method, path, status) in [
        (Method::GET, "/identity/v3/auth/tokens", 404),
        (Method::HEAD, "/identity/v3/auth/tokens", 404),
        // A write at Keystone, if it were not of keyway's own.
        (Method::DELETE, "/identity/v3/auth/tokens", 403),
        (Method::GET, "/identity/v3/auth/tokens/", 404),
        (Method::GET, "/compute/servers", 404),
    ] {
        let answer = team.keyway.send(request(method.clone(), path, &subject, "")).await;
        assert_eq!(answer.status, status, "{method} {path}: {answer:?}");
    }
    for path in [format!("/identity/v2.0/tokens/{key}"), format!("/identity/v2.0/tokens/{encoded}/endpoints")]
    {
        team.get(&path, &key).await.message(404, "own_token");
    }
    for (name, value) in [
        ("x-auth-key", key.as_str()),
        ("x-storage-pass", &key),
        ("authorization", &format!("Bearer {key}")),
        ("proxy-authorization", &key),
        ("cookie", &format!("k={key}")),
        ("x-service-token", &key),
        ("x-storage-token", &key),
        ("x_auth_key", &key),
    ] {
        for path in ["/object-store/auth/v1.0/", "/object-store", "/image/images"] {
            let answer = team.keyway.get_with(path, &[("x-auth-token", &key), (name, value)]).await;
            assert!(answer.headers.get("x-keyway-error").is_none(), "{path} {name}: {answer:?}");
        }
    }
    // A login is for keyway, however its path is written.
    let login = json!({"auth": {"identity": by_password("ada", &key)}});
    for path in [
        "/identity/v3/auth/tokens/",
        "/identity/v3//auth/tokens",
        "/identity/v3/auth/token%73",
        "/identity/v3/auth%2Ftokens",
        "/identity/auth/tokens",
        "/identity//v3/auth/tokens",
        "/v3/auth/tokens/",
    ] {
        for shown in [&[("x-auth-token", key.as_str())][..], &[]] {
            let asked = count(&team, "identity");
            let body = login.to_string();
            let answer = team.keyway.send(request(Method::POST, path, shown, body)).await;
            assert!([400, 401].contains(&answer.status), "{path}: {answer:?}");
            assert_eq!(count(&team, "identity"), asked, "{path}");
        }
    }
    let seen = seen(&team);
    assert!(!seen.contains(&key[21..]), "{seen}");
}

// Promise 73.
#[tokio::test(flavor = "multi_thread")]
async fn another_spelling_of_a_list_tells_an_identity_no_more_than_its_own() {
    let team = Team::of(vec![bob()]).await;
    let key = team.key("bob", None).await;
    let root = team.cloud.identity_root();
    let port = root.rsplit_once(':').expect("a port").1.trim_end_matches('/');
    let list = team.get("/identity/v3/auth/projects", &key).await;
    assert_eq!((list.status, list.text().contains("\"demo\"")), (200, false), "{list:?}");
    let asked = count(&team, "identity");
    for path in [
        "/identity/v3/auth/projects/",
        "/identity/v3/auth//projects",
        "/identity/v3/auth/project%73",
        "/identity/v3/auth/projects;x=y",
        "/identity/v3/auth%2fprojects",
        "/identity//v3/auth/projects",
        "/identity/auth/projects",
        "/identity/v3/OS-FEDERATION/projects/",
        "/identity/v3/auth/domains/",
        "/identity/v3/auth/system/",
        "/identity/v3/auth/catalog/",
        "/identity/v2.0/tenants/",
        "/v3/auth/projects/",
        &format!("/origin/http-127.0.0.1-{port}/v3/auth/projects"),
        &format!("/origin/http-127.0.0.1-{port}/v3/auth/projects/"),
        &format!("/origin/http-127.0.0.1-{port}/v3/auth/catalog"),
    ] {
        let answer = team.get(path, &key).await;
        let message = answer.message(400, "bad_request");
        assert!(message.contains("plainly"), "{path}: {message}");
    }
    assert_eq!(count(&team, "identity"), asked);
    // Who is nobody in particular asks Keystone as ever.
    let cloud = cloud().await;
    let keyway = TestKeyway::in_front_of(&cloud).await;
    let answer = keyway.get("/identity/v3/auth/projects/").await;
    assert!(answer.headers.get("x-keyway-error").is_none(), "{answer:?}");
}

// Promise 73.
#[tokio::test(flavor = "multi_thread")]
async fn a_token_can_not_be_turned_into_one_that_its_identity_may_not_have() {
    let limited =
        identity::Config { rights: Rights { clouds: vec!["demo".to_owned()], ..bob().rights }, ..bob() };
    let team = Team::with(vec![ada(), limited], |config| {
        let mut second = config.clouds[0].clone();
        second.name = "vault".to_owned();
        config.clouds.push(second);
    })
    .await;
    let (of_ada, of_bob) = (team.key("ada", None).await, team.key("bob", None).await);
    let token = log_in(&team, "bob", &of_bob).await;
    let log_in_for = async |root: &str, identity: Value, scope: Value| {
        let body = json!({"auth": {"identity": identity, "scope": scope}});
        team.keyway.post(&format!("{root}/v3/auth/tokens"), &body).await
    };
    let other = json!({"project": {"name": demo::OTHER_PROJECT, "domain": {"id": "default"}}});
    let scopes = [
        json!({"project": {"id": demo::PROJECT_ID}}),
        json!({"project": {"name": demo::PROJECT, "domain": {"id": "default"}}}),
        json!({"project": {"name": demo::OTHER_PROJECT, "domain": {"id": "elsewhere"}}}),
        json!({"domain": {"id": "default"}}),
        json!({"system": {"all": true}}),
        json!({"OS-TRUST:trust": {"id": "some"}}),
    ];
    for identity in [by_token(&token), by_password("bob", &of_bob)] {
        for scope in &scopes {
            let answer = log_in_for("/identity", identity.clone(), scope.clone()).await;
            assert_eq!(answer.status, 401, "{scope}: {answer:?}");
            assert!(answer.headers.get("x-subject-token").is_none());
        }
        // Its own it may have, there and nowhere else.
        assert_eq!(log_in_for("/identity", identity.clone(), other.clone()).await.status, 201);
        let answer = log_in_for("/cloud/vault/identity", identity, other.clone()).await;
        assert!([401, 403].contains(&answer.status), "{answer:?}");
    }
    // Two proofs are of one identity.
    let token_of_ada = log_in(&team, "ada", &of_ada).await;
    let mut mixed = by_password("bob", &of_bob);
    mixed["methods"] = json!(["token", "password"]);
    mixed["token"] = json!({"id": token_of_ada});
    assert_eq!(log_in_for("/identity", mixed.clone(), other.clone()).await.status, 401);
    mixed["methods"] = json!(["password", "token"]);
    assert_eq!(log_in_for("/identity", mixed, other.clone()).await.status, 401);
    let credential = |id: &str, secret: &str| json!({"methods": ["application_credential"], "application_credential": {"id": id, "secret": secret}});
    for id in ["bob", &of_bob[4..20]] {
        assert_eq!(log_in_for("/identity", credential(id, &of_ada), other.clone()).await.status, 401);
    }
    // By the older ways of logging in it is the same.
    let swift = async |user: &str, key: &str| {
        let fields = [("x-auth-user", user), ("x-auth-key", key)];
        team.keyway.get_with("/auth/v1.0", &fields).await.status
    };
    assert_eq!([swift("other:bob", &of_bob).await, swift("bob", &of_bob).await], [200, 200]);
    for (user, key) in [("demo:bob", &of_bob), ("demo:ada", &of_bob), ("other:bob", &of_ada), (":", &of_bob)]
    {
        assert_eq!(swift(user, key).await, 401, "{user}");
    }
    let by_v2 = async |tenant: &str| {
        let auth =
            json!({"passwordCredentials": {"username": "bob", "password": of_bob}, "tenantName": tenant});
        team.keyway.post("/identity/v2.0/tokens", &json!({"auth": auth})).await.status
    };
    assert_eq!([by_v2(demo::OTHER_PROJECT).await, by_v2(demo::PROJECT).await], [200, 401]);
    // No scope at all is good for nothing but asking for one.
    let unscoped = log_in_for("/identity", by_token(&token), json!("unscoped")).await;
    assert_eq!(unscoped.status, 201, "{unscoped:?}");
    let unscoped = unscoped.header("x-subject-token").to_owned();
    let asked = count(&team, "compute");
    for (path, shown) in [
        ("/compute/servers", &unscoped),
        ("/project/demo/compute/servers", &token),
        ("/project/demo/compute/servers", &of_bob),
        ("/cloud/vault/compute/servers", &token),
        ("/cloud/vault/compute/servers", &of_bob),
        ("/cloud/vault/identity/v3/auth/projects", &token),
        ("/cloud/vault/identity/v3/auth/projects", &of_bob),
        ("/cloud/vault/identity/v3/auth/catalog", &of_bob),
    ] {
        let answer = team.get(path, shown).await;
        assert!(answer.status >= 400 && answer.headers.contains_key("x-keyway-error"), "{path}: {answer:?}");
    }
    // Nor do fields that say so.
    let said = [
        ("x-auth-token", of_bob.as_str()),
        ("x-project-id", demo::PROJECT_ID),
        ("x-project-name", demo::PROJECT),
        ("x-roles", "admin"),
        ("x-is-admin-project", "True"),
        ("openstack-system-scope", "all"),
    ];
    team.keyway.get_with("/compute/servers?all_tenants=1", &said).await.passed_on(200);
    assert_ne!(team.sent(), team.keyway.token().await);
    let last = team.cloud.requests("compute").pop().expect("a request");
    for (name, _) in &said[1..] {
        assert!(last.headers.get(*name).is_none(), "{name}");
    }
    assert_eq!(count(&team, "compute"), asked + 1);

    // It hears of no cloud that is not its own, and who is nobody hears of none.
    let message = team.get("/cloud/nonesuch/compute", &of_bob).await.message(403, "denied");
    assert!(message.contains("`clouds`") && !message.contains("vault"), "{message}");
    let port = team.keyway.listen().port();
    let host = format!("compute.nonesuch.localhost:{port}");
    let by_name = [("host", host.as_str()), ("x-auth-token", of_bob.as_str())];
    let message = team.keyway.get_with("/servers", &by_name).await.message(403, "denied");
    assert!(!message.contains("vault"), "{message}");
    let message = team.keyway.get_with("/servers", &by_name[..1]).await.message(401, "bad_token");
    assert!(!message.contains("vault") && !message.contains("demo"), "{message}");
}

// Promises 62, 73.
#[tokio::test(flavor = "multi_thread")]
async fn a_login_counts_as_a_request_of_its_identity_whatever_proved_it() {
    let one = NonZeroU32::MIN;
    let limited = identity::Config {
        limits: limits::Config { rate: Some((one, one.saturating_add(5))), requests: None },
        password: Some(Secret::new(PASSWORD)),
        ..ada()
    };
    let team = Team::of(vec![limited]).await;
    let keys = [team.key("ada", None).await, team.key("ada", None).await];
    let mut shown = keys.iter().map(String::as_str).chain([PASSWORD]).cycle();
    let mut sent = 0;
    let limited = eventually("too many logins", async || {
        sent += 1;
        let body = json!({"auth": {"identity": by_password("ada", shown.next().expect("it goes round"))}});
        Some(team.keyway.post("/identity/v3/auth/tokens", &body).await).filter(|answer| answer.status != 201)
    })
    .await;
    assert!(limited.message(429, "too_many_requests").contains("identity `ada`"));
    assert!(limited.header("retry-after").parse::<u64>().expect("seconds") >= 1);
    assert!(sent > 6, "{sent}");
    let new = team.key("ada", None).await;
    for shown in keys.iter().chain([&new]) {
        let answer = team.get("/compute/servers", shown).await;
        // One may have come in as time went by.
        assert!([200, 429].contains(&answer.status), "{answer:?}");
    }
}

/// `GET` with this field from this address of the machine.
async fn get_from(from: &str, to: SocketAddr, field: &str) -> (u16, String) {
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.bind(format!("{from}:0").parse().expect("an address")).expect("an address of loopback");
    let mut client = Peer::new(socket.connect(to).await.expect("keyway listens"));
    client
        .send(format!(
            "GET /compute/servers HTTP/1.1\r\nHost: localhost\r\n{field}\r\nConnection: close\r\n\r\n"
        ))
        .await;
    let answer = String::from_utf8_lossy(&client.rest().await).into_owned();
    let status = answer.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or_default();
    (status, answer)
}

// Promises 62, 73.
#[tokio::test(flavor = "multi_thread")]
async fn who_guesses_locks_nobody_out_but_passwords_from_the_same_address() {
    let team = Team::of(vec![ada(), bob()]).await;
    let to = team.keyway.listen();
    // Keys that no worker has seen.
    let mut keys = Vec::new();
    for _ in 0..3 {
        keys.push(team.key("bob", None).await);
    }
    let mut wrong = 0;
    let mut limited = async || {
        eventually("too many", async || {
            wrong += 1;
            let guess = format!("X-Auth-Token: guess-{wrong}");
            let (status, answer) = get_from("127.0.0.2", to, &guess).await;
            assert!([401, 429].contains(&status), "{answer}");
            (status == 429 && answer.contains("too_many_logins")).then_some(())
        })
        .await;
        wrong
    };
    let password = format!("X-Auth-Token: {PASSWORD}");
    assert!(limited().await > 10);
    let refused = eventually("its own right one", async || {
        limited().await;
        let (status, _) = get_from("127.0.0.2", to, &password).await;
        Some(status).filter(|status| *status == 429)
    });
    assert_eq!(refused.await, 429);
    for key in &keys {
        limited().await;
        assert_eq!(get_from("127.0.0.2", to, &format!("Authorization: Bearer {key}")).await.0, 200);
    }
    limited().await;
    assert_eq!(get_from("127.0.0.3", to, &password).await.0, 200);
    // Wrong keys are limited as wrong passwords are.
    let key = team.key("bob", None).await;
    let last = if key.ends_with('A') { 'B' } else { 'A' };
    let wrong = format!("X-Auth-Token: {}{last}", &key[..key.len() - 1]);
    eventually("too many", async || {
        let (status, answer) = get_from("127.0.0.2", to, &wrong).await;
        assert!([401, 429].contains(&status), "{answer}");
        (status == 429).then_some(())
    })
    .await;
}

// Promises 60, 62.
#[tokio::test(flavor = "multi_thread")]
async fn the_limit_of_a_body_holds_for_chunks_too() {
    let team = Team::of(vec![with(Rights { body: Some(10), ..Rights::default() })]).await;
    let key = team.key("ada", None).await;
    team.keyway
        .send(request(Method::PUT, "/object-store/box", &[("x-auth-token", &key)], ""))
        .await
        .passed_on(201);
    let put = async |chunks: &str| {
        let head = format!(
            "PUT /object-store/box/thing HTTP/1.1\r\nHost: localhost\r\nX-Auth-Token: {key}\r\n\
             Transfer-Encoding: chunked\r\nConnection: close\r\n\r\n"
        );
        team.keyway.raw(head + chunks).await
    };
    assert_eq!(put("5\r\nabcde\r\n5\r\nfghij\r\n0\r\n\r\n").await.status, 201);
    let answer = put("5\r\nabcde\r\n5\r\nfghij\r\n1\r\nk\r\n0\r\n\r\n").await;
    answer.message(413, "body_too_large");
    let stored = team.get("/object-store/box/thing", &key).await;
    assert_eq!(stored.text(), "abcdefghij", "nothing of the other is there");
}

// Promises 71, 73.
#[tokio::test(flavor = "multi_thread")]
async fn a_broken_file_of_an_identity_is_told_and_changes_nobody() {
    let (cloud, home) = (cloud().await, tempfile::tempdir().expect("a directory"));
    let write = |name: &str, text: &str| {
        let path = home.path().join(name);
        std::fs::write(&path, text).expect("a writable directory");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).expect("it is ours");
        path
    };
    std::fs::create_dir(home.path().join("team")).expect("a directory");
    write("k.toml", "[identities]\ndirectory = 'team'\n[listener.main]\nlogin = 'configured'\n");
    let of_bob = write("team/bob.toml", &format!("password = '{PASSWORD}'\n"));
    let arguments = ["--config", "k.toml", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"];
    let process = Process::start(home.path(), &arguments, &cloud_variables(&cloud));
    let (listen, _) = process.addresses().await;
    let listen: SocketAddr = listen.parse().expect("an address");
    let field = format!("X-Auth-Token: {PASSWORD}");
    let get = async || get_from("127.0.0.1", listen, &field).await.0;
    eventually("it is served", async || (get().await == 200).then_some(())).await;
    // Of a directory with something wrong in it nothing is taken, not even who is gone.
    std::fs::remove_file(of_bob).expect("it is there");
    let broken = write("team/ada.toml", "rate = 'fast'\n");
    process.signal(rustix::process::Signal::HUP);
    let says = |text: &str| text.contains("ada").then_some(());
    process.stderr_line("what is wrong", says).await;
    assert_eq!(get().await, 200);
    std::fs::remove_file(broken).expect("it is there");
    write("team/eve.toml", "");
    process.signal(rustix::process::Signal::HUP);
    eventually("it is refused", async || (get().await == 401).then_some(())).await;
}

// Promise 62.
#[tokio::test(flavor = "multi_thread")]
async fn who_goes_away_in_the_middle_of_a_body_gives_its_place_back() {
    let only = identity::Config { limits: limits::Config { rate: None, requests: Some(1) }, ..ada() };
    let team = Team::of(vec![only]).await;
    let key = team.key("ada", None).await;
    team.keyway
        .send(request(Method::PUT, "/object-store/box", &[("x-auth-token", &key)], ""))
        .await
        .passed_on(201);
    let get = async || team.get("/compute/servers", &key).await.status;
    for framing in ["Content-Length: 1000000", "Transfer-Encoding: chunked"] {
        let head = format!(
            "PUT /object-store/box/thing HTTP/1.1\r\nHost: localhost\r\nX-Auth-Token: {key}\r\n{framing}\r\n\r\n\
             5\r\nabcde\r\n"
        );
        for _ in 0..3 {
            let client = eventually("it is under way", async || {
                let mut client = Peer::connect(team.keyway.listen()).await;
                client.send(&head).await;
                // It may have come before the place of the last one was free.
                let mut refused = 0;
                for _ in 0..20 {
                    refused = if get().await == 429 { refused + 1 } else { 0 };
                    if refused == 3 {
                        return Some(client);
                    }
                }
                None
            })
            .await;
            client.reset();
            eventually("its place is free", async || (get().await == 200).then_some(())).await;
        }
    }
}

// Promise 73.
#[tokio::test(flavor = "multi_thread")]
async fn who_is_known_by_its_user_does_not_log_in_as_nobody_where_anybody_may() {
    let home = tempfile::tempdir().expect("a directory");
    let socket = home.path().join("keyway.sock");
    let own = rustix::process::geteuid().as_raw();
    let team = Team::with(vec![identity::Config { users: vec![own], ..bob() }], |config| {
        config.listeners.push(Listener::at("users", Address::Unix(socket.clone())));
    })
    .await;
    let send = async |text: String| {
        let mut client = Peer::new(UnixStream::connect(&socket).await.expect("keyway listens"));
        client.send(text).await;
        String::from_utf8_lossy(&client.rest().await).into_owned()
    };
    let get = async |path: &str, field: &str| {
        send(format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n{field}Connection: close\r\n\r\n")).await
    };
    let own_token = team.keyway.token().await;
    assert!(get("/compute/servers", "").await.starts_with("HTTP/1.1 200 "));
    assert_ne!(team.sent(), own_token);
    let body = json!({"auth": {"identity": by_password("anybody", "anything")}}).to_string();
    let length = body.len();
    let answer = send(format!(
        "POST /identity/v3/auth/tokens HTTP/1.1\r\nHost: localhost\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}"
    ))
    .await;
    assert!(answer.starts_with("HTTP/1.1 201 "), "{answer}");
    let token =
        answer.lines().find_map(|line| line.strip_prefix("x-subject-token: ")).expect("a token").to_owned();
    let answer = get("/compute/servers", &format!("X-Auth-Token: {token}\r\n")).await;
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    assert_ne!(team.sent(), own_token, "it is still the identity's");
    let answer = get("/project/demo/compute/servers", "").await;
    assert!(answer.starts_with("HTTP/1.1 403 "), "{answer}");
}

/// A keyway whose clients show certificates, and the identity of those of `ada.example`.
async fn with_certificates(authority: &Authority) -> (Cloud, TestKeyway, Config) {
    let cloud = cloud().await;
    let localhost = authority.issue("localhost");
    let key = authority.write("key.pem", &localhost.key);
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o600)).expect("it is ours");
    let mut kept = None;
    let keyway = TestKeyway::with(&cloud, |config| {
        let certificates = vec![SubjectName::Dns("ada.example".to_owned())];
        config.identities = vec![identity::Config { certificates, ..ada() }];
        let main = &mut config.listeners[0];
        main.logins = Logins::Configured;
        let clients = Clients { crl: Some(authority.revoke(99)), ..Clients::of(authority.file()) };
        let cert = authority.write("cert.pem", &localhost.certificate);
        main.server.tls = Some(server::tls::Config { cert, key, clients: Some(clients) });
        kept = Some(config.clone());
    })
    .await;
    (cloud, keyway, kept.expect("it was changed"))
}

fn of_client(authority: &Authority, change: impl FnOnce(&mut CertificateParams)) -> tls::Identity {
    authority.issue_with("ada.example", |params| {
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        change(params);
    })
}

type Secure = Peer<tokio_rustls::client::TlsStream<TcpStream>>;

async fn connect(keyway: &TestKeyway, client: &TlsConnector) -> std::io::Result<Secure> {
    let stream = TcpStream::connect(keyway.listen()).await?;
    Ok(Peer::new(client.connect(ServerName::try_from("localhost").expect("a name"), stream).await?))
}

/// The status of one more request.
async fn get_on(client: &mut Secure) -> u16 {
    client.send("GET /compute/servers HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
    status(&client.response().await.0)
}

/// Checks that a client gets no connection, or one that ends without an answer (TLS 1.3).
async fn check_shut_out(keyway: &TestKeyway, client: &TlsConnector) {
    let Ok(mut client) = connect(keyway, client).await else { return };
    client.try_send("GET /compute/servers HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").await;
    assert_eq!(client.rest().await, b"");
}

// Promises 71, 73.
#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_that_is_revoked_by_a_reload_loses_the_connections_that_it_has() {
    let authority = Authority::new();
    let (_cloud, keyway, config) = with_certificates(&authority).await;
    let with_serial = |serial: u64| {
        let identity = of_client(&authority, |params| params.serial_number = Some(serial.into()));
        tls::client(&authority, Some(&identity), &["http/1.1"])
    };
    let (good, bad) = (with_serial(7), with_serial(8));
    let mut of_good = connect(&keyway, &good).await.expect("it gets in");
    let mut of_bad = connect(&keyway, &bad).await.expect("it gets in");
    assert_eq!(get_on(&mut of_good).await, 200);
    assert_eq!(get_on(&mut of_bad).await, 200);
    authority.revoke(8);
    assert!(keyway.app().reload(Ok(config)));
    of_bad.closed().await;
    assert_eq!(get_on(&mut of_good).await, 200, "the other one stays");
    check_shut_out(&keyway, &bad).await;
    assert_eq!(get_on(&mut of_good).await, 200);
}

// Promises 41, 43, 73.
#[tokio::test(flavor = "multi_thread")]
async fn a_rule_of_an_identity_holds_for_every_spelling_of_a_path_and_method() {
    let deny = |name: &str, methods: &[&str], paths: &[&str]| Rule {
        name: name.to_owned(),
        effect: Effect::Deny,
        services: vec!["compute".to_owned()],
        methods: methods.iter().map(|method| (*method).to_owned()).collect(),
        paths: paths.iter().map(|path| (*path).to_owned()).collect(),
        ..Rule::default()
    };
    let rules = vec![deny("no-keypairs", &[], &["/os-keypairs/**"]), deny("no-posts", &["POST"], &[])];
    let policy = Arc::new(Policy::new("bounds", false, Effect::Allow, rules).expect("it is right"));
    let team = Team::of(vec![with(Rights { policy: Some(policy), ..Rights::default() })]).await;
    let key = team.key("ada", None).await;
    team.get("/compute/servers", &key).await.passed_on(200);
    let asked = count(&team, "compute");
    for path in [
        "/compute/os-keypairs",
        "/compute/os-keypairs/",
        "/compute//os-keypairs",
        "/compute/os-keypairs/x",
        "/compute/os%2Dkeypairs",
        "/compute/os-keypairs%2Fx",
        "/compute/%6fs-keypairs",
        "/compute/os-keypairs;a=b",
        "/compute/os-keypairs.json",
        "/compute/v2.1/os-keypairs",
        "/compute/v2/os-keypairs",
        "/compute/./os-keypairs",
        "/compute/x/../os-keypairs",
        "/compute/x/%2e%2e/os-keypairs",
        "/compute/os%252Dkeypairs",
        "/cloud/demo/compute/os-keypairs",
        "/region/RegionOne/compute/os-keypairs",
        "/project/demo/compute/os-keypairs",
    ] {
        let answer = team.get(path, &key).await;
        assert!([400, 403].contains(&answer.status), "{path}: {answer:?}");
        assert!(answer.headers.get("x-keyway-error").is_some(), "{path}: {answer:?}");
    }
    let mut own = Vec::new();
    for (name, value) in [
        ("x-http-method-override", "POST"),
        ("x-http-method", "POST"),
        ("x-method-override", "POST"),
        ("x-original-url", "/os-keypairs"),
        ("x-rewrite-url", "/os-keypairs"),
    ] {
        let answer = team.keyway.get_with("/compute/servers", &[("x-auth-token", &key), (name, value)]).await;
        answer.passed_on(200);
        own.push(name);
    }
    for seen in &team.cloud.requests("compute")[asked..] {
        assert!(own.iter().all(|name| seen.headers.get(*name).is_none()), "{seen:?}");
        assert!(!seen.target.contains("keypairs"), "{seen:?}");
    }
    let asked = count(&team, "compute");
    for method in ["post", "Post", "CONNECT", "TRACE"] {
        let text = format!(
            "{method} /compute/servers HTTP/1.1\r\nHost: localhost\r\nX-Auth-Token: {key}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
        );
        let answer: Answer = team.keyway.raw(text).await;
        assert!([400, 403, 501].contains(&answer.status), "{method}: {answer:?}");
    }
    // Absolute, for another authority, and what upgrades.
    for line in [
        "GET http://evil.example/compute/os-keypairs HTTP/1.1",
        "GET http://localhost/compute/os-keypairs HTTP/1.1",
        "GET //localhost/compute/os-keypairs HTTP/1.1",
    ] {
        let text = format!("{line}\r\nHost: localhost\r\nX-Auth-Token: {key}\r\nConnection: close\r\n\r\n");
        let answer = team.keyway.raw(text).await;
        assert!((400..=421).contains(&answer.status), "{line}: {answer:?}");
    }
    assert_eq!(count(&team, "compute"), asked);
}
