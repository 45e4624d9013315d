//! A hub within the test: the real channels, store, gates and sessions, without
//! plugins and HTTP.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use telltale::access::Access;
use telltale::audit::Audit;
use telltale::cache::Cache;
use telltale::channel::{ChannelCounters, Feed, RecentBounds, Surroundings, channels};
use telltale::clock::Clock;
use telltale::config::LimitsConfig;
use telltale::dialect::MESSAGE_BYTES_MAX;
use telltale::dialect::native::Native;
use telltale::events::Events;
use telltale::gate::{Budget, GateIo, Gates};
use telltale::layouts::LayoutChanges;
use telltale::model::{Entry, Finding};
use telltale::plugin::{EventOutlet, Outlets, PluginControl, Plugins, PluginsConfig, Statuses};
use telltale::session::{Clients, Home, HubFacts, Limits, Services, Session};
use telltale::shutdown::{self, Stop};
use telltale::snapshot::Snapshot;
use telltale::store::{Store, StoreConfig};
use tempfile::TempDir;
use tokio::net::TcpSocket;
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::{JoinHandle, JoinSet};

use crate::harness::within;

/// How long a tick is said to be.
pub(super) const TICK_MS: u64 = 10;

/// Plugins that are never asked for: sessions want to be able to ask.
pub(super) struct Ground {
    pub(super) control: PluginControl,
    _plugins: Plugins,
    _store: Store,
    _folder: TempDir,
}

impl Ground {
    pub(super) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (logged, _) = mpsc::channel(1);
        let (store, _) = Store::open(store_config(folder.path()), logged).unwrap();
        let outlets = Outlets {
            dictionary: store.dictionary(),
            answers: mpsc::channel(1).0,
            changes: mpsc::channel(1).0,
            judgements: mpsc::channel(1).0,
            entries: store.log(),
            audit: Audit::off(),
            events: EventOutlet { queue: mpsc::channel(1).0, check: |_, _| Ok(Vec::new()) },
        };
        let plugins = folder.path().join("plugins");
        std::fs::create_dir(&plugins).unwrap();
        let config = PluginsConfig {
            folder: plugins,
            data: folder.path().to_owned(),
            tick: Duration::from_millis(TICK_MS),
            clock: Clock::system(),
            cache: Cache::memory(),
        };
        let plugins = Plugins::start(&config, outlets).unwrap();
        Self { control: plugins.control(), _plugins: plugins, _store: store, _folder: folder }
    }
}

fn store_config(folder: &Path) -> StoreConfig {
    StoreConfig {
        folder: folder.to_owned(),
        // What is pruned the test prunes itself, and so knows of it.
        retention_age: Duration::from_secs(10_000 * 86_400),
        retention_bytes: 1 << 30,
        boards_bytes: 1 << 26,
        clock: Clock::system(),
    }
}

/// A hub that runs.
pub(super) struct Inside {
    pub(super) address: SocketAddr,
    pub(super) log: mpsc::Sender<Entry>,
    pub(super) counters: Arc<ChannelCounters>,
    services: Arc<Services>,
    store: Store,
    stop: Stop,
    channels: JoinHandle<()>,
    doors: JoinHandle<()>,
}

impl Inside {
    /// Starts a hub on a folder. `close` says what is logged of the findings
    /// that an earlier run has left open, as the judge does, while the hub
    /// still starts.
    pub(super) async fn start(
        folder: &Path,
        ground: &Ground,
        bounds: RecentBounds,
        close: impl FnOnce(Vec<Finding>) -> Vec<Entry>,
    ) -> Self {
        let (channels, task) = channels();
        let counters = channels.counters();
        let opened =
            tokio::task::block_in_place(|| Store::open(store_config(folder), channels.logged()));
        let (store, kept) = opened.unwrap();
        for entry in close(kept.open_findings) {
            store.log().send(entry).await.unwrap();
        }
        let clock = Clock::system();
        let gates = Gates::new(1000, Duration::from_secs(25), Budget::new(256 << 20));
        let facts = HubFacts {
            name: "inside".to_owned(),
            version: "0",
            tick: Duration::from_millis(TICK_MS),
            heartbeat: Duration::from_secs(25),
            epoch: kept.epoch.clone(),
            admin_token: "none".to_owned(),
        };
        let services = Arc::new(Services {
            gates: gates.clone(),
            channels,
            reader: store.reader(),
            histories: Arc::new(Semaphore::new(1)),
            statuses: Statuses::default(),
            plugins: ground.control.clone(),
            clock: clock.clone(),
            hub: Arc::new(facts),
            access: Access::open(),
            clients: Clients::new(
                clock.clone(),
                Limits::new(&LimitsConfig::default()),
                Audit::off(),
            ),
            events: Events::new(store.publications(), clock.clone(), Audit::off()),
            layouts: LayoutChanges::new(store.changes(), clock.clone(), Audit::off()),
            routing_interval: Duration::from_secs(5),
            sync_heartbeat: Duration::from_secs(30),
            audit: Audit::off(),
        });
        let feed = Feed::new(Statuses::default(), clock, kept.epoch, kept.head);
        let recent = store.reader().entries_recent(bounds.entries, bounds.bytes).await.unwrap();
        let first = recent.first().map_or(kept.head, |first| first.offset - 1);
        let surroundings = Surroundings {
            feed,
            recent,
            recent_floor: first.max(kept.pruned),
            recent_bounds: bounds,
            reader: store.reader(),
            budget: gates.budget().clone(),
            audit: Audit::off(),
            watching: watch::channel(Arc::default()).0,
        };
        let (stop, shutdown) = shutdown::channel();
        let channels = tokio::spawn(task.run(surroundings, shutdown));
        let (log, (address, doors)) = (store.log(), open_doors(services.clone()));
        Self { address, log, counters, services, store, stop, channels, doors }
    }

    /// Passes a snapshot on, and says whether there was room.
    pub(super) fn publish(&self, snapshot: &Arc<Snapshot>) -> bool {
        let dropped = || self.counters.snapshots_dropped.load(Ordering::Relaxed);
        let before = dropped();
        self.services.channels.publish(snapshot.clone());
        dropped() == before
    }

    /// Ends it; the clients find their connections cut.
    pub(super) async fn stop(self) {
        let Self { doors, channels, stop, store, log, services, .. } = self;
        doors.abort();
        // An error means that it was cut off, as it is meant to be.
        let _ = doors.await;
        stop.fire();
        within("the channels to end", channels).await.unwrap();
        drop((log, services));
        within("the store to close", store.close()).await;
    }
}

/// Lets clients in, at the address that is answered.
fn open_doors(serving: Arc<Services>) -> (SocketAddr, JoinHandle<()>) {
    // Sockets that hold little, so that clients soon fall behind.
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_send_buffer_size(4096).unwrap();
    socket.bind(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
    let listener = socket.listen(64).unwrap();
    let address = listener.local_addr().unwrap();
    let doors = tokio::spawn(async move {
        let mut sessions = JoinSet::new();
        loop {
            let (socket, peer) = listener.accept().await.unwrap();
            let gate = GateIo::plain(serving.gates.enter().unwrap(), socket);
            let identity = serving.access.without_token("native");
            let address = peer.ip();
            let client = serving.clients.enter("native", address, gate.clone(), identity).unwrap();
            let native = Native::new(
                serving.clock.clone(),
                serving.hub.clone(),
                serving.access.clone(),
                client.clone(),
            );
            let home = Some(Home { services: serving.clone(), client });
            sessions.spawn(Session::new(gate, &[], Box::new(native), MESSAGE_BYTES_MAX, home));
            while sessions.try_join_next().is_some() {}
        }
    });
    (address, doors)
}
