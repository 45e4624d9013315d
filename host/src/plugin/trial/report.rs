//! What came of a check.

use serde::Serialize;
use serde_json::value::RawValue;

use super::Import;
use crate::model::{Draft, Room};
use crate::plugin::events::Publication;

/// All that was found out about a component.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// The plugin's name.
    pub plugin: String,
    /// The world that its exports make up.
    pub world: &'static str,
    /// The version of the interface that it speaks.
    pub interface: String,
    /// The component's size.
    pub bytes: u64,
    /// What it imports.
    pub imports: Vec<Import>,
    /// The first events that it published, if there were any.
    pub events: Vec<ShownEvent>,
    /// What was tried, in this order.
    pub steps: Vec<Step>,
}

/// An event that the hub would have published.
#[derive(Clone, Debug, Serialize)]
pub struct ShownEvent {
    /// Its type.
    #[serde(rename = "type")]
    pub kind: String,
    /// Who says so.
    pub source: String,
    /// The rooms that the plugin names; nothing where they go by the type.
    pub rooms: Option<Vec<Room>>,
    /// Its data.
    pub data: Box<RawValue>,
    /// Its idempotency key.
    pub key: Option<String>,
}

impl ShownEvent {
    pub(super) fn of(publication: Publication) -> Self {
        let Publication { draft, key, .. } = publication;
        let Draft { kind, source, rooms, data, .. } = draft;
        Self { kind, source, rooms, data, key }
    }
}

/// One thing that was tried.
#[derive(Clone, Debug, Serialize)]
pub struct Step {
    /// What.
    pub name: &'static str,
    /// What came of it.
    pub outcome: Outcome,
    /// The same in words.
    pub words: String,
    /// What to change, where it isn't in order.
    pub advice: Option<String>,
}

/// What came of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// In order.
    Passed,
    /// The hub would go on with it, but somebody should look.
    Warned,
    /// The hub would refuse or stop it.
    Failed,
    /// There was nothing to try, or no way to.
    Skipped,
}

impl Report {
    /// How many steps came out so.
    #[must_use]
    pub fn count(&self, outcome: Outcome) -> usize {
        self.steps.iter().filter(|step| step.outcome == outcome).count()
    }
}

impl Step {
    pub(super) fn passed(name: &'static str, words: impl Into<String>) -> Self {
        Self { name, outcome: Outcome::Passed, words: words.into(), advice: None }
    }

    pub(super) fn skipped(name: &'static str, words: impl Into<String>) -> Self {
        Self { name, outcome: Outcome::Skipped, words: words.into(), advice: None }
    }
}

/// Why a step did not pass.
#[derive(Clone, Debug)]
pub(super) struct Problem {
    pub(super) outcome: Outcome,
    pub(super) words: String,
    pub(super) advice: String,
    /// The plugin has answered an error, and can be asked on.
    pub(super) answered: bool,
}

impl Problem {
    pub(super) fn failed(words: impl Into<String>, advice: impl Into<String>) -> Self {
        let outcome = Outcome::Failed;
        Self { outcome, words: words.into(), advice: advice.into(), answered: false }
    }

    pub(super) fn warned(words: impl Into<String>, advice: impl Into<String>) -> Self {
        let outcome = Outcome::Warned;
        Self { outcome, words: words.into(), advice: advice.into(), answered: false }
    }

    /// The same with what was being done before its words.
    pub(super) fn at(self, moment: &str) -> Self {
        Self { words: format!("{moment}: {}", self.words), ..self }
    }

    fn step(self, name: &'static str) -> Step {
        let Self { outcome, words, advice, .. } = self;
        Step { name, outcome, words, advice: Some(advice) }
    }
}

/// In order, in words, or not.
pub(super) type Found = Result<String, Problem>;

/// The step that `found` makes of `name`.
pub(super) fn step(name: &'static str, found: Found) -> Step {
    found.map_or_else(|problem| problem.step(name), |words| Step::passed(name, words))
}
