//! Every way to reach a store: TLS, sentinels, a cluster.

use keyway::keystone::Source;
use keyway::keystone::shared::Config;
use keyway::upstream::tls;

use super::{agree, allow, cold, is_down, is_up, sharing};
use crate::support::redis::{Redis, free_port};
use crate::support::tls::Authority;
use crate::support::{cloud, eventually};

// Promise 55.
#[tokio::test(flavor = "multi_thread")]
async fn with_tls_the_store_is_believed_by_its_certificate_and_asks_for_ours() {
    let authority = Authority::new();
    let (server, client) = (authority.issue("localhost"), authority.issue("keyway"));
    let write = |name: &str, text: &str| authority.write(name, text).display().to_string();
    let [ca, cert, key] = [
        authority.file().display().to_string(),
        write("server.pem", &server.certificate),
        write("server.key", &server.key),
    ];
    let port = free_port().to_string();
    let arguments = [
        "--tls-port",
        &port,
        "--tls-cert-file",
        &cert,
        "--tls-key-file",
        &key,
        "--tls-ca-cert-file",
        &ca,
        "--tls-auth-clients",
        "yes",
    ];
    let Some(redis) = Redis::start_with(&arguments).await else { return };
    let cloud = cloud().await;
    let shown =
        (authority.write("client.pem", &client.certificate), authority.write("client.key", &client.key));
    let good = tls::Config {
        ca_file: Some(authority.file()),
        insecure: false,
        client_cert: Some((shown.0, Some(shown.1))),
    };
    let at =
        |host: &str, tls: tls::Config| Config { tls, ..redis.config_at(&format!("rediss://{host}:{port}")) };
    let one = sharing(&cloud, at("localhost", good.clone())).await;
    let two = sharing(&cloud, at("localhost", good.clone())).await;
    agree(&[&one, &two], "").await;
    assert_eq!(cloud.token_requests(), 1);
    let foreign = Authority::new();
    for (host, tls) in [
        ("localhost", tls::Config { ca_file: Some(foreign.file()), ..good.clone() }),
        ("localhost", tls::Config { client_cert: None, ..good.clone() }),
        // It has another name.
        ("127.0.0.1", good),
    ] {
        let keyway = cold(&cloud, at(host, tls));
        assert_eq!(keyway.get("/compute/servers").await.status, 200);
        is_down(&keyway).await;
    }
    assert_eq!(cloud.token_requests(), 4);
}

// Promise 63.
#[tokio::test(flavor = "multi_thread")]
async fn sentinels_say_who_the_master_is_also_after_a_failover() {
    let Some(master) = Redis::start().await else { return };
    let port = master.port().to_string();
    let replica =
        Redis::start_with(&["--replicaof", "127.0.0.1", &port]).await.expect("there is one already");
    let file = master.home().join("sentinel.conf");
    let text = format!(
        "sentinel monitor main 127.0.0.1 {port} 1\nsentinel down-after-milliseconds main 1000\n\
         sentinel failover-timeout main 5000\n"
    );
    std::fs::write(&file, text).expect("it is ours");
    let sentinel = Redis::start_sentinel(&file).await;
    let knows = async || {
        let masters: Vec<Vec<String>> = sentinel.ask(&["SENTINEL", "REPLICAS", "main"]);
        let flags = masters.first()?.iter().skip_while(|field| *field != "master-link-status").nth(1)?;
        (flags == "ok").then_some(())
    };
    eventually("a replica that follows", knows).await;
    let cloud = cloud().await;
    let store = master.config_at(&format!("redis+sentinel://127.0.0.1:{}/main", sentinel.port()));
    let (one, two) = (sharing(&cloud, store.clone()).await, sharing(&cloud, store).await);
    assert_eq!((cloud.token_requests(), master.keys(":token").len()), (1, 1));
    let mut master = master;
    master.kill();
    eventually("another master", async || {
        let role: redis::Value = replica.try_ask(&["ROLE"])?;
        format!("{role:?}").contains("master").then_some(())
    })
    .await;
    for keyway in [&one, &two] {
        eventually("the other master", async || {
            let clients: String = replica.try_ask(&["CLIENT", "LIST"])?;
            (clients.matches("sub=1").count() >= 2).then_some(())
        })
        .await;
        is_up(keyway).await;
    }
    cloud.revoke_all();
    for keyway in [&one, &two] {
        assert_eq!(keyway.get("/compute/servers").await.status, 200);
    }
    agree(&[&one, &two], "").await;
    assert_eq!((cloud.token_requests(), replica.keys(":token").len()), (2, 1));
}

// Promise 63.
#[tokio::test(flavor = "multi_thread")]
async fn the_servers_of_a_cluster_share_the_entries_and_the_news_reach_all() {
    let arguments = ["--cluster-enabled", "yes"];
    let Some(first) = Redis::start_with(&arguments).await else { return };
    let second = Redis::start_with(&arguments).await.expect("there is one already");
    first.ask::<()>(&["CLUSTER", "ADDSLOTSRANGE", "0", "8191"]);
    second.ask::<()>(&["CLUSTER", "ADDSLOTSRANGE", "8192", "16383"]);
    first.ask::<()>(&["CLUSTER", "MEET", "127.0.0.1", &second.port().to_string()]);
    eventually("a cluster", async || {
        let states = [&first, &second].map(|server| server.ask::<String>(&["CLUSTER", "INFO"]));
        let is_whole =
            |state: &String| state.contains("cluster_state:ok") && state.contains("cluster_size:2");
        states.iter().all(is_whole).then_some(())
    })
    .await;
    let cloud = cloud().await;
    let file = first.home().join("password");
    std::fs::write(&file, "right-hunter2").expect("it is ours");
    for server in [&first, &second] {
        allow(server, &["+cluster|slots"]);
    }
    let store = Config {
        user: Some("keyway".to_owned()),
        password: Some(Source::File(file)),
        ..first.config_at(&format!("redis+cluster://127.0.0.1:{}", first.port()))
    };
    let (one, two) = (sharing(&cloud, store.clone()).await, sharing(&cloud, store).await);
    let old = agree(&[&one, &two], "").await;
    for keyway in [&one, &two] {
        assert_eq!(keyway.get("/project/other/compute/servers").await.status, 200);
    }
    assert_eq!(cloud.token_requests(), 2);
    cloud.revoke_all();
    assert_eq!(one.get("/compute/servers").await.status, 200);
    agree(&[&one, &two], &old).await;
    assert_eq!(cloud.token_requests(), 3);
}
