//! The log channels: `findings`, `hub` and the rooms.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde_json::value::RawValue;

use super::encode::{to_json, write_all};
use super::filter::{Fields, Filter};
use crate::access::Globs;
use crate::channel::{Feed, LogEncoder, SubId};
use crate::clock::rfc3339;
use crate::model::{LogChannel, Logged, Room, Topic};

#[cfg(test)]
mod tests;

/// A log channel through one filter.
pub(super) struct Entries {
    topic: Topic,
    /// The channel's name on the wire, as JSON.
    channel: String,
    filter: Filter,
    /// The types of events that are wanted; all without it.
    types: Option<Globs>,
    fields: Fields,
}

impl Entries {
    /// The members of a finding, in their order.
    pub(super) const FINDING: [&str; 21] = [
        "id",
        "state",
        "detector",
        "series",
        "plugin",
        "name",
        "labels",
        "type",
        "score",
        "peak",
        "deviation",
        "value",
        "expected",
        "lower",
        "upper",
        "note",
        "started",
        "ended",
        "reason",
        "version",
        "shadow",
    ];
    /// Those of an entry of `hub`; each event has some of them.
    pub(super) const EVENT: [&str; 10] = [
        "event",
        "plugin",
        "handover",
        "handover_ms",
        "tick",
        "reason",
        "to",
        "restart_after_ms",
        "limit",
        "component",
    ];

    /// The members of an event.
    pub(super) const ROOM: [&str; 4] = ["id", "type", "source", "data"];

    pub(super) fn new(channel: LogChannel, filter: Filter, fields: Fields) -> Self {
        let topic = Topic::Channel(channel);
        Self { topic, channel: to_json(channel.as_str()), filter, types: None, fields }
    }

    /// The events of a room.
    pub(super) fn of_room(room: Room, types: Option<Globs>, fields: Fields) -> Self {
        let channel = to_json(&room_channel(&room));
        Self { topic: Topic::Room(room), channel, filter: Filter::default(), types, fields }
    }

    /// `"epoch":…,"offset":…`
    fn write_head(feed: &Feed, text: &mut String) {
        // Writing to a string can't fail.
        let _ = write!(text, "\"epoch\":{},\"offset\":{}", to_json(&feed.epoch), feed.head);
    }

    /// What stands now: `,"open":[…]` or `,"plugins":[…]`.
    fn write_standing(&self, feed: &Feed, text: &mut String) {
        match &self.topic {
            Topic::Channel(channel @ (LogChannel::Findings | LogChannel::Shadow)) => {
                text.push_str(",\"open\":");
                let in_shadow = *channel == LogChannel::Shadow;
                let open = if in_shadow { &feed.open_shadow } else { &feed.open };
                let open = open.values().filter(|logged| self.wants(logged));
                write_all(text, open, |text, logged| self.write_body(&logged.entry.body, text));
            }
            Topic::Channel(LogChannel::Hub) => {
                text.push_str(",\"plugins\":");
                let plugins = feed.statuses.list();
                let wanted = plugins.iter().filter(|p| self.filter.matches_name(&p.name, ""));
                write_all(text, wanted, |text, plugin| text.push_str(&to_json(plugin)));
            }
            // What has happened in a room stands no more.
            Topic::Channel(LogChannel::Events) | Topic::Room(_) => {}
        }
    }

    /// The members of an entry that are wanted.
    fn write_body(&self, body: &RawValue, text: &mut String) {
        if self.fields.is_all() {
            text.push_str(body.get());
            return;
        }
        // What was logged is an object.
        let members: BTreeMap<String, &RawValue> =
            serde_json::from_str(body.get()).unwrap_or_default();
        let wanted = self.fields.names().filter_map(|name| Some((name, members.get(name)?)));
        text.push('{');
        for (at, (name, value)) in wanted.enumerate() {
            let comma = if at == 0 { "" } else { "," };
            let _ = write!(text, "{comma}\"{name}\":{value}");
        }
        text.push('}');
    }

    /// `"offset":…,"prev":…,"time":…,"entry":{…}`
    fn write_entry(&self, prev: u64, logged: &Logged, text: &mut String) {
        let time = rfc3339(logged.entry.time_ms * 1_000_000);
        let _ = write!(
            text,
            "\"offset\":{},\"prev\":{prev},\"time\":\"{time}\",\"entry\":",
            logged.offset
        );
        self.write_body(&logged.entry.body, text);
    }
}

impl LogEncoder for Entries {
    fn topic(&self) -> &Topic {
        &self.topic
    }

    fn wants(&self, logged: &Logged) -> bool {
        match &self.types {
            Some(types) => types.matches(&logged.subject().kind),
            None => self.filter.is_any() || self.filter.matches_subject(logged.subject()),
        }
    }

    fn fresh(&self, feed: &Feed, sub: SubId, text: &mut String) {
        let channel = &self.channel;
        let _ = write!(text, "{{\"channel\":{channel},\"sub\":{},\"recovered\":false,", sub.0);
        Self::write_head(feed, text);
        text.push_str(",\"entries\":[]");
        self.write_standing(feed, text);
        text.push('}');
    }

    fn resumed(&self, feed: &Feed, sub: SubId, missed: &[(u64, &Logged)], text: &mut String) {
        let channel = &self.channel;
        let _ = write!(text, "{{\"channel\":{channel},\"sub\":{},\"recovered\":true,", sub.0);
        Self::write_head(feed, text);
        text.push_str(",\"entries\":");
        write_all(text, missed, |text, (prev, logged)| {
            text.push('{');
            self.write_entry(*prev, logged, text);
            text.push('}');
        });
        text.push('}');
    }

    fn push(&self, feed: &Feed, sub: SubId, prev: u64, logged: &Logged, text: &mut String) {
        let (channel, epoch) = (&self.channel, to_json(&feed.epoch));
        let _ = write!(text, "{{\"push\":{channel},\"sub\":{},\"epoch\":{epoch},", sub.0);
        self.write_entry(prev, logged, text);
        text.push('}');
    }

    fn gap(&self, feed: &Feed, sub: SubId, from: u64, to: u64, lost: bool, text: &mut String) {
        let _ = write!(
            text,
            "{{\"push\":\"gap\",\"channel\":{},\"sub\":{},\"from\":{from},\"to\":{to}",
            self.channel, sub.0
        );
        if lost {
            text.push_str(",\"recovered\":false,");
            Self::write_head(feed, text);
            self.write_standing(feed, text);
        }
        text.push('}');
    }

    fn excluded(
        &self,
        feed: &Feed,
        sub: SubId,
        prev: u64,
        logged: &Logged,
        text: &mut String,
    ) -> bool {
        let (channel, epoch) = (&self.channel, to_json(&feed.epoch));
        let _ = write!(
            text,
            "{{\"push\":{channel},\"sub\":{},\"epoch\":{epoch},\"offset\":{},\"prev\":{prev},\
             \"excluded\":true}}",
            sub.0, logged.offset
        );
        true
    }
}

/// A room as a channel.
pub(super) fn room_channel(room: &Room) -> String {
    format!("room:{room}")
}
