//! One instance of a component: its store, and calls to its exports, each
//! under a budget.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use wasmtime::component::InstancePre;
use wasmtime::{Store, UpdateDeadline};

use super::bindings::exports::telltale::plugin::{collect, detect, state};
use super::bindings::telltale::plugin::types;
use super::engine::{Exports, Loadable, Role};
use super::epoch::EpochTicker;
use super::imports::{HostState, Surroundings};
use super::limiter::LimitMet;
use super::meter::{Budget, Meter, Overrun};
use crate::model::Tick;

/// How much a guest can make the host copy in one transfer.
const HOSTCALL_BYTES_MAX: usize = 4 * 1024 * 1024;

/// A live component. After a [`Failure`] that isn't a [`Failure::Fault`] it
/// can't be entered again, and is to be dropped.
pub(crate) struct Instance {
    store: Store<HostState>,
    guest: Guest,
    state: Option<state::Guest>,
    meter: Meter,
    ticker: Arc<EpochTicker>,
    waiting: Duration,
}

enum Guest {
    Collector(collect::Guest),
    Detector(detect::Guest),
}

/// Why a call brought nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Failure {
    /// The plugin said so itself.
    #[error("{0}")]
    Fault(Fault),
    /// It trapped: a panic, a stack overflow, an access out of bounds.
    #[error("{0}")]
    Trap(String),
    /// It used up its computing or waiting.
    #[error(transparent)]
    Overrun(#[from] Overrun),
    /// It can't be started at all.
    #[error("{0}")]
    Start(String),
}

/// A plugin's own word.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Fault {
    #[error("{0}")]
    Retry(String),
    #[error("{0}")]
    Config(String),
    #[error("{0}")]
    Fatal(String),
}

/// The longest text of a fault that is passed on.
const FAULT_BYTES_MAX: usize = 1024;

impl From<types::Fault> for Failure {
    fn from(fault: types::Fault) -> Self {
        let cut = |words: String| super::output::cut(&words, FAULT_BYTES_MAX).to_owned();
        Self::Fault(match fault {
            types::Fault::Retry(words) => Fault::Retry(cut(words)),
            types::Fault::Config(words) => Fault::Config(cut(words)),
            types::Fault::Fatal(words) => Fault::Fatal(cut(words)),
        })
    }
}

/// What an instance saved of what it knows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Saved {
    /// The version of the format, by the plugin's own counting.
    pub(crate) version: u32,
    /// The plugin's bytes.
    pub(crate) bytes: Bytes,
}

impl Instance {
    /// Starts an instance of `loadable`.
    ///
    /// # Errors
    ///
    /// [`Failure::Start`] if a grant can't be given; otherwise as any call.
    pub(crate) async fn start(
        loadable: &Loadable,
        surroundings: &Surroundings,
        waiting: Duration,
    ) -> Result<Self, Failure> {
        let host_state = surroundings.host_state().map_err(Failure::Start)?;
        let meter = Meter::new();
        let mut store = new_store(&loadable.pre, host_state, &meter);
        let ticker = loadable.ticker.clone();
        let budget = Budget { computing: CONFIGURE_COMPUTING, waiting };
        let instance = {
            let _running = ticker.enter();
            meter.run(budget, loadable.pre.instantiate_async(&mut store)).await?.map_err(failure)?
        };
        let Exports { role, state } = &loadable.exports;
        let guest = match role {
            Role::Collector(indices) => indices.load(&mut store, &instance).map(Guest::Collector),
            Role::Detector(indices) => indices.load(&mut store, &instance).map(Guest::Detector),
        };
        let guest = guest.map_err(failure)?;
        let state = match state {
            Some(indices) => Some(indices.load(&mut store, &instance).map_err(failure)?),
            None => None,
        };
        Ok(Self { store, guest, state, meter, ticker, waiting })
    }

    /// Hands over the settings.
    pub(crate) async fn configure(&mut self, config_json: &str) -> Result<(), Failure> {
        let budget = self.budget(CONFIGURE_COMPUTING);
        let Self { store, guest, meter, ticker, .. } = self;
        let answer = {
            let _running = ticker.enter();
            store.set_epoch_deadline(1);
            match guest {
                Guest::Collector(guest) => {
                    meter.run(budget, guest.call_configure(&mut *store, config_json)).await
                }
                Guest::Detector(guest) => {
                    meter.run(budget, guest.call_configure(&mut *store, config_json)).await
                }
            }
        };
        answer?.map_err(failure)?.map_err(Failure::from)
    }

    /// Asks a collector for its batch.
    pub(crate) async fn collect(
        &mut self,
        tick: Tick,
        computing: Duration,
    ) -> Result<collect::Batch, Failure> {
        let budget = self.budget(computing);
        let Self { store, guest: Guest::Collector(guest), meter, ticker, .. } = self else {
            return Err(Failure::Start("it is no collector".to_owned()));
        };
        let tick = types::Tick { number: tick.number, time_ns: tick.time_ns };
        let _running = ticker.enter();
        store.set_epoch_deadline(1);
        let answer = meter.run(budget, guest.call_collect(&mut *store, tick)).await?;
        answer.map_err(failure)?.map_err(Failure::from)
    }

    /// Shows a detector a tick.
    pub(crate) async fn observe(
        &mut self,
        observation: &detect::Observation,
        computing: Duration,
    ) -> Result<detect::Verdict, Failure> {
        let budget = self.budget(computing);
        let Self { store, guest: Guest::Detector(guest), meter, ticker, .. } = self else {
            return Err(Failure::Start("it is no detector".to_owned()));
        };
        let _running = ticker.enter();
        store.set_epoch_deadline(1);
        let answer = meter.run(budget, guest.call_observe(&mut *store, observation)).await?;
        answer.map_err(failure)?.map_err(Failure::from)
    }

    /// What the instance knows, where it keeps any state. More than
    /// `bytes_max` is refused.
    pub(crate) async fn save(&mut self, bytes_max: usize) -> Result<Option<Saved>, Failure> {
        let budget = self.budget(STATE_COMPUTING);
        let Self { store, state: Some(state), meter, ticker, .. } = self else { return Ok(None) };
        let _running = ticker.enter();
        store.set_epoch_deadline(1);
        let version = meter.run(budget, state.call_version(&mut *store)).await?.map_err(failure)?;
        store.set_hostcall_fuel(bytes_max.max(HOSTCALL_BYTES_MAX));
        let bytes = meter.run(budget, state.call_save(&mut *store)).await?.map_err(failure)?;
        store.set_hostcall_fuel(HOSTCALL_BYTES_MAX);
        if bytes.len() > bytes_max {
            return Err(Failure::Trap(format!(
                "its state has {} bytes, and {bytes_max} is the limit",
                bytes.len()
            )));
        }
        Ok(Some(Saved { version, bytes: bytes.into() }))
    }

    /// Hands over what an earlier instance saved. False if this plugin keeps
    /// no state.
    pub(crate) async fn restore(&mut self, saved: &Saved) -> Result<bool, Failure> {
        let budget = self.budget(STATE_COMPUTING);
        let Self { store, state: Some(state), meter, ticker, .. } = self else { return Ok(false) };
        let _running = ticker.enter();
        store.set_epoch_deadline(1);
        let call = state.call_restore(&mut *store, saved.version, &saved.bytes);
        match meter.run(budget, call).await?.map_err(failure)? {
            Ok(()) => Ok(true),
            Err(words) => Err(Failure::Start(format!(
                "it refused the state: {}",
                super::output::cut(&words, FAULT_BYTES_MAX)
            ))),
        }
    }

    /// The version of the state that this component writes, where it keeps any.
    pub(crate) async fn state_version(&mut self) -> Result<Option<u32>, Failure> {
        let budget = self.budget(STATE_COMPUTING);
        let Self { store, state: Some(state), meter, ticker, .. } = self else { return Ok(None) };
        let _running = ticker.enter();
        store.set_epoch_deadline(1);
        let version = meter.run(budget, state.call_version(&mut *store)).await?.map_err(failure)?;
        Ok(Some(version))
    }

    /// What the instance's memories have together, in bytes.
    pub(crate) fn memory_bytes(&self) -> usize {
        self.store.data().limiter.memory_bytes()
    }

    /// How long the last call waited in host calls.
    pub(crate) fn waited(&self) -> Duration {
        self.meter.waited()
    }

    fn budget(&self, computing: Duration) -> Budget {
        Budget { computing, waiting: self.waiting }
    }
}

/// Computing in `configure`, and in the start before it: a language runtime
/// may have to wake up there.
const CONFIGURE_COMPUTING: Duration = Duration::from_secs(5);
/// Computing in `save` and `restore`, for up to 64 MiB.
const STATE_COMPUTING: Duration = Duration::from_secs(1);

fn new_store(
    pre: &InstancePre<HostState>,
    host_state: HostState,
    meter: &Meter,
) -> Store<HostState> {
    let mut store = Store::new(pre.engine(), host_state);
    store.limiter(|state| &mut state.limiter);
    store.set_hostcall_fuel(HOSTCALL_BYTES_MAX);
    store.set_epoch_deadline(1);
    let at_epoch = meter.clone();
    store.epoch_deadline_callback(move |_| {
        at_epoch.check()?;
        Ok(UpdateDeadline::Yield(1))
    });
    let at_wall = meter.clone();
    store.call_hook(move |_, hook| {
        at_wall.hook(hook);
        Ok(())
    });
    store
}

/// What went wrong in wasmtime, in words that a plugin's author understands.
fn failure(error: wasmtime::Error) -> Failure {
    if let Some(overrun) = error.downcast_ref::<Overrun>() {
        return Failure::Overrun(*overrun);
    }
    if let Some(limit) = error.downcast_ref::<LimitMet>() {
        return Failure::Trap(limit.to_string());
    }
    if let Some(trap) = error.downcast_ref::<wasmtime::Trap>() {
        return Failure::Trap(match trap {
            wasmtime::Trap::UnreachableCodeReached => {
                "it panicked (what it wrote to standard error is in the log)".to_owned()
            }
            wasmtime::Trap::StackOverflow => "its stack overflowed".to_owned(),
            other => other.to_string(),
        });
    }
    let words = format!("{error:#}");
    if words.contains("hostcalls has been exhausted") {
        return Failure::Trap(format!(
            "it handed over more than {} MiB at once",
            HOSTCALL_BYTES_MAX / (1024 * 1024)
        ));
    }
    Failure::Trap(words)
}
