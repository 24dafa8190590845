//! The process environment as a value, so that a test writes one instead of changing the process.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};

use zeroize::Zeroize;

use super::problems::{ENVIRONMENT, Problems};

/// Environment variables, and the directories that relative and system paths start from.
#[derive(Clone)]
pub struct Env {
    vars: BTreeMap<String, String>,
    unreadable: Vec<String>,
    current_dir: PathBuf,
    root: PathBuf,
    network: bool,
}

impl Env {
    /// Takes the variables (`std::env::vars_os()`) and the current directory.
    pub fn new<K, V>(vars: impl IntoIterator<Item = (K, V)>, current_dir: impl Into<PathBuf>) -> Self
    where
        K: Into<OsString>,
        V: Into<OsString>,
    {
        let mut env = Self {
            vars: BTreeMap::new(),
            unreadable: Vec::new(),
            current_dir: current_dir.into(),
            root: PathBuf::from("/"),
            network: true,
        };
        for (name, value) in vars {
            let Ok(name) = name.into().into_string() else { continue };
            match value.into().into_string() {
                Ok(value) => drop(env.vars.insert(name, value)),
                Err(_) => env.unreadable.push(name),
            }
        }
        env
    }

    /// The same with another place for `/etc`, so that a test does not see the machine's own.
    #[must_use]
    pub fn with_root(mut self, root: impl Into<PathBuf>) -> Self {
        self.root = root.into();
        self
    }

    /// The same without a network: a vendor profile that is a URL is out of reach.
    #[must_use]
    pub fn without_network(mut self) -> Self {
        self.network = false;
        self
    }

    /// See [`Env::without_network`].
    pub(super) fn has_network(&self) -> bool {
        self.network
    }

    /// A variable's value. An empty one counts as not set, as it does for the OpenStack clients.
    pub fn var(&self, name: &str) -> Option<&str> {
        self.vars.get(name).map(String::as_str).filter(|value| !value.is_empty())
    }

    /// All variables that are set and not empty.
    pub(super) fn vars(&self) -> impl Iterator<Item = (&str, &str)> {
        self.vars
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str()))
            .filter(|(_, value)| !value.is_empty())
    }

    /// Notes the variables of ours that are not UTF-8.
    pub(super) fn check(&self, problems: &mut Problems) {
        for name in &self.unreadable {
            if name.starts_with("OS_") || name.starts_with("KEYWAY_") {
                problems.add(ENVIRONMENT, name, "its value is not UTF-8: write it as UTF-8 text");
            }
        }
    }

    /// The home directory; inside a snap, the user's own rather than the snap's.
    pub(super) fn home(&self) -> Option<PathBuf> {
        self.var("SNAP_REAL_HOME").or_else(|| self.var("HOME")).map(PathBuf::from)
    }

    /// `$XDG_CONFIG_HOME`, else `~/.config`.
    pub(super) fn config_home(&self) -> Option<PathBuf> {
        match self.var("XDG_CONFIG_HOME") {
            Some(dir) => Some(PathBuf::from(dir)),
            None => self.home().map(|home| home.join(".config")),
        }
    }

    /// Where state is kept that outlives the process: what systemd gave to this service, else
    /// `$XDG_STATE_HOME/keyway`, else `~/.local/state/keyway`.
    pub(super) fn state_home(&self) -> Option<PathBuf> {
        // Of several directories of a service, the first.
        if let Some(first) = self.var("STATE_DIRECTORY").and_then(|list| list.split(':').next())
            && first.starts_with('/')
        {
            return Some(PathBuf::from(first));
        }
        let home = match self.var("XDG_STATE_HOME").filter(|home| home.starts_with('/')) {
            Some(home) => PathBuf::from(home),
            None => self.home()?.join(".local/state"),
        };
        Some(home.join("keyway"))
    }

    /// A path below `/etc`.
    pub(super) fn etc(&self, path: &str) -> PathBuf {
        self.root.join("etc").join(path)
    }

    /// The current directory.
    pub(super) fn current_dir(&self) -> &Path {
        &self.current_dir
    }

    /// An absolute path for one as written: `~` is the home directory, and a relative path starts
    /// at the current directory (not at the file that names it), as openstacksdk has it.
    pub(super) fn path(&self, written: &str) -> PathBuf {
        let home = written.strip_prefix('~').filter(|rest| rest.is_empty() || rest.starts_with('/'));
        match (home, self.home()) {
            (Some(rest), Some(home)) => home.join(rest.trim_start_matches('/')),
            _ => self.current_dir.join(written),
        }
    }
}

impl Drop for Env {
    fn drop(&mut self) {
        self.vars.values_mut().for_each(Zeroize::zeroize);
    }
}

impl fmt::Debug for Env {
    /// Names only: values may be secrets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Env")
            .field("vars", &self.vars.keys().collect::<Vec<_>>())
            .field("current_dir", &self.current_dir)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_start_at_home_or_at_the_current_directory() {
        let env = Env::new([("HOME", "/home/ada")], "/srv");
        assert_eq!(env.path("~/ca.pem"), Path::new("/home/ada/ca.pem"));
        assert_eq!(env.path("~"), Path::new("/home/ada"));
        assert_eq!(env.path("ca.pem"), Path::new("/srv/ca.pem"));
        assert_eq!(env.path("/ca.pem"), Path::new("/ca.pem"));
        assert_eq!(env.path("~bob/ca.pem"), Path::new("/srv/~bob/ca.pem"));
    }

    // Promise 80.
    #[test]
    fn values_are_not_printed() {
        let env = Env::new([("OS_PASSWORD", "hunter2")], "/");
        let shown = format!("{env:?}");
        assert!(shown.contains("OS_PASSWORD") && !shown.contains("hunter2"), "{shown}");
    }

    #[cfg(unix)]
    #[test]
    fn a_value_that_is_not_utf8_is_a_problem_if_it_is_ours() {
        use std::os::unix::ffi::OsStringExt;
        let bad = || OsString::from_vec(vec![0xff]);
        let env = Env::new([("OS_PASSWORD", bad()), ("LS_COLORS", bad())], "/");
        let mut problems = Problems::default();
        env.check(&mut problems);
        assert_eq!(problems.len(), 1);
        assert!(problems.to_string().starts_with("environment: OS_PASSWORD: "));
    }
}
