//! The cache in the hub's memory: it ends with the hub.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::CacheError;
use super::table::Table;

/// A plugin's own keys, and those that several share. The limits of a plugin
/// hold for the shared ones of all plugins together, too.
#[derive(Debug)]
pub(super) struct Keys {
    own: Mutex<Table<Vec<u8>>>,
    shared: Arc<Mutex<Table<Vec<u8>>>>,
}

impl Keys {
    pub(super) fn new(shared: Arc<Mutex<Table<Vec<u8>>>>) -> Self {
        Self { own: Mutex::default(), shared }
    }

    pub(super) fn get(&self, key: &str, shared: bool) -> Option<Vec<u8>> {
        let there = shared.then(|| lock(&self.shared).get(key).cloned()).flatten();
        there.or_else(|| lock(&self.own).get(key).cloned())
    }

    pub(super) fn set(
        &self,
        key: String,
        value: Vec<u8>,
        ttl: Duration,
        shared: bool,
    ) -> Result<(), CacheError> {
        let mut table = lock(if shared { &self.shared } else { &self.own });
        let bytes = value.len();
        if !ttl.is_zero() {
            table.make_room(&key, bytes)?;
        }
        table.put(key, value, bytes, ttl);
        Ok(())
    }
}

fn lock(table: &Mutex<Table<Vec<u8>>>) -> MutexGuard<'_, Table<Vec<u8>>> {
    table.lock().unwrap_or_else(PoisonError::into_inner)
}
