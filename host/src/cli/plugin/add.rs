//! `telltale plugin add`

use std::path::{Path, PathBuf};

use clap::Args;
use serde_json::json;

use super::{Failure, HubClient, Place, near, print};
use crate::plugin::{BUNDLED, Bundled, place};

#[derive(Debug, Args)]
pub(in crate::cli) struct Add {
    /// The name of a bundled plugin, or a component's file (NAME.wasm)
    #[arg(value_name = "NAME|FILE")]
    what: String,
    #[command(flatten)]
    place: Place,
    /// The plugins folder [default: that of the hub on the data folder, or plugins in it]
    #[arg(long, value_name = "DIR")]
    plugins: Option<PathBuf>,
    /// Write JSON
    #[arg(long)]
    json: bool,
}

impl Add {
    pub(super) fn run(self) -> Result<(), Failure> {
        let folder = match &self.plugins {
            Some(plugins) => plugins.clone(),
            None => self.usual_folder()?,
        };
        let at = |error: std::io::Error| Failure::new(format!("{}: {error}", folder.display()));
        std::fs::create_dir_all(&folder).map_err(at)?;
        let written = match Bundled::named(&self.what) {
            Some(bundled) => bundled.install(&folder),
            None => add_file(Path::new(&self.what), &folder)?,
        };
        let written = written.map_err(at)?;
        if self.json {
            print(&json!({"written": written}).to_string());
        } else {
            written.iter().for_each(|path| print(&format!("wrote {}", path.display())));
        }
        Ok(())
    }
}

impl Add {
    /// Where the hub looks, or would look.
    fn usual_folder(&self) -> Result<PathBuf, Failure> {
        let (data, plugins) = self.place.folders()?;
        Ok(HubClient::find(&data, "--data").map_or(plugins, |hub| hub.plugins_folder().to_owned()))
    }
}

type Written = std::io::Result<Vec<PathBuf>>;

fn add_file(file: &Path, folder: &Path) -> Result<Written, Failure> {
    if file.extension().is_none_or(|extension| extension != "wasm") {
        let names: Vec<&str> = BUNDLED.iter().map(|bundled| bundled.name).collect();
        return Err(Failure::usage(format!(
            "{} is neither a bundled plugin ({}) nor the file of a component, NAME.wasm{}",
            file.display(),
            names.join(", "),
            near::suggestion(&file.to_string_lossy(), &names)
        )));
    }
    let component = std::fs::read(file)
        .map_err(|error| Failure::new(format!("{}: {error}", file.display())))?;
    if !component.starts_with(b"\0asm\x0d\0\x01\0") {
        return Err(Failure::new(format!(
            "{file} is no component: `telltale plugin build {file} --world collector -o FILE` \
             makes one of a core module",
            file = file.display()
        )));
    }
    let target = folder.join(file.file_name().unwrap_or_default());
    Ok(place(&target, &component).map(|()| vec![target]))
}
