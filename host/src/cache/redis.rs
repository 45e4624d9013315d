//! The cache in a Redis, beside what an application has there.
//!
//! A task holds the connection and asks once a second whether it still answers.
//! Plugins are given the connection only while it does: where Redis is gone or
//! slow they are told so at once, and nobody waits for it to come back.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use redis::aio::MultiplexedConnection;
use redis::io::tcp::TcpSettings;
use redis::{
    AsyncConnectionConfig, Client, ConnectionAddr, ConnectionInfo, FromRedisValue, Pipeline,
    RedisError, RedisResult,
};
use tokio::sync::{Notify, watch};
use tokio::time::timeout;
use tokio_util::task::AbortOnDropHandle;

use super::table::Table;
use super::{CacheCounters, CacheError, VALUE_BYTES_MAX};
use crate::model::PluginName;

/// How long a plugin waits for an answer: a collector that asks for three keys
/// is still in time for its tick, which waits up to 100 ms. On one network a
/// Redis answers within a millisecond.
const OPERATION_MAX: Duration = Duration::from_millis(20);

/// How long it may take to connect, and to answer whether it is there. Nobody
/// waits for that.
const ANSWER_MAX: Duration = Duration::from_secs(1);

/// How often it is asked whether it is there.
const ASK_EVERY: Duration = Duration::from_secs(1);

/// How long until it is tried again: often enough to be back within a second.
const RETRY_AFTER: Duration = Duration::from_millis(250);

/// How often it is told that it is gone, at most.
const TELL_EVERY: Duration = Duration::from_secs(60);

/// A Redis, which may be gone. Dropping it lets go of it.
#[derive(Debug)]
pub(super) struct Redis {
    /// Absent while it is gone or slow.
    connection: watch::Receiver<Option<MultiplexedConnection>>,
    /// Wakes the keeper: something went wrong.
    trouble: Arc<Notify>,
    counters: Arc<CacheCounters>,
    _keeper: AbortOnDropHandle<()>,
}

/// Why there is no answer.
enum Trouble {
    Gone,
    Slow,
    /// It said no.
    Refused(RedisError),
}

/// Where a Redis is, and who asks it.
pub(super) struct Address(Client);

impl Address {
    /// # Errors
    ///
    /// It is none: why, without the password that may be in it.
    pub(super) fn parse(url: &str) -> Result<Self, String> {
        let info: ConnectionInfo = url.parse().map_err(|error: RedisError| error.to_string())?;
        if matches!(info.addr(), ConnectionAddr::TcpTls { insecure: true, .. }) {
            return Err("a connection that checks no certificate is not made".to_owned());
        }
        // Without it what is sent may wait for the answer to what was sent before.
        let info = info.set_tcp_settings(TcpSettings::default().set_nodelay(true));
        Client::open(info).map(Self).map_err(|error| error.to_string())
    }
}

impl Redis {
    /// Begins to look for the Redis at this address.
    pub(super) fn open(Address(client): Address, counters: Arc<CacheCounters>) -> Self {
        if matches!(client.get_connection_info().addr(), ConnectionAddr::TcpTls { .. }) {
            // The client takes the process's; an error means that there is one.
            let _ = rustls::crypto::ring::default_provider().install_default();
        }
        let (given, connection) = watch::channel(None);
        let trouble = Arc::new(Notify::new());
        let keeper = Keeper {
            client,
            given,
            trouble: trouble.clone(),
            counters: counters.clone(),
            told: Told::default(),
        };
        let keeper = AbortOnDropHandle::new(tokio::spawn(keeper.run()));
        Self { connection, trouble, counters, _keeper: keeper }
    }

    /// Sends commands together, and waits for their answers as long as a plugin
    /// may.
    async fn ask<T: FromRedisValue>(&self, commands: &Pipeline) -> Result<T, Trouble> {
        let connection = self.connection.borrow().clone();
        let Some(mut connection) = connection else {
            self.counters.errors.fetch_add(1, Ordering::Relaxed);
            return Err(Trouble::Gone);
        };
        match timeout(OPERATION_MAX, commands.query_async(&mut connection)).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(error)) => {
                self.counters.errors.fetch_add(1, Ordering::Relaxed);
                if error.is_io_error() || error.is_unrecoverable_error() {
                    self.trouble.notify_one();
                    return Err(Trouble::Gone);
                }
                Err(Trouble::Refused(error))
            }
            Err(_) => {
                self.counters.timeouts.fetch_add(1, Ordering::Relaxed);
                self.trouble.notify_one();
                Err(Trouble::Slow)
            }
        }
    }
}

impl From<Trouble> for CacheError {
    fn from(trouble: Trouble) -> Self {
        Self::Unavailable(match trouble {
            Trouble::Gone => "the cache's Redis is not there, or too slow".to_owned(),
            Trouble::Slow => {
                format!("the cache's Redis took more than {} ms", OPERATION_MAX.as_millis())
            }
            Trouble::Refused(error) => format!("the cache's Redis says no: {error}"),
        })
    }
}

/// Connects, and looks after the connection.
struct Keeper {
    client: Client,
    given: watch::Sender<Option<MultiplexedConnection>>,
    trouble: Arc<Notify>,
    counters: Arc<CacheCounters>,
    told: Told,
}

impl Keeper {
    async fn run(mut self) {
        loop {
            let why = match self.connect().await {
                Ok(connection) => self.look_after(connection).await,
                Err(why) => why,
            };
            self.give(None);
            self.told.gone(&self.client, &why);
            tokio::time::sleep(RETRY_AFTER).await;
        }
    }

    /// A connection that answers.
    async fn connect(&self) -> Result<MultiplexedConnection, String> {
        // The limits are this file's own.
        let config =
            AsyncConnectionConfig::new().set_connection_timeout(None).set_response_timeout(None);
        let connect = self.client.get_multiplexed_async_connection_with_config(&config);
        let mut connection = in_time(connect).await?;
        ping(&mut connection).await?;
        Ok(connection)
    }

    /// Gives a connection to the plugins for as long as it answers; says why it
    /// does no more.
    async fn look_after(&mut self, mut connection: MultiplexedConnection) -> String {
        self.told.back(&self.client);
        self.give(Some(&connection));
        loop {
            if timeout(ASK_EVERY, self.trouble.notified()).await.is_ok() {
                self.give(None);
            }
            loop {
                let asked = Instant::now();
                if let Err(why) = ping(&mut connection).await {
                    return why;
                }
                if asked.elapsed() <= OPERATION_MAX {
                    break;
                }
                self.give(None);
                tokio::time::sleep(RETRY_AFTER).await;
            }
            self.give(Some(&connection));
        }
    }

    fn give(&self, connection: Option<&MultiplexedConnection>) {
        self.counters.connected.store(connection.is_some().into(), Ordering::Relaxed);
        self.given.send_replace(connection.cloned());
    }
}

async fn ping(connection: &mut MultiplexedConnection) -> Result<(), String> {
    in_time(redis::cmd("PING").exec_async(connection)).await
}

async fn in_time<T>(answer: impl Future<Output = RedisResult<T>>) -> Result<T, String> {
    match timeout(ANSWER_MAX, answer).await {
        Ok(answer) => answer.map_err(|error| error.to_string()),
        Err(_) => Err(format!("no answer within {} s", ANSWER_MAX.as_secs())),
    }
}

/// What the log says of it: not each time that it goes and comes.
#[derive(Default)]
struct Told {
    gone_at: Option<Instant>,
    back: bool,
}

impl Told {
    fn gone(&mut self, client: &Client, why: &str) {
        if self.gone_at.is_none_or(|at| at.elapsed() >= TELL_EVERY) {
            let address = client.get_connection_info().addr();
            tracing::warn!(%address, why, "the cache's Redis is gone: plugins go on without it");
            *self = Self { gone_at: Some(Instant::now()), back: false };
        }
    }

    fn back(&mut self, client: &Client) {
        if !self.back {
            let address = client.get_connection_info().addr();
            tracing::info!(%address, "the cache's Redis is there");
            self.back = true;
        }
    }
}

/// A plugin's part of a Redis.
#[derive(Debug)]
pub(super) struct Keys {
    redis: Arc<Redis>,
    /// What its own keys begin with.
    prefix: String,
    /// What it has set since the hub was started, by the keys in Redis. What a
    /// hub before this one has set goes within a day.
    account: Mutex<Table<()>>,
}

impl Keys {
    pub(super) fn new(redis: Arc<Redis>, plugin: &PluginName) -> Self {
        // No plugin's name has a colon in it.
        Self { redis, prefix: format!("telltale:{plugin}:"), account: Mutex::default() }
    }

    fn own(&self, key: &str) -> String {
        format!("{}{key}", self.prefix)
    }

    pub(super) async fn get(&self, key: &str, shared: bool) -> Result<Option<Vec<u8>>, CacheError> {
        let own = self.own(key);
        let keys = if shared { vec![key, &own] } else { vec![&*own] };
        let mut commands = Pipeline::new();
        // Whether it is there and what it is must be of one moment. The last
        // byte is one too many: such a value is too long, and no more of it is
        // read.
        commands.atomic().ignore_errors();
        for key in keys {
            commands.cmd("EXISTS").arg(key);
            commands.cmd("GETRANGE").arg(key).arg(0).arg(VALUE_BYTES_MAX);
        }
        let answers: Vec<RedisResult<redis::Value>> = self.redis.ask(&commands).await?;
        let mut answers = answers.into_iter();
        while let (Some(exists), Some(value)) = (answers.next(), answers.next()) {
            let read = || Ok((bool::from_redis_value(exists?)?, Vec::from_redis_value(value?)?));
            let (exists, value): (bool, Vec<u8>) = read().map_err(|error: RedisError| {
                self.redis.counters.errors.fetch_add(1, Ordering::Relaxed);
                CacheError::from(Trouble::Refused(error))
            })?;
            if value.len() > VALUE_BYTES_MAX {
                return Err(CacheError::Value);
            }
            if exists {
                return Ok(Some(value));
            }
        }
        Ok(None)
    }

    pub(super) async fn set(
        &self,
        key: &str,
        value: &[u8],
        ttl: Duration,
        shared: bool,
    ) -> Result<(), CacheError> {
        let place = if shared { key.to_owned() } else { self.own(key) };
        let mut commands = Pipeline::new();
        if ttl.is_zero() {
            commands.cmd("DEL").arg(&place);
        } else {
            self.account(|account| account.make_room(&place, value.len()))?;
            // What is left of a millisecond is none to Redis.
            let ttl_ms = u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX).max(1);
            commands.cmd("SET").arg(&place).arg(value).arg("PX").arg(ttl_ms);
        }
        let answer = self.redis.ask::<()>(&commands).await;
        // One that was slow may have done it.
        if matches!(answer, Ok(()) | Err(Trouble::Slow)) {
            self.account(|account| account.put(place, (), value.len(), ttl));
        }
        Ok(answer?)
    }

    fn account<T>(&self, with: impl FnOnce(&mut Table<()>) -> T) -> T {
        with(&mut self.account.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
