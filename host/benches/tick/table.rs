//! The figures, for people.
#![expect(clippy::print_stdout, reason = "a benchmark reports on standard output")]

use std::time::Duration;

use crate::calls::VALUES;
use crate::figures::{Figures, to_f64};
use crate::load::{Company, Cost, Load};
use crate::rooms::SERIES;

/// The goal for a tick of [`Company::Alone`].
const GOAL: Duration = Duration::from_millis(10);

/// Prints all that was measured; what was filtered out is missing.
pub(crate) fn print(figures: &Figures, load: Load, costs: &[(Company, Cost)]) {
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    println!("\n{cores} cores; processor time throughout, medians, ns a value\n");
    calls(figures, "collect", [("call", ""), ("checked", "and check"), ("native", "natively")]);
    calls(figures, "observe", [("call", ""), ("judged", "and desk"), ("native", "natively")]);
    zscore(figures);
    rooms(figures);
    ticks(load, costs);
    parts(figures, load, costs);
}

/// A row for each number of values: the call, the call with what the host does
/// about it, the native function, and how many times more than that the call is.
fn calls(figures: &Figures, export: &str, columns: [(&str, &str); 3]) {
    let [call, whole, native] = columns.map(|(name, _)| name);
    let rows = VALUES.map(|values| {
        let cell = |name: &str| per_value(figures, &format!("{export}/{name}/{values}"), values);
        Some((values, cell(call)?, cell(whole)?, cell(native)?))
    });
    if rows.iter().all(Option::is_none) {
        return;
    }
    let [_, whole, native] = columns.map(|(_, title)| title);
    println!("{export:<10} {:>10} {whole:>10} {native:>10} {:>8}", "call", "ratio");
    for (values, call, whole, native) in rows.into_iter().flatten() {
        let ratio = call / native;
        println!("{values:>10} {call:>10.2} {whole:>10.2} {native:>10.2} {ratio:>7.1}x");
    }
    println!();
}

fn zscore(figures: &Figures) {
    for values in VALUES {
        if let Some(ns) = per_value(figures, &format!("observe/zscore/{values}"), values) {
            println!("{values:>10} {ns:>10.2}  zscore, from snapshot to judgement");
        }
    }
    println!();
}

fn rooms(figures: &Figures) {
    for (name, words) in [
        ("freeze/plugins/1", "frozen, in 1 answer"),
        ("freeze/plugins/1000", "frozen, in 1,000 answers"),
        ("encode/metrics", "encoded in a native metrics push"),
        ("judge/calm", "judged, all being calm"),
        ("judge/some", "judged, one in 100 having been odd lately"),
    ] {
        if let Some(ns) = per_value(figures, name, SERIES) {
            println!("{SERIES:>10} {ns:>10.2}  {words}");
        }
    }
    println!();
}

fn ticks(load: Load, costs: &[(Company, Cost)]) {
    let Load { collectors, series_each, ticks } = load;
    if costs.is_empty() {
        return;
    }
    println!("{collectors} collectors with {series_each} samples each, {ticks} ticks, in ms");
    println!(
        "{:<12} {:>8} {:>8} {:>13} {:>8} {:>6}",
        "", "median", "p90", "gather (wall)", "p90", "amiss"
    );
    for (company, Cost { processor, gather, amiss }) in costs {
        let [median, p90, gather, gather_p90] =
            [(processor, 50), (processor, 90), (gather, 50), (gather, 90)]
                .map(|(durations, percent)| millis(percentile(durations, percent)));
        println!(
            "{:<12} {median:>8.2} {p90:>8.2} {gather:>13.2} {gather_p90:>8.2} {amiss:>6}",
            company.name()
        );
    }
    println!();
}

/// What the tick alone is made of, going by the parts measured by themselves.
fn parts(figures: &Figures, load: Load, costs: &[(Company, Cost)]) {
    let alone = costs.iter().find(|(company, _)| *company == Company::Alone);
    let Some((_, Cost { processor, .. })) = alone else { return };
    let whole = millis(percentile(processor, 50));
    let verdict = if whole <= millis(GOAL) { "reached" } else { "missed" };
    println!("goal: {:.0} ms for the tick alone: {verdict}", millis(GOAL));
    let calls = figures.median_ns(&format!("collect/checked/{}", load.series_each));
    let freeze = figures.median_ns(&format!("freeze/plugins/{}", load.collectors));
    let (Some(call), Some(freeze)) = (calls, freeze) else { return };
    let calls = call * to_f64(load.collectors as u64) / 1e6;
    let freeze = freeze / 1e6;
    let rest = whole - calls - freeze;
    println!("{calls:>10.2} ms  calls and checks");
    println!("{freeze:>10.2} ms  freeze");
    println!("{rest:>10.2} ms  the rest: asking, waking tasks and threads, answering");
}

fn per_value(figures: &Figures, name: &str, values: u32) -> Option<f64> {
    figures.median_ns(name).map(|ns| ns / f64::from(values))
}

/// The smallest duration that so many percent do not exceed.
fn percentile(durations: &[Duration], percent: usize) -> Duration {
    let mut sorted = durations.to_vec();
    sorted.sort_unstable();
    let rank = (sorted.len() * percent).div_ceil(100);
    sorted.get(rank.saturating_sub(1)).copied().unwrap_or_default()
}

fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}
