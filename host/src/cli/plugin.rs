//! `telltale plugin …`

mod add;
mod bench;
mod build;
mod check;
mod dev;
mod inspect;
mod list;
mod logs;
pub(super) mod near;
mod new;
mod project;
mod remove;
mod resume;
pub(super) mod subject;
mod templates;
pub(super) mod text;

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::client::{AskError, HubClient};
use super::{Failure, client, load, print, tell};

/// What `telltale plugin --help` ends with.
pub(super) const THE_WAY: &str = "\
From nothing to a live plugin:
  telltale plugin new dice --lang rust --kind collector   a project in ./dice
  telltale plugin build dice                              dice/dice.wasm, from its sources
  telltale plugin check dice/dice.wasm                    does it keep the rules, within its limits?
  telltale plugin bench dice/dice.wasm                    what does it cost?
  telltale plugin dev dice                                built and reloaded at each change
  telltale plugin add dice/dice.wasm                      into the plugins folder, for good

What runs is found by the hub's data folder (--data), and asked over its HTTP API.
With --json the answer on standard output is JSON; what goes wrong is one line on standard error.
Exit codes: 0 all is well; 1 something went wrong, or a check failed; 64 the command line or a \
file that it names asks for what can't be.";

#[derive(Debug, Subcommand)]
pub(super) enum PluginCommand {
    /// Begin a plugin: a project that builds at once
    New(new::New),
    /// Build the plugin of a project, or make a component of a core module
    Build(build::Build),
    /// See whether a component keeps the rules of the interface, within its limits
    Check(check::Check),
    /// Measure what a component costs
    Bench(bench::Bench),
    /// Build and reload a project's plugin in the running hub at each change of its sources
    Dev(dev::Dev),
    /// Show the plugins of the running hub, and the bundled ones that can be added
    List(list::List),
    /// Show one plugin: what it imports and declares, what it costs, how it failed
    Inspect(inspect::Inspect),
    /// Show what a plugin has logged
    Logs(logs::Logs),
    /// Start a plugin again that was stopped for its failures
    Resume(resume::Resume),
    /// Put a plugin into the plugins folder; a running hub loads it at once
    Add(add::Add),
    /// Take a plugin out of the running hub and its plugins folder
    Remove(remove::Remove),
}

/// Where the hub has its things.
#[derive(Debug, Args)]
pub(super) struct Place {
    /// The configuration file [default: telltale.toml, if there is one]
    #[arg(long, value_name = "FILE", env = "TELLTALE_CONFIG")]
    config: Option<PathBuf>,
    /// The hub's data folder [default: telltale-data]
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
}

impl Place {
    /// The data folder, and the plugins folder that goes with it.
    fn folders(&self) -> Result<(PathBuf, PathBuf), Failure> {
        let mut config = load(self.config.as_ref())?;
        if let Some(data) = &self.data {
            config.data.clone_from(data);
        }
        let plugins = config.plugins_folder();
        Ok((config.data, plugins))
    }

    /// The hub that runs there.
    pub(super) fn hub(&self) -> Result<HubClient, Failure> {
        HubClient::find(&self.folders()?.0, "--data")
    }
}

impl PluginCommand {
    pub(super) fn run(self) -> Result<(), Failure> {
        match self {
            Self::New(command) => command.run(),
            Self::Build(command) => command.run(),
            Self::Check(command) => command.run(),
            Self::Bench(command) => command.run(),
            Self::Dev(command) => command.run(),
            Self::List(command) => command.run(),
            Self::Inspect(command) => command.run(),
            Self::Logs(command) => command.run(),
            Self::Resume(command) => command.run(),
            Self::Add(command) => command.run(),
            Self::Remove(command) => command.run(),
        }
    }
}

/// The path of a plugin in the hub's API.
fn path_of(name: &str, rest: &str) -> String {
    let name: String = form_urlencoded::byte_serialize(name.as_bytes()).collect();
    format!("/v1/plugins/{name}{rest}")
}

/// Why the hub did not do what it was asked about a plugin. One that it doesn't
/// know may be a slip of the pen.
pub(super) async fn no_answer(hub: &HubClient, name: &str, error: AskError) -> Failure {
    if !matches!(error, AskError::Refused { status: 404, .. }) {
        return error.into();
    }
    let plugins = match hub.get("/v1/plugins").await {
        Ok(plugins) => plugins,
        Err(error) => return error.into(),
    };
    let listed = plugins["plugins"].as_array().into_iter().flatten();
    let names: Vec<&str> = listed.filter_map(|plugin| plugin["name"].as_str()).collect();
    let hint = near::hint(name, &names);
    Failure::new(format!("no plugin `{name}` runs in the hub{hint}"))
}
