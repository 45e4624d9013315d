//! When a series is known well enough to be judged.

use crate::coder::Coder;

const SECOND_NS: u64 = 1_000_000_000;

/// So many values are always waited for.
const VALUES_MIN: u32 = 100;

/// So long is waited for, unless there are many values before: a day, in which
/// most series show what they do.
const SECONDS: u32 = 86_400;

/// How many values there were, and since when.
#[derive(Debug, Clone, Copy, Default)]
pub struct WarmUp {
    seen: u32,
    first_s: u32,
}

impl WarmUp {
    /// How many values there were.
    pub fn seen(&self) -> u32 {
        self.seen
    }

    /// Counts a value. Whether it may be judged: the warm-up takes 100 values
    /// and a day, and `values_max` values end it before the day is over.
    pub fn pass(&mut self, time_ns: u64, values_max: u32) -> bool {
        let now_s = (time_ns / SECOND_NS) as u32;
        if self.seen == 0 {
            self.first_s = now_s;
        }
        self.seen = self.seen.saturating_add(1);
        let is_day_over = now_s.saturating_sub(self.first_s) >= SECONDS;
        self.seen > VALUES_MIN && (is_day_over || self.seen > values_max)
    }

    /// How much of its first day there was, up to 1.
    pub fn share_of_day(&self, time_ns: u64) -> f32 {
        let passed_s = ((time_ns / SECOND_NS) as u32).saturating_sub(self.first_s);
        (passed_s as f32 / SECONDS as f32).min(1.0)
    }

    /// Saves or restores it.
    pub fn code(&mut self, coder: &mut impl Coder) {
        coder.word(&mut self.seen);
        coder.word(&mut self.first_s);
    }
}
