//! `[identity.NAME]`: who may come in, and what they may do.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};
use std::{fs, io};

use jiff::Timestamp;
use zeroize::Zeroizing;

use super::file::{File, Options};
use super::policy::Policies;
use super::{Layers, exposure, sources, value};
use crate::identity::{Config, KEY_START, SubjectName, keyring, limits};
use crate::keystone::Secret;
use crate::policy::IdentityApi;
use crate::secret;

/// How short a password may be, characters.
const SHORTEST: usize = 8;

/// The file of API keys in the directory where state is kept.
const KEYS: &str = "api-keys";

/// An identity as it is written, and where.
struct Written<'a> {
    name: String,
    path: PathBuf,
    /// What stands before an option in a message.
    key: String,
    options: Cow<'a, Options>,
}

/// An option that is wrong, and the rest of a sentence that starts with it.
type Wrong = (&'static str, String);

/// What `[identities]` says.
#[derive(Debug, Default)]
pub(super) struct Places {
    /// Where there is a file for each identity.
    directory: Option<PathBuf>,
    /// The file of API keys.
    pub(super) keys: Option<PathBuf>,
    /// Who has a key in it.
    keyed: BTreeSet<String>,
}

impl Layers<'_> {
    /// `[identities]`; `state` is where the file of keys is by default.
    pub(super) fn identity_places(&mut self, state: Option<&Path>) -> Places {
        let path = |text: &str| match text {
            "" => Err("is empty: write a path".to_owned()),
            text => Ok(Some(text.to_owned())),
        };
        let directory = self.setting("identities.directory", None, path);
        let keys = self.setting("identities.keys", None, path);
        let keys = keys.map(|path| self.env.path(&path)).or_else(|| state.map(|state| state.join(KEYS)));
        let mut keyed = BTreeSet::new();
        match keys.as_deref().map(keyring::read) {
            Some(Ok((keys, _))) => keyed.extend(keys.into_iter().map(|key| key.identity)),
            Some(Err(error)) => self.problem("identities.keys", &secret::causes(&error)),
            None => {}
        }
        Places { directory: directory.map(|path| self.env.path(&path)), keys, keyed }
    }

    /// All identities: `[identity.NAME]`, and a file NAME.toml for each in the directory. Two that show the same can't
    /// be told apart, so that is a problem.
    pub(super) fn identities(
        &mut self,
        places: &Places,
        policies: &Policies,
        warnings: &mut Vec<String>,
    ) -> Vec<Config> {
        let file = self.file;
        let in_file = file.identities.iter().map(|(name, options)| {
            let key = format!("identity.{name}.");
            Written { name: name.clone(), path: file.path.clone(), key, options: Cow::Borrowed(options) }
        });
        let mut written: Vec<_> = in_file.collect();
        if let Some(directory) = &places.directory {
            written.extend(self.in_directory(directory));
        }
        let mut identities: Vec<Config> = Vec::new();
        for Written { name, path, key, options } in written {
            let mut wrong = Vec::new();
            let identity = self.identity(&name, &options, policies, &mut wrong, warnings);
            for other in &identities {
                if other.name == name {
                    wrong.push(("", "there is another identity of this name: keep one of them".to_owned()));
                }
                for (option, shown) in shared(other, &identity) {
                    let message = format!(
                        "{shown} is identity {}'s too, and it must tell whose a request is: choose another",
                        other.name
                    );
                    wrong.push((option, message));
                }
            }
            for (option, message) in wrong {
                let key = format!("{key}{option}");
                self.problems.add(path.display(), key.trim_end_matches('.'), message);
            }
            if options.has("password") {
                exposure::warn(&path, self.env, warnings);
            }
            let shows = [
                "password",
                "password_file",
                "password_command",
                "password_credential",
                "certificates",
                "users",
                "groups",
            ];
            if !shows.iter().any(|option| options.has(option)) && !places.keyed.contains(&name) {
                warnings.push(format!(
                    "{}: identity {name} has nothing to show yet: make a key with `keyway key new {name}`",
                    path.display()
                ));
            }
            identities.push(identity);
        }
        identities
    }

    /// The files of a directory, each an identity of its name.
    fn in_directory(&mut self, directory: &Path) -> Vec<Written<'static>> {
        let unreadable = |error: io::Error| {
            format!(
                "{} cannot be read ({error}): make it a directory that keyway may read",
                directory.display()
            )
        };
        let entries = fs::read_dir(directory).and_then(Iterator::collect::<io::Result<Vec<_>>>);
        let mut paths: Vec<_> = match entries {
            Ok(entries) => entries.into_iter().map(|entry| entry.path()).collect(),
            Err(error) => {
                self.problem("identities.directory", &unreadable(error));
                return Vec::new();
            }
        };
        paths.sort();
        let mut found = Vec::new();
        for path in paths {
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            let Some(name) = name.strip_suffix(".toml").filter(|name| !name.starts_with('.')) else {
                continue;
            };
            match fs::read_to_string(&path) {
                Ok(text) => {
                    let options = File::identity(&path, name, &Zeroizing::new(text), self.problems);
                    let (name, options) = (name.to_owned(), Cow::Owned(options));
                    found.push(Written { name, path, key: String::new(), options });
                }
                Err(error) => {
                    let message = format!("cannot be read ({error}): make it a file that keyway may read");
                    self.problems.add(path.display(), "", message);
                }
            }
        }
        found
    }

    fn identity(
        &self,
        name: &str,
        options: &Options,
        policies: &Policies,
        wrong: &mut Vec<Wrong>,
        warnings: &mut Vec<String>,
    ) -> Config {
        let mut config = Config { name: name.to_owned(), ..Config::default() };
        let note = |wrong: &mut Vec<Wrong>, option, result: Result<(), String>| {
            if let Err(message) = result {
                wrong.push((option, message));
            }
        };
        match self.password(options, warnings) {
            Ok(password) => config.password = password,
            Err(why) => wrong.push(why),
        }
        for text in options.list("certificates") {
            note(wrong, "certificates", subject_name(text).map(|name| config.certificates.push(name)));
        }
        for (option, ids) in [("users", &mut config.users), ("groups", &mut config.groups)] {
            for text in options.list(option) {
                let id =
                    text.parse().map_err(|_| format!("`{text}` is no id: write numbers, as `id` shows them"));
                note(wrong, option, id.map(|id| ids.push(id)));
            }
        }
        let rights = &mut config.rights;
        let lists = [
            ("clouds", &mut rights.clouds),
            ("projects", &mut rights.projects),
            ("regions", &mut rights.regions),
        ];
        for (option, names) in lists {
            names.extend(options.list(option).map(str::to_owned));
            if names.iter().any(String::is_empty) || options.is_empty(option) {
                let message = format!("is empty: name {option}, or leave the key out for all");
                wrong.push((option, message));
            }
        }
        if let Some(name) = options.text("policy") {
            note(wrong, "policy", policies.named(name).map(|policy| rights.policy = policy));
        }
        if let Some(text) = options.text("identity_api") {
            note(wrong, "identity_api", identity_api(text).map(|allowed| rights.identity_api = allowed));
        }
        if let Some(text) = options.text("body") {
            note(wrong, "body", value::size_or_none(text).map(|size| rights.body = size));
        }
        if let Some(text) = options.text("expires") {
            note(wrong, "expires", time(text).map(|time| rights.ends = Some(time)));
        }
        config.limits = limits_of(options, wrong);
        config
    }

    /// # Errors
    /// The option that is wrong.
    fn password(&self, options: &Options, warnings: &mut Vec<String>) -> Result<Option<Secret>, Wrong> {
        let forms = ["password", "password_file", "password_command", "password_credential"];
        let mut set = forms.into_iter().filter(|option| options.has(option));
        let Some(option) = set.next() else { return Ok(None) };
        if let Some(other) = set.next() {
            return Err((option, format!("there is a {other} too: remove one of them")));
        }
        let told = |why: String| (option, why);
        let place = options.text(option).unwrap_or_default();
        if option == "password_command" {
            let words = options.list(option).map(str::to_owned).collect();
            let command = sources::command(words, self.env).map_err(told)?;
            let secret = command.read_now().map_err(|unreadable| told(unreadable.to_string()))?;
            return check_password(secret.expose()).map(|()| Some(secret)).map_err(told);
        }
        let path: Option<PathBuf> = match option {
            "password" => None,
            "password_file" => Some(self.env.path(place)),
            _ => Some(sources::credential(place, self.env).map_err(told)?),
        };
        let secret = match path {
            None => Secret::new(options.whole(option).unwrap_or_default()),
            Some(path) => {
                exposure::warn(&path, self.env, warnings);
                secret::read_file(&path).map_err(|unreadable| told(unreadable.to_string()))?
            }
        };
        match check_password(secret.expose()) {
            Ok(()) => Ok(Some(secret)),
            Err(why) => Err((option, why)),
        }
    }
}

/// What two identities have in common that tells whose a request is, and the option that says so.
fn shared(one: &Config, other: &Config) -> Vec<(&'static str, String)> {
    let mut found = Vec::new();
    if one.password.is_some() && one.password == other.password {
        found.push(("password", "this password".to_owned()));
    }
    let same = other.certificates.iter().filter(|name| one.certificates.contains(name));
    found.extend(same.map(|name| ("certificates", name.to_string())));
    for (option, one, other) in [("users", &one.users, &other.users), ("groups", &one.groups, &other.groups)]
    {
        found.extend(other.iter().filter(|id| one.contains(id)).map(|id| (option, id.to_string())));
    }
    found
}

fn limits_of(options: &Options, wrong: &mut Vec<Wrong>) -> limits::Config {
    let mut number = |option| {
        let text = options.text(option)?;
        match text.parse::<NonZeroU32>() {
            Ok(number) => Some(number),
            Err(_) => {
                wrong.push((option, format!("`{text}` is no number from 1 to {}", u32::MAX)));
                None
            }
        }
    };
    let (rate, burst, requests) = (number("rate"), number("burst"), number("requests"));
    if options.has("burst") && !options.has("rate") {
        wrong.push(("burst", "there is no rate: write how many requests per second, too".to_owned()));
    }
    limits::Config {
        rate: rate.map(|rate| (rate, burst.unwrap_or(rate))),
        requests: requests.and_then(|requests| usize::try_from(requests.get()).ok()),
    }
}

fn identity_api(text: &str) -> Result<IdentityApi, String> {
    let all = [IdentityApi::ReadOnly, IdentityApi::All, IdentityApi::None];
    let found = all.into_iter().find(|allowed| allowed.as_str() == text);
    found.ok_or_else(|| format!("`{text}` is none of read-only, all, none"))
}

/// A name of a certificate's, with the kind before a colon.
fn subject_name(text: &str) -> Result<SubjectName, String> {
    let name = match text.split_once(':') {
        Some((_, "")) | None => None,
        Some(("dns", name)) => Some(SubjectName::Dns(name.to_ascii_lowercase())),
        Some(("uri", name)) if name.contains(':') => Some(SubjectName::Uri(name.to_owned())),
        Some(("email", name)) if name.contains('@') => Some(SubjectName::Email(name.to_owned())),
        Some(_) => None,
    };
    name.ok_or_else(|| {
        format!(
            "`{text}` is no name of a certificate: write one of its subject alternative names, such as \
             dns:build.example, email:ada@team.example or uri:spiffe://team.example/ada"
        )
    })
}

/// A time, or the beginning of a day, UTC.
///
/// # Errors
/// It is neither.
pub fn time(text: &str) -> Result<Timestamp, String> {
    let day = || text.parse::<jiff::civil::Date>().ok()?.to_zoned(jiff::tz::TimeZone::UTC).ok();
    text.parse().ok().or_else(|| day().map(|day| day.timestamp())).ok_or_else(|| {
        format!("`{text}` is no time: write 2027-01-31, or 2027-01-31T18:00:00Z with its zone")
    })
}

/// # Errors
/// What is wrong with it, without the password.
fn check_password(text: &str) -> Result<(), String> {
    let generate = "choose another, for example what `openssl rand -hex 16` prints";
    if text.chars().count() < SHORTEST {
        return Err(format!("is shorter than {SHORTEST} characters: {generate}"));
    }
    if text.chars().any(char::is_control) || text.trim() != text {
        return Err(format!(
            "holds a line break or another control character, or has a space at an end: {generate}"
        ));
    }
    if text.starts_with("gAAAAA") || text.as_bytes().starts_with(KEY_START) {
        return Err(format!("begins as tokens or API keys do: {generate}"));
    }
    Ok(())
}
