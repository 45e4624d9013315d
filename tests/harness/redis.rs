//! A real Redis, in a folder and on a port of its own.

use std::net::{SocketAddr, TcpListener};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{AsyncCommands, Client, FromRedisValue};
use rustix::process::Signal;
use tempfile::TempDir;

use super::{Program, needs, tool, within};

/// Where ports are looked for: below those that the system gives to
/// connections (from 32768 on), so that none of them takes it while Redis is
/// away, and nobody who connects to it meets himself.
const PORTS: Range<u16> = 20_000..32_000;

/// How often it is asked whether it answers.
const ASK_EVERY: Duration = Duration::from_millis(5);

/// A `redis-server`, running or killed. Dropping it ends it.
pub(crate) struct Redis {
    program: Program,
    server: PathBuf,
    address: SocketAddr,
    more: Vec<String>,
    folder: TempDir,
}

impl Redis {
    /// Starts one that keeps nothing on disk; none where it is not installed,
    /// which is told.
    pub(crate) async fn start() -> Option<Self> {
        Self::start_with(&[]).await
    }

    /// The same with more arguments, such as `--maxmemory`.
    pub(crate) async fn start_with(more: &[&str]) -> Option<Self> {
        let server = needs("redis-server", tool("redis-server"))?;
        let more: Vec<String> = more.iter().map(|&text| text.to_owned()).collect();
        let folder = tempfile::tempdir().unwrap();
        loop {
            let address = free();
            let program = run(&server, address, folder.path(), &more);
            if let Some(program) = up(program, address).await {
                return Some(Self { program, server, address, more, folder });
            }
            // Another was quicker to take the port.
        }
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// What `[cache] url` is set to.
    pub(crate) fn url(&self) -> String {
        url(self.address)
    }

    /// Ends it as a crash would. Who connects is refused.
    pub(crate) fn kill(&mut self) {
        self.program.kill();
    }

    /// Starts it again where it was, empty, after [`Self::kill`].
    pub(crate) async fn restart(&mut self) {
        let program = run(&self.server, self.address, self.folder.path(), &self.more);
        self.program = up(program, self.address).await.expect("its port is taken");
    }

    /// Stops it in its tracks: connections stay, and nothing is answered.
    pub(crate) fn pause(&self) {
        self.program.signal(Signal::STOP);
    }

    /// Lets it go on after [`Self::pause`].
    pub(crate) fn unpause(&self) {
        self.program.signal(Signal::CONT);
    }

    /// Sets a key as an application would.
    pub(crate) async fn set(&self, key: &str, value: impl AsRef<[u8]>) {
        let () = self.connection().await.set(key, value.as_ref()).await.unwrap();
    }

    /// What is under a key, if it is there.
    pub(crate) async fn get(&self, key: &str) -> Option<Vec<u8>> {
        self.connection().await.get(key).await.unwrap()
    }

    /// Asks anything: `redis.command(&["PTTL", "key"])`.
    pub(crate) async fn command<T: FromRedisValue>(&self, words: &[&str]) -> T {
        let mut command = redis::cmd(words[0]);
        command.arg(&words[1..]);
        command.query_async(&mut self.connection().await).await.unwrap()
    }

    async fn connection(&self) -> MultiplexedConnection {
        let client = Client::open(self.url()).unwrap();
        let connected = client.get_multiplexed_async_connection();
        within("a connection to Redis", connected).await.unwrap()
    }
}

fn url(address: SocketAddr) -> String {
    format!("redis://{address}/0")
}

/// An address that is free now.
fn free() -> SocketAddr {
    loop {
        let address = SocketAddr::from(([127, 0, 0, 1], rand::random_range(PORTS)));
        if TcpListener::bind(address).is_ok() {
            return address;
        }
    }
}

fn run(server: &Path, address: SocketAddr, folder: &Path, more: &[String]) -> Program {
    let mut command = Command::new(server);
    command
        .args(["--bind", &address.ip().to_string(), "--port", &address.port().to_string()])
        .args(["--save", "", "--appendonly", "no", "--dir"])
        .arg(folder)
        .args(more);
    Program::run(&mut command)
}

/// Waits until it answers; none if its port was taken.
async fn up(mut program: Program, address: SocketAddr) -> Option<Program> {
    let up = async {
        loop {
            let client = Client::open(url(address)).unwrap();
            if let Ok(mut connection) = client.get_multiplexed_async_connection().await {
                // The number of the process that answers there.
                let said: String =
                    redis::cmd("INFO").arg("server").query_async(&mut connection).await.unwrap();
                if said.contains(&format!("process_id:{}\r\n", program.id())) {
                    return Some(program);
                }
            }
            if !program.runs() {
                program.exit().await;
                let said = program.stdout();
                assert!(said.contains("in use"), "redis-server has ended: {said}");
                return None;
            }
            tokio::time::sleep(ASK_EVERY).await;
        }
    };
    within("Redis to answer", up).await
}
