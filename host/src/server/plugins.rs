//! The API of single plugins: what each is and says, and what can be done to
//! it. Whatever changes one, or shows what it says, is for admins.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{ALLOW, HeaderValue};
use hyper::{Method, Request, Response, StatusCode};
use serde_json::json;

use super::routes::{Done, Readiness, body, error};
use super::token;
use crate::access::Identity;
use crate::plugin::ControlError;
use crate::session::Services;
use crate::shutdown::Shutdown;

/// The longest wait for a line of a plugin's log: shorter than what proxies
/// and clients give up after.
const LINES_WAIT_MAX: Duration = Duration::from_secs(25);

type Answer = Response<Full<Bytes>>;

/// Answers a request below `/v1/plugins/`; `rest` is what follows that.
pub(super) async fn answer<B>(
    who: &Identity,
    services: &Services,
    readiness: &Readiness,
    request: &Request<B>,
    rest: &str,
) -> Answer {
    let (name, act) = rest.split_once('/').unwrap_or((rest, ""));
    let method = request.method();
    let allowed = match act {
        "" => "GET, HEAD, DELETE",
        "logs" => "GET, HEAD",
        "resume" => "POST",
        _ => return error(StatusCode::NOT_FOUND, "not_found", "there is nothing at this path"),
    };
    if !allowed.split(", ").any(|allowed| allowed == method.as_str()) {
        let words = format!("this path answers {allowed}");
        let mut refused = error(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", &words);
        refused.headers_mut().insert(ALLOW, HeaderValue::from_static(allowed));
        return refused;
    }
    let open = act.is_empty() && *method != Method::DELETE;
    if !open && !who.admin {
        return token::for_admins(who);
    }
    if open && !who.reads_all() {
        return token::denied();
    }
    let query = request.uri().query().unwrap_or_default();
    match (act, method) {
        ("", &Method::DELETE) => done("plugin remove", name, remove(services, name, query).await),
        ("", _) => details(services, readiness, name).await,
        ("logs", _) => lines(services, readiness.shutdown.clone(), name, query).await,
        _ => done("plugin resume", name, resume(services, name).await),
    }
}

/// An answer to somebody who has done something, or tried to.
pub(super) fn done(what: &'static str, name: &str, mut answer: Answer) -> Answer {
    answer.extensions_mut().insert(Done(what, name.into()));
    answer
}

/// What is known of it, and which of its series `/metrics` leaves out.
async fn details(services: &Services, readiness: &Readiness, name: &str) -> Answer {
    let Some(details) = services.statuses.details(name) else {
        return refuse(&ControlError::NotFound(name.to_owned()));
    };
    let mut details = json!(details);
    details["left_out"] = json!(readiness.exposition.left_out(&readiness.snapshot, name).await);
    body(StatusCode::OK, &details)
}

async fn lines(services: &Services, mut shutdown: Shutdown, name: &str, query: &str) -> Answer {
    let (mut after, mut wait) = (0, Duration::ZERO);
    for (key, value) in form_urlencoded::parse(query.as_bytes()) {
        let number = value.parse::<u64>().ok();
        match (&*key, number) {
            ("after", Some(number)) => after = number,
            // Has been read.
            (token::PARAMETER, _) => {}
            ("wait_ms", Some(ms)) => wait = Duration::from_millis(ms).min(LINES_WAIT_MAX),
            _ => {
                let words = "the parameters are after and wait_ms, both numbers";
                return error(StatusCode::BAD_REQUEST, "bad_request", words);
            }
        }
    }
    let found = tokio::select! {
        found = services.statuses.lines(name, after, wait) => found,
        // Who waits for a line does not hold up the stop.
        () = shutdown.requested() => return refuse(&ControlError::Stopping),
    };
    match found {
        Some(lines) => {
            let next = lines.last().map_or(after, |line| line.seq);
            body(StatusCode::OK, &json!({"lines": lines, "next": next}))
        }
        None => refuse(&ControlError::NotFound(name.to_owned())),
    }
}

async fn resume(services: &Services, name: &str) -> Answer {
    match services.plugins.resume(name).await {
        Ok(state) => body(StatusCode::OK, &json!({"plugin": name, "state": state})),
        Err(failed) => refuse(&failed),
    }
}

async fn remove(services: &Services, name: &str, query: &str) -> Answer {
    let mut purge = false;
    for (key, value) in form_urlencoded::parse(query.as_bytes()) {
        match (&*key, &*value) {
            ("purge", "false") => purge = false,
            ("purge", "true") => purge = true,
            // Has been read.
            (token::PARAMETER, _) => {}
            _ => {
                let words = "the parameter is purge, true or false";
                return error(StatusCode::BAD_REQUEST, "bad_request", words);
            }
        }
    }
    match services.plugins.remove(name, purge).await {
        Ok(removed) => body(StatusCode::OK, &json!(removed)),
        Err(failed) => refuse(&failed),
    }
}

pub(super) fn refuse(failed: &ControlError) -> Answer {
    let (status, code) = match failed {
        ControlError::NotFound(_) => (StatusCode::NOT_FOUND, "not_found"),
        ControlError::Refused(_) => (StatusCode::CONFLICT, "conflict"),
        ControlError::Stopping => (StatusCode::SERVICE_UNAVAILABLE, "stopping"),
    };
    error(status, code, &failed.to_string())
}
