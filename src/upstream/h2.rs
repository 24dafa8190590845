//! HTTP/2 towards a service (RFC 9113), where TLS offers it: hyper's client, one connection for all.

use std::error::Error as _;
use std::fmt;
use std::future::{Future, poll_fn};
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::uri::{Parts, PathAndQuery};
use http::{Method, Request, Response, StatusCode, Uri, Version};
use http_body::{Body as _, Frame, SizeHint};
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::sync::mpsc;

use super::deadline::Patience;
use super::h1::Failure;
use super::pool::Pool;
use super::stream::Stream;
use super::{Body, Head};
use crate::body::RequestBody;

/// One connection serves everyone, so it had better be alive: asked while requests wait for it.
const PING: Duration = Duration::from_secs(15);
const PING_TIMEOUT: Duration = Duration::from_secs(10);

/// How much of an answer waits here for a slow client, bytes.
const STREAM_WINDOW: u32 = 1 << 20;
/// So large that clients who do not read keep nobody else's answers from coming.
const CONNECTION_WINDOW: u32 = (1 << 31) - 1;
/// As over HTTP/1.1.
const MAX_FIELDS: usize = 200;

/// A connection's sending half; a clone shares the connection.
pub(super) type Sender = SendRequest<Upload>;

/// Starts HTTP/2 on a fresh connection. The connection runs in a task of its own.
pub(super) async fn handshake(stream: Stream) -> Result<Sender, hyper::Error> {
    let (sender, connection) = http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .keep_alive_interval(PING)
        .keep_alive_timeout(PING_TIMEOUT)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_header_list_size(64 * 1024)
        .handshake(TokioIo::new(stream))
        .await?;
    tokio::spawn(async move {
        if let Err(error) = connection.await {
            tracing::debug!(%error, "an HTTP/2 connection to a service ended");
        }
    });
    Ok(sender)
}

/// One request, one answer; `body` tells afterwards how much of it went.
pub(super) async fn exchange(
    mut sender: Sender,
    pool: &Arc<Pool>,
    head: &Head<'_>,
    body: &mut RequestBody,
) -> Result<Response<Body>, Failure> {
    let (upload, mut outlet) = match body.whole() {
        Some(whole) => (Upload::Whole(Some(whole)), None),
        None => {
            let (outlet, pieces) = mpsc::channel(1);
            (Upload::Pieces { pieces, length: body.length(), ended: false }, Some(outlet))
        }
    };
    let request = request(pool, head, upload)?;
    let mut answer = std::pin::pin!(async {
        sender.ready().await?;
        sender.send_request(request).await
    });
    let mut patience = pool.deadlines.patience(pool.response_timeout);
    let answer = loop {
        let Some(pieces) = outlet.clone() else {
            let wait = pool.deadlines.within(pool.response_timeout, answer.as_mut());
            break wait.await.map_err(|_| Failure::Timeout)?;
        };
        tokio::select! {
            biased;
            answer = answer.as_mut() => break answer,
            room = within_patience(&mut patience, pieces.reserve()) => match room? {
                Err(_) => outlet = None,
                Ok(room) => {
                    tokio::select! {
                        biased;
                        answer = answer.as_mut() => break answer,
                        next = poll_fn(|cx| body.poll_gathered(cx)) => match next {
                            Some(Ok(mut frame)) => {
                                if let Some(trailers) = frame.trailers_mut() {
                                    *trailers = head.trailers(trailers);
                                }
                                room.send(Piece::Frame(frame));
                            }
                            Some(Err(error)) => return Err(Failure::Client(error)),
                            None => {
                                room.send(Piece::End);
                                outlet = None;
                            }
                        }
                    }
                }
            }
        }
    };
    let (mut parts, incoming) = answer.map_err(failure)?.into_parts();
    if parts.headers.len() > MAX_FIELDS {
        return Err(Failure::Malformed("more than 200 header fields"));
    }
    // Meaningless in HTTP/2 (RFC 9113, section 8.2.2), and poison in HTTP/1.1.
    let forbidden: Vec<_> = parts.headers.keys().filter(|name| super::hop_by_hop(name)).cloned().collect();
    for name in forbidden {
        parts.headers.remove(name);
    }
    parts.version = Version::HTTP_11;
    let left = match (head.method, parts.status) {
        (&Method::HEAD, _) | (_, StatusCode::NOT_MODIFIED) => None,
        _ => incoming.size_hint().exact(),
    };
    Ok(Response::from_parts(parts, Body::h2(incoming, left, patience, outlet)))
}

/// Room for the next piece; it comes as the service takes the earlier ones.
async fn within_patience<T>(patience: &mut Patience, room: impl Future<Output = T>) -> Result<T, Failure> {
    let mut room = std::pin::pin!(room);
    poll_fn(|cx| match room.as_mut().poll(cx) {
        Poll::Ready(room) => {
            patience.rest();
            Poll::Ready(Ok(room))
        }
        Poll::Pending => patience.poll(cx).map(|_| Err(Failure::Timeout)),
    })
    .await
}

/// A stream that the service refused, or that lies above the last one of its GOAWAY, was not
/// processed (RFC 9113, section 8.7).
fn failure(error: hyper::Error) -> Failure {
    let cause = error.source().and_then(|cause| cause.downcast_ref::<h2::Error>());
    if let Some(cause) = cause.filter(|cause| cause.is_remote()) {
        let leaving = cause.is_go_away();
        if leaving || cause.reason() == Some(h2::Reason::REFUSED_STREAM) {
            return Failure::Refused { leaving };
        }
    }
    Failure::Silent { sent: !error.is_canceled(), source: io::Error::other(error) }
}

fn request(pool: &Pool, head: &Head<'_>, upload: Upload) -> Result<Request<Upload>, Failure> {
    let malformed = |_| Failure::Malformed("a target that HTTP/2 can't carry");
    let mut parts = Parts::default();
    parts.scheme = Some(pool.origin().scheme().as_str().parse().map_err(malformed)?);
    parts.authority = Some(head.authority.as_bytes().try_into().map_err(malformed)?);
    parts.path_and_query = Some(PathAndQuery::try_from(head.target).map_err(malformed)?);
    let mut request = Request::new(upload);
    *request.uri_mut() =
        Uri::from_parts(parts).map_err(|_| Failure::Malformed("a target that HTTP/2 can't carry"))?;
    *request.method_mut() = head.method.clone();
    *request.version_mut() = Version::HTTP_2;
    let headers = request.headers_mut();
    headers.extend(head.fields().map(|(name, value)| (name.clone(), value.clone())));
    headers.extend(head.defaults.iter().cloned());
    for (name, value) in head.extra {
        headers.insert(name.clone(), value.clone());
    }
    Ok(request)
}

/// What goes to the connection's task, piece by piece. A channel that closes without [`Piece::End`]
/// is an aborted upload, never a complete one.
#[derive(Debug)]
pub(super) enum Piece {
    Frame(Frame<Bytes>),
    End,
}

/// A request's body as hyper takes it.
pub(super) enum Upload {
    Whole(Option<Bytes>),
    Pieces { pieces: mpsc::Receiver<Piece>, length: Option<u64>, ended: bool },
}

impl fmt::Debug for Upload {
    /// Without the body, which may be a login.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Upload(..)")
    }
}

/// The upload was abandoned: the stream is reset.
#[derive(Debug, thiserror::Error)]
#[error("the upload was abandoned")]
pub(super) struct Aborted;

impl http_body::Body for Upload {
    type Data = Bytes;
    type Error = Aborted;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Aborted>>> {
        match &mut *self {
            Self::Whole(whole) => {
                Poll::Ready(whole.take().filter(|w| !w.is_empty()).map(|w| Ok(Frame::data(w))))
            }
            Self::Pieces { ended: true, .. } => Poll::Ready(None),
            Self::Pieces { pieces, ended, .. } => pieces.poll_recv(cx).map(|piece| match piece {
                Some(Piece::Frame(frame)) => Some(Ok(frame)),
                Some(Piece::End) => {
                    *ended = true;
                    None
                }
                None => {
                    *ended = true;
                    Some(Err(Aborted))
                }
            }),
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(self, Self::Whole(None)) || matches!(self, Self::Whole(Some(whole)) if whole.is_empty())
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(whole) => SizeHint::with_exact(whole.as_ref().map_or(0, |whole| whole.len() as u64)),
            Self::Pieces { length: Some(length), .. } => SizeHint::with_exact(*length),
            Self::Pieces { .. } => SizeHint::default(),
        }
    }
}
