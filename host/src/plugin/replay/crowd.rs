//! What a point and a series cost: measured on a crowd of made-up series, as a
//! hub shows them, all in one call.

use std::time::Duration;

use super::seeded::{Seeded, Shape};
use super::{Replay, Showing, processor_time};

/// Five minutes between two values, so that the days and weeks that some
/// detectors remember are soon over.
const INTERVAL: Duration = Duration::from_secs(300);
/// Any time would do, but the same one makes the same crowd.
const BEGINNING_NS: u64 = 1_767_225_600_000_000_000;
/// So many series at first. Memory grows by 64 KiB: with 1,200 series of 1 KiB
/// that is a twentieth of all …
const SERIES: usize = 1200;
/// … and so many where it has grown by less than so many pages.
const SERIES_MANY: usize = 4 * SERIES;
const GROWTH_MIN: usize = 20 * 64 * 1024;
/// So many series are declared at a time: what is copied in for that is needed
/// once, and is no part of what a series takes.
const DECLARED: usize = 64;
/// It has settled once it has not grown for two days …
const SETTLED_TICKS: usize = 576;
/// … and four days are over: whoever learns for longer grows meanwhile.
const TICKS_MIN: usize = 1152;
/// A detector that still grows after three weeks is told as it is then.
const TICKS_MAX: usize = 6048;

/// What a point and a series cost.
#[derive(Clone, Copy, Debug)]
pub struct CrowdCost {
    /// How many series were shown at once.
    pub series: usize,
    /// How many ticks of them.
    pub ticks: usize,
    /// Processor time of a tick, divided by its values: the desk, the call, the
    /// check of the verdict.
    pub ns_per_point: f64,
    /// What the linear memory has grown by, divided by the series.
    pub bytes_per_series: f64,
    /// The linear memory in the end.
    pub memory_bytes: usize,
}

/// Measures a detector. Takes a second or a few; `go_on` is asked at each tick.
///
/// # Errors
///
/// A call failed, in words, or `go_on` has said no.
pub async fn crowd(replay: &Replay, go_on: impl Fn() -> bool) -> Result<CrowdCost, String> {
    let (cost, growth) = measure(replay, SERIES, &go_on).await?;
    if growth >= GROWTH_MIN {
        return Ok(cost);
    }
    measure(replay, SERIES_MANY, &go_on).await.map(|(cost, _)| cost)
}

async fn measure(
    replay: &Replay,
    series: usize,
    go_on: &impl Fn() -> bool,
) -> Result<(CrowdCost, usize), String> {
    let mut showing = replay.start(INTERVAL).await?;
    let before = showing.memory_bytes();
    // The same values for all: what differs is only that they are many.
    let mut source = Seeded::new(1, Shape::Load);
    let (mut ticks, mut let_in, mut settled) = (0, 0, 0);
    let mut recent = Duration::ZERO;
    while ticks < TICKS_MAX && (ticks < TICKS_MIN || settled < SETTLED_TICKS) {
        if !go_on() {
            return Err("stopped".to_owned());
        }
        if let_in < series {
            let more = DECLARED.min(series - let_in);
            showing.let_in((let_in..let_in + more).filter_map(seeded_spec));
            let_in += more;
        }
        let (memory, begun) = (showing.memory_bytes(), processor_time());
        tick(&mut showing, ticks, &mut source, let_in).await?;
        ticks += 1;
        let grown = showing.memory_bytes() > memory || let_in < series;
        (settled, recent) = if grown {
            (0, Duration::ZERO)
        } else {
            (settled + 1, recent + processor_time().saturating_sub(begun))
        };
    }
    let growth = showing.memory_bytes().saturating_sub(before);
    let points = (series * settled.max(1)) as f64;
    let cost = CrowdCost {
        series,
        ticks,
        ns_per_point: recent.as_secs_f64() * 1e9 / points,
        bytes_per_series: growth as f64 / series as f64,
        memory_bytes: showing.memory_bytes(),
    };
    Ok((cost, growth))
}

fn seeded_spec(at: usize) -> Option<(crate::model::SeriesSpec, Duration)> {
    super::seeded::spec("crowd", at).map(|spec| (spec, INTERVAL))
}

async fn tick(
    showing: &mut Showing,
    number: usize,
    source: &mut Seeded,
    series: usize,
) -> Result<(), String> {
    let since = u64::try_from(INTERVAL.as_nanos()).unwrap_or(u64::MAX) * number as u64;
    let time_ns = BEGINNING_NS + since;
    let value = source.next(time_ns);
    showing.show(time_ns, &vec![value; series]).await.map(drop)
}
