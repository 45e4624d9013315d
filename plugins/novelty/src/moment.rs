//! A value and what is known of its moment before it is judged.

/// A day in seconds.
pub const DAY_S: f32 = 86_400.0;

/// A usual error is never taken for smaller than this share of the value: a
/// change of a thousandth is nothing to wake somebody for.
const SCALE_SHARE_MIN: f32 = 1e-3;

/// The same for series whose values are about 0, in the series' unit.
const SCALE_MIN: f32 = 1e-9;

/// A range may be narrower than a usual error by this.
const RANGE_SHARE: f32 = 0.1;

/// A value of a series, as a distance from the series' first.
#[derive(Debug, Clone, Copy)]
pub struct Moment {
    /// The value.
    pub x: f32,
    /// How many values there were before.
    pub age: f32,
    /// Seconds since midnight, UTC.
    pub second_of_day: f32,
    /// Seconds since the value before.
    pub passed_s: f32,
    /// The least error that counts.
    pub error_min: f32,
}

impl Moment {
    /// The least error that counts on a series with this value.
    pub fn error_min_of(value: f32) -> f32 {
        (SCALE_SHARE_MIN * value.abs()).max(SCALE_MIN)
    }

    /// The least range that counts.
    pub fn range_min(&self) -> f32 {
        RANGE_SHARE * self.error_min
    }

    /// How fast something follows that follows by `rate` at last: at first it
    /// is a plain mean.
    pub fn rate(&self, rate: f32) -> f32 {
        rate.max(1.0 / (self.age + 1.0))
    }
}
