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
use super::limits::{Limits, MIB};
use super::meter::{Budget, Call, Meter, Overrun};
use crate::model::Tick;

/// A live component. After a [`Failure`] that isn't a [`Failure::Fault`] it
/// can't be entered again, and is to be dropped.
pub(crate) struct Instance {
    store: Store<HostState>,
    guest: Guest,
    state: Option<state::Guest>,
    meter: Meter,
    ticker: Arc<EpochTicker>,
    limits: Limits,
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
        limits: Limits,
    ) -> Result<Self, Failure> {
        let failure = |error| failure(error, &copying(&limits));
        let meter = Meter::new();
        let host_state = surroundings.host_state(meter.clone()).map_err(Failure::Start)?;
        let mut store = new_store(&loadable.pre, host_state, &meter);
        store.set_hostcall_fuel(limits.copy_bytes);
        let ticker = loadable.ticker.clone();
        let budget = budget(&limits, Call::Start);
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
        Ok(Self { store, guest, state, meter, ticker, limits })
    }

    /// Hands over the settings.
    pub(crate) async fn configure(&mut self, config_json: &str) -> Result<(), Failure> {
        let Self { store, guest, meter, ticker, limits, .. } = self;
        let budget = budget(limits, Call::Configure);
        let answer = {
            let _running = ticker.enter();
            store.set_epoch_deadline(1);
            store.data_mut().publishing.begin_call();
            match guest {
                Guest::Collector(guest) => {
                    meter.run(budget, guest.call_configure(&mut *store, config_json)).await
                }
                Guest::Detector(guest) => {
                    meter.run(budget, guest.call_configure(&mut *store, config_json)).await
                }
            }
        };
        answer?.map_err(|error| failure(error, &copying(limits)))?.map_err(Failure::from)
    }

    /// Asks a collector for its batch.
    pub(crate) async fn collect(&mut self, tick: Tick) -> Result<collect::Batch, Failure> {
        let Self { store, guest: Guest::Collector(guest), meter, ticker, limits, .. } = self else {
            return Err(Failure::Start("it is no collector".to_owned()));
        };
        let tick = types::Tick { number: tick.number, time_ns: tick.time_ns };
        let _running = ticker.enter();
        store.set_epoch_deadline(1);
        store.data_mut().publishing.begin_call();
        let call = guest.call_collect(&mut *store, tick);
        let answer = meter.run(budget(limits, Call::Ask), call).await?;
        answer.map_err(|error| failure(error, &copying(limits)))?.map_err(Failure::from)
    }

    /// Shows a detector a tick.
    pub(crate) async fn observe(
        &mut self,
        observation: &detect::Observation,
    ) -> Result<detect::Verdict, Failure> {
        let Self { store, guest: Guest::Detector(guest), meter, ticker, limits, .. } = self else {
            return Err(Failure::Start("it is no detector".to_owned()));
        };
        let _running = ticker.enter();
        store.set_epoch_deadline(1);
        store.data_mut().publishing.begin_call();
        let mut budget = budget(limits, Call::Ask);
        // What it is told of it has not asked for, and a dynamic language takes
        // its time to hear of ten thousand series.
        let told = u32::try_from(observation.declare.len()).unwrap_or(u32::MAX);
        budget.computing += DECLARE_COMPUTING.saturating_mul(told);
        let answer = meter.run(budget, guest.call_observe(&mut *store, observation)).await?;
        answer.map_err(|error| failure(error, &copying(limits)))?.map_err(Failure::from)
    }

    /// What the instance knows, where it keeps any state.
    pub(crate) async fn save(&mut self) -> Result<Option<Saved>, Failure> {
        let Some(version) = self.state_version().await? else { return Ok(None) };
        let Self { store, state: Some(state), meter, ticker, limits, .. } = self else {
            return Ok(None);
        };
        let _running = ticker.enter();
        store.set_epoch_deadline(1);
        // A list of bytes costs one each, so that this is the limit to the byte.
        store.set_hostcall_fuel(limits.state_bytes);
        let call = state.call_save(&mut *store);
        let answer = meter.run(budget(limits, Call::Save), call).await?;
        store.set_hostcall_fuel(limits.copy_bytes);
        let too_large =
            format!("its state has more than {} MiB (limit `state_mib`)", limits.state_bytes / MIB);
        let bytes = answer.map_err(|error| failure(error, &too_large))?;
        Ok(Some(Saved { version, bytes: bytes.into() }))
    }

    /// Hands over what an earlier instance saved. False if this plugin keeps
    /// no state.
    pub(crate) async fn restore(&mut self, saved: &Saved) -> Result<bool, Failure> {
        let Self { store, state: Some(state), meter, ticker, limits, .. } = self else {
            return Ok(false);
        };
        let _running = ticker.enter();
        store.set_epoch_deadline(1);
        let call = state.call_restore(&mut *store, saved.version, &saved.bytes);
        let answer = meter.run(budget(limits, Call::Restore), call).await?;
        match answer.map_err(|error| failure(error, &copying(limits)))? {
            Ok(()) => Ok(true),
            Err(words) => Err(Failure::Start(format!(
                "it refused the state: {}",
                super::output::cut(&words, FAULT_BYTES_MAX)
            ))),
        }
    }

    /// The version of the state that this component writes, where it keeps any.
    pub(crate) async fn state_version(&mut self) -> Result<Option<u32>, Failure> {
        let Self { store, state: Some(state), meter, ticker, limits, .. } = self else {
            return Ok(None);
        };
        let _running = ticker.enter();
        store.set_epoch_deadline(1);
        let call = state.call_version(&mut *store);
        let answer = meter.run(budget(limits, Call::Version), call).await?;
        Ok(Some(answer.map_err(|error| failure(error, &copying(limits)))?))
    }

    /// What the instance's memories have together, in bytes.
    pub(crate) fn memory_bytes(&self) -> usize {
        self.store.data().limiter.memory_bytes()
    }

    /// How long the last call waited in host calls.
    pub(crate) fn waited(&self) -> Duration {
        self.meter.waited()
    }
}

/// Computing in `observe` beside the limit, for each series that the detector is
/// told of: what JavaScript needs three times over.
const DECLARE_COMPUTING: Duration = Duration::from_micros(50);

/// Computing in `version`, `save` and `restore`, for up to 256 MiB.
const STATE_COMPUTING: Duration = Duration::from_secs(1);

fn budget(limits: &Limits, call: Call) -> Budget {
    let computing = match call {
        Call::Start | Call::Configure => limits.configure,
        Call::Ask => limits.collect,
        Call::Version | Call::Save | Call::Restore => STATE_COMPUTING,
    };
    Budget { computing, waiting: limits.io, call }
}

/// What is said of an instance that has the hub copy too much.
fn copying(limits: &Limits) -> String {
    let copy_mib = limits.copy_bytes / MIB;
    format!("it handed over more than {copy_mib} MiB at once (limit `copy_mib`)")
}

fn new_store(
    pre: &InstancePre<HostState>,
    host_state: HostState,
    meter: &Meter,
) -> Store<HostState> {
    let mut store = Store::new(pre.engine(), host_state);
    store.limiter(|state| &mut state.limiter);
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

/// What went wrong in wasmtime, in words that a plugin's author understands:
/// `copying` if it was that more was to be copied than may be.
fn failure(error: wasmtime::Error, copying: &str) -> Failure {
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
        return Failure::Trap(copying.to_owned());
    }
    Failure::Trap(words)
}
