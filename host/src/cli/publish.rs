//! `telltale publish`

use std::io::{self, BufRead, BufReader, Read};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use bytes::Bytes;
use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_json::value::RawValue;
use tokio::sync::mpsc;
use tokio::time::sleep;

use super::client::{self, AskError, HubClient};
use super::{Failure, load, print, tell};
use crate::events::form::BATCH_MAX;
use crate::model::EVENT_DATA_BYTES_MAX;

/// What the help ends with.
pub(super) const EXAMPLES: &str = "\
Examples:
  telltale publish deploy.finished
      to everybody (the room `global`)
  telltale publish pr.created --data '{\"project_id\":42,\"pr_number\":7,\"title\":\"Fix it\"}'
      to the room project:42, where events of this type go by their data
  telltale publish deploy.finished --room project:42 --room project:43 --data @report.json
  telltale publish backup.done --user ana --key backup-2026-02-10
      to all of ana's connections, once, however often it is said within a day
  journalctl -o json -f | telltale publish log.line --room agent:7 --lines
      an event for each line, whose data the line is
  telltale publish --lines < events.jsonl
      whole events: {\"type\":…,\"source\":…,\"data\":…,\"rooms\":[…],\"user\":…,\"key\":…}

It returns when the events are safe on the hub's disk. What is refused for now, or gets no
answer, is tried again for half a minute, and still counts once.
Exit codes: 0 all is published; 1 something is not; 64 the command line asks for what can't be.";

/// How long an event is tried again.
const PATIENCE: Duration = Duration::from_secs(30);
/// The waits between two tries without a word of the hub's begin with this one,
/// and double.
const WAIT_MIN: Duration = Duration::from_millis(250);
/// The longest line: the longest data, and what stands around it.
const LINE_BYTES_MAX: usize = EVENT_DATA_BYTES_MAX + 16 * 1024;
/// The lines of a batch have at most so many bytes, but for one: less than what
/// the hub takes.
const BATCH_BYTES_MAX: usize = 2 * 1024 * 1024;

#[derive(Debug, Args)]
pub(super) struct Publish {
    /// The event's type: words with dots between them, such as pr.created
    #[arg(value_name = "TYPE", required_unless_present = "lines")]
    kind: Option<String>,
    /// What there is to tell: JSON, @FILE, or - for standard input [default: {}]
    #[arg(long, value_name = "JSON", conflicts_with = "lines")]
    data: Option<String>,
    /// Publish each line of standard input: the data of an event of TYPE, or a whole event
    #[arg(long)]
    lines: bool,
    /// A room that it goes to, such as project:42 [default: by the type and the data]
    #[arg(long = "room", value_name = "ROOM")]
    rooms: Vec<String>,
    /// A user whose connections are all told
    #[arg(long, value_name = "USER")]
    user: Option<String>,
    /// Who says so
    #[arg(long, value_name = "SOURCE", default_value = "cli")]
    source: String,
    /// The idempotency key: with the same one it is published once a day [default: a new one]
    #[arg(long, value_name = "KEY")]
    key: Option<String>,
    /// Somebody's token, or @FILE [default: the admin token of the hub's data folder]
    #[arg(long, value_name = "TOKEN")]
    token: Option<String>,
    #[command(flatten)]
    place: Place,
    /// Write the receipts as JSON, one in each line
    #[arg(long)]
    json: bool,
}

/// Where the hub is. Other commands have `--data` for its folder.
#[derive(Debug, Args)]
struct Place {
    /// The configuration file [default: telltale.toml, if there is one]
    #[arg(long, value_name = "FILE", env = "TELLTALE_CONFIG")]
    config: Option<PathBuf>,
    /// The hub's data folder [default: telltale-data]
    #[arg(long = "hub", value_name = "DIR")]
    folder: Option<PathBuf>,
}

impl Place {
    /// The hub that runs there.
    fn hub(&self) -> Result<HubClient, Failure> {
        match &self.folder {
            Some(folder) => HubClient::find(folder, "--hub"),
            None => HubClient::find(&load(self.config.as_ref())?.data, "--hub"),
        }
    }
}

/// An event, as the hub takes it.
#[derive(Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Event {
    #[serde(rename = "type")]
    kind: String,
    source: Option<String>,
    data: Option<Box<RawValue>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    rooms: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    user: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    exclude: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<String>,
}

#[derive(Serialize)]
struct Batch<'a> {
    events: Vec<&'a Event>,
}

impl Publish {
    pub(super) fn run(self) -> Result<(), Failure> {
        let token = self.token.as_deref().map(read_token).transpose()?;
        let hub = self.place.hub()?;
        let mut sender = Sender { hub, place: &self.place, token, has_answered: false };
        let key = match &self.key {
            Some(key) => key.clone(),
            None => new_key()?,
        };
        if self.lines {
            return client::wait_for(self.publish_lines(&mut sender, &key));
        }
        let kind = self.kind.clone().unwrap_or_default();
        let event = self.event(kind, read_data(self.data.as_deref())?);
        let body = serde_json::to_vec(&event).map_err(Failure::new)?;
        let receipt = client::wait_for(async {
            sender.send(body.into(), Some(&key)).await.map_err(|error| failure(&error))
        })?;
        print(&if self.json { receipt.to_string() } else { words(&receipt) });
        Ok(())
    }

    /// An event with what the command line says of it.
    fn event(&self, kind: String, data: Box<RawValue>) -> Event {
        let rooms = (!self.rooms.is_empty()).then(|| self.rooms.clone());
        let (source, user) = (Some(self.source.clone()), self.user.clone());
        Event { kind, source, data: Some(data), rooms, user, exclude: None, key: None }
    }

    /// The event of a line.
    fn event_of(&self, line: &Line, key: &str) -> Result<Event, Failure> {
        let refuse = |error| Failure::usage(format!("line {}: {error}", line.number));
        let mut event = match &self.kind {
            Some(kind) => {
                self.event(kind.clone(), serde_json::from_str(&line.text).map_err(refuse)?)
            }
            None => {
                let event: Event = serde_json::from_str(&line.text).map_err(refuse)?;
                let rooms =
                    event.rooms.or_else(|| (!self.rooms.is_empty()).then(|| self.rooms.clone()));
                let source = event.source.or_else(|| Some(self.source.clone()));
                let user = event.user.or_else(|| self.user.clone());
                Event { rooms, source, user, ..event }
            }
        };
        event.key.get_or_insert_with(|| format!("{key}/{}", line.number));
        Ok(event)
    }

    /// Publishes standard input, in batches of what has come meanwhile.
    async fn publish_lines(&self, sender: &mut Sender<'_>, key: &str) -> Result<(), Failure> {
        let (began, progress) = (Instant::now(), progress());
        let mut lines = read_lines();
        let (mut published, mut refused, mut last) = (0_u64, 0_u64, None);
        let mut ahead = lines.recv().await;
        while let Some(line) = ahead.take() {
            let mut bytes = 0;
            let mut batch = Vec::new();
            let mut next = Some(line);
            while let Some(line) = next.take() {
                let line = line.map_err(Failure::usage)?;
                if !batch.is_empty() && bytes + line.text.len() > BATCH_BYTES_MAX {
                    ahead = Some(Ok(line));
                    break;
                }
                bytes += line.text.len();
                batch.push((line.number, self.event_of(&line, key)?));
                next = (batch.len() < BATCH_MAX).then(|| lines.try_recv().ok()).flatten();
            }
            for (number, outcome) in sender.send_batch(&batch).await? {
                match outcome {
                    Ok(receipt) => {
                        published += 1;
                        if self.json {
                            progress.suspend(|| print(&receipt.to_string()));
                        }
                        last = Some(receipt);
                    }
                    Err(reason) => {
                        refused += 1;
                        progress.suspend(|| tell(&format!("telltale: line {number}: {reason}")));
                    }
                }
            }
            progress.set_position(published);
            if ahead.is_none() {
                ahead = lines.recv().await;
            }
        }
        progress.finish_and_clear();
        if let Some(last) = last.filter(|_| !self.json) {
            let seconds = began.elapsed().as_secs_f64();
            let noun = if published == 1 { "event" } else { "events" };
            print(&format!(
                "{published} {noun} in {seconds:.1} s, the last at offset {}",
                last["offset"]
            ));
        }
        match refused {
            0 => Ok(()),
            _ => Err(Failure::new(format!(
                "{refused} of {} events were not published",
                published + refused
            ))),
        }
    }
}

/// Sends to the hub, and tries again what may do later.
struct Sender<'a> {
    hub: HubClient,
    place: &'a Place,
    token: Option<String>,
    /// The hub is there, or was: without an answer it is waited for.
    has_answered: bool,
}

impl Sender<'_> {
    async fn send(&mut self, body: Bytes, key: Option<&str>) -> Result<Value, AskError> {
        let (began, mut wait) = (Instant::now(), WAIT_MIN);
        loop {
            let asked = self.hub.publish(body.clone(), self.token.as_deref(), key).await;
            let pause = match &asked {
                Err(AskError::Refused { retry_after: Some(pause), .. }) => (*pause).max(wait),
                Err(AskError::Unreachable { .. }) if self.has_answered => wait,
                _ => {
                    self.has_answered = true;
                    return asked;
                }
            };
            self.has_answered = true;
            if began.elapsed() + pause > PATIENCE {
                return asked;
            }
            sleep(pause).await;
            wait *= 2;
            // It may have been started again, somewhere else.
            if let Ok(hub) = self.place.hub() {
                self.hub = hub;
            }
        }
    }

    /// What became of each event of a batch, with the number of its line; those
    /// that were refused for now are sent again.
    async fn send_batch(
        &mut self,
        batch: &[(u64, Event)],
    ) -> Result<Vec<(u64, Result<Value, String>)>, Failure> {
        let (began, mut outcomes) = (Instant::now(), Vec::new());
        let mut left: Vec<&(u64, Event)> = batch.iter().collect();
        loop {
            let events = left.iter().map(|(_, event)| event).collect();
            let body = serde_json::to_vec(&Batch { events }).map_err(Failure::new)?;
            let mut answer = self.send(body.into(), None).await.map_err(|error| failure(&error))?;
            let told = answer["events"].as_array_mut().map(std::mem::take).unwrap_or_default();
            if told.len() != left.len() {
                return Err(Failure::new("the hub did not answer for each event"));
            }
            let (mut again, mut pause) = (Vec::new(), WAIT_MIN);
            for (sent, told) in left.into_iter().zip(told) {
                match client::retry_after(&told["error"]) {
                    Some(wanted) if began.elapsed() < PATIENCE => {
                        pause = pause.max(wanted);
                        again.push(sent);
                    }
                    _ => outcomes.push((sent.0, outcome(told))),
                }
            }
            if again.is_empty() {
                return Ok(outcomes);
            }
            left = again;
            sleep(pause).await;
        }
    }
}

fn outcome(told: Value) -> Result<Value, String> {
    match told["error"]["reason"].as_str() {
        Some(reason) => Err(reason.to_owned()),
        None => Ok(told),
    }
}

/// A line of standard input.
struct Line {
    number: u64,
    text: String,
}

/// Reads standard input on a thread of its own: it can't be waited for otherwise,
/// and may never come.
fn read_lines() -> mpsc::Receiver<Result<Line, String>> {
    let (sender, lines) = mpsc::channel(BATCH_MAX);
    std::thread::spawn(move || {
        let mut input = BufReader::new(io::stdin());
        for number in 1.. {
            let mut text = Vec::new();
            let read = (&mut input).take(LINE_BYTES_MAX as u64 + 1).read_until(b'\n', &mut text);
            let line = match read {
                Ok(0) => return,
                Ok(_) if text.len() > LINE_BYTES_MAX => {
                    Err(format!("line {number} is longer than {LINE_BYTES_MAX} bytes"))
                }
                Ok(_) => match String::from_utf8(text) {
                    Ok(text) if text.trim().is_empty() => continue,
                    Ok(text) => Ok(Line { number, text }),
                    Err(_) => Err(format!("line {number} is not UTF-8")),
                },
                Err(error) => Err(format!("standard input: {error}")),
            };
            let ends = line.is_err();
            if sender.blocking_send(line).is_err() || ends {
                return;
            }
        }
    });
    lines
}

/// The data that the command line names.
fn read_data(data: Option<&str>) -> Result<Box<RawValue>, Failure> {
    let text = match data {
        None => "{}".to_owned(),
        Some("-") => read_bounded(io::stdin(), "standard input")?,
        Some(text) => match text.strip_prefix('@') {
            Some(path) => {
                let file = std::fs::File::open(path)
                    .map_err(|error| Failure::usage(format!("--data {path}: {error}")))?;
                read_bounded(file, path)?
            }
            None => text.to_owned(),
        },
    };
    serde_json::from_str(&text).map_err(|error| {
        Failure::usage(format!("--data is no JSON: {error} (@FILE reads a file, - standard input)"))
    })
}

/// A token, which had better not be seen in the list of processes.
fn read_token(token: &str) -> Result<String, Failure> {
    match token.strip_prefix('@') {
        None => Ok(token.to_owned()),
        Some(path) => std::fs::read_to_string(path)
            .map(|token| token.trim().to_owned())
            .map_err(|error| Failure::usage(format!("--token {path}: {error}"))),
    }
}

fn read_bounded(from: impl Read, name: &str) -> Result<String, Failure> {
    let mut text = String::new();
    from.take(EVENT_DATA_BYTES_MAX as u64 + 1)
        .read_to_string(&mut text)
        .map_err(|error| Failure::usage(format!("--data {name}: {error}")))?;
    if text.len() > EVENT_DATA_BYTES_MAX {
        return Err(Failure::usage(format!(
            "--data {name} is longer than {EVENT_DATA_BYTES_MAX} bytes"
        )));
    }
    Ok(text)
}

/// 128 random bits.
fn new_key() -> Result<String, Failure> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes)
        .map_err(|error| Failure::new(format!("the system gives no random numbers: {error}")))?;
    Ok(format!("cli-{:032x}", u128::from_le_bytes(bytes)))
}

/// What the hub understood and refused was asked for wrongly.
fn failure(error: &AskError) -> Failure {
    match error {
        AskError::Refused { status: 400 | 413 | 422, code, .. } if code != "key_reused" => {
            Failure::usage(error)
        }
        _ => Failure::new(error),
    }
}

/// A receipt for people.
fn words(receipt: &Value) -> String {
    let rooms = receipt["rooms"].as_array().into_iter().flatten();
    let rooms: Vec<&str> = rooms.filter_map(Value::as_str).collect();
    let id = receipt["id"].as_str().unwrap_or_default();
    format!("{id} at offset {} in {}", receipt["offset"], rooms.join(", "))
}

/// Shown where somebody looks on.
fn progress() -> ProgressBar {
    let bar = ProgressBar::new_spinner();
    // The pattern is right; without it the bar would only look otherwise.
    if let Ok(style) = ProgressStyle::with_template("{spinner} {pos} events, {per_sec}") {
        bar.set_style(style);
    }
    bar.enable_steady_tick(Duration::from_millis(200));
    bar
}
