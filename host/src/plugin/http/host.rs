//! Hosts, as URLs and settings name them.
//!
//! Only plain forms are understood: whoever looks at a host after this room can
//! read nothing else in it.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The longest name that DNS knows.
const NAME_BYTES_MAX: usize = 253;
/// The longest part of one.
const LABEL_BYTES_MAX: usize = 63;

/// What stands before the port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Host {
    /// An address that is written as one.
    Address(IpAddr),
    /// A name in lower case, without the dot at its end.
    Name(String),
}

impl Host {
    /// Reads `example.com`, `10.0.0.7` or `[::1]`.
    ///
    /// # Errors
    ///
    /// What isn't plain: an address in octal, hexadecimal or less than four
    /// numbers, an IPv6 zone, letters beyond ASCII, an escape.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        if let Some(rest) = text.strip_prefix('[') {
            let address = rest.strip_suffix(']').and_then(|inner| inner.parse::<Ipv6Addr>().ok());
            return match address {
                Some(address) => Ok(Self::Address(address.into())),
                None => Err("an IPv6 address is written as in [::1]:8080".to_owned()),
            };
        }
        if let Ok(address) = text.parse::<Ipv4Addr>() {
            return Ok(Self::Address(address.into()));
        }
        let name = text.strip_suffix('.').unwrap_or(text).to_ascii_lowercase();
        check_name(&name)?;
        Ok(Self::Name(name))
    }
}

impl fmt::Display for Host {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(IpAddr::V6(address)) => write!(formatter, "[{address}]"),
            Self::Address(IpAddr::V4(address)) => write!(formatter, "{address}"),
            Self::Name(name) => formatter.write_str(name),
        }
    }
}

/// Takes `host` and `host:port` apart.
///
/// # Errors
///
/// What follows the last colon is no port.
pub(super) fn split_port(text: &str) -> Result<(&str, Option<u16>), String> {
    let bracket_end = text.rfind(']').map_or(0, |at| at + 1);
    let Some(colon) = text[bracket_end..].find(':') else { return Ok((text, None)) };
    let (host, port) = (&text[..bracket_end + colon], &text[bracket_end + colon + 1..]);
    if port.contains(':') {
        return Err("an IPv6 address is written as in [::1]:8080".to_owned());
    }
    // `parse` alone takes a plus sign for a part of a number.
    let digits = port.bytes().all(|byte| byte.is_ascii_digit());
    match port.parse() {
        Ok(number) if digits && number != 0 => Ok((host, Some(number))),
        _ => Err(format!("{port:?} is no port from 1 to 65535")),
    }
}

fn check_name(name: &str) -> Result<(), String> {
    let legal = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    let plain = |label: &str| {
        (1..=LABEL_BYTES_MAX).contains(&label.len())
            && label.bytes().all(legal)
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    if name.len() > NAME_BYTES_MAX || !name.split('.').all(plain) {
        return Err("a host's name is made of letters, digits, `-`, `_` and dots (one in \
                    another script in its form `xn--…`)"
            .to_owned());
    }
    let last = name.rsplit('.').next().unwrap_or_default();
    let hexadecimal = last
        .strip_prefix("0x")
        .is_some_and(|digits| digits.bytes().all(|byte| byte.is_ascii_hexdigit()));
    if hexadecimal || last.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err("an IPv4 address is written as four plain numbers".to_owned());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_hosts_are_read_and_written_in_one_form() {
        for (text, written) in [
            ("example.com", "example.com"),
            ("Example.COM.", "example.com"),
            ("localhost", "localhost"),
            ("my_host-1.internal", "my_host-1.internal"),
            ("xn--bcher-kva.example", "xn--bcher-kva.example"),
            ("1.example", "1.example"),
            ("0xg.example.0xyz", "0xg.example.0xyz"),
            ("10.0.0.7", "10.0.0.7"),
            ("[::1]", "[::1]"),
            ("[0:0:0:0:0:0:0:1]", "[::1]"),
            ("[::FFFF:10.0.0.7]", "[::ffff:10.0.0.7]"),
        ] {
            assert_eq!(Host::parse(text).unwrap().to_string(), written, "{text}");
        }
    }

    #[test]
    fn hosts_that_others_might_read_otherwise_are_refused() {
        for text in [
            "",
            ".",
            "..",
            "a..b",
            ".example.com",
            "example.com..",
            "-a.example",
            "a-.example",
            "ex ample.com",
            "example.com/",
            "exa%6dple.com",
            "exämple.com",
            "example。com",
            "*.example.com",
            "2130706433",
            "127.1",
            "127.0.0.1.",
            "0177.0.0.1",
            "127.0.0.01",
            "0x7f.0.0.1",
            "0x7f000001",
            "127.0.0.0x1",
            "0x",
            "example.0x",
            "example.1",
            "256.0.0.1",
            "1.2.3.4.5",
            "::1",
            "[::1",
            "[::1]a",
            "[]",
            "[127.0.0.1]",
            "[fe80::1%eth0]",
            "[fe80::1%25eth0]",
            "[v1.x]",
        ] {
            assert!(Host::parse(text).is_err(), "{text:?} was taken");
        }
        let longest = [["a"; 126].join(".").as_str(), "a"].join(".");
        assert_eq!(longest.len(), NAME_BYTES_MAX);
        assert!(Host::parse(&longest).is_ok());
        assert!(Host::parse(&format!("a.{longest}")).is_err());
        assert!(Host::parse(&"a".repeat(LABEL_BYTES_MAX)).is_ok());
        assert!(Host::parse(&"a".repeat(LABEL_BYTES_MAX + 1)).is_err());
    }

    #[test]
    fn ports_are_split_off() {
        for (text, parts) in [
            ("a", ("a", None)),
            ("a:80", ("a", Some(80))),
            ("[::1]", ("[::1]", None)),
            ("[::1]:65535", ("[::1]", Some(65535))),
            ("[::1]x:80", ("[::1]x", Some(80))),
        ] {
            assert_eq!(split_port(text).unwrap(), parts, "{text}");
        }
        for text in ["a:", "a:0", "a:+80", "a:65536", "a:80:80", "::1", "a: 80", "[::1]:", "a:8a"] {
            assert!(split_port(text).is_err(), "{text:?} was taken");
        }
    }
}
