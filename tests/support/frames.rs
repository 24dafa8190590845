//! An HTTP/2 service frame by frame (RFC 9113), over TLS.

use std::path::PathBuf;

use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;

use super::raw::Peer;
use super::tls::{Authority, Upstream, trusting};

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;
const ACK: u8 = 1;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

/// Codes of RFC 9113, section 7.
pub const NO_ERROR: u32 = 0;
pub const INTERNAL_ERROR: u32 = 2;
pub const REFUSED_STREAM: u32 = 7;
pub const CANCEL: u32 = 8;

/// A service that offers HTTP/2 only.
pub struct Service {
    upstream: Upstream,
    authority: PathBuf,
    _directory: Authority,
}

impl Service {
    pub async fn start() -> Self {
        let authority = Authority::new();
        let upstream = Upstream::start(authority.server(&authority.issue("localhost"), &["h2"], false)).await;
        Self { upstream, authority: authority.file(), _directory: authority }
    }

    pub fn url(&self) -> String {
        self.upstream.url("localhost")
    }

    /// keyway's settings that trust it.
    pub fn trusted(&self) -> keyway::upstream::tls::Config {
        trusting(&self.authority)
    }

    /// The next connection, after both sides' settings.
    pub async fn accept(&self) -> Connection {
        let mut peer = self.upstream.accept().await;
        assert_eq!(peer.take(24).await, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
        let mut connection = Connection { peer, ended: Vec::new() };
        connection.frame(SETTINGS, 0, 0, &[]).await;
        connection
    }

    /// Whether a connection waits to be accepted.
    pub async fn has_connection(&self) -> bool {
        self.upstream.has_connection().await
    }
}

/// One connection to keyway.
pub struct Connection {
    peer: Peer<TlsStream<TcpStream>>,
    /// Streams whose requests are whole.
    ended: Vec<u32>,
}

/// What keyway sent, without what the connection needs for itself.
#[derive(Debug, PartialEq, Eq)]
pub enum Event {
    /// A request's head.
    Head(u32),
    /// Some of its body; also the empty end of it.
    Data(u32, usize),
    /// It was abandoned.
    Reset(u32),
}

impl Connection {
    /// Sends a frame; `false` if keyway is done with the connection.
    pub async fn frame(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) -> bool {
        let mut frame = u32::try_from(payload.len()).expect("a small frame").to_be_bytes()[1..].to_vec();
        frame.extend_from_slice(&[kind, flags]);
        frame.extend_from_slice(&stream.to_be_bytes());
        frame.extend_from_slice(payload);
        // keyway may be done with it.
        self.peer.try_send(frame).await
    }

    /// The next thing that keyway sends.
    pub async fn event(&mut self) -> Event {
        loop {
            let head = self.peer.take(9).await;
            let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
            let (kind, flags) = (head[3], head[4]);
            let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
            let payload = self.peer.take(length).await;
            if matches!(kind, DATA | HEADERS) && flags & END_STREAM != 0 {
                self.ended.push(stream);
            }
            match kind {
                HEADERS => return Event::Head(stream),
                DATA => return Event::Data(stream, length),
                RST_STREAM => return Event::Reset(stream),
                SETTINGS if flags & ACK == 0 => drop(self.frame(SETTINGS, ACK, 0, &[]).await),
                PING if flags & ACK == 0 => drop(self.frame(PING, ACK, 0, &payload).await),
                _ => {}
            }
        }
    }

    /// The next request's head.
    pub async fn head(&mut self) -> u32 {
        loop {
            if let Event::Head(stream) = self.event().await {
                return stream;
            }
        }
    }

    /// The next request to its end: its stream and the length of its body.
    pub async fn request(&mut self) -> (u32, usize) {
        let stream = self.head().await;
        (stream, self.rest_of(stream).await)
    }

    /// The length of the body that a request has from here to its end.
    pub async fn rest_of(&mut self, stream: u32) -> usize {
        let mut body = 0;
        while !self.is_whole(stream) {
            if let Event::Data(of, length) = self.event().await {
                body += if of == stream { length } else { 0 };
            }
        }
        body
    }

    /// Whether a request came to its end.
    pub fn is_whole(&self, stream: u32) -> bool {
        self.ended.contains(&stream)
    }

    /// The head of an answer, as it is or with more fields.
    pub async fn answer(&mut self, stream: u32, status: u16, fields: &[(&str, &str)], end: bool) {
        let status = status.to_string();
        let mut block = Vec::new();
        for (name, value) in [(":status", status.as_str())].iter().chain(fields) {
            // A literal that enters no table (RFC 7541, section 6.2.2).
            block.push(0);
            string(&mut block, name);
            string(&mut block, value);
        }
        // A frame has 16 KiB at most.
        let mut parts = block.chunks(16 * 1024).peekable();
        let (mut kind, mut flags) = (HEADERS, if end { END_STREAM } else { 0 });
        while let Some(part) = parts.next() {
            flags |= if parts.peek().is_none() { END_HEADERS } else { 0 };
            self.frame(kind, flags, stream, part).await;
            (kind, flags) = (CONTINUATION, 0);
        }
    }

    /// The head of an answer that goes on for as long as keyway takes it.
    pub async fn head_without_end(&mut self, stream: u32) {
        let mut field = vec![0];
        string(&mut field, "x-a");
        string(&mut field, &"a".repeat(8000));
        self.frame(HEADERS, 0, stream, &field).await;
        while self.frame(CONTINUATION, 0, stream, &field).await {}
    }

    pub async fn data(&mut self, stream: u32, bytes: &[u8], end: bool) {
        self.frame(DATA, if end { END_STREAM } else { 0 }, stream, bytes).await;
    }

    pub async fn reset(&mut self, stream: u32, code: u32) {
        self.frame(RST_STREAM, 0, stream, &code.to_be_bytes()).await;
    }

    /// Says that streams above `last` were not and will not be processed.
    pub async fn go_away(&mut self, last: u32, code: u32) {
        let payload = [last.to_be_bytes(), code.to_be_bytes()].concat();
        self.frame(GOAWAY, 0, 0, &payload).await;
    }

    /// Lets keyway send so many more bytes on a stream; 0 stands for the connection.
    pub async fn take_more(&mut self, stream: u32, bytes: u32) {
        self.frame(WINDOW_UPDATE, 0, stream, &bytes.to_be_bytes()).await;
    }
}

/// RFC 7541, section 5.2, without Huffman coding.
fn string(block: &mut Vec<u8>, text: &str) {
    let mut length = text.len();
    if length < 127 {
        block.push(u8::try_from(length).expect("it is small"));
    } else {
        block.push(127);
        length -= 127;
        while length >= 128 {
            block.push(u8::try_from(length % 128).expect("it is small") | 128);
            length /= 128;
        }
        block.push(u8::try_from(length).expect("it is small"));
    }
    block.extend_from_slice(text.as_bytes());
}
