//! One call into a component, next to the same work done natively.

use std::hint::black_box;

use telltale::model::Tick;
use telltale::plugin::bench::{Collector, Detector, Guest, Observation};
use telltale::snapshot::Snapshot;
use tokio::runtime::Runtime;

use crate::figures::{Figures, timed};
use crate::sample::{Crowd, component, dictionary, tick};

/// How many values a call carries.
pub(crate) const VALUES: [u32; 4] = [1, 10, 1_000, 10_000];
/// Snapshots that a detector is shown in turn, so that values move.
const SNAPSHOTS: u64 = 64;
/// No value is above this, so that the work is that of a quiet tick.
const LIMIT: f64 = 1e9;

/// One thread, as a plugin's task has it while its guest runs.
fn runtime() -> Runtime {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.expect("the system gives a runtime")
}

/// `collect`: the call, the call with the check of its batch, and a plain
/// function that makes the same lists.
pub(crate) fn collect(figures: &mut Figures) {
    let component = component("guest_collector");
    let cache = tempfile::tempdir().expect("a temporary folder");
    let runtime = runtime();
    for values in VALUES {
        let config_json = format!(r#"{{"series": {values}}}"#);
        let guest = Guest { component: &component, config_json: &config_json, cache: cache.path() };
        let mut number = 0;
        let mut next = || {
            number += 1;
            tick(number)
        };
        let mut collector = runtime.block_on(async {
            let collector = Collector::start(guest, dictionary()).await;
            let mut collector = collector.expect("the guest starts");
            let first = collector.ask(next()).await.expect("it declares its series");
            assert_eq!(first.values.len(), values as usize);
            collector
        });
        figures.measure(&format!("collect/call/{values}"), |times| {
            timed(|| {
                runtime.block_on(async {
                    for _ in 0..times {
                        black_box(collector.call(next()).await.expect("it answers"));
                    }
                });
            })
        });
        figures.measure(&format!("collect/checked/{values}"), |times| {
            timed(|| {
                runtime.block_on(async {
                    for _ in 0..times {
                        black_box(collector.ask(next()).await.expect("it answers"));
                    }
                });
            })
        });
        figures.measure(&format!("collect/native/{values}"), |times| {
            timed(|| {
                for _ in 0..times {
                    black_box(collect_natively(next(), black_box(values)));
                }
            })
        });
    }
}

/// What `guest_collector` does when it is steady.
#[inline(never)]
fn collect_natively(tick: Tick, series: u32) -> (Vec<u32>, Vec<f64>) {
    #[expect(clippy::cast_precision_loss, reason = "ticks of a benchmark are few")]
    let value = |id: u32| tick.number as f64 + f64::from(id);
    ((0..series).collect(), (0..series).map(value).collect())
}

/// `observe`: the call, from the snapshot to the judgement, and a plain
/// function that compares with the same threshold. `zscore`, which does more,
/// beside it.
pub(crate) fn observe(figures: &mut Figures) {
    let runtime = runtime();
    for values in VALUES {
        let snapshots = Crowd::new(1, values).snapshots(SNAPSHOTS);
        let mut turn = snapshots.iter().cycle();
        let mut next = || -> &Snapshot { turn.next().expect("a cycle has no end") };

        let config_json = format!(r#"{{"limit": {LIMIT}}}"#);
        let mut threshold = detector(&runtime, "guest_detector", &config_json, next());
        // Prepared once: the lists are the same in length at each tick.
        let observation = threshold.prepare(next());
        figures.measure(&format!("observe/call/{values}"), |times| {
            timed(|| runtime.block_on(call(&mut threshold, &observation, times)))
        });
        figures.measure(&format!("observe/judged/{values}"), |times| {
            timed(|| {
                runtime.block_on(async {
                    for _ in 0..times {
                        black_box(threshold.judge(next()).await.expect("it judges"));
                    }
                });
            })
        });
        figures.measure(&format!("observe/native/{values}"), |times| {
            timed(|| {
                for _ in 0..times {
                    let snapshot = next();
                    black_box(observe_natively(&snapshot.values, black_box(LIMIT)));
                }
            })
        });

        let mut zscore = detector(&runtime, "telltale_zscore", "{}", next());
        figures.measure(&format!("observe/zscore/{values}"), |times| {
            timed(|| {
                runtime.block_on(async {
                    for _ in 0..times {
                        black_box(zscore.judge(next()).await.expect("it judges"));
                    }
                });
            })
        });
    }
}

/// A detector that knows its series already.
fn detector(runtime: &Runtime, name: &str, config_json: &str, first: &Snapshot) -> Detector {
    let component = component(name);
    let cache = tempfile::tempdir().expect("a temporary folder");
    runtime.block_on(async {
        let guest = Guest { component: &component, config_json, cache: cache.path() };
        let mut detector = Detector::start(guest).await.expect("the detector starts");
        let seen = detector.judge(first).await.expect("it is told of its series").seen;
        assert_eq!(seen.len(), first.values.len());
        detector
    })
}

async fn call(detector: &mut Detector, observation: &Observation, times: u64) {
    for _ in 0..times {
        black_box(detector.call(observation).await.expect("it answers"));
    }
}

/// What `guest_detector` does with values that it finds in order.
#[inline(never)]
fn observe_natively(values: &[f64], limit: f64) -> Vec<usize> {
    let odd = values.iter().enumerate().filter(|(_, value)| **value > limit);
    odd.map(|(position, _)| position).collect()
}
