//! What each plugin costs and yields: counted where it happens, read by the
//! hub's own series and by whoever lists plugins.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// How many calls the figures are made from: about four minutes at a second.
const CALLS_KEPT: usize = 256;

/// What one plugin costs and yields, from when it was added until it is
/// removed. Written by the plugin's task; the tick counts what was late.
#[derive(Debug, Default)]
pub(crate) struct Cost {
    calls: Mutex<Calls>,
    /// A collector's live series, or how many a detector is shown.
    pub(crate) series: AtomicUsize,
    /// Values in its last answer, or in what it was last shown.
    pub(crate) values: AtomicUsize,
    /// What its instance's memories have together, in bytes.
    pub(crate) memory_bytes: AtomicUsize,
    /// The size of the state that it saved last.
    pub(crate) state_bytes: AtomicUsize,
    /// Traps, overruns, refused answers and fatal faults.
    pub(crate) faults: AtomicU64,
    /// Instances that were started after a failure.
    pub(crate) restarts: AtomicU64,
    /// Returns to the last good version.
    pub(crate) rollbacks: AtomicU64,
    /// Answers that were due and had not come; a detector's skipped ticks.
    pub(crate) late: Arc<AtomicU64>,
    /// From its file being whole to its first answer, the last time that
    /// another version came, in nanoseconds.
    pub(crate) reload_ns: AtomicU64,
}

/// The durations of the last calls, in nanoseconds.
#[derive(Debug, Default)]
struct Calls {
    count: u64,
    /// Without what was spent waiting in host calls.
    computing: Vec<u64>,
    waiting: Vec<u64>,
}

/// The figures of a plugin's last calls, of `collect` or `observe`.
#[derive(Clone, Copy, Debug, Default, PartialEq, serde::Serialize)]
pub struct CallFigures {
    /// Calls since the plugin was added; the figures are of the last 256.
    pub count: u64,
    /// Their mean time, without what was spent waiting in host calls, in
    /// microseconds.
    pub mean_us: f64,
    /// What 99 of 100 calls stay under.
    pub p99_us: f64,
    /// The longest.
    pub max_us: f64,
    /// The mean time of waiting in host calls.
    pub waiting_mean_us: f64,
}

impl Cost {
    /// Counts a call that took `took`, of which `waited` in host calls.
    pub(crate) fn call(&self, took: Duration, waited: Duration) {
        let mut calls = self.calls.lock().unwrap_or_else(PoisonError::into_inner);
        let at = usize::try_from(calls.count).unwrap_or(usize::MAX) % CALLS_KEPT;
        calls.count += 1;
        let (computing, waiting) = (nanos(took.saturating_sub(waited)), nanos(waited));
        if calls.computing.len() == CALLS_KEPT {
            (calls.computing[at], calls.waiting[at]) = (computing, waiting);
        } else {
            calls.computing.push(computing);
            calls.waiting.push(waiting);
        }
    }

    /// The figures of the last calls.
    pub(crate) fn figures(&self) -> CallFigures {
        let calls = self.calls.lock().unwrap_or_else(PoisonError::into_inner);
        let (count, mut computing) = (calls.count, calls.computing.clone());
        let waiting_mean_us = mean_us(&calls.waiting);
        drop(calls);
        let Some(last) = computing.len().checked_sub(1) else { return CallFigures::default() };
        let mean_us = mean_us(&computing);
        // The smallest that at least 99 of 100 do not exceed.
        let rank = (computing.len() * 99).div_ceil(100) - 1;
        let p99 = *computing.select_nth_unstable(rank).1;
        let max = computing[rank..=last].iter().copied().max().unwrap_or(p99);
        CallFigures { count, mean_us, p99_us: us(p99), max_us: us(max), waiting_mean_us }
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[expect(clippy::cast_precision_loss, reason = "a duration is well under 2^53 ns")]
fn us(nanoseconds: u64) -> f64 {
    nanoseconds as f64 / 1e3
}

#[expect(clippy::cast_precision_loss, reason = "at most 256 of them")]
fn mean_us(nanoseconds: &[u64]) -> f64 {
    if nanoseconds.is_empty() {
        return 0.0;
    }
    us(nanoseconds.iter().sum()) / nanoseconds.len() as f64
}

/// Reads a counter.
pub(crate) fn read(counter: &AtomicU64) -> u64 {
    counter.load(Ordering::Relaxed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_of_the_last_calls_and_waiting_is_apart() {
        let cost = Cost::default();
        assert_eq!(cost.figures(), CallFigures::default());
        for _ in 0..1000 {
            cost.call(Duration::from_secs(9), Duration::ZERO);
        }
        for us in 1..=256 {
            cost.call(Duration::from_micros(us + 1), Duration::from_micros(1));
        }
        let figures = cost.figures();
        assert_eq!(figures.count, 1256);
        assert_eq!((figures.p99_us, figures.max_us), (254.0, 256.0));
        assert_eq!((figures.mean_us, figures.waiting_mean_us), (128.5, 1.0));
    }

    #[test]
    fn one_call_is_its_own_figures() {
        let cost = Cost::default();
        cost.call(Duration::from_micros(3), Duration::ZERO);
        let figures = cost.figures();
        assert_eq!((figures.mean_us, figures.p99_us, figures.max_us), (3.0, 3.0, 3.0));
    }
}
