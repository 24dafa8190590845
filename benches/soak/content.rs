//! Bodies that are made up on the fly: those of two requests differ, and each byte has its place.

use std::io;
use std::pin::Pin;
use std::sync::LazyLock;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

/// A prime, so that a piece lost, doubled or swapped shows.
const BLOCK: usize = 65_521;

/// The block twice, so that every piece of it lies in one.
static BYTES: LazyLock<Bytes> =
    LazyLock::new(|| (0..2 * BLOCK).map(|at| ((at % BLOCK).wrapping_mul(0x9E37_79B9) >> 13) as u8).collect());

/// Bytes of the body of request `id` from `at` on, `most` at most.
fn piece(id: usize, at: usize, most: usize) -> Bytes {
    let from = (id.wrapping_mul(977) + at) % BLOCK;
    BYTES.slice(from..from + most.min(BLOCK))
}

/// Whether `bytes` are those of request `id` from `at` on.
pub(crate) fn is_of(id: usize, mut at: usize, mut bytes: &[u8]) -> bool {
    while !bytes.is_empty() {
        let piece = piece(id, at, bytes.len());
        if !bytes.starts_with(&piece) {
            return false;
        }
        at += piece.len();
        bytes = &bytes[piece.len()..];
    }
    true
}

/// The body of request `id`.
#[derive(Clone, Debug)]
pub(crate) struct Payload {
    pub(crate) id: usize,
    pub(crate) length: usize,
    /// Its length is told in advance.
    pub(crate) known: bool,
    /// It ends here with an error.
    pub(crate) breaks_at: Option<usize>,
    at: usize,
    waited: bool,
}

impl Payload {
    pub(crate) fn new(id: usize, length: usize, known: bool) -> Self {
        Self { id, length, known, breaks_at: None, at: 0, waited: false }
    }

    pub(crate) fn none() -> Self {
        Self::new(0, 0, true)
    }

    pub(crate) fn breaking(self, at: usize) -> Self {
        Self { breaks_at: Some(at), ..self }
    }
}

impl Body for Payload {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        let end = self.breaks_at.unwrap_or(self.length);
        if self.at < end {
            let piece = piece(self.id, self.at, end - self.at);
            self.at += piece.len();
            return Poll::Ready(Some(Ok(Frame::data(piece))));
        }
        if self.breaks_at.is_none() {
            return Poll::Ready(None);
        }
        if !self.waited {
            // What was said so far gets a chance to leave first.
            self.waited = true;
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        Poll::Ready(Some(Err(io::Error::other("broken off on purpose"))))
    }

    fn is_end_stream(&self) -> bool {
        self.breaks_at.is_none() && self.at >= self.length
    }

    fn size_hint(&self) -> SizeHint {
        if self.known { SizeHint::with_exact((self.length - self.at) as u64) } else { SizeHint::default() }
    }
}
