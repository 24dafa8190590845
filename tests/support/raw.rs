//! Connections byte by byte: a service and a client that say exactly what a test wants.
//!
//! A test is the script: it accepts the connection that keyway makes, reads, sends, waits and closes
//! in the order of its lines. Every step is bounded; none waits for time to pass.

use std::future::Future;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use super::judge;

/// Far more than any step takes; reached only where a test fails.
const PATIENCE: Duration = Duration::from_secs(20);

/// Waits for an event, but not for ever.
#[track_caller]
pub fn within<T>(what: &str, future: impl Future<Output = T>) -> impl Future<Output = T> {
    let (what, place) = (what.to_owned(), std::panic::Location::caller());
    async move {
        match tokio::time::timeout(PATIENCE, future).await {
            Ok(done) => done,
            Err(_) => panic!("{place}: waited in vain for {what}"),
        }
    }
}

/// A service that accepts connections one by one.
pub struct Upstream {
    listener: TcpListener,
    address: SocketAddr,
}

impl Upstream {
    /// Listens on a free port.
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("it is bound");
        Self { listener, address }
    }

    /// Its host and port.
    pub fn authority(&self) -> String {
        self.address.to_string()
    }

    /// A catalog URL with a version, so that nothing asks for one.
    pub fn url(&self) -> String {
        format!("http://{}/v1", self.address)
    }

    /// The next connection.
    pub async fn accept(&self) -> Peer {
        let (stream, _) = within("a connection", self.listener.accept()).await.expect("a connection");
        Peer::new(stream)
    }

    /// Whether a connection waits to be accepted. Only meaningful after an event that follows it.
    pub async fn has_connection(&self) -> bool {
        let soon = tokio::time::timeout(Duration::from_millis(1), self.listener.accept());
        soon.await.is_ok()
    }

    /// Accepts one connection, reads one bodiless request, gives `answer`, and returns both.
    pub async fn answer(&self, answer: impl AsRef<[u8]>) -> (Peer, String) {
        let mut service = self.accept().await;
        let head = service.head().await;
        service.send(answer).await;
        (service, head)
    }
}

/// One end of a connection.
pub struct Peer<S = TcpStream> {
    stream: S,
    /// Every byte that came, in order.
    seen: Vec<u8>,
    /// How much of it was taken.
    taken: usize,
    ended: bool,
}

impl Peer {
    /// Connects as a client.
    pub async fn connect(address: SocketAddr) -> Self {
        let stream = within("a connection", TcpStream::connect(address)).await.expect("it listens");
        Self::new(stream)
    }

    /// Closes so that the other side gets a reset.
    pub fn reset(self) {
        self.stream.set_zero_linger().expect("a socket");
    }

    /// Ends the sending direction only.
    pub async fn finish(&mut self) {
        self.stream.shutdown().await.expect("it is open");
    }

    /// The same towards someone who may have closed already.
    pub async fn try_finish(&mut self) {
        let _ = self.stream.shutdown().await;
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Peer<S> {
    /// Takes over a stream.
    pub fn new(stream: S) -> Self {
        Self { stream, seen: Vec::new(), taken: 0, ended: false }
    }

    /// The stream, and with it what was read of it and not taken.
    pub fn stream(&mut self) -> &mut S {
        &mut self.stream
    }

    /// Sends bytes.
    #[track_caller]
    pub fn send(&mut self, bytes: impl AsRef<[u8]>) -> impl Future<Output = ()> {
        let stream = &mut self.stream;
        let sending = async move {
            stream.write_all(bytes.as_ref()).await.expect("the peer reads");
            stream.flush().await.expect("the peer reads");
        };
        within("room to send", sending)
    }

    /// Sends bytes to someone who may have closed already.
    pub async fn try_send(&mut self, bytes: impl AsRef<[u8]>) -> bool {
        let bytes = bytes.as_ref();
        let sending =
            async { self.stream.write_all(bytes).await.is_ok() && self.stream.flush().await.is_ok() };
        within("room to send", sending).await
    }

    /// Reads a message's head, the empty line included.
    #[track_caller]
    pub fn head(&mut self) -> impl Future<Output = String> {
        let reading = self.until("\r\n\r\n");
        async { String::from_utf8(reading.await).expect("an ASCII head") }
    }

    /// Reads until `needle`, which is included.
    #[track_caller]
    pub fn until(&mut self, needle: &str) -> impl Future<Output = Vec<u8>> {
        let place = std::panic::Location::caller();
        let needle = needle.to_owned();
        async move {
            loop {
                let rest = &self.seen[self.taken..];
                if let Some(at) = rest.windows(needle.len()).position(|window| window == needle.as_bytes()) {
                    let found = rest[..at + needle.len()].to_vec();
                    self.taken += found.len();
                    return found;
                }
                if !self.fill().await {
                    let rest = shown(&self.seen[self.taken..]);
                    panic!("{place}: the connection ended before {needle:?}, after {rest:?}");
                }
            }
        }
    }

    /// Reads exactly `length` bytes.
    #[track_caller]
    pub fn take(&mut self, length: usize) -> impl Future<Output = Vec<u8>> {
        let place = std::panic::Location::caller();
        async move {
            while self.seen.len() - self.taken < length {
                if !self.fill().await {
                    let rest = shown(&self.seen[self.taken..]);
                    panic!("{place}: the connection ended within {length} bytes, after {rest:?}");
                }
            }
            let found = self.seen[self.taken..self.taken + length].to_vec();
            self.taken += length;
            found
        }
    }

    /// A chunked body, decoded; with its trailer lines.
    pub async fn chunked(&mut self) -> (Vec<u8>, String) {
        let mut body = Vec::new();
        loop {
            let line = String::from_utf8(self.until("\r\n").await).expect("a chunk size");
            let size = usize::from_str_radix(line.trim_end(), 16).expect("a plain chunk size");
            if size == 0 {
                break;
            }
            body.extend(self.take(size).await);
            assert_eq!(self.take(2).await, b"\r\n", "a chunk ends with CRLF");
        }
        let mut trailers = String::new();
        loop {
            let line = String::from_utf8(self.until("\r\n").await).expect("a trailer");
            if line == "\r\n" {
                return (body, trailers);
            }
            trailers.push_str(&line);
        }
    }

    /// An answer: its head, and the body that its Content-Length or chunks frame.
    pub async fn response(&mut self) -> (String, Vec<u8>) {
        let head = self.head().await;
        let lower = head.to_ascii_lowercase();
        if let Some(length) = field(&lower, "content-length") {
            let body = self.take(length.parse().expect("a length")).await;
            return (head, body);
        }
        if field(&lower, "transfer-encoding") == Some("chunked") {
            let (body, _) = self.chunked().await;
            return (head, body);
        }
        (head, Vec::new())
    }

    /// Reads `length` bytes of a [`Pattern`] without keeping them, and the most memory this process
    /// had meanwhile.
    pub async fn pattern(&mut self, pattern: &Pattern, length: u64) -> u64 {
        let (mut at, mut most) = (0, 0);
        let here = self.seen.split_off(self.taken);
        pattern.check(0, &here);
        at += here.len() as u64;
        let mut buffer = vec![0; 64 * 1024];
        while at < length {
            let read = within("bytes", self.stream.read(&mut buffer)).await.expect("a connection");
            assert!(read > 0, "the body ended after {at} of {length} bytes");
            pattern.check(at, &buffer[..read]);
            if at >> 20 != (at + read as u64) >> 20 {
                most = most.max(resident());
            }
            at += read as u64;
        }
        assert_eq!(at, length, "more than the body came");
        most
    }

    /// Everything until the other side closed or reset the connection.
    pub async fn rest(&mut self) -> Vec<u8> {
        while self.fill().await {}
        let rest = self.seen[self.taken..].to_vec();
        self.taken = self.seen.len();
        rest
    }

    /// Waits for the other side to close or reset the connection.
    pub async fn closed(&mut self) {
        while self.fill().await {}
    }

    /// Everything that came so far, taken or not.
    pub fn seen(&self) -> &[u8] {
        &self.seen
    }

    async fn fill(&mut self) -> bool {
        if self.ended {
            return false;
        }
        let mut buffer = [0; 16 * 1024];
        let read = within("bytes or the end", self.stream.read(&mut buffer)).await;
        let read = read.unwrap_or(0);
        self.ended = read == 0;
        self.seen.extend_from_slice(&buffer[..read]);
        read > 0
    }
}

/// The value of a field in a head; panics if it is there twice.
pub fn field<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    let mut values = head.lines().skip(1).filter_map(|line| {
        let (key, value) = line.split_once(':')?;
        key.eq_ignore_ascii_case(name).then(|| value.trim())
    });
    let value = values.next();
    assert!(values.next().is_none(), "{name} came twice: {head}");
    value
}

/// A head's status.
pub fn status(head: &str) -> u16 {
    head.split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap_or_else(|| panic!("no status: {head}"))
}

/// A large body that is made up on the fly: one block, again and again. Its length is a prime, so
/// that a piece lost, doubled or swapped shows.
pub struct Pattern {
    block: Vec<u8>,
}

impl Pattern {
    const BLOCK: usize = 65_521;

    pub fn new() -> Self {
        let byte = |at: usize| (at.wrapping_mul(0x9E37_79B9) >> 13) as u8;
        Self { block: (0..Self::BLOCK).map(byte).collect() }
    }

    /// As much of it from byte `at` on as lies in one piece.
    fn from(&self, at: u64) -> &[u8] {
        &self.block[(at % Self::BLOCK as u64) as usize..]
    }

    /// Some of its start.
    pub fn start(&self, length: usize) -> Vec<u8> {
        self.block.iter().copied().cycle().take(length).collect()
    }

    /// Sends bytes `from..to` of it.
    pub async fn send(&self, stream: &mut (impl AsyncWrite + Unpin), from: u64, to: u64) {
        let mut at = from;
        while at < to {
            let piece = self.from(at);
            let piece = &piece[..piece.len().min((to - at) as usize)];
            within("room to send", stream.write_all(piece)).await.expect("the peer reads");
            at += piece.len() as u64;
        }
    }

    /// Panics unless `bytes` are its bytes from `at` on.
    pub fn check(&self, at: u64, bytes: &[u8]) {
        let (mut at, mut bytes) = (at, bytes);
        while !bytes.is_empty() {
            let piece = self.from(at);
            let piece = &piece[..piece.len().min(bytes.len())];
            assert!(bytes.starts_with(piece), "the body differs near byte {at}");
            bytes = &bytes[piece.len()..];
            at += piece.len() as u64;
        }
    }
}

/// The memory that this process has resident, bytes.
pub fn resident() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").expect("Linux");
    statm.split(' ').nth(1).and_then(|pages| pages.parse::<u64>().ok()).expect("a number of pages") * 4096
}

/// A service that answers every request it can read with 200, and remembers every byte it got.
pub struct Recorder {
    address: SocketAddr,
    connections: Arc<Mutex<Vec<Vec<u8>>>>,
    task: tokio::task::JoinHandle<()>,
}

impl Recorder {
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("it is bound");
        let connections = Arc::new(Mutex::new(Vec::new()));
        let task = tokio::spawn(record(listener, Arc::clone(&connections)));
        Self { address, connections, task }
    }

    /// A catalog URL with a version.
    pub fn url(&self) -> String {
        format!("http://{}/v1", self.address)
    }

    /// What came, by connection.
    pub fn connections(&self) -> Vec<Vec<u8>> {
        self.connections.lock().expect("no panic under it").clone()
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn record(listener: TcpListener, connections: Arc<Mutex<Vec<Vec<u8>>>>) {
    let mut tasks = tokio::task::JoinSet::new();
    while let Ok((mut stream, _)) = listener.accept().await {
        let connections = Arc::clone(&connections);
        let index = {
            let mut connections = connections.lock().expect("no panic under it");
            connections.push(Vec::new());
            connections.len() - 1
        };
        tasks.spawn(async move {
            const EXPECT: &[u8] = b"\r\nexpect: 100-continue\r\n";
            let (mut buffer, mut answered, mut waits) = ([0; 64 * 1024], 0, false);
            loop {
                let Ok(read) = stream.read(&mut buffer).await else { return };
                if read == 0 {
                    return;
                }
                let requests = {
                    let mut connections = connections.lock().expect("no panic under it");
                    connections[index].extend_from_slice(&buffer[..read]);
                    waits |= buffer[..read].windows(EXPECT.len()).any(|window| window == EXPECT);
                    judge::strict(&connections[index]).map_or(0, |requests| requests.len())
                };
                if waits && requests == answered {
                    waits = false;
                    if stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").await.is_err() {
                        return;
                    }
                }
                while answered < requests {
                    answered += 1;
                    if stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await.is_err() {
                        return;
                    }
                }
            }
        });
    }
}

/// The beginning of what came, for a test that expected something else.
fn shown(bytes: &[u8]) -> String {
    let start = String::from_utf8_lossy(&bytes[..bytes.len().min(2000)]);
    format!("{start} ({} bytes)", bytes.len())
}
