use http::header::{CONTENT_LOCATION, LINK, LOCATION};
use proptest::prelude::*;

use super::*;

const PROJECT: &str = "0123456789abcdef0123456789abcdef";

/// What a cloud consists of, besides the endpoint that a test is about.
const ELSEWHERE: [(&str, &str); 5] = [
    ("image", "http://cloud.example:9292"),
    ("identity", "https://cloud.example/identity/v3"),
    ("orchestration", "https://heat.example:8004/v1/0123456789abcdef0123456789abcdef"),
    ("object-store", "http://[2001:db8::1]:8080/v1/AUTH_0123456789abcdef0123456789abcdef"),
    ("network", "http://cloud.example:9696"),
];

/// How a request was addressed, and what the service was asked for.
#[derive(Clone, Copy)]
struct Asked<'a> {
    form: Form,
    prefix: &'a str,
    rest: &'a str,
    target: &'a str,
    authority: Option<&'a str>,
    ordinary: Option<&'a str>,
}

const PLAIN: Asked<'static> = Asked {
    form: Form::Endpoint,
    prefix: "/cloud/lab/project/p%20q/compute",
    rest: "/servers",
    target: "/v2.1/servers",
    authority: Some("localhost:8180"),
    ordinary: None,
};

fn with_mapping<T>(
    endpoint: &str,
    asked: Asked<'_>,
    rooted: bool,
    use_it: impl FnOnce(&Mapping<'_>) -> T,
) -> T {
    let url = BaseUrl::parse(endpoint).expect(endpoint);
    let elsewhere = ELSEWHERE.map(|(name, url)| (name, BaseUrl::parse(url).unwrap()));
    let all = [("compute", &url)].into_iter().chain(elsewhere.iter().map(|(name, url)| (*name, url)));
    let origins = Origins::of(all.map(|(name, url)| (name, None, url)), Some(PROJECT));
    let base = Base::new(url.path(), Some(PROJECT));
    let Asked { form, prefix, rest, target, authority, ordinary } = asked;
    let here = Here { scheme: Scheme::Http, authority, prefix, form, rest, ordinary, rooted };
    use_it(&Mapping { here, there: There { url: &url, base: &base, origins: &origins, target } })
}

fn map_from(endpoint: &str, asked: Asked<'_>, reference: &str) -> Option<String> {
    with_mapping(endpoint, asked, false, |mapping| mapping.local(reference))
}

#[track_caller]
fn check(endpoint: &str, reference: &str, rest: &str) {
    let expected = format!("http://localhost:8180{}{rest}", PLAIN.prefix);
    assert_eq!(map_from(endpoint, PLAIN, reference), Some(expected), "{reference} at {endpoint}");
}

#[track_caller]
fn check_origin(endpoint: &str, reference: &str, id_and_rest: &str) {
    let expected = format!("http://localhost:8180/cloud/lab/project/p%20q/origin/{id_and_rest}");
    assert_eq!(map_from(endpoint, PLAIN, reference), Some(expected), "{reference} at {endpoint}");
}

#[track_caller]
fn check_unchanged(endpoint: &str, reference: &str) {
    assert_eq!(map_from(endpoint, PLAIN, reference), None, "{reference} at {endpoint}");
}

const NOVA: &str = "http://cloud.example:8774/v2.1";

#[test]
fn what_lies_under_the_endpoint_is_mapped_to_the_requests_own_address() {
    check(NOVA, "http://cloud.example:8774/v2.1/servers/1", "/servers/1");
    check(NOVA, "HTTP://Cloud.Example:8774/v2.1/servers/1?a=b#c", "/servers/1?a=b#c");
    check(NOVA, "http://cloud.example:8774/v2.1", "");
    check(NOVA, "http://cloud.example:8774/v2.1/", "/");
    check(NOVA, "http://cloud.example:8774/v2.1?x=/v3", "?x=/v3");
    check(NOVA, "//cloud.example:8774/v2.1/a", "/a");
    check(NOVA, "/v2.1/servers/a%2Fb//c/", "/servers/a%2Fb//c/");
    check(NOVA, "http://cloud.example:8774/v2/servers/1", "/v2/servers/1");
    check(NOVA, "http://cloud.example:8774/v2.1/v2/odd", "/v2.1/v2/odd");
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
fn who_asked_with_a_version_gets_one() {
    let asked = Asked { rest: "/v2.1/servers", ..PLAIN };
    let mapped = map_from(NOVA, asked, "http://cloud.example:8774/v2.1/servers/1");
    assert_eq!(
        mapped.as_deref(),
        Some("http://localhost:8180/cloud/lab/project/p%20q/compute/v2.1/servers/1")
    );
    let cinder = format!("http://cloud.example:8776/v3/{PROJECT}");
    let asked = Asked { rest: "/v3/volumes", ..PLAIN };
    let mapped = map_from(&cinder, asked, &format!("{cinder}/volumes/1"));
    let expected = format!("http://localhost:8180/cloud/lab/project/p%20q/compute/v3/{PROJECT}/volumes/1");
    assert_eq!(mapped, Some(expected));
}

#[test]
fn what_else_the_catalog_has_is_below_its_origin() {
    check_origin(NOVA, "http://cloud.example:8774", "http-cloud.example-8774/");
    check_origin(NOVA, "http://cloud.example:8774?a", "http-cloud.example-8774/?a");
    check_origin(NOVA, "http://cloud.example:8774/", "http-cloud.example-8774/");
    check_origin(NOVA, "http://cloud.example:8774/servers/1", "http-cloud.example-8774/servers/1");
    check_origin(NOVA, "/servers/1", "http-cloud.example-8774/servers/1");
    check_origin(NOVA, "http://cloud.example:9292/images/1", "http-cloud.example-9292/images/1");
    check_origin(
        NOVA,
        "https://cloud.example/identity/v3/users",
        "https-cloud.example-443/identity/v3/users",
    );
    check_origin(NOVA, "https://heat.example:8004/v1/x", "https-heat.example-8004/v1/x");
    check_origin(NOVA, "http://[2001:DB8::1]:8080/v1/AUTH_x/c", "http-2001.db8..1-8080/v1/AUTH_x/c");
    // Asking the endpoint for it would put a version in front.
    let glance = "http://cloud.example:9292";
    check_origin(glance, "http://cloud.example:9292/tasks/1", "http-cloud.example-9292/tasks/1");
}

#[test]
fn anything_else_stays_as_it_is() {
    for reference in [
        "",
        "servers/1",
        "?marker=1",
        "#top",
        "http://cloud.example:8775/v2.1/servers",
        "http://elsewhere.example/v2.1/servers",
        "https://cloud.example/identityevil",
        "https://cloud.example/",
        "https://cloud.example/dashboard",
        "http://user@cloud.example:8774/v2.1/servers",
        "http://cloud.example:8774@elsewhere.example/v2.1/servers",
        "http://cloud.example:8774.elsewhere.example/v2.1/servers",
        "http://cloud.example:8774/v2.1/../admin",
        "http://cloud.example:8774/v2.1/%2e%2e/admin",
        "http://cloud.example:9292/..",
        "/v2.1/a\\b",
        "/login/../next=http://cloud.example:8774/v2.1/servers",
        "javascript:alert(1)",
        "ftp://cloud.example:8774/v2.1/servers",
        "//elsewhere.example/v2.1/servers",
        "http://",
        "http:///v2.1",
        "http://:8774/v2.1",
        "http://[2001:db8::1]evil:8080/v1",
        "http://[2001:db8::1:8080/v1",
        "http://2001:db8::1:8080/v1",
        "http://[cloud.example]:8774/v2.1",
        "http://cloud.example:+8774/v2.1",
        "http://cloud.example:08774x/v2.1",
        "http://cloud.example:99999/v2.1",
    ] {
        check_unchanged(NOVA, reference);
    }
    check_unchanged("https://nova.example/compute/v2.1", "/elsewhere");
    check_unchanged("https://nova.example/compute/v2.1", "https://nova.example/computer");
}

#[test]
fn a_service_behind_tls_may_not_know_that_it_is() {
    let nova = "https://nova.example:8774/v2.1";
    check(nova, "http://nova.example:8774/v2.1/servers/1", "/servers/1");
    check(nova, "http://NOVA.example:8774/v2.1/servers/1", "/servers/1");
    let nova = "https://nova.example/compute/v2.1";
    check(nova, "http://nova.example/compute/v2.1/servers/1", "/servers/1");
    check(nova, "http://nova.example:80/compute/v2.1/servers/1", "/servers/1");
    check(nova, "http://nova.example:443/compute/v2.1/servers/1", "/servers/1");
    check_origin(nova, "http://heat.example:8004/v1/x", "https-heat.example-8004/v1/x");
    check_origin(nova, "http://cloud.example/identity/v3/users", "https-cloud.example-443/identity/v3/users");
    check_unchanged(nova, "http://nova.example:8774/compute/v2.1/servers/1");
    check_unchanged("https://nova.example:8774/v2.1", "http://nova.example/v2.1/servers");
    // What the catalog has is no mistake.
    check_origin(
        "https://cloud.example:9292/v2.1",
        "http://cloud.example:9292/v2.1/servers",
        "http-cloud.example-9292/v2.1/servers",
    );
}

#[test]
fn where_the_service_is_at_its_root_its_paths_are_its_own() {
    let asked = Asked {
        form: Form::Root,
        rest: "/v2.1/servers",
        authority: Some("compute.localhost:8180"),
        ordinary: Some("http://localhost:8180"),
        ..PLAIN
    };
    let nova = "https://nova.example/nova/v2.1";
    for (reference, mapped) in [
        ("https://nova.example/nova/v2.1/servers/1", Some("http://compute.localhost:8180/v2.1/servers/1")),
        ("https://nova.example/nova/servers/1?x", Some("http://compute.localhost:8180/servers/1?x")),
        ("/nova/servers/1", Some("http://compute.localhost:8180/servers/1")),
        ("https://nova.example/nova/", Some("http://compute.localhost:8180/")),
        (
            "https://nova.example/nova",
            Some("http://localhost:8180/cloud/lab/project/p%20q/origin/https-nova.example-443/nova"),
        ),
        (
            "http://cloud.example:9292/v2/images",
            Some("http://localhost:8180/cloud/lab/project/p%20q/origin/http-cloud.example-9292/v2/images"),
        ),
        ("/servers/1", None),
        ("https://nova.example/novas/1", None),
    ] {
        assert_eq!(map_from(nova, asked, reference).as_deref(), mapped, "{reference}");
    }
    // Nowhere to be reached.
    let alone = Asked { ordinary: None, ..asked };
    assert_eq!(map_from(nova, alone, "http://cloud.example:9292/v2/images"), None);
    assert!(map_from(nova, alone, "https://nova.example/nova/v2.1").is_some());
}

#[test]
fn at_an_origin_the_whole_path_is_the_services() {
    let prefix = "/cloud/lab/origin/http-cloud.example-8774";
    let asked = Asked { form: Form::Origin, prefix, rest: "/v2.1/servers", ..PLAIN };
    for (reference, rest) in [
        ("http://cloud.example:8774/v2.1/servers/1", "/v2.1/servers/1"),
        ("http://cloud.example:8774/servers/1", "/servers/1"),
        ("/servers/1?a=/b", "/servers/1?a=/b"),
        ("http://cloud.example:8774", "/"),
    ] {
        let expected = format!("http://localhost:8180{prefix}{rest}");
        assert_eq!(map_from(NOVA, asked, reference), Some(expected), "{reference}");
    }
    let elsewhere = map_from(NOVA, asked, "http://cloud.example:9292/v2/images");
    let expected = "http://localhost:8180/cloud/lab/origin/http-cloud.example-9292/v2/images";
    assert_eq!(elsewhere.as_deref(), Some(expected));
}

#[test]
fn without_a_host_a_reference_becomes_relative() {
    let asked = Asked { authority: None, ..PLAIN };
    let mapped = map_from(NOVA, asked, "http://cloud.example:8774/v2.1/a?b");
    assert_eq!(mapped.as_deref(), Some("/cloud/lab/project/p%20q/compute/a?b"));
    let mapped = map_from(NOVA, asked, "http://cloud.example:8774/a");
    assert_eq!(mapped.as_deref(), Some("/cloud/lab/project/p%20q/origin/http-cloud.example-8774/a"));
}

#[test]
fn every_field_that_refers_to_something_is_mapped() {
    let mut response = Response::new(());
    let fields = response.headers_mut();
    fields.insert(LOCATION, HeaderValue::from_static("http://cloud.example:8774/v2.1/servers/1"));
    fields.insert(CONTENT_LOCATION, HeaderValue::from_static("/v2.1/servers/1"));
    let links = "<http://cloud.example:8774/v2.1/servers?marker=1>; rel=next, <http://c/>; rel=x; title=\"<http://cloud.example:8774/v2.1/a>, \"";
    fields.append(LINK, HeaderValue::from_static(links));
    fields.append(LINK, HeaderValue::from_static("</v2.1/b>; rel=b"));
    fields.append("x-other", HeaderValue::from_static("http://cloud.example:8774/v2.1/servers/1"));
    let is_held = with_mapping(NOVA, PLAIN, true, |mapping| localize(&mut response, Bodies::All, mapping));
    assert!(!is_held);
    let here = "http://localhost:8180/cloud/lab/project/p%20q/compute";
    let fields = response.headers();
    assert_eq!(fields[LOCATION], format!("{here}/servers/1"));
    assert_eq!(fields[CONTENT_LOCATION], format!("{here}/servers/1"));
    let links: Vec<_> = fields.get_all(LINK).iter().collect();
    assert_eq!(
        links[0],
        &format!(
            "<{here}/servers?marker=1>; rel=next, <http://c/>; rel=x; title=\"<http://cloud.example:8774/v2.1/a>, \""
        )
    );
    assert_eq!(links[1], &format!("<{here}/b>; rel=b"));
    assert_eq!(fields["x-other"], "http://cloud.example:8774/v2.1/servers/1");
}

#[test]
fn only_json_as_it_is_may_hold_links() {
    #[track_caller]
    fn check(expected: bool, status: u16, bodies: Bodies, target: &str, fields: &[(&'static str, &str)]) {
        let mut response = Response::builder().status(status).body(()).unwrap();
        for (name, value) in fields {
            response.headers_mut().append(*name, HeaderValue::from_str(value).unwrap());
        }
        let asked = Asked { target, ..PLAIN };
        let held = with_mapping(NOVA, asked, true, |mapping| localize(&mut response, bodies, mapping));
        assert_eq!(held, expected, "{status} {bodies:?} {target} {fields:?}");
    }
    for (expected, media_type) in [
        (true, "application/json"),
        (true, "Application/JSON ; charset=UTF-8"),
        (true, "application/json;charset=\"utf-8\"; a=b"),
        (true, "application/problem+json"),
        (true, "application/vnd.openstack.compute+JSON"),
        (false, "application/json; charset=utf-16"),
        (false, "application/json; charset=\"iso-8859-1\""),
        (false, "application/json-home"),
        (false, "application/jsonl"),
        (false, "application/x+json+xml"),
        (false, "application/"),
        (false, "json"),
        (false, "text/json"),
        (false, "text/plain; x=application/json"),
        (false, "application/octet-stream"),
        (false, ""),
    ] {
        check(expected, 200, Bodies::All, "/v2.1/servers", &[("content-type", media_type)]);
    }
    let json = ("content-type", "application/json");
    check(false, 200, Bodies::All, "/", &[]);
    check(false, 200, Bodies::All, "/", &[json, json]);
    check(false, 206, Bodies::All, "/", &[json]);
    check(false, 200, Bodies::All, "/", &[json, ("content-range", "bytes 0-1/2")]);
    check(false, 200, Bodies::All, "/", &[json, ("content-encoding", "gzip")]);
    check(
        false,
        200,
        Bodies::All,
        "/",
        &[json, ("content-encoding", "identity"), ("content-encoding", "br")],
    );
    check(true, 200, Bodies::All, "/", &[json, ("content-encoding", "identity")]);
    for status in [200, 201, 202, 300, 302, 400, 409, 503] {
        check(true, status, Bodies::All, "/", &[json]);
    }
    check(true, 304, Bodies::All, "/", &[]);
    check(false, 304, Bodies::None, "/", &[]);
    check(false, 200, Bodies::of("object-store"), "/v1/AUTH_x/c/o", &[json]);
    for (service, target) in [
        ("image", "/v2/images/1/file?a=b"),
        ("image", "/v2/images/1/file/"),
        ("image", "/v2/images/1/stage"),
        ("key-manager", "/v1/secrets/1/payload"),
        ("orchestration", "/v1/p/stacks/a/b/template"),
        ("orchestration", "/v1/p/stacks/a/b/environment"),
        ("orchestration", "/v1/p/stacks/a/b/files"),
    ] {
        check(false, 200, Bodies::of(service), target, &[json]);
        check(true, 200, Bodies::of("compute"), target, &[json]);
    }
    check(true, 200, Bodies::of("image"), "/v2/images?file", &[json]);
    check(true, 200, Bodies::of("orchestration"), "/v1/p/stacks", &[json]);
}

#[test]
fn what_is_said_of_the_bytes_is_taken_back() {
    let mut fields = HeaderMap::new();
    for (name, value) in [
        ("etag", "\"abc\""),
        ("digest", "md5=x"),
        ("content-md5", "x"),
        ("content-digest", "sha-256=:x:"),
        ("repr-digest", "sha-256=:x:"),
        ("accept-ranges", "bytes"),
        ("content-length", "7"),
        ("x-openstack-request-id", "req-1"),
    ] {
        fields.insert(name, HeaderValue::from_static(value));
    }
    forget_bytes(&mut fields);
    assert_eq!(fields.len(), 3);
    assert_eq!(
        (&fields["etag"], &fields["content-length"]),
        (&HeaderValue::from_static("W/\"abc\""), &7.into())
    );
    forget_length(&mut fields);
    assert_eq!(fields.len(), 2);
    assert_eq!(fields["etag"], "W/\"abc\"");
}

fn document_at(endpoint: &str, asked: Asked<'_>, rooted: bool, bodies: Bodies, body: &str) -> String {
    let mapped = with_mapping(endpoint, asked, rooted, |mapping| document(body.as_bytes(), bodies, mapping));
    mapped.map_or_else(|| body.to_owned(), |mapped| String::from_utf8(mapped).expect("it was UTF-8"))
}

#[test]
fn a_version_document_may_be_wrong_about_its_host() {
    #[track_caller]
    fn check(endpoint: &str, target: &str, href: &str, rest: Option<&str>) {
        let asked = Asked { target, ..PLAIN };
        let body = |href: &str| {
            format!(
                r#"{{"versions": [{{"id": "v2.1", "links": [{{"rel": "self", "href": "{href}"}}, {{"rel": "describedby", "href": "http://docs.example/v2.1"}}]}}]}}"#
            )
        };
        let expected = rest.map_or(href.to_owned(), |rest| format!("http://localhost:8180{rest}"));
        let mapped = document_at(endpoint, asked, false, Bodies::All, &body(href));
        assert_eq!(mapped, body(&expected), "{href} at {target}");
    }
    let prefix = PLAIN.prefix;
    let here = |rest: &str| format!("{prefix}{rest}");
    check(NOVA, "/", "http://localhost:8774/v2.1/", Some(&here("/")));
    check(NOVA, "/", "http://nova-internal/compute/v2/", Some(&here("/v2/")));
    check(NOVA, "/v2.1/", "http://nova-internal/v2.1", Some(&here("")));
    check(NOVA, "/v2.1", "https://nova-internal:1/v2/", Some(&here("/v2/")));
    let below = "https://nova.example/compute/v2.1";
    check(below, "/compute/", "http://10.0.0.1:8774/v2.1/", Some(&here("/")));
    check(below, "/compute", "http://10.0.0.1:8774/v2.1/", Some(&here("/")));
    // Whatever proxy took the first segment away.
    check(below, "/compute/", "https://nova.example/v2/", Some(&here("/v2/")));
    check(below, "/compute/", "https://nova.example/compute/v2/", Some(&here("/v2/")));
    check("http://cloud.example:9292", "/versions?a", "http://localhost:9292/v2/", Some(&here("/v2/")));

    check(NOVA, "/", "http://localhost:8774/", None);
    check(NOVA, "/", "http://v2.1", None);
    check(NOVA, "/", "http://v2.1/", None);
    check(NOVA, "/", "", None);
    check(NOVA, "/", "v2.1/", None);
    check(NOVA, "/", "http://localhost:8774/v2.1/servers", None);
    check(NOVA, "/v2.1/servers", "http://localhost:8774/v2.1", None);
    check(below, "/", "http://localhost:8774/v2.1", None);
}

#[test]
fn a_link_without_a_host_is_below_the_services_own_root() {
    #[track_caller]
    fn check(endpoint: &str, asked: Asked<'_>, link: &str, mapped: &str) {
        let body = |link: &str| format!(r#"{{"images": [], "next": "{link}"}}"#);
        assert_eq!(document_at(endpoint, asked, true, Bodies::Image, &body(link)), body(mapped), "{link}");
        assert_eq!(document_at(endpoint, asked, false, Bodies::Image, &body(link)), body(link), "{link}");
    }
    let page = "/v2/images?marker=1";
    let mapped = format!("{}{page}", PLAIN.prefix);
    for endpoint in
        ["http://cloud.example:9292", "https://cloud.example/image", "https://cloud.example/image/v1"]
    {
        check(endpoint, PLAIN, page, &mapped);
    }
    check("https://cloud.example/image/v2", PLAIN, page, &format!("{}/images?marker=1", PLAIN.prefix));
    // Some deployments have it right.
    check("https://cloud.example/image", PLAIN, &format!("/image{page}"), &mapped);
    let root = Asked { form: Form::Root, ..PLAIN };
    check("https://cloud.example/image", root, page, page);
    check("https://cloud.example/image", root, &format!("/image{page}"), page);
    let origin = Asked { form: Form::Origin, prefix: "/origin/https-cloud.example-443", ..PLAIN };
    check(
        "https://cloud.example/image",
        origin,
        page,
        &format!("/origin/https-cloud.example-443/image{page}"),
    );
    check("http://cloud.example:9292", origin, page, &format!("/origin/https-cloud.example-443{page}"));
    check("http://cloud.example:9292", PLAIN, "/images", "/images");
    check("http://cloud.example:9292", PLAIN, "/v2/../images", "/v2/../images");
    let quoted = Asked { prefix: "/cloud/a\"b/image", ..PLAIN };
    check("http://cloud.example:9292", quoted, page, &format!("/cloud/a\\\"b/image{page}"));
}

/// Where a request for this URL at keyway leads to: origin and path.
fn target_of(mapping: &Mapping<'_>, asked: &str) -> (String, String) {
    let There { url, base, origins, .. } = mapping.there;
    let route = Route::parse(asked).expect("keyway takes it");
    match route.form {
        Form::Origin => {
            let place = origins.place(&route.origin().unwrap().unwrap()).expect("there is such a place");
            place.entry(route.rest).expect("it belongs to an endpoint");
            let path = if route.rest.is_empty() { "/" } else { route.rest };
            (place.origin().to_string(), path.to_owned())
        }
        _ => {
            assert_eq!(route.prefix, mapping.here.prefix);
            (url.origin().to_string(), base.target(route.rest, Some("v9")))
        }
    }
}

proptest! {
    #[test]
    fn no_reference_makes_it_panic_or_leave_keyway(reference in "\\PC{0,40}|(http:)?//cloud.example:(8774|9292)[/a-z@:?#.%]{0,20}") {
        if let Some(mapped) = map_from(NOVA, PLAIN, &reference) {
            prop_assert!(mapped.starts_with("http://localhost:8180/cloud/lab/project/p%20q/"), "{mapped}");
        }
    }

    #[test]
    fn a_mapped_reference_leads_to_the_same_target(
        root in "(/[a-z]{1,4}){0,2}",
        version in "(/v[1-3](\\.[0-9])?)?",
        account in "(/AUTH_0123456789abcdef0123456789abcdef)?",
        path in "(/[a-cv1-3%.]{0,4}){0,4}",
        tail in "([?#][a-z/]{0,4})?",
        host in "(https?:)?//(h:1|cloud.example(:9292|:443|:80)?|heat.example:8004)|",
        under in any::<bool>(),
        versioned in any::<bool>(),
    ) {
        let account = if version.is_empty() { String::new() } else { account };
        let endpoint = format!("http://h:1{root}{version}{account}");
        let path = if under { format!("{root}{version}{account}{path}") } else { path };
        prop_assume!(!host.is_empty() || !path.starts_with("//"));
        let asked = Asked { rest: if versioned { "/v2/x" } else { "/x" }, ..PLAIN };
        with_mapping(&endpoint, asked, false, |mapping| {
            let Some(mapped) = mapping.local(&format!("{host}{path}{tail}")) else { return Ok(()) };
            let asked = mapped.strip_prefix("http://localhost:8180").expect("it is absolute");
            let end = asked.find(['?', '#']).unwrap_or(asked.len());
            prop_assert_eq!(&asked[end..], &tail);
            let (origin, target) = target_of(mapping, &asked[..end]);
            prop_assert_eq!(target, if path.is_empty() { "/" } else { &path });
            let host = host.strip_prefix("http:").or(host.strip_prefix("https:")).unwrap_or(&host);
            let expected = match host {
                "" | "//h:1" => "http://h:1",
                "//cloud.example:9292" => "http://cloud.example:9292",
                "//heat.example:8004" => "https://heat.example:8004",
                _ => "https://cloud.example",
            };
            prop_assert_eq!(origin, expected);
            Ok(())
        })?;
    }
}
