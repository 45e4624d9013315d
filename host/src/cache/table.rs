//! What one plugin has in the cache: how much, and until when.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use super::CacheError;

/// How many keys a plugin may have.
pub(super) const KEYS_MAX: usize = 1000;
/// How many bytes its keys and values may have together.
pub(super) const BYTES_MAX: usize = 4 * 1024 * 1024;

/// Keys, each with a time to live. A value is in `V`, or elsewhere where that is
/// `()`.
#[derive(Debug)]
pub(super) struct Table<V> {
    held: HashMap<String, Held<V>>,
    bytes: usize,
}

#[derive(Debug)]
struct Held<V> {
    value: V,
    /// Those of the key and the value.
    bytes: usize,
    until: Instant,
}

impl<V> Default for Table<V> {
    fn default() -> Self {
        Self { held: HashMap::new(), bytes: 0 }
    }
}

impl<V> Table<V> {
    pub(super) fn get(&self, key: &str) -> Option<&V> {
        let held = self.held.get(key).filter(|held| held.until > Instant::now());
        held.map(|held| &held.value)
    }

    /// Makes sure that there is room for a key in place of what it stands for
    /// now. What has outlived its time makes room.
    ///
    /// # Errors
    ///
    /// There is none.
    pub(super) fn make_room(&mut self, key: &str, value_bytes: usize) -> Result<(), CacheError> {
        let bytes = key.len() + value_bytes;
        if !self.has_room(key, bytes) {
            let now = Instant::now();
            self.held.retain(|_, held| held.until > now);
            self.bytes = self.held.values().map(|held| held.bytes).sum();
        }
        if self.has_room(key, bytes) { Ok(()) } else { Err(CacheError::Full) }
    }

    fn has_room(&self, key: &str, bytes: usize) -> bool {
        let old = self.held.get(key);
        let keys = self.held.len() + usize::from(old.is_none());
        let bytes = self.bytes - old.map_or(0, |old| old.bytes) + bytes;
        keys <= KEYS_MAX && bytes <= BYTES_MAX
    }

    /// Puts a value in, for which [`Self::make_room`] has found room; removes
    /// the key where `ttl` is 0.
    pub(super) fn put(&mut self, key: String, value: V, value_bytes: usize, ttl: Duration) {
        if let Some(old) = self.held.remove(&key) {
            self.bytes -= old.bytes;
        }
        if !ttl.is_zero() {
            let bytes = key.len() + value_bytes;
            self.bytes += bytes;
            self.held.insert(key, Held { value, bytes, until: Instant::now() + ttl });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    fn put(table: &mut Table<()>, key: &str, bytes: usize, ttl: Duration) -> bool {
        let has_room = table.make_room(key, bytes).is_ok();
        if has_room {
            table.put(key.to_owned(), (), bytes, ttl);
        }
        has_room
    }

    #[test]
    fn what_has_run_out_makes_room_and_what_has_not_does_not() {
        let mut table = Table::default();
        for i in 0..KEYS_MAX {
            assert!(put(&mut table, &format!("{i}"), 1, Duration::from_nanos(1)));
        }
        assert!(put(&mut table, "one more", 1, HOUR));
        assert_eq!(table.held.len(), 1);
        for i in 1..KEYS_MAX {
            assert!(put(&mut table, &format!("{i}"), 1, HOUR));
        }
        assert!(!put(&mut table, "too many", 1, HOUR));
        assert!(put(&mut table, "one more", 2, HOUR), "it takes its own place");
        assert!(put(&mut table, "one more", 0, Duration::ZERO));
        assert!(put(&mut table, "too many", 1, HOUR));
    }

    #[test]
    fn bytes_are_counted_with_their_keys() {
        let mut table = Table::default();
        assert!(put(&mut table, "a", BYTES_MAX - 1, HOUR));
        assert!(!put(&mut table, "b", 0, HOUR));
        assert!(!put(&mut table, "a", BYTES_MAX, HOUR));
        assert!(put(&mut table, "a", 10, HOUR));
        assert_eq!(table.bytes, 11);
        assert!(put(&mut table, "b", BYTES_MAX - 12, HOUR));
        assert_eq!(table.bytes, BYTES_MAX);
    }
}
