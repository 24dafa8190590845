//! A client: one request after the other, and for each a judgement.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use http::{Method, Request, StatusCode, response};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::book::{Book, Kind, Outcome};
use crate::content::{self, Payload};

/// Longer than any request takes.
const PATIENCE: Duration = Duration::from_secs(60);

/// Requests that keyway must refuse, to be sent as they are; `{id}` and `{host}` are filled in.
const REFUSED: [&str; 10] = [
    "POST /soak/x/../post/{id}/0 HTTP/1.1\r\nHost: {host}\r\nContent-Length: 0\r\n\r\n",
    "POST /soak/x/%2e%2E/post/{id}/0 HTTP/1.1\r\nHost: {host}\r\nContent-Length: 0\r\n\r\n",
    "POST /soak/post/{id}/0 HTTP/1.1\r\nHost: {host}\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    "POST /soak/post/{id}/0 HTTP/1.1\r\nHost: {host}\r\nTransfer-Encoding: identity\r\n\r\n",
    "POST /soak/post/{id}/0 HTTP/1.1\r\nHost: {host}\r\nContent-Length: +0\r\n\r\n",
    "POST http://elsewhere.example/soak/post/{id}/0 HTTP/1.1\r\nHost: {host}\r\nContent-Length: 0\r\n\r\n",
    "POST /soak/post/{id}/0 HTTP/1.1\r\nHost: rebound.example\r\nContent-Length: 0\r\n\r\n",
    "POST /soak/post/{id}/0 HTTP/1.1\r\nHost: {host}\r\nOrigin: https://page.example\r\nContent-Length: 0\r\n\r\n",
    "POST /no-such-service/post/{id}/0 HTTP/1.1\r\nHost: {host}\r\nContent-Length: 0\r\n\r\n",
    "TRACE /soak/post/{id}/0 HTTP/1.1\r\nHost: {host}\r\n\r\n",
];

/// Creates a container for each client.
pub(crate) async fn prepare(address: SocketAddr, clients: usize) {
    for index in 0..clients {
        let head = format!(
            "PUT /object-store/soak-{index} HTTP/1.1\r\nHost: {address}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
        );
        let mut stream = TcpStream::connect(address).await.expect("keyway listens");
        let mut got = Vec::new();
        stream.write_all(head.as_bytes()).await.expect("keyway reads");
        stream.read_to_end(&mut got).await.expect("keyway answers");
        assert!(got.starts_with(b"HTTP/1.1 20"), "{}", String::from_utf8_lossy(&got));
    }
}

pub(crate) struct Client {
    index: usize,
    address: SocketAddr,
    random: fastrand::Rng,
    book: Arc<Book>,
    stop: Arc<AtomicBool>,
    connection: Option<Connection>,
    speaks_h2: bool,
    /// An object that this client stored: its name, and the number and length of its content.
    object: Option<(usize, usize, usize)>,
}

enum Connection {
    H1(http1::SendRequest<Payload>),
    H2(http2::SendRequest<Payload>),
}

/// What came instead of an answer that can be judged.
type Instead = Outcome;

impl Client {
    pub(crate) fn new(
        index: usize,
        address: SocketAddr,
        seed: u64,
        book: Arc<Book>,
        stop: Arc<AtomicBool>,
    ) -> Self {
        let random = fastrand::Rng::with_seed(seed.wrapping_mul(1_000_003) + index as u64);
        Self { index, address, random, book, stop, connection: None, speaks_h2: index % 3 == 2, object: None }
    }

    /// Sends requests until there are enough.
    pub(crate) async fn run(mut self) {
        while !self.stop.load(Ordering::Relaxed) {
            let Some(id) = self.book.take() else { return };
            let kind = Kind::pick(&mut self.random);
            let began = Instant::now();
            let mut outcome = match tokio::time::timeout(PATIENCE, self.perform(kind, id)).await {
                Ok(Ok(outcome) | Err(outcome)) => outcome,
                Err(_) => {
                    self.connection = None;
                    Outcome::Lost("no end within a minute".to_owned())
                }
            };
            // Whoever the service hangs up on gets no answer, and nobody may ask again for it.
            if matches!(outcome, Outcome::Lost(_)) && self.book.restarted_around(began) {
                outcome = Outcome::Designed;
            }
            if !matches!(outcome, Outcome::Right) && matches!(kind, Kind::ObjectPut | Kind::ObjectDelete) {
                self.object = None;
            }
            self.book.record(kind, id, outcome);
        }
    }

    async fn perform(&mut self, kind: Kind, id: usize) -> Result<Outcome, Instead> {
        let size = self.size();
        let framing = if self.random.bool() { "known" } else { "chunked" };
        let known = framing == "known";
        match kind {
            Kind::Get => {
                let (parts, body) =
                    self.send(Method::GET, &format!("get/{id}/{size}/{framing}"), Payload::none()).await?;
                expect(&parts, StatusCode::OK, id)?;
                whole(body, id, size).await
            }
            Kind::Head => {
                let (parts, body) =
                    self.send(Method::HEAD, &format!("get/{id}/{size}/known"), Payload::none()).await?;
                expect(&parts, StatusCode::OK, id)?;
                let length = parts.headers.get("content-length").and_then(|length| length.to_str().ok());
                if length != Some(size.to_string().as_str()) {
                    return Err(Outcome::Wrong(format!("Content-Length is {length:?}, not {size}")));
                }
                whole(body, id, 0).await
            }
            Kind::Post | Kind::Put | Kind::Delete => {
                let (method, word, size, status) = match kind {
                    Kind::Post => (Method::POST, "post", size, StatusCode::CREATED),
                    Kind::Put => (Method::PUT, "put", size, StatusCode::CREATED),
                    _ => (Method::DELETE, "delete", 0, StatusCode::NO_CONTENT),
                };
                let path = format!("{word}/{id}/{size}");
                let answer = self.send(method, &path, Payload::new(id, size, known || size == 0)).await;
                let (parts, body) = self.unless_executed(kind, id, answer)?;
                let expected = expect(&parts, status, id).map(|()| (parts, body));
                let (_, body) = self.unless_executed(kind, id, expected)?;
                if kind == Kind::Post && self.book.executions(id) == 0 {
                    return Err(Outcome::Wrong("it was answered, but never executed".to_owned()));
                }
                whole(body, id, if kind == Kind::Delete { 0 } else { 40 }).await
            }
            Kind::ObjectPut => {
                let name = self.random.usize(..4);
                let payload = Payload::new(id, size, known);
                let (parts, body) = self.ask(Method::PUT, &self.object_path(name), payload).await?;
                expect(&parts, StatusCode::CREATED, id)?;
                drop(body.collect().await);
                self.object = Some((name, id, size));
                Ok(Outcome::Right)
            }
            Kind::ObjectGet => {
                let Some((name, content, size)) = self.object else { return self.list().await };
                let (parts, body) = self.ask(Method::GET, &self.object_path(name), Payload::none()).await?;
                expect(&parts, StatusCode::OK, id)?;
                whole(body, content, size).await
            }
            Kind::ObjectDelete => {
                let Some((name, ..)) = self.object.take() else { return self.list().await };
                let (parts, body) =
                    self.ask(Method::DELETE, &self.object_path(name), Payload::none()).await?;
                expect(&parts, StatusCode::NO_CONTENT, id)?;
                whole(body, id, 0).await
            }
            Kind::List => self.list().await,
            Kind::EarlyAnswer => {
                let path = format!("early/{id}/{size}");
                let (parts, body) =
                    self.send(Method::PUT, &path, Payload::new(id, size.max(1), known)).await?;
                expect(&parts, StatusCode::PAYLOAD_TOO_LARGE, id)?;
                let outcome = whole(body, id, 10).await;
                // What is left of the upload belongs to nobody.
                self.connection = None;
                outcome
            }
            Kind::AbortedUpload => {
                self.book.bar(id);
                let size = size.max(2);
                if self.random.bool() {
                    return Ok(self.aborted_by_hand(id, size).await);
                }
                let payload = Payload::new(id, size, known).breaking(size / 2);
                let answer = self.send(Method::POST, &format!("post/{id}/{size}"), payload).await;
                self.connection = None;
                match answer {
                    Ok((parts, _)) if parts.status.is_success() => {
                        Err(Outcome::Wrong(format!("{} for half an upload", parts.status)))
                    }
                    _ => Ok(Outcome::Designed),
                }
            }
            Kind::AbortedDownload => {
                let size = 512 * 1024 + size;
                let (parts, mut body) =
                    self.send(Method::GET, &format!("get/{id}/{size}/{framing}"), Payload::none()).await?;
                expect(&parts, StatusCode::OK, id)?;
                let first = body.frame().await.and_then(Result::ok).and_then(|frame| frame.into_data().ok());
                self.connection = None;
                match first {
                    Some(data) if !content::is_of(id, 0, &data) => {
                        Err(Outcome::Wrong("another body".to_owned()))
                    }
                    Some(_) => Ok(Outcome::Designed),
                    None => Err(Outcome::Lost("the body did not begin".to_owned())),
                }
            }
            Kind::HalfClosed => self.half_closed(id, size).await,
            Kind::Refused => self.refused(id).await,
            Kind::Reset => {
                let answer = self.send(Method::GET, &format!("reset/{id}/0"), Payload::none()).await;
                nothing(answer)
            }
            Kind::ResetAfterwards => {
                let path = format!("late/{id}/{size}");
                nothing(self.send(Method::POST, &path, Payload::new(id, size, known)).await)
            }
            Kind::CutAnswer => {
                let size = size.max(2);
                let path = format!("cut/{id}/{size}/{framing}");
                let (parts, body) = match self.send(Method::GET, &path, Payload::none()).await {
                    // Not even the head may have arrived.
                    Err(Outcome::Lost(_)) => return Ok(Outcome::Designed),
                    sent => sent?,
                };
                expect(&parts, StatusCode::OK, id)?;
                self.drop_h1();
                match whole(body, id, size / 2).await {
                    Err(Outcome::Lost(_)) => Ok(Outcome::Designed),
                    Err(other) => Err(other),
                    Ok(_) => Err(Outcome::Wrong("half an answer looks whole".to_owned())),
                }
            }
        }
    }

    /// What clients mostly send, and sometimes more.
    fn size(&mut self) -> usize {
        match self.random.usize(..1000) {
            0..100 => 0,
            100..800 => self.random.usize(1..2048),
            800..960 => self.random.usize(2048..64 << 10),
            960..995 => self.random.usize(64 << 10..512 << 10),
            _ => self.random.usize(512 << 10..4 << 20),
        }
    }

    fn object_path(&self, name: usize) -> String {
        format!("/object-store/soak-{}/{name}", self.index)
    }

    async fn list(&mut self) -> Result<Outcome, Instead> {
        let (parts, body) = self.ask(Method::GET, "/compute/servers", Payload::none()).await?;
        expect(&parts, StatusCode::OK, usize::MAX)?;
        let body =
            body.collect().await.map_err(|error| Outcome::Lost(format!("the body broke off: {error}")))?;
        match serde_json::from_slice::<serde_json::Value>(&body.to_bytes()) {
            Ok(list) if list["servers"].is_array() => Ok(Outcome::Right),
            _ => Err(Outcome::Wrong("no list of servers".to_owned())),
        }
    }

    async fn send(
        &mut self,
        method: Method,
        path: &str,
        payload: Payload,
    ) -> Result<(response::Parts, Incoming), Instead> {
        self.ask(method, &format!("/soak/{path}"), payload).await
    }

    /// Sends a request on this client's connection, or a new one.
    async fn ask(
        &mut self,
        method: Method,
        path: &str,
        payload: Payload,
    ) -> Result<(response::Parts, Incoming), Instead> {
        if self.random.usize(..100) < 3 {
            self.connection = None;
        }
        for _ in 0..3 {
            let ready = match &mut self.connection {
                None => false,
                Some(Connection::H1(sender)) => sender.ready().await.is_ok(),
                Some(Connection::H2(sender)) => sender.ready().await.is_ok(),
            };
            if !ready {
                self.connect().await?;
            }
            let uri = if self.speaks_h2 { format!("http://{}{path}", self.address) } else { path.to_owned() };
            let mut request = Request::new(payload.clone());
            *request.method_mut() = method.clone();
            *request.uri_mut() = uri.parse().expect("a valid target");
            if !self.speaks_h2 {
                let host = self.address.to_string().parse().expect("an address is a value");
                request.headers_mut().insert("host", host);
            }
            let answer = match self.connection.as_mut().expect("it was just made") {
                Connection::H1(sender) => sender.send_request(request).await,
                Connection::H2(sender) => sender.send_request(request).await,
            };
            match answer {
                Ok(answer) => return Ok(answer.into_parts()),
                // It was never sent, since keyway had closed the connection.
                Err(error) if error.is_canceled() => self.connection = None,
                Err(error) => {
                    self.drop_h1();
                    return Err(Outcome::Lost(format!("no answer: {error:?}")));
                }
            }
        }
        Err(Outcome::Lost("three connections were closed before a request was sent".to_owned()))
    }

    async fn connect(&mut self) -> Result<(), Instead> {
        let lost = |error: &dyn std::fmt::Display| Outcome::Lost(format!("no connection: {error}"));
        let stream = TcpStream::connect(self.address).await.map_err(|error| lost(&error))?;
        let _ = stream.set_nodelay(true);
        self.connection = Some(if self.speaks_h2 {
            let (sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
                .await
                .map_err(|error| lost(&error))?;
            tokio::spawn(connection);
            Connection::H2(sender)
        } else {
            let (sender, connection) =
                http1::handshake(TokioIo::new(stream)).await.map_err(|error| lost(&error))?;
            tokio::spawn(connection);
            Connection::H1(sender)
        });
        Ok(())
    }

    /// A connection whose exchange did not end well can't be used again, except in HTTP/2.
    fn drop_h1(&mut self) {
        if !self.speaks_h2 {
            self.connection = None;
        }
    }

    /// A 401 that keyway did not try again may only be shown if the service did not execute the request.
    fn unless_executed<T>(&self, kind: Kind, id: usize, answer: Result<T, Instead>) -> Result<T, Instead> {
        match answer {
            Err(Outcome::Designed) if kind == Kind::Post && self.book.executions(id) > 0 => {
                Err(Outcome::Wrong("it was refused, but executed".to_owned()))
            }
            answer => answer,
        }
    }

    /// Half an upload, and then a reset or an end.
    async fn aborted_by_hand(&mut self, id: usize, size: usize) -> Outcome {
        let Ok(mut stream) = TcpStream::connect(self.address).await else {
            return Outcome::Lost("no connection".to_owned());
        };
        let head = format!(
            "POST /soak/post/{id}/{size} HTTP/1.1\r\nHost: {}\r\nContent-Length: {size}\r\n\r\n",
            self.address
        );
        let body =
            Payload::new(id, size / 2, true).collect().await.map(|body| body.to_bytes()).unwrap_or_default();
        let _ = stream.write_all(head.as_bytes()).await;
        let _ = stream.write_all(&body).await;
        if self.random.bool() {
            let _ = stream.set_zero_linger();
        }
        Outcome::Designed
    }

    /// A request, and the end of what this client has to say. keyway takes it for a client that went
    /// away, so that there may be no answer; but a part of one would be wrong.
    async fn half_closed(&mut self, id: usize, size: usize) -> Result<Outcome, Instead> {
        let request = format!("GET /soak/get/{id}/{size}/known HTTP/1.1\r\nHost: {}\r\n\r\n", self.address);
        let got = self.by_hand(&request, true).await?;
        let Some(end) = got.windows(4).position(|window| window == b"\r\n\r\n") else {
            return if got.is_empty() {
                Ok(Outcome::Designed)
            } else {
                Err(Outcome::Wrong("half a head".to_owned()))
            };
        };
        let (head, body) = (String::from_utf8_lossy(&got[..end]), &got[end + 4..]);
        if !head.starts_with("HTTP/1.1 200") {
            return Ok(Outcome::Designed);
        }
        if !content::is_of(id, 0, body) || body.len() > size {
            return Err(Outcome::Wrong("another body".to_owned()));
        }
        // Content-Length tells the client that something is missing.
        Ok(if body.len() == size { Outcome::Right } else { Outcome::Designed })
    }

    async fn refused(&mut self, id: usize) -> Result<Outcome, Instead> {
        self.book.bar(id);
        let template = REFUSED[self.random.usize(..REFUSED.len())];
        let request = template.replace("{id}", &id.to_string()).replace("{host}", &self.address.to_string());
        let request = request.replacen("\r\n\r\n", "\r\nConnection: close\r\n\r\n", 1);
        let got = self.by_hand(&request, false).await?;
        let status = got.get(9..12).and_then(|code| std::str::from_utf8(code).ok()?.parse::<u16>().ok());
        match status {
            Some(400..=499 | 501) => Ok(Outcome::Designed),
            Some(status) => Err(Outcome::Wrong(format!("{status} for {request:?}"))),
            None => Err(Outcome::Lost(format!("no answer to {request:?}"))),
        }
    }

    /// Sends bytes on a connection of their own, and reads until its end.
    async fn by_hand(&self, request: &str, half_close: bool) -> Result<Vec<u8>, Instead> {
        let mut stream =
            TcpStream::connect(self.address).await.map_err(|error| Outcome::Lost(error.to_string()))?;
        let mut got = Vec::new();
        let sent = stream.write_all(request.as_bytes()).await;
        if half_close {
            let _ = stream.shutdown().await;
        }
        let read = stream.read_to_end(&mut got).await;
        match sent.and(read) {
            Ok(_) => Ok(got),
            Err(error) if got.is_empty() && !half_close => Err(Outcome::Lost(error.to_string())),
            Err(_) => Ok(got),
        }
    }
}

/// The service gave no answer, and that is what keyway has to say.
fn nothing(answer: Result<(response::Parts, Incoming), Instead>) -> Result<Outcome, Instead> {
    let (parts, _) = answer?;
    match expect(&parts, StatusCode::OK, 0) {
        Err(Outcome::Lost(_) | Outcome::Designed) => Ok(Outcome::Designed),
        _ => Err(Outcome::Wrong(format!("{} although the service did not answer", parts.status))),
    }
}

/// Checks an answer's status, and that it belongs to this request.
fn expect(parts: &response::Parts, status: StatusCode, id: usize) -> Result<(), Instead> {
    let text = |name: &str| parts.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    // The token was revoked, and what had gone of the body can't be sent again.
    if parts.status == StatusCode::UNAUTHORIZED && !text("x-keyway-retry").is_empty() {
        return Err(Outcome::Designed);
    }
    let error = text("x-keyway-error");
    if !error.is_empty() {
        return Err(Outcome::Lost(format!("{} {error}", parts.status)));
    }
    if parts.status != status {
        return Err(Outcome::Wrong(format!("{} instead of {status}", parts.status)));
    }
    let said = text("x-id");
    if !said.is_empty() && said != id.to_string() {
        return Err(Outcome::Wrong(format!("the answer to request {said}")));
    }
    Ok(())
}

/// Reads a body to its end: `length` bytes of request `id`'s content.
async fn whole(mut body: Incoming, id: usize, length: usize) -> Result<Outcome, Instead> {
    let mut at = 0;
    while let Some(frame) = body.frame().await {
        let frame =
            frame.map_err(|error| Outcome::Lost(format!("the body broke off after {at} bytes: {error}")))?;
        let Ok(data) = frame.into_data() else { continue };
        if !content::is_of(id, at, &data) {
            return Err(Outcome::Wrong(format!("another body from byte {at} on")));
        }
        at += data.len();
    }
    if at == length { Ok(Outcome::Right) } else { Err(Outcome::Wrong(format!("{at} bytes of {length}"))) }
}
