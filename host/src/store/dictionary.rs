//! The numbers of series, on disk.

use std::collections::BTreeMap;

use rusqlite::types::Type;
use rusqlite::{Connection, OptionalExtension, Row, params};

use crate::model::{Kind, Known, Labels, SeriesId, SeriesKey, SeriesSpec};

/// All series that have a number.
pub(super) fn known(connection: &Connection) -> rusqlite::Result<Vec<Known>> {
    let mut select = connection
        .prepare("SELECT id, plugin, name, labels, kind, unit, description FROM series")?;
    let rows = select.query_map([], |row| Ok((row.get(0)?, from_row(row))))?;
    let mut all = Vec::new();
    for row in rows {
        match row? {
            (_, Ok(known)) => all.push(known),
            // It keeps its number: declared again, it is written anew.
            (id, Err(error)) => {
                let id: i64 = id;
                tracing::warn!(id, %error, "a series in the dictionary can't be read");
            }
        }
    }
    Ok(all)
}

/// The series with this number, alive or not.
pub(super) fn find(connection: &Connection, id: SeriesId) -> rusqlite::Result<Option<SeriesSpec>> {
    connection
        .prepare_cached(
            "SELECT id, plugin, name, labels, kind, unit, description FROM series WHERE id = ?1",
        )?
        .query_row([id.0], |row| Ok(from_row(row)?.spec))
        .optional()
}

/// Writes a series that is new or has changed, and answers its number.
pub(super) fn record(connection: &Connection, spec: &SeriesSpec) -> rusqlite::Result<SeriesId> {
    let labels = serde_json::to_string(&spec.key.labels)
        .map_err(|error| rusqlite::Error::ToSqlConversionFailure(error.into()))?;
    connection
        .prepare_cached(
            "INSERT INTO series (plugin, name, labels, kind, unit, description)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6)
             ON CONFLICT (plugin, name, labels) DO UPDATE
             SET kind = excluded.kind, unit = excluded.unit, description = excluded.description
             RETURNING id",
        )?
        .query_row(
            params![
                &*spec.key.plugin,
                spec.key.name,
                labels,
                spec.kind.as_str(),
                spec.unit,
                spec.description
            ],
            |row| row.get(0).map(SeriesId),
        )
}

fn from_row(row: &Row<'_>) -> rusqlite::Result<Known> {
    let broken = |at: usize, why: String| {
        rusqlite::Error::FromSqlConversionFailure(at, Type::Text, why.into())
    };
    let labels: BTreeMap<Box<str>, Box<str>> = serde_json::from_str(row.get_ref(3)?.as_str()?)
        .map_err(|error| broken(3, error.to_string()))?;
    let labels =
        Labels::new(labels.into_iter().collect()).map_err(|rule| broken(3, rule.to_string()))?;
    let kind: String = row.get(4)?;
    let kind =
        Kind::from_word(&kind).ok_or_else(|| broken(4, format!("no kind is named {kind}")))?;
    let plugin: String = row.get(1)?;
    let key = SeriesKey { plugin: plugin.into(), name: row.get(2)?, labels };
    let spec = SeriesSpec::new(key, kind, row.get(5)?, row.get(6)?)
        .map_err(|rule| broken(2, rule.to_string()))?;
    Ok(Known { id: SeriesId(row.get(0)?), spec })
}
