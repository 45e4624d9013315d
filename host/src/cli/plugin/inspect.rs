//! `telltale plugin inspect`

use clap::Args;
use serde_json::Value;

use super::text::{self, bytes, nanos, or_dash, word};
use super::{Failure, Place, client, no_answer, path_of, print};

#[derive(Debug, Args)]
pub(in crate::cli) struct Inspect {
    /// The plugin's name
    name: String,
    #[command(flatten)]
    place: Place,
    /// Write JSON
    #[arg(long)]
    json: bool,
}

impl Inspect {
    pub(super) fn run(self) -> Result<(), Failure> {
        let (hub, name) = (self.place.hub()?, &self.name);
        let plugin = client::wait_for(async {
            let mut plugin = match hub.get(&path_of(name, "")).await {
                Ok(plugin) => plugin,
                Err(error) => return Err(no_answer(&hub, name, error).await),
            };
            // A name has no character that a query would have to escape.
            let declared = hub.get(&format!("/v1/series?plugin={name}")).await?;
            plugin["series_list"] = declared["series"].clone();
            Ok(plugin)
        })?;
        if self.json {
            print(&plugin.to_string());
        } else {
            show(&plugin);
        }
        Ok(())
    }
}

fn show(plugin: &Value) {
    line("name", &word(&plugin["name"]));
    line("role", &format!("{}, {}", word(&plugin["role"]), interface(plugin)));
    line("state", &format!("{} since {}", word(&plugin["state"]), word(&plugin["since"])));
    for (label, key) in [("reason", "reason"), ("last fault", "last_fault")] {
        if let Some(words) = plugin[key].as_str() {
            line(label, words);
        }
    }
    line("series", &word(&plugin["series"]));
    line("component", &component(plugin));
    line("state kept", &state(plugin));
    line("memory", &size(&plugin["memory_bytes"]));
    line("calls", &calls(&plugin["calls"]));
    line("faults", &faults(plugin));
    line("refused", &refused(plugin));
    list("not in /metrics", &plugin["left_out"], left_out);
    if plugin["events"]["published"] != 0 || plugin["events"]["failed"] != 0 {
        line("events", &events(plugin));
    }
    list("imports", &plugin["imports"], word);
    list("exports", &plugin["exports"], word);
    list("last faults", &plugin["faults_recent"], |fault| {
        format!("{} {}", word(&fault["at"]), word(&fault["fault"]))
    });
    list("series", &plugin["series_list"], series);
}

fn line(label: &str, words: &str) {
    print(&format!("{label:<12} {words}"));
}

/// A list under a head, unless there is nothing in it.
fn list(head: &str, values: &Value, words: impl Fn(&Value) -> String) {
    let values = values.as_array().map(Vec::as_slice).unwrap_or_default();
    if !values.is_empty() {
        print(&format!("\n{head}:"));
        values.iter().for_each(|value| print(&format!("  {}", words(value))));
    }
}

fn interface(plugin: &Value) -> String {
    let version = word(&plugin["interface"]);
    let asked = match plugin["interval_ms"].as_u64() {
        Some(interval) => format!("asked every {interval} ms"),
        None => "at every tick".to_owned(),
    };
    let idle = plugin["interval_idle_ms"].as_u64();
    let idle = idle.map(|idle| format!(", every {idle} ms while nobody watches"));
    format!("telltale:plugin@{version}, {asked}{}", idle.unwrap_or_default())
}

fn component(plugin: &Value) -> String {
    let from = if plugin["cached"] == true { "loaded from the cache" } else { "compiled" };
    let took = or_dash(&plugin["load_ms"], |millis| nanos(millis * 1e6));
    let last_good = match plugin["last_good"]["component"].as_str() {
        Some(hash) => format!("; last good {hash} since {}", word(&plugin["last_good"]["since"])),
        None => String::new(),
    };
    let probation = match plugin["probation_left"].as_u64() {
        Some(left @ 1..) => format!("; on probation for {left} more ticks"),
        _ => String::new(),
    };
    format!("{}, {from} in {took}{probation}{last_good}", word(&plugin["component"]))
}

fn state(plugin: &Value) -> String {
    match plugin["state_bytes"].as_u64() {
        Some(size @ 1..) => {
            format!("{}, {} at the last start", bytes(size), word(&plugin["handover"]))
        }
        _ => format!("nothing yet, {} at the last start", word(&plugin["handover"])),
    }
}

fn size(value: &Value) -> String {
    value.as_u64().map_or_else(|| "-".to_owned(), bytes)
}

fn calls(calls: &Value) -> String {
    let micros = |key: &str| or_dash(&calls[key], |micros| nanos(micros * 1e3));
    format!(
        "{}; mean {}, p99 {}, max {}; waiting {}",
        word(&calls["count"]),
        micros("mean_us"),
        micros("p99_us"),
        micros("max_us"),
        micros("waiting_mean_us")
    )
}

fn faults(plugin: &Value) -> String {
    format!(
        "{}, {} restarts, {} late answers",
        word(&plugin["faults"]),
        word(&plugin["restarts"]),
        word(&plugin["late"])
    )
}

/// What was over a limit, and was not taken.
fn refused(plugin: &Value) -> String {
    let refused = plugin["refused"].as_object().into_iter().flatten();
    let parts: Vec<String> = refused
        .filter(|(_, count)| count.as_u64() != Some(0))
        .map(|(what, count)| format!("{} {}", word(count), what.replace('_', " ")))
        .collect();
    if parts.is_empty() { "nothing".to_owned() } else { parts.join(", ") }
}

/// What a scraper does not see.
fn left_out(left_out: &Value) -> String {
    let (name, count) = (word(&left_out["name"]), word(&left_out["series"]));
    format!("{name} ({count} series): {}", word(&left_out["reason"]))
}

fn events(plugin: &Value) -> String {
    let events = &plugin["events"];
    format!("{} published, {} failed", word(&events["published"]), word(&events["failed"]))
}

fn series(series: &Value) -> String {
    format!("{}  {} in {}", text::series(series), word(&series["kind"]), word(&series["unit"]))
}
