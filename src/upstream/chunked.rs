//! The chunked transfer coding (RFC 9112, section 7.1), read strictly and written plainly.

use bytes::{Buf as _, Bytes, BytesMut};
use http::HeaderMap;
use http::header::{HeaderName, HeaderValue};

/// The longest line of a chunk's size with its extensions, bytes.
const MAX_LINE: usize = 4 * 1024;
/// The most that all trailers may take, bytes.
const MAX_TRAILERS: usize = 16 * 1024;
const MAX_TRAILER_FIELDS: usize = 64;

/// A decoder between two reads.
#[derive(Debug, Default)]
pub(super) struct Chunked {
    state: State,
}

#[derive(Debug, Default)]
enum State {
    #[default]
    Size,
    Data(u64),
    DataEnd,
    Trailers,
    Done,
}

/// What the input held.
#[derive(Debug, PartialEq)]
pub(super) enum Step {
    /// A piece of the body.
    Data(Bytes),
    /// Nothing that can be used yet.
    More,
    /// The end, with trailers where there were any.
    End(Option<HeaderMap>),
}

impl Chunked {
    /// Takes the next step from `input`.
    pub(super) fn decode(&mut self, input: &mut BytesMut) -> Result<Step, &'static str> {
        loop {
            match self.state {
                State::Size => {
                    let Some(line) = line(input, MAX_LINE)? else { return Ok(Step::More) };
                    let size = size(&line)?;
                    self.state = if size == 0 { State::Trailers } else { State::Data(size) };
                }
                State::Data(left) => {
                    if input.is_empty() {
                        return Ok(Step::More);
                    }
                    let take = input.len().min(usize::try_from(left).unwrap_or(usize::MAX));
                    let left = left - take as u64;
                    self.state = if left == 0 { State::DataEnd } else { State::Data(left) };
                    return Ok(Step::Data(input.split_to(take).freeze()));
                }
                State::DataEnd => {
                    if input.len() < 2 {
                        return Ok(Step::More);
                    }
                    if &input[..2] != b"\r\n" {
                        return Err("a chunk is not followed by CRLF");
                    }
                    input.advance(2);
                    self.state = State::Size;
                }
                State::Trailers => {
                    let mut fields = [httparse::EMPTY_HEADER; MAX_TRAILER_FIELDS];
                    let (length, trailers) = match httparse::parse_headers(input, &mut fields) {
                        Ok(httparse::Status::Complete((length, fields))) if length <= MAX_TRAILERS => {
                            (length, trailers(fields)?)
                        }
                        Ok(httparse::Status::Partial) if input.len() < MAX_TRAILERS => {
                            return Ok(Step::More);
                        }
                        _ => return Err("malformed or endless trailers"),
                    };
                    input.advance(length);
                    self.state = State::Done;
                    return Ok(Step::End(trailers));
                }
                State::Done => return Ok(Step::End(None)),
            }
        }
    }
}

/// Takes one line that ends in CRLF, without it.
fn line(input: &mut BytesMut, limit: usize) -> Result<Option<BytesMut>, &'static str> {
    match input.iter().position(|byte| *byte == b'\n') {
        Some(0) => Err("a bare LF"),
        Some(end) if input[end - 1] != b'\r' => Err("a bare LF"),
        Some(end) if end > limit => Err("a chunk size line without end"),
        Some(end) => {
            let mut line = input.split_to(end + 1);
            line.truncate(end - 1);
            if line.contains(&b'\r') { Err("a bare CR") } else { Ok(Some(line)) }
        }
        None if input.len() > limit => Err("a chunk size line without end"),
        None => Ok(None),
    }
}

/// Hex digits, then nothing or an extension, which is dropped.
fn size(line: &[u8]) -> Result<u64, &'static str> {
    let end = line.iter().position(|byte| !byte.is_ascii_hexdigit()).unwrap_or(line.len());
    let (digits, rest) = line.split_at(end);
    if digits.is_empty() || digits.len() > 16 {
        return Err("a malformed chunk size");
    }
    match rest.trim_ascii_start().first() {
        None if rest.is_empty() => {}
        Some(b';') => {}
        _ => return Err("a malformed chunk size"),
    }
    let digits = std::str::from_utf8(digits).map_err(|_| "a malformed chunk size")?;
    u64::from_str_radix(digits, 16).map_err(|_| "a malformed chunk size")
}

fn trailers(fields: &[httparse::Header<'_>]) -> Result<Option<HeaderMap>, &'static str> {
    if fields.is_empty() {
        return Ok(None);
    }
    let mut map = HeaderMap::with_capacity(fields.len());
    for field in fields {
        let name = HeaderName::from_bytes(field.name.as_bytes()).map_err(|_| "a malformed trailer")?;
        let value = HeaderValue::from_bytes(field.value).map_err(|_| "a malformed trailer")?;
        map.append(name, value);
    }
    Ok(Some(map))
}

/// The size line of a chunk of `length` bytes, which is not zero.
pub(super) fn write_size(out: &mut Vec<u8>, length: usize) {
    out.extend_from_slice(format!("{length:x}\r\n").as_bytes());
}

/// The last chunk and the trailers.
pub(super) fn write_end(out: &mut Vec<u8>, trailers: &HeaderMap) {
    out.extend_from_slice(b"0\r\n");
    for (name, value) in trailers {
        out.extend_from_slice(name.as_str().as_bytes());
        out.extend_from_slice(b": ");
        out.extend_from_slice(value.as_bytes());
        out.extend_from_slice(b"\r\n");
    }
    out.extend_from_slice(b"\r\n");
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Feeds `wire` in pieces of `step` bytes.
    fn decode(wire: &[u8], step: usize) -> Result<(Vec<u8>, Option<HeaderMap>, usize), &'static str> {
        let mut decoder = Chunked::default();
        let (mut input, mut body, mut fed) = (BytesMut::new(), Vec::new(), 0);
        loop {
            match decoder.decode(&mut input)? {
                Step::Data(piece) => body.extend_from_slice(&piece),
                Step::End(trailers) => return Ok((body, trailers, input.len() + wire.len() - fed)),
                Step::More if fed == wire.len() => return Err("truncated"),
                Step::More => {
                    let next = (fed + step).min(wire.len());
                    input.extend_from_slice(&wire[fed..next]);
                    fed = next;
                }
            }
        }
    }

    #[track_caller]
    fn check_refused(wire: &[u8]) {
        for step in 1..=wire.len() {
            assert!(decode(wire, step).is_err(), "{:?} by {step}", String::from_utf8_lossy(wire));
        }
    }

    #[test]
    fn what_rfc_9112_does_not_allow_is_refused() {
        for wire in [
            &b"\r\n"[..],
            b"-1\r\n\r\n",
            b"0x1\r\na\r\n0\r\n\r\n",
            b"1\na\r\n0\r\n\r\n",
            b"1\r\nab\r\n0\r\n\r\n",
            b"1\r\na\n0\r\n\r\n",
            b"1 \r\na\r\n0\r\n\r\n",
            b"1\rx;\r\na\r\n0\r\n\r\n",
            b"11111111111111111\r\n",
            b"1\r\na\r\n0\r\nbad trailer\r\n\r\n",
            b"5\r\nabc",
        ] {
            check_refused(wire);
        }
    }

    #[test]
    fn trailers_are_bounded_however_they_come() {
        let wire = |size: usize| format!("0\r\nX-A: {}\r\n\r\n", "a".repeat(size - "X-A: \r\n\r\n".len()));
        for step in [1, 7, 4096, 100_000] {
            assert!(decode(wire(MAX_TRAILERS).as_bytes(), step).is_ok(), "by {step}");
            assert!(decode(wire(MAX_TRAILERS + 1).as_bytes(), step).is_err(), "by {step}");
        }
        let fields = |count| format!("0\r\n{}\r\n", "X-A: 1\r\n".repeat(count));
        assert!(decode(fields(MAX_TRAILER_FIELDS).as_bytes(), 100_000).is_ok());
        assert!(decode(fields(MAX_TRAILER_FIELDS + 1).as_bytes(), 100_000).is_err());
    }

    #[test]
    fn extensions_are_dropped_and_trailers_kept() {
        let (body, trailers, rest) = decode(b"3;a=b\r\nabc\r\n0\r\nx-sum: 1\r\n\r\nnext", 1000).unwrap();
        assert_eq!((body.as_slice(), rest), (&b"abc"[..], 4));
        assert_eq!(trailers.unwrap()["x-sum"], "1");
    }

    proptest! {
        #[test]
        fn what_is_written_reads_the_same_however_it_is_cut(
            pieces in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..200), 0..8),
            step in 1usize..64,
        ) {
            let mut wire = Vec::new();
            for piece in &pieces {
                write_size(&mut wire, piece.len());
                wire.extend_from_slice(piece);
                wire.extend_from_slice(b"\r\n");
            }
            write_end(&mut wire, &HeaderMap::new());
            prop_assert_eq!(decode(&wire, step).unwrap(), (pieces.concat(), None, 0));
            for cut in 0..wire.len() {
                prop_assert!(decode(&wire[..cut], step).is_err());
            }
        }
    }
}
