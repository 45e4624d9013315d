use super::*;
use crate::model::{Kind, Labels, Series, SeriesKey, SeriesSpec};

fn series(id: u32) -> Arc<Series> {
    let key = SeriesKey { plugin: "p".into(), name: "s".into(), labels: Labels::default() };
    let spec = SeriesSpec::new(key, Kind::Gauge, "1".into(), "".into()).unwrap();
    Arc::new(Series { id: SeriesId(id), spec, interval_ns: 1 })
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

/// What a judge tells after each of these scores of one series (a spike, where
/// there is a score), as `tick:state`.
async fn told(scores: &[Option<f64>]) -> Vec<String> {
    let (entries, mut told) = mpsc::channel(64);
    let mut judge = Judge::new(entries, Arc::default());
    for (number, score) in (1u64..).zip(scores) {
        let spike = score.map(|score| candidate(1, FindingType::Spike, score));
        judge
            .judge(Judgement {
                detector: "d".into(),
                tick: Tick { number, time_ns: number * 1_000_000 },
                seen: vec![SeriesId(1)],
                candidates: spike.into_iter().collect(),
                gone: vec![],
                ended: false,
            })
            .await;
    }
    drop(judge);
    let mut lines = Vec::new();
    while let Some(entry) = told.recv().await {
        let finding: Finding = serde_json::from_str(entry.body.get()).unwrap();
        lines.push(format!("{}:{:?} {}", entry.time_ms, finding.state, finding.peak));
    }
    lines
}

#[tokio::test]
async fn a_finding_opens_at_half_and_closes_after_five_quiet_values() {
    let q = None;
    assert_eq!(told(&[Some(0.49), q]).await, Vec::<String>::new());
    assert_eq!(told(&[Some(0.5), q, q, q, q]).await, ["1:Open 0.5"]);
    assert_eq!(told(&[Some(0.5), q, q, q, q, q]).await, ["1:Open 0.5", "6:Close 0.5"]);
    assert_eq!(
        told(&[Some(0.5), q, q, Some(0.9), q, q, q, q, Some(0.4)]).await,
        ["1:Open 0.5", "9:Close 0.9"]
    );
}

#[tokio::test]
async fn types_series_and_detectors_are_apart_and_what_is_gone_closes() {
    let (entries, mut told) = mpsc::channel(64);
    let counters = Arc::new(JudgeCounters::default());
    let mut judge = Judge::new(entries, counters.clone());
    let judgement = |detector: &str, candidates, gone| Judgement {
        detector: detector.into(),
        tick: Tick { number: 1, time_ns: 1_000_000 },
        seen: vec![],
        candidates,
        gone,
        ended: false,
    };
    let both =
        vec![candidate(1, FindingType::Spike, 0.7), candidate(1, FindingType::Flatline, 0.7)];
    judge.judge(judgement("d", both, vec![])).await;
    judge.judge(judgement("e", vec![candidate(1, FindingType::Spike, 0.7)], vec![])).await;
    assert_eq!(counters.open.load(Ordering::Relaxed), 3);
    judge.judge(judgement("d", vec![], vec![SeriesId(1)])).await;
    assert_eq!(counters.open.load(Ordering::Relaxed), 1);
    drop(judge);
    let mut closed = 0;
    while let Some(entry) = told.recv().await {
        let finding: Finding = serde_json::from_str(entry.body.get()).unwrap();
        if finding.state == FindingState::Close {
            assert_eq!(finding.reason.as_deref(), Some("the series is gone"));
            closed += 1;
        }
    }
    assert_eq!(closed, 2);
}

#[tokio::test]
async fn what_an_earlier_run_left_open_is_closed() {
    let (entries, mut told) = mpsc::channel(64);
    let judge = Judge::new(entries, Arc::default());
    let left = opened(&"d".into(), Tick::default(), candidate(1, FindingType::Drop, 0.8));
    let id = left.id.clone();
    let (judgements, judgement_queue) = mpsc::channel(1);
    drop(judgements);
    judge.run(vec![left], Tick { number: 9, time_ns: 9_000_000 }, judgement_queue).await;
    let finding: Finding = serde_json::from_str(told.recv().await.unwrap().body.get()).unwrap();
    assert_eq!((finding.id, finding.state), (id, FindingState::Close));
    assert_eq!(finding.reason.as_deref(), Some("the hub was stopped"));
}
