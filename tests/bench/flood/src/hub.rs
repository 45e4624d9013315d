//! The hub that is measured, and what measures it: `telltale load`, in processes
//! of their own, so that what the flood costs this one is not in the figures.

use std::error::Error;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

/// How long the hub may take to be ready: plugins are compiled meanwhile.
const READY_MAX: Duration = Duration::from_secs(120);
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// How long a question may take.
const ANSWER_MAX: Duration = Duration::from_secs(10);
/// What of the hub's own numbers tells what it did against the flood.
const COUNTERS: [&str; 5] =
    ["handshakes_dropped", "too_late", "refused", "throttled", "not_understood"];

/// A hub with its default plugins, in a folder of its own.
pub(crate) struct Hub {
    program: PathBuf,
    child: Child,
    address: SocketAddr,
    _folder: TempDir,
}

/// What is asked of `telltale load`.
#[derive(Clone, Copy)]
pub(crate) struct Measurement {
    pub(crate) clients: u32,
    pub(crate) duration: Duration,
}

/// What came of it.
pub(crate) struct Figures {
    pub(crate) p50_ms: f64,
    pub(crate) p99_ms: f64,
    pub(crate) max_ms: f64,
    pub(crate) missing: u64,
    pub(crate) cpu_percent: f64,
}

impl Hub {
    pub(crate) fn start(program: Option<PathBuf>, tick: Duration) -> Result<Self, Box<dyn Error>> {
        let beside =
            || Ok::<_, std::io::Error>(std::env::current_exe()?.with_file_name("telltale"));
        let program = program.map_or_else(beside, Ok)?;
        let folder = tempfile::tempdir()?;
        let data = folder.path().join("data");
        let child = Command::new(&program)
            .args(["serve", "--listen", "127.0.0.1:0", "--log-level", "error", "--tick"])
            .arg(format!("{}ms", tick.as_millis()))
            .arg("--data")
            .arg(&data)
            .current_dir(folder.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .map_err(|error| format!("{}: {error}: build it first", program.display()))?;
        let address = SocketAddr::from(([127, 0, 0, 1], 0));
        let mut hub = Self { program, child, address, _folder: folder };
        let start = Instant::now();
        loop {
            let file = std::fs::read_to_string(data.join("hub.json")).unwrap_or_default();
            let file: Value = serde_json::from_str(&file).unwrap_or_default();
            if let Some(address) = file["addresses"][0].as_str() {
                hub.address = address.parse()?;
                if hub.get("/readyz").is_ok_and(|answer| answer["status"] == "ready") {
                    return Ok(hub);
                }
            }
            if start.elapsed() > READY_MAX || hub.child.try_wait()?.is_some() {
                return Err("the hub was not ready in time".into());
            }
            std::thread::sleep(LOOK_EVERY);
        }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Connects clients that behave, and measures.
    pub(crate) fn measure(&self, measurement: &Measurement) -> Result<Figures, Box<dyn Error>> {
        let output = Command::new(&self.program)
            .arg("load")
            .arg(self.address.to_string())
            .args(["--pid", &self.child.id().to_string(), "--json", "--clients"])
            .arg(measurement.clients.to_string())
            .args(["--for", &format!("{}ms", measurement.duration.as_millis())])
            .stderr(Stdio::inherit())
            .output()?;
        let report: Value = serde_json::from_slice(&output.stdout)
            .map_err(|error| format!("`telltale load` has told no figures: {error}"))?;
        if report["clients"]["connected"] != report["clients"]["asked"] {
            return Err(format!("not all clients got in: {}", report["connecting"]).into());
        }
        let ms = |key: &str| report["latency"][key].as_f64().unwrap_or(f64::NAN) / 1e3;
        let cpu_ms = report["server"]["cpu_ms"].as_f64().unwrap_or(f64::NAN);
        let window_s = report["window_s"].as_f64().unwrap_or(f64::NAN);
        Ok(Figures {
            p50_ms: ms("p50_us"),
            p99_ms: ms("p99_us"),
            max_ms: ms("max_us"),
            missing: report["missing"].as_u64().unwrap_or(u64::MAX),
            cpu_percent: cpu_ms / window_s / 10.0,
        })
    }

    /// What the hub has counted, in words.
    pub(crate) fn counts(&self) -> String {
        let series = self.get("/v1/series?plugin=telltale").unwrap_or_default();
        let count = |counter: &str| {
            let name = format!("telltale.session.{counter}");
            let list = series["series"].as_array()?;
            let id = &list.iter().find(|series| series["name"] == *name)?["id"];
            let found = self.get(&format!("/v1/history?series={id}&raw=true")).ok()?;
            let value = found["points"].as_array()?.last()?[1].as_f64()?;
            Some(format!("{counter} {value:.0}"))
        };
        COUNTERS.iter().filter_map(|counter| count(counter)).collect::<Vec<_>>().join(", ")
    }

    fn get(&self, path: &str) -> Result<Value, Box<dyn Error>> {
        let mut stream = TcpStream::connect_timeout(&self.address, ANSWER_MAX)?;
        stream.set_read_timeout(Some(ANSWER_MAX))?;
        let request =
            format!("GET {path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n", self.address);
        stream.write_all(request.as_bytes())?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        let (_, body) = text.split_once("\r\n\r\n").ok_or("no answer")?;
        Ok(serde_json::from_str(body)?)
    }
}

impl Drop for Hub {
    fn drop(&mut self) {
        // An error means that it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
