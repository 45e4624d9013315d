//! Hubs to test, and clients that talk to them.

mod assembled;
mod database;
mod door;
mod hub;
mod native;
mod postgres;
mod program;
mod redis;
mod routing;
mod skills;
mod socket;

use std::fs;
use std::future::Future;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

pub(crate) use self::redis::Redis;
pub(crate) use assembled::{Assembled, Start};
pub(crate) use database::SkillsDatabase;
pub(crate) use door::{Answer, Door};
pub(crate) use hub::{Hub, Setup};
pub(crate) use native::Native;
pub(crate) use postgres::Postgres;
pub(crate) use program::Program;
pub(crate) use routing::{RoutingClient, RoutingDatabase, naive_time};
pub(crate) use skills::SkillsClient;
pub(crate) use socket::{Heard, Socket};

/// How long anything is waited for: far longer than it takes on a busy machine.
pub(crate) const LIMIT: Duration = Duration::from_secs(60);

/// Awaits `future`, and says what was awaited if it takes too long.
pub(crate) async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(LIMIT, future).await {
        Ok(done) => done,
        Err(_) => panic!("waited {} s for {what}", LIMIT.as_secs()),
    }
}

/// A program that tests stand on: where `tests/tools.sh` has put it, or the
/// machine's own.
pub(crate) fn tool(program: &str) -> Option<PathBuf> {
    let own = Path::new(env!("CARGO_TARGET_TMPDIR")).with_file_name("tools").join("bin");
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut folders = std::iter::once(own).chain(std::env::split_paths(&path));
    folders.find_map(|folder| Some(folder.join(program)).filter(|at| at.is_file()))
}

/// What a test needs besides this program, where it was found. Where it wasn't,
/// this says that the test is skipped, or fails if `PLUGIN_TOOLS=required` is set.
pub(crate) fn needs<T>(what: &str, found: Option<T>) -> Option<T> {
    if found.is_none() {
        let required = std::env::var("PLUGIN_TOOLS").is_ok_and(|tools| tools == "required");
        assert!(!required, "{what} is missing: tests/tools.sh brings it");
        // Not by a macro, whose words are kept back for tests that pass.
        let _ =
            writeln!(std::io::stderr(), "skipped: {what} is missing (tests/tools.sh brings it)");
    }
    found
}

/// A compiled guest: `guest_collector`, `telltale_system`, ….
pub(crate) fn guest(name: &str) -> Vec<u8> {
    let path = guest_path(name);
    fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Where a compiled guest is.
pub(crate) fn guest_path(name: &str) -> PathBuf {
    Path::new(env!("TELLTALE_GUESTS")).join(format!("{name}.wasm"))
}

/// The same component with other bytes: a custom section says which version it
/// is, so that it is compiled anew.
pub(crate) fn version_of(component: &[u8], version: u8) -> Vec<u8> {
    let section = [0, 3, 1, b'v', version];
    [component, &section].concat()
}

/// Settings of `guest_collector` in a mode.
pub(crate) fn mode(mode: &str) -> String {
    format!("[config]\nmode = {mode:?}\n")
}

/// The head of the answer to a request that may turn into something else than
/// HTTP.
pub(crate) async fn head_of(address: std::net::SocketAddr, request: &str) -> String {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let asked = async {
        let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
        stream.write_all(format!("{request}\r\n\r\n").as_bytes()).await.unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await.unwrap());
        }
        String::from_utf8(head).unwrap()
    };
    within("the head of an answer", asked).await
}
