//! Services that speak HTTP/2, frame by frame.

use super::*;
use crate::support::frames::{CANCEL, Event, INTERNAL_ERROR, NO_ERROR, REFUSED_STREAM};
use crate::support::raw::{field, status};

// Promise 51.
#[tokio::test]
async fn a_post_that_the_service_refused_unprocessed_goes_once_more() {
    for (length, reads) in [(0, true), (5, true), (5, false)] {
        let (service, keyway) = start_h2().await;
        let mut client = keyway.connect().await;
        client.send(post(length)).await;
        client.send(body(length)).await;
        let mut server = service.accept().await;
        let first = if reads { server.request().await.0 } else { server.head().await };
        server.reset(first, REFUSED_STREAM).await;
        let (second, got) = server.request().await;
        assert_eq!(got, length);
        server.answer(second, 201, &[("content-length", "2")], false).await;
        server.data(second, b"ok", true).await;
        let (head, answer) = client.response().await;
        assert_eq!((status(&head), answer.as_slice()), (201, &b"ok"[..]));
        assert!(!service.has_connection().await);
    }
}

// Promise 51.
#[tokio::test]
async fn a_post_that_is_refused_twice_is_a_502() {
    let (service, keyway) = start_h2().await;
    let mut client = keyway.connect().await;
    client.send(format!("{}hello", post(5))).await;
    let mut server = service.accept().await;
    for _ in 0..2 {
        let (stream, _) = server.request().await;
        server.reset(stream, REFUSED_STREAM).await;
    }
    let (head, _) = client.response().await;
    assert_eq!((status(&head), field(&head, "x-keyway-error")), (502, Some("upstream_broken")), "{head}");
}

// Promise 51.
#[tokio::test]
async fn a_post_above_the_last_stream_of_a_goaway_goes_once_more() {
    let (service, keyway) = start_h2().await;
    let mut client = keyway.connect().await;
    client.send(format!("{}hello", post(5))).await;
    let mut first = service.accept().await;
    first.request().await;
    first.go_away(0, NO_ERROR).await;
    let mut second = service.accept().await;
    let (stream, got) = second.request().await;
    assert_eq!(got, 5);
    second.answer(stream, 204, &[], true).await;
    assert_eq!(status(&client.head().await), 204);
}

// Promise 51.
#[tokio::test]
async fn a_post_that_may_have_been_processed_never_goes_twice() {
    for code in [NO_ERROR, INTERNAL_ERROR, CANCEL] {
        let (service, keyway) = start_h2().await;
        let mut client = keyway.connect().await;
        client.send(format!("{}hello", post(5))).await;
        let mut server = service.accept().await;
        let (stream, _) = server.request().await;
        server.reset(stream, code).await;
        assert_eq!(status(&client.response().await.0), 502);
        assert!(!service.has_connection().await);
        // The connection is as good as before, and has nothing more of that request.
        client.send(GET).await;
        let (next, _) = server.request().await;
        assert_eq!(next, stream + 2);
    }
    // At or below the last stream of a GOAWAY.
    let (service, keyway) = start_h2().await;
    let mut client = keyway.connect().await;
    client.send(format!("{}hello", post(5))).await;
    let mut server = service.accept().await;
    let (stream, _) = server.request().await;
    server.go_away(stream, NO_ERROR).await;
    drop(server);
    assert_eq!(status(&client.response().await.0), 502);
    assert!(!service.has_connection().await);
}

// Promises 51, 52.
#[tokio::test]
async fn a_refused_upload_whose_start_is_gone_is_not_sent_in_part() {
    let (service, keyway) = start_h2().await;
    let mut client = keyway.connect().await;
    client.send(put(300_000)).await;
    client.send(body(200_000)).await;
    let mut server = service.accept().await;
    let (stream, mut got) = (server.head().await, 0);
    server.take_more(0, 1 << 20).await;
    server.take_more(stream, 1 << 20).await;
    while got < 200_000 {
        if let Event::Data(_, length) = server.event().await {
            got += length;
        }
    }
    server.reset(stream, REFUSED_STREAM).await;
    let (head, _) = client.response().await;
    assert_eq!(status(&head), 502, "{head}");
    assert!(!service.has_connection().await);
    assert!(!server.is_whole(stream));
}

// Promise 44.
#[tokio::test]
async fn a_stream_that_is_reset_amid_its_answer_is_cut_for_the_client_too() {
    for code in [NO_ERROR, INTERNAL_ERROR, CANCEL, REFUSED_STREAM] {
        for fields in [&[("content-length", "10")][..], &[]] {
            let (service, keyway) = start_h2().await;
            let mut client = keyway.connect().await;
            client.send(GET).await;
            let mut server = service.accept().await;
            let stream = server.head().await;
            server.answer(stream, 200, fields, false).await;
            server.data(stream, b"first", false).await;
            client.until("first").await;
            server.reset(stream, code).await;
            assert!(!looks_whole(&mut client).await, "{code} {fields:?}");
            assert_eq!(keyway.errors("upstream_broken"), 1);
        }
    }
}

// Promise 44.
#[tokio::test]
async fn a_connection_that_ends_amid_an_answer_cuts_it_for_the_client_too() {
    for says_so in [true, false] {
        let (service, keyway) = start_h2().await;
        let mut client = keyway.connect().await;
        client.send(GET).await;
        let mut server = service.accept().await;
        let stream = server.head().await;
        server.answer(stream, 200, &[], false).await;
        server.data(stream, b"first", false).await;
        client.until("first").await;
        if says_so {
            server.go_away(0, NO_ERROR).await;
        }
        drop(server);
        assert!(!looks_whole(&mut client).await);
    }
}

// Promise 53.
#[tokio::test]
async fn an_early_answer_that_ends_the_upload_reaches_the_client_whole() {
    let (service, keyway) = start_h2().await;
    let mut client = keyway.connect().await;
    client.send(put(300_000)).await;
    client.send(body(1000)).await;
    let mut server = service.accept().await;
    let stream = server.head().await;
    server.answer(stream, 413, &[("content-length", "3")], false).await;
    server.data(stream, b"too", true).await;
    // What RFC 9113, section 8.1 has a server say after an answer that needs no more of the request.
    server.reset(stream, NO_ERROR).await;
    let (head, answer) = client.response().await;
    assert_eq!((status(&head), answer.as_slice()), (413, &b"too"[..]));
    assert!(!server.is_whole(stream));
}

// Promise 36.
#[tokio::test]
async fn a_client_that_leaves_amid_an_upload_resets_the_stream() {
    for framing in ["Content-Length: 300000\r\n\r\nfirst", "Transfer-Encoding: chunked\r\n\r\n5\r\nfirst\r\n"]
    {
        let (service, keyway) = start_h2().await;
        let mut client = keyway.connect().await;
        client.send(format!("PUT /svc/o HTTP/1.1\r\nHost: localhost\r\n{framing}")).await;
        let mut server = service.accept().await;
        let stream = server.head().await;
        assert_eq!(server.event().await, Event::Data(stream, 5));
        drop(client);
        while server.event().await != Event::Reset(stream) {}
        assert!(!server.is_whole(stream), "{framing}");
    }
}

// Promise 39.
#[tokio::test]
async fn a_client_that_waits_for_100_gets_it_from_keyway() {
    let (service, keyway) = start_h2().await;
    let mut client = keyway.connect().await;
    client.send(put(5).replace("Host", "Expect: 100-continue\r\nHost")).await;
    let mut server = service.accept().await;
    let stream = server.head().await;
    assert_eq!(status(&client.head().await), 100);
    client.send("hello").await;
    assert_eq!(server.rest_of(stream).await, 5);
    server.answer(stream, 204, &[], true).await;
    assert_eq!(status(&client.head().await), 204);
}

// Promise 49.
#[tokio::test]
async fn the_head_of_an_answer_is_bounded() {
    let names: Vec<_> = (0..201).map(|at| format!("x-{at}")).collect();
    let many = |count: usize| names.iter().take(count).map(|name| (name.as_str(), "1")).collect::<Vec<_>>();
    let long = "a".repeat(16_000);
    let large = [("x-a", long.as_str()), ("x-b", &long), ("x-c", &long), ("x-d", &long), ("x-e", &long)];
    for (fields, expected) in [(many(200), 200), (many(201), 502), (large[..4].to_vec(), 200)] {
        let (service, keyway) = start_h2().await;
        let mut client = keyway.connect().await;
        client.send(GET).await;
        let mut server = service.accept().await;
        let stream = server.head().await;
        server.answer(stream, 200, &fields, true).await;
        assert_eq!(status(&client.head().await), expected, "{} fields", fields.len());
    }
    let (service, keyway) = start_h2().await;
    let mut client = keyway.connect().await;
    client.send(GET).await;
    let mut server = service.accept().await;
    let stream = server.head().await;
    server.answer(stream, 200, &large, true).await;
    let (head, _) = client.response().await;
    assert_eq!((status(&head), field(&head, "x-keyway-error")), (502, Some("upstream_broken")), "{head}");
}

// Promise 49.
#[tokio::test]
async fn an_endless_head_is_a_502() {
    let (service, keyway) = start_h2().await;
    let mut client = keyway.connect().await;
    client.send(GET).await;
    let mut server = service.accept().await;
    let stream = server.head().await;
    let endless = async {
        server.head_without_end(stream).await;
        std::future::pending::<()>().await;
    };
    let (head, _) = tokio::select! {
        answer = client.response() => answer,
        () = endless => unreachable!("it is endless"),
    };
    assert_eq!(status(&head), 502, "{head}");
}

// Promises 54, 58.
#[tokio::test]
async fn a_client_that_does_not_read_holds_up_nobody_else_on_the_same_connection() {
    let (service, keyway) = start_h2().await;
    let mut lazy = keyway.connect().await;
    lazy.send(GET).await;
    let mut server = service.accept().await;
    let stream = server.head().await;
    server.answer(stream, 200, &[], false).await;
    lazy.head().await;
    // As much as its stream's window takes.
    let block = [0; 16 * 1024];
    for _ in 0..64 {
        server.data(stream, &block, false).await;
    }
    for _ in 0..3 {
        let mut other = keyway.connect().await;
        other.send(GET).await;
        let stream = server.head().await;
        server.answer(stream, 200, &[("content-length", "32768")], false).await;
        server.data(stream, &block, false).await;
        server.data(stream, &block, true).await;
        assert_eq!(other.response().await.1.len(), 2 * block.len());
    }
    assert!(!service.has_connection().await);
}
