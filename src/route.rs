//! Which service of which cloud does a path name?
//!
//! `/{service}/{rest}` is a service of the default cloud;
//! `/cloud/{cloud}/region/{region}/project/{project}/{service}/{rest}` names more, each selector
//! optional, in this order. `/origin/{id}/{rest}` in the place of a service is any path at an origin of
//! the catalog, which has its region. Where a listener or a host name stands for a service, the whole
//! path is the rest. The rest stays as the client wrote it, byte for byte. Whether such a cloud, service
//! or origin exists is not asked here.

use std::borrow::Cow;

use percent_encoding::percent_decode_str;

/// A path, taken apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route<'a> {
    /// Everything before `rest`, as written: two requests with the same prefix have the same destination
    /// (at an [origin](Form::Origin), if `rest` leads to the same one).
    pub prefix: &'a str,
    /// Cloud, region, project, and service or origin, as written.
    raw: [Option<&'a str>; 4],
    /// Where `rest` starts at the service.
    pub form: Form,
    /// What follows the service: empty, or a path that starts with `/`.
    pub rest: &'a str,
}

/// Where the rest of a path starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// At the service's endpoint, with what [`crate::proxy::rewrite`] adds.
    Endpoint,
    /// At the root that the service's endpoint has below its host: nothing is added.
    Root,
    /// At an origin's top: nothing is added.
    Origin,
}

/// Why a path names nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RouteError {
    /// `/` alone, or selectors without a service.
    #[error("the path names no service; ask for /{{service}}/..., for example /compute/servers")]
    NoService,
    /// A selector without a value.
    #[error("`/{0}/` is not followed by a name; write /{0}/{{name}}/{{service}}/...")]
    EmptySelector(&'static str),
    /// `/origin/` without an id.
    #[error("`/origin/` is not followed by an origin's id; write /origin/http-HOST-PORT/...")]
    NoOrigin,
    /// A region before `/origin/`.
    #[error("an origin has its own region; leave `/region/{{name}}` out before `/origin/`")]
    RegionOfOrigin,
    /// A selector whose percent-encoding is not UTF-8, or holds control characters.
    #[error("the name after `/{0}/` is not readable; percent-encode it as UTF-8")]
    UnreadableSelector(&'static str),
    /// A dot segment, under any reading.
    #[error("the path holds a dot segment (`.` or `..`), plain or encoded; send the path that is meant")]
    DotSegment,
    /// NUL under any reading, a raw backslash, or a raw byte outside ASCII (RFC 3986, section 2).
    #[error(
        "the path holds a NUL, a raw backslash or a raw non-ASCII byte; percent-encode it or leave it out"
    )]
    UnsafeByte,
    /// An ASCII character in an overlong UTF-8 encoding, or `%u002e`: no URI has it, and some servers
    /// decode it all the same.
    #[error(
        "the path holds an overlong UTF-8 encoding or `%u` with four digits; percent-encode the bytes of UTF-8"
    )]
    OddEncoding,
}

const SELECTORS: [&str; 3] = ["cloud", "region", "project"];
/// Stands in the place of a service, before an origin's id.
const ORIGIN: &str = "origin";

impl<'a> Route<'a> {
    /// Takes a path apart.
    ///
    /// # Errors
    /// See [`RouteError`].
    pub fn parse(path: &'a str) -> Result<Self, RouteError> {
        check_segments(path)?;
        let mut raw = [None; 4];
        let mut rest = path;
        for (index, selector) in SELECTORS.into_iter().enumerate() {
            let (first, after) = split(rest).ok_or(RouteError::NoService)?;
            if first != selector {
                continue;
            }
            let (name, after) = split(after).ok_or(RouteError::EmptySelector(selector))?;
            if name.is_empty() {
                return Err(RouteError::EmptySelector(selector));
            }
            raw[index] = Some(name);
            rest = after;
        }
        let (service, after) = split(rest).ok_or(RouteError::NoService)?;
        if service.is_empty() {
            return Err(RouteError::NoService);
        }
        let (form, named, after) = if service == ORIGIN {
            let (id, after) = split(after).filter(|(id, _)| !id.is_empty()).ok_or(RouteError::NoOrigin)?;
            if raw[1].is_some() {
                return Err(RouteError::RegionOfOrigin);
            }
            (Form::Origin, id, after)
        } else {
            (Form::Endpoint, service, after)
        };
        raw[3] = Some(named);
        Ok(Self { prefix: &path[..path.len() - after.len()], raw, form, rest: after })
    }

    /// The prefix of a service that a host name or a listener names, as a path would have it.
    pub fn prefix_of(cloud: Option<&str>, region: Option<&str>, service: &str) -> String {
        let mut prefix = String::new();
        for (selector, name) in [("/cloud/", cloud), ("/region/", region)] {
            if let Some(name) = name {
                prefix.push_str(selector);
                prefix.push_str(&encode(name));
            }
        }
        prefix.push('/');
        match service.split_at_checked(1) {
            // A service of that name: written like this, it is no selector.
            Some((first, rest)) if service == ORIGIN || SELECTORS.contains(&service) => {
                prefix.push_str(&format!("%{:02X}{rest}", first.as_bytes()[0]));
            }
            _ => prefix.push_str(&encode(service)),
        }
        prefix
    }

    /// What a path means where something else than the path has named the service: `prefix` is how a
    /// path would have done it.
    ///
    /// # Errors
    /// See [`RouteError`].
    pub fn at_root(prefix: &'a str, path: &'a str) -> Result<Self, RouteError> {
        check_segments(path)?;
        // `*`, of which nobody knows what it would mean behind a root.
        if !path.starts_with('/') {
            return Err(RouteError::NoService);
        }
        Ok(Self { form: Form::Root, rest: path, ..Self::parse(prefix)? })
    }

    /// Cloud, region and project as the path has them, percent-encoding included.
    pub fn selectors_as_written(&self) -> [Option<&'a str>; 3] {
        [self.raw[0], self.raw[1], self.raw[2]]
    }

    /// The named cloud.
    ///
    /// # Errors
    /// [`RouteError::UnreadableSelector`], as for the other selectors.
    pub fn cloud(&self) -> Result<Option<Cow<'a, str>>, RouteError> {
        self.selector(0, "cloud")
    }

    /// The named region.
    ///
    /// # Errors
    /// As [`Route::cloud`].
    pub fn region(&self) -> Result<Option<Cow<'a, str>>, RouteError> {
        self.selector(1, "region")
    }

    /// The named project, by id or name.
    ///
    /// # Errors
    /// As [`Route::cloud`].
    pub fn project(&self) -> Result<Option<Cow<'a, str>>, RouteError> {
        self.selector(2, "project")
    }

    /// Whether the path names a project.
    pub fn names_project(&self) -> bool {
        self.raw[2].is_some()
    }

    /// The service as the path has it, percent-encoding included; `origin` where it names an origin.
    pub fn service_as_written(&self) -> &'a str {
        if self.form == Form::Origin { ORIGIN } else { self.raw[3].expect("parse found a service") }
    }

    /// The id of the origin, where the path names one.
    ///
    /// # Errors
    /// As [`Route::cloud`].
    pub fn origin(&self) -> Result<Option<Cow<'a, str>>, RouteError> {
        if self.form == Form::Origin { self.selector(3, "origin") } else { Ok(None) }
    }

    /// The named service: a type, an alias or a catalog name.
    ///
    /// # Errors
    /// As [`Route::cloud`].
    pub fn service(&self) -> Result<Cow<'a, str>, RouteError> {
        Ok(self.selector(3, "service")?.expect("parse found a service"))
    }

    fn selector(&self, index: usize, what: &'static str) -> Result<Option<Cow<'a, str>>, RouteError> {
        let Some(raw) = self.raw[index] else { return Ok(None) };
        let name = percent_decode_str(raw).decode_utf8().map_err(|_| RouteError::UnreadableSelector(what))?;
        if name.chars().any(char::is_control) {
            return Err(RouteError::UnreadableSelector(what));
        }
        Ok(Some(name))
    }
}

/// Percent-encodes what may stand in one segment of a path.
pub fn encode(name: &str) -> String {
    const KEEP: &percent_encoding::AsciiSet =
        &percent_encoding::NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');
    percent_encoding::utf8_percent_encode(name, KEEP).to_string()
}

/// `/first/after` into `first` and `/after`.
fn split(path: &str) -> Option<(&str, &str)> {
    let path = path.strip_prefix('/')?;
    let end = path.bytes().position(|byte| byte == b'/').unwrap_or(path.len());
    Some(path.split_at(end))
}

/// Whether a path, which may be a part of one from one `/` on, means the same to every server and stays
/// below where it begins.
pub fn is_clear(path: &str) -> bool {
    check_segments(path).is_ok()
}

const ODD: u8 = 1;
const DOT: u8 = 2;
const SLASH: u8 = 4;

/// Which bytes of a path have to be looked at: most paths have none that is odd.
static KINDS: [u8; 256] = {
    let mut kinds = [0; 256];
    let mut byte = 0;
    while byte < kinds.len() {
        kinds[byte] = match byte as u8 {
            0 | b'\\' | b'%' | b';' | 0x80.. => ODD,
            b'.' => DOT,
            b'/' => SLASH,
            _ => 0,
        };
        byte += 1;
    }
    kinds
};

/// Refuses what leaves the service's base, or means different things to different servers.
///
/// A segment is looked at as a server may look at it: percent-decoded (twice, for those who decode
/// twice), with `/` and `\` as separators, and without the parameters after `;`.
fn check_segments(path: &str) -> Result<(), RouteError> {
    let bytes = path.as_bytes();
    let (mut seen, mut dotted, mut before) = (0, 0, SLASH);
    for byte in bytes {
        let kind = KINDS[usize::from(*byte)];
        seen |= kind;
        // A dot segment can only start right after a slash.
        dotted |= before & (kind << 1);
        before = kind;
    }
    if seen & ODD == 0 {
        return if dotted & SLASH != 0 { check_reading(bytes) } else { Ok(()) };
    }
    if bytes.iter().any(|byte| matches!(byte, 0 | b'\\' | 0x80..)) {
        return Err(RouteError::UnsafeByte);
    }
    let mut reading = Cow::Borrowed(bytes);
    for _ in 0..3 {
        check_reading(&reading)?;
        let decoded: Cow<'_, [u8]> = percent_encoding::percent_decode(&reading).into();
        if decoded == reading {
            break;
        }
        reading = Cow::Owned(decoded.into_owned());
    }
    Ok(())
}

fn check_reading(path: &[u8]) -> Result<(), RouteError> {
    if path.contains(&0) {
        return Err(RouteError::UnsafeByte);
    }
    if path.windows(2).any(|pair| is_overlong([pair[0], pair[1]])) || path.windows(6).any(is_percent_u) {
        return Err(RouteError::OddEncoding);
    }
    for segment in path.split(|byte| matches!(byte, b'/' | b'\\')) {
        let name = segment.split(|byte| *byte == b';').next().unwrap_or_default();
        if matches!(name, b"." | b"..") {
            return Err(RouteError::DotSegment);
        }
    }
    Ok(())
}

/// The start of a longer encoding of what has a shorter one (RFC 3629, section 3).
fn is_overlong(pair: [u8; 2]) -> bool {
    matches!(pair, [0xc0 | 0xc1, 0x80..=0xbf] | [0xe0, 0x80..=0x9f] | [0xf0, 0x80..=0x8f])
}

/// `%u002e`, as some servers took for a character.
fn is_percent_u(bytes: &[u8]) -> bool {
    matches!(bytes, [b'%', b'u' | b'U', digits @ ..] if digits.iter().all(u8::is_ascii_hexdigit))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[track_caller]
    fn check(path: &str, [cloud, region, project]: [Option<&str>; 3], service: &str, rest: &str) {
        let route = Route::parse(path).expect(path);
        assert_eq!(route.cloud().unwrap().as_deref(), cloud);
        assert_eq!(route.region().unwrap().as_deref(), region);
        assert_eq!(route.project().unwrap().as_deref(), project);
        assert_eq!((route.service().unwrap().as_ref(), route.rest), (service, rest));
        assert_eq!(format!("{}{}", route.prefix, route.rest), path);
    }

    #[test]
    fn selectors_are_optional_but_ordered() {
        check("/compute", [None; 3], "compute", "");
        check("/compute/", [None; 3], "compute", "/");
        check("/compute/servers/detail", [None; 3], "compute", "/servers/detail");
        check("/cloud/lab/image/images", [Some("lab"), None, None], "image", "/images");
        check("/region/RegionTwo/image", [None, Some("RegionTwo"), None], "image", "");
        check("/cloud/a/region/b/project/c/d/e", [Some("a"), Some("b"), Some("c")], "d", "/e");
        check("/project/p/cloud/x", [None, None, Some("p")], "cloud", "/x");
        check("/project/my%20project/compute", [None, None, Some("my project")], "compute", "");
        check("/object-store/c/a%2Fb//c/", [None; 3], "object-store", "/c/a%2Fb//c/");
    }

    // Promise 40.
    #[test]
    fn a_service_ends_at_a_slash_of_the_raw_path() {
        check("/computeevil/servers", [None; 3], "computeevil", "/servers");
        check("/compute@x/servers", [None; 3], "compute@x", "/servers");
        check("/compute%2Fservers", [None; 3], "compute/servers", "");
        check("/compute;x/servers", [None; 3], "compute;x", "/servers");
        check("/clouds/lab/image", [None; 3], "clouds", "/lab/image");
        check("/%63loud/lab/image", [None; 3], "cloud", "/lab/image");
        check("/cloud/a%2Fimage/b", [Some("a/image"), None, None], "b", "");
    }

    #[test]
    fn an_origin_stands_in_the_place_of_a_service() {
        #[track_caller]
        fn check(path: &str, prefix: &str, cloud: Option<&str>, id: &str, rest: &str) {
            let route = Route::parse(path).expect(path);
            assert_eq!((route.prefix, route.form, route.rest), (prefix, Form::Origin, rest));
            assert_eq!(route.cloud().unwrap().as_deref(), cloud);
            assert_eq!(route.origin().unwrap().as_deref(), Some(id));
        }
        check("/origin/http-h-80", "/origin/http-h-80", None, "http-h-80", "");
        check("/origin/http-h-80/", "/origin/http-h-80", None, "http-h-80", "/");
        check("/origin/http-h-80//a%2F/", "/origin/http-h-80", None, "http-h-80", "//a%2F/");
        check("/origin/http%2Dh-80/v3", "/origin/http%2Dh-80", None, "http-h-80", "/v3");
        check("/cloud/lab/project/p/origin/x/y", "/cloud/lab/project/p/origin/x", Some("lab"), "x", "/y");
        check("/origin/origin/origin", "/origin/origin", None, "origin", "/origin");
        assert_eq!(Route::parse("/origin"), Err(RouteError::NoOrigin));
        assert_eq!(Route::parse("/origin/"), Err(RouteError::NoOrigin));
        assert_eq!(Route::parse("/origin//v3"), Err(RouteError::NoOrigin));
        assert_eq!(Route::parse("/region/r/origin/x/y"), Err(RouteError::RegionOfOrigin));
        assert_eq!(Route::parse("/origin/x/../y"), Err(RouteError::DotSegment));
        let elsewhere = Route::parse("/origins/x").unwrap();
        assert_eq!((elsewhere.form, elsewhere.origin()), (Form::Endpoint, Ok(None)));
        let unreadable = Route::parse("/origin/%ff/x").unwrap();
        assert_eq!(unreadable.origin(), Err(RouteError::UnreadableSelector("origin")));
    }

    #[test]
    fn at_its_root_a_service_has_the_whole_path() {
        for path in ["/", "/v2.1/servers", "/cloud/lab/compute", "/origin/x/y", "//a%2Fb/"] {
            let route = Route::at_root("/cloud/l%20b/region/r/compute", path).unwrap();
            assert_eq!((route.prefix, route.form), ("/cloud/l%20b/region/r/compute", Form::Root));
            assert_eq!((route.rest, route.service().unwrap().as_ref()), (path, "compute"));
            assert_eq!(route.cloud().unwrap().as_deref(), Some("l b"));
            assert_eq!(route.region().unwrap().as_deref(), Some("r"));
        }
        for (cloud, region, service, prefix) in [
            (None, None, "compute", "/compute"),
            (Some("l b"), Some("R/1"), "compute", "/cloud/l%20b/region/R%2F1/compute"),
            (None, None, "cloud", "/%63loud"),
            (Some("x"), None, "origin", "/cloud/x/%6Frigin"),
        ] {
            assert_eq!(Route::prefix_of(cloud, region, service), prefix);
            let route = Route::at_root(prefix, "/x").unwrap();
            assert_eq!((route.service().unwrap().as_ref(), route.prefix), (service, prefix));
            assert_eq!(route.cloud().unwrap().as_deref(), cloud);
            assert_eq!(route.region().unwrap().as_deref(), region);
        }
        assert_eq!(Route::at_root("/compute", "/v2.1/%2e%2e/x"), Err(RouteError::DotSegment));
    }

    #[test]
    fn a_path_without_a_service_says_so() {
        assert_eq!(Route::parse("/"), Err(RouteError::NoService));
        assert_eq!(Route::parse("//servers"), Err(RouteError::NoService));
        assert_eq!(Route::parse("/cloud/lab"), Err(RouteError::NoService));
        assert_eq!(Route::parse("/cloud/lab/"), Err(RouteError::NoService));
        assert_eq!(Route::parse("/cloud"), Err(RouteError::EmptySelector("cloud")));
        assert_eq!(Route::parse("/region//compute"), Err(RouteError::EmptySelector("region")));
        assert_eq!(Route::parse("*"), Err(RouteError::NoService));
        let unreadable = Route::parse("/cloud/%ff/compute").unwrap();
        assert_eq!(unreadable.cloud(), Err(RouteError::UnreadableSelector("cloud")));
    }

    // Promise 41.
    #[test]
    fn no_reading_of_a_path_leaves_its_base() {
        for path in [
            "/compute/../identity",
            "/compute/..",
            "/compute/./servers",
            "/compute/%2e%2e/identity",
            "/compute/.%2E/x",
            "/compute/%2e/x",
            "/compute/a%2f..%2fb",
            "/compute/a%2f%2e%2e",
            "/compute/..%2fb",
            "/compute/%252e%252e/x",
            "/compute/..;a=b/x",
            "/compute/%2e%2e;x/y",
            "/compute/..%5cx",
            "/../compute",
            "/cloud/../compute",
        ] {
            assert_eq!(Route::parse(path), Err(RouteError::DotSegment), "{path}");
        }
        for path in ["/compute/a%00b", "/compute/a\\b", "/compute/%2500", "/compute/\u{fc}"] {
            assert_eq!(Route::parse(path), Err(RouteError::UnsafeByte), "{path}");
        }
        for path in [
            "/compute/%c0%ae%c0%ae/identity",
            "/compute/%C0%AE%C0%ae",
            "/compute/%e0%80%ae%e0%80%ae/x",
            "/compute/%f0%80%80%ae/x",
            "/compute/..%c0%af",
            "/compute/%c1%9c",
            "/compute/%25c0%25ae/x",
            "/compute/%u002e%u002e/identity",
            "/compute/%U002e",
            "/compute/%25u002e",
            "/compute/%u0073ervers",
        ] {
            assert_eq!(Route::parse(path), Err(RouteError::OddEncoding), "{path}");
        }
    }

    // Promise 42.
    #[test]
    fn what_only_looks_like_a_dot_segment_passes() {
        for path in [
            "/o/.hidden",
            "/o/...",
            "/o/a..b",
            "/o/..a",
            "/o/a.",
            "/o/a;b=c",
            "/o/100%",
            "/o/%25",
            "/o/a%2Fb",
            "/o/%c3%a4",
            "/o/%e4",
            "/o/%e0%a0%80",
            "/o/%f0%9f%98%80",
            "/o/%u",
            "/o/%upper",
            "/o/%u00",
        ] {
            assert!(Route::parse(path).is_ok(), "{path}");
        }
    }

    proptest! {
        #[test]
        fn a_route_gives_back_its_path(path in "/[a-z%2e./;]{0,24}") {
            if let Ok(route) = Route::parse(&path) {
                prop_assert_eq!(format!("{}{}", route.prefix, route.rest), path.as_str());
                prop_assert!(route.rest.is_empty() || route.rest.starts_with('/'));
            }
        }

        // Promise 41.
        #[test]
        fn a_normalizing_server_stays_below_the_service(path in "/s(/([a-c]|\\.|\\.\\.|%2e|%2E|%2f|%252e|\\\\|;){0,4}){0,5}") {
            if Route::parse(&path).is_ok() {
                let mut text = path;
                for _ in 0..2 {
                    text = percent_decode_str(&text).decode_utf8_lossy().into_owned();
                    let mut depth = 0i32;
                    for segment in text.split(['/', '\\']).skip(2) {
                        depth += if segment == ".." { -1 } else { 1 };
                        prop_assert!(depth >= 0);
                    }
                }
            }
        }
    }
}
