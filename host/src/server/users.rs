//! What can be done to users, by admins.

use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{ALLOW, HeaderValue};
use hyper::{Method, Response, StatusCode};
use serde_json::json;

use super::routes::{Done, body, error};
use super::token;
use crate::access::Identity;
use crate::session::Services;

/// Answers a request below `/v1/users/`; `rest` is what follows that.
pub(super) fn answer(
    who: &Identity,
    services: &Services,
    method: &Method,
    rest: &str,
) -> Response<Full<Bytes>> {
    let Some((user, "disconnect")) = rest.rsplit_once('/') else {
        return error(StatusCode::NOT_FOUND, "not_found", "there is nothing at this path");
    };
    if *method != Method::POST {
        let words = "this path answers POST";
        let mut refused = error(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", words);
        refused.headers_mut().insert(ALLOW, HeaderValue::from_static("POST"));
        return refused;
    }
    if !who.admin {
        return token::for_admins(who);
    }
    let user = decode(user);
    let disconnected = services.clients.disconnect(&user);
    tracing::info!(by = %who.user, %user, disconnected, "a user's connections were ended");
    let mut answer = body(StatusCode::OK, &json!({"disconnected": disconnected}));
    answer.extensions_mut().insert(Done("user disconnect", user.into()));
    answer
}

/// A part of a path as it was before it was written into one.
fn decode(part: &str) -> String {
    // These mean something in a query, and nothing in a path.
    let part = part.replace('+', "%2B").replace('&', "%26").replace('=', "%3D");
    form_urlencoded::parse(part.as_bytes()).map(|(name, _)| name.into_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_may_have_any_name() {
        for (part, user) in [
            ("ana", "ana"),
            ("ana%40example.org", "ana@example.org"),
            ("ana+test@example.org", "ana+test@example.org"),
            ("a%2Fb", "a/b"),
            ("a/b", "a/b"),
            ("a&b=c", "a&b=c"),
            ("100%25", "100%"),
            ("", ""),
        ] {
            assert_eq!(decode(part), user, "{part}");
        }
    }
}
