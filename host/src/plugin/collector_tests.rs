use std::path::Path;
use std::time::Duration;

use tokio::sync::mpsc;

use super::super::limits::RefusedCounts;
use super::super::settings::Settings;
use super::super::status::PluginRole;
use super::*;
use crate::model::Mint;

/// A dictionary whose numbers are only in memory.
fn dictionary() -> Arc<Dictionary> {
    let (mint, mut requests) = mpsc::channel::<Mint>(1);
    tokio::spawn(async move {
        let mut known = HashMap::new();
        while let Some(request) = requests.recv().await {
            let mut number = |spec: &SeriesSpec| {
                let next = SeriesId(u32::try_from(known.len()).unwrap() + 100);
                *known.entry(spec.key.clone()).or_insert(next)
            };
            let ids = request.specs.iter().map(&mut number).collect();
            request.reply.send(Ok(ids)).unwrap();
        }
    });
    Arc::new(Dictionary::new(Vec::new(), mint))
}

/// Three series; four documents of 1 KiB, 3 KiB together: the hub keeps sixteen
/// of 12 KiB.
const SETTINGS: &str = "[limits]\nseries = 3\ndocuments = 4\ndocument_kib = 1\ndocuments_kib = 3\n";

fn desk() -> CollectorDesk {
    let settings = Settings::parse(Path::new("p.toml"), SETTINGS).unwrap();
    let limits = Limits::of(&settings, PluginRole::Collector, Duration::from_secs(1));
    CollectorDesk::new("p".into(), dictionary(), limits, Refused::default())
}

/// What was refused, and the limits that were met for the first time.
fn refused(desk: &mut CollectorDesk) -> (RefusedCounts, Vec<&'static str>) {
    let hits = desk.limits_hit().into_iter().map(|hit| hit.limit).collect();
    (desk.excess.counts(), hits)
}

fn named(batch: &Batch) -> Vec<&str> {
    batch.declare.iter().map(|series| series.name()).collect()
}

fn documents(batch: &Batch) -> Vec<&str> {
    batch.documents.iter().map(|document| &*document.name).collect()
}

fn declaration(id: u32, name: &str) -> collect::Declaration {
    let series = types::Series {
        name: name.into(),
        kind: types::Kind::Gauge,
        unit: "1".into(),
        description: String::new(),
        labels: Vec::new(),
    };
    collect::Declaration { id, series }
}

fn batch(declare: &[(u32, &str)], values: &[(u32, f64)]) -> collect::Batch {
    collect::Batch {
        declare: declare.iter().map(|&(id, name)| declaration(id, name)).collect(),
        ids: values.iter().map(|&(id, _)| id).collect(),
        values: values.iter().map(|&(_, value)| value).collect(),
        gone: Vec::new(),
        documents: Vec::new(),
    }
}

fn document(name: &str, json: String) -> types::Document {
    types::Document { name: name.into(), json }
}

/// A document of so many bytes.
fn document_of(name: &str, bytes: usize) -> types::Document {
    document(name, format!("\"{}\"", "x".repeat(bytes - 2)))
}

fn publishing(documents: Vec<types::Document>) -> collect::Batch {
    collect::Batch { documents, ..batch(&[], &[]) }
}

#[tokio::test]
async fn the_plugins_numbers_become_the_dictionarys() {
    let mut desk = desk();
    let first =
        desk.check(batch(&[(7, "a"), (900_000, "b")], &[(900_000, 2.0), (7, 1.0)])).await.unwrap();
    assert!(first.restarted);
    assert_eq!(first.values, [(SeriesId(101), 2.0), (SeriesId(100), 1.0)]);
    let next = desk.check(batch(&[], &[(7, f64::NAN), (900_000, 3.0)])).await.unwrap();
    assert!(!next.restarted);
    assert_eq!((next.values, next.not_finite), (vec![(SeriesId(101), 3.0)], vec![SeriesId(100)]));
    let last = collect::Batch { gone: vec![7, 900_000], ..batch(&[], &[]) };
    assert_eq!(desk.check(last).await.unwrap().gone, [SeriesId(100), SeriesId(101)]);
    assert_eq!(desk.alive(), 0);
    assert!(desk.check(batch(&[(7, "b")], &[(7, 1.0)])).await.is_ok(), "an id may be used again");
}

#[tokio::test]
async fn series_at_the_limit_are_shown_and_one_beyond_collapses_into_one_that_says_so() {
    let mut desk = desk();
    let three = [(1, "a"), (2, "b"), (3, "c")];
    let full = desk.check(batch(&three, &[(1, 1.0)])).await.unwrap();
    assert_eq!(named(&full), ["a", "b", "c"]);
    assert_eq!(refused(&mut desk), (RefusedCounts::default(), vec![]));

    let over = batch(&[(4, "d"), (900_000, "e")], &[(4, 4.0), (1, 1.0), (900_000, 5.0)]);
    let over = desk.check(over).await.unwrap();
    assert_eq!(named(&over), ["telltale.overflow"]);
    let (a, overflow) = (full.declare[0].id, over.declare[0].id);
    assert_eq!(over.values, [(a, 1.0), (overflow, 2.0)]);
    let spec = &over.declare[0].spec;
    assert_eq!((spec.kind, &*spec.unit), (Kind::Gauge, "{series}"));
    assert!(spec.description.contains("it may have 3. `series` under [limits]"), "{spec:?}");
    assert_eq!(desk.alive(), 3);
    let counts = RefusedCounts { series: 2, ..RefusedCounts::default() };
    assert_eq!(refused(&mut desk), (counts, vec!["series"]));

    // Those that are not shown end like the others, and make no room for what
    // is not declared again.
    let gone = collect::Batch { gone: vec![4, 1], ..batch(&[], &[(4, 4.0), (2, 2.0)]) };
    let gone = desk.check(gone).await.unwrap();
    assert_eq!(gone.values, [(full.declare[1].id, 2.0), (overflow, 1.0)]);
    assert_eq!(gone.gone, [a]);
    let again = desk.check(batch(&[(4, "d")], &[(4, 4.0), (900_000, 5.0)])).await.unwrap();
    assert_eq!(named(&again), ["d"]);
    assert_eq!(again.values, [(again.declare[0].id, 4.0), (overflow, 1.0)]);
    assert_eq!(refused(&mut desk), (counts, vec![]), "told once");
}

#[tokio::test]
async fn series_that_end_make_room_in_the_same_batch() {
    let mut desk = desk();
    desk.check(batch(&[(1, "a"), (2, "b"), (3, "c")], &[])).await.unwrap();
    let turn = collect::Batch { gone: vec![1, 2], ..batch(&[(4, "d"), (5, "e")], &[]) };
    assert_eq!(named(&desk.check(turn).await.unwrap()), ["d", "e"]);
    assert_eq!(refused(&mut desk).0, RefusedCounts::default());
}

#[tokio::test]
async fn ten_times_the_series_are_remembered_and_one_more_is_refused() {
    let names: Vec<String> = (0..34).map(|number| format!("s{number}")).collect();
    let all: Vec<(u32, &str)> = (0..).zip(names.iter().map(|name| &**name)).collect();
    let mut desk = desk();
    let batch_of_all = desk.check(batch(&all[..33], &[])).await.unwrap();
    assert_eq!(batch_of_all.values[0].1, 30.0);
    let refusal = desk.check(batch(&all[33..], &[])).await.unwrap_err().to_string();
    assert!(refusal.contains("31 series declared beyond the 3 that are shown"), "{refusal}");
}

#[tokio::test]
async fn rules_hold_for_series_that_are_not_shown() {
    let over = [(1, "a"), (2, "b"), (3, "c"), (4, "d")];
    let twice = batch(&over, &[(4, 1.0), (4, 2.0)]);
    let both = collect::Batch { gone: vec![4], ..batch(&over, &[]) };
    let again = batch(&[over[0], over[1], over[2], over[3], (4, "e")], &[]);
    let name = batch(&[over[0], over[1], over[2], (4, "9")], &[]);
    for (wire, words) in [
        (twice, "id 4 is in the batch twice"),
        (both, "id 4 is declared and gone in one batch"),
        (again, "id 4 of `e` is declared already"),
        (name, "name \"9\" is not a letter"),
    ] {
        let refusal = desk().check(wire).await.unwrap_err().to_string();
        assert!(refusal.contains(words), "{refusal:?} does not say {words:?}");
    }
}

#[tokio::test]
async fn documents_at_the_limit_are_taken_and_what_is_beyond_is_dropped_and_counted() {
    let most = |bytes| (0..4).map(|n| document_of(&format!("d{n}"), bytes)).collect::<Vec<_>>();
    let mut full = most(768);
    for (wire, taken, limit) in [
        (full.clone(), &["d0", "d1", "d2", "d3"][..], None),
        (vec![document_of("d0", 1024)], &["d0"], None),
        (vec![document_of("d0", 1025), document_of("d1", 9)], &["d1"], Some("document_kib")),
        (most(1024), &["d0", "d1", "d2"], Some("documents_kib")),
        (
            {
                full.push(document("d4", "1".into()));
                full
            },
            &["d0", "d1", "d2", "d3"],
            Some("documents"),
        ),
    ] {
        let mut desk = desk();
        let batch = desk.check(publishing(wire)).await.unwrap();
        assert_eq!(documents(&batch), taken);
        let (counts, hits) = refused(&mut desk);
        assert_eq!(counts.documents, u64::from(limit.is_some()));
        assert_eq!(hits, limit.into_iter().collect::<Vec<_>>());
    }
}

#[tokio::test]
async fn documents_of_ever_new_names_are_dropped_and_counted() {
    let mut desk = desk();
    for number in 0..16 {
        let wire = publishing(vec![document(&format!("d{number}"), "1".into())]);
        assert_eq!(desk.check(wire).await.unwrap().documents.len(), 1);
    }
    let wire = vec![document("one-more", "1".into()), document("d0", "2".into())];
    assert_eq!(documents(&desk.check(publishing(wire)).await.unwrap()), ["d0"]);
    let counts = RefusedCounts { documents: 1, ..RefusedCounts::default() };
    assert_eq!(refused(&mut desk), (counts, vec!["documents"]));
}

#[tokio::test]
async fn documents_that_grow_beyond_what_is_kept_are_dropped_and_counted() {
    let mut desk = desk();
    for number in 0..12 {
        let wire = publishing(vec![document_of(&format!("d{number}"), 1024)]);
        assert_eq!(desk.check(wire).await.unwrap().documents.len(), 1);
    }
    let wire = vec![document("more", "1".into()), document_of("d0", 1023)];
    assert_eq!(documents(&desk.check(publishing(wire)).await.unwrap()), ["d0"]);
    let wire = vec![document("more", "1".into()), document_of("d0", 1024)];
    assert_eq!(documents(&desk.check(publishing(wire)).await.unwrap()), ["more"]);
    let counts = RefusedCounts { documents: 2, ..RefusedCounts::default() };
    assert_eq!(refused(&mut desk), (counts, vec!["documents_kib"]));
}

#[tokio::test]
async fn a_batch_that_breaks_a_rule_is_refused_with_its_name() {
    let uneven = collect::Batch { values: vec![], ..batch(&[(1, "a")], &[(1, 1.0)]) };
    let both = collect::Batch { gone: vec![1], ..batch(&[(1, "a")], &[]) };
    let never = collect::Batch { gone: vec![4], ..batch(&[], &[]) };
    let json = collect::Batch { documents: vec![document("d", "{".into())], ..batch(&[], &[]) };
    for (wire, words) in [
        (uneven, "1 ids and 0 values"),
        (batch(&[], &[(3, 1.0)]), "id 3 is not declared"),
        (batch(&[(1, "a")], &[(1, 1.0), (1, 2.0)]), "id 1 is in the batch twice"),
        (batch(&[(1, "a"), (1, "b")], &[]), "id 1 of `b` is declared already"),
        (batch(&[(1, "a"), (2, "a")], &[]), "`a` is declared as 1 and as 2"),
        (batch(&[(1, "9")], &[]), "name \"9\" is not a letter"),
        (batch(&[(1, "telltale.x")], &[]), "names that begin with `telltale.` are the hub's own"),
        (both, "id 1 is declared and gone in one batch"),
        (never, "id 4 is gone, but was not declared"),
        (json, "document `d` is no JSON"),
    ] {
        let refusal = desk().check(wire).await.unwrap_err().to_string();
        assert!(refusal.contains(words), "{refusal:?} does not say {words:?}");
    }
}
