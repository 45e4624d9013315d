//! The next value from the last ones: recursive least squares.

use crate::coder::Coder;
/// How many features there are.
pub const FEATURES: usize = 6;

/// How fast the weights forget: over about 2,000 values.
const FORGETTING: f32 = 0.9995;

/// The spread of the weights at the start.
const SPREAD: f32 = 1.0;

/// Above this the spread has grown on features that don't move: it starts anew.
const SPREAD_MAX: f32 = 1e4;

/// No weight is larger than this.
const WEIGHT_MAX: f32 = 1e6;

/// A linear prediction whose weights follow the series (exponentially weighted
/// recursive least squares; see S. Haykin, Adaptive Filter Theory).
#[derive(Debug, Clone)]
pub struct Predictor {
    weights: [f32; FEATURES],
    spread: [[f32; FEATURES]; FEATURES],
}

impl Default for Predictor {
    fn default() -> Self {
        Self { weights: [0.0; FEATURES], spread: fresh_spread() }
    }
}

fn fresh_spread() -> [[f32; FEATURES]; FEATURES] {
    let mut spread = [[0.0; FEATURES]; FEATURES];
    for (at, row) in spread.iter_mut().enumerate() {
        row[at] = SPREAD;
    }
    spread
}

fn dot(a: &[f32; FEATURES], b: &[f32; FEATURES]) -> f32 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

impl Predictor {
    /// The prediction from these features.
    pub fn predict(&self, features: &[f32; FEATURES]) -> f32 {
        dot(&self.weights, features)
    }

    /// Learns that the prediction from these features was off by `error`.
    #[cfg_attr(target_arch = "wasm32", target_feature(enable = "simd128"))]
    pub fn learn(&mut self, features: &[f32; FEATURES], error: f32) {
        let mut gain = [0.0; FEATURES];
        for (gain, row) in gain.iter_mut().zip(&self.spread) {
            *gain = dot(row, features);
        }
        let share = 1.0 / (FORGETTING + dot(features, &gain));
        let mut trace = 0.0;
        for at in 0..FEATURES {
            self.weights[at] += gain[at] * share * error;
            for of in 0..FEATURES {
                let less = gain[at] * gain[of] * share;
                self.spread[at][of] = (self.spread[at][of] - less) * (1.0 / FORGETTING);
            }
            trace += self.spread[at][at];
        }
        // A NaN is in no range.
        if !self.weights.iter().all(|weight| (-WEIGHT_MAX..=WEIGHT_MAX).contains(weight)) {
            *self = Self::default();
        } else if !(0.0..SPREAD_MAX).contains(&trace) {
            self.spread = fresh_spread();
        }
    }

    /// Saves or restores it.
    pub fn code(&mut self, coder: &mut impl Coder) {
        coder.numbers(&mut self.weights);
        self.spread.iter_mut().for_each(|row| coder.numbers(row));
    }
}
