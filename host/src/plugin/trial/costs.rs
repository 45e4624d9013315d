//! What a component costs.

use std::time::Duration;

use serde::Serialize;

use super::Trial;
use super::players::{Book, Player};
use super::report::Problem;
use super::scene::{Scene, dictionary, noise, tick};
use crate::plugin::status::PluginRole;

/// Calls that are not counted: a language runtime warms up in them.
const WARM_UP: u32 = 10;

/// How long a component took to be loaded.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    /// Compiling it, if it was.
    pub compile: Option<Duration>,
    /// Loading its compiled code from the cache, if it was there.
    pub from_cache: Option<Duration>,
}

/// What a component costs. Times of calls are processor time.
#[derive(Clone, Debug, Serialize)]
pub struct Costs {
    /// The plugin's name.
    pub plugin: String,
    /// The world that its exports make up.
    pub world: &'static str,
    /// The component's size.
    pub component_bytes: u64,
    /// Compiling it, in milliseconds of wall time.
    pub compile_ms: Option<f64>,
    /// Loading its compiled code from the cache, likewise.
    pub load_ms: Option<f64>,
    /// Starting and configuring an instance, in microseconds.
    pub start_us: f64,
    /// `collect` or `observe`.
    pub call: CallCost,
    /// Values in a call: a collector's answer, or what a detector is shown.
    pub values: usize,
    /// The usual call divided by its values, in nanoseconds.
    pub ns_per_value: Option<f64>,
    /// Its memory in the end, in bytes.
    pub memory_bytes: usize,
    /// The size of its state in the end, in bytes, where it keeps any.
    pub state_bytes: Option<usize>,
    /// Saving that state, in microseconds.
    pub save_us: Option<f64>,
}

/// What calls took, in nanoseconds of processor time.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct CallCost {
    /// How many.
    pub count: usize,
    /// The very first, in which series are declared.
    pub first_ns: f64,
    /// The quickest after the first ten.
    pub best_ns: f64,
    /// The usual one: half of them took less.
    pub median_ns: f64,
    /// Of a hundred, one took longer.
    pub p99_ns: f64,
}

pub(super) async fn bench(trial: &Trial, series: u32, ticks: u32) -> Result<Costs, String> {
    let book = Book::default();
    let words = |problem: Problem| problem.words;
    let dictionary = dictionary();
    let mut player = Player::start(trial, &book, &dictionary).await.map_err(words)?;
    let start = book.last.get();
    let mut scene = Scene::new(series);
    let (mut times, mut values) = (Vec::new(), 0);
    for number in (1..).take((ticks + WARM_UP) as usize) {
        values = match trial.role() {
            PluginRole::Detector => {
                let snapshot = scene.snapshot(tick(number), |index| noise(tick(number), index));
                player.observe(&snapshot).await.map_err(words)?.judgement.seen.len()
            }
            PluginRole::Collector => {
                player.collect(tick(number)).await.map_err(words)?.values.len()
            }
        };
        times.push(book.last.get());
    }
    let memory_bytes = player.memory_bytes();
    let state_bytes = player.save().await.map_err(words)?.map(|saved| saved.bytes.len());
    let call = call_cost(&times);
    #[expect(clippy::cast_precision_loss, reason = "values are at most 100,000")]
    let ns_per_value = (values > 0).then(|| call.median_ns / values as f64);
    Ok(Costs {
        plugin: trial.plugin.to_string(),
        world: trial.world(),
        component_bytes: trial.bytes,
        compile_ms: trial.load.compile.map(millis),
        load_ms: trial.load.from_cache.map(millis),
        start_us: start.as_secs_f64() * 1e6,
        call,
        values,
        ns_per_value,
        memory_bytes,
        state_bytes,
        save_us: state_bytes.map(|_| book.last.get().as_secs_f64() * 1e6),
    })
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

/// Of `times` in the order of the calls; there is more than the warm-up.
fn call_cost(times: &[Duration]) -> CallCost {
    let nanos = |time: &Duration| time.as_secs_f64() * 1e9;
    let mut warm: Vec<f64> = times.iter().skip(WARM_UP as usize).map(nanos).collect();
    warm.sort_by(f64::total_cmp);
    let at = |share: usize| {
        let last = warm.len().saturating_sub(1);
        warm.get(last * share / 100).copied().unwrap_or_default()
    };
    CallCost {
        count: warm.len(),
        first_ns: times.first().map(nanos).unwrap_or_default(),
        best_ns: at(0),
        median_ns: at(50),
        p99_ns: at(99),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_calls_are_no_measure() {
        let millis = |millis| Duration::from_millis(millis);
        let mut times = vec![millis(500); WARM_UP as usize];
        times.extend((1..=101).rev().map(millis));
        let cost = call_cost(&times);
        assert_eq!((cost.count, cost.first_ns), (101, 5e8));
        assert_eq!((cost.best_ns, cost.median_ns, cost.p99_ns), (1e6, 51e6, 100e6));
    }
}
