//! Detectors, an instance of one, and what outlives an instance.

use serde::de::DeserializeOwned;

pub use crate::bindings::detect::exports::telltale::plugin::detect::{
    Finding, FindingType, Observation, Verdict, Watched,
};
use crate::{Collecting, Collector, Fault, config};

/// A plugin that is shown every tick's values and says what is odd.
pub trait Detector: Default {
    /// The `[config]` table of its settings; see
    /// [`Collector::Config`](Collector::Config).
    type Config: DeserializeOwned;

    /// Called before the first observation, and again when the table has
    /// changed: forget nothing that was learned. The default ignores it.
    ///
    /// # Errors
    ///
    /// [`Fault::config`] with what is wrong and what would mend it.
    fn configure(&mut self, config: Self::Config) -> Result<(), Fault> {
        let _ = config;
        Ok(())
    }

    /// Called at each tick. `scores` of the verdict is empty, or has one for
    /// each of the observation's values, in their order. Of too many findings
    /// the hub keeps the strongest.
    ///
    /// # Errors
    ///
    /// Why there is no verdict.
    fn observe(&mut self, observation: &Observation, verdict: &mut Verdict) -> Result<(), Fault>;
}

/// The score of something whose height has no end: 0 at 0, 0.5 at 1, which is
/// the detector's own threshold, and ever nearer to 1 beyond. A height that is
/// negative or no number is 0.
pub fn score_of(height: f64) -> f64 {
    // `max` also turns a NaN into 0.
    // Not `clamp`, which would leave what is not a number as it is.
    let height = if height > 0.0 { height.min(f64::MAX / 2.0) } else { 0.0 };
    height / (1.0 + height)
}

/// What a plugin keeps when it is replaced by a newer version of itself, or when
/// the hub is started again.
pub trait State {
    /// The version of the format that [`save`](Self::save) writes.
    const VERSION: u32;

    /// All that is worth keeping: at most 4 MiB, a detector's 64 MiB.
    fn save(&self) -> Vec<u8>;

    /// Takes over what was saved, after `configure` and before the first tick.
    /// Bytes may be damaged, and of an older or a newer version: to start
    /// afresh from those that aren't understood, ignore them.
    ///
    /// # Errors
    ///
    /// Refuses the replacement: the instance that is running goes on.
    fn restore(&mut self, from_version: u32, bytes: &[u8]) -> Result<(), String>;
}

/// A detector as the hub has it: what `export_detector!` exports, and what a
/// test drives.
#[derive(Debug, Default)]
pub struct Detecting<P> {
    /// The plugin.
    pub plugin: P,
}

impl<P: Detector> Detecting<P> {
    /// Hands over the `[config]` table as JSON.
    ///
    /// # Errors
    ///
    /// The table is not what the plugin takes.
    pub fn configure(&mut self, config_json: &str) -> Result<(), Fault> {
        self.plugin.configure(config::parse(config_json)?)
    }

    /// Shows the values of a tick.
    ///
    /// # Errors
    ///
    /// The plugin's own.
    pub fn observe(&mut self, observation: &Observation) -> Result<Verdict, Fault> {
        let mut verdict = Verdict { scores: Vec::new(), findings: Vec::new() };
        self.plugin.observe(observation, &mut verdict)?;
        Ok(verdict)
    }
}

impl<P: Detector + State> Detecting<P> {
    /// Hands what `self` knows to `next`, as at a reload.
    ///
    /// # Errors
    ///
    /// The newer one refuses it.
    pub fn hand_over<N: Detector + State>(&self, next: &mut Detecting<N>) -> Result<(), String> {
        next.plugin.restore(P::VERSION, &self.plugin.save())
    }
}

impl<P: Collector + State> Collecting<P> {
    /// Hands what `self` knows to `next`, as at a reload.
    ///
    /// # Errors
    ///
    /// The newer one refuses it.
    pub fn hand_over<N: Collector + State>(&self, next: &mut Collecting<N>) -> Result<(), String> {
        next.plugin.restore(P::VERSION, &self.plugin.save())
    }
}

impl Finding {
    /// A finding with a score from 0 to 1, of which nothing else is told.
    pub fn new(series: u32, type_: FindingType, score: f64) -> Self {
        let (deviation, expected, lower, upper, note) = (None, None, None, None, None);
        Self { series, type_, score, deviation, expected, lower, upper, note }
    }
}

/// For tests: what is shown of these series and values at a tick.
#[cfg(not(target_arch = "wasm32"))]
impl Observation {
    /// All of `values` by rising id; those of `declare` are new.
    pub fn of(tick: u64, declare: &[u32], values: &[(u32, f64)]) -> Self {
        use crate::{Kind, Series, Tick};
        let watched = |id: &u32| Watched {
            id: *id,
            plugin: "test".to_owned(),
            series: Series {
                name: format!("test.series{id}"),
                kind: Kind::Gauge,
                unit: "1".to_owned(),
                description: String::new(),
                labels: Vec::new(),
            },
            interval_ns: 1_000_000_000,
        };
        Self {
            tick: Tick { number: tick, time_ns: tick * 1_000_000_000 },
            declare: declare.iter().map(watched).collect(),
            ids: values.iter().map(|(id, _)| *id).collect(),
            values: values.iter().map(|(_, value)| *value).collect(),
            missed: Vec::new(),
            gone: Vec::new(),
        }
    }
}
