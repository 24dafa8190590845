//! How large a request's body may be.

use std::collections::BTreeMap;

use keyway::proxy::BodyLimits;

use super::*;
use crate::support::direct::point_all;
use crate::support::frames::Event;
use crate::support::judge;
use crate::support::raw::{Recorder, field, status};

const LIMIT: u64 = 100_000;

fn limited(cloud: keystone::Config) -> Keyway {
    Keyway::start_with(cloud, |config| {
        config.body_limits = BodyLimits {
            default: Some(LIMIT),
            services: BTreeMap::from([("volumev3".to_owned(), 2 * LIMIT), ("object-store".to_owned(), 10)]),
        };
    })
}

async fn start() -> (Upstream, Keyway) {
    let service = Upstream::start().await;
    let keyway = limited(fixed_cloud(&service.url()));
    (service, keyway)
}

#[track_caller]
fn check_refused((head, body): (String, Vec<u8>)) {
    assert_eq!((status(&head), field(&head, "x-keyway-error")), (413, Some("body_too_large")), "{head}");
    let body = String::from_utf8(body).expect("text");
    assert!(body.contains("limits.body"), "{body}");
}

// Promise 60.
#[tokio::test]
async fn a_body_at_the_limit_passes_and_one_byte_more_asks_nobody() {
    let (service, keyway) = start().await;
    let mut client = keyway.connect().await;
    for method in ["PUT", "POST", "GET"] {
        let head = |length| {
            format!("{method} /svc/o HTTP/1.1\r\nHost: localhost\r\nContent-Length: {length}\r\n\r\n")
        };
        client.send(head(LIMIT)).await;
        client.send(body(LIMIT as usize)).await;
        let mut server = service.accept().await;
        server.head().await;
        server.send("HTTP/1.1 100 Continue\r\n\r\n").await;
        assert!(server.take(LIMIT as usize).await == body(LIMIT as usize));
        server.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok").await;
        assert_eq!(status(&client.response().await.0), 200);
        let mut other = keyway.connect().await;
        other.send(head(LIMIT + 1)).await;
        check_refused(other.response().await);
        // It may go on with what it began, and ask again.
        other.send(body(LIMIT as usize + 1)).await;
        other.send(head(LIMIT + 1)).await;
        check_refused(other.response().await);
        assert!(!service.has_connection().await);
    }
    assert_eq!(keyway.errors("body_too_large"), 6);
}

// Promises 39, 60.
#[tokio::test]
async fn a_client_that_asks_first_is_not_told_to_send_what_is_too_large() {
    let (service, keyway) = start().await;
    let mut client = keyway.connect().await;
    client
        .send(format!(
            "PUT /svc/o HTTP/1.1\r\nHost: localhost\r\nExpect: 100-continue\r\nContent-Length: {}\r\n\r\n",
            LIMIT + 1
        ))
        .await;
    check_refused(client.response().await);
    assert!(!service.has_connection().await);
}

// Promises 36, 60.
#[tokio::test]
async fn a_chunked_body_is_cut_where_it_grows_past_the_limit() {
    for more in [0, 1] {
        let (service, keyway) = start().await;
        let mut client = keyway.connect().await;
        client.send("PUT /svc/o HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n").await;
        let mut server = service.accept().await;
        server.head().await;
        server.send("HTTP/1.1 100 Continue\r\n\r\n").await;
        let first = body(LIMIT as usize - 1);
        client.send(format!("{:x}\r\n", first.len())).await;
        client.send(&first).await;
        client.send(if more == 0 { "\r\n1\r\na\r\n0\r\n\r\n" } else { "\r\n2\r\nab\r\n0\r\n\r\n" }).await;
        if more == 0 {
            assert_eq!(server.chunked().await.0.len() as u64, LIMIT);
            server.send(OK).await;
            assert_eq!(status(&client.response().await.0), 200);
        } else {
            check_refused(client.response().await);
            server.closed().await;
            assert!(judge::requests(server.seen()).is_empty());
        }
    }
}

// Promises 36, 60.
#[tokio::test]
async fn a_small_chunked_body_is_cut_where_it_grows_past_the_limit() {
    let service = Recorder::start().await;
    let cloud = with_keystone(&service.url()).await;
    let keyway = limited(cloud.keystone_config());
    let mut client = keyway.connect().await;
    client
        .send("PUT /object-store/o HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nb\r\n12345678901\r\n0\r\n\r\n")
        .await;
    check_refused(client.response().await);
    // The same connection goes on with a request that fits.
    client.send("PUT /object-store/b HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\na\r\n1234567890\r\n0\r\n\r\n").await;
    assert_eq!(status(&client.response().await.0), 200);
    let whole: Vec<_> = service.connections().iter().flat_map(|bytes| judge::requests(bytes)).collect();
    let [request] = &whole[..] else { panic!("one whole request, not {whole:?}") };
    assert_eq!((request.line.as_str(), &request.body[..]), ("PUT /v1/b HTTP/1.1", &b"1234567890"[..]));
}

// Promises 36, 60.
#[tokio::test]
async fn a_stream_is_reset_where_its_body_grows_past_the_limit() {
    let service = frames::Service::start().await;
    let keyway = limited(h2_cloud(&service));
    let mut client = keyway.connect().await;
    client.send("PUT /svc/o HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n").await;
    let mut server = service.accept().await;
    let stream = server.head().await;
    server.take_more(0, 1 << 20).await;
    server.take_more(stream, 1 << 20).await;
    let chunk = format!("{LIMIT:x}\r\n{}\r\n", "a".repeat(LIMIT as usize));
    client.send(chunk).await;
    client.send("1\r\na\r\n0\r\n\r\n").await;
    check_refused(client.response().await);
    while server.event().await != Event::Reset(stream) {}
    assert!(!server.is_whole(stream));
}

// Promise 60.
#[tokio::test]
async fn a_service_has_its_own_limit_under_any_of_its_names() {
    let service = Upstream::start().await;
    let cloud = with_keystone(&service.url()).await;
    point_all(&cloud, &["compute", "block-storage", "volumev3", "object-store"], &service.url());
    let keyway = limited(cloud.keystone_config());
    for (name, limit) in [
        ("block-storage", 2 * LIMIT),
        ("volumev3", 2 * LIMIT),
        ("compute", LIMIT),
        ("object-store", 10),
        ("swift", 10),
    ] {
        for (length, passes) in [(limit, true), (limit + 1, false)] {
            let mut client = keyway.connect().await;
            client
                .send(format!(
                    "PUT /{name}/o HTTP/1.1\r\nHost: localhost\r\nExpect: 100-continue\r\nContent-Length: {length}\r\n\r\n"
                ))
                .await;
            if passes {
                let mut server = service.accept().await;
                server.head().await;
                server.send("HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno").await;
                assert_eq!(status(&client.response().await.0), 403, "{name} {length}");
            } else {
                check_refused(client.response().await);
            }
        }
    }
}

// Promise 60.
#[tokio::test]
async fn nothing_is_limited_unless_somebody_said_so() {
    let service = Upstream::start().await;
    let keyway = Keyway::before(&service);
    let mut client = keyway.connect().await;
    client.send(put(usize::MAX / 2)).await;
    let mut server = service.accept().await;
    assert_eq!(field(&server.head().await, "content-length"), Some((usize::MAX / 2).to_string().as_str()));
}
