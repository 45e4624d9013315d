//! What a server pays for each WebSocket message that it delivers: the hub, a
//! bare loop of `send`, and what else people broadcast with, on the same load
//! in the same run. README.md tells how, and what the figures don't say.

mod client;
mod floor;
mod frame;
mod hub;
mod load;
mod measure;
mod nats;
mod process;
mod server;
mod table;
mod tally;
mod tls;

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, Subcommand, ValueEnum};

use crate::load::{Load, Workload};
use crate::measure::{Figures, measure};
use crate::server::{Kind, Yard};

/// Measures what the hub costs for each message that it delivers, beside other servers.
#[derive(Debug, Parser)]
#[command(name = "telltale-fanout", max_term_width = 100, args_conflicts_with_subcommands = true)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    options: Options,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// One of the servers: the bare loop
    #[command(hide = true)]
    Floor { port: u16, plan: PathBuf, threads: usize },
}

#[derive(Debug, clap::Args)]
struct Options {
    /// How many clients there are [default: 1000; coalesced: 200]
    #[arg(long)]
    clients: Option<usize>,
    /// Ticks in the window that is measured [default: 30; from 3000 clients on 10]
    #[arg(long)]
    ticks: Option<u32>,
    /// Milliseconds from one tick to the next [default: 250; from 3000 clients on 1000]
    #[arg(long, value_name = "MS", value_parser = clap::value_parser!(u64).range(50..=60_000))]
    interval: Option<u64>,
    /// How often each server has its turn
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=100))]
    repeat: u16,
    /// Which servers, in the order of the table [default: all]
    #[arg(long, value_enum, value_delimiter = ',')]
    servers: Vec<Kind>,
    /// What is sent at each tick
    #[arg(long, value_enum, default_value_t)]
    workload: Workload,
    /// The hub's program
    #[arg(long, value_name = "PATH", default_value = "target/release/telltale")]
    hub: PathBuf,
}

/// What came of one kind of server.
struct Entry {
    kind: Kind,
    /// One for each turn that it had; none where it came to nothing.
    turns: Vec<Option<Figures>>,
    /// Why the last of these did.
    trouble: Option<String>,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let done = match cli.command {
        Some(Command::Floor { port, plan, threads }) => floor::run(port, &plan, threads),
        None => compare(&cli.options),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tell(&format!("telltale-fanout: {error}"));
            ExitCode::FAILURE
        }
    }
}

fn compare(options: &Options) -> io::Result<()> {
    process::pin_self()?;
    let kinds = match &*options.servers {
        [] => Kind::value_variants().to_vec(),
        named => named.to_vec(),
    };
    let mut load = loaded(options);
    let mut yard = Yard::new(&options.hub)?;
    if kinds.iter().any(|kind| kind.is_hub()) {
        let size = yard.hub.calibrate(&load)?;
        tell(&format!("the hub's update has {size} bytes of JSON: so has everybody's"));
        load.bytes = size;
    }
    yard.plan(&load)?;
    let before = process::load_average();
    let mut entries: Vec<_> =
        kinds.iter().map(|kind| Entry { kind: *kind, turns: vec![], trouble: None }).collect();
    for turn in 1..=options.repeat {
        for entry in &mut entries {
            take_turn(entry, &mut yard, &load, turn);
        }
    }
    let machine = format!("load average {before} before, {} after", process::load_average());
    let text = table::render(&entries, &load, &yard, &machine);
    io::stdout().lock().write_all(text.as_bytes())
}

fn loaded(options: &Options) -> Load {
    let workload = options.workload;
    let clients = options.clients.unwrap_or(match workload {
        Workload::Single => 1000,
        Workload::Coalesced => 200,
    });
    // From here on a tick takes the slower servers longer than the short interval.
    let many = clients >= 3000;
    Load {
        workload,
        clients,
        bytes: workload.bytes(),
        interval: Duration::from_millis(options.interval.unwrap_or(if many { 1000 } else { 250 })),
        ticks: options.ticks.unwrap_or(if many { 10 } else { 30 }).max(1),
    }
}

fn take_turn(entry: &mut Entry, yard: &mut Yard, load: &Load, turn: u16) {
    let name = entry.kind.name();
    let figures = yard.start(entry.kind, load).and_then(|mut server| {
        measure(&mut server, load).map_err(|error| match server.last_words() {
            Some(words) => io::Error::other(format!("{error}; its last words: {words}")),
            None => error,
        })
    });
    match figures {
        Ok(figures) => {
            tell(&format!("{turn} {name:<16} {figures}"));
            entry.turns.push(Some(figures));
        }
        Err(error) => {
            tell(&format!("{turn} {name:<16} nothing: {error}"));
            entry.trouble = Some(error.to_string());
            entry.turns.push(None);
        }
    }
}

/// Where `setup.sh` has put the servers.
fn tools() -> PathBuf {
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or("target".into(), PathBuf::from);
    target.join("tools/bench")
}

/// Where this crate is, and with it the servers' scripts.
fn home() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Says on standard error how far it is; standard output has the table only.
fn tell(words: &str) {
    // Nobody who has closed it wants to know.
    let _ = writeln!(io::stderr(), "{words}");
}
