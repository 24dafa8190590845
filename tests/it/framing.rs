//! Hostile requests, judged by what reached the service: every reader must see the same requests
//! there, and none that the client hid in another.

use std::time::Duration;

use crate::support::direct::{Keyway, TOKEN, fixed_cloud};
use crate::support::raw::{Reading, Recorder, Upstream, field, status};

const HIDDEN: &str = "GET /svc/hidden HTTP/1.1\r\nHost: localhost\r\n\r\n";

/// What became of some bytes: the client's answers, and the requests that the service saw.
struct Outcome {
    answers: Vec<u16>,
    requests: Vec<(String, Vec<u8>)>,
    heads: String,
}

/// Sends bytes and reads until keyway closes, or has answered and the client closes its side.
async fn outcome(bytes: &[u8]) -> Outcome {
    let service = Recorder::start().await;
    let keyway = Keyway::start(fixed_cloud(&service.url()));
    let mut client = keyway.connect().await;
    client.try_send(bytes).await;
    // What follows on the same connection is a request only if keyway thinks so.
    client.try_send("GET /svc/last HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").await;
    // Not every attack leaves keyway with a whole request: then it waits for more, and this ends it.
    if tokio::time::timeout(Duration::from_millis(300), client.closed()).await.is_err() {
        client.try_finish().await;
    }
    client.closed().await;
    let got = String::from_utf8_lossy(client.seen()).into_owned();
    let answers =
        got.split("HTTP/1.1 ").skip(1).map(|answer| answer[..3].parse().expect("a status")).collect();
    // Whatever was sent before this has arrived when this is answered.
    let mut client = keyway.connect().await;
    client.send("GET /svc/end HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
    assert_eq!(status(&client.response().await.0), 200, "keyway serves on");
    let connections = service.connections();
    let requests: Vec<_> =
        connections.iter().flat_map(|connection| Reading::STRICT.requests(connection)).collect();
    for connection in &connections {
        let text = String::from_utf8_lossy(connection);
        let strict = Reading::STRICT.requests(connection);
        for reading in Reading::ALL {
            assert_eq!(reading.requests(connection), strict, "{reading:?} reads otherwise: {text}");
        }
        for (request, _) in &strict {
            assert!(!request.contains("hidden"), "a hidden request arrived: {text}");
        }
        let tokens = text.matches("x-auth-token: ").count();
        assert_eq!(tokens, text.matches(" HTTP/1.1\r\nhost: ").count(), "one token per request: {text}");
        assert_eq!(tokens, text.matches(&format!("x-auth-token: {TOKEN}\r\n")).count(), "{text}");
    }
    let heads = connections.iter().map(|c| String::from_utf8_lossy(c).into_owned()).collect();
    Outcome { answers, requests, heads }
}

/// The request is refused: 400, 501 or the like, or a cut; nothing of it reached the service.
#[track_caller]
fn check_refused(case: &str, outcome: &Outcome) {
    assert!(
        outcome.answers.first().is_none_or(|code| (400..600).contains(code)),
        "{case:?}: {:?}",
        outcome.answers
    );
    let arrived = outcome.requests.iter().any(|(request, _)| request.contains("/v1/a "));
    assert!(!arrived, "{case:?} arrived: {:?}", outcome.requests);
}

#[tokio::test]
async fn a_body_framed_in_two_ways_hides_nothing() {
    for case in [
        format!(
            "POST /svc/a HTTP/1.1\r\nHost: localhost\r\nContent-Length: {}\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n{HIDDEN}",
            5 + HIDDEN.len()
        ),
        format!(
            "POST /svc/a HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\nContent-Length: {}\r\n\r\n0\r\n\r\n{HIDDEN}",
            5 + HIDDEN.len()
        ),
        format!(
            "POST /svc/a HTTP/1.1\r\nHost: localhost\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n{:x}\r\n{HIDDEN}\r\n0\r\n\r\n",
            HIDDEN.len()
        ),
    ] {
        let outcome = outcome(case.as_bytes()).await;
        let last = outcome.requests.iter().any(|(request, _)| request.contains("/last"));
        assert!(!last, "the connection ends with such a request: {case:?}");
    }
}

#[tokio::test]
async fn a_length_that_is_not_one_number_is_refused() {
    for length in [
        "+5",
        "-5",
        "0x5",
        "5,5",
        "5, 5",
        "5 5",
        "",
        "5;",
        "18446744073709551621",
        "99999999999999999999",
        "５",
        "5\t6",
    ] {
        let case =
            format!("POST /svc/a HTTP/1.1\r\nHost: localhost\r\nContent-Length: {length}\r\n\r\nhello");
        check_refused(&case, &outcome(case.as_bytes()).await);
    }
    let case =
        "POST /svc/a HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello!";
    check_refused(case, &outcome(case.as_bytes()).await);
}

#[tokio::test]
async fn a_length_that_is_repeated_leaves_once_or_not_at_all() {
    let case =
        "POST /svc/a HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\nhello";
    let outcome = outcome(case.as_bytes()).await;
    assert!(outcome.heads.matches("content-length").count() <= 1, "{}", outcome.heads);
}

#[tokio::test]
async fn a_coding_other_than_one_chunked_is_refused() {
    for coding in [
        "Transfer-Encoding: gzip, chunked",
        "Transfer-Encoding: chunked, chunked",
        "Transfer-Encoding: chunked, identity",
        "Transfer-Encoding: identity",
        "Transfer-Encoding: identity, chunked",
        "Transfer-Encoding: xchunked",
        "Transfer-Encoding: chunked;a=b",
        "Transfer-Encoding: \"chunked\"",
        "Transfer-Encoding: \x0bchunked",
        "Transfer-Encoding: ",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity",
        "Transfer-Encoding: cow\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding:\r\n chunked",
        "Transfer-Encoding : chunked",
    ] {
        let case =
            format!("POST /svc/a HTTP/1.1\r\nHost: localhost\r\n{coding}\r\n\r\n5\r\nhello\r\n0\r\n\r\n");
        check_refused(&case, &outcome(case.as_bytes()).await);
    }
    let case = "POST /svc/a HTTP/1.0\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n";
    check_refused(case, &outcome(case.as_bytes()).await);
}

#[tokio::test]
async fn broken_chunks_never_become_a_whole_request() {
    for body in [
        "+5\r\nhello\r\n0\r\n\r\n",
        "0x5\r\nhello\r\n0\r\n\r\n",
        "-5\r\nhello\r\n0\r\n\r\n",
        "5_\r\nhello\r\n0\r\n\r\n",
        "\r\n5\r\nhello\r\n0\r\n\r\n",
        "10000000000000005\r\nhello\r\n0\r\n\r\n",
        "fffffffffffffffffff\r\nhello\r\n0\r\n\r\n",
        "5\nhello\r\n0\r\n\r\n",
        "5\rhello\r\n0\r\n\r\n",
        "5\r\nhelloXX0\r\n\r\n",
        "5\r\nhello\n0\r\n\r\n",
        "5\r\nhello0\r\n\r\n",
        "5;a\nb\r\nhello\r\n0\r\n\r\n",
        "g\r\nhello\r\n0\r\n\r\n",
        "5\r\nhello\r\n",
        "5\r\nhel",
    ] {
        let case =
            format!("POST /svc/a HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n{body}");
        let outcome = outcome(case.as_bytes()).await;
        let arrived = outcome.requests.iter().any(|(request, _)| request.contains("/v1/a "));
        assert!(!arrived, "{body:?} arrived: {}", outcome.heads);
    }
}

#[tokio::test]
async fn extensions_of_chunks_are_dropped() {
    let case = "POST /svc/a HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n5;a=\"b\"\r\nhello\r\n0;c\r\n\r\n";
    let outcome = outcome(case.as_bytes()).await;
    assert_eq!(outcome.requests[0], ("POST /v1/a HTTP/1.1".to_owned(), b"hello".to_vec()));
    assert!(!outcome.heads.contains(';'), "{}", outcome.heads);
    assert_eq!(outcome.answers, [200, 200]);
}

#[tokio::test]
async fn malformed_heads_are_refused() {
    for case in [
        "GET /svc/a HTTP/1.1\r\nHost: localhost\r\nX-A: a\rb\r\n\r\n",
        "GET /svc/a HTTP/1.1\r\nHost: localhost\r\nX-A: a\0b\r\n\r\n",
        "GET /svc/a HTTP/1.1\r\nHost: localhost\r\nX-A: a\r\n folded\r\n\r\n",
        "GET /svc/a HTTP/1.1\r\nHost: localhost\r\nX-A : a\r\n\r\n",
        "GET /svc/a HTTP/1.1\r\nHost: localhost\r\n: a\r\n\r\n",
        "GET /svc/a HTTP/1.1\r\nHost: localhost\r\nX A: a\r\n\r\n",
        "GET /svc/a HTTP/1.1\r\nHost: localhost\r\nX-A\r\n\r\n",
        "GET /svc/a HTTP/1.1\r\n X-A: a\r\nHost: localhost\r\n\r\n",
        "GET /svc/a HTTP/1.1\r\nHost: localhost\r\nX-\u{e9}: a\r\n\r\n",
        "GET /svc/a HTTP/1.2\r\nHost: localhost\r\n\r\n",
        "GET /svc/a HTTP/2.0\r\nHost: localhost\r\n\r\n",
        "GET /svc/a\r\n\r\n",
        "GET /svc/a b HTTP/1.1\r\nHost: localhost\r\n\r\n",
        "G ET /svc/a HTTP/1.1\r\nHost: localhost\r\n\r\n",
        "GET /svc/a\0 HTTP/1.1\r\nHost: localhost\r\n\r\n",
        "GET http://elsewhere/svc/a HTTP/1.1\r\nHost: localhost\r\n\r\n",
        "GET elsewhere:80 HTTP/1.1\r\nHost: localhost\r\n\r\n",
        "CONNECT /svc/a HTTP/1.1\r\nHost: localhost\r\n\r\n",
        "CONNECT elsewhere:80 HTTP/1.1\r\nHost: localhost\r\n\r\n",
        "TRACE /svc/a HTTP/1.1\r\nHost: localhost\r\n\r\n",
    ] {
        check_refused(case, &outcome(case.as_bytes()).await);
    }
}

#[tokio::test]
async fn line_ends_are_repaired_or_refused() {
    for case in [
        "GET /svc/a HTTP/1.1\nHost: localhost\nX-A: 1\n\n",
        "GET /svc/a HTTP/1.1\r\nHost: localhost\nX-A: 1\r\n\n",
        "\r\n\r\nGET /svc/a HTTP/1.1\r\nHost: localhost\r\n\r\n",
        "POST /svc/a HTTP/1.1\nHost: localhost\nTransfer-Encoding: chunked\n\n5\r\nhello\r\n0\r\n\r\n",
    ] {
        // That every reader sees the same requests is checked there.
        outcome(case.as_bytes()).await;
    }
}

#[tokio::test]
async fn names_that_wsgi_would_fold_onto_framing_or_credentials_stay_behind() {
    let case = "POST /svc/a HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\nContent_Length: 99\r\nTransfer_Encoding: chunked\r\n\
                Transfer-encoding_: chunked\r\nX_Auth_Token: mine\r\nX-Auth_Token: mine\r\nX_Identity-Status: Confirmed\r\n\
                x_service_token: mine\r\nX-Object_Meta: kept\r\n\r\nhello";
    let outcome = outcome(case.as_bytes()).await;
    assert_eq!(outcome.requests[0], ("POST /v1/a HTTP/1.1".to_owned(), b"hello".to_vec()));
    let heads = outcome.heads.to_ascii_lowercase();
    for gone in ["content_length", "transfer_encoding", "auth_token", "identity-status", "service_token"] {
        assert!(!heads.contains(gone), "{gone} in {heads}");
    }
    assert!(heads.contains("x-object_meta: kept\r\n"), "{heads}");
}

#[tokio::test]
async fn naming_framing_routing_or_the_token_in_connection_has_no_effect() {
    let case = "POST /svc/a HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\nX-Auth-Token: mine\r\nX-Hop: 1\r\n\
                Connection: content-length, x-auth-token, host, transfer-encoding, x-hop\r\n\r\nhello";
    let outcome = outcome(case.as_bytes()).await;
    assert_eq!(outcome.requests[0], ("POST /v1/a HTTP/1.1".to_owned(), b"hello".to_vec()));
    assert_eq!(outcome.answers[0], 200);
    let head = outcome.heads.split("hello").next().unwrap();
    assert_eq!(field(head, "content-length"), Some("5"));
    assert!(field(head, "host").is_some() && field(head, "x-hop").is_none(), "{head}");
}

#[tokio::test]
async fn pipelined_requests_are_answered_in_order() {
    let service = Upstream::start().await;
    let keyway = Keyway::before(&service);
    let mut client = keyway.connect().await;
    client
        .send(
            "POST /svc/1 HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\n\r\nfirst\
             GET /svc/2 HTTP/1.1\r\nHost: localhost\r\n\r\nGET /svc/3 HTTP/1.1\r\nHost: localhost\r\n\r\n",
        )
        .await;
    let mut server = service.accept().await;
    for (request, body) in [("POST /v1/1 ", "first"), ("GET /v1/2 ", ""), ("GET /v1/3 ", "")] {
        let head = server.head().await;
        assert!(head.starts_with(request), "{head}");
        assert_eq!(server.take(body.len()).await, body.as_bytes());
        server.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{request}", request.len())).await;
    }
    for request in ["POST /v1/1 ", "GET /v1/2 ", "GET /v1/3 "] {
        assert_eq!(client.response().await.1, request.as_bytes());
    }
}

#[tokio::test]
async fn bodies_of_methods_that_have_none_pass_and_hide_nothing() {
    for method in ["GET", "DELETE", "HEAD", "OPTIONS"] {
        let case = format!(
            "{method} /svc/a HTTP/1.1\r\nHost: localhost\r\nContent-Length: {}\r\n\r\n{HIDDEN}",
            HIDDEN.len()
        );
        let service = Upstream::start().await;
        let keyway = Keyway::before(&service);
        let mut client = keyway.connect().await;
        client.send(case).await;
        let mut server = service.accept().await;
        let head = server.head().await;
        assert_eq!(field(&head, "content-length"), Some(HIDDEN.len().to_string().as_str()));
        assert_eq!(server.take(HIDDEN.len()).await, HIDDEN.as_bytes());
        server.send("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await;
        assert_eq!(status(&client.head().await), 200);
        drop((client, keyway));
        assert_eq!(server.rest().await, b"");
    }
}

#[tokio::test]
async fn heads_over_the_limits_are_refused_by_name() {
    let service = Recorder::start().await;
    let keyway = Keyway::start(fixed_cloud(&service.url()));
    let long = "a".repeat(20_000);
    let many = "X-A: 1\r\n".repeat(300);
    for (case, code) in [
        (format!("GET /svc/{long} HTTP/1.1\r\nHost: localhost\r\n\r\n"), 414),
        (format!("GET /svc/a HTTP/1.1\r\nHost: localhost\r\nX-A: {}\r\n\r\n", long.repeat(4)), 431),
        (format!("GET /svc/a HTTP/1.1\r\nHost: localhost\r\nX-A: {}\r\n\r\n", long.repeat(40)), 431),
        (format!("GET /svc/a HTTP/1.1\r\nHost: localhost\r\n{many}\r\n"), 431),
    ] {
        let mut client = keyway.connect().await;
        client.try_send(case).await;
        assert_eq!(status(&client.head().await), code);
    }
    assert!(service.connections().is_empty());
}
