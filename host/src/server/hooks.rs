//! Webhooks over HTTP.

use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Body;
use hyper::header::{CONTENT_TYPE, HeaderMap};
use hyper::{Method, Request, Response, StatusCode};
use serde_json::json;

use super::events::{not_allowed, refused, refused_with};
use super::routes::{Intake, body, error, nothing};
use crate::dialect::native::Refusal;
use crate::events::{Events, PublishError};
use crate::hooks::{Delivery, Github, Sent};
use crate::model::{Draft, Receipt};
use crate::session::Services;
use crate::shutdown::Shutdown;

/// The longest delivery. GitHub sends up to 25 MB, which only pushes of
/// thousands of commits have.
const BODY_BYTES_MAX: usize = 5 * 1024 * 1024;
/// How long an event that finds no room is tried again: GitHub waits for 10 s,
/// and doesn't try again by itself.
const TRY_AGAIN: [Duration; 4] = [
    Duration::from_millis(250),
    Duration::from_millis(500),
    Duration::from_secs(1),
    Duration::from_secs(2),
];

/// `POST /v1/hooks/github`
pub(super) async fn github<B>(
    services: &Services,
    intake: &Intake,
    shutdown: &Shutdown,
    request: Request<B>,
) -> Response<Full<Bytes>>
where
    B: Body<Data = Bytes>,
    B::Error: Into<Box<dyn Error + Send + Sync>>,
{
    let Some(github) = &intake.github else { return nothing() };
    if request.method() != Method::POST {
        return not_allowed("POST");
    }
    let (head, incoming) = request.into_parts();
    let header = |name: &str| one(&head.headers, name);
    let Some(signature) = header("x-hub-signature-256") else { return not_genuine() };
    let whole = match intake.deliveries.read(incoming, BODY_BYTES_MAX).await {
        Ok(whole) => whole,
        Err((status, refusal)) => return refused_with(status, &refusal),
    };
    if !github.is_genuine(signature, &whole.bytes) {
        tracing::warn!("a delivery to the webhook was refused: its signature is of another secret");
        return not_genuine();
    }
    let sent = Sent {
        event: header("x-github-event").unwrap_or_default(),
        is_form: header(CONTENT_TYPE.as_str())
            .is_some_and(|kind| kind.starts_with("application/x-www-form-urlencoded")),
        body: &whole.bytes,
    };
    match github.read(sent) {
        Ok(Delivery::Ping) => body(StatusCode::OK, &json!({"pong": true})),
        Ok(Delivery::Ignored(what)) => body(StatusCode::OK, &json!({"ignored": what})),
        Ok(Delivery::Event(draft)) => {
            let Some(delivery) = header("x-github-delivery") else {
                let words = "the header X-GitHub-Delivery is missing";
                return error(StatusCode::BAD_REQUEST, "bad_request", words);
            };
            let key = format!("github/{delivery}");
            drop(whole);
            match publish(&services.events, github, *draft, key, shutdown.clone()).await {
                Ok(receipt) => body(StatusCode::OK, &json!(receipt)),
                Err(failed) => refused(&Refusal::from(&failed)),
            }
        }
        Err(words) => {
            tracing::warn!(%words, "a delivery to the webhook is none of GitHub's");
            error(StatusCode::UNPROCESSABLE_ENTITY, "bad_request", &words)
        }
    }
}

/// A header that is there once.
fn one<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    let mut values = headers.get_all(name).iter();
    let value = values.next()?.to_str().ok()?;
    values.next().is_none().then_some(value)
}

/// No word of what is wrong: whoever can't sign has no business here.
fn not_genuine() -> Response<Full<Bytes>> {
    error(StatusCode::UNAUTHORIZED, "unauthorized", "the delivery was refused")
}

async fn publish(
    events: &Events,
    github: &Arc<Github>,
    draft: Draft,
    key: String,
    mut shutdown: Shutdown,
) -> Result<Receipt, PublishError> {
    let mut waits = TRY_AGAIN.into_iter();
    loop {
        let drafts = vec![(draft.clone(), Some(key.clone()))];
        let outcome = events.publish(github.identity(), drafts).await.pop();
        let outcome = outcome.unwrap_or(Err(PublishError::Stopping));
        let (Err(PublishError::Busy), Some(wait)) = (&outcome, waits.next()) else {
            return outcome;
        };
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            () = shutdown.requested() => return outcome,
        }
    }
}
