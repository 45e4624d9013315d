//! Reads of the log: what a client has missed, and what is newest.

use rusqlite::types::Type;
use rusqlite::{Connection, Row, Rows};
use serde_json::value::RawValue;

use super::log;
use crate::model::{Entry, LogChannel, Logged};

/// What a client has missed of some log channels.
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
pub(super) struct Room {
    pub(super) entries: usize,
    /// Bytes of bodies.
    pub(super) bytes: usize,
}

impl Room {
    /// Whether one more body has room among `taken`; makes it smaller by that.
    fn take(&mut self, taken: usize, body_bytes: usize) -> bool {
        let fits = taken < self.entries && body_bytes <= self.bytes;
        self.bytes = self.bytes.saturating_sub(body_bytes);
        fits || taken == 0
    }
}

/// What of the channels comes after `after`, up to `through`, in one read of
/// the file; none if entries after `after` are gone, or were never there.
pub(super) fn missed(
    connection: &Connection,
    after: u64,
    through: u64,
    channels: &[LogChannel],
    room: Room,
) -> rusqlite::Result<Option<Missed>> {
    let transaction = connection.unchecked_transaction()?;
    let head = log::head(&transaction)?;
    if log::pruned(&transaction)? > after || head < after {
        return Ok(None);
    }
    let through = through.min(head);
    let mut missed = Missed { entries: Vec::new(), through, complete: true };
    let mut channels = channels.to_vec();
    channels.sort_unstable_by_key(|channel| channel.as_str());
    channels.dedup();
    if channels.is_empty() {
        return Ok(Some(missed));
    }
    let mut select = transaction.prepare_cached(&select_missed(channels.len()))?;
    select.raw_bind_parameter(1, after)?;
    select.raw_bind_parameter(2, through)?;
    for (at, channel) in channels.iter().enumerate() {
        select.raw_bind_parameter(at + 3, channel.as_str())?;
    }
    if let Some(left_out) = fill(&mut missed.entries, select.raw_query(), room)? {
        missed.through = left_out - 1;
        missed.complete = false;
    }
    Ok(Some(missed))
}

/// The statement that reads so many channels after ?1 and up to ?2. Each is
/// read in its own order and they are merged on the way, so that no more is
/// read than is taken; with IN it would be all entries of the range, or a sort.
pub(super) fn select_missed(channels: usize) -> String {
    let of_one = |at| {
        format!(
            "SELECT offset, time_ms, body, channel FROM entries
             WHERE channel = ?{} AND offset > ?1 AND offset <= ?2",
            at + 3
        )
    };
    let each: Vec<String> = (0..channels).map(of_one).collect();
    format!("{} ORDER BY offset", each.join(" UNION ALL "))
}

/// The newest entries.
pub(super) fn recent(connection: &Connection, room: Room) -> rusqlite::Result<Vec<Logged>> {
    let mut entries = Vec::new();
    let select = "SELECT offset, time_ms, body, channel FROM entries ORDER BY offset DESC";
    fill(&mut entries, connection.prepare_cached(select)?.query([])?, room)?;
    entries.reverse();
    Ok(entries)
}

/// Takes what there is room for; the offset of the first that there is none for.
fn fill(
    entries: &mut Vec<Logged>,
    mut rows: Rows<'_>,
    mut room: Room,
) -> rusqlite::Result<Option<u64>> {
    while let Some(row) = rows.next()? {
        if !room.take(entries.len(), row.get_ref(2)?.as_str()?.len()) {
            return row.get(0).map(Some);
        }
        // Only another version writes to channels that this one doesn't know.
        if let Some(channel) = LogChannel::from_word(row.get_ref(3)?.as_str()?) {
            entries.push(logged(channel, row)?);
        }
    }
    Ok(None)
}

/// An entry from its offset, time and body.
pub(super) fn logged(channel: LogChannel, row: &Row<'_>) -> rusqlite::Result<Logged> {
    let body = RawValue::from_string(row.get(2)?)
        .map_err(|error| rusqlite::Error::FromSqlConversionFailure(2, Type::Text, error.into()))?;
    Ok(Logged::new(row.get(0)?, Entry { channel, time_ms: row.get(1)?, body }))
}
