//! What is usual at a time of day.

use crate::coder::Coder;
use crate::moment::{DAY_S, Moment};

/// Half hours of a day.
const BINS: usize = 48;

/// How fast a bin follows values that are five minutes apart: about a day.
const RATE: f32 = 0.15;

/// The interval of [`RATE`]; values that come faster have less weight each.
const RATE_S: f32 = 300.0;

/// A running mean for each half hour of the day, blended with the neighbour's
/// so that there are no steps.
#[derive(Debug, Clone)]
pub struct Profile {
    means: [f32; BINS],
    counts: [u16; BINS],
}

impl Default for Profile {
    fn default() -> Self {
        Self { means: [0.0; BINS], counts: [0; BINS] }
    }
}

impl Profile {
    /// What is usual at this second of the day, if that is known.
    pub fn at(&self, second: f32) -> Option<f32> {
        let place = second * (BINS as f32 / DAY_S);
        let bin = (place as usize).min(BINS - 1);
        if self.counts[bin] == 0 {
            return None;
        }
        let aside = place - bin as f32 - 0.5;
        let other = if aside >= 0.0 { (bin + 1) % BINS } else { (bin + BINS - 1) % BINS };
        if self.counts[other] == 0 {
            return Some(self.means[bin]);
        }
        let share = aside.abs();
        Some(self.means[bin] + share * (self.means[other] - self.means[bin]))
    }

    /// Takes in a value.
    pub fn learn(&mut self, moment: &Moment) {
        let bin = ((moment.second_of_day * (BINS as f32 / DAY_S)) as usize).min(BINS - 1);
        self.counts[bin] = self.counts[bin].saturating_add(1);
        let rate = RATE * (moment.passed_s / RATE_S).min(1.0);
        let rate = rate.max(1.0 / f32::from(self.counts[bin]));
        self.means[bin] += rate * (moment.x - self.means[bin]);
    }

    /// Saves or restores it.
    pub fn code(&mut self, coder: &mut impl Coder) {
        coder.numbers(&mut self.means);
        self.counts.iter_mut().for_each(|count| coder.half(count));
    }
}
