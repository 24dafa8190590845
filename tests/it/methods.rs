//! Ways to log in beside a user's password: what Keystone sees, what services see, and what comes of a 401.

use std::path::Path;
use std::time::{Duration, SystemTime};

use http::HeaderMap;
use keyway::demo::{self, Cloud, OTHER_PROJECT, OTHER_PROJECT_ID, PROJECT_ID, TOTP_SECRET, TRUST_ID};
use keyway::keystone::{
    self, Auth, Domain, Identity, Method, Passcode, Project, Scope, Secret, Source, User, totp,
};
use keyway::upstream::BaseUrl;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpListener;

use crate::support::direct::{Keyway, fixed_cloud};
use crate::support::raw::{Upstream, field, status};
use crate::support::{TestKeyway, cloud, eventually, statuses};

fn user() -> User {
    User::Id(demo::USER_ID.to_owned())
}

fn password() -> Method {
    Method::Password { user: user(), password: Secret::new(demo::PASSWORD).into() }
}

fn computed() -> Method {
    Method::Totp { user: user(), passcode: Passcode::Computed(Secret::new(TOTP_SECRET).into()) }
}

/// Passcodes that somebody writes into this file.
fn written(path: &Path) -> Method {
    Method::Totp { user: user(), passcode: Passcode::Given(Source::File(path.to_owned())) }
}

/// Writes a code that was not in this file before: Keystone takes the present one and the one before that.
async fn write_code(path: &Path) {
    let last = std::fs::read_to_string(path).unwrap_or_default();
    loop {
        let now = SystemTime::now();
        for (time, good_for) in [(now, 30), (now - Duration::from_secs(30), 0)] {
            let code = totp::code(&Secret::new(TOTP_SECRET), time).expect("a code");
            // One that would be over before Keystone sees it is no help.
            let left = totp::until_next(now) + Duration::from_secs(good_for);
            if code.expose() != last.trim_end() && left > Duration::from_secs(5) {
                std::fs::write(path, format!("{}\n", code.expose())).expect("a file");
                return;
            }
        }
        tokio::time::sleep(totp::until_next(now)).await;
    }
}

/// The cloud with another login.
fn config(cloud: &Cloud, change: impl FnOnce(&mut Identity)) -> keystone::Config {
    let mut config = cloud.keystone_config();
    match &mut config.auth {
        Auth::Identity(identity) => change(identity),
        other => panic!("{other:?}"),
    }
    config
}

async fn keyway(cloud: &Cloud, change: impl FnOnce(&mut Identity)) -> TestKeyway {
    let keyway = TestKeyway::cold(vec![config(cloud, change)], |_| {});
    keyway.logged_in().await;
    keyway
}

/// How many logins Keystone has seen that showed this method, by what stands in the token for them.
async fn methods(keyway: &TestKeyway) -> Vec<String> {
    let token = keyway.app().shared().tokens.current(&keystone::Key::of_cloud(0)).await.expect("a token");
    let document: Value = serde_json::from_slice(token.document.as_ref().expect("a document")).expect("JSON");
    let mut methods: Vec<_> = document["methods"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|method| method.as_str().expect("a name").to_owned())
        .collect();
    methods.sort();
    methods
}

fn all<'a>(headers: &'a HeaderMap, name: &str) -> Vec<&'a str> {
    headers.get_all(name).iter().map(|value| value.to_str().expect("text")).collect()
}

// Promise 63.
#[tokio::test(flavor = "multi_thread")]
async fn one_passcode_is_enough_for_every_project() {
    let cloud = cloud().await;
    let keyway = keyway(&cloud, |identity| identity.method = computed()).await;
    assert_eq!(keyway.get_at_once(50, "/compute/servers").await, [200; 50]);
    assert_eq!(methods(&keyway).await, ["token", "totp"]);
    assert_eq!(cloud.token_requests(), 2, "one with the code, and one with the token that stands for it");
    assert_eq!(keyway.get("/project/other/compute/servers").await.status, 200);
    assert_eq!(keyway.get("/project/demo/compute/servers").await.status, 200);
    assert_eq!(cloud.token_requests(), 3);
}

// Promise 64.
#[tokio::test(flavor = "multi_thread")]
async fn a_passcode_is_not_shown_twice_and_a_new_one_ends_the_wait() {
    let cloud = cloud().await;
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("passcode");
    write_code(&path).await;
    let keyway = keyway(&cloud, |identity| identity.method = written(&path)).await;
    assert_eq!(keyway.get("/compute/servers").await.status, 200);
    cloud.revoke_all();
    let before = cloud.token_requests();
    let message = keyway.get("/compute/servers").await.message(503, "no_secret");
    assert!(message.contains("passcode was used already"), "{message}");
    for _ in 0..20 {
        keyway.get("/compute/servers").await.message(503, "no_secret");
    }
    assert!(cloud.token_requests() <= before + 2, "a token that is over costs a question, and no login");
    write_code(&path).await;
    eventually("the next login", async || (keyway.get("/compute/servers").await.status == 200).then_some(()))
        .await;
}

// Promise 64.
#[tokio::test(flavor = "multi_thread")]
async fn a_computed_passcode_that_was_used_says_when_there_is_another() {
    let cloud = cloud().await;
    let keyway = keyway(&cloud, |identity| identity.method = computed()).await;
    cloud.revoke_all();
    let answer = keyway.get("/compute/servers").await;
    // The half minute may have ended just now.
    if answer.status != 200 {
        answer.message(503, "no_secret");
        let wait: u64 = answer.header("retry-after").parse().expect("seconds");
        assert!((1..=31).contains(&wait), "{wait}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_with_rules_gets_in_with_all_methods_at_once() {
    let cloud = cloud().await;
    cloud.set_auth_rules(&[&["password", "totp"]]);
    let both = || Method::MultiFactor { shown: vec![password(), computed()], spare: vec![] };
    let keyway = keyway(&cloud, |identity| identity.method = both()).await;
    assert_eq!(keyway.get("/compute/servers").await.status, 200);
    assert_eq!(methods(&keyway).await, ["password", "token", "totp"]);
    assert_eq!(cloud.token_requests(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_receipt_is_answered_with_the_missing_method() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("passcode");
    for (first, then) in [(password(), written(&path)), (written(&path), password())] {
        let cloud = cloud().await;
        cloud.set_auth_rules(&[&["password", "x509"], &["totp", "password"]]);
        write_code(&path).await;
        let method = || Method::MultiFactor { shown: vec![first], spare: vec![then] };
        let keyway = keyway(&cloud, |identity| identity.method = method()).await;
        assert_eq!(keyway.get("/compute/servers").await.status, 200);
        assert_eq!(methods(&keyway).await, ["password", "token", "totp"]);
        assert_eq!(cloud.token_requests(), 3);
        let seen = cloud.requests("identity");
        let receipts: Vec<_> =
            seen.iter().map(|seen| all(&seen.headers, "openstack-auth-receipt").len()).collect();
        assert_eq!(receipts.iter().sum::<usize>(), 1, "{receipts:?}");

        // A renewal begins anew.
        cloud.revoke_all();
        write_code(&path).await;
        assert_eq!(keyway.get("/compute/servers").await.status, 200);
        assert_eq!(methods(&keyway).await, ["password", "token", "totp"]);
    }
}

// Promises 64, 76.
#[tokio::test(flavor = "multi_thread")]
async fn a_method_that_is_missing_is_named_and_keystone_left_alone() {
    let cloud = cloud().await;
    cloud.set_auth_rules(&[&["password", "totp"]]);
    let keyway = TestKeyway::cold(vec![config(&cloud, |identity| identity.method = password())], |_| {});
    let message = keyway.get("/compute/servers").await.message(502, "credentials_rejected");
    assert!(message.contains("wants more than keyway's credentials"), "{message}");
    for _ in 0..20 {
        keyway.get("/compute/servers").await.message(502, "credentials_rejected");
    }
    assert!(cloud.token_requests() <= 3);
    let error = keyway.status().await["clouds"][0]["error"].to_string();
    assert!(error.contains("accepted password and wants totp"), "{error}");
    assert!(!error.contains(demo::PASSWORD), "{error}");
    // The user's rules change, and nobody restarts anything.
    cloud.set_auth_rules(&[]);
    eventually("the login", async || (keyway.get("/compute/servers").await.status == 200).then_some(()))
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trust_leads_into_its_project_and_is_renewed() {
    let cloud = cloud().await;
    let trust = || Scope::Trust(TRUST_ID.to_owned());
    let keyway = keyway(&cloud, |identity| identity.scope = trust()).await;
    assert_eq!(keyway.get("/compute/servers").await.status, 200);
    let own = keyway.status().await["clouds"][0]["project"].clone();
    assert_eq!(own, OTHER_PROJECT);
    assert_eq!(keyway.get("/project/other/compute/servers").await.status, 200);
    assert_eq!(cloud.token_requests(), 1, "the trust's project is its own");
    cloud.revoke_all();
    assert_eq!(keyway.get("/compute/servers").await.status, 200);
    assert_eq!(cloud.token_requests(), 2);
    // Another project is the user's own matter.
    assert_eq!(keyway.get("/project/demo/compute/servers").await.status, 200);

    let login = |trust: &str| {
        json!({"auth": {"identity": {"methods": ["password"], "password": {"user": {"name": "x",
            "domain": {"id": "default"}, "password": "y"}}}, "scope": {"OS-TRUST:trust": {"id": trust}}}})
    };
    let path = "/identity/v3/auth/tokens";
    let issued = keyway.post(path, &login(TRUST_ID)).await;
    assert_eq!((issued.status, &issued.json()["token"]["project"]["id"]), (201, &json!(OTHER_PROJECT_ID)));
    assert_eq!(keyway.post(path, &login("another")).await.status, 401);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_passcode_opens_a_trust_too() {
    let cloud = cloud().await;
    let keyway = keyway(&cloud, |identity| {
        identity.method = computed();
        identity.scope = Scope::Trust(TRUST_ID.to_owned());
    })
    .await;
    assert_eq!(keyway.get("/compute/servers").await.status, 200);
    assert_eq!(keyway.status().await["clouds"][0]["project"], OTHER_PROJECT);
}

fn oauth2(cloud: &Cloud, secret: &str) -> Method {
    Method::OAuth2 {
        endpoint: BaseUrl::parse(&format!("{}/OS-OAUTH2/token", cloud.auth_url())).expect("a URL"),
        client_id: demo::APPLICATION_CREDENTIAL_ID.to_owned(),
        client_secret: Secret::new(secret).into(),
    }
}

// Promises 20, 22.
#[tokio::test(flavor = "multi_thread")]
async fn an_oauth2_client_shows_a_token_and_an_access_token_and_both_are_renewed() {
    let cloud = cloud().await;
    let keyway = keyway(&cloud, |identity| {
        identity.method = oauth2(&cloud, demo::APPLICATION_CREDENTIAL_SECRET);
        identity.scope = Scope::Default;
    })
    .await;
    let mine = [("authorization", "Bearer mine"), ("x-auth-token", ""), ("Authorization", "Basic bWluZTo=")];
    assert_eq!(keyway.get_with("/compute/servers", &mine[..1]).await.status, 200);
    assert_eq!(keyway.get_with("/compute/servers", &mine[2..]).await.status, 200);
    let seen = cloud.requests("compute");
    for request in &seen {
        let (tokens, bearers) =
            (all(&request.headers, "x-auth-token"), all(&request.headers, "authorization"));
        assert_eq!((tokens.len(), bearers.len()), (1, 1), "{tokens:?} {bearers:?}");
        let access = bearers[0].strip_prefix("Bearer ").expect("an access token");
        assert!(access != tokens[0] && cloud.accepts(access) && cloud.accepts(tokens[0]));
    }
    keyway.get("/project/other/compute/servers").await.message(403, "scope_fixed");
    cloud.revoke_all();
    assert_eq!(keyway.get("/compute/servers").await.status, 200);
    let last = cloud.requests("compute").pop().expect("a request");
    let access = all(&last.headers, "authorization")[0].strip_prefix("Bearer ").expect("one").to_owned();
    assert!(cloud.accepts(&access), "the new one");
    assert_eq!(statuses(&cloud, "compute").iter().filter(|status| **status == 401).count(), 1);
}

// Promises 64, 76.
#[tokio::test(flavor = "multi_thread")]
async fn an_oauth2_client_with_a_wrong_secret_is_rejected_once() {
    let cloud = cloud().await;
    let config = config(&cloud, |identity| {
        identity.method = oauth2(&cloud, "hunter2");
        identity.scope = Scope::Default;
    });
    let keyway = TestKeyway::cold(vec![config], |_| {});
    for _ in 0..10 {
        let answer = keyway.get("/compute/servers").await;
        assert_eq!(answer.header("x-keyway-error"), "credentials_rejected", "{answer:?}");
        assert!(!answer.text().contains("hunter2"));
    }
    assert_eq!(cloud.token_requests(), 1);
}

/// A consumer's secret that stands in this file, and the access token's.
fn oauth1(path: &Path, access_secret: &str) -> Method {
    Method::OAuth1 {
        consumer_key: demo::CONSUMER_KEY.to_owned(),
        consumer_secret: Source::File(path.to_owned()),
        access_key: demo::ACCESS_KEY.to_owned(),
        access_secret: Secret::new(access_secret).into(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_consumer_signs_its_login_and_gets_into_the_project_of_its_access_token() {
    let cloud = cloud().await;
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("secret");
    std::fs::write(&path, format!("{}\n", demo::CONSUMER_SECRET)).expect("a file");
    let keyway = keyway(&cloud, |identity| {
        identity.method = oauth1(&path, demo::ACCESS_SECRET);
        identity.scope = Scope::Default;
    })
    .await;
    assert_eq!(keyway.get_at_once(50, "/compute/servers").await, [200; 50]);
    assert_eq!(methods(&keyway).await, ["oauth1"]);
    assert_eq!(keyway.status().await["clouds"][0]["project"], OTHER_PROJECT);
    assert_eq!(cloud.token_requests(), 1);
    // Nobody but Keystone sees the signature, and nobody the secrets.
    assert!(cloud.requests("compute").iter().all(|seen| all(&seen.headers, "authorization").is_empty()));
    let login = cloud.requests("identity").pop().expect("a login");
    let shown = format!("{:?}", login.headers);
    assert!(shown.contains("oauth_signature=") && !shown.contains("secret"), "{shown}");
    keyway.get("/project/demo/compute/servers").await.message(403, "scope_fixed");

    // Another token takes another signature.
    cloud.revoke_all();
    assert_eq!(keyway.get("/compute/servers").await.status, 200);
    assert_eq!(cloud.token_requests(), 2);
}

// Promises 64, 76.
#[tokio::test(flavor = "multi_thread")]
async fn a_consumer_with_a_wrong_secret_is_rejected_until_it_has_another() {
    let cloud = cloud().await;
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("secret");
    std::fs::write(&path, "hunter2").expect("a file");
    let config = config(&cloud, |identity| {
        identity.method = oauth1(&path, demo::ACCESS_SECRET);
        identity.scope = Scope::Default;
    });
    let keyway = TestKeyway::cold(vec![config], |_| {});
    for _ in 0..10 {
        let answer = keyway.get("/compute/servers").await;
        assert_eq!(answer.header("x-keyway-error"), "credentials_rejected", "{answer:?}");
        assert!(!answer.text().contains("hunter2"));
    }
    assert_eq!(cloud.token_requests(), 1);
    std::fs::write(&path, demo::CONSUMER_SECRET).expect("a file");
    eventually("the login", async || (keyway.get("/compute/servers").await.status == 200).then_some(()))
        .await;
    assert_eq!(cloud.token_requests(), 2);
}

// Promises 64, 76.
#[tokio::test(flavor = "multi_thread")]
async fn an_access_token_that_is_gone_is_asked_for_once() {
    let cloud = cloud().await;
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("secret");
    std::fs::write(&path, demo::CONSUMER_SECRET).expect("a file");
    let keyway = keyway(&cloud, |identity| {
        identity.method = oauth1(&path, demo::ACCESS_SECRET);
        identity.scope = Scope::Default;
    })
    .await;
    cloud.delete_access_token();
    keyway.get("/compute/servers").await;
    for _ in 0..10 {
        let answer = keyway.get("/compute/servers").await;
        assert_eq!(answer.header("x-keyway-error"), "credentials_rejected", "{answer:?}");
    }
    assert_eq!(cloud.token_requests(), 2);
    let error = keyway.status().await["clouds"][0]["error"].to_string();
    assert!(error.contains("Could not find Access Token") && !error.contains(demo::ACCESS_SECRET), "{error}");
}

/// keyway before a service that has no Keystone.
async fn without_keystone(auth: impl FnOnce(BaseUrl) -> Auth) -> (Upstream, Keyway) {
    let service = Upstream::start().await;
    let endpoint = BaseUrl::parse(&service.url()).expect("a URL");
    let mut cloud = fixed_cloud(&service.url());
    cloud.auth = auth(endpoint);
    (service, Keyway::start(cloud))
}

/// What reached the service of a request that says everything that clients must not say, and what came back.
async fn exchange(service: &Upstream, keyway: &Keyway, path: &str, answer: &str) -> (String, String) {
    let mut client = keyway.connect().await;
    let request = format!(
        "GET {path} HTTP/1.1\r\nHost: localhost\r\nX-Auth-Token: mine\r\nAuthorization: Basic bWluZTptaW5l\r\n\
         X-Project-Id: mine\r\nX-Project-Domain-Name: mine\r\nX_Domain_Id: mine\r\nX-Domain-Name: mine\r\n\
         Openstack-Auth-Receipt: mine\r\nX-Kept: kept\r\n\r\n"
    );
    client.send(request).await;
    let (_service, head) = service.answer(answer).await;
    let (answer, _) = client.response().await;
    assert!(!head.contains("mine") && !head.contains("bWlu") && head.contains("x-kept: kept"), "{head}");
    (head.to_ascii_lowercase(), answer)
}

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
const NO: &str =
    "HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: Basic realm=\"x\"\r\nContent-Length: 0\r\n\r\n";

// Promises 20, 21, 22, 23.
#[tokio::test(flavor = "multi_thread")]
async fn without_a_login_a_request_carries_nothing_and_a_401_is_passed_on() {
    let (service, keyway) = without_keystone(|endpoint| Auth::None { endpoint: Some(endpoint) }).await;
    let (head, answer) = exchange(&service, &keyway, "/svc/a", OK).await;
    assert_eq!(status(&answer), 200);
    for name in ["x-auth-token", "authorization", "x-project-id"] {
        assert_eq!(field(&head, name), None, "{head}");
    }
    let (_, answer) = exchange(&service, &keyway, "/svc/a", NO).await;
    assert_eq!((status(&answer), field(&answer, "x-keyway-retry")), (401, None));
    assert_eq!(field(&answer, "www-authenticate"), Some("Basic realm=\"x\""));
    assert!(!service.has_connection().await, "there is nothing to try it with again");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_login_overrides_lead_to_their_services_alone() {
    let service = Upstream::start().await;
    let mut cloud = fixed_cloud(&service.url());
    cloud.auth = Auth::None { endpoint: None };
    cloud.endpoint_overrides.insert("baremetal".to_owned(), BaseUrl::parse(&service.url()).expect("a URL"));
    let keyway = Keyway::start(cloud);
    let (head, answer) = exchange(&service, &keyway, "/baremetal/nodes", OK).await;
    assert!(head.starts_with("get /v1/nodes http/1.1"), "{head}");
    assert_eq!(status(&answer), 200);
    let mut client = keyway.connect().await;
    client.send("GET /compute/servers HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
    let (answer, _) = client.response().await;
    assert!(matches!(status(&answer), 404 | 502), "{answer}");
    assert!(field(&answer, "x-keyway-error").is_some(), "{answer}");
}

// Promises 20, 22, 46, 64.
#[tokio::test(flavor = "multi_thread")]
async fn basic_authentication_is_keyways_own_and_does_not_come_back() {
    let password = Secret::new("hunter2").into();
    let (service, keyway) = without_keystone(|endpoint| Auth::Basic {
        endpoint: Some(endpoint),
        username: "ada".to_owned(),
        password,
    })
    .await;
    let echo = "HTTP/1.1 200 OK\r\nX-Echo: Basic YWRhOmh1bnRlcjI=\r\nX-Also: YWRhOmh1bnRlcjI\r\nX-Kept: YWRh\r\n\
                Content-Length: 0\r\n\r\n";
    let (head, answer) = exchange(&service, &keyway, "/svc/a", echo).await;
    assert!(head.contains("\r\nauthorization: basic ywrhomh1bnrlcji=\r\n"), "{head}");
    assert_eq!((head.matches("authorization:").count(), field(&head, "x-auth-token")), (1, None));
    assert_eq!((field(&answer, "x-echo"), field(&answer, "x-also")), (None, None), "{answer}");
    assert_eq!(field(&answer, "x-kept"), Some("YWRh"));
    let (_, answer) = exchange(&service, &keyway, "/svc/a", NO).await;
    assert_eq!((status(&answer), field(&answer, "x-keyway-retry")), (401, Some("no_token")));
}

/// Answers 200 to requests with this line, and 401 to all others.
async fn picky(line: &'static str) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let url = format!("http://{}/v1", listener.local_addr().expect("it is bound"));
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut stream = BufReader::new(stream);
                let (mut text, mut good) = (String::new(), false);
                while stream.read_line(&mut text).await.is_ok_and(|read| read > 0) {
                    good |= text.trim_end() == line;
                    if text == "\r\n" {
                        let answer = if std::mem::take(&mut good) { OK } else { NO };
                        stream.write_all(answer.as_bytes()).await.expect("keyway reads");
                    }
                    text.clear();
                }
            });
        }
    });
    url
}

// Promise 51.
#[tokio::test(flavor = "multi_thread")]
async fn a_password_for_basic_authentication_is_read_again_when_it_was_refused() {
    let url = picky("authorization: Basic YWRhOnR3bw==").await;
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("password");
    std::fs::write(&path, "one\n").expect("a file");
    let mut cloud = fixed_cloud(&url);
    let endpoint = Some(BaseUrl::parse(&url).expect("a URL"));
    cloud.auth = Auth::Basic { endpoint, username: "ada".to_owned(), password: Source::File(path.clone()) };
    let keyway = TestKeyway::cold(vec![cloud], |_| {});
    let refused = keyway.get("/svc/a").await;
    assert_eq!((refused.status, refused.header("x-keyway-retry")), (401, "no_token"));
    std::fs::write(&path, "two\n").expect("a file");
    eventually("the new password", async || (keyway.get("/svc/a").await.status == 200).then_some(())).await;
    assert_eq!(keyway.get("/svc/a").await.status, 200);
}

// Promises 20, 21, 23.
#[tokio::test(flavor = "multi_thread")]
async fn a_tokenless_request_says_what_it_is_for_and_carries_no_token() {
    let (service, keyway) = without_keystone(|endpoint| Auth::Tokenless {
        auth_url: endpoint.with_path("/v3"),
        scope: Scope::Project(Project::Name {
            name: "demo".to_owned(),
            domain: Some(Domain::Id("d1".to_owned())),
        }),
    })
    .await;
    let (head, answer) = exchange(&service, &keyway, "/identity/v3/users", OK).await;
    assert!(head.starts_with("get /v3/users http/1.1"), "{head}");
    assert_eq!(
        (field(&head, "x-project-name"), field(&head, "x-project-domain-id")),
        (Some("demo"), Some("d1"))
    );
    for name in ["x-auth-token", "authorization", "x-project-id", "x-domain-id", "x-domain-name"] {
        assert_eq!(field(&head, name), None, "{head}");
    }
    assert_eq!(status(&answer), 200);
    let (_, answer) = exchange(&service, &keyway, "/identity/v3/users", NO).await;
    assert_eq!((status(&answer), field(&answer, "x-keyway-retry")), (401, None));
    // Keystone alone is there.
    let mut client = keyway.connect().await;
    client.send("GET /compute/servers HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
    let (answer, _) = client.response().await;
    assert_eq!((status(&answer), field(&answer, "x-keyway-error").is_some()), (404, true), "{answer}");
}

// Promise 46.
#[tokio::test(flavor = "multi_thread")]
async fn a_receipt_of_a_service_stays_behind() {
    let (service, keyway) = without_keystone(|endpoint| Auth::None { endpoint: Some(endpoint) }).await;
    let answer =
        "HTTP/1.1 401 Unauthorized\r\nOpenstack-Auth-Receipt: r1\r\nX-Kept: 1\r\nContent-Length: 0\r\n\r\n";
    let (_, answer) = exchange(&service, &keyway, "/svc/a", answer).await;
    assert_eq!((field(&answer, "openstack-auth-receipt"), field(&answer, "x-kept")), (None, Some("1")));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_expired_token_of_every_scope_is_followed_by_another() {
    for (scope, path) in [
        (Scope::Project(Project::Id(PROJECT_ID.to_owned())), "/image/v2/images"),
        (Scope::Trust(TRUST_ID.to_owned()), "/image/v2/images"),
        (Scope::Domain(Domain::Id(demo::DOMAIN_ID.to_owned())), "/identity/v3/domains"),
        (Scope::System, "/identity/v3/domains"),
    ] {
        let cloud = cloud().await;
        cloud.set_token_ttl(Duration::from_secs(2));
        let keyway = keyway(&cloud, |identity| identity.scope = scope).await;
        eventually("the third token", async || {
            assert_eq!(keyway.get(path).await.status, 200);
            (cloud.tokens_issued() >= 3).then_some(())
        })
        .await;
    }
}
