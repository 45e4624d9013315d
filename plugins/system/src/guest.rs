//! The plugin, and the machine as a plugin sees it.

use std::collections::BTreeSet;

use telltale_plugin::disk::FileSystem;
use telltale_plugin::{Fault, Metrics, Tick, disk, log};
use wasip2::filesystem::preopens::get_directories;
use wasip2::filesystem::types::{Descriptor, DescriptorFlags, OpenFlags, PathFlags};

use crate::collector::Collector;
use crate::machine::{File, Machine};
use crate::settings::Settings;
use crate::text::number;

/// More than this is no text of the kernel's.
const FILE_BYTES_MAX: usize = 4 << 20;
/// The hub makes room for this much at each reading.
const READ_BYTES: u64 = 16 << 10;
/// Longer than any `/proc/<pid>/stat`.
const PROCESS_BYTES: u64 = 1024;
/// How many ticks a file that wasn't there is not looked for.
const ABSENT_TICKS: u32 = 60;

const NOT_GRANTED: &str =
    "/proc is not granted: add `read = [\"/proc\"]` to [grant] in the plugin's settings";
const NOT_READABLE: &str = "/proc/stat can't be read: the collector needs a Linux machine \
    whose /proc is mounted and visible to the hub";

telltale_plugin::export_collector!(System);

#[derive(Default)]
struct System {
    collector: Collector,
    proc: Option<Proc>,
}

impl telltale_plugin::Collector for System {
    type Config = Settings;

    fn configure(&mut self, settings: Settings) -> Result<(), Fault> {
        settings.check()?;
        self.collector.configure(settings);
        Ok(())
    }

    fn collect(&mut self, tick: Tick, metrics: &mut Metrics) -> Result<(), Fault> {
        if self.proc.is_none() {
            self.proc = Proc::open();
        }
        let proc = self.proc.as_mut().ok_or_else(|| Fault::config(NOT_GRANTED))?;
        let measured = self.collector.measure(proc, tick.time_ns, metrics);
        measured.ok_or_else(|| Fault::retry(NOT_READABLE))
    }
}

/// The granted folder `/proc`, and the files that are open in it.
struct Proc {
    folder: Descriptor,
    files: [Handle; File::COUNT],
    path: String,
    /// Mount points whose usage was refused, each of which is logged once.
    refused: BTreeSet<String>,
}

#[derive(Default)]
enum Handle {
    #[default]
    Unopened,
    Open(Descriptor),
    Absent {
        ticks: u32,
    },
}

impl Proc {
    /// None if neither `/proc` nor `/` is granted.
    fn open() -> Option<Self> {
        let mut folder = None;
        for (granted, path) in get_directories() {
            match path.trim_end_matches('/') {
                "/proc" => folder = Some(granted),
                "" if folder.is_none() => folder = open(&granted, "proc", OpenFlags::DIRECTORY),
                _ => {}
            }
        }
        Some(Self {
            folder: folder?,
            files: Default::default(),
            path: String::new(),
            refused: BTreeSet::new(),
        })
    }
}

impl Machine for Proc {
    fn read(&mut self, file: File) -> Option<Vec<u8>> {
        let handle = &mut self.files[file as usize];
        match handle {
            Handle::Absent { ticks: 0 } | Handle::Unopened => {
                *handle = open(&self.folder, file.path(), OpenFlags::empty())
                    .map_or(Handle::Absent { ticks: ABSENT_TICKS }, Handle::Open);
            }
            Handle::Absent { ticks } => *ticks -= 1,
            Handle::Open(_) => {}
        }
        let Handle::Open(descriptor) = handle else {
            return None;
        };
        let text = read_all(descriptor, file.comes_in_parts());
        if text.is_none() {
            *handle = Handle::Absent { ticks: ABSENT_TICKS };
        }
        text
    }

    fn usage(&mut self, mountpoint: &str) -> Option<FileSystem> {
        let error = match disk::usage(mountpoint) {
            Ok(usage) => return Some(usage),
            Err(disk::Error::Denied(text) | disk::Error::Unavailable(text)) => text,
        };
        if !self.refused.contains(mountpoint) && self.refused.len() < 256 {
            self.refused.insert(mountpoint.to_owned());
            log::warn(&format!("no usage of the file system at {mountpoint}: {error}"));
        }
        None
    }

    fn pids(&mut self, pids: &mut Vec<u32>) {
        pids.clear();
        let Ok(entries) = self.folder.read_directory() else {
            return;
        };
        // An error is an entry that has gone since: the others still come.
        loop {
            match entries.read_directory_entry() {
                Ok(Some(entry)) => {
                    let pid = number(entry.name.as_bytes());
                    pids.extend(pid.and_then(|pid| u32::try_from(pid).ok()));
                }
                Ok(None) => break,
                Err(_) => {}
            }
        }
    }

    fn process(&mut self, pid: u32) -> Option<Vec<u8>> {
        use std::fmt::Write;
        self.path.clear();
        write!(self.path, "{pid}/stat").ok()?;
        let file = open(&self.folder, &self.path, OpenFlags::empty())?;
        Some(file.read(PROCESS_BYTES, 0).ok()?.0)
    }
}

/// Opens a file below a folder, following links: `/proc/self` is one.
fn open(folder: &Descriptor, path: &str, flags: OpenFlags) -> Option<Descriptor> {
    folder.open_at(PathFlags::SYMLINK_FOLLOW, path, flags, DescriptorFlags::READ).ok()
}

/// Reads from the start, which makes the kernel write the text anew.
fn read_all(file: &Descriptor, comes_in_parts: bool) -> Option<Vec<u8>> {
    let (mut text, _) = file.read(READ_BYTES, 0).ok()?;
    let mut read = text.len();
    while read > 0 && (comes_in_parts || read as u64 == READ_BYTES) && text.len() < FILE_BYTES_MAX {
        let (part, _) = file.read(READ_BYTES, text.len() as u64).ok()?;
        read = part.len();
        text.extend(part);
    }
    Some(text)
}
