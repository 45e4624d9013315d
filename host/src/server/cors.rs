//! Pages of other origins: which may come in, and what browsers are to be told
//! so that these can read the answers (the Fetch standard, "CORS protocol").

use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{
    ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS,
    ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE,
    ACCESS_CONTROL_REQUEST_HEADERS, ACCESS_CONTROL_REQUEST_METHOD, HeaderMap, HeaderValue, ORIGIN,
    VARY,
};
use hyper::{Method, Request, Response, StatusCode};

use super::guard::{Refusal, names_loopback};
use crate::config::Config;

/// All methods that any path answers.
const METHODS: HeaderValue = HeaderValue::from_static("GET, HEAD, POST, PUT, DELETE");
/// What pages may send beside what all may.
const HEADERS: HeaderValue =
    HeaderValue::from_static("Authorization, Content-Type, Idempotency-Key");
/// What pages may read beside what all may.
const EXPOSED: HeaderValue = HeaderValue::from_static("Retry-After");
/// How long a browser need not ask again, in seconds: what is allowed may
/// change with the next start.
const MAX_AGE: HeaderValue = HeaderValue::from_static("600");

const BAD_ORIGIN: Refusal = Refusal {
    code: "bad_origin",
    words: "this page may not connect: add its origin to cors.origins",
};

/// The pages that may come in.
#[derive(Debug)]
pub(super) struct Cors {
    /// In small letters, and without a slash at the end.
    origins: Vec<String>,
    credentials: bool,
}

impl Cors {
    pub(super) fn new(config: &Config) -> Self {
        let trim = |origin: &String| origin.trim_end_matches('/').to_ascii_lowercase();
        let origins = config.cors.origins.iter().map(trim).collect();
        Self { origins, credentials: config.cors.credentials }
    }

    /// The origin of the page that asks; `None` where no page does.
    pub(super) fn admit(&self, headers: &HeaderMap) -> Result<Option<HeaderValue>, Refusal> {
        let mut origins = headers.get_all(ORIGIN).iter();
        let Some(value) = origins.next() else { return Ok(None) };
        let origin = value.to_str().map_err(|_| BAD_ORIGIN)?.to_ascii_lowercase();
        let authority = origin.split_once("://").map_or("", |(_, authority)| authority);
        let is_allowed = names_loopback(authority) || self.origins.contains(&origin);
        if is_allowed && origins.next().is_none() {
            return Ok(Some(value.clone()));
        }
        Err(BAD_ORIGIN)
    }

    /// Whether a page that may come in is served under this name.
    pub(super) fn names(&self, host: &str) -> bool {
        let name = |authority: &str| {
            let host = match authority.rsplit_once(':') {
                Some((host, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => host,
                _ => authority,
            };
            host.to_ascii_lowercase()
        };
        let host = name(host);
        let mut origins = self.origins.iter().filter_map(|origin| origin.split_once("://"));
        !host.is_empty() && origins.any(|(_, authority)| name(authority) == host)
    }

    /// Lets the page that asked read the answer. What no page has asked for
    /// says that it would be another answer if one had.
    pub(super) fn mark(&self, page: Option<&HeaderValue>, headers: &mut HeaderMap) {
        headers.append(VARY, HeaderValue::from_static("origin"));
        let Some(origin) = page else { return };
        headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
        headers.insert(ACCESS_CONTROL_EXPOSE_HEADERS, EXPOSED);
        if self.credentials {
            headers.insert(ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true"));
        }
    }
}

/// The answer to a browser that asks whether a page may ask. Its page has been
/// admitted.
pub(super) fn preflight<B>(request: &Request<B>) -> Option<Response<Full<Bytes>>> {
    let asked = request.headers();
    let is_asked = *request.method() == Method::OPTIONS
        && asked.contains_key(ORIGIN)
        && asked.contains_key(ACCESS_CONTROL_REQUEST_METHOD);
    if !is_asked {
        return None;
    }
    let mut response = Response::new(Full::default());
    *response.status_mut() = StatusCode::NO_CONTENT;
    let headers = response.headers_mut();
    headers.insert(ACCESS_CONTROL_ALLOW_METHODS, METHODS);
    headers.insert(ACCESS_CONTROL_ALLOW_HEADERS, HEADERS);
    headers.insert(ACCESS_CONTROL_MAX_AGE, MAX_AGE);
    for varies in [ACCESS_CONTROL_REQUEST_METHOD, ACCESS_CONTROL_REQUEST_HEADERS] {
        headers.append(VARY, varies.into());
    }
    Some(response)
}
