//! A store that is not what it should be.

use std::os::unix::fs::PermissionsExt as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::Method;
use keyway::keystone::shared::Config;
use keyway::keystone::{Auth, Event, Source, shared};
use keyway::upstream::{self, Timeouts, tls};
use rustix::process::Signal;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use super::{UNUSABLE, agree, allow, cold, is_down, is_up, sharing};
use crate::support::redis::Redis;
use crate::support::{Connection, Process, cloud, cloud_variables, eventually, request, statuses};

// Promises 63, 65.
#[tokio::test(flavor = "multi_thread")]
async fn without_a_store_each_logs_in_by_itself_and_shares_again_when_it_is_back() {
    let Some(mut redis) = Redis::start().await else { return };
    let cloud = cloud().await;
    let (one, two) = (sharing(&cloud, redis.config()).await, sharing(&cloud, redis.config()).await);
    redis.kill();
    for keyway in [&one, &two] {
        let why = is_down(keyway).await;
        assert!(why.contains("closed the connection") || why.contains("can't be reached"), "{why}");
    }
    cloud.revoke_all();
    for keyway in [&one, &two] {
        assert_eq!(keyway.get("/compute/servers").await.status, 200);
    }
    assert_eq!(cloud.token_requests(), 3);
    // One that is started meanwhile serves as well.
    let three = cold(&cloud, redis.config());
    assert_eq!(three.get("/compute/servers").await.status, 200);
    assert_eq!((cloud.token_requests(), three.admin_get("/readyz").await.status), (4, 200));

    redis.run().await;
    for keyway in [&one, &two, &three] {
        is_up(keyway).await;
    }
    cloud.revoke_all();
    let keyways = [&one, &two, &three];
    for keyway in keyways {
        assert_eq!(keyway.get("/compute/servers").await.status, 200);
    }
    agree(&keyways, "").await;
    assert_eq!(cloud.token_requests(), 5);
    assert!(statuses(&cloud, "compute").iter().all(|status| [200, 401].contains(status)));
}

/// What happens to a store, and how it is undone.
struct Trouble {
    begin: &'static [&'static str],
    end: &'static [&'static str],
    said: &'static str,
}

// Promise 65.
#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_is_full_or_read_only_or_hangs_is_left_alone_until_it_works() {
    let Some(redis) = Redis::start().await else { return };
    let cloud = cloud().await;
    let keyway = sharing(&cloud, redis.config()).await;
    for (logins, trouble) in [
        Trouble {
            begin: &["CONFIG", "SET", "maxmemory", "1"],
            end: &["CONFIG", "SET", "maxmemory", "0"],
            said: "OOM",
        },
        Trouble {
            begin: &["REPLICAOF", "127.0.0.1", "1"],
            end: &["REPLICAOF", "NO", "ONE"],
            said: "READONLY",
        },
        Trouble {
            begin: &["CONFIG", "SET", "min-replicas-to-write", "1"],
            end: &["CONFIG", "SET", "min-replicas-to-write", "0"],
            said: "NOREPLICAS",
        },
    ]
    .into_iter()
    .enumerate()
    {
        redis.ask::<()>(trouble.begin);
        cloud.revoke_all();
        assert_eq!(keyway.get("/compute/servers").await.status, 200, "{}", trouble.said);
        let why = is_down(&keyway).await;
        assert!(why.contains(&format!("refuses: {}", trouble.said)), "{why}");
        assert_eq!(cloud.token_requests(), 2 + logins, "{}", trouble.said);
        redis.ask::<()>(trouble.end);
        is_up(&keyway).await;
    }
    // It takes connections, and says nothing.
    redis.pause();
    cloud.revoke_all();
    assert_eq!(keyway.get("/compute/servers").await.status, 200);
    assert!(is_down(&keyway).await.contains("does not answer"));
    let cold = cold(&cloud, Config { timeout: Duration::from_millis(100), ..redis.config() });
    assert_eq!(cold.get("/compute/servers").await.status, 200);
    assert_eq!(cloud.token_requests(), 6);
    redis.resume();
    is_up(&keyway).await;
    is_up(&cold).await;
}

// Promises 74, 76.
#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_password_is_told_and_the_right_one_is_taken_up_from_its_file() {
    let Some(redis) = Redis::start().await else { return };
    allow(&redis, &[]);
    redis.ask::<()>(&["ACL", "SETUSER", "default", "resetkeys", "-@all", "+ping", "+acl", "+auth"]);
    let cloud = cloud().await;
    let file = redis.home().join("password");
    std::fs::write(&file, "wrong-hunter2\n").expect("it is ours");
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).expect("it is ours");
    let store = shared::Config {
        user: Some("keyway".to_owned()),
        password: Some(Source::File(file.clone())),
        ..redis.config()
    };
    let keyway = cold(&cloud, store.clone());
    assert_eq!(keyway.get("/compute/servers").await.status, 200);
    let why = is_down(&keyway).await;
    assert!(why.contains("WRONGPASS") || why.contains("does not accept"), "{why}");
    assert!(!why.contains("hunter2"), "{why}");
    std::fs::write(&file, "right-hunter2\n").expect("it is ours");
    is_up(&keyway).await;
    cloud.revoke_all();
    assert_eq!(keyway.get("/compute/servers").await.status, 200);
    // The rights above are all that it takes.
    let other = sharing(&cloud, store).await;
    agree(&[&keyway, &other], "").await;
    assert_eq!(cloud.token_requests(), 2);
}

// Promises 66, 84.
#[tokio::test(flavor = "multi_thread")]
async fn what_no_keyway_wrote_is_counted_and_replaced() {
    let Some(redis) = Redis::start().await else { return };
    let cloud = cloud().await;
    let one = sharing(&cloud, redis.config()).await;
    assert_eq!(one.get("/project/other/compute/servers").await.status, 200);
    let entries = redis.keys(":token");
    let [first, second] = &entries[..] else { panic!("two entries: {entries:?}") };
    let bytes: Vec<u8> = redis.ask(&["GET", first]);
    let mut changed = bytes.clone();
    changed[bytes.len() / 2] ^= 1;
    let mut logins = cloud.token_requests();
    for (number, wrong) in
        [&b""[..], b"hunter2", b"keyway token v1\n", &changed, &vec![b'x'; 5 << 20]].into_iter().enumerate()
    {
        for entry in &entries {
            redis.ask_bytes::<()>(&[b"SET", entry.as_bytes(), wrong]);
        }
        let keyway = sharing(&cloud, redis.config()).await;
        assert_eq!(keyway.get("/compute/servers").await.status, 200, "{number}");
        logins += 1;
        assert_eq!((cloud.token_requests(), keyway.metric(UNUSABLE).await), (logins, 1.0), "{number}");
        let _ = sharing(&cloud, redis.config()).await;
        assert_eq!(cloud.token_requests(), logins, "{number}: it was replaced");
    }
    // Something that is no text at all, and one entry in the place of another.
    for entry in &entries {
        redis.ask::<()>(&["DEL", entry]);
        redis.ask::<()>(&["RPUSH", entry, "hunter2"]);
    }
    let keyway = sharing(&cloud, redis.config()).await;
    assert_eq!((cloud.token_requests(), keyway.metric(UNUSABLE).await), (logins + 1, 1.0));
    let kept: Vec<String> =
        entries.iter().filter(|entry| redis.ask::<String>(&["TYPE", entry]) == "string").cloned().collect();
    let [mine] = &kept[..] else { panic!("one entry was replaced: {kept:?}") };
    let others = if mine == first { second } else { first };
    redis.ask::<()>(&["DEL", others]);
    redis.ask::<()>(&["COPY", mine, others]);
    let before = cloud.token_requests();
    assert_eq!(keyway.get("/project/other/compute/servers").await.status, 200);
    assert_eq!((cloud.token_requests(), keyway.metric(UNUSABLE).await), (before + 1, 2.0));
    // A lease that nobody holds, since it has no end.
    cloud.revoke_all();
    for entry in &entries {
        redis.ask::<()>(&["SET", &entry.replace(":token", ":lease"), "hunter2"]);
    }
    assert_eq!(keyway.get("/compute/servers").await.status, 200);
    // What somebody says who has no key is no news.
    let unusable = keyway.metric(UNUSABLE).await;
    redis.ask::<()>(&["PUBLISH", "keyway:news", "hunter2"]);
    eventually("what was said", async || (keyway.metric(UNUSABLE).await > unusable).then_some(())).await;
    assert_eq!(keyway.get("/compute/servers").await.status, 200);
}

// Promises 74, 75, 76.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_server_quotes_of_the_password_is_told_to_nobody() {
    const CANARY: &str = "canaryStorePasswordH4j6K8l0";
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback has free ports");
    let port = listener.local_addr().expect("it is bound").port();
    // As old servers answer to what they do not know.
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut read = [0; 4096];
            let _ = stream.read(&mut read).await;
            let error =
                format!("-ERR unknown command `HELLO`, with args beginning with: `AUTH` `{CANARY}`\r\n");
            let _ = stream.write_all(error.repeat(8).as_bytes()).await;
        }
    });
    let (cloud, home) = (cloud().await, tempfile::tempdir().expect("a directory for temporary files"));
    let private = |name: &str, text: &str| {
        let path = home.path().join(name);
        std::fs::write(&path, text).expect("it is ours");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).expect("it is ours");
        path.display().to_string()
    };
    let mut variables = cloud_variables(&cloud);
    variables.push(("KEYWAY_TOKENS_STORE", format!("redis://127.0.0.1:{port}")));
    variables.push(("KEYWAY_TOKENS_STORE_PASSWORD_FILE", private("password", CANARY)));
    variables
        .push(("KEYWAY_TOKENS_CACHE_KEY", private("key", "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=")));
    let arguments =
        ["--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--log-format", "json", "--log-level", "trace"];
    let mut process = Process::start(home.path(), &arguments, &variables);
    let (_, admin) = process.addresses().await;
    let said = eventually("the store's error", async || {
        let admin = admin.parse().expect("an address");
        let status = Connection::open(admin).await.send(request(Method::GET, "/status", &[], "")).await;
        (status.json()["token_store"]["up"] == false).then(|| status.text())
    })
    .await;
    process.stderr_line("the log's", |line| line.contains("logs in by itself").then_some(())).await;
    process.signal(Signal::TERM);
    process.exit().await;
    let (code, out, err) = Process::start(home.path(), &["check"], &variables).outcome().await;
    assert_eq!(code, 1, "{out}{err}");
    assert!(
        out.contains(&format!("token store redis://127.0.0.1:{port}/0\n  shared      FAILED: it ")),
        "{out}"
    );
    for said in [said, process.stderr(), out, err] {
        assert!(!said.contains(CANARY), "{said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn check_tells_whether_the_store_can_be_used() {
    let Some(redis) = Redis::start().await else { return };
    let (cloud, home) = (cloud().await, tempfile::tempdir().expect("a directory for temporary files"));
    let mut variables = cloud_variables(&cloud);
    variables.push(("KEYWAY_TOKENS_STORE", format!("unix:{}", redis.socket().display())));
    variables.push(("KEYWAY_TOKENS_CACHE_KEY", redis.config().key_file.display().to_string()));
    for (begin, expected) in [
        (["CONFIG", "SET", "maxmemory", "0"], (0, "shared      ok: can be read and written")),
        (["CONFIG", "SET", "maxmemory", "1"], (1, "shared      FAILED: it refuses: OOM")),
    ] {
        redis.ask::<()>(&begin);
        let (code, out, err) = Process::start(home.path(), &["check"], &variables).outcome().await;
        assert_eq!((code, out.contains(expected.1)), (expected.0, true), "{out}{err}");
    }
    // A check logs in by itself; others take what there is.
    redis.ask::<()>(&["CONFIG", "SET", "maxmemory", "0"]);
    assert_eq!(cloud.token_requests(), 2);
    let mut tokens = Vec::new();
    for _ in 0..2 {
        let (code, out, err) = Process::start(home.path(), &["token"], &variables).outcome().await;
        assert_eq!(code, 0, "{err}");
        tokens.push(out);
    }
    tokens.dedup();
    assert_eq!((tokens.len(), cloud.token_requests()), (1, 3));
}

/// The store, once it is connected.
async fn connected(redis: &Redis) -> Arc<shared::Store> {
    let store = shared::Store::new(redis.config(), Arc::new(|_: &Event| {})).expect("a good key");
    tokio::spawn(store.keep());
    eventually("the store", async || store.standing().up.then_some(())).await;
    store
}

// Promise 63.
#[tokio::test(flavor = "multi_thread")]
async fn while_one_replaces_a_token_it_found_refused_another_waits() {
    let Some(redis) = Redis::start().await else { return };
    let cloud = cloud().await;
    let Auth::Identity(login) = cloud.keystone_config().auth else { unreachable!("it has a Keystone") };
    let store = connected(&redis).await;
    let entry = || store.entry(&login, &tls::Config::default(), &login.scope, None);
    let (mut one, mut two) = (entry(), entry());
    let http =
        upstream::Client::new(&tls::Config::default(), Timeouts::default()).expect("the system has roots");
    let keystone = keyway::keystone::Client::new(http, login.clone(), Duration::from_secs(60));
    let token = async || keystone.authenticate(&login.scope).await.expect("a login");
    one.save(&token().await, None).await;
    let old = one.load().await.expect("it was saved");
    assert!(two.load().await.expect("the same").id == old.id);

    let soon = || Instant::now() + Duration::from_secs(60);
    let lease = one.lease(soon()).await.expect("nobody else has it");
    one.refuse(&old.id).await;
    // What the other one knows is gone, and nothing is there instead: it must not log in as well.
    let mut waiting = Box::pin(two.lease(soon()));
    let hasty = tokio::time::timeout(Duration::from_millis(500), &mut waiting).await;
    assert!(hasty.is_err(), "it did not wait");
    let new = token().await;
    one.save(&new, Some(lease)).await;
    assert!(waiting.await.is_none(), "there is another one now");
    assert!(new.id != old.id && two.load().await.expect("it was saved").id == new.id);
}
