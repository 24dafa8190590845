//! Answers that nobody asked for: a server that gives up an idle connection, or says too much.

use super::*;
use crate::support::raw::{field, status};

const GIVES_UP: &str = "HTTP/1.1 408 Request Timeout\r\nContent-Length: 4\r\nConnection: close\r\n\r\nlate";

// Promises 45, 51.
#[tokio::test]
async fn a_408_that_waits_on_an_idle_connection_is_nobody_s_answer() {
    for request in [GET.to_owned(), format!("{}hi", post(2))] {
        let (service, keyway) = start().await;
        let (mut client, mut idle) = warm(&service, &keyway).await;
        idle.send(GIVES_UP).await;
        idle.finish().await;
        client.send(request).await;
        let mut server = service.accept().await;
        server.head().await;
        server.send(OK).await;
        assert_eq!(client.response().await.1, b"ok");
        assert_eq!(idle.rest().await, b"", "nothing was sent to it");
    }
}

// Promise 45.
#[tokio::test]
async fn an_answer_that_waits_on_an_idle_connection_is_nobody_s_answer() {
    let (service, keyway) = start().await;
    let (mut client, mut idle) = warm(&service, &keyway).await;
    for _ in 0..20 {
        idle.send("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil").await;
        client.send(GET).await;
        let (next, _) = service.answer(OK).await;
        assert_eq!(client.response().await.1, b"ok");
        assert_eq!(idle.rest().await, b"");
        idle = next;
    }
}

// Promises 45, 51.
#[tokio::test]
async fn a_408_that_crosses_a_get_is_no_answer_to_it() {
    let (service, keyway) = start().await;
    let (mut client, mut old) = warm(&service, &keyway).await;
    client.send(GET).await;
    old.head().await;
    old.send(GIVES_UP).await;
    let (_new, head) = service.answer(OK).await;
    assert!(head.starts_with("GET /v1/a "), "{head}");
    assert_eq!(client.response().await.1, b"ok");
    assert_eq!(old.rest().await, b"", "it is closed");
}

// Promises 45, 51.
#[tokio::test]
async fn a_408_that_crosses_a_post_is_a_502_since_nobody_knows() {
    let (service, keyway) = start().await;
    let (mut client, mut old) = warm(&service, &keyway).await;
    client.send(format!("{}hi", post(2))).await;
    old.head().await;
    old.take(2).await;
    old.send(GIVES_UP).await;
    let (head, _) = client.response().await;
    assert_eq!((status(&head), field(&head, "x-keyway-error")), (502, Some("upstream_broken")), "{head}");
    assert!(!service.has_connection().await);
}

// Promises 45, 51, 52.
#[tokio::test]
async fn a_408_that_crosses_the_head_of_an_upload_sends_all_of_it_elsewhere() {
    let (service, keyway) = start().await;
    let (mut client, mut old) = warm(&service, &keyway).await;
    let body = body(200_000);
    client.send(put(body.len())).await;
    client.send(&body).await;
    old.head().await;
    old.send(GIVES_UP).await;
    let mut new = service.accept().await;
    new.head().await;
    new.send("HTTP/1.1 100 Continue\r\n\r\n").await;
    assert!(new.take(body.len()).await == body);
    new.send(OK).await;
    assert_eq!(status(&client.response().await.0), 200);
    assert_eq!(old.rest().await, b"", "no body went to who gave up");
}

// Promises 50, 53.
#[tokio::test]
async fn a_408_to_a_request_that_was_read_is_its_answer() {
    // On a connection's first request.
    let (service, keyway) = start().await;
    let mut client = keyway.connect().await;
    client.send(GET).await;
    service.answer(GIVES_UP).await;
    let (head, text) = client.response().await;
    assert_eq!((status(&head), text.as_slice()), (408, &b"late"[..]));
    assert!(!service.has_connection().await);

    // From a server that keeps the connection.
    let (service, keyway) = start().await;
    let (mut client, mut server) = warm(&service, &keyway).await;
    client.send(GET).await;
    server.head().await;
    server.send("HTTP/1.1 408 Request Timeout\r\nContent-Length: 4\r\n\r\nlate").await;
    assert_eq!(status(&client.response().await.0), 408);

    // To an upload that it began to read.
    let (service, keyway) = start().await;
    let (mut client, mut server) = warm(&service, &keyway).await;
    let body = body(200_000);
    client.send(put(body.len())).await;
    client.send(&body[..100_000]).await;
    server.head().await;
    server.send("HTTP/1.1 100 Continue\r\n\r\n").await;
    server.take(100_000).await;
    server.send(GIVES_UP).await;
    assert_eq!(status(&client.response().await.0), 408);
    assert!(!service.has_connection().await);
}

// Promise 51.
#[tokio::test]
async fn connections_that_die_one_after_the_other_are_not_replaced_for_ever() {
    let (service, keyway) = start().await;
    let (mut client, mut first) = warm(&service, &keyway).await;
    client.send(GET).await;
    first.head().await;
    drop(first);
    let mut second = service.accept().await;
    second.head().await;
    second.send(GIVES_UP).await;
    // The second connection is new, so what it says is an answer.
    assert_eq!(status(&client.response().await.0), 408);
    assert!(!service.has_connection().await);
}

// Promises 38, 45.
#[tokio::test]
async fn a_body_where_none_may_be_reaches_nobody() {
    for (method, head) in [
        ("HEAD", "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n"),
        ("GET", "HTTP/1.1 204 No Content\r\nContent-Length: 4\r\n\r\n"),
        ("GET", "HTTP/1.1 204 No Content\r\nTransfer-Encoding: chunked\r\n\r\n"),
        ("GET", "HTTP/1.1 304 Not Modified\r\nContent-Length: 4\r\n\r\n"),
    ] {
        // At once, and once the connection is idle.
        for at_once in [true, false] {
            let (service, keyway) = start().await;
            let mut client = keyway.connect().await;
            client.send(format!("{method} /svc/a HTTP/1.1\r\nHost: localhost\r\n\r\n")).await;
            let evil = "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil";
            let mut server = service.accept().await;
            server.head().await;
            if at_once {
                server.send(format!("{head}{evil}")).await;
                client.head().await;
            } else {
                server.send(head).await;
                client.head().await;
                server.send(evil).await;
            }
            client.send(GET).await;
            service.answer(OK).await;
            let (next, body) = client.response().await;
            assert_eq!((status(&next), body.as_slice()), (200, &b"ok"[..]), "{method} {head}");
            assert_eq!(server.rest().await, b"");
        }
    }
}
