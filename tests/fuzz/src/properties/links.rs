//! References in answers: mapped to this keyway and the same place, or left as they are.

use keyway::proxy::links::{self, Bodies, Here, Mapping, There};
use keyway::proxy::origins::Origins;
use keyway::proxy::rewrite::Base;
use keyway::route::{Form, Route};
use keyway::upstream::{BaseUrl, Scheme};
use serde_json::Value;

const PROJECT: &str = "0123456789abcdef0123456789abcdef";
const ENDPOINTS: [(&str, &str); 5] = [
    ("compute", "http://cloud.example:8774/v2.1"),
    ("placement", "https://cloud.example/compute/v2.1"),
    ("block-storage", "https://cloud.example/volume/v3/0123456789abcdef0123456789abcdef"),
    ("object-store", "http://[2001:db8::1]:8080/v1/AUTH_0123456789abcdef0123456789abcdef"),
    ("image", "http://cloud.example:9292"),
];
/// keyway, for paths that name a service or an origin.
const ORDINARY: &str = "http://localhost:8180";
/// keyway, where the host stands for the service.
const ROOT: &str = "http://compute.localhost:8180";

/// A JSON document as a service answers it, or a reference as it writes it into `Location`.
///
/// # Panics
/// If a reference is mapped to anything but this keyway, or to another place of the cloud than it named,
/// or if a reference to another host is mapped at all; if a document is no longer one, or differs in
/// anything but in links that lead to the same places; and if data of somebody's differs.
pub fn check(input: &str) {
    let urls = ENDPOINTS.map(|(_, url)| BaseUrl::parse(url).expect("a good URL"));
    let endpoints = ENDPOINTS.iter().zip(&urls).map(|((name, _), url)| (*name, None, url));
    let origins = Origins::of(endpoints, Some(PROJECT));
    for url in &urls {
        let base = Base::new(url.path(), Some(PROJECT));
        let target = format!("{}/servers", url.path());
        let there = There { url, base: &base, origins: &origins, target: &target };
        for (form, prefix, rest) in [
            (Form::Endpoint, "/cloud/lab/compute", "/servers"),
            (Form::Endpoint, "/region/x/project/p%20q/compute", "/v2.1/servers"),
            (Form::Root, "/cloud/lab/compute", "/v2.1/servers"),
            (Form::Origin, "/cloud/lab/origin/http-cloud.example-8774", "/v2.1/servers"),
        ] {
            // An address of this form has the endpoint's own origin.
            let id = origins.at(url.origin()).expect("it is one of them").id();
            let own = format!("/cloud/lab/origin/{id}");
            let prefix = if form == Form::Origin { &own } else { prefix };
            let authority = if form == Form::Root { ROOT } else { ORDINARY }.strip_prefix("http://");
            let ordinary = Some(ORDINARY);
            let here = Here { scheme: Scheme::Http, authority, prefix, form, rest, ordinary, rooted: true };
            let mapping = Mapping { here, there };
            if input.trim_start().starts_with(['{', '[']) {
                for bodies in [Bodies::All, Bodies::Image] {
                    check_document(&mapping, bodies, input);
                }
            } else if let Some(mapped) = mapping.local(input) {
                check_reference(&mapping, input, &mapped);
            }
        }
    }
}

/// Checks what became of a reference.
fn check_reference(mapping: &Mapping<'_>, reference: &str, mapped: &str) {
    let There { url, origins, .. } = mapping.there;
    let at_root = mapped.strip_prefix(ROOT).filter(|_| mapping.here.form == Form::Root);
    let asked = at_root.or_else(|| mapped.strip_prefix(ORDINARY));
    let asked = asked.unwrap_or_else(|| panic!("{reference:?} became {mapped:?}"));
    let path = asked.split(['?', '#']).next().unwrap_or_default();
    let (origin, target) = led_to(mapping, at_root.is_some(), path);

    // What a client then asks for is the place that the service named.
    let named = reference.split(['?', '#']).next().unwrap_or_default();
    assert!(reference.ends_with(&asked[path.len()..]), "{reference:?} became {mapped:?}");
    let before = match named.strip_suffix(&target) {
        Some(before) => before,
        None if target == "/" => named,
        None => panic!("{reference:?} became {mapped:?}, which leads to {target:?}"),
    };
    // It named this host: no other one, no other port, nobody's name.
    let absolute = match before {
        "" => url.origin().to_string(),
        before if before.starts_with("//") => format!("{}:{before}", url.origin().scheme().as_str()),
        before => before.to_owned(),
    };
    let is_there = BaseUrl::parse(&absolute).is_ok_and(|named| {
        let (named, default) = (named.origin(), [80, 443]);
        let place = BaseUrl::parse(&origin).expect("a place");
        let (place, both) = (place.origin(), |port| default.contains(&port));
        // The schemes may be mixed up, if there is no such place.
        named == place
            || origins.at(named).is_none()
                && named.host() == place.host()
                && (named.port() == place.port() || both(named.port()) && both(place.port()))
    });
    assert!(is_there && !before.contains('@'), "{reference:?} became {mapped:?}, at {origin}");
}

/// The origin and the path that a request for `path` at keyway leads to.
fn led_to(mapping: &Mapping<'_>, at_root: bool, path: &str) -> (String, String) {
    let There { url, base, origins, .. } = mapping.there;
    let unreadable = |error| -> Route<'_> { panic!("{path:?}: {error}") };
    if at_root {
        let route = Route::at_root(mapping.here.prefix, path).unwrap_or_else(unreadable);
        return (url.origin().to_string(), format!("{}{}", base.root(), route.rest));
    }
    let route = Route::parse(path).unwrap_or_else(unreadable);
    match route.form {
        Form::Origin => {
            let id = route.origin().expect("readable").expect("an id");
            let place = origins.place(&id).unwrap_or_else(|| panic!("{path:?} is nowhere"));
            assert!(place.entry(route.rest).is_some(), "{path:?} belongs to nobody");
            let rest = if route.rest.is_empty() { "/" } else { route.rest };
            (place.origin().to_string(), rest.to_owned())
        }
        Form::Endpoint | Form::Root => {
            assert_eq!(route.prefix, mapping.here.prefix, "{path:?}");
            (url.origin().to_string(), base.target(route.rest, None))
        }
    }
}

/// Checks what became of a document.
fn check_document(mapping: &Mapping<'_>, bodies: Bodies, document: &str) {
    let Some(mapped) = links::document(document.as_bytes(), bodies, mapping) else { return };
    let mapped = String::from_utf8(mapped).expect("it was UTF-8");
    let Ok(before) = serde_json::from_str::<Value>(document) else { return };
    let after: Value = serde_json::from_str(&mapped)
        .unwrap_or_else(|error| panic!("{document:?} became {mapped:?}: {error}"));
    compare(mapping, &before, &after, false);
}

/// Checks that two values differ in links only, and in none within `data`.
fn compare(mapping: &Mapping<'_>, before: &Value, after: &Value, data: bool) {
    const DATA: [&str; 8] =
        ["metadata", "outputs", "parameters", "template", "environment", "attributes", "user_data", "body"];
    match (before, after) {
        (Value::Object(before), Value::Object(after)) => {
            assert!(before.keys().eq(after.keys()));
            for ((name, before), after) in before.iter().zip(after.values()) {
                let data = data
                    || DATA.contains(&name.as_str())
                    || name.ends_with("_ref")
                    || name.starts_with("OS-")
                    || name == "properties" && before.is_object();
                compare(mapping, before, after, data);
            }
        }
        (Value::Array(before), Value::Array(after)) => {
            assert_eq!(before.len(), after.len());
            before.iter().zip(after).for_each(|(before, after)| compare(mapping, before, after, data));
        }
        (Value::String(before), Value::String(after)) if before != after => {
            assert!(!data, "{before:?} became {after:?}");
            if !before.starts_with('/') || before.starts_with("//") {
                return check_reference(mapping, before, after);
            }
            let There { url, base, .. } = mapping.there;
            let (path, tail) = after.split_at(after.find(['?', '#']).unwrap_or(after.len()));
            let (origin, target) = led_to(mapping, mapping.here.form == Form::Root, path);
            assert_eq!(origin, url.origin().to_string(), "{before:?} became {after:?}");
            let whole = format!("{target}{tail}");
            let below_root = format!("{}{before}", base.root());
            assert!(whole == *before || whole == below_root, "{before:?} became {after:?}");
        }
        (before, after) => assert_eq!(before, after),
    }
}
