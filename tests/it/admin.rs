//! Health, metrics and status.

use http::Method;
use keyway::config::Listener;
use keyway::demo::PASSWORD;
use keyway::server::Address;
use serde_json::Value;

use crate::support::raw::Upstream;
use crate::support::{Connection, Process, TestKeyway, cloud, eventually, request};

#[tokio::test(flavor = "multi_thread")]
async fn health_is_alive_and_ready() {
    let cloud = cloud().await;
    let keyway = TestKeyway::in_front_of(&cloud).await;
    for path in ["/livez", "/readyz"] {
        let answer = keyway.admin_get(path).await;
        assert_eq!((answer.status, answer.text().as_str()), (200, "ok\n"), "{path}");
        assert_eq!(answer.header("cache-control"), "no-store");
    }
}

// Promise 79.
#[tokio::test(flavor = "multi_thread")]
async fn every_metric_is_there_after_some_traffic() {
    let cloud = cloud().await;
    // One worker, since each has a copy of the token.
    let keyway = TestKeyway::with(&cloud, |config| config.workers = 1).await;
    assert_eq!(keyway.put("/object-store/box", "").await.status, 201);
    assert_eq!(keyway.put("/object-store/box/object", "0123456789").await.status, 201);
    let mut connection = keyway.connect().await;
    assert_eq!(
        connection.send(request(Method::GET, "/object-store/box/object", &[], "")).await.body,
        "0123456789"
    );
    cloud.revoke_all();
    assert_eq!(keyway.get("/compute/servers").await.status, 200);
    keyway.get("/dns/zones").await.message(404, "no_service");

    let answer = keyway.admin_get("/metrics").await;
    assert!(answer.header("content-type").starts_with("text/plain; version=0.0.4"));
    let text = answer.text();
    for name in [
        "keyway_requests_total",
        "keyway_request_duration_seconds",
        "keyway_upstream_duration_seconds",
        "keyway_requests_in_flight",
        "keyway_retries_total",
        "keyway_errors_total",
        "keyway_token_requests_total",
        "keyway_token_request_duration_seconds",
        "keyway_token_expiry_timestamp_seconds",
        "keyway_token_requests_saved_total",
        "keyway_connections",
        "keyway_body_bytes_total",
        "keyway_build_info",
    ] {
        assert!(text.contains(&format!("# HELP {name} ")), "{name} is missing from\n{text}");
    }
    assert!(text.contains("\nprocess_"), "{text}");
    for (sample, value) in [
        (r#"keyway_requests_total{cloud="demo",code="200",method="GET",service="compute"}"#, 1.0),
        (r#"keyway_requests_total{cloud="demo",code="201",method="PUT",service="object-store"}"#, 2.0),
        (r#"keyway_request_duration_seconds_count{cloud="demo",service="object-store"}"#, 3.0),
        (r#"keyway_upstream_duration_seconds_count{cloud="demo",service="compute"}"#, 1.0),
        (r#"keyway_retries_total{cloud="demo",result="accepted",service="compute"}"#, 1.0),
        (r#"keyway_errors_total{reason="no_service"}"#, 1.0),
        (r#"keyway_token_requests_total{cloud="demo",reason="cold",result="ok"}"#, 1.0),
        (r#"keyway_token_requests_total{cloud="demo",reason="rejected",result="ok"}"#, 1.0),
        (r#"keyway_token_request_duration_seconds_count{cloud="demo"}"#, 2.0),
        (r#"keyway_body_bytes_total{direction="up"}"#, 10.0),
        ("keyway_requests_in_flight", 0.0),
        (r#"keyway_connections{side="downstream",state="active"}"#, 1.0),
        (r#"keyway_build_info{version="0.1.0"}"#, 1.0),
    ] {
        assert_eq!(keyway.metric(sample).await, value, "{sample} in\n{text}");
    }
    assert!(keyway.metric(r#"keyway_body_bytes_total{direction="down"}"#).await >= 10.0);
    assert!(keyway.metric(r#"keyway_token_expiry_timestamp_seconds{cloud="demo"}"#).await > 1.7e9);
    assert!(keyway.metric(r#"keyway_token_requests_saved_total{cloud="demo"}"#).await >= 2.0, "{text}");
    eventually("the idle connections", async || {
        (keyway.metric(r#"keyway_connections{side="upstream",state="idle"}"#).await >= 1.0).then_some(())
    })
    .await;
    // Neither paths nor ids.
    assert!(!text.contains("/servers") && !text.contains("box"), "{text}");
}

// Promise 79.
#[tokio::test(flavor = "multi_thread")]
async fn made_up_names_do_not_become_labels() {
    let cloud = cloud().await;
    let keyway = TestKeyway::in_front_of(&cloud).await;
    keyway.get("/marker-service/x").await;
    keyway.get("/cloud/marker-cloud/compute/x").await;
    keyway.send(request(Method::from_bytes(b"MARKER").unwrap(), "/compute/x", &[], "")).await;
    let text = keyway.admin_get("/metrics").await.text();
    assert!(!text.to_lowercase().contains("marker"), "{text}");
    for cloud in ["demo", "none"] {
        let sample =
            format!(r#"keyway_requests_total{{cloud="{cloud}",code="404",method="GET",service="none"}}"#);
        assert_eq!(keyway.metric(&sample).await, 1.0, "{sample}");
    }
}

// Promise 13.
#[tokio::test(flavor = "multi_thread")]
async fn status_tells_everything_but_secrets() {
    let cloud = cloud().await;
    let keyway = TestKeyway::in_front_of(&cloud).await;
    let answer = keyway.admin_get("/status").await;
    assert_eq!(answer.header("content-type"), "application/json");
    let text = answer.text();
    assert!(!text.contains(&keyway.token().await) && !text.contains(PASSWORD), "{text}");
    let status = answer.json();
    assert_eq!(status["version"], "0.1.0");
    let demo = &status["clouds"][0];
    assert_eq!(
        [&demo["name"], &demo["user"], &demo["project"], &demo["region"], &demo["auth_url"]],
        ["demo", "demo", "demo", "RegionOne", cloud.auth_url().as_str()]
    );
    assert_eq!((&demo["default"], &demo["error"]), (&true.into(), &Value::Null));
    let left = demo["token"]["seconds_left"].as_u64().unwrap();
    assert!((1..=300).contains(&left) && demo["token"]["lifetime_seconds"] == 300, "{demo}");
    let services = demo["services"].as_array().unwrap();
    let compute = services.iter().find(|service| service["type"] == "compute").unwrap();
    assert_eq!(compute["local"], format!("http://{}/compute", keyway.listen()));
    assert_eq!(compute["upstream"], cloud.url("compute"));
    assert_eq!(compute["problem"], Value::Null);
    // What is shown works.
    for service in services {
        let local = service["local"].as_str().unwrap();
        let path = local.strip_prefix(&format!("http://{}", keyway.listen())).unwrap();
        assert_eq!(keyway.get(path).await.header("x-keyway-error"), "", "{local}");
    }
}

// Promises 12, 13.
#[tokio::test(flavor = "multi_thread")]
async fn the_admin_listener_has_nothing_else() {
    let cloud = cloud().await;
    let keyway = TestKeyway::in_front_of(&cloud).await;
    for path in ["/", "/compute/servers", "/metrics/", "/status/token", "/debug"] {
        let answer = keyway.admin_get(path).await;
        assert_eq!(answer.status, 404, "{path}");
        assert_eq!(answer.text(), "there are /livez, /readyz, /metrics and /status\n");
    }
    let mut connection = Connection::open(keyway.admin()).await;
    for method in ["POST", "DELETE", "PUT", "OPTIONS", "get", "BREW"] {
        let method = Method::from_bytes(method.as_bytes()).unwrap();
        let answer = connection.send(request(method, "/status", &[], "")).await;
        assert_eq!((answer.status, answer.header("allow")), (405, "GET, HEAD"));
    }
    let head = connection.send(request(Method::HEAD, "/status", &[], "")).await;
    assert_eq!((head.status, head.body.len()), (200, 0));
    assert!(head.header("content-length").parse::<usize>().unwrap() > 100);
    assert!(cloud.requests("compute").is_empty());
}

// Promise 12.
#[tokio::test(flavor = "multi_thread")]
async fn the_data_listener_serves_no_admin_paths() {
    let cloud = cloud().await;
    let keyway = TestKeyway::in_front_of(&cloud).await;
    for path in ["/metrics", "/status", "/livez", "/readyz", "/metrics/", "/cloud/demo/metrics"] {
        keyway.get(path).await.message(404, "no_service");
    }
    assert_eq!(keyway.send(request(Method::POST, "/status", &[], "")).await.status, 404);
}

/// `keyway health` with these settings: its exit code, and what it says.
async fn health(flag: &[&str], variables: &[(&str, &str)]) -> (i32, String) {
    let home = tempfile::tempdir().expect("a directory");
    let arguments = [&["health"], flag].concat();
    let (code, stdout, stderr) = Process::start(home.path(), &arguments, variables).outcome().await;
    (code, stdout + &stderr)
}

#[tokio::test(flavor = "multi_thread")]
async fn keyway_health_asks_the_one_that_runs_and_needs_nothing_but_its_address() {
    let cloud = cloud().await;
    let ready = TestKeyway::in_front_of(&cloud).await;
    let admin = ready.admin().to_string();
    // No cloud is configured here, and the rest is wrong: neither matters to the one that runs.
    for variables in [&[("KEYWAY_ADMIN", &*admin)][..], &[("KEYWAY_ADMIN", &*admin), ("KEYWAY_WORKERS", "x")]]
    {
        for flag in [&[][..], &["--ready"]] {
            assert_eq!(health(flag, variables).await, (0, "ok".to_owned()), "{flag:?} {variables:?}");
        }
    }

    cloud.set_password("another one");
    let cold = TestKeyway::cold(vec![cloud.keystone_config()], |_| {});
    let admin = cold.admin().to_string();
    assert_eq!(health(&["--admin", &admin], &[]).await.0, 0);
    let (code, why) = health(&["--ready", "--admin", &admin], &[]).await;
    assert_eq!(code, 1);
    assert!(why.contains("no token"), "{why}");

    let nobody =
        std::net::TcpListener::bind("127.0.0.1:0").expect("a free port").local_addr().expect("bound");
    let (code, why) = health(&[], &[("KEYWAY_ADMIN", &nobody.to_string())]).await;
    assert_eq!(code, 1);
    assert!(why.contains("is keyway running"), "{why}");
    let (code, why) = health(&[], &[("KEYWAY_ADMIN", "here")]).await;
    assert_eq!(code, 2);
    assert!(why.contains("`here` is no address"), "{why}");
}

#[tokio::test(flavor = "multi_thread")]
async fn keyway_health_asks_at_a_socket_file_too_and_takes_nothing_else_for_an_answer() {
    let (cloud, home) = (cloud().await, tempfile::tempdir().expect("a directory"));
    let place = format!("unix:{}", home.path().join("admin.sock").display());
    let keyway = TestKeyway::with(&cloud, |config| {
        config.admin = Listener::at("admin", place.parse::<Address>().expect("an address"));
    })
    .await;
    assert_eq!(health(&["--ready"], &[("KEYWAY_ADMIN", &place)]).await, (0, "ok".to_owned()));
    drop(keyway);

    let other = Upstream::start().await;
    let place = other.authority();
    let variables = [("KEYWAY_ADMIN", &*place)];
    let answered = async { other.answer("SSH-2.0-other\r\n").await.1 };
    let (asked, (code, why)) = tokio::join!(answered, health(&[], &variables));
    assert!(asked.starts_with("GET /livez HTTP/1.1\r\n"), "{asked}");
    assert_eq!(code, 1);
    assert!(why.contains("is no HTTP"), "{why}");
}
