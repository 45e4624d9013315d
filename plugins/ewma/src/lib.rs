//! The detector `ewma`: how far a value, or a change, is from the exponentially
//! weighted mean of those before it.
//!
//! S. W. Roberts, "Control Chart Tests Based on Geometric Moving Averages"
//! (Technometrics, 1959); J. S. Hunter, "The Exponentially Weighted Moving
//! Average" (Journal of Quality Technology, 1986). What is added to the chart:
//! the change from value to value is watched beside the value, odd values enter
//! with limited weight, and what a series has strayed by before is less odd.
//!
//! [`track`] is the arithmetic of one series, [`detector`] judges all of them.

pub mod detector;
pub mod settings;
pub mod track;

telltale_plugin::export_stateful_detector!(detector::Ewma);
