//! `keyway env`: what an OpenStack client is told, so that it logs in at a running keyway.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;

use http::Method;
use keyway::demo::{self, Cloud};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::{Answer, Connection, Process, cloud, cloud_variables, request};

const SERVE: [&str; 6] = ["--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--log-format", "json"];

fn home() -> TempDir {
    tempfile::tempdir().expect("a directory for temporary files")
}

/// A client's environment or its entry of clouds.yaml, by names of variables.
pub(crate) type Told = BTreeMap<String, String>;

/// Logs in with what a client was told; nothing but this decides how.
pub(crate) async fn log_in(told: &Told) -> Answer {
    let text = |name: &str| Value::from(told.get(name).map(String::as_str));
    let user = json!({
        "name": text("OS_USERNAME"), "password": text("OS_PASSWORD"), "domain": {"name": text("OS_USER_DOMAIN_NAME")},
    });
    let mut auth = json!({"identity": {"methods": ["password"], "password": {"user": user}}});
    if told.contains_key("OS_PROJECT_NAME") {
        let domain = json!({"name": text("OS_PROJECT_DOMAIN_NAME")});
        auth["scope"] = json!({"project": {"name": text("OS_PROJECT_NAME"), "domain": domain}});
    } else if told.contains_key("OS_DOMAIN_NAME") {
        auth["scope"] = json!({"domain": {"name": text("OS_DOMAIN_NAME")}});
    } else if told.get("OS_SYSTEM_SCOPE").is_some_and(|scope| scope == "all") {
        auth["scope"] = json!({"system": {"all": true}});
    }
    let url = told["OS_AUTH_URL"].strip_prefix("http://").expect("plain http");
    let (address, path) = url.split_once('/').expect("a path");
    let body = json!({ "auth": auth }).to_string();
    let json = [("content-type", "application/json")];
    let login = request(Method::POST, &format!("/{path}/auth/tokens"), &json, body);
    Connection::open(address.parse().expect("an address")).await.send(login).await
}

/// Asks a service as a client does: at the URL of the login's catalog, with its token.
pub(crate) async fn ask(told: &Told, login: &Answer, service: &str, path: &str) -> Answer {
    let catalog = login.json()["token"]["catalog"].clone();
    let services = catalog.as_array().expect("a catalog").iter();
    let mut endpoints = services
        .filter(|entry| entry["type"] == service)
        .flat_map(|entry| entry["endpoints"].as_array())
        .flatten();
    let endpoint = endpoints.find(|endpoint| {
        endpoint["interface"] == told["OS_INTERFACE"] && endpoint["region"] == told["OS_REGION_NAME"]
    });
    let url = endpoint.and_then(|endpoint| endpoint["url"].as_str()).expect("an endpoint");
    let (address, root) =
        url.strip_prefix("http://").and_then(|url| url.split_once('/')).expect("plain http");
    let token = [("x-auth-token", login.header("x-subject-token"))];
    let asked = request(Method::GET, &format!("/{root}{path}"), &token, "");
    Connection::open(address.parse().expect("an address")).await.send(asked).await
}

/// Checks that what a client was told opens the cloud.
pub(crate) async fn opens(told: &Told, cloud: &Cloud) {
    let login = log_in(told).await;
    assert_eq!(login.status, 201, "{told:?} {login:?}");
    let before = cloud.requests("compute").len();
    let answer = ask(told, &login, "compute", "/servers").await;
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(answer.json()["servers"].as_array().map(Vec::len), Some(3));
    assert_eq!(cloud.requests("compute").len(), before + 1);
}

async fn serving<V: AsRef<std::ffi::OsStr>>(
    home: &TempDir,
    flags: &[&str],
    variables: &[(&str, V)],
) -> (Process, String) {
    let process = Process::start(home.path(), &[&SERVE, flags].concat(), variables);
    let (listen, _) = process.addresses().await;
    (process, listen)
}

/// What `keyway env` prints.
async fn printed<V: AsRef<std::ffi::OsStr>>(home: &Path, flags: &[&str], variables: &[(&str, V)]) -> String {
    let (code, out, err) = Process::start(home, &[&["env"], flags].concat(), variables).outcome().await;
    assert_eq!((code, err.as_str()), (0, ""), "{out}");
    out
}

/// What a shell has of these variables once it has read the lines, where it had others before.
fn evaluated(shell: &str, lines: &str) -> Option<Told> {
    let mut command = Command::new(shell);
    command.args(["-ec", "eval \"$1\"; env", shell, lines]);
    for (name, value) in [
        ("OS_PASSWORD", "leftover"),
        ("OS_AUTH_URL", "leftover"),
        ("OS_CLOUD", "leftover"),
        ("OS_PROJECT_ID", "leftover"),
        ("ST_AUTH", "leftover"),
    ] {
        command.env(name, value);
    }
    let output = command.output().ok()?;
    assert!(output.status.success(), "{shell}: {}", String::from_utf8_lossy(&output.stderr));
    let set = String::from_utf8(output.stdout).expect("text");
    let ours = set.lines().filter(|line| line.starts_with("OS_") || line.starts_with("ST_"));
    Some(ours.filter_map(|line| line.split_once('=')).map(|(k, v)| (k.to_owned(), v.to_owned())).collect())
}

#[tokio::test(flavor = "multi_thread")]
async fn env_points_clients_at_a_running_keyway_and_holds_no_secret() {
    let (home, cloud) = (home(), cloud().await);
    let variables = cloud_variables(&cloud);
    let (_keyway, listen) = serving(&home, &[], &variables).await;
    let lines = printed(home.path(), &["--listen", &listen], &variables).await;
    let told = evaluated("sh", &lines).expect("there is a shell");
    let expected = [
        ("OS_AUTH_URL", format!("http://{listen}/identity/v3")),
        ("OS_IDENTITY_API_VERSION", "3".to_owned()),
        ("OS_INTERFACE", "public".to_owned()),
        ("OS_PASSWORD", "keyway".to_owned()),
        ("OS_PROJECT_DOMAIN_NAME", demo::DOMAIN.to_owned()),
        ("OS_PROJECT_NAME", demo::PROJECT.to_owned()),
        ("OS_REGION_NAME", "RegionOne".to_owned()),
        ("OS_TENANT_NAME", demo::PROJECT.to_owned()),
        ("OS_USERNAME", "keyway".to_owned()),
        ("OS_USER_DOMAIN_NAME", demo::DOMAIN.to_owned()),
        ("ST_AUTH_VERSION", "3".to_owned()),
    ];
    assert_eq!(told, expected.map(|(name, value)| (name.to_owned(), value)).into());
    opens(&told, &cloud).await;
    assert!(!lines.contains(&format!("={}", demo::PASSWORD)) && !lines.contains("gAAAA"), "{lines}");
}

#[tokio::test(flavor = "multi_thread")]
async fn env_is_for_any_shell_and_clears_what_was_there() {
    let (home, cloud) = (home(), cloud().await);
    let lines = printed(home.path(), &[], &cloud_variables(&cloud)).await;
    let expected = evaluated("sh", &lines).expect("there is a shell");
    for shell in ["bash", "dash", "zsh"] {
        match evaluated(shell, &lines) {
            Some(told) => assert_eq!(told, expected, "{shell}"),
            None => eprintln!("skipped: there is no {shell} here"),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn env_asks_for_the_scope_that_keyway_s_own_token_has() {
    let (home, cloud) = (home(), cloud().await);
    let mut login = cloud_variables(&cloud);
    login.retain(|(name, _)| !name.starts_with("OS_PROJECT"));
    for (more, expected) in [
        (("OS_DOMAIN_NAME", demo::DOMAIN), "OS_DOMAIN_NAME=Default"),
        (("OS_SYSTEM_SCOPE", "all"), "OS_SYSTEM_SCOPE=all"),
        // By its id alone, and yet its name and its domain's are told.
        (
            ("OS_PROJECT_ID", demo::PROJECT_ID),
            "OS_PROJECT_DOMAIN_NAME=Default OS_PROJECT_NAME=demo OS_TENANT_NAME=demo",
        ),
    ] {
        let variables: Vec<_> = login.iter().cloned().chain([(more.0, more.1.to_owned())]).collect();
        let (_keyway, listen) = serving(&home, &[], &variables).await;
        let lines = printed(home.path(), &["--listen", &listen], &variables).await;
        let told = evaluated("sh", &lines).expect("there is a shell");
        let scope: Vec<_> = told
            .iter()
            .filter(|(name, _)| {
                ["OS_PROJECT", "OS_TENANT", "OS_DOMAIN", "OS_SYSTEM"].iter().any(|p| name.starts_with(p))
            })
            .map(|(name, value)| format!("{name}={value}"))
            .collect();
        assert_eq!(scope.join(" "), expected);
        let answer = log_in(&told).await;
        assert_eq!(answer.status, 201, "{told:?} {answer:?}");
    }
}

fn write_clouds(home: &TempDir, yaml: &str) {
    let path = home.path().join("clouds.yaml");
    fs::write(&path, yaml).expect("a writable directory");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("it is ours");
}

fn clouds_yaml(cloud: &Cloud, names: &[&str]) -> String {
    let mut text = "clouds:\n".to_owned();
    for name in names {
        text += &format!(
            "  {name}:\n    region_name: RegionOne\n    auth: {{auth_url: '{}', username: {}, password: {}, \
             user_domain_name: {domain}, project_name: {}, project_domain_name: {domain}}}\n",
            cloud.auth_url(),
            demo::USER,
            demo::PASSWORD,
            demo::PROJECT,
            domain = demo::DOMAIN,
        );
    }
    text
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cloud_that_is_not_the_default_one_is_asked_for_by_name() {
    let (home, cloud) = (home(), cloud().await);
    write_clouds(&home, &clouds_yaml(&cloud, &["prod", "lab one"]));
    let flags = ["--cloud", "prod", "--cloud", "lab one"];
    let (_keyway, listen) = serving::<&str>(&home, &flags, &[]).await;
    for (name, path) in [("prod", "/cloud/prod"), ("lab one", "/cloud/lab%20one")] {
        let lines = printed::<&str>(home.path(), &["--cloud", name, "--listen", &listen], &[]).await;
        let told = evaluated("sh", &lines).expect("there is a shell");
        assert_eq!(told["OS_AUTH_URL"], format!("http://{listen}{path}/identity/v3"));
        opens(&told, &cloud).await;
    }
    let lines = printed(home.path(), &["--listen", &listen], &[("OS_CLOUD", "prod")]).await;
    assert!(lines.contains(&format!("OS_AUTH_URL=http://{listen}/identity/v3\n")), "{lines}");
}

#[tokio::test(flavor = "multi_thread")]
async fn clouds_yaml_has_an_entry_for_each_cloud_and_a_client_reads_it() {
    let (home, cloud) = (home(), cloud().await);
    write_clouds(&home, &clouds_yaml(&cloud, &["prod", "lab"]));
    let flags = ["--cloud", "prod", "--cloud", "lab"];
    let (_keyway, listen) = serving::<&str>(&home, &flags, &[]).await;
    let flags = [&flags[..], &["--clouds-yaml", "--listen", &listen]].concat();
    let yaml = printed::<&str>(home.path(), &flags, &[]).await;
    assert!(yaml.starts_with("clouds:\n") && !yaml.contains(&format!("\"{}\"", demo::PASSWORD)), "{yaml}");

    // keyway itself reads clouds.yaml as the SDK does.
    let client = self::home();
    write_clouds(&client, &yaml);
    for name in ["prod", "lab"] {
        let (code, token, err) =
            Process::start::<&str>(client.path(), &["token", "--cloud", name], &[]).outcome().await;
        assert_eq!(code, 0, "{yaml}{err}");
        let address = listen.parse().expect("an address");
        let asked =
            request(Method::GET, &format!("/cloud/{name}/compute/servers"), &[("x-auth-token", &token)], "");
        assert_eq!(Connection::open(address).await.send(asked).await.status, 200, "{token}");
    }

    // The SDK's own name for OS_* variables is none for clouds.yaml.
    let yaml = printed(home.path(), &["--clouds-yaml"], &cloud_variables(&cloud)).await;
    let names: Vec<_> =
        yaml.lines().filter(|line| line.starts_with("  ") && !line.starts_with("   ")).collect();
    assert_eq!(names, ["  \"keyway\":"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn env_says_where_no_client_can_be_pointed_at() {
    let (home, cloud) = (home(), cloud().await);
    let socket = format!("unix:{}", home.path().join("k.sock").display());
    for listen in [socket.as_str(), "127.0.0.1:0"] {
        let arguments = ["env", "--listen", listen];
        let (code, out, err) =
            Process::start(home.path(), &arguments, &cloud_variables(&cloud)).outcome().await;
        assert_eq!((code, out.as_str()), (1, ""), "{err}");
        assert!(
            err.contains(listen) && err.contains("OpenStack clients need an IP address and a port"),
            "{err}"
        );
    }
    // Beside a socket there is a listener that they can use.
    let both = format!("listen = '{socket}'\n[listener.clients]\naddress = '127.0.0.1:9999'\n");
    fs::write(home.path().join("k.toml"), both).unwrap();
    let lines = printed(home.path(), &["--config", "k.toml"], &cloud_variables(&cloud)).await;
    assert!(lines.contains("OS_AUTH_URL=http://127.0.0.1:9999/identity/v3\n"), "{lines}");
}

/// keyway.toml of a listener that wants logins.
fn with_logins(home: &TempDir) {
    let path = home.path().join("k.toml");
    let text = "[listener.main]\nlogin = 'configured'\n[identity.ada]\npassword = 'hunter2-ada'\n\
                [identity.bob]\npassword = 'hunter2-bob'\n";
    fs::write(&path, text).expect("a writable directory");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("it is ours");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_configured_login_is_named_and_its_password_left_to_the_user() {
    let (home, cloud) = (home(), cloud().await);
    with_logins(&home);
    let variables = cloud_variables(&cloud);
    let (_keyway, listen) = serving(&home, &["--config", "k.toml"], &variables).await;
    let arguments = ["env", "--config", "k.toml", "--listen", &listen];
    let (code, lines, err) = Process::start(home.path(), &arguments, &variables).outcome().await;
    assert_eq!(code, 0, "{err}");
    let remark = "the listener main wants a login: set the password (or a key) of one of ada, bob";
    assert!(lines.contains(&format!("# {remark}\n")) && err.contains(remark), "{lines}{err}");
    assert!(!format!("{lines}{err}").contains("hunter2"), "{lines}{err}");

    let mut told = evaluated("sh", &lines).expect("there is a shell");
    assert_eq!((told["OS_USERNAME"].as_str(), told.get("OS_PASSWORD")), ("ada", None));
    for (password, status) in [("keyway", 401), ("hunter2-bob", 401)] {
        told.insert("OS_PASSWORD".to_owned(), password.to_owned());
        assert_eq!(log_in(&told).await.status, status, "{password}");
    }
    told.insert("OS_PASSWORD".to_owned(), "hunter2-ada".to_owned());
    opens(&told, &cloud).await;

    let yaml = [&arguments[..], &["--clouds-yaml"]].concat();
    let (code, yaml, _) = Process::start(home.path(), &yaml, &variables).outcome().await;
    assert_eq!(code, 0);
    assert!(yaml.contains("username: \"ada\"\n") && !yaml.contains("  password:"), "{yaml}");
}
