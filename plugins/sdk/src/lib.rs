//! Write plugins for the telltale hub.
//!
//! A plugin is a type that implements [`Collector`] or [`Detector`], and
//! [`State`] too if it is to keep what it knows. One line exports it:
//!
//! ```
//! use telltale_plugin::{Collector, Fault, Metrics, NoConfig, Tick, export_collector};
//!
//! #[derive(Default)]
//! struct Dice;
//!
//! impl Collector for Dice {
//!     type Config = NoConfig;
//!
//!     fn collect(&mut self, tick: Tick, metrics: &mut Metrics) -> Result<(), Fault> {
//!         let roll = tick.number.wrapping_mul(2_654_435_761) % 6 + 1;
//!         metrics.gauge("dice.roll").unit("1").label("die", 0).set(roll as f64);
//!         Ok(())
//!     }
//! }
//!
//! export_collector!(Dice);
//!
//! // A test needs no Wasm: `Collecting` does what the hub does.
//! let mut dice = telltale_plugin::Collecting::<Dice>::default();
//! dice.configure("{}").unwrap();
//! dice.collect(Tick { number: 1, time_ns: 0 }).unwrap();
//! assert!(dice.metrics.values()["dice.roll{die=0}"] >= 1.0);
//! ```
//!
//! What the hub offers is in [`log`], [`sql`], [`cache`], [`http`], [`disk`] and
//! [`events`]. Outside of Wasm they answer what a test has told [`fake`].
#![warn(missing_docs, unreachable_pub)]

#[doc(hidden)]
pub mod bindings;
mod collecting;
mod config;
mod detecting;
mod export;
#[cfg(not(target_arch = "wasm32"))]
pub mod fake;
mod fault;
mod host;
mod level;
mod metrics;
mod saved;
#[cfg(not(target_arch = "wasm32"))]
pub mod trial;
mod watchlist;

pub use bindings::telltale::plugin::types::{Document, Fault, Kind, Label, Series, Tick};
pub use collecting::{Batch, Collecting, Collector, Declaration};
pub use config::NoConfig;
pub use detecting::{
    Detecting, Detector, Finding, FindingType, Observation, State, Verdict, Watched, score_of,
};
pub use host::{cache, disk, events, http, log, sql};
pub use level::{Level, Tail};
pub use metrics::{Metrics, SeriesDraft, SeriesId, label_value};
pub use saved::{Reader, Saved};
pub use watchlist::{Shown, Watchlist};
