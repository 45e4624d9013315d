//! Where a series is, how far it strays, and how far it ever did.

use crate::{Reader, Saved};

/// A deviation is never taken for less than this share of the mean: a change of
/// a few thousandths is nothing to wake somebody for, such as that of a processor
/// which is busy all the time, and the rounding errors of a series that doesn't
/// move are far below it.
const DEVIATION_SHARE_MIN: f64 = 1e-3;

/// The same for series whose mean is about 0, in the series' unit.
const DEVIATION_MIN: f64 = 1e-9;

/// So many deviations from the mean a value counts in full. Less than one in
/// ten thousand of a plain noise is beyond.
const LIMIT: f64 = 4.0;

/// The first values count in full, since nothing is known that they could be
/// measured by.
const WARM: u32 = 16;

/// The most that the limit is doubled: by then it is beyond all numbers.
const STREAK_MAX: u32 = 250;

/// Values are cut at this, so that squares are finite.
const VALUE_MAX: f64 = 1e150;

/// The exponentially weighted mean and variance of a series, which one odd value
/// moves little and a new level soon.
///
/// A value that is more than four deviations off counts as if it were four off;
/// the next, if it is odd too, as eight, then sixteen. So a spike leaves little
/// behind, and after ten values at a new level they count in full.
///
/// S. W. Roberts, "Control Chart Tests Based on Geometric Moving Averages"
/// (1959), for the mean; P. J. Huber, "Robust Estimation of a Location
/// Parameter" (1964), for the limit.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Level {
    mean: f64,
    variance: f64,
    /// How many values there were, at most 2^32 - 1.
    count: u32,
    /// How many of the newest, in a row, were beyond the limit.
    streak: u32,
}

impl Level {
    /// The weighted mean, in the series' unit; 0 before the first value.
    pub fn mean(&self) -> f64 {
        self.mean
    }

    /// How many values it is made of.
    pub fn count(&self) -> u32 {
        self.count
    }

    /// The standard deviation, or the least that counts: never 0.
    pub fn deviation(&self) -> f64 {
        self.variance.sqrt().max(self.deviation_min())
    }

    /// The least deviation that counts on this level: a thousandth of it.
    pub fn deviation_min(&self) -> f64 {
        DEVIATION_MIN.max(DEVIATION_SHARE_MIN * self.mean.abs())
    }

    /// How far the value is from the mean, in deviations; negative below it.
    pub fn off(&self, value: f64) -> f64 {
        (cut(value) - self.mean) / self.deviation()
    }

    /// Takes in a finite value with this weight, from 0 to 1; the first ones
    /// weigh as much as makes a plain mean of them.
    pub fn push(&mut self, value: f64, weight: f64) {
        let value = cut(value);
        if self.count == 0 {
            *self = Self { mean: value, count: 1, ..Self::default() };
            return;
        }
        self.count = self.count.saturating_add(1);
        let mut distance = value - self.mean;
        if self.count > WARM {
            let limit = LIMIT * self.deviation();
            if distance.abs() <= limit {
                self.streak = 0;
            } else {
                let widened = limit * power_of_two(self.streak.min(STREAK_MAX));
                distance = distance.clamp(-widened, widened);
                self.streak = self.streak.saturating_add(1);
            }
        }
        let weight = weight.max(1.0 / f64::from(self.count));
        let step = weight * distance;
        self.mean += step;
        self.variance = (1.0 - weight) * (self.variance + step * distance);
    }

    /// Goes on elsewhere: the mean and the deviation are these, as if learned
    /// from so many values.
    pub fn restart(&mut self, mean: f64, deviation: f64, count: u32) {
        let deviation = cut(deviation);
        *self = Self {
            mean: cut(mean),
            variance: deviation * deviation,
            count: count.max(WARM),
            streak: 0,
        };
    }
}

/// After so many values a share of 1/e is left of the farthest.
const TAIL_VALUES: f32 = 30_000.0;

/// The farthest that counts, in deviations: a step on a series that never moved
/// has a number without meaning.
const OFF_MAX: f64 = 1e6;

/// How far a series has strayed at the most, in deviations, slowly forgotten: a
/// series that is full of bursts is not odd when it has one more.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Tail {
    farthest: f32,
}

impl Tail {
    /// How high a value stands that is so many deviations off: 1 at `threshold`
    /// deviations, or at the share of the farthest so far that `share` says, if
    /// that is more.
    pub fn height(&self, off: f64, threshold: f64, share: f64) -> f64 {
        off.abs().min(OFF_MAX) / self.reach(threshold, share)
    }

    /// From how many deviations on a value is odd.
    pub fn reach(&self, threshold: f64, share: f64) -> f64 {
        threshold.max(share * f64::from(self.farthest))
    }

    /// Takes in a value that is so many deviations off.
    pub fn push(&mut self, off: f64) {
        self.farthest -= self.farthest / TAIL_VALUES;
        self.farthest = self.farthest.max(off.abs().min(OFF_MAX) as f32);
    }
}

impl Saved for Tail {
    fn write(&self, bytes: &mut Vec<u8>) {
        bytes.extend_from_slice(&self.farthest.to_le_bytes());
    }

    fn read(bytes: &mut Reader<'_>) -> Option<Self> {
        Some(Self { farthest: bytes.f32()?.clamp(0.0, OFF_MAX as f32) })
    }
}

impl Saved for Level {
    fn write(&self, bytes: &mut Vec<u8>) {
        bytes.extend_from_slice(&self.mean.to_le_bytes());
        bytes.extend_from_slice(&self.variance.to_le_bytes());
        bytes.extend_from_slice(&self.count.to_le_bytes());
        bytes.extend_from_slice(&self.streak.to_le_bytes());
    }

    fn read(bytes: &mut Reader<'_>) -> Option<Self> {
        let (mean, variance) = (cut(bytes.f64()?), bytes.f64()?);
        let (count, streak) = (bytes.u32()?, bytes.u32()?);
        let variance = variance.clamp(0.0, VALUE_MAX * VALUE_MAX);
        Some(Self { mean, variance, count, streak })
    }
}

/// Two to this power, which must be at most 1,023: exact, and the same anywhere.
fn power_of_two(exponent: u32) -> f64 {
    f64::from_bits(u64::from(1023 + exponent) << 52)
}

fn cut(value: f64) -> f64 {
    value.clamp(-VALUE_MAX, VALUE_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Noise from -1 to 1, the same at each run.
    fn noise() -> impl Iterator<Item = f64> {
        let mut seed = 7_u64;
        std::iter::repeat_with(move || {
            seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (seed >> 11) as f64 / (1_u64 << 52) as f64 - 1.0
        })
    }

    fn level_of(values: impl Iterator<Item = f64>) -> Level {
        let mut level = Level::default();
        values.for_each(|value| level.push(value, 0.01));
        level
    }

    #[test]
    fn a_noise_has_its_mean_and_deviation() {
        let level = level_of(noise().map(|n| 100.0 + n).take(5000));
        assert!((level.mean() - 100.0).abs() < 0.15, "{level:?}");
        // A uniform noise from -1 to 1 strays by 0.577.
        assert!((level.deviation() - 0.577).abs() < 0.06, "{level:?}");
        assert!((level.off(102.0) - 3.46).abs() < 0.6);
    }

    #[test]
    fn a_spike_moves_little_and_a_new_level_is_found_soon() {
        let mut level = level_of(noise().take(2000));
        let before = level;
        level.push(1e9, 0.01);
        assert!((level.mean() - before.mean()).abs() < 0.05);
        assert!(level.deviation() < 1.1 * before.deviation());
        noise().take(1000).for_each(|n| level.push(500.0 + n, 0.01));
        assert!((level.mean() - 500.0).abs() < 1.0, "{level:?}");
    }

    #[test]
    fn a_constant_has_the_least_deviation_and_any_number_is_survived() {
        let level = level_of(std::iter::repeat_n(0.1, 1000));
        assert!((level.deviation() - 1e-4).abs() < 1e-12);
        assert_eq!(Level::default().deviation(), 1e-9);
        let extremes = [f64::MAX, f64::MIN, 0.0, f64::MIN_POSITIVE, -1e300];
        let mut level = Level::default();
        for value in extremes.iter().cycle().take(2000) {
            level.push(*value, 0.3);
            assert!(level.deviation().is_finite() && level.off(*value).is_finite(), "{level:?}");
        }
    }

    #[test]
    fn after_a_restart_it_learns_anew_from_there() {
        let mut level = level_of(noise().take(2000));
        let deviation = level.deviation();
        level.restart(50.0, deviation, 3);
        assert_eq!((level.mean(), level.deviation(), level.count()), (50.0, deviation, 16));
        (0..30).for_each(|_| level.push(51.0, 0.001));
        assert!((level.mean() - 50.6).abs() < 0.2, "{level:?}");
    }

    #[test]
    fn what_was_far_before_is_less_odd() {
        let mut tail = Tail::default();
        assert_eq!(tail.height(-12.0, 6.0, 0.5), 2.0);
        tail.push(-40.0);
        assert_eq!(tail.height(12.0, 6.0, 0.5), 0.6);
        (0..200_000).for_each(|_| tail.push(1.0));
        assert!(tail.height(12.0, 6.0, 0.5) == 2.0);
    }

    #[test]
    fn what_is_saved_goes_on() {
        let mut level = level_of(noise().take(100));
        let mut bytes = Vec::new();
        level.write(&mut bytes);
        assert_eq!(bytes.len(), 24);
        let mut again = Level::read(&mut Reader::new(&bytes)).unwrap();
        for value in noise().take(100) {
            level.push(value, 0.01);
            again.push(value, 0.01);
        }
        assert_eq!(level, again);
    }
}
