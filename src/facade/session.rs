//! What a token of keyway's stands for.

use crate::keystone::{Asked, Scope};

/// A login at the facade, as its token has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Session {
    /// Which token this is, for revocation and as its audit id.
    pub id: [u8; 16],
    /// The cloud's name, and what the token is good for: [`Scope::Default`] is the cloud's own scope, a
    /// project stands here by its id.
    pub key: (Box<str>, Scope),
    /// The name of the configured login; empty where anybody may log in.
    pub login: String,
    /// How the client logged in: `password`, `token`, ...
    pub methods: Vec<String>,
    /// When, UNIX seconds.
    pub issued_at: i64,
    /// Until when, UNIX seconds.
    pub expires_at: i64,
}

impl Session {
    /// The cloud's name.
    pub fn cloud(&self) -> &str {
        &self.key.0
    }

    /// Which of the cloud's tokens its requests carry.
    pub fn asked(&self) -> Asked {
        match &self.key.1 {
            Scope::Default => Asked::Own,
            scope => Asked::Exactly(scope.clone()),
        }
    }
}

/// Why a token opens nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unusable {
    /// It is not shaped like a token of keyway's or Keystone's at all.
    #[error("it is no token")]
    NoToken,
    /// It was not sealed with any of our keys, or was changed since.
    #[error("it is none of keyway's tokens")]
    Foreign,
    /// It has ended.
    #[error("it has expired")]
    Expired,
    /// It was revoked.
    #[error("it was revoked")]
    Revoked,
}
