//! The head of an answer, read strictly: framing that can be read in two ways is no framing.

use std::mem::MaybeUninit;
use std::time::Duration;

use bytes::{Buf as _, Bytes, BytesMut};
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{StatusCode, Version};
use zeroize::Zeroize as _;

use super::Failure;
use super::reader::Remaining;
use crate::secret;
use crate::upstream::chunked::Chunked;
use crate::upstream::message::hop_by_hop;

/// The largest head of an answer, bytes.
const MAX_HEAD: usize = 64 * 1024;
const MAX_FIELDS: usize = 200;
/// The header in which Keystone hands a token over.
const SUBJECT_TOKEN: &str = "x-subject-token";

/// A parsed head.
#[derive(Debug)]
pub(super) struct Parsed {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    pub(super) remaining: Remaining,
    pub(super) keep_alive: bool,
    pub(super) keep_for: Option<Duration>,
}

/// Takes one head from the input, once it is whole.
pub(super) fn parse(input: &mut BytesMut) -> Result<Option<Parsed>, Failure> {
    if input.is_empty() {
        return Ok(None);
    }
    let mut fields = [const { MaybeUninit::<httparse::Header<'_>>::uninit() }; MAX_FIELDS];
    let mut parsed = httparse::Response::new(&mut []);
    let config = httparse::ParserConfig::default();
    let length = match config.parse_response_with_uninit_headers(&mut parsed, input, &mut fields) {
        Ok(httparse::Status::Complete(length)) => length,
        Ok(httparse::Status::Partial) if input.len() < MAX_HEAD => return Ok(None),
        Ok(httparse::Status::Partial) => return Err(Failure::Malformed("a head of more than 64 KiB")),
        Err(httparse::Error::TooManyHeaders) => {
            return Err(Failure::Malformed("more than 200 header fields"));
        }
        Err(_) => return Err(Failure::Malformed("a malformed head")),
    };
    if length > MAX_HEAD {
        return Err(Failure::Malformed("a head of more than 64 KiB"));
    }
    let status = parsed
        .code
        .and_then(|code| StatusCode::from_u16(code).ok())
        .ok_or(Failure::Malformed("no status code"))?;
    let version = if parsed.version == Some(0) { Version::HTTP_10 } else { Version::HTTP_11 };
    // One copy that the values share, so that the read buffer stays this connection's alone. With a
    // token in it, neither the copy nor the read buffer keeps it for longer than needed.
    let is_token = |field: &httparse::Header<'_>| {
        field.name.len() == 15 && field.name.eq_ignore_ascii_case(SUBJECT_TOKEN)
    };
    let has_token = parsed.headers.iter().any(is_token);
    let head = match has_token {
        false => Bytes::copy_from_slice(&input[..length]),
        true => secret::hold(input[..length].to_vec()),
    };
    let start = input.as_ptr() as usize;
    let mut headers = Headers::new(parsed.headers.len(), version);
    for field in parsed.headers.iter() {
        let from = field.value.as_ptr() as usize - start;
        let value = HeaderValue::from_maybe_shared(head.slice(from..from + field.value.len()))
            .map_err(|_| Failure::Malformed("a malformed header value"))?;
        headers.add(field.name.as_bytes(), value)?;
    }
    if has_token {
        input[..length].zeroize();
    }
    input.advance(length);
    headers.finish(status, version).map(Some)
}

/// Collects the fields of a head, sorts out its framing, and leaves the hop-by-hop fields behind.
struct Headers {
    map: HeaderMap,
    length: Option<u64>,
    chunked: bool,
    close: bool,
    keep_alive: bool,
    keep_for: Option<Duration>,
    listed: Vec<HeaderName>,
    version: Version,
}

impl Headers {
    fn new(fields: usize, version: Version) -> Self {
        Self {
            map: HeaderMap::with_capacity(fields),
            length: None,
            chunked: false,
            close: false,
            keep_alive: false,
            keep_for: None,
            listed: Vec::new(),
            version,
        }
    }

    fn add(&mut self, text: &[u8], value: HeaderValue) -> Result<(), Failure> {
        // By length first: most fields are none of these, and every answer has a dozen.
        match text.len() {
            14 if text.eq_ignore_ascii_case(b"content-length") => return self.add_length(value),
            17 if text.eq_ignore_ascii_case(b"transfer-encoding") => return self.add_coding(&value),
            10 if text.eq_ignore_ascii_case(b"connection") => {
                self.add_options(&value);
                return Ok(());
            }
            10 if text.eq_ignore_ascii_case(b"keep-alive") => {
                self.keep_for = keep_alive_timeout(value.as_bytes());
                return Ok(());
            }
            _ => {}
        }
        let name = name(text)?;
        if !hop_by_hop(&name) {
            self.map.append(name, value);
        }
        Ok(())
    }

    fn add_length(&mut self, value: HeaderValue) -> Result<(), Failure> {
        let length = content_length(value.as_bytes()).ok_or(Failure::Malformed("a bad Content-Length"))?;
        match self.length.replace(length) {
            None => {
                self.map.append(header::CONTENT_LENGTH, value);
                Ok(())
            }
            Some(earlier) if earlier == length => Ok(()),
            Some(_) => Err(Failure::Malformed("two different Content-Length fields")),
        }
    }

    fn add_coding(&mut self, value: &HeaderValue) -> Result<(), Failure> {
        let allowed = value.as_bytes().eq_ignore_ascii_case(b"chunked") && self.version == Version::HTTP_11;
        if std::mem::replace(&mut self.chunked, true) || !allowed {
            return Err(Failure::Malformed("a Transfer-Encoding other than one `chunked`"));
        }
        Ok(())
    }

    fn add_options(&mut self, value: &HeaderValue) {
        for option in value.as_bytes().split(|byte| *byte == b',').map(<[u8]>::trim_ascii) {
            if option.eq_ignore_ascii_case(b"close") {
                self.close = true;
            } else if option.eq_ignore_ascii_case(b"keep-alive") {
                self.keep_alive = true;
            } else if let Ok(name) = HeaderName::from_bytes(option) {
                self.listed.push(name);
            }
        }
    }

    fn finish(mut self, status: StatusCode, version: Version) -> Result<Parsed, Failure> {
        for name in &self.listed {
            // Naming the framing in Connection does not unframe a message.
            if *name != header::CONTENT_LENGTH {
                self.map.remove(name);
            }
        }
        let remaining = match (self.chunked, self.length) {
            // RFC 9112, section 6.3: an error, since somebody may read it the other way.
            (true, Some(_)) => {
                return Err(Failure::Malformed("Content-Length and Transfer-Encoding together"));
            }
            (true, None) => Remaining::Chunked(Chunked::default()),
            (false, Some(length)) => Remaining::Length(length),
            (false, None) => Remaining::UntilClose,
        };
        let persistent = if version == Version::HTTP_10 { self.keep_alive } else { true };
        Ok(Parsed {
            status,
            headers: self.map,
            remaining,
            keep_alive: persistent && !self.close,
            keep_for: self.keep_for,
        })
    }
}

/// `timeout=N` of a Keep-Alive field, in seconds.
fn keep_alive_timeout(value: &[u8]) -> Option<Duration> {
    let text = std::str::from_utf8(value).ok()?;
    let timeout = text.split(',').find_map(|parameter| parameter.trim().strip_prefix("timeout="))?;
    timeout.parse().ok().map(Duration::from_secs)
}

/// Digits only (RFC 9110, section 8.6); a repeated equal value in one field is not taken either.
fn content_length(value: &[u8]) -> Option<u64> {
    if value.is_empty() || !value.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(value).ok()?.parse().ok()
}

/// A header's name. Those that OpenStack's services send with every answer cost no allocation.
fn name(text: &[u8]) -> Result<HeaderName, Failure> {
    static API_VERSION: HeaderName = HeaderName::from_static("openstack-api-version");
    static NOVA_VERSION: HeaderName = HeaderName::from_static("x-openstack-nova-api-version");
    static REQUEST_ID: HeaderName = HeaderName::from_static("x-openstack-request-id");
    static COMPUTE_REQUEST_ID: HeaderName = HeaderName::from_static("x-compute-request-id");
    static TRANS_ID: HeaderName = HeaderName::from_static("x-trans-id");
    // The length alone leaves one candidate.
    let known = match text.len() {
        10 => &TRANS_ID,
        20 => &COMPUTE_REQUEST_ID,
        21 => &API_VERSION,
        22 => &REQUEST_ID,
        28 => &NOVA_VERSION,
        _ => return HeaderName::from_bytes(text).map_err(|_| Failure::Malformed("a malformed header name")),
    };
    if text.eq_ignore_ascii_case(known.as_str().as_bytes()) {
        return Ok(known.clone());
    }
    HeaderName::from_bytes(text).map_err(|_| Failure::Malformed("a malformed header name"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[track_caller]
    fn check(head: &str, keep_alive: bool, names: &[&str]) {
        let parsed = parse(&mut head.into()).unwrap().expect("a whole head");
        assert_eq!(parsed.keep_alive, keep_alive, "{head}");
        assert_eq!(parsed.headers.keys().map(HeaderName::as_str).collect::<Vec<_>>(), names, "{head}");
    }

    #[test]
    fn hop_by_hop_fields_end_here_and_say_whether_the_connection_goes_on() {
        check("HTTP/1.1 200 OK\r\nContent-Length: 3\r\nX-A: 1\r\n\r\n", true, &["content-length", "x-a"]);
        check(
            "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 3\r\n\r\n",
            false,
            &["content-length"],
        );
        check(
            "HTTP/1.1 200 OK\r\nConnection: X-Hop\r\nX-Hop: 1\r\nContent-Length: 0\r\n\r\n",
            true,
            &["content-length"],
        );
        check("HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n", false, &["content-length"]);
        check(
            "HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 0\r\n\r\n",
            true,
            &["content-length"],
        );
        check("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nKeep-Alive: timeout=5\r\n\r\n", true, &[]);
    }

    #[test]
    fn ambiguous_framing_is_refused() {
        for fields in [
            "Content-Length: 1\r\nContent-Length: 2",
            "Content-Length: +1",
            "Content-Length: 1, 1",
            "Content-Length:",
            "Content-Length: 99999999999999999999",
            "Transfer-Encoding: gzip, chunked",
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
            "Transfer-Encoding: chunked\r\nContent-Length: 1",
        ] {
            let head = format!("HTTP/1.1 200 OK\r\n{fields}\r\n\r\n");
            assert!(parse(&mut head.as_str().into()).is_err(), "{fields}");
        }
        assert!(parse(&mut "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n".into()).is_err());
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic_or_take_more_than_a_head(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let mut input = BytesMut::from(&bytes[..]);
            if let Ok(None) = parse(&mut input) {
                prop_assert_eq!(&input[..], &bytes[..]);
            }
        }

        #[test]
        fn a_head_is_taken_whole_or_not_at_all(names in prop::collection::vec("[a-zA-Z-]{1,12}", 0..8), cut in 0usize..400) {
            let fields: String = names.iter().map(|name| format!("X{name}: v\r\n")).collect();
            let head = format!("HTTP/1.1 204 No Content\r\n{fields}\r\n");
            let mut cut = BytesMut::from(&head.as_bytes()[..cut.min(head.len() - 1)]);
            prop_assert!(matches!(parse(&mut cut), Ok(None)));
            let mut whole = BytesMut::from(format!("{head}body").as_bytes());
            prop_assert_eq!(parse(&mut whole).unwrap().unwrap().headers.len(), names.len());
            prop_assert_eq!(&whole[..], b"body");
        }
    }
}
