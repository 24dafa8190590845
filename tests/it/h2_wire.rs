//! Hostile and odd HTTP/2 requests, frame by frame: what the client gets, and what leaves for a
//! service that speaks HTTP/1.1, read as a lenient server would read it (`support/judge.rs`).

use crate::support::direct::{Keyway, TOKEN, fixed_cloud};
use crate::support::h2::{
    CONTINUATION, Client, DATA, END_HEADERS, END_STREAM, Frame, GOAWAY, HEADERS, RST_STREAM, block, frame,
    request,
};
use crate::support::judge::{self, Request};
use crate::support::raw::Recorder;

/// How a stream ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// With 200.
    Served,
    /// With another answer.
    Refused,
    /// With a reset, or the connection with it.
    Broken,
}

#[derive(Debug)]
struct Outcome {
    end: End,
    /// The connection served on.
    kept: bool,
    arrived: Vec<Request>,
}

const PROTOCOL_ERROR: u32 = 1;
/// `:status: 200` in HPACK's static table.
const STATUS_200: u8 = 0x88;

/// Sends frames of stream 1, and asks on stream 3 whether the connection still serves.
async fn send(frames: &[u8]) -> Outcome {
    let service = Recorder::start().await;
    let keyway = Keyway::start(fixed_cloud(&service.url()));
    let mut client = Client::connect(keyway.address()).await;
    client.try_send(frames).await;
    client.try_send(frame(HEADERS, END_HEADERS | END_STREAM, 3, &block(&request("GET", "/svc/probe")))).await;
    let (mut end, mut kept) = (None, false);
    while end.is_none() || !kept {
        let event = |frame: &Frame| frame.kind == GOAWAY || matches!(frame.kind, HEADERS | RST_STREAM);
        let Some(frame) = client.until(event).await else { break };
        match (frame.kind, frame.stream) {
            (HEADERS, 3) => kept = true,
            (HEADERS, _) => {
                let served = frame.payload.first() == Some(&STATUS_200);
                end = end.or(Some(if served { End::Served } else { End::Refused }));
            }
            (RST_STREAM, 1) => end = Some(End::Broken),
            _ => {}
        }
    }
    // Whatever was sent before this has arrived when it is answered.
    let mut other = Client::connect(keyway.address()).await;
    other.get(1, "/svc/end").await;
    other.answer(1).await;
    let mut arrived: Vec<_> =
        service.connections().iter().flat_map(|connection| judge::signed(connection, TOKEN)).collect();
    let probes = arrived.iter().filter(|request| request.line == "GET /v1/probe HTTP/1.1").count();
    assert_eq!(probes, usize::from(kept));
    arrived.retain(|request| {
        !matches!(request.line.as_str(), "GET /v1/probe HTTP/1.1" | "GET /v1/end HTTP/1.1")
    });
    Outcome { end: end.unwrap_or(End::Broken), kept, arrived }
}

fn get(fields: &[(&str, &str)]) -> Vec<u8> {
    frame(HEADERS, END_HEADERS | END_STREAM, 1, &block(fields))
}

fn with<'a>(more: &[(&'a str, &'a str)]) -> Vec<(&'a str, &'a str)> {
    [&request("GET", "/svc/a")[..], more].concat()
}

/// A request with a body in pieces, and trailers.
fn post(more: &[(&str, &str)], pieces: &[&str], trailers: Option<&[(&str, &str)]>) -> Vec<u8> {
    let fields = [&request("POST", "/svc/a")[..], more].concat();
    let mut frames = frame(HEADERS, END_HEADERS, 1, &block(&fields));
    for (index, piece) in pieces.iter().enumerate() {
        let last = index + 1 == pieces.len() && trailers.is_none();
        frames.extend(frame(DATA, if last { END_STREAM } else { 0 }, 1, piece.as_bytes()));
    }
    if let Some(trailers) = trailers {
        frames.extend(frame(HEADERS, END_HEADERS | END_STREAM, 1, &block(trailers)));
    }
    frames
}

async fn check_refused(case: &str, frames: &[u8]) -> Outcome {
    let outcome = send(frames).await;
    assert_ne!(outcome.end, End::Served, "{case}: {outcome:?}");
    assert!(outcome.arrived.is_empty(), "{case}: {outcome:?}");
    outcome
}

async fn check_served(case: &str, frames: &[u8], line: &str, body: &str) -> Request {
    let mut outcome = send(frames).await;
    assert_eq!((outcome.end, outcome.kept), (End::Served, true), "{case}: {outcome:?}");
    assert_eq!(outcome.arrived.len(), 1, "{case}: {outcome:?}");
    let request = outcome.arrived.remove(0);
    assert_eq!((request.line.as_str(), request.body.as_slice()), (line, body.as_bytes()), "{case}");
    request
}

// Promises 30, 32, 35, 37.
#[tokio::test]
async fn fields_that_http_2_forbids_end_the_stream() {
    for field in [
        ("connection", "close"),
        ("connection", "x-auth-token"),
        ("keep-alive", "timeout=1"),
        ("proxy-connection", "keep-alive"),
        ("transfer-encoding", "chunked"),
        ("transfer-encoding", "identity"),
        ("upgrade", "h2c"),
        ("te", "gzip"),
        ("te", "trailers, gzip"),
        ("X-A", "upper case"),
        ("Transfer-Encoding", "chunked"),
        ("x-A", "mixed case"),
        ("x-a", "a\rb"),
        ("x-a", "a\nb"),
        ("x-a", "a\0b"),
        ("x-a", "a\r\nx-auth-token: mine"),
        ("x-a", "a\r\n\r\nGET /svc/hidden HTTP/1.1\r\nhost: a\r\n\r\n"),
        ("x-a", "a\x7fb"),
        ("x-a", "a\x0bb"),
        ("x-a", " a"),
        ("x-a", "a "),
        ("x-a", "\ta"),
        ("x-a", " "),
        ("x-a\r\nx-b", "a"),
        ("x-a\n", "a"),
        ("x-a\0", "a"),
        ("x-a:", "a"),
        ("x-a: b\r\nx-c", "a"),
        ("x a", "a"),
        (" x-a", "a"),
        ("x-a ", "a"),
        ("x(a)", "a"),
        ("x-\u{e9}", "a"),
        ("", "a"),
        ("content-length", "5"),
        ("content-length", "+0"),
        ("content-length", "-0"),
        ("content-length", ""),
        ("content-length", "0, 0"),
        ("content-length", "0x0"),
        ("content-length", "18446744073709551616"),
    ] {
        check_refused(&format!("{field:?}"), &get(&with(&[field]))).await;
    }
    check_refused(
        "two lengths",
        &post(&[("content-length", "5"), ("content-length", "5")], &["hello"], None),
    )
    .await;
    check_refused("many options", &get(&with(&[("transfer-encoding", "chunked"), ("content-length", "0")])))
        .await;
}

// Promises 33, 34, 37.
#[tokio::test]
async fn pseudo_fields_are_there_once_first_and_well_formed() {
    let whole = request("GET", "/svc/a");
    for missing in [0, 1, 2] {
        let mut fields = whole.to_vec();
        let (name, _) = fields.remove(missing);
        check_refused(&format!("no {name}"), &get(&fields)).await;
    }
    for twice in whole {
        let fields: Vec<_> = whole.into_iter().chain([twice]).collect();
        check_refused(&format!("{} twice", twice.0), &get(&fields)).await;
    }
    for late in whole {
        let mut fields: Vec<_> = whole.into_iter().filter(|field| *field != late).collect();
        fields.extend([("x-a", "1"), late]);
        check_refused(&format!("{} after a field", late.0), &get(&fields)).await;
    }
    for more in [(":status", "200"), (":x", "1"), (":", "1"), (":Path", "/svc/a"), (":protocol", "websocket")]
    {
        let fields: Vec<_> = whole.into_iter().chain([more]).collect();
        check_refused(&format!("{more:?}"), &get(&fields)).await;
    }
    check_refused("no fields at all", &get(&[])).await;
    let replaced = |name: &'static str, value: &'static str| {
        let put =
            move |field: (&'static str, &'static str)| if field.0 == name { (name, value) } else { field };
        get(&whole.map(put))
    };
    for (name, value) in [
        (":path", ""),
        (":path", "svc/a"),
        (":path", "*"),
        (":path", "elsewhere:80"),
        (":path", "http://elsewhere/svc/a"),
        (":path", "http://localhost/svc/a"),
        (":path", "//elsewhere/svc/a"),
        (":path", "/svc/a b"),
        (":path", "/svc/a HTTP/1.1\r\nx-a: 1\r\n\r\n"),
        (":path", "/svc/a\r\nx-a: 1"),
        (":path", "/svc/a\n"),
        (":path", "/svc/a\0"),
        (":path", "/svc/a\t"),
        (":path", "/svc/a\x7f"),
        (":path", "/svc/\u{e9}"),
        (":path", "/svc/a?\u{e9}"),
        (":path", "/svc/a\\b"),
        (":path", "/svc/../identity"),
        (":path", " /svc/a"),
        (":path", "#/svc/a"),
        (":method", ""),
        (":method", "get"),
        (":method", "Delete"),
        (":method", "TRACE"),
        (":method", "trace"),
        (":method", "CONNECT"),
        (":method", "connect"),
        (":method", "G T"),
        (":method", "GET /svc/hidden HTTP/1.1\r\nhost: a\r\n\r\nGET"),
        (":method", "GET\r\n"),
        (":method", "GET\0"),
        (":scheme", ""),
        (":scheme", "ftp"),
        (":scheme", "file"),
        (":scheme", "ht tp"),
        (":scheme", "http://elsewhere/"),
        (":scheme", "http\r\nx: 1"),
        (":authority", "user@localhost"),
        (":authority", "user:pass@localhost"),
        (":authority", "local host"),
        (":authority", "localhost/svc"),
        (":authority", "localhost?a"),
        (":authority", "localhost#a"),
        (":authority", "localhost\r\nx-a: 1"),
        (":authority", "localhost\0"),
        (":authority", "localhost:a:b"),
    ] {
        check_refused(&format!("{name}: {value:?}"), &replaced(name, value)).await;
    }
    check_refused("CONNECT", &get(&[(":method", "CONNECT"), (":authority", "elsewhere:80")])).await;
    let websocket = [(":method", "CONNECT"), (":protocol", "websocket")];
    let extended: Vec<_> = websocket.into_iter().chain(whole.into_iter().skip(1)).collect();
    check_refused("extended CONNECT", &get(&extended)).await;
}

// Promises 31, 36, 37.
#[tokio::test]
async fn a_body_has_the_length_that_was_announced() {
    for (length, pieces) in [
        ("4", &["hello"][..]),
        ("6", &["hello"]),
        ("0", &["hello"]),
        ("10", &["hello", "hell"]),
        ("10", &["hello", "hello", "!"]),
        ("70000", &["hello"]),
        ("x", &["hello"]),
        ("+5", &["hello"]),
        (" 5", &["hello"]),
        ("5,5", &["hello"]),
    ] {
        check_refused(
            &format!("{length} for {pieces:?}"),
            &post(&[("content-length", length)], pieces, None),
        )
        .await;
    }
    // Announced, and the stream ends with its head.
    check_refused("no body", &get(&with(&[("content-length", "5")]))).await;
    for (fields, pieces) in [
        (&[("content-length", "10")][..], &["hello", "", "hello"][..]),
        (&[], &["hello", "hello"]),
        (&[], &["", "hellohello", ""]),
        (&[("expect", "100-continue")], &["hellohello"]),
        (&[("expect", "x")], &["hellohello"]),
    ] {
        check_served("a body", &post(fields, pieces, None), "POST /v1/a HTTP/1.1", "hellohello").await;
    }
}

// Promises 20, 23, 29, 37.
#[tokio::test]
async fn trailers_are_fields_and_nothing_else() {
    for trailers in [
        &[("x-a", "1"), (":method", "GET")][..],
        &[(":method", "GET"), (":method", "GET")],
        &[(":x", "1")],
        &[("X-A", "1")],
        &[("connection", "close")],
        &[("transfer-encoding", "chunked")],
        &[("x-a", "a\r\nb: c")],
        &[("x-a", "a\0")],
        &[("x a", "1")],
    ] {
        check_refused(&format!("{trailers:?}"), &post(&[], &["hello"], Some(trailers))).await;
    }
    // The library drops a pseudo-field that leads trailers: nothing of it leaves.
    for trailers in [&[(":path", "/svc/hidden")][..], &[(":status", "200"), ("x-sum", "1")]] {
        let frames = post(&[], &["hello"], Some(trailers));
        let request = check_served("a pseudo-field", &frames, "POST /v1/a HTTP/1.1", "hello").await;
        assert!(request.trailers.iter().all(|(name, _)| name == "x-sum"), "{request:?}");
    }
    let mut unfinished = post(&[], &["hello", ""], Some(&[]));
    unfinished.truncate(unfinished.len() - 9);
    unfinished.extend(frame(HEADERS, END_HEADERS, 1, &block(&[("x-a", "1")])));
    check_refused("trailers that don't end the stream", &unfinished).await;
    let trailers = [
        ("x-sum", "1"),
        ("x-auth-token", "mine"),
        ("x_auth_token", "mine"),
        ("x-roles", "admin"),
        ("content-length", "9"),
        ("host", "elsewhere"),
        ("cookie", "a=b"),
        ("te", "trailers"),
        ("trailer", "x-sum"),
    ];
    let frames = post(&[], &["hello"], Some(&trailers));
    let request = check_served("trailers", &frames, "POST /v1/a HTTP/1.1", "hello").await;
    assert!(request.trailers.iter().all(|(name, value)| name == "x-sum" && value == b"1"), "{request:?}");
}

// Promises 20, 21, 22, 23, 24, 32, 37.
#[tokio::test]
async fn what_is_downgraded_says_what_was_asked_and_no_more() {
    let fields = with(&[
        ("te", "trailers"),
        ("cookie", "a=1"),
        ("cookie", "b=2"),
        ("x-auth-token", "mine"),
        ("x_auth_token", "mine"),
        ("x-storage-token", "mine"),
        ("x-service-token", "mine"),
        ("x-identity_status", "Confirmed"),
        ("authorization", "Basic a"),
        ("proxy-authorization", "Basic a"),
        ("forwarded", "for=1"),
        ("x-forwarded-host", "elsewhere"),
        ("via", "2 elsewhere"),
        ("http2-settings", "AAMAAABk"),
        ("trailer", "x-sum"),
        ("x-http-method-override", "DELETE"),
        ("content_length", "9"),
        ("transfer_encoding", "chunked"),
        ("x-a", "1"),
        ("x-a", "2"),
        ("x-empty", ""),
        ("x-odd", "a  b\tc \u{e9}"),
        ("x!#$%&'*+.^`|~", "1"),
    ]);
    let request = check_served("fields", &get(&fields), "GET /v1/a HTTP/1.1", "").await;
    let arrived: Vec<_> = request.fields.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(arrived, ["host", "x-a", "x-a", "x-empty", "x-odd", "x!#$%&'*+.^`|~", "x-auth-token"]);
    assert_eq!(request.value("x-odd"), Some("a  b\tc \u{e9}".as_bytes()));
    assert_ne!(request.value("host"), Some(&b"localhost"[..]));

    // A head in pieces is the same head.
    let whole = block(&with(&[("x-a", "1")]));
    let (first, rest) = whole.split_at(20);
    let mut frames = frame(HEADERS, END_STREAM, 1, first);
    frames.extend(frame(CONTINUATION, 0, 1, &rest[..5]));
    frames.extend(frame(CONTINUATION, END_HEADERS, 1, &rest[5..]));
    check_served("pieces", &frames, "GET /v1/a HTTP/1.1", "").await;
}

// Promises 37, 38.
#[tokio::test]
async fn a_stream_that_was_answered_early_may_still_end_and_is_still_watched() {
    let service = Recorder::start().await;
    let keyway = Keyway::start(fixed_cloud(&service.url()));
    let mut client = Client::connect(keyway.address()).await;
    // No service is named: keyway answers before the body.
    client.send(frame(HEADERS, END_HEADERS, 1, &block(&request("POST", "/")))).await;
    client.answer(1).await;
    client.send(frame(HEADERS, END_HEADERS, 1, &block(&[("x-a", "trailers that end nothing")]))).await;
    let reset = client.until(|frame| frame.kind == RST_STREAM && frame.stream == 1).await.expect("a reset");
    assert_eq!(reset.code(), PROTOCOL_ERROR);
    client.send(frame(HEADERS, END_HEADERS, 3, &block(&request("POST", "/")))).await;
    client.answer(3).await;
    client.send(frame(DATA, END_STREAM, 3, b"hello")).await;
    client.get(5, "/svc/a").await;
    client.answer(5).await;
}

// Promise 33.
#[tokio::test]
async fn a_fragment_never_leaves() {
    for path in ["/svc/a#b", "/svc/a#", "/svc/a?b#c"] {
        let outcome = send(&get(&request("GET", path))).await;
        for request in outcome.arrived {
            assert!(!request.line.contains('#'), "{request:?}");
        }
    }
}

// Promises 37, 42.
#[tokio::test]
async fn odd_but_legal_paths_pass_unchanged() {
    for path in
        ["/a%2Fb", "/a%2fb", "//", "/a//b/", "/a?", "/a??b=c", "/a?x=/../y", "/a;v=1:b@c!$&'()*+,=", "/a%zz"]
    {
        let frames = get(&request("GET", &format!("/svc{path}")));
        check_served(path, &frames, &format!("GET /v1{path} HTTP/1.1"), "").await;
    }
}
