//! How the program starts, how it ends, and with which exit code.

use std::net::TcpListener;

use bytes::Bytes;
use http::Method;
use http_body_util::BodyExt as _;
use keyway::demo::{Cloud, Trouble};
use rustix::process::Signal;
use tempfile::TempDir;
use tokio::net::TcpStream;

use crate::support::{
    Connection, PATIENCE, Process, bounded, cloud, cloud_variables, eventually, request, slow,
};

const QUIET: [&str; 8] =
    ["--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--workers", "2", "--log-format", "json"];

fn home() -> TempDir {
    tempfile::tempdir().expect("a directory for temporary files")
}

/// The program in front of the demo cloud, serving.
async fn serving(home: &TempDir, cloud: &Cloud, more: &[(&'static str, &str)]) -> (Process, String) {
    let mut variables = cloud_variables(cloud);
    variables.extend(more.iter().map(|(name, value)| (*name, (*value).to_owned())));
    let process = Process::start(home.path(), &QUIET, &variables);
    let (listen, _) = process.addresses().await;
    (process, listen)
}

async fn connection(listen: &str) -> Connection {
    Connection::open(listen.parse().expect("an address")).await
}

/// More than sockets hold.
const DOWNLOAD: usize = 64 << 20;

/// A download that has begun and waits for its reader.
async fn downloading(listen: &str) -> (Connection, hyper::body::Incoming) {
    let mut connection = connection(listen).await;
    for (path, body) in
        [("/object-store/box", Bytes::new()), ("/object-store/box/large", vec![7; DOWNLOAD].into())]
    {
        let answer = connection.send(request(Method::PUT, path, &[], body)).await;
        assert_eq!(answer.status, 201, "{answer:?}");
    }
    let answer = connection.start(request(Method::GET, "/object-store/box/large", &[], "")).await;
    assert_eq!(answer.status(), 200);
    (connection, answer.into_body())
}

async fn until_it_stops(process: &Process) {
    process
        .stderr_line("the line that says it stops", |line| line.contains("stopping: ").then_some(()))
        .await;
}

/// Nobody listens there any more.
async fn refused(listen: &str) {
    eventually("a refused connection", async || TcpStream::connect(listen).await.is_err().then_some(()))
        .await;
}

// Promise 70.
#[tokio::test(flavor = "multi_thread")]
async fn sigterm_lets_a_download_finish_and_refuses_new_connections() {
    let (home, cloud) = (home(), cloud().await);
    let (mut process, listen) = serving(&home, &cloud, &[]).await;
    let (_connection, mut body) = downloading(&listen).await;
    process.signal(Signal::TERM);
    until_it_stops(&process).await;
    refused(&listen).await;

    let mut length = 0;
    while let Some(frame) = bounded("the rest", body.frame()).await {
        length += frame.expect("nothing is cut off").data_ref().map_or(0, Bytes::len);
    }
    assert_eq!(length, DOWNLOAD);
    assert_eq!(process.exit().await.code(), Some(0));
}

// Promise 70.
#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_its_service_still_works_on_is_answered_after_sigint() {
    let (home, cloud) = (home(), cloud().await);
    let (mut process, listen) = serving(&home, &cloud, &[]).await;
    cloud.set_trouble("compute", slow(std::time::Duration::from_secs(2)));
    let mut connection = connection(&listen).await;
    let (answer, ()) =
        tokio::join!(connection.send(request(Method::GET, "/compute/servers", &[], "")), async {
            eventually("the request", async || (!cloud.requests("compute").is_empty()).then_some(())).await;
            process.signal(Signal::INT);
        });
    assert_eq!(answer.status, 200);
    assert_eq!(process.exit().await.code(), Some(0));
}

// Promise 70.
#[tokio::test(flavor = "multi_thread")]
async fn a_second_signal_ends_it_at_once() {
    let (home, cloud) = (home(), cloud().await);
    let (mut process, listen) = serving(&home, &cloud, &[]).await;
    let (_connection, body) = downloading(&listen).await;
    process.signal(Signal::TERM);
    until_it_stops(&process).await;
    process.signal(Signal::TERM);
    assert_eq!(process.exit().await.code(), Some(0));
    // What was cut off looks cut off.
    assert!(bounded("the end", body.collect()).await.is_err());
}

// Promise 70.
#[tokio::test(flavor = "multi_thread")]
async fn the_deadline_ends_what_does_not_end_by_itself() {
    let (home, cloud) = (home(), cloud().await);
    let (mut process, listen) = serving(&home, &cloud, &[("KEYWAY_DRAIN", "1s")]).await;
    let (_connection, body) = downloading(&listen).await;
    process.signal(Signal::TERM);
    assert_eq!(process.exit().await.code(), Some(0));
    assert!(process.stderr().contains("did not finish in time"), "{}", process.stderr());
    assert!(bounded("the end", body.collect()).await.is_err());
}

// Promise 70.
#[tokio::test(flavor = "multi_thread")]
async fn an_idle_connection_does_not_hold_it_up() {
    let (home, cloud) = (home(), cloud().await);
    let (mut process, listen) = serving(&home, &cloud, &[]).await;
    let mut kept = connection(&listen).await;
    assert_eq!(kept.send(request(Method::GET, "/compute/servers", &[], "")).await.status, 200);
    let silent = TcpStream::connect(&listen).await.expect("keyway listens");
    process.signal(Signal::TERM);
    assert_eq!(process.exit().await.code(), Some(0));
    assert!(!process.stderr().contains("did not finish in time"), "{}", process.stderr());
    drop(silent);
}

// Promise 70.
#[tokio::test(flavor = "multi_thread")]
async fn it_stops_while_it_still_waits_for_keystone() {
    let (home, cloud) = (home(), cloud().await);
    cloud.pause("identity").await;
    let mut process = Process::start(home.path(), &QUIET, &cloud_variables(&cloud));
    process
        .stderr_line("the line that says why there is no token", |line| {
            line.contains("no token yet: Keystone can't be reached").then_some(())
        })
        .await;
    process.signal(Signal::TERM);
    assert_eq!(process.exit().await.code(), Some(0));
}

// Promise 69.
#[tokio::test(flavor = "multi_thread")]
async fn it_serves_once_keystone_is_there() {
    let (home, cloud) = (home(), cloud().await);
    cloud.set_trouble("identity", slow(PATIENCE));
    let mut process = Process::start(home.path(), &QUIET, &cloud_variables(&cloud));
    let progress = format!("logging in at {}", cloud.auth_url());
    process.stderr_line("a progress line", |line| line.contains(&progress).then_some(())).await;
    // Even now: no token, no need to wait for one.
    cloud.pause("identity").await;
    cloud.set_trouble("identity", Trouble::default());
    cloud.resume("identity").await;
    let (listen, _) = process.addresses().await;
    let mut connection = connection(&listen).await;
    assert_eq!(connection.send(request(Method::GET, "/compute/servers", &[], "")).await.status, 200);
    process.signal(Signal::TERM);
    assert_eq!(process.exit().await.code(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_in_use_is_exit_code_1_and_names_the_flag() {
    let (home, cloud) = (home(), cloud().await);
    let taken = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = taken.local_addr().expect("it is bound").to_string();
    for (flag, other) in [("--listen", "--admin"), ("--admin", "--listen")] {
        let arguments = [flag, &address, other, "127.0.0.1:0"];
        let (code, out, err) =
            Process::start(home.path(), &arguments, &cloud_variables(&cloud)).outcome().await;
        assert_eq!(code, 1, "{err}");
        assert!(err.contains(&format!("can't listen on {address}")), "{err}");
        assert!(err.contains(&format!("choose another one with {flag}")), "{err}");
        assert_eq!(out, "");
    }
}

/// Runs it until its end, which is exit code 2 with these texts on stderr.
async fn check_bad(home: &TempDir, arguments: &[&str], variables: &[(&str, &str)], says: &[&str]) {
    let (code, out, err) = Process::start(home.path(), arguments, variables).outcome().await;
    assert_eq!((code, out.as_str()), (2, ""), "{err}");
    for text in says {
        assert!(err.contains(text), "`{text}` is missing from:\n{err}");
    }
}

// Promise 1.
#[tokio::test(flavor = "multi_thread")]
async fn an_address_that_others_reach_is_exit_code_2_and_says_what_to_do() {
    let ways = "bind 127.0.0.1 or a unix:/path socket, or set tls_cert, tls_key and client_ca";
    check_bad(
        &home(),
        &["demo", "--listen", "0.0.0.0:8180"],
        &[],
        &["--listen: 0.0.0.0:8180 is no loopback", ways],
    )
    .await;
    check_bad(&home(), &["demo"], &[("KEYWAY_ADMIN", "[::]:8181")], &["KEYWAY_ADMIN: [::]:8181 is no", ways])
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_cloud_configured_is_exit_code_2_and_says_how_to_name_one() {
    check_bad(&home(), &[], &[], &["OS_AUTH_URL", "clouds.yaml"]).await;
    for command in ["serve", "check", "routes", "token", "env"] {
        check_bad(&home(), &[command], &[], &["OS_AUTH_URL"]).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn all_problems_are_told_at_once_each_with_its_place() {
    let home = home();
    std::fs::write(home.path().join("keyway.toml"), "lisen = \"x\"\n[limits]\nhead = \"1 banana\"\n")
        .unwrap();
    std::fs::write(home.path().join("clouds.yaml"), "clouds:\n  lab:\n    auth:\n      username: demo\n")
        .unwrap();
    check_bad(
        &home,
        &["--config", "keyway.toml", "--cloud", "lab", "--listen", "nonsense", "--workers", "0"],
        &[("KEYWAY_DRAIN", "soon"), ("KEYWAY_LOG_LEVEL", "loud")],
        &[
            "keyway: the configuration is not usable:",
            "keyway.toml: lisen",
            "keyway.toml: limits.head",
            "command line: --listen",
            "command line: --workers",
            "environment: KEYWAY_DRAIN",
            "environment: KEYWAY_LOG_LEVEL",
            "clouds.yaml: clouds.lab.auth.auth_url",
            "clouds.lab.auth.password",
        ],
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_cloud_is_exit_code_2_and_lists_the_known_ones() {
    let home = home();
    let clouds =
        "clouds:\n  lab: {auth: {auth_url: 'http://k/v3'}}\n  prod: {auth: {auth_url: 'http://k/v3'}}\n";
    std::fs::write(home.path().join("clouds.yaml"), clouds).unwrap();
    check_bad(&home, &["--cloud", "prdo"], &[], &["prdo", "lab", "prod"]).await;
    check_bad(&home, &[], &[("OS_CLOUD", "stage")], &["OS_CLOUD", "stage", "lab, prod"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn malformed_and_unreadable_files_are_exit_code_2_and_named() {
    let home = home();
    std::fs::write(home.path().join("clouds.yaml"), "clouds: [\n").unwrap();
    check_bad(&home, &["--cloud", "lab"], &[], &["clouds.yaml"]).await;
    std::fs::write(home.path().join("keyway.toml"), "listen = \n").unwrap();
    check_bad(&home, &["--config", "keyway.toml"], &[], &["keyway.toml"]).await;
    check_bad(&home, &["--config", "absent.toml"], &[], &["absent.toml"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_incomplete_or_contradictory_login_is_exit_code_2() {
    let login =
        [("OS_AUTH_URL", "http://127.0.0.1:1/v3"), ("OS_USERNAME", "demo"), ("OS_PROJECT_NAME", "demo")];
    check_bad(&home(), &[], &login, &["OS_PASSWORD"]).await;
    let v2 = [
        ("OS_AUTH_URL", "http://127.0.0.1:1/v2.0"),
        ("OS_USERNAME", "demo"),
        ("OS_PASSWORD", "hunter2-secret"),
        ("OS_TENANT_NAME", "demo"),
        ("OS_TENANT_ID", "8c1d6f0b3a7e4b5c9d2e1f0a6b7c8d02"),
    ];
    check_bad(&home(), &[], &v2, &["OS_TENANT_NAME", "OS_TENANT_ID"]).await;
}

// Promise 15.
#[tokio::test(flavor = "multi_thread")]
async fn wrong_usage_is_exit_code_2() {
    check_bad(&home(), &["srve"], &[], &["srve"]).await;
    check_bad(&home(), &["--password", "hunter2"], &[], &["--password"]).await;
}
