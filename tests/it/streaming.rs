//! Bodies and connections between keyway and a service, byte by byte.

use keyway::demo::{self, Cloud};

use crate::support::direct::{Keyway, TOKEN, point};
use crate::support::judge;
use crate::support::raw::{Pattern, Peer, Upstream, field, resident, status, within};

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
const GET: &str = "GET /svc/a HTTP/1.1\r\nHost: localhost\r\n\r\n";
const MIB: u64 = 1 << 20;

async fn start() -> (Upstream, Keyway) {
    let service = Upstream::start().await;
    let keyway = Keyway::before(&service);
    (service, keyway)
}

/// The head of a request whose body is too large for the replay buffer, and its body.
fn large_put(length: usize) -> (String, Vec<u8>) {
    let head = format!("PUT /svc/box/o HTTP/1.1\r\nHost: localhost\r\nContent-Length: {length}\r\n\r\n");
    (head, Pattern::new().start(length))
}

/// A GET through keyway that the service answers with these bytes, and what the client got: all
/// until the end of its connection.
async fn answered_with(answer: &[u8]) -> String {
    let (service, keyway) = start().await;
    let mut client = keyway.connect().await;
    client.send("GET /svc/a HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").await;
    let mut server = service.accept().await;
    server.head().await;
    server.try_send(answer).await;
    server.finish().await;
    String::from_utf8_lossy(&client.rest().await).into_owned()
}

mod requests {
    use super::*;

    // Promises 20, 24, 31, 32, 35.
    #[tokio::test]
    async fn a_get_leaves_as_one_plain_request_with_one_token() {
        let (service, keyway) = start().await;
        let mut client = keyway.connect().await;
        client
            .send(
                "GET /svc/servers?limit=1 HTTP/1.1\r\nHost: localhost\r\nUser-Agent: curl/8\r\nX-Auth-Token: mine\r\n\
                 Accept: */*\r\nConnection: keep-alive, x-hop\r\nX-Hop: 1\r\nKeep-Alive: timeout=5\r\n\
                 Proxy-Connection: keep-alive\r\nTE: trailers\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n\r\n",
            )
            .await;
        let (mut server, head) = service.answer(OK).await;
        let expected = format!(
            "GET /v1/servers?limit=1 HTTP/1.1\r\nhost: {}\r\nuser-agent: curl/8\r\naccept: */*\r\nx-auth-token: {TOKEN}\r\n\r\n",
            service.authority()
        );
        assert_eq!(head, expected);
        assert_eq!(status(&client.response().await.0), 200);
        drop((client, keyway));
        assert_eq!(server.rest().await, b"");
        assert_eq!(judge::signed(server.seen(), TOKEN).len(), 1);
    }

    #[tokio::test]
    async fn a_body_with_a_length_keeps_it() {
        let (service, keyway) = start().await;
        let mut client = keyway.connect().await;
        client.send("POST /svc/a HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\n\r\nhello").await;
        let mut server = service.accept().await;
        let head = server.head().await;
        assert_eq!(field(&head, "content-length"), Some("5"));
        assert_eq!(field(&head, "transfer-encoding"), None);
        assert_eq!(server.take(5).await, b"hello");
        server.send(OK).await;
        assert_eq!(status(&client.response().await.0), 200);
    }

    #[tokio::test]
    async fn an_empty_post_says_so_and_an_empty_get_says_nothing() {
        let (service, keyway) = start().await;
        let mut client = keyway.connect().await;
        client.send("POST /svc/a HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
        let (mut server, head) = service.answer(OK).await;
        assert_eq!(field(&head, "content-length"), Some("0"));
        client.response().await;
        client.send(GET).await;
        assert_eq!(field(&server.head().await, "content-length"), None);
        server.send(OK).await;
        client.response().await;
        client.send("DELETE /svc/a HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n").await;
        assert_eq!(field(&server.head().await, "content-length"), Some("0"));
        server.send(OK).await;
        client.response().await;
    }

    #[tokio::test]
    async fn a_small_chunked_body_stays_chunked_and_needs_no_permission() {
        let (service, keyway) = start().await;
        let mut client = keyway.connect().await;
        client
            .send("POST /svc/a HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n5;x=y\r\nhello\r\n0\r\n\r\n")
            .await;
        let mut server = service.accept().await;
        let head = server.head().await;
        match field(&head, "transfer-encoding") {
            Some(coding) => {
                assert_eq!((coding, field(&head, "content-length")), ("chunked", None));
                assert_eq!(server.chunked().await, (b"hello".to_vec(), String::new()));
            }
            None => {
                assert_eq!(field(&head, "content-length"), Some("5"));
                assert_eq!(server.take(5).await, b"hello");
            }
        }
        server.send(OK).await;
        assert_eq!(status(&client.response().await.0), 200);
        let requests = judge::signed(server.seen(), TOKEN);
        assert_eq!(requests.len(), 1);
        assert_eq!(
            (requests[0].line.as_str(), requests[0].body.as_slice()),
            ("POST /v1/a HTTP/1.1", &b"hello"[..])
        );
    }

    // Promises 20, 23, 29, 35.
    #[tokio::test]
    async fn trailers_of_a_request_arrive_but_guarded_ones_do_not() {
        let (service, keyway) = start().await;
        let mut client = keyway.connect().await;
        client
            .send(
                "PUT /svc/a HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\nTrailer: x-sum\r\n\r\n\
                 5\r\nhello\r\n0\r\nX-Sum: 1\r\nX-Auth-Token: mine\r\nX_Auth_Token: mine\r\nX-Service-Token: mine\r\n\
                 Content-Length: 9\r\nTransfer-Encoding: gzip\r\nHost: elsewhere\r\nConnection: close\r\n\r\n",
            )
            .await;
        let mut server = service.accept().await;
        let head = server.head().await;
        assert_eq!(field(&head, "transfer-encoding"), Some("chunked"));
        assert_eq!(field(&head, "trailer"), None);
        let (body, trailers) = server.chunked().await;
        assert_eq!((body.as_slice(), trailers.as_str()), (&b"hello"[..], "x-sum: 1\r\n"));
        server.send(OK).await;
        assert_eq!(status(&client.response().await.0), 200);
    }

    // Promise 54.
    #[tokio::test]
    async fn the_first_chunk_of_a_slow_upload_arrives_before_the_rest_is_sent() {
        let (service, keyway) = start().await;
        let mut client = keyway.connect().await;
        client
            .send(
                "PUT /svc/o HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nfirst\r\n",
            )
            .await;
        let mut server = service.accept().await;
        server.head().await;
        server.send("HTTP/1.1 100 Continue\r\n\r\n").await;
        assert_eq!(server.until("first\r\n").await, b"5\r\nfirst\r\n");
        client.send("4\r\nlast\r\n0\r\n\r\n").await;
        assert_eq!(server.until("\r\n0\r\n\r\n").await, b"4\r\nlast\r\n0\r\n\r\n");
        server.send(OK).await;
        assert_eq!(status(&client.response().await.0), 200);
    }

    // Promise 54.
    #[tokio::test]
    async fn a_large_upload_passes_in_bounded_memory() {
        const LENGTH: u64 = 128 * MIB;
        let (service, keyway) = start().await;
        let pattern = Pattern::new();
        let mut client = keyway.connect().await;
        client
            .send(format!("PUT /svc/o HTTP/1.1\r\nHost: localhost\r\nContent-Length: {LENGTH}\r\n\r\n"))
            .await;
        let serve = async {
            let mut server = service.accept().await;
            let head = server.head().await;
            assert_eq!(field(&head, "content-length"), Some(LENGTH.to_string().as_str()));
            assert_eq!(field(&head, "expect"), Some("100-continue"));
            server.send("HTTP/1.1 100 Continue\r\n\r\n").await;
            let before = resident();
            let most = server.pattern(&pattern, LENGTH).await;
            assert!(most < before + LENGTH / 2, "{} bytes more than before", most - before);
            server.send(OK).await;
        };
        tokio::join!(serve, pattern.send(client.stream(), 0, LENGTH));
        assert_eq!(status(&client.response().await.0), 200);
    }

    #[tokio::test]
    async fn a_method_of_swift_passes_with_its_fields() {
        let (service, keyway) = start().await;
        let mut client = keyway.connect().await;
        client.send("COPY /svc/box/o HTTP/1.1\r\nHost: localhost\r\nDestination: /other/o\r\n\r\n").await;
        let (_server, head) = service.answer("HTTP/1.1 201 Created\r\nContent-Length: 0\r\n\r\n").await;
        assert!(head.starts_with("COPY /v1/box/o HTTP/1.1\r\n"), "{head}");
        assert_eq!(field(&head, "destination"), Some("/other/o"));
        assert_eq!(status(&client.response().await.0), 201);
    }
}

mod expect {
    use super::*;

    const LENGTH: usize = 200_000;

    // Promise 39.
    #[tokio::test]
    async fn a_large_body_waits_for_100() {
        let (service, keyway) = start().await;
        let (head, body) = large_put(LENGTH);
        let mut client = keyway.connect().await;
        client.send(head).await;
        client.send(&body).await;
        let mut server = service.accept().await;
        assert_eq!(field(&server.head().await, "expect"), Some("100-continue"));
        server.send("HTTP/1.1 100 Continue\r\n\r\n").await;
        assert!(server.take(LENGTH).await == body);
        server.send(OK).await;
        assert_eq!(status(&client.response().await.0), 200);
        client.send(GET).await;
        server.head().await;
        server.send(OK).await;
        client.response().await;
    }

    // Promise 39.
    #[tokio::test]
    async fn a_client_that_waits_for_100_gets_the_service_s_and_sends_then() {
        let (service, keyway) = start().await;
        let mut client = keyway.connect().await;
        client
            .send(
                "PUT /svc/o HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n",
            )
            .await;
        let mut server = service.accept().await;
        assert_eq!(field(&server.head().await, "expect"), Some("100-continue"));
        server.send("HTTP/1.1 100 Continue\r\n\r\n").await;
        assert_eq!(status(&client.head().await), 100);
        client.send("hello").await;
        assert_eq!(server.take(5).await, b"hello");
        server.send(OK).await;
        assert_eq!(status(&client.response().await.0), 200);
    }

    // Promise 39.
    #[tokio::test]
    async fn a_service_that_never_says_100_gets_the_body_all_the_same() {
        let (service, keyway) = start().await;
        let (head, body) = large_put(LENGTH);
        let mut client = keyway.connect().await;
        client.send(head).await;
        client.send(&body).await;
        let mut server = service.accept().await;
        server.head().await;
        assert!(server.take(LENGTH).await == body);
        server.send(OK).await;
        assert_eq!(status(&client.response().await.0), 200);
    }

    // Promise 53.
    #[tokio::test]
    async fn a_refused_upload_is_answered_and_its_connection_closed() {
        for (code, reason) in
            [(413, "Request Entity Too Large"), (417, "Expectation Failed"), (403, "Forbidden")]
        {
            let (service, keyway) = start().await;
            let (head, body) = large_put(LENGTH);
            let mut client = keyway.connect().await;
            client.send(head).await;
            client.send(&body[..1000]).await;
            let mut server = service.accept().await;
            server.head().await;
            server.send(format!("HTTP/1.1 {code} {reason}\r\nContent-Length: 2\r\n\r\nno")).await;
            assert_eq!(status(&client.response().await.0), code);
            assert_eq!(server.rest().await, b"", "no body went out");
        }
    }

    // Promises 51, 52.
    #[tokio::test]
    async fn a_refused_token_is_replaced_and_the_whole_upload_sent_on_a_new_connection() {
        let cloud = Cloud::start(demo::Config::default()).await.unwrap();
        let service = Upstream::start().await;
        point(&cloud, "object-store", &service.url());
        let keyway = Keyway::start(cloud.keystone_config());
        let mut client = keyway.connect().await;
        let (head, body) = large_put(LENGTH);
        client.send(head.replace("/svc/", "/object-store/")).await;
        client.send(&body[..1000]).await;
        let mut first = service.accept().await;
        let refused = first.head().await;
        first.send("HTTP/1.1 401 Unauthorized\r\nContent-Length: 2\r\n\r\nno").await;
        let mut second = service.accept().await;
        let accepted = second.head().await;
        assert_ne!(field(&refused, "x-auth-token"), field(&accepted, "x-auth-token"));
        second.send("HTTP/1.1 100 Continue\r\n\r\n").await;
        client.send(&body[1000..]).await;
        assert!(second.take(LENGTH).await == body);
        second.send(OK).await;
        assert_eq!(status(&client.response().await.0), 200);
        assert_eq!(first.rest().await, b"", "no body went to who refused");
        assert_eq!(cloud.tokens_issued(), 2);
    }

    // Promises 51, 52.
    #[tokio::test]
    async fn a_401_after_100_goes_back_and_says_why() {
        let cloud = Cloud::start(demo::Config::default()).await.unwrap();
        let service = Upstream::start().await;
        point(&cloud, "object-store", &service.url());
        let keyway = Keyway::start(cloud.keystone_config());
        let mut client = keyway.connect().await;
        let (head, body) = large_put(LENGTH);
        client.send(head.replace("/svc/", "/object-store/")).await;
        client.send(&body).await;
        let mut server = service.accept().await;
        server.head().await;
        server.send("HTTP/1.1 100 Continue\r\n\r\n").await;
        server.take(LENGTH).await;
        server.send("HTTP/1.1 401 Unauthorized\r\nContent-Length: 2\r\n\r\nno").await;
        let (head, _) = client.response().await;
        assert_eq!(status(&head), 401);
        assert!(field(&head, "x-keyway-retry").is_some(), "{head}");
        assert!(!service.has_connection().await);
    }

    // Promise 48.
    #[tokio::test]
    async fn endless_interim_answers_instead_of_100_are_no_answer() {
        let (service, keyway) = start().await;
        let (head, body) = large_put(LENGTH);
        let mut client = keyway.connect().await;
        client.send(head).await;
        client.send(&body).await;
        let mut server = service.accept().await;
        server.head().await;
        while server.try_send("HTTP/1.1 102 Processing\r\n\r\n".repeat(100)).await {}
        let (head, _) = client.response().await;
        assert_eq!(field(&head, "x-keyway-error"), Some("upstream_broken"), "{head}");
    }

    // Promise 48.
    #[tokio::test]
    async fn a_late_100_and_other_interim_answers_do_not_end_an_upload() {
        let (service, keyway) = start().await;
        let (head, body) = large_put(LENGTH);
        let mut client = keyway.connect().await;
        client.send(head).await;
        client.send(&body[..100_000]).await;
        let mut server = service.accept().await;
        server.head().await;
        server.send("HTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n").await;
        server.take(100_000).await;
        server.send("HTTP/1.0 100 Continue\r\n\r\nHTTP/1.1 100").await;
        server.send(" Continue\r\n\r\n").await;
        client.send(&body[100_000..]).await;
        server.take(100_000).await;
        server.send(OK).await;
        assert_eq!(status(&client.response().await.0), 200);
    }
}

mod early {
    use super::*;

    // Promise 53.
    #[tokio::test]
    async fn an_answer_amid_an_upload_reaches_the_client_and_closes_the_service_s_connection() {
        let (service, keyway) = start().await;
        let (head, body) = large_put(10 << 20);
        let mut client = keyway.connect().await;
        client.send(head).await;
        client.send(&body[..200_000]).await;
        let mut server = service.accept().await;
        server.head().await;
        server.send("HTTP/1.1 100 Continue\r\n\r\n").await;
        server.take(100_000).await;
        server.send("HTTP/1.1 507 Insufficient Storage\r\nContent-Length: 4\r\n\r\nfull").await;
        let (head, answer) = client.response().await;
        assert_eq!((status(&head), answer.as_slice()), (507, &b"full"[..]));
        server.closed().await;
        let mut other = keyway.connect().await;
        other.send(GET).await;
        service.answer(OK).await;
        assert_eq!(status(&other.response().await.0), 200);
    }

    // Promise 53.
    #[tokio::test]
    async fn a_client_that_goes_on_sending_still_reads_the_early_answer() {
        let (service, keyway) = start().await;
        let (head, body) = large_put(10 << 20);
        let mut client = keyway.connect().await;
        client.send(head).await;
        let serve = async {
            let mut server = service.accept().await;
            server.head().await;
            server.send("HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\nConnection: close\r\n\r\nno").await;
        };
        tokio::join!(serve, client.send(&body));
        assert_eq!(status(&client.response().await.0), 403);
    }

    // Promise 53.
    #[tokio::test]
    async fn an_answer_to_a_body_that_fits_is_not_lost_when_the_service_closes_at_once() {
        let (service, keyway) = start().await;
        let mut client = keyway.connect().await;
        let body = Pattern::new().start(60_000);
        client.send("POST /svc/o HTTP/1.1\r\nHost: localhost\r\nContent-Length: 60000\r\n\r\n").await;
        client.send(body).await;
        let mut server = service.accept().await;
        server.head().await;
        server.send("HTTP/1.1 413 Too Large\r\nContent-Length: 2\r\nConnection: close\r\n\r\nno").await;
        assert_eq!(status(&client.response().await.0), 413);
    }

    // Promise 38.
    #[tokio::test]
    async fn keyway_s_own_refusal_reaches_a_client_that_is_still_sending() {
        let (_service, keyway) = start().await;
        let (head, body) = large_put(4 << 20);
        let mut client = keyway.connect().await;
        client.send(head.replace("/svc/box/o", "/svc/../o")).await;
        client.send(&body).await;
        assert_eq!(status(&client.response().await.0), 400);
    }
}

mod gone {
    use super::*;

    // Promise 61.
    #[tokio::test]
    async fn a_client_that_leaves_while_it_waits_ends_the_service_s_request() {
        let (service, keyway) = start().await;
        let mut client = keyway.connect().await;
        client.send(GET).await;
        let mut server = service.accept().await;
        server.head().await;
        drop(client);
        assert_eq!(server.rest().await, b"");
    }

    // Promise 61.
    #[tokio::test]
    async fn a_client_that_leaves_amid_a_download_ends_it() {
        let (service, keyway) = start().await;
        let mut client = keyway.connect().await;
        client.send(GET).await;
        let mut server = service.accept().await;
        server.head().await;
        server.send("HTTP/1.1 200 OK\r\nContent-Length: 100000000\r\n\r\nfirst").await;
        client.until("first").await;
        client.reset();
        let block = vec![0; 1 << 20];
        while server.try_send(&block).await {}
    }

    // Promise 61.
    #[tokio::test]
    async fn a_client_that_leaves_an_idle_download_ends_it() {
        let (service, keyway) = start().await;
        let mut client = keyway.connect().await;
        client.send(GET).await;
        let mut server = service.accept().await;
        server.head().await;
        server.send("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nfirst").await;
        client.until("first").await;
        drop(client);
        assert_eq!(server.rest().await, b"");
    }

    // Promises 36, 61.
    #[tokio::test]
    async fn a_client_that_leaves_amid_an_upload_never_completes_it() {
        for chunked in [false, true] {
            let (service, keyway) = start().await;
            let mut client = keyway.connect().await;
            let framing = if chunked { "Transfer-Encoding: chunked" } else { "Content-Length: 200000" };
            client.send(format!("PUT /svc/o HTTP/1.1\r\nHost: localhost\r\n{framing}\r\n\r\n")).await;
            client.send(if chunked { "5\r\nfirst\r\n" } else { "first" }).await;
            let mut server = service.accept().await;
            server.head().await;
            server.send("HTTP/1.1 100 Continue\r\n\r\n").await;
            server.until("first").await;
            drop(client);
            let rest = server.rest().await;
            assert!(!rest.ends_with(b"0\r\n\r\n"), "{rest:?}");
            assert!(judge::signed(server.seen(), TOKEN).is_empty());
        }
    }

    // Promise 36.
    #[tokio::test]
    async fn a_small_upload_that_breaks_off_never_reaches_a_service() {
        let (service, keyway) = start().await;
        let mut client = keyway.connect().await;
        client.send("POST /svc/o HTTP/1.1\r\nHost: localhost\r\nContent-Length: 10\r\n\r\nhello").await;
        client.finish().await;
        client.closed().await;
        assert!(!service.has_connection().await);
    }
}

mod answers {
    use super::*;

    // Promise 54.
    #[tokio::test]
    async fn the_first_byte_of_a_slow_answer_arrives_before_the_rest_is_sent() {
        let (service, keyway) = start().await;
        for framing in ["Content-Length: 10", "Transfer-Encoding: chunked"] {
            let mut client = keyway.connect().await;
            client.send(GET).await;
            let mut server = service.accept().await;
            server.head().await;
            server.send(format!("HTTP/1.1 200 OK\r\n{framing}\r\nConnection: close\r\n\r\n")).await;
            client.head().await;
            let chunked = framing.ends_with("chunked");
            server.send(if chunked { "5\r\nfirst\r\n" } else { "first" }).await;
            client.until("first").await;
            server.send(if chunked { "4\r\nlast\r\n0\r\n\r\n" } else { " last" }).await;
            client.until("last").await;
        }
    }

    // Promise 54.
    #[tokio::test]
    async fn a_large_download_passes_in_bounded_memory() {
        const LENGTH: u64 = 128 * MIB;
        let (service, keyway) = start().await;
        let pattern = Pattern::new();
        let mut client = keyway.connect().await;
        client.send(GET).await;
        let mut server = service.accept().await;
        server.head().await;
        server.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {LENGTH}\r\n\r\n")).await;
        let read = async {
            assert_eq!(field(&client.head().await, "content-length"), Some(LENGTH.to_string().as_str()));
            let before = resident();
            let most = client.pattern(&pattern, LENGTH).await;
            assert!(most < before + LENGTH / 2, "{} bytes more than before", most - before);
        };
        tokio::join!(read, pattern.send(server.stream(), 0, LENGTH));
    }

    // Promise 54.
    #[tokio::test]
    async fn a_client_that_does_not_read_holds_the_service_back() {
        let (service, keyway) = start().await;
        let mut client = keyway.connect().await;
        client.send(GET).await;
        let mut server = service.accept().await;
        server.head().await;
        server.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", 1024 * MIB)).await;
        client.head().await;
        let mut sent = 0;
        let block = vec![0; MIB as usize];
        // What no buffer takes for half a second is held back.
        while sent < 256 {
            let sending = server.try_send(&block);
            match tokio::time::timeout(std::time::Duration::from_millis(500), sending).await {
                Ok(true) => sent += 1,
                Ok(false) => panic!("keyway closed the connection"),
                Err(_) => break,
            }
        }
        assert!(sent < 256, "keyway took {sent} MiB that nobody read");
    }

    // Promises 38, 44.
    #[tokio::test]
    async fn answers_without_a_body_pass_with_what_they_say_of_it() {
        let (service, keyway) = start().await;
        let mut client = keyway.connect().await;
        let mut server: Option<Peer> = None;
        for (method, answer, length) in [
            ("HEAD", "200 OK\r\nContent-Length: 1234", Some("1234")),
            ("HEAD", "200 OK\r\nX-Nothing: said\r\nContent-Length: 0", Some("0")),
            ("HEAD", "200 OK\r\nX-Nothing: said", None),
            ("GET", "304 Not Modified\r\nETag: \"a\"", None),
            // hyper leaves the length out of a 304, as it may (RFC 9110, section 15.4.5).
            ("GET", "304 Not Modified\r\nContent-Length: 1234", None),
            ("DELETE", "204 No Content", None),
            (
                "GET",
                "206 Partial Content\r\nContent-Range: bytes 0-1/9\r\nContent-Length: 2\r\n\r\nok",
                Some("2"),
            ),
        ] {
            client
                .send(format!("{method} /svc/o HTTP/1.1\r\nHost: localhost\r\nRange: bytes=0-1\r\n\r\n"))
                .await;
            let server = match &mut server {
                Some(server) => server,
                none => none.insert(service.accept().await),
            };
            assert_eq!(field(&server.head().await, "range"), Some("bytes=0-1"));
            let end = if answer.ends_with("ok") { "" } else { "\r\n\r\n" };
            server.send(format!("HTTP/1.1 {answer}{end}")).await;
            let head = client.head().await;
            assert_eq!(status(&head), answer[..3].parse::<u16>().unwrap());
            assert_eq!(field(&head, "content-length"), length, "{method} {answer}: {head}");
            if answer.ends_with("ok") {
                assert_eq!(client.take(2).await, b"ok");
            }
        }
    }

    // Promises 38, 44.
    #[tokio::test]
    async fn a_head_answer_without_a_length_ends_with_its_head() {
        let (service, keyway) = start().await;
        let mut client = keyway.connect().await;
        client.send("HEAD /svc/o HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
        let (mut server, _) = service.answer("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").await;
        let head = client.head().await;
        assert_eq!(status(&head), 200);
        client.send(GET).await;
        server.head().await;
        server.send(OK).await;
        assert_eq!(client.response().await.1, b"ok");
    }

    // Promises 35, 46.
    #[tokio::test]
    async fn trailers_stay_behind_since_nothing_announces_them() {
        let (service, keyway) = start().await;
        let mut client = keyway.connect().await;
        client.send("GET /svc/o HTTP/1.1\r\nHost: localhost\r\nTE: trailers\r\nConnection: TE\r\n\r\n").await;
        service
            .answer(
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: x-sum, x-subject-token\r\n\r\n\
                 2\r\nok\r\n0\r\nX-Sum: 1\r\nX-Subject-Token: secret\r\n\r\n",
            )
            .await;
        assert_eq!(field(&client.head().await, "trailer"), None);
        let (body, trailers) = client.chunked().await;
        assert_eq!((body.as_slice(), trailers.as_str()), (&b"ok"[..], ""));
    }

    // Promises 35, 46, 47.
    #[tokio::test]
    async fn fields_of_one_connection_and_tokens_stay_behind() {
        let got = answered_with(
            b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: keep-alive, x-hop\r\nX-Hop: 1\r\nKeep-Alive: timeout=9\r\n\
              Upgrade: h2\r\nProxy-Authenticate: x\r\nX-Auth-Token: a\r\nX-Subject-Token: b\r\nSet-Cookie: c=d\r\nX-Kept: 1\r\n\r\nok",
        )
        .await
        .to_ascii_lowercase();
        assert!(got.starts_with("http/1.1 200 ok\r\n") && got.contains("\r\nx-kept: 1\r\n"), "{got}");
        for gone in ["x-hop", "keep-alive", "upgrade", "proxy-", "x-auth", "x-subject", "set-cookie"] {
            assert!(!got.contains(gone), "{gone} in {got}");
        }
    }

    // Promise 48.
    #[tokio::test]
    async fn interim_answers_are_skipped() {
        let got = answered_with(
            b"HTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
        )
        .await;
        assert!(got.starts_with("HTTP/1.1 200 OK\r\n") && got.ends_with("\r\n\r\nok"), "{got}");
        assert!(!got.contains("link"), "{got}");
    }

    #[tokio::test]
    async fn an_answer_that_ends_with_its_connection_is_whole() {
        for answer in [
            "HTTP/1.1 200 OK\r\n\r\nall of it",
            "HTTP/1.0 200 OK\r\n\r\nall of it",
            "HTTP/1.0 200 OK\r\nContent-Length: 9\r\n\r\nall of it",
        ] {
            let (service, keyway) = start().await;
            let mut client = keyway.connect().await;
            client.send(GET).await;
            let (server, _) = service.answer(answer).await;
            drop(server);
            let (head, body) = client.response().await;
            assert_eq!((status(&head), body.as_slice()), (200, &b"all of it"[..]), "{answer}");
        }
    }

    // Promise 44.
    #[tokio::test]
    async fn a_cut_answer_is_cut_for_the_client_too() {
        for answer in [
            "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhelloX\r\n0\r\n\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n5\nhello\r\n0\r\n\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n10000000000000005\r\nhello\r\n0\r\n\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n-1\r\n\r\n",
        ] {
            let got = answered_with(answer.as_bytes()).await;
            assert!(!got.ends_with("0\r\n\r\n"), "{answer:?} became {got:?}");
            let complete =
                got.contains("ontent-length: 5\r\n") || got.contains("onnection: close\r\n\r\nhello");
            assert!(!complete, "{answer:?} became {got:?}");
        }
    }

    // Promise 45.
    #[tokio::test]
    async fn bytes_after_an_answer_reach_nobody() {
        for answer in [
            "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        ] {
            let (service, keyway) = start().await;
            let mut client = keyway.connect().await;
            client.send(GET).await;
            let evil = "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil";
            let (mut server, _) = service.answer(format!("{answer}{evil}")).await;
            assert_eq!(client.response().await.1, b"ok");
            assert_eq!(server.rest().await, b"", "the connection is closed");
            client.send(GET).await;
            service.answer(OK).await;
            assert_eq!(client.response().await.1, b"ok");
        }
    }

    // Promise 45.
    #[tokio::test]
    async fn bytes_that_come_while_no_answer_is_due_reach_nobody() {
        let (service, keyway) = start().await;
        let mut client = keyway.connect().await;
        client.send(GET).await;
        let (mut server, _) = service.answer(OK).await;
        client.response().await;
        server.send("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil").await;
        // Once keyway's socket has it: another request through another connection of ours.
        client.send(GET).await;
        let (_other, _) = service.answer(OK).await;
        assert_eq!(client.response().await.1, b"ok");
    }

    // Promises 34, 44, 48, 49.
    #[tokio::test]
    async fn what_is_not_http_is_a_502() {
        let many = format!("HTTP/1.1 200 OK\r\n{}\r\n", "X-A: 1\r\n".repeat(201));
        let long = format!("HTTP/1.1 200 OK\r\nX-A: {}\r\n\r\n", "a".repeat(70_000));
        let interim = "HTTP/1.1 102 Processing\r\n\r\n".repeat(1000);
        for answer in [
            "hello\r\n\r\n",
            "HTTP/2.0 200 OK\r\n\r\n",
            "HTTP/1.1 20 OK\r\n\r\n",
            "HTTP/1.1 2000 OK\r\n\r\n",
            "HTTP/1.1  200 OK\r\n\r\n",
            "HTTP/1.1 OK\r\n\r\n",
            "HTTP/1.1 200 OK\r\nX-A: 1\r\n folded\r\nContent-Length: 2\r\n\r\nok",
            "HTTP/1.1 200 OK\r\nX-A : 1\r\nContent-Length: 2\r\n\r\nok",
            "HTTP/1.1 200 OK\r\n: 1\r\nContent-Length: 2\r\n\r\nok",
            "HTTP/1.1 200 OK\r\nnonsense\r\nContent-Length: 2\r\n\r\nok",
            "HTTP/1.1 200 OK\r\nX-A: a\0b\r\nContent-Length: 2\r\n\r\nok",
            "HTTP/1.1 200 OK\r\nX-A: a\rb\r\nContent-Length: 2\r\n\r\nok",
            "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nok",
            "HTTP/1.1 200 OK\r\nContent-Length: +2\r\n\r\nok",
            "HTTP/1.1 200 OK\r\nContent-Length: 2, 3\r\n\r\nok",
            "HTTP/1.1 200 OK\r\nContent-Length: \r\n\r\nok",
            "HTTP/1.1 200 OK\r\nContent-Length: 18446744073709551618\r\n\r\nok",
            "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 2\r\n\r\n2\r\nok\r\n0\r\n\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: identity\r\n\r\nok",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
            "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
            "HTTP/1.1 200 OK\r\nX-A: cut",
            "",
            &many,
            &long,
            &interim,
        ] {
            let got = answered_with(answer.as_bytes()).await;
            let shown = &answer[..answer.len().min(200)];
            assert!(got.starts_with("HTTP/1.1 502 Bad Gateway\r\n"), "{shown:?} became {got:?}");
            assert!(got.contains("x-keyway-error: upstream_broken\r\n"), "{shown:?} became {got:?}");
        }
    }
}

mod reuse {
    use super::*;

    #[tokio::test]
    async fn requests_one_after_another_share_a_connection() {
        let (service, keyway) = start().await;
        let mut client = keyway.connect().await;
        client.send(GET).await;
        let (mut server, _) = service.answer(OK).await;
        client.response().await;
        let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n";
        for answer in
            [OK, chunked, "HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 2\r\n\r\nok", OK]
        {
            // Not even the client's connection matters.
            let mut client = keyway.connect().await;
            client.send(GET).await;
            server.head().await;
            server.send(answer).await;
            assert_eq!(client.response().await.1, b"ok");
        }
        client.send("POST /svc/a HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n\r\nhi").await;
        server.head().await;
        assert_eq!(server.take(2).await, b"hi");
        server.send(OK).await;
        assert_eq!(status(&client.response().await.0), 200);
    }

    // Promise 45.
    #[tokio::test]
    async fn a_service_that_wants_to_close_is_let_go() {
        let (service, keyway) = start().await;
        let mut client = keyway.connect().await;
        for answer in [
            "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok",
            "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: keep-alive, Close\r\n\r\nok",
            "HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok",
        ] {
            client.send(GET).await;
            let (mut server, _) = service.answer(answer).await;
            assert_eq!(client.response().await.1, b"ok");
            assert_eq!(server.rest().await, b"", "keyway closed its side");
        }
    }

    // Promise 51.
    #[tokio::test]
    async fn a_connection_that_dies_under_a_get_is_replaced() {
        for reset in [false, true] {
            let (service, keyway) = start().await;
            let mut client = keyway.connect().await;
            client.send(GET).await;
            let (mut server, _) = service.answer(OK).await;
            client.response().await;
            client.send(GET).await;
            server.head().await;
            if reset {
                server.reset()
            } else {
                drop(server)
            }
            let (mut second, head) = service.answer(OK).await;
            assert!(head.starts_with("GET /v1/a "), "{head}");
            assert_eq!(status(&client.response().await.0), 200);
            drop((client, keyway));
            assert_eq!(second.rest().await, b"", "the request went to it once");
        }
    }

    // Promise 51.
    #[tokio::test]
    async fn a_new_connection_that_dies_is_not_replaced_again() {
        let (service, keyway) = start().await;
        let mut client = keyway.connect().await;
        client.send(GET).await;
        let mut server = service.accept().await;
        server.head().await;
        drop(server);
        let (head, _) = client.response().await;
        assert_eq!(field(&head, "x-keyway-error"), Some("upstream_broken"));
        assert!(!service.has_connection().await);
    }

    // Promise 51.
    #[tokio::test]
    async fn a_connection_that_died_before_a_post_is_replaced() {
        let (service, keyway) = start().await;
        let mut client = keyway.connect().await;
        client.send(GET).await;
        let (server, _) = service.answer(OK).await;
        client.response().await;
        drop(server);
        client.send("POST /svc/a HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n\r\nhi").await;
        let mut second = service.accept().await;
        second.head().await;
        assert_eq!(second.take(2).await, b"hi");
        second.send(OK).await;
        assert_eq!(status(&client.response().await.0), 200);
    }

    // Promise 51.
    #[tokio::test]
    async fn a_post_that_may_have_been_processed_is_never_sent_again() {
        for body in ["", "hi"] {
            let (service, keyway) = start().await;
            let mut client = keyway.connect().await;
            client.send(GET).await;
            let (mut server, _) = service.answer(OK).await;
            client.response().await;
            client
                .send(format!(
                    "POST /svc/a HTTP/1.1\r\nHost: localhost\r\nContent-Length: {}\r\n\r\n{body}",
                    body.len()
                ))
                .await;
            server.head().await;
            server.take(body.len()).await;
            drop(server);
            let (head, _) = client.response().await;
            assert_eq!(status(&head), 502);
            assert_eq!(field(&head, "x-keyway-error"), Some("upstream_broken"));
            assert!(!service.has_connection().await);
        }
    }

    // Promises 44, 51.
    #[tokio::test]
    async fn an_answer_that_began_is_never_asked_for_again() {
        let (service, keyway) = start().await;
        let mut client = keyway.connect().await;
        client.send(GET).await;
        let (mut server, _) = service.answer(OK).await;
        client.response().await;
        client.send(GET).await;
        server.head().await;
        server.send("HTTP/1.1 2").await;
        drop(server);
        assert_eq!(status(&client.response().await.0), 502);
        assert!(!service.has_connection().await);
    }

    #[tokio::test]
    async fn a_service_that_says_how_long_it_keeps_a_connection_is_believed() {
        let (service, keyway) = start().await;
        let mut client = keyway.connect().await;
        client.send(GET).await;
        let (mut first, _) =
            service.answer("HTTP/1.1 200 OK\r\nContent-Length: 2\r\nKeep-Alive: timeout=1\r\n\r\nok").await;
        client.response().await;
        // The one thing here that is about time: longer than announced.
        tokio::time::sleep(std::time::Duration::from_millis(1600)).await;
        client.send(GET).await;
        let (_second, _) = service.answer(OK).await;
        assert_eq!(client.response().await.1, b"ok");
        drop((client, keyway));
        assert_eq!(first.rest().await, b"", "nothing more went to the old connection");
    }

    #[tokio::test]
    async fn many_requests_at_a_time_take_a_connection_each() {
        let (service, keyway) = start().await;
        let mut clients = Vec::new();
        let mut servers = Vec::new();
        for _ in 0..20 {
            let mut client = keyway.connect().await;
            client.send(GET).await;
            let mut server = service.accept().await;
            server.head().await;
            clients.push(client);
            servers.push(server);
        }
        for (index, server) in servers.iter_mut().enumerate().rev() {
            server.send(format!("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{index:02}")).await;
        }
        for (index, client) in clients.iter_mut().enumerate() {
            assert_eq!(within("an answer", client.response()).await.1, format!("{index:02}").as_bytes());
        }
    }
}
