//! Rust: `cargo build` for `wasm32-wasip2` makes a component by itself.

use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;

use super::tools::{answer, find, missing, run};
use super::{Failure, Project, read};

const TARGET: &str = "wasm32-wasip2";
const RUSTUP: &str = "curl --proto '=https' --tlsv1.2 -sSf https://sh.rustup.rs | sh";

pub(super) fn build(project: &Project) -> Result<Vec<u8>, Failure> {
    if find("cargo").is_none() {
        return Err(missing("cargo", RUSTUP));
    }
    if !has_target(&project.folder) {
        add_target(&project.folder)?;
    }
    let output = Command::new("cargo")
        .args(["build", "--release", "--target", TARGET])
        .args(["--message-format", "json-render-diagnostics"])
        .current_dir(&project.folder)
        .stdin(Stdio::null())
        .stderr(io::stderr())
        .output()
        .map_err(|error| Failure::new(format!("cargo: {error}")))?;
    if !output.status.success() {
        return Err(Failure::new(format!(
            "cargo failed ({}); what it said is above",
            output.status
        )));
    }
    let component = component(&String::from_utf8_lossy(&output.stdout)).ok_or_else(|| {
        Failure::new("cargo built no component: Cargo.toml needs [lib] crate-type = [\"cdylib\"]")
    })?;
    read(&component)
}

/// The last `.wasm` file that cargo tells of: dependencies come first.
fn component(messages: &str) -> Option<PathBuf> {
    let messages = messages.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let files = messages
        .filter(|message| message["reason"] == "compiler-artifact")
        .filter_map(|message| message["filenames"].as_array().cloned())
        .flatten();
    let mut files = files.filter_map(|file| file.as_str().map(PathBuf::from));
    files.rfind(|file| file.extension().is_some_and(|extension| extension == "wasm"))
}

fn has_target(folder: &Path) -> bool {
    let sysroot = answer(Command::new("rustc").args(["--print", "sysroot"]).current_dir(folder));
    sysroot.is_some_and(|sysroot| {
        Path::new(&sysroot).join("lib/rustlib").join(TARGET).join("lib").exists()
    })
}

fn add_target(folder: &Path) -> Result<(), Failure> {
    if find("rustup").is_none() {
        let line = format!("rustup target add {TARGET}");
        return Err(missing(&format!("Rust's target {TARGET}"), &line));
    }
    run(Command::new("rustup").args(["target", "add", TARGET]), folder)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_component_is_what_cargo_made_last() {
        let messages = r#"
            {"reason":"compiler-artifact","filenames":["/t/deps/libserde.rlib"]}
            not json
            {"reason":"compiler-artifact","filenames":["/t/dice.wasm","/t/dice.d"]}
            {"reason":"build-finished","success":true}"#;
        assert_eq!(component(messages), Some(PathBuf::from("/t/dice.wasm")));
        assert_eq!(component("{}"), None);
    }
}
