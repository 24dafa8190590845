//! `[tokens]`: the clouds' tokens, and whether they outlive the process.

use std::path::{Path, PathBuf};

use super::{Layers, exposure, value};
use crate::keystone::store::{self, Config};
use crate::secret;

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

impl Layers<'_> {
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
