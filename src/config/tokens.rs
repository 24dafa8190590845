//! `[tokens]`: the clouds' tokens, whether they outlive the process, and whether several keyways share them.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::{Layers, exposure, sources, value};
use crate::keystone::store::{self, Config};
use crate::keystone::{Source, shared};
use crate::secret;
use crate::upstream::tls;

/// The directory of the tokens below the one where state is kept, and the file of the key beside it.
const DIRECTORY: &str = "tokens";
const KEY: &str = "token-key";

/// `tokens.cache` as written.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Cache {
    Off,
    Default,
    At(String),
}

/// How the store's keys begin unless that is said, and how long it may take for anything.
const PREFIX: &str = "keyway:";
const TIMEOUT: Duration = Duration::from_millis(300);

/// The options of a password, each of which says where it is to be had.
const PASSWORDS: [&str; 3] =
    ["tokens.store_password_file", "tokens.store_password_command", "tokens.store_password_credential"];

impl Layers<'_> {
    /// Where several keyways share tokens.
    pub(super) fn token_store(
        &mut self,
        is_demo: bool,
        warnings: &mut Vec<String>,
    ) -> Option<shared::Config> {
        let before = self.problems.len();
        let address = self.setting("tokens.store", None, |text| match text {
            "" => Err("is empty: write an address such as redis://host:6379, or \"none\"".to_owned()),
            "none" => Ok(None),
            text => text.parse::<shared::Address>().map(Some),
        });
        let user = self.setting("tokens.store_user", None, |text| some(text, "a user's name"));
        let password = self.store_password(warnings);
        let tls = self.store_tls(warnings);
        let prefix = self.setting("tokens.store_prefix", PREFIX.to_owned(), prefix);
        let timeout =
            self.setting("tokens.store_timeout", TIMEOUT, |text| value::within_times(text, "10ms", "5s"));
        let Some(address) = address else {
            // A demo has no store, and what is said of one is another program's.
            if !is_demo && self.problems.len() == before && self.written("tokens.store").is_empty() {
                let options =
                    ["tokens.store_user", "tokens.store_ca", "tokens.store_cert", "tokens.store_prefix"];
                let said = options.into_iter().chain(PASSWORDS).find(|key| !self.written(key).is_empty());
                if let Some(key) = said {
                    self.problem(key, "there is no store that this is about: set tokens.store, or remove it");
                }
            }
            return None;
        };
        if is_demo {
            return None;
        }
        if user.is_some() && password.is_none() && self.problems.len() == before {
            let message =
                "a user without a password: set tokens.store_password_file, _command or _credential";
            self.problem("tokens.store_user", message);
        }
        if !address.tls && tls != tls::Config::default() {
            let message = "has no TLS, and tokens.store_ca or tokens.store_cert are set: write rediss://, or remove them";
            self.problem("tokens.store", message);
        }
        if !address.tls && password.is_some() && !address.is_local() {
            warnings.push(
                "tokens.store: its password crosses the network in the clear, and whoever has it can make every keyway \
                 log in anew: write rediss://"
                    .to_owned(),
            );
        }
        if self.setting("tokens.cache", Cache::Off, cache) != Cache::Off {
            let message =
                "tokens are to be shared by tokens.store, and kept on disk as well: keep one of them";
            self.problem("tokens.cache", message);
        }
        let key = self.setting("tokens.cache_key", None, |text| some(text, "the path of a file"));
        let Some(key) = key else {
            let message = "shared tokens are sealed with a key that all keyways have: write 32 random bytes in base64 into a \
                           file (`openssl rand -base64 32`), and set tokens.cache_key";
            self.problem("tokens.store", message);
            return None;
        };
        let key_file = self.key_file(&key, warnings)?;
        let config = shared::Config { address, user, password, tls, prefix, timeout, key_file };
        if let Err(error) = shared::check(&config) {
            self.problem("tokens.cache_key", &secret::causes(&error));
        }
        Some(config)
    }

    fn store_password(&mut self, warnings: &mut Vec<String>) -> Option<Source> {
        let env = self.env;
        let set: Vec<_> = PASSWORDS.into_iter().filter(|key| !self.written(key).is_empty()).collect();
        if let [first, second, ..] = set[..] {
            self.problem(second, &format!("{first} is set too: keep one of them"));
        }
        let file = self.setting(PASSWORDS[0], None, |text| Ok(Some(env.path(text))));
        let command = self.setting(PASSWORDS[1], None, |text| {
            sources::words(text).and_then(|words| sources::command(words, env)).map(Some)
        });
        let credential = self.setting(PASSWORDS[2], None, |text| sources::credential(text, env).map(Some));
        for (key, path) in [(PASSWORDS[0], file), (PASSWORDS[2], credential)] {
            let Some(path) = path else { continue };
            exposure::warn(&path, env, warnings);
            if let Err(unreadable) = secret::read_file(&path) {
                self.problem(key, &unreadable.to_string());
            }
            return Some(Source::File(path));
        }
        command.map(Source::Command)
    }

    fn store_tls(&mut self, warnings: &mut Vec<String>) -> tls::Config {
        let env = self.env;
        let file = |layers: &mut Self, key: &str| {
            layers.setting(key, None, |text| {
                let path = env.path(text);
                match fs::File::open(&path).and_then(|file| file.metadata()) {
                    Ok(metadata) if metadata.is_file() => Ok(Some(path)),
                    Ok(_) => Err(format!("{} is not a file", path.display())),
                    Err(error) => Err(format!("{} cannot be read: {error}", path.display())),
                }
            })
        };
        let [ca_file, cert, key] =
            ["tokens.store_ca", "tokens.store_cert", "tokens.store_key"].map(|key| file(self, key));
        if cert.is_none()
            && !self.written("tokens.store_key").is_empty()
            && self.written("tokens.store_cert").is_empty()
        {
            self.problem(
                "tokens.store_key",
                "a key without a certificate: set tokens.store_cert too, or remove it",
            );
        }
        let client_cert = cert.map(|cert| (cert, key));
        if let Some((cert, key)) = &client_cert {
            let (option, file) = match key {
                Some(key) => ("tokens.store_key", key),
                None => ("tokens.store_cert", cert),
            };
            if let Err(message) = exposure::check_key(file, env, warnings) {
                self.problem(option, &message);
            }
        }
        tls::Config { ca_file, insecure: false, client_cert }
    }

    /// Where tokens are kept. `state` is where the facade keeps its own; a `demo` keeps nothing, since its cloud
    /// ends with it.
    pub(super) fn tokens(
        &mut self,
        state: Option<&Path>,
        is_demo: bool,
        warnings: &mut Vec<String>,
    ) -> Option<Config> {
        let cache = self.setting("tokens.cache", Cache::Off, cache);
        let key = self.setting("tokens.cache_key", None, |text| match text {
            "" => Err("is empty: write the path of a file".to_owned()),
            text => Ok(Some(text.to_owned())),
        });
        let home = state.map(Path::to_owned).or_else(|| self.env.state_home());
        let nowhere = "there is no directory for it: write one, or set HOME";
        let directory = match (&cache, &home) {
            _ if is_demo => return None,
            (Cache::Off, _) => return None,
            (Cache::At(path), _) => self.env.path(path),
            (Cache::Default, Some(home)) => home.join(DIRECTORY),
            (Cache::Default, None) => {
                self.problem("tokens.cache", nowhere);
                return None;
            }
        };
        let makes_key = key.is_none();
        let key_file = match (key, home) {
            (Some(path), _) => self.key_file(&path, warnings)?,
            (None, Some(home)) => home.join(KEY),
            (None, None) => {
                self.problem("tokens.cache", "there is no place for its key: set tokens.cache_key, or HOME");
                return None;
            }
        };
        let config = Config { directory, key_file, makes_key };
        if let Err(error) = store::check(&config) {
            self.problem("tokens.cache", &secret::causes(&error));
        }
        Some(config)
    }

    /// A file that the operator named; keyway does not make it.
    fn key_file(&mut self, written: &str, warnings: &mut Vec<String>) -> Option<PathBuf> {
        let path = self.env.path(written);
        let checked = match path.is_file() {
            true => exposure::check_key(&path, self.env, warnings),
            false => Err(format!(
                "there is no file {0}: write 32 random bytes in base64 into it (`openssl rand -base64 32`), or \
                 leave the key out",
                path.display()
            )),
        };
        match checked {
            Ok(()) => Some(path),
            Err(message) => {
                self.problem("tokens.cache_key", &message);
                None
            }
        }
    }
}

fn some(text: &str, what: &str) -> Result<Option<String>, String> {
    if text.is_empty() { Err(format!("is empty: write {what}")) } else { Ok(Some(text.to_owned())) }
}

/// How keys begin. Braces would say which of a cluster's servers has them.
fn prefix(text: &str) -> Result<String, String> {
    let is_plain =
        |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b':' | b'-' | b'_' | b'.' | b'/');
    if text.len() > 64 || !text.bytes().all(is_plain) {
        return Err(format!("`{text}` is no prefix: take up to 64 letters, digits and :-_./"));
    }
    Ok(text.to_owned())
}

fn cache(text: &str) -> Result<Cache, String> {
    match text {
        "" => Err("is empty: write true, false, or a directory".to_owned()),
        "none" => Ok(Cache::Off),
        text => Ok(match value::boolean(text) {
            Ok(true) => Cache::Default,
            Ok(false) => Cache::Off,
            Err(_) => Cache::At(text.to_owned()),
        }),
    }
}
