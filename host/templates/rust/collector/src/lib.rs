//! {{name}}: a collector.

// `telltale plugin build` writes the interface there.
wit_bindgen::generate!({ path: "build/wit", world: "collector" });

use exports::telltale::plugin::collect::{Batch, Declaration, Fault, Guest, Series, Tick};
use telltale::plugin::types::Kind;

struct Plugin;

impl Guest for Plugin {
    fn configure(_config_json: String) -> Result<(), Fault> {
        Ok(())
    }

    fn collect(tick: Tick) -> Result<Batch, Fault> {
        // A series is declared once, in the batch in which it first appears.
        static DECLARED: std::sync::Once = std::sync::Once::new();
        let mut declare = Vec::new();
        DECLARED.call_once(|| {
            declare.push(Declaration {
                id: 0,
                series: Series {
                    name: "{{name}}.roll".into(),
                    kind: Kind::Gauge,
                    unit: "1".into(),
                    description: "The last roll of a die".into(),
                    labels: vec![],
                },
            });
        });
        let roll = (tick.number.wrapping_mul(2_654_435_761) >> 16) % 6 + 1;
        Ok(Batch { declare, ids: vec![0], values: vec![roll as f64], gone: vec![], documents: vec![] })
    }
}

export!(Plugin);
