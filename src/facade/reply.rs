//! What keyway answers in Keystone's place looks as Keystone's answers do.

use bytes::Bytes;
use http::header::{self, HeaderMap, HeaderValue};
use http::{Response, StatusCode};
use serde_json::{Value, json};

/// What Keystone says no with: a status and a sentence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    status: StatusCode,
    message: String,
}

impl Refusal {
    /// `message` is for the client.
    pub fn new(status: StatusCode, message: impl Into<String>) -> Self {
        Self { status, message: message.into() }
    }

    /// What an answer begins with.
    pub fn status(&self) -> StatusCode {
        self.status
    }

    /// 401, which makes a client log in again.
    pub fn unauthorized() -> Self {
        Self::new(StatusCode::UNAUTHORIZED, "The request you have made requires authentication.")
    }

    /// 404: the token that was asked about is not good.
    pub fn unknown_token() -> Self {
        Self::new(StatusCode::NOT_FOUND, "This is not a recognized token.")
    }

    /// As an answer of the Keystone at `base`.
    pub fn response(&self, base: &str) -> Response<Bytes> {
        let Self { status, message } = self;
        let error = json!({"code": status.as_u16(), "title": status.canonical_reason(), "message": message});
        let mut response = json(*status, &json!({ "error": error }));
        if *status == StatusCode::UNAUTHORIZED
            && let Ok(value) = HeaderValue::try_from(format!("Keystone uri=\"{base}\""))
        {
            response.headers_mut().insert(header::WWW_AUTHENTICATE, value);
        }
        response
    }
}

/// A document as an answer.
pub fn json(status: StatusCode, document: &Value) -> Response<Bytes> {
    let mut response = Response::new(Bytes::from(document.to_string()));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    mark(headers);
    response
}

/// An answer without a body.
pub fn empty(status: StatusCode) -> Response<Bytes> {
    let mut response = Response::new(Bytes::new());
    *response.status_mut() = status;
    mark(response.headers_mut());
    response
}

/// What all answers have.
fn mark(headers: &mut HeaderMap) {
    headers.insert(header::VARY, HeaderValue::from_static("X-Auth-Token"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
}
