//! Boards: a dashboard's widgets and layouts, and what is done to them.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::{Room, RuleBroken};

/// The longest id of a widget or a layout, in bytes.
pub const OBJECT_ID_BYTES_MAX: usize = 256;
/// The longest data of a widget or a layout, as JSON, in bytes.
pub const OBJECT_BYTES_MAX: usize = 256 * 1024;
/// The most operations that are done at once, all or none.
pub const OPERATIONS_MAX: usize = 256;
/// The most boards. One with nothing on it makes room for the next.
pub const BOARDS_MAX: usize = 10_000;
/// What is left of objects that were deleted, so that a client that was away
/// hears of it, for so many of each board. Of more the oldest are forgotten.
pub const BOARD_GONE_MAX: usize = 64;

/// What the rooms are named that tell of boards.
const ROOM: &str = "board:";

/// A board's name: a user's, for its own board, or one that several share.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Board(Room);

impl Board {
    /// Checks a name.
    ///
    /// # Errors
    ///
    /// It is empty, too long, or has a character that is not printable.
    pub fn new(name: &str) -> Result<Self, RuleBroken> {
        Room::new(&format!("{ROOM}{name}")).map(Self)
    }

    /// The board that a room tells of, if it tells of one.
    #[must_use]
    pub fn of_room(room: &Room) -> Option<Self> {
        room.as_str().starts_with(ROOM).then(|| Self(room.clone()))
    }

    /// The room in which its clients are told what is done to it.
    #[must_use]
    pub fn room(&self) -> &Room {
        &self.0
    }

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0.as_str()[ROOM.len()..]
    }
}

impl fmt::Display for Board {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What an object of a board is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ObjectKind {
    /// How the board is laid out.
    Layout,
    /// One of the things on it.
    Widget,
}

impl ObjectKind {
    /// The word for it, on the wire and in the store.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Layout => "layout",
            Self::Widget => "widget",
        }
    }

    /// The kind of that word.
    #[must_use]
    pub fn from_word(word: &str) -> Option<Self> {
        match word {
            "layout" => Some(Self::Layout),
            "widget" => Some(Self::Widget),
            _ => None,
        }
    }
}

/// What tells an object from the others of its board.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ObjectKey {
    /// Widget or layout.
    pub kind: ObjectKind,
    /// Its id, in the words of its clients.
    pub id: Arc<str>,
}

impl ObjectKey {
    /// Checks an id.
    ///
    /// # Errors
    ///
    /// It is empty, too long, or has a control character.
    pub fn new(kind: ObjectKind, id: &str) -> Result<Self, RuleBroken> {
        let fits = (1..=OBJECT_ID_BYTES_MAX).contains(&id.len());
        if fits && !id.chars().any(char::is_control) {
            return Ok(Self { kind, id: id.into() });
        }
        Err(RuleBroken::new(format!(
            "the id of a {} has 1 to {OBJECT_ID_BYTES_MAX} bytes and no control characters",
            kind.as_str()
        )))
    }
}

/// A widget or a layout as it stands, or as it stood.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Object {
    /// Which one.
    #[serde(flatten)]
    pub key: ObjectKey,
    /// Rises by one with each change of this object, its deletion included.
    pub version: u64,
    /// The board's revision that this version came with.
    pub revision: u64,
    /// What it is: a JSON object. `None`: it was deleted.
    pub data: Option<Box<RawValue>>,
}

/// What is done to an object.
#[derive(Clone, Debug)]
pub enum Edit {
    /// These members are set, the others stay. What is not there is made.
    Merge(serde_json::Map<String, serde_json::Value>),
    /// This JSON object is what it is from now on.
    Replace(Box<RawValue>),
    /// It is there no more.
    Delete,
    /// It is again what it was in this version.
    Restore(u64),
}

/// One step of a change.
#[derive(Clone, Debug)]
pub struct Operation {
    /// What it is done to.
    pub key: ObjectKey,
    /// What is done.
    pub edit: Edit,
    /// The version that it was made on; another one is a conflict. 0: there was
    /// none, or it was deleted. `None`: whatever stands there.
    pub base: Option<u64>,
}

/// What has become of a change that is safe.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Changed {
    /// The board's revision after it. Rises by one with each change.
    pub revision: u64,
    /// The version of each object after it, in the order of the operations.
    pub versions: Vec<(ObjectKey, u64)>,
}

/// Why a change was not made that kept all rules: nothing has changed.
#[derive(Clone, Debug)]
pub enum Clash {
    /// An object is not what the change was made on.
    Stale(Box<Stale>),
    /// The operation's id is that of another one.
    IdReused,
    /// The version that was to be restored is not kept.
    NotKept {
        /// Of which object.
        key: ObjectKey,
        /// Which version.
        version: u64,
        /// The oldest that is; `None`: there is no such object.
        oldest: Option<u64>,
    },
    /// A limit, in words.
    Full(String),
}

/// An object that is not what a change was made on.
#[derive(Clone, Debug)]
pub struct Stale {
    /// Where in the change's operations it was found.
    pub at: usize,
    /// Which object.
    pub key: ObjectKey,
    /// The version that the change was made on.
    pub base: u64,
    /// What stands there: `None`, nothing ever has.
    pub current: Option<Object>,
    /// What stood there in that version, where it is kept.
    pub basis: Option<Object>,
}
