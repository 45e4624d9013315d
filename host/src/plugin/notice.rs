//! Telling everybody what happens to plugins: the log, and the hub channel.

use serde::Serialize;
use tokio::sync::mpsc;
use tracing::Level;

use super::status::{Handover, Statuses};
use crate::audit::{Audit, Note};
use crate::clock::Clock;
use crate::model::{Entry, LogChannel, PluginName};

/// What has happened to a plugin, as clients of the hub channel read it.
#[derive(Clone, Debug, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub(crate) enum PluginEvent {
    /// It runs for the first time.
    Loaded { plugin: PluginName, handover: Handover },
    /// Another version, or other settings, took over at this tick.
    Reloaded {
        plugin: PluginName,
        tick: u64,
        handover: Handover,
        /// Saving in the old and restoring in the new instance.
        handover_ms: f64,
    },
    /// The instance that runs was given other settings at this tick.
    Reconfigured { plugin: PluginName, tick: u64 },
    /// A version failed in its probation, and the one before it runs again.
    RolledBack {
        plugin: PluginName,
        reason: String,
        /// The first 12 digits of the component's hash that runs now.
        to: String,
    },
    /// A version could not be used; what ran before goes on.
    Refused { plugin: PluginName, reason: String },
    /// It failed.
    Failed { plugin: PluginName, reason: String, restart_after_ms: u64 },
    /// It runs again after a failure.
    Restarted { plugin: PluginName },
    /// It failed too often.
    Quarantined { plugin: PluginName, reason: String },
    /// It met a limit for the first time since it was started; what is over it
    /// is left out.
    Limited {
        plugin: PluginName,
        /// The key under `[limits]`.
        limit: &'static str,
        reason: String,
    },
    /// Another component runs in its shadow from now on: what that finds is
    /// recorded.
    ShadowStarted {
        plugin: PluginName,
        /// The first 12 digits of the component's hash.
        component: String,
        handover: Handover,
    },
    /// Nothing runs in its shadow any more.
    ShadowStopped { plugin: PluginName, reason: String },
    /// What ran in its shadow has taken its place at this tick, with what it
    /// has learned there.
    Promoted {
        plugin: PluginName,
        tick: u64,
        /// The first 12 digits of the component's hash.
        to: String,
        handover: Handover,
        handover_ms: f64,
    },
    /// Somebody has brought back what ran before the promotion, with what it
    /// knew then.
    Reverted { plugin: PluginName, tick: u64, to: String, handover: Handover, handover_ms: f64 },
    /// Its file is gone, and so is it.
    Removed { plugin: PluginName },
}

impl PluginEvent {
    /// Whether something else runs from here on: what an auditor wants to know.
    fn is_change(&self) -> bool {
        !matches!(self, Self::Failed { .. } | Self::Restarted { .. } | Self::Limited { .. })
    }

    /// How much it matters, and what it is in words.
    fn words(&self) -> (&PluginName, Level, String) {
        match self {
            Self::Loaded { plugin, handover } => {
                (plugin, Level::INFO, format!("loaded, state {}", handover.word()))
            }
            Self::Reloaded { plugin, tick, handover, handover_ms } => {
                let state = handover.word();
                let words =
                    format!("reloaded at tick {tick}, state {state} in {handover_ms:.1} ms");
                (plugin, Level::INFO, words)
            }
            Self::Reconfigured { plugin, tick } => {
                (plugin, Level::INFO, format!("has other settings from tick {tick} on"))
            }
            Self::RolledBack { plugin, reason, to } => {
                (plugin, Level::ERROR, format!("taken back to version {to}: {reason}"))
            }
            Self::Refused { plugin, reason } => (plugin, Level::WARN, format!("refused: {reason}")),
            Self::Failed { plugin, reason, restart_after_ms } => (
                plugin,
                Level::WARN,
                format!("failed, starts again in {restart_after_ms} ms: {reason}"),
            ),
            Self::Restarted { plugin } => (plugin, Level::INFO, "started again".to_owned()),
            Self::Quarantined { plugin, reason } => {
                (plugin, Level::ERROR, format!("quarantined: {reason}"))
            }
            Self::Limited { plugin, reason, .. } => {
                (plugin, Level::WARN, format!("limited: {reason}"))
            }
            Self::ShadowStarted { plugin, component, handover } => {
                let state = handover.word();
                let words = format!("{component} runs in its shadow, state {state}");
                (plugin, Level::INFO, words)
            }
            Self::ShadowStopped { plugin, reason } => {
                (plugin, Level::INFO, format!("nothing runs in its shadow any more: {reason}"))
            }
            Self::Promoted { plugin, tick, to, handover, .. } => {
                let state = handover.word();
                let words = format!("promoted to {to} from tick {tick} on, state {state}");
                (plugin, Level::INFO, words)
            }
            Self::Reverted { plugin, tick, to, handover, .. } => {
                let state = handover.word();
                let words = format!("back at {to} from tick {tick} on, state {state}");
                (plugin, Level::INFO, words)
            }
            Self::Removed { plugin } => (plugin, Level::INFO, "removed".to_owned()),
        }
    }
}

/// Where plugin events go. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Notices {
    pub(crate) entries: mpsc::Sender<Entry>,
    pub(crate) statuses: Statuses,
    pub(crate) clock: Clock,
    pub(crate) audit: Audit,
}

impl Notices {
    pub(crate) async fn tell(&self, event: PluginEvent) {
        let (plugin, level, words) = event.words();
        match level {
            Level::ERROR => tracing::error!(%plugin, "plugin {words}"),
            Level::WARN => tracing::warn!(%plugin, "plugin {words}"),
            _ => tracing::info!(%plugin, "plugin {words}"),
        }
        if event.is_change() {
            let (plugin, words) = (plugin.clone(), words.as_str().into());
            self.audit.note(Note::Plugin { plugin, words });
        }
        if let Some(record) = self.statuses.record(plugin) {
            record.journal.add(level, &words);
        }
        match Entry::new(LogChannel::Hub, self.clock.now_ms(), &event) {
            // A log that has ended has nobody to tell.
            Ok(entry) => drop(self.entries.send(entry).await),
            Err(error) => tracing::error!(%error, "a plugin event can't be written as JSON"),
        }
    }
}
