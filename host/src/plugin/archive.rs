//! One thread writes what is to be kept of plugins, in the order in which it
//! was told: their states and their last good versions.
//!
//! It never reads: who starts a plugin reads the folders.

use std::io;

use bytes::Bytes;
use tokio::sync::{mpsc, oneshot};

use super::last_good::{LastGood, LastGoodFolder};
use super::state_file::{Kept, Standing, StateFolder};
use crate::model::PluginName;

/// Writes that may wait. A state has up to 64 MiB, so that few may.
const WRITES_MAX: usize = 4;

/// Something to be written.
#[derive(Debug)]
pub(crate) enum Keep {
    /// A state.
    State { standing: Standing, kept: Kept },
    /// The state of a trial is not worth keeping.
    ForgetTrial,
    /// A version that has passed its probation; without bytes where its
    /// component is there already.
    Good { last_good: LastGood, bytes: Option<Bytes> },
    /// The plugin is gone: there is nothing to return to.
    ForgetGood,
    /// Nothing of it is to be kept.
    ForgetAll,
}

impl Keep {
    /// Takes over the component's bytes of a version that is replaced by this
    /// one before it was written.
    pub(crate) fn inherit(&mut self, before: &Self) {
        if let (
            Self::Good { last_good, bytes: bytes @ None },
            Self::Good { last_good: other, bytes: Some(kept) },
        ) = (self, before)
            && last_good.component == other.component
        {
            *bytes = Some(kept.clone());
        }
    }
}

/// Where what is to be kept is handed in. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Archive(mpsc::Sender<Write>);

/// Whose it is, what it is, and whom to tell that it is written.
type Write = (PluginName, Keep, Option<oneshot::Sender<()>>);

impl Archive {
    /// Starts the thread. It ends when the last handle is gone and all is
    /// written.
    ///
    /// # Errors
    ///
    /// The system gives no thread.
    pub(crate) fn start(states: StateFolder, goods: LastGoodFolder) -> io::Result<Self> {
        let (archive, mut writes) = mpsc::channel::<Write>(WRITES_MAX);
        let run = move || {
            while let Some((plugin, keep, done)) = writes.blocking_recv() {
                if let Err(error) = write(&states, &goods, &plugin, keep) {
                    tracing::error!(%plugin, %error, "what is to be kept of it can't be written");
                }
                if let Some(done) = done {
                    // Who waited may have given up.
                    let _ = done.send(());
                }
            }
        };
        std::thread::Builder::new().name("telltale-archive".to_owned()).spawn(run)?;
        Ok(Self(archive))
    }

    /// Hands something in without waiting; gives it back if there is no room.
    pub(crate) fn offer(&self, plugin: &PluginName, keep: Keep) -> Result<(), Keep> {
        self.0.try_send((plugin.clone(), keep, None)).map_err(|full| full.into_inner().1)
    }

    /// Hands something in and waits until it is written.
    pub(crate) async fn write(&self, plugin: &PluginName, keep: Keep) {
        let (done, written) = oneshot::channel();
        if self.0.send((plugin.clone(), keep, Some(done))).await.is_ok() {
            // An error means that the thread has ended, and nothing is written.
            let _ = written.await;
        }
    }
}

fn write(states: &StateFolder, goods: &LastGoodFolder, plugin: &str, keep: Keep) -> io::Result<()> {
    match keep {
        Keep::State { standing, kept } => states.write(plugin, standing, &kept),
        Keep::ForgetTrial => states.forget(plugin, Standing::Trial),
        Keep::Good { last_good, bytes } => goods.keep(plugin, &last_good, bytes.as_deref()),
        Keep::ForgetGood => goods.forget(plugin),
        Keep::ForgetAll => {
            states.forget(plugin, Standing::Good)?;
            states.forget(plugin, Standing::Trial)?;
            goods.forget(plugin)
        }
    }
}
