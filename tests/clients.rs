//! The example clients: their own tests, and what they show of a real hub that
//! stops, is killed, and comes back.
//!
//! `tests/tools.sh` installs what those in JavaScript and Python stand on. A test
//! whose tool is missing says so and passes, unless `PLUGIN_TOOLS=required` is set.

mod rooms;
mod rust;
mod sync;

use std::fs;
use std::io::Write;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::process::Signal;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::harness::{Hub, Program, guest, mode, within};
use crate::languages::workshop;

/// How often a renderer is looked at.
const LOOK_EVERY: std::time::Duration = std::time::Duration::from_millis(20);

/// A client's folder as somebody has it who has installed what it stands on.
struct Client {
    folder: TempDir,
    /// What runs its own tests.
    test: &'static [&'static str],
    /// What runs its renderer.
    watch: &'static [&'static str],
}

/// One for each language whose tools are there, but for Rust.
fn clients() -> Vec<Client> {
    let found = [
        Client::install(
            "javascript",
            &["node", "--eval", "require('ws')"],
            &["node", "--test"],
            &["node", "watch.mjs"],
        ),
        Client::install(
            "python",
            &["python3", "-c", "import asyncio, websockets; asyncio.timeout"],
            &["python3", "-m", "unittest"],
            &["python3", "telltale_client.py"],
        ),
    ];
    found.into_iter().flatten().collect()
}

impl Client {
    /// None, which is told, if `probe` doesn't work.
    ///
    /// # Panics
    ///
    /// The tools have to be there, and are not.
    fn install(
        language: &str,
        probe: &[&str],
        test: &'static [&'static str],
        watch: &'static [&'static str],
    ) -> Option<Self> {
        let client = Self { folder: tempfile::tempdir().unwrap(), test, watch };
        let source = workshop::root().join("examples/clients").join(language);
        for entry in fs::read_dir(source).unwrap().map(Result::unwrap) {
            if entry.file_type().unwrap().is_file() {
                fs::copy(entry.path(), client.folder.path().join(entry.file_name())).unwrap();
            }
        }
        // Node looks beside the program, and nowhere else.
        let modules = target().join("tools/npm/node_modules");
        symlink(modules, client.folder.path().join("node_modules")).unwrap();
        if client.command(probe).output().is_ok_and(|output| output.status.success()) {
            return Some(client);
        }
        let required = std::env::var("PLUGIN_TOOLS").is_ok_and(|tools| tools == "required");
        assert!(!required, "`{}` does not work", probe.join(" "));
        // Not by a macro, whose words are kept back for tests that pass.
        let told = "its tools are missing (tests/tools.sh has them)";
        let _ = writeln!(std::io::stderr(), "skipped: the client in {language}: {told}");
        None
    }

    fn command(&self, line: &[&str]) -> Command {
        let mut command = Command::new(line[0]);
        command.args(&line[1..]).current_dir(self.folder.path());
        command.env("PATH", workshop::path()).env("PYTHONDONTWRITEBYTECODE", "1");
        command
    }
}

/// Where the build's results are.
fn target() -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).parent().unwrap().to_owned()
}

#[tokio::test]
async fn each_client_passes_its_own_tests() {
    for client in clients() {
        let status = Program::run(&mut client.command(client.test)).exit().await;
        assert!(status.success(), "{}: {status}", client.test.join(" "));
    }
}

#[tokio::test]
async fn what_the_document_shows_of_each_client_works() {
    let hub = Hub::new().plugin("steady", "guest_collector", "").start().await;
    let document = fs::read_to_string(workshop::root().join("docs/clients.md")).unwrap();
    for client in clients() {
        let (language, file, first) = match client.watch {
            ["node", ..] => {
                ("js", "shown.mjs", "globalThis.WebSocket ??= require('ws').WebSocket;")
            }
            _ => ("python", "shown.py", ""),
        };
        let code = document.split(&format!("```{language}\n")).nth(1).unwrap();
        let code = code.split("```").next().unwrap().replace("127.0.0.1:8765", &hub.0.to_string());
        fs::write(client.folder.path().join(file), code).unwrap();
        fs::write(client.folder.path().join("first.cjs"), first).unwrap();
        let mut command = match language {
            "js" => client.command(&["node", "--require", "./first.cjs", file]),
            _ => client.command(&["python3", "-u", file]),
        };
        let program = Program::run(&mut command);
        within("a value and an event to be shown", async {
            let all = ["telltale.tick.lateness", "safe: ", "deploy.done"];
            while !all.iter().all(|one| program.stdout().contains(one)) {
                tokio::time::sleep(LOOK_EVERY).await;
            }
        })
        .await;
    }
}

/// The renderers of all clients, on one hub.
struct Renderers {
    programs: Vec<Program>,
    #[expect(dead_code, reason = "the folders that they run in")]
    clients: Vec<Client>,
}

impl Renderers {
    /// Each shows the series `guest.*`, until it is dropped.
    fn start(address: SocketAddr) -> Self {
        let watch = rust_renderer();
        let arguments = [address.to_string(), "guest.*".to_owned()];
        let mut programs = vec![Program::run(Command::new(watch).args(&arguments))];
        let clients = clients();
        for client in &clients {
            programs.push(Program::run(client.command(client.watch).args(&arguments)));
        }
        Self { programs, clients }
    }

    /// Waits until each has shown something.
    async fn until(&self, what: &str, wanted: impl Fn(&str) -> bool) {
        for program in &self.programs {
            within(what, async {
                while !wanted(&program.stdout()) {
                    tokio::time::sleep(LOOK_EVERY).await;
                }
            })
            .await;
        }
    }
}

/// The example `watch`. `cargo test` has built it, but when it was told to run
/// this binary only.
fn rust_renderer() -> PathBuf {
    let program = Path::new(env!("CARGO_BIN_EXE_telltale"));
    let watch = program.parent().unwrap().join("examples/watch");
    let changed = |path: &Path| fs::metadata(path).and_then(|file| file.modified()).ok();
    for source in ["examples/watch.rs", "examples/clients/rust/client.rs"] {
        let source = changed(&workshop::root().join(source));
        assert!(changed(&watch) >= source, "run `cargo build --example watch`, and then this");
    }
    watch
}

/// The numbers of the ticks that were shown.
fn ticks(shown: &str) -> Vec<u64> {
    let tick = |line: &str| line.strip_prefix("tick ")?.split(' ').next()?.parse().ok();
    shown.lines().filter_map(tick).collect()
}

/// The entries that were shown: channel, offset, and what became of what.
fn entries(shown: &str) -> Vec<(String, u64, String)> {
    let entry = |line: &str| {
        let mut words = line.strip_prefix("  ")?.splitn(4, ' ');
        let channel = words.next().filter(|channel| ["hub", "findings"].contains(channel))?;
        let (offset, what) = (words.next()?.parse().ok()?, words.next()?);
        Some((channel.to_owned(), offset, what.to_owned()))
    };
    shown.lines().filter_map(entry).collect()
}

/// An address that a hub can have again and again: its port is none of those that
/// the system gives to whoever asks for any.
pub(crate) fn address_to_keep() -> SocketAddr {
    let first = u16::try_from(std::process::id() % 10_000).unwrap();
    let free =
        (0..10_000).map(|n| SocketAddr::from(([127, 0, 0, 1], 20_000 + (first + n) % 10_000)));
    free.into_iter().find(|address| TcpListener::bind(address).is_ok()).unwrap()
}

#[tokio::test]
async fn each_client_goes_on_by_itself_when_its_hub_comes_back() {
    let address = address_to_keep();
    let hub = Hub::new().listen(address).plugin("steady", "guest_collector", "").start().await;
    let renderers = Renderers::start(address);
    renderers.until("two ticks with a value", |shown| ticks(shown).len() >= 2).await;
    let hub = hub.stop_with(Signal::TERM).await.1.start().await;
    assert_eq!(hub.0, address);
    let mut client = hub.ticks().await;
    let tick = client.next_push().await["tick"].as_u64().unwrap();
    renderers
        .until("ticks of the hub that came back", |shown| ticks(shown).last() > Some(&tick))
        .await;
    renderers.until("a value", |shown| shown.trim_end().ends_with("guest.value n=0")).await;
    for program in &renderers.programs {
        let ticks = ticks(&program.stdout());
        assert!(ticks.windows(2).all(|pair| pair[0] < pair[1]), "{ticks:?}");
    }
}

#[tokio::test]
async fn each_client_shows_each_entry_once_over_a_stop_and_a_crash_of_its_hub() {
    let address = address_to_keep();
    let watcher = "series = [\"guest.*\"]\n[config]\nlimit = 50.0\n";
    let hub = Hub::new()
        .listen(address)
        // Findings that open and close, all the time.
        .without_quiet_times()
        .plugin("pulse", "guest_collector", &mode("pulse"))
        .plugin("watcher", "guest_detector", watcher)
        .start()
        .await;
    let renderers = Renderers::start(address);
    let finding = |shown: &str| entries(shown).iter().any(|(channel, ..)| channel == "findings");
    renderers.until("a finding", finding).await;
    hub.drop_in("guest", &guest("guest_collector"));
    renderers.until("a plugin", |shown| shown.contains("loaded guest")).await;
    let hub = hub.stop_with(Signal::TERM).await.1.start().await;
    hub.remove("guest");
    renderers.until("its end", |shown| shown.contains("removed guest")).await;
    let hub = hub.kill().start().await;
    hub.drop_in("late", &guest("guest_collector"));
    renderers.until("another plugin", |shown| shown.contains("loaded late")).await;
    for program in &renderers.programs {
        let said = program.stdout();
        assert!(!said.contains("entries were lost"), "{said}");
        let mut shown = entries(&said);
        for channel in ["hub", "findings"] {
            let of = shown.iter().filter(|(of, ..)| of == channel).map(|(_, offset, _)| offset);
            assert!(of.is_sorted_by(|one, next| one < next), "{channel} in order: {shown:?}");
        }
        // What was missed comes channel by channel.
        shown.sort_by_key(|(_, offset, _)| *offset);
        let [(_, first, _), .., (_, last, _)] = &shown[..] else { panic!("{said}") };
        let mut kept = kept(&hub, first - 1).await;
        kept.retain(|(_, offset, _)| offset <= last);
        assert_eq!(shown, kept);
    }
}

/// The entries of both log channels from behind `offset` on, as the log has them.
async fn kept(hub: &Hub, offset: u64) -> Vec<(String, u64, String)> {
    let mut client = hub.native().await;
    let epoch = client.ok(json!({"op": "connect"})).await["epoch"].clone();
    let mut kept = Vec::new();
    for (channel, word) in [("hub", "event"), ("findings", "state")] {
        let resume = json!({"epoch": epoch, "offset": offset});
        let ok = client.ok(json!({"op": "subscribe", "channel": channel, "resume": resume})).await;
        assert_eq!(ok["recovered"], true, "{ok}");
        kept.extend(ok["entries"].as_array().unwrap().iter().map(|told: &Value| {
            let what = told["entry"][word].as_str().unwrap().to_owned();
            (channel.to_owned(), told["offset"].as_u64().unwrap(), what)
        }));
    }
    kept.sort_by_key(|(_, offset, _)| *offset);
    kept
}
