//! One line for each request: what stands in it, where it goes, and what happens where it can't.

use std::fs;
use std::io::Write as _;
use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::Method;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use jiff::Timestamp;
use keyway::audit::{self, OnFailure, Target};
use keyway::commands::keys;
use keyway::config::{Config, Listener};
use keyway::demo::{self, Cloud};
use keyway::facade::Logins;
use keyway::identity::{self, Rights, SubjectName, limits};
use keyway::keystone::Secret;
use keyway::policy::{Effect, Policy, Rule};
use keyway::server::tls::Clients;
use keyway::server::{self, Address};
use rustix::process::{Signal, geteuid};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpStream, UnixStream};
use tokio::task::JoinSet;

use crate::support::raw::Peer;
use crate::support::tls::Authority;
use crate::support::{
    Answer, Connection, Payload, Process, TestKeyway, bounded, cloud, cloud_variables, eventually, request,
    slow,
};

const PASSWORD: &str = "hunter2-of-ada";
const LOST: &str = "keyway_audit_lost_total";
const FAILING: &str = "keyway_audit_failing";

fn ada() -> identity::Config {
    identity::Config {
        name: "ada".to_owned(),
        password: Some(Secret::new(PASSWORD)),
        ..identity::Config::default()
    }
}

fn home() -> TempDir {
    tempfile::tempdir().expect("a directory for temporary files")
}

fn to_file(path: &Path, on_failure: OnFailure) -> Option<audit::Config> {
    Some(audit::Config { target: Target::File(path.to_owned()), on_failure })
}

/// The lines of a file, each of them whole.
#[track_caller]
fn lines_of(path: &Path) -> Vec<Value> {
    let text = fs::read_to_string(path).unwrap_or_default();
    assert!(text.is_empty() || text.ends_with('\n'), "the last line is not whole: {text}");
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|_| panic!("no JSON: {line}")))
        .collect()
}

/// A keyway that writes its audit to a file in a directory of its own.
struct Audited {
    cloud: Cloud,
    keyway: TestKeyway,
    config: Config,
    home: TempDir,
}

impl Audited {
    async fn with(on_failure: OnFailure, change: impl FnOnce(&mut Config, &Path)) -> Self {
        let (cloud, home) = (cloud().await, home());
        fs::create_dir(home.path().join("log")).expect("a directory");
        let mut kept = None;
        let keyway = TestKeyway::with(&cloud, |config| {
            config.audit = to_file(&home.path().join("log/audit"), on_failure);
            config.api_keys = Some(home.path().join("api-keys"));
            change(config, home.path());
            kept = Some(config.clone());
        })
        .await;
        Self { cloud, keyway, config: kept.expect("it was changed"), home }
    }

    fn file(&self) -> PathBuf {
        self.home.path().join("log/audit")
    }

    /// The lines, once there are so many.
    async fn lines(&self, count: usize) -> Vec<Value> {
        let path = self.file();
        let lines =
            eventually("the lines", async || Some(lines_of(&path)).filter(|lines| lines.len() >= count))
                .await;
        assert_eq!(lines.len(), count, "{lines:?}");
        lines
    }

    /// A key that keyway knows by now.
    async fn key(&self, name: &str) -> String {
        let key = keys::new(&self.config, name, None, "", &mut |_| {}).expect("a key").trim().to_owned();
        let id = identity::key::id_of(key.as_bytes()).expect("a key");
        let ring = Arc::clone(&self.keyway.app().shared().identities.keyring);
        eventually("the key is known", async || ring.get(id)).await;
        key
    }

    async fn log_in(&self, name: &str, password: &str) -> Answer {
        self.keyway.post("/identity/v3/auth/tokens", &by_password(name, password)).await
    }

    fn reload(&self, change: impl FnOnce(&mut Config)) -> bool {
        let mut config = self.config.clone();
        change(&mut config);
        self.keyway.app().reload(Ok(config))
    }

    async fn ready(&self) -> u16 {
        self.keyway.admin_get("/readyz").await.status
    }
}

fn by_password(name: &str, password: &str) -> Value {
    let user = json!({"name": name, "domain": {"id": "default"}, "password": password});
    json!({"auth": {"identity": {"methods": ["password"], "password": {"user": user}}}})
}

fn configured(config: &mut Config) {
    config.listeners[0].logins = Logins::Configured;
    config.identities = vec![ada()];
}

/// `GET` over any connection; the status.
async fn get_over(mut stream: impl AsyncRead + AsyncWrite + Unpin, path: &str) -> String {
    let text = format!("GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n");
    bounded("an answer", async {
        stream.write_all(text.as_bytes()).await.expect("keyway reads");
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer).await;
        String::from_utf8_lossy(&answer).split(' ').nth(1).unwrap_or_default().to_owned()
    })
    .await
}

// Promise 73.
#[tokio::test(flavor = "multi_thread")]
async fn a_line_says_who_asked_for_what_and_what_came_of_it() {
    let rule = Rule {
        name: "no-deletes".to_owned(),
        effect: Effect::Deny,
        methods: vec!["DELETE".to_owned()],
        ..Rule::default()
    };
    let policy = Arc::new(Policy::new("team", false, Effect::Allow, vec![rule]).expect("it is right"));
    let audited = Audited::with(OnFailure::Stop, |config, _| {
        configured(config);
        let rights = Rights {
            policy: Some(policy),
            projects: vec![demo::PROJECT.to_owned(), "other".to_owned()],
            regions: vec!["RegionOne".to_owned()],
            body: Some(1000),
            ..Rights::default()
        };
        config.identities = vec![identity::Config { rights, ..ada() }];
    })
    .await;
    let key = audited.key("ada").await;
    let id = "req-2b6f24a7-4b1f-4c0f-9b7a-3d3e8a6f1c55";
    let before = Timestamp::now();
    let own = [("x-auth-token", key.as_str()), ("x-openstack-request-id", id)];
    let answer = audited.keyway.get_with("/compute/servers?limit=7&name=x", &own).await;
    answer.passed_on(200);
    let line = audited.lines(1).await.pop().expect("a line");
    let time: Timestamp = line["timestamp"].as_str().expect("a text").parse().expect("a time");
    assert!(time.as_millisecond() >= before.as_millisecond() && time <= Timestamp::now(), "{line}");
    assert_eq!(line["timestamp"].as_str().map(str::len), Some("2026-11-22T10:00:00.000Z".len()));
    assert!(line["duration_ms"].as_f64().is_some_and(|duration| duration > 0.0), "{line}");
    let mut rest = line.as_object().expect("an object").clone();
    rest.remove("timestamp");
    rest.remove("duration_ms");
    assert_eq!(
        Value::from(rest),
        json!({
            "identity": "ada",
            "proof": format!("key:{}", &key[4..20]),
            "peer": "127.0.0.1",
            "listener": "main",
            "cloud": "demo",
            "project.id": demo::PROJECT_ID,
            "project.name": demo::PROJECT,
            "service": "compute",
            "http.request.method": "GET",
            "url.path": "/compute/servers",
            "url.query": "limit=&name=",
            "http.response.status_code": 200,
            "http.request.body.size": 0,
            "http.response.body.size": answer.body.len(),
            "openstack.request_id": answer.header("x-openstack-request-id"),
            "openstack.global_request_id": id,
            "decision": "allowed",
            "rule": null,
        })
    );
    assert!(answer.header("x-openstack-request-id").starts_with("req-"), "{answer:?}");

    let mut seen = 1;
    let mut check = async |answer: Answer, expected: Value| {
        seen += 1;
        let line = audited.lines(seen).await.pop().expect("a line");
        assert_eq!(line["http.response.status_code"], answer.status, "{line}");
        assert_eq!(line["http.response.body.size"], answer.body.len(), "{line}");
        for (name, value) in expected.as_object().expect("an object") {
            assert_eq!(&line[name], value, "{name} of {line}");
        }
    };
    let send = |method: Method, path: &str, name: &'static str, value: &str, body: &'static [u8]| {
        audited.keyway.send(request(method, path, &[(name, value)], body))
    };
    let shows = async |method: Method, path: &str, body: &'static [u8]| {
        send(method, path, "x-auth-token", &key, body).await
    };
    // What a service says no to was allowed by keyway.
    let answer = shows(Method::GET, "/compute/servers/nonesuch", b"").await;
    check(answer, json!({"decision": "allowed", "rule": null, "http.response.status_code": 404})).await;
    let answer = shows(Method::POST, "/compute/os-keypairs", b"{\"keypair\":{\"name\":\"k\"}}").await;
    check(answer, json!({"decision": "allowed", "http.request.body.size": 24, "url.query": null})).await;
    let answer = shows(Method::DELETE, "/compute/servers/x", b"").await;
    check(answer, json!({"decision": "denied", "rule": "policy.team.no-deletes", "identity": "ada"})).await;
    let answer = shows(Method::GET, "/region/RegionTwo/compute/servers", b"").await;
    let line = json!({
        "decision": "denied", "rule": "identity.ada.regions", "service": "compute", "project.name": demo::PROJECT,
    });
    check(answer, line).await;
    let answer = shows(Method::GET, "/region/nonesuch/compute/servers", b"").await;
    let line =
        json!({"decision": "denied", "rule": "identity.ada.regions", "cloud": "demo", "service": null});
    check(answer, line).await;
    let answer = shows(Method::POST, "/identity/v3/users/u/application_credentials", b"{}").await;
    let line = json!({
        "decision": "denied", "rule": "identity.ada.identity_api", "service": "identity", "cloud": "demo",
        "identity": "ada", "http.response.status_code": 403,
    });
    check(answer, line).await;
    let answer = shows(Method::GET, "/project/demo/compute/servers", b"").await;
    check(answer, json!({"decision": "allowed", "project.name": demo::PROJECT})).await;
    let answer = shows(Method::PUT, "/object-store/box/thing", &[b'x'; 1001]).await;
    let rule = json!({"decision": "denied", "rule": "body_too_large", "service": "object-store"});
    check(answer, rule).await;
    let answer = shows(Method::GET, "/nonesuch/x", b"").await;
    check(answer, json!({"decision": "denied", "rule": "no_service"})).await;
    let answer = shows(Method::GET, "/cloud/nonesuch/compute", b"").await;
    check(answer, json!({"decision": "denied", "rule": "unknown_cloud", "cloud": null})).await;
    let answer = send(Method::GET, "/compute/servers", "host", "evil.example", b"").await;
    check(answer, json!({"decision": "denied", "rule": "foreign_host", "identity": null, "proof": null}))
        .await;
    let answer = audited.keyway.get("/compute/servers").await;
    check(answer, json!({"decision": "unauthorized", "rule": "no_token", "identity": null})).await;
    let answer = send(Method::GET, "/compute/servers", "x-auth-token", "wrong", b"").await;
    check(answer, json!({"decision": "unauthorized", "rule": "foreign", "identity": null})).await;

    // Logins are lines as well.
    let answer = audited.log_in("ada", PASSWORD).await;
    let token = answer.header("x-subject-token").to_owned();
    let body = by_password("ada", PASSWORD).to_string().len();
    let line = json!({
        "identity": "ada", "proof": "password", "cloud": "demo", "project.name": demo::PROJECT, "service": "identity",
        "url.path": "/identity/v3/auth/tokens", "http.request.method": "POST", "http.response.status_code": 201,
        "http.request.body.size": body, "decision": "allowed", "rule": null,
    });
    check(answer, line).await;
    let answer = audited.log_in("ada", "hunter2-wrong").await;
    let line = json!({
        "identity": null, "proof": null, "http.response.status_code": 401, "decision": "unauthorized",
        "rule": "bad_login", "service": "identity",
    });
    check(answer, line).await;
    let mut beyond = by_password("ada", &key);
    beyond["auth"]["scope"] = json!({"project": {"name": "third", "domain": {"id": "default"}}});
    let answer = audited.keyway.post("/identity/v3/auth/tokens", &beyond).await;
    let line = json!({
        "identity": "ada", "proof": format!("key:{}", &key[4..20]), "http.response.status_code": 401,
        "decision": "denied", "rule": "scope_refused",
    });
    check(answer, line).await;
    let answer = send(Method::GET, "/compute/servers", "x-auth-token", &token, b"").await;
    check(answer, json!({"identity": "ada", "proof": "token", "decision": "allowed"})).await;

    audited.cloud.set_trouble("compute", slow(Duration::from_secs(600)));
    let mut connection = audited.keyway.connect().await;
    let asked = audited.cloud.requests("compute").len();
    let gone = tokio::spawn({
        let request = request(Method::GET, "/compute/servers", &[("x-auth-token", &key)], "");
        async move { connection.send(request).await.status }
    });
    eventually("it is under way", async || (audited.cloud.requests("compute").len() > asked).then_some(()))
        .await;
    gone.abort();
    let lines = audited.lines(seen + 1).await;
    assert_eq!(lines[seen]["http.response.status_code"], 499);
    assert_eq!(lines[seen]["decision"], "allowed");
}

// Promises 62, 73.
#[tokio::test(flavor = "multi_thread")]
async fn who_asks_too_often_has_lines_that_say_so() {
    let one = NonZeroU32::MIN;
    let audited = Audited::with(OnFailure::Stop, |config, _| {
        configured(config);
        config.identities[0].limits = limits::Config { rate: Some((one, one)), requests: None };
    })
    .await;
    let key = audited.key("ada").await;
    let own = [("x-auth-token", key.as_str())];
    let mut sent = 0;
    eventually("too many", async || {
        sent += 1;
        let answer = audited.keyway.get_with("/compute/servers", &own).await;
        (answer.status == 429).then_some(())
    })
    .await;
    let line = audited.lines(sent).await.pop().expect("a line");
    assert_eq!((&line["decision"], &line["rule"]), (&"limited".into(), &"identity.ada.rate".into()));
    assert_eq!(line["identity"], "ada");
    eventually("too many logins", async || {
        sent += 1;
        (audited.log_in("ada", "hunter2-wrong").await.status == 429).then_some(())
    })
    .await;
    let line = audited.lines(sent).await.pop().expect("a line");
    assert_eq!((&line["decision"], &line["rule"]), (&"limited".into(), &"too_many_logins".into()));
}

/// TLS with certificates of this authority on both sides.
fn encrypted(authority: &Authority) -> server::Config {
    let identity = authority.issue("localhost");
    let key = authority.write("key.pem", &identity.key);
    fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).expect("it is ours");
    let tls = server::tls::Config {
        cert: authority.write("cert.pem", &identity.certificate),
        key,
        clients: Some(Clients::of(authority.file())),
    };
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    server::Config { tls: Some(tls), ..server::Config::at(any.into()) }
}

fn tls_client(authority: &Authority, name: &str) -> tokio_rustls::TlsConnector {
    let identity = authority.issue_with(name, |params| {
        params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ClientAuth];
    });
    let mut roots = rustls::RootCertStore::empty();
    let file = fs::read(authority.file()).expect("a file");
    roots.add(CertificateDer::from_pem_slice(&file).expect("PEM")).expect("an authority");
    let certificate = CertificateDer::from_pem_slice(identity.certificate.as_bytes()).expect("PEM");
    let key = PrivateKeyDer::from_pem_slice(identity.key.as_bytes()).expect("PEM");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("TLS 1.2 and 1.3")
        .with_root_certificates(roots)
        .with_client_auth_cert(vec![certificate], key)
        .expect("a good identity");
    Arc::new(config).into()
}

// Promise 73.
#[tokio::test(flavor = "multi_thread")]
async fn every_proof_is_named() {
    let authority = Authority::new();
    let user = geteuid().as_raw();
    let audited = Audited::with(OnFailure::Stop, |config, home| {
        configured(config);
        let mut tls = Listener {
            server: encrypted(&authority),
            ..Listener::at("tls", "127.0.0.1:1".parse::<Address>().expect("an address"))
        };
        tls.logins = Logins::Configured;
        let mut socket = Listener::at("socket", Address::Unix(home.join("keyway.sock")));
        socket.logins = Logins::Configured;
        config.listeners.extend([tls, socket]);
        let named = |name: &str| identity::Config { name: name.to_owned(), ..identity::Config::default() };
        config.identities.extend([
            identity::Config { certificates: vec![SubjectName::Dns("bot".to_owned())], ..named("bot") },
            identity::Config { users: vec![user], ..named("local") },
        ]);
    })
    .await;
    let key = audited.key("ada").await;
    let token = audited.log_in("ada", PASSWORD).await.header("x-subject-token").to_owned();
    let pair = STANDARD.encode(format!("ada:{PASSWORD}"));
    for (name, value) in
        [("x-auth-token", key.clone()), ("authorization", format!("Basic {pair}")), ("x-auth-token", token)]
    {
        audited.keyway.get_with("/compute/servers", &[(name, &value)]).await.passed_on(200);
    }
    let addresses: Vec<_> = audited.keyway.app().addresses().cloned().collect();
    let stream = TcpStream::connect(addresses[1].tcp().expect("an address")).await.expect("it listens");
    let name = ServerName::try_from("localhost").expect("a name");
    let stream = tls_client(&authority, "bot").connect(name, stream).await.expect("a handshake");
    assert_eq!(get_over(stream, "/compute/servers").await, "200");
    let stream = UnixStream::connect(audited.home.path().join("keyway.sock")).await.expect("it listens");
    assert_eq!(get_over(stream, "/compute/servers").await, "200");

    let lines = audited.lines(6).await;
    let proofs: Vec<_> = lines
        .iter()
        .map(|line| {
            ["identity", "proof", "peer", "listener"].map(|field| line[field].as_str().unwrap_or("-"))
        })
        .collect();
    let (by_key, by_user, at_socket) =
        (format!("key:{}", &key[4..20]), format!("user:{user}"), format!("uid:{user}"));
    assert_eq!(
        proofs,
        [
            ["ada", "password", "127.0.0.1", "main"],
            ["ada", &by_key, "127.0.0.1", "main"],
            ["ada", "password", "127.0.0.1", "main"],
            ["ada", "token", "127.0.0.1", "main"],
            ["bot", "certificate:dns:bot", "127.0.0.1", "tls"],
            ["local", &by_user, &at_socket, "socket"],
        ]
    );
}

/// Clients that send one request after the other until they are told to stop; how many were answered.
struct Load {
    clients: JoinSet<usize>,
    ended: Arc<std::sync::atomic::AtomicBool>,
}

impl Load {
    fn start(listen: SocketAddr, clients: usize) -> Self {
        let ended = Arc::<std::sync::atomic::AtomicBool>::default();
        let mut load = Self { clients: JoinSet::new(), ended: Arc::clone(&ended) };
        for _ in 0..clients {
            let ended = Arc::clone(&ended);
            load.clients.spawn(async move {
                let (mut connection, mut sent) = (Connection::open(listen).await, 0);
                while !ended.load(std::sync::atomic::Ordering::Relaxed) {
                    let answer = connection.send(request(Method::GET, "/compute/servers", &[], "")).await;
                    assert_eq!(answer.status, 200, "{answer:?}");
                    sent += 1;
                }
                sent
            });
        }
        load
    }

    async fn stop(self) -> usize {
        self.ended.store(true, std::sync::atomic::Ordering::Relaxed);
        self.clients.join_all().await.into_iter().sum()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rotation_under_load_loses_no_line() {
    let audited = Audited::with(OnFailure::Stop, |_, _| {}).await;
    let load = Load::start(audited.keyway.listen(), 8);
    let path = audited.file();
    let old = |number: usize| audited.home.path().join(format!("log/audit.{number}"));
    for number in 0..20 {
        eventually("something to rotate", async || (lines_of_moving(&path) > 5).then_some(())).await;
        fs::rename(&path, old(number)).expect("a new name");
        // With the signal, with that of a reload, and without any.
        match number % 3 {
            0 => audited.keyway.app().reopen_audit(),
            1 => assert!(audited.reload(|_| {})),
            _ => {}
        }
    }
    let sent = load.stop().await;
    let count = || {
        let rotated: usize = (0..20).map(|number| lines_of_moving(&old(number))).sum();
        rotated + lines_of_moving(&path)
    };
    eventually("all lines", async || (count() >= sent).then_some(())).await;
    let whole: usize = (0..20).map(|number| lines_of(&old(number)).len()).sum();
    assert_eq!(whole + lines_of(&path).len(), sent);
    assert_eq!(audited.keyway.metric(LOST).await, 0.0);
    assert_eq!(fs::metadata(&path).expect("it is there").permissions().mode() & 0o777, 0o600);
}

/// How many lines a file has that is being written.
fn lines_of_moving(path: &Path) -> usize {
    fs::read(path).unwrap_or_default().iter().filter(|byte| **byte == b'\n').count()
}

// Promise 73.
#[tokio::test(flavor = "multi_thread")]
async fn on_a_full_disk_nothing_is_served_until_there_is_room() {
    let audited = Audited::with(OnFailure::Stop, |config, home| {
        configured(config);
        symlink("/dev/full", home.join("log/audit")).expect("a link");
    })
    .await;
    let key = audited.key("ada").await;
    let own = [("x-auth-token", key.as_str())];
    assert_eq!(audited.ready().await, 200);
    let mut served = 0;
    let refused = eventually("it is refused", async || {
        let answer = audited.keyway.get_with("/compute/servers", &own).await;
        served += usize::from(answer.status == 200);
        (answer.status != 200).then_some(answer)
    })
    .await;
    assert!(served >= 1);
    refused.message(503, "audit_unavailable");
    assert_eq!(refused.header("retry-after"), "1");
    audited.log_in("ada", PASSWORD).await.message(503, "audit_unavailable");
    audited.keyway.get("/identity/v3").await.message(503, "audit_unavailable");
    assert_eq!(audited.cloud.requests("compute").len(), served);
    let ready = audited.keyway.admin_get("/readyz").await;
    assert_eq!(ready.status, 503);
    assert!(ready.text().contains("audit"), "{ready:?}");
    assert_eq!(audited.keyway.admin_get("/livez").await.status, 200);
    assert_eq!(audited.keyway.metric(FAILING).await, 1.0);
    assert_eq!(audited.keyway.metric(LOST).await, 0.0);
    let refusals = audited.keyway.metric("keyway_errors_total{reason=\"audit_unavailable\"}").await;
    assert!(refusals >= 3.0);

    // Room again: what was served has its line, and there are more.
    fs::remove_file(audited.file()).expect("a link");
    eventually("it recovers", async || (audited.ready().await == 200).then_some(())).await;
    audited.keyway.get_with("/compute/servers", &own).await.passed_on(200);
    let lines = audited.lines(served + 1).await;
    assert!(lines.iter().all(|line| line["identity"] == "ada"), "{lines:?}");
    assert_eq!(audited.keyway.metric(FAILING).await, 0.0);
    assert_eq!(audited.keyway.metric(LOST).await, 0.0);
}

/// An HTTP/2 connection to a keyway that serves two requests at a time.
async fn crowd(audited: &Audited) -> http2::SendRequest<Payload> {
    let stream = TcpStream::connect(audited.keyway.listen()).await.expect("keyway listens");
    let (sender, connection) =
        http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.expect("nothing is sent yet");
    tokio::spawn(connection);
    sender
}

// Promises 58, 73.
#[tokio::test(flavor = "multi_thread")]
async fn a_request_too_many_has_its_line_too_and_while_the_audit_is_down_it_hears_of_that() {
    let audited = Audited::with(OnFailure::Stop, |config, _| {
        configured(config);
        config.workers = 1;
        // Two requests, then.
        config.limits.max_connections = 1;
    })
    .await;
    let key = audited.key("ada").await;
    audited.cloud.set_trouble("compute", slow(Duration::from_secs(600)));
    let sender = crowd(&audited).await;
    let url = |path: &str| format!("http://{}{path}", audited.keyway.listen());
    let ask = |method: Method, path: &str, body: &'static str| {
        let request = request(method, &url(path), &[("x-auth-token", &key)], body);
        let answer = sender.clone().send_request(request);
        async move { bounded("an answer", answer).await.expect("keyway answers") }
    };
    let under_way: Vec<_> = (0..2)
        .map(|_| {
            let request = request(Method::GET, &url("/compute/servers"), &[("x-auth-token", &key)], "");
            tokio::spawn(sender.clone().send_request(request))
        })
        .collect();
    let both = async || (audited.cloud.requests("compute").len() == 2).then_some(());
    eventually("both are under way", both).await;
    for (seen, method) in (1..).zip([Method::GET, Method::PUT, Method::HEAD]) {
        let answer = ask(method.clone(), "/compute/servers/x?a=b", "").await;
        assert_eq!(
            (answer.status().as_u16(), &answer.headers()["retry-after"]),
            (503, &"1".parse().unwrap())
        );
        assert_eq!(answer.headers()["x-keyway-error"], "overloaded");
        drop(answer);
        let line = audited.lines(seen).await.pop().expect("a line");
        for (name, value) in json!({
            "http.request.method": method.as_str(), "url.path": "/compute/servers/x", "url.query": "a=",
            "http.response.status_code": 503, "decision": "limited", "rule": "overloaded", "identity": null,
            "peer": "127.0.0.1", "listener": "main", "cloud": null,
        })
        .as_object()
        .expect("an object")
        {
            assert_eq!(&line[name], value, "{name} of {line}");
        }
    }
    assert_eq!(audited.keyway.metric("keyway_errors_total{reason=\"overloaded\"}").await, 3.0);

    // No line, no other answer: not even that there are too many.
    let path = audited.file();
    fs::remove_file(&path).expect("it is there");
    symlink("/dev/full", &path).expect("a link");
    eventually("the audit is down", async || {
        let answer = ask(Method::GET, "/compute/servers/x", "").await;
        (answer.headers()["x-keyway-error"] == "audit_unavailable").then_some(())
    })
    .await;
    under_way.iter().for_each(|request| request.abort());
}

// Promises 56, 57.
#[tokio::test(flavor = "multi_thread")]
async fn what_never_was_a_request_has_no_line_and_is_counted() {
    let audited = Audited::with(OnFailure::Stop, |config, _| {
        configured(config);
        config.timeouts.head = Duration::from_millis(500);
    })
    .await;
    let many: String = (0..250).map(|n| format!("x-{n}: 1\r\n")).collect();
    for text in [
        "\u{1}\u{2} no HTTP at all\r\n\r\n".to_owned(),
        "GET /compute/servers HTTP/1.1\r\nHost : localhost\r\n\r\n".to_owned(),
        format!("GET /compute/servers HTTP/1.1\r\nHost: localhost\r\n{many}\r\n"),
        // Its head never ends.
        "GET /compute/servers HTTP/1.1\r\nHost: localhost\r\n".to_owned(),
    ] {
        let mut client = Peer::connect(audited.keyway.listen()).await;
        client.send(text).await;
        let answer = String::from_utf8_lossy(&client.rest().await).into_owned();
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 4"), "{answer}");
    }
    let closed = async |reason: &str| {
        audited.keyway.metric(&format!("keyway_connections_closed_total{{reason=\"{reason}\"}}")).await
    };
    eventually("they are counted", async || {
        (closed("protocol").await == 3.0 && closed("head").await == 1.0).then_some(())
    })
    .await;
    audited.keyway.get("/compute/servers").await.message(401, "bad_token");
    let line = audited.lines(1).await.pop().expect("a line");
    assert_eq!(line["rule"], "no_token");
}

#[tokio::test(flavor = "multi_thread")]
async fn where_lines_may_be_lost_requests_are_served_and_the_lines_counted() {
    let audited = Audited::with(OnFailure::Count, |_, home| {
        symlink("/dev/full", home.join("log/audit")).expect("a link");
    })
    .await;
    for _ in 0..20 {
        audited.keyway.get("/compute/servers").await.passed_on(200);
    }
    eventually("they are counted", async || (audited.keyway.metric(LOST).await == 20.0).then_some(())).await;
    assert_eq!(audited.keyway.metric(FAILING).await, 1.0);
    assert_eq!(audited.ready().await, 200);
    fs::remove_file(audited.file()).expect("a link");
    audited.keyway.get("/compute/servers").await.passed_on(200);
    audited.lines(1).await;
    assert_eq!((audited.keyway.metric(LOST).await, audited.keyway.metric(FAILING).await), (20.0, 0.0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_that_goes_and_comes_back_costs_no_line_of_what_was_served() {
    let audited = Audited::with(OnFailure::Stop, |_, _| {}).await;
    audited.keyway.get("/compute/servers").await.passed_on(200);
    audited.lines(1).await;
    fs::remove_dir_all(audited.home.path().join("log")).expect("it is ours");
    let mut served = 0;
    eventually("it is refused", async || {
        let answer = audited.keyway.get("/compute/servers").await;
        served += usize::from(answer.status == 200);
        (answer.status == 503).then_some(())
    })
    .await;
    assert_eq!(audited.ready().await, 503);
    fs::create_dir(audited.home.path().join("log")).expect("a directory");
    eventually("it recovers", async || (audited.ready().await == 200).then_some(())).await;
    audited.lines(served).await;
    assert!(served >= 1);
}

// Promises 74, 78.
#[tokio::test(flavor = "multi_thread")]
async fn no_secret_and_no_value_of_a_query_gets_into_a_line() {
    let audited = Audited::with(OnFailure::Stop, |config, _| configured(config)).await;
    let key = audited.key("ada").await;
    let token = audited.log_in("ada", PASSWORD).await.header("x-subject-token").to_owned();
    let real = audited.keyway.token().await;
    let pair = STANDARD.encode(format!("ada:{key}"));
    let canary = "canaryQ7vZ3kXw9tLmB2nRs6uPdF1";
    let mut sent = 1;
    for shown in [&key, &token] {
        for path in [
            format!("/identity/v2.0/tokens/{token}"),
            format!("/identity/v2.0/tokens/{real}/endpoints"),
            format!("/compute/servers/{key}"),
            format!("/compute/{token}/servers"),
            format!("/compute/servers?token={key}&{canary}&sig={canary}"),
            format!("/object-store/box/thing?temp_url_sig={canary}&{real}"),
            format!("/{key}/x"),
        ] {
            let headers = [
                ("x-auth-token", shown.as_str()),
                ("x-subject-token", &token),
                ("cookie", canary),
                ("x-openstack-request-id", canary),
                ("user-agent", canary),
            ];
            audited.keyway.get_with(&path, &headers).await;
            sent += 1;
        }
    }
    for (name, value) in [
        ("authorization", format!("Basic {pair}")),
        ("authorization", format!("Bearer {canary}")),
        ("x-auth-token", canary.to_owned()),
        ("x-auth-token", format!("{}AAAA", &key[..key.len() - 4])),
        ("x-openstack-request-id", format!("req-{canary}")),
    ] {
        audited.keyway.get_with("/compute/servers", &[(name, &value)]).await;
        audited.log_in(canary, &value).await;
        sent += 2;
    }
    audited.lines(sent).await;
    let text = fs::read_to_string(audited.file()).expect("a file");
    for secret in [&key[21..], &key[..key.len() - 4], &token, &real, PASSWORD, canary, &pair] {
        assert!(!text.contains(secret), "{secret} is in {text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reload_changes_where_lines_go_and_a_bad_sink_changes_nothing() {
    let audited = Audited::with(OnFailure::Stop, |_, _| {}).await;
    let get = async || audited.keyway.get("/compute/servers").await.passed_on(200);
    get().await;
    audited.lines(1).await;
    // No such directory.
    let bad = audited.home.path().join("nonesuch/audit");
    assert!(!audited.reload(|config| config.audit = to_file(&bad, OnFailure::Stop)));
    get().await;
    audited.lines(2).await;
    let other = audited.home.path().join("other");
    assert!(audited.reload(|config| config.audit = to_file(&other, OnFailure::Count)));
    get().await;
    eventually("a line there", async || (lines_of(&other).len() == 1).then_some(())).await;
    assert!(audited.reload(|config| config.audit = None));
    get().await;
    // And back, behind what is there.
    assert!(audited.reload(|_| {}));
    get().await;
    audited.lines(3).await;
    assert_eq!(lines_of(&other).len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn syslog_gets_each_line_as_a_message() {
    let (cloud, home) = (cloud().await, home());
    let path = home.path().join("log");
    let daemon = UnixDatagram::bind(&path).expect("a free name");
    let keyway = TestKeyway::with(&cloud, |config| {
        config.audit = Some(audit::Config { target: Target::Syslog(path), on_failure: OnFailure::Stop });
    })
    .await;
    for path in ["/compute/servers", "/image/images"] {
        keyway.get(path).await.passed_on(200);
        let daemon = daemon.try_clone().expect("a descriptor");
        let message = received(daemon).await;
        let (head, line) = message.split_once("]: ").expect("a tag");
        assert!(head.starts_with("<86>") && head.contains(" keyway-audit["), "{head}");
        let line: Value = serde_json::from_str(line).expect("JSON");
        assert_eq!(line["url.path"], path);
    }
}

async fn received(daemon: UnixDatagram) -> String {
    let receive = tokio::task::spawn_blocking(move || {
        let mut message = vec![0; 65_536];
        let length = daemon.recv(&mut message).expect("a message");
        String::from_utf8_lossy(&message[..length]).into_owned()
    });
    bounded("a message", receive).await.expect("it was received")
}

/// keyway sees its own `/run`, in which there is a journal of the test's.
const WITH_JOURNAL: &str = "mount -t tmpfs tmpfs /run && mkdir -p /run/systemd/journal && \
                            mount --bind \"$1\" /run/systemd/journal && shift && exec \"$@\"";

#[tokio::test(flavor = "multi_thread")]
async fn the_journal_gets_each_line_as_a_message() {
    let (cloud, home) = (cloud().await, home());
    let journal = home.path().join("journal");
    fs::create_dir(&journal).expect("a directory");
    let daemon = UnixDatagram::bind(journal.join("socket")).expect("a free name");
    let apart = if geteuid().is_root() { "-m" } else { "-rm" };
    let in_namespace = |program: &str| {
        let mut command = Command::new("unshare");
        command.args([apart, "/bin/sh", "-c", WITH_JOURNAL, "sh"]).arg(&journal).arg(program);
        command
    };
    if !in_namespace("true").output().is_ok_and(|output| output.status.success()) {
        let _ = writeln!(std::io::stderr(), "\n*** NOT CHECKED: the journal needs a mount namespace ***\n");
        return;
    }
    let variables = cloud_variables(&cloud);
    let keyway = Process::start_with(home.path(), &[], &[("X", "")], |command| {
        let mut other = in_namespace(env!("CARGO_BIN_EXE_keyway"));
        other
            .args(ARGUMENTS)
            .env_clear()
            .env("HOME", home.path())
            .env("PATH", "/usr/bin:/bin:/usr/sbin:/sbin");
        other.env("KEYWAY_AUDIT_SINK", "journald").envs(variables).current_dir(home.path());
        other.stdin(std::process::Stdio::null());
        other.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
        *command = other;
    });
    let (listen, _) = keyway.addresses().await;
    // The first one, which is empty, asks whether there is a journal.
    assert_eq!(received(daemon.try_clone().expect("a descriptor")).await, "");
    let mut connection = Connection::open(listen.parse().expect("an address")).await;
    assert_eq!(connection.send(request(Method::GET, "/compute/servers", &[], "")).await.status, 200);
    let message = received(daemon).await;
    assert!(message.contains("SYSLOG_IDENTIFIER\n") || message.contains("SYSLOG_IDENTIFIER="), "{message}");
    assert!(
        message.contains("keyway-audit") && message.contains("\"url.path\":\"/compute/servers\""),
        "{message}"
    );
}

const ARGUMENTS: [&str; 6] = ["--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--log-format", "json"];

async fn start(home: &TempDir, cloud: &Cloud, sink: &str) -> (Process, SocketAddr) {
    let mut variables = cloud_variables(cloud);
    variables.push(("KEYWAY_AUDIT_SINK", sink.to_owned()));
    variables.push(("KEYWAY_AUDIT_ON_FAILURE", "stop".to_owned()));
    let keyway = Process::start(home.path(), &ARGUMENTS, &variables);
    let (listen, _) = keyway.addresses().await;
    (keyway, listen.parse().expect("an address"))
}

// Promise 70.
#[tokio::test(flavor = "multi_thread")]
async fn a_signal_opens_the_file_anew_and_the_last_lines_are_written_before_the_end() {
    let (cloud, home) = (cloud().await, home());
    let path = home.path().join("audit");
    let (mut keyway, listen) = start(&home, &cloud, "./audit").await;
    let get = async |count: usize| {
        let mut connection = Connection::open(listen).await;
        for _ in 0..count {
            assert_eq!(connection.send(request(Method::GET, "/compute/servers", &[], "")).await.status, 200);
        }
    };
    let mut rotated = Vec::new();
    for (number, signal) in (1..).zip([Signal::USR1, Signal::HUP, Signal::USR1]) {
        get(3).await;
        eventually("the lines", async || (lines_of_moving(&path) == 3).then_some(())).await;
        let old = home.path().join(format!("audit.{number}"));
        fs::rename(&path, &old).expect("a new name");
        keyway.signal(signal);
        rotated.push(old);
    }
    // The last answer goes out after the signal to end.
    cloud.set_trouble("compute", slow(Duration::from_millis(300)));
    let asked = cloud.requests("compute").len();
    let last = tokio::spawn(async move {
        let mut connection = Connection::open(listen).await;
        connection.send(request(Method::GET, "/compute/servers", &[], "")).await.status
    });
    eventually("it is under way", async || (cloud.requests("compute").len() > asked).then_some(())).await;
    keyway.signal(Signal::TERM);
    assert_eq!(last.await.expect("an answer"), 200);
    assert!(keyway.exit().await.success());
    assert_eq!(lines_of(&path).len(), 1);
    for old in rotated {
        assert_eq!(lines_of(&old).len(), 3, "{}", old.display());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn standard_output_has_nothing_but_lines() {
    let (cloud, home) = (cloud().await, home());
    let (mut keyway, listen) = start(&home, &cloud, "stdout").await;
    let mut connection = Connection::open(listen).await;
    for _ in 0..10 {
        assert_eq!(connection.send(request(Method::GET, "/compute/servers", &[], "")).await.status, 200);
    }
    keyway.signal(Signal::TERM);
    assert!(keyway.exit().await.success());
    let out = keyway.stdout();
    let lines: Vec<Value> = out.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert_eq!(lines.len(), 10);
    assert!(lines.iter().all(|line| line["url.path"] == "/compute/servers"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sink_that_can_not_be_opened_is_told_at_start() {
    let (cloud, home) = (cloud().await, home());
    for sink in ["/nonexistent/audit".to_owned(), format!("syslog:{}/nonesuch", home.path().display())] {
        let mut variables = cloud_variables(&cloud);
        variables.push(("KEYWAY_AUDIT_SINK", sink.clone()));
        let (code, _, err) = Process::start(home.path(), &ARGUMENTS, &variables).outcome().await;
        assert_eq!(code, 1);
        assert!(err.contains(&format!("the audit can't be written to {sink}")), "{err}");
        assert!(err.contains("No such file"), "{err}");
    }
}
