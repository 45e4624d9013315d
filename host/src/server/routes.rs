//! The HTTP API and the page: what can be asked without a WebSocket.

use std::error::Error;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Body;
use hyper::header::{
    ALLOW, CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HeaderValue, RETRY_AFTER,
};
use hyper::{Method, Request, Response, StatusCode};
use serde_json::json;
use tokio::sync::watch;

use super::body::Bodies;
use super::{Stats, detectors, events, hooks, metrics, notify, plugins, stats, token, users};
use crate::access::Identity;
use crate::dialect::native::{self, POINTS_DEFAULT, Refusal};
use crate::exposition::Exposition;
use crate::hooks::Github;
use crate::model::SeriesId;
use crate::notify::Notify;
use crate::plugin::{PluginState, Progress};
use crate::session::Services;
use crate::shutdown::Shutdown;
use crate::snapshot::Snapshot;
use crate::store::{HistoryQuery, StoreError};

const PAGE: &str = include_str!("page.html");
const JSON: &str = "application/json";
/// What tells of the hub as a whole: for those who may read all of it.
const OF_THE_HUB: [&str; 4] = ["/v1/plugins", "/metrics", "/v1/stats", "/api/v1/websocket/stats"];
/// How long a history may take, its place in the line included.
pub(super) const READ_MAX: Duration = Duration::from_secs(5);

/// What requests bring in with them.
#[derive(Clone, Debug)]
pub struct Intake {
    /// Memory for what is published.
    pub bodies: Bodies,
    /// Memory for what strangers bring, who show who they are with the last byte:
    /// they take nobody else's.
    pub deliveries: Bodies,
    /// What is believed of GitHub, where it is.
    pub github: Option<Arc<Github>>,
}

/// What tells whether the hub can do its work.
#[derive(Clone, Debug)]
pub struct Readiness {
    /// The newest snapshot.
    pub snapshot: watch::Receiver<Arc<Snapshot>>,
    /// How far the first loading of plugins has come.
    pub progress: watch::Receiver<Progress>,
    /// The newest snapshot for scrapers.
    pub exposition: Arc<Exposition>,
    /// What is counted.
    pub stats: Arc<Stats>,
    /// Who is told of findings.
    pub notify: Arc<Notify>,
    /// The stop signal.
    pub shutdown: Shutdown,
}

impl Readiness {
    /// What is still missing, if anything is.
    fn missing(&self) -> Option<&'static str> {
        let progress = self.progress.borrow();
        if self.shutdown.is_requested() {
            Some("the hub is stopping")
        } else if !progress.is_over() {
            Some("plugins are being compiled")
        } else if self.snapshot.borrow().tick.number == 0 {
            Some("the first tick has not been taken")
        } else {
            None
        }
    }
}

/// Answers a request that is no upgrade.
pub(super) async fn answer<B>(
    services: &Services,
    readiness: &Readiness,
    intake: &Intake,
    address: IpAddr,
    request: Request<B>,
) -> Response<Full<Bytes>>
where
    B: Body<Data = Bytes>,
    B::Error: Into<Box<dyn Error + Send + Sync>>,
{
    match request.uri().path() {
        "/v1/events" => {
            let by = match token::who(services, &request) {
                Ok(by) => by,
                Err(refused) => return refused,
            };
            let user = AskedBy(by.user.clone());
            let mut response =
                events::publish(services, &intake.bodies, &by, address, request).await;
            response.extensions_mut().insert(user);
            response
        }
        "/v1/hooks/github" | "/webhooks/github" => {
            hooks::github(services, intake, &readiness.shutdown, request).await
        }
        _ => look(services, readiness, &request).await,
    }
}

/// Answers a request without a body.
async fn look<B>(
    services: &Services,
    readiness: &Readiness,
    request: &Request<B>,
) -> Response<Full<Bytes>> {
    let mut response = match token::who(services, request) {
        Ok(who) => {
            let mut response = answer_to(&who, services, readiness, request).await;
            response.extensions_mut().insert(AskedBy(who.user.clone()));
            response
        }
        Err(refused) => refused,
    };
    if request.method() == Method::HEAD {
        *response.body_mut() = Full::default();
    }
    response
}

/// Answers somebody who may ask.
async fn answer_to<B>(
    who: &Identity,
    services: &Services,
    readiness: &Readiness,
    request: &Request<B>,
) -> Response<Full<Bytes>> {
    let path = request.uri().path();
    if let Some(rest) = path.strip_prefix("/v1/plugins/") {
        return plugins::answer(who, services, readiness, request, rest).await;
    }
    let below = path.strip_prefix("/v1/detectors");
    if let Some(rest) = below.filter(|rest| rest.is_empty() || rest.starts_with('/')) {
        let rest = rest.strip_prefix('/').unwrap_or_default();
        return detectors::answer(who, services, request, rest).await;
    }
    if let Some(rest) = path.strip_prefix("/v1/notify") {
        return notify::answer(who, &readiness.notify, request, rest).await;
    }
    if let Some(rest) = path.strip_prefix("/v1/users/") {
        return users::answer(who, services, request.method(), rest);
    }
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        let mut refused = error(
            StatusCode::METHOD_NOT_ALLOWED,
            "method_not_allowed",
            "only GET is answered here",
        );
        refused.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        return refused;
    }
    match path {
        "/" => page(),
        "/healthz" | "/health" => health(services, readiness),
        "/readyz" => ready(readiness),
        path if OF_THE_HUB.contains(&path) && !who.reads_all() => token::denied(),
        "/metrics" => metrics::answer(readiness, request.headers()).await,
        "/v1/stats" | "/api/v1/websocket/stats" => {
            let told = stats::tell(&readiness.stats, services, Some(who)).await;
            body(StatusCode::OK, &told)
        }
        "/v1/plugins" => body(StatusCode::OK, &json!({"plugins": services.statuses.list()})),
        "/v1/series" => {
            let snapshot = readiness.snapshot.borrow().clone();
            let query = request.uri().query().unwrap_or_default();
            let plugin = form_urlencoded::parse(query.as_bytes())
                .find_map(|(key, value)| (key == "plugin").then(|| value.into_owned()));
            respond(StatusCode::OK, JSON, native::series_list(&snapshot, plugin, who))
        }
        "/v1/history" => history(who, services, request.uri().query().unwrap_or_default()).await,
        path if path.starts_with("/v1/rooms/") => in_room(who, services, request).await,
        _ => nothing(),
    }
}

fn health(services: &Services, readiness: &Readiness) -> Response<Full<Bytes>> {
    let plugins = services.statuses.list();
    let running = plugins.iter().filter(|plugin| plugin.state == PluginState::Running).count();
    let status = if readiness.shutdown.is_requested() { "stopping" } else { "ok" };
    body(
        StatusCode::OK,
        &json!({
            "status": status,
            "version": services.hub.version,
            "tick": readiness.snapshot.borrow().tick.number,
            "connections": services.gates.counters().connected.load(Ordering::Relaxed),
            "plugins": {"running": running, "total": plugins.len()},
        }),
    )
}

fn ready(readiness: &Readiness) -> Response<Full<Bytes>> {
    match readiness.missing() {
        None => body(StatusCode::OK, &json!({"status": "ready"})),
        Some(reason) => {
            body(StatusCode::SERVICE_UNAVAILABLE, &json!({"status": "waiting", "reason": reason}))
        }
    }
}

async fn history(who: &Identity, services: &Services, query: &str) -> Response<Full<Bytes>> {
    let query = match history_query(query, services.clock.now_ms()) {
        Ok(query) => query,
        Err(refusal) => return refuse(StatusCode::BAD_REQUEST, &refusal),
    };
    let (series, anomalies) = (query.series, query.anomalies);
    let found = tokio::time::timeout(READ_MAX, services.reader.history(query)).await;
    match native::readable(series, found.unwrap_or(Err(StoreError::Stopping)), who) {
        Ok(found) => body(StatusCode::OK, &native::history(series, &found, anomalies)),
        Err(failed) => {
            let refusal = Refusal::from(failed);
            let status = match refusal.code {
                "not_found" => StatusCode::NOT_FOUND,
                "too_slow" => StatusCode::UNPROCESSABLE_ENTITY,
                _ => StatusCode::SERVICE_UNAVAILABLE,
            };
            refuse(status, &refusal)
        }
    }
}

/// What is below `/v1/rooms/`.
async fn in_room<B>(
    by: &Identity,
    services: &Services,
    request: &Request<B>,
) -> Response<Full<Bytes>> {
    let room = match events::room_at(request.uri().path()) {
        Some(Ok(room)) => room,
        Some(Err(words)) => return error(StatusCode::BAD_REQUEST, "bad_request", &words),
        None => return nothing(),
    };
    events::history(services, by, room, request.uri().query().unwrap_or_default()).await
}

/// `series=7&from=…&to=…&points=…&raw=true&anomalies=true`; all but `series` may be left out.
fn history_query(query: &str, now_ms: u64) -> Result<HistoryQuery, Refusal> {
    let bad = |words: String| Refusal::new("bad_request", words);
    let (mut series, mut from, mut to) = (None, None, None);
    let (mut points_max, mut raw, mut anomalies) = (POINTS_DEFAULT, false, false);
    for (key, value) in form_urlencoded::parse(query.as_bytes()) {
        let is_true = matches!(&*value, "true" | "1" | "");
        let number = || value.parse::<usize>().map_err(|_| bad(format!("{key} is no number")));
        match &*key {
            "series" => series = Some(number()?),
            "from" => from = Some(native::instant(&value)?),
            "to" => to = Some(native::instant(&value)?),
            "points" => points_max = number()?,
            "raw" => raw = is_true,
            "anomalies" => anomalies = is_true,
            // Has been read.
            token::PARAMETER => {}
            _ => {
                let words = "the parameters are series, from, to, points, raw and anomalies";
                return Err(bad(words.to_owned()));
            }
        }
    }
    let series = series.and_then(|id| u32::try_from(id).ok()).map(SeriesId);
    let series = series.ok_or_else(|| bad("series is missing: an id of /v1/series".to_owned()))?;
    let to_ms = to.unwrap_or(now_ms);
    let from_ms = from.unwrap_or(to_ms.saturating_sub(3_600_000));
    Ok(HistoryQuery { series, from_ms, to_ms, points_max, raw, anomalies })
}

fn page() -> Response<Full<Bytes>> {
    let mut page = respond(StatusCode::OK, "text/html; charset=utf-8", PAGE.to_owned());
    // What plugins and strangers name is shown as text; this is the second lock.
    page.headers_mut().insert(
        CONTENT_SECURITY_POLICY,
        HeaderValue::from_static(
            "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; \
             connect-src 'self' ws: wss:; frame-ancestors 'none'; base-uri 'none'; form-action 'none'",
        ),
    );
    page
}

pub(super) fn nothing() -> Response<Full<Bytes>> {
    error(StatusCode::NOT_FOUND, "not_found", "there is nothing at this path")
}

pub(super) fn refuse(status: StatusCode, refusal: &Refusal) -> Response<Full<Bytes>> {
    let mut response = body(status, &json!({"error": refusal}));
    response.extensions_mut().insert(ErrorCode(refusal.code));
    response
}

// What is noted of answers, on their way out.

/// The code of a refusal.
#[derive(Clone, Copy, Debug)]
pub(super) struct ErrorCode(pub(super) &'static str);

/// The user who has asked.
#[derive(Clone, Debug)]
pub(super) struct AskedBy(pub(super) Arc<str>);

/// What an administrator has done, to which plugin or user.
#[derive(Clone, Debug)]
pub(super) struct Done(pub(super) &'static str, pub(super) Box<str>);

/// An error in the shape that the native protocol has too.
pub(super) fn error(status: StatusCode, code: &'static str, words: &str) -> Response<Full<Bytes>> {
    refuse(status, &Refusal::new(code, words))
}

/// An error that is over after a while, with its `Retry-After`.
pub(super) fn not_now(
    status: StatusCode,
    code: &'static str,
    words: &str,
    retry_after: Duration,
) -> Response<Full<Bytes>> {
    let refusal = Refusal {
        temporary: true,
        retry_after_ms: u64::try_from(retry_after.as_millis()).ok().map(|ms| ms.max(1)),
        ..Refusal::new(code, words)
    };
    let mut response = refuse(status, &refusal);
    let seconds = retry_after.as_millis().div_ceil(1000).max(1).to_string();
    if let Ok(seconds) = HeaderValue::from_str(&seconds) {
        response.headers_mut().insert(RETRY_AFTER, seconds);
    }
    response
}

pub(super) fn body(status: StatusCode, value: &serde_json::Value) -> Response<Full<Bytes>> {
    respond(status, JSON, value.to_string())
}

pub(super) fn respond_json(status: StatusCode, text: String) -> Response<Full<Bytes>> {
    respond(status, JSON, text)
}

fn respond(status: StatusCode, content_type: &'static str, text: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(text)));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_history_query_has_defaults_and_says_what_is_wrong() {
        let query = history_query("series=7", 10_000_000).unwrap();
        assert_eq!(
            (query.series, query.from_ms, query.to_ms),
            (SeriesId(7), 6_400_000, 10_000_000)
        );
        assert_eq!((query.points_max, query.raw), (POINTS_DEFAULT, false));
        let query =
            history_query("series=7&from=5&to=1970-01-01T00%3A00%3A09Z&points=3&raw", 0).unwrap();
        assert_eq!((query.from_ms, query.to_ms, query.points_max, query.raw), (5, 9000, 3, true));
        for (text, words) in [
            ("", "series is missing"),
            ("series=x", "series is no number"),
            ("series=1&until=2", "the parameters are"),
            ("series=1&from=noon", "neither RFC 3339"),
        ] {
            let refusal = history_query(text, 0).unwrap_err();
            assert!(refusal.reason.contains(words), "{refusal:?} does not say {words:?}");
        }
    }
}
