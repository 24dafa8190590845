//! A service that stops in the middle of things is given up, a client that is slow is not.

use super::*;
use crate::support::raw::status;

// Promises 44, 57.
#[tokio::test]
async fn an_answer_that_stops_in_the_middle_is_cut_and_counted() {
    for framing in ["Content-Length: 100\r\n", "Transfer-Encoding: chunked\r\n", ""] {
        let (service, keyway) = start_impatient().await;
        let mut client = keyway.connect().await;
        client.send(GET).await;
        let mut server = service.accept().await;
        server.head().await;
        server.send(format!("HTTP/1.1 200 OK\r\n{framing}\r\n5\r\nfirst")).await;
        client.until("first").await;
        assert!(!looks_whole(&mut client).await, "{framing}");
        assert_eq!(server.rest().await, b"", "its connection is closed");
        assert_eq!(keyway.errors("upstream_timeout"), 1);
        // Only that one suffered.
        let mut other = keyway.connect().await;
        other.send(GET).await;
        service.answer(OK).await;
        assert_eq!(other.response().await.1, b"ok");
    }
}

// Promise 44.
#[tokio::test]
async fn an_answer_that_breaks_off_is_counted() {
    let (service, keyway) = start().await;
    let mut client = keyway.connect().await;
    client.send(GET).await;
    let (server, _) = service.answer("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nfirst").await;
    client.until("first").await;
    drop(server);
    assert!(!looks_whole(&mut client).await);
    assert_eq!(keyway.errors("upstream_broken"), 1);
}

// Promises 44, 57.
#[tokio::test]
async fn an_answer_that_stops_in_the_middle_of_a_stream_is_cut_and_counted() {
    let service = frames::Service::start().await;
    let keyway = Keyway::start_with(h2_cloud(&service), |config| {
        config.timeouts.response = Duration::from_secs(1);
    });
    let mut client = keyway.connect().await;
    client.send(GET).await;
    let mut server = service.accept().await;
    let stream = server.head().await;
    server.answer(stream, 200, &[], false).await;
    server.data(stream, b"first", false).await;
    client.until("first").await;
    // It answers pings meanwhile, so it is the stream that is given up.
    let watching = tokio::spawn(async move { while server.event().await != frames::Event::Reset(stream) {} });
    assert!(!looks_whole(&mut client).await);
    within("the reset", watching).await.expect("it came");
    assert_eq!(keyway.errors("upstream_timeout"), 1);
}

// Promise 57.
#[tokio::test]
async fn an_upload_that_the_service_stops_reading_is_a_504() {
    const LENGTH: usize = 64 * MIB;
    let (service, keyway) = start_impatient().await;
    let mut client = keyway.connect().await;
    client.send(put(LENGTH)).await;
    let mut server = service.accept().await;
    server.head().await;
    server.send("HTTP/1.1 100 Continue\r\n\r\n").await;
    // Sends until nobody takes it any more, and reads the answer meanwhile.
    let (mut reader, mut writer) = client.stream().split();
    let block = vec![0; MIB];
    let sending = async {
        use tokio::io::AsyncWriteExt as _;
        let mut sent = 0;
        for _ in 0..LENGTH / MIB {
            if writer.write_all(&block).await.is_err() {
                break;
            }
            sent += MIB;
        }
        sent
    };
    let reading = async {
        use tokio::io::AsyncReadExt as _;
        let mut answer = vec![0; 4096];
        let length = reader.read(&mut answer).await.expect("an answer");
        String::from_utf8_lossy(&answer[..length]).into_owned()
    };
    let (_, answer) = within("both", async { tokio::join!(sending, reading) }).await;
    assert!(answer.starts_with("HTTP/1.1 504 "), "{answer}");
    assert!(answer.contains("x-keyway-error: upstream_timeout"), "{answer}");
    assert_eq!(keyway.errors("upstream_timeout"), 1);
    // The service got part of it, and knows.
    assert!(server.rest().await.len() < LENGTH);
}

// Promise 57.
#[tokio::test]
async fn an_upload_whose_stream_gets_no_window_is_a_504() {
    let service = frames::Service::start().await;
    let keyway = Keyway::start_with(h2_cloud(&service), |config| {
        config.timeouts.response = Duration::from_secs(1);
    });
    let mut client = keyway.connect().await;
    client.send(put(MIB)).await;
    let mut server = service.accept().await;
    let stream = server.head().await;
    client.send(body(MIB)).await;
    let (head, _) = client.response().await;
    assert_eq!(status(&head), 504, "{head}");
    while server.event().await != frames::Event::Reset(stream) {}
    assert!(!server.is_whole(stream));
}

// Promises 54, 57.
#[tokio::test]
async fn a_client_that_reads_slowly_is_no_stalled_service() {
    const LENGTH: u64 = 32 * MIB as u64;
    let (service, keyway) = start_impatient().await;
    let pattern = Pattern::new();
    let mut client = keyway.connect().await;
    client.send(GET).await;
    let mut server = service.accept().await;
    server.head().await;
    server.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {LENGTH}\r\n\r\n")).await;
    client.head().await;
    let read = async {
        // Three times what the service may take.
        tokio::time::sleep(Duration::from_secs(3)).await;
        client.pattern(&pattern, LENGTH).await;
    };
    tokio::join!(read, pattern.send(server.stream(), 0, LENGTH));
    assert_eq!(keyway.errors("upstream_timeout"), 0);
}

// Promises 54, 57.
#[tokio::test]
async fn a_client_that_sends_slowly_is_no_stalled_service() {
    let (service, keyway) = start_impatient().await;
    let body = body(200_000);
    let mut client = keyway.connect().await;
    client.send(put(body.len())).await;
    client.send(&body[..100_000]).await;
    let mut server = service.accept().await;
    server.head().await;
    server.send("HTTP/1.1 100 Continue\r\n\r\n").await;
    server.take(100_000).await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    client.send(&body[100_000..]).await;
    assert!(server.take(100_000).await == body[100_000..]);
    server.send(OK).await;
    assert_eq!(status(&client.response().await.0), 200);
}

// Promise 54.
#[tokio::test]
async fn a_slow_answer_lasts_as_long_as_it_moves() {
    let (service, keyway) = start_impatient().await;
    let mut client = keyway.connect().await;
    client.send("GET /svc/events HTTP/1.1\r\nHost: localhost\r\nAccept: text/event-stream\r\n\r\n").await;
    let mut server = service.accept().await;
    server.head().await;
    server
        .send("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
        .await;
    client.head().await;
    for event in 0..8 {
        let event = format!("data: {event}\n\n");
        server.send(format!("{:x}\r\n{event}\r\n", event.len())).await;
        // Each one is there before the next one is sent.
        client.until(&event).await;
        tokio::time::sleep(Duration::from_millis(400)).await;
    }
    server.send("0\r\n\r\n").await;
    client.until("0\r\n\r\n").await;
}
