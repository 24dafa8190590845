//! keyway.toml: where it is, and its tables of clouds.

use super::*;

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
fn raw_links_name_services() {
    let text =
        "[cloud.prod]\nraw_links = ['Image', 'block_storage', 'volumev3', '*']\n[cloud.lab]\nraw_links = []";
    let config = Setup::new().clouds(&yaml(&["prod", "lab"])).toml(text).cloud("prod").config();
    let expected = ["image", "block-storage", "block-storage", "*"].map(str::to_owned);
    assert_eq!(config.raw_links, [("prod".to_owned(), expected.to_vec())].into());

    let setup = Setup::new().clouds(&yaml(&["prod"])).toml("[cloud.prod]\nraw_links = ['a b', '', 'image*']");
    setup.check_problems(&[
        &format!("{TOML}: cloud.prod.raw_links: `a b` is no service type"),
        &format!("{TOML}: cloud.prod.raw_links: `` is no service type"),
        &format!("{TOML}: cloud.prod.raw_links: `image*` is no service type"),
    ]);
    let setup = Setup::new().clouds(&yaml(&["prod"])).toml("[cloud.prod]\nraw_links = 'image'");
    setup.check_problems(&[&format!("{TOML}: cloud.prod.raw_links: a text, not a list of texts")]);
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
    let text = include_str!("../../../config/keyway.toml");
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
    let setup = Setup::new().clouds(&yaml(&["prod", "lab"]));
    let etc = setup.dir.path().join("etc/keyway");
    let var = setup.dir.path().join("var");
    let all = all.join("\n").replace("/etc/keyway", &etc.display().to_string());
    let all = all.replace("/var/lib", &var.display().to_string());
    let all = all.replace(r#"["pass", "show","#, r#"["/bin/echo", "hunter2-of","#);
    let files = [
        "tls.pem",
        "tls.key",
        "clients.pem",
        "revoked.pem",
        "ada.password",
        "bot.password",
        "identities.d/not-one",
    ];
    let files = files.into_iter().chain(["redis.password", "redis-ca.pem", "redis.pem", "redis.key"]);
    let key = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\n";
    let setup = setup.file("etc/keyway/token-key", key);
    let setup = files
        .fold(setup, |setup, name| setup.file(&format!("etc/keyway/{name}"), &format!("hunter2-{name}\n")))
        .file("etc/keyway/sealing/keys", "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\n")
        .vars("CREDENTIALS_DIRECTORY=DIR/etc/keyway")
        .toml(&all);
    let config = setup.config();
    assert_eq!(served(&config), ["prod", "lab"]);
    assert_ne!(config.clouds[0].allow_http, AllowHttp::Never);
    let names: Vec<_> = config.listeners.iter().map(|listener| listener.name.as_str()).collect();
    assert_eq!(names, ["main", "compute", "nova", "socket", "team"]);
    let policies: Vec<_> = config
        .listeners
        .iter()
        .filter_map(|listener| listener.policy.as_ref())
        .chain(config.cloud_policies.values())
        .map(|policy| policy.name())
        .collect();
    assert_eq!(policies, ["compute-of-x", "list-only", "no-identity-writes"]);
    assert_eq!(config.warnings, [""; 0]);
    assert_eq!(config.facade.state, Some(var.join("keyway")));
    assert_eq!(config.identities.len(), 4);
    for option in named_options() {
        assert!(all.contains(&format!("\n{option} = ")), "{option} is not in config/keyway.toml");
    }
    let mut problems = Problems::default();
    let setup = Setup::new().toml(&all);
    let file = File::load(&setup.overrides, &setup.env(), &mut problems);
    for key in SETTINGS {
        // Of what says the same in several ways, one is an example, and the others stand beside it.
        let other_way = format!("\n# {} = ", key.rsplit('.').next().unwrap_or(key));
        let is_there = file.settings.contains_key(key) || text.contains(&other_way);
        assert!(is_there, "{key} is not in config/keyway.toml");
    }
}
