//! May Keystone be shown these credentials once more?
//!
//! Keystone can lock an account after a number of wrong passwords (`lockout_failure_attempts`). It counts them until a
//! login with the right one, however long that takes: a pace at which a wrong password may be tried for ever does not
//! exist. So an [`Account`] counts as Keystone does, and for all clouds and scopes that log in as the same user at the
//! same Keystone together: credentials that were rejected [`most`](super::Protection::rejections) times in a row are
//! not shown again until they change. A reload forgets nothing of this, and neither does time: Keystone can't tell a
//! user who was disabled for a while from a wrong password, so only the operator knows that it is worth one more try,
//! and says so by raising that number.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Semaphore;

use crate::keystone::{Auth, AuthError, Config, Identity, Method, ProviderError, Secret, User};
use crate::upstream::Origin;

/// What a login shows that nobody else knows.
pub(super) type Secrets = Vec<Secret>;

/// How many logins of an account may be under way at most, while its credentials are known to be good.
pub(super) const LANES: u32 = 4;

/// How many rejected secrets are remembered: more than a row of rejections can have.
const REMEMBERED: usize = 32;

/// Which account: two clouds that say the same about it share it. Whether a name and an id are the same user only
/// Keystone knows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Holder {
    /// Keystone, or the identity provider that knows the password.
    at: Origin,
    user: User,
}

/// See the module's documentation.
pub(super) struct Account {
    /// `None`: nobody can be locked out by these credentials, since they are no password.
    holder: Option<Holder>,
    /// Each login takes some of them, see [`Account::share`].
    pub(super) lanes: Semaphore,
    ledger: Mutex<Ledger>,
}

#[derive(Default)]
struct Ledger {
    /// Which secrets were rejected since the last success, and how often each.
    rejected: Vec<(Secrets, u32)>,
    /// How many rejections there were in all since then.
    in_a_row: u32,
    /// The same since the operator had the configuration read again, if that was later.
    since_reload: u32,
    last: Option<Arc<AuthError>>,
}

impl Account {
    pub(super) fn of(config: &Config) -> Self {
        let holder = match &config.auth {
            // What a person's login left is a token, whoever it is of.
            Auth::Identity(Identity { method, .. }) if method.person().is_some() => None,
            Auth::Identity(Identity { auth_url, method, .. }) => holder(auth_url.origin(), method),
            Auth::Fixed { .. } | Auth::Basic { .. } | Auth::None { .. } | Auth::Tokenless { .. } => None,
        };
        Self { holder, lanes: Semaphore::new(LANES as usize), ledger: Mutex::default() }
    }

    /// Whether both are the same account at the same Keystone.
    pub(super) fn is_also(&self, other: &Self) -> bool {
        self.holder.is_some() && self.holder == other.holder
    }

    /// The limit for this account: `most`, where a wrong secret may lock it.
    fn limit(&self, most: Option<u32>) -> Option<u32> {
        most.filter(|_| self.holder.is_some())
    }

    /// How many of the [`LANES`] a login takes while the credentials are known to be good. Should they turn bad just
    /// then, all that are under way are rejected, and there must be one more to find out why.
    pub(super) fn share(&self, most: Option<u32>) -> u32 {
        match self.limit(most) {
            None => 1,
            Some(most) => LANES.div_ceil(most.saturating_sub(1).clamp(1, LANES)),
        }
    }

    /// Whether these may be shown to Keystone: so often and no more is each secret, and twice as often all of them
    /// together, should somebody change them again and again for other wrong ones.
    ///
    /// # Errors
    /// [`AuthError::Spent`].
    pub(super) fn may_show(&self, secrets: &Secrets, most: Option<u32>) -> Result<(), AuthError> {
        let Some(most) = self.limit(most) else { return Ok(()) };
        let ledger = self.lock();
        if ledger.times(secrets) < most && ledger.since_reload < most.saturating_mul(2) {
            return Ok(());
        }
        let cause = ledger.last.clone();
        let cause = cause.unwrap_or_else(|| Arc::new(AuthError::Rejected { status: 401, message: None }));
        Err(AuthError::Spent { rejections: ledger.in_a_row, cause })
    }

    /// How many times Keystone rejected these since the last success.
    pub(super) fn times(&self, secrets: &Secrets) -> u32 {
        self.lock().times(secrets)
    }

    /// Whether Keystone may lock the account of whoever shows a wrong secret, as far as the configuration says.
    pub(super) fn counts(&self, most: Option<u32>) -> bool {
        self.limit(most).is_some()
    }

    /// Keystone, or the identity provider, rejected a login with these.
    pub(super) fn reject(&self, secrets: &Secrets, error: &AuthError) {
        // Who knows the password, the identity provider, had nothing against it where only Keystone said no.
        let once = u32::from(!matches!(error, AuthError::Provider(ProviderError::NotAccepted { .. })));
        let mut ledger = self.lock();
        ledger.in_a_row = ledger.in_a_row.saturating_add(once);
        ledger.since_reload = ledger.since_reload.saturating_add(once);
        ledger.last = Some(Arc::new(error.clone()));
        match ledger.rejected.iter_mut().find(|(known, _)| known == secrets) {
            Some((_, times)) => *times = times.saturating_add(once),
            None => {
                if ledger.rejected.len() == REMEMBERED {
                    ledger.rejected.remove(0);
                }
                ledger.rejected.push((secrets.clone(), once));
            }
        }
    }

    /// Keystone accepted the credentials, so it counts from the start again.
    pub(super) fn accept(&self) {
        *self.lock() = Ledger::default();
    }

    /// The operator had the configuration read again, perhaps with other credentials. What was rejected stays rejected;
    /// but another one may be tried, however many were tried before.
    pub(super) fn correct(&self) {
        self.lock().since_reload = 0;
    }

    /// Whether Keystone's last word on it was no.
    pub(super) fn is_doubted(&self) -> bool {
        self.holder.is_some() && self.lock().in_a_row > 0
    }

    /// The secrets that were rejected last.
    pub(super) fn last_rejected(&self) -> Option<Secrets> {
        self.lock().rejected.last().map(|(secrets, _)| secrets.clone())
    }

    /// How many rejections there were since the last success, and how many more there may be, if that is limited.
    pub(super) fn status(&self, most: Option<u32>) -> (u32, Option<u32>) {
        let ledger = self.lock();
        let left = self.limit(most).map(|most| {
            let last = ledger.rejected.last().map_or(0, |(_, times)| *times);
            most.saturating_sub(last).min(most.saturating_mul(2).saturating_sub(ledger.since_reload))
        });
        (ledger.in_a_row, left)
    }

    fn lock(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Ledger {
    fn times(&self, secrets: &Secrets) -> u32 {
        self.rejected.iter().find(|(known, _)| known == secrets).map_or(0, |(_, times)| *times)
    }
}

/// Whose password it is, if it is one. Keystone counts neither wrong tokens nor wrong passcodes nor wrong secrets of
/// application credentials. Identity providers count wrong passwords as well.
fn holder(keystone: &Origin, method: &Method) -> Option<Holder> {
    match method {
        Method::Password { user, .. } => Some(Holder { at: keystone.clone(), user: user.clone() }),
        Method::MultiFactor { shown, spare } => {
            shown.iter().chain(spare).find_map(|method| holder(keystone, method))
        }
        Method::Federated(federated) => federated.account().map(|(at, name)| Holder {
            at: at.clone(),
            user: User::Name { name: name.to_owned(), domain: None },
        }),
        Method::Token(_)
        | Method::ApplicationCredential { .. }
        | Method::Totp { .. }
        | Method::OAuth2 { .. }
        | Method::OAuth2Mtls { .. }
        | Method::OAuth1 { .. }
        | Method::Kerberos(_) => None,
    }
}
