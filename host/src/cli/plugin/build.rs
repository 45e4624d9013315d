//! `telltale plugin build`

mod c;
mod component;
mod js;
mod python;
mod rust;
mod tools;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use clap::Args;
use serde_json::json;

use super::project::{Lang, Project, World};
use super::{Failure, print, templates, text};
use crate::plugin::place;

#[derive(Debug, Args)]
pub(in crate::cli) struct Build {
    /// A project's folder, or a core module (`.wasm`) to make a component of
    #[arg(value_name = "DIR|CORE", default_value = ".")]
    what: PathBuf,
    /// The world that a core module is for
    #[arg(long, value_enum)]
    world: Option<World>,
    /// Where the component goes [default: NAME.wasm in the project's folder]
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Write JSON
    #[arg(long)]
    json: bool,
}

impl Build {
    pub(super) fn run(self) -> Result<(), Failure> {
        let built = if self.what.is_file() {
            let (Some(world), Some(output)) = (self.world, &self.output) else {
                return Err(Failure::usage(
                    "a core module needs its --world and the component's --output",
                ));
            };
            component_of(&self.what, world, output)?
        } else {
            if self.world.is_some() {
                return Err(Failure::usage("a project's world is in its telltale-plugin.toml"));
            }
            build(&Project::open(&self.what)?, self.output.as_deref())?
        };
        built.show(self.json);
        Ok(())
    }
}

/// A component that was built.
#[derive(Debug)]
pub(super) struct Built {
    pub(super) component: PathBuf,
    bytes: u64,
    took: Duration,
}

impl Built {
    fn show(&self, json: bool) {
        let Self { component, bytes, took } = self;
        if json {
            let answer = json!({
                "component": component, "bytes": bytes, "took_ms": took.as_secs_f64() * 1e3,
            });
            print(&answer.to_string());
        } else {
            print(&self.words());
        }
    }

    /// What was built, how large it is, and how long it took.
    pub(super) fn words(&self) -> String {
        let (size, took) = (text::bytes(self.bytes), text::nanos(self.took.as_secs_f64() * 1e9));
        format!("built {}: {size} in {took}", self.component.display())
    }
}

/// Builds a project's component. What its tools say goes to standard error.
///
/// # Errors
///
/// A tool is missing, with the line that installs it; or it failed.
pub(super) fn build(project: &Project, output: Option<&Path>) -> Result<Built, Failure> {
    let started = Instant::now();
    let folder = project.build_folder();
    let wit = folder.join("wit");
    templates::write_wit(&wit)
        .map_err(|error| Failure::new(format!("{}: {error}", wit.display())))?;
    let component = match project.lang {
        Lang::Rust => rust::build(project)?,
        Lang::Js => js::build(project)?,
        Lang::Python => python::build(project)?,
        Lang::C => c::build(project)?,
    };
    let output = output.map_or_else(|| project.component(), Path::to_owned);
    finish(&component, output, started)
}

fn component_of(core: &Path, world: World, output: &Path) -> Result<Built, Failure> {
    let started = Instant::now();
    let module = read(core)?;
    let component = component::of_module(&module, Some(world))
        .map_err(|words| Failure::new(format!("{}: {words}", core.display())))?;
    finish(&component, output.to_owned(), started)
}

/// Puts a component where it is wanted, at once.
fn finish(component: &[u8], output: PathBuf, started: Instant) -> Result<Built, Failure> {
    place(&output, component)
        .map_err(|error| Failure::new(format!("{}: {error}", output.display())))?;
    Ok(Built { bytes: component.len() as u64, component: output, took: started.elapsed() })
}

fn read(path: &Path) -> Result<Vec<u8>, Failure> {
    std::fs::read(path).map_err(|error| Failure::new(format!("{}: {error}", path.display())))
}
