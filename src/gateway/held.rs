//! A body that was read to its end before any of it went out, since its links may have to be mapped.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body as _, Frame, SizeHint};
use http_body_util::BodyExt as _;

use crate::body::Budget;
use crate::proxy::links;
use crate::upstream;

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// See the module's documentation. What can't be held whole streams behind what was read of it.
#[derive(Debug)]
pub(super) struct Held {
    /// What was read, and goes out first.
    front: Bytes,
    /// The piece that did not fit behind it.
    ahead: Bytes,
    rest: Rest,
    room: Room,
}

/// What follows what was read.
#[derive(Debug)]
enum Rest {
    Nothing,
    Trailers(HeaderMap),
    Body(upstream::Body),
    Broken(BoxError),
}

/// Why a body was not held to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TooMuch {
    /// It is larger than one body may be.
    Size,
    /// All that are held are.
    Memory,
}

impl TooMuch {
    /// The metric's label.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Size => "size",
            Self::Memory => "memory",
        }
    }
}

/// A share of the budget.
#[derive(Debug)]
struct Room {
    budget: Arc<Budget>,
    bytes: usize,
}

impl Room {
    /// Makes room for so many bytes in all.
    fn grow(&mut self, bytes: usize) -> bool {
        let more = bytes.saturating_sub(self.bytes);
        let grown = self.budget.take(more);
        self.bytes += if grown { more } else { 0 };
        grown
    }

    fn release(&mut self) {
        self.budget.give_back(std::mem::take(&mut self.bytes));
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        self.release();
    }
}

impl Held {
    /// Reads a body as long as it fits, and tells why it did not.
    pub(super) async fn read(mut body: upstream::Body, budget: &Arc<Budget>) -> (Self, Option<TooMuch>) {
        let most = budget.per_request();
        let mut room = Room { budget: Arc::clone(budget), bytes: 0 };
        let mut front = Vec::new();
        let announced = body.size_hint().exact().and_then(|length| usize::try_from(length).ok());
        let (ahead, rest, why) = loop {
            match body.frame().await {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(piece) => {
                        let length = front.len() + piece.len();
                        let why = if length > most {
                            Some(TooMuch::Size)
                        } else if length > front.capacity() {
                            let capacity = announced.unwrap_or(2 * front.capacity()).clamp(length, most);
                            let fits = room.grow(capacity);
                            if fits {
                                front.reserve_exact(capacity - front.len());
                            }
                            (!fits).then_some(TooMuch::Memory)
                        } else {
                            None
                        };
                        if why.is_some() {
                            break (piece, Rest::Body(body), why);
                        }
                        front.extend_from_slice(&piece);
                    }
                    Err(frame) => {
                        let trailers = frame.into_trailers().unwrap_or_default();
                        break (Bytes::new(), Rest::Trailers(trailers), None);
                    }
                },
                Some(Err(error)) => break (Bytes::new(), Rest::Broken(error), None),
                None => break (Bytes::new(), Rest::Nothing, None),
            }
        };
        (Self { front: front.into(), ahead, rest, room }, why)
    }

    /// All of the body, if it is here.
    pub(super) fn whole(&self) -> Option<&[u8]> {
        matches!(self.rest, Rest::Nothing | Rest::Trailers(_)).then_some(&self.front)
    }

    /// Puts other bytes into the place of the whole body, if there is room for them.
    pub(super) fn replace(&mut self, whole: Vec<u8>) -> bool {
        let fits = self.room.grow(whole.capacity());
        if fits {
            self.front = whole.into();
            if let Rest::Trailers(trailers) = &mut self.rest {
                links::forget_bytes(trailers);
            }
        }
        fits
    }

    /// How many bytes there are, if nothing follows them.
    pub(super) fn length(&self) -> Option<usize> {
        matches!(self.rest, Rest::Nothing).then_some(self.front.len())
    }

    pub(super) fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        for piece in [&mut self.front, &mut self.ahead] {
            if !piece.is_empty() {
                return Poll::Ready(Some(Ok(Frame::data(std::mem::take(piece)))));
            }
        }
        match &mut self.rest {
            Rest::Body(body) => {
                // What was held has gone out, however long this goes on.
                self.room.release();
                Pin::new(body).poll_frame(cx)
            }
            _ => Poll::Ready(match std::mem::replace(&mut self.rest, Rest::Nothing) {
                Rest::Trailers(trailers) => Some(Ok(Frame::trailers(trailers))),
                Rest::Broken(error) => Some(Err(error)),
                Rest::Nothing | Rest::Body(_) => None,
            }),
        }
    }

    pub(super) fn is_end_stream(&self) -> bool {
        let ended = match &self.rest {
            Rest::Nothing => true,
            Rest::Body(body) => body.is_end_stream(),
            Rest::Trailers(_) | Rest::Broken(_) => false,
        };
        ended && self.front.is_empty() && self.ahead.is_empty()
    }

    pub(super) fn size_hint(&self) -> SizeHint {
        let here = (self.front.len() + self.ahead.len()) as u64;
        let rest = match &self.rest {
            Rest::Nothing => Some(0),
            Rest::Body(body) => body.size_hint().exact(),
            Rest::Trailers(_) | Rest::Broken(_) => None,
        };
        rest.map_or_else(SizeHint::default, |rest| SizeHint::with_exact(here + rest))
    }
}
