//! An anomaly that comes again is one again: its states are not learned at once.

use crate::coder::Coder;
use crate::moment::Moment;

/// Under alarm are values from this strength on.
const STRENGTH_MIN: f32 = 1.0;

/// The first values are no alarm.
const AGE_MIN: f32 = 100.0;

/// An alarm that lasts for longer than so many values is a new state.
const VALUES_MAX: u32 = 10;

/// How much of one more alarm that isn't learned each value is worth: what
/// comes more often than once in 1,000 values is how the series is.
const ALLOWED: f32 = 1e-3;

/// Which alarms are learned.
#[derive(Debug, Clone, Copy, Default)]
pub struct Repeat {
    /// How many alarms may go without being learned; up to 1.
    allowed: f32,
    /// How many values of the alarm there were.
    values: u32,
    /// Whether this alarm is not learned.
    is_withheld: bool,
}

impl Repeat {
    /// Whether the states of a value of this strength are not to be learned.
    pub fn withholds(&mut self, strength: f32, moment: &Moment) -> bool {
        self.allowed = (self.allowed + ALLOWED).min(1.0);
        if strength < STRENGTH_MIN || moment.age <= AGE_MIN {
            (self.values, self.is_withheld) = (0, false);
            return false;
        }
        self.values = self.values.saturating_add(1);
        if self.values == 1 && self.allowed >= 1.0 {
            (self.allowed, self.is_withheld) = (0.0, true);
        }
        self.is_withheld && self.values <= VALUES_MAX
    }

    /// Saves or restores it.
    pub fn code(&mut self, coder: &mut impl Coder) {
        let mut is_withheld = u8::from(self.is_withheld);
        coder.number(&mut self.allowed);
        coder.word(&mut self.values);
        coder.byte(&mut is_withheld);
        self.is_withheld = is_withheld == 1;
    }
}
