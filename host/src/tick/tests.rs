use super::*;
use crate::model::{Batch, Kind, Labels, Series, SeriesId, SeriesKey, SeriesSpec};
use crate::snapshot::Mark;

/// A loop under test, with paused time: the harness plays the collectors.
struct Loop {
    changes: mpsc::Sender<Change>,
    answers: mpsc::Sender<Answer>,
    snapshots: mpsc::Receiver<Arc<Snapshot>>,
    counters: Arc<TickCounters>,
    _stop: crate::shutdown::Stop,
}

impl Loop {
    fn start(interval: Duration) -> Self {
        let (changes, change_queue) = mpsc::channel(8);
        let (answers, answer_queue) = mpsc::channel(64);
        let (published, snapshots) = mpsc::channel(1024);
        let (stop, shutdown) = crate::shutdown::channel();
        let counters = Arc::new(TickCounters::default());
        let ticker = Ticker {
            interval,
            clock: Clock::system(),
            last: Some(Tick { number: 41, time_ns: u64::MAX / 2 }),
            changes: change_queue,
            answers: answer_queue,
            asking: Handle::current(),
            publish: move |snapshot| published.try_send(snapshot).unwrap(),
            counters: counters.clone(),
        };
        tokio::spawn(ticker.run(shutdown));
        Self { changes, answers, snapshots, counters, _stop: stop }
    }

    /// A collector with one gauge, that answers when told to.
    async fn collector(&self, name: &str, interval: Option<Duration>) -> mpsc::Receiver<Ask> {
        let (ask, asks) = mpsc::channel(1);
        let name = name.into();
        self.changes
            .send(Change::Collector { name, interval, ask, late: Arc::default() })
            .await
            .unwrap();
        asks
    }

    async fn answer(&self, name: &str, first: bool) {
        let key = SeriesKey { plugin: name.into(), name: "s".into(), labels: Labels::default() };
        let spec = SeriesSpec::new(key, Kind::Gauge, "1".into(), "".into()).unwrap();
        let series = Arc::new(Series { id: SeriesId(1), spec, interval_ns: 1 });
        let batch = Batch {
            restarted: first,
            declare: if first { vec![series] } else { vec![] },
            values: vec![(SeriesId(1), 1.0)],
            ..Batch::default()
        };
        self.answers.send(Answer { plugin: name.into(), outcome: Ok(batch) }).await.unwrap();
    }

    async fn next(&mut self) -> Arc<Snapshot> {
        self.snapshots.recv().await.unwrap()
    }
}

const SECOND: Duration = Duration::from_secs(1);

#[tokio::test(start_paused = true)]
async fn numbers_go_on_after_a_restart_and_time_never_goes_back() {
    let mut hub = Loop::start(SECOND);
    for number in 42..45 {
        let snapshot = hub.next().await;
        assert_eq!(snapshot.tick, Tick { number, time_ns: u64::MAX / 2 });
    }
}

#[tokio::test(start_paused = true)]
async fn a_prompt_collector_is_in_the_tick_that_asked_it() {
    let mut hub = Loop::start(SECOND);
    let mut asks = hub.collector("p", None).await;
    for first in [true, false] {
        let ask = asks.recv().await.unwrap();
        hub.answer("p", first).await;
        let snapshot = hub.next().await;
        assert_eq!(snapshot.tick, ask.tick);
        assert_eq!(*snapshot.marks, [Mark::Updated]);
    }
}

#[tokio::test(start_paused = true)]
async fn a_late_answer_enters_the_tick_in_which_it_comes() {
    let mut hub = Loop::start(SECOND);
    let mut asks = hub.collector("p", None).await;
    asks.recv().await.unwrap();
    hub.answer("p", true).await;
    hub.next().await;

    let asked = asks.recv().await.unwrap();
    let without = hub.next().await;
    assert_eq!((without.tick, &*without.marks), (asked.tick, &[Mark::Missed][..]));
    assert!(asks.try_recv().is_err(), "not asked again until it has answered");
    hub.answer("p", false).await;
    let with = hub.next().await;
    assert_eq!(*with.marks, [Mark::Updated]);
    assert_eq!(hub.counters.late_answers.load(Ordering::Relaxed), 1);
}

#[tokio::test(start_paused = true)]
async fn one_that_was_late_is_not_waited_for_until_it_is_quick_again() {
    let mut hub = Loop::start(SECOND);
    let mut asks = hub.collector("p", None).await;
    asks.recv().await.unwrap();
    hub.next().await;
    hub.answer("p", true).await;
    // Asked again, and not waited for: the tick ends at once, without it.
    let asked = asks.recv().await.unwrap();
    assert_eq!(hub.next().await.tick, asked.tick);
    // Its answer comes quickly, which makes it one to be waited for.
    hub.answer("p", false).await;
    let asked = asks.recv().await.unwrap();
    hub.answer("p", false).await;
    let snapshot = hub.next().await;
    assert_eq!((snapshot.tick, &*snapshot.marks), (asked.tick, &[Mark::Updated][..]));
}

#[tokio::test(start_paused = true)]
async fn an_interval_is_rounded_to_whole_ticks() {
    let mut hub = Loop::start(SECOND);
    let mut asks = hub.collector("p", Some(Duration::from_millis(2600))).await;
    let mut asked = Vec::new();
    for first in [true, false, false] {
        asked.push(asks.recv().await.unwrap().tick.number);
        hub.answer("p", first).await;
    }
    assert_eq!(asked, [42, 45, 48]);
    while hub.next().await.tick.number < 46 {}
    assert_eq!(*hub.next().await.marks, [Mark::Held], "none was due");
}

#[tokio::test(start_paused = true)]
async fn a_collector_that_is_gone_takes_its_series_along() {
    let mut hub = Loop::start(SECOND);
    let mut asks = hub.collector("p", None).await;
    asks.recv().await.unwrap();
    hub.answer("p", true).await;
    assert_eq!(hub.next().await.roster.series.len(), 1);
    hub.changes.send(Change::Gone { name: "p".into() }).await.unwrap();
    assert_eq!(hub.next().await.roster.series.len(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_busy_detector_skips_ticks_and_they_are_counted() {
    let mut hub = Loop::start(SECOND);
    let (observe, mut observed) = mpsc::channel(1);
    hub.changes
        .send(Change::Detector { name: "d".into(), observe, late: Arc::default() })
        .await
        .unwrap();
    for _ in 0..3 {
        hub.next().await;
    }
    assert_eq!(observed.recv().await.unwrap().tick.number, 42);
    assert_eq!(hub.counters.skipped_observations.load(Ordering::Relaxed), 2);
}

#[tokio::test(start_paused = true)]
async fn slots_that_have_passed_are_skipped_and_counted() {
    let (stop, shutdown) = crate::shutdown::channel();
    let counters = Arc::new(TickCounters::default());
    let (published, mut snapshots) = mpsc::channel(16);
    let mut stalls = [3500u64, 0, 0].into_iter();
    let ticker = Ticker {
        interval: SECOND,
        clock: Clock::system(),
        last: None,
        changes: mpsc::channel(1).1,
        answers: mpsc::channel(1).1,
        asking: Handle::current(),
        publish: move |snapshot: Arc<Snapshot>| {
            // The machine stands still for a while.
            let stall = tokio::time::advance(Duration::from_millis(stalls.next().unwrap_or(0)));
            futures_util::FutureExt::now_or_never(stall);
            let _ = published.try_send((Instant::now(), snapshot.tick.number));
        },
        counters: counters.clone(),
    };
    let start = Instant::now();
    tokio::spawn(ticker.run(shutdown));
    let mut ticks = Vec::new();
    for _ in 0..3 {
        let (at, number) = snapshots.recv().await.unwrap();
        ticks.push(((at - start).as_millis(), number));
    }
    drop(stop);
    // The slots at 2 and 3 s are lost; that of 4 s is taken late, at 4.5 s.
    assert_eq!(ticks, [(4500, 1), (4500, 2), (5000, 3)]);
    assert_eq!(counters.skipped.load(Ordering::Relaxed), 2);
}

#[test]
fn durations_become_whole_ticks() {
    let tick = Duration::from_millis(100);
    for (ms, ticks) in [(1, 1), (149, 1), (150, 2), (1000, 10)] {
        assert_eq!(in_ticks(Some(Duration::from_millis(ms)), tick), ticks, "{ms} ms");
    }
    assert_eq!(in_ticks(None, tick), 1);
}
