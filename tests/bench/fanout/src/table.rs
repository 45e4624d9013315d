//! The table, in Markdown.

use std::fmt::Write;
use std::fs;
use std::process::Command;

use jiff::Timestamp;

use crate::Entry;
use crate::load::{Load, Workload};
use crate::measure::Figures;
use crate::server::{Kind, Yard};
use crate::tools;

/// The table of a run, with what has to be known to read it.
pub(crate) fn render(entries: &[Entry], load: &Load, yard: &Yard, machine: &str) -> String {
    let mut text = String::new();
    // Writing to a string doesn't fail.
    let _ = write_head(&mut text, load);
    for entry in entries.iter().filter(|entry| entry.turns.iter().any(Option::is_some)) {
        let _ = write_row(&mut text, entries, entry, Cost::of(entry.kind));
        if entry.kind.is_hub() {
            let _ = write_row(&mut text, entries, entry, Cost::LessIdle);
        }
    }
    let _ = write_foot(&mut text, entries, yard, machine);
    text
}

/// What of a server's processor time is its messages'.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Cost {
    /// All of it: the hub's tick is part of what it does.
    Whole,
    /// Less what it takes when it has nothing to send.
    LessIdle,
}

impl Cost {
    fn of(kind: Kind) -> Self {
        if kind.is_hub() { Self::Whole } else { Self::LessIdle }
    }

    fn us(self, figures: &Figures) -> f64 {
        match self {
            Self::Whole => figures.cpu_us,
            Self::LessIdle => figures.cpu_us - figures.idle_us,
        }
    }
}

fn write_head(text: &mut String, load: &Load) -> std::fmt::Result {
    let Load { clients, bytes, ticks, interval, workload } = load;
    let what = match workload {
        Workload::Single => format!("one update of {bytes} B"),
        Workload::Coalesced => format!("{} updates of {bytes} B", workload.updates()),
    };
    writeln!(
        text,
        "{clients} clients, {what} to each at every tick, {ticks} ticks of {} ms\n",
        interval.as_millis()
    )?;
    writeln!(
        text,
        "| server | B/message | CPU µs/message | × floor | × telltale | p50 ms | p99 ms | \
         last client ms | idle B/client | active B/client |"
    )?;
    writeln!(text, "|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|")
}

fn write_row(text: &mut String, all: &[Entry], entry: &Entry, cost: Cost) -> std::fmt::Result {
    let kind = entry.kind;
    let of = |figure: fn(&Figures) -> f64| median(entry.turns.iter().flatten().map(figure));
    let cpu = median(entry.turns.iter().flatten().map(|figures| cost.us(figures)));
    let floor = ratio(all, kind.floor(), entry, cost);
    let hub = ratio(all, Kind::Hub, entry, cost);
    if kind.is_hub() && cost == Cost::LessIdle {
        let title = format!("{}, less its idle tick", kind.title());
        return writeln!(text, "| {title} | | {cpu:.2} | {floor} | {hub} | | | | | |");
    }
    writeln!(
        text,
        "| {} | {:.0} | {cpu:.2} | {floor} | {hub} | {:.1} | {:.1} | {:.1} | {:.0} | {:.0} |",
        kind.title(),
        of(|figures| figures.bytes),
        of(|figures| figures.p50_ms),
        of(|figures| figures.p99_ms),
        of(|figures| figures.last_ms),
        of(|figures| figures.idle_bytes),
        of(|figures| figures.active_bytes),
    )
}

/// What a server takes in units of another: the median of the turns, since what
/// was measured side by side had the same neighbours.
fn ratio(all: &[Entry], to: Kind, entry: &Entry, cost: Cost) -> String {
    let Some(other) = all.iter().find(|other| other.kind == to) else { return "".to_owned() };
    let pairs = entry.turns.iter().zip(&other.turns);
    let both = pairs.filter_map(|(ours, theirs)| ours.as_ref().zip(theirs.as_ref()));
    let ratios: Vec<f64> =
        both.map(|(ours, theirs)| cost.us(ours) / Cost::of(to).us(theirs)).collect();
    if ratios.is_empty() { "".to_owned() } else { format!("{:.2}", median(ratios)) }
}

fn write_foot(text: &mut String, all: &[Entry], yard: &Yard, machine: &str) -> std::fmt::Result {
    let turns = all.iter().map(|entry| entry.turns.len()).max().unwrap_or_default();
    writeln!(text, "\nMedians of {turns} turns; ratios are the medians of the turns' ratios.")?;
    if let Some(share) = two_on_one(all) {
        writeln!(text, "The hub with 2 workers takes {share} of the bare loop on one core.")?;
    }
    for Entry { kind, turns, trouble } in all {
        let missed: u64 = turns.iter().flatten().map(|figures| figures.missed).sum();
        if missed > 0 {
            writeln!(text, "{}: {missed} messages never came.", kind.name())?;
        }
        if let Some(trouble) = trouble {
            let lost = turns.iter().filter(|turn| turn.is_none()).count();
            writeln!(text, "{}: {lost} of {} turns failed: {trouble}", kind.name(), turns.len())?;
        }
    }
    let date = Timestamp::now().strftime("%Y-%m-%d %H:%M UTC");
    writeln!(text, "\n{date}; {}; {machine}", processor())?;
    writeln!(text, "{}", versions(yard).join(", "))
}

/// The hub on two cores by the bare loop on one.
fn two_on_one(all: &[Entry]) -> Option<String> {
    let hub = all.iter().find(|entry| entry.kind == Kind::Hub2)?;
    Some(ratio(all, Kind::Floor, hub, Cost::Whole)).filter(|ratio| !ratio.is_empty())
}

fn median(values: impl IntoIterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() {
        0 => f64::NAN,
        length if length % 2 == 1 => values[middle],
        _ => f64::midpoint(values[middle - 1], values[middle]),
    }
}

fn processor() -> String {
    let text = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let of = |key| text.lines().filter_map(move |line: &str| line.strip_prefix(key));
    let model = of("model name").find_map(|rest| rest.split_once(": ")).map(|(_, model)| model);
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let model = model.unwrap_or("unknown processor");
    format!("{model}, {} cores, Linux {}", of("processor").count(), kernel.trim())
}

/// What ran, as it tells itself.
fn versions(yard: &Yard) -> Vec<String> {
    const PYTHON: &str = "import platform; from importlib.metadata import version as v; \
        print('Python', platform.python_version()); \
        [print(n, v(n)) for n in ('websockets', 'fastapi', 'uvicorn', 'uvloop', 'python-socketio')]";
    let mut versions: Vec<String> = yard.hub.version().into_iter().collect();
    if !yard.hub.takes_workers() {
        versions.push("which has as many workers as cores".to_owned());
    }
    let python = tools().join("venv/bin/python");
    versions.extend(said(Command::new(python).args(["-c", PYTHON])));
    versions.extend(said(Command::new("node").arg("--version")).map(|node| format!("Node {node}")));
    for package in ["ws", "socket.io"] {
        let manifest = tools().join("node_modules").join(package).join("package.json");
        let text = fs::read_to_string(manifest).unwrap_or_default();
        let manifest: serde_json::Value = serde_json::from_str(&text).unwrap_or_default();
        versions.extend(manifest["version"].as_str().map(|version| format!("{package} {version}")));
    }
    versions.extend(said(Command::new(tools().join("venv/bin/nats-server")).arg("--version")));
    versions
}

/// A program's answer in one line; none if it isn't there.
fn said(command: &mut Command) -> Option<String> {
    let output = command.output().ok().filter(|output| output.status.success())?;
    Some(String::from_utf8_lossy(&output.stdout).trim().replace('\n', ", "))
}
