//! The detector `missing`: values that were due don't come, for longer or more
//! often than is usual for the series.
//!
//! A one-sided CUSUM over a yes or no at each time that a value was due: E. S.
//! Page, "Continuous Inspection Schemes" (Biometrika, 1954); M. R. Reynolds and
//! Z. G. Stoumbos, "A CUSUM Chart for Monitoring a Proportion When Inspecting
//! Continuously" (Journal of Quality Technology, 1999).
//!
//! [`gaps`] is the arithmetic of one series, [`detector`] judges all of them.

pub mod detector;
pub mod gaps;
pub mod settings;

telltale_plugin::export_stateful_detector!(detector::Missing);
