//! A connection that woke itself goes on at once.
//!
//! hyper hands a request's body over piece by piece, and wakes its own task for the next one. Put at
//! the end of the run queue each time, several large uploads would take turns piece by piece, and
//! each would find its buffer gone from the cache. A short streak keeps the buffer warm.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::task::{Context, Poll, Wake, Waker};

/// How often in a row; then the others have their turn.
const LONGEST: usize = 8;

const IDLE: u8 = 0;
const POLLING: u8 = 1;
const WOKEN: u8 = 2;

/// See the module's documentation. For one task, whose waker stays the same.
pub(super) struct Streak {
    state: Arc<State>,
    waker: Waker,
}

struct State {
    task: Waker,
    phase: AtomicU8,
}

impl Streak {
    pub(super) fn new(task: &Waker) -> Self {
        let state = Arc::new(State { task: task.clone(), phase: AtomicU8::new(IDLE) });
        let waker = Waker::from(Arc::clone(&state));
        Self { state, waker }
    }

    /// Polls; again while the poll itself asked for that.
    pub(super) fn poll<T>(&mut self, mut poll: impl FnMut(&mut Context<'_>) -> Poll<T>) -> Poll<T> {
        let mut cx = Context::from_waker(&self.waker);
        for _ in 0..LONGEST {
            self.state.phase.store(POLLING, Ordering::Release);
            if let Poll::Ready(done) = poll(&mut cx) {
                return Poll::Ready(done);
            }
            if self.state.phase.swap(IDLE, Ordering::AcqRel) != WOKEN {
                return Poll::Pending;
            }
        }
        self.state.task.wake_by_ref();
        Poll::Pending
    }
}

impl Wake for State {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        // Amid a poll it is enough to remember; between two polls the task has to be told.
        let woken = self.phase.compare_exchange(POLLING, WOKEN, Ordering::AcqRel, Ordering::Acquire);
        if woken == Err(IDLE) {
            self.task.wake_by_ref();
        }
    }
}
