//! Memory and swap, from `/proc/meminfo`.

use telltale_plugin::Metrics;

use crate::series::{Family, Kind, Spec, spec};
use crate::text::{fields, lines, number};

const USAGE: &str = "Memory in this state; the states together are all memory";
const PAGING: &str = "Swap space in this state";

const SPECS: &[Spec] = &[
    spec(Kind::Updown, "system.memory.usage", "By", &[("state", "used")], USAGE),
    spec(Kind::Updown, "system.memory.usage", "By", &[("state", "free")], USAGE),
    spec(Kind::Updown, "system.memory.usage", "By", &[("state", "buffers")], USAGE),
    spec(Kind::Updown, "system.memory.usage", "By", &[("state", "cached")], USAGE),
    spec(Kind::Updown, "system.memory.limit", "By", &[], "All memory of the machine"),
    spec(
        Kind::Updown,
        "system.linux.memory.available",
        "By",
        &[],
        "Memory that programs could still get without swapping, as the kernel estimates it",
    ),
    spec(
        Kind::Gauge,
        "system.memory.utilization",
        "1",
        &[],
        "Share of the memory that is not available to programs",
    ),
    spec(Kind::Updown, "system.paging.usage", "By", &[("state", "used")], PAGING),
    spec(Kind::Updown, "system.paging.usage", "By", &[("state", "free")], PAGING),
    spec(Kind::Gauge, "system.paging.utilization", "1", &[], "Share of the swap space in use"),
];

/// `system.memory.*` and `system.paging.*`.
#[derive(Debug)]
pub struct Memory {
    family: Family,
}

impl Default for Memory {
    fn default() -> Self {
        Self { family: Family::new(SPECS, &[], 1) }
    }
}

impl Memory {
    /// Takes the text of `/proc/meminfo`.
    pub fn measure(&mut self, meminfo: &[u8], metrics: &mut Metrics) {
        let figures = Figures::parse(meminfo);
        if let Some(mut row) = self.family.device(metrics, [b"", b""]) {
            let values = figures.memory().into_iter().chain(figures.swap());
            for (spec, value) in values.enumerate() {
                value.into_iter().for_each(|value| row.put(spec, value));
            }
        }
        self.family.finish(metrics);
    }
}

/// What the kernel tells, in bytes.
#[derive(Debug, Default)]
struct Figures {
    total: Option<f64>,
    free: Option<f64>,
    available: Option<f64>,
    buffers: Option<f64>,
    cached: Option<f64>,
    reclaimable: Option<f64>,
    swap_total: Option<f64>,
    swap_free: Option<f64>,
}

impl Figures {
    fn parse(meminfo: &[u8]) -> Self {
        let mut figures = Self::default();
        for line in lines(meminfo) {
            let mut parts = fields(line);
            let figure = match parts.next() {
                Some(b"MemTotal:") => &mut figures.total,
                Some(b"MemFree:") => &mut figures.free,
                Some(b"MemAvailable:") => &mut figures.available,
                Some(b"Buffers:") => &mut figures.buffers,
                Some(b"Cached:") => &mut figures.cached,
                Some(b"SReclaimable:") => &mut figures.reclaimable,
                Some(b"SwapTotal:") => &mut figures.swap_total,
                Some(b"SwapFree:") => &mut figures.swap_free,
                _ => continue,
            };
            *figure = parts.next().and_then(number).map(|kib| kib as f64 * 1024.0);
        }
        figures
    }

    /// In the order of the first seven of [`SPECS`].
    fn memory(&self) -> [Option<f64>; 7] {
        let cached = self.cached.map(|cached| cached + self.reclaimable.unwrap_or(0.0));
        let rest = || Some(self.free? + self.buffers? + cached?);
        let used = rest().and_then(|rest| Some((self.total? - rest).max(0.0)));
        // Kernels before 3.14 don't estimate what is available.
        let available = self.available.or_else(rest);
        let share = || Some(((self.total? - available?) / self.total?).max(0.0));
        [used, self.free, self.buffers, cached, self.total, self.available, share()]
    }

    /// In the order of the last three; none without swap space.
    fn swap(&self) -> [Option<f64>; 3] {
        match (self.swap_total, self.swap_free) {
            (Some(total), Some(free)) if total > 0.0 => {
                let used = (total - free).max(0.0);
                [Some(used), Some(free), Some(used / total)]
            }
            _ => [None; 3],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::series::tests::{render, tick};

    #[track_caller]
    fn check(meminfo: &str, expected: &[&str]) {
        let batch = tick(&mut Metrics::default(), |metrics| {
            Memory::default().measure(meminfo.as_bytes(), metrics);
        });
        assert_eq!(render(&batch), expected);
    }

    #[test]
    fn the_states_are_all_memory() {
        check(
            "MemTotal: 100 kB\nMemFree: 10 kB\nMemAvailable: 75 kB\nBuffers: 5 kB\nCached: 30 kB\n\
             SwapCached: 9 kB\nSwapTotal: 8 kB\nSwapFree: 6 kB\nSReclaimable: 5 kB\n",
            &[
                "system.memory.usage{state=used} 51200",
                "system.memory.usage{state=free} 10240",
                "system.memory.usage{state=buffers} 5120",
                "system.memory.usage{state=cached} 35840",
                "system.memory.limit{} 102400",
                "system.linux.memory.available{} 76800",
                "system.memory.utilization{} 0.25",
                "system.paging.usage{state=used} 2048",
                "system.paging.usage{state=free} 6144",
                "system.paging.utilization{} 0.25",
            ],
        );
    }

    #[test]
    fn an_old_kernel_without_swap_has_a_utilization_too() {
        check(
            "MemTotal: 100 kB\nMemFree: 20 kB\nBuffers: 5 kB\nCached: 25 kB\nSwapTotal: 0 kB\nSwapFree: 0 kB\n",
            &[
                "system.memory.usage{state=used} 51200",
                "system.memory.usage{state=free} 20480",
                "system.memory.usage{state=buffers} 5120",
                "system.memory.usage{state=cached} 25600",
                "system.memory.limit{} 102400",
                "system.memory.utilization{} 0.5",
            ],
        );
    }

    #[test]
    fn garbage_has_no_values() {
        check("", &[]);
        check("MemTotal: x kB\nMemFree\nCached: -5\n", &[]);
        // A total of nothing: known, but no share of it.
        check(
            "MemTotal: 0 kB\nMemAvailable: 0 kB\n",
            &[
                "system.memory.limit{} 0",
                "system.linux.memory.available{} 0",
                "system.memory.utilization{} 0",
            ],
        );
    }
}
