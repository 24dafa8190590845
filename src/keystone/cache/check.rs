//! Is a token still good? Keystone's word, for uploads that can't be sent twice.

use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::OnceCell;

use super::{Cloud, Source, TokenCache, slot};
use crate::keystone::{AuthError, Token, TokenId};

/// How long Keystone may take to say whether a token is good, before an upload starts without its
/// word; and how long it is not asked again then.
const CHECK_DEADLINE: Duration = Duration::from_secs(2);
const UNCHECKED: Duration = Duration::from_secs(10);

/// A question whether a token is good, and its answer.
pub(super) struct Check {
    token: TokenId,
    good: OnceCell<Result<bool, AuthError>>,
    asked: Instant,
}

impl Check {
    /// Whether its answer, or that there was none, still counts.
    fn holds(&self, now: Instant) -> bool {
        match self.good.get() {
            None => true,
            Some(Ok(_)) => false,
            Some(Err(_)) => now.saturating_duration_since(self.asked) < UNCHECKED,
        }
    }
}

impl TokenCache {
    /// Asks Keystone whether a token is still good, and notes it in the token if it is. For uploads
    /// that can't be sent twice. Those who ask about the same token together share one question, and
    /// one that was not answered is not repeated for a while.
    ///
    /// # Errors
    /// [`AuthError`] when Keystone gives no clear answer.
    pub async fn validate(&self, cloud: usize, token: &Token) -> Result<bool, AuthError> {
        let place = self.shared.clouds.get(cloud).ok_or(AuthError::NoSuchCloud)?;
        let check = {
            let mut running = place.check.lock().unwrap_or_else(PoisonError::into_inner);
            match &*running {
                Some(check) if check.token == token.id && check.holds(slot::now()) => Arc::clone(check),
                _ => {
                    let (token, good, asked) = (token.id.clone(), OnceCell::new(), slot::now());
                    let check = Arc::new(Check { token, good, asked });
                    *running = Some(Arc::clone(&check));
                    check
                }
            }
        };
        let ask = || async {
            let (shared, id) = (Arc::clone(&self.shared), token.id.clone());
            let task = self.shared.runtime.spawn(async move {
                let Cloud { source, .. } = &shared.clouds[cloud];
                let breaker = shared.clouds[cloud].breaker();
                let Source::Keystone(keystone) = source else { return Ok(true) };
                if let Some(waiting) = breaker.waiting(slot::now()) {
                    return Err(waiting);
                }
                let limit = CHECK_DEADLINE.min(shared.deadline);
                let checking = tokio::time::timeout(limit, keystone.validate(&id));
                checking.await.unwrap_or(Err(AuthError::Timeout { after: limit }))
            });
            task.await.unwrap_or(Err(AuthError::Stopped))
        };
        let good = check.good.get_or_init(ask).await.clone()?;
        // It is answered, so nobody joins it any more: it must not outlive the token.
        place.check.lock().unwrap_or_else(PoisonError::into_inner).take_if(|last| Arc::ptr_eq(last, &check));
        if good {
            token.mark_proved(slot::now());
        }
        Ok(good)
    }
}
