//! A client's connection as hyper uses it, with one difference: a small answer leaves in one piece.
//!
//! hyper writes head and body as two slices. For a small answer, copying both together and one plain
//! `send` is cheaper than `writev`; a large one goes out as hyper has it.

use std::cell::RefCell;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};

use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

/// What is worth copying, bytes.
const SMALL: usize = 8 * 1024;

thread_local! {
    /// One per worker: it is used within a call only.
    static SCRATCH: RefCell<Vec<u8>> = RefCell::new(Vec::with_capacity(SMALL));
}

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct Io(TokioIo<TcpStream>);

impl Io {
    pub(super) fn new(stream: TcpStream) -> Self {
        Self(TokioIo::new(stream))
    }
}

impl Read for Io {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl Write for Io {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.0.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let total: usize = slices.iter().map(|slice| slice.len()).sum();
        if total > SMALL {
            return Pin::new(&mut self.0).poll_write_vectored(cx, slices);
        }
        SCRATCH.with_borrow_mut(|scratch| {
            scratch.clear();
            slices.iter().for_each(|slice| scratch.extend_from_slice(slice));
            Pin::new(&mut self.0).poll_write(cx, scratch)
        })
    }
}
