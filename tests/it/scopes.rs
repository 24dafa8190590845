//! Tokens for scopes that a client names, and what Keystone says to them.

use keyway::demo::{self, Cloud, DOMAIN, DOMAIN_ID, OTHER_PROJECT, OTHER_PROJECT_ID, PROJECT, PROJECT_ID};
use keyway::keystone::{
    self, Asked, Auth, AuthError, Domain, Identity, IdentityVersion, Key, Project, Scope, Secret, Token,
};
use keyway::upstream::BaseUrl;
use serde_json::{Value, json};
use std::sync::Arc;

use crate::support::{TestKeyway, cloud, eventually};

/// Keystone's words for everything that it does not grant.
const NO: &str = "The request you have made requires authentication.";

fn by_id(id: &str) -> Scope {
    Scope::Project(Project::Id(id.to_owned()))
}

fn by_name(name: &str, domain: &str) -> Scope {
    Scope::Project(Project::Name { name: name.to_owned(), domain: Some(Domain::Name(domain.to_owned())) })
}

async fn ask(keyway: &TestKeyway, scope: Scope) -> Result<Arc<Token>, Arc<AuthError>> {
    let key = Key { cloud: 0, scope: Asked::Exactly(scope) };
    keyway.app().shared().tokens.current(&key).await
}

fn document(token: &Token) -> Value {
    serde_json::from_slice(token.document.as_ref().expect("Keystone said something")).expect("JSON")
}

fn identity(config: &mut keystone::Config) -> &mut Identity {
    match &mut config.auth {
        Auth::Identity(identity) => identity,
        _ => panic!("the demo cloud has a Keystone"),
    }
}

/// keyway in front of the Identity v2.0 of a cloud.
async fn with_v2(cloud: &Cloud) -> TestKeyway {
    TestKeyway::for_cloud(cloud, |config| {
        let identity = identity(config);
        identity.auth_url = BaseUrl::parse(&cloud.v2_url()).expect("a URL");
        identity.version = IdentityVersion::V2;
        identity.scope = Scope::Project(Project::Name { name: PROJECT.to_owned(), domain: None });
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn every_scope_that_the_user_can_have_gets_a_token_with_keystones_document() {
    let cloud = cloud().await;
    let keyway = TestKeyway::in_front_of(&cloud).await;
    for own in [by_id(PROJECT_ID), by_name(PROJECT, DOMAIN)] {
        let token = ask(&keyway, own).await.expect("it is the cloud's own");
        assert_eq!(document(&token)["catalog"], cloud.catalog());
    }
    assert_eq!(cloud.token_requests(), 1);

    let other = ask(&keyway, by_name(OTHER_PROJECT, DOMAIN)).await.expect("the user has a role there");
    assert_eq!(document(&other)["project"]["id"], OTHER_PROJECT_ID);
    let same = ask(&keyway, by_id(OTHER_PROJECT_ID)).await.expect("the user has a role there");
    assert_eq!(same.id, other.id);
    let domain = ask(&keyway, Scope::Domain(Domain::Id(DOMAIN_ID.to_owned()))).await.expect("there is one");
    assert_eq!(document(&domain)["domain"]["name"], DOMAIN);
    let same = ask(&keyway, Scope::Domain(Domain::Name(DOMAIN.to_owned()))).await.expect("there is one");
    assert_eq!(same.id, domain.id);
    let system = ask(&keyway, Scope::System).await.expect("the user has a role there");
    assert_eq!(document(&system)["system"], json!({"all": true}));
    let unscoped = ask(&keyway, Scope::Unscoped).await.expect("it takes no role");
    assert!(unscoped.catalog.is_empty());
    assert!(
        ["project", "domain", "system", "catalog"].iter().all(|key| document(&unscoped).get(key).is_none())
    );
    assert_eq!((cloud.token_requests(), cloud.tokens_issued()), (5, 5));
    for token in [other, domain, system, unscoped] {
        let text = String::from_utf8(token.document.as_ref().unwrap().to_vec()).unwrap();
        assert!(!text.contains(token.id.expose()) && !text.contains(demo::PASSWORD), "{text}");
        assert_eq!(document(&token)["user"]["name"], demo::USER);
    }
    // A path that names the project has it, too.
    assert_eq!(keyway.get(&format!("/project/{OTHER_PROJECT_ID}/compute/servers")).await.status, 200);
    assert_eq!(cloud.token_requests(), 5);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_scope_that_keystone_refuses_is_told_in_its_words() {
    let cloud = cloud().await;
    let keyway = TestKeyway::in_front_of(&cloud).await;
    let elsewhere = Domain::Id("elsewhere".to_owned());
    for scope in [by_id("nope"), by_name(OTHER_PROJECT, "elsewhere"), Scope::Domain(elsewhere)] {
        let before = cloud.token_requests();
        for _ in 0..10 {
            let error = ask(&keyway, scope.clone()).await.expect_err("there is no such thing");
            let AuthError::ScopeRefused { status: 401, message } = error.root() else { panic!("{error:?}") };
            assert_eq!(message, NO);
        }
        assert_eq!(cloud.token_requests() - before, 2, "asked once, and what the no is about");
    }
    assert_eq!(keyway.get("/compute/servers").await.status, 200);
    assert_eq!(keyway.metric(r#"keyway_token_breaker_open{cloud="demo"}"#).await, 0.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_path_to_a_project_that_was_just_taken_away_says_what_keystone_says() {
    let cloud = cloud().await;
    let keyway = TestKeyway::in_front_of(&cloud).await;
    let message = keyway.get("/project/nope/compute/servers").await.message(404, "unknown_project");
    assert_eq!(message, "the user has no such project; there are: demo, other");
    // The list is remembered, so keyway does not know yet.
    cloud.set_role(OTHER_PROJECT_ID, false);
    for _ in 0..3 {
        let message = keyway.get("/project/other/compute/servers").await.message(401, "scope_refused");
        assert_eq!(message, NO);
    }
    assert_eq!(keyway.get("/compute/servers").await.status, 200);
    assert_eq!(keyway.metric(r#"keyway_errors_total{reason="scope_refused"}"#).await, 3.0);
    cloud.set_role(OTHER_PROJECT_ID, true);
    let granted = async || (keyway.get("/project/other/compute/servers").await.status == 200).then_some(());
    eventually("the project", granted).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_password_stays_the_operators_trouble() {
    let cloud = cloud().await;
    let mut config = cloud.keystone_config();
    if let keystone::Method::Password { password, .. } = &mut identity(&mut config).method {
        *password = Secret::new("wrong-one").into();
    }
    let keyway = TestKeyway::cold(vec![config], |_| {});
    let error = ask(&keyway, by_id(OTHER_PROJECT_ID)).await.expect_err("nobody gets in");
    assert!(error.is_rejection(), "{error:?}");
    keyway.get("/project/other/compute/servers").await.message(502, "credentials_rejected");
    assert_eq!(cloud.token_requests(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn made_up_projects_do_not_storm_keystone_nor_push_out_those_that_work() {
    let cloud = cloud().await;
    let keyway = TestKeyway::in_front_of(&cloud).await;
    ask(&keyway, by_id(OTHER_PROJECT_ID)).await.expect("the user has a role there");
    let before = cloud.token_requests();
    let mut turned_away = 0;
    for n in 0..2000 {
        let error = ask(&keyway, by_id(&format!("made-up-{n}"))).await.expect_err("there is no such project");
        match error.root() {
            AuthError::ScopeRefused { .. } => {}
            AuthError::TooManyScopes { wait } => {
                assert!(wait.as_secs() <= 6);
                turned_away += 1;
            }
            _ => panic!("{error:?}"),
        }
    }
    // Ten at once, and one more every six seconds that this may take on a slow machine.
    let asked = cloud.token_requests() - before;
    assert!((20..100).contains(&asked), "{asked}");
    assert!(turned_away > 1900, "{turned_away}");
    let before = cloud.token_requests();
    ask(&keyway, by_id(OTHER_PROJECT_ID)).await.expect("it is still there");
    assert_eq!(cloud.token_requests(), before);
    // What Keystone lists is not made up.
    assert_eq!(keyway.get("/project/other/compute/servers").await.status, 200);
    assert_eq!(keyway.get("/compute/servers").await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_application_credential_has_its_one_scope_without_a_question() {
    let cloud = cloud().await;
    let keyway = TestKeyway::for_cloud(&cloud, |config| {
        let identity = identity(config);
        identity.method = keystone::Method::ApplicationCredential {
            which: keystone::ApplicationCredential::Id(demo::APPLICATION_CREDENTIAL_ID.to_owned()),
            secret: Secret::new(demo::APPLICATION_CREDENTIAL_SECRET).into(),
        };
        identity.scope = Scope::Default;
    })
    .await;
    for own in [Scope::Default, by_id(PROJECT_ID), by_name(PROJECT, DOMAIN)] {
        ask(&keyway, own).await.expect("it is its own");
    }
    for other in [by_id(OTHER_PROJECT_ID), Scope::Unscoped, Scope::System] {
        let error = ask(&keyway, other).await.expect_err("it has no other");
        assert!(matches!(*error, AuthError::ScopeFixed { .. }), "{error:?}");
    }
    keyway.get("/project/other/compute/servers").await.message(403, "scope_fixed");
    assert_eq!(cloud.token_requests(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn identity_v2_has_tenants_and_a_document_in_the_shape_of_v3() {
    let cloud = cloud().await;
    let keyway = with_v2(&cloud).await;
    for own in [by_id(PROJECT_ID), by_name(PROJECT, "Default")] {
        ask(&keyway, own).await.expect("it is the cloud's own");
    }
    assert_eq!(cloud.token_requests(), 1);
    let other = ask(&keyway, by_id(OTHER_PROJECT_ID)).await.expect("the user has a role there");
    let said = document(&other);
    let domain = json!({"id": "default", "name": "Default"});
    assert_eq!(said["project"], json!({"id": OTHER_PROJECT_ID, "name": OTHER_PROJECT, "domain": domain}));
    assert_eq!((&said["user"]["name"], &said["user"]["domain"]), (&json!(demo::USER), &domain));
    assert_eq!(said["roles"][1]["name"], "member");
    assert_eq!(said["roles"][1]["id"].as_str().map(str::len), Some(32));
    let text = String::from_utf8(other.document.as_ref().unwrap().to_vec()).unwrap();
    assert!(!text.contains(other.id.expose()), "{text}");

    // Every URL of the cloud's catalog is there, each under an id of its own.
    let urls = |catalog: &Value| {
        let services = catalog.as_array().unwrap().iter();
        let endpoints = services.flat_map(|service| {
            service["endpoints"].as_array().unwrap().iter().map(|endpoint| {
                let text = |name: &str| endpoint[name].as_str().unwrap().to_owned();
                (
                    service["type"].as_str().unwrap().to_owned(),
                    text("region_id"),
                    text("interface"),
                    text("url"),
                )
            })
        });
        endpoints.filter(|endpoint| endpoint.0 != "identity").collect::<std::collections::BTreeSet<_>>()
    };
    let own = document(&ask(&keyway, by_id(PROJECT_ID)).await.unwrap());
    assert_eq!(urls(&own["catalog"]), urls(&cloud.catalog()));
    let services = own["catalog"].as_array().unwrap().iter();
    let ids: Vec<_> = services.flat_map(|service| service["endpoints"].as_array().unwrap()).collect();
    let distinct: std::collections::HashSet<_> = ids.iter().map(|endpoint| endpoint["id"].as_str()).collect();
    assert_eq!(distinct.len(), ids.len());

    let unscoped = ask(&keyway, Scope::Unscoped).await.expect("it takes no role");
    assert!(document(&unscoped).get("catalog").is_none());
    let before = cloud.token_requests();
    for nothing in [Scope::System, by_name(PROJECT, "elsewhere")] {
        let error = ask(&keyway, nothing).await.expect_err("there is no word for it");
        assert!(matches!(*error, AuthError::ScopeRefused { status: 401, .. }), "{error:?}");
    }
    assert_eq!(cloud.token_requests(), before);
    let error = ask(&keyway, by_id("nope")).await.expect_err("there is no such tenant");
    assert!(matches!(*error, AuthError::ScopeRefused { status: 401, .. }), "{error:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_users_projects_are_listed_with_both_versions_of_identity() {
    let cloud = cloud().await;
    for keyway in [TestKeyway::in_front_of(&cloud).await, with_v2(&cloud).await] {
        let before = cloud.requests("identity").len();
        let tokens = keyway.app().shared().tokens.clone();
        let (one, two) = tokio::join!(tokens.projects(0), tokens.projects(0));
        let (one, two) = (one.expect("a list"), two.expect("a list"));
        assert_eq!(one, two);
        let shown: Vec<_> = one
            .iter()
            .map(|info| (&*info.project.id, &*info.project.name, &*info.description, info.enabled))
            .collect();
        let expected = [
            (PROJECT_ID, PROJECT, "Project demo", true),
            (OTHER_PROJECT_ID, OTHER_PROJECT, "Project other", true),
        ];
        assert_eq!(shown, expected);
        assert!(one.iter().all(|info| info.project.domain_id.as_deref() == Some(DOMAIN_ID)));
        assert_eq!(cloud.requests("identity").len() - before, 1);
        let sample = r#"keyway_project_lists_total{cloud="demo",result="ok"}"#;
        assert_eq!(keyway.metric(sample).await, 1.0);
    }
}
