//! The API of single plugins: what each is and says, and what can be done to
//! it. Whatever changes one, or shows what it says, needs the admin token.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{ALLOW, AUTHORIZATION, HeaderMap, HeaderValue};
use hyper::{Method, Request, Response, StatusCode};
use serde_json::json;

use super::routes::{body, error};
use crate::plugin::ControlError;
use crate::session::Services;
use crate::shutdown::Shutdown;

/// The longest wait for a line of a plugin's log: shorter than what proxies
/// and clients give up after.
const LINES_WAIT_MAX: Duration = Duration::from_secs(25);

type Answer = Response<Full<Bytes>>;

/// Answers a request below `/v1/plugins/`; `rest` is what follows that.
pub(super) async fn answer<B>(
    services: &Services,
    shutdown: &Shutdown,
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
    if !open && !is_admin(services, request.headers()) {
        return error(
            StatusCode::UNAUTHORIZED,
            "unauthorized",
            "this needs `Authorization: Bearer` with the admin token of hub.json in the hub's \
             data folder",
        );
    }
    let query = request.uri().query().unwrap_or_default();
    match (act, method) {
        ("", &Method::DELETE) => remove(services, name, query).await,
        ("", _) => details(services, name),
        ("logs", _) => lines(services, shutdown.clone(), name, query).await,
        _ => resume(services, name).await,
    }
}

fn is_admin(services: &Services, headers: &HeaderMap) -> bool {
    let token = headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok());
    let token = token.and_then(|value| value.strip_prefix("Bearer "));
    token.is_some_and(|token| services.hub.is_admin(token))
}

fn details(services: &Services, name: &str) -> Answer {
    match services.statuses.details(name) {
        Some(details) => body(StatusCode::OK, &json!(details)),
        None => refuse(&ControlError::NotFound(name.to_owned())),
    }
}

async fn lines(services: &Services, mut shutdown: Shutdown, name: &str, query: &str) -> Answer {
    let (mut after, mut wait) = (0, Duration::ZERO);
    for (key, value) in form_urlencoded::parse(query.as_bytes()) {
        let number = value.parse::<u64>().ok();
        match (&*key, number) {
            ("after", Some(number)) => after = number,
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
    let purge = match query {
        "" | "purge=false" => false,
        "purge=true" => true,
        _ => {
            let words = "the parameter is purge, true or false";
            return error(StatusCode::BAD_REQUEST, "bad_request", words);
        }
    };
    match services.plugins.remove(name, purge).await {
        Ok(removed) => body(StatusCode::OK, &json!(removed)),
        Err(failed) => refuse(&failed),
    }
}

fn refuse(failed: &ControlError) -> Answer {
    let (status, code) = match failed {
        ControlError::NotFound(_) => (StatusCode::NOT_FOUND, "not_found"),
        ControlError::Refused(_) => (StatusCode::CONFLICT, "conflict"),
        ControlError::Stopping => (StatusCode::SERVICE_UNAVAILABLE, "stopping"),
    };
    error(status, code, &failed.to_string())
}
