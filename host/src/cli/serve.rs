//! `telltale serve`

use std::io::IsTerminal;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::{Args, ValueEnum};
use tokio::runtime::Runtime;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tracing::Level;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

use super::{Failure, load, print, tell};
use crate::app::{Hub, StartError};
use crate::config::Config;
use crate::plugin::{PluginState, Progress};
use crate::snapshot::Snapshot;

/// How long the start waits for plugins before it shows what there is.
const START_SHOWN_AFTER: Duration = Duration::from_secs(60);
/// Bytes of a stored sample, as measured: its place in the index included.
const SAMPLE_BYTES: f64 = 25.0;

/// Open files beside the connections': databases, plugins, what they open.
const FILES_KEPT: u64 = 512;

#[derive(Debug, Default, Args)]
pub(super) struct Serve {
    /// The configuration file [default: telltale.toml, if there is one]
    #[arg(long, value_name = "FILE", env = "TELLTALE_CONFIG")]
    config: Option<PathBuf>,
    /// Where to listen, such as 127.0.0.1:8765; may be given several times. Port 0 takes a free one
    #[arg(long, value_name = "ADDR")]
    listen: Vec<SocketAddr>,
    /// How long a tick is, such as 500ms or 5s [default: 1s]
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    tick: Option<Duration>,
    /// Where database, compile cache and plugin states go [default: telltale-data]
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// The plugins folder; made with the default plugins if it is missing [default: plugins in the data folder]
    #[arg(long, value_name = "DIR")]
    plugins: Option<PathBuf>,
    /// How many threads serve clients [default: the number of processors]
    #[arg(long, value_name = "N")]
    workers: Option<usize>,
    /// How log lines are written
    #[arg(long, value_enum, default_value_t)]
    log_format: LogFormat,
    /// The least level of log lines
    #[arg(long, value_name = "LEVEL", default_value_t)]
    log_level: LogLevel,
}

#[derive(Clone, Copy, Debug, Default, ValueEnum)]
enum LogFormat {
    #[default]
    Text,
    Json,
}

#[derive(Clone, Copy, Debug)]
struct LogLevel(Level);

impl Default for LogLevel {
    fn default() -> Self {
        Self(Level::INFO)
    }
}

impl std::str::FromStr for LogLevel {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.parse().map(Self).map_err(|_| "a level is error, warn, info, debug or trace")
    }
}

impl std::fmt::Display for LogLevel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0.as_str().to_ascii_lowercase())
    }
}

impl Serve {
    pub(super) fn run(self) -> Result<(), Failure> {
        let config = self.config()?;
        config.check().map_err(Failure::usage)?;
        init_log(self.log_format, self.log_level.0);
        let files_max = raise_open_files();
        let runtime = runtime(config.workers).map_err(Failure::new)?;
        let served = runtime.block_on(serve(config, files_max));
        // What still blocks a thread has had its time.
        runtime.shutdown_background();
        served
    }

    /// File and environment, then the flags.
    fn config(&self) -> Result<Config, Failure> {
        let mut config = load(self.config.as_ref())?;
        if !self.listen.is_empty() {
            config.listen.clone_from(&self.listen);
        }
        if let Some(tick) = self.tick {
            config.tick = tick;
        }
        if let Some(data) = &self.data {
            config.data.clone_from(data);
        }
        if self.plugins.is_some() {
            config.plugins.clone_from(&self.plugins);
        }
        if self.workers.is_some() {
            config.workers = self.workers;
        }
        Ok(config)
    }
}

/// The threads that serve clients; plugins have others.
fn runtime(workers: Option<usize>) -> std::io::Result<Runtime> {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    if let Some(workers) = workers {
        builder.worker_threads(workers);
    }
    builder.enable_all().build()
}

async fn serve(config: Config, files_max: Option<u64>) -> Result<(), Failure> {
    let failed = |error: StartError| match error {
        StartError::Config(_) | StartError::Access(_) => Failure::usage(error),
        _ => Failure::new(error),
    };
    let mut signals = Signals::new().map_err(Failure::new)?;
    let hub = Hub::start(config.clone()).await.map_err(failed)?;
    let stopped_early = tokio::select! {
        () = signals.next() => true,
        () = first_tick(&hub) => false,
    };
    if !stopped_early {
        welcome(&hub, &config, files_max);
        signals.next().await;
    }
    tell("telltale: stopping; once more to stop at once");
    tokio::select! {
        () = hub.stop() => Ok(()),
        () = signals.next() => Err(Failure::new("stopped at once")),
    }
}

/// The signals that stop the hub.
struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    fn new() -> std::io::Result<Self> {
        let interrupt = signal(SignalKind::interrupt())?;
        Ok(Self { interrupt, terminate: signal(SignalKind::terminate())? })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}

/// Shows how the loading of plugins gets on, until all have been in a tick.
async fn first_tick(hub: &Hub) {
    let mut progress = hub.progress();
    let mut shown = None;
    let loading = async {
        loop {
            let now: Progress = progress.borrow_and_update().clone();
            if now.is_over() {
                break;
            }
            if let Some(plugin) = now.compiling.filter(|plugin| shown.as_ref() != Some(plugin)) {
                let of = now.total.map_or_else(String::new, |total| format!(" of {total}"));
                tell(&format!("telltale: loading {plugin} ({}{of})", now.done + 1));
                shown = Some(plugin);
            }
            if progress.changed().await.is_err() {
                break;
            }
        }
        // Asked at the next tick, a plugin is in its snapshot.
        let mut snapshot = hub.snapshot();
        let loaded_at = snapshot.borrow_and_update().tick.number;
        let _ = snapshot.wait_for(|now| now.tick.number > loaded_at + 1).await;
    };
    if tokio::time::timeout(START_SHOWN_AFTER, loading).await.is_err() {
        tell("telltale: some plugins are still being compiled");
    }
}

/// Says where the hub is, and what it has.
fn welcome(hub: &Hub, config: &Config, files_max: Option<u64>) {
    for address in hub.addresses() {
        let scheme = if config.tls.certificate_file.is_some() { "https" } else { "http" };
        print(&format!("dashboard  {scheme}://{address}/"));
    }
    print(&format!("data       {}", config.data.display()));
    let folder = config.plugins_folder();
    print(&format!("plugins    {}", folder.display()));
    for plugin in hub.statuses().list() {
        let about = match (plugin.state, &plugin.reason) {
            (PluginState::Running, _) => match plugin.role {
                Some(crate::plugin::PluginRole::Detector) => {
                    format!("watches {} series", plugin.series)
                }
                _ => format!("{} series", plugin.series),
            },
            (_, Some(reason)) => reason.clone(),
            (state, None) => format!("{state:?}").to_lowercase(),
        };
        print(&format!("  {:<12} {about}", plugin.name));
    }
    print(&format!("history    {}", history(hub, config)));
    if let Some(files) = files_max {
        print(&format!("files      {files} may be open at once"));
        let limits = &config.limits;
        let wanted = limits.connections as u64 + limits.handshakes as u64 + FILES_KEPT;
        if files < wanted {
            tell(&format!(
                "telltale: {files} open files are too few for limits.connections = {} and \
                 limits.handshakes = {}, which need {wanted}: lower these, or raise the limit \
                 (LimitNOFILE, ulimit -Hn)",
                limits.connections, limits.handshakes
            ));
        }
    }
}

/// How far back the history will reach.
fn history(hub: &Hub, config: &Config) -> String {
    let age = humantime::format_duration(config.retention.age);
    let by_size = hub.reach().unwrap_or_else(|| reach_by_rate(&hub.snapshot().borrow(), config));
    format!(
        "{age} or {} MiB, which reach back about {}",
        config.retention.size_mib,
        humantime::format_duration(Duration::from_secs(by_size.as_secs() / 3600 * 3600))
    )
}

/// How far the size limit reaches at the rate of the series that are alive.
#[expect(clippy::cast_precision_loss, reason = "an estimate")]
fn reach_by_rate(snapshot: &Arc<Snapshot>, config: &Config) -> Duration {
    let per_second = |interval_ns: u64| 1e9 / (interval_ns.max(1) as f64);
    let rate: f64 = snapshot.roster.series.iter().map(|s| per_second(s.interval_ns)).sum();
    let seconds = config.retention.size_mib as f64 * 1_048_576.0 / (SAMPLE_BYTES * rate.max(0.1));
    Duration::from_secs_f64(seconds.min(1e9))
}

/// Log lines go to standard error, so that standard output is for answers.
fn init_log(format: LogFormat, level: Level) {
    let ours = Targets::new()
        .with_target("telltale", level)
        // It warns of a guest's mistakes, as often as the guest makes them.
        .with_target("wasmtime_wasi_http", Level::ERROR)
        .with_default(Level::WARN);
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    let registry = tracing_subscriber::registry().with(ours);
    match format {
        LogFormat::Text => {
            registry
                .with(lines.with_ansi(std::io::stderr().is_terminal()).with_target(false))
                .init();
        }
        LogFormat::Json => registry.with(lines.json()).init(),
    }
}

/// Raises the limit of open files to what the system allows; that limit, if
/// there is one.
pub(super) fn raise_open_files() -> Option<u64> {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    match setrlimit(Resource::Nofile, raised) {
        Ok(()) => limit.maximum,
        Err(_) => limit.current,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_many_threads_serve_clients_as_were_asked_for() {
        assert_eq!(runtime(Some(3)).unwrap().metrics().num_workers(), 3);
        assert!(runtime(None).unwrap().metrics().num_workers() >= 1);
    }
}
