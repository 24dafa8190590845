//! Hostile and odd requests, byte by byte: what the client gets, and what the service gets.
//!
//! Every row of a table is sent to the real listener. The service's bytes are judged by a strict
//! reader and by many lenient ones (`support/judge.rs`), and the client's connection is tried once
//! more afterwards: a request that hides in another one would answer it.

use std::cell::RefCell;

use keyway::config::Config;
use proptest::prelude::*;
use proptest::strategy::ValueTree as _;
use proptest::test_runner::TestRunner;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::support::direct::{Keyway, TOKEN, fixed_cloud};
use crate::support::judge::{self, Request};
use crate::support::raw::{Recorder, Upstream, field, status, within};

/// keyway in front of a service that remembers every byte.
struct Wire {
    service: Recorder,
    keyway: Keyway,
    judged: RefCell<Vec<Judged>>,
}

/// How much of a connection was looked at before: its whole requests, and all of its bytes.
#[derive(Clone, Copy, Default)]
struct Judged {
    whole: usize,
    all: usize,
}

/// What became of a client's bytes.
#[derive(Debug)]
struct Outcome {
    /// The statuses that answered them.
    answers: Vec<u16>,
    /// A further request on the same connection was answered.
    kept: bool,
    /// What arrived at the service.
    arrived: Vec<Request>,
    /// All that the client got.
    text: String,
}

impl Wire {
    async fn start() -> Self {
        Self::start_with(|_| {}).await
    }

    async fn start_with(change: impl FnOnce(&mut Config)) -> Self {
        let service = Recorder::start().await;
        let keyway = Keyway::start_with(fixed_cloud(&service.url()), change);
        Self { service, keyway, judged: RefCell::default() }
    }

    /// Sends bytes that are whole requests, or are refused; waits for `expected` answers or the end.
    async fn send(&self, bytes: impl AsRef<[u8]>, expected: usize) -> Outcome {
        let mut stream = TcpStream::connect(self.keyway.address()).await.expect("it listens");
        let _ = stream.write_all(bytes.as_ref()).await;
        let mut got = Vec::new();
        while answers(&got).len() < expected && read(&mut stream, &mut got).await {}
        let before = answers(&got);
        let probe = "GET /svc/probe HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
        let _ = stream.write_all(probe.as_bytes()).await;
        while read(&mut stream, &mut got).await {}
        let arrived = self.arrived().await;
        let probes = arrived.iter().filter(|request| request.line == "GET /v1/probe HTTP/1.1").count();
        let kept = answers(&got).len() > before.len();
        assert_eq!(usize::from(kept), probes, "{:?}", String::from_utf8_lossy(&got));
        let arrived = arrived.into_iter().filter(|request| !request.line.contains("/v1/probe ")).collect();
        Outcome { answers: before, kept, arrived, text: String::from_utf8_lossy(&got).into_owned() }
    }

    /// Sends bytes, and no more after them.
    async fn cut(&self, bytes: impl AsRef<[u8]>) -> Outcome {
        let mut stream = TcpStream::connect(self.keyway.address()).await.expect("it listens");
        let _ = stream.write_all(bytes.as_ref()).await;
        let _ = stream.shutdown().await;
        let mut got = Vec::new();
        while read(&mut stream, &mut got).await {}
        let text = String::from_utf8_lossy(&got).into_owned();
        Outcome { answers: answers(&got), kept: false, arrived: self.arrived().await, text }
    }

    /// The whole requests that arrived since it was asked last.
    async fn arrived(&self) -> Vec<Request> {
        // Whatever was sent before has arrived when this is answered.
        let mut client = self.keyway.connect().await;
        client.send("GET /svc/end HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").await;
        assert_eq!(status(&client.response().await.0), 200, "keyway serves on");
        let connections = self.service.connections();
        let mut judged = self.judged.borrow_mut();
        judged.resize(connections.len(), Judged::default());
        let mut arrived = Vec::new();
        for (connection, judged) in connections.iter().zip(judged.iter_mut()) {
            if connection.len() > judged.all {
                let requests = judge::signed(&connection[judged.whole..], TOKEN);
                judged.whole += requests.last().map_or(0, |request| request.end);
                judged.all = connection.len();
                arrived.extend(requests);
            }
        }
        arrived.retain(|request| request.line != "GET /v1/end HTTP/1.1");
        arrived
    }

    /// The bytes are answered with a refusal or a cut, and no request of them arrives.
    async fn refuses(&self, bytes: impl AsRef<[u8]>) -> Outcome {
        let bytes = bytes.as_ref();
        let outcome = self.send(bytes, 1).await;
        let case = bytes.escape_ascii();
        assert_eq!(outcome.answers.len(), 1, "{case}: {outcome:?}");
        assert!((400..600).contains(&outcome.answers[0]), "{case}: {outcome:?}");
        assert!(outcome.arrived.is_empty(), "{case}: {outcome:?}");
        outcome
    }

    /// The bytes are one request, answered with 200, that arrives once, with this line and body.
    async fn passes(&self, bytes: impl AsRef<[u8]>, line: &str, body: impl AsRef<[u8]>) -> Outcome {
        let bytes = bytes.as_ref();
        let outcome = self.send(bytes, 1).await;
        let case = bytes.escape_ascii();
        assert_eq!(outcome.answers, [200], "{case}: {outcome:?}");
        assert_eq!(outcome.arrived.len(), 1, "{case}: {outcome:?}");
        let request = &outcome.arrived[0];
        assert_eq!((request.line.as_str(), request.body.as_slice()), (line, body.as_ref()), "{case}");
        outcome
    }

    /// The bytes never become a whole request at the service, whether more of them come or not.
    async fn never_completes(&self, bytes: impl AsRef<[u8]>) {
        let bytes = bytes.as_ref();
        let outcome = self.cut(bytes).await;
        assert!(outcome.arrived.is_empty(), "{}: {outcome:?}", bytes.escape_ascii());
        assert!(!outcome.answers.contains(&200), "{}: {outcome:?}", bytes.escape_ascii());
    }
}

async fn read(stream: &mut TcpStream, got: &mut Vec<u8>) -> bool {
    let mut buffer = [0; 16 * 1024];
    let read = within("bytes or the end", stream.read(&mut buffer)).await.unwrap_or(0);
    got.extend_from_slice(&buffer[..read]);
    read > 0
}

/// The statuses of final answers whose heads are there.
fn answers(got: &[u8]) -> Vec<u16> {
    let text = String::from_utf8_lossy(got);
    // HTTP/1.0 is answered with its own version.
    let statuses = text.split("HTTP/1.").skip(1).filter(|answer| answer.contains("\r\n\r\n"));
    let statuses = statuses.map(|answer| answer[2..5].parse().expect("a status"));
    statuses.filter(|status| *status >= 200).collect()
}

const HIDDEN: &str = "GET /svc/hidden HTTP/1.1\r\nHost: localhost\r\n\r\n";
const CHUNKED_HELLO: &str = "5\r\nhello\r\n0\r\n\r\n";

fn post(fields: &str, body: &str) -> String {
    format!("POST /svc/a HTTP/1.1\r\nHost: localhost\r\n{fields}\r\n{body}")
}

const POSTED: &str = "POST /v1/a HTTP/1.1";
const GOT: &str = "GET /v1/a HTTP/1.1";

// Promises 25, 31, 32.
#[tokio::test]
async fn a_length_beside_a_coding_is_dropped_and_ends_the_connection() {
    let wire = Wire::start().await;
    let long = 5 + HIDDEN.len();
    for fields in [
        format!("Content-Length: {long}\r\nTransfer-Encoding: chunked\r\n"),
        format!("Transfer-Encoding: chunked\r\nContent-Length: {long}\r\n"),
        "Content-Length: 4\r\nTransfer-Encoding: chunked\r\n".to_owned(),
        "Content-Length: 0\r\nTransfer-Encoding: chunked\r\n".to_owned(),
        "Content-Length: 5\r\nTransfer-Encoding: Chunked\r\nContent-Length: 5\r\n".to_owned(),
        "transfer-encoding: CHUNKED\r\nX-A: 1\r\ncontent-length: 3\r\n".to_owned(),
    ] {
        for body in [
            format!("0\r\n\r\n{HIDDEN}"),
            format!("5\r\nhello\r\n0\r\n\r\n{HIDDEN}"),
            CHUNKED_HELLO.to_owned(),
        ] {
            let case = post(&fields, &body);
            let read = if body.starts_with('0') { "" } else { "hello" };
            let outcome = wire.passes(&case, POSTED, read).await;
            assert!(!outcome.kept, "{case:?}: {outcome:?}");
        }
    }
    for fields in [
        "Content-Length: x\r\nTransfer-Encoding: chunked\r\n",
        "Content-Length: 5\r\nContent-Length: 6\r\nTransfer-Encoding: chunked\r\n",
        "Content-Length: 5\r\nTransfer-Encoding: identity\r\n",
        "Content-Length: 5\r\nTransfer-Encoding:\r\n",
    ] {
        wire.refuses(post(fields, CHUNKED_HELLO)).await;
    }
}

// Promises 26, 27, 32.
#[tokio::test]
async fn every_coding_but_one_chunked_is_refused() {
    let wire = Wire::start().await;
    for coding in [
        "Transfer-Encoding: gzip, chunked",
        "Transfer-Encoding: gzip,chunked",
        "Transfer-Encoding: chunked, chunked",
        "Transfer-Encoding: chunked, identity",
        "Transfer-Encoding: identity, chunked",
        "Transfer-Encoding: identity",
        "Transfer-Encoding: gzip",
        "Transfer-Encoding: xchunked",
        "Transfer-Encoding: chunkedx",
        "Transfer-Encoding: x chunked",
        "Transfer-Encoding: chunked;",
        "Transfer-Encoding: chunked;q=1",
        "Transfer-Encoding: chunked,",
        "Transfer-Encoding: ,chunked",
        "Transfer-Encoding: , chunked,",
        "Transfer-Encoding: \"chunked\"",
        "Transfer-Encoding: 'chunked'",
        "Transfer-Encoding: \x0bchunked",
        "Transfer-Encoding: chunked\x0b",
        "Transfer-Encoding: \x0cchunked",
        "Transfer-Encoding: chunked\x7f",
        "Transfer-Encoding: chunk\0ed",
        "Transfer-Encoding: \u{a0}chunked",
        "Transfer-Encoding: c\u{125}unked",
        "Transfer-Encoding:",
        "Transfer-Encoding: ",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity",
        "Transfer-Encoding: identity\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: cow\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: cow",
        "Transfer-Encoding:\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding:\r\n chunked",
        "Transfer-Encoding: gzip\r\n\t, chunked",
        "Transfer-Encoding : chunked",
        "Transfer-Encoding\t: chunked",
        "Transfer-Encoding\0: chunked",
        "Transfer-Encoding\r: chunked",
        " Transfer-Encoding: chunked",
    ] {
        wire.refuses(post(&format!("{coding}\r\n"), CHUNKED_HELLO)).await;
    }
    for case in [
        "POST /svc/a HTTP/1.0\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
        "POST /svc/a HTTP/1.0\r\nHost: localhost\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
        "POST /svc/a HTTP/1.0\r\nHost: localhost\r\nConnection: keep-alive\r\nTransfer-Encoding: identity\r\n\r\nhello",
    ] {
        wire.refuses(case).await;
    }
    for coding in ["chunked", "Chunked", "CHUNKED", " \t chunked \t "] {
        let case = post(&format!("Transfer-Encoding:{coding}\r\n"), CHUNKED_HELLO);
        assert!(wire.passes(case, POSTED, "hello").await.kept);
    }
}

// Promises 28, 31, 32.
#[tokio::test]
async fn a_length_is_one_number_in_digits() {
    let wire = Wire::start().await;
    for length in [
        "+5",
        "-5",
        "-0",
        "0x5",
        "5,5",
        "5, 5",
        "5, 6",
        ",5",
        "5,",
        "5 5",
        "5\t5",
        "5;",
        "5.0",
        "5e0",
        "\"5\"",
        "'5'",
        "5\x0b",
        "\x0c5",
        "5\0",
        "",
        " ",
        "five",
        "0b101",
        "5_",
        "1_0",
        "18446744073709551615",
        "18446744073709551616",
        "18446744073709551621",
        "99999999999999999999",
        "340282366920938463463374607431768211461",
        "\u{ff15}",
        "\u{b2}",
        "5\r\n 5",
        "\r\n 5",
        "5\r\nContent-Length: 6",
        "6\r\nContent-Length: 5",
        "5\r\nContent-Length:",
        "\r\nContent-Length: 5",
        "5\r\nContent-Length: +5",
        "5\r\nContent-Length: 5\r\nContent-Length: 4",
    ] {
        let outcome = wire.refuses(post(&format!("Content-Length: {length}\r\n"), "hello")).await;
        assert!(!outcome.kept, "{length:?}: {outcome:?}");
    }
    // Leading zeros are digits, and so is the same number twice: what leaves is written anew.
    for length in
        ["5", "05", "0000000000000000000000005", "5\r\nContent-Length: 5", "5\r\ncontent-length: 05"]
    {
        let case = post(&format!("Content-Length: {length}\r\n"), "hello");
        let outcome = wire.passes(case, POSTED, "hello").await;
        assert_eq!(outcome.arrived[0].values("content-length"), [b"5"]);
        assert!(outcome.kept, "{length:?}: {outcome:?}");
    }
}

// Promises 29, 32, 36.
#[tokio::test]
async fn chunks_that_are_not_exact_never_become_a_whole_request() {
    let wire = Wire::start().await;
    let long = "a".repeat(20_000);
    let large = "z".repeat(500_000);
    for body in [
        "+5\r\nhello\r\n0\r\n\r\n",
        "-5\r\nhello\r\n0\r\n\r\n",
        "0x5\r\nhello\r\n0\r\n\r\n",
        "x5\r\nhello\r\n0\r\n\r\n",
        "5h\r\nhello\r\n0\r\n\r\n",
        "5_0\r\nhello\r\n0\r\n\r\n",
        "5.\r\nhello\r\n0\r\n\r\n",
        "5,5\r\nhello\r\n0\r\n\r\n",
        "\"5\"\r\nhello\r\n0\r\n\r\n",
        " 5\r\nhello\r\n0\r\n\r\n",
        "\t5\r\nhello\r\n0\r\n\r\n",
        "5 5\r\nhello\r\n0\r\n\r\n",
        "\r\n5\r\nhello\r\n0\r\n\r\n",
        ";a\r\nhello\r\n0\r\n\r\n",
        "\u{ff15}\r\nhello\r\n0\r\n\r\n",
        "5\0\r\nhello\r\n0\r\n\r\n",
        "5\x0b\r\nhello\r\n0\r\n\r\n",
        "ffffffffffffffff\r\nhello\r\n0\r\n\r\n",
        "10000000000000000\r\nhello\r\n0\r\n\r\n",
        "10000000000000005\r\nhello\r\n0\r\n\r\n",
        "100000000000000000000000000000005\r\nhello\r\n0\r\n\r\n",
        "5\nhello\r\n0\r\n\r\n",
        "5\rhello\r\n0\r\n\r\n",
        "5\r\rhello\r\n0\r\n\r\n",
        "5\n\nhello\r\n0\r\n\r\n",
        "5\r\nhelloXX0\r\n\r\n",
        "5\r\nhello\n0\r\n\r\n",
        "5\r\nhello\r0\r\n\r\n",
        "5\r\nhello0\r\n\r\n",
        "5\r\nhello!\r\n0\r\n\r\n",
        "5\r\nhello\r\n\n0\r\n\r\n",
        "4\r\nhello\r\n0\r\n\r\n",
        "6\r\nhello\r\n0\r\n\r\n",
        "5;a\nb\r\nhello\r\n0\r\n\r\n",
        "5;a\rb\r\nhello\r\n0\r\n\r\n",
        "5;\n\r\nhello\r\n0\r\n\r\n",
        &format!("5;{large}\r\nhello\r\n0\r\n\r\n"),
        "5\r\nhello\r\n0\n\n",
        "5\r\nhello\r\n0\n\r\n",
        "5\r\nhello\r\n0\r\n\r",
        "5\r\nhello\r\n0\r\n",
        "5\r\nhello\r\n0\r",
        "5\r\nhello\r\n0",
        "5\r\nhello\r\n-0\r\n\r\n",
        "5\r\nhello\r\n0x0\r\n\r\n",
        "5\r\nhello\r\n",
        "5\r\nhello",
        "5\r\nhel",
        "5\r\n",
        "5",
        "",
        "5\r\nhello\r\n0\r\nX-A: 1\r\n",
        "5\r\nhello\r\n0\r\nX-A\r\n\r\n",
        "5\r\nhello\r\n0\r\n: a\r\n\r\n",
        "5\r\nhello\r\n0\r\nX A: 1\r\n\r\n",
        "5\r\nhello\r\n0\r\nX-A : 1\r\n\r\n",
        "5\r\nhello\r\n0\r\nX-A: 1\r\n folded\r\n\r\n",
        "5\r\nhello\r\n0\r\nX-A: a\0b\r\n\r\n",
        "5\r\nhello\r\n0\r\nX-A: a\rb\r\n\r\n",
        &format!("5\r\nhello\r\n0\r\nX-A: {large}\r\n\r\n"),
        &format!("5\r\nhello\r\n0\r\n{}\r\n", "X-A: 1\r\n".repeat(20_000)),
        "z\r\nhello\r\n0\r\n\r\n",
        &format!("5;{long}\nhello\r\n0\r\n\r\n"),
    ] {
        wire.never_completes(post("Transfer-Encoding: chunked\r\n", body)).await;
    }
}

// Promises 29, 31, 32.
#[tokio::test]
async fn exact_chunks_arrive_without_their_extensions() {
    let wire = Wire::start().await;
    let extension = format!("5;{}\r\nhello\r\n0\r\n\r\n", "a".repeat(10_000));
    for body in [
        "5\r\nhello\r\n0\r\n\r\n",
        "05\r\nhello\r\n0\r\n\r\n",
        "0000000000000005\r\nhello\r\n000\r\n\r\n",
        "2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n",
        "5;a=b\r\nhello\r\n0;c\r\n\r\n",
        "5;a=\"b;c\"\r\nhello\r\n0\r\n\r\n",
        "5 \t;a\r\nhello\r\n0\r\n\r\n",
        "5 \r\nhello\r\n0\r\n\r\n",
        "5;0\r\nhello\r\n0\r\n\r\n",
        &extension,
    ] {
        let outcome = wire.passes(post("Transfer-Encoding: chunked\r\n", body), POSTED, "hello").await;
        assert!(outcome.kept, "{body:?}");
    }
    let bytes: String = (0..26)
        .map(|at| format!("A\r\n{}\r\n", "0123456789".replace('9', &((b'a' + at) as char).to_string())))
        .collect();
    let expected: String =
        (0..26).map(|at| "0123456789".replace('9', &((b'a' + at) as char).to_string())).collect();
    wire.passes(post("Transfer-Encoding: chunked\r\n", &format!("{bytes}0\r\n\r\n")), POSTED, expected).await;
}

// Promises 20, 22, 23, 29, 35.
#[tokio::test]
async fn trailers_arrive_but_none_that_frames_routes_or_vouches() {
    let wire = Wire::start().await;
    // Not whole when its head leaves, so that it stays chunked.
    let body = format!("{:x}\r\n{}\r\n", 200_000, "b".repeat(200_000));
    let trailers = "X-Sum: 1\r\nX-Auth-Token: mine\r\nx_auth_token: mine\r\nX-AUTH_TOKEN: mine\r\nX.Auth.Token: mine\r\n\
        X-Service-Token: mine\r\nX-Storage-Token: mine\r\nX_Identity_Status: Confirmed\r\nX-Roles: admin\r\n\
        Authorization: Basic a\r\nCookie: a=b\r\nProxy-Authorization: Basic a\r\nForwarded: for=1\r\n\
        X-Forwarded-For: 1\r\nContent-Length: 9\r\nContent_Length: 9\r\nTransfer-Encoding: gzip\r\n\
        Transfer_Encoding: chunked\r\nHost: elsewhere\r\nConnection: close\r\nKeep-Alive: timeout=1\r\n\
        TE: trailers\r\nUpgrade: h2c\r\nTrailer: x-sum\r\nExpect: 100-continue\r\nX-Hop: 1\r\n";
    let fields = "Transfer-Encoding: chunked\r\nTrailer: x-sum, x-auth-token\r\nConnection: x-hop\r\n";
    let case = post(fields, &format!("{body}0\r\n{trailers}\r\n"));
    let outcome = wire.passes(case, POSTED, "b".repeat(200_000)).await;
    let request = &outcome.arrived[0];
    assert_eq!(request.trailers, [("x-sum".to_owned(), b"1".to_vec())]);
    assert_eq!(request.value("trailer"), None);
    assert!(outcome.kept);
}

// Promises 30, 32.
#[tokio::test]
async fn lines_that_servers_read_differently_are_refused() {
    let wire = Wire::start().await;
    for line in [
        "X-A: a\rb",
        "X-A: a\r",
        "X-A: a\r\r",
        "X-A: a\rX-B: b",
        "X-A: a\0b",
        "X-A: \0",
        "X-A: a\x01b",
        "X-A: a\x0bb",
        "X-A: a\x1bb",
        "X-A: a\x7fb",
        "X-A: a\r\n folded",
        "X-A: a\r\n\tfolded",
        "X-A: a\r\n ",
        "X-A:\r\n folded",
        "X-A: a\n folded",
        "X-A : a",
        "X-A\t: a",
        "X-A\0: a",
        "X-A\r: a",
        "X-A\x0b: a",
        " X-A: a",
        "\tX-A: a",
        ": a",
        ":",
        " : a",
        "X A: a",
        "X-A",
        "X-A;b: a",
        "X(A): a",
        "X@A: a",
        "X\"A\": a",
        "X{A}: a",
        "X,A: a",
        "X/A: a",
        "X=A: a",
        "X[A]: a",
        "X<A>: a",
        "X?A: a",
        "X\\A: a",
        "X-\u{e9}: a",
        "\u{feff}X-A: a",
        "X-A\u{a0}: a",
        "\r",
        "\0",
        "\x0b",
        "GET /svc/hidden HTTP/1.1",
    ] {
        for case in [
            format!("GET /svc/a HTTP/1.1\r\n{line}\r\nHost: localhost\r\n\r\n"),
            format!("GET /svc/a HTTP/1.1\r\nHost: localhost\r\n{line}\r\n\r\n"),
            format!("GET /svc/a HTTP/1.1\r\nHost: localhost\r\nX-B: 1\r\n{line}\r\nX-C: 1\r\n\r\n"),
        ] {
            let outcome = wire.refuses(&case).await;
            assert!(!outcome.kept, "{case:?}: {outcome:?}");
        }
    }
}

// Promises 30, 32.
#[tokio::test]
async fn bare_line_feeds_are_repaired_into_whole_lines() {
    let wire = Wire::start().await;
    for case in [
        "GET /svc/a HTTP/1.1\nHost: localhost\nX-A: 1\n\n",
        "GET /svc/a HTTP/1.1\r\nHost: localhost\nX-A: 1\r\n\n",
        "GET /svc/a HTTP/1.1\nHost: localhost\r\nX-A: 1\n\r\n",
        "\r\nGET /svc/a HTTP/1.1\r\nHost: localhost\r\nX-A: 1\r\n\r\n",
        "\r\n\r\n\n\r\nGET /svc/a HTTP/1.1\r\nHost: localhost\r\nX-A: 1\r\n\r\n",
    ] {
        let outcome = wire.passes(case, GOT, "").await;
        assert_eq!(outcome.arrived[0].value("x-a"), Some(&b"1"[..]));
    }
    let case = "POST /svc/a HTTP/1.1\nHost: localhost\nTransfer-Encoding: chunked\n\n5\r\nhello\r\n0\r\n\r\n";
    wire.passes(case, POSTED, "hello").await;
    let case = "POST /svc/a HTTP/1.1\nHost: localhost\nContent-Length: 5\n\nhello";
    wire.passes(case, POSTED, "hello").await;
    // A value's own bytes end with the line, so nothing is left to smuggle.
    let case = "GET /svc/a HTTP/1.1\r\nHost: localhost\r\nX-A: 1\nX-Auth-Token: mine\r\n\r\n";
    let outcome = wire.passes(case, GOT, "").await;
    assert_eq!(outcome.arrived[0].value("x-a"), Some(&b"1"[..]));
}

// Promises 33, 34, 32.
#[tokio::test]
async fn request_lines_that_are_not_exact_are_refused() {
    let wire = Wire::start().await;
    for line in [
        "GET /svc/a",
        "GET /svc/a ",
        "GET",
        "GET ",
        "GET HTTP/1.1",
        "GET  HTTP/1.1",
        " GET /svc/a HTTP/1.1",
        "\tGET /svc/a HTTP/1.1",
        "GET  /svc/a HTTP/1.1",
        "GET /svc/a  HTTP/1.1",
        "GET /svc/a HTTP/1.1 ",
        "GET /svc/a HTTP/1.1 x",
        "GET\t/svc/a HTTP/1.1",
        "GET /svc/a\tHTTP/1.1",
        "GET\x0b/svc/a HTTP/1.1",
        "GET /svc/a HTTP/1.1\0",
        "GET /svc/a\0 HTTP/1.1",
        "GET /svc/a\x0b HTTP/1.1",
        "GET /svc/a\x7f HTTP/1.1",
        "GET /svc/a\rHTTP/1.1",
        "GET /svc/a b HTTP/1.1",
        "GET /svc/a?b c HTTP/1.1",
        "GET /svc/\u{e9} HTTP/1.1",
        "GET /svc/a?\u{e9} HTTP/1.1",
        "GET /svc/a\\b HTTP/1.1",
        "GET /svc/<a> HTTP/1.1",
        "GET /svc/a HTTP/0.9",
        "GET /svc/a HTTP/1.2",
        "GET /svc/a HTTP/1.",
        "GET /svc/a HTTP/1.11",
        "GET /svc/a HTTP/01.1",
        "GET /svc/a HTTP/1.01",
        "GET /svc/a HTTP/11",
        "GET /svc/a HTTP/2",
        "GET /svc/a HTTP/2.0",
        "GET /svc/a HTTP/3.0",
        "GET /svc/a http/1.1",
        "GET /svc/a Http/1.1",
        "GET /svc/a HTTPS/1.1",
        "GET /svc/a HTTP/1.1/1.1",
        "GET /svc/a HTTP\u{2044}1.1",
        "GET /svc/a ICY/1.1",
        "G ET /svc/a HTTP/1.1",
        "G:T /svc/a HTTP/1.1",
        "G(T /svc/a HTTP/1.1",
        "G\u{e9}T /svc/a HTTP/1.1",
        "G\0T /svc/a HTTP/1.1",
        " /svc/a HTTP/1.1",
        "get /svc/a HTTP/1.1",
        "Delete /svc/a HTTP/1.1",
        "CONNECT /svc/a HTTP/1.1",
        "CONNECT localhost HTTP/1.1",
        "CONNECT elsewhere:80 HTTP/1.1",
        "CONNECT http://localhost/svc/a HTTP/1.1",
        "connect elsewhere:80 HTTP/1.1",
        "Connect /svc/a HTTP/1.1",
        "TRACE /svc/a HTTP/1.1",
        "trace /svc/a HTTP/1.1",
        "TrAcE /svc/a HTTP/1.1",
        "PRI * HTTP/1.1",
        "PRI * HTTP/2.0",
    ] {
        for ending in ["\r\nHost: localhost\r\n\r\n", "\nHost: localhost\n\n"] {
            wire.refuses(format!("{line}{ending}")).await;
        }
    }
    let outcome = wire.refuses("get /svc/a HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
    assert_eq!(outcome.answers, [501]);
    assert!(outcome.text.contains("x-keyway-error: bad_method\r\n"), "{outcome:?}");
    let case = "GET /svc/a HTTP/1.0\r\nHost: localhost\r\n\r\n";
    assert!(!wire.passes(case, GOT, "").await.kept);
    let case = "X-ODD!METHOD /svc/a HTTP/1.1\r\nHost: localhost\r\n\r\n";
    wire.passes(case, "X-ODD!METHOD /v1/a HTTP/1.1", "").await;
}

// Promise 33.
#[tokio::test]
async fn a_fragment_is_refused_wherever_the_line_is_cut() {
    let wire = Wire::start().await;
    for target in [
        "/svc/a#",
        "/svc/a#b",
        "/svc/a?b#c",
        "/svc/a?b=c#/../d",
        "http://localhost/svc/a#b",
        "/svc/a#\u{e9}",
        "/#/svc/a",
    ] {
        let outcome = wire.refuses(format!("GET {target} HTTP/1.1\r\nHost: localhost\r\n\r\n")).await;
        assert_eq!(outcome.answers, [400], "{target}: {outcome:?}");
        assert!(outcome.kept, "{target}: {outcome:?}");
    }
    let behind_empty_lines = "\r\n\r\nGET /svc/a#b HTTP/1.1\r\nHost: localhost\r\n\r\n";
    assert_eq!(wire.refuses(behind_empty_lines.to_owned()).await.answers, [400]);
    // Piece by piece (the pauses make several reads of them), and as a later request of a connection.
    let mut client = wire.keyway.connect().await;
    for _ in 0..2 {
        for piece in ["GE", "T /svc/a", "?b", "#c HT", "TP/1.1\r", "\nHost: localhost\r\n", "\r\n"] {
            client.send(piece).await;
            tokio::time::sleep(std::time::Duration::from_millis(2)).await;
        }
        assert_eq!(status(&client.response().await.0), 400);
        client.send("GET /svc/a?b HTTP/1.1\r\nHost: localhost\r\nX-A: /a#b HTTP/1.1\r\n\r\n").await;
        assert_eq!(status(&client.response().await.0), 200);
        let body = "GET /svc/a#b HTTP/1.1\r\n\r\n";
        client.send(post(&format!("Content-Length: {}\r\n", body.len()), "")).await;
        client.send(body).await;
        assert_eq!(status(&client.response().await.0), 200);
    }
    let arrived: Vec<_> = wire.arrived().await.into_iter().map(|request| request.line).collect();
    assert_eq!(arrived, ["GET /v1/a?b HTTP/1.1", POSTED, "GET /v1/a?b HTTP/1.1", POSTED]);
}

// Promise 37.
#[tokio::test]
async fn another_protocol_gets_no_answer_that_it_could_mistake() {
    let wire = Wire::start().await;
    for line in ["INVALID CONNECTION PREFACE\r\n\r\n", "RCPT TO: <a@example>\r\n", "a b c\r\n"] {
        let outcome = wire.cut(line).await;
        assert_eq!((outcome.text.as_str(), outcome.arrived.len()), ("", 0), "{line:?}: {outcome:?}");
    }
}

// Promises 19, 33.
#[tokio::test]
async fn no_target_names_another_host() {
    let wire = Wire::start().await;
    for target in [
        "http://elsewhere/svc/a",
        "http://elsewhere:80/svc/a",
        "http://localhost:1/svc/a",
        "http://localhost.elsewhere/svc/a",
        "http://localhost@elsewhere/svc/a",
        "http://elsewhere@localhost/svc/a",
        "http://user:pass@localhost/svc/a",
        "http://localhost%2eelsewhere/svc/a",
        "http://localhost\\@elsewhere/svc/a",
        "http:///svc/a",
        "http:/svc/a",
        "http:svc/a",
        "http://",
        "https://localhost/svc/a",
        "ftp://localhost/svc/a",
        "file:///svc/a",
        "ws://localhost/svc/a",
        "javascript://localhost/svc/a",
        "//elsewhere/svc/a",
        "//localhost/svc/a",
        "///svc/a",
        "elsewhere:80",
        "localhost",
        "localhost:8180",
        "localhost/svc/a",
        "svc/a",
        "?a",
        "@elsewhere/svc/a",
        ":80/svc/a",
        "*",
        "**",
        "%2fsvc%2fa",
    ] {
        for method in ["GET", "OPTIONS"] {
            wire.refuses(format!("{method} {target} HTTP/1.1\r\nHost: localhost\r\n\r\n")).await;
        }
    }
    for (target, host) in [("http://localhost/svc/a", "localhost"), ("HTTP://LOCALHOST/svc/a", "localhost")] {
        let case = format!("GET {target} HTTP/1.1\r\nHost: {host}\r\n\r\n");
        let outcome = wire.passes(case, GOT, "").await;
        assert_ne!(outcome.arrived[0].value("host"), Some(&b"localhost"[..]));
    }
}

// Promises 20, 21, 22, 23, 24, 43.
#[tokio::test]
async fn what_only_keyway_may_say_stays_behind_in_every_spelling() {
    let wire = Wire::start().await;
    let names = [
        "X-Auth-Token",
        "X-Storage-Token",
        "X-Service-Token",
        "X-Service-Roles",
        "X-Service-Project-Id",
        "X-Service-Catalog",
        "X-Identity-Status",
        "X-User",
        "X-User-Id",
        "X-User-Domain-Name",
        "X-Project-Id",
        "X-Project-Domain-Id",
        "X-Domain-Id",
        "X-Tenant",
        "X-Tenant-Id",
        "X-Role",
        "X-Roles",
        "X-Is-Admin-Project",
        "OpenStack-System-Scope",
        "Remote-User",
        "SSL-Client-Verify",
        "SSL-Client-S-DN",
        "Authorization",
        "Cookie",
        "Proxy-Authorization",
        "Proxy-Connection",
        "Proxy",
        "Forwarded",
        "X-Forwarded",
        "X-Forwarded-For",
        "X-Forwarded-Host",
        "X-Forwarded-Proto",
        "X-Forwarded-Prefix",
        "X-Forwarded-Port",
        "X-Real-IP",
        "Via",
        "X-HTTP-Method-Override",
        "X-HTTP-Method",
        "X-Method-Override",
        "X-Original-URL",
        "X-Rewrite-URL",
        "Keep-Alive",
        "TE",
        "Trailer",
        "Upgrade",
        "HTTP2-Settings",
    ];
    let mut fields = String::new();
    for name in names {
        let spellings = [
            name.to_owned(),
            name.to_uppercase(),
            name.to_lowercase(),
            name.replace('-', "_"),
            name.replacen('-', "_", 1),
            name.replace('-', "."),
        ];
        for spelling in spellings {
            // One of them alone, first and last.
            let case = format!(
                "GET /svc/a HTTP/1.1\r\n{spelling}: mine\r\nHost: localhost\r\nX-Object_Meta: 1\r\n{spelling}: mine\r\n\r\n"
            );
            fields = format!("{spelling}: mine\r\n");
            let outcome = wire.passes(case, GOT, "").await;
            let arrived: Vec<_> = outcome.arrived[0].fields.iter().map(|(name, _)| name.as_str()).collect();
            assert_eq!(arrived, ["host", "x-object_meta", "x-auth-token"], "{spelling}");
        }
    }
    assert!(!fields.is_empty());
}

// Promises 20, 35.
#[tokio::test]
async fn connection_takes_out_what_it_names_but_nothing_that_keyway_writes() {
    let wire = Wire::start().await;
    for connection in [
        "Connection: x-auth-token, host, content-length, transfer-encoding, x-hop, X-OTHER",
        "Connection: X-Auth-Token\r\nConnection: Host, X-Hop\r\nConnection: Content-Length,x-other",
        "Connection: close, x-hop ,, \tx-other\t, x_auth_token, expect",
        "connection: keep-alive, X-Hop, x-other, authorization",
    ] {
        let case = post(
            &format!("Content-Length: 5\r\n{connection}\r\nX-Hop: 1\r\nX-Other: 1\r\nX-Kept: 1\r\n"),
            "hello",
        );
        let outcome = wire.passes(case, POSTED, "hello").await;
        let arrived: Vec<_> = outcome.arrived[0].fields.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(arrived, ["host", "x-kept", "x-auth-token", "content-length"], "{connection}");
        assert_eq!(outcome.kept, !connection.contains("close"), "{connection}");
        let case = post(
            &format!("Transfer-Encoding: chunked\r\n{connection}\r\nX-Hop: 1\r\nX-Other: 1\r\n"),
            CHUNKED_HELLO,
        );
        wire.passes(case, POSTED, "hello").await;
    }
    let many: Vec<_> = (0..64).map(|at| format!("x-{at}")).collect();
    let case = format!("GET /svc/a HTTP/1.1\r\nHost: localhost\r\nConnection: {}\r\n\r\n", many.join(","));
    wire.passes(case, GOT, "").await;
    let case = format!("GET /svc/a HTTP/1.1\r\nHost: localhost\r\nConnection: {},x\r\n\r\n", many.join(","));
    assert_eq!(wire.refuses(case).await.answers, [400]);
}

// Promises 34, 35.
#[tokio::test]
async fn an_upgrade_is_an_ordinary_request() {
    let wire = Wire::start().await;
    for fields in [
        "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQCAAAAAAIAAAAA\r\n",
        "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n",
        "Upgrade: TLS/1.2, HTTP/1.1\r\nConnection: upgrade\r\n",
        "Upgrade: h2c\r\n",
    ] {
        let case = format!("GET /svc/a HTTP/1.1\r\nHost: localhost\r\n{fields}\r\n");
        let outcome = wire.passes(case, GOT, "").await;
        assert!(outcome.kept, "{fields:?}: {outcome:?}");
        // What follows is a request, and never a stream of its own.
        let case = format!("GET /svc/a HTTP/1.1\r\nHost: localhost\r\n{fields}\r\n{HIDDEN}");
        let outcome = wire.send(case, 2).await;
        assert_eq!((outcome.answers.as_slice(), outcome.arrived.len()), (&[200, 200][..], 2), "{outcome:?}");
        let case = post(&format!("{fields}Content-Length: {}\r\n", HIDDEN.len()), HIDDEN);
        wire.passes(case, POSTED, HIDDEN).await;
    }
}

// Promise 39.
#[tokio::test]
async fn a_client_that_expects_100_gets_it_and_other_expectations_are_dropped() {
    let wire = Wire::start().await;
    for expect in [
        "Expect: 100-continue",
        "expect: 100-Continue",
        "Expect: 100-continue\r\nExpect: 100-continue",
        "Expect: 200-ok",
        "Expect: 100-continue, x",
        "Expect: x\r\nExpect: 100-continue",
        "Expect: ",
        "Expect: 100",
    ] {
        for (framing, body) in [("Content-Length: 5", "hello"), ("Transfer-Encoding: chunked", CHUNKED_HELLO)]
        {
            let case = post(&format!("{expect}\r\n{framing}\r\n"), body);
            let outcome = wire.passes(case, POSTED, "hello").await;
            // Upstream, keyway asks for itself, in one way.
            let asked = outcome.arrived[0].value("expect");
            assert!(matches!(asked, None | Some(b"100-continue")), "{expect}: {outcome:?}");
            assert!(outcome.kept, "{expect}: {outcome:?}");
        }
    }
    // A client that does wait.
    let service = Upstream::start().await;
    let keyway = Keyway::before(&service);
    let mut client = keyway.connect().await;
    client.send(post("Expect: 100-continue\r\nContent-Length: 5\r\n", "")).await;
    let mut server = service.accept().await;
    assert_eq!(field(&server.head().await, "expect"), Some("100-continue"));
    server.send("HTTP/1.1 100 Continue\r\n\r\n").await;
    assert_eq!(status(&client.head().await), 100);
    client.send("hello").await;
    assert_eq!(server.take(5).await, b"hello");
    server.send("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await;
    assert_eq!(status(&client.head().await), 200);
}

// Promises 36, 38.
#[tokio::test]
async fn a_body_that_breaks_off_never_completes() {
    let wire = Wire::start().await;
    for (length, sent) in [(1, 0), (5, 4), (100, 99), (70_000, 69_999), (300_000, 299_999), (300_000, 1)] {
        for method in ["POST", "PUT", "GET", "DELETE", "OPTIONS"] {
            let head =
                format!("{method} /svc/a HTTP/1.1\r\nHost: localhost\r\nContent-Length: {length}\r\n\r\n");
            wire.never_completes(format!("{head}{}", "b".repeat(sent))).await;
            let head =
                format!("{method} /svc/a HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n");
            wire.never_completes(format!("{head}{length:x}\r\n{}", "b".repeat(sent))).await;
            wire.never_completes(format!("{head}{length:x}\r\n{}\r\n", "b".repeat(length))).await;
        }
    }
    for head in [
        "",
        "G",
        "GET /svc/a",
        "GET /svc/a HTTP/1.1\r\nHost: localhost\r\n",
        "GET /svc/a HTTP/1.1\r\nHost: localhost\r\n\r",
    ] {
        wire.never_completes(head).await;
    }
}

// Promise 38.
#[tokio::test]
async fn bodies_of_any_method_are_the_request_s_own() {
    let wire = Wire::start().await;
    for method in ["GET", "DELETE", "OPTIONS", "PATCH", "PUT", "POST", "COPY", "PROPFIND"] {
        let line = format!("{method} /v1/a HTTP/1.1");
        let head = format!("{method} /svc/a HTTP/1.1\r\nHost: localhost\r\n");
        let length = HIDDEN.len();
        let case = format!("{head}Content-Length: {length}\r\n\r\n{HIDDEN}");
        wire.passes(case, &line, HIDDEN).await;
        let case = format!("{head}Transfer-Encoding: chunked\r\n\r\n{length:x}\r\n{HIDDEN}\r\n0\r\n\r\n");
        wire.passes(case, &line, HIDDEN).await;
        wire.passes(format!("{head}Content-Length: 0\r\n\r\n"), &line, "").await;
        wire.passes(format!("{head}\r\n"), &line, "").await;
    }
    // The answer to HEAD has no body, whatever the request had.
    let service = Upstream::start().await;
    let keyway = Keyway::before(&service);
    let mut client = keyway.connect().await;
    let length = HIDDEN.len();
    client
        .send(format!("HEAD /svc/a HTTP/1.1\r\nHost: localhost\r\nContent-Length: {length}\r\n\r\n{HIDDEN}"))
        .await;
    let mut server = service.accept().await;
    assert_eq!(field(&server.head().await, "content-length"), Some(length.to_string().as_str()));
    assert_eq!(server.take(length).await, HIDDEN.as_bytes());
    server.send("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n").await;
    assert_eq!(status(&client.head().await), 200);
    drop((client, keyway));
    assert_eq!(server.rest().await, b"");
}

// Promise 38.
#[tokio::test]
async fn pipelined_requests_are_taken_one_by_one() {
    let wire = Wire::start().await;
    let all = [
        post("Content-Length: 5\r\n", "first"),
        "GET /svc/b HTTP/1.1\r\nHost: localhost\r\n\r\n".to_owned(),
        post("Transfer-Encoding: chunked\r\n", CHUNKED_HELLO),
        "DELETE /svc/c HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n\r\nno".to_owned(),
        "\r\nGET /svc/d HTTP/1.1\r\nHost: localhost\r\n\r\n".to_owned(),
        // Answered by keyway itself, with a body that nobody reads.
        "PUT /nothing HTTP/1.1\r\nHost: localhost\r\nContent-Length: 4\r\n\r\nbody".to_owned(),
        "GET /svc/e HTTP/1.1\r\nHost: localhost\r\n\r\n".to_owned(),
    ]
    .concat();
    // In one piece, and cut in two at every place.
    let outcome = wire.send(&all, 7).await;
    assert_eq!(outcome.answers.len(), 7, "{outcome:?}");
    let lines: Vec<_> = outcome.arrived.iter().map(|r| (r.line.as_str(), r.body.as_slice())).collect();
    assert_eq!(
        lines,
        [
            (POSTED, &b"first"[..]),
            ("GET /v1/b HTTP/1.1", b""),
            (POSTED, b"hello"),
            ("DELETE /v1/c HTTP/1.1", b"no"),
            ("GET /v1/d HTTP/1.1", b""),
            ("PUT /v1 HTTP/1.1", b"body"),
            ("GET /v1/e HTTP/1.1", b""),
        ]
    );
}

// Promise 38.
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

// Promise 56.
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

// Promises 38, 39.
#[tokio::test]
async fn a_body_that_nobody_reads_is_not_a_request() {
    let wire = Wire::start().await;
    // Each is refused by keyway without looking at the body.
    for head in [
        "POST / HTTP/1.1\r\nHost: localhost\r\n",
        "POST /svc/../a HTTP/1.1\r\nHost: localhost\r\n",
        "TRACE /svc/a HTTP/1.1\r\nHost: localhost\r\n",
    ] {
        for framing in [
            format!("Content-Length: {}\r\n\r\n{HIDDEN}", HIDDEN.len()),
            format!("Transfer-Encoding: chunked\r\n\r\n{:x}\r\n{HIDDEN}\r\n0\r\n\r\n", HIDDEN.len()),
            format!("Expect: 100-continue\r\nContent-Length: {}\r\n\r\n{HIDDEN}", HIDDEN.len()),
        ] {
            wire.refuses(format!("{head}{framing}")).await;
        }
    }
}

// Promises 30, 42.
#[tokio::test]
async fn odd_but_legal_bytes_pass_unchanged() {
    let wire = Wire::start().await;
    let targets = [
        "/a%2Fb",
        "/a%2fb",
        "/%41%5a",
        "//",
        "//a",
        "/a//b/",
        "/a/",
        "/a?",
        "/a??",
        "/a?b=c&b=c",
        "/a?b%20c+d",
        "/a?x=/../y",
        "/a?%2e%2e/",
        "/a;v=1",
        "/a:b@c!$&'()*+,=",
        "/~a",
        "/a%",
        "/a%zz",
        "/a%C3%A9",
        "/...",
        "/.a",
        "/a..",
        "/a?b=http://elsewhere/",
        "/{a}",
        "/a|b^c",
        "/a?[b]=`c`",
        "/a?{}|^~",
    ];
    for target in targets {
        let outcome = wire.send(format!("GET /svc{target} HTTP/1.1\r\nHost: localhost\r\n\r\n"), 1).await;
        if outcome.answers == [200] {
            assert_eq!(outcome.arrived[0].line, format!("GET /v1{target} HTTP/1.1"));
        } else {
            panic!("{target}: {outcome:?}");
        }
    }
    let values: [&[u8]; 9] = [
        b"plain",
        b"",
        b"a  b\tc",
        b"\"quoted, \\\"text\\\"\"",
        b"\xe9\xff\x80",
        "gr\u{fc}n \u{1f511}".as_bytes(),
        b"a,b;c=d",
        b"Transfer-Encoding: chunked",
        b"%0d%0aX-Auth-Token: mine",
    ];
    for value in values {
        let case =
            [b"GET /svc/a HTTP/1.1\r\nHost: localhost\r\nX-A: ", value, b"\r\nx!#$%&'*+.^`|~: 1\r\n\r\n"]
                .concat();
        let outcome = wire.passes(case, GOT, "").await;
        assert_eq!(outcome.arrived[0].value("x-a"), Some(value));
        assert_eq!(outcome.arrived[0].value("x!#$%&'*+.^`|~"), Some(&b"1"[..]));
    }
    let case = "GET /svc/a HTTP/1.1\r\nHost: localhost\r\nX-A: 1\r\nX-B: 2\r\nx-a: 3\r\n\r\n";
    let outcome = wire.passes(case, GOT, "").await;
    assert_eq!(outcome.arrived[0].values("x-a"), [b"1", b"3"]);
}

// Promises 32, 42.
#[tokio::test(flavor = "multi_thread")]
async fn any_legal_request_arrives_as_it_was() {
    let wire = Wire::start().await;
    let target = "(/[a-zA-Z0-9_~!$&'()*+,=:@-]{0,6}(%[0-9a-fA-F]{2})?){1,5}(\\?[a-zA-Z0-9%/?&=+:@-]{0,12})?";
    let field = ("[a-z]{1,8}", "([!-~\u{e9}]([ -~]{0,20}[!-~])?)?");
    let body = proptest::collection::vec(any::<u8>(), 0..300);
    let request = (target, proptest::collection::vec(field, 0..6), body, any::<bool>());
    let mut runner = TestRunner::new(ProptestConfig {
        cases: 200,
        failure_persistence: None,
        ..ProptestConfig::default()
    });
    let strategy = request.prop_map(|(target, fields, body, chunked)| {
        let fields: Vec<_> = fields.into_iter().map(|(name, value)| (format!("x-t{name}"), value)).collect();
        (target, fields, body, chunked)
    });
    for _ in 0..200 {
        let (target, fields, body, chunked) =
            strategy.new_tree(&mut runner).expect("a strategy without a filter").current();
        let path = target.split('?').next().unwrap_or_default();
        // A version in front is taken for one of the service's.
        let is_version = path.split('/').nth(1).is_some_and(keyway::proxy::rewrite::is_version);
        if is_version || keyway::route::Route::parse(&format!("/svc{path}")).is_err() {
            continue;
        }
        let mut case = format!("POST /svc{target} HTTP/1.1\r\nHost: localhost\r\n").into_bytes();
        for (name, value) in &fields {
            case.extend_from_slice(format!("{name}: {value}\r\n").as_bytes());
        }
        if chunked {
            case.extend_from_slice(b"Transfer-Encoding: chunked\r\n\r\n");
            for piece in body.chunks(70) {
                case.extend_from_slice(format!("{:X}\r\n", piece.len()).as_bytes());
                case.extend_from_slice(piece);
                case.extend_from_slice(b"\r\n");
            }
            case.extend_from_slice(b"0\r\n\r\n");
        } else {
            case.extend_from_slice(format!("Content-Length: {}\r\n\r\n", body.len()).as_bytes());
            case.extend_from_slice(&body);
        }
        let outcome = wire.passes(&case, &format!("POST /v1{target} HTTP/1.1"), &body).await;
        for (name, _) in &fields {
            let sent: Vec<_> =
                fields.iter().filter(|(key, _)| key == name).map(|(_, v)| v.as_bytes()).collect();
            assert_eq!(outcome.arrived[0].values(name), sent, "{}", case.escape_ascii());
        }
        assert!(outcome.kept);
    }
}
