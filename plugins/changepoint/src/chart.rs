//! The charts of one series.

use telltale_plugin::{Level, Reader, Saved};

use crate::settings::Settings;
use crate::sum::Sum;

/// A value counts as so many deviations at the most: what is told is not how far
/// one value is, but for how long they are off.
const LIMIT: f64 = 4.0;

/// How far a series strays takes this many times as much to judge as where it
/// is: sizes have a longer tail.
const STRAY_FACTOR: f64 = 2.5;

/// And this many times as many values.
const STRAY_RUN: u32 = 3;

/// The slack of the sums of sizes, in their own deviations.
const STRAY_SLACK: f64 = 0.5;

/// A series with sizes below this is one that mostly stands still: of plain
/// noise they are 0.8.
const SIZE_MIN: f64 = 0.3;

/// Less than this share is not left of a deviation at once.
const RATIO_MIN: f64 = 0.05;

/// A series that follows itself more than this is not told from one that always
/// does.
const ECHO_MAX: f64 = 0.98;

/// How a series follows itself is learned by this share of the weight of a
/// value: while it departs it does so more than usual.
const ECHO_WEIGHT: f64 = 0.25;

/// What is known of one series: 144 bytes.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Chart {
    level: Level,
    /// The distances from the level, in deviations, without their sign.
    size: Level,
    up: Sum,
    down: Sum,
    wider: Sum,
    narrower: Sum,
    level_echo: Echo,
    size_echo: Echo,
}

/// A change that has been found, or is on its way.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Change {
    /// 1 at the threshold.
    pub height: f64,
    /// Whether the level changes; else it is how far the series strays.
    pub is_level: bool,
    /// The level or the deviation before, in the series' unit.
    pub before: f64,
    /// The same since the change began.
    pub after: f64,
    /// The level at which the series was, and its deviation then.
    pub level: f64,
    /// How far the series strayed before.
    pub deviation: f64,
    /// For how many values it has lasted.
    pub run: u32,
}

impl Chart {
    /// Takes in a value; what is most of a change, once enough is known. After
    /// one that is found the series is judged by what it is now.
    pub fn push(&mut self, value: f64, settings: &Settings) -> Option<Change> {
        let (off, weight) = (self.level.off(value), settings.weight());
        let is_known = self.level.count() >= settings.min_values;
        let change = is_known.then(|| self.judge(off, settings));
        match change.filter(|change| change.height >= 1.0) {
            Some(change) if change.is_level => self.follow_level(&change),
            Some(change) => self.follow_deviation(&change),
            None => self.level.push(value, weight),
        }
        // Until the level is known, so are no distances from it.
        if is_known || self.level.count() > settings.min_values / 2 {
            let size = off.abs().min(LIMIT);
            let size_off = self.size.off(size);
            self.size.push(size, weight);
            self.level_echo.push(off, ECHO_WEIGHT * weight);
            self.size_echo.push(size_off, ECHO_WEIGHT * weight);
        }
        change
    }

    fn judge(&mut self, off: f64, settings: &Settings) -> Change {
        let Settings { min_run, slack, threshold, .. } = *settings;
        let echo = self.level_echo.inflation();
        let limit = LIMIT * echo.sqrt();
        self.up.push(off, slack, limit, min_run);
        self.down.push(-off, slack, limit, min_run);
        let up = self.up.height(threshold * echo, min_run);
        let down = self.down.height(threshold * echo, min_run);

        let echo = self.size_echo.inflation();
        let (size, limit) = (self.size.off(off.abs().min(LIMIT)), LIMIT * echo.sqrt());
        let (stray_run, stray) = (STRAY_RUN * min_run, STRAY_FACTOR * threshold * echo);
        let mut heights = [up, down, 0.0, 0.0];
        if self.size.mean() >= SIZE_MIN {
            self.wider.push(size, STRAY_SLACK, limit, stray_run);
            self.narrower.push(-size, STRAY_SLACK, limit, stray_run);
            heights[2] = self.wider.height(stray, stray_run);
            heights[3] = self.narrower.height(stray, stray_run);
        }
        let most = (1..4).fold(0, |most, at| if heights[at] > heights[most] { at } else { most });
        self.change(most, heights[most])
    }

    /// The change that one of the sums stands for.
    fn change(&self, which: usize, height: f64) -> Change {
        let (level, deviation) = (self.level.mean(), self.level.deviation());
        let (is_level, sum, sign) = match which {
            0 => (true, &self.up, 1.0),
            1 => (true, &self.down, -1.0),
            2 => (false, &self.wider, 1.0),
            _ => (false, &self.narrower, -1.0),
        };
        let departure = sign * sum.departure();
        let (before, after) = if is_level {
            (level, level + departure * deviation)
        } else {
            let size = self.size.mean();
            let ratio = (size + departure * self.size.deviation()) / size.max(SIZE_MIN);
            (deviation, deviation * ratio.max(RATIO_MIN))
        };
        Change { height, is_level, before, after, level, deviation, run: sum.run() }
    }

    fn follow_level(&mut self, change: &Change) {
        let departure = (change.after - change.before).abs() / change.deviation;
        self.level.restart(change.after, change.deviation, change.run);
        self.up.expect(departure);
        self.down.expect(departure);
        self.wider.clear();
        self.narrower.clear();
    }

    fn follow_deviation(&mut self, change: &Change) {
        let departure = self.wider.departure().max(self.narrower.departure());
        self.level.restart(change.level, change.after, self.level.count());
        let ratio = change.after / change.before;
        self.up.rescale(ratio);
        self.down.rescale(ratio);
        self.wider.expect(departure);
        self.narrower.expect(departure);
    }
}

/// How much each value of a series is like the one before it.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
struct Echo {
    last: f32,
    product: f32,
    power: f32,
}

impl Echo {
    /// A far value is cut, so that one change does not look like a habit.
    fn push(&mut self, off: f64, weight: f64) {
        let (off, weight) = (off.clamp(-2.0, 2.0) as f32, weight as f32);
        self.product += weight * (off * self.last - self.product);
        self.power += weight * (off * off - self.power);
        self.last = off;
    }

    /// By how much values that follow each other make the variance of their sums
    /// larger than that of as many independent ones, as in an autoregressive
    /// series of the first order.
    fn inflation(&self) -> f64 {
        let echo = f64::from(self.product) / f64::from(self.power).max(1e-9);
        let echo = echo.clamp(0.0, ECHO_MAX);
        (1.0 + echo) / (1.0 - echo)
    }
}

impl Saved for Echo {
    fn write(&self, bytes: &mut Vec<u8>) {
        let Self { last, product, power } = self;
        [last, product, power].iter().for_each(|one| bytes.extend_from_slice(&one.to_le_bytes()));
    }

    fn read(bytes: &mut Reader<'_>) -> Option<Self> {
        let mut next = || bytes.f32().map(|one| one.clamp(-4.0, 4.0));
        Some(Self { last: next()?, product: next()?, power: next()?.max(0.0) })
    }
}

impl Saved for Chart {
    fn write(&self, bytes: &mut Vec<u8>) {
        self.level.write(bytes);
        self.size.write(bytes);
        [self.up, self.down, self.wider, self.narrower].iter().for_each(|sum| sum.write(bytes));
        self.level_echo.write(bytes);
        self.size_echo.write(bytes);
    }

    fn read(bytes: &mut Reader<'_>) -> Option<Self> {
        Some(Self {
            level: Level::read(bytes)?,
            size: Level::read(bytes)?,
            up: Sum::read(bytes)?,
            down: Sum::read(bytes)?,
            wider: Sum::read(bytes)?,
            narrower: Sum::read(bytes)?,
            level_echo: Echo::read(bytes)?,
            size_echo: Echo::read(bytes)?,
        })
    }
}
