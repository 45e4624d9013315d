//! telltale: a live metrics hub that is extended by dropping WebAssembly
//! components into a folder.
//!
//! [`Hub::start`] runs one inside any program; the binary is a thin shell around
//! it. `ARCHITECTURE.md` is the floor plan. The rooms are public for the tests
//! and benchmarks beside this crate; what others may rely on is [`Hub`] and
//! [`config::Config`].

pub mod access;
pub mod app;
pub mod audit;
pub mod cache;
pub mod channel;
pub mod cli;
pub mod clock;
pub mod config;
pub mod contrast;
pub mod dialect;
pub mod events;
pub mod exposition;
pub mod gate;
pub mod hooks;
pub mod judge;
pub mod layouts;
pub mod model;
pub mod notify;
pub mod plugin;
pub mod server;
pub mod session;
pub mod shutdown;
pub mod snapshot;
pub mod sql;
pub mod store;
pub mod tick;
mod trust;
pub mod vitals;

pub use app::{Hub, StartError};
