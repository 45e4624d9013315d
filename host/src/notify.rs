//! Findings to other systems, as webhooks: gathered, signed, sent until they are
//! taken, and kept as dead letters where they are not.
//!
//! Each receiver has a task of its own, which reads the log and is waited for by
//! nobody: neither the judge, nor the log, nor another receiver. What is told is
//! kept before it is sent, in the transaction that moves the receiver on.

mod body;
mod group;
mod signature;
mod task;
#[cfg(test)]
mod tests;
mod wire;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use serde::Serialize;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use crate::access::Globs;
use crate::clock::{Clock, rfc3339};
use crate::config::NotifyConfig;
use crate::shutdown::Shutdown;
use crate::store::{Delivery, DeliveryAct, DeliveryChange, Reader, Store, StoreError};
use task::Task;
use wire::{Answer, Wire};

/// The most dead letters that are listed at once.
const LETTERS_MAX: usize = 100;

/// What of a receiver's configuration can't be used.
#[derive(Debug, thiserror::Error)]
#[error("notify.{receiver}.{key}: {words}")]
pub struct NotifyError {
    receiver: String,
    key: String,
    words: String,
}

/// Why something was not done about deliveries.
#[derive(Debug, thiserror::Error)]
pub enum DeliveryError {
    /// There is no receiver of that name.
    #[error("there is no receiver `{0}`: `telltale notify list` shows those of the configuration")]
    NoReceiver(String),
    /// It has no such dead letter.
    #[error("`{0}` has no dead letter {1}: `telltale notify dead {0}` shows those it has")]
    NoLetter(String, u64),
    /// The log can't be read.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The hub is stopping.
    #[error("the hub is stopping")]
    Stopping,
}

/// How all receivers together are doing.
#[derive(Debug, Default)]
pub struct NotifyCounters {
    /// Deliveries that were taken.
    pub sent: AtomicU64,
    /// Findings in them, those that are only counted included.
    pub findings: AtomicU64,
    /// Attempts that failed and were to be tried again, or given up.
    pub failed: AtomicU64,
    /// Deliveries that were given up.
    pub dead: AtomicU64,
    /// Dead letters that had to go, there being too many.
    pub dropped: AtomicU64,
    /// Findings that were only counted, a delivery having no room for them.
    pub left_out: AtomicU64,
    /// Times that a receiver was further behind than the log reaches.
    pub gaps: AtomicU64,
}

/// What a receiver's task is doing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum State {
    /// There is nothing to tell.
    #[default]
    Idle,
    /// Findings wait for more of their group.
    Gathering,
    /// A delivery is under way.
    Sending,
    /// A delivery was not taken, and is tried again.
    Retrying,
    /// The hub is stopping.
    Stopped,
}

/// How a receiver is doing, since the start.
#[derive(Clone, Debug, Default)]
struct Status {
    state: State,
    /// Of the delivery that is under way.
    attempts: u32,
    /// Why the last attempt was not taken, until one is.
    why: Option<String>,
    next_ms: Option<u64>,
    /// All findings up to here were told, or are in a delivery that is kept.
    offset: u64,
    /// Findings that wait for more of their group.
    waiting: u64,
    sent: u64,
    sent_ms: Option<u64>,
    findings: u64,
    dead: u64,
}

/// Somebody who is told of findings.
#[derive(Debug)]
struct Receiver {
    name: String,
    hub: String,
    epoch: String,
    config: NotifyConfig,
    detectors: Globs,
    series: Globs,
    wire: Wire,
    /// Told when there is something on its way that was not gathered, and when
    /// what waits is to be tried at once.
    woken: tokio::sync::Notify,
    status: Mutex<Status>,
}

/// A receiver as it is listed.
#[derive(Debug, Serialize)]
pub struct Listed {
    name: String,
    /// Where its deliveries go, without what may be secret.
    url: String,
    signed: bool,
    state: Option<State>,
    attempts: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    next_attempt: Option<String>,
    offset: u64,
    /// Findings between that offset and now are these at most.
    waiting: u64,
    sent: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    last_sent: Option<String>,
    findings: u64,
    given_up: u64,
    dead: u64,
}

/// A dead letter as it is listed.
#[derive(Debug, Serialize)]
pub struct Letter {
    number: u64,
    id: String,
    made: String,
    attempts: u32,
    reason: String,
    findings: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    body: Option<Box<serde_json::value::RawValue>>,
}

/// What came of a delivery that tried the way.
#[derive(Debug, Serialize)]
pub struct Tried {
    taken: bool,
    id: String,
    ms: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
}

/// What the receivers of a configuration are made of.
#[derive(Debug)]
pub struct Receivers(Vec<(String, NotifyConfig, Globs, Globs, Wire)>);

impl Receivers {
    /// Those of a configuration. Reads the files that it names.
    ///
    /// # Errors
    ///
    /// A key can't be used: which one, and what is wrong.
    pub fn open(
        configs: &BTreeMap<String, NotifyConfig>,
        clock: &Clock,
    ) -> Result<Self, NotifyError> {
        let open = |(name, config): (&String, &NotifyConfig)| {
            let globs = |key: &str, texts: &[String]| {
                let words =
                    |words| NotifyError { receiver: name.clone(), key: key.to_owned(), words };
                Globs::new(texts).map_err(words)
            };
            let detectors = globs("detectors", &config.detectors)?;
            let series = globs("series", &config.series)?;
            let wire = Wire::open(name, config, clock.clone())?;
            Ok((name.clone(), config.clone(), detectors, series, wire))
        };
        configs.iter().map(open).collect::<Result<_, _>>().map(Self)
    }
}

/// All who are told of findings.
#[derive(Debug)]
pub struct Notify {
    receivers: BTreeMap<String, Arc<Receiver>>,
    reader: Reader,
    changes: mpsc::Sender<DeliveryChange>,
    found: watch::Receiver<u64>,
    /// Where the log ended when the hub was started: what comes after it is told
    /// to those who are new.
    begins: u64,
    counters: Arc<NotifyCounters>,
    clock: Clock,
}

impl Notify {
    /// Receivers that are told what a store keeps, in the name of a hub, whose
    /// log has the name `epoch`. Nothing is told before [`Notify::tell`].
    #[must_use]
    pub fn new(receivers: Receivers, store: &Store, hub: &str, epoch: &str, clock: Clock) -> Self {
        let receiver = |(name, config, detectors, series, wire): (String, _, _, _, _)| {
            let receiver = Receiver {
                name: name.clone(),
                hub: hub.to_owned(),
                epoch: epoch.to_owned(),
                config,
                detectors,
                series,
                wire,
                woken: tokio::sync::Notify::new(),
                status: Mutex::default(),
            };
            (name, Arc::new(receiver))
        };
        Self {
            receivers: receivers.0.into_iter().map(receiver).collect(),
            reader: store.reader(),
            changes: store.deliveries(),
            begins: *store.found().borrow(),
            found: store.found(),
            counters: Arc::default(),
            clock,
        }
    }

    /// How all together are doing.
    #[must_use]
    pub fn counters(&self) -> Arc<NotifyCounters> {
        self.counters.clone()
    }

    /// What tells them, each receiver on its own, until the signal.
    pub fn tell(&self, shutdown: &Shutdown) -> Vec<impl Future<Output = ()> + Send + 'static> {
        let task = |receiver: &Arc<Receiver>| {
            let task = Task {
                receiver: receiver.clone(),
                reader: self.reader.clone(),
                changes: self.changes.clone(),
                found: self.found.clone(),
                begins: self.begins,
                counters: self.counters.clone(),
                clock: self.clock.clone(),
                shutdown: shutdown.clone(),
            };
            task.run()
        };
        self.receivers.values().map(task).collect()
    }

    /// Forgets how far those were who are not configured any more: when they come
    /// back, they begin with what comes then.
    pub fn forget_others(&self) -> impl Future<Output = ()> + Send + use<> {
        let names = self.receivers.keys().cloned().collect();
        let changes = self.changes.clone();
        async move {
            // None means that the hub is stopping already.
            let _ = task::change(&changes, DeliveryAct::Only(names)).await;
        }
    }

    /// All receivers, and those of which only dead letters are left.
    ///
    /// # Errors
    ///
    /// The log can't be read.
    pub async fn list(&self) -> Result<Vec<Listed>, DeliveryError> {
        let mut dead = self.reader.dead_letters().await?;
        let list = |receiver: &Arc<Receiver>| {
            receiver.listed(dead.remove(&receiver.name).unwrap_or_default())
        };
        let mut listed: Vec<Listed> = self.receivers.values().map(list).collect();
        listed.extend(dead.into_iter().map(|(name, dead)| Listed::gone(name, dead)));
        Ok(listed)
    }

    /// A receiver's newest 100 dead letters, the newest first; with `number` only
    /// that one, with its body.
    ///
    /// # Errors
    ///
    /// There is no such receiver or letter, or the log can't be read.
    pub async fn dead(
        &self,
        name: &str,
        number: Option<u64>,
    ) -> Result<Vec<Letter>, DeliveryError> {
        let letters = self.reader.dead(name.to_owned(), number, LETTERS_MAX).await?;
        if letters.is_empty() {
            self.known(name)?;
            if let Some(number) = number {
                return Err(DeliveryError::NoLetter(name.to_owned(), number));
            }
        }
        Ok(letters.into_iter().map(Letter::from).collect())
    }

    /// Sends a receiver's dead letters again, or one of them, and tries what waits
    /// for it at once. Answers how many letters they are.
    ///
    /// # Errors
    ///
    /// There is no such receiver or letter, or the hub is stopping.
    pub async fn retry(&self, name: &str, number: Option<u64>) -> Result<u64, DeliveryError> {
        let receiver = self.known(name)?;
        let act = DeliveryAct::Revive(name.to_owned(), number);
        let revived = task::change(&self.changes, act).await.ok_or(DeliveryError::Stopping)?;
        if let (0, Some(number)) = (revived, number) {
            return Err(DeliveryError::NoLetter(name.to_owned(), number));
        }
        receiver.woken.notify_one();
        Ok(revived)
    }

    /// Drops a receiver's dead letters, or one of them. Answers how many they were.
    ///
    /// # Errors
    ///
    /// There is no such receiver or letter, or the hub is stopping.
    pub async fn drop(&self, name: &str, number: Option<u64>) -> Result<u64, DeliveryError> {
        let act = DeliveryAct::Drop(name.to_owned(), number);
        let dropped = task::change(&self.changes, act).await.ok_or(DeliveryError::Stopping)?;
        if dropped == 0 {
            self.known(name)?;
            if let Some(number) = number {
                return Err(DeliveryError::NoLetter(name.to_owned(), number));
            }
        }
        Ok(dropped)
    }

    /// Sends a receiver a finding that is made up and says so, once. It is not
    /// kept, and waits for nothing that is.
    ///
    /// # Errors
    ///
    /// There is no such receiver.
    pub async fn test(&self, name: &str) -> Result<Tried, DeliveryError> {
        let receiver = self.known(name)?;
        let (id, begun) = (message_id(), Instant::now());
        let body = receiver.frame(self.clock.now_ms()).test();
        let answer = receiver.wire.send(&id, Bytes::from(body)).await;
        let ms = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        let (status, reason) = match answer {
            Answer::Taken(status) => (Some(status), None),
            Answer::Later(why, _) | Answer::Never(why) => (None, Some(why)),
        };
        Ok(Tried { taken: reason.is_none(), id, ms, status, reason })
    }

    fn known(&self, name: &str) -> Result<&Arc<Receiver>, DeliveryError> {
        self.receivers.get(name).ok_or_else(|| DeliveryError::NoReceiver(name.to_owned()))
    }
}

impl Receiver {
    fn show(&self, change: impl FnOnce(&mut Status)) {
        change(&mut self.status.lock().unwrap_or_else(PoisonError::into_inner));
    }

    fn listed(&self, dead: u64) -> Listed {
        let status = self.status.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let time = |ms: u64| rfc3339(ms.saturating_mul(1_000_000));
        Listed {
            name: self.name.clone(),
            url: self.wire.origin(),
            signed: self.wire.signs(),
            state: Some(status.state),
            attempts: status.attempts,
            error: status.why,
            next_attempt: status.next_ms.map(time),
            offset: status.offset,
            waiting: status.waiting,
            sent: status.sent,
            last_sent: status.sent_ms.map(time),
            findings: status.findings,
            given_up: status.dead,
            dead,
        }
    }
}

impl Listed {
    /// One that is not configured any more.
    fn gone(name: String, dead: u64) -> Self {
        Self {
            name,
            url: String::new(),
            signed: false,
            state: None,
            attempts: 0,
            error: Some("it is not configured any more".to_owned()),
            next_attempt: None,
            offset: 0,
            waiting: 0,
            sent: 0,
            last_sent: None,
            findings: 0,
            given_up: 0,
            dead,
        }
    }
}

impl From<Delivery> for Letter {
    fn from(delivery: Delivery) -> Self {
        let Delivery { number, id, time_ms, attempts, dead, findings, body, .. } = delivery;
        Self {
            number,
            id,
            made: rfc3339(time_ms.saturating_mul(1_000_000)),
            attempts,
            reason: dead.unwrap_or_default(),
            findings,
            body: serde_json::value::RawValue::from_string(body).ok(),
        }
    }
}

/// A delivery's own name: 128 random bits.
fn message_id() -> String {
    let mut bytes = [0; 16];
    if getrandom::fill(&mut bytes).is_err() {
        // The system gave some at the start. Two with the same name would be one
        // to who drops what comes twice, so that this must not be told twice.
        static NEXT: AtomicU64 = AtomicU64::new(1);
        bytes[..8].copy_from_slice(&NEXT.fetch_add(1, Ordering::Relaxed).to_be_bytes());
    }
    format!("msg_{:032x}", u128::from_be_bytes(bytes))
}

/// A number of 0 to 1, by chance; without chance the middle.
fn random() -> f64 {
    let mut bytes = [0; 4];
    match getrandom::fill(&mut bytes) {
        Ok(()) => f64::from(u32::from_be_bytes(bytes)) / f64::from(u32::MAX),
        Err(_) => 0.5,
    }
}
