//! What keyway answers by itself, and what it refuses to pass on.

use std::time::Duration;

use http::Method;
use hyper_util::rt::{TokioExecutor, TokioIo};
use keyway::demo::{Cloud, Trouble};
use serde_json::json;
use tokio::net::TcpStream;

use crate::support::{Answer, TestKeyway, answering, bounded, cloud, eventually, request, slow, targets};

async fn start() -> (Cloud, TestKeyway) {
    let cloud = cloud().await;
    let keyway = TestKeyway::in_front_of(&cloud).await;
    (cloud, keyway)
}

impl TestKeyway {
    async fn ask(&self, line: &str) -> Answer {
        self.raw(format!("{line} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")).await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_path_without_a_service_says_what_to_ask_for() {
    let (_cloud, keyway) = start().await;
    let message = keyway.get("//").await.message(404, "no_route");
    assert!(message.contains("for example /compute/servers"), "{message}");
    let message = keyway.get("/cloud/demo").await.message(404, "no_route");
    assert!(message.contains("/{service}/"), "{message}");
    let message = keyway.get("/region//compute").await.message(404, "no_route");
    assert!(message.contains("write /region/{name}/{service}/..."), "{message}");
    let empty = keyway.get("//compute/servers").await;
    empty.message(404, "no_route");
    assert_eq!(empty.header("content-type"), "application/json");
    assert_eq!(empty.header("x-content-type-options"), "nosniff");
}

// Promises 41, 43.
#[tokio::test(flavor = "multi_thread")]
async fn no_spelling_of_a_dot_segment_leaves_the_services_base() {
    let (cloud, keyway) = start().await;
    for path in [
        "/compute/../identity",
        "/compute/..",
        "/compute/./servers",
        "/compute/servers/.",
        "/compute/%2e%2e/identity",
        "/compute/%2E%2e/identity",
        "/compute/.%2e/identity",
        "/compute/%2e/servers",
        "/compute/a%2f..%2fb",
        "/compute/a%2F%2e%2e%2Fb",
        "/compute/..%2fidentity",
        "/compute/%252e%252e/identity",
        "/compute/..;x=y/identity",
        "/compute/%2e%2e%3bx/identity",
        "/compute/..%5cidentity",
        "/compute/..\\identity",
        "/compute/a%00b",
        "/compute/a%2500b",
        "/../compute/servers",
        "/region/../compute/servers",
        "/compute/%c0%ae%c0%ae/identity",
        "/compute/%e0%80%ae%e0%80%ae/identity",
        "/compute/%f0%80%80%ae./identity",
        "/compute/..%c0%af",
        "/compute/%25c0%25ae%25c0%25ae/identity",
        "/compute/%u002e%u002e/identity",
        "/compute/%25u002e%25u002e/identity",
        "/compute/%%32e%%32e/identity",
        "/compute/%2e%2e%2fidentity",
        "/compute/;/../identity",
        "/compute//../../identity",
        "/compute/%5c..%5cidentity",
        "/%2e%2e/compute/servers",
        "/compute%2f..%2fidentity/users",
        "/cloud/..%2f/compute/servers",
        "/compute/\u{fc}",
        "/compute/servers?name=\u{fc}",
    ] {
        let answer = keyway.ask(&format!("GET {path}")).await;
        assert_eq!(answer.status, 400, "{path}: {answer:?}");
        if path.is_ascii() {
            answer.message(400, "bad_request");
        }
    }
    assert!(cloud.requests("compute").is_empty());
    assert_eq!(targets(&cloud, "identity"), ["/v3/auth/tokens"]);
}

// 56
#[tokio::test(flavor = "multi_thread")]
async fn a_target_of_16_kib_passes_and_one_byte_more_does_not() {
    let (cloud, keyway) = start().await;
    let path = "/compute/servers?name=";
    let longest = format!("{path}{}", "x".repeat(16_384 - path.len()));
    assert_eq!(keyway.ask(&format!("GET {longest}")).await.status, 200);
    let message = keyway.ask(&format!("GET {longest}x")).await.message(414, "target_too_long");
    assert!(message.contains("16384 bytes"), "{message}");
    // Far more than any limit: hyper says so by itself.
    assert_eq!(keyway.ask(&format!("GET {path}{}", "x".repeat(70_000))).await.status, 414);
    assert_eq!(cloud.requests("compute").len(), 1);
}

// 56
#[tokio::test(flavor = "multi_thread")]
async fn a_head_of_64_kib_passes_and_one_byte_more_does_not() {
    let (cloud, keyway) = start().await;
    let ask = async |filler: usize| {
        let head = "GET /compute/servers HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nX-Filler: ";
        keyway.raw(format!("{head}{}\r\n\r\n", "x".repeat(filler))).await
    };
    // Names, values, and four bytes for each field.
    let others = "Host: localhost\r\n".len() + "Connection: close\r\n".len() + "X-Filler: \r\n".len();
    assert_eq!(ask(65_536 - others).await.status, 200);
    let message = ask(65_536 - others + 1).await.message(431, "head_too_large");
    assert!(message.contains("65536 bytes"), "{message}");
    assert_eq!(ask(500_000).await.status, 431);
    assert_eq!(cloud.requests("compute").len(), 1);
}

// 56
#[tokio::test(flavor = "multi_thread")]
async fn more_than_200_fields_are_refused() {
    let (cloud, keyway) = start().await;
    let fields = "X-Field: 1\r\n".repeat(201);
    let answer =
        keyway.raw(format!("GET /compute/servers HTTP/1.1\r\nHost: localhost\r\n{fields}\r\n")).await;
    assert_eq!(answer.status, 431);
    assert!(cloud.requests("compute").is_empty());
}

// 34
// Promise 34.
#[tokio::test(flavor = "multi_thread")]
async fn connect_and_trace_are_refused() {
    let (cloud, keyway) = start().await;
    for line in ["CONNECT elsewhere.example:443", "TRACE /compute/servers", "CONNECT /compute/servers"] {
        let answer = keyway.ask(line).await;
        assert!(matches!(answer.status, 400 | 501), "{line}: {answer:?}");
    }
    keyway.ask("TRACE /compute/servers").await.message(501, "bad_method");
    assert!(cloud.requests("compute").is_empty());
}

// Promises 19, 33.
#[tokio::test(flavor = "multi_thread")]
async fn a_target_of_another_origin_is_refused() {
    let (cloud, keyway) = start().await;
    let elsewhere = cloud.url("image");
    for line in [
        format!("GET {elsewhere}/compute/servers"),
        "GET http://elsewhere.example/compute/servers".to_owned(),
        "GET https://localhost/compute/servers".to_owned(),
        "GET http://user@localhost/compute/servers".to_owned(),
        "OPTIONS *".to_owned(),
    ] {
        let answer = keyway.ask(&line).await;
        assert_eq!(answer.status, 400, "{line}: {answer:?}");
    }
    assert!(cloud.requests("compute").is_empty() && cloud.requests("image").is_empty());
    // RFC 9112, section 3.2.2: a server must take its own.
    assert_eq!(keyway.ask("GET http://localhost/compute/servers").await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn errors_of_head_requests_have_no_body() {
    let (_cloud, keyway) = start().await;
    let answer = keyway.send(request(Method::HEAD, "/dns/zones", &[], "")).await;
    assert_eq!((answer.status, answer.header("x-keyway-error")), (404, "no_service"));
    assert!(answer.body.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_that_is_down_is_a_502_until_it_is_back() {
    let (cloud, keyway) = start().await;
    assert_eq!(keyway.get("/compute/servers").await.status, 200);
    cloud.pause("compute").await;
    let message = keyway.get("/compute/servers").await.message(502, "upstream_connect");
    assert!(message.starts_with("the service can't be reached"), "{message}");
    assert_eq!(keyway.get("/image/images").await.status, 200);
    cloud.resume("compute").await;
    assert_eq!(keyway.get("/compute/servers").await.status, 200);
    assert_eq!(keyway.metric(r#"keyway_errors_total{reason="upstream_connect"}"#).await, 1.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_that_does_not_answer_in_time_is_a_504() {
    let cloud = cloud().await;
    let keyway = TestKeyway::with(&cloud, |config| config.timeouts.response = Duration::from_secs(1)).await;
    cloud.set_trouble("compute", slow(Duration::from_secs(3600)));
    let message = keyway.get("/compute/servers").await.message(504, "upstream_timeout");
    assert!(message.contains("look before repeating"), "{message}");
    assert_eq!(cloud.requests("compute").len(), 1);
}

// Promise 51.
#[tokio::test(flavor = "multi_thread")]
async fn a_service_that_dies_before_its_answer_is_a_502_and_a_post_goes_once() {
    let (cloud, keyway) = start().await;
    cloud.set_trouble("compute", slow(Duration::from_secs(3600)));
    let server = json!({"server": {}});
    let (answer, ()) = tokio::join!(keyway.post("/compute/servers", &server), async {
        eventually("the request", async || (!cloud.requests("compute").is_empty()).then_some(())).await;
        cloud.pause("compute").await;
        cloud.resume("compute").await;
    });
    answer.message(502, "upstream_broken");
    assert_eq!(cloud.requests("compute").len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_that_was_down_when_its_version_was_asked_for_is_asked_again() {
    let (cloud, keyway) = start().await;
    cloud.pause("image").await;
    keyway.get("/image/images").await.message(502, "upstream_connect");
    cloud.resume("image").await;
    eventually("the images", async || (keyway.get("/image/images").await.status == 200).then_some(())).await;

    let cloud = crate::support::cloud().await;
    let keyway = TestKeyway::in_front_of(&cloud).await;
    cloud.set_trouble("network", answering(503, &[], "not now"));
    keyway.get("/network/networks").await.passed_on(503);
    cloud.set_trouble("network", Trouble::default());
    eventually("the networks", async || (keyway.get("/network/networks").await.status == 200).then_some(()))
        .await;
}

// 58
#[tokio::test(flavor = "multi_thread")]
async fn more_requests_than_allowed_are_turned_away_and_the_others_served() {
    let cloud = cloud().await;
    let keyway = TestKeyway::with(&cloud, |config| {
        config.workers = 1;
        // Two requests, then.
        config.limits.max_connections = 1;
    })
    .await;
    cloud.set_trouble("compute", slow(Duration::from_secs(2)));
    let stream = TcpStream::connect(keyway.listen()).await.unwrap();
    let (sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let ask = || {
        let url = format!("http://{}/compute/servers", keyway.listen());
        let answer = sender.clone().send_request(request(Method::GET, &url, &[], ""));
        async move { bounded("an answer", answer).await.expect("keyway answers") }
    };
    let (one, two, more) = tokio::join!(ask(), ask(), async {
        eventually("both requests", async || (cloud.requests("compute").len() == 2).then_some(())).await;
        ask().await
    });
    assert_eq!([one.status(), two.status(), more.status()].map(|status| status.as_u16()), [200, 200, 503]);
    assert_eq!(more.headers()["x-keyway-error"], "overloaded");
    assert_eq!(more.headers()["retry-after"], "1");
    assert_eq!(ask().await.status(), 200);
}
