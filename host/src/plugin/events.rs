//! The `events` import: what plugins publish.
//!
//! A plugin never waits for the disk. Its event is checked here and handed to a
//! queue that all plugins share; whoever reads the queue publishes it, and says
//! what became of it.

use std::fmt::{self, Display};
use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};
use serde_json::value::RawValue;
use tokio::sync::mpsc::{self, WeakSender};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tracing::Level;

use super::bindings::telltale::plugin::events as wire;
use super::cost::read;
use super::kit::Belongings;
use super::limits::{Limits, Refused};
use super::output::PluginLog;
use crate::access::{Identity, Publish};
use crate::model::{
    Draft, EVENT_DATA_BYTES_MAX, EVENT_ROOMS_MAX, EVENT_WORD_BYTES_MAX, PluginName, Room,
};

/// What one plugin's events may have together while they wait to be written, in
/// bytes: four of the largest.
const PLUGIN_BYTES_MAX: usize = 4 * 1024 * 1024;
/// The same of all plugins together: it is the hub's memory.
const ALL_BYTES_MAX: usize = 32 * 1024 * 1024;
/// What an event counts for at least, so that bytes bound their number too: 256
/// of one plugin.
const EVENT_BYTES_MIN: usize = 16 * 1024;

/// How many events of all plugins can wait: what the queue has to have room for.
pub const EVENTS_WAITING_MAX: usize = ALL_BYTES_MAX / EVENT_BYTES_MIN;

/// The rooms that an event goes to, or what is wrong with it or its key.
pub type EventCheck = fn(draft: &Draft, key: Option<&str>) -> Result<Vec<Room>, String>;

/// Where plugins' events go.
#[derive(Clone, Debug)]
pub struct EventOutlet {
    /// Takes up to [`EVENTS_WAITING_MAX`] of them.
    pub queue: mpsc::Sender<Publication>,
    /// The rules of events.
    pub check: EventCheck,
}

/// An event that a plugin publishes: it keeps the rules, and the plugin's
/// settings grant its type and its rooms.
#[derive(Debug)]
pub struct Publication {
    /// The plugin, and what its settings let it publish.
    pub by: Arc<Identity>,
    /// The event.
    pub draft: Draft,
    /// Its idempotency key.
    pub key: Option<String>,
    /// To be told what became of it.
    pub ticket: Ticket,
}

/// An event's place among those that wait: free again once this is gone.
#[derive(Debug)]
pub struct Ticket {
    kind: Box<str>,
    log: PluginLog,
    book: Arc<EventBook>,
    _places: [OwnedSemaphorePermit; 2],
}

impl Ticket {
    /// The event is safe.
    pub fn published(self) {
        self.book.published.fetch_add(1, Ordering::Relaxed);
    }

    /// The event was not published: the plugin's log says why.
    pub fn failed(self, why: impl Display) {
        self.book.failed.fetch_add(1, Ordering::Relaxed);
        self.log.line(Level::WARN, &format!("event {} was not published: {why}", self.kind));
    }
}

/// What became of a plugin's events, from when it was added until it is removed.
#[derive(Debug)]
pub(crate) struct EventBook {
    published: AtomicU64,
    failed: AtomicU64,
    /// For what waits.
    room: Arc<Semaphore>,
}

impl Default for EventBook {
    fn default() -> Self {
        let room = Arc::new(Semaphore::new(PLUGIN_BYTES_MAX));
        Self { published: AtomicU64::new(0), failed: AtomicU64::new(0), room }
    }
}

/// The figures of a plugin's events.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct EventFigures {
    /// Published, and safe in the log.
    pub published: u64,
    /// Taken from the plugin, and not published: its log says why.
    pub failed: u64,
}

impl EventBook {
    pub(crate) fn figures(&self) -> EventFigures {
        EventFigures { published: read(&self.published), failed: read(&self.failed) }
    }
}

/// The way out, as all plugins share it. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Outlet {
    /// Weak, since whoever lists plugins keeps hold of what they are: the queue
    /// ends with the plugins all the same.
    queue: WeakSender<Publication>,
    check: EventCheck,
    /// For what waits of all plugins.
    room: Arc<Semaphore>,
    /// Whether events are counted by the second.
    is_paced: bool,
}

impl Outlet {
    pub(crate) fn new(outlet: &EventOutlet) -> Self {
        let room = Arc::new(Semaphore::new(ALL_BYTES_MAX));
        let queue = outlet.queue.downgrade();
        Self { queue, check: outlet.check, room, is_paced: true }
    }

    /// The same where a plugin is asked as often as it answers, so that a second
    /// is none to go by.
    pub(crate) fn unpaced(self) -> Self {
        Self { is_paced: false, ..self }
    }

    /// For a plugin that nobody takes events from.
    pub(crate) fn closed() -> Self {
        let (queue, _) = mpsc::channel(1);
        Self::new(&EventOutlet { queue, check: |_, _| Ok(Vec::new()) })
    }
}

/// What a plugin publishes by: made for each of its versions.
pub(crate) struct Publisher {
    plugin: PluginName,
    grant: Option<Publish>,
    by: Arc<Identity>,
    events_per_call: u32,
    events_per_second: u32,
    pace: Option<DefaultDirectRateLimiter>,
    outlet: Outlet,
    book: Arc<EventBook>,
    log: PluginLog,
    refused: Refused,
}

impl fmt::Debug for Publisher {
    /// The rate limiter has nothing to show.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Publisher")
            .field("plugin", &self.plugin)
            .field("grant", &self.grant)
            .finish()
    }
}

/// An instance's use of its plugin's publisher.
pub(crate) struct Publishing {
    publisher: Arc<Publisher>,
    in_call: u32,
}

impl Publishing {
    pub(crate) fn new(publisher: Arc<Publisher>) -> Self {
        Self { publisher, in_call: 0 }
    }

    /// The instance is called: what it may publish in one call is counted anew.
    pub(crate) fn begin_call(&mut self) {
        self.in_call = 0;
    }

    /// Takes an event, or says why not.
    pub(crate) fn publish(&mut self, event: wire::Event) -> Result<(), wire::Error> {
        self.publisher.check_kind(&event.type_)?;
        // Those that turn out to be none count too: checking them is what costs.
        self.in_call = self.in_call.saturating_add(1);
        let most = self.publisher.events_per_call;
        if self.in_call > most {
            return Err(self
                .publisher
                .busy(format!("more than {most} in one call (limit `events`)")));
        }
        self.publisher.publish(event)
    }
}

impl Publisher {
    /// For a version of a plugin with this grant and these limits.
    pub(crate) fn new(
        grant: Option<Publish>,
        limits: &Limits,
        log: PluginLog,
        belongings: &Belongings,
    ) -> Self {
        let Belongings { journal, refused, outlet, events, .. } = belongings;
        let plugin = journal.plugin();
        let per_second = NonZeroU32::new(limits.events_per_second).unwrap_or(NonZeroU32::MIN);
        // One that is asked once a minute may tell all of that minute at once.
        let at_once = per_second.max(NonZeroU32::new(limits.events).unwrap_or(NonZeroU32::MIN));
        let quota = Quota::per_second(per_second).allow_burst(at_once);
        Self {
            plugin: plugin.clone(),
            by: Identity::of_plugin(plugin, grant.clone()),
            grant,
            events_per_call: limits.events,
            events_per_second: limits.events_per_second,
            pace: outlet.is_paced.then(|| RateLimiter::direct(quota)),
            outlet: outlet.clone(),
            book: events.clone(),
            log,
            refused: refused.clone(),
        }
    }

    /// Whether a type is one, as far as its grant needs it, and granted.
    fn check_kind(&self, kind: &str) -> Result<(), wire::Error> {
        if kind.is_empty() || kind.len() > EVENT_WORD_BYTES_MAX {
            let words = format!("a type has 1 to {EVENT_WORD_BYTES_MAX} bytes");
            return Err(wire::Error::Invalid(words));
        }
        match &self.grant {
            Some(grant) if grant.types.matches(kind) => Ok(()),
            _ => Err(self.denied(Some(kind), None)),
        }
    }

    fn publish(&self, event: wire::Event) -> Result<(), wire::Error> {
        let wire::Event { type_: kind, source, data_json, rooms, key } = event;
        let rooms = rooms_named(&rooms).map_err(wire::Error::Invalid)?;
        if data_json.len() > EVENT_DATA_BYTES_MAX {
            let words = format!(
                "data of {} bytes, and {EVENT_DATA_BYTES_MAX} is the limit",
                data_json.len()
            );
            return Err(wire::Error::TooLarge(words));
        }
        if self.pace.as_ref().is_some_and(|pace| pace.check().is_err()) {
            let most = self.events_per_second;
            let words = format!("more than {most} a second (limit `events_per_second`)");
            return Err(self.busy(words));
        }
        let data = RawValue::from_string(data_json)
            .map_err(|error| wire::Error::Invalid(format!("data-json is no JSON: {error}")))?;
        let source = source.unwrap_or_else(|| self.plugin.to_string());
        let draft = Draft { kind, source, data, rooms, user: None, exclude: None };
        let rooms = (self.outlet.check)(&draft, key.as_deref()).map_err(wire::Error::Invalid)?;
        match rooms.iter().find(|room| !self.by.may_publish(&draft.kind, room)) {
            Some(room) => Err(self.denied(None, Some(room.as_str()))),
            None => self.send(draft, key),
        }
    }

    /// Hands an event over, if there is room for it.
    fn send(&self, draft: Draft, key: Option<String>) -> Result<(), wire::Error> {
        // Without a reader the hub is stopping, or there is none.
        let Some(queue) = self.outlet.queue.upgrade() else {
            return Err(self.busy("nobody takes events just now".to_owned()));
        };
        let bytes = draft.data.get().len().max(EVENT_BYTES_MIN);
        let Some(own) = place(&self.book.room, bytes) else {
            let mib = PLUGIN_BYTES_MAX >> 20;
            return Err(self.busy(format!("{mib} MiB of this plugin's wait to be written")));
        };
        let Some(shared) = place(&self.outlet.room, bytes) else {
            let mib = ALL_BYTES_MAX >> 20;
            return Err(self.busy(format!("{mib} MiB of all plugins' wait to be written")));
        };
        let (log, book) = (self.log.clone(), self.book.clone());
        let ticket = Ticket { kind: (*draft.kind).into(), log, book, _places: [own, shared] };
        let publication = Publication { by: self.by.clone(), draft, key, ticket };
        queue
            .try_send(publication)
            .map_err(|_| self.busy("nobody takes events just now".to_owned()))
    }

    /// Counts an event that there is no room for.
    fn busy(&self, words: String) -> wire::Error {
        self.refused.add(|counts| counts.events += 1);
        wire::Error::Busy(words)
    }

    /// The line that grants a type, or a room, beside what is granted already.
    fn denied(&self, kind: Option<&str>, room: Option<&str>) -> wire::Error {
        let list = |globs: Option<&crate::access::Globs>, more: Option<&str>| {
            let there = globs.into_iter().flat_map(|globs| globs.texts());
            let list: Vec<&str> = there.chain(more).collect();
            format!("{list:?}")
        };
        let types = list(self.grant.as_ref().map(|grant| &grant.types), kind);
        let rooms = self.grant.as_ref().and_then(|grant| grant.rooms.as_ref());
        let line = match rooms.filter(|rooms| rooms.texts().ne(["*"])) {
            Some(rooms) => {
                format!("events = {{ types = {types}, rooms = {} }}", list(Some(rooms), room))
            }
            None => format!("events = {types}"),
        };
        wire::Error::Denied(format!("write `{line}` under [grant] in its settings"))
    }
}

fn place(room: &Arc<Semaphore>, bytes: usize) -> Option<OwnedSemaphorePermit> {
    room.clone().try_acquire_many_owned(u32::try_from(bytes).ok()?).ok()
}

/// The rooms that an event names, if it names any.
fn rooms_named(names: &[String]) -> Result<Option<Vec<Room>>, String> {
    if names.len() > EVENT_ROOMS_MAX {
        return Err(format!("{} rooms, and {EVENT_ROOMS_MAX} are the most", names.len()));
    }
    let rooms = names.iter().map(|name| Room::new(name).map_err(|broken| broken.to_string()));
    let rooms = rooms.collect::<Result<Vec<_>, _>>()?;
    Ok((!rooms.is_empty()).then_some(rooms))
}

#[cfg(test)]
#[path = "events_tests.rs"]
mod tests;
