//! A real PostgreSQL server, in a folder of its own on a free port.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use rustix::process::Signal;
use tempfile::TempDir;
use tokio_postgres::{Client, NoTls};

use super::{Program, needs, within};

/// Who runs it where the tests are run by root, whom it refuses to serve.
const NOBODY: u32 = 65_534;

/// What the server does without for the sake of speed, and where it listens.
const SETTINGS: &str = "
    fsync = off
    listen_addresses = '127.0.0.1'
    max_connections = 40
    max_wal_size = 64MB
    shared_buffers = 8MB
    log_line_prefix = '%p '
";

/// The server, or its folder while it doesn't run. Dropping it ends it.
///
/// It has a database `app`, the superuser `postgres` and a role `reader` that
/// may read all there is in `app`. The password of both is [`Self::PASSWORD`].
pub(crate) struct Postgres {
    folder: TempDir,
    programs: PathBuf,
    port: u16,
    program: Option<Program>,
}

impl Postgres {
    /// What may be seen nowhere.
    pub(crate) const PASSWORD: &str = "tell-no-one";

    /// A server that runs, if there is one on this machine.
    pub(crate) async fn start() -> Option<Self> {
        Self::start_with("", &[]).await
    }

    /// The same with more lines in `postgresql.conf`, and with files of the
    /// folder that this is in.
    pub(crate) async fn start_with(settings: &str, files: &[(&str, &str)]) -> Option<Self> {
        let programs = needs("PostgreSQL", programs())?;
        let folder = TempDir::new().unwrap();
        own(folder.path());
        let mut server = Self { folder, programs, port: 0, program: None };
        server.create(settings, files);
        server.run().await;
        let statements = format!(
            "CREATE ROLE reader LOGIN PASSWORD '{}'; GRANT pg_read_all_data TO reader",
            Self::PASSWORD
        );
        server.sql_in("postgres", &statements).await;
        server.sql_in("postgres", "CREATE DATABASE app").await;
        Some(server)
    }

    /// The address of `app` for its reader, as a setting has it.
    pub(crate) fn address(&self) -> String {
        format!("postgres://reader:{}@127.0.0.1:{}/app", Self::PASSWORD, self.port)
    }

    /// The port that it has, also after it was restarted.
    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// Where its Unix socket is.
    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Runs statements in `app` as the superuser.
    pub(crate) async fn sql(&self, statements: &str) {
        self.sql_in("app", statements).await;
    }

    /// The first column of what a SELECT answers in `app`, as text.
    pub(crate) async fn ask(&self, select: &str) -> Vec<String> {
        let rows = self.client("app").await.unwrap().simple_query(select).await.unwrap();
        let first = |message| match message {
            tokio_postgres::SimpleQueryMessage::Row(row) => row.get(0).map(str::to_owned),
            _ => None,
        };
        rows.into_iter().filter_map(first).collect()
    }

    /// Ends it as a crash of the machine would.
    pub(crate) fn kill(&mut self) {
        self.program.take().unwrap().kill();
    }

    /// Ends it in order; its clients are sent away.
    pub(crate) async fn stop(&mut self) {
        let mut program = self.program.take().unwrap();
        program.signal(Signal::INT);
        program.exit().await;
    }

    /// Runs it again after [`Self::kill`] or [`Self::stop`], on the same port.
    pub(crate) async fn restart(&mut self) {
        assert!(self.program.is_none(), "it runs");
        self.run().await;
    }

    /// Makes its folder.
    fn create(&self, settings: &str, files: &[(&str, &str)]) {
        let password = self.folder.path().join("password");
        fs::write(&password, Self::PASSWORD).unwrap();
        own(&password);
        let mut command = self.command("initdb");
        command.arg("--pwfile").arg(&password).args([
            "--username=postgres",
            "--auth=scram-sha-256",
            "--encoding=UTF8",
            "--locale=C",
            "--no-sync",
            "--no-instructions",
        ]);
        let done = command.arg("-D").arg(self.data()).output().unwrap();
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        let sockets = self.folder.path().display();
        let settings = format!("{SETTINGS}\nunix_socket_directories = '{sockets}'\n{settings}\n");
        // It is read after `postgresql.conf`, and wins.
        self.file("postgresql.auto.conf", &settings);
        for (name, text) in files {
            self.file(name, text);
        }
    }

    fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    fn file(&self, name: &str, text: &str) {
        let path = self.data().join(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        own(&path);
    }

    /// One of its programs, as a user that it serves.
    fn command(&self, program: &str) -> Command {
        let mut command = as_somebody(&self.programs.join(program));
        command.current_dir(self.folder.path()).env("LC_ALL", "C").env("TZ", "UTC");
        command
    }

    /// Starts it until it answers: what is left of one that was killed may be
    /// in its way, and so may another program on the port that was free.
    async fn run(&mut self) {
        let known = self.port != 0;
        within("PostgreSQL to answer", async {
            loop {
                if !known {
                    let free = TcpListener::bind("127.0.0.1:0").unwrap();
                    self.port = free.local_addr().unwrap().port();
                }
                let mut command = self.command("postgres");
                command.arg("-D").arg(self.data()).arg("-p").arg(self.port.to_string());
                let mut program = Program::run(&mut command);
                while program.runs() {
                    // Not until it takes connections, nor while it recovers.
                    if self.client("postgres").await.is_ok() {
                        self.program = Some(program);
                        return;
                    }
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            }
        })
        .await;
    }

    async fn sql_in(&self, database: &str, statements: &str) {
        let client = self.client(database).await.unwrap();
        client.batch_execute(statements).await.unwrap();
    }

    /// A connection of the superuser's, which ends with it.
    pub(crate) async fn client(&self, database: &str) -> Result<Client, tokio_postgres::Error> {
        let mut config = tokio_postgres::Config::new();
        config.host("127.0.0.1").port(self.port).dbname(database);
        let config = config.user("postgres").password(Self::PASSWORD);
        let (client, connection) = config.connect(NoTls).await?;
        tokio::spawn(connection);
        Ok(client)
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        // Not killed: it ends its processes, and gives back its shared memory.
        if let Some(program) = &mut self.program
            && program.runs()
        {
            program.signal(Signal::QUIT);
            program.wait();
        }
    }
}

/// A program, by a user that PostgreSQL serves.
fn as_somebody(program: &Path) -> Command {
    let mut command = Command::new(program);
    if rustix::process::geteuid().is_root() {
        command.uid(NOBODY).gid(NOBODY);
    }
    command
}

/// Gives a file to who runs PostgreSQL.
fn own(path: &Path) {
    if rustix::process::geteuid().is_root() {
        chown(path, Some(NOBODY), Some(NOBODY)).unwrap();
    }
}

/// The folder of the programs, where there is one that runs here: the one that
/// `tests/tools.sh` brings, one on the path, or the system's newest.
fn programs() -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut system = folders(Path::new("/usr/lib/postgresql"), "bin");
    system.sort();
    let mut places = std::env::split_paths(&path).chain(system.into_iter().rev());
    places.find(|folder| {
        ["initdb", "postgres"].iter().all(|program| {
            let mut command = as_somebody(&folder.join(program));
            command.arg("--version").stdout(Stdio::null()).stderr(Stdio::null());
            command.status().is_ok_and(|status| status.success())
        })
    })
}

/// What is called `name` in each folder of `path`.
fn folders(path: &Path, name: &str) -> Vec<PathBuf> {
    let there = fs::read_dir(path).into_iter().flatten().flatten();
    there.map(|entry| entry.path().join(name)).collect()
}
