//! `telltale plugin logs`

use std::time::Duration;

use clap::Args;
use serde_json::Value;

use super::text::word;
use super::{AskError, Failure, HubClient, Place, client, no_answer, path_of, print};

/// How long the hub holds a question for new lines; the most that it allows.
const WAIT: Duration = Duration::from_millis(25_000);

#[derive(Debug, Args)]
pub(in crate::cli) struct Logs {
    /// The plugin's name
    name: String,
    /// Go on with what comes, until Ctrl-C
    #[arg(short, long)]
    follow: bool,
    /// How many of the last lines
    #[arg(short = 'n', long, value_name = "N", default_value_t = 50)]
    lines: usize,
    #[command(flatten)]
    place: Place,
    /// Write a JSON object for each line
    #[arg(long)]
    json: bool,
}

impl Logs {
    pub(super) fn run(self) -> Result<(), Failure> {
        let hub = self.place.hub()?;
        client::wait_for(async {
            tokio::select! {
                shown = self.show(&hub) => shown,
                // What was asked for has been seen.
                _ = tokio::signal::ctrl_c() => Ok(()),
            }
        })
    }

    async fn show(&self, hub: &HubClient) -> Result<(), Failure> {
        let mut log = LogTail::new(&self.name);
        let first = self.lines(&mut log, hub, Duration::ZERO).await?;
        let skipped = first.len().saturating_sub(self.lines);
        first.iter().skip(skipped).for_each(|line| self.print(line));
        if !self.follow {
            return Ok(());
        }
        loop {
            self.lines(&mut log, hub, WAIT).await?.iter().for_each(|line| self.print(line));
        }
    }

    async fn lines(
        &self,
        log: &mut LogTail,
        hub: &HubClient,
        wait: Duration,
    ) -> Result<Vec<Value>, Failure> {
        match log.lines(hub, wait).await {
            Ok(lines) => Ok(lines),
            Err(error) => Err(no_answer(hub, &self.name, error).await),
        }
    }

    fn print(&self, line: &Value) {
        print(&if self.json { line.to_string() } else { words(line) });
    }
}

/// Reads a plugin's log in the hub, each line once.
pub(super) struct LogTail {
    name: String,
    next: u64,
}

impl LogTail {
    pub(super) fn new(name: &str) -> Self {
        Self { name: name.to_owned(), next: 0 }
    }

    /// The lines that have come since the last call. If there are none, the hub
    /// waits for them for up to `wait`. Cancelled, it has read none.
    pub(super) async fn lines(
        &mut self,
        hub: &HubClient,
        wait: Duration,
    ) -> Result<Vec<Value>, AskError> {
        let rest = format!("/logs?after={}&wait_ms={}", self.next, wait.as_millis());
        let mut answer = hub.get_waiting(&path_of(&self.name, &rest), wait).await?;
        self.next = answer["next"].as_u64().unwrap_or(self.next);
        match answer["lines"].take() {
            Value::Array(lines) => Ok(lines),
            _ => Ok(Vec::new()),
        }
    }
}

/// A line of the log for people.
pub(super) fn words(line: &Value) -> String {
    let level = word(&line["level"]).to_uppercase();
    format!("{} {level:<5} {}", word(&line["time"]), word(&line["text"]))
}
