//! HTTP/2 frame by frame: a client that may send whatever a test wants, right or wrong.

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::raw::within;

/// What every connection begins with, before the first SETTINGS frame.
pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Frame types (RFC 9113, section 6).
pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
pub const PRIORITY: u8 = 2;
pub const RST_STREAM: u8 = 3;
pub const SETTINGS: u8 = 4;
pub const PUSH_PROMISE: u8 = 5;
pub const PING: u8 = 6;
pub const GOAWAY: u8 = 7;
pub const WINDOW_UPDATE: u8 = 8;
pub const CONTINUATION: u8 = 9;

/// Flags. ACK is that of SETTINGS and PING.
pub const ACK: u8 = 1;
pub const END_STREAM: u8 = 1;
pub const END_HEADERS: u8 = 4;

/// Settings.
pub const INITIAL_WINDOW_SIZE: u16 = 4;

/// Error codes.
pub const CANCEL: u32 = 8;

/// A frame as it was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    pub kind: u8,
    pub flags: u8,
    pub stream: u32,
    pub payload: Vec<u8>,
}

impl Frame {
    /// The error code of RST_STREAM or GOAWAY.
    #[track_caller]
    pub fn code(&self) -> u32 {
        let at = if self.kind == GOAWAY { 4 } else { 0 };
        u32::from_be_bytes(self.payload[at..at + 4].try_into().expect("four bytes"))
    }
}

/// A frame's bytes; nothing is checked.
pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("a frame is short").to_be_bytes();
    let mut bytes = vec![length[1], length[2], length[3], kind, flags];
    bytes.extend_from_slice(&stream.to_be_bytes());
    bytes.extend_from_slice(payload);
    bytes
}

/// A SETTINGS frame.
pub fn settings(values: &[(u16, u32)]) -> Vec<u8> {
    let mut payload = Vec::new();
    for (name, value) in values {
        payload.extend_from_slice(&name.to_be_bytes());
        payload.extend_from_slice(&value.to_be_bytes());
    }
    frame(SETTINGS, 0, 0, &payload)
}

/// A header block: each field a literal that is never indexed, without Huffman coding, so that any
/// name and value can be sent (RFC 7541, section 6.2.2).
pub fn block(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (name, value) in fields {
        bytes.push(0x10);
        for text in [name, value] {
            length(&mut bytes, text.len());
            bytes.extend_from_slice(text.as_bytes());
        }
    }
    bytes
}

/// An integer with a seven-bit prefix (RFC 7541, section 5.1).
fn length(bytes: &mut Vec<u8>, mut value: usize) {
    if value < 127 {
        return bytes.push(value as u8);
    }
    bytes.push(127);
    value -= 127;
    while value >= 128 {
        bytes.push((value % 128) as u8 | 128);
        value /= 128;
    }
    bytes.push(value as u8);
}

/// The fields of a request that has to have them.
pub fn request<'a>(method: &'a str, path: &'a str) -> [(&'a str, &'a str); 4] {
    [(":method", method), (":scheme", "http"), (":path", path), (":authority", "localhost")]
}

/// A client's end of a connection.
pub struct Client<S = TcpStream> {
    stream: S,
    seen: Vec<u8>,
}

impl Client {
    /// Connects, and sends the preface and empty SETTINGS.
    pub async fn connect(address: std::net::SocketAddr) -> Self {
        Self::connect_with(address, &[]).await
    }

    /// The same with SETTINGS of its own.
    pub async fn connect_with(address: std::net::SocketAddr, values: &[(u16, u32)]) -> Self {
        let stream = within("a connection", TcpStream::connect(address)).await.expect("it listens");
        let mut client = Self::new(stream);
        client.send(PREFACE).await;
        client.send(settings(values)).await;
        client
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Client<S> {
    /// Takes over a stream on which nothing was sent.
    pub fn new(stream: S) -> Self {
        Self { stream, seen: Vec::new() }
    }

    /// The stream.
    pub fn stream(&mut self) -> &mut S {
        &mut self.stream
    }

    /// Sends bytes.
    pub async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        assert!(self.try_send(bytes).await, "the other side closed the connection");
    }

    /// Sends bytes to someone who may have closed already.
    pub async fn try_send(&mut self, bytes: impl AsRef<[u8]>) -> bool {
        within("room to send", self.stream.write_all(bytes.as_ref())).await.is_ok()
    }

    /// Sends a request without a body.
    pub async fn get(&mut self, stream: u32, path: &str) {
        let block = block(&request("GET", path));
        self.send(frame(HEADERS, END_HEADERS | END_STREAM, stream, &block)).await;
    }

    /// The next frame; `None` at the end of the connection, however it came.
    pub async fn next(&mut self) -> Option<Frame> {
        loop {
            if let Some(frame) = self.parse() {
                return Some(frame);
            }
            let mut buffer = [0; 16 * 1024];
            let read = within("a frame or the end", self.stream.read(&mut buffer)).await.unwrap_or(0);
            if read == 0 {
                return None;
            }
            self.seen.extend_from_slice(&buffer[..read]);
        }
    }

    fn parse(&mut self) -> Option<Frame> {
        let head = self.seen.get(..9)?;
        let length = usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2]);
        let stream = u32::from_be_bytes([head[5] & 0x7f, head[6], head[7], head[8]]);
        let (kind, flags) = (head[3], head[4]);
        let payload = self.seen.get(9..9 + length)?.to_vec();
        self.seen.drain(..9 + length);
        Some(Frame { kind, flags, stream, payload })
    }

    /// Reads on until a frame that the test waits for; `None` if the connection ends before.
    /// SETTINGS and PING are acknowledged meanwhile.
    pub async fn until(&mut self, mut wanted: impl FnMut(&Frame) -> bool) -> Option<Frame> {
        loop {
            let next = self.next().await?;
            if wanted(&next) {
                return Some(next);
            }
            if matches!(next.kind, SETTINGS | PING) && next.flags & ACK == 0 {
                let payload: &[u8] = if next.kind == PING { &next.payload } else { &[] };
                self.try_send(frame(next.kind, ACK, 0, payload)).await;
            }
        }
    }

    /// Reads on until the head of an answer; its block. Panics if the connection ends before.
    pub async fn answer(&mut self, stream: u32) -> Vec<u8> {
        let head = self.until(|frame| frame.kind == HEADERS && frame.stream == stream).await;
        head.unwrap_or_else(|| panic!("the connection ended before the answer on stream {stream}")).payload
    }

    /// Reads on to the end of the connection; the code of the GOAWAY that came last, if any did.
    pub async fn gone(&mut self) -> Option<u32> {
        let mut code = None;
        while let Some(frame) = self.until(|frame| frame.kind == GOAWAY).await {
            code = Some(frame.code());
        }
        code
    }
}
