//! What an identity may do at Keystone itself: no way there makes or shows a credential of the cloud's user that would
//! outlive it.

use http::Method;
use keyway::config::{Config, Listener};
use keyway::demo::{self, Cloud};
use keyway::facade::Logins;
use keyway::identity::{self, Rights};
use keyway::keystone::Secret;
use keyway::policy::IdentityApi;
use keyway::proxy::origins;
use keyway::server::Address;
use keyway::upstream::BaseUrl;
use serde_json::{Value, json};

use crate::support::raw::Recorder;
use crate::support::{Answer, Connection, TestKeyway, cloud, request, targets};

const PASSWORD: &str = "hunter2-of-ada";

/// A keyway whose only identity is ada.
struct Team {
    cloud: Cloud,
    keyway: TestKeyway,
    config: Config,
}

impl Team {
    /// `catalog` is Keystone's, if it is not the demo cloud's.
    async fn of(rights: Rights, catalog: Option<Value>) -> Self {
        let cloud = cloud().await;
        if let Some(catalog) = catalog {
            cloud.set_catalog(catalog);
        }
        let mut kept = None;
        let keyway = TestKeyway::with(&cloud, |config| {
            config.listeners[0].logins = Logins::Configured;
            let address: Address = "127.0.0.1:0".parse().expect("an address");
            config.listeners.push(Listener {
                pinned: Some("/identity".to_owned()),
                logins: Logins::Configured,
                ..Listener::at("keystone", address)
            });
            config.identities = vec![ada(rights)];
            kept = Some(config.clone());
        })
        .await;
        Self { cloud, keyway, config: kept.expect("it was changed") }
    }

    async fn send(&self, method: &Method, path: &str) -> Answer {
        let fields = [("x-auth-token", PASSWORD)];
        self.keyway.send(request(method.clone(), path, &fields, "{}")).await
    }

    async fn at(&self, host: &str, method: &Method, path: &str) -> Answer {
        let fields = [("host", host), ("x-auth-token", PASSWORD)];
        self.keyway.send(request(method.clone(), path, &fields, "{}")).await
    }

    /// What Keystone was asked, without what keyway asks for itself.
    fn asked(&self) -> Vec<String> {
        let mut targets = targets(&self.cloud, "identity");
        targets.retain(|target| !matches!(target.as_str(), "/v3/auth/tokens" | "/v3/auth/projects"));
        targets
    }

    /// A token of keyway's own.
    async fn log_in(&self) -> String {
        let user = json!({"name": "ada", "domain": {"id": "default"}, "password": PASSWORD});
        let auth = json!({"auth": {"identity": {"methods": ["password"], "password": {"user": user}}}});
        let answer = self.keyway.post("/v3/auth/tokens", &auth).await;
        assert_eq!(answer.status, 201, "{answer:?}");
        answer.header("x-subject-token").to_owned()
    }
}

fn ada(rights: Rights) -> identity::Config {
    let password = Some(Secret::new(PASSWORD));
    identity::Config { name: "ada".to_owned(), password, rights, ..Default::default() }
}

fn may(identity_api: IdentityApi) -> Rights {
    Rights { identity_api, ..Rights::default() }
}

#[track_caller]
fn refused(answer: &Answer) {
    let message = answer.message(403, "denied");
    assert!(message.contains("`identity_api` of identity `ada`"), "{message}");
}

/// Everything that makes a credential of the user's, or another user, or changes one.
const WRITES: [(Method, &str); 17] = [
    (Method::POST, "/v3/users/u/application_credentials"),
    (Method::DELETE, "/v3/users/u/application_credentials/x"),
    (Method::POST, "/v3/users/u/credentials/OS-EC2"),
    (Method::POST, "/v3/credentials"),
    (Method::PATCH, "/v3/credentials/x"),
    (Method::POST, "/v3/OS-TRUST/trusts"),
    (Method::POST, "/v3/OS-OAUTH1/consumers"),
    (Method::POST, "/v3/OS-OAUTH1/request_token"),
    (Method::PUT, "/v3/OS-OAUTH1/authorize/x"),
    (Method::POST, "/v3/OS-OAUTH1/access_token"),
    (Method::POST, "/v3/OS-OAUTH2/token"),
    (Method::POST, "/v3/users/u/password"),
    (Method::POST, "/v3/users"),
    (Method::PUT, "/v3/projects/p/users/u/roles/r"),
    (Method::POST, "/v3/auth/OS-FEDERATION/saml2"),
    (Method::POST, "/v2.0/users/u/credentials/OS-EC2"),
    (Method::PUT, "/v2.0/users/u/OS-KSADM/password"),
];

// Promise 73.
#[tokio::test(flavor = "multi_thread")]
async fn no_write_of_an_identity_gets_to_keystone_on_any_way() {
    let team = Team::of(Rights::default(), None).await;
    for (method, path) in &WRITES {
        for _ in 0..2 {
            refused(&team.send(method, &format!("/identity{path}")).await);
        }
    }
    let origin = origins::id(BaseUrl::parse(&team.cloud.auth_url()).unwrap().origin());
    let origin = format!("/origin/{origin}");
    let (method, path) = (&Method::POST, "/v3/users/u/application_credentials");
    for root in [
        "",
        "/keystone",
        "/IDENTITY",
        "/%69dentity",
        "/cloud/demo/identity",
        "/region/RegionOne/identity",
        "/project/demo/keystone",
        "/cloud/demo/region/RegionOne/project/other/identity",
        &origin,
    ] {
        refused(&team.send(method, &format!("{root}{path}")).await);
    }
    for path in [
        "/identity/v3//users/u/application_credentials",
        "/identity//v3/users/u/application_credentials",
        "/identity/v3/users/u/application_credentials/",
        "/identity/v3/users/u/application_credential%73",
        "/identity/v3;x/users/u/application_credentials",
        "/identity/v3%2Fusers/u/application_credentials",
        "/identity/users/u/application_credentials",
        "/identity/v3.14/users/u/application_credentials",
        "/identity/nothing/that/anybody/knows",
    ] {
        refused(&team.send(method, path).await);
    }
    // Logins that are not spelled as those that keyway answers.
    for path in ["/identity/v3/auth/tokens/", "/identity/v3//auth/tokens", "/v3/%61uth/tokens"] {
        team.send(method, path).await.message(400, "bad_request");
    }
    for host in ["identity.localhost", "Keystone.localhost", "identity.demo.localhost"] {
        refused(&team.at(host, method, path).await);
    }
    let pinned = team.keyway.app().addresses().nth(1).and_then(Address::tcp);
    let mut connection = Connection::open(pinned.expect("an IP address")).await;
    refused(&connection.send(request(method.clone(), path, &[("x-auth-token", PASSWORD)], "{}")).await);
    // With a token that it got for its password, and one of nobody's.
    let token = team.log_in().await;
    let fields = [("x-auth-token", token.as_str())];
    refused(&team.keyway.send(request(method.clone(), "/identity/v3/credentials", &fields, "{}")).await);
    let fields = [("x-auth-token", token.as_str()), ("x-subject-token", "gAAAAA-of-another")];
    refused(&team.keyway.send(request(Method::DELETE, "/identity/v3/auth/tokens", &fields, "")).await);
    assert_eq!(team.asked(), [""; 0]);
    // A method that nobody knows is no read.
    for method in ["BREW", "PROPFIND", "COPY"] {
        refused(&team.send(&method.parse().unwrap(), "/identity/v3/users").await);
    }
    assert_eq!(team.asked(), [""; 0]);
}

// Promise 73.
#[tokio::test(flavor = "multi_thread")]
async fn an_identity_reads_at_keystone_what_is_no_secret() {
    let team = Team::of(Rights::default(), None).await;
    for path in ["/identity/v3/users", "/identity/v3/projects", "/v3/domains", "/keystone/v3/auth/projects"] {
        team.send(&Method::GET, path).await.passed_on(200);
    }
    team.send(&Method::HEAD, "/identity/v3/users").await.passed_on(200);
    let user = demo::USER_ID;
    team.send(&Method::GET, &format!("/identity/v3/users/{user}/application_credentials"))
        .await
        .passed_on(404);
    let asked = team.asked().len();
    assert_eq!(asked, 5);
    for path in [
        "/v3/credentials",
        "/v3/credentials/x",
        "/v3/credentials/",
        "/v3//credentials",
        "/v3/credential%73",
        "/v3/credentials?user_id=u",
        "/v3/users/u/credentials/OS-EC2",
        "/v3/users/u/credentials/OS-EC2/x",
        "/v2.0/users/u/credentials/OS-EC2",
        "/v3/auth/OS-FEDERATION/websso/openid",
        "/v3/OS-FEDERATION/identity_providers/i/protocols/p/auth",
    ] {
        for root in ["/identity", ""] {
            refused(&team.send(&Method::GET, &format!("{root}{path}")).await);
        }
        let head = team.send(&Method::HEAD, &format!("/keystone{path}")).await;
        assert_eq!((head.status, head.header("x-keyway-error")), (403, "denied"), "{path}");
    }
    assert_eq!(team.asked().len(), asked);
    // keyway's own part is as ever: logins, its catalog, the end of its tokens.
    let token = team.log_in().await;
    for path in ["/v3/auth/catalog", "/identity/v3/auth/catalog", "/identity", "/identity/v3"] {
        let answer = team.send(&Method::GET, path).await;
        assert!(matches!(answer.status, 200 | 300), "{path}: {answer:?}");
    }
    let fields = [("x-auth-token", token.as_str()), ("x-subject-token", token.as_str())];
    let get = || request(Method::GET, "/identity/v3/auth/tokens", &fields, "");
    assert_eq!(team.keyway.send(get()).await.status, 200);
    let delete = request(Method::DELETE, "/identity/v3/auth/tokens", &fields, "");
    assert_eq!(team.keyway.send(delete).await.status, 204);
    assert_eq!(team.keyway.send(get()).await.status, 401);
    assert_eq!(team.asked().len(), asked);
}

// Promise 73.
#[tokio::test(flavor = "multi_thread")]
async fn what_an_identity_may_do_at_keystone_is_the_operators_choice_and_a_reload_changes_it() {
    let team = Team::of(may(IdentityApi::All), None).await;
    for (method, path) in &WRITES {
        let before = team.asked().len();
        let answer = team.send(method, &format!("/identity{path}")).await;
        assert_eq!(answer.header("x-keyway-error"), "", "{path}: {answer:?}");
        assert_eq!(team.asked().len(), before + 1, "{path}");
    }
    team.send(&Method::GET, "/identity/v3/credentials").await.passed_on(404);
    let reload = |rights: Rights| {
        assert!(
            team.keyway.app().reload(Ok(Config { identities: vec![ada(rights)], ..team.config.clone() }))
        );
    };
    let asked = team.asked().len();
    reload(may(IdentityApi::None));
    for path in ["/identity/v3/users", "/v3/projects", "/keystone/v3/auth/projects", "/identity//"] {
        refused(&team.send(&Method::GET, path).await);
    }
    refused(&team.send(&Method::POST, "/identity/v3/users").await);
    team.log_in().await;
    assert_eq!(team.send(&Method::GET, "/identity/v3/auth/catalog").await.status, 200);
    team.send(&Method::GET, "/compute/servers").await.passed_on(200);
    team.send(&Method::POST, "/compute/nothing").await.passed_on(404);
    reload(may(IdentityApi::ReadOnly));
    refused(&team.send(&Method::POST, "/identity/v3/users").await);
    assert_eq!(team.asked().len(), asked);
    team.send(&Method::GET, "/identity/v3/users").await.passed_on(200);
}

// Promise 73.
#[tokio::test(flavor = "multi_thread")]
async fn another_services_endpoint_is_no_way_to_keystone() {
    let service = Recorder::start().await;
    let origin = service.url().replace("/v1", "");
    let entry = |service: &str, path: &str| {
        let url = format!("{origin}{path}").replace("{p}", demo::PROJECT_ID);
        json!({"type": service, "name": service, "endpoints": [
            {"id": service, "interface": "public", "region": "RegionOne", "region_id": "RegionOne", "url": url}]})
    };
    let come = || service.connections().iter().map(Vec::len).sum::<usize>();
    let refuses = async |team: &Team, method: &Method, path: &str| {
        let before = come();
        refused(&team.send(method, path).await);
        assert_eq!(come(), before, "{path}");
    };
    let passes = async |team: &Team, method: &Method, path: &str| {
        let answer = team.send(method, path).await;
        assert_eq!((answer.status, answer.header("x-keyway-error")), (200, ""), "{path}: {answer:?}");
    };
    let (get, post, put) = (&Method::GET, &Method::POST, &Method::PUT);
    let place = format!("/origin/{}", origins::id(BaseUrl::parse(&origin).unwrap().origin()));

    // Keystone lies below the root of the object store.
    let catalog = json!([entry("object-store", "/v1/AUTH_{p}"), entry("identity", "/identity/v3")]);
    let team = Team::of(Rights::default(), Some(catalog)).await;
    for path in [
        "/identity/v3/users/u/credentials/OS-EC2",
        "//identity/v3/users",
        "/%69dentity/v3/users",
        "/identity%2Fv3/users",
        "/identity/v9/whatever",
    ] {
        refuses(&team, post, &format!("{place}{path}")).await;
        let before = come();
        refused(&team.at("object-store.localhost", post, path).await);
        assert_eq!(come(), before, "{path}");
    }
    refuses(&team, get, &format!("{place}/identity/v3/credentials")).await;
    passes(&team, put, "/object-store/box/identity").await;
    passes(&team, post, "/object-store/identity/v3/users").await;
    passes(&team, get, &format!("{place}/identity/v3/users")).await;

    // The catalog has it under another name of the same host.
    let mut keystone = entry("identity", "/identity/v3");
    keystone["endpoints"][0]["url"] =
        format!("{origin}/identity/v3").replace("127.0.0.1", "localhost").into();
    let team =
        Team::of(Rights::default(), Some(json!([entry("object-store", "/v1/AUTH_{p}"), keystone]))).await;
    refuses(&team, post, &format!("{place}/identity/v3/users/u/credentials/OS-EC2")).await;
    passes(&team, put, "/object-store/identity/v3").await;

    // Compute and Keystone have the same root, and another type stands for Keystone as well.
    let catalog = json!([
        entry("compute", "/v2.1"),
        entry("identity", "/v3"),
        entry("iam", "/v3"),
        entry("volumev3", "/volume/v3/{p}"),
        entry("trusts", "/v3/OS-TRUST"),
    ]);
    let team = Team::of(Rights::default(), Some(catalog)).await;
    passes(&team, post, "/compute/servers").await;
    passes(&team, post, "/compute/v2.1/os-keypairs").await;
    passes(&team, post, "/volume/volumes").await;
    for path in [
        "/compute/v3/users/u/application_credentials",
        "/compute/v3/OS-TRUST/trusts",
        "/compute/v2.0/users/u/credentials/OS-EC2",
        "/iam/users/u/application_credentials",
        "/iam/v3/any/thing",
        "/trusts/trusts",
    ] {
        refuses(&team, post, path).await;
    }
    refuses(&team, get, "/compute/v3/credentials").await;
    refuses(&team, get, "/iam/credentials").await;
    passes(&team, get, "/compute/servers").await;
}

// Promise 73.
#[tokio::test(flavor = "multi_thread")]
async fn whoever_has_no_identity_writes_at_keystone_as_ever() {
    let cloud = cloud().await;
    let alone = TestKeyway::in_front_of(&cloud).await;
    // Where anybody may come in, a password shown says nothing, and a request without one is nobody's.
    let beside = TestKeyway::with(&cloud, |config| config.identities = vec![ada(Rights::default())]).await;
    for keyway in [&alone, &beside] {
        for fields in [&[][..], &[("x-auth-token", "anything")], &[("x-auth-token", PASSWORD)]] {
            let write = request(Method::POST, "/identity/v3/users", fields, "{}");
            keyway.send(write).await.passed_on(404);
            let secret = request(Method::GET, "/identity/v3/credentials", fields, "");
            keyway.send(secret).await.passed_on(404);
        }
    }
}

// Promise 73.
#[tokio::test(flavor = "multi_thread")]
async fn keystones_lists_show_no_projects_and_regions_but_an_identitys_own() {
    let rights = |projects: &[&str], regions: &[&str]| {
        let owned = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        Rights { projects: owned(projects), regions: owned(regions), ..may(IdentityApi::All) }
    };
    let team = Team::of(rights(&[demo::PROJECT], &["RegionOne"]), None).await;
    for (path, right) in [
        ("/identity/v3/projects/", "projects"),
        ("/identity/v3/role_assignments", "projects"),
        ("/identity/v3/regions", "regions"),
        ("/identity/v3/endpoints", "regions"),
    ] {
        let message = team.send(&Method::GET, path).await.message(403, "denied");
        assert!(message.contains(&format!("`{right}` of identity `ada`")), "{path}: {message}");
    }
    // These keyway answers by itself, where they are spelled plainly.
    for path in [
        "/identity/v3/auth/projects/",
        "/v3/users/u/projects/",
        "/v2.0/tenants/",
        "/identity/v3//auth/catalog",
    ] {
        team.send(&Method::GET, path).await.message(400, "bad_request");
    }
    assert_eq!(team.asked(), [""; 0]);
    for (query, expected) in
        [("", true), ("?name=demo", true), ("?name=d%65mo&x", true), ("?name=other", false)]
    {
        let answer = team.send(&Method::GET, &format!("/identity/v3/projects{query}")).await;
        let listed: Vec<_> = answer.json()["projects"]
            .as_array()
            .expect("a list")
            .iter()
            .map(|one| one["name"].clone())
            .collect();
        assert_eq!(listed, if expected { vec![json!(demo::PROJECT)] } else { Vec::new() }, "{query}");
    }
    let catalog = team.send(&Method::GET, "/identity/v3/auth/catalog").await.text();
    assert!(catalog.contains("RegionOne") && !catalog.contains("RegionTwo"), "{catalog}");
    team.send(&Method::GET, "/identity/v3/users").await.passed_on(200);
}
