//! The main flows of each service, over TCP.

use http_body_util::{BodyExt, Full};
use hyper::client::conn::{http1, http2};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use serde_json::json;

use super::*;

struct Answered {
    status: u16,
    headers: HeaderMap,
    body: Bytes,
}

impl Answered {
    fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|_| panic!("not JSON: {:?}", self.body))
    }

    fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }
}

async fn connect(url: &str) -> std::io::Result<TokioIo<TcpStream>> {
    let authority = url.split('/').nth(2).unwrap().replace("localhost", "127.0.0.1");
    TcpStream::connect(authority).await.map(TokioIo::new)
}

/// Sends one request, `request` being `METHOD url`.
async fn send(request: &str, headers: &[(&str, &str)], body: impl Into<Bytes>) -> Answered {
    let (method, url) = request.split_once(' ').unwrap();
    let (_, rest) = url.split_once("://").unwrap();
    let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
    let mut request = Request::builder().method(method).uri(format!("/{path}")).header("host", authority);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let request = request.body(Full::new(body.into())).unwrap();
    let (mut sender, connection) = http1::handshake(connect(url).await.unwrap()).await.unwrap();
    tokio::spawn(connection);
    let (head, body) = sender.send_request(request).await.unwrap().into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    Answered { status: head.status.as_u16(), headers: head.headers, body }
}

async fn start() -> Cloud {
    let config = Config { boot_time: Duration::from_millis(700), page_size: 5, ..Config::default() };
    Cloud::start(config).await.unwrap()
}

fn password(scope: Value) -> String {
    let user = json!({"name": USER, "domain": {"name": DOMAIN}, "password": PASSWORD});
    let identity = json!({"methods": ["password"], "password": {"user": user}});
    match scope {
        Value::Null => json!({"auth": {"identity": identity}}).to_string(),
        scope => json!({"auth": {"identity": identity, "scope": scope}}).to_string(),
    }
}

async fn login_with(cloud: &Cloud, body: String) -> Answered {
    send(&format!("POST {}/auth/tokens", cloud.auth_url()), &[], body).await
}

async fn login(cloud: &Cloud) -> String {
    let answer = login_with(cloud, password(Value::Null)).await;
    assert_eq!(answer.status, 201);
    answer.header("x-subject-token").to_owned()
}

/// A cloud and somebody who has a token.
async fn start_with_token() -> (Cloud, String) {
    let cloud = start().await;
    let token = login(&cloud).await;
    (cloud, token)
}

async fn get(url: &str, token: &str) -> Answered {
    send(&format!("GET {url}"), &[("x-auth-token", token)], "").await
}

async fn post(url: &str, token: &str, body: Value) -> Answered {
    let headers = [("x-auth-token", token), ("content-type", "application/json")];
    send(&format!("POST {url}"), &headers, body.to_string()).await
}

async fn wait_for(url: &str, token: &str, field: &str, value: &str) {
    while get(url, token).await.json().pointer(field).is_none_or(|now| now != value) {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn keystone_issues_tokens_that_look_and_end_like_its_own() {
    let cloud = start().await;
    let answer = login_with(&cloud, password(Value::Null)).await;
    assert_eq!(answer.status, 201);
    let token = answer.header("x-subject-token");
    assert!(token.starts_with("gAAAAA") && token.len() == 183, "{token}");
    assert!(answer.header("x-openstack-request-id").starts_with("req-"));
    assert_eq!(answer.header("server"), "keyway-demo (simulated)");
    let body = answer.json();
    assert_eq!(body["token"]["project"]["id"], PROJECT_ID);
    assert_eq!(body["token"]["catalog"], cloud.catalog());
    assert_eq!(cloud.tokens_issued(), 1);

    let flavors = format!("{}/flavors", cloud.url("compute"));
    assert_eq!(get(&flavors, token).await.status, 200);
    cloud.revoke_all();
    assert_eq!(get(&flavors, token).await.status, 401);

    cloud.set_token_ttl(Duration::from_millis(1));
    let short = login(&cloud).await;
    tokio::time::sleep(Duration::from_millis(2)).await;
    assert_eq!(get(&flavors, &short).await.status, 401);
    let seen = cloud.requests("compute");
    assert_eq!(seen.iter().map(|seen| seen.token_was_good).collect::<Vec<_>>(), [true, false, false]);
    assert_eq!(seen[0].target, "/v2.1/flavors");
    assert_eq!(seen[1].status, Some(StatusCode::UNAUTHORIZED));
}

#[tokio::test]
async fn every_method_and_scope_of_v3_is_understood() {
    let cloud = start().await;
    let scopes = [
        (json!({"project": {"id": OTHER_PROJECT_ID}}), "project"),
        (json!({"project": {"name": OTHER_PROJECT, "domain": {"id": DOMAIN_ID}}}), "project"),
        (json!({"domain": {"name": DOMAIN}}), "domain"),
        (json!({"system": {"all": true}}), "system"),
    ];
    for (scope, key) in scopes {
        let answer = login_with(&cloud, password(scope)).await;
        assert_eq!(answer.status, 201);
        let token = &answer.json()["token"];
        assert!(token[key].is_object() && token["catalog"].is_array(), "{token}");
    }
    let unscoped = login_with(&cloud, password("unscoped".into())).await;
    assert!(unscoped.json()["token"].get("catalog").is_none());
    let id = unscoped.header("x-subject-token");
    let body = json!({"auth": {"identity": {"methods": ["token"], "token": {"id": id}},
                               "scope": {"project": {"id": PROJECT_ID}}}});
    let rescoped = login_with(&cloud, body.to_string()).await.json();
    assert_eq!(rescoped["token"]["expires_at"], unscoped.json()["token"]["expires_at"]);
    assert_eq!(rescoped["token"]["methods"], json!(["password", "token"]));

    let credential = json!({"name": APPLICATION_CREDENTIAL_NAME, "secret": APPLICATION_CREDENTIAL_SECRET,
                            "user": {"id": USER_ID}});
    let identity = json!({"methods": ["application_credential"], "application_credential": credential});
    let body = json!({"auth": {"identity": identity}});
    let bound = login_with(&cloud, body.to_string()).await;
    assert_eq!(bound.status, 201);
    let body = json!({"auth": {"identity": identity, "scope": {"project": {"id": PROJECT_ID}}}});
    let refused = login_with(&cloud, body.to_string()).await;
    assert_eq!(refused.status, 401);
    // Nor has a token of it any other scope.
    let identity = json!({"methods": ["token"], "token": {"id": bound.header("x-subject-token")}});
    let body = json!({"auth": {"identity": identity, "scope": {"project": {"id": PROJECT_ID}}}});
    assert_eq!(login_with(&cloud, body.to_string()).await.body, refused.body);

    for wrong in [
        json!({"project": {"name": OTHER_PROJECT, "domain": {"name": "elsewhere"}}}),
        json!({"domain": {"id": "elsewhere"}}),
        json!({"system": {"all": false}}),
    ] {
        assert_eq!(login_with(&cloud, password(wrong.clone())).await.status, 401, "{wrong}");
    }
    let two = json!({"project": {"id": PROJECT_ID}, "system": {"all": true}});
    assert_eq!(login_with(&cloud, password(two)).await.status, 400);
}

#[tokio::test]
async fn a_wrong_password_is_refused_in_keystones_words() {
    let cloud = start().await;
    let answer = login_with(&cloud, password(Value::Null).replace(PASSWORD, "guess")).await;
    assert_eq!(answer.status, 401);
    assert_eq!(
        answer.body,
        r#"{"error":{"code":401,"message":"The request you have made requires authentication.","title":"Unauthorized"}}"#
    );
    let challenge = format!("Keystone uri=\"{}\"", cloud.auth_url());
    assert_eq!(answer.header("www-authenticate"), challenge);
    assert_eq!((cloud.token_requests(), cloud.tokens_issued()), (1, 0));
    assert_eq!(login_with(&cloud, "{}".to_owned()).await.status, 400);
    let nowhere = json!({"project": {"id": "nope"}});
    assert_eq!(login_with(&cloud, password(nowhere)).await.status, 401);
}

#[tokio::test]
async fn tokens_can_be_validated_and_revoked() {
    let (cloud, token) = start_with_token().await;
    let url = format!("{}/auth/tokens", cloud.auth_url());
    let headers = [("x-auth-token", &token[..]), ("x-subject-token", &token[..])];
    let whole = send(&format!("GET {url}"), &headers, "").await;
    assert_eq!(whole.header("x-subject-token"), token);
    let bare = send(&format!("GET {url}?nocatalog"), &headers, "").await;
    assert!(bare.json()["token"].get("catalog").is_none());
    let head = send(&format!("HEAD {url}"), &headers, "").await;
    assert_eq!(head.header("content-length"), whole.body.len().to_string());
    let unknown = [("x-auth-token", &token[..]), ("x-subject-token", "nope")];
    assert_eq!(send(&format!("GET {url}"), &unknown, "").await.status, 404);
    assert_eq!(send(&format!("DELETE {url}"), &headers, "").await.status, 204);
    assert_eq!(send(&format!("GET {url}"), &headers, "").await.status, 401);
}

#[tokio::test]
async fn identity_v2_logs_in_and_lists_tenants() {
    let cloud = start().await;
    let url = format!("POST {}/tokens", cloud.v2_url());
    let login = async |more: Value| {
        let mut auth = json!({"passwordCredentials": {"username": USER, "password": PASSWORD}});
        auth.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        send(&url, &[], json!({"auth": auth}).to_string()).await
    };
    let unscoped = login(json!({})).await;
    assert_eq!(unscoped.status, 200);
    let access = &unscoped.json()["access"];
    assert_eq!(access["serviceCatalog"], json!([]));
    let tenants = get(&format!("{}/tenants", cloud.v2_url()), access["token"]["id"].as_str().unwrap()).await;
    assert_eq!(tenants.json()["tenants"][1]["name"], OTHER_PROJECT);

    let access = &login(json!({"tenantName": PROJECT})).await.json()["access"];
    assert_eq!(access["token"]["tenant"]["id"], PROJECT_ID);
    assert_eq!(access["metadata"]["roles"].as_array().unwrap().len(), 2);
    assert_eq!(access["serviceCatalog"][0]["endpoints"][0]["publicURL"], cloud.v2_url());
    let compute = &access["serviceCatalog"][1]["endpoints"];
    assert_eq!(compute[0]["publicURL"], cloud.url("compute"));
    assert_eq!(compute[1]["publicURL"], cloud.url("RegionTwo/compute"));
    assert_eq!(login(json!({"tenantId": OTHER_PROJECT_ID})).await.status, 200);
    assert_eq!(login(json!({"tenantName": PROJECT, "tenantId": PROJECT_ID})).await.status, 400);
    assert_eq!(login(json!({"tenantName": "nope"})).await.status, 401);
}

#[tokio::test]
async fn each_service_refuses_a_bad_token_in_its_own_way() {
    let cloud = start().await;
    let keystone = format!("Keystone uri=\"{}/\"", cloud.identity_root());
    let cases = [
        ("compute", "/servers", "application/json"),
        ("image", "/v2/images", "text/html; charset=UTF-8"),
        ("network", "v2.0/networks", "application/json"),
        ("volumev3", "/volumes", "application/json"),
        ("object-store", "", "text/html; charset=UTF-8"),
    ];
    for (service, path, content_type) in cases {
        let answer = get(&format!("{}{path}", cloud.url(service)), "nope").await;
        assert_eq!((answer.status, answer.header("content-type")), (401, content_type), "{service}");
        let challenges: Vec<_> = answer.headers.get_all("www-authenticate").iter().collect();
        assert_eq!(*challenges.last().unwrap(), &keystone[..], "{service}");
        assert_eq!(challenges.len(), if service == "object-store" { 2 } else { 1 }, "{service}");
    }
    let token = login(&cloud).await;
    let servers = format!("GET {}/servers", cloud.url("compute"));
    let twice = [("x-auth-token", &token[..]), ("x-auth-token", &token[..])];
    assert_eq!(send(&servers, &twice, "").await.status, 401);
    let service = [("x-auth-token", &token[..]), ("x-service-token", "nope")];
    assert_eq!(send(&servers, &service, "").await.status, 401);
}

#[tokio::test]
async fn version_documents_need_no_token() {
    let cloud = start().await;
    let root = get(&cloud.identity_root(), "").await;
    assert_eq!((root.status, root.header("location")), (300, &*format!("{}/", cloud.auth_url())));
    assert_eq!(get(&cloud.auth_url(), "").await.json()["version"]["id"], "v3.14");
    assert_eq!(get(&cloud.v2_url(), "").await.json()["version"]["id"], "v2.0");
    assert_eq!(get(&cloud.url("compute"), "").await.json()["version"]["id"], "v2.1");
    assert_eq!(get(&cloud.url("compute").replace("v2.1", "servers"), "").await.status, 300);
    assert_eq!(get(&cloud.url("image"), "").await.status, 300);
    assert_eq!(get(&format!("{}/versions", cloud.url("image")), "").await.status, 200);
    assert_eq!(get(&cloud.url("network"), "").await.status, 200);
    assert_eq!(get(&cloud.url("block-storage").replace("/v3", "/"), "").await.status, 300);
    let stacks = cloud.url("orchestration").replace(&format!("/v1/{PROJECT_ID}"), "/");
    assert_eq!(get(&stacks, "").await.status, 300);
    // One of them does not know where it is.
    let two = get(&cloud.url("RegionTwo/image"), "").await.json();
    let wrong = two["versions"][0]["links"][0]["href"].as_str().unwrap();
    assert_eq!(wrong, "https://glance.region-two.example:9292/v2/");
}

#[tokio::test]
async fn what_can_be_asked_about_the_user_needs_no_scope_and_only_the_catalog_does() {
    let cloud = start().await;
    let keystone = cloud.auth_url();
    let unscoped = login_with(&cloud, password("unscoped".into())).await;
    let token = unscoped.header("x-subject-token");
    let own = format!("{keystone}/users/{USER_ID}/projects");
    for url in [format!("{keystone}/auth/projects"), own.clone()] {
        let projects = get(&url, token).await.json();
        assert_eq!(projects["projects"][1]["id"], OTHER_PROJECT_ID);
        assert_eq!(projects["projects"][1]["description"], "Project other");
        assert_eq!(projects["links"]["self"], url);
    }
    let page = get(&format!("{own}?limit=1"), token).await.json();
    let next = page["links"]["next"].as_str().unwrap();
    let rest = get(next, token).await.json();
    assert_eq!(
        (&page["projects"][0]["id"], &rest["projects"][0]["id"]),
        (&json!(PROJECT_ID), &json!(OTHER_PROJECT_ID))
    );
    let domains = get(&format!("{keystone}/auth/domains"), token).await.json();
    assert_eq!(domains["domains"][0]["id"], DOMAIN_ID);
    let system = get(&format!("{keystone}/auth/system"), token).await.json();
    assert_eq!(system["system"], json!([{"all": true}]));
    for url in [format!("{keystone}/auth/catalog"), own.replace(USER_ID, "somebody")] {
        let refused = get(&url, token).await;
        assert_eq!((refused.status, &refused.json()["error"]["code"]), (403, &json!(403)), "{url}");
    }
    let scoped = login(&cloud).await;
    let catalog = get(&format!("{keystone}/auth/catalog"), &scoped).await.json();
    assert_eq!(catalog["catalog"], cloud.catalog());
    let users = get(&format!("{keystone}/users"), &scoped).await.json();
    let user = users["users"][0]["links"]["self"].as_str().unwrap();
    assert_eq!(get(user, &scoped).await.json()["user"]["id"], USER_ID);
    assert_eq!(get(&format!("{keystone}/users/nobody"), &scoped).await.status, 404);
    let v2 = format!("{}/tokens/{scoped}", cloud.v2_url());
    assert_eq!(get(&v2, &scoped).await.status, 403);
}

#[tokio::test]
async fn a_token_that_is_over_is_shown_to_a_service_that_allows_it() {
    let (cloud, token) = start_with_token().await;
    cloud.set_token_ttl(Duration::from_millis(1));
    let short = login(&cloud).await;
    tokio::time::sleep(Duration::from_millis(2)).await;
    let url = format!("GET {}/auth/tokens", cloud.auth_url());
    let headers = [("x-auth-token", &token[..]), ("x-subject-token", &short[..])];
    assert_eq!(send(&url, &headers, "").await.status, 404);
    assert_eq!(send(&format!("{url}?allow_expired=0"), &headers, "").await.status, 404);
    let shown = send(&format!("{url}?allow_expired=1&nocatalog"), &headers, "").await;
    assert_eq!((shown.status, shown.json()["token"].get("catalog")), (200, None));
    assert_eq!(get(&format!("{}/auth/projects", cloud.auth_url()), &short).await.status, 401);
}

#[tokio::test]
async fn the_second_region_has_services_of_its_own() {
    let (cloud, token) = start_with_token().await;
    let one = get(&format!("{}/servers", cloud.url("compute")), &token).await.json();
    let two = get(&format!("{}/servers", cloud.url("RegionTwo/compute")), &token).await.json();
    assert_ne!(one["servers"][0]["id"], two["servers"][0]["id"]);
    let ports = ["compute", "RegionTwo/compute", "image", "RegionTwo/image"]
        .map(|name| cloud.url(name).split(['/', ':']).nth(4).unwrap().to_owned());
    assert_eq!(ports.iter().collect::<std::collections::HashSet<_>>().len(), 4, "{ports:?}");
    // Its compute service has another host for its neighbours than for everybody else.
    let catalog = cloud.catalog();
    let compute = catalog.as_array().unwrap().iter().find(|service| service["type"] == "compute").unwrap();
    assert!(compute["endpoints"][3]["url"].as_str().unwrap().starts_with("http://localhost:"));
    assert!(compute["endpoints"][4]["url"].as_str().unwrap().starts_with("http://127.0.0.1:"));
}

#[tokio::test]
async fn every_link_of_a_server_leads_somewhere() {
    let (cloud, token) = start_with_token().await;
    let detail = get(&format!("{}/servers/detail", cloud.url("compute")), &token).await.json();
    let server = &detail["servers"][0];
    let href = |at: &str| server.pointer(at).unwrap().as_str().unwrap().to_owned();
    assert_eq!(get(&href("/links/0/href"), &token).await.json()["server"]["id"], server["id"]);
    assert_eq!(get(&href("/links/1/href"), &token).await.status, 300);
    let image = href("/image/links/0/href");
    assert!(image.starts_with(&cloud.url("image")), "{image}");
    assert_eq!(get(&image, &token).await.status, 300);
    let view = format!("{}/images/{}", cloud.url("compute"), server["image"]["id"].as_str().unwrap());
    let view = get(&view, &token).await.json();
    assert_eq!(
        (&view["image"]["links"][2]["rel"], &view["image"]["links"][2]["href"]),
        (&json!("alternate"), &json!(image))
    );

    let action = format!("{}/action", href("/links/0/href"));
    let made = post(&action, &token, json!({"createImage": {"name": "snapshot"}})).await;
    assert_eq!(made.status, 202);
    let id = made.header("location").rsplit('/').next().unwrap();
    assert_eq!(made.header("location"), format!("{}/images/{id}", cloud.url("image")));
    let image = get(&format!("{}/v2/images/{id}", cloud.url("image")), &token).await.json();
    assert_eq!((&image["name"], &image["size"]), (&json!("snapshot"), &json!(1 << 20)));
    let schema = format!("{}{}", cloud.url("image"), image["schema"].as_str().unwrap());
    assert_eq!(get(&schema, &token).await.json()["links"][0]["href"], "{self}");
}

#[tokio::test]
async fn a_stack_is_found_by_its_name_elsewhere() {
    let (cloud, token) = start_with_token().await;
    let stacks = format!("{}/stacks", cloud.url("orchestration"));
    let page = get(&format!("{stacks}?limit=1"), &token).await.json();
    let next = page["links"][0]["href"].as_str().unwrap();
    assert_eq!(get(next, &token).await.json()["stacks"][0]["stack_name"], "demo-stack");

    let created = post(&stacks, &token, json!({"stack_name": "new"})).await;
    assert_eq!(created.status, 201);
    let url = created.header("location");
    assert_eq!(created.json()["stack"]["links"][0]["href"], url);
    for (below, found) in [("", url.to_owned()), ("/resources", format!("{url}/resources"))] {
        let moved = get(&format!("{stacks}/new{below}"), &token).await;
        assert_eq!((moved.status, moved.header("location")), (302, &found[..]));
        assert_eq!(get(&found, &token).await.status, 200);
    }
    let signal = get(url, &token).await.json()["stack"]["outputs"][0]["output_value"].clone();
    assert!(signal.as_str().unwrap().starts_with(url), "{signal}");
    let auth = [("x-auth-token", &token[..])];
    assert_eq!(send(&format!("DELETE {stacks}/new"), &auth, "").await.status, 302);
    assert_eq!(send(&format!("DELETE {url}"), &auth, "").await.status, 204);
    assert_eq!(get(url, &token).await.json()["error"]["type"], "EntityNotFound");
    assert_eq!(post(&stacks, &token, json!({})).await.status, 400);
    assert_eq!(post(&stacks, &token, json!({"stack_name": "demo-stack"})).await.status, 409);
    let elsewhere = stacks.replace(PROJECT_ID, OTHER_PROJECT_ID);
    assert_eq!(get(&elsewhere, &token).await.status, 403);
}

#[tokio::test]
async fn a_server_boots_stops_and_goes() {
    let (cloud, token) = start_with_token().await;
    let compute = cloud.url("compute");
    let image = get(&format!("{}/v2/images", cloud.url("image")), &token).await.json();
    let wanted = json!({"server": {"name": "new", "flavorRef": "1", "imageRef": image["images"][0]["id"]}});
    let created = post(&format!("{compute}/servers"), &token, wanted).await;
    assert_eq!(created.status, 202);
    assert!(created.json()["server"]["adminPass"].is_string());
    let url = created.header("location").to_owned();
    assert_eq!(get(&url, &token).await.json()["server"]["status"], "BUILD");
    wait_for(&url, &token, "/server/status", "ACTIVE").await;

    let action = format!("{url}/action");
    assert_eq!(post(&action, &token, json!({"os-start": null})).await.status, 409);
    assert_eq!(post(&action, &token, json!({"os-stop": null})).await.status, 202);
    assert_eq!(get(&url, &token).await.json()["server"]["status"], "SHUTOFF");
    let delete = format!("DELETE {url}");
    assert_eq!(send(&delete, &[("x-auth-token", &token)], "").await.status, 204);
    let gone = get(&url, &token).await;
    assert_eq!((gone.status, &gone.json()["itemNotFound"]["code"]), (404, &json!(404)));
    assert_eq!(post(&format!("{compute}/servers"), &token, json!({"server": {}})).await.status, 400);
}

#[tokio::test]
async fn lists_come_in_pages_and_belong_to_a_project() {
    let (cloud, token) = start_with_token().await;
    let mut url = format!("{}/servers?limit=2", cloud.url("RegionTwo/compute"));
    let mut names = Vec::new();
    loop {
        let page = get(&url, &token).await.json();
        names.extend(page["servers"].as_array().unwrap().iter().map(|server| server["name"].clone()));
        match page["servers_links"][0]["href"].as_str() {
            Some(next) => url = next.to_owned(),
            None => break,
        }
    }
    assert!(url.starts_with(&cloud.url("RegionTwo/compute")), "{url}");
    assert_eq!(names, ["build-1-two", "web-2-two", "web-1-two"]);
    let page = get(&format!("{}/flavors/detail", cloud.url("compute")), &token).await.json();
    assert!(page["flavors_links"].is_array(), "five flavors fill the page");

    let wrong = cloud.url("RegionTwo/compute").replace(PROJECT_ID, OTHER_PROJECT_ID);
    assert_eq!(get(&format!("{wrong}/servers"), &token).await.status, 400);
    let keypair = json!({"keypair": {"name": "k", "public_key": "ssh-ed25519 AAAA"}});
    let keypairs = format!("{}/os-keypairs", cloud.url("compute"));
    assert_eq!(post(&keypairs, &token, keypair.clone()).await.status, 200);
    assert_eq!(post(&keypairs, &token, keypair).await.status, 409);
    assert_eq!(get(&keypairs, &token).await.json()["keypairs"][0]["keypair"]["name"], "k");
}

#[tokio::test]
async fn an_image_is_created_filled_and_read_back() {
    let (cloud, token) = start_with_token().await;
    let glance = cloud.url("image");
    let images = format!("{glance}/v2/images");
    let page = get(&format!("{images}?limit=2"), &token).await.json();
    assert_eq!(page["first"], "/v2/images?limit=2");
    let next = format!("{glance}{}", page["next"].as_str().unwrap());
    assert_eq!(get(&next, &token).await.json()["images"][0]["name"], "blank-1g");

    let created = post(&images, &token, json!({"name": "mine", "disk_format": "raw"})).await;
    assert_eq!(created.status, 201);
    let url = created.header("location");
    let auth = ("x-auth-token", &token[..]);
    assert_eq!(send(&format!("PUT {url}/file"), &[auth], "0123456789").await.status, 204);
    assert_eq!(send(&format!("PUT {url}/file"), &[auth], "again").await.status, 409);
    let part = send(&format!("GET {url}/file"), &[auth, ("range", "bytes=2-4")], "").await;
    assert_eq!((part.status, &part.body[..]), (206, &b"234"[..]));
    assert_eq!(get(url, &token).await.json()["checksum"], Md5::hex(b"0123456789"));
    assert_eq!(send(&format!("DELETE {url}"), &[auth], "").await.status, 204);
    let gone = get(url, &token).await;
    assert_eq!((gone.status, gone.header("content-type")), (404, "text/html; charset=UTF-8"));
    assert_eq!(post(&images, &token, json!({"status": "active"})).await.status, 403);
    let two = get(&format!("{}/v2/images", cloud.url("RegionTwo/image")), &token).await.json();
    assert_eq!(two["images"][0]["name"], "cirros-0.6.2-two");
}

#[tokio::test]
async fn a_long_image_leaves_its_length_and_checksum() {
    let (cloud, token) = start_with_token().await;
    let images = format!("{}/v2/images", cloud.url("image"));
    let created = post(&images, &token, json!({"name": "long"})).await;
    let url = created.header("location");
    let content = vec![7; 1024 * 1024 + 1];
    let checksum = Md5::hex(&content);
    let put = send(&format!("PUT {url}/file"), &[("x-auth-token", &token)], content).await;
    assert_eq!(put.status, 204);
    let image = get(url, &token).await.json();
    assert_eq!((image["size"].as_u64(), &image["checksum"]), (Some(1024 * 1024 + 1), &json!(checksum)));
    assert_eq!(get(&format!("{url}/file"), &token).await.status, 410);
}

#[tokio::test]
async fn networks_are_listed_in_pages_created_and_deleted() {
    let (cloud, token) = start_with_token().await;
    let neutron = format!("{}v2.0", cloud.url("network"));
    for collection in ["networks", "subnets", "ports", "routers", "security-groups", "floatingips"] {
        assert_eq!(get(&format!("{neutron}/{collection}"), &token).await.status, 200, "{collection}");
    }
    let first = get(&format!("{neutron}/networks?limit=1"), &token).await.json();
    assert_eq!(first["networks"][0]["name"], "demo-net");
    let next = first["networks_links"][0]["href"].as_str().unwrap();
    let second = get(next, &token).await.json();
    assert_eq!(second["networks"][0]["name"], "public");
    let previous = second["networks_links"][1]["href"].as_str().unwrap();
    assert_eq!(get(previous, &token).await.json()["networks"], first["networks"]);
    assert!(get(&format!("{neutron}/networks"), &token).await.json().get("networks_links").is_none());

    let created = post(&format!("{neutron}/networks"), &token, json!({"network": {"name": "n"}})).await;
    assert_eq!(created.status, 201);
    let url = format!("{neutron}/networks/{}", created.json()["network"]["id"].as_str().unwrap());
    let delete = format!("DELETE {url}");
    assert_eq!(send(&delete, &[("x-auth-token", &token)], "").await.status, 204);
    assert_eq!(get(&url, &token).await.json()["NeutronError"]["type"], "NetworkNotFound");
    let bad = post(&format!("{neutron}/networks"), &token, json!({"network": {"bad": 1}})).await;
    assert_eq!(bad.json()["NeutronError"]["message"], "Unrecognized attribute(s) 'bad'");
}

#[tokio::test]
async fn volumes_are_made_under_both_addresses() {
    let (cloud, token) = start_with_token().await;
    let (with_project, without) = (cloud.url("volumev3"), cloud.url("block-storage"));
    let created = post(&format!("{with_project}/volumes"), &token, json!({"volume": {"size": 1}})).await;
    assert_eq!(created.status, 202);
    let volume = &created.json()["volume"];
    assert_eq!(volume["status"], "creating");
    let url = volume["links"][0]["href"].as_str().unwrap();
    assert!(url.starts_with(&with_project), "{url}");
    let detail = get(&format!("{without}/volumes/detail?limit=1"), &token).await.json();
    assert_eq!(detail["volumes"][0]["id"], volume["id"]);
    assert!(detail["volumes_links"][0]["href"].as_str().unwrap().starts_with(&without));
    wait_for(url, &token, "/volume/status", "available").await;
    assert_eq!(send(&format!("DELETE {url}"), &[("x-auth-token", &token)], "").await.status, 202);
    assert_eq!(get(url, &token).await.status, 404);
    assert_eq!(get(&format!("{without}/types"), &token).await.status, 200);
    assert_eq!(get(&format!("{without}/snapshots"), &token).await.status, 200);
}

#[tokio::test]
async fn an_object_is_put_read_copied_and_deleted() {
    let (cloud, token) = start_with_token().await;
    let account = cloud.url("object-store");
    let auth = ("x-auth-token", &token[..]);
    assert_eq!(get(&account, &token).await.status, 204);
    assert_eq!(send(&format!("PUT {account}/box/x"), &[auth], "").await.status, 404);
    assert_eq!(send(&format!("PUT {account}/box"), &[auth], "").await.status, 201);
    assert_eq!(send(&format!("PUT {account}/box"), &[auth], "").await.status, 202);

    let url = format!("{account}/box/a//b%2Fc%20%252F");
    let put = send(&format!("PUT {url}"), &[auth, ("x-object-meta-color", "red")], "hello").await;
    assert_eq!((put.status, put.header("etag")), (201, "5d41402abc4b2a76b9719d911017c592"));
    let seen = cloud.requests("object-store").pop().unwrap();
    assert!(seen.target.ends_with("/box/a//b%2Fc%20%252F") && seen.body_length == 5 && seen.body_complete);
    assert_eq!(get(&format!("{account}/box"), &token).await.body, "a//b/c %2F\n");

    let read = get(&url, &token).await;
    assert_eq!(
        (read.status, &read.body[..], read.header("x-object-meta-color")),
        (200, &b"hello"[..], "red")
    );
    let head = send(&format!("HEAD {url}"), &[auth], "").await;
    assert_eq!((head.status, head.header("content-length")), (200, "5"));
    let part = send(&format!("GET {url}"), &[auth, ("range", "bytes=1-2")], "").await;
    assert_eq!((part.status, &part.body[..]), (206, &b"el"[..]));
    assert_eq!(part.header("content-range"), "bytes 1-2/5");
    assert_eq!(send(&format!("GET {url}"), &[auth, ("range", "bytes=9-")], "").await.status, 416);

    let copied = send(&format!("COPY {url}"), &[auth, ("destination", "box/copy")], "").await;
    assert_eq!(copied.status, 201);
    let meta = ("x-object-meta-color", "blue");
    assert_eq!(send(&format!("POST {account}/box/copy"), &[auth, meta], "").await.status, 202);
    assert_eq!(get(&format!("{account}/box/copy"), &token).await.header("x-object-meta-color"), "blue");
    assert_eq!(send(&format!("DELETE {account}/box"), &[auth], "").await.status, 409);
    for object in [&url, &format!("{account}/box/copy"), &format!("{account}/box")] {
        assert_eq!(send(&format!("DELETE {object}"), &[auth], "").await.status, 204);
    }
    assert_eq!(cloud.shared.state().objects.kept(), 0);
    let elsewhere = account.replace(PROJECT_ID, OTHER_PROJECT_ID);
    assert_eq!(get(&elsewhere, &token).await.status, 403);
}

#[tokio::test]
async fn objects_are_listed_by_prefix_delimiter_and_marker() {
    let (cloud, token) = start_with_token().await;
    let container = format!("{}/list", cloud.url("object-store"));
    let auth = ("x-auth-token", &token[..]);
    send(&format!("PUT {container}"), &[auth], "").await;
    for name in ["a", "b/1", "b/2", "c/1", "d"] {
        send(&format!("PUT {container}/{name}"), &[auth], "x").await;
    }
    let list = async |query: &str| {
        let listed = get(&format!("{container}?{query}"), &token).await.body;
        String::from_utf8(listed.to_vec()).unwrap().replace('\n', " ")
    };
    assert_eq!(list("").await, "a b/1 b/2 c/1 d ");
    assert_eq!(list("prefix=b/").await, "b/1 b/2 ");
    assert_eq!(list("delimiter=/").await, "a b/ c/ d ");
    assert_eq!(list("delimiter=/&limit=2").await, "a b/ ");
    assert_eq!(list("delimiter=/&marker=b/").await, "c/ d ");
    assert_eq!(list("marker=b%2F1&limit=2").await, "b/2 c/1 ");
    let json = get(&format!("{container}?format=json&limit=1"), &token).await.json();
    assert_eq!((&json[0]["name"], &json[0]["bytes"]), (&json!("a"), &json!(1)));
}

#[tokio::test]
async fn the_store_is_bounded_and_an_upload_that_breaks_off_leaves_nothing() {
    let config = Config { object_limit: 100_000, ..Config::default() };
    let cloud = Cloud::start(config).await.unwrap();
    let token = login(&cloud).await;
    let container = format!("{}/box", cloud.url("object-store"));
    let auth = ("x-auth-token", &token[..]);
    send(&format!("PUT {container}"), &[auth], "").await;
    let put = format!("PUT {container}/big");
    assert_eq!(send(&put, &[auth], vec![0; 90_000]).await.status, 201);
    assert_eq!(send(&format!("PUT {container}/more"), &[auth], vec![0; 20_000]).await.status, 413);
    assert_eq!(cloud.shared.state().objects.kept(), 90_000);

    let mut stream = connect(&container).await.unwrap().into_inner();
    let path = container.splitn(4, '/').last().unwrap();
    let head = format!(
        "PUT /{path}/half HTTP/1.1\r\nhost: x\r\nx-auth-token: {token}\r\ncontent-length: 9\r\n\r\nhalf"
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    let half = async || loop {
        match cloud.requests("object-store").pop().unwrap() {
            seen if seen.body_length == 4 => break seen,
            _ => tokio::task::yield_now().await,
        }
    };
    half().await;
    drop(stream);
    while cloud.shared.state().objects.kept() != 90_000 {
        tokio::task::yield_now().await;
    }
    assert!(!half().await.body_complete);
}

#[tokio::test]
async fn a_bad_token_is_refused_before_the_client_is_told_to_go_on() {
    let (cloud, token) = start_with_token().await;
    let container = format!("{}/box", cloud.url("object-store"));
    send(&format!("PUT {container}"), &[("x-auth-token", &token)], "").await;
    let first_line = async |token: &str| {
        let mut stream = connect(&container).await.unwrap().into_inner();
        let path = container.splitn(4, '/').last().unwrap();
        let head = format!(
            "PUT /{path}/o HTTP/1.1\r\nhost: x\r\nx-auth-token: {token}\r\ncontent-length: 5\r\nexpect: 100-continue\r\n\r\n"
        );
        stream.write_all(head.as_bytes()).await.unwrap();
        let mut start = [0; 12];
        stream.read_exact(&mut start).await.unwrap();
        // Lets a service that reads on have its body.
        let _ = stream.write_all(b"hello").await;
        String::from_utf8(start.to_vec()).unwrap()
    };
    assert_eq!(first_line(&token).await, "HTTP/1.1 100");
    assert_eq!(first_line("nope").await, "HTTP/1.1 401");
    assert_eq!(cloud.requests("object-store").pop().unwrap().body_length, 0);
    cloud.set_trouble("object-store", Trouble { reads_before_refusing: true, ..Trouble::default() });
    assert_eq!(first_line("nope").await, "HTTP/1.1 100");
}

#[tokio::test]
async fn a_service_can_be_down_slow_or_wrong() {
    let (cloud, token) = start_with_token().await;
    let servers = format!("{}/servers", cloud.url("compute"));
    cloud.pause("compute").await;
    assert!(connect(&servers).await.is_err());
    cloud.resume("compute").await;
    assert_eq!(get(&servers, &token).await.status, 200);

    cloud.set_trouble("compute", Trouble { refuses_tokens: true, ..Trouble::default() });
    assert_eq!(get(&servers, &token).await.status, 401);
    let answer = Response::builder().status(503).header("retry-after", "7").body("busy".into()).unwrap();
    let latency = Duration::from_millis(20);
    cloud.set_trouble("compute", Trouble { latency, answer: Some(answer), ..Trouble::default() });
    let begin = Instant::now();
    let busy = get(&servers, &token).await;
    assert_eq!((busy.status, busy.header("retry-after"), &busy.body[..]), (503, "7", &b"busy"[..]));
    assert!(begin.elapsed() >= latency);

    cloud.set_catalog(Value::Null);
    assert!(login_with(&cloud, password(Value::Null)).await.json()["token"].get("catalog").is_none());
    cloud.set_clock_skew(SignedDuration::from_hours(-5));
    let skewed = login_with(&cloud, password(Value::Null)).await.json();
    let expires: Timestamp = skewed["token"]["expires_at"].as_str().unwrap().parse().unwrap();
    assert!(expires < Timestamp::now());
    assert_eq!(cloud.tokens_issued(), 3);
}

#[tokio::test]
async fn http_2_with_prior_knowledge_works_as_well() {
    let (cloud, token) = start_with_token().await;
    let url = format!("{}/servers?limit=1", cloud.url("compute"));
    let io = connect(&url).await.unwrap();
    let (mut sender, connection) = http2::handshake(TokioExecutor::new(), io).await.unwrap();
    tokio::spawn(connection);
    for method in [Method::GET, Method::HEAD] {
        let request = Request::builder().method(method.clone()).uri(&url).header("x-auth-token", &token);
        let answer = sender.send_request(request.body(Full::<Bytes>::default()).unwrap()).await.unwrap();
        assert_eq!((answer.status(), answer.version()), (StatusCode::OK, Version::HTTP_2));
        let body = answer.into_body().collect().await.unwrap().to_bytes();
        assert_eq!(body.is_empty(), method == Method::HEAD);
        assert!(body.is_empty() || std::str::from_utf8(&body).unwrap().contains(&cloud.url("compute")));
    }
    assert_eq!(cloud.requests("compute")[0].version, Version::HTTP_2);
}

#[tokio::test]
async fn a_cloud_that_is_dropped_is_gone() {
    let (cloud, _) = start_with_token().await;
    let url = cloud.auth_url();
    let listener = cloud.shared.addresses[0];
    drop(cloud);
    while TcpStream::connect(listener).await.is_ok() {
        tokio::task::yield_now().await;
    }
    assert!(connect(&url).await.is_err());
}
