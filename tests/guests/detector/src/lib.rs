//! A detector without state: it finds what exceeds a limit, or
//! does one of the things that a detector should not do.
#![cfg(target_arch = "wasm32")]

use std::cell::RefCell;

use serde::Deserialize;

#[allow(missing_docs, unsafe_code, unreachable_pub, clippy::all, reason = "generated code")]
mod bindings {
    use super::Component;

    wit_bindgen::generate!({ path: "../../../wit", world: "detector" });
    export!(Component);
}

use bindings::exports::telltale::plugin::detect::{
    Fault, Finding, FindingType, Guest, Observation, Verdict,
};

/// `[config]`
#[derive(Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Settings {
    /// What to do; see [`Component::observe`].
    mode: String,
    /// Above this a value is a finding.
    limit: f64,
    /// It is a spike, unless this says `level-shift`.
    finding: String,
}

thread_local! {
    static SETTINGS: RefCell<Settings> = RefCell::default();
}

struct Component;

impl Guest for Component {
    fn configure(config_json: String) -> Result<(), Fault> {
        let settings = serde_json::from_str(&config_json)
            .map_err(|error| Fault::Config(format!("[config]: {error}")))?;
        SETTINGS.set(settings);
        Ok(())
    }

    fn observe(observation: Observation) -> Result<Verdict, Fault> {
        let settings = SETTINGS.with_borrow(Clone::clone);
        let level_shift = settings.finding == "level-shift";
        let finding = |series: u32, score: f64| Finding {
            series,
            type_: if level_shift { FindingType::LevelShift } else { FindingType::Spike },
            score,
            deviation: None,
            expected: Some(settings.limit),
            lower: None,
            upper: Some(settings.limit),
            note: None,
        };
        let values = observation.ids.iter().zip(&observation.values);
        let findings = match &*settings.mode {
            "panic" => panic!("asked to panic"),
            "spin" => loop {
                std::hint::black_box(());
            },
            "lie-series" => vec![finding(u32::MAX, 0.9)],
            "lie-score" => values.map(|(id, _)| finding(*id, 1.5)).collect(),
            _ => values
                .filter(|(_, value)| **value > settings.limit)
                .map(|(id, _)| finding(*id, 0.9))
                .collect(),
        };
        Ok(Verdict { scores: vec![], findings })
    }
}
