//! The API of detectors: their shadows, what these find, and who takes whose
//! place. Whatever changes one is for admins.

use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{ALLOW, HeaderValue};
use hyper::{Method, Request, Response, StatusCode};
use serde_json::json;

use super::plugins::{done, refuse};
use super::routes::{READ_MAX, body, error, refuse as refuse_with};
use super::token;
use crate::access::Identity;
use crate::contrast::{self, ContrastError, Wanted};
use crate::dialect::native::{Refusal, instant};
use crate::plugin::PluginRole;
use crate::session::Services;
use crate::store::StoreError;

type Answer = Response<Full<Bytes>>;

/// Answers `/v1/detectors`, or a request below it; `rest` is what follows.
pub(super) async fn answer<B>(
    who: &Identity,
    services: &Services,
    request: &Request<B>,
    rest: &str,
) -> Answer {
    let (name, act) = rest.split_once('/').unwrap_or((rest, ""));
    let method = request.method();
    let allowed = match act {
        "" if name.is_empty() => "GET, HEAD",
        "shadow" => "POST, DELETE",
        "diff" => "GET, HEAD",
        "promote" | "rollback" => "POST",
        _ => return super::routes::nothing(),
    };
    if !allowed.split(", ").any(|allowed| allowed == method.as_str()) {
        let words = format!("this path answers {allowed}");
        let mut refused = error(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", &words);
        refused.headers_mut().insert(ALLOW, HeaderValue::from_static(allowed));
        return refused;
    }
    let query = request.uri().query().unwrap_or_default();
    match act {
        "" if !who.reads_all() => token::denied(),
        "" => list(services),
        // Who may read some series is told of these.
        "diff" => diff(who, services, name, query).await,
        _ if !who.admin => token::for_admins(who),
        "shadow" if *method == Method::DELETE => {
            done("detector shadow stop", name, stop(services, name).await)
        }
        "shadow" => done("detector shadow", name, shadow(services, name, query).await),
        "promote" => {
            let promoted = services.plugins.promote(name).await;
            done("detector promote", name, told(promoted))
        }
        _ => done("detector rollback", name, told(services.plugins.go_back(name).await)),
    }
}

/// The detectors, and what runs in their shadows.
fn list(services: &Services) -> Answer {
    let mut detectors = services.statuses.list();
    detectors.retain(|status| status.role == Some(PluginRole::Detector));
    body(StatusCode::OK, &json!({"detectors": detectors}))
}

/// `component=` and `settings=` are paths on the hub's machine.
async fn shadow(services: &Services, name: &str, query: &str) -> Answer {
    let (mut component, mut settings) = (None, None);
    for (key, value) in form_urlencoded::parse(query.as_bytes()) {
        let path = PathBuf::from(&*value);
        match &*key {
            // The hub's working folder is nobody else's.
            "component" | "settings" if !path.is_absolute() => {
                let words = format!("{key} is no absolute path of the hub's machine");
                return error(StatusCode::BAD_REQUEST, "bad_request", &words);
            }
            "component" => component = Some(path),
            "settings" => settings = Some(path),
            // Has been read.
            token::PARAMETER => {}
            _ => {
                let words = "the parameters are component and settings, paths of files";
                return error(StatusCode::BAD_REQUEST, "bad_request", words);
            }
        }
    }
    let Some(component) = component else {
        let words = "component is missing: the path of a file, NAME.wasm";
        return error(StatusCode::BAD_REQUEST, "bad_request", words);
    };
    told(services.plugins.shadow(name, component, settings).await)
}

async fn stop(services: &Services, name: &str) -> Answer {
    match services.plugins.stop_shadow(name).await {
        Ok(()) => body(StatusCode::OK, &json!({"detector": name, "shadow": null})),
        Err(failed) => refuse(&failed),
    }
}

fn told(outcome: Result<crate::plugin::PluginStatus, crate::plugin::ControlError>) -> Answer {
    match outcome {
        Ok(status) => body(StatusCode::OK, &json!(status)),
        Err(failed) => refuse(&failed),
    }
}

async fn diff(who: &Identity, services: &Services, name: &str, query: &str) -> Answer {
    let wanted = Wanted::of(name, services.clock.now_ms(), services.hub.tick);
    let wanted = match narrowed(wanted, query) {
        Ok(wanted) => wanted,
        Err(refusal) => return refuse_with(StatusCode::BAD_REQUEST, &refusal),
    };
    let told = contrast::tell(&services.reader, &services.statuses, &wanted, who);
    let told = tokio::time::timeout(READ_MAX, told).await;
    match told.unwrap_or(Err(ContrastError::Store(StoreError::Stopping))) {
        Ok(told) => body(StatusCode::OK, &told),
        Err(failed) => {
            let status = match failed {
                ContrastError::NoShadow(_) => StatusCode::NOT_FOUND,
                ContrastError::Store(_) => StatusCode::SERVICE_UNAVAILABLE,
            };
            refuse_with(status, &Refusal::from(failed))
        }
    }
}

/// `since=…&within_ms=…&listed=…`; all may be left out.
fn narrowed(mut wanted: Wanted, query: &str) -> Result<Wanted, Refusal> {
    for (key, value) in form_urlencoded::parse(query.as_bytes()) {
        let number = || {
            let words = format!("{key} is no number");
            value.parse::<u64>().map_err(|_| Refusal::new("bad_request", words))
        };
        match &*key {
            "since" => wanted.since_ms = Some(instant(&value)?),
            "within_ms" => {
                wanted.within = Duration::from_millis(number()?).min(contrast::WITHIN_MAX)
            }
            "listed" => wanted.listed = usize::try_from(number()?).unwrap_or(usize::MAX),
            // Has been read.
            token::PARAMETER => {}
            _ => {
                let words = "the parameters are since, within_ms and listed";
                return Err(Refusal::new("bad_request", words));
            }
        }
    }
    Ok(wanted)
}
