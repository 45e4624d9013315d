//! How much there is to do: load averages, threads and processes, uptime.

use telltale_plugin::Metrics;

use crate::series::{Family, Kind, Spec, spec};
use crate::text::{decimal, fields, lines, number};

const LOAD: &str = "Threads that ran or waited to run, averaged over the time in the name";
const COUNT: &str = "Processes in this state";

const SPECS: &[Spec] = &[
    spec(Kind::Gauge, "system.cpu.load_average.1m", "{thread}", &[], LOAD),
    spec(Kind::Gauge, "system.cpu.load_average.5m", "{thread}", &[], LOAD),
    spec(Kind::Gauge, "system.cpu.load_average.15m", "{thread}", &[], LOAD),
    spec(Kind::Updown, "system.thread.count", "{thread}", &[], "Threads that exist"),
    spec(Kind::Updown, "system.process.count", "{process}", &[("state", "running")], COUNT),
    spec(Kind::Updown, "system.process.count", "{process}", &[("state", "blocked")], COUNT),
    spec(
        Kind::Counter,
        "system.process.created",
        "{process}",
        &[],
        "Processes and threads that were started since the machine was",
    ),
    spec(Kind::Gauge, "system.uptime", "s", &[], "Time since the machine was started"),
];

/// `system.cpu.load_average.*`, `system.process.*` and `system.uptime`.
#[derive(Debug)]
pub struct Load {
    family: Family,
}

impl Default for Load {
    fn default() -> Self {
        Self { family: Family::new(SPECS, &[], 1) }
    }
}

impl Load {
    /// Takes the texts of `/proc/stat`, `/proc/loadavg` and `/proc/uptime`;
    /// what is empty has no values.
    pub fn measure(&mut self, stat: &[u8], loadavg: &[u8], uptime: &[u8], metrics: &mut Metrics) {
        let mut values = [None; SPECS.len()];
        let mut loads = fields(loadavg);
        for value in &mut values[..3] {
            *value = loads.next().and_then(decimal);
        }
        // `2/345`: threads that run, and all.
        let threads = loads.next().and_then(|field| field.split(|&b| b == b'/').nth(1));
        values[3] = threads.and_then(number).map(|count| count as f64);
        for line in lines(stat).filter(|line| line.starts_with(b"proc")) {
            let mut parts = fields(line);
            let spec = match parts.next() {
                Some(b"procs_running") => 4,
                Some(b"procs_blocked") => 5,
                Some(b"processes") => 6,
                _ => continue,
            };
            values[spec] = parts.next().and_then(number).map(|count| count as f64);
        }
        values[7] = fields(uptime).next().and_then(decimal);
        if let Some(mut row) = self.family.device(metrics, [b"", b""]) {
            for (spec, value) in values.into_iter().enumerate() {
                value.into_iter().for_each(|value| row.put(spec, value));
            }
        }
        self.family.finish(metrics);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::series::tests::{render, tick};

    #[track_caller]
    fn check(stat: &[u8], loadavg: &[u8], uptime: &[u8], expected: &[&str]) {
        let batch = tick(&mut Metrics::default(), |metrics| {
            Load::default().measure(stat, loadavg, uptime, metrics);
        });
        assert_eq!(render(&batch), expected);
    }

    #[test]
    fn each_figure_has_its_series() {
        check(
            b"cpu 1\nprocesses 777\nprocs_running 3\nprocs_blocked 1\n",
            b"0.50 1.25 2.00 3/456 7890\n",
            b"1234.56 999.9\n",
            &[
                "system.cpu.load_average.1m{} 0.5",
                "system.cpu.load_average.5m{} 1.25",
                "system.cpu.load_average.15m{} 2",
                "system.thread.count{} 456",
                "system.process.count{state=running} 3",
                "system.process.count{state=blocked} 1",
                "system.process.created{} 777",
                "system.uptime{} 1234.56",
            ],
        );
    }

    #[test]
    fn what_is_missing_or_garbage_has_no_series() {
        check(b"", b"", b"", &[]);
        check(b"procs_running\nprocesses x", b"a b c d/e", b"\xff", &[]);
        check(b"", b"0.5", b"", &["system.cpu.load_average.1m{} 0.5"]);
    }
}
