//! The detector `novelty`: a value is odd if the series was never in such a
//! state before, and the more so the less anything led to expect it.
//!
//! [`detector`] is the component's glue, [`saved`] and [`coder`] the form on
//! disk, [`settings`] the `[config]` table. The rest is plain arithmetic of one
//! series, which is the same on every machine and in Wasm:
//!
//! - [`series`] says when a value is judged, and holds all that is known: less
//!   than 4 KiB. [`warm_up`] is silent for 100 values and a day (or 1,500
//!   values). [`fast`] gathers series with more than a value in 20 seconds into
//!   blocks, and measures them by the strongest that they have said.
//! - [`model`] adds up six parts. Five tell novelty: how far the value, its
//!   course (with the means of the last 4 and 16 values), its distance from
//!   what is usual at the time of day, and its change are from all [`states`]
//!   in [`table`]s of 64 prototypes, as a share of a [`range`] that slowly
//!   forgets; and how rare such a novelty of the course is ([`tail`]). The
//!   sixth is surprise: the error of a [`forecast`] by recursive least squares
//!   ([`predict`]), in errors that are usual at this hour ([`residual`]).
//!   Novelty counts more the larger the surprise is: alone it would tell of slow
//!   drifts, as surprise alone of jobs that come every hour.
//! - [`repeat`] keeps the states of an alarm from being learned at once, so
//!   that an anomaly that comes again is told again.
//! - [`light`] is the preset with half a KiB a series: known levels alone.

pub mod coder;
pub mod detector;
pub mod fast;
pub mod forecast;
pub mod light;
pub mod model;
pub mod moment;
pub mod number;
pub mod predict;
pub mod profile;
pub mod range;
pub mod repeat;
pub mod residual;
pub mod saved;
pub mod series;
pub mod settings;
pub mod states;
pub mod table;
pub mod tail;
pub mod warm_up;

telltale_plugin::export_stateful_detector!(detector::Novelty);
