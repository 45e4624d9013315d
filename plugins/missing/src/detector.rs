//! The judgement of all series' gaps.

use telltale_plugin::{
    Detector, Fault, Finding, FindingType, Observation, State, Verdict, Watchlist, log, score_of,
};

use crate::gaps::{Gap, Gaps};
use crate::settings::Settings;

/// A collector of so many series or more that brings nothing at all is one
/// finding, not one for each of them.
const SILENT_MIN: u32 = 2;

/// The detector: the gaps of each series, and who brings them.
#[derive(Debug, Default)]
pub struct Missing {
    settings: Settings,
    gaps: Watchlist<Gaps>,
    /// Collectors by name. A hub has tens: it is searched only when a series is
    /// declared. A name stays, and comes again with its series.
    collectors: Vec<Collector>,
}

/// What a collector brought at one tick.
#[derive(Debug, Default)]
struct Collector {
    name: String,
    came: u32,
    missed: u32,
    /// Whether its silence is told already at this tick.
    is_told: bool,
}

impl Detector for Missing {
    type Config = Settings;

    /// On an error the old settings stay.
    fn configure(&mut self, settings: Settings) -> Result<(), Fault> {
        settings.check()?;
        self.settings = settings;
        Ok(())
    }

    /// Of a series whose value is missing there is no place among the scores:
    /// its candidate has the score.
    fn observe(&mut self, observation: &Observation, verdict: &mut Verdict) -> Result<(), Fault> {
        self.gaps.follow(observation, Gaps::default);
        self.meet(observation);
        let Self { settings, gaps, collectors } = self;
        for collector in collectors.iter_mut() {
            (collector.came, collector.missed, collector.is_told) = (0, 0, false);
        }
        verdict.scores.reserve(observation.values.len());
        for shown in gaps.shown(observation) {
            collectors[shown.known.collector as usize].came += 1;
            let gap = shown.known.push(false, settings);
            verdict.scores.push(gap.map_or(0.0, |gap| score_of(gap.height)));
        }
        for (_, known) in gaps.missed(observation) {
            collectors[known.collector as usize].missed += 1;
        }
        for (id, known) in gaps.missed(observation) {
            let collector = &mut collectors[known.collector as usize];
            let is_silent = collector.came == 0 && collector.missed >= SILENT_MIN;
            // The first that can be judged speaks for a silent collector: that the
            // others did not come either is not held against them.
            if is_silent && collector.is_told {
                continue;
            }
            let Some(gap) = known.push(true, settings) else { continue };
            collector.is_told = is_silent;
            if gap.height < 1.0 {
                continue;
            }
            let of = is_silent.then_some(&*collector);
            verdict.findings.push(finding(id, gap, of));
        }
        Ok(())
    }
}

impl Missing {
    /// Finds out whose the declared series are.
    fn meet(&mut self, observation: &Observation) {
        let Self { gaps, collectors, .. } = self;
        for (watched, known) in gaps.declared(observation) {
            let place = collectors.iter().position(|one| one.name == watched.plugin);
            let place = place.unwrap_or_else(|| {
                let name = watched.plugin.clone();
                collectors.push(Collector { name, ..Collector::default() });
                collectors.len() - 1
            });
            known.collector = place as u32;
        }
    }
}

impl State for Missing {
    const VERSION: u32 = 1;

    fn save(&self) -> Vec<u8> {
        self.gaps.save()
    }

    fn restore(&mut self, from_version: u32, bytes: &[u8]) -> Result<(), String> {
        if from_version == Self::VERSION {
            self.gaps.load(bytes);
        } else {
            log::info(&format!("starts afresh: version {from_version} of its state is unknown"));
        }
        Ok(())
    }
}

fn finding(series: u32, gap: Gap, silent: Option<&Collector>) -> Finding {
    let Gap { height, values, share } = gap;
    let usual = 100.0 * share;
    let note = match silent {
        Some(Collector { name, missed, .. }) => {
            format!("none of the {missed} series of `{name}` has come, {values} times in a row")
        }
        None if values == 1 => format!("values are missing more often than the usual {usual:.2} %"),
        None => format!("{values} values in a row are missing, of which {usual:.2} % usually are"),
    };
    Finding {
        deviation: Some(height),
        note: Some(note),
        ..Finding::new(series, FindingType::Missing, score_of(height))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use telltale_plugin::trial::{CountingAllocator, Trial, noise};

    #[global_allocator]
    static ALLOCATOR: CountingAllocator = CountingAllocator;

    const CAME: Option<f64> = Some(1.0);

    /// Shows series 1 and 2, of which 1 always comes; by how many ticks were
    /// before, the verdicts with a finding.
    fn run(trial: &mut Trial<Missing>, second: &[bool]) -> Vec<(usize, Verdict)> {
        let verdicts = second.iter().map(|came| trial.show(&[(1, CAME), (2, came.then_some(1.0))]));
        verdicts.enumerate().filter(|(_, verdict)| !verdict.findings.is_empty()).collect()
    }

    #[test]
    fn a_gap_is_found_at_its_seventh_value_and_closes_when_values_come() {
        let mut trial = Trial::<Missing>::new("{}");
        assert_eq!(run(&mut trial, &[true; 5000]), []);
        let found = run(&mut trial, &[false; 500]);
        assert_eq!((found[0].0, found.len()), (6, 494));
        let finding = &found[0].1.findings[0];
        assert_eq!((finding.series, &finding.type_), (2, &FindingType::Missing));
        assert!(finding.note.as_ref().unwrap().starts_with("7 values in a row"), "{finding:?}");
        let mut scores = (0..50).map(|_| trial.show(&[(1, CAME), (2, CAME)]).scores[1]);
        assert!(scores.all(|score| score <= 0.67));
        assert_eq!(trial.show(&[(1, CAME), (2, CAME)]).scores[1], 0.0);
    }

    #[test]
    fn one_missing_value_is_no_finding() {
        let mut trial = Trial::<Missing>::new("{}");
        for _ in 0..100 {
            assert_eq!(run(&mut trial, &[[true; 19].as_slice(), &[false]].concat()), []);
        }
    }

    #[test]
    fn more_often_than_usual_is_found_and_the_usual_is_not() {
        let thirds = |share: f64, seed, count| {
            let came = noise(seed).map(move |n| n.rem_euclid(1.0) >= share);
            came.take(count).collect::<Vec<_>>()
        };
        for (share, seed) in [(0.05, 1), (0.3, 2), (0.6, 3)] {
            let mut trial = Trial::<Missing>::new("{}");
            assert_eq!(run(&mut trial, &thirds(share, seed, 50_000)), [], "{share}");
            assert!(!run(&mut trial, &[false; 200]).is_empty(), "{share}");
        }
        let mut trial = Trial::<Missing>::new("{}");
        run(&mut trial, &[true; 5000]);
        assert!(!run(&mut trial, &[true, false].repeat(50)).is_empty());
    }

    #[test]
    fn a_series_that_has_gone_and_one_that_never_comes_are_not_missing() {
        let mut trial = Trial::<Missing>::new("{}");
        run(&mut trial, &[true; 200]);
        let gone = Observation { gone: vec![2], ..Observation::of(1, &[], &[(1, 1.0)]) };
        trial.detector.observe(&gone).unwrap();
        let left = Observation { missed: vec![2], ..Observation::of(2, &[], &[(1, 1.0)]) };
        (0..100).for_each(|_| {
            assert_eq!(trial.detector.observe(&left).unwrap().findings, []);
        });
        assert_eq!(run(&mut Trial::new("{}"), &[false; 2000]), []);
    }

    #[test]
    fn a_silent_collector_is_one_finding() {
        let mut trial = Trial::<Missing>::new("{}");
        let all = |value| [1, 2, 5].map(|id| (id, value));
        (0..5000).for_each(|_| assert_eq!(trial.show(&all(CAME)).findings, []));
        let found: Vec<_> = (0..50).flat_map(|_| trial.show(&all(None)).findings).collect();
        assert!(found.iter().all(|finding| finding.series == 1) && found.len() == 44);
        let note = found[0].note.as_ref().unwrap();
        assert_eq!(note, "none of the 3 series of `test` has come, 7 times in a row");
        // That the others did not come meanwhile is not held against them.
        assert_eq!(trial.show(&all(CAME)).scores[1..], [0.0, 0.0]);
    }

    #[test]
    fn a_series_that_hardly_ever_comes_hides_no_silent_collector() {
        let mut trial = Trial::<Missing>::new("{}");
        let all = |first, others| [(1, first), (2, others), (5, others)];
        (0..5000).for_each(|_| assert_eq!(trial.show(&all(None, CAME)).findings, []));
        let found: Vec<_> = (0..50).flat_map(|_| trial.show(&all(None, None)).findings).collect();
        assert!(found.len() > 40 && found.iter().all(|finding| finding.series == 2));
    }

    #[test]
    fn a_series_takes_its_bytes_and_a_value_allocates_nothing() {
        assert!(size_of::<(u32, Gaps)>() <= 24);
        assert_eq!(Trial::<Missing>::new("{}").allocations(1000, 1.0), 1);
    }

    #[test]
    fn what_was_learned_goes_on_and_hostile_bytes_are_survived() {
        let mut trial = Trial::<Missing>::new("{}");
        run(&mut trial, &[true, true, true, false].repeat(100));
        trial.survives_hostile_bytes();
        let mut next = Trial::<Missing>::new("{}");
        trial.detector.hand_over(&mut next.detector).unwrap();
        next.tick = trial.tick;
        for _ in 0..50 {
            let shown = [(1, CAME), (2, None)];
            assert_eq!(trial.show(&shown), next.show(&shown));
        }
    }
}
