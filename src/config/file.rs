//! keyway.toml: where it is, and what stands in it.
//!
//! Nothing but the shape is checked here: known keys, and text or a number where one belongs. What the
//! values mean is [`super::Layers`]' question, which asks the same of flags and of the environment.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::{fmt, fs, io};

use toml::{Table, Value};
use zeroize::{Zeroize, Zeroizing};

use super::layers::SETTINGS;
use super::problems::{COMMAND_LINE, ENVIRONMENT, Problems, closest};
use super::{Env, Overrides};

/// keyway.toml as written. Without a file, everything is empty.
#[derive(Debug, Default)]
pub(super) struct File {
    /// Where it is, for messages.
    pub(super) path: PathBuf,
    /// Each of [`SETTINGS`] that it has, as text.
    pub(super) settings: BTreeMap<&'static str, String>,
    /// `clouds`.
    pub(super) clouds: Option<Vec<String>>,
    /// `[limits.bodies]`: a size by service type.
    pub(super) bodies: BTreeMap<String, String>,
    /// `[listener.NAME]`.
    pub(super) listeners: BTreeMap<String, Options>,
    /// `[policy.NAME]`, and each `[[policy.NAME.rule]]` of it.
    pub(super) policies: BTreeMap<String, (Options, Vec<Options>)>,
    /// `[identity.NAME]`.
    pub(super) identities: BTreeMap<String, Options>,
    /// `[cloud.NAME]`.
    pub(super) cloud_tables: BTreeMap<String, Options>,
}

/// What a table with a name of the operator's has: each option of its schema, as text. Some are secrets.
#[derive(Clone, Default)]
pub(super) struct Options {
    texts: BTreeMap<&'static str, String>,
    /// `None` for one that is no list, of which is told already.
    lists: BTreeMap<&'static str, Option<Vec<String>>>,
}

impl Options {
    /// An option that has one value.
    pub(super) fn text(&self, option: &str) -> Option<&str> {
        self.texts.get(option).map(|text| text.trim())
    }

    /// The same as it was written, with spaces at its ends.
    pub(super) fn whole(&self, option: &str) -> Option<&str> {
        self.texts.get(option).map(String::as_str)
    }

    /// An option that has any number of values; empty where it is not there.
    pub(super) fn list(&self, option: &str) -> impl Iterator<Item = &str> {
        self.lists.get(option).into_iter().flatten().flatten().map(|text| text.trim())
    }

    /// Whether an option is a list of nothing.
    pub(super) fn is_empty(&self, option: &str) -> bool {
        matches!(self.lists.get(option), Some(Some(list)) if list.is_empty())
    }

    /// Whether an option is there, with or without a value.
    pub(super) fn has(&self, option: &str) -> bool {
        self.texts.contains_key(option) || self.lists.contains_key(option)
    }
}

impl Drop for Options {
    fn drop(&mut self) {
        self.texts.values_mut().for_each(Zeroize::zeroize);
    }
}

impl fmt::Debug for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.texts.keys().chain(self.lists.keys())).finish()
    }
}

/// The form of an option's value.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Form {
    Text,
    /// A date of TOML's, or a text.
    Time,
    Flag,
    Texts,
    Numbers,
}

type Schema = &'static [(&'static str, Form)];

const LISTENER: Schema = &[
    ("address", Form::Text),
    ("hosts", Form::Texts),
    ("origins", Form::Texts),
    ("required_header", Form::Text),
    ("policy", Form::Text),
    ("login", Form::Text),
    ("service", Form::Text),
    ("cloud", Form::Text),
    ("region", Form::Text),
    ("tls_cert", Form::Text),
    ("tls_key", Form::Text),
    ("client_ca", Form::Text),
    ("client_crl", Form::Text),
    ("client_auth", Form::Text),
    ("mode", Form::Text),
    ("users", Form::Numbers),
];
const POLICY: Schema = &[("read_only", Form::Flag), ("default", Form::Text)];
const RULE: Schema = &[
    ("name", Form::Text),
    ("effect", Form::Text),
    ("methods", Form::Texts),
    ("services", Form::Texts),
    ("paths", Form::Texts),
    ("projects", Form::Texts),
];
const IDENTITY: Schema = &[
    ("password", Form::Text),
    ("password_file", Form::Text),
    ("password_command", Form::Texts),
    ("password_credential", Form::Text),
    ("certificates", Form::Texts),
    ("users", Form::Numbers),
    ("groups", Form::Numbers),
    ("clouds", Form::Texts),
    ("projects", Form::Texts),
    ("regions", Form::Texts),
    ("policy", Form::Text),
    ("identity_api", Form::Text),
    ("rate", Form::Text),
    ("burst", Form::Text),
    ("requests", Form::Text),
    ("body", Form::Text),
    ("expires", Form::Time),
];
const CLOUD: Schema = &[
    ("allow_http", Form::Texts),
    ("policy", Form::Text),
    ("raw_links", Form::Texts),
    ("projects", Form::Texts),
    ("legacy_types", Form::Texts),
    ("hide", Form::Texts),
    ("only_interface", Form::Text),
    ("only_region", Form::Text),
    ("raw_links", Form::Texts),
];

/// Every option of a table with a name of the operator's.
#[cfg(test)]
pub(super) fn named_options() -> impl Iterator<Item = &'static str> {
    [LISTENER, POLICY, RULE, IDENTITY, CLOUD].into_iter().flatten().map(|(option, _)| *option)
}

/// The tables whose names the operator chooses.
const NAMED_TABLES: [&str; 4] = ["cloud", "identity", "listener", "policy"];

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
                (Ok(text), _) => return Self::parse(&path, &Zeroizing::new(text), problems),
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

    /// The listeners that name the cloud of their service, and the cloud.
    pub(super) fn pinned_clouds(&self) -> impl Iterator<Item = (&str, &str)> {
        self.listeners.iter().filter_map(|(name, options)| Some((name.as_str(), options.text("cloud")?)))
    }

    fn parse(path: &Path, text: &str, problems: &mut Problems) -> Self {
        let mut file = Self { path: path.to_owned(), ..Self::default() };
        if let Some(table) = file.toml(text, problems) {
            file.read("", table, problems);
        }
        file
    }

    fn toml(&self, text: &str, problems: &mut Problems) -> Option<Table> {
        let error = match text.parse::<Table>() {
            Ok(table) => return Some(table),
            Err(error) => error,
        };
        let start = error.span().map_or(0, |span| span.start);
        let line = text.bytes().take(start).filter(|byte| *byte == b'\n').count() + 1;
        let message = error.message().replace('\n', ", ");
        self.problem(problems, String::new(), format!("line {line}: not TOML: {message}"));
        None
    }

    /// Reads a file that has one identity.
    pub(super) fn identity(path: &Path, name: &str, text: &str, problems: &mut Problems) -> Options {
        let file = Self { path: path.to_owned(), ..Self::default() };
        if !is_simple_word(name) {
            let message = "its name is no simple word: take letters, digits, `-` and `_`";
            file.problem(problems, String::new(), message.to_owned());
        }
        let table = file.toml(text, problems).unwrap_or_default();
        file.options("", table, IDENTITY, &[], problems)
    }

    /// Reads the table at `prefix`, which is empty or ends in a dot.
    fn read(&mut self, prefix: &str, table: Table, problems: &mut Problems) {
        for (name, value) in table {
            let key = format!("{prefix}{name}");
            if let Some(setting) = SETTINGS.iter().copied().find(|setting| *setting == key) {
                match (setting, value) {
                    ("emulate_ports" | "tokens.cache", Value::Boolean(flag)) => {
                        self.settings.insert(setting, flag.to_string());
                    }
                    ("emulate_ports", value) => {
                        if let Some(services) = self.list(key, value, Form::Texts, problems) {
                            self.settings.insert(setting, services.join(","));
                        }
                    }
                    ("tokens.store_password_command", value @ Value::Array(_)) => {
                        let words = self.list(key.clone(), value, Form::Texts, problems);
                        match words.map(|words| shlex::try_join(words.iter().map(String::as_str))) {
                            Some(Ok(text)) => drop(self.settings.insert(setting, text)),
                            Some(Err(_)) => {
                                let message = "has a word that is none: a NUL is in it".to_owned();
                                self.problem(problems, key, message);
                            }
                            None => {}
                        }
                    }
                    (_, value) => match scalar(value) {
                        Ok(text) => drop(self.settings.insert(setting, text)),
                        Err(what) => self.problem(problems, key, format!("{what}, not a text or a number")),
                    },
                }
            } else if key == "clouds" {
                self.clouds = self.list(key, value, Form::Texts, problems);
            } else if key == "limits.bodies" {
                self.read_bodies(value, problems);
            } else if NAMED_TABLES.contains(&key.as_str()) {
                self.read_named(&key, value, problems);
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
                    .chain(["clouds"].into_iter().chain(NAMED_TABLES).filter(|_| prefix.is_empty()))
                    .chain(["bodies"].into_iter().filter(|_| prefix == "limits."));
                self.unknown(key, &name, known, problems);
            }
        }
    }

    fn read_bodies(&mut self, value: Value, problems: &mut Problems) {
        let Some(table) = self.table("limits.bodies", value, "", problems) else { return };
        for (service, value) in table {
            match scalar(value) {
                Ok(text) => drop(self.bodies.insert(service, text)),
                Err(what) => {
                    let key = format!("limits.bodies.{service}");
                    self.problem(problems, key, format!("{what}, not a text or a number"));
                }
            }
        }
    }

    /// Reads all tables of one kind: `[cloud.NAME]`, `[identity.NAME]`, `[listener.NAME]`, `[policy.NAME]`. A
    /// table counts even where nothing in it is right: whether there should be one is checked later.
    fn read_named(&mut self, kind: &str, value: Value, problems: &mut Problems) {
        let other_way = if kind == "cloud" { ", or `clouds = [..]`" } else { "" };
        let Some(tables) = self.table(&format!("{kind}.NAME"), value, other_way, problems) else { return };
        for (name, value) in tables {
            let key = format!("{kind}.{name}");
            if kind != "cloud" && !is_simple_word(&name) {
                let message = "its name is no simple word: take letters, digits, `-` and `_`";
                self.problem(problems, key.clone(), message.to_owned());
            }
            let Some(mut table) = self.table(&key, value, "", problems) else { continue };
            match kind {
                "cloud" => {
                    let options = self.options(&key, table, CLOUD, &[], problems);
                    self.cloud_tables.insert(name, options);
                }
                "listener" => {
                    let options = self.options(&key, table, LISTENER, &[], problems);
                    self.listeners.insert(name, options);
                }
                "identity" => {
                    let options = self.options(&key, table, IDENTITY, &[], problems);
                    self.identities.insert(name, options);
                }
                _ => {
                    let rules = table.remove("rule");
                    let rules = rules.map_or_else(Vec::new, |rules| self.rules(&key, rules, problems));
                    let options = self.options(&key, table, POLICY, &["rule"], problems);
                    self.policies.insert(name, (options, rules));
                }
            }
        }
    }

    fn rules(&self, policy: &str, value: Value, problems: &mut Problems) -> Vec<Options> {
        let key = format!("{policy}.rule");
        let found = what(&value);
        let tables = match value {
            Value::Array(items) => items
                .into_iter()
                .map(|item| if let Value::Table(table) = item { Some(table) } else { None })
                .collect::<Option<Vec<_>>>(),
            _ => None,
        };
        let Some(tables) = tables else {
            self.problem(problems, key.clone(), format!("{found}, not a list of tables: write [[{key}]]"));
            return Vec::new();
        };
        let rule =
            |(number, table)| self.options(&format!("{key}[{}]", number + 1), table, RULE, &[], problems);
        tables.into_iter().enumerate().map(rule).collect()
    }

    /// The options of one table; `others` are known as well, but were read before.
    fn options(
        &self,
        key: &str,
        table: Table,
        schema: Schema,
        others: &[&'static str],
        problems: &mut Problems,
    ) -> Options {
        let mut options = Options::default();
        for (name, value) in table {
            let key = if key.is_empty() { name.clone() } else { format!("{key}.{name}") };
            let Some((option, form)) = schema.iter().find(|(option, _)| *option == name) else {
                let known = schema.iter().map(|(option, _)| *option).chain(others.iter().copied());
                self.unknown(key, &name, known, problems);
                continue;
            };
            match (form, value) {
                (Form::Texts | Form::Numbers, value) => {
                    let list = self.list(key, value, *form, problems);
                    options.lists.insert(option, list);
                }
                (Form::Flag, Value::Boolean(flag)) => drop(options.texts.insert(option, flag.to_string())),
                (Form::Flag, value) => {
                    let found = what(&value);
                    self.problem(problems, key, format!("{found}, not true or false: write {name} = true"));
                }
                (Form::Time, Value::Datetime(time)) => drop(options.texts.insert(option, time.to_string())),
                (Form::Text | Form::Time, value) => match scalar(value) {
                    Ok(text) => drop(options.texts.insert(option, text)),
                    Err(what) => self.problem(problems, key, format!("{what}, not a text")),
                },
            }
        }
        options
    }

    fn table(&self, key: &str, value: Value, or: &str, problems: &mut Problems) -> Option<Table> {
        match value {
            Value::Table(table) => Some(table),
            value => {
                let message = format!("{}, not a table: write [{key}]{or}", what(&value));
                self.problem(problems, key.trim_end_matches(".NAME").to_owned(), message);
                None
            }
        }
    }

    fn list(&self, key: String, value: Value, form: Form, problems: &mut Problems) -> Option<Vec<String>> {
        let found = what(&value);
        let texts = match value {
            Value::Array(items) => items
                .into_iter()
                .map(|item| match item {
                    Value::String(text) if form == Form::Texts => Some(text),
                    Value::Integer(number) if form == Form::Numbers => Some(number.to_string()),
                    _ => None,
                })
                .collect(),
            _ => None,
        };
        if texts.is_none() {
            let message = if form == Form::Numbers {
                format!("{found}, not a list of numbers: write {key} = [1000, 1001]")
            } else {
                format!("{found}, not a list of texts: write {key} = [\"..\", \"..\"]")
            };
            self.problem(problems, key, message);
        }
        texts
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

fn is_simple_word(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
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
        assert_eq!(file.cloud_tables["a"].list("allow_http").collect::<Vec<_>>(), ["image"]);
        assert!(!file.cloud_tables["b c"].has("allow_http"));
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
