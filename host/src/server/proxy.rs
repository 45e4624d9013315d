//! Where a client is, where a proxy stands between it and the hub.

use std::net::{IpAddr, SocketAddr};

use hyper::HeaderMap;
use ipnet::IpNet;

use crate::config::Config;

/// Proxies tell it here, each adding whom it got the request from on the right.
/// `Forwarded` (RFC 7239) is not read: a proxy that knows the one passes the
/// other on as the client has sent it, and what only one side checks can be
/// forged.
const FORWARDED_FOR: &str = "x-forwarded-for";
/// … and here what the client speaks to them.
const FORWARDED_PROTO: &str = "x-forwarded-proto";

/// The proxies that are believed.
#[derive(Debug)]
pub struct Proxies(Vec<IpNet>);

impl Proxies {
    /// Those that a configuration names.
    #[must_use]
    pub fn new(config: &Config) -> Self {
        Self(config.proxy.trusted.clone())
    }

    /// Whether what comes from there is believed.
    pub(super) fn trusts(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.0.iter().any(|network| network.contains(&address))
    }

    /// Whether a proxy that is trusted says that the client speaks TLS to it, or
    /// to the first of several.
    pub(super) fn says_tls(&self, peer: IpAddr, headers: &HeaderMap) -> bool {
        let said = headers.get(FORWARDED_PROTO).and_then(|value| value.to_str().ok());
        let first = said.and_then(|said| said.split(',').next()).map(str::trim);
        let is_tls = |said: &str| ["https", "wss"].iter().any(|tls| said.eq_ignore_ascii_case(tls));
        self.trusts(peer) && first.is_some_and(is_tls)
    }

    /// The address of the client that a request is from. A proxy that is not
    /// trusted is the client; so is one that says nothing. Where proxies stand
    /// one behind the other, it is the last address that none of them has.
    pub(super) fn client(&self, peer: IpAddr, headers: &HeaderMap) -> IpAddr {
        let mut client = peer.to_canonical();
        let said: Vec<&str> = headers
            .get_all(FORWARDED_FOR)
            .iter()
            .map(|value| value.to_str().unwrap_or_default())
            .collect();
        let mut hops = said.iter().flat_map(|value| value.split(',')).rev();
        while self.trusts(client)
            && let Some(hop) = hops.next()
            // What can't be read was not written by whom we trust, or hides
            // something: whoever said it is as near as we get.
            && let Some(address) = address(hop.trim())
        {
            client = address;
        }
        client
    }
}

/// An address, that some proxies tell with its port.
fn address(text: &str) -> Option<IpAddr> {
    let bare = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
    let address = bare.parse().or_else(|_| text.parse().map(|with: SocketAddr| with.ip()));
    address.ok().map(|address: IpAddr| address.to_canonical())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_trusted_proxy_says_that_its_client_speaks_tls() {
        let mut config = Config::default();
        config.proxy.trusted = vec!["10.0.0.0/8".parse().unwrap()];
        let proxies = Proxies::new(&config);
        for (peer, said, is_tls) in [
            ("10.0.0.1", Some("https"), true),
            ("10.0.0.1", Some("HTTPS, http"), true),
            ("10.0.0.1", Some("wss"), true),
            ("10.0.0.1", Some("http"), false),
            ("10.0.0.1", None, false),
            ("203.0.113.9", Some("https"), false),
        ] {
            let mut headers = HeaderMap::new();
            if let Some(said) = said {
                headers.insert(FORWARDED_PROTO, said.parse().unwrap());
            }
            assert_eq!(
                proxies.says_tls(peer.parse().unwrap(), &headers),
                is_tls,
                "{peer} {said:?}"
            );
        }
    }

    fn client(peer: &str, said: &[&str]) -> String {
        let mut config = Config::default();
        config.proxy.trusted =
            ["10.0.0.0/8", "127.0.0.1/32", "fd00::/8"].map(|net| net.parse().unwrap()).into();
        let mut headers = HeaderMap::new();
        for value in said {
            headers.append(FORWARDED_FOR, value.parse().unwrap());
        }
        Proxies::new(&config).client(peer.parse().unwrap(), &headers).to_string()
    }

    #[test]
    fn the_client_is_the_last_that_is_no_trusted_proxy() {
        for (peer, said, found) in [
            // Nobody has to believe a stranger.
            ("203.0.113.9", &["198.51.100.1"][..], "203.0.113.9"),
            ("10.0.0.1", &["203.0.113.9"], "203.0.113.9"),
            // What the client had said itself stands to the left.
            ("10.0.0.1", &["127.0.0.1, 198.51.100.1, 203.0.113.9"], "203.0.113.9"),
            ("10.0.0.1", &["198.51.100.1, 203.0.113.9, 10.1.1.1"], "203.0.113.9"),
            ("127.0.0.1", &["198.51.100.1", "203.0.113.9,10.1.1.1"], "203.0.113.9"),
            // Proxies all the way: the first of them is the client.
            ("10.0.0.1", &["10.0.0.3, 10.0.0.2"], "10.0.0.3"),
            ("10.0.0.1", &[], "10.0.0.1"),
            ("::ffff:10.0.0.1", &["::ffff:203.0.113.9"], "203.0.113.9"),
            ("fd00::1", &["[2001:db8::7]:4711"], "2001:db8::7"),
            ("fd00::1", &["2001:db8::7"], "2001:db8::7"),
            ("10.0.0.1", &["203.0.113.9:80"], "203.0.113.9"),
            // What can't be read stops the search.
            ("10.0.0.1", &["203.0.113.9, unknown"], "10.0.0.1"),
            ("10.0.0.1", &["203.0.113.9, unknown, 10.0.0.2"], "10.0.0.2"),
            ("10.0.0.1", &["203.0.113.9,"], "10.0.0.1"),
        ] {
            assert_eq!(client(peer, said), found, "{peer} says {said:?}");
        }
    }
}
