//! `telltale detector …`

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand};
use serde_json::Value;

use super::client::HubClient;
use super::plugin::text::{bytes, nanos, or_dash, series, table, word};
use super::plugin::{Place, no_answer};
use super::{Failure, client, print};

/// What `telltale detector --help` ends with.
pub(super) const THE_WAY: &str = "\
From another version to the one that is believed:
  telltale detector shadow zscore better.wasm   it is shown the same; what it finds is recorded
  telltale detector diff zscore                 what each found, and what it cost
  telltale detector promote zscore              it takes over at the next tick, with what it knows
  telltale detector rollback zscore             the one before comes back, as it was then

What runs is found by the hub's data folder (--data), and asked over its HTTP API.
With --json the answer on standard output is JSON; what goes wrong is one line on standard error.";

/// How long the hub may take on top, to compile a component on a busy machine.
const COMPILE_MAX: Duration = Duration::from_secs(60);

#[derive(Debug, Subcommand)]
pub(super) enum DetectorCommand {
    /// Show the detectors, and what runs in their shadows
    List(List),
    /// Let another component run in the shadow of a detector
    Shadow(Shadow),
    /// Show what a detector and its shadow have found, and what each costs
    Diff(Diff),
    /// Let a detector's shadow take its place, with what it has learned
    Promote(One),
    /// Bring back what ran before a shadow was promoted, with what it knew then
    Rollback(One),
}

#[derive(Debug, Args)]
pub(super) struct List {
    #[command(flatten)]
    place: Place,
    /// Write JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
pub(super) struct Shadow {
    /// The detector's name
    name: String,
    /// The component's file
    #[arg(value_name = "FILE.wasm", required_unless_present = "stop", conflicts_with = "stop")]
    component: Option<PathBuf>,
    /// Settings of its own [default: those of the detector, as they change]
    #[arg(long, value_name = "FILE.toml", conflicts_with = "stop")]
    settings: Option<PathBuf>,
    /// End the shadow, and forget what it knows
    #[arg(long)]
    stop: bool,
    #[command(flatten)]
    place: Place,
    /// Write JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
pub(super) struct Diff {
    /// The detector's name
    name: String,
    /// From when on: RFC 3339, or milliseconds since the epoch [default: since the shadow runs]
    #[arg(long, value_name = "TIME")]
    since: Option<String>,
    /// How many findings to list, the newest of each sort; at most 1000
    #[arg(long, value_name = "N", default_value_t = 20)]
    listed: usize,
    #[command(flatten)]
    place: Place,
    /// Write JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
pub(super) struct One {
    /// The detector's name
    name: String,
    #[command(flatten)]
    place: Place,
    /// Write JSON
    #[arg(long)]
    json: bool,
}

impl DetectorCommand {
    pub(super) fn run(self) -> Result<(), Failure> {
        match self {
            Self::List(command) => command.run(),
            Self::Shadow(command) => command.run(),
            Self::Diff(command) => command.run(),
            Self::Promote(command) => command.run("promote", "promoted to"),
            Self::Rollback(command) => command.run("rollback", "back at"),
        }
    }
}

/// What is asked of the hub.
enum Ask {
    Get,
    Post,
    Delete,
}

/// Asks the hub about a detector.
fn ask(hub: &HubClient, name: &str, ask: &Ask, rest: &str) -> Result<Value, Failure> {
    let part: String = form_urlencoded::byte_serialize(name.as_bytes()).collect();
    let path = format!("/v1/detectors/{part}/{rest}");
    client::wait_for(async {
        let answer = match ask {
            Ask::Get => hub.get(&path).await,
            Ask::Post => hub.post_waiting(&path, COMPILE_MAX).await,
            Ask::Delete => hub.delete(&path).await,
        };
        match answer {
            Ok(answer) => Ok(answer),
            // A detector without a shadow has words of its own.
            Err(error) if matches!(ask, Ask::Get) => Err(error.into()),
            Err(error) => Err(no_answer(hub, name, error).await),
        }
    })
}

impl List {
    fn run(self) -> Result<(), Failure> {
        let hub = self.place.hub()?;
        let answer = client::wait_for(async { Ok(hub.get("/v1/detectors").await?) })?;
        if self.json {
            print(&answer.to_string());
            return Ok(());
        }
        let head = ["NAME", "STATE", "SERIES", "COMPONENT", "SINCE", "ROLLBACK TO"];
        let mut rows = vec![head.map(str::to_owned).to_vec()];
        for detector in answer["detectors"].as_array().into_iter().flatten() {
            rows.push(vec![
                word(&detector["name"]),
                word(&detector["state"]),
                word(&detector["series"]),
                word(&detector["component"]),
                word(&detector["since"]),
                word(&detector["before"]["component"]),
            ]);
        }
        table(&rows, &[2]).iter().for_each(|line| print(line));
        Ok(())
    }
}

impl Shadow {
    fn run(self) -> Result<(), Failure> {
        let (hub, name) = (self.place.hub()?, &self.name);
        if self.stop {
            let answer = ask(&hub, name, &Ask::Delete, "shadow")?;
            print(&if self.json { answer.to_string() } else { format!("{name} has no shadow") });
            return Ok(());
        }
        let mut query = form_urlencoded::Serializer::new(String::new());
        for (key, file) in [("component", &self.component), ("settings", &self.settings)] {
            let Some(file) = file else { continue };
            // The hub reads it, and its working folder is another one.
            let path = std::path::absolute(file)
                .map_err(|error| Failure::new(format!("{}: {error}", file.display())))?;
            std::fs::metadata(&path)
                .map_err(|error| Failure::new(format!("{}: {error}", file.display())))?;
            query.append_pair(key, &path.to_string_lossy());
        }
        let answer = ask(&hub, name, &Ask::Post, &format!("shadow?{}", query.finish()))?;
        if self.json {
            print(&answer.to_string());
            return Ok(());
        }
        print(&format!(
            "{} runs in the shadow of {name} (state {})",
            word(&answer["component"]),
            word(&answer["handover"])
        ));
        if let Some(reason) = answer["reason"].as_str() {
            print(&format!("    {reason}"));
        }
        Ok(())
    }
}

impl One {
    fn run(self, act: &str, words: &str) -> Result<(), Failure> {
        let (hub, name) = (self.place.hub()?, &self.name);
        let answer = ask(&hub, name, &Ask::Post, act)?;
        if self.json {
            print(&answer.to_string());
            return Ok(());
        }
        print(&format!(
            "{name}: {words} {} (state {})",
            word(&answer["component"]),
            word(&answer["handover"])
        ));
        Ok(())
    }
}

impl Diff {
    fn run(self) -> Result<(), Failure> {
        let hub = self.place.hub()?;
        let mut query = form_urlencoded::Serializer::new(String::new());
        query.append_pair("listed", &self.listed.to_string());
        if let Some(since) = &self.since {
            query.append_pair("since", since);
        }
        let answer = ask(&hub, &self.name, &Ask::Get, &format!("diff?{}", query.finish()))?;
        if self.json {
            print(&answer.to_string());
            return Ok(());
        }
        show(&answer);
        Ok(())
    }
}

/// The diff for people: the two side by side, then what only one has found.
fn show(diff: &Value) {
    print(&format!("from {} to {}", word(&diff["since"]), word(&diff["until"])));
    if diff["complete"] == false {
        print("there is more: only the newest 10000 entries of the log are compared");
    }
    let sides = [("", "live"), ("shadow of ", "shadow")];
    let mut rows = vec![vec![String::new()], vec!["component".to_owned()]];
    for (before, side) in sides {
        rows[0].push(format!("{before}{}", word(&diff["detector"])));
        rows[1].push(word(&diff[side]["component"]));
    }
    let mut row = |title: &str, cell: &dyn Fn(&Value) -> String| {
        let cells = sides.iter().map(|(_, side)| cell(&diff[*side]));
        rows.push([title.to_owned()].into_iter().chain(cells).collect());
    };
    row("found", &|side| word(&side["found"]));
    row("found by it alone", &|side| word(&side["alone"]));
    row("found by both", &|_| word(&diff["both"]));
    let micros = |value: &Value| or_dash(value, |micros| nanos(micros * 1e3));
    let size = |value: &Value| value.as_u64().map_or_else(|| "-".to_owned(), bytes);
    row("mean call", &|side| micros(&side["cost"]["mean_us"]));
    row("p99 call", &|side| micros(&side["cost"]["p99_us"]));
    row("memory", &|side| size(&side["cost"]["memory_bytes"]));
    row("state", &|side| size(&side["cost"]["state_bytes"]));
    row("calls", &|side| word(&side["cost"]["calls"]));
    row("ticks skipped", &|side| word(&side["cost"]["skipped"]));
    row("faults", &|side| word(&side["cost"]["faults"]));
    table(&rows, &[1, 2]).iter().for_each(|line| print(line));
    for (key, words) in [("only_live", "live"), ("only_shadow", "its shadow")] {
        let found = diff[key].as_array().map(Vec::as_slice).unwrap_or_default();
        if found.is_empty() {
            continue;
        }
        print(&format!("\nfound by {words} alone, the newest first:"));
        let row = |found: &Value| {
            let cells = [&found["started"], &found["type"], &found["peak"]].map(word);
            cells.into_iter().chain([series(found)]).collect()
        };
        let rows: Vec<Vec<String>> = found.iter().map(row).collect();
        table(&rows, &[2]).iter().for_each(|line| print(line));
    }
}
