//! Logins with a passcode that a person types, once.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::SystemTime;

use keyway::demo::{self, Cloud, OTHER_PROJECT, TOTP_SECRET};
use keyway::keystone::{Secret, totp};
use rustix::fs::{Mode, OFlags};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{LocalModes, tcgetattr};

use crate::support::variables::{Variables, cold};
use crate::support::{Process, TestKeyway, cloud, eventually};

fn variables(cloud: &Cloud, auth_type: &str) -> Variables {
    vec![
        ("OS_AUTH_URL", cloud.auth_url()),
        ("OS_AUTH_TYPE", auth_type.to_owned()),
        ("OS_USERNAME", demo::USER.to_owned()),
        ("OS_USER_DOMAIN_NAME", demo::DOMAIN.to_owned()),
        ("OS_PROJECT_NAME", demo::PROJECT.to_owned()),
        ("OS_PROJECT_DOMAIN_NAME", demo::DOMAIN.to_owned()),
        ("OS_REGION_NAME", "RegionOne".to_owned()),
    ]
}

/// keyway in this process, with this home.
fn at_home(home: &Path, variables: &Variables) -> TestKeyway {
    let mut variables = variables.clone();
    variables.push(("HOME", home.display().to_string()));
    cold(&variables)
}

fn code() -> Secret {
    totp::code(&Secret::new(TOTP_SECRET), SystemTime::now()).expect("a code")
}

/// Both ends of a terminal: who sits at it, and the program.
fn terminal() -> (File, File) {
    let person = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).expect("there are terminals");
    grantpt(&person).and_then(|()| unlockpt(&person)).expect("it is ours");
    let name = ptsname(&person, Vec::new()).expect("it has a name");
    let program: OwnedFd =
        rustix::fs::open(&*name, OFlags::RDWR | OFlags::NOCTTY, Mode::empty()).expect("it is ours");
    (person.into(), program.into())
}

/// `keyway login` at a terminal where `typed` is typed; its exit code, and what the terminal showed of it.
async fn log_in(home: &Path, variables: &Variables, typed: &[u8]) -> (i32, String, String) {
    let (mut person, program) = terminal();
    let process = Process::start_with(home, &["login"], variables, |command| {
        command.stdin(program);
    });
    // The question is no whole line; what is typed from then on is not shown.
    let asked = async || {
        let modes = tcgetattr(&person).expect("it is a terminal").local_modes;
        (!modes.contains(LocalModes::ECHO)).then_some(())
    };
    eventually("the question", asked).await;
    person.write_all(typed).expect("somebody listens");
    let (code, stdout, stderr) = process.outcome().await;
    let mut shown = Vec::new();
    // It ends with an error, since nobody has the other end any more.
    let _ = person.read_to_end(&mut shown);
    (code, String::from_utf8_lossy(&shown).into_owned(), format!("{stdout}\n{stderr}"))
}

async fn run(home: &Path, command: &str, variables: &Variables) -> (i32, String, String) {
    Process::start(home, &[command], variables).outcome().await
}

// Promise 74.
#[tokio::test(flavor = "multi_thread")]
async fn a_passcode_is_typed_once_at_a_terminal_that_does_not_show_it() {
    for (auth_type, rules) in [("v3totp", &["totp"][..]), ("v3multifactor", &["password", "totp"])] {
        let cloud = cloud().await;
        cloud.set_auth_rules(&[rules]);
        let home = tempfile::tempdir().expect("a directory");
        let mut variables = variables(&cloud, auth_type);
        if auth_type == "v3multifactor" {
            variables.push(("OS_AUTH_METHODS", "v3password,v3totp".to_owned()));
            variables.push(("OS_PASSWORD", demo::PASSWORD.to_owned()));
        }
        let keyway = at_home(home.path(), &variables);
        keyway.get("/compute/servers").await.message(503, "login_required");
        assert_eq!(cloud.token_requests(), 0, "nobody was asked");

        let code = code();
        // Somebody mistypes the first digit.
        let typed = [b"x\x7f", code.expose().as_bytes(), b"\r"].concat();
        let (exit, shown, said) = log_in(home.path(), &variables, &typed).await;
        assert_eq!(exit, 0, "{said}");
        assert!(said.contains("cloud envvars: logged in as demo until 20"), "{said}");
        assert!(said.contains("Passcode for cloud envvars: "), "{said}");
        assert!(!shown.contains(code.expose()) && !said.contains(code.expose()), "{shown} {said}");

        let served = async || (keyway.get("/compute/servers").await.status == 200).then_some(());
        eventually("the login of the person", served).await;
        assert_eq!(keyway.get(&format!("/project/{OTHER_PROJECT}/compute/servers")).await.status, 200);
        let token = keyway.token().await;
        let (exit, stdout, _) = run(home.path(), "status", &variables).await;
        assert!(exit == 0 && stdout.contains("logged in as demo"), "{stdout}");

        let (exit, stdout, stderr) = run(home.path(), "logout", &variables).await;
        assert_eq!(exit, 0, "{stdout} {stderr}");
        let over = async || {
            (keyway.get("/compute/servers").await.header("x-keyway-error") == "login_required").then_some(())
        };
        eventually("the end of it", over).await;
        eventually("its revocation", async || (!cloud.accepts(&token)).then_some(())).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_passcode_may_come_by_a_pipe_and_whoever_gives_none_is_told() {
    let cloud = cloud().await;
    let home = tempfile::tempdir().expect("a directory");
    let variables = variables(&cloud, "v3totp");
    let (exit, _, stderr) = run(home.path(), "login", &variables).await;
    assert_eq!(exit, 1);
    assert!(
        stderr.contains("cloud envvars: no passcode (nothing was entered): enter it at the terminal"),
        "{stderr}"
    );
    // Ctrl-C, Ctrl-D, and an empty line.
    for typed in [&b"12\x03"[..], b"\x04", b" \r"] {
        let (exit, _, said) = log_in(home.path(), &variables, typed).await;
        assert!(exit == 1 && said.contains("no passcode"), "{said}");
    }
    assert_eq!(cloud.token_requests(), 0);
    let (exit, _, said) = log_in(home.path(), &variables, b"000000\r").await;
    assert!(exit == 1 && said.contains("rejected"), "{said}");

    let file = home.path().join("code");
    std::fs::write(&file, format!("{}\n", code().expose())).expect("a file");
    let process = Process::start_with(home.path(), &["login"], &variables, |command| {
        command.stdin(File::open(&file).expect("a file"));
    });
    let (exit, stdout, stderr) = process.outcome().await;
    assert_eq!(exit, 0, "{stderr}");
    assert!(stdout.contains("cloud envvars: logged in as demo until 20"), "{stdout}");
    let keyway = at_home(home.path(), &variables);
    assert_eq!(keyway.get("/compute/servers").await.status, 200);
}
