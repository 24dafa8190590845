//! What [`Config::load`] makes of files, variables and flags together.

mod audit;
mod clouds;
mod endpoints;
mod facade;
mod federation;
mod file;
mod files;
mod kerberos;
mod layers;
mod listeners;
mod login;
mod policies;
mod profiles;
mod settings;
mod tokens;

use std::fs;
use std::os::unix::fs::PermissionsExt;

use tempfile::TempDir;

use super::file::named_options;
use super::layers::{SETTINGS, variable};
use super::*;
use crate::keystone::{
    AllowHttp, ApplicationCredential, Auth, Domain, Identity, IdentityVersion, Interface, Method, Passcode,
    Project, Scope, Secret, Source, User,
};

/// A home directory, a current directory and an `/etc` of its own, variables, and flags.
struct Setup {
    dir: TempDir,
    vars: Vec<(String, String)>,
    overrides: Overrides,
}

impl Setup {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        fs::create_dir(dir.path().join("srv")).expect("a directory");
        Self { dir, vars: Vec::new(), overrides: Overrides::default() }
    }

    /// Variables, one `NAME=VALUE` per line.
    fn vars(mut self, lines: &str) -> Self {
        for line in lines.lines().map(str::trim).filter(|line| !line.is_empty()) {
            let (name, value) = line.split_once('=').expect("NAME=VALUE");
            self.vars.push((name.to_owned(), value.replace("DIR", &self.dir.path().display().to_string())));
        }
        self
    }

    /// A file below the temporary directory, for its owner only.
    fn file(self, path: &str, text: &str) -> Self {
        let path = self.dir.path().join(path);
        fs::create_dir_all(path.parent().expect("a parent")).expect("a directory");
        fs::write(&path, text).expect("a file");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("permissions");
        self
    }

    fn mode(self, path: &str, mode: u32) -> Self {
        fs::set_permissions(self.dir.path().join(path), fs::Permissions::from_mode(mode))
            .expect("permissions");
        self
    }

    /// clouds.yaml in the home directory.
    fn clouds(self, text: &str) -> Self {
        self.file("home/.config/openstack/clouds.yaml", text)
    }

    /// keyway.toml in the home directory.
    fn toml(self, text: &str) -> Self {
        self.file("home/.config/keyway/keyway.toml", text)
    }

    fn cloud(mut self, name: &str) -> Self {
        self.overrides.clouds.push(name.to_owned());
        self
    }

    fn env(&self) -> Env {
        let home = ("HOME".to_owned(), self.dir.path().join("home").display().to_string());
        let vars = self.vars.iter().cloned().chain([home]);
        Env::new(vars, self.dir.path().join("srv")).with_root(self.dir.path())
    }

    fn load(&self) -> Result<Config, Problems> {
        Config::load(&self.overrides, &self.env())
    }

    #[track_caller]
    fn config(&self) -> Config {
        self.load().unwrap_or_else(|problems| panic!("{problems}"))
    }

    /// Login and scope of the default cloud.
    #[track_caller]
    fn identity(&self) -> Identity {
        match self.config().clouds.remove(0).auth {
            Auth::Identity(identity) => identity,
            other => panic!("{other:?}"),
        }
    }

    /// Checks that these are all problems, each `source: key: message` beginning as one of them. A
    /// source is shown without the temporary directory.
    #[track_caller]
    fn check_problems(&self, expected: &[&str]) {
        let shown = match self.load() {
            Ok(_) => String::new(),
            Err(problems) => problems.to_string(),
        };
        let shown = shown.replace(&self.dir.path().display().to_string(), "");
        let lines: Vec<_> = shown.lines().collect();
        assert_eq!(lines.len(), expected.len(), "{shown}");
        for (line, expected) in lines.iter().zip(expected) {
            assert!(line.starts_with(expected), "{line}\nis not\n{expected}");
        }
        assert!(!shown.contains("hunter2"), "{shown}");
    }
}

const CLOUDS: &str = "/home/.config/openstack/clouds.yaml";
const TOML: &str = "/home/.config/keyway/keyway.toml";

const PASSWORD: &str = "
    OS_AUTH_URL=https://cloud.example:5000/v3
    OS_USERNAME=ada
    OS_PASSWORD=hunter2
";

/// A clouds.yaml with one complete cloud per name.
fn yaml(names: &[&str]) -> String {
    let clouds = names.iter().map(|name| {
        format!("  {name}:\n    auth: {{auth_url: 'https://{name}.example/v3', username: ada, password: hunter2}}\n")
    });
    format!("clouds:\n{}", clouds.collect::<String>())
}

/// A clouds.json with one complete cloud.
fn json(name: &str) -> String {
    format!(
        r#"{{"clouds": {{"{name}": {{"auth":
            {{"auth_url": "https://{name}.example/v3", "username": "ada", "password": "hunter2"}}}}}}}}"#
    )
}

fn ada(domain: Domain) -> User {
    User::Name { name: "ada".to_owned(), domain: Some(domain) }
}

fn default_domain() -> Domain {
    Domain::Id("default".to_owned())
}

fn served(config: &Config) -> Vec<&str> {
    config.clouds.iter().map(|cloud| cloud.name.as_str()).collect()
}

/// Checks one cloud's login options (`auth` of clouds.yaml, in flow style) against a scope.
#[track_caller]
fn check_scope(auth: &str, scope: &Scope) {
    let base = "auth_url: 'https://c.example', username: ada, password: hunter2";
    let setup = Setup::new().clouds(&format!("clouds: {{prod: {{auth: {{{base}, {auth}}}}}}}"));
    assert_eq!(setup.identity().scope, *scope, "{auth}");
}

/// Checks the problems of a cloud `prod` that has these options; sources are left out.
#[track_caller]
fn check_cloud(options: &str, expected: &[&str]) {
    let expected: Vec<_> = expected.iter().map(|line| format!("{CLOUDS}: clouds.prod.{line}")).collect();
    let expected: Vec<_> = expected.iter().map(String::as_str).collect();
    Setup::new().clouds(&format!("clouds:\n  prod: {options}\n")).check_problems(&expected);
}

fn port(listener: &Listener) -> u16 {
    listener.server.address.tcp().expect("an IP address").port()
}

fn given(secret: &str) -> Source {
    Source::Given(Secret::new(secret))
}

#[track_caller]
fn assert_password(method: &Method, expected: &str) {
    match method {
        Method::Password { password, .. } => assert_eq!(password, &given(expected)),
        other => panic!("{other:?}"),
    }
}
