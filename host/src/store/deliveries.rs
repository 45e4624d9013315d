//! What is told to other systems: how far each has been told, and the deliveries
//! that are on their way or were given up.
//!
//! A delivery is kept in the transaction that moves its receiver on, so that
//! nothing is told by two of them or by none, whenever the hub ends. It is
//! deleted when it was taken.

use std::collections::BTreeMap;

use rusqlite::{Connection, OptionalExtension, Row, Transaction, params};
use tokio::sync::oneshot;

/// Dead letters that are kept of a receiver …
pub const DEAD_MAX: u64 = 1000;
/// … and how many bytes their bodies may have together. Of more the oldest go.
pub const DEAD_BYTES_MAX: u64 = 8 << 20;

/// How far a receiver has been told.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Place {
    /// All findings up to here were told, or are in a delivery that is kept.
    pub offset: u64,
    /// So were those of these groups, further: a group need not wait for one
    /// that still gathers.
    pub ahead: BTreeMap<String, u64>,
}

/// Something that is on its way to a receiver, or was given up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delivery {
    /// Its number; 0 before it is kept.
    pub number: u64,
    /// To whom.
    pub receiver: String,
    /// Its own name, the same however often it is sent.
    pub id: String,
    /// When it was made: wall time in milliseconds since the Unix epoch.
    pub time_ms: u64,
    /// How often it was sent until it was given up; 0 while it is on its way.
    pub attempts: u32,
    /// Why it was given up. None while it is on its way.
    pub dead: Option<String>,
    /// How many findings it tells of, those that are only counted included.
    pub findings: u64,
    /// What is sent.
    pub body: String,
}

/// What is to be kept about deliveries.
#[derive(Debug)]
pub enum DeliveryAct {
    /// A receiver has been told as far as this, by this delivery if there is
    /// one. Answers the delivery's number.
    Move {
        /// Who.
        receiver: String,
        /// How far.
        place: Place,
        /// What tells it.
        delivery: Option<Box<Delivery>>,
    },
    /// A delivery was taken.
    Taken(u64),
    /// A delivery was given up: how often it was sent, and why. Answers how many
    /// dead letters had to go for it.
    Dead(u64, u32, String),
    /// A receiver's dead letters, or one of them, are to be sent again. Answers
    /// how many they are.
    Revive(String, Option<u64>),
    /// A receiver's dead letters, or one of them, are dropped. Answers how many
    /// they were.
    Drop(String, Option<u64>),
    /// Receivers that are not among these start anew when they come back. What
    /// could not be sent to them stays.
    Only(Vec<String>),
}

/// An act that somebody waits for.
#[derive(Debug)]
pub struct DeliveryChange {
    /// What is to be kept.
    pub act: DeliveryAct,
    /// Told what the act answers, once that is safe.
    pub done: oneshot::Sender<u64>,
}

/// Does it, and answers what the act answers.
pub(super) fn apply(transaction: &Transaction<'_>, act: &DeliveryAct) -> rusqlite::Result<u64> {
    match act {
        DeliveryAct::Move { receiver, place, delivery } => {
            move_on(transaction, receiver, place)?;
            delivery.as_ref().map_or(Ok(0), |delivery| keep(transaction, delivery))
        }
        DeliveryAct::Taken(number) => {
            transaction
                .prepare_cached("DELETE FROM deliveries WHERE number = ?1")?
                .execute([number])?;
            Ok(0)
        }
        DeliveryAct::Dead(number, attempts, reason) => {
            transaction
                .prepare_cached("UPDATE deliveries SET attempts = ?2, dead = ?3 WHERE number = ?1")?
                .execute(params![number, attempts, reason])?;
            forget(transaction, *number)
        }
        DeliveryAct::Revive(receiver, number) => {
            let update = "UPDATE deliveries SET attempts = 0, dead = NULL
                          WHERE receiver = ?1 AND dead IS NOT NULL
                          AND (?2 IS NULL OR number = ?2)";
            Ok(transaction.execute(update, params![receiver, number])? as u64)
        }
        DeliveryAct::Drop(receiver, number) => {
            let delete = "DELETE FROM deliveries WHERE receiver = ?1 AND dead IS NOT NULL
                          AND (?2 IS NULL OR number = ?2)";
            Ok(transaction.execute(delete, params![receiver, number])? as u64)
        }
        DeliveryAct::Only(receivers) => {
            let names = super::log::json(receivers)?;
            let mut gone = 0;
            for table in ["receivers", "receiver_groups"] {
                gone = gone.max(transaction.execute(
                    &format!(
                        "DELETE FROM {table} WHERE receiver NOT IN
                             (SELECT value FROM json_each(?1))"
                    ),
                    [&names],
                )?);
            }
            Ok(gone as u64)
        }
    }
}

fn move_on(transaction: &Transaction<'_>, receiver: &str, place: &Place) -> rusqlite::Result<()> {
    transaction
        .prepare_cached("INSERT OR REPLACE INTO receivers VALUES (?1, ?2)")?
        .execute(params![receiver, place.offset])?;
    transaction
        .prepare_cached("DELETE FROM receiver_groups WHERE receiver = ?1")?
        .execute([receiver])?;
    let mut insert =
        transaction.prepare_cached("INSERT INTO receiver_groups VALUES (?1, ?2, ?3)")?;
    for (group, offset) in &place.ahead {
        insert.execute(params![receiver, group, offset])?;
    }
    Ok(())
}

fn keep(transaction: &Transaction<'_>, delivery: &Delivery) -> rusqlite::Result<u64> {
    let Delivery { receiver, id, time_ms, findings, body, .. } = delivery;
    transaction
        .prepare_cached(
            "INSERT INTO deliveries (receiver, id, time_ms, attempts, findings, body)
             VALUES (?1, ?2, ?3, 0, ?4, ?5)",
        )?
        .execute(params![receiver, id, time_ms, findings, body])?;
    Ok(u64::try_from(transaction.last_insert_rowid()).unwrap_or(0))
}

/// Deletes the oldest dead letters of the receiver of this one, as far as there
/// are too many; how many it were.
fn forget(transaction: &Transaction<'_>, number: u64) -> rusqlite::Result<u64> {
    let deleted = transaction
        .prepare_cached(
            "DELETE FROM deliveries WHERE number IN (
                 SELECT number FROM (
                     SELECT number,
                         row_number() OVER newest AS place,
                         sum(length(CAST(body AS BLOB))) OVER newest AS bytes
                     FROM deliveries
                     WHERE dead IS NOT NULL
                     AND receiver = (SELECT receiver FROM deliveries WHERE number = ?1)
                     WINDOW newest AS (ORDER BY number DESC)
                 ) WHERE place > ?2 OR (bytes > ?3 AND place > 1)
             )",
        )?
        .execute([number, DEAD_MAX, DEAD_BYTES_MAX])?;
    Ok(deleted as u64)
}

/// How far a receiver has been told; none if it is new.
pub(super) fn place(connection: &Connection, receiver: &str) -> rusqlite::Result<Option<Place>> {
    let offset = connection
        .query_row("SELECT offset FROM receivers WHERE receiver = ?1", [receiver], |row| row.get(0))
        .optional()?;
    let Some(offset) = offset else { return Ok(None) };
    let ahead = connection
        .prepare("SELECT name, offset FROM receiver_groups WHERE receiver = ?1")?
        .query_map([receiver], |row| Ok((row.get(0)?, row.get(1)?)))?
        .collect::<rusqlite::Result<_>>()?;
    Ok(Some(Place { offset, ahead }))
}

/// A receiver's oldest delivery that is on its way.
pub(super) fn oldest(
    connection: &Connection,
    receiver: &str,
) -> rusqlite::Result<Option<Delivery>> {
    connection
        .prepare_cached(
            "SELECT number, receiver, id, time_ms, attempts, dead, findings, body FROM deliveries
             WHERE receiver = ?1 AND dead IS NULL ORDER BY number LIMIT 1",
        )?
        .query_row([receiver], delivery)
        .optional()
}

/// A receiver's newest dead letters without their bodies, at most `limit`; or one
/// of them, whole.
pub(super) fn letters(
    connection: &Connection,
    receiver: &str,
    number: Option<u64>,
    limit: usize,
) -> rusqlite::Result<Vec<Delivery>> {
    connection
        .prepare_cached(
            "SELECT number, receiver, id, time_ms, attempts, dead, findings,
                 CASE WHEN ?2 IS NULL THEN '' ELSE body END
             FROM deliveries
             WHERE receiver = ?1 AND dead IS NOT NULL AND (?2 IS NULL OR number = ?2)
             ORDER BY number DESC LIMIT ?3",
        )?
        .query_map(params![receiver, number, limit], delivery)?
        .collect()
}

fn delivery(row: &Row<'_>) -> rusqlite::Result<Delivery> {
    Ok(Delivery {
        number: row.get(0)?,
        receiver: row.get(1)?,
        id: row.get(2)?,
        time_ms: row.get(3)?,
        attempts: row.get(4)?,
        dead: row.get(5)?,
        findings: row.get(6)?,
        body: row.get(7)?,
    })
}

/// How many dead letters each receiver has, those that are not configured any
/// more among them.
pub(super) fn dead(connection: &Connection) -> rusqlite::Result<BTreeMap<String, u64>> {
    connection
        .prepare_cached(
            "SELECT receiver, count(*) FROM deliveries WHERE dead IS NOT NULL GROUP BY receiver",
        )?
        .query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?
        .collect()
}
