//! Changes of boards on their way in: whether they may be made, and the answer
//! once they are safe. What becomes of each is decided by the store, one after
//! the other.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use serde::Serialize;
use serde_json::Value;
use serde_json::value::RawValue;
use tokio::sync::{Semaphore, mpsc, oneshot};

use crate::access::Identity;
use crate::audit::{Actor, Audit, Note};
use crate::clock::Clock;
use crate::events::{KEY_BYTES_MAX, new_id};
use crate::model::{
    Board, Changed, Clash, ConnectionId, Edit, OBJECT_BYTES_MAX, OPERATIONS_MAX, ObjectKey,
    Operation, Stale,
};
use crate::store::{Change, OperationKey};

#[cfg(test)]
mod tests;

/// Memory for changes that wait to be written, in KiB: 64 of the largest
/// messages.
const WAITING_KIB_MAX: u32 = 64 * 1024;
/// What others are told of one change may have so many bytes: as much as its
/// objects together may, and room for what is said around them.
const TOLD_BYTES_MAX: usize = 4 * OBJECT_BYTES_MAX + 64 * 1024;
/// The largest batch of events.
const EVENTS_MAX: usize = 100;

/// A change as its client wants it.
#[derive(Debug)]
pub struct ChangeDraft {
    /// Of which board.
    pub board: Board,
    /// What is done, all of it or nothing.
    pub operations: Vec<Operation>,
    /// The client's own name for it: under one id it is made once, whoever sends
    /// it how often.
    pub id: Option<String>,
    /// What the board's other clients are told was done: a JSON object `{type,
    /// payload}`, as the sync dialect has it.
    pub told: Box<RawValue>,
    /// The connection that is not told.
    pub exclude: Option<ConnectionId>,
}

impl ChangeDraft {
    /// As how many events it counts where these are limited: one for each
    /// operation, and one for each 16 KiB that others are told. No more than the
    /// largest batch of events, which every account can hold.
    #[must_use]
    pub fn cost(&self) -> usize {
        (self.operations.len() + self.told.get().len() / (16 * 1024)).min(EVENTS_MAX)
    }
}

/// Why a change was not made.
#[derive(Debug, thiserror::Error)]
pub enum ChangeError {
    /// It breaks a rule: which one.
    #[error("{0}")]
    Invalid(String),
    /// An object is longer than it may be: how long, and the limit.
    #[error("{0}")]
    TooLarge(String),
    /// The client may not change this board.
    #[error("this token does not allow it")]
    Denied,
    /// An object is not what the change was made on.
    #[error("{} {:?} has changed since version {}", .0.key.kind.as_str(), .0.key.id, .0.base)]
    Conflict(Box<Stale>),
    /// The id was used for another change.
    #[error("this id was used for another operation")]
    IdReused,
    /// A version that was to be restored is not kept: in words.
    #[error("{0}")]
    NotKept(String),
    /// A limit is met: which one.
    #[error("{0}")]
    Full(String),
    /// The log has no room just now.
    #[error("too much is waiting to be written: try again in a moment")]
    Busy,
    /// Changes come too fast: when the same would be taken.
    #[error("too many operations: try again in {} ms", .0.as_millis())]
    Throttled(Duration),
    /// The hub is stopping.
    #[error("the hub is stopping")]
    Stopping,
}

/// What has come in since the start.
#[derive(Debug, Default)]
pub struct LayoutCounters {
    /// Changes that are safe.
    pub changed: AtomicU64,
    /// Those that came again with their id, and were answered as before.
    pub repeated: AtomicU64,
    /// Those that were made on what stands no more.
    pub conflicts: AtomicU64,
    /// Those that broke a rule, or whose client may not.
    pub refused: AtomicU64,
    /// Those that found no room in the log.
    pub busy: AtomicU64,
}

/// Takes changes in. Cheap to clone.
#[derive(Clone, Debug)]
pub struct LayoutChanges {
    changes: mpsc::Sender<Change>,
    /// Memory for what waits.
    waiting: Arc<Semaphore>,
    clock: Clock,
    counters: Arc<LayoutCounters>,
    audit: Audit,
}

/// What the store has decided; true: the change had been made before.
type Decision = Result<(Changed, bool), Clash>;

/// A change that the store has, or that was refused: what becomes of it is to be
/// waited for.
#[derive(Debug)]
pub struct Submitted {
    user: Arc<str>,
    board: Board,
    taken: Result<oneshot::Receiver<Decision>, ChangeError>,
}

impl Submitted {
    /// Why the store does not have it, where that is known already.
    #[must_use]
    pub fn refused(&self) -> Option<&ChangeError> {
        self.taken.as_ref().err()
    }
}

impl LayoutChanges {
    /// Takes changes in, hands them to the store, and notes what was done.
    #[must_use]
    pub fn new(changes: mpsc::Sender<Change>, clock: Clock, audit: Audit) -> Self {
        let waiting = Arc::new(Semaphore::new(WAITING_KIB_MAX as usize));
        Self { changes, waiting, clock, counters: Arc::default(), audit }
    }

    /// What has come in since the start.
    #[must_use]
    pub fn counters(&self) -> Arc<LayoutCounters> {
        self.counters.clone()
    }

    /// Hands a change to the store at once: those of one client are made in the
    /// order in which they are submitted.
    #[must_use]
    pub fn submit(&self, by: &Identity, draft: ChangeDraft) -> Submitted {
        let (user, board) = (by.user.clone(), draft.board.clone());
        Submitted { user, board, taken: self.take(by, draft) }
    }

    /// Waits until a change is safe.
    ///
    /// # Errors
    ///
    /// Why it was not made.
    pub async fn settle(&self, submitted: Submitted) -> Result<Changed, ChangeError> {
        let settled = self.clone().wait(submitted);
        if !self.audit.is_on() {
            return settled.await;
        }
        // Who goes away before its change is safe has made it all the same.
        tokio::spawn(settled).await.unwrap_or(Err(ChangeError::Stopping))
    }

    /// Waits, and counts and notes what became of a change.
    async fn wait(self, submitted: Submitted) -> Result<Changed, ChangeError> {
        let Submitted { user, board, taken } = submitted;
        let outcome = match taken {
            Ok(done) => match done.await {
                Ok(outcome) => outcome.map_err(ChangeError::from),
                Err(_) => Err(ChangeError::Stopping),
            },
            Err(error) => Err(error),
        };
        let counter = match &outcome {
            Ok((_, false)) => &self.counters.changed,
            Ok((_, true)) => &self.counters.repeated,
            Err(ChangeError::Conflict(_)) => &self.counters.conflicts,
            Err(ChangeError::Busy) => &self.counters.busy,
            Err(_) => &self.counters.refused,
        };
        counter.fetch_add(1, Ordering::Relaxed);
        self.note(user, &board, &outcome);
        outcome.map(|(changed, _)| changed)
    }

    fn note(&self, user: Arc<str>, board: &Board, outcome: &Result<(Changed, bool), ChangeError>) {
        if !self.audit.is_on() {
            return;
        }
        let who = Actor { user: Some(user), ..Actor::default() };
        match outcome {
            Ok((Changed { revision, versions }, false)) => self.audit.note(Note::Changed {
                who,
                board: board.as_str().into(),
                revision: *revision,
                operations: versions.len(),
            }),
            Err(ChangeError::Denied) => {
                self.audit.note(Note::refused(who, &format!("change {}", board.room()), "denied"));
            }
            _ => {}
        }
    }

    fn take(
        &self,
        by: &Identity,
        draft: ChangeDraft,
    ) -> Result<oneshot::Receiver<Decision>, ChangeError> {
        let fingerprint = check(&draft)?;
        let ChangeDraft { board, operations, id, told, exclude } = draft;
        if !by.may_write_board(&board) {
            return Err(ChangeError::Denied);
        }
        let event = new_id().ok_or(ChangeError::Busy)?;
        let bytes = told.get().len() + operations.iter().map(size).sum::<usize>();
        let kib = u32::try_from(bytes / 1024 + 1).unwrap_or(u32::MAX);
        let room = self.waiting.clone().try_acquire_many_owned(kib);
        let room = room.map_err(|_| ChangeError::Busy)?;
        let (done, outcome) = oneshot::channel();
        let change = Change {
            board,
            operations,
            key: id.map(|id| OperationKey { id, fingerprint }),
            event,
            told,
            user: by.user.clone(),
            exclude,
            time_ms: self.clock.now_ms(),
            done,
            room,
        };
        self.changes.try_send(change).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => ChangeError::Busy,
            mpsc::error::TrySendError::Closed(_) => ChangeError::Stopping,
        })?;
        Ok(outcome)
    }
}

impl From<Clash> for ChangeError {
    fn from(clash: Clash) -> Self {
        match clash {
            Clash::Stale(stale) => Self::Conflict(stale),
            Clash::IdReused => Self::IdReused,
            Clash::NotKept { key, version, oldest: Some(oldest) } => Self::NotKept(format!(
                "version {version} of {} {:?} is not kept: the oldest is {oldest}",
                key.kind.as_str(),
                key.id
            )),
            Clash::NotKept { key, oldest: None, .. } => {
                Self::NotKept(format!("there is no {} {:?}", key.kind.as_str(), key.id))
            }
            Clash::Full(words) => Self::Full(words),
        }
    }
}

/// Bytes that an operation holds.
fn size(operation: &Operation) -> usize {
    match &operation.edit {
        Edit::Replace(data) => data.get().len(),
        Edit::Merge(members) => {
            serde_json::to_vec(members).map_or(OBJECT_BYTES_MAX, |text| text.len())
        }
        Edit::Delete | Edit::Restore(_) => 0,
    }
}

/// What makes two operations the same, however their JSON is written: the names
/// of a [`Value`]'s members are in order.
#[derive(Serialize)]
struct Fingerprint<'a> {
    key: &'a ObjectKey,
    edit: &'static str,
    data: Value,
    base: Option<u64>,
}

/// Checks a change against the rules that need nothing but itself, and answers
/// what it is known again by.
fn check(draft: &ChangeDraft) -> Result<[u8; 32], ChangeError> {
    let invalid = |words: String| Err(ChangeError::Invalid(words));
    let told = draft.told.get().len();
    if told > TOLD_BYTES_MAX {
        return Err(ChangeError::TooLarge(format!(
            "a change has {told} bytes, and {TOLD_BYTES_MAX} is the limit: make it in several"
        )));
    }
    let ChangeDraft { operations, id, .. } = draft;
    if !(1..=OPERATIONS_MAX).contains(&operations.len()) {
        return invalid(format!("a change has 1 to {OPERATIONS_MAX} operations"));
    }
    let legal = |id: &String| {
        (1..=KEY_BYTES_MAX).contains(&id.len()) && id.bytes().all(|byte| byte.is_ascii_graphic())
    };
    if id.as_ref().is_some_and(|id| !legal(id)) {
        return invalid(format!(
            "an operation's id has 1 to {KEY_BYTES_MAX} printable ASCII characters without spaces"
        ));
    }
    let mut fingerprint = blake3::Hasher::new();
    for operation in operations {
        let Operation { key, edit, base } = operation;
        let bytes = size(operation);
        if bytes > OBJECT_BYTES_MAX {
            return Err(ChangeError::TooLarge(format!(
                "{} {:?} has {bytes} bytes, and {OBJECT_BYTES_MAX} is the limit",
                operation.key.kind.as_str(),
                operation.key.id
            )));
        }
        let (edit, data) = match edit {
            Edit::Merge(members) => ("merge", Value::Object(members.clone())),
            Edit::Replace(data) => ("replace", read(data)?),
            Edit::Delete => ("delete", Value::Null),
            Edit::Restore(version) => ("restore", (*version).into()),
        };
        let mark = Fingerprint { key, edit, data, base: *base };
        let written = serde_json::to_writer(&mut fingerprint, &mark);
        written.map_err(|error| ChangeError::Invalid(error.to_string()))?;
    }
    Ok(*fingerprint.finalize().as_bytes())
}

/// Reads data as its clients will: what they could not read would be there for
/// good.
fn read(data: &RawValue) -> Result<Value, ChangeError> {
    match serde_json::from_str(data.get()) {
        Ok(object @ Value::Object(_)) => Ok(object),
        Ok(_) => Err(ChangeError::Invalid(
            "the data of a widget or a layout is a JSON object".to_owned(),
        )),
        Err(error) => Err(ChangeError::Invalid(format!("the data can't be read: {error}"))),
    }
}
