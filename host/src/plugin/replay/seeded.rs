//! Made-up series, the same from the same seed: what a machine measures, with
//! its noise and the shape of its days.
//!
//! They stand in for a day of a real machine where a test or a benchmark needs
//! one that is quiet for certain.

use std::f64::consts::TAU;

use crate::model::{Kind, Labels, PluginName, SeriesKey, SeriesSpec};

const DAY_NS: u64 = 86_400_000_000_000;

/// What a series is like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// A processor's share: low, with short bursts, from 0 to 1.
    Share,
    /// Memory in use: a slow walk that is drawn back.
    Memory,
    /// Bytes a second: heavy-tailed, with bursts.
    Bytes,
    /// A load average: smooth, with the shape of the day.
    Load,
    /// A temperature: a daily wave and a digit's rounding.
    Temperature,
    /// A rate that is nearly always 0.
    Rare,
    /// A gauge that stands still and steps now and then.
    Steps,
    /// A number of connections: whole, around a daily mean.
    Count,
}

impl Shape {
    /// All of them, in turn.
    pub const ALL: [Self; 8] = [
        Self::Share,
        Self::Memory,
        Self::Bytes,
        Self::Load,
        Self::Temperature,
        Self::Rare,
        Self::Steps,
        Self::Count,
    ];
}

/// A made-up series under way.
#[derive(Clone, Debug)]
pub struct Seeded {
    shape: Shape,
    random: u64,
    /// Where in the day its highest point is, and how high its day is.
    phase: f64,
    swing: f64,
    scale: f64,
    /// A slow part: a walk, or the present step.
    slow: f64,
    /// How many values the burst under way still has.
    burst: u32,
}

impl Seeded {
    /// The series of a seed.
    #[must_use]
    pub fn new(seed: u64, shape: Shape) -> Self {
        let random = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x5851_f42d_4c95_7f2d;
        let mut seeded =
            Self { shape, random, phase: 0.0, swing: 0.0, scale: 0.0, slow: 0.0, burst: 0 };
        seeded.phase = seeded.uniform();
        seeded.swing = 0.1 + 0.4 * seeded.uniform();
        seeded.scale = 10f64.powf(3.0 * seeded.uniform());
        seeded
    }

    /// Its next value, at this time.
    pub fn next(&mut self, time_ns: u64) -> f64 {
        let of_day = (time_ns % DAY_NS) as f64 / DAY_NS as f64;
        let day = 1.0 + self.swing * (TAU * (of_day - self.phase)).cos();
        match self.shape {
            Shape::Share => {
                let burst = self.burst(2e-4, 20);
                let noise = 0.02 * self.normal().abs();
                (0.05 * day + noise + if burst { 0.3 + 0.2 * self.uniform() } else { 0.0 }).min(1.0)
            }
            Shape::Memory => {
                self.slow += 0.002 * self.normal() - 0.001 * self.slow;
                self.scale * 1e6 * (day + self.slow)
            }
            Shape::Bytes => {
                let burst = if self.burst(1e-3, 10) { 10.0 * self.uniform() } else { 0.0 };
                self.scale * 1000.0 * (day * (0.5 * self.normal()).exp() + burst)
            }
            Shape::Load => {
                self.slow = 0.98 * self.slow + 0.02 * self.normal();
                (day + self.slow).max(0.0)
            }
            Shape::Temperature => (10.0 * (40.0 + 8.0 * day + 0.3 * self.normal())).round() / 10.0,
            Shape::Rare => {
                if self.burst(5e-4, 5) {
                    (self.scale * self.uniform()).ceil()
                } else {
                    0.0
                }
            }
            Shape::Steps => {
                if self.uniform() < 1e-4 {
                    self.slow = (8.0 * self.uniform()).floor();
                }
                self.scale * (16.0 + self.slow)
            }
            Shape::Count => (self.scale * day + self.scale.sqrt() * self.normal()).round().max(0.0),
        }
    }

    /// Whether a burst is under way; one begins with this chance at each value,
    /// and has up to so many.
    fn burst(&mut self, chance: f64, most: u32) -> bool {
        if self.burst == 0 && self.uniform() < chance {
            self.burst = 1 + (self.uniform() * f64::from(most)) as u32;
        }
        let under_way = self.burst > 0;
        self.burst = self.burst.saturating_sub(1);
        under_way
    }

    /// Evenly from 0 to 1, by SplitMix64.
    pub fn uniform(&mut self) -> f64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = self.random;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        bits ^= bits >> 31;
        (bits >> 11) as f64 / (1u64 << 53) as f64
    }

    /// From the normal distribution, by Box and Muller.
    pub fn normal(&mut self) -> f64 {
        let (radius, angle) = (1.0 - self.uniform(), self.uniform());
        (-2.0 * radius.ln()).sqrt() * (TAU * angle).cos()
    }
}

/// What the `at`-th made-up series of a source is called. None if `source` can't
/// be a name.
#[must_use]
pub fn spec(source: &str, at: usize) -> Option<SeriesSpec> {
    let labels = Labels::new(vec![("n".into(), at.to_string().into())]).ok()?;
    let plugin = PluginName::from(source);
    let key = SeriesKey { plugin, name: format!("{source}.value").into(), labels };
    SeriesSpec::new(key, Kind::Gauge, "1".into(), "A made-up series".into()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_makes_the_same_series_and_another_one_another() {
        for shape in Shape::ALL {
            let run = |seed| {
                let mut seeded = Seeded::new(seed, shape);
                (0..20_000u64).map(|at| seeded.next(at * 1_000_000_000)).collect::<Vec<_>>()
            };
            let values = run(7);
            assert!(values.iter().all(|value| value.is_finite()), "{shape:?}");
            assert_eq!(values, run(7), "{shape:?}");
            assert_ne!(values, run(8), "{shape:?}");
        }
    }
}
