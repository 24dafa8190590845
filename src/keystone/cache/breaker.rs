//! May Keystone be asked now?
//!
//! A [`Breaker`] holds what all logins of one cloud have in common, whatever project they are for:
//! whether Keystone answers, and whether the credentials are good. Until they are known to be good,
//! one login goes at a time, so that ten projects do not make ten attempts with a wrong password.
//! Keystone says the same 401 to a wrong password and to a project that the user may not enter, so a
//! rejected login is followed by one for a scope that was accepted before, if there is one: only
//! where that is rejected too (or there is none) the credentials are taken for bad, and nobody asks
//! any more until the pause is over, or there are other credentials. How often the same ones may be rejected
//! at all is the [`Account`]'s business.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::SemaphorePermit;

use super::account::{Account, LANES, Secrets};
use super::slot::now;
use crate::keystone::{AuthError, ProviderError, Scope};

/// How Keystone is protected from us: `[keystone]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Protection {
    /// How many logins in a row Keystone may reject for the same credentials before they are tried no more; at least
    /// 2, since one more login may be needed to find out whether it is about the credentials. `None`: any number.
    pub rejections: Option<u32>,
    /// The first wait after a failure, and the longest.
    pub backoff: (Duration, Duration),
    /// The same after rejected credentials.
    pub pause: (Duration, Duration),
    /// How many logins refused tokens may cause in a cloud at once, and how long until one more may.
    pub refusals: (u32, Duration),
    /// The same for the token of one scope.
    pub scope_refusals: (u32, Duration),
    /// How many scopes that a cloud never had Keystone may refuse at once, and how long until it is asked for
    /// one more. Each costs up to two logins, one after the other, and clients can make up any number.
    pub new_scopes: (u32, Duration),
}

impl Default for Protection {
    fn default() -> Self {
        let seconds = Duration::from_secs;
        Self {
            rejections: Some(2),
            backoff: (seconds(1), seconds(60)),
            pause: (seconds(60), seconds(300)),
            refusals: (40, seconds(1)),
            scope_refusals: (10, seconds(5)),
            new_scopes: (10, seconds(6)),
        }
    }
}

/// Where a person has to log in, only a file is looked at.
const LOGIN: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(1));

/// The longest wait that Keystone may ask for: a wrong Retry-After must not stop us for a day.
const LONGEST_RETRY_AFTER: Duration = Duration::from_secs(600);

/// How long a successful login proves that the credentials are good.
const PROOF: Duration = Duration::from_secs(10);

/// The waits after Keystone refused a scope with good credentials: that locks no account, and somebody may
/// be about to grant it.
const REFUSED_SCOPE: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(60));

/// What went wrong since the last success.
#[derive(Clone)]
pub(super) struct Failure {
    pub(super) error: Arc<AuthError>,
    pub(super) attempts: u32,
    pub(super) until: Instant,
}

impl Failure {
    /// The failure after one more attempt.
    pub(super) fn after(
        previous: Option<&Self>,
        error: Arc<AuthError>,
        now: Instant,
        protection: &Protection,
    ) -> Self {
        let attempts = previous.map_or(0, |failure| failure.attempts).saturating_add(1);
        let (first, longest) = match error.root() {
            AuthError::Rejected { .. }
            | AuthError::Provider(ProviderError::Refused { .. } | ProviderError::RefusedUser { .. }) => {
                protection.pause
            }
            AuthError::LoginRequired { .. } => LOGIN,
            AuthError::ScopeRefused { .. } => REFUSED_SCOPE,
            _ => protection.backoff,
        };
        let doubled = first.saturating_mul(1 << (attempts - 1).min(16)).min(longest);
        // Up to a fifth more, so that many processes do not come back together.
        let jittered = doubled.mul_f64(1.0 + 0.2 * fastrand::f64());
        let asked = error.retry_after().unwrap_or_default().min(LONGEST_RETRY_AFTER);
        Self { error, attempts, until: now + jittered.max(asked) }
    }

    /// What those hear who come before it is time for the next attempt.
    pub(super) fn waiting(&self, now: Instant) -> Option<AuthError> {
        let wait = self.until.checked_duration_since(now).filter(|wait| !wait.is_zero())?;
        Some(AuthError::Waiting { wait, cause: Arc::clone(&self.error) })
    }
}

/// Caps what may be asked of Keystone for others: each takes one, and they come back slowly.
#[derive(Clone)]
pub(super) struct Bucket {
    most: u32,
    refill: Duration,
    left: u32,
    filled: Instant,
}

impl Bucket {
    pub(super) fn new((most, refill): (u32, Duration)) -> Self {
        Self { most, refill, left: most, filled: now() }
    }

    /// How many there are.
    pub(super) fn left(&mut self, now: Instant) -> u32 {
        let since = now.saturating_duration_since(self.filled);
        let refills = since.as_millis() / self.refill.as_millis().max(1);
        let refills = u32::try_from(refills).unwrap_or(self.most).min(self.most);
        self.left += refills;
        self.filled += self.refill * refills;
        if self.left >= self.most {
            self.left = self.most;
            self.filled = now;
        }
        self.left
    }

    /// Takes one, or says how long until there is one again.
    pub(super) fn take(&mut self, now: Instant) -> Result<(), Duration> {
        if self.left(now) == 0 {
            return Err((self.filled + self.refill).saturating_duration_since(now));
        }
        self.left -= 1;
        Ok(())
    }

    /// Takes one for a token that a service refused.
    pub(super) fn take_refusal(&mut self, now: Instant) -> Result<(), AuthError> {
        self.take(now).map_err(|wait| AuthError::TooManyRefusals { refusals: self.most, wait })
    }

    /// Puts one back that was not used.
    pub(super) fn put_back(&mut self) {
        self.left = (self.left + 1).min(self.most);
    }

    /// How many it holds, and how fast it fills.
    pub(super) fn size(&self) -> (u32, Duration) {
        (self.most, self.refill)
    }

    /// From now on it has another size, or fills at another pace.
    pub(super) fn resize(&mut self, (most, refill): (u32, Duration)) {
        (self.most, self.refill, self.left) = (most, refill, self.left.min(most));
    }
}

/// See the module's documentation.
pub(super) struct Breaker {
    /// The cloud's own scope.
    own: Scope,
    /// As whom it logs in; other clouds may do the same.
    account: Arc<Account>,
    state: Mutex<State>,
}

struct State {
    failure: Option<Failure>,
    /// When the last attempt failed.
    failed: Option<Instant>,
    /// For what logins were last accepted, and when: the latest first, one for something else, and the
    /// cloud's own scope. Others come and go; if Keystone no longer knows any of them, that must not look as if the
    /// credentials were bad.
    accepted: Vec<(Instant, Scope)>,
    /// A login was rejected since, and it is not clear yet why.
    doubted: bool,
    refusals: Bucket,
    /// See [`Protection::new_scopes`].
    strange: Bucket,
    protection: Protection,
    /// Which of the tasks that watch for another secret is the one in charge, see [`Breaker::watch`].
    watch: u64,
}

/// The right to ask Keystone once. As long as it is held alone, nobody else asks.
pub(super) struct Permit<'a> {
    lanes: SemaphorePermit<'a>,
}

/// What is known of the credentials when a login was rejected.
pub(super) enum Verdict {
    /// They were accepted meanwhile, for something else.
    Good,
    /// They were rejected meanwhile, for something else too.
    Bad,
    /// They were accepted for this before: asking for it once more tells.
    Ask(Scope),
    /// They were never accepted for anything else.
    Unknown,
}

impl Breaker {
    /// For a cloud whose own scope is `own`.
    pub(super) fn new(own: Scope, account: Arc<Account>, protection: Protection) -> Self {
        let state = State {
            failure: None,
            failed: None,
            accepted: Vec::new(),
            doubted: false,
            refusals: Bucket::new(protection.refusals),
            strange: Bucket::new(protection.new_scopes),
            protection,
            watch: 0,
        };
        Self { own, account, state: Mutex::new(state) }
    }

    /// As whom the cloud logs in.
    pub(super) fn account(&self) -> &Arc<Account> {
        &self.account
    }

    /// The cloud's own scope.
    pub(super) fn own(&self) -> &Scope {
        &self.own
    }

    pub(super) fn protection(&self) -> Protection {
        self.lock().protection
    }

    /// From now on these limits hold.
    pub(super) fn protect(&self, protection: Protection) {
        let mut state = self.lock();
        state.refusals.resize(protection.refusals);
        state.strange.resize(protection.new_scopes);
        state.protection = protection;
    }

    /// See [`Account::may_show`].
    pub(super) fn may_show(&self, secrets: &Secrets) -> Result<(), AuthError> {
        self.account.may_show(secrets, self.protection().rejections)
    }

    /// Whether Keystone may lock the account after one more rejection or two, so that it is worth a login to find out
    /// what the next one would be about.
    pub(super) fn is_last_chance(&self, secrets: &Secrets) -> bool {
        self.account.counts(self.protection().rejections) && self.account.times(secrets) > 0
    }

    /// There are other credentials now: nobody has to wait any more because the old ones were rejected.
    pub(super) fn lift(&self) {
        if let Some(failure) = &mut self.lock().failure
            && failure.error.is_rejection()
        {
            failure.until = now();
        }
    }

    /// Whoever calls this watches from now on whether there are other credentials, and nobody else does.
    pub(super) fn watch(&self) -> u64 {
        let mut state = self.lock();
        state.watch += 1;
        state.watch
    }

    /// Whether it is still this one's turn to watch: the credentials count as rejected, and nobody else took over.
    pub(super) fn watches(&self, watch: u64) -> bool {
        let state = self.lock();
        state.watch == watch && state.failure.as_ref().is_some_and(|failure| failure.error.is_rejection())
    }

    /// How many logins refused tokens may cause right now, and how many new scopes Keystone may refuse.
    pub(super) fn left(&self) -> (u32, u32) {
        let (mut state, now) = (self.lock(), now());
        (state.refusals.left(now), state.strange.left(now))
    }

    /// What those hear who come before it is time for the next attempt.
    pub(super) fn waiting(&self, now: Instant) -> Option<AuthError> {
        self.lock().failure.as_ref()?.waiting(now)
    }

    /// What went wrong since the last success, if anything did.
    pub(super) fn failure(&self) -> Option<Failure> {
        self.lock().failure.clone()
    }

    /// Waits for its turn.
    ///
    /// # Errors
    /// [`AuthError::Waiting`] where it turned out meanwhile that it is not the time to ask.
    pub(super) async fn admit(&self) -> Result<Permit<'_>, AuthError> {
        loop {
            let wanted = self.lanes_for_one();
            let lanes = self.account.lanes.acquire_many(wanted).await.map_err(|_| AuthError::Stopped)?;
            if let Some(waiting) = self.waiting(now()) {
                return Err(waiting);
            }
            if wanted >= self.lanes_for_one() {
                return Ok(Permit { lanes });
            }
        }
    }

    /// Waits until nobody else asks, to find out why a login was rejected.
    pub(super) async fn alone<'a>(&'a self, permit: Permit<'a>) -> Result<Permit<'a>, AuthError> {
        if permit.lanes.num_permits() == LANES as usize {
            return Ok(permit);
        }
        self.lock().doubted = true;
        drop(permit);
        let lanes = self.account.lanes.acquire_many(LANES).await.map_err(|_| AuthError::Stopped)?;
        Ok(Permit { lanes })
    }

    /// Keystone accepted the credentials for `scope`. Tells whether that ends a failure.
    pub(super) fn accept(&self, scope: &Scope) -> bool {
        self.account.accept();
        let mut state = self.lock();
        state.doubted = false;
        state.accepted.retain(|(_, known)| known != scope);
        state.accepted.insert(0, (now(), scope.clone()));
        self.forget_others(&mut state);
        state.failure.take().is_some()
    }

    /// There is a token for `scope` from an earlier login. That proves nothing about the credentials now, but it
    /// is something to ask for when they are in doubt.
    pub(super) fn was_accepted(&self, scope: &Scope) {
        let mut state = self.lock();
        if let Some(long_ago) = now().checked_sub(PROOF)
            && state.accepted.iter().all(|(_, known)| known != scope)
        {
            state.accepted.push((long_ago, scope.clone()));
            self.forget_others(&mut state);
        }
    }

    /// Keeps the latest two beside the cloud's own.
    fn forget_others(&self, state: &mut State) {
        let mut others = 0;
        state.accepted.retain(|(_, known)| {
            others += usize::from(*known != self.own);
            *known == self.own || others <= 2
        });
    }

    /// Keystone did not answer what was sent at `sent`, or rejected the credentials. What failed
    /// together counts as one attempt.
    pub(super) fn fail(&self, error: AuthError, sent: Instant) -> Failure {
        let mut state = self.lock();
        state.doubted = false;
        let together = state.failed.is_some_and(|failed| failed >= sent);
        let protection = state.protection;
        match &mut state.failure {
            Some(failure) if together => {
                let asked = error.retry_after().unwrap_or_default().min(LONGEST_RETRY_AFTER);
                failure.until = failure.until.max(now() + asked);
                failure.clone()
            }
            previous => {
                let failure = Failure::after(previous.as_ref(), Arc::new(error), now(), &protection);
                *previous = Some(failure.clone());
                state.failed = Some(now());
                failure
            }
        }
    }

    /// The rejection of a login for `scope` was about that alone.
    pub(super) fn absolve(&self, scope: &Scope) {
        let mut state = self.lock();
        state.doubted = false;
        state.accepted.retain(|(_, known)| known != scope);
    }

    /// What is known when a login for `scope` that was sent at `sent` was rejected.
    pub(super) fn verdict(&self, scope: &Scope, sent: Instant) -> Verdict {
        let state = self.lock();
        let rejected = |failure: &Failure| failure.error.is_rejection() && failure.until > now();
        if state.failure.as_ref().is_some_and(rejected) {
            return Verdict::Bad;
        }
        let mut others = state.accepted.iter().filter(|(_, known)| known != scope);
        let Some(latest) = others.next() else { return Verdict::Unknown };
        if latest.0 > sent {
            return Verdict::Good;
        }
        // Nobody but the operator changes what the cloud's own scope is good for.
        let own = others.find(|(_, known)| *known == self.own);
        Verdict::Ask(own.unwrap_or(latest).1.clone())
    }

    /// Takes one of the logins that refused tokens may cause.
    pub(super) fn take_refusal(&self) -> Result<(), AuthError> {
        self.lock().refusals.take_refusal(now())
    }

    /// Takes the right to ask for a scope that the cloud never had.
    ///
    /// # Errors
    /// [`AuthError::TooManyScopes`] when Keystone refused too many of late.
    pub(super) fn take_scope(&self) -> Result<(), AuthError> {
        self.lock().strange.take(now()).map_err(|wait| AuthError::TooManyScopes { wait })
    }

    /// Keystone did not refuse that scope.
    pub(super) fn put_scope_back(&self) {
        self.lock().strange.put_back();
    }

    fn lanes_for_one(&self) -> u32 {
        let state = self.lock();
        let proved = state.accepted.first().is_some_and(|(at, _)| now().duration_since(*at) < PROOF);
        if !proved || state.doubted || state.failure.is_some() {
            return LANES;
        }
        self.account.share(state.protection.rejections)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
