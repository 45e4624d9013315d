//! Numbers and tables for people.

use serde_json::Value;

/// Bytes, in the unit that leaves one to three digits before the point.
pub(in crate::cli) fn bytes(bytes: u64) -> String {
    const UNITS: [&str; 4] = ["B", "KiB", "MiB", "GiB"];
    #[expect(clippy::cast_precision_loss, reason = "three digits are shown")]
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 1000.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    if unit == 0 { format!("{bytes} B") } else { format!("{} {}", short(value), UNITS[unit]) }
}

/// Nanoseconds, in the unit that leaves one to three digits before the point.
pub(in crate::cli) fn nanos(nanos: f64) -> String {
    const UNITS: [&str; 4] = ["ns", "µs", "ms", "s"];
    let (mut value, mut unit) = (nanos, 0);
    while value >= 1000.0 && unit + 1 < UNITS.len() {
        value /= 1000.0;
        unit += 1;
    }
    format!("{} {}", short(value), UNITS[unit])
}

/// Three digits, as far as there are so many.
fn short(value: f64) -> String {
    if value >= 100.0 || value == 0.0 {
        format!("{value:.0}")
    } else if value >= 10.0 {
        format!("{value:.1}")
    } else {
        format!("{value:.2}")
    }
}

/// A number of the hub's in words of [`bytes`] or [`nanos`]; `-` if it has none.
pub(in crate::cli) fn or_dash(value: &Value, words: impl Fn(f64) -> String) -> String {
    value.as_f64().map_or_else(|| "-".to_owned(), words)
}

/// A word of the hub's; `-` if there is none.
pub(in crate::cli) fn word(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// A series as people write it: `name{key=value}`.
pub(in crate::cli) fn series(series: &Value) -> String {
    let labels = series["labels"].as_object().into_iter().flatten();
    let labels: Vec<String> = labels.map(|(key, value)| format!("{key}={}", word(value))).collect();
    let name = word(&series["name"]);
    if labels.is_empty() { name } else { format!("{name}{{{}}}", labels.join(",")) }
}

/// A table whose columns are as wide as what is in them. The first row is its
/// head; columns of numbers stand to the right.
pub(in crate::cli) fn table(rows: &[Vec<String>], numbers: &[usize]) -> Vec<String> {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max()
    };
    let widths: Vec<usize> = (0..columns).map(|column| width(column).unwrap_or(0)).collect();
    let line = |row: &Vec<String>| {
        let cells = row.iter().enumerate().map(|(column, cell)| {
            let width = widths[column];
            if numbers.contains(&column) {
                format!("{cell:>width$}")
            } else {
                format!("{cell:<width$}")
            }
        });
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    rows.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_three_digits_and_a_unit() {
        for (value, words) in
            [(0, "0 B"), (999, "999 B"), (1536, "1.50 KiB"), (56_000_000, "53.4 MiB")]
        {
            assert_eq!(bytes(value), words);
        }
        for (value, words) in [(0.0, "0 ns"), (4400.0, "4.40 µs"), (1.25e9, "1.25 s")] {
            assert_eq!(nanos(value), words);
        }
    }

    #[test]
    fn a_table_is_as_wide_as_it_must_be() {
        let row = |cells: [&str; 2]| cells.map(str::to_owned).to_vec();
        let lines = table(&[row(["NAME", "N"]), row(["a", "100"])], &[1]);
        assert_eq!(lines, ["NAME    N", "a     100"]);
    }
}
