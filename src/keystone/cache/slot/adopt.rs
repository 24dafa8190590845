//! A reload makes a new cache; what the old one knew of a login that stayed the same lives on in it.
//!
//! Taken over is everything that spares Keystone a call: the token, the project that a name meant, what
//! was asked of us (backoff, the bucket), and a login that is under way. The structs are taken apart
//! field by field, so that a new field can't be forgotten here.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError};

use tokio::sync::watch;

use super::{Answer, Flight, SOONEST_RENEWAL, Slot, State, now};
use crate::keystone::AuthError;
use crate::keystone::cache::account::Account;
use crate::keystone::cache::breaker::Breaker;
use crate::keystone::cache::{Cloud, Key, Reason, Shared, TokenCache};

/// How many accounts of clouds that are gone are remembered.
const MOST_DEPARTED: usize = 64;

impl TokenCache {
    /// Takes over what `old` knows of clouds whose login is the same: each pair is such a cloud's place
    /// in `old`, and here. From now on `old` renews nothing ahead of time: it serves the requests that
    /// set out with it, and asks Keystone for no one else.
    ///
    /// What Keystone rejected stays rejected for whoever is the same user, in whatever cloud.
    pub fn adopt(&self, old: &Self, same: &[(usize, usize)]) {
        let mut accounts: Vec<_> =
            old.shared.clouds.iter().map(|cloud| Arc::clone(cloud.breaker().account())).collect();
        accounts.extend(old.shared.departed.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned());
        for new in &self.shared.clouds {
            let mut breaker = new.breaker.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(known) = accounts.iter().find(|known| known.is_also(breaker.account())) {
                let own = breaker.own().clone();
                *breaker = Arc::new(Breaker::new(own, Arc::clone(known), self.shared.protection));
            }
        }
        let is_served =
            |known: &Account| self.shared.clouds.iter().any(|cloud| known.is_also(cloud.breaker().account()));
        accounts.retain(|known| known.is_doubted() && !is_served(known));
        accounts.truncate(MOST_DEPARTED);
        *self.shared.departed.lock().unwrap_or_else(PoisonError::into_inner) = accounts;
        for (from, to) in same {
            let (Some(old), Some(new)) = (old.shared.clouds.get(*from), self.shared.clouds.get(*to)) else {
                continue;
            };
            let Cloud { config: _, source: _, breaker: _, slot, projects, listing: _, check: _ } = old;
            // Before any slot looks at it: a pause after a wrong password outlives a reload.
            *new.breaker.lock().unwrap_or_else(PoisonError::into_inner) = old.breaker();
            new.breaker().protect(self.shared.protection);
            new.slot.inherit(&self.shared, slot);
            let known = projects.lock().unwrap_or_else(PoisonError::into_inner).clone();
            *new.projects.lock().unwrap_or_else(PoisonError::into_inner) = known;
        }
        let caches = [(&old.shared.scopes, &self.shared.scopes), (&old.shared.tried, &self.shared.tried)];
        for (theirs, ours) in caches {
            // A slot may be there under several keys.
            let mut heirs: HashMap<*const Slot, Arc<Slot>> = HashMap::new();
            for (key, slot) in theirs {
                if let Some((_, to)) = same.iter().find(|(from, _)| *from == key.cloud) {
                    let heir = heirs.entry(Arc::as_ptr(&slot)).or_insert_with(|| {
                        let key = Key { cloud: *to, scope: slot.key.scope.clone() };
                        let heir = Arc::new(Slot::new(key, self.shared.protection.scope_refusals));
                        heir.inherit(&self.shared, &slot);
                        heir
                    });
                    let key = Key { cloud: *to, scope: key.scope.clone() };
                    ours.insert(key, Arc::clone(heir));
                }
                slot.lock().wake(None);
            }
        }
        for cloud in &old.shared.clouds {
            cloud.slot.lock().wake(None);
        }
        for (index, cloud) in self.shared.clouds.iter().enumerate() {
            let breaker = cloud.breaker();
            let account = breaker.account();
            account.correct();
            if breaker.failure().is_some_and(|failure| failure.error.is_rejection()) {
                self.shared.watch_secrets(index);
                let is_spent = |most| {
                    account.last_rejected().is_some_and(|secrets| account.may_show(&secrets, most).is_err())
                };
                let (before, now) = (old.shared.protection.rejections, self.shared.protection.rejections);
                // The operator lets Keystone reject more than it did: the same credentials have a try more, and at
                // once.
                if is_spent(before) && !is_spent(now) {
                    breaker.lift();
                    cloud.slot.hurry(&self.shared);
                }
            }
        }
    }
}

impl Slot {
    /// Goes on where `old` is.
    fn inherit(self: &Arc<Self>, shared: &Arc<Shared>, old: &Arc<Self>) {
        let theirs = old.lock();
        let mut state = self.lock();
        state.take_over(&theirs);
        match theirs.flight() {
            Some(flight) => {
                let (tell, answer) = watch::channel(None);
                state.flight = Some(Flight { answer, replaces: flight.replaces });
                let following = follow(
                    Arc::clone(self),
                    Arc::clone(shared),
                    Arc::clone(old),
                    flight.answer.clone(),
                    tell,
                );
                shared.runtime.spawn(following);
            }
            None => self.wind(shared, &mut state),
        }
    }

    /// Sets the alarm for whatever is next.
    fn wind(self: &Arc<Self>, shared: &Arc<Shared>, state: &mut State) {
        let paused = self.breaker(shared).failure();
        let next = match (state.failure.as_ref().or(paused.as_ref()), &state.token) {
            (Some(failure), _) => Some(failure.until),
            (None, Some(token)) => token.renew_at(fastrand::f64().mul_add(2.0, -1.0)),
            (None, None) => None,
        };
        let alarm = next.map(|at| self.alarm_at(shared, at.max(now() + SOONEST_RENEWAL)));
        state.wake(alarm);
    }
}

impl State {
    /// Takes over everything but the flight and the alarm, which are tasks of the other cache.
    fn take_over(&mut self, old: &Self) {
        let Self { token, project_id, flight: _, failure, refusals, asked, alarm: _ } = old;
        self.token.clone_from(token);
        self.project_id.clone_from(project_id);
        self.failure.clone_from(failure);
        let (size, ours) = (self.refusals.size(), refusals.clone());
        self.refusals = ours;
        self.refusals.resize(size);
        self.asked = *asked;
    }
}

/// A flight of the other cache goes on; whatever it brings is this slot's as well.
async fn follow(
    slot: Arc<Slot>,
    shared: Arc<Shared>,
    old: Arc<Slot>,
    mut theirs: watch::Receiver<Option<Answer>>,
    tell: watch::Sender<Option<Answer>>,
) {
    let landed = match theirs.wait_for(Option::is_some).await {
        Ok(answer) => answer.clone(),
        Err(_) => None,
    };
    {
        let mut theirs = old.lock();
        theirs.wake(None);
        let mut state = slot.lock();
        state.flight = None;
        state.take_over(&theirs);
        let failed = state.failure.is_some() || slot.breaker(&shared).failure().is_some();
        if landed.is_none() && state.token.is_none() && !failed {
            // Its task ended without a word.
            slot.take_off(&shared, &mut state, Reason::Cold, None);
        } else {
            slot.wind(&shared, &mut state);
        }
        shared.changed();
    }
    if matches!(landed, Some(Ok(_))) {
        slot.keep(&shared);
    }
    tell.send_replace(Some(landed.unwrap_or_else(|| Err(Arc::new(AuthError::Stopped)))));
}
