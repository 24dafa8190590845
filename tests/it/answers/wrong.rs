//! Answers that are broken, endless, early or cut, and how much of them keyway takes.

use tokio::io::AsyncWriteExt as _;

use super::*;
use crate::support::judge;
use crate::support::raw::{field, status};
use crate::support::tls::{Authority, Upstream as TlsUpstream, trusting};

/// A GET that the service answers with these bytes, then ends; all that the client got.
async fn answered_with(answer: &[u8]) -> String {
    let (service, keyway) = start().await;
    let mut client = keyway.connect().await;
    client.send("GET /svc/a HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").await;
    let mut server = service.accept().await;
    server.head().await;
    server.try_send(answer).await;
    server.try_finish().await;
    String::from_utf8_lossy(&client.rest().await).into_owned()
}

async fn check_broken(answer: &str) {
    let got = answered_with(answer.as_bytes()).await;
    let shown = &answer[..answer.len().min(100)];
    assert!(got.starts_with("HTTP/1.1 502 "), "{shown:?} became {got:?}");
    assert!(got.contains("x-keyway-error: upstream_broken\r\n"), "{shown:?} became {got:?}");
}

// Promises 48, 49.
#[tokio::test]
async fn a_head_passes_at_each_bound_and_not_one_past_it() {
    let fields = |count| format!("HTTP/1.1 204 No Content\r\n{}\r\n", "X-A: 1\r\n".repeat(count));
    assert!(answered_with(fields(200).as_bytes()).await.starts_with("HTTP/1.1 204 "));
    check_broken(&fields(201)).await;

    let sized = |size: usize| {
        let (start, end) = ("HTTP/1.1 204 No Content\r\nX-A: ", "\r\n\r\n");
        format!("{start}{}{end}", "a".repeat(size - start.len() - end.len()))
    };
    assert!(answered_with(sized(64 * 1024).as_bytes()).await.starts_with("HTTP/1.1 204 "));
    check_broken(&sized(64 * 1024 + 1)).await;

    let interim = |count| format!("{}{}", "HTTP/1.1 102 Processing\r\n\r\n".repeat(count), fields(0));
    assert!(answered_with(interim(16).as_bytes()).await.starts_with("HTTP/1.1 204 "));
    check_broken(&interim(17)).await;
    let large = sized(64 * 1024 + 1).replace("204 No Content", "103 Early Hints");
    check_broken(&format!("{large}{}", fields(0))).await;
}

// Promises 48, 49.
#[tokio::test]
async fn a_head_without_end_is_a_502_and_not_read_for_ever() {
    for (start, piece) in [
        ("", "\r\n"),
        ("HTTP/1.1 200 ", "a"),
        ("HTTP/1.1 200 OK\r\nX-A: ", "a"),
        ("HTTP/1.1 200 OK\r\n", "X-A: b\r\n"),
        ("", "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"),
        ("", "\0"),
    ] {
        let (service, keyway) = start_impatient().await;
        let mut client = keyway.connect().await;
        client.send(GET).await;
        let mut server = service.accept().await;
        server.head().await;
        server.try_send(start).await;
        let block = piece.repeat(64 * 1024 / piece.len());
        let mut sent = 0;
        while server.try_send(&block).await {
            sent += block.len();
            assert!(sent < 64 * MIB, "keyway goes on reading {piece:?}");
        }
        let (head, _) = client.response().await;
        assert_eq!((status(&head), field(&head, "x-keyway-error")), (502, Some("upstream_broken")), "{head}");
    }
}

// Promise 44.
#[tokio::test]
async fn what_could_be_read_in_two_ways_is_a_502() {
    for answer in [
        "HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\nok",
        "HTTP/1.1 200 OK\r\nContent-Length: 0x2\r\n\r\nok",
        "HTTP/1.1 200 OK\r\nContent-Length: 2 2\r\n\r\nok",
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 02, 3\r\n\r\nok",
        "HTTP/1.1 200 OK\r\nContent-Length : 2\r\n\r\nok",
        "HTTP/1.1 200 OK\r\nContent-Length: 2\0\r\n\r\nok",
        "HTTP/1.1 200 OK\r\n Content-Length: 2\r\n\r\nok",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked, chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked, identity\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: \r\n\r\n2\r\nok\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding:\x0bchunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        "HTTP/0.9 200 OK\r\n\r\nok",
        "HTTP/1.2 200 OK\r\nContent-Length: 2\r\n\r\nok",
        "HTTP/1.1 099 Odd\r\nContent-Length: 2\r\n\r\nok",
        "HTTP/1.1 -200 OK\r\nContent-Length: 2\r\n\r\nok",
        "<html>an answer of HTTP/0.9</html>",
        "SSH-2.0-OpenSSH_9.9\r\n",
        "\x16\x03\x01\x02\x00\x01\x00",
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n",
        "HTTP/1.1 101 Switching Protocols\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
    ] {
        check_broken(answer).await;
    }
}

// Promise 44.
#[tokio::test]
async fn chunks_that_break_the_rules_cut_the_answer() {
    let long = format!("5\r\nfirst\r\n5;{}\r\nagain\r\n0\r\n\r\n", "x".repeat(5000));
    let trailers = format!("5\r\nfirst\r\n0\r\n{}\r\n", "X-A: 1\r\n".repeat(65));
    let large = format!("5\r\nfirst\r\n0\r\nX-A: {}\r\n\r\n", "x".repeat(17_000));
    for body in [
        "5\r\nfirst\r\n5 \r\nagain\r\n0\r\n\r\n",
        "5\r\nfirst\r\n+5\r\nagain\r\n0\r\n\r\n",
        "5\r\nfirst\r\n\r\n0\r\n\r\n",
        "5\r\nfirst\n0\r\n\r\n",
        "5\r\nfirst\r\nffffffffffffffff0\r\nagain\r\n0\r\n\r\n",
        "5\r\nfirst\r\nfffffffffffffffff\r\nagain\r\n0\r\n\r\n",
        "5\r\nfirst\r\n4\r\nagain\r\n0\r\n\r\n",
        "5\r\nfirst\r\n0\r\n",
        "5\r\nfirst\r\n0\r\nX-A: 1\r\n",
        "5\r\nfirst\r\n0\r\nX-A : 1\r\n\r\n",
        "5\r\nfirst\r\n",
        &long,
        &trailers,
        &large,
    ] {
        let (service, keyway) = start().await;
        let mut client = keyway.connect().await;
        client.send(GET).await;
        let mut server = service.accept().await;
        server.head().await;
        server.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").await;
        client.head().await;
        server.try_send(body).await;
        server.try_finish().await;
        assert!(!looks_whole(&mut client).await, "{body:?}");
        assert_eq!(keyway.errors("upstream_broken"), 1, "{body:?}");
    }
}

// Promise 44.
#[tokio::test]
async fn a_reset_cuts_an_answer_that_would_have_ended_with_its_connection() {
    let (service, keyway) = start().await;
    let mut client = keyway.connect().await;
    client.send(GET).await;
    let (server, _) = service.answer("HTTP/1.1 200 OK\r\n\r\npart of it").await;
    client.until("part of it").await;
    server.reset();
    assert!(!looks_whole(&mut client).await);
}

// Promises 44, 55.
#[tokio::test]
async fn an_answer_cut_over_tls_is_cut_for_the_client_too() {
    let authority = Authority::new();
    let config = authority.server(&authority.issue("localhost"), &["http/1.1"], false);
    for (head, says_goodbye, whole) in [
        ("Content-Length: 100", false, false),
        ("Content-Length: 100", true, false),
        ("Transfer-Encoding: chunked", false, false),
        ("Transfer-Encoding: chunked", true, false),
        // Ends with its connection: only a goodbye tells the end from an attack.
        ("X-Framing: none", false, false),
        ("X-Framing: none", true, true),
    ] {
        let service = TlsUpstream::start(config.clone()).await;
        let tls = trusting(&authority.file());
        let keyway = Keyway::start(keystone::Config { tls, ..fixed_cloud(&service.url("localhost")) });
        let mut client = keyway.connect().await;
        client.send(GET).await;
        let mut server = service.accept().await;
        server.head().await;
        server.send(format!("HTTP/1.1 200 OK\r\n{head}\r\n\r\n5\r\nfirst\r\n")).await;
        client.until("first").await;
        if says_goodbye {
            server.stream().shutdown().await.expect("it is open");
        }
        drop(server);
        if whole {
            client.until("0\r\n\r\n").await;
        } else {
            assert!(!looks_whole(&mut client).await, "{head} {says_goodbye}");
        }
    }
}

// Promise 53.
#[tokio::test]
async fn an_answer_amid_an_upload_reaches_the_client_whole_whatever_the_service_does_then() {
    for code in ["413 Payload Too Large", "401 Unauthorized", "500 Internal Server Error", "200 OK"] {
        for closes in [true, false] {
            let (service, keyway) = start().await;
            let mut client = keyway.connect().await;
            let length = 16 * MIB;
            client.send(put(length)).await;
            let block = body(MIB);
            client.send(&block).await;
            let mut server = service.accept().await;
            server.head().await;
            server.send("HTTP/1.1 100 Continue\r\n\r\n").await;
            server.take(1000).await;
            // A service that closes loses what its system has not sent by then: so little, in one piece, goes at once.
            let why = body(if closes { 30_000 } else { 100_000 });
            let head = format!("HTTP/1.1 {code}\r\nContent-Length: {}\r\n\r\n", why.len());
            server.send([head.as_bytes(), &why].concat()).await;
            let sending = async {
                for _ in 1..16 {
                    // The client goes on for as long as it is let.
                    if client.stream().write_all(&block).await.is_err() {
                        break;
                    }
                }
            };
            if closes {
                drop(server);
                within("the upload", sending).await;
            } else {
                // It reads what it gets, to the end of its connection.
                within("both", async { tokio::join!(sending, server.rest()) }).await;
                assert!(judge::requests(server.seen()).is_empty());
            }
            let (head, got) = client.response().await;
            assert_eq!(format!("{}", status(&head)), code[..3]);
            assert!(got == why, "{code} {closes}");
            // The next request has a connection of its own, at both ends.
            client.send(GET).await;
            service.answer(OK).await;
            assert_eq!(client.response().await.1, b"ok");
        }
    }
}

// Promises 38, 53.
#[tokio::test]
async fn requests_behind_a_body_that_nobody_wanted_are_answered_in_turn() {
    let (service, keyway) = start().await;
    let mut client = keyway.connect().await;
    client.send(format!("{}{}", put(200_000), "GET /svc/evil HTTP/1.1\r\n\r\n".repeat(7692))).await;
    client.send(&"GET /svc/evil HTTP/1.1\r\n\r\n"[..8]).await;
    client.send(GET).await;
    let mut server = service.accept().await;
    server.head().await;
    server.send("HTTP/1.1 413 Payload Too Large\r\nContent-Length: 2\r\n\r\nno").await;
    assert_eq!(status(&client.response().await.0), 413);
    let (_next, head) = service.answer(OK).await;
    assert!(head.starts_with("GET /v1/a "), "{head}");
    assert_eq!(client.response().await.1, b"ok");
    assert_eq!(server.rest().await, b"", "nothing of the body went out");
}

// Promises 31, 36, 38.
#[tokio::test]
async fn pipelined_requests_and_bodies_where_none_are_usual_stay_apart() {
    let (service, keyway) = start().await;
    let mut client = keyway.connect().await;
    let host = "HTTP/1.1\r\nHost: localhost\r\n";
    client
        .send(format!(
            "GET /svc/1 {host}Content-Length: 5\r\n\r\nhello\
             DELETE /svc/2 {host}Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n\
             HEAD /svc/3 {host}Content-Length: 24\r\n\r\nGET /svc/evil HTTP/1.1\r\n\r\n\
             GET /svc/4 {host}\r\n"
        ))
        .await;
    let mut server = service.accept().await;
    for (line, body) in [("GET /v1/1 ", 5), ("DELETE /v1/2 ", 0), ("HEAD /v1/3 ", 26), ("GET /v1/4 ", 0)] {
        let head = server.head().await;
        assert!(head.starts_with(line), "{head}");
        if field(&head, "transfer-encoding").is_some() {
            assert_eq!(server.chunked().await.0, b"hello");
        } else {
            let length = field(&head, "content-length").map_or(0, |length| length.parse().expect("a number"));
            assert_eq!(length, if body == 26 { 24 } else { length });
            server.take(length).await;
        }
        let head_only = line.starts_with("HEAD");
        server
            .send(format!(
                "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}",
                if head_only { "" } else { "ok" }
            ))
            .await;
        assert_eq!(status(&client.head().await), 200);
        if !head_only {
            assert_eq!(client.take(2).await, b"ok");
        }
    }
    drop((client, keyway));
    server.closed().await;
    assert_eq!(judge::requests(server.seen()).len(), 4);
}

// Promises 31, 54.
#[tokio::test]
async fn a_body_in_drops_goes_up_in_larger_pieces_and_waits_for_nothing() {
    let (service, keyway) = start().await;
    let whole = body(300_000);
    let mut client = keyway.connect().await;
    client.send("PUT /svc/o HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n").await;
    let chunk = |drop: &[u8]| [format!("{:x}\r\n", drop.len()).as_bytes(), drop, b"\r\n"].concat();
    let drops: Vec<_> = whole.chunks(30).flat_map(chunk).collect();
    let serve = async {
        let mut server = service.accept().await;
        server.head().await;
        server.send("HTTP/1.1 100 Continue\r\n\r\n").await;
        let (mut got, mut chunks) = (Vec::new(), 0);
        // The client has not ended its body yet.
        while got.len() < whole.len() {
            let size = String::from_utf8(server.until("\r\n").await).expect("a size");
            got.extend(server.take(usize::from_str_radix(size.trim(), 16).expect("hex")).await);
            server.take(2).await;
            chunks += 1;
        }
        assert!(got == whole);
        assert!(chunks < 2000, "{chunks} chunks");
        server
    };
    let (mut server, ()) = tokio::join!(serve, client.send(drops));
    client.send("0\r\n\r\n").await;
    assert_eq!(server.until("\r\n\r\n").await, b"0\r\n\r\n");
    server.send(OK).await;
    assert_eq!(status(&client.response().await.0), 200);
}

// Promise 39.
#[tokio::test]
async fn an_expectation_that_nobody_knows_stays_behind() {
    for expect in ["200-maybe", "100-continue, x", ""] {
        let (service, keyway) = start().await;
        let mut client = keyway.connect().await;
        client
            .send(format!(
                "GET /svc/a HTTP/1.1\r\nHost: localhost\r\nExpect: {expect}\r\nConnection: close\r\n\r\n"
            ))
            .await;
        let (mut server, head) = tokio::select! {
            answered = service.answer(OK) => answered,
            (head, _) = client.response() => {
                assert_eq!(status(&head), 417, "{expect}");
                continue;
            }
        };
        assert_eq!(field(&head, "expect"), None, "{expect}");
        assert_eq!(status(&client.response().await.0), 200);
        drop((client, keyway));
        assert_eq!(server.rest().await, b"");
    }
}

// Promise 54.
#[tokio::test]
async fn what_a_client_does_not_read_is_left_to_the_service() {
    for framing in ["Content-Length: 10000000000", "Transfer-Encoding: chunked", "X-Framing: none"] {
        let (service, keyway) = start().await;
        // A client that takes little by itself, so that it is keyway's part that is measured.
        let socket = tokio::net::TcpSocket::new_v4().expect("a socket");
        socket.set_recv_buffer_size(16 * 1024).expect("a socket");
        let mut client = Peer::new(socket.connect(keyway.address()).await.expect("it listens"));
        client.send(GET).await;
        let mut server = service.accept().await;
        server.head().await;
        server.send(format!("HTTP/1.1 200 OK\r\n{framing}\r\n\r\n")).await;
        client.head().await;
        let chunk = [b"10000\r\n".to_vec(), vec![0; 0x10000], b"\r\n".to_vec()].concat();
        let mut pushed = 0;
        // What no buffer takes for half a second is held back.
        loop {
            let sending = server.stream().write(&chunk[pushed % chunk.len()..]);
            match tokio::time::timeout(Duration::from_millis(500), sending).await {
                Ok(Ok(length)) => pushed += length,
                Ok(Err(error)) => panic!("keyway closed the connection: {error}"),
                Err(_) => break,
            }
            assert!(pushed < 32 * MIB, "keyway took {pushed} bytes that nobody read");
        }
    }
}
