//! keyway in Keystone's place: version documents, logins, tokens and catalogs of Identity v3.

use http::Method;
use keyway::demo::{DOMAIN, OTHER_PROJECT, OTHER_PROJECT_ID, PROJECT, PROJECT_ID, USER, USER_ID};
use serde_json::{Value, json};

use crate::support::{Answer, TestKeyway, cloud, request, targets};

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
    let _ = OTHER_PROJECT;
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
