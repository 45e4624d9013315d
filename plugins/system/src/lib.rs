//! The collector `system`: what the machine that the hub runs on is doing.
//!
//! It reads what the Linux kernel tells in `/proc`, and asks the hub how full
//! the file systems are. Each source has a module that turns its text into
//! values; none of them does I/O, so all are tested natively. [`collector`]
//! puts them together, and only `guest` knows that this is a plugin.
//!
//! It is asked every second on machines that have better things to do, so
//! files stay open between two ticks and series are built only when a device,
//! an interface, a mount or a core appears.

pub mod collector;
pub mod cpu;
pub mod disks;
pub mod filesystems;
pub mod load;
pub mod machine;
pub mod memory;
pub mod network;
pub mod pressure;
pub mod processes;
pub mod series;
pub mod settings;
pub mod text;

#[cfg(target_arch = "wasm32")]
mod guest;
