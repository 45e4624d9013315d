//! Keeping what the instance in a seat knows: when, how often, and in which
//! order it is handed to the archive.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::{Good, Seat, Seated};
use crate::plugin::archive::Keep;
use crate::plugin::instance::Failure;
use crate::plugin::state_file::{Kept, Standing};

/// What saving may write on average, in bytes a second: a state of 15 MiB can be
/// saved each minute, a larger one less often.
const SAVED_BYTES_PER_SECOND: u64 = 256 * 1024;

impl Seat {
    /// Asks the instance for its state, where it can be asked. An error has
    /// ended it.
    pub(crate) async fn save(&mut self) -> Result<(), Failure> {
        let (Seated::Running(instance) | Seated::Misconfigured(instance, _)) = &mut self.seated
        else {
            return Ok(());
        };
        let saved = instance.save().await.inspect_err(|failure| {
            tracing::warn!(plugin = %self.plugin, %failure, "its state could not be saved");
        })?;
        if let Some(saved) = saved {
            self.record.cost.state_bytes.store(saved.bytes.len(), Ordering::Relaxed);
            self.last_state = Some(saved);
        }
        Ok(())
    }

    /// Keeps what the instance knows, when it is time to, and what the archive
    /// had no room for.
    pub(super) async fn keep_up(&mut self) {
        if !self.flush() || Instant::now() < self.save_due {
            return;
        }
        if let Err(failure) = self.save().await {
            return self.fail(&failure.to_string()).await;
        }
        let bytes = self.last_state.as_ref().map_or(0, |saved| saved.bytes.len() as u64);
        let pause = Duration::from_secs(bytes / SAVED_BYTES_PER_SECOND);
        self.save_due = Instant::now() + pause.max(self.kit.settings.save_every());
        if let Some(keep) = self.state_to_keep() {
            self.hand_in(keep);
            self.flush();
        }
    }

    /// Gives the archive what it has room for; whether that is all.
    fn flush(&mut self) -> bool {
        while let Some(keep) = self.unwritten.pop_front() {
            if let Err(keep) = self.office.archive.offer(&self.plugin, keep) {
                self.unwritten.push_front(keep);
                return false;
            }
        }
        true
    }

    /// The state that the instance saved last, unless the archive has it.
    fn state_to_keep(&mut self) -> Option<Keep> {
        let saved = self.last_state.clone()?;
        let standing = match self.probation {
            Some(_) => Standing::Trial,
            None => Standing::Good,
        };
        let state = Some((standing, saved.clone()));
        if self.archived == state {
            return None;
        }
        self.archived = state;
        let kept = Kept { component: self.kit.loadable.hash, saved };
        Some(Keep::State { standing, kept })
    }

    pub(super) fn hand_in(&mut self, mut keep: Keep) {
        let sort = std::mem::discriminant(&keep);
        for before in &self.unwritten {
            keep.inherit(before);
        }
        self.unwritten.retain(|other| std::mem::discriminant(other) != sort);
        self.unwritten.push_back(keep);
    }

    /// All that is still to be written, at the end.
    pub(crate) async fn last_words(&mut self) -> Vec<Keep> {
        // What could not be saved now was perhaps saved before.
        let _ = self.save().await;
        let trial = self.state_to_keep();
        let good = self.probation.take().and_then(|probation| probation.good);
        let good = good.and_then(|Good { kit, state }| {
            let kept = Kept { component: kit.loadable.hash, saved: state? };
            Some(Keep::State { standing: Standing::Good, kept })
        });
        // That of the good version first: it ends what was kept of a trial.
        self.unwritten.drain(..).chain(good).chain(trial).collect()
    }
}

/// When to save first: not all plugins at the same moment.
pub(super) fn spread(plugin: &str, every: Duration) -> Duration {
    let mut hasher = DefaultHasher::new();
    plugin.hash(&mut hasher);
    every / 2 + every.mul_f64((hasher.finish() % 512) as f64 / 1024.0)
}
