//! A version of a plugin: all that is needed to start an instance of it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::engine::Loadable;
use super::imports::Surroundings;
use super::instance::{Failure, Instance, Saved};
use super::settings::Settings;
use super::status::Handover;

/// All that is needed to start an instance of a plugin.
#[derive(Clone)]
pub(crate) struct Kit {
    pub(crate) loadable: Arc<Loadable>,
    pub(crate) settings: Arc<Settings>,
    pub(crate) surroundings: Arc<Surroundings>,
    pub(crate) limits: CallLimits,
    /// The component itself, until this version has passed its probation and
    /// the component is kept as the last good one.
    pub(crate) unproven: Option<Bytes>,
}

/// What an instance may use up, after the settings' say.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CallLimits {
    pub(crate) computing: Duration,
    pub(crate) waiting: Duration,
    pub(crate) series: usize,
    pub(crate) state_bytes: usize,
    pub(crate) interval_ns: u64,
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
    /// Starts an instance and configures it.
    pub(crate) async fn start(&self) -> Result<Instance, Failure> {
        let waiting = self.limits.waiting;
        let mut instance = Instance::start(&self.loadable, &self.surroundings, waiting).await?;
        instance.configure(&self.settings.config_json()).await?;
        Ok(instance)
    }

    /// Starts an instance that knows what `saved` holds.
    pub(crate) async fn start_with(
        &self,
        saved: Option<&Saved>,
    ) -> Result<(Instance, Handover), Failure> {
        let mut instance = self.start().await?;
        let handover = match saved {
            Some(saved) => hand_over(&mut instance, saved).await?,
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

/// Gives `saved` to an instance that has not seen a tick.
pub(crate) async fn hand_over(instance: &mut Instance, saved: &Saved) -> Result<Handover, Failure> {
    let version = instance.state_version().await?;
    if !instance.restore(saved).await? {
        return Ok(Handover::Cold);
    }
    Ok(if version == Some(saved.version) { Handover::Restored } else { Handover::Migrated })
}
