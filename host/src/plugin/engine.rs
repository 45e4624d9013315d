//! From a component's bytes to something that can be instantiated.

use std::sync::Arc;
use std::time::{Duration, Instant};

use wasmtime::component::{Component, InstancePre, Linker};
use wasmtime::{Config, Engine as WasmEngine};

use super::bindings::VERSIONS;
use super::bindings::exports::telltale::plugin::{collect, detect, state};
use super::compile_cache::CompileCache;
use super::epoch::EpochTicker;
use super::imports::{self, HostState};
use super::interface::Interface;
use super::status::PluginRole;

/// The largest component: what a Python plugin needs three times over.
pub(crate) const COMPONENT_BYTES_MAX: u64 = 64 * 1024 * 1024;

/// Compiles components and links what they import.
pub(crate) struct Engine {
    wasm: WasmEngine,
    linker: Linker<HostState>,
    ticker: Arc<EpochTicker>,
    cache: CompileCache,
}

/// A component that is compiled and linked: starting it takes microseconds.
pub(crate) struct Loadable {
    pub(super) pre: InstancePre<HostState>,
    pub(super) exports: Exports,
    /// What it says of itself.
    pub(super) interface: Interface,
    pub(super) ticker: Arc<EpochTicker>,
    /// The hash of the component's bytes.
    pub(super) hash: blake3::Hash,
    /// How long it took to get here, and whether from the cache.
    pub(super) compile: Compile,
}

impl Loadable {
    /// What sort of plugin it is.
    pub(crate) fn role(&self) -> PluginRole {
        match self.exports.role {
            Role::Collector(_) => PluginRole::Collector,
            Role::Detector(_) => PluginRole::Detector,
        }
    }
}

/// How a component was compiled.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Compile {
    /// How long it took.
    pub(super) took: Duration,
    /// It was in the cache.
    pub(super) cached: bool,
}

/// Where a component's exports are.
pub(crate) struct Exports {
    pub(super) role: Role,
    pub(super) state: Option<state::GuestIndices>,
}

/// What sort of plugin it is.
pub(crate) enum Role {
    Collector(collect::GuestIndices),
    Detector(detect::GuestIndices),
}

/// Why a component can't be loaded.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum LoadError {
    /// The file could not be read, or is too large.
    #[error("{0}")]
    File(String),
    /// It isn't a component.
    #[error("it is no component: {0}")]
    NotAComponent(String),
    /// It speaks another version of the interface.
    #[error(
        "it is built for telltale:plugin@{built_for}, and this hub speaks {speaks}: build it \
         again with `telltale plugin build` of this hub, or update the hub",
        speaks = VERSIONS.join(", ")
    )]
    Version { built_for: String },
    /// It exports neither `collect` nor `detect`, or both.
    #[error(
        "it exports {0} of telltale:plugin: a collector exports `collect`, a detector `detect`"
    )]
    Role(&'static str),
    /// It imports what this hub doesn't have.
    #[error("it can't be linked: {0}")]
    Link(String),
}

impl Engine {
    /// An engine that keeps compiled code in `cache`.
    ///
    /// # Errors
    ///
    /// The machine can't run compiled code, or gives no thread.
    pub(crate) fn new(cache: CompileCache) -> Result<Self, String> {
        let mut config = Config::new();
        config
            .epoch_interruption(true)
            .wasm_component_model(true)
            // Plugins export plain functions only; without the machinery of
            // component-model async each call is a third cheaper.
            .concurrency_support(false);
        let wasm = WasmEngine::new(&config).map_err(|error| format!("{error:#}"))?;
        let mut linker = Linker::new(&wasm);
        imports::link(&mut linker).map_err(|error| format!("{error:#}"))?;
        let ticker = EpochTicker::start(&wasm).map_err(|error| error.to_string())?;
        Ok(Self { wasm, linker, ticker: Arc::new(ticker), cache })
    }

    /// Takes a component from the cache, if it is there: a matter of a
    /// millisecond.
    ///
    /// # Errors
    ///
    /// As [`Engine::compile`].
    pub(crate) fn cached(
        &self,
        bytes: &[u8],
        hash: blake3::Hash,
    ) -> Result<Option<Loadable>, LoadError> {
        let started = Instant::now();
        let Some(component) = self.cache.get(&self.wasm, &hash) else { return Ok(None) };
        let interface = Interface::read(bytes)?;
        let compile = Compile { took: started.elapsed(), cached: true };
        self.link(&component, interface, hash, compile).map(Some)
    }

    /// Compiles a component, once what it says of itself is in order. Takes
    /// seconds and all processors for a large one: not for a thread that has
    /// anything else to do.
    ///
    /// # Errors
    ///
    /// [`LoadError`], in words for the plugin's author.
    pub(crate) fn compile(&self, bytes: &[u8], hash: blake3::Hash) -> Result<Loadable, LoadError> {
        let interface = Interface::read(bytes)?;
        let started = Instant::now();
        let component = Component::new(&self.wasm, bytes)
            .map_err(|error| LoadError::NotAComponent(format!("{error:#}")))?;
        let compile = Compile { took: started.elapsed(), cached: false };
        self.cache.put(&self.wasm, &hash, &component);
        self.link(&component, interface, hash, compile)
    }

    fn link(
        &self,
        component: &Component,
        interface: Interface,
        hash: blake3::Hash,
        compile: Compile,
    ) -> Result<Loadable, LoadError> {
        let pre = self
            .linker
            .instantiate_pre(component)
            .map_err(|error| LoadError::Link(format!("{error:#}")))?;
        let exports = exports(&pre)?;
        Ok(Loadable { pre, exports, interface, ticker: self.ticker.clone(), hash, compile })
    }
}

fn exports(pre: &InstancePre<HostState>) -> Result<Exports, LoadError> {
    let collect = collect::GuestIndices::new(pre).ok();
    let detect = detect::GuestIndices::new(pre).ok();
    let role = match (collect, detect) {
        (Some(indices), None) => Role::Collector(indices),
        (None, Some(indices)) => Role::Detector(indices),
        (None, None) => return Err(LoadError::Role("neither `collect` nor `detect`")),
        (Some(_), Some(_)) => return Err(LoadError::Role("both `collect` and `detect`")),
    };
    Ok(Exports { role, state: state::GuestIndices::new(pre).ok() })
}
