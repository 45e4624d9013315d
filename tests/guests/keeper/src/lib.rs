//! A collector with state: it counts its calls, over reloads and restarts, or
//! does with its state one of the things that a plugin should not do.
#![cfg(target_arch = "wasm32")]

use std::cell::{Cell, RefCell};

#[allow(missing_docs, unsafe_code, unreachable_pub, clippy::all, reason = "generated code")]
mod bindings {
    use super::Component;

    wit_bindgen::generate!({ path: "../../../wit", world: "stateful-collector" });
    export!(Component);
}

use bindings::exports::telltale::plugin::collect::{self, Batch, Declaration, Fault, Series, Tick};
use bindings::exports::telltale::plugin::state;
use bindings::telltale::plugin::types::Kind;

thread_local! {
    static COUNT: Cell<u64> = const { Cell::new(0) };
    static DECLARED: Cell<bool> = const { Cell::new(false) };
    static VERSION: Cell<u32> = const { Cell::new(1) };
    /// What to do; see [`misbehave`] and `save`. Modes of others are ignored.
    static MODE: RefCell<String> = const { RefCell::new(String::new()) };
    /// How many bytes to save; as few as may be if 0.
    static SIZE: Cell<u64> = const { Cell::new(0) };
}

struct Component;

impl collect::Guest for Component {
    fn configure(config_json: String) -> Result<(), Fault> {
        let config: serde_json::Value =
            serde_json::from_str(&config_json).map_err(|error| Fault::Config(error.to_string()))?;
        if let Some(version) = config["version"].as_u64() {
            VERSION.set(u32::try_from(version).unwrap_or(u32::MAX));
        }
        MODE.set(config["mode"].as_str().unwrap_or_default().to_owned());
        SIZE.set(config["size"].as_u64().unwrap_or(0));
        Ok(())
    }

    fn collect(_: Tick) -> Result<Batch, Fault> {
        COUNT.set(COUNT.get() + 1);
        let series = Series {
            name: "keeper.count".into(),
            kind: Kind::Updown,
            unit: "1".into(),
            description: String::new(),
            labels: vec![],
        };
        let declare =
            if DECLARED.replace(true) { vec![] } else { vec![Declaration { id: 0, series }] };
        #[expect(clippy::cast_precision_loss, reason = "ticks of tests are few")]
        let values = vec![COUNT.get() as f64];
        Ok(Batch { declare, ids: vec![0], values, gone: vec![], documents: vec![] })
    }
}

impl state::Guest for Component {
    fn version() -> u32 {
        misbehave("version");
        VERSION.get()
    }

    fn save() -> Vec<u8> {
        misbehave("save");
        match usize::try_from(SIZE.get()).unwrap_or(usize::MAX) {
            0 => COUNT.get().to_le_bytes().to_vec(),
            size if MODE.with_borrow(|mode| mode == "untouched") => untouched(size),
            size => {
                let mut bytes = COUNT.get().to_le_bytes().to_vec();
                bytes.resize(size, 1);
                bytes
            }
        }
    }

    fn restore(_: u32, bytes: Vec<u8>) -> Result<(), String> {
        misbehave("restore");
        let count = bytes.first_chunk().ok_or("not eight bytes")?;
        COUNT.set(u64::from_le_bytes(*count));
        Ok(())
    }
}

/// `save-spin`, `restore-panic` and the like, as `mode`.
fn misbehave(export: &str) {
    let how = MODE.with_borrow(|mode| Some(mode.strip_prefix(export)?.to_owned()));
    match how.as_deref() {
        Some("-spin") => loop {
            std::hint::black_box(());
        },
        Some("-panic") => panic!("asked to panic in {export}"),
        Some("-wait") => std::thread::sleep(std::time::Duration::from_secs(3600)),
        _ => {}
    }
}

/// So many bytes that were never written, so that the machine does not have to
/// find them.
#[expect(unsafe_code, reason = "nothing else hands over memory without writing it")]
fn untouched(size: usize) -> Vec<u8> {
    let page = std::arch::wasm32::memory_grow::<0>(size.div_ceil(1 << 16));
    // SAFETY: The pages are new, so nobody else has them, and they are zeroed.
    // They are not the allocator's; it is not asked to take them back, since
    // the hub ends the instance.
    unsafe { Vec::from_raw_parts((page << 16) as *mut u8, size, size) }
}
