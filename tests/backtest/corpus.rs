//! A made-up corpus in NAB's layout, the same from the same seed.

use std::fmt::Write;
use std::fs;
use std::path::Path;

use telltale::plugin::replay::seeded::{Seeded, Shape};

/// 2014-04-01 00:00:00.
const BEGINNING_S: u64 = 1_396_310_400;
/// Five minutes.
const INTERVAL_S: u64 = 300;

/// Writes a file of each shape, with spikes, dips, a shift, a stretch that stands
/// still and a gap, and a constant one without anything. Windows are labelled
/// around what was put in.
pub(crate) fn write(folder: &Path, rows: usize) {
    let mut labels = serde_json::Map::new();
    for (at, shape) in Shape::ALL.into_iter().enumerate() {
        let name = format!("kind{}/{shape:?}.csv", at % 3);
        let (text, windows) = series(at as u64, shape, rows);
        put(folder, &name, &text);
        labels.insert(name, windows.into());
    }
    let mut text = "timestamp,value\n".to_owned();
    for row in 0..rows as u64 {
        writeln!(text, "{},45.0", time(BEGINNING_S + row * INTERVAL_S)).unwrap();
    }
    put(folder, "quiet/constant.csv", &text);
    labels.insert("quiet/constant.csv".to_owned(), serde_json::json!([]));
    fs::create_dir_all(folder.join("labels")).unwrap();
    let labels = serde_json::to_string(&labels).unwrap();
    fs::write(folder.join("labels/combined_windows.json"), labels).unwrap();
}

fn put(folder: &Path, name: &str, text: &str) {
    let path = folder.join("data").join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
}

fn series(seed: u64, shape: Shape, rows: usize) -> (String, Vec<serde_json::Value>) {
    let mut seeded = Seeded::new(seed, shape);
    let mut text = "timestamp,value\n".to_owned();
    let mut windows = Vec::new();
    let mut second = BEGINNING_S;
    let (mut last, mut shift) = (0.0, 0.0);
    for row in 0..rows {
        let mut value = seeded.next(second * 1_000_000_000);
        let scale = 1.0 + value.abs();
        match row * 20 / rows {
            // A gap in the times, early.
            3 if row * 20 % rows < 20 => second += 7 * INTERVAL_S,
            8 if row % 31 == 0 => value += 12.0 * scale,
            11 if row % 29 == 0 => value -= 9.0 * scale,
            13 => value = last,
            16 => shift = 5.0 * scale,
            _ => {}
        }
        value += shift;
        if (row * 20 / rows, row * 20 % rows < 20) == (13, true) {
            windows.push(serde_json::json!([time(second), time(second + 20 * INTERVAL_S)]));
        }
        last = value;
        writeln!(text, "{},{value}", time(second)).unwrap();
        second += INTERVAL_S;
    }
    (text, windows)
}

/// As NAB writes it.
fn time(second: u64) -> String {
    telltale::clock::iso8601_naive(second * 1_000_000_000).replace('T', " ")
}

/// Copies a corpus' data as far as this share of each file, and its labels not
/// at all.
pub(crate) fn cut(from: &Path, to: &Path, share: f64) {
    for category in fs::read_dir(from.join("data")).unwrap() {
        let category = category.unwrap().path();
        if !category.is_dir() {
            continue;
        }
        for file in fs::read_dir(&category).unwrap() {
            let file = file.unwrap().path();
            let text = fs::read_to_string(&file).unwrap();
            let lines: Vec<&str> = text.lines().collect();
            let kept = 1 + ((lines.len() - 1) as f64 * share) as usize;
            let word = |path: &Path| path.file_name().unwrap().to_str().unwrap().to_owned();
            let name = format!("{}/{}", word(&category), word(&file));
            put(to, &name, &(lines[..kept].join("\n") + "\n"));
        }
    }
}
