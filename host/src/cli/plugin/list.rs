//! `telltale plugin list`

use clap::Args;
use serde_json::Value;

use super::text::{bytes, nanos, or_dash, table, word};
use super::{Failure, Place, client, print};
use crate::plugin::{BUNDLED, Bundled};

#[derive(Debug, Args)]
pub(in crate::cli) struct List {
    #[command(flatten)]
    place: Place,
    /// Write JSON
    #[arg(long)]
    json: bool,
}

impl List {
    pub(super) fn run(self) -> Result<(), Failure> {
        let hub = self.place.hub()?;
        let answer = client::wait_for(async { Ok(hub.get("/v1/plugins").await?) })?;
        if self.json {
            print(&answer.to_string());
            return Ok(());
        }
        let plugins = answer["plugins"].as_array().map(Vec::as_slice).unwrap_or_default();
        show(plugins);
        let listed =
            |bundled: &&Bundled| plugins.iter().any(|plugin| plugin["name"] == bundled.name);
        let others: Vec<_> = BUNDLED.iter().filter(|bundled| !listed(bundled)).collect();
        if !others.is_empty() {
            print("\nbundled, to be added with `telltale plugin add NAME`:");
            for bundled in others {
                print(&format!("{:<16} {}", bundled.name, bundled.summary));
            }
        }
        Ok(())
    }
}

const HEAD: [&str; 10] = [
    "NAME",
    "ROLE",
    "STATE",
    "SERIES",
    "COMPONENT",
    "HANDOVER",
    "FAULTS",
    "MEMORY",
    "MEAN CALL",
    "SINCE",
];
/// The columns of [`HEAD`] that hold numbers.
const NUMBERS: [usize; 4] = [3, 6, 7, 8];

fn show(plugins: &[Value]) {
    let mut rows = vec![HEAD.map(str::to_owned).to_vec()];
    rows.extend(plugins.iter().map(row));
    let mut lines = table(&rows, &NUMBERS).into_iter();
    lines.by_ref().take(1).for_each(|head| print(&head));
    for (plugin, line) in plugins.iter().zip(lines) {
        print(&line);
        if let Some(reason) = plugin["reason"].as_str() {
            print(&format!("    {reason}"));
        }
    }
}

fn row(plugin: &Value) -> Vec<String> {
    let memory = &plugin["memory_bytes"];
    vec![
        word(&plugin["name"]),
        word(&plugin["role"]),
        word(&plugin["state"]),
        word(&plugin["series"]),
        word(&plugin["component"]),
        word(&plugin["handover"]),
        word(&plugin["faults"]),
        memory.as_u64().map_or_else(|| "-".to_owned(), bytes),
        or_dash(&plugin["calls"]["mean_us"], |micros| nanos(micros * 1e3)),
        to_the_second(&word(&plugin["since"])),
    ]
}

/// A time of RFC 3339 without what comes after the seconds.
fn to_the_second(time: &str) -> String {
    match time.split_once('.') {
        Some((seconds, _)) => format!("{seconds}Z"),
        None => time.to_owned(),
    }
}
