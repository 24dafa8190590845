//! One token and the calls that keep it: who may ask Keystone now, and who waits?
//!
//! All decisions are made under the slot's lock, which is never held across an await; the one login
//! that may be under way (the *flight*) runs in a task of its own and reports to whoever waits.

mod adopt;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio::task::AbortHandle;

use super::breaker::{Breaker, Bucket, Failure};
use super::{Asked, Event, Key, Outcome, Reason, Shared, Status, has_scope};
use crate::keystone::shared::fingerprint;
use crate::keystone::{AuthError, LoginId, Token, TokenId};
use crate::secret;

/// The soonest renewal of a token that was just asked for, however short its life.
const SOONEST_RENEWAL: Duration = Duration::from_secs(1);

/// The clock of everything that waits: tokio's, which tests can pause.
pub(super) fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

type Answer = Result<Arc<Token>, Arc<AuthError>>;

/// One token, with what it takes to keep it.
pub(super) struct Slot {
    key: Key,
    state: Mutex<State>,
}

struct State {
    /// The last token; kept until the next one is there, even when it is over.
    token: Option<Arc<Token>>,
    /// The project's id, once the selector in the key was looked up.
    project_id: Option<String>,
    flight: Option<Flight>,
    /// What went wrong since the last success, where that is about this project alone.
    failure: Option<Failure>,
    refusals: Bucket,
    /// When Keystone was last asked.
    asked: Option<Instant>,
    /// Wakes up to renew, or to try again.
    alarm: Option<AbortHandle>,
}

/// A login that is under way.
struct Flight {
    answer: watch::Receiver<Option<Answer>>,
    /// A service refused the token that there is, so nobody should set out with it.
    replaces: bool,
}

/// What a login needs to know, and what it finds out.
pub(super) struct Login {
    pub(super) key: Key,
    /// Keystone granted this scope before.
    pub(super) known: bool,
    pub(super) reason: Reason,
    pub(super) project_id: Option<String>,
    pub(super) lister: Option<Arc<Token>>,
    /// The token that there is, and that a new one is wanted for.
    pub(super) present: Option<TokenId>,
    /// Where a service refused that token: when it was good for the last time. Whatever happened to it since
    /// may have happened to each token that was issued before.
    pub(super) good_until: Option<Instant>,
    /// What came of it is a token that was kept: Keystone was not asked.
    pub(super) restored: bool,
    /// Not before this; and not for longer than a login may take after it.
    pub(super) start: Instant,
}

/// Why a login brought no token, and what has to wait for that.
pub(super) enum Trouble {
    /// Nothing: Keystone was not asked.
    NotAsked(AuthError),
    /// All logins of the cloud: Keystone is down, or the credentials are bad.
    OfCloud(Failure),
    /// Those for the same project.
    OfScope(AuthError),
}

/// How a caller gets its token.
enum Turn {
    /// It is there, or it is clear that there is none.
    Done(Answer),
    /// A flight will bring it, its own one or one that was under way.
    Waits(watch::Receiver<Option<Answer>>),
}

impl Trouble {
    pub(super) fn error(&self) -> &AuthError {
        match self {
            Self::NotAsked(error) | Self::OfScope(error) => error,
            Self::OfCloud(failure) => &failure.error,
        }
    }
}

impl State {
    /// The token, if it may be sent now.
    fn usable(&self, now: Instant) -> Option<&Arc<Token>> {
        let refused = self.flight().is_some_and(|flight| flight.replaces);
        self.token.as_ref().filter(|token| !refused && token.is_fresh(now))
    }

    /// The login that is under way. One whose task was ended half-way (it panicked, or its runtime
    /// stopped) left without a word, and is not.
    fn flight(&self) -> Option<&Flight> {
        self.flight.as_ref().filter(|flight| flight.answer.has_changed().is_ok())
    }

    /// Nobody sets out with the present token while the next one is on its way.
    fn refuse(&mut self) {
        if let Some(flight) = &mut self.flight {
            flight.replaces = true;
        }
    }

    /// What those hear who come before it is time for the next attempt: what holds for all scopes first.
    fn waiting(&self, breaker: &Breaker, now: Instant) -> Option<Arc<AuthError>> {
        let of_all = breaker.waiting(now);
        of_all.or_else(|| self.failure.as_ref()?.waiting(now)).map(Arc::new)
    }

    fn wake(&mut self, alarm: Option<AbortHandle>) {
        if let Some(old) = std::mem::replace(&mut self.alarm, alarm) {
            old.abort();
        }
    }
}

impl Drop for State {
    fn drop(&mut self) {
        self.wake(None);
    }
}

impl Slot {
    /// `refusals`: see [`Protection::scope_refusals`](super::Protection::scope_refusals).
    pub(super) fn new(key: Key, refusals: (u32, Duration)) -> Self {
        let state = State {
            token: None,
            project_id: None,
            flight: None,
            failure: None,
            refusals: Bucket::new(refusals),
            asked: None,
            alarm: None,
        };
        Self { key, state: Mutex::new(state) }
    }

    /// The token, if it may be sent now.
    pub(super) fn snapshot(&self) -> Option<Arc<Token>> {
        self.lock().usable(now()).cloned()
    }

    /// The token, whatever its state: it still says which project this is.
    pub(super) fn known(&self) -> Option<Arc<Token>> {
        self.lock().token.clone()
    }

    /// Whether a login would have to look up the project first.
    pub(super) fn must_resolve(&self) -> bool {
        matches!(self.key.scope, Asked::Project(_)) && self.lock().project_id.is_none()
    }

    pub(super) fn status(&self, breaker: &Breaker) -> Status {
        let (mut state, now) = (self.lock(), now());
        let rejected = breaker.failure().is_some_and(|failure| failure.error.is_rejection());
        let failure = state.failure.clone().or_else(|| breaker.failure());
        Status {
            token: state.token.clone().filter(|token| token.is_fresh(now)),
            failure: failure.map(|failure| (failure.error, failure.until.saturating_duration_since(now))),
            breaker_open: rejected,
            refusals_left: state.refusals.left(now),
            ..Status::default()
        }
    }

    /// It is the time to try again, if it ever was worth it: the credentials are others now.
    pub(super) fn hurry(self: &Arc<Self>, shared: &Arc<Shared>) {
        self.lock().wake(None);
        self.ring(shared);
    }

    /// Starts a login unless there is a token or one is under way.
    pub(super) fn warm(self: &Arc<Self>, shared: &Arc<Shared>) {
        let mut state = self.lock();
        if state.token.is_none() && state.flight().is_none() && state.failure.is_none() {
            self.take_off(shared, &mut state, Reason::Cold, None);
        }
    }

    pub(super) async fn current(
        self: &Arc<Self>,
        shared: &Arc<Shared>,
        lister: Option<Arc<Token>>,
    ) -> Answer {
        let answer = match self.seek(shared, lister) {
            Turn::Done(answer) => return answer,
            Turn::Waits(answer) => answer,
        };
        match wait(answer).await {
            // A refused token that could not be replaced is in use again: it is all that there is.
            Err(error) => self.snapshot().ok_or(error),
            found => found,
        }
    }

    /// Finds the token, or the flight that brings it.
    fn seek(self: &Arc<Self>, shared: &Arc<Shared>, lister: Option<Arc<Token>>) -> Turn {
        let (mut state, now) = (self.lock(), now());
        if let Some(token) = state.usable(now).cloned() {
            token.mark_used();
            // Not before the latest moment: the alarm comes a little earlier or later.
            let due = token.renew_at(-1.0).is_some_and(|at| at <= now);
            if due && state.flight().is_none() && state.waiting(&self.breaker(shared), now).is_none() {
                self.take_off(shared, &mut state, Reason::Renewal, lister);
            }
            return Turn::Done(Ok(token));
        }
        if let Some(flight) = state.flight() {
            return Turn::Waits(flight.answer.clone());
        }
        if let Some(waiting) = state.waiting(&self.breaker(shared), now) {
            return Turn::Done(Err(waiting));
        }
        let reason = if state.token.is_some() { Reason::Renewal } else { Reason::Cold };
        Turn::Waits(self.take_off(shared, &mut state, reason, lister))
    }

    pub(super) async fn replace(
        self: &Arc<Self>,
        shared: &Arc<Shared>,
        used: &TokenId,
        lister: Option<Arc<Token>>,
    ) -> Answer {
        match self.exchange(shared, used, lister.clone()) {
            None => self.current(shared, lister).await,
            Some(Turn::Done(answer)) => answer,
            Some(Turn::Waits(answer)) => wait(answer).await,
        }
    }

    /// Starts to replace the token, or joins who does. `None` when `used` is not the token any more.
    fn exchange(
        self: &Arc<Self>,
        shared: &Arc<Shared>,
        used: &TokenId,
        lister: Option<Arc<Token>>,
    ) -> Option<Turn> {
        let (mut state, now) = (self.lock(), now());
        if state.token.as_ref().is_none_or(|token| token.id != *used) {
            return None;
        }
        if let Some(flight) = state.flight() {
            let answer = flight.answer.clone();
            if !flight.replaces {
                state.refuse();
                shared.changed();
            }
            return Some(Turn::Waits(answer));
        }
        if let Some(waiting) = state.waiting(&self.breaker(shared), now) {
            return Some(Turn::Done(Err(waiting)));
        }
        if let Err(error) = self.take_refusal(shared, &mut state, now) {
            drop(state);
            (shared.observer)(&Event::Capped { cloud: self.key.cloud });
            return Some(Turn::Done(Err(Arc::new(error))));
        }
        Some(Turn::Waits(self.take_off(shared, &mut state, Reason::Rejected, lister)))
    }

    /// Another keyway's token was refused: if it is the one here, it is replaced as if it had been refused here.
    pub(super) fn hear_of_refusal(self: &Arc<Self>, shared: &Arc<Shared>, token: &[u8; 16]) {
        if let Some(known) = self.known().filter(|known| fingerprint(&known.id) == *token) {
            tracing::debug!(token = known.id.fingerprint(), "another keyway says that a token was refused");
            // What that keyway got in its place is good, whichever service took the old one since.
            known.mark_refused();
            drop(self.exchange(shared, &known.id, None));
        }
    }

    /// Takes one of the logins that refused tokens may cause, of this project and of the cloud.
    fn take_refusal(&self, shared: &Shared, state: &mut State, now: Instant) -> Result<(), AuthError> {
        state.refusals.take_refusal(now)?;
        self.breaker(shared).take_refusal().inspect_err(|_| state.refusals.put_back())?;
        if state.refusals.left(now) == 0 {
            let cloud = &shared.clouds[self.key.cloud].config.name;
            tracing::warn!(cloud, "services keep refusing new tokens; do they trust this Keystone?");
        }
        Ok(())
    }

    /// Sends a login on its way. It goes on whether or not anyone waits for it.
    fn take_off(
        self: &Arc<Self>,
        shared: &Arc<Shared>,
        state: &mut State,
        reason: Reason,
        lister: Option<Arc<Token>>,
    ) -> watch::Receiver<Option<Answer>> {
        let (tell, answer) = watch::channel(None);
        let replaces = reason == Reason::Rejected;
        state.wake(None);
        state.flight = Some(Flight { answer: answer.clone(), replaces });
        if replaces {
            shared.changed();
        }
        // A token that hardly lives must not cost a login per request.
        let soonest = state.asked.filter(|_| reason == Reason::Renewal).map(|at| at + SOONEST_RENEWAL);
        let start = soonest.map_or(now(), |soonest| soonest.max(now()));
        state.asked = Some(start);
        let (key, project_id) = (self.key.clone(), state.project_id.clone());
        let present = state.token.as_ref().map(|token| token.id.clone());
        let known = present.is_some();
        let good_until = state.token.as_ref().filter(|_| replaces).map(|token| token.proved_at());
        let login =
            Login { key, known, reason, project_id, lister, present, good_until, restored: false, start };
        shared.runtime.spawn(fly(Arc::clone(self), Arc::clone(shared), login, tell));
        answer
    }

    /// Wakes up at `at` to renew or to try again, as long as the slot and the cache are there.
    fn alarm_at(self: &Arc<Self>, shared: &Arc<Shared>, at: Instant) -> AbortHandle {
        let (slot, cache) = (Arc::downgrade(self), Arc::downgrade(shared));
        let task = shared.runtime.spawn(async move {
            tokio::time::sleep_until(at.into()).await;
            if let (Some(slot), Some(shared)) = (Weak::upgrade(&slot), Weak::upgrade(&cache)) {
                slot.ring(&shared);
            }
        });
        task.abort_handle()
    }

    /// The alarm: it is time to renew the token, or to try again.
    fn ring(self: &Arc<Self>, shared: &Arc<Shared>) {
        let (mut state, now) = (self.lock(), now());
        // This is the alarm's own task: it must not abort itself half-way.
        state.alarm = None;
        if state.flight().is_some() {
            return;
        }
        if self.is_wanted(&state, now) {
            let reason = if state.token.is_some() { Reason::Renewal } else { Reason::Cold };
            self.take_off(shared, &mut state, reason, None);
            return;
        }
        // Nobody used it so far. Look again, ever more often, until it is over.
        let left = state.token.as_ref().and_then(|token| token.life_left(now)).unwrap_or_default();
        if !left.is_zero() {
            let alarm = self.alarm_at(shared, now + (left / 2).max(Duration::from_secs(1)));
            state.wake(Some(alarm));
        } else if state.token.take().is_some() {
            shared.changed();
        }
    }

    /// Lets go of a token that came of another person's login than this one, and returns it.
    pub(super) fn forget(
        self: &Arc<Self>,
        shared: &Arc<Shared>,
        login: Option<LoginId>,
    ) -> Option<Arc<Token>> {
        let mut state = self.lock();
        let token = state.token.take_if(|token| token.login.is_some() && token.login != login)?;
        state.wake(None);
        shared.changed();
        if self.key.scope == Asked::Own && state.flight().is_none() {
            self.take_off(shared, &mut state, Reason::Cold, None);
        }
        Some(token)
    }

    /// Whether it is worth asking Keystone without anyone waiting: for the cloud's own token always; for
    /// another scope's as long as there is one that was used since it was issued, and Keystone does not
    /// refuse the scope.
    fn is_wanted(&self, state: &State, now: Instant) -> bool {
        let resolved = match self.key.scope {
            Asked::Own => return true,
            Asked::Project(_) => state.project_id.is_some(),
            Asked::Exactly(_) => true,
        };
        let refused = |failure: &Failure| matches!(*failure.error, AuthError::ScopeRefused { .. });
        resolved
            && !state.failure.as_ref().is_some_and(refused)
            && state.token.as_ref().is_some_and(|token| token.was_used() && token.is_fresh(now))
    }

    /// Whether its token is what `asked` asks for: it was made for that, or the token says so.
    pub(super) fn serves(&self, asked: &Asked) -> bool {
        self.key.scope == *asked || self.known().is_some_and(|token| has_scope(&token, asked))
    }

    /// From now on it is one of those that work.
    fn keep(self: &Arc<Self>, shared: &Shared) {
        if self.key.scope != Asked::Own {
            shared.scopes.insert(self.key.clone(), Arc::clone(self));
            shared.tried.invalidate(&self.key);
        }
    }

    /// Takes the result of a flight in and says what those hear who waited for it.
    fn land(self: &Arc<Self>, shared: &Arc<Shared>, login: Login, result: Result<Token, Trouble>) -> Answer {
        let (mut state, now) = (self.lock(), now());
        let flight = state.flight.take();
        let (index, own, reason) = (self.key.cloud, self.key.scope == Asked::Own, login.reason);
        state.project_id.clone_from(&login.project_id);
        let cloud = &shared.clouds[index].config.name;
        let took = now.saturating_duration_since(login.start);
        let asked = |outcome, expires_at| Event::Asked { cloud: index, reason, outcome, took, expires_at };
        // Told when the lock is free again.
        let mut events = Vec::new();
        let is_first = state.token.is_none();
        let answer = match result.and_then(|token| still_fresh(token, now)) {
            Ok(token) => {
                let token = Arc::new(token);
                let first = state.token.is_none() || state.failure.is_some();
                log_token(cloud, &token, state.token.as_deref(), &login, first);
                if state.failure.take().is_some() && own {
                    events.push(Event::Resumed { cloud: index });
                }
                state.token = Some(Arc::clone(&token));
                let renewal = token.renew_at(fastrand::f64().mul_add(2.0, -1.0));
                let alarm = renewal.map(|at| self.alarm_at(shared, at.max(now + SOONEST_RENEWAL)));
                state.wake(alarm);
                shared.changed();
                let expires_at = token.expires_at.filter(|_| own);
                events.push(match login.restored {
                    true => Event::Restored { cloud: index, expires_at },
                    false => asked(Outcome::Ok, expires_at),
                });
                Ok(token)
            }
            Err(trouble) => {
                // Where a person has to log in, nobody but a file was asked.
                let unasked = matches!(
                    trouble.error(),
                    AuthError::Spent { .. } | AuthError::NoSecret { .. } | AuthError::LoginRequired { .. }
                );
                if !unasked && !matches!(trouble, Trouble::NotAsked(_)) {
                    events.push(asked(Outcome::of(trouble.error()), None));
                }
                let (error, until) = match trouble {
                    Trouble::NotAsked(error) => {
                        let wait = error.retry_after().unwrap_or_default().max(SOONEST_RENEWAL);
                        (Arc::new(error), now + wait)
                    }
                    Trouble::OfCloud(failure) => {
                        log_failure(cloud, &failure, reason, now);
                        state.failure = None;
                        (failure.error, failure.until)
                    }
                    Trouble::OfScope(error) => {
                        let failure = Failure::after(
                            state.failure.as_ref(),
                            Arc::new(error),
                            now,
                            &self.breaker(shared).protection(),
                        );
                        log_failure(cloud, &failure, reason, now);
                        let (error, until) = (Arc::clone(&failure.error), failure.until);
                        if own {
                            let wait = until.saturating_duration_since(now);
                            events.push(Event::Paused { cloud: index, wait, rejected: false });
                        }
                        state.failure = Some(failure);
                        (error, until)
                    }
                };
                // Without one it is let go when it is asked for no more; with one, when that is over.
                let wakes = state.token.is_some() || self.is_wanted(&state, now);
                let alarm = wakes.then(|| self.alarm_at(shared, until));
                state.wake(alarm);
                if flight.is_some_and(|flight| flight.replaces) {
                    // The old token is in use again: it is all that there is.
                    shared.changed();
                }
                Err(error)
            }
        };
        drop(state);
        if is_first && answer.is_ok() {
            self.keep(shared);
        }
        events.iter().for_each(|event| (shared.observer)(event));
        answer
    }

    fn breaker(&self, shared: &Shared) -> Arc<Breaker> {
        shared.clouds[self.key.cloud].breaker()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A flight's task. It says nothing until the slot is up to date.
async fn fly(slot: Arc<Slot>, shared: Arc<Shared>, mut login: Login, tell: watch::Sender<Option<Answer>>) {
    tokio::time::sleep_until(login.start.into()).await;
    let result = shared.log_in(&mut login).await;
    let answer = slot.land(&shared, login, result);
    tell.send_replace(Some(answer));
}

/// Keystone may take longer to answer than its token lives.
fn still_fresh(token: Token, now: Instant) -> Result<Token, Trouble> {
    if token.is_fresh(now) {
        return Ok(token);
    }
    Err(Trouble::OfScope(AuthError::BadReply {
        what: format!(
            "Keystone's token lives for {} ms and was over when it came; check the lifetime that Keystone \
             gives to tokens",
            token.lifetime().as_millis()
        ),
    }))
}

async fn wait(mut answer: watch::Receiver<Option<Answer>>) -> Answer {
    let answer = match answer.wait_for(Option::is_some).await {
        Ok(answer) => answer.clone(),
        Err(_) => None,
    };
    let token = answer.unwrap_or_else(|| Err(Arc::new(AuthError::Stopped)))?;
    token.mark_used();
    Ok(token)
}

fn log_token(cloud: &str, token: &Token, replaced: Option<&Token>, login: &Login, first: bool) {
    let project = token.project.as_ref().map_or("none", |project| project.name.as_str());
    let user = token.user.as_ref().map_or("unknown", |user| user.name.as_str());
    let (reason, life) = (login.reason.as_str(), token.lifetime().as_secs());
    let left = token.life_left(now()).unwrap_or_default().as_secs();
    // Fingerprints: they tell tokens apart, and nothing about them.
    let (token, replaced) = (token.id.fingerprint(), replaced.map(|token| token.id.fingerprint()));
    if login.restored {
        tracing::info!(
            cloud,
            project,
            user,
            reason,
            left_s = left,
            token,
            replaced,
            "found a token that was kept"
        );
    } else if first {
        tracing::info!(
            cloud,
            project,
            user,
            reason,
            lifetime_s = life,
            token,
            replaced,
            "logged in to Keystone"
        );
    } else {
        tracing::debug!(cloud, project, user, reason, lifetime_s = life, token, replaced, "new token");
    }
}

fn log_failure(cloud: &str, failure: &Failure, reason: Reason, now: Instant) {
    let wait = failure.until.saturating_duration_since(now);
    // Once is enough for what only a person can change.
    if matches!(*failure.error, AuthError::LoginRequired { .. }) && failure.attempts > 1 {
        return;
    }
    tracing::warn!(
        cloud,
        reason = reason.as_str(),
        attempt = failure.attempts,
        next_attempt_in_ms = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX),
        error = secret::causes(&*failure.error),
        "no token from Keystone"
    );
}
