//! Socket.IO: the real clients from npm and PyPI, unmodified, on every transport;
//! and the protocol itself, by hand.
//!
//! `tests/tools.sh` installs the clients. A test whose client is missing says so
//! and passes, unless `PLUGIN_TOOLS=required` is set.

mod protocol;
mod slow;

use std::fs;
use std::io::Write;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use jsonwebtoken::{EncodingKey, Header};
use rustix::process::Signal;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::harness::{Hub, Program, Setup, within};
use crate::languages::workshop;

/// How often something is looked at that doesn't tell.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// What tokens are signed with.
const SECRET: &str = "a secret of the tests, long enough for HS256";

/// A hub whose clients have to say who they are.
fn guarded() -> Setup {
    let setup = Hub::new();
    // The tests ask one thing after another, as fast as they are answered.
    let config = format!(
        "[auth]\nmode = \"jwt\"\nsecret = {SECRET:?}\nleeway = \"0s\"\n\
         [limits]\nmessages_per_second = 10000\nmessages_burst = 10000\n\
         publishes_per_second = 10000\npublishes_burst = 10000\n"
    );
    fs::write(setup.path().join("telltale.toml"), config).unwrap();
    setup
}

/// Starts a hub, and waits until it is ready.
async fn ready(setup: Setup) -> Hub {
    let hub = setup.start_listening().await;
    within("the hub to be ready", async {
        while hub.get("/readyz").await.status != 200 {
            tokio::time::sleep(LOOK_EVERY).await;
        }
    })
    .await;
    hub
}

/// A token of a user who may enter the rooms of projects and publish.
fn token(user: &str) -> String {
    let claims = json!({
        "sub": user,
        "rooms": ["project:*"],
        "publish": [{"types": ["*"], "rooms": ["*"]}],
        "exp": 4_000_000_000_u64,
    });
    let key = EncodingKey::from_secret(SECRET.as_bytes());
    jsonwebtoken::encode(&Header::default(), &claims, &key).unwrap()
}

/// The tests' programs as somebody has them who has installed the clients.
struct Kit(TempDir);

impl Kit {
    /// None, which is told, if `probe` doesn't work.
    ///
    /// # Panics
    ///
    /// The clients have to be there, and are not.
    fn install(probe: &[&str]) -> Option<Self> {
        let kit = Self(tempfile::tempdir().unwrap());
        for folder in ["tests/socketio", "examples/clients/socketio"] {
            for entry in fs::read_dir(workshop::root().join(folder)).unwrap().map(Result::unwrap) {
                fs::copy(entry.path(), kit.0.path().join(entry.file_name())).unwrap();
            }
        }
        let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().unwrap();
        symlink(target.join("tools/npm/node_modules"), kit.0.path().join("node_modules")).unwrap();
        if kit.command(probe).output().is_ok_and(|output| output.status.success()) {
            return Some(kit);
        }
        let required = std::env::var("PLUGIN_TOOLS").is_ok_and(|tools| tools == "required");
        assert!(!required, "`{}` does not work", probe.join(" "));
        // Not by a macro, whose words are kept back for tests that pass.
        let told = "its client is missing (tests/tools.sh has it)";
        let _ = writeln!(std::io::stderr(), "skipped: {}: {told}", probe.join(" "));
        None
    }

    fn javascript() -> Option<Self> {
        Self::install(&["node", "--eval", "require('socket.io-client')"])
    }

    fn python() -> Option<Self> {
        Self::install(&["python3", "installed.py"])
    }

    fn command(&self, line: &[&str]) -> Command {
        let mut command = Command::new(line[0]);
        command.args(&line[1..]).current_dir(self.0.path());
        command.env("PATH", workshop::path()).env("PYTHONDONTWRITEBYTECODE", "1");
        command
    }

    /// Starts a program that is told where the hub is and how to sign tokens.
    fn start(&self, line: &[&str], hub: &Hub) -> Program {
        let origin = format!("http://{}", hub.0);
        let mut command = self.command(line);
        Program::run(command.args([&origin, SECRET, &hub.file.admin_token]))
    }

    async fn passes(&self, line: &[&str], hub: &Hub) {
        let mut program = self.start(line, hub);
        let status = program.exit().await;
        assert!(status.success(), "{}: {status}", line.join(" "));
    }
}

#[tokio::test]
async fn the_javascript_client_gets_everything_on_each_transport() {
    let Some(kit) = Kit::javascript() else { return };
    let hub = ready(guarded()).await;
    kit.passes(&["node", "matrix.mjs"], &hub).await;
}

#[tokio::test]
async fn the_javascript_client_is_let_in_and_sent_away_by_its_token() {
    let Some(kit) = Kit::javascript() else { return };
    let hub = ready(guarded()).await;
    kit.passes(&["node", "access.mjs"], &hub).await;
}

#[tokio::test]
async fn the_python_clients_get_everything_on_each_transport() {
    let Some(kit) = Kit::python() else { return };
    let hub = ready(guarded()).await;
    kit.passes(&["python3", "clients.py"], &hub).await;
}

/// An address that a hub can have again: its port is none of those that the
/// system gives to whoever asks for any.
fn address_to_keep() -> SocketAddr {
    let first = u16::try_from(std::process::id() % 2_000).unwrap();
    let free = (0..2_000).map(|n| SocketAddr::from(([127, 0, 0, 1], 30_000 + (first + n) % 2_000)));
    free.into_iter().find(|address| TcpListener::bind(address).is_ok()).unwrap()
}

#[tokio::test]
async fn a_stop_is_told_and_clients_come_back_by_themselves() {
    let Some(kit) = Kit::javascript() else { return };
    let hub = ready(guarded().listen(address_to_keep())).await;
    let mut clients = kit.start(&["node", "stop.mjs"], &hub);
    let says = async |clients: &Program, word: &str| {
        within(word, async {
            while !clients.stdout().contains(word) {
                tokio::time::sleep(LOOK_EVERY).await;
            }
        })
        .await;
    };
    says(&clients, "ready").await;
    let (status, setup) = hub.stop_with(Signal::TERM).await;
    assert!(status.success(), "{status}");
    says(&clients, "told").await;
    let _hub = ready(setup).await;
    let status = clients.exit().await;
    assert!(status.success(), "{status}: {}", clients.stderr());
}

#[tokio::test]
async fn the_example_client_goes_on_where_it_stopped() {
    let Some(kit) = Kit::javascript() else { return };
    let hub = ready(guarded().listen(address_to_keep())).await;
    let origin = format!("http://{}", hub.0);
    let mut command = kit.command(&["node", "watch.mjs"]);
    let shown = Program::run(command.args([&*origin, &token("ana"), "project:1"]));
    let says = async |word: &str| {
        within(word, async {
            while !shown.stdout().contains(word) {
                tokio::time::sleep(LOOK_EVERY).await;
            }
        })
        .await;
    };
    says("in project:1").await;
    publish(&hub, "first").await;
    says("first").await;
    let hub = ready(hub.stop_with(Signal::TERM).await.1).await;
    publish(&hub, "second").await;
    says("second").await;
    let hub = ready(hub.kill()).await;
    publish(&hub, "third").await;
    says("third").await;
    let events = shown.stdout().lines().filter(|line| line.contains("pr.created")).count();
    assert_eq!(events, 3, "{}", shown.stdout());
}

/// Publishes an event to `project:1`, by hand.
async fn publish(hub: &Hub, word: &str) {
    let mut publisher = protocol::Client::enter(hub, "/", &token("ci")).await;
    let event = json!({"type": "pr.created", "data": {"word": word}, "rooms": ["project:1"]});
    let told: Value = publisher.ask("publish", &event).await;
    assert_eq!(told["status"], "success", "{told}");
}
