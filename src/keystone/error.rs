//! Why is there no token?

use std::sync::Arc;
use std::time::Duration;

use super::ProviderError;
use crate::upstream;

/// Every way a login ends without a token. Messages are for the operator's log and terminal: they
/// name hosts, and never hold a secret.
#[derive(Clone, Debug, thiserror::Error)]
pub enum AuthError {
    /// No answer from Keystone.
    #[error("Keystone can't be reached; is auth_url right, and Keystone up?")]
    Unreachable(#[source] Arc<upstream::Error>),
    /// The login as a whole took too long.
    #[error("Keystone did not log us in within {} s", .after.as_secs())]
    Timeout {
        /// The deadline.
        after: Duration,
    },
    /// 401 or 403: the credentials or the scope are not accepted.
    #[error(
        "Keystone rejected the login with {status}{}; check user, domain, password and project (their \
         names too: Keystone does not say which one is wrong)",
        said(.message.as_deref())
    )]
    Rejected {
        /// The status.
        status: u16,
        /// What Keystone said, fit for the log.
        message: Option<String>,
    },
    /// 401 or 403 for a scope that a client asked for, while the credentials are good.
    #[error(
        "Keystone refused the scope with {status} (\"{message}\"); ask for one in which the user has a role"
    )]
    ScopeRefused {
        /// The status.
        status: u16,
        /// What Keystone said, or would say; fit for the log and for the client.
        message: String,
    },
    /// A client asked for a scope that was never granted, and Keystone refused too many of those of late.
    #[error(
        "Keystone refused too many scopes of late, so it is asked for no other one for {} s; ask for one in \
         which the user has a role",
        seconds(.wait)
    )]
    TooManyScopes {
        /// How long until one more may be asked for.
        wait: Duration,
    },
    /// 429 or 5xx: not now.
    #[error("Keystone answered {status}{}; it is asked again later", said(.message.as_deref()))]
    Unavailable {
        /// The status.
        status: u16,
        /// What Keystone said, fit for the log.
        message: Option<String>,
        /// How long Keystone wants to be left alone.
        retry_after: Option<Duration>,
    },
    /// An answer that Keystone would not give.
    #[error("{what}")]
    BadReply {
        /// What was wrong with it, and what may help.
        what: String,
    },
    /// Nothing was asked for, and the token came without a scope.
    #[error(
        "the token has no scope, so Keystone sent no catalog: the user has no default project; set \
         OS_PROJECT_NAME (project_name) to one of: {}",
        list(.projects)
    )]
    NoCatalog {
        /// The projects that the user may choose from.
        projects: Vec<String>,
    },
    /// Keystone's own times say that the token is over.
    #[error(
        "Keystone sent a token that had already expired: it ends at {expires_at}, and it was issued at \
         {issued_at}; check Keystone's clock, or give a token that still lives"
    )]
    AlreadyExpired {
        /// When it ends.
        expires_at: String,
        /// When it was issued, or the nearest to it that is known.
        issued_at: String,
    },
    /// Identity v2.0: no tenant named, and the user has none.
    #[error("the user has no enabled tenant (project), so there is no catalog; ask for a role in one")]
    NoTenant,
    /// Identity v2.0: no tenant named, and the user has several.
    #[error("no project is named and the user has several; set OS_PROJECT_NAME to one of: {}", list(.tenants))]
    ManyTenants {
        /// Their names.
        tenants: Vec<String>,
    },
    /// A request names a project that the user does not have.
    #[error("the user has no project `{asked}`; there are: {}", list(.available))]
    UnknownProject {
        /// The id or name asked for.
        asked: String,
        /// The names of those that there are.
        available: Vec<String>,
    },
    /// A request names a project by a name that several domains have.
    #[error("the user has several projects named `{asked}`; use an id: {}", list(.ids))]
    AmbiguousProject {
        /// The name asked for.
        asked: String,
        /// Their ids.
        ids: Vec<String>,
    },
    /// A request names another project, and these credentials can't change theirs.
    #[error(
        "these credentials belong to one project and can't be used for `{asked}`; use a password to reach \
         several projects"
    )]
    ScopeFixed {
        /// The id or name asked for.
        asked: String,
    },
    /// A service refused the fixed token, and there is no way to get another.
    #[error("the fixed token was refused and keyway can't renew it; put a new one into the configuration")]
    FixedToken,
    /// The configuration asks for what Identity v2.0 can't do.
    #[error("Identity v2.0 has no {what}; use Identity v3, or leave it out")]
    NotInV2 {
        /// What it lacks.
        what: &'static str,
    },
    /// Services refuse every new token, so no more are fetched for a while.
    #[error(
        "services refused {refusals} tokens in a row, so no new one is fetched for {} s; do they trust this Keystone?",
        seconds(.wait)
    )]
    TooManyRefusals {
        /// How many new tokens were fetched because of refusals before this stopped.
        refusals: u32,
        /// How long until one more may be.
        wait: Duration,
    },
    /// An earlier attempt failed, and it is too early for the next.
    #[error("Keystone is not asked again for {} s after a failure", seconds(.wait))]
    Waiting {
        /// How long until the next attempt.
        wait: Duration,
        /// The failure.
        #[source]
        cause: Arc<AuthError>,
    },
    /// Keystone, or an identity provider, rejected the credentials so often that one more time might lock the account.
    #[error(
        "{rejections} logins in a row were rejected, and these credentials are not tried again until they change, \
         since wrong passwords may lock the account; correct them, or if they are right, raise rejections in [keystone] by \
         one and reload keyway for one more try"
    )]
    Spent {
        /// How many since the last success.
        rejections: u32,
        /// The last rejection.
        #[source]
        cause: Arc<AuthError>,
    },
    /// The secret to log in with is not to be had.
    #[error("the secret to log in with is not to be had: {why}")]
    NoSecret {
        /// Why, without anything of it.
        why: String,
    },
    /// The code to log in with was shown already, and each is good once.
    #[error(
        "the one-time passcode was used already, and each is good once; {}",
        match .wait {
            Some(wait) => format!("there is another one in {} s", seconds(wait)),
            None => "write a new one where keyway reads it, or set totp_secret, so that keyway can compute it".to_owned(),
        }
    )]
    PasscodeUsed {
        /// How long until there is another, if that is known.
        wait: Option<Duration>,
    },
    /// Keystone accepted what it was shown, and wants more.
    #[error(
        "Keystone accepted {shown} and wants {wanted} to log this user in, which keyway has nothing for; \
         give it in the configuration (see auth_type v3multifactor), or use an application credential"
    )]
    MoreMethods {
        /// The methods that were shown.
        shown: String,
        /// Those that Keystone wants, or a choice of them.
        wanted: String,
    },
    /// The identity provider gave nothing that Keystone accepts.
    #[error(transparent)]
    Provider(#[from] ProviderError),
    /// A person has to log in first.
    #[error(
        "the cloud's login needs a person, and there is none, or it is over; run `keyway login --cloud {cloud}` as the \
         user that keyway runs as"
    )]
    LoginRequired {
        /// The cloud's name.
        cloud: String,
    },
    /// A login in a browser came to nothing.
    #[error("the browser's login came to nothing: {why}")]
    NoBrowser {
        /// Why, and what to do.
        why: String,
    },
    /// The key names a cloud that there is not.
    #[error("there is no such cloud")]
    NoSuchCloud,
    /// keyway is stopping.
    #[error("keyway is stopping")]
    Stopped,
}

impl AuthError {
    /// How long to wait before it makes sense to ask again, as far as is known.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Unavailable { retry_after, .. } => *retry_after,
            Self::PasscodeUsed { wait } => *wait,
            Self::Provider(error) => error.retry_after(),
            Self::TooManyRefusals { wait, .. }
            | Self::TooManyScopes { wait }
            | Self::Waiting { wait, .. } => Some(*wait),
            _ => None,
        }
    }

    /// Whether Keystone, or an identity provider, said no to the credentials: asking again may lock the account.
    pub fn is_rejection(&self) -> bool {
        match self.root() {
            Self::Provider(error) => error.is_rejection(),
            other => matches!(other, Self::Rejected { .. }),
        }
    }

    /// What a client hears of a login that was rejected because of the scope that it asked for.
    pub(super) fn of_scope(self) -> Self {
        let (status, message) = match self {
            Self::Rejected { status, message } => (status, message),
            // Keystone was not asked: in that API there is no way to.
            Self::NotInV2 { .. } => (401, Some(self.to_string())),
            other => return other,
        };
        let message = message.unwrap_or_else(|| {
            // Keystone's own words for want of better ones.
            match status {
                403 => "You are not authorized to perform the requested action.",
                _ => "The request you have made requires authentication.",
            }
            .to_owned()
        });
        Self::ScopeRefused { status, message }
    }

    /// The failure itself, where this is only what followed from it: the wait, or that there is no other attempt.
    pub fn root(&self) -> &Self {
        match self {
            Self::Waiting { cause, .. } | Self::Spent { cause, .. } => cause.root(),
            other => other,
        }
    }
}

fn said(message: Option<&str>) -> String {
    message.map(|message| format!(" (\"{message}\")")).unwrap_or_default()
}

fn list(names: &[String]) -> String {
    if names.is_empty() { "(none)".to_owned() } else { names.join(", ") }
}

/// Whole seconds, rounded up: nobody should come back too early.
fn seconds(wait: &Duration) -> u64 {
    wait.as_millis().div_ceil(1000).try_into().unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check_of_scope(error: AuthError, expected: (u16, &str)) {
        let AuthError::ScopeRefused { status, message } = error.of_scope() else {
            panic!("it is still about something else");
        };
        assert_eq!((status, message.as_str()), expected);
    }

    #[test]
    fn a_refused_scope_is_told_in_keystones_words() {
        let rejected = |status, message: Option<&str>| AuthError::Rejected {
            status,
            message: message.map(str::to_owned),
        };
        check_of_scope(rejected(401, Some("No role in it.")), (401, "No role in it."));
        check_of_scope(rejected(401, None), (401, "The request you have made requires authentication."));
        check_of_scope(rejected(403, None), (403, "You are not authorized to perform the requested action."));
        check_of_scope(
            AuthError::NotInV2 { what: "system scope" },
            (401, "Identity v2.0 has no system scope; use Identity v3, or leave it out"),
        );
        assert!(matches!(AuthError::NoTenant.of_scope(), AuthError::NoTenant));
    }
}
