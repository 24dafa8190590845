//! A service says 401: who is meant, what is sent once more, and what never is.

use std::time::Duration;

use bytes::Bytes;
use http::Method;
use keyway::demo::{Cloud, DOMAIN, PASSWORD, Seen, Trouble, USER};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::support::{
    Answer, TestKeyway, answering, bounded, cloud, eventually, refusing, request, statuses,
};

/// More than the replay buffer takes.
const LARGE: usize = 1 << 20;

// Promises 51, 68.
#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_token_is_replaced_and_the_request_sent_once_more() {
    let cloud = cloud().await;
    let keyway = TestKeyway::in_front_of(&cloud).await;
    assert_eq!(keyway.get("/compute/servers").await.status, 200);
    cloud.revoke_all();

    assert_eq!(keyway.get("/compute/servers").await.status, 200);
    assert_eq!(cloud.tokens_issued(), 2);
    assert_eq!(statuses(&cloud, "compute"), [200, 401, 200]);
    let accepted = r#"keyway_retries_total{cloud="demo",result="accepted",service="compute"}"#;
    assert_eq!(keyway.metric(accepted).await, 1.0);
}

// Promises 51, 64.
#[tokio::test(flavor = "multi_thread")]
async fn a_second_401_is_the_services_answer() {
    let cloud = cloud().await;
    let keyway = TestKeyway::in_front_of(&cloud).await;
    cloud.set_trouble("compute", refusing());

    let answer = keyway.get("/compute/servers").await;
    answer.passed_on(401);
    assert!(answer.header("www-authenticate").starts_with("Keystone uri="));
    assert!(answer.header("x-openstack-request-id").starts_with("req-"));
    assert_eq!(answer.json()["error"]["message"], "The request you have made requires authentication.");
    assert_eq!(statuses(&cloud, "compute"), [401, 401]);
    assert_eq!(cloud.tokens_issued(), 2);
    let refused = r#"keyway_retries_total{cloud="demo",result="refused",service="compute"}"#;
    assert_eq!(keyway.metric(refused).await, 1.0);
}

// Promise 50.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_but_a_401_is_sent_once_more() {
    let cloud = cloud().await;
    let keyway = TestKeyway::in_front_of(&cloud).await;
    for status in [403, 429, 500, 502, 503] {
        cloud.set_trouble("compute", answering(status, &[("retry-after", "7"), ("vary", "Accept")], "no"));
        let answer = keyway.get("/compute/servers").await;
        answer.passed_on(status);
        assert_eq!((answer.header("retry-after"), answer.header("vary")), ("7", "Accept"));
        assert_eq!(answer.text(), "no");
    }
    assert_eq!(statuses(&cloud, "compute"), [403, 429, 500, 502, 503]);
    assert_eq!(cloud.token_requests(), 1);
}

// Promise 51.
#[tokio::test(flavor = "multi_thread")]
async fn a_401_to_a_clients_own_login_is_no_matter_of_our_token() {
    let cloud = cloud().await;
    let keyway = TestKeyway::in_front_of(&cloud).await;
    let login = |password: &str| {
        let user = json!({"name": USER, "domain": {"name": DOMAIN}, "password": password});
        json!({"auth": {"identity": {"methods": ["password"], "password": {"user": user}}}})
    };
    // In a spelling that is not the facade's.
    for path in ["/identity/auth/tokens", "/identity/v3//auth/tokens", "/keystone/auth/tokens"] {
        let answer = keyway.post(path, &login("wrong")).await;
        answer.passed_on(401);
        assert_eq!(answer.header("x-keyway-retry"), "");
    }
    assert_eq!(keyway.post("/identity/auth/tokens", &login(PASSWORD)).await.status, 201);
    // keyway's own one, and the four of the clients.
    assert_eq!(cloud.token_requests(), 5);
    assert_eq!(keyway.metric_total("keyway_token_requests_total").await, 1.0);
}

// Promise 64.
#[tokio::test(flavor = "multi_thread")]
async fn a_service_that_refuses_every_token_causes_no_storm() {
    let cloud = cloud().await;
    let keyway = TestKeyway::in_front_of(&cloud).await;
    cloud.set_trouble("compute", refusing());
    let mut connection = keyway.connect().await;
    for _ in 0..200 {
        let answer = connection.send(request(Method::GET, "/compute/servers", &[], "")).await;
        answer.passed_on(401);
    }
    assert!(keyway.get_at_once(200, "/compute/servers").await.iter().all(|status| *status == 401));

    // Ten, and one more every five seconds.
    assert!(cloud.token_requests() <= 20, "{}", cloud.token_requests());
    assert!(cloud.requests("compute").len() <= 800);
    assert_eq!(keyway.get("/compute/servers").await.header("x-keyway-retry"), "no_token");
    // The others are not harmed.
    assert_eq!(keyway.get("/image/images").await.status, 200);
}

fn servers_named(answer: &Answer, name: &str) -> usize {
    let answer = answer.json();
    let servers = answer["servers"].as_array().expect("a list");
    servers.iter().filter(|server| server["name"] == name).count()
}

fn new_server(name: &str) -> Value {
    json!({"server": {"name": name, "flavorRef": "1", "networks": "none"}})
}

// Promises 51, 52.
#[tokio::test(flavor = "multi_thread")]
async fn a_small_post_is_sent_exactly_twice_and_counts_once() {
    let cloud = cloud().await;
    let keyway = TestKeyway::in_front_of(&cloud).await;
    cloud.revoke_all();
    let created = keyway.post("/compute/servers", &new_server("twice")).await;
    created.passed_on(202);

    let body = new_server("twice").to_string().len() as u64;
    let seen = cloud.requests("compute");
    assert_eq!(statuses(&cloud, "compute"), [401, 202]);
    assert_eq!((seen[1].body_length, seen[1].body_complete), (body, true));
    assert_eq!(seen[1].headers["content-length"], body.to_string().as_str());
    assert_eq!(servers_named(&keyway.get("/compute/servers").await, "twice"), 1);
}

/// Uploads to a container that is there, with a token that the services do not know any more.
async fn with_a_revoked_token(
    trouble: Trouble,
    change: impl FnOnce(&mut keyway::config::Config),
) -> (Cloud, TestKeyway) {
    let cloud = cloud().await;
    let keyway = TestKeyway::with(&cloud, change).await;
    assert_eq!(keyway.put("/object-store/box", "").await.status, 201);
    cloud.revoke_all();
    cloud.set_trouble("object-store", trouble);
    (cloud, keyway)
}

/// What the object store saw of the uploads.
fn uploads(cloud: &Cloud) -> Vec<Seen> {
    cloud.requests("object-store").into_iter().filter(|seen| seen.target.ends_with("/box/object")).collect()
}

fn bytes(length: usize) -> Bytes {
    (0..length).map(|at| u8::try_from(at % 251).expect("small")).collect()
}

fn pieces(body: &Bytes) -> Vec<Bytes> {
    body.chunks(10_000).map(Bytes::copy_from_slice).collect()
}

/// The service has the object, whole, from one upload after a refused one.
async fn check_stored(cloud: &Cloud, keyway: &TestKeyway, answer: &Answer, body: &Bytes) {
    answer.passed_on(201);
    assert_eq!(answer.header("x-keyway-retry"), "");
    let seen = uploads(cloud);
    let statuses: Vec<_> = seen.iter().map(|seen| seen.status.map(|status| status.as_u16())).collect();
    assert_eq!(statuses, [Some(401), Some(201)]);
    assert_eq!((seen[1].body_length, seen[1].body_complete), (body.len() as u64, true));
    assert_eq!(keyway.get("/object-store/box/object").await.body, body);
    assert_eq!(cloud.tokens_issued(), 2);
}

// Promise 51.
#[tokio::test(flavor = "multi_thread")]
async fn a_request_without_a_body_is_sent_once_more() {
    let (cloud, keyway) = with_a_revoked_token(Trouble::default(), |_| {}).await;
    let answer = keyway.put("/object-store/box/object", "").await;
    check_stored(&cloud, &keyway, &answer, &Bytes::new()).await;
}

// Promises 51, 52.
#[tokio::test(flavor = "multi_thread")]
async fn a_small_body_is_sent_once_more() {
    for reads_before_refusing in [false, true] {
        let trouble = Trouble { reads_before_refusing, ..Trouble::default() };
        let (cloud, keyway) = with_a_revoked_token(trouble, |_| {}).await;
        let body = bytes(60_000);
        let answer = keyway.put("/object-store/box/object", body.clone()).await;
        check_stored(&cloud, &keyway, &answer, &body).await;
    }
}

// Promises 51, 52.
#[tokio::test(flavor = "multi_thread")]
async fn a_small_chunked_body_is_sent_once_more() {
    for reads_before_refusing in [false, true] {
        let trouble = Trouble { reads_before_refusing, ..Trouble::default() };
        let (cloud, keyway) = with_a_revoked_token(trouble, |_| {}).await;
        let body = bytes(60_000);
        let answer = keyway.put_chunked("/object-store/box/object", pieces(&body)).await;
        check_stored(&cloud, &keyway, &answer, &body).await;
    }
}

// Promise 52.
#[tokio::test(flavor = "multi_thread")]
async fn a_large_body_that_was_not_asked_for_yet_is_sent_once_and_whole() {
    let (cloud, keyway) = with_a_revoked_token(Trouble::default(), |_| {}).await;
    let body = bytes(LARGE);
    let answer = keyway.put("/object-store/box/object", body.clone()).await;
    check_stored(&cloud, &keyway, &answer, &body).await;
    // The service refused by the head alone.
    assert_eq!(uploads(&cloud)[0].body_length, 0);
}

// Promise 52.
#[tokio::test(flavor = "multi_thread")]
async fn a_large_chunked_body_that_was_not_asked_for_yet_is_sent_once_and_whole() {
    let (cloud, keyway) = with_a_revoked_token(Trouble::default(), |_| {}).await;
    let body = bytes(LARGE);
    let answer = keyway.put_chunked("/object-store/box/object", pieces(&body)).await;
    check_stored(&cloud, &keyway, &answer, &body).await;
    assert_eq!(uploads(&cloud)[0].body_length, 0);
}

// Promise 52.
#[tokio::test(flavor = "multi_thread")]
async fn a_large_body_that_is_gone_is_not_sent_again_in_part() {
    let trouble = || Trouble { reads_before_refusing: true, ..Trouble::default() };
    for chunked in [false, true] {
        let (cloud, keyway) = with_a_revoked_token(trouble(), |_| {}).await;
        let body = bytes(LARGE);
        let answer = match chunked {
            true => keyway.put_chunked("/object-store/box/object", pieces(&body)).await,
            false => keyway.put("/object-store/box/object", body.clone()).await,
        };
        answer.passed_on(401);
        assert_eq!(answer.header("x-keyway-retry"), "body_gone");
        assert_eq!(uploads(&cloud).len(), 1);
        let gone = r#"keyway_retries_total{cloud="demo",result="body_gone",service="object-store"}"#;
        assert_eq!(keyway.metric(gone).await, 1.0);

        // The next one has a new token.
        eventually("the new token", async || (cloud.tokens_issued() == 2).then_some(())).await;
        assert_eq!(keyway.put("/object-store/box/object", body.clone()).await.status, 201);
        assert_eq!(uploads(&cloud).len(), 2);
        assert_eq!(keyway.get("/object-store/box/object").await.body, body);
    }
}

// Promises 52, 60.
#[tokio::test(flavor = "multi_thread")]
async fn bodies_that_the_buffers_have_no_room_for_are_treated_as_large_ones() {
    let trouble = Trouble { reads_before_refusing: true, ..Trouble::default() };
    let (cloud, keyway) = with_a_revoked_token(trouble, |config| {
        // For both workers together.
        config.limits.replay_total = 20_000;
        config.limits.replay_buffer = 15_000;
    })
    .await;
    let answer = keyway.put("/object-store/box/object", bytes(14_000)).await;
    answer.passed_on(401);
    assert_eq!(answer.header("x-keyway-retry"), "body_gone");
    assert_eq!(uploads(&cloud).len(), 1);
}

/// An upload by a client that waits for `100 Continue`: what came before the body was sent, and the
/// rest. Without a 100 the body stays here.
async fn upload_expecting(keyway: &TestKeyway, path: &str, body: &[u8]) -> (String, String) {
    let mut stream = TcpStream::connect(keyway.listen()).await.expect("keyway listens");
    let head = format!(
        "PUT {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nExpect: 100-continue\r\n\
         Content-Length: {}\r\n\r\n",
        body.len()
    );
    bounded("the whole exchange", async {
        stream.write_all(head.as_bytes()).await.expect("keyway reads");
        let mut before = Vec::new();
        while !before.ends_with(b"\r\n\r\n") {
            before.push(stream.read_u8().await.expect("keyway answers"));
        }
        let before = String::from_utf8(before).expect("text");
        if before.starts_with("HTTP/1.1 100 ") {
            stream.write_all(body).await.expect("keyway reads");
        }
        let mut after = String::new();
        stream.read_to_string(&mut after).await.expect("a proper end");
        (before, after)
    })
    .await
}

// Promise 39.
#[tokio::test(flavor = "multi_thread")]
async fn a_client_may_wait_for_100_continue() {
    for size in [10, LARGE] {
        let cloud = cloud().await;
        let keyway = TestKeyway::in_front_of(&cloud).await;
        assert_eq!(keyway.put("/object-store/box", "").await.status, 201);
        let body = bytes(size);
        let (before, after) = upload_expecting(&keyway, "/object-store/box/object", &body).await;
        assert_eq!(before, "HTTP/1.1 100 Continue\r\n\r\n");
        assert!(after.starts_with("HTTP/1.1 201 "), "{after}");
        assert_eq!(keyway.get("/object-store/box/object").await.body, body);
        assert_eq!(uploads(&cloud).len(), 2);
    }
}

// Promises 39, 53.
#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_comes_instead_of_100_continue() {
    let cloud = cloud().await;
    let keyway = TestKeyway::in_front_of(&cloud).await;
    let (before, _) = upload_expecting(&keyway, "/object-store/missing/object", &bytes(LARGE)).await;
    assert!(before.starts_with("HTTP/1.1 404 "), "{before}");
}

// Promises 39, 51.
#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_waits_for_100_continue_does_not_notice_a_new_token() {
    for size in [10, LARGE] {
        let (cloud, keyway) = with_a_revoked_token(Trouble::default(), |_| {}).await;
        let body = bytes(size);
        let (before, after) = upload_expecting(&keyway, "/object-store/box/object", &body).await;
        assert_eq!(before, "HTTP/1.1 100 Continue\r\n\r\n");
        assert!(after.starts_with("HTTP/1.1 201 "), "{after}");
        assert_eq!(uploads(&cloud).iter().map(|seen| seen.body_length).collect::<Vec<_>>(), [0, size as u64]);
        assert_eq!(keyway.get("/object-store/box/object").await.body, body);
    }
}

// Promises 52, 68.
#[tokio::test(flavor = "multi_thread")]
async fn uploads_go_on_while_tokens_are_short_lived() {
    let cloud = cloud().await;
    cloud.set_token_ttl(Duration::from_secs(3));
    let keyway = TestKeyway::in_front_of(&cloud).await;
    assert_eq!(keyway.put("/object-store/box", "").await.status, 201);
    let body = bytes(LARGE);
    eventually("the third token", async || {
        assert_eq!(keyway.put("/object-store/box/object", body.clone()).await.status, 201);
        (cloud.tokens_issued() >= 3).then_some(())
    })
    .await;
    assert!(uploads(&cloud).iter().all(|seen| seen.body_complete && seen.token_was_good));
}

// Promise 52.
#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_was_not_used_for_long_is_checked_before_a_large_upload() {
    let cloud = cloud().await;
    let keyway = TestKeyway::with(&cloud, |config| config.timeouts.proof = Duration::from_millis(1)).await;
    assert_eq!(keyway.put("/object-store/box", "").await.status, 201);
    tokio::time::sleep(Duration::from_millis(10)).await;
    cloud.revoke_all();
    let trouble = Trouble { reads_before_refusing: true, ..Trouble::default() };
    cloud.set_trouble("object-store", trouble);
    let body = bytes(LARGE);
    let answer = keyway.put("/object-store/box/object", body.clone()).await;
    answer.passed_on(201);
    assert_eq!(uploads(&cloud).len(), 1);
    let checks = cloud.requests("identity").iter().filter(|seen| seen.method == Method::HEAD).count();
    assert_eq!((checks, cloud.tokens_issued()), (1, 2));
    assert_eq!(keyway.get("/object-store/box/object").await.body, body);
}
