//! What may be done: rules decided on the bytes that would go to the service. What is denied reaches
//! nobody.

use std::sync::Arc;

use bytes::Bytes;
use http::Method;
use keyway::config::{Config, Listener};
use keyway::demo::{Cloud, OTHER_PROJECT_ID, PROJECT_ID};
use keyway::policy::{Effect, Policy, Rule};
use keyway::proxy::origins;
use keyway::server::Address;
use keyway::upstream::BaseUrl;
use proptest::prelude::*;
use proptest::strategy::ValueTree as _;
use proptest::test_runner::TestRunner;
use serde_json::json;

use crate::support::raw::Recorder;
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

/// The origin of a service as an address names it: `/origin/http-127.0.0.1-8774`.
fn origin(cloud: &Cloud, service: &str) -> String {
    origin_of(&cloud.url(service))
}

fn origin_of(url: &str) -> String {
    format!("/origin/{}", origins::id(BaseUrl::parse(url).expect("a URL").origin()))
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
    let compute = origin(&cloud, "compute");
    for method in ["POST", "DELETE", "BREW"] {
        keyway.say(&format!("{method} {compute}/v2.1/servers")).await.denied("look", "read_only");
        let by_name = request(method.parse().unwrap(), "/v2.1/servers", &[("host", "compute.localhost")], "");
        keyway.send(by_name).await.denied("look", "read_only");
    }
    keyway.say(&format!("delete {compute}/v2.1/servers/1")).await.message(501, "bad_method");
    assert_eq!(cloud.requests("compute").len(), safe + 4);
    let count = keyway.metric(r#"keyway_denied_total{policy="look",rule="read_only"}"#).await;
    assert_eq!(count, 13.0);
    assert_eq!(keyway.metric(r#"keyway_errors_total{reason="denied"}"#).await, 13.0);
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
    let disguises = [
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
    ];
    for path in disguises {
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
    // Nor is it reached by an address at which nothing is added to a path.
    let compute = origin(&cloud, "compute");
    for path in disguises {
        let path = path.replace("{p}", PROJECT_ID).replace("{o}", OTHER_PROJECT_ID);
        for version in ["", "/v2.1", "/v2"] {
            if path.starts_with("/v2") && !version.is_empty() {
                continue;
            }
            for prefix in ["", "/cloud/demo", "/project/demo"] {
                let line = format!("POST {prefix}{compute}{version}{path}");
                let answer = keyway.say(&line).await;
                assert_eq!(answer.status, 403, "{line}");
                answer.denied("careful", "no-actions");
            }
            let by_name = [("host", "compute.localhost")];
            let path = format!("{version}{path}");
            keyway.get_with(&path, &by_name).await.denied("careful", "no-actions");
        }
    }
    assert!(cloud.requests("compute").is_empty(), "{:?}", targets(&cloud, "compute"));
    for path in ["/servers", "/servers/1", "/servers/1/actions", "/os-keypairsx", "/servers/detail"] {
        assert_eq!(keyway.get(&format!("/compute{path}")).await.header("x-keyway-error"), "", "{path}");
        assert_eq!(keyway.get(&format!("{compute}{path}")).await.header("x-keyway-error"), "", "{path}");
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
    // The same at the top of the origin, where a path may have no version.
    let compute = origin(&cloud, "compute");
    for version in ["", "/v2.1"] {
        for _ in 0..500 {
            let path = format!("{compute}{version}{}", paths.new_tree(&mut runner).unwrap().current());
            let answer = connection.send(request(Method::GET, &path, &[], "")).await;
            match (answer.status, answer.header("x-keyway-error")) {
                (_, "") | (403, "denied") | (400, "bad_request") => {}
                other => panic!("{path}: {other:?}"),
            }
        }
    }
    for target in targets(&cloud, "compute") {
        // As a server that decodes first sees it, and as one that does not decode at all.
        let decoded = percent_encoding::percent_decode_str(&target).decode_utf8_lossy().into_owned();
        for read in [&target, &decoded] {
            let segments: Vec<&str> = read.split('/').collect();
            let segments = match segments[..] {
                ["", version, ref rest @ ..] if version.starts_with('v') => rest.to_vec(),
                _ => segments[1..].to_vec(),
            };
            assert!(matches!(segments[..], ["servers", one] if !one.is_empty()), "{target}");
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
    let [compute, image] = ["compute", "image"].map(|service| origin(&cloud, service));
    ask(Method::DELETE, &format!("{compute}/v2.1/servers/1")).await.denied("of-demo", "read_only");
    ask(Method::GET, &format!("{image}/v2/images")).await.denied("of-second", "default");
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
        [(r#"policy="of-demo",rule="read_only""#, 3.0), (r#"policy="of-second",rule="default""#, 3.0)]
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
    let [compute, image, identity] = ["compute", "image", "identity"].map(|service| origin(&cloud, service));
    assert_eq!(keyway.get(&format!("{compute}/v2.1/servers")).await.status, 200);
    assert_eq!(keyway.get(&format!("{image}/v2/images")).await.status, 200);
    let before = cloud.requests("compute").len();
    for path in ["/v2.1/servers/1", "/servers/1/diagnostics", "/", "", "/v2.1", "/v2.1/servers/1/action"] {
        keyway.get(&format!("{compute}{path}")).await.denied("list-only", "default");
    }
    keyway.get(&format!("{image}/v2/images/1/file")).await.denied("list-only", "default");
    keyway.get(&format!("{identity}/v3/users")).await.denied("list-only", "default");
    keyway.say(&format!("POST {compute}/v2.1/servers")).await.denied("list-only", "read_only");
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
        let identity = origin(&cloud, "identity");
        for path in ["/v3/users", "/v3/auth/tokens", "/v2.0/tokens", "/", "//v3/users", "/%763/users"] {
            let denied = keyway.say(&format!("{method} {identity}{path}")).await;
            denied.denied("no-identity-writes", "identity-writes");
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
        let [compute, image, volume] =
            ["compute", "image", "volumev3"].map(|service| origin(&cloud, service));
        assert_eq!(keyway.get(&format!("{compute}/v2.1/servers")).await.status, 200);
        let own = format!("/project/demo{compute}/v2.1/{PROJECT_ID}/servers");
        assert_eq!(keyway.get(&own).await.status, 200);
        let before = cloud.requests("compute").len();
        for path in [
            format!("{image}/v2/images"),
            format!("/project/other{compute}/v2.1/servers"),
            format!("{compute}/v2.1/{OTHER_PROJECT_ID}/servers"),
            format!("{compute}/{OTHER_PROJECT_ID}/servers"),
            format!("{volume}/v3/{OTHER_PROJECT_ID}/volumes"),
            format!("{volume}/v3/{PROJECT_ID}/volumes"),
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
    let origin_url = &objects[..objects.find("/v1").unwrap()];
    catalog.as_array_mut().unwrap().push(json!({"type": "s3", "name": "s3", "endpoints": [
        {"id": "s3", "interface": "public", "region": "RegionOne", "region_id": "RegionOne", "url": origin_url},
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
        format!("{}/v1/AUTH_{PROJECT_ID}/locked/o", origin_of(origin_url)),
        format!("{}//v1/AUTH_{PROJECT_ID}/locked/o", origin_of(origin_url)),
        format!("{}/v1/AUTH_{OTHER_PROJECT_ID}/locked/o", origin_of(origin_url)),
        format!("{}/%761/AUTH_{PROJECT_ID}/locked", origin_of(origin_url)),
    ] {
        keyway.get(&path).await.denied("boxes", "locked");
    }
    for path in [format!("/v1/AUTH_{PROJECT_ID}/locked/o"), format!("//v1//%41UTH_{PROJECT_ID}/locked")] {
        for host in ["s3.localhost", "object-store.localhost", "swift.demo.localhost"] {
            keyway.get_with(&path, &[("host", host)]).await.denied("boxes", "locked");
        }
    }
    assert!(cloud.requests("object-store").is_empty());
    keyway.get(&format!("/s3/v1/AUTH_{PROJECT_ID}/open/o")).await.passed_on(404);
}

/// Services of which each is below a path of one host, or at its top.
fn share_a_host(cloud: &Cloud, service: &Recorder) -> String {
    let url = service.url().replace("/v1", "");
    let entry = |kind: &str, region: &str, path: &str| {
        json!({"type": kind, "name": kind, "endpoints": [
            {"id": kind, "interface": "public", "region": region, "region_id": region,
             "url": format!("{url}{path}").replace("{p}", PROJECT_ID)}]})
    };
    cloud.set_catalog(json!([
        entry("s3", "RegionOne", ""),
        entry("compute", "RegionOne", "/compute/v2.1"),
        entry("compute", "RegionTwo", "/two/v2.1"),
        entry("image", "RegionOne", "/compute/image"),
        entry("volumev3", "RegionOne", "/v3/{p}"),
        entry("network", "RegionOne", "/v2.0"),
    ]));
    origin_of(&url)
}

// Promises 41, 43.
#[tokio::test(flavor = "multi_thread")]
async fn at_one_host_no_spelling_makes_one_service_another() {
    let cloud = cloud().await;
    let service = Recorder::start().await;
    let host = share_a_host(&cloud, &service);
    let rules = vec![
        Rule { services: list(&["compute"]), paths: list(&["/servers/**"]), ..rule("no-servers", DENY) },
        Rule { services: list(&["image"]), ..rule("no-images", DENY) },
        Rule {
            services: list(&["block-storage"]),
            projects: list(&[OTHER_PROJECT_ID]),
            ..rule("ours", DENY)
        },
    ];
    let keyway = TestKeyway::with(&cloud, |config| {
        config.listeners[0].policy = Some(policy("shared", false, ALLOW, rules));
        config.listeners.push(Listener {
            pinned: Some("/s3".to_owned()),
            policy: config.listeners[0].policy.clone(),
            ..Listener::at("s3", "127.0.0.1:0".parse::<Address>().unwrap())
        });
    })
    .await;
    let s3 = keyway.app().addresses().nth(1).and_then(Address::tcp).unwrap();
    let mut s3 = Connection::open(s3).await;
    for (path, name) in [
        ("/compute/v2.1/servers", "no-servers"),
        ("/compute/servers/1", "no-servers"),
        ("/compute/v2.1/{p}/servers", "no-servers"),
        ("/compute//v2.1//servers", "no-servers"),
        ("/%63ompute/v2.1/servers", "no-servers"),
        ("/compute%2Fv2.1%2Fservers", "no-servers"),
        ("//compute/v2.1/servers", "no-servers"),
        ("/compute;x/v2.1/servers", "no-servers"),
        ("/%2563ompute/v2.1/servers", "no-servers"),
        ("/two/v2.1/servers", "no-servers"),
        ("/%74wo/v2.1/servers/1", "no-servers"),
        ("/compute/image/v2/images", "no-images"),
        ("/compute/%69mage/v2/images", "no-images"),
        ("/compute//image", "no-images"),
        ("/compute/image", "no-images"),
        ("/v3/{o}/volumes", "ours"),
        ("/%763/{o}/volumes", "ours"),
        ("//v3/{o}/volumes", "ours"),
    ] {
        let path = path.replace("{p}", PROJECT_ID).replace("{o}", OTHER_PROJECT_ID);
        for prefix in ["", "/cloud/demo", "/project/demo"] {
            keyway.get(&format!("{prefix}{host}{path}")).await.denied("shared", name);
        }
        keyway.get_with(&path, &[("host", "s3.localhost")]).await.denied("shared", name);
        s3.send(request(Method::GET, &path, &[], "")).await.denied("shared", name);
    }
    for (name, path) in
        [("compute", "/v2.1/servers"), ("compute", "/image/v2"), ("image", "/"), ("image", "/v2")]
    {
        let denied = keyway.get_with(path, &[("host", &format!("{name}.localhost"))]).await;
        assert_eq!(denied.header("x-keyway-error"), "denied", "{name} {path}");
    }
    assert!(service.connections().is_empty());
    for path in ["/compute/v2.1/flavors", "/v3/{p}/volumes", "/box/servers", "/v2.0/networks", "/"] {
        assert_eq!(
            keyway.get(&format!("{host}{}", path.replace("{p}", PROJECT_ID))).await.status,
            200,
            "{path}"
        );
    }
}

// Promises 41, 43.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_allowed_for_one_service_is_not_for_its_neighbours() {
    let cloud = cloud().await;
    let service = Recorder::start().await;
    let host = share_a_host(&cloud, &service);
    let rules = |service: &str| vec![Rule { services: list(&[service]), ..rule("only", ALLOW) }];
    for (allowed, passes) in [
        ("network", &["/v2.0/networks"][..]),
        ("compute", &["/compute/v2.1/servers", "/two/v2.1/servers", "/compute/servers"]),
        ("s3", &["/box/v1", "/"]),
        ("block-storage", &["/v3/{p}/volumes"]),
    ] {
        let keyway = TestKeyway::with(&cloud, |config| {
            config.listeners[0].policy = Some(policy("one", false, DENY, rules(allowed)));
        })
        .await;
        let all = [
            "/v2.0/networks",
            "/compute/v2.1/servers",
            "/two/v2.1/servers",
            "/compute/servers",
            "/compute/image/v2/images",
            "/compute/%69mage/v2/images",
            "/compute//image/v2/images",
            "/v3/{p}/volumes",
            "/v3/{o}/volumes",
            "/v2.1/servers",
            "/%763/{p}/volumes",
            "/%63ompute/v2.1/servers",
            "//compute/v2.1/servers",
            "/identity/v3/users",
            "/box/v1",
            "/",
        ];
        for path in all {
            let expected = if passes.contains(&path) { "" } else { "denied" };
            // What no service of the catalog has for its own belongs to the one at the top.
            let of_top = allowed == "s3" && matches!(path, "/v2.1/servers" | "/identity/v3/users");
            let of_project = allowed == "block-storage" && path == "/v3/{o}/volumes";
            let filled = path.replace("{p}", PROJECT_ID).replace("{o}", OTHER_PROJECT_ID);
            let answer = keyway.get(&format!("{host}{filled}")).await;
            let expected = if of_top || of_project { "" } else { expected };
            assert_eq!(answer.header("x-keyway-error"), expected, "{allowed}: {path}");
        }
    }
}

// Promises 41, 43.
#[tokio::test(flavor = "multi_thread")]
async fn a_service_has_no_second_way_in_by_another_region_of_its_own() {
    let cloud = cloud().await;
    let service = Recorder::start().await;
    let url = service.url().replace("/v1", "");
    let endpoint = |region: &str, path: &str| {
        json!({"id": region, "interface": "public", "region": region, "region_id": region,
               "url": format!("{url}{path}")})
    };
    let endpoints = [endpoint("RegionOne", ""), endpoint("RegionTwo", "/two/v2.1")];
    cloud.set_catalog(json!([{"type": "compute", "name": "nova", "endpoints": endpoints}]));
    let rules = vec![Rule { paths: list(&["/servers/**"]), ..rule("no-servers", DENY) }];
    let keyway = TestKeyway::with(&cloud, |config| {
        config.listeners[0].policy = Some(policy("careful", false, ALLOW, rules));
    })
    .await;
    let host = origin_of(&url);
    for path in ["/two/v2.1/servers", "/%74wo/v2.1/servers", "//two/v2.1/servers/1", "/two%2Fv2.1/servers"] {
        keyway.get(&format!("{host}{path}")).await.denied("careful", "no-servers");
        let by_name = [("host", "compute.localhost")];
        keyway.get_with(path, &by_name).await.denied("careful", "no-servers");
    }
    assert!(service.connections().is_empty());
    assert_eq!(keyway.get(&format!("{host}/two/v2.1/flavors")).await.status, 200);
}
