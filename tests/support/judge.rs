//! What would a service make of these bytes?
//!
//! A service may be strict, or lenient in any of the ways that servers are known for. What keyway
//! sends has to be the same requests to all of them: [`requests`] reads a connection's bytes with one
//! strict reader and with many lenient ones, and panics where two of them differ. [`signed`] asks for
//! more: that each request has our token, and nothing that only keyway may say.

/// A whole request, as a reader sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// The request line without its end.
    pub line: String,
    /// Names as the reader takes them, in lower case, and values without the space around them.
    pub fields: Vec<(String, Vec<u8>)>,
    /// The body without its framing.
    pub body: Vec<u8>,
    /// What followed the last chunk.
    pub trailers: Vec<(String, Vec<u8>)>,
    /// Where it ends among the bytes.
    pub end: usize,
}

impl Request {
    /// The values of a field.
    pub fn values(&self, name: &str) -> Vec<&[u8]> {
        self.fields.iter().filter(|(key, _)| key == name).map(|(_, value)| value.as_slice()).collect()
    }

    /// The value of a field that is there once at most.
    pub fn value(&self, name: &str) -> Option<&[u8]> {
        let values = self.values(name);
        assert!(values.len() <= 1, "{name} came more than once: {self:?}");
        values.first().copied()
    }
}

/// Which of two framings counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Framing {
    /// Transfer-Encoding, as RFC 9112 has it.
    #[default]
    Coding,
    /// Content-Length.
    Length,
    /// Whichever stands last in the head.
    Last,
}

/// One of the ways in which a server may read requests.
#[derive(Clone, Copy, Debug, Default)]
struct Reader {
    /// A bare LF ends a line.
    bare_lf: bool,
    /// A bare CR ends a line.
    bare_cr: bool,
    framing: Framing,
    /// Any Transfer-Encoding that has `chunked` in it is chunked, else only exactly that.
    any_chunked: bool,
    /// The last of repeated fields counts, else the first.
    last: bool,
    /// A line that starts with white space continues the one before.
    unfolds: bool,
    /// White space and control bytes around a name don't count.
    trims_names: bool,
    /// `_` and all else that is neither letter nor digit is `-`.
    folds_names: bool,
    /// A number may have a sign, `0x`, white space around it, and anything behind it.
    loose_numbers: bool,
    /// NUL doesn't count.
    skips_nul: bool,
    /// A head ends at its first line without a colon.
    stops_at_junk: bool,
}

const STRICT: Reader = Reader {
    bare_lf: false,
    bare_cr: false,
    framing: Framing::Coding,
    any_chunked: false,
    last: false,
    unfolds: false,
    trims_names: false,
    folds_names: false,
    loose_numbers: false,
    skips_nul: false,
    stops_at_junk: false,
};

const LENIENT: [Reader; 14] = [
    Reader { bare_lf: true, ..STRICT },
    Reader { bare_cr: true, bare_lf: true, ..STRICT },
    Reader { framing: Framing::Length, ..STRICT },
    Reader { framing: Framing::Last, any_chunked: true, ..STRICT },
    Reader { any_chunked: true, ..STRICT },
    Reader { last: true, ..STRICT },
    Reader { unfolds: true, bare_lf: true, ..STRICT },
    Reader { trims_names: true, ..STRICT },
    Reader { folds_names: true, framing: Framing::Length, ..STRICT },
    Reader { folds_names: true, any_chunked: true, last: true, ..STRICT },
    Reader { loose_numbers: true, ..STRICT },
    Reader { skips_nul: true, trims_names: true, ..STRICT },
    Reader { stops_at_junk: true, bare_lf: true, ..STRICT },
    Reader {
        bare_lf: true,
        bare_cr: true,
        framing: Framing::Length,
        any_chunked: true,
        last: true,
        unfolds: true,
        trims_names: true,
        folds_names: true,
        loose_numbers: true,
        skips_nul: true,
        stops_at_junk: false,
    },
];

/// The whole requests in a connection's bytes, the same for all readers. What follows the last whole
/// one is the start of a request that broke off, or nothing.
///
/// # Panics
/// Two readers differ, or the bytes are not what RFC 9112 says.
#[track_caller]
pub fn requests(bytes: &[u8]) -> Vec<Request> {
    let shown = || bytes.escape_ascii().to_string();
    let strict = match strict(bytes) {
        Ok(requests) => requests,
        Err(why) => panic!("{why}: {}", shown()),
    };
    for reader in LENIENT {
        let seen = reader.requests(bytes);
        let same = seen.len() == strict.len()
            && seen.iter().zip(&strict).all(|(a, b)| a.line == b.line && a.body == b.body);
        assert!(same, "{reader:?} sees {seen:?}\nand not {strict:?}\nin {}", shown());
    }
    strict
}

/// The same for requests that keyway signed with `token`.
///
/// # Panics
/// As [`requests`]; or a request has another token, none, or a field that only keyway may send.
#[track_caller]
pub fn signed(bytes: &[u8], token: &str) -> Vec<Request> {
    let requests = requests(bytes);
    for request in &requests {
        let folded: Vec<_> = request.fields.iter().map(|(name, value)| (fold(name), value)).collect();
        let tokens: Vec<_> = folded.iter().filter(|(name, _)| name == "x-auth-token").collect();
        assert!(tokens.len() == 1 && tokens[0].1 == token.as_bytes(), "the token is not ours: {request:?}");
        let trailers = request.trailers.iter().map(|(name, _)| (fold(name), true));
        let names = folded.into_iter().map(|(name, _)| (name, false)).chain(trailers);
        for (name, late) in names {
            let written =
                matches!(name.as_str(), "x-auth-token" | "host" | "content-length" | "transfer-encoding");
            let allowed = if written { !late } else { !is_guarded(&name) };
            assert!(allowed, "{name} must not arrive: {request:?}");
        }
    }
    // What broke off must not have said anything else either.
    for line in bytes.split(|byte| *byte == b'\n') {
        let name = line.split(|byte| *byte == b':').next().unwrap_or_default();
        if fold(&String::from_utf8_lossy(name)) == "x-auth-token" && line.contains(&b':') {
            assert_eq!(line.strip_suffix(b"\r"), Some(format!("x-auth-token: {token}").as_bytes()));
        }
    }
    requests
}

/// A name as the most careless server reads it.
fn fold(name: &str) -> String {
    let fold = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' };
    name.trim().chars().map(fold).collect()
}

/// Fields that no client may send to a service, by their folded name.
fn is_guarded(name: &str) -> bool {
    const NAMES: [&str; 27] = [
        "x-storage-token",
        "x-is-admin-project",
        "x-roles",
        "x-role",
        "x-user",
        "x-tenant",
        "openstack-system-scope",
        "remote-user",
        "authorization",
        "cookie",
        "proxy",
        "forwarded",
        "x-forwarded",
        "via",
        "x-real-ip",
        "x-http-method",
        "x-http-method-override",
        "x-method-override",
        "x-original-url",
        "x-rewrite-url",
        "connection",
        "keep-alive",
        "te",
        "trailer",
        "upgrade",
        "http2-settings",
        "x-original-method",
    ];
    const PREFIXES: [&str; 9] = [
        "x-service-",
        "x-identity-",
        "x-user-",
        "x-project-",
        "x-domain-",
        "x-tenant-",
        "x-forwarded-",
        "ssl-client-",
        "proxy-",
    ];
    NAMES.contains(&name) || PREFIXES.iter().any(|prefix| name.starts_with(prefix))
}

/// Reads as RFC 9112 says, and allows nothing that a sender must not send.
///
/// # Errors
/// What is wrong. A request that breaks off at the end is no error.
pub fn strict(bytes: &[u8]) -> Result<Vec<Request>, String> {
    let requests = STRICT.requests(bytes);
    for request in &requests {
        check(request).map_err(|why| format!("{why} in {request:?}"))?;
    }
    check_start(&bytes[requests.last().map_or(0, |request| request.end)..])?;
    Ok(requests)
}

fn check(request: &Request) -> Result<(), String> {
    let parts: Vec<_> = request.line.split(' ').collect();
    let [method, target, "HTTP/1.1"] = parts[..] else { return Err("no request line".to_owned()) };
    if method.is_empty() || !method.bytes().all(is_token) {
        return Err("a method that is no token".to_owned());
    }
    // Some readers take a backslash in a path for a slash; in a query it is a character like any other.
    let path = target.split('?').next().unwrap_or_default();
    if !path.starts_with('/') || path.contains('\\') {
        return Err("a target that is no path".to_owned());
    }
    if !target.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'#') {
        return Err("a target with what does not belong into one".to_owned());
    }
    for (name, value) in request.fields.iter().chain(&request.trailers) {
        if name.is_empty() || !name.bytes().all(is_token) {
            return Err(format!("the name {name:?}"));
        }
        if value.iter().any(|byte| byte.is_ascii_control() && *byte != b'\t') {
            return Err(format!("the value of {name}"));
        }
    }
    let (lengths, codings) = (request.values("content-length"), request.values("transfer-encoding"));
    if request.values("host").len() != 1 || lengths.len() + codings.len() > 1 {
        return Err("no single Host, or more than one framing".to_owned());
    }
    if codings.first().is_some_and(|coding| *coding != b"chunked") {
        return Err("a coding that is not `chunked`".to_owned());
    }
    if lengths.first().is_some_and(|length| length.is_empty() || !length.iter().all(u8::is_ascii_digit)) {
        return Err("a length that is no number".to_owned());
    }
    Ok(())
}

/// The start of a request that broke off: its lines, as far as they came, are good ones.
fn check_start(rest: &[u8]) -> Result<(), String> {
    let head = rest.windows(4).position(|window| window == b"\r\n\r\n").map_or(rest, |end| &rest[..end]);
    let bare = head.iter().enumerate().any(|(at, byte)| match byte {
        b'\r' => head.get(at + 1).is_some_and(|next| *next != b'\n'),
        b'\n' => at == 0 || head[at - 1] != b'\r',
        byte => byte.is_ascii_control() && *byte != b'\t',
    });
    if bare { Err("a control byte in a head that broke off".to_owned()) } else { Ok(()) }
}

fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

impl Reader {
    fn requests(self, bytes: &[u8]) -> Vec<Request> {
        let (mut requests, mut rest) = (Vec::new(), bytes);
        while let Some(mut request) = self.one(&mut rest) {
            request.end = bytes.len() - rest.len();
            requests.push(request);
        }
        requests
    }

    fn one(self, rest: &mut &[u8]) -> Option<Request> {
        let line = self.line(rest)?;
        let line = String::from_utf8_lossy(&line).into_owned();
        let fields = self.fields(rest)?;
        let named = |name: &str| -> Vec<(usize, &(String, Vec<u8>))> {
            fields.iter().enumerate().filter(|(_, (key, _))| key == name).collect()
        };
        let pick = |of: &[(usize, &(String, Vec<u8>))]| {
            let picked = if self.last { of.last() } else { of.first() };
            picked.map(|(at, (_, value))| (*at, value.clone()))
        };
        let coding = pick(&named("transfer-encoding"));
        let length = pick(&named("content-length"));
        let chunked = coding.as_ref().is_some_and(|(_, value)| {
            let value = value.to_ascii_lowercase();
            value == b"chunked" || self.any_chunked && value.windows(7).any(|window| window == b"chunked")
        });
        let coded = chunked
            && match self.framing {
                Framing::Coding => true,
                Framing::Length => length.is_none(),
                Framing::Last => length.as_ref().map(|(at, _)| *at) < coding.as_ref().map(|(at, _)| *at),
            };
        let (body, trailers) = if coded {
            self.chunks(rest)?
        } else {
            let length = match length {
                Some((_, value)) => usize::try_from(self.number(&value, 10)?).ok()?,
                None => 0,
            };
            (take(rest, length)?.to_vec(), Vec::new())
        };
        Some(Request { line, fields, body, trailers, end: 0 })
    }

    fn fields(self, rest: &mut &[u8]) -> Option<Vec<(String, Vec<u8>)>> {
        let mut lines: Vec<Vec<u8>> = Vec::new();
        loop {
            let line = self.line(rest)?;
            if line.is_empty() || self.stops_at_junk && !line.contains(&b':') {
                break;
            }
            match lines.last_mut() {
                Some(before) if self.unfolds && line[0].is_ascii_whitespace() => {
                    before.extend_from_slice(&line);
                }
                _ => lines.push(line),
            }
        }
        let field = |line: Vec<u8>| {
            let colon = line.iter().position(|byte| *byte == b':').unwrap_or(line.len());
            let name = String::from_utf8_lossy(&line[..colon]).to_ascii_lowercase();
            let name = match self {
                Self { folds_names: true, .. } => fold(&name),
                Self { trims_names: true, .. } => {
                    name.trim_matches(|c: char| c.is_whitespace() || c.is_control()).to_owned()
                }
                _ => name,
            };
            (name, line.get(colon + 1..).unwrap_or_default().trim_ascii().to_vec())
        };
        Some(lines.into_iter().map(field).collect())
    }

    #[expect(clippy::type_complexity, reason = "a body and its trailers")]
    fn chunks(self, rest: &mut &[u8]) -> Option<(Vec<u8>, Vec<(String, Vec<u8>)>)> {
        let mut body = Vec::new();
        loop {
            let size = self.number(&self.line(rest)?, 16)?;
            if size == 0 {
                return Some((body, self.fields(rest)?));
            }
            body.extend_from_slice(take(rest, usize::try_from(size).ok()?)?);
            if !self.line(rest)?.is_empty() {
                return None;
            }
        }
    }

    /// A number; `None` if this reader can't read it.
    fn number(self, text: &[u8], radix: u32) -> Option<u64> {
        let mut text = String::from_utf8_lossy(text).into_owned();
        if self.loose_numbers {
            let start = text.trim_start().trim_start_matches('+');
            let start = start.strip_prefix("0x").unwrap_or(start);
            let end = start.find(|c: char| !c.is_digit(radix)).unwrap_or(start.len());
            text = start[..end].to_owned();
        }
        let digits = !text.is_empty() && text.chars().all(|c| c.is_digit(radix));
        digits.then(|| u64::from_str_radix(&text, radix).ok()).flatten()
    }

    /// Takes one line, without its end.
    fn line(self, rest: &mut &[u8]) -> Option<Vec<u8>> {
        let mut at = 0;
        let (end, next) = loop {
            match (rest.get(at)?, rest.get(at + 1)) {
                (b'\r', Some(b'\n')) => break (at, at + 2),
                (b'\n', _) if self.bare_lf => break (at, at + 1),
                (b'\r', Some(_)) if self.bare_cr => break (at, at + 1),
                _ => at += 1,
            }
        };
        let mut line = rest[..end].to_vec();
        if self.skips_nul {
            line.retain(|byte| *byte != 0);
        }
        *rest = &rest[next..];
        Some(line)
    }
}

fn take<'a>(rest: &mut &'a [u8], length: usize) -> Option<&'a [u8]> {
    let (taken, after) = rest.split_at_checked(length)?;
    *rest = after;
    Some(taken)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(bytes: &str, seen: Option<&[(&str, &str)]>) {
        let judged = std::panic::catch_unwind(|| signed(bytes.as_bytes(), "t"));
        let judged = judged.ok().map(|requests| {
            let pair = |request: Request| (request.line, String::from_utf8(request.body).expect("text"));
            requests.into_iter().map(pair).collect::<Vec<_>>()
        });
        let seen = seen
            .map(|seen| seen.iter().map(|(line, body)| ((*line).to_owned(), (*body).to_owned())).collect());
        assert_eq!(judged, seen, "{bytes:?}");
    }

    fn post(fields: &str, body: &str) -> String {
        format!("POST /a HTTP/1.1\r\nhost: a\r\nx-auth-token: t\r\n{fields}\r\n{body}")
    }

    #[test]
    fn bytes_that_every_server_reads_alike_are_taken_apart() {
        let line = "POST /a HTTP/1.1";
        check("", Some(&[]));
        check(&post("", ""), Some(&[(line, "")]));
        check(&post("content-length: 2\r\n", "hi"), Some(&[(line, "hi")]));
        let chunked = post("transfer-encoding: chunked\r\n", "2\r\nhi\r\n0\r\nx: 1\r\n\r\n");
        check(&format!("{chunked}{}", post("", "")), Some(&[(line, "hi"), (line, "")]));
        check(&format!("{chunked}{}", &chunked[..chunked.len() - 1]), Some(&[(line, "hi")]));
        check(&post("content-length: 3\r\n", "hi"), Some(&[]));
    }

    #[test]
    fn bytes_that_servers_read_differently_are_noticed() {
        for bytes in [
            post("content-length: 2\r\ntransfer-encoding: chunked\r\n", "0\r\n\r\n"),
            post("content-length: 2\r\ncontent-length: 2\r\n", "hi"),
            post("content-length: +2\r\n", "hi"),
            post("content_length: 2\r\n", "hi"),
            post("content-length: 2\r\ntransfer_encoding: chunked\r\n", "hi"),
            post("transfer-encoding: gzip, chunked\r\n", "0\r\n\r\n"),
            post("transfer-encoding: chunked\r\n", "0x2\r\nhi\r\n0\r\n\r\n"),
            post("transfer-encoding: chunked\r\n", "2;a\r\nhi\r\n0\r\n\r\n"),
            post("transfer-encoding: chunked\r\n", "2\nhi\r\n0\r\n\r\n"),
            post("x: a\nb: c\r\n", ""),
            post("x: a\rb: c\r\n", ""),
            post("x: a\0\r\n", ""),
            post("x : a\r\n", ""),
            post("x: a\r\n b\r\n", ""),
            post("x_auth-token: t\r\n", ""),
            post("x-auth-token: t\r\n", ""),
            post("x-roles: admin\r\n", ""),
            post("transfer-encoding: chunked\r\n", "0\r\nX_Roles: a\r\n\r\n"),
            post("", "").replace("token: t", "token: u"),
            post("", "").replace("x-auth-token: t\r\n", ""),
            post("", "").replace("host: a\r\n", ""),
            post("", "").replace("/a", "/a#b"),
            post("", "").replace("/a", "/a b"),
            post("", "").replace("/a", "http://a/"),
            post("", "").replace("HTTP/1.1", "HTTP/1.0"),
            post("", "").replace("\r\n", "\n"),
        ] {
            check(&bytes, None);
        }
    }
}
