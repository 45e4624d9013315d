//! The detector `zscore`: how many standard deviations a value is away from the
//! mean of the values before it.
//!
//! [`window`] is the arithmetic of one series, [`detector`] holds the windows
//! of all series and judges, [`saved`] is their form on disk.

pub mod detector;
pub mod saved;
pub mod settings;
pub mod window;

telltale_plugin::export_stateful_detector!(detector::Zscore);
