//! `keyway run -- CMD`: a keyway for one command, and how alike the two are from outside.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::process::{Command, Stdio};

use http::Method;
use keyway::demo::Cloud;
use rustix::process::{Pid, Signal, geteuid, kill_process, test_kill_process};
use tempfile::TempDir;

use crate::env::{log_in, opens};
use crate::support::{Answer, Connection, Process, cloud, cloud_variables, eventually, request};

const KEYWAY: &str = env!("CARGO_BIN_EXE_keyway");

fn home() -> TempDir {
    tempfile::tempdir().expect("a directory for temporary files")
}

/// Runs a script, in a process group of its own: what a terminal of the tests' may send is not meant for it.
fn start(home: &TempDir, cloud: &Cloud, script: &str) -> Process {
    start_with(home, cloud, &[], &[], script)
}

fn start_with(
    home: &TempDir,
    cloud: &Cloud,
    flags: &[&str],
    more: &[(&'static str, &str)],
    script: &str,
) -> Process {
    let mut variables = cloud_variables(cloud);
    variables.extend(more.iter().map(|(name, value)| (*name, (*value).to_owned())));
    variables.push(("PATH", std::env::var("PATH").unwrap_or_default()));
    let arguments = [&["run"], flags, &["--", "sh", "-c", script]].concat();
    Process::start_with(home.path(), &arguments, &variables, |command| {
        command.process_group(0);
    })
}

/// What a script ends with; its output and keyway's.
async fn run(script: &str) -> (i32, String, String) {
    let (home, cloud) = (home(), cloud().await);
    start(&home, &cloud, script).outcome().await
}

/// Tells its environment, and then waits for its end.
const TELL: &str = "env && echo READY && exec sleep 600";

/// The environment of a command that runs [`TELL`].
async fn environment(process: &Process) -> BTreeMap<String, String> {
    process.stdout_line("the command's last line", |line| (line == "READY").then_some(())).await;
    let out = process.stdout();
    let pairs = out.lines().filter_map(|line| line.split_once('='));
    pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}

async fn get(url: &str, path: &str, token: Option<&str>) -> Answer {
    let address = url.strip_prefix("http://").expect("plain http").parse().expect("an address");
    let headers: Vec<_> = token.map(|token| ("x-auth-token", token)).into_iter().collect();
    Connection::open(address).await.send(request(Method::GET, path, &headers, "")).await
}

async fn end(mut process: Process) {
    process.signal(Signal::TERM);
    assert_eq!(process.exit().await.code(), Some(128 + 15), "{}", process.stderr());
}

// Promise 11.
#[tokio::test(flavor = "multi_thread")]
async fn the_command_alone_gets_a_keyway_and_the_secret_that_opens_it() {
    let (home, cloud) = (home(), cloud().await);
    let process = start(&home, &cloud, TELL);
    let other = start(&home, &cloud, TELL);
    let (told, other_told) = (environment(&process).await, environment(&other).await);
    let (url, secret) = (&told["KEYWAY_URL"], &told["KEYWAY_TOKEN"]);
    assert!(url.starts_with("http://127.0.0.1:"), "{url}");
    assert!(secret.len() >= 32 && secret.bytes().all(|byte| byte.is_ascii_hexdigit()), "{secret}");
    assert_eq!(told["OS_PASSWORD"], *secret);
    assert_ne!((url, secret), (&other_told["KEYWAY_URL"], &other_told["KEYWAY_TOKEN"]));

    get(url, "/compute/servers", Some(secret)).await.passed_on(200);
    opens(&told, &cloud).await;
    let login = |password: &str| {
        let mut told = told.clone();
        told.insert("OS_PASSWORD".to_owned(), password.to_owned());
        async move { log_in(&told).await.status }
    };
    assert_eq!(login(&other_told["OS_PASSWORD"]).await, 401);
    assert_eq!(login("keyway").await, 401);
    for wrong in [None, Some("keyway"), Some(""), Some(&other_told["KEYWAY_TOKEN"]), Some(&secret[1..])] {
        let before = cloud.requests("compute").len();
        assert_eq!(get(url, "/compute/servers", wrong).await.status, 401, "{wrong:?}");
        assert_eq!(cloud.requests("compute").len(), before, "{wrong:?}");
    }
    end(process).await;
    end(other).await;
}

// Promises 11, 15, 74.
#[tokio::test(flavor = "multi_thread")]
async fn the_secret_of_a_run_is_in_no_argument_no_environment_of_keyway_s_and_no_log() {
    let (home, cloud) = (home(), cloud().await);
    let process = start_with(&home, &cloud, &["--log-level", "trace"], &[], TELL);
    let told = environment(&process).await;
    let secret = &told["KEYWAY_TOKEN"];
    assert_eq!(get(&told["KEYWAY_URL"], "/compute/servers", Some(secret)).await.status, 200);
    process
        .stderr_line("the line of the request", |line| line.contains("/compute/servers").then_some(()))
        .await;

    let proc = |name: &str| {
        fs::read(format!("/proc/{}/{name}", process.id()))
            .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
    };
    let cmdline = proc("cmdline").expect("everyone may read it");
    assert!(cmdline.contains("sleep 600") && !cmdline.contains(secret.as_str()), "{cmdline}");
    match proc("environ") {
        Ok(environ) => {
            assert!(environ.contains("OS_AUTH_URL=") && !environ.contains(secret.as_str()), "{environ}")
        }
        Err(error) => assert!(!geteuid().is_root(), "{error}"),
    }
    let log = process.stderr();
    assert!(!log.contains(secret.as_str()) && !log.contains(keyway::demo::PASSWORD), "{log}");
    end(process).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_s_environment_leads_to_keyway_and_nowhere_else() {
    let (home, cloud) = (home(), cloud().await);
    let yaml =
        "clouds:\n  elsewhere:\n    auth: {auth_url: 'http://elsewhere/v3', username: u, password: p}\n";
    fs::write(home.path().join("clouds.yaml"), yaml).unwrap();
    let more = [
        ("OS_CACERT", "/nonexistent"),
        ("OS_COMPUTE_ENDPOINT_OVERRIDE", "http://elsewhere"),
        ("ST_AUTH", "http://elsewhere/auth/v1.0"),
        ("KEYWAY_LISTEN", "127.0.0.1:1"),
        ("UNRELATED", "kept"),
        ("http_proxy", "http://127.0.0.1:1"),
    ];
    let more =
        more.map(
            |(name, value)| {
                if name == "OS_CACERT" { ("OS_CLIENT_CONFIG_FILE", "clouds.yaml") } else { (name, value) }
            },
        );
    let process = start_with(&home, &cloud, &["--cloud", "envvars"], &more, TELL);
    let mut told = environment(&process).await;
    assert_eq!(told["UNRELATED"], "kept");
    assert_eq!(told["no_proxy"], "127.0.0.1");
    let (url, secret) = (told["KEYWAY_URL"].clone(), told["KEYWAY_TOKEN"].clone());
    told.retain(|name, _| ["OS_", "ST_", "KEYWAY_"].iter().any(|prefix| name.starts_with(prefix)));
    let expected = [
        ("KEYWAY_TOKEN", secret.as_str()),
        ("KEYWAY_URL", &url),
        ("OS_AUTH_URL", &format!("{url}/identity/v3")),
        ("OS_IDENTITY_API_VERSION", "3"),
        ("OS_INTERFACE", "public"),
        ("OS_PASSWORD", &secret),
        ("OS_PROJECT_DOMAIN_NAME", "Default"),
        ("OS_PROJECT_NAME", "demo"),
        ("OS_REGION_NAME", "RegionOne"),
        ("OS_TENANT_NAME", "demo"),
        ("OS_USERNAME", "keyway"),
        ("OS_USER_DOMAIN_NAME", "Default"),
        ("ST_AUTH_VERSION", "3"),
    ];
    let expected: BTreeMap<_, _> =
        expected.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
    assert_eq!(told, expected);
    end(process).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn keyway_ends_as_the_command_did() {
    for (script, code) in
        [("true", 0), ("exit 7", 7), ("exit 255", 255), ("kill -TERM $$", 143), ("kill -KILL $$", 137)]
    {
        let (ended, out, err) = run(script).await;
        assert_eq!((ended, out.as_str(), err.as_str()), (code, "", ""), "{script}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_that_can_t_be_run_is_127_or_126_and_named() {
    let (home, cloud) = (home(), cloud().await);
    fs::write(home.path().join("data"), "no program").unwrap();
    for (command, code) in
        [("no-such-command-q7x9z", 127), ("./no-such-file", 127), ("./data", 126), ("/", 126)]
    {
        let arguments = ["run", "--", command];
        let process = Process::start(home.path(), &arguments, &cloud_variables(&cloud));
        let (ended, out, err) = process.outcome().await;
        assert_eq!((ended, out.as_str()), (code, ""), "{command}: {err}");
        assert!(err.contains(&format!("keyway: can't run {command}: ")), "{err}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_usage_and_configuration_are_2() {
    let (home, cloud) = (home(), cloud().await);
    for arguments in [
        &["run"] as &[&str],
        &["run", "--"],
        &["run", "true"],
        &["run", "--listen", "127.0.0.1:0", "--", "true"],
        &["run", "--cloud", "no-such-cloud", "--", "true"],
    ] {
        let (code, out, err) =
            Process::start(home.path(), arguments, &cloud_variables(&cloud)).outcome().await;
        assert_eq!((code, out.as_str()), (2, ""), "{arguments:?}: {err}");
        assert!(!err.is_empty());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rejected_login_is_1_and_the_command_never_starts() {
    let (home, cloud) = (home(), cloud().await);
    let wrong = [("OS_PASSWORD", "wr0ng-password")];
    let (code, out, err) = start_with(&home, &cloud, &[], &wrong, "touch started").outcome().await;
    assert_eq!((code, out.as_str()), (1, ""), "{err}");
    assert!(err.contains("the command was not started: Keystone rejected the login with 401"), "{err}");
    assert!(!err.contains("wr0ng-password"), "{err}");
    assert!(!home.path().join("started").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn it_waits_for_keystone_but_not_for_ever() {
    let (home, cloud) = (home(), cloud().await);
    cloud.pause("identity").await;
    let process = start(&home, &cloud, "echo started");
    let waits = "no token from Keystone";
    process.stderr_line("the line that says that it waits", |line| line.contains(waits).then_some(())).await;
    assert_eq!(process.stdout(), "");
    cloud.resume("identity").await;
    let (code, out, _) = process.outcome().await;
    assert_eq!((code, out.as_str()), (0, "started"));

    cloud.pause("identity").await;
    let short = [("KEYWAY_TIMEOUTS_KEYSTONE", "1s")];
    let (code, out, err) = start_with(&home, &cloud, &[], &short, "echo started").outcome().await;
    assert_eq!((code, out.as_str()), (1, ""), "{err}");
    assert!(err.contains("the command was not started: Keystone can't be reached"), "{err}");

    // Nothing but a signal ends the wait.
    let mut process = start(&home, &cloud, "echo started");
    process.stderr_line("the line that says that it waits", |line| line.contains(waits).then_some(())).await;
    process.signal(Signal::INT);
    assert_eq!(process.exit().await.code(), Some(130));
}

#[tokio::test(flavor = "multi_thread")]
async fn signals_reach_the_command() {
    for (signal, name) in [
        (Signal::TERM, "TERM"),
        (Signal::INT, "INT"),
        (Signal::HUP, "HUP"),
        (Signal::QUIT, "QUIT"),
        (Signal::USR1, "USR1"),
        (Signal::USR2, "USR2"),
    ] {
        let (home, cloud) = (home(), cloud().await);
        let script =
            format!("trap 'echo got {name}; exit 3' {name}; echo READY; while :; do sleep 0.05; done");
        let process = start(&home, &cloud, &script);
        process.stdout_line("the command's start", |line| (line == "READY").then_some(())).await;
        process.signal(signal);
        let (code, out, err) = process.outcome().await;
        assert_eq!((code, out), (3, format!("READY\ngot {name}")), "{err}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_that_does_not_want_to_end_is_asked_twice_and_then_left_alone() {
    let (home, cloud) = (home(), cloud().await);
    let script = "trap 'echo no' TERM; echo $$; while :; do sleep 0.05; done";
    let mut process = start(&home, &cloud, script);
    let pid = process.stdout_line("its id", |line| line.parse().ok()).await;
    let pid = Pid::from_raw(pid).expect("an id");
    // One is not enough, and neither are several at once.
    for _ in 0..3 {
        process.signal(Signal::TERM);
    }
    process.stdout_line("its answer", |line| (line == "no").then_some(())).await;
    assert_eq!(process.ended(), None);
    let status = eventually("keyway's end", async || {
        process.signal(Signal::TERM);
        process.ended()
    })
    .await;
    assert_eq!(status.code(), Some(128 + 15));
    assert!(test_kill_process(pid).is_ok(), "it was killed");
    kill_process(pid, Signal::KILL).expect("it is there");
    assert!(process.stderr().contains("keyway ends without it"), "{}", process.stderr());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_command_leaves_behind_does_not_hold_up_keyway() {
    let (code, out, _) = run("sleep 600 >/dev/null 2>&1 & echo $!").await;
    assert_eq!(code, 0);
    let left = Pid::from_raw(out.parse().expect("an id")).expect("an id");
    kill_process(left, Signal::KILL).expect("it goes on");
}

#[tokio::test(flavor = "multi_thread")]
async fn stdin_and_both_outputs_are_the_command_s_own() {
    let (home, cloud) = (home(), cloud().await);
    let input = home.path().join("input");
    fs::write(&input, "one\ntwo\n").unwrap();
    let arguments = ["run", "--", "sh", "-c", "cat; echo three >&2"];
    let process = Process::start_with(home.path(), &arguments, &cloud_variables(&cloud), |command| {
        command.stdin(File::open(&input).unwrap());
    });
    assert_eq!(process.outcome().await, (0, "one\ntwo".to_owned(), "three".to_owned()));
}

/// Runs `keyway run -- COMMAND` by a shell that prepares for it.
async fn prepared(prepare: &str, command: &str) -> (i32, String, String) {
    let (home, cloud) = (home(), cloud().await);
    let process = Process::start_with(home.path(), &[], &cloud_variables(&cloud), |process| {
        let mut shell = Command::new("sh");
        shell.args(["-c", &format!("{prepare}; exec \"$0\" run -- {command}"), KEYWAY]);
        shell.env_clear().current_dir(home.path()).envs(cloud_variables(&cloud));
        shell.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        *process = shell;
    });
    process.outcome().await
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_and_ignored_signals_are_those_of_whoever_started_it() {
    let prepare = "trap '' HUP; ulimit -Sn 123; ulimit -Sc 7";
    let asked = "cat /proc/self/limits; grep SigIgn /proc/self/status";
    // The last ones are those of the C library's own signals.
    let ignored = |text: &str| u64::from_str_radix(text.rsplit('\t').next()?.trim(), 16).ok();
    let ignored = |text: &str| ignored(text).expect("a mask") & 0x7fff_ffff;
    let limits = |text: &str| text.split("SigIgn").next().map(str::to_owned);
    let plain = Command::new("sh").args(["-c", &format!("{prepare}; {asked}")]).output().expect("a shell");
    let plain = String::from_utf8(plain.stdout).expect("text");
    let (code, out, err) = prepared(prepare, &format!("sh -c '{asked}'")).await;
    assert_eq!((code, err.as_str()), (0, ""), "{err}");
    assert_eq!((limits(&out), ignored(&out)), (limits(&plain), ignored(&plain)));
    let (code, out, _) = prepared("trap '' HUP", "sh -c 'kill -HUP $$; echo alive'").await;
    assert_eq!((code, out.as_str()), (0, "alive"));
}

// Promise 82.
#[tokio::test(flavor = "multi_thread")]
async fn keyway_is_closed_to_its_user_and_the_command_is_not() {
    let (home, cloud) = (home(), cloud().await);
    let program = home.path().join("keyway");
    fs::copy(KEYWAY, &program).expect("room for a copy");
    for path in [&program, home.path()] {
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).expect("it is ours");
    }
    // The kernel gives what belongs to an undumpable process to root.
    let script =
        "stat -c %u /proc/$PPID/environ; stat -c %u /proc/$$/environ; grep 'core file' /proc/$PPID/limits";
    let user = if geteuid().is_root() { 65_534 } else { geteuid().as_raw() };
    let process = Process::start_with(home.path(), &[], &cloud_variables(&cloud), |process| {
        let mut command = Command::new(&program);
        command.args(["run", "--", "sh", "-c", script]).env_clear().current_dir(home.path());
        command.envs(cloud_variables(&cloud)).uid(user);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        *process = command;
    });
    let (code, out, err) = process.outcome().await;
    assert_eq!(code, 0, "{err}");
    let lines: Vec<_> = out.lines().collect();
    assert_eq!(lines[..2], ["0", &user.to_string()], "{out}");
    assert_eq!(lines[2].split_whitespace().nth(4), Some("0"), "{out}");
}

/// On a terminal, where Ctrl-C goes to all processes in its foreground.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_typed_on_a_terminal_reaches_the_command_once() {
    if Command::new("script").arg("--version").output().is_err() {
        let _ =
            writeln!(std::io::stderr(), "\n*** NOT CHECKED: there is no `script` here, so no terminal ***\n");
        return;
    }
    let (home, cloud) = (home(), cloud().await);
    let (reader, mut keyboard) = std::io::pipe().expect("a pipe");
    let script =
        "trap 'echo INT' INT; trap 'echo QUIT; exit 5' QUIT; echo READY; while :; do sleep 0.05; done";
    fs::write(home.path().join("script.sh"), script).unwrap();
    let process = Process::start_with(home.path(), &[], &cloud_variables(&cloud), |process| {
        let mut terminal = Command::new("script");
        terminal.args(["-qefc", &format!("exec '{KEYWAY}' run -- sh script.sh"), "/dev/null"]);
        terminal.env_clear().current_dir(home.path()).envs(cloud_variables(&cloud));
        terminal.stdin(reader).stdout(Stdio::piped()).stderr(Stdio::piped());
        *process = terminal;
    });
    let line = async |wanted: &str| {
        process.stdout_line(wanted, |line| line.trim_end().ends_with(wanted).then_some(())).await;
    };
    line("READY").await;
    keyboard.write_all(b"\x03").unwrap();
    line("INT").await;
    keyboard.write_all(b"\x1c").unwrap();
    let (code, out, err) = process.outcome().await;
    assert_eq!(code, 5, "{out}{err}");
    let count = |word: &str| out.lines().filter(|line| line.trim_end().ends_with(word)).count();
    assert_eq!((count("INT"), count("QUIT")), (1, 1), "{out}");
}
