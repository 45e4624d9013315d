//! `/v1/stats`: who is connected, which rooms they are in, how much goes in and
//! out, what waits, and which limits were met.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::{Instant, MissedTickBehavior};

use crate::access::Identity;
use crate::clock;
use crate::model::Room;
use crate::session::{Client, Services};
use crate::shutdown::Shutdown;
use crate::vitals::Vitals;

/// The users and the rooms that are named: those with the most connections.
const TOP_MAX: usize = 100;
/// The connections that are named, the oldest first.
const CLIENTS_MAX: usize = 1000;
/// What rates are made from: the counts at so many seconds, and now.
const SECONDS: usize = 10;
/// How long the rooms are waited for; a hub that has so much to do is told of
/// without them.
const ROOMS_WAIT: Duration = Duration::from_secs(1);

/// What `/v1/stats` is made from.
pub struct Stats {
    vitals: Vitals,
    since_ms: u64,
    taken: Mutex<VecDeque<Taken>>,
}

/// The counts at a moment.
#[derive(Clone, Copy, Debug)]
struct Taken {
    at: Instant,
    counts: [u64; 3],
}

impl std::fmt::Debug for Stats {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Stats").field("since_ms", &self.since_ms).finish_non_exhaustive()
    }
}

impl Stats {
    /// Those of a hub that has just started.
    #[must_use]
    pub fn new(vitals: Vitals, since_ms: u64) -> Arc<Self> {
        let stats = Self { vitals, since_ms, taken: Mutex::default() };
        stats.take();
        Arc::new(stats)
    }

    /// Since when the hub runs: wall time in milliseconds.
    pub(super) fn since_ms(&self) -> u64 {
        self.since_ms
    }

    /// Looks at the counts every second, until `shutdown`.
    pub async fn watch(self: Arc<Self>, mut shutdown: Shutdown) {
        let mut interval = tokio::time::interval(Duration::from_secs(1));
        interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = shutdown.requested() => return,
                _ = interval.tick() => self.take(),
            }
        }
    }

    fn counts(&self) -> Taken {
        let gates = self.vitals.gates.counters();
        let counts = [&gates.received, &gates.sent, &self.vitals.events.published].map(read);
        Taken { at: Instant::now(), counts }
    }

    fn take(&self) {
        let now = self.counts();
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        if taken.len() > SECONDS {
            taken.pop_front();
        }
        taken.push_back(now);
    }

    /// Each a second, over the last ten or since the start.
    fn rates(&self) -> Value {
        let now = self.counts();
        let oldest = self.taken.lock().unwrap_or_else(PoisonError::into_inner).front().copied();
        let then = oldest.unwrap_or(now);
        let seconds = now.at.duration_since(then.at).as_secs_f64();
        #[expect(clippy::cast_precision_loss, reason = "up to 2^53 are exact")]
        let rate = |nth: usize| {
            let rate = (now.counts[nth] - then.counts[nth]) as f64 / seconds.max(1e-3);
            (rate * 100.0).round() / 100.0
        };
        json!({
            "seconds": (seconds * 1e3).round() / 1e3,
            "received": rate(0),
            "sent": rate(1),
            "published": rate(2),
        })
    }
}

/// What there is to tell somebody. Who may administer the hub is told of all
/// connections and where they come from, others of their own.
pub(super) async fn tell(stats: &Stats, services: &Services, asks: Option<&Identity>) -> Value {
    let clients = services.clients.list();
    // Who asks sees of rooms and users what it would see in the rooms.
    let may_see = match asks {
        Some(identity) if identity.admin => None,
        asks => Some(asks.cloned()),
    };
    let is_shown = move |room: &Room| match &may_see {
        None => true,
        Some(asks) => asks.as_ref().is_some_and(|identity| identity.may_enter(room)),
    };
    let rooms = services.channels.rooms(TOP_MAX, is_shown);
    let rooms = tokio::time::timeout(ROOMS_WAIT, rooms).await;
    let rooms = rooms.ok().flatten().map(|(top, count)| json!({"count": count, "top": top}));
    let vitals = &stats.vitals;
    let (gates, store, events) = (vitals.gates.counters(), &vitals.store, &vitals.events);
    let limits = vitals.limits.counters();
    let now_ms = services.clock.now_ms();
    json!({
        "time": rfc3339(now_ms),
        "since": rfc3339(stats.since_ms),
        "connections": connections(&clients, asks),
        "clients": named(clients, asks),
        "rooms": rooms,
        "rates": stats.rates(),
        "totals": {
            "received": read(&gates.received),
            "sent": read(&gates.sent),
            "published": read(&events.published),
        },
        "queues": {
            "outbox_bytes": vitals.gates.budget().used(),
            "outbox_bytes_max": vitals.gates.budget().limit(),
            "store_snapshots": read(&store.snapshots_queued),
        },
        "limits": {
            "connections_max": vitals.gates.connections_max(),
            "connections_refused": read(&gates.refused),
            "address_refused": read(&gates.address_refused) + read(&limits.address_refused),
            "user_refused": read(&limits.user_refused),
            "messages_throttled": read(&limits.messages_throttled),
            "publishes_throttled": read(&limits.publishes_throttled),
            "abusive": read(&limits.abusive),
            "too_slow": read(&gates.stalled) + read(&gates.shed),
            "silent": read(&gates.silent),
            "not_understood": read(&gates.not_understood),
            "frames_skipped": read(&vitals.channels.skipped),
            "behind_the_log": read(&vitals.channels.behind),
            "events_refused": read(&events.refused),
            "events_busy": read(&events.busy),
            "samples_dropped": read(&store.samples_dropped),
            "audit_dropped": read(&vitals.audit.dropped) + read(&vitals.audit.failed),
        },
    })
}

/// How many there are, by what they speak and who they are.
fn connections(clients: &[Arc<Client>], asks: Option<&Identity>) -> Value {
    let mut dialects: BTreeMap<&str, usize> = BTreeMap::new();
    let mut users: HashMap<Arc<str>, usize> = HashMap::new();
    let mut unidentified = 0_usize;
    for client in clients {
        *dialects.entry(client.dialect).or_default() += 1;
        match client.identity() {
            Some(identity) => *users.entry(identity.user.clone()).or_default() += 1,
            None => unidentified += 1,
        }
    }
    let count = users.len();
    let mut users: Vec<_> = users.into_iter().collect();
    users.sort_unstable_by(|(a, more), (b, less)| less.cmp(more).then_with(|| a.cmp(b)));
    let rest: usize = users.iter().skip(TOP_MAX).map(|(_, connections)| connections).sum();
    users.truncate(TOP_MAX);
    // The names of others are for admins.
    let is_admin = asks.is_some_and(|identity| identity.admin);
    users.retain(|(user, _)| is_admin || asks.is_some_and(|identity| identity.user == *user));
    let top =
        |(user, connections): &(Arc<str>, usize)| json!({"user": user, "connections": connections});
    json!({
        "count": clients.len(),
        "dialects": dialects,
        "unidentified": unidentified,
        "users": {
            "count": count,
            "top": users.iter().map(top).collect::<Vec<_>>(),
            "connections_of_others": rest,
        },
    })
}

/// The connections that somebody may know of.
fn named(mut clients: Vec<Arc<Client>>, asks: Option<&Identity>) -> Value {
    let is_admin = asks.is_some_and(|identity| identity.admin);
    clients.retain(|client| {
        let user = || Some(client.identity()?.user.clone());
        is_admin || asks.is_some_and(|identity| user().as_ref() == Some(&identity.user))
    });
    clients.sort_unstable_by_key(|client| (client.since_ms, client.id));
    clients.truncate(CLIENTS_MAX);
    let named = clients.iter().map(|client| {
        let user = client.identity().map(|identity| identity.user.clone());
        let mut named = json!({
            "connection": client.id,
            "dialect": client.dialect,
            "user": user,
            "since": rfc3339(client.since_ms),
        });
        if is_admin {
            named["address"] = json!(client.address);
        }
        named
    });
    named.collect()
}

fn rfc3339(time_ms: u64) -> String {
    clock::rfc3339(time_ms.saturating_mul(1_000_000))
}

fn read(counter: &AtomicU64) -> u64 {
    counter.load(Ordering::Relaxed)
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;
    use crate::model::ConnectionId;

    fn client(number: u64, dialect: &'static str, user: Option<&str>) -> Arc<Client> {
        let identity = user.map(|user| Arc::new(identity(user, false)));
        let address = Ipv4Addr::LOCALHOST.into();
        Client::new(ConnectionId(number), dialect, address, number, identity)
    }

    fn identity(user: &str, admin: bool) -> Identity {
        Identity { user: user.into(), admin, ..(*Identity::open()).clone() }
    }

    #[test]
    fn connections_are_counted_by_dialect_and_user() {
        let mut clients = vec![client(1, "native", None)];
        for user in 0..102 {
            for nth in 0..=u64::from(user < 101) {
                clients.push(client(user * 10 + nth, "skills", Some(&format!("user-{user:03}"))));
            }
        }
        let told = connections(&clients, Some(&*Identity::admin()));
        assert_eq!(told["count"], 204);
        assert_eq!(told["dialects"], json!({"native": 1, "skills": 203}));
        assert_eq!(told["unidentified"], 1);
        let users = &told["users"];
        assert_eq!((&users["count"], &users["connections_of_others"]), (&json!(102), &json!(3)));
        let top = users["top"].as_array().unwrap();
        assert_eq!(top.len(), TOP_MAX);
        assert_eq!(top[0], json!({"user": "user-000", "connections": 2}));
    }

    #[test]
    fn only_who_administers_the_hub_is_told_of_others_and_where_they_come_from() {
        let clients = || {
            vec![
                client(2, "native", Some("ana")),
                client(1, "native", Some("bob")),
                client(3, "native", None),
            ]
        };
        let own = named(clients(), Some(&identity("ana", false)));
        assert_eq!(
            own,
            json!([{"connection": "0000000000000002", "dialect": "native", "user": "ana",
                "since": "1970-01-01T00:00:00.002Z"}])
        );
        let all = named(clients(), Some(&identity("eve", true)));
        assert_eq!(all.as_array().unwrap().len(), 3);
        assert_eq!((&all[0]["user"], &all[0]["address"]), (&json!("bob"), &json!("127.0.0.1")));
        assert_eq!(named(clients(), None), json!([]));
    }
}
