//! What the benchmarks are made with: guests, series, answers, snapshots.

use std::path::Path;
use std::sync::Arc;

use telltale::model::{
    Answer, Batch, Dictionary, Kind, Labels, Mint, PluginName, Series, SeriesId, SeriesKey,
    SeriesSpec, Tick,
};
use telltale::snapshot::{Freezer, Snapshot};
use tokio::sync::mpsc;

/// The bytes of a component that `build.rs` has built.
pub(crate) fn component(name: &str) -> Vec<u8> {
    let path = Path::new(env!("TELLTALE_GUESTS")).join(format!("{name}.wasm"));
    std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// A dictionary that gives numbers from memory. Needs a tokio runtime.
pub(crate) fn dictionary() -> Arc<Dictionary> {
    let (mint, mut mints) = mpsc::channel::<Mint>(64);
    tokio::spawn(async move {
        let mut next = 1..;
        while let Some(mint) = mints.recv().await {
            let ids = next.by_ref().take(mint.specs.len()).map(SeriesId).collect();
            // Whoever asked may have ended with the benchmark.
            drop(mint.reply.send(Ok(ids)));
        }
    });
    Arc::new(Dictionary::new(Vec::new(), mint))
}

/// A tick a second.
pub(crate) fn tick(number: u64) -> Tick {
    Tick { number, time_ns: 1_770_724_800_000_000_000 + number * 1_000_000_000 }
}

/// Plugins with gauges, of which each answers at each tick.
pub(crate) struct Crowd {
    members: Vec<(PluginName, Vec<Arc<Series>>)>,
}

impl Crowd {
    /// So many plugins with so many series each, numbered through.
    pub(crate) fn new(plugins: u32, series_each: u32) -> Self {
        let member = |plugin: u32| {
            let name = PluginName::from(format!("c{plugin}"));
            let first = plugin * series_each;
            let series = (first..first + series_each).map(|id| Arc::new(gauge(&name, id)));
            (name.clone(), series.collect())
        };
        Self { members: (0..plugins).map(member).collect() }
    }

    /// What all of them answer at a tick; the first time they declare.
    pub(crate) fn answers(&self, tick: Tick, first: bool) -> Vec<Answer> {
        let answer = |(plugin, series): &(PluginName, Vec<Arc<Series>>)| {
            let batch = Batch {
                restarted: first,
                declare: if first { series.clone() } else { Vec::new() },
                values: series.iter().map(|s| (s.id, noise(tick.number, s.id))).collect(),
                ..Batch::default()
            };
            Answer { plugin: plugin.clone(), outcome: Ok(batch) }
        };
        self.members.iter().map(answer).collect()
    }

    /// Snapshots of so many ticks on end, in which every value differs from the
    /// one before. They share a roster.
    pub(crate) fn snapshots(&self, ticks: u64) -> Vec<Arc<Snapshot>> {
        let mut freezer = Freezer::default();
        let freeze = |number| {
            freezer.begin(tick(number));
            for answer in self.answers(tick(number), number == 1) {
                freezer.apply(answer);
            }
            freezer.freeze()
        };
        (1..=ticks).map(freeze).collect()
    }
}

fn gauge(plugin: &PluginName, id: u32) -> Series {
    let labels = Labels::new(vec![("n".into(), id.to_string().into())]);
    let key = SeriesKey {
        plugin: plugin.clone(),
        name: "bench.value".into(),
        labels: labels.expect("one short label keeps the rules"),
    };
    let spec = SeriesSpec::new(key, Kind::Gauge, "1".into(), "".into());
    Series {
        id: SeriesId(id),
        spec: spec.expect("the name keeps the rules"),
        interval_ns: 1_000_000_000,
    }
}

/// From 100 to 101, evenly: all the digits of a real measurement, and nothing
/// in it that a detector would call odd.
fn noise(tick: u64, id: SeriesId) -> f64 {
    // The finaliser of SplitMix64.
    let mut bits = (tick << 32 | u64::from(id.0)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits ^= bits >> 27;
    let upper = u32::try_from(bits >> 32).expect("32 bits are left");
    100.0 + f64::from(upper) / f64::from(u32::MAX)
}
