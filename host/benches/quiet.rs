//! How quiet a detector is, and what it costs: a day of a thousand made-up
//! series at one value a second, through the component and the policy.
//!
//! `cargo bench --bench quiet -- novelty` takes a minute or so; after the name of
//! a bundled detector there may be how many series and how many ticks.

// A path, since a file that stands beside this one would be a benchmark itself.
#[path = "quiet/day.rs"]
mod day;

use std::time::Duration;

use day::Day;
use telltale::judge::Policy;
use telltale::plugin::Bundled;
use telltale::plugin::replay::{Component, CrowdCost, Replay, crowd, runtime};

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let measuring = arguments.iter().any(|argument| argument == "--bench");
    let words: Vec<&String> = arguments.iter().filter(|word| !word.starts_with('-')).collect();
    let number = |at: usize, usual: u64| {
        words.get(at).map_or(usual, |word| word.parse().expect("a number of series, of ticks"))
    };
    let (series, ticks) = if measuring { (1000, 86_400) } else { (40, 300) };
    let (series, ticks) = (number(1, series), number(2, ticks));
    let name = words.first().map_or("zscore", |word| word.as_str());
    let bundled = Bundled::named(name).expect("the name of a bundled detector");
    let cache = std::env::temp_dir().join(format!("telltale-quiet-{}", std::process::id()));
    let replay = Replay::open(Component::Bundled(bundled), None, &cache).expect("it is a detector");
    let day = Day {
        series: usize::try_from(series).expect("not that many"),
        constant: usize::try_from(series / 10).expect("not that many"),
        ticks,
        tick: Duration::from_secs(1),
    };
    let runtime = runtime().expect("the system gives a runtime");
    let told = runtime.block_on(day::show(&replay, &Policy::default(), day)).expect("it answers");
    let cost = runtime.block_on(crowd(&replay, || true)).expect("it answers");
    show(&replay, day, &told, &cost);
    // What was compiled for this alone.
    let _ = std::fs::remove_dir_all(cache);
}

#[expect(clippy::print_stdout, reason = "a benchmark says what it has measured")]
fn show(replay: &Replay, day: Day, told: &day::Told, cost: &CrowdCost) {
    let (name, version) = (replay.name(), replay.version());
    let Day { series, constant, ticks, .. } = day;
    println!("{name} {version}, {series} series and {constant} constant ones, {ticks} ticks");
    let hundreds_of_days = series as f64 / 100.0 * ticks as f64 / 86_400.0;
    let rate = told.all() as f64 / hundreds_of_days;
    println!("told            {} ({rate:.2} for 100 series a day)", told.all());
    for (shape, count) in &told.by_shape {
        println!("  {shape:<13} {count}");
    }
    println!("  constant      {}", told.constant);
    let (ns, crowd) = (told.ns_per_value, cost.ns_per_point);
    println!("a value         {ns:.0} ns here, {crowd:.0} ns in a crowd of {}", cost.series);
    println!("10,000 at 1 Hz  {:.2} % of a core", ns * 10_000.0 / 1e9 * 100.0);
    println!("a series        {:.0} bytes", cost.bytes_per_series);
}
