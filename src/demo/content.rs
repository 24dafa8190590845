//! What was uploaded? Bodies as they come in, what is kept of them, and parts of them going out.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http::header::RANGE;
use http::{HeaderMap, HeaderValue};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use serde_json::Value;

use super::reply::Body;
use super::{Progress, lock};

/// A request's body. Nothing of it is read before somebody asks, so that a client which waits for
/// `100 Continue` is not told to go on before its token was looked at.
pub(super) struct Upload {
    body: Incoming,
    progress: Arc<Mutex<Progress>>,
}

impl Upload {
    pub(super) fn new(body: Incoming, progress: Arc<Mutex<Progress>>) -> Self {
        Self { body, progress }
    }

    /// The next piece, `None` at the end.
    pub(super) async fn chunk(&mut self) -> Result<Option<Bytes>, hyper::Error> {
        while let Some(frame) = self.body.frame().await {
            let mut progress = lock(&self.progress);
            match frame?.into_data() {
                Ok(data) => {
                    progress.received += data.len() as u64;
                    return Ok(Some(data));
                }
                Err(frame) => progress.trailers = frame.into_trailers().ok(),
            }
        }
        lock(&self.progress).complete = true;
        Ok(None)
    }

    /// Reads to the end, keeping nothing.
    pub(super) async fn discard(&mut self) {
        while let Ok(Some(_)) = self.chunk().await {}
    }

    /// The whole body as JSON; `None` if it is none, or longer than any request to an API.
    pub(super) async fn json(&mut self) -> Option<Value> {
        serde_json::from_slice(&self.whole().await?).ok()
    }

    /// The whole body, if it is no longer than that.
    pub(super) async fn whole(&mut self) -> Option<Vec<u8>> {
        let mut whole = Vec::new();
        while let Some(chunk) = self.chunk().await.ok()? {
            whole.extend_from_slice(&chunk);
            if whole.len() > 4 * 1024 * 1024 {
                return None;
            }
        }
        Some(whole)
    }
}

/// What a simulated service still has of something that was uploaded.
#[derive(Clone, Debug)]
pub(super) enum Data {
    /// All of it, in pieces.
    Kept(Vec<Bytes>),
    /// Nothing but zero bytes, which need no memory.
    Zeros,
    /// Too long to keep.
    Dropped,
}

impl Data {
    /// The bytes from `start` up to, not including, `end`.
    pub(super) fn body(&self, start: u64, end: u64) -> Body {
        let Self::Kept(chunks) = self else {
            return Body::zeros(end - start);
        };
        let mut parts = VecDeque::new();
        let mut offset = 0;
        for chunk in chunks {
            let length = chunk.len() as u64;
            let from = start.clamp(offset, offset + length) - offset;
            let to = end.clamp(offset, offset + length) - offset;
            if from < to {
                parts.push_back(chunk.slice(from as usize..to as usize));
            }
            offset += length;
        }
        Body::chunks(parts)
    }
}

/// Collects what comes in: copied into blocks of its own, so that tiny pieces cost no more than they
/// are long.
#[derive(Default)]
pub(super) struct Collector {
    blocks: Vec<Bytes>,
    tail: Vec<u8>,
    checksum: Md5,
    length: u64,
    keeps_nothing: bool,
}

impl Collector {
    const BLOCK: usize = 64 * 1024;

    pub(super) fn push(&mut self, data: &[u8]) {
        self.checksum.update(data);
        self.length += data.len() as u64;
        if self.keeps_nothing {
            return;
        }
        self.tail.extend_from_slice(data);
        if self.tail.len() >= Self::BLOCK {
            self.blocks.push(std::mem::take(&mut self.tail).into());
        }
    }

    /// From now on only the length and the checksum are of interest.
    pub(super) fn forget(&mut self) {
        self.keeps_nothing = true;
        self.blocks = Vec::new();
        self.tail = Vec::new();
    }

    pub(super) fn length(&self) -> u64 {
        self.length
    }

    /// The data and its MD5 in hexadecimal.
    pub(super) fn finish(mut self) -> (Data, String) {
        let checksum = self.checksum.finish();
        if self.keeps_nothing {
            return (Data::Dropped, checksum);
        }
        if !self.tail.is_empty() {
            self.blocks.push(self.tail.into());
        }
        (Data::Kept(self.blocks), checksum)
    }
}

/// What a `Range` header asks for.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Part {
    /// Everything: there is no range, or none that is understood (RFC 9110, section 14.2).
    Whole,
    /// From the first offset up to, not including, the second.
    Slice(u64, u64),
    /// Beyond the end.
    Unsatisfiable,
}

impl Part {
    /// One range is honored; several at once are answered with everything.
    pub(super) fn of(headers: &HeaderMap, length: u64) -> Self {
        let range = headers.get(RANGE).map(HeaderValue::as_bytes).unwrap_or_default();
        let Some((first, last)) = std::str::from_utf8(range)
            .ok()
            .and_then(|range| range.strip_prefix("bytes="))
            .and_then(|range| range.split_once('-'))
        else {
            return Self::Whole;
        };
        match (first.parse::<u64>(), last.parse::<u64>()) {
            (Err(_), Ok(suffix)) if first.is_empty() && suffix > 0 && length > 0 => {
                Self::Slice(length.saturating_sub(suffix), length)
            }
            (Err(_), Ok(_)) if first.is_empty() => Self::Unsatisfiable,
            (Ok(first), Ok(last)) if last < first => Self::Whole,
            (Ok(first), Ok(last)) if first < length => Self::Slice(first, last.saturating_add(1).min(length)),
            (Ok(first), Err(_)) if last.is_empty() && first < length => Self::Slice(first, length),
            (Ok(_), Ok(_)) => Self::Unsatisfiable,
            (Ok(_), Err(_)) if last.is_empty() => Self::Unsatisfiable,
            _ => Self::Whole,
        }
    }
}

/// MD5 (RFC 1321): what `ETag` is in object storage and `checksum` in the image service. It is here
/// because clients compare it, not because it would protect anything.
pub(super) struct Md5 {
    state: [u32; 4],
    block: [u8; 64],
    length: u64,
}

impl Default for Md5 {
    fn default() -> Self {
        Self { state: [0x67452301, 0xefcdab89, 0x98badcfe, 0x10325476], block: [0; 64], length: 0 }
    }
}

#[rustfmt::skip]
const SINES: [u32; 64] = [
    0xd76aa478, 0xe8c7b756, 0x242070db, 0xc1bdceee, 0xf57c0faf, 0x4787c62a, 0xa8304613, 0xfd469501,
    0x698098d8, 0x8b44f7af, 0xffff5bb1, 0x895cd7be, 0x6b901122, 0xfd987193, 0xa679438e, 0x49b40821,
    0xf61e2562, 0xc040b340, 0x265e5a51, 0xe9b6c7aa, 0xd62f105d, 0x02441453, 0xd8a1e681, 0xe7d3fbc8,
    0x21e1cde6, 0xc33707d6, 0xf4d50d87, 0x455a14ed, 0xa9e3e905, 0xfcefa3f8, 0x676f02d9, 0x8d2a4c8a,
    0xfffa3942, 0x8771f681, 0x6d9d6122, 0xfde5380c, 0xa4beea44, 0x4bdecfa9, 0xf6bb4b60, 0xbebfbc70,
    0x289b7ec6, 0xeaa127fa, 0xd4ef3085, 0x04881d05, 0xd9d4d039, 0xe6db99e5, 0x1fa27cf8, 0xc4ac5665,
    0xf4292244, 0x432aff97, 0xab9423a7, 0xfc93a039, 0x655b59c3, 0x8f0ccc92, 0xffeff47d, 0x85845dd1,
    0x6fa87e4f, 0xfe2ce6e0, 0xa3014314, 0x4e0811a1, 0xf7537e82, 0xbd3af235, 0x2ad7d2bb, 0xeb86d391,
];

const ROTATIONS: [[u32; 4]; 4] = [[7, 12, 17, 22], [5, 9, 14, 20], [4, 11, 16, 23], [6, 10, 15, 21]];

impl Md5 {
    /// The checksum of `data` in hexadecimal.
    pub(super) fn hex(data: &[u8]) -> String {
        let mut checksum = Self::default();
        checksum.update(data);
        checksum.finish()
    }

    fn update(&mut self, mut data: &[u8]) {
        while !data.is_empty() {
            let filled = (self.length % 64) as usize;
            let (part, rest) = data.split_at(data.len().min(64 - filled));
            self.block[filled..filled + part.len()].copy_from_slice(part);
            self.length += part.len() as u64;
            if self.length.is_multiple_of(64) {
                self.mix();
            }
            data = rest;
        }
    }

    fn finish(mut self) -> String {
        let bits = self.length.wrapping_mul(8);
        self.update(&[0x80]);
        while self.length % 64 != 56 {
            self.update(&[0]);
        }
        self.update(&bits.to_le_bytes());
        self.state.iter().flat_map(|word| word.to_le_bytes()).map(|byte| format!("{byte:02x}")).collect()
    }

    fn mix(&mut self) {
        let mut words = [0; 16];
        for (word, bytes) in words.iter_mut().zip(self.block.chunks_exact(4)) {
            *word = u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
        }
        let [mut a, mut b, mut c, mut d] = self.state;
        for step in 0..64 {
            let (f, word) = match step / 16 {
                0 => ((b & c) | (!b & d), step),
                1 => ((d & b) | (!d & c), 5 * step + 1),
                2 => (b ^ c ^ d, 3 * step + 5),
                _ => (c ^ (b | !d), 7 * step),
            };
            let sum = a.wrapping_add(f).wrapping_add(SINES[step]).wrapping_add(words[word % 16]);
            (a, d, c) = (d, c, b);
            b = b.wrapping_add(sum.rotate_left(ROTATIONS[step / 16][step % 4]));
        }
        for (state, add) in self.state.iter_mut().zip([a, b, c, d]) {
            *state = state.wrapping_add(add);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn md5_is_md5() {
        assert_eq!(Md5::hex(b""), "d41d8cd98f00b204e9800998ecf8427e");
        assert_eq!(Md5::hex(b"hello"), "5d41402abc4b2a76b9719d911017c592");
        assert_eq!(Md5::hex(&[b'a'; 64]), "014842d480b571495a4a0363793f7367");
        assert_eq!(Md5::hex(&[b'a'; 1_000_000]), "7707d6ae4e027c70eea2a935c2296f21");
    }

    fn check_range(range: &str, expected: Part) {
        let headers = HeaderMap::from_iter([(RANGE, HeaderValue::from_str(range).unwrap())]);
        assert_eq!(Part::of(&headers, 10), expected, "{range}");
    }

    #[test]
    fn ranges_are_cut_at_the_end_and_nonsense_means_everything() {
        check_range("bytes=0-0", Part::Slice(0, 1));
        check_range("bytes=3-", Part::Slice(3, 10));
        check_range("bytes=3-99", Part::Slice(3, 10));
        check_range("bytes=-4", Part::Slice(6, 10));
        check_range("bytes=-40", Part::Slice(0, 10));
        check_range("bytes=10-", Part::Unsatisfiable);
        check_range("bytes=-0", Part::Unsatisfiable);
        check_range("bytes=4-3", Part::Whole);
        check_range("bytes=0-1,4-5", Part::Whole);
        check_range("lines=1-2", Part::Whole);
    }

    #[test]
    fn a_slice_may_cross_pieces() {
        let data = Data::Kept(vec!["abc".into(), "def".into(), "ghi".into()]);
        assert_eq!(data.body(2, 7).length(), 5);
        assert_eq!(data.body(3, 3).length(), 0);
        assert_eq!(Data::Zeros.body(1, 4).length(), 3);
    }
}
