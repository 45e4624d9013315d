//! A thousand collectors in the real loop: what one tick costs the process.
//!
//! Everything is as in the hub but for the sockets: plugins from a folder, on
//! the runtime of their own, asked by the [`Ticker`]. A tick's cost is the
//! processor time of all threads from its publishing to that of the next, so
//! that whatever a tick sets off is in it.

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use telltale::audit::Audit;
use telltale::cache::Cache;
use telltale::clock::Clock;
use telltale::model::Dictionary;
use telltale::plugin::{EventOutlet, Outlets, Plugins, PluginsConfig};
use telltale::shutdown;
use telltale::snapshot::{Mark, Snapshot};
use telltale::store::{Store, StoreConfig};
use telltale::tick::{TickCounters, Ticker};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

use crate::figures::process_time;
use crate::sample::{component, dictionary};

/// Long enough that a tick's work is over before the next begins.
const TICK: Duration = Duration::from_millis(250);
/// Ticks after the last collector has come, before the first is measured.
const WARM_UP: usize = 8;
/// How long the collectors may take to come.
const LOADING_MAX: Duration = Duration::from_secs(60);

/// How much there is to do.
#[derive(Clone, Copy)]
pub(crate) struct Load {
    /// Instances of `guest_collector`.
    pub(crate) collectors: usize,
    /// Series of each.
    pub(crate) series_each: usize,
    /// Ticks to measure.
    pub(crate) ticks: usize,
}

impl Load {
    /// Values in one tick.
    pub(crate) fn values(self) -> usize {
        self.collectors * self.series_each
    }
}

/// Who takes the snapshots.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Company {
    /// Nobody: gather, freeze and publish.
    Alone,
    /// The store, which records every sample.
    Store,
    /// The detector `zscore`, which is shown all series.
    Zscore,
}

impl Company {
    /// All of them, in the order of the table.
    pub(crate) const ALL: [Self; 3] = [Self::Alone, Self::Store, Self::Zscore];

    /// The benchmark's name.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Alone => "tick/alone",
            Self::Store => "tick/store",
            Self::Zscore => "tick/zscore",
        }
    }
}

/// What the measured ticks cost.
pub(crate) struct Cost {
    /// Processor time of each tick.
    pub(crate) processor: Vec<Duration>,
    /// Wall time from each tick's beginning to the end of its publishing.
    pub(crate) gather: Vec<Duration>,
    /// Answers that came too late, slots that were skipped, observations that
    /// found the detector busy, samples that the store dropped. All should be 0.
    pub(crate) amiss: u64,
}

/// One tick, as the publisher saw it.
struct Beat {
    /// The processor time of the process so far.
    processor: Duration,
    /// Series with a value of this tick.
    updated: usize,
}

/// Runs the collectors until enough ticks are measured.
pub(crate) fn run(load: Load, company: Company) -> Cost {
    let runtime = tokio::runtime::Runtime::new().expect("the system gives a runtime");
    runtime.block_on(run_load(load, company))
}

async fn run_load(load: Load, company: Company) -> Cost {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let plugins_folder = folder.path().join("plugins");
    furnish(&plugins_folder, load, company).expect("the plugins can be written");
    let store = (company == Company::Store).then(|| Arc::new(open_store(folder.path())));
    let dictionary = store.as_ref().map_or_else(dictionary, |store| store.dictionary());
    let (outlets, changes, answers) = outlets(dictionary);
    let plugins_config = PluginsConfig {
        folder: plugins_folder.clone(),
        data: folder.path().to_owned(),
        tick: TICK,
        clock: Clock::system(),
        cache: Cache::memory(),
    };
    let plugins = Plugins::start(&plugins_config, outlets).expect("plugins can be run here");

    let (beat, mut beats) = mpsc::channel(16);
    let counters = Arc::new(TickCounters::default());
    let ticker = Ticker {
        interval: TICK,
        clock: Clock::system(),
        last: None,
        changes,
        watched: watch::channel(Arc::default()).1,
        answers,
        asking: plugins.runtime(),
        publish: publisher(beat, store.clone()),
        counters: counters.clone(),
    };
    let (stop, shutdown) = shutdown::channel();
    let ticking = tokio::spawn(ticker.run(shutdown));
    wait_for(load.values(), &mut beats).await;
    let mut cost = measure(load, beats, &counters).await;
    if company == Company::Zscore {
        let watching = plugins.statuses().get("zscore").map(|status| status.series);
        assert_eq!(watching, Some(load.values()), "zscore is not shown every series");
    }

    stop.fire();
    plugins.stop().await;
    // Its publisher holds the store.
    ticking.await.expect("the loop does not panic");
    if let Some(store) = store.and_then(Arc::into_inner) {
        cost.amiss += store.counters().samples_dropped.load(Ordering::Relaxed);
        store.close().await;
    }
    cost
}

/// The plugins folder: the component, its instances, and who else is to run.
fn furnish(folder: &Path, load: Load, company: Company) -> std::io::Result<()> {
    std::fs::create_dir(folder)?;
    std::fs::write(folder.join("c0.wasm"), component("guest_collector"))?;
    add_instances(folder, load, 0..load.collectors)?;
    if company == Company::Zscore {
        std::fs::write(folder.join("zscore.wasm"), component("telltale_zscore"))?;
    }
    Ok(())
}

/// Settings files, each of which is an instance of the one component.
fn add_instances(folder: &Path, load: Load, numbers: Range<usize>) -> std::io::Result<()> {
    let settings = format!("component = \"c0.wasm\"\n[config]\nseries = {}\n", load.series_each);
    for number in numbers {
        std::fs::write(folder.join(format!("c{number}.toml")), &settings)?;
    }
    Ok(())
}

fn open_store(folder: &Path) -> Store {
    let config = StoreConfig {
        folder: folder.to_owned(),
        retention_age: Duration::from_secs(86_400),
        retention_bytes: 1 << 30,
        boards_bytes: 1 << 26,
        clock: Clock::system(),
    };
    let (logged, entries) = mpsc::channel(64);
    drain(entries);
    Store::open(config, logged).expect("the store opens").0
}

type Questions = mpsc::Receiver<telltale::tick::Change>;
type Answers = mpsc::Receiver<telltale::model::Answer>;

/// Where the plugins report to, with the bounds that the hub has.
fn outlets(dictionary: Arc<Dictionary>) -> (Outlets, Questions, Answers) {
    let (answers, answer_queue) = mpsc::channel(1024);
    let (changes, change_queue) = mpsc::channel(64);
    let (judgements, judgement_queue) = mpsc::channel(64);
    let (entries, entry_queue) = mpsc::channel(64);
    drain(judgement_queue);
    drain(entry_queue);
    let events = EventOutlet { queue: mpsc::channel(1).0, check: |_, _| Ok(Vec::new()) };
    let audit = Audit::off();
    let outlets = Outlets { dictionary, answers, changes, judgements, entries, events, audit };
    (outlets, change_queue, answer_queue)
}

/// Reads what nobody here needs.
fn drain<T: Send + 'static>(mut queue: mpsc::Receiver<T>) -> JoinHandle<()> {
    tokio::spawn(async move { while queue.recv().await.is_some() {} })
}

/// Counts what came, notes the time, and hands on to the store if there is one.
fn publisher(
    beat: mpsc::Sender<Beat>,
    store: Option<Arc<Store>>,
) -> impl FnMut(Arc<Snapshot>) + Send + 'static {
    move |snapshot| {
        let updated = snapshot.marks.iter().filter(|mark| **mark == Mark::Updated).count();
        if let Some(store) = &store {
            // What it has no room for it has counted.
            store.record(snapshot);
        }
        // Nobody listens any more once enough is measured.
        drop(beat.try_send(Beat { processor: process_time(), updated }));
    }
}

/// Waits for a tick that brings at least so many values.
async fn wait_for(values: usize, beats: &mut mpsc::Receiver<Beat>) {
    let come = async { while next(beats).await.updated < values {} };
    tokio::time::timeout(LOADING_MAX, come).await.expect("all collectors come in time");
}

async fn measure(load: Load, mut beats: mpsc::Receiver<Beat>, counters: &TickCounters) -> Cost {
    for _ in 0..WARM_UP {
        next(&mut beats).await;
    }
    let amiss_before = amiss(counters);
    let mut before = next(&mut beats).await;
    let mut cost = Cost { processor: Vec::new(), gather: Vec::new(), amiss: 0 };
    for _ in 0..load.ticks {
        let beat = next(&mut beats).await;
        cost.processor.push(beat.processor - before.processor);
        // Written after the publishing: this may be the tick before, which is
        // as good.
        cost.gather.push(Duration::from_nanos(counters.gather_ns.load(Ordering::Relaxed)));
        before = beat;
    }
    cost.amiss = amiss(counters) - amiss_before;
    cost
}

async fn next(beats: &mut mpsc::Receiver<Beat>) -> Beat {
    beats.recv().await.expect("the loop runs")
}

fn amiss(counters: &TickCounters) -> u64 {
    let TickCounters { skipped, late_answers, skipped_observations, .. } = counters;
    [skipped, late_answers, skipped_observations]
        .map(|counter| counter.load(Ordering::Relaxed))
        .iter()
        .sum()
}
