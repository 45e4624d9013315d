//! `telltale plugin resume`

use clap::Args;

use super::text::word;
use super::{Failure, Place, client, no_answer, path_of, print};

#[derive(Debug, Args)]
pub(in crate::cli) struct Resume {
    /// The plugin's name
    name: String,
    #[command(flatten)]
    place: Place,
    /// Write JSON
    #[arg(long)]
    json: bool,
}

impl Resume {
    pub(super) fn run(self) -> Result<(), Failure> {
        let (hub, name) = (self.place.hub()?, &self.name);
        let answer = client::wait_for(async {
            match hub.post(&path_of(name, "/resume")).await {
                Ok(answer) => Ok(answer),
                Err(error) => Err(no_answer(&hub, name, error).await),
            }
        })?;
        if self.json {
            print(&answer.to_string());
        } else {
            print(&format!("{name}: {}", word(&answer["state"])));
        }
        Ok(())
    }
}
