//! Findings that wait to be told, in groups. No I/O, and no clock.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use serde_json::value::RawValue;
use tokio::time::Instant;

use crate::access::Globs;
use crate::model::{Finding, FindingState, Logged};
use crate::store::Place;

/// Groups that may wait or be remembered at once. Of more the log keeps what
/// comes.
const GROUPS_MAX: usize = 1024;
/// Findings that may wait at once, those that are only counted not among them:
/// some 2 MB. Of more the log keeps what comes.
const FINDINGS_MAX: usize = 2000;
/// Bytes of findings in one delivery; of more the weakest are only counted.
const BYTES_MAX: usize = 512 * 1024;
/// The minute of `per_minute`.
const MINUTE: Duration = Duration::from_secs(60);

/// Which findings a receiver is told of, and when.
#[derive(Debug)]
pub(super) struct Rules {
    pub(super) detectors: Globs,
    pub(super) series: Globs,
    pub(super) score: f64,
    pub(super) closed: bool,
    pub(super) group_by: Vec<String>,
    pub(super) wait: Duration,
    pub(super) interval: Duration,
    pub(super) findings_max: usize,
}

/// A part of the log that was deleted before its findings could be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
pub(super) struct Gap {
    /// What came after this offset is missing …
    pub(super) after: u64,
    /// … up to this one.
    pub(super) through: u64,
}

/// What waits for a receiver.
#[derive(Debug)]
pub(super) struct Groups {
    rules: Rules,
    groups: BTreeMap<String, Group>,
    /// How far each of these groups has been told, where that is further than
    /// what all have been.
    ahead: BTreeMap<String, u64>,
    /// All findings up to here have been read.
    read: u64,
    /// What was missing on the way, until it has been told.
    gap: Option<Gap>,
}

/// Findings that have something in common. Without findings it is remembered for
/// when it was told last.
#[derive(Debug)]
struct Group {
    common: BTreeMap<String, String>,
    waiting: Option<Waiting>,
    /// Nothing more is told of it before this.
    quiet_until: Instant,
}

/// What a group waits with.
#[derive(Debug)]
struct Waiting {
    due: Instant,
    first: u64,
    last: u64,
    opened: u64,
    closed: u64,
    left_out: u64,
    bytes: usize,
    findings: Vec<Told>,
}

/// A finding as it is told.
#[derive(Debug)]
pub(super) struct Told {
    pub(super) offset: u64,
    score: f64,
    pub(super) body: Box<RawValue>,
}

/// What goes into a delivery.
#[derive(Debug)]
pub(super) struct Batch {
    /// What all its findings have in common, of what they are grouped by.
    pub(super) common: BTreeMap<String, String>,
    /// How many groups it is of.
    pub(super) groups: usize,
    /// The offset of its first finding.
    pub(super) first: u64,
    /// The offset of its last one.
    pub(super) last: u64,
    /// How many findings began, those that are left out included.
    pub(super) opened: u64,
    /// How many have ended, likewise.
    pub(super) closed: u64,
    /// How many are only counted.
    pub(super) left_out: u64,
    /// What was missing in the log before them.
    pub(super) gap: Option<Gap>,
    /// The findings, in the order of the log.
    pub(super) findings: Vec<Told>,
}

impl Groups {
    /// Nothing waits, and the receiver has been told as far as `place`.
    pub(super) fn new(rules: Rules, place: Place) -> Self {
        let Place { offset, ahead } = place;
        Self { rules, groups: BTreeMap::new(), ahead, read: offset, gap: None }
    }

    /// All findings up to here have been read.
    pub(super) fn read(&self) -> u64 {
        self.read
    }

    /// Everything up to here has been read.
    pub(super) fn has_read(&mut self, through: u64) {
        self.read = self.read.max(through);
    }

    /// What comes after what was read is gone, up to `through`.
    pub(super) fn has_missed(&mut self, through: u64) {
        let after = self.gap.map_or(self.read, |gap| gap.after);
        self.gap = Some(Gap { after, through });
        self.read = through;
    }

    /// Whether something is missing that has not been told yet.
    pub(super) fn has_gap(&self) -> bool {
        self.gap.is_some()
    }

    /// Whether no more is to be read before something was taken.
    pub(super) fn is_full(&self) -> bool {
        let waiting = || self.groups.values().filter_map(|group| group.waiting.as_ref());
        self.ahead.len() >= GROUPS_MAX
            || waiting().count() >= GROUPS_MAX
            || waiting().map(|waiting| waiting.findings.len()).sum::<usize>() >= FINDINGS_MAX
    }

    /// How many findings wait, those that are only counted included.
    pub(super) fn waiting(&self) -> u64 {
        let waiting = self.groups.values().filter_map(|group| group.waiting.as_ref());
        waiting.map(|waiting| waiting.opened + waiting.closed).sum()
    }

    /// Takes a finding of the log, unless it is none that is told or has been
    /// told already. `age` is how long ago it happened.
    pub(super) fn add(&mut self, logged: &Logged, now: Instant, age: Duration) {
        self.read = self.read.max(logged.offset);
        let body = &logged.entry.body;
        let finding: Finding = match serde_json::from_str(body.get()) {
            Ok(finding) => finding,
            Err(error) => {
                tracing::warn!(offset = logged.offset, %error, "a finding can't be read");
                return;
            }
        };
        let rules = &self.rules;
        let is_told = rules.detectors.matches(&finding.detector)
            && rules.series.matches(&finding.name)
            && finding.score >= rules.score
            && (rules.closed || finding.state == FindingState::Open);
        let common = common(&rules.group_by, &finding);
        let key = serde_json::json!(common).to_string();
        if !is_told || self.ahead.get(&key).is_some_and(|told| logged.offset <= *told) {
            return;
        }
        if self.groups.len() >= GROUPS_MAX {
            self.groups.retain(|_, group| group.waiting.is_some());
        }
        let (wait, findings_max) = (rules.wait, rules.findings_max);
        let group = self.groups.entry(key).or_insert_with(|| Group {
            common,
            waiting: None,
            quiet_until: now,
        });
        let due = (now + wait.saturating_sub(age)).max(group.quiet_until);
        let waiting = group.waiting.get_or_insert_with(|| Waiting::new(logged.offset, due));
        let told = Told { offset: logged.offset, score: finding.score, body: body.clone() };
        waiting.add(told, finding.state, findings_max);
    }

    /// When the next group is to be told.
    pub(super) fn due(&self) -> Option<Instant> {
        self.groups.values().filter_map(|group| Some(group.waiting.as_ref()?.due)).min()
    }

    /// Takes the group that is due first; with `together` all that are. Answers
    /// how far its receiver has been told with them.
    pub(super) fn take(&mut self, now: Instant, together: bool) -> Option<(Batch, Place)> {
        let ready = self.groups.iter().filter_map(|(key, group)| {
            let waiting = group.waiting.as_ref().filter(|waiting| waiting.due <= now)?;
            Some((waiting.due, waiting.first, key.clone()))
        });
        let mut ready: Vec<_> = ready.collect();
        ready.sort_unstable();
        ready.truncate(if together { ready.len() } else { 1 });
        let mut batch: Option<Batch> = None;
        for (_, _, key) in ready {
            let Some(group) = self.groups.get_mut(&key) else { continue };
            let Some(waiting) = group.waiting.take() else { continue };
            group.quiet_until = now + self.rules.interval;
            self.ahead.insert(key, waiting.last);
            let common = group.common.clone();
            match &mut batch {
                None => batch = Some(Batch::new(common, waiting)),
                Some(batch) => batch.join(&common, waiting, self.rules.findings_max),
            }
        }
        let mut batch = batch?;
        batch.gap = self.gap.take();
        batch.findings.sort_unstable_by_key(|told| told.offset);
        self.groups.retain(|_, group| group.waiting.is_some() || group.quiet_until > now);
        Some((batch, self.place()))
    }

    /// How far the receiver has been told.
    pub(super) fn place(&mut self) -> Place {
        let waiting = self.groups.values().filter_map(|group| group.waiting.as_ref());
        let first = waiting.map(|waiting| waiting.first).min();
        let offset = first.map_or(self.read, |first| first - 1);
        self.ahead.retain(|_, told| *told > offset);
        Place { offset, ahead: self.ahead.clone() }
    }
}

/// What a finding is grouped by, with its values.
fn common(group_by: &[String], finding: &Finding) -> BTreeMap<String, String> {
    let value = |word: &String| match &**word {
        "detector" => finding.detector.clone(),
        "plugin" => finding.plugin.clone(),
        "name" => finding.name.clone(),
        "type" => finding.finding_type.clone(),
        "series" => finding.series.to_string(),
        label => {
            let key = label.strip_prefix("label.").unwrap_or(label);
            finding.labels.get(key).cloned().unwrap_or_default()
        }
    };
    group_by.iter().map(|word| (word.clone(), value(word))).collect()
}

impl Waiting {
    fn new(first: u64, due: Instant) -> Self {
        Self {
            due,
            first,
            last: first,
            opened: 0,
            closed: 0,
            left_out: 0,
            bytes: 0,
            findings: Vec::new(),
        }
    }

    fn add(&mut self, told: Told, state: FindingState, findings_max: usize) {
        self.last = told.offset;
        match state {
            FindingState::Open => self.opened += 1,
            FindingState::Close => self.closed += 1,
        }
        self.bytes += told.body.get().len();
        self.findings.push(told);
        self.trim(findings_max);
    }

    /// Of too many the weakest are only counted; of those that are as weak the
    /// newest.
    fn trim(&mut self, findings_max: usize) {
        let weaker = |a: &Told, b: &Told| a.score.total_cmp(&b.score);
        let is_over = |it: &Self| it.findings.len() > findings_max || it.bytes > BYTES_MAX;
        while self.findings.len() > 1 && is_over(self) {
            let weakest = self.findings.iter().enumerate().rev().min_by(|a, b| weaker(a.1, b.1));
            let Some(at) = weakest.map(|(at, _)| at) else { return };
            let told = self.findings.remove(at);
            self.bytes -= told.body.get().len();
            self.left_out += 1;
        }
    }
}

impl Batch {
    fn new(common: BTreeMap<String, String>, waiting: Waiting) -> Self {
        let Waiting { first, last, opened, closed, left_out, findings, .. } = waiting;
        Self { common, groups: 1, first, last, opened, closed, left_out, gap: None, findings }
    }

    /// Puts another group in.
    fn join(&mut self, common: &BTreeMap<String, String>, other: Waiting, findings_max: usize) {
        self.common.retain(|key, value| common.get(key) == Some(value));
        let bytes: usize = self.findings.iter().map(|told| told.body.get().len()).sum();
        let mut all = Waiting {
            due: other.due,
            first: self.first.min(other.first),
            last: self.last.max(other.last),
            opened: self.opened + other.opened,
            closed: self.closed + other.closed,
            left_out: self.left_out + other.left_out,
            bytes: bytes + other.bytes,
            findings: std::mem::take(&mut self.findings),
        };
        all.findings.extend(other.findings);
        all.trim(findings_max);
        let (common, groups) = (std::mem::take(&mut self.common), self.groups + 1);
        *self = Self { groups, ..Self::new(common, all) };
    }

    /// `open` if something began, `close` if all that it tells has ended.
    pub(super) fn state(&self) -> FindingState {
        if self.opened > 0 { FindingState::Open } else { FindingState::Close }
    }
}

/// At most so many deliveries in any minute.
#[derive(Debug)]
pub(super) struct Pace {
    per_minute: usize,
    begun: VecDeque<Instant>,
}

impl Pace {
    pub(super) fn new(per_minute: usize) -> Self {
        Self { per_minute, begun: VecDeque::with_capacity(per_minute) }
    }

    /// When the next delivery may begin.
    pub(super) fn ready(&self, now: Instant) -> Instant {
        match self.begun.front() {
            Some(oldest) if self.begun.len() >= self.per_minute => now.max(*oldest + MINUTE),
            _ => now,
        }
    }

    /// One begins.
    pub(super) fn begin(&mut self, now: Instant) {
        if self.begun.len() >= self.per_minute {
            self.begun.pop_front();
        }
        self.begun.push_back(now);
    }
}
