//! The hub: its folder, its plugins, and how many series make an update of the
//! size that is asked for.
//!
//! An update takes the whole way: a collector's values, all of which change at
//! each tick, a snapshot, a frame.

use std::fs;
use std::io::{self, BufRead, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::client::{Client, Target, Wire};
use crate::frame;
use crate::load::Load;
use crate::measure;
use crate::process::Process;
use crate::tls::Tls;

pub(crate) const STREAM: Wire = Wire::WebSocket("/v1/stream");

/// A tick while the size of an update is found out: the shortest there is.
const CALIBRATE_TICK: Duration = Duration::from_millis(50);
/// More than a plugin's probation lasts.
const PROBATION_TICKS: usize = 40;
/// Bytes of an update without series.
const FRAME_BYTES: usize = 80;
/// About the bytes that a series takes in it: `[101,142.0],`.
const ROW_BYTES: usize = 12;
/// By how much the size of an update may be another than what is asked for.
const SIZE_TOLERANCE: f64 = 0.1;
/// More than any run has.
const CONNECTIONS: usize = 100_000;

/// A program that is a hub, and a folder for it.
pub(crate) struct Hub {
    program: PathBuf,
    folder: PathBuf,
    /// How many series each of the collectors has.
    series: usize,
    /// Whether it can be told how many workers to have.
    takes_workers: bool,
}

impl Hub {
    /// In a folder that is there.
    pub(crate) fn new(program: &Path, folder: &Path) -> Self {
        // What isn't there is said when it is started.
        let program = program.canonicalize().unwrap_or_else(|_| program.to_owned());
        let mut hub = Self { program, folder: folder.to_owned(), series: 0, takes_workers: false };
        hub.takes_workers =
            hub.configure("workers = 1\n").is_ok_and(|()| hub.check_configuration().is_ok());
        hub
    }

    /// What it says of itself.
    pub(crate) fn version(&self) -> Option<String> {
        let said = self.command().arg("--version").output().ok()?;
        Some(String::from_utf8_lossy(&said.stdout).trim().to_owned())
    }

    /// Whether its workers are as many as it is told, or as it has cores.
    pub(crate) fn takes_workers(&self) -> bool {
        self.takes_workers
    }

    /// Finds out how many series make an update of the size that is asked for,
    /// and says what size they make of it.
    pub(crate) fn calibrate(&mut self, load: &Load) -> io::Result<usize> {
        let room = load.bytes.saturating_sub(FRAME_BYTES);
        self.series = (room / ROW_BYTES).max(1);
        let took = self.update_size(load)?.saturating_sub(FRAME_BYTES).max(1);
        self.series = (self.series * room / took).max(1);
        let size = self.update_size(load)?;
        let off = size as f64 / load.bytes as f64 - 1.0;
        if off.abs() > SIZE_TOLERANCE {
            return Err(io::Error::other(format!(
                "an update has {size} bytes with {} series, and not about {}",
                self.series, load.bytes
            )));
        }
        Ok(size)
    }

    /// The mean size of a tick's updates. The collectors' values grow with the
    /// ticks, so it waits until they have the digits that they have while they
    /// are measured.
    fn update_size(&self, load: &Load) -> io::Result<usize> {
        let ticks = (measure::ticks_before(load) as usize).max(PROBATION_TICKS);
        let load = &Load { interval: CALIBRATE_TICK, ..*load };
        let (_process, address) = self.start(load, 1, None)?;
        let mut client = Client::connect(&Target { address, wire: STREAM, tls: None })?;
        client.send(&self.subscriptions(load))?;
        let count = load.workload.updates();
        for _ in 0..count * ticks {
            client.hear(br#"{"push":"metrics""#)?;
        }
        let mut bytes = 0;
        for _ in 0..count {
            bytes += client.hear(br#"{"push":"metrics""#)?.len();
        }
        Ok(bytes / count)
    }

    /// The commands of one client, as frames: a subscription for each of the
    /// updates.
    pub(crate) fn subscriptions(&self, load: &Load) -> Vec<u8> {
        let subscribe = |plugin: String| {
            let command = format!(
                r#"{{"id":1,"op":"subscribe","channel":"metrics","filter":{{"plugin":"{plugin}"}}}}"#
            );
            frame::from_client(frame::TEXT, command.as_bytes())
        };
        plugins(load).flat_map(subscribe).collect()
    }

    /// Starts it on `workers` cores, and waits until its plugins run.
    pub(crate) fn start(
        &self,
        load: &Load,
        workers: usize,
        tls: Option<&Tls>,
    ) -> io::Result<(Process, SocketAddr)> {
        self.tidy()?;
        self.furnish(load)?;
        let mut text = String::new();
        if self.takes_workers {
            text += &format!("workers = {workers}\n");
        }
        text += &format!("[limits]\nconnections = {CONNECTIONS}\n");
        if let Some(tls) = tls {
            let Tls { certificate, key, .. } = tls;
            text += &format!("[tls]\ncertificate_file = {certificate:?}\nkey_file = {key:?}\n");
        }
        self.configure(&text)?;
        self.check_configuration()?;
        let mut command = self.command();
        command.args(["serve", "--listen", "127.0.0.1:0", "--log-level", "warn"]);
        command.arg("--tick").arg(format!("{}ms", load.interval.as_millis()));
        command.arg("--config").arg(self.configuration());
        command.arg("--data").arg(self.data()).arg("--plugins").arg(self.plugins_folder());
        let cores = if workers == 1 { "0" } else { "0,1" };
        let mut process = Process::start(&command, cores, &self.errors())?;
        let address = self.address(&mut process)?;
        Ok((process, address))
    }

    /// Where it writes what it complains of.
    pub(crate) fn errors(&self) -> PathBuf {
        self.folder.join("hub.err")
    }

    /// It tells its address after the first tick.
    fn address(&self, process: &mut Process) -> io::Result<SocketAddr> {
        let silent = || {
            let said = fs::read_to_string(self.errors()).unwrap_or_default();
            io::Error::other(format!("the hub does not start: {}", said.trim()))
        };
        let output = process.child().stdout.as_mut().ok_or_else(silent)?;
        for line in BufReader::new(output).lines() {
            if let Some((_, address)) = line?.split_once("://") {
                return address.trim_end_matches('/').parse().map_err(io::Error::other);
            }
        }
        Err(silent())
    }

    /// Takes away the databases of an earlier run. The compile cache stays, and
    /// so does what says that the plugins have passed their probation: the memory
    /// of either would hide the clients'.
    fn tidy(&self) -> io::Result<()> {
        fs::create_dir_all(self.data())?;
        for entry in fs::read_dir(self.data())? {
            let entry = entry?;
            if entry.file_type()?.is_file() {
                fs::remove_file(entry.path())?;
            }
        }
        Ok(())
    }

    /// A collector for each of the updates.
    fn furnish(&self, load: &Load) -> io::Result<()> {
        let (folder, guest) = (self.plugins_folder(), self.guest()?);
        fs::create_dir_all(&folder)?;
        for name in plugins(load) {
            let settings = format!("[config]\nseries = {}\n", self.series);
            fs::write(folder.join(format!("{name}.toml")), settings)?;
            fs::copy(&guest, folder.join(format!("{name}.wasm")))?;
        }
        Ok(())
    }

    /// The collector of the tests, which host/build.rs builds beside the hub.
    fn guest(&self) -> io::Result<PathBuf> {
        const GUEST: &str = "telltale-plugins/wasm32-wasip2/plugin/guest_collector.wasm";
        let from = self.program.ancestors().chain(crate::home().ancestors());
        let places = from.flat_map(|at| [at.join(GUEST), at.join("target").join(GUEST)]);
        places.into_iter().find(|path| path.exists()).ok_or_else(|| {
            io::Error::other(format!("no {GUEST} beside {}: build the hub", self.program.display()))
        })
    }

    fn check_configuration(&self) -> io::Result<()> {
        let mut command = self.command();
        command.args(["config", "check", "--config"]).arg(self.configuration());
        let output = command.output().map_err(|error| {
            io::Error::other(format!("{}: {error}: build the hub", self.program.display()))
        })?;
        if output.status.success() {
            return Ok(());
        }
        let words = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        Err(io::Error::other(format!("this hub can't be configured so: {words}")))
    }

    fn configure(&self, text: &str) -> io::Result<()> {
        fs::write(self.configuration(), text)
    }

    /// Nothing in the environment has a say.
    fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("TELLTALE_")) {
            command.env_remove(name);
        }
        command
    }

    fn configuration(&self) -> PathBuf {
        self.folder.join("telltale.toml")
    }

    fn data(&self) -> PathBuf {
        self.folder.join("data")
    }

    fn plugins_folder(&self) -> PathBuf {
        self.folder.join("plugins")
    }
}

/// What the collectors are called.
fn plugins(load: &Load) -> impl Iterator<Item = String> + use<> {
    (0..load.workload.updates()).map(|number| format!("fanout{number:02}"))
}
