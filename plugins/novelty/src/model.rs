//! The model of one series: novelty and surprise, and how they add up.

use crate::coder::Coder;
use crate::forecast::{Expected, Forecast};
use crate::moment::Moment;
use crate::profile::Profile;
use crate::repeat::Repeat;
use crate::states::{Kind, States};
use crate::tail::Tail;

/// How many numbers a strength is made of.
pub const PARTS: usize = 6;

/// The value alone.
const LEVEL: Kind = Kind { vigilance: 0.02, decay: 1e-4 };

/// The value with the last few and the last dozen.
const COURSE: Kind = Kind { vigilance: 0.05, decay: 2e-4 };

/// The distance from what is usual at the time of day, smoothed.
const SEASON: Kind = Kind { vigilance: 0.03, decay: 5e-4 };

/// The change since the last value.
const JUMP: Kind = Kind { vigilance: 0.02, decay: 0.0 };

/// How fast the distance from the usual is smoothed.
const SEASON_RATE: f32 = 1.0 / 6.0;

/// The rarity's unit: about 1 at what is possible.
const RARITY: f32 = 0.01;

/// The parts of a strength.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// How far the value is from all known ones, as a share of the range.
    Level,
    /// The same of the value with the course that led to it.
    Course,
    /// The same of the distance from what is usual at this time of day.
    Season,
    /// The same of the change since the last value.
    Jump,
    /// How rare the novelty of the course is: -log10 / 100.
    Rarity,
    /// How many usual errors the value is from what was expected.
    Surprise,
}

/// All parts, in their order.
pub const ALL_PARTS: [Part; PARTS] =
    [Part::Level, Part::Course, Part::Season, Part::Jump, Part::Rarity, Part::Surprise];

/// How the parts add up.
#[derive(Debug, Clone, Copy)]
pub struct Weights {
    /// Of the parts that tell novelty.
    pub novelty: [f32; PARTS - 1],
    /// What novelty counts when the value was expected.
    pub alone: f32,
    /// What it counts more for each usual error.
    pub surprising: f32,
    /// What each usual error counts by itself.
    pub surprise: f32,
    /// More errors than these count as these.
    pub errors_max: f32,
}

/// The weights of the detector as it is shipped.
pub const WEIGHTS: Weights = Weights {
    novelty: [16.0, 22.0, 8.0, 9.0, 6.5],
    alone: 0.295,
    surprising: 0.033,
    surprise: 0.0071,
    errors_max: 22.0,
};

impl Weights {
    /// What each part adds to the strength.
    pub fn shares(&self, parts: &[f32; PARTS]) -> [f32; PARTS] {
        let errors = parts[PARTS - 1].min(self.errors_max);
        let factor = self.alone + self.surprising * errors;
        let mut shares = [self.surprise * errors; PARTS];
        for ((share, weight), part) in shares.iter_mut().zip(&self.novelty).zip(parts) {
            *share = weight * part * factor;
        }
        shares
    }

    /// The strength of these parts.
    pub fn strength(&self, parts: &[f32; PARTS]) -> f32 {
        self.shares(parts).iter().sum()
    }
}

/// What is known of a series.
#[derive(Debug, Clone, Default)]
pub struct Model {
    levels: States<1>,
    courses: States<3>,
    seasons: States<1>,
    jumps: States<1>,
    tail: Tail,
    /// The last distances from what is usual at the time of day, smoothed.
    off_season: f32,
    profile: Profile,
    forecast: Forecast,
    repeat: Repeat,
}

/// What the model says of a value.
#[derive(Debug, Clone, Copy, Default)]
pub struct Said {
    /// From 1 on it is odd.
    pub strength: f32,
    /// What each part says.
    pub parts: [f32; PARTS],
    /// What was expected.
    pub expected: Expected,
}

impl Model {
    /// Judges a value by those before it, then takes it in.
    pub fn judge(&mut self, weights: &Weights, moment: &Moment) -> Said {
        let usual = self.profile.at(moment.second_of_day);
        let expected = self.forecast.judge(moment, usual);
        let jump = moment.x - self.forecast.recent.last;
        self.forecast.recent.learn(moment);
        let off = usual.map_or(0.0, |usual| moment.x - usual);
        self.off_season += SEASON_RATE * (off - self.off_season);
        self.profile.learn(moment);

        let recent = &self.forecast.recent;
        let level = self.levels.compare(moment, [moment.x]);
        let course = self.courses.compare(moment, [moment.x, recent.short, recent.long]);
        let season = self.seasons.compare(moment, [self.off_season]);
        let jump = self.jumps.compare(moment, [jump]);
        let rarity = RARITY * self.tail.rarity(course.novelty(moment).sqrt(), moment);
        let parts = [
            level.novelty(moment),
            course.novelty(moment),
            season.novelty(moment),
            jump.novelty(moment),
            rarity,
            expected.errors,
        ];
        let strength = weights.strength(&parts);

        let under_alarm = self.repeat.withholds(strength, moment);
        self.levels.learn(LEVEL, moment, &level, under_alarm);
        self.courses.learn(COURSE, moment, &course, under_alarm);
        self.seasons.learn(SEASON, moment, &season, under_alarm);
        self.jumps.learn(JUMP, moment, &jump, under_alarm);
        Said { strength, parts, expected }
    }

    /// The values of late.
    pub fn forecast(&self) -> &Forecast {
        &self.forecast
    }

    /// Saves or restores it.
    pub fn code(&mut self, coder: &mut impl Coder) {
        self.levels.code(coder);
        self.courses.code(coder);
        self.seasons.code(coder);
        self.jumps.code(coder);
        self.tail.code(coder);
        coder.number(&mut self.off_season);
        self.profile.code(coder);
        self.forecast.code(coder);
        self.repeat.code(coder);
    }
}
