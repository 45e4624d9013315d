//! Who is in a room: a state channel, so that a client that was slow is told
//! who is there, and not who came and went.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::sync::Arc;

use serde_json::json;

use super::encode::{to_json, write_list};
use crate::channel::{Feed, StateEncoder, SubId};
use crate::model::{PluginName, Room};

/// The users in a room.
pub(super) struct Presence {
    room: Room,
    /// Who was there at the last push.
    told: BTreeSet<Arc<str>>,
}

/// `[{"user":…,"connections":…},…]`: all users who are in a room.
pub(in super::super) fn users(feed: &Feed, room: &Room) -> serde_json::Value {
    let present = feed.present.get(room);
    let users = present.into_iter().flatten();
    users.map(|(user, connections)| json!({"user": user, "connections": connections})).collect()
}

impl Presence {
    pub(super) fn new(room: Room) -> Self {
        Self { room, told: BTreeSet::new() }
    }

    fn channel(&self) -> String {
        to_json(&format!("presence:{}", self.room))
    }
}

impl StateEncoder for Presence {
    fn push(&mut self, feed: &mut Feed, sub: SubId, text: &mut String) -> bool {
        let present = feed.present.get(&self.room);
        let is_there = |user: &Arc<str>| present.is_some_and(|present| present.contains_key(user));
        let users = present.into_iter().flat_map(|present| present.keys());
        let join: Vec<Arc<str>> =
            users.filter(|user| !self.told.contains(*user)).cloned().collect();
        let leave: Vec<Arc<str>> =
            self.told.iter().filter(|user| !is_there(user)).cloned().collect();
        if join.is_empty() && leave.is_empty() {
            return false;
        }
        // Writing to a string can't fail.
        let _ = write!(text, "{{\"push\":{},\"sub\":{}", self.channel(), sub.0);
        write_list(text, "join", &join);
        write_list(text, "leave", &leave);
        text.push('}');
        for user in leave {
            self.told.remove(&user);
        }
        self.told.extend(join);
        true
    }

    fn state(&mut self, feed: &mut Feed, sub: SubId, text: &mut String) {
        let users = users(feed, &self.room);
        let _ = write!(text, "{{\"channel\":{},\"sub\":{},", self.channel(), sub.0);
        let _ = write!(text, "\"users\":{users}}}");
    }

    fn full(
        &mut self,
        feed: &mut Feed,
        sub: SubId,
        before: &mut String,
        after: &mut String,
    ) -> bool {
        let channel = self.channel();
        let _ = write!(before, "{{\"push\":{channel},\"sub\":{},\"full\":true,\"skipped\":", sub.0);
        let _ = write!(after, ",\"users\":{}}}", users(feed, &self.room));
        true
    }

    fn room(&self) -> Option<&Room> {
        Some(&self.room)
    }

    fn watches(&self, _: &Feed, _: &mut dyn FnMut(&PluginName)) {}
}
