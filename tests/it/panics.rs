//! A defect of keyway's own: what a panic takes with it.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body::Frame;
use http_body_util::{BodyExt as _, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use keyway::incoming::Incoming;
use keyway::server;
use tokio::net::TcpStream;
use tokio::sync::watch;

use crate::support::raw::Peer;
use crate::support::{Connection, bounded, request};

/// A server whose handler panics where the path says so.
async fn panicking() -> (std::net::SocketAddr, server::Drain) {
    let config = server::Config::at("127.0.0.1:0".parse().expect("an address"));
    let socket = server::bind(&config, 1).expect("a free port").pop().expect("one was asked for");
    let address = socket.address().tcp().expect("an IP address");
    let limits = server::Limits {
        connections: 100,
        requests: 100,
        per_client: None,
        handshake: Duration::from_secs(3600),
        head: Duration::from_secs(3600),
        keepalive: Duration::from_secs(3600),
        stall: Duration::from_secs(3600),
        min_rate: 0,
    };
    let (settings, _) =
        watch::channel(server::Settings { limits, tls: None, users: server::Users::default() });
    let fallback = server::Fallback {
        overloaded: |_| answer(503, Then::End),
        panicked: || answer(500, Then::End),
        late: || answer(408, Then::End),
    };
    let drain = server::Drain::default();
    let handler = |_, request: Request<Incoming>| async move {
        match request.uri().path() {
            "/panic" => panic!("a handler's defect"),
            "/later" => {
                tokio::task::yield_now().await;
                panic!("a handler's defect, later")
            }
            "/wait" => tokio::time::sleep(Duration::from_millis(100)).await,
            "/body" => return answer(200, Then::Panic),
            _ => {}
        }
        answer(200, Then::End)
    };
    tokio::spawn(server::serve(
        socket,
        settings.subscribe(),
        handler,
        fallback,
        drain.clone(),
        Arc::default(),
        server::Clients::default(),
    ));
    (address, drain)
}

fn answer(status: u16, then: Then) -> Response<Words> {
    let mut response = Response::new(Words { first: Some(Bytes::from_static(b"whole")), then });
    *response.status_mut() = StatusCode::from_u16(status).expect("a status");
    response
}

/// An answer's body: one piece, and what comes then.
struct Words {
    first: Option<Bytes>,
    then: Then,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Then {
    End,
    Panic,
}

impl http_body::Body for Words {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        assert!(self.first.is_some() || self.then == Then::End, "a body's defect");
        Poll::Ready(self.first.take().map(|first| Ok(Frame::data(first))))
    }

    fn is_end_stream(&self) -> bool {
        self.first.is_none() && self.then == Then::End
    }
}

// Promise 72.
#[tokio::test(flavor = "multi_thread")]
async fn a_panic_in_a_handler_costs_its_request_and_nothing_else() {
    let (address, _drain) = panicking().await;
    let mut connection = Connection::open(address).await;
    let mut other = Connection::open(address).await;
    for path in ["/panic", "/later", "/fine", "/panic", "/fine"] {
        let expected = if path == "/fine" { 200 } else { 500 };
        let answer = connection.send(request(Method::GET, path, &[], "")).await;
        assert_eq!((answer.status, answer.text().as_str()), (expected, "whole"), "{path}");
        assert_eq!(other.send(request(Method::GET, "/fine", &[], "")).await.status, 200);
    }
    // Nobody gives a slot back late: more panics than there may be requests at a time.
    for _ in 0..300 {
        assert_eq!(connection.send(request(Method::GET, "/panic", &[], "")).await.status, 500);
    }
    assert_eq!(connection.send(request(Method::GET, "/fine", &[], "")).await.status, 200);
}

// Promise 72.
#[tokio::test(flavor = "multi_thread")]
async fn a_panic_in_one_http2_stream_leaves_the_others_alone() {
    let (address, _drain) = panicking().await;
    let stream = TcpStream::connect(address).await.unwrap();
    let (sender, connection) = hyper::client::conn::http2::handshake::<_, _, Full<Bytes>>(
        TokioExecutor::new(),
        TokioIo::new(stream),
    )
    .await
    .unwrap();
    tokio::spawn(connection);
    let ask = |path: &str| {
        let request = Request::get(format!("http://{address}{path}")).body(Full::default()).unwrap();
        let answer = sender.clone().send_request(request);
        async move {
            let (parts, body) =
                bounded("an answer", answer).await.expect("the connection lives").into_parts();
            let whole = bounded("its body", body.collect()).await.is_ok();
            whole.then_some(parts.status.as_u16())
        }
    };
    let (waiting, broken, later) = tokio::join!(ask("/wait"), ask("/panic"), ask("/later"));
    assert_eq!((waiting, broken, later), (Some(200), Some(500), Some(500)));
    let (waiting, cut) = tokio::join!(ask("/wait"), ask("/body"));
    assert_eq!((waiting, cut), (Some(200), None), "the cut is seen");
    assert_eq!(ask("/fine").await, Some(200));
}

// Promise 72.
#[tokio::test(flavor = "multi_thread")]
async fn a_panic_in_an_answers_body_is_a_visible_cut_and_other_connections_go_on() {
    let (address, _drain) = panicking().await;
    let mut other = Connection::open(address).await;
    // More than there may be connections at a time: each of them gives its place back.
    for _ in 0..200 {
        let mut client = Peer::connect(address).await;
        client.send("GET /body HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
        let read = client.rest().await;
        assert!(!read.ends_with(b"0\r\n\r\n"), "{:?}", String::from_utf8_lossy(&read));
        assert_eq!(other.send(request(Method::GET, "/fine", &[], "")).await.status, 200);
    }
}
