//! `config/systemd`: what its files say, carried out as systemd does it, with the real program.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use keyway::config::{Config, Env, Overrides};
use keyway::demo;
use keyway::facade::Logins;

use crate::support::tls::Authority;
use crate::support::{Connection, Process, cloud, request};

/// The user and the group that systemd-sysusers would make.
const KEYWAY: u32 = 65_532;

/// What the unit says of one setting, each time.
fn settings(name: &str) -> Vec<String> {
    let unit = fs::read_to_string(source("keyway-team.service")).expect("it is there");
    let start = format!("{name}=");
    unit.lines().filter_map(|line| line.strip_prefix(&start)).map(str::to_owned).collect()
}

fn source(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("config/systemd").join(name)
}

// Promises 14, 87.
#[tokio::test(flavor = "multi_thread")]
async fn a_team_s_host_serves_with_what_the_unit_hands_over_and_its_own_user_makes_keys() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("NOT CHECKED: only root can start it as another user; run this test as root");
        return;
    }
    let (cloud, authority, home) =
        (cloud().await, Authority::new(), tempfile::tempdir().expect("a directory"));
    let root = home.path();
    let file = |path: &str, text: &str, group: u32, mode: u32| {
        let path = root.join(path);
        fs::create_dir_all(path.parent().expect("a parent")).expect("a directory");
        fs::write(&path, text).expect("a file");
        chown(&path, Some(0), Some(group)).expect("this is root");
        fs::set_permissions(&path, Permissions::from_mode(mode)).expect("it is ours");
    };
    fs::set_permissions(root, Permissions::from_mode(0o755)).expect("it is ours");
    let below = |text: &str| {
        let root = root.display();
        text.replace("/etc/keyway", &format!("{root}/etc")).replace("/var/lib", &format!("{root}/var"))
    };
    // As the head of the unit installs them.
    let toml = fs::read_to_string(source("keyway.toml")).expect("it is there");
    let certificate = authority.issue("keyway.example");
    file("etc/keyway.toml", &below(&toml), 0, 0o644);
    file("etc/tls.pem", &certificate.certificate, 0, 0o644);
    file("etc/tls.key", &certificate.key, KEYWAY, 0o640);
    file("etc/identities.d/ada.toml", "projects = [\"demo\"]\n", 0, 0o644);
    // As systemd makes the state directory, and hands over the credential.
    assert_eq!(settings("StateDirectory"), ["keyway"]);
    let state = root.join("var/keyway");
    fs::create_dir_all(&state).expect("a directory");
    chown(&state, Some(KEYWAY), Some(KEYWAY)).expect("this is root");
    fs::set_permissions(&state, Permissions::from_mode(0o700)).expect("it is ours");
    assert_eq!(settings("LoadCredential"), ["clouds.yaml:/etc/keyway/clouds.yaml"]);
    let clouds = format!(
        "clouds:\n  prod:\n    auth_type: v3applicationcredential\n    auth:\n      auth_url: {}\n      \
         application_credential_id: {}\n      application_credential_secret: {}\n",
        cloud.auth_url(),
        demo::APPLICATION_CREDENTIAL_ID,
        demo::APPLICATION_CREDENTIAL_SECRET
    );
    file("credentials/clouds.yaml", &clouds, KEYWAY, 0o440);
    let credentials = root.join("credentials").display().to_string();
    assert_eq!(settings("Environment"), ["OS_CLIENT_CONFIG_FILE=%d/clouds.yaml"]);
    let variables = [
        ("CREDENTIALS_DIRECTORY", credentials.clone()),
        ("OS_CLIENT_CONFIG_FILE", format!("{credentials}/clouds.yaml")),
        ("STATE_DIRECTORY", state.display().to_string()),
        ("KEYWAY_CONFIG", root.join("etc/keyway.toml").display().to_string()),
    ];
    // Another process copies it, which is over before the copy is run.
    let program = root.join("keyway");
    let mut copy = Command::new("install");
    let copied = copy.args(["-m", "755", env!("CARGO_BIN_EXE_keyway")]).arg(&program).status();
    assert!(copied.expect("there is such a program").success());
    let start = |arguments: &[&str], variables: &[(&str, String)]| {
        let mut command = Command::new(&program);
        command.args(arguments).env_clear().current_dir(root).envs(variables.iter().cloned());
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.uid(KEYWAY).gid(KEYWAY);
        Process::start_with::<&str>(root, &[], &[], |other| *other = command)
    };

    let (code, key, told) =
        start(&["--config", &variables[3].1, "key", "new", "ada", "--expires", "90d"], &[]).outcome().await;
    assert_eq!(code, 0, "{told}");
    // Root, who asks here, is another user than the one whose state it is.
    let state = ("KEYWAY_FACADE_STATE", "none".to_owned());
    let env = Env::new(variables.clone().into_iter().chain([state]), root).with_root(root);
    let config = Config::load(&Overrides::default(), &env).expect("nothing is wrong with it");
    let main = &config.listeners[0];
    assert_eq!(
        (main.server.address.to_string(), main.logins),
        ("0.0.0.0:8443".to_owned(), Logins::Configured)
    );

    // The same at a place of loopback without TLS, as far as this test is concerned: kubernetes.rs speaks it.
    let plain = toml.replace("tls_", "#tls_");
    assert_ne!(plain, toml);
    file("etc/keyway.toml", &below(&plain), 0, 0o644);
    let arguments = ["serve", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"];
    assert_eq!(settings("ExecStart"), ["/usr/local/bin/keyway serve"]);
    let process = start(&arguments, &variables);
    let (listen, _) = process.addresses().await;
    for (shown, expected) in [(key.trim(), 200), ("no key of ada's", 401)] {
        let mut connection = Connection::open(listen.parse().expect("an address")).await;
        let get = request(http::Method::GET, "/compute/servers", &[("x-auth-token", shown)], "");
        assert_eq!(connection.send(get).await.status, expected);
    }
    let told = process.stderr();
    assert!(!told.contains("\"WARN\"") && !told.contains("\"ERROR\""), "{told}");
}
