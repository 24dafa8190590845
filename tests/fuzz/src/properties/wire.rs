//! Messages as RFC 9112 has them, read here independently of keyway and its libraries.

/// A request that nobody can read in another way.
#[derive(Debug)]
pub struct Request {
    pub method: String,
    pub target: String,
    /// Names in lower case.
    pub fields: Vec<(String, String)>,
    pub trailers: Vec<(String, String)>,
    pub chunked: bool,
    pub body: Vec<u8>,
}

/// A service's final answer.
#[derive(Debug, PartialEq, Eq)]
pub struct Answer {
    pub status: u16,
    /// The head's bytes.
    pub head: Vec<u8>,
    pub body: Vec<u8>,
    pub trailers: Vec<(String, String)>,
}

/// What a text of bytes holds: a whole message and its length, the start of one, or neither.
#[derive(Debug, PartialEq, Eq)]
pub enum Read<T> {
    Whole(T, usize),
    Partial,
    Broken(&'static str),
}

type Step<T> = Result<T, Option<&'static str>>;

const PARTIAL: Option<&str> = None;

/// Reads one request strictly: whatever grammar or framing leave open is broken.
pub fn request(bytes: &[u8]) -> Read<Request> {
    whole(read_request(bytes))
}

/// Whether a head is there whose sender waits for `100 Continue`.
pub fn waits(bytes: &[u8]) -> bool {
    let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") else { return false };
    let head = String::from_utf8_lossy(&bytes[..end]).to_ascii_lowercase();
    head.contains("\r\nexpect: 100-continue")
}

/// Reads a service's final answer, interim ones before it included. Lines may end in LF alone, as
/// recipients are allowed to take it; framing is read strictly. `ended`: nothing follows the bytes.
pub fn answer(bytes: &[u8], to_head: bool, ended: bool) -> Read<Answer> {
    whole(read_answer(bytes, to_head, ended))
}

fn whole<T>(step: Step<(T, usize)>) -> Read<T> {
    match step {
        Ok((message, length)) => Read::Whole(message, length),
        Err(None) => Read::Partial,
        Err(Some(why)) => Read::Broken(why),
    }
}

fn read_request(bytes: &[u8]) -> Step<(Request, usize)> {
    let mut at = 0;
    let first = line(bytes, &mut at, true)?;
    let first = std::str::from_utf8(first).map_err(|_| Some("a request line outside ASCII"))?;
    let [method, target, "HTTP/1.1"] = first.split(' ').collect::<Vec<_>>()[..] else {
        return Err(Some("a malformed request line"));
    };
    if !is_token(method.as_bytes())
        || !target.starts_with('/')
        || !target.bytes().all(|b| b.is_ascii_graphic())
    {
        return Err(Some("a malformed method or target"));
    }
    let (method, target) = (method.to_owned(), target.to_owned());
    let fields = read_fields(bytes, &mut at, true)?;
    let mut request =
        Request { method, target, chunked: false, fields, trailers: Vec::new(), body: Vec::new() };
    let framing = framing(&request.fields)?;
    request.chunked = matches!(framing, Framing::Chunked);
    match framing {
        Framing::None => {}
        Framing::Length(length) => request.body = take(bytes, &mut at, length)?.to_vec(),
        Framing::Chunked => request.trailers = read_chunked(bytes, &mut at, &mut request.body, true)?,
    }
    Ok((request, at))
}

fn read_answer(bytes: &[u8], to_head: bool, ended: bool) -> Step<(Answer, usize)> {
    let mut at = 0;
    loop {
        while bytes[at..].starts_with(b"\r\n") || bytes[at..].starts_with(b"\n") {
            at += if bytes[at] == b'\r' { 2 } else { 1 };
        }
        let start = at;
        let first = line(bytes, &mut at, false)?;
        let version = first.get(..9);
        if version != Some(b"HTTP/1.1 ") && version != Some(b"HTTP/1.0 ") {
            return Err(Some("no status line"));
        }
        let code = first.get(9..12).filter(|code| code.iter().all(u8::is_ascii_digit));
        let status =
            code.map_or(0, |code| code.iter().fold(0, |sum, digit| sum * 10 + u16::from(digit - b'0')));
        if status < 100 || first.get(12).is_some_and(|byte| *byte != b' ') {
            return Err(Some("a malformed status"));
        }
        let fields = read_fields(bytes, &mut at, false)?;
        if status == 101 {
            return Err(Some("an upgrade that nobody asked for"));
        }
        let framing = framing(&fields)?;
        if matches!(framing, Framing::Chunked) && version == Some(b"HTTP/1.0 ") {
            return Err(Some("chunks in HTTP/1.0"));
        }
        if status < 200 {
            continue;
        }
        let mut answer =
            Answer { status, head: bytes[start..at].to_vec(), body: Vec::new(), trailers: Vec::new() };
        if to_head || status == 204 || status == 304 {
            return Ok((answer, at));
        }
        match framing {
            Framing::Length(length) => answer.body = take(bytes, &mut at, length)?.to_vec(),
            Framing::Chunked => answer.trailers = read_chunked(bytes, &mut at, &mut answer.body, false)?,
            Framing::None if ended => {
                answer.body = bytes[at..].to_vec();
                at = bytes.len();
            }
            Framing::None => return Err(PARTIAL),
        }
        return Ok((answer, at));
    }
}

enum Framing {
    None,
    Length(usize),
    Chunked,
}

fn framing(fields: &[(String, String)]) -> Step<Framing> {
    let values = |wanted: &str| -> Vec<&str> {
        fields.iter().filter(|(name, _)| name == wanted).map(|(_, value)| value.as_str()).collect()
    };
    let (lengths, codings) = (values("content-length"), values("transfer-encoding"));
    match (&lengths[..], &codings[..]) {
        ([], []) => Ok(Framing::None),
        ([], [coding]) if coding.eq_ignore_ascii_case("chunked") => Ok(Framing::Chunked),
        ([length, others @ ..], []) => {
            let read = |text: &str| {
                let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
                digits.then(|| text.parse::<u64>().ok()).flatten()
            };
            let number = read(length).ok_or(Some("a bad Content-Length"))?;
            if others.iter().any(|other| read(other) != Some(number)) {
                return Err(Some("several lengths"));
            }
            Ok(Framing::Length(usize::try_from(number).map_err(|_| PARTIAL)?))
        }
        _ => Err(Some("ambiguous framing")),
    }
}

fn read_chunked(
    bytes: &[u8],
    at: &mut usize,
    body: &mut Vec<u8>,
    plain: bool,
) -> Step<Vec<(String, String)>> {
    loop {
        let text = line(bytes, at, true)?;
        let digits = text.iter().take_while(|byte| byte.is_ascii_hexdigit()).count();
        let extension = text[digits..].trim_ascii_start();
        if digits == 0 || digits > 16 || !(text.len() == digits || !plain && extension.starts_with(b";")) {
            return Err(Some("a malformed chunk size"));
        }
        let size =
            std::str::from_utf8(&text[..digits]).ok().and_then(|hex| u64::from_str_radix(hex, 16).ok());
        let size = usize::try_from(size.ok_or(Some("a malformed chunk size"))?).map_err(|_| PARTIAL)?;
        if size == 0 {
            return read_fields(bytes, at, plain);
        }
        body.extend_from_slice(take(bytes, at, size)?);
        match bytes.get(*at..).unwrap_or_default() {
            [b'\r', b'\n', ..] => *at += 2,
            [] | [b'\r'] => return Err(PARTIAL),
            _ => return Err(Some("a chunk is not followed by CRLF")),
        }
    }
}

fn read_fields(bytes: &[u8], at: &mut usize, strict: bool) -> Step<Vec<(String, String)>> {
    let mut fields = Vec::new();
    loop {
        let text = line(bytes, at, strict)?;
        if text.is_empty() {
            return Ok(fields);
        }
        let colon = text.iter().position(|byte| *byte == b':').ok_or(Some("a field without a colon"))?;
        let (name, value) = (&text[..colon], text[colon + 1..].trim_ascii());
        if !is_token(name) {
            return Err(Some("a malformed field name"));
        }
        if value.iter().any(|byte| *byte < b' ' && *byte != b'\t' || *byte == 0x7f) {
            return Err(Some("a control character in a field"));
        }
        fields.push((
            String::from_utf8_lossy(name).to_ascii_lowercase(),
            String::from_utf8_lossy(value).into_owned(),
        ));
    }
}

fn line<'a>(bytes: &'a [u8], at: &mut usize, strict: bool) -> Step<&'a [u8]> {
    let rest = &bytes[*at..];
    let end = rest.iter().position(|byte| *byte == b'\n').ok_or(PARTIAL)?;
    let text = match rest[..end].strip_suffix(b"\r") {
        Some(text) => text,
        None if strict => return Err(Some("a bare LF")),
        None => &rest[..end],
    };
    if text.contains(&b'\r') {
        return Err(Some("a bare CR"));
    }
    *at += end + 1;
    Ok(text)
}

fn take<'a>(bytes: &'a [u8], at: &mut usize, length: usize) -> Step<&'a [u8]> {
    let end = at.checked_add(length).ok_or(PARTIAL)?;
    let taken = bytes.get(*at..end).ok_or(PARTIAL)?;
    *at = end;
    Ok(taken)
}

fn is_token(text: &[u8]) -> bool {
    let is_in = |byte: &u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte);
    !text.is_empty() && text.iter().all(is_in)
}
