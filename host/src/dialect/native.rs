//! telltale's own protocol, at `/v1/stream`: JSON text, one message each.
//! `docs/protocol.md` has an example of every message.

mod command;
mod documents;
mod encode;
mod filter;
mod log;
mod metrics;
mod subscribe;

use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use serde_json::value::RawValue;

use crate::channel::{SESSION_SUBSCRIPTIONS_MAX, SUBSCRIPTIONS_MAX, SubId};
use crate::clock::Clock;
use crate::gate::CloseReason;
use crate::session::{Act, Dialect, HubFacts, Received};
use crate::store::{History, StoreError};

use super::MESSAGE_BYTES_MAX;
use command::{Command, Connect, HistoryCommand, OneOf};
use subscribe::{SubscribeCommand, Wish};

pub use command::{POINTS_DEFAULT, Refusal, instant};
pub use encode::{history, series_list};

#[cfg(test)]
mod tests;

/// The WebSocket subprotocol, for those who ask for it.
pub const SUBPROTOCOL: &str = "telltale.v1.json";

/// Why a client is closed that sends binary messages.
const NOT_TEXT: CloseReason = CloseReason { code: 1003, words: "send text, not binary" };

/// One client's state: there is none.
pub struct Native {
    clock: Clock,
    hub: Arc<HubFacts>,
}

impl Native {
    /// A client that has just connected.
    #[must_use]
    pub fn new(clock: Clock, hub: Arc<HubFacts>) -> Self {
        Self { clock, hub }
    }

    fn obey(&self, id: &RawValue, command: Command) -> Result<Act, Refusal> {
        match command {
            Command::Connect(connect) => self.connect(id, &connect),
            Command::Ping(_) => Ok(ok(id, &json!({}))),
            Command::Subscribe(subscribe) => self.subscribe(id, subscribe),
            Command::Unsubscribe(one) => Ok(Self::unsubscribe(id, &one)),
            Command::Snapshot(one) => Ok(Self::snapshot(id, &one)),
            Command::History(query) => self.history(id, &query),
        }
    }

    fn connect(&self, id: &RawValue, connect: &Connect) -> Result<Act, Refusal> {
        let admin = match &connect.token {
            None => false,
            Some(token) if self.hub.is_admin(token) => true,
            Some(_) => return Err(Refusal::new("unauthorized", "the token is not valid here")),
        };
        Ok(ok(
            id,
            &json!({
                "hub": self.hub.name,
                "version": self.hub.version,
                "epoch": self.hub.epoch,
                "tick_ms": millis(self.hub.tick),
                "ping_ms": millis(self.hub.heartbeat),
                "message_bytes_max": MESSAGE_BYTES_MAX,
                "admin": admin,
            }),
        ))
    }

    fn subscribe(&self, id: &RawValue, subscribe: SubscribeCommand) -> Result<Act, Refusal> {
        let Wish { key, lane, resume } = subscribe.wish(self.hub.tick)?;
        let refusal = Refusal {
            temporary: true,
            retry_after_ms: Some(10_000),
            ..Refusal::new(
                "too_many",
                format!(
                    "too many subscriptions: a client may have {SESSION_SUBSCRIPTIONS_MAX}, and \
                     the hub {SUBSCRIPTIONS_MAX} different ones; end one, or ask for what others \
                     have"
                ),
            )
        };
        let (reply, refusal) = (Some(around(id)), refusal.answer(id));
        Ok(Act::Subscribe { only: false, key, lane, resume, reply, refusal })
    }

    fn unsubscribe(id: &RawValue, one: &OneOf) -> Act {
        let sub = SubId(one.sub);
        let reply = json!({"id": id, "ok": {"sub": sub}}).to_string();
        Act::Unsubscribe { sub, reply, refusal: not_subscribed(id, one) }
    }

    fn snapshot(id: &RawValue, one: &OneOf) -> Act {
        let (sub, refusal) = (SubId(one.sub), not_subscribed(id, one));
        Act::Snapshot { sub, reply: around(id), refusal }
    }

    fn history(&self, id: &RawValue, wanted: &HistoryCommand) -> Result<Act, Refusal> {
        let query = wanted.query(self.clock.now_ms())?;
        let (id, series) = (id.to_owned(), query.series);
        let answer = move |found: Result<History, StoreError>| match found {
            Ok(found) => json!({"id": id, "ok": history(series, &found)}).to_string(),
            Err(error) => Refusal::from(error).answer(&id),
        };
        Ok(Act::History { query, answer: Box::new(answer) })
    }
}

impl Dialect for Native {
    fn open(&mut self) -> Vec<Act> {
        Vec::new()
    }

    fn receive(&mut self, message: Received<'_>) -> Vec<Act> {
        let text = match message {
            Received::Text(text) => text,
            Received::Binary(_) => return vec![Act::Close(NOT_TEXT)],
        };
        let act = match command::parse(text) {
            Ok((id, command)) => self.obey(&id, command).map_err(|refusal| refusal.answer(&id)),
            Err((id, refusal)) => Err(refusal.answer(&id)),
        };
        vec![act.unwrap_or_else(Act::Send)]
    }

    fn patience(&self) -> Option<Duration> {
        None
    }

    fn waited(&mut self) -> Vec<Act> {
        Vec::new()
    }

    fn bye(&mut self, reconnect_after: Duration) -> (Option<String>, CloseReason) {
        let bye = json!({"push": "bye", "reconnect_after_ms": millis(reconnect_after)});
        (Some(bye.to_string()), CloseReason { code: 3001, words: "the hub is stopping" })
    }
}

impl Refusal {
    /// The reply to the command with this id.
    #[must_use]
    pub fn answer(&self, id: &RawValue) -> String {
        json!({"id": id, "error": self}).to_string()
    }
}

fn ok(id: &RawValue, body: &serde_json::Value) -> Act {
    Act::Send(json!({"id": id, "ok": body}).to_string())
}

/// What stands before and after the body of a good reply.
fn around(id: &RawValue) -> (String, String) {
    (format!("{{\"id\":{id},\"ok\":"), "}".to_owned())
}

fn not_subscribed(id: &RawValue, one: &OneOf) -> String {
    let words = format!("this connection has no subscription {}", one.sub);
    Refusal::new("not_subscribed", words).answer(id)
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
