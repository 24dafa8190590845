//! The cloud's tokens on disk: what does a restart cost, who shares what, and what becomes of bad files?

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown, symlink};
use std::path::{Path, PathBuf};
use std::time::Duration;

use http::Method;
use keyway::config::Config;
use keyway::demo::{self, Cloud};
use keyway::keystone::store;
use keyway::keystone::{self, ApplicationCredential, Auth, Identity, Project, Scope, Secret};
use keyway::upstream::BaseUrl;
use rustix::process::{Signal, geteuid};
use serde_json::{Value, json};

use crate::support::{
    Answer, Connection, Process, TestKeyway, answering, cloud, cloud_variables, eventually, request, slow,
};

const PASSWORD: &str = "canary-hunter2-of-the-cloud";

const ARGUMENTS: [&str; 6] = ["--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--log-format", "json"];

/// A directory in which tokens are kept, and their key.
struct Kept {
    home: tempfile::TempDir,
}

impl Kept {
    fn new() -> Self {
        Self { home: tempfile::tempdir().expect("a directory for temporary files") }
    }

    fn config(&self) -> store::Config {
        let home = self.home.path();
        store::Config { directory: home.join("tokens"), key_file: home.join("token-key"), makes_key: true }
    }

    /// keyway for this cloud, logged in or not in need of it.
    async fn keyway(&self, cloud: &Cloud) -> TestKeyway {
        TestKeyway::with(cloud, self.keep()).await
    }

    fn keep(&self) -> impl FnOnce(&mut Config) {
        let tokens = Some(self.config());
        move |config| config.tokens = tokens
    }

    /// The entries that there are.
    fn entries(&self) -> Vec<PathBuf> {
        entries(&self.config().directory)
    }

    /// The only one.
    #[track_caller]
    fn entry(&self) -> PathBuf {
        let [entry] = self.entries().try_into().expect("one entry");
        entry
    }
}

fn entries(directory: &Path) -> Vec<PathBuf> {
    let mut entries = files(directory);
    entries.retain(|path| path.extension().is_some_and(|extension| extension == "token"));
    entries
}

/// Every file below a directory; none if it is not there.
fn files(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for file in fs::read_dir(directory).into_iter().flatten() {
        let path = file.expect("readable").path();
        if path.is_dir() {
            found.extend(files(&path));
        } else {
            found.push(path);
        }
    }
    found
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).expect("it is there").mode() & 0o7777
}

async fn get(address: &str, path: &str) -> Answer {
    let mut connection = Connection::open(address.parse().expect("an address")).await;
    connection.send(request(Method::GET, path, &[], "")).await
}

const RESTORED: &str = r#"keyway_tokens_restored_total{cloud="demo"}"#;

// Promises 74, 84.
#[tokio::test(flavor = "multi_thread")]
async fn a_restart_costs_keystone_no_token_and_no_file_tells_one() {
    let config = demo::Config { password: PASSWORD.to_owned(), ..demo::Config::default() };
    let cloud = Cloud::start(config).await.expect("loopback has free ports");
    let home = tempfile::tempdir().expect("a directory for temporary files");
    let mut variables = cloud_variables(&cloud);
    variables.retain(|(name, _)| *name != "OS_PASSWORD");
    variables.push(("OS_PASSWORD", PASSWORD.to_owned()));
    let arguments = [&ARGUMENTS[..], &["--log-level", "trace"]].concat();
    let state = home.path().join(".local/state/keyway");

    // Not unless it is asked for.
    let mut process = Process::start(home.path(), &arguments, &variables);
    let (listen, _) = process.addresses().await;
    assert_eq!(get(&listen, "/compute/servers").await.status, 200);
    process.signal(Signal::TERM);
    process.exit().await;
    assert_eq!((cloud.token_requests(), files(home.path()).len()), (1, 0));

    variables.push(("KEYWAY_TOKENS_CACHE", "true".to_owned()));
    let mut said = String::new();
    for start in 0..3 {
        let mut process = Process::start(home.path(), &arguments, &variables);
        let (listen, admin) = process.addresses().await;
        assert_eq!(get(&listen, "/compute/servers").await.status, 200);
        // Another scope of the same login is kept as well.
        assert_eq!(get(&listen, "/project/other/compute/servers").await.status, 200);
        assert_eq!(cloud.token_requests(), 3, "start {start}");
        let metrics = get(&admin, "/metrics").await.text();
        let restored = if start == 0 { 0 } else { 2 };
        let sample = format!("keyway_tokens_restored_total{{cloud=\"envvars\"}} {restored}");
        assert!(metrics.contains(&sample), "{metrics}");
        assert_eq!(metrics.contains("keyway_token_requests_total{"), start == 0, "{metrics}");
        assert!(metrics.contains("keyway_token_expiry_timestamp_seconds{cloud=\"envvars\"} 1"), "{metrics}");
        said.push_str(&metrics);
        said.push_str(&get(&admin, "/status").await.text());
        process.signal(Signal::TERM);
        process.exit().await;
        said.push_str(&process.stderr());
    }
    assert!(said.contains("found a token that was kept"), "the log says so");

    let tokens = cloud.requests("compute").into_iter().map(|seen| seen.headers["x-auth-token"].clone());
    let mut secrets: Vec<String> = tokens.map(|token| token.to_str().expect("ASCII").to_owned()).collect();
    secrets.dedup();
    secrets.push(PASSWORD.to_owned());
    let key = fs::read_to_string(state.join("token-key")).expect("a key").trim().to_owned();
    let files = files(home.path());
    assert_eq!((files.len(), entries(&state.join("tokens")).len()), (3, 2), "{files:?}");
    for path in &files {
        assert_eq!(mode(path), 0o600, "{}", path.display());
        assert_eq!(mode(path.parent().expect("a parent")), 0o700);
        let (name, contents) = (path.display().to_string(), fs::read(path).expect("it is ours"));
        for secret in secrets.iter().flat_map(|secret| [secret.as_str(), &secret[secret.len() / 2..]]) {
            assert!(!contents.windows(secret.len()).any(|window| window == secret.as_bytes()), "{name}");
            assert!(!name.contains(secret));
        }
    }
    for secret in secrets.iter().chain([&key]) {
        assert!(!said.contains(secret), "a secret was told");
    }
}

// Promise 63.
#[tokio::test(flavor = "multi_thread")]
async fn the_token_command_and_a_running_keyway_share_one_token() {
    let (cloud, home) = (cloud().await, tempfile::tempdir().expect("a directory for temporary files"));
    let variables = cloud_variables(&cloud);
    let token = async |arguments: &[&str]| {
        let (code, out, err) = Process::start(home.path(), arguments, &variables).outcome().await;
        assert_eq!(code, 0, "{err}");
        out
    };
    let first = token(&["token", "--tokens-cache"]).await;
    let arguments = [&ARGUMENTS[..], &["--tokens-cache"]].concat();
    let process = Process::start(home.path(), &arguments, &variables);
    let (listen, _) = process.addresses().await;
    assert_eq!(get(&listen, "/compute/servers").await.status, 200);
    assert_eq!(token(&["token", "--tokens-cache"]).await, first);
    assert_eq!((cloud.token_requests(), cloud.accepts(&first)), (1, true));
    // What the running one gets instead, the command has too.
    cloud.revoke_all();
    assert_eq!(get(&listen, "/compute/servers").await.status, 200);
    let second = token(&["token", "--tokens-cache"]).await;
    assert_ne!(second, first);
    assert_eq!((cloud.token_requests(), cloud.accepts(&second)), (2, true));
    // And a run.
    assert_eq!(token(&["run", "--tokens-cache", "--", "/bin/echo", "done"]).await, "done");
    assert_eq!(cloud.token_requests(), 2);
    // A check logs in, or it would say nothing about the password; and so does who keeps nothing.
    token(&["check", "--tokens-cache"]).await;
    assert_eq!(cloud.token_requests(), 3);
    assert_ne!(token(&["token"]).await, second);
    assert_eq!(cloud.token_requests(), 4);
}

// Promise 63.
#[tokio::test(flavor = "multi_thread")]
async fn several_that_start_at_once_cost_one_login() {
    let (cloud, home) = (cloud().await, tempfile::tempdir().expect("a directory for temporary files"));
    cloud.set_trouble("identity", slow(Duration::from_millis(500)));
    let variables = cloud_variables(&cloud);
    let start = |arguments: &[&str]| Process::start(home.path(), arguments, &variables);
    let serving = start(&[&ARGUMENTS[..], &["--tokens-cache"]].concat());
    let asking: Vec<_> = (0..4).map(|_| start(&["token", "--tokens-cache"])).collect();
    let mut tokens = Vec::new();
    for process in asking {
        let (code, out, err) = process.outcome().await;
        assert_eq!(code, 0, "{err}");
        tokens.push(out);
    }
    tokens.dedup();
    assert_eq!(tokens.len(), 1);
    let (listen, _) = serving.addresses().await;
    assert_eq!(get(&listen, "/compute/servers").await.status, 200);
    assert_eq!(cloud.token_requests(), 1);
    let state = home.path().join(".local/state/keyway");
    assert_eq!(files(&state.join("tokens")).len(), 1, "locks go when they are let go");
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_holds_a_lock_for_too_long_is_not_waited_for() {
    let (cloud, kept) = (cloud().await, Kept::new());
    drop(kept.keyway(&cloud).await);
    let entry = kept.entry();
    fs::remove_file(&entry).expect("it is ours");
    let lock = File::create(entry.with_extension("lock")).expect("it is ours");
    fs::set_permissions(entry.with_extension("lock"), fs::Permissions::from_mode(0o600))
        .expect("permissions");
    lock.lock().expect("nobody has it");
    let keyway = TestKeyway::with(&cloud, |config| {
        config.tokens = Some(kept.config());
        config.timeouts.keystone = Duration::from_secs(3);
    })
    .await;
    assert_eq!(keyway.get("/compute/servers").await.status, 200);
    assert_eq!((cloud.token_requests(), kept.entry()), (2, entry));
}

// Promise 65.
#[tokio::test(flavor = "multi_thread")]
async fn a_kept_token_serves_while_keystone_is_down() {
    let (cloud, kept) = (cloud().await, Kept::new());
    drop(kept.keyway(&cloud).await);
    cloud.pause("identity").await;
    let keyway = kept.keyway(&cloud).await;
    assert_eq!(keyway.get("/compute/servers").await.status, 200);
    assert_eq!(keyway.admin_get("/readyz").await.status, 200);
    assert_eq!((cloud.token_requests(), keyway.metric(RESTORED).await), (1, 1.0));
}

// Promises 63, 84.
#[tokio::test(flavor = "multi_thread")]
async fn a_refused_token_is_replaced_and_its_file_is_gone_at_once() {
    let (cloud, kept) = (cloud().await, Kept::new());
    let keyway = kept.keyway(&cloud).await;
    let first = keyway.token().await;
    drop(keyway);
    cloud.revoke_all();
    let keyway = kept.keyway(&cloud).await;
    assert_eq!(keyway.token().await, first, "nobody refused it yet");
    assert_eq!(keyway.get("/compute/servers").await.status, 200);
    let second = keyway.token().await;
    assert!(second != first && cloud.token_requests() == 2);
    drop(keyway);
    let keyway = kept.keyway(&cloud).await;
    assert_eq!(keyway.token().await, second);
    assert_eq!(cloud.token_requests(), 2);
    // Also where there is no new one.
    cloud.revoke_all();
    cloud.set_trouble("identity", answering(503, &[], "{}"));
    assert_eq!(keyway.get("/compute/servers").await.status, 503);
    assert_eq!(kept.entries().len(), 0);
}

// Promise 63.
#[tokio::test(flavor = "multi_thread")]
async fn of_several_whose_token_is_refused_one_logs_in() {
    let (cloud, kept) = (cloud().await, Kept::new());
    let keyways = [kept.keyway(&cloud).await, kept.keyway(&cloud).await, kept.keyway(&cloud).await];
    assert_eq!(cloud.token_requests(), 1);
    cloud.revoke_all();
    for keyway in &keyways {
        assert_eq!(keyway.get_at_once(4, "/compute/servers").await, [200; 4]);
    }
    assert_eq!(cloud.token_requests(), 2);
    assert_eq!(keyways[0].token().await, keyways[2].token().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_is_over_is_not_taken() {
    let config = demo::Config { token_ttl: Duration::from_secs(2), ..demo::Config::default() };
    let cloud = Cloud::start(config).await.expect("loopback has free ports");
    let home = tempfile::tempdir().expect("a directory for temporary files");
    let variables = cloud_variables(&cloud);
    let token = async || {
        let process = Process::start(home.path(), &["token", "--tokens-cache"], &variables);
        let (code, out, err) = process.outcome().await;
        assert_eq!(code, 0, "{err}");
        out
    };
    let first = token().await;
    let state = home.path().join(".local/state/keyway");
    assert_eq!(entries(&state.join("tokens")).len(), 1);
    eventually("the end of the token", async || (!cloud.accepts(&first)).then_some(())).await;
    cloud.set_token_ttl(Duration::from_secs(300));
    let second = token().await;
    assert!(second != first && cloud.accepts(&second));
    assert_eq!((cloud.token_requests(), token().await), (2, second));
}

/// What somebody did to an entry.
type Damage = (&'static str, fn(&Path));

// Promise 84.
#[tokio::test(flavor = "multi_thread")]
async fn an_entry_that_is_not_as_it_was_written_costs_one_login_and_no_more() {
    fn change(path: &Path, change: impl FnOnce(&mut Vec<u8>)) {
        let mut contents = fs::read(path).expect("it is ours");
        change(&mut contents);
        fs::write(path, contents).expect("it is ours");
    }
    fn set_mode(path: &Path, mode: u32) {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("it is ours");
    }
    let damages: [Damage; 12] = [
        ("empty", |path| change(path, Vec::clear)),
        ("cut", |path| change(path, |contents| contents.truncate(contents.len() - 1))),
        ("cut to its head", |path| change(path, |contents| contents.truncate(36))),
        ("longer", |path| change(path, |contents| contents.push(0))),
        ("one bit", |path| change(path, |contents| contents[100] ^= 1)),
        ("another end", |path| change(path, |contents| contents[20] ^= 1)),
        ("garbage", |path| fs::write(path, vec![b'x'; 5000]).expect("it is ours")),
        ("too large", |path| {
            let file = OpenOptions::new().write(true).open(path).expect("it is ours");
            file.set_len(1 << 30).expect("a sparse file");
        }),
        ("readable", |path| set_mode(path, 0o604)),
        ("writable", |path| set_mode(path, 0o620)),
        ("a link", |path| {
            let elsewhere = path.with_extension("elsewhere");
            fs::rename(path, &elsewhere).expect("it is ours");
            symlink(elsewhere, path).expect("a link");
        }),
        ("a pipe", |path| {
            fs::remove_file(path).expect("it is ours");
            let (kind, mode) = (rustix::fs::FileType::Fifo, rustix::fs::Mode::from_raw_mode(0o600));
            rustix::fs::mknodat(rustix::fs::CWD, path, kind, mode, 0).expect("a pipe");
        }),
    ];
    let (cloud, kept) = (cloud().await, Kept::new());
    drop(kept.keyway(&cloud).await);
    let mut damages = damages.to_vec();
    if geteuid().is_root() {
        damages.push(("somebody else's", |path| chown(path, Some(65_534), None).expect("root may")));
    } else {
        eprintln!("skipped: only root can give a file to somebody else");
    }
    for (what, damage) in damages {
        let (entry, logins) = (kept.entry(), cloud.token_requests());
        damage(&entry);
        for _ in 0..2 {
            let keyway = kept.keyway(&cloud).await;
            assert_eq!(keyway.get("/compute/servers").await.status, 200, "{what}");
            assert_eq!(cloud.token_requests(), logins + 1, "{what}");
        }
        assert_eq!((kept.entry(), mode(&entry)), (entry, 0o600), "{what}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_entry_is_told_of_once() {
    let (cloud, home) = (cloud().await, tempfile::tempdir().expect("a directory for temporary files"));
    let (variables, arguments) = (cloud_variables(&cloud), [&ARGUMENTS[..], &["--tokens-cache"]].concat());
    let (code, ..) = Process::start(home.path(), &["token", "--tokens-cache"], &variables).outcome().await;
    assert_eq!(code, 0);
    let [entry] = entries(&home.path().join(".local/state/keyway/tokens")).try_into().expect("one entry");
    fs::write(&entry, "hunter2").expect("it is ours");
    let process = Process::start(home.path(), &arguments, &variables);
    let (listen, _) = process.addresses().await;
    assert_eq!(get(&listen, "/compute/servers").await.status, 200);
    let told = process.stderr();
    let warnings: Vec<_> = told.lines().filter(|line| line.contains("\"WARN\"")).collect();
    let name = entry.display().to_string();
    assert!(warnings.len() == 1 && warnings[0].contains(&name) && warnings[0].contains("removed"), "{told}");
}

fn of_project(cloud: &Cloud, id: &str) -> keystone::Config {
    logging_in(cloud, |identity| identity.scope = Scope::Project(Project::Id(id.to_owned())))
}

// Promises 63, 84.
#[tokio::test(flavor = "multi_thread")]
async fn each_cloud_user_and_scope_has_a_token_of_its_own() {
    let (one, other, kept) = (cloud().await, cloud().await, Kept::new());
    let configs = || {
        let mut twin = other.keystone_config();
        twin.name = "twin".to_owned();
        [one.keystone_config(), of_project(&one, demo::OTHER_PROJECT_ID), twin]
    };
    let alone = async |which: usize| {
        let keyway = TestKeyway::cold(vec![configs()[which].clone()], kept.keep());
        keyway.logged_in().await;
        keyway.token().await
    };
    let mut tokens = Vec::new();
    let mut names = Vec::new();
    for which in 0..3 {
        tokens.push(alone(which).await);
        names.push(kept.entries().into_iter().find(|entry| !names.contains(entry)).expect("a new one"));
    }
    assert_eq!((one.token_requests(), other.token_requests()), (2, 1));
    // Together they are what they were alone.
    let keyway = TestKeyway::cold(configs().to_vec(), kept.keep());
    keyway.logged_in().await;
    for path in ["/compute/servers", "/cloud/twin/compute/servers"] {
        assert_eq!(keyway.get(path).await.status, 200);
    }
    assert_eq!((one.token_requests(), other.token_requests()), (2, 1));
    assert!(tokens[0] != tokens[1] && tokens[1] != tokens[2]);
    // What lies under another's name is nobody's.
    for (from, to) in [(0, 1), (0, 2)] {
        let mine = fs::read(&names[to]).expect("it is ours");
        fs::copy(&names[from], &names[to]).expect("it is ours");
        let logins = one.token_requests() + other.token_requests();
        let token = alone(to).await;
        assert!(!tokens.contains(&token), "{to} got a new one");
        assert_eq!(one.token_requests() + other.token_requests(), logins + 1);
        fs::write(&names[to], mine).expect("it is ours");
    }
}

/// The demo cloud's configuration with another login.
fn logging_in(cloud: &Cloud, change: impl FnOnce(&mut Identity)) -> keystone::Config {
    let mut config = cloud.keystone_config();
    let Auth::Identity(identity) = &mut config.auth else { panic!("it logs in") };
    change(identity);
    config
}

// Promise 63.
#[tokio::test(flavor = "multi_thread")]
async fn logins_of_every_kind_are_kept() {
    let (cloud, kept) = (cloud().await, Kept::new());
    let [one, other] = [TestKeyway::in_front_of(&cloud).await, TestKeyway::in_front_of(&cloud).await];
    let (one, other) = (one.token().await, other.token().await);
    let v2 = BaseUrl::parse(&cloud.v2_url()).expect("a URL");
    let by_token = |token: &str| {
        logging_in(&cloud, |identity| identity.method = keystone::Method::Token(Secret::new(token).into()))
    };
    let credential = keystone::Method::ApplicationCredential {
        which: ApplicationCredential::Id(demo::APPLICATION_CREDENTIAL_ID.to_owned()),
        secret: Secret::new(demo::APPLICATION_CREDENTIAL_SECRET).into(),
    };
    let mut logins = cloud.token_requests();
    for config in [
        by_token(&one),
        // Nothing but the token says whose it is.
        by_token(&other),
        logging_in(&cloud, |identity| identity.auth_url = v2),
        logging_in(&cloud, |identity| (identity.method, identity.scope) = (credential, Scope::Default)),
        logging_in(&cloud, |identity| identity.scope = Scope::System),
    ] {
        logins += 1;
        let mut catalogs = Vec::new();
        for _ in 0..2 {
            let keyway = TestKeyway::cold(vec![config.clone()], kept.keep());
            keyway.logged_in().await;
            assert_eq!(keyway.get("/identity/v3/users").await.status, 200, "{config:?}");
            let catalog = keyway.get("/identity/v3/auth/catalog").await.text();
            catalogs.push(catalog.replace(&keyway.listen().to_string(), "keyway"));
            assert_eq!(cloud.token_requests(), logins, "{config:?}");
        }
        assert!(catalogs[0] == catalogs[1], "{config:?}: {}\n{}", catalogs[0], catalogs[1]);
    }
    assert_eq!(kept.entries().len(), 5);
}

// Promise 84.
#[tokio::test(flavor = "multi_thread")]
async fn a_copy_without_the_key_is_worth_nothing() {
    let (cloud, kept, thief) = (cloud().await, Kept::new(), Kept::new());
    let keyway = kept.keyway(&cloud).await;
    let token = keyway.token().await;
    fs::create_dir(thief.config().directory).expect("a directory");
    fs::set_permissions(thief.config().directory, fs::Permissions::from_mode(0o700)).expect("it is ours");
    let copy = thief.config().directory.join(kept.entry().file_name().expect("a name"));
    fs::copy(kept.entry(), &copy).expect("it is ours");
    assert_ne!(thief.keyway(&cloud).await.token().await, token);
    assert_eq!((cloud.token_requests(), thief.entries().len()), (2, 2));
    // With it, it is worth as much as at its own place.
    fs::copy(kept.config().key_file, thief.config().key_file).expect("it is ours");
    assert_eq!(thief.keyway(&cloud).await.token().await, token);
    assert_eq!(cloud.token_requests(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_password_alone_goes_on_with_the_token_that_there_is() {
    let (cloud, kept) = (cloud().await, Kept::new());
    let token = kept.keyway(&cloud).await.token().await;
    let wrong = logging_in(&cloud, |identity| {
        let keystone::Method::Password { password, .. } = &mut identity.method else { panic!("a password") };
        *password = Secret::new("canary-wrong").into();
    });
    let keyway = TestKeyway::cold(vec![wrong.clone()], kept.keep());
    keyway.logged_in().await;
    assert_eq!((keyway.token().await, cloud.token_requests()), (token.clone(), 1));
    // A reload to the right one, and to the wrong one, asks Keystone as little.
    for cloud in [cloud.keystone_config(), wrong] {
        let mut config =
            Config::load_without_clouds(&Default::default(), &env()).expect("defaults are right");
        config.listeners[0] = keyway_listener(&keyway);
        config.clouds = vec![cloud];
        config.tokens = Some(kept.config());
        assert!(keyway.app().reload(Ok(config)));
        keyway.logged_in().await;
        assert_eq!(keyway.token().await, token);
    }
    assert_eq!(cloud.token_requests(), 1);
    // Until a service refuses it: then the password counts.
    cloud.revoke_all();
    assert_eq!(keyway.get("/compute/servers").await.status, 502);
    assert_eq!((cloud.token_requests(), kept.entries().len()), (2, 0));
}

fn env() -> keyway::config::Env {
    keyway::config::Env::new::<&str, &str>([], "/nonexistent").with_root("/nonexistent")
}

fn keyway_listener(keyway: &TestKeyway) -> keyway::config::Listener {
    keyway::config::Listener::at("main", keyway.listen())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_scope_that_is_refused_after_a_restart_is_not_held_against_the_credentials() {
    let (cloud, kept) = (cloud().await, Kept::new());
    drop(kept.keyway(&cloud).await);
    let keyway = kept.keyway(&cloud).await;
    let auth = json!({"auth": {
        "identity": {"methods": ["password"], "password": {"user": {"id": "u", "password": "any"}}},
        "scope": {"project": {"id": "0123456789abcdef0123456789abcdef"}},
    }});
    let answer = keyway.post("/identity/v3/auth/tokens", &auth).await;
    assert_eq!(answer.status, 401, "{answer:?}");
    assert_eq!(keyway.metric(r#"keyway_token_breaker_open{cloud="demo"}"#).await, 0.0);
    assert_eq!(keyway.metric(r#"keyway_token_backoff_until_timestamp_seconds{cloud="demo"}"#).await, 0.0);
    assert_eq!(keyway.status().await["clouds"][0]["failure"], Value::Null);
    assert_eq!(keyway.get("/project/other/compute/servers").await.status, 200);
    assert_eq!(kept.entries().len(), 2, "what was refused is not kept");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fixed_token_is_not_kept() {
    let (cloud, kept) = (cloud().await, Kept::new());
    let token = TestKeyway::in_front_of(&cloud).await.token().await;
    let mut config = cloud.keystone_config();
    let endpoint = BaseUrl::parse(&cloud.url("compute")).expect("a URL");
    config.auth = Auth::Fixed { endpoint, token: Secret::new(token).into() };
    let keyway = TestKeyway::cold(vec![config], kept.keep());
    assert_eq!(keyway.get("/compute/servers").await.status, 200);
    assert_eq!(files(kept.home.path()).len(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn where_nothing_can_be_written_tokens_end_with_the_process() {
    let (cloud, home) = (cloud().await, tempfile::tempdir().expect("a directory for temporary files"));
    let file = home.path().join("file");
    fs::write(&file, "").expect("a file");
    for cache in ["true".to_owned(), format!("{}/tokens", file.display())] {
        let mut variables = cloud_variables(&cloud);
        variables.push(("KEYWAY_TOKENS_CACHE", cache.clone()));
        if cache == "true" {
            variables.push(("XDG_STATE_HOME", format!("{}/state", file.display())));
        }
        let process = Process::start(home.path(), &ARGUMENTS, &variables);
        let (listen, _) = process.addresses().await;
        assert_eq!(get(&listen, "/compute/servers").await.status, 200);
        let told = process.stderr();
        let told: Vec<_> = told
            .lines()
            .filter(|line| line.contains("\"WARN\"") && line.contains("keystone::store"))
            .collect();
        assert!(told.len() == 1 && told[0].contains("this process"), "{cache}: {told:?}");
    }
}

// Promises 14, 84.
#[tokio::test(flavor = "multi_thread")]
async fn a_directory_that_others_may_enter_is_a_problem_at_start() {
    let (cloud, home) = (cloud().await, tempfile::tempdir().expect("a directory for temporary files"));
    let directory = home.path().join("cache");
    fs::create_dir(&directory).expect("a directory");
    fs::set_permissions(&directory, fs::Permissions::from_mode(0o755)).expect("it is ours");
    let flag = format!("--tokens-cache={}", directory.display());
    for command in ["serve", "token"] {
        let process = Process::start(home.path(), &[command, &flag], &cloud_variables(&cloud));
        let (code, _, err) = process.outcome().await;
        assert_eq!(code, 2, "{err}");
        assert!(err.contains("command line: --tokens-cache: ") && err.contains("chmod 700"), "{err}");
    }
    assert_eq!(cloud.token_requests(), 0);
    fs::set_permissions(&directory, fs::Permissions::from_mode(0o700)).expect("it is ours");
    let process = Process::start(home.path(), &["token", &flag], &cloud_variables(&cloud));
    assert_eq!(process.outcome().await.0, 0);
    assert_eq!(entries(&directory).len(), 1);
}
