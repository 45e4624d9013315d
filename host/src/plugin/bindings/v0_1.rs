//! The bindings of `telltale:plugin@0.1.0`: generated code, fenced in here.
//!
//! One world with every export stands for all four, since the host asks each
//! component for its exports one by one.

#![allow(
    missing_docs,
    unreachable_pub,
    unused_qualifications,
    unsafe_code,
    clippy::all,
    clippy::too_many_lines,
    reason = "generated code"
)]

wasmtime::component::bindgen!({
    path: "../wit",
    inline: "
        package telltale:hub;
        world everything {
            include telltale:plugin/stateful-collector@0.1.0;
            include telltale:plugin/stateful-detector@0.1.0;
        }
    ",
    world: "telltale:hub/everything",
    imports: { default: async },
    exports: { default: async },
});

/// The version of the interface that these bindings speak.
pub(super) const VERSION: &str = "0.1.0";
