//! Can this request be read in one way only?
//!
//! hyper reads one method, one target and one framing out of a request's bytes. What a lenient server
//! could read differently does not get past here: what leaves keyway then is written anew from what
//! was read, and means the same to every server.

use http::header::{self, HeaderValue};
use http::request::Parts;
use http::{Method, Version};

use crate::error::ProxyError;
use crate::proxy::headers::{Fields, MAX_LISTED};
use crate::route::RouteError;

/// What a request line says that hyper does not pass on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Line {
    /// Nothing.
    Plain,
    /// The target has a fragment, which hyper would drop.
    Fragment,
    /// It is another protocol's: a preface of HTTP/2 that is not exact, for one. An answer would be
    /// taken for something else (RFC 9113, section 3.4).
    Foreign,
}

/// Marks a request whose target had a fragment; among its extensions.
#[derive(Clone, Copy, Debug)]
pub struct Fragment;

/// Looks at the request line that `bytes` start with; `None` if more of it has to come first.
pub fn look(bytes: &[u8]) -> Option<Line> {
    // hyper skips empty lines before a request (RFC 9112, section 2.2).
    let empty = bytes.iter().take_while(|byte| matches!(byte, b'\r' | b'\n')).count();
    let bytes = &bytes[empty..];
    let end = memchr::memchr(b'\n', bytes);
    // Nearly every request: there is only one thing to look for.
    if let Some(line) = end.and_then(|end| bytes[..end].strip_suffix(b" HTTP/1.1\r"))
        && memchr::memchr(b'#', line).is_none()
    {
        return Some(Line::Plain);
    }
    let mut words = bytes[..end.unwrap_or(bytes.len())].trim_ascii_end().split(|byte| *byte == b' ');
    let whole = end.map(|_| Line::Plain);
    let Some(((method, target), version)) = words.next().zip(words.next()).zip(words.next()) else {
        return whole;
    };
    // What has no method is no request line: hyper has read the start of this one before.
    if words.next().is_some() || Method::from_bytes(method).is_err() {
        return whole;
    }
    let known = b"HTTP/".len().min(version.len());
    if version[..known].eq_ignore_ascii_case(&b"HTTP/"[..known]) {
        return if target.contains(&b'#') { Some(Line::Fragment) } else { whole };
    }
    // Who asks for a path means HTTP, and hears what is wrong.
    if target.contains(&b'/') { whole } else { Some(Line::Foreign) }
}

/// Refuses methods that are not for proxies, and those in lower case: a service that turns them into
/// capitals would do what no policy was asked about (RFC 9110, section 9.1: methods are case-sensitive).
///
/// # Errors
/// [`ProxyError::Method`].
pub fn check_method(method: &Method) -> Result<(), ProxyError> {
    let unserved = matches!(*method, Method::CONNECT | Method::TRACE)
        || method.as_str().bytes().any(|byte| byte.is_ascii_lowercase());
    if unserved { Err(ProxyError::Method) } else { Ok(()) }
}

/// The target must be a path, also in absolute form (RFC 9112, section 3.2).
///
/// # Errors
/// [`ProxyError::Target`], or the route's complaint about a byte.
pub fn check_target(parts: &Parts) -> Result<(), ProxyError> {
    if !parts.uri.path().starts_with('/') {
        return Err(ProxyError::Target);
    }
    if parts.extensions.get::<Fragment>().is_some() {
        return Err(ProxyError::Syntax("the target has a fragment (`#`); leave it out, or write it as %23"));
    }
    // The path's own bytes are the route's matter.
    if !parts.uri.query().is_none_or(str::is_ascii) {
        return Err(RouteError::UnsafeByte.into());
    }
    // Whose authority it names is `entry`'s matter; here, what HTTP/2 can say beyond that.
    let foreign = |scheme| !matches!(scheme, "http" | "https");
    if parts.version == Version::HTTP_2 && parts.uri.scheme_str().is_some_and(foreign) {
        return Err(ProxyError::Target);
    }
    Ok(())
}

/// A body must be framed by one Content-Length, or by one `Transfer-Encoding: chunked`; and a field
/// must be what HTTP/1.1 would make of it.
///
/// # Errors
/// [`ProxyError::Framing`] and [`ProxyError::Syntax`].
pub fn check_framing(parts: &Parts, fields: &Fields) -> Result<(), ProxyError> {
    let headers = &parts.headers;
    let value = |name| headers.get(name).map_or(&b""[..], HeaderValue::as_bytes);
    match (fields.transfer_encodings, fields.content_lengths) {
        (0, 0) => {}
        (0, 1) => {
            let length = value(header::CONTENT_LENGTH);
            if length.is_empty() || !length.iter().all(u8::is_ascii_digit) {
                return Err(ProxyError::Framing("Content-Length is not a number"));
            }
        }
        (0, _) => return Err(ProxyError::Framing("Content-Length came more than once")),
        (1, 0) if !value(header::TRANSFER_ENCODING).eq_ignore_ascii_case(b"chunked") => {
            return Err(ProxyError::Framing("Transfer-Encoding is not `chunked`"));
        }
        (1, 0) if parts.version < Version::HTTP_11 => {
            return Err(ProxyError::Framing("HTTP/1.0 has no Transfer-Encoding"));
        }
        (1, 0) => {}
        (1, _) => return Err(ProxyError::Framing("Content-Length and Transfer-Encoding came together")),
        _ => return Err(ProxyError::Framing("Transfer-Encoding came more than once")),
    }
    // HTTP/2 can carry what a line of HTTP/1.1 can't: white space around a value would be lost there
    // (RFC 9113, section 8.2.1).
    if parts.version == Version::HTTP_2 && headers.values().any(is_padded) {
        return Err(ProxyError::Syntax("a field's value starts or ends with white space; leave it out"));
    }
    if fields.connection && listed(parts) > MAX_LISTED {
        return Err(ProxyError::Syntax("Connection names too many fields; name fewer"));
    }
    Ok(())
}

fn is_padded(value: &HeaderValue) -> bool {
    let white = |byte: Option<&u8>| matches!(byte, Some(b' ' | b'\t'));
    white(value.as_bytes().first()) || white(value.as_bytes().last())
}

/// How many options `Connection` has.
fn listed(parts: &Parts) -> usize {
    let options = |value: &HeaderValue| value.as_bytes().split(|byte| *byte == b',').count();
    parts.headers.get_all(header::CONNECTION).iter().map(options).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    // Promise 33.
    #[test]
    fn a_request_line_is_looked_at_where_it_is_whole() {
        for (bytes, line) in [
            ("GET /a HTTP/1.1\r\n", Line::Plain),
            ("GET /a HTTP/1.1\r\nX: #\r\n\r\n#", Line::Plain),
            ("GET /a#b HTTP/1.1\r\n", Line::Fragment),
            ("GET /a# HTTP/1.0\n", Line::Fragment),
            ("GET /a?b#c http/1.1\r\n", Line::Fragment),
            ("G#T /a HTTP/1.1\r\n", Line::Plain),
            ("GET /a#b ICY/1.1\n", Line::Plain),
            ("GET /a b HTTP/1.1\n", Line::Plain),
            ("X-A: a#b HTTP/1.1\r\n", Line::Plain),
            ("GET /a#b\r\n", Line::Plain),
            ("INVALID CONNECTION PREFACE\r\n\r\n", Line::Foreign),
            ("PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n", Line::Plain),
            ("RCPT TO: <a@b>\r\n", Line::Foreign),
            ("\r\nGET /a#b HTTP/1.1\r\n", Line::Fragment),
        ] {
            assert_eq!(look(bytes.as_bytes()), Some(line), "{bytes:?}");
        }
        assert_eq!(look(b"INVALID CONNECTION PREFA"), Some(Line::Foreign));
        assert_eq!(look(b"GET /a#b H"), Some(Line::Fragment));
        assert_eq!(look(b"\r\n\n\r\nGET /a#b HTTP/1.1\r\n"), Some(Line::Fragment));
        assert_eq!(look(b"\r\n"), None);
        for bytes in ["", "GET", "GET /a#b", "GET /a H", "GET /a HTTP/1.1\r"] {
            assert_eq!(look(bytes.as_bytes()), None, "{bytes:?}");
        }
    }
}
