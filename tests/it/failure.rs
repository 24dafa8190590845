//! The cloud behind keyway misbehaves: what clients see of it, and what Keystone has to bear.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::BodyExt as _;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use jiff::{SignedDuration, Timestamp};
use keyway::demo::Trouble;
use keyway::keystone::{Auth, Secret};
use serde_json::json;
use tokio::net::TcpStream;
use tokio::task::{JoinSet, LocalSet};

use crate::support::faults::{Dice, End, Fault, FaultyCloud, Part, no_panics};
use crate::support::{
    Answer, Connection, Payload, TestKeyway, bounded, eventually, refusing, request, slow, statuses,
};

/// How long those are waited for who don't answer.
const SHORT: Duration = Duration::from_millis(300);
/// A wait without end, as far as a test is concerned.
const LONG: Duration = Duration::from_secs(3600);

/// What clients see while Keystone has one kind of trouble.
struct Cell {
    fault: Fault,
    /// Statuses with their reasons.
    seen: &'static [(u16, &'static str)],
}

impl Cell {
    /// Keystone's: short only where it passes, since a busy machine takes its time for everything else.
    fn deadline(&self) -> Duration {
        let passes = self.seen.iter().any(|(status, _)| *status == 504);
        if passes { SHORT } else { Duration::from_secs(30) }
    }
}

const SILENT: &[(u16, &str)] = &[(504, "keystone_timeout"), (503, "keystone_timeout")];
const BROKEN: &[(u16, &str)] = &[(503, "keystone_unreachable")];
const BUSY: &[(u16, &str)] = &[(503, "keystone_unavailable")];
const WRONG: &[(u16, &str)] = &[(502, "keystone_bad_reply")];
/// A flood is cut off by its size or by the clock.
const FLOODED: &[(u16, &str)] =
    &[(503, "keystone_unreachable"), (504, "keystone_timeout"), (503, "keystone_timeout")];

fn cells() -> Vec<Cell> {
    let mut cells = Vec::new();
    let mut add = |seen: &'static [(u16, &'static str)], faults: Vec<Fault>| {
        cells.extend(faults.into_iter().map(|fault| Cell { fault, seen }));
    };
    add(
        SILENT,
        vec![
            Fault::Silence,
            Fault::Late { head: LONG, body: LONG },
            Fault::Late { head: Duration::ZERO, body: LONG },
            Fault::Dribble(Duration::from_millis(50)),
        ],
    );
    add(BROKEN, Fault::cuts().collect());
    add(
        BROKEN,
        vec![
            Fault::Lose(End::Close),
            Fault::Lose(End::Reset),
            Fault::Garbage,
            Fault::Long,
            Fault::Instead(
                b"HTTP/1.1 201 Created\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n{}".to_vec(),
            ),
        ],
    );
    add(FLOODED, vec![Fault::EndlessHead, Fault::EndlessBody]);
    let instead = |status: &str, body: &str| Fault::instead(status, "", body);
    add(
        BUSY,
        ["429 Too Many Requests", "500 Internal Server Error", "502 Bad Gateway", "503 Service Unavailable"]
            .into_iter()
            .chain(["504 Gateway Timeout", "599 Nobody Knows"])
            .map(|status| instead(status, "<html>"))
            .collect(),
    );
    let subject = "X-Subject-Token: t\r\n";
    add(
        WRONG,
        vec![
            Fault::Short,
            Fault::instead("200 OK", "Content-Type: text/html\r\n", "<html>Please log in</html>"),
            Fault::instead("201 Created", subject, "{}"),
            Fault::instead("201 Created", subject, "[]"),
            Fault::instead("201 Created", subject, "null"),
            Fault::instead("201 Created", subject, "{\"token\": 5}"),
            Fault::instead("201 Created", subject, "{\"token\": {\"expires_at\": 7, \"catalog\": 7}}"),
            Fault::instead("201 Created", subject, &"[".repeat(100_000)),
            Fault::instead("201 Created", subject, ""),
            instead("204 No Content", ""),
            instead("404 Not Found", "<html>"),
            Fault::instead("302 Found", "Location: http://elsewhere.example/\r\n", ""),
            Fault::Edited(|answer| answer.remove("x-subject-token")),
            Fault::Edited(|answer| answer.set("x-subject-token", "")),
            Fault::Edited(|answer| answer.set("x-subject-token", "two words")),
            Fault::Edited(|answer| {
                answer.token(|token| {
                    token.remove("expires_at");
                })
            }),
            Fault::Edited(|answer| {
                answer.token(|token| {
                    token.insert("expires_at".to_owned(), "2001-01-01T00:00:00Z".into());
                })
            }),
        ],
    );
    cells
}

/// Runs the same check against many clouds at once.
async fn all_at_once<F: Future<Output = ()> + 'static>(checks: impl IntoIterator<Item = F>) {
    let (local, mut running) = (LocalSet::new(), JoinSet::new());
    checks.into_iter().for_each(|check| {
        running.spawn_local_on(check, &local);
    });
    local.run_until(running.join_all()).await;
}

/// So many requests at once that each tell what they met.
async fn crowd(keyway: &TestKeyway, count: usize, path: &str) -> Vec<Answer> {
    let (listen, path) = (keyway.listen(), Arc::<str>::from(path));
    let mut tasks = JoinSet::new();
    for _ in 0..count {
        let path = Arc::clone(&path);
        tasks.spawn(async move {
            Connection::open(listen).await.send(request(Method::GET, &path, &[], "")).await
        });
    }
    tasks.join_all().await
}

// Promises 63, 66, 72.
#[tokio::test(flavor = "multi_thread")]
async fn whatever_keystone_does_wrong_everyone_who_waits_hears_in_time_and_it_recovers() {
    all_at_once(cells().into_iter().map(|cell| async move {
        let cloud = FaultyCloud::start().await;
        cloud.keystone.always(cell.fault.clone());
        let keyway = cloud.cold(|config| config.timeouts.keystone = cell.deadline());
        let what = format!("{:?}", cell.fault).chars().take(200).collect::<String>();
        let started = Instant::now();
        for answer in crowd(&keyway, 50, "/compute/servers").await {
            let seen = (answer.status, answer.header("x-keyway-error"));
            assert!(cell.seen.contains(&seen), "{what}: {seen:?}");
            answer.message(seen.0, seen.1);
            assert_eq!(answer.headers.contains_key("retry-after"), seen.0 == 503, "{what}");
        }
        // One attempt, and one for each second or two that this may have taken on a busy machine.
        let most = 1 + started.elapsed().as_secs() as usize;
        assert!((1..=most).contains(&cloud.keystone.logins()), "{what}: {}", cloud.keystone.logins());
        assert_eq!(cloud.compute.passed().len(), 0);
        assert_eq!(keyway.admin_get("/readyz").await.status, 503);
        nothing_in_flight(&keyway).await;
        let backoff = keyway.metric(r#"keyway_token_backoff_until_timestamp_seconds{cloud="demo"}"#).await;
        assert!(backoff > 1.7e9, "{what}: {backoff}");

        cloud.keystone.heal();
        eventually("recovery", async || (keyway.get("/compute/servers").await.status == 200).then_some(()))
            .await;
        let backoff = keyway.metric(r#"keyway_token_backoff_until_timestamp_seconds{cloud="demo"}"#).await;
        assert_eq!(backoff, 0.0, "{what}");
    }))
    .await;
    no_panics();
}

// Promise 66.
#[tokio::test(flavor = "multi_thread")]
async fn a_login_without_a_catalog_leads_nowhere_but_to_keystone() {
    let cloud = FaultyCloud::start().await;
    cloud.keystone.always(Fault::Edited(|answer| {
        answer.token(|token| {
            token.remove("catalog");
        });
    }));
    let keyway = cloud.keyway(|_| {}).await;
    for answer in crowd(&keyway, 50, "/compute/servers").await {
        answer.message(502, "no_endpoint");
    }
    assert_eq!(cloud.keystone.logins(), 1);
    no_panics();
}

// Promises 65, 68.
#[tokio::test(flavor = "multi_thread")]
async fn whatever_keystone_does_wrong_nobody_notices_while_the_token_lives() {
    all_at_once(cells().into_iter().map(|cell| async move {
        let cloud = FaultyCloud::start().await;
        cloud.cloud.set_token_ttl(Duration::from_secs(5));
        // Every upload is to have its token checked.
        let keyway = cloud
            .keyway(|config| {
                config.timeouts.keystone = Duration::from_secs(1);
                config.timeouts.proof = Duration::ZERO;
                config.limits.replay_buffer = 1024;
            })
            .await;
        assert_eq!(keyway.put("/object-store/box", "").await.status, 201);
        cloud.keystone.always(cell.fault.clone());
        let what = format!("{:?}", cell.fault).chars().take(200).collect::<String>();
        for n in 0..3 {
            assert_eq!(keyway.get("/compute/servers").await.status, 200, "{what}");
            let large = vec![b'x'; 4096];
            assert_eq!(keyway.put(&format!("/object-store/box/{n}"), large).await.status, 201, "{what}");
        }
        // The renewal comes after half of the token's life, and fails.
        eventually("the renewal", async || (cloud.keystone.logins() > 1).then_some(())).await;
        assert_eq!(keyway.get("/compute/servers").await.status, 200, "{what}");
        assert_eq!(keyway.metric_total("keyway_errors_total").await, 0.0, "{what}");

        // Its end comes too: from then on nothing is sent with it.
        eventually("the end of the token", async || {
            let status = keyway.get("/compute/servers").await.status;
            assert!(matches!(status, 200 | 502 | 503 | 504), "{what}: {status}");
            (status != 200).then_some(())
        })
        .await;
        // The last one may have met its end on the way.
        let sent = statuses(&cloud.cloud, "compute");
        assert!(sent[..sent.len() - 1].iter().all(|status| *status == 200), "{what}: {sent:?}");
    }))
    .await;
    no_panics();
}

/// Nobody is left in a queue once everyone has an answer.
async fn nothing_in_flight(keyway: &TestKeyway) {
    eventually("the end of all requests", async || {
        (keyway.metric("keyway_requests_in_flight").await == 0.0).then_some(())
    })
    .await;
}

/// Clients that come again at once, whatever they hear, for as long as the test goes on.
struct Hammer {
    stop: Arc<AtomicBool>,
    heard: Arc<AtomicUsize>,
    clients: JoinSet<BTreeMap<(u16, String), usize>>,
}

impl Hammer {
    fn start(keyway: &TestKeyway, clients: usize, path: &'static str) -> Self {
        let (stop, heard) = (Arc::<AtomicBool>::default(), Arc::<AtomicUsize>::default());
        let mut tasks = JoinSet::new();
        for _ in 0..clients {
            let (stop, heard, listen) = (Arc::clone(&stop), Arc::clone(&heard), keyway.listen());
            tasks.spawn(async move {
                let mut connection = Connection::open(listen).await;
                let mut seen = BTreeMap::new();
                while !stop.load(Ordering::Relaxed) {
                    let answer = connection.send(request(Method::GET, path, &[], "")).await;
                    heard.fetch_add(1, Ordering::Relaxed);
                    *seen.entry((answer.status, answer.header("x-keyway-error").to_owned())).or_default() +=
                        1;
                }
                seen
            });
        }
        Self { stop, heard, clients: tasks }
    }

    /// What they heard, and how often.
    async fn stop(self) -> BTreeMap<(u16, String), usize> {
        self.stop.store(true, Ordering::Relaxed);
        let mut all = BTreeMap::new();
        for seen in self.clients.join_all().await {
            seen.into_iter().for_each(|(what, count)| *all.entry(what).or_default() += count);
        }
        all
    }
}

// Promise 66.
#[tokio::test(flavor = "multi_thread")]
async fn five_hundred_clients_that_hammer_cost_a_broken_keystone_a_few_calls() {
    all_at_once([Fault::Lose(End::Reset), Fault::Silence].map(|fault| async move {
        let cloud = FaultyCloud::start().await;
        cloud.keystone.always(fault);
        let keyway = cloud.cold(|config| config.timeouts.keystone = SHORT);
        let started = Instant::now();
        let hammer = Hammer::start(&keyway, 500, "/compute/servers");
        eventually("three attempts", async || (cloud.keystone.logins() >= 3).then_some(())).await;
        let seconds = started.elapsed().as_secs() as usize;
        let heard = hammer.heard.load(Ordering::Relaxed);
        assert!(heard > 500, "{heard}");
        // After 1, 2, 4 ... s.
        assert!(cloud.keystone.logins() <= 3 + seconds / 4, "{} in {seconds} s", cloud.keystone.logins());

        cloud.keystone.heal();
        let served = r#"keyway_requests_total{cloud="demo",code="200",method="GET",service="compute"}"#;
        eventually("recovery", async || (keyway.metric(served).await > 0.0).then_some(())).await;
        let heard = hammer.stop().await;
        let known = ["", "keystone_unreachable", "keystone_timeout"];
        assert!(heard.keys().all(|(_, reason)| known.contains(&reason.as_str())), "{heard:?}");
        // The first one may come too late on a busy machine.
        assert!((1..=3).contains(&cloud.cloud.tokens_issued()), "{}", cloud.cloud.tokens_issued());
        nothing_in_flight(&keyway).await;
    }))
    .await;
    no_panics();
}

// Promise 66.
#[tokio::test(flavor = "multi_thread")]
async fn retry_after_is_honored_in_both_of_its_forms() {
    const SECONDS: fn() -> String = || "4".to_owned();
    const DATE: fn() -> String = || httpdate::fmt_http_date(SystemTime::now() + Duration::from_secs(6));
    let forms = [
        ("503 Service Unavailable", SECONDS),
        ("429 Too Many Requests", SECONDS),
        ("503 Service Unavailable", DATE),
    ];
    all_at_once(forms.map(|(status, retry_after)| async move {
        let cloud = FaultyCloud::start().await;
        let mut first = true;
        cloud.keystone.script(move |_, _| match std::mem::take(&mut first) {
            true => Fault::instead(status, &format!("Retry-After: {}\r\n", retry_after()), ""),
            false => Fault::None,
        });
        let keyway = cloud.cold(|_| {});
        let refused = keyway.get("/compute/servers").await;
        refused.message(503, "keystone_unavailable");
        let wait: u64 = refused.header("retry-after").parse().expect("whole seconds");
        assert!((1..=6).contains(&wait), "{wait}");
        let hammer = Hammer::start(&keyway, 4, "/compute/servers");
        eventually("the next attempt", async || (cloud.keystone.logins() >= 2).then_some(())).await;
        hammer.stop().await;
        let passed = cloud.keystone.passed();
        // A date has whole seconds, and its way takes a while.
        assert!(passed[1].at - passed[0].at >= Duration::from_millis(3900));
        eventually("recovery", async || (keyway.get("/compute/servers").await.status == 200).then_some(()))
            .await;
        assert_eq!(cloud.keystone.logins(), 2);
    }))
    .await;
}

// Promise 66.
#[tokio::test(flavor = "multi_thread")]
async fn rejected_credentials_are_tried_once_for_all_projects_and_said_so() {
    let cloud = FaultyCloud::start().await;
    let mut config = cloud.config();
    let Auth::Identity(identity) = &mut config.auth else { unreachable!("there is a Keystone") };
    let keyway::keystone::Method::Password { password, .. } = &mut identity.method else { unreachable!() };
    *password = Secret::new("wr0ng-password").into();
    let keyway = TestKeyway::cold(vec![config], |_| {});
    for n in 0..100 {
        let project = format!("/project/p{}/compute/servers", n % 10);
        let path = if n % 2 == 0 { "/compute/servers" } else { &project };
        keyway.get(path).await.message(502, "credentials_rejected");
    }
    assert_eq!(cloud.keystone.logins(), 1);
    assert_eq!(keyway.metric(r#"keyway_token_breaker_open{cloud="demo"}"#).await, 1.0);
    let status = &keyway.status().await["clouds"][0];
    assert_eq!(status["breaker_open"], true);
    assert!(
        status["next_attempt_seconds"].as_u64().is_some_and(|wait| (50..=72).contains(&wait)),
        "{status}"
    );
}

// Promise 66.
#[tokio::test(flavor = "multi_thread")]
async fn a_password_that_turned_wrong_is_tried_twice_and_a_closed_project_stops_no_other() {
    let cloud = FaultyCloud::start().await;
    let keyway = cloud.keyway(|_| {}).await;
    assert_eq!(keyway.get("/project/other/compute/servers").await.status, 200);
    // The user may not enter the other project any more.
    cloud.cloud.revoke_all();
    cloud.keystone.next([Fault::instead("401 Unauthorized", "", "{}")]);
    keyway.get("/project/other/compute/servers").await.message(401, "scope_refused");
    assert_eq!(cloud.keystone.logins(), 4, "the second one tells what the first one was about");
    assert_eq!(keyway.get("/compute/servers").await.status, 200);
    keyway.get("/project/other/compute/servers").await.message(401, "scope_refused");
    assert_eq!(keyway.metric(r#"keyway_token_breaker_open{cloud="demo"}"#).await, 0.0);
    let before = cloud.keystone.logins();

    // The password is wrong.
    cloud.cloud.set_trouble("identity", refusing());
    cloud.cloud.revoke_all();
    for _ in 0..20 {
        keyway.get("/compute/servers").await.message(502, "credentials_rejected");
        keyway.get("/project/other/compute/servers").await.message(502, "credentials_rejected");
    }
    assert!(cloud.keystone.logins() <= before + 2, "{} after {before}", cloud.keystone.logins());
    assert_eq!(keyway.metric(r#"keyway_token_breaker_open{cloud="demo"}"#).await, 1.0);
}

// Promise 64.
#[tokio::test(flavor = "multi_thread")]
async fn a_service_that_refuses_every_token_gets_its_401_through_and_storms_nobody() {
    const REQUESTS: usize = 600;
    let cloud = FaultyCloud::start().await;
    let keyway = cloud.keyway(|_| {}).await;
    cloud.cloud.set_trouble("compute", refusing());
    let started = Instant::now();
    let mut unretried = 0;
    for _ in 0..REQUESTS / 50 {
        for answer in crowd(&keyway, 50, "/compute/servers").await {
            answer.passed_on(401);
            unretried += usize::from(answer.header("x-keyway-retry") == "no_token");
        }
        // Whoever trusts Keystone is served with the token that there is.
        assert_eq!(keyway.get("/object-store").await.status, 204);
    }
    let seconds = started.elapsed().as_secs() as usize;
    let logins = cloud.keystone.logins();
    assert!((11..=12 + seconds / 5).contains(&logins), "{logins} in {seconds} s");
    assert!(cloud.compute.passed().len() <= 2 * REQUESTS);
    assert!(unretried > 0);
    let capped = keyway.metric(r#"keyway_token_refusals_capped_total{cloud="demo"}"#).await;
    assert!(capped >= 1.0 && capped <= unretried as f64, "{capped}, {unretried}");
    let left = keyway.status().await["clouds"][0]["refusals_left"].as_u64().expect("a number");
    assert!(left <= 10, "{left}");

    cloud.cloud.set_trouble("compute", Trouble::default());
    assert_eq!(keyway.get("/compute/servers").await.status, 200);
    no_panics();
}

// Promises 63, 64.
#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_revocations_under_load_cost_a_login_each_at_most() {
    let cloud = FaultyCloud::start().await;
    let keyway = cloud.keyway(|_| {}).await;
    let hammer = Hammer::start(&keyway, 16, "/compute/servers");
    let mut revoked = 0;
    for _ in 0..8 {
        let heard = hammer.heard.load(Ordering::Relaxed);
        cloud.cloud.revoke_all();
        revoked += 1;
        eventually("some requests", async || {
            (hammer.heard.load(Ordering::Relaxed) > heard + 50).then_some(())
        })
        .await;
    }
    let heard = hammer.stop().await;
    // A request whose new token was revoked as well shows that 401.
    let served = heard.get(&(200, String::new())).copied().unwrap_or_default();
    assert!(served >= 400, "{heard:?}");
    assert!(
        heard.keys().all(|(status, reason)| matches!(status, 200 | 401) && reason.is_empty()),
        "{heard:?}"
    );
    assert!(cloud.cloud.token_requests() <= 1 + revoked, "{}", cloud.cloud.token_requests());
}

// Promise 67.
#[tokio::test(flavor = "multi_thread")]
async fn no_clock_costs_a_storm() {
    let odd_dates: [fn(&mut crate::support::faults::Message); 5] = [
        |answer| answer.set("date", "Sat, 01 Jan 2000 00:00:00 GMT"),
        |answer| answer.set("date", "Tue, 01 Jan 2115 00:00:00 GMT"),
        |answer| answer.set("date", "yesterday"),
        |answer| answer.remove("date"),
        // Without the time of issue, Keystone's own clock tells how long the token lives.
        |answer| {
            answer.set("date", "Sat, 01 Jan 2000 00:00:00 GMT");
            answer.token(|token| {
                token.remove("issued_at");
                token.insert("expires_at".to_owned(), "2000-01-01T01:00:00.000000Z".into());
            });
        },
    ];
    for hours in [-48, -1, 0, 1, 48] {
        for edit in odd_dates {
            let cloud = FaultyCloud::start().await;
            cloud.cloud.set_clock_skew(SignedDuration::from_hours(hours));
            cloud.keystone.always(Fault::Edited(edit));
            let keyway = cloud.keyway(|_| {}).await;
            assert_eq!(keyway.get_at_once(20, "/compute/servers").await, [200; 20], "{hours} h");
            assert_eq!(cloud.keystone.logins(), 1, "{hours} h");
        }
    }
    assert!(Timestamp::now().as_second() > 946_688_400, "this machine's clock is another one");
}

// Promises 67, 68.
#[tokio::test(flavor = "multi_thread")]
async fn tokens_of_a_second_cost_a_login_a_second_and_are_never_sent_too_late() {
    let cloud = FaultyCloud::start().await;
    cloud.cloud.set_token_ttl(Duration::from_secs(1));
    let keyway = cloud.keyway(|_| {}).await;
    let started = Instant::now();
    let hammer = Hammer::start(&keyway, 8, "/compute/servers");
    eventually("four logins", async || (cloud.keystone.logins() >= 4).then_some(())).await;
    let heard = hammer.stop().await;
    assert_eq!(heard.keys().collect::<Vec<_>>(), [&(200, String::new())], "{heard:?}");
    let seconds = started.elapsed().as_secs() as usize;
    assert!(cloud.keystone.logins() <= seconds + 3, "{} in {seconds} s", cloud.keystone.logins());
    // One that ends on its way may meet a 401, and the request goes once more.
    let refused = statuses(&cloud.cloud, "compute").into_iter().filter(|status| *status == 401).count();
    assert!(refused <= 8 * cloud.keystone.logins(), "{refused}");
}

// Promise 68.
#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_ends_on_its_way_is_replaced_and_the_request_goes_once_more() {
    let cloud = FaultyCloud::start().await;
    cloud.cloud.set_token_ttl(Duration::from_secs(2));
    let keyway = cloud.keyway(|_| {}).await;
    cloud.cloud.set_token_ttl(LONG);
    // The service looks at the token when it is over.
    cloud.cloud.set_trouble("compute", slow(Duration::from_secs(3)));
    let late = server("late");
    let (answer, ()) = tokio::join!(keyway.post("/compute/servers", &late), async {
        eventually("the request", async || (cloud.compute.passed().len() == 1).then_some(())).await;
        cloud.cloud.set_trouble("compute", Trouble::default());
    });
    answer.passed_on(202);
    assert_eq!(statuses(&cloud.cloud, "compute"), [401, 202]);
    assert_eq!(cloud.cloud.token_requests(), 2);
}

// Promise 68.
#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_ends_while_the_client_sends_its_body_is_not_sent() {
    let cloud = FaultyCloud::start().await;
    cloud.cloud.set_token_ttl(Duration::from_secs(2));
    let keyway = cloud.keyway(|_| {}).await;
    assert_eq!(keyway.get("/compute/servers").await.status, 200);
    cloud.keystone.always(Fault::Lose(End::Reset));
    let body = server("slow").to_string();
    let (first, rest) = body.split_at(10);
    let mut client = crate::support::raw::Peer::connect(keyway.listen()).await;
    let length = body.len();
    client
        .send(format!(
            "POST /compute/servers HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n{first}"
        ))
        .await;
    eventually("the end of the token", async || {
        keyway.status().await["clouds"][0]["token"].is_null().then_some(())
    })
    .await;
    client.send(rest).await;
    let (head, _) = client.response().await;
    assert!(head.contains("x-keyway-error: keystone_unreachable"), "{head}");
    assert_eq!(statuses(&cloud.cloud, "compute"), [200]);
}

fn server(name: &str) -> serde_json::Value {
    let image = "5e0c2d0a-0537-498c-a3ee-c92a9adb4ba9";
    json!({"server": {"name": name, "flavorRef": "1", "imageRef": image, "networks": "auto"}})
}

#[tokio::test(flavor = "multi_thread")]
async fn a_version_document_that_is_slow_wrong_or_missing_costs_only_its_own_request() {
    let faults = Fault::cuts().chain([
        Fault::Lose(End::Reset),
        Fault::Silence,
        Fault::Garbage,
        Fault::EndlessHead,
        Fault::EndlessBody,
        Fault::Long,
        Fault::instead("503 Service Unavailable", "Retry-After: 1\r\n", "{}"),
    ]);
    all_at_once(faults.map(|fault| async move {
        let cloud = FaultyCloud::start().await;
        let what = format!("{fault:?}");
        let keyway = cloud.keyway(|config| config.timeouts.response = Duration::from_secs(2)).await;
        cloud.image.script(move |_, target| if target == "/" { fault.clone() } else { Fault::None });
        let (unversioned, versioned) =
            tokio::join!(crowd(&keyway, 20, "/image/images"), crowd(&keyway, 20, "/image/v2/images"));
        // They go out as they came, and glance knows no such path.
        assert!(unversioned.iter().all(|answer| answer.status != 200), "{what}");
        assert!(unversioned.iter().all(|answer| answer.header("x-keyway-error").is_empty()), "{what}");
        assert!(versioned.iter().all(|answer| answer.status == 200), "{what}");
        let asked = cloud.image.passed().iter().filter(|passed| passed.target == "/").count();
        // Each question may find a pooled connection dead.
        assert!((1..=4).contains(&asked), "{what}: {asked}");
        cloud.image.heal();
        eventually("the images", async || (keyway.get("/image/images").await.status == 200).then_some(()))
            .await;
    }))
    .await;
    no_panics();
}

/// What became of one request of the mixed run.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Fate {
    /// The service's own answer, whole and right.
    Right,
    /// keyway's own answer, with a documented reason.
    Refused,
    /// What the line said in the service's place, or the service's 401.
    PassedOn,
    /// The head, and then a visible cut.
    Cut,
    /// No answer, or not the right one: which.
    Lost(String),
}

/// The reasons that README.md documents for a cloud in trouble.
const DOCUMENTED: [&str; 10] = [
    "upstream_connect",
    "upstream_broken",
    "upstream_timeout",
    "keystone_unreachable",
    "keystone_unavailable",
    "keystone_timeout",
    "keystone_bad_reply",
    "credentials_rejected",
    "tokens_refused",
    "bad_body",
];

/// One client of the mixed run. It keeps its connection for as long as it lasts.
struct Client {
    listen: std::net::SocketAddr,
    sender: Option<http1::SendRequest<Payload>>,
    number: usize,
    /// What it knows to be stored.
    stored: HashMap<String, Bytes>,
}

impl Client {
    async fn send(
        &mut self,
        request: Request<Payload>,
    ) -> Result<Response<hyper::body::Incoming>, hyper::Error> {
        loop {
            if let Some(mut sender) = self.sender.take().filter(|sender| !sender.is_closed())
                && sender.ready().await.is_ok()
            {
                let answer = sender.send_request(request).await;
                self.sender = Some(sender);
                return answer;
            }
            let stream = TcpStream::connect(self.listen).await.expect("keyway listens");
            let (sender, connection) =
                http1::handshake(TokioIo::new(stream)).await.expect("nothing is sent yet");
            tokio::spawn(connection);
            self.sender = Some(sender);
        }
    }

    /// Sends one request and judges what comes back. `right` looks at a service's answer.
    async fn try_one(
        &mut self,
        method: Method,
        path: &str,
        id: &str,
        body: Bytes,
        right: impl FnOnce(StatusCode, &Bytes) -> bool,
    ) -> Fate {
        let host = [("host", "localhost"), ("x-test-id", id)];
        let request = request(method, path, &host, body);
        let response = match bounded("an answer", self.send(request)).await {
            Ok(response) => response,
            Err(error) => {
                self.sender = None;
                return Fate::Lost(format!("{error:?}"));
            }
        };
        let (parts, body) = response.into_parts();
        let Ok(body) = bounded("its body", body.collect()).await else {
            self.sender = None;
            return Fate::Cut;
        };
        let body = body.to_bytes();
        if let Some(reason) = parts.headers.get("x-keyway-error") {
            let reason = reason.to_str().expect("a word");
            if reason.starts_with("keystone_") {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            return match DOCUMENTED.contains(&reason) {
                true => Fate::Refused,
                false => Fate::Lost(format!("{reason}: {body:?}")),
            };
        }
        // A token that was revoked again at once, or once too often of late.
        if parts.headers.contains_key("x-line") || parts.status == StatusCode::UNAUTHORIZED {
            return Fate::PassedOn;
        }
        if right(parts.status, &body) { Fate::Right } else { Fate::Lost(format!("{parts:?} {body:?}")) }
    }

    /// One of the four kinds of request, by its number.
    async fn work(&mut self, round: usize) -> (Method, String, Fate) {
        let id = format!("c{}-{round}", self.number);
        let content = Bytes::from(format!("{id} ").repeat(1 + round % 300));
        match round % 4 {
            0 => {
                let path = format!("/object-store/box/{id}");
                let fate =
                    self.try_one(Method::PUT, &path, &id, content.clone(), |status, _| status == 201).await;
                if fate == Fate::Right {
                    self.stored.insert(path, content);
                }
                (Method::PUT, id, fate)
            }
            1 => {
                let body = Bytes::from(server(&id).to_string());
                let fate = self.try_one(Method::POST, "/compute/servers", &id, body, |status, body| {
                    status == 202 && serde_json::from_slice::<serde_json::Value>(body).is_ok()
                });
                (Method::POST, id.clone(), fate.await)
            }
            2 => {
                let known = self.stored.iter().next().map(|(path, content)| (path.clone(), content.clone()));
                let fate = match known {
                    Some((path, content)) => {
                        self.try_one(Method::GET, &path, &id, Bytes::new(), |status, body| {
                            status == 200 && *body == content
                        })
                        .await
                    }
                    None => {
                        self.try_one(
                            Method::GET,
                            "/compute/servers/detail",
                            &id,
                            Bytes::new(),
                            |status, body| {
                                status == 200 && serde_json::from_slice::<serde_json::Value>(body).is_ok()
                            },
                        )
                        .await
                    }
                };
                (Method::GET, id, fate)
            }
            _ => {
                let path = self.stored.keys().next().cloned().unwrap_or("/object-store/box/none".to_owned());
                self.stored.remove(&path);
                let fate = self
                    .try_one(Method::DELETE, &path, &id, Bytes::new(), |status, _| {
                        matches!(status.as_u16(), 204 | 404)
                    })
                    .await;
                (Method::DELETE, id, fate)
            }
        }
    }
}

// Promises 44, 45, 51, 52, 63, 66, 72.
#[tokio::test(flavor = "multi_thread")]
async fn under_random_faults_nothing_is_lost_and_nothing_done_twice() {
    const CLIENTS: usize = 16;
    const ROUNDS: usize = 200;
    let dice = Dice::new();
    let cloud = FaultyCloud::start().await;
    let keyway = cloud
        .keyway(|config| {
            config.timeouts.response = SHORT;
            config.workers = 2;
        })
        .await;
    assert_eq!(keyway.put("/object-store/box", "").await.status, 201);

    let ms = Duration::from_millis;
    let shared = [Fault::Garbage, Fault::EndlessHead, Fault::Long, Fault::Surplus];
    let slow = [
        Fault::Late { head: ms(20), body: ms(0) },
        Fault::Late { head: ms(0), body: ms(20) },
        Fault::Late { head: ms(5), body: ms(5) },
        Fault::Dribble(ms(0)),
    ];
    let busy = |status| Fault::instead(status, "Retry-After: 1\r\nX-Line: busy\r\n", "not now");
    let busy = [busy("503 Service Unavailable"), busy("429 Too Many Requests")];
    let lost = [Fault::Lose(End::Close), Fault::Lose(End::Reset)];
    let faults: Vec<_> =
        Fault::cuts().chain(shared).chain(slow).chain(busy.clone()).chain(lost.clone()).collect();
    for line in [&cloud.compute, &cloud.objects] {
        let (dice, faults) = (dice.clone(), faults.clone());
        line.script(move |_, _| match dice.below(100) {
            0 => Fault::Silence,
            1..25 => dice.choose(&faults),
            _ => Fault::None,
        });
    }
    let (thrown, at_keystone) = (dice.clone(), [Fault::Garbage, Fault::Cut(Part::WithinBody, End::Reset)]);
    let at_keystone: Vec<_> = at_keystone.into_iter().chain(busy).chain(lost).collect();
    cloud.keystone.script(move |_, _| match thrown.below(6) {
        0 => thrown.choose(&at_keystone),
        _ => Fault::None,
    });

    let mut clients = JoinSet::new();
    for number in 0..CLIENTS {
        let mut client = Client { listen: keyway.listen(), sender: None, number, stored: HashMap::new() };
        clients.spawn(async move {
            let mut done = Vec::new();
            for round in 0..ROUNDS {
                done.push(client.work(round).await);
            }
            done
        });
    }
    // Tokens are revoked at random all the while.
    let mut done = Vec::new();
    let mut revoked = 0;
    while !clients.is_empty() {
        tokio::select! {
            Some(client) = clients.join_next() => done.extend(client.expect("no client panics")),
            () = tokio::time::sleep(ms(50)) => if revoked < 8 && dice.once_in(16) {
                cloud.cloud.revoke_all();
                revoked += 1;
            }
        }
    }

    assert_eq!(done.len(), CLIENTS * ROUNDS);
    let mut fates: BTreeMap<Fate, usize> = BTreeMap::new();
    done.iter().for_each(|(.., fate)| *fates.entry(fate.clone()).or_default() += 1);
    fates.retain(|fate, _| !matches!(fate, Fate::Lost(_)));
    println!("{fates:?}; {revoked} revocations, {} logins", cloud.keystone.logins());
    let mut executed: HashMap<String, (usize, usize)> = HashMap::new();
    for service in ["compute", "object-store"] {
        for seen in cloud.cloud.requests(service) {
            let Some(id) = seen.headers.get("x-test-id") else { continue };
            let (sent, acted) = executed.entry(id.to_str().expect("a word").to_owned()).or_default();
            *sent += 1;
            *acted += usize::from(seen.token_was_good && seen.status.is_none_or(|status| status != 401));
        }
    }
    let (mut lost, mut twice) = (Vec::new(), Vec::new());
    for (method, id, fate) in &done {
        let (sent, acted) = executed.get(id).copied().unwrap_or_default();
        if matches!(fate, Fate::Lost(_)) || (*fate == Fate::Right && acted == 0) {
            lost.push((method, id, fate, sent, acted));
        }
        // One that may go twice does so after a 401, and where a pooled connection was dead.
        let most = if *method == Method::POST { (2, 1) } else { (4, 4) };
        if sent > most.0 || acted > most.1 {
            twice.push((method, id, fate, sent, acted));
        }
    }
    assert!(lost.is_empty(), "lost: {lost:?}");
    assert!(twice.is_empty(), "done twice: {twice:?}");
    assert!(fates[&Fate::Right] > done.len() / 3, "{fates:?}");
    assert!(fates[&Fate::Refused] > 0 && fates[&Fate::PassedOn] > 0 && fates[&Fate::Cut] > 0, "{fates:?}");
    // A login for each revocation, and a few for those that failed.
    assert!(cloud.keystone.logins() <= 2 + 2 * revoked + 8, "{revoked}: {}", cloud.keystone.logins());
    nothing_in_flight(&keyway).await;
    no_panics();
}
