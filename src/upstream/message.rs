//! The head of a request on its way up, the body of an answer on its way down.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::header::{HeaderMap, HeaderName, HeaderValue};
use http::{Method, header};
use http_body::{Body as _, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::sync::mpsc;

use super::deadline::Patience;
use super::h1::Reader;
use super::h2::Piece;

/// What a request to a service says before its body.
///
/// The framing fields, `Host` and `Expect` are generated, never copied; hop-by-hop fields stay behind.
#[derive(Clone, Copy)]
pub struct Head<'a> {
    /// The method.
    pub method: &'a Method,
    /// Path and query, as they go on the wire.
    pub target: &'a str,
    /// The `Host` header.
    pub authority: &'a HeaderValue,
    /// The fields as the client sent them.
    pub headers: &'a HeaderMap,
    /// Which of them stay behind besides the hop-by-hop ones.
    pub withhold: fn(&HeaderName) -> bool,
    /// Fields that the client named in `Connection`: they stay behind too.
    pub listed: &'a [HeaderName],
    /// Further fields: what proves to the service who asks.
    pub extra: &'a [(HeaderName, HeaderValue)],
    /// More fields, which the client did not send and no field of its own takes the place of.
    pub defaults: &'a [(HeaderName, HeaderValue)],
    /// The client sent a Content-Length, which is worth repeating even if it was 0.
    pub had_length: bool,
    /// Ask with `Expect: 100-continue` before the body goes out (HTTP/1.1 only).
    pub expect_continue: bool,
    /// Meanwhile, read what the replay buffer takes. Not for a client that waits for 100 itself.
    pub read_ahead: bool,
}

impl Head<'_> {
    /// The client's fields that go on.
    pub fn fields(&self) -> impl Iterator<Item = (&HeaderName, &HeaderValue)> {
        self.headers.iter().filter(|(name, _)| self.passes(name))
    }

    /// The client's trailers that go on: a field that must not arrive must not arrive late either.
    pub fn trailers(&self, trailers: &HeaderMap) -> HeaderMap {
        let mut passed = HeaderMap::with_capacity(trailers.len());
        for (name, value) in trailers.iter().filter(|(name, _)| self.passes(name)) {
            passed.append(name.clone(), value.clone());
        }
        passed
    }

    fn passes(&self, name: &HeaderName) -> bool {
        !hop_by_hop(name) && !generated(name) && !(self.withhold)(name) && !self.listed.contains(name)
    }
}

/// Fields that speak of one connection only (RFC 9110, section 7.6.1), whether `Connection` lists
/// them or not, and `Trailer`, which announces what keyway may leave out.
pub(super) fn hop_by_hop(name: &HeaderName) -> bool {
    let name = name.as_str();
    matches!(
        name,
        "connection" | "keep-alive" | "te" | "trailer" | "transfer-encoding" | "upgrade" | "http2-settings"
    ) || name.starts_with("proxy-")
}

/// Fields that the upstream leg writes by itself.
fn generated(name: &HeaderName) -> bool {
    matches!(*name, header::HOST | header::CONTENT_LENGTH | header::EXPECT)
}

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// The body of a service's answer. Dropped early, it ends the exchange.
#[derive(Debug)]
pub struct Body(Kind);

#[derive(Debug)]
enum Kind {
    Full(Option<Bytes>),
    Http1(Box<Reader>),
    Http2(Box<Stream>),
}

/// An answer's body on an HTTP/2 stream.
#[derive(Debug)]
struct Stream {
    incoming: Incoming,
    /// What its Content-Length leaves to come.
    left: Option<u64>,
    patience: Patience,
    broken: bool,
    /// Keeps an unfinished upload from looking finished while the answer is read.
    #[expect(dead_code, reason = "held for its drop")]
    unfinished: Option<mpsc::Sender<Piece>>,
}

impl Stream {
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        if self.broken {
            return Poll::Ready(None);
        }
        let Poll::Ready(frame) = Pin::new(&mut self.incoming).poll_frame(cx) else {
            ready!(self.patience.poll(cx));
            self.broken = true;
            return Poll::Ready(Some(Err(stalled().into())));
        };
        self.patience.rest();
        Poll::Ready(match frame {
            Some(Ok(frame)) => {
                if let (Some(left), Some(data)) = (&mut self.left, frame.data_ref()) {
                    *left = left.saturating_sub(data.len() as u64);
                }
                Some(Ok(frame))
            }
            Some(Err(error)) => {
                self.broken = true;
                Some(Err(error.into()))
            }
            // hyper takes a stream reset with NO_ERROR for an end, wherever it comes.
            None if !self.incoming.is_end_stream() && self.left != Some(0) => {
                self.broken = true;
                Some(Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the stream was reset").into()))
            }
            None => None,
        })
    }
}

/// The service has more to send and does not.
pub(super) fn stalled() -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, "the service stopped in the middle of its answer")
}

impl Body {
    /// One that is here already.
    pub fn full(bytes: Bytes) -> Self {
        Self(Kind::Full((!bytes.is_empty()).then_some(bytes)))
    }

    /// Whether all of it is here already.
    pub fn is_buffered(&self) -> bool {
        matches!(self.0, Kind::Full(_))
    }

    /// All of it, if that is here already and not yet taken.
    pub fn whole(&self) -> Option<&Bytes> {
        if let Kind::Full(bytes) = &self.0 { bytes.as_ref() } else { None }
    }

    pub(super) fn h1(reader: Reader) -> Self {
        Self(Kind::Http1(Box::new(reader)))
    }

    /// `left` is what its Content-Length says, where it has one.
    pub(super) fn h2(
        incoming: Incoming,
        left: Option<u64>,
        patience: Patience,
        unfinished: Option<mpsc::Sender<Piece>>,
    ) -> Self {
        Self(Kind::Http2(Box::new(Stream { incoming, left, patience, broken: false, unfinished })))
    }
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let mut frame = match &mut self.0 {
            Kind::Full(bytes) => return Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Kind::Http1(reader) => ready!(reader.poll_frame(cx)?),
            Kind::Http2(stream) => ready!(stream.poll_frame(cx)?),
        };
        if let Some(trailers) = frame.as_mut().and_then(Frame::trailers_mut) {
            // What frames or routes a message has no business behind it (RFC 9110, section 6.5.1).
            let late: Vec<_> =
                trailers.keys().filter(|name| hop_by_hop(name) || generated(name)).cloned().collect();
            for name in late {
                trailers.remove(name);
            }
        }
        Poll::Ready(frame.map(Ok))
    }

    fn is_end_stream(&self) -> bool {
        match &self.0 {
            Kind::Full(bytes) => bytes.is_none(),
            Kind::Http1(reader) => reader.is_ended(),
            Kind::Http2(stream) => stream.broken || stream.incoming.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            Kind::Full(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64)),
            Kind::Http1(reader) => reader.length().map_or_else(SizeHint::default, SizeHint::with_exact),
            Kind::Http2(stream) => stream.incoming.size_hint(),
        }
    }
}
