//! keyway in Keystone's place: version documents, logins, tokens and catalogs of Identity v3.

use std::time::Duration;

use bytes::Bytes;
use http::Method;
use keyway::config::Config;
use keyway::demo::{
    DOMAIN, DOMAIN_ID, OTHER_PROJECT, OTHER_PROJECT_ID, PROJECT, PROJECT_ID, USER, USER_ID,
};
use keyway::facade::{Login, Logins, View};
use keyway::keystone::{Interface, Secret};
use serde_json::{Value, json};

use crate::support::{Answer, TestKeyway, bounded, cloud, eventually, request, targets};

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
    assert!(keystone.starts_with("Keystone uri=\"http://") && keystone.ends_with("/identity\""), "{keystone}");
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
            &format!(r#"{{"auth": {{"identity": {{"methods": ["password"], "password": {user}}}, "tenantName": "x"}}}}"#),
            "at once",
        ),
        (
            &format!(r#"{{"auth": {{"identity": {{"methods": ["password"], "password": {user}}}, "scope": {{"project": {{"id": 1}}}}}}}}"#),
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
        assert_eq!((answer.header("x-keyway-error"), answer.header("server")), ("", "keyway-demo (simulated)"));
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
    assert_eq!(compute.iter().map(|endpoint| &*endpoint[1]).collect::<Vec<_>>(), ["public", "internal", "admin"]);
    assert!(compute.iter().all(|endpoint| endpoint[3] == compute[0][3]));
    let url = |kind: &str| shown.iter().find(|endpoint| endpoint[0] == kind).map(|endpoint| &endpoint[3]);
    assert!(url("volumev2").is_some());
    assert_eq!(url("volumev2"), url("block-storage"));
}
