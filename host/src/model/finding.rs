//! What detectors say, and what the hub makes of it.

use super::{LogChannel, PluginName, Series, SeriesId, Tick};
use std::sync::Arc;

/// In which way a series is odd.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum FindingType {
    /// Above what was expected.
    Spike,
    /// Below what was expected.
    Drop,
    /// It goes on at another level.
    LevelShift,
    /// It goes on with another shape.
    PatternShift,
    /// It has stopped moving.
    Flatline,
    /// Values that were due don't come.
    Missing,
    /// A word of the detector's own.
    Custom(Box<str>),
}

impl FindingType {
    /// The word for it on the wire and in the store.
    #[must_use]
    pub fn as_str(&self) -> &str {
        match self {
            Self::Spike => "spike",
            Self::Drop => "drop",
            Self::LevelShift => "level-shift",
            Self::PatternShift => "pattern-shift",
            Self::Flatline => "flatline",
            Self::Missing => "missing",
            Self::Custom(word) => word,
        }
    }
}

impl serde::Serialize for FindingType {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

/// What a detector reports of one series at one tick.
#[derive(Clone, Debug, PartialEq)]
pub struct Candidate {
    /// The series, as it was shown.
    pub series: Arc<Series>,
    /// In which way it is odd.
    pub finding_type: FindingType,
    /// From 0 to 1; 0.5 is the detector's own threshold.
    pub score: f64,
    /// The value that it judged, as it was shown.
    pub value: Option<f64>,
    /// How far from the expected value, in the detector's own measure.
    pub deviation: Option<f64>,
    /// What would have been usual.
    pub expected: Option<f64>,
    /// The lower end of what would have been usual.
    pub lower: Option<f64>,
    /// The upper end of what would have been usual.
    pub upper: Option<f64>,
    /// A sentence for people.
    pub note: Option<Box<str>>,
}

/// A detector's answer to one tick, checked.
#[derive(Debug)]
pub struct Judgement {
    /// Who judged.
    pub detector: PluginName,
    /// Which tick.
    pub tick: Tick,
    /// Series that it is shown from now on, or that are described anew: all of
    /// them in the first judgement of each instance.
    pub declared: Vec<Arc<Series>>,
    /// The series of which it saw a value, in rising order.
    pub seen: Vec<SeriesId>,
    /// These values, parallel to `seen`.
    pub values: Vec<f64>,
    /// How odd each of those values is, parallel to `seen`; empty if it does not
    /// tell.
    pub scores: Vec<f64>,
    /// The component that judged: the first digits of its hash.
    pub version: Arc<str>,
    /// It runs in the shadow of the detector of that name: what it finds is
    /// recorded, and told to nobody who did not ask.
    pub shadow: bool,
    /// What it found odd.
    pub candidates: Vec<Candidate>,
    /// Series that it is not shown any more.
    pub gone: Vec<SeriesId>,
    /// It does not come back: all that it has found ends.
    pub ended: bool,
}

impl Judgement {
    /// The last judgement of a detector that does not come back.
    #[must_use]
    pub fn farewell(detector: PluginName, tick: Tick, shadow: bool) -> Self {
        Self {
            detector,
            tick,
            declared: Vec::new(),
            seen: Vec::new(),
            values: Vec::new(),
            scores: Vec::new(),
            version: "".into(),
            shadow,
            candidates: Vec::new(),
            gone: Vec::new(),
            ended: true,
        }
    }
}

/// The series whose values at one tick were odd, by what a live detector says.
/// It is kept beside the samples.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Flags {
    /// The tick's time in milliseconds since the Unix epoch.
    pub time_ms: u64,
    /// In rising order.
    pub series: Vec<SeriesId>,
}

/// Whether a finding begins or ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FindingState {
    /// It begins.
    Open,
    /// It has ended.
    Close,
}

/// A finding as it is kept and told: one entry when it opens, one when it
/// closes, with the same `id`.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Finding {
    /// The same for the opening and the closing entry, never used again.
    pub id: String,
    /// Whether it begins or ends.
    pub state: FindingState,
    /// The detector that found it.
    pub detector: String,
    /// The number of the series.
    pub series: SeriesId,
    /// The plugin that the series comes from.
    pub plugin: String,
    /// The series' name.
    pub name: String,
    /// The series' labels.
    pub labels: std::collections::BTreeMap<String, String>,
    /// In which way it is odd.
    #[serde(rename = "type")]
    pub finding_type: String,
    /// The score at the opening.
    pub score: f64,
    /// The highest score while it was open.
    pub peak: f64,
    /// See [`Candidate::deviation`]; at the opening.
    pub deviation: Option<f64>,
    /// The value that opened it, as it was shown.
    pub value: Option<f64>,
    /// See [`Candidate::expected`]; at the opening.
    pub expected: Option<f64>,
    /// See [`Candidate::lower`]; at the opening.
    pub lower: Option<f64>,
    /// See [`Candidate::upper`]; at the opening.
    pub upper: Option<f64>,
    /// See [`Candidate::note`]; at the opening.
    pub note: Option<String>,
    /// When it began, RFC 3339.
    pub started: String,
    /// When it ended, RFC 3339; only when closed.
    pub ended: Option<String>,
    /// Why it ended, where it was not by quiet values.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The component that found it: the first digits of its hash.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub version: String,
    /// It was found in the shadow of the detector of that name.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub shadow: bool,
}

impl Finding {
    /// The channel that tells it.
    #[must_use]
    pub fn channel(&self) -> LogChannel {
        if self.shadow { LogChannel::Shadow } else { LogChannel::Findings }
    }
}
