//! Whose password is this?
//!
//! How long the answer takes tells nothing: neither whether the name or the password was wrong, nor how much
//! of either was right. And it is only given so often ([`Attempts`]).

use std::fmt;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use ring::hmac;
use subtle::ConstantTimeEq as _;
use zeroize::Zeroizing;

use super::Config;
use crate::private::random;

/// The passwords of identities, by hashes that are keyed anew each time.
pub(super) struct Passwords {
    key: hmac::Key,
    hashes: Vec<Hashed>,
}

/// Whose, what name and password together are, and the password alone.
struct Hashed {
    name: String,
    pair: [u8; 32],
    alone: [u8; 32],
}

impl Passwords {
    /// Of those that have one.
    pub(super) fn new(identities: &[Config]) -> Self {
        let key = hmac::Key::new(hmac::HMAC_SHA256, Zeroizing::new(random::<32>()).as_slice());
        let hashed = |identity: &Config| {
            let password = identity.password.as_ref()?.expose().as_bytes();
            Some(Hashed {
                name: identity.name.clone(),
                pair: hash(&key, Some(&identity.name), password),
                alone: hash(&key, None, password),
            })
        };
        Self { hashes: identities.iter().filter_map(hashed).collect(), key }
    }

    /// The identity of this name, if this is its password; of any name if none is given.
    pub(super) fn login(&self, name: Option<&str>, password: &[u8]) -> Option<&str> {
        let asked = hash(&self.key, name, password);
        let mut found = None;
        for hashed in &self.hashes {
            let its = if name.is_some() { &hashed.pair } else { &hashed.alone };
            if its.ct_eq(&asked).into() {
                found = Some(hashed.name.as_str());
            }
        }
        found
    }
}

impl fmt::Debug for Passwords {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.hashes.iter().map(|hashed| &hashed.name)).finish()
    }
}

/// A name has its length before it, so that no other name and password are the same bytes.
fn hash(key: &hmac::Key, name: Option<&str>, password: &[u8]) -> [u8; 32] {
    let mut context = hmac::Context::with_key(key);
    let name = name.unwrap_or_default();
    context.update(&(name.len() as u64).to_be_bytes());
    context.update(name.as_bytes());
    context.update(password);
    context.sign().as_ref().try_into().expect("SHA-256 has 32 bytes")
}

/// How many wrong passwords a listener takes at once.
const BURST: u32 = 10;

/// How long it takes until it takes one more.
const EVERY: Duration = Duration::from_secs(1);

/// The wrong passwords of one listener. Once there were too many, none is looked at for a while, right ones
/// neither: else nothing would be limited. Tokens, and passwords that a worker has seen to be right, go on.
#[derive(Debug, Default)]
pub struct Attempts {
    /// When the last wrong password will be forgotten.
    forgotten: Mutex<Option<Instant>>,
}

impl Attempts {
    /// Whether a password may be looked at.
    ///
    /// # Errors
    /// How long to wait.
    pub fn check(&self, now: Instant) -> Result<(), Duration> {
        let owed = self.forgotten(|forgotten| forgotten.map(|at| at.saturating_duration_since(now)));
        match owed.unwrap_or_default().checked_sub(EVERY * (BURST - 1)) {
            Some(wait) if !wait.is_zero() => Err(wait),
            _ => Ok(()),
        }
    }

    /// One was wrong.
    pub fn wrong(&self, now: Instant) {
        self.forgotten(|forgotten| *forgotten = Some(forgotten.map_or(now, |at| at.max(now)) + EVERY));
    }

    fn forgotten<T>(&self, change: impl FnOnce(&mut Option<Instant>) -> T) -> T {
        change(&mut self.forgotten.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keystone::Secret;

    fn passwords() -> Passwords {
        let identity = |name: &str, password: Option<&str>| Config {
            name: name.to_owned(),
            password: password.map(Secret::new),
            ..Config::default()
        };
        let with = [identity("ada", Some("hunter2-ada")), identity("bob", Some("hunter2-bob"))];
        Passwords::new(&[&with[..], &[identity("eve", None)]].concat())
    }

    #[test]
    fn a_login_is_its_own_name_with_its_own_password() {
        let passwords = passwords();
        let name = |name, password: &str| passwords.login(name, password.as_bytes());
        assert_eq!(name(Some("ada"), "hunter2-ada"), Some("ada"));
        assert_eq!(name(Some("ada"), "hunter2-bob"), None);
        assert_eq!(name(Some("eve"), "hunter2-bob"), None);
        assert_eq!(name(Some("adah"), "unter2-ada"), None);
        assert_eq!(name(Some(""), "hunter2-ada"), None);
        assert_eq!(name(None, "hunter2-bob"), Some("bob"));
        assert_eq!(name(None, "hunter2"), None);
        assert_eq!(name(None, ""), None);
    }

    // Promise 80.
    #[test]
    fn a_login_is_shown_without_its_password() {
        let shown = format!("{:?}", passwords());
        assert!(shown.contains("ada") && !shown.contains("hunter2"), "{shown}");
    }

    #[test]
    fn wrong_passwords_are_taken_so_many_at_once_and_then_one_at_a_time() {
        let (attempts, start) = (Attempts::default(), Instant::now());
        for _ in 0..BURST {
            assert_eq!(attempts.check(start), Ok(()));
            attempts.wrong(start);
        }
        assert_eq!(attempts.check(start), Err(EVERY));
        let later = start + EVERY;
        assert_eq!(attempts.check(later), Ok(()));
        attempts.wrong(later);
        assert_eq!(attempts.check(later), Err(EVERY));
        assert_eq!(attempts.check(later + EVERY * BURST), Ok(()));
    }
}
