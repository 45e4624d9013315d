//! Where a request goes.

use std::fmt;

use hyper::Uri;
use hyper::http::uri::Scheme;

use super::host::{Host, split_port};
use super::{HttpError, cut};

/// The part of a URL that says whom to talk to, and how.
///
/// It is displayed as it stands in the `host` header: without the port where
/// that is the scheme's own.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Target {
    /// `https`.
    pub(super) secure: bool,
    pub(super) host: Host,
    pub(super) port: u16,
}

impl Target {
    /// # Errors
    ///
    /// [`HttpError::Invalid`]: another scheme, a name and password, or a host
    /// that isn't plain.
    pub(super) fn of(uri: &Uri) -> Result<Self, HttpError> {
        let invalid =
            |words: &str| HttpError::Invalid(format!("{}: {words}", cut(&uri.to_string())));
        let secure = match uri.scheme() {
            Some(scheme) if *scheme == Scheme::HTTP => false,
            Some(scheme) if *scheme == Scheme::HTTPS => true,
            _ => return Err(invalid("a URL begins with http:// or https://")),
        };
        let authority = uri.authority().map_or("", |authority| authority.as_str());
        if authority.contains('@') {
            return Err(HttpError::Invalid(
                "no name and password in a URL: send an `authorization` header".to_owned(),
            ));
        }
        let (host, port) = split_port(authority).map_err(|words| invalid(&words))?;
        let host = Host::parse(host).map_err(|words| invalid(&words))?;
        Ok(Self { secure, host, port: port.unwrap_or(default_port(secure)) })
    }

    pub(super) fn default_port(&self) -> u16 {
        default_port(self.secure)
    }
}

fn default_port(secure: bool) -> u16 {
    if secure { 443 } else { 80 }
}

impl fmt::Display for Target {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.port == self.default_port() {
            true => self.host.fmt(formatter),
            false => write!(formatter, "{}:{}", self.host, self.port),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(url: &str) -> Option<String> {
        let target = Target::of(&url.parse().ok()?).ok()?;
        Some(format!("{} {}", if target.secure { "tls" } else { "plain" }, target))
    }

    #[test]
    fn a_url_has_one_target() {
        for (url, target) in [
            ("http://example.com", "plain example.com"),
            ("HTTP://Example.com.:80/", "plain example.com"),
            ("https://example.com:443/a?b#c", "tls example.com"),
            ("https://example.com:80/", "tls example.com:80"),
            ("http://[::1]:9090/metrics", "plain [::1]:9090"),
            ("http://10.0.0.7", "plain 10.0.0.7"),
            ("http://example.com?http://other.test/", "plain example.com"),
        ] {
            assert_eq!(of(url).as_deref(), Some(target), "{url}");
        }
    }

    #[test]
    fn a_url_that_might_be_read_in_two_ways_is_refused() {
        for url in [
            "",
            "/path",
            "example.com",
            "example.com:80",
            "ftp://example.com/",
            "file:///etc/passwd",
            "http://",
            "http:///path",
            "http://user@example.com/",
            "http://user:password@example.com/",
            "http://granted.test@evil.test/",
            "http://granted.test:80@evil.test/",
            "http://granted.test\\@evil.test/",
            "http://granted.test#@evil.test/",
            "http://granted.test\t.evil.test/",
            "http://granted.test%00.evil.test/",
            "http://granted.test%2eevil.test/",
            "http:// granted.test/",
            "http://granted.test:/",
            "http://granted.test:0/",
            "http://granted.test:80:80/",
            "http://granted.test:99999/",
            "http://granted.test:+80/",
            "http://2130706433/",
            "http://0x7f000001/",
            "http://0177.0.0.1/",
            "http://127.1/",
            "http://127.0.0.1./",
            "http://[::1%25lo]/",
            "http://[::1/",
            "http://::1/",
            "http://①②⑦.0.0.1/",
            "http://*.example.com/",
        ] {
            // A fragment never leaves the hub; what is before it counts.
            if url.contains('#') {
                assert_eq!(of(url).as_deref(), Some("plain granted.test"));
            } else {
                assert_eq!(of(url), None, "{url:?} was taken");
            }
        }
    }
}
