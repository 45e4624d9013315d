//! Who is connected: the one registry of clients of all dialects.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use super::limits::{Limits, Messages, Throttled, TooMany};
use crate::access::{ANONYMOUS, Identity};
use crate::audit::{Actor, Audit, Note};
use crate::channel::Who;
use crate::clock::Clock;
use crate::config::LimitsConfig;
use crate::gate::{Counted, Ending, Gate};
use crate::model::ConnectionId;
use crate::shutdown::Shutdown;

/// How often tokens are looked at that may have expired.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// One connected client, as others see it.
#[derive(Debug)]
pub struct Client {
    /// Its public number.
    pub id: ConnectionId,
    /// What it speaks: `native`, `skills`, `socketio`.
    pub dialect: &'static str,
    /// Where it comes from: the client's own address, also behind a proxy that
    /// is trusted.
    pub address: IpAddr,
    /// Since when, wall time in milliseconds.
    pub since_ms: u64,
    known: Mutex<Known>,
    messages: Messages,
    limits: Arc<Limits>,
    /// With which code and words its connection was closed.
    ended: OnceLock<(u16, &'static str)>,
    /// It was told that messages of this client come too fast.
    was_throttled: AtomicBool,
    audit: Audit,
}

/// What is known of who a client is.
#[derive(Debug, Default)]
struct Known {
    identity: Option<Arc<Identity>>,
    /// Its place among those of its user.
    place: Option<Counted<Arc<str>>>,
}

/// All clients that are connected.
#[derive(Debug)]
pub struct Clients {
    clock: Clock,
    audit: Audit,
    /// Begins anywhere, so that numbers differ from run to run.
    next: AtomicU64,
    all: Mutex<HashMap<ConnectionId, Connected>>,
    limits: Arc<Limits>,
}

/// A client and its way in and out.
type Connected = (Arc<Client>, Arc<Gate>);

/// A client's place in the registry; it leaves when this is dropped.
#[derive(Debug)]
pub struct Entered {
    client: Arc<Client>,
    clients: Arc<Clients>,
    /// Its place among those of its address.
    _place: Option<Counted<IpAddr>>,
}

impl Client {
    /// A client that has just connected, with the usual limits, and of whom
    /// nothing is noted.
    #[must_use]
    pub fn new(
        id: ConnectionId,
        dialect: &'static str,
        address: IpAddr,
        since_ms: u64,
        identity: Option<Arc<Identity>>,
    ) -> Arc<Self> {
        let limits = Limits::new(&LimitsConfig::default());
        let known = Mutex::new(Known { identity, place: None });
        let (messages, ended) = (limits.messages(), OnceLock::new());
        Arc::new(Self {
            id,
            dialect,
            address,
            since_ms,
            known,
            messages,
            limits,
            ended,
            was_throttled: AtomicBool::new(false),
            audit: Audit::off(),
        })
    }

    /// Who it is; `None` while it has not said so, and must.
    #[must_use]
    pub fn identity(&self) -> Option<Arc<Identity>> {
        self.lock().identity.clone()
    }

    /// Who it is to the channels.
    pub(crate) fn who(&self) -> Who {
        let user =
            self.identity().map_or_else(|| ANONYMOUS.into(), |identity| identity.user.clone());
        Who { connection: Some(self.id), user }
    }

    /// It has shown who it is, or shows it anew.
    ///
    /// # Errors
    ///
    /// Its user has as many connections as it may have; then nothing has
    /// changed.
    pub fn identify(&self, identity: Arc<Identity>) -> Result<(), TooMany> {
        let user = identity.user.clone();
        self.place(identity)?;
        tracing::debug!(connection = %self.id, %user, "identified");
        self.note(|who| Note::Identified { who });
        Ok(())
    }

    /// Gives it an identity, and a place among those of its user.
    fn place(&self, identity: Arc<Identity>) -> Result<(), TooMany> {
        let mut known = self.lock();
        let is_counted = known.place.is_some()
            && known.identity.as_ref().is_some_and(|known| known.user == identity.user);
        if !is_counted {
            known.place = self.limits.place_of_user(&identity)?;
        }
        known.identity = Some(identity);
        Ok(())
    }

    /// It was refused something: what, and why. No token belongs into either.
    pub fn refused(&self, what: &str, why: &str) {
        tracing::debug!(connection = %self.id, what, why, "refused");
        self.note(|who| Note::refused(who, what, why));
    }

    /// Its connection is being closed: with which code, and why. The first one
    /// who says so is believed.
    pub fn ends(&self, code: u16, why: &'static str) {
        // An error means that somebody has.
        let _ = self.ended.set((code, why));
    }

    fn note(&self, note: impl FnOnce(Actor) -> Note) {
        if self.audit.is_on() {
            self.audit.note(note(self.actor()));
        }
    }

    fn actor(&self) -> Actor {
        Actor {
            connection: Some(self.id),
            dialect: Some(self.dialect),
            address: Some(self.address),
            user: self.identity().map(|identity| identity.user.clone()),
        }
    }

    fn connected(&self) {
        let identity = self.identity();
        let user = identity.as_ref().map(|identity| &*identity.user);
        tracing::info!(
            connection = %self.id, dialect = self.dialect, address = %self.address, user,
            "connected"
        );
        self.note(|who| Note::Connected { who });
    }

    fn disconnected(&self, gate: &Gate, now_ms: u64) {
        let identity = self.identity();
        let user = identity.as_ref().map(|identity| &*identity.user);
        let (code, why) = match self.ended.get() {
            Some((code, why)) => (Some(*code), *why),
            None => (None, "the connection was lost"),
        };
        let seconds = Duration::from_millis(now_ms.saturating_sub(self.since_ms)).as_secs_f64();
        let (received, sent) = gate.messages();
        tracing::info!(
            connection = %self.id, dialect = self.dialect, user, code, why, seconds, received,
            sent, "disconnected"
        );
        self.note(|who| Note::Disconnected { who, code, why: why.into(), seconds });
    }

    /// Puts a message of the client on its account.
    ///
    /// # Errors
    ///
    /// Messages come too fast: this one is not to be looked at.
    pub fn message(&self) -> Result<(), Throttled> {
        self.messages.take().inspect_err(|_| {
            if !self.was_throttled.swap(true, Ordering::Relaxed) {
                tracing::info!(
                    connection = %self.id, address = %self.address,
                    "throttled: its messages come too fast (limits.messages_per_second)"
                );
                self.note(|who| Note::refused(who, "message", "too_many_requests"));
            }
        })
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Clients {
    /// Nobody is connected. Who comes, goes and shows who they are is noted.
    #[must_use]
    pub fn new(clock: Clock, limits: Arc<Limits>, audit: Audit) -> Arc<Self> {
        // Without random numbers they begin at 0, and the hub has failed already.
        let next = AtomicU64::new(getrandom::u64().unwrap_or_default());
        Arc::new(Self { clock, next, all: Mutex::default(), limits, audit })
    }

    /// A client has connected.
    ///
    /// # Errors
    ///
    /// There are too many connections of its address or user.
    pub fn enter(
        self: &Arc<Self>,
        dialect: &'static str,
        address: IpAddr,
        gate: Arc<Gate>,
        identity: Option<Arc<Identity>>,
    ) -> Result<Entered, TooMany> {
        let _place = self.limits.place_of_address(address)?;
        let id = ConnectionId(self.next.fetch_add(1, Ordering::Relaxed));
        let client = Arc::new(Client {
            id,
            dialect,
            address,
            since_ms: self.clock.now_ms(),
            known: Mutex::default(),
            messages: self.limits.messages(),
            limits: self.limits.clone(),
            ended: OnceLock::new(),
            was_throttled: AtomicBool::new(false),
            audit: self.audit.clone(),
        });
        if let Some(identity) = identity {
            client.place(identity)?;
        }
        client.connected();
        self.lock().insert(id, (client.clone(), gate));
        Ok(Entered { client, clients: self.clone(), _place })
    }

    /// How much clients may have of the hub.
    #[must_use]
    pub fn limits(&self) -> &Arc<Limits> {
        &self.limits
    }

    /// All of them, in no order.
    #[must_use]
    pub fn list(&self) -> Vec<Arc<Client>> {
        self.lock().values().map(|(client, _)| client.clone()).collect()
    }

    /// Those that speak a dialect, each with its gate, in no order.
    #[must_use]
    pub fn of_dialect(&self, dialect: &str) -> Vec<(Arc<Client>, Arc<Gate>)> {
        let all = self.lock();
        all.values().filter(|(client, _)| client.dialect == dialect).cloned().collect()
    }

    /// Ends the connections of a user; how many there were.
    pub fn disconnect(&self, user: &str) -> usize {
        self.end(Ending::Revoked, |identity| *identity.user == *user)
    }

    /// Ends those of whom `which` is true.
    fn end(&self, ending: Ending, which: impl Fn(&Identity) -> bool) -> usize {
        let is_meant =
            |(client, _): &&Connected| client.identity().is_some_and(|identity| which(&identity));
        let meant: Vec<_> = self.lock().values().filter(is_meant).cloned().collect();
        meant.iter().for_each(|(_, gate)| gate.end(ending));
        meant.len()
    }

    /// Ends the connections whose tokens have expired, until `shutdown`.
    pub async fn watch(self: Arc<Self>, mut shutdown: Shutdown) {
        let mut interval = tokio::time::interval(LOOK_EVERY);
        interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = shutdown.requested() => return,
                _ = interval.tick() => self.look(),
            }
        }
    }

    fn look(&self) {
        let now_ms = self.clock.now_ms();
        self.end(Ending::Expired, |identity| identity.expires_ms.is_some_and(|at| at <= now_ms));
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<ConnectionId, Connected>> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl std::ops::Deref for Entered {
    type Target = Arc<Client>;

    fn deref(&self) -> &Arc<Client> {
        &self.client
    }
}

impl Drop for Entered {
    fn drop(&mut self) {
        let left = self.clients.lock().remove(&self.client.id);
        if let Some((client, gate)) = left {
            client.disconnected(&gate, self.clients.clock.now_ms());
        }
        // Whoever still holds the client holds no place of its user.
        self.client.lock().place = None;
    }
}
