//! The detector `changepoint`: a series goes on at another level, or strays
//! more or less than it did.
//!
//! Two-sided CUSUM charts with a restart after each detection, of the distance
//! from the level and of its size: E. S. Page, "Continuous Inspection Schemes"
//! (Biometrika, 1954); D. V. Hinkley, "Inference about the Change-point from
//! Cumulative Sum Tests" (Biometrika, 1971), for where the change began. Bayesian
//! online detection (R. P. Adams and D. MacKay, 2007) keeps a weight for each
//! possible beginning; it was left out, since these sums hold the same decision
//! in a hundredth of the memory and say in plain words why they have spoken.
//!
//! [`chart`] is the arithmetic of one series, [`sum`] that of one sum,
//! [`detector`] judges all series.

pub mod chart;
pub mod detector;
pub mod settings;
pub mod sum;

telltale_plugin::export_stateful_detector!(detector::Changepoint);
