//! How many there are of each: connections of an address, clients of a user.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// How many there are of each. It has no more keys than there are connections.
#[derive(Debug)]
pub(crate) struct Tally<K> {
    max: usize,
    held: Mutex<HashMap<K, usize>>,
}

/// One of those that are counted; it counts no more when this is dropped.
#[derive(Debug)]
pub(crate) struct Counted<K: Hash + Eq> {
    tally: Arc<Tally<K>>,
    key: K,
}

impl<K: Hash + Eq + Clone> Tally<K> {
    /// Of each there may be `max`, at least one.
    pub(crate) fn new(max: usize) -> Arc<Self> {
        Arc::new(Self { max: max.max(1), held: Mutex::default() })
    }

    /// One more, if there may be.
    pub(crate) fn take(self: &Arc<Self>, key: K) -> Option<Counted<K>> {
        let mut held = self.lock();
        let count = held.entry(key.clone()).or_default();
        if *count >= self.max {
            return None;
        }
        *count += 1;
        drop(held);
        Some(Counted { tally: self.clone(), key })
    }
}

impl<K: Hash + Eq> Tally<K> {
    fn lock(&self) -> MutexGuard<'_, HashMap<K, usize>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<K: Hash + Eq> Drop for Counted<K> {
    fn drop(&mut self) {
        let mut held = self.tally.lock();
        if let Some(count) = held.get_mut(&self.key) {
            *count -= 1;
            if *count == 0 {
                held.remove(&self.key);
            }
        }
        // A storm of connections is forgotten once it is over.
        if held.is_empty() {
            held.shrink_to_fit();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_is_counted_for_itself_and_forgotten_with_its_last() {
        let tally = Tally::new(2);
        let first = tally.take("a").unwrap();
        let second = tally.take("a").unwrap();
        assert!(tally.take("a").is_none());
        let other = tally.take("b").unwrap();
        drop(first);
        let third = tally.take("a").unwrap();
        assert!(tally.take("a").is_none());
        assert_eq!(tally.lock().len(), 2);
        drop((second, third, other));
        assert!(tally.lock().is_empty());
    }
}
