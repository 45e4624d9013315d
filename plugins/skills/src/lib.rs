//! The collector `skills`: Session-Buddy's skill metrics, out of its database.
//!
//! [`queries`] says what is asked of the database and turns rows into skills
//! and anomalies; [`collector`] turns those into series and documents. Tests
//! run both on real SQLite databases.

pub mod collector;
pub mod queries;
pub mod settings;

telltale_plugin::export_collector!(collector::Skills);
