use super::*;
use crate::model::{Batch, Kind, Labels, Series, SeriesId, SeriesKey, SeriesSpec};
use crate::snapshot::Mark;

/// A loop under test, with paused time: the harness plays the collectors.
struct Loop {
    changes: mpsc::Sender<Change>,
    answers: mpsc::Sender<Answer>,
    snapshots: mpsc::Receiver<Arc<Snapshot>>,
    counters: Arc<TickCounters>,
    watching: watch::Sender<Arc<BTreeSet<PluginName>>>,
    _stop: crate::shutdown::Stop,
}

impl Loop {
    fn start(interval: Duration) -> Self {
        let (changes, change_queue) = mpsc::channel(8);
        let (answers, answer_queue) = mpsc::channel(64);
        let (published, snapshots) = mpsc::channel(1024);
        let (watching, watched) = watch::channel(Arc::default());
        let (stop, shutdown) = crate::shutdown::channel();
        let counters = Arc::new(TickCounters::default());
        let ticker = Ticker {
            interval,
            clock: Clock::system(),
            last: Some(Tick { number: 41, time_ns: u64::MAX / 2 }),
            changes: change_queue,
            watched,
            answers: answer_queue,
            asking: Handle::current(),
            publish: move |snapshot| published.try_send(snapshot).unwrap(),
            counters: counters.clone(),
        };
        tokio::spawn(ticker.run(shutdown));
        Self { changes, answers, snapshots, counters, watching, _stop: stop }
    }

    /// A collector with one gauge, that answers when told to.
    async fn collector(&self, name: &str, interval: Option<Duration>) -> mpsc::Receiver<Ask> {
        let (ask, asks) = mpsc::channel(1);
        self.schedule(name, interval, None, &ask).await;
        asks
    }

    /// One that is asked at every tick, or every five while nobody watches.
    async fn idle_collector(&self, name: &str) -> (mpsc::Sender<Ask>, mpsc::Receiver<Ask>) {
        let (ask, asks) = mpsc::channel(1);
        self.schedule(name, None, Some(5 * SECOND), &ask).await;
        (ask, asks)
    }

    async fn schedule(
        &self,
        name: &str,
        interval: Option<Duration>,
        interval_idle: Option<Duration>,
        ask: &mpsc::Sender<Ask>,
    ) {
        let (name, ask, late) = (name.into(), ask.clone(), Arc::default());
        let change = Change::Collector { name, interval, interval_idle, ask, late };
        self.changes.send(change).await.unwrap();
    }

    /// Answers this many questions at once; the ticks at which they came.
    async fn asked(&self, asks: &mut mpsc::Receiver<Ask>, times: usize, first: bool) -> Vec<u64> {
        let mut asked = Vec::new();
        for time in 0..times {
            asked.push(asks.recv().await.unwrap().tick.number);
            self.answer("p", first && time == 0).await;
        }
        asked
    }

    fn watch(&self, names: &[&str]) {
        let names = names.iter().map(|name| PluginName::from(*name)).collect();
        self.watching.send_replace(Arc::new(names));
    }

    async fn setback(&self, name: &str, kind: SetbackKind) {
        let outcome = Err(Setback { kind, reason: "it said so".into() });
        self.answers.send(Answer { plugin: name.into(), outcome }).await.unwrap();
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
async fn a_collector_that_nobody_watches_is_asked_less_often() {
    let mut hub = Loop::start(SECOND);
    let (_ask, mut asks) = hub.idle_collector("p").await;
    // Twice at first, so that counters have a rate.
    assert_eq!(hub.asked(&mut asks, 4, true).await, [42, 43, 48, 53]);
    for _ in 42..=53 {
        let snapshot = hub.next().await;
        assert!(matches!(*snapshot.marks, [Mark::Updated | Mark::Held]), "not stale meanwhile");
        assert_eq!(snapshot.roster.series[0].interval_ns, 1);
    }
    hub.watch(&["q", "p"]);
    assert_eq!(hub.asked(&mut asks, 3, false).await, [54, 55, 56]);
    hub.watch(&["q"]);
    assert_eq!(hub.asked(&mut asks, 2, false).await, [61, 66]);
    assert_eq!(hub.counters.late_answers.load(Ordering::Relaxed), 0);
}

#[tokio::test(start_paused = true)]
async fn a_collector_that_is_watched_again_keeps_its_interval() {
    let hub = Loop::start(SECOND);
    let (ask, mut asks) = mpsc::channel(1);
    hub.schedule("p", Some(3 * SECOND), Some(10 * SECOND), &ask).await;
    assert_eq!(hub.asked(&mut asks, 3, true).await, [42, 45, 55]);
    // Watchers that come and go do not make it be asked more often than it says.
    hub.watch(&["p"]);
    assert_eq!(hub.asked(&mut asks, 1, false).await, [58]);
    hub.watch(&[]);
    assert_eq!(hub.asked(&mut asks, 1, false).await, [68]);
}

#[tokio::test(start_paused = true)]
async fn an_idle_collector_is_asked_soon_when_there_is_something_to_do() {
    let hub = Loop::start(SECOND);
    let (ask, mut asks) = hub.idle_collector("p").await;
    assert_eq!(hub.asked(&mut asks, 3, true).await, [42, 43, 48]);
    hub.changes.send(Change::Due { name: "p".into() }).await.unwrap();
    // Another instance declares its series, and idles again.
    assert_eq!(hub.asked(&mut asks, 3, true).await, [49, 50, 55]);
    // Another interval, and none.
    hub.schedule("p", None, Some(3 * SECOND), &ask).await;
    assert_eq!(hub.asked(&mut asks, 2, false).await, [58, 61]);
    hub.schedule("p", None, None, &ask).await;
    assert_eq!(hub.asked(&mut asks, 2, false).await, [62, 63]);
}

#[tokio::test(start_paused = true)]
async fn one_that_is_busy_when_it_is_due_is_asked_when_it_is_done() {
    let mut hub = Loop::start(SECOND);
    let (_ask, mut asks) = hub.idle_collector("p").await;
    assert_eq!(hub.asked(&mut asks, 2, true).await, [42, 43]);
    let busy = asks.recv().await.unwrap();
    hub.changes.send(Change::Due { name: "p".into() }).await.unwrap();
    while hub.next().await.tick.number < busy.tick.number + 2 {}
    hub.answer("p", false).await;
    assert_eq!(asks.recv().await.unwrap().tick.number, busy.tick.number + 3);
}

#[tokio::test(start_paused = true)]
async fn an_idle_collector_that_has_failed_is_not_left_so() {
    let hub = Loop::start(SECOND);
    let (_ask, mut asks) = hub.idle_collector("p").await;
    let mut asked = Vec::new();
    use SetbackKind::{Quarantined, Restarting, Retry};
    for setback in [Some(Retry), None, None, Some(Retry), Some(Restarting), Some(Quarantined)] {
        asked.push(asks.recv().await.unwrap().tick.number);
        match setback {
            Some(kind) => hub.setback("p", kind).await,
            None => hub.answer("p", asked.len() == 2).await,
        }
    }
    // What can't be measured just now is tried again when it is next due.
    assert_eq!(asked, [42, 43, 44, 49, 54, 55]);
    assert_eq!(hub.asked(&mut asks, 3, true).await, [56, 57, 62]);
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
        watched: watch::channel(Arc::default()).1,
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
