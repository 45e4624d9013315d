//! Places: how many connections there may be, and which of them gives way.
//!
//! A connection that is being made, or waits between two requests, costs its
//! client nothing: it has one of the places for handshakes, and where all are
//! taken the oldest of them is cut off for the next. So nobody can keep others
//! out by connecting and saying nothing, and who gets on with it is served:
//! with 1024 places it takes thousands of new connections a second to cut off a
//! client that needs a third of one for its handshake. A connection that is
//! being served, a request or a session, has one of the places for connections
//! and keeps it.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use super::Gates;
use super::tally::{Counted, Tally};
use crate::config::LimitsConfig;

/// All places.
#[derive(Debug)]
pub(super) struct Places {
    connections_max: usize,
    connections: AtomicUsize,
    handshakes_max: usize,
    handshakes: Mutex<Handshakes>,
    addresses: Arc<Tally<IpAddr>>,
}

/// Those that have a place for handshakes, the oldest first, and how each is
/// told that it has lost it.
#[derive(Debug, Default)]
struct Handshakes {
    next: u64,
    waiting: BTreeMap<u64, Arc<Notify>>,
}

/// A connection's place.
#[derive(Clone)]
pub struct Place(Arc<Held>);

struct Held {
    gates: Arc<Gates>,
    standing: Mutex<Standing>,
    lost: Arc<Notify>,
    /// It counts as one of its address.
    _address: Option<Counted<IpAddr>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    /// It has a place for handshakes, by its number.
    Waits(u64),
    /// It has a place for connections.
    IsServed,
}

/// A place for connections, held while a request is answered.
pub struct Served<'a>(&'a Place);

impl Places {
    pub(super) fn new(limits: &LimitsConfig) -> Self {
        Self {
            connections_max: limits.connections,
            connections: AtomicUsize::new(0),
            handshakes_max: limits.handshakes.max(1),
            handshakes: Mutex::default(),
            addresses: Tally::new(limits.connections_per_address),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Handshakes> {
        self.handshakes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A number among those that wait, which are at most so many.
    fn wait(&self, lost: &Arc<Notify>) -> (u64, Option<Arc<Notify>>) {
        let mut handshakes = self.lock();
        let number = handshakes.next;
        handshakes.next += 1;
        handshakes.waiting.insert(number, lost.clone());
        let is_over = handshakes.waiting.len() > self.handshakes_max;
        let oldest = is_over.then(|| handshakes.waiting.pop_first()).flatten();
        (number, oldest.map(|(_, lost)| lost))
    }

    fn take_connection(&self) -> bool {
        let before = self.connections.fetch_add(1, Ordering::Relaxed);
        if before >= self.connections_max {
            self.connections.fetch_sub(1, Ordering::Relaxed);
            return false;
        }
        true
    }
}

impl Gates {
    /// A place for one more connection that is served, if there is one.
    #[must_use]
    pub fn enter(self: &Arc<Self>) -> Option<Place> {
        if !self.places.take_connection() {
            self.counters.refused.fetch_add(1, Ordering::Relaxed);
            return None;
        }
        let held = Held {
            gates: self.clone(),
            standing: Mutex::new(Standing::IsServed),
            lost: Arc::default(),
            _address: None,
        };
        Some(Place(Arc::new(held)))
    }

    /// A place for a connection that begins. It is one of those of `address`,
    /// where there is one; `None` if that has as many as it may have.
    #[must_use]
    pub fn knock(self: &Arc<Self>, address: Option<IpAddr>) -> Option<Place> {
        let address = match address {
            None => None,
            Some(address) => Some(self.places.addresses.take(address)?),
        };
        let lost = Arc::default();
        let standing = Mutex::new(self.wait(&lost));
        let held = Held { gates: self.clone(), standing, lost, _address: address };
        Some(Place(Arc::new(held)))
    }

    fn wait(&self, lost: &Arc<Notify>) -> Standing {
        let (number, oldest) = self.places.wait(lost);
        if let Some(oldest) = oldest {
            self.counters.handshakes_dropped.fetch_add(1, Ordering::Relaxed);
            oldest.notify_one();
        }
        Standing::Waits(number)
    }

    /// Connections that are being made, or wait between two requests.
    #[must_use]
    pub fn handshakes(&self) -> usize {
        self.places.lock().waiting.len()
    }
}

impl Place {
    pub(super) fn gates(&self) -> &Arc<Gates> {
        &self.0.gates
    }

    /// Returns when the place for a handshake was lost to another connection:
    /// this one is to be dropped.
    pub async fn lost(&self) {
        self.0.lost.notified().await;
    }

    /// A place for connections, while a request is answered; `None` if all are
    /// taken.
    #[must_use]
    pub fn serve(&self) -> Option<Served<'_>> {
        let Held { gates, .. } = &*self.0;
        if !gates.places.take_connection() {
            gates.counters.refused.fetch_add(1, Ordering::Relaxed);
            return None;
        }
        let mut standing = self.0.lock();
        if let Standing::Waits(number) = *standing {
            gates.places.lock().waiting.remove(&number);
        }
        *standing = Standing::IsServed;
        Some(Served(self))
    }
}

impl Served<'_> {
    /// The connection keeps its place for as long as it lasts.
    pub fn keep(self) {
        std::mem::forget(self);
    }
}

impl Drop for Served<'_> {
    fn drop(&mut self) {
        let Held { gates, lost, .. } = &*self.0.0;
        gates.places.connections.fetch_sub(1, Ordering::Relaxed);
        *self.0.0.lock() = gates.wait(lost);
    }
}

impl Held {
    fn lock(&self) -> MutexGuard<'_, Standing> {
        self.standing.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let standing = *self.lock();
        match standing {
            Standing::Waits(number) => {
                let mut handshakes = self.gates.places.lock();
                handshakes.waiting.remove(&number);
            }
            Standing::IsServed => {
                self.gates.places.connections.fetch_sub(1, Ordering::Relaxed);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::gate::Budget;

    fn gates(change: impl FnOnce(&mut LimitsConfig)) -> Arc<Gates> {
        let mut limits = LimitsConfig::default();
        change(&mut limits);
        Gates::with_limits(&limits, Duration::from_secs(25), Budget::new(1 << 20))
    }

    fn has_lost(place: &Place) -> bool {
        let mut lost = std::pin::pin!(place.lost());
        lost.as_mut().poll(&mut std::task::Context::from_waker(std::task::Waker::noop())).is_ready()
    }

    #[test]
    fn the_oldest_that_waits_gives_way_and_who_is_served_does_not() {
        let gates = gates(|limits| limits.handshakes = 2);
        let [first, second] = [gates.knock(None).unwrap(), gates.knock(None).unwrap()];
        let served = first.serve().unwrap();
        let third = gates.knock(None).unwrap();
        assert_eq!(gates.handshakes(), 2);
        let fourth = gates.knock(None).unwrap();
        assert_eq!([&first, &second, &third, &fourth].map(has_lost), [false, true, false, false]);
        // Once its request is answered it waits with the others, as the newest.
        drop(served);
        assert_eq!([&first, &third, &fourth].map(has_lost), [false, true, false]);
        assert_eq!(gates.counters().handshakes_dropped.load(Ordering::Relaxed), 2);
        drop([first, second, third, fourth]);
        assert_eq!(gates.handshakes(), 0);
    }

    #[test]
    fn handshakes_use_up_no_place_of_those_that_are_served() {
        let gates = gates(|limits| (limits.connections, limits.handshakes) = (2, 16));
        let waiting: Vec<_> = (0..100).map(|_| gates.knock(None).unwrap()).collect();
        assert_eq!(gates.handshakes(), 16);
        let newcomer = &waiting[99];
        newcomer.serve().unwrap().keep();
        let request = waiting[98].serve().unwrap();
        assert!(waiting[97].serve().is_none());
        assert_eq!(gates.counters().refused.load(Ordering::Relaxed), 1);
        drop(request);
        let again = waiting[97].serve().unwrap();
        assert!(waiting[98].serve().is_none());
        drop(again);
        drop(waiting);
        assert_eq!(gates.places.connections.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn an_address_has_so_many_connections_whatever_they_do() {
        let gates = gates(|limits| limits.connections_per_address = 2);
        let address = Some(IpAddr::from([203, 0, 113, 9]));
        let [first, second] = [gates.knock(address).unwrap(), gates.knock(address).unwrap()];
        second.serve().unwrap().keep();
        assert!(gates.knock(address).is_none());
        assert!(gates.knock(Some(IpAddr::from([203, 0, 113, 10]))).is_some());
        drop(first);
        assert!(gates.knock(address).is_some());
    }
}
