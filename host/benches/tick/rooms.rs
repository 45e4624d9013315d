//! What the host does with a tick's values, without any plugin.

use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

use telltale::access::{Access, Identity};
use telltale::channel::{Feed, Lane, StateEncoder, SubId};
use telltale::clock::Clock;
use telltale::config::FindingsConfig;
use telltale::dialect::native::Native;
use telltale::judge::{Judge, Rules};
use telltale::model::{Candidate, ConnectionId, FindingType, Judgement, Series, SeriesId};
use telltale::plugin::Statuses;
use telltale::session::{Act, Client, Dialect, HubFacts, Received};
use telltale::snapshot::Freezer;
use tokio::sync::mpsc;

use crate::figures::{Figures, timed};
use crate::sample::{Crowd, tick};

/// Series in the roster.
pub(crate) const SERIES: u32 = 10_000;
/// Snapshots that are encoded in turn.
const SNAPSHOTS: u64 = 8;

/// The answers of 1,000 plugins with ten values each, taken in and frozen; and
/// the same values in one answer.
pub(crate) fn freeze(figures: &mut Figures) {
    for plugins in [1, 1_000] {
        let crowd = Crowd::new(plugins, SERIES / plugins);
        let mut freezer = Freezer::default();
        let mut number = 0;
        figures.measure(&format!("freeze/plugins/{plugins}"), |times| {
            (0..times)
                .map(|_| {
                    number += 1;
                    let answers = crowd.answers(tick(number), number == 1);
                    timed(|| {
                        freezer.begin(tick(number));
                        for answer in answers {
                            freezer.apply(answer);
                        }
                        drop(black_box(freezer.freeze()));
                    })
                })
                .sum::<Duration>()
        });
    }
}

/// A detector's scores of all series, of which one in a hundred was odd lately,
/// or none: 50 ticks ago, so that its finding is closed and its course is not
/// over.
pub(crate) fn judge(figures: &mut Figures) {
    for (name, odd_each) in [("calm", SERIES), ("some", 100)] {
        let entries = mpsc::channel(1).0;
        let rules = Rules::new(&FindingsConfig::default()).expect("there is no glob in it");
        let mut judge = Judge::new(rules, entries, mpsc::channel(1).0, Arc::default());
        let series = Crowd::new(1, SERIES).snapshots(1)[0].roster.series.clone();
        let judgement = |number: u64, score: f64| {
            let seen: Vec<SeriesId> = series.iter().map(|series| series.id).collect();
            let of = |id: &SeriesId| if id.0 % odd_each == 1 { score } else { 0.1 };
            Judgement {
                declared: if number == 1 { series.clone() } else { Vec::new() },
                values: vec![1.0; seen.len()],
                scores: seen.iter().map(of).collect(),
                candidates: odd(&series, odd_each, score),
                seen,
                ended: false,
                ..Judgement::farewell("bench".into(), tick(number), false)
            }
        };
        let first = judge.judge(judgement(1, 0.9)).findings.len();
        assert_eq!(first, (SERIES / odd_each) as usize);
        (2..50).for_each(|number| drop(judge.judge(judgement(number, 0.1))));
        let mut number = 50;
        figures.measure(&format!("judge/{name}"), |times| {
            (0..times)
                .map(|_| {
                    number += 1;
                    let judgement = judgement(number, 0.1);
                    timed(|| drop(black_box(judge.judge(judgement))))
                })
                .sum::<Duration>()
        });
    }
}

/// The candidates of every so-manieth series, if the score is high enough.
fn odd(series: &[Arc<Series>], each: u32, score: f64) -> Vec<Candidate> {
    let odd = series.iter().filter(|series| score >= 0.5 && series.id.0 % each == 1);
    let candidate = |series: &Arc<Series>| Candidate {
        series: series.clone(),
        finding_type: FindingType::Spike,
        score,
        value: None,
        deviation: None,
        expected: None,
        lower: None,
        upper: None,
        note: None,
    };
    odd.map(candidate).collect()
}

/// A native `metrics` frame in which every series has changed.
pub(crate) fn encode(figures: &mut Figures) {
    let snapshots = Crowd::new(1, SERIES).snapshots(SNAPSHOTS);
    let mut turn = snapshots.iter().cycle();
    let mut feed = Feed::new(Statuses::default(), Clock::system(), "bench".to_owned(), 0);
    let mut encoder = metrics();
    let mut push = || {
        feed.snapshot = Arc::clone(turn.next().expect("a cycle has no end"));
        let mut text = String::new();
        assert!(encoder.push(&mut feed, SubId(1), &mut text), "there is a push at each tick");
        text
    };
    let (declared, changed) = (push(), push());
    assert!(declared.len() > changed.len() && changed.len() > SERIES as usize);
    figures.measure("encode/metrics", |times| {
        timed(|| (0..times).for_each(|_| drop(black_box(push()))))
    });
}

/// The encoder that a client gets who subscribes to all metrics.
fn metrics() -> Box<dyn StateEncoder> {
    let hub = HubFacts {
        name: "bench".to_owned(),
        version: "",
        tick: Duration::from_secs(1),
        epoch: "bench".to_owned(),
        admin_token: String::new(),
        heartbeat: Duration::from_secs(25),
    };
    let address = std::net::IpAddr::from([127, 0, 0, 1]);
    let client = Client::new(ConnectionId(1), "native", address, 0, Some(Identity::open()));
    let mut native = Native::new(Clock::system(), Arc::new(hub), Access::open(), client);
    let subscribe = r#"{"id": 1, "op": "subscribe", "channel": "metrics"}"#;
    let acts = native.receive(Received::Text(subscribe));
    match acts.into_iter().next() {
        Some(Act::Subscribe { lane: Lane::State(encoder), .. }) => encoder,
        _ => panic!("the native dialect has refused to subscribe"),
    }
}
