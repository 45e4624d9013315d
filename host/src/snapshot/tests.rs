use super::*;
use crate::model::{Batch, Labels, SeriesKey, SeriesSpec};

const SECOND: u64 = 1_000_000_000;

fn series(plugin: &str, id: u32, kind: Kind) -> Arc<Series> {
    let key = SeriesKey {
        plugin: plugin.into(),
        name: format!("s{id}").into(),
        labels: Labels::default(),
    };
    let spec = SeriesSpec::new(key, kind, "1".into(), "".into()).unwrap();
    Arc::new(Series { id: SeriesId(id), spec, interval_ns: SECOND })
}

fn answer(plugin: &str, batch: Batch) -> Answer {
    Answer { plugin: plugin.into(), outcome: Ok(batch) }
}

fn values(pairs: &[(u32, f64)]) -> Vec<(SeriesId, f64)> {
    pairs.iter().map(|&(id, value)| (SeriesId(id), value)).collect()
}

fn first(plugin: &str, kind: Kind, pairs: &[(u32, f64)]) -> Answer {
    let declare = pairs.iter().map(|&(id, _)| series(plugin, id, kind)).collect();
    answer(plugin, Batch { restarted: true, declare, values: values(pairs), ..Batch::default() })
}

fn next(plugin: &str, pairs: &[(u32, f64)]) -> Answer {
    answer(plugin, Batch { values: values(pairs), ..Batch::default() })
}

/// Takes one tick with these answers.
fn tick(freezer: &mut Freezer, number: u64, answers: Vec<Answer>) -> Arc<Snapshot> {
    freezer.begin(Tick { number, time_ns: number * SECOND });
    for answer in answers {
        freezer.apply(answer);
    }
    freezer.freeze()
}

/// What a snapshot says of each series: its number, its value and its mark, the
/// reason in its place where it is stale.
fn told(snapshot: &Snapshot) -> Vec<(u32, Option<f64>, String)> {
    snapshot
        .roster
        .series
        .iter()
        .enumerate()
        .map(|(at, series)| {
            let value = Some(snapshot.values[at]).filter(|value| value.is_finite());
            let mark = match snapshot.stale.get(&at) {
                Some(stale) => format!("{} since {}", stale.reason.code(), stale.since.number),
                None => format!("{:?}", snapshot.marks[at]).to_lowercase(),
            };
            (series.id.0, value, mark)
        })
        .collect()
}

#[test]
fn a_counter_becomes_a_rate_and_its_first_value_is_absent() {
    let mut freezer = Freezer::default();
    let one = tick(&mut freezer, 1, vec![first("p", Kind::Counter, &[(1, 100.0)])]);
    assert_eq!(told(&one), [(1, None, "updated".into())]);
    assert_eq!(one.raw[0].to_bits(), 100f64.to_bits());
    let two = tick(&mut freezer, 3, vec![next("p", &[(1, 150.0)])]);
    assert_eq!(told(&two), [(1, Some(25.0), "updated".into())]);
    let reset = tick(&mut freezer, 4, vec![next("p", &[(1, 10.0)])]);
    assert_eq!(told(&reset), [(1, None, "updated".into())]);
    let after = tick(&mut freezer, 5, vec![next("p", &[(1, 11.0)])]);
    assert_eq!(told(&after), [(1, Some(1.0), "updated".into())]);
}

#[test]
fn a_counter_declared_anew_starts_anew() {
    let mut freezer = Freezer::default();
    let _ = tick(&mut freezer, 1, vec![first("p", Kind::Counter, &[(1, 100.0)])]);
    let before = tick(&mut freezer, 2, vec![next("p", &[(1, 110.0)])]);
    let again = tick(&mut freezer, 3, vec![first("p", Kind::Counter, &[(1, 120.0)])]);
    assert_eq!(told(&again), [(1, None, "updated".into())]);
    assert_eq!(before.roster.generation, again.roster.generation, "a reload alone is no news");
}

#[test]
fn two_answers_in_one_tick_count_once() {
    let mut freezer = Freezer::default();
    let _ = tick(&mut freezer, 1, vec![first("p", Kind::Counter, &[(1, 100.0)])]);
    let both = tick(&mut freezer, 2, vec![next("p", &[(1, 105.0)]), next("p", &[(1, 108.0)])]);
    assert_eq!(told(&both), [(1, Some(8.0), "updated".into())]);
}

#[test]
fn what_was_due_and_did_not_come_is_stale_with_reason_and_since() {
    let mut freezer = Freezer::default();
    let _ = tick(&mut freezer, 1, vec![first("p", Kind::Gauge, &[(1, 1.0), (2, 2.0)])]);
    let held = tick(&mut freezer, 2, vec![]);
    assert_eq!(told(&held), [(1, Some(1.0), "held".into()), (2, Some(2.0), "held".into())]);
    let one = tick(&mut freezer, 3, vec![next("p", &[(1, 1.5)])]);
    assert_eq!(
        told(&one),
        [(1, Some(1.5), "updated".into()), (2, Some(2.0), "not_reported since 3".into())]
    );
    freezer.mark_late("p".into());
    let late = tick(&mut freezer, 4, vec![]);
    assert_eq!(
        told(&late),
        [(1, Some(1.5), "late since 4".into()), (2, Some(2.0), "late since 3".into())]
    );
    let back = tick(&mut freezer, 5, vec![next("p", &[(1, 1.0), (2, 3.0)])]);
    assert_eq!(told(&back), [(1, Some(1.0), "updated".into()), (2, Some(3.0), "updated".into())]);
}

#[test]
fn a_value_that_is_not_finite_is_absent_and_counted() {
    let mut freezer = Freezer::default();
    let _ = tick(&mut freezer, 1, vec![first("p", Kind::Gauge, &[(1, 1.0)])]);
    let batch = Batch { not_finite: vec![SeriesId(1)], ..Batch::default() };
    let odd = tick(&mut freezer, 2, vec![answer("p", batch)]);
    assert_eq!(told(&odd), [(1, Some(1.0), "not_finite since 2".into())]);
    assert_eq!(freezer.not_finite(), 1);
}

#[test]
fn a_restarted_plugin_loses_what_it_does_not_declare_again() {
    let mut freezer = Freezer::default();
    let both = [(1, 1.0), (2, 2.0)];
    let _ = tick(
        &mut freezer,
        1,
        vec![first("p", Kind::Gauge, &both), first("q", Kind::Gauge, &[(3, 3.0)])],
    );
    let less =
        tick(&mut freezer, 2, vec![first("p", Kind::Gauge, &[(2, 5.0)]), next("q", &[(3, 3.0)])]);
    assert_eq!(told(&less), [(2, Some(5.0), "updated".into()), (3, Some(3.0), "updated".into())]);
}

#[test]
fn a_removed_plugin_takes_its_series_and_documents_along() {
    let mut freezer = Freezer::default();
    let document = |plugin: &str| {
        let json = serde_json::value::RawValue::from_string("[1]".to_owned()).unwrap();
        Arc::new(Document { plugin: plugin.into(), name: "d".into(), json })
    };
    let with = |plugin: &str, id| {
        let mut answer = first(plugin, Kind::Gauge, &[(id, 1.0)]);
        answer.outcome.as_mut().unwrap().documents.push(document(plugin));
        answer
    };
    let both = tick(&mut freezer, 1, vec![with("p", 1), with("q", 2)]);
    assert_eq!(both.documents.len(), 2);
    freezer.remove("p".into());
    let one = tick(&mut freezer, 2, vec![next("p", &[(1, 9.0)]), next("q", &[(2, 1.0)])]);
    assert_eq!(told(&one), [(2, Some(1.0), "updated".into())]);
    assert_eq!(one.documents.keys().map(|(owner, _)| &**owner).collect::<Vec<_>>(), ["q"]);
}

#[test]
fn a_setback_makes_documents_stale_until_the_plugin_answers_again() {
    let mut freezer = Freezer::default();
    let json = serde_json::value::RawValue::from_string("[]".to_owned()).unwrap();
    let document = Arc::new(Document { plugin: "p".into(), name: "d".into(), json });
    let batch = Batch { restarted: true, documents: vec![document], ..Batch::default() };
    let _ = tick(&mut freezer, 1, vec![answer("p", batch)]);
    let setback = Setback { kind: SetbackKind::Retry, reason: "the database is locked".into() };
    let refused = Answer { plugin: "p".into(), outcome: Err(setback) };
    let stale = tick(&mut freezer, 2, vec![refused]);
    let published = stale.documents.values().next().unwrap();
    assert_eq!(published.stale.as_ref().unwrap().reason.words(), "the database is locked");
    let back = tick(&mut freezer, 3, vec![next("p", &[])]);
    assert!(back.documents.values().next().unwrap().stale.is_none());
}
