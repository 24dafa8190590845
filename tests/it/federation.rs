//! Logins by way of an identity provider.

use keyway::config::Config;
use keyway::demo::{OTHER_PROJECT, OTHER_PROJECT_ID};
use serde_json::json;
use std::path::Path;
use std::time::Duration;

use crate::support::federation::{
    CLIENT, CLIENT_SECRET, Federation, IDENTITY_PROVIDER, Instead, OFFLINE, PASSWORD, PROTOCOL, SCOPE, USER,
    USER_CODE,
};
use crate::support::variables::{Variables, clouds, cold, logged_in, said, set};
use crate::support::{Answer, Connection, Process, TestKeyway, bounded, eventually};

const TOKEN: &str = "/token/?tenant=1";
const DISCOVERY: &str = "/.well-known/openid-configuration";

/// The options of a client with a secret that finds the provider by its discovery document.
fn by_client(federation: &Federation, auth_type: &str) -> Variables {
    let mut variables = federation.variables(auth_type);
    variables.push(("OS_CLIENT_ID", CLIENT.to_owned()));
    variables.push(("OS_CLIENT_SECRET", CLIENT_SECRET.to_owned()));
    variables.push(("OS_DISCOVERY_ENDPOINT", federation.provider(DISCOVERY)));
    variables
}

fn by_password(federation: &Federation) -> Variables {
    let mut variables = by_client(federation, "v3oidcpassword");
    variables.push(("OS_USERNAME", USER.to_owned()));
    variables.push(("OS_PASSWORD", PASSWORD.to_owned()));
    variables
}

fn answer(status: u16, body: impl ToString) -> Instead {
    Instead::Answer(status, &[("content-type", "application/json")], body.to_string())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_password_at_an_identity_provider_opens_every_project_for_one_login() {
    let federation = Federation::start().await;
    let keyway = logged_in(&by_password(&federation)).await;
    assert_eq!(keyway.get("/compute/servers").await.status, 200);
    for project in [OTHER_PROJECT, OTHER_PROJECT_ID] {
        assert_eq!(keyway.get(&format!("/project/{project}/compute/servers")).await.status, 200);
    }
    let asked = federation.asked();
    assert_eq!(asked.iter().map(|asked| asked.path.as_str()).collect::<Vec<_>>(), [DISCOVERY, TOKEN]);
    let fields: Vec<_> = asked[1].form.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    // As keystoneauth sends it.
    let expected = [("grant_type", "password"), ("password", PASSWORD), ("scope", SCOPE), ("username", USER)];
    assert_eq!(fields, expected);
    assert_eq!(federation.unscoped().len(), 1, "the unscoped token serves both projects");
    assert_ne!(keyway.token().await, federation.unscoped()[0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_can_be_the_user_and_a_public_one_shows_its_id_alone() {
    let federation = Federation::start().await;
    let keyway = logged_in(&by_client(&federation, "v3oidcclientcredentials")).await;
    assert_eq!(keyway.get("/compute/servers").await.status, 200);
    let asked = federation.asked_at(TOKEN);
    let names: Vec<_> = asked[0].form.keys().map(String::as_str).collect();
    assert_eq!(names, ["grant_type", "scope"]);
    assert!(asked[0].authorization.starts_with("Basic "));

    let federation = Federation::start().await;
    federation.set_public();
    let mut variables = by_password(&federation);
    variables.retain(|(name, _)| *name != "OS_CLIENT_SECRET");
    let keyway = logged_in(&variables).await;
    assert_eq!(keyway.get("/compute/servers").await.status, 200);
    let asked = federation.asked_at(TOKEN);
    assert_eq!((asked[0].form["client_id"].as_str(), asked[0].authorization.as_str()), (CLIENT, ""));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_token_endpoint_of_the_configuration_needs_no_discovery_document() {
    let federation = Federation::start().await;
    let mut variables = by_password(&federation);
    set(&mut variables, "OS_ACCESS_TOKEN_ENDPOINT", federation.provider(TOKEN));
    set(&mut variables, "OS_ACCESS_TOKEN_TYPE", "id_token");
    let keyway = logged_in(&variables).await;
    assert_eq!(keyway.get("/compute/servers").await.status, 200);
    assert_eq!(federation.asked().len(), 1);
    assert_eq!(federation.asked_at(TOKEN).len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_access_token_of_a_file_is_read_for_each_login() {
    let federation = Federation::start().await;
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("access");
    std::fs::write(&path, "canaryWrongAccessToken\n").expect("a file");
    let mut variables = federation.variables("v3oidcaccesstoken");
    variables.push(("OS_ACCESS_TOKEN_FILE", path.display().to_string()));
    let keyway = cold(&variables);
    let message = keyway.get("/compute/servers").await.message(502, "credentials_rejected");
    assert!(message.contains("did not accept what keyway's identity provider gave"), "{message}");
    assert_eq!(federation.asked().len(), 0, "the provider has nothing to do with it");

    std::fs::write(&path, format!("{}\n", federation.provider_token())).expect("a file");
    let served = async || (keyway.get("/compute/servers").await.status == 200).then_some(());
    eventually("the next login", served).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_one_time_passcode_is_shown_to_the_provider_once() {
    let federation = Federation::start().await;
    let mut variables = by_password(&federation);
    set(&mut variables, "OS_IDP_OTP_KEY", "totp");
    set(&mut variables, "OS_PASSCODE", "123456");
    federation.next(answer(200, "{}"));
    federation.next(answer(401, json!({"error": "invalid_grant"})));
    set(&mut variables, "OS_ACCESS_TOKEN_ENDPOINT", federation.provider(TOKEN));
    let keyway = logged_in_or_not(&variables).await;
    let again = async || {
        let answer = keyway.get("/compute/servers").await;
        (answer.header("x-keyway-error") == "no_secret").then(|| answer.message(503, "no_secret"))
    };
    let message = eventually("the second attempt", again).await;
    assert!(message.contains("one-time passcode was used already"), "{message}");
    let asked = federation.asked_at(TOKEN);
    assert_eq!(asked.len(), 1, "a wrong code is not right the second time");
    assert_eq!(asked[0].form["totp"], "123456");
}

/// keyway whose first login may fail.
async fn logged_in_or_not(variables: &Variables) -> TestKeyway {
    let keyway = cold(variables);
    keyway.get("/compute/servers").await;
    keyway
}

#[tokio::test(flavor = "multi_thread")]
async fn the_whole_login_is_done_again_when_the_unscoped_token_ends_or_is_revoked() {
    let federation = Federation::start().await;
    let keyway = logged_in(&by_password(&federation)).await;
    federation.cloud.revoke_all();
    assert_eq!(keyway.get("/compute/servers").await.status, 200);
    assert_eq!(federation.asked_at(TOKEN).len(), 2, "the revoked one was noticed, once");
    assert_eq!(federation.unscoped().len(), 2);

    let federation = Federation::start().await;
    federation.cloud.set_token_ttl(Duration::from_secs(4));
    let keyway = logged_in(&by_password(&federation)).await;
    let renewed = async || (federation.asked_at(TOKEN).len() > 1).then_some(());
    eventually("another login at the provider", renewed).await;
    assert_eq!(keyway.get("/compute/servers").await.status, 200);
}

/// Checks what a client and the log hear of a provider that does this with every request.
async fn check_refused(instead: Instead, status: u16, reason: &str, logged: &str) {
    let federation = Federation::start().await;
    let mut variables = by_password(&federation);
    set(&mut variables, "OS_ACCESS_TOKEN_ENDPOINT", federation.provider(TOKEN));
    federation.always(Some(instead.clone()));
    let keyway = cold(&variables);
    let message = keyway.get("/compute/servers").await.message(status, reason);
    assert!(message.contains("identity provider"), "{message}");
    let error = keyway.status().await["clouds"][0]["error"].as_str().unwrap_or_default().to_owned();
    assert!(error.contains(logged), "{instead:?}: {error}");
    for secret in [PASSWORD, CLIENT_SECRET] {
        assert!(!error.contains(secret), "{error}");
    }
}

// Promises 66, 76.
#[tokio::test(flavor = "multi_thread")]
async fn whatever_a_provider_says_that_is_no_token_is_told_with_what_to_do() {
    let bad = "identity_provider_bad_reply";
    let unavailable = "identity_provider_unavailable";
    let error = |status, code: &str| {
        answer(status, json!({"error": code, "error_description": format!("{PASSWORD}?")}))
    };
    check_refused(error(401, "invalid_grant"), 502, "credentials_rejected", "invalid_grant; check the user")
        .await;
    check_refused(
        error(401, "invalid_client"),
        502,
        "credentials_rejected",
        "check client_id and client_secret",
    )
    .await;
    check_refused(error(400, "unauthorized_client"), 502, "credentials_rejected", "does not let this client")
        .await;
    check_refused(error(400, "invalid_scope"), 502, "credentials_rejected", "check openid_scope").await;
    check_refused(answer(200, "<html>"), 502, bad, "not JSON").await;
    check_refused(answer(200, "{}"), 502, bad, "no usable `access_token`").await;
    check_refused(answer(404, ""), 502, bad, "404").await;
    check_refused(answer(503, ""), 503, unavailable, "answered 503").await;
    check_refused(answer(429, ""), 503, unavailable, "answered 429").await;
    check_refused(answer(400, json!({"error": "temporarily_unavailable"})), 503, unavailable, "answered 400")
        .await;
    let redirect = Instead::Answer(307, &[("location", "https://elsewhere.example/token")], String::new());
    check_refused(redirect, 502, bad, "a redirect to host elsewhere.example, which keyway does not follow")
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_password_is_shown_so_rarely_that_the_provider_locks_no_account() {
    let federation = Federation::start().await;
    let mut variables = by_password(&federation);
    set(&mut variables, "OS_PASSWORD", "another");
    let short = |config: &mut Config| {
        config.protection.pause = (Duration::from_millis(1), Duration::from_millis(1));
    };
    let keyway = TestKeyway::cold(clouds(&variables), short);
    let stopped = async || {
        keyway.get("/compute/servers").await.message(502, "credentials_rejected");
        let status = keyway.status().await.to_string();
        status.contains("2 logins in a row were rejected").then_some(())
    };
    eventually("the last attempt", stopped).await;
    for _ in 0..20 {
        keyway.get("/compute/servers").await.message(502, "credentials_rejected");
    }
    assert_eq!(federation.asked_at(TOKEN).len(), 2);
}

// Promise 66.
#[tokio::test(flavor = "multi_thread")]
async fn a_provider_that_is_silent_or_down_is_named_and_asked_again() {
    let federation = Federation::start().await;
    let variables = by_password(&federation);
    let short = |config: &mut Config| config.timeouts.keystone = Duration::from_secs(3);
    federation.next(Instead::Silence);
    let keyway = TestKeyway::cold(clouds(&variables), short);
    keyway.get("/compute/servers").await.message(504, "identity_provider_unavailable");
    let served = async || (keyway.get("/compute/servers").await.status == 200).then_some(());
    eventually("the next login", served).await;

    let mut variables = by_password(&federation);
    // Nothing listens there.
    set(&mut variables, "OS_DISCOVERY_ENDPOINT", "http://127.0.0.1:1/.well-known/openid-configuration");
    let keyway = cold(&variables);
    keyway.get("/compute/servers").await.message(503, "identity_provider_unavailable");
    let error = keyway.status().await["clouds"][0]["error"].to_string();
    assert!(error.contains("is `discovery_endpoint` right"), "{error}");
}

// Promise 17.
#[tokio::test(flavor = "multi_thread")]
async fn a_secret_goes_nowhere_but_where_the_configuration_and_its_document_lead() {
    let federation = Federation::start().await;
    for elsewhere in
        ["http://elsewhere.example/token", "https://u:p@127.0.0.1/token", "ftp://127.0.0.1/t", "/token/"]
    {
        federation.set_in_document("token_endpoint", elsewhere.into());
        let keyway = cold(&by_password(&federation));
        keyway.get("/compute/servers").await.message(502, "identity_provider_bad_reply");
    }
    federation.set_in_document("token_endpoint", federation.provider(TOKEN).into());
    federation.set_in_document("grant_types_supported", json!(["authorization_code"]));
    let keyway = cold(&by_password(&federation));
    keyway.get("/compute/servers").await.message(502, "identity_provider_bad_reply");
    let asked = federation.asked();
    assert!(asked.iter().all(|asked| asked.path == DISCOVERY && asked.authorization.is_empty()), "{asked:?}");
    assert!(asked.len() >= 5);
}

#[tokio::test(flavor = "multi_thread")]
async fn keystones_no_to_the_providers_token_is_told_and_is_no_word_about_the_scope() {
    let federation = Federation::start().await;
    federation.set_refuses(true);
    let keyway = cold(&by_client(&federation, "v3oidcclientcredentials"));
    let message = keyway.get("/compute/servers").await.message(502, "credentials_rejected");
    assert!(message.contains("Keystone did not accept"), "{message}");
    let status = keyway.status().await.to_string();
    for token in federation.provider_tokens() {
        assert!(!status.contains(&token), "{status}");
    }
    federation.set_refuses(false);
    let served = async || (keyway.get("/compute/servers").await.status == 200).then_some(());
    eventually("the next login", served).await;

    let mut variables = by_client(&federation, "v3oidcclientcredentials");
    set(&mut variables, "OS_PROTOCOL", "saml2");
    let keyway = cold(&variables);
    keyway.get("/compute/servers").await.message(502, "keystone_bad_reply");
    let error = keyway.status().await["clouds"][0]["error"].to_string();
    assert!(error.contains("no such identity_provider and protocol"), "{error}");
}

// Promises 74, 75, 79.
#[tokio::test(flavor = "multi_thread")]
async fn no_secret_of_a_federated_login_is_in_the_log_at_any_level_nor_in_metrics() {
    let federation = Federation::start().await;
    let text = said(&by_password(&federation)).await;
    let tokens = federation.provider_tokens().into_iter().chain(federation.unscoped());
    for secret in tokens.chain([PASSWORD.to_owned(), CLIENT_SECRET.to_owned()]) {
        assert!(!keyway::secret::is_echoed(&text, &secret), "a secret that begins with {}", &secret[..12]);
    }
}

/// The options of a login that a person agrees to.
fn by_device(federation: &Federation) -> Variables {
    let mut variables = by_client(federation, "v3oidcdeviceauthz");
    variables.push(("OS_CODE_CHALLENGE_METHOD", "S256".to_owned()));
    variables
}

/// Starts `keyway login`, and waits until it says where to go.
async fn begin_login(home: &Path, variables: &Variables) -> Process {
    let process = Process::start(home, &["login"], variables);
    process.stdout_line("where to log in", |line| line.contains(USER_CODE).then_some(())).await;
    process
}

/// Goes through `keyway login`.
async fn log_in(federation: &Federation, home: &Path, variables: &Variables) {
    let process = begin_login(home, variables).await;
    federation.decide(USER_CODE, true);
    let (code, stdout, stderr) = process.outcome().await;
    assert_eq!(code, 0, "{stdout} {stderr}");
    assert!(stdout.contains("cloud envvars: logged in as demo until 20"), "{stdout}");
    assert!(stdout.contains("a running keyway finds it"), "{stdout}");
}

async fn run(home: &Path, command: &str, variables: &Variables) -> (i32, String, String) {
    Process::start(home, &[command], variables).outcome().await
}

/// keyway in this process, with this home.
fn at_home(home: &Path, variables: &Variables) -> TestKeyway {
    let mut variables = variables.clone();
    variables.push(("HOME", home.display().to_string()));
    cold(&variables)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_person_logs_in_once_with_a_code_and_every_keyway_has_tokens_from_then_on() {
    let federation = Federation::start().await;
    let home = tempfile::tempdir().expect("a directory");
    let variables = by_device(&federation);
    let (code, stdout, _) = run(home.path(), "status", &variables).await;
    assert_eq!(
        (code, stdout.as_str()),
        (1, "cloud envvars: nobody is logged in; run keyway login --cloud envvars")
    );

    log_in(&federation, home.path(), &variables).await;
    let asked = federation.asked_at("/device");
    let names: Vec<_> = asked[0].form.keys().map(String::as_str).collect();
    assert_eq!(names, ["client_id", "code_challenge", "code_challenge_method", "scope"]);
    assert_eq!(asked[0].form["code_challenge_method"], "S256");
    let asked = federation.asked_at(TOKEN);
    let names: Vec<_> = asked[0].form.keys().map(String::as_str).collect();
    assert_eq!(names, ["client_id", "code_verifier", "device_code", "grant_type"]);

    let (code, stdout, _) = run(home.path(), "status", &variables).await;
    assert_eq!(code, 0);
    assert!(stdout.starts_with("cloud envvars: logged in as demo until 20"), "{stdout}");
    let unscoped = federation.unscoped();
    let (code, token, stderr) = run(home.path(), "token", &variables).await;
    assert_eq!(code, 0, "{stderr}");
    assert!(federation.cloud.accepts(token.trim()) && token.trim() != unscoped[0]);

    let (code, _, stderr) =
        Process::start(home.path(), &["run", "--", "/bin/true"], &variables).outcome().await;
    assert_eq!(code, 0, "{stderr}");

    let keyway = at_home(home.path(), &variables);
    assert_eq!(keyway.get("/compute/servers").await.status, 200);
    assert_eq!(keyway.get(&format!("/project/{OTHER_PROJECT}/compute/servers")).await.status, 200);
    let login = keyway.status().await["clouds"][0]["login"].clone();
    assert_eq!((&login["required"], &login["user"]), (&false.into(), &"demo".into()), "{login}");
    assert!(login["seconds_left"].as_u64().is_some_and(|left| left > 100), "{login}");
    let ends = keyway.metric(r#"keyway_login_expiry_timestamp_seconds{cloud="envvars"}"#).await;
    assert!(ends > 1.7e9, "{ends}");
    assert_eq!(federation.unscoped().len(), 1, "nobody was asked again");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_login_the_answer_says_what_to_do_and_a_login_is_found_without_a_restart() {
    let federation = Federation::start().await;
    let home = tempfile::tempdir().expect("a directory");
    let variables = by_device(&federation);
    let keyway = at_home(home.path(), &variables);
    for _ in 0..3 {
        let answer = keyway.get("/compute/servers").await;
        let message = answer.message(503, "login_required");
        assert!(message.contains("keyway login"), "{message}");
        assert!(!answer.header("retry-after").is_empty());
    }
    let status = keyway.status().await["clouds"][0].clone();
    assert_eq!(status["login"]["required"], true, "{status}");
    assert_eq!(status["login"]["command"], "keyway login --cloud envvars");
    assert!(status["error"].as_str().is_some_and(|error| error.contains("keyway login --cloud envvars")));
    assert_eq!(keyway.metric(r#"keyway_login_expiry_timestamp_seconds{cloud="envvars"}"#).await, 0.0);
    assert_eq!(federation.asked().len(), 0);
    assert_eq!(keyway.metric_total("keyway_token_requests_total").await, 0.0, "nobody was asked");

    log_in(&federation, home.path(), &variables).await;
    let served = async || (keyway.get("/compute/servers").await.status == 200).then_some(());
    eventually("the login of the person", served).await;

    // The end of it, and another one.
    let (code, stdout, stderr) = run(home.path(), "logout", &variables).await;
    assert_eq!(
        (code, stdout.as_str()),
        (0, "cloud envvars: the login is forgotten, and revoked at Keystone"),
        "{stderr}"
    );
    assert!(!federation.cloud.accepts(&federation.unscoped()[0]));
    let over = async || {
        (keyway.get("/compute/servers").await.header("x-keyway-error") == "login_required").then_some(())
    };
    eventually("the end of it", over).await;
    log_in(&federation, home.path(), &variables).await;
    eventually("another login", served).await;
    let (code, stdout, _) = run(home.path(), "logout", &variables).await;
    assert_eq!(code, 0, "{stdout}");
    let (code, stdout, _) = run(home.path(), "logout", &variables).await;
    assert_eq!((code, stdout.as_str()), (0, "cloud envvars: there was no login"));
}

#[tokio::test(flavor = "multi_thread")]
async fn who_logs_out_takes_a_running_keyway_all_tokens_of_that_login() {
    let federation = Federation::start().await;
    let home = tempfile::tempdir().expect("a directory");
    let variables = by_device(&federation);
    log_in(&federation, home.path(), &variables).await;
    let keyway = at_home(home.path(), &variables);
    let other = format!("/project/{OTHER_PROJECT}/compute/servers");
    for path in ["/compute/servers", &other] {
        assert_eq!(keyway.get(path).await.status, 200);
    }
    let token = keyway.token().await;
    assert!(federation.cloud.accepts(&token));

    let (code, stdout, stderr) = run(home.path(), "logout", &variables).await;
    assert_eq!(code, 0, "{stdout} {stderr}");
    // Keystone ends the login's own token alone, and nobody but the running keyway knows the others.
    let over = async |path: &str| {
        (keyway.get(path).await.header("x-keyway-error") == "login_required").then_some(())
    };
    eventually("the end of the cloud's own token", async || over("/compute/servers").await).await;
    eventually("the end of the other project's", async || over(&other).await).await;
    eventually("its revocation", async || (!federation.cloud.accepts(&token)).then_some(())).await;
    let status = keyway.status().await["clouds"][0].clone();
    assert_eq!((&status["token"], &status["login"]["required"]), (&json!(null), &json!(true)), "{status}");

    log_in(&federation, home.path(), &variables).await;
    let served = async |path: &str| (keyway.get(path).await.status == 200).then_some(());
    eventually("another login", async || served("/compute/servers").await).await;
    eventually("another login", async || served(&other).await).await;

    // Another one in its place, which may be somebody else's.
    let before = keyway.token().await;
    log_in(&federation, home.path(), &variables).await;
    let replaced = async || {
        assert_eq!(keyway.get("/compute/servers").await.status, 200);
        (keyway.token().await != before).then_some(())
    };
    eventually("a token of the new login", replaced).await;
}

fn renewable(federation: &Federation) -> Variables {
    let mut variables = by_device(federation);
    set(&mut variables, "OS_OPENID_SCOPE", OFFLINE);
    variables
}

// Promise 74.
#[tokio::test(flavor = "multi_thread")]
async fn a_login_that_can_be_renewed_outlives_its_token_until_the_provider_says_no() {
    let federation = Federation::start().await;
    let home = tempfile::tempdir().expect("a directory");
    let variables = renewable(&federation);
    federation.cloud.set_token_ttl(Duration::from_secs(5));
    log_in(&federation, home.path(), &variables).await;
    let (_, stdout, _) = run(home.path(), "status", &variables).await;
    assert!(stdout.contains("renewed"), "{stdout}");
    // Two of them: what renews a login is good once.
    let keyways = [at_home(home.path(), &variables), at_home(home.path(), &variables)];
    let renewed = async || {
        for keyway in &keyways {
            let answer = keyway.get("/compute/servers").await;
            assert_eq!(answer.status, 200, "{answer:?}");
        }
        (federation.refresh_tokens().len() >= 4).then_some(())
    };
    eventually("three renewals", renewed).await;
    let asked = federation.asked_at(TOKEN);
    let renewals: Vec<_> = asked.iter().filter(|asked| asked.form["grant_type"] == "refresh_token").collect();
    for (renewal, expected) in renewals.iter().zip(federation.refresh_tokens()) {
        assert_eq!(renewal.form.keys().collect::<Vec<_>>(), ["grant_type", "refresh_token"]);
        assert_eq!(renewal.form["refresh_token"], expected);
    }
    let status = keyways[0].status().await["clouds"][0].clone();
    assert_eq!(status["login"]["renews"], true, "{status}");

    federation.forget_refresh_token();
    for keyway in &keyways {
        let over = async || {
            (keyway.get("/compute/servers").await.header("x-keyway-error") == "login_required").then_some(())
        };
        eventually("the end of the login", over).await;
    }
    let (code, stdout, _) = run(home.path(), "status", &variables).await;
    assert_eq!(
        (code, stdout.as_str()),
        (1, "cloud envvars: its login is over; run keyway login --cloud envvars")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_login_is_renewed_when_keystone_forgot_it_and_later_when_the_provider_is_down() {
    let federation = Federation::start().await;
    let home = tempfile::tempdir().expect("a directory");
    let variables = renewable(&federation);
    log_in(&federation, home.path(), &variables).await;
    let keyway = at_home(home.path(), &variables);
    assert_eq!(keyway.get("/compute/servers").await.status, 200);
    federation.cloud.revoke_all();
    federation.always(Some(answer(503, json!({"error": "temporarily_unavailable"}))));
    let down = async || {
        let reason = keyway.get("/compute/servers").await.header("x-keyway-error").to_owned();
        (reason == "identity_provider_unavailable").then_some(())
    };
    eventually("no renewal", down).await;
    federation.always(None);
    let served = async || (keyway.get("/compute/servers").await.status == 200).then_some(());
    eventually("the renewal", served).await;
    assert_eq!((federation.unscoped().len(), federation.refresh_tokens().len()), (2, 2));

    assert!(federation.can_renew());
    let (code, stdout, stderr) = run(home.path(), "logout", &variables).await;
    assert_eq!(code, 0, "{stdout} {stderr}");
    assert!(!federation.can_renew(), "the provider forgets it as well");
}

// Promise 63.
#[tokio::test(flavor = "multi_thread")]
async fn keyways_that_renew_a_login_at_once_renew_it_once() {
    let federation = Federation::start().await;
    let home = tempfile::tempdir().expect("a directory");
    let variables = renewable(&federation);
    log_in(&federation, home.path(), &variables).await;
    let keyways: Vec<_> = (0..5).map(|_| at_home(home.path(), &variables)).collect();
    for keyway in &keyways {
        assert_eq!(keyway.get("/compute/servers").await.status, 200);
    }
    federation.cloud.revoke_all();
    let mut asking = tokio::task::JoinSet::new();
    for keyway in keyways {
        asking.spawn(async move { keyway.get("/compute/servers").await.status });
    }
    assert_eq!(bounded("all answers", asking.join_all()).await, [200; 5]);
    assert_eq!((federation.unscoped().len(), federation.refresh_tokens().len()), (2, 2));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_login_that_keystone_forgot_is_none() {
    let federation = Federation::start().await;
    let home = tempfile::tempdir().expect("a directory");
    let variables = by_device(&federation);
    log_in(&federation, home.path(), &variables).await;
    federation.cloud.revoke_all();
    let keyway = at_home(home.path(), &variables);
    keyway.get("/compute/servers").await.message(503, "login_required");
    log_in(&federation, home.path(), &variables).await;
    let served = async || (keyway.get("/compute/servers").await.status == 200).then_some(());
    eventually("another login", served).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_login_that_ends_soon_is_warned_of() {
    let federation = Federation::start().await;
    let home = tempfile::tempdir().expect("a directory");
    let variables = by_device(&federation);
    federation.cloud.set_token_ttl(Duration::from_secs(20));
    log_in(&federation, home.path(), &variables).await;
    let flags = ["--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--log-format", "json"];
    let process = Process::start(home.path(), &flags, &variables);
    let (_, admin) = process.addresses().await;
    let warned = |line: &str| line.contains("run `keyway login` again").then_some(());
    process.stderr_line("a warning", warned).await;
    let request = crate::support::request(http::Method::GET, "/status", &[], "");
    let status = Connection::open(admin.parse().expect("an address")).await.send(request).await.json();
    assert_eq!(status["clouds"][0]["login"]["ends_soon"], true, "{status}");
    let required = |line: &str| line.contains("the cloud's login needs a person").then_some(());
    process.stderr_line("its end", required).await;
    let (code, stdout, _) = run(home.path(), "status", &variables).await;
    assert_eq!(
        (code, stdout.as_str()),
        (1, "cloud envvars: its login is over; run keyway login --cloud envvars")
    );
}

/// Checks how `keyway login` ends after the provider said this.
async fn check_login(prepare: impl FnOnce(&Federation), after: impl FnOnce(&Federation), expected: &str) {
    let federation = Federation::start().await;
    let home = tempfile::tempdir().expect("a directory");
    let variables = by_device(&federation);
    prepare(&federation);
    let process = Process::start(home.path(), &["login"], &variables);
    let told = async || {
        process
            .stdout()
            .contains(USER_CODE)
            .then_some(true)
            .or_else(|| (!process.stderr().is_empty()).then_some(false))
    };
    if eventually("a word", told).await {
        after(&federation);
    }
    let (code, stdout, stderr) = process.outcome().await;
    if expected.is_empty() {
        assert_eq!(code, 0, "{stderr}");
    } else {
        assert_eq!(code, 1, "{stdout}");
        assert!(stderr.starts_with("keyway: cloud envvars: ") && stderr.contains(expected), "{stderr}");
    }
    for secret in federation
        .provider_tokens()
        .into_iter()
        .chain(federation.unscoped())
        .chain([CLIENT_SECRET.to_owned()])
    {
        assert!(!keyway::secret::is_echoed(&format!("{stdout}{stderr}"), &secret), "{stdout} {stderr}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_becomes_of_a_code_is_told_in_the_terminal() {
    let nothing = |_: &Federation| ();
    let agree = |federation: &Federation| federation.decide(USER_CODE, true);
    let patient = |federation: &Federation| {
        federation.say_before("authorization_pending");
        federation.say_before("slow_down");
    };
    let no_endpoint =
        |federation: &Federation| federation.set_in_document("device_authorization_endpoint", json!(null));
    let no_grant =
        |federation: &Federation| federation.set_in_document("grant_types_supported", json!(["password"]));
    let expired = |federation: &Federation| federation.say_before("expired_token");
    let busy = |federation: &Federation| {
        // The discovery document, twice, and the code.
        federation.say_before("temporarily_unavailable");
    };
    let public = |federation: &Federation| federation.set_public();
    tokio::join!(
        check_login(patient, agree, ""),
        check_login(busy, agree, ""),
        check_login(
            nothing,
            |federation| federation.decide(USER_CODE, false),
            "access_denied (\"The end user denied"
        ),
        check_login(
            expired,
            agree,
            "expired_token (\"not yet\"); nobody agreed to it in time; start it again"
        ),
        check_login(
            no_endpoint,
            nothing,
            "without a `device_authorization_endpoint`; set device_authorization_endpoint"
        ),
        check_login(no_grant, nothing, "does not offer logins with the grant urn:ietf"),
        check_login(public, nothing, "401 invalid_client"),
        check_login(
            |federation| federation.set_refuses(true),
            agree,
            "Keystone did not accept what the identity provider gave"
        ),
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_provider_without_a_usable_code_is_told_in_the_terminal() {
    let whole = || json!({"device_code": "canaryDeviceCode", "user_code": USER_CODE, "verification_uri": "https://idp.example/v", "expires_in": 60});
    let with = |name: &str, value: serde_json::Value| {
        let mut document = whole();
        document[name] = value;
        document
    };
    for (document, expected) in [
        (with("device_code", json!("")), "without a usable `device_code`"),
        (with("user_code", json!("\u{1b}[2J")), "without a usable `user_code`"),
        (with("verification_uri", json!("http://idp.example/v")), "without a usable `verification_uri`"),
        (with("verification_uri", json!("javascript:alert(1)")), "without a usable `verification_uri`"),
        (with("expires_in", json!("soon")), "without a usable `expires_in`"),
        (json!([]), "without a usable"),
    ] {
        let federation = Federation::start().await;
        let home = tempfile::tempdir().expect("a directory");
        let mut variables = by_device(&federation);
        variables.retain(|(name, _)| *name != "OS_DISCOVERY_ENDPOINT");
        set(&mut variables, "OS_DEVICE_AUTHORIZATION_ENDPOINT", federation.provider("/device"));
        set(&mut variables, "OS_ACCESS_TOKEN_ENDPOINT", federation.provider(TOKEN));
        federation.next(answer(200, document));
        let (code, stdout, stderr) = run(home.path(), "login", &variables).await;
        assert_eq!((code, stdout.as_str()), (1, ""), "{expected}");
        assert!(stderr.contains(expected) && !stderr.contains("canaryDeviceCode"), "{stderr}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cloud_that_logs_in_by_itself_needs_no_person() {
    let federation = Federation::start().await;
    let home = tempfile::tempdir().expect("a directory");
    let variables = by_password(&federation);
    let (code, _, stderr) = run(home.path(), "login", &variables).await;
    assert_eq!(
        (code, stderr.as_str()),
        (1, "keyway: no cloud here has a login that needs a person: keyway logs in by itself")
    );
    let (code, stdout, _) = run(home.path(), "status", &variables).await;
    assert_eq!((code, stdout.as_str()), (0, "cloud envvars: logs in by itself"));
    let (code, stdout, _) = run(home.path(), "logout", &variables).await;
    assert_eq!((code, stdout.as_str()), (0, "no cloud here has a login that needs a person"));
    assert_eq!(federation.asked().len(), 0);
}

// Promises 74, 75, 84.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_of_a_persons_login_is_in_the_log_or_readable_on_disk() {
    let federation = Federation::start().await;
    let home = tempfile::tempdir().expect("a directory");
    let variables = by_device(&federation);
    let process =
        Process::start(home.path(), &["login", "--log-level", "trace", "--log-format", "json"], &variables);
    process.stdout_line("where to log in", |line| line.contains(USER_CODE).then_some(())).await;
    let device_code = federation.device_code();
    federation.decide(USER_CODE, true);
    let (code, stdout, stderr) = process.outcome().await;
    assert_eq!(code, 0, "{stderr}");
    let mut text = format!("{stdout}\n{stderr}");
    let verifier = federation.asked_at(TOKEN)[0].form["code_verifier"].clone();
    let mut files = vec![home.path().to_owned()];
    while let Some(path) = files.pop() {
        if path.is_dir() {
            files
                .extend(std::fs::read_dir(&path).expect("ours").map(|entry| entry.expect("an entry").path()));
            continue;
        }
        text.push_str(&path.display().to_string());
        text.push_str(&String::from_utf8_lossy(&std::fs::read(&path).expect("ours")));
    }
    assert!(text.contains(USER_CODE) && text.contains("keyway login v1"), "else there is nothing to search");
    let tokens = federation.provider_tokens().into_iter().chain(federation.unscoped());
    for secret in tokens.chain([device_code, verifier, CLIENT_SECRET.to_owned()]) {
        assert!(!keyway::secret::is_echoed(&text, &secret), "a secret that begins with {}", &secret[..12]);
    }
}

/// A port that is free for now.
pub(super) fn free_port() -> u16 {
    let socket = std::net::TcpListener::bind("127.0.0.1:0").expect("loopback has free ports");
    socket.local_addr().expect("it is bound").port()
}

fn by_browser(federation: &Federation, port: u16) -> Variables {
    let mut variables = federation.variables("v3websso");
    variables.push(("OS_REDIRECT_HOST", "127.0.0.1".to_owned()));
    variables.push(("OS_REDIRECT_PORT", port.to_string()));
    variables
}

/// What a browser sends when a page of Keystone's tells it to.
const BROWSER: [(&str, &str); 5] = [
    ("content-type", "application/x-www-form-urlencoded"),
    ("origin", "null"),
    ("sec-fetch-mode", "navigate"),
    ("sec-fetch-dest", "document"),
    ("sec-fetch-site", "cross-site"),
];

async fn post(port: u16, path: &str, headers: &[(&str, &str)], form: &str) -> Answer {
    let address = format!("127.0.0.1:{port}").parse().expect("an address");
    let request = crate::support::request(http::Method::POST, path, headers, form.to_owned());
    bounded("an answer", async { Connection::open(address).await.send(request).await }).await
}

/// What a page of Keystone's holds at the address that `keyway login` shows.
async fn at_keystone(process: &Process) -> (String, String) {
    let shown = |line: &str| {
        let rest = line.strip_prefix("To log in, open http://")?;
        Some(rest.strip_suffix(" in a browser on this machine.")?.to_owned())
    };
    let url = process.stdout_line("the address", shown).await;
    let (host, path) = url.split_once('/').expect("a path");
    let request = crate::support::request(http::Method::GET, &format!("/{path}"), &[], "");
    let page = Connection::open(host.parse().expect("an address")).await.send(request).await;
    assert_eq!(page.status, 200, "{page:?}");
    let page = page.json();
    (page["action"].as_str().expect("a form").to_owned(), page["token"].as_str().expect("a form").to_owned())
}

// Promises 2, 4, 5, 9, 74.
#[tokio::test(flavor = "multi_thread")]
async fn a_browser_brings_the_token_to_this_machine_and_nobody_else_does() {
    let federation = Federation::start().await;
    let home = tempfile::tempdir().expect("a directory");
    let port = free_port();
    let variables = by_browser(&federation, port);
    let process = Process::start(home.path(), &["login", "--log-level", "trace"], &variables);
    let (action, token) = at_keystone(&process).await;
    assert_eq!(action, format!("http://127.0.0.1:{port}/auth/websso/"));
    let form = format!("token={token}");
    let with = |name: &'static str, value: &'static str| {
        let others = BROWSER.into_iter().filter(move |(known, _)| *known != name);
        others.chain([(name, value)]).filter(|(_, value)| !value.is_empty()).collect::<Vec<_>>()
    };
    for wrong in [
        with("origin", "https://evil.example"),
        with("referer", "https://evil.example/"),
        with("sec-fetch-mode", "cors"),
        with("sec-fetch-mode", ""),
        with("sec-fetch-site", "none"),
        with("sec-fetch-dest", "iframe"),
        with("content-type", "text/plain"),
        with("host", "evil.example"),
    ] {
        let answer = post(port, "/auth/websso/", &wrong, &form).await;
        assert_eq!(
            (answer.status, answer.header("content-type")),
            (400, "text/plain; charset=utf-8"),
            "{wrong:?}"
        );
        assert!(!answer.text().contains(&token));
    }
    for (path, form) in [
        ("/", form.as_str()),
        ("/auth/websso/?a=b", &form),
        ("/auth/websso/", "token="),
        ("/auth/websso/", ""),
    ] {
        assert_eq!(post(port, path, &BROWSER, form).await.status, 400, "{path} {form}");
    }
    let answer = post(port, "/auth/websso/", &BROWSER, &form).await;
    assert_eq!((answer.status, answer.header("cache-control")), (200, "no-store"));
    assert!(answer.text().contains("You are logged in") && !answer.text().contains(&token));
    let (code, stdout, stderr) = process.outcome().await;
    assert_eq!(code, 0, "{stderr}");
    assert!(stdout.contains("cloud envvars: logged in as demo until 20"), "{stdout}");
    assert!(!keyway::secret::is_echoed(&format!("{stdout}{stderr}"), &token), "{stdout} {stderr}");

    let keyway = at_home(home.path(), &variables);
    assert_eq!(keyway.get("/compute/servers").await.status, 200);
    assert_eq!(keyway.get(&format!("/project/{OTHER_PROJECT}/compute/servers")).await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_browser_that_brings_nothing_or_no_token_is_told_in_the_terminal() {
    let federation = Federation::start().await;
    let home = tempfile::tempdir().expect("a directory");
    let port = free_port();
    let variables = by_browser(&federation, port);
    let process = Process::start(home.path(), &["login"], &variables);
    at_keystone(&process).await;
    assert_eq!(post(port, "/auth/websso/", &BROWSER, "token=canaryMadeUpToken").await.status, 200);
    let (code, _, stderr) = process.outcome().await;
    assert_eq!(code, 1);
    assert!(
        stderr.starts_with("keyway: cloud envvars: ") && !stderr.contains("canaryMadeUpToken"),
        "{stderr}"
    );

    // No variable can say this: openstacksdk, and so keyway, overlooks those that begin with OS_LOG.
    let auth = format!(
        "auth_url: '{}', identity_provider: '{IDENTITY_PROVIDER}', protocol: {PROTOCOL}, redirect_host: 127.0.0.1, \
         redirect_port: {port}, login_timeout: 1",
        federation.auth_url()
    );
    let clouds = format!("clouds: {{prod: {{auth_type: v3websso, auth: {{{auth}}}}}}}");
    std::fs::write(home.path().join("clouds.yaml"), clouds).expect("a file");
    let (code, _, stderr) = run(home.path(), "login", &Vec::new()).await;
    assert_eq!(code, 1);
    let expected = format!(
        "within 1 s; try again, set login_timeout if that is too short, and see that Keystone's trusted_dashboard has http://127.0.0.1:{port}/auth/websso/"
    );
    assert!(stderr.contains(&expected), "{stderr}");

    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("loopback has free ports");
    let port = taken.local_addr().expect("it is bound").port();
    let (code, _, stderr) = run(home.path(), "login", &by_browser(&federation, port)).await;
    assert_eq!(code, 1);
    assert!(stderr.contains(&format!("can't listen at 127.0.0.1 port {port}")), "{stderr}");
}

fn by_code(federation: &Federation, port: u16) -> Variables {
    let mut variables = by_client(federation, "v3oidcauthcode");
    variables.push(("OS_REDIRECT_URI", format!("http://127.0.0.1:{port}/callback")));
    variables
}

/// Where the provider sends a browser that opens the address that `keyway login` shows: path and query.
async fn at_provider(process: &Process, port: u16) -> String {
    let shown = |line: &str| {
        let rest = line.strip_prefix("To log in, open http://")?;
        Some(rest.strip_suffix(" in a browser on this machine.")?.to_owned())
    };
    let url = process.stdout_line("the address", shown).await;
    let (host, path) = url.split_once('/').expect("a path");
    let request = crate::support::request(http::Method::GET, &format!("/{path}"), &[], "");
    let page = Connection::open(host.parse().expect("an address")).await.send(request).await;
    assert_eq!(page.status, 200, "{page:?}");
    let location = page.json()["location"].as_str().expect("a redirect").to_owned();
    location.strip_prefix(&format!("http://127.0.0.1:{port}")).expect("it leads back").to_owned()
}

async fn open_page(port: u16, path: &str, headers: &[(&str, &str)]) -> Answer {
    let address = format!("127.0.0.1:{port}").parse().expect("an address");
    let request = crate::support::request(http::Method::GET, path, headers, "");
    bounded("an answer", async { Connection::open(address).await.send(request).await }).await
}

// Promises 2, 9, 74.
#[tokio::test(flavor = "multi_thread")]
async fn a_browser_brings_the_code_of_this_login_and_no_other() {
    let federation = Federation::start().await;
    let home = tempfile::tempdir().expect("a directory");
    let port = free_port();
    let variables = by_code(&federation, port);
    let process = Process::start(home.path(), &["login", "--log-level", "trace"], &variables);
    let back = at_provider(&process, port).await;
    let (code, _) = back.split_once("&state=").expect("a state");
    for (path, headers) in [
        (format!("{code}&state=canaryOtherState"), &[][..]),
        (code.to_owned(), &[]),
        (back.replace("/callback", "/"), &[]),
        (format!("{back}&state=x"), &[]),
        (back.clone(), &[("host", "evil.example")]),
    ] {
        let answer = open_page(port, &path, headers).await;
        assert_eq!(
            (answer.status, answer.header("content-type")),
            (400, "text/plain; charset=utf-8"),
            "{path}"
        );
    }
    assert_eq!(federation.asked_at(TOKEN).len(), 0);
    assert_eq!(open_page(port, &back, &[]).await.status, 200);
    let (status, stdout, stderr) = process.outcome().await;
    assert_eq!(status, 0, "{stderr}");
    let asked = federation.asked_at(TOKEN);
    let names: Vec<_> = asked[0].form.keys().map(String::as_str).collect();
    assert_eq!(names, ["code", "code_verifier", "grant_type", "redirect_uri"]);
    let shown = format!("{stdout}{stderr}");
    for secret in [&asked[0].form["code"], &asked[0].form["code_verifier"], &federation.unscoped()[0]] {
        assert!(!keyway::secret::is_echoed(&shown, secret), "{shown}");
    }
    assert_eq!(at_home(home.path(), &variables).get("/compute/servers").await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_code_that_is_declined_or_leads_to_another_logins_token_is_told() {
    let federation = Federation::start().await;
    let home = tempfile::tempdir().expect("a directory");
    let port = free_port();
    let mut variables = by_code(&federation, port);
    let process = Process::start(home.path(), &["login"], &variables);
    let back = at_provider(&process, port).await;
    let (_, state) = back.split_once("&state=").expect("a state");
    let page = open_page(port, &format!("/callback?error=access_denied&state={state}"), &[]).await;
    assert!(page.text().contains("declined"), "{page:?}");
    let (code, _, stderr) = process.outcome().await;
    assert!(code == 1 && stderr.contains("access_denied; the login was declined"), "{stderr}");

    federation.mix_up();
    let process = Process::start(home.path(), &["login"], &variables);
    let back = at_provider(&process, port).await;
    open_page(port, &back, &[]).await;
    let (code, _, stderr) = process.outcome().await;
    assert!(code == 1 && stderr.contains("an id token of another login"), "{stderr}");
    assert_eq!(federation.unscoped().len(), 0);

    // A code that somebody wrote down, as keystoneauth takes it, and which is over.
    set(&mut variables, "OS_CODE", "canaryOldCode");
    let (code, _, stderr) = run(home.path(), "login", &variables).await;
    assert!(code == 1 && stderr.contains("invalid_grant (\"Code not valid\")"), "{stderr}");
    assert!(!stderr.contains("canaryOldCode"), "{stderr}");
    assert!(!federation.asked_at(TOKEN)[1].form.contains_key("code_verifier"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_browser_opens_by_itself_where_there_is_a_display_and_not_when_told_so() {
    let federation = Federation::start().await;
    let home = tempfile::tempdir().expect("a directory");
    let (script, opened) = (home.path().join("browser"), home.path().join("opened"));
    std::fs::write(
        &script,
        format!("#!/bin/sh\necho \"$@\" > {}.part\nenv >> {0}.part\nmv {0}.part {0}\n", opened.display()),
    )
    .expect("a file");
    std::fs::set_permissions(&script, std::os::unix::fs::PermissionsExt::from_mode(0o700)).expect("ours");
    let port = free_port();
    let mut variables = by_code(&federation, port);
    set(&mut variables, "OS_OPENID_SCOPE", OFFLINE);
    variables.push(("BROWSER", format!("{} --new", script.display())));
    variables.push(("PATH", "/usr/bin:/bin".to_owned()));
    for arguments in [&["login"][..], &["login", "--no-browser"]] {
        let mut variables = variables.clone();
        if arguments.len() > 1 {
            variables.push(("DISPLAY", ":0".to_owned()));
        }
        let process = Process::start(home.path(), arguments, &variables);
        let back = at_provider(&process, port).await;
        assert_eq!(open_page(port, &back, &[]).await.status, 200);
        let (code, stdout, stderr) = process.outcome().await;
        assert_eq!(code, 0, "{stderr}");
        assert!(!stdout.contains("about to open") && !opened.exists(), "{stdout}");
    }
    variables.push(("DISPLAY", ":0".to_owned()));
    let process = Process::start(home.path(), &["login"], &variables);
    let told = |line: &str| line.contains("about to open; --no-browser").then_some(());
    process.stdout_line("what happens", told).await;
    let opened = eventually("the browser", async || std::fs::read_to_string(&opened).ok()).await;
    let (words, environment) = opened.split_once('\n').expect("both");
    assert!(words.starts_with(&format!("--new {}", federation.provider("/authorize?tenant=1&"))), "{words}");
    assert!(environment.contains("DISPLAY=:0") && !environment.contains("OS_"), "{environment}");
}
