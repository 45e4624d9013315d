//! Python: `componentize-py` puts the module and CPython into a component.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::tools::{find, missing, run};
use super::{Failure, Project, read};

const TOOL: &str = "componentize-py";

pub(super) fn build(project: &Project) -> Result<Vec<u8>, Failure> {
    let folder = std::path::absolute(&project.folder).map_err(Failure::new)?;
    let tool = installed(&folder)
        .or_else(|| find(TOOL))
        .ok_or_else(|| missing(TOOL, "pip install componentize-py"))?;
    let output = "build/component.wasm";
    let main = project.main.as_deref().unwrap_or("app");
    let mut command = Command::new(tool);
    command.args(["--wit-path", "build/wit", "--world", &project.world.to_string()]).args([
        "componentize",
        main.strip_suffix(".py").unwrap_or(main),
        "-o",
        output,
    ]);
    run(&mut command, &folder)?;
    read(&folder.join(output))
}

/// The tool in a virtual environment of the project's, where it is usual.
fn installed(folder: &Path) -> Option<PathBuf> {
    let environments = [".venv", "venv"].map(|name| folder.join(name).join("bin").join(TOOL));
    environments.into_iter().find(|file| file.is_file())
}
