//! `telltale notify …`

use std::time::Duration;

use clap::{Args, Subcommand};
use serde_json::Value;

use super::plugin::Place;
use super::plugin::text::{table, word};
use super::{Failure, client, print};

/// What `telltale notify --help` ends with.
pub(super) const EXAMPLES: &str = "\
Receivers are those of [notify.NAME] in the hub's telltale.toml:
  telltale notify list          who is told, and how it goes
  telltale notify test pager    send pager a finding that is made up
  telltale notify dead pager    what could not be sent to it, and why
  telltale notify retry pager   send that again
  telltale notify drop pager 7  drop one of them

The hub is found by its data folder (--data), and asked over its HTTP API.
Exit codes: 0 all is well; 1 something went wrong, or a test was not taken; 64 the command line or \
a file that it names asks for what can't be.";
/// The longest that a receiver can be given to answer a test.
const TEST_MAX: Duration = Duration::from_secs(60);

#[derive(Debug, Subcommand)]
pub(super) enum NotifyCommand {
    /// Show who is told of findings, and how it goes
    List(Asking),
    /// Show what could not be sent to a receiver; one of them whole
    Dead(OfOne),
    /// Send again what could not be sent to a receiver, and try at once what waits for it
    Retry(OfOne),
    /// Drop what could not be sent to a receiver
    Drop(OfOne),
    /// Send a receiver a finding that is made up and says so
    Test(Test),
}

#[derive(Debug, Args)]
pub(super) struct Asking {
    #[command(flatten)]
    place: Place,
    /// Write JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
pub(super) struct OfOne {
    /// The receiver's name
    name: String,
    /// One dead letter only, by its number
    number: Option<u64>,
    #[command(flatten)]
    asking: Asking,
}

#[derive(Debug, Args)]
pub(super) struct Test {
    /// The receiver's name
    name: String,
    #[command(flatten)]
    asking: Asking,
}

impl NotifyCommand {
    pub(super) fn run(self) -> Result<(), Failure> {
        match self {
            Self::List(asking) => asking.list(),
            Self::Dead(of) => of.dead(),
            Self::Retry(of) => of.retry(),
            Self::Drop(of) => of.drop(),
            Self::Test(test) => test.run(),
        }
    }
}

impl Asking {
    fn list(&self) -> Result<(), Failure> {
        let hub = self.place.hub()?;
        let answer = client::wait_for(async { Ok(hub.get("/v1/notify").await?) })?;
        if self.json {
            print(&answer.to_string());
            return Ok(());
        }
        let receivers = answer["receivers"].as_array().map(Vec::as_slice).unwrap_or_default();
        if receivers.is_empty() {
            print("nobody is told of findings: [notify.NAME] in telltale.toml names who is to be");
            return Ok(());
        }
        let head = ["NAME", "URL", "SIGNED", "STATE", "SENT", "FINDINGS", "WAITING", "DEAD"];
        let columns = ["name", "url", "signed", "state", "sent", "findings", "waiting", "dead"];
        let row = |receiver: &Value| columns.map(|column| word(&receiver[column])).to_vec();
        let mut rows = vec![head.map(str::to_owned).to_vec()];
        rows.extend(receivers.iter().map(row));
        let mut lines = table(&rows, &[4, 5, 6, 7]).into_iter();
        lines.by_ref().take(1).for_each(|head| print(&head));
        for (receiver, line) in receivers.iter().zip(lines) {
            print(&line);
            if let Some(error) = receiver["error"].as_str() {
                let next = receiver["next_attempt"].as_str();
                let next = next.map_or_else(String::new, |next| format!(" (again at {next})"));
                print(&format!("    {error}{next}"));
            }
        }
        Ok(())
    }
}

impl OfOne {
    /// The path of what is asked.
    fn path(&self, rest: &str) -> String {
        let query = self.number.map_or_else(String::new, |number| format!("?number={number}"));
        format!("{}{query}", path_of(&self.name, rest))
    }

    fn dead(&self) -> Result<(), Failure> {
        let hub = self.asking.place.hub()?;
        let path = self.path("/dead");
        let answer = client::wait_for(async { Ok(hub.get(&path).await?) })?;
        if self.asking.json {
            print(&answer.to_string());
            return Ok(());
        }
        let letters = answer["dead"].as_array().map(Vec::as_slice).unwrap_or_default();
        if letters.is_empty() {
            print(&format!("{} has no dead letters", self.name));
            return Ok(());
        }
        let head = ["NUMBER", "MADE", "FINDINGS", "ATTEMPTS", "REASON"];
        let columns = ["number", "made", "findings", "attempts", "reason"];
        let mut rows = vec![head.map(str::to_owned).to_vec()];
        rows.extend(letters.iter().map(|it| columns.map(|column| word(&it[column])).to_vec()));
        table(&rows, &[0, 2, 3]).iter().for_each(|line| print(line));
        let body = letters.first().map(|letter| &letter["body"]).filter(|body| !body.is_null());
        if let Some(body) = body {
            print(&serde_json::to_string_pretty(body).map_err(Failure::new)?);
        }
        Ok(())
    }

    fn retry(&self) -> Result<(), Failure> {
        let hub = self.asking.place.hub()?;
        let path = self.path("/retry");
        let answer = client::wait_for(async { Ok(hub.post(&path).await?) })?;
        self.say(&answer, "retried", "sent again: `telltale notify list` shows how it goes");
        Ok(())
    }

    fn drop(&self) -> Result<(), Failure> {
        let hub = self.asking.place.hub()?;
        let path = self.path("/dead");
        let answer = client::wait_for(async { Ok(hub.delete(&path).await?) })?;
        self.say(&answer, "dropped", "dropped");
        Ok(())
    }

    fn say(&self, answer: &Value, count: &str, done: &str) {
        if self.asking.json {
            return print(&answer.to_string());
        }
        let letters = match answer[count].as_u64() {
            Some(1) => "1 dead letter is".to_owned(),
            count => format!("{} dead letters are", count.unwrap_or(0)),
        };
        print(&format!("{}: {letters} {done}", self.name));
    }
}

impl Test {
    fn run(self) -> Result<(), Failure> {
        let hub = self.asking.place.hub()?;
        let path = path_of(&self.name, "/test");
        let answer = client::wait_for(async { Ok(hub.post_waiting(&path, TEST_MAX).await?) })?;
        if self.asking.json {
            print(&answer.to_string());
        }
        if let Some(reason) = answer["reason"].as_str() {
            return Err(Failure::new(format!("{} did not take it: {reason}", self.name)));
        }
        if !self.asking.json {
            let (status, ms) = (word(&answer["status"]), word(&answer["ms"]));
            print(&format!("{} took it: {status}, after {ms} ms", self.name));
        }
        Ok(())
    }
}

/// The path of a receiver in the hub's API.
fn path_of(name: &str, rest: &str) -> String {
    let name: String = form_urlencoded::byte_serialize(name.as_bytes()).collect();
    format!("/v1/notify/{name}{rest}")
}
