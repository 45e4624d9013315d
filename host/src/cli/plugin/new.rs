//! `telltale plugin new`

use std::path::{Path, PathBuf};

use clap::Args;
use serde_json::json;

use super::project::{Kind, Lang, check_name};
use super::{Failure, print, templates};

#[derive(Debug, Args)]
pub(in crate::cli) struct New {
    /// What the plugin is called: a letter, then letters, digits, `_` and `-`
    name: String,
    /// What it is written in
    #[arg(long, value_enum)]
    lang: Lang,
    /// What sort of plugin it is
    #[arg(long, value_enum)]
    kind: Kind,
    /// The project's folder, which must be new or empty [default: NAME]
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// Write JSON
    #[arg(long)]
    json: bool,
}

impl New {
    pub(super) fn run(self) -> Result<(), Failure> {
        check_name(&self.name).map_err(Failure::usage)?;
        let folder = self.dir.unwrap_or_else(|| PathBuf::from(&self.name));
        refuse_to_overwrite(&folder)?;
        let mut written = Vec::new();
        for (path, text) in templates::project(self.lang, self.kind, &self.name) {
            let path = folder.join(path);
            write(&path, &text)
                .map_err(|error| Failure::new(format!("{}: {error}", path.display())))?;
            written.push(path);
        }
        if self.json {
            let answer = json!({"name": self.name, "folder": folder, "written": written});
            print(&answer.to_string());
            return Ok(());
        }
        written.iter().for_each(|path| print(&format!("wrote {}", path.display())));
        let (shown, component) = (folder.display(), format!("{}.wasm", self.name));
        print(&format!(
            "\nnext:\n  telltale plugin build {shown}\n  telltale plugin check {}\n  \
             telltale plugin dev {shown}    with a hub running: `telltale serve`",
            folder.join(component).display()
        ));
        Ok(())
    }
}

fn refuse_to_overwrite(folder: &Path) -> Result<(), Failure> {
    match std::fs::read_dir(folder).map(|mut entries| entries.next()) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(Failure::usage(format!("{}: {error}", folder.display()))),
        Ok(None) => Ok(()),
        Ok(Some(_)) => Err(Failure::usage(format!(
            "{} is there, and not empty: name another folder with --dir",
            folder.display()
        ))),
    }
}

fn write(path: &Path, text: &str) -> std::io::Result<()> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder)?;
    }
    std::fs::write(path, text)
}
