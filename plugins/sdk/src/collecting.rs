//! Collectors, and an instance of one.

use serde::de::DeserializeOwned;

pub use crate::bindings::collect::exports::telltale::plugin::collect::{Batch, Declaration};
use crate::{Fault, Metrics, Tick, config};

/// A plugin that is asked for measurements on every tick.
pub trait Collector: Default {
    /// The `[config]` table of its settings. Derive `Deserialize` with
    /// `#[serde(default, deny_unknown_fields)]`, so that a key that is missing
    /// has its default and one that is misspelt is told; or take
    /// [`NoConfig`](crate::NoConfig).
    type Config: DeserializeOwned;

    /// Called before the first tick, and again when the table has changed. The
    /// default ignores it.
    ///
    /// # Errors
    ///
    /// [`Fault::config`] with what is wrong and what would mend it.
    fn configure(&mut self, config: Self::Config) -> Result<(), Fault> {
        let _ = config;
        Ok(())
    }

    /// Called at each tick that is due: put what there is to measure now into
    /// `metrics`.
    ///
    /// # Errors
    ///
    /// Why there is nothing at this tick. What was set in it is dropped; what
    /// was declared is told with the next batch.
    fn collect(&mut self, tick: Tick, metrics: &mut Metrics) -> Result<(), Fault>;
}

/// A collector as the hub has it: what `export_collector!` exports, and what a
/// test drives.
#[derive(Debug, Default)]
pub struct Collecting<P> {
    /// The plugin.
    pub plugin: P,
    /// What it has measured; after a tick, what it was told at that tick.
    pub metrics: Metrics,
}

impl<P: Collector> Collecting<P> {
    /// Hands over the `[config]` table as JSON.
    ///
    /// # Errors
    ///
    /// The table is not what the plugin takes.
    pub fn configure(&mut self, config_json: &str) -> Result<(), Fault> {
        self.plugin.configure(config::parse(config_json)?)
    }

    /// Asks for the batch of a tick.
    ///
    /// # Errors
    ///
    /// The plugin's own.
    pub fn collect(&mut self, tick: Tick) -> Result<Batch, Fault> {
        self.metrics.begin();
        match self.plugin.collect(tick, &mut self.metrics) {
            Ok(()) => Ok(self.metrics.batch()),
            Err(fault) => {
                self.metrics.abandon();
                Err(fault)
            }
        }
    }
}
