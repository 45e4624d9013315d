//! A day of made-up series, shown to a detector as a hub would show it: all of
//! them in one call at each tick, one policy for each.

use std::collections::BTreeMap;
use std::time::Duration;

use telltale::judge::{Hearing, Policy};
use telltale::model::Tick;
use telltale::plugin::replay::seeded::{Seeded, Shape, spec};
use telltale::plugin::replay::{Replay, processor_time};

/// Midnight of a Thursday.
const BEGINNING_NS: u64 = 1_767_225_600_000_000_000;

/// What is shown.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Day {
    /// Series with noise, of all shapes in turn.
    pub(crate) series: usize,
    /// Series that never change.
    pub(crate) constant: usize,
    pub(crate) ticks: u64,
    pub(crate) tick: Duration,
}

/// What came of it.
#[derive(Debug)]
pub(crate) struct Told {
    /// How often somebody was told of the series with noise, by their shape.
    pub(crate) by_shape: BTreeMap<String, usize>,
    /// … and of those that never change.
    pub(crate) constant: usize,
    /// Processor time of a value: the desk, the call, the check of the verdict.
    pub(crate) ns_per_value: f64,
}

impl Told {
    /// How often somebody was told of anything.
    pub(crate) fn all(&self) -> usize {
        self.by_shape.values().sum::<usize>() + self.constant
    }
}

/// Shows a day to a fresh instance.
pub(crate) async fn show(replay: &Replay, policy: &Policy, day: Day) -> Result<Told, String> {
    let count = day.series + day.constant;
    let mut showing = replay.start(day.tick).await?;
    showing.let_in((0..count).filter_map(|at| Some((spec("quiet", at)?, day.tick))));
    let mut series: Vec<(Shape, Seeded)> = (0..day.series)
        .map(|at| {
            let shape = Shape::ALL[at % Shape::ALL.len()];
            (shape, Seeded::new(at as u64, shape))
        })
        .collect();
    let mut hearings: Vec<Hearing> =
        showing.series().iter().map(|series| Hearing::new(series.clone())).collect();
    let mut told = Told { by_shape: BTreeMap::new(), constant: 0, ns_per_value: 0.0 };
    let mut values = vec![7.0; count];
    let mut computing = Duration::ZERO;
    let tick_ns = u64::try_from(day.tick.as_nanos()).map_err(|error| error.to_string())?;
    for number in 0..day.ticks {
        let time_ns = BEGINNING_NS + number * tick_ns;
        for (value, (_, seeded)) in values.iter_mut().zip(&mut series) {
            *value = seeded.next(time_ns);
        }
        let begun = processor_time();
        let said = showing.show(time_ns, &values).await?;
        computing += processor_time().saturating_sub(begun);
        let tick = Tick { number: number + 1, time_ns };
        for (at, (hearing, score)) in hearings.iter_mut().zip(said.scores).enumerate() {
            let candidates = said.candidates_of(at);
            if hearing.hear(policy, tick, Some(values[at]), *score, &candidates).told {
                match series.get(at) {
                    Some((shape, _)) => {
                        *told.by_shape.entry(format!("{shape:?}")).or_default() += 1
                    }
                    None => told.constant += 1,
                }
            }
        }
    }
    told.ns_per_value = computing.as_secs_f64() * 1e9 / (count as u64 * day.ticks) as f64;
    Ok(told)
}
