//! Where do the links in a service's answer lie at keyway?
//!
//! A service writes its own address, or what it takes for it, into `Location`, `Content-Location` and
//! `Link`, and into the JSON that it answers with ([`json`] tells which strings count). A client that
//! followed it would leave keyway, and with it the token. So a reference to an origin of the catalog is
//! written as this client has to ask keyway for it: below the address that the request itself had, if
//! asking for that leads to the very same target, else below `/origin/`. Anything else is none of
//! keyway's business and stays as it is, byte for byte.
//!
//! What is forgiven: behind something that ends TLS, services write `http://` for `https://`, with the
//! port of either. Version documents are often wrong about the host as well: clients take only the
//! version from their `self` links, and so does keyway.

mod header;
pub mod json;

use http::header::{
    ACCEPT_RANGES, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_LOCATION, CONTENT_RANGE, CONTENT_TYPE, ETAG,
    HeaderMap, HeaderName, HeaderValue, LINK, LOCATION,
};
use http::{Response, StatusCode};

use self::json::Found;
use super::origins::{Origins, Place};
use super::rewrite::{self, Base};
use crate::route::{self, Form, Route};
use crate::upstream::{BaseUrl, Scheme};

/// How the client reached keyway.
#[derive(Clone, Copy, Debug)]
pub struct Here<'a> {
    /// The listener's scheme.
    pub scheme: Scheme,
    /// The `Host` that the client used. Without one, references become relative.
    pub authority: Option<&'a str>,
    /// The path that stands for the endpoint: `/compute`.
    pub prefix: &'a str,
    /// What follows the endpoint's place in a path.
    pub form: Form,
    /// What the request had there.
    pub rest: &'a str,
    /// Where `/origin/` is for a client that came by an address of one service only:
    /// `http://localhost:8180`. `None` if it does not reach it.
    pub ordinary: Option<&'a str>,
    /// Links in bodies that begin with `/` get the prefix too. Clients that logged in here put the
    /// endpoint's URL in front of them by themselves.
    pub rooted: bool,
}

/// Where an answer comes from.
#[derive(Clone, Copy, Debug)]
pub struct There<'a> {
    /// The endpoint.
    pub url: &'a BaseUrl,
    /// Its path.
    pub base: &'a Base,
    /// All that its cloud consists of.
    pub origins: &'a Origins,
    /// The path and query that the service was asked for.
    pub target: &'a str,
}

/// Finds out what the references of one answer become.
#[derive(Clone, Copy, Debug)]
pub struct Mapping<'a> {
    /// On the client's side.
    pub here: Here<'a>,
    /// On the service's side.
    pub there: There<'a>,
}

/// Which bodies of a service may hold links.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bodies {
    /// None: they are somebody's data.
    None,
    /// All.
    All,
    /// All but those of paths that hold data.
    NotData,
    /// The same, with the image service's own names for links.
    Image,
}

impl Bodies {
    /// Those of a service, by its official type.
    pub fn of(service: &str) -> Self {
        match service {
            "object-store" => Self::None,
            "image" => Self::Image,
            "key-manager" | "orchestration" => Self::NotData,
            _ => Self::All,
        }
    }

    /// Whether the body of an answer may hold links, by the path and query that were asked for.
    fn may_hold_links(self, target: &str) -> bool {
        match self {
            Self::None => false,
            Self::All => true,
            Self::NotData | Self::Image => {
                let path = target.split('?').next().unwrap_or_default().trim_end_matches('/');
                let last = path.rsplit('/').next().unwrap_or_default();
                !matches!(last, "file" | "stage" | "payload" | "template" | "environment" | "files")
            }
        }
    }
}

/// Maps the fields of an answer, and tells whether its body may hold links: whether it is JSON, all of
/// it, as it is.
pub fn localize<B>(response: &mut Response<B>, bodies: Bodies, mapping: &Mapping<'_>) -> bool {
    let (mut types, mut is_json, mut is_plain) = (0, false, response.status() != StatusCode::PARTIAL_CONTENT);
    for (name, value) in response.headers_mut() {
        // A chain of comparisons of two small numbers each.
        match *name {
            LOCATION | CONTENT_LOCATION | LINK => mapping.field(*name == LINK, value),
            CONTENT_TYPE => {
                types += 1;
                is_json = is_json_type(value.as_bytes());
            }
            CONTENT_ENCODING => is_plain &= value.as_bytes().eq_ignore_ascii_case(b"identity"),
            CONTENT_RANGE => is_plain = false,
            _ => {}
        }
    }
    let may = types == 1 && is_json || response.status() == StatusCode::NOT_MODIFIED;
    may && is_plain && bodies.may_hold_links(mapping.there.target)
}

/// `application/json`, `application/problem+json; charset=utf-8`.
fn is_json_type(value: &[u8]) -> bool {
    if value == b"application/json" {
        return true;
    }
    let mut parts = value.split(|byte| *byte == b';').map(<[u8]>::trim_ascii);
    let Some(subtype) = parts.next().filter(|media_type| media_type.len() > 12).and_then(|media_type| {
        let (prefix, subtype) = media_type.split_at(12);
        prefix.eq_ignore_ascii_case(b"application/").then_some(subtype)
    }) else {
        return false;
    };
    let suffix = subtype.len().checked_sub(5).map(|from| &subtype[from..]);
    let is_json = subtype.eq_ignore_ascii_case(b"json")
        || suffix.is_some_and(|suffix| suffix.eq_ignore_ascii_case(b"+json"));
    is_json
        && parts.all(|parameter| {
            let is_charset = parameter.len() >= 8 && parameter[..8].eq_ignore_ascii_case(b"charset=");
            let charset = || {
                let charset = &parameter[8..];
                charset.strip_prefix(b"\"").and_then(|rest| rest.strip_suffix(b"\"")).unwrap_or(charset)
            };
            !is_charset
                || [&b"utf-8"[..], b"utf8", b"us-ascii"]
                    .iter()
                    .any(|name| charset().eq_ignore_ascii_case(name))
        })
}

/// The body of an answer with its links mapped; `None` where nothing changes.
pub fn document(body: &[u8], bodies: Bodies, mapping: &Mapping<'_>) -> Option<Vec<u8>> {
    json::rewrite(body, bodies == Bodies::Image, |found, text| mapping.link(found, text))
}

/// Whether a body can hold a link to map. Most hold none, and to read one costs a good part of a request.
pub fn may_hold_links(body: &[u8], rooted: bool, there: &There<'_>) -> bool {
    let is_known = |authority: &[u8]| there.origins.may_have(authority) || there.asked_version().is_some();
    json::may_hold_references(body, rooted, is_known)
}

/// Takes back what the fields of an answer, or its trailers, say of its very bytes, which are or may be
/// others now.
pub fn forget_bytes(fields: &mut HeaderMap) {
    static DIGESTS: [HeaderName; 4] = [
        HeaderName::from_static("digest"),
        HeaderName::from_static("content-md5"),
        HeaderName::from_static("content-digest"),
        HeaderName::from_static("repr-digest"),
    ];
    // Parts of the service's bytes are no parts of these.
    for name in DIGESTS.iter().chain([&ACCEPT_RANGES]) {
        fields.remove(name);
    }
    if let Some(tag) = fields.get(ETAG).filter(|tag| !tag.as_bytes().starts_with(b"W/")) {
        match HeaderValue::from_bytes(&[b"W/", tag.as_bytes()].concat()) {
            Ok(weak) => drop(fields.insert(ETAG, weak)),
            Err(_) => drop(fields.remove(ETAG)),
        }
    }
}

/// The same where there is no body to be looked at: a HEAD tells nothing that GET might not tell.
pub fn forget_length(fields: &mut HeaderMap) {
    forget_bytes(fields);
    fields.remove(CONTENT_LENGTH);
}

impl<'a> There<'a> {
    /// The root of the service whose versions were asked for, if they were.
    fn asked_version(&self) -> Option<&'a str> {
        let root = self.base.root();
        // Comparing with what is empty and lies nowhere takes longer than all the rest.
        let asked = if root.is_empty() { self.target } else { self.target.strip_prefix(root)? };
        let asked = asked.strip_prefix('/').unwrap_or(asked);
        let end = asked.bytes().position(|byte| matches!(byte, b'/' | b'?')).unwrap_or(asked.len());
        let (version, rest) = asked.split_at(end);
        let is_all = matches!(rest.as_bytes(), [] | [b'/'] | [b'?', ..] | [b'/', b'?', ..]);
        (is_all && (matches!(version, "" | "versions") || rewrite::is_version(version))).then_some(root)
    }
}

impl Mapping<'_> {
    /// Maps the value of `Location` or `Content-Location`, or the targets in a `Link`.
    fn field(&self, is_link: bool, value: &mut HeaderValue) {
        let mapped = if is_link {
            header::rewrite(value.as_bytes(), |target, text| self.reference(target, text))
        } else {
            value.to_str().ok().and_then(|reference| self.local(reference)).map(String::into_bytes)
        };
        if let Some(mapped) = mapped.and_then(|mapped| HeaderValue::try_from(mapped).ok()) {
            *value = mapped;
        }
    }

    /// A reference (RFC 3986, section 4.1) as the client has to write it; `None` if it stays as it is.
    pub fn local(&self, reference: &str) -> Option<String> {
        let mut text = String::new();
        let replaced = self.reference(reference, &mut text)?;
        text.push_str(&reference[replaced..]);
        Some(text)
    }

    /// Appends what comes into the place of a reference's beginning, and returns that one's length.
    fn reference(&self, reference: &str, text: &mut String) -> Option<usize> {
        let Reference { scheme, authority, rest } = Reference::parse(reference);
        let start = reference.len() - rest.len();
        let path = without_query(rest);
        let place = match authority {
            Some(authority) => self.place(scheme, authority)?,
            None if path.starts_with('/') => self.there.origins.at(self.there.url.origin())?,
            None => return None,
        };
        // What keyway would refuse is no link to it.
        if !route::is_clear(path) {
            return None;
        }
        if place.origin() == self.there.url.origin()
            && let Some(above) = self.above(path)
        {
            self.push_here(text);
            text.push_str(self.prefix());
            return Some(start + above);
        }
        place.entry(path)?;
        match self.here.form {
            Form::Root => text.push_str(self.here.ordinary?),
            Form::Endpoint | Form::Origin => self.push_here(text),
        }
        let [cloud, _region, project] = Route::parse(self.here.prefix).ok()?.selectors_as_written();
        for (name, value) in [("/cloud/", cloud), ("/project/", project)] {
            if let Some(value) = value {
                text.push_str(name);
                text.push_str(value);
            }
        }
        text.push_str("/origin/");
        text.push_str(place.id());
        if path.is_empty() {
            text.push('/');
        }
        Some(start)
    }

    /// The same for a link in a body.
    fn link(&self, found: Found<'_>, text: &mut String) -> Option<usize> {
        let reference = found.reference;
        if reference.starts_with('/') && !reference.starts_with("//") {
            return self.here.rooted.then(|| self.rooted(reference, text))?;
        }
        let before = text.len();
        self.reference(reference, text).or_else(|| {
            text.truncate(before);
            let path = found.is_self.then(|| self.version(reference)).flatten()?;
            text.push_str(&self.local(&path)?);
            Some(reference.len())
        })
    }

    /// The same for a link without a host, as the image service writes it: below its own root, whatever
    /// that is called outside.
    fn rooted(&self, reference: &str, text: &mut String) -> Option<usize> {
        let root = self.there.base.root();
        let path = without_query(reference);
        let is_whole = path.strip_prefix(root).is_some_and(|rest| rest.starts_with('/'));
        let added = if is_whole { "" } else { root };
        if !route::is_clear(path) {
            return None;
        }
        let above = self.above(&format!("{added}{path}"))?;
        text.push_str(self.prefix());
        text.push_str(added.get(above..).unwrap_or_default());
        (!text.is_empty() || above > added.len()).then(|| above.saturating_sub(added.len()))
    }

    /// Where the version of a version document's `self` link is, at the service: the link may be wrong
    /// about anything but its end.
    fn version(&self, link: &str) -> Option<String> {
        let root = self.there.asked_version()?;
        let (version, slash) = match link.strip_suffix('/') {
            Some(link) => (link, "/"),
            None => (link, ""),
        };
        let (before, version) = version.rsplit_once('/')?;
        let Reference { authority, rest, .. } = Reference::parse(link);
        let is_host = before.len() < link.len() - rest.len();
        (authority.is_some() && !is_host && rewrite::is_version(version))
            .then(|| format!("{root}/{version}{slash}"))
    }

    /// How much of a path at the endpoint's origin a client leaves out that asks for it below the
    /// request's address. `None` if that would lead to another target.
    fn above(&self, path: &str) -> Option<usize> {
        let There { url, base, .. } = self.there;
        let rest = match self.here.form {
            Form::Origin => {
                let place = self.there.origins.at(url.origin())?;
                (place.entry(path).is_some() && !path.is_empty()).then_some(path)?
            }
            Form::Root => path.strip_prefix(base.root()).filter(|rest| rest.starts_with('/'))?,
            Form::Endpoint => {
                let leads_there = |rest: &&str| {
                    // Which version would be put in is not known here.
                    (rest.is_empty() || rest.starts_with('/'))
                        && !base.needs_version(rest)
                        && base.leads_to(rest, path)
                };
                let below = || path.strip_prefix(url.path()).filter(leads_there);
                // Another version of the same service, or a path that looks like one.
                let beside =
                    || path.strip_prefix(base.root()).filter(|rest| !rest.is_empty()).filter(leads_there);
                let first = self.here.rest.split('/').nth(1).unwrap_or_default();
                // As the client wrote it.
                if rewrite::is_version(first) { beside().or_else(below) } else { below().or_else(beside) }?
            }
        };
        Some(path.len() - rest.len())
    }

    /// The path that stands for what [`Mapping::above`] leaves out.
    fn prefix(&self) -> &str {
        if self.here.form == Form::Root { "" } else { self.here.prefix }
    }

    fn push_here(&self, text: &mut String) {
        if let Some(authority) = self.here.authority {
            text.push_str(self.here.scheme.as_str());
            text.push_str("://");
            text.push_str(authority);
        }
    }

    /// The place that a scheme and an authority name. Without the scheme, that of the document counts.
    fn place(&self, scheme: Option<&str>, authority: &str) -> Option<&Place> {
        let There { url, origins, .. } = self.there;
        let scheme = scheme.map_or(Some(url.origin().scheme()), Scheme::parse)?;
        let as_written = |place: &&Place| {
            let origin = place.origin();
            origin.authority() == authority && origin.scheme() == scheme
        };
        if let Some(place) = origins.places().find(as_written) {
            return Some(place);
        }
        // Taken apart by hand: most of what comes so far is elsewhere, and nothing else is so expensive.
        let (host, port) = match authority.strip_prefix('[') {
            Some(address) => address.split_once(']').filter(|(address, _)| address.contains(':'))?,
            None => authority.split_at(authority.find(':').unwrap_or(authority.len())),
        };
        let port = match port {
            "" | ":" => scheme.default_port(),
            port => {
                let digits = port.strip_prefix(':').filter(|port| !port.starts_with('+'))?;
                digits.parse().ok()?
            }
        };
        let named = |place: &&Place| {
            let origin = place.origin();
            origin.port() == port && origin.host().eq_ignore_ascii_case(host)
        };
        let of_scheme = |place: &&Place| named(place) && place.origin().scheme() == scheme;
        let default = port == scheme.default_port();
        let nearly = |place: &&Place| {
            let origin = place.origin();
            named(place) || default && origin.has_default_port() && origin.host().eq_ignore_ascii_case(host)
        };
        let own = |place: &&Place| nearly(place) && place.origin() == url.origin();
        let mut places = [origins.places().find(of_scheme), origins.places().find(own)].into_iter().flatten();
        places.next().or_else(|| origins.places().find(nearly))
    }
}

fn without_query(reference: &str) -> &str {
    &reference[..memchr::memchr2(b'?', b'#', reference.as_bytes()).unwrap_or(reference.len())]
}

/// A reference, taken apart (RFC 3986, appendix B).
struct Reference<'a> {
    scheme: Option<&'a str>,
    authority: Option<&'a str>,
    /// Path, query and fragment; all of it, where there is no authority.
    rest: &'a str,
}

impl<'a> Reference<'a> {
    fn parse(text: &'a str) -> Self {
        let bytes = text.as_bytes();
        let is_border = |byte: &u8| matches!(byte, b'/' | b'?' | b'#');
        let scheme = bytes.iter().position(|byte| *byte == b':' || is_border(byte)).unwrap_or(bytes.len());
        let (scheme, start) = match &bytes[scheme..] {
            [b':', b'/', b'/', ..] => (Some(&text[..scheme]), scheme + 3),
            [b'/', b'/', ..] if scheme == 0 => (None, 2),
            _ => return Self { scheme: None, authority: None, rest: text },
        };
        let end = bytes[start..].iter().position(is_border).map_or(bytes.len(), |length| start + length);
        Self { scheme, authority: Some(&text[start..end]), rest: &text[end..] }
    }
}

#[cfg(test)]
mod tests;
