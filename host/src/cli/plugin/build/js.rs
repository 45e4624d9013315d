//! JavaScript: `componentize-qjs` puts the source and QuickJS into a component.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::tools::{find, missing, run};
use super::{Failure, Project, read};

const TOOL: &str = "componentize-qjs";

pub(super) fn build(project: &Project) -> Result<Vec<u8>, Failure> {
    let folder = std::path::absolute(&project.folder).map_err(Failure::new)?;
    let tool = installed(&folder)
        .or_else(|| find(TOOL))
        .ok_or_else(|| missing(TOOL, "npm install --save-dev componentize-qjs"))?;
    let output = "build/component.wasm";
    let mut command = Command::new(tool);
    command
        .args(["-w", "build/wit", "-n", &project.world.to_string()])
        .args(["-j", project.main.as_deref().unwrap_or("app.js"), "-o", output])
        // The hub calls synchronous exports. WASI is not stubbed: an exception
        // is told by way of standard error.
        .arg("--sync");
    run(&mut command, &folder)?;
    read(&folder.join(output))
}

/// The tool in the `node_modules` of a folder or of one above it.
fn installed(folder: &Path) -> Option<PathBuf> {
    let file = |folder: &Path| folder.join("node_modules/.bin").join(TOOL);
    folder.ancestors().map(file).find(|file| file.is_file())
}
