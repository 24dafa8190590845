//! What of a request may be written down: its path, its query and its ids as the log and the audit have them.
//!
//! All of it is a client's or a service's word, and any of it may have a secret in it where none belongs.

use std::borrow::Cow;

use http::{HeaderMap, HeaderValue, Method};
use memchr::memmem;
use percent_encoding::percent_decode_str;

use crate::facade::TOKEN_START;
use crate::identity::KEY_START;
use crate::proxy::headers;

/// How much of a path and of a query is written; objects in Swift have names of up to 1 KiB, three times that encoded.
const LONGEST_PATH: usize = 4096;
const LONGEST_QUERY: usize = 1024;
/// Longer than any method's name.
const LONGEST_METHOD: usize = 32;

/// A path without the token that Identity v2.0 puts into it: `/identity/v2.0/tokens/{token}`. What
/// stands behind a segment that is read as `tokens` is left out, whatever it is; and so is a segment with what looks
/// like a token or an API key, which somebody put into the wrong place.
pub fn path(path: &str) -> Cow<'_, str> {
    let is_tokens =
        |segment: &str| percent_decode_str(segment).map(|byte| byte.to_ascii_lowercase()).eq(*b"tokens");
    let secrets = [TOKEN_START, KEY_START];
    let may_be =
        path.contains('%') || secrets.iter().any(|start| memmem::find(path.as_bytes(), start).is_some());
    let is_secret = |segment: &str| {
        if !may_be {
            return false;
        }
        let decoded = Cow::from(percent_decode_str(segment));
        secrets.iter().any(|start| memmem::find(&decoded, start).is_some())
    };
    if !path.split('/').any(|segment| is_tokens(segment) || is_secret(segment)) {
        return cut(path.into(), LONGEST_PATH);
    }
    let mut behind = false;
    // Empty segments and dots change nothing for some servers, so the token may stand behind them.
    let segments = path.split('/').map(|segment| {
        let hidden = behind && !matches!(segment, "" | ".");
        behind = is_tokens(segment) || behind && !hidden;
        if hidden || is_secret(segment) { "***" } else { segment }
    });
    cut(segments.collect::<Vec<_>>().join("/").into(), LONGEST_PATH)
}

/// `a=1&b=2` as `a=&b=`: values may be signatures or secrets. What does not look like a name is taken
/// for a value: a long one has nothing but words, such as `OS-EXT-SRV-ATTR:hypervisor_hostname`.
pub fn query(query: &str) -> String {
    let is_word = |word: &str| {
        word.bytes().all(|byte| byte.is_ascii_lowercase())
            || word.bytes().all(|byte| byte.is_ascii_uppercase())
    };
    let is_name = |name: &str| match name.len() {
        0..=24 => name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.:".contains(&byte)),
        25..=64 => name.split(['-', '_', '.', ':']).all(is_word),
        _ => false,
    };
    let names = query.split('&').map(|pair| match pair.split_once('=') {
        Some((name, _)) if is_name(name) => format!("{name}="),
        None if is_name(pair) => pair.to_owned(),
        _ => "***".to_owned(),
    });
    cut(names.collect::<Vec<_>>().join("&").into(), LONGEST_QUERY).into_owned()
}

/// A method, or OpenTelemetry's word for one that nobody knows.
pub fn method(method: &Method) -> &str {
    let name = method.as_str();
    let is_name = name.len() <= LONGEST_METHOD
        && name.bytes().all(|byte| byte.is_ascii_uppercase() || matches!(byte, b'-' | b'_'));
    if is_name { name } else { "_OTHER" }
}

/// A service's id of a request, if it looks like one: `req-` and a UUID, or Swift's `tx..`. The service
/// chose it, so it might be anything that keyway sent to it.
pub fn request_id(id: Option<&HeaderValue>) -> Option<&str> {
    let is_id = |id: &&str| {
        let known = id.starts_with("req-") || id.starts_with("tx");
        known && id.len() <= 64 && id.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
    };
    id?.to_str().ok().filter(is_id)
}

/// The id that a client gave its request, if it is one that services take for the global one: `req-` and a UUID.
pub fn global_request_id(headers: &HeaderMap) -> Option<&str> {
    let is_id = |id: &&str| {
        id.len() == 40
            && id.starts_with("req-")
            && id[4..].bytes().enumerate().all(|(at, byte)| match at {
                8 | 13 | 18 | 23 => byte == b'-',
                _ => byte.is_ascii_hexdigit(),
            })
    };
    headers.get(&headers::REQUEST_ID)?.to_str().ok().filter(is_id)
}

/// `most` bytes of a text, and three dots where there were more.
fn cut(text: Cow<'_, str>, most: usize) -> Cow<'_, str> {
    if text.len() <= most {
        return text;
    }
    let end = (0..=most).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
    format!("{}...", &text[..end]).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    // Promise 74.
    #[test]
    fn a_token_in_a_path_is_not_logged_however_it_is_written() {
        for (path, logged) in [
            ("/identity/v2.0/tokens/gAAAA", "/identity/v2.0/tokens/***"),
            ("/identity/v2.0/tokens/gAAAA/endpoints", "/identity/v2.0/tokens/***/endpoints"),
            ("/cloud/tokens/identity/v2.0/tokens/gAAAA", "/cloud/tokens/***/v2.0/tokens/***"),
            ("/tokens/tokens/gAAAA", "/tokens/***/***"),
            ("/identity/v2.0/%74okens/gAAAA", "/identity/v2.0/%74okens/***"),
            ("/identity/v2.0/TOKENS//./gAAAA/x", "/identity/v2.0/TOKENS//./***/x"),
            ("/identity/v3/auth/tokens", "/identity/v3/auth/tokens"),
            ("/compute/gAAAAABrAgtJ05/x", "/compute/***/x"),
            ("/compute/a=%67AAAAABrAgtJ05", "/compute/***"),
            ("/object-store/kwk_0123456789abcdef_x", "/object-store/***"),
            ("/object-store/box/tokens.txt", "/object-store/box/tokens.txt"),
        ] {
            assert_eq!(super::path(path), logged, "{path}");
        }
    }

    // Promise 78.
    #[test]
    fn a_query_is_logged_without_its_values() {
        for (query, logged) in [
            ("temp_url_sig=abc&temp_url_expires=1", "temp_url_sig=&temp_url_expires="),
            ("token=abc", "token="),
            ("a=b=c&d", "a=&d"),
            ("multipart-manifest=get&acl", "multipart-manifest=&acl"),
            ("gAAAAABrAgtJ05gAAAAABrAgtJ05", "***"),
            ("gAAAAABrAgtJ05gAAAAABrAgtJ05==", "***"),
            ("OS-EXT-SRV-ATTR:hypervisor_hostname=a", "OS-EXT-SRV-ATTR:hypervisor_hostname="),
            ("token%3DgAAAA&token;gAAAA", "***&***"),
            ("", ""),
        ] {
            assert_eq!(super::query(query), logged, "{query}");
        }
    }

    // Promise 74.
    #[test]
    fn an_id_that_is_none_is_not_logged() {
        let value = |id: &str| HeaderValue::from_str(id).unwrap();
        for id in ["req-2b6f24a7-4b1f-4c0f-9b7a-3d3e8a6f1c55", "tx0a1b2c3d4e5f60718293a-00692a3b4c"] {
            assert_eq!(request_id(Some(&value(id))), Some(id));
        }
        for id in ["gAAAAABrAgtJ05", "req-a b", "", "req-x=y", &format!("req-{}", "A".repeat(180))] {
            assert_eq!(request_id(Some(&value(id))), None, "{id}");
        }
        let global = |id: &str| {
            let headers = [(headers::REQUEST_ID.clone(), value(id))].into_iter().collect();
            global_request_id(&headers).map(str::to_owned)
        };
        let id = "req-2b6f24a7-4b1f-4c0f-9b7a-3d3e8a6f1c55";
        assert_eq!(global(id).as_deref(), Some(id));
        for id in
            ["2b6f24a7-4b1f-4c0f-9b7a-3d3e8a6f1c55", "req-hunter2", &id.replace('-', "a"), &format!("{id}0")]
        {
            assert_eq!(global(id), None, "{id}");
        }
    }

    #[test]
    fn what_is_longer_than_anything_honest_is_cut() {
        let long = format!("/{}", "x".repeat(LONGEST_PATH));
        assert_eq!(super::path(&long), format!("{}...", &long[..LONGEST_PATH]));
        assert_eq!(super::query(&"a&".repeat(LONGEST_QUERY)).len(), LONGEST_QUERY + 3);
        for (name, shown) in [("GET", "GET"), ("VERSION-CONTROL", "VERSION-CONTROL"), ("hunter2", "_OTHER")] {
            assert_eq!(method(&name.parse().unwrap()), shown);
        }
        assert_eq!(method(&"X".repeat(99).parse().unwrap()), "_OTHER");
    }
}
