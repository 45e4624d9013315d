//! The judgement of all series' values.

use telltale_plugin::{
    Detector, Fault, Finding, FindingType, Observation, State, Verdict, Watchlist, log, score_of,
};

use crate::settings::Settings;
use crate::track::{Odd, Track};

/// The height from which on a value is a finding.
const HEIGHT_MIN: f64 = 1.0;

/// The detector: two levels for each series.
#[derive(Debug, Default)]
pub struct Ewma {
    settings: Settings,
    tracks: Watchlist<Track>,
}

impl Detector for Ewma {
    type Config = Settings;

    /// On an error the old settings stay.
    fn configure(&mut self, settings: Settings) -> Result<(), Fault> {
        settings.check()?;
        self.settings = settings;
        Ok(())
    }

    /// Each value is judged by those before it, and only then enters.
    fn observe(&mut self, observation: &Observation, verdict: &mut Verdict) -> Result<(), Fault> {
        self.tracks.follow(observation, Track::default);
        verdict.scores.reserve(observation.values.len());
        for shown in self.tracks.shown(observation) {
            let odd = shown.known.judge(shown.value, &self.settings);
            verdict.scores.push(odd.map_or(0.0, |odd| score_of(odd.height)));
            if let Some(odd) = odd.filter(|odd| odd.height >= HEIGHT_MIN) {
                verdict.findings.push(finding(shown.id, odd));
            }
        }
        Ok(())
    }
}

impl State for Ewma {
    const VERSION: u32 = 1;

    fn save(&self) -> Vec<u8> {
        self.tracks.save()
    }

    fn restore(&mut self, from_version: u32, bytes: &[u8]) -> Result<(), String> {
        if from_version == Self::VERSION {
            self.tracks.load(bytes);
        } else {
            log::info(&format!("starts afresh: version {from_version} of its state is unknown"));
        }
        Ok(())
    }
}

fn finding(series: u32, odd: Odd) -> Finding {
    let type_ = if odd.off > 0.0 { FindingType::Spike } else { FindingType::Drop };
    let what = if odd.is_change { "the change from the last value" } else { "the value" };
    let side = if odd.off > 0.0 { "above" } else { "below" };
    Finding {
        deviation: Some(odd.off),
        expected: Some(odd.expected),
        lower: Some(odd.expected - odd.reach),
        upper: Some(odd.expected + odd.reach),
        note: Some(format!("{what} is {:.1} deviations {side} its mean", odd.off.abs())),
        ..Finding::new(series, type_, score_of(odd.height))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use telltale_plugin::trial::{CountingAllocator, Trial, noise};

    #[global_allocator]
    static ALLOCATOR: CountingAllocator = CountingAllocator;

    /// A thousand seconds of a plain noise around 100.
    fn known() -> Trial<Ewma> {
        let mut trial = Trial::new("{}");
        assert_eq!(trial.run(noise(1).map(|n| 100.0 + n).take(1000)), []);
        trial
    }

    fn one(trial: &mut Trial<Ewma>, value: f64) -> Finding {
        let mut verdict = trial.show(&[(1, Some(value))]);
        assert_eq!(verdict.findings.len(), 1, "{verdict:?}");
        assert_eq!(verdict.scores[0], verdict.findings[0].score);
        verdict.findings.remove(0)
    }

    #[test]
    fn a_spike_and_a_drop_are_found_at_once_with_their_band() {
        let spike = one(&mut known(), 112.0);
        assert!(spike.type_ == FindingType::Spike && spike.deviation > Some(7.0), "{spike:?}");
        let [lower, upper] = [spike.lower, spike.upper].map(Option::unwrap);
        let expected = spike.expected.unwrap();
        assert!((upper - expected - (expected - lower)).abs() < 1e-9 && upper < 112.0);
        assert!(spike.note.unwrap().contains("above"));
        let drop = one(&mut known(), 88.0);
        assert!(drop.type_ == FindingType::Drop && drop.deviation < Some(-7.0), "{drop:?}");
    }

    #[test]
    fn a_jump_within_the_usual_values_is_an_odd_change() {
        // A slow wave between 0 and 100, and a jump from its top to its middle.
        let wave = |tick: u32| 50.0 + 50.0 * (f64::from(tick) / 40.0).sin();
        let mut trial = Trial::<Ewma>::new("{}");
        let noises = noise(2).zip(0..2069).map(|(n, tick)| wave(tick) + 0.1 * n);
        assert_eq!(trial.run(noises), []);
        let finding = one(&mut trial, 60.0);
        assert!(finding.note.unwrap().contains("change") && finding.expected > Some(80.0));
    }

    #[test]
    fn a_new_level_is_usual_soon_and_a_second_spike_is_less_odd() {
        let mut trial = known();
        assert!(!trial.run(noise(3).map(|n| 300.0 + n).take(1500)).is_empty());
        assert_eq!(trial.run(noise(4).map(|n| 300.0 + n).take(500)), []);
        let mut trial = known();
        let first = one(&mut trial, 130.0);
        assert_eq!(trial.run(noise(5).map(|n| 100.0 + n).take(200)), []);
        assert!(one(&mut trial, 130.0).score < first.score);
        assert_eq!(trial.run([115.0]), []);
    }

    #[test]
    fn constants_and_a_day_of_noise_are_quiet() {
        for level in [0.0, 0.1, -5.0, 1e15] {
            let wobble = |tick: usize| level * (1.0 + [0.0, 1e-16, 1e-4, -1e-4][tick % 4]);
            assert_eq!(Trial::<Ewma>::new("{}").run((0..5000).map(wobble)), [], "{level}");
        }
        // A processor that is busy all the time, but for a moment.
        let busy = (0..5000).map(|tick| if tick % 1000 == 999 { 0.998 } else { 1.0 });
        assert_eq!(Trial::<Ewma>::new("{}").run(busy), []);
        let day = |tick: f64| 100.0 + 30.0 * (tick / 86_400.0 * std::f64::consts::TAU).sin();
        let values = noise(6).zip(0..86_400).map(|(n, tick)| day(f64::from(tick)) + n);
        assert!(Trial::<Ewma>::new("{}").run(values).len() <= 1);
    }

    #[test]
    fn nothing_is_judged_before_there_are_enough_values() {
        let mut trial = Trial::<Ewma>::new(r#"{"min_values":16}"#);
        assert_eq!(trial.run([1.0, 2.0].repeat(7)), []);
        assert_eq!(trial.run([1e6]), []);
        assert!(
            !Trial::<Ewma>::new(r#"{"min_values":16}"#)
                .run([[1.0, 2.0].repeat(8), vec![1e6]].concat())
                .is_empty()
        );
    }

    #[test]
    fn a_series_takes_its_bytes_and_a_value_allocates_nothing() {
        assert!(size_of::<(u32, Track)>() <= 80);
        // One allocation, for the scores of all.
        assert_eq!(Trial::<Ewma>::new("{}").allocations(1000, 1.0), 1);
    }

    #[test]
    fn what_was_learned_goes_on_and_hostile_bytes_are_survived() {
        known().goes_on("{}", noise(7).map(|n| 100.0 + 3.0 * n).take(500));
        known().survives_hostile_bytes();
    }
}
