//! The judgement of all series' runs.

use telltale_plugin::{
    Detector, Fault, Finding, FindingType, Observation, State, Verdict, Watchlist, log, score_of,
};

use crate::run::{Run, Stopped};
use crate::settings::Settings;

/// The detector: a run for each series.
#[derive(Debug, Default)]
pub struct Flatline {
    settings: Settings,
    runs: Watchlist<Run>,
}

impl Detector for Flatline {
    type Config = Settings;

    /// On an error the old settings stay.
    fn configure(&mut self, settings: Settings) -> Result<(), Fault> {
        settings.check()?;
        self.settings = settings;
        Ok(())
    }

    fn observe(&mut self, observation: &Observation, verdict: &mut Verdict) -> Result<(), Fault> {
        self.runs.follow(observation, Run::default);
        verdict.scores.reserve(observation.values.len());
        for shown in self.runs.shown(observation) {
            let stopped = shown.known.push(shown.value, &self.settings);
            verdict.scores.push(stopped.map_or(0.0, |stopped| score_of(stopped.height)));
            if let Some(stopped) = stopped.filter(|stopped| stopped.height >= 1.0) {
                verdict.findings.push(finding(shown.id, shown.value, stopped));
            }
        }
        Ok(())
    }
}

impl State for Flatline {
    const VERSION: u32 = 1;

    fn save(&self) -> Vec<u8> {
        self.runs.save()
    }

    fn restore(&mut self, from_version: u32, bytes: &[u8]) -> Result<(), String> {
        if from_version == Self::VERSION {
            self.runs.load(bytes);
        } else {
            log::info(&format!("starts afresh: version {from_version} of its state is unknown"));
        }
        Ok(())
    }
}

/// What was expected is another value than this one, which no band can say: it
/// is told where the series stands, and in the note for how long.
fn finding(series: u32, value: f64, stopped: Stopped) -> Finding {
    let Stopped { height, repeats, longest } = stopped;
    Finding {
        deviation: Some(height),
        expected: None,
        note: Some(format!(
            "{value} has not moved for {repeats} values; the longest before was {longest:.0}"
        )),
        ..Finding::new(series, FindingType::Flatline, score_of(height))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use telltale_plugin::trial::{CountingAllocator, Trial, noise};

    #[global_allocator]
    static ALLOCATOR: CountingAllocator = CountingAllocator;

    /// A series that moves at nearly each value, rounded to tenths.
    fn moving(seed: u64) -> impl Iterator<Item = f64> {
        noise(seed).map(|n| (10.0 * n).round() / 10.0)
    }

    #[test]
    fn a_series_that_stops_is_found_after_sixty_values_and_until_it_moves() {
        let mut trial = Trial::<Flatline>::new("{}");
        assert_eq!(trial.run(moving(1).take(1000)), []);
        let found = trial.run([0.35; 5000]);
        assert_eq!((found[0].0, found.len()), (60, 4940));
        let finding = &found[0].1.findings[0];
        assert!(finding.type_ == FindingType::Flatline && finding.score >= 0.5, "{finding:?}");
        assert!(finding.note.as_ref().unwrap().contains("not moved for 60 values"), "{finding:?}");
        assert_eq!(trial.run(moving(2).take(1000)), []);
        // A second stop as long as the first one counted is a usual one.
        assert_eq!(trial.run([0.35; 150]), []);
    }

    #[test]
    fn a_series_that_is_mostly_constant_or_idle_is_never_found() {
        assert_eq!(Trial::<Flatline>::new("{}").run([7.0; 5000]), []);
        let idle = (0..20_000).map(|tick| if tick % 50 < 20 { f64::from(tick) } else { 0.0 });
        let mut trial = Trial::<Flatline>::new("{}");
        assert_eq!(trial.run(idle), []);
        assert_eq!(trial.run([0.0; 5000]), []);
    }

    #[test]
    fn pauses_that_are_usual_are_not_found_and_a_longer_one_is() {
        let paused = |length: usize| moving(3).take(100).chain(std::iter::repeat_n(0.0, length));
        let mut trial = Trial::<Flatline>::new("{}");
        (0..50).for_each(|_| assert_eq!(trial.run(paused(25)), []));
        assert_eq!(trial.run(paused(70)), []);
        assert!(!trial.run(paused(1000)).is_empty());
    }

    #[test]
    fn coarse_series_have_longer_runs_by_chance() {
        // A half of the values repeat the one before.
        let coarse = noise(4).map(|n| f64::from(n > 0.0)).take(200_000);
        assert_eq!(Trial::<Flatline>::new(r#"{"moves":0.3}"#).run(coarse), []);
    }

    #[test]
    fn within_the_tolerance_nothing_has_moved() {
        let mut trial = Trial::<Flatline>::new(r#"{"tolerance":0.01}"#);
        assert_eq!(trial.run(moving(5).map(|n| 100.0 + 10.0 * n).take(1000)), []);
        assert!(!trial.run((0..100).map(|tick| 90.0 + f64::from(tick % 2) / 10.0)).is_empty());
    }

    #[test]
    fn a_series_takes_its_bytes_and_a_value_allocates_nothing() {
        assert!(size_of::<(u32, Run)>() <= 40);
        assert_eq!(Trial::<Flatline>::new("{}").allocations(1000, 1.0), 1);
    }

    #[test]
    fn what_was_learned_goes_on_and_hostile_bytes_are_survived() {
        let mut trial = Trial::<Flatline>::new("{}");
        trial.run(moving(6).take(1000));
        trial.goes_on("{}", [1.0; 100]);
        trial.survives_hostile_bytes();
    }
}
