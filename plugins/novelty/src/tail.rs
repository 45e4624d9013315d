//! How rare a number is among those before it.

use crate::coder::Coder;
use crate::moment::Moment;
use crate::number::tail;

/// How many numbers there must be first.
const COUNT_MIN: f32 = 30.0;

/// How fast it follows: about the last 2,000 numbers.
const RATE: f32 = 5e-4;

/// A deviation is never taken for less than this share of the mean.
const DEVIATION_SHARE_MIN: f32 = 0.05;

/// A running mean and variance.
#[derive(Debug, Clone, Copy, Default)]
pub struct Tail {
    mean: f32,
    variance: f32,
}

impl Tail {
    /// -log10 of how often a number is as large as `y`, as of a normal
    /// distribution; takes `y` in.
    pub fn rarity(&mut self, y: f32, moment: &Moment) -> f32 {
        let deviation = self.variance.sqrt().max(DEVIATION_SHARE_MIN * self.mean);
        let known = moment.age >= COUNT_MIN && deviation > 0.0;
        let rarity = if known { tail((y - self.mean) / deviation) } else { 0.0 };
        let error = y - self.mean;
        let rate = moment.rate(RATE);
        self.mean += rate * error;
        self.variance += rate * (error * error - self.variance);
        rarity
    }

    /// Saves or restores it.
    pub fn code(&mut self, coder: &mut impl Coder) {
        coder.number(&mut self.mean);
        coder.number(&mut self.variance);
    }
}
