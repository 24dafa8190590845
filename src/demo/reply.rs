//! What does an answer look like? Bodies, JSON, and every service's own shape of an error.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::fmt::Display;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderName, HeaderValue, Response, StatusCode};
use http_body::{Frame, SizeHint};
use serde_json::{Value, json};

use super::Service;

/// An answer of a simulated service.
pub(super) type Reply = Response<Body>;

/// An answer, or the error that took its place.
pub(super) type Answer = Result<Reply, Box<Reply>>;

static ZEROS: [u8; 64 * 1024] = [0; 64 * 1024];

/// Chunks that are in memory, then zeros that never were.
#[derive(Debug, Default)]
pub(super) struct Body {
    chunks: VecDeque<Bytes>,
    zeros: u64,
    left: u64,
}

impl Body {
    pub(super) fn chunks(chunks: VecDeque<Bytes>) -> Self {
        let left = chunks.iter().map(|chunk| chunk.len() as u64).sum();
        Self { chunks, zeros: 0, left }
    }

    pub(super) fn zeros(length: u64) -> Self {
        Self { chunks: VecDeque::new(), zeros: length, left: length }
    }

    pub(super) fn length(&self) -> u64 {
        self.left
    }
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let mut chunk = self.chunks.pop_front();
        if chunk.is_none() && self.zeros > 0 {
            let length = self.zeros.min(ZEROS.len() as u64);
            self.zeros -= length;
            chunk = Some(Bytes::from_static(&ZEROS[..length as usize]));
        }
        self.left -= chunk.as_ref().map_or(0, |chunk| chunk.len() as u64);
        Poll::Ready(chunk.map(|chunk| Ok(Frame::data(chunk))))
    }

    fn is_end_stream(&self) -> bool {
        self.left == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}

/// Header edits that read as a chain.
pub(super) trait With {
    /// Sets a header. A value that is none (a line break in a name, say) is left out.
    fn with(self, name: &'static str, value: impl Display) -> Self;
    /// Adds one more header of this name.
    fn and(self, name: &'static str, value: impl Display) -> Self;
}

impl With for Reply {
    fn with(mut self, name: &'static str, value: impl Display) -> Self {
        if let Ok(value) = HeaderValue::from_str(&value.to_string()) {
            self.headers_mut().insert(HeaderName::from_static(name), value);
        }
        self
    }

    fn and(mut self, name: &'static str, value: impl Display) -> Self {
        if let Ok(value) = HeaderValue::from_str(&value.to_string()) {
            self.headers_mut().append(HeaderName::from_static(name), value);
        }
        self
    }
}

/// A body with its type.
pub(super) fn reply(status: StatusCode, content_type: &'static str, body: impl Into<Bytes>) -> Reply {
    let body = body.into();
    let chunks = if body.is_empty() { VecDeque::new() } else { VecDeque::from([body]) };
    let mut reply = Response::new(Body::chunks(chunks));
    *reply.status_mut() = status;
    reply.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    reply
}

pub(super) fn json(status: StatusCode, value: &Value) -> Reply {
    reply(status, "application/json", value.to_string())
}

pub(super) fn ok(value: &Value) -> Reply {
    json(StatusCode::OK, value)
}

/// No content, but a type, as the services do it.
pub(super) fn empty(status: StatusCode) -> Reply {
    reply(status, "text/html; charset=UTF-8", "")
}

fn title(status: StatusCode) -> &'static str {
    status.canonical_reason().unwrap_or("Error")
}

/// `{"error": ..}`, as Keystone and the token check in front of the other services write it.
pub(super) fn keystone_error(status: StatusCode, message: &str) -> Reply {
    let error = json!({"code": status.as_u16(), "message": message, "title": title(status)});
    json(status, &json!({"error": error}))
}

/// `{"code": 404, "title": .., "error": {..}}`, as heat writes it.
pub(super) fn heat_error(status: StatusCode, kind: &str, message: &str) -> Reply {
    let explanation = "The server could not comply with the request.";
    let error = json!({"message": message, "traceback": null, "type": kind});
    json(
        status,
        &json!({"code": status.as_u16(), "title": title(status), "explanation": explanation,
                         "error": error}),
    )
}

/// `{"itemNotFound": {"code": 404, ..}}`, as nova and cinder write it.
pub(super) fn fault(status: StatusCode, message: &str) -> Reply {
    let name = match status {
        StatusCode::BAD_REQUEST => "badRequest",
        StatusCode::FORBIDDEN => "forbidden",
        StatusCode::NOT_FOUND => "itemNotFound",
        StatusCode::CONFLICT => "conflictingRequest",
        _ => "computeFault",
    };
    let fault = json!({"code": status.as_u16(), "message": message});
    json(status, &json!({ name: fault }))
}

pub(super) fn neutron_error(status: StatusCode, kind: &str, message: &str) -> Reply {
    json(status, &json!({"NeutronError": {"type": kind, "message": message, "detail": ""}}))
}

/// The HTML page of the WebOb library: all of glance's errors, and unknown paths of other services.
pub(super) fn page(status: StatusCode, message: &str) -> Reply {
    let title = format!("{} {}", status.as_u16(), title(status));
    let html = format!(
        "<html>\n <head>\n  <title>{title}</title>\n </head>\n <body>\n  <h1>{title}</h1>\n  \
         {message}<br /><br />\n\n\n\n </body>\n</html>"
    );
    reply(status, "text/html; charset=UTF-8", html)
}

pub(super) fn no_such_path() -> Reply {
    page(StatusCode::NOT_FOUND, "The resource could not be found.")
}

/// Swift's one-line pages.
pub(super) fn swift_page(status: StatusCode) -> Reply {
    let message = match status {
        StatusCode::ACCEPTED => "The request is accepted for processing.",
        StatusCode::UNAUTHORIZED => {
            "This server could not verify that you are authorized to access the document you requested."
        }
        StatusCode::FORBIDDEN => "Access was denied to this resource.",
        StatusCode::NOT_FOUND => "The resource could not be found.",
        StatusCode::CONFLICT => "There was a conflict when trying to complete your request.",
        StatusCode::RANGE_NOT_SATISFIABLE => "The Range requested is not available.",
        StatusCode::METHOD_NOT_ALLOWED => "The method is not allowed for this resource.",
        StatusCode::UNPROCESSABLE_ENTITY => "Unable to process the contained instructions",
        _ => "The server could not comply with the request.",
    };
    swift_message(status, message)
}

pub(super) fn swift_message(status: StatusCode, message: &str) -> Reply {
    let html = format!("<html><h1>{}</h1><p>{message}</p></html>", title(status));
    reply(status, "text/html; charset=UTF-8", html)
}

/// The 401 or 403 of a service, `path` being what was asked for and `keystone` where to get a token.
pub(super) fn refusal(service: Service, status: StatusCode, path: &str, keystone: &str) -> Reply {
    let unauthorized = status == StatusCode::UNAUTHORIZED;
    let reply = match service {
        Service::Image | Service::ImageTwo if unauthorized => page(
            status,
            "This server could not verify that you are authorized to access the document you requested. \
             Either you supplied the wrong credentials (e.g., bad password), or your browser does not \
             understand how to supply the credentials required.",
        ),
        Service::Image | Service::ImageTwo => page(status, "You are not authorized to complete this action."),
        Service::Object => {
            let account = path.split('/').nth(2).unwrap_or("unknown");
            let reply = swift_page(status);
            if unauthorized {
                reply.and("www-authenticate", format_args!("Swift realm=\"{account}\""))
            } else {
                reply
            }
        }
        Service::Network if !unauthorized => {
            neutron_error(status, "PolicyNotAuthorized", "It is disallowed by policy.")
        }
        Service::Compute | Service::ComputeTwo | Service::Volume if !unauthorized => {
            fault(status, "Policy doesn't allow this action to be performed.")
        }
        _ => keystone_error(status, "The request you have made requires authentication."),
    };
    if unauthorized {
        return reply.and("www-authenticate", format_args!("Keystone uri=\"{keystone}\""));
    }
    reply
}
