//! The numbers of series: who has which, for good.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use tokio::sync::{mpsc, oneshot};

use super::{PluginName, SeriesId, SeriesKey, SeriesSpec};

/// How many different series one plugin may ever have declared, alive or not.
/// Ten times what may be alive at once: ordinary change (containers, disks)
/// stays far below it, a plugin that puts a time into a label meets it soon.
pub const SERIES_KNOWN_PER_PLUGIN_MAX: usize = 100_000;

/// A series that has a number.
#[derive(Clone, Debug)]
pub struct Known {
    /// Its number.
    pub id: SeriesId,
    /// As it was last declared.
    pub spec: SeriesSpec,
}

/// A request to whoever keeps the numbers on disk: give each of `specs` its
/// number, record what is new or has changed, and answer when that is safe.
#[derive(Debug)]
pub struct Mint {
    /// New series, and known ones whose kind, unit or description has changed.
    pub specs: Vec<SeriesSpec>,
    /// Their numbers, in the same order; or what went wrong, in words.
    pub reply: oneshot::Sender<Result<Vec<SeriesId>, String>>,
}

/// Why a series has no number.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DictionaryError {
    /// The plugin has declared too many different series.
    #[error(
        "{plugin} has declared {SERIES_KNOWN_PER_PLUGIN_MAX} different series over time, which is \
         the limit: take what changes all the time out of the labels"
    )]
    Full {
        /// Who it was.
        plugin: PluginName,
    },
    /// The numbers can't be recorded, so none are given: a number that a crash
    /// could forget might later mean another series.
    #[error("the store cannot record new series: {0}")]
    Unrecorded(String),
}

/// All series that ever were, by what makes them themselves.
///
/// Shared by the plugins' tasks. What is known is answered from memory; what is
/// new waits until the store has committed it.
#[derive(Debug)]
pub struct Dictionary {
    known: Mutex<Table>,
    mint: mpsc::Sender<Mint>,
}

#[derive(Debug, Default)]
struct Table {
    series: HashMap<SeriesKey, Known>,
    per_plugin: HashMap<PluginName, usize>,
}

impl Table {
    fn insert(&mut self, known: Known) {
        let key = known.spec.key.clone();
        let plugin = key.plugin.clone();
        if self.series.insert(key, known).is_none() {
            *self.per_plugin.entry(plugin).or_default() += 1;
        }
    }
}

impl Dictionary {
    /// A dictionary that starts with what the store has kept, and sends what is
    /// new to `mint`.
    #[must_use]
    pub fn new(kept: Vec<Known>, mint: mpsc::Sender<Mint>) -> Self {
        let mut table = Table::default();
        for known in kept {
            table.insert(known);
        }
        Self { known: Mutex::new(table), mint }
    }

    /// The numbers of `specs`, in their order. Returns when they are on disk.
    ///
    /// # Errors
    ///
    /// [`DictionaryError`]; then none of the new ones has a number.
    pub async fn resolve(&self, specs: &[SeriesSpec]) -> Result<Vec<SeriesId>, DictionaryError> {
        let fresh = self.unknown(specs)?;
        if !fresh.is_empty() {
            let (reply, answer) = oneshot::channel();
            let request = Mint { specs: fresh.clone(), reply };
            let gone = || DictionaryError::Unrecorded("it has stopped".to_owned());
            self.mint.send(request).await.map_err(|_| gone())?;
            let ids = answer.await.map_err(|_| gone())?.map_err(DictionaryError::Unrecorded)?;
            let mut table = self.known.lock().unwrap_or_else(PoisonError::into_inner);
            for (spec, id) in fresh.into_iter().zip(ids) {
                table.insert(Known { id, spec });
            }
        }
        let table = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        specs
            .iter()
            .map(|spec| table.series.get(&spec.key).map(|known| known.id))
            .collect::<Option<Vec<_>>>()
            .ok_or_else(|| DictionaryError::Unrecorded("it gave too few numbers".to_owned()))
    }

    /// Those of `specs` that are new or have changed.
    fn unknown(&self, specs: &[SeriesSpec]) -> Result<Vec<SeriesSpec>, DictionaryError> {
        let table = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let fresh: Vec<SeriesSpec> = specs
            .iter()
            .filter(|spec| table.series.get(&spec.key).is_none_or(|known| known.spec != **spec))
            .cloned()
            .collect();
        if let Some(first) = fresh.first() {
            let plugin = &first.key.plugin;
            let new = fresh.iter().filter(|s| !table.series.contains_key(&s.key)).count();
            let have = table.per_plugin.get(plugin).copied().unwrap_or(0);
            if have + new > SERIES_KNOWN_PER_PLUGIN_MAX {
                return Err(DictionaryError::Full { plugin: plugin.clone() });
            }
        }
        Ok(fresh)
    }
}
