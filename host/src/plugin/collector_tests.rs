use tokio::sync::mpsc;

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

fn desk() -> CollectorDesk {
    CollectorDesk::new("p".into(), dictionary(), 1_000_000_000, 3)
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
async fn documents_of_ever_new_names_are_refused() {
    let mut desk = desk();
    for number in 0..DOCUMENT_NAMES_MAX {
        let documents = vec![document(&format!("d{number}"), "1".into())];
        desk.check(collect::Batch { documents, ..batch(&[], &[]) }).await.unwrap();
    }
    let again = vec![document("d0", "2".into())];
    desk.check(collect::Batch { documents: again, ..batch(&[], &[]) }).await.unwrap();
    let new = vec![document("one-more", "1".into())];
    let refusal = desk.check(collect::Batch { documents: new, ..batch(&[], &[]) }).await;
    assert!(refusal.unwrap_err().to_string().contains("65 different ones"));
}

#[tokio::test]
async fn a_batch_that_breaks_a_rule_is_refused_with_its_name() {
    let uneven = collect::Batch { values: vec![], ..batch(&[(1, "a")], &[(1, 1.0)]) };
    let both = collect::Batch { gone: vec![1], ..batch(&[(1, "a")], &[]) };
    let never = collect::Batch { gone: vec![4], ..batch(&[], &[]) };
    let json = collect::Batch { documents: vec![document("d", "{".into())], ..batch(&[], &[]) };
    let long = format!("\"{}\"", "x".repeat(DOCUMENT_BYTES_MAX));
    let large = collect::Batch { documents: vec![document("d", long)], ..batch(&[], &[]) };
    let many = collect::Batch {
        documents: vec![document("d", "1".into()); DOCUMENTS_MAX + 1],
        ..batch(&[], &[])
    };
    for (wire, words) in [
        (uneven, "1 ids and 0 values"),
        (batch(&[], &[(3, 1.0)]), "id 3 is not declared"),
        (batch(&[(1, "a")], &[(1, 1.0), (1, 2.0)]), "id 1 is in the batch twice"),
        (batch(&[(1, "a"), (1, "b")], &[]), "id 1 of `b` is declared already"),
        (batch(&[(1, "a"), (2, "a")], &[]), "`a` is declared as 1 and as 2"),
        (batch(&[(1, "9")], &[]), "name \"9\" is not a letter"),
        (
            batch(&[(1, "a"), (2, "b"), (3, "c"), (4, "d")], &[]),
            "4 series alive, and 3 is the limit",
        ),
        (both, "id 1 is declared and gone in one batch"),
        (never, "id 4 is gone, but was not declared"),
        (json, "document `d` is no JSON"),
        (large, "document `d` has 262146 bytes"),
        (many, "17 documents"),
    ] {
        let refusal = desk().check(wire).await.unwrap_err().to_string();
        assert!(refusal.contains(words), "{refusal:?} does not say {words:?}");
    }
}
