//! All that is known of one series, and where a value stands to it.

use telltale_plugin::{Level, Reader, Saved, Tail};

use crate::profile::Profile;
use crate::settings::Settings;
use crate::week::{self, DAY_BINS, Place, WEEK_BINS};

const HOUR_NS: f64 = 3.6e12;

/// A value weighs no more than this in the level, however far apart they come.
const WEIGHT_MAX: f64 = 0.02;

/// The level alone is learned over so many times the hours of the level beside
/// a season: it has to know a day and a night.
const LEVEL_FACTOR: f64 = 8.0;

/// A season is believed once it has predicted so many values.
const PREDICTED_MIN: u32 = 50;

/// The least that counts as straying, as a share of what is expected.
const STRAY_SHARE_MIN: f64 = 1e-3;

/// The same for series that are about 0, in the series' unit.
const STRAY_MIN: f64 = 1e-9;

/// Values are cut at this, so that squares and sums are finite.
const VALUE_MAX: f64 = 1e100;

/// Which of the predictions was believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layer {
    /// The level alone.
    Level,
    /// The time of day.
    Day,
    /// The time of the week.
    Week,
}

/// The profiles of one series: under 2.6 KiB.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Season {
    /// When the first value came, and the last, in nanoseconds since 1970.
    first_ns: u64,
    last_ns: u64,
    /// Where the profiles count from, so that four bytes hold a small season on a
    /// large level.
    origin: f64,
    /// The values themselves.
    level: Level,
    /// How far they are from the day's profile, and from the week's: where the
    /// series is now, beside how it goes.
    beside: [Level; 2],
    /// Of each layer.
    tails: [Tail; 3],
    day: Profile<DAY_BINS>,
    week: Profile<WEEK_BINS>,
}

/// Where a value stands.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Compared {
    /// 1 at the threshold.
    pub height: f64,
    /// Deviations from what was expected, negative below it.
    pub off: f64,
    /// What was expected, in the series' unit.
    pub expected: f64,
    /// How far from that would have been usual.
    pub reach: f64,
    /// Who expected it.
    pub layer: Layer,
}

/// A prediction.
#[derive(Debug, Clone, Copy)]
struct Guess {
    layer: Layer,
    expected: f64,
    deviation: f64,
    /// What the profile says, without the level beside it.
    profile: f64,
}

impl Season {
    /// Takes in a value; where it stands, once the series has been seen for long
    /// enough.
    pub fn push(&mut self, time_ns: u64, value: f64, settings: &Settings) -> Option<Compared> {
        let value = value.clamp(-VALUE_MAX, VALUE_MAX);
        if self.level.count() == 0 {
            (self.first_ns, self.last_ns, self.origin) = (time_ns, time_ns, value);
        }
        let places = [week::of_day(time_ns), week::of_week(time_ns)];
        let guesses = self.guesses(places);
        let best = self.best(guesses, places);
        let compared = self.compare(time_ns, value, best, settings);
        let elapsed = time_ns.saturating_sub(self.last_ns) as f64;
        self.learn(value, elapsed, places, guesses, settings);
        self.last_ns = time_ns;
        compared
    }

    /// What each season predicts, as far as it knows this time.
    fn guesses(&self, places: [Place; 2]) -> [Option<Guess>; 2] {
        let [day, week] = places;
        let guess = |layer, profile: Option<f64>, beside: &Level| {
            profile.map(|profile| {
                let profile = self.origin + profile;
                let expected = profile + beside.mean();
                Guess { layer, expected, deviation: beside.deviation(), profile }
            })
        };
        [
            guess(Layer::Day, self.day.at(day), &self.beside[0]),
            guess(Layer::Week, self.week.at(week), &self.beside[1]),
        ]
    }

    /// The prediction that has strayed least of late; the week's if it is as good
    /// as another.
    fn best(&self, guesses: [Option<Guess>; 2], [day, week]: [Place; 2]) -> Guess {
        let (expected, deviation) = (self.level.mean(), self.level.deviation());
        let mut best = Guess { layer: Layer::Level, expected, deviation, profile: 0.0 };
        for (at, guess) in guesses.into_iter().enumerate() {
            let is_proven = self.beside[at].count() >= PREDICTED_MIN;
            if let Some(guess) =
                guess.filter(|guess| is_proven && guess.deviation <= best.deviation)
            {
                best = guess;
            }
        }
        let stray = match best.layer {
            Layer::Level => 0.0,
            Layer::Day => self.day.stray(day),
            Layer::Week => self.week.stray(week),
        };
        let least = STRAY_MIN.max(STRAY_SHARE_MIN * best.expected.abs());
        Guess { deviation: best.deviation.max(stray).max(least), ..best }
    }

    fn compare(
        &mut self,
        time_ns: u64,
        value: f64,
        best: Guess,
        settings: &Settings,
    ) -> Option<Compared> {
        let hours = time_ns.saturating_sub(self.first_ns) as f64 / HOUR_NS;
        if hours < settings.min_hours || self.level.count() < settings.min_values {
            return None;
        }
        let off = (value - best.expected) / best.deviation;
        let (threshold, share) = (settings.threshold, settings.tail);
        let tail = &mut self.tails[best.layer as usize];
        let height = tail.height(off, threshold, share);
        let reach = tail.reach(threshold, share) * best.deviation;
        tail.push(off);
        Some(Compared { height, off, expected: best.expected, reach, layer: best.layer })
    }

    fn learn(
        &mut self,
        value: f64,
        elapsed_ns: f64,
        [day, week]: [Place; 2],
        guesses: [Option<Guess>; 2],
        settings: &Settings,
    ) {
        let weight = (elapsed_ns / (HOUR_NS * settings.level_hours)).min(WEIGHT_MAX);
        self.level.push(value, weight / LEVEL_FACTOR);
        for (beside, guess) in self.beside.iter_mut().zip(guesses) {
            if let Some(guess) = guess {
                beside.push(value - guess.profile, weight);
            }
        }
        let off = |guess: Option<Guess>| guess.map_or(0.0, |guess| value - guess.expected);
        self.day.push(day, value - self.origin, off(guesses[0]), settings.learn);
        self.week.push(week, value - self.origin, off(guesses[1]), settings.learn);
    }
}

impl Saved for Box<Season> {
    fn write(&self, bytes: &mut Vec<u8>) {
        bytes.extend_from_slice(&self.first_ns.to_le_bytes());
        bytes.extend_from_slice(&self.last_ns.to_le_bytes());
        bytes.extend_from_slice(&self.origin.to_le_bytes());
        self.level.write(bytes);
        self.beside.iter().for_each(|beside| beside.write(bytes));
        self.tails.iter().for_each(|tail| tail.write(bytes));
        self.day.write(bytes);
        self.week.write(bytes);
    }

    fn read(bytes: &mut Reader<'_>) -> Option<Self> {
        Some(Self::new(Season {
            first_ns: bytes.u64()?,
            last_ns: bytes.u64()?,
            origin: bytes.f64()?.clamp(-VALUE_MAX, VALUE_MAX),
            level: Level::read(bytes)?,
            beside: [Level::read(bytes)?, Level::read(bytes)?],
            tails: [Tail::read(bytes)?, Tail::read(bytes)?, Tail::read(bytes)?],
            day: Profile::read(bytes)?,
            week: Profile::read(bytes)?,
        }))
    }
}
