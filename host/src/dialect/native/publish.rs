//! `publish`: events of a client, one or a batch.

use std::sync::Arc;

use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::{Native, Refusal, millis};
use crate::access::Identity;
use crate::dialect::MESSAGE_BYTES_MAX;
use crate::events::PublishError;
use crate::events::form::{Form, Outcome, Outcomes, Publisher};
use crate::model::OBJECT_BYTES_MAX;
use crate::session::Act;

/// The longest message of a client that may publish: an event with the longest
/// data, and what stands around it. Who may not has no need of so much memory.
pub const PUBLISH_BYTES_MAX: usize = 1024 * 1024;
/// The longest message of a client that may change boards: the longest data of
/// an object, and what stands around it.
const PUT_BYTES_MAX: usize = OBJECT_BYTES_MAX + 4096;
/// When an event is tried again that found no room.
pub(super) const BUSY_MS: u64 = 500;
/// When it is that came while the hub stopped.
pub(super) const STOPPING_MS: u64 = 2000;

/// The longest message of whoever this is.
pub(super) fn message_bytes_max(identity: Option<&Arc<Identity>>) -> usize {
    match identity {
        Some(identity) if !identity.publish.is_empty() => PUBLISH_BYTES_MAX,
        Some(identity) if identity.may_write_boards() => PUT_BYTES_MAX,
        _ => MESSAGE_BYTES_MAX,
    }
}

impl Native {
    pub(super) fn publish(&self, id: &RawValue, form: Form) -> Result<Act, Refusal> {
        let by = self.who()?;
        let connection = Some(self.client.id);
        let publisher = Publisher { source: &by.user, connection, key: None };
        let drafts = form.drafts(publisher).map_err(|words| Refusal::new("bad_request", words))?;
        let (drafts, answers) = drafts.split();
        let id = id.to_owned();
        let answer = move |outcomes| match answers.fill(outcomes) {
            Outcomes::One(Ok(receipt)) => json!({"id": id, "ok": receipt}).to_string(),
            Outcomes::One(Err(error)) => Refusal::from(&error).answer(&id),
            Outcomes::Batch(all) => json!({"id": id, "ok": batch(&all)}).to_string(),
        };
        Ok(Act::Publish { by, drafts, answer: Box::new(answer) })
    }
}

/// What became of a batch.
#[must_use]
pub fn batch(outcomes: &[Outcome]) -> Value {
    let events = outcomes.iter().map(|outcome| match outcome {
        Ok(receipt) => json!(receipt),
        Err(error) => json!({"error": Refusal::from(error)}),
    });
    json!({"events": events.collect::<Vec<_>>()})
}

impl From<&PublishError> for Refusal {
    fn from(error: &PublishError) -> Self {
        let (code, retry_after_ms) = match error {
            PublishError::Invalid(_) => ("bad_request", None),
            PublishError::TooLarge(_) => ("too_large", None),
            PublishError::Denied => ("denied", None),
            PublishError::KeyReused => ("key_reused", None),
            PublishError::Busy => ("busy", Some(BUSY_MS)),
            PublishError::Throttled(wait) => ("too_many_requests", Some(millis(*wait).max(1))),
            PublishError::Stopping => ("stopping", Some(STOPPING_MS)),
        };
        let temporary = retry_after_ms.is_some();
        Self { temporary, retry_after_ms, ..Self::new(code, error.to_string()) }
    }
}
