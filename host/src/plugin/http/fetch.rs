//! The `http` import: a whole response for a whole request.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::header::{CONTENT_LENGTH, HeaderName, HeaderValue};
use hyper::{HeaderMap, Method, Request, Uri};
use wasmtime_wasi_http::DEFAULT_FORBIDDEN_HEADERS;

use super::body::ResponseBody;
use super::{Connector, HEAD_BYTES_MAX, HttpError, Patience, RequestBody, cut};
use crate::plugin::bindings::telltale::plugin::http;

/// The longest body that is read.
const BODY_BYTES_MAX: usize = 1024 * 1024;
/// Headers of a request; hyper takes as many of a response.
const HEADERS_MAX: usize = 100;

impl Connector {
    /// Sends a request and waits for the whole answer, but no longer than
    /// `wait_max`.
    pub(crate) async fn fetch(
        &self,
        request: http::Request,
        wait_max: Duration,
    ) -> Result<http::Response, http::Error> {
        let asked = |limit: u32| if limit == 0 { u32::MAX } else { limit };
        let whole = Duration::from_millis(asked(request.timeout_ms).into()).min(wait_max);
        let bytes_max = (asked(request.body_limit) as usize).min(BODY_BYTES_MAX);
        let response = self.exchange(parse(request)?, Patience::of(whole)).await?;
        let (head, body) = response.into_parts();
        let (body, truncated) = read(body, bytes_max).await?;
        let headers = head.headers.iter().map(|(name, value)| http::Header {
            name: name.as_str().to_owned(),
            value: value.as_bytes().to_owned(),
        });
        let headers = headers.collect();
        Ok(http::Response { status: head.status.as_u16(), headers, body, truncated })
    }
}

fn parse(request: http::Request) -> Result<Request<RequestBody>, HttpError> {
    let url = &request.url;
    let uri: Uri =
        url.parse().map_err(|error| HttpError::Invalid(format!("{:?}: {error}", cut(url))))?;
    let method = Method::from_bytes(request.method.as_bytes())
        .map_err(|_| HttpError::Invalid(format!("{:?} is no method", cut(&request.method))))?;
    let body = Full::new(Bytes::from(request.body.unwrap_or_default()));
    let mut parsed = Request::new(body.map_err(|never| match never {}).boxed_unsync());
    *parsed.uri_mut() = uri;
    *parsed.method_mut() = method;
    *parsed.headers_mut() = parse_headers(request.headers)?;
    Ok(parsed)
}

fn parse_headers(headers: Vec<http::Header>) -> Result<HeaderMap, HttpError> {
    let bytes: usize = headers.iter().map(|header| header.name.len() + header.value.len()).sum();
    if headers.len() > HEADERS_MAX || bytes > HEAD_BYTES_MAX {
        return Err(HttpError::Invalid(format!(
            "{} headers of {bytes} bytes, and {HEADERS_MAX} of {HEAD_BYTES_MAX} are the limit",
            headers.len()
        )));
    }
    let mut map = HeaderMap::with_capacity(headers.len());
    for http::Header { name, value } in headers {
        let wrong = |words: &str| HttpError::Invalid(format!("header {:?} {words}", cut(&name)));
        let parsed = HeaderName::try_from(&*name).map_err(|_| wrong("is no name of a header"))?;
        if parsed == CONTENT_LENGTH || DEFAULT_FORBIDDEN_HEADERS.contains(&parsed) {
            return Err(wrong("is the hub's to set"));
        }
        let value = HeaderValue::try_from(value).map_err(|_| wrong("has no legal value"))?;
        map.append(parsed, value);
    }
    Ok(map)
}

/// The start of a body, and whether there was more of it.
async fn read(mut body: ResponseBody, bytes_max: usize) -> Result<(Vec<u8>, bool), HttpError> {
    let mut bytes = Vec::new();
    while let Some(frame) = body.frame().await {
        let Ok(piece) = frame?.into_data() else { continue };
        let room = bytes_max - bytes.len();
        bytes.extend_from_slice(&piece[..piece.len().min(room)]);
        if piece.len() > room {
            return Ok((bytes, true));
        }
    }
    Ok((bytes, false))
}

impl From<HttpError> for http::Error {
    fn from(error: HttpError) -> Self {
        match error {
            HttpError::Denied(words) => Self::Denied(words),
            HttpError::Invalid(words) => Self::Invalid(words),
            HttpError::Timeout => Self::Timeout,
            other => Self::Unavailable(other.to_string()),
        }
    }
}
