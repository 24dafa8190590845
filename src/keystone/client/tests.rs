//! The client against a Keystone that answers by method and path: versions, scopes, checks.

use std::collections::HashMap;

use serde_json::{Value, json};

use super::*;
use crate::keystone::{Domain, IdentityVersion, Secret, User};

mod methods;

/// How long a login may take.
const DEADLINE: Duration = Duration::from_secs(30);

/// Answers by method and path, and keeps what was asked.
#[derive(Clone, Default)]
struct FakeKeystone {
    answers: HashMap<String, (u16, String)>,
    asked: Arc<Mutex<Vec<String>>>,
    bodies: Arc<Mutex<Vec<Value>>>,
}

impl FakeKeystone {
    fn with(mut self, request: &str, status: u16, body: impl ToString) -> Self {
        self.answers.insert(request.to_owned(), (status, body.to_string()));
        self
    }

    fn client(&self, auth_url: &str, version: IdentityVersion, domain: Option<&str>) -> Client {
        let identity = Identity {
            auth_url: BaseUrl::parse(auth_url).unwrap(),
            version,
            method: crate::keystone::Method::Password {
                user: User::Name {
                    name: "demo".to_owned(),
                    domain: domain.map(|name| Domain::Name(name.to_owned())),
                },
                password: Secret::new("s3cret").into(),
            },
            scope: Scope::Default,
        };
        let fake = self.clone();
        let answer = move |request: &Request<Bytes>| fake.answer(request);
        Client::with_transport(Transport::Scripted(Arc::new(answer)), identity, DEADLINE)
    }

    fn answer(&self, request: &Request<Bytes>) -> Response<Bytes> {
        let mut asked = format!("{} {}", request.method(), request.uri());
        if let Ok(body) = serde_json::from_slice::<Value>(request.body()) {
            if !body["auth"]["tenantId"].is_null() {
                asked.push_str(" with tenant");
            }
            self.bodies.lock().unwrap().push(body);
        }
        self.asked.lock().unwrap().push(asked.clone());
        let (status, body) = self.answers.get(&asked).cloned().unwrap_or((404, String::new()));
        let response = Response::builder().status(status).header("X-Subject-Token", "t");
        response.header("Location", "https://elsewhere.example/v3").body(Bytes::from(body)).unwrap()
    }

    fn asked(&self) -> Vec<String> {
        std::mem::take(&mut self.asked.lock().unwrap())
    }
}

fn v3_token() -> Value {
    json!({"token": {"expires_at": "2026-11-21T22:21:13.000000Z", "issued_at": "2026-11-21T21:21:13.000000Z",
        "project": {"id": "p1", "name": "demo"}, "catalog": crate::keystone::catalog::tests::v3()}})
}

fn v2_token(tenant: Value) -> Value {
    json!({"access": {"token": {"id": "t", "expires": "2026-11-21T22:21:13Z",
        "issued_at": "2026-11-21T21:21:13Z", "tenant": tenant}, "serviceCatalog": []}})
}

const BOTH: &str = r#"{"versions": {"values": [
    {"id": "v3.8", "links": [{"href": "http://wrong.example/v3/", "rel": "self"}]},
    {"id": "v2.0", "links": [{"href": "http://wrong.example/v2.0/", "rel": "self"}]}]}}"#;
const ONLY_V2: &str = r#"{"versions": {"values": [
    {"id": "v2.0", "links": [{"href": "http://wrong.example/v2.0/", "rel": "self"}]}]}}"#;
const URL: &str = "http://k.example:5000";

#[tokio::test]
async fn a_version_at_the_end_of_auth_url_is_taken_at_its_word() {
    let fake = FakeKeystone::default().with("POST /identity/v3/auth/tokens", 201, v3_token()).with(
        "POST /identity/v2.0/tokens",
        200,
        v2_token(json!({"id": "p1", "name": "demo"})),
    );
    for (auth_url, version, expected) in [
        ("http://k/identity/v3", IdentityVersion::Discover, "POST /identity/v3/auth/tokens"),
        ("http://k/identity/v3/", IdentityVersion::Discover, "POST /identity/v3/auth/tokens"),
        ("http://k/identity/v2.0", IdentityVersion::Discover, "POST /identity/v2.0/tokens"),
        ("http://k/identity/v2.0", IdentityVersion::V3, "POST /identity/v3/auth/tokens"),
        ("http://k/identity/v3", IdentityVersion::V2, "POST /identity/v2.0/tokens"),
        ("http://k/identity", IdentityVersion::V3, "POST /identity/v3/auth/tokens"),
        ("http://k/identity", IdentityVersion::V2, "POST /identity/v2.0/tokens"),
    ] {
        fake.client(auth_url, version, None).authenticate(&Scope::Default).await.unwrap();
        assert_eq!(fake.asked(), [expected], "{auth_url} {version:?}");
    }
}

#[tokio::test]
async fn versions_are_discovered_once_and_v3_wins() {
    let fake = FakeKeystone::default().with("GET /", 300, BOTH).with("POST /v3/auth/tokens", 201, v3_token());
    let client = fake.client(URL, IdentityVersion::Discover, Some("Default"));
    client.authenticate(&Scope::Default).await.unwrap();
    client.authenticate(&Scope::Default).await.unwrap();
    assert_eq!(fake.asked(), ["GET /", "POST /v3/auth/tokens", "POST /v3/auth/tokens"]);
}

#[tokio::test]
async fn a_keystone_with_v2_only_is_used_unless_another_domain_than_the_default_is_named() {
    let fake = FakeKeystone::default().with("GET /", 300, ONLY_V2).with(
        "POST /v2.0/tokens",
        200,
        v2_token(json!({"id": "p1", "name": "demo"})),
    );
    for domain in [None, Some("Default"), Some("default")] {
        let client = fake.client(URL, IdentityVersion::Discover, domain);
        assert_eq!(client.authenticate(&Scope::Default).await.unwrap().project.unwrap().id, "p1");
    }
    let client = fake.client(URL, IdentityVersion::Discover, Some("acme"));
    let error = client.authenticate(&Scope::Default).await.unwrap_err();
    assert!(error.to_string().contains("domains"), "{error}");
}

#[tokio::test]
async fn without_a_version_document_v3_is_tried_and_not_remembered() {
    for (status, body) in [(404, ""), (200, "<html>"), (302, "")] {
        let fake =
            FakeKeystone::default().with("GET /", status, body).with("POST /v3/auth/tokens", 201, v3_token());
        let client = fake.client(URL, IdentityVersion::Discover, None);
        client.authenticate(&Scope::Default).await.unwrap();
        client.authenticate(&Scope::Default).await.unwrap();
        assert_eq!(fake.asked().len(), 4, "{status}");
    }
    let fake = FakeKeystone::default().with("GET /", 503, "");
    let error = fake.client(URL, IdentityVersion::Discover, None).authenticate(&Scope::Default).await;
    assert!(matches!(error, Err(AuthError::Unavailable { status: 503, .. })), "{error:?}");
    let fake = FakeKeystone::default().with("GET /", 200, r#"{"versions": []}"#);
    let error = fake.client(URL, IdentityVersion::Discover, None).authenticate(&Scope::Default).await;
    assert!(error.unwrap_err().to_string().contains("is it Keystone's?"));
}

#[tokio::test]
async fn a_v3_login_that_gets_no_scope_lists_the_projects() {
    let unscoped = json!({"token": {"expires_at": "2026-11-21T22:21:13.000000Z",
        "issued_at": "2026-11-21T21:21:13.000000Z"}});
    let projects = json!({"projects": [{"id": "1", "name": "demo", "enabled": true},
        {"id": "2", "name": "off", "enabled": false}, {"id": "3", "name": "lab"}]});
    let fake = FakeKeystone::default().with("POST /v3/auth/tokens", 201, unscoped).with(
        "GET /v3/auth/projects",
        200,
        projects,
    );
    let client = fake.client(URL, IdentityVersion::V3, Some("Default"));
    let error = client.authenticate(&Scope::Default).await.unwrap_err();
    assert!(error.to_string().ends_with("to one of: demo, lab"), "{error}");
    let token = client.authenticate(&Scope::Unscoped).await.unwrap();
    assert!(token.catalog.is_empty());
}

#[tokio::test]
async fn a_v2_login_without_a_tenant_takes_the_only_one() {
    let tenants = |names: &[&str]| {
        let tenants: Vec<_> =
            names.iter().map(|name| json!({"id": "t1", "name": name, "enabled": true})).collect();
        json!({"tenants": tenants, "tenants_links": []})
    };
    let fake = |names: &[&str]| {
        FakeKeystone::default()
            .with("POST /v2.0/tokens", 200, v2_token(Value::Null))
            .with("POST /v2.0/tokens with tenant", 200, v2_token(json!({"id": "t1", "name": "demo"})))
            .with("GET /v2.0/tenants", 200, tenants(names))
    };
    let log_in = async |names: &[&str], scope: Scope| {
        let fake = fake(names);
        let client = fake.client(URL, IdentityVersion::V2, None);
        (client.authenticate(&scope).await, fake.asked().len())
    };
    let (token, calls) = log_in(&["demo"], Scope::Default).await;
    assert_eq!((token.unwrap().project.unwrap().id.as_str(), calls), ("t1", 3));
    let (error, _) = log_in(&[], Scope::Default).await;
    assert!(matches!(error, Err(AuthError::NoTenant)));
    let (error, _) = log_in(&["demo", "lab"], Scope::Default).await;
    let error = error.unwrap_err().to_string();
    assert!(error.ends_with("set OS_PROJECT_NAME to one of: demo, lab"), "{error}");
    let (token, calls) = log_in(&["demo", "lab"], Scope::Unscoped).await;
    assert_eq!((token.unwrap().project, calls), (None, 1));
}

#[tokio::test]
async fn a_v2_keystone_is_asked_for_no_project_of_another_domain() {
    let fake =
        FakeKeystone::default().with("POST /v2.0/tokens", 200, v2_token(json!({"id": "p1", "name": "demo"})));
    let client = fake.client(URL, IdentityVersion::V2, None);
    let project =
        |domain: Domain| Scope::Project(Project::Name { name: "demo".to_owned(), domain: Some(domain) });
    for domain in [Domain::Id("default".to_owned()), Domain::Name("Default".to_owned())] {
        assert!(client.authenticate(&project(domain)).await.is_ok());
    }
    assert_eq!(fake.asked().len(), 2);
    let elsewhere = Domain::Name("acme".to_owned());
    for scope in [project(elsewhere.clone()), Scope::Domain(elsewhere), Scope::System] {
        let error = client.authenticate(&scope).await.unwrap_err();
        assert!(matches!(error, AuthError::NotInV2 { .. }), "{error:?}");
    }
    assert_eq!(fake.asked().len(), 0);
}

#[tokio::test]
async fn a_redirect_is_an_error_that_names_the_host_and_no_secret() {
    let fake = FakeKeystone::default().with("POST /v3/auth/tokens", 302, "");
    let client = fake.client(URL, IdentityVersion::V3, None);
    let error = client.authenticate(&Scope::Default).await.unwrap_err().to_string();
    assert!(error.contains("host elsewhere.example,"), "{error}");
    assert!(!format!("{client:?}").contains("s3cret"));
}

// Promise 17.
#[tokio::test]
async fn a_version_document_may_be_behind_redirects_at_the_same_host() {
    let client = |location: &'static str| {
        let asked: Arc<Mutex<Vec<String>>> = Arc::default();
        let seen = Arc::clone(&asked);
        let answer = move |request: &Request<Bytes>| {
            assert!(request.method() == Method::GET || request.uri().path().ends_with("/v3/auth/tokens"));
            seen.lock().unwrap().push(format!("{} {}", request.method(), request.uri()));
            let (status, body) = match request.uri().path() {
                "/" => (302, String::new()),
                "/identity/" | "/identity/v3/" => (300, BOTH.to_owned()),
                "/identity/v3/auth/tokens" | "/v3/auth/tokens" => (201, v3_token().to_string()),
                _ => (404, String::new()),
            };
            let response = Response::builder().status(status).header("X-Subject-Token", "t");
            response.header("Location", location).body(Bytes::from(body)).unwrap()
        };
        let fake = FakeKeystone::default().client(URL, IdentityVersion::Discover, None);
        let identity = (*fake.identity).clone();
        let client = Client::with_transport(Transport::Scripted(Arc::new(answer)), identity, DEADLINE);
        (client, asked)
    };
    for (location, path) in [
        ("/identity/", "/identity/"),
        ("http://k.example:5000/identity/", "/identity/"),
        ("identity/v3/", "/identity/v3/"),
    ] {
        let (client, asked) = client(location);
        client.authenticate(&Scope::Default).await.unwrap();
        let expected =
            ["GET /".to_owned(), format!("GET {path}"), "POST /identity/v3/auth/tokens".to_owned()];
        assert_eq!(*asked.lock().unwrap(), expected, "{location}");
    }
    // What leads elsewhere says nothing, so the login goes where it would go without a document.
    for location in ["https://k.example:5000/identity/", "http://evil.example/identity/", "//evil.example/"] {
        let (client, asked) = client(location);
        client.authenticate(&Scope::Default).await.unwrap();
        assert_eq!(*asked.lock().unwrap(), ["GET /", "POST /v3/auth/tokens"], "{location}");
    }
    let (client, asked) = client("/");
    client.authenticate(&Scope::Default).await.unwrap();
    assert_eq!(asked.lock().unwrap().len(), 1 + protocol::MOST_REDIRECTS + 1);
}

#[tokio::test]
async fn a_token_is_checked_with_keystone() {
    let token = TokenId::new("t").unwrap();
    for (status, good) in [(200, Some(true)), (204, Some(true)), (401, Some(false)), (404, None), (503, None)]
    {
        let fake = FakeKeystone::default().with("HEAD /v3/auth/tokens", status, "").with(
            "GET /v2.0/tenants",
            status,
            "",
        );
        for version in [IdentityVersion::V3, IdentityVersion::V2] {
            let checked = fake.client(URL, version, None).validate(&token).await;
            assert_eq!(checked.ok(), good, "{status} {version:?}");
        }
    }
}
