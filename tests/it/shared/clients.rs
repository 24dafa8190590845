//! Many clients of three replicas, while tokens end, a replica dies, and the store comes and goes.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use http::Method;
use keyway::demo::Cloud;
use rustix::process::Signal;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::support::redis::Redis;
use crate::support::{Connection, Process, bounded, cloud, cloud_variables, eventually, request};

const CLIENTS: usize = 1000;

/// A replica as a process of its own.
pub(super) fn replica(cloud: &Cloud, redis: &Redis, home: &Path) -> Process {
    let mut variables = cloud_variables(cloud);
    variables.push(("KEYWAY_TOKENS_STORE", format!("unix:{}", redis.socket().display())));
    variables.push(("KEYWAY_TOKENS_STORE_TIMEOUT", "2s".to_owned()));
    variables.push(("KEYWAY_TOKENS_CACHE_KEY", redis.config().key_file.display().to_string()));
    let arguments =
        ["--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--log-format", "json", "--workers", "1"];
    Process::start(home, &arguments, &variables)
}

/// One replica, as seen from outside.
struct Replica {
    process: Process,
    listen: SocketAddr,
    admin: SocketAddr,
    dead: Arc<AtomicBool>,
}

impl Replica {
    async fn start(cloud: &Cloud, redis: &Redis, home: &Path) -> Self {
        let process = replica(cloud, redis, home);
        let (listen, admin) = match tokio::time::timeout(Duration::from_secs(50), process.addresses()).await {
            Ok(addresses) => addresses,
            Err(_) => panic!("it does not serve:\n{}", process.stderr()),
        };
        let [listen, admin] = [listen, admin].map(|address| address.parse().expect("an address"));
        Self { process, listen, admin, dead: Arc::default() }
    }

    /// All samples of metrics that begin so, added up.
    async fn metric(&self, begin: &str) -> usize {
        let answer = Connection::open(self.admin).await.send(request(Method::GET, "/metrics", &[], "")).await;
        let text = answer.text();
        let samples = text.lines().filter(|line| line.starts_with(begin));
        let values =
            samples.map(|line| line.rsplit(' ').next().expect("a value").parse::<f64>().expect("a number"));
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a small count")]
        let sum = values.sum::<f64>() as usize;
        sum
    }

    /// How often it got another token, from Keystone or from the store.
    async fn renewals(&self) -> usize {
        self.metric("keyway_token_requests_total{").await + self.metric("keyway_tokens_restored_total{").await
    }

    async fn is(&self, up: usize) {
        eventually("the store's coming or going", async || {
            (self.metric("keyway_token_store_up ").await == up).then_some(())
        })
        .await;
    }
}

/// Waits until each of these got so many more tokens; and checks that Keystone was asked for as many, not for as many
/// from each. One more may be under way, and one may have been before.
async fn share_renewals(cloud: &Cloud, replicas: &[Replica], count: usize) {
    let asked = cloud.token_requests();
    let mut before = Vec::new();
    for replica in replicas {
        before.push(replica.renewals().await);
    }
    for (replica, before) in replicas.iter().zip(&before) {
        eventually("the next tokens", async || (replica.renewals().await >= before + count).then_some(()))
            .await;
    }
    let asked = cloud.token_requests() - asked;
    for (replica, before) in replicas.iter().zip(&before) {
        let got = replica.renewals().await - before;
        assert!(asked <= got + 1, "Keystone was asked {asked} times while a replica got {got} tokens");
    }
}

/// Sends requests on one connection until it is told to stop, or its replica is dead; how many were answered.
async fn client(
    listen: SocketAddr,
    dead: Arc<AtomicBool>,
    stop: Arc<AtomicBool>,
    answered: Arc<AtomicUsize>,
) {
    let Ok(mut stream) = TcpStream::connect(listen).await else {
        assert!(dead.load(Ordering::SeqCst), "no connection to a replica that lives");
        return;
    };
    let head = format!("GET /compute/flavors HTTP/1.1\r\nhost: {listen}\r\n\r\n");
    while !stop.load(Ordering::SeqCst) {
        let answer = async {
            stream.write_all(head.as_bytes()).await.ok()?;
            let mut read = Vec::new();
            loop {
                if let Some(end) = read.windows(4).position(|end| end == b"\r\n\r\n") {
                    let text = String::from_utf8_lossy(&read[..end]).to_ascii_lowercase();
                    let length = text.split("content-length: ").nth(1).expect("a length").lines().next();
                    let length: usize = length.expect("a number").trim().parse().expect("a number");
                    if read.len() >= end + 4 + length {
                        return Some(text);
                    }
                }
                if stream.read_buf(&mut read).await.ok()? == 0 {
                    return None;
                }
            }
        };
        match bounded("an answer", answer).await {
            Some(text) => assert!(text.starts_with("http/1.1 200"), "{text}"),
            None => {
                assert!(dead.load(Ordering::SeqCst), "a replica that lives closed a connection");
                return;
            }
        }
        answered.fetch_add(1, Ordering::SeqCst);
        tokio::time::sleep(Duration::from_millis(fastrand::u64(1000..4000))).await;
    }
}

// Promises 63, 64, 65.
#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_clients_lose_nothing_while_tokens_end_and_replicas_and_the_store_come_and_go() {
    let Some(mut redis) = Redis::start().await else { return };
    let cloud = cloud().await;
    cloud.set_token_ttl(Duration::from_secs(8));
    let homes: Vec<_> = (0..3).map(|_| tempfile::tempdir().expect("a directory")).collect();
    let (one, two, three) = tokio::join!(
        Replica::start(&cloud, &redis, homes[0].path()),
        Replica::start(&cloud, &redis, homes[1].path()),
        Replica::start(&cloud, &redis, homes[2].path()),
    );
    let mut replicas = vec![one, two, three];
    for replica in &replicas {
        replica.is(1).await;
    }
    let (stop, answered) = (Arc::<AtomicBool>::default(), Arc::<AtomicUsize>::default());
    let mut clients = JoinSet::new();
    for number in 0..CLIENTS {
        let replica = &replicas[number % 3];
        let (dead, stop, answered) = (Arc::clone(&replica.dead), Arc::clone(&stop), Arc::clone(&answered));
        clients.spawn(client(replica.listen, dead, stop, answered));
    }
    eventually("an answer for each", async || (answered.load(Ordering::SeqCst) >= CLIENTS).then_some(()))
        .await;
    share_renewals(&cloud, &replicas, 2).await;

    // One replica is killed.
    let dying = replicas.pop().expect("there are three");
    dying.dead.store(true, Ordering::SeqCst);
    dying.process.signal(Signal::KILL);
    share_renewals(&cloud, &replicas, 2).await;

    // The store is killed: each goes on by itself.
    redis.kill();
    for replica in &replicas {
        replica.is(0).await;
        let asked = replica.metric("keyway_token_requests_total{").await;
        let more = async || (replica.metric("keyway_token_requests_total{").await > asked).then_some(());
        eventually("a login of its own", more).await;
    }

    // And it is back.
    redis.run().await;
    for replica in &replicas {
        replica.is(1).await;
    }
    // What each got by itself is over then.
    for replica in &replicas {
        let restored = replica.metric("keyway_token_requests_total{").await + replica.renewals().await;
        let next = async || {
            let now = replica.metric("keyway_token_requests_total{").await + replica.renewals().await;
            (now > restored).then_some(())
        };
        eventually("the next token", next).await;
    }
    share_renewals(&cloud, &replicas, 2).await;

    let before = answered.load(Ordering::SeqCst);
    eventually("more answers", async || {
        (answered.load(Ordering::SeqCst) >= before + CLIENTS / 2).then_some(())
    })
    .await;
    stop.store(true, Ordering::SeqCst);
    while let Some(ended) = clients.join_next().await {
        ended.expect("no request was lost");
    }
}
