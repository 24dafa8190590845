//! Secrets stay inside: nothing that keyway writes, shows or leaves behind has one in it.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::unix::fs::{FileExt as _, MetadataExt as _, PermissionsExt as _};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::time::Duration;

use http::Method;
use keyway::demo::{self, Cloud};
use keyway::keystone::{Key, Secret};
use memchr::memmem;
use rustix::process::{Signal, geteuid};
use tempfile::TempDir;

use crate::support::{Connection, Process, TestKeyway, cloud_variables, request, targets};

mod leaks;

const ARGUMENTS: [&str; 6] = ["--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--log-format", "json"];

/// Found nowhere by chance.
const PASSWORD: &str = "canaryPassw0rdQ7vZ3kXw9tLmB2";
const CREDENTIAL_SECRET: &str = "canaryCredentialY8hJ4nRs6uPdF1";

fn home() -> TempDir {
    tempfile::tempdir().expect("a directory for temporary files")
}

/// A demo cloud whose secrets are like no other text.
async fn cloud() -> Cloud {
    let config = demo::Config {
        password: PASSWORD.to_owned(),
        application_credential_secret: CREDENTIAL_SECRET.to_owned(),
        ..demo::Config::default()
    };
    Cloud::start(config).await.expect("loopback has free ports")
}

fn by_password(cloud: &Cloud) -> Vec<(&'static str, String)> {
    let mut variables = cloud_variables(cloud);
    variables.retain(|(name, _)| *name != "OS_PASSWORD");
    variables.push(("OS_PASSWORD", PASSWORD.to_owned()));
    variables
}

fn by_credential(cloud: &Cloud) -> Vec<(&'static str, String)> {
    vec![
        ("OS_AUTH_TYPE", "v3applicationcredential".to_owned()),
        ("OS_AUTH_URL", cloud.auth_url()),
        ("OS_APPLICATION_CREDENTIAL_ID", demo::APPLICATION_CREDENTIAL_ID.to_owned()),
        ("OS_APPLICATION_CREDENTIAL_SECRET", CREDENTIAL_SECRET.to_owned()),
    ]
}

/// Says it whether or not the test's output is captured.
fn say_loudly(text: &str) {
    let _ = writeln!(io::stderr(), "\n*** {text} ***\n");
}

/// The tokens that services saw, in the order in which they first came.
fn tokens(cloud: &Cloud) -> Vec<String> {
    let mut tokens = Vec::new();
    for service in ["compute", "image", "network", "object-store", "block-storage", "identity"] {
        for seen in cloud.requests(service) {
            for name in ["x-auth-token", "x-subject-token"] {
                let values = seen.headers.get_all(name).iter();
                tokens.extend(values.map(|value| value.to_str().expect("ASCII").to_owned()));
            }
        }
    }
    let mut known = BTreeSet::new();
    tokens.retain(|token| token.starts_with("gAAAA") && known.insert(token.clone()));
    tokens
}

async fn get(address: &str, path: &str) -> crate::support::Answer {
    let mut connection = Connection::open(address.parse().expect("an address")).await;
    connection.send(request(Method::GET, path, &[], "")).await
}

/// How often each text is in the memory of a process.
fn count_in_memory(pid: u32, texts: &[&str]) -> io::Result<Vec<usize>> {
    const PIECE: usize = 4 << 20;
    let finders: Vec<_> = texts.iter().map(|text| memmem::Finder::new(text.as_bytes())).collect();
    let longest = texts.iter().map(|text| text.len()).max().unwrap_or(1);
    let mut counts = vec![0; texts.len()];
    let memory = File::open(format!("/proc/{pid}/mem"))?;
    let mut buffer = vec![0; PIECE];
    for line in fs::read_to_string(format!("/proc/{pid}/maps"))?.lines() {
        let mut columns = line.split_whitespace();
        let (range, rights) = (columns.next().expect("a range"), columns.next().expect("rights"));
        if !rights.starts_with('r') || line.contains("[vvar") || line.contains("[vsyscall") {
            continue;
        }
        let (from, to) = range.split_once('-').expect("a range");
        let mut at = u64::from_str_radix(from, 16).expect("an address");
        let end = u64::from_str_radix(to, 16).expect("an address");
        while at < end {
            let wanted = usize::try_from(end - at).unwrap_or(PIECE).min(PIECE);
            // A page may be gone since the list was read, and files may be shorter than their mapping.
            let Ok(read @ 1..) = memory.read_at(&mut buffer[..wanted], at) else { break };
            // What begins in the overlap belongs to the next piece.
            let last = at + read as u64 >= end || read <= longest;
            let step = if last { read } else { read - longest };
            for (finder, count) in finders.iter().zip(&mut counts) {
                *count += finder.find_iter(&buffer[..read]).filter(|found| *found < step).count();
            }
            at += step as u64;
        }
    }
    Ok(counts)
}

/// The same where this user may look. Else it says so.
fn look_into_memory(process: &Process, texts: &[&str]) -> Option<Vec<usize>> {
    match count_in_memory(process.id(), texts) {
        Ok(counts) => Some(counts),
        Err(error) if !geteuid().is_root() => {
            // Nobody but root may: that is promise 82.
            assert_eq!(error.kind(), io::ErrorKind::PermissionDenied, "{error}");
            say_loudly("NOT CHECKED: the memory of keyway can be read by root only; run this test as root");
            None
        }
        Err(error) => {
            panic!("root can't read the memory of its child ({error}): does it lack CAP_SYS_PTRACE?")
        }
    }
}

// Promise 85.
#[tokio::test(flavor = "multi_thread")]
async fn dead_tokens_leave_memory() {
    let (home, cloud) = (home(), cloud().await);
    let mut arguments = ARGUMENTS.to_vec();
    arguments.extend(["--workers", "2"]);
    let process = Process::start(home.path(), &arguments, &by_password(&cloud));
    let (listen, _) = process.addresses().await;
    for round in 0..5 {
        // Many at a time, so that many connections with buffers of their own take part; paths with
        // destinations of their own, most of which are never asked for again; heads that outgrow
        // buffers; bodies.
        let mut requests = tokio::task::JoinSet::new();
        for n in 0..12 {
            let listen = listen.clone();
            requests.spawn(async move {
                let mut connection = Connection::open(listen.parse().expect("an address")).await;
                let long = "x".repeat(100 * n);
                let fields = [("x-long", long.as_str()), ("x-object-meta-a", "b")];
                for path in ["/compute/servers", "/image/images", "/network/networks"] {
                    assert_eq!(connection.send(request(Method::GET, path, &fields, "")).await.status, 200);
                }
                let once = format!("/region/RegionOne/compute/servers?round={round}&n={n}");
                connection.send(request(Method::GET, &once, &fields, "")).await;
                let put = request(Method::PUT, &format!("/object-store/box{n}"), &fields, vec![7; 3000]);
                connection.send(put).await;
            });
        }
        requests.join_all().await;
        cloud.revoke_all();
    }
    assert_eq!(get(&listen, "/compute/servers").await.status, 200);
    let tokens = tokens(&cloud);
    assert!(tokens.len() >= 6, "there were {} tokens", tokens.len());
    let texts: Vec<_> = tokens.iter().map(String::as_str).collect();
    let (current, dead) = (texts.len() - 1, texts.len() - 1);
    if look_into_memory(&process, &texts).is_none() {
        return;
    }
    // A worker lets go of what it kept for paths that nobody asks for any more on its next tick.
    let mut counts = Vec::new();
    let clean = tokio::time::timeout(Duration::from_secs(20), async {
        loop {
            counts = count_in_memory(process.id(), &texts).expect("it was readable before");
            if counts[..dead].iter().all(|count| *count == 0) && counts[current] == 1 {
                return;
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    });
    let clean = clean.await.is_ok();
    // The one in use is there once, which also shows that the search is not blind.
    assert!(clean, "copies of each token, the newest last: {counts:?}");
}

/// Where the operator's secret may be: in the configuration, which clones share, and in the environment
/// as it was read.
const COPIES_OF_PASSWORD: usize = 2;

async fn check_copies(process: &Process, listen: &str, cloud: &Cloud, secret: &str) {
    for _ in 0..3 {
        cloud.revoke_all();
        assert_eq!(get(listen, "/compute/servers").await.status, 200);
    }
    let Some(counts) = look_into_memory(process, &[secret]) else { return };
    assert!(counts[0] > 0, "the secret in use was not found, so the search is blind");
    assert!(counts[0] <= COPIES_OF_PASSWORD, "{} copies of the secret after four logins", counts[0]);
}

// Promises 80, 85.
#[tokio::test(flavor = "multi_thread")]
async fn logins_leave_no_copies_of_the_password() {
    let (home, cloud) = (home(), cloud().await);
    for (variables, secret) in [(by_password(&cloud), PASSWORD), (by_credential(&cloud), CREDENTIAL_SECRET)] {
        let process = Process::start(home.path(), &ARGUMENTS, &variables);
        let (listen, _) = process.addresses().await;
        check_copies(&process, &listen, &cloud, secret).await;
    }
}

// Promises 80, 85.
#[tokio::test(flavor = "multi_thread")]
async fn a_password_of_a_file_is_not_left_in_memory_by_reading_it() {
    let (home, cloud) = (home(), cloud().await);
    let clouds = format!(
        "clouds:\n  lab:\n    auth:\n      auth_url: {}\n      username: demo\n      project_name: demo\n",
        cloud.auth_url()
    );
    write_private(home.path(), "clouds.yaml", &clouds);
    let secure = format!("clouds:\n  lab:\n    auth:\n      password: {PASSWORD}\n");
    write_private(home.path(), "secure.yaml", &secure);
    let process = Process::start::<&str>(home.path(), &ARGUMENTS, &[]);
    let (listen, _) = process.addresses().await;
    check_copies(&process, &listen, &cloud, PASSWORD).await;
}

fn write_private(home: &Path, name: &str, text: &str) {
    let path = home.join(name);
    fs::write(&path, text).expect("a writable directory");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("it is ours");
}

fn proc(process: &Process, name: &str) -> io::Result<String> {
    let bytes = fs::read(format!("/proc/{}/{name}", process.id()))?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

// Promise 15.
#[tokio::test(flavor = "multi_thread")]
async fn after_start_neither_arguments_nor_environment_show_a_secret() {
    let (home, cloud) = (home(), cloud().await);
    for (mut variables, name, secret) in [
        (by_password(&cloud), "OS_PASSWORD", PASSWORD),
        (by_credential(&cloud), "OS_APPLICATION_CREDENTIAL_SECRET", CREDENTIAL_SECRET),
    ] {
        variables.push(("OS_PASSCODE", "canaryPasscode".to_owned()));
        variables.push(("UNRELATED", "kept".to_owned()));
        let process = Process::start(home.path(), &ARGUMENTS, &variables);
        let (listen, _) = process.addresses().await;
        assert_eq!(get(&listen, "/compute/servers").await.status, 200, "the secret was handed over");

        let cmdline = proc(&process, "cmdline").expect("everyone may read it");
        assert!(cmdline.ends_with(&format!("{}\0", ARGUMENTS.join("\0"))), "{cmdline}");
        assert!(!cmdline.contains("canary"), "{cmdline}");
        assert!(cmdline.split('\0').next().is_some_and(|name| name.ends_with("keyway")), "{cmdline}");
        assert_eq!(proc(&process, "comm").expect("everyone may read it"), "keyway\n");
        match proc(&process, "environ") {
            Ok(environ) => {
                assert!(environ.contains("UNRELATED=kept"), "the rest is as it was: {environ}");
                assert!(!environ.contains("canary") && !environ.contains(secret), "{environ}");
                assert!(!environ.contains(&format!("{name}=")), "{environ}");
            }
            Err(error) => {
                assert!(!geteuid().is_root(), "{error}");
                say_loudly("NOT CHECKED: /proc/PID/environ of keyway can be read by root only");
            }
        }
        let log = process.stderr();
        assert!(!log.contains("KEYWAY_ENVIRONMENT") && !log.contains("stays in the environment"), "{log}");
    }
}

// Promise 15.
#[tokio::test(flavor = "multi_thread")]
async fn a_variable_of_another_process_s_secrets_is_of_no_use_and_does_no_harm() {
    let (home, cloud) = (home(), cloud().await);
    for place in ["1:3", "3", "", "99999999:0", "x:y"] {
        let mut variables = by_password(&cloud);
        variables.push(("KEYWAY_ENVIRONMENT", place.to_owned()));
        let process = Process::start(home.path(), &ARGUMENTS, &variables);
        let (listen, _) = process.addresses().await;
        assert_eq!(get(&listen, "/compute/servers").await.status, 200, "{place}");
        if let Ok(environ) = proc(&process, "environ") {
            assert!(!environ.contains(PASSWORD), "{environ}");
        }
    }
}

// Promises 82, 83.
#[tokio::test(flavor = "multi_thread")]
async fn nobody_gets_a_core_dump_or_looks_into_the_process() {
    let (home, cloud) = (home(), cloud().await);
    let mut process = Process::start(home.path(), &ARGUMENTS, &by_password(&cloud));
    process.addresses().await;
    let limits = proc(&process, "limits").expect("everyone may read it");
    let core = limits.lines().find(|line| line.starts_with("Max core file size")).expect("a limit");
    assert_eq!(core.split_whitespace().rev().skip(1).take(2).collect::<Vec<_>>(), ["0", "0"], "{core}");
    // The kernel gives the files of an undumpable process to root.
    let owner = fs::metadata(format!("/proc/{}/environ", process.id())).expect("it is there").uid();
    assert_eq!(owner, 0);
    process.signal(Signal::ABORT);
    let status = process.exit().await;
    assert!(!std::os::unix::process::ExitStatusExt::core_dumped(&status), "{status}");
}

// Promises 82, 88.
#[tokio::test(flavor = "multi_thread")]
async fn an_unprivileged_user_s_keyway_is_undumpable_and_still_counts_its_descriptors() {
    let (home, cloud) = (home(), cloud().await);
    let program = home.path().join("keyway");
    fs::copy(env!("CARGO_BIN_EXE_keyway"), &program).expect("room for a copy");
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).expect("it is ours");
    fs::set_permissions(home.path(), fs::Permissions::from_mode(0o755)).expect("it is ours");
    let process = Process::start_with(home.path(), &ARGUMENTS, &by_password(&cloud), |command| {
        let mut other = std::process::Command::new(&program);
        other.args(ARGUMENTS).env_clear().current_dir(home.path()).envs(by_password(&cloud));
        // It has no home to keep anything in, and would say so.
        other.env("KEYWAY_FACADE_STATE", "none");
        other.stdin(std::process::Stdio::null());
        other.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
        if geteuid().is_root() {
            other.uid(65_534).gid(65_534);
        }
        *command = other;
    });
    let (listen, admin) = process.addresses().await;
    assert_eq!(get(&listen, "/compute/servers").await.status, 200);
    let status = proc(&process, "status").expect("everyone may read it");
    let user = status.lines().find(|line| line.starts_with("Uid:")).expect("a user").to_owned();
    assert!(!user.split_whitespace().any(|id| id == "0") || !geteuid().is_root(), "{user}");
    assert_eq!(fs::metadata(format!("/proc/{}/environ", process.id())).expect("it is there").uid(), 0);
    if let Ok(environ) = proc(&process, "environ") {
        assert!(!environ.contains(PASSWORD), "{environ}");
    }
    let metrics = get(&admin, "/metrics").await.text();
    for name in ["process_open_fds", "process_max_fds", "process_resident_memory_bytes", "process_threads"] {
        let line = metrics.lines().find(|line| line.starts_with(&format!("{name} ")));
        let value: f64 = line.and_then(|line| line.rsplit(' ').next()?.parse().ok()).unwrap_or_default();
        assert!(value > 0.0, "{name} in\n{metrics}");
    }
    let log = process.stderr();
    assert!(!log.contains("\"WARN\""), "nothing to complain about: {log}");
}

// Promise 84.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_written_to_any_file() {
    let (home, cloud) = (home(), cloud().await);
    let before = names_in(home.path());
    let process = Process::start(home.path(), &ARGUMENTS, &by_password(&cloud));
    let (listen, _) = process.addresses().await;
    assert_eq!(get(&listen, "/compute/servers").await.status, 200);
    cloud.revoke_all();
    assert_eq!(get(&listen, "/compute/servers").await.status, 200);
    assert_eq!(names_in(home.path()), before);
    let directory = format!("/proc/{}/fd", process.id());
    let Ok(descriptors) = fs::read_dir(&directory) else {
        assert!(!geteuid().is_root());
        return say_loudly("NOT CHECKED: the open files of keyway can be listed by root only");
    };
    let mut files = 0;
    for descriptor in descriptors {
        let path = descriptor.expect("an entry").path();
        let (Ok(target), Ok(metadata)) = (fs::read_link(&path), fs::metadata(&path)) else { continue };
        files += 1;
        if metadata.is_file() {
            let number = path.file_name().expect("a number").to_string_lossy().into_owned();
            let flags = proc(&process, &format!("fdinfo/{number}")).expect("it is open");
            let writable =
                flags.lines().any(|line| line.starts_with("flags:") && line.trim_end().ends_with(['1', '2']));
            // What the secrets of the environment came in is in memory, empty and sealed.
            assert!(
                !writable || metadata.len() == 0 && target.starts_with("/memfd:keyway-environment (deleted)"),
                "{target:?}"
            );
        }
    }
    assert!(files > 3, "no descriptors were seen");
}

fn names_in(directory: &Path) -> BTreeSet<std::ffi::OsString> {
    fs::read_dir(directory).expect("a directory").map(|entry| entry.expect("an entry").file_name()).collect()
}

// Promise 80.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_prints_a_secret_with_debug() {
    let cloud = cloud().await;
    let keyway = TestKeyway::in_front_of(&cloud).await;
    assert_eq!(keyway.get("/compute/servers").await.status, 200);
    let token = keyway.token().await;
    let current = keyway.app().shared().tokens.current(&Key::of_cloud(0)).await.expect("a token");
    let printed = format!(
        "{:?} {current:?} {:?} {:?} {:?}",
        keyway.app(),
        cloud.keystone_config(),
        keyway.app().shared().clouds,
        Secret::new(PASSWORD),
    );
    let as_numbers = |text: &str| format!("{:?}", text.as_bytes()).trim_matches(['[', ']']).to_owned();
    for secret in [PASSWORD, token.as_str()] {
        assert!(!printed.contains(secret) && !printed.contains(&as_numbers(secret)), "{printed}");
    }
    assert!(
        printed.contains("redacted") && printed.contains("idle_since"),
        "the deepest parts are there: {printed}"
    );
}

// Promise 81.
#[tokio::test(flavor = "multi_thread")]
async fn a_rotation_can_be_followed_by_fingerprints() {
    let (home, cloud) = (home(), cloud().await);
    let mut variables = by_password(&cloud);
    variables.push(("KEYWAY_LOG_LEVEL", "debug".to_owned()));
    let process = Process::start(home.path(), &ARGUMENTS, &variables);
    let (listen, _) = process.addresses().await;
    assert_eq!(get(&listen, "/compute/servers").await.status, 200);
    cloud.revoke_all();
    assert_eq!(get(&listen, "/compute/servers").await.status, 200);
    let line = |line: &str, reason: &str| {
        let line: serde_json::Value = serde_json::from_str(line).ok()?;
        let token = line["token"].as_str().filter(|_| line["reason"] == reason)?;
        Some((token.to_owned(), line["replaced"].as_str().map(str::to_owned)))
    };
    let (first, none) = process.stderr_line("the first token", |text| line(text, "cold")).await;
    let (second, replaced) = process.stderr_line("the second token", |text| line(text, "rejected")).await;
    assert_eq!((none, replaced), (None, Some(first.clone())));
    assert_ne!(first, second);
    let tokens = tokens(&cloud);
    for fingerprint in [first, second] {
        assert_eq!(fingerprint.len(), 8);
        assert!(!tokens.iter().any(|token| token.contains(&fingerprint)), "{fingerprint}");
    }
}

/// Runs one test of this program that panics on purpose, and returns what it wrote.
fn panicking(name: &str, backtrace: &str) -> String {
    let output = std::process::Command::new(std::env::current_exe().expect("this program"))
        .args(["--exact", &format!("secrets::{name}"), "--ignored", "--nocapture", "--test-threads=1"])
        .env("RUST_BACKTRACE", backtrace)
        .output()
        .expect("this program runs");
    String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout)
}

#[test]
#[ignore = "panics on purpose, for the test below"]
fn panics_with_a_secret() {
    keyway::telemetry::report_panics();
    keyway::telemetry::init(&keyway::config::Log {
        format: keyway::config::LogFormat::Json,
        level: "trace".to_owned(),
    });
    let secret = std::hint::black_box(PASSWORD);
    let thread = std::thread::Builder::new().name("worker-of-the-test".to_owned());
    let formatted = thread.spawn(move || panic!("malformed input: {secret:?}")).expect("a thread");
    assert!(formatted.join().is_err());
    let quoted = std::thread::spawn(move || secret.parse::<u8>().map_err(|_| secret).expect("a number"));
    assert!(quoted.join().is_err());
    let fixed = std::thread::spawn(|| panic!("a fixed text"));
    assert!(fixed.join().is_err());
}

// Promises 76, 86.
#[test]
fn a_panic_is_logged_with_its_place_and_without_data() {
    for backtrace in ["0", "1", "full"] {
        let said = panicking("panics_with_a_secret", backtrace);
        assert!(!said.contains(PASSWORD), "{said}");
        let lines: Vec<serde_json::Value> =
            said.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
        assert_eq!(lines.len(), 3, "{said}");
        assert_eq!(lines[0]["thread"], "worker-of-the-test");
        for line in &lines {
            assert!(line["location"].as_str().is_some_and(|place| place.contains("secrets.rs:")), "{line}");
            assert_eq!(line["backtrace"].is_string(), backtrace != "0", "{line}");
        }
        assert!(lines[2]["message"].as_str().is_some_and(|text| text.contains("a fixed text")), "{said}");
    }
}

/// Runs keyway with this configuration, which is not usable; checks that what it says has no secret in
/// it, and that it says where the trouble is.
async fn check_problem(clouds: Option<&str>, arguments: &[&str], variables: &[(&str, &str)], says: &str) {
    let home = home();
    if let Some(clouds) = clouds {
        write_private(home.path(), "clouds.yaml", clouds);
    }
    for command in ["serve", "check"] {
        let arguments: Vec<_> = [command].iter().chain(arguments).copied().collect();
        let (code, out, err) = Process::start(home.path(), &arguments, variables).outcome().await;
        assert_ne!(code, 0, "{out}{err}");
        assert!(!format!("{out}{err}").contains("canary"), "{clouds:?} {arguments:?}: {out}{err}");
        assert!(format!("{out}{err}").contains(says), "`{says}` is missing: {out}{err}");
    }
}

// Promise 76.
#[tokio::test(flavor = "multi_thread")]
async fn configuration_that_can_t_be_read_is_not_quoted() {
    let login = "clouds:\n  lab:\n    auth:\n      username: demo\n      project_name: demo\n";
    for bad in [
        format!("      password: \"{PASSWORD}\n"),
        format!("      password: *{PASSWORD}\n"),
        format!("      password: [{PASSWORD}\n"),
        format!("      password: {PASSWORD}: x\n"),
        format!("      {PASSWORD}: 1\n      {PASSWORD}: 2\n"),
        format!("\tpassword: {PASSWORD}\n"),
    ] {
        check_problem(Some(&format!("{login}{bad}")), &[], &[], "clouds.yaml").await;
    }
    // Right as YAML, wrong as a cloud.
    let url = format!("      auth_url: http://demo:{PASSWORD}@127.0.0.1:1/v3\n      password: {PASSWORD}\n");
    check_problem(Some(&format!("{login}{url}")), &[], &[], "user name or password").await;
    let templated = format!("      auth_url: 'http://{{{PASSWORD}}}/v3'\n      password: {PASSWORD}\n");
    check_problem(Some(&format!("{login}{templated}")), &[], &[], "a template names no value").await;
    let list = format!("      auth_url: http://127.0.0.1:1/v3\n      password: [{PASSWORD}]\n");
    check_problem(Some(&format!("{login}{list}")), &[], &[], "password").await;
    check_problem(Some(&format!("clouds:\n  lab: {PASSWORD}\n")), &[], &[], "clouds.lab").await;
    check_problem(Some(&format!("{PASSWORD}\n")), &[], &[], "not a mapping").await;
    let variables = [
        ("OS_AUTH_URL", format!("http://demo:{PASSWORD}@127.0.0.1:1/v3")),
        ("OS_USERNAME", "demo".to_owned()),
        ("OS_PASSWORD", PASSWORD.to_owned()),
        ("OS_COMPUTE_ENDPOINT_OVERRIDE", format!("https://{PASSWORD}@host/")),
    ];
    let variables: Vec<_> = variables.iter().map(|(name, value)| (*name, value.as_str())).collect();
    check_problem(None, &[], &variables, "OS_AUTH_URL").await;
    // A fixed token that no header can hold.
    let token = format!("{PASSWORD}\nx");
    let fixed = [
        ("OS_AUTH_TYPE", "admin_token"),
        ("OS_ENDPOINT", "http://127.0.0.1:1"),
        ("OS_TOKEN", token.as_str()),
    ];
    let home = home();
    let (code, out, err) = Process::start(home.path(), &["check"], &fixed).outcome().await;
    assert_eq!(code, 1, "{out}{err}");
    assert!(!format!("{out}{err}").contains("canary"), "{out}{err}");
    assert!(out.contains("visible ASCII"), "{out}{err}");
}

// Promise 76.
#[tokio::test(flavor = "multi_thread")]
async fn keyway_toml_is_not_quoted_either() {
    for bad in [
        format!("password = {PASSWORD}\n"),
        format!("password = \"{PASSWORD}\n"),
        format!("x = \"\\{PASSWORD}\"\n"),
        format!("x = 1{PASSWORD}\n"),
        format!("[x\n{PASSWORD}\n"),
        format!("[cloud.lab]\nallow_http = [\"http://u:{PASSWORD}@h:1\"]\n"),
        format!("[cloud.lab]\nallow_http = [\"https://u:{PASSWORD}@h:1/x\"]\n"),
    ] {
        let home = home();
        write_private(home.path(), "keyway.toml", &bad);
        let (code, out, err) =
            Process::start::<&str>(home.path(), &["--config", "keyway.toml"], &[]).outcome().await;
        assert_eq!(code, 2, "{out}{err}");
        assert!(err.contains("keyway.toml"), "{err}");
        assert!(!format!("{out}{err}").contains("canary"), "{bad}: {out}{err}");
    }
}

// Promise 15.
#[tokio::test(flavor = "multi_thread")]
async fn a_password_as_an_argument_is_refused_and_not_repeated() {
    for arguments in [
        vec!["--password".to_owned(), PASSWORD.to_owned()],
        vec![format!("--password={PASSWORD}")],
        vec![format!("--os-password={PASSWORD}")],
    ] {
        let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
        let home = home();
        let (code, out, err) = Process::start::<&str>(home.path(), &arguments, &[]).outcome().await;
        assert_eq!(code, 2);
        assert!(!format!("{out}{err}").contains("canary"), "{out}{err}");
    }
}

// Promise 79.
#[tokio::test(flavor = "multi_thread")]
async fn the_number_of_series_does_not_follow_what_clients_ask_for() {
    let (home, cloud) = (home(), cloud().await);
    let process = Process::start(home.path(), &ARGUMENTS, &by_password(&cloud));
    let (listen, admin) = process.addresses().await;
    let series = async || {
        let text = get(&admin, "/metrics").await.text();
        assert!(!text.contains("canary"), "{text}");
        let names = text.lines().filter(|line| !line.starts_with('#'));
        names.map(|line| line.rsplit_once(' ').expect("a value").0.to_owned()).collect::<BTreeSet<_>>()
    };
    let ask = async |from: usize, to: usize| {
        let mut connection = Connection::open(listen.parse().expect("an address")).await;
        for n in from..to {
            let id = format!("canary-{n}-{:032x}", n * 7919);
            for (method, path) in [
                ("GET", format!("/compute/servers/{id}")),
                ("GET", format!("/{id}/x")),
                ("GET", format!("/cloud/{id}/compute/servers")),
                ("GET", format!("/region/{id}/compute/servers")),
                ("GET", format!("/project/{id}/compute/servers")),
                ("PUT", format!("/object-store/{id}")),
                ("DELETE", format!("/object-store/{id}")),
                ("BREW", format!("/compute/{id}?{id}={id}")),
                (&*format!("CANARY{n}"), format!("/compute/{id}")),
                ("GET", format!("/compute//{id}/%2F;{id}")),
            ] {
                let method = Method::from_bytes(method.as_bytes()).expect("a method");
                let fields = [("x-id", id.as_str()), ("x-openstack-request-id", id.as_str())];
                connection.send(request(method, &path, &fields, "")).await;
            }
        }
    };
    ask(0, 3).await;
    let few = series().await;
    ask(3, 60).await;
    let many = series().await;
    let new: Vec<_> = many.difference(&few).collect();
    assert!(new.is_empty(), "{new:?}");
    assert!(few.len() > 50 && !targets(&cloud, "compute").is_empty(), "{few:?}");
}

#[test]
fn the_search_of_memory_finds_what_is_there() {
    let own = std::process::id();
    let needle = format!("needle-{}", fastrand::u64(..));
    let kept = needle.clone();
    let found =
        count_in_memory(own, &[&needle, "this-is-not-in-memory".split_at(4).0]).expect("our own memory");
    assert!(found[0] >= 2, "{found:?}");
    drop(kept);
}
