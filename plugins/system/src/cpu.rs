//! The time that the cores spend, from `/proc/stat`.

use telltale_plugin::Metrics;

use crate::series::{Family, Kind, Spec, spec};
use crate::text::{fields, lines, number};

/// The kernel tells times to programs in hundredths of a second (`USER_HZ`),
/// on every architecture that WASI hosts run on.
pub const TICKS_PER_S: f64 = 100.0;

const CORES_MAX: usize = 512;
const MODES: usize = 8;
const IDLE: usize = 3;
const IOWAIT: usize = 4;
const UTILIZATION: usize = MODES;

/// A kernel's idle times are known to fall by a few ticks. More than this is a
/// core that was taken away and came back.
const FALL_TICKS_MAX: u64 = 300;

const TIME: &str = "Time that the core spent in this mode";

const fn time(mode: &'static [(&'static str, &'static str)]) -> Spec {
    spec(Kind::Counter, "system.cpu.time", "s", mode, TIME)
}

const SPECS: &[Spec] = &[
    time(&[("mode", "user")]),
    time(&[("mode", "nice")]),
    time(&[("mode", "system")]),
    time(&[("mode", "idle")]),
    time(&[("mode", "iowait")]),
    time(&[("mode", "irq")]),
    time(&[("mode", "softirq")]),
    time(&[("mode", "steal")]),
    spec(
        Kind::Gauge,
        "system.cpu.utilization",
        "1",
        &[],
        "Share of its time that the core was busy since the last tick",
    ),
];

/// `system.cpu.time` for each core and mode, and `system.cpu.utilization` for
/// each core and for `core="total"`, all of them together.
#[derive(Debug)]
pub struct Cpu {
    family: Family,
    previous: Vec<Core>,
    current: Vec<Core>,
}

/// What a line said: a core by its number, or all together.
#[derive(Debug, Clone, Copy)]
struct Core {
    number: Option<u64>,
    ticks: [u64; MODES],
}

impl Default for Cpu {
    fn default() -> Self {
        Self {
            family: Family::new(SPECS, &["core"], CORES_MAX),
            previous: Vec::new(),
            current: Vec::new(),
        }
    }
}

impl Cpu {
    /// Takes the text of `/proc/stat`.
    pub fn measure(&mut self, stat: &[u8], metrics: &mut Metrics) {
        // The cores come first, so nothing else of that long text is looked at.
        for line in lines(stat).take_while(|line| line.starts_with(b"cpu")) {
            let Some(mut core) = parse(line) else {
                continue;
            };
            let number = line[3..].split(|&byte| byte == b' ').next();
            let name = match number {
                Some(digits) if !digits.is_empty() => digits,
                _ => b"total",
            };
            let before = self.previous.iter().find(|c| c.number == core.number);
            if let Some(before) = before {
                hold(&mut core.ticks, &before.ticks);
            }
            if let Some(mut row) = self.family.device(metrics, [name, b""]) {
                row.put(UTILIZATION, before.map_or(f64::NAN, |b| busy(&b.ticks, &core.ticks)));
                if core.number.is_some() {
                    for (mode, ticks) in core.ticks.into_iter().enumerate() {
                        row.put(mode, ticks as f64 / TICKS_PER_S);
                    }
                }
                self.current.push(core);
            }
        }
        self.family.finish(metrics);
        std::mem::swap(&mut self.previous, &mut self.current);
        self.current.clear();
    }
}

/// `cpu0 1 2 3 …`; an old kernel's missing modes are 0.
fn parse(line: &[u8]) -> Option<Core> {
    let mut parts = fields(line);
    let core = match &parts.next()?[3..] {
        b"" => None,
        digits => Some(number(digits)?),
    };
    let mut ticks = [0; MODES];
    for (mode, field) in ticks.iter_mut().zip(parts) {
        *mode = number(field)?;
    }
    Some(Core { number: core, ticks })
}

/// Keeps totals that fell by a little where they were.
fn hold(now: &mut [u64; MODES], before: &[u64; MODES]) {
    for (now, &before) in now.iter_mut().zip(before) {
        if *now < before && before - *now < FALL_TICKS_MAX {
            *now = before;
        }
    }
}

/// The share of the time between that was not idle; NaN if none has passed.
fn busy(before: &[u64; MODES], now: &[u64; MODES]) -> f64 {
    let spent = |mode: usize| now[mode].saturating_sub(before[mode]) as f64;
    let total: f64 = (0..MODES).map(spent).sum();
    (total - spent(IDLE) - spent(IOWAIT)) / total
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::series::tests::{render, tick};
    use telltale_plugin::Batch;

    fn measure((cpu, metrics): &mut (Cpu, Metrics), stat: &str) -> Batch {
        tick(metrics, |metrics| cpu.measure(stat.as_bytes(), metrics))
    }

    /// The utilisations of each core and of all, as far as there are any.
    fn utilization(cpu: &mut (Cpu, Metrics), stat: &str) -> Vec<f64> {
        measure(cpu, stat);
        let values = cpu.1.values().into_iter();
        values.filter(|(key, _)| key.contains("utilization")).map(|(_, value)| value).collect()
    }

    #[test]
    fn every_core_and_mode_has_its_time() {
        let stat = "cpu  10 0 0 90 0 0 0 0 0 0\ncpu0 150 2 3 400 5 6 7 8 9 10\nintr 5 cpu\n";
        let batch = measure(&mut Default::default(), stat);
        assert_eq!(
            render(&batch),
            [
                "system.cpu.utilization{core=total} -",
                "system.cpu.utilization{core=0} -",
                "system.cpu.time{core=0,mode=user} 1.5",
                "system.cpu.time{core=0,mode=nice} 0.02",
                "system.cpu.time{core=0,mode=system} 0.03",
                "system.cpu.time{core=0,mode=idle} 4",
                "system.cpu.time{core=0,mode=iowait} 0.05",
                "system.cpu.time{core=0,mode=irq} 0.06",
                "system.cpu.time{core=0,mode=softirq} 0.07",
                "system.cpu.time{core=0,mode=steal} 0.08",
            ]
        );
    }

    #[test]
    fn utilization_is_what_was_not_idle_since_the_last_tick() {
        let mut cpu = Default::default();
        assert!(utilization(&mut cpu, "cpu  0 0 0 0\ncpu0 0 0 0 0\n").is_empty());
        let now = "cpu  20 0 10 60 10\ncpu0 100 0 0 0 0\n";
        assert_eq!(utilization(&mut cpu, now), [1.0, 0.3]);
        // Nothing has passed: no value rather than a wrong one.
        assert!(utilization(&mut cpu, now).is_empty());
    }

    #[test]
    fn idle_times_that_fall_a_little_do_not_fall() {
        let mut cpu = Default::default();
        measure(&mut cpu, "cpu0 0 0 0 1000 500\n");
        let batch = measure(&mut cpu, "cpu0 0 0 0 1100 400\n");
        assert_eq!(batch.values[4..6], [11.0, 5.0]);
        // A fall by more starts anew, and has no utilisation.
        let batch = measure(&mut cpu, "cpu0 0 0 0 5 5\n");
        assert_eq!(batch.values[3..5], [0.05, 0.05]);
    }

    #[test]
    fn a_core_that_is_taken_away_ends() {
        let mut cpu = Default::default();
        measure(&mut cpu, "cpu0 1 1 1 1\ncpu1 1 1 1 1\n");
        assert_eq!(measure(&mut cpu, "cpu0 1 1 1 1\n").gone.len(), 9);
    }

    #[test]
    fn garbage_has_no_values() {
        for stat in ["", "cpu", "cpux 1", "cpu0 x", "cpu0 -1 2", "\u{fffd}", "cpu\u{e4} 1"] {
            let batch = measure(&mut Default::default(), stat);
            assert!(batch.values.iter().all(|value| value.is_finite()));
        }
        assert!(measure(&mut Default::default(), "cpux 1\ncpu0 x\n").declare.is_empty());
    }
}
