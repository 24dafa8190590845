//! Clients that speak HTTP/2 with prior knowledge, in front of a service that speaks HTTP/1.1.

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, Response, Version};
use http_body::{Body as _, Frame};
use http_body_util::{BodyExt as _, Empty, Full};
use hyper::body::Incoming;
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo};
use std::pin::Pin;
use std::task::{Context, Poll};
use tokio::net::TcpStream;
use tokio::sync::mpsc;

use crate::support::direct::{Keyway, TOKEN, fixed_cloud};
use crate::support::judge;
use crate::support::raw::{Pattern, Recorder, Upstream, field, within};

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
const LENGTH: u64 = 32 << 20;

type Boxed = http_body_util::combinators::BoxBody<Bytes, std::io::Error>;
type Client = SendRequest<Boxed>;

async fn connect(keyway: &Keyway) -> Client {
    let stream = TcpStream::connect(keyway.address()).await.unwrap();
    let (client, connection) =
        http2::Builder::new(TokioExecutor::new()).handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    client
}

fn request(method: Method, path: &str, body: Boxed) -> Request<Boxed> {
    Request::builder().method(method).uri(format!("http://localhost{path}")).body(body).unwrap()
}

fn empty() -> Boxed {
    Empty::new().map_err(|never| match never {}).boxed()
}

fn full(bytes: impl Into<Bytes>) -> Boxed {
    Full::new(bytes.into()).map_err(|never| match never {}).boxed()
}

/// A body that the test feeds, and breaks off by sending an error.
struct Fed(mpsc::Receiver<std::io::Result<Frame<Bytes>>>);

impl http_body::Body for Fed {
    type Data = Bytes;
    type Error = std::io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<std::io::Result<Frame<Bytes>>>> {
        self.0.poll_recv(cx)
    }
}

fn fed() -> (mpsc::Sender<std::io::Result<Frame<Bytes>>>, Boxed) {
    let (sender, receiver) = mpsc::channel(1);
    (sender, Fed(receiver).boxed())
}

async fn send(client: &mut Client, request: Request<Boxed>) -> hyper::Result<Response<Incoming>> {
    client.ready().await?;
    within("an answer", client.send_request(request)).await
}

async fn body(response: Response<Incoming>) -> Bytes {
    within("a body", response.into_body().collect()).await.expect("a whole body").to_bytes()
}

// Promises 20, 32, 37.
#[tokio::test]
async fn a_get_leaves_as_one_plain_request() {
    let service = Upstream::start().await;
    let keyway = Keyway::before(&service);
    let mut client = connect(&keyway).await;
    let mut get = request(Method::GET, "/svc/a?b=c", empty());
    get.headers_mut().insert("x-auth-token", HeaderValue::from_static("mine"));
    get.headers_mut().insert("te", HeaderValue::from_static("trailers"));
    let (response, (_server, head)) = tokio::join!(send(&mut client, get), service.answer(OK));
    let expected =
        format!("GET /v1/a?b=c HTTP/1.1\r\nhost: {}\r\nx-auth-token: {TOKEN}\r\n\r\n", service.authority());
    assert_eq!(head, expected);
    let response = response.unwrap();
    assert_eq!((response.version(), response.status().as_u16()), (Version::HTTP_2, 200));
    assert_eq!(body(response).await, "ok");
}

// Promises 20, 31, 37.
#[tokio::test]
async fn bodies_get_their_framing_from_what_they_are() {
    let service = Upstream::start().await;
    let keyway = Keyway::before(&service);
    let mut client = connect(&keyway).await;
    let serve = async {
        let mut server = service.accept().await;
        let head = server.head().await;
        assert_eq!(field(&head, "content-length"), Some("5"));
        assert_eq!(server.take(5).await, b"hello");
        server.send(OK).await;
        let head = server.head().await;
        assert_eq!(
            (field(&head, "transfer-encoding"), field(&head, "content-length")),
            (Some("chunked"), None)
        );
        let (got, trailers) = server.chunked().await;
        assert_eq!((got.as_slice(), trailers.as_str()), (&b"hello"[..], "x-sum: 1\r\n"));
        server.send(OK).await;
    };
    let ask = async {
        let response = send(&mut client, request(Method::POST, "/svc/a", full("hello"))).await.unwrap();
        assert_eq!(response.status(), 200);
        body(response).await;
        let (sender, fed) = fed();
        let mut trailers = HeaderMap::new();
        trailers.insert("x-sum", HeaderValue::from_static("1"));
        trailers.insert("x-auth-token", HeaderValue::from_static("mine"));
        let feed = async {
            sender.send(Ok(Frame::data(Bytes::from_static(b"hello")))).await.unwrap();
            sender.send(Ok(Frame::trailers(trailers))).await.unwrap();
            drop(sender);
        };
        let (response, ()) = tokio::join!(send(&mut client, request(Method::PUT, "/svc/a", fed)), feed);
        assert_eq!(response.unwrap().status(), 200);
    };
    tokio::join!(serve, ask);
}

#[tokio::test]
async fn large_bodies_pass_both_ways() {
    let service = Upstream::start().await;
    let keyway = Keyway::before(&service);
    let mut client = connect(&keyway).await;
    let pattern = Pattern::new();
    let serve = async {
        let mut server = service.accept().await;
        server.head().await;
        server.send("HTTP/1.1 100 Continue\r\n\r\n").await;
        server.pattern(&pattern, LENGTH).await;
        server.send(OK).await;
        server.head().await;
        server.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {LENGTH}\r\n\r\n")).await;
        pattern.send(server.stream(), 0, LENGTH).await;
    };
    let ask = async {
        let (sender, fed) = fed();
        let feed = async move {
            let block = Bytes::from(Pattern::new().start(65_521));
            let mut left = LENGTH as usize;
            while left > 0 {
                let piece = block.slice(..left.min(block.len()));
                left -= piece.len();
                sender.send(Ok(Frame::data(piece))).await.unwrap();
            }
        };
        let mut put = request(Method::PUT, "/svc/o", fed);
        put.headers_mut().insert("content-length", LENGTH.into());
        let (response, ()) = tokio::join!(send(&mut client, put), feed);
        assert_eq!(response.unwrap().status(), 200);
        let mut response = send(&mut client, request(Method::GET, "/svc/o", empty())).await.unwrap();
        let mut at = 0;
        while let Some(frame) = within("a frame", response.body_mut().frame()).await {
            let data = frame.unwrap().into_data().unwrap();
            pattern.check(at, &data);
            at += data.len() as u64;
        }
        assert_eq!(at, LENGTH);
    };
    tokio::join!(serve, ask);
}

#[tokio::test]
async fn a_head_answer_keeps_its_length() {
    let service = Upstream::start().await;
    let keyway = Keyway::before(&service);
    let mut client = connect(&keyway).await;
    let answer = service.answer("HTTP/1.1 200 OK\r\nContent-Length: 1234\r\nConnection: keep-alive\r\n\r\n");
    let (response, _) = tokio::join!(send(&mut client, request(Method::HEAD, "/svc/o", empty())), answer);
    let response = response.unwrap();
    assert_eq!(response.headers()["content-length"], "1234");
    assert!(!response.headers().contains_key("connection"));
    assert_eq!(body(response).await, "");
}

#[tokio::test]
async fn parallel_streams_do_not_wait_for_each_other() {
    let service = Upstream::start().await;
    let keyway = Keyway::before(&service);
    let client = connect(&keyway).await;
    let mut tasks = tokio::task::JoinSet::new();
    for index in 0..20 {
        let mut client = client.clone();
        tasks.spawn(async move {
            let response =
                send(&mut client, request(Method::GET, &format!("/svc/{index}"), empty())).await.unwrap();
            assert_eq!(body(response).await, format!("/v1/{index}"));
        });
    }
    let mut servers = Vec::new();
    for _ in 0..20 {
        let mut server = service.accept().await;
        let head = server.head().await;
        servers.push((server, head.split(' ').nth(1).unwrap().to_owned()));
    }
    while let Some((mut server, path)) = servers.pop() {
        server.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{path}", path.len())).await;
    }
    while let Some(done) = tasks.join_next().await {
        done.unwrap();
    }
}

// Promises 36, 37.
#[tokio::test]
async fn a_body_that_is_not_as_long_as_announced_never_becomes_a_whole_request() {
    for (announced, sent) in [(10u64, "hello"), (3, "hello"), (0, "hello"), (200_000, "hello")] {
        let service = Recorder::start().await;
        let keyway = Keyway::start(fixed_cloud(&service.url()));
        let mut client = connect(&keyway).await;
        let mut post = request(Method::POST, "/svc/a", {
            let (sender, fed) = fed();
            sender.send(Ok(Frame::data(Bytes::from_static(sent.as_bytes())))).await.unwrap();
            fed
        });
        post.headers_mut().insert("content-length", announced.into());
        match send(&mut client, post).await {
            Ok(response) => assert!(response.status().as_u16() >= 400, "{announced}"),
            Err(error) => assert!(!error.is_timeout(), "{error}"),
        }
        let mut other = connect(&keyway).await;
        let response = send(&mut other, request(Method::GET, "/svc/end", empty())).await.unwrap();
        assert_eq!(response.status(), 200);
        for connection in service.connections() {
            for request in judge::signed(&connection, TOKEN) {
                assert!(request.line.contains("/end"), "{announced}: {request:?}");
            }
        }
    }
}

// Promises 36, 61.
#[tokio::test]
async fn an_upload_that_is_reset_closes_the_service_s_connection() {
    let service = Upstream::start().await;
    let keyway = Keyway::before(&service);
    let mut client = connect(&keyway).await;
    let (sender, fed) = fed();
    let put = request(Method::PUT, "/svc/o", fed);
    let serve = async {
        let mut server = service.accept().await;
        server.head().await;
        server.send("HTTP/1.1 100 Continue\r\n\r\n").await;
        server.until("first").await;
        sender.send(Err(std::io::Error::other("no more"))).await.unwrap();
        let rest = server.rest().await;
        assert!(!rest.ends_with(b"0\r\n\r\n"), "{rest:?}");
    };
    let feed = sender.send(Ok(Frame::data(Bytes::from_static(b"first"))));
    let (answer, _, ()) = tokio::join!(send(&mut client, put), feed, serve);
    assert!(answer.is_err());
}

// Promise 61.
#[tokio::test]
async fn a_request_that_is_given_up_ends_at_the_service() {
    let service = Upstream::start().await;
    let keyway = Keyway::before(&service);
    let mut client = connect(&keyway).await;
    // While it waits for the head.
    let mut server = {
        let mut answer = std::pin::pin!(send(&mut client, request(Method::GET, "/svc/a", empty())));
        let arrived = async {
            let mut server = service.accept().await;
            server.head().await;
            server
        };
        tokio::select! {
            server = arrived => server,
            _ = answer.as_mut() => panic!("nobody answered"),
        }
    };
    assert_eq!(server.rest().await, b"");
    // Amid the answer.
    let serve = async {
        let mut server = service.accept().await;
        server.head().await;
        server.send("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nfirst").await;
        server
    };
    let (response, mut server) =
        tokio::join!(send(&mut client, request(Method::GET, "/svc/a", empty())), serve);
    let mut response = response.unwrap();
    assert_eq!(
        within("a frame", response.body_mut().frame()).await.unwrap().unwrap().into_data().unwrap(),
        "first"
    );
    drop(response);
    assert_eq!(server.rest().await, b"");
}

// Promise 44.
#[tokio::test]
async fn a_cut_answer_is_a_reset_stream() {
    let service = Upstream::start().await;
    let keyway = Keyway::before(&service);
    let mut client = connect(&keyway).await;
    for answer in [
        "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
    ] {
        let serve = async { drop(service.answer(answer).await) };
        let (response, ()) = tokio::join!(send(&mut client, request(Method::GET, "/svc/a", empty())), serve);
        // The reset may overtake the head.
        let Ok(response) = response else { continue };
        let collected = within("the end", response.into_body().collect()).await;
        assert!(collected.is_err(), "{answer}");
    }
}

// Promise 53.
#[tokio::test]
async fn an_early_answer_reaches_the_client_and_closes_the_service_s_connection() {
    let service = Upstream::start().await;
    let keyway = Keyway::before(&service);
    let mut client = connect(&keyway).await;
    let (sender, fed) = fed();
    let mut put = request(Method::PUT, "/svc/o", fed);
    put.headers_mut().insert("content-length", LENGTH.into());
    let serve = async {
        let mut server = service.accept().await;
        server.head().await;
        server.send("HTTP/1.1 413 Too Large\r\nContent-Length: 2\r\n\r\nno").await;
        server
    };
    let feed = sender.send(Ok(Frame::data(Bytes::from_static(b"first"))));
    let (response, _, mut server) = tokio::join!(send(&mut client, put), feed, serve);
    let response = response.unwrap();
    assert_eq!(response.status(), 413);
    assert_eq!(body(response).await, "no");
    server.closed().await;
}

// Promises 20, 46.
#[tokio::test]
async fn trailers_of_an_answer_arrive_without_tokens_and_framing() {
    let service = Upstream::start().await;
    let keyway = Keyway::before(&service);
    let mut client = connect(&keyway).await;
    let answer = service.answer(
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nX-Sum: 1\r\nX-Subject-Token: t\r\n\
         Content-Length: 9\r\nConnection: close\r\n\r\n",
    );
    let (response, _) = tokio::join!(send(&mut client, request(Method::GET, "/svc/a", empty())), answer);
    let got = within("a body", response.unwrap().into_body().collect()).await.unwrap();
    let trailers = got.trailers().expect("trailers");
    assert_eq!((trailers.len(), &trailers["x-sum"]), (1, &HeaderValue::from_static("1")));
}

// Promise 44.
#[tokio::test]
async fn what_is_not_http_is_a_502_here_too() {
    let service = Upstream::start().await;
    let keyway = Keyway::before(&service);
    let mut client = connect(&keyway).await;
    let answer = service.answer("nonsense\r\n\r\n");
    let (response, _) = tokio::join!(send(&mut client, request(Method::GET, "/svc/a", empty())), answer);
    let response = response.unwrap();
    assert_eq!(
        (response.status().as_u16(), &response.headers()["x-keyway-error"]),
        (502, &HeaderValue::from_static("upstream_broken"))
    );
    assert!(response.body().size_hint().exact().is_some());
}
