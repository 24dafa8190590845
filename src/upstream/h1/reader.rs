//! The body of an answer on its way down.

use std::io;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http_body::Frame;

use super::{Connection, SMALL_READ, poll_read};
use crate::upstream::chunked::{self, Chunked};
use crate::upstream::deadline::Patience;
use crate::upstream::message::stalled;
use crate::upstream::pool::Pool;

/// Fewer, larger reads are what makes a large download cheap.
const LARGE_READ: usize = 512 * 1024;

/// How much of an answer's body is still to come.
#[derive(Debug)]
pub(super) enum Remaining {
    Length(u64),
    Chunked(Chunked),
    UntilClose,
}

/// The body of an answer on its way down. Dropped early, it closes the connection.
#[derive(Debug)]
pub(crate) struct Reader {
    connection: Option<Box<Connection>>,
    remaining: Remaining,
    reusable: Option<(Arc<Pool>, Option<Duration>)>,
    room: usize,
    patience: Patience,
}

impl Reader {
    /// What is left of `connection`'s answer. After a clean end it goes back where `reusable` says.
    pub(super) fn new(
        connection: Box<Connection>,
        remaining: Remaining,
        reusable: Option<(Arc<Pool>, Option<Duration>)>,
        patience: Patience,
    ) -> Self {
        Self { connection: Some(connection), remaining, reusable, room: SMALL_READ, patience }
    }

    pub(crate) fn length(&self) -> Option<u64> {
        match self.remaining {
            Remaining::Length(length) => Some(length),
            _ => None,
        }
    }

    pub(crate) fn is_ended(&self) -> bool {
        self.connection.is_none()
    }

    pub(crate) fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        loop {
            let Some(connection) = &mut self.connection else { return Poll::Ready(None) };
            match &mut self.remaining {
                Remaining::Length(left) => {
                    if !connection.input.is_empty() {
                        let take = connection.input.len().min(usize::try_from(*left).unwrap_or(usize::MAX));
                        let piece = connection.take(take);
                        *left -= take as u64;
                        if *left == 0 {
                            self.finish();
                        }
                        return Poll::Ready(Some(Ok(Frame::data(piece))));
                    }
                    // One read for what is left of a small body, large ones for a large body.
                    self.room = usize::try_from(*left).unwrap_or(usize::MAX).min(LARGE_READ);
                }
                Remaining::Chunked(decoder) => match decoder.decode(&mut connection.input) {
                    Ok(chunked::Step::Data(piece)) => {
                        connection.part();
                        return Poll::Ready(Some(Ok(Frame::data(piece))));
                    }
                    Ok(chunked::Step::More) => {}
                    Ok(chunked::Step::End(trailers)) => {
                        self.finish();
                        return Poll::Ready(trailers.map(|trailers| Ok(Frame::trailers(trailers))));
                    }
                    Err(what) => {
                        self.connection = None;
                        return Poll::Ready(Some(Err(io::Error::new(io::ErrorKind::InvalidData, what))));
                    }
                },
                Remaining::UntilClose => {
                    if !connection.input.is_empty() {
                        let piece = connection.take(connection.input.len());
                        return Poll::Ready(Some(Ok(Frame::data(piece))));
                    }
                }
            }
            let room = self.room;
            let Poll::Ready(read) = poll_read(&mut connection.stream, &mut connection.input, cx, room) else {
                // Asked for more, so it is not the client that everything waits for.
                ready!(self.patience.poll(cx));
                self.connection = None;
                return Poll::Ready(Some(Err(stalled())));
            };
            self.patience.rest();
            match read {
                Ok(0) => {
                    self.connection = None;
                    return Poll::Ready(match self.remaining {
                        Remaining::UntilClose => None,
                        _ => Some(Err(io::ErrorKind::UnexpectedEof.into())),
                    });
                }
                Ok(n) if n >= room => self.room = (room * 2).min(LARGE_READ),
                Ok(_) => {}
                Err(error) => {
                    self.connection = None;
                    return Poll::Ready(Some(Err(error)));
                }
            }
        }
    }

    fn finish(&mut self) {
        if let (Some(connection), Some((pool, keep_for))) = (self.connection.take(), self.reusable.take()) {
            connection.keep(&pool, keep_for);
        }
    }
}
