//! The `cache` import's store in memory: a plugin's own keys.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// The longest key.
const KEY_BYTES_MAX: usize = 256;
/// The longest value.
const VALUE_BYTES_MAX: usize = 256 * 1024;
/// How many keys a plugin may have.
const KEYS_MAX: usize = 1000;
/// How much they may hold together.
const BYTES_MAX: usize = 4 * 1024 * 1024;
/// How long a value may live.
const TTL_MAX: Duration = Duration::from_secs(24 * 60 * 60);

/// One plugin's keys and values, each with a time to live. It outlives the
/// plugin's instances, and ends with the plugin or the hub.
#[derive(Debug, Default)]
pub(crate) struct KeyValues(Mutex<Table>);

#[derive(Debug, Default)]
struct Table {
    values: HashMap<String, Held>,
    bytes: usize,
}

#[derive(Debug)]
struct Held {
    value: Vec<u8>,
    until: Instant,
}

/// A limit that was met.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum KvError {
    #[error("a key has 1 to {KEY_BYTES_MAX} bytes")]
    Key,
    #[error("a value has at most {VALUE_BYTES_MAX} bytes")]
    Value,
    #[error("a plugin has at most {KEYS_MAX} keys and {BYTES_MAX} bytes in the cache")]
    Full,
}

impl KeyValues {
    pub(crate) fn get(&self, key: &str) -> Result<Option<Vec<u8>>, KvError> {
        check_key(key)?;
        let table = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let held = table.values.get(key).filter(|held| held.until > Instant::now());
        Ok(held.map(|held| held.value.clone()))
    }

    pub(crate) fn set(&self, key: String, value: Vec<u8>, ttl: Duration) -> Result<(), KvError> {
        check_key(&key)?;
        if value.len() > VALUE_BYTES_MAX {
            return Err(KvError::Value);
        }
        let mut table = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        table.remove(&key);
        if ttl.is_zero() {
            return Ok(());
        }
        let now = Instant::now();
        if !table.has_room(&key, &value) {
            table.sweep(now);
        }
        if !table.has_room(&key, &value) {
            return Err(KvError::Full);
        }
        table.bytes += key.len() + value.len();
        table.values.insert(key, Held { value, until: now + ttl.min(TTL_MAX) });
        Ok(())
    }
}

impl Table {
    fn has_room(&self, key: &str, value: &[u8]) -> bool {
        self.values.len() < KEYS_MAX && self.bytes + key.len() + value.len() <= BYTES_MAX
    }

    fn remove(&mut self, key: &str) {
        if let Some(held) = self.values.remove(key) {
            self.bytes -= key.len() + held.value.len();
        }
    }

    /// Drops what has outlived its time.
    fn sweep(&mut self, now: Instant) {
        self.values.retain(|_, held| held.until > now);
        self.bytes = self.values.iter().map(|(key, held)| key.len() + held.value.len()).sum();
    }
}

fn check_key(key: &str) -> Result<(), KvError> {
    if key.is_empty() || key.len() > KEY_BYTES_MAX {
        return Err(KvError::Key);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    #[test]
    fn a_value_is_there_until_its_time_has_run_out_or_it_is_removed() {
        let cache = KeyValues::default();
        cache.set("a".into(), b"1".to_vec(), HOUR).unwrap();
        cache.set("b".into(), b"2".to_vec(), Duration::from_nanos(1)).unwrap();
        assert_eq!(cache.get("a"), Ok(Some(b"1".to_vec())));
        assert_eq!(cache.get("b"), Ok(None));
        cache.set("a".into(), Vec::new(), Duration::ZERO).unwrap();
        assert_eq!(cache.get("a"), Ok(None));
    }

    #[test]
    fn limits_hold_and_what_has_run_out_makes_room() {
        let cache = KeyValues::default();
        assert_eq!(cache.get(""), Err(KvError::Key));
        assert_eq!(cache.set("k".repeat(257), vec![], HOUR), Err(KvError::Key));
        assert_eq!(cache.set("k".into(), vec![0; VALUE_BYTES_MAX + 1], HOUR), Err(KvError::Value));
        for i in 0..KEYS_MAX {
            cache.set(format!("{i}"), vec![0], Duration::from_nanos(1)).unwrap();
        }
        cache.set("one more".into(), vec![0], HOUR).unwrap();
        for i in 1..KEYS_MAX {
            cache.set(format!("{i}"), vec![0], HOUR).unwrap();
        }
        assert_eq!(cache.set("too many".into(), vec![0], HOUR), Err(KvError::Full));
        cache.set("one more".into(), vec![1], HOUR).unwrap();
    }
}
