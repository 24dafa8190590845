//! A configuration that is read again: what is in force afterwards, and what nobody notices.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use bytes::Bytes;
use http::Method;
use http_body_util::BodyExt as _;
use keyway::config::{Config, Env, Overrides, Problems};
use keyway::demo::{self, Cloud};
use keyway::keystone;
use rustix::process::Signal;
use tempfile::TempDir;
use tokio::task::JoinSet;

use crate::support::tls::{Authority, Identity};
use crate::support::{
    Connection, Process, TestKeyway, bounded, cloud, cloud_variables, eventually, request, slow,
};

/// Reads a configuration as the program would, with this keyway.toml and without clouds.
fn read(toml: &str) -> Result<Config, Problems> {
    let home = tempfile::tempdir().expect("a directory for temporary files");
    let path = home.path().join("keyway.toml");
    fs::write(&path, toml).expect("a file");
    let overrides = Overrides {
        config: Some(path),
        listen: Some("127.0.0.1:0".to_owned()),
        admin: Some("127.0.0.1:0".to_owned()),
        workers: Some("2".to_owned()),
        ..Overrides::default()
    };
    let env = Env::new::<&str, &str>([], home.path()).with_root(home.path());
    Config::load_without_clouds(&overrides, &env)
}

/// Reloads with this keyway.toml and these clouds; whether that is in force now.
fn reload(keyway: &TestKeyway, toml: &str, clouds: Vec<keystone::Config>) -> bool {
    keyway.app().reload(read(toml).map(|config| Config { clouds, ..config }))
}

fn named(cloud: &Cloud, name: &str) -> keystone::Config {
    keystone::Config { name: name.to_owned(), ..cloud.keystone_config() }
}

const OK: &str = r#"keyway_reloads_total{result="ok"}"#;
const FAILED: &str = r#"keyway_reloads_total{result="failed"}"#;
const SUCCESSFUL: &str = "keyway_config_last_reload_successful";
const READ_AT: &str = "keyway_config_last_reload_success_timestamp_seconds";

// Promise 71.
#[tokio::test(flavor = "multi_thread")]
async fn no_request_of_a_steady_stream_is_lost_across_twenty_reloads() {
    let cloud = cloud().await;
    let keyway = TestKeyway::in_front_of(&cloud).await;
    let (listen, ended) = (keyway.listen(), Arc::new(AtomicBool::new(false)));
    let mut clients = JoinSet::new();
    for client in 0..8 {
        let ended = Arc::clone(&ended);
        clients.spawn(async move {
            let mut kept = Connection::open(listen).await;
            let mut sent = 0;
            while !ended.load(Ordering::Relaxed) {
                // Half of the clients keep their connection, and one of them sends bodies.
                if client % 2 == 1 {
                    kept = Connection::open(listen).await;
                }
                let request = match client {
                    0 => request(Method::PUT, "/object-store/box", &[], ""),
                    1 => request(Method::POST, "/compute/os-keypairs", &[], vec![b' '; 200_000]),
                    _ => request(Method::GET, "/compute/servers", &[], ""),
                };
                let answer = kept.send(request).await;
                assert_eq!(answer.header("x-keyway-error"), "", "{answer:?}");
                sent += 1;
            }
            sent
        });
    }
    for round in 1..=20 {
        let so_far = cloud.requests("compute").len();
        let toml = format!("[limits]\nreplay_buffer = '{round}KiB'\n[timeouts]\nidle = '{round}s'");
        assert!(reload(&keyway, &toml, vec![cloud.keystone_config()]));
        eventually("requests after a reload", async || {
            (cloud.requests("compute").len() > so_far + 5).then_some(())
        })
        .await;
    }
    ended.store(true, Ordering::Relaxed);
    let sent: usize = bounded("the clients' end", clients.join_all()).await.into_iter().sum();
    assert!(sent > 20 * 5, "{sent}");
    assert_eq!(cloud.token_requests(), 1, "the token was at hand all the time");
    assert_eq!((keyway.metric(OK).await, keyway.metric(FAILED).await), (20.0, 0.0));
    assert_eq!(keyway.metric(SUCCESSFUL).await, 1.0);
}

/// More than sockets hold.
const LARGE: usize = 64 << 20;

// Promise 71.
#[tokio::test(flavor = "multi_thread")]
async fn a_download_and_an_upload_in_flight_end_as_they_began() {
    let cloud = cloud().await;
    let keyway = TestKeyway::in_front_of(&cloud).await;
    assert_eq!(keyway.put("/object-store/box", "").await.status, 201);
    assert_eq!(keyway.put("/object-store/box/large", vec![7; LARGE]).await.status, 201);
    let mut down = keyway.connect().await;
    let mut body = down.start(request(Method::GET, "/object-store/box/large", &[], "")).await.into_body();
    let first = bounded("the first bytes", body.frame()).await.expect("a frame").expect("no error");
    // A service that thinks about its answer.
    cloud.set_trouble("compute", slow(Duration::from_secs(1)));
    let mut up = keyway.connect().await;
    let (answer, ()) = tokio::join!(
        up.send(request(Method::POST, "/compute/os-keypairs", &[], vec![b' '; 1 << 20])),
        async {
            eventually("the upload", async || (!cloud.requests("compute").is_empty()).then_some(())).await;
            // The cloud that they go to is not even there any more.
            assert!(reload(&keyway, "", vec![named(&cloud, "other")]));
        }
    );
    assert_eq!(answer.header("x-keyway-error"), "", "{answer:?}");
    let rest = bounded("the rest of the download", body.collect()).await.expect("nothing is cut off");
    assert_eq!(first.data_ref().map_or(0, Bytes::len) + rest.to_bytes().len(), LARGE);
    assert_eq!(keyway.get("/cloud/demo/compute/servers").await.status, 404);
}

// Promise 71.
#[tokio::test(flavor = "multi_thread")]
async fn limits_hold_for_the_next_request_on_an_open_connection() {
    let cloud = cloud().await;
    let keyway = TestKeyway::in_front_of(&cloud).await;
    let mut connection = keyway.connect().await;
    let long = format!("/compute/servers?name={}", "x".repeat(500));
    assert_eq!(connection.send(request(Method::GET, &long, &[], "")).await.status, 200);
    assert!(reload(&keyway, "limits.target = 300", vec![cloud.keystone_config()]));
    let answer = connection.send(request(Method::GET, &long, &[], "")).await;
    answer.message(414, "target_too_long");
    assert!(reload(&keyway, "", vec![cloud.keystone_config()]));
    assert_eq!(connection.send(request(Method::GET, &long, &[], "")).await.status, 200);
}

// Promise 71.
#[tokio::test(flavor = "multi_thread")]
async fn timeouts_hold_for_what_comes_afterwards() {
    let cloud = cloud().await;
    let keyway = TestKeyway::in_front_of(&cloud).await;
    cloud.set_trouble("compute", slow(Duration::from_secs(3)));
    assert!(reload(&keyway, "timeouts.response = '500ms'", vec![cloud.keystone_config()]));
    keyway.get("/compute/servers").await.message(504, "upstream_timeout");
    assert!(reload(&keyway, "", vec![cloud.keystone_config()]));
    assert_eq!(keyway.get("/compute/servers").await.status, 200);
}

// Promise 71.
#[tokio::test(flavor = "multi_thread")]
async fn clouds_are_swapped_and_those_that_stay_keep_their_tokens() {
    let (one, two, three) = (cloud().await, cloud().await, cloud().await);
    let keyway = TestKeyway::cold(vec![named(&one, "one"), named(&two, "two")], |_| {});
    for name in ["one", "two"] {
        assert_eq!(keyway.get(&format!("/cloud/{name}/compute/servers")).await.status, 200);
    }
    let project = format!("/cloud/one/project/{}/compute/servers", demo::OTHER_PROJECT);
    assert_eq!(keyway.get(&project).await.status, 200);
    assert_eq!((one.token_requests(), two.token_requests()), (2, 1));

    // One is in another place now and has another region, two is gone, three is new and the default one.
    let mut stays = named(&one, "one");
    stays.region = None;
    assert!(reload(&keyway, "", vec![named(&three, "three"), stays]));
    eventually("the new cloud's login", async || (three.token_requests() == 1).then_some(())).await;
    assert_eq!(keyway.get("/compute/servers").await.status, 200);
    assert_eq!(three.requests("compute").len(), 1);
    assert_eq!(keyway.get("/cloud/one/compute/servers").await.status, 200);
    assert_eq!(keyway.get(&project).await.status, 200);
    keyway.get("/cloud/two/compute/servers").await.message(404, "unknown_cloud");
    assert_eq!((one.token_requests(), two.token_requests(), three.token_requests()), (2, 1, 1));
    let status = keyway.status().await;
    let names: Vec<_> = status["clouds"].as_array().unwrap().iter().map(|cloud| &cloud["name"]).collect();
    assert_eq!(names, ["three", "one"]);
    let text = keyway.admin_get("/metrics").await.text();
    assert!(!text.contains(r#"token_expiry_timestamp_seconds{cloud="two"}"#), "{text}");

    // The token that was taken over can still be replaced.
    one.revoke_all();
    assert_eq!(keyway.get("/cloud/one/compute/servers").await.status, 200);
    assert_eq!(one.token_requests(), 3);
}

// Promise 71.
#[tokio::test(flavor = "multi_thread")]
async fn a_changed_login_is_used_at_once() {
    let cloud = cloud().await;
    let keyway = TestKeyway::in_front_of(&cloud).await;
    let mut changed = cloud.keystone_config();
    let keystone::Auth::Identity(identity) = &mut changed.auth else {
        panic!("the demo cloud has a Keystone")
    };
    identity.scope = keystone::Scope::Project(keystone::Project::Id(demo::OTHER_PROJECT_ID.to_owned()));
    assert!(reload(&keyway, "", vec![changed]));
    assert_eq!(keyway.get("/compute/servers").await.status, 200);
    assert_eq!(cloud.token_requests(), 2);
    assert_eq!(keyway.status().await["clouds"][0]["project"], demo::OTHER_PROJECT);
}

// Promises 63, 71.
#[tokio::test(flavor = "multi_thread")]
async fn a_login_under_way_and_a_pause_after_a_failure_outlive_a_reload() {
    let cloud = cloud().await;
    cloud.set_trouble("identity", slow(Duration::from_secs(1)));
    let keyway = TestKeyway::cold(vec![cloud.keystone_config()], |_| {});
    eventually("the login", async || (cloud.token_requests() == 1).then_some(())).await;
    let (statuses, ()) = tokio::join!(keyway.get_at_once(20, "/compute/servers"), async {
        for _ in 0..5 {
            assert!(reload(&keyway, "", vec![cloud.keystone_config()]));
        }
        assert_eq!(keyway.get_at_once(20, "/compute/servers").await, [200; 20]);
    });
    assert_eq!(statuses, [200; 20]);
    assert_eq!(cloud.token_requests(), 1);

    let broken = crate::support::cloud().await;
    broken.set_trouble("identity", crate::support::refusing());
    let keyway = TestKeyway::cold(vec![broken.keystone_config()], |_| {});
    keyway.get("/compute/servers").await.message(502, "credentials_rejected");
    for _ in 0..5 {
        assert!(reload(&keyway, "", vec![broken.keystone_config()]));
        keyway.get("/compute/servers").await.message(502, "credentials_rejected");
    }
    assert_eq!(broken.token_requests(), 1, "accounts get locked");
}

// Promises 68, 71.
#[tokio::test(flavor = "multi_thread")]
async fn one_renewal_is_enough_for_all_configurations_that_still_have_requests() {
    let cloud = cloud().await;
    cloud.set_token_ttl(Duration::from_secs(6));
    let keyway = TestKeyway::in_front_of(&cloud).await;
    cloud.set_trouble("compute", slow(Duration::from_secs(5)));
    let mut in_flight = JoinSet::new();
    for generation in 1..=3 {
        let mut connection = keyway.connect().await;
        in_flight.spawn(async move {
            connection.send(request(Method::GET, "/compute/servers", &[], "")).await.status
        });
        eventually("the request", async || (cloud.requests("compute").len() == generation).then_some(()))
            .await;
        assert!(reload(&keyway, "", vec![cloud.keystone_config()]));
    }
    cloud.set_token_ttl(Duration::from_secs(3600));
    eventually("the renewal", async || (cloud.token_requests() == 2).then_some(())).await;
    // The token of each of them would be renewed at about the same time, long before these end.
    assert_eq!(bounded("the requests", in_flight.join_all()).await, [200; 3]);
    assert_eq!(cloud.token_requests(), 2);
}

// Promise 71.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_changes_nothing() {
    let cloud = cloud().await;
    let keyway = TestKeyway::with(&cloud, |config| config.limits.target = 300).await;
    let before = (keyway.metric(READ_AT).await, keyway.status().await["config"]["read_at"].clone());
    assert!(before.0 > 1.7e9, "{before:?}");
    assert!(!reload(&keyway, "limits.target = '1 banana'", vec![]));
    // What is found when the files are used rather than read.
    let mut broken = cloud.keystone_config();
    broken.tls.ca_file = Some("/nonexistent/ca.pem".into());
    assert!(!reload(&keyway, "", vec![broken]));
    let long = format!("/compute/servers?name={}", "x".repeat(300));
    keyway.get(&long).await.message(414, "target_too_long");
    assert_eq!(keyway.get("/compute/servers").await.status, 200);
    assert_eq!((keyway.metric(OK).await, keyway.metric(FAILED).await), (0.0, 2.0));
    assert_eq!((keyway.metric(SUCCESSFUL).await, keyway.metric(READ_AT).await), (0.0, before.0));
    let status = keyway.status().await;
    assert_eq!(status["config"]["last_reload_successful"], false);
    assert_eq!(status["config"]["read_at"], before.1);
    assert!(reload(&keyway, "", vec![cloud.keystone_config()]));
    assert_eq!(keyway.get(&long).await.status, 200);
    assert_eq!((keyway.metric(OK).await, keyway.metric(SUCCESSFUL).await), (1.0, 1.0));
    assert_eq!(keyway.status().await["config"]["last_reload_successful"], true);
}

// Promise 71.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_of_a_hundred_old_configurations_stays() {
    let cloud = cloud().await;
    let keyway = TestKeyway::in_front_of(&cloud).await;
    let mut connection = keyway.connect().await;
    let mut old: Vec<Weak<_>> = Vec::new();
    for _ in 0..100 {
        assert_eq!(connection.send(request(Method::GET, "/compute/servers", &[], "")).await.status, 200);
        old.push(Arc::downgrade(&keyway.app().shared()));
        assert!(reload(&keyway, "", vec![cloud.keystone_config()]));
    }
    eventually("the end of all that is old", async || {
        old.iter().all(|shared| shared.strong_count() == 0).then_some(())
    })
    .await;
    assert_eq!(Arc::downgrade(&keyway.app().shared()).upgrade().map(|_| ()), Some(()));
    assert_eq!(cloud.token_requests(), 1);
}

/// The program with these files in its home, in front of the demo cloud.
struct Program {
    home: TempDir,
    process: Process,
    listen: String,
    admin: String,
}

impl Program {
    async fn start(cloud: &Cloud, toml: &str) -> Self {
        let home = tempfile::tempdir().expect("a directory for temporary files");
        fs::write(home.path().join("keyway.toml"), toml).expect("a file");
        let arguments = ["--config", "keyway.toml", "--log-format", "json"];
        let ports = [("KEYWAY_LISTEN", "127.0.0.1:0".to_owned()), ("KEYWAY_ADMIN", "127.0.0.1:0".to_owned())];
        let variables: Vec<_> = cloud_variables(cloud).into_iter().chain(ports).collect();
        let process = Process::start(home.path(), &arguments, &variables);
        let (listen, admin) = process.addresses().await;
        Self { home, process, listen, admin }
    }

    async fn get(&self, path: &str) -> crate::support::Answer {
        get(&self.listen, path).await
    }

    async fn metric(&self, sample: &str) -> f64 {
        let text = get(&self.admin, "/metrics").await.text();
        let value = text.lines().find_map(|line| line.strip_prefix(sample)?.strip_prefix(' '));
        value.expect("the metric is there").parse().expect("a number")
    }

    /// Replaces keyway.toml, sends SIGHUP, and waits until it has been looked at.
    async fn reload(&self, toml: &str) {
        fs::write(self.home.path().join("keyway.toml"), toml).expect("a file");
        let looked = async || self.metric(OK).await + self.metric(FAILED).await;
        let before = looked().await;
        self.process.signal(Signal::HUP);
        eventually("the reload", async || (looked().await > before).then_some(())).await;
    }

    /// Waits for a line of its log with this level and text.
    async fn says(&self, level: &str, text: &str) {
        let said = |line: &str| {
            let line: serde_json::Value = serde_json::from_str(line).ok()?;
            (line["level"] == level && line["message"].as_str()?.contains(text)).then_some(())
        };
        self.process.stderr_line(&format!("`{text}` in the log"), said).await;
    }

    fn descriptors(&self) -> usize {
        fs::read_dir(format!("/proc/{}/fd", self.process.id())).expect("it runs").count()
    }
}

async fn get(address: &str, path: &str) -> crate::support::Answer {
    let mut connection = Connection::open(address.parse().expect("an address")).await;
    connection.send(request(Method::GET, path, &[], "")).await
}

// Promise 71.
#[tokio::test(flavor = "multi_thread")]
async fn sighup_reads_the_files_again_with_the_flags_and_variables_of_the_start() {
    let cloud = cloud().await;
    let program = Program::start(&cloud, "limits.target = 300").await;
    let long = format!("/compute/servers?name={}", "x".repeat(300));
    assert_eq!(program.get(&long).await.status, 414);
    program.reload("").await;
    assert_eq!(program.get(&long).await.status, 200);
    assert_eq!(cloud.token_requests(), 1);

    // All that is wrong is told, and that the old one stays.
    program.reload("lisen = 1\nlimits.target = '1 banana'\n[listener.main]\npolicy = 'x'").await;
    for text in [
        "keyway.toml: lisen: unknown key: did you mean `listen`?",
        "keyway.toml: limits.target: `1 banana` is no size",
        "keyway.toml: listener.main.policy: there is no policy `x`",
        "the configuration was not reloaded: the old one stays in force",
    ] {
        program.says("ERROR", text).await;
    }
    assert_eq!(program.get(&long).await.status, 200);

    // What needs a restart is named, and the rest is in force.
    let toml = "workers = 7\nlog.level = 'debug'\n[limits]\ntarget = 300\n\
                [listener.other]\naddress = '127.0.0.1:0'";
    program.reload(toml).await;
    for text in ["`workers` changed to 7: restart keyway", "`log` changed", "the listener `other` is new"] {
        program.says("WARN", text).await;
    }
    assert_eq!(program.get(&long).await.status, 414);
}

// Promise 71.
#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_reloads_leave_no_descriptor_behind() {
    let cloud = cloud().await;
    let program = Program::start(&cloud, "").await;
    let mut settled = 0;
    for round in 0..=100 {
        program.reload(&format!("timeouts.idle = '{}s'", 10 + round)).await;
        assert_eq!(program.get("/compute/servers").await.status, 200);
        if round == 10 {
            settled = program.descriptors();
        }
    }
    // One connection to the service and one of a client may be about to close.
    eventually("as few descriptors as before", async || (program.descriptors() <= settled + 2).then_some(()))
        .await;
    assert_eq!(cloud.token_requests(), 1);
}

// Promises 70, 71.
#[tokio::test(flavor = "multi_thread")]
async fn sighup_changes_nothing_once_keyway_is_stopping() {
    let cloud = cloud().await;
    let mut program = Program::start(&cloud, "").await;
    cloud.set_trouble("compute", slow(Duration::from_secs(2)));
    let (answer, ()) = tokio::join!(program.get("/compute/servers"), async {
        eventually("the request", async || (!cloud.requests("compute").is_empty()).then_some(())).await;
        program.process.signal(Signal::TERM);
        let line = |text: &'static str| move |line: &str| line.contains(text).then_some(());
        program.process.stderr_line("that it stops", line("stopping: requests")).await;
        program.process.signal(Signal::HUP);
        program.process.stderr_line("that it does not reload", line("is not read again")).await;
    });
    assert_eq!(answer.status, 200);
    assert_eq!(program.process.exit().await.code(), Some(0));
}

/// A clouds.yaml with one cloud, for its owner alone.
fn write_clouds(path: &Path, name: &str, cloud: &Cloud) {
    let yaml = format!(
        "clouds:\n  {name}:\n    region_name: RegionOne\n    auth: {{auth_url: '{}', username: {}, password: {}, \
         project_name: {}, user_domain_name: {d}, project_domain_name: {d}}}\n",
        cloud.auth_url(),
        demo::USER,
        demo::PASSWORD,
        demo::PROJECT,
        d = demo::DOMAIN,
    );
    fs::write(path, yaml).expect("a file");
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).expect("permissions");
}

// Promise 71.
#[tokio::test(flavor = "multi_thread")]
async fn clouds_yaml_is_read_again_too() {
    let (one, two) = (cloud().await, cloud().await);
    let home = tempfile::tempdir().expect("a directory for temporary files");
    let clouds = home.path().join("clouds.yaml");
    write_clouds(&clouds, "one", &one);
    let arguments = ["--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--log-format", "json"];
    let process = Process::start::<&str>(home.path(), &arguments, &[]);
    let (listen, admin) = process.addresses().await;
    assert_eq!(get(&listen, "/cloud/one/compute/servers").await.status, 200);
    write_clouds(&clouds, "two", &two);
    process.signal(Signal::HUP);
    eventually("the other cloud", async || {
        (get(&listen, "/cloud/two/compute/servers").await.status == 200).then_some(())
    })
    .await;
    get(&listen, "/cloud/one/compute/servers").await.message(404, "unknown_cloud");
    assert_eq!((one.requests("compute").len(), two.requests("compute").len()), (1, 1));
    assert!(get(&admin, "/metrics").await.text().contains(&format!("{OK} 1\n")));
}

// Promises 43, 71.
#[tokio::test(flavor = "multi_thread")]
async fn policies_and_the_checks_of_a_listener_are_swapped() {
    let cloud = cloud().await;
    let keyway = TestKeyway::in_front_of(&cloud).await;
    let mut connection = keyway.connect().await;
    let mut ask = async |method: Method, headers: &[(&str, &str)]| {
        connection.send(request(method, "/compute/servers", headers, "")).await
    };
    assert_eq!(ask(Method::GET, &[]).await.status, 200);
    let locked = "[listener.main]\npolicy = 'look'\nrequired_header = 'X-Key: 1'\n[policy.look]\ndefault = 'deny'\n\
                  [[policy.look.rule]]\nname = 'lists'\neffect = 'allow'\nmethods = ['GET']\npaths = ['/servers']";
    assert!(reload(&keyway, locked, vec![cloud.keystone_config()]));
    assert_eq!(ask(Method::GET, &[]).await.status, 403);
    assert_eq!(ask(Method::GET, &[("x-key", "1")]).await.status, 200);
    assert_eq!(ask(Method::DELETE, &[("x-key", "1")]).await.status, 403);
    assert!(reload(&keyway, "", vec![cloud.keystone_config()]));
    assert_eq!(ask(Method::GET, &[]).await.status, 200);
    assert_ne!(ask(Method::DELETE, &[]).await.status, 403);
}

// Promises 1, 71.
#[tokio::test(flavor = "multi_thread")]
async fn certificates_and_the_authorities_of_clients_are_swapped() {
    use rustls::pki_types::pem::PemObject as _;
    use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    let (cloud, authority, other) = (cloud().await, Authority::new(), Authority::new());
    let certificate = |text: &str| CertificateDer::from_pem_slice(text.as_bytes()).expect("PEM");
    let files = |identity: &Identity, clients: &Authority| {
        let key = authority.write("tls.key", &identity.key);
        fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).expect("permissions");
        let cert = authority.write("tls.pem", &identity.certificate);
        format!(
            "[listener.main]\ntls_cert = '{}'\ntls_key = '{}'\nclient_ca = '{}'",
            cert.display(),
            key.display(),
            clients.file().display()
        )
    };
    // The certificate of a listener that answers a client of this authority; `None` if it does not.
    let met = async |address: std::net::SocketAddr, clients: &Authority| {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(authority.file()).expect("PEM")).expect("an authority");
        let identity = clients.issue("client.example");
        let key = PrivateKeyDer::from_pem_slice(identity.key.as_bytes()).expect("PEM");
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("TLS 1.2 and 1.3")
            .with_root_certificates(roots)
            .with_client_auth_cert(vec![certificate(&identity.certificate)], key)
            .expect("a good identity");
        let stream = tokio::net::TcpStream::connect(address).await.expect("keyway listens");
        let name = ServerName::try_from("localhost").expect("a name");
        let mut stream =
            tokio_rustls::TlsConnector::from(Arc::new(config)).connect(name, stream).await.ok()?;
        let ask = b"GET /compute/servers HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";
        stream.write_all(ask).await.ok()?;
        let mut answer = Vec::new();
        bounded("an answer", stream.read_to_end(&mut answer)).await.ok()?;
        assert!(answer.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&answer));
        Some(stream.get_ref().1.peer_certificates().expect("it showed one")[0].clone().into_owned())
    };

    let first = authority.issue("localhost");
    let config = read(&files(&first, &authority)).expect("it is right");
    let keyway = TestKeyway::with(&cloud, |running| running.listeners = config.listeners).await;
    assert_eq!(met(keyway.listen(), &authority).await, Some(certificate(&first.certificate)));
    assert_eq!(met(keyway.listen(), &other).await, None);
    let second = authority.issue("localhost");
    assert!(reload(&keyway, &files(&second, &other), vec![cloud.keystone_config()]));
    assert_eq!(met(keyway.listen(), &other).await, Some(certificate(&second.certificate)));
    assert_eq!(met(keyway.listen(), &authority).await, None);

    // A key of another certificate changes nothing.
    let broken = Identity { certificate: second.certificate.clone(), key: first.key };
    assert!(!reload(&keyway, &files(&broken, &other), vec![cloud.keystone_config()]));
    assert_eq!(met(keyway.listen(), &other).await, Some(certificate(&second.certificate)));
}
