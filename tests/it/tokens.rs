//! Tokens: one call for everyone, renewal, and a Keystone that is down, slow or wrong.

use std::time::Duration;

use jiff::SignedDuration;
use keyway::demo::{Cloud, PASSWORD, Trouble};
use keyway::keystone::{Auth, Config, Method, Secret, Source, User};
use keyway::upstream::BaseUrl;
use serde_json::Value;
use tokio::io::AsyncWriteExt as _;

use crate::support::{Answer, TestKeyway, answering, cloud, eventually, refusing, slow, statuses, targets};

const MANY: usize = 1000;

fn with_password(cloud: &Cloud, password: &str) -> Config {
    let mut config = cloud.keystone_config();
    let Auth::Identity(identity) = &mut config.auth else { unreachable!("the demo cloud has a Keystone") };
    let Method::Password { password: configured, .. } = &mut identity.method else {
        unreachable!("the demo cloud is entered with a password")
    };
    *configured = Secret::new(password).into();
    config
}

// Promise 63.
#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_requests_on_a_cold_start_cost_keystone_one_call() {
    let cloud = cloud().await;
    cloud.set_trouble("identity", slow(Duration::from_millis(500)));
    let keyway = TestKeyway::cold(vec![cloud.keystone_config()], |_| {});

    assert_eq!(keyway.get_at_once(MANY, "/compute/servers").await, [200; MANY]);
    assert_eq!(cloud.token_requests(), 1);
    assert_eq!(statuses(&cloud, "compute"), [200; MANY]);
}

// Promise 63.
#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_requests_when_the_token_ends_cost_keystone_one_call() {
    let cloud = cloud().await;
    cloud.set_token_ttl(Duration::from_secs(1));
    let keyway = TestKeyway::in_front_of(&cloud).await;
    cloud.set_token_ttl(Duration::from_secs(3600));
    cloud.set_trouble("identity", slow(Duration::from_millis(500)));
    eventually("the end of the token", async || {
        keyway.status().await["clouds"][0]["token"].is_null().then_some(())
    })
    .await;

    assert_eq!(keyway.get_at_once(MANY, "/compute/servers").await, [200; MANY]);
    assert_eq!(cloud.token_requests(), 2);
    assert_eq!(statuses(&cloud, "compute"), [200; MANY]);
}

// Promises 63, 64.
#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_requests_with_a_revoked_token_cost_keystone_one_call() {
    let cloud = cloud().await;
    let keyway = TestKeyway::in_front_of(&cloud).await;
    assert_eq!(keyway.get("/compute/servers").await.status, 200);
    cloud.revoke_all();

    assert_eq!(keyway.get_at_once(MANY, "/compute/servers").await, [200; MANY]);
    assert_eq!(cloud.token_requests(), 2);
    assert!(cloud.requests("compute").len() <= 2 * MANY + 1);
}

// Promise 63.
#[tokio::test(flavor = "multi_thread")]
async fn a_late_401_for_an_old_token_does_not_throw_away_the_new_one() {
    let cloud = cloud().await;
    let keyway = TestKeyway::in_front_of(&cloud).await;
    cloud.set_trouble("compute", slow(Duration::from_secs(1)));
    let (late, ()) = tokio::join!(keyway.get("/compute/flavors"), async {
        eventually("the first request", async || (cloud.requests("compute").len() == 1).then_some(())).await;
        cloud.revoke_all();
        cloud.set_trouble("compute", Trouble::default());
        assert_eq!(keyway.get("/compute/servers").await.status, 200);
        assert_eq!(cloud.token_requests(), 2);
    });

    assert_eq!(late.status, 200);
    assert_eq!(cloud.token_requests(), 2);
    assert_eq!(cloud.requests("compute").len(), 4);
}

// Promise 68.
#[tokio::test(flavor = "multi_thread")]
async fn a_token_is_renewed_before_it_ends_and_no_request_meets_a_401() {
    let cloud = cloud().await;
    cloud.set_token_ttl(Duration::from_secs(4));
    let keyway = TestKeyway::in_front_of(&cloud).await;
    eventually("the third token", async || {
        assert_eq!(keyway.get("/compute/servers").await.status, 200);
        (cloud.tokens_issued() >= 3).then_some(())
    })
    .await;

    assert!(statuses(&cloud, "compute").iter().all(|status| *status == 200));
    let renewals = r#"keyway_token_requests_total{cloud="demo",reason="renewal",result="ok"}"#;
    // The cloud knows of a token before keyway has its answer.
    eventually("two renewals", async || (keyway.metric(renewals).await >= 2.0).then_some(())).await;
    assert_eq!(keyway.metric_total("keyway_retries_total").await, 0.0);
}

// Promise 65.
#[tokio::test(flavor = "multi_thread")]
async fn a_keystone_that_is_down_has_no_effect_while_the_token_lives() {
    let cloud = cloud().await;
    cloud.set_token_ttl(Duration::from_secs(4));
    let keyway = TestKeyway::in_front_of(&cloud).await;
    cloud.set_token_ttl(Duration::from_secs(3600));
    cloud.pause("identity").await;
    // The renewal fails, and the token serves on.
    eventually("a failed renewal", async || {
        assert_eq!(keyway.get("/compute/servers").await.status, 200);
        let failed = r#"keyway_token_requests_total{cloud="demo",reason="renewal",result="unavailable"}"#;
        (keyway.metric(failed).await >= 1.0).then_some(())
    })
    .await;

    assert_eq!(keyway.admin_get("/readyz").await.status, 200);
    assert_eq!(keyway.metric_total("keyway_errors_total").await, 0.0);
}

// Promises 66, 68.
#[tokio::test(flavor = "multi_thread")]
async fn an_expired_token_is_never_sent_and_service_recovers_with_keystone() {
    let cloud = cloud().await;
    cloud.set_token_ttl(Duration::from_secs(1));
    let keyway = TestKeyway::in_front_of(&cloud).await;
    cloud.set_token_ttl(Duration::from_secs(3600));
    cloud.pause("identity").await;
    let refused = eventually("the end of the token", async || {
        let answer = keyway.get("/compute/servers").await;
        (answer.status != 200).then_some(answer)
    })
    .await;
    let message = refused.message(503, "keystone_unreachable");
    assert!(
        message.starts_with("Keystone can't be reached, so there is no token; try again later"),
        "{message}"
    );
    check_retry_after(&refused, 1..=120);
    assert_eq!(keyway.admin_get("/readyz").await.status, 503);

    cloud.resume("identity").await;
    eventually("recovery", async || (keyway.get("/compute/servers").await.status == 200).then_some(())).await;
    assert!(cloud.requests("compute").iter().all(|seen| seen.token_was_good));
    assert_eq!(keyway.admin_get("/readyz").await.status, 200);
}

// Promise 69.
#[tokio::test(flavor = "multi_thread")]
async fn keyway_may_start_before_keystone() {
    let cloud = cloud().await;
    cloud.pause("identity").await;
    let keyway = TestKeyway::cold(vec![cloud.keystone_config()], |_| {});
    let refused = keyway.get("/compute/servers").await;
    refused.message(503, "keystone_unreachable");
    check_retry_after(&refused, 1..=120);
    assert_eq!(keyway.admin_get("/readyz").await.status, 503);
    assert_eq!(keyway.admin_get("/livez").await.status, 200);
    let status = &keyway.status().await["clouds"][0];
    assert_eq!(status["error"], "Keystone can't be reached; is auth_url right, and Keystone up?");

    cloud.resume("identity").await;
    eventually("recovery", async || (keyway.admin_get("/readyz").await.status == 200).then_some(())).await;
    assert_eq!(keyway.get("/compute/servers").await.status, 200);
}

// Promise 66.
#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_password_is_said_at_once_and_not_tried_again_and_again() {
    let cloud = cloud().await;
    let keyway = TestKeyway::cold(vec![with_password(&cloud, "wr0ng-password")], |_| {});
    for _ in 0..200 {
        let refused = keyway.get("/compute/servers").await;
        let message = refused.message(502, "credentials_rejected");
        assert!(message.starts_with("Keystone rejected keyway's credentials"), "{message}");
    }
    // Accounts get locked.
    assert_eq!(cloud.token_requests(), 1);
    let status = keyway.admin_get("/status").await.text();
    assert!(status.contains("Keystone rejected the login with 401"), "{status}");
    assert!(!status.contains("wr0ng-password"), "{status}");
    let rejected = r#"keyway_token_requests_total{cloud="demo",reason="cold",result="rejected"}"#;
    assert_eq!(keyway.metric(rejected).await, 1.0);
    assert_eq!(keyway.metric(r#"keyway_errors_total{reason="credentials_rejected"}"#).await, 200.0);
}

// Promise 66.
#[tokio::test(flavor = "multi_thread")]
async fn a_keystone_that_does_not_answer_in_time_is_a_504_and_then_a_503() {
    let cloud = cloud().await;
    cloud.set_trouble("identity", slow(Duration::from_secs(3600)));
    let keyway = TestKeyway::cold(vec![cloud.keystone_config()], |config| {
        config.timeouts.keystone = Duration::from_secs(1);
    });
    let waited = keyway.get("/compute/servers").await;
    waited.message(504, "keystone_timeout");
    let turned_away = keyway.get("/compute/servers").await;
    turned_away.message(503, "keystone_timeout");
    check_retry_after(&turned_away, 1..=120);

    cloud.set_trouble("identity", Trouble::default());
    eventually("recovery", async || (keyway.get("/compute/servers").await.status == 200).then_some(())).await;
}

#[track_caller]
fn check_retry_after(answer: &Answer, expected: std::ops::RangeInclusive<u64>) {
    let seconds: u64 = answer.header("retry-after").parse().expect("whole seconds");
    assert!(expected.contains(&seconds), "{seconds}");
}

/// A Keystone that gives this answer to every login: what keyway's clients see, and what `/status` says.
async fn check_reply(trouble: Trouble, status: u16, reason: &str, says: &str) -> Answer {
    let cloud = cloud().await;
    cloud.set_trouble("identity", trouble);
    let keyway = TestKeyway::cold(vec![cloud.keystone_config()], |_| {});
    let refused = keyway.get("/compute/servers").await;
    refused.message(status, reason);
    let shown = keyway.status().await["clouds"][0]["error"].clone();
    assert!(shown.as_str().is_some_and(|shown| shown.contains(says)), "{shown}");
    assert!(cloud.requests("compute").is_empty());

    // Whatever it was: it is over once Keystone is itself again.
    cloud.set_trouble("identity", Trouble::default());
    if refused.header("retry-after").is_empty() || refused.header("retry-after") == "1" {
        eventually("recovery", async || (keyway.get("/compute/servers").await.status == 200).then_some(()))
            .await;
    }
    refused
}

// Promise 66.
#[tokio::test(flavor = "multi_thread")]
async fn a_keystone_that_answers_html_is_not_believed() {
    let page = answering(200, &[("content-type", "text/html")], "<html>Please log in</html>");
    check_reply(page, 502, "keystone_bad_reply", "not JSON (text/html)").await;
}

// Promise 66.
#[tokio::test(flavor = "multi_thread")]
async fn an_empty_answer_of_keystone_is_not_believed() {
    check_reply(answering(201, &[], ""), 502, "keystone_bad_reply", "not JSON (no content type)").await;
}

// Promise 66.
#[tokio::test(flavor = "multi_thread")]
async fn a_login_without_a_token_is_not_believed() {
    check_reply(answering(201, &[], "{}"), 502, "keystone_bad_reply", "has no `token`").await;
}

// Promise 66.
#[tokio::test(flavor = "multi_thread")]
async fn a_keystone_with_trouble_of_its_own_is_asked_again_later() {
    let down = answering(503, &[], r#"{"error": {"message": "The database is away."}}"#);
    let refused =
        check_reply(down, 503, "keystone_unavailable", "answered 503 (\"The database is away.\")").await;
    check_retry_after(&refused, 1..=2);
}

// Promise 66.
#[tokio::test(flavor = "multi_thread")]
async fn a_keystone_that_wants_to_be_left_alone_is_left_alone() {
    let busy = answering(429, &[("retry-after", "30")], "");
    let refused = check_reply(busy, 503, "keystone_unavailable", "answered 429").await;
    check_retry_after(&refused, 29..=31);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_choice_of_versions_instead_of_a_token_names_auth_url() {
    let choices = answering(300, &[("location", "http://elsewhere.example/v3/")], r#"{"versions": []}"#);
    check_reply(choices, 502, "keystone_bad_reply", "set auth_url to where Keystone really is").await;
}

// Promise 18.
#[tokio::test(flavor = "multi_thread")]
async fn a_redirecting_keystone_is_not_followed() {
    let cloud = cloud().await;
    let elsewhere = format!("{}/v3/auth/tokens", cloud.url("image"));
    cloud.set_trouble("identity", answering(307, &[("location", &elsewhere)], ""));
    let keyway = TestKeyway::cold(vec![cloud.keystone_config()], |_| {});
    keyway.get("/compute/servers").await.message(502, "keystone_bad_reply");
    let shown = keyway.status().await["clouds"][0]["error"].clone();
    assert!(shown.as_str().is_some_and(|shown| shown.contains("a redirect to host 127.0.0.1")), "{shown}");
    assert!(cloud.requests("image").is_empty());
}

// Promise 66.
#[tokio::test(flavor = "multi_thread")]
async fn a_token_without_a_catalog_leads_nowhere_and_says_so() {
    let cloud = cloud().await;
    cloud.set_catalog(Value::Null);
    let keyway = TestKeyway::in_front_of(&cloud).await;
    let message = keyway.get("/compute/servers").await.message(502, "no_endpoint");
    assert!(message.contains("the token came without a catalog"), "{message}");
    // Keystone itself is where auth_url says.
    assert_eq!(keyway.get("/identity/auth/projects").await.status, 200);
}

// Promise 67.
#[tokio::test(flavor = "multi_thread")]
async fn clocks_that_differ_cost_no_logins() {
    for hours in [-48, -1, 1, 48] {
        let cloud = cloud().await;
        cloud.set_clock_skew(SignedDuration::from_hours(hours));
        let keyway = TestKeyway::in_front_of(&cloud).await;
        for _ in 0..20 {
            assert_eq!(keyway.get("/compute/servers").await.status, 200);
        }
        assert_eq!(cloud.token_requests(), 1, "{hours} h");
        assert_eq!(statuses(&cloud, "compute"), [200; 20]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_by_id_may_log_in() {
    let cloud = cloud().await;
    let keyway = TestKeyway::for_cloud(&cloud, |config| {
        let Auth::Identity(identity) = &mut config.auth else { unreachable!() };
        let user = User::Id(keyway::demo::USER_ID.to_owned());
        identity.method = Method::Password { user, password: Secret::new(PASSWORD).into() };
    })
    .await;
    assert_eq!(keyway.get("/compute/servers").await.status, 200);
}

// Promises 64, 66.
#[tokio::test(flavor = "multi_thread")]
async fn a_keystone_that_stops_accepting_the_password_is_asked_once() {
    let cloud = cloud().await;
    let keyway = TestKeyway::in_front_of(&cloud).await;
    assert_eq!(keyway.get("/compute/servers").await.status, 200);
    cloud.set_trouble("identity", refusing());
    cloud.revoke_all();
    for _ in 0..20 {
        keyway.get("/compute/servers").await.message(502, "credentials_rejected");
    }
    assert_eq!(cloud.token_requests(), 2);
}

// Promise 63.
#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_goes_away_takes_no_login_with_it() {
    let cloud = cloud().await;
    cloud.set_trouble("identity", slow(Duration::from_secs(1)));
    let keyway = TestKeyway::cold(vec![cloud.keystone_config()], |_| {});
    let listen = keyway.listen();
    let mut impatient = tokio::net::TcpStream::connect(listen).await.unwrap();
    impatient.write_all(b"GET /compute/servers HTTP/1.1\r\nHost: localhost\r\n\r\n").await.unwrap();
    eventually("the login", async || (cloud.token_requests() == 1).then_some(())).await;
    drop(impatient);

    assert_eq!(keyway.get("/compute/servers").await.status, 200);
    assert_eq!(cloud.token_requests(), 1);
}

// Promise 63.
#[tokio::test(flavor = "multi_thread")]
async fn many_requests_for_another_project_on_a_cold_start_cost_one_call_more() {
    let cloud = cloud().await;
    cloud.set_trouble("identity", slow(Duration::from_millis(200)));
    let keyway = TestKeyway::cold(vec![cloud.keystone_config()], |_| {});
    assert_eq!(keyway.get_at_once(200, "/project/other/compute/servers").await, [200; 200]);
    assert_eq!(cloud.token_requests(), 2);
    assert_eq!(targets(&cloud, "identity").iter().filter(|target| target.contains("projects")).count(), 1);
}

// Promise 66.
#[tokio::test(flavor = "multi_thread")]
async fn an_answer_of_keystone_without_end_is_given_up() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let endless = tokio::spawn(async move {
        loop {
            let Ok((mut stream, _)) = listener.accept().await else { return };
            tokio::spawn(async move {
                let head = b"HTTP/1.1 201 Created\r\nTransfer-Encoding: chunked\r\n\r\n";
                let chunk = [&b"10000\r\n"[..], &[b' '; 0x10000], &b"\r\n"[..]].concat();
                let mut sent = stream.write_all(head).await;
                while sent.is_ok() {
                    sent = stream.write_all(&chunk).await;
                }
            });
        }
    });
    let cloud = cloud().await;
    let mut config = cloud.keystone_config();
    let Auth::Identity(identity) = &mut config.auth else { unreachable!("the demo cloud has a Keystone") };
    identity.auth_url = BaseUrl::parse(&format!("http://{address}/v3")).unwrap();
    let keyway = TestKeyway::cold(vec![config], |_| {});
    let refused = keyway.get("/compute/servers").await;
    assert!(matches!(refused.status, 502 | 503), "{refused:?}");
    assert!(refused.header("x-keyway-error").starts_with("keystone_"), "{refused:?}");
    endless.abort();
}

// Promises 64, 66.
#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_token_without_a_keystone_is_a_503_and_no_login_per_request() {
    let cloud = cloud().await;
    let keyway = TestKeyway::in_front_of(&cloud).await;
    cloud.revoke_all();
    cloud.pause("identity").await;
    for _ in 0..20 {
        keyway.get("/compute/servers").await.message(503, "keystone_unreachable");
    }
    let failed = r#"keyway_token_requests_total{cloud="demo",reason="rejected",result="unavailable"}"#;
    assert!(keyway.metric(failed).await <= 3.0);
    cloud.resume("identity").await;
    eventually("recovery", async || (keyway.get("/compute/servers").await.status == 200).then_some(())).await;
}

// Promise 64.
#[tokio::test(flavor = "multi_thread")]
async fn a_fixed_token_in_a_file_is_read_again_when_it_is_refused() {
    let cloud = cloud().await;
    let lent = TestKeyway::in_front_of(&cloud).await;
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("token");
    std::fs::write(&path, format!("{}\n", lent.token().await)).expect("a file");
    let mut config = cloud.keystone_config();
    config.auth = Auth::Fixed {
        endpoint: BaseUrl::parse(&cloud.url("compute")).unwrap(),
        token: Source::File(path.clone()),
    };
    let keyway = TestKeyway::cold(vec![config], |_| {});
    keyway.logged_in().await;
    assert_eq!(keyway.get("/compute/servers").await.status, 200);
    cloud.revoke_all();
    assert_eq!(keyway.get("/compute/servers").await.status, 401);
    assert_eq!(lent.get("/compute/servers").await.status, 200);
    std::fs::write(&path, lent.token().await).expect("a file");
    eventually("the other token", async || {
        (keyway.get("/compute/servers").await.status == 200).then_some(())
    })
    .await;
}

// Promise 64.
#[tokio::test(flavor = "multi_thread")]
async fn a_fixed_token_is_sent_and_its_refusal_passed_on() {
    let cloud = cloud().await;
    let lent = TestKeyway::in_front_of(&cloud).await;
    let mut config = cloud.keystone_config();
    config.auth = Auth::Fixed {
        endpoint: BaseUrl::parse(&cloud.url("compute")).unwrap(),
        token: Secret::new(lent.token().await).into(),
    };
    let keyway = TestKeyway::cold(vec![config], |_| {});
    assert_eq!(keyway.admin_get("/readyz").await.status, 200);
    // One endpoint serves every service.
    assert_eq!(keyway.get("/compute/servers").await.status, 200);
    assert_eq!(keyway.get("/anything/servers").await.status, 200);
    keyway.get("/project/other/compute/servers").await.message(403, "scope_fixed");
    cloud.revoke_all();
    let refused = keyway.get("/compute/servers").await;
    refused.passed_on(401);
    assert_eq!(refused.header("x-keyway-retry"), "no_token");
    assert_eq!(cloud.token_requests(), 1);
}

// Promises 63, 64.
#[tokio::test(flavor = "multi_thread")]
async fn nobody_sets_out_with_a_refused_token_while_the_next_one_is_on_its_way() {
    let cloud = cloud().await;
    let keyway = TestKeyway::in_front_of(&cloud).await;
    cloud.revoke_all();
    cloud.set_trouble("identity", slow(Duration::from_secs(1)));
    let (first, more) = tokio::join!(keyway.get("/compute/servers"), async {
        eventually("the login", async || (cloud.token_requests() == 2).then_some(())).await;
        keyway.get_at_once(50, "/compute/servers").await
    });
    assert_eq!((first.status, more), (200, vec![200; 50]));
    assert_eq!(statuses(&cloud, "compute").iter().filter(|status| **status == 401).count(), 1);
    assert_eq!(cloud.token_requests(), 2);
}
