//! What a plugin may use up: the settings' say and the defaults, resolved once.
//!
//! What is over a limit is refused by whoever meets it; here it is counted.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::settings::Settings;
use super::status::PluginRole;

pub(super) const MIB: usize = 1024 * 1024;
const KIB: usize = 1024;

/// How many batches' worth of documents the hub keeps of one instance: a
/// plugin may publish its documents in turn.
const BATCHES_KEPT: usize = 4;

/// What an instance may use up, each as it is compared with. The names are
/// those of the keys under `[limits]`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// All linear memories together.
    pub(crate) memory_bytes: usize,
    /// Computing in `collect` or `observe`.
    pub(crate) collect: Duration,
    /// Computing in the start, and in `configure`: a language runtime may have
    /// to wake up there.
    pub(crate) configure: Duration,
    /// Waiting in any call.
    pub(crate) io: Duration,
    /// One query on a database.
    pub(crate) query: Duration,
    /// Series of a collector that have a number.
    pub(crate) series: usize,
    /// Documents in a batch.
    pub(crate) documents: usize,
    /// One document.
    pub(crate) document_bytes: usize,
    /// All documents of a batch.
    pub(crate) documents_bytes: usize,
    /// Findings in a verdict.
    pub(crate) findings: usize,
    /// Log lines in a second.
    pub(crate) log_lines: u32,
    /// Events in a call.
    pub(crate) events: u32,
    /// Events in a second.
    pub(crate) events_per_second: u32,
    /// What `save` answers.
    pub(crate) state_bytes: usize,
    /// What the hub copies out of the instance in one transfer.
    pub(crate) copy_bytes: usize,
    /// How long it is between two values of a collector.
    pub(crate) interval_ns: u64,
}

impl Limits {
    /// The limits of a plugin: what its settings say, and the defaults of its
    /// role. `tick` is how long a tick is.
    pub(crate) fn of(settings: &Settings, role: PluginRole, tick: Duration) -> Self {
        let set = &settings.limits;
        let pick = |collector, detector| match role {
            PluginRole::Collector => collector,
            PluginRole::Detector => detector,
        };
        let size = |value: Option<u32>, default: u32| value.unwrap_or(default) as usize;
        let time = |value: Option<u32>, default: u32| {
            Duration::from_millis(value.unwrap_or(default).into())
        };
        let ticks = crate::tick::in_ticks(settings.interval, tick);
        let interval = tick * u32::try_from(ticks).unwrap_or(u32::MAX);
        Self {
            memory_bytes: size(set.memory_mib, pick(64, 192)) * MIB,
            collect: time(set.collect_ms, pick(250, 50)),
            configure: time(set.configure_ms, 5000),
            io: time(set.io_ms, 5000),
            query: time(set.query_ms, 50),
            series: size(set.series, 10_000),
            documents: size(set.documents, 16),
            document_bytes: size(set.document_kib, 256) * KIB,
            documents_bytes: size(set.documents_kib, 1024) * KIB,
            findings: size(set.findings, 100),
            log_lines: set.log_lines.unwrap_or(20),
            events: set.events.unwrap_or(100),
            events_per_second: set.events_per_second.unwrap_or(100),
            state_bytes: size(set.state_mib, pick(4, 64)) * MIB,
            copy_bytes: size(set.copy_mib, 4) * MIB,
            interval_ns: u64::try_from(interval.as_nanos()).unwrap_or(u64::MAX),
        }
    }

    /// What is said of events over the limits.
    pub(crate) fn events_over(&self) -> String {
        let Self { events, events_per_second, .. } = self;
        format!(
            "events over {events} in a call or {events_per_second} a second, or for which there is \
             no room, are not taken (limits `events` and `events_per_second`)"
        )
    }

    /// Different documents that the hub keeps of one instance.
    pub(crate) fn document_names_kept(&self) -> usize {
        BATCHES_KEPT * self.documents
    }

    /// What those documents may have together, in bytes.
    pub(crate) fn document_bytes_kept(&self) -> usize {
        BATCHES_KEPT * self.documents_bytes
    }
}

/// What was over a plugin's limits, and was not let through.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct RefusedCounts {
    /// Declarations of series that are not shown.
    pub series: u64,
    /// Documents.
    pub documents: u64,
    /// Findings.
    pub findings: u64,
    /// Log lines.
    pub log_lines: u64,
    /// Values that the cache did not take.
    pub cache: u64,
    /// HTTP requests to hosts that are not granted, or too many at once.
    pub requests: u64,
    /// Events that there was no room for.
    pub events: u64,
}

impl RefusedCounts {
    /// All of it.
    #[must_use]
    pub fn total(&self) -> u64 {
        let Self { series, documents, findings, log_lines, cache, requests, events } = self;
        series + documents + findings + log_lines + cache + requests + events
    }
}

/// The counts of one plugin since it was added: they outlive its instances.
/// Cheap to clone.
#[derive(Clone, Debug, Default)]
pub(crate) struct Refused(Arc<Mutex<RefusedCounts>>);

impl Refused {
    /// What was refused until now.
    pub(crate) fn counts(&self) -> RefusedCounts {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts what is being refused.
    pub(crate) fn add(&self, count: impl FnOnce(&mut RefusedCounts)) {
        count(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

/// A limit that an instance has met for the first time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LimitHit {
    /// Its key under `[limits]`.
    pub(crate) limit: &'static str,
    /// What was over it, and what became of that, for the hub's users.
    pub(crate) words: String,
}

/// What one instance has had over its limits: all of it is counted, and each
/// limit is told once. Ends with the instance.
#[derive(Debug)]
pub(crate) struct Excess {
    refused: Refused,
    log_lines_max: u32,
    /// What was over the limits before this instance was.
    before: RefusedCounts,
    events_over: String,
    told: Vec<&'static str>,
    hits: Vec<LimitHit>,
}

impl Excess {
    pub(crate) fn new(refused: Refused, limits: &Limits) -> Self {
        let (before, events_over) = (refused.counts(), limits.events_over());
        let (log_lines_max, told, hits) = (limits.log_lines, Vec::new(), Vec::new());
        Self { refused, log_lines_max, before, events_over, told, hits }
    }

    /// Counts what is over `limit`; the first time, `words` say what it was.
    pub(crate) fn refuse(
        &mut self,
        limit: &'static str,
        count: impl FnOnce(&mut RefusedCounts),
        words: impl FnOnce() -> String,
    ) {
        self.refused.add(count);
        self.tell(limit, words);
    }

    #[cfg(test)]
    pub(crate) fn counts(&self) -> RefusedCounts {
        self.refused.counts()
    }

    /// The limits that were met for the first time since this was last asked.
    pub(crate) fn hits(&mut self) -> Vec<LimitHit> {
        let counts = self.refused.counts();
        if counts.events > self.before.events {
            let words = self.events_over.clone();
            self.tell("events", || words);
        }
        if counts.log_lines > self.before.log_lines {
            let most = self.log_lines_max;
            self.tell("log_lines", || {
                format!("log lines over {most} a second are dropped (limit `log_lines`)")
            });
        }
        std::mem::take(&mut self.hits)
    }

    fn tell(&mut self, limit: &'static str, words: impl FnOnce() -> String) {
        if !self.told.contains(&limit) {
            self.told.push(limit);
            self.hits.push(LimitHit { limit, words: words() });
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    const TICK: Duration = Duration::from_secs(1);

    #[test]
    fn a_role_has_its_defaults_and_the_settings_have_the_last_word() {
        let none = Settings::default();
        let collector = Limits::of(&none, PluginRole::Collector, TICK);
        let detector = Limits::of(&none, PluginRole::Detector, TICK);
        assert_eq!((collector.memory_bytes, detector.memory_bytes), (64 * MIB, 192 * MIB));
        assert_eq!((collector.collect.as_millis(), detector.collect.as_millis()), (250, 50));
        assert_eq!((collector.state_bytes, detector.state_bytes), (4 * MIB, 64 * MIB));
        let text = "interval = \"5s\"\n[limits]\nmemory_mib = 7\nstate_mib = 8\ncopy_mib = 9\n";
        let settings = Settings::parse(Path::new("p.toml"), text).unwrap();
        for role in [PluginRole::Collector, PluginRole::Detector] {
            let limits = Limits::of(&settings, role, TICK);
            assert_eq!((limits.memory_bytes, limits.state_bytes), (7 * MIB, 8 * MIB));
            assert_eq!((limits.copy_bytes, limits.interval_ns), (9 * MIB, 5_000_000_000));
        }
    }

    #[test]
    fn all_excess_is_counted_and_each_limit_told_once_an_instance() {
        let refused = Refused::default();
        let limits = Limits::of(&Settings::default(), PluginRole::Collector, TICK);
        let mut excess = Excess::new(refused.clone(), &limits);
        assert_eq!(excess.hits(), []);
        for _ in 0..2 {
            excess.refuse("series", |counts| counts.series += 3, || "too many".to_owned());
            refused.add(|counts| counts.log_lines += 1);
        }
        let told: Vec<_> = excess.hits().into_iter().map(|hit| hit.limit).collect();
        assert_eq!(told, ["series", "log_lines"]);
        assert_eq!(excess.hits(), []);
        let all = RefusedCounts { series: 6, log_lines: 2, ..RefusedCounts::default() };
        assert_eq!(refused.counts(), all);
        let mut next = Excess::new(refused, &limits);
        assert_eq!(next.hits(), [], "what an earlier instance did is not told again");
    }
}
