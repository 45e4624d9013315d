//! Other processes: where they run, what they use up.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};

/// What the load client runs on; servers with one core have the other.
const CLIENT_CORE: &str = "1";

/// A program that is running. Dropping it kills it.
pub(crate) struct Process {
    child: Child,
}

/// Nanoseconds that each thread has run.
pub(crate) struct Cpu(BTreeMap<u32, u64>);

impl Process {
    /// Starts a command on some cores (`0`, `0,1`), its input a pipe and its
    /// errors in a file.
    pub(crate) fn start(command: &Command, cores: &str, errors: &Path) -> io::Result<Self> {
        let mut pinned = Command::new("taskset");
        pinned.args(["-c", cores]).arg(command.get_program()).args(command.get_args());
        for (name, value) in command.get_envs() {
            match value {
                Some(value) => pinned.env(name, value),
                None => pinned.env_remove(name),
            };
        }
        let child = pinned
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(fs::File::create(errors)?)
            .spawn()
            .map_err(|error| io::Error::other(format!("taskset, of util-linux: {error}")))?;
        Ok(Self { child })
    }

    /// Its ends of the pipes.
    pub(crate) fn child(&mut self) -> &mut Child {
        &mut self.child
    }

    /// Where it reads from.
    pub(crate) fn input(&mut self) -> io::Result<&mut ChildStdin> {
        self.child.stdin.as_mut().ok_or_else(|| io::Error::other("its input is closed"))
    }

    /// Fails if it has ended.
    pub(crate) fn check(&mut self) -> io::Result<()> {
        match self.child.try_wait()? {
            Some(status) => Err(io::Error::other(format!("it has ended: {status}"))),
            None => Ok(()),
        }
    }

    /// What its threads have used so far.
    pub(crate) fn cpu(&self) -> io::Result<Cpu> {
        let mut threads = BTreeMap::new();
        for task in fs::read_dir(format!("/proc/{}/task", self.child.id()))? {
            let task = task?;
            // A thread may end while it is looked at.
            let Ok(text) = fs::read_to_string(task.path().join("schedstat")) else { continue };
            let ran = text.split(' ').next().and_then(|ran| ran.parse::<u64>().ok());
            let id = task.file_name().to_str().and_then(|id| id.parse::<u32>().ok());
            threads.extend(id.zip(ran));
        }
        Ok(Cpu(threads))
    }

    /// Bytes of anonymous memory that it has in use (`RssAnon`).
    pub(crate) fn memory(&self) -> io::Result<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:"));
        let kib = line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<u64>().ok());
        kib.map(|kib| kib * 1024).ok_or_else(|| io::Error::other("no RssAnon in its status"))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // An error means that it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Cpu {
    /// Nanoseconds that all threads have run since `before`. A thread that has
    /// ended in between is not counted.
    pub(crate) fn since(&self, before: &Self) -> u64 {
        let since = |(id, ran): (&u32, &u64)| ran - before.0.get(id).copied().unwrap_or_default();
        self.0.iter().map(since).sum()
    }
}

/// Moves this program to the client's core, and with it what it will start
/// without a core of its own.
pub(crate) fn pin_self() -> io::Result<()> {
    let id = std::process::id().to_string();
    let output = Command::new("taskset").args(["-cp", CLIENT_CORE, &id]).output();
    match output {
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => Err(io::Error::other(format!(
            "this takes two cores: {}",
            String::from_utf8_lossy(&output.stderr).trim()
        ))),
        Err(error) => Err(io::Error::other(format!("taskset, of util-linux: {error}"))),
    }
}

/// Of one, five and fifteen minutes.
pub(crate) fn load_average() -> String {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').take(3).collect::<Vec<_>>().join(" ")
}
