//! A detector that is shown what has been: one instance, tick after tick.
//!
//! Each tick goes through the desk and the call that live ticks go through, with
//! the tick's time as the detector's clock. It is handed one tick at a time, so
//! that nothing of what comes later can reach it: neither values nor their
//! range, nor how many there are. Nothing here touches a running hub.

mod crowd;
pub mod seeded;

use std::borrow::Cow;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use globset::{Glob, GlobSet};

use super::bundled::Bundled;
use super::compile_cache::CompileCache;
use super::detector::DetectorDesk;
use super::engine::{COMPONENT_BYTES_MAX, Engine, Loadable};
use super::instance::Instance;
use super::kit::{Belongings, Kit};
use super::limits::Refused;
use super::meter::thread_time;
use super::settings::Settings;
use super::status::{PluginRole, short_hash};
use super::trial::{SLOWNESS, TrialError, read, read_settings};
use crate::model::{Candidate, PluginName, Series, SeriesId, SeriesSpec, Tick};
use crate::snapshot::{Mark, Roster, Snapshot};

pub use crowd::{CrowdCost, crowd};

/// A detector's component, with what it is configured with.
#[derive(Clone, Copy, Debug)]
pub enum Component<'a> {
    /// One that the binary carries; its settings are those that it carries too.
    Bundled(&'static Bundled),
    /// A file.
    File(&'a Path),
}

/// A detector that was compiled once, and can be shown any number of pasts.
pub struct Replay {
    plugin: PluginName,
    loadable: Arc<Loadable>,
    settings: Arc<Settings>,
    component_bytes: usize,
}

impl Replay {
    /// Loads a detector. `settings` names a file that is used instead of what
    /// goes with the component; compiled code is kept in `cache`.
    ///
    /// # Errors
    ///
    /// [`TrialError`]; it is one if the component is no detector.
    pub fn open(
        component: Component<'_>,
        settings: Option<&Path>,
        cache: &Path,
    ) -> Result<Self, TrialError> {
        let (name, bytes, own) = match component {
            Component::Bundled(bundled) => {
                let own = parse(&PathBuf::from(bundled.name).with_extension("toml"), bundled)?;
                (bundled.name.to_owned(), Cow::Borrowed(bundled.component()), own)
            }
            Component::File(file) => {
                let name = file.file_stem().unwrap_or_default().to_string_lossy().into_owned();
                (name, Cow::Owned(read(file, COMPONENT_BYTES_MAX)?), Settings::default())
            }
        };
        let settings = settings.map_or(Ok(own), read_settings)?;
        let cache = CompileCache::open(cache.to_owned()).map_err(|error| TrialError::File {
            path: cache.to_owned(),
            words: error.to_string(),
        })?;
        let engine = Engine::new(cache).map_err(TrialError::Engine)?;
        let hash = blake3::hash(&bytes);
        let component = |error: super::engine::LoadError| TrialError::Component(error.to_string());
        let loadable = match engine.cached(&bytes, hash).map_err(component)? {
            Some(loadable) => loadable,
            None => engine.compile(&bytes, hash).map_err(component)?,
        };
        if loadable.role() != PluginRole::Detector {
            let words = format!("`{name}` is a collector, and only a detector can be shown a past");
            return Err(TrialError::Component(words));
        }
        settings.check_role(loadable.role()).map_err(TrialError::Settings)?;
        Ok(Self {
            plugin: PluginName::from(&*name),
            loadable: Arc::new(loadable),
            settings: Arc::new(settings),
            component_bytes: bytes.len(),
        })
    }

    /// The detector's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.plugin
    }

    /// The first digits of its component's hash.
    #[must_use]
    pub fn version(&self) -> String {
        short_hash(self.loadable.hash)
    }

    /// The component's size.
    #[must_use]
    pub fn component_bytes(&self) -> usize {
        self.component_bytes
    }

    /// Whether the detector's settings let it see a series of this name; without
    /// any it sees all but the hub's own.
    #[must_use]
    pub fn sees(&self, name: &str) -> bool {
        // The globs were checked when the settings were read.
        match self.settings.shown().unwrap_or(None) {
            Some(globs) => globs.is_match(name),
            None => !name.starts_with("telltale."),
        }
    }

    /// Starts a fresh instance that has been shown nothing. `interval` is how
    /// long a tick is. Needs a tokio runtime of a single thread, by whose
    /// processor time computing is counted.
    ///
    /// # Errors
    ///
    /// It can't be started or refuses its settings, in words.
    pub async fn start(&self, interval: Duration) -> Result<Showing, String> {
        let belongings = Belongings::new(&self.plugin);
        let (loadable, settings) = (self.loadable.clone(), self.settings.clone());
        let mut kit = Kit::new(loadable, settings, interval, belongings);
        kit.limits.collect *= SLOWNESS;
        let instance = kit.start().await.map_err(|failure| failure.to_string())?;
        // What it is shown has been chosen already.
        let glob = Glob::new("*").map_err(|error| error.to_string())?;
        let all = GlobSet::new([glob]).map_err(|error| error.to_string())?;
        let desk =
            DetectorDesk::new(self.plugin.clone(), Some(all), &kit.limits, Refused::default());
        Ok(Showing {
            instance,
            desk,
            now_ns: kit.surroundings.virtual_now_ns.clone().unwrap_or_default(),
            snapshot: Snapshot::empty(),
            scores: Vec::new(),
        })
    }
}

fn parse(file: &Path, bundled: &Bundled) -> Result<Settings, TrialError> {
    Settings::parse(file, bundled.settings())
        .map_err(|error| TrialError::Settings(error.to_string()))
}

/// A runtime for [`Showing`]: of one thread, whose processor time tells what was
/// computed.
///
/// # Errors
///
/// The system gives none.
pub fn runtime() -> std::io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()
}

/// The processor time that this thread has used.
#[must_use]
pub fn processor_time() -> Duration {
    thread_time()
}

/// One instance, and the series that it is shown.
pub struct Showing {
    instance: Instance,
    desk: DetectorDesk,
    /// The detector's clock.
    now_ns: Arc<AtomicU64>,
    /// Made once, and filled anew for each tick.
    snapshot: Snapshot,
    scores: Vec<f64>,
}

/// What a detector said of a tick.
#[derive(Debug)]
pub struct Said<'a> {
    /// A score for each series, in the order in which they were let in: the
    /// larger of the score of its value and those of its candidates. Not a
    /// number where a value was missing and nothing was said of that.
    pub scores: &'a [f64],
    /// What it found odd.
    pub candidates: Vec<Candidate>,
}

impl Said<'_> {
    /// The strongest candidate of the series that was let in as the `at`-th.
    #[must_use]
    pub fn candidate(&self, at: usize) -> Option<&Candidate> {
        let own = self.candidates.iter().filter(|candidate| position(candidate.series.id) == at);
        own.max_by(|one, other| one.score.total_cmp(&other.score))
    }

    /// All candidates of the series that was let in as the `at`-th.
    #[must_use]
    pub fn candidates_of(&self, at: usize) -> Vec<Candidate> {
        let own = self.candidates.iter().filter(|candidate| position(candidate.series.id) == at);
        own.cloned().collect()
    }
}

/// Series are numbered from 1 in the order in which they are let in.
fn position(id: SeriesId) -> usize {
    (id.0 as usize).saturating_sub(1)
}

impl Showing {
    /// Lets in more series, each with how often a value is due. They are
    /// declared with the next tick.
    pub fn let_in(&mut self, series: impl IntoIterator<Item = (SeriesSpec, Duration)>) {
        let before = &self.snapshot.roster;
        let mut all = before.series.clone();
        for ((spec, interval), id) in series.into_iter().zip(all.len() as u32 + 1..) {
            let interval_ns = u64::try_from(interval.as_nanos()).unwrap_or(u64::MAX);
            all.push(Arc::new(Series { id: SeriesId(id), spec, interval_ns }));
        }
        let (generation, count) = (before.generation + 1, all.len());
        self.snapshot = Snapshot {
            tick: self.snapshot.tick,
            roster: Arc::new(Roster { generation, series: all }),
            values: vec![f64::NAN; count].into(),
            raw: vec![f64::NAN; count].into(),
            marks: vec![Mark::Held; count].into(),
            ..Snapshot::empty()
        };
        self.scores = vec![f64::NAN; count];
    }

    /// Shows the next tick: a value for each series in the order in which they
    /// were let in, not a number where one was due and has not come. A time
    /// before the last one is shown as the last one: a tick's time never goes
    /// back.
    ///
    /// # Errors
    ///
    /// The call failed or broke a rule, in words; the instance has ended.
    pub async fn show(&mut self, time_ns: u64, values: &[f64]) -> Result<Said<'_>, String> {
        let Self { instance, desk, now_ns, snapshot, scores } = self;
        let Tick { number, time_ns: before_ns } = snapshot.tick;
        snapshot.tick = Tick { number: number + 1, time_ns: time_ns.max(before_ns) };
        let slots = snapshot.values.iter_mut().zip(&mut snapshot.marks);
        for ((slot, mark), value) in slots.zip(values) {
            *slot = *value;
            *mark = if value.is_finite() { Mark::Updated } else { Mark::Missed };
        }
        now_ns.store(snapshot.tick.time_ns, Ordering::Relaxed);
        let shown = desk.observe(snapshot);
        let verdict = instance.observe(&shown.wire).await;
        let verdict = verdict.map_err(|failure| format!("observe: {failure}"))?;
        let judgement = desk
            .check(snapshot, shown, verdict)
            .map_err(|broken| format!("verdict refused: {broken}"))?;
        scores.fill(f64::NAN);
        for (at, id) in judgement.seen.iter().enumerate() {
            scores[position(*id)] = judgement.scores.get(at).copied().unwrap_or(0.0);
        }
        for candidate in &judgement.candidates {
            let score = &mut scores[position(candidate.series.id)];
            // The larger one; a number, where only one of them is.
            *score = score.max(candidate.score);
        }
        Ok(Said { scores, candidates: judgement.candidates })
    }

    /// The series that were let in, in their order.
    #[must_use]
    pub fn series(&self) -> &[Arc<Series>] {
        &self.snapshot.roster.series
    }

    /// What the instance's memories have together, in bytes.
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        self.instance.memory_bytes()
    }
}
