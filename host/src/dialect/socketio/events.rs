//! How the events of a room are written: as the packets that its clients have
//! handlers for.

use std::fmt::Write as _;

use serde::Deserialize;
use serde_json::value::RawValue;

use super::command::Types;
use super::packet::{Kind, SEPARATOR, head};
use super::{Namespace, error_event};
use crate::channel::{Feed, LogEncoder, SubId};
use crate::clock::rfc3339;
use crate::model::{Logged, Room, Topic};

/// The events of one room, in one namespace.
pub(super) struct RoomEvents {
    namespace: Namespace,
    room: Room,
    topic: Topic,
    types: Types,
    /// What every packet begins with.
    head: String,
}

/// An event as it was logged.
#[derive(Deserialize)]
struct Body<'a> {
    #[serde(borrow)]
    id: &'a RawValue,
    #[serde(borrow, rename = "type")]
    kind: &'a RawValue,
    #[serde(borrow)]
    source: &'a RawValue,
    #[serde(borrow)]
    data: &'a RawValue,
}

impl RoomEvents {
    pub(super) fn new(namespace: Namespace, room: Room, types: Types) -> Self {
        let head = head(Kind::Event, namespace.name(), None);
        let topic = Topic::Room(room.clone());
        Self { namespace, room, topic, types, head }
    }

    /// The same for all who are told the same.
    pub(super) fn key(&self) -> String {
        let Self { namespace, room, types, .. } = self;
        format!("socketio {} room:{room} {}", namespace.name(), types.key())
    }

    /// What a client is told of its subscription: the argument of the answer,
    /// and the end of it.
    fn write_standing(&self, feed: &Feed, recovered: bool, text: &mut String) {
        let standing = serde_json::json!({
            "status": "success",
            "room": self.room,
            "recovered": recovered,
            "epoch": feed.epoch,
            "offset": feed.head,
        });
        let _ = write!(text, "{standing}]");
    }

    fn write(&self, logged: &Logged, text: &mut String) {
        // What is logged as an event has all of it.
        let Ok(body) = serde_json::from_str::<Body<'_>>(logged.entry.body.get()) else { return };
        let Body { id, kind, source, data } = body;
        let _ = write!(
            text,
            "{}[{kind},{{\"type\":{kind},\"timestamp\":\"{}\",\"source\":{source},\"data\":{data},\
             \"id\":{id},\"offset\":{}}}]",
            self.head,
            rfc3339(logged.entry.time_ms.saturating_mul(1_000_000)),
            logged.offset
        );
    }
}

impl LogEncoder for RoomEvents {
    fn topic(&self) -> &Topic {
        &self.topic
    }

    fn wants(&self, logged: &Logged) -> bool {
        self.types.want(&logged.subject().kind)
    }

    fn fresh(&self, feed: &Feed, _: SubId, text: &mut String) {
        self.write_standing(feed, false, text);
    }

    /// The answer, and then what was missed, as if it came now.
    fn resumed(&self, feed: &Feed, _: SubId, missed: &[(u64, &Logged)], text: &mut String) {
        self.write_standing(feed, true, text);
        for (_, logged) in missed {
            text.push(SEPARATOR);
            self.write(logged, text);
        }
    }

    fn push(&self, _: &Feed, _: SubId, _: u64, logged: &Logged, text: &mut String) {
        self.write(logged, text);
    }

    /// What follows says all by itself; what does not follow has to be told.
    fn gap(&self, feed: &Feed, _: SubId, from: u64, to: u64, lost: bool, text: &mut String) {
        if !lost {
            return;
        }
        let data = serde_json::json!({
            "code": "EVENTS_LOST",
            "message": "events of this room were not taken in time, and are kept no more",
            "room": self.room,
            "from": from,
            "to": to,
            "epoch": feed.epoch,
            "offset": feed.head,
        });
        text.push_str(&error_event(self.namespace, feed.clock.now_ns(), &data));
    }
}
