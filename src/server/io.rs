//! A client's connection as hyper uses it, with two differences: a small answer leaves in one piece,
//! and what happens is noted for those who look after the connection ([`Connection`]).
//!
//! hyper writes head and body as two slices. For a small answer, copying both together and one plain
//! `send` is cheaper than `writev`; a large one goes out as hyper has it.

use std::cell::RefCell;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use rustls::pki_types::CertificateDer;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::server::TlsStream;

use super::connection::Connection;
use crate::framing::{self, Line};

/// What is worth copying, bytes.
const SMALL: usize = 8 * 1024;

/// A longer request line is refused for its length.
const LONGEST_LINE: usize = 64 * 1024;

thread_local! {
    /// One per worker: it is used within a call only.
    static SCRATCH: RefCell<Vec<u8>> = RefCell::new(Vec::with_capacity(SMALL));
}

/// The kinds of connections.
#[derive(Debug)]
pub(super) enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
    TcpTls(Box<TlsStream<TcpStream>>),
    UnixTls(Box<TlsStream<UnixStream>>),
}

macro_rules! each {
    ($stream:expr, $inner:ident => $do:expr) => {
        match $stream {
            Stream::Tcp($inner) => $do,
            Stream::Unix($inner) => $do,
            Stream::TcpTls($inner) => $do,
            Stream::UnixTls($inner) => $do,
        }
    };
}

impl Stream {
    /// The certificates that the client showed, its own first, if any; they were verified.
    pub(super) fn certificates(&self) -> &[CertificateDer<'static>] {
        let session = match self {
            Self::TcpTls(stream) => stream.get_ref().1,
            Self::UnixTls(stream) => stream.get_ref().1,
            Self::Tcp(_) | Self::Unix(_) => return &[],
        };
        session.peer_certificates().unwrap_or_default()
    }

    /// Closing will be a reset, so that nobody takes what came for the whole. A socket file knows no
    /// such thing.
    fn reset_when_closed(&self) {
        let tcp = match self {
            Self::Tcp(stream) => stream,
            Self::TcpTls(stream) => stream.get_ref().0,
            Self::Unix(_) | Self::UnixTls(_) => return,
        };
        if let Err(error) = tcp.set_zero_linger() {
            tracing::debug!(%error, "a connection that was cut off may look finished");
        }
    }
}

/// What the request line says that ends with these bytes, or does not end yet.
fn look(line: &mut Vec<u8>, read: &[u8]) -> Line {
    if line.is_empty()
        && let Some(seen) = framing::look(read)
    {
        return seen;
    }
    let end = read.iter().position(|byte| *byte == b'\n').map_or(read.len(), |end| end + 1);
    if line.len() + end > LONGEST_LINE {
        line.clear();
        return Line::Plain;
    }
    line.extend_from_slice(&read[..end]);
    let seen = framing::look(line);
    if seen.is_some() {
        line.clear();
    }
    seen.unwrap_or(Line::Plain)
}

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct Io {
    stream: Stream,
    connection: Arc<Connection>,
    /// The start of a request line whose end was not read yet.
    line: Vec<u8>,
}

impl Io {
    pub(super) fn new(stream: Stream, connection: Arc<Connection>) -> Self {
        Self { stream, connection, line: Vec::new() }
    }

    fn wrote(&self, outcome: &Poll<io::Result<usize>>) {
        match outcome {
            Poll::Ready(Ok(length)) => self.connection.wrote(*length),
            Poll::Ready(Err(_)) => {}
            Poll::Pending => self.connection.write_blocked(),
        }
    }
}

impl AsyncRead for Io {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if let Some(farewell) = this.connection.farewell() {
            // Nothing of an answer is under way, so this one can't be taken for a part of it.
            each!(&mut this.stream, stream => {
                let _ = Pin::new(&mut *stream).poll_write(cx, farewell);
                let _ = Pin::new(stream).poll_flush(cx);
            });
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        let before = buf.filled().len();
        let outcome = each!(&mut this.stream, stream => Pin::new(stream).poll_read(cx, buf));
        let read = &buf.filled()[before..];
        if !read.is_empty() && (this.connection.read(read) || !this.line.is_empty()) {
            let line = look(&mut this.line, read);
            match line {
                Line::Plain => {}
                Line::Fragment => this.connection.has_fragment(),
                Line::Foreign if this.connection.requests() > 0 => {}
                Line::Foreign => return Poll::Ready(Err(io::ErrorKind::InvalidData.into())),
            }
        }
        outcome
    }
}

impl AsyncWrite for Io {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let outcome = each!(&mut self.stream, stream => Pin::new(stream).poll_write(cx, buf));
        self.wrote(&outcome);
        outcome
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let total: usize = slices.iter().map(|slice| slice.len()).sum();
        if total > SMALL {
            let outcome = each!(&mut self.stream, stream => Pin::new(stream).poll_write_vectored(cx, slices));
            self.wrote(&outcome);
            return outcome;
        }
        SCRATCH.with_borrow_mut(|scratch| {
            scratch.clear();
            slices.iter().for_each(|slice| scratch.extend_from_slice(slice));
            self.poll_write(cx, scratch)
        })
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let outcome = each!(&mut self.stream, stream => Pin::new(stream).poll_flush(cx));
        if outcome.is_pending() {
            self.connection.write_blocked();
        }
        outcome
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(&mut self.stream, stream => Pin::new(stream).poll_shutdown(cx))
    }
}

impl Drop for Io {
    fn drop(&mut self) {
        if self.connection.is_cut_short() {
            self.stream.reset_when_closed();
        }
    }
}
