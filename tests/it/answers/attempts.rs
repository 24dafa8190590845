//! A 401 from a service: which requests go once more, and what the service sees of them.

use super::*;
use crate::support::frames::Event;
use crate::support::judge;
use crate::support::raw::{field, status};

const REFUSED: &str = "HTTP/1.1 401 Unauthorized\r\nContent-Length: 2\r\n\r\nno";
const CONTINUE: &str = "HTTP/1.1 100 Continue\r\n\r\n";
/// More than the replay buffer takes.
const LONG: usize = 200_000;

async fn start() -> (Upstream, Cloud, Keyway) {
    let service = Upstream::start().await;
    let cloud = with_keystone(&service.url()).await;
    let keyway = Keyway::start(cloud.keystone_config());
    (service, cloud, keyway)
}

fn head(method: &str, fields: &str) -> String {
    format!("{method} /object-store/a HTTP/1.1\r\nHost: localhost\r\n{fields}\r\n")
}

/// After the exchange: so many requests came, each whole one with this body, and nothing else.
async fn check_seen(mut servers: Vec<Peer>, keyway: Keyway, bodies: &[&[u8]]) {
    drop(keyway);
    let mut seen = Vec::new();
    for server in &mut servers {
        server.closed().await;
        seen.extend(judge::requests(server.seen()).into_iter().map(|request| request.body));
    }
    assert!(seen == bodies, "{} whole requests", seen.len());
}

// Promises 51, 52, 64, 68.
#[tokio::test]
async fn a_request_without_a_body_goes_once_more() {
    for method in ["GET", "HEAD", "DELETE", "POST", "PUT", "COPY"] {
        let (service, cloud, keyway) = start().await;
        let mut client = keyway.connect().await;
        client.send(head(method, "")).await;
        let mut server = service.accept().await;
        let first = server.head().await;
        let refused = if method == "HEAD" { REFUSED.trim_end_matches("no") } else { REFUSED };
        server.send(refused).await;
        let second = server.head().await;
        assert_ne!(field(&first, "x-auth-token"), field(&second, "x-auth-token"));
        server.send("HTTP/1.1 204 No Content\r\n\r\n").await;
        assert_eq!(status(&client.head().await), 204, "{method}");
        assert_eq!(cloud.tokens_issued(), 2);
        drop(client);
        check_seen(vec![server], keyway, &[b"", b""]).await;
    }
}

// Promises 51, 64.
#[tokio::test]
async fn a_second_401_goes_back_after_two_attempts() {
    let (service, cloud, keyway) = start().await;
    let mut client = keyway.connect().await;
    client.send(head("POST", "Content-Length: 5\r\n")).await;
    client.send("hello").await;
    let mut server = service.accept().await;
    for _ in 0..2 {
        server.head().await;
        assert_eq!(server.take(5).await, b"hello");
        server.send(REFUSED).await;
    }
    let (answer, text) = client.response().await;
    assert_eq!((status(&answer), text.as_slice()), (401, &b"no"[..]));
    assert_eq!(field(&answer, "x-keyway-retry"), None);
    assert_eq!(cloud.tokens_issued(), 2);
    drop(client);
    check_seen(vec![server], keyway, &[b"hello", b"hello"]).await;
}

// Promises 39, 51, 52.
#[tokio::test]
async fn a_body_that_is_still_unread_goes_once_when_it_is_asked_for() {
    for length in [5, LONG] {
        let (service, _cloud, keyway) = start().await;
        let body = body(length);
        let mut client = keyway.connect().await;
        client.send(head("POST", &format!("Content-Length: {length}\r\nExpect: 100-continue\r\n"))).await;
        let mut first = service.accept().await;
        assert_eq!(field(&first.head().await, "expect"), Some("100-continue"));
        first.send(REFUSED).await;
        // The body of the refused request never came, so its connection is not used again.
        let mut second = service.accept().await;
        second.head().await;
        second.send(CONTINUE).await;
        assert_eq!(status(&client.head().await), 100);
        client.send(&body).await;
        assert!(second.take(length).await == body);
        second.send(OK).await;
        assert_eq!(status(&client.response().await.0), 200);
        drop(client);
        check_seen(vec![first, second], keyway, &[&body]).await;
    }
}

// Promises 51, 52.
#[tokio::test]
async fn a_body_that_is_whole_in_the_buffer_goes_once_more() {
    for length in [1, 65_536] {
        for method in ["POST", "PUT", "PATCH"] {
            let (service, _cloud, keyway) = start().await;
            let body = body(length);
            let mut client = keyway.connect().await;
            client.send(head(method, &format!("Content-Length: {length}\r\n"))).await;
            client.send(&body).await;
            let mut server = service.accept().await;
            for answer in [REFUSED, OK] {
                assert_eq!(field(&server.head().await, "expect"), None);
                assert!(server.take(length).await == body);
                server.send(answer).await;
            }
            assert_eq!(status(&client.response().await.0), 200);
            drop(client);
            check_seen(vec![server], keyway, &[&body, &body]).await;
        }
    }
}

// Promises 51, 52.
#[tokio::test]
async fn a_longer_body_that_nobody_asked_for_goes_once_and_whole() {
    for chunked in [false, true] {
        let (service, _cloud, keyway) = start().await;
        let body = body(LONG);
        let framing = if chunked { "Transfer-Encoding: chunked\r\n" } else { "Content-Length: 200000\r\n" };
        let mut client = keyway.connect().await;
        client.send(head("POST", framing)).await;
        if chunked {
            client.send(format!("{LONG:x}\r\n")).await;
        }
        let mut first = service.accept().await;
        let (_, mut second) = tokio::join!(
            async {
                client.send(&body).await;
                client.send(if chunked { "\r\n0\r\n\r\n" } else { "" }).await;
            },
            async {
                assert_eq!(field(&first.head().await, "expect"), Some("100-continue"));
                first.send(REFUSED).await;
                let mut second = service.accept().await;
                second.head().await;
                second.send(CONTINUE).await;
                let got = if chunked { second.chunked().await.0 } else { second.take(LONG).await };
                assert!(got == body);
                second.send(OK).await;
                second
            }
        );
        assert_eq!(status(&client.response().await.0), 200);
        drop(client);
        assert_eq!(first.rest().await, b"", "no body went to who refused");
        second.try_finish().await;
        check_seen(vec![first, second], keyway, &[&body]).await;
    }
}

// Promises 51, 52.
#[tokio::test]
async fn a_longer_body_that_was_asked_for_is_never_sent_again() {
    for (whole, asks) in [(false, true), (true, true), (false, false), (true, false)] {
        let (service, cloud, keyway) = start().await;
        let body = body(LONG);
        let mut client = keyway.connect().await;
        client.send(head("POST", &format!("Content-Length: {LONG}\r\n"))).await;
        let sent = if whole { LONG } else { 100_000 };
        client.send(&body[..sent]).await;
        let mut server = service.accept().await;
        server.head().await;
        // Else it ignores Expect, and gets the body all the same.
        if asks {
            server.send(CONTINUE).await;
        }
        assert!(server.take(sent).await == body[..sent]);
        server.send(REFUSED).await;
        let (answer, text) = client.response().await;
        assert_eq!((status(&answer), text.as_slice()), (401, &b"no"[..]));
        assert_eq!(field(&answer, "x-keyway-retry"), Some("body_gone"));
        assert!(!service.has_connection().await);
        // The next request has a new token.
        crate::support::eventually("the new token", async || (cloud.tokens_issued() == 2).then_some(()))
            .await;
        drop(client);
        let bodies = [body.as_slice()];
        check_seen(vec![server], keyway, if whole { &bodies } else { &[] }).await;
    }
}

// Promises 51, 68.
#[tokio::test]
async fn a_connection_that_dies_and_a_401_after_it_cost_one_attempt_each() {
    let (service, _cloud, keyway) = start().await;
    let mut client = keyway.connect().await;
    client.send(head("GET", "")).await;
    let (mut old, _) = service.answer(OK).await;
    client.response().await;
    client.send(head("GET", "")).await;
    old.head().await;
    drop(old);
    let mut new = service.accept().await;
    new.head().await;
    new.send(REFUSED).await;
    new.head().await;
    // What dies now was tried often enough.
    drop(new);
    let (answer, _) = client.response().await;
    assert_eq!(field(&answer, "x-keyway-error"), Some("upstream_broken"), "{answer}");
    assert!(!service.has_connection().await);
}

mod over_http2 {
    use super::*;

    async fn start(proof: Duration) -> (frames::Service, Cloud, Keyway) {
        let service = frames::Service::start().await;
        let cloud = with_keystone(&service.url()).await;
        let config = keystone::Config { tls: service.trusted(), ..cloud.keystone_config() };
        let keyway = Keyway::start_with(config, |config| config.timeouts.proof = proof);
        (service, cloud, keyway)
    }

    const LONG_PROOF: Duration = Duration::from_secs(3600);

    // Promises 51, 52, 64, 68.
    #[tokio::test]
    async fn a_request_whose_body_is_whole_goes_once_more() {
        for length in [0, 5, 65_536] {
            let (service, cloud, keyway) = start(LONG_PROOF).await;
            let mut client = keyway.connect().await;
            client.send(head("POST", &format!("Content-Length: {length}\r\n"))).await;
            client.send(body(length)).await;
            let mut server = service.accept().await;
            server.take_more(0, 1 << 20).await;
            for code in [401, 204] {
                let stream = server.head().await;
                server.take_more(stream, 1 << 20).await;
                assert_eq!(server.rest_of(stream).await, length);
                server.answer(stream, code, &[], true).await;
            }
            assert_eq!(status(&client.head().await), 204);
            assert_eq!(cloud.tokens_issued(), 2);
            assert!(!service.has_connection().await);
        }
    }

    // Promises 51, 52.
    #[tokio::test]
    async fn a_longer_body_whose_start_is_still_here_goes_once_more_and_whole() {
        let (service, _cloud, keyway) = start(LONG_PROOF).await;
        let body = body(LONG);
        let mut client = keyway.connect().await;
        client.send(head("POST", &format!("Content-Length: {LONG}\r\n"))).await;
        client.send(&body[..1000]).await;
        let mut server = service.accept().await;
        server.take_more(0, 1 << 20).await;
        let first = server.head().await;
        assert_eq!(server.event().await, Event::Data(first, 1000));
        server.answer(first, 401, &[], true).await;
        let second = server.head().await;
        server.take_more(second, 1 << 20).await;
        client.send(&body[1000..]).await;
        assert_eq!(server.rest_of(second).await, LONG);
        assert!(!server.is_whole(first), "it was reset, not ended");
        server.answer(second, 204, &[], true).await;
        assert_eq!(status(&client.head().await), 204);
    }

    // Promises 51, 52.
    #[tokio::test]
    async fn a_longer_body_whose_start_is_gone_is_never_sent_again() {
        for whole in [false, true] {
            let (service, cloud, keyway) = start(LONG_PROOF).await;
            let body = body(LONG);
            let sent = if whole { LONG } else { 100_000 };
            let mut client = keyway.connect().await;
            client.send(head("POST", &format!("Content-Length: {LONG}\r\n"))).await;
            client.send(&body[..sent]).await;
            let mut server = service.accept().await;
            server.take_more(0, 1 << 20).await;
            let stream = server.head().await;
            server.take_more(stream, 1 << 20).await;
            let mut got = 0;
            while got < sent {
                if let Event::Data(_, length) = server.event().await {
                    got += length;
                }
            }
            server.answer(stream, 401, &[("content-length", "2")], false).await;
            server.data(stream, b"no", true).await;
            let (answer, text) = client.response().await;
            assert_eq!((status(&answer), text.as_slice()), (401, &b"no"[..]));
            assert_eq!(field(&answer, "x-keyway-retry"), Some("body_gone"));
            crate::support::eventually("the new token", async || (cloud.tokens_issued() == 2).then_some(()))
                .await;
            // Nothing more of it came: the next stream is another request's.
            client.send(head("GET", "")).await;
            drop(keyway.connect().await);
            assert!(!service.has_connection().await);
        }
    }

    // Promises 51, 52.
    #[tokio::test]
    async fn a_token_that_was_not_proved_is_checked_before_a_longer_body_goes_out() {
        let (service, cloud, keyway) = start(Duration::from_millis(1)).await;
        let mut client = keyway.connect().await;
        // The token that keyway has now is good nowhere any more.
        client.send(head("GET", "")).await;
        let mut server = service.accept().await;
        let stream = server.head().await;
        server.answer(stream, 204, &[], true).await;
        client.head().await;
        tokio::time::sleep(Duration::from_millis(10)).await;
        cloud.revoke_all();
        client.send(head("POST", &format!("Content-Length: {LONG}\r\n"))).await;
        let stream = server.head().await;
        assert_eq!(cloud.tokens_issued(), 2, "it was replaced before");
        server.take_more(0, 1 << 20).await;
        server.take_more(stream, 1 << 20).await;
        client.send(body(LONG)).await;
        assert_eq!(server.rest_of(stream).await, LONG);
        server.answer(stream, 204, &[], true).await;
        assert_eq!(status(&client.head().await), 204);
    }
}
