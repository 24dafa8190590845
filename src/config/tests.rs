//! What [`Config::load`] makes of files, variables and flags together.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use tempfile::TempDir;

use super::*;
use crate::keystone::{
    ApplicationCredential, Auth, Domain, Identity, IdentityVersion, Interface, Method, Project, Scope,
    Secret, User,
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
            Auth::Fixed { .. } => panic!("a fixed token"),
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

// Settings and their layers.

fn port(listener: &Listener) -> u16 {
    listener.server.address.tcp().expect("an IP address").port()
}

#[test]
fn everything_has_a_default() {
    let config = Setup::new().vars(PASSWORD).config();
    assert_eq!(config.listeners[0].server.address, "127.0.0.1:8180".parse().unwrap());
    assert_eq!(config.admin.server.address, "127.0.0.1:8181".parse().unwrap());
    assert!(config.workers >= 1);
    assert_eq!(config.drain, Duration::from_secs(30));
    assert_eq!(config.log, Log::default());
    assert_eq!(config.limits, Limits::default());
    assert_eq!(config.timeouts, Timeouts::default());
    assert_eq!(config.warnings, [""; 0]);
}

#[test]
fn a_flag_wins_over_the_environment_and_that_over_the_file() {
    let setup = Setup::new().vars(PASSWORD).toml("workers = 2\nlisten = '127.0.0.1:1'\ndrain = '1s'");
    assert_eq!(setup.config().workers, 2);
    let mut setup = setup.vars("KEYWAY_WORKERS=3\nKEYWAY_TIMEOUTS_CONNECT=2s\nKEYWAY_LISTEN=127.0.0.1:2");
    assert_eq!(setup.config().workers, 3);
    setup.overrides.workers = Some("4".to_owned());
    let config = setup.config();
    assert_eq!(config.workers, 4);
    assert_eq!(port(&config.listeners[0]), 2);
    assert_eq!(config.drain, Duration::from_secs(1));
    assert_eq!(config.timeouts.connect, Duration::from_secs(2));
}

#[test]
fn every_setting_reaches_its_field() {
    let text = "
        listen = 'localhost:1'
        admin = '[::1]:2'
        workers = 5
        drain = '3s'
        [log]
        format = 'json'
        level = 'info,keyway::keystone=debug'
        [limits]
        replay_buffer = 1
        replay_total = 2
        max_connections = 3
        head = '8KiB'
        target = 300
        [timeouts]
        connect = '1ms'
        response = '2s'
        keystone = '3m'
        idle = '4h'
        proof = '10s'
    ";
    let config = Setup::new().vars(PASSWORD).toml(text).config();
    assert_eq!((port(&config.listeners[0]), port(&config.admin), config.workers), (1, 2, 5));
    assert_eq!(config.drain, Duration::from_secs(3));
    assert_eq!(config.log.format, LogFormat::Json);
    assert_eq!(config.log.level, "info,keyway::keystone=debug");
    assert_eq!(
        config.limits,
        Limits {
            replay_buffer: 1,
            replay_total: 2,
            max_connections: 3,
            head: 8192,
            target: 300,
            ..Limits::default()
        }
    );
    assert_eq!(
        config.timeouts,
        Timeouts {
            connect: Duration::from_millis(1),
            response: Duration::from_secs(2),
            keystone: Duration::from_secs(180),
            idle: Duration::from_secs(4 * 3600),
            proof: Duration::from_secs(10),
            ..Timeouts::default()
        }
    );
}

#[test]
fn problems_of_all_layers_are_reported_at_once() {
    let mut setup = Setup::new()
        .toml(
            "listen = '8180'\nlisen = 1\n[log]\nlevel = 'inof'\nformat = 'xml'\n\
             [limits]\nhead = '1KiB'\n[timeouts]\nidle = '0s'\nconnect = 10",
        )
        .vars("KEYWAY_WORKERS=0\nKEYWAY_DRAIN=soon");
    setup.overrides.admin = Some("nowhere".to_owned());
    setup.check_problems(&[
        &format!("{TOML}: lisen: unknown key: did you mean `listen`?"),
        &format!("{TOML}: listen: `8180` is no address"),
        "command line: --admin: `nowhere` is no address",
        "environment: KEYWAY_WORKERS: must be at least 1",
        &format!("{TOML}: log.format: `xml` is no log format"),
        &format!("{TOML}: log.level: `inof` is no log level"),
        "environment: KEYWAY_DRAIN: `soon` is no duration",
        &format!("{TOML}: limits.head: must be at least 8192"),
        &format!("{TOML}: timeouts.connect: `10` is no duration: write it with its unit"),
        &format!("{TOML}: timeouts.idle: must not be zero"),
        "environment: no cloud is configured: ",
    ]);
}

#[test]
fn settings_that_contradict_each_other_are_problems() {
    let setup = Setup::new().vars(PASSWORD).toml(
        "listen = '127.0.0.1:8181'\n[limits]\nreplay_buffer = '1MiB'\nreplay_total = '1KiB'\n\
         head = '8KiB'\ntarget = '9KiB'",
    );
    setup.check_problems(&[
        "default: admin: both the services and metrics would listen on 127.0.0.1:8181",
        &format!("{TOML}: limits.replay_total: smaller than limits.replay_buffer"),
        &format!("{TOML}: limits.target: larger than limits.head"),
    ]);
}

#[test]
fn an_address_that_others_reach_and_a_misspelt_variable_are_warned_of() {
    let setup = Setup::new().vars(PASSWORD).vars(
        "KEYWAY_LISTEN=0.0.0.0:1\nKEYWAY_WORKER=2\nKEYWAY_SERVICE_HOST=10.0.0.1\nKEYWAY_PORT=tcp://10.0.0.1:1",
    );
    let warnings = setup.config().warnings;
    assert_eq!(warnings.len(), 2, "{warnings:?}");
    assert!(warnings[0].starts_with("listen 0.0.0.0:1 is not a loopback address"));
    assert!(warnings[1].contains("KEYWAY_WORKER means nothing: did you mean KEYWAY_WORKERS?"));
}

// keyway.toml.

#[test]
fn keyway_toml_is_found_where_it_is_looked_for() {
    let setup = Setup::new().vars(PASSWORD).file("etc/keyway/keyway.toml", "workers = 1");
    assert_eq!(setup.config().workers, 1);
    let setup = setup.toml("workers = 2");
    assert_eq!(setup.config().workers, 2);
    let setup = setup.file("xdg/keyway/keyway.toml", "workers = 3").vars("XDG_CONFIG_HOME=DIR/xdg");
    assert_eq!(setup.config().workers, 3);
    let setup = setup.file("srv/own.toml", "workers = 4").vars("KEYWAY_CONFIG=own.toml");
    assert_eq!(setup.config().workers, 4);
    let mut setup = setup.file("srv/flag.toml", "workers = 5");
    setup.overrides.config = Some("flag.toml".into());
    assert_eq!(setup.config().workers, 5);
}

#[test]
fn a_named_file_that_is_missing_or_unreadable_is_a_problem() {
    let mut setup = Setup::new().vars(PASSWORD).vars("KEYWAY_CONFIG=~/none.toml");
    setup.check_problems(&["environment: KEYWAY_CONFIG: there is no file /home/none.toml"]);
    setup.overrides.config = Some("none.toml".into());
    setup.check_problems(&["command line: --config: there is no file /srv/none.toml"]);
    setup.overrides.config = Some(setup.dir.path().join("srv"));
    setup.check_problems(&["/srv: cannot be read"]);
}

#[test]
fn allow_http_belongs_to_a_served_cloud() {
    let text = "
        [cloud.prod]
        allow_http = ['Image', 'block_storage', 'http://10.0.0.5:9292', 'http://10.0.0.6:80/']
    ";
    let setup = Setup::new().clouds(&yaml(&["prod"])).toml(text);
    let expected = ["image", "block-storage", "http://10.0.0.5:9292", "http://10.0.0.6"];
    assert_eq!(
        setup.config().clouds[0].allow_http,
        AllowHttp::Only(expected.iter().map(ToString::to_string).collect())
    );

    let setup = Setup::new().clouds(&yaml(&["prod"])).toml("[cloud.prd]\nallow_http = ['image']");
    setup.check_problems(&[&format!("{TOML}: cloud.prd: no such cloud is served, only prod")]);

    let bad = "[cloud.prod]\nallow_http = ['https://h', 'http://h/v2', 'http://u:hunter2@h', 'a b']";
    let setup = Setup::new().clouds(&yaml(&["prod"])).toml(bad);
    let problems = setup.load().unwrap_err();
    assert_eq!(problems.len(), 4, "{problems}");
    assert!(problems.iter().all(|problem| problem.key == "cloud.prod.allow_http"));
}

#[test]
fn the_table_of_a_cloud_that_only_this_run_leaves_out_is_no_problem() {
    let table = "[cloud.prod]\nallow_http = ['image']";
    let setup = Setup::new().clouds(&yaml(&["prod", "lab"])).toml(table).cloud("lab");
    assert_eq!(served(&setup.config()), ["lab"]);
    let setup = Setup::new().clouds(&yaml(&["prod"])).toml(table).vars(PASSWORD);
    assert_eq!(served(&setup.config()), ["envvars"]);
    let setup = Setup::new().clouds(&yaml(&["prod", "lab"])).toml(&format!("clouds = ['lab']\n{table}"));
    setup.check_problems(&[&format!("{TOML}: cloud.prod: no such cloud is served, only lab")]);
}

#[test]
fn the_annotated_file_holds_every_key_with_its_default() {
    let text = include_str!("../../config/keyway.toml");
    let setup = Setup::new().toml(text);
    let config = Config::load_without_clouds(&setup.overrides, &setup.env()).expect("it is right");
    let default = Setup::new();
    let default = Config::load_without_clouds(&default.overrides, &default.env()).expect("it is right");
    assert_eq!(format!("{config:?}"), format!("{default:?}"));

    // Lines that are commented out without a space are examples, and right as well.
    let all: Vec<_> = text
        .lines()
        .map(|line| line.strip_prefix('#').filter(|rest| !rest.starts_with(' ')).unwrap_or(line))
        .collect();
    let all = all.join("\n");
    let config = Setup::new().clouds(&yaml(&["prod", "lab"])).toml(&all).config();
    assert_eq!(served(&config), ["prod", "lab"]);
    assert_ne!(config.clouds[0].allow_http, AllowHttp::Never);
    let mut problems = Problems::default();
    let setup = Setup::new().toml(&all);
    let file = File::load(&setup.overrides, &setup.env(), &mut problems);
    for key in SETTINGS {
        assert!(file.settings.contains_key(key), "{key} is not in config/keyway.toml");
    }
}

// Which clouds are served.

#[test]
fn clouds_are_chosen_by_flag_then_variable_then_file() {
    let mut setup = Setup::new().clouds(&yaml(&["a", "b", "c", "d"])).vars("OS_CLOUD=d");
    assert_eq!(served(&setup.config()), ["d"]);
    setup = setup.toml("clouds = ['b', 'c']");
    assert_eq!(served(&setup.config()), ["b", "c"]);
    setup = setup.vars("KEYWAY_CLOUDS=c, a");
    assert_eq!(served(&setup.config()), ["c", "a"]);
    setup = setup.cloud("d").cloud("a");
    assert_eq!(served(&setup.config()), ["d", "a"]);
}

#[test]
fn without_a_choice_the_environment_wins_over_the_only_cloud() {
    let setup = Setup::new().clouds(&yaml(&["only"]));
    assert_eq!(served(&setup.config()), ["only"]);
    let setup = setup.vars(PASSWORD);
    assert_eq!(served(&setup.config()), ["envvars"]);
    let setup = setup.vars("OS_CLOUD_NAME=mine").cloud("mine").cloud("only");
    assert_eq!(served(&setup.config()), ["mine", "only"]);
}

#[test]
fn variables_that_describe_no_cloud_make_none() {
    let setup = Setup::new().clouds(&yaml(&["only"])).vars(
        "OS_REGION_NAME=r1\nOS_CLOUD_NAME=x\nOS_VERSION=12\nOS_TEST_PATH=/\nOS_LOG_PATH=/\nOS_STDOUT_CAPTURE=1\n\
         OS_PASSWORD=",
    );
    assert_eq!(served(&setup.config()), ["only"]);
}

#[test]
fn no_cloud_at_all_says_the_three_ways() {
    let setup = Setup::new();
    setup.check_problems(&["environment: no cloud is configured: set OS_* variables"]);
    let shown = setup.load().unwrap_err().to_string();
    for way in ["OS_AUTH_URL", "--cloud NAME", "clouds.yaml", "keyway demo"] {
        assert!(shown.contains(way), "{way}: {shown}");
    }
    Setup::new()
        .cloud("prod")
        .check_problems(&["command line: --cloud: there is no cloud `prod`, and no other"]);
    Setup::new().cloud("envvars").check_problems(&[
        "command line: --cloud: there is no cloud `envvars`, since no OS_* variable describes one",
    ]);
}

#[test]
fn an_unknown_cloud_lists_those_that_are_known() {
    let setup = Setup::new().clouds(&yaml(&["prod", "lab"]));
    setup
        .vars("OS_CLOUD=prd")
        .check_problems(&["environment: OS_CLOUD: there is no cloud `prd`: there is lab, prod"]);
    let setup = Setup::new().clouds(&yaml(&["prod"])).vars(PASSWORD).cloud("lab");
    setup.check_problems(&["command line: --cloud: there is no cloud `lab`: there is envvars, prod"]);
}

#[test]
fn several_clouds_need_a_choice() {
    let setup = Setup::new().clouds(&yaml(&["prod", "lab"]));
    setup.check_problems(&[&format!("{CLOUDS}: clouds: several clouds and none is chosen")]);
    assert!(setup.load().unwrap_err().to_string().ends_with("there is lab, prod"));
}

#[test]
fn empty_and_repeated_choices_are_problems() {
    let setup = Setup::new().clouds(&yaml(&["prod"]));
    setup
        .cloud("prod")
        .cloud("prod")
        .check_problems(&["command line: --cloud: names the cloud `prod` twice"]);
    let setup = Setup::new().clouds(&yaml(&["prod"])).toml("clouds = []");
    setup.check_problems(&[&format!("{TOML}: clouds: names no cloud")]);
    let setup = Setup::new().clouds(&yaml(&["prod"])).vars("KEYWAY_CLOUDS=prod,");
    setup.check_problems(&["environment: KEYWAY_CLOUDS: an empty name"]);
}

#[test]
fn two_clouds_of_one_name_are_a_problem() {
    let setup =
        Setup::new().clouds(&yaml(&["prod"])).vars(PASSWORD).vars("OS_CLOUD_NAME=prod\nOS_CLOUD=prod");
    setup.check_problems(&["environment: OS_CLOUD_NAME: clouds.yaml has a cloud `prod` too"]);
}

#[test]
fn a_broken_clouds_yaml_does_not_matter_to_who_does_not_use_it() {
    let setup = Setup::new().clouds("clouds: [").vars(PASSWORD);
    assert_eq!(served(&setup.config()), ["envvars"]);
}

#[test]
fn clouds_that_keyway_brings_itself_need_no_configuration() {
    let setup = Setup::new().clouds("clouds: [").toml("workers = 2\nclouds = ['none']\n[cloud.none]");
    let config = Config::load_without_clouds(&setup.overrides, &setup.env()).expect("it is right");
    assert!(config.clouds.is_empty());
    assert_eq!(config.workers, 2);
}

// clouds.yaml and secure.yaml.

#[test]
fn clouds_yaml_is_found_where_openstacksdk_looks() {
    let mut setup = Setup::new();
    for (path, vars) in [
        ("etc/openstack/clouds.json", ""),
        ("etc/openstack/clouds.yml", ""),
        ("etc/openstack/clouds.yaml", ""),
        ("etc/xdg/openstack/clouds.json", ""),
        ("home/.config/openstack/clouds.yml", ""),
        ("xdg/openstack/clouds.yaml", "XDG_CONFIG_HOME=DIR/xdg"),
        ("srv/clouds.json", ""),
        ("elsewhere/my.yaml", "OS_CLIENT_CONFIG_FILE=../elsewhere/my.yaml"),
    ] {
        let name = path.replace(['/', '.'], "-");
        setup = setup.file(path, &yaml(&[&name])).vars(vars);
        assert_eq!(served(&setup.config()), [name]);
    }
}

#[test]
fn secure_yaml_is_merged_over_clouds_yaml_at_any_depth() {
    let setup = Setup::new()
        .clouds("clouds:\n  prod:\n    auth: {auth_url: 'https://c.example', username: ada, password: old}\n")
        .file("etc/openstack/secure.yaml", "clouds: {prod: {auth: {password: new}, region_name: r2}}");
    let config = setup.config();
    assert_eq!(config.clouds[0].region.as_deref(), Some("r2"));
    assert_password(&setup.identity().method, "new");
    let setup = setup
        .file("srv/own.yaml", "clouds: {prod: {auth: {password: own}}}")
        .vars("OS_CLIENT_SECURE_FILE=own.yaml");
    assert_password(&setup.identity().method, "own");
}

#[track_caller]
fn assert_password(method: &Method, expected: &str) {
    match method {
        Method::Password { password, .. } => assert_eq!(password.expose(), expected),
        other => panic!("{other:?}"),
    }
}

#[test]
fn malformed_unreadable_and_misshapen_files_are_problems_with_their_line() {
    let setup = Setup::new().clouds("clouds:\n  prod:\n    auth: {password: hunter2\n  lab: x\n");
    setup.check_problems(&[&format!("{CLOUDS}: not YAML: line ")]);
    let setup = Setup::new().clouds("clouds:\n  prod: 'hunter2\n").cloud("prod");
    setup.check_problems(&[&format!("{CLOUDS}: not YAML: line ")]);
    let setup = Setup::new().clouds(&yaml(&["prod"])).file("srv/secure.yaml", "a: [").cloud("prod");
    setup.check_problems(&["/srv/secure.yaml: not YAML: line "]);
    let setup = Setup::new().file("srv/clouds.yaml/x", "");
    setup.check_problems(&["/srv/clouds.yaml: cannot be read"]);
    Setup::new()
        .clouds("[a, b]")
        .check_problems(&[&format!("{CLOUDS}: not a mapping: it starts with `clouds:`")]);
    Setup::new().clouds("clouds: [a]").check_problems(&[&format!("{CLOUDS}: clouds: not a mapping")]);
    Setup::new()
        .clouds("clouds: {prod: 3}")
        .check_problems(&[&format!("{CLOUDS}: clouds.prod: not a mapping")]);
    Setup::new().clouds("").check_problems(&["environment: no cloud is configured"]);
    Setup::new()
        .vars("OS_CLIENT_CONFIG_FILE=none.yaml")
        .check_problems(&["environment: OS_CLIENT_CONFIG_FILE: there is no file /srv/none.yaml"]);
}

#[test]
fn a_problem_names_the_file_that_holds_the_value() {
    let setup = Setup::new()
        .clouds("clouds: {prod: {auth: {username: ada, password: hunter2}}}")
        .file("home/.config/openstack/secure.yaml", "clouds: {prod: {auth: {auth-url: 'ftp://c'}}}");
    setup.check_problems(&[
        "/home/.config/openstack/secure.yaml: clouds.prod.auth.auth_url: no usable URL: the scheme must be",
    ]);
}

#[test]
fn files_with_secrets_that_others_can_read_are_warned_of() {
    let path = "home/.config/openstack/clouds.yaml";
    let setup = Setup::new().clouds(&yaml(&["prod"])).mode(path, 0o640);
    let warnings = setup.config().warnings;
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    assert!(warnings[0].contains("clouds.yaml holds a secret and can be read by other users: chmod 600 /"));
    assert_eq!(setup.vars("CREDENTIALS_DIRECTORY=DIR/home").config().warnings, [""; 0]);

    let setup = Setup::new()
        .clouds("clouds: {prod: {auth: {auth_url: 'https://c.example', username: ada}}}")
        .mode(path, 0o644)
        .file("home/.config/openstack/secure.yaml", "clouds: {prod: {auth: {password: hunter2}}}");
    assert_eq!(setup.config().warnings, [""; 0]);
    let warnings = setup.mode("home/.config/openstack/secure.yaml", 0o604).config().warnings;
    assert!(warnings.len() == 1 && warnings[0].contains("secure.yaml"), "{warnings:?}");
}

#[test]
fn a_vendor_profile_is_not_supported_yet() {
    check_cloud("{profile: ovh, auth: {username: ada}}", &["profile: vendor profiles are not supported yet"]);
    check_cloud("{cloud: ovh}", &["cloud: vendor profiles are not supported yet"]);
}

#[test]
fn the_first_region_is_the_default_and_brings_its_values() {
    let text = "
clouds:
  prod:
    auth: {auth_url: 'https://c.example', username: ada, password: hunter2, project_name: p}
    interface: internal
    regions:
      - name: r1
        values: {interface: admin, auth: {project-name: q}}
      - r2
";
    let setup = Setup::new().clouds(text);
    let config = setup.config();
    assert_eq!(config.clouds[0].region.as_deref(), Some("r1"));
    assert_eq!(config.clouds[0].interfaces, [Interface::Admin]);
    let project = Project::Name { name: "q".to_owned(), domain: Some(default_domain()) };
    assert_eq!(setup.identity().scope, Scope::Project(project));

    let setup = setup.vars("OS_CLOUD=prod\nOS_REGION_NAME=r2");
    let config = setup.config();
    assert_eq!(config.clouds[0].region.as_deref(), Some("r2"));
    assert_eq!(config.clouds[0].interfaces, [Interface::Internal]);

    let setup = Setup::new().clouds(text).vars("OS_CLOUD=prod\nOS_REGION_NAME=R2");
    setup.check_problems(&["environment: OS_REGION_NAME: the cloud has no region `R2`: it has r1, r2"]);
    let setup = Setup::new().clouds(&text.replace("    interface", "    region_name: r2\n    interface"));
    let config = setup.config();
    assert_eq!(config.clouds[0].region.as_deref(), Some("r1"));
    assert!(config.warnings[0].contains("clouds.prod.region_name: ignored"), "{:?}", config.warnings);
    let setup = Setup::new().clouds(text).vars("OS_REGION_NAME=r3").cloud("prod");
    assert_eq!(setup.config().clouds[0].region.as_deref(), Some("r1"));
    check_cloud(
        "{regions: r1}",
        &["regions: not a list", "auth.auth_url: ", "auth.username: ", "auth.password: "],
    );
}

#[test]
fn a_region_name_may_be_a_list_in_a_text() {
    let setup = Setup::new().vars(PASSWORD).vars("OS_REGION_NAME=r1,r2");
    assert_eq!(setup.config().clouds[0].region.as_deref(), Some("r1"));
}

// Logging in.

#[test]
fn a_password_is_for_a_user_by_id_or_by_name_and_domain() {
    let setup = || Setup::new().vars(PASSWORD);
    let identity = setup().identity();
    assert_eq!(identity.auth_url.to_string(), "https://cloud.example:5000/v3");
    assert_eq!(identity.version, IdentityVersion::V3);
    assert_eq!(identity.scope, Scope::Default);
    assert_password(&identity.method, "hunter2");

    for (vars, user) in [
        ("", ada(default_domain())),
        ("OS_USER_DOMAIN_NAME=Users", ada(Domain::Name("Users".to_owned()))),
        ("OS_USER_DOMAIN_ID=u1\nOS_USER_DOMAIN_NAME=Users", ada(Domain::Id("u1".to_owned()))),
        ("OS_DEFAULT_DOMAIN_NAME=Dflt", ada(Domain::Name("Dflt".to_owned()))),
        ("OS_DOMAIN_NAME=D\nOS_PROJECT_NAME=p", ada(Domain::Name("D".to_owned()))),
        ("OS_DOMAIN_NAME=D", ada(default_domain())),
        (
            "OS_DOMAIN_ID=d\nOS_PROJECT_NAME=p\nOS_USER_DOMAIN_NAME=Users",
            ada(Domain::Name("Users".to_owned())),
        ),
        ("OS_USER_ID=42", User::Id("42".to_owned())),
    ] {
        match setup().vars(vars).identity().method {
            Method::Password { user: found, .. } => assert_eq!(found, user, "{vars}"),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn a_token_is_a_login() {
    for vars in ["OS_AUTH_TYPE=token", "OS_AUTH_TYPE=v3token", ""] {
        let setup = Setup::new().vars("OS_AUTH_URL=https://c.example\nOS_TOKEN=gAAAA").vars(vars);
        match setup.identity().method {
            Method::Token(token) => assert_eq!(token.expose(), "gAAAA"),
            other => panic!("{other:?}"),
        }
    }
    let setup = Setup::new().clouds(
        "clouds: {prod: {auth_type: token, auth-token: gAAAA, auth: {auth_url: 'https://c.example', token: no}}}",
    );
    assert!(matches!(setup.identity().method, Method::Token(token) if token.expose() == "no"));
    let setup = Setup::new().vars(PASSWORD).vars("OS_TOKEN=gAAAA");
    assert_password(&setup.identity().method, "hunter2");
}

#[test]
fn an_application_credential_is_by_id_or_by_name_and_user() {
    let base = "OS_AUTH_URL=https://c.example\nOS_APPLICATION_CREDENTIAL_SECRET=hunter2";
    let check = |vars: &str, expected: ApplicationCredential| {
        let identity = Setup::new().vars(base).vars(vars).identity();
        assert_eq!(identity.version, IdentityVersion::V3);
        assert_eq!(identity.scope, Scope::Default);
        match identity.method {
            Method::ApplicationCredential { which, secret } => {
                assert_eq!(which, expected);
                assert_eq!(secret, Secret::new("hunter2"));
            }
            other => panic!("{other:?}"),
        }
    };
    check("OS_APPLICATION_CREDENTIAL_ID=a1", ApplicationCredential::Id("a1".to_owned()));
    check(
        "OS_AUTH_TYPE=v3applicationcredential\nOS_APPLICATION_CREDENTIAL_ID=a1",
        ApplicationCredential::Id("a1".to_owned()),
    );
    check(
        "OS_APPLICATION_CREDENTIAL_NAME=deploy\nOS_USER_ID=42",
        ApplicationCredential::Name { name: "deploy".to_owned(), user: User::Id("42".to_owned()) },
    );
    check(
        "OS_APPLICATION_CREDENTIAL_NAME=deploy\nOS_USERNAME=ada\nOS_USER_DOMAIN_ID=d",
        ApplicationCredential::Name { name: "deploy".to_owned(), user: ada(Domain::Id("d".to_owned())) },
    );
}

#[test]
fn an_application_credential_has_no_scope_of_its_own() {
    let setup = Setup::new().vars(
        "OS_AUTH_URL=https://c.example\nOS_APPLICATION_CREDENTIAL_ID=a\nOS_APPLICATION_CREDENTIAL_SECRET=s\n\
         OS_PROJECT_NAME=p",
    );
    assert_eq!(setup.identity().scope, Scope::Default);
    assert!(setup.config().warnings[0].starts_with("environment: OS_PROJECT_NAME: ignored"));
}

#[test]
fn a_fixed_token_needs_no_keystone() {
    for auth_type in ["admin_token", "token_endpoint"] {
        let setup = Setup::new().clouds(&format!(
            "clouds: {{prod: {{auth_type: {auth_type}, auth: {{endpoint: 'https://c.example/', token: t}}}}}}"
        ));
        match setup.config().clouds.remove(0).auth {
            Auth::Fixed { endpoint, token } => {
                assert_eq!((endpoint.to_string().as_str(), token.expose()), ("https://c.example", "t"));
            }
            other => panic!("{other:?}"),
        }
    }
    check_cloud("{auth_type: admin_token}", &["auth.endpoint: missing", "auth.token: missing"]);
}

#[test]
fn the_identity_version_comes_from_auth_type_key_or_url() {
    use IdentityVersion::{Discover, V2, V3};
    for (url, vars, version) in [
        ("https://c", "", Discover),
        ("https://c/identity", "", Discover),
        ("https://c/identity/v3/", "", V3),
        ("https://c/v2.0", "", V2),
        ("https://c", "OS_IDENTITY_API_VERSION=2", V2),
        ("https://c", "OS_IDENTITY_API_VERSION=2.0", V2),
        ("https://c", "OS_IDENTITY_API_VERSION=3", V3),
        ("https://c", "OS_AUTH_TYPE=v2password", V2),
        ("https://c", "OS_AUTH_TYPE=v3password\nOS_IDENTITY_API_VERSION=2", V3),
    ] {
        let setup =
            Setup::new().vars("OS_USERNAME=ada\nOS_PASSWORD=hunter2").vars(&format!("OS_AUTH_URL={url}"));
        assert_eq!(setup.vars(vars).identity().version, version, "{url} {vars}");
    }
    let numbers = "clouds: {prod: {identity_api_version: 2.0, auth: {auth_url: 'http://127.0.0.1', username: ada, password: 1}}}";
    assert_eq!(Setup::new().clouds(numbers).identity().version, V2);
}

#[test]
fn identity_v2_knows_no_domains_and_tenants_are_projects() {
    let setup = Setup::new().vars(
        "OS_AUTH_URL=https://c.example/v2.0\nOS_USERNAME=ada\nOS_PASSWORD=hunter2\nOS_TENANT_NAME=t\n\
         OS_USER_DOMAIN_NAME=Default",
    );
    let identity = setup.identity();
    assert_eq!(identity.scope, Scope::Project(Project::Name { name: "t".to_owned(), domain: None }));
    match identity.method {
        Method::Password { user, .. } => {
            assert_eq!(user, User::Name { name: "ada".to_owned(), domain: None })
        }
        other => panic!("{other:?}"),
    }
    let setup =
        Setup::new().vars("OS_AUTH_URL=https://c.example\nOS_TOKEN=t\nOS_AUTH_TYPE=v2token\nOS_TENANT_ID=1");
    assert_eq!(setup.identity().scope, Scope::Project(Project::Id("1".to_owned())));
}

#[test]
fn a_scope_is_a_project_a_domain_the_system_or_none() {
    let by_name = |domain| Scope::Project(Project::Name { name: "p".to_owned(), domain: Some(domain) });
    let named = |name: &str| Domain::Name(name.to_owned());
    check_scope("x: y", &Scope::Default);
    check_scope("unscoped: true", &Scope::Unscoped);
    check_scope("project_id: 0123", &Scope::Project(Project::Id("0123".to_owned())));
    check_scope("project_id: 90617e46, project_name: p", &Scope::Project(Project::Id("90617e46".to_owned())));
    check_scope("tenant-id: 1", &Scope::Project(Project::Id("1".to_owned())));
    check_scope("project_name: p", &by_name(default_domain()));
    check_scope("tenant_name: q, project_name: p", &by_name(default_domain()));
    check_scope("project_name: p, project_domain_name: D", &by_name(named("D")));
    check_scope("project_name: p, domain_name: D", &by_name(named("D")));
    check_scope("project_name: p, default_domain_name: D", &by_name(named("D")));
    check_scope("project-name: p, project-domain-id: d", &by_name(Domain::Id("d".to_owned())));
    check_scope("domain_id: d", &Scope::Domain(Domain::Id("d".to_owned())));
    check_scope("domain_name: D", &Scope::Domain(named("D")));
    check_scope("system_scope: all", &Scope::System);
    check_scope("project_name: '', domain_name: ~, system_scope: all", &Scope::System);
}

#[test]
fn login_options_may_stand_beside_auth() {
    let setup = Setup::new().clouds(
        "clouds: {prod: {auth-url: 'https://c.example', username: bob, password: no, project-name: q, \
         auth: {username: ada, password: 007, project_name: p}}}",
    );
    let identity = setup.identity();
    assert_password(&identity.method, "007");
    let Method::Password { user, .. } = identity.method else { panic!("a password") };
    assert_eq!(user, ada(default_domain()));
    let project = Project::Name { name: "q".to_owned(), domain: Some(default_domain()) };
    assert_eq!(identity.scope, Scope::Project(project));
}

// Endpoints and TLS.

#[test]
fn interfaces_are_a_word_or_a_list() {
    use Interface::{Admin, Internal, Public};
    for (options, interfaces) in [
        ("", vec![Public]),
        ("interface: internal", vec![Internal]),
        ("endpoint_type: adminURL", vec![Admin]),
        ("endpoint-type: internalURL, interface: public", vec![Public]),
        ("interface: [internal, public, internal]", vec![Internal, Public]),
    ] {
        let text = yaml(&["prod"]).replace("auth:", &format!("<<: {{{options}}}\n    auth:"));
        assert_eq!(Setup::new().clouds(&text).config().clouds[0].interfaces, interfaces, "{options}");
    }
    let setup = Setup::new().vars(PASSWORD).vars("OS_ENDPOINT_TYPE=internalURL");
    assert_eq!(setup.config().clouds[0].interfaces, [Internal]);
    let setup = Setup::new().vars(PASSWORD).vars("OS_INTERFACE=intern");
    setup.check_problems(&["environment: OS_INTERFACE: `intern` is no interface"]);
}

#[test]
fn endpoints_can_be_overridden() {
    let setup = Setup::new().vars(PASSWORD).vars(
        "OS_IMAGE_ENDPOINT_OVERRIDE=https://i.example/v2/\nOS_BLOCK_STORAGE_ENDPOINT=https://b.example\n\
         OS_IMAGE_ENDPOINT=https://other.example\nOS_DISCOVERY_ENDPOINT=no\nOS_ENDPOINT=no",
    );
    let overrides = setup.config().clouds.remove(0).endpoint_overrides;
    let overrides: Vec<_> = overrides.iter().map(|(service, url)| format!("{service} {url}")).collect();
    assert_eq!(overrides, ["block-storage https://b.example", "image https://i.example/v2"]);
    let setup = Setup::new()
        .vars(PASSWORD)
        .vars("OS_IMAGE_ENDPOINT_OVERRIDE=nowhere\nOS_VOLUME_ENDPOINT_OVERRIDE=https://v/%(project_id)s");
    setup.check_problems(&[
        "environment: OS_IMAGE_ENDPOINT_OVERRIDE: no usable URL: not an absolute URL",
        "environment: OS_VOLUME_ENDPOINT_OVERRIDE: templates in URLs are not supported yet",
    ]);
}

#[test]
fn tls_files_are_found_from_home_and_from_the_current_directory() {
    let setup = Setup::new()
        .vars(PASSWORD)
        .vars("OS_CACERT=~/ca.pem\nOS_CERT=cert.pem\nOS_KEY=DIR/key.pem")
        .file("home/ca.pem", "")
        .file("srv/cert.pem", "")
        .file("key.pem", "");
    let root = setup.dir.path();
    let tls = &setup.config().clouds[0].tls;
    assert_eq!(tls.ca_file.as_deref(), Some(root.join("home/ca.pem").as_path()));
    assert_eq!(tls.client_cert, Some((root.join("srv/cert.pem"), Some(root.join("key.pem")))));
    assert!(!tls.insecure);
    let warnings = setup.mode("key.pem", 0o644).config().warnings;
    assert!(warnings.len() == 1 && warnings[0].contains("key.pem"), "{warnings:?}");
}

#[test]
fn missing_tls_files_are_problems() {
    let setup = Setup::new().vars(PASSWORD).vars("OS_CACERT=ca.pem\nOS_CERT=cert.pem\nOS_KEY=~");
    setup.check_problems(&[
        "environment: OS_CACERT: /srv/ca.pem cannot be read",
        "environment: OS_KEY: /home",
        "environment: OS_CERT: /srv/cert.pem cannot be read",
    ]);
    let setup = Setup::new().vars(PASSWORD).vars("OS_KEY=key.pem").file("srv/key.pem", "");
    setup.check_problems(&["environment: OS_KEY: a key without a certificate"]);
}

#[test]
fn certificates_go_unchecked_only_when_told_so_and_with_a_warning() {
    for options in ["verify: false", "verify: no", "insecure: true", "insecure: 1, cacert: /none"] {
        let text = yaml(&["prod"]).replace("auth:", &format!("<<: {{{options}}}\n    auth:"));
        let config = Setup::new().clouds(&text).config();
        assert!(config.clouds[0].tls.insecure, "{options}");
        assert!(config.warnings[0].starts_with("cloud prod: certificates are not checked"), "{options}");
    }
    let setup = Setup::new().vars(PASSWORD).vars("OS_INSECURE=false");
    assert!(!setup.config().clouds[0].tls.insecure);
    let setup = Setup::new().vars(PASSWORD).vars("OS_INSECURE=maybe");
    setup.check_problems(&["environment: OS_INSECURE: `maybe` is neither true nor false"]);
}

#[test]
fn plain_http_across_a_network_is_warned_of() {
    let setup = |url| Setup::new().vars(PASSWORD).vars(&format!("OS_AUTH_URL={url}"));
    assert!(setup("http://10.0.0.1:5000").config().warnings[0].contains("plain http"));
    for url in ["http://127.0.0.1:5000", "http://[::1]/v3", "http://localhost:5000"] {
        assert_eq!(setup(url).config().warnings, [""; 0]);
    }
}

// Bad logins.

#[test]
fn an_unknown_auth_type_lists_those_there_are() {
    check_cloud(
        "{auth_type: v3oidcpassword}",
        &["auth_type: `v3oidcpassword` is not supported: there is password, v3password, v2password, token"],
    );
    let setup = Setup::new().vars(PASSWORD).vars("OS_AUTH_TYPE=none");
    setup.check_problems(&["environment: OS_AUTH_TYPE: `none` is not supported"]);
}

#[test]
fn missing_options_are_named_all_at_once() {
    check_cloud(
        "{auth: {project_name: p}}",
        &["auth.auth_url: missing", "auth.username: missing", "auth.password: missing"],
    );
    check_cloud("{}", &["auth.auth_url: missing", "auth.username: missing", "auth.password: missing"]);
    check_cloud("{auth: [x]}", &["auth: not a mapping", "auth.auth_url", "auth.username", "auth.password"]);
    check_cloud(
        "{auth: {auth_url: 'https://c.example', username: [ada], password: hunter2}}",
        &["auth.username: a list or a mapping", "auth.username: missing"],
    );
    check_cloud(
        "{auth_type: token, auth: {auth_url: 'https://c.example'}}",
        &["auth.token: missing: auth_type token needs a token"],
    );
    check_cloud(
        "{auth_type: v3applicationcredential, auth: {auth_url: 'https://c.example'}}",
        &["auth.application_credential_id: missing", "auth.application_credential_secret: missing"],
    );
    check_cloud(
        "{auth: {auth_url: 'https://c.example', application_credential_name: n, application_credential_secret: s}}",
        &["auth.username: missing: an application credential's name is unique per user only"],
    );
    let setup = Setup::new().vars("OS_AUTH_URL=https://c.example\nOS_USERNAME=ada\nOS_PASSWORD=");
    setup.check_problems(&["environment: OS_PASSWORD: missing"]);
}

#[test]
fn auth_url_must_be_a_plain_url() {
    for (url, message) in [
        ("cloud.example", "no usable URL: not an absolute URL"),
        ("ftp://cloud.example", "no usable URL: the scheme must be http or https"),
        ("https://ada:hunter2@cloud.example", "no usable URL: it must not hold a user name or password"),
        ("https://cloud.example?x=hunter2", "no usable URL: it must not have a query"),
        ("https://{region_name}.example", "templates in URLs are not supported yet"),
    ] {
        check_cloud(
            &format!("{{auth: {{auth_url: '{url}', username: ada, password: hunter2}}}}"),
            &[&format!("auth.auth_url: {message}")],
        );
    }
}

#[test]
fn one_login_has_one_scope() {
    let check = |options: &str, expected: &[&str]| {
        let base = "auth_url: 'https://c.example/v3', username: ada, password: hunter2";
        check_cloud(&format!("{{auth: {{{base}, {options}}}}}"), expected);
    };
    check(
        "project_name: p, system_scope: all",
        &["auth.system_scope: one login has one scope, and clouds.prod.auth.project_name asks for another"],
    );
    check(
        "domain_name: d, system_scope: all",
        &["auth.system_scope: one login has one scope, and clouds.prod.auth.domain_name asks for another"],
    );
    check("project_id: p, unscoped: yes", &["auth.project_id: `unscoped` is set too"]);
    check("system_scope: some", &["auth.system_scope: `some` is no system scope: the only one is `all`"]);
    check("trust_id: t", &["auth.trust_id: trusts are not supported yet"]);
    check("project_id: p, project_name: q, project_domain_name: d", &[]);
}

#[test]
fn identity_v2_takes_one_tenant_and_nothing_else() {
    let base = "OS_USERNAME=ada\nOS_PASSWORD=hunter2\nOS_TENANT_ID=1\nOS_TENANT_NAME=t";
    for how in [
        "OS_AUTH_URL=https://c.example/v2.0",
        "OS_AUTH_URL=https://c.example\nOS_IDENTITY_API_VERSION=2",
        "OS_AUTH_URL=https://c.example\nOS_AUTH_TYPE=v2password",
    ] {
        Setup::new().vars(base).vars(how).check_problems(&[
            "environment: OS_TENANT_ID: Identity v2.0 takes a tenant's id or its name, and OS_TENANT_NAME is set too",
        ]);
    }
    let setup = Setup::new()
        .vars("OS_AUTH_URL=https://c.example/v2.0\nOS_USERNAME=ada\nOS_PASSWORD=hunter2\nOS_DOMAIN_NAME=d");
    setup.check_problems(&[
        "environment: OS_DOMAIN_NAME: Identity v2.0 has neither domains nor a system scope",
    ]);
    let setup = Setup::new().vars(
        "OS_AUTH_URL=https://c.example/v2.0\nOS_APPLICATION_CREDENTIAL_ID=a\nOS_APPLICATION_CREDENTIAL_SECRET=s",
    );
    setup.check_problems(&[
        "environment: OS_APPLICATION_CREDENTIAL_ID: Identity v2.0 has no application credentials",
    ]);
}

#[test]
fn versions_that_contradict_each_other_are_problems() {
    let setup = |vars| Setup::new().vars("OS_USERNAME=ada\nOS_PASSWORD=hunter2").vars(vars);
    setup("OS_AUTH_URL=https://c.example/v2.0\nOS_IDENTITY_API_VERSION=3").check_problems(&[
        "environment: OS_AUTH_URL: ends in /v2.0, but identity_api_version asks for Identity v3",
    ]);
    setup("OS_AUTH_URL=https://c.example/v3\nOS_AUTH_TYPE=v2password")
        .check_problems(&["environment: OS_AUTH_URL: ends in /v3, but auth_type asks for Identity v2.0"]);
    setup("OS_AUTH_URL=https://c.example\nOS_IDENTITY_API_VERSION=4")
        .check_problems(&["environment: OS_IDENTITY_API_VERSION: `4` is no Identity API version"]);
}

#[test]
fn problems_of_several_clouds_come_together() {
    let setup = Setup::new()
        .clouds("clouds: {a: {auth: {auth_url: x}}, b: {auth_type: magic}}")
        .toml("listen = 1")
        .cloud("a")
        .cloud("b")
        .cloud("c");
    setup.check_problems(&[
        &format!("{TOML}: listen: "),
        &format!("{CLOUDS}: clouds.a.auth.auth_url: "),
        &format!("{CLOUDS}: clouds.a.auth.username: missing"),
        &format!("{CLOUDS}: clouds.a.auth.password: missing"),
        &format!("{CLOUDS}: clouds.b.auth_type: `magic` is not supported"),
        "command line: --cloud: there is no cloud `c`: there is a, b",
    ]);
}

#[test]
fn a_configuration_is_printed_without_secrets() {
    let config = Setup::new().vars(PASSWORD).config();
    let shown = format!("{config:?}");
    assert!(shown.contains("ada") && !shown.contains("hunter2"), "{shown}");
}
