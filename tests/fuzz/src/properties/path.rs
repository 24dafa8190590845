//! Paths: no reading of a target that goes to a service leaves the service's base.

use std::collections::BTreeSet;

use http::uri::PathAndQuery;
use keyway::proxy::rewrite::Base;
use keyway::route::{Form, Route};

/// Catalog URLs' paths, and what of each must stay whatever the client asks for.
const BASES: [(&str, &str); 6] = [
    ("", ""),
    ("/v2.1", ""),
    ("/compute/v2.1", "/compute"),
    ("/a/b/v3/0123456789abcdef0123456789abcdef", "/a/b"),
    ("/swift/v1/AUTH_p", "/swift"),
    ("/a/b", "/a/b"),
];

/// Sends a target, as a client writes it, through route and base: where its path names the service, and
/// where a host name or a listener does.
///
/// # Panics
/// If the result could be read as something outside the base, or not all of it arrives.
pub fn check(text: &str) {
    let Ok(asked) = PathAndQuery::try_from(text) else { return };
    if let Ok(route) = Route::at_root("/cloud/lab/compute", asked.path()) {
        assert_eq!((route.form, route.rest), (Form::Root, asked.path()));
        for (_, root) in BASES {
            for reading in readings(format!("{root}{}", route.rest).as_bytes()) {
                assert!(stays_below(&reading, root), "{:?} leaves {root:?}", route.rest);
            }
        }
    }
    let Ok(route) = Route::parse(asked.path()) else { return };
    assert_eq!(format!("{}{}", route.prefix, route.rest), asked.path());
    let names = [route.cloud(), route.region(), route.project(), route.service().map(Some)];
    for name in names.into_iter().flatten().flatten() {
        assert!(!name.is_empty() && !name.chars().any(char::is_control), "{name:?}");
    }
    if route.form == Form::Origin {
        return;
    }
    for (catalog, root) in BASES {
        let base = Base::new(catalog, Some("p"));
        let current = base.needs_version(route.rest).then_some("v2");
        let target = base.target(route.rest, current);
        assert!(target.starts_with('/') && target.is_ascii(), "{target:?}");
        // Whatever replaces a version, what follows it arrives byte for byte.
        let below =
            route.rest.get(1..).and_then(|rest| rest.find('/')).map_or("", |at| &route.rest[at + 1..]);
        assert!(
            target.ends_with(route.rest) || target.ends_with(below),
            "{:?} became {target:?}",
            route.rest
        );
        for reading in readings(target.as_bytes()) {
            assert!(!reading.contains(&0), "{target:?} holds a NUL");
            assert!(stays_below(&reading, root), "{target:?} leaves {root:?}");
        }
    }
}

/// The path as servers may read it: percent-decoded up to twice, strictly or with overlong
/// UTF-8 for `.` and `/`, with and without the parameters after `;`.
pub fn readings(path: &[u8]) -> BTreeSet<Vec<u8>> {
    let mut readings = BTreeSet::from([path.to_vec()]);
    for _ in 0..2 {
        let decoded: Vec<_> =
            readings.iter().map(|reading| percent_encoding::percent_decode(reading).collect()).collect();
        readings.extend(decoded);
    }
    let bare: Vec<_> = readings.iter().map(|reading| without_parameters(reading)).collect();
    readings.extend(bare);
    readings
}

fn without_parameters(path: &[u8]) -> Vec<u8> {
    let segments = path.split(|byte| *byte == b'/');
    let bare: Vec<_> = segments.map(|segment| segment.split(|byte| *byte == b';').next().unwrap()).collect();
    bare.join(&b'/')
}

/// Walks the segments as a file system would, with both slashes as separators.
fn stays_below(path: &[u8], root: &str) -> bool {
    let root: Vec<_> = root.as_bytes().split(|byte| *byte == b'/').filter(|part| !part.is_empty()).collect();
    let mut depth: Vec<&[u8]> = Vec::new();
    for segment in path.split(|byte| matches!(byte, b'/' | b'\\')) {
        match segment {
            b"" | b"." => {}
            b".." if depth.len() == root.len() => return false,
            b".." => drop(depth.pop()),
            name => depth.push(name),
        }
    }
    depth.starts_with(&root)
}
