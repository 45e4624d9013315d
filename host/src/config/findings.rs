//! `[findings]`: which scores become findings, and of what nobody is told.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::time::Duration;

use globset::{Glob, GlobSet, GlobSetBuilder};
use serde::Deserialize;

use super::{ConfigError, one_or_several, within};
use crate::clock::parse_rfc3339;

/// The most values that anything may last: those of 30 days at 1 kHz.
const VALUES_MAX: u32 = 2_592_000_000;
/// The most rules; each is looked at once for each series of each detector.
const RULES_MAX: usize = 64;

/// `[findings]`
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct FindingsConfig {
    /// From this score on a value may open a finding: 0.01 to 1, default 0.5,
    /// which is the detectors' own threshold.
    pub open: f64,
    /// An open finding goes on while scores reach this: 0.001 to 1, default 0.4;
    /// where it is above `open`, that counts.
    pub close: f64,
    /// So many values below `close`, one after the other, end it. Default 5, at
    /// least 1.
    pub close_after: Span,
    /// So many values must reach `open`, one after the other, before one opens.
    /// Default 1.
    #[serde(rename = "for")]
    pub hold: Span,
    /// For so many values after an opening there is no other of the series …
    /// Default 15.
    pub quiet: Span,
    /// … unless it is more than so many times as strong: 1 to 1,000,000, default
    /// 5.
    pub again: f64,
    /// The strength that the next one needs is raised by this share for each
    /// opening: 0 to 100, default 0.1.
    pub habituation: f64,
    /// After so many values about a third (1/e) is left of that. Default 1000.
    pub habituation_values: u32,
    /// What is otherwise for some detectors and series. The last one that matches
    /// wins, key by key. At most 64.
    pub rules: Vec<FindingsRule>,
    /// Of what nobody is told. At most 64.
    pub mute: Vec<MuteConfig>,
}

/// `[[findings.rules]]`: keys that are not there are as they are without it.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct FindingsRule {
    /// Globs of detectors, one or several. Default all.
    #[serde(deserialize_with = "one_or_several")]
    pub detector: Vec<String>,
    /// Globs of series by name, one or several. Default all.
    #[serde(deserialize_with = "one_or_several")]
    pub series: Vec<String>,
    /// Labels that a series must have. Default none.
    pub labels: BTreeMap<String, String>,
    /// See [`FindingsConfig::open`].
    pub open: Option<f64>,
    /// See [`FindingsConfig::close`].
    pub close: Option<f64>,
    /// See [`FindingsConfig::close_after`].
    pub close_after: Option<Span>,
    /// See [`FindingsConfig::hold`].
    #[serde(rename = "for")]
    pub hold: Option<Span>,
    /// See [`FindingsConfig::quiet`].
    pub quiet: Option<Span>,
    /// See [`FindingsConfig::again`].
    pub again: Option<f64>,
    /// See [`FindingsConfig::habituation`].
    pub habituation: Option<f64>,
    /// See [`FindingsConfig::habituation_values`].
    pub habituation_values: Option<u32>,
}

/// `[[findings.mute]]`: no finding opens meanwhile. One that is open goes on.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MuteConfig {
    /// Globs of detectors, one or several. Default all.
    #[serde(deserialize_with = "one_or_several")]
    pub detector: Vec<String>,
    /// Globs of series by name, one or several. Default all.
    #[serde(deserialize_with = "one_or_several")]
    pub series: Vec<String>,
    /// Labels that a series must have. Default none.
    pub labels: BTreeMap<String, String>,
    /// From when on, RFC 3339. Default always.
    #[serde(deserialize_with = "moment")]
    pub from: Option<u64>,
    /// Until when. Default for ever.
    #[serde(deserialize_with = "moment")]
    pub to: Option<u64>,
    /// Only at these times of each day in UTC, such as `"22:00-06:00"`.
    pub daily: Option<Daily>,
    /// For people.
    pub reason: String,
}

/// How long something lasts: a number of values, which means the same to a
/// series of each interval, or a time, which is as many values as are due in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Span {
    /// So many values of the series.
    Values(u32),
    /// The values that are due in this time.
    Time(Duration),
}

impl Span {
    /// How many values of a series whose values are due at this interval in
    /// nanoseconds: rounded up.
    #[must_use]
    pub fn values(self, interval_ns: u64) -> u32 {
        match self {
            Self::Values(values) => values,
            Self::Time(time) => {
                let values = time.as_nanos().div_ceil(u128::from(interval_ns.max(1)));
                u32::try_from(values).unwrap_or(u32::MAX)
            }
        }
    }

    /// For comparisons with limits, as if values came at 1 kHz.
    fn count(self) -> u32 {
        self.values(1_000_000)
    }
}

impl Display for Span {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Values(values) => write!(f, "{values}"),
            Self::Time(time) => write!(f, "{time:?}"),
        }
    }
}

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged, expecting = "expected a number of values, or a time such as \"10m\"")]
        enum Said {
            Values(u32),
            Time(String),
        }
        match Said::deserialize(deserializer)? {
            Said::Values(values) => Ok(Self::Values(values)),
            Said::Time(text) => humantime::parse_duration(&text).map(Self::Time).map_err(|error| {
                serde::de::Error::custom(format!(
                    "{text:?} is no number of values and no time such as \"10m\": {error}"
                ))
            }),
        }
    }
}

/// A part of each day in UTC; one whose end is before its beginning goes on
/// after midnight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Daily {
    /// The first minute of the day.
    from: u32,
    /// The first one that is no part of it any more.
    to: u32,
}

impl Daily {
    /// Whether it is that time of the day, in nanoseconds since the Unix epoch.
    #[must_use]
    pub fn holds(self, time_ns: u64) -> bool {
        let minute = u32::try_from(time_ns / 60_000_000_000 % 1440).unwrap_or_default();
        let Self { from, to } = self;
        if from < to { (from..to).contains(&minute) } else { minute >= from || minute < to }
    }

    fn parse(text: &str) -> Option<Self> {
        let minute = |text: &str| {
            let (hours, minutes) = text.trim().split_once(':')?;
            let (hours, minutes): (u32, u32) = (hours.parse().ok()?, minutes.parse().ok()?);
            (hours < 24 && minutes < 60).then_some(hours * 60 + minutes)
        };
        let (from, to) = text.split_once('-')?;
        let (from, to) = (minute(from)?, minute(to)?);
        (from != to).then_some(Self { from, to })
    }
}

impl<'de> Deserialize<'de> for Daily {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::parse(&text).ok_or_else(|| {
            let words = "is no part of a day such as \"22:00-06:00\"";
            serde::de::Error::custom(format!("{text:?} {words}"))
        })
    }
}

impl Default for FindingsConfig {
    fn default() -> Self {
        Self {
            open: 0.5,
            close: 0.4,
            close_after: Span::Values(5),
            hold: Span::Values(1),
            quiet: Span::Values(15),
            again: 5.0,
            habituation: 0.1,
            habituation_values: 1000,
            rules: Vec::new(),
            mute: Vec::new(),
        }
    }
}

impl FindingsConfig {
    /// The most times to mute.
    pub const MUTES_MAX: usize = 64;

    /// Checks what types can't.
    pub(super) fn check(&self) -> Result<(), ConfigError> {
        let own = FindingsRule {
            open: Some(self.open),
            close: Some(self.close),
            close_after: Some(self.close_after),
            hold: Some(self.hold),
            quiet: Some(self.quiet),
            again: Some(self.again),
            habituation: Some(self.habituation),
            habituation_values: Some(self.habituation_values),
            ..FindingsRule::default()
        };
        own.check("findings")?;
        let most = Self::MUTES_MAX;
        for (list, length, most) in
            [("rules", self.rules.len(), RULES_MAX), ("mute", self.mute.len(), most)]
        {
            if length > most {
                let words = format!("findings.{list} has {length} tables, and {most} is the limit");
                return Err(ConfigError::Invalid(words));
            }
        }
        for (number, rule) in (1..).zip(&self.rules) {
            rule.check(&format!("findings.rules (number {number})"))?;
        }
        for (number, mute) in (1..).zip(&self.mute) {
            let place = format!("findings.mute (number {number})");
            check_globs(&place, [("detector", &mute.detector), ("series", &mute.series)])?;
            if let (Some(from), Some(to)) = (mute.from, mute.to)
                && to <= from
            {
                let words = format!("{place}: `to` is not after `from`, so that it never holds");
                return Err(ConfigError::Invalid(words));
            }
        }
        Ok(())
    }
}

impl FindingsRule {
    fn check(&self, place: &str) -> Result<(), ConfigError> {
        check_globs(place, [("detector", &self.detector), ("series", &self.series)])?;
        for (key, value, range, words) in [
            ("open", self.open, 0.01..=1.0, "0.01 to 1"),
            ("close", self.close, 0.001..=1.0, "0.001 to 1"),
            ("again", self.again, 1.0..=1e6, "1 to 1000000"),
            ("habituation", self.habituation, 0.0..=100.0, "0 to 100"),
        ] {
            if let Some(value) = value {
                within(&format!("{place}.{key}"), value, range, words)?;
            }
        }
        for (key, span, least) in [
            ("close_after", self.close_after, 1),
            ("for", self.hold, 1),
            ("quiet", self.quiet, 0),
            ("habituation_values", self.habituation_values.map(Span::Values), 1),
        ] {
            let Some(span) = span else { continue };
            if !(least..=VALUES_MAX).contains(&span.count()) {
                let words = format!(
                    "{place}.{key} = {span} is not from {least} to {VALUES_MAX} values, or up to \
                     30 days"
                );
                return Err(ConfigError::Invalid(words));
            }
        }
        Ok(())
    }
}

/// What matches one of these globs; none of them match everything.
///
/// # Errors
///
/// One of them is none: what is wrong.
pub(crate) fn globs(texts: &[String]) -> Result<Option<GlobSet>, globset::Error> {
    if texts.is_empty() {
        return Ok(None);
    }
    let mut set = GlobSetBuilder::new();
    for text in texts {
        set.add(Glob::new(text)?);
    }
    set.build().map(Some)
}

fn check_globs(place: &str, lists: [(&str, &Vec<String>); 2]) -> Result<(), ConfigError> {
    for (key, list) in lists {
        if let Err(error) = globs(list) {
            return Err(ConfigError::Invalid(format!("{place}.{key}: {error}")));
        }
    }
    Ok(())
}

/// A time in nanoseconds since the Unix epoch, as a text or as TOML has it.
fn moment<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<u64>, D::Error> {
    let text = match toml::Value::deserialize(deserializer)? {
        toml::Value::String(text) => text,
        other => other.to_string(),
    };
    parse_rfc3339(&text).map(Some).ok_or_else(|| {
        let words = "is no time with a zone such as \"2026-02-10T12:00:00Z\"";
        serde::de::Error::custom(format!("{text:?} {words}"))
    })
}
