//! telltale's own protocol, at `/v1/stream`: JSON text, one message each.
//! `docs/protocol.md` has an example of every message.

mod command;
mod diff;
mod documents;
mod encode;
mod filter;
mod layouts;
mod log;
mod metrics;
mod presence;
mod publish;
mod subscribe;

use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use serde_json::value::RawValue;

use crate::access::{Access, Identity};
use crate::channel::{SESSION_SUBSCRIPTIONS_MAX, SUBSCRIPTIONS_MAX, SubId, Which};
use crate::clock::{Clock, rfc3339};
use crate::gate::CloseReason;
use crate::model::SeriesId;
use crate::session::{Act, Client, Dialect, Goodbye, HubFacts, Received, TooMany};
use crate::store::{History, StoreError};

use command::{Command, Connect, HistoryCommand, InRoom, OneOf, Refresh};
use subscribe::{SubscribeCommand, Wish};

pub use command::{POINTS_DEFAULT, Refusal, instant};
pub use encode::{history, series_list};
pub(super) use presence::users as present;
pub use publish::{PUBLISH_BYTES_MAX, batch};

#[cfg(test)]
mod tests;

/// The WebSocket subprotocol, for those who ask for it.
pub const SUBPROTOCOL: &str = "telltale.v1.json";

/// How long a client may take to show a token that must show one.
const TOKEN_WITHIN: Duration = Duration::from_secs(5);
/// Bad tokens that a client may show before it is closed: who has several may
/// try them, and who guesses may not.
const BAD_TOKENS_MAX: u32 = 3;
/// Why a client is closed that has not shown a good token.
const NO_TOKEN: CloseReason = CloseReason { code: 3500, words: "a token is needed" };
/// Why a client is closed that sends binary messages.
const NOT_TEXT: CloseReason = CloseReason { code: 1003, words: "send text, not binary" };

/// One client: what it is and may do is the registry's.
pub struct Native {
    clock: Clock,
    hub: Arc<HubFacts>,
    access: Arc<Access>,
    client: Arc<Client>,
    /// Tokens that it has shown and that were no good.
    bad_tokens: u32,
    /// The connection is to be closed after what is said last.
    ends: Option<CloseReason>,
    /// The longest message that is taken of it now.
    message_max: usize,
}

impl Native {
    /// A client that has just connected.
    #[must_use]
    pub fn new(clock: Clock, hub: Arc<HubFacts>, access: Arc<Access>, client: Arc<Client>) -> Self {
        let message_max = publish::message_bytes_max(client.identity().as_ref());
        Self { clock, hub, access, client, bad_tokens: 0, ends: None, message_max }
    }

    fn obey(&mut self, id: &RawValue, command: Command) -> Result<Act, Refusal> {
        match command {
            Command::Connect(connect) => self.connect(id, &connect),
            Command::Refresh(refresh) => self.refresh(id, &refresh),
            Command::Ping(_) => Ok(ok(id, &json!({}))),
            Command::Subscribe(subscribe) => self.subscribe(id, subscribe),
            Command::Unsubscribe(one) => Ok(Self::unsubscribe(id, &one)),
            Command::Snapshot(one) => Ok(Self::snapshot(id, &one)),
            Command::Publish(form) => self.publish(id, *form),
            Command::Put(put) => self.put(id, *put),
            Command::Versions(wanted) => self.versions(id, &wanted),
            Command::Presence(wanted) => self.presence(id, &wanted),
            Command::History(query) => self.history(id, &query),
            Command::Diff(wanted) => self.diff(id, &wanted),
        }
    }

    fn connect(&mut self, id: &RawValue, connect: &Connect) -> Result<Act, Refusal> {
        let identity = match &connect.token {
            None => self.who()?,
            Some(token) => self.introduce(token)?,
        };
        let mut terms = json!({
                "connection": self.client.id,
                "user": identity.user,
                "hub": self.hub.name,
                "version": self.hub.version,
                "epoch": self.hub.epoch,
                "tick_ms": millis(self.hub.tick),
                "ping_ms": millis(self.hub.heartbeat),
                "message_bytes_max": publish::message_bytes_max(Some(&identity)),
                "admin": identity.admin,
        });
        if let Some(expires) = expires(&identity) {
            terms["expires"] = json!(expires);
        }
        Ok(ok(id, &terms))
    }

    /// Takes a token of a client that has shown none, or the same again.
    fn introduce(&mut self, token: &str) -> Result<Arc<Identity>, Refusal> {
        let identity = self.verify(token)?;
        // Subscriptions that it has are those of who it was.
        if let Some(before) = self.client.identity()
            && before.is_authenticated
            && !before.is_like(&identity)
        {
            let words = "this connection has shown another token: `refresh` takes a newer one of \
                         the same user, and another connection takes any";
            return Err(Refusal::new("bad_request", words));
        }
        self.identify(&identity)?;
        Ok(identity)
    }

    fn identify(&mut self, identity: &Arc<Identity>) -> Result<(), Refusal> {
        self.client.identify(identity.clone()).map_err(|too_many| {
            self.ends = Some(CloseReason::TOO_MANY);
            Refusal {
                temporary: true,
                retry_after_ms: Some(millis(too_many.retry_after())),
                ..Refusal::new(TooMany::CODE, too_many.to_string())
            }
        })
    }

    fn refresh(&mut self, id: &RawValue, refresh: &Refresh) -> Result<Act, Refusal> {
        let before = self.who()?;
        let identity = self.verify(&refresh.token)?;
        if identity.user != before.user {
            return Err(Refusal::new("unauthorized", "the token is another user's"));
        }
        // What is under way is shared with others of the same rights.
        if identity.read != before.read || (before.reads_all() && !identity.reads_all()) {
            let words = "the token allows to read something else: connect anew with it";
            return Err(Refusal::new("bad_request", words));
        }
        self.identify(&identity)?;
        let (id, expires) = (id.to_owned(), expires(&identity));
        let answer = move |ended: Vec<SubId>| {
            json!({"id": id, "ok": {"expires": expires, "ended": ended}}).to_string()
        };
        Ok(Act::Narrow { identity, answer: Box::new(answer) })
    }

    fn verify(&mut self, token: &str) -> Result<Arc<Identity>, Refusal> {
        self.access.verify(token).map_err(|refused| {
            self.client.refused("token", refused.why);
            self.bad_tokens += 1;
            if self.bad_tokens >= BAD_TOKENS_MAX {
                self.ends = Some(NO_TOKEN);
            }
            Refusal::new("unauthorized", "the token is not valid here")
        })
    }

    /// Has longer messages taken once the client may publish, or change a board.
    fn fit(&mut self) -> Option<Act> {
        let fits = publish::message_bytes_max(self.client.identity().as_ref());
        let before = std::mem::replace(&mut self.message_max, fits);
        (before != fits).then_some(Act::MessageMax(fits))
    }

    fn subscribe(&self, id: &RawValue, subscribe: SubscribeCommand) -> Result<Act, Refusal> {
        let who = self.who()?;
        let about = subscribe.about().to_owned();
        let wish = subscribe.wish(self.hub.tick, &who);
        let Wish { key, lane, resume } = wish.inspect_err(|refusal| self.note(refusal, &about))?;
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

    /// Who the client is.
    fn who(&self) -> Result<Arc<Identity>, Refusal> {
        self.client.identity().ok_or_else(unauthorized)
    }

    /// Notes what a client asked for that it may not have.
    fn note(&self, refusal: &Refusal, about: &str) {
        if refusal.code == subscribe::DENIED {
            self.client.refused(about, refusal.code);
        }
    }

    fn presence(&self, id: &RawValue, wanted: &InRoom) -> Result<Act, Refusal> {
        let who = self.who()?;
        let room = subscribe::enter(&wanted.room, &who)
            .inspect_err(|refusal| self.note(refusal, command::cut(&wanted.room)))?;
        let id = id.to_owned();
        Ok(Act::Answer(Box::new(move |feed| {
            let users = presence::users(feed, &room);
            json!({"id": id, "ok": {"room": room, "users": users}}).to_string()
        })))
    }

    fn unsubscribe(id: &RawValue, one: &OneOf) -> Act {
        let sub = SubId(one.sub);
        let reply = json!({"id": id, "ok": {"sub": sub}}).to_string();
        let which = Which::Id(sub);
        Act::Unsubscribe { which, reply, refusal: not_subscribed(id, one) }
    }

    fn snapshot(id: &RawValue, one: &OneOf) -> Act {
        let (sub, refusal) = (SubId(one.sub), not_subscribed(id, one));
        Act::Snapshot { sub, reply: around(id), refusal }
    }

    fn history(&self, id: &RawValue, wanted: &HistoryCommand) -> Result<Act, Refusal> {
        let who = self.who()?;
        let query = wanted.query(self.clock.now_ms())?;
        let (id, series, anomalies) = (id.to_owned(), query.series, query.anomalies);
        let answer = move |found: Result<History, StoreError>| match readable(series, found, &who) {
            Ok(found) => json!({"id": id, "ok": history(series, &found, anomalies)}).to_string(),
            Err(error) => Refusal::from(error).answer(&id),
        };
        Ok(Act::History { query, answer: Box::new(answer) })
    }
}

impl Dialect for Native {
    fn open(&mut self) -> Vec<Act> {
        vec![Act::MessageMax(self.message_max)]
    }

    fn receive(&mut self, message: Received<'_>) -> Vec<Act> {
        let text = match message {
            Received::Text(text) => text,
            Received::Binary(_) => return vec![Act::Close(NOT_TEXT)],
        };
        let is_stranger = self.client.identity().is_none();
        let act = match command::parse(text) {
            Ok((id, command)) => match command {
                // No stranger learns from a refusal what there is.
                Command::Connect(_) | Command::Ping(_) => self.obey(&id, command),
                _ if is_stranger => Err(unauthorized()),
                _ => self.obey(&id, command),
            }
            .map_err(|refusal| refusal.answer(&id)),
            Err((id, _)) if is_stranger => Err(unauthorized().answer(&id)),
            Err((id, refusal)) => Err(refusal.answer(&id)),
        };
        let act = act.unwrap_or_else(Act::Send);
        // It may have said who it is.
        let fit = self.fit();
        fit.into_iter().chain([act]).chain(self.ends.map(Act::Close)).collect()
    }

    fn patience(&self) -> Option<Duration> {
        self.client.identity().is_none().then_some(TOKEN_WITHIN)
    }

    fn waited(&mut self) -> Vec<Act> {
        match self.client.identity() {
            Some(_) => Vec::new(),
            None => vec![Act::Close(NO_TOKEN)],
        }
    }

    fn throttled(&mut self, message: Received<'_>, retry_after: Duration) -> Vec<Act> {
        let id = match message {
            Received::Text(text) => command::id_of(text),
            Received::Binary(_) => return vec![Act::Close(NOT_TEXT)],
        };
        let refusal = Refusal {
            temporary: true,
            retry_after_ms: Some(millis(retry_after).max(1)),
            ..Refusal::new("too_many_requests", "messages come too fast")
        };
        vec![Act::Send(refusal.answer(&id))]
    }

    fn goodbye(&mut self, why: Goodbye) -> (Option<String>, CloseReason) {
        match why {
            Goodbye::Stopping(reconnect_after) => {
                let bye = json!({"push": "bye", "reconnect_after_ms": millis(reconnect_after)});
                (Some(bye.to_string()), CloseReason { code: 3001, words: "the hub is stopping" })
            }
            Goodbye::Expired => (None, CloseReason::EXPIRED),
            Goodbye::Revoked => (None, CloseReason::REVOKED),
        }
    }
}

/// History that may be read; what may not is not there.
///
/// # Errors
///
/// It may not, or there was none.
pub fn readable(
    series: SeriesId,
    found: Result<History, StoreError>,
    who: &Identity,
) -> Result<History, StoreError> {
    found.and_then(|found| match who.may_read(&found.series.key.name) {
        true => Ok(found),
        false => Err(StoreError::NoSuchSeries(series)),
    })
}

/// When the connection ends unless a newer token is shown.
fn expires(identity: &Identity) -> Option<String> {
    identity.expires_ms.map(|ms| rfc3339(ms.saturating_mul(1_000_000)))
}

fn unauthorized() -> Refusal {
    Refusal::new("unauthorized", "a token is needed")
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
