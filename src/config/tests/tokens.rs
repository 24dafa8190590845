//! Whether the clouds' tokens outlive the process, and where.

use std::time::Duration;

use super::*;
use crate::upstream::tls;

const KEY: &str = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\n";

/// The directory and the key's file, below the home of this test.
fn places(setup: &Setup) -> Option<(String, String, bool)> {
    let tokens = setup.config().tokens?;
    let shown =
        |path: &std::path::Path| path.strip_prefix(setup.dir.path()).unwrap_or(path).display().to_string();
    Some((shown(&tokens.directory), shown(&tokens.key_file), tokens.makes_key))
}

// Promise 84.
#[test]
fn tokens_are_kept_only_if_that_is_asked_for() {
    for off in ["", "tokens.cache = false", "tokens.cache = 'none'", "tokens.cache = 'off'"] {
        assert_eq!(places(&Setup::new().vars(PASSWORD).toml(off)), None, "{off}");
    }
    let on = Setup::new().vars(PASSWORD).toml("[tokens]\ncache = true");
    assert!(places(&on).is_some());
    assert!(!on.dir.path().join("home/.local").exists(), "asking for it writes nothing");
    assert_eq!(places(&on.vars("KEYWAY_TOKENS_CACHE=false")), None);
    let mut flag = Setup::new().vars(PASSWORD).vars("KEYWAY_TOKENS_CACHE=false");
    flag.overrides.tokens_cache = Some("true".to_owned());
    assert!(places(&flag).is_some());
    // The demo's cloud ends with it.
    let demo = Config::load_without_clouds(&flag.overrides, &flag.env()).unwrap();
    assert_eq!(demo.tokens, None);
}

#[test]
fn tokens_are_kept_with_the_state_or_where_they_are_to_be() {
    let setup = Setup::new().vars(PASSWORD).vars("KEYWAY_TOKENS_CACHE=true");
    let check = |setup: &Setup, directory: &str, key: &str, makes_key: bool| {
        assert_eq!(places(setup), Some((directory.to_owned(), key.to_owned(), makes_key)));
    };
    check(&setup, "home/.local/state/keyway/tokens", "home/.local/state/keyway/token-key", true);
    let setup = setup.vars("STATE_DIRECTORY=/var/lib/one:/var/lib/two");
    check(&setup, "/var/lib/one/tokens", "/var/lib/one/token-key", true);
    let setup = setup.toml("facade.state = '~/own'");
    check(&setup, "home/own/tokens", "home/own/token-key", true);
    // A run keeps nothing of its own, and takes what there is.
    let setup = setup.vars("KEYWAY_FACADE_STATE=none");
    check(&setup, "/var/lib/one/tokens", "/var/lib/one/token-key", true);
    let setup = setup.vars("KEYWAY_TOKENS_CACHE=~/cache");
    check(&setup, "home/cache", "/var/lib/one/token-key", true);
    let setup = setup.file("home/key", KEY).vars("KEYWAY_TOKENS_CACHE_KEY=~/key");
    check(&setup, "home/cache", "home/key", false);
}

// Promises 14, 84.
#[test]
fn a_place_that_others_have_a_say_in_is_a_problem() {
    let state = "home/.local/state/keyway";
    let (directory, key) = (format!("{state}/tokens"), format!("{state}/token-key"));
    let setup = Setup::new()
        .vars(PASSWORD)
        .vars("KEYWAY_TOKENS_CACHE=true")
        .file(&key, KEY)
        .file(&format!("{directory}/x"), "")
        .mode(state, 0o755)
        .mode(&directory, 0o700);
    setup.config();
    let problem = |rest: &str| format!("environment: KEYWAY_TOKENS_CACHE: /{state}{rest}");
    for (mode, what) in [(0o770, "can be changed"), (0o750, "can be read"), (0o705, "can be read")] {
        let setup = Setup::new().vars(PASSWORD).vars("KEYWAY_TOKENS_CACHE=true");
        let setup = setup.file(&format!("{directory}/x"), "").mode(state, 0o755).mode(&directory, mode);
        setup.check_problems(&[&problem(&format!("/tokens {what} by other users than keyway's own"))]);
    }
    let setup = setup.mode(&key, 0o640);
    setup.check_problems(&[&problem("/token-key can be read by other users than keyway's own")]);
    let setup = setup.mode(&key, 0o600).mode(state, 0o777);
    setup.check_problems(&[
        &format!("default: facade.state: /{state} can be changed by other users"),
        &problem(" can be changed by other users"),
    ]);
    let setup = setup.mode(state, 0o755).file(&key, "hunter2");
    setup.check_problems(&[&problem("/token-key: line 1 is no key: write")]);
}

// Promise 14.
#[test]
fn a_key_that_the_operator_names_is_there_and_nobody_elses() {
    let setup = Setup::new().vars(PASSWORD).toml("[tokens]\ncache = true\ncache_key = '~/key'");
    setup.check_problems(&[&format!(
        "{TOML}: tokens.cache_key: there is no file /home/key: write 32 random bytes in base64"
    )]);
    let setup = setup.file("home/key", KEY).mode("home/key", 0o644);
    setup.check_problems(&[&format!(
        "{TOML}: tokens.cache_key: /home/key holds a private key and can be read"
    )]);
    // systemd shows who may read a credential elsewhere.
    let credentials = setup.vars("CREDENTIALS_DIRECTORY=DIR/home").mode("home/key", 0o440);
    assert_eq!(credentials.config().warnings, [""; 0]);
    let setup = credentials.file("home/key", "hunter2");
    setup.check_problems(&[&format!("{TOML}: tokens.cache: /home/key: line 1 is no key")]);
    let setup = Setup::new().vars(PASSWORD).toml("[tokens]\ncache = ''\ncache_key = ''");
    setup.check_problems(&[
        &format!("{TOML}: tokens.cache: is empty: write true, false, or a directory"),
        &format!("{TOML}: tokens.cache_key: is empty"),
    ]);
    let setup = Setup::new().vars(PASSWORD).toml("[tokens]\ncache = ['a']\ncahce = true");
    setup.check_problems(&[
        &format!("{TOML}: tokens.cache: a list, not a text or a number"),
        &format!("{TOML}: tokens.cahce: unknown key: did you mean `cache`?"),
    ]);
}

/// A configuration that shares tokens, with more in `[tokens]`.
fn sharing(more: &str) -> Setup {
    let setup = Setup::new().vars(PASSWORD).file("home/key", KEY).mode("home/key", 0o600);
    setup.toml(&format!("[tokens]\ncache_key = '~/key'\n{more}"))
}

#[test]
fn tokens_are_shared_where_there_is_a_store_and_a_key() {
    let config = sharing("store = 'redis://cache.example/3'").config();
    assert_eq!(config.tokens, None);
    let store = config.token_store.expect("a store");
    assert_eq!(store.address.to_string(), "redis://cache.example:6379/3");
    assert_eq!((store.prefix.as_str(), store.timeout), ("keyway:", Duration::from_millis(300)));
    assert_eq!((store.user, store.password, store.tls), (None, None, tls::Config::default()));
    let setup = sharing("store = 'redis://cache.example'\nstore_prefix = 'team-a/'\nstore_timeout = '1s'");
    let store = setup.config().token_store.expect("a store");
    assert_eq!((store.prefix.as_str(), store.timeout), ("team-a/", Duration::from_secs(1)));
    for off in ["", "store = 'none'", "store_prefix = 'x'"] {
        assert_eq!(
            Setup::new()
                .vars(PASSWORD)
                .toml(&format!("[tokens]\n{off}"))
                .load()
                .ok()
                .and_then(|c| c.token_store),
            None
        );
    }
    // The demo's cloud is nobody else's.
    let demo = Config::load_without_clouds(&setup.overrides, &setup.env()).expect("it is right");
    assert_eq!(demo.token_store, None);
}

// Promise 15.
#[test]
fn the_stores_password_comes_from_elsewhere() {
    let at = |more: &str| {
        let setup = sharing(&format!("store = 'unix:/run/redis.sock'\nstore_user = 'ada'\n{more}"));
        setup
            .file("home/password", "hunter2")
            .mode("home/password", 0o600)
            .vars("CREDENTIALS_DIRECTORY=DIR/home")
    };
    for more in ["store_password_file = '~/password'", "store_password_credential = 'password'"] {
        let store = at(more).config().token_store.expect("a store");
        assert!(
            matches!(store.password, Some(Source::File(path)) if path.ends_with("home/password")),
            "{more}"
        );
        assert_eq!(store.user.as_deref(), Some("ada"));
    }
    for more in
        ["store_password_command = '/bin/echo hunter2'", "store_password_command = ['/bin/echo', 'hunter2']"]
    {
        let store = at(more).config().token_store.expect("a store");
        assert!(matches!(store.password, Some(Source::Command(_))), "{more}");
        assert!(!format!("{store:?}").contains("hunter2"));
    }
    let problem = |key: &str, message: &str| format!("{TOML}: tokens.{key}: {message}");
    at("").check_problems(&[&problem("store_user", "a user without a password")]);
    at("store_password = 'hunter2'").check_problems(&[
        &problem("store_password", "unknown key"),
        &problem("store_user", "a user without a password"),
    ]);
    at("store_password_file = '~/none'")
        .check_problems(&[&problem("store_password_file", "/home/none cannot be read")]);
    at("store_password_command = 'hunter2'")
        .check_problems(&[&problem("store_password_command", "there is no such program")]);
    at("store_password_file = '~/password'\nstore_password_credential = 'password'").check_problems(&[
        &problem("store_password_credential", "tokens.store_password_file is set too: keep one of them"),
    ]);
}

#[test]
fn what_can_t_be_meant_of_a_store_is_one_clear_problem() {
    let problem = |key: &str, message: &str| format!("{TOML}: tokens.{key}: {message}");
    for (more, key, message) in [
        ("store = ''", "store", "is empty"),
        ("store = 'redis://:hunter2@cache'", "store", "has a user or a password in it"),
        ("store = 'hunter2'", "store", "is no address of a store"),
        (
            "store = 'redis://cache'\ncache = true",
            "cache",
            "tokens are to be shared by tokens.store, and kept on disk as well",
        ),
        ("store_user = 'ada'", "store_user", "there is no store that this is about"),
        (
            "store_password_command = '/bin/true'",
            "store_password_command",
            "there is no store that this is about",
        ),
        ("store = 'redis://cache'\nstore_ca = '~/none'", "store_ca", "/home/none cannot be read"),
        ("store = 'redis://cache'\nstore_key = '~/key'", "store_key", "a key without a certificate"),
        ("store = 'redis://cache'\nstore_prefix = '{a}'", "store_prefix", "`{a}` is no prefix"),
        ("store = 'redis://cache'\nstore_timeout = '1m'", "store_timeout", "`1m` is not between 10ms and 5s"),
    ] {
        sharing(more).check_problems(&[&problem(key, message)]);
    }
    let setup = Setup::new().vars(PASSWORD).toml("[tokens]\nstore = 'redis://cache'");
    setup.check_problems(&[&problem("store", "shared tokens are sealed with a key that all keyways have")]);
    sharing("store = 'redis://cache'")
        .file("home/key", "hunter2")
        .check_problems(&[&problem("cache_key", "/home/key: line 1 is no key")]);
    let setup = sharing("store = 'redis://cache'\nstore_password_command = '/bin/true'");
    assert!(
        setup.config().warnings.iter().any(|warning| warning.contains("crosses the network in the clear"))
    );
}
