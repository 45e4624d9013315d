//! Finding and running the languages' tools.

use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::Failure;

/// A program in the folders of `PATH`.
pub(super) fn find(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|folder| folder.join(name)).find(|file| file.is_file())
}

/// Why nothing is built, and what to do about it.
pub(super) fn missing(tool: &str, install: &str) -> Failure {
    Failure::new(format!("{tool} is missing; install it with: {install}"))
}

/// Runs a tool in a folder. All that it says goes to standard error: standard
/// output is for answers.
///
/// # Errors
///
/// It can't be started, or ends with an error.
pub(super) fn run(command: &mut Command, folder: &Path) -> Result<(), Failure> {
    let name = command.get_program().to_string_lossy().into_owned();
    let status = command
        .current_dir(folder)
        .stdin(Stdio::null())
        .stdout(io::stderr())
        .status()
        .map_err(|error| Failure::new(format!("{name}: {error}")))?;
    if status.success() {
        return Ok(());
    }
    Err(Failure::new(format!("{name} failed ({status}); what it said is above")))
}

/// What a tool answers in one line, if it does.
pub(super) fn answer(command: &mut Command) -> Option<String> {
    let output = command.stdin(Stdio::null()).stderr(Stdio::null()).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| text.trim().to_owned())
}
