//! The collector `routing`: what an AI cost optimizer keeps of its decisions.
//!
//! [`cached`] reads what is under its key of the cache, [`queries`] makes the
//! same out of its database, and [`collector`] turns either into series and
//! documents. Tests run the queries on real databases.

pub mod cached;
pub mod collector;
pub mod queries;
pub mod settings;
pub mod time;

telltale_plugin::export_collector!(collector::Routing);
