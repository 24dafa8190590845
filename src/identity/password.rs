//! Whose password is this?
//!
//! How long the answer takes tells nothing: neither whether the name or the password was wrong, nor how much
//! of either was right. And it is only given so often ([`Attempts`]).

use std::collections::HashMap;
use std::fmt;
use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
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

/// How many wrong passwords a listener takes from one client at once.
const BURST: u32 = 10;

/// How long it takes until it takes one more.
const EVERY: Duration = Duration::from_secs(1);

/// Clients with wrong passwords that are told apart; any more count as one.
const MOST: usize = 10_000;

/// Whose wrong passwords are counted together: those of an address (IPv6: of a network of 64 bits, which is one
/// customer's), or of a user on this machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Guesser {
    /// From there.
    Address(IpAddr),
    /// A user (uid) at a socket file.
    User(u32),
    /// Nobody knows.
    Unknown,
}

impl Guesser {
    /// The one at the other end of a connection.
    pub fn of(address: Option<IpAddr>, user: Option<(u32, u32)>) -> Self {
        match (address.map(|address| address.to_canonical()), user) {
            (Some(IpAddr::V6(address)), _) => {
                let network = u128::from(address) >> 64 << 64;
                Self::Address(IpAddr::V6(network.into()))
            }
            (Some(address), _) => Self::Address(address),
            (None, Some((user, _))) => Self::User(user),
            (None, None) => Self::Unknown,
        }
    }
}

/// The wrong passwords and keys of one listener, by client: nobody's guesses keep another one out. Once a client has
/// had too many, no password of its is looked at for a while, right ones neither: else nothing would be limited. A key
/// has nothing to guess, so a right one is always taken. Tokens, and passwords that a worker has seen to be right, go
/// on as well.
#[derive(Debug, Default)]
pub struct Attempts {
    /// When the last wrong password of each will be forgotten.
    forgotten: Mutex<HashMap<Guesser, Instant>>,
}

impl Attempts {
    /// Whether a password may be looked at.
    ///
    /// # Errors
    /// How long to wait.
    pub fn check(&self, who: Guesser, now: Instant) -> Result<(), Duration> {
        let forgotten = self.forgotten();
        let known = forgotten
            .get(&who)
            .or_else(|| if forgotten.len() < MOST { None } else { forgotten.get(&Guesser::Unknown) });
        let owed = known.map(|at| at.saturating_duration_since(now)).unwrap_or_default();
        match owed.checked_sub(EVERY * (BURST - 1)) {
            Some(wait) if !wait.is_zero() => Err(wait),
            _ => Ok(()),
        }
    }

    /// One was wrong.
    pub fn wrong(&self, who: Guesser, now: Instant) {
        let mut forgotten = self.forgotten();
        if forgotten.len() >= MOST && !forgotten.contains_key(&who) {
            forgotten.retain(|_, at| *at > now);
        }
        let who = if forgotten.len() < MOST || forgotten.contains_key(&who) { who } else { Guesser::Unknown };
        let at = forgotten.entry(who).or_insert(now);
        *at = (*at).max(now) + EVERY;
    }

    fn forgotten(&self) -> MutexGuard<'_, HashMap<Guesser, Instant>> {
        self.forgotten.lock().unwrap_or_else(PoisonError::into_inner)
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

    fn at(address: &str) -> Guesser {
        Guesser::of(Some(address.parse().unwrap()), None)
    }

    #[test]
    fn wrong_passwords_are_taken_so_many_at_once_and_then_one_at_a_time() {
        let (attempts, start, who) = (Attempts::default(), Instant::now(), at("192.0.2.1"));
        for _ in 0..BURST {
            assert_eq!(attempts.check(who, start), Ok(()));
            attempts.wrong(who, start);
        }
        assert_eq!(attempts.check(who, start), Err(EVERY));
        let later = start + EVERY;
        assert_eq!(attempts.check(who, later), Ok(()));
        attempts.wrong(who, later);
        assert_eq!(attempts.check(who, later), Err(EVERY));
        assert_eq!(attempts.check(who, later + EVERY * BURST), Ok(()));
    }

    #[test]
    fn a_clients_guesses_are_its_own_and_a_network_of_ipv6_is_one_client() {
        let (attempts, start) = (Attempts::default(), Instant::now());
        let guesser = at("2001:db8::1");
        (0..BURST).for_each(|_| attempts.wrong(guesser, start));
        assert!(attempts.check(at("2001:db8::2:3:4:5"), start).is_err());
        assert!(attempts.check(at("::ffff:192.0.2.1"), start).is_ok());
        assert_eq!(at("::ffff:192.0.2.1"), at("192.0.2.1"));
        for other in [at("2001:db8:0:1::1"), Guesser::of(None, Some((7, 8))), Guesser::of(None, None)] {
            assert_eq!(attempts.check(other, start), Ok(()));
        }
    }

    #[test]
    fn however_many_guess_no_more_than_so_many_are_remembered() {
        let (attempts, start) = (Attempts::default(), Instant::now());
        let nth = |n: u32| Guesser::Address(IpAddr::V4(n.into()));
        for n in 0..MOST as u32 + 1000 {
            attempts.wrong(nth(n), start);
        }
        assert_eq!(attempts.forgotten().len(), MOST + 1);
        // Those beyond count as one; the others are as before.
        assert!(attempts.check(nth(MOST as u32 + 5000), start).is_err());
        assert_eq!(attempts.check(nth(3), start), Ok(()));
        let later = start + EVERY * 2000;
        attempts.wrong(nth(u32::MAX), later);
        assert_eq!(attempts.forgotten().len(), 1);
        assert_eq!(attempts.check(nth(MOST as u32 + 5000), later), Ok(()));
    }
}
