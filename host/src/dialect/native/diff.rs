//! What a detector and its shadow have found, for whoever may read it.

use std::time::Duration;

use serde::Deserialize;
use serde_json::json;
use serde_json::value::RawValue;

use super::Native;
use super::command::{Instant, Refusal};
use crate::contrast::{ContrastError, WITHIN_MAX, Wanted};
use crate::session::Act;

/// The command.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct DiffCommand {
    detector: String,
    since: Option<Instant>,
    within_ms: Option<u64>,
    listed: Option<usize>,
}

impl From<ContrastError> for Refusal {
    fn from(error: ContrastError) -> Self {
        match error {
            ContrastError::NoShadow(_) => Self::new("not_found", error.to_string()),
            ContrastError::Store(error) => error.into(),
        }
    }
}

impl Native {
    pub(super) fn diff(&self, id: &RawValue, command: &DiffCommand) -> Result<Act, Refusal> {
        let who = self.who()?;
        let mut wanted = Wanted::of(&command.detector, self.clock.now_ms(), self.hub.tick);
        wanted.since_ms = command.since.as_ref().map(Instant::ms).transpose()?;
        if let Some(ms) = command.within_ms {
            wanted.within = Duration::from_millis(ms).min(WITHIN_MAX);
        }
        wanted.listed = command.listed.unwrap_or(wanted.listed);
        let id = id.to_owned();
        let answer = move |told: Result<serde_json::Value, ContrastError>| match told {
            Ok(told) => json!({"id": id, "ok": told}).to_string(),
            Err(error) => Refusal::from(error).answer(&id),
        };
        Ok(Act::Contrast { wanted, who, answer: Box::new(answer) })
    }
}
