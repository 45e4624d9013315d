//! How long threads had to wait for something they lacked, from
//! `/proc/pressure/*` (kernels since 4.20, where it isn't turned off).

use telltale_plugin::Metrics;

use crate::series::{Family, Kind, Spec, spec};
use crate::text::{decimal, fields, lines, number};

const SPECS: &[Spec] = &[
    spec(
        Kind::Counter,
        "system.pressure.time",
        "s",
        &[],
        "Time during which some threads, or all that had work, waited for the resource",
    ),
    spec(
        Kind::Gauge,
        "system.pressure.avg10",
        "1",
        &[],
        "Share of the last ten seconds that was spent waiting for the resource",
    ),
];

/// `system.pressure.*` for one resource, for `some` and for `full`.
#[derive(Debug)]
pub struct Pressure {
    resource: &'static str,
    family: Family,
}

impl Pressure {
    /// For `cpu`, `io` or `memory`.
    pub fn new(resource: &'static str) -> Self {
        Self { resource, family: Family::new(SPECS, &["resource", "kind"], 2) }
    }

    /// Takes the text of `/proc/pressure/<resource>`.
    pub fn measure(&mut self, text: &[u8], metrics: &mut Metrics) {
        for line in lines(text) {
            let Some((kind, stalled_us, avg10_percent)) = parse(line) else {
                continue;
            };
            let name = [self.resource.as_bytes(), kind];
            if let Some(mut row) = self.family.device(metrics, name) {
                row.put(0, stalled_us as f64 / 1e6);
                row.put(1, avg10_percent / 100.0);
            }
        }
        self.family.finish(metrics);
    }
}

/// `some avg10=0.00 avg60=0.00 avg300=0.00 total=0`
fn parse(line: &[u8]) -> Option<(&[u8], u64, f64)> {
    let mut parts = fields(line);
    let kind = parts.next().filter(|kind| [&b"some"[..], b"full"].contains(kind))?;
    let avg10 = decimal(parts.next()?.strip_prefix(b"avg10=")?)?;
    let total = number(parts.last()?.strip_prefix(b"total=")?)?;
    Some((kind, total, avg10))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::series::tests::{render, tick};

    #[track_caller]
    fn check(text: &str, expected: &[&str]) {
        let batch = tick(&mut Metrics::default(), |metrics| {
            Pressure::new("io").measure(text.as_bytes(), metrics);
        });
        assert_eq!(render(&batch), expected);
    }

    #[test]
    fn some_and_full_have_a_time_and_a_share() {
        check(
            "some avg10=4.25 avg60=3.53 avg300=2.30 total=21591640\n\
             full avg10=0.00 avg60=0.00 avg300=0.00 total=0\n",
            &[
                "system.pressure.time{kind=some,resource=io} 21.59164",
                "system.pressure.avg10{kind=some,resource=io} 0.0425",
                "system.pressure.time{kind=full,resource=io} 0",
                "system.pressure.avg10{kind=full,resource=io} 0",
            ],
        );
    }

    #[test]
    fn garbage_has_no_values() {
        for text in ["", "some", "some avg10=x total=1", "half avg10=0 total=1", "full avg10=0 1"] {
            check(text, &[]);
        }
    }
}
