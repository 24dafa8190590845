//! Which tokens do several keyways share, and who of them logs in?
//!
//! A [`Store`] is a server of Redis or Valkey, or a cluster of them. It has an entry for each login and scope, sealed
//! as those on disk are ([`Seal`]), that ends with its token; beside it the lease of the keyway that logs in for it
//! right now; and a channel on which is told which tokens are of no use any more. The server learns neither what is in
//! an entry nor whose it is, and nothing that it says is believed that was not sealed with the operator's key.
//!
//! One task keeps the connection ([`Store::keep`]). Without one nobody waits and nobody fails: each keyway logs in by
//! itself. Whatever is asked takes [`Config::timeout`] at most, and the first thing that goes wrong ends the
//! connection. All clocks are the server's, so that those of the machines may differ.

mod address;
mod link;
mod news;

use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use redis::Value;
use tokio::sync::{broadcast, watch};
use tokio::task::AbortHandle;

pub use self::address::{Address, Place};
use self::link::Link;
pub use self::news::{LONGEST_NEWS, News, fingerprint};
use super::seal::{HEAD, Moment, Seal, Unusable};
use super::{Event, Identity, Observer, Scope, Secret, Source, Token, TokenId};
use crate::private::{self, NO_CHANGE, random};
use crate::secret;
use crate::upstream::tls;

/// The largest entry, bytes: a token whose document is longer is not shared.
const LARGEST: usize = 4 << 20;

/// How long a lease holds unless it is extended, and how often that is done: a keyway that dies keeps the others from
/// logging in for no longer.
const LEASE: Duration = Duration::from_secs(3);
const EXTEND: Duration = Duration::from_secs(1);

/// How often it is looked whether somebody else's login is done: between these.
const LOOK: (u64, u64) = (15, 45);

/// How many news may wait to be heard. Who misses some has them from the services, as without a store.
const MOST_NEWS: usize = 1024;

/// The time. `KEYS`: the entry that it is wanted for, since a cluster has many clocks.
const TIME: &str = "return redis.call('TIME')";

/// Looks at an entry; what is none goes. `KEYS`: the entry. `ARGV`: the largest. The time, and the entry if there is
/// one.
const READ: &str = "local time = redis.call('TIME')
local kind = redis.call('TYPE', KEYS[1]).ok
if kind == 'none' then return {time[1], time[2], 'none'} end
if kind ~= 'string' or redis.call('STRLEN', KEYS[1]) > tonumber(ARGV[1]) then
  redis.call('DEL', KEYS[1])
  return {time[1], time[2], 'foreign'}
end
return {time[1], time[2], 'entry', redis.call('GET', KEYS[1])}";

/// Takes the lease, unless there is another entry than the known one. Where that one is gone and there is none, whoever found
/// it refused holds the lease and logs in: that is waited for. A lease that has no end, or a later one than any has, is
/// nobody's. `KEYS`: the entry, the lease. `ARGV`: how the known entry begins, the value, milliseconds.
const TAKE: &str = "local known = redis.pcall('GETRANGE', KEYS[1], 0, 35)
if known ~= ARGV[1] and known ~= '' then return 'changed' end
local left = redis.call('PTTL', KEYS[2])
if left == -1 or left > tonumber(ARGV[3]) then redis.call('DEL', KEYS[2]) end
if redis.call('SET', KEYS[2], ARGV[2], 'NX', 'PX', ARGV[3]) then return 'taken' end
return 'held'";

/// Goes on holding the lease. `KEYS`: the lease. `ARGV`: its value, milliseconds.
const HOLD: &str =
    "if redis.pcall('GET', KEYS[1]) == ARGV[1] then return redis.call('PEXPIRE', KEYS[1], ARGV[2]) end
return 0";

/// Lets go of the lease. `KEYS`: the lease. `ARGV`: its value.
const LET_GO: &str = "if redis.pcall('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end
return 0";

/// Puts an entry in its place and lets go of the lease. `KEYS`: the entry, the lease. `ARGV`: the entry, its life in
/// milliseconds, the lease's value.
const WRITE: &str = "redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
if redis.pcall('GET', KEYS[2]) == ARGV[3] then redis.call('DEL', KEYS[2]) end
return 1";

/// Removes an entry if it is still this one. `KEYS`: the entry. `ARGV`: how it begins.
const REMOVE: &str =
    "if redis.pcall('GETRANGE', KEYS[1], 0, 35) == ARGV[1] then return redis.call('DEL', KEYS[1]) end
return 0";

// What the scripts take for the beginning of an entry.
const _: () = assert!(HEAD == 36);

/// Where the tokens are shared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// The server, or the servers.
    pub address: Address,
    /// Who keyway is there; the server's default user unless it is named.
    pub user: Option<String>,
    /// That user's password.
    pub password: Option<Source>,
    /// Whom keyway believes to be the server, and what it shows itself; where the address says that there is TLS.
    pub tls: tls::Config,
    /// How all keys begin, and the channel's name.
    pub prefix: String,
    /// How long the store may take for anything that a request waits for. A login asks it nothing more when it has
    /// waited so long in all, so that it is twice this at most.
    pub timeout: Duration,
    /// The file of the keys that seal: the first seals, all open.
    pub key_file: PathBuf,
}

/// What came of asking the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Answer {
    /// It did what it was asked.
    Ok,
    /// It has something that none of these keyways wrote, or that is over; it was removed.
    Unusable,
    /// It did not answer in time.
    TimedOut,
    /// It refused, or the connection ended.
    Failed,
    /// It was not asked: there is no connection.
    Down,
}

impl Answer {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Ok, Self::Unusable, Self::TimedOut, Self::Failed, Self::Down];

    /// The label in metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Unusable => "unusable",
            Self::TimedOut => "timeout",
            Self::Failed => "failed",
            Self::Down => "down",
        }
    }
}

/// How the store is doing, for `/status`.
#[derive(Clone, Debug)]
pub struct Standing {
    /// Where it is.
    pub address: String,
    /// Whether it answers.
    pub up: bool,
    /// Why it does not.
    pub error: Option<String>,
}

/// Whether a store can be used.
///
/// # Errors
/// What is wrong with it, as the rest of a sentence that begins with its address.
pub async fn reach(config: Config) -> Result<(), String> {
    let unobserved: Observer = Arc::new(|_: &Event| ());
    let store =
        Store::new(config, unobserved).map_err(|error| format!("has no key: {}", secret::causes(&error)))?;
    store.try_once().await
}

/// The tokens that several keyways share. Dropped, it closes its connection.
pub struct Store {
    config: Config,
    /// The first seals, all open. Never empty.
    seals: Vec<Seal>,
    link: watch::Sender<Link>,
    news: broadcast::Sender<Arc<[News]>>,
    /// What others have to hear as soon as there is a connection.
    untold: Mutex<Vec<News>>,
    observer: Observer,
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store").field("config", &self.config).finish_non_exhaustive()
    }
}

/// Checks the file of the keys.
///
/// # Errors
/// What is wrong with it.
pub fn check(config: &Config) -> Result<(), private::Error> {
    seals(config).map(drop)
}

fn seals(config: &Config) -> Result<Vec<Seal>, private::Error> {
    // Who else may read it was looked at with the configuration.
    let keys = private::read_keys(&config.key_file, NO_CHANGE)?;
    let none = || private::Error::system(&config.key_file)(std::io::ErrorKind::NotFound.into());
    Ok(keys.ok_or_else(none)?.iter().map(Seal::new).collect())
}

impl Store {
    /// A store at this place, which is asked for nothing before somebody [keeps](Self::keep) its connection.
    ///
    /// # Errors
    /// The file of the keys can't be used.
    pub fn new(config: Config, observer: Observer) -> Result<Arc<Self>, private::Error> {
        let seals = seals(&config)?;
        let (link, news) = (watch::Sender::new(Link::Starting), broadcast::Sender::new(MOST_NEWS));
        Ok(Arc::new(Self { config, seals, link, news, untold: Mutex::default(), observer }))
    }

    /// What other keyways say, from now on.
    pub fn news(&self) -> broadcast::Receiver<Arc<[News]>> {
        self.news.subscribe()
    }

    /// How it is doing.
    pub fn standing(&self) -> Standing {
        let link = self.link.borrow();
        let error = match &*link {
            Link::Up(_) => None,
            Link::Starting => Some("not connected yet".to_owned()),
            Link::Down(why) => Some(why.clone()),
        };
        Standing { address: self.config.address.to_string(), up: error.is_none(), error }
    }

    /// The entry for a login and a scope.
    pub fn entry(
        self: &Arc<Self>,
        login: &Identity,
        tls: &tls::Config,
        scope: &Scope,
        bearer: Option<&Secret>,
    ) -> Entry {
        let names = self.seals.iter().map(|seal| seal.name(login, tls, scope, bearer)).collect();
        Entry { store: Arc::clone(self), names, known: Vec::new(), found: None, waited: Duration::ZERO }
    }

    /// Tells all keyways that a token was revoked; as soon as there is a connection, if there is none.
    pub async fn tell(&self, news: News) {
        if news::write(self, &news).await.is_none() {
            let mut untold = self.untold();
            if untold.len() < MOST_NEWS {
                untold.push(news);
            }
        }
    }

    fn untold(&self) -> MutexGuard<'_, Vec<News>> {
        self.untold.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn seal(&self) -> &Seal {
        &self.seals[0]
    }

    fn count(&self, answer: Answer) {
        (self.observer)(&Event::StoreAsked(answer));
    }

    /// Runs a script; `None` where the store does not do it in time, or at all.
    async fn run(&self, script: &str, keys: &[&str], arguments: &[&[u8]]) -> Option<Value> {
        let mut command = redis::cmd("EVAL");
        command.arg(script).arg(keys.len()).arg(keys).arg(arguments);
        self.ask(&command).await
    }
}

/// One token in the store, as far as it is known.
#[derive(Debug)]
pub struct Entry {
    store: Arc<Store>,
    /// By each of the keys, since another keyway may seal with another one of them while they are replaced.
    names: Vec<String>,
    /// How the entry under the first of them begins; empty if there is none.
    known: Vec<u8>,
    /// Under which of them the token was found, and how the entry begins.
    found: Option<(usize, Vec<u8>)>,
    /// What a login has waited for the store in all, but for others' logins.
    waited: Duration,
}

/// The right to log in for an entry. It is extended as long as this is there.
#[derive(Debug)]
pub struct Lease {
    value: String,
    extending: AbortHandle,
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.extending.abort();
    }
}

impl Entry {
    /// The token, if there is one that lives. What can't be used is removed.
    pub async fn load(&mut self) -> Option<Token> {
        self.found = None;
        for index in 0..self.names.len() {
            let (store, name) = (Arc::clone(&self.store), self.names[index].clone());
            let (key, largest) = (self.token_key(index), LARGEST.to_string());
            let answer = self.run(READ, &[&key], &[largest.as_bytes()]).await?;
            let read = read(answer);
            if index == 0 {
                self.known = Vec::new();
            }
            match read {
                Some(Read { entry: Found::None, .. }) => {}
                None | Some(Read { entry: Found::Foreign, .. }) => store.count(Answer::Unusable),
                Some(Read { entry: Found::Entry(entry), time }) => {
                    let head = entry[..entry.len().min(HEAD)].to_vec();
                    match store.seals[index].open(&name, entry, &moment(time)) {
                        Ok(token) => {
                            if index == 0 {
                                self.known.clone_from(&head);
                            }
                            self.found = Some((index, head));
                            return Some(token);
                        }
                        Err(unusable) => {
                            if unusable != Unusable::Expired {
                                tracing::warn!(
                                    "an entry of the token store {unusable}: it is removed, and Keystone is asked for a token"
                                );
                            }
                            store.count(Answer::Unusable);
                            self.run(REMOVE, &[&key], &[&head]).await?;
                        }
                    }
                }
            }
        }
        None
    }

    /// Waits until nobody else logs in for this, or there is another token than the one that was loaded: without the
    /// lease then, and also where that takes too long or there is no store.
    pub async fn lease(&mut self, until: Instant) -> Option<Lease> {
        let value = format!("{:032x}", u128::from_be_bytes(random()));
        let (token, lease) = (self.token_key(0), self.lease_key());
        let millis = LEASE.as_millis().to_string();
        let known = self.known.clone();
        loop {
            let arguments: [&[u8]; 3] = [&known, value.as_bytes(), millis.as_bytes()];
            match self.run(TAKE, &[&token, &lease], &arguments).await? {
                answer if is(&answer, "taken") => break,
                answer if !is(&answer, "held") => return None,
                _ if tokio::time::Instant::now().into_std() >= until => {
                    tracing::debug!(
                        "another keyway logs in for the same, and takes long: not waiting for it"
                    );
                    return None;
                }
                _ => {
                    // It is somebody's login now that is waited for.
                    self.waited = Duration::ZERO;
                    tokio::time::sleep(Duration::from_millis(fastrand::u64(LOOK.0..LOOK.1))).await;
                }
            }
        }
        let (store, shown) = (Arc::clone(&self.store), value.clone());
        let extending = tokio::spawn(async move {
            loop {
                tokio::time::sleep(EXTEND).await;
                if store.run(HOLD, &[&lease], &[shown.as_bytes(), millis.as_bytes()]).await.is_none() {
                    return;
                }
            }
        });
        Some(Lease { value, extending: extending.abort_handle() })
    }

    /// The token that was loaded is of no use: it is removed, if it is still there, and the others are told.
    pub async fn refuse(&mut self, token: &TokenId) {
        if let Some((index, head)) = self.found.take() {
            let key = self.token_key(index);
            if self.run(REMOVE, &[&key], &[&head]).await.is_none() {
                return;
            }
            if index == 0 {
                self.known = Vec::new();
            }
        }
        news::write(&self.store, &News::Refused(fingerprint(token))).await;
    }

    /// Puts a new token in its place, and only then lets others look.
    pub async fn save(&mut self, token: &Token, lease: Option<Lease>) {
        if self.write(token, lease.as_ref()).await.is_none()
            && let Some(lease) = lease
        {
            self.release(lease).await;
        }
    }

    async fn write(&mut self, token: &Token, lease: Option<&Lease>) -> Option<()> {
        let (entry, held) = (self.token_key(0), self.lease_key());
        let Value::Array(time) = self.run(TIME, &[&entry], &[]).await? else { return None };
        let now = moment(clock(&mut time.into_iter())?);
        let sealed = self.store.seal().close(&self.names[0], token, &now)?;
        if sealed.len() > LARGEST {
            return None;
        }
        let left = token.life_left(now.instant)?.as_millis().max(1).to_string();
        let value = lease.map_or("", |lease| &lease.value);
        self.run(WRITE, &[&entry, &held], &[&sealed, left.as_bytes(), value.as_bytes()]).await?;
        Some(())
    }

    /// Runs a script, unless this login has waited for the store long enough.
    async fn run(&mut self, script: &str, keys: &[&str], arguments: &[&[u8]]) -> Option<Value> {
        if self.waited >= self.store.config.timeout {
            self.store.count(Answer::TimedOut);
            return None;
        }
        let start = tokio::time::Instant::now();
        let answer = self.store.run(script, keys, arguments).await;
        self.waited += start.elapsed();
        answer
    }

    /// Lets go of the lease.
    pub async fn release(&self, lease: Lease) {
        self.store.run(LET_GO, &[&self.lease_key()], &[lease.value.as_bytes()]).await;
    }

    /// Braces keep what belongs together on one server of a cluster.
    fn token_key(&self, index: usize) -> String {
        format!("{}{{{}}}:token", self.store.config.prefix, hash(&self.names[index]))
    }

    fn lease_key(&self) -> String {
        format!("{}{{{}}}:lease", self.store.config.prefix, hash(&self.names[0]))
    }
}

/// The hash in an entry's name.
fn hash(name: &str) -> &str {
    name.split('.').next().unwrap_or(name)
}

/// What [`READ`] answered.
#[derive(Debug, PartialEq, Eq)]
struct Read {
    /// The server's clock, UNIX milliseconds.
    time: i64,
    entry: Found,
}

#[derive(Debug, PartialEq, Eq)]
enum Found {
    None,
    Foreign,
    Entry(Vec<u8>),
}

/// `None` for what [`READ`] never answers.
fn read(answer: Value) -> Option<Read> {
    let Value::Array(parts) = answer else { return None };
    let mut parts = parts.into_iter();
    let time = clock(&mut parts)?;
    let entry = match (parts.next()?, parts.next()) {
        (kind, None) if is(&kind, "none") => Found::None,
        (kind, None) if is(&kind, "foreign") => Found::Foreign,
        (kind, Some(Value::BulkString(entry))) if is(&kind, "entry") => Found::Entry(entry),
        _ => return None,
    };
    Some(Read { time, entry })
}

/// The server's clock as it tells it, seconds and microseconds; in UNIX milliseconds.
fn clock(parts: &mut impl Iterator<Item = Value>) -> Option<i64> {
    let mut number = || match parts.next()? {
        Value::BulkString(text) => std::str::from_utf8(&text).ok()?.parse::<i64>().ok(),
        _ => None,
    };
    let (seconds, micros) = (number()?, number()?);
    seconds.checked_mul(1000)?.checked_add(micros / 1000)
}

fn is(answer: &Value, word: &str) -> bool {
    match answer {
        Value::BulkString(text) => text == word.as_bytes(),
        Value::SimpleString(text) => text == word,
        _ => false,
    }
}

/// Now, by the server's clock.
fn moment(time: i64) -> Moment {
    Moment { instant: tokio::time::Instant::now().into_std(), wall: time, boot: None }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn text(text: &str) -> Value {
        Value::BulkString(text.as_bytes().to_vec())
    }

    #[test]
    fn an_entry_comes_with_the_servers_clock() {
        let answer = |rest: &[Value]| read(Value::Array([&[text("12"), text("345678")][..], rest].concat()));
        assert_eq!(answer(&[text("none")]), Some(Read { time: 12_345, entry: Found::None }));
        assert_eq!(answer(&[text("foreign")]), Some(Read { time: 12_345, entry: Found::Foreign }));
        let entry = Found::Entry(b"x".to_vec());
        assert_eq!(answer(&[text("entry"), text("x")]), Some(Read { time: 12_345, entry }));
        for wrong in [&[][..], &[text("entry")], &[text("none"), text("x")], &[Value::Nil], &[text("x")]] {
            assert_eq!(answer(wrong), None, "{wrong:?}");
        }
        assert_eq!(read(Value::Array(vec![text("9223372036854775807"), text("0"), text("none")])), None);
    }

    fn value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Nil),
            any::<i64>().prop_map(Value::Int),
            any::<bool>().prop_map(Value::Boolean),
            any::<f64>().prop_map(Value::Double),
            prop_oneof![Just("entry".to_owned()), Just("none".to_owned()), "[0-9]{1,20}", "\\PC{0,20}"]
                .prop_map(|word| text(&word)),
            prop::collection::vec(any::<u8>(), 0..80).prop_map(Value::BulkString),
            "\\PC{0,20}".prop_map(Value::SimpleString),
        ];
        leaf.prop_recursive(3, 24, 6, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..6).prop_map(Value::Array),
                prop::collection::vec((inner.clone(), inner), 0..3).prop_map(Value::Map),
            ]
        })
    }

    proptest! {
        #[test]
        fn whatever_a_server_answers_is_an_entry_or_nothing(answer in value()) {
            if let Some(Read { entry: Found::Entry(entry), .. }) = read(answer.clone()) {
                prop_assert!(matches!(&answer, Value::Array(parts) if parts.len() == 4));
                // What it holds was sealed by nobody.
                let seal = Seal::new(&crate::private::Key::new([7; 32]));
                prop_assert!(seal.open("0.token", entry, &moment(0)).is_err());
            }
            let _ = (is(&answer, "taken"), clock(&mut std::iter::once(answer)));
        }
    }
}
