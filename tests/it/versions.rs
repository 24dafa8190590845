//! Ways to log in, and what each kind of token is good for.

use keyway::demo::{
    APPLICATION_CREDENTIAL_ID, APPLICATION_CREDENTIAL_NAME, APPLICATION_CREDENTIAL_SECRET, Cloud, DOMAIN,
    DOMAIN_ID, OTHER_PROJECT, OTHER_PROJECT_ID, PASSWORD, PROJECT_ID, USER, USER_ID,
};
use keyway::keystone::{
    self, ApplicationCredential, Auth, Domain, Identity, IdentityVersion, Method as Login, Project, Scope,
    Secret, User,
};
use keyway::upstream::BaseUrl;
use serde_json::Value;

use crate::support::faults::{Fault, FaultyCloud, Line};
use crate::support::{TestKeyway, cloud, targets};

/// The demo cloud's configuration with another login.
fn with(cloud: &Cloud, change: impl FnOnce(&mut Identity)) -> keystone::Config {
    let mut config = cloud.keystone_config();
    let Auth::Identity(identity) = &mut config.auth else { unreachable!("the demo cloud has a Keystone") };
    change(identity);
    config
}

async fn logged_in(cloud: &Cloud, change: impl FnOnce(&mut Identity)) -> TestKeyway {
    let keyway = TestKeyway::cold(vec![with(cloud, change)], |_| {});
    keyway.logged_in().await;
    keyway
}

async fn check_works(keyway: &TestKeyway, server: &str) {
    let servers = keyway.get("/compute/servers").await;
    servers.passed_on(200);
    let names: Vec<_> =
        servers.json()["servers"].as_array().unwrap().iter().map(|s| s["name"].clone()).collect();
    assert!(names.contains(&Value::from(server)), "{names:?}");
}

fn v2(identity: &mut Identity, cloud: &Cloud, scope: Scope) {
    identity.auth_url = BaseUrl::parse(&cloud.v2_url()).unwrap();
    identity.version = IdentityVersion::Discover;
    identity.method = Login::Password {
        user: User::Name { name: USER.to_owned(), domain: None },
        password: Secret::new(PASSWORD).into(),
    };
    identity.scope = scope;
}

// Promise 17.
#[tokio::test(flavor = "multi_thread")]
async fn keystone_may_be_behind_a_redirect_at_the_same_host() {
    let cloud = FaultyCloud::start().await;
    let mut config = cloud.config();
    let Auth::Identity(identity) = &mut config.auth else { unreachable!("the demo cloud has a Keystone") };
    identity.version = IdentityVersion::Discover;
    let (root, elsewhere) = (cloud.keystone.url(""), Line::to(&cloud.cloud.auth_url()).await);
    identity.auth_url = BaseUrl::parse(&root).unwrap();
    let mut first = true;
    let back = format!("Location: {}\r\n", elsewhere.url("/"));
    cloud.keystone.script(move |method, target| match (method, target) {
        ("GET", "/") if std::mem::take(&mut first) => {
            Fault::instead("301 Moved Permanently", "Location: /v3/\r\n", "")
        }
        ("GET", "/") => Fault::instead("302 Found", &back, ""),
        _ => Fault::None,
    });
    for _ in 0..2 {
        let keyway = TestKeyway::cold(vec![config.clone()], |_| {});
        keyway.logged_in().await;
        check_works(&keyway, "web-1").await;
    }
    let asked: Vec<_> = cloud
        .keystone
        .passed()
        .into_iter()
        .map(|passed| format!("{} {}", passed.method, passed.target))
        .collect();
    let login = "POST /v3/auth/tokens";
    assert_eq!(asked, ["GET /", "GET /v3/", login, "GET /", login]);
    assert!(elsewhere.passed().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn identity_v2_with_a_tenants_name() {
    let cloud = cloud().await;
    let scope = Scope::Project(Project::Name { name: OTHER_PROJECT.to_owned(), domain: None });
    let keyway = logged_in(&cloud, |identity| v2(identity, &cloud, scope)).await;
    check_works(&keyway, "elsewhere-1").await;
    assert_eq!(targets(&cloud, "identity"), ["/v2.0/tokens"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn identity_v2_with_a_tenants_id() {
    let cloud = cloud().await;
    let scope = Scope::Project(Project::Id(PROJECT_ID.to_owned()));
    let keyway = logged_in(&cloud, |identity| v2(identity, &cloud, scope)).await;
    check_works(&keyway, "web-1").await;
    // Revocation and projects are as with v3.
    cloud.revoke_all();
    check_works(&keyway, "web-1").await;
    let other = keyway.get("/project/other/compute/servers").await;
    assert_eq!(other.json()["servers"][0]["name"], "elsewhere-1");
}

#[tokio::test(flavor = "multi_thread")]
async fn identity_v2_with_several_tenants_and_none_named_lists_them() {
    let cloud = cloud().await;
    let config = with(&cloud, |identity| v2(identity, &cloud, Scope::Default));
    let keyway = TestKeyway::cold(vec![config], |_| {});
    let message = keyway.get("/compute/servers").await.message(502, "no_catalog");
    assert!(message.ends_with("set OS_PROJECT_NAME to one of: demo, other"), "{message}");
}

#[tokio::test(flavor = "multi_thread")]
async fn identity_v2_exchanges_a_token() {
    let cloud = cloud().await;
    let token = logged_in(&cloud, |_| {}).await.token().await;
    let scope = Scope::Project(Project::Id(PROJECT_ID.to_owned()));
    let keyway = logged_in(&cloud, |identity| {
        v2(identity, &cloud, scope);
        identity.method = Login::Token(Secret::new(token).into());
    })
    .await;
    check_works(&keyway, "web-1").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_auth_url_without_a_version_is_looked_up_once() {
    let cloud = cloud().await;
    let keyway = logged_in(&cloud, |identity| {
        identity.auth_url = BaseUrl::parse(&cloud.identity_root()).unwrap();
        identity.version = IdentityVersion::Discover;
    })
    .await;
    check_works(&keyway, "web-1").await;
    cloud.revoke_all();
    check_works(&keyway, "web-1").await;
    assert_eq!(targets(&cloud, "identity"), ["/", "/v3/auth/tokens", "/v3/auth/tokens"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_application_credential_by_id() {
    let cloud = cloud().await;
    let keyway = logged_in(&cloud, |identity| {
        identity.method = Login::ApplicationCredential {
            which: ApplicationCredential::Id(APPLICATION_CREDENTIAL_ID.to_owned()),
            secret: Secret::new(APPLICATION_CREDENTIAL_SECRET).into(),
        };
        identity.scope = Scope::Default;
    })
    .await;
    check_works(&keyway, "web-1").await;
    // It can't change its project.
    let message = keyway.get("/project/other/compute/servers").await.message(403, "scope_fixed");
    assert!(message.contains("can't be used for another"), "{message}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_application_credential_by_name_and_user() {
    let users = [
        User::Id(USER_ID.to_owned()),
        User::Name { name: USER.to_owned(), domain: Some(Domain::Id(DOMAIN_ID.to_owned())) },
    ];
    for user in users {
        let cloud = cloud().await;
        let keyway = logged_in(&cloud, |identity| {
            let name = APPLICATION_CREDENTIAL_NAME.to_owned();
            identity.method = Login::ApplicationCredential {
                which: ApplicationCredential::Name { name, user },
                secret: Secret::new(APPLICATION_CREDENTIAL_SECRET).into(),
            };
            identity.scope = Scope::Default;
        })
        .await;
        check_works(&keyway, "web-1").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_is_exchanged_for_one_with_a_scope() {
    let cloud = cloud().await;
    let token = logged_in(&cloud, |identity| identity.scope = Scope::Unscoped).await.token().await;
    let keyway = logged_in(&cloud, |identity| {
        identity.method = Login::Token(Secret::new(token).into());
        identity.scope = Scope::Project(Project::Id(OTHER_PROJECT_ID.to_owned()));
    })
    .await;
    check_works(&keyway, "elsewhere-1").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_scope_is_the_users_default_project() {
    let cloud = cloud().await;
    let keyway = logged_in(&cloud, |identity| identity.scope = Scope::Default).await;
    check_works(&keyway, "web-1").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_domain_or_the_system_is_a_scope_with_keystone_but_without_servers() {
    for scope in [Scope::Domain(Domain::Name(DOMAIN.to_owned())), Scope::System] {
        let cloud = cloud().await;
        let keyway = logged_in(&cloud, |identity| identity.scope = scope).await;
        assert_eq!(keyway.get("/identity/users").await.status, 200);
        assert_eq!(keyway.status().await["clouds"][0]["project"], Value::Null);
        // The service has the last word.
        keyway.get("/compute/servers").await.passed_on(403);
        // Its URL in the catalog would need a project.
        keyway.get("/object-store/box").await.message(404, "no_service");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unscoped_token_reaches_keystone_only_and_says_why() {
    let cloud = cloud().await;
    let keyway = logged_in(&cloud, |identity| identity.scope = Scope::Unscoped).await;
    assert_eq!(keyway.get("/identity/auth/projects").await.status, 200);
    let message = keyway.get("/compute/servers").await.message(502, "no_endpoint");
    assert!(message.contains("name a project to log in to"), "{message}");
    // A project in the path is a scope.
    assert_eq!(keyway.get("/project/demo/compute/servers").await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn version_documents_pass() {
    let cloud = cloud().await;
    let keyway = TestKeyway::in_front_of(&cloud).await;
    assert_eq!(keyway.get("/compute/").await.json()["version"]["id"], "v2.1");
    assert_eq!(keyway.get("/compute/v2.1/").await.json()["version"]["id"], "v2.1");
    assert!(keyway.get("/image/").await.json()["versions"].is_array());
    assert!(keyway.get("/network").await.json()["versions"].is_array());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_was_asked_for_comes_back_from_keystone() {
    let cloud = cloud().await;
    let keyway = TestKeyway::in_front_of(&cloud).await;
    let token = keyway.token().await;
    let shown = keyway.get_with("/identity/auth/tokens", &[("x-subject-token", &token)]).await;
    shown.passed_on(200);
    assert_eq!(shown.header("x-subject-token"), token);
    assert_eq!(shown.json()["token"]["project"]["id"], PROJECT_ID);
}
