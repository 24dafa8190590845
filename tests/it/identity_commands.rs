//! `keyway identity`: who may come in, and what would become of their requests.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use keyway::demo::{self, Cloud};
use tempfile::TempDir;

use crate::support::{Process, cloud};

const TEAM: &str = "
[identity.ada]
password = 'hunter2-of-ada'
certificates = ['dns:ada.example']
users = [1000]
[identity.bot]
projects = ['demo']
regions = ['RegionOne']
policy = 'lists'
rate = 50
burst = 100
requests = 20
body = '1MiB'
expires = 2099-12-31
[identity.elsewhere]
clouds = ['lab']
projects = ['other']
identity_api = 'all'
[identity.late]
groups = [7]
identity_api = 'read-only'
expires = 2001-01-01
[policy.lists]
read_only = true
default = 'deny'
[[policy.lists.rule]]
name = 'servers'
effect = 'allow'
services = ['compute']
paths = ['/servers', '/servers/detail']
[policy.closed]
[[policy.closed.rule]]
name = 'no-images'
effect = 'deny'
services = ['image']
[listener.main]
login = 'configured'
[listener.images-not]
address = '127.0.0.1:9998'
login = 'configured'
policy = 'closed'
[listener.nova]
address = '127.0.0.1:9997'
login = 'configured'
service = 'compute'
";

/// A home with a keyway.toml of a team, and a clouds.yaml with its cloud, called lab.
fn home(cloud: &Cloud) -> TempDir {
    let home = tempfile::tempdir().expect("a directory for temporary files");
    let clouds = format!(
        "clouds:\n  lab:\n    region_name: RegionOne\n    auth:\n      auth_url: {}\n      username: {}\n      \
         password: {}\n      project_name: {}\n      user_domain_name: {}\n      project_domain_name: {}\n",
        cloud.auth_url(),
        demo::USER,
        demo::PASSWORD,
        demo::PROJECT,
        demo::DOMAIN,
        demo::DOMAIN
    );
    for (name, text) in [("k.toml", TEAM), ("clouds.yaml", clouds.as_str())] {
        let path = home.path().join(name);
        fs::write(&path, text).expect("a writable directory");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("it is ours");
    }
    home
}

/// Exit code, stdout and stderr of `keyway identity ..`; nothing of it has a secret.
async fn asked(home: &TempDir, arguments: &[&str]) -> (i32, String, String) {
    let arguments = [&["identity"], arguments, &["--config", "k.toml"]].concat();
    let outcome = Process::start::<&str>(home.path(), &arguments, &[]).outcome().await;
    for secret in ["hunter2", demo::PASSWORD, "gAAAA", "sha256:"] {
        assert!(!outcome.1.contains(secret) && !outcome.2.contains(secret), "{secret}: {outcome:?}");
    }
    outcome
}

#[tokio::test(flavor = "multi_thread")]
async fn list_and_show_say_who_may_come_in_and_what_they_may_do() {
    let home = home(&cloud().await);
    let new = ["key", "new", "bot", "--expires", "2098-01-01", "--note", "the laptop", "--config", "k.toml"];
    let (code, key, err) = Process::start::<&str>(home.path(), &new, &[]).outcome().await;
    assert_eq!(code, 0, "{err}");
    let id = &key[4..20];

    let (code, out, err) = asked(&home, &["list"]).await;
    assert_eq!(code, 0, "{err}");
    assert_eq!(
        out.lines().collect::<Vec<_>>(),
        [
            "ada               password, certificate dns:ada.example, user 1000; everything but writes at Keystone".to_owned(),
            format!(
                "bot               key {id} (ends 2098-01-01T00:00:00Z); projects demo, regions RegionOne, policy lists, \
                 50 requests per second, 20 under way, bodies of 1048576 bytes, until 2099-12-31T00:00:00Z"
            ),
            "elsewhere         nothing to show yet; clouds lab, projects other, identity_api all".to_owned(),
            "late              group 7; expired 2001-01-01T00:00:00Z".to_owned(),
        ]
    );
    assert!(!out.contains(&key[21..30]), "{out}");

    let (code, out, err) = asked(&home, &["show", "bot"]).await;
    assert_eq!(code, 0, "{err}");
    for line in [
        "identity      bot",
        "password      none",
        "clouds        all",
        "projects      demo",
        "regions       RegionOne",
        "policy        lists: read only, deny where no rule speaks",
        "              allow servers",
        "identity_api  read-only: reads at Keystone that show no credential",
        "rate          50 requests per second, 100 at once",
        "requests      20 under way",
        "body          1048576 bytes",
        "expires       until 2099-12-31T00:00:00Z",
    ] {
        assert!(out.lines().any(|shown| shown == line), "{line} is not in {out}");
    }
    let (_, elsewhere, _) = asked(&home, &["show", "elsewhere"]).await;
    assert!(
        elsewhere.contains("identity_api  all: whatever the cloud's user may at Keystone\n"),
        "{elsewhere}"
    );
    let shown = out.lines().find(|line| line.starts_with("key ")).expect("its key");
    assert!(shown.contains(id) && shown.ends_with("ends 2098-01-01T00:00:00Z, the laptop"), "{shown}");

    let (code, _, err) = asked(&home, &["show", "bob"]).await;
    assert_eq!(code, 1);
    assert!(err.contains("there is no identity `bob`, only ada, bot, elsewhere, late"), "{err}");
}

// Promise 73.
#[tokio::test(flavor = "multi_thread")]
async fn test_says_what_would_become_of_a_request_and_sends_nothing() {
    let cloud = cloud().await;
    let home = home(&cloud);
    let compute = cloud.url("compute");
    let check = async |arguments: &[&str], code: i32, says: &str| {
        let outcome = asked(&home, &[&["test"], arguments].concat()).await;
        assert_eq!(outcome.0, code, "{arguments:?}: {outcome:?}");
        let told = format!("{}\n{}", outcome.1, outcome.2);
        assert!(told.contains(says), "{arguments:?}: {says} is not in {told}");
        assert!(
            outcome.1.is_empty() || outcome.1.starts_with(if code == 0 { "allowed: " } else { "denied: " })
        );
    };
    let servers = format!("GET {compute}/servers?a=b (compute of cloud lab, project demo)");
    check(&["ada", "GET", "/compute/servers?a=b"], 0, &servers).await;
    check(&["ada", "DELETE", "/compute/servers/x"], 0, "allowed: DELETE").await;
    check(&["ada", "GET", "/v2.1/servers", "--by", "nova"], 0, &format!("GET {compute}/servers ")).await;
    check(&["bot", "GET", "/compute/servers"], 0, "allowed: GET").await;
    check(&["bot", "GET", "/compute/flavors"], 1, "denied: policy.lists.default (403: ").await;
    check(&["bot", "DELETE", "/compute/servers/x"], 1, "denied: policy.lists.read_only (403: ").await;
    check(&["bot", "GET", "/project/other/compute/servers"], 1, "denied: identity.bot.projects").await;
    check(&["bot", "GET", "/region/RegionTwo/compute/servers"], 1, "denied: identity.bot.regions").await;
    check(&["elsewhere", "GET", "/compute/servers"], 0, "project other").await;
    check(&["ada", "GET", "/image/v2/images"], 0, "(image of cloud lab").await;
    check(&["ada", "GET", "/image/v2/images", "--by", "images-not"], 1, "policy.closed.no-images").await;
    check(&["ada", "POST", "/identity/v3/auth/tokens"], 0, "keyway answers that itself").await;
    let refused = "denied: identity.ada.identity_api (403: ";
    check(&["ada", "POST", "/identity/v3/users/u/application_credentials"], 1, refused).await;
    check(&["ada", "GET", "/v3/credentials"], 1, refused).await;
    check(&["ada", "GET", "/identity/v3/users"], 0, "(identity of cloud lab").await;
    check(&["elsewhere", "POST", "/keystone/v3/credentials"], 0, "allowed: POST").await;
    check(&["bot", "GET", "/region/nowhere/compute/servers"], 1, "denied: identity.bot.regions").await;
    check(&["elsewhere", "GET", "/cloud/nowhere/compute/servers"], 1, "denied: identity.elsewhere.clouds")
        .await;
    check(&["elsewhere", "GET", "/identity/v3/projects/"], 1, "denied: identity.elsewhere.projects").await;
    check(&["late", "GET", "/compute/servers"], 1, "denied: identity_expired (401: ").await;
    check(&["ada", "GET", "/nonesuch/x"], 1, "denied: no_service (404: ").await;
    check(&["ada", "GET", "/cloud/prod/compute/servers"], 1, "denied: unknown_cloud (404: ").await;
    check(&["ada", "GET", "/compute/../x"], 1, "denied: bad_request (400: ").await;
    check(&["bob", "GET", "/compute/servers"], 1, "there is no identity `bob`").await;
    check(
        &["ada", "GET", "/compute", "--by", "x"],
        1,
        "there is no listener `x`, only main, images-not, nova",
    )
    .await;
    check(&["ada", "GET", "compute"], 1, "begins with no /").await;
    for service in ["compute", "image"] {
        assert_eq!(cloud.requests(service).len(), 0, "nothing is sent to {service}");
    }
    // No token, no answer: neither allowed nor denied.
    cloud.set_password("another");
    check(&["ada", "GET", "/compute/servers"], 1, "Keystone rejected").await;
}

// Promise 73.
#[tokio::test(flavor = "multi_thread")]
async fn an_identity_of_another_cloud_learns_nothing_of_this_one_s_catalog() {
    use keyway::identity::{self, Rights};
    use keyway::keystone::{self, Secret};

    use crate::support::TestKeyway;

    let (first, second) = (cloud().await, cloud().await);
    let named =
        |cloud: &Cloud, name: &str| keystone::Config { name: name.to_owned(), ..cloud.keystone_config() };
    let clouds = vec![named(&first, "lab"), named(&second, "prod")];
    let keyway = TestKeyway::cold(clouds, |config| {
        let rights = Rights { clouds: vec!["lab".to_owned()], ..Rights::default() };
        let password = Some(Secret::new("hunter2-of-ada"));
        config.identities =
            vec![identity::Config { name: "ada".to_owned(), password, rights, ..Default::default() }];
        config.listeners[0].logins = keyway::facade::Logins::Configured;
    });
    keyway.logged_in().await;
    let own = [("x-auth-token", "hunter2-of-ada")];
    for call in ["auth/catalog", "auth/projects"] {
        assert_eq!(keyway.get_with(&format!("/identity/v3/{call}"), &own).await.status, 200);
        let answer = keyway.get_with(&format!("/cloud/prod/identity/v3/{call}"), &own).await;
        assert!(answer.message(403, "denied").contains("`clouds` of identity `ada`"));
    }
    let user = serde_json::json!({"name": "ada", "domain": {"id": "default"}, "password": "hunter2-of-ada"});
    let auth =
        serde_json::json!({"auth": {"identity": {"methods": ["password"], "password": {"user": user}}}});
    let answer = keyway.post("/cloud/prod/identity/v3/auth/tokens", &auth).await;
    assert!(answer.message(403, "denied").contains("`clouds` of identity `ada`"));
    assert_eq!(keyway.post("/identity/v3/auth/tokens", &auth).await.status, 201);
}
