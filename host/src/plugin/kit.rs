//! A version of a plugin: all that is needed to start an instance of it.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::engine::Loadable;
use super::events::{EventBook, Outlet, Publisher};
use super::imports::Surroundings;
use super::instance::{Failure, Instance, Saved};
use super::journal::Journal;
use super::limits::{Limits, Refused};
use super::output::PluginLog;
use super::settings::Settings;
use super::status::{Handover, PluginRole};
use crate::cache::{Cache, PluginCache};
use crate::clock::Clock;
use crate::model::PluginName;

/// All that is needed to start an instance of a plugin.
#[derive(Clone)]
pub(crate) struct Kit {
    pub(crate) loadable: Arc<Loadable>,
    pub(crate) settings: Arc<Settings>,
    pub(crate) surroundings: Arc<Surroundings>,
    pub(crate) limits: Limits,
    tick: Duration,
    belongings: Belongings,
    /// The component itself, until this version has passed its probation and
    /// the component is kept as the last good one.
    pub(crate) unproven: Option<Bytes>,
}

/// What belongs to a plugin and outlives its versions.
#[derive(Clone)]
pub(crate) struct Belongings {
    /// What it says.
    pub(crate) journal: Arc<Journal>,
    /// What was over its limits.
    pub(crate) refused: Refused,
    /// Its part of the cache.
    pub(crate) cache: PluginCache,
    /// What became of its events.
    pub(crate) events: Arc<EventBook>,
    /// Where all plugins' events go.
    pub(crate) outlet: Outlet,
}

impl Belongings {
    /// Those of a plugin that is alone: nobody takes events from it.
    pub(crate) fn new(plugin: &PluginName) -> Self {
        let journal = Arc::new(Journal::new(plugin.clone(), Clock::system()));
        let (refused, cache) = (Refused::default(), Cache::memory().of(plugin));
        Self { journal, refused, cache, events: Arc::default(), outlet: Outlet::closed() }
    }
}

/// A version that ran well, and what it knew when another took over.
#[derive(Clone)]
pub(crate) struct Good {
    pub(crate) kit: Kit,
    pub(crate) state: Option<Saved>,
}

/// An instance that is started and configured, and waits for its turn.
pub(crate) struct Fresh {
    pub(crate) kit: Kit,
    pub(crate) instance: Instance,
    /// When its files were seen whole.
    pub(crate) whole: Instant,
}

impl Kit {
    /// A version that runs by its settings. `tick` is how long a tick is.
    pub(crate) fn new(
        loadable: Arc<Loadable>,
        settings: Arc<Settings>,
        tick: Duration,
        belongings: Belongings,
    ) -> Self {
        let role = loadable.role();
        let limits = Limits::of(&settings, role, tick);
        let Belongings { journal, refused, cache, .. } = belongings.clone();
        let log = PluginLog::new(limits.log_lines, refused.clone(), journal);
        let granted = settings.grant.events.clone();
        let publisher = Publisher::new(granted, &limits, log.clone(), &belongings);
        let surroundings = Arc::new(Surroundings {
            grant: settings.grant.clone(),
            memory_bytes_max: limits.memory_bytes,
            query_max: limits.query,
            log,
            publisher: Arc::new(publisher),
            cache,
            refused,
            virtual_now_ns: (role == PluginRole::Detector).then(|| Arc::new(AtomicU64::new(0))),
        });
        Self { loadable, settings, surroundings, limits, tick, belongings, unproven: None }
    }

    /// The same component by other settings.
    fn by(&self, settings: Settings) -> Self {
        let (loadable, belongings) = (self.loadable.clone(), self.belongings.clone());
        let kit = Self::new(loadable, Arc::new(settings), self.tick, belongings);
        Self { unproven: self.unproven.clone(), ..kit }
    }

    /// Starts an instance and configures it.
    pub(crate) async fn start(&self) -> Result<Instance, Failure> {
        let mut instance = Instance::start(&self.loadable, &self.surroundings, self.limits).await?;
        instance.configure(&self.settings.config_json()).await?;
        Ok(instance)
    }

    /// Starts an instance that knows what `saved` holds.
    pub(crate) async fn start_with(
        &self,
        saved: Option<&Saved>,
    ) -> Result<(Instance, Handover), StartFailure> {
        let mut instance = self.start().await.map_err(StartFailure::Start)?;
        let handover = match saved {
            Some(saved) => hand_over(&mut instance, saved).await.map_err(StartFailure::Handover)?,
            None => Handover::Cold,
        };
        Ok((instance, handover))
    }

    /// Whether `settings` can take the place of this version's between two
    /// calls: what an instance was built around is the same.
    pub(crate) fn takes_in_place(&self, settings: &Settings) -> bool {
        let own = &self.settings;
        own.grant == settings.grant
            && own.limits == settings.limits
            && own.interval == settings.interval
    }
}

/// Where a start went wrong.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StartFailure {
    /// Before there was any talk of a state.
    #[error("{0}")]
    Start(Failure),
    /// When the state was handed over.
    #[error("{0}")]
    Handover(Failure),
}

impl Good {
    /// What to return to if `kit` fails: nobody gets back by failing what an
    /// operator has taken away, so that grants and limits are those of `kit`.
    /// `None` where that makes no difference to `kit`, or where it is another
    /// sort of plugin.
    pub(crate) fn before(self, kit: &Kit) -> Option<Self> {
        let (old, new) = (&*self.kit.settings, &*kit.settings);
        let same = self.kit.loadable.hash == kit.loadable.hash
            && (&old.config, old.interval, &old.series) == (&new.config, new.interval, &new.series);
        if same || self.kit.loadable.role() != kit.loadable.role() {
            return None;
        }
        Some(self.under(new))
    }

    /// The same with the grants and limits of these settings.
    pub(crate) fn under(self, settings: &Settings) -> Self {
        let own = &*self.kit.settings;
        if own.grant == settings.grant && own.limits == settings.limits {
            return self;
        }
        let (grant, limits) = (settings.grant.clone(), settings.limits.clone());
        let kit = self.kit.by(Settings { grant, limits, ..own.clone() });
        Self { kit, state: self.state }
    }
}

/// Gives `saved` to an instance that has not seen a tick.
pub(crate) async fn hand_over(instance: &mut Instance, saved: &Saved) -> Result<Handover, Failure> {
    let version = instance.state_version().await?;
    if !instance.restore(saved).await? {
        return Ok(Handover::Cold);
    }
    Ok(if version == Some(saved.version) { Handover::Restored } else { Handover::Migrated })
}
