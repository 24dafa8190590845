//! Configuration files: whatever they hold, keyway says what is wrong, and never quotes a secret.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use keyway::config::{Config, Env, Overrides};

/// Stands where a secret belongs.
const SECRET: &str = "canary-Pa55word";

/// Files for [`Config::load`], in a directory that is there already: text for clouds.yaml, secure.yaml
/// and keyway.toml, separated by lines of `---8<---`. Each begins with a secret in its right place,
/// whose entry what follows may continue, break or contradict.
///
/// # Panics
/// If a problem, a warning or the configuration's debug output shows a secret.
pub fn check(home: &Path, text: &str) {
    let mut parts = text.split("---8<---\n");
    let [clouds, secure, toml] = [(); 3].map(|()| parts.next().unwrap_or_default());
    let of_yaml = format!("clouds:\n  prod:\n    auth:\n      password: {SECRET}\n");
    for (file, text) in [
        ("clouds.yaml", format!("{of_yaml}{clouds}")),
        ("secure.yaml", if secure.is_empty() { String::new() } else { format!("{of_yaml}{secure}") }),
        ("keyway.toml", toml.to_owned()),
    ] {
        let path = home.join(file);
        fs::write(&path, text).expect("a writable directory");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("our own file");
    }
    for variables in
        [&[("OS_CLOUD", "prod")][..], &[("OS_AUTH_URL", "https://k.example/v3"), ("OS_PASSWORD", SECRET)]]
    {
        // A profile that is a URL names somebody else's host.
        let env = Env::new(variables.iter().copied(), home).with_root(home).without_network();
        let overrides = Overrides { config: Some(home.join("keyway.toml")), ..Overrides::default() };
        let shown = match Config::load(&overrides, &env) {
            Ok(config) => format!("{config:?}"),
            Err(problems) => {
                assert!(!problems.is_empty() && problems.iter().all(|problem| !problem.message.is_empty()));
                format!("{problems} {problems:?}")
            }
        };
        assert!(!shown.contains(SECRET), "a secret is shown: {shown}");
    }
}
