//! `telltale plugin dev`

mod event;
mod live;
mod sources;

use std::path::{Path, PathBuf};

use clap::Args;

use super::build::{Built, build};
use super::project::Project;
use super::{AskError, Failure, HubClient, Place, client, logs, path_of, print, tell};
use crate::plugin::place;

use event::Event;
use live::Live;
use sources::Sources;

#[derive(Debug, Args)]
#[command(after_help = "\
Needs a running hub, such as `telltale serve` in another terminal. The plugin stays in it until \
`telltale plugin remove NAME`. Settings beside the sources (NAME.toml) are put into the hub's \
folder too, unless somebody has others there.")]
pub(in crate::cli) struct Dev {
    /// The project's folder
    #[arg(value_name = "DIR", default_value = ".")]
    folder: PathBuf,
    /// Build and reload once, show the first values, and end
    #[arg(long)]
    once: bool,
    #[command(flatten)]
    place: Place,
    /// Write a JSON object for each thing that happens
    #[arg(long)]
    json: bool,
}

impl Dev {
    pub(super) fn run(self) -> Result<(), Failure> {
        client::wait_for(async {
            tokio::select! {
                done = self.develop() => done,
                // Whoever stops it has seen enough.
                _ = tokio::signal::ctrl_c() => Ok(()),
            }
        })
    }

    async fn develop(&self) -> Result<(), Failure> {
        let project = Project::open(&self.folder)?;
        let hub = self.place.hub()?;
        let mut sources = Sources::watch(&self.folder)?;
        let mut live = Live::new(&project.name);
        let mut settings = Settings::default();
        loop {
            let turn = self.turn(&hub, &mut live, &mut settings).await;
            if self.once {
                return turn;
            }
            if let Err(failure) = turn {
                tell(&format!("telltale: {}", failure.words));
            }
            tokio::select! {
                () = sources.changed() => {}
                ended = live.show(&hub, |event| self.say(&event)) => return ended,
            }
        }
    }

    /// From the sources to the hub's verdict.
    async fn turn(
        &self,
        hub: &HubClient,
        live: &mut Live,
        settings: &mut Settings,
    ) -> Result<(), Failure> {
        // It may be what has changed.
        let project = Project::open(&self.folder)?;
        if project.name != live.name() {
            return Err(Failure::new("the plugin has another name now: start `dev` again"));
        }
        settings.place(&project, hub.plugins_folder())?;
        let built = tokio::task::spawn_blocking(move || build(&project, None));
        let built = built.await.map_err(Failure::new)??;
        self.say(&Event::Built { words: built.words(), component: &built.component });
        self.reload(hub, live, &built).await?;
        if self.once {
            live.first_values(hub, |event| self.say(&event)).await?;
        }
        Ok(())
    }

    async fn reload(&self, hub: &HubClient, live: &mut Live, built: &Built) -> Result<(), Failure> {
        let component = std::fs::read(&built.component)
            .map_err(|error| Failure::new(format!("{}: {error}", built.component.display())))?;
        let hash = blake3::hash(&component).to_hex();
        if live.runs(hub, &hash[..12]).await? {
            self.say(&Event::Unchanged);
            return Ok(());
        }
        live.skip_log(hub).await?;
        let target = hub.plugins_folder().join(built.component.file_name().unwrap_or_default());
        place(&target, &component)
            .map_err(|error| Failure::new(format!("{}: {error}", target.display())))?;
        live.verdict(hub, |event| self.say(&event)).await
    }

    fn say(&self, event: &Event<'_>) {
        print(&if self.json { event.as_json() } else { event.to_string() });
    }
}

/// The project's own settings, and what became of them.
#[derive(Debug, Default)]
struct Settings {
    /// What was put into the hub's folder.
    placed: Option<Vec<u8>>,
    /// It was told that there are others.
    told: bool,
}

impl Settings {
    /// Puts the settings beside the sources into the hub's folder, unless there
    /// are some of somebody else's.
    fn place(&mut self, project: &Project, plugins: &Path) -> Result<(), Failure> {
        let name = format!("{}.toml", project.name);
        let Ok(own) = std::fs::read(project.folder.join(&name)) else { return Ok(()) };
        let target = plugins.join(name);
        let there = std::fs::read(&target).ok();
        if there.as_ref() == Some(&own) {
            self.placed = there;
            return Ok(());
        }
        if there.is_some() && there != self.placed {
            if !std::mem::replace(&mut self.told, true) {
                let there = target.display();
                tell(&format!("telltale: {there} is not the project's, and is left as it is"));
            }
            return Ok(());
        }
        place(&target, &own)
            .map_err(|error| Failure::new(format!("{}: {error}", target.display())))?;
        self.placed = Some(own);
        Ok(())
    }
}
