//! A hub in a folder of its own.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::Write;
use std::net::SocketAddr;
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::json;
use telltale::app::HubFile;
use telltale::config::Config;
use tempfile::TempDir;

use super::{Door, Program, SkillsDatabase, guest, within};

/// How often a file is looked for that the program is to write.
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// A hub that is to be started: a folder, and how long a tick is.
pub(crate) struct Setup {
    folder: TempDir,
    tick_ms: u64,
    listen: SocketAddr,
    environment: Vec<(String, String)>,
}

/// The real program, running.
pub(crate) struct Hub {
    /// Ends before its folder is removed.
    pub(crate) program: Program,
    setup: Setup,
    door: Door,
    pub(crate) file: HubFile,
}

impl Hub {
    /// A hub without plugins that ticks ten times a second.
    #[expect(clippy::new_ret_no_self, reason = "it reads aloud: a new hub with …")]
    pub(crate) fn new() -> Setup {
        let setup = Self::unfurnished();
        fs::create_dir(setup.plugins()).unwrap();
        setup
    }

    /// The same without a plugins folder.
    pub(crate) fn unfurnished() -> Setup {
        let listen = SocketAddr::from(([127, 0, 0, 1], 0));
        let folder = tempfile::tempdir().unwrap();
        Setup { folder, tick_ms: 100, listen, environment: Vec::new() }
    }
}

impl Setup {
    pub(crate) fn tick_ms(self, tick_ms: u64) -> Self {
        Self { tick_ms, ..self }
    }

    /// At this address, each time it is started.
    pub(crate) fn listen(self, listen: SocketAddr) -> Self {
        Self { listen, ..self }
    }

    /// With a variable in its environment.
    pub(crate) fn with_variable(mut self, name: &str, value: &Path) -> Self {
        self.environment.push((name.to_owned(), value.display().to_string()));
        self
    }

    /// With this configuration, where the flags don't say otherwise.
    pub(crate) fn configured(self, toml: &str) -> Self {
        fs::write(self.path().join("telltale.toml"), toml).unwrap();
        self
    }

    /// With a policy that opens a finding as often as there is reason to.
    pub(crate) fn without_quiet_times(self) -> Self {
        self.configured("[findings]\nquiet = 0\nhabituation = 0.0\n")
    }

    /// With a plugin: its name, its guest, and its settings unless empty.
    pub(crate) fn plugin(self, name: &str, of: &str, settings: &str) -> Self {
        if !settings.is_empty() {
            fs::write(self.plugins().join(format!("{name}.toml")), settings).unwrap();
        }
        fs::write(self.plugins().join(format!("{name}.wasm")), guest(of)).unwrap();
        self
    }

    /// With a file in the plugins folder.
    pub(crate) fn file(self, name: &str, content: impl AsRef<[u8]>) -> Self {
        fs::write(self.plugins().join(name), content).unwrap();
        self
    }

    /// With the plugin `skills`, which is granted a database that may or may
    /// not be there.
    pub(crate) fn with_skills(self) -> Self {
        let settings = format!("[grant]\nsql = {{ skills = {:?} }}\n", self.skills_path());
        self.plugin("skills", "telltale_skills", &settings)
    }

    /// Where the database of `skills` is.
    pub(crate) fn skills_path(&self) -> PathBuf {
        self.path().join("skills.db")
    }

    /// Makes the database of `skills`.
    pub(crate) fn skills_database(&self) -> SkillsDatabase {
        SkillsDatabase::create(&self.skills_path())
    }

    /// The folder that all of it is in.
    pub(crate) fn path(&self) -> &Path {
        self.folder.path()
    }

    pub(crate) fn data(&self) -> PathBuf {
        self.path().join("data")
    }

    pub(crate) fn plugins(&self) -> PathBuf {
        self.path().join("plugins")
    }

    /// The arguments of `telltale serve`.
    pub(crate) fn arguments(&self) -> Vec<OsString> {
        let listen = self.listen.to_string();
        let text = ["serve", "--listen", &listen, "--tick"].map(OsString::from);
        let tick = format!("{}ms", self.tick_ms).into();
        let data = ["--data".into(), self.data().into()];
        let plugins = ["--plugins".into(), self.plugins().into()];
        text.into_iter().chain([tick]).chain(data).chain(plugins).collect()
    }

    /// The same for a hub within the test.
    pub(crate) fn config(&self) -> Config {
        Config {
            listen: vec![self.listen],
            tick: Duration::from_millis(self.tick_ms),
            data: self.data(),
            plugins: Some(self.plugins()),
            ..Config::default()
        }
    }

    /// Starts the program, and waits until its plugins are loaded and have been
    /// asked.
    pub(crate) async fn start(self) -> Hub {
        let hub = self.start_listening().await;
        within("the hub to be ready", async {
            while hub.get("/readyz").await.status != 200 {
                tokio::time::sleep(LOOK_EVERY).await;
            }
        })
        .await;
        // The first of them may have been under way already.
        let mut ticks = hub.native_with(&hub.file.admin_token).await;
        ticks.subscribe("metrics", json!({"name": "telltale.tick.lateness"})).await;
        ticks.next_push().await;
        ticks.next_push().await;
        hub
    }

    /// Starts the program, and waits until it listens.
    pub(crate) async fn start_listening(self) -> Hub {
        let environment = self.environment.iter().map(|(name, value)| (&**name, &**value));
        let environment: Vec<(&str, &str)> = environment.collect();
        let mut program = Program::start(self.path(), self.arguments(), &environment);
        let written = async {
            loop {
                // An earlier run that was killed has left its own.
                match HubFile::read(&self.data()) {
                    Ok(file) if file.pid == program.id() => return file,
                    _ => assert!(program.runs(), "the hub ended before it listened"),
                }
                tokio::time::sleep(LOOK_EVERY).await;
            }
        };
        let file = within("hub.json", written).await;
        let door = Door(file.addresses[0].parse().unwrap());
        Hub { program, setup: self, door, file }
    }
}

impl Deref for Hub {
    type Target = Door;

    fn deref(&self) -> &Door {
        &self.door
    }
}

impl Hub {
    pub(crate) fn setup(&self) -> &Setup {
        &self.setup
    }

    /// The folder that all of it is in.
    pub(crate) fn path(&self) -> &Path {
        self.setup.path()
    }

    /// Puts a component into the plugins folder at once, by a rename.
    pub(crate) fn drop_in(&self, name: &str, component: &[u8]) {
        self.place(&format!("{name}.wasm"), component);
    }

    /// Puts settings into the plugins folder at once.
    pub(crate) fn settings(&self, name: &str, settings: &str) {
        self.place(&format!("{name}.toml"), settings.as_bytes());
    }

    fn place(&self, file: &str, content: &[u8]) {
        let unfinished = self.setup.plugins().join(format!(".{file}"));
        fs::write(&unfinished, content).unwrap();
        fs::rename(unfinished, self.setup.plugins().join(file)).unwrap();
    }

    /// Begins to write a component in its place, and leaves it half-written.
    pub(crate) fn begin_to_write(&self, name: &str, component: &[u8]) -> Unfinished {
        let mut file = File::create(self.setup.plugins().join(format!("{name}.wasm"))).unwrap();
        let (begun, rest) = component.split_at(component.len() / 2);
        file.write_all(begun).unwrap();
        file.sync_all().unwrap();
        Unfinished { file, rest: rest.to_vec() }
    }

    /// Takes a plugin's component away.
    pub(crate) fn remove(&self, name: &str) {
        fs::remove_file(self.setup.plugins().join(format!("{name}.wasm"))).unwrap();
    }

    /// Ends it as a crash would; it can be started again.
    pub(crate) fn kill(mut self) -> Setup {
        self.program.kill();
        self.setup
    }

    /// Ends it with a signal; it can be started again.
    pub(crate) async fn stop_with(self, signal: Signal) -> (ExitStatus, Setup) {
        self.program.signal(signal);
        self.stopped().await
    }

    /// Waits until it has ended; it can be started again.
    pub(crate) async fn stopped(mut self) -> (ExitStatus, Setup) {
        let status = self.program.exit().await;
        (status, self.setup)
    }
}

/// A component that is being written.
pub(crate) struct Unfinished {
    file: File,
    rest: Vec<u8>,
}

impl Unfinished {
    /// Writes the rest and closes the file.
    pub(crate) fn finish(mut self) {
        self.file.write_all(&self.rest).unwrap();
    }
}
