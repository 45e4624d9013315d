//! The commands.

mod backtest;
mod client;
mod detector;
mod load;
mod notify;
mod plugin;
mod publish;
mod serve;
mod token;

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::cache::Cache;
use crate::clock::Clock;
use crate::config::{Config, ConfigError};
use crate::notify::Receivers;

/// A mistake in the command line or the configuration, by sysexits.h.
const EXIT_USAGE: u8 = 64;
/// Something went wrong.
const EXIT_FAILURE: u8 = 1;
/// The same for whoever reads the help.
const EXIT_CODES: &str = "Exit codes: 0 all is well; 1 something went wrong, or a check failed; \
                          64 the command line or a file that it names asks for what can't be.";

/// A live metrics hub that is extended by dropping WebAssembly components into a folder.
///
/// `telltale serve` starts it with sensible defaults: this machine's metrics, a detector, and a
/// page at http://127.0.0.1:8765. Every key of the configuration file can also be set in the
/// environment: TELLTALE_TICK, TELLTALE_RETENTION_SIZE_MIB, and so on.
#[derive(Debug, Parser)]
#[command(name = "telltale", version, max_term_width = 100, after_help = EXIT_CODES)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the hub until it is told to stop (Ctrl-C, SIGTERM)
    Serve(serve::Serve),
    /// Write, build, try out, run and look after plugins
    #[command(subcommand, after_help = plugin::THE_WAY)]
    Plugin(plugin::PluginCommand),
    /// Compare detectors on live ticks, and let one take another's place
    #[command(subcommand, after_help = detector::THE_WAY)]
    Detector(detector::DetectorCommand),
    /// See what a detector would have told of what has been
    #[command(after_help = backtest::EXAMPLES)]
    Backtest(backtest::Backtest),
    /// Tell the running hub's clients that something has happened
    #[command(after_help = publish::EXAMPLES)]
    Publish(publish::Publish),
    /// See and look after what other systems are told of findings
    #[command(subcommand, after_help = notify::EXAMPLES)]
    Notify(notify::NotifyCommand),
    /// Connect many clients to the running hub, and measure what comes of it
    Load(load::Load),
    /// Issue a token for development
    Token(token::Token),
    /// What concerns the configuration
    #[command(subcommand)]
    Config(ConfigCommand),
}

#[derive(Debug, Subcommand)]
enum ConfigCommand {
    /// Read the configuration as `serve` would, and say what is wrong with it
    Check {
        /// The configuration file
        #[arg(long, value_name = "FILE", env = "TELLTALE_CONFIG")]
        config: Option<PathBuf>,
    },
}

/// Why a command failed, in one line.
#[derive(Debug)]
struct Failure {
    words: String,
    exit: u8,
}

impl Failure {
    fn usage(words: impl ToString) -> Self {
        Self { words: words.to_string(), exit: EXIT_USAGE }
    }

    fn new(words: impl ToString) -> Self {
        Self { words: words.to_string(), exit: EXIT_FAILURE }
    }
}

/// Runs the command that the command line names; `serve` where it names none.
#[must_use]
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(answer) => {
            // Help and version are answers, all else is a mistake.
            let _ = answer.print();
            return ExitCode::from(if answer.use_stderr() { EXIT_USAGE } else { 0 });
        }
    };
    let done = match cli.command {
        None => serve::Serve::default().run(),
        Some(Command::Serve(serve)) => serve.run(),
        Some(Command::Plugin(command)) => command.run(),
        Some(Command::Detector(command)) => command.run(),
        Some(Command::Backtest(backtest)) => backtest.run(),
        Some(Command::Publish(publish)) => publish.run(),
        Some(Command::Notify(command)) => command.run(),
        Some(Command::Load(load)) => load.run(),
        Some(Command::Token(token)) => token.run(),
        Some(Command::Config(ConfigCommand::Check { config })) => check(config),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure { words, exit }) => {
            tell(&format!("telltale: {words}"));
            ExitCode::from(exit)
        }
    }
}

fn check(file: Option<PathBuf>) -> Result<(), Failure> {
    let config = load(file.as_ref())?;
    config.check().map_err(Failure::usage)?;
    Cache::check(&config.cache).map_err(Failure::usage)?;
    Receivers::open(&config.notify, &Clock::system()).map_err(Failure::usage)?;
    let from =
        file.map_or("defaults and environment".to_owned(), |file| file.display().to_string());
    print(&format!("{from}: in order"));
    Ok(())
}

/// The configuration file and the environment. A file that is not named is
/// `telltale.toml` in the working folder, if there is one.
fn load(file: Option<&PathBuf>) -> Result<Config, Failure> {
    let usual = PathBuf::from("telltale.toml");
    let file = file.or_else(|| usual.exists().then_some(&usual));
    let environment = std::env::vars().filter(|(name, _)| name != "TELLTALE_CONFIG");
    Config::load(file.map(PathBuf::as_path), environment)
        .map_err(|error: ConfigError| Failure::usage(error))
}

/// Answers on standard output. Whoever has heard enough, as `head` has, closes
/// it; then there is nobody to answer.
fn print(text: &str) {
    let _ = writeln!(std::io::stdout(), "{text}");
}

/// Says on standard error what is no answer.
fn tell(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}
