//! The collector `skills`: Session-Buddy's skill metrics, out of its database.
//!
//! [`queries`] says what is asked of the database and turns rows into skills
//! and anomalies; [`collector`] turns those into series and documents. Neither
//! does I/O: tests run them on real SQLite databases, and only `guest` knows
//! that this is a plugin.

pub mod collector;
pub mod queries;
pub mod settings;

#[cfg(target_arch = "wasm32")]
mod guest;
