//! What the last values, and the time of day, lead to expect.

use crate::coder::Coder;
use crate::moment::Moment;
use crate::predict::{FEATURES, Predictor};
use crate::residual::Residual;

/// An error of more than so many usual ones teaches as much as that many.
const LESSON_MAX: f32 = 8.0;

/// After so many values errors are limited in what they teach.
const AGE_LIMITED: f32 = 100.0;

/// The first values teach nothing.
const AGE_MIN: f32 = 6.0;

/// Features are told in usual deviations, up to this many.
const FEATURE_MAX: f32 = 10.0;

/// The predictions of a series and their errors.
#[derive(Debug, Clone, Default)]
pub struct Forecast {
    /// The values of late.
    pub recent: Recent,
    predictor: Predictor,
    error_of_predictor: Residual,
    error_of_recent: Residual,
}

/// The values of late.
#[derive(Debug, Clone, Copy, Default)]
pub struct Recent {
    /// The last value.
    pub last: f32,
    before: f32,
    /// The mean of about the last four values.
    pub short: f32,
    /// The mean of about the last sixteen.
    pub long: f32,
    /// The mean of about the last five hundred.
    pub mean: f32,
    /// Their variance.
    pub variance: f32,
    /// What was usual at the time of the last value.
    usual: f32,
}

/// What was expected of a value.
#[derive(Debug, Clone, Copy, Default)]
pub struct Expected {
    /// The prediction.
    pub x: f32,
    /// How large an error of it is usual.
    pub scale: f32,
    /// How many usual errors the value is off, by the prediction or by the last
    /// few values, whichever says more.
    pub errors: f32,
}

impl Forecast {
    /// Compares the value with what was predicted, and learns from the errors.
    /// `usual` is what is usual at this time of day.
    pub fn judge(&mut self, moment: &Moment, usual: Option<f32>) -> Expected {
        let usual = usual.unwrap_or(self.recent.mean);
        let unit = self.recent.variance.sqrt().max(moment.error_min);
        let features = self.recent.features(usual, 1.0 / unit);
        let x = self.recent.last + unit * self.predictor.predict(&features);
        let (error, off) = (moment.x - x, moment.x - self.recent.short);
        let scale = self.error_of_predictor.scale(moment);
        let scale_of_recent = self.error_of_recent.scale(moment);
        let errors = (error.abs() / scale).max(off.abs() / scale_of_recent);

        let limit = if moment.age > AGE_LIMITED { LESSON_MAX } else { f32::MAX.sqrt() };
        let lesson = (error / scale).clamp(-limit, limit) * scale;
        let lesson_of_recent = (off / scale_of_recent).clamp(-limit, limit) * scale_of_recent;
        if moment.age >= AGE_MIN {
            self.predictor.learn(&features, lesson / unit);
        }
        self.error_of_predictor.learn(moment, lesson);
        self.error_of_recent.learn(moment, lesson_of_recent);
        self.recent.usual = usual;
        Expected { x, scale, errors }
    }

    /// Saves or restores it.
    pub fn code(&mut self, coder: &mut impl Coder) {
        self.recent.code(coder);
        self.predictor.code(coder);
        self.error_of_predictor.code(coder);
        self.error_of_recent.code(coder);
    }
}

impl Recent {
    /// What the next value is predicted from, `per_unit` usual deviations.
    fn features(&self, usual: f32, per_unit: f32) -> [f32; FEATURES] {
        let off = |of: f32, from: f32| ((of - from) * per_unit).clamp(-FEATURE_MAX, FEATURE_MAX);
        [
            off(self.last, self.before),
            off(self.short, self.last),
            off(self.long, self.last),
            off(self.mean, self.last),
            off(usual, self.last),
            off(usual, self.usual),
        ]
    }

    /// Takes in a value.
    pub fn learn(&mut self, moment: &Moment) {
        let x = moment.x;
        self.short += moment.rate(1.0 / 4.0) * (x - self.short);
        self.long += moment.rate(1.0 / 16.0) * (x - self.long);
        let off = x - self.mean;
        let rate = moment.rate(1.0 / 500.0);
        self.mean += rate * off;
        self.variance += rate * (off * off - self.variance);
        self.before = self.last;
        self.last = x;
    }

    fn code(&mut self, coder: &mut impl Coder) {
        let Self { last, before, short, long, mean, variance, usual } = self;
        for number in [last, before, short, long, mean, variance, usual] {
            coder.number(number);
        }
    }
}
