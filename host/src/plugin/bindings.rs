//! The bindings of the interface, a file for each version of it that this hub
//! speaks.
//!
//! The rest of the room uses the newest by this module's name; what an older
//! one says is converted to it at the wall.

mod v0_1;

pub(super) use v0_1::{exports, telltale};

/// The versions of `telltale:plugin` that this hub speaks, the newest last.
pub(super) const VERSIONS: [&str; 1] = [v0_1::VERSION];
