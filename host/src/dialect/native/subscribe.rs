//! What a subscription to each channel may say.

use std::time::Duration;

use serde::Deserialize;

use super::command::{Refusal, cut};
use super::documents::Documents;
use super::filter::{Fields, Filter, FilterText};
use super::layouts::{Layouts, board};
use super::log::Entries;
use super::metrics::{Form, Metrics};
use super::presence::Presence;
use crate::access::{Globs, Identity};
use crate::channel::{Lane, MEMBERS, Position};
use crate::model::{EVENT_WORD_BYTES_MAX, LogChannel, Room};

/// The longest time between two pushes.
const RATE_MS_MAX: u64 = 3_600_000;

/// The command.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct SubscribeCommand {
    #[serde(default)]
    channel: String,
    /// A room; short for the channel `room:…`.
    room: Option<String>,
    /// The board of the channel `layouts`.
    board: Option<String>,
    /// Globs of the types of events that are wanted.
    types: Option<Vec<String>>,
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
const LAYOUTS: Terms = Terms { options: &["board"], filter: &[] };
const HUB: Terms = Terms { options: &["filter", "fields", "resume"], filter: &["plugin"] };

const ROOM: Terms = Terms { options: &["types", "fields", "resume"], filter: &[] };
const PRESENCE: Terms = Terms { options: &[], filter: &[] };
/// Globs of types in one subscription.
const TYPES_MAX: usize = 16;

impl SubscribeCommand {
    /// The room or the channel, for the operator.
    pub(super) fn about(&self) -> &str {
        cut(self.room.as_deref().unwrap_or(&self.channel))
    }

    /// What it asks for, in a hub whose ticks are so long.
    pub(super) fn wish(mut self, tick: Duration, who: &Identity) -> Result<Wish, Refusal> {
        if let Some(room) = self.room.take() {
            if !self.channel.is_empty() {
                return Err(Refusal::new("bad_request", "say `channel` or `room`, not both"));
            }
            self.channel = format!("room:{room}");
        }
        if self.channel.is_empty() {
            return Err(Refusal::new("bad_request", "`channel` is missing"));
        }
        if let Some(room) = self.channel.strip_prefix("room:") {
            let room = enter(room, who)?;
            return self.room(room);
        }
        if let Some(room) = self.channel.strip_prefix("presence:") {
            let room = enter(room, who)?;
            self.filter(&PRESENCE)?;
            let key = format!("native presence {room}");
            return Ok(Wish {
                key,
                lane: Lane::State(Box::new(Presence::new(room))),
                resume: None,
            });
        }
        match &*self.channel {
            "metrics" => self.metrics(tick, who),
            "documents" => {
                let filter = self.filter(&DOCUMENTS)?.read_by(who);
                let key = format!("native documents {}", filter.key());
                Ok(Wish { key, lane: Lane::State(Box::new(Documents::new(filter))), resume: None })
            }
            "layouts" => {
                self.filter(&LAYOUTS)?;
                let board = board(self.board.as_deref(), who)?;
                if !who.may_read_board(&board) {
                    return Err(denied());
                }
                let key = format!("native layouts {board}");
                Ok(Wish { key, lane: Lane::State(Box::new(Layouts::new(board))), resume: None })
            }
            "findings" => {
                let filter = self.filter(&FINDINGS)?.read_by(who);
                self.log(LogChannel::Findings, filter, &Entries::FINDING, &["id", "state"])
            }
            "shadow" => {
                let filter = self.filter(&FINDINGS)?.read_by(who);
                self.log(LogChannel::Shadow, filter, &Entries::FINDING, &["id", "state"])
            }
            "hub" if !who.reads_all() => Err(denied()),
            "hub" => {
                let filter = self.filter(&HUB)?;
                self.log(LogChannel::Hub, filter, &Entries::EVENT, &["event"])
            }
            other => {
                let words = format!(
                    "there is no channel {:?}: the channels are metrics, documents, findings, shadow, \
                     hub, layouts, room:<room> and presence:<room>",
                    cut(other)
                );
                Err(Refusal::new("unknown_channel", words))
            }
        }
    }

    fn metrics(self, tick: Duration, who: &Identity) -> Result<Wish, Refusal> {
        let filter = self.filter(&METRICS)?.read_by(who);
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
        filter: Filter,
        known: &'static [&'static str],
        always: &[&str],
    ) -> Result<Wish, Refusal> {
        let fields = self.fields(known, always)?;
        let key = format!("native {} {} fields {}", channel.as_str(), filter.key(), fields.key());
        let lane = Lane::Log(Box::new(Entries::new(channel, filter, fields)));
        let resume = self.resume.map(|Resume { epoch, offset }| Position { epoch, offset });
        Ok(Wish { key, lane, resume })
    }

    fn room(self, room: Room) -> Result<Wish, Refusal> {
        self.filter(&ROOM)?;
        let fields = self.fields(&Entries::ROOM, &["id", "type"])?;
        let types = self.types.as_deref().map(types).transpose()?;
        let named = types.as_ref().map(|types| types.texts().collect::<Vec<_>>());
        let key = format!("native room:{room} {named:?} fields {}", fields.key());
        let lane = Lane::Log(Box::new(Entries::of_room(room, types, fields)));
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
            ("types", self.types.is_some()),
            ("board", self.board.is_some()),
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

/// The room of that name, if it may be entered.
pub(super) fn enter(room: &str, who: &Identity) -> Result<Room, Refusal> {
    let room = Room::new(room).map_err(|broken| Refusal::new("bad_request", broken.to_string()))?;
    if who.may_enter(&room) {
        return Ok(room);
    }
    Err(denied())
}

/// The code of what a client may not have.
pub(super) const DENIED: &str = "denied";

/// What was asked for is there, and the client may not have it.
pub(super) fn denied() -> Refusal {
    Refusal::new(DENIED, "this token does not allow it")
}

/// Globs of types.
fn types(texts: &[String]) -> Result<Globs, Refusal> {
    if texts.len() > TYPES_MAX || texts.iter().any(|text| text.len() > EVENT_WORD_BYTES_MAX) {
        let words = format!(
            "`types` is a list of up to {TYPES_MAX} globs of up to {EVENT_WORD_BYTES_MAX} bytes"
        );
        return Err(Refusal::new("bad_request", words));
    }
    Globs::new(texts).map_err(|words| Refusal::new("bad_glob", words))
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
