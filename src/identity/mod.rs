//! Who may come in, how do they prove it, and what may they do?
//!
//! An identity is a member of the team or a program. None of them knows the cloud's credential; each shows something
//! of its own: an API key, a password, a client certificate, or the user that it runs as on this machine. What it may
//! do is its [`Rights`], whatever it showed.

pub mod key;
pub mod keyring;
pub mod limits;
mod password;

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use jiff::Timestamp;

pub use self::key::{KEY_START, KeyHash, KeyId};
pub use self::keyring::Keyring;
pub use self::limits::{Exceeded, Limits, UnderWay};
use self::password::Passwords;
pub use self::password::{Attempts, Guesser};
use crate::keystone::{Named, Project, Scope, Secret};
use crate::policy::{Guards, IdentityApi, Policy};
pub use crate::server::certificate::SubjectName;

/// One identity, as the operator wrote it: `[identity.NAME]`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Config {
    /// Its name, which is the user's name for Keystone's clients.
    pub name: String,
    /// Its password; also good as an X-Auth-Token.
    pub password: Option<Secret>,
    /// The names that its client certificates have, any of them.
    pub certificates: Vec<SubjectName>,
    /// The users (uid) whose connections to a socket file are its own.
    pub users: Vec<u32>,
    /// The same by group (gid).
    pub groups: Vec<u32>,
    /// What it may do.
    pub rights: Rights,
    /// How much of it at a time.
    pub limits: limits::Config,
}

/// What an identity may do. An empty list names no limit.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rights {
    /// The clouds, by name.
    pub clouds: Vec<String>,
    /// The projects, by id or name. The first one is that of requests that name none.
    pub projects: Vec<String>,
    /// The regions.
    pub regions: Vec<String>,
    /// What may be done there, besides what listener and cloud say.
    pub policy: Option<Arc<Policy>>,
    /// What may be done at Keystone itself, besides the policies.
    pub identity_api: IdentityApi,
    /// The largest body of a request, bytes.
    pub body: Option<u64>,
    /// Until when.
    pub ends: Option<Timestamp>,
}

impl Rights {
    /// Whether this cloud is one of its clouds.
    pub fn has_cloud(&self, name: &str) -> bool {
        self.clouds.is_empty() || self.clouds.iter().any(|cloud| cloud == name)
    }

    /// Whether a token of this project may be its own; one without a project only where there is no limit.
    pub fn has_project(&self, project: Option<&Named>) -> bool {
        self.projects.is_empty()
            || project.is_some_and(|project| {
                self.projects.iter().any(|named| *named == project.id || *named == project.name)
            })
    }

    /// Whether this region is one of its regions.
    pub fn has_region(&self, region: Option<&str>) -> bool {
        self.regions.is_empty()
            || region.is_some_and(|region| self.regions.iter().any(|named| named == region))
    }
}

/// How an identity was proved, for the audit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Proof {
    /// By this API key.
    Key(KeyId),
    /// By its password.
    Password,
    /// By a certificate with this name.
    Certificate(SubjectName),
    /// By its user on this machine (uid).
    User(u32),
    /// By its group on this machine (gid).
    Group(u32),
    /// By a token that it got for one of these.
    Token,
}

impl fmt::Display for Proof {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Key(id) => write!(f, "key:{id}"),
            Self::Password => f.write_str("password"),
            Self::Certificate(name) => write!(f, "certificate:{name}"),
            Self::User(user) => write!(f, "user:{user}"),
            Self::Group(group) => write!(f, "group:{group}"),
            Self::Token => f.write_str("token"),
        }
    }
}

/// An identity in force.
#[derive(Debug)]
pub struct Identity {
    /// Its name.
    pub name: String,
    /// What a request means that names no project, where the identity has projects of its own; the cloud's place is empty, as no
    /// cloud's name is.
    pub key: Option<(Box<str>, Scope)>,
    /// Where its policy stands in [`Identities::policies`].
    pub policy: Option<usize>,
    /// What it may do.
    pub rights: Rights,
    /// How much of it at a time. A reload keeps them, where they are the same.
    pub limits: Arc<Limits>,
}

/// All identities in force. A reload makes new ones.
#[derive(Debug)]
pub struct Identities {
    all: HashMap<String, (Arc<Identity>, Config)>,
    passwords: Passwords,
    certificates: HashMap<SubjectName, Arc<Identity>>,
    users: HashMap<u32, Arc<Identity>>,
    groups: HashMap<u32, Arc<Identity>>,
    /// The API keys.
    pub keyring: Arc<Keyring>,
    /// The policies of them all, each once.
    pub policies: Vec<Arc<Policy>>,
    /// The rules of what an identity may do at Keystone.
    pub guards: Guards,
}

/// What a client showed, and it is good: whose it is, and how that was proved.
#[derive(Clone, Debug)]
pub struct Proved {
    /// Whose.
    pub identity: Arc<Identity>,
    /// How.
    pub proof: Proof,
    /// The key, whose last use is noted.
    pub key: Option<Arc<keyring::Known>>,
}

impl Identities {
    /// Of these, with the limits of `old` where they are the same.
    pub fn new(configs: &[Config], keyring: Arc<Keyring>, old: Option<&Self>) -> Self {
        let mut identities = Self {
            all: HashMap::new(),
            passwords: Passwords::new(configs),
            certificates: HashMap::new(),
            users: HashMap::new(),
            groups: HashMap::new(),
            keyring,
            policies: Vec::new(),
            guards: Guards::default(),
        };
        for config in configs {
            let same = old.and_then(|old| old.named(&config.name));
            let limits = same.map(|same| &same.limits).filter(|limits| limits.config() == config.limits);
            let limits = limits.cloned().unwrap_or_else(|| Arc::new(Limits::new(config.limits)));
            let (name, rights) = (config.name.clone(), config.rights.clone());
            let project = |name: &String| Scope::Project(Project::Name { name: name.clone(), domain: None });
            let key = rights.projects.first().map(|first| (Box::default(), project(first)));
            let policy = rights.policy.as_ref().map(|policy| {
                let policies = &mut identities.policies;
                policies.iter().position(|known| Arc::ptr_eq(known, policy)).unwrap_or_else(|| {
                    policies.push(Arc::clone(policy));
                    policies.len() - 1
                })
            });
            let identity = Arc::new(Identity { name, key, policy, rights, limits });
            for name in &config.certificates {
                identities.certificates.insert(name.clone(), Arc::clone(&identity));
            }
            for user in &config.users {
                identities.users.insert(*user, Arc::clone(&identity));
            }
            for group in &config.groups {
                identities.groups.insert(*group, Arc::clone(&identity));
            }
            identities.all.insert(config.name.clone(), (identity, config.clone()));
        }
        identities
    }

    /// The identity of this name.
    pub fn named(&self, name: &str) -> Option<&Arc<Identity>> {
        self.all.get(name).map(|(identity, _)| identity)
    }

    /// All names, in no order.
    pub fn names(&self) -> Vec<&str> {
        self.all.keys().map(String::as_str).collect()
    }

    /// Whether nobody has an identity.
    pub fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// All passwords and keys of an identity right now, as [`Identities::shown`] has them.
    pub fn all_shown(&self, name: &str, now: Timestamp) -> Vec<Secret> {
        let Some((_, config)) = self.all.get(name) else { return Vec::new() };
        let keys = self
            .keyring
            .all()
            .into_iter()
            .filter(|known| known.key.identity == name && known.key.is_good(now));
        let keys = keys.map(|known| Secret::new(known.key.hash.to_string()));
        config.password.iter().cloned().chain(keys).collect()
    }

    /// What a session of this has to remember, so that it ends when this is good no more.
    pub fn shown(&self, proved: &Proved) -> Secret {
        match (&proved.key, &proved.proof) {
            (Some(known), _) => Secret::new(known.key.hash.to_string()),
            (None, Proof::Password) => {
                let password =
                    self.all.get(&proved.identity.name).and_then(|(_, config)| config.password.clone());
                password.unwrap_or_else(|| Secret::new(""))
            }
            (None, proof) => Secret::new(proof.to_string()),
        }
    }

    /// Whose password or key this is: with a name, that identity's (or the key's own name); without one, anybody's. How
    /// long that takes tells nothing.
    pub fn by_secret(&self, name: Option<&str>, secret: &[u8], now: Timestamp) -> Option<Proved> {
        match key::id_of(secret) {
            Some(id) => self.by_key(name, id, secret, now),
            None => {
                let found = self.passwords.login(name, secret)?;
                let identity = Arc::clone(self.named(found)?);
                Some(Proved { identity, proof: Proof::Password, key: None })
            }
        }
    }

    fn by_key(&self, name: Option<&str>, id: KeyId, text: &[u8], now: Timestamp) -> Option<Proved> {
        let known = self.keyring.find(id, &KeyHash::of(text)).filter(|known| known.key.is_good(now))?;
        let identity = self.named(&known.key.identity)?;
        if name.is_some_and(|name| name != identity.name && name.parse() != Ok(id)) {
            return None;
        }
        Some(Proved { identity: Arc::clone(identity), proof: Proof::Key(id), key: Some(known) })
    }

    /// Whose certificate this is, by the first of its names that anybody has.
    pub fn by_certificate(&self, names: &[SubjectName]) -> Option<Proved> {
        names.iter().find_map(|name| {
            let identity = Arc::clone(self.certificates.get(name)?);
            Some(Proved { identity, proof: Proof::Certificate(name.clone()), key: None })
        })
    }

    /// Whose connection to a socket file this is.
    pub fn by_user(&self, user: u32, group: u32) -> Option<Proved> {
        let (identity, proof) = match (self.users.get(&user), self.groups.get(&group)) {
            (Some(identity), _) => (identity, Proof::User(user)),
            (None, Some(identity)) => (identity, Proof::Group(group)),
            (None, None) => return None,
        };
        Some(Proved { identity: Arc::clone(identity), proof, key: None })
    }
}

#[cfg(test)]
mod tests {
    use super::key::tests::COMPARED;
    use super::keyring::ApiKey;
    use super::*;

    // Promise 73.
    #[test]
    fn a_wrong_key_is_compared_once_whatever_is_wrong_with_it() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("api-keys");
        let now: Timestamp = "2026-11-22T10:00:00Z".parse().unwrap();
        let make = |identity: &str, ends: Option<Timestamp>| {
            let (id, secret) = key::make();
            let text = secret.expose().to_owned();
            let hash = KeyHash::of(text.as_bytes());
            let key = ApiKey { id, identity: identity.into(), hash, made: now, ends, note: String::new() };
            keyring::add(&path, &key).unwrap();
            (id, text)
        };
        let (id, good) = make("ada", None);
        let (_, expired) = make("ada", Some(now));
        let (_, of_nobody) = make("eve", None);
        let (revoked_id, revoked) = make("ada", None);
        keyring::remove(&path, revoked_id).unwrap();
        let (_, unknown) = key::make();
        let unknown = unknown.expose();
        // What stands before the secret has 21 characters.
        let far = format!("{}{}", &good[..21], &unknown[21..]);
        let near = format!("{}{}", &good[..63], if good.ends_with('A') { "B" } else { "A" });
        let ada = Config { name: "ada".to_owned(), ..Config::default() };
        let identities = Identities::new(&[ada], Arc::new(Keyring::load(Some(path))), None);
        let ask = |name: Option<&str>, text: &str| {
            let before = COMPARED.get();
            let found = identities.by_secret(name, text.as_bytes(), now);
            (found.map(|proved| proved.proof), COMPARED.get() - before)
        };
        assert_eq!(ask(None, &good), (Some(Proof::Key(id)), 1));
        for wrong in [unknown, &far, &near, &expired, &revoked, &of_nobody] {
            for name in [None, Some("ada"), Some("bob")] {
                assert_eq!(ask(name, wrong), (None, 1), "{name:?}");
            }
        }
        assert_eq!(ask(Some("bob"), &good), (None, 1));
    }
}
