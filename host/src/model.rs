//! The vocabulary that every room shares: series, documents, findings, ticks,
//! and what plugins answer. Nothing here reads a file, a socket or a clock.

mod batch;
mod board;
mod dictionary;
mod entry;
mod event;
mod finding;
mod series;

pub use batch::{Answer, Ask, Batch, Document, PluginName, Setback, SetbackKind};
pub use board::{
    BOARD_GONE_MAX, BOARDS_MAX, Board, Changed, Clash, Edit, OBJECT_BYTES_MAX, OBJECT_ID_BYTES_MAX,
    OPERATIONS_MAX, Object, ObjectKey, ObjectKind, Operation, Stale,
};
pub use dictionary::{Dictionary, DictionaryError, Known, Mint, SERIES_KNOWN_PER_PLUGIN_MAX};
pub use entry::{Entry, LogChannel, Logged, Route, Subject, Topic};
pub use event::{
    ConnectionId, Draft, EVENT_DATA_BYTES_MAX, EVENT_ROOMS_MAX, EVENT_WORD_BYTES_MAX, Receipt, Room,
};
pub use finding::{Candidate, Finding, FindingState, FindingType, Flags, Judgement};
pub use series::{Kind, Labels, RuleBroken, Series, SeriesId, SeriesKey, SeriesSpec, check_name};

/// One turn of the hub's loop.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
pub struct Tick {
    /// Rises by one for each tick that is taken, over restarts too.
    pub number: u64,
    /// Wall time in nanoseconds since the Unix epoch. Never goes back.
    pub time_ns: u64,
}

impl Tick {
    /// The time in whole milliseconds: the resolution that the store keeps.
    #[must_use]
    pub fn time_ms(self) -> u64 {
        self.time_ns / 1_000_000
    }
}
