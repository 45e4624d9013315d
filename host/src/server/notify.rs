//! The API of who is told of findings: how each is doing, and what can be done
//! about what could not be sent. All of it is for admins: where findings go is
//! nobody else's affair.

use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{ALLOW, HeaderValue};
use hyper::{Method, Request, Response, StatusCode};
use serde_json::json;

use super::routes::{Done, body, error, nothing};
use super::token;
use crate::access::Identity;
use crate::notify::{DeliveryError, Notify};

type Answer = Response<Full<Bytes>>;

/// Answers a request below `/v1/notify`; `rest` is what follows that.
pub(super) async fn answer<B>(
    who: &Identity,
    notify: &Notify,
    request: &Request<B>,
    rest: &str,
) -> Answer {
    let path: Vec<&str> = rest.split('/').skip(1).collect();
    let (name, allowed) = match (rest.is_empty() || rest.starts_with('/'), &path[..]) {
        (true, []) => ("", "GET, HEAD"),
        (true, [name, "dead"]) => (*name, "GET, HEAD, DELETE"),
        (true, [name, "retry" | "test"]) => (*name, "POST"),
        _ => return nothing(),
    };
    let method = request.method();
    if !allowed.split(", ").any(|allowed| allowed == method.as_str()) {
        let words = format!("this path answers {allowed}");
        let mut refused = error(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", &words);
        refused.headers_mut().insert(ALLOW, HeaderValue::from_static(allowed));
        return refused;
    }
    if !who.admin {
        return token::for_admins(who);
    }
    let number = match number(request.uri().query().unwrap_or_default()) {
        Ok(number) => number,
        Err(refused) => return *refused,
    };
    match (path.get(1).copied(), method) {
        (None, _) => said(notify.list().await.map(|list| json!({"receivers": list}))),
        (Some("dead"), &Method::DELETE) => {
            let dropped = notify.drop(name, number).await;
            done("notify drop", name, said(dropped.map(|count| json!({"dropped": count}))))
        }
        (Some("dead"), _) => {
            said(notify.dead(name, number).await.map(|letters| json!({"dead": letters})))
        }
        (Some("retry"), _) => {
            let retried = notify.retry(name, number).await;
            done("notify retry", name, said(retried.map(|count| json!({"retried": count}))))
        }
        (Some(_), _) => {
            let tried = notify.test(name).await;
            done("notify test", name, said(tried.map(|tried| json!(tried))))
        }
    }
}

/// An answer to somebody who has done something, or tried to.
fn done(what: &'static str, name: &str, mut answer: Answer) -> Answer {
    answer.extensions_mut().insert(Done(what, name.into()));
    answer
}

/// The letter that a query names, if it names one.
fn number(query: &str) -> Result<Option<u64>, Box<Answer>> {
    let mut number = None;
    for (key, value) in form_urlencoded::parse(query.as_bytes()) {
        match (&*key, value.parse().ok()) {
            ("number", Some(letter)) => number = Some(letter),
            // Has been read.
            (token::PARAMETER, _) => {}
            _ => {
                let words = "the parameter is number, a dead letter's";
                return Err(Box::new(error(StatusCode::BAD_REQUEST, "bad_request", words)));
            }
        }
    }
    Ok(number)
}

fn said(answer: Result<serde_json::Value, DeliveryError>) -> Answer {
    match answer {
        Ok(answer) => body(StatusCode::OK, &answer),
        Err(failed) => {
            let (status, code) = match failed {
                DeliveryError::NoReceiver(_) | DeliveryError::NoLetter(..) => {
                    (StatusCode::NOT_FOUND, "not_found")
                }
                DeliveryError::Store(_) => (StatusCode::SERVICE_UNAVAILABLE, "unavailable"),
                DeliveryError::Stopping => (StatusCode::SERVICE_UNAVAILABLE, "stopping"),
            };
            error(status, code, &failed.to_string())
        }
    }
}
