//! Tests from outside: the real program with real guests, through real sockets.
//!
//! One binary, since linking it is most of the work. What a test needs to begin
//! is in `harness`; everything it waits for has a limit, and nothing is waited
//! for by sleeping.
#![expect(clippy::unwrap_used, reason = "a test that can't go on is to end where it stands")]

mod access;
mod backtest;
mod broadcast;
mod browser;
mod cache;
mod cli;
mod clients;
mod conformance;
mod corpora;
mod docs;
mod endurance;
mod events;
mod findings;
mod harness;
mod hostile;
mod http;
mod languages;
mod layouts;
mod layouts_killed;
mod life;
mod load;
mod native;
mod notify;
mod outside;
mod plugin_events;
mod plugins;
mod postgres;
mod protection;
mod reload;
mod resume;
mod rooms;
mod rooms_killed;
mod routing;
mod shadow;
mod skills;
mod socketio;
mod sync;
mod tooling;
