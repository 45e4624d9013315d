//! Who may come in. Any web page can make a browser talk to a loopback port, so
//! that a request must say that it means this hub, and come from a page that is
//! allowed. All answers pass here on their way out.

use hyper::HeaderMap;
use hyper::header::{
    HOST, HeaderName, HeaderValue, REFERRER_POLICY, STRICT_TRANSPORT_SECURITY,
    X_CONTENT_TYPE_OPTIONS,
};

use super::cors::Cors;
use crate::config::{Config, is_loopback};

/// Decides by `Host` and `Origin`.
#[derive(Debug)]
pub struct Guard {
    /// Only this machine is served, so that `Host` must name it.
    loopback_only: bool,
    /// Pages of other origins.
    cors: Cors,
}

/// Why a request is not let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    pub(super) code: &'static str,
    pub(super) words: &'static str,
}

/// What is known of a request that was let in.
#[derive(Debug, Default)]
pub(super) struct Admitted {
    /// The origin of the page that asks, if one does.
    page: Option<HeaderValue>,
    /// Browsers are to use nothing but TLS from here on.
    tls_only: bool,
}

const BAD_HOST: Refusal = Refusal {
    code: "bad_host",
    words: "the Host header does not name this machine's loopback address",
};
/// No answer is for the pages of others to embed. Who may read it is told by
/// CORS, which this does not touch.
const RESOURCE_POLICY: (HeaderName, HeaderValue) = (
    HeaderName::from_static("cross-origin-resource-policy"),
    HeaderValue::from_static("same-origin"),
);
/// 30 days: what names this host stays on TLS for so long after the last visit.
const TLS_ONLY: HeaderValue = HeaderValue::from_static("max-age=2592000");

impl Guard {
    /// The guard that a configuration asks for.
    #[must_use]
    pub fn new(config: &Config) -> Self {
        let loopback_only = config.listen.iter().all(|address| is_loopback(address.ip()));
        Self { loopback_only, cors: Cors::new(config) }
    }

    /// Lets a request in, or not. That a proxy of this machine has passed it on
    /// makes no difference: a page whose name was made to mean this machine can
    /// say so too. A proxy that passes the name on that clients use is let in
    /// by the origin of the pages under that name.
    pub(super) fn admit(&self, headers: &HeaderMap, is_tls: bool) -> Result<Admitted, Refusal> {
        let mut hosts = headers.get_all(HOST).iter();
        let host = hosts.next().and_then(|host| host.to_str().ok()).unwrap_or_default();
        let is_local = names_loopback(host);
        let is_meant = is_local || !self.loopback_only || self.cors.names(host);
        if !is_meant || hosts.next().is_some() {
            return Err(BAD_HOST);
        }
        let page = self.cors.admit(headers)?;
        // All that runs on this machine would have to speak TLS.
        Ok(Admitted { page, tls_only: is_tls && !is_local })
    }

    /// Adds what every answer has, whoever has made it.
    pub(super) fn seal(&self, admitted: &Admitted, headers: &mut HeaderMap) {
        self.cors.mark(admitted.page.as_ref(), headers);
        headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        headers.insert(REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
        headers.insert(RESOURCE_POLICY.0, RESOURCE_POLICY.1);
        if admitted.tls_only {
            headers.insert(STRICT_TRANSPORT_SECURITY, TLS_ONLY);
        }
    }
}

/// Whether `localhost:8765`, `127.0.0.1`, `[::1]:80` or the like.
pub(super) fn names_loopback(authority: &str) -> bool {
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
    use hyper::header::{
        ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_ORIGIN, ORIGIN, VARY,
    };

    use super::*;

    fn ask(host: &str, origin: Option<&str>) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(HOST, host.parse().unwrap());
        if let Some(origin) = origin {
            headers.insert(ORIGIN, origin.parse().unwrap());
        }
        headers
    }

    fn admit(config: &Config, host: &str, origin: Option<&str>) -> Result<(), &'static str> {
        let admitted = Guard::new(config).admit(&ask(host, origin), false);
        admitted.map(|_| ()).map_err(|refusal| refusal.code)
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
        let mut two = ask("localhost", None);
        two.append(HOST, "evil.example".parse().unwrap());
        assert_eq!(Guard::new(&config).admit(&two, false).unwrap_err(), BAD_HOST);
    }

    #[test]
    fn a_proxy_on_loopback_may_pass_on_the_name_of_an_allowed_page_and_no_other() {
        let mut config = Config::default();
        config.proxy.trusted = vec!["127.0.0.1/32".parse().unwrap()];
        assert_eq!(admit(&config, "dash.example", None), Err("bad_host"));
        config.cors.origins = vec!["https://Dash.example".into(), "http://[fd00::1]:81".into()];
        for host in ["dash.example", "DASH.example:443", "[fd00::1]"] {
            assert_eq!(admit(&config, host, None), Ok(()), "{host}");
        }
        for host in ["", ":443", "evil.example", "dash.example.evil", "x.dash.example"] {
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
        for origin in [
            "null",
            "http://evil.example",
            "https://dash.example.evil",
            "http://dash.example",
            "https://dash.example:8443",
            "http://localhost.evil",
        ] {
            assert_eq!(admit(&config, host, Some(origin)), Err("bad_origin"), "{origin}");
        }
        let mut two = ask(host, Some("https://dash.example"));
        two.append(ORIGIN, "https://evil.example".parse().unwrap());
        assert!(Guard::new(&config).admit(&two, false).is_err());
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

    #[test]
    fn an_answer_says_who_may_read_it_and_what_browsers_may_do_with_it() {
        let listen = vec!["0.0.0.0:8765".parse().unwrap()];
        let mut config = Config { listen, ..Config::default() };
        config.cors.origins = vec!["https://dash.example".into()];
        let answer = |config: &Config, host: &str, origin: Option<&str>, is_tls: bool| {
            let guard = Guard::new(config);
            let admitted = guard.admit(&ask(host, origin), is_tls).unwrap();
            let mut headers = HeaderMap::new();
            headers.insert(VARY, "accept".parse().unwrap());
            guard.seal(&admitted, &mut headers);
            headers
        };
        let page = Some("https://dash.example");
        let headers = answer(&config, "hub.example", page, false);
        assert_eq!(headers[ACCESS_CONTROL_ALLOW_ORIGIN], "https://dash.example");
        assert_eq!(headers[ACCESS_CONTROL_ALLOW_CREDENTIALS], "true");
        assert_eq!(headers[X_CONTENT_TYPE_OPTIONS], "nosniff");
        assert_eq!(headers.get_all(VARY).iter().collect::<Vec<_>>(), ["accept", "origin"]);
        assert!(!headers.contains_key(STRICT_TRANSPORT_SECURITY));
        let headers = answer(&config, "hub.example", None, true);
        assert!(!headers.contains_key(ACCESS_CONTROL_ALLOW_ORIGIN));
        assert!(headers.contains_key(VARY) && headers.contains_key(STRICT_TRANSPORT_SECURITY));
        let headers = answer(&config, "localhost:8765", None, true);
        assert!(!headers.contains_key(STRICT_TRANSPORT_SECURITY));
        config.cors.credentials = false;
        let headers = answer(&config, "hub.example", page, false);
        assert!(!headers.contains_key(ACCESS_CONTROL_ALLOW_CREDENTIALS));
    }
}
