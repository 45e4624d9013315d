//! One series: when its values are judged, and what is said of them.

use crate::coder::Coder;
use crate::fast::{Fast, Step};
use crate::model::{Model, PARTS, Weights};
use crate::moment::Moment;
use crate::number::narrow;
use crate::warm_up::WarmUp;

const DAY_NS: u64 = 86_400_000_000_000;

/// Longer gaps are taken for an hour.
const PASSED_S_MAX: f32 = 3600.0;

/// The warm-up of a fast series, in blocks of 20 seconds: an hour.
const WARM_UP_BLOCKS: u32 = 180;

/// Between two blocks the last strength goes on, but opens nothing anew.
const HELD_MAX: f32 = 0.9;

/// What a value is worth.
#[derive(Debug, Clone, Copy, Default)]
pub struct Scored {
    /// From 1.0 on it is a finding.
    pub strength: f32,
    /// What each of the parts says; nothing between two blocks.
    pub parts: [f32; PARTS],
    /// What value was expected.
    pub expected: f64,
    /// How large an error is usual.
    pub scale: f64,
    /// The mean of about the last 500 values.
    pub mean: f64,
    /// The mean of about the last sixteen.
    pub course: f64,
}

/// All that is known of a series: 4 KiB, whatever it does.
#[derive(Debug, Clone, Default)]
pub struct Series {
    /// The first value: all others are kept as distances from it.
    origin: f64,
    /// When the last value came, and the last one that was judged.
    last_ns: u64,
    judged_ns: u64,
    warm_up: WarmUp,
    fast: Fast,
    /// The last strength.
    held: f32,
    model: Model,
}

impl Series {
    /// Judges a value by those before it, then takes it in. `values_max` values
    /// end the warm-up before the first day is over.
    pub fn score(
        &mut self,
        weights: &Weights,
        values_max: u32,
        time_ns: u64,
        value: f64,
    ) -> Scored {
        if self.last_ns == 0 {
            (self.origin, self.last_ns, self.judged_ns) = (value, time_ns, time_ns);
        }
        let x = narrow(value - self.origin);
        let error_min = Moment::error_min_of(narrow(value));
        let passed_s = seconds(self.last_ns, time_ns);
        // 0 stands for a series that was not seen yet.
        self.last_ns = time_ns.max(1);
        let (step, alone) = self.fast.step(time_ns, passed_s, x, error_min);
        let mut scored = match step {
            Step::Judge(x) => self.judge(weights, values_max, time_ns, x, error_min),
            Step::Hold => self.hold(),
        };
        scored.strength = scored.strength.max(alone);
        scored
    }

    fn judge(
        &mut self,
        weights: &Weights,
        values_max: u32,
        time_ns: u64,
        x: f32,
        error_min: f32,
    ) -> Scored {
        let moment = Moment {
            x,
            age: self.warm_up.seen() as f32,
            second_of_day: (time_ns % DAY_NS) as f32 * 1e-9,
            passed_s: seconds(self.judged_ns, time_ns),
            error_min,
        };
        self.judged_ns = time_ns;
        let said = self.model.judge(weights, &moment);
        let is_fast = self.fast.is_fast();
        let values_max = if is_fast { WARM_UP_BLOCKS } else { values_max };
        let is_warm = self.warm_up.pass(time_ns, values_max);
        let mut strength = said.strength;
        if is_fast {
            let share = self.warm_up.share_of_day(time_ns);
            strength = self.fast.temper(strength, moment.age, share);
        }
        self.held = if is_warm { strength } else { 0.0 };
        let recent = self.model.forecast().recent;
        Scored {
            strength: self.held,
            parts: if is_warm { said.parts } else { [0.0; PARTS] },
            expected: self.value(said.expected.x),
            scale: f64::from(said.expected.scale),
            mean: self.value(recent.mean),
            course: self.value(recent.long),
        }
    }

    /// What was said of the last block.
    fn hold(&self) -> Scored {
        let recent = self.model.forecast().recent;
        let expected = self.value(recent.mean);
        Scored {
            strength: self.held.min(HELD_MAX),
            parts: [0.0; PARTS],
            expected,
            scale: f64::from(recent.variance.sqrt().max(f32::MIN_POSITIVE)),
            mean: expected,
            course: expected,
        }
    }

    fn value(&self, x: f32) -> f64 {
        self.origin + f64::from(x)
    }

    /// Saves or restores it.
    pub fn code(&mut self, coder: &mut impl Coder) {
        coder.value(&mut self.origin);
        coder.time(&mut self.last_ns);
        coder.time(&mut self.judged_ns);
        self.warm_up.code(coder);
        self.fast.code(coder);
        coder.number(&mut self.held);
        self.model.code(coder);
    }
}

/// The seconds from one time to another; a clock may stand still.
fn seconds(from_ns: u64, to_ns: u64) -> f32 {
    (to_ns.saturating_sub(from_ns) as f32 * 1e-9).clamp(0.001, PASSED_S_MAX)
}
