//! `config/kubernetes`: what its files say, carried out as the kubelet does it, with the real program in the pod's
//! place.

use std::collections::BTreeMap;
use std::fs::{self, Permissions};
use std::net::SocketAddr;
use std::os::unix::fs::{PermissionsExt as _, chown, symlink};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use keyway::config::{Config, Env, Overrides};
use keyway::demo::{self, Cloud};
use keyway::facade::Logins;
use rustix::process::Signal;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::support::raw::{Peer, field, status, within};
use crate::support::tls::Authority;
use crate::support::{Process, cloud, eventually};

/// The documents of a file.
fn documents(file: &str) -> Vec<Value> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/kubernetes").join(file);
    let text = fs::read_to_string(path).expect("it is there");
    text.split("\n---\n").map(|document| serde_saphyr::from_str(document).expect("it is YAML")).collect()
}

/// The texts of a ConfigMap or Secret, by name.
type Files = BTreeMap<String, String>;

/// What the ConfigMaps and Secrets hold, by their names.
fn contents() -> BTreeMap<String, Files> {
    let documents = [documents("configmap.yaml"), documents("secret.yaml")].concat();
    let text = |value: &Value| value.as_str().expect("a text").to_owned();
    let of = |document: &Value| {
        let files = document.get("data").or(document.get("stringData")).expect("it holds something");
        let files = files.as_object().expect("files");
        (
            text(&document["metadata"]["name"]),
            files.iter().map(|(name, file)| (name.clone(), text(file))).collect(),
        )
    };
    documents.iter().map(of).collect()
}

/// A directory with these files, as the kubelet mounts and changes them: the names are links into `..data`, which is a
/// link to a directory of the time; with a change it leads to another one.
#[derive(Clone)]
struct Mount {
    path: PathBuf,
    mode: u32,
    group: Option<u32>,
}

impl Mount {
    fn write(&self, time: &str, files: &Files) {
        let (data, new) = (self.path.join(time), self.path.join("..data_tmp"));
        let old = fs::read_link(self.path.join("..data")).ok();
        fs::create_dir_all(&data).expect("a directory");
        self.hand_over(&self.path, 0o777);
        self.hand_over(&data, 0o755);
        for (name, text) in files {
            fs::write(data.join(name), text).expect("a file");
            self.hand_over(&data.join(name), self.mode);
        }
        symlink(time, &new).expect("a link");
        fs::rename(&new, self.path.join("..data")).expect("it is replaced");
        let kept = |name: &str| name.starts_with("..") || files.contains_key(name);
        for entry in fs::read_dir(&self.path).expect("a directory").flatten() {
            if !kept(entry.file_name().to_str().expect("a name")) {
                fs::remove_file(entry.path()).expect("it is a link");
            }
        }
        for name in files.keys().filter(|name| !self.path.join(name).is_symlink()) {
            symlink(Path::new("..data").join(name), self.path.join(name)).expect("a link");
        }
        if let Some(old) = old {
            fs::remove_dir_all(self.path.join(old)).expect("nobody needs it");
        }
    }

    /// `fsGroup`: the group may read what there is, and directories hand it on. The owner stays root.
    fn hand_over(&self, path: &Path, mode: u32) {
        let more = match self.group {
            None => 0,
            Some(_) if path.is_dir() => 0o2550,
            Some(_) => 0o440,
        };
        if let Some(group) = self.group {
            chown(path, Some(0), Some(group)).expect("this is root");
        }
        fs::set_permissions(path, Permissions::from_mode(mode | more)).expect("it is ours");
    }
}

/// A mode such as 0440, which is octal to Kubernetes, and a number with these digits to the YAML of these tests.
fn mode(value: &Value) -> u32 {
    let digits = value.as_f64().expect("a number").to_string();
    u32::from_str_radix(&digits, 8).expect("octal digits")
}

/// A pod's files, below a directory of their own, and its keyway's variables.
struct Pod {
    root: TempDir,
    container: Value,
    mounts: BTreeMap<String, Mount>,
    updates: u32,
    variables: Vec<(String, String)>,
    user: Option<u32>,
}

impl Pod {
    /// As the Deployment has it. Paths are below `root`, in what the files say, too.
    fn of(contents: &BTreeMap<String, Files>, as_its_user: bool) -> Self {
        Self::of_container("deployment.yaml", "containers", contents, as_its_user)
    }

    /// As a file has it: the first container of this kind is keyway's.
    fn of_container(file: &str, kind: &str, contents: &BTreeMap<String, Files>, as_its_user: bool) -> Self {
        let template = documents(file)[0]["spec"]["template"]["spec"].clone();
        let root = tempfile::tempdir().expect("a directory");
        fs::set_permissions(root.path(), Permissions::from_mode(0o755)).expect("it is ours");
        let number = |name: &str| {
            let id = template["securityContext"][name].as_u64().and_then(|id| u32::try_from(id).ok());
            id.expect("an id")
        };
        let (user, group) = (number("runAsUser"), number("fsGroup"));
        assert_eq!(number("runAsGroup"), group, "files are handed to the group that keyway runs as");
        let container = template[kind][0].clone();
        assert_eq!(container["name"], "keyway");
        let below = |path: &str| root.path().join(path.trim_start_matches('/'));
        let volumes = template["volumes"].as_array().expect("volumes");
        let mut mounts = BTreeMap::new();
        for mounted in container["volumeMounts"].as_array().expect("mounts") {
            assert_eq!(mounted.get("subPath"), None, "such a file never changes");
            let volume =
                volumes.iter().find(|volume| volume["name"] == mounted["name"]).expect("there is one");
            let path = below(mounted["mountPath"].as_str().expect("a path"));
            let (source, bits) = match (volume.get("configMap"), volume.get("secret")) {
                (Some(map), _) => (map["name"].as_str(), 0o644),
                (_, Some(secret)) => (secret["secretName"].as_str(), mode(&secret["defaultMode"])),
                _ => (None, 0o777),
            };
            let group = as_its_user.then_some(group);
            // Where everything is this user's own, files are for it alone.
            let bits = if as_its_user || bits == 0o777 { bits } else { 0o600 };
            let mount = Mount { path: path.clone(), mode: bits, group };
            match source {
                Some(name) => drop(mounts.insert(name.to_owned(), mount)),
                None => {
                    fs::create_dir_all(&path).expect("a directory");
                    mount.hand_over(&path, 0o777);
                    fs::set_permissions(&path, Permissions::from_mode(0o2777)).expect("it is ours");
                }
            }
        }
        let variables = container["env"].as_array().expect("variables").iter();
        let variables = variables.map(|variable| {
            let text = |name: &str| variable[name].as_str().expect("a text").to_owned();
            (text("name"), text("value"))
        });
        let user = as_its_user.then_some(user);
        let variables = variables.collect();
        let mut pod = Self { root, container: container.clone(), mounts, updates: 0, variables, user };
        pod.variables = pod.variables.iter().map(|(name, value)| (name.clone(), pod.below(value))).collect();
        for name in pod.mounts.keys().cloned().collect::<Vec<_>>() {
            pod.update(&name, &contents[&name]);
        }
        pod
    }

    /// What a text says of the pod's directories.
    fn below(&self, text: &str) -> String {
        let root = self.root.path().display();
        text.replace("/etc/keyway", &format!("{root}/etc/keyway"))
            .replace("/var/lib/keyway", &format!("{root}/var/lib/keyway"))
    }

    /// The kubelet saw that a ConfigMap or Secret has changed.
    fn update(&mut self, name: &str, files: &Files) {
        self.updates += 1;
        let time = format!("..2026_11_22_11_00_{:02}.{}", self.updates, 1000 + self.updates);
        let files = files.iter().map(|(name, text)| (name.clone(), self.below(text))).collect();
        self.mounts[name].write(&time, &files);
    }

    fn load(&self) -> Result<Config, keyway::config::Problems> {
        let env = Env::new(self.variables.clone(), self.root.path()).with_root(self.root.path());
        Config::load(&Overrides::default(), &env)
    }

    /// A program of the image, as the pod's user, with these arguments.
    fn command(&self, arguments: &[&str]) -> Command {
        let program = self.root.path().join("keyway");
        if !program.exists() {
            // By another process: one that this one starts meanwhile would have the copy open for writing, and what is
            // open for writing can't be run.
            let mut copy = Command::new("install");
            copy.args(["-m", "755", env!("CARGO_BIN_EXE_keyway")]).arg(&program);
            assert!(copy.status().expect("there is such a program").success());
        }
        let mut command = Command::new(program);
        command.args(arguments).env_clear().current_dir(self.root.path()).envs(self.variables.clone());
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        if let Some(user) = self.user {
            command.uid(user).gid(user);
        }
        command
    }

    /// Its keyway, at other addresses than the pod's.
    async fn start(&mut self) -> Running {
        let any = "127.0.0.1:0".to_owned();
        self.variables.extend([("KEYWAY_LISTEN".to_owned(), any.clone()), ("KEYWAY_ADMIN".to_owned(), any)]);
        let arguments = self.container["args"].as_array().expect("arguments");
        let arguments: Vec<_> = arguments.iter().map(|word| word.as_str().expect("a word")).collect();
        let command = self.command(&arguments);
        let process = Process::start_with::<&str>(self.root.path(), &[], &[], |other| *other = command);
        let (listen, admin) = process.addresses().await;
        self.variables.push(("KEYWAY_ADMIN".to_owned(), admin));
        Running { process, listen: listen.parse().expect("an address") }
    }

    /// The exit code of a probe's command.
    fn probe(&self, name: &str) -> i32 {
        let words = self.container[name]["exec"]["command"].as_array().expect("a command");
        let words: Vec<_> = words.iter().map(|word| word.as_str().expect("a word")).collect();
        assert_eq!(words[0], "/usr/bin/keyway", "it is the only program of the image");
        let output = self.command(&words[1..]).output().expect("it runs");
        output.status.code().expect("it ends by itself")
    }
}

struct Running {
    process: Process,
    listen: SocketAddr,
}

impl Running {
    /// The head of the answer to a request, over TLS.
    async fn ask(&self, authority: &Authority, request: &str) -> String {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(authority.file()).expect("PEM")).expect("an authority");
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let config = config.expect("TLS").with_root_certificates(roots).with_no_client_auth();
        let stream = within("a connection", TcpStream::connect(self.listen)).await.expect("it listens");
        // One of the names that clients in the cluster use.
        let name = ServerName::try_from("keyway.keyway.svc").expect("a name");
        let stream = within("a handshake", TlsConnector::from(Arc::new(config)).connect(name, stream)).await;
        let mut client = Peer::new(stream.expect("a good certificate"));
        client.send(request).await;
        String::from_utf8_lossy(&client.rest().await).into_owned()
    }

    async fn status(&self, authority: &Authority, method: &str, key: &str) -> u16 {
        let request = format!(
            "{method} /compute/servers HTTP/1.1\r\nHost: keyway.keyway.svc\r\nX-Auth-Token: {key}\r\n\
             Connection: close\r\nContent-Length: 0\r\n\r\n"
        );
        status(&self.ask(authority, &request).await)
    }

    /// Waits until this is what the key gets.
    async fn until(&self, authority: &Authority, key: &str, expected: u16) {
        eventually("another answer", async || {
            (self.status(authority, "GET", key).await == expected).then_some(())
        })
        .await;
    }

    /// A token of keyway's own.
    async fn log_in(&self, authority: &Authority, name: &str, key: &str) -> String {
        let user = json!({"name": name, "domain": {"id": "default"}, "password": key});
        let body = json!({"auth": {"identity": {"methods": ["password"], "password": {"user": user}}}});
        let body = body.to_string();
        let request = format!(
            "POST /identity/v3/auth/tokens HTTP/1.1\r\nHost: keyway.keyway.svc\r\nConnection: close\r\n\
             Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        let answer = self.ask(authority, &request).await;
        assert_eq!(status(&answer), 201, "{answer}");
        field(&answer, "x-subject-token").expect("a token").to_owned()
    }
}

fn sealing(bytes: &[u8]) -> Files {
    let lines = bytes.iter().map(|byte| STANDARD.encode([*byte; 32]) + "\n");
    Files::from([("keys".to_owned(), lines.collect())])
}

/// A file of API keys, made as secret.yaml says.
struct KeyFile {
    home: TempDir,
}

impl KeyFile {
    fn new() -> Self {
        let home = tempfile::tempdir().expect("a directory");
        fs::write(home.path().join("team.toml"), "[identity.ada]\n[identity.ci]\n").expect("a file");
        Self { home }
    }

    async fn run(&self, arguments: &[&str]) -> String {
        let all = [&["--config", "team.toml", "key"], arguments].concat();
        let keys = [("KEYWAY_IDENTITIES_KEYS", "api-keys")];
        let (code, stdout, stderr) = Process::start(self.home.path(), &all, &keys).outcome().await;
        assert_eq!(code, 0, "{stderr}");
        stdout.trim().to_owned()
    }

    async fn key(&self, name: &str) -> String {
        self.run(&["new", name, "--expires", "90d"]).await
    }

    fn files(&self) -> Files {
        let text = fs::read_to_string(self.home.path().join("api-keys")).expect("there are keys");
        Files::from([("api-keys".to_owned(), text)])
    }
}

fn certificate(authority: &Authority) -> Files {
    let made = authority.issue("keyway.keyway.svc");
    Files::from([("tls.crt".to_owned(), made.certificate), ("tls.key".to_owned(), made.key)])
}

/// The manifests' contents with something good in the place of each placeholder.
fn filled_in(cloud: &Cloud, authority: &Authority, keys: &KeyFile) -> BTreeMap<String, Files> {
    let mut all = contents();
    let clouds = all.get_mut("keyway-clouds").expect("a Secret");
    let yaml = clouds["clouds.yaml"]
        .replace("REPLACE-ME, for example https://keystone.example/v3", &cloud.auth_url())
        .replace("REPLACE-ME", demo::APPLICATION_CREDENTIAL_ID);
    clouds.insert("clouds.yaml".to_owned(), yaml);
    clouds.insert("secret".to_owned(), demo::APPLICATION_CREDENTIAL_SECRET.to_owned());
    let filled = [("tls", certificate(authority)), ("api-keys", keys.files()), ("sealing", sealing(&[1]))];
    for (name, files) in filled {
        let old = all.insert(format!("keyway-{name}"), files.clone()).expect("a Secret");
        assert!(old.keys().eq(files.keys()), "{name}");
    }
    let left: Vec<_> =
        all.iter().filter(|(_, files)| files.values().any(|text| text.contains("REPLACE-ME"))).collect();
    assert_eq!(left.len(), 0, "{left:?}");
    all
}

#[tokio::test]
async fn the_config_maps_are_right_as_they_stand() {
    let (cloud, authority, keys) = (cloud().await, Authority::new(), KeyFile::new());
    keys.key("ada").await;
    keys.key("ci").await;
    let config =
        Pod::of(&filled_in(&cloud, &authority, &keys), false).load().expect("nothing is wrong with it");
    assert_eq!(config.warnings, [""; 0]);
    let main = &config.listeners[0];
    assert_eq!(
        (main.server.address.to_string(), main.logins),
        ("0.0.0.0:8443".to_owned(), Logins::Configured)
    );
    assert!(config.admin.server.address.is_local());
    let names: Vec<_> = config.identities.iter().map(|identity| identity.name.as_str()).collect();
    assert_eq!(names, ["ada", "ci"]);
    assert!(config.identities[1].rights.policy.is_some());

    // The time that a pod has to end is what keyway takes.
    let pod = &documents("deployment.yaml")[0]["spec"]["template"]["spec"];
    let patience = pod["terminationGracePeriodSeconds"].as_u64().expect("seconds");
    let pause = pod["containers"][0]["lifecycle"]["preStop"]["sleep"]["seconds"].as_u64().expect("seconds");
    assert!(patience >= pause + config.drain.as_secs() + 5, "{patience} {pause}");
}

#[tokio::test]
async fn a_sidecar_is_the_pod_s_alone_and_serves_the_application_beside_it() {
    let (cloud, authority, keys) = (cloud().await, Authority::new(), KeyFile::new());
    keys.key("ada").await;
    let contents = filled_in(&cloud, &authority, &keys);
    let config = Pod::of_container("sidecar.yaml", "initContainers", &contents, false).load();
    let config = config.expect("nothing is wrong with it");
    assert_eq!(config.warnings, [""; 0]);
    assert!(config.admin.server.address.is_local());
    let [main] = &config.listeners[..] else { panic!("{:?}", config.listeners) };
    assert_eq!(main.logins, Logins::Any);
    let pod = &documents("sidecar.yaml")[0]["spec"]["template"]["spec"];
    let environment = pod["containers"][0]["env"].as_array().expect("variables");
    let place = environment.iter().find(|variable| variable["name"] == "OS_AUTH_URL").expect("it logs in");
    assert_eq!(place["value"], format!("{}/identity", main.url()));
}

#[test]
fn no_placeholder_passes_for_a_secret() {
    let problems = Pod::of(&contents(), false).load().expect_err("there is nothing in it yet").to_string();
    for key in ["auth_url", "facade.keys"] {
        assert!(problems.contains(key), "{problems}");
    }
    assert!(!problems.contains("listener"), "what is no PEM is told when it is read: {problems}");
    assert_eq!(contents()["keyway-api-keys"]["api-keys"].trim(), "REPLACE-ME");
}

// Promises 14, 71, 73, 84, 88.
#[tokio::test(flavor = "multi_thread")]
async fn replicas_take_what_the_kubelet_mounts_and_follow_its_changes() {
    if !rustix::process::geteuid().is_root() {
        eprintln!(
            "NOT CHECKED: only root can own files that another user's group reads; run this test as root"
        );
        return;
    }
    let (cloud, authority, keys) = (cloud().await, Authority::new(), KeyFile::new());
    let (of_ada, of_ci) = (keys.key("ada").await, keys.key("ci").await);
    let mut all = filled_in(&cloud, &authority, &keys);
    let (mut one, mut other) = (Pod::of(&all, true), Pod::of(&all, true));
    let (first, second) = (one.start().await, other.start().await);
    assert_eq!((one.probe("livenessProbe"), one.probe("readinessProbe")), (0, 0));
    for replica in [&first, &second] {
        let status = fs::read_to_string(format!("/proc/{}/status", replica.process.id())).expect("it runs");
        let ids = |what: &str| status.lines().find(|line| line.starts_with(what)).expect("ids").to_owned();
        assert_eq!(
            (ids("Uid:"), ids("Gid:")),
            ("Uid:\t65532\t65532\t65532\t65532".into(), "Gid:\t65532\t65532\t65532\t65532".into())
        );
        for (method, key, expected) in
            [("GET", "", 401), ("GET", &*of_ada, 200), ("GET", &*of_ci, 200), ("DELETE", &*of_ci, 403)]
        {
            assert_eq!(replica.status(&authority, method, key).await, expected, "{method}");
        }
        let told = replica.process.stderr();
        assert!(!told.contains("\"WARN\"") && !told.contains("\"ERROR\""), "{told}");
    }

    // What one gave out, the other takes; a new key of theirs opens everywhere before it seals.
    let token = first.log_in(&authority, "ada", &of_ada).await;
    assert_eq!(second.status(&authority, "GET", &token).await, 200);
    for bytes in [&[1, 2][..], &[2, 1]] {
        all.insert("keyway-sealing".to_owned(), sealing(bytes));
        one.update("keyway-sealing", &all["keyway-sealing"]);
        other.update("keyway-sealing", &all["keyway-sealing"]);
    }
    one.update("keyway-sealing", &sealing(&[2]));
    first.until(&authority, &token, 401).await;
    let token = first.log_in(&authority, "ada", &of_ada).await;
    second.until(&authority, &token, 200).await;

    // API keys come and go without a signal, and what was got with them.
    let new = keys.key("ada").await;
    keys.run(&["revoke", &of_ada[4..20]]).await;
    one.update("keyway-api-keys", &keys.files());
    first.until(&authority, &token, 401).await;
    for (shown, expected) in [(&new, 200), (&of_ada, 401)] {
        assert_eq!(first.status(&authority, "GET", shown).await, expected);
    }
    assert_eq!(second.status(&authority, "GET", &of_ada).await, 200, "its Secret has not come yet");

    // The rest is read again at a signal.
    let map = all.get_mut("keyway-identities").expect("a ConfigMap");
    map.remove("ci.toml");
    one.update("keyway-identities", &all["keyway-identities"]);
    let renewed = Authority::new();
    one.update("keyway-tls", &certificate(&renewed));
    assert_eq!(first.status(&authority, "GET", &of_ci).await, 200);
    first.process.signal(Signal::HUP);
    let line = |line: &str| line.contains("read again and is in force").then_some(());
    first.process.stderr_line("the reload", line).await;
    assert_eq!(first.status(&renewed, "GET", &of_ci).await, 401);
    assert_eq!(first.status(&renewed, "GET", &new).await, 200);

    // A mistake ends nobody, and a pod that ends is not ready any more.
    one.update("keyway-config", &Files::from([("keyway.toml".to_owned(), "listen = [".to_owned())]));
    assert_eq!((one.probe("livenessProbe"), one.probe("readinessProbe")), (0, 0));
    let Running { mut process, .. } = first;
    process.signal(Signal::TERM);
    assert_eq!(process.exit().await.code(), Some(0));
    assert_eq!((one.probe("livenessProbe"), one.probe("readinessProbe")), (1, 1));
    assert_eq!(second.status(&authority, "GET", &of_ada).await, 200);
}

// Promises 14, 84.
#[tokio::test(flavor = "multi_thread")]
async fn a_secret_for_another_group_is_refused_where_it_seals_and_warned_of_elsewhere() {
    if !rustix::process::geteuid().is_root() {
        eprintln!(
            "NOT CHECKED: only root can own files that another user's group reads; run this test as root"
        );
        return;
    }
    let (cloud, authority, keys) = (cloud().await, Authority::new(), KeyFile::new());
    keys.key("ada").await;
    let pod = Pod::of(&filled_in(&cloud, &authority, &keys), true);
    let check = |name: &str, group: u32, mode: u32, says: &str| {
        let path = pod.mounts[name].path.join("..data");
        for entry in fs::read_dir(&path).expect("a directory").flatten() {
            chown(entry.path(), Some(0), Some(group)).expect("this is root");
            fs::set_permissions(entry.path(), Permissions::from_mode(mode)).expect("it is ours");
        }
        let mut command = pod.command(&["check"]);
        // So that reading them is no question of modes.
        command.uid(65_532).gid(65_532);
        let output = command.output().expect("it runs");
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(told.contains(says), "{told}");
        chmod_back(&path);
    };
    check("keyway-sealing", 0, 0o444, "can be read by other users than keyway's own");
    check("keyway-sealing", 65_532, 0o460, "can be changed by other users than keyway's own");
    check("keyway-api-keys", 65_532, 0o460, "can be changed by other users than keyway's own");
    check("keyway-clouds", 0, 0o444, "holds a secret and can be read by other users");
    check("keyway-tls", 0, 0o444, "holds a private key and can be read by every user");
}

fn chmod_back(directory: &Path) {
    for entry in fs::read_dir(directory).expect("a directory").flatten() {
        chown(entry.path(), Some(0), Some(65_532)).expect("this is root");
        fs::set_permissions(entry.path(), Permissions::from_mode(0o440)).expect("it is ours");
    }
}
