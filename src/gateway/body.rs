//! An answer's body: a service's, or keyway's own.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::header::{self, HeaderName, HeaderValue};
use http::{HeaderMap, Response, StatusCode};
use http_body::{Frame, SizeHint};

use super::held::Held;
use super::record::Record;
use crate::error::ProxyError;
use crate::proxy::{Sent, headers};
use crate::upstream;

/// Tells keyway's own answers from a service's.
pub const X_KEYWAY_ERROR: HeaderName = HeaderName::from_static("x-keyway-error");

/// An error as the client sees it, in Keystone's shape.
fn describe(error: &ProxyError, head_only: bool) -> (StatusCode, HeaderMap, Option<Bytes>) {
    let (status, reason) = (error.status(), error.reason().as_str());
    let document = serde_json::json!({"error": {
        "code": status.as_u16(),
        "title": status.canonical_reason().unwrap_or("Error"),
        "message": error.to_string(),
        "reason": reason,
    }});
    let text = format!("{document}\n");
    let mut headers = HeaderMap::new();
    headers.insert(X_KEYWAY_ERROR, HeaderValue::from_static(reason));
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(header::CONTENT_LENGTH, text.len().into());
    if let ProxyError::Unauthorized { keystone, .. } | ProxyError::WrongPassword { keystone } = error
        && let Ok(value) = HeaderValue::try_from(format!("Keystone uri=\"{keystone}\""))
    {
        headers.insert(header::WWW_AUTHENTICATE, value);
    }
    if let Some(wait) = error.retry_after() {
        headers.insert(
            header::RETRY_AFTER,
            wait.as_millis().div_ceil(1000).try_into().unwrap_or(u64::MAX).into(),
        );
    }
    (status, headers, (!head_only).then(|| text.into()))
}

/// keyway's own answer to a request.
pub fn refuse(error: &ProxyError, head_only: bool) -> Response<Body> {
    let (status, headers, text) = describe(error, head_only);
    let mut response = Response::new(Body { kind: Kind::Own(text), broken: false, record: None });
    *response.status_mut() = status;
    *response.headers_mut() = headers;
    response
}

/// An answer's body; when it has ended, so has the request.
#[derive(Debug)]
pub struct Body {
    kind: Kind,
    broken: bool,
    record: Option<Box<Record>>,
}

#[derive(Debug)]
enum Kind {
    Own(Option<Bytes>),
    Upstream(upstream::Body, Sent),
    Held(Box<Held>, Sent),
    /// The service's answer broke off; the error, until it was passed on.
    Broken(Option<Box<dyn std::error::Error + Send + Sync>>),
}

impl Body {
    /// One of keyway's own, of the request that `record` is about.
    pub(super) fn own(text: Bytes, record: Box<Record>) -> Self {
        let text = (!text.is_empty()).then_some(text);
        Self { kind: Kind::Own(text), broken: false, record: Some(record) }
    }

    /// A service's, of the request that `record` is about.
    pub(super) fn upstream(body: upstream::Body, sent: Sent, record: Box<Record>) -> Self {
        Self { kind: Kind::Upstream(body, sent), broken: false, record: Some(record) }
    }

    /// The same after it was held.
    pub(super) fn held(held: Box<Held>, sent: Sent, record: Box<Record>) -> Self {
        Self { kind: Kind::Held(held, sent), broken: false, record: Some(record) }
    }

    #[cold]
    fn broke_off(&mut self, error: Box<dyn std::error::Error + Send + Sync>) {
        let stalled = error.downcast_ref::<io::Error>().map(io::Error::kind) == Some(io::ErrorKind::TimedOut);
        let reason = if stalled { "upstream_timeout" } else { "upstream_broken" };
        if let Some(record) = &mut self.record {
            record.cut(reason, &*error);
        }
        self.broken = true;
        self.kind = Kind::Broken(Some(error));
    }

    /// Ends `record` when this body ends.
    pub(super) fn record(&mut self, record: Box<Record>) {
        self.record = Some(record);
    }
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = Box<dyn std::error::Error + Send + Sync>;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let mut frame = match &mut self.kind {
            Kind::Own(text) => text.take().map(|text| Ok(Frame::data(text))),
            Kind::Broken(error) => return Poll::Ready(error.take().map(Err)),
            Kind::Upstream(body, _) => ready!(Pin::new(body).poll_frame(cx)),
            Kind::Held(held, _) => ready!(held.poll_frame(cx)),
        };
        if let Some(Err(error)) = frame {
            self.broke_off(error);
            // hyper drops what it has not sent yet when a body fails, so it gets to send that first: who
            // sees the head knows that the service acted, who sees nothing may repeat.
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        if let Some(Ok(frame)) = &mut frame
            && let (Some(trailers), Kind::Upstream(_, sent) | Kind::Held(_, sent)) =
                (frame.trailers_mut(), &self.kind)
        {
            headers::clean_trailers(trailers, sent);
        }
        if let (Some(Ok(frame)), Some(record)) = (&frame, &mut self.record) {
            record.bytes += frame.data_ref().map_or(0, |data| data.len() as u64);
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        match &self.kind {
            Kind::Own(text) => text.is_none(),
            Kind::Upstream(body, _) => body.is_end_stream(),
            Kind::Held(held, _) => held.is_end_stream(),
            Kind::Broken(_) => false,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.kind {
            Kind::Own(text) => SizeHint::with_exact(text.as_ref().map_or(0, |text| text.len() as u64)),
            Kind::Upstream(body, _) => body.size_hint(),
            Kind::Held(held, _) => held.size_hint(),
            Kind::Broken(_) => SizeHint::default(),
        }
    }
}

impl Drop for Body {
    fn drop(&mut self) {
        let whole = !self.broken && http_body::Body::is_end_stream(self);
        if let Some(record) = &mut self.record {
            record.whole = whole;
        }
    }
}
