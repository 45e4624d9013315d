//! One side of a CUSUM chart.

use telltale_plugin::{Reader, Saved};

/// What has departed to one side is forgotten to a share of 1/e after so many
/// values.
const USUAL_VALUES: f32 = 10_000.0;

/// The farthest that a value counts in the mean, in deviations.
const OFF_MAX: f64 = 1e6;

/// Sums stop here, far above any threshold.
const SUM_MAX: f32 = 1e12;

/// A sum of what goes beyond a slack, which starts again whenever it falls to 0,
/// with the mean since it started: 16 bytes.
///
/// How far departures went that came back is remembered, so that a series which
/// departs often, for a shift or a burst now and then, must go farther.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Sum {
    sum: f32,
    /// How many values since it was 0.
    run: u32,
    /// What the values since then add up to, in deviations.
    total: f32,
    /// The farthest departure of before, in deviations; a short one counts by as
    /// much as it lasted.
    usual: f32,
}

impl Sum {
    /// Takes in a value that is `off` deviations off to this side. It counts up
    /// to `limit`, so that it takes many values to reach the threshold.
    pub fn push(&mut self, off: f64, slack: f64, limit: f64, min_run: u32) {
        self.usual -= self.usual / USUAL_VALUES;
        let step = (off / f64::from(self.usual).max(1.0)).clamp(-limit, limit) - slack;
        self.sum = (self.sum + step as f32).min(SUM_MAX);
        if self.sum > 0.0 {
            self.run = self.run.saturating_add(1);
            self.total = (self.total + off.clamp(-OFF_MAX, OFF_MAX) as f32).clamp(0.0, SUM_MAX);
        } else {
            self.end(min_run);
        }
    }

    /// How high the sum stands over a threshold, and no higher than how long it
    /// has lasted over the shortest run.
    pub fn height(&self, threshold: f64, min_run: u32) -> f64 {
        let lasted = f64::from(self.run) / f64::from(min_run);
        (f64::from(self.sum) / threshold).min(lasted)
    }

    /// For how many values it has departed.
    pub fn run(&self) -> u32 {
        self.run
    }

    /// How far it has departed on average since then, in deviations.
    pub fn departure(&self) -> f64 {
        f64::from(self.total) / f64::from(self.run.max(1))
    }

    /// Starts again; departures as far as this one are usual from now on.
    pub fn expect(&mut self, departure: f64) {
        let departure = departure.clamp(0.0, OFF_MAX) as f32;
        *self = Self { usual: self.usual.max(departure), ..Self::default() };
    }

    /// Starts again, as if nothing had departed.
    pub fn clear(&mut self) {
        *self = Self { usual: self.usual, ..Self::default() };
    }

    /// The departure is over: it was a usual one.
    fn end(&mut self, min_run: u32) {
        if self.run > 0 {
            let lasted = (self.run as f32 / min_run as f32).min(1.0);
            self.usual = self.usual.max(self.departure() as f32 * lasted);
        }
        self.clear();
    }

    /// The deviation is another one: what is counted in it is converted.
    pub fn rescale(&mut self, ratio: f64) {
        let usual = f64::from(self.usual) / ratio;
        *self = Self { usual: usual.clamp(0.0, OFF_MAX) as f32, ..Self::default() };
    }
}

impl Saved for Sum {
    fn write(&self, bytes: &mut Vec<u8>) {
        bytes.extend_from_slice(&self.sum.to_le_bytes());
        bytes.extend_from_slice(&self.run.to_le_bytes());
        bytes.extend_from_slice(&self.total.to_le_bytes());
        bytes.extend_from_slice(&self.usual.to_le_bytes());
    }

    fn read(bytes: &mut Reader<'_>) -> Option<Self> {
        let (sum, run) = (bytes.f32()?, bytes.u32()?);
        let (total, usual) = (bytes.f32()?, bytes.f32()?);
        let is_fit =
            [sum, total, usual].into_iter().all(|number| (0.0..=SUM_MAX).contains(&number));
        is_fit.then_some(Self { sum, run, total, usual })
    }
}
