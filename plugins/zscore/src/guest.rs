//! The plugin's exports.

mod bindings {
    #![allow(
        missing_docs,
        unsafe_code,
        unreachable_pub,
        unused_qualifications,
        clippy::allow_attributes_without_reason,
        reason = "generated"
    )]
    use super::Guest;
    wit_bindgen::generate!({ path: "../../wit", world: "stateful-detector" });
    export!(Guest);
}

use crate::detector::{Detector, Finding};
use crate::saved;
use bindings::exports::telltale::plugin::{detect, state};
use bindings::telltale::plugin::{log, types};
use std::cell::RefCell;

thread_local! {
    static DETECTOR: RefCell<Detector> = RefCell::default();
}

struct Guest;

impl detect::Guest for Guest {
    fn configure(config_json: String) -> Result<(), types::Fault> {
        DETECTOR
            .with_borrow_mut(|detector| detector.configure(&config_json))
            .map_err(types::Fault::Config)
    }

    fn observe(observation: detect::Observation) -> Result<detect::Verdict, types::Fault> {
        DETECTOR.with_borrow_mut(|detector| {
            detector.forget(observation.gone);
            detector.declare(observation.declare.iter().map(|watched| watched.id));
            let (scores, findings) = detector.observe(&observation.ids, &observation.values);
            Ok(detect::Verdict { scores, findings: findings.into_iter().map(Into::into).collect() })
        })
    }
}

impl state::Guest for Guest {
    fn version() -> u32 {
        saved::VERSION
    }

    fn save() -> Vec<u8> {
        DETECTOR.with_borrow(|detector| saved::save(detector.series()))
    }

    fn restore(from_version: u32, bytes: Vec<u8>) -> Result<(), String> {
        if from_version == saved::VERSION {
            let series = saved::load(&bytes);
            DETECTOR.with_borrow_mut(|detector| detector.restore(series));
        } else {
            let message = format!("starts afresh: version {from_version} of its state is unknown");
            log::log(log::Level::Info, &message);
        }
        Ok(())
    }
}

impl From<Finding> for detect::Finding {
    fn from(finding: Finding) -> Self {
        Self {
            series: finding.series,
            type_: if finding.deviation > 0.0 {
                detect::FindingType::Spike
            } else {
                detect::FindingType::Drop
            },
            score: finding.score,
            deviation: Some(finding.deviation),
            expected: Some(finding.expected),
            lower: Some(finding.lower),
            upper: Some(finding.upper),
            note: None,
        }
    }
}
