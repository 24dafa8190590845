//! Whether the clouds' tokens outlive the process, and where.

use super::*;

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
