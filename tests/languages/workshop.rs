//! Where plugins are built: the languages' tools, and what they made before.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{Read, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::time::Duration;

use tokio::sync::{Mutex, MutexGuard};

use crate::harness::Setup;

/// The example plugins.
pub(crate) const EXAMPLES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/plugins");

/// What is kept from run to run: components, and what they were compiled to.
const KEPT: &str = concat!(env!("CARGO_TARGET_TMPDIR"), "/languages");

/// How long a tool may take: several times what the slowest does on a busy
/// machine.
const LIMIT: Duration = Duration::from_secs(600);
/// How often it is looked whether a tool has ended.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// One test at a time: the tools take all cores, and share their folders.
static DOOR: Mutex<()> = Mutex::const_new(());

/// The place to build at, until it is dropped.
pub(crate) struct Workshop(#[expect(dead_code, reason = "held")] MutexGuard<'static, ()>);

pub(crate) fn root() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
}

/// The first command that a README shows.
pub(crate) fn first_command(readme: &str) -> &str {
    readme.lines().find_map(|line| line.strip_prefix("    ")).unwrap()
}

/// What a project's component depends on: its sources, the interface, the guest
/// crate, and the commands that build.
pub(crate) fn fingerprint(project: &Path) -> String {
    let mut hasher = blake3::Hasher::new();
    let ours = ["wit", "plugins/sdk/src", "host/src/cli/plugin/build"];
    for folder in ours.map(|folder| root().join(folder)).iter().chain([&project.to_owned()]) {
        take_in(folder, &mut hasher);
    }
    hasher.finalize().to_hex()[..16].to_owned()
}

fn take_in(folder: &Path, hasher: &mut blake3::Hasher) {
    let mut entries: Vec<_> = fs::read_dir(folder).unwrap().map(|e| e.unwrap().path()).collect();
    entries.sort();
    for path in entries {
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        let made = ["build", "target", "__pycache__", "node_modules"].contains(&&*name);
        if path.is_dir() && !made {
            take_in(&path, hasher);
        } else if path.is_file() && !name.ends_with(".wasm") {
            hasher.update(name.as_bytes()).update(&fs::read(&path).unwrap());
        }
    }
}

impl Workshop {
    pub(crate) async fn open() -> Self {
        fs::create_dir_all(KEPT).unwrap();
        Self(DOOR.lock().await)
    }

    /// A project's component; none if a tool is missing.
    pub(crate) async fn component(&self, project: &Path) -> Option<Vec<u8>> {
        let folder = Path::new(KEPT).join("components").join(project.file_name().unwrap());
        let kept = folder.join(format!("{}.wasm", fingerprint(project)));
        if !kept.exists() {
            // What was made of earlier sources is of no use any more.
            for stale in [&folder, &Path::new(KEPT).join("cache")] {
                let _ = fs::remove_dir_all(stale);
            }
            fs::create_dir_all(&folder).unwrap();
            // Under its name only once it is whole.
            let unfinished = kept.with_extension("unfinished");
            let build = format!("telltale plugin build --output {}", unfinished.display());
            self.run(&build, project).await?;
            fs::rename(unfinished, &kept).unwrap();
        }
        Some(fs::read(kept).unwrap())
    }

    /// Runs a command in a folder, unless it has succeeded before with this
    /// fingerprint; none if a tool is missing.
    pub(crate) async fn shell(&self, line: &str, folder: &Path, fingerprint: &str) -> Option<()> {
        let key = format!("{line}\n{fingerprint}");
        if !self.is_done(&key) {
            self.run(line, folder).await?;
            self.mark_done(&key);
        }
        Some(())
    }

    /// Whether this was done before, with what it depends on as it is now.
    pub(crate) fn is_done(&self, key: &str) -> bool {
        mark(key).exists()
    }

    pub(crate) fn mark_done(&self, key: &str) {
        fs::write(mark(key), key).unwrap();
    }

    /// Gives a project in Rust the versions that this one is built with, which
    /// are there without asking.
    pub(crate) fn lock_versions(&self, project: &Path) {
        if project.join("Cargo.toml").exists() {
            fs::copy(root().join("Cargo.lock"), project.join("Cargo.lock")).unwrap();
        }
    }

    /// Gives a hub what components were compiled to before: CPython takes
    /// seconds.
    pub(crate) fn lend_cache(&self, setup: &Setup) {
        copy(&Path::new(KEPT).join("cache"), &setup.data().join("cache"));
    }

    /// Keeps what a hub has compiled.
    pub(crate) fn keep_cache(&self, setup: &Setup) {
        copy(&setup.data().join("cache"), &Path::new(KEPT).join("cache"));
    }

    /// Runs a line of a shell with the languages' tools and `telltale` at hand;
    /// none if a tool is missing, which is told.
    ///
    /// # Panics
    ///
    /// It fails, takes too long, or a tool is missing that has to be there.
    pub(crate) async fn run(&self, line: &str, folder: &Path) -> Option<()> {
        let mut output = tempfile::tempfile().unwrap();
        let status = self.wait(line, folder, &output).await;
        output.rewind().unwrap();
        let mut said = String::new();
        output.read_to_string(&mut said).unwrap();
        if status.success() {
            return Some(());
        }
        let missing = said.lines().find(|line| line.contains("is missing; install it with"));
        let missing = missing.or_else(|| said.lines().find(|line| line.contains("not found")));
        let required = std::env::var("PLUGIN_TOOLS").is_ok_and(|tools| tools == "required");
        let Some(missing) = missing.filter(|_| !required) else {
            panic!("`{line}` in {} ({status}):\n{said}", folder.display());
        };
        // Not by a macro, whose words are kept back for tests that pass.
        let _ = writeln!(std::io::stderr(), "skipped: `{line}`: {missing} (tests/tools.sh has it)");
        None
    }

    async fn wait(&self, line: &str, folder: &Path, output: &File) -> ExitStatus {
        let mut command = Command::new("sh");
        for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("TELLTALE_")) {
            command.env_remove(name);
        }
        let mut child = command
            .args(["-e", "-c", line])
            .current_dir(folder)
            .env("PATH", path())
            .env("CARGO_TARGET_DIR", Path::new(KEPT).join("cargo"))
            .env("RUSTUP_TOOLCHAIN", toolchain())
            .env("XDG_CACHE_HOME", Path::new(KEPT).join("cache-home"))
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .stdin(Stdio::null())
            .stdout(output.try_clone().unwrap())
            .stderr(output.try_clone().unwrap())
            .spawn()
            .unwrap();
        let ended = tokio::time::timeout(LIMIT, async {
            loop {
                if let Some(status) = child.try_wait().unwrap() {
                    return status;
                }
                tokio::time::sleep(LOOK_EVERY).await;
            }
        });
        match ended.await {
            Ok(status) => status,
            Err(_) => {
                child.kill().unwrap();
                child.wait().unwrap();
                panic!("`{line}` took longer than {} s", LIMIT.as_secs());
            }
        }
    }
}

/// The file that says that something was done.
fn mark(key: &str) -> PathBuf {
    let hash = blake3::hash(key.as_bytes()).to_hex();
    Path::new(KEPT).join(format!("{}.done", &hash[..16]))
}

/// What `tests/tools.sh` has installed comes first, then the machine's own.
pub(crate) fn path() -> OsString {
    let target = Path::new(KEPT).ancestors().nth(2).unwrap();
    let program = Path::new(env!("CARGO_BIN_EXE_telltale")).parent().unwrap();
    let own = ["tools/venv/bin", "tools/npm/node_modules/.bin"].map(|folder| target.join(folder));
    let theirs = std::env::var_os("PATH").unwrap();
    let folders = [program.to_owned()].into_iter().chain(own);
    std::env::join_paths(folders.chain(std::env::split_paths(&theirs))).unwrap()
}

/// The toolchain that built this test: a folder elsewhere has no
/// rust-toolchain.toml to say so.
fn toolchain() -> String {
    let text = fs::read_to_string(root().join("rust-toolchain.toml")).unwrap();
    let channel = text.lines().find_map(|line| line.strip_prefix("channel = ")).unwrap();
    channel.trim_matches('"').to_owned()
}

/// Copies a folder into another that only this user may read.
fn copy(from: &Path, to: &Path) {
    let Ok(entries) = fs::read_dir(from) else { return };
    fs::DirBuilder::new().recursive(true).mode(0o700).create(to).unwrap();
    for path in entries.map(|entry| entry.unwrap().path()) {
        let target = to.join(path.file_name().unwrap());
        if path.is_dir() {
            copy(&path, &target);
        } else if !target.exists() {
            fs::copy(&path, &target).unwrap();
            fs::set_permissions(&target, fs::Permissions::from_mode(0o600)).unwrap();
        }
    }
}
