//! What people can do to plugins while the hub runs.

use std::path::PathBuf;

use tokio::sync::{mpsc, oneshot};

use super::manager::{Command, Removed};
use super::status::{PluginState, PluginStatus, Statuses};
use crate::model::PluginName;

/// Resumes and removes plugins. Cheap to clone.
#[derive(Clone, Debug)]
pub struct PluginControl {
    commands: mpsc::Sender<Command>,
    statuses: Statuses,
}

/// Why a plugin was not dealt with.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ControlError {
    /// There is none of that name.
    #[error("there is no plugin {0}")]
    NotFound(String),
    /// It can't be done.
    #[error("{0}")]
    Refused(String),
    /// The hub is stopping.
    #[error("the hub is stopping")]
    Stopping,
}

impl PluginControl {
    pub(crate) fn new(commands: mpsc::Sender<Command>, statuses: Statuses) -> Self {
        Self { commands, statuses }
    }

    /// Starts a plugin again that waits after failures, is quarantined, or was
    /// refused; its state before that takes effect.
    ///
    /// # Errors
    ///
    /// [`ControlError::NotFound`], or that the hub is stopping.
    pub async fn resume(&self, name: &str) -> Result<PluginState, ControlError> {
        let plugin = self.named(name)?;
        let state = self.ask(|reply| Command::Resume { plugin, reply }).await?;
        state.ok_or_else(|| ControlError::NotFound(name.to_owned()))
    }

    /// Takes a plugin's files out of the folder, with `purge` also its settings
    /// and what is kept of it.
    ///
    /// # Errors
    ///
    /// [`ControlError`].
    pub async fn remove(&self, name: &str, purge: bool) -> Result<Removed, ControlError> {
        let plugin = self.named(name)?;
        let removed = self.ask(|reply| Command::Remove { plugin, purge, reply }).await?;
        let removed = removed.ok_or_else(|| ControlError::NotFound(name.to_owned()))?;
        removed.map_err(ControlError::Refused)
    }

    /// Lets the component of a file run in a detector's shadow, by settings of
    /// its own or by those of the detector. Paths are those of this machine.
    ///
    /// # Errors
    ///
    /// [`ControlError`], with the way out.
    pub async fn shadow(
        &self,
        name: &str,
        component: PathBuf,
        settings: Option<PathBuf>,
    ) -> Result<PluginStatus, ControlError> {
        let plugin = self.named(name)?;
        let command = |reply| Command::Shadow { plugin, component, settings, reply };
        self.ask(command).await?.map_err(ControlError::Refused)
    }

    /// Ends a detector's shadow, and forgets what it knew.
    ///
    /// # Errors
    ///
    /// [`ControlError`].
    pub async fn stop_shadow(&self, name: &str) -> Result<(), ControlError> {
        let plugin = self.named(name)?;
        let stopped = self.ask(|reply| Command::StopShadow { plugin, reply }).await?;
        stopped.map_err(ControlError::Refused)
    }

    /// Lets a detector's shadow take its place, with what it has learned.
    ///
    /// # Errors
    ///
    /// [`ControlError`]; what ran before runs on.
    pub async fn promote(&self, name: &str) -> Result<PluginStatus, ControlError> {
        let plugin = self.named(name)?;
        let promoted = self.ask(|reply| Command::Promote { plugin, reply }).await?;
        promoted.map_err(ControlError::Refused)
    }

    /// Brings back what ran before a shadow was promoted, with what it knew
    /// then.
    ///
    /// # Errors
    ///
    /// [`ControlError`]; what runs runs on.
    pub async fn go_back(&self, name: &str) -> Result<PluginStatus, ControlError> {
        let plugin = self.named(name)?;
        let back = self.ask(|reply| Command::GoBack { plugin, reply }).await?;
        back.map_err(ControlError::Refused)
    }

    fn named(&self, name: &str) -> Result<PluginName, ControlError> {
        let known = self.statuses.get(name).map(|status| status.name);
        known.ok_or_else(|| ControlError::NotFound(name.to_owned()))
    }

    async fn ask<T>(
        &self,
        command: impl FnOnce(oneshot::Sender<T>) -> Command,
    ) -> Result<T, ControlError> {
        let (reply, answer) = oneshot::channel();
        self.commands.send(command(reply)).await.map_err(|_| ControlError::Stopping)?;
        answer.await.map_err(|_| ControlError::Stopping)
    }
}
