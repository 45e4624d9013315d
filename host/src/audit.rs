//! The audit log: who connected, entered, published, was refused or sent away,
//! and what was done to the hub, as JSON lines in files that take turns.
//!
//! Whoever notes something puts it into a bounded queue and goes on; one thread
//! writes. What finds no room, or no disk, is counted and told, and holds up
//! nobody.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::net::IpAddr;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::Duration;

use file_rotate::compression::Compression;
use file_rotate::suffix::AppendCount;
use file_rotate::{ContentLimit, FileRotate};
use serde::Serialize;

use crate::clock::{self, Clock};
use crate::model::{ConnectionId, PluginName, Room};

#[cfg(test)]
mod tests;

/// Notes that may wait to be written: all clients may come at once, or two
/// seconds of 5,000 events. Some 2 MB.
const QUEUE_MAX: usize = 10_000;
/// What is written in one call.
const BATCH_BYTES: usize = 64 * 1024;
/// How long a stop waits for what is queued.
const STOP_MAX: Duration = Duration::from_secs(2);
/// Nobody but the hub's user reads it.
const MODE: u32 = 0o600;
/// The longest words of a stranger that are kept.
const WORDS_MAX: usize = 256;

/// What happened.
#[derive(Clone, Debug, Serialize)]
#[serde(tag = "act", rename_all = "snake_case")]
pub enum Note {
    /// The hub began to serve.
    Started {
        /// The program's version.
        version: &'static str,
        /// Its process.
        pid: u32,
    },
    /// The hub was told to stop.
    Stopped,
    /// A client connected.
    Connected {
        /// Who.
        #[serde(flatten)]
        who: Actor,
    },
    /// A client showed who it is, or showed it anew.
    Identified {
        /// Who.
        #[serde(flatten)]
        who: Actor,
    },
    /// A client entered a room.
    Entered {
        /// Who.
        #[serde(flatten)]
        who: Actor,
        /// Which room.
        room: Room,
    },
    /// A client left a room, its connection being kept.
    Left {
        /// Who.
        #[serde(flatten)]
        who: Actor,
        /// Which room.
        room: Room,
    },
    /// An event was published, and is safe.
    Published {
        /// Who.
        #[serde(flatten)]
        who: Actor,
        /// The event's type.
        #[serde(rename = "type")]
        kind: Box<str>,
        /// The event's own name.
        id: Box<str>,
        /// Its number in the log.
        offset: u64,
        /// Where it went.
        rooms: Vec<String>,
    },
    /// A board was changed, and the change is safe.
    Changed {
        /// Who.
        #[serde(flatten)]
        who: Actor,
        /// Which board.
        board: Box<str>,
        /// Its revision after that.
        revision: u64,
        /// How many operations it were.
        operations: usize,
    },
    /// Somebody was refused something.
    Refused {
        /// Who.
        #[serde(flatten)]
        who: Actor,
        /// What was asked for: `connect`, `subscribe room:x`, `GET /metrics`.
        what: Box<str>,
        /// Why not: a code, or words for the operator.
        why: Box<str>,
    },
    /// A client's connection ended.
    Disconnected {
        /// Who.
        #[serde(flatten)]
        who: Actor,
        /// The close code, if there was a close.
        code: Option<u16>,
        /// In words.
        why: Box<str>,
        /// How long it lasted.
        seconds: f64,
    },
    /// Somebody did what needs an administrator.
    Administered {
        /// Who.
        #[serde(flatten)]
        who: Actor,
        /// What: `plugin remove`, `plugin resume`, `user disconnect`.
        what: &'static str,
        /// To which plugin, or user.
        whom: Box<str>,
        /// `done`, or the code of the refusal.
        outcome: &'static str,
    },
    /// Another version of a plugin runs, or it runs with other settings, or no
    /// more.
    Plugin {
        /// Which one.
        plugin: PluginName,
        /// What became of it.
        #[serde(rename = "what")]
        words: Box<str>,
    },
    /// Notes are missing here.
    Dropped {
        /// How many found no room, or could not be written.
        notes: u64,
    },
}

/// Who did something, as far as it is known.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Actor {
    /// The connection's public number.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub connection: Option<ConnectionId>,
    /// What it speaks, `http` for single requests.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dialect: Option<&'static str>,
    /// Where it comes from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub address: Option<IpAddr>,
    /// The user that it has shown to be.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<Arc<str>>,
}

impl Actor {
    /// Somebody who has asked over HTTP from `address`.
    #[must_use]
    pub fn http(address: IpAddr) -> Self {
        Self { dialect: Some("http"), address: Some(address), ..Self::default() }
    }
}

impl Note {
    /// A refusal. Words of strangers are cut to 256 bytes.
    #[must_use]
    pub fn refused(who: Actor, what: &str, why: &str) -> Self {
        Self::Refused { who, what: cut(what).into(), why: cut(why).into() }
    }
}

fn cut(words: &str) -> &str {
    &words[..words.floor_char_boundary(WORDS_MAX)]
}

/// How the audit log is doing, since the start.
#[derive(Debug, Default)]
pub struct AuditCounters {
    /// Notes that were written.
    pub written: AtomicU64,
    /// Notes that found no room in the queue.
    pub dropped: AtomicU64,
    /// Notes that could not be written.
    pub failed: AtomicU64,
}

/// Where the audit log is, and how much of it is kept.
#[derive(Clone, Debug)]
pub struct AuditFiles {
    /// The file that is written; older ones have `.1`, `.2`, … at the end.
    pub file: PathBuf,
    /// A file that has more bytes than this makes room for the next.
    pub bytes: usize,
    /// Files that are kept, this one included: at least 2.
    pub files: usize,
}

/// Takes notes. Cheap to clone; without a file it takes none.
#[derive(Clone, Debug, Default)]
pub struct Audit(Option<Arc<Desk>>);

#[derive(Debug)]
struct Desk {
    clock: Clock,
    queue: SyncSender<Order>,
    counters: Arc<AuditCounters>,
}

/// The thread that writes.
#[derive(Debug)]
pub struct AuditWriter {
    queue: SyncSender<Order>,
    thread: JoinHandle<()>,
}

#[derive(Debug)]
enum Order {
    Write { time_ns: u64, note: Note },
    Stop,
}

impl Audit {
    /// Nothing is noted.
    #[must_use]
    pub fn off() -> Self {
        Self::default()
    }

    /// Opens the file and starts to write.
    ///
    /// # Errors
    ///
    /// The file can't be opened, or is not the hub's to keep for itself.
    pub fn start(files: AuditFiles, clock: Clock) -> io::Result<(Self, AuditWriter)> {
        let counters = Arc::<AuditCounters>::default();
        let (queue, orders) = sync_channel(QUEUE_MAX);
        let paper = Paper::open(files, counters.clone())?;
        let time = clock.clone();
        let thread = std::thread::Builder::new()
            .name("audit".to_owned())
            .spawn(move || paper.keep(&orders, &time))?;
        let writer = AuditWriter { queue: queue.clone(), thread };
        Ok((Self(Some(Arc::new(Desk { clock, queue, counters }))), writer))
    }

    /// Notes something. Never waits; what finds no room is counted.
    pub fn note(&self, note: Note) {
        let Some(desk) = &self.0 else { return };
        let order = Order::Write { time_ns: desk.clock.now_ns(), note };
        if desk.queue.try_send(order).is_err() {
            desk.counters.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Whether notes are taken, so that nothing is made up for none.
    #[must_use]
    pub fn is_on(&self) -> bool {
        self.0.is_some()
    }

    /// How it is doing; zeros where nothing is noted.
    #[must_use]
    pub fn counters(&self) -> Arc<AuditCounters> {
        self.0.as_ref().map(|desk| desk.counters.clone()).unwrap_or_default()
    }
}

impl AuditWriter {
    /// Writes what is queued, and ends. Gives up after two seconds: a disk that
    /// hangs does not hold up the stop.
    pub async fn stop(self) {
        let Self { queue, thread } = self;
        let stopped = tokio::task::spawn_blocking(move || {
            // An error means that it has ended already.
            let _ = queue.send(Order::Stop);
            let _ = thread.join();
        });
        if tokio::time::timeout(STOP_MAX, stopped).await.is_err() {
            tracing::warn!("the audit log is not written to its end: its disk takes nothing");
        }
    }
}

/// The files, and what is to go there.
struct Paper {
    files: AuditFiles,
    file: FileRotate<AppendCount>,
    counters: Arc<AuditCounters>,
    batch: Vec<u8>,
    notes: u64,
    /// Notes that are missing, as far as that is written there.
    told_missing: u64,
    /// The last line may have no end.
    is_torn: bool,
    /// It was told that nothing can be written.
    is_failing: bool,
}

/// A line.
#[derive(Serialize)]
struct Line<'a> {
    time: String,
    #[serde(flatten)]
    note: &'a Note,
}

impl Paper {
    fn open(files: AuditFiles, counters: Arc<AuditCounters>) -> io::Result<Self> {
        Ok(Self {
            file: open(&files)?,
            files,
            counters,
            batch: Vec::with_capacity(BATCH_BYTES),
            notes: 0,
            told_missing: 0,
            is_torn: false,
            is_failing: false,
        })
    }

    /// Writes until it is told to stop, several notes at a time where they come
    /// that fast.
    fn keep(mut self, orders: &Receiver<Order>, clock: &Clock) {
        let mut ends = false;
        while !ends {
            let mut next = orders.recv().ok();
            ends = loop {
                match next {
                    Some(Order::Write { time_ns, note }) => self.add(time_ns, &note),
                    Some(Order::Stop) | None => break true,
                }
                if self.batch.len() >= BATCH_BYTES {
                    break false;
                }
                match orders.try_recv() {
                    Ok(order) => next = Some(order),
                    Err(_) => break false,
                }
            };
            self.tell_missing(clock);
            self.write();
        }
    }

    fn add(&mut self, time_ns: u64, note: &Note) {
        let before = self.batch.len();
        let line = Line { time: clock::rfc3339(time_ns), note };
        match serde_json::to_writer(&mut self.batch, &line) {
            Ok(()) => {
                self.batch.push(b'\n');
                self.notes += 1;
            }
            Err(error) => {
                self.batch.truncate(before);
                self.counters.failed.fetch_add(1, Ordering::Relaxed);
                tracing::error!(%error, "a note for the audit log");
            }
        }
    }

    /// A line that says how many are missing, after those that stood before them.
    fn tell_missing(&mut self, clock: &Clock) {
        let AuditCounters { dropped, failed, .. } = &*self.counters;
        let missing = dropped.load(Ordering::Relaxed) + failed.load(Ordering::Relaxed);
        if missing > self.told_missing && !self.is_failing {
            self.add(clock.now_ns(), &Note::Dropped { notes: missing - self.told_missing });
            self.told_missing = missing;
        }
    }

    fn write(&mut self) {
        if self.batch.is_empty() {
            return;
        }
        match self.try_write() {
            Ok(()) => {
                self.counters.written.fetch_add(self.notes, Ordering::Relaxed);
                self.is_torn = false;
                if std::mem::take(&mut self.is_failing) {
                    tracing::warn!(file = %self.files.file.display(), "audit log: written again");
                }
            }
            Err(error) => {
                self.counters.failed.fetch_add(self.notes, Ordering::Relaxed);
                self.is_torn = true;
                if !std::mem::replace(&mut self.is_failing, true) {
                    tracing::error!(
                        file = %self.files.file.display(), %error,
                        "audit log: nothing can be written, and notes are lost until it can"
                    );
                }
            }
        }
        self.batch.clear();
        self.notes = 0;
    }

    fn try_write(&mut self) -> io::Result<()> {
        // Taken away by somebody, or never come back after a turn: the rotation
        // would go on without a word.
        if !self.files.file.exists() {
            self.file = open(&self.files)?;
        }
        if self.is_torn {
            self.batch.insert(0, b'\n');
        }
        let Self { file, batch, .. } = self;
        // It asserts that files are where it has put them.
        catch_unwind(AssertUnwindSafe(|| file.write_all(batch)))
            .unwrap_or_else(|_| Err(io::Error::other("the files can't take turns")))
    }
}

fn open(files: &AuditFiles) -> io::Result<FileRotate<AppendCount>> {
    let path = std::path::absolute(&files.file)?;
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    // Once by hand: the rotation keeps its errors to itself.
    let opened = options().open(&path)?;
    opened.set_permissions(fs::Permissions::from_mode(MODE))?;
    Ok(FileRotate::new(
        &path,
        AppendCount::new(files.files.saturating_sub(1)),
        ContentLimit::BytesSurpassed(files.bytes),
        Compression::None,
        Some(options()),
    ))
}

fn options() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.read(true).create(true).append(true).mode(MODE);
    options
}
