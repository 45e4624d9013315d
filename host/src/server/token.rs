//! The token that a request shows, who shows it, and what is said to those who
//! may not have what they ask for.

use std::borrow::Cow;
use std::sync::Arc;

use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{AUTHORIZATION, HeaderValue, WWW_AUTHENTICATE};
use hyper::{Request, Response, StatusCode};

use super::routes::error;
use crate::access::Identity;
use crate::session::Services;

/// What anybody may ask for: the page, which shows nothing by itself, whether
/// the hub is well, and what has its own signature.
const OPEN: [&str; 5] = ["/", "/healthz", "/health", "/readyz", "/webhooks/github"];
/// The beginning of paths whose requests have their own signature.
const SIGNED: &str = "/v1/hooks/";
/// The parameter of a query that may hold a token.
pub(crate) const PARAMETER: &str = "token";
/// What is said to who must show a token and has not shown a good one.
pub(crate) const WORDS: &str = "this needs a token: `Authorization: Bearer` or `?token=`";
/// What requests over HTTP are called among the dialects.
const HTTP: &str = "http";

/// The token of a request: of `Authorization: Bearer`, or else of `?token=`,
/// for those who can't set headers. It has not been checked.
pub(crate) fn of<B>(request: &Request<B>) -> Option<Cow<'_, str>> {
    let header = request.headers().get(AUTHORIZATION).and_then(|value| value.to_str().ok());
    let bearer = header.and_then(|value| {
        let (scheme, token) = value.split_once(' ')?;
        scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
    });
    let in_query = || {
        let query = request.uri().query()?;
        let found = form_urlencoded::parse(query.as_bytes()).find(|(key, _)| key == PARAMETER);
        found.map(|(_, token)| token)
    };
    bearer.map(Cow::Borrowed).or_else(in_query).filter(|token| !token.is_empty())
}

/// Who asks, where that matters.
///
/// # Errors
///
/// Nobody who may: the answer to a stranger, the same whatever was asked for.
#[expect(clippy::result_large_err, reason = "it is the answer, and passed on at once")]
pub(crate) fn who<B>(
    services: &Services,
    request: &Request<B>,
) -> Result<Arc<Identity>, Response<Full<Bytes>>> {
    let path = request.uri().path();
    if OPEN.contains(&path) || path.starts_with(SIGNED) {
        return Ok(Identity::anonymous());
    }
    let who = services.access.admit(of(request).as_deref(), HTTP);
    who.ok_or_else(|| wanted(WORDS))
}

/// The answer to who must show a token first.
pub(crate) fn wanted(words: &str) -> Response<Full<Bytes>> {
    let mut refused = error(StatusCode::UNAUTHORIZED, "unauthorized", words);
    refused.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    refused
}

/// The answer to who has shown a token that does not allow it.
pub(crate) fn denied() -> Response<Full<Bytes>> {
    error(StatusCode::FORBIDDEN, "denied", "this token does not allow it")
}

/// The answer to who asks for what only admins may have, and is none.
pub(crate) fn for_admins(who: &Identity) -> Response<Full<Bytes>> {
    if who.is_authenticated {
        return denied();
    }
    wanted(
        "this needs `Authorization: Bearer` with the admin token of hub.json in the hub's data \
         folder, or a token with the claim `admin`",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_in_the_head_or_in_the_query() {
        let shown = |uri: &str, header: Option<&str>| {
            let mut request = Request::get(uri);
            if let Some(header) = header {
                request = request.header(AUTHORIZATION, header);
            }
            of(&request.body(()).unwrap()).map(Cow::into_owned)
        };
        for (uri, header, token) in [
            ("/", None, None),
            ("/", Some("Bearer a.b.c"), Some("a.b.c")),
            ("/", Some("bearer  a.b.c "), Some("a.b.c")),
            ("/?x=1&token=a%2Eb.c", None, Some("a.b.c")),
            ("/?token=other", Some("Bearer a.b.c"), Some("a.b.c")),
            ("/?token=a.b.c", Some("Basic YTpi"), Some("a.b.c")),
            ("/?token=", Some("Bearer "), None),
            ("/?token=", Some("Bearer"), None),
        ] {
            assert_eq!(shown(uri, header).as_deref(), token, "{uri} {header:?}");
        }
    }
}
