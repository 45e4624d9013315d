//! The states that a series was in, as prototypes.
//!
//! Own code after the idea of adaptive resonance (G. Carpenter, S. Grossberg: a
//! state either belongs to a known prototype, which moves towards it, or makes
//! a new one) and of the distance to the nearest neighbour as a measure of
//! oddness (E. Knorr, R. Ng: distance-based outliers).

use crate::coder::Coder;
use crate::number::ln;

/// How many distances are compared at once.
const LANES: usize = 8;

/// Where prototypes stand that aren't taken yet: nearest to nothing.
const FAR: f32 = 1e30;

/// What one more use is worth, in values that pass: `300 ln(count)`.
const USE_WORTH: f32 = 300.0;

/// How far a prototype moves towards a state at least, and at most, as a share.
const MOVE_MIN: f32 = 0.05;
const MOVE_MAX: f32 = 0.5;

/// `M` prototypes of `D` numbers each, in raw units: a range that grows later
/// doesn't spoil what was learned before.
#[derive(Debug, Clone)]
pub struct Table<const D: usize, const M: usize> {
    places: [[f32; M]; D],
    /// When each was last of use, later for one that was of use often: the
    /// least is the one to give up.
    keys: [f32; M],
    counts: [u16; M],
    len: u16,
}

impl<const D: usize, const M: usize> Default for Table<D, M> {
    fn default() -> Self {
        Self { places: [[FAR; M]; D], keys: [0.0; M], counts: [0; M], len: 0 }
    }
}

impl<const D: usize, const M: usize> Table<D, M> {
    /// The nearest prototype and its mean distance over the `D` numbers. In Wasm
    /// with 128-bit vectors: without them all of a value takes twice as long.
    #[cfg_attr(target_arch = "wasm32", target_feature(enable = "simd128"))]
    pub fn nearest(&self, state: &[f32; D]) -> (usize, f32) {
        let mut least = [f32::MAX; LANES];
        let mut chunks = [0_u32; LANES];
        for chunk in 0..M / LANES {
            let mut distances = [0.0; LANES];
            for (row, of) in self.places.iter().zip(state) {
                let places = row[chunk * LANES..].first_chunk::<LANES>();
                for (distance, place) in distances.iter_mut().zip(places.into_iter().flatten()) {
                    *distance += (of - place).abs();
                }
            }
            for lane in 0..LANES {
                let is_nearer = distances[lane] < least[lane];
                least[lane] = if is_nearer { distances[lane] } else { least[lane] };
                chunks[lane] = if is_nearer { chunk as u32 } else { chunks[lane] };
            }
        }
        let mut lane = 0;
        for other in 1..LANES {
            if least[other] < least[lane] {
                lane = other;
            }
        }
        (chunks[lane] as usize * LANES + lane, least[lane] * (1.0 / D as f32))
    }

    /// Takes in the state, of which `at` is the nearest at `distance`: as a new
    /// prototype beyond `vigilance`, else the nearest moves towards it. `now`
    /// counts values.
    pub fn learn(&mut self, state: &[f32; D], at: usize, distance: f32, vigilance: f32, now: f32) {
        if self.is_empty() || distance > vigilance {
            self.insert(state, now);
            return;
        }
        let count = self.counts[at];
        let share = (1.0 / (f32::from(count) + 1.0)).clamp(MOVE_MIN, MOVE_MAX);
        for (row, of) in self.places.iter_mut().zip(state) {
            row[at] += share * (of - row[at]);
        }
        self.counts[at] = count.saturating_add(1);
        self.keys[at] = now + USE_WORTH * ln(f32::from(self.counts[at]));
    }

    /// A new prototype, for the one that was of least use if all are taken.
    fn insert(&mut self, state: &[f32; D], now: f32) {
        let mut at = self.len as usize;
        if at < M {
            self.len += 1;
        } else {
            let least = self.keys.iter().copied().fold(f32::MAX, f32::min);
            at = self.keys.iter().position(|key| *key == least).unwrap_or(0);
        }
        for (row, of) in self.places.iter_mut().zip(state) {
            row[at] = *of;
        }
        self.counts[at] = 1;
        self.keys[at] = now;
    }

    /// The numbers of a prototype.
    pub fn place(&self, at: usize) -> [f32; D] {
        std::array::from_fn(|of| self.places[of][at])
    }

    /// Whether nothing was learned yet.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Saves or restores it.
    pub fn code(&mut self, coder: &mut impl Coder) {
        self.places.iter_mut().for_each(|row| coder.numbers(row));
        coder.numbers(&mut self.keys);
        self.counts.iter_mut().for_each(|count| coder.half(count));
        coder.half(&mut self.len);
        self.len = self.len.min(M as u16);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_is_found_wherever_it_stands() {
        let mut table = Table::<2, 16>::default();
        for number in 0..16_u8 {
            let state = [f32::from(number), 2.0 * f32::from(number)];
            let (at, distance) = table.nearest(&state);
            table.learn(&state, at, distance, 0.5, f32::from(number));
        }
        for number in 0..16_u8 {
            let state = [f32::from(number) + 0.2, 2.0 * f32::from(number)];
            let (at, distance) = table.nearest(&state);
            assert_eq!(at, usize::from(number));
            assert!((distance - 0.1).abs() < 1e-6);
        }
    }

    #[test]
    fn the_one_of_least_use_is_given_up() {
        let mut table = Table::<1, 8>::default();
        let mut show = |x: f32, now: f32| {
            let (at, distance) = table.nearest(&[x]);
            table.learn(&[x], at, distance, 0.5, now);
            distance
        };
        (0..8_u8).for_each(|x| _ = show(f32::from(x) * 10.0, f32::from(x)));
        // The oldest was of use again, so the second goes.
        show(0.0, 20.0);
        show(500.0, 21.0);
        assert!(show(0.0, 22.0) < 0.1 && show(10.0, 23.0) > 0.5);
    }
}
