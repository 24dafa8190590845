//! Keystone as a local client should see it: who may log in here, and what does a token of ours mean?
//!
//! A client logs in at `/identity` with whatever it has. What it gets is no token of the cloud's but one of
//! keyway's own ([`Session`], sealed by [`Keys`]): requests that bring it run with the scope that it was
//! issued for. The catalog in it points back at keyway.

pub mod call;
pub mod catalog;
pub mod documents;
mod keys;
pub mod reply;
pub mod request;
mod session;
mod state;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

pub use self::keys::{Keys, LONGEST_LIFE, TOKEN_START, random_id};
pub use self::reply::Refusal;
pub use self::session::{Session, Unusable, Vouched};
pub use self::state::{check as check_state, read_file as read_keys};
use crate::keystone::{Asked, Interface, Named, Scope};

/// Who may log in at a listener.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Logins {
    /// Anybody, with any password, or without logging in at all: whoever reaches the listener may use it.
    #[default]
    Any,
    /// Only the identities of the configuration; to a request that shows nothing of theirs, nothing is served.
    Configured,
}

/// What the operator decided about logins and tokens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// How long a token lives.
    pub token_life: Duration,
    /// Where the keys are that seal tokens, and what was revoked. `None`: in memory only, so that no token
    /// outlives the process.
    pub state: Option<PathBuf>,
    /// A file of keys in the place of those in `state`, which somebody else writes: that of several replicas.
    pub keys: Option<PathBuf>,
    /// What clients see of a cloud, by its name; clouds that are not in here are shown as they are.
    pub clouds: BTreeMap<String, View>,
}

impl Default for Config {
    fn default() -> Self {
        Self { token_life: Duration::from_secs(12 * 3600), state: None, keys: None, clouds: BTreeMap::new() }
    }
}

/// What clients see of a cloud.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct View {
    /// The projects that a client may ask for, by id or name; empty for all that the credential can have.
    pub projects: Vec<String>,
    /// Types to list a service under besides its own, such as `volumev3`.
    pub legacy_types: Vec<String>,
    /// Services that the catalog leaves out, by type.
    pub hidden: Vec<String>,
    /// The only interface that the catalog shows, under the names of all three.
    pub interface: Option<Interface>,
    /// The only region that the catalog shows.
    pub region: Option<String>,
}

impl View {
    /// Whether a client may have a token of this scope, which is for `project`. What it did not ask for is
    /// the cloud's own choice.
    pub fn permits(&self, scope: &Asked, project: Option<&Named>) -> bool {
        self.projects.is_empty()
            || matches!(scope, Asked::Own | Asked::Exactly(Scope::Unscoped))
            || project.is_some_and(|project| self.lists(project))
    }

    /// Whether a project is one that clients may ask for.
    pub fn lists(&self, project: &Named) -> bool {
        self.projects.is_empty()
            || self.projects.iter().any(|listed| *listed == project.id || *listed == project.name)
    }
}
