//! What is kept on disk: samples and the dictionary in `history.db`, the
//! entries of the log channels in `log.db`.
//!
//! Each file has one writer, a thread of its own, so that a synced log entry
//! never delays the dictionary; reads have connections of their own. Nothing
//! here holds up a tick: samples that find the queue full are dropped, and
//! counted. Entries are never dropped: who sends them waits.

mod boards;
mod database;
mod deliveries;
mod dictionary;
mod entries;
mod history;
mod log;
mod past;
mod reader;
mod retention;
mod samples;
#[cfg(test)]
mod tests;

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, watch};

use crate::clock::Clock;
use crate::model::{Board, Dictionary, Entry, Finding, Flags, Logged, SeriesId, Tick};
use crate::snapshot::Snapshot;
use boards::Totals;
use database::{Database, HISTORY, LOG};
use reader::Readers;
use retention::Retention;

pub use boards::{BoardState, CHANGED, Change, ObjectVersion, OperationKey};
pub use deliveries::{DEAD_BYTES_MAX, DEAD_MAX, Delivery, DeliveryAct, DeliveryChange, Place};
pub use entries::{Missed, RoomPage};
pub use log::{Publication, PublicationKey, Reused};
pub use past::{Past, PastQuery, PastSeries, past};
pub use reader::Reader;
pub use samples::{History, HistoryQuery, POINTS_MAX, Point};

/// How many snapshots may wait for the writer: a minute at the usual tick, and
/// three seconds at the shortest one, which a busy disk may take for a commit.
/// They share most of what they hold; one costs 17 bytes a series.
const SNAPSHOTS_MAX: usize = 64;
/// How many judgements' flags may wait: of sixteen detectors as long as snapshots
/// may. One takes four bytes for each odd value.
const FLAGS_MAX: usize = 16 * SNAPSHOTS_MAX;
/// How many requests for numbers may wait. Plugins send one at a time each.
const MINTS_MAX: usize = 64;
/// How many entries may wait: four of the largest commits.
const ENTRIES_MAX: usize = 4 * log::BATCH_MAX;
/// How many publications may wait, likewise more than come between two commits
/// at 50,000 a second. Their bytes have a bound of their own, with who publishes.
const PUBLICATIONS_MAX: usize = 1024;
/// How many changes of boards may wait, as many.
const CHANGES_MAX: usize = 1024;
/// How much may wait that is to be kept about deliveries. Each receiver's task
/// waits for one, and so does each command about them.
const DELIVERIES_MAX: usize = 64;
/// How many bytes all deliveries may need: the dead letters of 32 receivers.
const DELIVERIES_BYTES_MAX: u64 = 32 * DEAD_BYTES_MAX;

/// Where things are kept, and for how long.
#[derive(Clone, Debug)]
pub struct StoreConfig {
    /// The folder of both files. Created if it is missing.
    pub folder: PathBuf,
    /// What is older is deleted, samples and entries.
    pub retention_age: Duration,
    /// How many bytes the samples and the dictionary may use. The oldest
    /// samples go first. The log has a bound of its own, [`LOG_BYTES_MAX`].
    pub retention_bytes: u64,
    /// How many bytes the objects of all boards may have together. What stood
    /// there before may have twice as many.
    pub boards_bytes: u64,
    /// What tells how old things are.
    pub clock: Clock,
}

/// How many bytes the log may use, whatever the age of its entries, receipts
/// included: a million of the usual 500 bytes beside as many receipts. Boards
/// have a bound of their own, [`StoreConfig::boards_bytes`].
pub const LOG_BYTES_MAX: u64 = 1 << 30;

/// What the files knew when they were opened.
#[derive(Clone, Debug)]
pub struct Kept {
    /// The last tick of which everything is kept.
    pub last_tick: Option<Tick>,
    /// Changes only when the log was lost.
    pub epoch: String,
    /// The offset of the last entry ever written; 0 if there was none.
    pub head: u64,
    /// The largest offset whose entry was deleted; 0 if none ever was. Who has
    /// seen all up to here or further can be told all that came after.
    pub pruned: u64,
    /// Findings that were opened and never closed, as they were opened.
    pub open_findings: Vec<Finding>,
    /// All boards, as they stood at [`Kept::head`].
    pub boards: Vec<(Board, BoardState)>,
    /// How far back [`StoreConfig::retention_bytes`] reaches, going by what is
    /// there. None while that is too little to tell.
    pub reach: Option<Duration>,
}

/// What the store has done since its start.
#[derive(Debug, Default)]
pub struct Counters {
    /// Samples committed.
    pub samples_written: AtomicU64,
    /// Samples lost: the queue was full, or the file could not be written.
    pub samples_dropped: AtomicU64,
    /// Snapshots that found the queue full.
    pub snapshots_dropped: AtomicU64,
    /// Snapshots that wait to be written.
    pub snapshots_queued: AtomicU64,
    /// Flags committed: odd values, each by whichever detector was first.
    pub flags_written: AtomicU64,
    /// Flags lost: the file could not be written.
    pub flags_dropped: AtomicU64,
    /// Entries committed.
    pub entries_written: AtomicU64,
    /// Transactions that failed, in either file.
    pub write_errors: AtomicU64,
    /// How long the last transaction of samples took, in microseconds.
    pub samples_commit_us: AtomicU64,
    /// How long the last transaction of entries took, in microseconds.
    pub entries_commit_us: AtomicU64,
    /// Bytes in use in `history.db`, as retention counts them.
    pub history_bytes_used: AtomicU64,
    /// Bytes in use in `log.db`, as retention counts them.
    pub log_bytes_used: AtomicU64,
    /// Boards that are kept.
    pub boards: AtomicU64,
    /// Bytes of what stands on them.
    pub boards_bytes: AtomicU64,
}

/// Why something could not be kept or read.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The folder is not there and can't be made.
    #[error("the data folder {}: {source}", path.display())]
    Folder {
        /// The folder.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// A newer hub has written the file.
    #[error(
        "{} has version {version} and this hub reads up to {ours}: start the newer hub, or move \
         the file away",
        path.display()
    )]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its version.
        version: u32,
        /// The newest that this hub knows.
        ours: u32,
    },
    /// The file is not what was written.
    #[error("{} is damaged ({source}): move it away, and the hub starts a new one", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What SQLite says.
        source: rusqlite::Error,
    },
    /// The file can't be read or written.
    #[error("{}: {source}", path.display())]
    Sqlite {
        /// The file.
        path: PathBuf,
        /// What SQLite says.
        source: rusqlite::Error,
    },
    /// A writer can't start.
    #[error("the store can't start a thread: {0}")]
    Thread(io::Error),
    /// A read would have taken too long.
    #[error("the store did not find it within {} ms: narrow the range", reader::READ_MAX.as_millis())]
    TooSlow,
    /// No such series was ever declared.
    #[error("there is no series {0}")]
    NoSuchSeries(SeriesId),
    /// The read was cut off: the hub is stopping.
    #[error("the hub is stopping")]
    Stopping,
}

/// Reads what the files know.
fn kept(history: &Database, log: &Database, retention_bytes: u64) -> Result<Kept, StoreError> {
    Ok(Kept {
        last_tick: history.read(history::last_tick)?,
        epoch: log.read(log::epoch)?,
        head: log.read(log::head)?,
        pruned: log.read(log::pruned)?,
        open_findings: log.read(log::open_findings)?,
        boards: log.read(boards::all)?,
        reach: history.read(|connection| retention::reach(connection, retention_bytes))?,
    })
}

/// The store, running. Dropped without [`Store::close`], it still writes what
/// is queued, but nobody waits for it.
#[derive(Debug)]
pub struct Store {
    dictionary: Arc<Dictionary>,
    snapshots: mpsc::Sender<Arc<Snapshot>>,
    flags: mpsc::Sender<Flags>,
    entries: mpsc::Sender<Entry>,
    publications: mpsc::Sender<Publication>,
    changes: mpsc::Sender<Change>,
    deliveries: mpsc::Sender<DeliveryChange>,
    found: watch::Receiver<u64>,
    reader: Reader,
    counters: Arc<Counters>,
    threads: Vec<JoinHandle<()>>,
    /// Dropped to stop the writers.
    running: watch::Sender<()>,
}

impl Store {
    /// Opens both files, creates what is missing, and starts the writers.
    /// Blocks. `logged` gets the entries in the order of their offsets, each
    /// after its commit; the log waits while it is full.
    ///
    /// # Errors
    ///
    /// [`StoreError`], with words that name the file and what mends it.
    pub fn open(
        config: StoreConfig,
        logged: mpsc::Sender<Vec<Arc<Logged>>>,
    ) -> Result<(Self, Kept), StoreError> {
        let StoreConfig { folder, retention_age, retention_bytes, boards_bytes, clock } = config;
        std::fs::create_dir_all(&folder)
            .map_err(|source| StoreError::Folder { path: folder.clone(), source })?;
        let history = Database::open(&folder, &HISTORY)?;
        let log = Database::open(&folder, &LOG)?;
        let kept = kept(&history, &log, retention_bytes)?;
        let known = history.read(dictionary::known)?;

        let (running, stop) = watch::channel(());
        let (mint, mints) = mpsc::channel(MINTS_MAX);
        let (snapshots, snapshots_queued) = mpsc::channel(SNAPSHOTS_MAX);
        let (flags, flags_queued) = mpsc::channel(FLAGS_MAX);
        let (entries, entries_queued) = mpsc::channel(ENTRIES_MAX);
        let (publications, publications_queued) = mpsc::channel(PUBLICATIONS_MAX);
        let (changes, changes_queued) = mpsc::channel(CHANGES_MAX);
        let (deliveries, deliveries_queued) = mpsc::channel(DELIVERIES_MAX);
        let (finding, found) = watch::channel(kept.head);
        let receipts = log.read(log::receipts)?;
        let totals = log.read(Totals::read)?;
        let counters = Arc::new(Counters::default());
        counters.count_boards(&totals);
        let reader = Reader {
            history: Readers::new(history.path.clone()),
            log: Readers::new(log.path.clone()),
        };
        let samples = Retention::samples(retention_age, retention_bytes, clock.clone());
        let writer = history::Writer {
            queue: snapshots_queued,
            flags: flags_queued,
            mints,
            stop: stop.clone(),
            retention: samples,
            counters: counters.clone(),
            complaints: Complaints::new(history.path.clone()),
            database: history,
        };
        let historian = thread("telltale-history", writer.run())?;
        let writer = log::Writer {
            entries: entries_queued,
            publications: publications_queued,
            changes: changes_queued,
            deliveries: deliveries_queued,
            found: finding,
            boards_bytes_max: boards_bytes,
            logged,
            stop,
            retention: Retention::entries(retention_age, log_max(boards_bytes), clock.clone()),
            clock,
            receipts,
            totals,
            counters: counters.clone(),
            complaints: Complaints::new(log.path.clone()),
            database: log,
        };
        let threads = vec![historian, thread("telltale-log", writer.run())?];
        let dictionary = Arc::new(Dictionary::new(known, mint));
        let store = Self {
            dictionary,
            snapshots,
            flags,
            entries,
            publications,
            changes,
            deliveries,
            found,
            reader,
            counters,
            threads,
            running,
        };
        Ok((store, kept))
    }

    /// The numbers of all series, kept by this store.
    #[must_use]
    pub fn dictionary(&self) -> Arc<Dictionary> {
        self.dictionary.clone()
    }

    /// Hands over a tick's samples. Never waits: false means that the queue was
    /// full, and they are lost and counted.
    pub fn record(&self, snapshot: Arc<Snapshot>) -> bool {
        let samples = snapshot.updated().count() as u64;
        self.counters.snapshots_queued.fetch_add(1, Ordering::Relaxed);
        let taken = self.snapshots.try_send(snapshot).is_ok();
        if !taken {
            self.counters.snapshots_queued.fetch_sub(1, Ordering::Relaxed);
            self.counters.snapshots_dropped.fetch_add(1, Ordering::Relaxed);
            self.counters.samples_dropped.fetch_add(samples, Ordering::Relaxed);
        }
        taken
    }

    /// Where it goes which values were odd; there is no room while the writer
    /// lags, and what is lost then is the sender's to count.
    #[must_use]
    pub fn flags(&self) -> mpsc::Sender<Flags> {
        self.flags.clone()
    }

    /// Where entries go. Sending waits while the log lags, and fails only when
    /// the store has stopped.
    #[must_use]
    pub fn log(&self) -> mpsc::Sender<Entry> {
        self.entries.clone()
    }

    /// Where events go that somebody waits for; the log has no room while it is
    /// full.
    #[must_use]
    pub fn publications(&self) -> mpsc::Sender<Publication> {
        self.publications.clone()
    }

    /// Where changes of boards go; the log has no room while it is full.
    #[must_use]
    pub fn changes(&self) -> mpsc::Sender<Change> {
        self.changes.clone()
    }

    /// Where what is to be kept about deliveries goes; the log has no room while
    /// it is full.
    #[must_use]
    pub fn deliveries(&self) -> mpsc::Sender<DeliveryChange> {
        self.deliveries.clone()
    }

    /// The offset of the newest finding, told after its commit. Until one comes,
    /// where the log ended at the start.
    #[must_use]
    pub fn found(&self) -> watch::Receiver<u64> {
        self.found.clone()
    }

    /// Reads what is kept.
    #[must_use]
    pub fn reader(&self) -> Reader {
        self.reader.clone()
    }

    /// What the store has done since its start.
    #[must_use]
    pub fn counters(&self) -> Arc<Counters> {
        self.counters.clone()
    }

    /// Writes what is queued, and returns when both files are closed. Entries
    /// committed from here on reach `logged` only as far as there is room.
    pub async fn close(self) {
        let threads = self.threads;
        self.reader.close();
        drop(self.running);
        let joined = tokio::task::spawn_blocking(move || {
            threads.into_iter().filter_map(|thread| thread.join().err()).count()
        });
        if !matches!(joined.await, Ok(0)) {
            tracing::error!("a writer of the store ended in a panic");
        }
    }
}

/// How many bytes the log's file may use: beside the entries what stands on
/// boards, what stood there before, and as much again for pages that are not full,
/// and deliveries.
fn log_max(boards_bytes: u64) -> u64 {
    LOG_BYTES_MAX + DELIVERIES_BYTES_MAX + 2 * (1 + boards::BEFORE_FACTOR) * boards_bytes
}

impl Counters {
    fn count_boards(&self, totals: &Totals) {
        self.boards.store(totals.boards, Ordering::Relaxed);
        self.boards_bytes.store(totals.cost, Ordering::Relaxed);
    }
}

/// Runs a writer on a thread of its own, with a runtime of its own: SQLite
/// blocks.
fn thread(
    name: &str,
    writer: impl Future<Output = ()> + Send + 'static,
) -> Result<JoinHandle<()>, StoreError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .map_err(StoreError::Thread)?;
    std::thread::Builder::new()
        .name(name.to_owned())
        .spawn(move || runtime.block_on(writer))
        .map_err(StoreError::Thread)
}

/// Tells of failed writes: each is counted, one a minute is logged.
#[derive(Debug)]
struct Complaints {
    path: PathBuf,
    last: Option<Instant>,
}

impl Complaints {
    const INTERVAL: Duration = Duration::from_secs(60);

    fn new(path: PathBuf) -> Self {
        Self { path, last: None }
    }

    fn add(&mut self, counters: &Counters, error: &rusqlite::Error, what: &str) {
        counters.write_errors.fetch_add(1, Ordering::Relaxed);
        if self.last.is_none_or(|last| last.elapsed() >= Self::INTERVAL) {
            self.last = Some(Instant::now());
            tracing::error!(file = %self.path.display(), %error, "{what}");
        }
    }
}
