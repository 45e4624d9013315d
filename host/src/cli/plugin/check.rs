//! `telltale plugin check`

use std::path::PathBuf;

use clap::Args;
use serde_json::{Value, json};

use super::{Failure, client, print, subject, text};
use crate::model::Room;
use crate::plugin::trial::{
    Import, ImportAnswer, Outcome, Report, ShownEvent, Step, Trial, TrialError,
};

/// How much is shown of an event's data: a line or two.
const DATA_SHOWN_BYTES_MAX: usize = 120;

#[derive(Debug, Args)]
#[command(after_help = "\
The component is run here as the hub would run it, with what its settings grant: what it asks of \
databases, hosts and files is really asked. A running hub is left alone.
Exit codes: 0 nothing failed; 1 something did, with what to change; 64 the settings can't be used.")]
pub(in crate::cli) struct Check {
    /// The component
    #[arg(value_name = "FILE")]
    component: PathBuf,
    /// Its settings [default: the file of the same name beside it (NAME.toml), if there is one]
    #[arg(long, value_name = "FILE")]
    settings: Option<PathBuf>,
    /// Write JSON
    #[arg(long)]
    json: bool,
}

impl Check {
    pub(super) fn run(self) -> Result<(), Failure> {
        subject::show_log(tracing::Level::INFO);
        let subject = subject::of(&self.component, self.settings.as_deref());
        let trial = match Trial::open(&subject) {
            Ok(trial) => trial,
            Err(TrialError::Component(words)) => return self.refused(&words),
            Err(error) => return Err(subject::failure(error)),
        };
        let report = client::wait_for(async { Ok(trial.check().await) })?;
        let failed = report.count(Outcome::Failed);
        if self.json {
            print(&as_json(&report, failed == 0));
        } else {
            self.show(&report);
        }
        if failed == 0 {
            return Ok(());
        }
        Err(Failure::new(format!("{failed} of {} checks failed", report.steps.len())))
    }

    /// The hub would not even start it.
    fn refused(&self, words: &str) -> Result<(), Failure> {
        if self.json {
            let step = json!({"name": "component", "outcome": "failed", "words": words});
            print(&json!({"passed": false, "steps": [step]}).to_string());
        } else {
            print(&format!("FAIL  component      {words}"));
        }
        Err(Failure::new(format!("{} would be refused", self.component.display())))
    }

    fn show(&self, report: &Report) {
        let Report { world, interface, bytes, .. } = report;
        print(&format!(
            "{}: world {world} of telltale:plugin@{interface}, {}",
            self.component.display(),
            text::bytes(*bytes)
        ));
        for step in &report.steps {
            show_step(step);
            if step.name == "imports" {
                report.imports.iter().for_each(show_import);
            }
            if step.name == "events" {
                report.events.iter().for_each(show_event);
            }
        }
        let of = |outcome| report.count(outcome);
        print(&format!(
            "{} passed, {} to look at, {} failed, {} skipped",
            of(Outcome::Passed),
            of(Outcome::Warned),
            of(Outcome::Failed),
            of(Outcome::Skipped)
        ));
    }
}

fn as_json(report: &Report, passed: bool) -> String {
    let mut value = serde_json::to_value(report).unwrap_or(Value::Null);
    value["passed"] = passed.into();
    value.to_string()
}

fn show_step(step: &Step) {
    let mark = match step.outcome {
        Outcome::Passed => "ok",
        Outcome::Warned => "look",
        Outcome::Failed => "FAIL",
        Outcome::Skipped => "-",
    };
    print(&format!("{mark:<4}  {:<13}  {}", step.name, step.words));
    if let Some(advice) = &step.advice {
        print(&format!("{:21}=> {advice}", ""));
    }
}

fn show_event(event: &ShownEvent) {
    let ShownEvent { kind, rooms, data, .. } = event;
    let rooms: Vec<&str> = rooms.iter().flatten().map(Room::as_str).collect();
    let to = if rooms.is_empty() { String::new() } else { format!(" to {}", rooms.join(", ")) };
    let data = data.get();
    let cut = data.floor_char_boundary(DATA_SHOWN_BYTES_MAX);
    let more = if cut < data.len() { "…" } else { "" };
    print(&format!("{:21}{kind}{to}: {}{more}", "", &data[..cut]));
}

/// What is open to all is no news.
fn show_import(import: &Import) {
    let Import { name, answer, line } = import;
    let line = line.as_deref().unwrap_or_default();
    match answer {
        ImportAnswer::Open => {}
        ImportAnswer::Granted => print(&format!("{:21}{name}: granted, {line}", "")),
        ImportAnswer::Denied => {
            print(&format!("{:21}{name}: denied; to grant it: [grant] {line}", ""));
        }
    }
}
