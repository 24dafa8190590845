//! Logins by way of SAML without a browser, and of WS-Trust.

use std::time::Duration;

use keyway::config::Config;
use keyway::demo::{OTHER_PROJECT, OTHER_PROJECT_ID};

use crate::support::federation::Instead;
use crate::support::saml::{ECP, PASSWORD, SIGN_IN, Saml, TRUST, declined_by_saml, fault_of_adfs};
use crate::support::variables::{Variables, clouds, cold, logged_in, said, set};
use crate::support::{TestKeyway, eventually};

const DOOR: &str = "/v3/OS-FEDERATION/identity_providers/my%20idp/protocols/saml2/auth";
/// What of the password is the same in XML.
const PART: &str = "canaryProviderPassword";
const CONSUMER: &str = "/sp/paos?from=1";

/// What the log and `/status` say of the only cloud.
async fn error(keyway: &TestKeyway) -> String {
    keyway.status().await["clouds"][0]["error"].as_str().unwrap_or_default().to_owned()
}

fn answer(status: u16, body: impl ToString) -> Instead {
    Instead::Answer(status, &[("content-type", "text/xml")], body.to_string())
}

/// What was asked, in order.
fn steps(saml: &Saml) -> Vec<(String, String)> {
    saml.asked().into_iter().map(|asked| (asked.method.to_string(), asked.path)).collect()
}

fn expected(steps: &[(&str, &str)]) -> Vec<(String, String)> {
    steps.iter().map(|(method, path)| ((*method).to_owned(), (*path).to_owned())).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_password_at_a_saml_provider_opens_every_project_for_one_login() {
    let saml = Saml::start().await;
    let keyway = logged_in(&saml.by_saml()).await;
    assert_eq!(keyway.get("/compute/servers").await.status, 200);
    for project in [OTHER_PROJECT, OTHER_PROJECT_ID] {
        assert_eq!(keyway.get(&format!("/project/{project}/compute/servers")).await.status, 200);
    }
    // Each place once; where the service provider's redirect leads is no matter.
    assert_eq!(steps(&saml), expected(&[("GET", DOOR), ("POST", ECP), ("POST", CONSUMER), ("GET", DOOR)]));
    assert_eq!(saml.unscoped().len(), 1, "the unscoped token serves both projects");
    assert_ne!(keyway.token().await, saml.unscoped()[0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_password_at_ad_fs_opens_every_project_for_one_login() {
    let saml = Saml::start().await;
    let keyway = logged_in(&saml.by_adfs()).await;
    assert_eq!(keyway.get("/compute/servers").await.status, 200);
    assert_eq!(keyway.get(&format!("/project/{OTHER_PROJECT}/compute/servers")).await.status, 200);
    assert_eq!(steps(&saml), expected(&[("POST", TRUST), ("POST", SIGN_IN), ("GET", DOOR)]));
    assert_eq!(saml.unscoped().len(), 1);
    assert_ne!(keyway.token().await, saml.unscoped()[0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_whole_login_is_done_again_when_the_unscoped_token_ends_or_is_revoked() {
    for by in [Saml::by_saml, Saml::by_adfs] {
        let saml = Saml::start().await;
        let keyway = logged_in(&by(&saml)).await;
        saml.cloud.revoke_all();
        assert_eq!(keyway.get("/compute/servers").await.status, 200);
        assert_eq!((saml.logins(), saml.unscoped().len()), (2, 2), "the revoked one was noticed, once");

        let saml = Saml::start().await;
        saml.cloud.set_token_ttl(Duration::from_secs(4));
        let keyway = logged_in(&by(&saml)).await;
        eventually("another login at the provider", async || (saml.logins() > 1).then_some(())).await;
        assert_eq!(keyway.get("/compute/servers").await.status, 200);
    }
}

// Promises 66, 76.
#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_password_is_told_and_shown_so_rarely_that_no_account_is_locked() {
    for by in [Saml::by_saml, Saml::by_adfs] {
        let saml = Saml::start().await;
        saml.set_password("another");
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("password");
        std::fs::write(&path, format!("{PASSWORD}\n")).expect("a file");
        let mut variables = by(&saml);
        variables.retain(|(name, _)| *name != "OS_PASSWORD");
        set(&mut variables, "OS_PASSWORD_FILE", path.display().to_string());
        let short = |config: &mut Config| {
            config.protection.pause = (Duration::from_millis(1), Duration::from_millis(1));
        };
        let keyway = TestKeyway::cold(clouds(&variables), short);
        let stopped = async || {
            let answer = keyway.get("/compute/servers").await;
            let message = answer.message(502, "credentials_rejected");
            assert!(message.contains("identity provider rejected keyway's credentials"), "{message}");
            error(&keyway).await.contains("2 logins in a row were rejected").then_some(())
        };
        eventually("the last attempt", stopped).await;
        let told = error(&keyway).await;
        assert!(told.contains("check username and password"), "{told}");
        assert!(!keyway::secret::is_echoed(&told, PASSWORD), "{told}");
        for _ in 0..20 {
            keyway.get("/compute/servers").await.message(502, "credentials_rejected");
        }
        assert_eq!(saml.logins(), 2);

        std::fs::write(&path, "another\n").expect("a file");
        let served = async || (keyway.get("/compute/servers").await.status == 200).then_some(());
        eventually("a login with the right password", served).await;
        assert_eq!(saml.logins(), 3);
    }
}

/// Checks what a client and the log hear of a provider that does this with every request.
async fn check_refused(
    by: fn(&Saml) -> Variables,
    instead: Instead,
    status: u16,
    reason: &str,
    logged: &str,
) {
    let saml = Saml::start().await;
    saml.provider_always_does(Some(instead.clone()));
    let keyway = cold(&by(&saml));
    let message = keyway.get("/compute/servers").await.message(status, reason);
    assert!(message.contains("identity provider"), "{message}");
    let error = error(&keyway).await;
    assert!(error.contains(logged), "{instead:?}: {error}");
    assert!(!keyway::secret::is_echoed(&error, PASSWORD), "{error}");
    // Nothing of what the provider said went on to the service provider.
    let posted =
        saml.asked().iter().filter(|asked| !asked.provider && asked.method == http::Method::POST).count();
    assert_eq!(posted, 0);
}

// Promises 66, 76.
#[tokio::test(flavor = "multi_thread")]
async fn whatever_a_provider_says_that_is_no_assertion_is_told_with_what_to_do() {
    let (rejected, bad) = ("credentials_rejected", "identity_provider_bad_reply");
    let unavailable = "identity_provider_unavailable";
    let echo = format!("no {PASSWORD}");
    let fault = |text: &str| {
        format!(
            "<S:Envelope xmlns:S=\"http://schemas.xmlsoap.org/soap/envelope/\"><S:Body><S:Fault><faultcode>S:Client</faultcode>\
             <faultstring>{text}</faultstring></S:Fault></S:Body></S:Envelope>"
        )
    };
    let dtd = "<!DOCTYPE x [<!ENTITY e SYSTEM \"file:///etc/passwd\">]><x>&e;</x>";
    for (by, declined, code) in [
        (
            Saml::by_saml as fn(&Saml) -> Variables,
            declined_by_saml("AuthnFailed", "no such user"),
            "200 AuthnFailed",
        ),
        (Saml::by_saml, declined_by_saml("AuthnFailed", &echo), "200 AuthnFailed; check"),
        (Saml::by_saml, fault("who?"), "Client (\"who?\"); check username"),
        (
            Saml::by_adfs,
            fault_of_adfs(" here"),
            "FailedAuthentication (\"ID3242: not authenticated here\"); check",
        ),
        (Saml::by_adfs, fault_of_adfs(&echo), "FailedAuthentication; check username and password"),
    ] {
        let status = if code.starts_with("200") { 200 } else { 500 };
        check_refused(by, answer(status, declined), 502, rejected, code).await;
    }
    for by in [Saml::by_saml, Saml::by_adfs] {
        check_refused(by, answer(401, "<html>"), 502, rejected, "refused the user with 401; check").await;
        check_refused(by, answer(403, ""), 502, rejected, "refused the user with 403; check").await;
        check_refused(
            by,
            answer(200, "<html>"),
            502,
            bad,
            "something that is not XML; is identity_provider_url",
        )
        .await;
        check_refused(by, answer(200, "<html/>"), 502, bad, "XML that is no SOAP envelope").await;
        check_refused(by, answer(200, dtd), 502, bad, "a document type declaration, which is never read")
            .await;
        check_refused(by, answer(200, "<a>".repeat(60_000)), 502, bad, "XML with too many elements").await;
        check_refused(by, answer(404, ""), 502, bad, "404").await;
        check_refused(by, answer(500, ""), 503, unavailable, "answered 500").await;
        check_refused(by, answer(503, fault_of_adfs("")), 503, unavailable, "answered 503").await;
        check_refused(by, answer(429, ""), 503, unavailable, "answered 429").await;
        let redirect = Instead::Answer(307, &[("location", "https://elsewhere.example/")], String::new());
        check_refused(
            by,
            redirect,
            502,
            bad,
            "a redirect to host elsewhere.example, which keyway does not follow",
        )
        .await;
    }
}

// Promises 17, 66.
#[tokio::test(flavor = "multi_thread")]
async fn an_answer_for_somebody_else_is_thrown_away_and_the_service_provider_hears_of_it() {
    let saml = Saml::start().await;
    saml.set_audience(Some("https://elsewhere.example/sp/paos"));
    let keyway = cold(&saml.by_saml());
    keyway.get("/compute/servers").await.message(502, "identity_provider_bad_reply");
    assert!(
        error(&keyway).await.contains("for another address than the service provider"),
        "{}",
        error(&keyway).await
    );
    assert_eq!((saml.faults(), saml.unscoped().len()), (1, 0));
    let secrets = saml.secrets();
    let assertion = secrets.iter().find(|secret| secret.contains("Assertion")).expect("there was one");
    assert!(saml.asked().iter().all(|asked| !asked.text.contains(assertion)), "it went somewhere");
}

// Promise 17.
#[tokio::test(flavor = "multi_thread")]
async fn a_service_provider_elsewhere_than_keystone_gets_nothing_and_nobody_sees_the_password() {
    for elsewhere in [
        "https://elsewhere.example/sp/paos",
        "http://localhost/sp/paos",
        "//127.0.0.1/sp/paos",
        "/sp/paos",
        "",
        "http://u:p@127.0.0.1/sp/paos",
        "file:///etc/passwd",
    ] {
        let saml = Saml::start().await;
        saml.set_consumer(Some(elsewhere));
        let keyway = cold(&saml.by_saml());
        keyway.get("/compute/servers").await.message(502, "keystone_bad_reply");
        let told = error(&keyway).await;
        assert!(told.contains("set auth_url to the name under which it knows itself"), "{elsewhere}: {told}");
        assert!(saml.asked().iter().all(|asked| !asked.provider && asked.method == http::Method::GET));
    }
}

// Promises 17, 76.
#[tokio::test(flavor = "multi_thread")]
async fn the_password_goes_to_the_provider_alone_and_the_assertion_to_the_service_provider() {
    for by in [Saml::by_saml, Saml::by_adfs] {
        let saml = Saml::start().await;
        logged_in(&by(&saml)).await;
        for asked in saml.asked() {
            let shown = keyway::secret::is_echoed(&asked.text, PASSWORD) || asked.text.contains(PART);
            assert_eq!(shown, asked.provider, "{}", asked.path);
            let has = |kind: &str| asked.text.contains(&format!("canary{kind}"));
            assert!(
                !(asked.provider && (has("State") || has("Session") || has("Assertion"))),
                "{}",
                asked.path
            );
            assert!(!has("IdpSession"), "a cookie of the provider's went to {}", asked.path);
        }
    }
}

/// Checks what is said of a service provider that does this after so many right answers.
async fn check_service(
    by: fn(&Saml) -> Variables,
    before: usize,
    instead: Instead,
    reason: &str,
    logged: &str,
) {
    let saml = Saml::start().await;
    saml.service_provider_does_after(before, instead.clone());
    let keyway = cold(&by(&saml));
    let status = if reason == "keystone_unavailable" { 503 } else { 502 };
    keyway.get("/compute/servers").await.message(status, reason);
    let error = error(&keyway).await;
    assert!(error.contains(logged), "{instead:?}: {error}");
    for secret in saml.secrets() {
        assert!(!keyway::secret::is_echoed(&error, &secret), "{error}");
    }
    // That was no wrong password, and the next login may be right.
    let served = async || (keyway.get("/compute/servers").await.status == 200).then_some(());
    eventually("the next login", served).await;
}

// Promises 66, 76.
#[tokio::test(flavor = "multi_thread")]
async fn whatever_a_service_provider_does_wrong_is_told_with_what_to_do() {
    let bad = "keystone_bad_reply";
    let keystone = |status, text: &str| answer(status, format!("{{\"error\": {{\"message\": \"{text}\"}}}}"));
    let cookie = |status| Instead::Answer(status, &[("set-cookie", "_shibsession_1=wrong")], String::new());
    let question =
        |body: &str| Instead::Answer(200, &[("content-type", "application/vnd.paos+xml")], body.to_owned());
    let by_saml: fn(&Saml) -> Variables = Saml::by_saml;
    for (instead, logged) in [
        (answer(200, "<html>"), "200 OK and without a question for the identity provider; check protocol"),
        (keystone(401, "no"), "401 Unauthorized and without a question"),
        (
            Instead::Answer(302, &[("location", "https://idp.example/")], String::new()),
            "302 Found and without a question",
        ),
        (keystone(404, "no idp"), "no such identity_provider and protocol"),
        (question("<html>"), "began the login with something that is not XML"),
        (question("<!DOCTYPE a><a/>"), "began the login with XML with a document type"),
        (question("<a/>"), "XML that is no SOAP envelope"),
    ] {
        check_service(by_saml, 0, instead, bad, logged).await;
    }
    check_service(by_saml, 0, answer(503, ""), "keystone_unavailable", "503").await;
    for (by, first) in [(by_saml, 1), (Saml::by_adfs as fn(&Saml) -> Variables, 0)] {
        check_service(
            by,
            first,
            answer(500, "<html>"),
            bad,
            "answered the identity provider's assertion with 500",
        )
        .await;
        check_service(by, first, answer(400, "<html>"), bad, "often a clock, a certificate, or metadata")
            .await;
        check_service(by, first, keystone(403, "mapping"), "credentials_rejected", "(403 (\"mapping\"))")
            .await;
        check_service(by, first, answer(503, ""), "keystone_unavailable", "503").await;
        check_service(
            by,
            first,
            cookie(302),
            bad,
            "as if the service provider in front of it had opened no session",
        )
        .await;
        check_service(by, first + 1, keystone(401, "mapping"), "credentials_rejected", "(401 (\"mapping\"))")
            .await;
        check_service(by, first + 1, answer(200, "<html>"), bad, "is protocol right").await;
    }
    check_service(Saml::by_adfs, 0, answer(200, "<html>"), bad, "opened no session (no cookie)").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn keystones_no_to_an_assertion_is_no_wrong_password_and_is_asked_about_again() {
    let saml = Saml::start().await;
    for _ in 0..4 {
        saml.service_provider_does_after(1, answer(403, "<html>"));
    }
    let short = |config: &mut Config| {
        config.protection.backoff = (Duration::from_millis(1), Duration::from_millis(1));
    };
    let keyway = TestKeyway::cold(clouds(&saml.by_saml()), short);
    let served = async || (keyway.get("/compute/servers").await.status == 200).then_some(());
    eventually("the fifth login", served).await;
    assert_eq!(saml.logins(), 5);
}

// Promise 66.
#[tokio::test(flavor = "multi_thread")]
async fn a_provider_that_is_silent_or_down_is_named_and_asked_again() {
    for by in [Saml::by_saml, Saml::by_adfs] {
        let saml = Saml::start().await;
        let short = |config: &mut Config| config.timeouts.keystone = Duration::from_secs(3);
        saml.provider_does(Instead::Silence);
        let keyway = TestKeyway::cold(clouds(&by(&saml)), short);
        keyway.get("/compute/servers").await.message(504, "identity_provider_unavailable");
        let served = async || (keyway.get("/compute/servers").await.status == 200).then_some(());
        eventually("the next login", served).await;

        let mut variables = by(&saml);
        // Nothing listens there.
        set(&mut variables, "OS_IDENTITY_PROVIDER_URL", "http://127.0.0.1:1/");
        let keyway = cold(&variables);
        keyway.get("/compute/servers").await.message(503, "identity_provider_unavailable");
        let error = error(&keyway).await;
        assert!(error.contains("is `identity_provider_url` right"), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_document_that_does_not_end_is_cut_off() {
    let saml = Saml::start().await;
    let long = format!("<a>{}</a>", " ".repeat(2 << 20));
    saml.provider_always_does(Some(answer(200, long)));
    let keyway = cold(&saml.by_saml());
    keyway.get("/compute/servers").await.message(503, "identity_provider_unavailable");
}

// Promises 74, 75, 79.
#[tokio::test(flavor = "multi_thread")]
async fn no_secret_of_a_saml_login_is_in_the_log_at_any_level_nor_in_metrics() {
    for by in [Saml::by_saml, Saml::by_adfs] {
        let saml = Saml::start().await;
        let text = said(&by(&saml)).await;
        let secrets = saml.secrets();
        assert!(secrets.len() >= 4, "{secrets:?}");
        for secret in secrets {
            assert!(
                !keyway::secret::is_echoed(&text, &secret),
                "a secret that begins with {}",
                &secret[..12]
            );
        }
    }
}
