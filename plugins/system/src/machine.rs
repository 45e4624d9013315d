//! What the collector needs from the machine: the one door to the outside.

use telltale_plugin::disk::FileSystem;

/// The machine that is measured: the real one in a plugin, made up in tests.
pub trait Machine {
    /// The whole text of a file; none if it isn't there or can't be read.
    fn read(&mut self, file: File) -> Option<Vec<u8>>;

    /// How full the file system is that is mounted there; none if the hub
    /// doesn't say.
    fn usage(&mut self, mountpoint: &str) -> Option<FileSystem>;

    /// Puts the numbers of all processes into `pids`.
    fn pids(&mut self, pids: &mut Vec<u32>);

    /// The text of `/proc/<pid>/stat`; none if the process has ended.
    fn process(&mut self, pid: u32) -> Option<Vec<u8>>;
}

/// The files of `/proc` that are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum File {
    /// Times of the cores, counts of processes.
    Stat,
    /// Load averages.
    Loadavg,
    /// Time since the start.
    Uptime,
    /// Memory and swap.
    Meminfo,
    /// Disks.
    Diskstats,
    /// Mounted file systems, as the hub sees them.
    Mounts,
    /// Network interfaces, as the hub sees them.
    Interfaces,
    /// Waiting for a core.
    PressureCpu,
    /// Waiting for a disk.
    PressureIo,
    /// Waiting for memory.
    PressureMemory,
    /// What the kernel told the hub when it was started.
    Auxv,
}

impl File {
    /// How many there are.
    pub const COUNT: usize = Self::Auxv as usize + 1;

    /// Its path below `/proc`.
    pub fn path(self) -> &'static str {
        match self {
            Self::Stat => "stat",
            Self::Loadavg => "loadavg",
            Self::Uptime => "uptime",
            Self::Meminfo => "meminfo",
            Self::Diskstats => "diskstats",
            Self::Mounts => "self/mounts",
            Self::Interfaces => "self/net/dev",
            Self::PressureCpu => "pressure/cpu",
            Self::PressureIo => "pressure/io",
            Self::PressureMemory => "pressure/memory",
            Self::Auxv => "self/auxv",
        }
    }

    /// The kernel makes these record by record, and may give a part at a time:
    /// only an empty read is their end. The others end with a short read.
    pub fn comes_in_parts(self) -> bool {
        matches!(self, Self::Diskstats | Self::Mounts | Self::Interfaces)
    }
}
