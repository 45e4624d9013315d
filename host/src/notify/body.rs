//! What is sent, as JSON.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::value::RawValue;

use super::group::{Batch, Gap};
use crate::clock::rfc3339;
use crate::model::FindingState;

/// What a delivery is for, beside its findings.
#[derive(Debug)]
pub(super) struct Frame<'a> {
    /// The hub's name.
    pub(super) hub: &'a str,
    /// The log's name: offsets are of it.
    pub(super) epoch: &'a str,
    /// The receiver's.
    pub(super) receiver: &'a str,
    /// The dashboard.
    pub(super) link: Option<&'a str>,
    /// When it is made: wall time in milliseconds since the Unix epoch.
    pub(super) time_ms: u64,
}

/// The specification's form: what it is, when it was, and all else.
#[derive(Serialize)]
struct Body<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    timestamp: String,
    data: Data<'a>,
}

#[derive(Serialize)]
struct Data<'a> {
    hub: &'a str,
    receiver: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    link: Option<&'a str>,
    state: FindingState,
    group: &'a BTreeMap<String, String>,
    groups: usize,
    opened: u64,
    closed: u64,
    left_out: u64,
    offsets: Offsets<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    gap: Option<Gap>,
    findings: Vec<&'a RawValue>,
}

#[derive(Serialize)]
struct Offsets<'a> {
    epoch: &'a str,
    first: u64,
    last: u64,
}

impl Frame<'_> {
    /// The body of a delivery of findings.
    ///
    /// # Errors
    ///
    /// It can't be written as JSON.
    pub(super) fn of(&self, batch: &Batch) -> serde_json::Result<String> {
        serde_json::to_string(&Body {
            kind: "telltale.findings",
            timestamp: rfc3339(self.time_ms * 1_000_000),
            data: Data {
                hub: self.hub,
                receiver: self.receiver,
                link: self.link,
                state: batch.state(),
                group: &batch.common,
                groups: batch.groups,
                opened: batch.opened,
                closed: batch.closed,
                left_out: batch.left_out,
                offsets: Offsets { epoch: self.epoch, first: batch.first, last: batch.last },
                gap: batch.gap,
                findings: batch.findings.iter().map(|told| &*told.body).collect(),
            },
        })
    }

    /// The body of a delivery that only tries the way: its finding is made up.
    pub(super) fn test(&self) -> String {
        let time = rfc3339(self.time_ms * 1_000_000);
        serde_json::json!({
            "type": "telltale.test",
            "timestamp": time,
            "data": {
                "hub": self.hub,
                "receiver": self.receiver,
                "link": self.link,
                "state": "open",
                "group": {},
                "groups": 1,
                "opened": 1,
                "closed": 0,
                "left_out": 0,
                "offsets": {"epoch": self.epoch, "first": 0, "last": 0},
                "findings": [{
                    "id": format!("test-{}", self.time_ms),
                    "state": "open",
                    "detector": "test",
                    "series": 0,
                    "plugin": "test",
                    "name": "test.value",
                    "labels": {},
                    "type": "spike",
                    "score": 0.9,
                    "peak": 0.9,
                    "value": 42.0,
                    "expected": 1.0,
                    "lower": 0.0,
                    "upper": 2.0,
                    "deviation": null,
                    "note": "made up, to try the way to this receiver",
                    "started": time,
                    "ended": null,
                }],
            },
        })
        .to_string()
    }
}
