//! Reads of the log: what a client has missed, and what is newest.

use rusqlite::types::Type;
use rusqlite::{Connection, Row, Rows, params};
use serde_json::value::RawValue;

use super::log;
use crate::model::{Entry, LogChannel, Logged, Room, Topic};

/// What a client has missed of some topics.
#[derive(Clone, Debug)]
pub struct Missed {
    /// The entries, in the order of their offsets.
    pub entries: Vec<Logged>,
    /// The offset up to which these are all there are.
    pub through: u64,
    /// Nothing was cut off: there are no more up to the offset that was asked
    /// for.
    pub complete: bool,
}

/// How much an answer may hold. One entry is always taken.
#[derive(Clone, Copy, Debug)]
pub(super) struct Portion {
    pub(super) entries: usize,
    /// Bytes of bodies.
    pub(super) bytes: usize,
}

impl Portion {
    /// Whether one more body has room among `taken`; makes it smaller by that.
    fn take(&mut self, taken: usize, body_bytes: usize) -> bool {
        let fits = taken < self.entries && body_bytes <= self.bytes;
        self.bytes = self.bytes.saturating_sub(body_bytes);
        fits || taken == 0
    }
}

/// What of the topics comes after `after`, up to `through`, in one read of
/// the file; none if entries after `after` are gone, or were never there.
pub(super) fn missed(
    connection: &Connection,
    after: u64,
    through: u64,
    topics: &[Topic],
    portion: Portion,
) -> rusqlite::Result<Option<Missed>> {
    let transaction = connection.unchecked_transaction()?;
    let head = log::head(&transaction)?;
    if log::pruned(&transaction)? > after || head < after {
        return Ok(None);
    }
    let through = through.min(head);
    let mut missed = Missed { entries: Vec::new(), through, complete: true };
    let mut words: Vec<(bool, &str)> = topics.iter().map(word).collect();
    words.sort_unstable();
    words.dedup();
    if words.is_empty() {
        return Ok(Some(missed));
    }
    let rooms = words.iter().filter(|(is_room, _)| *is_room).count();
    let mut select = transaction.prepare_cached(&select_missed(words.len() - rooms, rooms))?;
    select.raw_bind_parameter(1, after)?;
    select.raw_bind_parameter(2, through)?;
    for (at, (_, word)) in words.iter().enumerate() {
        select.raw_bind_parameter(at + 3, word)?;
    }
    if let Some(left_out) = fill(&mut missed.entries, select.raw_query(), portion)? {
        missed.through = left_out - 1;
        missed.complete = false;
    }
    Ok(Some(missed))
}

/// Whether a topic is a room, and its word in the file.
fn word(topic: &Topic) -> (bool, &str) {
    match topic {
        Topic::Channel(channel) => (false, channel.as_str()),
        Topic::Room(room) => (true, room.as_str()),
    }
}

/// The statement that reads so many channels and rooms after ?1 and up to ?2.
/// Each is read in its own order and they are merged on the way, so that no
/// more is read than is taken; with IN it would be all entries of the range, or
/// a sort. An event in several of the rooms comes once for each, in a row.
pub(super) fn select_missed(channels: usize, rooms: usize) -> String {
    let of_channel = |at| {
        format!(
            "SELECT offset, time_ms, body, channel, route FROM entries
             WHERE channel = ?{at} AND offset > ?1 AND offset <= ?2",
        )
    };
    let of_room = |at| {
        format!(
            "SELECT entry_rooms.offset, time_ms, body, channel, route
             FROM entry_rooms CROSS JOIN entries ON entries.offset = entry_rooms.offset
             WHERE room = ?{at} AND entry_rooms.offset > ?1 AND entry_rooms.offset <= ?2",
        )
    };
    let channels = 3..3 + channels;
    let rooms = channels.end..channels.end + rooms;
    let each: Vec<String> = channels.map(of_channel).chain(rooms.map(of_room)).collect();
    // By number, since the columns' names differ.
    format!("{} ORDER BY 1", each.join(" UNION ALL "))
}

/// A page of what was in a room.
#[derive(Clone, Debug)]
pub struct RoomPage {
    /// The entries, in the order of their offsets.
    pub entries: Vec<Logged>,
    /// There are more after them.
    pub has_more: bool,
    /// Some that came after the offset that was asked for are no longer kept, or
    /// the log never came as far.
    pub has_lost: bool,
    /// The end of the log.
    pub head: u64,
}

/// What was in a room after an offset; without one, what was newest.
pub(super) fn room(
    connection: &Connection,
    room: &Room,
    after: Option<u64>,
    portion: Portion,
) -> rusqlite::Result<RoomPage> {
    let transaction = connection.unchecked_transaction()?;
    let (head, pruned) = (log::head(&transaction)?, log::pruned(&transaction)?);
    let mut page = RoomPage { entries: Vec::new(), has_more: false, has_lost: false, head };
    if let Some(after) = after {
        page.has_lost = pruned > after || head < after;
        let mut select = transaction.prepare_cached(&select_missed(0, 1))?;
        let rows = select.query(params![after.min(head), head, room.as_str()])?;
        page.has_more = fill(&mut page.entries, rows, portion)?.is_some();
        return Ok(page);
    }
    let select = "SELECT entry_rooms.offset, time_ms, body, channel, route
                  FROM entry_rooms CROSS JOIN entries ON entries.offset = entry_rooms.offset
                  WHERE room = ?1 ORDER BY entry_rooms.offset DESC";
    let mut select = transaction.prepare_cached(select)?;
    fill(&mut page.entries, select.query([room.as_str()])?, portion)?;
    page.entries.reverse();
    Ok(page)
}

/// The newest entries.
pub(super) fn recent(connection: &Connection, portion: Portion) -> rusqlite::Result<Vec<Logged>> {
    let mut entries = Vec::new();
    let select = "SELECT offset, time_ms, body, channel, route FROM entries ORDER BY offset DESC";
    fill(&mut entries, connection.prepare_cached(select)?.query([])?, portion)?;
    entries.reverse();
    Ok(entries)
}

/// Takes what there is room for; the offset of the first that there is none for.
fn fill(
    entries: &mut Vec<Logged>,
    mut rows: Rows<'_>,
    mut portion: Portion,
) -> rusqlite::Result<Option<u64>> {
    while let Some(row) = rows.next()? {
        let offset: u64 = row.get(0)?;
        if entries.last().is_some_and(|last| last.offset == offset) {
            continue;
        }
        if !portion.take(entries.len(), row.get_ref(2)?.as_str()?.len()) {
            return Ok(Some(offset));
        }
        // Only another version writes to channels that this one doesn't know.
        if let Some(channel) = LogChannel::from_word(row.get_ref(3)?.as_str()?) {
            entries.push(logged(channel, row)?);
        }
    }
    Ok(None)
}

/// An entry from its offset, time, body and, in the fifth column, route.
pub(super) fn logged(channel: LogChannel, row: &Row<'_>) -> rusqlite::Result<Logged> {
    let refuse = |column, error: serde_json::Error| {
        rusqlite::Error::FromSqlConversionFailure(column, Type::Text, error.into())
    };
    let body = RawValue::from_string(row.get(2)?).map_err(|error| refuse(2, error))?;
    let route = match channel {
        LogChannel::Events => row.get_ref(4)?.as_str_or_null()?,
        LogChannel::Findings | LogChannel::Shadow | LogChannel::Hub => None,
    };
    let route = route.map(serde_json::from_str).transpose().map_err(|error| refuse(4, error))?;
    Ok(Logged::new(row.get(0)?, Entry { channel, time_ms: row.get(1)?, body, route }))
}
