//! The commands, as a person runs them: demo, routes, check, token, and what they log.

use http::Method;
use keyway::demo::{Cloud, PASSWORD};
use rustix::process::Signal;
use serde_json::Value;
use tempfile::TempDir;

use crate::support::{Connection, Process, bounded, cloud, cloud_variables, request};

fn home() -> TempDir {
    tempfile::tempdir().expect("a directory for temporary files")
}

async fn run(cloud: &Cloud, arguments: &[&str]) -> (i32, String, String) {
    let home = home();
    Process::start(home.path(), arguments, &cloud_variables(cloud)).outcome().await
}

async fn demo(home: &TempDir) -> (Process, Vec<String>) {
    let arguments = ["demo", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--workers", "1"];
    let process = Process::start::<&str>(home.path(), &arguments, &[]);
    process.stdout_line("the last line", |line| line.contains("Ctrl-C").then_some(())).await;
    let text = process.stdout();
    let lines = text.lines().map(str::trim).filter(|line| line.starts_with("curl ")).map(str::to_owned);
    (process, lines.collect())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_demo_says_that_it_is_a_simulation_and_stops_when_told() {
    let home = home();
    let (mut process, lines) = demo(&home).await;
    assert_eq!(lines.len(), 5, "{lines:?}");
    assert!(process.stdout().contains("This is a SIMULATION"));
    process.signal(Signal::INT);
    assert_eq!(process.exit().await.code(), Some(0));
}

/// The shell that a person pastes the lines into.
#[tokio::test(flavor = "multi_thread")]
async fn the_demos_five_lines_work_when_pasted() {
    let has_curl = std::process::Command::new("curl").arg("--version").output().is_ok();
    if !has_curl {
        eprintln!("skipped: there is no curl here");
        return;
    }
    let home = home();
    let (_process, lines) = demo(&home).await;
    let mut outputs = Vec::new();
    for line in lines {
        let shell = tokio::task::spawn_blocking(move || {
            std::process::Command::new("sh")
                .args(["-c", &line])
                .env("no_proxy", "127.0.0.1")
                .output()
                .map(|output| (line, output))
        });
        let (line, output) = bounded("the line's end", shell).await.unwrap().expect("there is a shell");
        assert!(output.status.success(), "{line}: {output:?}");
        outputs.push(String::from_utf8(output.stdout).expect("text"));
    }
    let json = |index: usize| -> Value { serde_json::from_str(&outputs[index]).expect("JSON") };
    assert_eq!(json(0)["servers"].as_array().map(Vec::len), Some(3));
    assert!(json(1)["images"].as_array().is_some_and(|images| !images.is_empty()));
    assert!(json(2)["server"]["id"].is_string(), "{}", outputs[2]);
    assert_eq!(json(3)["servers"][0]["name"], "hello");
    assert!(outputs[4].contains(':'), "a date: {}", outputs[4]);
}

#[tokio::test(flavor = "multi_thread")]
async fn routes_shows_each_service_with_both_its_urls() {
    let cloud = cloud().await;
    let (code, out, err) = run(&cloud, &["routes"]).await;
    assert_eq!(code, 0, "{err}");
    let rows: Vec<Vec<&str>> = out.lines().map(|line| line.split_whitespace().collect()).collect();
    for (service, path, upstream) in [
        ("compute", "/compute", cloud.url("compute")),
        ("image", "/image", cloud.url("image")),
        ("object-store", "/object-store", cloud.url("object-store")),
        ("compute", "/region/RegionTwo/compute", cloud.url("RegionTwo/compute")),
        ("image", "/region/RegionTwo/image", cloud.url("RegionTwo/image")),
    ] {
        let local = format!("http://127.0.0.1:8180{path}");
        assert!(
            rows.contains(&vec![service, &local, upstream.trim_end_matches('/')]),
            "{service} {local} {upstream} is missing from\n{out}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn check_logs_in_and_asks_each_service() {
    let cloud = cloud().await;
    let (code, out, err) = run(&cloud, &["check"]).await;
    assert_eq!(code, 0, "{out}{err}");
    assert!(out.contains("login       ok: user demo, project demo, token life 300 s"), "{out}");
    assert!(out.contains("clock       as ours"), "{out}");
    assert!(!out.contains("FAILED"), "{out}");
    assert!(out.contains("/compute") && out.contains("answers 200"), "{out}");
    // Services are asked without a token.
    assert!(cloud.requests("compute").iter().all(|seen| !seen.headers.contains_key("x-auth-token")));
}

#[tokio::test(flavor = "multi_thread")]
async fn check_fails_for_what_is_wrong_and_shows_the_rest() {
    let cloud = cloud().await;
    cloud.pause("image").await;
    cloud.set_clock_skew(jiff::SignedDuration::from_secs(-100));
    let (code, out, _) = run(&cloud, &["check"]).await;
    assert_eq!(code, 1, "{out}");
    assert!(out.lines().any(|line| line.contains("FAILED") && line.contains("/image")), "{out}");
    assert!(out.lines().any(|line| line.contains("ok ") && line.contains("/compute")), "{out}");
    assert!(out.contains("behind us; token lifetimes are not affected"), "{out}");

    cloud.pause("identity").await;
    let (code, out, _) = run(&cloud, &["check"]).await;
    assert_eq!(code, 1, "{out}");
    assert!(out.contains("login       FAILED: Keystone can't be reached"), "{out}");
}

#[tokio::test(flavor = "multi_thread")]
async fn check_says_that_the_password_is_wrong() {
    let cloud = cloud().await;
    let mut variables = cloud_variables(&cloud);
    variables.retain(|(name, _)| *name != "OS_PASSWORD");
    variables.push(("OS_PASSWORD", "wr0ng-password".to_owned()));
    let home = home();
    for command in ["check", "routes", "token", "env"] {
        let (code, out, err) = Process::start(home.path(), &[command], &variables).outcome().await;
        assert_eq!(code, 1, "{command}");
        let said = format!("{out}{err}");
        assert!(said.contains("Keystone rejected the login with 401"), "{said}");
        assert!(!said.contains("wr0ng-password"), "{said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn token_prints_a_token_that_works_and_nothing_else() {
    let cloud = cloud().await;
    let (code, out, err) = run(&cloud, &["token"]).await;
    assert_eq!(code, 0, "{err}");
    let id = out.trim_end();
    assert!(id.starts_with("gAAAA") && !id.contains(char::is_whitespace), "{out}");
    let url = cloud.url("compute");
    let address = url.strip_prefix("http://").unwrap().split('/').next().unwrap();
    let mut connection = Connection::open(address.parse().unwrap()).await;
    let servers = request(Method::GET, "/v2.1/servers", &[("x-auth-token", id)], "");
    assert_eq!(connection.send(servers).await.status, 200);
    // It is not in the log.
    assert!(!err.contains(id));
}

// Promises 74, 75, 78.
#[tokio::test(flavor = "multi_thread")]
async fn no_secret_is_in_the_log_at_any_level() {
    let (home, cloud) = (home(), cloud().await);
    let arguments = [
        "--listen",
        "127.0.0.1:0",
        "--admin",
        "127.0.0.1:0",
        "--log-format",
        "json",
        "--log-level",
        "trace,hyper=trace,h2=trace,rustls=trace",
    ];
    let mut process = Process::start(home.path(), &arguments, &cloud_variables(&cloud));
    let (listen, admin) = process.addresses().await;
    let mut connection = Connection::open(listen.parse().unwrap()).await;
    let secrets = [
        ("x-auth-token", "client-token-q7x9z"),
        ("authorization", "Bearer client-bearer-q7x9z"),
        ("cookie", "session=client-cookie-q7x9z"),
    ];
    for path in [
        "/compute/servers",
        "/compute/servers?name=query-q7x9z&token=query-q7x9z",
        "/object-store/box/o?temp_url_sig=query-q7x9z",
        "/dns/zones?token=query-q7x9z",
        "/compute/%2e%2e?token=query-q7x9z",
    ] {
        connection.send(request(Method::GET, path, &secrets, "")).await;
    }
    let body = r#"{"server": {"name": "body-q7x9z", "adminPass": "body-q7x9z"}}"#;
    connection.send(request(Method::POST, "/compute/servers", &secrets, body)).await;
    cloud.revoke_all();
    assert_eq!(connection.send(request(Method::GET, "/compute/servers", &[], "")).await.status, 200);
    cloud.pause("compute").await;
    connection.send(request(Method::GET, "/compute/servers", &[], "")).await;
    let mut other = Connection::open(admin.parse().unwrap()).await;
    for path in ["/status", "/metrics"] {
        let shown = other.send(request(Method::GET, path, &[], "")).await.text();
        assert!(!shown.contains("gAAAA") && !shown.contains("q7x9z"), "{shown}");
    }
    process.signal(Signal::TERM);
    assert_eq!(process.exit().await.code(), Some(0));

    let said = format!("{}\n{}", process.stdout(), process.stderr());
    assert!(said.contains("TRACE") || said.contains("DEBUG"), "{said}");
    let tokens: Vec<String> = cloud
        .requests("compute")
        .iter()
        .map(|seen| seen.headers["x-auth-token"].to_str().unwrap().to_owned())
        .collect();
    assert!(!tokens.is_empty());
    for secret in tokens.iter().map(String::as_str).chain(["q7x9z", "gAAAA"]) {
        let line = said.lines().find(|line| line.contains(secret));
        assert_eq!(line, None, "`{secret}` is in the log");
    }
    // "secret" is a word that a log may hold for itself; as a value it must not be there.
    assert!(!said.contains(&format!("\"{PASSWORD}\"")), "{said}");
    // The names of a query's parameters are kept.
    assert!(said.contains("name=&token="), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_is_one_line_in_the_log() {
    let (home, cloud) = (home(), cloud().await);
    let arguments = ["--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--log-format", "json"];
    let mut process = Process::start(home.path(), &arguments, &cloud_variables(&cloud));
    let (listen, _) = process.addresses().await;
    let mut connection = Connection::open(listen.parse().unwrap()).await;
    let answer = connection.send(request(Method::GET, "/compute/servers?limit=1", &[], "")).await;
    assert_eq!(answer.status, 200);
    connection.send(request(Method::GET, "/dns/zones", &[], "")).await.message(404, "no_service");
    cloud.revoke_all();
    connection.send(request(Method::GET, "/image/images", &[], "")).await;
    process.signal(Signal::TERM);
    process.exit().await;

    let lines: Vec<Value> = process
        .stderr()
        .lines()
        .map(|line| serde_json::from_str(line).expect("JSON on every line"))
        .collect();
    let requests: Vec<_> = lines.iter().filter(|line| line["target"] == "keyway::request").collect();
    assert_eq!(requests.len(), 3, "{requests:?}");
    let first = requests[0];
    assert_eq!(first["level"], "INFO");
    assert_eq!(first["http.request.method"], "GET");
    assert_eq!(first["url.path"], "/compute/servers");
    assert_eq!(first["url.query"], "limit=");
    assert_eq!(first["http.response.status_code"], 200);
    assert_eq!(first["http.response.body.size"], answer.body.len());
    assert_eq!(first["cloud"], "envvars");
    assert_eq!(first["service"], "compute");
    assert!(first["duration_ms"].as_f64().is_some_and(|duration| duration > 0.0));
    assert_eq!(first["openstack.request_id"], answer.header("x-openstack-request-id"));
    assert_eq!(requests[1]["error.type"], "no_service");
    assert_eq!(requests[1]["http.response.status_code"], 404);
    assert_eq!(requests[2]["http.response.status_code"], 200);
}

// Promise 75.
#[tokio::test(flavor = "multi_thread")]
async fn libraries_that_see_tokens_stay_silent_whatever_the_filter_says() {
    let (home, cloud) = (home(), cloud().await);
    let arguments = [
        "--listen",
        "127.0.0.1:0",
        "--admin",
        "127.0.0.1:0",
        "--log-format",
        "json",
        "--log-level",
        "trace,h2=trace,h2::codec=trace,h2::proto=trace,hyper::proto=trace,[Connection]=trace,[{peer}]=trace",
    ];
    let mut process = Process::start(home.path(), &arguments, &cloud_variables(&cloud));
    let (listen, _) = process.addresses().await;
    let stream = tokio::net::TcpStream::connect(&listen).await.unwrap();
    let executor = hyper_util::rt::TokioExecutor::new();
    let io = hyper_util::rt::TokioIo::new(stream);
    let (mut sender, connection) = hyper::client::conn::http2::handshake(executor, io).await.unwrap();
    tokio::spawn(connection);
    let asked = request(Method::GET, &format!("http://{listen}/compute/servers"), &[], "");
    assert_eq!(bounded("an answer", sender.send_request(asked)).await.unwrap().status(), 200);
    drop(sender);
    process.signal(Signal::TERM);
    process.exit().await;
    let said = process.stderr();
    for library in ["h2", "hyper", "hyper_util", "rustls", "tokio_rustls"] {
        let line = said.lines().find(|line| line.contains(&format!("\"target\":\"{library}")));
        assert_eq!(line, None);
    }
}
