//! What may be done: rules decided on the bytes that would go to the service. What is denied reaches
//! nobody.

use std::sync::Arc;

use bytes::Bytes;
use http::Method;
use keyway::config::{Config, Listener};
use keyway::demo::{Cloud, OTHER_PROJECT_ID, PROJECT_ID};
use keyway::policy::{Effect, Policy, Rule};
use keyway::server::Address;
use proptest::prelude::*;
use proptest::strategy::ValueTree as _;
use proptest::test_runner::TestRunner;
use serde_json::json;

use crate::support::{Answer, Connection, TestKeyway, cloud, eventually, raw, request, targets};

const ALLOW: Effect = Effect::Allow;
const DENY: Effect = Effect::Deny;

fn list(items: &[&str]) -> Vec<String> {
    items.iter().map(|item| (*item).to_owned()).collect()
}

fn rule(name: &str, effect: Effect) -> Rule {
    Rule { name: name.to_owned(), effect, ..Rule::default() }
}

fn policy(name: &str, read_only: bool, default: Effect, rules: Vec<Rule>) -> Arc<Policy> {
    Arc::new(Policy::new(name, read_only, default, rules).expect("a good policy"))
}

/// keyway whose main listener has this policy.
async fn start(policy: Arc<Policy>) -> (Cloud, TestKeyway) {
    let cloud = cloud().await;
    let keyway = TestKeyway::with(&cloud, |config| config.listeners[0].policy = Some(policy)).await;
    (cloud, keyway)
}

impl TestKeyway {
    /// A request line as it stands.
    async fn say(&self, line: &str) -> Answer {
        raw(
            self.listen(),
            format!("{line} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").as_bytes(),
        )
        .await
    }
}

impl Answer {
    /// Checks that this rule of this policy denied the request.
    #[track_caller]
    fn denied(&self, policy: &str, rule: &str) {
        let message = self.message(403, "denied");
        assert!(
            message.starts_with(&format!("rule `{rule}` of policy `{policy}` denies this request")),
            "{message}"
        );
    }
}

// Promise 43.
#[tokio::test(flavor = "multi_thread")]
async fn read_only_lets_only_three_methods_through_however_others_are_spelled() {
    let (cloud, keyway) = start(policy("look", true, ALLOW, Vec::new())).await;
    for method in ["GET", "HEAD", "OPTIONS"] {
        keyway.say(&format!("{method} /compute/servers")).await;
    }
    let safe = cloud.requests("compute").len();
    assert_eq!(safe, 3);
    for method in ["POST", "PUT", "PATCH", "DELETE", "COPY", "BREW", "GETS"] {
        keyway.say(&format!("{method} /compute/servers")).await.denied("look", "read_only");
    }
    // No policy is asked about these: a service may take them for their capitals.
    for method in ["post", "Delete", "get", "GeT", "head"] {
        keyway.say(&format!("{method} /compute/servers")).await.message(501, "bad_method");
    }
    for name in ["X-HTTP-Method-Override", "X-HTTP-Method", "X-Method-Override", "x_http_method_override"] {
        keyway.get_with("/compute/servers", &[(name, "DELETE"), ("x-kept", "1")]).await.passed_on(200);
        let seen = cloud.requests("compute").pop().unwrap();
        assert_eq!(seen.method, Method::GET);
        assert!(seen.headers.values().all(|value| value != "DELETE"), "{:?}", seen.headers);
        assert_eq!(seen.headers["x-kept"], "1");
    }
    assert_eq!(cloud.requests("compute").len(), safe + 4);
    let count = keyway.metric(r#"keyway_denied_total{policy="look",rule="read_only"}"#).await;
    assert_eq!(count, 7.0);
    assert_eq!(keyway.metric(r#"keyway_errors_total{reason="denied"}"#).await, 7.0);
}

// Promises 41, 43.
#[tokio::test(flavor = "multi_thread")]
async fn no_disguise_of_a_denied_path_reaches_the_service() {
    let rules = vec![Rule {
        methods: list(&["POST", "GET"]),
        paths: list(&["/servers/*/action", "/os-keypairs/**"]),
        ..rule("no-actions", DENY)
    }];
    let (cloud, keyway) = start(policy("careful", false, ALLOW, rules)).await;
    for path in [
        "/servers/1/action",
        "/v2.1/servers/1/action",
        "/v2/servers/1/action",
        "/servers/1/action/",
        "/servers/1/action?x=/servers",
        "//servers/1/action",
        "/servers//1///action",
        "/servers/1/%61ction",
        "/servers/1/%61%63%74%69%6f%6E",
        "/%73ervers/1/action",
        "/servers/1%2Faction",
        "/servers/1%2faction",
        "/servers%2F1%2Faction",
        "/servers/1%252Faction",
        "/servers/1/%2561ction",
        "/servers/1%5Caction",
        "/servers/1/action.json",
        "/servers/1/action.xml",
        "/servers/1/action;v=1",
        "/servers;v=1/1/action",
        "/servers/1/action%3Bv=1",
        "/v2.1//servers/1/action",
        "/{p}/servers/1/action",
        "/v2.1/{p}/servers/1/action",
        "/v2.1/{o}/servers/1/action",
        "/os-keypairs",
        "/os-keypairs.json",
        "/os-keypairs/mine/more",
        "/os%2Dkeypairs",
    ] {
        let path = path.replace("{p}", PROJECT_ID).replace("{o}", OTHER_PROJECT_ID);
        for service in
            ["compute", "nova", "COMPUTE", "comp%75te", "cloud/demo/compute", "project/demo/compute"]
        {
            for method in ["POST", "GET"] {
                let answer = keyway.say(&format!("{method} /{service}{path}")).await;
                assert_eq!(answer.status, 403, "{method} /{service}{path}");
                answer.denied("careful", "no-actions");
            }
        }
    }
    assert!(cloud.requests("compute").is_empty(), "{:?}", targets(&cloud, "compute"));
    for path in ["/servers", "/servers/1", "/servers/1/actions", "/os-keypairsx", "/servers/detail"] {
        assert_eq!(keyway.get(&format!("/compute{path}")).await.header("x-keyway-error"), "", "{path}");
    }
    // Another method, and the refusal itself, are as they should be.
    assert_eq!(keyway.say("DELETE /compute/servers/1/action").await.header("x-keyway-error"), "");
    let head = keyway.say("GET /compute/os-keypairs").await;
    assert_eq!(head.header("content-type"), "application/json");
    assert_eq!(head.header("cache-control"), "no-store");
}

// Promises 41, 43.
#[tokio::test(flavor = "multi_thread")]
async fn whatever_is_allowed_arrives_as_what_the_rule_says() {
    let rules = vec![Rule { paths: list(&["/servers/*"]), ..rule("one-server", ALLOW) }];
    let (cloud, keyway) = start(policy("one", false, DENY, rules)).await;
    let part = "(/|//|servers|1|%73|s|%2[Ff]|%2e|%252f|;a|%3b|\\.json|%5c|v2\\.1|\\.\\.|%c0%af){0,9}";
    let paths = proptest::string::string_regex(&format!("/{part}")).unwrap();
    let mut runner = TestRunner::deterministic();
    let mut connection = keyway.connect().await;
    let (mut allowed, mut denied) = (0, 0);
    for fixed in ["/servers/1", "/v2.1/servers/s", "/servers/%2541"] {
        assert_eq!(keyway.say(&format!("GET /compute{fixed}")).await.header("x-keyway-error"), "", "{fixed}");
    }
    for _ in 0..1500 {
        let path = paths.new_tree(&mut runner).unwrap().current();
        let answer = connection.send(request(Method::GET, &format!("/compute{path}"), &[], "")).await;
        match (answer.status, answer.header("x-keyway-error")) {
            (_, "") => allowed += 1,
            (403, "denied") => denied += 1,
            (400, "bad_request") => {}
            other => panic!("{path}: {other:?}"),
        }
    }
    assert!(denied > 100, "{allowed} allowed, {denied} denied");
    for target in targets(&cloud, "compute") {
        // As a server that decodes first sees it, and as one that does not decode at all.
        let decoded = percent_encoding::percent_decode_str(&target).decode_utf8_lossy().into_owned();
        for read in [&target, &decoded] {
            let segments: Vec<&str> = read.split('/').collect();
            assert!(
                matches!(segments[..], ["", version, "servers", one] if version.starts_with('v') && !one.is_empty()),
                "{target}"
            );
        }
    }
}

// Promise 43.
#[tokio::test(flavor = "multi_thread")]
async fn a_listeners_and_a_clouds_policy_must_both_allow() {
    let cloud = cloud().await;
    let compute = || Rule { services: list(&["compute"]), ..rule("compute", ALLOW) };
    let keyway = TestKeyway::with(&cloud, |config| {
        let mut second = Listener::at("second", "127.0.0.1:0".parse::<Address>().unwrap());
        second.policy = Some(policy("of-second", false, DENY, vec![compute()]));
        config.listeners.push(second);
        config.cloud_policies.insert("demo".to_owned(), policy("of-demo", true, ALLOW, Vec::new()));
    })
    .await;
    let second = keyway.app().addresses().nth(1).and_then(Address::tcp).unwrap();
    let mut second = Connection::open(second).await;
    let mut ask = async |method: Method, path: &str| second.send(request(method, path, &[], "")).await;
    ask(Method::GET, "/compute/servers").await.passed_on(200);
    ask(Method::DELETE, "/compute/servers/1").await.denied("of-demo", "read_only");
    ask(Method::GET, "/image/images").await.denied("of-second", "default");
    ask(Method::DELETE, "/image/images/1").await.denied("of-second", "default");
    // The first listener has only the cloud's.
    assert_eq!(keyway.get("/image/images").await.status, 200);
    assert_eq!(keyway.get("/compute/servers").await.status, 200);
    keyway.put("/object-store/box", "").await.denied("of-demo", "read_only");
    assert!(cloud.requests("object-store").is_empty());
    assert_eq!(
        (cloud.requests("compute").len(), targets(&cloud, "image").last().unwrap().as_str()),
        (2, "/v2/images")
    );
    for (labels, count) in
        [(r#"policy="of-demo",rule="read_only""#, 2.0), (r#"policy="of-second",rule="default""#, 2.0)]
    {
        assert_eq!(keyway.metric(&format!("keyway_denied_total{{{labels}}}")).await, count, "{labels}");
    }
}

// Promise 43.
#[tokio::test(flavor = "multi_thread")]
async fn a_denied_request_costs_neither_a_login_nor_a_question() {
    let cloud = cloud().await;
    cloud.pause("identity").await;
    let rules = vec![
        Rule { services: list(&["image"]), paths: list(&["/images/*/file"]), ..rule("no-downloads", DENY) },
        Rule { methods: list(&["DELETE"]), ..rule("no-deletes", DENY) },
    ];
    let set = |config: &mut Config| config.listeners[0].policy = Some(policy("strict", false, ALLOW, rules));
    let keyway = TestKeyway::cold(vec![cloud.keystone_config()], set);
    // Keystone is down: whoever needs a token gets none, but this one does not need it. A rule that
    // comes before and does not speak of everything leaves it open, so the answer is Keystone's then.
    keyway.say("DELETE /compute/servers/1").await.message(503, "keystone_unreachable");
    let read_only =
        |config: &mut Config| config.listeners[0].policy = Some(policy("look", true, ALLOW, Vec::new()));
    let closed = TestKeyway::cold(vec![cloud.keystone_config()], read_only);
    closed.say("DELETE /compute/servers/1").await.denied("look", "read_only");
    let by_cloud = TestKeyway::cold(vec![cloud.keystone_config()], |config| {
        let none = vec![Rule { methods: list(&["DELETE"]), ..rule("no-deletes", DENY) }];
        config.cloud_policies.insert("demo".to_owned(), policy("of-demo", false, ALLOW, none));
    });
    by_cloud.say("DELETE /compute/servers/1").await.denied("of-demo", "no-deletes");
    cloud.resume("identity").await;
    eventually("the login", async || (keyway.admin_get("/readyz").await.status == 200).then_some(())).await;
    // The image service has no version in its URL, and is not asked for it either.
    keyway.say("GET /image/images/1/file").await.denied("strict", "no-downloads");
    keyway.say("DELETE /image/images/1").await.denied("strict", "no-deletes");
    assert!(cloud.requests("image").is_empty());
    assert_eq!(keyway.get("/image/images").await.status, 200);
}

// Promise 43.
#[tokio::test(flavor = "multi_thread")]
async fn a_denied_upload_is_answered_and_its_connection_serves_on() {
    let rules = vec![Rule { methods: list(&["PUT"]), paths: list(&["/locked/**"]), ..rule("locked", DENY) }];
    let (cloud, keyway) = start(policy("boxes", false, ALLOW, rules)).await;
    assert_eq!(keyway.put("/object-store/open", "").await.status, 201);
    let mut connection = keyway.connect().await;
    for _ in 0..3 {
        let upload = request(Method::PUT, "/object-store/locked/o", &[], Bytes::from(vec![7; 300_000]));
        connection.send(upload).await.denied("boxes", "locked");
        let put = request(Method::PUT, "/object-store/open/o", &[], "body");
        assert_eq!(connection.send(put).await.status, 201);
    }
    assert!(targets(&cloud, "object-store").iter().all(|target| !target.contains("locked")));
}

/// "List only": what there is, and nothing about any of it.
#[tokio::test(flavor = "multi_thread")]
async fn list_only() {
    let lists = Rule {
        services: list(&["compute", "image", "network", "block-storage"]),
        paths: list(&["/*", "/*/detail"]),
        ..rule("lists", ALLOW)
    };
    let (cloud, keyway) = start(policy("list-only", true, DENY, vec![lists])).await;
    for path in [
        "/compute/servers",
        "/compute/servers/detail",
        "/compute/servers/detail?limit=1",
        "/compute/v2.1/flavors",
        "/image/images",
        "/image/v2/images",
        "/network/networks",
        "/block-storage/volumes/detail",
        "/volumev3/v3/{p}/volumes",
    ] {
        let path = path.replace("{p}", PROJECT_ID);
        assert_eq!(keyway.get(&path).await.status, 200, "{path}");
    }
    let before = cloud.requests("compute").len();
    for path in [
        "/compute/servers/1",
        "/compute/servers/1/os-volume_attachments",
        "/compute/",
        "/compute",
        "/image/images/1/file",
        "/object-store/box",
        "/identity/v3/users",
        "/identity/users",
    ] {
        keyway.get(path).await.denied("list-only", "default");
    }
    for (method, path) in
        [("POST", "/compute/servers"), ("DELETE", "/compute/servers/1"), ("PUT", "/network/networks")]
    {
        keyway.say(&format!("{method} {path}")).await.denied("list-only", "read_only");
    }
    assert_eq!(cloud.requests("compute").len(), before);
    assert!(cloud.requests("object-store").is_empty());
    assert_eq!(targets(&cloud, "identity"), ["/v3/auth/tokens"]);
}

/// "No identity writes": users, projects and credentials can be read, and all other services used.
#[tokio::test(flavor = "multi_thread")]
async fn no_identity_writes() {
    let of_identity = |name, effect| Rule { services: list(&["identity"]), ..rule(name, effect) };
    let rules = vec![
        Rule { methods: list(&["GET", "HEAD", "OPTIONS"]), ..of_identity("identity-reads", ALLOW) },
        of_identity("identity-writes", DENY),
    ];
    let (cloud, keyway) = start(policy("no-identity-writes", false, ALLOW, rules)).await;
    for path in ["/identity/auth/projects", "/identity/v3/auth/projects", "/keystone/v3/auth/catalog"] {
        assert_eq!(keyway.get(path).await.status, 200, "{path}");
    }
    let before = targets(&cloud, "identity").len();
    for method in ["POST", "PUT", "PATCH", "DELETE", "COPY", "BREW"] {
        for path in [
            "/identity/users",
            "/identity/v3/users/1",
            "/keystone/v3/projects",
            "/v3/users",
            "/identity/auth/tokens",
        ] {
            keyway.say(&format!("{method} {path}")).await.denied("no-identity-writes", "identity-writes");
        }
    }
    assert_eq!(targets(&cloud, "identity").len(), before);
    let server = json!({"server": {"name": "new", "flavorRef": "1", "imageRef": "", "networks": "none"}});
    assert_eq!(keyway.post("/compute/servers", &server).await.header("x-keyway-error"), "");
    assert_eq!(keyway.put("/object-store/box", "").await.status, 201);
}

/// "Only compute of project X": by the project's name or id, whatever path or prefix names it.
#[tokio::test(flavor = "multi_thread")]
async fn only_compute_of_one_project() {
    for project in ["demo", PROJECT_ID] {
        let only = Rule {
            services: list(&["compute"]),
            projects: list(&[project]),
            ..rule("compute-of-demo", ALLOW)
        };
        let (cloud, keyway) = start(policy("compute-only", false, DENY, vec![only])).await;
        assert_eq!(keyway.get("/compute/servers").await.status, 200);
        assert_eq!(keyway.get("/project/demo/compute/servers").await.status, 200);
        assert_eq!(keyway.get(&format!("/project/{PROJECT_ID}/nova/servers")).await.status, 200);
        let before = cloud.requests("compute").len();
        for path in [
            "/image/images".to_owned(),
            "/project/demo/image/images".to_owned(),
            "/project/other/compute/servers".to_owned(),
            format!("/project/{OTHER_PROJECT_ID}/compute/servers"),
            format!("/compute/v2.1/{OTHER_PROJECT_ID}/servers"),
            format!("/compute/{OTHER_PROJECT_ID}/servers"),
            format!("/block-storage/v3/{OTHER_PROJECT_ID}/volumes"),
            format!("/object-store/v1/AUTH_{OTHER_PROJECT_ID}/box"),
        ] {
            keyway.get(&path).await.denied("compute-only", "default");
        }
        assert_eq!(cloud.requests("compute").len(), before);
        for service in ["image", "block-storage", "object-store"] {
            assert!(cloud.requests(service).is_empty(), "{service}");
        }
    }
}

// Promise 43.
#[tokio::test(flavor = "multi_thread")]
async fn a_service_is_not_reached_through_the_url_of_another() {
    let cloud = cloud().await;
    let mut catalog = cloud.catalog();
    let objects = cloud.url("object-store");
    let origin = &objects[..objects.find("/v1").unwrap()];
    catalog.as_array_mut().unwrap().push(json!({"type": "s3", "name": "s3", "endpoints": [
        {"id": "s3", "interface": "public", "region": "RegionOne", "region_id": "RegionOne", "url": origin},
    ]}));
    cloud.set_catalog(catalog);
    let rules = vec![Rule {
        services: list(&["object-store"]),
        paths: list(&["/locked/**"]),
        ..rule("locked", DENY)
    }];
    let keyway = TestKeyway::with(&cloud, |config| {
        config.listeners[0].policy = Some(policy("boxes", false, ALLOW, rules));
    })
    .await;
    for path in [
        "/object-store/locked/o".to_owned(),
        format!("/s3/v1/AUTH_{PROJECT_ID}/locked/o"),
        format!("/s3/v1/AUTH_{PROJECT_ID}//locked%2Fo"),
        format!("/s3/v1/%41UTH_{PROJECT_ID}/locked"),
    ] {
        keyway.get(&path).await.denied("boxes", "locked");
    }
    assert!(cloud.requests("object-store").is_empty());
    keyway.get(&format!("/s3/v1/AUTH_{PROJECT_ID}/open/o")).await.passed_on(404);
}
