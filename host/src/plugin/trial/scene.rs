//! What a plugin is asked and shown in a trial: ticks, series, snapshots.

use std::sync::Arc;

use tokio::sync::mpsc;

use super::TICK;
use crate::model::{
    Answer, Batch, Dictionary, Kind, Labels, Mint, PluginName, Series, SeriesId, SeriesKey,
    SeriesSpec, Tick,
};
use crate::snapshot::{Freezer, Snapshot};

/// When a trial begins, by the clock that the plugin is shown: any time would
/// do, but the same one makes the same trial.
const BEGINNING_NS: u64 = 1_767_225_600_000_000_000;

/// A tick of a trial, a second after the one before.
pub(super) fn tick(number: u64) -> Tick {
    let since_ns = u64::try_from(TICK.as_nanos()).unwrap_or(u64::MAX).saturating_mul(number);
    Tick { number, time_ns: BEGINNING_NS + since_ns }
}

/// A dictionary that gives numbers from memory. Needs a tokio runtime, and
/// ends with its last user.
pub(super) fn dictionary() -> Arc<Dictionary> {
    let (mint, mut mints) = mpsc::channel::<Mint>(1);
    tokio::spawn(async move {
        let mut next = 1..;
        while let Some(mint) = mints.recv().await {
            let ids = next.by_ref().take(mint.specs.len()).map(SeriesId).collect();
            // Whoever asked may have ended with the trial.
            let _ = mint.reply.send(Ok(ids));
        }
    });
    Arc::new(Dictionary::new(Vec::new(), mint))
}

/// Series that a detector is shown, all gauges of one collector.
pub(super) struct Scene {
    plugin: PluginName,
    series: Vec<Arc<Series>>,
    freezer: Freezer,
    shown: bool,
}

impl Scene {
    pub(super) fn new(series: u32) -> Self {
        let plugin = PluginName::from("trial");
        let series = (1..=series).filter_map(|id| gauge(&plugin, id)).map(Arc::new).collect();
        Self { plugin, series, freezer: Freezer::default(), shown: false }
    }

    /// The snapshot of a tick. Each series has the value that `value` gives it;
    /// one that is not finite is absent, as in the hub.
    pub(super) fn snapshot(&mut self, tick: Tick, value: impl Fn(usize) -> f64) -> Arc<Snapshot> {
        let first = !std::mem::replace(&mut self.shown, true);
        let mut batch = Batch { restarted: first, ..Batch::default() };
        if first {
            batch.declare.clone_from(&self.series);
        }
        for (index, series) in self.series.iter().enumerate() {
            let value = value(index);
            if value.is_finite() {
                batch.values.push((series.id, value));
            } else {
                batch.not_finite.push(series.id);
            }
        }
        self.freezer.begin(tick);
        self.freezer.apply(Answer { plugin: self.plugin.clone(), outcome: Ok(batch) });
        self.freezer.freeze()
    }

    /// The snapshot of a tick at which all series have ended.
    pub(super) fn empty(&mut self, tick: Tick) -> Arc<Snapshot> {
        self.freezer.begin(tick);
        self.freezer.remove(self.plugin.clone());
        self.shown = false;
        self.freezer.freeze()
    }
}

fn gauge(plugin: &PluginName, id: u32) -> Option<Series> {
    let labels = Labels::new(vec![("n".into(), id.to_string().into())]).ok()?;
    let key = SeriesKey { plugin: plugin.clone(), name: "trial.value".into(), labels };
    let spec = SeriesSpec::new(key, Kind::Gauge, "1".into(), "A value of a trial".into()).ok()?;
    let interval_ns = u64::try_from(TICK.as_nanos()).unwrap_or(u64::MAX);
    Some(Series { id: SeriesId(id), spec, interval_ns })
}

/// From 100 to 101, evenly, the same in each trial: nothing that a detector
/// would call odd.
pub(super) fn noise(tick: Tick, index: usize) -> f64 {
    // The finaliser of SplitMix64.
    let mut bits = (tick.number << 32 ^ index as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits ^= bits >> 27;
    let upper = u32::try_from(bits >> 32).unwrap_or(0);
    100.0 + f64::from(upper) / f64::from(u32::MAX)
}
