//! The wire protocols. Each file has the same functions: learn one, know all.

pub mod native;
pub mod routing;
pub mod skills;
pub mod socketio;
pub mod sync;

/// The longest message of a client; a longer one ends the connection with 1009.
/// All that can be said fits into it many
/// times.
pub const MESSAGE_BYTES_MAX: usize = 64 * 1024;
