//! `/metrics`: which format a scraper wants, and the answer.

use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{ACCEPT, CACHE_CONTROL, CONTENT_TYPE, HeaderMap, HeaderValue, VARY};
use hyper::{Response, StatusCode};

use super::routes::{Readiness, error};
use crate::exposition::Format;

pub(super) async fn answer(readiness: &Readiness, asked: &HeaderMap) -> Response<Full<Bytes>> {
    let format = wanted(asked);
    let Some(page) = readiness.exposition.page(&readiness.snapshot, format).await else {
        return error(StatusCode::SERVICE_UNAVAILABLE, "stopping", "the hub is stopping");
    };
    let mut response = Response::new(Full::new(page));
    let content_type = match format {
        Format::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        Format::Plain => "text/plain; version=0.0.4; charset=utf-8",
    };
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(VARY, HeaderValue::from_static("accept"));
    response
}

/// OpenMetrics, unless plain text is wanted more.
fn wanted(asked: &HeaderMap) -> Format {
    let ranges: Vec<&str> = asked
        .get_all(ACCEPT)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .collect();
    let (open, plain) =
        (quality(&ranges, "application", "openmetrics-text"), quality(&ranges, "text", "plain"));
    if plain > open { Format::Plain } else { Format::OpenMetrics }
}

/// How much a media type is wanted (RFC 9110, 12.5.1): the most exact range
/// that it is in has the say, and parameters but for `q` make no difference.
fn quality(ranges: &[&str], kind: &str, subtype: &str) -> f32 {
    let of = |range: &&str| {
        let mut parts = range.split(';').map(str::trim);
        let (of_kind, of_subtype) = parts.next()?.split_once('/')?;
        let is_any = |word: &str| word == "*";
        let exact = match () {
            () if of_kind.eq_ignore_ascii_case(kind)
                && of_subtype.eq_ignore_ascii_case(subtype) =>
            {
                2
            }
            () if of_kind.eq_ignore_ascii_case(kind) && is_any(of_subtype) => 1,
            () if is_any(of_kind) && is_any(of_subtype) => 0,
            () => return None,
        };
        let q = parts.find_map(|part| part.strip_prefix("q=").or(part.strip_prefix("Q=")));
        Some((exact, q.map_or(1.0, |q| q.parse::<f32>().unwrap_or(0.0))))
    };
    let found = ranges.iter().filter_map(of);
    let better = |a: (u8, f32), b: (u8, f32)| if (b.0, b.1) > (a.0, a.1) { b } else { a };
    found.reduce(better).map_or(0.0, |(_, q)| q)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_text_is_for_those_who_want_it_more() {
        let of = |accept: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(ACCEPT, accept.parse().unwrap());
            wanted(&headers)
        };
        // Prometheus 2.42, Prometheus 3.5, curl, and a scraper of old.
        for open in [
            "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,\
             text/plain;version=0.0.4;q=0.5,*/*;q=0.1",
            "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.5,\
             application/openmetrics-text;version=0.0.1;q=0.4,text/plain;version=1.0.0;q=0.3,*/*;q=0.2",
            "*/*",
            "",
            "text/html",
            "text/*;q=0.5, application/openmetrics-text;q=0.6, */*;q=0.1",
        ] {
            assert_eq!(of(open), Format::OpenMetrics, "{open}");
        }
        for plain in [
            "text/plain",
            "text/plain;version=0.0.4;q=1,*/*;q=0.1",
            "text/*",
            "application/openmetrics-text;q=0, */*",
            "Text/Plain; q=0.9, application/openmetrics-text; q=0.8",
        ] {
            assert_eq!(of(plain), Format::Plain, "{plain}");
        }
        assert_eq!(wanted(&HeaderMap::new()), Format::OpenMetrics);
    }
}
