//! What happens in the cache, for metrics and logs?

use std::sync::Arc;
use std::time::Duration;

use crate::keystone::{AuthError, ProviderError, shared};

/// What happens in the cache, for metrics. Called on the path of a login, so it must be quick.
pub type Observer = Arc<dyn Fn(&Event) + Send + Sync>;

/// One thing that happened.
#[derive(Clone, Debug)]
pub enum Event {
    /// Keystone was asked for a token.
    Asked {
        /// Of which cloud.
        cloud: usize,
        /// Why.
        reason: Reason,
        /// What came of it.
        outcome: Outcome,
        /// How long it took.
        took: Duration,
        /// The end of the new token, UNIX seconds, if this was for the cloud's own scope.
        expires_at: Option<i64>,
    },
    /// A token of an earlier login or of another keyway's was found, so that Keystone was not asked.
    Restored {
        /// Of which cloud.
        cloud: usize,
        /// Its end, UNIX seconds, if this was for the cloud's own scope.
        expires_at: Option<i64>,
    },
    /// No login of a cloud goes to Keystone for a while.
    Paused {
        /// Of which cloud.
        cloud: usize,
        /// For how long.
        wait: Duration,
        /// Keystone rejected the credentials; else it did not answer.
        rejected: bool,
    },
    /// A login went well after [`Paused`](Self::Paused).
    Resumed {
        /// Of which cloud.
        cloud: usize,
    },
    /// Keystone was asked for the user's projects.
    Listed {
        /// Of which cloud.
        cloud: usize,
        /// What came of it.
        outcome: Outcome,
    },
    /// A service refused a token, and no new one was asked for: there were too many of late.
    Capped {
        /// Of which cloud.
        cloud: usize,
    },
    /// The store that keyways share was asked for something.
    StoreAsked(shared::Answer),
    /// It can be used from now on, or can't.
    StoreIs {
        /// It can.
        up: bool,
    },
}

/// Why Keystone was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reason {
    /// There was no token yet.
    Cold,
    /// The token was about to end, or over.
    Renewal,
    /// A service refused the token.
    Rejected,
}

impl Reason {
    /// The label in metrics and logs.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Cold => "cold",
            Self::Renewal => "renewal",
            Self::Rejected => "rejected",
        }
    }
}

/// What came of asking Keystone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// A token.
    Ok,
    /// The credentials or the scope were not accepted.
    Rejected,
    /// Keystone did not answer, or could not.
    Unavailable,
    /// Keystone asked for fewer questions.
    Throttled,
    /// Not what Keystone would answer, or nothing that can be used.
    BadReply,
}

impl Outcome {
    /// The label in metrics and logs.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Rejected => "rejected",
            Self::Unavailable => "unavailable",
            Self::Throttled => "throttled",
            Self::BadReply => "bad_reply",
        }
    }

    pub(super) fn of(error: &AuthError) -> Self {
        match error.root() {
            AuthError::Rejected { .. } | AuthError::ScopeRefused { .. } | AuthError::MoreMethods { .. } => {
                Self::Rejected
            }
            AuthError::Provider(error) if error.is_rejection() => Self::Rejected,
            AuthError::Provider(ProviderError::Unavailable { status: 429, .. }) => Self::Throttled,
            AuthError::Provider(error) if error.is_temporary() => Self::Unavailable,
            AuthError::Unavailable { status: 429, .. } => Self::Throttled,
            AuthError::Unavailable { .. }
            | AuthError::Unreachable(_)
            | AuthError::Timeout { .. }
            | AuthError::Waiting { .. }
            | AuthError::Spent { .. }
            | AuthError::TooManyRefusals { .. }
            | AuthError::TooManyScopes { .. }
            | AuthError::NoSecret { .. }
            | AuthError::LoginRequired { .. }
            | AuthError::PasscodeUsed { .. }
            | AuthError::Stopped => Self::Unavailable,
            AuthError::BadReply { .. }
            | AuthError::Provider(_)
            | AuthError::NoBrowser { .. }
            | AuthError::NoCatalog { .. }
            | AuthError::AlreadyExpired { .. }
            | AuthError::NoTenant
            | AuthError::ManyTenants { .. }
            | AuthError::UnknownProject { .. }
            | AuthError::AmbiguousProject { .. }
            | AuthError::ScopeFixed { .. }
            | AuthError::FixedToken
            | AuthError::NotInV2 { .. }
            | AuthError::NoSuchCloud => Self::BadReply,
        }
    }
}
