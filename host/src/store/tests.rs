use std::path::Path;

use rusqlite::Connection;
use tempfile::TempDir;

use super::*;
use crate::model::{
    Changed, Clash, Edit, Kind, Labels, LogChannel, ObjectKey, ObjectKind, Operation, Series,
    SeriesKey, SeriesSpec, Topic,
};
use crate::snapshot::{Mark, Roster};

/// 2026-02-10T12:00:00Z.
const START_MS: u64 = 1_770_724_800_000;

/// A store in a folder of its own, and what it told.
struct Bench {
    folder: TempDir,
    store: Store,
    kept: Kept,
    logged: mpsc::Receiver<Vec<Arc<Logged>>>,
    now_ns: Arc<AtomicU64>,
}

fn config(folder: &Path, now_ns: &Arc<AtomicU64>) -> StoreConfig {
    StoreConfig {
        folder: folder.to_owned(),
        retention_age: Duration::from_secs(14 * 86_400),
        retention_bytes: 1 << 30,
        boards_bytes: 1 << 26,
        clock: Clock::set_by(now_ns.clone()),
    }
}

fn open(folder: TempDir, change: impl FnOnce(&mut StoreConfig)) -> Bench {
    let now_ns = Arc::new(AtomicU64::new(START_MS * 1_000_000));
    let (sender, logged) = mpsc::channel(16);
    let mut config = config(folder.path(), &now_ns);
    change(&mut config);
    let (store, kept) = Store::open(config, sender).unwrap();
    Bench { folder, store, kept, logged, now_ns }
}

fn fresh() -> Bench {
    open(TempDir::new().unwrap(), |_| {})
}

impl Bench {
    fn now_ms(&self) -> u64 {
        self.now_ns.load(Ordering::Relaxed) / 1_000_000
    }

    async fn reopen(self) -> Bench {
        self.store.close().await;
        open(self.folder, |_| {})
    }

    async fn series(&self, name: &str, kind: Kind) -> Arc<Series> {
        let spec = spec(name, kind);
        let id = self.store.dictionary().resolve(std::slice::from_ref(&spec)).await.unwrap()[0];
        Arc::new(Series { id, spec, interval_ns: 1_000_000_000 })
    }

    /// One tick a second, from [`START_MS`] on; waits until all are written.
    async fn record(&self, series: &Arc<Series>, values: &[f64]) {
        for (at, value) in values.iter().enumerate() {
            let tick =
                Tick { number: at as u64 + 1, time_ns: (START_MS + at as u64 * 1000) * 1_000_000 };
            let snapshot = snapshot(tick, vec![series.clone()], vec![*value]);
            while !self.store.record(snapshot.clone()) {
                tokio::task::yield_now().await;
            }
        }
        self.written().await;
    }

    async fn written(&self) {
        until(|| self.store.counters.snapshots_queued.load(Ordering::Relaxed) == 0).await;
    }

    fn query(&self, series: &Series) -> HistoryQuery {
        HistoryQuery {
            series: series.id,
            from_ms: 0,
            to_ms: u64::MAX,
            points_max: 100,
            raw: false,
            anomalies: false,
        }
    }

    async fn points(&self, series: &Series, raw: bool) -> Vec<(u64, f64)> {
        let query = HistoryQuery { raw, ..self.query(series) };
        let history = self.store.reader().history(query).await.unwrap();
        history.points.iter().map(|point| (point.time_ms - START_MS, point.mean)).collect()
    }
}

/// Waits for what a thread is about to do.
async fn until(done: impl Fn() -> bool) {
    let waiting = async {
        while !done() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), waiting).await.expect("it never happened");
}

fn spec(name: &str, kind: Kind) -> SeriesSpec {
    let labels = Labels::new(vec![("core".into(), "0 \"quoted\"".into())]).unwrap();
    let key = SeriesKey { plugin: "system".into(), name: name.into(), labels };
    SeriesSpec::new(key, kind, "1".into(), "What it is.".into()).unwrap()
}

fn snapshot(tick: Tick, series: Vec<Arc<Series>>, raw: Vec<f64>) -> Arc<Snapshot> {
    let mut snapshot = Snapshot::empty();
    snapshot.tick = tick;
    snapshot.marks = vec![Mark::Updated; series.len()].into();
    snapshot.values = raw.clone().into();
    snapshot.raw = raw.into();
    snapshot.roster = Arc::new(Roster { generation: 1, series });
    Arc::new(snapshot)
}

fn entry(channel: LogChannel, time_ms: u64, body: serde_json::Value) -> Entry {
    Entry::new(channel, time_ms, &body).unwrap()
}

fn finding(id: &str, state: &str) -> Entry {
    let body = serde_json::json!({
        "id": id, "state": state, "detector": "zscore", "series": 1, "plugin": "system",
        "name": "cpu", "labels": {}, "type": "spike", "score": 0.9, "peak": 0.9,
        "started": "2026-02-10T12:00:00.000Z",
    });
    entry(LogChannel::Findings, START_MS, body)
}

#[tokio::test]
async fn what_is_recorded_is_read_back_after_a_restart() {
    let bench = fresh();
    assert_eq!(bench.kept.last_tick, None);
    let series = bench.series("load", Kind::Gauge).await;
    bench.record(&series, &[1.5, f64::NAN, 2.5]).await;
    let bench = bench.reopen().await;
    let last = bench.kept.last_tick.unwrap();
    assert_eq!((last.number, last.time_ns), (3, (START_MS + 2000) * 1_000_000));
    assert_eq!(bench.points(&series, false).await, [(0, 1.5), (2000, 2.5)]);
    assert_eq!(bench.store.reader().series(series.id).await.unwrap().unwrap(), series.spec);
    let missing = HistoryQuery { series: SeriesId(99), ..bench.query(&series) };
    let error = bench.store.reader().history(missing).await.unwrap_err();
    assert_eq!(error.to_string(), "there is no series 99");
}

#[tokio::test]
async fn numbers_last_and_are_never_used_twice() {
    let bench = fresh();
    let first = bench.series("a", Kind::Gauge).await.id;
    let second = bench.series("b", Kind::Gauge).await.id;
    assert_ne!(first, second);
    let bench = bench.reopen().await;
    // A changed kind is the same series.
    assert_eq!(bench.series("a", Kind::Counter).await.id, first);
    let known = bench.store.reader().series(first).await.unwrap().unwrap();
    assert_eq!(known.kind, Kind::Counter);
    let path = bench.folder.path().join("history.db");
    Connection::open(path).unwrap().execute("DELETE FROM series", []).unwrap();
    let bench = bench.reopen().await;
    assert!(bench.series("c", Kind::Gauge).await.id > second);
}

#[tokio::test]
async fn counters_are_answered_as_rates_and_a_reset_has_none() {
    let bench = fresh();
    let series = bench.series("requests", Kind::Counter).await;
    bench.record(&series, &[10.0, 30.0, 5.0, f64::NAN, 9.0]).await;
    assert_eq!(bench.points(&series, false).await, [(1000, 20.0), (4000, 2.0)]);
    let raw = bench.points(&series, true).await;
    assert_eq!(raw, [(0, 10.0), (1000, 30.0), (2000, 5.0), (4000, 9.0)]);
    // The first rate of a range is made from the total before it.
    let query = HistoryQuery { from_ms: START_MS + 1000, ..bench.query(&series) };
    let history = bench.store.reader().history(query).await.unwrap();
    assert!(history.rate);
    assert_eq!(history.points[0].mean, 20.0);
}

#[tokio::test]
async fn buckets_are_of_equal_time_and_keep_the_extremes() {
    let bench = fresh();
    let series = bench.series("load", Kind::Gauge).await;
    let mut values = vec![1.0; 1000];
    values[437] = 100.0;
    values[440] = -100.0;
    bench.record(&series, &values).await;
    let query = HistoryQuery { points_max: 10, ..bench.query(&series) };
    let history = bench.store.reader().history(query.clone()).await.unwrap();
    assert_eq!(history.points.len(), 10);
    assert_eq!(history.bucket_ms, Some(99_901));
    let fifth = history.points[4];
    assert_eq!((fifth.min, fifth.max), (-100.0, 100.0));
    assert_eq!(fifth.time_ms, START_MS + 4 * 99_901);
    assert!((fifth.mean - 0.98).abs() < 1e-9, "{}", fifth.mean);
    let exact = HistoryQuery { points_max: 1000, ..query };
    let history = bench.store.reader().history(exact).await.unwrap();
    assert_eq!((history.points.len(), history.bucket_ms), (1000, None));
}

#[tokio::test]
async fn a_read_looks_at_the_ticks_and_not_at_the_other_series() {
    let bench = fresh();
    let connection = Connection::open(bench.folder.path().join("history.db")).unwrap();
    let flags = samples::OLDEST_FIRST_WITH_FLAGS;
    for select in [samples::OLDEST_FIRST, samples::NEWEST_FIRST, flags] {
        let mut explain = connection.prepare(&format!("EXPLAIN QUERY PLAN {select}")).unwrap();
        let plan: Vec<String> =
            explain.query_map([1, 2, 3], |row| row.get(3)).unwrap().map(Result::unwrap).collect();
        assert_eq!(
            plan[..2],
            [
                "SEARCH ticks USING INTEGER PRIMARY KEY (rowid>? AND rowid<?)",
                "SEARCH samples USING PRIMARY KEY (ts=? AND series=?)",
            ]
        );
        let with_flags = "SEARCH anomalies USING PRIMARY KEY (ts=? AND series=?)";
        assert_eq!(plan.iter().any(|step| step == with_flags), select == flags, "{plan:?}");
    }
}

/// Flags these ticks of a series, and waits until that is written.
async fn flag(bench: &Bench, series: &Series, seconds: &[u64]) {
    let counters = bench.store.counters();
    let flags = bench.store.flags();
    let before = counters.flags_written.load(Ordering::Relaxed);
    for second in seconds {
        let time_ms = START_MS + second * 1000;
        flags.send(Flags { time_ms, series: vec![series.id] }).await.unwrap();
    }
    let written = before + seconds.len() as u64;
    until(|| counters.flags_written.load(Ordering::Relaxed) == written).await;
}

#[tokio::test]
async fn history_says_which_share_of_its_samples_was_odd() {
    let bench = fresh();
    let series = bench.series("load", Kind::Gauge).await;
    let other = bench.series("other", Kind::Gauge).await;
    // One whose tick is still to come, one of a tick that never does.
    flag(&bench, &series, &[3, 50]).await;
    flag(&bench, &other, &[1]).await;
    bench.record(&series, &[1.0; 10]).await;
    flag(&bench, &series, &[4]).await;
    // Another detector finds the same, and nothing is counted twice.
    let counters = bench.store.counters();
    let again = Flags { time_ms: START_MS + 4000, series: vec![series.id] };
    bench.store.flags().send(again).await.unwrap();
    flag(&bench, &series, &[9]).await;
    assert_eq!(counters.flags_written.load(Ordering::Relaxed), 5);
    let bench = bench.reopen().await;
    let reader = bench.store.reader();
    let query = HistoryQuery { anomalies: true, ..bench.query(&series) };
    let history = reader.history(query.clone()).await.unwrap();
    let odd: Vec<f64> = history.points.iter().map(|point| point.odd).collect();
    assert_eq!(odd, [0.0, 0.0, 0.0, 1.0, 1.0, 0.0, 0.0, 0.0, 0.0, 1.0]);
    assert_eq!(history.anomaly_rate, Some(0.3));
    // In buckets of five seconds.
    let buckets = HistoryQuery { points_max: 2, ..query.clone() };
    let history = reader.history(buckets).await.unwrap();
    let odd: Vec<f64> = history.points.iter().map(|point| point.odd).collect();
    assert_eq!((history.bucket_ms, history.anomaly_rate), (Some(4501), Some(0.3)));
    assert!((odd[0] - 0.4).abs() < 1e-12 && (odd[1] - 0.2).abs() < 1e-12, "{odd:?}");
    // A range without samples has no share, and who does not ask gets none.
    let nothing = HistoryQuery { from_ms: START_MS + 20_000, ..query };
    assert_eq!(reader.history(nothing).await.unwrap().anomaly_rate, None);
    let history = reader.history(bench.query(&series)).await.unwrap();
    assert_eq!((history.anomaly_rate, history.points[3].odd), (None, 0.0));
}

#[tokio::test]
async fn a_history_from_before_there_were_flags_gets_them() {
    let bench = fresh();
    let series = bench.series("load", Kind::Gauge).await;
    bench.record(&series, &[1.0, 2.0]).await;
    let path = bench.folder.path().join("history.db");
    bench.store.close().await;
    let older = "DROP TABLE anomalies; PRAGMA user_version = 1";
    Connection::open(&path).unwrap().execute_batch(older).unwrap();
    let bench = open(bench.folder, |_| {});
    flag(&bench, &series, &[1]).await;
    let query = HistoryQuery { anomalies: true, ..bench.query(&series) };
    let history = bench.store.reader().history(query).await.unwrap();
    assert_eq!((history.points.len(), history.anomaly_rate), (2, Some(0.5)));
}

#[tokio::test]
async fn the_flag_of_a_rate_is_that_of_the_sample_that_made_it() {
    let bench = fresh();
    let series = bench.series("requests", Kind::Counter).await;
    bench.record(&series, &[10.0, 30.0, 5.0, 9.0]).await;
    // The first total and the reset make no rate.
    flag(&bench, &series, &[0, 1, 2]).await;
    let query = HistoryQuery { anomalies: true, ..bench.query(&series) };
    let history = bench.store.reader().history(query.clone()).await.unwrap();
    let odd: Vec<_> = history.points.iter().map(|p| (p.time_ms - START_MS, p.odd)).collect();
    assert_eq!((odd, history.anomaly_rate), (vec![(1000, 1.0), (3000, 0.0)], Some(0.5)));
    let raw = HistoryQuery { raw: true, ..query };
    let history = bench.store.reader().history(raw).await.unwrap();
    assert_eq!(history.anomaly_rate, Some(0.75));
}

#[tokio::test]
async fn ten_thousand_flags_of_a_tick_are_kept_and_go_with_their_samples() {
    let bench = fresh();
    let series = bench.series("load", Kind::Gauge).await;
    bench.record(&series, &[1.0, 2.0, 3.0, 4.0]).await;
    let flags = bench.store.flags();
    let counters = bench.store.counters();
    for second in 0..4 {
        let series = (1..10_001).map(SeriesId).collect();
        flags.send(Flags { time_ms: START_MS + second * 1000, series }).await.unwrap();
    }
    until(|| counters.flags_written.load(Ordering::Relaxed) == 40_000).await;
    bench.store.close().await;
    let bench = open(bench.folder, |config| {
        config.clock = Clock::set_by(Arc::new(AtomicU64::new((START_MS + 62_000) * 1_000_000)));
        config.retention_age = Duration::from_secs(60);
    });
    until(|| bench.store.counters.history_bytes_used.load(Ordering::Relaxed) > 0).await;
    let connection = Connection::open(bench.folder.path().join("history.db")).unwrap();
    let left = "SELECT count(*), min(ts) FROM anomalies";
    let (count, first): (u64, u64) =
        connection.query_row(left, [], |row| Ok((row.get(0)?, row.get(1)?))).unwrap();
    assert_eq!((count, first), (20_000, START_MS + 2000));
}

#[tokio::test]
async fn flags_that_wait_are_written_before_the_file_is_closed() {
    let bench = fresh();
    let lock = Connection::open(bench.folder.path().join("history.db")).unwrap();
    lock.execute_batch("BEGIN IMMEDIATE").unwrap();
    let flags = bench.store.flags();
    for second in 0..200 {
        let time_ms = START_MS + second * 1000;
        flags.send(Flags { time_ms, series: vec![SeriesId(1)] }).await.unwrap();
    }
    lock.execute_batch("ROLLBACK").unwrap();
    bench.store.close().await;
    let count: u64 =
        lock.query_row("SELECT count(*) FROM anomalies", [], |row| row.get(0)).unwrap();
    assert_eq!(count, 200);
}

#[tokio::test]
async fn a_full_queue_drops_and_counts() {
    let bench = fresh();
    let series = bench.series("load", Kind::Gauge).await;
    let lock = Connection::open(bench.folder.path().join("history.db")).unwrap();
    lock.execute_batch("BEGIN IMMEDIATE").unwrap();
    let tick = Tick { number: 1, time_ns: START_MS * 1_000_000 };
    let snapshot = snapshot(tick, vec![series; 3], vec![1.0; 3]);
    let tries = (0..1_000_000).find(|_| !bench.store.record(snapshot.clone())).unwrap();
    assert!(tries >= SNAPSHOTS_MAX);
    let counters = bench.store.counters();
    assert_eq!(counters.snapshots_dropped.load(Ordering::Relaxed), 1);
    assert!(counters.samples_dropped.load(Ordering::Relaxed) >= 3);
    lock.execute_batch("ROLLBACK").unwrap();
    bench.written().await;
    bench.store.close().await;
}

#[tokio::test]
async fn samples_are_deleted_by_age() {
    let bench = fresh();
    let series = bench.series("load", Kind::Gauge).await;
    bench.record(&series, &[1.0, 2.0, 3.0, 4.0]).await;
    bench.store.close().await;
    let bench = open(bench.folder, |config| {
        config.clock = Clock::set_by(Arc::new(AtomicU64::new((START_MS + 62_000) * 1_000_000)));
        config.retention_age = Duration::from_secs(60);
    });
    until(|| bench.store.counters.history_bytes_used.load(Ordering::Relaxed) > 0).await;
    assert_eq!(bench.points(&series, false).await, [(2000, 3.0), (3000, 4.0)]);
    assert_eq!(bench.kept.last_tick.unwrap().number, 4);
}

#[tokio::test]
async fn samples_are_deleted_by_size_and_the_file_shrinks() {
    let bench = fresh();
    let path = bench.folder.path().join("history.db");
    let mut connection = Connection::open(&path).unwrap();
    let transaction = connection.transaction().unwrap();
    let fill = "WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i < 299999)
                INSERT INTO samples SELECT ?1 + (i / 100) * 1000, i % 100, i * 1.1 FROM n";
    transaction.execute(fill, [START_MS]).unwrap();
    transaction.execute("INSERT INTO ticks SELECT DISTINCT ts FROM samples", []).unwrap();
    transaction.commit().unwrap();
    drop(connection);
    bench.store.close().await;
    let before = std::fs::metadata(&path).unwrap().len();
    let limit = 1 << 20;
    let bench = open(bench.folder, |config| config.retention_bytes = limit);
    let reach = bench.kept.reach.unwrap().as_secs();
    assert!((300..3000).contains(&reach), "{reach}");
    until(|| bench.store.counters.history_bytes_used.load(Ordering::Relaxed) > 0).await;
    assert!(bench.store.counters.history_bytes_used.load(Ordering::Relaxed) <= limit);
    let folder = bench.folder;
    bench.store.close().await;
    assert!(std::fs::metadata(&path).unwrap().len() < before - limit);
    let connection = Connection::open(&path).unwrap();
    let ends = "SELECT (SELECT min(ts) FROM ticks) = (SELECT min(ts) FROM samples),
                       (SELECT max(ts) FROM samples)";
    let (same, last): (bool, u64) =
        connection.query_row(ends, [], |row| Ok((row.get(0)?, row.get(1)?))).unwrap();
    assert!(same);
    assert_eq!(last, START_MS + 2999 * 1000);
    drop(folder);
}

#[tokio::test]
async fn entries_are_told_in_order_after_they_are_safe() {
    let mut bench = fresh();
    assert_eq!((bench.kept.head, bench.kept.epoch.len()), (0, 8));
    let log = bench.store.log();
    for at in 0..600 {
        log.send(entry(LogChannel::Hub, START_MS + at, serde_json::json!({ "at": at })))
            .await
            .unwrap();
    }
    let mut told = Vec::new();
    while told.len() < 600 {
        told.extend(bench.logged.recv().await.unwrap());
    }
    assert!(told.iter().map(|logged| logged.offset).eq(1..=600));
    assert_eq!(told[41].entry.body.get(), r#"{"at":41}"#);
    let epoch = bench.kept.epoch.clone();
    let bench = bench.reopen().await;
    assert_eq!((bench.kept.head, &bench.kept.epoch), (600, &epoch));

    let reader = bench.store.reader();
    let after = reader.entries_after(LogChannel::Hub, 10, 3).await.unwrap();
    assert_eq!(offsets(&after), [11, 12, 13]);
    let since = reader.entries_since(LogChannel::Hub, START_MS + 590, 3).await.unwrap();
    assert_eq!(offsets(&since), [598, 599, 600]);
    assert!(reader.entries_since(LogChannel::Findings, 0, 3).await.unwrap().is_empty());
}

#[tokio::test]
async fn entries_wait_for_a_locked_log_and_are_not_lost() {
    let mut bench = fresh();
    let lock = Connection::open(bench.folder.path().join("log.db")).unwrap();
    lock.execute_batch("BEGIN IMMEDIATE").unwrap();
    let log = bench.store.log();
    log.send(finding("f1", "open")).await.unwrap();
    // A series still gets its number meanwhile.
    bench.series("load", Kind::Gauge).await;
    assert!(bench.logged.try_recv().is_err());
    lock.execute_batch("ROLLBACK").unwrap();
    assert_eq!(bench.logged.recv().await.unwrap()[0].offset, 1);
}

#[tokio::test]
async fn closing_writes_what_is_queued_though_nobody_listens() {
    let mut bench = fresh();
    bench.logged.close();
    let log = bench.store.log();
    for at in 0..100 {
        log.send(entry(LogChannel::Hub, at, serde_json::json!({}))).await.unwrap();
    }
    let bench = bench.reopen().await;
    assert_eq!(bench.kept.head, 100);
    assert!(log.send(finding("late", "open")).await.is_err());
}

#[tokio::test]
async fn closing_does_not_wait_for_a_listener_that_is_stuck() {
    let bench = fresh();
    let log = bench.store.log();
    // Each in a commit of its own: one more than the listener has room for.
    for at in 1..=17 {
        log.send(entry(LogChannel::Hub, at, serde_json::json!({}))).await.unwrap();
        until(|| bench.store.counters.entries_written.load(Ordering::Relaxed) == at).await;
    }
    log.send(entry(LogChannel::Hub, 18, serde_json::json!({}))).await.unwrap();
    let bench = bench.reopen().await;
    assert_eq!(bench.kept.head, 18);
}

#[tokio::test]
async fn findings_that_were_not_closed_are_known_after_a_restart() {
    let bench = fresh();
    let log = bench.store.log();
    for finding in [finding("a", "open"), finding("b", "open"), finding("a", "close")] {
        log.send(finding).await.unwrap();
    }
    let bench = bench.reopen().await;
    let open: Vec<&str> = bench.kept.open_findings.iter().map(|f| f.id.as_str()).collect();
    assert_eq!(open, ["b"]);
}

#[tokio::test]
async fn entries_age_away_and_their_numbers_do_not_come_back() {
    let bench = fresh();
    let log = bench.store.log();
    log.send(finding("a", "open")).await.unwrap();
    let bench = bench.reopen().await;
    let later = bench.now_ns.load(Ordering::Relaxed) + 20 * 86_400 * 1_000_000_000;
    bench.store.close().await;
    let bench = open(bench.folder, |config| config.clock = Clock::set_by(Arc::new(later.into())));
    until(|| bench.store.counters.log_bytes_used.load(Ordering::Relaxed) > 0).await;
    let left = bench.store.reader().entries_after(LogChannel::Findings, 0, 10).await.unwrap();
    assert!(left.is_empty());
    let bench = bench.reopen().await;
    assert_eq!((bench.kept.head, bench.kept.open_findings.len()), (1, 1));
}

/// What a crash leaves: the files as they are, nothing flushed or closed.
#[tokio::test]
async fn a_crash_leaves_all_that_was_committed() {
    let mut bench = fresh();
    let series = bench.series("load", Kind::Gauge).await;
    bench.record(&series, &[1.0, 2.0]).await;
    bench.store.log().send(finding("a", "open")).await.unwrap();
    bench.logged.recv().await.unwrap();
    let crashed = TempDir::new().unwrap();
    for file in ["history.db", "history.db-wal", "log.db", "log.db-wal"] {
        std::fs::copy(bench.folder.path().join(file), crashed.path().join(file)).unwrap();
    }
    let survivor = open(crashed, |_| {});
    assert_eq!(survivor.kept.last_tick.unwrap().number, 2);
    assert_eq!((survivor.kept.head, &survivor.kept.epoch), (1, &bench.kept.epoch));
    assert_eq!(survivor.kept.open_findings.len(), 1);
    assert_eq!(survivor.series("load", Kind::Gauge).await.id, series.id);
    assert_eq!(survivor.points(&series, false).await, [(0, 1.0), (1000, 2.0)]);
}

/// Entries of both channels, one after the other, at times that the bodies tell.
async fn log_times(bench: &Bench, times_ms: impl IntoIterator<Item = u64>) {
    let before = bench.store.counters.entries_written.load(Ordering::Relaxed);
    let mut sent = 0;
    for (channel, time_ms) in [LogChannel::Hub, LogChannel::Findings].iter().cycle().zip(times_ms) {
        let body = serde_json::json!({ "at": time_ms });
        bench.store.log().send(entry(*channel, time_ms, body)).await.unwrap();
        sent += 1;
    }
    let written = || bench.store.counters.entries_written.load(Ordering::Relaxed);
    until(|| written() == before + sent).await;
}

const BOTH: [Topic; 2] = [Topic::Channel(LogChannel::Findings), Topic::Channel(LogChannel::Hub)];

fn offsets(entries: &[Logged]) -> Vec<u64> {
    entries.iter().map(|logged| logged.offset).collect()
}

#[tokio::test]
async fn what_was_missed_is_told_in_order_and_through_which_offset() {
    let mut bench = fresh();
    bench.logged.close();
    log_times(&bench, START_MS..START_MS + 10).await;
    let reader = bench.store.reader();
    let missed = async |after, through, channels: &[Topic], limit, bytes| {
        let missed = reader.missed(after, through, channels.to_vec(), limit, bytes).await;
        let missed = missed.unwrap().unwrap();
        (offsets(&missed.entries), missed.through, missed.complete)
    };
    let many = usize::MAX;
    assert_eq!(missed(0, 10, &BOTH, many, many).await, ((1..=10).collect(), 10, true));
    let hub = [Topic::Channel(LogChannel::Hub), Topic::Channel(LogChannel::Hub)];
    assert_eq!(missed(3, 8, &hub, many, many).await, (vec![5, 7], 8, true));
    assert_eq!(missed(10, 10, &BOTH, many, many).await, (vec![], 10, true));
    assert_eq!(missed(0, 10, &[], many, many).await, (vec![], 10, true));
    // As far as there are any.
    assert_eq!(missed(8, 99, &BOTH, many, many).await, (vec![9, 10], 10, true));

    // Cut off before the next one of these channels.
    assert_eq!(missed(0, 10, &BOTH, 3, many).await, (vec![1, 2, 3], 3, false));
    assert_eq!(missed(0, 10, &hub, 3, many).await, (vec![1, 3, 5], 6, false));
    assert_eq!(missed(0, 10, &hub, 5, many).await, (vec![1, 3, 5, 7, 9], 10, true));
    let body = format!(r#"{{"at":{START_MS}}}"#).len();
    assert_eq!(missed(0, 10, &BOTH, many, 3 * body).await, (vec![1, 2, 3], 3, false));
    assert_eq!(missed(0, 10, &BOTH, many, 3 * body - 1).await, (vec![1, 2], 2, false));
    assert_eq!(missed(0, 10, &BOTH, 0, 0).await, (vec![1], 1, false), "at least one");
    assert!(reader.missed(11, 20, BOTH.to_vec(), many, many).await.unwrap().is_none());

    let recent = reader.entries_recent(3, many).await.unwrap();
    assert_eq!(offsets(&recent), [8, 9, 10]);
    assert_eq!(recent[0].entry.channel, LogChannel::Findings);
    assert_eq!(recent[1].entry.time_ms, START_MS + 8);
    assert_eq!(offsets(&reader.entries_recent(many, 2 * body).await.unwrap()), [9, 10]);
}

#[tokio::test]
async fn what_was_missed_is_found_without_looking_at_the_rest() {
    let bench = fresh();
    let connection = Connection::open(bench.folder.path().join("log.db")).unwrap();
    let select = entries::select_missed(1, 2);
    let mut explain = connection.prepare(&format!("EXPLAIN QUERY PLAN {select}")).unwrap();
    let plan: Vec<String> = explain
        .query_map(rusqlite::params![0, 9, "findings", "global", "project:1"], |row| row.get(3))
        .unwrap()
        .map(Result::unwrap)
        .collect();
    let channel =
        "SEARCH entries USING INDEX entries_by_channel (channel=? AND rowid>? AND rowid<?)";
    let room = "SEARCH entry_rooms USING PRIMARY KEY (room=? AND offset>? AND offset<?)";
    let entry = "SEARCH entries USING INTEGER PRIMARY KEY (rowid=?)";
    let merge = "MERGE (UNION ALL)";
    assert_eq!(
        plan,
        [merge, "LEFT", merge, "LEFT", channel, "RIGHT", room, entry, "RIGHT", room, entry]
    );
}

/// Publishes an event under a key; what the publisher is told.
async fn publish(
    bench: &Bench,
    rooms: &[&str],
    key: Option<&str>,
    data: &str,
) -> Result<crate::model::Receipt, Reused> {
    let room = Arc::new(tokio::sync::Semaphore::new(1)).try_acquire_owned().unwrap();
    let rooms = rooms.iter().map(|room| crate::model::Room::new(room).unwrap()).collect();
    let route = crate::model::Route { rooms, exclude: None };
    let body = serde_json::json!({"type": "pr.created", "data": data});
    let entry = Entry::event(bench.now_ms(), route, &body).unwrap();
    let key = key.map(|key| PublicationKey {
        publisher: "ana".into(),
        key: key.to_owned(),
        fingerprint: *blake3::hash(data.as_bytes()).as_bytes(),
    });
    let (done, told) = tokio::sync::oneshot::channel();
    let publication = Publication { id: format!("event {data}"), entry, key, done, room };
    bench.store.publications().send(publication).await.unwrap();
    told.await.unwrap()
}

#[tokio::test]
async fn the_same_key_is_one_event_within_a_day_and_over_a_restart() {
    let mut bench = fresh();
    bench.logged.close();
    let told = publish(&bench, &["global"], Some("k"), "a").await.unwrap();
    assert_eq!((told.offset, &*told.id, &*told.rooms), (1, "event a", &["global".to_owned()][..]));
    assert_eq!(publish(&bench, &["global"], Some("k"), "a").await.unwrap(), told);
    assert_eq!(publish(&bench, &["global"], Some("k"), "b").await, Err(Reused));
    let mut bench = bench.reopen().await;
    bench.logged.close();
    assert_eq!(publish(&bench, &["global"], Some("k"), "a").await.unwrap(), told);
    assert_eq!(publish(&bench, &["global"], None, "a").await.unwrap().offset, 2);
    bench.now_ns.fetch_add((log::RECEIPT_AGE_MS + 1) * 1_000_000, Ordering::Relaxed);
    assert_eq!(publish(&bench, &["global"], Some("k"), "b").await.unwrap().offset, 3);
    let connection = Connection::open(bench.folder.path().join("log.db")).unwrap();
    assert_eq!(log::receipts(&connection).unwrap(), 1);
}

#[tokio::test]
async fn what_a_client_has_missed_of_several_rooms_comes_once_each() {
    let mut bench = fresh();
    bench.logged.close();
    for (data, rooms) in [
        ("a", &["project:1", "user:ana"][..]),
        ("b", &["project:2"]),
        ("c", &["user:ana"]),
        ("d", &["project:1", "project:2"]),
    ] {
        publish(&bench, rooms, None, data).await.unwrap();
    }
    let topic = |name: &str| Topic::Room(crate::model::Room::new(name).unwrap());
    let reader = bench.store.reader();
    let missed = async |after, rooms: &[&str], limit| {
        let topics = rooms.iter().map(|room| topic(room)).collect();
        reader.missed(after, u64::MAX, topics, limit, 1 << 20).await.unwrap().unwrap()
    };
    let found = missed(0, &["project:1", "user:ana"], 100).await;
    assert_eq!((offsets(&found.entries), found.complete), (vec![1, 3, 4], true));
    assert_eq!(found.entries[0].entry.rooms().len(), 2);
    let found = missed(1, &["project:1", "project:2"], 1).await;
    assert_eq!((offsets(&found.entries), found.complete, found.through), (vec![2], false, 3));
    assert!(missed(0, &["agent:1"], 100).await.entries.is_empty());
}

#[tokio::test]
async fn the_rooms_of_entries_that_aged_away_are_forgotten() {
    let mut bench = fresh();
    bench.logged.close();
    publish(&bench, &["project:1", "user:ana"], None, "a").await.unwrap();
    let folder = bench.folder;
    bench.store.close().await;
    let mut connection = Connection::open(folder.path().join("log.db")).unwrap();
    let later = Clock::set_by(Arc::new(AtomicU64::new((START_MS + 120_000) * 1_000_000)));
    retain(&mut connection, Retention::entries(Duration::from_secs(60), 1 << 30, later)).await;
    let left = |table: &str| -> u64 {
        let count = format!("SELECT count(*) FROM {table}");
        connection.query_row(&count, [], |row| row.get(0)).unwrap()
    };
    assert_eq!((left("entries"), left("entry_rooms")), (0, 0));
}

/// The largest offset that was given and is not there.
fn missing(connection: &Connection) -> u64 {
    let head = log::head(connection).unwrap();
    let mut select = connection.prepare("SELECT offset FROM entries").unwrap();
    let kept: std::collections::BTreeSet<u64> =
        select.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect();
    (1..=head).rev().find(|offset| !kept.contains(offset)).unwrap_or(0)
}

/// Runs retention until it has nothing more to do.
async fn retain(connection: &mut Connection, mut retention: Retention) {
    retention.due().await;
    while retention.step(connection).unwrap().is_none() {}
}

#[tokio::test]
async fn entries_that_aged_away_out_of_order_are_known_to_be_missing() {
    let mut bench = fresh();
    bench.logged.close();
    let old = START_MS - 15 * 86_400_000;
    // The clock went back for the fifth.
    log_times(&bench, [old, old, START_MS, START_MS, old, START_MS]).await;
    let bench = bench.reopen().await;
    until(|| bench.store.counters.log_bytes_used.load(Ordering::Relaxed) > 0).await;
    let reader = bench.store.reader();
    assert_eq!(offsets(&reader.entries_recent(10, 999).await.unwrap()), [3, 4, 6]);
    for after in [0, 2, 3, 4] {
        let missed = reader.missed(after, 6, BOTH.to_vec(), 10, 999).await.unwrap();
        assert!(missed.is_none(), "{after}");
    }
    let missed = reader.missed(5, 6, BOTH.to_vec(), 10, 999).await.unwrap().unwrap();
    assert_eq!(offsets(&missed.entries), [6]);
    assert_eq!(bench.reopen().await.kept.pruned, 5);
}

#[tokio::test]
async fn entries_beyond_the_size_are_gone_and_that_is_known_at_every_moment() {
    let bench = fresh();
    assert_eq!(bench.kept.pruned, 0);
    let path = bench.folder.path().join("log.db");
    let folder = bench.folder;
    bench.store.close().await;
    let mut connection = Connection::open(&path).unwrap();
    let fill = "WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i < 39999)
                INSERT INTO entries (time_ms, channel, body)
                SELECT ?1 - i * 1000, 'hub', '{\"at\":' || i || '}' FROM n";
    connection.execute(fill, [START_MS]).unwrap();

    let clock = Clock::set_by(Arc::new((START_MS * 1_000_000).into()));
    let mut retention = Retention::entries(Duration::from_secs(86_400), 1 << 20, clock);
    retention.due().await;
    let looker = Connection::open(&path).unwrap();
    let mut seen = Vec::new();
    while retention.step(&mut connection).unwrap().is_none() {
        // What a reader sees between two transactions is what a crash leaves.
        let pruned = log::pruned(&looker).unwrap();
        assert_eq!(pruned, missing(&looker));
        seen.push(pruned);
    }
    seen.dedup();
    assert!(seen.len() > 2 && seen.is_sorted(), "{seen:?}");
    let kept = open(folder, |_| {}).kept;
    assert_eq!((kept.head, kept.pruned), (40_000, *seen.last().unwrap()));
}

#[tokio::test]
async fn nothing_is_deleted_unless_it_is_told_in_the_same_transaction() {
    let mut bench = fresh();
    bench.logged.close();
    log_times(&bench, [START_MS - 120_000; 3]).await;
    let path = bench.folder.path().join("log.db");
    let folder = bench.folder;
    bench.store.close().await;
    let mut connection = Connection::open(&path).unwrap();
    let cut_off = "CREATE TEMP TRIGGER cut_off BEFORE UPDATE ON main.meta
                   BEGIN SELECT RAISE(ABORT, 'the machine stops here'); END";
    connection.execute_batch(cut_off).unwrap();
    let clock = Clock::set_by(Arc::new((START_MS * 1_000_000).into()));
    let mut retention = Retention::entries(Duration::from_secs(60), 1 << 30, clock.clone());
    retention.due().await;
    retention.step(&mut connection).unwrap_err();
    assert_eq!((missing(&connection), log::pruned(&connection).unwrap()), (0, 0));
    connection.execute_batch("DROP TRIGGER cut_off").unwrap();
    retain(&mut connection, Retention::entries(Duration::from_secs(60), 1 << 30, clock)).await;
    assert_eq!((missing(&connection), log::pruned(&connection).unwrap()), (3, 3));
    drop(folder);
}

/// A change of the board `home` that makes the widget `cpu`, or changes it.
async fn change(bench: &Bench) -> tokio::sync::oneshot::Receiver<Result<(Changed, bool), Clash>> {
    let (done, told) = tokio::sync::oneshot::channel();
    let raw = |text: &str| serde_json::value::RawValue::from_string(text.to_owned()).unwrap();
    let change = Change {
        board: Board::new("home").unwrap(),
        operations: vec![Operation {
            key: ObjectKey::new(ObjectKind::Widget, "cpu").unwrap(),
            edit: Edit::Replace(raw("{}")),
            base: None,
        }],
        key: None,
        event: "e".to_owned(),
        told: raw("{}"),
        user: "ana".into(),
        exclude: None,
        time_ms: START_MS,
        done,
        room: Arc::new(tokio::sync::Semaphore::new(1)).try_acquire_owned().unwrap(),
    };
    bench.store.changes().send(change).await.unwrap();
    told
}

#[tokio::test]
async fn a_change_that_cannot_be_written_is_made_once_when_it_can_or_not_at_all() {
    let bench = fresh();
    let connection = Connection::open(bench.folder.path().join("log.db")).unwrap();
    // The last that is written of a change is its entry.
    let full = "CREATE TRIGGER full BEFORE INSERT ON entries
                BEGIN SELECT RAISE(ABORT, 'the disk is full'); END";
    let errors = |bench: &Bench| bench.store.counters.write_errors.load(Ordering::Relaxed);
    connection.execute_batch(full).unwrap();
    let mut told = change(&bench).await;
    until(|| errors(&bench) >= 2).await;
    assert!(told.try_recv().is_err(), "nothing is safe yet");
    connection.execute_batch("DROP TRIGGER full").unwrap();
    let (changed, repeated) = told.await.unwrap().unwrap();
    assert!(changed.revision == 1 && changed.versions[0].1 == 1 && !repeated);

    connection.execute_batch(full).unwrap();
    let told = change(&bench).await;
    let before = errors(&bench);
    until(|| errors(&bench) > before).await;
    let folder = bench.folder;
    bench.store.close().await;
    assert!(told.await.is_err(), "its client hears that the hub has stopped");
    connection.execute_batch("DROP TRIGGER full").unwrap();
    let bench = open(folder, |_| {});
    assert_eq!((bench.kept.boards[0].1.revision, bench.kept.head), (1, 1));
}

#[tokio::test]
async fn a_log_of_an_older_hub_is_searched_for_what_is_missing() {
    for (deleted, pruned) in [("0", 0), ("1, 2, 5", 5), ("6", 6), ("1, 2, 3, 4, 5, 6", 6)] {
        let mut bench = fresh();
        bench.logged.close();
        log_times(&bench, START_MS..START_MS + 6).await;
        let folder = bench.folder;
        bench.store.close().await;
        let connection = Connection::open(folder.path().join("log.db")).unwrap();
        let older = format!(
            "DELETE FROM entries WHERE offset IN ({deleted}); DROP INDEX entries_by_channel;
             ALTER TABLE entries DROP COLUMN route;
             DROP TABLE entry_rooms; DROP TABLE receipts; DROP TABLE boards; DROP TABLE objects;
             DROP TABLE object_versions; DROP TABLE operations; DROP TABLE board_totals;
             DROP TABLE receivers; DROP TABLE receiver_groups; DROP TABLE deliveries;
             DELETE FROM meta WHERE key = 'pruned'; PRAGMA user_version = 1"
        );
        connection.execute_batch(&older).unwrap();
        drop(connection);
        let bench = open(folder, |_| {});
        assert_eq!((bench.kept.pruned, bench.kept.head), (pruned, 6), "without {deleted}");
    }
}

#[track_caller]
fn refusal(folder: &Path) -> String {
    let (sender, _logged) = mpsc::channel(1);
    let config = config(folder, &Arc::default());
    Store::open(config, sender).map(|_| ()).unwrap_err().to_string()
}

#[test]
fn a_damaged_file_is_named_with_the_way_out() {
    let folder = TempDir::new().unwrap();
    std::fs::write(folder.path().join("log.db"), "this is not a database, but a long text")
        .unwrap();
    let words = refusal(folder.path());
    assert!(words.contains("log.db is damaged"), "{words}");
    assert!(words.contains("move it away"), "{words}");
}

#[tokio::test]
async fn a_file_of_a_newer_hub_is_refused_and_left_alone() {
    let bench = fresh();
    let folder = bench.folder;
    bench.store.close().await;
    let path = folder.path().join("history.db");
    Connection::open(&path).unwrap().pragma_update(None, "user_version", 7).unwrap();
    let before = std::fs::read(&path).unwrap();
    let words = refusal(folder.path());
    assert!(words.contains("history.db has version 7 and this hub reads up to 2"), "{words}");
    assert_eq!(std::fs::read(&path).unwrap(), before);
}

#[tokio::test]
async fn the_files_are_set_up_before_their_first_table() {
    let bench = fresh();
    for (file, version) in [("history.db", "2"), ("log.db", "5")] {
        let connection = Connection::open(bench.folder.path().join(file)).unwrap();
        let ask = |pragma: &str| -> String {
            let pragma = format!("SELECT CAST({pragma} AS TEXT) FROM pragma_{pragma}");
            connection.query_row(&pragma, [], |row| row.get(0)).unwrap()
        };
        assert_eq!(ask("auto_vacuum"), "2");
        assert_eq!(ask("journal_mode"), "wal");
        assert_eq!(ask("user_version"), version);
    }
}

#[tokio::test]
async fn a_store_that_is_only_dropped_still_writes() {
    let bench = fresh();
    let path = bench.folder.path().join("log.db");
    bench.store.log().send(finding("a", "open")).await.unwrap();
    drop(bench.store);
    let connection = Connection::open(path).unwrap();
    let count = || -> u64 {
        connection.query_row("SELECT count(*) FROM entries", [], |row| row.get(0)).unwrap()
    };
    until(|| count() == 1).await;
}
