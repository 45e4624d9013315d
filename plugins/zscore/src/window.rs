//! The last values of one series, with their mean and deviation at hand.

/// A deviation is never taken for less than this share of the mean: a change
/// of a few ten-thousandths is nothing to wake somebody for, and the rounding
/// errors of a series that doesn't move are far below it.
const DEVIATION_SHARE_MIN: f64 = 1e-4;

/// The same for series whose mean is about 0, in the series' unit.
const DEVIATION_MIN: f64 = 1e-9;

/// When the sum of squares falls below this share of what it was, the rounding
/// errors of the large sum are all that is left of the small one.
const FALL_MIN: f64 = 1e-6;

/// The mean may be this many deviations away from the origin: four bytes hold
/// seven digits, so five of the deviation's are left.
const SHIFT_MAX: f64 = 16.0;

/// A ring of values with running sums: constant time for a value, 4 bytes each.
///
/// Values are kept as their distance from `origin`, which follows the mean: so
/// a small noise on a large level survives in the four bytes, and the sums
/// don't cancel each other out. All is summed afresh each time that the ring
/// has gone round, and after a large value has left it.
#[derive(Debug, Clone, Default)]
pub struct Window {
    origin: f64,
    /// The ring; full when its length is the window's.
    distances: Vec<f32>,
    /// The oldest, once the ring is full.
    next: usize,
    sum: f64,
    squares: f64,
    /// The largest that `squares` was since all was summed afresh.
    squares_max: f64,
}

/// What would be usual.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Usual {
    /// The mean of the window.
    pub mean: f64,
    /// The standard deviation of the window, or the least that counts.
    pub deviation: f64,
}

impl Window {
    /// An empty window with room for `length` values.
    pub fn new(length: usize) -> Self {
        Self::of(0.0, Vec::with_capacity(length))
    }

    /// A window of these distances from `origin`, oldest first. Its room is
    /// made by [`resize`](Self::resize).
    pub fn of(origin: f64, distances: Vec<f32>) -> Self {
        let mut window =
            Self { origin, distances, next: 0, sum: 0.0, squares: 0.0, squares_max: 0.0 };
        window.sum_afresh();
        window
    }

    /// How many values there are.
    pub fn len(&self) -> usize {
        self.distances.len()
    }

    /// Whether there is no value yet.
    pub fn is_empty(&self) -> bool {
        self.distances.is_empty()
    }

    /// Where the distances are counted from.
    pub fn origin(&self) -> f64 {
        self.origin
    }

    /// The newest `count` distances in two parts, oldest first.
    pub fn newest(&self, count: usize) -> (&[f32], &[f32]) {
        let (newer, older) = self.distances.split_at(self.next);
        let skip = self.len().saturating_sub(count);
        let skip_older = skip.min(older.len());
        (&older[skip_older..], &newer[skip - skip_older..])
    }

    /// Makes the window that long; of too many values the newest stay.
    pub fn resize(&mut self, length: usize) {
        let (older, newer) = self.newest(length);
        let mut distances = Vec::with_capacity(length);
        distances.extend_from_slice(older);
        distances.extend_from_slice(newer);
        *self = Self::of(self.origin, distances);
    }

    /// What is usual by the values so far, of which there must be two.
    pub fn usual(&self) -> Usual {
        let count = self.distances.len() as f64;
        let mean = self.sum / count;
        let variance = (self.squares - self.sum * mean) / (count - 1.0);
        let mean = self.origin + mean;
        let least = DEVIATION_MIN.max(DEVIATION_SHARE_MIN * mean.abs());
        // `max` also turns a NaN into the least.
        let deviation = variance.sqrt().max(least);
        Usual { mean, deviation }
    }

    /// Takes in a finite value; in a full window of `length` for the oldest.
    pub fn push(&mut self, value: f64, length: usize) {
        if self.is_empty() {
            self.origin = value;
        }
        let distance = narrow(value - self.origin);
        self.sum += f64::from(distance);
        self.squares += square(distance);
        self.squares_max = self.squares_max.max(self.squares);
        if self.distances.len() < length {
            self.distances.push(distance);
            return;
        }
        let oldest = std::mem::replace(&mut self.distances[self.next], distance);
        self.sum -= f64::from(oldest);
        self.squares -= square(oldest);
        self.next += 1;
        if self.next == length {
            self.next = 0;
            self.follow_the_mean();
        } else if self.squares < FALL_MIN * self.squares_max {
            self.sum_afresh();
        }
    }

    /// Moves the origin to the mean if the values have left it for good. One
    /// far value must not move it: it would take the others' digits.
    fn follow_the_mean(&mut self) {
        self.sum_afresh();
        let shift = self.sum / self.distances.len() as f64;
        let variance = self.squares / self.distances.len() as f64 - shift * shift;
        let origin = self.origin + shift;
        if shift * shift > variance * (SHIFT_MAX * SHIFT_MAX) && origin.is_finite() {
            self.origin = origin;
            for distance in &mut self.distances {
                *distance = narrow(f64::from(*distance) - shift);
            }
            self.sum_afresh();
        }
    }

    fn sum_afresh(&mut self) {
        self.sum = self.distances.iter().copied().map(f64::from).sum();
        self.squares = self.distances.iter().copied().map(square).sum();
        self.squares_max = self.squares;
    }
}

/// Rounds to what four bytes hold; never to infinity.
fn narrow(distance: f64) -> f32 {
    distance.clamp(f64::from(f32::MIN), f64::from(f32::MAX)) as f32
}

/// The square is exact, so that what goes into a sum can be taken out of it.
fn square(distance: f32) -> f64 {
    f64::from(distance) * f64::from(distance)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Noise from 0 to 1, the same at each run.
    fn noise() -> impl Iterator<Item = f64> {
        let mut seed = 42_u64;
        std::iter::repeat_with(move || {
            seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (seed >> 11) as f64 / (1_u64 << 53) as f64
        })
    }

    /// The mean and deviation of the values, in two passes.
    fn two_pass(values: &[f64]) -> (f64, f64) {
        let count = values.len() as f64;
        let shifted = |value: &f64| value - values[0];
        let mean = values.iter().map(shifted).sum::<f64>() / count;
        let squares: f64 = values.iter().map(|v| (shifted(v) - mean).powi(2)).sum();
        (values[0] + mean, (squares / (count - 1.0)).sqrt())
    }

    /// Compares with two passes after each value, once the first `settle` are
    /// in; errors are in standard deviations.
    #[track_caller]
    fn check(values: &[f64], settle: usize, error_max: f64) {
        let (length, mut window) = (50, Window::new(50));
        for (count, value) in values.iter().enumerate() {
            window.push(*value, length);
            if count < settle {
                continue;
            }
            let (mean, deviation) = two_pass(&values[(count + 1).saturating_sub(length)..=count]);
            let usual = window.usual();
            let least = DEVIATION_MIN.max(DEVIATION_SHARE_MIN * mean.abs());
            let expected = deviation.max(least);
            let errors = [usual.mean - mean, usual.deviation - expected];
            for error in errors {
                assert!(
                    error.abs() <= error_max * expected,
                    "{count}: {usual:?} {mean} {expected}"
                );
            }
        }
    }

    #[test]
    fn mean_and_deviation_are_those_of_two_passes() {
        check(&noise().take(1000).collect::<Vec<_>>(), 1, 1e-6);
        let ramp: Vec<_> = noise().take(1000).enumerate().map(|(i, n)| i as f64 + n).collect();
        check(&ramp, 1, 1e-5);
    }

    #[test]
    fn noise_on_a_large_level_survives() {
        // Wide enough to be above the least deviation that counts.
        let wide: Vec<_> = noise().take(1000).map(|n| 1e12 + 1e9 * n).collect();
        check(&wide, 1, 1e-5);
        // And the sums hold for one that is narrow.
        let mut window = Window::new(50);
        let narrow: Vec<_> = noise().take(1000).map(|n| 1e12 + n).collect();
        narrow.iter().for_each(|value| window.push(*value, 50));
        let count = window.len() as f64;
        let variance = (window.squares - window.sum * window.sum / count) / (count - 1.0);
        let (_, deviation) = two_pass(&narrow[950..]);
        assert!((variance.sqrt() / deviation - 1.0).abs() < 1e-3);
    }

    #[test]
    fn an_outlier_leaves_nothing_behind() {
        let mut values: Vec<_> = noise().take(400).collect();
        for (at, outlier) in [(60, 1e6), (130, -1e15), (207, 1e30)] {
            values[at] = outlier;
            // From the value on that pushes it out.
            let mut window = Window::new(50);
            values[..at + 50].iter().for_each(|value| window.push(*value, 50));
            window.push(values[at + 50], 50);
            let (_, deviation) = two_pass(&values[at + 1..=at + 50]);
            assert!((window.usual().deviation / deviation - 1.0).abs() < 1e-3, "{outlier}");
        }
    }

    #[test]
    fn a_new_level_is_exact_after_three_windows() {
        let levels = noise().enumerate().map(|(i, n)| if i < 75 { n } else { 1e9 + 1e6 * n });
        check(&levels.take(500).collect::<Vec<_>>(), 75 + 150, 1e-4);
    }

    #[test]
    fn a_constant_has_the_least_deviation() {
        let mut window = Window::new(10);
        (0..25).for_each(|_| window.push(0.1, 10));
        assert!((window.usual().mean - 0.1).abs() < 1e-12);
        assert!((window.usual().deviation - 1e-5).abs() < 1e-12);
        let mut zero = Window::new(10);
        (0..25).for_each(|_| zero.push(0.0, 10));
        assert_eq!(zero.usual(), Usual { mean: 0.0, deviation: 1e-9 });
    }

    #[test]
    fn the_largest_numbers_are_survived() {
        let mut window = Window::new(5);
        let extremes = [f64::MAX, f64::MIN, 0.0, f64::MIN_POSITIVE, -1e300, f64::MAX];
        for value in extremes.iter().cycle().take(100) {
            window.push(*value, 5);
            let usual = window.usual();
            assert!(usual.deviation > 0.0 && !usual.mean.is_nan());
        }
    }

    #[test]
    fn resizing_keeps_the_newest() {
        let mut window = Window::new(4);
        (0..6).for_each(|value| window.push(f64::from(value), 4));
        assert_eq!(window.newest(9).0.len() + window.newest(9).1.len(), 4);
        window.resize(3);
        let kept: Vec<_> =
            window.newest(3).0.iter().map(|d| window.origin + f64::from(*d)).collect();
        assert_eq!(kept, [3.0, 4.0, 5.0]);
        window.resize(5);
        window.push(6.0, 5);
        window.push(7.0, 5);
        window.push(8.0, 5);
        assert_eq!((window.len(), window.usual().mean), (5, 6.0));
    }
}
