//! A collector with state: it counts its calls, over reloads and restarts.
#![cfg(target_arch = "wasm32")]

use std::cell::Cell;

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
}

struct Component;

impl collect::Guest for Component {
    fn configure(config_json: String) -> Result<(), Fault> {
        let config: serde_json::Value =
            serde_json::from_str(&config_json).map_err(|error| Fault::Config(error.to_string()))?;
        if let Some(version) = config["version"].as_u64() {
            VERSION.set(u32::try_from(version).unwrap_or(u32::MAX));
        }
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
        VERSION.get()
    }

    fn save() -> Vec<u8> {
        COUNT.get().to_le_bytes().to_vec()
    }

    fn restore(_: u32, bytes: Vec<u8>) -> Result<(), String> {
        let bytes = bytes.try_into().map_err(|_| "not eight bytes".to_owned())?;
        COUNT.set(u64::from_le_bytes(bytes));
        Ok(())
    }
}
