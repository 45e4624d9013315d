//! All sources together, for each tick.

use telltale_plugin::Metrics;

use crate::cpu::Cpu;
use crate::disks::Disks;
use crate::filesystems::Filesystems;
use crate::load::Load;
use crate::machine::{File, Machine};
use crate::memory::Memory;
use crate::network::Network;
use crate::pressure::Pressure;
use crate::processes::Processes;
use crate::settings::Settings;

/// The state of the plugin's instance.
#[derive(Debug)]
pub struct Collector {
    settings: Settings,
    cpu: Cpu,
    load: Load,
    memory: Memory,
    disks: Disks,
    filesystems: Filesystems,
    network: Network,
    pressures: [(File, Pressure); 3],
    processes: Processes,
}

impl Default for Collector {
    fn default() -> Self {
        Self {
            settings: Settings::default(),
            cpu: Cpu::default(),
            load: Load::default(),
            memory: Memory::default(),
            disks: Disks::default(),
            filesystems: Filesystems::default(),
            network: Network::default(),
            pressures: [
                (File::PressureCpu, Pressure::new("cpu")),
                (File::PressureIo, Pressure::new("io")),
                (File::PressureMemory, Pressure::new("memory")),
            ],
            processes: Processes::default(),
        }
    }
}

impl Collector {
    /// Takes new settings.
    pub fn configure(&mut self, settings: Settings) {
        self.settings = settings;
    }

    /// Measures all there is; none if `/proc` can't be read. A source that
    /// isn't there has no series; one that could be read before and can't now
    /// only has no values.
    pub fn measure(
        &mut self,
        machine: &mut impl Machine,
        time_ns: u64,
        metrics: &mut Metrics,
    ) -> Option<()> {
        let stat = machine.read(File::Stat)?;
        self.cpu.measure(&stat, metrics);
        let loadavg = machine.read(File::Loadavg).unwrap_or_default();
        let uptime = machine.read(File::Uptime).unwrap_or_default();
        self.load.measure(&stat, &loadavg, &uptime, metrics);
        if let Some(meminfo) = machine.read(File::Meminfo) {
            self.memory.measure(&meminfo, metrics);
        }
        if let Some(diskstats) = machine.read(File::Diskstats) {
            self.disks.measure(&diskstats, metrics);
        }
        if let Some(mounts) = machine.read(File::Mounts) {
            self.filesystems.measure(mounts, machine, metrics);
        }
        if let Some(dev) = machine.read(File::Interfaces) {
            self.network.measure(&dev, metrics);
        }
        for (file, pressure) in &mut self.pressures {
            if let Some(text) = machine.read(*file) {
                pressure.measure(&text, metrics);
            }
        }
        if let Some(json) = self.processes.measure(machine, &self.settings, time_ns) {
            metrics.document("processes", json);
        }
        Some(())
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::series::tests::tick;
    use telltale_plugin::Batch;
    use telltale_plugin::disk::FileSystem;

    /// A machine made of texts.
    #[derive(Default)]
    pub(crate) struct Fake {
        pub(crate) files: Vec<(File, Vec<u8>)>,
        pub(crate) processes: Vec<(u32, Vec<u8>)>,
        pub(crate) denies_all: bool,
        pub(crate) reads: usize,
    }

    impl Machine for Fake {
        fn read(&mut self, file: File) -> Option<Vec<u8>> {
            self.reads += 1;
            let found = self.files.iter().find(|(of, _)| *of == file)?;
            Some(found.1.clone())
        }

        fn usage(&mut self, mountpoint: &str) -> Option<FileSystem> {
            (mountpoint != "/secret" && !self.denies_all).then_some(FileSystem {
                size: 100,
                free: 40,
                available: 20,
                inodes: 10,
                inodes_free: 7,
            })
        }

        fn pids(&mut self, pids: &mut Vec<u32>) {
            pids.clear();
            pids.extend(self.processes.iter().map(|(pid, _)| *pid));
        }

        fn process(&mut self, pid: u32) -> Option<Vec<u8>> {
            self.reads += 1;
            let found = self.processes.iter().find(|(of, _)| *of == pid)?;
            Some(found.1.clone())
        }
    }

    fn machine() -> Fake {
        let file = |file, text: &str| (file, text.as_bytes().to_vec());
        Fake {
            files: vec![
                file(File::Stat, "cpu  1 1 1 1\ncpu0 1 1 1 1\nprocs_running 1\n"),
                file(File::Loadavg, "0.1 0.2 0.3 1/100 9\n"),
                file(File::Meminfo, "MemTotal: 10 kB\nMemAvailable: 5 kB\n"),
                file(File::Diskstats, "8 0 sda 1 1 1 1 1 1 1 1 1 1\n"),
                file(File::Mounts, "/dev/sda / ext4 rw 0 0\n"),
                file(File::Interfaces, "lo: 1 2 3 4 0 0 0 0 5 6 7 8 0 0 0 0\n"),
                file(File::PressureIo, "some avg10=1 total=5\n"),
            ],
            ..Fake::default()
        }
    }

    /// What is told of a tick.
    fn collect((collector, metrics): &mut (Collector, Metrics), machine: &mut Fake) -> Batch {
        tick(metrics, |metrics| collector.measure(machine, 1, metrics).unwrap())
    }

    #[test]
    fn all_is_declared_at_once() {
        let (mut collector, mut machine) = (Default::default(), machine());
        let first = collect(&mut collector, &mut machine);
        assert_eq!(first.declare.len(), 39);
        // The two utilisations are differences.
        assert_eq!((first.ids.len(), first.values.len()), (37, 37));

        let second = collect(&mut collector, &mut machine);
        assert!(second.declare.is_empty() && second.gone.is_empty());
        assert_eq!(second.ids, first.ids);
    }

    #[test]
    fn a_source_that_fails_for_a_tick_keeps_its_series() {
        let (mut collector, mut machine) = (Default::default(), machine());
        let first = collect(&mut collector, &mut machine);
        let interfaces = machine.files.remove(5);
        let second = collect(&mut collector, &mut machine);
        assert_eq!((second.ids.len(), second.gone.len()), (first.ids.len() - 8, 0));
        machine.files.push(interfaces);
        assert!(collect(&mut collector, &mut machine).declare.is_empty());
    }

    #[test]
    fn without_stat_there_is_nothing_and_nothing_is_lost() {
        let mut collector = <(Collector, Metrics)>::default();
        let (measuring, metrics) = &mut collector;
        assert!(measuring.measure(&mut Fake::default(), 1, metrics).is_none());
        assert_eq!(collect(&mut collector, &mut machine()).declare.len(), 39);
    }

    #[test]
    fn garbage_everywhere_is_survived() {
        let mut collector = Default::default();
        let mut machine = machine();
        for cut in 0..60 {
            for (_, text) in &mut machine.files {
                let middle = text.len() / 2;
                text.truncate(text.len().saturating_sub(1));
                if let Some(byte) = text.get_mut(middle) {
                    *byte = byte.wrapping_mul(31).wrapping_add(cut);
                }
            }
            let batch = collect(&mut collector, &mut machine);
            assert_eq!(batch.ids.len(), batch.values.len());
        }
    }
}
