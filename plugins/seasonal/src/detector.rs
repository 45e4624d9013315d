//! The judgement of all series' values.

use telltale_plugin::{
    Detector, Fault, Finding, FindingType, Observation, State, Verdict, Watchlist, log, score_of,
};

use crate::season::{Compared, Layer, Season};
use crate::settings::Settings;
use crate::week;

/// The height from which on a value is a finding.
const HEIGHT_MIN: f64 = 1.0;

/// The detector: the profiles of each series.
#[derive(Debug, Default)]
pub struct Seasonal {
    settings: Settings,
    /// Boxed: the list is sorted when series appear.
    seasons: Watchlist<Box<Season>>,
}

impl Detector for Seasonal {
    type Config = Settings;

    /// On an error the old settings stay.
    fn configure(&mut self, settings: Settings) -> Result<(), Fault> {
        settings.check()?;
        self.settings = settings;
        Ok(())
    }

    /// Each value is judged by those before it, and only then enters.
    fn observe(&mut self, observation: &Observation, verdict: &mut Verdict) -> Result<(), Fault> {
        let time_ns = observation.tick.time_ns;
        self.seasons.follow(observation, Box::default);
        verdict.scores.reserve(observation.values.len());
        for shown in self.seasons.shown(observation) {
            let compared = shown.known.push(time_ns, shown.value, &self.settings);
            verdict.scores.push(compared.map_or(0.0, |compared| score_of(compared.height)));
            if let Some(compared) = compared.filter(|compared| compared.height >= HEIGHT_MIN) {
                verdict.findings.push(finding(shown.id, time_ns, compared));
            }
        }
        Ok(())
    }
}

impl State for Seasonal {
    const VERSION: u32 = 1;

    fn save(&self) -> Vec<u8> {
        self.seasons.save()
    }

    fn restore(&mut self, from_version: u32, bytes: &[u8]) -> Result<(), String> {
        if from_version == Self::VERSION {
            self.seasons.load(bytes);
        } else {
            log::info(&format!("starts afresh: version {from_version} of its state is unknown"));
        }
        Ok(())
    }
}

fn finding(series: u32, time_ns: u64, compared: Compared) -> Finding {
    let Compared { height, off, expected, reach, layer } = compared;
    let type_ = if off > 0.0 { FindingType::Spike } else { FindingType::Drop };
    let side = if off > 0.0 { "above" } else { "below" };
    let usual = match layer {
        Layer::Level => "what it was of late".to_owned(),
        Layer::Day => format!("a usual day at {} UTC", &week::words(time_ns)[4..]),
        Layer::Week => format!("a usual {} UTC", week::words(time_ns)),
    };
    Finding {
        deviation: Some(off),
        expected: Some(expected),
        lower: Some(expected - reach),
        upper: Some(expected + reach),
        note: Some(format!("{:.1} deviations {side} {usual}", off.abs())),
        ..Finding::new(series, type_, score_of(height))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use telltale_plugin::trial::{CountingAllocator, Trial, noise};

    #[global_allocator]
    static ALLOCATOR: CountingAllocator = CountingAllocator;

    /// Values of one day, which is how many: one each ten minutes.
    const DAY: u64 = 144;

    /// An office: busy from 8 to 18, on five days of the week.
    fn office(tick: u64) -> f64 {
        let (hour, day) = (tick % DAY / 6, tick / DAY % 7);
        // The first day of the clock was a Thursday.
        if (8..18).contains(&hour) && day != 2 && day != 3 { 100.0 } else { 20.0 }
    }

    /// Shows so many values of the office, with noise; what was found.
    fn show(trial: &mut Trial<Seasonal>, seed: u64, count: u64) -> Vec<(usize, Verdict)> {
        let from = trial.tick;
        let values = noise(seed).zip(from..from + count);
        trial.run(values.map(|(n, tick)| office(tick) + 2.0 * n).collect::<Vec<_>>())
    }

    #[test]
    fn a_usual_value_at_an_unusual_time_is_found() {
        let mut trial = Trial::<Seasonal>::each("{}", 600);
        show(&mut trial, 1, 28 * DAY);
        assert!(show(&mut trial, 2, 7 * DAY).len() <= 1);
        // To Wednesday, 3 in the morning: as busy as by day.
        show(&mut trial, 3, 2 * DAY + 18);
        let verdict = trial.show(&[(1, Some(100.0))]);
        let finding = &verdict.findings[0];
        assert!(finding.type_ == FindingType::Spike && finding.score == verdict.scores[0]);
        let expected = finding.expected.unwrap();
        assert!((expected - 20.0).abs() < 6.0, "{finding:?}");
        assert!(finding.lower < finding.expected && finding.upper < Some(100.0));
        assert!(finding.note.as_ref().unwrap().ends_with("a usual Wed 03:00 UTC"), "{finding:?}");
    }

    #[test]
    fn a_day_off_is_found_by_the_week() {
        let mut trial = Trial::<Seasonal>::each("{}", 600);
        show(&mut trial, 1, 35 * DAY);
        // Monday at noon, and nobody is there.
        show(&mut trial, 2, DAY / 2);
        let verdict = trial.show(&[(1, Some(20.0))]);
        let finding = &verdict.findings[0];
        assert!(finding.type_ == FindingType::Drop && finding.expected > Some(80.0), "{finding:?}");
    }

    #[test]
    fn before_a_week_is_known_the_days_are_used() {
        let mut trial = Trial::<Seasonal>::each("{}", 600);
        // Monday to Friday noon, and nothing to say about the fourth morning.
        show(&mut trial, 1, 3 * DAY);
        assert_eq!(show(&mut trial, 2, DAY + DAY / 2), []);
        let verdict = trial.show(&[(1, Some(0.0))]);
        assert!(verdict.findings[0].note.as_ref().unwrap().contains("a usual day at 12:00 UTC"));
    }

    #[test]
    fn a_slow_drift_is_no_anomaly_and_the_first_day_is_silent() {
        let mut trial = Trial::<Seasonal>::each("{}", 600);
        let drifting: Vec<_> = noise(4)
            .zip(trial.tick..trial.tick + 60 * DAY)
            .map(|(n, tick)| office(DAY + tick % DAY) + tick as f64 / DAY as f64 * 5.0 + 2.0 * n)
            .collect();
        assert!(trial.run(drifting).len() <= 2);
        let mut trial = Trial::<Seasonal>::each("{}", 600);
        trial.run(noise(5).take(DAY as usize - 1));
        assert_eq!(trial.show(&[(1, Some(1e6))]).scores, [0.0]);
    }

    #[test]
    fn any_interval_will_do_and_constants_are_quiet() {
        // Two days at one second: no season is known before the third.
        let mut trial = Trial::<Seasonal>::new("{}");
        let day = |tick: u64| 50.0 + 20.0 * (tick as f64 / 86_400.0 * std::f64::consts::TAU).sin();
        let values = noise(6).zip(trial.tick..trial.tick + 3 * 86_400).map(|(n, t)| day(t) + n);
        assert!(trial.run(values.collect::<Vec<_>>()).len() <= 1);
        let verdict = trial.show(&[(1, Some(day(trial.tick) + 9.0))]);
        assert!(!verdict.findings.is_empty());
        for level in [0.0, 0.1, 1e15] {
            let mut trial = Trial::<Seasonal>::each("{}", 600);
            let wobble = |tick: usize| level * (1.0 + [0.0, 1e-16, 1e-4, -1e-4][tick % 4]);
            assert_eq!(trial.run((0..5000).map(wobble)), [], "{level}");
        }
    }

    #[test]
    fn a_series_takes_its_bytes_and_a_value_allocates_nothing() {
        assert!(size_of::<Season>() <= 2600, "{}", size_of::<Season>());
        assert_eq!(Trial::<Seasonal>::new("{}").allocations(1000, 1.0), 1);
    }

    #[test]
    fn what_was_learned_goes_on_and_hostile_bytes_are_survived() {
        let mut trial = Trial::<Seasonal>::each("{}", 600);
        show(&mut trial, 1, 21 * DAY);
        trial.goes_on("{}", noise(2).map(|n| 50.0 + 20.0 * n).take(300));
        trial.survives_hostile_bytes();
    }
}
