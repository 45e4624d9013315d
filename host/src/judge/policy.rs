//! The policy: which scores are told. A detector says how odd each value is;
//! how often somebody is woken is settled here, for all detectors alike.
//!
//! No I/O, and no knowledge of findings: the judge and `backtest` ask it the
//! same questions.

/// Settings of the policy for one series of one detector.
///
/// A score `s` stands for a strength of `s / (1 - s)`, so that a half is 1 and
/// strengths can be compared: three times as strong is three times as far
/// beyond what the detector takes for usual.
#[derive(Clone, Debug, PartialEq)]
pub struct Policy {
    /// From this score on a value may open a finding. Above 0, up to 1.
    pub open: f64,
    /// An open finding goes on while scores reach this; at most `open`.
    pub close: f64,
    /// So many successive values below `close` end it. At least 1.
    pub close_after: u32,
    /// So many successive values must reach `open` before it opens.
    pub hold: u32,
    /// For so many values after an opening there is no other …
    pub quiet: u32,
    /// … but for one that is more than so many times as strong as the last.
    pub again: f64,
    /// What each opening adds to the strength that the next one needs: a share.
    pub habituation: f64,
    /// After so many values a share of 1/e is left of that.
    pub habituation_values: u32,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            open: 0.5,
            close: 0.4,
            close_after: 5,
            hold: 1,
            quiet: 15,
            again: 5.0,
            habituation: 0.1,
            habituation_values: 1000,
        }
    }
}

/// Below this what is left of openings makes no difference any more, and is
/// forgotten: with the default habituation it is a change of strength by 0.01 %.
const HABIT_MIN: f64 = 1e-3;

/// What was told of one series lately, and what that asks of the next score.
/// One that is over is as good as new, and equal to it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Calm {
    /// The strength that was told last; 0 once nothing depends on it.
    last: f64,
    /// How many values ago.
    ago: u32,
    /// Successive values that reach `open`.
    held: u32,
    /// How much was told lately: one for each opening, fading.
    habit: f64,
}

/// What becomes of a score.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Heard {
    /// The score after the policy: 0 in a quiet time, lower after many openings.
    pub score: f64,
    /// Whether it is told: it opens a finding, or an open one has become much
    /// stronger.
    pub told: bool,
}

impl Calm {
    /// Hears the score of the series' next value. Scores are from 0 to 1.
    pub fn hear(&mut self, policy: &Policy, score: f64) -> Heard {
        self.fade(policy);
        let strength = strength(score) / (1.0 + policy.habituation * self.habit);
        let quiet = self.last > 0.0;
        if quiet && strength <= policy.again * self.last {
            self.held = 0;
            return Heard { score: 0.0, told: false };
        }
        let odd = strength >= self::strength(policy.open);
        self.held = if odd { self.held.saturating_add(1) } else { 0 };
        let told = odd && self.held >= policy.hold;
        if told {
            (self.last, self.ago) = (strength, 0);
            self.habit += if quiet { 0.5 } else { 1.0 };
        }
        // At the threshold a rounding must not part the score from what is told.
        let score = strength / (1.0 + strength);
        let score = if odd { score.max(policy.open) } else { score.min(policy.open.next_down()) };
        Heard { score, told }
    }

    /// Lets a value pass of which nobody is told, whatever its score.
    pub fn pass(&mut self, policy: &Policy) {
        self.fade(policy);
        self.held = 0;
    }

    /// Whether it is as good as new, so that it need not be kept.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.last == 0.0 && self.held == 0 && self.habit == 0.0
    }

    /// One value further away from what was told.
    fn fade(&mut self, policy: &Policy) {
        // Most series have been told of nothing, and cost no exponential.
        if self.habit > 0.0 {
            self.habit *= (-1.0 / f64::from(policy.habituation_values.max(1))).exp();
            if self.habit < HABIT_MIN {
                self.habit = 0.0;
            }
        }
        if self.last > 0.0 {
            self.ago = self.ago.saturating_add(1);
            if self.ago > policy.quiet {
                (self.last, self.ago) = (0.0, 0);
            }
        }
    }
}

/// A score's strength; at most a million, where a score is 1.
fn strength(score: f64) -> f64 {
    const STRENGTH_MAX: f64 = 1e6;
    (score / (1.0 - score)).min(STRENGTH_MAX)
}

#[cfg(test)]
mod tests {
    use rand::rngs::StdRng;
    use rand::{RngExt as _, SeedableRng};

    use super::*;

    /// Which of these scores are told, by their places.
    fn told(policy: &Policy, scores: impl IntoIterator<Item = f64>) -> Vec<usize> {
        let mut calm = Calm::default();
        let told = scores.into_iter().map(|score| calm.hear(policy, score).told);
        told.enumerate().filter_map(|(at, told)| told.then_some(at)).collect()
    }

    /// A score for a strength, give or take a rounding.
    fn score(strength: f64) -> f64 {
        strength / (1.0 + strength)
    }

    /// Without quiet times, habituation and hysteresis.
    fn plain() -> Policy {
        Policy { quiet: 0, habituation: 0.0, ..Policy::default() }
    }

    /// Mostly calm, now and then odd, sometimes very.
    fn scores(seed: u64, count: usize) -> Vec<f64> {
        let mut random = StdRng::seed_from_u64(seed);
        let mut score = || {
            let odd = random.random::<f64>() < 0.05;
            let height: f64 = random.random();
            if odd { score(20.0 * height * height) } else { 0.5 * height }
        };
        (0..count).map(|_| score()).collect()
    }

    #[test]
    fn without_a_quiet_time_each_score_at_the_threshold_is_told() {
        let policy = Policy { open: 0.6, ..plain() };
        assert_eq!(told(&policy, [0.59, 0.6, 0.6, 1.0, 0.0, 0.61]), [1, 2, 3, 5]);
    }

    #[test]
    fn in_a_quiet_time_only_what_is_so_many_times_as_strong_is_told() {
        let policy = Policy { quiet: 3, habituation: 0.0, again: 3.0, ..Policy::default() };
        // Three values after an opening are quiet, the fourth is not.
        assert_eq!(told(&policy, [0.5, 0.7, 0.7, 0.7, 0.7]), [0, 4]);
        // Strength 1, then 2.9 and 3.1; that one begins the quiet time anew.
        let scores = [1.0, 2.9, 3.1, 9.0, 9.0, 9.0, 3.0].map(score);
        assert_eq!(told(&policy, scores), [0, 2, 6]);
        let mut calm = Calm::default();
        calm.hear(&policy, 0.5);
        assert_eq!(calm.hear(&policy, 0.7), Heard { score: 0.0, told: false });
    }

    #[test]
    fn alarms_in_a_quiet_time_rise_by_that_factor_whatever_comes() {
        let policy = Policy { quiet: 40, habituation: 0.0, again: 3.0, ..Policy::default() };
        for seed in 0..50 {
            let scores = scores(seed, 2000);
            let told = told(&policy, scores.iter().copied());
            assert!(told.len() > 10, "{seed}");
            for pair in told.windows(2) {
                let (before, after) = (strength(scores[pair[0]]), strength(scores[pair[1]]));
                let quiet = pair[1] - pair[0] <= 40;
                assert!(!quiet || after > 3.0 * before, "seed {seed}: {pair:?}");
            }
        }
    }

    #[test]
    fn a_score_after_the_policy_reaches_the_threshold_exactly_where_it_could_be_told() {
        let policy = Policy::default();
        for seed in 0..50 {
            let mut calm = Calm::default();
            for score in scores(seed, 2000) {
                let heard = calm.hear(&policy, score);
                assert_eq!(heard.told, heard.score >= policy.open, "seed {seed}");
                assert!(heard.score <= score + 1e-12);
            }
        }
    }

    #[test]
    fn who_is_told_often_needs_more_and_forgets() {
        let policy = Policy { quiet: 0, habituation: 0.5, ..Policy::default() };
        let mut calm = Calm::default();
        assert!(calm.hear(&policy, score(1.2)).told);
        assert!(!calm.hear(&policy, score(1.2)).told, "1.2 is not half as much again");
        assert!(calm.hear(&policy, score(1.6)).told);
        let mut waited = 0;
        while !calm.is_over() {
            calm.hear(&policy, 0.0);
            waited += 1;
        }
        // Two openings fade to a thousandth in 1000 * ln 2000 values.
        assert!((7500..7700).contains(&waited), "{waited}");
        assert_eq!(calm, Calm::default());
        assert!(calm.hear(&policy, score(1.2)).told);
    }

    #[test]
    fn a_minimum_duration_is_of_successive_values() {
        let policy = Policy { hold: 3, ..plain() };
        assert_eq!(told(&policy, [0.9, 0.9, 0.4, 0.9, 0.9, 0.9, 0.9, 0.1, 0.9]), [5, 6]);
        let policy = Policy { hold: 2, quiet: 3, ..plain() };
        assert_eq!(told(&policy, [0.9; 7]), [1, 6], "a quiet value is none of them");
    }

    #[test]
    fn one_that_is_over_is_as_good_as_new() {
        for (seed, quiet) in [(1, 0), (2, 7), (3, 60), (4, 500)] {
            let policy = Policy { quiet, hold: 1 + quiet % 3, ..Policy::default() };
            let (mut kept, mut replaced, mut dropped) = (Calm::default(), Calm::default(), 0);
            for odd in scores(seed, 300) {
                // Long pauses, so that it is over now and then.
                for score in [odd].into_iter().chain(std::iter::repeat_n(0.1, 2000)) {
                    if replaced.is_over() {
                        (replaced, dropped) = (Calm::default(), dropped + 1);
                    }
                    assert_eq!(kept.hear(&policy, score), replaced.hear(&policy, score));
                }
            }
            assert!(dropped > 1000, "{dropped}");
        }
    }

    #[test]
    fn what_passes_lets_time_go_by_and_is_not_remembered() {
        let policy = Policy { quiet: 3, hold: 2, ..Policy::default() };
        let mut calm = Calm::default();
        calm.hear(&policy, 0.9);
        calm.pass(&policy);
        assert!(calm.is_over(), "it is no longer held");
        calm.hear(&policy, 0.9);
        assert!(calm.hear(&policy, 0.9).told);
        (0..3).for_each(|_| calm.pass(&policy));
        calm.hear(&policy, 0.9);
        assert!(calm.hear(&policy, 0.9).told, "the quiet time has gone by");
    }

    #[test]
    fn the_highest_score_has_a_strength_that_can_be_counted_with() {
        let policy = Policy { open: 1.0, ..Policy::default() };
        assert_eq!(told(&policy, [0.999, 1.0, 1.0]), [1]);
        let heard = Calm::default().hear(&Policy::default(), 1.0);
        assert!(heard.score < 1.0 && heard.score > 0.999_99, "{heard:?}");
    }
}
