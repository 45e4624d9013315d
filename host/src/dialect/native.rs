//! telltale's own protocol, at `/v1/stream`: JSON text, one message each.
//! `docs/protocol.md` has an example of every message.

mod command;
mod encode;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use hyper_tungstenite::tungstenite::Utf8Bytes;
use serde_json::json;
use serde_json::value::RawValue;

use crate::channel::{
    CloseReason, Lane, LogEncoder, SESSION_SUBSCRIPTIONS_MAX, SUBSCRIPTIONS_MAX, SubId,
};
use crate::clock::Clock;
use crate::model::LogChannel;
use crate::session::{Act, Dialect, Heartbeat, HubFacts};
use crate::store::{HistoryQuery, StoreError};

use command::{Command, Connect, HistoryCommand, SubscribeCommand, UnsubscribeCommand};
pub use command::{POINTS_DEFAULT, Refusal, instant};
pub use encode::{history, series_list};

#[cfg(test)]
mod tests;

/// The WebSocket subprotocol, for those who ask for it.
pub const SUBPROTOCOL: &str = "telltale.v1.json";

/// The longest message that is understood; a longer one is answered with an
/// error. All commands fit into it many times.
pub const MESSAGE_BYTES_MAX: usize = 64 * 1024;

/// How often the hub pings.
const PING_EVERY: Duration = Duration::from_secs(25);
/// When a client that was told to come back should do so.
const RECONNECT_AFTER_MS: u64 = 1000;

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
            Command::Subscribe(subscribe) => Self::subscribe(id, &subscribe),
            Command::Unsubscribe(unsubscribe) => Ok(Self::unsubscribe(id, &unsubscribe)),
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
                "ping_ms": millis(PING_EVERY),
                "message_bytes_max": MESSAGE_BYTES_MAX,
                "admin": admin,
            }),
        ))
    }

    fn subscribe(id: &RawValue, subscribe: &SubscribeCommand) -> Result<Act, Refusal> {
        let log = |channel, state| {
            let push = encode::entry;
            (channel, Lane::Log(LogEncoder { channel, state, push }))
        };
        let (key, lane) = match &*subscribe.channel {
            "metrics" => {
                let filter = subscribe.filter()?;
                let key = format!("native metrics {}", filter.key());
                (key, Lane::State(Box::new(encode::Metrics::new(filter))))
            }
            "documents" => {
                subscribe.refuse_filter()?;
                ("native documents".to_owned(), Lane::State(Box::<encode::Documents>::default()))
            }
            name @ ("findings" | "hub") => {
                subscribe.refuse_filter()?;
                let (_, lane) = if name == "hub" {
                    log(LogChannel::Hub, encode::hub_state)
                } else {
                    log(LogChannel::Findings, encode::findings_state)
                };
                (format!("native {name}"), lane)
            }
            other => {
                return Err(Refusal::new(
                    "unknown_channel",
                    format!(
                        "there is no channel {:?}: the channels are metrics, documents, findings \
                         and hub",
                        command::cut(other)
                    ),
                ));
            }
        };
        if subscribe.resume.is_some() && matches!(lane, Lane::State(_)) {
            return Err(Refusal::new(
                "bad_request",
                "only log channels can be resumed: a state channel starts with all it knows",
            ));
        }
        let refusal = Refusal {
            temporary: true,
            retry_after_ms: Some(10_000),
            ..Refusal::new(
                "too_many",
                format!(
                    "too many subscriptions: a client may have {SESSION_SUBSCRIPTIONS_MAX}, and \
                     the hub {SUBSCRIPTIONS_MAX} different ones"
                ),
            )
        };
        Ok(Act::Subscribe {
            only: false,
            key,
            lane,
            reply: Some((format!(r#"{{"id":{id},"ok":"#), "}".to_owned())),
            refusal: refusal.answer(id),
        })
    }

    fn unsubscribe(id: &RawValue, unsubscribe: &UnsubscribeCommand) -> Act {
        let sub = SubId(unsubscribe.sub);
        let refusal = Refusal::new(
            "not_subscribed",
            format!("this connection has no subscription {}", unsubscribe.sub),
        );
        let reply = text(&json!({"id": id, "ok": {"sub": sub}}));
        Act::Unsubscribe { sub, reply, refusal: refusal.answer(id) }
    }

    fn history(&self, id: &RawValue, wanted: &HistoryCommand) -> Result<Act, Refusal> {
        let query = wanted.query(self.clock.now_ms())?;
        let (id, series) = (id.to_owned(), query.series);
        let answer = move |found: Result<crate::store::History, StoreError>| match found {
            Ok(found) => text(&json!({"id": id, "ok": history(series, &found)})),
            Err(error) => Refusal::from(error).answer(&id),
        };
        Ok(Act::History { query, answer: Box::new(answer) })
    }
}

impl Dialect for Native {
    fn open(&mut self) -> Vec<Act> {
        Vec::new()
    }

    fn receive(&mut self, message: &str) -> Vec<Act> {
        let act = match command::parse(message) {
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

    fn bye(&mut self) -> (Option<Utf8Bytes>, CloseReason) {
        let bye = json!({"push": "bye", "reconnect_after_ms": RECONNECT_AFTER_MS});
        (Some(text(&bye)), CloseReason { code: 3001, words: "the hub is stopping" })
    }

    fn heartbeat(&self) -> Heartbeat {
        Heartbeat { every: PING_EVERY, timeout: PING_EVERY }
    }

    fn reads_binary(&self) -> bool {
        false
    }
}

impl Refusal {
    /// The reply to the command with this id.
    #[must_use]
    pub fn answer(&self, id: &RawValue) -> Utf8Bytes {
        text(&json!({"id": id, "error": self}))
    }
}

fn ok(id: &RawValue, body: &serde_json::Value) -> Act {
    Act::Send(text(&json!({"id": id, "ok": body})))
}

fn text(value: &serde_json::Value) -> Utf8Bytes {
    value.to_string().into()
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// Labels as a client wants them to be: a glob for each key.
type LabelGlobs = BTreeMap<String, String>;
