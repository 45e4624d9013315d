//! `[grant] http`: the hosts that a plugin may call.

use std::fmt;

use serde::Deserialize;

use super::host::{Host, split_port};
use super::reach::Reach;

/// One entry: `host` or `host:port`, where the host is a name, an address, or
/// `*.name` for all names below that one. Without a port it is the one that the
/// scheme has by default.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub(crate) struct HostGrant {
    hosts: Hosts,
    port: Option<u16>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Hosts {
    Exactly(Host),
    /// All names that end with a dot and this one.
    Below(String),
}

impl TryFrom<String> for HostGrant {
    type Error = String;

    fn try_from(entry: String) -> Result<Self, String> {
        Self::parse(&entry).map_err(|words| format!("http = [{entry:?}]: {words}"))
    }
}

impl fmt::Display for HostGrant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.hosts {
            Hosts::Exactly(host) => host.fmt(f)?,
            Hosts::Below(parent) => write!(f, "*.{parent}")?,
        }
        self.port.map_or(Ok(()), |port| write!(f, ":{port}"))
    }
}

impl HostGrant {
    fn parse(entry: &str) -> Result<Self, String> {
        if entry.contains(['/', '@']) {
            return Err("only a host and a port, as in \"localhost:9090\"".to_owned());
        }
        let (host, port) = split_port(entry)?;
        let hosts = match host.strip_prefix("*.") {
            None if host.contains('*') => {
                return Err("a wildcard is the first part of a name, as in \"*.example.com\"; \
                            there is none for all hosts"
                    .to_owned());
            }
            None => Hosts::Exactly(Host::parse(host)?),
            Some(rest) => match Host::parse(rest)? {
                Host::Name(name) => Hosts::Below(name),
                Host::Address(_) => {
                    return Err("a wildcard stands before a name, not an address".to_owned());
                }
            },
        };
        Ok(Self { hosts, port })
    }

    /// How far this grant lets a plugin reach under that host and port;
    /// `None` if it says nothing about them.
    pub(super) fn reach(&self, host: &Host, port: u16, default_port: u16) -> Option<Reach> {
        if port != self.port.unwrap_or(default_port) {
            return None;
        }
        match (&self.hosts, host) {
            (Hosts::Exactly(granted), _) if granted != host => None,
            (Hosts::Exactly(Host::Address(_)), _) => Some(Reach::Guarded),
            (Hosts::Exactly(Host::Name(_)), _) => Some(Reach::Private),
            (Hosts::Below(parent), Host::Name(name)) => {
                let below = name.strip_suffix(&**parent)?.ends_with('.');
                below.then_some(Reach::Public)
            }
            (Hosts::Below(_), Host::Address(_)) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reach(entry: &str, authority: &str, default_port: u16) -> Option<Reach> {
        let grant = HostGrant::parse(entry).unwrap();
        let (host, port) = split_port(authority).unwrap();
        grant.reach(&Host::parse(host).unwrap(), port.unwrap_or(default_port), default_port)
    }

    #[test]
    fn an_entry_covers_what_it_names_and_nothing_else() {
        use Reach::{Guarded, Private, Public};
        for (entry, authority, default_port, wanted) in [
            ("localhost:9090", "localhost:9090", 80, Some(Private)),
            ("localhost:9090", "LOCALHOST.:9090", 80, Some(Private)),
            ("LocalHost.:9090", "localhost:9090", 80, Some(Private)),
            ("localhost:9090", "localhost", 80, None),
            ("localhost:9090", "localhost:9091", 80, None),
            ("localhost:9090", "127.0.0.1:9090", 80, None),
            ("example.com", "example.com", 80, Some(Private)),
            ("example.com", "example.com", 443, Some(Private)),
            ("example.com", "example.com:8080", 80, None),
            ("example.com", "example.com:443", 80, None),
            ("example.com:443", "example.com", 443, Some(Private)),
            ("example.com:443", "example.com", 80, None),
            ("example.com", "www.example.com", 80, None),
            ("example.com", "example.com.evil.test", 80, None),
            ("*.example.com", "www.example.com", 80, Some(Public)),
            ("*.example.com", "a.b.example.com", 80, Some(Public)),
            ("*.example.com", "example.com", 80, None),
            ("*.example.com", "evilexample.com", 80, None),
            ("*.example.com", "www.example.com.evil.test", 80, None),
            ("*.example.com", "www.example.com:81", 80, None),
            ("*.example.com:81", "www.example.com:81", 80, Some(Public)),
            ("10.0.0.7:80", "10.0.0.7", 80, Some(Guarded)),
            ("10.0.0.7:80", "10.0.0.8", 80, None),
            ("10.0.0.7:80", "[::ffff:10.0.0.7]", 80, None),
            ("169.254.169.254", "169.254.169.254", 80, Some(Guarded)),
            ("[::1]:8080", "[0:0::1]:8080", 80, Some(Guarded)),
            ("[::1]:8080", "[::1]", 80, None),
        ] {
            let found = reach(entry, authority, default_port);
            assert_eq!(found, wanted, "{entry} for {authority}, default port {default_port}");
        }
    }

    #[test]
    fn an_entry_that_cannot_be_meant_is_refused_with_the_way_out() {
        for (entry, words) in [
            ("http://localhost:9090", "only a host and a port"),
            ("localhost:9090/metrics", "only a host and a port"),
            ("user@localhost", "only a host and a port"),
            ("*", "there is none for all hosts"),
            ("*:80", "there is none for all hosts"),
            ("www.*.com", "as in \"*.example.com\""),
            ("*.*.com", "made of letters"),
            ("*.10.0.0.7", "not an address"),
            ("*.", "made of letters"),
            ("", "made of letters"),
            ("localhost:", "no port from 1 to 65535"),
            ("localhost:http", "no port from 1 to 65535"),
            ("::1", "as in [::1]:8080"),
            ("fe80::1:8080", "as in [::1]:8080"),
            ("0177.0.0.1", "four plain numbers"),
            ("10.0.0.0/8", "only a host and a port"),
        ] {
            let error = HostGrant::try_from(entry.to_owned()).unwrap_err();
            assert!(error.contains(words), "{error:?} does not say {words:?}");
            assert!(error.contains(&format!("http = [{entry:?}]")), "{error}");
        }
    }
}
