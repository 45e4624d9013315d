//! What a call costs: computing and waiting, counted apart.
//!
//! Computing is processor time of the thread while guest code runs, so that a
//! busy machine does not make an honest plugin look slow. Reading that clock is
//! a system call, so it is read only in calls that are still computing when the
//! first epoch comes. Waiting is the time inside host calls, while they are
//! being polled and while they are not.

use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Poll;
use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};
use tokio::time::Sleep;
use wasmtime::CallHook;

use super::epoch::EPOCH;

/// How long one call may compute and wait.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Budget {
    /// Processor time in the guest.
    pub(crate) computing: Duration,
    /// Time inside host calls.
    pub(crate) waiting: Duration,
}

/// A call used up one of its budgets, and was stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Overrun {
    #[error("it computed for more than {} ms (limit `collect_ms`)", .0.as_millis())]
    Computing(Duration),
    #[error("it waited for more than {} ms (limit `io_ms`)", .0.as_millis())]
    Waiting(Duration),
}

/// Shared by a store's hooks and by whoever awaits its calls.
#[derive(Clone, Debug)]
pub(crate) struct Meter(Arc<Mutex<State>>);

#[derive(Debug)]
struct State {
    budget: Budget,
    /// Counted from the first epoch on; nothing before it.
    computed: Option<Duration>,
    waited: Duration,
    /// The thread's processor time when the guest was last entered, while it
    /// runs.
    guest_since: Option<Duration>,
    /// When the host was entered, while a host call lasts.
    host_since: Option<Instant>,
}

impl Meter {
    pub(crate) fn new() -> Self {
        let budget = Budget { computing: Duration::ZERO, waiting: Duration::ZERO };
        Self(Arc::new(Mutex::new(State::new(budget))))
    }

    /// To be called by the store whenever the guest is left or entered.
    pub(crate) fn hook(&self, hook: CallHook) {
        match hook {
            CallHook::CallingHost => {
                let mut state = self.lock();
                state.leave_guest();
                state.host_since = Some(Instant::now());
            }
            CallHook::ReturningFromHost => {
                let mut state = self.lock();
                if let Some(since) = state.host_since.take() {
                    state.waited += since.elapsed();
                }
                state.enter_guest();
            }
            CallHook::CallingWasm | CallHook::ReturningFromWasm => {}
        }
    }

    /// To be called by the store at each epoch.
    pub(crate) fn check(&self) -> Result<(), Overrun> {
        let mut state = self.lock();
        // Host calls that return at once never leave a poll waiting.
        if state.waited > state.budget.waiting {
            return Err(Overrun::Waiting(state.budget.waiting));
        }
        let limit = state.budget.computing;
        let Some(computed) = state.computed else {
            // The first epoch of this call: it has computed for one at most.
            state.computed = Some(EPOCH.min(limit));
            state.enter_guest();
            return Ok(());
        };
        let running = state.guest_since.map_or(Duration::ZERO, |since| thread_time() - since);
        if computed + running > limit { Err(Overrun::Computing(limit)) } else { Ok(()) }
    }

    /// Awaits a call under a budget.
    ///
    /// On [`Overrun::Waiting`] the call is dropped half-way, and its instance
    /// can't be entered again. Whether it overran its computing, the epoch
    /// hook has decided meanwhile: the call ends with that error.
    pub(crate) async fn run<F: Future>(
        &self,
        budget: Budget,
        call: F,
    ) -> Result<F::Output, Overrun> {
        *self.lock() = State::new(budget);
        let mut call = pin!(call);
        let mut timer: Option<Pin<Box<Sleep>>> = None;
        std::future::poll_fn(move |context| {
            self.lock().enter_guest();
            let polled = call.as_mut().poll(context);
            self.lock().leave_guest();
            if let Poll::Ready(output) = polled {
                return Poll::Ready(Ok(output));
            }
            let Some(left) = self.lock().waiting_left() else { return Poll::Pending };
            if left.is_zero() {
                return Poll::Ready(Err(Overrun::Waiting(budget.waiting)));
            }
            let timer = timer.get_or_insert_with(|| Box::pin(tokio::time::sleep(left)));
            timer.as_mut().reset(tokio::time::Instant::now() + left);
            // Wakes this task when nothing is left; rounded up, so never ready.
            timer.as_mut().poll(context).map(|()| Err(Overrun::Waiting(budget.waiting)))
        })
        .await
    }

    /// How long the last call waited in host calls.
    pub(crate) fn waited(&self) -> Duration {
        self.lock().waited
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn new(budget: Budget) -> Self {
        let waited = Duration::ZERO;
        Self { budget, computed: None, waited, guest_since: None, host_since: None }
    }

    fn enter_guest(&mut self) {
        if self.host_since.is_none() && self.computed.is_some() {
            self.guest_since = Some(thread_time());
        }
    }

    fn leave_guest(&mut self) {
        if let (Some(since), Some(computed)) = (self.guest_since.take(), &mut self.computed) {
            *computed += thread_time().saturating_sub(since);
        }
    }

    /// What is left to wait, while a host call lasts.
    fn waiting_left(&self) -> Option<Duration> {
        let since = self.host_since?;
        Some(self.budget.waiting.saturating_sub(self.waited + since.elapsed()))
    }
}

/// The processor time that this thread has used.
fn thread_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(u64::try_from(time.tv_sec).unwrap_or(0), u32::try_from(time.tv_nsec).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn budget(waiting: Duration) -> Budget {
        Budget { computing: Duration::MAX, waiting }
    }

    #[tokio::test]
    async fn a_host_call_that_never_returns_is_stopped_at_the_limit() {
        let meter = Meter::new();
        let hooked = meter.clone();
        let call = async {
            hooked.hook(CallHook::CallingHost);
            std::future::pending::<()>().await;
        };
        let limit = Duration::from_millis(20);
        assert_eq!(meter.run(budget(limit), call).await, Err(Overrun::Waiting(limit)));
    }

    #[tokio::test]
    async fn time_in_the_host_is_no_computing() {
        let meter = Meter::new();
        let hooked = meter.clone();
        let call = async {
            hooked.hook(CallHook::CallingHost);
            tokio::time::sleep(Duration::from_millis(20)).await;
            hooked.hook(CallHook::ReturningFromHost);
            7
        };
        assert_eq!(meter.run(budget(Duration::from_secs(60)), call).await, Ok(7));
        let state = meter.lock();
        assert!(state.waited >= Duration::from_millis(20), "{state:?}");
        assert_eq!(state.computed, None, "{state:?}");
    }

    #[tokio::test]
    async fn computing_over_the_budget_shows_at_the_next_epoch() {
        let meter = Meter::new();
        let seen = meter.clone();
        let limit = EPOCH + Duration::from_millis(1);
        let call = async {
            assert_eq!(seen.check(), Ok(()), "the first epoch");
            assert_eq!(seen.check(), Ok(()), "the second, a moment later");
            let start = thread_time();
            while thread_time() - start <= limit {
                std::hint::spin_loop();
            }
            seen.check()
        };
        let budget = Budget { computing: limit, waiting: Duration::MAX };
        assert_eq!(meter.run(budget, call).await, Ok(Err(Overrun::Computing(limit))));
    }
}
