//! The servers that are compared: how each is started, spoken to and told to
//! begin.

use std::fs;
use std::io::{self, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use clap::ValueEnum;
use tempfile::TempDir;

use crate::client::{Crowd, Target, Wire};
use crate::hub::{self, Hub};
use crate::load::Load;
use crate::nats::Publisher;
use crate::process::Process;
use crate::tls::Tls;
use crate::{home, tools};

/// How long a server may take until it listens.
const START_LIMIT: Duration = Duration::from_secs(60);
/// How often it is tried.
const TRY_EVERY: Duration = Duration::from_millis(20);

/// A server that is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Kind {
    /// A bare loop of `send` on one core
    Floor,
    /// The hub with one worker on one core
    Hub,
    /// The same with TLS
    HubTls,
    /// The bare loop with a thread on each of two cores
    #[value(name = "floor-2")]
    Floor2,
    /// The hub with two workers on two cores
    #[value(name = "hub-2")]
    Hub2,
    /// Python's websockets, `broadcast`
    Websockets,
    /// FastAPI on uvicorn, `send_text` to each
    Fastapi,
    /// python-socketio on uvicorn, `emit`
    PythonSocketio,
    /// ws on Node, `send` to each
    NodeWs,
    /// Socket.IO on Node, `emit`
    NodeSocketio,
    /// nats-server, subscribers over WebSocket
    Nats,
}

impl Kind {
    /// As on the command line.
    pub(crate) fn name(self) -> String {
        self.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
    }

    /// As in the table.
    pub(crate) fn title(self) -> &'static str {
        match self {
            Self::Floor => "bare loop of `send`",
            Self::Hub => "**telltale**",
            Self::HubTls => "**telltale**, TLS",
            Self::Floor2 => "bare loop of `send`, 2 threads",
            Self::Hub2 => "**telltale**, 2 workers",
            Self::Websockets => "Python websockets, `broadcast`",
            Self::Fastapi => "FastAPI on uvicorn, `send_text`",
            Self::PythonSocketio => "python-socketio on uvicorn, `emit`",
            Self::NodeWs => "Node ws, `send`",
            Self::NodeSocketio => "Socket.IO on Node, `emit`",
            Self::Nats => "nats-server over WebSocket",
        }
    }

    pub(crate) fn is_hub(self) -> bool {
        matches!(self, Self::Hub | Self::HubTls | Self::Hub2)
    }

    /// The bare loop that has as many cores.
    pub(crate) fn floor(self) -> Self {
        match self {
            Self::Floor2 | Self::Hub2 => Self::Floor2,
            _ => Self::Floor,
        }
    }
}

/// Where servers are started.
pub(crate) struct Yard {
    folder: TempDir,
    pub(crate) hub: Hub,
}

/// A server that runs and waits to begin.
pub(crate) struct Server {
    pub(crate) process: Process,
    pub(crate) target: Target,
    begin: Begin,
    publisher: Option<Publisher>,
    errors: PathBuf,
}

/// How a server begins to send.
enum Begin {
    /// It gets a line on its standard input.
    Line,
    /// The clients say this.
    Subscribe(Vec<u8>),
    /// Somebody publishes, here.
    Publish(SocketAddr),
}

impl Yard {
    pub(crate) fn new(hub: &Path) -> io::Result<Self> {
        let folder = tempfile::tempdir()?;
        let hub = Hub::new(hub, folder.path());
        Ok(Self { folder, hub })
    }

    /// Writes down what the servers are to send.
    pub(crate) fn plan(&self, load: &Load) -> io::Result<()> {
        let plan = serde_json::to_string(&load.plan())?;
        fs::write(self.plan_path(), plan)
    }

    fn plan_path(&self) -> PathBuf {
        self.folder.path().join("plan.json")
    }

    /// Starts a server, and waits until it listens.
    pub(crate) fn start(&self, kind: Kind, load: &Load) -> io::Result<Server> {
        match kind {
            Kind::Hub | Kind::Hub2 | Kind::HubTls => self.start_hub(kind, load),
            Kind::Nats => self.start_nats(),
            Kind::Floor => self.start_floor(1),
            Kind::Floor2 => self.start_floor(2),
            Kind::Websockets => self.start_python("py_websockets.py", Wire::WebSocket("/")),
            Kind::Fastapi => self.start_python("py_fastapi.py", Wire::WebSocket("/ws")),
            Kind::PythonSocketio => self.start_python("py_socketio.py", Wire::SocketIo),
            Kind::NodeWs => self.start_node("node_ws.js", Wire::WebSocket("/")),
            Kind::NodeSocketio => self.start_node("node_socketio.js", Wire::SocketIo),
        }
    }

    fn start_hub(&self, kind: Kind, load: &Load) -> io::Result<Server> {
        let tls = (kind == Kind::HubTls).then(|| Tls::make(self.folder.path())).transpose()?;
        let workers = if kind == Kind::Hub2 { 2 } else { 1 };
        let (process, address) = self.hub.start(load, workers, tls.as_ref())?;
        let tls = tls.map(|tls| tls.clients);
        Ok(Server {
            process,
            target: Target { address, wire: hub::STREAM, tls },
            begin: Begin::Subscribe(self.hub.subscriptions(load)),
            publisher: None,
            errors: self.hub.errors(),
        })
    }

    fn start_floor(&self, threads: usize) -> io::Result<Server> {
        let address = free_address()?;
        let mut command = Command::new(std::env::current_exe()?);
        command.arg("floor").arg(address.port().to_string()).arg(self.plan_path());
        command.arg(threads.to_string());
        let cores = if threads == 1 { "0" } else { "0,1" };
        self.listening(&command, cores, address, Wire::Frames)
    }

    fn start_python(&self, script: &str, wire: Wire) -> io::Result<Server> {
        self.start_script(Command::new(installed("venv/bin/python")?), script, wire)
    }

    fn start_node(&self, script: &str, wire: Wire) -> io::Result<Server> {
        let mut node = Command::new("node");
        node.env("NODE_PATH", installed("node_modules")?);
        self.start_script(node, script, wire)
    }

    fn start_script(&self, mut command: Command, script: &str, wire: Wire) -> io::Result<Server> {
        let address = free_address()?;
        command.arg(home().join("servers").join(script));
        command.arg(address.port().to_string()).arg(self.plan_path());
        self.listening(&command, "0", address, wire)
    }

    fn start_nats(&self) -> io::Result<Server> {
        let program = installed("venv/bin/nats-server")?;
        let (address, publishers) = (free_address()?, free_address()?);
        // No pings, as everywhere; the publisher wouldn't answer them.
        let text = format!(
            "listen: \"{publishers}\"\nping_interval: \"1h\"\n\
             websocket {{ listen: \"{address}\", no_tls: true }}\n"
        );
        let configuration = self.folder.path().join("nats.conf");
        fs::write(&configuration, text)?;
        let mut command = Command::new(program);
        command.arg("--config").arg(configuration);
        let server = self.listening(&command, "0", address, Wire::Nats)?;
        Ok(Server { begin: Begin::Publish(publishers), ..server })
    }

    fn listening(
        &self,
        command: &Command,
        cores: &str,
        address: SocketAddr,
        wire: Wire,
    ) -> io::Result<Server> {
        let errors = self.folder.path().join("server.err");
        let process = Process::start(command, cores, &errors)?;
        let target = Target { address, wire, tls: None };
        let mut server = Server { process, target, begin: Begin::Line, publisher: None, errors };
        let end = Instant::now() + START_LIMIT;
        while TcpStream::connect(address).is_err() {
            server.process.check().map_err(|error| {
                io::Error::other(format!("{error}: {}", server.last_words().unwrap_or_default()))
            })?;
            if Instant::now() > end {
                return Err(io::Error::other("it does not listen"));
            }
            thread::sleep(TRY_EVERY);
        }
        Ok(server)
    }
}

impl Server {
    /// Has it send from now on.
    pub(crate) fn begin(&mut self, crowd: &mut Crowd, load: &Load) -> io::Result<()> {
        match &self.begin {
            Begin::Line => self.process.input()?.write_all(b"begin\n"),
            Begin::Subscribe(commands) => crowd.send(commands),
            Begin::Publish(address) => {
                self.publisher = Some(Publisher::start(*address, load.plan())?);
                Ok(())
            }
        }
    }

    /// The last line of what it complained of.
    pub(crate) fn last_words(&self) -> Option<String> {
        let said = fs::read_to_string(&self.errors).ok()?;
        said.lines().rfind(|line| !line.trim().is_empty()).map(str::to_owned)
    }
}

/// What `setup.sh` installs.
fn installed(path: &str) -> io::Result<PathBuf> {
    let path = tools().join(path);
    if path.exists() {
        return std::path::absolute(path);
    }
    Err(io::Error::other("not installed: run tests/bench/fanout/setup.sh"))
}

/// One that nobody listens on, for a server that can't tell which it has taken.
fn free_address() -> io::Result<SocketAddr> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()
}
