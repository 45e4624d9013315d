use super::*;
use crate::config::FindingsConfig;
use crate::model::{FindingType, Kind, Labels, SeriesKey, SeriesSpec};

const SECOND_NS: u64 = 1_000_000_000;

fn series(id: u32) -> Arc<Series> {
    let name = format!("s{id}").into();
    let key = SeriesKey { plugin: "p".into(), name, labels: Labels::default() };
    let spec = SeriesSpec::new(key, Kind::Gauge, "1".into(), "".into()).unwrap();
    Arc::new(Series { id: SeriesId(id), spec, interval_ns: SECOND_NS })
}

fn candidate(id: u32, finding_type: FindingType, score: f64) -> Candidate {
    Candidate {
        series: series(id),
        finding_type,
        score,
        value: Some(1.0),
        deviation: None,
        expected: None,
        lower: None,
        upper: None,
        note: None,
    }
}

fn spike(id: u32, score: f64) -> Candidate {
    candidate(id, FindingType::Spike, score)
}

/// A judge without log and store, and its clock.
struct Court {
    judge: Judge,
    tick: u64,
    known: Vec<(&'static str, bool)>,
}

/// What a detector says at a tick of the series 1 to 3, all of which have a
/// value.
#[derive(Default)]
struct Said {
    scores: Vec<f64>,
    candidates: Vec<Candidate>,
}

impl Court {
    /// With these settings of `[findings]`.
    fn new(settings: &str) -> Self {
        let config: FindingsConfig = toml::from_str(settings).unwrap();
        let (entries, flags) = (mpsc::channel(1).0, mpsc::channel(1).0);
        let judge = Judge::new(Rules::new(&config).unwrap(), entries, flags, Arc::default());
        Self { judge, tick: 0, known: Vec::new() }
    }

    fn judgement(&mut self, detector: &'static str, shadow: bool, said: Said) -> Judgement {
        let is_new = !self.known.contains(&(detector, shadow));
        if is_new {
            self.known.push((detector, shadow));
        }
        let tick = Tick { number: self.tick, time_ns: self.tick * SECOND_NS };
        Judgement {
            declared: if is_new { (1..4).map(series).collect() } else { vec![] },
            seen: (1..4).map(SeriesId).collect(),
            values: vec![7.0; 3],
            scores: said.scores,
            version: "0123".into(),
            candidates: said.candidates,
            ended: false,
            ..Judgement::farewell(detector.into(), tick, shadow)
        }
    }

    /// The next tick of a detector; what is told, as `tick:state type series`.
    fn tick_of(&mut self, detector: &'static str, shadow: bool, said: Said) -> Vec<String> {
        self.tick += 1;
        let judgement = self.judgement(detector, shadow, said);
        self.lines(judgement)
    }

    fn lines(&mut self, judgement: Judgement) -> Vec<String> {
        let line = |finding: Finding| {
            let Finding { state, finding_type, series, .. } = finding;
            format!("{}:{state:?} {finding_type} {series}", self.tick)
        };
        let told = self.judge.judge(judgement).findings;
        told.into_iter().map(line).collect()
    }

    /// What is told after each of these scores of series 1, a spike where there
    /// is one.
    fn spikes(&mut self, scores: &[Option<f64>]) -> Vec<String> {
        let said = |score: &Option<f64>| Said {
            candidates: score.iter().map(|score| spike(1, *score)).collect(),
            scores: vec![],
        };
        scores.iter().flat_map(|score| self.tick_of("d", false, said(score))).collect()
    }

    /// What is told after each of these scores of series 1, without candidates.
    fn scores(&mut self, scores: &[f64]) -> Vec<String> {
        let said = |score: &f64| Said { scores: vec![*score, 0.0, 0.0], candidates: vec![] };
        scores.iter().flat_map(|score| self.tick_of("d", false, said(score))).collect()
    }

    fn counts(&self) -> [u64; 5] {
        let JudgeCounters { open, opened, refused, suppressed, muted, .. } = &*self.judge.counters;
        [open, opened, refused, suppressed, muted].map(|count| count.load(Ordering::Relaxed))
    }
}

#[test]
fn a_finding_opens_at_half_and_closes_after_five_quiet_values() {
    let spikes = |scores: &[Option<f64>]| Court::new("").spikes(scores);
    let q = None;
    assert_eq!(spikes(&[Some(0.49), q]), Vec::<String>::new());
    assert_eq!(spikes(&[Some(0.5), q, q, q, q]), ["1:Open spike 1"]);
    assert_eq!(spikes(&[Some(0.5), q, q, q, q, q]), ["1:Open spike 1", "6:Close spike 1"]);
    assert_eq!(
        spikes(&[Some(0.5), q, q, Some(0.9), q, q, q, q, Some(0.3)]),
        ["1:Open spike 1", "9:Close spike 1"]
    );
}

#[test]
fn an_open_finding_goes_on_while_scores_reach_close() {
    let mut court = Court::new("close_after = 2");
    let scores = [0.9, 0.3, 0.4, 0.3, 0.39].map(Some);
    assert_eq!(court.spikes(&scores), ["1:Open spike 1", "5:Close spike 1"]);
    // Where there is no candidate the series' own score says whether it goes on …
    let mut court = Court::new("close_after = 2");
    assert_eq!(court.spikes(&[Some(0.9)]), ["1:Open spike 1"]);
    assert_eq!(court.scores(&[0.45, 0.0, 0.45, 0.0, 0.1]), ["6:Close spike 1"]);
    // … and not where it is odd in another way.
    let mut court = Court::new("close_after = 2\nquiet = 0");
    court.spikes(&[Some(0.9)]);
    let other = || Said {
        candidates: vec![candidate(1, FindingType::Drop, 0.9)],
        scores: vec![0.9, 0.0, 0.0],
    };
    assert_eq!(court.tick_of("d", false, other()), ["2:Open drop 1"]);
    assert_eq!(court.tick_of("d", false, other()), ["3:Close spike 1"]);
}

#[test]
fn the_highest_score_is_the_peak_and_the_first_the_score() {
    let mut court = Court::new("close_after = 1");
    court.spikes(&[Some(0.6), Some(0.95), Some(0.7)]);
    court.tick += 1;
    let judgement = court.judgement("d", false, Said::default());
    let [finding] = &court.judge.judge(judgement).findings[..] else { panic!() };
    assert_eq!((finding.score, finding.peak, &*finding.version), (0.6, 0.95, "0123"));
}

#[test]
fn in_a_quiet_time_nothing_opens_but_what_is_much_stronger() {
    let mut court = Court::new("close_after = 1\nquiet = 4\nagain = 3.0\nhabituation = 0.0");
    let (q, s) = (None, Some);
    let told = court.spikes(&[s(0.6), q, s(0.7), q, s(0.7), s(0.7)]);
    assert_eq!(told, ["1:Open spike 1", "2:Close spike 1", "6:Open spike 1"]);
    assert_eq!(court.counts(), [1, 2, 0, 2, 0]);
    // 0.7 is 2.33, and three times as strong is 0.875.
    let told = court.spikes(&[q, s(0.87), s(0.88)]);
    assert_eq!(told, ["7:Close spike 1", "9:Open spike 1"]);
}

#[test]
fn another_type_in_a_quiet_time_is_the_same_matter() {
    let mut court = Court::new("");
    let two = vec![spike(1, 0.7), candidate(1, FindingType::LevelShift, 0.6)];
    let told = court.tick_of("d", false, Said { candidates: two, scores: vec![] });
    assert_eq!(told, ["1:Open spike 1", "1:Open level-shift 1"]);
    let drop = vec![candidate(1, FindingType::Drop, 0.7)];
    assert!(court.tick_of("d", false, Said { candidates: drop, scores: vec![] }).is_empty());
    // Of another series it is another matter.
    let other = vec![spike(2, 0.7), spike(2, 0.9)];
    let told = court.tick_of("d", false, Said { candidates: other, scores: vec![] });
    assert_eq!(told, ["3:Open spike 2"]);
}

#[test]
fn a_minimum_duration_is_waited_for() {
    let mut court = Court::new("for = \"3s\"");
    let (q, s) = (None, Some);
    assert!(court.spikes(&[s(0.9), s(0.9), q, s(0.9), s(0.9)]).is_empty());
    assert_eq!(court.spikes(&[s(0.6)]), ["6:Open spike 1"]);
    assert_eq!(court.counts(), [1, 1, 0, 0, 0]);
}

#[test]
fn what_is_muted_opens_nothing_and_is_told_once_that_ends() {
    let mut court = Court::new(
        "[[mute]]\nseries = \"s1\"\nfrom = \"1970-01-01T00:00:03Z\"\nto = \"1970-01-01T00:00:05Z\"",
    );
    let said = || Said { candidates: vec![spike(1, 0.9), spike(2, 0.9)], scores: vec![] };
    court.tick = 2;
    assert_eq!(court.tick_of("d", false, said()), ["3:Open spike 2"]);
    assert!(court.tick_of("d", false, said()).is_empty());
    assert_eq!(court.tick_of("d", false, said()), ["5:Open spike 1"]);
    assert_eq!(court.counts(), [2, 2, 0, 0, 2]);
}

#[test]
fn one_that_is_open_when_its_series_is_muted_closes_in_its_time() {
    let mut court = Court::new("[[mute]]\nfrom = \"1970-01-01T00:00:02Z\"");
    let scores = [Some(0.9), Some(0.9), None, None, None, None, None];
    assert_eq!(court.spikes(&scores), ["1:Open spike 1", "7:Close spike 1"]);
}

#[test]
fn a_lower_threshold_makes_findings_of_scores_alone() {
    let mut court = Court::new("open = 0.3\nclose_after = 1");
    let told = court.scores(&[0.29, 0.3, 0.31, 0.2]);
    assert_eq!(told, ["2:Open odd 1", "4:Close odd 1"]);
    // At the detector's own threshold it has the say.
    let mut court = Court::new("");
    assert!(court.scores(&[0.9, 0.9]).is_empty());
    assert_eq!(court.spikes(&[Some(0.6)]), ["3:Open spike 1"], "nobody was told before");
}

#[test]
fn a_candidate_of_a_series_without_a_value_is_heard() {
    let mut court = Court::new("");
    court.tick += 1;
    let missing = candidate(2, FindingType::Missing, 0.9);
    let said = Said { candidates: vec![missing], scores: vec![] };
    let absent = Judgement { seen: vec![], values: vec![], ..court.judgement("d", false, said) };
    let told = court.judge.judge(absent);
    assert_eq!((told.findings.len(), told.flags.len()), (1, 0), "there is no sample to flag");
    assert_eq!(court.tick_of("d", false, Said::default()), Vec::<String>::new());
}

#[test]
fn odd_values_are_flagged_whatever_becomes_of_them() {
    let mut court = Court::new("open = 0.6\n[[mute]]\nseries = \"s2\"");
    let said = |scores: [f64; 3], candidates| Said { scores: scores.to_vec(), candidates };
    let mut flags = |shadow, said| {
        court.tick += 1;
        let judgement = court.judgement("d", shadow, said);
        court.judge.judge(judgement).flags.into_iter().map(|id| id.0).collect::<Vec<_>>()
    };
    assert_eq!(flags(false, said([0.59, 0.6, 1.0], vec![])), [2, 3]);
    assert_eq!(flags(false, said([0.0, 0.6, 0.6], vec![spike(1, 0.7)])), [1, 2, 3]);
    assert_eq!(flags(false, said([0.0, 0.0, 0.6], vec![])), [3], "quiet or not");
    assert!(flags(true, said([1.0, 1.0, 1.0], vec![])).is_empty(), "a shadow flags nothing");
}

#[test]
fn types_series_detectors_and_shadows_are_apart_and_what_is_gone_closes() {
    let mut court = Court::new("");
    let both = || Said {
        candidates: vec![candidate(1, FindingType::Flatline, 0.7), spike(1, 0.7)],
        scores: vec![],
    };
    assert_eq!(court.tick_of("d", false, both()).len(), 2);
    let one = Said { candidates: vec![spike(1, 0.7)], scores: vec![] };
    assert_eq!(court.tick_of("e", false, one).len(), 1);
    assert_eq!(court.tick_of("d", true, both()).len(), 2);
    assert_eq!(court.counts(), [3, 3, 0, 0, 0], "a shadow's don't count");
    let gone = vec![SeriesId(1)];
    let judgement = Judgement { gone, ..court.judgement("d", false, Said::default()) };
    let told = court.judge.judge(judgement).findings;
    let reasons: Vec<_> = told.iter().map(|finding| finding.reason.as_deref().unwrap()).collect();
    assert_eq!(reasons, ["the series is gone"; 2]);
    assert_eq!(court.counts()[0], 1);
    // It comes back, and is as new.
    let declared = vec![series(1)];
    court.tick += 1;
    let again = Judgement { declared, ..court.judgement("d", false, both()) };
    assert_eq!(court.lines(again).len(), 2);
    let tick = Tick { number: 9, time_ns: 9 * SECOND_NS };
    let told = court.judge.judge(Judgement::farewell("d".into(), tick, true)).findings;
    assert_eq!((told.len(), told[0].shadow), (2, true));
    assert!(told[0].id.starts_with("d.shadow-1-"), "{}", told[0].id);
    assert_eq!(court.counts()[0], 3);
    let told = court.judge.judge(Judgement::farewell("d".into(), tick, false)).findings;
    assert_eq!(told[0].reason.as_deref(), Some("the detector is gone"));
    assert_eq!(court.counts()[0], 1);
}

#[test]
fn what_finds_no_room_is_counted_and_opens_once_there_is() {
    let mut court = Court::new("");
    let of = |from: u32, to: u32| (from..to).map(|id| spike(id, 0.9)).collect::<Vec<_>>();
    let most = u32::try_from(OPEN_MAX).unwrap();
    let judgement = |candidates: Vec<Candidate>, gone: Vec<u32>| Judgement {
        declared: candidates.iter().map(|one| one.series.clone()).collect(),
        seen: candidates.iter().map(|one| one.series.id).collect(),
        candidates,
        gone: gone.into_iter().map(SeriesId).collect(),
        ended: false,
        ..Judgement::farewell("d".into(), Tick { number: 1, time_ns: SECOND_NS }, false)
    };
    let told = court.judge.judge(judgement(of(0, most + 2), vec![]));
    assert_eq!((told.findings.len(), told.flags.len()), (OPEN_MAX, OPEN_MAX + 2));
    assert_eq!(court.counts(), [10_000, 10_000, 2, 0, 0]);
    court.judge.judge(judgement(vec![], vec![5]));
    let told = court.judge.judge(judgement(of(most, most + 2), vec![]));
    assert_eq!(told.findings.len(), 1);
    assert_eq!(court.counts(), [10_000, 10_001, 3, 0, 0]);
}

#[test]
fn settings_by_glob_hold_for_a_series_from_its_declaration_on() {
    let mut court = Court::new(
        "[[rules]]\nseries = \"s2\"\nopen = 0.95\n[[rules]]\ndetector = \"e\"\nopen = 0.8",
    );
    let said = || Said { candidates: vec![spike(1, 0.7), spike(2, 0.9)], scores: vec![] };
    assert_eq!(court.tick_of("d", false, said()), ["1:Open spike 1"]);
    assert_eq!(court.tick_of("e", false, said()), ["2:Open spike 2"]);
}

#[tokio::test]
async fn what_an_earlier_run_left_open_is_closed_and_a_full_queue_of_flags_is_counted() {
    let (entries, mut told) = mpsc::channel(8);
    let (flags, mut flagged) = mpsc::channel(1);
    let mut court = Court::new("");
    let bench = Bench { detector: &"d".into(), version: "", shadow: false, tick: Tick::default() };
    let left = course::opening(bench, &candidate(1, FindingType::Drop, 0.8));
    let id = left.id.clone();
    let (judgements, judgement_queue) = mpsc::channel(2);
    for _ in 0..2 {
        court.tick += 1;
        let said = Said { scores: vec![1.0, 0.0, 1.0], candidates: vec![] };
        judgements.send(court.judgement("d", false, said)).await.unwrap();
    }
    drop(judgements);
    let counters = Arc::new(JudgeCounters::default());
    let rules = Rules::new(&FindingsConfig::default()).unwrap();
    let judge = Judge::new(rules, entries, flags, counters.clone());
    judge.run(vec![left], Tick { number: 9, time_ns: 9 * SECOND_NS }, judgement_queue).await;
    let finding: Finding = serde_json::from_str(told.recv().await.unwrap().body.get()).unwrap();
    assert_eq!((finding.id, finding.state), (id, FindingState::Close));
    assert_eq!(finding.reason.as_deref(), Some("the hub was stopped"));
    let first = Flags { time_ms: 1000, series: vec![SeriesId(1), SeriesId(3)] };
    assert_eq!(flagged.recv().await, Some(first));
    assert_eq!(flagged.recv().await, None);
    assert_eq!(counters.flags_dropped.load(Ordering::Relaxed), 2);
}
