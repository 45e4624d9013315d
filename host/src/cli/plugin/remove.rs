//! `telltale plugin remove`

use clap::Args;
use serde_json::Value;

use super::text::word;
use super::{Failure, Place, client, no_answer, path_of, print};

#[derive(Debug, Args)]
pub(in crate::cli) struct Remove {
    /// The plugin's name
    name: String,
    /// Its settings, its state and what else it has left, too
    #[arg(long)]
    purge: bool,
    #[command(flatten)]
    place: Place,
    /// Write JSON
    #[arg(long)]
    json: bool,
}

impl Remove {
    pub(super) fn run(self) -> Result<(), Failure> {
        let (hub, name) = (self.place.hub()?, &self.name);
        let path = path_of(name, if self.purge { "?purge=true" } else { "" });
        let answer = client::wait_for(async {
            match hub.delete(&path).await {
                Ok(answer) => Ok(answer),
                Err(error) => Err(no_answer(&hub, name, error).await),
            }
        })?;
        if self.json {
            print(&answer.to_string());
            return Ok(());
        }
        let files = |key: &str| answer[key].as_array().cloned().unwrap_or_default();
        let tell = |verb: &str, file: &Value| print(&format!("{verb} {}", word(file)));
        files("removed").iter().for_each(|file| tell("removed", file));
        files("kept").iter().for_each(|file| tell("kept   ", file));
        if !files("kept").is_empty() {
            print("`--purge` takes away what was kept");
        }
        Ok(())
    }
}
