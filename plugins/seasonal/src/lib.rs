//! The detector `seasonal`: how a series usually goes by the time of day and by
//! the time of the week, learned as it goes.
//!
//! Profiles by bin with a level beside them, each updated by exponential
//! smoothing: P. R. Winters, "Forecasting Sales by Exponentially Weighted Moving
//! Averages" (Management Science, 1960), with a daily and a weekly season beside
//! each other as in J. W. Taylor, "Short-Term Electricity Demand Forecasting
//! Using Double Seasonal Exponential Smoothing" (Journal of the Operational
//! Research Society, 2003). What is added: bins are of time and not of values,
//! so that any interval will do, and of the three predictions that one is
//! believed which has been the best of late.
//!
//! [`week`] tells bins from times, [`profile`] is one season of one series,
//! [`season`] is all that is known of one, [`detector`] judges all series.

pub mod detector;
pub mod profile;
pub mod season;
pub mod settings;
pub mod week;

telltale_plugin::export_stateful_detector!(detector::Seasonal);
