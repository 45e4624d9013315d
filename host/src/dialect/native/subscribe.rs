//! What a subscription to each channel may say.

use std::time::Duration;

use serde::Deserialize;

use super::command::{Refusal, cut};
use super::documents::Documents;
use super::filter::{Fields, Filter, FilterText};
use super::log::Entries;
use super::metrics::{Form, Metrics};
use crate::channel::{Lane, MEMBERS, Position};
use crate::model::LogChannel;

/// The longest time between two pushes.
const RATE_MS_MAX: u64 = 3_600_000;

/// The command.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct SubscribeCommand {
    channel: String,
    filter: Option<FilterText>,
    fields: Option<Vec<String>>,
    form: Option<Form>,
    max_rate_ms: Option<u64>,
    resume: Option<Resume>,
}

/// Where a client stopped.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Resume {
    epoch: String,
    offset: u64,
}

/// What a client is to have.
pub(super) struct Wish {
    /// The same for those who want the same.
    pub(super) key: String,
    pub(super) lane: Lane,
    pub(super) resume: Option<Position>,
}

/// What may be said of a subscription to a channel, beside its name.
struct Terms {
    options: &'static [&'static str],
    filter: &'static [&'static str],
}

const METRICS: Terms = Terms {
    options: &["filter", "fields", "form", "max_rate_ms"],
    filter: &["plugin", "name", "labels"],
};
const DOCUMENTS: Terms = Terms { options: &["filter"], filter: &["plugin", "name"] };
const FINDINGS: Terms =
    Terms { options: &["filter", "fields", "resume"], filter: &["plugin", "name", "labels"] };
const HUB: Terms = Terms { options: &["filter", "fields", "resume"], filter: &["plugin"] };

impl SubscribeCommand {
    /// What it asks for, in a hub whose ticks are so long.
    pub(super) fn wish(self, tick: Duration) -> Result<Wish, Refusal> {
        match &*self.channel {
            "metrics" => self.metrics(tick),
            "documents" => {
                let filter = self.filter(&DOCUMENTS)?;
                let key = format!("native documents {}", filter.key());
                Ok(Wish { key, lane: Lane::State(Box::new(Documents::new(filter))), resume: None })
            }
            "findings" => {
                self.log(LogChannel::Findings, &FINDINGS, &Entries::FINDING, &["id", "state"])
            }
            "hub" => self.log(LogChannel::Hub, &HUB, &Entries::EVENT, &["event"]),
            other => {
                let words = format!(
                    "there is no channel {:?}: the channels are metrics, documents, findings and \
                     hub",
                    cut(other)
                );
                Err(Refusal::new("unknown_channel", words))
            }
        }
    }

    fn metrics(self, tick: Duration) -> Result<Wish, Refusal> {
        let filter = self.filter(&METRICS)?;
        let fields = self.fields(&MEMBERS, &["id", "value", "stale"])?;
        let (form, every) = (self.form.unwrap_or_default(), self.every(tick)?);
        let key = format!(
            "native metrics {} {form:?} every {every} fields {}",
            filter.key(),
            fields.key()
        );
        let lane = Lane::State(Box::new(Metrics::new(filter, fields, form, every)));
        Ok(Wish { key, lane, resume: None })
    }

    fn log(
        self,
        channel: LogChannel,
        terms: &Terms,
        known: &'static [&'static str],
        always: &[&str],
    ) -> Result<Wish, Refusal> {
        let filter = self.filter(terms)?;
        let fields = self.fields(known, always)?;
        let key = format!("native {} {} fields {}", channel.as_str(), filter.key(), fields.key());
        let lane = Lane::Log(Box::new(Entries::new(channel, filter, fields)));
        let resume = self.resume.map(|Resume { epoch, offset }| Position { epoch, offset });
        Ok(Wish { key, lane, resume })
    }

    /// The filter, once it is clear that nothing is said which the channel
    /// doesn't know.
    fn filter(&self, terms: &Terms) -> Result<Filter, Refusal> {
        let said = [
            ("filter", self.filter.is_some()),
            ("fields", self.fields.is_some()),
            ("form", self.form.is_some()),
            ("max_rate_ms", self.max_rate_ms.is_some()),
            ("resume", self.resume.is_some()),
        ];
        let said = said.into_iter().filter(|(_, said)| *said).map(|(option, _)| option);
        check(&self.channel, said, terms.options)?;
        let text = self.filter.clone().unwrap_or_default();
        check(&format!("a filter on {}", self.channel), text.keys(), terms.filter)?;
        Filter::new(text)
    }

    fn fields(&self, known: &'static [&'static str], always: &[&str]) -> Result<Fields, Refusal> {
        match &self.fields {
            None => Ok(Fields::all(known)),
            Some(named) => Fields::new(known, always, named),
        }
    }

    /// How many ticks lie between two pushes.
    fn every(&self, tick: Duration) -> Result<u64, Refusal> {
        let rate_ms = self.max_rate_ms.unwrap_or(0);
        if rate_ms > RATE_MS_MAX {
            let words = format!(
                "max_rate_ms is {rate_ms}, and {RATE_MS_MAX} is the limit: for what is rarer, \
                 ask for a snapshot or for history"
            );
            return Err(Refusal::new("bad_request", words));
        }
        let rate_ns = u128::from(rate_ms) * 1_000_000;
        let ticks = rate_ns.div_ceil(tick.as_nanos().max(1)).max(1);
        Ok(u64::try_from(ticks).unwrap_or(u64::MAX))
    }
}

/// Refuses what is said but not taken.
fn check(
    whose: &str,
    said: impl Iterator<Item = &'static str>,
    taken: &[&str],
) -> Result<(), Refusal> {
    for word in said {
        if !taken.contains(&word) {
            let words = format!("{whose} takes no {word}: it takes {}", taken.join(", "));
            return Err(Refusal::new("bad_request", words));
        }
    }
    Ok(())
}
