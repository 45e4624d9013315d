//! What has happened, and so what each client has to hear of it.

use std::collections::BTreeSet;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use serde_json::{Value, json};
use telltale::model::{Entry, Finding, FindingState, LogChannel, SeriesId};

use super::RESUME_MAX;

/// What a client wants of a channel.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Filter {
    pub(super) plugin: Option<String>,
    /// The beginning of a name.
    pub(super) name: Option<String>,
    /// The value of the label `k`.
    pub(super) label: Option<String>,
}

impl Filter {
    pub(super) fn json(&self) -> Value {
        let mut filter = json!({});
        if let Some(plugin) = &self.plugin {
            filter["plugin"] = json!(plugin);
        }
        if let Some(name) = &self.name {
            filter["name"] = json!(format!("{name}*"));
        }
        if let Some(label) = &self.label {
            filter["labels"] = json!({"k": label});
        }
        filter
    }
}

/// An entry, as a client has to see it.
#[derive(Clone, Debug)]
struct Said {
    channel: LogChannel,
    plugin: String,
    name: String,
    label: String,
    finding: Option<(String, FindingState)>,
    bytes: usize,
}

impl Said {
    fn is_wanted(&self, channel: LogChannel, filter: &Filter) -> bool {
        self.channel == channel
            && filter.plugin.as_ref().is_none_or(|plugin| *plugin == self.plugin)
            && filter.name.as_ref().is_none_or(|name| self.name.starts_with(name))
            && filter.label.as_ref().is_none_or(|label| *label == self.label)
    }
}

/// All entries of a run, in their order: the offset of the first is 1, and none
/// is left out.
#[derive(Debug, Default)]
pub(super) struct World {
    said: Mutex<Vec<Said>>,
    /// Entries up to here may be gone.
    pruned: AtomicU64,
    /// The last offset before each start of the hub.
    starts: Mutex<Vec<u64>>,
}

/// What is to be logged.
#[derive(Clone, Debug)]
pub(super) struct Sentence {
    pub(super) channel: LogChannel,
    pub(super) plugin: String,
    pub(super) name: String,
    pub(super) label: String,
    /// Closes this finding; else a finding is a new one.
    pub(super) closes: Option<String>,
    pub(super) padding: usize,
}

impl World {
    /// Takes note of what is about to be logged.
    pub(super) fn say(&self, sentence: Sentence) -> Entry {
        let Sentence { channel, plugin, name, label, closes, padding } = sentence;
        let mut said = self.said.lock().unwrap();
        let n = said.len() + 1;
        let words = "x".repeat(padding);
        let (finding, body) = match channel {
            LogChannel::Events | LogChannel::Shadow => unreachable!("not of this world"),
            LogChannel::Hub => {
                (None, json!({"event": "failed", "plugin": plugin, "n": n, "reason": words}))
            }
            LogChannel::Findings => {
                let state = if closes.is_some() { FindingState::Close } else { FindingState::Open };
                let id = closes.unwrap_or_else(|| format!("f{n}"));
                let mut body = finding(&id, state, &plugin, &name, &label, words);
                body["n"] = json!(n);
                (Some((id, state)), body)
            }
        };
        let entry = Entry::new(channel, 1_770_724_800_000 + n as u64, &body).unwrap();
        let bytes = entry.body.get().len();
        said.push(Said { channel, plugin, name, label, finding, bytes });
        entry
    }

    pub(super) fn head(&self) -> u64 {
        self.said.lock().unwrap().len() as u64
    }

    /// The hub starts, with so many entries in its log.
    pub(super) fn starts(&self) {
        self.starts.lock().unwrap().push(self.head());
    }

    /// Entries up to here are about to be deleted.
    pub(super) fn prune(&self, through: u64) {
        self.pruned.fetch_max(through, Ordering::SeqCst);
    }

    /// The first of these entries after an offset.
    pub(super) fn next(&self, channel: LogChannel, filter: &Filter, after: u64) -> Option<u64> {
        let said = self.said.lock().unwrap();
        let rest = said.iter().enumerate().skip(usize::try_from(after).unwrap());
        let mut wanted = rest.filter(|(_, said)| said.is_wanted(channel, filter));
        wanted.next().map(|(at, _)| at as u64 + 1)
    }

    /// These entries, after one offset and up to another.
    pub(super) fn between(
        &self,
        channel: LogChannel,
        filter: &Filter,
        after: u64,
        through: u64,
    ) -> Vec<u64> {
        let said = self.said.lock().unwrap();
        let offsets = (after + 1..=through).filter(|offset| {
            said[usize::try_from(*offset).unwrap() - 1].is_wanted(channel, filter)
        });
        offsets.collect()
    }

    /// What a finding's entry says of it.
    pub(super) fn finding(&self, offset: u64) -> Option<(String, FindingState)> {
        self.said.lock().unwrap()[usize::try_from(offset).unwrap() - 1].finding.clone()
    }

    /// The findings that a hub may show as open that has come to `offset`:
    /// those of this run of it. Where one run has ended and another begun, it
    /// may be either.
    pub(super) fn open(&self, filter: &Filter, offset: u64) -> [BTreeSet<String>; 2] {
        let starts = self.starts.lock().unwrap().clone();
        let begun = starts.iter().copied().filter(|start| *start <= offset).max().unwrap_or(0);
        let ended = starts.iter().copied().filter(|start| *start < offset).max().unwrap_or(0);
        [begun, ended].map(|start| self.open_since(filter, start, offset))
    }

    fn open_since(&self, filter: &Filter, start: u64, offset: u64) -> BTreeSet<String> {
        let mut open = BTreeSet::new();
        for at in self.between(LogChannel::Findings, filter, start, offset) {
            match self.finding(at) {
                Some((id, FindingState::Open)) => open.insert(id),
                Some((id, FindingState::Close)) => open.remove(&id),
                None => false,
            };
        }
        open
    }

    /// Whether a hub whose log reaches to `head` may say that it can't tell
    /// what came after an offset.
    pub(super) fn may_be_lost(&self, channel: LogChannel, after: u64, head: u64) -> bool {
        if after > head || self.pruned.load(Ordering::SeqCst) > after {
            return true;
        }
        let said = self.said.lock().unwrap();
        let missed = said[usize::try_from(after).unwrap()..].iter();
        let missed = missed.filter(|said| said.channel == channel);
        let (entries, bytes) = missed.fold((0, 0), |(n, all), said| (n + 1, all + said.bytes));
        entries > RESUME_MAX.0 || bytes > RESUME_MAX.1
    }
}

fn finding(
    id: &str,
    state: FindingState,
    plugin: &str,
    name: &str,
    label: &str,
    note: String,
) -> Value {
    serde_json::to_value(Finding {
        id: id.to_owned(),
        state,
        detector: "model".to_owned(),
        series: SeriesId(1),
        plugin: plugin.to_owned(),
        name: name.to_owned(),
        labels: [("k".to_owned(), label.to_owned())].into(),
        finding_type: "spike".to_owned(),
        score: 0.5,
        peak: 0.5,
        deviation: None,
        value: Some(1.0),
        expected: None,
        lower: None,
        upper: None,
        note: Some(note),
        started: "2026-02-10T12:00:00.000Z".to_owned(),
        ended: None,
        reason: None,
        version: String::new(),
        shadow: false,
    })
    .unwrap()
}
