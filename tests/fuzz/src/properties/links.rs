//! References in answers: mapped to this keyway and the same place, or left as they are.

use keyway::proxy::links::{self, Here};
use keyway::proxy::rewrite::Base;
use keyway::route::Route;
use keyway::upstream::{BaseUrl, Scheme};

const PROJECT: &str = "0123456789abcdef0123456789abcdef";
const ENDPOINTS: [&str; 5] = [
    "http://cloud.example:8774/v2.1",
    "https://cloud.example/compute/v2.1",
    "https://cloud.example/volume/v3/0123456789abcdef0123456789abcdef",
    "http://[2001:db8::1]:8080/v1/AUTH_0123456789abcdef0123456789abcdef",
    "http://cloud.example:9292",
];
const PREFIX: &str = "/cloud/lab/compute";

/// A reference as a service writes it into `Location`.
///
/// # Panics
/// If it is mapped to anything but this keyway, or to another place of the service than it named, or
/// if a reference to another host is mapped at all.
pub fn check(reference: &str) {
    for endpoint in ENDPOINTS {
        let url = BaseUrl::parse(endpoint).expect("a good URL");
        let base = Base::new(url.path(), Some(PROJECT));
        for authority in [Some("localhost:8180"), None] {
            let here = Here { scheme: Scheme::Http, authority, prefix: PREFIX };
            let Some(mapped) = links::local(reference, here, &url, &base) else { continue };
            let origin = authority.map_or(String::new(), |authority| format!("http://{authority}"));
            let asked =
                mapped.strip_prefix(&origin).unwrap_or_else(|| panic!("{reference:?} became {mapped:?}"));
            assert!(asked.starts_with(PREFIX), "{reference:?} became {mapped:?}");

            // What a client then asks for is the place that the service named.
            let path = asked.split(['?', '#']).next().unwrap_or_default();
            let route = Route::parse(path).unwrap_or_else(|error| panic!("{mapped:?}: {error}"));
            assert_eq!(route.prefix, PREFIX, "{reference:?} became {mapped:?}");
            let named = reference.split(['?', '#']).next().unwrap_or_default();
            let target = base.target(route.rest, None);
            assert!(named.ends_with(&target), "{reference:?} became {mapped:?}, which leads to {target:?}");
            assert!(reference.ends_with(&asked[path.len()..]), "{reference:?} became {mapped:?}");

            // It named this service: no other host, no other port, nobody's name.
            let before = &named[..named.len() - target.len()];
            let is_here = before.is_empty() || {
                let absolute = if before.starts_with("//") {
                    format!("{}:{before}", url.origin().scheme().as_str())
                } else {
                    before.to_owned()
                };
                BaseUrl::parse(&absolute).is_ok_and(|named| named.origin() == url.origin())
            };
            assert!(is_here && !before.contains('@'), "{reference:?} became {mapped:?}");
        }
    }
}
