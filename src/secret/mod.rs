//! How are secrets held, and what may be shown of what was near them?
//!
//! A secret has a type of its own that can't be printed and that leaves nothing behind in memory:
//! [`Secret`] for what the operator gave, [`TokenId`](crate::keystone::TokenId) for tokens. For text
//! that had to hold one for a while there are [`hold`] and [`wipe`]; for messages of others, which may
//! quote it, [`is_echoed`] and [`causes`].

mod command;
mod source;

use std::error::Error;
use std::fmt::{self, Write as _};
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD};
use bytes::Bytes;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Map, Value};
use zeroize::{Zeroize as _, Zeroizing};

pub use self::command::Command;
pub use self::source::{Source, Unreadable, read_file};

/// A password or another secret: never printed, and wiped when the last clone is dropped. Clones
/// share it, so that it is in memory once however often a configuration is cloned.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Arc<Zeroizing<String>>);

impl Secret {
    /// Takes a secret in.
    pub fn new(secret: impl Into<String>) -> Self {
        Self(Arc::new(Zeroizing::new(secret.into())))
    }

    /// The secret itself, for the one place that sends it.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(redacted)")
    }
}

/// Bytes that are wiped when the last clone or slice of them is dropped.
pub fn hold(secret: Vec<u8>) -> Bytes {
    Bytes::from_owner(Zeroizing::new(secret))
}

/// Wipes every text in a JSON document, but for the names of its members.
pub fn wipe(document: &mut Value) {
    match document {
        Value::String(text) => text.zeroize(),
        Value::Array(items) => items.iter_mut().for_each(wipe),
        Value::Object(members) => wipe_members(members),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

/// See [`wipe`].
pub fn wipe_members(members: &mut Map<String, Value>) {
    members.values_mut().for_each(wipe);
}

/// Whether a text of somebody else holds a secret: as it is (in capitals or not), as JSON, percent-encoded, or anywhere
/// in something that was encoded as base64.
pub fn is_echoed(text: &str, secret: &str) -> bool {
    if secret.is_empty() {
        return false;
    }
    let json = Value::from(secret).to_string();
    let percent = utf8_percent_encode(secret, NON_ALPHANUMERIC).to_string();
    let folded = text.to_ascii_lowercase();
    folded.contains(&secret.to_ascii_lowercase())
        || text.contains(&json[1..json.len() - 1])
        || folded.contains(&percent.to_ascii_lowercase())
        || base64_forms(secret).iter().any(|form| text.contains(form.as_str()))
}

/// What base64 makes of a secret in the middle of a longer text: three ways to fall into groups of
/// three bytes, in two alphabets. Only those characters that nothing beside the secret decides.
fn base64_forms(secret: &str) -> Vec<String> {
    let mut forms = Vec::new();
    for before in 0..3 {
        let mut padded = vec![0; before];
        padded.extend_from_slice(secret.as_bytes());
        let (first, last) = ((before * 8).div_ceil(6), padded.len() * 8 / 6);
        // A few characters alone would be found in anything.
        if last < first + 6 {
            continue;
        }
        for encoded in [STANDARD_NO_PAD.encode(&padded), URL_SAFE_NO_PAD.encode(&padded)] {
            forms.push(encoded[first..last].to_owned());
        }
        padded.zeroize();
    }
    forms
}

/// An error with its causes, on one line.
///
/// Below one of hyper's errors only the system's own are shown: an HTTP/2 error quotes the debug data
/// that the peer sent with it, and that may be anything.
pub fn causes(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut below = error;
    let mut peers_words = false;
    while let Some(cause) = below.source() {
        // An I/O error shows what it was made of, and skips that among its causes.
        let made_of = below.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
        peers_words |= below.is::<hyper::Error>() || made_of.is_some_and(|error| error.is::<hyper::Error>());
        let of_the_system =
            cause.downcast_ref::<std::io::Error>().is_some_and(|error| error.raw_os_error().is_some());
        if !peers_words || of_the_system {
            let _ = write!(text, ": {cause}");
        }
        below = cause;
    }
    text
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    // Promise 80.
    #[test]
    fn a_secret_is_never_printed_and_its_clones_share_it() {
        let secret = Secret::new("hunter2");
        assert_eq!(format!("{secret:?} {:?}", Some(&secret)), "Secret(redacted) Some(Secret(redacted))");
        assert_eq!(secret.clone().expose().as_ptr(), secret.expose().as_ptr());
        assert_eq!(secret, Secret::new("hunter2"));
    }

    // Promise 76.
    #[tokio::test]
    async fn what_a_peer_says_about_an_error_is_not_among_its_causes() {
        use tokio::io::AsyncWriteExt as _;
        let (near, mut far) = tokio::io::duplex(4096);
        let executor = hyper_util::rt::TokioExecutor::new();
        let io = hyper_util::rt::TokioIo::new(near);
        let handshake =
            hyper::client::conn::http2::handshake::<_, _, http_body_util::Empty<Bytes>>(executor, io);
        let (_sender, connection) = handshake.await.unwrap();
        // Empty settings, and a GOAWAY because of a protocol error.
        let mut frames = b"\0\0\0\x04\0\0\0\0\0\0\0\x0f\x07\0\0\0\0\0\0\0\0\0\0\0\0\x01".to_vec();
        frames.extend_from_slice(b"hunter2");
        far.write_all(&frames).await.unwrap();
        let error = connection.await.unwrap_err();
        let said = error.source().map(ToString::to_string).unwrap_or_default();
        assert!(said.contains("hunter2"), "else there is nothing to leave out: {said}");
        let shown = causes(&error);
        assert!(shown.starts_with("http2 error") && !shown.contains("hunter2"), "{shown}");
        let wrapped = std::io::Error::other(error);
        assert_eq!(causes(&wrapped), shown);
        let reset = std::io::Error::from_raw_os_error(104);
        assert!(causes(&reset).contains("reset"));
    }

    #[test]
    fn all_texts_of_a_document_are_wiped() {
        let mut document = json!({"a": ["hunter2", {"b": "hunter2"}], "c": 1, "d": "hunter2"});
        wipe(&mut document);
        assert_eq!(document, json!({"a": ["", {"b": ""}], "c": 1, "d": ""}));
    }

    #[test]
    fn an_echo_is_found_in_every_form() {
        let secret = r#"hunter2 "k/ey"#;
        for text in [
            r#"password hunter2 "k/ey is wrong"#.to_owned(),
            json!({ "password": secret }).to_string(),
            "p=hunter2%20%22k%2Fey".to_owned(),
            "p=hunter2%20%22k%2fey".to_owned(),
            format!("Basic {}", STANDARD_NO_PAD.encode(format!("u:{secret}"))),
            format!("Basic {}", STANDARD_NO_PAD.encode(format!("us:{secret}!"))),
            format!("Basic {}", URL_SAFE_NO_PAD.encode(format!("use:{secret}!?"))),
        ] {
            assert!(is_echoed(&text, secret), "{text}");
        }
        assert!(!is_echoed("The account is locked", secret));
        assert!(!is_echoed("anything", ""));
    }
}
