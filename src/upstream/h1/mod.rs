//! HTTP/1.1 towards a service (RFC 9112): one connection, one exchange at a time.
//!
//! Our own codec, because it decides what no library offers: when a body goes out
//! (`Expect: 100-continue`), what an early answer means for it, and that a connection is used again
//! only after both sides ended cleanly. It is strict in what it takes: an answer whose framing can
//! be read in two ways is no answer.

mod answer;
mod reader;

use std::fmt;
use std::future::{Future, poll_fn};
use std::io;
use std::ops::Range;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf as _, Bytes, BytesMut};
use http::header::HeaderMap;
use http::{Method, Response, StatusCode};
use tokio::io::{AsyncWrite, AsyncWriteExt as _};
use zeroize::Zeroize as _;

use self::answer::Parsed;
pub(super) use self::reader::Reader;
use self::reader::Remaining;
use super::pool::Pool;
use super::stream::Stream;
use super::{Body, Head, chunked};
use crate::body::{BodyError, RequestBody};

/// More interim answers than any honest service sends.
const MAX_INTERIM: usize = 16;
const SMALL_READ: usize = 8 * 1024;
/// More than the fields take that stand behind the token: framing and Expect.
const GENERATED: usize = 256;
/// How long a service may take to say 100 before the body goes out all the same (RFC 9110, section
/// 10.1.1: a client must not wait indefinitely).
const CONTINUE_WAIT: Duration = Duration::from_secs(1);

/// A connection between two exchanges.
pub(super) struct Connection {
    stream: Stream,
    /// Read from the service and not used yet.
    input: BytesMut,
    /// The head under construction; kept for its allocation.
    output: Vec<u8>,
    /// Where the token and what goes with it stand in `output`, until they were sent.
    token: Range<usize>,
    /// The exchange is keyway's own, so there may be secrets anywhere in both buffers.
    secret: bool,
    /// How many interim answers came in this exchange.
    interim: usize,
    /// The tick of its last use.
    pub(super) idle_since: u64,
    /// How long the service said it keeps the connection open.
    pub(super) keep_for: Option<Duration>,
}

/// Why an exchange ended without an answer.
#[derive(Debug)]
pub(super) enum Failure {
    /// The connection ended before a byte of the answer came.
    Silent {
        /// Some of the request reached the socket.
        sent: bool,
        source: io::Error,
    },
    /// The service says that it did not process the request (RFC 9113, section 8.7).
    Refused {
        /// Nor will it process another one on this connection.
        leaving: bool,
    },
    /// The service gave up an idle connection with a 408 that crossed our request (RFC 9110, section
    /// 15.5.9).
    Crossed,
    /// The connection ended amid the answer's head.
    Truncated,
    /// The answer is not HTTP/1.1 as RFC 9112 has it.
    Malformed(&'static str),
    /// The client's body can't be read to its end.
    Client(BodyError),
    /// The service did nothing for longer than allowed: no answer, or the request was not taken.
    Timeout,
}

impl fmt::Debug for Connection {
    /// Without its buffers: tokens and passwords go through them.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection").field("idle_since", &self.idle_since).finish_non_exhaustive()
    }
}

impl Connection {
    /// Boxed, since a connection moves often: from the pool into a request, a body, and back.
    pub(super) fn new(stream: Stream) -> Box<Self> {
        Box::new(Self {
            stream,
            input: BytesMut::new(),
            output: Vec::with_capacity(1024),
            token: 0..0,
            secret: false,
            interim: 0,
            idle_since: 0,
            keep_for: None,
        })
    }

    /// Whether it is of no use any more; `asks` has the system asked, see [`Stream::is_stale`].
    pub(super) fn is_stale(&mut self, asks: bool) -> bool {
        self.stream.is_stale(asks)
    }

    /// One request, one answer. `body` tells afterwards how much of it went; `reused` that this is not
    /// the connection's first.
    ///
    /// The answer's body owns the connection and gives it back to `pool` after a clean end.
    pub(super) async fn exchange(
        mut self: Box<Self>,
        pool: &Arc<Pool>,
        head: &Head<'_>,
        body: &mut RequestBody,
        reused: bool,
    ) -> Result<Response<Body>, Failure> {
        self.interim = 0;
        self.secret = body.is_own();
        // Said once and kept to: a body that turns out to be whole meanwhile has a length of its own.
        let framing = body.length().map_or(Framing::Chunked, Framing::Length);
        let expect_continue = head.expect_continue && !body.is_whole();
        let mut complete = true;
        let mut answer = None;
        if let Some(whole) = body.whole().filter(|whole| whole.len() <= SMALL_READ) {
            self.write_head(head, &framing, expect_continue, whole.len());
            self.output.extend_from_slice(&whole);
            self.send_output(pool).await?;
        } else {
            self.write_head(head, &framing, expect_continue, 0);
            self.send_output(pool).await?;
            if expect_continue {
                answer =
                    Box::pin(self.await_continue(body, head.read_ahead && body.length().is_none())).await?;
                complete = answer.is_none();
            }
            if answer.is_none() {
                complete = Box::pin(self.send_body(pool, head, framing, body)).await?;
            }
        }
        // All of the request is out, or nothing but its head; else this is an early answer to a body that
        // somebody is reading.
        let may_cross = complete || answer.is_some();
        let parsed = match answer {
            Some(parsed) => parsed,
            None => {
                let wait = pool.deadlines.within(pool.response_timeout, self.read_answer());
                wait.await.map_err(|_| Failure::Timeout)??
            }
        };
        let gives_up = parsed.status == StatusCode::REQUEST_TIMEOUT && !parsed.keep_alive;
        if reused && may_cross && gives_up && self.interim == 0 {
            return Err(Failure::Crossed);
        }
        self.into_response(parsed, head.method, complete, pool)
    }

    /// `behind` is how much will be appended, bytes.
    fn write_head(&mut self, head: &Head<'_>, framing: &Framing, expect_continue: bool, behind: usize) {
        let out = &mut self.output;
        out.clear();
        if self.secret {
            // Once for all of it: a buffer that grows leaves what it held in freed memory.
            let defaults = head.defaults.iter().map(|(name, value)| (name, value));
            let fields =
                head.fields().chain(defaults).map(|(name, value)| name.as_str().len() + value.len() + 4);
            out.reserve(
                fields.sum::<usize>() + head.target.len() + head.authority.len() + behind + GENERATED,
            );
        }
        out.extend_from_slice(head.method.as_str().as_bytes());
        out.push(b' ');
        out.extend_from_slice(head.target.as_bytes());
        out.extend_from_slice(b" HTTP/1.1\r\n");
        field(out, b"host", head.authority.as_bytes());
        for (name, value) in head.fields() {
            field(out, name.as_str().as_bytes(), value.as_bytes());
        }
        for (name, value) in head.defaults {
            field(out, name.as_str().as_bytes(), value.as_bytes());
        }
        if !head.extra.is_empty() {
            // The buffer grows before a token is in it, not afterwards.
            let fields = head.extra.iter().map(|(name, value)| name.as_str().len() + value.len() + 4);
            out.reserve(fields.sum::<usize>() + behind + GENERATED);
            let start = out.len();
            for (name, value) in head.extra {
                field(out, name.as_str().as_bytes(), value.as_bytes());
            }
            self.token = start..out.len();
        }
        match framing {
            Framing::Length(0) if !expects_body(head.method) && !head.had_length => {}
            Framing::Length(length) => {
                out.extend_from_slice(b"content-length: ");
                out.extend_from_slice(length.to_string().as_bytes());
                out.extend_from_slice(b"\r\n");
            }
            Framing::Chunked => out.extend_from_slice(b"transfer-encoding: chunked\r\n"),
        }
        if expect_continue {
            out.extend_from_slice(b"expect: 100-continue\r\n");
        }
        out.extend_from_slice(b"\r\n");
    }

    async fn send_output(&mut self, pool: &Pool) -> Result<(), Failure> {
        let wait = pool.deadlines.within(pool.response_timeout, self.write_output());
        wait.await.map_err(|_| Failure::Timeout)?
    }

    async fn write_output(&mut self) -> Result<(), Failure> {
        let mut sent = 0;
        while sent < self.output.len() {
            let written = poll_fn(|cx| Pin::new(&mut self.stream).poll_write(cx, &self.output[sent..])).await;
            match written {
                Ok(0) => {
                    return Err(Failure::Silent { sent: sent > 0, source: io::ErrorKind::WriteZero.into() });
                }
                Ok(n) => sent += n,
                Err(source) => return Err(Failure::Silent { sent: sent > 0, source }),
            }
        }
        let flushed = self.flush().await;
        self.forget();
        flushed
    }

    /// Wipes what was sent, if it was secret. The buffer lives as long as the connection does, and a
    /// connection outlives tokens.
    fn forget(&mut self) {
        let token = std::mem::take(&mut self.token);
        if self.secret {
            self.output.zeroize();
        } else if let Some(token) = self.output.get_mut(token) {
            // Not `zeroize`, which would cost more than the rest of a small request's head: nothing
            // is left out here, since the buffer is used again.
            token.fill(0);
        }
    }

    /// Takes the next `length` bytes of the answer.
    fn take(&mut self, length: usize) -> Bytes {
        if !self.secret {
            return self.input.split_to(length).freeze();
        }
        let piece = Bytes::copy_from_slice(&self.input[..length]);
        self.input[..length].zeroize();
        self.input.advance(length);
        piece
    }

    /// Leaves the memory of the input to the piece that was cut from it, so that whoever reads the
    /// piece can wipe it.
    fn part(&mut self) {
        if self.secret {
            let rest = BytesMut::from(&self.input[..]);
            self.input.as_mut().zeroize();
            self.input = rest;
        }
    }

    async fn flush(&mut self) -> Result<(), Failure> {
        if let Stream::Tls(stream) = &mut self.stream {
            stream.flush().await.map_err(|source| Failure::Silent { sent: true, source })?;
        }
        Ok(())
    }

    /// Waits for 100 before the body goes out. An answer that comes instead leaves the body alone.
    ///
    /// Meanwhile the client may send up to what the replay buffer takes: a body that turns out to be
    /// whole in it needs no permission, since it can be sent again.
    async fn await_continue(
        &mut self,
        body: &mut RequestBody,
        read_ahead: bool,
    ) -> Result<Option<Parsed>, Failure> {
        let mut full = !read_ahead;
        let mut timer = std::pin::pin!(tokio::time::sleep(CONTINUE_WAIT));
        loop {
            if let Some(parsed) = self.next_head()? {
                match parsed.status {
                    StatusCode::CONTINUE => return Ok(None),
                    status if status.is_informational() => continue,
                    _ => return Ok(Some(parsed)),
                }
            }
            let go = poll_fn(|cx| {
                if let Poll::Ready(read) = self.poll_input(cx, SMALL_READ) {
                    return Poll::Ready(read.map(|()| false));
                }
                if !full {
                    match body.poll_fill(cx) {
                        Poll::Ready(Ok(true)) => return Poll::Ready(Ok(true)),
                        Poll::Ready(Ok(false)) => full = true,
                        Poll::Ready(Err(error)) => return Poll::Ready(Err(Failure::Client(error))),
                        Poll::Pending => {}
                    }
                }
                timer.as_mut().poll(cx).map(|()| Ok(true))
            });
            if go.await? {
                return Ok(None);
            }
        }
    }

    /// Sends the body, and watches for an answer meanwhile. `false` if one came before the end.
    async fn send_body(
        &mut self,
        pool: &Pool,
        head: &Head<'_>,
        mut framing: Framing,
        body: &mut RequestBody,
    ) -> Result<bool, Failure> {
        let mut piece = Bytes::new();
        let mut tail: &'static [u8] = b"";
        let mut ended = false;
        self.output.clear();
        let mut written = 0;
        let mut patience = pool.deadlines.patience(pool.response_timeout);
        poll_fn(|cx| {
            loop {
                if self.is_answered()? {
                    // A body with a length ends with its last byte, whenever the client says so.
                    let all = ended || matches!(framing, Framing::Length(0));
                    let out = written == self.output.len() + piece.len() + tail.len();
                    return Poll::Ready(Ok(all && out));
                }
                match self.poll_input(cx, SMALL_READ) {
                    Poll::Ready(Ok(())) => continue,
                    Poll::Ready(Err(failure)) => return Poll::Ready(Err(failure)),
                    Poll::Pending => {}
                }
                // What is ready goes out first: chunk head, piece, chunk tail.
                while written < self.output.len() + piece.len() + tail.len() {
                    let (head, skip) = (self.output.len(), written);
                    let wrote = if skip < head {
                        let slices = [
                            io::IoSlice::new(&self.output[skip..]),
                            io::IoSlice::new(&piece),
                            io::IoSlice::new(tail),
                        ];
                        poll_write_vectored(&mut self.stream, cx, &slices)
                    } else if skip < head + piece.len() {
                        let slices = [io::IoSlice::new(&piece[skip - head..]), io::IoSlice::new(tail)];
                        poll_write_vectored(&mut self.stream, cx, &slices)
                    } else {
                        let rest = &tail[skip - head - piece.len()..];
                        Pin::new(&mut self.stream).poll_write(cx, rest)
                    };
                    match wrote {
                        Poll::Ready(Ok(n)) if n > 0 => written += n,
                        // The service may have answered and closed: what it said is worth more than this.
                        Poll::Ready(_) => return Poll::Ready(Ok(false)),
                        Poll::Pending => return patience.poll(cx).map(|_| Err(Failure::Timeout)),
                    }
                    patience.rest();
                }
                if ended {
                    return match Pin::new(&mut self.stream).poll_flush(cx) {
                        Poll::Ready(Ok(())) => Poll::Ready(Ok(true)),
                        Poll::Ready(Err(source)) => Poll::Ready(Err(Failure::Silent { sent: true, source })),
                        Poll::Pending => patience.poll(cx).map(|_| Err(Failure::Timeout)),
                    };
                }
                // Let go of the piece first: hyper reads the next one into the same memory then.
                let sent = std::mem::take(&mut written) > 0;
                self.output.clear();
                piece = Bytes::new();
                tail = b"";
                let Poll::Ready(next) = body.poll_gathered(cx) else {
                    // A client that pauses must not leave its bytes in our TLS buffer.
                    if sent {
                        let _ = Pin::new(&mut self.stream).poll_flush(cx);
                    }
                    patience.rest();
                    return Poll::Pending;
                };
                match (next, &mut framing) {
                    (Some(Err(error)), _) => return Poll::Ready(Err(Failure::Client(error))),
                    (Some(Ok(frame)), framing) => match frame.into_data() {
                        Ok(data) => {
                            match framing {
                                Framing::Length(left) => {
                                    *left = left.checked_sub(data.len() as u64).ok_or(Failure::Malformed(
                                        "the client's body is longer than announced",
                                    ))?;
                                }
                                Framing::Chunked => {
                                    chunked::write_size(&mut self.output, data.len());
                                    tail = b"\r\n";
                                }
                            }
                            piece = data;
                        }
                        Err(frame) => {
                            if let (Framing::Chunked, Ok(trailers)) = (framing, frame.into_trailers()) {
                                chunked::write_end(&mut self.output, &head.trailers(&trailers));
                                ended = true;
                            }
                        }
                    },
                    (None, Framing::Length(0)) => ended = true,
                    (None, Framing::Length(_)) => {
                        return Poll::Ready(Err(Failure::Malformed(
                            "the client's body is shorter than announced",
                        )));
                    }
                    (None, Framing::Chunked) => {
                        chunked::write_end(&mut self.output, &HeaderMap::new());
                        ended = true;
                    }
                }
            }
        })
        .await
    }

    /// Whether what came so far is the start of an answer that ends the exchange, not of an interim one:
    /// a late 100 says nothing that we still wait for.
    fn is_answered(&mut self) -> Result<bool, Failure> {
        // Up to the first digit of the status: `HTTP/1.1 1`.
        const START: &[u8] = b"HTTP/1.";
        const DIGIT: usize = 9;
        loop {
            let seen = &self.input[..self.input.len().min(START.len())];
            if !START.starts_with(seen) || self.input.get(DIGIT).is_some_and(|digit| *digit != b'1') {
                return Ok(true);
            }
            if self.input.len() <= DIGIT || self.next_head()?.is_none() {
                return Ok(false);
            }
        }
    }

    /// Reads until the head of a final answer is there.
    async fn read_answer(&mut self) -> Result<Parsed, Failure> {
        loop {
            match self.next_head()? {
                Some(parsed) if parsed.status.is_informational() => {}
                Some(parsed) => return Ok(parsed),
                None => poll_fn(|cx| self.poll_input(cx, SMALL_READ)).await?,
            }
        }
    }

    /// Takes one head from the input, once it is whole. Interim ones are counted: a service must not
    /// keep an exchange going with nothing else.
    fn next_head(&mut self) -> Result<Option<Parsed>, Failure> {
        let Some(parsed) = answer::parse(&mut self.input)? else { return Ok(None) };
        if parsed.status == StatusCode::SWITCHING_PROTOCOLS {
            return Err(Failure::Malformed("101 without having been asked to switch protocols"));
        }
        if parsed.status.is_informational() {
            self.interim += 1;
            if self.interim > MAX_INTERIM {
                return Err(Failure::Malformed("too many interim answers"));
            }
        }
        Ok(Some(parsed))
    }

    /// Reads once. The end of the connection is an error: no caller expects it amid an exchange.
    fn poll_input(&mut self, cx: &mut Context<'_>, room: usize) -> Poll<Result<(), Failure>> {
        match ready!(poll_read(&mut self.stream, &mut self.input, cx, room)) {
            Ok(0) if self.input.is_empty() => {
                Poll::Ready(Err(Failure::Silent { sent: true, source: io::ErrorKind::UnexpectedEof.into() }))
            }
            Ok(0) => Poll::Ready(Err(Failure::Truncated)),
            Ok(_) => Poll::Ready(Ok(())),
            Err(source) if self.input.is_empty() => Poll::Ready(Err(Failure::Silent { sent: true, source })),
            Err(_) => Poll::Ready(Err(Failure::Truncated)),
        }
    }

    fn into_response(
        mut self: Box<Self>,
        parsed: Parsed,
        method: &Method,
        complete: bool,
        pool: &Arc<Pool>,
    ) -> Result<Response<Body>, Failure> {
        let bodiless = method == Method::HEAD
            || matches!(parsed.status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED)
            || (method == Method::CONNECT && parsed.status.is_success());
        let framing = if bodiless { Remaining::Length(0) } else { parsed.remaining };
        let reusable = complete && parsed.keep_alive && !matches!(framing, Remaining::UntilClose);
        let body = match framing {
            Remaining::Length(length) if length <= self.input.len() as u64 => {
                let length = usize::try_from(length).expect("it fits the input");
                let whole = Bytes::copy_from_slice(&self.input[..length]);
                if self.secret {
                    self.input[..length].zeroize();
                }
                self.input.advance(length);
                if reusable {
                    self.keep(pool, parsed.keep_for);
                }
                Body::full(whole)
            }
            remaining => {
                let reusable = reusable.then(|| (Arc::clone(pool), parsed.keep_for));
                let patience = pool.deadlines.patience(pool.response_timeout);
                Body::h1(Reader::new(self, remaining, reusable, patience))
            }
        };
        let mut response = Response::new(body);
        *response.status_mut() = parsed.status;
        *response.headers_mut() = parsed.headers;
        Ok(response)
    }

    /// Back to the pool, unless the service sent more than its answer.
    fn keep(mut self: Box<Self>, pool: &Arc<Pool>, keep_for: Option<Duration>) {
        if self.input.is_empty() {
            self.input.clear();
            self.keep_for = keep_for;
            pool.give_back(self);
        }
    }
}

/// Dropped amid an exchange, its buffers still hold what was secret.
impl Drop for Connection {
    fn drop(&mut self) {
        if self.secret {
            self.output.zeroize();
            self.input.as_mut().zeroize();
        } else if let Some(token) = self.output.get_mut(std::mem::take(&mut self.token)) {
            token.zeroize();
        }
    }
}

enum Framing {
    Length(u64),
    Chunked,
}

/// Methods whose empty body is worth a `Content-Length: 0` (RFC 9110, section 8.6).
fn expects_body(method: &Method) -> bool {
    matches!(*method, Method::POST | Method::PUT | Method::PATCH)
}

fn field(out: &mut Vec<u8>, name: &[u8], value: &[u8]) {
    out.extend_from_slice(name);
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}

/// Reads once into `buffer`, with room for `room` bytes at least.
fn poll_read(
    stream: &mut Stream,
    buffer: &mut BytesMut,
    cx: &mut Context<'_>,
    room: usize,
) -> Poll<io::Result<usize>> {
    buffer.reserve(room);
    // `chunk_mut` is uninitialized memory, which only unsafe code may hand to a reader; tokio's own
    // `read_buf` does that for us.
    let mut read = std::pin::pin!(tokio::io::AsyncReadExt::read_buf(stream, buffer));
    std::future::Future::poll(read.as_mut(), cx)
}

fn poll_write_vectored(
    stream: &mut Stream,
    cx: &mut Context<'_>,
    slices: &[io::IoSlice<'_>],
) -> Poll<io::Result<usize>> {
    Pin::new(stream).poll_write_vectored(cx, slices)
}
