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
        let settings: Settings = serde_json::from_str(&config_json)
            .map_err(|error| Fault::Config(format!("[config]: {error}")))?;
        if settings.mode == "configure-spin" {
            spin();
        }
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
            "spin" => spin(),
            // Not written to, which would take longer than it has.
            "memory" => loop {
                std::mem::forget(std::hint::black_box(Vec::<u8>::with_capacity(16 << 20)));
            },
            // A thousand for one series, each with a higher score.
            "flood" => {
                let id = observation.ids.first().copied();
                let score = |n: u32| f64::from(n) / 1000.0;
                id.map_or(vec![], |id| (0..1000).map(|n| finding(id, score(n))).collect())
            }
            "lie-word" => values
                .map(|(id, _)| Finding {
                    type_: FindingType::Custom("not a word".into()),
                    ..finding(*id, 0.9)
                })
                .collect(),
            "lie-note" => values
                .map(|(id, _)| Finding { note: Some("x".repeat(1025)), ..finding(*id, 0.9) })
                .collect(),
            "scores" => {
                let scores = vec![0.0; observation.ids.len() + 1];
                return Ok(Verdict { scores, findings: vec![] });
            }
            // Each value is its own score.
            "echo" => {
                let findings = values.filter(|(_, value)| **value > settings.limit);
                let findings = findings.map(|(id, value)| finding(*id, *value)).collect();
                return Ok(Verdict { scores: observation.values.clone(), findings });
            }
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

fn spin() -> ! {
    let mut turns = 0u64;
    loop {
        turns = std::hint::black_box(turns.wrapping_add(1));
    }
}
