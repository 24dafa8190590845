//! keyway in Keystone's place for clients of Identity v2.0, and in front of a Keystone that knows nothing else.

use http::Method;
use keyway::demo::{Cloud, OTHER_PROJECT, OTHER_PROJECT_ID, PROJECT, PROJECT_ID, USER, USER_ID};
use keyway::facade::View;
use keyway::keystone::{Auth, IdentityVersion};
use keyway::upstream::BaseUrl;
use serde_json::{Value, json};

use crate::facade::{issued, password, refused, unauthorized};
use crate::support::{Answer, TestKeyway, cloud, request, targets};

const TOKENS: &str = "/identity/v2.0/tokens";

/// A login by Identity v2.0 with a password, which is any.
fn login(more: Value) -> Value {
    let mut auth = json!({"passwordCredentials": {"username": "anybody", "password": "anything"}});
    if let (Some(auth), Value::Object(more)) = (auth.as_object_mut(), more) {
        auth.extend(more);
    }
    json!({ "auth": auth })
}

/// Checks that this is a token of keyway's in v2.0's shape; its value.
#[track_caller]
fn access(answer: &Answer) -> String {
    assert_eq!((answer.status, answer.header("x-keyway-error")), (200, ""), "{answer:?}");
    let id = answer.json()["access"]["token"]["id"].as_str().expect("a token").to_owned();
    assert!(id.starts_with("gAAAAA"), "{id}");
    id
}

async fn in_front_of_v2(cloud: &Cloud) -> TestKeyway {
    let url = cloud.v2_url();
    TestKeyway::for_cloud(cloud, |config| {
        let Auth::Identity(identity) = &mut config.auth else {
            unreachable!("the demo cloud has a Keystone")
        };
        identity.auth_url = BaseUrl::parse(&url).expect("a URL");
        identity.version = IdentityVersion::V2;
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_of_v2_logs_in_to_a_cloud_of_v3() {
    let cloud = cloud().await;
    let keyway = TestKeyway::in_front_of(&cloud).await;
    let answer = keyway.post(TOKENS, &login(json!({"tenantName": OTHER_PROJECT}))).await;
    let id = access(&answer);
    let access = &answer.json()["access"];
    let tenant = json!({"id": OTHER_PROJECT_ID, "name": OTHER_PROJECT, "description": "", "enabled": true});
    assert_eq!(access["token"]["tenant"], tenant);
    for time in ["issued_at", "expires"] {
        assert!(access["token"][time].as_str().is_some_and(|time| time.ends_with('Z')), "{access}");
    }
    assert_eq!(access["token"]["audit_ids"].as_array().map(Vec::len), Some(1));
    let user = &access["user"];
    assert_eq!(
        (&user["id"], &user["name"], &user["username"]),
        (&json!(USER_ID), &json!(USER), &json!(USER))
    );
    assert_eq!((&user["roles_links"], &access["metadata"]["is_admin"]), (&json!([]), &json!(0)));
    assert!(user["roles"][0]["name"].is_string(), "{user}");

    let own = format!("http://{}", keyway.listen());
    let services = access["serviceCatalog"].as_array().expect("a catalog");
    let of = |kind: &str| services.iter().find(|service| service["type"] == kind).expect(kind);
    let compute = of("compute");
    assert_eq!(
        (&compute["endpoints_links"], compute["endpoints"].as_array().map(Vec::len)),
        (&json!([]), Some(2))
    );
    let url = |service: &Value, which: &str| {
        let url = service["endpoints"][0][which].as_str().expect("a URL");
        url.strip_prefix(&own).expect("a URL of keyway's").to_owned()
    };
    for which in ["publicURL", "internalURL", "adminURL"] {
        assert_eq!(url(of("identity"), which), "/identity/v2.0");
        let servers = format!("{}/servers", url(compute, which));
        keyway.with_token(Method::GET, &servers, &id).await.passed_on(200);
    }
    // By its id, and with the user's.
    let by_id = json!({"auth": {"passwordCredentials": {"userId": "u", "password": "p"}, "tenantId": OTHER_PROJECT_ID}});
    let answer = keyway.post("/v2.0/tokens", &by_id).await;
    assert_eq!(answer.json()["access"]["token"]["tenant"]["name"], OTHER_PROJECT);
    // Without a tenant there is the cloud's default one, so that nobody has to name it.
    let answer = keyway.post(TOKENS, &login(json!({}))).await;
    assert_eq!(answer.json()["access"]["token"]["tenant"]["id"], PROJECT_ID);
    assert_eq!(cloud.token_requests(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_of_v2_is_shown_used_and_revoked() {
    let cloud = cloud().await;
    let keyway = TestKeyway::in_front_of(&cloud).await;
    let answer = keyway.post(TOKENS, &login(json!({"tenantName": PROJECT}))).await;
    let id = access(&answer);
    let at = |more: &str| format!("{TOKENS}/{id}{more}");
    let shown = keyway.with_token(Method::GET, &at(""), &id).await;
    assert_eq!(shown.json(), answer.json());
    let head = keyway.with_token(Method::HEAD, &at(""), &id).await;
    assert_eq!((head.status, head.body.len(), &head.headers), (200, 0, &shown.headers));
    assert_eq!(keyway.get(&at(&format!("?belongsTo={PROJECT_ID}"))).await.status, 200);
    refused(&keyway.get(&at(&format!("?belongsTo={OTHER_PROJECT_ID}"))).await, 401);
    let endpoints = keyway.get(&at("/endpoints")).await.json();
    let compute =
        endpoints["endpoints"].as_array().unwrap().iter().find(|endpoint| endpoint["type"] == "compute");
    assert!(compute.is_some_and(|compute| compute["publicURL"].is_string() && compute["name"] == "nova"));
    // Both versions show each other's tokens, as Keystone did.
    assert_eq!(keyway.about(Method::GET, "/v3/auth/tokens", &id).await.status, 200);

    let from_token = json!({"auth": {"token": {"id": id}, "tenantId": OTHER_PROJECT_ID}});
    let second = keyway.post(TOKENS, &from_token).await;
    let other = access(&second);
    let of = |answer: &Answer, name: &str| answer.json()["access"]["token"][name].clone();
    assert_eq!(of(&second, "expires"), of(&answer, "expires"));
    assert_eq!(of(&second, "tenant")["id"], OTHER_PROJECT_ID);

    let deleted = keyway.with_token(Method::DELETE, &at(""), &other).await;
    assert_eq!((deleted.status, deleted.body.len()), (204, 0));
    refused(&keyway.with_token(Method::GET, &at(""), &other).await, 404);
    unauthorized(&keyway.with_token(Method::GET, "/compute/servers", &id).await, "revoked");
    refused(&keyway.post(TOKENS, &from_token).await, 401);
    // What is none of ours is Keystone's matter.
    let before = targets(&cloud, "identity").len();
    keyway.with_token(Method::GET, "/identity/v2.0/tokens/another", &other).await;
    assert_eq!(targets(&cloud, "identity")[before..], ["/v2.0/tokens/another"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_client_of_v2_asks_besides_is_answered() {
    let cloud = cloud().await;
    let keyway = TestKeyway::in_front_of(&cloud).await;
    assert_eq!(keyway.get("/identity/v2.0/extensions").await.json(), json!({"extensions": {"values": []}}));
    let names = async |query: &str| -> Vec<String> {
        let answer = keyway.get(&format!("/identity/v2.0/tenants{query}")).await;
        assert_eq!(answer.json()["tenants_links"], json!([]));
        let tenants = answer.json()["tenants"].as_array().cloned().unwrap_or_default();
        tenants.iter().map(|tenant| tenant["name"].as_str().unwrap_or_default().to_owned()).collect()
    };
    assert_eq!(names("").await, [PROJECT, OTHER_PROJECT]);
    assert_eq!(names("?limit=1").await, [PROJECT]);
    assert_eq!(names(&format!("?marker={PROJECT_ID}&limit=5")).await, [OTHER_PROJECT]);
    assert_eq!(names(&format!("?marker={OTHER_PROJECT_ID}")).await, [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_logins_of_v2_are_refused_in_keystones_shape() {
    let cloud = cloud().await;
    let keyway = TestKeyway::in_front_of(&cloud).await;
    let user = json!({"user": {"name": "a", "password": "p"}});
    for (body, expected) in [
        (json!({}), "auth"),
        (json!({"auth": {}}), "passwordCredentials or token"),
        (login(json!({"tenantName": 5})), "`tenantName` in auth must be a string"),
        (login(json!({"tenantName": PROJECT, "tenantId": PROJECT_ID})), "send one"),
        (login(json!({"token": {"id": "t"}})), "send one"),
        (login(json!({"identity": {"methods": ["password"], "password": user}})), "at once"),
        (password(None), "/v3/auth/tokens"),
    ] {
        let message = refused(&keyway.post(TOKENS, &body).await, 400);
        assert!(message.contains(expected), "{body}: {message}");
    }
    let malformed = keyway.send(request(Method::POST, TOKENS, &[], "{\"auth\"")).await;
    refused(&malformed, 400);
    let large = keyway.send(request(Method::POST, TOKENS, &[], vec![b'x'; 10 << 20])).await;
    refused(&large, 413);
    for more in [
        json!({"tenantName": "nowhere"}),
        json!({"tenantId": "0123456789abcdef0123456789abcdef"}),
        json!({"trust_id": "0123456789abcdef0123456789abcdef"}),
    ] {
        refused(&keyway.post(TOKENS, &login(more)).await, 401);
    }
    for token in ["gAAAAABforged"] {
        refused(&keyway.post(TOKENS, &json!({"auth": {"token": {"id": token}}})).await, 401);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_of_v3_logs_in_to_a_cloud_of_v2() {
    let cloud = cloud().await;
    let keyway = in_front_of_v2(&cloud).await;
    let own = format!("http://{}", keyway.listen());
    let default = json!({"id": "default", "name": "Default"});
    for scope in [
        None,
        Some(json!({"project": {"id": PROJECT_ID}})),
        Some(json!({"project": {"name": PROJECT, "domain": {"name": "Default"}}})),
        Some(json!({"project": {"name": PROJECT, "domain": {"id": "default"}}})),
    ] {
        let answer = keyway.post("/identity/v3/auth/tokens", &password(scope)).await;
        let id = issued(&answer);
        let token = &answer.json()["token"];
        assert_eq!(token["project"], json!({"id": PROJECT_ID, "name": PROJECT, "domain": default}));
        assert_eq!(token["user"]["domain"], default);
        let services = token["catalog"].as_array().expect("a catalog");
        let identity = services.iter().find(|service| service["type"] == "identity").expect("identity");
        assert_eq!(identity["endpoints"][0]["url"], format!("{own}/identity/v3"));
        let compute = services.iter().find(|service| service["type"] == "compute").expect("compute");
        let url =
            compute["endpoints"][0]["url"].as_str().and_then(|url| url.strip_prefix(&own)).expect("a URL");
        keyway.with_token(Method::GET, &format!("{url}/servers"), &id).await.passed_on(200);
        let shown = keyway.about(Method::GET, "/identity/v3/auth/tokens", &id).await;
        assert_eq!(&shown.json()["token"], token);
    }
    let other = json!({"project": {"id": OTHER_PROJECT_ID}});
    let answer = keyway.post("/v3/auth/tokens", &password(Some(other))).await;
    assert_eq!(answer.json()["token"]["project"]["name"], OTHER_PROJECT);
    let token = issued(&answer);

    // What v2.0 has no word for is refused, and says so.
    for scope in [
        json!({"system": {"all": true}}),
        json!({"domain": {"id": "default"}}),
        json!({"project": {"name": PROJECT, "domain": {"name": "Elsewhere"}}}),
    ] {
        let message = refused(&keyway.post("/v3/auth/tokens", &password(Some(scope))).await, 401);
        assert!(message.contains("v2.0"), "{message}");
    }
    let list = keyway.with_token(Method::GET, "/v3/auth/projects", &token).await.json();
    let of = |project: &Value| (project["name"].clone(), project["domain_id"].clone());
    let projects: Vec<_> = list["projects"].as_array().expect("projects").iter().map(of).collect();
    assert_eq!(projects, [(json!(PROJECT), json!("default")), (json!(OTHER_PROJECT), json!("default"))]);
    for kind in ["domains", "system"] {
        let list = keyway.with_token(Method::GET, &format!("/v3/auth/{kind}"), &token).await;
        assert_eq!(list.json()[kind], json!([]));
    }
    assert!(targets(&cloud, "identity").iter().all(|target| target.starts_with("/v2.0/")));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_of_v2_logs_in_to_a_cloud_of_v2() {
    let cloud = cloud().await;
    let keyway = in_front_of_v2(&cloud).await;
    let answer = keyway.post(TOKENS, &login(json!({"tenantName": OTHER_PROJECT}))).await;
    access(&answer);
    assert_eq!(answer.json()["access"]["token"]["tenant"]["id"], OTHER_PROJECT_ID);
    // Keystone's own list says more than keyway knows.
    let tenants = keyway.get("/identity/v2.0/tenants").await;
    tenants.passed_on(200);
    assert_eq!(tenants.json()["tenants"].as_array().map(Vec::len), Some(2));
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_listed_projects_are_tenants() {
    let cloud = cloud().await;
    let keyway = TestKeyway::with(&cloud, |config| {
        let view = View { projects: vec![PROJECT_ID.to_owned()], ..View::default() };
        config.facade.clouds.insert(config.clouds[0].name.clone(), view);
    })
    .await;
    access(&keyway.post(TOKENS, &login(json!({}))).await);
    refused(&keyway.post(TOKENS, &login(json!({"tenantName": OTHER_PROJECT}))).await, 401);
    let tenants = keyway.get("/identity/v2.0/tenants").await.json();
    assert_eq!(tenants["tenants"][0]["name"], PROJECT);
    assert_eq!(tenants["tenants"].as_array().map(Vec::len), Some(1));
}
