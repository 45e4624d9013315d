//! The detector `flatline`: a series that usually moves has stopped moving for
//! longer than it ever did.
//!
//! The idea is the persistence test of meteorological quality control (C. A.
//! Fiebrich and others, "Quality Assurance Procedures for Mesoscale
//! Meteorological Data", Journal of Atmospheric and Oceanic Technology, 2010):
//! an instrument whose readings don't vary for too long is stuck. What is too
//! long is learned here: beyond what a series that moves so often has by chance,
//! and several times the longest run so far.
//!
//! [`run`] is the arithmetic of one series, [`detector`] judges all of them.

pub mod detector;
pub mod run;
pub mod settings;

telltale_plugin::export_stateful_detector!(detector::Flatline);
