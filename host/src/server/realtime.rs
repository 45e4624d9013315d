//! `/api/realtime` over HTTP: what the sync dialect's clients ask and do while
//! they have no WebSocket.

use std::error::Error;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Body;
use hyper::header::{AUTHORIZATION, COOKIE, HOST};
use hyper::{Method, Request, Response, StatusCode};
use serde::Deserialize;
use serde::de::{Deserializer, Error as _, SeqAccess, Visitor as Visit};
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};

use super::body::Bodies;
use super::events::{not_allowed, refused_with};
use super::routes::{AskedBy, body};
use super::{Stats, Visitor, token};
use crate::access::Identity;
use crate::clock::rfc3339;
use crate::dialect::native::Refusal;
use crate::dialect::sync::{self, Kind, NoBoard, Said, Write};
use crate::layouts::{ChangeError, Submitted};
use crate::model::Board;
use crate::session::{Services, Throttled};

/// Where the sync dialect is spoken, over WebSocket and over HTTP.
pub(super) const PATH: &str = "/api/realtime";
/// Who is connected.
const STATS: &str = "/api/realtime/stats";
/// Who somebody says to be, in a query or as a cookie.
const USER: &str = "userId";
/// The board that is meant.
const BOARD: &str = "board";
/// What is said to who must say who it is.
const WORDS: &str = "this needs a user: `Authorization: Bearer` or `?token=` with a token";

/// The longest body: several of the largest messages.
const BODY_BYTES_MAX: usize = 4 * 1024 * 1024;
/// The most operations of one request.
const OPERATIONS_MAX: usize = 500;
/// Operations of one request that are under way at a time. What each holds may
/// be three objects of the largest, where it is a conflict.
const AT_ONCE: usize = 64;
/// Once the results have so many bytes nothing more is tried. They are at most
/// so many, and those of what was under way.
const RESULTS_BYTES_MAX: usize = 8 * 1024 * 1024;
/// The connections that are named, the oldest first.
const CLIENTS_MAX: usize = 1000;

type Answer = Response<Full<Bytes>>;

/// Whether something is answered at a path.
pub(super) fn is_path(path: &str) -> bool {
    path == PATH || path == STATS
}

/// Who asks: by a good token or, where that is believed, by what it says of
/// itself (`?userId=`, else `Authorization: Bearer`, else the cookie `userId`).
pub(super) fn who<B>(services: &Services, request: &Request<B>) -> Option<Arc<Identity>> {
    let token = token::of(request);
    let shown = token.as_deref().and_then(|token| {
        let shown = services.access.verify(token);
        // Where names are believed it may be one.
        let told = |why| tracing::debug!(dialect = sync::NAME, why, "a token was refused");
        shown.inspect_err(|refused| told(refused.why)).ok()
    });
    // Who says what can't be is nobody, and not whom it says elsewhere.
    shown.or_else(|| services.access.believe(&said(request)?))
}

/// Who somebody says to be.
fn said<B>(request: &Request<B>) -> Option<String> {
    let header = |name| request.headers().get(name).and_then(|value| value.to_str().ok());
    let bearer = || {
        let (scheme, user) = header(AUTHORIZATION)?.split_once(' ')?;
        let is_meant = scheme.eq_ignore_ascii_case("bearer") && !user.trim().is_empty();
        is_meant.then(|| user.trim().to_owned())
    };
    let cookie = || {
        let mut cookies = header(COOKIE)?.split(';').filter_map(|one| one.trim().split_once('='));
        let (_, value) = cookies.find(|(name, value)| *name == USER && !value.is_empty())?;
        // Percent-decoding as in a query, but for the plus sign.
        let pair = format!("{USER}={}", value.replace('+', "%2B").replace('&', "%26"));
        parameter(&pair, USER)
    };
    parameter(request.uri().query().unwrap_or_default(), USER).or_else(bearer).or_else(cookie)
}

/// The board that somebody means.
pub(super) fn board(identity: &Identity, query: &str) -> Result<Board, NoBoard> {
    sync::board_of(identity, parameter(query, BOARD).as_deref())
}

/// A parameter of a query, unless it is empty.
fn parameter(query: &str, name: &str) -> Option<String> {
    let mut pairs = form_urlencoded::parse(query.as_bytes());
    let found = pairs.find(|(key, value)| key == name && !value.is_empty());
    found.map(|(_, value)| value.into_owned())
}

/// Answers a request that is no upgrade.
pub(super) async fn answer<B>(
    services: &Services,
    stats: &Stats,
    bodies: &Bodies,
    visitor: &Visitor,
    request: Request<B>,
) -> Answer
where
    B: Body<Data = Bytes>,
    B::Error: Into<Box<dyn Error + Send + Sync>>,
{
    let asks = who(services, &request);
    let user = asks.as_ref().map(|asks| AskedBy(asks.user.clone()));
    let is_stats = request.uri().path() == STATS;
    let is_head = request.method() == Method::HEAD;
    let mut answer = match *request.method() {
        Method::GET | Method::HEAD if is_stats => tell(services, stats, asks.as_deref()),
        Method::GET | Method::HEAD => ready(services, visitor, asks.as_deref(), &request),
        Method::POST if !is_stats => match sync(services, bodies, visitor, asks, request).await {
            Ok(answer) => answer,
            Err((status, refusal)) => failed(status, &refusal),
        },
        _ => not_allowed(if is_stats { "GET, HEAD" } else { "GET, HEAD, POST" }),
    };
    if is_head {
        *answer.body_mut() = Full::default();
    }
    if let Some(user) = user {
        answer.extensions_mut().insert(user);
    }
    answer
}

/// Whether the dialect is spoken here, and where.
fn ready<B>(
    services: &Services,
    visitor: &Visitor,
    asks: Option<&Identity>,
    request: &Request<B>,
) -> Answer {
    let host = request.headers().get(HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
    let scheme = if visitor.is_secure { "wss" } else { "ws" };
    body(
        StatusCode::OK,
        &json!({
            "status": "ready",
            "wsUrl": format!("{scheme}://{host}{PATH}"),
            "userId": asks.map(|asks| &asks.user),
            "timestamp": rfc3339(services.clock.now_ns()),
        }),
    )
}

/// Who is connected. Where somebody has to say who they are, only who may
/// administer the hub is told of others.
fn tell(services: &Services, stats: &Stats, asks: Option<&Identity>) -> Answer {
    let is_open = services.access.is_open();
    if asks.is_none() && !is_open {
        return token::wanted(WORDS);
    }
    let mut clients = services.clients.of_dialect(sync::NAME);
    // The others are being closed.
    clients.retain(|(client, _)| client.identity().is_some());
    let count = clients.len();
    clients.retain(|(client, _)| {
        let is_own =
            |asks: &Identity| client.identity().is_some_and(|identity| identity.user == asks.user);
        is_open || asks.is_some_and(|asks| asks.admin || is_own(asks))
    });
    clients.sort_unstable_by_key(|(client, _)| (client.since_ms, client.id));
    clients.truncate(CLIENTS_MAX);
    let now_ms = services.clock.now_ms();
    let named = clients.iter().map(|(client, gate)| {
        let (silence, is_alive) = gate.silence();
        let silence_ms = u64::try_from(silence.as_millis()).unwrap_or(u64::MAX);
        json!({
            "id": client.id,
            "userId": client.identity().map(|identity| identity.user.clone()),
            "connectedAt": rfc3339(client.since_ms.saturating_mul(1_000_000)),
            "lastHeartbeat": rfc3339(now_ms.saturating_sub(silence_ms).saturating_mul(1_000_000)),
            "messageCount": gate.messages().0,
            "isAlive": is_alive,
        })
    });
    let uptime = Duration::from_millis(now_ms.saturating_sub(stats.since_ms()));
    let told = json!({
        "clientCount": count,
        "clients": named.collect::<Vec<_>>(),
        "uptime": uptime.as_secs_f64(),
        "timestamp": rfc3339(services.clock.now_ns()),
    });
    body(StatusCode::OK, &told)
}

/// A refusal in the words of the API, and in those of the dialect's clients.
fn failed(status: StatusCode, refusal: &Refusal) -> Answer {
    let mut answer = match status {
        StatusCode::UNAUTHORIZED => token::wanted(WORDS),
        _ => refused_with(status, refusal),
    };
    let told = json!({"success": false, "error": refusal});
    *answer.body_mut() = Full::new(Bytes::from(told.to_string()));
    answer
}

/// `{"type":"SYNC","operations":[…]}`
#[derive(Deserialize)]
struct Form<'a> {
    r#type: &'a str,
    #[serde(borrow, deserialize_with = "operations")]
    operations: Vec<&'a RawValue>,
}

/// One of the operations.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Operation {
    #[serde(default)]
    operation_id: Option<String>,
    r#type: Kind,
    payload: Map<String, Value>,
}

/// A list that is not read further than it may be long.
fn operations<'de, D: Deserializer<'de>>(input: D) -> Result<Vec<&'de RawValue>, D::Error> {
    struct List;
    impl<'de> Visit<'de> for List {
        type Value = Vec<&'de RawValue>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a list of operations")
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
            let mut all = Vec::new();
            while let Some(one) = list.next_element()? {
                if all.len() == OPERATIONS_MAX {
                    let words = format!("a request has at most {OPERATIONS_MAX} operations");
                    return Err(A::Error::custom(words));
                }
                all.push(one);
            }
            Ok(all)
        }
    }
    input.deserialize_seq(List)
}

/// Does operations one after the other, each by itself.
async fn sync<B>(
    services: &Services,
    bodies: &Bodies,
    visitor: &Visitor,
    asks: Option<Arc<Identity>>,
    request: Request<B>,
) -> Result<Answer, (StatusCode, Refusal)>
where
    B: Body<Data = Bytes>,
    B::Error: Into<Box<dyn Error + Send + Sync>>,
{
    let bad = |code, words: String| (StatusCode::BAD_REQUEST, Refusal::new(code, words));
    let by = asks.or_else(|| services.access.believe_nobody());
    let by = by.ok_or_else(|| (StatusCode::UNAUTHORIZED, Refusal::new("unauthorized", WORDS)))?;
    let board = board(&by, request.uri().query().unwrap_or_default())
        .map_err(|none| (StatusCode::FORBIDDEN, Refusal::new("denied", none.words())))?;
    let whole = bodies.read(request.into_body(), BODY_BYTES_MAX).await?;
    let form: Form<'_> = serde_json::from_slice(&whole.bytes).map_err(|wrong| {
        bad(if wrong.is_data() { "bad_request" } else { "bad_json" }, wrong.to_string())
    })?;
    if form.r#type != "SYNC" {
        return Err(bad("bad_request", "`type` is SYNC".to_owned()));
    }
    let results = Work { services, visitor, by: &by, board }.all(&form.operations).await;
    let success = results.iter().all(|result| result["status"] != "error");
    let timestamp = rfc3339(services.clock.now_ns());
    let told = json!({"success": success, "results": results, "timestamp": timestamp});
    Ok(body(StatusCode::OK, &told))
}

/// What the operations of a request are done with.
struct Work<'a> {
    services: &'a Services,
    visitor: &'a Visitor,
    by: &'a Identity,
    board: Board,
}

/// An operation on its way.
enum Begun {
    /// The store has it.
    Submitted(Submitted, Said),
    /// It is not done: why.
    Not(Map<String, Value>),
}

impl Work<'_> {
    /// Does them in their order, and answers what became of each. After one that
    /// has to wait nothing more is tried: what comes after it is not to be done
    /// before it.
    async fn all(&self, operations: &[&RawValue]) -> Vec<Value> {
        let (mut results, mut bytes) = (Vec::with_capacity(operations.len()), 0);
        let mut wait: Option<Map<String, Value>> = None;
        for some in operations.chunks(AT_ONCE) {
            if bytes > RESULTS_BYTES_MAX {
                wait.get_or_insert_with(|| sync::refusal(&ChangeError::Busy));
            }
            let mut begun = Vec::with_capacity(some.len());
            for operation in some {
                begun.push(self.begin(operation, &mut wait));
            }
            for (id, begun) in begun {
                let mut result = match begun {
                    Begun::Submitted(submitted, said) => {
                        sync::result(&said, self.services.layouts.settle(submitted).await)
                    }
                    Begun::Not(mut told) => {
                        told.insert("status".to_owned(), "error".into());
                        told
                    }
                };
                result.insert("operationId".to_owned(), json!(id));
                let result = Value::from(result);
                bytes += if result["status"] == "conflict" { result.to_string().len() } else { 0 };
                results.push(result);
            }
        }
        results
    }

    /// Hands an operation to the store.
    fn begin(
        &self,
        operation: &RawValue,
        wait: &mut Option<Map<String, Value>>,
    ) -> (Option<String>, Begun) {
        let operation = match serde_json::from_str::<Operation>(operation.get()) {
            Ok(operation) => operation,
            Err(wrong) => {
                let id = id_of(operation);
                return (id, not(format!("the operation can't be read: {wrong}")));
            }
        };
        let Operation { operation_id: id, r#type: kind, payload } = operation;
        if let Some(wait) = wait {
            return (id, Begun::Not(wait.clone()));
        }
        let write = match Write::read(kind, &payload) {
            Ok(write) => write,
            Err(words) => return (id, not(words)),
        };
        let (draft, said) = write.draft(self.board.clone(), id.clone(), None);
        let limits = self.services.clients.limits();
        let taken = limits.publish(self.by, self.visitor.address, draft.cost());
        if let Err(Throttled { retry_after, .. }) = taken {
            let told = sync::refusal(&ChangeError::Throttled(retry_after));
            *wait = Some(told.clone());
            return (id, Begun::Not(told));
        }
        let submitted = self.services.layouts.submit(self.by, draft);
        if let Some(error @ (ChangeError::Busy | ChangeError::Stopping)) = submitted.refused() {
            *wait = Some(sync::refusal(error));
        }
        (id, Begun::Submitted(submitted, said))
    }
}

/// An operation that is not done, and never will be.
fn not(words: String) -> Begun {
    Begun::Not(Map::from_iter([("error".to_owned(), words.into())]))
}

/// The id of an operation that can't be read.
fn id_of(operation: &RawValue) -> Option<String> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Named {
        operation_id: String,
    }
    serde_json::from_str::<Named>(operation.get()).ok().map(|named| named.operation_id)
}
