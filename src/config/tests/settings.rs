//! Settings and their layers.

use super::*;

// Promise 1.
#[test]
fn everything_has_a_default() {
    let config = Setup::new().vars(PASSWORD).config();
    assert_eq!(config.listeners[0].server.address, "127.0.0.1:8180".parse().unwrap());
    assert_eq!(config.admin.server.address, "127.0.0.1:8181".parse().unwrap());
    assert!(config.workers >= 1);
    assert_eq!(config.drain, Duration::from_secs(30));
    assert_eq!(config.log, Log::default());
    assert_eq!(config.limits, Limits::default());
    assert_eq!(config.body_limits, BodyLimits::default());
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
        links = '8KiB'
        links_total = '1MiB'
        max_connections = 3
        connections_per_client = 2
        min_rate = '1KiB'
        head = '8KiB'
        target = 300
        body = '1MiB'
        [limits.bodies]
        Volumev3 = '10GiB'
        object_store = 'none'
        [timeouts]
        handshake = '5s'
        head = '6s'
        keepalive = '7s'
        stall = '8s'
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
            links: 8192,
            links_total: 1 << 20,
            max_connections: 3,
            connections_per_client: Some(2),
            min_rate: 1024,
            head: 8192,
            target: 300,
        }
    );
    assert_eq!(config.body_limits.default, Some(1 << 20));
    let services = [("block-storage".to_owned(), 10 << 30), ("object-store".to_owned(), u64::MAX)];
    assert_eq!(config.body_limits.services, BTreeMap::from(services));
    assert_eq!(
        config.timeouts,
        Timeouts {
            handshake: Duration::from_secs(5),
            head: Duration::from_secs(6),
            keepalive: Duration::from_secs(7),
            stall: Duration::from_secs(8),
            connect: Duration::from_millis(1),
            response: Duration::from_secs(2),
            keystone: Duration::from_secs(180),
            idle: Duration::from_secs(4 * 3600),
            proof: Duration::from_secs(10),
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
         links_total = '1KiB'\nhead = '8KiB'\ntarget = '9KiB'",
    );
    setup.check_problems(&[
        "default: admin: both the services and metrics would listen on 127.0.0.1:8181",
        &format!("{TOML}: limits.replay_total: smaller than limits.replay_buffer"),
        &format!("{TOML}: limits.links_total: smaller than limits.links"),
        &format!("{TOML}: limits.target: larger than limits.head"),
    ]);
}

#[test]
fn what_keystone_is_spared_is_checked() {
    let load = |toml: &str| Setup::new().vars(PASSWORD).toml(&format!("[keystone]\n{toml}"));
    let protection = load("rejections = 'none'\nnew_scopes = 3").config().protection;
    let default = Protection::default();
    assert_eq!(protection, Protection { rejections: None, new_scopes: (3, default.new_scopes.1), ..default });
    load(
        "rejections = 1\npause = '10m'\nbackoff = '1ms'\nlongest_backoff = '0s'\nrefusals = 5\n\
         refusal_every = '1d'\nscope_refusals = 6\nnew_scopes = 0\nnew_scope_every = 'soon'\nlockout = 3",
    )
    .check_problems(&[
        &format!("{TOML}: keystone.lockout: unknown key"),
        &format!("{TOML}: keystone.rejections: `1` is no whole number from 2 to 1000, or \"none\""),
        &format!("{TOML}: keystone.backoff: `1ms` is not between 100ms and 24h"),
        &format!("{TOML}: keystone.longest_backoff: `0s` is not between 100ms and 24h"),
        &format!("{TOML}: keystone.refusal_every: `1d` is not between 10ms and 1h"),
        &format!("{TOML}: keystone.new_scopes: `0` is no whole number from 1 to 1000"),
        &format!("{TOML}: keystone.new_scope_every: `soon` is no duration"),
        "default: keystone.longest_pause: shorter than keystone.pause, with which it begins",
        &format!("{TOML}: keystone.scope_refusals: more than keystone.refusals, of which it is a part"),
    ]);
}

#[test]
fn every_setting_is_a_variable_too() {
    let is_about_the_store = |key: &&str| key.starts_with("tokens.store");
    let all = SETTINGS.iter().copied().filter(|key| !is_about_the_store(key));
    let variables = all.map(|key| {
        let value = match key {
            "listen" => "127.0.0.1:1",
            "admin" => "127.0.0.1:2",
            "log.format" => "json",
            "log.level" => "debug",
            "workers" => "3",
            "emulate_ports" => "dns",
            key if key == "drain" || key.starts_with("timeouts.") => "11s",
            key if key.starts_with("keystone.") && (key.contains("pause") || key.contains("backoff")) => {
                "11s"
            }
            key if key.starts_with("keystone.") && key.ends_with("_every") => "11s",
            "limits.head" | "limits.target" => "9KiB",
            "facade.token_life" => "2d",
            "facade.state" => "~/state",
            "facade.keys" => "~/key",
            "identities.directory" => "~",
            "identities.keys" => "~/api-keys",
            "tokens.cache" => "~/tokens",
            "tokens.cache_key" => "~/key",
            "audit.sink" => "~/audit",
            "audit.on_failure" => "stop",
            _ => "77",
        };
        format!("{}={value}", variable(key))
    });
    let setup = Setup::new().vars(PASSWORD).file("home/key", "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=");
    let config = setup.vars(&variables.collect::<Vec<_>>().join("\n")).config();
    assert_eq!((port(&config.listeners[0]), port(&config.admin), config.workers), (1, 2, 3));
    assert_eq!(port(&config.listeners[1]), 9001);
    let eleven = Duration::from_secs(11);
    let timeouts = config.timeouts;
    for duration in [timeouts.handshake, timeouts.head, timeouts.keepalive, timeouts.stall, config.drain] {
        assert_eq!(duration, eleven);
    }
    assert_eq!((config.limits.connections_per_client, config.limits.min_rate), (Some(77), 77));
    assert_eq!((config.body_limits.default, config.limits.head), (Some(77), 9 << 10));
    let bucket = (77, eleven);
    let protection = Protection {
        rejections: Some(77),
        backoff: (eleven, eleven),
        pause: (eleven, eleven),
        refusals: bucket,
        scope_refusals: bucket,
        new_scopes: bucket,
    };
    assert_eq!(config.protection, protection);
    assert_eq!(config.facade.token_life, 4 * Duration::from_secs(12 * 3600));
    assert!(config.facade.state.is_some_and(|state| state.ends_with("home/state")));
    assert!(config.facade.keys.is_some_and(|keys| keys.ends_with("home/key")));
    let tokens = config.tokens.expect("they are kept");
    assert!(tokens.directory.ends_with("home/tokens") && tokens.key_file.ends_with("home/key"));
    assert!(config.api_keys.is_some_and(|keys| keys.ends_with("home/api-keys")));
    assert_eq!(config.warnings, [""; 0]);

    // Tokens are kept on disk or shared.
    let shared = SETTINGS.iter().copied().filter(|key| is_about_the_store(key) || *key == "tokens.cache_key");
    let variables = shared.filter_map(|key| {
        let value = match key {
            "tokens.store" => "rediss://cache.example",
            "tokens.store_timeout" => "2s",
            "tokens.store_password_command" | "tokens.store_password_credential" => return None,
            "tokens.store_user" | "tokens.store_prefix" => "77",
            _ => "~/key",
        };
        Some(format!("{}={value}", variable(key)))
    });
    let setup = Setup::new().vars(PASSWORD).file("home/key", "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=");
    let config = setup.vars(&variables.collect::<Vec<_>>().join("\n")).config();
    let store = config.token_store.expect("they are shared");
    assert_eq!((store.user.as_deref(), store.prefix.as_str()), (Some("77"), "77"));
    let of_the_home = |path: &std::path::Path| path.ends_with("home/key");
    let (cert, key) = store.tls.client_cert.expect("it shows one");
    assert!(of_the_home(&store.key_file) && of_the_home(&cert) && of_the_home(&key.expect("a key")));
    assert!(
        store.tls.ca_file.is_some() && store.password.is_some() && store.timeout == Duration::from_secs(2)
    );
}

#[test]
fn limits_of_bodies_are_by_service() {
    let setup = Setup::new()
        .vars(PASSWORD)
        .toml("limits.body = 'much'\n[limits.bodies]\nimage = true\n'a b' = 1\ncompute = '1 banana'");
    setup.check_problems(&[
        &format!("{TOML}: limits.bodies.image: true or false, not a text or a number"),
        &format!(
            "{TOML}: limits.body: `much` is no size: write bytes, or for example 64KiB or 1MiB, or \"none\""
        ),
        &format!("{TOML}: limits.bodies.a b: `a b` is no service type"),
        &format!("{TOML}: limits.bodies.compute: `1 banana` is no size"),
    ]);
    let setup = Setup::new().vars(PASSWORD).toml("[limits.bodies]\nvolume = 1\nvolumev3 = 2");
    setup.check_problems(&[&format!(
        "{TOML}: limits.bodies.volumev3: another name of this service has a limit too"
    )]);
}

#[test]
fn a_misspelt_variable_is_warned_of() {
    let setup = Setup::new()
        .vars(PASSWORD)
        .vars("KEYWAY_WORKER=2\nKEYWAY_SERVICE_HOST=10.0.0.1\nKEYWAY_PORT=tcp://10.0.0.1:1");
    let warnings = setup.config().warnings;
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    assert!(warnings[0].contains("KEYWAY_WORKER means nothing: did you mean KEYWAY_WORKERS?"));
}
