//! Where does a service's `Location` lie at keyway?
//!
//! A service writes its own address into `Location` and `Content-Location`. A client that followed it
//! would leave keyway, and with it the token. What lies under the endpoint that the request went to
//! is written as the client would ask keyway for it; anything else is none of keyway's business and
//! stays as it is. A reference is mapped only if asking for it would lead to the very same target.

use http::header::{self, HeaderMap, HeaderValue};

use super::rewrite::Base;
use crate::route::Route;
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
}

/// Maps the fields of an answer that refer to a place under the endpoint `url`, whose path is `base`.
pub fn localize(headers: &mut HeaderMap, here: Here<'_>, url: &BaseUrl, base: &Base) {
    for name in [header::LOCATION, header::CONTENT_LOCATION] {
        let mapped = headers.get(&name).and_then(|value| {
            let reference = value.to_str().ok()?;
            HeaderValue::try_from(local(reference, here, url, base)?).ok()
        });
        if let Some(mapped) = mapped {
            headers.insert(name, mapped);
        }
    }
}

/// A reference (RFC 3986, section 4.1) as a client of keyway has to write it; `None` if it stays as
/// it is.
pub fn local(reference: &str, here: Here<'_>, url: &BaseUrl, base: &Base) -> Option<String> {
    let (authority, path) = split(reference);
    if let Some(authority) = authority {
        // `//host/path` has the scheme of the document that it stands in.
        let scheme = if authority.starts_with("//") { url.origin().scheme().as_str() } else { "" };
        let separator = if scheme.is_empty() { "" } else { ":" };
        let target = BaseUrl::parse(&format!("{scheme}{separator}{authority}")).ok()?;
        if target.origin() != url.origin() {
            return None;
        }
    }
    let end = path.find(['?', '#']).unwrap_or(path.len());
    let (path, tail) = path.split_at(end);
    let rest = rest(path, url, base)?;
    // What keyway would refuse, or take for another route, is no link to it.
    let asked = format!("{}{rest}", here.prefix);
    let route = Route::parse(&asked).ok()?;
    if route.prefix != here.prefix {
        return None;
    }
    Some(match here.authority {
        Some(authority) => format!("{}://{authority}{asked}{tail}", here.scheme.as_str()),
        None => format!("{asked}{tail}"),
    })
}

/// Scheme and authority, if there are any, and what follows them.
fn split(reference: &str) -> (Option<&str>, &str) {
    let start = if reference.starts_with("//") {
        2
    } else {
        match reference.find("://") {
            // Within a path or query it says nothing of this reference.
            Some(at) if !reference[..at].contains(['/', '?', '#']) => at + 3,
            _ => return (None, reference),
        }
    };
    let end = reference[start..].find(['/', '?', '#']).map_or(reference.len(), |end| start + end);
    let (authority, path) = reference.split_at(end);
    (Some(authority), path)
}

/// What a client has to append to the endpoint's prefix to ask for `path` at the service.
fn rest<'a>(path: &'a str, url: &BaseUrl, base: &Base) -> Option<&'a str> {
    let leads_there = |rest: &&str| {
        // Which version would be put in is not known here.
        (rest.is_empty() || rest.starts_with('/'))
            && !base.needs_version(rest)
            && base.target(rest, None) == path
    };
    let below = path.strip_prefix(url.path()).filter(leads_there);
    // Another version of the same service, or a path that looks like one.
    below.or_else(|| path.strip_prefix(base.root()).filter(|rest| !rest.is_empty()).filter(leads_there))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const PROJECT: &str = "0123456789abcdef0123456789abcdef";

    fn map(endpoint: &str, reference: &str) -> Option<String> {
        let url = BaseUrl::parse(endpoint).expect(endpoint);
        let base = Base::new(url.path(), Some(PROJECT));
        let here =
            Here { scheme: Scheme::Http, authority: Some("localhost:8180"), prefix: "/cloud/lab/compute" };
        local(reference, here, &url, &base)
    }

    #[track_caller]
    fn check(endpoint: &str, reference: &str, rest: &str) {
        let expected = format!("http://localhost:8180/cloud/lab/compute{rest}");
        assert_eq!(map(endpoint, reference).as_deref(), Some(expected.as_str()), "{reference} at {endpoint}");
    }

    #[track_caller]
    fn check_unchanged(endpoint: &str, reference: &str) {
        assert_eq!(map(endpoint, reference), None, "{reference} at {endpoint}");
    }

    #[test]
    fn what_lies_under_the_endpoint_is_mapped() {
        let nova = "http://cloud.example:8774/v2.1";
        check(nova, "http://cloud.example:8774/v2.1/servers/1", "/servers/1");
        check(nova, "HTTP://Cloud.Example:8774/v2.1/servers/1?a=b#c", "/servers/1?a=b#c");
        check(nova, "http://cloud.example:8774/v2.1", "");
        check(nova, "http://cloud.example:8774/v2.1/", "/");
        check(nova, "http://cloud.example:8774/v2.1?x=/v3", "?x=/v3");
        check(nova, "//cloud.example:8774/v2.1/a", "/a");
        check(nova, "/v2.1/servers/a%2Fb//c/", "/servers/a%2Fb//c/");
        check(nova, "http://cloud.example:8774/v2/servers/1", "/v2/servers/1");
        check(nova, "http://cloud.example:8774/v2.1/v2/odd", "/v2.1/v2/odd");
        let shared = "https://cloud.example/compute/v2.1";
        check(shared, "https://cloud.example:443/compute/v2.1/servers/1", "/servers/1");
        let cinder = format!("http://cloud.example:8776/v3/{PROJECT}");
        check(&cinder, &format!("http://cloud.example:8776/v3/{PROJECT}/volumes/1"), "/volumes/1");
        let other = "/v3/ffffffffffffffffffffffffffffffff/volumes/1";
        check(&cinder, &format!("http://cloud.example:8776{other}"), other);
        let glance = "http://cloud.example:9292";
        check(glance, "http://cloud.example:9292/v2/tasks/1", "/v2/tasks/1");
        check(glance, "/v2/tasks/1", "/v2/tasks/1");
    }

    #[test]
    fn anything_else_stays_as_it_is() {
        let nova = "http://cloud.example:8774/v2.1";
        for reference in [
            "",
            "servers/1",
            "?marker=1",
            "#top",
            "http://cloud.example:8774",
            "http://cloud.example:8774/",
            "http://cloud.example:8774/healthcheck",
            "http://cloud.example:8774/v2.1evil",
            "http://cloud.example:8775/v2.1/servers",
            "http://cloud.example/v2.1/servers",
            "https://cloud.example:8774/v2.1/servers",
            "http://elsewhere.example/v2.1/servers",
            "http://user@cloud.example:8774/v2.1/servers",
            "http://cloud.example:8774@elsewhere.example/v2.1/servers",
            "http://cloud.example:8774/v2.1/../admin",
            "http://cloud.example:8774/v2.1/%2e%2e/admin",
            "/v2.1/a\\b",
            "/login?next=http://cloud.example:8774/v2.1/servers",
            "javascript:alert(1)",
            "//elsewhere.example/v2.1/servers",
            "///v2.1/servers",
        ] {
            check_unchanged(nova, reference);
        }
        check_unchanged("https://cloud.example/compute/v2.1", "https://cloud.example/identity/v3/users");
        // Asking keyway for it would put a version in front.
        check_unchanged("http://cloud.example:9292", "http://cloud.example:9292/tasks/1");
    }

    #[test]
    fn without_a_host_a_reference_becomes_relative() {
        let url = BaseUrl::parse("http://h:1/v1").unwrap();
        let here = Here { scheme: Scheme::Https, authority: None, prefix: "/compute" };
        let mapped = local("http://h:1/v1/a?b", here, &url, &Base::new("/v1", None));
        assert_eq!(mapped.as_deref(), Some("/compute/a?b"));
    }

    proptest! {
        #[test]
        fn no_reference_makes_it_panic_or_leave_the_prefix(reference in "\\PC{0,40}|(http:)?//h:1[/a-z@:?#.%]{0,20}") {
            let url = BaseUrl::parse("http://h:1/v1").unwrap();
            let here = Here { scheme: Scheme::Http, authority: Some("here"), prefix: "/compute" };
            if let Some(mapped) = local(&reference, here, &url, &Base::new("/v1", None)) {
                prop_assert!(mapped.starts_with("http://here/compute"), "{mapped}");
            }
        }

        #[test]
        fn a_mapped_reference_leads_to_the_same_target(
            root in "(/[a-z]{1,4}){0,2}",
            version in "(/v[1-3](\\.[0-9])?)?",
            account in "(/AUTH_0123456789abcdef0123456789abcdef)?",
            path in "(/[a-cv1-3%.]{0,4}){0,4}",
            tail in "([?#][a-z/]{0,4})?",
            absolute in any::<bool>(),
            under in any::<bool>(),
        ) {
            let account = if version.is_empty() { String::new() } else { account };
            let url = BaseUrl::parse(&format!("http://h:1{root}{version}{account}")).unwrap();
            let base = Base::new(url.path(), Some(PROJECT));
            let target = if under { format!("{}{path}", url.path()) } else { path };
            prop_assume!(!target.starts_with("//"));
            let origin = if absolute { "http://h:1" } else { "" };
            let here = Here { scheme: Scheme::Http, authority: Some("here"), prefix: "/x" };
            if let Some(mapped) = local(&format!("{origin}{target}{tail}"), here, &url, &base) {
                let asked = mapped.strip_prefix("http://here").expect("it is absolute");
                let end = asked.find(['?', '#']).unwrap_or(asked.len());
                let route = Route::parse(&asked[..end]).expect("keyway takes it");
                prop_assert_eq!(route.prefix, "/x");
                prop_assert_eq!(base.target(route.rest, Some("v9")), target);
                prop_assert_eq!(&asked[end..], tail);
            }
        }
    }
}
