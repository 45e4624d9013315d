//! Events over HTTP: publishing, and what has been in a room.

use std::error::Error;
use std::fmt::Write as _;
use std::net::IpAddr;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Body;
use hyper::header::{ALLOW, HeaderMap, HeaderValue, RETRY_AFTER};
use hyper::{Method, Request, Response, StatusCode};
use serde_json::json;

use super::body::Bodies;
use super::routes::{body, error, refuse, respond_json};
use super::token;
use crate::access::Identity;
use crate::clock::rfc3339;
use crate::dialect::native::{self, Refusal};
use crate::events::PublishError;
use crate::events::form::{Form, Outcomes, Publisher};
use crate::model::Room;
use crate::session::{Services, Throttled};
use crate::store::{RoomPage, StoreError};

/// The longest body: several of the largest events, or a batch of a hundred that
/// have 40 KB each.
const BODY_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Whose value, repeated, makes a request count once.
const IDEMPOTENCY_KEY: &str = "idempotency-key";
/// Entries of a history where none are asked for, and the most.
const ENTRIES_DEFAULT: usize = 100;
const ENTRIES_MAX: u64 = 1000;
/// The most bytes of entries in one answer, but for the first.
const ENTRIES_BYTES_MAX: usize = 4 * 1024 * 1024;

type Answer = Response<Full<Bytes>>;

/// `POST /v1/events`
pub(super) async fn publish<B>(
    services: &Services,
    bodies: &Bodies,
    by: &Identity,
    address: IpAddr,
    request: Request<B>,
) -> Answer
where
    B: Body<Data = Bytes>,
    B::Error: Into<Box<dyn Error + Send + Sync>>,
{
    if request.method() != Method::POST {
        return not_allowed("POST");
    }
    if by.publish.is_empty() {
        let words = "this token does not allow it";
        return error(StatusCode::FORBIDDEN, "denied", words);
    }
    let (head, incoming) = request.into_parts();
    let key = match key(&head.headers) {
        Ok(key) => key,
        Err(words) => return error(StatusCode::BAD_REQUEST, "bad_request", words),
    };
    let whole = match bodies.read(incoming, BODY_BYTES_MAX).await {
        Ok(whole) => whole,
        Err((status, refusal)) => return refused_with(status, &refusal),
    };
    let form = match serde_json::from_slice::<Form>(&whole.bytes) {
        Ok(form) if form.is_command() => {
            let words = "`id` and `op` are for WebSocket clients";
            return error(StatusCode::BAD_REQUEST, "bad_request", words);
        }
        Ok(form) => form,
        Err(wrong) => {
            let code = if wrong.is_data() { "bad_request" } else { "bad_json" };
            return error(StatusCode::BAD_REQUEST, code, &wrong.to_string());
        }
    };
    drop(whole);
    let publisher = Publisher { source: &by.user, connection: None, key: key.as_deref() };
    let (drafts, answers) = match form.drafts(publisher) {
        Ok(drafts) => drafts.split(),
        Err(words) => return error(StatusCode::BAD_REQUEST, "bad_request", &words),
    };
    let taken = services.clients.limits().publish(by, address, drafts.len());
    if let Err(Throttled { retry_after, .. }) = taken {
        return refused(&Refusal::from(&PublishError::Throttled(retry_after)));
    }
    match answers.fill(services.events.publish(by, drafts).await) {
        Outcomes::One(Ok(receipt)) => body(StatusCode::OK, &json!(receipt)),
        Outcomes::One(Err(failed)) => refused(&Refusal::from(&failed)),
        Outcomes::Batch(all) => body(StatusCode::OK, &native::batch(&all)),
    }
}

/// The key of the request. The draft of the header's RFC has it in quotes, and
/// most who send it don't.
fn key(headers: &HeaderMap) -> Result<Option<String>, &'static str> {
    let mut values = headers.get_all(IDEMPOTENCY_KEY).iter();
    let Some(value) = values.next() else { return Ok(None) };
    let text = value.to_str().map(str::trim).unwrap_or_default();
    let bare = text.strip_prefix('"').and_then(|text| text.strip_suffix('"'));
    let key = bare.unwrap_or(text);
    let is_legal = (1..=crate::events::KEY_BYTES_MAX).contains(&key.len())
        && key.bytes().all(|byte| byte.is_ascii_graphic());
    if !is_legal || values.next().is_some() {
        return Err("`Idempotency-Key` is one text of 1 to 255 visible ASCII characters");
    }
    Ok(Some(key.to_owned()))
}

/// A refusal with the status that goes with its code.
pub(super) fn refused(refusal: &Refusal) -> Answer {
    let status = match refusal.code {
        "denied" => StatusCode::FORBIDDEN,
        "too_large" => StatusCode::PAYLOAD_TOO_LARGE,
        "too_many_requests" => StatusCode::TOO_MANY_REQUESTS,
        _ if refusal.temporary => StatusCode::SERVICE_UNAVAILABLE,
        // What was asked for was understood, and can't be.
        _ => StatusCode::UNPROCESSABLE_ENTITY,
    };
    refused_with(status, refusal)
}

/// A refusal, with the time to come back also in its head.
pub(super) fn refused_with(status: StatusCode, refusal: &Refusal) -> Answer {
    let mut answer = refuse(status, refusal);
    if let Some(ms) = refusal.retry_after_ms
        && let Ok(seconds) = HeaderValue::from_str(&ms.div_ceil(1000).to_string())
    {
        answer.headers_mut().insert(RETRY_AFTER, seconds);
    }
    answer
}

pub(super) fn not_allowed(allowed: &'static str) -> Answer {
    let words = format!("this path answers {allowed}");
    let mut refused = error(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", &words);
    refused.headers_mut().insert(ALLOW, HeaderValue::from_static(allowed));
    refused
}

/// The room of a path `/v1/rooms/<room>/events`, where it is one.
pub(super) fn room_at(path: &str) -> Option<Result<Room, String>> {
    let name = path.strip_prefix("/v1/rooms/")?.strip_suffix("/events")?;
    // Percent-decoding as in a query, but for the plus sign.
    let name = format!("room={}", name.replace('+', "%2B").replace('&', "%26"));
    let name = form_urlencoded::parse(name.as_bytes()).next().map(|(_, name)| name.into_owned());
    Some(Room::new(&name.unwrap_or_default()).map_err(|broken| broken.to_string()))
}

/// `GET /v1/rooms/<room>/events?after=&limit=`
pub(super) async fn history(services: &Services, by: &Identity, room: Room, query: &str) -> Answer {
    if !by.may_enter(&room) {
        return error(StatusCode::FORBIDDEN, "denied", "this token does not allow it");
    }
    let (after, limit) = match page_query(query) {
        Ok(wanted) => wanted,
        Err(words) => return error(StatusCode::BAD_REQUEST, "bad_request", &words),
    };
    let read = services.reader.room(room.clone(), after, limit, ENTRIES_BYTES_MAX);
    let found = tokio::time::timeout(super::routes::READ_MAX, read).await;
    match found.unwrap_or(Err(StoreError::Stopping)) {
        Ok(page) => {
            let text = page_text(&room, &services.hub.epoch, &page);
            respond_json(StatusCode::OK, text)
        }
        Err(failed) => refused(&Refusal::from(failed)),
    }
}

/// What the parameters ask for: after which offset, and how many.
fn page_query(query: &str) -> Result<(Option<u64>, usize), String> {
    let (mut after, mut limit) = (None, ENTRIES_DEFAULT);
    for (key, value) in form_urlencoded::parse(query.as_bytes()) {
        match (&*key, value.parse::<u64>()) {
            ("after", Ok(offset)) => after = Some(offset),
            ("limit", Ok(number @ 1..=ENTRIES_MAX)) => {
                limit = usize::try_from(number).unwrap_or(limit)
            }
            ("limit", _) => return Err(format!("limit is 1 to {ENTRIES_MAX}")),
            ("after", Err(_)) => return Err("after is an offset".to_owned()),
            // Has been read.
            (token::PARAMETER, _) => {}
            _ => return Err("the parameters are after and limit".to_owned()),
        }
    }
    Ok((after, limit))
}

/// The entries are written as they were kept.
fn page_text(room: &Room, epoch: &str, page: &RoomPage) -> String {
    let mut text = format!("{{\"room\":{},\"epoch\":{},\"entries\":[", json!(room), json!(epoch));
    for (at, logged) in page.entries.iter().enumerate() {
        let comma = if at == 0 { "" } else { "," };
        let time = rfc3339(logged.entry.time_ms * 1_000_000);
        // Writing to a string can't fail.
        let _ = write!(
            text,
            "{comma}{{\"offset\":{},\"time\":\"{time}\",\"entry\":{}}}",
            logged.offset, logged.entry.body
        );
    }
    let next = match page.entries.last() {
        Some(last) if page.has_more => last.offset,
        _ => page.head,
    };
    let (more, lost) = (page.has_more, page.has_lost);
    let _ = write!(text, "],\"next\":{next},\"more\":{more},\"lost\":{lost}}}");
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_may_be_in_quotes() {
        let key = |values: &[&str]| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(IDEMPOTENCY_KEY, value.parse().unwrap());
            }
            key(&headers).map_err(|_| ())
        };
        assert_eq!(key(&[]), Ok(None));
        for (value, wanted) in
            [("k", "k"), ("\"k-1\"", "k-1"), (" k/0 ", "k/0"), ("\"", "\""), ("a\"b", "a\"b")]
        {
            assert_eq!(key(&[value]), Ok(Some(wanted.to_owned())), "{value}");
        }
        for values in [&[""][..], &["\"\""], &["a b"], &["a", "b"], &[&"x".repeat(256)]] {
            assert_eq!(key(values), Err(()), "{values:?}");
        }
    }

    #[test]
    fn a_rooms_path_may_be_escaped_or_not() {
        let room = |path: &str| match room_at(path) {
            Some(Ok(room)) => Some(room.to_string()),
            Some(Err(_)) => Some(String::new()),
            None => None,
        };
        for (path, wanted) in [
            ("/v1/rooms/global/events", Some("global")),
            ("/v1/rooms/project:42/events", Some("project:42")),
            ("/v1/rooms/project%3a42/events", Some("project:42")),
            ("/v1/rooms/project:a/b/events", Some("project:a/b")),
            ("/v1/rooms/project:a+b&c=d/events", Some("project:a+b&c=d")),
            ("/v1/rooms/project:%C3%A9/events", Some("project:é")),
            ("/v1/rooms//events", Some("")),
            ("/v1/rooms/%20/events", Some("")),
            ("/v1/rooms/global", None),
            ("/v1/rooms/global/event", None),
        ] {
            assert_eq!(room(path).as_deref(), wanted, "{path}");
        }
    }

    #[test]
    fn a_page_has_a_size() {
        assert_eq!(page_query(""), Ok((None, ENTRIES_DEFAULT)));
        assert_eq!(page_query("after=7&limit=3&token=x"), Ok((Some(7), 3)));
        for (query, words) in [
            ("limit=0", "limit is 1 to 1000"),
            ("limit=x", "limit is 1 to 1000"),
            ("after=-1", "after is an offset"),
            ("until=1", "after and limit"),
        ] {
            assert!(page_query(query).unwrap_err().contains(words), "{query}");
        }
    }
}
