//! The range of a series, which slowly forgets.

use crate::coder::Coder;

/// So many times the range beyond its end is a finding by itself.
const BEYOND: f32 = 3.5;

/// The strength is never more than this.
const STRENGTH_MAX: f32 = 50.0;

/// A range that is narrower than so many of the least errors that count is none.
const ERRORS_MIN: f32 = 4.0;

/// The least and the most of late.
#[derive(Debug, Clone, Copy, Default)]
pub struct Range {
    low: f32,
    high: f32,
}

impl Range {
    /// How wide it is; at least `least`.
    pub fn width(&self, least: f32) -> f32 {
        (self.high - self.low).max(least)
    }

    /// The nearest to `x` that is no more than `reach` beyond an end.
    pub fn near(&self, x: f32, reach: f32) -> f32 {
        x.min(self.high + reach).max(self.low - reach)
    }

    /// The strength of a value far beyond the range, 1 at [`BEYOND`] times the
    /// range. Of a series with rare bursts the range is wider than `tame`, some
    /// deviations, and a higher burst is no news.
    pub fn far_beyond(&self, x: f32, error_min: f32, tame: f32) -> f32 {
        let width = self.width(error_min);
        if width >= tame || width <= ERRORS_MIN * error_min {
            return 0.0;
        }
        let beyond = (x - self.high).max(self.low - x).max(0.0);
        (beyond / (BEYOND * width)).min(STRENGTH_MAX)
    }

    /// Narrows by `decay` of its width at each end, and takes in `x`.
    pub fn learn(&mut self, x: f32, decay: f32) {
        let step = decay * (self.high - self.low);
        self.low = (self.low + step).min(x);
        self.high = (self.high - step).max(x);
    }

    /// Saves or restores it.
    pub fn code(&mut self, coder: &mut impl Coder) {
        coder.number(&mut self.low);
        coder.number(&mut self.high);
    }
}
