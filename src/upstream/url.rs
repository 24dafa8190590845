//! Where does a request go? Origins and base URLs, checked once.

use std::fmt;

use http::{HeaderValue, Uri};

/// `http` or `https`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Scheme {
    /// Plain TCP.
    Http,
    /// TLS.
    Https,
}

impl Scheme {
    /// The scheme as it is written in a URL.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
        }
    }

    /// The scheme that a URL has, in small or capital letters.
    pub fn parse(text: &str) -> Option<Self> {
        [Self::Http, Self::Https].into_iter().find(|scheme| text.eq_ignore_ascii_case(scheme.as_str()))
    }

    /// The port of a URL that names none.
    pub fn default_port(self) -> u16 {
        match self {
            Self::Http => 80,
            Self::Https => 443,
        }
    }
}

/// Scheme, host and port (RFC 9110, section 4.3.1), the host in lower case, without brackets.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Origin {
    scheme: Scheme,
    host: String,
    port: u16,
    authority: HeaderValue,
}

impl Origin {
    /// Plain or TLS.
    pub fn scheme(&self) -> Scheme {
        self.scheme
    }

    /// A name or an address; an IPv6 address has no brackets.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The port, the scheme's default where the URL named none.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The port is the one that its scheme has unless a URL names another.
    pub fn has_default_port(&self) -> bool {
        self.port == self.scheme.default_port()
    }

    /// `host` or `host:port` as a `Host` header has it: a default port is left out.
    pub fn authority(&self) -> &HeaderValue {
        &self.authority
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let authority = self.authority.to_str().expect("an authority is ASCII");
        write!(f, "{}://{authority}", self.scheme.as_str())
    }
}

impl fmt::Debug for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// An origin and a path prefix: a catalog URL, or `auth_url`. The path never ends in `/`, so that
/// an absolute path can be appended to it; the root is the empty string.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct BaseUrl {
    origin: Origin,
    path: String,
}

/// Why a text is no base URL.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UrlError {
    /// Not a URL at all, or a relative one.
    #[error("not an absolute URL")]
    NotAUrl,
    /// Neither http nor https.
    #[error("the scheme must be http or https")]
    Scheme,
    /// `user:password@host`.
    #[error("it must not hold a user name or password")]
    UserInfo,
    /// `?...` or `#...`.
    #[error("it must not have a query or a fragment")]
    Query,
    /// `..` in the path.
    #[error("it must not have dot segments in its path")]
    DotSegments,
}

impl BaseUrl {
    /// Reads a URL.
    ///
    /// # Errors
    /// What [`UrlError`] lists: such a URL is not something that a token may be sent to.
    pub fn parse(text: &str) -> Result<Self, UrlError> {
        let text = text.trim();
        if text.contains('#') {
            return Err(UrlError::Query);
        }
        let uri: Uri = text.parse().map_err(|_| UrlError::NotAUrl)?;
        let scheme = match uri.scheme_str() {
            Some("http") => Scheme::Http,
            Some("https") => Scheme::Https,
            Some(_) => return Err(UrlError::Scheme),
            None => return Err(UrlError::NotAUrl),
        };
        let authority = uri.authority().ok_or(UrlError::NotAUrl)?;
        if authority.as_str().contains('@') {
            return Err(UrlError::UserInfo);
        }
        if uri.query().is_some() {
            return Err(UrlError::Query);
        }
        let host = authority.host().to_ascii_lowercase();
        let port = match authority.as_str().strip_prefix(authority.host()) {
            Some("" | ":") => scheme.default_port(),
            Some(_) => authority.port_u16().filter(|port| *port != 0).ok_or(UrlError::NotAUrl)?,
            None => return Err(UrlError::NotAUrl),
        };
        if host.is_empty() {
            return Err(UrlError::NotAUrl);
        }
        let path = uri.path().trim_end_matches('/');
        if path.split('/').any(|segment| matches!(segment, "." | "..")) {
            return Err(UrlError::DotSegments);
        }
        let written = if port == scheme.default_port() { host.clone() } else { format!("{host}:{port}") };
        let authority = HeaderValue::try_from(written).map_err(|_| UrlError::NotAUrl)?;
        let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        Ok(Self { origin: Origin { scheme, host, port, authority }, path: path.to_owned() })
    }

    /// Scheme, host and port.
    pub fn origin(&self) -> &Origin {
        &self.origin
    }

    /// The path without a trailing `/`; empty for the root.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// The same origin with another path. `path` starts with `/` or is empty.
    #[must_use]
    pub fn with_path(&self, path: &str) -> Self {
        Self { origin: self.origin.clone(), path: path.trim_end_matches('/').to_owned() }
    }
}

impl fmt::Display for BaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.origin, self.path)
    }
}

impl fmt::Debug for BaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, shown: &str) {
        assert_eq!(BaseUrl::parse(text).expect(text).to_string(), shown);
    }

    #[test]
    fn a_base_url_is_normalized_but_for_its_path() {
        check("http://Cloud.example:8774/v2.1", "http://cloud.example:8774/v2.1");
        check("https://cloud.example:443/compute/v2.1/", "https://cloud.example/compute/v2.1");
        check(" http://127.0.0.1:9696/ ", "http://127.0.0.1:9696");
        check("http://[::1]:5000/v3", "http://[::1]:5000/v3");
        assert_eq!(BaseUrl::parse("http://[::1]:5000").unwrap().origin().host(), "::1");
        assert_eq!(BaseUrl::parse("http://h:").unwrap().origin().port(), 80);
    }

    #[test]
    fn what_is_no_base_url_says_why() {
        for (text, error) in [
            ("", UrlError::NotAUrl),
            ("cloud.example", UrlError::NotAUrl),
            ("/v3", UrlError::NotAUrl),
            ("http://", UrlError::NotAUrl),
            ("http://h:99999/", UrlError::NotAUrl),
            ("http://h:0/", UrlError::NotAUrl),
            ("ftp://h/", UrlError::Scheme),
            ("http://u:p@h/", UrlError::UserInfo),
            ("http://h/?a=b", UrlError::Query),
            ("http://h/#x", UrlError::Query),
            ("http://h/v3/../admin", UrlError::DotSegments),
            ("http://h/a b", UrlError::NotAUrl),
        ] {
            assert_eq!(BaseUrl::parse(text).unwrap_err(), error, "{text}");
        }
    }
}
