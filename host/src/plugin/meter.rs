//! What a call costs: computing and waiting, counted apart.
//!
//! Computing is processor time of the thread while guest code runs, so that a
//! busy machine does not make an honest plugin look slow. Reading that clock is
//! a system call, so it is read only in calls that are still computing when the
//! first epoch comes. Waiting is the time inside host calls, while they are
//! being polled and while they are not.

use std::fmt;
use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Wake, Waker};
use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};
use tokio::time::Sleep;
use wasmtime::CallHook;

use super::epoch::EPOCH;

/// A host call that could wait on gives up so long before its guest would be
/// stopped, so that the guest hears of it …
const NOTICE_MAX: Duration = Duration::from_millis(100);
/// … but keeps most of a short time.
const NOTICE_PART: u32 = 10;

/// How long one call may compute and wait.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Budget {
    /// Processor time in the guest.
    pub(crate) computing: Duration,
    /// Time inside host calls.
    pub(crate) waiting: Duration,
    /// Whose budget it is.
    pub(crate) call: Call,
}

/// What an instance is called for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Call {
    Start,
    Configure,
    Ask,
    Version,
    Save,
    Restore,
}

/// What bounds its computing, for whoever reads that it was too much.
impl fmt::Display for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Start => " as it was started (limit `configure_ms`)",
            Self::Configure => " in `configure` (limit `configure_ms`)",
            Self::Ask => " (limit `collect_ms`)",
            Self::Version => " in `version`, which no setting prolongs",
            Self::Save => " in `save`, which no setting prolongs",
            Self::Restore => " in `restore`, which no setting prolongs",
        })
    }
}

/// A call used up one of its budgets, and was stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Overrun {
    #[error("it computed for more than {} ms{call}", limit.as_millis())]
    Computing { limit: Duration, call: Call },
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
        let none = Duration::ZERO;
        let budget = Budget { computing: none, waiting: none, call: Call::Start };
        Self(Arc::new(Mutex::new(State::new(budget))))
    }

    /// To be called by the store whenever the guest is left or entered.
    pub(crate) fn hook(&self, hook: CallHook) {
        match hook {
            CallHook::CallingHost => {
                let mut state = self.lock();
                state.leave_guest();
                // A host call that hands over a list enters the guest for its
                // memory, and from there the host once more: what was waited
                // until then counts.
                let now = Instant::now();
                if let Some(since) = state.host_since.replace(now) {
                    state.waited += now - since;
                }
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
        // For the store an epoch is a host call too. What follows is a wait for
        // the guest's turn, which is no fault of the guest's.
        state.host_since = None;
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
        if computed + running > limit {
            return Err(Overrun::Computing { limit, call: state.budget.call });
        }
        Ok(())
    }

    /// How long a host call that begins now should wait at most.
    pub(crate) fn patience(&self) -> Duration {
        let left = self.lock().waiting_left_now();
        left - (left / NOTICE_PART).min(NOTICE_MAX)
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
        let mut alarm = Arc::new(Alarm::of(Waker::noop()));
        std::future::poll_fn(move |context| {
            if let Some(rung) = alarm.take() {
                self.lock().excuse(rung.elapsed());
            }
            if !alarm.task.will_wake(context.waker()) {
                alarm = Arc::new(Alarm::of(context.waker()));
            }
            self.lock().enter_guest();
            let waker = Waker::from(alarm.clone());
            let polled = call.as_mut().poll(&mut Context::from_waker(&waker));
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

/// Wakes a call's task, and knows when: what passes until the task has its turn
/// is the machine's doing, not the host call's.
struct Alarm {
    task: Waker,
    rung: Mutex<Option<Instant>>,
}

impl Alarm {
    fn of(task: &Waker) -> Self {
        Self { task: task.clone(), rung: Mutex::new(None) }
    }

    fn take(&self) -> Option<Instant> {
        self.rung.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

impl Wake for Alarm {
    fn wake(self: Arc<Self>) {
        self.rung.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert_with(Instant::now);
        self.task.wake_by_ref();
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

    /// Takes time off the wait that lasts.
    fn excuse(&mut self, time: Duration) {
        if let Some(since) = &mut self.host_since {
            *since = (*since + time).min(Instant::now());
        }
    }

    /// What is left to wait, while a host call lasts.
    fn waiting_left(&self) -> Option<Duration> {
        self.host_since.map(|_| self.waiting_left_now())
    }

    fn waiting_left_now(&self) -> Duration {
        let waiting = self.host_since.map_or(Duration::ZERO, |since| since.elapsed());
        self.budget.waiting.saturating_sub(self.waited + waiting)
    }
}

/// The processor time that this thread has used.
pub(super) fn thread_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(u64::try_from(time.tv_sec).unwrap_or(0), u32::try_from(time.tv_nsec).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn budget(waiting: Duration) -> Budget {
        Budget { computing: Duration::MAX, waiting, call: Call::Ask }
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
    async fn a_host_call_is_told_to_give_up_before_its_guest_is_stopped() {
        let meter = Meter::new();
        for (waiting_ms, at_least_ms, at_most_ms) in [(5000, 4800, 4900), (10, 7, 9)] {
            let call = async { meter.patience() };
            let budget = budget(Duration::from_millis(waiting_ms));
            let patience = meter.run(budget, call).await.unwrap();
            let range = Duration::from_millis(at_least_ms)..=Duration::from_millis(at_most_ms);
            assert!(range.contains(&patience), "{patience:?} of {waiting_ms} ms");
        }
        let hooked = meter.clone();
        let call = async {
            hooked.hook(CallHook::CallingHost);
            tokio::time::sleep(Duration::from_millis(20)).await;
            hooked.hook(CallHook::ReturningFromHost);
            hooked.patience()
        };
        let patience = meter.run(budget(Duration::from_secs(5)), call).await.unwrap();
        assert!(patience <= Duration::from_millis(4880), "what was waited is gone: {patience:?}");
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
    async fn the_time_until_a_guest_has_its_turn_again_is_no_waiting() {
        let meter = Meter::new();
        let hooked = meter.clone();
        let call = async {
            for _ in 0..2 {
                hooked.hook(CallHook::CallingHost);
                hooked.check().unwrap();
                tokio::time::sleep(Duration::from_millis(20)).await;
                hooked.hook(CallHook::ReturningFromHost);
            }
        };
        assert_eq!(meter.run(budget(Duration::from_millis(5)), call).await, Ok(()));
        assert_eq!(meter.waited(), Duration::ZERO);
    }

    #[tokio::test]
    async fn the_time_from_a_host_calls_end_to_its_tasks_turn_is_no_waiting() {
        let meter = Meter::new();
        let hooked = meter.clone();
        let (done, ended) = tokio::sync::oneshot::channel();
        let call = async {
            hooked.hook(CallHook::CallingHost);
            ended.await.unwrap();
            hooked.hook(CallHook::ReturningFromHost);
        };
        let busy = async {
            done.send(()).unwrap();
            let begun = Instant::now();
            while begun.elapsed() < Duration::from_millis(50) {
                std::hint::spin_loop();
            }
        };
        let (called, ()) = tokio::join!(meter.run(budget(Duration::from_secs(5)), call), busy);
        assert_eq!(called, Ok(()));
        assert!(meter.waited() < Duration::from_millis(50), "{:?}", meter.waited());
    }

    #[tokio::test]
    async fn a_host_call_that_enters_the_guest_for_memory_has_waited_all_the_same() {
        let meter = Meter::new();
        let hooked = meter.clone();
        let call = async {
            hooked.hook(CallHook::CallingHost);
            tokio::time::sleep(Duration::from_millis(20)).await;
            hooked.hook(CallHook::CallingHost);
            hooked.check().unwrap();
            hooked.hook(CallHook::ReturningFromHost);
            hooked.hook(CallHook::ReturningFromHost);
        };
        assert_eq!(meter.run(budget(Duration::from_secs(5)), call).await, Ok(()));
        assert!(meter.waited() >= Duration::from_millis(20), "{:?}", meter.waited());
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
        let budget = Budget { computing: limit, waiting: Duration::MAX, call: Call::Save };
        let overrun = Overrun::Computing { limit, call: Call::Save };
        assert_eq!(meter.run(budget, call).await, Ok(Err(overrun)));
    }
}
