//! keyway.toml: where it is, and what stands in it.
//!
//! Nothing but the shape is checked here: known keys, and text or a number where one belongs. What the
//! values mean is [`super::Layers`]' question, which asks the same of flags and of the environment.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::{fs, io};

use toml::{Table, Value};

use super::problems::{COMMAND_LINE, ENVIRONMENT, Problems, closest};
use super::{Env, Overrides, SETTINGS};

/// keyway.toml as written. Without a file, everything is empty.
#[derive(Debug, Default)]
pub(super) struct File {
    /// Where it is, for messages.
    pub(super) path: PathBuf,
    /// Each of [`SETTINGS`] that it has, as text.
    pub(super) settings: BTreeMap<&'static str, String>,
    /// `clouds`.
    pub(super) clouds: Option<Vec<String>>,
    /// `[cloud.NAME] allow_http`.
    pub(super) allow_http: BTreeMap<String, Vec<String>>,
}

impl File {
    /// Reads the file that the arguments or the environment name, else the first that exists where
    /// one is looked for, else none.
    pub(super) fn load(overrides: &Overrides, env: &Env, problems: &mut Problems) -> Self {
        let named = match (&overrides.config, env.var("KEYWAY_CONFIG")) {
            (Some(path), _) => Some((COMMAND_LINE, "--config", env.current_dir().join(path))),
            (None, Some(path)) => Some((ENVIRONMENT, "KEYWAY_CONFIG", env.path(path))),
            (None, None) => None,
        };
        let places = match &named {
            Some((_, _, path)) => vec![path.clone()],
            None => env
                .config_home()
                .map(|dir| dir.join("keyway/keyway.toml"))
                .into_iter()
                .chain([env.etc("keyway/keyway.toml")])
                .collect(),
        };
        for path in places {
            match (fs::read_to_string(&path), &named) {
                (Ok(text), _) => return Self::parse(&path, &text, problems),
                (Err(error), None) if is_absent(&path, &error) => {}
                (Err(error), Some((source, key, _))) if is_absent(&path, &error) => {
                    problems.add(source, *key, format!("there is no file {}", path.display()));
                }
                (Err(error), _) => {
                    let message = format!("cannot be read ({error}): make it a file that keyway may read");
                    problems.add(path.display(), "", message);
                    return Self::default();
                }
            }
        }
        Self::default()
    }

    fn parse(path: &Path, text: &str, problems: &mut Problems) -> Self {
        let mut file = Self { path: path.to_owned(), ..Self::default() };
        let source = path.display();
        match text.parse::<Table>() {
            Ok(table) => file.read("", table, problems),
            Err(error) => {
                let start = error.span().map_or(0, |span| span.start);
                let line = text.bytes().take(start).filter(|byte| *byte == b'\n').count() + 1;
                let message = error.message().replace('\n', ", ");
                problems.add(source, "", format!("line {line}: not TOML: {message}"));
            }
        }
        file
    }

    /// Reads the table at `prefix`, which is empty or ends in a dot.
    fn read(&mut self, prefix: &str, table: Table, problems: &mut Problems) {
        for (name, value) in table {
            let key = format!("{prefix}{name}");
            if let Some(setting) = SETTINGS.iter().copied().find(|setting| *setting == key) {
                match scalar(value) {
                    Ok(text) => drop(self.settings.insert(setting, text)),
                    Err(what) => self.problem(problems, key, format!("{what}, not a text or a number")),
                }
            } else if key == "clouds" {
                self.clouds = self.strings(key, value, problems);
            } else if key == "cloud" {
                self.read_clouds(value, problems);
            } else if SETTINGS.iter().any(|setting| in_table(setting, &key)) {
                match value {
                    Value::Table(table) => self.read(&format!("{key}."), table, problems),
                    value => {
                        let message = format!("{}, not a table: write [{key}]", what(&value));
                        self.problem(problems, key, message);
                    }
                }
            } else {
                let known = SETTINGS
                    .iter()
                    .filter_map(|setting| setting.strip_prefix(prefix))
                    .map(|rest| rest.split('.').next().unwrap_or(rest))
                    .chain(["clouds", "cloud"].into_iter().filter(|_| prefix.is_empty()));
                self.unknown(key, &name, known, problems);
            }
        }
    }

    fn read_clouds(&mut self, value: Value, problems: &mut Problems) {
        let Value::Table(clouds) = value else {
            let message = format!("{}, not a table: write [cloud.NAME], or `clouds = [..]`", what(&value));
            return self.problem(problems, "cloud".to_owned(), message);
        };
        for (name, value) in clouds {
            let key = format!("cloud.{name}");
            let Value::Table(cloud) = value else {
                let message = format!("{}, not a table: write [{key}]", what(&value));
                self.problem(problems, key, message);
                continue;
            };
            // The table counts even where nothing in it is right: its name is checked later.
            let mut allowed = Vec::new();
            for (option, value) in cloud {
                let key = format!("{key}.{option}");
                if option == "allow_http" {
                    allowed = self.strings(key, value, problems).unwrap_or_default();
                } else {
                    self.unknown(key, &option, ["allow_http"], problems);
                }
            }
            self.allow_http.insert(name, allowed);
        }
    }

    fn strings(&self, key: String, value: Value, problems: &mut Problems) -> Option<Vec<String>> {
        let found = what(&value);
        let strings = match value {
            Value::Array(items) => items
                .into_iter()
                .map(|item| if let Value::String(text) = item { Some(text) } else { None })
                .collect(),
            _ => None,
        };
        if strings.is_none() {
            let message = format!("{found}, not a list of texts: write {key} = [\"..\", \"..\"]");
            self.problem(problems, key, message);
        }
        strings
    }

    fn unknown<'a>(
        &self,
        key: String,
        name: &str,
        known: impl IntoIterator<Item = &'a str>,
        problems: &mut Problems,
    ) {
        let message = match closest(name, known) {
            Some(near) => format!("unknown key: did you mean `{near}`?"),
            None => "unknown key: remove it".to_owned(),
        };
        self.problem(problems, key, message);
    }

    fn problem(&self, problems: &mut Problems, key: String, message: String) {
        problems.add(self.path.display(), key, message);
    }
}

/// Whether reading `path` failed because nothing is there. A directory that may not be searched hides
/// what is in it, which for a place that is only looked at is the same.
pub(super) fn is_absent(path: &Path, error: &io::Error) -> bool {
    match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => true,
        io::ErrorKind::PermissionDenied => fs::symlink_metadata(path).is_err(),
        _ => false,
    }
}

fn in_table(setting: &str, table: &str) -> bool {
    setting.strip_prefix(table).is_some_and(|rest| rest.starts_with('.'))
}

fn scalar(value: Value) -> Result<String, &'static str> {
    match value {
        Value::String(text) => Ok(text),
        Value::Integer(number) => Ok(number.to_string()),
        value => Err(what(&value)),
    }
}

fn what(value: &Value) -> &'static str {
    match value {
        Value::String(_) => "a text",
        Value::Integer(_) => "a number",
        Value::Float(_) => "a fraction",
        Value::Boolean(_) => "true or false",
        Value::Datetime(_) => "a date",
        Value::Array(_) => "a list",
        Value::Table(_) => "a table",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Checks the problems of a file, each as `key: message`.
    #[track_caller]
    fn check_problems(text: &str, expected: &[&str]) {
        let mut problems = Problems::default();
        File::parse(Path::new("/k.toml"), text, &mut problems);
        let expected: Vec<_> = expected.iter().map(|line| format!("/k.toml: {line}")).collect();
        let shown = problems.to_string();
        let mut shown: Vec<_> = shown.lines().collect();
        shown.sort_by_key(|line| expected.iter().position(|expected| expected == line));
        assert_eq!(shown, expected);
    }

    #[test]
    fn a_file_is_read_into_texts() {
        let text = "
            listen = '127.0.0.1:1'
            workers = 3
            clouds = ['a', 'b']
            log.level = 'debug'
            [limits]
            head = 65536
            [cloud.a]
            allow_http = ['image']
            [cloud.'b c']
        ";
        let mut problems = Problems::default();
        let file = File::parse(Path::new("k"), text, &mut problems);
        assert_eq!(problems.to_string(), "");
        let settings: Vec<_> = file.settings.iter().map(|(key, text)| format!("{key}={text}")).collect();
        assert_eq!(settings, ["limits.head=65536", "listen=127.0.0.1:1", "log.level=debug", "workers=3"]);
        assert_eq!(file.clouds.unwrap(), ["a", "b"]);
        assert_eq!(file.allow_http["a"], ["image"]);
        assert!(file.allow_http["b c"].is_empty());
    }

    #[test]
    fn what_is_not_toml_names_the_line() {
        let mut problems = Problems::default();
        File::parse(Path::new("/k.toml"), "listen = '127.0.0.1:1'\n\nworkers = = 3\n", &mut problems);
        let shown = problems.to_string();
        assert!(shown.starts_with("/k.toml: line 3: not TOML: "), "{shown}");
        assert!(!shown.contains('\n'), "{shown}");
    }

    #[test]
    fn unknown_keys_and_wrong_types_are_reported_together() {
        check_problems(
            "lisen = 1\nthreads = 4\nworkers = [1]\nlog = 'json'\nclouds = 'prod'\n\
             [limits]\nheads = 1\nhead = 1.5\n[timeouts]\nconnect = true\n\
             [cloud.prod]\nallow_htpp = ['image']\n[cloud.lab]\nallow_http = [1]\n",
            &[
                "lisen: unknown key: did you mean `listen`?",
                "threads: unknown key: remove it",
                "workers: a list, not a text or a number",
                "log: a text, not a table: write [log]",
                "clouds: a text, not a list of texts: write clouds = [\"..\", \"..\"]",
                "limits.heads: unknown key: did you mean `head`?",
                "limits.head: a fraction, not a text or a number",
                "timeouts.connect: true or false, not a text or a number",
                "cloud.prod.allow_htpp: unknown key: did you mean `allow_http`?",
                "cloud.lab.allow_http: a list, not a list of texts: write cloud.lab.allow_http = [\"..\", \"..\"]",
            ],
        );
        check_problems(
            "cloud = 'prod'",
            &["cloud: a text, not a table: write [cloud.NAME], or `clouds = [..]`"],
        );
        check_problems("cloud.prod = 1", &["cloud.prod: a number, not a table: write [cloud.prod]"]);
    }
}
