//! `telltale plugin …`

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use serde_json::Value;

use super::{Failure, client, load, print};
use crate::plugin::{BUNDLED, Bundled, place};

#[derive(Debug, Subcommand)]
pub(super) enum PluginCommand {
    /// Show the plugins of the running hub, and the bundled ones that can be added
    List {
        #[command(flatten)]
        place: Place,
        /// Write JSON
        #[arg(long)]
        json: bool,
    },
    /// Put a plugin into the plugins folder; a running hub loads it at once
    Add {
        /// The name of a bundled plugin, or a component's file (NAME.wasm)
        #[arg(value_name = "NAME|FILE")]
        what: String,
        #[command(flatten)]
        place: Place,
    },
}

#[derive(Debug, Args)]
pub(super) struct Place {
    /// The configuration file [default: telltale.toml, if there is one]
    #[arg(long, value_name = "FILE", env = "TELLTALE_CONFIG")]
    config: Option<PathBuf>,
    /// The hub's data folder [default: telltale-data]
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// The plugins folder [default: plugins in the data folder]
    #[arg(long, value_name = "DIR")]
    plugins: Option<PathBuf>,
}

impl Place {
    /// The data folder and the plugins folder.
    fn folders(&self) -> Result<(PathBuf, PathBuf), Failure> {
        let mut config = load(self.config.as_ref())?;
        if let Some(data) = &self.data {
            config.data.clone_from(data);
        }
        if self.plugins.is_some() {
            config.plugins.clone_from(&self.plugins);
        }
        let plugins = config.plugins_folder();
        Ok((config.data, plugins))
    }
}

impl PluginCommand {
    pub(super) fn run(self) -> Result<(), Failure> {
        match self {
            Self::List { place, json } => list(&place, json),
            Self::Add { what, place } => {
                let (_, folder) = place.folders()?;
                add(&what, &folder)
            }
        }
    }
}

fn list(place: &Place, json: bool) -> Result<(), Failure> {
    let (data, _) = place.folders()?;
    let answer = client::get(&data, "/v1/plugins").map_err(Failure::new)?;
    if json {
        print(&answer.to_string());
        return Ok(());
    }
    let plugins = answer["plugins"].as_array().cloned().unwrap_or_default();
    let text = |plugin: &Value, key: &str| plugin[key].as_str().unwrap_or_default().to_owned();
    print(&format!("{:<16} {:<10} {:<12} {:>7}  SINCE", "NAME", "ROLE", "STATE", "SERIES"));
    for plugin in &plugins {
        print(&format!(
            "{:<16} {:<10} {:<12} {:>7}  {}",
            text(plugin, "name"),
            text(plugin, "role"),
            text(plugin, "state"),
            plugin["series"],
            text(plugin, "since"),
        ));
        if let Some(reason) = plugin["reason"].as_str() {
            print(&format!("{:<16} {reason}", ""));
        }
    }
    let listed = |bundled: &&Bundled| plugins.iter().any(|plugin| plugin["name"] == bundled.name);
    let others: Vec<_> = BUNDLED.iter().filter(|bundled| !listed(bundled)).collect();
    if !others.is_empty() {
        print("\nbundled, to be added with `telltale plugin add NAME`:");
        for bundled in others {
            print(&format!("{:<16} {}", bundled.name, bundled.summary));
        }
    }
    Ok(())
}

fn add(what: &str, folder: &Path) -> Result<(), Failure> {
    std::fs::create_dir_all(folder)
        .map_err(|error| Failure::new(format!("{}: {error}", folder.display())))?;
    let written = match Bundled::named(what) {
        Some(bundled) => bundled.install(folder),
        None => add_file(Path::new(what), folder)?,
    };
    let written =
        written.map_err(|error| Failure::new(format!("{}: {error}", folder.display())))?;
    for path in written {
        print(&format!("wrote {}", path.display()));
    }
    Ok(())
}

type Written = std::io::Result<Vec<PathBuf>>;

fn add_file(file: &Path, folder: &Path) -> Result<Written, Failure> {
    let names: Vec<&str> = BUNDLED.iter().map(|bundled| bundled.name).collect();
    if file.extension().is_none_or(|extension| extension != "wasm") {
        return Err(Failure::usage(format!(
            "{} is neither a bundled plugin ({}) nor the file of a component, NAME.wasm",
            file.display(),
            names.join(", ")
        )));
    }
    let component = std::fs::read(file)
        .map_err(|error| Failure::new(format!("{}: {error}", file.display())))?;
    if !component.starts_with(b"\0asm\x0d\0\x01\0") {
        return Err(Failure::new(format!(
            "{} is no component (a core module is made one by `wasm32-wasip2`, or by wit-component)",
            file.display()
        )));
    }
    let target = folder.join(file.file_name().unwrap_or_default());
    Ok(place(&target, &component).map(|()| vec![target]))
}
