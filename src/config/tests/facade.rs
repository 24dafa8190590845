//! Logins, the life and the keys of keyway's own tokens, and what clients see of a cloud.

use super::*;
use crate::facade::{Logins, View};
use crate::identity;

const REMOTE: &str = "
    address = '10.0.0.1:8443'
    tls_cert = 'tls.pem'
    tls_key = 'tls.key'
    client_ca = 'ca.pem'
";

fn setup() -> Setup {
    let files = ["tls.pem", "tls.key", "ca.pem"].into_iter();
    files.fold(Setup::new().vars(PASSWORD), |setup, name| setup.file(&format!("srv/{name}"), ""))
}

#[track_caller]
fn check(text: &str, expected: &[&str]) {
    let expected: Vec<_> = expected.iter().map(|line| format!("{TOML}: {line}")).collect();
    let expected: Vec<_> = expected.iter().map(String::as_str).collect();
    setup().toml(text).check_problems(&expected);
}

#[test]
fn state_is_kept_where_systemd_or_the_user_has_it() {
    let setup = Setup::new().vars(PASSWORD);
    let state = |setup: &Setup| {
        let state = setup.config().facade.state.expect("a directory");
        state.strip_prefix(setup.dir.path()).unwrap_or(&state).display().to_string()
    };
    assert_eq!(state(&setup), "home/.local/state/keyway");
    let setup = setup.vars("XDG_STATE_HOME=DIR/xdg");
    assert_eq!(state(&setup), "xdg/keyway");
    let setup = setup.vars("STATE_DIRECTORY=/var/lib/one:/var/lib/two");
    assert_eq!(state(&setup), "/var/lib/one");
    let setup = setup.toml("facade.state = '~/own'");
    assert_eq!(state(&setup), "home/own");
    let config = setup.toml("facade.state = 'none'").config();
    assert_eq!((config.facade.state, config.warnings), (None, Vec::new()));
    // Asking for it writes nothing.
    let setup = Setup::new().vars(PASSWORD);
    setup.config();
    assert!(!setup.dir.path().join("home").exists());
    let demo = Config::load_without_clouds(&setup.overrides, &setup.env()).unwrap();
    assert_eq!(demo.facade.state, None);
    let nowhere = Env::new([("OS_AUTH_URL", "https://c.example"), ("OS_TOKEN", "t")], "/nonexistent");
    let config = Config::load_without_clouds(&setup.overrides, &nowhere).unwrap();
    assert_eq!((config.facade.state, config.warnings), (None, Vec::new()));
}

// Promises 14, 84.
#[test]
fn a_key_that_others_can_read_or_that_is_none_is_a_problem() {
    let key = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\n";
    let keys = "home/.local/state/keyway/keys";
    let setup = Setup::new().vars(PASSWORD).file(keys, key).mode("home/.local/state/keyway", 0o700);
    setup.config();
    let setup = setup.mode(keys, 0o644);
    setup.check_problems(&[
        "default: facade.state: /home/.local/state/keyway/keys can be read by other users than keyway's own",
    ]);
    let setup = setup.mode(keys, 0o600).mode("home/.local/state/keyway", 0o777);
    setup.check_problems(&["default: facade.state: /home/.local/state/keyway can be changed by other users"]);
    let setup = setup.mode("home/.local/state/keyway", 0o755).file(keys, "hunter2");
    setup.check_problems(&["default: facade.state: /home/.local/state/keyway/keys: line 1 is no key: write"]);
}

// Promises 14, 84.
#[test]
fn a_file_of_keys_that_is_named_is_there_and_nobody_else_s_to_read() {
    let key = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\n";
    let setup = Setup::new().vars(PASSWORD).toml("[facade]\nkeys = '~/keys'");
    setup.check_problems(&[&format!(
        "{TOML}: facade.keys: there is no file /home/keys: write 32 random bytes"
    )]);
    let setup = setup.file("home/keys", "REPLACE-ME hunter2\n");
    setup.check_problems(&[&format!(
        "{TOML}: facade.keys: /home/keys: line 1 is no key: write 32 random bytes"
    )]);
    let setup = setup.file("home/keys", key);
    assert!(setup.config().facade.keys.is_some_and(|keys| keys.ends_with("home/keys")));
    let setup = setup.mode("home/keys", 0o640);
    setup.check_problems(&[&format!("{TOML}: facade.keys: /home/keys can be read by other users")]);
    assert_eq!(setup.vars("KEYWAY_FACADE_KEYS=none").config().facade.keys, None);
}

#[test]
fn a_token_lives_between_a_minute_and_a_month() {
    check("facade.token_life = '59s'", &["facade.token_life: `59s` is too short: at least 1m"]);
    check("facade.token_life = '31d'", &["facade.token_life: `31d` is too long: at most 30d"]);
    check("facade.token_life = 12", &["facade.token_life: `12` is no duration"]);
    check("facade.state = ''", &["facade.state: is empty"]);
    check("facade.tokenlife = '1h'", &["facade.tokenlife: unknown key: did you mean `token_life`?"]);
    assert_eq!(
        setup().toml("facade.token_life = '30d'").config().facade.token_life.as_secs(),
        30 * 24 * 3600
    );
}

// Promise 14.
#[test]
fn logins_have_a_password_or_the_file_of_one() {
    let setup = setup()
        .file("home/p", "hunter2 of bob\r\n")
        .toml("[identity.ada]\npassword = 'hunter2-ada'\n[identity.bob]\npassword_file = '~/p'");
    let identity = |name: &str, password: &str| identity::Config {
        name: name.to_owned(),
        password: Some(Secret::new(password)),
        ..Default::default()
    };
    let config = setup.config();
    assert_eq!(config.identities, [identity("ada", "hunter2-ada"), identity("bob", "hunter2 of bob")]);
    assert_eq!(config.warnings, [""; 0]);
    // Whoever else can read them is told of.
    let setup = setup.mode("home/p", 0o644).mode("home/.config/keyway/keyway.toml", 0o640);
    let mut warnings = setup.config().warnings;
    warnings.sort();
    let by_others = if rustix::process::getegid().is_root() { 1 } else { 2 };
    assert_eq!(warnings.len(), by_others, "{warnings:?}");
    assert!(warnings.last().unwrap().contains("home/p holds a secret and can be read by other users"));
}

#[test]
fn a_logins_password_may_come_from_a_command_or_from_systemd() {
    let identity = |name: &str, password: &str| identity::Config {
        name: name.to_owned(),
        password: Some(Secret::new(password)),
        ..Default::default()
    };
    let toml = "[identity.ada]\npassword_command = ['/bin/sh', '-c', 'echo hunter2-ada']\n\
                [identity.bob]\npassword_credential = 'bob'";
    let config =
        setup().file("run/bob", "hunter2-bob").vars("CREDENTIALS_DIRECTORY=DIR/run").toml(toml).config();
    assert_eq!(config.identities, [identity("ada", "hunter2-ada"), identity("bob", "hunter2-bob")]);
    let command = |script: &str, message: &str| {
        let toml = format!("[identity.a]\npassword_command = ['/bin/sh', '-c', '{script}']");
        check(&toml, &[&format!("identity.a.password_command: {message}")]);
    };
    command("echo hunter2-a; exit 3", "the command /bin/sh failed: exit status: 3");
    command("echo hunter2", "is shorter than 8 characters: choose");
    command("true", "the command /bin/sh printed no secret: its first line is empty");
    check(
        "[identity.a]\npassword_command = ['/no/program']",
        &["identity.a.password_command: there is no program"],
    );
    check("[identity.a]\npassword_command = []", &["identity.a.password_command: is empty: write a program"]);
}

// Promise 76.
#[test]
fn what_is_wrong_with_a_login_is_told_without_its_password() {
    check(
        "[identity.a]\npassword = 'hunter2'",
        &["identity.a.password: is shorter than 8 characters: choose"],
    );
    check(
        "[identity.a]\npassword = ' hunter2hunter2'",
        &["identity.a.password: holds a line break or another"],
    );
    check("[identity.a]\npassword = \"hunter2\\nhunter2\"", &["identity.a.password: holds a line break"]);
    check(
        "[identity.a]\npassword = 'gAAAAAhunter2'",
        &["identity.a.password: begins as tokens or API keys do"],
    );
    check("[identity.a]\npassword = ['hunter2']", &["identity.a.password: a list, not a text"]);
    check("identity.a = 'hunter2'", &["identity.a: a text, not a table: write [identity.a]"]);
    check(
        "[identity.a]\npassword = 'hunter2-a'\npassword_file = 'p'",
        &["identity.a.password: there is a password_file too: remove one of them"],
    );
    check(
        "[identity.a]\npassword_credential = 'p'",
        &["identity.a.password_credential: there is no $CREDENTIALS_DIRECTORY"],
    );
    check("[identity.a]\npassword_file = 'none'", &["identity.a.password_file: "]);
    check("[identity.'a b']\npassword = 'hunter2-a'", &["identity.a b: its name is no simple word"]);
    check(
        "[identity.a]\npassword = 'hunter2-a'\n[identity.b]\npassword = 'hunter2-a'",
        &["identity.b.password: this password is identity a's too"],
    );
    check(
        "[identity.a]\npassword = 'hunter2-a'\nidentity_api = 'readonly'\nbody = 'x'",
        &["identity.a.identity_api: `readonly` is none of read-only, all, none", "identity.a.body: "],
    );
    check(
        "[identity.a]\npassword = 'hunter2-a'\nprojects = 'demo'\nregions = []",
        &["identity.a.projects: a text, not a list of texts", "identity.a.regions: is empty"],
    );
    check(
        "[identity.a]\npasword = 'hunter2-a'",
        &["identity.a.pasword: unknown key: did you mean `password`?"],
    );
}

#[test]
fn anybody_logs_in_where_nobody_else_comes_and_elsewhere_who_is_configured() {
    let login = "[identity.ada]\npassword = 'hunter2-ada'\n";
    let text = format!(
        "{login}[listener.team]\n{REMOTE}[listener.file]\naddress = 'unix:/run/k.sock'\n\
         [listener.strict]\naddress = '127.0.0.1:1'\nlogin = 'configured'"
    );
    let config = setup().toml(&text).config();
    let logins: Vec<_> = config.listeners.iter().map(|l| (l.name.as_str(), l.logins)).collect();
    assert_eq!(
        logins,
        [
            ("main", Logins::Any),
            ("file", Logins::Any),
            ("strict", Logins::Configured),
            ("team", Logins::Configured)
        ]
    );
    assert_eq!(config.warnings, [""; 0]);
    let config = setup().toml(&format!("[listener.team]\n{REMOTE}login = 'any'")).config();
    assert_eq!(config.listeners[1].logins, Logins::Any);
    assert_eq!(config.warnings.len(), 1);
    assert!(config.warnings[0].contains("listener.team.login: whoever has a certificate of client_ca acts"));
}

// Promise 1.
#[test]
fn who_may_log_in_is_told_where_it_is_wrong() {
    check(
        &format!("[listener.team]\n{REMOTE}"),
        &[
            "listener.team.login: only configured identities are served at 10.0.0.1:8443, and there is none: write [identity.NAME]",
        ],
    );
    check(
        "[listener.main]\nlogin = 'configured'",
        &["listener.main.login: only configured identities are served"],
    );
    check("[listener.main]\nlogin = 'none'", &["listener.main.login: `none` is neither any nor configured"]);
    check("[listener.admin]\nlogin = 'any'", &["listener.admin.login: nobody logs in at the admin listener"]);
    check(
        "[listener.a]\naddress = '10.0.0.1:1'\nlogin = 'any'",
        &[
            "listener.a.address: 10.0.0.1:1 is no loopback address, and whoever reaches it would act as your cloud user",
        ],
    );
    check(
        "[listener.a]\naddress = '10.0.0.1:1'\nlogin = 'configured'\n[identity.b]\npassword = 'hunter2-b'",
        &["listener.a.address: 10.0.0.1:1 is no loopback address"],
    );
}

#[test]
fn what_clients_see_of_a_cloud_is_checked() {
    let text = "
        [cloud.prod]
        projects = ['demo']
        legacy_types = ['volume', 'VolumeV3', 'volume']
        hide = ['work_flow']
        only_interface = 'internalURL'
        only_region = 'RegionOne'
        [cloud.lab]
        allow_http = ['image']
    ";
    let config = Setup::new()
        .clouds(&yaml(&["prod", "lab"]))
        .toml(&format!("clouds = ['prod', 'lab']{text}"))
        .config();
    let view = View {
        projects: vec!["demo".to_owned()],
        legacy_types: vec!["volume".to_owned(), "volumev3".to_owned()],
        hidden: vec!["work-flow".to_owned()],
        interface: Some(Interface::Internal),
        region: Some("RegionOne".to_owned()),
    };
    assert_eq!(config.facade.clouds, BTreeMap::from([("prod".to_owned(), view)]));
    let bad = "
        [cloud.prod]
        projects = []
        legacy_types = ['vol ume']
        hide = ['']
        only_interface = 'private'
        only_region = ''
    ";
    let problems = [
        "cloud.prod.projects: an empty list",
        "cloud.prod.legacy_types: `vol ume` is no service type",
        "cloud.prod.hide: `` is no service type",
        "cloud.prod.only_interface: `private` is no interface: public, internal or admin",
        "cloud.prod.only_region: is empty",
    ];
    let problems = problems.map(|line| format!("{TOML}: {line}"));
    let setup = Setup::new().clouds(&yaml(&["prod"])).toml(bad);
    setup.check_problems(&problems.each_ref().map(String::as_str));
}
