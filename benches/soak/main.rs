//! Many requests of every kind through the real program, and what became of each.
//!
//!     cargo bench --bench soak -- --requests 1000000
//!
//! keyway runs as a process of its own in front of the demo cloud, whose tokens live for seconds and
//! are revoked now and then, and of a service that counts what it executes, breaks off answers and
//! resets connections. The exit code is 1 if a request was lost, answered wrongly or executed twice,
//! if Keystone was asked too often, or if memory, descriptors or threads grew. `--requests`,
//! `--clients`, `--seconds` (the most that it may take) and `--seed` are all there is to set.

mod book;
mod client;
mod content;
mod process;
mod service;

use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use keyway::demo::{self, Cloud};
use tokio::task::JoinSet;

use book::Book;
use process::{Footprint, Process};

/// How long a token lives.
const TOKEN_LIFE: Duration = Duration::from_secs(6);
/// How often all tokens are revoked, give or take two seconds. keyway's allowance for such surprises
/// refills every five.
const REVOCATIONS: Duration = Duration::from_secs(8);

struct Settings {
    requests: usize,
    clients: usize,
    seconds: u64,
    seed: u64,
}

fn main() -> ExitCode {
    let settings = match settings() {
        Ok(settings) => settings,
        Err(why) => {
            eprintln!("soak: {why}; usage: [--requests N] [--clients N] [--seconds N] [--seed N]");
            return ExitCode::from(2);
        }
    };
    more_descriptors();
    let runtime = tokio::runtime::Runtime::new().expect("threads");
    let good = runtime.block_on(run(&settings));
    runtime.shutdown_timeout(Duration::from_secs(1));
    if good { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn settings() -> Result<Settings, String> {
    let mut settings = Settings { requests: 50_000, clients: 24, seconds: 1800, seed: 1 };
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        // cargo bench says so to every benchmark.
        if argument == "--bench" {
            continue;
        }
        let value = arguments.next().and_then(|value| value.parse::<u64>().ok());
        let value = value.ok_or_else(|| format!("{argument} wants a number"))?;
        let number = usize::try_from(value).map_err(|error| error.to_string())?;
        match argument.as_str() {
            "--requests" => settings.requests = number.max(1000),
            "--clients" => settings.clients = number.clamp(4, 1000),
            "--seconds" => settings.seconds = value,
            "--seed" => settings.seed = value,
            _ => return Err(format!("{argument} is unknown")),
        }
    }
    Ok(settings)
}

fn more_descriptors() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum.map(|most| most.min(65_536)).or(Some(65_536));
    let _ = setrlimit(Resource::Nofile, limit);
}

async fn run(settings: &Settings) -> bool {
    let config = demo::Config { token_ttl: TOKEN_LIFE, object_limit: 1 << 30, ..demo::Config::default() };
    let cloud = Arc::new(Cloud::start(config).await.expect("free ports"));
    let book = Arc::new(Book::new(settings.requests));
    let url = service::start(Arc::clone(&cloud), Arc::clone(&book)).await;
    let mut catalog = cloud.catalog();
    catalog.as_array_mut().expect("a list").push(serde_json::json!({
        "id": "soak", "type": "soak", "name": "soak",
        "endpoints": [{"id": "soak", "interface": "public", "region": "RegionOne", "region_id": "RegionOne", "url": url}],
    }));
    cloud.set_catalog(catalog);

    let mut keyway = Process::start(&cloud).await;
    let address = keyway.address();
    client::prepare(address, settings.clients).await;
    let start = keyway.footprint();
    println!("{} requests by {} clients, seed {}", settings.requests, settings.clients, settings.seed);

    let began = Instant::now();
    let deadline = began + Duration::from_secs(settings.seconds);
    let stop = Arc::new(AtomicBool::new(false));
    let mut clients = JoinSet::new();
    for index in 0..settings.clients {
        let client = client::Client::new(index, address, settings.seed, Arc::clone(&book), Arc::clone(&stop));
        clients.spawn(client.run());
    }
    let revoker = tokio::spawn(revoke(Arc::clone(&cloud), Arc::clone(&book), settings.seed));
    let (mut middle, mut told) = (None, 0);
    let mut tick = tokio::time::interval(Duration::from_millis(200));
    while !clients.is_empty() {
        tokio::select! {
            Some(ended) = clients.join_next() => ended.expect("a client does not panic"),
            _ = tick.tick() => {
                let sent = book.sent();
                if middle.is_none() && sent >= settings.requests / 2 {
                    middle = Some(keyway.footprint());
                }
                if sent * 10 / settings.requests > told {
                    told = sent * 10 / settings.requests;
                    println!("{:>4} % after {:>4} s", told * 10, began.elapsed().as_secs());
                }
                if Instant::now() > deadline || !keyway.is_alive() {
                    stop.store(true, Ordering::Relaxed);
                }
            }
        }
    }
    let took = began.elapsed();
    let stopped = stop.load(Ordering::Relaxed);
    revoker.abort();
    let alive = keyway.is_alive();
    let end = if alive { keyway.settled(&start).await } else { Footprint::default() };
    let ended = keyway.stop().await;

    book.report(took);
    let middle = middle.unwrap_or_else(|| start.clone());
    for (when, footprint) in [("start", &start), ("middle", &middle), ("end", &end)] {
        println!("keyway at its {when:<7} {footprint}");
    }
    let revocations = book.revocations();
    println!(
        "logins: {} asked for, {} granted; {revocations} revocations, tokens live {} s",
        cloud.token_requests(),
        cloud.tokens_issued(),
        TOKEN_LIFE.as_secs()
    );

    let mut faults = book.faults();
    if stopped {
        faults.push(format!("it did not end within {} s, or keyway ended before", settings.seconds));
    }
    if !alive || ended != Some(0) {
        faults.push(format!("keyway ended with {ended:?}; its last lines:\n{}", keyway.last_lines()));
    }
    faults.extend(end.grown_since(&start, &middle, settings.clients));
    // A token lives at least half of its life, and each revocation costs one more.
    let most = 2.0 * took.as_secs_f64() / TOKEN_LIFE.as_secs_f64() + revocations as f64 * 2.0 + 10.0;
    if cloud.token_requests() as f64 > most {
        faults.push(format!("Keystone was asked {} times, {most:.0} would do", cloud.token_requests()));
    }
    for fault in &faults {
        println!("FAULT: {fault}");
    }
    println!("{}", if faults.is_empty() { "nothing lost, nothing wrong, nothing twice" } else { "NOT good" });
    faults.is_empty()
}

/// Revokes all tokens now and then, for as long as it is let.
async fn revoke(cloud: Arc<Cloud>, book: Arc<Book>, seed: u64) {
    let mut random = fastrand::Rng::with_seed(seed ^ 0x5eed);
    loop {
        tokio::time::sleep(REVOCATIONS - Duration::from_secs(2) + Duration::from_millis(random.u64(..4000)))
            .await;
        cloud.revoke_all();
        book.note_revocation();
    }
}
