//! {{name}}: a detector.

// `telltale plugin build` writes the interface there.
wit_bindgen::generate!({ path: "build/wit", world: "detector" });

use exports::telltale::plugin::detect::{
    Fault, Finding, FindingType, Guest, Observation, Verdict,
};

/// Above this a value is a finding.
const LIMIT: f64 = 1e9;

struct Plugin;

impl Guest for Plugin {
    fn configure(_config_json: String) -> Result<(), Fault> {
        Ok(())
    }

    fn observe(observation: Observation) -> Result<Verdict, Fault> {
        let values = observation.ids.iter().zip(&observation.values);
        let findings = values.filter(|(_, value)| **value > LIMIT).map(|(id, value)| Finding {
            series: *id,
            type_: FindingType::Spike,
            score: 0.9,
            deviation: Some(value / LIMIT),
            expected: None,
            lower: None,
            upper: Some(LIMIT),
            note: None,
        });
        Ok(Verdict { scores: vec![], findings: findings.take(100).collect() })
    }
}

export!(Plugin);
