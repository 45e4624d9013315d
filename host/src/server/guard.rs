//! Who may come in. Any web page can make a browser talk to a loopback port, so
//! that a request must say that it means this hub, and come from a page that is
//! allowed.

use hyper::HeaderMap;
use hyper::header::{HOST, ORIGIN};

use crate::config::{Config, is_loopback};

/// Decides by `Host` and `Origin`.
#[derive(Debug)]
pub struct Guard {
    /// Only this machine is served, so that `Host` must name it.
    loopback_only: bool,
    /// Origins of pages that may come in beside those on loopback.
    origins: Vec<String>,
}

/// Why a request is not let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    pub(super) code: &'static str,
    pub(super) words: &'static str,
}

const BAD_HOST: Refusal = Refusal {
    code: "bad_host",
    words: "the Host header does not name this machine's loopback address",
};
const BAD_ORIGIN: Refusal = Refusal {
    code: "bad_origin",
    words: "this page may not connect: add its origin to cors.origins",
};

impl Guard {
    /// The guard that a configuration asks for.
    #[must_use]
    pub fn new(config: &Config) -> Self {
        let loopback_only = config.listen.iter().all(|address| is_loopback(address.ip()));
        let trim = |origin: &String| origin.trim_end_matches('/').to_ascii_lowercase();
        Self { loopback_only, origins: config.cors.origins.iter().map(trim).collect() }
    }

    pub(super) fn admit(&self, headers: &HeaderMap) -> Result<(), Refusal> {
        let host = headers.get(HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
        if self.loopback_only && !names_loopback(host) {
            return Err(BAD_HOST);
        }
        let Some(origin) = headers.get(ORIGIN) else { return Ok(()) };
        let origin = origin.to_str().map_err(|_| BAD_ORIGIN)?.to_ascii_lowercase();
        let authority = origin.split_once("://").map_or("", |(_, authority)| authority);
        if names_loopback(authority) || self.origins.contains(&origin) {
            return Ok(());
        }
        Err(BAD_ORIGIN)
    }
}

/// Whether `localhost:8765`, `127.0.0.1`, `[::1]:80` or the like.
fn names_loopback(authority: &str) -> bool {
    let host = match authority.strip_prefix('[') {
        Some(rest) => rest.split_once(']').map_or("", |(host, _)| host),
        None => authority.rsplit_once(':').map_or(authority, |(host, _)| host),
    };
    if let Ok(ip) = host.parse() {
        return is_loopback(ip);
    }
    host.eq_ignore_ascii_case("localhost")
        || host.to_ascii_lowercase().strip_suffix(".localhost").is_some_and(|name| !name.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn admit(config: &Config, host: &str, origin: Option<&str>) -> Result<(), &'static str> {
        let mut headers = HeaderMap::new();
        headers.insert(HOST, host.parse().unwrap());
        if let Some(origin) = origin {
            headers.insert(ORIGIN, origin.parse().unwrap());
        }
        Guard::new(config).admit(&headers).map_err(|refusal| refusal.code)
    }

    #[test]
    fn a_loopback_hub_is_only_for_those_who_name_it() {
        let config = Config::default();
        for host in ["localhost:8765", "127.0.0.1", "127.9.9.9:1", "[::1]:8765", "hub.localhost"] {
            assert_eq!(admit(&config, host, None), Ok(()), "{host}");
        }
        for host in [
            "",
            "evil.example",
            "evil.example:8765",
            "localhost.evil.example",
            "10.0.0.1",
            ".localhost",
        ] {
            assert_eq!(admit(&config, host, None), Err("bad_host"), "{host}");
        }
    }

    #[test]
    fn a_page_must_be_on_loopback_or_allowed() {
        let mut config = Config::default();
        let host = "localhost:8765";
        config.cors.origins = vec!["https://Dash.example/".into()];
        for origin in
            ["http://localhost:3000", "https://127.0.0.1", "http://[::1]", "https://dash.example"]
        {
            assert_eq!(admit(&config, host, Some(origin)), Ok(()), "{origin}");
        }
        for origin in
            ["null", "http://evil.example", "https://dash.example.evil", "http://localhost.evil"]
        {
            assert_eq!(admit(&config, host, Some(origin)), Err("bad_origin"), "{origin}");
        }
    }

    #[test]
    fn an_open_hub_has_any_name_but_minds_the_page() {
        let listen = vec!["0.0.0.0:8765".parse().unwrap()];
        let config = Config { listen, ..Config::default() };
        assert_eq!(admit(&config, "metrics.example", None), Ok(()));
        assert_eq!(
            admit(&config, "metrics.example", Some("http://evil.example")),
            Err("bad_origin")
        );
    }
}
