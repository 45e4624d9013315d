//! How much one client, one address and one user may have of the hub.

use std::fmt;
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use governor::clock::{Clock as _, DefaultClock};
use governor::{DefaultDirectRateLimiter, DefaultKeyedRateLimiter, Quota};

use crate::access::Identity;
use crate::config::{LimitsConfig, is_loopback};
use crate::gate::{Counted, Tally};

/// Publishers that are told apart at a time: those that have published within
/// the last seconds. Beyond that, newcomers share one account.
const PUBLISHERS_MAX: usize = 16 * 1024;
/// Who sends too much for so long is not slowed down any more, but closed.
const ABUSE_AFTER: Duration = Duration::from_secs(10);
/// Who has kept within the limit for so long has stopped sending too much.
const PEACE: Duration = Duration::from_secs(1);
/// When a place may be free again is not known.
const PLACE_RETRY: Duration = Duration::from_secs(5);

/// What was refused for its number.
#[derive(Debug, Default)]
pub struct LimitCounters {
    /// Connections, since their address had all that it may have.
    pub address_refused: AtomicU64,
    /// Connections, since their user had all that it may have.
    pub user_refused: AtomicU64,
    /// Messages that came too fast, and were not looked at.
    pub messages_throttled: AtomicU64,
    /// Clients that were closed since they did not stop.
    pub abusive: AtomicU64,
    /// Events that came too fast, and were not published.
    pub publishes_throttled: AtomicU64,
}

/// What came too fast, or was too much.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("too many requests: try again in {} ms", retry_after.as_millis())]
pub struct Throttled {
    /// When the same would be taken.
    pub retry_after: Duration,
    /// It has been so for 10 s, and the client is to be closed.
    pub is_abuse: bool,
}

/// There are too many connections already.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TooMany {
    /// … from the client's address.
    #[error("there are too many connections from this address")]
    OfAddress,
    /// … of its user.
    #[error("there are too many connections of this user")]
    OfUser,
}

impl TooMany {
    /// The word for programs.
    pub const CODE: &'static str = "too_many_connections";

    /// After how long it may be worth trying again.
    #[must_use]
    pub fn retry_after(self) -> Duration {
        PLACE_RETRY
    }
}

/// All limits that are counted by client, address or user.
pub struct Limits {
    addresses: Arc<Tally<IpAddr>>,
    users: Arc<Tally<Arc<str>>>,
    messages: Quota,
    publishes: Quota,
    publishers: DefaultKeyedRateLimiter<Publisher>,
    counters: LimitCounters,
}

/// Whose account events are on.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Publisher {
    User(Arc<str>),
    /// Who doesn't have to say who it is.
    Address(IpAddr),
    /// All that found no account of their own.
    Others,
}

impl Limits {
    /// The limits that a configuration asks for.
    #[must_use]
    pub fn new(config: &LimitsConfig) -> Arc<Self> {
        let publishes = quota(config.publishes_per_second, config.publishes_burst);
        Arc::new(Self {
            addresses: Tally::new(config.connections_per_address),
            users: Tally::new(config.connections_per_user),
            messages: quota(config.messages_per_second, config.messages_burst),
            publishes,
            publishers: DefaultKeyedRateLimiter::keyed(publishes),
            counters: LimitCounters::default(),
        })
    }

    /// What was refused so far.
    #[must_use]
    pub fn counters(&self) -> &LimitCounters {
        &self.counters
    }

    /// A place among the clients of an address. This machine has as many as it
    /// likes.
    ///
    /// # Errors
    ///
    /// There are too many.
    pub(super) fn place_of_address(
        &self,
        address: IpAddr,
    ) -> Result<Option<Counted<IpAddr>>, TooMany> {
        if is_loopback(address) {
            return Ok(None);
        }
        self.addresses.take(address).map(Some).ok_or_else(|| {
            count(&self.counters.address_refused, 1);
            TooMany::OfAddress
        })
    }

    /// A place among the clients of a user, if it has shown who it is.
    ///
    /// # Errors
    ///
    /// There are too many.
    pub(super) fn place_of_user(
        &self,
        identity: &Identity,
    ) -> Result<Option<Counted<Arc<str>>>, TooMany> {
        if !identity.is_authenticated {
            return Ok(None);
        }
        self.users.take(identity.user.clone()).map(Some).ok_or_else(|| {
            count(&self.counters.user_refused, 1);
            TooMany::OfUser
        })
    }

    /// An account for the messages of one client.
    #[must_use]
    pub fn messages(self: &Arc<Self>) -> Messages {
        Messages {
            bucket: DefaultDirectRateLimiter::direct(self.messages),
            since: Instant::now(),
            over_from: AtomicU32::new(0),
            over_at: AtomicU32::new(0),
            limits: self.clone(),
        }
    }

    /// Puts `events` on the account of whoever publishes them: the user, or the
    /// address of who has not shown a token. All of them or none.
    ///
    /// # Errors
    ///
    /// They come too fast.
    pub fn publish(&self, by: &Identity, address: IpAddr, events: usize) -> Result<(), Throttled> {
        let Some(events) = u32::try_from(events).ok().and_then(NonZeroU32::new) else {
            return Ok(());
        };
        let mut publisher = match by.is_authenticated {
            true => Publisher::User(by.user.clone()),
            false => Publisher::Address(address),
        };
        if self.publishers.len() >= PUBLISHERS_MAX {
            // Those who have not published of late start afresh anyway.
            self.publishers.retain_recent();
            if self.publishers.len() >= PUBLISHERS_MAX {
                publisher = Publisher::Others;
            }
        }
        let retry_after = match self.publishers.check_key_n(&publisher, events) {
            Ok(Ok(())) => return Ok(()),
            Ok(Err(not_until)) => not_until.wait_time_from(DefaultClock::default().now()),
            // More at once than the account can ever hold, which the largest
            // batch is not.
            Err(_) => self.publishes.replenish_interval() * events.get(),
        };
        count(&self.counters.publishes_throttled, u64::from(events.get()));
        Err(Throttled { retry_after, is_abuse: false })
    }
}

impl fmt::Debug for Limits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Limits").field("counters", &self.counters).finish_non_exhaustive()
    }
}

/// One client's account of messages.
pub struct Messages {
    bucket: DefaultDirectRateLimiter,
    /// From here on, times are kept in milliseconds.
    since: Instant,
    /// Since when messages have come too fast, and when one last did; 0: never.
    over_from: AtomicU32,
    over_at: AtomicU32,
    limits: Arc<Limits>,
}

impl Messages {
    /// Puts one message on the account.
    ///
    /// # Errors
    ///
    /// It came too fast.
    pub fn take(&self) -> Result<(), Throttled> {
        let Err(not_until) = self.bucket.check() else { return Ok(()) };
        let retry_after = not_until.wait_time_from(DefaultClock::default().now());
        // It starts again after 49 days; only differences are looked at.
        let is_abuse = self.is_abuse(self.since.elapsed().as_millis() as u32);
        count(&self.limits.counters.messages_throttled, 1);
        if is_abuse {
            count(&self.limits.counters.abusive, 1);
        }
        Err(Throttled { retry_after, is_abuse })
    }

    /// Notes that a message came too fast at `now`. One client's messages come
    /// one after the other.
    fn is_abuse(&self, now: u32) -> bool {
        // 0 is for never.
        let now = now.max(1);
        let before = self.over_at.swap(now, Ordering::Relaxed);
        if before == 0 || now.wrapping_sub(before) > millis(PEACE) {
            self.over_from.store(now, Ordering::Relaxed);
        }
        now.wrapping_sub(self.over_from.load(Ordering::Relaxed)) >= millis(ABUSE_AFTER)
    }
}

impl fmt::Debug for Messages {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Messages").finish_non_exhaustive()
    }
}

fn quota(per_second: u32, burst: u32) -> Quota {
    // Checked with the configuration: none is 0.
    let at_least_one = |number| NonZeroU32::new(number).unwrap_or(NonZeroU32::MIN);
    Quota::per_second(at_least_one(per_second)).allow_burst(at_least_one(burst))
}

fn count(counter: &AtomicU64, more: u64) {
    counter.fetch_add(more, Ordering::Relaxed);
}

fn millis(duration: Duration) -> u32 {
    u32::try_from(duration.as_millis()).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits(change: impl FnOnce(&mut LimitsConfig)) -> Arc<Limits> {
        let mut config = LimitsConfig::default();
        change(&mut config);
        Limits::new(&config)
    }

    fn user(name: &str) -> Identity {
        Identity { user: name.into(), is_authenticated: true, ..(*Identity::open()).clone() }
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn an_address_has_so_many_places_and_this_machine_any_number() {
        let limits = limits(|config| config.connections_per_address = 2);
        let take = |address| limits.place_of_address(ip(address));
        let first = take("203.0.113.9").unwrap();
        let _second = take("203.0.113.9").unwrap();
        assert_eq!(take("203.0.113.9").unwrap_err(), TooMany::OfAddress);
        let _other = take("203.0.113.10").unwrap();
        drop(first);
        let _third = take("203.0.113.9").unwrap();
        let _own: Vec<_> = (0..5).map(|_| take("127.0.0.1").unwrap()).collect();
        assert_eq!(limits.counters().address_refused.load(Ordering::Relaxed), 1);
    }

    #[test]
    fn a_user_has_so_many_places_and_nobody_any_number() {
        let limits = limits(|config| config.connections_per_user = 1);
        let ana = limits.place_of_user(&user("ana")).unwrap();
        assert_eq!(limits.place_of_user(&user("ana")).unwrap_err(), TooMany::OfUser);
        let _bob = limits.place_of_user(&user("bob")).unwrap();
        for _ in 0..5 {
            assert!(limits.place_of_user(&Identity::open()).unwrap().is_none());
        }
        drop(ana);
        assert!(limits.place_of_user(&user("ana")).is_ok());
        assert_eq!(limits.counters().user_refused.load(Ordering::Relaxed), 1);
    }

    #[test]
    fn messages_come_in_a_burst_and_then_at_their_rate() {
        let limits = limits(|config| {
            // One a second: the test takes less.
            (config.messages_per_second, config.messages_burst) = (1, 3);
        });
        let (messages, others) = (limits.messages(), limits.messages());
        assert!((0..3).all(|_| messages.take().is_ok()));
        let throttled = messages.take().unwrap_err();
        assert!(throttled.retry_after <= Duration::from_secs(1) && !throttled.is_abuse);
        assert!(others.take().is_ok(), "each client has its own");
        assert_eq!(limits.counters().messages_throttled.load(Ordering::Relaxed), 1);
    }

    #[test]
    fn ten_seconds_of_too_much_is_abuse_and_a_second_of_peace_ends_it() {
        let messages = limits(|_| {}).messages();
        for (now, is_abuse) in [
            (0, false),
            (900, false),
            // More than a second later it begins anew.
            (2000, false),
            (2900, false),
        ] {
            assert_eq!(messages.is_abuse(now), is_abuse, "at {now}");
        }
        let abuse: Vec<u32> =
            (3000..=13_000).step_by(500).filter(|now| messages.is_abuse(*now)).collect();
        assert_eq!(abuse.first(), Some(&12_000));
        assert!(!messages.is_abuse(20_000));
    }

    #[test]
    fn events_are_on_the_account_of_their_user_or_address() {
        let limits = limits(|config| {
            (config.publishes_per_second, config.publishes_burst) = (1, 100);
        });
        let publish = |by: &Identity, address, events| limits.publish(by, ip(address), events);
        let (ana, bob, nobody) = (user("ana"), user("bob"), Identity::open());
        assert_eq!(publish(&ana, "203.0.113.9", 0), Ok(()));
        assert_eq!(publish(&ana, "203.0.113.9", 99), Ok(()));
        // All or none, and the same user from elsewhere.
        let throttled = publish(&ana, "203.0.113.10", 2).unwrap_err();
        assert!(throttled.retry_after <= Duration::from_secs(1), "{throttled:?}");
        assert_eq!(publish(&ana, "203.0.113.9", 1), Ok(()));
        assert_eq!(publish(&bob, "203.0.113.9", 100), Ok(()));
        assert_eq!(publish(&nobody, "203.0.113.9", 100), Ok(()));
        assert_eq!(publish(&nobody, "203.0.113.10", 100), Ok(()));
        assert!(publish(&nobody, "203.0.113.10", 100).is_err());
        // What can never be taken is not taken, and does not wait for ever.
        assert!(publish(&bob, "203.0.113.9", 101).is_err());
        assert_eq!(limits.counters().publishes_throttled.load(Ordering::Relaxed), 203);
    }

    #[test]
    fn publishers_without_end_share_an_account() {
        let limits = limits(|config| {
            (config.publishes_per_second, config.publishes_burst) = (1, 100);
        });
        for number in 0..PUBLISHERS_MAX {
            assert!(limits.publish(&user(&number.to_string()), ip("::1"), 100).is_ok());
        }
        assert!(limits.publish(&user("one more"), ip("::1"), 100).is_ok());
        assert!(limits.publish(&user("and another"), ip("::1"), 1).is_err());
        assert_eq!(limits.publishers.len(), PUBLISHERS_MAX + 1);
    }
}
