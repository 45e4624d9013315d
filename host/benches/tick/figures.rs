//! Runs benchmarks through criterion, and keeps their medians for the table.

use std::collections::BTreeMap;
use std::time::Duration;

use criterion::Criterion;
use rustix::time::{ClockId, clock_gettime};

/// The medians of what was measured, by the benchmarks' names.
pub(crate) struct Figures {
    criterion: Criterion,
    medians_ns: BTreeMap<String, f64>,
}

impl Figures {
    /// Nothing is measured yet. Reads criterion's arguments.
    pub(crate) fn new() -> Self {
        // Short, since there are many and all are of one thread's processor
        // time: twice the time moves the medians by about a percent.
        let criterion = Criterion::default()
            .warm_up_time(Duration::from_millis(200))
            .measurement_time(Duration::from_millis(400))
            .sample_size(20)
            .nresamples(2000)
            .without_plots()
            .configure_from_args();
        Self { criterion, medians_ns: BTreeMap::new() }
    }

    /// Measures `routine`, which is told how often to do it, and answers how
    /// long that took.
    pub(crate) fn measure(&mut self, name: &str, mut routine: impl FnMut(u64) -> Duration) {
        let mut samples = Vec::new();
        self.criterion.bench_function(name, |bencher| {
            bencher.iter_custom(|iterations| {
                let took = routine(iterations);
                samples.push((nanos(took) / to_f64(iterations), iterations));
                took
            });
        });
        if let Some(median) = weighted_median(samples) {
            self.medians_ns.insert(name.to_owned(), median);
        }
    }

    /// The nanoseconds of one iteration. None for what was filtered out.
    pub(crate) fn median_ns(&self, name: &str) -> Option<f64> {
        self.medians_ns.get(name).copied()
    }
}

/// The median, a sample weighing as much as it has iterations: the first ones
/// of a warm-up have one.
fn weighted_median(mut samples: Vec<(f64, u64)>) -> Option<f64> {
    samples.sort_by(|one, other| one.0.total_cmp(&other.0));
    let half = samples.iter().map(|(_, weight)| weight).sum::<u64>() / 2;
    let mut below = 0;
    samples.into_iter().find_map(|(value, weight)| {
        below += weight;
        (below > half).then_some(value)
    })
}

/// Does `work` and answers what processor time this thread took for it.
pub(crate) fn timed(work: impl FnOnce()) -> Duration {
    let begun = time_of(ClockId::ThreadCPUTime);
    work();
    time_of(ClockId::ThreadCPUTime) - begun
}

/// The processor time that all threads of this process have used.
pub(crate) fn process_time() -> Duration {
    time_of(ClockId::ProcessCPUTime)
}

fn time_of(clock: ClockId) -> Duration {
    let time = clock_gettime(clock);
    let seconds = u64::try_from(time.tv_sec).expect("processor time is not negative");
    let nanos = u32::try_from(time.tv_nsec).expect("a second has fewer nanoseconds");
    Duration::new(seconds, nanos)
}

/// A duration in nanoseconds.
pub(crate) fn nanos(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e9
}

/// A count, to divide by.
#[expect(clippy::cast_precision_loss, reason = "counts of a benchmark are far below 2^53")]
pub(crate) fn to_f64(count: u64) -> f64 {
    count as f64
}
