//! The judgement of all series' values.

use telltale_plugin::{
    Detector, Fault, Finding, FindingType, Observation, State, Verdict, Watchlist, log, score_of,
};

use crate::chart::{Change, Chart};
use crate::settings::Settings;

/// How far a band reaches around the level that was, in deviations.
const BAND: f64 = 3.0;

/// The detector: the charts of each series.
#[derive(Debug, Default)]
pub struct Changepoint {
    settings: Settings,
    charts: Watchlist<Chart>,
}

impl Detector for Changepoint {
    type Config = Settings;

    /// On an error the old settings stay.
    fn configure(&mut self, settings: Settings) -> Result<(), Fault> {
        settings.check()?;
        self.settings = settings;
        Ok(())
    }

    fn observe(&mut self, observation: &Observation, verdict: &mut Verdict) -> Result<(), Fault> {
        self.charts.follow(observation, Chart::default);
        verdict.scores.reserve(observation.values.len());
        for shown in self.charts.shown(observation) {
            let change = shown.known.push(shown.value, &self.settings);
            verdict.scores.push(change.map_or(0.0, |change| score_of(change.height)));
            if let Some(change) = change.filter(|change| change.height >= 1.0) {
                verdict.findings.push(finding(shown.id, &change));
            }
        }
        Ok(())
    }
}

impl State for Changepoint {
    const VERSION: u32 = 1;

    fn save(&self) -> Vec<u8> {
        self.charts.save()
    }

    fn restore(&mut self, from_version: u32, bytes: &[u8]) -> Result<(), String> {
        if from_version == Self::VERSION {
            self.charts.load(bytes);
        } else {
            log::info(&format!("starts afresh: version {from_version} of its state is unknown"));
        }
        Ok(())
    }
}

/// A number for a sentence: to about four digits.
fn short(number: f64) -> String {
    match number.abs() {
        0.0 => "0".to_owned(),
        size if (1e-3..1e5).contains(&size) => {
            let places = if size < 1.0 { 5 } else { 2 };
            format!("{number:.places$}")
        }
        _ => format!("{number:.3e}"),
    }
}

fn finding(series: u32, change: &Change) -> Finding {
    let Change { height, is_level, before, after, level, deviation, run } = *change;
    let (type_, what) = if is_level {
        (FindingType::LevelShift, "the level")
    } else {
        (FindingType::PatternShift, "the deviation")
    };
    let (before_words, after_words) = (short(before), short(after));
    let note = format!("{what} went from {before_words} to {after_words}, {run} values ago");
    Finding {
        deviation: Some(if is_level { (after - before) / deviation } else { after / before }),
        expected: Some(level),
        lower: Some(level - BAND * deviation),
        upper: Some(level + BAND * deviation),
        note: Some(note),
        ..Finding::new(series, type_, score_of(height))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use telltale_plugin::trial::{CountingAllocator, Trial, noise};

    #[global_allocator]
    static ALLOCATOR: CountingAllocator = CountingAllocator;

    fn around(seed: u64, level: f64, deviation: f64) -> impl Iterator<Item = f64> {
        noise(seed).map(move |n| level + deviation * n)
    }

    fn known() -> Trial<Changepoint> {
        let mut trial = Trial::new("{}");
        assert_eq!(trial.run(around(1, 100.0, 1.0).take(3000)), []);
        trial
    }

    #[test]
    fn a_new_level_is_found_once_with_before_and_after() {
        for (level, delay_max) in [(105.0, 10), (96.0, 12), (97.5, 20)] {
            let mut trial = known();
            let found = trial.run(around(2, level, 1.0).take(3000));
            assert_eq!(found.len(), 1, "{level}: {found:?}");
            let finding = &found[0].1.findings[0];
            assert!(found[0].0 <= delay_max, "{level}: {}", found[0].0);
            assert_eq!(finding.type_, FindingType::LevelShift);
            let deviation = finding.deviation.unwrap();
            assert!((deviation - (level - 100.0)).abs() < 1.5, "{level}: {finding:?}");
            assert!((finding.expected.unwrap() - 100.0).abs() < 0.5);
            assert!(finding.note.as_ref().unwrap().starts_with("the level went from "));
        }
    }

    #[test]
    fn a_wider_and_a_narrower_noise_are_found() {
        for (deviation, delay_max) in [(4.0, 60), (0.2, 150)] {
            let mut trial = known();
            let found = trial.run(around(3, 100.0, deviation).take(3000));
            assert!(!found.is_empty(), "{deviation}");
            let finding = &found[0].1.findings[0];
            assert!(found[0].0 <= delay_max, "{deviation}: {}", found[0].0);
            assert_eq!(finding.type_, FindingType::PatternShift);
            assert!(found.len() <= 2, "{deviation}: {found:?}");
        }
    }

    #[test]
    fn numbers_in_a_sentence_are_short() {
        let words = [0.0, -0.0123, 97.256, -8.25e9].map(short);
        assert_eq!(words, ["0", "-0.01230", "97.26", "-8.250e9"]);
    }

    #[test]
    fn a_spike_is_no_new_level() {
        let mut trial = known();
        for seed in 10..30 {
            assert_eq!(trial.run(std::iter::repeat_n(1e6, seed as usize % 3)), []);
            assert_eq!(trial.run(around(seed, 100.0, 1.0).take(500)), []);
        }
    }

    #[test]
    fn constants_idle_series_and_days_are_quiet() {
        for level in [0.0, 0.1, -5.0, 1e15] {
            let wobble = |tick: usize| level * (1.0 + [0.0, 1e-16, 1e-4, -1e-4][tick % 4]);
            assert_eq!(Trial::<Changepoint>::new("{}").run((0..5000).map(wobble)), [], "{level}");
        }
        let idle = (0..50_000).map(|tick| if tick % 997 < 5 { f64::from(tick) } else { 0.0 });
        assert_eq!(Trial::<Changepoint>::new("{}").run(idle), []);
        let day = |tick: f64| 100.0 + 30.0 * (tick / 86_400.0 * std::f64::consts::TAU).sin();
        let days = noise(5).zip(0..86_400).map(|(n, tick)| day(f64::from(tick)) + n);
        assert_eq!(Trial::<Changepoint>::new("{}").run(days), []);
        // Two months of values five minutes apart, and noise that follows itself.
        let mut follows = 0.0;
        let days = noise(6).zip(0..17_280).map(|(n, tick)| {
            follows = 0.9 * follows + 0.44 * n;
            day(300.0 * f64::from(tick)) + follows
        });
        assert_eq!(Trial::<Changepoint>::each("{}", 300).run(days), []);
    }

    #[test]
    fn a_series_that_steps_often_is_found_the_first_times_only() {
        let mut trial = known();
        let step = |at: u64| around(at, 100.0 + 20.0 * (at % 2) as f64, 1.0).take(300);
        let found: Vec<_> = (1..=20).map(|at| trial.run(step(at)).len()).collect();
        assert_eq!(found[0], 1);
        assert!(found.iter().sum::<usize>() <= 3, "{found:?}");
    }

    #[test]
    fn a_series_takes_its_bytes_and_a_value_allocates_nothing() {
        assert!(size_of::<(u32, Chart)>() <= 152, "{}", size_of::<(u32, Chart)>());
        assert_eq!(Trial::<Changepoint>::new("{}").allocations(1000, 1.0), 1);
    }

    #[test]
    fn what_was_learned_goes_on_and_hostile_bytes_are_survived() {
        known().goes_on("{}", around(7, 103.0, 2.0).take(500));
        known().survives_hostile_bytes();
    }
}
