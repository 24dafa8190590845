//! Several keyways that share their tokens on a real redis-server: what does a login cost them together, and what if
//! the store is gone, slow, full, or has something else in it?

mod clients;
mod kinds;
mod trouble;

use std::time::Duration;

use http::Method;
use keyway::demo::{Cloud, PROJECT_ID};
use keyway::keystone::shared::Config;
use rustix::process::Signal;
use serde_json::json;

use crate::facade::token;
use crate::support::redis::Redis;
use crate::support::{Connection, TestKeyway, cloud, eventually, request, slow, statuses};

const UP: &str = "keyway_token_store_up";
const UNUSABLE: &str = r#"keyway_token_store_requests_total{result="unusable"}"#;
const RESTORED: &str = r#"keyway_tokens_restored_total{cloud="demo"}"#;

/// keyway that shares its tokens, as soon as it is started.
fn cold(cloud: &Cloud, store: Config) -> TestKeyway {
    TestKeyway::cold(vec![cloud.keystone_config()], |config| config.token_store = Some(store))
}

/// The same when it has a token, and the store.
async fn sharing(cloud: &Cloud, store: Config) -> TestKeyway {
    let keyway = cold(cloud, store);
    keyway.logged_in().await;
    is_up(&keyway).await;
    keyway
}

/// Makes the user `keyway`, who has the rights that keyway.toml names and `more`.
fn allow(redis: &Redis, more: &[&str]) {
    let user = ["ACL", "SETUSER", "keyway", "on", ">right-hunter2", "~keyway:*", "&keyway:*", "-@all"];
    let text = include_str!("../../config/keyway.toml");
    let (_, rights) = text.split_once("-@all ").expect("they are named there");
    let (rights, _) = rights.split_once(", and in a cluster").expect("they end so");
    let rights: Vec<_> = rights.split_whitespace().filter(|word| *word != "#").collect();
    redis.ask::<()>(&[&user[..], &rights, more].concat());
}

async fn is_up(keyway: &TestKeyway) {
    eventually("the store", async || (keyway.metric(UP).await > 0.5).then_some(())).await;
}

/// Waits until keyway knows that there is no store; what it says of it.
async fn is_down(keyway: &TestKeyway) -> String {
    eventually("the store's end", async || {
        let store = keyway.status().await["token_store"].clone();
        (store["up"] == false && keyway.metric(UP).await < 0.5).then(|| store["error"].to_string())
    })
    .await
}

/// Waits until all of them have the same token, which is another one than `old`.
async fn agree(keyways: &[&TestKeyway], old: &str) -> String {
    eventually("one token for all", async || {
        let mut tokens = Vec::new();
        for keyway in keyways {
            tokens.push(keyway.token().await);
        }
        tokens.dedup();
        (tokens.len() == 1 && tokens[0] != old).then(|| tokens.remove(0))
    })
    .await
}

// Promise 63.
#[tokio::test(flavor = "multi_thread")]
async fn replicas_that_start_at_once_cost_keystone_one_login() {
    let Some(redis) = Redis::start().await else { return };
    let cloud = cloud().await;
    cloud.set_trouble("identity", slow(Duration::from_millis(500)));
    let keyways = [(); 3].map(|()| cold(&cloud, redis.config()));
    for keyway in &keyways {
        assert_eq!(keyway.get("/compute/servers").await.status, 200);
        // Another scope is shared like the cloud's own.
        assert_eq!(keyway.get("/project/other/compute/servers").await.status, 200);
    }
    assert_eq!(cloud.token_requests(), 2);
    let mut restored = 0.0;
    for keyway in &keyways {
        restored += keyway.metric(RESTORED).await;
    }
    assert_eq!(restored, 4.0);
    assert_eq!((redis.keys(":token").len(), redis.keys(":lease").len()), (2, 0));
}

// Promises 74, 84.
#[tokio::test(flavor = "multi_thread")]
async fn the_store_learns_neither_tokens_nor_whose_they_are_and_they_end_there() {
    let Some(redis) = Redis::start().await else { return };
    let cloud = cloud().await;
    let keyway = sharing(&cloud, redis.config()).await;
    let token = keyway.token().await;
    // Beside it there is for a moment what shows that the store can be written to.
    let entries = redis.keys(":token");
    let [entry] = &entries[..] else { panic!("one entry: {entries:?}") };
    let hash = entry.strip_prefix("keyway:{").and_then(|rest| rest.strip_suffix("}:token")).expect("a key");
    assert!(hash.len() == 32 && hash.bytes().all(|byte| byte.is_ascii_hexdigit()), "{hash}");
    let kept: Vec<u8> = redis.ask(&["GET", entry]);
    for secret in
        [&token, &token[token.len() / 2..], keyway::demo::USER, keyway::demo::PROJECT, PROJECT_ID, "compute"]
    {
        assert!(!kept.windows(secret.len()).any(|part| part == secret.as_bytes()), "{secret} can be read");
    }
    let left: i64 = redis.ask(&["PTTL", entry]);
    assert!((1..=5 * 60 * 1000).contains(&left), "{left}");
}

// Promises 63, 64.
#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_one_replica_finds_revoked_is_dropped_by_all_at_once() {
    let Some(redis) = Redis::start().await else { return };
    let cloud = cloud().await;
    let mut keyways = Vec::new();
    for _ in 0..3 {
        keyways.push(sharing(&cloud, redis.config()).await);
    }
    let keyways: Vec<_> = keyways.iter().collect();
    let old = agree(&keyways, "").await;
    cloud.revoke_all();
    assert_eq!(keyways[0].get("/compute/servers").await.status, 200);
    assert_ne!(agree(&keyways, &old).await, old);
    for keyway in keyways {
        assert_eq!(keyway.get("/compute/servers").await.status, 200);
    }
    assert_eq!(cloud.token_requests(), 2);
    assert_eq!(statuses(&cloud, "compute"), [401, 200, 200, 200, 200], "one of them met the refusal");
}

// Promise 63.
#[tokio::test(flavor = "multi_thread")]
async fn a_replica_that_dies_amid_its_login_keeps_the_others_from_theirs_for_a_moment_only() {
    let Some(redis) = Redis::start().await else { return };
    let cloud = cloud().await;
    cloud.set_trouble("identity", slow(Duration::from_secs(3600)));
    let home = tempfile::tempdir().expect("a directory for temporary files");
    let dying = clients::replica(&cloud, &redis, home.path());
    eventually("its lease", async || (redis.keys(":lease").len() == 1).then_some(())).await;
    let heir = cold(&cloud, redis.config());
    dying.signal(Signal::KILL);
    cloud.set_trouble("identity", keyway::demo::Trouble::default());
    assert_eq!(heir.get("/compute/servers").await.status, 200);
    // What the dead one asked may or may not have been counted.
    assert!(cloud.token_requests() <= 2);
    eventually("the end of the lease", async || redis.keys(":lease").is_empty().then_some(())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_are_replaced_without_a_login() {
    let Some(redis) = Redis::start().await else { return };
    let cloud = cloud().await;
    let with = |keys: &[u8]| {
        let name = format!("keys-{keys:?}");
        Config { key_file: redis.key_file(&name, keys), ..redis.config() }
    };
    // The new key is known everywhere before it seals, and it seals everywhere before the old one goes.
    let old = sharing(&cloud, with(&[1])).await;
    let both = sharing(&cloud, with(&[2, 1])).await;
    assert_eq!((both.token().await, cloud.token_requests()), (old.token().await, 1));
    cloud.revoke_all();
    assert_eq!(both.get("/compute/servers").await.status, 200);
    let new = sharing(&cloud, with(&[2])).await;
    let other_order = sharing(&cloud, with(&[1, 2])).await;
    assert_eq!(agree(&[&both, &new, &other_order], "").await, both.token().await);
    assert_eq!(cloud.token_requests(), 2);
    // Who has neither shares nothing.
    let stranger = sharing(&cloud, with(&[3])).await;
    assert_ne!(stranger.token().await, both.token().await);
}

// Promise 71.
#[tokio::test(flavor = "multi_thread")]
async fn a_reload_takes_up_other_keys_without_a_login() {
    let Some(redis) = Redis::start().await else { return };
    let (cloud, home) = (cloud().await, tempfile::tempdir().expect("a directory for temporary files"));
    let file = redis.config().key_file;
    let process = clients::replica(&cloud, &redis, home.path());
    let (listen, _) = process.addresses().await;
    let get = async || {
        let mut connection = Connection::open(listen.parse().expect("an address")).await;
        connection.send(request(Method::GET, "/compute/servers", &[], "")).await.status
    };
    assert_eq!(get().await, 200);
    let keys = std::fs::read_to_string(redis.key_file("new", &[2, 7])).expect("it is ours");
    std::fs::write(&file, keys).expect("it is ours");
    process.signal(Signal::HUP);
    process.stderr_line("the reload", |line| line.contains("is in force").then_some(())).await;
    let shares = |line: &str| line.contains("tokens are shared by").then_some(());
    eventually("another connection", async || {
        let said = process.stderr();
        (said.lines().filter_map(shares).count() == 2).then_some(())
    })
    .await;
    assert_eq!((get().await, cloud.token_requests()), (200, 1));
    cloud.revoke_all();
    assert_eq!((get().await, cloud.token_requests()), (200, 2));
    let new = sharing(&cloud, Config { key_file: redis.key_file("newest", &[2]), ..redis.config() }).await;
    assert_eq!((new.get("/compute/servers").await.status, cloud.token_requests()), (200, 2));
}

// Promise 73.
#[tokio::test(flavor = "multi_thread")]
async fn a_token_of_keyways_own_that_one_replica_revoked_is_refused_by_all() {
    let Some(mut redis) = Redis::start().await else { return };
    let cloud = cloud().await;
    let states: Vec<_> = (0..3).map(|_| tempfile::tempdir().expect("a directory")).collect();
    let start = |number: usize| {
        let (state, store) = (states[number].path().to_owned(), redis.config());
        // The key that seals is the same everywhere.
        std::fs::copy(&store.key_file, state.join("keys")).expect("it is ours");
        let keyway = TestKeyway::cold(vec![cloud.keystone_config()], |config| {
            config.token_store = Some(store);
            config.facade.state = Some(state);
        });
        async move {
            is_up(&keyway).await;
            keyway
        }
    };
    let (one, two) = (start(0).await, start(1).await);
    let scope = Some(json!({"project": {"id": PROJECT_ID}}));
    let [first, second, good] =
        [token(&one, scope.clone()).await, token(&one, scope.clone()).await, token(&one, scope).await];
    for keyway in [&one, &two] {
        assert_eq!(keyway.with_token(Method::GET, "/identity/v3/auth/catalog", &first).await.status, 200);
    }
    let revoke = async |keyway: &TestKeyway, token: &str| {
        let headers = [("x-auth-token", good.as_str()), ("x-subject-token", token)];
        let request = request(Method::DELETE, "/identity/v3/auth/tokens", &headers, "");
        assert_eq!(keyway.send(request).await.status, 204);
    };
    let is_refused = async |keyway: &TestKeyway, token: &str| {
        let answer = eventually("the revocation", async || {
            let answer = keyway.with_token(Method::GET, "/identity/v3/auth/catalog", token).await;
            (answer.status != 200).then_some(answer)
        })
        .await;
        assert_eq!(answer.status, 401, "{answer:?}");
    };
    revoke(&one, &first).await;
    is_refused(&two, &first).await;
    // One that starts later hears of it too.
    let three = start(2).await;
    is_refused(&three, &first).await;
    // And what could not be told when it happened is told later.
    redis.kill();
    is_down(&one).await;
    is_down(&two).await;
    revoke(&one, &second).await;
    assert_eq!(two.with_token(Method::GET, "/identity/v3/auth/catalog", &second).await.status, 200);
    redis.run().await;
    is_refused(&two, &second).await;
    assert_eq!(two.with_token(Method::GET, "/identity/v3/auth/catalog", &good).await.status, 200);
}
