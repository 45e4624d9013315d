//! Events on their way in: whether they may be published, where they go, and
//! the publisher's answer once they are safe.

pub mod form;
pub mod types;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use serde::Serialize;
use serde_json::value::RawValue;
use tokio::sync::{Semaphore, mpsc, oneshot};

use crate::access::Identity;
use crate::audit::{Actor, Audit, Note};
use crate::clock::Clock;
use crate::model::{
    Draft, EVENT_DATA_BYTES_MAX, EVENT_ROOMS_MAX, EVENT_WORD_BYTES_MAX, Entry, Receipt, Room, Route,
};
use crate::store::{Publication, PublicationKey, Reused};

/// Memory for events that wait to be written, in KiB: 64 of the largest.
const WAITING_KIB_MAX: u32 = 64 * 1024;
/// The longest idempotency key in bytes.
pub const KEY_BYTES_MAX: usize = 255;

/// Why an event was not published.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PublishError {
    /// It breaks a rule: which one.
    #[error("{0}")]
    Invalid(String),
    /// Its data is too long: how long, and the limit.
    #[error("{0}")]
    TooLarge(String),
    /// The publisher may not publish it.
    #[error("this token does not allow it")]
    Denied,
    /// The idempotency key was used within the last day for another event.
    #[error("this idempotency key was used for another event")]
    KeyReused,
    /// The log has no room just now.
    #[error("too many events are waiting to be written: try again in a moment")]
    Busy,
    /// The publisher publishes too fast: when the same would be taken.
    #[error("too many events: try again in {} ms", .0.as_millis())]
    Throttled(Duration),
    /// The hub is stopping.
    #[error("the hub is stopping")]
    Stopping,
}

/// What has come in since the start.
#[derive(Debug, Default)]
pub struct EventCounters {
    /// Events that are safe.
    pub published: AtomicU64,
    /// Those that came again with their key, and were answered as before.
    pub repeated: AtomicU64,
    /// Those that broke a rule, or whose publisher may not.
    pub refused: AtomicU64,
    /// Those that found no room in the log.
    pub busy: AtomicU64,
}

/// Takes events in. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Events {
    publications: mpsc::Sender<Publication>,
    /// Memory for what waits.
    waiting: Arc<Semaphore>,
    clock: Clock,
    counters: Arc<EventCounters>,
    audit: Audit,
}

/// An event that the store has: its id, and what becomes of it.
type Taken = (String, oneshot::Receiver<Result<Receipt, Reused>>);

/// An event as it is kept and told.
#[derive(Serialize)]
struct Body<'a> {
    id: &'a str,
    #[serde(rename = "type")]
    kind: &'a str,
    source: &'a str,
    data: &'a RawValue,
}

/// What makes two publications the same. Whom they exclude doesn't: a publisher
/// that excludes itself and has lost its connection tries again from another.
#[derive(Serialize)]
struct Fingerprint<'a> {
    kind: &'a str,
    source: &'a str,
    data: &'a RawValue,
    rooms: &'a [Room],
}

impl Events {
    /// Takes events in, hands them to the store, and notes what was published.
    #[must_use]
    pub fn new(publications: mpsc::Sender<Publication>, clock: Clock, audit: Audit) -> Self {
        let waiting = Arc::new(Semaphore::new(WAITING_KIB_MAX as usize));
        Self { publications, waiting, clock, counters: Arc::default(), audit }
    }

    /// What has come in since the start.
    #[must_use]
    pub fn counters(&self) -> Arc<EventCounters> {
        self.counters.clone()
    }

    /// Publishes events, side by side, each with its idempotency key if it has
    /// one. Returns when all that were taken are safe on disk: they are not
    /// written all or none.
    pub async fn publish(
        &self,
        by: &Identity,
        drafts: Vec<(Draft, Option<String>)>,
    ) -> Vec<Result<Receipt, PublishError>> {
        let take =
            |(draft, key): (Draft, Option<String>)| (draft.kind.clone(), self.take(by, draft, key));
        let taken: Vec<_> = drafts.into_iter().map(take).collect();
        let count = taken.len();
        let settled = self.clone().settle(by.user.clone(), taken);
        if !self.audit.is_on() {
            return settled.await;
        }
        // Who goes away before its events are safe has published them all the same.
        let stopping = |_| vec![Err(PublishError::Stopping); count];
        tokio::spawn(settled).await.unwrap_or_else(stopping)
    }

    /// Waits until events are safe, and counts and notes what became of them.
    async fn settle(
        self,
        user: Arc<str>,
        taken: Vec<(String, Result<Taken, PublishError>)>,
    ) -> Vec<Result<Receipt, PublishError>> {
        let mut receipts = Vec::with_capacity(taken.len());
        for (kind, taken) in taken {
            let receipt = match taken {
                Ok((id, done)) => match done.await {
                    Ok(Ok(receipt)) => Ok((id == receipt.id, receipt)),
                    Ok(Err(Reused)) => Err(PublishError::KeyReused),
                    Err(_) => Err(PublishError::Stopping),
                },
                Err(error) => Err(error),
            };
            let counter = match &receipt {
                Ok((true, _)) => &self.counters.published,
                Ok((false, _)) => &self.counters.repeated,
                Err(PublishError::Busy) => &self.counters.busy,
                Err(_) => &self.counters.refused,
            };
            counter.fetch_add(1, Ordering::Relaxed);
            self.note(&user, &kind, &receipt);
            receipts.push(receipt.map(|(_, receipt)| receipt));
        }
        receipts
    }

    fn note(&self, user: &Arc<str>, kind: &str, receipt: &Result<(bool, Receipt), PublishError>) {
        if !self.audit.is_on() {
            return;
        }
        let who = Actor { user: Some(user.clone()), ..Actor::default() };
        match receipt {
            Ok((true, Receipt { id, offset, rooms })) => self.audit.note(Note::Published {
                who,
                kind: kind.into(),
                id: id.as_str().into(),
                offset: *offset,
                rooms: rooms.clone(),
            }),
            Err(PublishError::Denied) => {
                self.audit.note(Note::refused(who, &format!("publish {kind}"), "denied"));
            }
            _ => {}
        }
    }

    /// Checks an event and gives it to the store.
    fn take(
        &self,
        by: &Identity,
        draft: Draft,
        key: Option<String>,
    ) -> Result<Taken, PublishError> {
        let rooms = check(&draft, key.as_deref())?;
        if !rooms.iter().all(|room| by.may_publish(&draft.kind, room)) {
            return Err(PublishError::Denied);
        }
        let Draft { kind, source, data, exclude, .. } = draft;
        let key = key.map(|key| {
            let mark = Fingerprint { kind: &kind, source: &source, data: &data, rooms: &rooms };
            let mark = serde_json::to_vec(&mark).unwrap_or_default();
            let publisher = by.user.clone();
            PublicationKey { publisher, key, fingerprint: *blake3::hash(&mark).as_bytes() }
        });
        let id = new_id().ok_or(PublishError::Busy)?;
        let body = Body { id: &id, kind: &kind, source: &source, data: &data };
        let entry = Entry::event(self.clock.now_ms(), Route { rooms, exclude }, &body)
            .map_err(|error| PublishError::Invalid(error.to_string()))?;
        let kib = u32::try_from(entry.body.get().len() / 1024 + 1).unwrap_or(u32::MAX);
        let room = self.waiting.clone().try_acquire_many_owned(kib);
        let room = room.map_err(|_| PublishError::Busy)?;
        let (done, receipt) = oneshot::channel();
        let publication = Publication { id: id.clone(), entry, key, done, room };
        self.publications.try_send(publication).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => PublishError::Busy,
            mpsc::error::TrySendError::Closed(_) => PublishError::Stopping,
        })?;
        Ok((id, receipt))
    }
}

/// Checks an event and its key against the rules, and answers the rooms that it
/// goes to.
///
/// # Errors
///
/// [`PublishError::Invalid`].
pub fn check(draft: &Draft, key: Option<&str>) -> Result<Vec<Room>, PublishError> {
    let refuse = |words: String| Err(PublishError::Invalid(words));
    types::check(&draft.kind, &draft.data).map_err(PublishError::Invalid)?;
    if draft.source.len() > EVENT_WORD_BYTES_MAX {
        return refuse(format!("`source` is longer than {EVENT_WORD_BYTES_MAX} bytes"));
    }
    let bytes = draft.data.get().len();
    if bytes > EVENT_DATA_BYTES_MAX {
        return Err(PublishError::TooLarge(format!(
            "`data` has {bytes} bytes, and {EVENT_DATA_BYTES_MAX} is the limit"
        )));
    }
    let legal = |key: &str| key.bytes().all(|byte| byte.is_ascii_graphic());
    if key.is_some_and(|key| key.is_empty() || key.len() > KEY_BYTES_MAX || !legal(key)) {
        return refuse(format!(
            "an idempotency key has 1 to {KEY_BYTES_MAX} printable ASCII characters without spaces"
        ));
    }
    let mut rooms = match (&draft.rooms, &draft.user) {
        (Some(rooms), _) => rooms.clone(),
        (None, Some(_)) => Vec::new(),
        (None, None) => types::rooms_of(&draft.kind, &draft.data),
    };
    if let Some(user) = &draft.user {
        let room =
            Room::of_user(user).map_err(|broken| PublishError::Invalid(broken.to_string()))?;
        rooms.push(room);
    }
    rooms.sort_unstable();
    rooms.dedup();
    if rooms.is_empty() || rooms.len() > EVENT_ROOMS_MAX {
        return refuse(format!("an event goes to 1 to {EVENT_ROOMS_MAX} rooms"));
    }
    Ok(rooms)
}

/// 128 random bits.
pub(crate) fn new_id() -> Option<String> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).ok()?;
    Some(format!("{:032x}", u128::from_le_bytes(bytes)))
}
