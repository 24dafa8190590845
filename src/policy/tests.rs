use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_encode_byte, utf8_percent_encode};
use proptest::prelude::*;

use super::*;

const ID: &str = "0123456789abcdef0123456789abcdef";
const OTHER: &str = "fedcba9876543210fedcba9876543210";
const NAME: &str = "demo";

fn list(items: &[&str]) -> Vec<String> {
    items.iter().map(|item| (*item).to_owned()).collect()
}

fn rule(effect: Effect, methods: &[&str], paths: &[&str]) -> Rule {
    Rule { name: "rule".to_owned(), effect, methods: list(methods), paths: list(paths), ..Rule::default() }
}

fn policy(read_only: bool, default: Effect, rules: Vec<Rule>) -> Arc<Policy> {
    Arc::new(Policy::new("test", read_only, default, rules).expect("a good policy"))
}

/// One service with the token's project [`ID`]; `{id}` stands for it in `base`.
fn at(policy: &Arc<Policy>, service: &str, base: &str) -> Scoped {
    let base = Base::new(&base.replace("{id}", ID), Some(ID));
    policy.at(&[View::new(Some(service), ["nova"], base)].into(), Some((ID, NAME)))
}

fn method(name: &str) -> Method {
    Method::from_bytes(name.as_bytes()).unwrap()
}

/// Which rule denies a GET of this path; empty if it may pass. `{id}` and `{other}` are projects.
fn denied<'a>(scoped: &'a Scoped, name: &str, path: &str) -> &'a str {
    let path = path.replace("{id}", ID).replace("{other}", OTHER);
    scoped.decide(&method(name), &path).map_or_else(|denied| denied.rule, |()| "")
}

#[test]
fn a_wrong_policy_says_everything_that_is_wrong() {
    let good = || rule(Effect::Deny, &["GET"], &[]);
    let check = |read_only, rules: Vec<Rule>, expected: &[(Option<usize>, &str, &str)]| {
        let mistakes = Policy::new("test", read_only, Effect::Deny, rules).unwrap_err();
        assert_eq!(mistakes.len(), expected.len(), "{mistakes:?}");
        for (mistake, (rule, key, message)) in mistakes.iter().zip(expected) {
            assert_eq!((mistake.rule, mistake.key), (*rule, *key), "{mistake:?}");
            assert!(mistake.message.contains(message), "{mistake:?}");
        }
    };
    check(false, vec![good(), good()], &[(Some(1), "name", "another rule is called `rule`")]);
    check(false, vec![rule(Effect::Allow, &[], &[])], &[(Some(0), "", "speaks of every request")]);
    for name in ["", " ", "a\nb", "a`b", "b\u{e4}d", &"x".repeat(65)] {
        check(false, vec![Rule { name: name.to_owned(), ..good() }], &[(Some(0), "name", "1 to 64 letters")]);
    }
    for name in ["read_only", "default"] {
        let rule = Rule { name: name.to_owned(), ..good() };
        check(false, vec![rule], &[(Some(0), "name", "choose another name")]);
    }
    for name in ["get", "BREW", "", "GET ", "*", "TRACE"] {
        check(false, vec![rule(Effect::Deny, &[name], &[])], &[(Some(0), "methods", "write one of GET")]);
    }
    check(true, vec![rule(Effect::Allow, &["POST"], &[])], &[(Some(0), "methods", "denies POST before")]);
    check(
        false,
        vec![Rule {
            services: list(&["", "a/b", "compute"]),
            projects: list(&[" x"]),
            paths: list(&["servers", "/a//b"]),
            ..good()
        }],
        &[
            (Some(0), "services", "no service's name"),
            (Some(0), "services", "no service's name"),
            (Some(0), "projects", "no project's name"),
            (Some(0), "paths", "does not start with `/`"),
            (Some(0), "paths", "empty segment"),
        ],
    );
    assert_eq!(Policy::new("", false, Effect::Deny, Vec::new()).unwrap_err()[0].rule, None);
}

// Promise 43.
#[test]
fn read_only_knows_three_methods_by_their_very_names() {
    let policy = policy(true, Effect::Allow, Vec::new());
    let scoped = at(&policy, "compute", "/v2.1");
    for name in ["GET", "HEAD", "OPTIONS"] {
        assert_eq!(denied(&scoped, name, "/v2.1/servers"), "", "{name}");
        assert_eq!(policy.before(&method(name)), Ok(()));
    }
    for name in ["POST", "PUT", "PATCH", "DELETE", "COPY", "BREW", "get", "Get", "GETX", "post", "options"] {
        assert_eq!(denied(&scoped, name, "/v2.1/servers"), READ_ONLY, "{name}");
        assert_eq!(policy.before(&method(name)).unwrap_err().rule, READ_ONLY);
    }
}

// Promise 43.
#[test]
fn a_denied_method_is_denied_in_any_case_and_an_allowed_one_is_not_allowed_in_any() {
    let deny = policy(false, Effect::Allow, vec![rule(Effect::Deny, &["POST"], &[])]);
    let allow = policy(false, Effect::Deny, vec![rule(Effect::Allow, &["POST"], &[])]);
    for name in ["POST", "post", "Post", "pOST"] {
        assert_eq!(denied(&at(&deny, "compute", "/v2.1"), name, "/v2.1/servers"), "rule", "{name}");
        let scoped = at(&allow, "compute", "/v2.1");
        let rule = denied(&scoped, name, "/v2.1/servers");
        assert_eq!(rule, if name == "POST" { "" } else { DEFAULT }, "{name}");
        assert!(deny.before(&method(name)).is_err());
        assert_eq!(allow.before(&method(name)).is_ok(), name == "POST");
    }
    assert_eq!(denied(&at(&deny, "compute", "/v2.1"), "GET", "/v2.1/servers"), "");
}

#[test]
fn the_first_rule_that_speaks_decides() {
    let named =
        |name: &str, effect, paths: &[&str]| Rule { name: name.to_owned(), ..rule(effect, &[], paths) };
    let policy = policy(
        false,
        Effect::Deny,
        vec![
            named("one", Effect::Allow, &["/servers/1"]),
            named("others", Effect::Deny, &["/servers/*"]),
            named("rest", Effect::Allow, &["/servers/**", "/flavors"]),
        ],
    );
    let scoped = at(&policy, "compute", "/v2.1");
    for (path, rule) in [
        ("/v2.1/servers/1", ""),
        ("/v2.1/servers/2", "others"),
        ("/v2.1/servers", ""),
        ("/v2.1/servers/2/action", ""),
        ("/v2.1/flavors", ""),
        ("/v2.1/flavors/1", DEFAULT),
        ("/v2.1", DEFAULT),
    ] {
        assert_eq!(denied(&scoped, "GET", path), rule, "{path}");
    }
}

#[test]
fn what_is_known_before_is_never_more_than_what_is_decided() {
    let mut last = rule(Effect::Allow, &["DELETE"], &[]);
    last.name = "last".to_owned();
    let policy = policy(false, Effect::Deny, vec![rule(Effect::Deny, &["PUT"], &["/servers"]), last]);
    for (name, known) in [("GET", false), ("PUT", true), ("DELETE", true), ("delete", false)] {
        assert_eq!(policy.before(&method(name)).is_ok(), known, "{name}");
    }
}

#[test]
fn version_and_project_are_no_part_of_a_pattern() {
    let only = policy(false, Effect::Deny, vec![rule(Effect::Allow, &[], &["/servers/*"])]);
    for (base, path, rule) in [
        ("/v2.1", "/v2.1/servers/1", ""),
        ("/v2.1", "/v2/servers/1", ""),
        ("", "/v2.1/servers/1", ""),
        ("/compute/v2.1", "/compute/v2.1/servers/1", ""),
        ("/compute", "/compute/v2.1/servers/1", ""),
        ("/compute", "/compute/servers/1", ""),
        ("/v2.1/{id}", "/v2.1/{id}/servers/1", ""),
        ("/v2.1/{id}", "/v2/{other}/servers/1", ""),
        ("/v1/AUTH_{id}", "/v1/AUTH_{id}/servers/1", ""),
        // A container, whose object is `servers/1`.
        ("/v1/AUTH_{id}", "/v1/AUTH_{id}/{other}/servers/1", DEFAULT),
        // Where the endpoint has no project this may be one, or a resource.
        ("/v2.1", "/v2.1/{id}/servers/1", DEFAULT),
        ("/v2.1", "/v2.1/v2.1/servers/1", DEFAULT),
    ] {
        assert_eq!(denied(&at(&only, "compute", base), "GET", path), rule, "{base} {path}");
    }
    let none = policy(false, Effect::Allow, vec![rule(Effect::Deny, &[], &["/servers/*"])]);
    for (base, path, rule) in [
        ("/v2.1", "/v2.1/servers/1", "rule"),
        ("/v2.1", "/v2.1/{id}/servers/1", "rule"),
        ("/v2.1", "/v2.1/{other}/servers/1", "rule"),
        ("", "/%76%32.1/servers/1", "rule"),
        ("", "//v2.1/servers/1", "rule"),
        ("", "/v2.1//servers/1", "rule"),
        ("/v2.1/{id}", "/v2.1/{other}/servers/1", "rule"),
        ("/v2.1", "/v2.1/images/1", ""),
    ] {
        assert_eq!(denied(&at(&none, "compute", base), "GET", path), rule, "{base} {path}");
    }
}

#[test]
fn a_service_has_a_type_aliases_and_a_name() {
    for (named, service, same) in [
        ("compute", "compute", true),
        ("COMPUTE", "compute", true),
        ("nova", "compute", true),
        ("volume", "volumev3", true),
        ("block-storage", "volumev3", true),
        ("block_storage", "volumev2", true),
        ("image", "compute", false),
        ("comput", "compute", false),
    ] {
        let rules = |effect| vec![Rule { services: list(&[named]), ..rule(effect, &[], &[]) }];
        let deny = policy(false, Effect::Allow, rules(Effect::Deny));
        assert_eq!(denied(&at(&deny, service, "/v3"), "GET", "/v3/x") == "rule", same, "{named} {service}");
        let allow = policy(false, Effect::Deny, rules(Effect::Allow));
        assert_eq!(denied(&at(&allow, service, "/v3"), "GET", "/v3/x").is_empty(), same, "{named} {service}");
        // One endpoint for everything: nobody knows which service it is.
        let views: Arc<[View]> = [View::new(None, [], Base::new("/v3", None))].into();
        assert_eq!(denied(&deny.at(&views, None), "GET", "/v3/x"), "rule");
        assert_eq!(denied(&allow.at(&views, None), "GET", "/v3/x"), DEFAULT);
    }
}

#[test]
fn a_service_reached_through_another_ones_url_is_still_itself() {
    let base = |path: &str| Base::new(path, Some(ID));
    // Objects over `s3`, whose URL is the origin that the other API is on as well.
    let objects = |name: &str| View::new(Some("object-store"), [name], base("/swift/v1"));
    let views: Arc<[View]> = [View::new(Some("s3"), [], base("")), objects("swift")].into();
    let rules =
        |effect| vec![Rule { services: list(&["object-store"]), ..rule(effect, &["DELETE"], &["/box/**"]) }];
    let deny = policy(false, Effect::Allow, rules(Effect::Deny)).at(&views, Some((ID, NAME)));
    for path in ["/swift/v1/box/a", "/swift/box/a", "//swift/v1/box", "/%73wift/v1/b%6fx/a"] {
        assert_eq!(denied(&deny, "DELETE", path), "rule", "{path}");
    }
    for path in ["/swift/v1/other/a", "/box/a", "/swiftly/v1/box/a"] {
        assert_eq!(denied(&deny, "DELETE", path), "", "{path}");
    }
    let named =
        |services: &[&str]| vec![Rule { services: list(services), ..rule(Effect::Allow, &["GET"], &[]) }];
    let allow = policy(false, Effect::Deny, named(&["s3"])).at(&views, Some((ID, NAME)));
    assert_eq!(denied(&allow, "GET", "/box/a"), "");
    assert_eq!(denied(&allow, "GET", "/swift/v1/box/a"), DEFAULT);
    let allow = policy(false, Effect::Deny, named(&["s3", "swift"])).at(&views, Some((ID, NAME)));
    assert_eq!(denied(&allow, "GET", "/swift/v1/box/a"), "");
    // The same where the other API is told by its version only.
    let objects = View::new(Some("object-store"), ["swift"], base(&format!("/v1/AUTH_{ID}")));
    let views: Arc<[View]> = [View::new(Some("s3"), [], base("")), objects].into();
    let allow = policy(false, Effect::Deny, named(&["s3"])).at(&views, Some((ID, NAME)));
    assert_eq!(denied(&allow, "GET", "/box/a"), "");
    for path in ["/v1/AUTH_{id}/box/a", "/v1/AUTH_{other}/box", "//v1/AUTH_{id}", "/%761/AUTH_{id}/box"] {
        assert_eq!(denied(&allow, "GET", path), DEFAULT, "{path}");
    }
    let old = View::new(Some("compute_legacy"), ["nova_legacy"], base(&format!("/v2/{ID}")));
    let views: Arc<[View]> = [View::new(Some("compute"), ["nova"], base("/v2.1")), old].into();
    let allow = policy(false, Effect::Deny, named(&["compute"])).at(&views, Some((ID, NAME)));
    assert_eq!(denied(&allow, "GET", "/v2.1/servers"), "");
    assert_eq!(denied(&allow, "GET", "/v2/servers"), "");
}

#[test]
fn a_project_is_the_tokens_and_the_paths() {
    let rules = |effect, projects: &[&str]| vec![Rule { projects: list(projects), ..rule(effect, &[], &[]) }];
    for projects in [&[ID][..], &[NAME], &["x", NAME]] {
        let allow = policy(false, Effect::Deny, rules(Effect::Allow, projects));
        let deny = policy(false, Effect::Allow, rules(Effect::Deny, projects));
        let base = "/v3/{id}";
        assert_eq!(denied(&at(&allow, "volumev3", base), "GET", "/v3/{id}/volumes"), "");
        assert_eq!(denied(&at(&allow, "volumev3", base), "GET", "/v3/{other}/volumes"), DEFAULT);
        assert_eq!(denied(&at(&allow, "compute", "/v2.1"), "GET", "/v2.1/{other}/servers"), DEFAULT);
        assert_eq!(denied(&at(&allow, "compute", "/v2.1"), "GET", "/v2.1/{id}/servers"), "");
        assert_eq!(denied(&at(&deny, "volumev3", base), "GET", "/v3/{id}/volumes"), "rule");
    }
    let allow = policy(false, Effect::Deny, rules(Effect::Allow, &[NAME, OTHER]));
    assert_eq!(denied(&at(&allow, "volumev3", "/v3/{id}"), "GET", "/v3/{other}/volumes"), "");
    let allow = policy(false, Effect::Deny, rules(Effect::Allow, &[OTHER]));
    assert_eq!(denied(&at(&allow, "volumev3", "/v3/{id}"), "GET", "/v3/{other}/volumes"), DEFAULT);

    let deny = policy(false, Effect::Allow, rules(Effect::Deny, &[OTHER]));
    assert_eq!(denied(&at(&deny, "volumev3", "/v3/{id}"), "GET", "/v3/{id}/volumes"), "");
    assert_eq!(denied(&at(&deny, "volumev3", "/v3/{id}"), "GET", "/v3/{other}/volumes"), "rule");
    assert_eq!(denied(&at(&deny, "object-store", "/v1/AUTH_{id}"), "GET", "/v1/AUTH_{other}/c"), "rule");
    assert_eq!(denied(&at(&deny, "compute", "/v2.1"), "GET", "/v2.1/{other}/servers"), "rule");
    // The project behind this id may have the denied name.
    let deny = policy(false, Effect::Allow, rules(Effect::Deny, &["production"]));
    assert_eq!(denied(&at(&deny, "volumev3", "/v3/{id}"), "GET", "/v3/{id}/volumes"), "");
    assert_eq!(denied(&at(&deny, "volumev3", "/v3/{id}"), "GET", "/v3/{other}/volumes"), "rule");

    // A token without a project may act in any.
    let views: Arc<[View]> = [View::new(Some("compute"), [], Base::new("/v2.1", None))].into();
    assert_eq!(denied(&deny.at(&views, None), "GET", "/v2.1/servers"), "rule");
    assert_eq!(denied(&allow.at(&views, None), "GET", "/v2.1/servers"), DEFAULT);
}

// Promise 43.
#[test]
fn a_permission_holds_under_every_reading() {
    let allow = policy(
        false,
        Effect::Deny,
        vec![rule(Effect::Allow, &[], &["/servers", "/servers/*", "/my box/**", "/data/a.b"])],
    );
    let scoped = at(&allow, "compute", "/v2.1");
    for path in
        ["/servers", "/servers/1", "/servers/a%20b", "/servers/%c3%a4", "/my%20box/a%2Fb//c", "/data/a.b"]
    {
        assert_eq!(denied(&scoped, "GET", &format!("/v2.1{path}")), "", "{path}");
    }
    for path in [
        "/servers/",
        "//servers",
        "/servers//1",
        "/servers/1/",
        "/servers/a%2Fb",
        "/servers/a%252Fb",
        "/servers/a%5Cb",
        "/%73ervers",
        "/servers%3Bx",
        "/servers/;x",
        "/servers/%3bx",
        "/Servers",
        "/servers%00",
        "/servers%20",
        "/my+box/a",
        "/data/a",
    ] {
        assert_eq!(denied(&scoped, "GET", &format!("/v2.1{path}")), DEFAULT, "{path}");
    }
}

// Promise 43.
#[test]
fn a_denial_holds_under_any_reading() {
    let deny = policy(
        false,
        Effect::Allow,
        vec![rule(Effect::Deny, &[], &["/servers/*/action", "/os-keypairs/**"])],
    );
    let scoped = at(&deny, "compute", "/v2.1");
    for path in [
        "/servers/1/action",
        "/servers/1/action/",
        "/servers//1/action",
        "//servers/1//action//",
        "/servers/1%2Faction",
        "/servers%2f1%2Faction",
        "/servers/1%252Faction",
        "/servers%5C1%5caction",
        "/servers/1/%61ction",
        "/servers/1/%2561ction",
        "/servers/1/action.json",
        "/servers/1/action.xml",
        "/servers/1/action.any.thing",
        "/servers/1/action;a=b",
        "/servers;x/1;y/action;z",
        "/servers/1/action%3Bx",
        "/servers/1/action.json/",
        "/os-keypairs",
        "/os-keypairs.json",
        "/os-keypairs/a/b/c",
        "/;/os-keypairs",
    ] {
        assert_eq!(denied(&scoped, "GET", &format!("/v2.1{path}")), "rule", "{path}");
    }
    for path in ["/servers/1", "/servers/1/actions", "/os-keypairsx", "/servers/1/2/action"] {
        assert_eq!(denied(&scoped, "GET", &format!("/v2.1{path}")), "", "{path}");
    }
    // An object's name has no format.
    let objects = at(&deny, "object-store", "/v1/AUTH_{id}");
    assert_eq!(denied(&objects, "GET", "/v1/AUTH_{id}/os-keypairs.json"), "");
    assert_eq!(denied(&objects, "GET", "/v1/AUTH_{id}/os-keypairs"), "rule");
}

/// How a client may disguise one character of a path.
#[derive(Clone, Copy, Debug)]
enum Disguise {
    Plain,
    Lower,
    Upper,
    Twice,
}

fn disguise(byte: u8, how: Disguise) -> String {
    let upper = percent_encode_byte(byte);
    match how {
        Disguise::Plain => char::from(byte).to_string(),
        Disguise::Upper => upper.to_owned(),
        Disguise::Lower => upper.to_ascii_lowercase(),
        Disguise::Twice => upper.replace('%', "%25"),
    }
}

fn disguises() -> impl Strategy<Value = Disguise> {
    prop::sample::select(vec![Disguise::Plain, Disguise::Lower, Disguise::Upper, Disguise::Twice])
}

proptest! {
    // Promises 41, 43.
    #[test]
    fn no_encoding_of_a_denied_path_gets_through(
        how in prop::collection::vec(disguises(), 32),
        doubled in prop::collection::vec(1..3usize, 8),
        params in prop::collection::vec(prop::sample::select(vec!["", ";", ";a=b", "%3Bc"]), 8),
        end in prop::sample::select(vec!["", "/", "//", "%2F", "%2f/", ".json", ".xml/", ".x.y"]),
        base in prop::sample::select(vec!["", "/v2.1", "/compute", "/compute/v2.1", "/v2.1/{id}"]),
    ) {
        let deny = policy(false, Effect::Allow, vec![rule(Effect::Deny, &[], &["/servers/*/action"])]);
        let scoped = at(&deny, "compute", base);
        let mut path = base.replace("{id}", ID);
        if base.is_empty() || base == "/compute" {
            path.push_str("/v2.1");
        }
        let (mut how, mut doubled) = (how.into_iter().cycle(), doubled.into_iter().cycle());
        for (segment, params) in ["servers", "1", "action"].into_iter().zip(params) {
            for _ in 0..doubled.next().unwrap() {
                // A slash that starts the target is one.
                let how = if path == base { Disguise::Plain } else { how.next().unwrap() };
                path.push_str(&disguise(b'/', how));
            }
            segment.bytes().for_each(|byte| path.push_str(&disguise(byte, how.next().unwrap())));
            path.push_str(params);
        }
        path.push_str(end);
        prop_assert_eq!(denied(&scoped, "GET", &path), "rule", "{}", path);
    }

    // Promise 43.
    #[test]
    fn what_is_allowed_is_allowed_however_a_service_reads_it(path in "(/(servers|1|%73|s|%2[Ff]|;a|%3b|%252f|%25|\\.json|%5c|x){0,3}){1,5}") {
        let allow = policy(false, Effect::Deny, vec![rule(Effect::Allow, &[], &["/servers/*", "/x/servers/**"])]);
        let scoped = at(&allow, "compute", "/v2.1");
        if denied(&scoped, "GET", &format!("/v2.1{path}")).is_empty() {
            for read in readers(&path) {
                let segments: Vec<&str> = read.split('/').skip(1).collect();
                let fits = matches!(&segments[..], ["servers", one] if !one.is_empty())
                    || matches!(&segments[..], ["x", "servers", ..]);
                prop_assert!(fits, "{} is read as {}", path, read);
            }
        }
    }

    #[test]
    fn any_name_matches_when_it_is_encoded_as_it_must_be(name in "[^/\\\\;%?#*\\p{C}]{1,12}") {
        prop_assume!(!matches!(name.as_str(), "." | "..") && !is_version_like(&name));
        let allow = policy(false, Effect::Deny, vec![rule(Effect::Allow, &[], &[&format!("/{name}/**")])]);
        const RESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');
        let path = format!("/v1/AUTH_{{id}}/{}/object", utf8_percent_encode(&name, RESERVED));
        let scoped = at(&allow, "object-store", "/v1/AUTH_{id}");
        prop_assert_eq!(denied(&scoped, "GET", &path), "");
    }
}

fn is_version_like(name: &str) -> bool {
    crate::proxy::rewrite::is_version(name)
}

/// What different servers make of a path: written again here, in the plainest way, so that it does not
/// share the policy's mistakes.
fn readers(path: &str) -> Vec<String> {
    let decode = |text: &str| percent_encoding::percent_decode_str(text).decode_utf8_lossy().into_owned();
    let once = decode(path);
    let twice = decode(&once);
    let mut read = vec![path.to_owned(), once.clone(), twice.clone()];
    read.extend([once, twice].map(|text| text.replace('\\', "/")));
    let mut more = Vec::new();
    for text in &read {
        let bare: Vec<&str> = text.split('/').map(|segment| segment.split(';').next().unwrap()).collect();
        more.push(bare.join("/"));
    }
    read.extend(more);
    let joined: Vec<String> = read
        .iter()
        .map(|text| {
            let segments: Vec<&str> = text.split('/').filter(|segment| !segment.is_empty()).collect();
            format!("/{}", segments.join("/"))
        })
        .collect();
    read.extend(joined);
    let formats: Vec<String> = read
        .iter()
        .filter_map(|text| text.strip_suffix(".json").filter(|t| !t.ends_with('/')))
        .map(str::to_owned)
        .collect();
    read.extend(formats);
    read
}
