//! How far a grant reaches, and how far an address is.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Which addresses a host may turn out to have. Each holds those before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Reach {
    /// Those of the public internet: what a wildcard reaches.
    Public,
    /// This machine's and its network's own: what an exact name reaches.
    Private,
    /// Those that hand out a machine's secrets to whoever asks, and those of
    /// the wire that it is plugged into: what only the address itself reaches.
    Guarded,
}

const fn v4(a: u8, b: u8, c: u8, d: u8) -> Ipv4Addr {
    Ipv4Addr::new(a, b, c, d)
}

/// Metadata services of clouds, and link-local addresses.
const GUARDED_V4: [(Ipv4Addr, u32); 4] = [
    (v4(169, 254, 0, 0), 16),     // link-local; most clouds' metadata
    (v4(100, 100, 100, 200), 32), // Alibaba
    (v4(168, 63, 129, 16), 32),   // Azure
    (v4(192, 0, 0, 192), 32),     // Oracle
];

/// What IANA lists as not globally reachable.
const PRIVATE_V4: [(Ipv4Addr, u32); 14] = [
    (v4(0, 0, 0, 0), 8), // this host: a connection to it is one to loopback
    (v4(10, 0, 0, 0), 8),
    (v4(100, 64, 0, 0), 10), // behind carriers' NAT
    (v4(127, 0, 0, 0), 8),
    (v4(172, 16, 0, 0), 12),
    (v4(192, 0, 0, 0), 24),
    (v4(192, 0, 2, 0), 24),   // documentation
    (v4(192, 88, 99, 0), 24), // 6to4 relays
    (v4(192, 168, 0, 0), 16),
    (v4(198, 18, 0, 0), 15),   // benchmarks
    (v4(198, 51, 100, 0), 24), // documentation
    (v4(203, 0, 113, 0), 24),  // documentation
    (v4(224, 0, 0, 0), 4),     // multicast
    (v4(240, 0, 0, 0), 4),     // reserved
];

/// Likewise. NAT64's local prefix may stand for any address at all.
const GUARDED_V6: [(Ipv6Addr, u32); 5] = [
    (Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0), 10),
    (Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254), 128), // AWS
    (Ipv6Addr::new(0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254), 128),  // Google
    (Ipv6Addr::new(0xfd00, 0x42, 0, 0, 0, 0, 0, 0x42), 128),   // Scaleway
    (Ipv6Addr::new(0x64, 0xff9b, 1, 0, 0, 0, 0, 0), 48),
];

/// Public addresses all begin with 2000::/3; these of them are not.
const PRIVATE_V6: [(Ipv6Addr, u32); 3] = [
    (Ipv6Addr::new(0x2001, 0, 0, 0, 0, 0, 0, 0), 23), // protocols, Teredo among them
    (Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0), 32), // documentation
    (Ipv6Addr::new(0x3fff, 0, 0, 0, 0, 0, 0, 0), 20), // documentation
];

const PUBLIC_V6: (Ipv6Addr, u32) = (Ipv6Addr::new(0x2000, 0, 0, 0, 0, 0, 0, 0), 3);

/// The reach that a connection to this address takes.
pub(super) fn needed(address: IpAddr) -> Reach {
    match address {
        IpAddr::V4(address) => needed_v4(address),
        IpAddr::V6(address) => match embedded(address) {
            Some(inner) => needed_v4(inner),
            None => needed_v6(address),
        },
    }
}

fn needed_v4(address: Ipv4Addr) -> Reach {
    let under = |(prefix, bits): &(Ipv4Addr, u32)| {
        (address.to_bits() ^ prefix.to_bits()).leading_zeros() >= *bits
    };
    if GUARDED_V4.iter().any(under) {
        Reach::Guarded
    } else if PRIVATE_V4.iter().any(under) {
        Reach::Private
    } else {
        Reach::Public
    }
}

fn needed_v6(address: Ipv6Addr) -> Reach {
    let under = |(prefix, bits): &(Ipv6Addr, u32)| {
        (address.to_bits() ^ prefix.to_bits()).leading_zeros() >= *bits
    };
    if GUARDED_V6.iter().any(under) {
        Reach::Guarded
    } else if !under(&PUBLIC_V6) || PRIVATE_V6.iter().any(under) {
        Reach::Private
    } else {
        Reach::Public
    }
}

/// The IPv4 address that an IPv6 address stands for: mapped, translated, or
/// tunnelled. `::1` and `::` come out as 0.0.0.1 and 0.0.0.0, which are no
/// more public than they are.
fn embedded(address: Ipv6Addr) -> Option<Ipv4Addr> {
    let [a, b, c, d, e, f, g, h] = address.segments();
    let v4 = |high: u16, low: u16| Ipv4Addr::from_bits(u32::from(high) << 16 | u32::from(low));
    match (a, b, c, d, e, f) {
        // Compatible, mapped, translated by SIIT, and by NAT64.
        (0, 0, 0, 0, 0, 0 | 0xffff) | (0, 0, 0, 0, 0xffff, 0) | (0x64, 0xff9b, 0, 0, 0, 0) => {
            Some(v4(g, h))
        }
        // 6to4
        (0x2002, ..) => Some(v4(b, c)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(addresses: &[&str], reach: Reach) {
        for address in addresses {
            assert_eq!(needed(address.parse().unwrap()), reach, "{address}");
        }
    }

    #[test]
    fn the_public_internet_is_public() {
        check(
            &[
                "1.1.1.1",
                "9.255.255.255",
                "11.0.0.0",
                "100.63.255.255",
                "100.128.0.0",
                "126.255.255.255",
                "128.0.0.0",
                "172.15.255.255",
                "172.32.0.0",
                "192.0.1.0",
                "192.167.255.255",
                "192.169.0.0",
                "198.17.255.255",
                "198.20.0.0",
                "223.255.255.255",
                "168.63.129.17",
                "169.253.255.255",
                "169.255.0.0",
                "2606:4700::1111",
                "2001:4860:4860::8888",
                "2001:200::",
                "2001:db7:ffff::",
                "3ffe::1",
                "::ffff:1.1.1.1",
                "64:ff9b::1.1.1.1",
                "2002:101:101::",
            ],
            Reach::Public,
        );
    }

    #[test]
    fn what_is_this_machines_or_its_networks_is_private() {
        check(
            &[
                "0.0.0.0",
                "0.255.255.255",
                "10.0.0.0",
                "10.255.255.255",
                "100.64.0.0",
                "100.127.255.255",
                "127.0.0.1",
                "127.255.255.255",
                "172.16.0.0",
                "172.31.255.255",
                "192.0.0.1",
                "192.0.2.1",
                "192.88.99.1",
                "192.168.0.0",
                "192.168.255.255",
                "198.18.0.0",
                "198.19.255.255",
                "198.51.100.1",
                "203.0.113.1",
                "224.0.0.1",
                "239.255.255.255",
                "240.0.0.1",
                "255.255.255.255",
                "::",
                "::1",
                "::2",
                "fc00::1",
                "fdff::1",
                "fec0::1",
                "ff02::1",
                "100::1",
                "2001::1",
                "2001:1ff::1",
                "2001:db8::1",
                "3fff::1",
                "4000::1",
                "5f00::1",
                "1fff::1",
                "::127.0.0.1",
                "::ffff:127.0.0.1",
                "::ffff:10.1.2.3",
                "::ffff:0:192.168.0.1",
                "64:ff9b::10.0.0.1",
                "2002:7f00:1::",
                "2002:c0a8:1::1",
            ],
            Reach::Private,
        );
    }

    #[test]
    fn metadata_and_the_link_are_guarded_in_every_disguise() {
        check(
            &[
                "169.254.0.0",
                "169.254.169.254",
                "169.254.170.2",
                "169.254.255.255",
                "100.100.100.200",
                "168.63.129.16",
                "192.0.0.192",
                "fe80::1",
                "febf::1",
                "fd00:ec2::254",
                "fd20:ce::254",
                "fd00:42::42",
                "::169.254.169.254",
                "::ffff:169.254.169.254",
                "::ffff:0:169.254.169.254",
                "64:ff9b::169.254.169.254",
                "64:ff9b:1::169.254.169.254",
                "64:ff9b:1:a9fe:a9:fe00::",
                "2002:a9fe:a9fe::",
                "::ffff:100.100.100.200",
            ],
            Reach::Guarded,
        );
    }
}
