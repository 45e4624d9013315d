//! How large the errors of a prediction usually are.

use crate::coder::Coder;
use crate::moment::{DAY_S, Moment};

/// Hours of a day.
const BINS: usize = 24;

/// How fast the overall scale follows: about the last 500 values.
const RATE: f32 = 0.002;

/// How fast an hour's scale follows values that are five minutes apart.
const BIN_RATE: f32 = 0.03;
const BIN_RATE_MIN: f32 = 0.0005;
const RATE_S: f32 = 300.0;

/// The mean square of errors, overall and for each hour of the day: many series
/// are noisier when they are busy.
#[derive(Debug, Clone, Default)]
pub struct Residual {
    square: f32,
    bins: [f32; BINS],
    counts: [u8; BINS],
}

impl Residual {
    fn bin(moment: &Moment) -> usize {
        ((moment.second_of_day * (BINS as f32 / DAY_S)) as usize).min(BINS - 1)
    }

    /// The size of a usual error at this moment.
    pub fn scale(&self, moment: &Moment) -> f32 {
        self.square.max(self.bins[Self::bin(moment)]).sqrt().max(moment.error_min)
    }

    /// Takes in an error.
    pub fn learn(&mut self, moment: &Moment, error: f32) {
        let square = error * error;
        self.square += moment.rate(RATE) * (square - self.square);
        let bin = Self::bin(moment);
        self.counts[bin] = self.counts[bin].saturating_add(1);
        let rate = (BIN_RATE * (moment.passed_s / RATE_S).min(1.0)).max(BIN_RATE_MIN);
        let rate = rate.max(1.0 / f32::from(self.counts[bin]));
        self.bins[bin] += rate * (square - self.bins[bin]);
    }

    /// Saves or restores it.
    pub fn code(&mut self, coder: &mut impl Coder) {
        coder.number(&mut self.square);
        coder.numbers(&mut self.bins);
        self.counts.iter_mut().for_each(|count| coder.byte(count));
    }
}
