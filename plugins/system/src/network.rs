//! What the network interfaces send and receive, from `/proc/self/net/dev`.

use telltale_plugin::Metrics;

use crate::series::{Family, Kind, Spec, spec};
use crate::text::{fields, lines, number};

const INTERFACES_MAX: usize = 256;

const RECEIVE: &[(&str, &str)] = &[("direction", "receive")];
const TRANSMIT: &[(&str, &str)] = &[("direction", "transmit")];
const IO: &str = "Bytes that went through the interface";
const PACKETS: &str = "Packets that went through the interface";
const ERRORS: &str = "Packets that were damaged or could not be sent";
const DROPPED: &str = "Packets that were thrown away for want of room or of a receiver";

const SPECS: &[Spec] = &[
    spec(Kind::Counter, "system.network.io", "By", RECEIVE, IO),
    spec(Kind::Counter, "system.network.packets", "{packet}", RECEIVE, PACKETS),
    spec(Kind::Counter, "system.network.errors", "{error}", RECEIVE, ERRORS),
    spec(Kind::Counter, "system.network.dropped", "{packet}", RECEIVE, DROPPED),
    spec(Kind::Counter, "system.network.io", "By", TRANSMIT, IO),
    spec(Kind::Counter, "system.network.packets", "{packet}", TRANSMIT, PACKETS),
    spec(Kind::Counter, "system.network.errors", "{error}", TRANSMIT, ERRORS),
    spec(Kind::Counter, "system.network.dropped", "{packet}", TRANSMIT, DROPPED),
];

/// `system.network.*` for each interface.
#[derive(Debug)]
pub struct Network {
    family: Family,
}

impl Default for Network {
    fn default() -> Self {
        Self { family: Family::new(SPECS, &["device"], INTERFACES_MAX) }
    }
}

impl Network {
    /// Takes the text of `/proc/self/net/dev`.
    pub fn measure(&mut self, dev: &[u8], metrics: &mut Metrics) {
        for line in lines(dev) {
            let Some((name, values)) = parse(line) else {
                continue;
            };
            if let Some(mut row) = self.family.device(metrics, [name, b""]) {
                for (spec, value) in values.into_iter().enumerate() {
                    row.put(spec, value as f64);
                }
            }
        }
        self.family.finish(metrics);
    }
}

/// The name and the values in the order of [`SPECS`]. The two head lines have
/// no colon.
fn parse(line: &[u8]) -> Option<(&[u8], [u64; SPECS.len()])> {
    // An alias such as `eth0:1` has a colon in its name.
    let colon = line.iter().rposition(|&byte| byte == b':')?;
    let name = line[..colon].trim_ascii();
    // Eight counts for each direction, of which the first four are these.
    let mut counts = [0; 12];
    let mut parts = fields(&line[colon + 1..]);
    for count in &mut counts {
        *count = number(parts.next()?)?;
    }
    let [rx_bytes, rx_packets, rx_errors, rx_dropped, _, _, _, _, rest @ ..] = counts;
    let [tx_bytes, tx_packets, tx_errors, tx_dropped] = rest;
    let values =
        [rx_bytes, rx_packets, rx_errors, rx_dropped, tx_bytes, tx_packets, tx_errors, tx_dropped];
    (!name.is_empty()).then_some((name, values))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::series::tests::{render, tick};
    use telltale_plugin::Batch;

    const HEAD: &str = "Inter-|   Receive        |  Transmit\n face |bytes packets|bytes\n";

    fn measure((network, metrics): &mut (Network, Metrics), lines: &str) -> Batch {
        tick(metrics, |metrics| network.measure(format!("{HEAD}{lines}").as_bytes(), metrics))
    }

    #[test]
    fn an_interface_has_four_totals_in_each_direction() {
        let line = "  eth0:  1 2 3 4 0 0 0 0 5 6 7 8 0 0 0 0\n";
        assert_eq!(
            render(&measure(&mut Default::default(), line)),
            [
                "system.network.io{device=eth0,direction=receive} 1",
                "system.network.packets{device=eth0,direction=receive} 2",
                "system.network.errors{device=eth0,direction=receive} 3",
                "system.network.dropped{device=eth0,direction=receive} 4",
                "system.network.io{device=eth0,direction=transmit} 5",
                "system.network.packets{device=eth0,direction=transmit} 6",
                "system.network.errors{device=eth0,direction=transmit} 7",
                "system.network.dropped{device=eth0,direction=transmit} 8",
            ]
        );
    }

    #[test]
    fn names_end_at_the_last_colon_and_numbers_may_touch_it() {
        let text = "br:1:9 2 3 4 0 0 0 0 5 6 7 8 0 0 0 0\n";
        let batch = measure(&mut Default::default(), text);
        assert_eq!(
            (batch.declare[0].series.labels[0].value.as_str(), batch.values[0]),
            ("br:1", 9.0)
        );
    }

    #[test]
    fn interfaces_come_and_go() {
        let mut network = Default::default();
        let line = |name| format!("{name}: 1 2 3 4 0 0 0 0 5 6 7 8 0 0 0 0\n");
        measure(&mut network, &line("veth1"));
        let swap = measure(&mut network, &line("veth2"));
        assert_eq!((swap.declare.len(), swap.gone.len()), (8, 8));
    }

    #[test]
    fn garbage_has_no_values() {
        for line in ["eth0", "eth0:", "eth0: 1 2 3", ": 1 2 3 4 0 0 0 0 5 6 7 8", "eth0: x"] {
            assert!(measure(&mut Default::default(), line).declare.is_empty());
        }
    }
}
