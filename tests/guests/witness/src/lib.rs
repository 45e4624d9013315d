//! A detector with state that knows which ticks it was shown, and finds what
//! exceeds a limit.
#![cfg(target_arch = "wasm32")]

use std::cell::{Cell, RefCell};

use serde::Deserialize;

#[allow(missing_docs, unsafe_code, unreachable_pub, clippy::all, reason = "generated code")]
mod bindings {
    use super::Component;

    wit_bindgen::generate!({ path: "../../../wit", world: "stateful-detector" });
    export!(Component);
}

use bindings::exports::telltale::plugin::detect::{
    self, Fault, Finding, FindingType, Observation, Verdict,
};
use bindings::exports::telltale::plugin::state;

/// `[config]`
#[derive(Clone, Copy, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Settings {
    /// Above this a value is a finding.
    limit: f64,
    /// It takes over no state.
    forgetful: bool,
}

/// The ticks that were shown: the first, the last, how many, and how many of
/// them were not later than the one before.
#[derive(Clone, Copy, Default)]
struct Seen([u64; 4]);

thread_local! {
    static SETTINGS: Cell<Settings> = const { Cell::new(Settings { limit: 0.0, forgetful: false }) };
    static SEEN: RefCell<Seen> = const { RefCell::new(Seen([0; 4])) };
}

struct Component;

impl detect::Guest for Component {
    fn configure(config_json: String) -> Result<(), Fault> {
        let settings = serde_json::from_str(&config_json)
            .map_err(|error| Fault::Config(format!("[config]: {error}")))?;
        SETTINGS.set(settings);
        Ok(())
    }

    fn observe(observation: Observation) -> Result<Verdict, Fault> {
        let tick = observation.tick.number;
        let count = SEEN.with_borrow_mut(|Seen([first, last, count, repeated])| {
            if *count == 0 {
                *first = tick;
            }
            *repeated += u64::from(tick <= *last);
            (*last, *count) = (tick, *count + 1);
            *count
        });
        let limit = SETTINGS.get().limit;
        let finding = |(id, value): (&u32, &f64)| Finding {
            series: *id,
            type_: FindingType::Spike,
            score: 0.9,
            deviation: Some(value - limit),
            expected: Some(limit),
            lower: None,
            upper: Some(limit),
            note: Some(format!("{count} ticks")),
        };
        let odd = observation.ids.iter().zip(&observation.values).filter(|(_, v)| **v > limit);
        Ok(Verdict { scores: vec![], findings: odd.map(finding).collect() })
    }
}

impl state::Guest for Component {
    fn version() -> u32 {
        1
    }

    fn save() -> Vec<u8> {
        SEEN.with_borrow(|Seen(numbers)| numbers.iter().flat_map(|n| n.to_le_bytes()).collect())
    }

    fn restore(_: u32, bytes: Vec<u8>) -> Result<(), String> {
        if SETTINGS.get().forgetful {
            return Err("it is not to my taste".to_owned());
        }
        let (numbers, rest) = bytes.as_chunks::<8>();
        let numbers: Vec<u64> = numbers.iter().map(|n| u64::from_le_bytes(*n)).collect();
        match (<[u64; 4]>::try_from(numbers), rest) {
            (Ok(numbers), []) => SEEN.set(Seen(numbers)),
            _ => return Err("these are not four numbers".to_owned()),
        }
        Ok(())
    }
}
