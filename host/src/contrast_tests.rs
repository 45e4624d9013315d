use super::*;
use crate::access::Identity;
use crate::model::Entry;

/// The entries of a finding of `d` on series `series`, from second to second;
/// open for as long as there is no end.
fn entries(series: u32, from: u64, to: Option<u64>) -> Vec<Logged> {
    let started = time(from * 1000);
    let mut body = json!({
        "id": format!("d-{series}-spike-{from}"), "state": "open", "detector": "d",
        "series": series, "plugin": "p", "name": format!("s{series}"), "labels": {},
        "type": "spike", "score": 0.7, "peak": 0.7, "deviation": null, "value": 1.0,
        "expected": null, "lower": null, "upper": null, "note": null,
        "started": started, "ended": null,
    });
    let mut told = vec![entry(from, &body)];
    if let Some(to) = to {
        body["state"] = json!("close");
        body["ended"] = json!(time(to * 1000));
        told.push(entry(to, &body));
    }
    told
}

fn entry(second: u64, body: &Value) -> Logged {
    Logged::new(second, Entry::new(LogChannel::Findings, second * 1000, body).unwrap())
}

fn told(live: &[Logged], shadow: &[Logged], since: u64, who: &Identity) -> Value {
    let wanted = Wanted::of("d", 1_000_000, Duration::from_secs(1));
    let found = |read| found(read, &wanted, since * 1000, who);
    compare(found(live), found(shadow), wanted.within).told(wanted.listed)
}

fn counts(told: &Value) -> [u64; 5] {
    let of = |value: &Value| value.as_u64().unwrap();
    [
        of(&told["live"]["found"]),
        of(&told["live"]["alone"]),
        of(&told["shadow"]["found"]),
        of(&told["shadow"]["alone"]),
        of(&told["both"]),
    ]
}

#[test]
fn findings_are_the_same_where_they_overlap_or_nearly() {
    let who = Identity::open();
    for (live, shadow, same) in [
        ((10, Some(20)), (15, Some(30)), true),
        ((10, Some(20)), (25, Some(30)), true),
        ((10, Some(20)), (26, Some(30)), false),
        ((31, Some(40)), (20, Some(26)), true),
        ((32, Some(40)), (20, Some(26)), false),
        ((10, None), (500, Some(501)), true),
        ((500, Some(501)), (10, None), true),
    ] {
        let found = told(&entries(1, live.0, live.1), &entries(1, shadow.0, shadow.1), 0, &who);
        let expected = if same { [1, 0, 1, 0, 1] } else { [1, 1, 1, 1, 0] };
        assert_eq!(counts(&found), expected, "{live:?} {shadow:?}");
    }
    let other = told(&entries(1, 10, None), &entries(2, 10, None), 0, &who);
    assert_eq!(counts(&other), [1, 1, 1, 1, 0], "another series is another matter");
}

/// One long finding hides behind a short one that began after it.
#[test]
fn one_that_is_long_is_the_same_as_each_of_several_within_it() {
    let live = [entries(1, 10, Some(500)), entries(1, 20, Some(21))].concat();
    let shadow = [entries(1, 400, Some(401)), entries(1, 450, Some(451))].concat();
    let found = told(&live, &shadow, 0, &Identity::open());
    assert_eq!(counts(&found), [2, 1, 2, 0, 1]);
    assert_eq!(found["only_live"][0]["started"], "1970-01-01T00:00:20.000Z");
    assert_eq!(found["pairs"][0]["shadow"]["started"], "1970-01-01T00:07:30.000Z");
}

#[test]
fn what_began_before_the_range_or_is_not_to_be_read_does_not_count() {
    let live = [entries(1, 10, Some(60)), entries(1, 70, None), entries(2, 70, None)].concat();
    let who = Identity {
        read: Some(crate::access::Globs::new(&["s1"]).unwrap()),
        ..(*Identity::open()).clone()
    };
    assert_eq!(counts(&told(&live, &[], 50, &who)), [1, 1, 0, 0, 0]);
    assert_eq!(counts(&told(&live, &[], 50, &Identity::open())), [2, 2, 0, 0, 0]);
}
