//! The plugin's exports, and the machine as a plugin sees it.

mod bindings {
    #![allow(
        missing_docs,
        unsafe_code,
        unreachable_pub,
        unused_qualifications,
        clippy::allow_attributes_without_reason,
        reason = "generated"
    )]
    use super::Guest;
    wit_bindgen::generate!({ path: "../../wit", world: "collector" });
    export!(Guest);
}

use crate::collector::Collector;
use crate::machine::{File, Machine, Usage};
use crate::series::{Batch, Declaration, Kind};
use crate::text::number;
use bindings::exports::telltale::plugin::collect;
use bindings::telltale::plugin::{disk, log, types};
use std::cell::RefCell;
use std::collections::BTreeSet;
use wasip2::filesystem::preopens::get_directories;
use wasip2::filesystem::types::{Descriptor, DescriptorFlags, OpenFlags, PathFlags};

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

thread_local! {
    static INSTANCE: RefCell<Instance> = RefCell::default();
}

#[derive(Default)]
struct Instance {
    collector: Collector,
    proc: Option<Proc>,
}

struct Guest;

impl collect::Guest for Guest {
    fn configure(config_json: String) -> Result<(), types::Fault> {
        INSTANCE
            .with_borrow_mut(|instance| instance.collector.configure(&config_json))
            .map_err(types::Fault::Config)
    }

    fn collect(tick: types::Tick) -> Result<collect::Batch, types::Fault> {
        INSTANCE.with_borrow_mut(|Instance { collector, proc }| {
            if proc.is_none() {
                *proc = Proc::open();
            }
            let Some(proc) = proc else {
                return Err(types::Fault::Config(NOT_GRANTED.to_owned()));
            };
            match collector.collect(proc, tick.time_ns) {
                Some(batch) => Ok(batch.into()),
                None => Err(types::Fault::Retry(NOT_READABLE.to_owned())),
            }
        })
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

    fn usage(&mut self, mountpoint: &str) -> Option<Usage> {
        let error = match disk::usage(mountpoint) {
            Ok(usage) => {
                return Some(Usage {
                    size: usage.size,
                    free: usage.free,
                    available: usage.available,
                    inodes: usage.inodes,
                    inodes_free: usage.inodes_free,
                });
            }
            Err(disk::Error::Denied(text) | disk::Error::Unavailable(text)) => text,
        };
        if !self.refused.contains(mountpoint) && self.refused.len() < 256 {
            self.refused.insert(mountpoint.to_owned());
            let message = format!("no usage of the file system at {mountpoint}: {error}");
            log::log(log::Level::Warn, &message);
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

impl From<Batch> for collect::Batch {
    fn from(batch: Batch) -> Self {
        let documents = batch.documents.into_iter();
        Self {
            declare: batch.declare.into_iter().map(Into::into).collect(),
            ids: batch.ids,
            values: batch.values,
            gone: batch.gone,
            documents: documents
                .map(|(name, json)| types::Document { name: name.to_owned(), json })
                .collect(),
        }
    }
}

impl From<Declaration> for collect::Declaration {
    fn from(Declaration { id, spec, labels }: Declaration) -> Self {
        let fixed = spec.labels.iter().map(|(key, value)| (*key, (*value).to_owned()));
        let labels = labels
            .into_iter()
            .chain(fixed)
            .map(|(key, value)| types::Label { key: key.to_owned(), value });
        Self {
            id,
            series: types::Series {
                name: spec.name.to_owned(),
                kind: match spec.kind {
                    Kind::Gauge => types::Kind::Gauge,
                    Kind::Counter => types::Kind::Counter,
                    Kind::UpDown => types::Kind::Updown,
                },
                unit: spec.unit.to_owned(),
                description: spec.description.to_owned(),
                labels: labels.collect(),
            },
        }
    }
}
