//! One memory budget for all that waits to be sent, to all clients together.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::Notify;

/// How much memory what is on its way to clients may use, and how much it does.
///
/// What many clients share is counted once. It is a bound on what is kept, not
/// on what is made: a message that passes it is still made, and at once those
/// clients go that hold the most.
#[derive(Debug)]
pub struct Budget {
    limit: usize,
    used: AtomicUsize,
    /// Told when the limit is passed.
    over: Notify,
}

impl Budget {
    /// A budget of so many bytes.
    #[must_use]
    pub fn new(limit: usize) -> Arc<Self> {
        Arc::new(Self { limit, used: AtomicUsize::new(0), over: Notify::new() })
    }

    /// Bytes in use.
    #[must_use]
    pub fn used(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }

    /// How many bytes there may be.
    #[must_use]
    pub fn limit(&self) -> usize {
        self.limit
    }

    /// How many bytes have to go.
    pub(super) fn excess(&self) -> usize {
        self.used().saturating_sub(self.limit)
    }

    /// Waits until the limit is passed.
    pub(super) async fn passed(&self) {
        self.over.notified().await;
    }
}

/// Bytes that are on a budget until they are dropped.
#[derive(Debug)]
pub(super) struct Charged {
    bytes: Vec<u8>,
    budget: Arc<Budget>,
}

impl Charged {
    pub(super) fn new(bytes: Vec<u8>, budget: Arc<Budget>) -> Self {
        let used = budget.used.fetch_add(bytes.capacity(), Ordering::Relaxed) + bytes.capacity();
        if used > budget.limit {
            budget.over.notify_one();
        }
        Self { bytes, budget }
    }
}

impl AsRef<[u8]> for Charged {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Charged {
    fn drop(&mut self) {
        self.budget.used.fetch_sub(self.bytes.capacity(), Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::super::Piece;
    use super::*;

    #[test]
    fn what_is_shared_is_counted_once_until_its_last_clone_is_gone() {
        let budget = Budget::new(1000);
        let piece = Piece::text(&"x".repeat(500), &budget);
        let used = budget.used();
        assert!((500..600).contains(&used), "{used}");
        let clones = vec![piece; 100];
        assert_eq!(budget.used(), used);
        assert_eq!(budget.excess(), 0);
        let other = Piece::text(&"x".repeat(600), &budget);
        assert!(budget.excess() > 100);
        drop(other);
        drop(clones);
        assert_eq!(budget.used(), 0);
    }
}
