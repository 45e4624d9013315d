//! What one change makes of a board: looked at first, written if all of it can
//! be made.

use std::collections::BTreeMap;

use rusqlite::{OptionalExtension, Transaction, params};
use serde_json::value::RawValue;

use super::super::log;
use super::{Change, Halt, Totals, stored};
use crate::model::{
    BOARD_GONE_MAX, BOARDS_MAX, Board, Clash, Edit, OBJECT_BYTES_MAX, Object, ObjectKey, Operation,
    Stale,
};

/// Widgets and layouts of one board: what a page can show, several times over.
pub(in super::super) const OBJECTS_MAX: u64 = 1000;
/// The versions of an object that are kept, the one that stands included.
pub(in super::super) const VERSIONS_KEPT: u64 = 50;
/// What an object or a version costs beside its data and its id, give or take,
/// in the file and in memory.
pub(in super::super) const OBJECT_COST: u64 = 128;
/// What a change may write, its objects' data after each operation together: all
/// of it goes to each of the board's clients in one message.
pub(in super::super) const WRITTEN_BYTES_MAX: usize = 4 * OBJECT_BYTES_MAX;
/// What the objects of one board may cost together: a client that comes gets all
/// of them in one message.
pub(in super::super) const BOARD_COST_MAX: u64 = 4 * 1024 * 1024;
/// What stood on boards before may cost so many times as much as what stands
/// there. Of more the oldest goes.
pub(in super::super) const BEFORE_FACTOR: u64 = 2;
/// A board's row.
struct Line {
    board: u64,
    revision: u64,
    floor: u64,
    forgotten: u64,
    objects: u64,
    gone: u64,
    cost: u64,
}

impl Line {
    const COLUMNS: &str = "board, revision, floor, forgotten, objects, gone, cost";

    fn of(row: &rusqlite::Row<'_>) -> rusqlite::Result<Self> {
        Ok(Self {
            board: row.get(0)?,
            revision: row.get(1)?,
            floor: row.get(2)?,
            forgotten: row.get(3)?,
            objects: row.get(4)?,
            gone: row.get(5)?,
            cost: row.get(6)?,
        })
    }
}

/// An object that a change is about.
struct Staged {
    /// As it stands in the file.
    before: Option<Object>,
    /// What the operations make of it, one after the other.
    steps: Vec<Object>,
}

impl Staged {
    fn current(&self) -> Option<&Object> {
        self.steps.last().or(self.before.as_ref())
    }

    /// Whether it is what an operation was made on. What the change itself has
    /// made of it is no surprise to its client.
    fn is_made_on(&self, base: u64) -> bool {
        let is = |object: Option<&Object>| match object {
            None => base == 0,
            Some(object) => object.version == base || (base == 0 && object.data.is_none()),
        };
        is(self.current()) || is(self.before.as_ref())
    }
}

/// A board while one change is looked at.
pub(super) struct Desk<'a> {
    transaction: &'a Transaction<'a>,
    board: &'a Board,
    line: Line,
    is_new: bool,
    objects: BTreeMap<ObjectKey, Staged>,
    written: usize,
    /// The empty board that makes room for this one.
    replaced: Option<Line>,
}

impl<'a> Desk<'a> {
    pub(super) fn open(
        transaction: &'a Transaction<'a>,
        board: &'a Board,
        totals: &Totals,
    ) -> rusqlite::Result<Self> {
        let select = format!("SELECT {} FROM boards WHERE name = ?1", Line::COLUMNS);
        let line = transaction
            .prepare_cached(&select)?
            .query_row([board.as_str()], Line::of)
            .optional()?;
        let is_new = line.is_none();
        let line = line.unwrap_or(Line {
            board: 0,
            revision: totals.floor,
            floor: totals.floor,
            forgotten: totals.forgotten,
            objects: 0,
            gone: 0,
            cost: 0,
        });
        let (objects, written, replaced) = (BTreeMap::new(), 0, None);
        Ok(Self { transaction, board, line, is_new, objects, written, replaced })
    }

    /// The board's revision after the change.
    pub(super) fn revision(&self) -> u64 {
        self.line.revision + 1
    }

    /// The objects that the change makes different, as they are after it.
    pub(super) fn touched(&self) -> Vec<&Object> {
        self.objects.values().filter_map(|staged| staged.steps.last()).collect()
    }

    /// Looks at the next operation, and answers the version of its object after
    /// it. To delete what is not there is done already.
    pub(super) fn take(&mut self, at: usize, operation: &Operation) -> Result<u64, Halt> {
        let Operation { key, edit, base } = operation;
        if !self.objects.contains_key(key) {
            let before = self.find(key)?;
            self.objects.insert(key.clone(), Staged { before, steps: Vec::new() });
        }
        let staged = &self.objects[key];
        if let Some(base) = *base
            && !staged.is_made_on(base)
        {
            let (key, current) = (key.clone(), staged.current().cloned());
            let basis = self.version(&key, base)?;
            let stale = Stale { at, key, base, current, basis };
            return Err(Halt::Clash(Clash::Stale(Box::new(stale))));
        }
        let (current, version) = match staged.current() {
            Some(current) => (current.data.as_deref(), current.version),
            None => (None, 0),
        };
        let data = match edit {
            Edit::Merge(members) => Some(merge(current, members).map_err(full)?),
            Edit::Replace(data) => Some(data.clone()),
            Edit::Delete => None,
            Edit::Restore(version) => self.restored(key, *version)?,
        };
        if data.is_none() && current.is_none() {
            return Ok(version);
        }
        let bytes = data.as_ref().map_or(0, |data| data.get().len());
        if bytes > OBJECT_BYTES_MAX {
            return Err(full(format!(
                "{} {:?} would have {bytes} bytes, and {OBJECT_BYTES_MAX} is the limit: split it",
                key.kind.as_str(),
                key.id
            )));
        }
        let next = if version == 0 { self.line.forgotten + 1 } else { version + 1 };
        let revision = self.revision();
        self.written += bytes;
        let step = Object { key: key.clone(), version: next, revision, data };
        self.objects.entry(key.clone()).and_modify(|staged| staged.steps.push(step));
        Ok(next)
    }

    /// An object as it stands in the file.
    fn find(&self, key: &ObjectKey) -> rusqlite::Result<Option<Object>> {
        let found = self
            .transaction
            .prepare_cached(
                "SELECT kind, id, version, revision, data FROM objects
                 WHERE board = ?1 AND kind = ?2 AND id = ?3",
            )?
            .query_row(params![self.line.board, key.kind.as_str(), &*key.id], stored)
            .optional()?;
        Ok(found.flatten())
    }

    /// An object as it was, where that is kept.
    fn version(&self, key: &ObjectKey, version: u64) -> rusqlite::Result<Option<Object>> {
        let staged = &self.objects[key];
        let mut at_hand = staged.steps.iter().chain(&staged.before);
        if let Some(object) = at_hand.find(|object| object.version == version) {
            return Ok(Some(object.clone()));
        }
        // No version is higher than what the file can hold.
        let Ok(version) = i64::try_from(version) else { return Ok(None) };
        let found = self
            .transaction
            .prepare_cached(
                "SELECT kind, id, version, revision, data FROM object_versions
                 WHERE board = ?1 AND kind = ?2 AND id = ?3 AND version = ?4",
            )?
            .query_row(params![self.line.board, key.kind.as_str(), &*key.id, version], stored)
            .optional()?;
        Ok(found.flatten())
    }

    /// What an object was in a version. It may have been deleted in it.
    fn restored(&self, key: &ObjectKey, version: u64) -> Result<Option<Box<RawValue>>, Halt> {
        if let Some(object) = self.version(key, version)? {
            return Ok(object.data);
        }
        let oldest: Option<u64> = self
            .transaction
            .prepare_cached(
                "SELECT min(version) FROM object_versions
                 WHERE board = ?1 AND kind = ?2 AND id = ?3",
            )?
            .query_row(params![self.line.board, key.kind.as_str(), &*key.id], |row| row.get(0))?;
        let staged = &self.objects[key];
        let at_hand = staged.before.iter().chain(&staged.steps).next();
        let oldest = oldest.or(at_hand.map(|object| object.version));
        Err(Halt::Clash(Clash::NotKept { key: key.clone(), version, oldest }))
    }

    /// Checks the limits. What makes less of what is too much may always be done.
    pub(super) fn check(&mut self, totals: &Totals, bytes_max: u64) -> Result<(), Halt> {
        if self.written > WRITTEN_BYTES_MAX {
            return Err(full(format!(
                "the objects of one change would have {} bytes together, and {WRITTEN_BYTES_MAX} is \
                 the limit: make it in several",
                self.written
            )));
        }
        let Sums { objects, cost, .. } = self.sums();
        if objects.1 > objects.0 && self.line.objects + (objects.1 - objects.0) > OBJECTS_MAX {
            return Err(full(format!(
                "a board has at most {OBJECTS_MAX} widgets and layouts: delete some of them"
            )));
        }
        if cost.1 > cost.0 && self.line.cost + (cost.1 - cost.0) > BOARD_COST_MAX {
            return Err(full(format!(
                "the widgets and layouts of a board have at most {} MiB together: delete some of \
                 them",
                BOARD_COST_MAX >> 20
            )));
        }
        if cost.1 > cost.0 && totals.cost + (cost.1 - cost.0) > bytes_max {
            return Err(full(format!(
                "all boards together would need more than {} MiB (layouts.size_mib): delete what \
                 nobody needs, or ask the operator for more",
                bytes_max >> 20
            )));
        }
        if self.is_new && totals.boards >= BOARDS_MAX as u64 {
            let select = format!(
                "SELECT {} FROM boards INDEXED BY boards_empty
                 WHERE objects = 0 ORDER BY offset LIMIT 1",
                Line::COLUMNS
            );
            self.replaced =
                self.transaction.prepare_cached(&select)?.query_row([], Line::of).optional()?;
            if self.replaced.is_none() {
                return Err(full(format!(
                    "there are {BOARDS_MAX} boards with something on them, which is the limit: \
                     delete all that is on one"
                )));
            }
        }
        Ok(())
    }

    /// The objects that are different after the change.
    fn changed(&self) -> impl Iterator<Item = &Staged> {
        self.objects.values().filter(|staged| !staged.steps.is_empty())
    }

    fn sums(&self) -> Sums {
        let mut sums = Sums::default();
        for staged in self.changed() {
            let (before, after) = (staged.before.as_ref(), staged.steps.last());
            let stands = |object: Option<&Object>| object.is_some_and(|it| it.data.is_some());
            let is_gone = |object: Option<&Object>| object.is_some_and(|it| it.data.is_none());
            sums.objects.0 += u64::from(stands(before));
            sums.objects.1 += u64::from(stands(after));
            sums.gone.0 += u64::from(is_gone(before));
            sums.gone.1 += u64::from(is_gone(after));
            sums.cost.0 += before.map_or(0, cost);
            sums.cost.1 += after.map_or(0, cost);
        }
        sums
    }

    /// Writes the change, and answers the board's revision after it.
    pub(super) fn write(
        mut self,
        change: &Change,
        totals: &mut Totals,
        bytes_max: u64,
    ) -> rusqlite::Result<u64> {
        if let Some(replaced) = self.replaced.take() {
            self.forget_board(&replaced, totals)?;
        }
        let Sums { objects, gone, cost } = self.sums();
        self.line.revision += 1;
        self.line.objects = (self.line.objects + objects.1).saturating_sub(objects.0);
        self.line.gone = (self.line.gone + gone.1).saturating_sub(gone.0);
        self.line.cost = (self.line.cost + cost.1).saturating_sub(cost.0);
        totals.cost = (totals.cost + cost.1).saturating_sub(cost.0);
        if self.is_new {
            totals.boards += 1;
            self.write_line()?;
            self.line.board = u64::try_from(self.transaction.last_insert_rowid()).unwrap_or(0);
        }
        for staged in std::mem::take(&mut self.objects).into_values() {
            self.write_object(&staged, change, totals)?;
        }
        let too_many = self.line.gone.saturating_sub(BOARD_GONE_MAX as u64);
        if too_many > 0 {
            self.forget_gone(too_many, totals)?;
        }
        self.write_line()?;
        self.forget_versions(totals, bytes_max)?;
        Ok(self.line.revision)
    }

    /// Writes the board's row: also the offset that the entry of this change is
    /// about to get.
    fn write_line(&self) -> rusqlite::Result<()> {
        let Line { board, revision, floor, forgotten, objects, gone, cost } = self.line;
        let offset = log::head(self.transaction)? + 1;
        let board = (board > 0).then_some(board);
        self.transaction
            .prepare_cached(
                "INSERT OR REPLACE INTO boards VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)",
            )?
            .execute(params![
                board,
                self.board.as_str(),
                revision,
                floor,
                forgotten,
                objects,
                gone,
                cost,
                offset
            ])?;
        Ok(())
    }

    fn write_object(
        &self,
        staged: &Staged,
        change: &Change,
        totals: &mut Totals,
    ) -> rusqlite::Result<()> {
        let Some((last, earlier)) = staged.steps.split_last() else { return Ok(()) };
        let (board, kind, id) = (self.line.board, last.key.kind.as_str(), &*last.key.id);
        let (time_ms, user) = (change.time_ms.min(i64::MAX as u64), &*change.user);
        if let Some(before) = &staged.before {
            let cost = cost_before(before);
            totals.cost_before += cost;
            self.transaction
                .prepare_cached(
                    "INSERT INTO object_versions
                     SELECT NULL, board, kind, id, version, revision, time_ms, user, ?4, data
                     FROM objects WHERE board = ?1 AND kind = ?2 AND id = ?3",
                )?
                .execute(params![board, kind, id, cost])?;
        }
        for step in earlier {
            let (Object { version, revision, .. }, cost) = (step, cost_before(step));
            let data = step.data.as_ref().map(|data| data.get());
            totals.cost_before += cost;
            self.transaction
                .prepare_cached(
                    "INSERT INTO object_versions
                     VALUES (NULL, ?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)",
                )?
                .execute(params![board, kind, id, version, revision, time_ms, user, cost, data])?;
        }
        let data = last.data.as_ref().map(|data| data.get());
        self.transaction
            .prepare_cached(
                "INSERT OR REPLACE INTO objects VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
            )?
            .execute(params![board, kind, id, last.version, last.revision, time_ms, user, data])?;
        let mut delete = self.transaction.prepare_cached(
            "DELETE FROM object_versions
             WHERE board = ?1 AND kind = ?2 AND id = ?3 AND version <= ?4 RETURNING cost",
        )?;
        let until = last.version.saturating_sub(VERSIONS_KEPT);
        totals.free_before(sum(&mut delete, params![board, kind, id, until])?);
        Ok(())
    }

    /// Forgets the board's oldest deleted objects.
    fn forget_gone(&mut self, count: u64, totals: &mut Totals) -> rusqlite::Result<()> {
        let mut delete = self.transaction.prepare_cached(
            "DELETE FROM objects WHERE rowid IN (
                 SELECT rowid FROM objects INDEXED BY objects_gone
                 WHERE board = ?1 AND data IS NULL ORDER BY revision, kind, id LIMIT ?2
             ) RETURNING kind, id, version, revision, data",
        )?;
        let forgotten = delete.query_map(params![self.line.board, count], stored)?;
        let forgotten: Vec<_> = forgotten.collect::<rusqlite::Result<_>>()?;
        self.line.gone = self.line.gone.saturating_sub(forgotten.len() as u64);
        let mut delete = self.transaction.prepare_cached(
            "DELETE FROM object_versions WHERE board = ?1 AND kind = ?2 AND id = ?3 RETURNING cost",
        )?;
        for object in forgotten.iter().flatten() {
            let key = params![self.line.board, object.key.kind.as_str(), &*object.key.id];
            totals.free_before(sum(&mut delete, key)?);
            self.line.floor = self.line.floor.max(object.revision);
            self.line.forgotten = self.line.forgotten.max(object.version);
        }
        Ok(())
    }

    /// Forgets a board with nothing on it.
    fn forget_board(&self, line: &Line, totals: &mut Totals) -> rusqlite::Result<()> {
        let highest: Option<u64> = self
            .transaction
            .prepare_cached("SELECT max(version) FROM objects WHERE board = ?1")?
            .query_row([line.board], |row| row.get(0))?;
        totals.boards = totals.boards.saturating_sub(1);
        totals.floor = totals.floor.max(line.revision);
        totals.forgotten = totals.forgotten.max(line.forgotten).max(highest.unwrap_or(0));
        let mut delete = self
            .transaction
            .prepare_cached("DELETE FROM object_versions WHERE board = ?1 RETURNING cost")?;
        totals.free_before(sum(&mut delete, [line.board])?);
        for delete in
            ["DELETE FROM objects WHERE board = ?1", "DELETE FROM boards WHERE board = ?1"]
        {
            self.transaction.prepare_cached(delete)?.execute([line.board])?;
        }
        Ok(())
    }

    /// Deletes the oldest of what stood on boards before, if that is too much.
    fn forget_versions(&self, totals: &mut Totals, bytes_max: u64) -> rusqlite::Result<()> {
        let mut delete = self.transaction.prepare_cached(
            "DELETE FROM object_versions
             WHERE number = (SELECT min(number) FROM object_versions) RETURNING cost",
        )?;
        while totals.cost_before > BEFORE_FACTOR * bytes_max {
            match sum(&mut delete, [])? {
                0 => break,
                freed => totals.free_before(freed),
            }
        }
        Ok(())
    }
}

/// What a change makes of a board's sums: before, and after.
#[derive(Default)]
struct Sums {
    objects: (u64, u64),
    gone: (u64, u64),
    cost: (u64, u64),
}

/// What an object costs as long as it stands. What is left of a deleted one costs
/// nothing, so that deleting always helps; there are few of them.
fn cost(object: &Object) -> u64 {
    if object.data.is_some() { cost_before(object) } else { 0 }
}

/// What a version costs that stands no more.
fn cost_before(object: &Object) -> u64 {
    let data = object.data.as_ref().map_or(0, |data| data.get().len());
    OBJECT_COST + (object.key.id.len() + data) as u64
}

/// The sum of what a statement returns.
fn sum(
    statement: &mut rusqlite::Statement<'_>,
    params: impl rusqlite::Params,
) -> rusqlite::Result<u64> {
    statement.query_map(params, |row| row.get::<_, u64>(0))?.sum()
}

fn full(words: impl ToString) -> Halt {
    Halt::Clash(Clash::Full(words.to_string()))
}

/// What stands there, with these members set. What is not touched stays as its
/// client wrote it, to the last digit.
fn merge(
    current: Option<&RawValue>,
    members: &serde_json::Map<String, serde_json::Value>,
) -> Result<Box<RawValue>, serde_json::Error> {
    let current = current.map(|current| serde_json::from_str(current.get())).transpose()?;
    let mut merged: BTreeMap<String, Box<RawValue>> = current.unwrap_or_default();
    for (name, value) in members {
        merged.insert(name.clone(), serde_json::value::to_raw_value(value)?);
    }
    serde_json::value::to_raw_value(&merged)
}
