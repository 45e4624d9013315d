//! Starts a hub, measures what its clients get of it, and again while others do
//! to it what they can: thousands of connections that say nothing, clients that
//! send garbage, and one that takes a second for each byte. See docs/load.md.
#![expect(clippy::print_stdout, reason = "it is a command")]

mod flood;
mod hub;

use std::error::Error;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use flood::{Done, Flood};
use hub::{Figures, Hub, Measurement};

/// Open files beside the connections'.
const FILES_KEPT: u64 = 64;
/// How much of the flood has to stand before it is measured in.
const RISE_MAX: Duration = Duration::from_secs(30);

#[derive(Debug, Parser)]
#[command(about, version)]
struct Arguments {
    /// The program [default: `telltale` beside this one]
    #[arg(long)]
    hub: Option<PathBuf>,
    /// Clients that behave, and are measured
    #[arg(long, default_value_t = 100)]
    clients: u32,
    /// Connections that say nothing, or begin a request and don't end it
    #[arg(long, default_value_t = 10_000)]
    half_open: usize,
    /// Clients that send garbage, one message a second each
    #[arg(long, default_value_t = 1000)]
    garbage: usize,
    /// Of what the hub cuts off, so many a second come again, of each sort
    #[arg(long, default_value_t = 500)]
    again: u32,
    /// How long each measurement is
    #[arg(long = "for", default_value = "15s", value_parser = humantime::parse_duration)]
    duration: Duration,
    /// How long a tick of the hub is
    #[arg(long, default_value = "100ms", value_parser = humantime::parse_duration)]
    tick: Duration,
    /// How often it is measured without and with the flood, in turns
    #[arg(long, default_value_t = 3)]
    repeat: usize,
}

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("telltale-flood: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<(), Box<dyn Error>> {
    room_for(arguments.half_open + arguments.garbage)?;
    let hub = Hub::start(arguments.hub.clone(), arguments.tick)?;
    let measurement = Measurement { clients: arguments.clients, duration: arguments.duration };
    // The first clients pay for what is made once.
    hub.measure(&Measurement { duration: Duration::from_secs(2), ..measurement })?;
    println!("| turn | flood | p50 ms | p99 ms | max ms | missing | hub's processor |");
    println!("| --- | --- | --- | --- | --- | --- | --- |");
    let mut ratios = Vec::new();
    let mut done = Done::default();
    for turn in 1..=arguments.repeat.max(1) {
        let quiet = hub.measure(&measurement)?;
        show(turn, "no", &quiet);
        let flood =
            Flood::begin(hub.address(), arguments.half_open, arguments.garbage, arguments.again)?;
        flood.has_risen(RISE_MAX)?;
        let flooded = hub.measure(&measurement);
        done = done.and(&flood.end());
        let flooded = flooded?;
        show(turn, "yes", &flooded);
        ratios.push(flooded.p99_ms / quiet.p99_ms);
    }
    ratios.sort_by(f64::total_cmp);
    println!();
    println!(
        "p99 with the flood by p99 without: median {:.2} of {:.2?} (goal: less than 1.10)",
        ratios[ratios.len() / 2],
        ratios
    );
    println!(
        "the flood: {} connections, {} of them cut off or refused by the hub, {} that found none; \
         {} messages of garbage, {} single bytes",
        done.connected, done.ended, done.failed, done.garbage, done.bytes
    );
    println!("the hub's own count: {}", hub.counts());
    Ok(())
}

fn show(turn: usize, flood: &str, figures: &Figures) {
    let Figures { p50_ms, p99_ms, max_ms, missing, cpu_percent } = figures;
    println!(
        "| {turn} | {flood} | {p50_ms:.2} | {p99_ms:.2} | {max_ms:.2} | {missing} | \
         {cpu_percent:.0} % |"
    );
}

/// Raises the limit of open files, and says so where it is too low.
fn room_for(connections: usize) -> Result<(), String> {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    let files = match setrlimit(Resource::Nofile, raised) {
        Ok(()) => limit.maximum,
        Err(_) => limit.current,
    };
    match files {
        Some(files) if (connections as u64) + FILES_KEPT > files => Err(format!(
            "{connections} connections are more than the limit of open files allows, {files}: ask \
             for fewer with --half-open, or raise the hard limit (ulimit -Hn)"
        )),
        _ => Ok(()),
    }
}
