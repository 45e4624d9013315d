//! A running hub: every room started in order, and stopped in reverse.

mod publications;

pub(crate) use publications::check_event;

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpSocket};
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::JoinSet;

use crate::access::{Access, AccessError};
use crate::audit::{Audit, AuditFiles, AuditWriter, Note};
use crate::cache::Cache;
use crate::channel::{
    ChannelTask, Channels, FINDINGS_RECENT_MAX, Feed, RECENT, RECENT_BYTES_MAX, RECENT_ENTRIES_MAX,
    RecentBounds, Surroundings, channels,
};
use crate::clock::Clock;
use crate::config::{Config, ConfigError};
use crate::events::Events;
use crate::exposition::Exposition;
use crate::gate::{Budget, Gates};
use crate::hooks::{Github, HookError};
use crate::judge::{Judge, Rules};
use crate::layouts::LayoutChanges;
use crate::model::{Answer, Judgement, LogChannel, Logged, PluginName};
use crate::notify::{Notify, NotifyError, Receivers};
use crate::plugin::{
    self, EVENTS_WAITING_MAX, EventOutlet, Outlets, Plugins, PluginsConfig, PluginsError, Progress,
    Publication, Statuses,
};
use crate::server::{
    Bodies, Engine, Guard, Intake, Proxies, Readiness, Refusals, Server, Stats, Tls, TlsError,
};
use crate::session::{Clients, HISTORIES_MAX, HubFacts, Limits, Services};
use crate::shutdown::{self, Shutdown, Stop};
use crate::snapshot::Snapshot;
use crate::store::{Kept, Store, StoreConfig, StoreError};
use crate::tick::{Change, Ticker};
use crate::vitals::{self, Vitals};

/// Answers that may wait for the tick. A collector has one under way at a time,
/// so that this is never full while there are fewer collectors.
const ANSWERS_MAX: usize = 1024;
/// Plugins that may come and go between two looks of the tick.
const CHANGES_MAX: usize = 64;
/// Judgements that may wait; detectors await room.
const JUDGEMENTS_MAX: usize = 64;
/// Connections that may wait to be accepted: all clients may come back at once.
/// The system has a limit of its own, mostly 4096.
const BACKLOG: u32 = 4096;
/// How long tasks may take to end: longer than a closing handshake.
const JOIN_MAX: Duration = Duration::from_secs(3);

/// Why a hub can't start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// What is asked for can't be.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A folder can't be made, read or written.
    #[error("{path}: {source}")]
    Folder {
        /// Which one.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Another hub has the data folder.
    #[error(
        "another telltale runs on the data folder {folder}{owner}: stop it, or name another \
         folder with --data"
    )]
    InUse {
        /// Which folder.
        folder: PathBuf,
        /// What is known of the other one.
        owner: String,
    },
    /// An address can't be listened on.
    #[error("cannot listen on {address}: {source} (name another address with --listen)")]
    Listen {
        /// Which one.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// The database can't be opened.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// TLS can't be spoken.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// Webhooks can't be checked.
    #[error(transparent)]
    Hook(#[from] HookError),
    /// Other systems can't be told of findings.
    #[error(transparent)]
    Notify(#[from] NotifyError),
    /// Tokens can't be checked.
    #[error(transparent)]
    Access(#[from] AccessError),
    /// Plugins can't be run.
    #[error(transparent)]
    Plugins(#[from] PluginsError),
    /// The system gives no random numbers.
    #[error("the system gives no random numbers: {0}")]
    Random(String),
}

/// A running hub. [`Hub::stop`] ends it in good order; dropping it ends it too,
/// without waiting and without saving what plugins know.
#[derive(Debug)]
pub struct Hub {
    addresses: Vec<SocketAddr>,
    statuses: Statuses,
    progress: watch::Receiver<Progress>,
    snapshot: watch::Receiver<Arc<Snapshot>>,
    reach: Option<Duration>,
    plugins: Plugins,
    store: Arc<Store>,
    /// Listeners and sessions.
    outside: (Stop, JoinSet<()>),
    /// The loop, the judge, the channels, the hub's own numbers.
    inside: (Stop, JoinSet<()>),
    facts_file: PathBuf,
    audit: (Audit, Option<AuditWriter>),
    /// Held for as long as the hub runs.
    _lock: File,
}

impl Hub {
    /// Starts a hub. It listens when this returns; plugins are still being
    /// loaded. Needs a tokio runtime.
    ///
    /// # Errors
    ///
    /// [`StartError`], with the way out. Nothing is left running.
    pub async fn start(config: Config) -> Result<Self, StartError> {
        Self::start_with_clock(config, Clock::system()).await
    }

    /// As [`Hub::start`], with wall time from `clock`.
    ///
    /// # Errors
    ///
    /// As [`Hub::start`].
    pub async fn start_with_clock(config: Config, clock: Clock) -> Result<Self, StartError> {
        config.check()?;
        let tls = config.tls.files()?.map(|(cert, key)| Tls::open(cert, key)).transpose()?;
        let github = Github::new(&config.hooks.github)?;
        // The globs have been checked.
        let rules = Rules::new(&config.findings)
            .map_err(|error| ConfigError::Invalid(format!("findings: {error}")))?;
        let receivers = Receivers::open(&config.notify, &clock)?;
        let access =
            Access::new(&config.auth, clock.clone())?.believing(config.believes_identities());
        let lock = take_folder(&config.data)?;
        let listeners = listen(&config.listen)?;
        let addresses = local_addresses(&listeners)?;
        let audit = open_audit(&config, &clock)?;
        let (channels, channel_task) = channels();
        let (store, kept) = open_store(&config, &clock, channels.logged())?;
        let (plugins, wires, cache) = start_plugins(&config, &clock, &store, audit.0.clone())?;
        let facts_file = config.data.join("hub.json");
        let facts = Arc::new(hub_facts(&config, &kept)?);
        write_facts(&facts_file, &config, &addresses, &facts.admin_token)
            .map_err(|source| StartError::Folder { path: facts_file.clone(), source })?;

        let notify = Notify::new(receivers, &store, &facts.name, &facts.epoch, clock.clone());
        let notify = Arc::new(notify);
        let rooms = (&store, &plugins, channels);
        let services = services(&config, clock, rooms, access, &audit.0, facts);
        let exposition = Arc::<Exposition>::default();
        let vitals = vitals(&services, &store, &cache, &exposition, &notify, tls.clone());
        let stats = Stats::new(vitals.clone(), services.clock.now_ms());
        let store = Arc::new(store);
        let reach = kept.reach;
        let (publish, snapshot) = publisher(&store, services.channels.clone());
        let tick = config.tick;
        let rooms = Rooms {
            services: &services,
            vitals,
            store: &store,
            kept,
            rules,
            tick,
            notify: &notify,
        };
        let inside = rooms.open(channel_task, wires, plugins.runtime(), publish).await;
        let readiness = |shutdown| Readiness {
            snapshot: snapshot.clone(),
            progress: plugins.progress(),
            exposition: exposition.clone(),
            stats: stats.clone(),
            notify: notify.clone(),
            shutdown,
        };
        let intake = Intake { bodies: Bodies::default(), deliveries: Bodies::default(), github };
        let outside = open_doors(&config, services.clone(), tls, intake, readiness, listeners);
        Ok(Self {
            addresses,
            statuses: plugins.statuses(),
            progress: plugins.progress(),
            snapshot: snapshot.clone(),
            reach,
            plugins,
            store,
            outside,
            inside,
            facts_file,
            audit,
            _lock: lock,
        })
    }

    /// Where the hub listens: the ports that it got where 0 was asked for.
    #[must_use]
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// What is known of each plugin.
    #[must_use]
    pub fn statuses(&self) -> Statuses {
        self.statuses.clone()
    }

    /// How far the first loading of plugins has come.
    #[must_use]
    pub fn progress(&self) -> watch::Receiver<Progress> {
        self.progress.clone()
    }

    /// The newest snapshot.
    #[must_use]
    pub fn snapshot(&self) -> watch::Receiver<Arc<Snapshot>> {
        self.snapshot.clone()
    }

    /// How far back the history's size limit will reach, going by what is
    /// stored so far; `None` while that is too little to tell.
    #[must_use]
    pub fn reach(&self) -> Option<Duration> {
        self.reach
    }

    /// Stops in good order: no more clients, the tick finished, the plugins'
    /// states saved, the store flushed, the clients told. Takes at most about
    /// five seconds.
    pub async fn stop(self) {
        let Self { plugins, store, mut outside, mut inside, facts_file, audit, .. } = self;
        audit.0.note(Note::Stopped);
        outside.0.fire();
        inside.0.fire();
        let inner_rooms = async {
            plugins.stop().await;
            join(&mut inside.1, "the loop").await;
        };
        tokio::join!(inner_rooms, join(&mut outside.1, "the sockets"));
        match Arc::into_inner(store) {
            Some(store) => store.close().await,
            None => tracing::error!("the store is still in use, and is not flushed"),
        }
        if let Some(writer) = audit.1 {
            writer.stop().await;
        }
        // Another hub's file is not there: the lock is still held.
        if let Err(error) = fs::remove_file(&facts_file) {
            tracing::debug!(%error, "hub.json");
        }
    }
}

/// What the rooms outside need of those inside.
fn services(
    config: &Config,
    clock: Clock,
    (store, plugins, channels): (&Store, &Plugins, Channels),
    access: Access,
    audit: &Audit,
    facts: Arc<HubFacts>,
) -> Arc<Services> {
    Arc::new(Services {
        gates: gates(config),
        histories: Arc::new(Semaphore::new(HISTORIES_MAX)),
        channels,
        reader: store.reader(),
        statuses: plugins.statuses(),
        plugins: plugins.control(),
        access: access.with_admin(&facts.admin_token),
        clients: Clients::new(clock.clone(), Limits::new(&config.limits), audit.clone()),
        events: Events::new(store.publications(), clock.clone(), audit.clone()),
        layouts: LayoutChanges::new(store.changes(), clock.clone(), audit.clone()),
        routing_interval: config.routing.interval,
        sync_heartbeat: config.layouts.heartbeat,
        audit: audit.clone(),
        clock,
        hub: facts,
    })
}

/// The registry of connections, and the memory for what waits.
fn gates(config: &Config) -> Arc<Gates> {
    let outbox_bytes = usize::try_from(config.limits.outbox_mib << 20).unwrap_or(usize::MAX);
    let budget = Budget::new(outbox_bytes);
    Gates::with_limits(&config.limits, config.heartbeat.interval, budget)
}

/// Where each room counts.
fn vitals(
    services: &Services,
    store: &Store,
    cache: &Cache,
    exposition: &Exposition,
    notify: &Notify,
    tls: Option<Arc<Tls>>,
) -> Vitals {
    Vitals {
        tick: Arc::default(),
        store: store.counters(),
        cache: cache.counters(),
        channels: services.channels.counters(),
        gates: services.gates.clone(),
        limits: services.clients.limits().clone(),
        tls,
        judge: Arc::default(),
        notify: notify.counters(),
        events: services.events.counters(),
        layouts: services.layouts.counters(),
        exposition: exposition.counters(),
        audit: services.audit.counters(),
        plugins: services.statuses.clone(),
    }
}

/// What the plugins and the rooms inside are connected by.
struct Wires {
    changes: (mpsc::Sender<Change>, mpsc::Receiver<Change>),
    answers: (mpsc::Sender<Answer>, mpsc::Receiver<Answer>),
    judgements: mpsc::Receiver<Judgement>,
    publications: mpsc::Receiver<Publication>,
}

fn start_plugins(
    config: &Config,
    clock: &Clock,
    store: &Store,
    audit: Audit,
) -> Result<(Plugins, Wires, Cache), StartError> {
    let cache = Cache::open(&config.cache)?;
    let folder = config.plugins_folder();
    plugin::furnish(&folder)
        .map_err(|source| StartError::Folder { path: folder.clone(), source })?;
    let changes = mpsc::channel(CHANGES_MAX);
    let answers = mpsc::channel(ANSWERS_MAX);
    let (judgements, judgement_queue) = mpsc::channel(JUDGEMENTS_MAX);
    let (queue, publications) = mpsc::channel(EVENTS_WAITING_MAX);
    let outlets = Outlets {
        dictionary: store.dictionary(),
        answers: answers.0.clone(),
        changes: changes.0.clone(),
        judgements,
        entries: store.log(),
        audit,
        events: EventOutlet { queue, check: check_event },
    };
    let (data, tick) = (config.data.clone(), config.tick);
    let plugins_config =
        PluginsConfig { folder, data, tick, clock: clock.clone(), cache: cache.clone() };
    let plugins = Plugins::start(&plugins_config, outlets)?;
    let wires = Wires { changes, answers, judgements: judgement_queue, publications };
    Ok((plugins, wires, cache))
}

/// The rooms that no stranger reaches: the judge, the channels, the hub's own
/// numbers, and the loop.
struct Rooms<'a> {
    services: &'a Services,
    vitals: Vitals,
    store: &'a Store,
    kept: Kept,
    rules: Rules,
    tick: Duration,
    notify: &'a Notify,
}

impl Rooms<'_> {
    async fn open(
        self,
        channel_task: ChannelTask,
        wires: Wires,
        asking: Handle,
        publish: impl FnMut(Arc<Snapshot>) + Send + 'static,
    ) -> (Stop, JoinSet<()>) {
        let Self { services, vitals, store, kept, rules, tick, notify } = self;
        let (stop, shutdown) = shutdown::channel();
        let mut tasks = JoinSet::new();
        let clock = services.clock.clone();

        // Not waited for: a log that can't be written must not hold up the start.
        tasks.spawn(notify.forget_others());
        notify.tell(&shutdown).into_iter().for_each(|task| drop(tasks.spawn(task)));

        let judge = Judge::new(rules, store.log(), store.flags(), vitals.judge.clone());
        let last = kept.last_tick;
        tasks.spawn(judge.run(kept.open_findings, last.unwrap_or_default(), wires.judgements));

        tasks.spawn(publications::publish(services.events.clone(), wires.publications));

        let feed = Feed::new(services.statuses.clone(), clock.clone(), kept.epoch, kept.head)
            .with_boards(kept.boards);
        let (watching, watched) = watch::channel(Arc::default());
        let surroundings =
            surroundings(recall(feed, services).await, kept.pruned, services, watching).await;
        tasks.spawn(channel_task.run(surroundings, shutdown.clone()));

        let interval_ns = u64::try_from(tick.as_nanos()).unwrap_or(u64::MAX);
        let (ask, asks) = mpsc::channel(1);
        let answers = wires.answers.0;
        tasks.spawn(vitals.clone().run(interval_ns, store.dictionary(), asks, answers));
        let ticker = Ticker {
            interval: tick,
            clock,
            last,
            changes: wires.changes.1,
            watched,
            answers: wires.answers.1,
            asking,
            publish,
            counters: vitals.tick,
        };
        tasks.spawn(ticker.run(shutdown));
        let name = vitals::NAME.into();
        let late = Arc::default();
        let own = Change::Collector { name, interval: None, interval_idle: None, ask, late };
        // An error means that the loop has ended at once, and says why itself.
        drop(wires.changes.0.send(own).await);
        (stop, tasks)
    }
}

/// Begins to serve clients.
fn open_doors(
    config: &Config,
    services: Arc<Services>,
    tls: Option<Arc<Tls>>,
    intake: Intake,
    readiness: impl FnOnce(Shutdown) -> Readiness,
    listeners: Vec<TcpListener>,
) -> (Stop, JoinSet<()>) {
    let (stop, shutdown) = shutdown::channel();
    let mut tasks = JoinSet::new();
    let server = Server {
        engine: Engine::new(services.clone()),
        services,
        readiness: readiness(shutdown.clone()),
        intake,
        guard: Arc::new(Guard::new(config)),
        proxies: Arc::new(Proxies::new(config)),
        tls,
        refusals: Refusals::default(),
        drain_window: config.drain.window,
        shutdown,
    };
    tasks.spawn(server.services.gates.clone().sweep(server.shutdown.clone()));
    tasks.spawn(server.services.clients.clone().watch(server.shutdown.clone()));
    tasks.spawn(server.services.access.clone().watch(server.shutdown.clone()));
    tasks.spawn(server.engine.clone().watch(server.shutdown.clone()));
    tasks.spawn(server.readiness.stats.clone().watch(server.shutdown.clone()));
    if let Some(tls) = &server.tls {
        tasks.spawn(tls.clone().watch(server.shutdown.clone()));
    }
    for listener in listeners {
        tasks.spawn(server.clone().accept(listener));
    }
    (stop, tasks)
}

/// Waits for tasks, and cuts off those that take too long.
async fn join(tasks: &mut JoinSet<()>, what: &'static str) {
    let all = async { while tasks.join_next().await.is_some() {} };
    if tokio::time::timeout(JOIN_MAX, all).await.is_err() {
        tracing::warn!(what, "did not end in time, and was cut off");
        tasks.shutdown().await;
    }
}

/// Makes the data folder, and makes sure that no other hub uses it.
fn take_folder(folder: &Path) -> Result<File, StartError> {
    let at = |path: &Path| {
        let path = path.to_owned();
        move |source| StartError::Folder { path, source }
    };
    fs::create_dir_all(folder).map_err(at(folder))?;
    let path = folder.join("lock");
    let lock =
        File::options().create(true).truncate(false).write(true).open(&path).map_err(at(&path))?;
    match lock.try_lock() {
        Ok(()) => Ok(lock),
        Err(fs::TryLockError::Error(source)) => Err(StartError::Folder { path, source }),
        Err(fs::TryLockError::WouldBlock) => {
            let facts = HubFile::read(folder).ok();
            let owner = facts.map_or_else(String::new, |facts| {
                format!(" (process {}, {})", facts.pid, facts.addresses.join(", "))
            });
            Err(StartError::InUse { folder: folder.to_owned(), owner })
        }
    }
}

fn listen(addresses: &[SocketAddr]) -> Result<Vec<TcpListener>, StartError> {
    let mut listeners = Vec::new();
    for &address in addresses {
        let listener = listen_on(address);
        listeners.push(listener.map_err(|source| StartError::Listen { address, source })?);
    }
    Ok(listeners)
}

fn listen_on(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

fn local_addresses(listeners: &[TcpListener]) -> Result<Vec<SocketAddr>, StartError> {
    let address = |listener: &TcpListener| {
        let unknown = SocketAddr::from(([0, 0, 0, 0], 0));
        listener.local_addr().map_err(|source| StartError::Listen { address: unknown, source })
    };
    listeners.iter().map(address).collect()
}

/// The audit log, and the thread that writes it, where there is to be one.
fn open_audit(config: &Config, clock: &Clock) -> Result<(Audit, Option<AuditWriter>), StartError> {
    if !config.has_audit() {
        return Ok((Audit::off(), None));
    }
    let file = config.audit.file.clone().unwrap_or_else(|| config.data.join("audit.jsonl"));
    let bytes = config.audit.size_mib << 20;
    let files = AuditFiles { file: file.clone(), bytes, files: config.audit.files };
    let (audit, writer) = Audit::start(files, clock.clone())
        .map_err(|source| StartError::Folder { path: file, source })?;
    audit.note(Note::Started { version: env!("CARGO_PKG_VERSION"), pid: std::process::id() });
    Ok((audit, Some(writer)))
}

fn open_store(
    config: &Config,
    clock: &Clock,
    logged: mpsc::Sender<Vec<Arc<Logged>>>,
) -> Result<(Store, Kept), StartError> {
    let store_config = StoreConfig {
        folder: config.data.clone(),
        retention_age: config.retention.age,
        retention_bytes: config.retention.size_mib * 1024 * 1024,
        boards_bytes: config.layouts.size_mib * 1024 * 1024,
        clock: clock.clone(),
    };
    Ok(Store::open(store_config, logged)?)
}

/// Fills a feed with the findings of the last hour.
async fn recall(mut feed: Feed, services: &Services) -> Feed {
    let since_ms = services.clock.now_ms().saturating_sub(RECENT.as_millis() as u64);
    let recent =
        services.reader.entries_since(LogChannel::Findings, since_ms, FINDINGS_RECENT_MAX).await;
    match recent {
        Ok(recent) => recent.into_iter().for_each(|logged| feed.recall(&Arc::new(logged))),
        Err(error) => tracing::warn!(%error, "the findings of the last hour can't be read"),
    }
    feed
}

/// What the channels' task needs, with the newest entries of the log at hand.
async fn surroundings(
    feed: Feed,
    pruned: u64,
    services: &Services,
    watching: watch::Sender<Arc<BTreeSet<PluginName>>>,
) -> Surroundings {
    let recent = services.reader.entries_recent(RECENT_ENTRIES_MAX, RECENT_BYTES_MAX).await;
    let recent = recent.unwrap_or_else(|error| {
        tracing::warn!(%error, "the newest entries of the log can't be read");
        Vec::new()
    });
    let first = recent.first().map_or(feed.head, |first| first.offset - 1);
    Surroundings {
        feed,
        recent_floor: first.max(pruned),
        recent_bounds: RecentBounds::default(),
        recent,
        reader: services.reader.clone(),
        budget: services.gates.budget().clone(),
        audit: services.audit.clone(),
        watching,
    }
}

/// Takes each snapshot to the store, to the channels and to whoever looks.
fn publisher(
    store: &Arc<Store>,
    channels: Channels,
) -> (impl FnMut(Arc<Snapshot>) + Send + 'static, watch::Receiver<Arc<Snapshot>>) {
    let (newest, snapshot) = watch::channel(Arc::new(Snapshot::empty()));
    let store = Arc::downgrade(store);
    let publish = move |snapshot: Arc<Snapshot>| {
        if let Some(store) = store.upgrade() {
            // What the store has no room for it has counted.
            store.record(snapshot.clone());
        }
        channels.publish(snapshot.clone());
        newest.send_replace(snapshot);
    };
    (publish, snapshot)
}

fn hub_facts(config: &Config, kept: &Kept) -> Result<HubFacts, StartError> {
    Ok(HubFacts {
        name: format!("telltale-{}", &random_hex()?[..8]),
        version: env!("CARGO_PKG_VERSION"),
        tick: config.tick,
        heartbeat: config.heartbeat.interval,
        epoch: kept.epoch.clone(),
        admin_token: random_hex()?,
    })
}

/// 128 random bits.
fn random_hex() -> Result<String, StartError> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).map_err(|error| StartError::Random(error.to_string()))?;
    Ok(format!("{:032x}", u128::from_le_bytes(bytes)))
}

/// `hub.json` in the data folder: how the commands find a running hub.
#[derive(Debug, serde::Serialize, serde::Deserialize)]
pub struct HubFile {
    /// Where it listens.
    pub addresses: Vec<String>,
    /// Its process.
    pub pid: u32,
    /// The folder that it takes plugins from.
    pub plugins_folder: PathBuf,
    /// Allows what changes the hub.
    pub admin_token: String,
}

impl HubFile {
    /// Reads the file of the hub on a data folder.
    ///
    /// # Errors
    ///
    /// There is none, or it can't be read.
    pub fn read(folder: &Path) -> io::Result<Self> {
        let text = fs::read_to_string(folder.join("hub.json"))?;
        serde_json::from_str(&text).map_err(io::Error::other)
    }
}

fn write_facts(
    path: &Path,
    config: &Config,
    addresses: &[SocketAddr],
    admin_token: &str,
) -> io::Result<()> {
    let facts = HubFile {
        addresses: addresses.iter().map(ToString::to_string).collect(),
        pid: std::process::id(),
        plugins_folder: std::path::absolute(config.plugins_folder())?,
        admin_token: admin_token.to_owned(),
    };
    plugin::write_private(path, serde_json::to_string_pretty(&facts)?.as_bytes())
}
