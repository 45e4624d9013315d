//! What is known of a client that has been let in.

use std::sync::Arc;

use super::Globs;
use crate::model::{Board, PluginName, Room};

/// The name of a client that doesn't have to say who it is.
pub const ANONYMOUS: &str = "anonymous";

/// What the names of plugins begin with where they publish.
pub(super) const PLUGIN: &str = "plugin:";

/// The name of whoever shows the admin token of the hub's run.
pub const ADMIN: &str = "admin";

/// Who a client is, and what it may do. Made by [`super`] alone, from a token or
/// from the configuration.
#[derive(Clone, Debug)]
pub struct Identity {
    /// The user; [`ANONYMOUS`] where nobody has to say.
    pub user: Arc<str>,
    /// It has shown a token that is good.
    pub is_authenticated: bool,
    /// Globs of the rooms that it may enter, beside its own user room and
    /// `global`. The user rooms of others are none of them.
    pub rooms: Globs,
    /// What it may publish.
    pub publish: Arc<[Publish]>,
    /// Globs of the series, documents and findings that it may read; `None`:
    /// all of them.
    pub read: Option<Globs>,
    /// Boards that it may read and write; `None`: its user's own.
    pub layouts: Option<Layouts>,
    /// It may do what changes the hub.
    pub admin: bool,
    /// When the hub ends its connections unless it shows a newer token, wall
    /// time in milliseconds: its token's `exp`, and the clock skew that is
    /// allowed. `None`: never.
    pub expires_ms: Option<u64>,
}

/// What may be published: types, and the rooms that they may go to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Publish {
    /// Globs of event types.
    pub types: Globs,
    /// Globs of rooms; `None`: those that the client may enter.
    pub rooms: Option<Globs>,
}

/// Boards that a client may read and write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layouts {
    /// Globs of those that it may read.
    pub read: Globs,
    /// Globs of those that it may write, and then read too.
    pub write: Globs,
}

/// The board of all who don't have to say who they are: whatever they call
/// themselves, each sees what the others do.
const SHARED: &str = "shared";

impl Identity {
    /// A client of a hub that asks nobody who they are: all but what changes
    /// the hub.
    #[must_use]
    pub fn open() -> Arc<Self> {
        let all = Globs::all();
        Arc::new(Self {
            user: ANONYMOUS.into(),
            is_authenticated: false,
            rooms: all.clone(),
            publish: Arc::new([Publish { types: all.clone(), rooms: Some(all.clone()) }]),
            read: None,
            layouts: Some(Layouts { read: all.clone(), write: all }),
            admin: false,
            expires_ms: None,
        })
    }

    /// A client of a dialect that needs no token though others do: it only
    /// reads.
    #[must_use]
    pub fn anonymous() -> Arc<Self> {
        Arc::new(Self {
            user: ANONYMOUS.into(),
            is_authenticated: false,
            rooms: Globs::none(),
            publish: Arc::new([]),
            read: None,
            layouts: Some(Layouts { read: Globs::none(), write: Globs::none() }),
            admin: false,
            expires_ms: None,
        })
    }

    /// A client that says who it is and does not prove it, where that is
    /// believed (`auth.insecure_identity`). Where nobody has to prove it, it may
    /// do what all may; elsewhere, see to its own board.
    pub(super) fn believed(user: &str, is_open: bool) -> Arc<Self> {
        let own = Self { layouts: None, ..(*Self::anonymous()).clone() };
        let rights = if is_open { (*Self::open()).clone() } else { own };
        Arc::new(Self { user: user.into(), ..rights })
    }

    /// A plugin, which publishes what its settings grant and does nothing else
    /// as a client does. No token's user has a name with this beginning: what
    /// it has published under a key is its own.
    #[must_use]
    pub fn of_plugin(plugin: &PluginName, publish: Option<Publish>) -> Arc<Self> {
        Arc::new(Self {
            user: format!("{PLUGIN}{plugin}").into(),
            is_authenticated: true,
            rooms: Globs::none(),
            publish: publish.into_iter().collect(),
            read: Some(Globs::none()),
            layouts: Some(Layouts { read: Globs::none(), write: Globs::none() }),
            admin: false,
            expires_ms: None,
        })
    }

    /// Who shows the admin token of this run of the hub: everything but other
    /// users' own rooms.
    #[must_use]
    pub fn admin() -> Arc<Self> {
        let open = Self::open();
        Arc::new(Self {
            user: ADMIN.into(),
            is_authenticated: true,
            admin: true,
            ..(*open).clone()
        })
    }

    /// Whether it may enter a room.
    #[must_use]
    pub fn may_enter(&self, room: &Room) -> bool {
        let name = room.as_str();
        if let Some(board) = Board::of_room(room) {
            return self.may_read_board(&board);
        }
        match name.strip_prefix("user:") {
            Some(user) => *user == *self.user,
            None => name == "global" || self.rooms.matches(name),
        }
    }

    /// Whether it may see a board.
    #[must_use]
    pub fn may_read_board(&self, board: &Board) -> bool {
        match &self.layouts {
            None => *board.as_str() == *self.user,
            Some(Layouts { read, write }) => {
                read.matches(board.as_str()) || write.matches(board.as_str())
            }
        }
    }

    /// Whether it may change a board.
    #[must_use]
    pub fn may_write_board(&self, board: &Board) -> bool {
        match &self.layouts {
            None => *board.as_str() == *self.user,
            Some(Layouts { write, .. }) => write.matches(board.as_str()),
        }
    }

    /// Whether there may be a board that it may change.
    #[must_use]
    pub fn may_write_boards(&self) -> bool {
        self.layouts.as_ref().is_none_or(|layouts| layouts.write.texts().next().is_some())
    }

    /// The board that it means where it names none: the shared one where nobody
    /// has to say who they are, and with the admin token, else its user's own; where it may not see that
    /// one, the only one that it may see. `None`: it has to name one.
    #[must_use]
    pub fn home_board(&self) -> Option<Board> {
        let Some(layouts) = &self.layouts else { return Board::new(&self.user).ok() };
        // No user of a token has the admin token's name.
        if !self.is_authenticated || *self.user == *ADMIN {
            return Board::new(SHARED).ok().filter(|board| self.may_read_board(board));
        }
        let own = Board::new(&self.user).ok().filter(|board| self.may_read_board(board));
        let only = || {
            let mut texts = layouts.read.texts().chain(layouts.write.texts());
            let first = texts.next()?;
            let is_name = !first.contains(['*', '?', '[', '{']) && texts.all(|text| text == first);
            is_name.then(|| Board::new(first).ok()).flatten()
        };
        own.or_else(only)
    }

    /// Whether it may publish events of a type to a room.
    #[must_use]
    pub fn may_publish(&self, kind: &str, room: &Room) -> bool {
        // What is done to a board the hub alone tells.
        if Board::of_room(room).is_some() {
            return false;
        }
        self.publish.iter().any(|publish| {
            publish.types.matches(kind)
                && match &publish.rooms {
                    Some(rooms) => rooms.matches(room.as_str()),
                    None => self.may_enter(room),
                }
        })
    }

    /// Whether it is the same user with the same rights, whenever they end.
    #[must_use]
    pub fn is_like(&self, other: &Self) -> bool {
        let Self { user, is_authenticated, rooms, publish, read, layouts, admin, expires_ms: _ } =
            self;
        (user, is_authenticated, rooms, publish, read, layouts, admin)
            == (
                &other.user,
                &other.is_authenticated,
                &other.rooms,
                &other.publish,
                &other.read,
                &other.layouts,
                &other.admin,
            )
    }

    /// Whether it may see what concerns the hub as a whole, such as its plugins
    /// and the sum of its numbers: who reads everything, and who looks after it.
    #[must_use]
    pub fn reads_all(&self) -> bool {
        self.read.is_none() || self.admin
    }

    /// Whether it may read a series, a document or a finding of that name.
    #[must_use]
    pub fn may_read(&self, name: &str) -> bool {
        self.read.as_ref().is_none_or(|read| read.matches(name))
    }
}
