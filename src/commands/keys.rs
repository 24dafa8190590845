//! `keyway key`: API keys are made, listed and taken away.

use std::fmt::Write as _;
use std::time::Duration;

use jiff::Timestamp;

use super::Outcome;
use crate::config::Config;
use crate::identity::keyring::{self, ApiKey};
use crate::identity::{KeyHash, KeyId, key};
use crate::secret::causes;

/// Makes a key for an identity and prints it, which nobody can do again. What else there is to say is told by `tell`.
///
/// # Errors
/// There is no such identity, or no place for keys.
pub fn new(
    config: &Config,
    name: &str,
    ends: Option<Timestamp>,
    note: &str,
    tell: &mut dyn FnMut(&str),
) -> Result<String, String> {
    let path = place(config)?;
    if !config.identities.iter().any(|identity| identity.name == name) {
        let known: Vec<_> = config.identities.iter().map(|identity| identity.name.as_str()).collect();
        return Err(match &known[..] {
            [] => format!("there is no identity `{name}`: write [identity.{name}] into keyway.toml"),
            known => {
                format!("there is no identity `{name}`, only {}: write [identity.{name}]", known.join(", "))
            }
        });
    }
    let (id, secret) = key::make();
    let hash = KeyHash::of(secret.expose().as_bytes());
    let (identity, note) = (name.to_owned(), keyring::note(note)?);
    let key = ApiKey { id, identity, hash, made: Timestamp::now(), ends, note };
    keyring::add(path, &key).map_err(|error| causes(&error))?;
    let until = ends.map_or_else(|| "until it is revoked".to_owned(), |ends| format!("until {ends:.0}"));
    tell(&format!(
        "key {id} of {name}, good {until}; it is shown this once, and a running keyway knows it within a second"
    ));
    Ok(format!("{}\n", secret.expose()))
}

/// Lists the keys of all identities, or of one.
///
/// # Errors
/// The file of keys is of no use.
pub fn list(config: &Config, of: Option<&str>) -> Result<Outcome, String> {
    let path = place(config)?;
    let (keys, wrong) = keyring::read(path).map_err(|error| causes(&error))?;
    let mut outcome = Outcome::default();
    let now = Timestamp::now();
    for ApiKey { id, identity, made, ends, note, .. } in &keys {
        if of.is_some_and(|of| of != identity) {
            continue;
        }
        let state = match ends {
            _ if !config.identities.iter().any(|known| known.name == *identity) => {
                "no such identity".to_owned()
            }
            None => "never ends".to_owned(),
            Some(ends) if *ends <= now => format!("ended {ends:.0}"),
            Some(ends) => format!("ends {ends:.0}"),
        };
        let _ = write!(outcome.text, "{id}  {identity:<16}  made {made:.0}  {state}");
        outcome.line(&if note.is_empty() { String::new() } else { format!("  {note}") });
    }
    for line in wrong {
        outcome.failed = true;
        outcome.line(&format!("{}: line {line} is no key", path.display()));
    }
    Ok(outcome)
}

/// Takes a key away.
///
/// # Errors
/// There is no such key.
pub fn revoke(config: &Config, id: &str) -> Result<String, String> {
    let path = place(config)?;
    let id: KeyId = id.parse().map_err(|()| {
        format!(
            "`{id}` is no key's name: write the 16 digits that `keyway key list` shows, never the key itself"
        )
    })?;
    let key = keyring::remove(path, id).map_err(|error| causes(&error))?;
    Ok(format!("key {id} of {} is revoked; a running keyway refuses it within a second\n", key.identity))
}

fn place(config: &Config) -> Result<&std::path::Path, String> {
    config.api_keys.as_deref().ok_or_else(|| {
        "there is no place for API keys: set identities.keys to a file, or facade.state to a directory"
            .to_owned()
    })
}

/// When a key ends: a time, a day, or so long from now.
///
/// # Errors
/// What is wrong with it.
pub fn ends(text: &str) -> Result<Timestamp, String> {
    let days = text.strip_suffix('d').and_then(|days| days.parse::<u32>().ok()).filter(|days| *days > 0);
    let ends = match days {
        Some(days) => Timestamp::now().checked_add(Duration::from_secs(u64::from(days) * 86_400)).ok(),
        None => Some(crate::config::time(text)?),
    };
    let ends = ends.ok_or_else(|| format!("`{text}` is too long"))?;
    if ends <= Timestamp::now() { Err(format!("`{text}` is over already")) } else { Ok(ends) }
}
