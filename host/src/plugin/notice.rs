//! Telling everybody what happens to plugins: the log, and the hub channel.

use serde::Serialize;
use tokio::sync::mpsc;

use super::status::Handover;
use crate::clock::Clock;
use crate::model::{Entry, LogChannel, PluginName};

/// What has happened to a plugin, as clients of the hub channel read it.
#[derive(Clone, Debug, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub(crate) enum PluginEvent {
    /// It runs for the first time.
    Loaded { plugin: PluginName, handover: Handover },
    /// Another version, or other settings, took over at this tick.
    Reloaded { plugin: PluginName, tick: u64, handover: Handover },
    /// A version could not be used; what ran before goes on.
    Refused { plugin: PluginName, reason: String },
    /// It failed.
    Failed { plugin: PluginName, reason: String, restart_after_ms: u64 },
    /// It runs again after a failure.
    Restarted { plugin: PluginName },
    /// It failed too often.
    Quarantined { plugin: PluginName, reason: String },
    /// Its file is gone, and so is it.
    Removed { plugin: PluginName },
}

/// Where plugin events go. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Notices {
    pub(crate) entries: mpsc::Sender<Entry>,
    pub(crate) clock: Clock,
}

impl Notices {
    pub(crate) async fn tell(&self, event: PluginEvent) {
        match &event {
            PluginEvent::Refused { plugin, reason } => {
                tracing::warn!(%plugin, reason, "plugin refused");
            }
            PluginEvent::Failed { plugin, reason, restart_after_ms } => {
                tracing::warn!(%plugin, reason, restart_after_ms, "plugin failed");
            }
            PluginEvent::Quarantined { plugin, reason } => {
                tracing::error!(%plugin, reason, "plugin quarantined");
            }
            PluginEvent::Loaded { plugin, handover } => {
                tracing::info!(%plugin, ?handover, "plugin loaded");
            }
            PluginEvent::Reloaded { plugin, tick, handover } => {
                tracing::info!(%plugin, tick, ?handover, "plugin reloaded");
            }
            PluginEvent::Restarted { plugin } => tracing::info!(%plugin, "plugin restarted"),
            PluginEvent::Removed { plugin } => tracing::info!(%plugin, "plugin removed"),
        }
        match Entry::new(LogChannel::Hub, self.clock.now_ms(), &event) {
            // A log that has ended has nobody to tell.
            Ok(entry) => drop(self.entries.send(entry).await),
            Err(error) => tracing::error!(%error, "a plugin event can't be written as JSON"),
        }
    }
}
