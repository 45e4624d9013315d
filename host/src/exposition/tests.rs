use std::collections::BTreeMap;

use super::*;
use crate::model::{Kind, Labels, Series, SeriesId, SeriesKey, SeriesSpec, Tick};
use crate::snapshot::{Roster, Stale};

struct Given(Vec<(Arc<Series>, f64, Mark)>);

impl Given {
    fn add(
        mut self,
        (plugin, name): (&str, &str),
        (kind, unit): (Kind, &str),
        labels: &[(&str, &str)],
        (value, mark): (f64, Mark),
    ) -> Self {
        let labels = labels.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect();
        let labels = Labels::new(labels).unwrap();
        let key = SeriesKey { plugin: plugin.into(), name: name.into(), labels };
        let spec = SeriesSpec::new(key, kind, unit.into(), "What it \"is\".\nAll".into()).unwrap();
        let id = SeriesId(self.0.len().try_into().unwrap());
        self.0.push((Arc::new(Series { id, spec, interval_ns: 1 }), value, mark));
        self
    }

    fn snapshot(self, number: u64) -> Arc<Snapshot> {
        let series = self.0.iter().map(|(series, ..)| series.clone()).collect();
        let values: Box<[f64]> = self.0.iter().map(|(_, value, _)| *value).collect();
        Arc::new(Snapshot {
            tick: Tick { number, ..Tick::default() },
            roster: Arc::new(Roster { generation: number, series }),
            // A rate, which is not what is shown.
            values: values.iter().map(|value| value / 100.0).collect(),
            raw: values,
            marks: self.0.iter().map(|(.., mark)| *mark).collect(),
            stale: Arc::new(BTreeMap::new()),
            documents: Arc::default(),
        })
    }
}

const NOW: Mark = Mark::Updated;

fn text(kept: &mut Kept, snapshot: &Snapshot, format: Format) -> String {
    let page = kept.page(snapshot, format, &ExpositionCounters::default());
    String::from_utf8(page.to_vec()).unwrap()
}

#[test]
fn a_snapshot_is_written_in_both_formats() {
    let snapshot = Given(Vec::new())
        .add(("p", "disk.io"), (Kind::Counter, "By"), &[("device", "a\"b")], (7.0, NOW))
        .add(("p", "disk.io"), (Kind::Counter, "By"), &[("device", "c")], (8.5, Mark::Held))
        .add(("p", "cpu.use"), (Kind::Gauge, "1"), &[], (0.25, NOW))
        .snapshot(1);
    assert_eq!(
        text(&mut Kept::default(), &snapshot, Format::OpenMetrics),
        "# TYPE cpu_use_ratio gauge\n# UNIT cpu_use_ratio ratio\n\
         # HELP cpu_use_ratio What it \\\"is\\\".\\nAll\n\
         cpu_use_ratio{otel_scope_name=\"p\"} 0.25\n\
         # TYPE disk_io_bytes counter\n# UNIT disk_io_bytes bytes\n\
         # HELP disk_io_bytes What it \\\"is\\\".\\nAll\n\
         disk_io_bytes_total{otel_scope_name=\"p\",device=\"a\\\"b\"} 7.0\n\
         disk_io_bytes_total{otel_scope_name=\"p\",device=\"c\"} 8.5\n\
         # EOF\n"
    );
    assert_eq!(
        text(&mut Kept::default(), &snapshot, Format::Plain),
        "# HELP cpu_use_ratio What it \"is\".\\nAll\n# TYPE cpu_use_ratio gauge\n\
         cpu_use_ratio{otel_scope_name=\"p\"} 0.25\n\
         # HELP disk_io_bytes_total What it \"is\".\\nAll\n# TYPE disk_io_bytes_total counter\n\
         disk_io_bytes_total{otel_scope_name=\"p\",device=\"a\\\"b\"} 7.0\n\
         disk_io_bytes_total{otel_scope_name=\"p\",device=\"c\"} 8.5\n"
    );
}

#[test]
fn what_is_stale_or_has_no_value_is_not_there() {
    let snapshot = Given(Vec::new())
        .add(("p", "a"), (Kind::Gauge, ""), &[], (1.0, Mark::Missed))
        .add(("p", "b"), (Kind::Gauge, ""), &[], (1.0, Mark::Stale))
        .add(("p", "c"), (Kind::Gauge, ""), &[], (f64::NAN, Mark::Held))
        .add(("p", "d"), (Kind::Counter, ""), &[], (-1.0, NOW))
        .add(("p", "e"), (Kind::Gauge, ""), &[], (-1e300, NOW))
        .snapshot(1);
    let counters = ExpositionCounters::default();
    let page = Kept::default().page(&snapshot, Format::Plain, &counters);
    let only = "# HELP e What it \"is\".\\nAll\n# TYPE e gauge\ne{otel_scope_name=\"p\"} -1e300\n";
    assert_eq!(page, only);
    assert_eq!(counters.left_out.load(Ordering::Relaxed), 1, "the counter below zero");
}

#[test]
fn a_value_stands_for_a_while_though_its_plugin_is_late() {
    let at = |seconds: u64, reason: StaleReason| {
        let given = Given(Vec::new());
        let mut snapshot = given
            .add(("p", "a"), (Kind::Gauge, ""), &[], (1.0, Mark::Missed))
            .add(("p", "b"), (Kind::Gauge, ""), &[], (1.0, Mark::Stale))
            .snapshot(1);
        let now = Arc::get_mut(&mut snapshot).unwrap();
        let since = Tick { number: 0, time_ns: 7_000_000_000 };
        now.tick.time_ns = since.time_ns + seconds * 1_000_000_000;
        let stale = Arc::new(Stale { since, reason });
        now.stale = Arc::new((0..2).map(|position| (position, stale.clone())).collect());
        let page = text(&mut Kept::default(), &snapshot, Format::Plain);
        page.lines().filter(|line| !line.starts_with('#')).count()
    };
    assert_eq!(at(0, StaleReason::Late), 2);
    assert_eq!(at(4, StaleReason::Late), 2);
    assert_eq!(at(5, StaleReason::Late), 0);
    assert_eq!(at(0, StaleReason::NotReported), 0);
}

#[test]
fn the_series_with_the_lower_number_decides_what_a_family_is() {
    let snapshot = Given(Vec::new())
        .add(("first", "work.done"), (Kind::Gauge, "1"), &[], (1.0, NOW))
        .add(("second", "work.done"), (Kind::Counter, "1"), &[("n", "0")], (2.0, NOW))
        .add(("second", "work.done"), (Kind::Counter, "1"), &[("n", "1")], (2.0, NOW))
        .add(("third", "work_done"), (Kind::Gauge, "s"), &[], (3.0, NOW))
        .add(("fourth", "work.done"), (Kind::Gauge, "1"), &[], (4.0, NOW))
        // Its lines would have the names of those of `jobs`.
        .add(("second", "jobs"), (Kind::Counter, ""), &[], (5.0, NOW))
        .add(("third", "jobs.total"), (Kind::Gauge, ""), &[], (6.0, NOW))
        // An empty label is none.
        .add(("first", "twice"), (Kind::Gauge, ""), &[], (7.0, NOW))
        .add(("first", "twice"), (Kind::Gauge, ""), &[("x", "")], (8.0, NOW))
        .snapshot(1);
    let mut kept = Kept::default();
    let page = text(&mut kept, &snapshot, Format::OpenMetrics);
    let samples: Vec<_> = page.lines().filter(|line| !line.starts_with('#')).collect();
    assert_eq!(
        samples,
        [
            "jobs_total{otel_scope_name=\"second\"} 5.0",
            "twice{otel_scope_name=\"first\"} 7.0",
            "work_done_ratio{otel_scope_name=\"first\"} 1.0",
            "work_done_ratio{otel_scope_name=\"fourth\"} 4.0",
        ]
    );
    assert_eq!(kept.plan.left_out, 5);
    let told = |plugin| {
        let told = kept.plan.left_out(plugin).into_iter();
        told.map(|told| (told.name.into(), told.series, told.reason)).collect::<Vec<_>>()
    };
    let expected = |name: &str, series: u64, reason: &str| (name.to_owned(), series, reason.into());
    assert_eq!(
        told("second"),
        [expected(
            "work.done",
            2,
            "it is a counter in `1`, and `work.done` of the plugin `first` is a gauge in `1`"
        )]
    );
    assert_eq!(
        told("third"),
        [
            expected(
                "work_done",
                1,
                "it is a gauge in `s`, and `work.done` of the plugin `first` is a gauge in `1`"
            ),
            expected(
                "jobs.total",
                1,
                "`jobs_total` is what `jobs` of the plugin `second` is called there"
            ),
        ]
    );
    assert_eq!(told("fourth"), []);
}

#[tokio::test]
async fn a_snapshot_is_written_once_for_all_who_ask() {
    let given = || Given(Vec::new()).add(("p", "a"), (Kind::Gauge, ""), &[], (1.0, NOW));
    let (newer, newest) = watch::channel(given().snapshot(1));
    let exposition = Arc::new(Exposition::default());
    let asked: Vec<_> = (0..20)
        .map(|_| {
            let (exposition, newest) = (exposition.clone(), newest.clone());
            tokio::spawn(
                async move { exposition.page(&newest, Format::OpenMetrics).await.unwrap() },
            )
        })
        .collect();
    for page in asked {
        assert!(page.await.unwrap().ends_with(b"# EOF\n"));
    }
    assert_eq!(exposition.counters().written.load(Ordering::Relaxed), 1);
    newer.send_replace(given().snapshot(2));
    exposition.page(&newest, Format::OpenMetrics).await.unwrap();
    exposition.page(&newest, Format::Plain).await.unwrap();
    assert_eq!(exposition.counters().written.load(Ordering::Relaxed), 3);
}
