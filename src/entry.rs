//! May this request come in at all? What a listener asks before a route, a policy or a token is
//! looked at: that it was meant for this listener, and that no web page sent it.
//!
//! Whoever reaches a listener on loopback acts as the cloud's user, and every page in the user's
//! browser reaches it. A page can't hide what it is: it sends `Origin`, or `Sec-Fetch-Site` with what
//! an image tag asks for. A page whose name was bound anew to 127.0.0.1 (DNS rebinding) is of one
//! origin with the listener and sends neither, but its `Host` is that name.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::request::Parts;
use http::{StatusCode, Version};

use crate::proxy::headers::{Fields, SEC_FETCH_SITE};
use crate::server::Address;

/// What one listener lets in, as the operator decided.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Config {
    /// Names that `Host` may have besides those of loopback and the listener's own address, in lower
    /// case; with a port where it differs from the listener's. See [`host`].
    pub hosts: Vec<String>,
    /// Origins (`https://dashboard.example`) whose pages may send requests. See [`origin`].
    pub origins: Vec<String>,
    /// A field that every request must have, with this very value. See [`required_header`].
    pub required: Option<(HeaderName, HeaderValue)>,
}

/// The required value may be a secret.
impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Config")
            .field("hosts", &self.hosts)
            .field("origins", &self.origins)
            .field("required", &self.required.as_ref().map(|(name, _)| name))
            .finish()
    }
}

/// Reads an entry of `hosts`: a name or an address, with or without a port.
///
/// # Errors
/// What is wrong with it, and what to write.
pub fn host(text: &str) -> Result<String, String> {
    let wrong = |why: &str| Err(format!("`{text}` {why}: write a host as clients do, NAME or NAME:PORT"));
    if text.contains("://") {
        return wrong("is a URL");
    }
    let text = text.to_ascii_lowercase();
    let (name, port) = match split(text.as_bytes()) {
        Ok(parts) => parts,
        Err(why) => return wrong(why),
    };
    let name = match name.strip_prefix('[').and_then(|name| name.strip_suffix(']')) {
        Some(address) => match address.parse::<Ipv6Addr>() {
            Ok(address) if address.to_ipv4_mapped().is_some() => return wrong("is an IPv4 address as IPv6"),
            Ok(address) if address.is_unspecified() => return wrong("stands for every address, not for one"),
            Ok(address) => format!("[{address}]"),
            Err(_) => return wrong("is no IPv6 address"),
        },
        None if name.parse::<Ipv4Addr>().is_ok_and(|address| address.is_unspecified()) => {
            return wrong("stands for every address, not for one");
        }
        None => match name.strip_suffix('.').unwrap_or(name) {
            name if is_name(name) => name.to_owned(),
            _ => return wrong("is neither a name nor an address"),
        },
    };
    Ok(match port {
        Some(port) => format!("{name}:{port}"),
        None => name,
    })
}

/// Reads an entry of `origins`, as browsers send it: scheme and host, and a port unless it is the
/// scheme's own.
///
/// # Errors
/// What is wrong with it, and what to write.
pub fn origin(text: &str) -> Result<String, String> {
    let wrong = |why: &str| {
        Err(format!("`{text}` {why}: write an origin as browsers send it, such as https://dashboard.example"))
    };
    if text.eq_ignore_ascii_case("null") {
        return wrong("is what any page can make a browser send");
    }
    let Some((scheme, rest)) = text.split_once("://") else { return wrong("has no scheme") };
    if scheme.is_empty() || !scheme.bytes().all(|b| b.is_ascii_alphanumeric() || b"+-.".contains(&b)) {
        return wrong("has no scheme");
    }
    if rest.contains('/') {
        return wrong("has a path, which no origin has");
    }
    if text.bytes().any(|byte| byte.is_ascii_uppercase()) {
        return wrong("has capitals, which no browser sends");
    }
    match split(rest.as_bytes()) {
        Ok((name, _)) if !name.starts_with('[') && !is_name(name) => wrong("names no host"),
        Ok((_, port)) => match (scheme, port) {
            ("http", Some(80)) | ("https", Some(443)) => wrong("names the port that browsers leave out"),
            _ => Ok(text.to_owned()),
        },
        Err(why) => wrong(why),
    }
}

/// Reads `required_header`: `Name: value`.
///
/// # Errors
/// What is wrong with it, without the value, which may be a secret.
pub fn required_header(text: &str) -> Result<(HeaderName, HeaderValue), String> {
    let Some((name, value)) = text.split_once(':') else {
        return Err("there is no colon: write it as a header, \"X-Keyway: value\"".to_owned());
    };
    let Ok(name) = HeaderName::from_bytes(name.trim().as_bytes()) else {
        return Err("what stands before the colon is no header's name: write \"X-Keyway: value\"".to_owned());
    };
    let value = value.trim();
    let visible = !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_graphic() || byte == b' ');
    let Some(mut value) = HeaderValue::from_str(value).ok().filter(|_| visible) else {
        return Err(format!("the value of {name} is empty or not ASCII: write \"{name}: value\""));
    };
    value.set_sensitive(true);
    match name.as_str() {
        "host" | "content-length" | "transfer-encoding" | "connection" | "keep-alive" | "te" | "trailer"
        | "upgrade" | "expect" | "origin" => {
            Err(format!("{name} has a meaning of its own: choose another name, such as X-Keyway"))
        }
        // What a page may send unasked keeps no page out (fetch.spec.whatwg.org, safelisted and
        // forbidden request headers).
        "accept" | "accept-language" | "accept-encoding" | "content-language" | "content-type" | "range"
        | "cookie" | "user-agent" | "referer" | "date" | "via" | "dnt" => {
            Err(format!("browsers send {name} for any page: choose another name, such as X-Keyway"))
        }
        other if other.starts_with("sec-") || other.starts_with("proxy-") => {
            Err(format!("browsers send {name} for any page: choose another name, such as X-Keyway"))
        }
        _ => Ok((name, value)),
    }
}

/// Why a request does not come in. What the client sent is not repeated.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Not exactly one host (RFC 9112, section 3.2).
    #[error("the request's Host {0}; send one Host, NAME or NAME:PORT")]
    Host(&'static str),
    /// An absolute target of another origin.
    #[error("the request's target must be a path, or a URL of this listener")]
    Target,
    /// A host that this listener does not have.
    #[error(
        "the request's Host is none of this listener's; use the address that keyway shows, or add the name to \
         `hosts` of the listener in keyway.toml"
    )]
    ForeignHost,
    /// A web page sent it.
    #[error(
        "the request comes from a web page of another origin; if that page may use this cloud, add its origin \
         to `origins` of the listener in keyway.toml"
    )]
    CrossOrigin,
    /// The required field is missing or wrong.
    #[error("this listener serves only requests with the right {name}; send it as keyway.toml has it")]
    HeaderRequired {
        /// The field's name.
        name: HeaderName,
    },
}

impl Refusal {
    /// The status the client sees.
    pub fn status(&self) -> StatusCode {
        match self {
            Self::Host(_) | Self::Target => StatusCode::BAD_REQUEST,
            Self::ForeignHost => StatusCode::MISDIRECTED_REQUEST,
            Self::CrossOrigin | Self::HeaderRequired { .. } => StatusCode::FORBIDDEN,
        }
    }

    /// One of a fixed set, see [`crate::error::Reason`].
    pub(crate) fn reason(&self) -> &'static str {
        match self {
            Self::Host(_) | Self::Target => "bad_request",
            Self::ForeignHost => "foreign_host",
            Self::CrossOrigin => "cross_origin",
            Self::HeaderRequired { .. } => "header_required",
        }
    }
}

/// What one listener lets in, ready to be asked.
#[derive(Clone, Debug)]
pub struct Entry {
    /// What nearly every client sends, the most usual first: then one comparison is all.
    usual: Vec<Box<[u8]>>,
    /// The address that the listener is bound to; none for a socket file, or for all addresses.
    address: Option<IpAddr>,
    /// The listener's port; none for a socket file, where a port means nothing.
    port: Option<u16>,
    scheme: &'static str,
    config: Config,
}

impl Entry {
    /// For a listener that is bound to `address`, with its real port.
    pub fn new(config: &Config, address: &Address, tls: bool) -> Self {
        let tcp = address.tcp();
        let own = tcp.filter(|own| !own.ip().is_unspecified());
        // What `host` can't read, it has refused when the configuration was checked.
        let hosts: Vec<String> = config.hosts.iter().filter_map(|text| host(text).ok()).collect();
        let mut usual: Vec<String> = own.iter().map(ToString::to_string).collect();
        match tcp {
            Some(tcp) => {
                usual.push(format!("localhost:{}", tcp.port()));
                let portless = hosts.iter().filter(|host| matches!(split(host.as_bytes()), Ok((_, None))));
                usual.extend(portless.map(|host| format!("{host}:{}", tcp.port())));
            }
            None => usual.push("localhost".to_owned()),
        }
        usual.extend(hosts.iter().cloned());
        // What such a host stands for is looked at with every request.
        usual.retain(|host| split(host.as_bytes()).is_ok_and(|(name, _)| below_localhost(name).is_none()));
        Self {
            usual: usual.into_iter().map(|host| host.into_bytes().into()).collect(),
            address: own.map(|own| own.ip()),
            port: tcp.map(|tcp| tcp.port()),
            scheme: if tls { "https" } else { "http" },
            config: Config { hosts, ..config.clone() },
        }
    }

    /// The field that a request must have and no service gets.
    pub fn required(&self) -> Option<&HeaderName> {
        self.config.required.as_ref().map(|(name, _)| name)
    }

    /// Lets a request in, or says why not. `compute.lab` is the answer where the client asked for
    /// `compute.lab.localhost`, as it wrote it.
    ///
    /// # Errors
    /// See [`Refusal`].
    pub fn check<'p>(&self, parts: &'p Parts, fields: &Fields) -> Result<Option<&'p str>, Refusal> {
        let host = parts.headers.get(header::HOST).map(HeaderValue::as_bytes);
        let target = parts.uri.authority().map(|authority| authority.as_str().as_bytes());
        let authority = match (host, target) {
            _ if fields.hosts > 1 => return Err(Refusal::Host("came more than once")),
            (Some(host), None) => host,
            (Some(host), Some(target)) if host.eq_ignore_ascii_case(target) => host,
            (Some(_), Some(_)) => return Err(Refusal::Host("is not the one of its target")),
            // HTTP/2 has `:authority` for it.
            (None, Some(target)) if parts.version >= Version::HTTP_2 => target,
            (None, _) => return Err(Refusal::Host("is missing")),
        };
        let below = match self.usual.iter().any(|usual| **usual == *authority) {
            true => None,
            false => self.check_host(authority)?,
        };
        // In HTTP/2 every request has a scheme, which a client behind a terminator of TLS can't know.
        if parts.version < Version::HTTP_2
            && parts.uri.scheme_str().is_some_and(|scheme| !scheme.eq_ignore_ascii_case(self.scheme))
        {
            return Err(Refusal::Target);
        }
        if fields.browser {
            self.check_page(&parts.headers)?;
        }
        match &self.config.required {
            Some((name, value)) if !is_only(&parts.headers, name, value) => {
                Err(Refusal::HeaderRequired { name: name.clone() })
            }
            _ => Ok(below),
        }
    }

    /// Whether this is one of the listener's hosts.
    pub fn has(&self, authority: &str) -> bool {
        self.check_host(authority.as_bytes()).is_ok()
    }

    /// Any spelling of a host, other than the usual ones; what it has below `localhost`.
    #[cold]
    fn check_host<'h>(&self, authority: &'h [u8]) -> Result<Option<&'h str>, Refusal> {
        let (host, port) = split(authority).map_err(Refusal::Host)?;
        let own_port = match (self.port, port) {
            (Some(own), Some(port)) => own == port,
            _ => true,
        };
        let is_own = |address: IpAddr| address.is_loopback() || Some(address) == self.address;
        let address = match host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
            Some(inner) => inner.parse::<Ipv6Addr>().ok().map(IpAddr::from),
            // Four decimal numbers, as std reads it: neither octal nor short forms.
            None => host.parse::<Ipv4Addr>().ok().map(IpAddr::from),
        };
        let name = match address {
            Some(IpAddr::V6(address)) => format!("[{address}]"),
            Some(IpAddr::V4(address)) => address.to_string(),
            None => host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase(),
        };
        let below = below_localhost(host);
        if own_port && (address.is_some_and(is_own) || name == "localhost" || below.is_some()) {
            return Ok(below);
        }
        let configured = self.config.hosts.iter().any(|allowed| match allowed.rsplit_once(':') {
            Some((allowed, its_port)) if !its_port.ends_with(']') => {
                name == allowed && port.is_some_and(|port| its_port.parse() == Ok(port))
            }
            _ => name == *allowed && own_port,
        });
        if configured { Ok(below) } else { Err(Refusal::ForeignHost) }
    }

    /// A request with `Origin` or `Sec-Fetch-Site`, which browsers send for pages.
    #[cold]
    fn check_page(&self, headers: &HeaderMap) -> Result<(), Refusal> {
        let mut origins = headers.get_all(header::ORIGIN).iter();
        match (origins.next(), origins.next()) {
            (Some(only), None) => {
                let listed = self.config.origins.iter().any(|listed| listed.as_bytes() == only.as_bytes());
                return if listed { Ok(()) } else { Err(Refusal::CrossOrigin) };
            }
            (Some(_), Some(_)) => return Err(Refusal::CrossOrigin),
            (None, _) => {}
        }
        // `none` is the user's own doing: the address bar, a bookmark.
        let unasked = |site: &HeaderValue| !matches!(site.as_bytes(), b"none" | b"same-origin");
        if headers.get_all(&SEC_FETCH_SITE).iter().any(unasked) {
            return Err(Refusal::CrossOrigin);
        }
        Ok(())
    }
}

/// Whether a field is there once, with this value. The time that it takes tells nothing of the value.
fn is_only(headers: &HeaderMap, name: &HeaderName, value: &HeaderValue) -> bool {
    let mut values = headers.get_all(name).iter();
    let (Some(got), None) = (values.next(), values.next()) else { return false };
    let (got, value) = (got.as_bytes(), value.as_bytes());
    let differing =
        got.iter().zip(value).fold(0, |differing, (a, b)| std::hint::black_box(differing | (a ^ b)));
    got.len() == value.len() && differing == 0
}

/// `compute.lab` of `compute.lab.localhost` (RFC 6761, section 6.3), in any case and with or without a
/// dot at its end.
pub fn below_localhost(host: &str) -> Option<&str> {
    let host = host.strip_suffix('.').unwrap_or(host);
    let (below, name) = host.split_at_checked(host.len().checked_sub(".localhost".len())?)?;
    (name.eq_ignore_ascii_case(".localhost") && is_name(below)).then_some(below)
}

/// Labels with dots between them.
fn is_name(name: &str) -> bool {
    name.split('.').all(|label| {
        !label.is_empty()
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
    })
}

/// An authority as host, which has brackets if it had, and port.
///
/// # Errors
/// What is wrong with it.
pub fn split(authority: &[u8]) -> Result<(&str, Option<u16>), &'static str> {
    let text = std::str::from_utf8(authority).map_err(|_| "is not ASCII")?;
    if text.is_empty() {
        return Err("is empty");
    }
    if !text.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err("is not one host");
    }
    if text.contains('@') {
        return Err("has a user name");
    }
    if text.contains(['/', '\\', '?', '#']) {
        return Err("has a path");
    }
    if text.contains([',', ';', '"', '<', '>', '^', '`', '{', '|', '}']) {
        return Err("is not one host");
    }
    let end = if text.starts_with('[') {
        text.find(']').map(|end| end + 1).ok_or("has a bracket that does not close")?
    } else {
        text.find(':').unwrap_or(text.len())
    };
    let (host, rest) = text.split_at(end);
    if host.is_empty() || host == "[]" {
        return Err("is empty");
    }
    if host[1..].contains('[') || (!host.starts_with('[') && host.contains(']')) {
        return Err("is not one host");
    }
    match rest.strip_prefix(':') {
        None if rest.is_empty() => Ok((host, None)),
        None => Err("has something after its bracket"),
        Some(port) if port.contains(':') => Err("is an IPv6 address without brackets"),
        Some(port) => {
            let written = !port.starts_with('0') && port.bytes().all(|byte| byte.is_ascii_digit());
            match port.parse::<u16>() {
                Ok(port) if written => Ok((host, Some(port))),
                _ => Err("has a port that is none"),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use http::Request;
    use proptest::prelude::*;

    use super::*;

    fn entry(address: &str, config: Config) -> Entry {
        Entry::new(&config, &address.parse().unwrap(), false)
    }

    fn ask(entry: &Entry, headers: &[(&str, &str)]) -> Result<(), Refusal> {
        let mut request = Request::builder().uri("/compute/servers");
        for (name, value) in headers {
            request = request.header(*name, HeaderValue::from_bytes(value.as_bytes()).unwrap());
        }
        let (parts, ()) = request.body(()).unwrap().into_parts();
        entry.check(&parts, &Fields::of(&parts.headers)).map(drop)
    }

    /// Which of these hosts pass: those that pass, in order.
    #[track_caller]
    fn check_hosts(entry: &Entry, pass: &[&str], foreign: &[&str], bad: &[&str]) {
        for host in pass {
            assert_eq!(ask(entry, &[("host", host)]), Ok(()), "{host}");
        }
        for host in foreign {
            assert_eq!(ask(entry, &[("host", host)]), Err(Refusal::ForeignHost), "{host}");
        }
        for host in bad {
            assert!(matches!(ask(entry, &[("host", host)]), Err(Refusal::Host(_))), "{host}");
        }
    }

    // Promises 2, 3, 16.
    #[test]
    fn loopback_has_many_spellings_and_nobody_else_has_them() {
        check_hosts(
            &entry("127.0.0.1:8180", Config::default()),
            &[
                "127.0.0.1:8180",
                "127.0.0.1",
                "localhost",
                "localhost:8180",
                "LocalHost",
                "localhost.",
                "localhost.:8180",
                "compute.localhost",
                "compute.lab.localhost:8180",
                "a_b.localhost.",
                "127.0.0.2",
                "127.255.255.254:8180",
                "[::1]",
                "[::1]:8180",
                "[0:0:0:0:0:0:0:1]",
                "[0000:0000:0000:0000:0000:0000:0000:0001]:8180",
                "[::0.0.0.1]",
            ],
            &[
                "localhost:8181",
                "127.0.0.1:80",
                "rebind.example",
                "rebind.example:8180",
                "127.0.0.1.rebind.example",
                "localhost.rebind.example",
                "evil-localhost",
                "evillocalhost",
                "localhost..",
                ".localhost",
                "a..localhost",
                "0.0.0.0",
                "0.0.0.0:8180",
                "0",
                "2130706433",
                "0x7f000001",
                "017700000001",
                "0177.0.0.1",
                "0x7f.0.0.1",
                "127.1",
                "127.0.1",
                "127.0.0.01",
                "127.0.0.1.",
                "[::ffff:127.0.0.1]",
                "[::ffff:7f00:1]",
                "[::127.0.0.1]",
                "[::]",
                "[::1%lo]",
                "[::1%25lo]",
                "[fe80::1%25eth0]",
                "[::2]",
                "192.0.2.7",
                "%6cocalhost",
                "localhost%2e",
                "[localhost]",
                "[127.0.0.1]",
                "localhost!",
                "*.localhost",
                "*",
            ],
            &[
                "",
                " ",
                "localhost, localhost",
                "localhost,rebind.example",
                "user@localhost",
                "user:password@localhost:8180",
                "localhost/",
                "localhost/path",
                "http://localhost",
                "localhost\\",
                "localhost?",
                "localhost#",
                "localhost:",
                "localhost:0",
                "localhost:08180",
                "localhost:+8180",
                "localhost:65536",
                "localhost:99999999999",
                "localhost:81 80",
                "localhost:8180:8180",
                "localhost:http",
                "::1",
                "::1:8180",
                "[::1",
                "[::1]8180",
                "[::1]:",
                "[]",
                "[]:8180",
                ":8180",
                ":",
                "local host",
                "localhost\t8180",
                "loc\u{e4}lhost",
                "[::1]]",
                "a[::1]",
            ],
        );
    }

    // Promise 2.
    #[test]
    fn a_listener_has_its_own_address_and_the_configured_names() {
        let hosts = ["keyway.example", "other.example:8443", "192.0.2.9", "[2001:db8::9]:9000"];
        let hosts = hosts.map(|text| host(text).unwrap()).to_vec();
        let config = Config { hosts, ..Config::default() };
        check_hosts(
            &entry("192.0.2.7:8180", config.clone()),
            &[
                "192.0.2.7:8180",
                "192.0.2.7",
                "keyway.example",
                "KEYWAY.example.:8180",
                "other.example:8443",
                "192.0.2.9",
                "[2001:db8:0::9]:9000",
                "localhost",
            ],
            &[
                "192.0.2.8",
                "192.0.2.7:80",
                "keyway.example:80",
                "other.example",
                "other.example:8180",
                "[2001:db8::9]",
                "a.keyway.example",
                "[::ffff:192.0.2.7]",
            ],
            &[],
        );
        check_hosts(
            &entry("[2001:db8::7]:8180", config),
            &["[2001:db8::7]:8180", "[2001:DB8:0:0::7]"],
            &["[2001:db8::8]"],
            &["2001:db8::7"],
        );
        // An address that stands for all is no host.
        check_hosts(
            &entry("0.0.0.0:8180", Config::default()),
            &["localhost:8180", "127.0.0.1"],
            &["0.0.0.0:8180", "0.0.0.0", "192.0.2.7"],
            &[],
        );
        check_hosts(&entry("[::]:8180", Config::default()), &["[::1]:8180"], &["[::]:8180", "[::]"], &[]);
    }

    // Promises 2, 3.
    #[test]
    fn a_socket_file_has_no_port() {
        check_hosts(
            &entry("unix:/run/keyway.sock", Config::default()),
            &["localhost", "localhost:80", "localhost:8180", "127.0.0.1:1"],
            &["rebind.example", "0.0.0.0", "%2Frun%2Fkeyway.sock"],
            &["", "/run/keyway.sock"],
        );
    }

    #[test]
    fn what_stands_below_localhost_is_told() {
        let hosts = vec!["image.localhost".to_owned(), "localhost.example".to_owned()];
        let entry = entry("127.0.0.1:8180", Config { hosts, ..Config::default() });
        for (host, below) in [
            ("compute.localhost", Some("compute")),
            ("compute.localhost:8180", Some("compute")),
            ("Compute.LAB.LocalHost.:8180", Some("Compute.LAB")),
            ("image.localhost:8180", Some("image")),
            ("localhost:8180", None),
            ("localhost.", None),
            ("127.0.0.1:8180", None),
            ("localhost.example", None),
        ] {
            let request = Request::builder().uri("/").header("host", host);
            let (parts, ()) = request.body(()).unwrap().into_parts();
            assert_eq!(entry.check(&parts, &Fields::of(&parts.headers)), Ok(below), "{host}");
            assert!(entry.has(host), "{host}");
        }
        assert!(!entry.has("compute.localhost:8181") && !entry.has("elsewhere.example"));
    }

    // Promises 3, 19.
    #[test]
    fn there_is_one_host_and_it_is_the_targets() {
        let entry = entry("127.0.0.1:8180", Config::default());
        assert_eq!(ask(&entry, &[]), Err(Refusal::Host("is missing")));
        let twice = [("host", "localhost"), ("host", "localhost")];
        assert_eq!(ask(&entry, &twice), Err(Refusal::Host("came more than once")));
        let check = |version, target: &str, host: Option<&str>| {
            let mut request = Request::builder().version(version).uri(target);
            if let Some(host) = host {
                request = request.header("host", host);
            }
            let (parts, ()) = request.body(()).unwrap().into_parts();
            entry.check(&parts, &Fields::of(&parts.headers)).map(drop)
        };
        for (target, host, outcome) in [
            ("http://localhost:8180/a", Some("localhost:8180"), Ok(())),
            ("http://LOCALHOST:8180/a", Some("localhost:8180"), Ok(())),
            ("http://localhost:8180/a", Some("localhost"), Err(())),
            ("http://rebind.example/a", Some("localhost"), Err(())),
            ("http://localhost/a", Some("rebind.example"), Err(())),
            ("http://rebind.example/a", Some("rebind.example"), Err(())),
            ("http://user@localhost/a", Some("localhost"), Err(())),
            ("http://user@localhost/a", Some("user@localhost"), Err(())),
            ("https://localhost/a", Some("localhost"), Err(())),
            ("http://localhost/a", None, Err(())),
        ] {
            let got = check(Version::HTTP_11, target, host);
            assert_eq!(got.clone().map_err(drop), outcome, "{target} {host:?} {got:?}");
        }
        for (target, host, outcome) in [
            ("http://localhost:8180/a", None, Ok(())),
            ("https://localhost:8180/a", Some("localhost:8180"), Ok(())),
            ("http://localhost:8180/a", Some("rebind.example"), Err(())),
            ("http://rebind.example/a", None, Err(())),
            ("http://user@localhost/a", None, Err(())),
            ("/a", Some("localhost"), Ok(())),
            ("/a", None, Err(())),
        ] {
            let got = check(Version::HTTP_2, target, host);
            assert_eq!(got.clone().map_err(drop), outcome, "h2 {target} {host:?} {got:?}");
        }
    }

    // Promises 4, 5.
    #[test]
    fn pages_stay_out_unless_their_origin_is_listed() {
        let closed = entry("127.0.0.1:8180", Config::default());
        let listed = Config { origins: vec!["https://dashboard.example".to_owned()], ..Config::default() };
        let open = entry("127.0.0.1:8180", listed);
        let check = |fields: &[(&'static str, &'static str)], through_closed: bool, through_open: bool| {
            let fields = [&[("host", "localhost")], fields].concat();
            assert_eq!(ask(&closed, &fields).is_ok(), through_closed, "{fields:?}");
            assert_eq!(ask(&open, &fields).is_ok(), through_open, "{fields:?}");
        };
        check(&[("origin", "https://dashboard.example")], false, true);
        check(&[("origin", "https://dashboard.example"), ("sec-fetch-site", "cross-site")], false, true);
        for origin in [
            "null",
            "",
            "file://",
            "http://localhost:8180",
            "http://127.0.0.1:8180",
            "http://localhost:3000",
            "chrome-extension://abc",
            "http://dashboard.example",
            "https://dashboard.example:443",
            "https://dashboard.example.evil",
            "https://DASHBOARD.example",
            "https://dashboard.example/",
            "https://dashboard.example, https://evil.example",
        ] {
            check(&[("origin", origin)], false, false);
            check(&[("origin", origin), ("sec-fetch-site", "same-origin")], false, false);
        }
        check(&[("origin", "https://dashboard.example"), ("origin", "null")], false, false);
        for site in ["none", "same-origin"] {
            check(&[("sec-fetch-site", site)], true, true);
        }
        for site in ["cross-site", "same-site", "", "None", "none, cross-site", "unknown"] {
            check(&[("sec-fetch-site", site)], false, false);
            check(&[("sec-fetch-site", "none"), ("sec-fetch-site", site)], false, false);
        }
    }

    // Promise 6.
    #[test]
    fn the_required_field_must_be_there_once_with_its_value() {
        let required = required_header("X-Keyway: open sesame").unwrap();
        let entry = entry("127.0.0.1:8180", Config { required: Some(required), ..Config::default() });
        let host = ("host", "localhost");
        assert_eq!(ask(&entry, &[host, ("x-keyway", "open sesame")]), Ok(()));
        for wrong in ["", "open", "open sesamE", "open sesame ", "Open sesame", "open sesame1"] {
            let refused = ask(&entry, &[host, ("x-keyway", wrong)]).unwrap_err();
            assert_eq!(refused.reason(), "header_required", "{wrong}");
            assert!(refused.to_string().contains("x-keyway") && !refused.to_string().contains("sesame"));
        }
        assert!(ask(&entry, &[host]).is_err());
        assert!(ask(&entry, &[host, ("x_keyway", "open sesame")]).is_err());
        assert!(ask(&entry, &[host, ("x-keyway", "open sesame"), ("x-keyway", "open sesame")]).is_err());
        assert!(!format!("{entry:?}").contains("sesame"));
    }

    #[test]
    fn what_the_operator_wrote_is_checked() {
        for (text, read) in [
            ("Keyway.Example", "keyway.example"),
            ("keyway.example.", "keyway.example"),
            ("keyway.example:8443", "keyway.example:8443"),
            ("[2001:DB8:0::1]:80", "[2001:db8::1]:80"),
            ("192.0.2.7", "192.0.2.7"),
        ] {
            assert_eq!(host(text).as_deref(), Ok(read));
        }
        for text in [
            "",
            "http://keyway.example",
            "keyway.example/",
            "*",
            "*.example",
            "a b",
            "[::ffff:127.0.0.1]",
            "0.0.0.0",
            "[::]",
            "[x]",
            "keyway.example:",
            "keyway.example:0",
            "user@keyway.example",
            "::1",
        ] {
            let message = host(text).unwrap_err();
            assert!(message.contains("NAME:PORT"), "{message}");
        }
        for text in
            ["https://dashboard.example", "http://127.0.0.1:3000", "chrome-extension://abc", "http://[::1]:1"]
        {
            assert_eq!(origin(text).as_deref(), Ok(text));
        }
        for text in [
            "",
            "null",
            "*",
            "dashboard.example",
            "https://Dashboard.example",
            "https://dashboard.example/",
            "https://dashboard.example:443",
            "http://dashboard.example:80",
            "https://",
            "https://*.example",
            "://a",
        ] {
            let message = origin(text).unwrap_err();
            assert!(message.contains("https://dashboard.example"), "{message}");
        }
        let (name, value) = required_header("X-Keyway:  a b ").unwrap();
        assert_eq!((name.as_str(), value.to_str().unwrap()), ("x-keyway", "a b"));
        for text in [
            "X-Keyway",
            "X-Keyway:",
            "X Keyway: hidden",
            ": hidden",
            "Host: hidden",
            "Cookie: hidden",
            "Content-Type: hidden",
            "Sec-Fetch-Site: hidden",
            "Connection: hidden",
            "X-Keyway: hidden\u{e4}",
            "X-Keyway: hidden\nX-More: 1",
        ] {
            let message = required_header(text).unwrap_err();
            assert!(!message.contains("hidden"), "{message}");
        }
    }

    proptest! {
        // Promises 2, 16.
        #[test]
        fn only_what_resolves_to_loopback_everywhere_passes(host in "[a-z0-9.:\\[\\]%x-]{0,24}") {
            let entry = entry("127.0.0.1:8180", Config::default());
            if ask(&entry, &[("host", &host)]).is_ok() {
                let name = host.strip_suffix(":8180").unwrap_or(&host);
                let inner = name.trim_start_matches('[').trim_end_matches(']');
                let loopback = inner.parse::<IpAddr>().is_ok_and(|address| address.is_loopback());
                let name = name.trim_end_matches('.');
                prop_assert!(loopback || name == "localhost" || name.ends_with(".localhost"));
            }
        }
    }
}
