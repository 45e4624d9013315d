//! What `wit-bindgen` makes of the interface.
//!
//! The imports and the types are made once. Each exported interface is a world
//! of its own, whose macro a plugin calls: so one crate serves collectors and
//! detectors, with and without state, and no component exports what it lacks.
#![allow(
    missing_docs,
    unsafe_code,
    unreachable_pub,
    unused_qualifications,
    clippy::allow_attributes_without_reason,
    clippy::missing_safety_doc,
    reason = "generated"
)]

wit_bindgen::generate!({
    path: "wit",
    world: "telltale:plugin/host",
    generate_unused_types: true,
    additional_derives: [PartialEq],
});

pub mod collect {
    wit_bindgen::generate!({
        path: "wit",
        inline: "package telltale:sdk-collect;
                 world exports-collect { export telltale:plugin/collect@0.1.0; }",
        with: { "telltale:plugin/types@0.1.0": crate::bindings::telltale::plugin::types },
        export_macro_name: "export_collect",
        pub_export_macro: true,
        additional_derives: [PartialEq],
    });
}

pub mod detect {
    wit_bindgen::generate!({
        path: "wit",
        inline: "package telltale:sdk-detect;
                 world exports-detect { export telltale:plugin/detect@0.1.0; }",
        with: { "telltale:plugin/types@0.1.0": crate::bindings::telltale::plugin::types },
        export_macro_name: "export_detect",
        pub_export_macro: true,
        additional_derives: [PartialEq],
    });
}

pub mod state {
    wit_bindgen::generate!({
        path: "wit",
        inline: "package telltale:sdk-state;
                 world exports-state { export telltale:plugin/state@0.1.0; }",
        export_macro_name: "export_state",
        pub_export_macro: true,
    });
}
