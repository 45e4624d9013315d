//! What plugins may call: `log`, `sql`, `cache`, `http`, `disk`, `events`, and
//! WASI.
//!
//! All of it is always linked. What the settings don't grant answers `denied`
//! with the line to add to them.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rand::SeedableRng;
use rand::rngs::StdRng;
use tracing::Level;
use wasmtime::component::{HasSelf, Linker, ResourceTable};
use wasmtime_wasi::{
    FsPerms, HostMonotonicClock, HostWallClock, WasiCtx, WasiCtxBuilder, WasiCtxView, WasiView,
};
use wasmtime_wasi_http::{WasiHttpCtx, WasiHttpCtxView, WasiHttpView};

use super::bindings::telltale::plugin::{cache, disk, events, http, log, sql, types};
use super::events::{Publisher, Publishing};
use super::http::{Connector, Hooks};
use super::limiter::Limiter;
use super::limits::Refused;
use super::meter::Meter;
use super::output::{LineStream, PluginLog};
use super::settings::{CacheGrant, Grant};
use crate::cache::{CacheError, PluginCache};
use crate::sql::{Databases, SqlError, Value};

/// The most WASI resources (open files, streams, timers, headers) that a plugin
/// may hold at once. The largest of them are lists of headers.
const RESOURCES_MAX: usize = 1024;

/// The most memory for one list of headers of `wasi:http`.
const FIELDS_BYTES_MAX: usize = 64 * 1024;

/// The most random bytes that a plugin gets in one call.
const RANDOM_BYTES_MAX: u64 = 64 * 1024;

/// What an instance's store holds for the host's side of its calls.
pub(crate) struct HostState {
    wasi: WasiCtx,
    table: ResourceTable,
    pub(super) limiter: Limiter,
    log: PluginLog,
    databases: Databases,
    cache: Cache,
    http: WasiHttpCtx,
    http_hooks: Hooks,
    disks: Vec<PathBuf>,
    pub(super) publishing: Publishing,
}

/// What a plugin is, and what outlives its instances: from this each of them
/// gets its host state.
#[derive(Debug)]
pub(crate) struct Surroundings {
    pub(crate) grant: Grant,
    pub(crate) memory_bytes_max: usize,
    /// How long a query on a database may take.
    pub(crate) query_max: Duration,
    pub(crate) log: PluginLog,
    /// What it publishes by.
    pub(crate) publisher: Arc<Publisher>,
    /// The plugin's part of the cache.
    pub(crate) cache: PluginCache,
    /// What was over the plugin's limits.
    pub(crate) refused: Refused,
    /// A detector's clock: it shows the time of the tick that is judged.
    pub(crate) virtual_now_ns: Option<Arc<AtomicU64>>,
}

impl Surroundings {
    /// The host's side of a new instance, whose calls `meter` measures.
    ///
    /// # Errors
    ///
    /// A folder that is granted can't be opened.
    pub(crate) fn host_state(&self, meter: Meter) -> Result<HostState, String> {
        let mut wasi = WasiCtxBuilder::new();
        wasi.stdout(LineStream::new(self.log.clone(), Level::INFO))
            .stderr(LineStream::new(self.log.clone(), Level::WARN))
            .allow_tcp(false)
            .allow_udp(false)
            .max_random_size(RANDOM_BYTES_MAX);
        for folder in &self.grant.read {
            let guest = folder.to_string_lossy();
            wasi.preopened_dir(folder, &*guest, FsPerms::ReadOnly).map_err(|error| {
                format!("[grant] read: {} cannot be opened: {error}", folder.display())
            })?;
        }
        if let Some(now_ns) = &self.virtual_now_ns {
            // The same seed for every instance: a run can be repeated exactly.
            wasi.wall_clock(TickClock(now_ns.clone()))
                .monotonic_clock(TickClock(now_ns.clone()))
                .secure_random(StdRng::seed_from_u64(0))
                .insecure_random(StdRng::seed_from_u64(1))
                .insecure_random_seed(0);
        }
        let mut table = ResourceTable::new();
        table.set_max_capacity(RESOURCES_MAX);
        let mut http = WasiHttpCtx::new();
        http.set_field_size_limit(FIELDS_BYTES_MAX);
        let connector = Arc::new(Connector::new(self.grant.http.clone(), self.refused.clone()));
        Ok(HostState {
            wasi: wasi.build(),
            table,
            limiter: Limiter::new(self.memory_bytes_max),
            log: self.log.clone(),
            databases: Databases::new(&self.grant.sql, self.query_max),
            cache: Cache {
                grant: self.grant.cache.clone(),
                keys: self.cache.clone(),
                refused: self.refused.clone(),
            },
            http,
            http_hooks: Hooks { connector, meter, log: self.log.clone() },
            disks: self.grant.disk.clone(),
            publishing: Publishing::new(self.publisher.clone()),
        })
    }
}

/// Links everything that a plugin may import.
///
/// # Errors
///
/// A name is linked twice: a defect of this file.
pub(crate) fn link(linker: &mut Linker<HostState>) -> wasmtime::Result<()> {
    wasmtime_wasi::p2::add_to_linker_async(linker)?;
    wasmtime_wasi_http::p2::add_only_http_to_linker_async(linker)?;
    log::add_to_linker::<_, HasSelf<_>>(linker, |state: &mut HostState| state)?;
    sql::add_to_linker::<_, HasSelf<_>>(linker, |state: &mut HostState| state)?;
    cache::add_to_linker::<_, HasSelf<_>>(linker, |state: &mut HostState| state)?;
    http::add_to_linker::<_, HasSelf<_>>(linker, |state: &mut HostState| state)?;
    disk::add_to_linker::<_, HasSelf<_>>(linker, |state: &mut HostState| state)?;
    events::add_to_linker::<_, HasSelf<_>>(linker, |state: &mut HostState| state)?;
    types::add_to_linker::<_, HasSelf<_>>(linker, |state: &mut HostState| state)
}

impl WasiView for HostState {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        WasiCtxView { ctx: &mut self.wasi, table: &mut self.table }
    }
}

impl WasiHttpView for HostState {
    fn http(&mut self) -> WasiHttpCtxView<'_> {
        let Self { http, http_hooks, table, .. } = self;
        WasiHttpCtxView { hooks: http_hooks, table, ctx: http }
    }
}

impl types::Host for HostState {}

impl log::Host for HostState {
    async fn log(&mut self, level: log::Level, message: String) {
        let level = match level {
            log::Level::Debug => Level::DEBUG,
            log::Level::Info => Level::INFO,
            log::Level::Warn => Level::WARN,
            log::Level::Error => Level::ERROR,
        };
        self.log.line(level, &message);
    }
}

impl sql::Host for HostState {
    async fn query(
        &mut self,
        database: String,
        statement: String,
        parameters: Vec<sql::Value>,
    ) -> Result<sql::Rows, sql::Error> {
        let parameters = parameters.into_iter().map(value_in).collect();
        let patience = self.http_hooks.meter.patience();
        let answer = self.databases.query(&database, statement, parameters, patience).await;
        let rows = answer.map_err(|error| match error {
            SqlError::Denied(words) => sql::Error::Denied(words),
            SqlError::Unavailable(words) => sql::Error::Unavailable(words),
            SqlError::Statement(words) => sql::Error::Statement(words),
            SqlError::Timeout(_) => sql::Error::Timeout,
        })?;
        let values = rows.values.into_iter().map(value_out).collect();
        Ok(sql::Rows { columns: rows.columns, values, truncated: rows.truncated })
    }
}

fn value_in(value: sql::Value) -> Value {
    match value {
        sql::Value::Null => Value::Null,
        sql::Value::Integer(number) => Value::Integer(number),
        sql::Value::Real(number) => Value::Real(number),
        sql::Value::Text(text) => Value::Text(text),
        sql::Value::Blob(bytes) => Value::Blob(bytes),
    }
}

fn value_out(value: Value) -> sql::Value {
    match value {
        Value::Null => sql::Value::Null,
        Value::Integer(number) => sql::Value::Integer(number),
        Value::Real(number) => sql::Value::Real(number),
        Value::Text(text) => sql::Value::Text(text),
        Value::Blob(bytes) => sql::Value::Blob(bytes),
    }
}

/// What a plugin may do with its part of the cache.
struct Cache {
    grant: CacheGrant,
    keys: PluginCache,
    refused: Refused,
}

impl Cache {
    fn granted(&self) -> Result<(), cache::Error> {
        self.grant.own.then_some(()).ok_or_else(|| {
            cache::Error::Denied("add `cache = true` under [grant] in its settings".to_owned())
        })
    }
}

impl cache::Host for HostState {
    async fn get(&mut self, key: String) -> Result<Option<Vec<u8>>, cache::Error> {
        let Cache { grant, keys, .. } = &self.cache;
        self.cache.granted()?;
        keys.get(&key, grant.shared.contains(&key)).await.map_err(cache_error)
    }

    async fn set(&mut self, key: String, value: Vec<u8>, ttl_ms: u64) -> Result<(), cache::Error> {
        let Cache { grant, keys, refused } = &self.cache;
        self.cache.granted()?;
        let shared = grant.shared_write && grant.shared.contains(&key);
        let set = keys.set(key, value, Duration::from_millis(ttl_ms), shared).await;
        set.map_err(|error| {
            let error = cache_error(error);
            if matches!(error, cache::Error::TooLarge(_)) {
                refused.add(|counts| counts.cache += 1);
            }
            error
        })
    }
}

fn cache_error(error: CacheError) -> cache::Error {
    let words = error.to_string();
    match error {
        CacheError::Key | CacheError::Value | CacheError::Full => cache::Error::TooLarge(words),
        CacheError::Unavailable(_) => cache::Error::Unavailable(words),
    }
}

impl http::Host for HostState {
    async fn fetch(&mut self, request: http::Request) -> Result<http::Response, http::Error> {
        let Hooks { connector, meter, .. } = &self.http_hooks;
        connector.fetch(request, meter.patience()).await
    }
}

impl disk::Host for HostState {
    async fn usage(&mut self, path: String) -> Result<disk::FileSystem, disk::Error> {
        let asked = PathBuf::from(path);
        if !self.disks.iter().any(|granted| plainly_under(&asked, granted)) {
            return Err(disk::Error::Denied(format!(
                "add `disk = [{:?}]` under [grant] in its settings",
                asked.display().to_string()
            )));
        }
        // On another thread: a network file system may take its time.
        let shown = asked.display().to_string();
        let stat = tokio::task::spawn_blocking(move || rustix::fs::statvfs(&asked)).await;
        let stat = match stat {
            Ok(Ok(stat)) => stat,
            Ok(Err(error)) => return Err(disk::Error::Unavailable(format!("{shown}: {error}"))),
            Err(_) => return Err(disk::Error::Unavailable(format!("{shown}: given up"))),
        };
        Ok(disk::FileSystem {
            size: stat.f_blocks.saturating_mul(stat.f_frsize),
            free: stat.f_bfree.saturating_mul(stat.f_frsize),
            available: stat.f_bavail.saturating_mul(stat.f_frsize),
            inodes: stat.f_files,
            inodes_free: stat.f_ffree,
        })
    }
}

impl events::Host for HostState {
    async fn publish(&mut self, event: events::Event) -> Result<(), events::Error> {
        self.publishing.publish(event)
    }
}

/// Whether `path` lies in `folder` without taking a way out of it.
fn plainly_under(path: &Path, folder: &Path) -> bool {
    let plain = |path: &Path| {
        path.components().all(|part| !matches!(part, std::path::Component::ParentDir))
    };
    path.starts_with(folder) && plain(path)
}

/// A clock that shows the time of the tick.
struct TickClock(Arc<AtomicU64>);

impl HostWallClock for TickClock {
    fn resolution(&self) -> Duration {
        Duration::from_nanos(1)
    }

    fn now(&self) -> Duration {
        Duration::from_nanos(self.0.load(Ordering::Relaxed))
    }
}

impl HostMonotonicClock for TickClock {
    fn resolution(&self) -> u64 {
        1
    }

    fn now(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}
