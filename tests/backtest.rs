//! `telltale backtest`: what a detector would have told of what has been.

pub(crate) mod corpus;
#[path = "../host/benches/quiet/day.rs"]
mod day;

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use day::Day;
use rustix::process::Signal;
use serde_json::Value;
use telltale::judge::Policy;
use telltale::plugin::replay::{Component, Replay, runtime};
use telltale::plugin::{BUNDLED, Bundled};
use tempfile::TempDir;

use crate::cli::{Outcome, run};
use crate::harness::{Hub, Program, guest_path, within};

/// A folder to work in.
struct Desk(TempDir);

impl Desk {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    /// With a corpus of so many rows a file, in `corpus`.
    fn with_corpus(rows: usize) -> Self {
        let desk = Self::new();
        corpus::write(&desk.path().join("corpus"), rows);
        desk
    }

    /// `telltale backtest …` in the folder.
    async fn backtest(&self, arguments: &str) -> Outcome {
        run(self.path(), words(arguments), &self.environment()).await
    }

    /// The same, which must answer JSON.
    async fn json(&self, arguments: &str) -> Value {
        let outcome = self.backtest(&format!("{arguments} --json")).await;
        assert!(outcome.status.success(), "{arguments}: {outcome:?}");
        serde_json::from_str(&outcome.stdout).unwrap()
    }

    /// The same, which must fail and say all of these.
    async fn fails(&self, arguments: &str, code: i32, said: &[&str]) {
        let outcome = self.backtest(arguments).await;
        assert_eq!(outcome.status.code(), Some(code), "{arguments}: {outcome:?}");
        for said in said {
            assert!(outcome.stderr.contains(said), "{arguments}: no {said:?} in {outcome:?}");
        }
    }

    /// The compiled code of the bundled detectors is shared by all tests.
    fn environment(&self) -> [(&'static str, &'static str); 1] {
        [("XDG_CACHE_HOME", concat!(env!("CARGO_TARGET_TMPDIR"), "/backtest"))]
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.path().join(name), text).unwrap();
    }
}

fn words(arguments: &str) -> impl Iterator<Item = &OsStr> {
    ["backtest"].into_iter().chain(arguments.split_whitespace()).map(OsStr::new)
}

/// All files in a folder and its folders, by their names in it.
fn files(folder: &Path) -> BTreeMap<PathBuf, String> {
    let (mut found, mut folders) = (BTreeMap::new(), vec![folder.to_owned()]);
    while let Some(next) = folders.pop() {
        for entry in fs::read_dir(next).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                let name = path.strip_prefix(folder).unwrap().to_owned();
                found.insert(name, fs::read_to_string(path).unwrap());
            }
        }
    }
    found
}

/// Bundled plugins that are detectors.
fn detectors() -> Vec<(&'static Bundled, Replay)> {
    let cache = Path::new(env!("CARGO_TARGET_TMPDIR")).join("backtest/telltale");
    let open = |bundled| Replay::open(Component::Bundled(bundled), None, &cache);
    let detectors: Vec<_> =
        BUNDLED.iter().filter_map(|bundled| Some((bundled, open(bundled).ok()?))).collect();
    assert!(detectors.iter().any(|(bundled, _)| bundled.name == "zscore"));
    detectors
}

/// Every file of a corpus, cut at 60 %, must have the same scores as far as it
/// goes, to the last digit.
async fn sees_nothing_of_the_future(detector: &str, corpus: &Path) {
    let desk = Desk::new();
    let cut = desk.path().join("cut");
    corpus::cut(corpus, &cut, 0.6);
    let (whole_out, cut_out) = (desk.path().join("whole-out"), desk.path().join("cut-out"));
    for (corpus, out) in [(corpus, &whole_out), (&cut, &cut_out)] {
        let command =
            format!("{detector} --skip-costs --nab {} --out {}", corpus.display(), out.display());
        desk.json(&command).await;
    }
    let (whole, cut) = (files(&whole_out), files(&cut_out));
    assert_eq!(whole.len(), cut.len());
    for (name, text) in &cut {
        if name != Path::new("summary.json") {
            assert!(text.lines().count() > 10, "{}", name.display());
            assert!(
                whole[name].starts_with(text),
                "{detector} knew what comes: {}",
                name.display()
            );
        }
    }
}

#[tokio::test]
async fn no_bundled_detector_sees_anything_of_the_future() {
    let desk = Desk::with_corpus(1500);
    for (bundled, _) in detectors() {
        sees_nothing_of_the_future(bundled.name, &desk.path().join("corpus")).await;
        if let Some(nab) = std::env::var_os("NAB") {
            sees_nothing_of_the_future(bundled.name, Path::new(&nab)).await;
        }
    }
}

#[tokio::test]
async fn the_same_input_gives_the_same_output_whatever_the_number_of_threads() {
    let desk = Desk::with_corpus(400);
    let mut outputs = Vec::new();
    for (out, threads) in [("a", 1), ("b", 4), ("c", 4)] {
        let command = format!("zscore --nab corpus --out {out} --threads {threads} --skip-costs");
        let mut summary = desk.json(&command).await;
        for measured in ["seconds", "threads", "ns_per_call"] {
            assert!(summary.as_object_mut().unwrap().remove(measured).is_some(), "{measured}");
        }
        let mut files = files(&desk.path().join(out));
        assert!(files.remove(Path::new("summary.json")).is_some());
        assert_eq!(files.len(), 9);
        outputs.push((summary, files));
    }
    assert_eq!(outputs[0], outputs[1]);
    assert_eq!(outputs[1], outputs[2]);
}

#[tokio::test]
async fn a_corpus_has_scores_for_each_row_and_a_summary() {
    let desk = Desk::with_corpus(400);
    let summary = desk.json("zscore --nab corpus --out out --optimise --logo").await;
    let written = fs::read_to_string(desk.path().join("out/summary.json")).unwrap();
    assert_eq!(serde_json::from_str::<Value>(&written).unwrap(), summary);
    assert_eq!((&summary["detector"], &summary["threshold"]), (&"zscore".into(), &0.5.into()));
    assert_eq!((&summary["series"], &summary["points"]), (&9.into(), &3600.into()));
    assert!(summary["version"].as_str().unwrap().len() >= 8, "{summary}");
    for figure in ["ns_per_point", "bytes_per_series", "ns_per_call", "seconds"] {
        assert!(summary[figure].as_f64().unwrap() > 0.0, "{figure} in {summary}");
    }
    // 300 values of 4 bytes, and what goes with them.
    let bytes = summary["bytes_per_series"].as_f64().unwrap();
    assert!((1200.0..6000.0).contains(&bytes), "{bytes}");
    assert_eq!(summary["labels"]["windows"], 8);
    for profile in ["standard", "reward_low_FP_rate", "reward_low_FN_rate"] {
        let score = &summary["nab"][profile];
        let figure = |name: &str| score[name].as_f64().unwrap();
        assert!(figure("optimised") >= figure("score"), "{score}");
        assert!(figure("optimised") >= figure("logo"), "{score}");
    }
    let text = fs::read_to_string(desk.path().join("out/kind0/Share.csv")).unwrap();
    let source = fs::read_to_string(desk.path().join("corpus/data/kind0/Share.csv")).unwrap();
    let mut alerts = 0;
    assert_eq!(text.lines().next(), Some("timestamp,value,anomaly_score,raw_score"));
    for (scored, row) in text.lines().zip(source.lines()).skip(1) {
        let rest = scored.strip_prefix(row).unwrap().trim_start_matches(',');
        let scores: Vec<f64> = rest.split(',').map(|score| score.parse().unwrap()).collect();
        let [told, raw] = scores[..] else { panic!("{scored}") };
        assert!((0.0..=1.0).contains(&told) && told <= raw.max(0.5) + 1e-9, "{scored}");
        alerts += usize::from(told >= 0.5);
    }
    assert_eq!(text.lines().count(), source.lines().count());
    let files = summary["by_series"].as_array().unwrap();
    let share = files.iter().find(|file| file["name"] == "kind0/Share.csv").unwrap();
    assert_eq!(share["alerts"], alerts);
}

/// A minute of values, one a second, with one that is far off.
fn spiky() -> String {
    let row = |second: u64| {
        let value = if second == 150 { 99.0 } else { 10.0 + (second * 7 % 5) as f64 };
        format!("{},{value},5\n", 1_700_000_000 + second)
    };
    format!("when,a,b\n{}", (0..200).map(row).collect::<String>())
}

#[tokio::test]
async fn what_is_odd_in_a_column_is_told_with_its_time_and_counted_by_labels() {
    let desk = Desk::new();
    desk.write("v.csv", &spiky());
    desk.write("l.json", r#"{"a": [["2023-11-14T22:15:45Z", "2023-11-14T22:16:00Z"]]}"#);
    let all = "zscore --csv v.csv --labels l.json --skip-costs --settings z.toml --out out";
    desk.write("z.toml", "[config]\nthreshold = 4.0\n");
    let summary = desk.json(all).await;
    assert_eq!((&summary["series"], &summary["points"]), (&2.into(), &400.into()));
    assert_eq!(summary["alerts"], 1, "{summary}");
    let told = &summary["by_series"][0]["told"][0];
    assert_eq!((&told["time"], &told["value"]), (&"2023-11-14T22:15:50.000Z".into(), &99.0.into()));
    assert_eq!(told["type"], "spike");
    let labels = &summary["labels"];
    assert_eq!((&labels["precision"], &labels["recall"]), (&1.0.into(), &1.0.into()));
    assert_eq!((&labels["mean_delay_seconds"], &labels["false_alerts"]), (&5.0.into(), &0.into()));
    let text = fs::read_to_string(desk.path().join("out/a.csv")).unwrap();
    assert!(text.contains("2023-11-14T22:15:50.000Z,99,0."), "{text}");
    let outcome = desk.backtest(all).await;
    assert!(outcome.status.success(), "{outcome:?}");
    for words in
        ["precision    100.0 % (1 of 1 alerts", "recall       100.0 % (1 of 1", "spike of a, 99"]
    {
        assert!(outcome.stdout.contains(words), "no {words:?} in {outcome:?}");
    }
    assert_eq!(outcome.stderr, "", "no progress where nobody watches");
    let later = desk.json(&format!("{all} --from 2023-11-14T22:16:00Z --column a")).await;
    assert_eq!((&later["points"], &later["alerts"]), (&40.into(), &0.into()));
}

#[tokio::test]
async fn the_policy_is_that_of_the_configuration_unless_the_threshold_is_named() {
    let desk = Desk::new();
    desk.write("v.csv", &spiky());
    let command = "zscore --csv v.csv --skip-costs";
    let usual = desk.json(command).await["alerts"].as_u64().unwrap();
    assert!(usual > 0);
    desk.write("telltale.toml", "[[findings.rules]]\ndetector = \"zscore\"\nopen = 0.99\n");
    let summary = desk.json(command).await;
    assert_eq!((&summary["threshold"], &summary["alerts"]), (&0.99.into(), &0.into()));
    let summary = desk.json(&format!("{command} --threshold 0.5")).await;
    assert_eq!((&summary["threshold"], summary["alerts"].as_u64()), (&0.5.into(), Some(usual)));
}

#[tokio::test]
async fn what_is_asked_for_wrongly_is_told_with_the_way_out() {
    let desk = Desk::new();
    desk.write("v.csv", "timestamp,value\n10,1\nsoon,2\n");
    desk.write("ok.csv", "timestamp,value\n10,1\n20,2\n");
    desk.write("l.json", r#"{"nobody": []}"#);
    desk.write("bad.toml", "[config]\nwindow = 1\n");
    desk.fails("zscore --csv v.csv", 64, &["v.csv: line 3, column 1", "\"soon\" is no time"]).await;
    desk.fails("zscore --csv nowhere.csv", 64, &["nowhere.csv"]).await;
    desk.fails("zscoer --csv ok.csv", 64, &["did you mean `zscore`?"]).await;
    desk.fails("system --csv ok.csv", 1, &["`system` is a collector"]).await;
    desk.fails("no.wasm --csv ok.csv", 1, &["no.wasm"]).await;
    desk.fails("zscore --csv ok.csv --labels l.json", 64, &["\"nobody\"", "there is value"]).await;
    desk.fails("zscore --csv ok.csv --settings bad.toml", 1, &["window"]).await;
    desk.fails("zscore --nab .", 64, &["data/<category>/<file>.csv"]).await;
    desk.fails("zscore --nab . --csv ok.csv", 64, &["cannot be used with"]).await;
    desk.fails("zscore --data nowhere", 1, &["nowhere", "--data"]).await;
    desk.fails("zscore --from yesterday", 64, &["2026-02-10T12:00:00Z", "2d"]).await;
    desk.fails("zscore --csv ok.csv --threshold 1.5", 64, &["no score"]).await;
    desk.fails("zscore --csv ok.csv --threads 0", 64, &["--threads"]).await;
}

#[tokio::test]
async fn a_component_that_traps_is_told_with_the_value_at_which_it_did() {
    let desk = Desk::new();
    desk.write("v.csv", "timestamp,value\n10,1\n20,2\n");
    desk.write("p.toml", "[config]\nmode = \"panic\"\n");
    let component = guest_path("guest_detector");
    let command = format!("{} --csv v.csv --settings p.toml --out out", component.display());
    desk.fails(&command, 1, &["value: value 1 of 1970-01-01T00:00:10", "panicked"]).await;
    assert_eq!(files(&desk.path().join("out")).len(), 0);
}

#[tokio::test]
async fn the_history_of_a_hub_can_be_read_while_it_runs_and_afterwards() {
    let settings = "[config]\nmode = \"steady\"\nkind = \"counter\"\n";
    let hub = Hub::new()
        .plugin("steady", "guest_collector", "")
        .plugin("counting", "guest_collector", settings)
        .start()
        .await;
    let mut client = hub.native().await;
    client.subscribe("metrics", serde_json::json!({})).await;
    for _ in 0..12 {
        client.next_push().await;
    }
    let desk = Desk::new();
    let data = hub.setup().data();
    let command = format!("zscore --skip-costs --data {}", data.display());
    let running = desk.json(&command).await;
    let points = |summary: &Value| summary["points"].as_u64().unwrap();
    assert!(points(&running) >= 10, "{running}");
    let (status, _setup) = hub.stop_with(Signal::TERM).await;
    assert!(status.success());
    let stopped = desk.json(&command).await;
    assert!(points(&stopped) >= points(&running), "{stopped}");
    let names: Vec<&str> = stopped["by_series"]
        .as_array()
        .unwrap()
        .iter()
        .map(|file| file["name"].as_str().unwrap())
        .collect();
    assert!(!names.iter().any(|name| name.starts_with("telltale.")), "{names:?}");
    let first = names[0].split('{').next().unwrap();
    let one = desk.json(&format!("{command} --series {first}*")).await;
    assert!(one["series"].as_u64().unwrap() >= 1);
    desk.fails(&format!("{command} --series nothing.*"), 1, &["--series"]).await;
    desk.fails(&format!("{command} --from 2030-01-01T00:00:00Z"), 1, &["--from"]).await;
    let ago = desk.json(&format!("{command} --from 1h")).await;
    assert_eq!(points(&ago), points(&stopped));
}

#[tokio::test]
async fn ctrl_c_leaves_whole_files_and_no_summary() {
    let desk = Desk::with_corpus(20_000);
    let command = words("zscore --nab corpus --out out --threads 1");
    let mut program = Program::start(desk.path(), command, &desk.environment());
    let out = desk.path().join("out");
    within("the first file", async {
        while !out.is_dir() || files_now(&out).is_empty() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
    program.signal(Signal::INT);
    let status = program.exit().await;
    assert_eq!(status.code(), Some(1), "{}", program.stderr());
    assert!(program.stderr().contains("stopped"), "{}", program.stderr());
    for path in files_now(&out) {
        let text = fs::read_to_string(&path).unwrap();
        assert_eq!(text.lines().count(), 20_001, "{}", path.display());
        assert!(
            !path.file_name().unwrap().to_str().unwrap().starts_with('.'),
            "{}",
            path.display()
        );
    }
    assert!(!out.join("summary.json").exists());
}

/// The files that are in a folder's folders at this moment, finished or not.
fn files_now(folder: &Path) -> Vec<PathBuf> {
    let folders =
        fs::read_dir(folder).unwrap().filter_map(|entry| fs::read_dir(entry.ok()?.path()).ok());
    folders.flatten().filter_map(|entry| Some(entry.ok()?.path())).collect()
}

#[test]
fn a_short_day_of_series_with_noise_is_told_of_rarely_and_a_constant_never() {
    let day = Day { series: 40, constant: 8, ticks: 2000, tick: Duration::from_secs(1) };
    let runtime = runtime().unwrap();
    for (bundled, replay) in detectors() {
        let told = runtime.block_on(day::show(&replay, &Policy::default(), day)).unwrap();
        assert_eq!(told.constant, 0, "{}: {told:?}", bundled.name);
        if bundled.name == "novelty" {
            assert!(told.all() <= 1, "{told:?}");
        }
        assert!(told.ns_per_value > 0.0);
    }
}

#[test]
fn a_week_of_series_with_noise_every_five_minutes_is_told_of_less_than_once_in_300_values() {
    let day = Day { series: 40, constant: 8, ticks: 2016, tick: Duration::from_secs(300) };
    let runtime = runtime().unwrap();
    let detectors = detectors();
    let (_, replay) = detectors.iter().find(|(bundled, _)| bundled.name == "novelty").unwrap();
    let told = runtime.block_on(day::show(replay, &Policy::default(), day)).unwrap();
    assert_eq!(told.constant, 0, "{told:?}");
    // Past the first day it judges: something is odd in a week of noise.
    let values = day.series * day.ticks as usize;
    assert!((1..values / 300).contains(&told.all()), "{told:?}");
}
