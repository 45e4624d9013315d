//! The detector of one series in half a KiB: known levels alone.

use crate::coder::Coder;
use crate::moment::Moment;
use crate::number::narrow;
use crate::range::Range;
use crate::table::Table;
use crate::warm_up::WarmUp;

/// Levels that are remembered.
const LEVELS: usize = 48;

/// Nearer than this share of the range is the same level: about 1.3 / [`LEVELS`].
const VIGILANCE: f32 = 0.03;

/// So far from all known levels, as a share of the range, is a finding.
const THRESHOLD: f32 = 0.032;

/// How much of its width the range gives up at each value, at each end.
const DECAY: f32 = 1e-4;

/// A range may be narrower than the least error that counts by this.
const RANGE_SHARE: f32 = 0.1;

/// The levels of one series.
#[derive(Debug, Clone, Default)]
pub struct Light {
    origin: f64,
    warm_up: WarmUp,
    range: Range,
    levels: Table<1, LEVELS>,
}

/// What a value is worth to [`Light`].
#[derive(Debug, Clone, Copy, Default)]
pub struct LightScored {
    /// From 1.0 on it is a finding.
    pub strength: f32,
    /// The nearest level that was known.
    pub nearest: f64,
    /// The width of the range, in the value's unit.
    pub width: f64,
}

impl Light {
    /// Judges a value by those before it, then takes it in.
    pub fn score(&mut self, values_max: u32, time_ns: u64, value: f64) -> LightScored {
        if self.warm_up.seen() == 0 {
            *self = Self { origin: value, ..Self::default() };
        }
        let x = narrow(value - self.origin);
        let age = self.warm_up.seen() as f32;
        let width = self.range.width(RANGE_SHARE * Moment::error_min_of(narrow(value)));
        let (at, distance) = self.levels.nearest(&[x]);
        let is_first = self.levels.is_empty();
        let novelty = if is_first { 0.0 } else { (distance / width).min(2.0) };
        let nearest = if is_first { x } else { self.levels.place(at)[0] };
        self.levels.learn(&[x], at, novelty, VIGILANCE, age);
        self.range.learn(x, DECAY);
        let is_over = self.warm_up.pass(time_ns, values_max);
        LightScored {
            strength: if is_over { novelty * (1.0 / THRESHOLD) } else { 0.0 },
            nearest: self.origin + f64::from(nearest),
            width: f64::from(width),
        }
    }

    /// Saves or restores it.
    pub fn code(&mut self, coder: &mut impl Coder) {
        coder.value(&mut self.origin);
        self.warm_up.code(coder);
        self.range.code(coder);
        self.levels.code(coder);
    }
}
