//! The macros that make a plugin's type the component's exports.
//!
//! Outside of Wasm they only make the type used, so that tests run anywhere.

/// Exports a type that implements [`Collector`](crate::Collector).
#[macro_export]
macro_rules! export_collector {
    ($plugin:ty) => {
        #[cfg(not(target_arch = "wasm32"))]
        const _: fn() -> $crate::Collecting<$plugin> = ::std::default::Default::default;
        #[cfg(target_arch = "wasm32")]
        const _: () = {
            $crate::__instance!($crate::Collecting<$plugin>);
            $crate::__collect!();
        };
    };
}

/// Exports a type that implements [`Collector`](crate::Collector) and
/// [`State`](crate::State).
#[macro_export]
macro_rules! export_stateful_collector {
    ($plugin:ty) => {
        #[cfg(not(target_arch = "wasm32"))]
        const _: fn() -> $crate::Collecting<$plugin> = ::std::default::Default::default;
        #[cfg(target_arch = "wasm32")]
        const _: () = {
            $crate::__instance!($crate::Collecting<$plugin>);
            $crate::__collect!();
            $crate::__state!($plugin);
        };
    };
}

/// Exports a type that implements [`Detector`](crate::Detector).
#[macro_export]
macro_rules! export_detector {
    ($plugin:ty) => {
        #[cfg(not(target_arch = "wasm32"))]
        const _: fn() -> $crate::Detecting<$plugin> = ::std::default::Default::default;
        #[cfg(target_arch = "wasm32")]
        const _: () = {
            $crate::__instance!($crate::Detecting<$plugin>);
            $crate::__detect!();
        };
    };
}

/// Exports a type that implements [`Detector`](crate::Detector) and
/// [`State`](crate::State).
#[macro_export]
macro_rules! export_stateful_detector {
    ($plugin:ty) => {
        #[cfg(not(target_arch = "wasm32"))]
        const _: fn() -> $crate::Detecting<$plugin> = ::std::default::Default::default;
        #[cfg(target_arch = "wasm32")]
        const _: () = {
            $crate::__instance!($crate::Detecting<$plugin>);
            $crate::__detect!();
            $crate::__state!($plugin);
        };
    };
}

/// The one instance: the hub calls one export at a time.
#[doc(hidden)]
#[macro_export]
macro_rules! __instance {
    ($instance:ty) => {
        ::std::thread_local! {
            static INSTANCE: ::std::cell::RefCell<$instance> = ::std::cell::RefCell::default();
        }
        struct Exports;
    };
}

#[doc(hidden)]
#[macro_export]
macro_rules! __collect {
    () => {
        impl $crate::bindings::collect::exports::telltale::plugin::collect::Guest for Exports {
            fn configure(
                config_json: ::std::string::String,
            ) -> ::std::result::Result<(), $crate::Fault> {
                INSTANCE.with_borrow_mut(|instance| instance.configure(&config_json))
            }

            fn collect(
                tick: $crate::Tick,
            ) -> ::std::result::Result<$crate::Batch, $crate::Fault> {
                INSTANCE.with_borrow_mut(|instance| instance.collect(tick))
            }
        }
        $crate::bindings::collect::export_collect!(
            Exports with_types_in $crate::bindings::collect
        );
    };
}

#[doc(hidden)]
#[macro_export]
macro_rules! __detect {
    () => {
        impl $crate::bindings::detect::exports::telltale::plugin::detect::Guest for Exports {
            fn configure(
                config_json: ::std::string::String,
            ) -> ::std::result::Result<(), $crate::Fault> {
                INSTANCE.with_borrow_mut(|instance| instance.configure(&config_json))
            }

            fn observe(
                observation: $crate::Observation,
            ) -> ::std::result::Result<$crate::Verdict, $crate::Fault> {
                INSTANCE.with_borrow_mut(|instance| instance.observe(&observation))
            }
        }
        $crate::bindings::detect::export_detect!(
            Exports with_types_in $crate::bindings::detect
        );
    };
}

#[doc(hidden)]
#[macro_export]
macro_rules! __state {
    ($plugin:ty) => {
        impl $crate::bindings::state::exports::telltale::plugin::state::Guest for Exports {
            fn version() -> u32 {
                <$plugin as $crate::State>::VERSION
            }

            fn save() -> ::std::vec::Vec<u8> {
                INSTANCE.with_borrow(|instance| $crate::State::save(&instance.plugin))
            }

            fn restore(
                from_version: u32,
                bytes: ::std::vec::Vec<u8>,
            ) -> ::std::result::Result<(), ::std::string::String> {
                INSTANCE.with_borrow_mut(|instance| {
                    $crate::State::restore(&mut instance.plugin, from_version, &bytes)
                })
            }
        }
        $crate::bindings::state::export_state!(Exports with_types_in $crate::bindings::state);
    };
}
