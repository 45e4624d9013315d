//! The detector `zscore`: how many standard deviations a value is away from the
//! mean of the values before it.
//!
//! [`window`] is the arithmetic of one series, [`detector`] holds the windows
//! of all series and judges, [`saved`] is their form on disk. None of them does
//! I/O, so all are tested natively; only `guest` knows that this is a plugin.

pub mod detector;
pub mod saved;
pub mod settings;
pub mod window;

#[cfg(target_arch = "wasm32")]
mod guest;
