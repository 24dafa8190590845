//! keyway in Keystone's place: version documents, logins, tokens and catalogs of Identity v3.

use std::time::Duration;

use bytes::Bytes;
use http::Method;
use keyway::config::{Config, Listener};
use keyway::demo::{DOMAIN, DOMAIN_ID, OTHER_PROJECT, OTHER_PROJECT_ID, PROJECT, PROJECT_ID, USER, USER_ID};
use keyway::facade::{Logins, View};
use keyway::identity;
use keyway::keystone::{Interface, Secret};
use keyway::server::Address;
use serde_json::{Value, json};

use crate::support::{Answer, Connection, TestKeyway, bounded, cloud, eventually, request, targets};

/// The body of a login with a password, which is any.
pub(crate) fn password(scope: Option<Value>) -> Value {
    let user = json!({"name": "anybody", "domain": {"id": "default"}, "password": "anything"});
    let identity = json!({"methods": ["password"], "password": {"user": user}});
    match scope {
        Some(scope) => json!({"auth": {"identity": identity, "scope": scope}}),
        None => json!({"auth": {"identity": identity}}),
    }
}

/// Logs in at the default cloud; the token.
pub(crate) async fn token(keyway: &TestKeyway, scope: Option<Value>) -> String {
    issued(&keyway.post("/identity/v3/auth/tokens", &password(scope)).await)
}

#[track_caller]
pub(crate) fn issued(answer: &Answer) -> String {
    assert_eq!(answer.status, 201, "{answer:?}");
    answer.header("x-subject-token").to_owned()
}

/// Checks that this is an error in Keystone's shape and none of keyway's; its message.
#[track_caller]
pub(crate) fn refused(answer: &Answer, status: u16) -> String {
    assert_eq!((answer.status, answer.header("x-keyway-error")), (status, ""), "{answer:?}");
    assert_eq!(answer.header("server"), "", "{answer:?}");
    let error = &answer.json()["error"];
    assert_eq!(error["code"], status, "{error}");
    assert!(error["title"].is_string(), "{error}");
    let challenged = answer.header("www-authenticate").starts_with("Keystone uri=\"http://");
    assert_eq!(challenged, status == 401, "{answer:?}");
    error["message"].as_str().expect("a message").to_owned()
}

/// Checks that a token was not good enough, in the shape that makes a client log in again.
#[track_caller]
pub(crate) fn unauthorized(answer: &Answer, why: &str) {
    assert_eq!((answer.status, answer.header("x-keyway-error")), (401, "bad_token"), "{answer:?}");
    let keystone = answer.header("www-authenticate");
    assert!(
        keystone.starts_with("Keystone uri=\"http://") && keystone.ends_with("/identity\""),
        "{keystone}"
    );
    let error = &answer.json()["error"];
    assert_eq!((&error["code"], &error["title"]), (&json!(401), &json!("Unauthorized")));
    assert!(error["message"].as_str().is_some_and(|message| message.contains(why)), "{error}");
}

impl TestKeyway {
    pub(crate) async fn with_token(&self, method: Method, path: &str, token: &str) -> Answer {
        self.send(request(method, path, &[("x-auth-token", token)], "")).await
    }

    pub(crate) async fn about(&self, method: Method, path: &str, token: &str) -> Answer {
        let headers = [("x-auth-token", token), ("x-subject-token", token)];
        self.send(request(method, path, &headers, "")).await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn any_password_gets_a_token_of_keyways_for_the_default_scope() {
    let cloud = cloud().await;
    let keyway = TestKeyway::in_front_of(&cloud).await;
    let answer = keyway.post("/identity/v3/auth/tokens", &password(None)).await;
    let id = issued(&answer);
    assert!(id.starts_with("gAAAAA") && (180..=300).contains(&id.len()), "{id}");
    assert_ne!(id, keyway.token().await);
    assert_eq!((answer.header("vary"), answer.header("cache-control")), ("X-Auth-Token", "no-store"));
    assert_eq!((answer.header("x-keyway-error"), answer.header("content-type")), ("", "application/json"));

    let token = &answer.json()["token"];
    assert_eq!(token["user"]["id"], USER_ID);
    assert_eq!(token["user"]["name"], USER);
    assert_eq!(token["user"]["domain"]["name"], DOMAIN);
    assert_eq!(token["project"]["id"], PROJECT_ID);
    assert_eq!(token["project"]["name"], PROJECT);
    assert_eq!(token["is_domain"], false);
    assert_eq!(token["methods"], json!(["password"]));
    assert!(token["roles"].as_array().is_some_and(|roles| !roles.is_empty()), "{token}");
    assert_eq!(token["audit_ids"].as_array().map(Vec::len), Some(1));
    for time in ["issued_at", "expires_at"] {
        let time = token[time].as_str().expect("a time");
        assert!(time.ends_with(".000000Z") && time.len() == "2026-11-22T04:00:00.000000Z".len(), "{time}");
    }
    // The demo cloud's own tokens live for five minutes, keyway's for twelve hours.
    let at = |name: &str| token[name].as_str().and_then(|time| time.parse::<jiff::Timestamp>().ok()).unwrap();
    assert_eq!((at("expires_at") - at("issued_at")).get_seconds(), 12 * 3600);
    assert_eq!(cloud.token_requests(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_runs_with_the_scope_that_its_token_was_issued_for() {
    let cloud = cloud().await;
    let keyway = TestKeyway::in_front_of(&cloud).await;
    let other = token(&keyway, Some(json!({"project": {"id": OTHER_PROJECT_ID}}))).await;
    let own = token(&keyway, None).await;
    let logins = cloud.token_requests();
    let project = async |token: &str| {
        let answer = keyway.with_token(Method::GET, "/identity/v3/auth/catalog", token).await;
        answer.text().contains(OTHER_PROJECT_ID)
    };
    assert!(project(&other).await);
    assert!(!project(&own).await);
    keyway.with_token(Method::GET, "/compute/servers", &other).await.passed_on(200);
    keyway.with_token(Method::GET, "/compute/servers", &own).await.passed_on(200);
    let used: Vec<_> =
        cloud.requests("compute").iter().map(|seen| seen.headers["x-auth-token"].clone()).collect();
    assert_ne!(used[0], used[1]);
    assert_eq!(used[1], keyway.token().await.as_str());
    assert_eq!(cloud.token_requests(), logins, "both are in the cache");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_client_probes_at_every_root_is_a_version_document() {
    let cloud = cloud().await;
    let keyway = TestKeyway::in_front_of(&cloud).await;
    let own = format!("http://{}", keyway.listen());
    let links = |document: &Value| -> Vec<String> {
        let entries = document["versions"]["values"].as_array().expect("versions");
        entries.iter().map(|entry| entry["links"][0]["href"].as_str().expect("a link").to_owned()).collect()
    };
    for (path, base) in [
        ("/", ""),
        ("/identity", "/identity"),
        ("/identity/", "/identity"),
        ("/keystone", "/keystone"),
        ("/cloud/default/identity", "/cloud/default/identity"),
        ("/region/RegionOne/project/other/identity/", "/region/RegionOne/project/other/identity"),
    ] {
        let path = path.replace("default", &keyway.app().shared().clouds[0].name);
        let base = format!("{own}{}", base.replace("default", &keyway.app().shared().clouds[0].name));
        let answer = keyway.get(&path).await;
        assert_eq!((answer.status, answer.header("location")), (300, &*format!("{base}/v3/")), "{path}");
        assert_eq!(links(&answer.json()), [format!("{base}/v3/"), format!("{base}/v2.0/")]);
        let head = keyway.send(request(Method::HEAD, &path, &[], "")).await;
        assert_eq!((head.status, head.body.len()), (300, 0));
        assert_eq!(head.headers, answer.headers, "{path}");
        for (version, id, status) in [("v3", "v3.14", "stable"), ("v2.0", "v2.0", "deprecated")] {
            for slash in ["", "/"] {
                let answer = keyway.get(&format!("{}/{version}{slash}", path.trim_end_matches('/'))).await;
                let document = &answer.json()["version"];
                assert_eq!(
                    (answer.status, &document["id"], &document["status"]),
                    (200, &json!(id), &json!(status))
                );
                assert_eq!(document["links"][0]["href"], format!("{base}/{version}/"));
                let media_type = format!("application/vnd.openstack.identity-{version}+json");
                assert_eq!(document["media-types"][0]["type"], media_type);
            }
        }
    }
    keyway.get("//").await.message(404, "no_route");
    // Other spellings are Keystone's matter.
    assert_eq!(targets(&cloud, "identity"), ["/v3/auth/tokens"]);
    for path in ["/identity/v3//", "/identity//", "/v3/%61uth/tokens", "/v2.0/tenants/"] {
        assert_ne!(keyway.get(path).await.header("server"), "", "{path}");
    }
    let passed_on = ["/v3//", "/v3//", "/v3/%61uth/tokens", "/v2.0/tenants/"];
    assert_eq!(targets(&cloud, "identity")[1..], passed_on);
}

const TOKENS: &str = "/identity/v3/auth/tokens";

/// A login by these methods.
fn by(methods: Value, given: Value) -> Value {
    let mut identity = given;
    identity["methods"] = methods;
    json!({"auth": {"identity": identity}})
}

#[tokio::test(flavor = "multi_thread")]
async fn any_method_logs_in_where_anybody_may() {
    let cloud = cloud().await;
    let keyway = TestKeyway::in_front_of(&cloud).await;
    let user = json!({"id": "u", "password": "p", "passcode": "1"});
    for (methods, given) in [
        (json!(["application_credential"]), json!({"application_credential": {"id": "c", "secret": "s"}})),
        (json!(["totp"]), json!({"totp": {"user": user}})),
        (json!(["token"]), json!({"token": {"id": "dummy"}})),
        (json!(["password", "totp"]), json!({"password": {"user": user}, "totp": {"user": user}})),
        (json!(["oidc-of-the-future"]), json!({"oidc-of-the-future": {}})),
    ] {
        // Some clients say it is text, some say nothing.
        let body = by(methods.clone(), given).to_string();
        let kind = [("content-type", "text/plain")];
        let answer = keyway.send(request(Method::POST, TOKENS, &kind, body)).await;
        issued(&answer);
        assert_eq!(answer.json()["token"]["methods"], methods);
        assert_eq!(answer.json()["token"]["project"]["id"], PROJECT_ID);
    }
    assert_eq!(cloud.token_requests(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn nocatalog_leaves_the_catalog_out() {
    let cloud = cloud().await;
    let keyway = TestKeyway::in_front_of(&cloud).await;
    for query in ["?nocatalog", "?nocatalog=1", "?a=b&nocatalog"] {
        let answer = keyway.post(&format!("{TOKENS}{query}"), &password(None)).await;
        let token = issued(&answer);
        assert!(answer.json()["token"].get("catalog").is_none(), "{query}");
        let shown = keyway.about(Method::GET, &format!("{TOKENS}{query}"), &token).await;
        assert!(shown.json()["token"].get("catalog").is_none(), "{query}");
    }
    let answer = keyway.post(&format!("{TOKENS}?nocatalogue"), &password(None)).await;
    assert!(answer.json()["token"]["catalog"].is_array());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_made_from_a_token_ends_no_later() {
    let cloud = cloud().await;
    let keyway = TestKeyway::in_front_of(&cloud).await;
    let first = keyway.post(TOKENS, &password(None)).await;
    let from = |token: &str, scope: Option<Value>| {
        let mut body = by(json!(["token"]), json!({"token": {"id": token}}));
        if let Some(scope) = scope {
            body["auth"]["scope"] = scope;
        }
        body
    };
    let body = from(&issued(&first), Some(json!({"project": {"id": OTHER_PROJECT_ID}})));
    let second = keyway.post(TOKENS, &body).await;
    let (token, first_token) = (issued(&second), &first.json()["token"]);
    let second_token = &second.json()["token"];
    assert_eq!(second_token["expires_at"], first_token["expires_at"]);
    assert_eq!(second_token["methods"], json!(["token", "password"]));
    assert_eq!(second_token["project"]["name"], OTHER_PROJECT);
    assert_ne!(second_token["audit_ids"], first_token["audit_ids"]);
    // One that is like ours and none of them gets nobody in.
    let mut forged = token.clone();
    forged.replace_range(40..44, "AAAA");
    for bad in [forged.as_str(), &token[..token.len() - 8], "gAAAAAB"] {
        refused(&keyway.post(TOKENS, &from(bad, None)).await, 401);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_is_shown_to_whoever_asks_until_it_is_revoked() {
    let cloud = cloud().await;
    let keyway = TestKeyway::in_front_of(&cloud).await;
    let answer = keyway.post(TOKENS, &password(None)).await;
    let token = issued(&answer);
    let shown = keyway.about(Method::GET, TOKENS, &token).await;
    assert_eq!((shown.status, shown.header("x-subject-token")), (200, token.as_str()));
    assert_eq!(shown.json(), answer.json());
    let head = keyway.about(Method::HEAD, TOKENS, &token).await;
    assert_eq!((head.status, head.body.len(), &head.headers), (200, 0, &shown.headers));

    let other = self::token(&keyway, None).await;
    let headers = [("x-auth-token", &*other), ("x-subject-token", &*token)];
    let revoked = keyway.send(request(Method::DELETE, TOKENS, &headers, "")).await;
    assert_eq!((revoked.status, revoked.body.len(), revoked.header("content-type")), (204, 0, ""));
    refused(&keyway.send(request(Method::GET, TOKENS, &headers, "")).await, 404);
    refused(&keyway.send(request(Method::DELETE, TOKENS, &headers, "")).await, 404);
    unauthorized(&keyway.with_token(Method::GET, "/compute/servers", &token).await, "was revoked");
    keyway.with_token(Method::GET, "/compute/servers", &other).await.passed_on(200);
    // The caller's own token has to be good, and the real one is not known here.
    unauthorized(&keyway.about(Method::GET, TOKENS, &token).await, "was revoked");
    assert_eq!(targets(&cloud, "identity"), ["/v3/auth/tokens"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_expired_token_opens_nothing_and_can_be_looked_at_on_request() {
    let cloud = cloud().await;
    let keyway = TestKeyway::with(&cloud, |config| config.facade.token_life = Duration::ZERO).await;
    let token = token(&keyway, None).await;
    unauthorized(&keyway.with_token(Method::GET, "/compute/servers", &token).await, "has expired");
    let subject = [("x-subject-token", &*token)];
    let show = async |query: &str| keyway.get_with(&format!("{TOKENS}{query}"), &subject).await;
    refused(&show("").await, 404);
    refused(&show("?allow_expired=0").await, 404);
    let shown = show("?allow_expired=1").await;
    assert_eq!(shown.status, 200, "{shown:?}");
    assert_eq!(shown.json()["token"]["user"]["id"], USER_ID);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_subject_that_is_none_of_ours_is_keystones_matter() {
    let cloud = cloud().await;
    let keyway = TestKeyway::in_front_of(&cloud).await;
    for subject in ["not-a-token", "gAAAAABforged"] {
        let headers = [("x-subject-token", subject)];
        keyway.get_with(TOKENS, &headers).await.passed_on(404);
    }
    // The real token is one of Keystone's.
    let real = keyway.token().await;
    let headers = [("x-subject-token", &*real)];
    assert_eq!(keyway.get_with(TOKENS, &headers).await.status, 200);
    assert_eq!(cloud.requests("identity").len(), 4);
}

// Promise 9.
#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_is_no_login_is_answered_with_what_is_wrong() {
    let cloud = cloud().await;
    let keyway = TestKeyway::in_front_of(&cloud).await;
    let post = async |body: &str| keyway.send(request(Method::POST, TOKENS, &[], body.to_owned())).await;
    let user = r#"{"user": {"name": "a", "password": "p"}}"#;
    for (body, expected) in [
        ("", "not JSON"),
        ("{\"auth\": ", "not JSON"),
        ("user=a&password=p", "not JSON"),
        ("[]", "object"),
        ("{}", "auth"),
        (r#"{"auth": {"identity": {"methods": "password"}}}"#, "`methods` must be a list"),
        (r#"{"auth": {"identity": {"methods": ["password"]}}}"#, "find password in identity"),
        (r#"{"auth": {"passwordCredentials": {"username": "a", "password": "p"}}}"#, "/v2.0/tokens"),
        (
            &format!(
                r#"{{"auth": {{"identity": {{"methods": ["password"], "password": {user}}}, "tenantName": "x"}}}}"#
            ),
            "at once",
        ),
        (
            &format!(
                r#"{{"auth": {{"identity": {{"methods": ["password"], "password": {user}}}, "scope": {{"project": {{"id": 1}}}}}}}}"#
            ),
            "`id` in project must be a string",
        ),
    ] {
        let message = refused(&post(body).await, 400);
        assert!(message.contains(expected), "{body}: {message}");
    }
    assert_eq!(cloud.token_requests(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_no_login_has_is_refused_before_it_is_sent() {
    let cloud = cloud().await;
    let keyway = TestKeyway::in_front_of(&cloud).await;
    let large = Bytes::from(vec![b' '; 10 << 20]);
    let answer = keyway.send(request(Method::POST, TOKENS, &[], large.clone())).await;
    assert!(refused(&answer, 413).contains("262144"));
    // Of a client that waits to be asked for it, nothing is read.
    let head = format!(
        "POST {TOKENS} HTTP/1.1\r\nHost: {}\r\nContent-Length: 10485760\r\nExpect: 100-continue\r\n\r\n",
        keyway.listen()
    );
    assert_eq!(keyway.raw(head).await.status, 413);
    // Nor more than the limit of one that does not say how much there is.
    let chunk = format!("{:x}\r\n{}\r\n", 1 << 16, " ".repeat(1 << 16));
    let chunked = format!(
        "POST {TOKENS} HTTP/1.1\r\nHost: {}\r\nTransfer-Encoding: chunked\r\n\r\n{}",
        keyway.listen(),
        chunk.repeat(5)
    );
    let mut stream = tokio::net::TcpStream::connect(keyway.listen()).await.expect("keyway listens");
    tokio::io::AsyncWriteExt::write_all(&mut stream, chunked.as_bytes()).await.expect("keyway reads");
    let mut first = [0; 12];
    let read = tokio::io::AsyncReadExt::read_exact(&mut stream, &mut first);
    bounded("the answer", read).await.expect("keyway answers");
    assert_eq!(&first, b"HTTP/1.1 413");
    // What fits is read whole, in whatever pieces.
    let padded = format!("{}{}", " ".repeat(200 << 10), password(None));
    issued(&keyway.send(request(Method::POST, TOKENS, &[], padded)).await);
    assert_eq!(cloud.token_requests(), 1);
}

/// All endpoints of a v3 catalog: type, interface, region, URL.
fn endpoints(catalog: &Value) -> Vec<[String; 4]> {
    let mut all = Vec::new();
    for service in catalog.as_array().expect("a catalog") {
        for endpoint in service["endpoints"].as_array().expect("endpoints") {
            let text = |value: &Value| value.as_str().expect("a text").to_owned();
            all.push([
                text(&service["type"]),
                text(&endpoint["interface"]),
                text(&endpoint["region_id"]),
                text(&endpoint["url"]),
            ]);
        }
    }
    all
}

#[tokio::test(flavor = "multi_thread")]
async fn every_endpoint_of_the_catalog_leads_to_its_service_through_keyway() {
    let cloud = cloud().await;
    let keyway = TestKeyway::in_front_of(&cloud).await;
    let answer = keyway.post(TOKENS, &password(None)).await;
    let token = issued(&answer);
    let (shown, real) = (answer.json()["token"]["catalog"].clone(), cloud.catalog());
    let own = format!("http://{}", keyway.listen());
    let (shown, real) = (endpoints(&shown), endpoints(&real));
    assert_eq!(shown.len(), real.len());
    for (shown, real) in shown.iter().zip(&real) {
        assert_eq!(shown[..3], real[..3]);
        let path = shown[3].strip_prefix(&own).expect("a URL of keyway's");
        if shown[0] == "identity" {
            assert_eq!(path, "/identity/v3");
            continue;
        }
        let real_path = real[3].splitn(4, '/').nth(3).map(|path| format!("/{path}")).unwrap_or_default();
        assert!(path.starts_with("/origin/http-") && path.ends_with(&real_path), "{path}");
        let answer = keyway.with_token(Method::GET, path, &token).await;
        assert_eq!(
            (answer.header("x-keyway-error"), answer.header("server")),
            ("", "keyway-demo (simulated)")
        );
    }
    let catalog = keyway.with_token(Method::GET, "/identity/v3/auth/catalog", &token).await.json();
    assert_eq!(catalog["catalog"], answer.json()["token"]["catalog"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_view_decides_what_the_catalog_shows() {
    let cloud = cloud().await;
    let keyway = TestKeyway::with(&cloud, |config| {
        let view = View {
            legacy_types: vec!["volumev2".to_owned()],
            hidden: vec!["image".to_owned()],
            interface: Some(Interface::Internal),
            region: Some("RegionOne".to_owned()),
            ..View::default()
        };
        config.facade.clouds.insert(config.clouds[0].name.clone(), view);
    })
    .await;
    let answer = keyway.post(TOKENS, &password(None)).await;
    let shown = endpoints(&answer.json()["token"]["catalog"]);
    assert!(shown.iter().all(|endpoint| endpoint[2] == "RegionOne" && endpoint[0] != "image"), "{shown:?}");
    let compute: Vec<_> = shown.iter().filter(|endpoint| endpoint[0] == "compute").collect();
    assert_eq!(
        compute.iter().map(|endpoint| &*endpoint[1]).collect::<Vec<_>>(),
        ["public", "internal", "admin"]
    );
    assert!(compute.iter().all(|endpoint| endpoint[3] == compute[0][3]));
    let url = |kind: &str| shown.iter().find(|endpoint| endpoint[0] == kind).map(|endpoint| &endpoint[3]);
    assert!(url("volumev2").is_some());
    assert_eq!(url("volumev2"), url("block-storage"));
}

#[tokio::test(flavor = "multi_thread")]
async fn every_scope_that_the_credential_can_have_is_granted() {
    let cloud = cloud().await;
    let keyway = TestKeyway::in_front_of(&cloud).await;
    let get = async |scope: Value| {
        let answer = keyway.post(TOKENS, &password(Some(scope.clone()))).await;
        assert_eq!(answer.status, 201, "{scope}: {answer:?}");
        let token = answer.json()["token"].clone();
        let id = issued(&answer);
        assert_eq!(keyway.about(Method::GET, TOKENS, &id).await.json()["token"], token);
        token
    };
    for scope in [
        json!({"project": {"id": OTHER_PROJECT_ID}}),
        json!({"project": {"name": OTHER_PROJECT, "domain": {"id": DOMAIN_ID}}}),
        json!({"project": {"name": OTHER_PROJECT, "domain": {"name": DOMAIN}}}),
    ] {
        let token = get(scope).await;
        assert_eq!(
            (&token["project"]["id"], &token["project"]["name"]),
            (&json!(OTHER_PROJECT_ID), &json!(OTHER_PROJECT))
        );
        assert!(token["catalog"].to_string().contains(OTHER_PROJECT_ID));
    }
    // One login for the project, whatever it is called, and one of keyway's own.
    assert_eq!(cloud.token_requests(), 2);
    for domain in [json!({"id": DOMAIN_ID}), json!({"name": DOMAIN})] {
        let token = get(json!({"domain": domain})).await;
        assert_eq!((&token["domain"]["id"], &token["project"]), (&json!(DOMAIN_ID), &Value::Null));
    }
    let token = get(json!({"system": {"all": true}})).await;
    assert_eq!((&token["system"], &token["project"]), (&json!({"all": true}), &Value::Null));
    for unscoped in [json!("unscoped"), json!({"unscoped": {}})] {
        let token = get(unscoped).await;
        assert!(
            ["project", "domain", "system", "catalog", "roles"].iter().all(|name| token.get(name).is_none()),
            "{token}"
        );
    }
    assert_eq!(cloud.token_requests(), 5);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_scope_that_the_credential_can_not_have_is_refused_as_keystone_does() {
    let cloud = cloud().await;
    let keyway = TestKeyway::in_front_of(&cloud).await;
    for scope in [
        json!({"project": {"id": "0123456789abcdef0123456789abcdef"}}),
        json!({"project": {"name": "nowhere", "domain": {"name": DOMAIN}}}),
        json!({"project": {"name": PROJECT, "domain": {"name": "Elsewhere"}}}),
        json!({"domain": {"id": "elsewhere"}}),
        json!({"OS-TRUST:trust": {"id": "0123456789abcdef0123456789abcdef"}}),
    ] {
        refused(&keyway.post(TOKENS, &password(Some(scope))).await, 401);
    }
    // It harms nobody else.
    issued(&keyway.post(TOKENS, &password(None)).await);
    keyway.get("/compute/servers").await.passed_on(200);
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_listed_projects_are_there_where_projects_are_listed() {
    let cloud = cloud().await;
    let keyway = TestKeyway::with(&cloud, |config| {
        let view = View { projects: vec![OTHER_PROJECT.to_owned()], ..View::default() };
        config.facade.clouds.insert(config.clouds[0].name.clone(), view);
    })
    .await;
    for scope in [
        None,
        Some(json!({"project": {"id": PROJECT_ID}})),
        Some(json!({"project": {"id": "nowhere"}})),
        Some(json!({"domain": {"id": DOMAIN_ID}})),
        Some(json!({"system": {"all": true}})),
    ] {
        let message = refused(&keyway.post(TOKENS, &password(scope.clone())).await, 401);
        assert!(!message.contains(PROJECT_ID), "{message}");
    }
    let token = token(&keyway, Some(json!({"project": {"id": OTHER_PROJECT_ID}}))).await;
    issued(&keyway.post(TOKENS, &password(Some(json!("unscoped")))).await);
    for path in
        ["/v3/auth/projects", "/identity/v3/OS-FEDERATION/projects", &format!("/v3/users/{USER_ID}/projects")]
    {
        let list = keyway.with_token(Method::GET, path, &token).await.json();
        let ids: Vec<_> =
            list["projects"].as_array().expect(path).iter().map(|project| &project["id"]).collect();
        assert_eq!(ids, [OTHER_PROJECT_ID], "{path}");
    }
    for kind in ["domains", "system"] {
        let list = keyway.with_token(Method::GET, &format!("/v3/auth/{kind}"), &token).await.json();
        assert_eq!(list[kind], json!([]));
    }
    let tenants = keyway.with_token(Method::GET, "/v2.0/tenants", &token).await.json();
    assert_eq!(tenants["tenants"].as_array().map(Vec::len), Some(1));
    // A path is no way around it.
    keyway.get(&format!("/project/{OTHER_PROJECT}/compute/servers")).await.passed_on(200);
    let before = cloud.requests("compute").len();
    let message =
        keyway.get(&format!("/project/{PROJECT_ID}/compute/servers")).await.message(404, "unknown_project");
    assert!(message.contains(OTHER_PROJECT) && !message.contains(PROJECT_ID), "{message}");
    assert_eq!(cloud.requests("compute").len(), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_client_may_choose_from_is_keystones_own_list() {
    let cloud = cloud().await;
    let keyway = TestKeyway::in_front_of(&cloud).await;
    let token = token(&keyway, Some(json!("unscoped"))).await;
    for (path, name) in [
        ("/identity/v3/auth/projects", "projects"),
        ("/v3/auth/projects", "projects"),
        ("/identity/v3/auth/domains", "domains"),
        ("/v3/auth/system", "system"),
        (&format!("/v3/users/{USER_ID}/projects"), "projects"),
    ] {
        let answer = keyway.with_token(Method::GET, path, &token).await;
        answer.passed_on(200);
        assert!(answer.json()[name].as_array().is_some_and(|list| !list.is_empty()), "{path}");
    }
    let tenants = keyway.with_token(Method::GET, "/v2.0/tenants", &token).await.json();
    let names: Vec<_> = tenants["tenants"].as_array().unwrap().iter().map(|tenant| &tenant["name"]).collect();
    assert_eq!(names, [PROJECT, OTHER_PROJECT]);
    // Without a project there is no catalog.
    refused(&keyway.with_token(Method::GET, "/identity/v3/auth/catalog", &token).await, 403);
    let all_else = keyway.with_token(Method::GET, "/identity/v3/users", &token).await;
    all_else.passed_on(200);
    assert_eq!(all_else.json()["users"][0]["id"], USER_ID);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_keystone_that_is_down_is_no_bad_password() {
    let cloud = cloud().await;
    cloud.pause("identity").await;
    let keyway = TestKeyway::cold(vec![cloud.keystone_config()], |_| {});
    for _ in 0..3 {
        let answer = keyway.post(TOKENS, &password(None)).await;
        assert_eq!((answer.status, answer.header("x-keyway-error").is_empty()), (503, false), "{answer:?}");
        assert!(answer.header("retry-after").parse::<u32>().is_ok_and(|seconds| seconds > 0));
        assert_eq!(answer.header("www-authenticate"), "");
    }
    // What needs no Keystone is there.
    assert_eq!(keyway.get("/identity").await.status, 300);
    cloud.resume("identity").await;
    eventually("the login", async || {
        (keyway.post(TOKENS, &password(None)).await.status == 201).then_some(())
    })
    .await;
}

fn configured(config: &mut Config) {
    config.listeners[0].logins = Logins::Configured;
    let login = |name: &str, password: &str| identity::Config {
        name: name.to_owned(),
        password: Some(Secret::new(password)),
        ..Default::default()
    };
    config.identities = vec![login("ada", "ada-password"), login("bob", "bob-password")];
}

#[tokio::test(flavor = "multi_thread")]
async fn only_configured_logins_log_in_where_they_are_wanted() {
    let cloud = cloud().await;
    let keyway = TestKeyway::with(&cloud, configured).await;
    let user = |name: &str, password: &str| json!({"password": {"user": {"name": name, "password": password, "domain": {"name": "any"}}}});
    let credential = |id: &str, secret: &str| json!({"application_credential": {"id": id, "secret": secret}});
    let login = async |methods: Value, given: Value| keyway.post(TOKENS, &by(methods, given)).await;

    let ada = issued(&login(json!(["password"]), user("ada", "ada-password")).await);
    let bob = issued(&login(json!(["application_credential"]), credential("bob", "bob-password")).await);
    let again = issued(&login(json!(["token"]), json!({"token": {"id": ada}})).await);
    for token in [&ada, &bob, &again] {
        keyway.with_token(Method::GET, "/compute/servers", token).await.passed_on(200);
    }
    let v2 = json!({"auth": {"passwordCredentials": {"username": "bob", "password": "bob-password"}}});
    assert_eq!(keyway.post("/identity/v2.0/tokens", &v2).await.status, 200);
    let swift = [("x-auth-user", "ada"), ("x-auth-key", "ada-password")];
    assert_eq!(keyway.get_with("/auth/v1.0", &swift).await.status, 200);

    let mut two = user("ada", "ada-password");
    two["application_credential"] = credential("bob", "bob-password")["application_credential"].clone();
    for (methods, given) in [
        (json!(["password"]), user("ada", "bob-password")),
        (json!(["password"]), user("eve", "ada-password")),
        (json!(["application_credential"]), credential("bob", "wrong")),
        (json!(["token"]), json!({"token": {"id": "dummy"}})),
        (json!(["token"]), json!({"token": {"id": "ada-password"}})),
        (json!(["totp"]), json!({"totp": {}})),
        (json!(["password", "application_credential"]), two),
    ] {
        let message = refused(&login(methods, given).await, 401);
        assert_eq!(message, "The request you have made requires authentication.");
    }
    refused(&keyway.get_with("/auth/v1.0", &[("x-auth-user", "ada"), ("x-auth-key", "x")]).await, 401);
    // Everybody may look where to log in, and no further.
    assert_eq!(keyway.get("/identity").await.status, 300);
    unauthorized(&keyway.get("/identity/v3/auth/catalog").await, "");
    unauthorized(&keyway.get("/compute/servers").await, "");
    assert_eq!(cloud.token_requests(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_is_good_for_its_own_cloud_only() {
    let (one, two) = (cloud().await, cloud().await);
    let mut lab = two.keystone_config();
    lab.name = "lab 2".to_owned();
    let keyway = TestKeyway::cold(vec![one.keystone_config(), lab], |_| {});
    let lab = "/cloud/lab%202/identity/v3/auth/tokens";
    let answer = keyway.post(lab, &password(None)).await;
    let (of_lab, of_one) = (issued(&answer), token(&keyway, None).await);
    for endpoint in endpoints(&answer.json()["token"]["catalog"]) {
        let own = format!("http://{}/cloud/lab%202/", keyway.listen());
        assert!(endpoint[3].starts_with(&own), "{endpoint:?}");
    }
    keyway.with_token(Method::GET, "/cloud/lab%202/compute/servers", &of_lab).await.passed_on(200);
    unauthorized(&keyway.with_token(Method::GET, "/compute/servers", &of_lab).await, "another cloud");
    unauthorized(
        &keyway.with_token(Method::GET, "/identity/v3/auth/catalog", &of_lab).await,
        "another cloud",
    );
    let headers = [("x-auth-token", &*of_one), ("x-subject-token", &*of_lab)];
    for method in [Method::GET, Method::DELETE] {
        refused(&keyway.send(request(method, TOKENS, &headers, "")).await, 404);
    }
    let body = by(json!(["token"]), json!({"token": {"id": of_lab}}));
    refused(&keyway.post(TOKENS, &body).await, 401);
    keyway.get("/cloud/elsewhere/identity").await.message(404, "unknown_cloud");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_path_with_a_project_and_a_region_makes_them_the_default() {
    let cloud = cloud().await;
    let keyway = TestKeyway::in_front_of(&cloud).await;
    let path = format!("/region/RegionTwo/project/{OTHER_PROJECT}/identity/v3/auth/tokens");
    let answer = keyway.post(&path, &password(None)).await;
    issued(&answer);
    let token = &answer.json()["token"];
    assert_eq!(token["project"]["id"], OTHER_PROJECT_ID);
    let shown = endpoints(&token["catalog"]);
    assert!(!shown.is_empty() && shown.iter().all(|endpoint| endpoint[2] == "RegionTwo"), "{shown:?}");
    let answer = keyway.post(&path, &password(Some(json!({"project": {"id": PROJECT_ID}})))).await;
    assert_eq!(answer.json()["token"]["project"]["id"], PROJECT_ID);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fixed_token_has_a_user_of_keyways_and_a_catalog_of_the_overrides() {
    let cloud = cloud().await;
    let (url, token) = (cloud.url("compute"), keyway::demo::PASSWORD.to_owned());
    let base = |url: &str| keyway::upstream::BaseUrl::parse(url).expect(url);
    let keyway = TestKeyway::for_cloud(&cloud, |config| {
        config.auth =
            keyway::keystone::Auth::Fixed { endpoint: base(&url), token: Secret::new(token).into() };
        config.endpoint_overrides.insert("compute".to_owned(), base(&url));
    })
    .await;
    let answer = keyway.post(TOKENS, &password(None)).await;
    let token = issued(&answer);
    let document = &answer.json()["token"];
    assert_eq!((&document["user"]["name"], document.get("project")), (&json!("keyway"), None));
    let shown = endpoints(&document["catalog"]);
    assert_eq!((shown.len(), &*shown[0][0], &*shown[0][1]), (1, "compute", "public"));
    let path = shown[0][3].replace(&format!("http://{}", keyway.listen()), "");
    // The token is none of the demo cloud's, which says so itself.
    keyway.with_token(Method::GET, &format!("{path}/servers"), &token).await.passed_on(401);
    let catalog = keyway.with_token(Method::GET, "/identity/v3/auth/catalog", &token).await;
    assert_eq!(catalog.json()["catalog"], document["catalog"]);
    refused(&keyway.post(TOKENS, &password(Some(json!({"project": {"id": "p"}})))).await, 401);
    assert_eq!(cloud.token_requests(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn swifts_v1_login_leads_to_the_account_of_a_project() {
    let cloud = cloud().await;
    let keyway = TestKeyway::in_front_of(&cloud).await;
    let own = format!("http://{}", keyway.listen());
    for (path, user, project) in [
        ("/auth/v1.0", "anybody", PROJECT_ID),
        ("/auth/v1", ":anybody", PROJECT_ID),
        ("/object-store/auth/v1.0", "demo:anybody", PROJECT_ID),
        ("/auth/v1.0", "other:anybody", OTHER_PROJECT_ID),
        ("/auth/v1.0", &format!("{OTHER_PROJECT_ID}:anybody"), OTHER_PROJECT_ID),
    ] {
        let answer = keyway.get_with(path, &[("x-auth-user", user), ("x-auth-key", "any")]).await;
        assert_eq!((answer.status, answer.body.len()), (200, 0), "{answer:?}");
        let token = answer.header("x-auth-token");
        assert_eq!(answer.header("x-storage-token"), token);
        assert_eq!(answer.header("x-auth-token-expires"), "43200");
        let url = answer.header("x-storage-url").strip_prefix(&own).expect("a URL of keyway's");
        assert!(
            url.starts_with("/origin/http-127.0.0.1-") && url.ends_with(&format!("/v1/AUTH_{project}")),
            "{url}"
        );
        let put = keyway.with_token(Method::PUT, &format!("{url}/box-{project}"), token).await;
        put.passed_on(if user == "anybody" || user == "other:anybody" { 201 } else { 202 });
    }
    let old = [("x-storage-user", "demo:anybody"), ("x-storage-pass", "any")];
    assert_eq!(keyway.get_with("/auth/v1.0", &old).await.status, 200);
    // What was meant for a project that is not there must not end up in another one.
    let unknown = [("x-auth-user", "test:tester"), ("x-auth-key", "testing")];
    let message = refused(&keyway.get_with("/auth/v1.0", &unknown).await, 401);
    assert!(message.contains(PROJECT) && message.contains(OTHER_PROJECT), "{message}");
    refused(&keyway.get("/auth/v1.0").await, 401);
    refused(&keyway.get_with("/auth/v1.0", &[("x-auth-user", "demo:anybody")]).await, 401);
    // Its clients look for the store's capabilities at the root of its host.
    let seen = cloud.requests("object-store").len();
    keyway.get("/info").await;
    assert_eq!(targets(&cloud, "object-store")[seen..], ["/info"]);
}

/// As keystoneauth goes about it: it knows a URL and a password, and finds everything else.
struct Session<'a> {
    keyway: &'a TestKeyway,
    auth_url: String,
    token: String,
    catalog: Value,
    logins: usize,
}

impl<'a> Session<'a> {
    async fn new(keyway: &'a TestKeyway, auth_url: &str) -> Self {
        let auth_url = format!("http://{}{auth_url}", keyway.listen());
        let mut session = Self { keyway, auth_url, token: String::new(), catalog: Value::Null, logins: 0 };
        session.log_in().await;
        session
    }

    async fn get(&self, url: &str) -> Answer {
        let own = format!("http://{}", self.keyway.listen());
        let path = url.strip_prefix(&own).unwrap_or_else(|| panic!("{url} is no URL of keyway's"));
        let path = if path.is_empty() { "/" } else { path };
        self.keyway.with_token(Method::GET, path, &self.token).await
    }

    /// Looks for the versions where it was sent, takes v3 and logs in there.
    async fn log_in(&mut self) {
        let versions = self.get(&self.auth_url).await;
        assert!(matches!(versions.status, 200 | 300), "{versions:?}");
        let document = versions.json();
        let entries = match document["versions"]["values"].as_array() {
            Some(entries) => entries.clone(),
            None => vec![document["version"].clone()],
        };
        let v3 = entries.iter().find(|entry| entry["id"] == "v3.14").expect("v3");
        let url = v3["links"][0]["href"].as_str().expect("a link").trim_end_matches('/');
        let path = url.strip_prefix(&format!("http://{}", self.keyway.listen())).expect("a URL of keyway's");
        let answer = self.keyway.post(&format!("{path}/auth/tokens"), &password(None)).await;
        self.token = issued(&answer);
        self.catalog = answer.json()["token"]["catalog"].clone();
        self.logins += 1;
    }

    fn endpoint(&self, kind: &str, interface: &str, region: &str) -> String {
        let all = endpoints(&self.catalog);
        let found = all.into_iter().find(|endpoint| endpoint[..3] == [kind, interface, region]);
        found.unwrap_or_else(|| panic!("no {interface} {kind} in {region}"))[3].clone()
    }

    /// A request; once more after a new login if it is refused.
    async fn request(&mut self, kind: &str, region: &str, path: &str) -> Answer {
        let url = format!("{}{path}", self.endpoint(kind, "public", region).trim_end_matches('/'));
        let answer = self.get(&url).await;
        if answer.status != 401 {
            return answer;
        }
        self.log_in().await;
        self.get(&url).await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_knows_nothing_but_the_url_finds_everything() {
    let cloud = cloud().await;
    let keyway = TestKeyway::in_front_of(&cloud).await;
    for auth_url in ["", "/", "/v3", "/identity", "/identity/", "/identity/v3", "/identity/v3/"] {
        let mut session = Session::new(&keyway, auth_url).await;
        for (kind, region, path) in [
            ("compute", "RegionOne", "/servers/detail"),
            ("compute", "RegionTwo", "/servers"),
            ("image", "RegionOne", "/v2/images"),
            ("network", "RegionOne", "/v2.0/networks"),
            ("volumev3", "RegionOne", "/volumes"),
            ("object-store", "RegionOne", ""),
            ("identity", "RegionOne", "/users"),
        ] {
            let answer = session.request(kind, region, path).await;
            assert!(matches!(answer.status, 200 | 204), "{kind}{path}: {answer:?}");
            answer.passed_on(answer.status);
        }
        // It asks a service for its versions where that has them, above its endpoint.
        let versions = session.endpoint("compute", "public", "RegionOne").replace("/v2.1", "/");
        assert!(session.get(&versions).await.json()["versions"].is_array());
        assert_eq!(session.logins, 1);

        // Its token is revoked behind its back: it logs in again by itself.
        let revoked = keyway.about(Method::DELETE, TOKENS, &session.token).await;
        assert_eq!(revoked.status, 204);
        assert_eq!(session.request("compute", "RegionOne", "/servers").await.status, 200);
        assert_eq!(session.logins, 2);
    }
    assert_eq!(cloud.token_requests(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_listener_or_a_host_name_of_keystones_has_all_of_it_at_its_root() {
    let cloud = cloud().await;
    let keyway = TestKeyway::with(&cloud, |config| {
        let address: Address = "127.0.0.1:0".parse().expect("an address");
        config
            .listeners
            .push(Listener { pinned: Some("/identity".to_owned()), ..Listener::at("keystone", address) });
    })
    .await;
    let main = keyway.listen();
    let pinned = keyway.app().addresses().nth(1).and_then(Address::tcp).expect("an IP address");
    let by_name = format!("identity.localhost:{}", main.port());
    for (address, host, ordinary) in [
        (pinned, pinned.to_string(), format!("http://{main}")),
        (main, by_name, format!("http://localhost:{}", main.port())),
    ] {
        let mut client = Connection::open(address).await;
        let host = [("host", &*host)];
        let versions = client.send(request(Method::GET, "/", &host, "")).await;
        assert_eq!(
            (versions.status, versions.header("location")),
            (300, &*format!("http://{}/v3/", host[0].1))
        );
        assert_eq!(client.send(request(Method::GET, "/v2.0", &host, "")).await.status, 200);
        let answer =
            client.send(request(Method::POST, "/v3/auth/tokens", &host, password(None).to_string())).await;
        let token = issued(&answer);
        for endpoint in endpoints(&answer.json()["token"]["catalog"]) {
            let path = endpoint[3].strip_prefix(&ordinary).unwrap_or_else(|| panic!("{endpoint:?}"));
            assert!(path == "/identity/v3" || path.starts_with("/origin/http-"), "{path}");
        }
        keyway.with_token(Method::GET, "/compute/servers", &token).await.passed_on(200);
        let fields = [host[0], ("x-auth-token", &*token)];
        client.send(request(Method::GET, "/v3/users", &fields, "")).await.passed_on(200);
        let fields = [host[0], ("x-auth-user", "demo:any"), ("x-auth-key", "any")];
        let swift = client.send(request(Method::GET, "/auth/v1.0", &fields, "")).await;
        assert!(swift.header("x-storage-url").starts_with(&format!("{ordinary}/origin/")), "{swift:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn where_only_services_have_ports_the_catalog_names_those() {
    let cloud = cloud().await;
    let directory = tempfile::tempdir().expect("a directory");
    let socket = directory.path().join("keyway.sock");
    let keyway = TestKeyway::with(&cloud, |config| {
        config.listeners[0].server.address = Address::Unix(socket);
        for service in ["identity", "compute"] {
            let address: Address = "127.0.0.1:0".parse().expect("an address");
            let pinned = Some(format!("/{service}"));
            config.listeners.push(Listener { pinned, ..Listener::at(service, address) });
        }
    })
    .await;
    let port = |index| keyway.app().addresses().nth(index).and_then(Address::tcp).expect("an IP address");
    let mut client = Connection::open(port(1)).await;
    let answer = client.send(request(Method::POST, "/v3/auth/tokens", &[], password(None).to_string())).await;
    let token = issued(&answer);
    let shown = endpoints(&answer.json()["token"]["catalog"]);
    let (own, compute) = (format!("http://{}", port(1)), format!("http://{}", port(2)));
    for [kind, _, region, url] in &shown {
        match &**kind {
            "identity" => assert_eq!(*url, format!("{own}/v3")),
            "compute" => assert!(url.starts_with(&compute) && url.ends_with("/v2.1"), "{region} {url}"),
            _ => panic!("{kind} can't be reached"),
        }
    }
    let url = shown.iter().find(|endpoint| endpoint[0] == "compute").expect("compute")[3].clone();
    let path = format!("{}/servers", url.strip_prefix(&compute).expect("its own listener"));
    let fields = [("x-auth-token", &*token)];
    Connection::open(port(2)).await.send(request(Method::GET, &path, &fields, "")).await.passed_on(200);
}
