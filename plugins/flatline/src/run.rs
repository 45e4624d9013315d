//! How long a series stays where it is.

use telltale_plugin::{Reader, Saved};

use crate::settings::Settings;

/// How often a series moves is averaged over so many values.
const MOVES_VALUES: f64 = 1000.0;

/// More repeats of one run teach no more than these: a share of less than a
/// hundredth is left then of how often the series moved before.
const LEARNED_REPEATS_MAX: u32 = 5000;

/// After so many moves a share of 1/e is left of the longest run.
const LONGEST_MOVES: f64 = 20_000.0;

/// A run of so many values for each that a series takes to move is one by chance
/// in 500 million, or rarer: e to the power of -20.
const CHANCE: f64 = 20.0;

/// The run of one series: 32 bytes.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Run {
    /// The value that repeats.
    value: f64,
    /// How many values there were.
    count: u32,
    /// How often it has repeated in a row.
    repeats: u32,
    /// The share of values that were others than the one before.
    moves: f32,
    /// The longest run so far, in repeats, slowly forgotten.
    longest: f32,
}

/// A run that is judged.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Stopped {
    /// 1 at the threshold.
    pub height: f64,
    /// How often the value has repeated.
    pub repeats: u32,
    /// The longest run that was usual.
    pub longest: f64,
}

impl Run {
    /// Takes in a value; how far the run has come, if the series is one that
    /// moves.
    pub fn push(&mut self, value: f64, settings: &Settings) -> Option<Stopped> {
        let is_first = self.count == 0;
        self.count = self.count.saturating_add(1);
        let has_moved = (value - self.value).abs() > settings.tolerance * self.value.abs();
        if is_first || has_moved {
            self.end(settings);
            self.learn(1.0);
            self.value = value;
            return None;
        }
        self.repeats = self.repeats.saturating_add(1);
        let limit = self.limit(settings);
        let stopped = Stopped {
            height: f64::from(self.repeats) / limit,
            repeats: self.repeats,
            longest: f64::from(self.longest),
        };
        // What it was before the run says whether it is one that moves: the run
        // itself must not make it one that does not.
        let before = self.count.saturating_sub(self.repeats);
        (before > settings.min_values && f64::from(self.moves) >= settings.moves).then_some(stopped)
    }

    /// From how many repeats on a run is odd.
    fn limit(&self, settings: &Settings) -> f64 {
        let by_chance = CHANCE / f64::from(self.moves).max(1e-6);
        let by_longest = settings.factor * f64::from(self.longest);
        f64::from(settings.min_run).max(by_chance).max(by_longest)
    }

    /// The run is over: it counts among the others, one that was odd only up to
    /// where it became so.
    fn end(&mut self, settings: &Settings) {
        let counted = f64::from(self.repeats).min(self.limit(settings));
        for _ in 0..self.repeats.min(LEARNED_REPEATS_MAX).min(counted as u32) {
            self.learn(0.0);
        }
        self.longest -= self.longest / LONGEST_MOVES as f32;
        self.longest = self.longest.max(counted as f32);
        self.repeats = 0;
    }

    fn learn(&mut self, moved: f32) {
        let weight = (1.0 / MOVES_VALUES).max(1.0 / f64::from(self.count)) as f32;
        self.moves += weight * (moved - self.moves);
    }
}

impl Saved for Run {
    fn write(&self, bytes: &mut Vec<u8>) {
        bytes.extend_from_slice(&self.value.to_le_bytes());
        bytes.extend_from_slice(&self.count.to_le_bytes());
        bytes.extend_from_slice(&self.repeats.to_le_bytes());
        bytes.extend_from_slice(&self.moves.to_le_bytes());
        bytes.extend_from_slice(&self.longest.to_le_bytes());
    }

    fn read(bytes: &mut Reader<'_>) -> Option<Self> {
        let (value, count, repeats) = (bytes.f64()?, bytes.u32()?, bytes.u32()?);
        let moves = bytes.f32()?.clamp(0.0, 1.0);
        let longest = bytes.f32()?.clamp(0.0, u32::MAX as f32);
        Some(Self { value, count, repeats, moves, longest })
    }
}
