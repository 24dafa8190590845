//! keyway in this process, in front of the demo cloud, and a small client for it.
//!
//! Everything listens on loopback at ports that the system chooses. Nothing waits for longer than
//! [`PATIENCE`], and nothing waits for time where there is an event to wait for.

mod process;

pub mod direct;
pub mod faults;
pub mod federation;
pub mod frames;
pub mod h2;
pub mod judge;
pub mod oracle;
pub mod raw;
pub mod redis;
pub mod saml;
pub mod tls;
pub mod variables;

use std::collections::VecDeque;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Once;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Method, Request, Response, StatusCode};
use http_body::{Frame, SizeHint};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use keyway::app::App;
use keyway::config::{Config, Env, Overrides};
use keyway::demo::{self, Cloud, Trouble};
use keyway::keystone::{self, Key};
use keyway::server::Address;
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::runtime::Handle;
use tokio::task::{AbortHandle, JoinSet};

pub(crate) use process::{Process, cloud_variables};

/// Longer than anything takes, on the slowest machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// A cloud whose tokens outlive the test.
pub(crate) async fn cloud() -> Cloud {
    many_descriptors();
    Cloud::start(demo::Config::default()).await.expect("loopback has free ports")
}

/// A thousand connections at a time need more descriptors than many systems grant at first.
fn many_descriptors() {
    static RAISED: Once = Once::new();
    RAISED.call_once(|| {
        use rustix::process::{Resource, getrlimit, setrlimit};
        let mut limit = getrlimit(Resource::Nofile);
        limit.current = limit.maximum.map(|most| most.min(65_536)).or(Some(65_536));
        let _ = setrlimit(Resource::Nofile, limit);
    });
}

/// A task that ends with this.
pub(crate) struct Task(AbortHandle);

impl Task {
    pub(crate) fn spawn(task: impl Future<Output = ()> + Send + 'static) -> Self {
        Self(tokio::spawn(task).abort_handle())
    }
}

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// keyway on ports of its own. Dropped, it stops.
pub(crate) struct TestKeyway {
    app: App,
}

impl TestKeyway {
    /// keyway for this cloud, logged in.
    pub(crate) async fn in_front_of(cloud: &Cloud) -> Self {
        Self::with(cloud, |_| {}).await
    }

    /// The same, with changes to its configuration.
    pub(crate) async fn with(cloud: &Cloud, change: impl FnOnce(&mut Config)) -> Self {
        let keyway = Self::cold(vec![cloud.keystone_config()], change);
        keyway.logged_in().await;
        keyway
    }

    /// keyway for one cloud whose configuration differs, logged in.
    pub(crate) async fn for_cloud(cloud: &Cloud, change: impl FnOnce(&mut keystone::Config)) -> Self {
        let mut config = cloud.keystone_config();
        change(&mut config);
        let keyway = Self::cold(vec![config], |_| {});
        keyway.logged_in().await;
        keyway
    }

    /// keyway that has just begun to log in.
    pub(crate) fn cold(clouds: Vec<keystone::Config>, change: impl FnOnce(&mut Config)) -> Self {
        many_descriptors();
        let overrides = Overrides {
            listen: Some("127.0.0.1:0".to_owned()),
            admin: Some("127.0.0.1:0".to_owned()),
            workers: Some("2".to_owned()),
            ..Overrides::default()
        };
        let env = Env::new::<&str, &str>([], "/nonexistent").with_root("/nonexistent");
        let mut config = Config::load_without_clouds(&overrides, &env).expect("defaults are right");
        config.clouds = clouds;
        change(&mut config);
        Self { app: App::start(&config, &Handle::current()).expect("loopback has free ports") }
    }

    /// Waits for the default cloud's token.
    pub(crate) async fn logged_in(&self) {
        bounded("the login", self.token()).await;
    }

    pub(crate) fn app(&self) -> &App {
        &self.app
    }

    /// The main listener's address.
    pub(crate) fn listen(&self) -> SocketAddr {
        self.app.addresses().next().and_then(Address::tcp).expect("the main listener has an IP address")
    }

    /// The admin listener's address.
    pub(crate) fn admin(&self) -> SocketAddr {
        self.app.admin().tcp().expect("the admin listener has an IP address")
    }

    /// The value of the default cloud's token.
    pub(crate) async fn token(&self) -> String {
        let token = self.app.shared().tokens.current(&Key::of_cloud(0)).await.expect("there is a token");
        token.id.expose().to_owned()
    }

    pub(crate) async fn connect(&self) -> Connection {
        Connection::open(self.listen()).await
    }

    pub(crate) async fn send(&self, request: Request<Payload>) -> Answer {
        self.connect().await.send(request).await
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.get_with(path, &[]).await
    }

    pub(crate) async fn get_with(&self, path: &str, headers: &[(&str, &str)]) -> Answer {
        self.send(request(Method::GET, path, headers, "")).await
    }

    pub(crate) async fn post(&self, path: &str, body: &Value) -> Answer {
        let json = [("content-type", "application/json")];
        self.send(request(Method::POST, path, &json, body.to_string())).await
    }

    pub(crate) async fn put(&self, path: &str, body: impl Into<Bytes>) -> Answer {
        self.send(request(Method::PUT, path, &[], body)).await
    }

    /// `PUT` of a body in chunks.
    pub(crate) async fn put_chunked(&self, path: &str, pieces: Vec<Bytes>) -> Answer {
        let body = Payload { pieces: pieces.into(), chunked: true };
        self.send(request(Method::PUT, path, &[], "").map(|_| body)).await
    }

    /// Sends these very bytes, and reads all answers until the end of the connection.
    pub(crate) async fn raw(&self, text: impl AsRef<[u8]>) -> Answer {
        raw(self.listen(), text.as_ref()).await
    }

    /// The same with the admin listener.
    pub(crate) async fn admin_raw(&self, text: impl AsRef<[u8]>) -> Answer {
        raw(self.admin(), text.as_ref()).await
    }

    pub(crate) async fn admin_get(&self, path: &str) -> Answer {
        let mut connection = Connection::open(self.admin()).await;
        connection.send(request(Method::GET, path, &[], "")).await
    }

    /// `/status` of the admin listener.
    pub(crate) async fn status(&self) -> Value {
        self.admin_get("/status").await.json()
    }

    /// A sample of `/metrics`, its labels in alphabetical order; 0 if there is none.
    pub(crate) async fn metric(&self, sample: &str) -> f64 {
        let text = self.admin_get("/metrics").await.text();
        let value = text.lines().find_map(|line| line.strip_prefix(sample)?.strip_prefix(' '));
        value.map_or(0.0, |value| value.parse().expect("a number"))
    }

    /// All samples of a metric, added up.
    pub(crate) async fn metric_total(&self, name: &str) -> f64 {
        let text = self.admin_get("/metrics").await.text();
        let samples = text
            .lines()
            .filter(|line| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(['{', ' '])));
        samples.map(|line| line.rsplit(' ').next().expect("a value").parse::<f64>().expect("a number")).sum()
    }

    /// So many `GET`s of one path at a time, each on a connection of its own; their statuses.
    pub(crate) async fn get_at_once(&self, count: usize, path: &str) -> Vec<u16> {
        let listen = self.listen();
        let mut tasks = JoinSet::new();
        for _ in 0..count {
            let request = request(Method::GET, path, &[], "");
            tasks.spawn(async move { Connection::open(listen).await.send(request).await.status });
        }
        tasks.join_all().await
    }
}

/// A request to keyway. `body` has a Content-Length unless it is empty.
pub(crate) fn request(
    method: Method,
    path: &str,
    headers: &[(&str, &str)],
    body: impl Into<Bytes>,
) -> Request<Payload> {
    let body: Bytes = body.into();
    let pieces = if body.is_empty() { VecDeque::new() } else { [body].into() };
    let mut request = Request::builder()
        .method(method)
        .uri(path)
        .body(Payload { pieces, chunked: false })
        .expect("the test writes a valid request");
    for (name, value) in headers {
        let name = HeaderName::from_bytes(name.as_bytes()).expect("a name");
        request.headers_mut().append(name, HeaderValue::from_str(value).expect("a value"));
    }
    request
}

/// A request's body, with a Content-Length or in chunks.
#[derive(Debug)]
pub(crate) struct Payload {
    pieces: VecDeque<Bytes>,
    chunked: bool,
}

impl http_body::Body for Payload {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Ready(self.pieces.pop_front().map(|piece| Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.pieces.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        let length = self.pieces.iter().map(|piece| piece.len() as u64).sum();
        if self.chunked { SizeHint::default() } else { SizeHint::with_exact(length) }
    }
}

/// One connection to keyway, for one request after the other.
pub(crate) struct Connection {
    sender: http1::SendRequest<Payload>,
    host: HeaderValue,
}

impl Connection {
    pub(crate) async fn open(address: SocketAddr) -> Self {
        let stream = bounded("a connection", TcpStream::connect(address)).await.expect("keyway listens");
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.expect("nothing is sent yet");
        tokio::spawn(connection);
        let host = address.to_string().parse().expect("an address is a header value");
        Self { sender, host }
    }

    /// Sends a request and reads the whole answer.
    pub(crate) async fn send(&mut self, request: Request<Payload>) -> Answer {
        let what = format!("the answer to {} {}", request.method(), request.uri());
        bounded(&what, async {
            let (parts, body) = self.start(request).await.into_parts();
            let body = body.collect().await.expect("the answer has a proper end").to_bytes();
            Answer { status: parts.status.as_u16(), headers: parts.headers, body }
        })
        .await
    }

    /// Sends a request and reads the head of the answer.
    pub(crate) async fn start(&mut self, mut request: Request<Payload>) -> Response<Incoming> {
        request.headers_mut().entry(header::HOST).or_insert(self.host.clone());
        self.sender.ready().await.expect("keyway keeps the connection open");
        self.sender.send_request(request).await.expect("keyway answers")
    }
}

/// An answer, all of it.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl Answer {
    /// A header's value; empty if there is none.
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().expect("readable"))
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    #[track_caller]
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|_| panic!("not JSON: {self:?}"))
    }

    /// Checks that this is an error of keyway's own, in its shape; its message.
    #[track_caller]
    pub(crate) fn message(&self, status: u16, reason: &str) -> String {
        assert_eq!((self.status, self.header("x-keyway-error")), (status, reason), "{self:?}");
        let error = &self.json()["error"];
        assert_eq!((&error["code"], &error["reason"]), (&status.into(), &reason.into()), "{error}");
        let title = StatusCode::from_u16(status).ok().and_then(|status| status.canonical_reason());
        assert_eq!(error["title"].as_str(), title);
        let message = error["message"].as_str().expect("a message").to_owned();
        // No address of ours or the cloud's: the cause is for the log.
        assert!(!message.contains("127.0.0.1"), "{message}");
        message
    }

    /// Checks that this is a service's answer.
    #[track_caller]
    pub(crate) fn passed_on(&self, status: u16) {
        assert_eq!((self.status, self.header("x-keyway-error")), (status, ""), "{self:?}");
        assert_eq!(self.header("server"), "keyway-demo (simulated)");
    }
}

/// Sends these very bytes, and reads all answers until the end of the connection.
pub(crate) async fn raw(address: SocketAddr, text: &[u8]) -> Answer {
    bounded("an answer", async {
        let mut stream = TcpStream::connect(address).await.expect("keyway listens");
        // keyway may answer and close before it read everything.
        let (mut reader, mut writer) = stream.split();
        let read = async {
            let mut read = Vec::new();
            let mut piece = [0; 4096];
            while let Ok(length @ 1..) = reader.read(&mut piece).await {
                read.extend_from_slice(&piece[..length]);
            }
            read
        };
        let (_, read) = tokio::join!(writer.write_all(text), read);
        parse(&read)
    })
    .await
}

#[track_caller]
fn parse(read: &[u8]) -> Answer {
    let mut fields = [httparse::EMPTY_HEADER; 64];
    let mut head = httparse::Response::new(&mut fields);
    let Ok(httparse::Status::Complete(length)) = head.parse(read) else {
        panic!("no answer: {:?}", String::from_utf8_lossy(read));
    };
    let mut headers = HeaderMap::new();
    for field in head.headers.iter() {
        let name = HeaderName::from_bytes(field.name.as_bytes()).expect("a name");
        headers.append(name, HeaderValue::from_bytes(field.value).expect("a value"));
    }
    let body = Bytes::copy_from_slice(&read[length..]);
    Answer { status: head.code.expect("the head is complete"), headers, body }
}

/// Waits, but not for ever.
pub(crate) async fn bounded<T>(what: &str, event: impl Future<Output = T>) -> T {
    match tokio::time::timeout(PATIENCE, event).await {
        Ok(outcome) => outcome,
        Err(_) => panic!("{what} did not come within {} s", PATIENCE.as_secs()),
    }
}

/// Looks again and again until there is what the test waits for.
pub(crate) async fn eventually<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let waiting = async {
        loop {
            if let Some(found) = look().await {
                return found;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    bounded(what, waiting).await
}

/// A service that gives this answer to everything.
pub(crate) fn answering(status: u16, headers: &[(&'static str, &str)], body: &str) -> Trouble {
    let mut answer = Response::new(Bytes::copy_from_slice(body.as_bytes()));
    *answer.status_mut() = StatusCode::from_u16(status).expect("a status");
    for (name, value) in headers {
        answer.headers_mut().append(*name, HeaderValue::from_str(value).expect("a value"));
    }
    Trouble { answer: Some(answer), ..Trouble::default() }
}

/// A service that thinks for a while before it does anything.
pub(crate) fn slow(latency: Duration) -> Trouble {
    Trouble { latency, ..Trouble::default() }
}

/// A service that refuses every token; Keystone refuses every login.
pub(crate) fn refusing() -> Trouble {
    Trouble { refuses_tokens: true, ..Trouble::default() }
}

/// The targets that a service saw.
pub(crate) fn targets(cloud: &Cloud, service: &str) -> Vec<String> {
    cloud.requests(service).into_iter().map(|seen| seen.target).collect()
}

/// The statuses that a service gave.
pub(crate) fn statuses(cloud: &Cloud, service: &str) -> Vec<u16> {
    let status = |seen: demo::Seen| seen.status.map_or(0, |status| status.as_u16());
    cloud.requests(service).into_iter().map(status).collect()
}

/// The `Host` of a service's endpoint.
pub(crate) fn host(cloud: &Cloud, service: &str) -> String {
    let url = cloud.url(service);
    let rest = url.strip_prefix("http://").expect("the demo cloud is plain http");
    rest.split('/').next().expect("an authority").to_owned()
}
