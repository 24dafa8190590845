//! What openstacksdk makes of a configuration, and what keyway does: the same, key by key.
//!
//! Each case is files and variables. Where keyway means something else, [`Expected::Other`] says why,
//! and the test fails as soon as that is not so any more.

use std::collections::BTreeSet;
use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::thread;

use fastrand::Rng;
use keyway::config::{Config, Env, Overrides, Problems, WrittenCloud};
use keyway::keystone;
use serde_json::{Map, Value, json};
use tempfile::TempDir;

use crate::support::oracle::Oracle;

/// How many configurations are made up.
const GENERATED: u64 = 800;

/// What openstacksdk puts under every cloud. keyway knows the same where it reads an option.
const DEFAULTS: [(&str, &str); 8] = [
    ("auth_type", "password"),
    ("interface", "public"),
    ("verify", "true"),
    ("network_api_version", "2"),
    ("object_store_api_version", "1"),
    ("image_status_code_retries", "5"),
    ("baremetal_status_code_retries", "5"),
    ("baremetal_introspection_status_code_retries", "5"),
];

/// What is not compared: what openstacksdk's own commands do with images and networks, its timeout (keyway's are
/// in keyway.toml), and what made an entry rather than being part of it.
const ASIDE: [&str; 19] = [
    "api_timeout",
    "auth",
    "client_config_file",
    "client_secure_file",
    "cloud",
    "cloud_name",
    "disable_vendor_agent",
    "floating_ip_source",
    "has_network",
    "image_api_use_tasks",
    "image_format",
    "message",
    "networks",
    "profile",
    "requires_floating_ip",
    "secgroup_source",
    "status",
    "vendor_hook",
    "regions",
];

/// Old names of login options, which openstacksdk leaves where they are if the login takes no such option.
const OLD_NAMES: [&str; 4] = ["user_name", "url", "authorization_code", "openid_scope"];

/// What is to come of a case.
enum Expected {
    /// The same, or an error here as there.
    Same,
    /// Something else, for this reason.
    Other(&'static str),
}

struct Case {
    name: String,
    /// Below the case's directory; `home`, `srv` (the current directory) and `etc` stand for the real ones.
    files: Vec<(String, String)>,
    /// `DIR` in a value is the case's directory.
    vars: Vec<(String, String)>,
    expected: Expected,
}

impl Case {
    /// A clouds.yaml in the home directory, and variables, `NAME=VALUE` one per line.
    fn new(name: &str, clouds: &str, vars: &str) -> Self {
        let vars = vars.lines().map(str::trim).filter(|line| !line.is_empty());
        let vars = vars.map(|line| line.split_once('=').expect("NAME=VALUE"));
        let case = Self {
            name: name.to_owned(),
            files: Vec::new(),
            vars: vars.map(|(name, value)| (name.to_owned(), value.to_owned())).collect(),
            expected: Expected::Same,
        };
        if clouds.is_empty() { case } else { case.file("home/.config/openstack/clouds.yaml", clouds) }
    }

    /// A cloud `prod` of a password login with these options as well, in flow style.
    fn cloud(name: &str, options: &str) -> Self {
        let login = "auth: {auth_url: 'https://c.example/v3', username: ada, password: x1, project_name: p}";
        let has_login = ["auth: {auth_url", "auth: ~"].iter().any(|login| options.contains(login));
        let rest = if has_login { String::new() } else { format!(", {login}") };
        Self::new(name, &format!("clouds: {{prod: {{{options}{rest}}}}}"), "")
    }

    fn file(mut self, path: &str, text: &str) -> Self {
        self.files.push((path.to_owned(), text.to_owned()));
        self
    }

    fn var(mut self, name: &str, value: &str) -> Self {
        self.vars.push((name.to_owned(), value.to_owned()));
        self
    }

    fn but(mut self, why: &'static str) -> Self {
        self.expected = Expected::Other(why);
        self
    }

    /// Writes the files, and says what to ask both.
    fn set_up(&self, dir: &Path) -> (Value, Env) {
        for made in ["home", "srv", "etc"] {
            fs::create_dir_all(dir.join(made)).expect("a directory");
        }
        let files = self.files.iter().map(|(path, text)| (path.as_str(), text.as_str()));
        for (path, text) in files.chain([("srv/ca.pem", ""), ("home/cert.pem", ""), ("home/key.pem", "")]) {
            let path = dir.join(path);
            fs::create_dir_all(path.parent().expect("a parent")).expect("a directory");
            fs::write(&path, text).expect("a file");
            fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("permissions");
        }
        let shown = dir.display().to_string();
        let vars = self.vars.iter().map(|(name, value)| (name.clone(), value.replace("DIR", &shown)));
        let vars: Vec<_> = vars.chain([("HOME".to_owned(), format!("{shown}/home"))]).collect();
        let all: Map<_, _> =
            vars.iter().map(|(name, value)| (name.clone(), Value::String(value.clone()))).collect();
        let question = json!({"env": all, "cwd": dir.join("srv"), "etc": dir.join("etc")});
        (question, Env::new(vars, dir.join("srv")).with_root(dir))
    }
}

/// A value as one text; nothing and an empty text are the same.
fn text(value: Option<&Value>) -> Option<String> {
    match value {
        None | Some(Value::Null) => None,
        Some(Value::String(text)) => Some(text.clone()).filter(|text| !text.is_empty()),
        Some(Value::Array(items)) => Some(
            items.iter().map(|item| text(Some(item)).unwrap_or_default()).collect::<Vec<_>>().join(" | "),
        ),
        Some(value) => Some(value.to_string()),
    }
}

/// The differences between two resolved clouds, each in a line.
fn differences(sdk: &Value, keyway: &WrittenCloud, login_options: &BTreeSet<String>) -> Vec<String> {
    let mut found = Vec::new();
    let mut compare = |key: &str, sdk: Option<String>, keyway: Option<String>| {
        if sdk != keyway {
            found.push(format!("{key}: openstacksdk has {sdk:?}, keyway {keyway:?}"));
        }
    };
    compare("name", text(sdk.get("cloud")), Some(keyway.name().to_owned()));
    let options = keyway.options();
    for option in sdk["options"].as_array().expect("options") {
        let option = option.as_str().expect("a name");
        let value = options.get("auth").and_then(|auth| auth.get(option)).or_else(|| options.get(option));
        compare(&format!("auth.{option}"), text(sdk["config"]["auth"].get(option)), text(value));
    }
    let config = sdk["config"].as_object().expect("options");
    for key in config.keys().chain(options.keys()).collect::<BTreeSet<_>>() {
        let is_login = login_options.contains(key)
            || sdk["options"].as_array().is_some_and(|options| options.iter().any(|option| option == key))
            || OLD_NAMES.contains(&key.as_str());
        if is_login || ASIDE.contains(&key.as_str()) || key.ends_with("timeout") {
            continue;
        }
        let default = DEFAULTS.iter().find(|(name, _)| name == key).map(|(_, value)| (*value).to_owned());
        let (mut sdk, mut keyway) = (text(config.get(key)), text(options.get(key)).or(default));
        if ["verify", "insecure"].contains(&key.as_str()) {
            for value in [&mut sdk, &mut keyway] {
                *value = value.take().map(|text| text.to_ascii_lowercase());
            }
        }
        compare(key, sdk, keyway);
    }
    found
}

/// The same for what keyway works with in the end.
fn final_differences(sdk: &Value, keyway: &keystone::Config, dir: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let mut compare = |what: &str, sdk: String, keyway: String| {
        if sdk != keyway {
            found.push(format!("{what}: openstacksdk uses {sdk}, keyway {keyway}"));
        }
    };
    let region = keyway.region.clone().unwrap_or_default();
    compare("region", text(sdk.get("region")).unwrap_or_default(), region);
    let mut interfaces: Vec<String> = Vec::new();
    let asked = text(sdk.get("interface")).unwrap_or_else(|| "public".to_owned());
    for word in asked.split(" | ") {
        let word = word.trim_end_matches("URL").to_owned();
        if !interfaces.contains(&word) {
            interfaces.push(word);
        }
    }
    let own: Vec<_> = keyway.interfaces.iter().map(ToString::to_string).collect();
    compare("interface", interfaces.join(" | "), own.join(" | "));
    let tls = &keyway.tls;
    let shown = |path: &PathBuf| path.display().to_string();
    let place = |text: &str| shown(&dir.join("srv").join(text));
    let verify = match &sdk["verify"] {
        Value::Bool(verify) => verify.to_string(),
        file => place(file.as_str().expect("a path")),
    };
    compare("verify", verify, tls.ca_file.as_ref().map_or((!tls.insecure).to_string(), shown));
    let cert = match &sdk["cert"] {
        Value::Null => Vec::new(),
        Value::String(cert) => vec![place(cert)],
        both => both.as_array().into_iter().flatten().filter_map(Value::as_str).map(place).collect(),
    };
    let own = tls.client_cert.iter().flat_map(|(cert, key)| [Some(cert), key.as_ref()]).flatten();
    compare("cert", cert.join(" "), own.map(shown).collect::<Vec<_>>().join(" "));
    let own = keyway.api_timeout.map(|timeout| timeout.as_secs_f64().to_string());
    compare("timeout", text(sdk["config"].get("api_timeout")).unwrap_or_default(), own.unwrap_or_default());
    found
}

/// How often what was compared.
#[derive(Debug, Default)]
struct Tally {
    resolved: usize,
    refused: usize,
    usable: usize,
}

/// What keyway makes of a case.
struct Read {
    dir: TempDir,
    written: Result<Vec<WrittenCloud>, Problems>,
    loaded: Result<Config, Problems>,
}

/// How what openstacksdk and keyway make of a case differs.
fn differ(sdk: &Value, keyway: &Read, login_options: &BTreeSet<String>, tally: &mut Tally) -> Vec<String> {
    match (sdk.get("error"), &keyway.written) {
        (None, Ok(clouds)) => {
            tally.resolved += 1;
            let mut found = differences(sdk, &clouds[0], login_options);
            if let Ok(config) = &keyway.loaded {
                tally.usable += 1;
                found.extend(final_differences(sdk, &config.clouds[0], keyway.dir.path()));
            }
            found
        }
        // What is written can be shown even where it is of no use.
        (Some(_), Ok(_)) if keyway.loaded.is_err() => {
            tally.refused += 1;
            Vec::new()
        }
        (Some(_), Err(_)) => {
            tally.refused += 1;
            Vec::new()
        }
        (Some(error), Ok(_)) => vec![format!("openstacksdk refuses it ({error}), keyway does not")],
        (None, Err(problems)) => {
            vec![format!("keyway refuses it, openstacksdk does not: {}", one_line(problems))]
        }
    }
}

fn one_line(problems: &Problems) -> String {
    problems.to_string().replace('\n', "; ")
}

#[test]
fn keyway_reads_clouds_as_openstacksdk_does() {
    let Some(mut oracle) = Oracle::start("resolve.py") else { return };
    let login_options: BTreeSet<String> =
        serde_json::from_value(oracle.read()).expect("the names of login options");
    let cases: Vec<_> = by_hand().into_iter().chain((0..GENERATED).map(generated)).collect();
    let prepared: Vec<_> = cases
        .iter()
        .map(|case| {
            let dir = TempDir::new().expect("a temporary directory");
            let (question, env) = case.set_up(dir.path());
            (dir, question, env)
        })
        .collect();
    let questions: Vec<_> = prepared.iter().map(|(_, question, _)| question.clone()).collect();
    let asking =
        thread::spawn(move || questions.iter().map(|question| oracle.ask(question)).collect::<Vec<_>>());
    let read: Vec<_> = prepared
        .into_iter()
        .map(|(dir, _, env)| {
            let overrides = Overrides::default();
            let written = Config::written_clouds(&overrides, &env);
            Read { dir, written, loaded: Config::load(&overrides, &env) }
        })
        .collect();
    let answers = asking.join().expect("the oracle answers");

    let mut tally = Tally::default();
    let mut wrong = Vec::new();
    for ((case, sdk), keyway) in cases.iter().zip(&answers).zip(&read) {
        let found = differ(sdk, keyway, &login_options, &mut tally);
        let told = match &case.expected {
            Expected::Same if found.is_empty() => continue,
            Expected::Other(_) if !found.is_empty() => continue,
            Expected::Same => found.join("\n    "),
            Expected::Other(why) => format!("there is no difference any more, although {why}"),
        };
        wrong.push(format!(
            "{}:\n    {told}\n    files {:?}\n    variables {:?}",
            case.name, case.files, case.vars
        ));
    }
    assert!(
        wrong.is_empty(),
        "{} cases differ\n{}",
        wrong.len(),
        wrong.iter().take(20).cloned().collect::<Vec<_>>().join("\n")
    );
    println!("{} cases: {tally:?}", cases.len());
    // A generator that makes nothing but nonsense would compare nothing.
    assert!(tally.resolved > 600 && tally.usable > 300 && tally.refused > 10, "{tally:?}");
}

/// A vendor's host that says the same to everybody.
fn vendor() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let url = format!("http://{}", listener.local_addr().expect("an address"));
    let body = r#"{"name": "elsewhere", "profile": {"auth": {"auth_url": "https://{region_name}.elsewhere.example/v3",
        "user_domain_name": "Default"}, "regions": ["e1", {"name": "e2", "values": {"interface": "internal"}}],
        "identity_api_version": 3, "profile": "otc"}}"#;
    thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            let mut head = Vec::new();
            let mut byte = [0];
            while !head.ends_with(b"\r\n\r\n") && matches!(stream.read(&mut byte), Ok(1)) {
                head.push(byte[0]);
            }
            let found = head.starts_with(b"GET /.well-known/openstack/api ");
            let status = if found { "200 OK" } else { "404 Not Found" };
            let length = body.len();
            drop(write!(
                stream,
                "HTTP/1.1 {status}\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}"
            ));
        }
    });
    url
}

const LOGIN: &str = "OS_AUTH_URL=https://c.example/v3\nOS_USERNAME=ada\nOS_PASSWORD=x1\nOS_PROJECT_NAME=p";

fn one(name: &str) -> String {
    format!("clouds: {{{name}: {{auth: {{auth_url: 'https://{name}.example', username: u, password: x}}}}}}")
}

fn by_hand() -> Vec<Case> {
    let all = [places(), choices(), logins(), nothings(), regions(), values(), profiles(), on_purpose()];
    all.into_iter().flatten().collect()
}

/// Where files are, and which wins.
fn places() -> Vec<Case> {
    let homes = ["srv", "xdg/openstack", "home/.config/openstack", "etc/xdg/openstack", "etc/openstack"];
    let mut cases = Vec::new();
    let mut all = Case::new("every place at once", "", "XDG_CONFIG_HOME=DIR/xdg\nOS_CLOUD=c");
    for home in homes.iter().rev() {
        for suffix in ["json", "yml", "yaml"] {
            let text = json!({"clouds": {"c": {"region_name": format!("{home}/{suffix}"), "verify": false,
                "auth": {"auth_url": "https://c.example", "username": "u", "password": "p\u{1f600}"}}}});
            let path = format!("{home}/clouds.{suffix}");
            cases.push(Case::new(&path, "", "XDG_CONFIG_HOME=DIR/xdg").file(&path, &text.to_string()));
            all = all.file(&path, &text.to_string());
            let secure = json!({"clouds": {"c": {"auth": {"password": format!("{home}/{suffix}")}}}});
            let path = format!("{home}/secure.{suffix}");
            cases.push(
                Case::new(&path, &one("c"), "XDG_CONFIG_HOME=DIR/xdg").file(&path, &secure.to_string()),
            );
            all = all.file(&path, &secure.to_string());
        }
    }
    let named = |vars| Case::new("named files", &one("c"), vars).file("own/x.yaml", &one("d"));
    cases.extend([
        all,
        named("OS_CLIENT_CONFIG_FILE=DIR/own/x.yaml"),
        named("OS_CLIENT_CONFIG_FILE=../own/x.yaml"),
        named("OS_CLIENT_CONFIG_FILE="),
        named("OS_CLIENT_SECURE_FILE=DIR/own/s.yml\nOS_CLOUD=c")
            .file("own/s.yml", "clouds: {c: {auth: {password: y}, region_name: r, new: {a: b}}, d: {}}")
            .file("srv/secure.yaml", "clouds: {c: {auth: {password: z}}}"),
        Case::new("in a snap", "", "SNAP_REAL_HOME=DIR/real").file("real/.config/openstack/clouds.yaml", &one("c")),
        Case::new("a snap's own home is second", &one("b"), "SNAP_REAL_HOME=DIR/real")
            .file("real/.config/openstack/clouds.yaml", &one("c"))
            .but("platformdirs still looks into the snap's home first, and keyway into the user's own only"),
        Case::new("a site's directory", "", "XDG_CONFIG_DIRS=DIR/site").file("site/openstack/clouds.yaml", &one("c")),
        Case::new("two of them", "", "XDG_CONFIG_DIRS=DIR/other:DIR/site")
            .file("site/openstack/clouds.yaml", &one("c"))
            .but("openstacksdk takes the list for one directory"),
        Case::new("secure.yaml alone", "", "").file("srv/secure.yaml", &one("c")),
        Case::new(
            "secure.yaml is merged at any depth",
            "clouds: {c: {a: {b: {c: 1, d: 2}}, l: [1, 2], auth: {auth_url: 'https://c.example', username: u}}}",
            "",
        )
        .file("srv/secure.yaml", "clouds: {c: {a: {b: {c: 3}}, l: [3], auth: {password: p}}}"),
        Case::new("an empty clouds.yaml", " ", LOGIN),
        Case::new("a clouds.yaml without clouds", "cache: {auth: true}", LOGIN),
    ]);
    cases
}

/// Which cloud it is.
fn choices() -> Vec<Case> {
    let two = "clouds: {a: {auth: {auth_url: 'https://a.example', username: u, password: x}},
        b: {auth: {auth_url: 'https://b.example', username: u, password: x}}}";
    vec![
        Case::new("the only cloud", &one("c"), ""),
        Case::new("one of two", two, "OS_CLOUD=b"),
        Case::new("none of two", two, ""),
        Case::new("an unknown one", two, "OS_CLOUD=c"),
        Case::new("capital letters count", two, "OS_CLOUD=A"),
        Case::new("none at all", "", ""),
        Case::new("variables", "", LOGIN),
        Case::new("variables win over the only cloud", &one("c"), LOGIN),
        Case::new("OS_CLOUD wins over variables", &one("c"), LOGIN).var("OS_CLOUD", "c"),
        Case::new("OS_CLOUD names the variables", &one("c"), LOGIN).var("OS_CLOUD", "envvars"),
        Case::new("a name for the variables", &one("c"), LOGIN).var("OS_CLOUD_NAME", "mine"),
        Case::new("a name that there is", &one("c"), LOGIN).var("OS_CLOUD_NAME", "c").var("OS_CLOUD", "c"),
        Case::new("variables of others", &one("c"), "OS_TEST_PATH=x\nOS_STDOUT_CAPTURE=1\nOS_LOG_PATH=/"),
        Case::new("selectors alone", &one("c"), "OS_REGION_NAME=r\nOS_CLOUD_NAME=x"),
        Case::new("no mapping", "clouds: [a]", "OS_CLOUD=a"),
        Case::new("an empty cloud", "clouds: {c: }", "OS_CLOUD=c"),
        Case::new("no mapping at all", "[a]", "OS_CLOUD=a"),
    ]
}

/// What becomes of login options.
fn logins() -> Vec<Case> {
    let mut cases = Vec::new();
    let url = "auth_url: 'https://c.example'";
    for options in [
        "username: u, password: x",
        "user_name: u, password: x",
        "user-id: u, password: x, user-domain-name: D",
        "username: u, password: x, project_name: p, domain_id: d",
        "username: u, password: x, project_name: p, domain_name: d, user_domain_name: e",
        "username: u, password: x, project_name: p, domain_id: d, user_domain_name: e",
        "username: u, password: x, tenant_name: p, domain_id: d, project_domain_id: e",
        "username: u, password: x, domain_id: d, user_domain_id: e",
        "username: u, password: x, tenant_id: 17, tenant-name: p",
        "username: u, password: x, project_id: a, tenant_id: b",
        "username: u, password: x, default_domain_name: D, project_name: p",
        "username: u, password: x, system_scope: all",
        "username: u, password: x, trust_id: t",
        "username: 12345, password: 67890",
    ] {
        for (case, entry) in [
            ("in auth", format!("auth: {{{url}, {options}}}")),
            ("beside auth", format!("auth: {{{url}}}, {options}")),
            ("in both", format!("auth: {{{url}, {options}}}, {}", options.replace(": ", ": z"))),
            ("all beside", format!("{url}, {options}")),
        ] {
            let clouds = format!("clouds: {{prod: {{{entry}}}}}");
            cases.push(Case::new(&format!("{options} {case}"), &clouds, ""));
        }
    }
    for (kind, options) in [
        ("password", "username: u, password: x, token: t"),
        ("token", "token: t, project_name: p"),
        ("token", "auth_token: t"),
        ("v3token", "auth-token: t"),
        ("v3password", "username: u, user_domain_id: d, password: x"),
        ("v2password", "username: u, password: x, tenant_name: t"),
        ("v2password", "username: u, password: x, project_name: t, tenant_id: i, project_id: j"),
        ("v2token", "token: t, tenant_name: p"),
        ("v3totp", "username: u, user_domain_id: d, passcode: 123456"),
        ("v3applicationcredential", "application_credential_id: i, application_credential_secret: s"),
        (
            "v3applicationcredential",
            "application_credential_name: n, application_credential_secret: s, username: u",
        ),
        ("admin_token", "endpoint: 'https://e.example', token: t"),
        ("token_endpoint", "url: 'https://e.example', token: t"),
        ("http_basic", "username: u, password: x, endpoint: 'https://e.example'"),
        ("none", "endpoint: 'https://e.example'"),
        ("~", "endpoint: 'https://e.example'"),
        ("''", "endpoint: 'https://e.example'"),
        ("None", "endpoint: 'https://e.example'"),
        (
            "v3oidcpassword",
            "identity_provider: i, protocol: p, client_id: c, username: u, password: x, openid_scope: s, discovery_endpoint: 'https://d'",
        ),
        (
            "v3oidcpassword",
            "identity_provider: i, protocol: p, client_id: c, username: u, password: x, openid_scope: a, scope: b, discovery_endpoint: 'https://d'",
        ),
        (
            "v3oidcclientcredentials",
            "identity_provider: i, protocol: p, client_id: c, client_secret: s, access_token_endpoint: 'https://d'",
        ),
        ("v3oidcaccesstoken", "identity_provider: i, protocol: p, access_token: t"),
        (
            "v3samlpassword",
            "identity_provider: i, protocol: p, identity_provider_url: 'https://d/ECP?a=b', username: u, password: x",
        ),
        (
            "v3adfspassword",
            "identity_provider: i, protocol: p, identity-provider-url: 'https://d/', username: u, password: x, \
             service_provider_endpoint: 'https://c.example/ADFS', service_provider_entity_id: 'urn:e'",
        ),
        (
            "v3oidcauthcode",
            "identity_provider: i, protocol: p, client_id: c, client_secret: s, authorization_code: k, redirect_uri: 'https://r', access_token_endpoint: 'https://d'",
        ),
        (
            "v3oauth2clientcredential",
            "oauth2_endpoint: 'https://o', oauth2_client_id: i, oauth2_client_secret: s",
        ),
        ("v3oauth2mtlsclientcredential", "oauth2_endpoint: 'https://o', oauth2_client_id: i"),
        ("v3oauth1", "consumer_key: a, consumer_secret: b, access_key: c, access_secret: d"),
        ("v3tokenlessauth", "project_name: p, project_domain_name: D"),
        ("magic", "username: u"),
    ] {
        let url =
            if ["admin_token", "token_endpoint", "http_basic", "none", "~", "''", "None"].contains(&kind) {
                "x: y"
            } else {
                url
            };
        for (case, entry) in [
            ("in auth", format!("auth: {{{url}, {options}}}")),
            ("beside auth", format!("auth: {{{url}}}, {options}")),
        ] {
            let clouds = format!("clouds: {{prod: {{auth_type: {kind}, {entry}}}}}");
            cases.push(Case::new(&format!("{kind} {options} {case}"), &clouds, ""));
        }
        if !["~", "''"].contains(&kind) {
            let mut case =
                Case::new(&format!("{kind} {options} in variables"), "", "").var("OS_AUTH_TYPE", kind);
            for option in options.split(", ").chain([url]) {
                let (name, value) = option.split_once(": ").expect("an option");
                let name = name.replace('-', "_").to_uppercase();
                case = case.var(&format!("OS_{name}"), value.trim_matches('\''));
            }
            cases.push(case);
        }
    }
    cases
}

/// What an explicit nothing in one place does to a login's kind in another.
fn nothings() -> Vec<Case> {
    let mut cases = Vec::new();
    let password =
        "auth_url: 'https://c.example/v3', username: u, user_domain_name: D, password: x, project_name: p";
    for auth in [password, "endpoint: 'https://e.example'"] {
        for nothing in ["~", "''", "None"] {
            for (options, secure, vendor) in [
                ("auth_type: v3password,", "auth_type: NOTHING", ""),
                ("auth_type: none,", "auth_type: NOTHING", ""),
                ("", "auth_type: NOTHING", ""),
                ("auth_type: v3password,", "auth_plugin: NOTHING", ""),
                ("auth_plugin: v3password,", "auth_type: NOTHING", ""),
                ("auth_type: v3password, auth_plugin: NOTHING,", "", ""),
                ("auth_type: NOTHING, auth_plugin: v3password,", "", ""),
                ("profile: v, auth_type: NOTHING,", "", "auth_type: v3password"),
                ("profile: v,", "", "auth_type: NOTHING"),
                ("profile: v, auth_type: v3password,", "", "auth_type: NOTHING"),
                ("profile: v,", "auth_type: NOTHING", "auth_type: v3password"),
                ("auth_type: v3password, regions: [{name: r, values: {auth_type: NOTHING}}],", "", ""),
                ("auth_type: NOTHING, regions: [{name: r, values: {auth_type: v3password}}],", "", ""),
                ("regions: [{name: r, values: {auth_type: NOTHING}}],", "", ""),
            ] {
                let fill = |text: &str| text.replace("NOTHING", nothing);
                let name = fill(&format!("nothing {options} {secure} {vendor} {auth}"));
                let clouds = fill(&format!("clouds: {{c: {{{options} auth: {{{auth}}}}}}}"));
                let mut case = Case::new(&name, &clouds, "");
                if !secure.is_empty() {
                    case = case.file("srv/secure.yaml", &fill(&format!("clouds: {{c: {{{secure}}}}}")));
                }
                if !vendor.is_empty() {
                    let vendor = fill(&format!("public-clouds: {{v: {{{vendor}}}}}"));
                    case = case.file("etc/openstack/clouds-public.yaml", &vendor);
                }
                cases.push(case);
            }
        }
        let mut case = Case::new(&format!("nothing in variables, {auth}"), "", "").var("OS_AUTH_TYPE", "");
        for option in auth.split(", ") {
            let (name, value) = option.split_once(": ").expect("an option");
            case = case.var(&format!("OS_{}", name.to_uppercase()), value.trim_matches('\''));
        }
        cases.push(case.but("an empty variable is one that is not set, as for the openstack command"));
    }
    cases
}

/// What becomes of regions, and of templates.
fn regions() -> Vec<Case> {
    let mut cases = Vec::new();
    for (at, options) in [
        "region_name: r1",
        "region-name: r1",
        "region_name: 17",
        "region_name: 'r1,r2'",
        "region_name: [r2, r1]",
        "regions: [r1, r2]",
        "regions: [r1, r2], region_name: r2",
        "regions: []",
        "regions: [{name: r1}, {name: r2, values: {interface: admin, auth: {project_name: q, project-domain-id: d}}}]",
        "regions: [{name: r1, values: {interface: ~, compute_api_version: 2.1}}, r2], interface: internal",
        "regions: [{name: r1, values: {region_name: r9, auth_type: v3password}}, r2], x: 'a{region_name}'",
        "regions: [{values: {}}]",
        "x: '{{y}}', y: '{region_name}', region_name: r1",
        "compute_endpoint_override: 'https://{region_name}.example/v2.1', region_name: r1",
        "x: '{nothing}'",
        "x: '{interface} {network_api_version}'",
        "x: 'a{b'",
        "auth: {auth_url: 'https://{region_name}.example/v3', username: '{u}', password: '{x}'}, region_name: r1",
        "auth: {auth_url: 'https://{region_name}.example/v3', username: u, password: x}, regions: [r1, r2]",
        "auth: {auth_url: 'https://{env}.{region_name}.example', username: u, password: x}, regions: [r1, r2], env: test",
        "auth: {auth_url: 'https://{x}.example', username: u, password: x}",
        "auth: {auth_url: 'https://{region_name.example', username: u, password: x}, region_name: r1",
    ]
    .into_iter()
    .enumerate()
    {
        cases.push(Case::cloud(&format!("regions {at}"), options));
        for region in ["r1", "r2", "R1"] {
            cases.push(Case::cloud(&format!("region {region} of {at}"), options).var("OS_REGION_NAME", region));
        }
    }
    cases.push(Case::new("a region in variables", "", LOGIN).var("OS_REGION_NAME", "r1"));
    cases.push(Case::new("two regions in variables", "", LOGIN).var("OS_REGION_NAME", "r1,r2"));
    cases.push(
        Case::new("a template in variables", "", LOGIN)
            .var("OS_REGION_NAME", "r1")
            .var("OS_AUTH_URL", "https://{region_name}.example")
            .but("openstacksdk fills it in under auth only"),
    );
    cases
}

/// Everything else that an entry says.
fn values() -> Vec<Case> {
    let mut cases = Vec::new();
    for options in [
        "interface: internal",
        "interface: internalURL",
        "interface: [internal, public]",
        "endpoint_type: adminURL",
        "endpoint_type: admin, interface: public",
        "compute_endpoint_type: internal, image_endpoint_type: admin",
        "verify: false",
        "verify: true, cacert: ca.pem",
        "verify: false, cacert: ca.pem",
        "insecure: true",
        "insecure: false, verify: false",
        "insecure: true, cacert: ca.pem, verify: true",
        "insecure: 'True'",
        "cacert: ca.pem",
        "cert: ~/cert.pem",
        "cert: ~/cert.pem, key: ~/key.pem",
        "compute-api-version: 2, volume_api_version: '3', image_api_version: 2.0",
        "identity_api_version: 3",
        "network_api_version: '2.0', object-store-api-version: 1",
        "compute_default_microversion: '2.79', placement_service_type: x, volume_service_name: y",
        "image_status_code_retries: 2, compute_connect_retries: 7, baremetal-status-code-retries: 1",
        "block_storage_endpoint_override: 'https://b.example/v3', image_endpoint: 'https://i.example'",
        "volume_endpoint_override: 'https://v.example/v3/%(project_id)s', object_store_endpoint_override: 'https://s/AUTH_$(tenant_id)s'",
        "rate_limit: {compute: 5, image: 0.5}, concurrency: {compute: 3}",
        "image_region_name: r9, load_balancer_interface: admin",
        "compute_timeout: 3",
        "api_timeout: 30",
        "api_timeout: 0.5, network_timeout: 12",
        "other: {a-b: c}",
    ] {
        cases.push(Case::cloud(options, options));
        let mut case = Case::new(&format!("{options} in variables"), "", LOGIN);
        if options.contains(['[', '{'])
            || options.starts_with("insecure: false")
            || options.contains("verify: ")
        {
            continue;
        }
        for option in options.split(", ") {
            let (name, value) = option.split_once(": ").expect("an option");
            let name = format!("OS_{}", name.replace('-', "_").to_uppercase());
            case = case.var(&name, value.trim_matches('\''));
        }
        cases.push(case);
    }
    cases
}

/// Vendors.
fn profiles() -> Vec<Case> {
    let public = "public-clouds:
  own:
    auth: {auth-url: 'https://own.example', user_domain_name: D}
    regions: [o1, {name: o2, values: {interface: admin, auth: {project_name: z}}}]
    interface: internal
    status: shutdown
  otc: {auth: {auth_url: 'https://otc.example'}, region_name: x, profile: auro}
";
    let login = "auth: {username: u, password: x, project_name: p}";
    let bundled: Value = serde_json::from_str(include_str!("../../src/config/vendors/profiles.json"))
        .expect("the bundled profiles");
    let mut cases = Vec::new();
    for (name, profile) in bundled["profiles"].as_object().expect("profiles") {
        if profile.get("profile").is_some() {
            // The vendor itself would be asked.
            continue;
        }
        for key in ["profile", "cloud"] {
            let clouds = format!("clouds: {{mine: {{{key}: {name}, {login}}}}}");
            cases.push(Case::new(&format!("{key} {name}"), &clouds, ""));
        }
        let own = format!(
            "clouds: {{mine: {{profile: {name}, {login}, region_name: r9, auth_url: 'https://own'}}}}"
        );
        cases.push(Case::new(&format!("{name} in a region of its own"), &own, ""));
        let regions = profile.get("regions").and_then(Value::as_array).into_iter().flatten();
        for region in regions.filter_map(Value::as_str).chain(["r9"]) {
            let clouds = format!("clouds: {{mine: {{profile: {name}, {login}}}}}");
            cases.push(Case::new(&format!("{name} in {region}"), &clouds, "").var("OS_REGION_NAME", region));
        }
    }
    for (name, options, region) in [
        ("a profile of one's own", "profile: own", ""),
        ("another region of it", "profile: own", "o2"),
        ("an unknown region of it", "profile: own", "o3"),
        ("one's own name for it", "profile: own, region_name: o2", ""),
        ("one's own regions for it", "profile: own, regions: [o2]", ""),
        ("no regions of one's own", "profile: own, regions: []", ""),
        ("a bundled name", "profile: otc", ""),
        ("both words", "profile: otc, cloud: own", ""),
        ("an unknown one", "profile: nobody", ""),
        ("an empty one", "profile: ''", ""),
        ("one that is the variables' name", "profile: envvars", ""),
        ("old name of a bundled one", "cloud: auro, interface: admin, verify: false", ""),
        ("an old name wins over a profile's", "profile: own, endpoint_type: admin", ""),
    ] {
        let clouds = format!("clouds: {{mine: {{{options}, {login}}}}}");
        let case = Case::new(name, &clouds, "").file("etc/openstack/clouds-public.yaml", public);
        cases.push(if region.is_empty() { case } else { case.var("OS_REGION_NAME", region) });
    }
    cases.push(Case::new("a profile of variables", "", "OS_PROFILE=own\nOS_USERNAME=u\nOS_PASSWORD=x").file(
        "srv/clouds-public.json",
        &json!({"public-clouds": {"own": {"auth": {"auth_url": "https://o"}}}}).to_string(),
    ));
    let url = vendor();
    for (name, options) in [
        ("a profile behind a URL", format!("profile: '{url}'")),
        ("a path does not matter", format!("profile: '{url}/some/path?x=y'")),
        ("its second region", format!("profile: '{url}', region_name: e2")),
        ("its second region's values", format!("profile: '{url}', regions: [e2], interface: admin")),
    ] {
        let case = Case::new(name, &format!("clouds: {{mine: {{{options}, {login}}}}}"), "");
        cases.push(if name.starts_with("a path") {
            case.but("what follows `?` in a URL is no part of a profile's address, and may be a secret")
        } else {
            case
        });
    }
    let asked = format!("clouds: {{mine: {{profile: '{url}', {login}}}}}");
    cases.push(Case::new("a region of a URL", &asked, "OS_REGION_NAME=e2"));
    cases.push(Case::new("no region of a URL", &asked, "OS_REGION_NAME=e3"));
    cases
}

/// Where keyway means to differ.
fn on_purpose() -> Vec<Case> {
    let unreadable =
        "a file that would have been used but is of no use is a problem, not a reason for another one";
    let as_written = "a value is what is written, not what YAML 1.1 takes it for";
    let empty = "an empty value is none";
    vec![
        Case::new("a malformed file", "", "")
            .file("srv/clouds.yaml", "clouds: [")
            .file("etc/openstack/clouds.yaml", &one("c"))
            .but(unreadable),
        Case::new("a malformed secure file", &one("c"), "")
            .file("srv/secure.yaml", "clouds: [")
            .but(unreadable),
        Case::new(
            "a malformed vendor file",
            "clouds: {c: {profile: auro, auth: {username: u, password: x}}}",
            "",
        )
        .file("srv/clouds-public.yaml", "x: [")
        .but(unreadable),
        Case::new("a named file that is not there", &one("c"), "OS_CLIENT_CONFIG_FILE=/nowhere/x.yaml")
            .but(unreadable),
        Case::new(
            "a key twice",
            "clouds: {c: {auth: {auth_url: 'https://a', auth_url: 'https://b', username: u, password: x}}}",
            "",
        )
        .but("nobody knows which of two was meant"),
        Case::cloud("octal", "auth: {auth_url: 'https://c', username: u, password: 0123}").but(as_written),
        Case::cloud("a fraction", "compute_default_microversion: 2.10").but(as_written),
        Case::cloud("a boolean", "auth: {auth_url: 'https://c', username: no, password: x}").but(as_written),
        Case::cloud(
            "null in auth",
            "auth: {auth_url: 'https://c', username: u, password: x, project_name: ~}",
        )
        .but("openstacksdk makes a project of the name None"),
        Case::cloud("an empty value beside auth", "project_name: ''").but(empty),
        Case::cloud("endpoint-type", "endpoint-type: internal")
            .but("openstacksdk looks for the old name before it knows `-`"),
        Case::cloud("auth-type", "auth-type: v3password").but("openstacksdk's own default hides it"),
        Case::cloud("null for auth under a profile", "profile: auro, username: u, password: x, auth: ~")
            .but("openstacksdk fails on it"),
        Case::cloud("a text for regions", "regions: r1").but("openstacksdk takes each letter for a region"),
        Case::cloud("a list in a template", "interface: [internal, public], x: '{interface}'")
            .but("openstacksdk writes it as Python does"),
        Case::new("null under a mapping of secure.yaml", "clouds: {c: {auth: ~}}", "")
            .file("srv/secure.yaml", &one("c"))
            .but("openstacksdk fails on it"),
        Case::cloud("auth_plugin", "auth_plugin: v3token, auth: {auth_url: 'https://c', token: t}")
            .but("openstacksdk's own default hides the old name"),
        Case::cloud("spaces in region_name", "region_name: 'r1 , r2'")
            .but("a region's name has no space at its ends"),
        Case::cloud("nothing for regions", "regions: ~").but("openstacksdk fails on it"),
        Case::cloud(
            "two spellings",
            "auth: {auth_url: 'https://c', username: u, password: x, project-name: a, project_name: b}",
        )
        .but("`_` wins over `-` everywhere"),
        Case::new(
            "a template beside auth",
            "clouds: {c: {auth_url: 'https://{region_name}.c', username: u, password: x, region_name: r}}",
            "",
        )
        .but("openstacksdk fills it in under auth only"),
        Case::cloud(
            "an old name of a service's interface",
            "compute_interface: admin, compute_endpoint_type: internal",
        )
        .but("the name of today wins, not the one that stands last"),
        Case::new("variables that are no login", &one("c"), "OS_INTERFACE=admin")
            .but("OS_NAME, OS_VERSION and the like are on many systems"),
        Case::new("a variable that is empty", &one("c"), "OS_USERNAME=").but(empty),
        Case::new("an empty auth_type", "", LOGIN).var("OS_AUTH_TYPE", "").but(empty),
        Case::new("no check by a variable", "", LOGIN)
            .var("OS_INSECURE", "1")
            .but("1 and yes are true, for all booleans"),
        Case::new("no check by another", "", LOGIN)
            .var("OS_VERIFY", "false")
            .but("openstacksdk takes it for a file's name"),
        Case::new("a cloud of the variables' name", &one("envvars"), "OS_CLOUD=envvars")
            .but("openstacksdk refuses a file with that name even if no variable describes a cloud"),
        Case::new("a variable that nobody reads", "", LOGIN)
            .var("OS_PROMPT", "{x}")
            .but("openstacksdk fills in everything"),
    ]
}

/// A configuration of chance, the same for the same number.
fn generated(seed: u64) -> Case {
    let mut rng = Rng::with_seed(seed);
    let mut case = Case::new(&format!("generated {seed}"), "", "");
    // One spelling in a case: which of two wins is another question.
    let dash = rng.u8(..4) == 0;
    if rng.u8(..5) == 0 {
        let kind = word(&mut rng, &KINDS);
        for (key, value) in flat(login(&mut rng, kind, "envvars")) {
            case = case.var(&format!("OS_{}", key.to_uppercase()), &value);
        }
        if rng.bool() {
            case = case.var("OS_REGION_NAME", word(&mut rng, &["r1", "r2"]));
        }
        return case;
    }

    let names = ["prod", "lab", "a.b"];
    let count = rng.usize(1..=3);
    let mut clouds = Map::new();
    let mut secure = Map::new();
    let mut public = Map::new();
    for name in &names[..count] {
        let kind = word(&mut rng, &KINDS);
        let mut login = login(&mut rng, kind, name);
        let mut layers = [Map::new(), Map::new(), Map::new()];
        let mut beside = options(&mut rng);
        // Each option goes to a layer; those of the login into `auth` or beside it.
        for (key, value) in std::mem::take(&mut login) {
            let at = rng.usize(..layers.len());
            put(&mut layers[at], &key, value.clone(), key != "auth_type" && rng.u8(..4) > 0);
            if rng.u8(..6) == 0 {
                let again = json!(format!("{}-again", value.as_str().unwrap_or("x")));
                let again = if key == "auth_type" { value } else { again };
                let at = rng.usize(..layers.len());
                put(&mut layers[at], &key, again, key != "auth_type" && rng.bool());
            }
        }
        for (key, value) in std::mem::take(&mut beside) {
            let at = rng.usize(..layers.len());
            layers[at].insert(key, value);
        }
        let [below, mut own, above] = layers;
        match rng.u8(..3) {
            0 => {
                let profile = format!("vendor-{name}");
                let mut below = below;
                vendor_regions(&mut rng, &mut below);
                public.insert(profile.clone(), Value::Object(below));
                own.insert(word(&mut rng, &["profile", "profile", "cloud"]).to_owned(), json!(profile));
            }
            1 => {
                merge_into(&mut own, below);
                let vendor =
                    word(&mut rng, &["auro", "otc", "rackspace", "citycloud", "bluebox", "catalyst"]);
                own.insert("profile".to_owned(), json!(vendor));
            }
            _ => merge_into(&mut own, below),
        }
        if rng.bool() {
            secure.insert((*name).to_owned(), Value::Object(above));
        } else {
            merge_into(&mut own, above);
        }
        if rng.u8(..3) == 0 {
            own_regions(&mut rng, &mut own);
        }
        // openstacksdk fails on an `auth` that only secure.yaml has if there is a scalar; there is none.
        clouds.insert((*name).to_owned(), Value::Object(own));
    }
    if count > 1 || rng.bool() {
        case = case.var("OS_CLOUD", names[rng.usize(..count)]);
    }
    if rng.u8(..4) == 0 {
        case = case.var("OS_REGION_NAME", word(&mut rng, &["r1", "r2", "eu-nl", "DFW"]));
    }
    let dirs = ["srv", "home/.config/openstack", "etc/xdg/openstack", "etc/openstack"];
    let suffixes = ["yaml", "yml", "json"];
    for (base, key, content) in [
        ("clouds", "clouds", clouds),
        ("secure", "clouds", secure),
        ("clouds-public", "public-clouds", public),
    ] {
        if content.is_empty() {
            continue;
        }
        let path = format!("{}/{base}.{}", word(&mut rng, &dirs), word(&mut rng, &suffixes));
        let mut document = json!({key: content});
        if dash {
            spell_with_dashes(&mut document);
        }
        case = case.file(&path, &document.to_string());
    }
    case
}

const KINDS: [&str; 12] = [
    "",
    "",
    "password",
    "v3password",
    "v2password",
    "token",
    "v3token",
    "v3applicationcredential",
    "v3totp",
    "admin_token",
    "token_endpoint",
    "v3oidcclientcredentials",
];

fn word<'a>(rng: &mut Rng, words: &[&'a str]) -> &'a str {
    words[rng.usize(..words.len())]
}

/// The options of a login, all that it needs and some that it may have.
fn login(rng: &mut Rng, kind: &str, name: &str) -> Map<String, Value> {
    let mut found = Map::new();
    let mut set = |key: &str, value: String| drop(found.insert(key.to_owned(), Value::String(value)));
    if !kind.is_empty() {
        set("auth_type", kind.to_owned());
    }
    let endpoint = word(rng, &["https://c.example", "https://c.example/identity/"]);
    if kind == "admin_token" || kind == "token_endpoint" {
        set(word(rng, &["endpoint", "url"]), endpoint.to_owned());
        set(word(rng, &["token", "auth_token"]), format!("t-{name}"));
        return found;
    }
    let end = match kind {
        "v2password" => "/v2.0",
        kind if kind.starts_with("v3") => "/v3",
        _ => "",
    };
    set("auth_url", format!("{}{end}", endpoint.trim_end_matches('/')));
    let by_id = rng.u8(..4) == 0;
    match kind {
        "token" | "v3token" => set(word(rng, &["token", "auth_token"]), format!("t-{name}")),
        "v3applicationcredential" => {
            set("application_credential_id", format!("i-{name}"));
            set("application_credential_secret", format!("s-{name}"));
        }
        "v3oidcclientcredentials" => {
            for key in ["identity_provider", "protocol", "client_id", "client_secret"] {
                set(key, format!("{key}-{name}"));
            }
            set("access_token_endpoint", "https://idp.example/token".to_owned());
        }
        _ => {
            set(if by_id { "user_id" } else { word(rng, &["username", "user_name"]) }, format!("u-{name}"));
            set(if kind == "v3totp" { "passcode" } else { "password" }, format!("x-{name}"));
        }
    }
    if !by_id && !["v2password", "v3oidcclientcredentials", "v3applicationcredential"].contains(&kind) {
        for key in [
            "user_domain_id",
            "user_domain_name",
            "project_domain_name",
            "project_domain_id",
            "domain_id",
            "domain_name",
        ] {
            if rng.u8(..4) == 0 {
                set(key, word(rng, &["Default", "d1", "d2"]).to_owned());
            }
        }
    }
    for key in ["project_name", "project_id", "tenant_name", "tenant_id", "default_domain_id"] {
        if rng.u8(..3) == 0 && kind != "v3applicationcredential" {
            set(key, word(rng, &["p1", "p2", "12345"]).to_owned());
        }
    }
    found
}

/// Options beside the login.
fn options(rng: &mut Rng) -> Map<String, Value> {
    let choices: [(&str, &[Value]); 16] = [
        ("interface", &[json!("internal"), json!("admin"), json!(["internal", "public"])]),
        ("endpoint_type", &[json!("internalURL"), json!("public")]),
        ("verify", &[json!(true), json!(false)]),
        ("insecure", &[json!(true), json!(false)]),
        ("cacert", &[json!("ca.pem")]),
        ("cert", &[json!("~/cert.pem")]),
        ("compute_api_version", &[json!("2.1"), json!(2)]),
        ("identity_api_version", &[json!("3"), json!(3)]),
        ("volume_api_version", &[json!(3)]),
        ("compute_default_microversion", &[json!("2.79")]),
        (
            "image_endpoint_override",
            &[json!("https://i.example/v2"), json!("https://{region_name}.i.example")],
        ),
        ("network_interface", &[json!("admin")]),
        ("image_endpoint_type", &[json!("admin")]),
        ("object_store_api_version", &[json!("1")]),
        ("image_status_code_retries", &[json!(3)]),
        ("load_balancer_service_name", &[json!("lb {network_api_version}")]),
    ];
    let mut found = Map::new();
    for (key, values) in &choices {
        if rng.u8(..5) == 0 {
            found.insert((*key).to_owned(), values[rng.usize(..values.len())].clone());
        }
    }
    found
}

/// Regions, as an entry or a vendor writes them.
fn own_regions(rng: &mut Rng, into: &mut Map<String, Value>) {
    let values = json!({"interface": "admin", "auth": {"project_name": "of-r2"}, "compute_api_version": 2});
    let (key, value) = match rng.u8(..4) {
        0 => ("region_name", json!("r1")),
        1 => ("region_name", json!("r2,r1")),
        2 => ("regions", json!(["r1", {"name": "r2", "values": values}])),
        _ => ("regions", json!([{"name": "r2", "values": values}, "r1"])),
    };
    into.insert(key.to_owned(), value);
}

fn vendor_regions(rng: &mut Rng, into: &mut Map<String, Value>) {
    if rng.bool() {
        own_regions(rng, into);
        // openstacksdk knows one region there.
        if into.get("region_name").and_then(Value::as_str).is_some_and(|name| name.contains(',')) {
            into.insert("region_name".to_owned(), json!("r2"));
        }
    }
}

fn put(layer: &mut Map<String, Value>, key: &str, value: Value, in_auth: bool) {
    if in_auth {
        let auth = layer.entry("auth").or_insert_with(|| json!({}));
        auth[key] = value;
    } else {
        layer.insert(key.to_owned(), value);
    }
}

fn merge_into(below: &mut Map<String, Value>, above: Map<String, Value>) {
    for (key, value) in above {
        match (below.get_mut(&key), value) {
            (Some(Value::Object(below)), Value::Object(above)) => merge_into(below, above),
            (_, value) => drop(below.insert(key, value)),
        }
    }
}

fn flat(options: Map<String, Value>) -> impl Iterator<Item = (String, String)> {
    options.into_iter().map(|(key, value)| (key, value.as_str().expect("a text").to_owned()))
}

/// `-` for `_` in the names of options, but for those that openstacksdk looks for too early to know them.
fn spell_with_dashes(document: &mut Value) {
    match document {
        Value::Array(items) => items.iter_mut().for_each(spell_with_dashes),
        Value::Object(members) => {
            for (key, mut value) in std::mem::take(members) {
                spell_with_dashes(&mut value);
                let stays = ["auth_type", "region_name"].contains(&&*key) || key.ends_with("endpoint_type");
                members.insert(if stays { key } else { key.replace('_', "-") }, value);
            }
        }
        _ => {}
    }
}
