//! What every server of a run is asked to send.

use std::time::Duration;

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

/// What is sent at each tick.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Workload {
    /// One update of 2 KB to each client
    #[default]
    Single,
    /// 20 updates of 256 B to each client, as the server's users would send them
    Coalesced,
}

impl Workload {
    /// Updates that a client gets in a tick.
    pub(crate) fn updates(self) -> usize {
        match self {
            Self::Single => 1,
            Self::Coalesced => 20,
        }
    }

    /// About how many bytes of JSON an update has.
    pub(crate) fn bytes(self) -> usize {
        match self {
            Self::Single => 2048,
            Self::Coalesced => 256,
        }
    }
}

/// The load of a run.
#[derive(Clone, Copy)]
pub(crate) struct Load {
    pub(crate) workload: Workload,
    pub(crate) clients: usize,
    /// Bytes of JSON of each update.
    pub(crate) bytes: usize,
    /// From one tick to the next.
    pub(crate) interval: Duration,
    /// Ticks of the window that is measured.
    pub(crate) ticks: u32,
}

impl Load {
    /// Messages that a tick delivers to all clients together.
    pub(crate) fn messages_per_tick(&self) -> usize {
        self.clients * self.workload.updates()
    }

    /// How long the window is, if nobody is late.
    pub(crate) fn window(&self) -> Duration {
        self.interval * self.ticks
    }

    pub(crate) fn plan(&self) -> Plan {
        Plan {
            interval_ms: self.interval.as_millis() as u64,
            updates: vec![update(self.bytes); self.workload.updates()],
        }
    }
}

/// The load as the servers read it, from a file.
#[derive(Serialize, Deserialize)]
pub(crate) struct Plan {
    /// From one tick to the next.
    pub(crate) interval_ms: u64,
    /// The updates of each tick; `@` stands for the time, in microseconds since
    /// the epoch.
    pub(crate) updates: Vec<String>,
}

/// Digits of the time in microseconds since the epoch.
const TIME_DIGITS: usize = 16;

/// An update such as the hub's of so many bytes, once the time is in it.
fn update(bytes: usize) -> String {
    const HEAD: &str = r#"{"push":"metrics","sub":1,"tick":100,"time":"@","values":["#;
    const TAIL: &str = r#"],"pad":""}"#;
    let room = (bytes + 1).saturating_sub(HEAD.len() + TAIL.len() + TIME_DIGITS);
    let mut rows = String::new();
    for id in 41.. {
        let row = format!("[{id},{}.5],", id + 60);
        // The comma after the last of them is taken off.
        if rows.len() + row.len() > room + 1 {
            break;
        }
        rows += &row;
    }
    rows.pop();
    let pad = "x".repeat(room - rows.len());
    format!(r#"{HEAD}{rows}],"pad":"{pad}"}}"#)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_update_has_the_size_that_is_asked_for_and_is_json() {
        for bytes in (100..400).chain([2048]) {
            let text = update(bytes).replace('@', &"1".repeat(TIME_DIGITS));
            assert_eq!(text.len(), bytes);
            serde_json::from_str::<serde_json::Value>(&text).unwrap();
        }
    }
}
