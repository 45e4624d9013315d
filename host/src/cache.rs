//! Where plugins keep what they may lose: the store behind the `cache` import,
//! in the hub's memory or in a Redis.
//!
//! Each plugin has keys of its own. Shared keys are the store's as they stand:
//! in a Redis an application may have set them.

mod memory;
mod redis;
mod table;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::config::{CacheConfig, ConfigError};
use crate::model::PluginName;

use self::redis::Redis;
use table::{BYTES_MAX, KEYS_MAX, Table};

/// The longest key, in bytes.
const KEY_BYTES_MAX: usize = 256;
/// The longest value, in bytes.
const VALUE_BYTES_MAX: usize = 256 * 1024;
/// How long a value may live.
const TTL_MAX: Duration = Duration::from_secs(24 * 60 * 60);

/// The hub's one cache, from which each plugin gets its own. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Cache {
    backing: Backing,
    counters: Arc<CacheCounters>,
}

#[derive(Clone, Debug)]
enum Backing {
    /// With what several plugins share.
    Memory(Arc<Mutex<Table<Vec<u8>>>>),
    Redis(Arc<Redis>),
}

/// What plugins have done with the cache since the start.
#[derive(Debug, Default)]
pub struct CacheCounters {
    /// Times that a key was asked for.
    pub reads: AtomicU64,
    /// Of these, those that found a value.
    pub hits: AtomicU64,
    /// Values that were set or removed.
    pub writes: AtomicU64,
    /// Reads and writes that the store did not do: it was known to be gone, or
    /// said no.
    pub errors: AtomicU64,
    /// Reads and writes that took too long.
    pub timeouts: AtomicU64,
    /// 1 while the store is there, 0 while it is gone or slow.
    pub connected: AtomicU64,
}

/// Why the cache did not do it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum CacheError {
    /// The key is too short or too long.
    #[error("a key has 1 to {KEY_BYTES_MAX} bytes")]
    Key,
    /// The value is too long, or what stands under a shared key is.
    #[error("a value has at most {VALUE_BYTES_MAX} bytes")]
    Value,
    /// There is no room.
    #[error("a plugin has at most {KEYS_MAX} keys and {BYTES_MAX} bytes in the cache")]
    Full,
    /// The store is gone, slow, or says no: which of these.
    #[error("{0}")]
    Unavailable(String),
}

impl Cache {
    /// One in memory.
    #[must_use]
    pub fn memory() -> Self {
        let counters = Arc::<CacheCounters>::default();
        counters.connected.store(1, Ordering::Relaxed);
        Self { backing: Backing::Memory(Arc::default()), counters }
    }

    /// The one that is configured. A Redis may be gone: it is looked for until
    /// it is there. Needs a tokio runtime.
    ///
    /// # Errors
    ///
    /// `cache.url` is no address of a Redis. It is not shown: there may be a
    /// password in it.
    pub fn open(config: &CacheConfig) -> Result<Self, ConfigError> {
        let Some(address) = address(config)? else { return Ok(Self::memory()) };
        let counters = Arc::<CacheCounters>::default();
        let redis = Arc::new(Redis::open(address, counters.clone()));
        Ok(Self { backing: Backing::Redis(redis), counters })
    }

    /// Whether it can be opened.
    ///
    /// # Errors
    ///
    /// As [`Cache::open`].
    pub fn check(config: &CacheConfig) -> Result<(), ConfigError> {
        address(config).map(drop)
    }

    /// What is counted.
    #[must_use]
    pub fn counters(&self) -> Arc<CacheCounters> {
        self.counters.clone()
    }

    /// A plugin's part of it. In memory its own keys end with the last clone of
    /// this; in a Redis with their time.
    pub(crate) fn of(&self, plugin: &PluginName) -> PluginCache {
        let keys = match &self.backing {
            Backing::Memory(shared) => Keys::Memory(memory::Keys::new(shared.clone())),
            Backing::Redis(redis) => Keys::Redis(redis::Keys::new(redis.clone(), plugin)),
        };
        PluginCache { keys: Arc::new(keys), counters: self.counters.clone() }
    }
}

/// A plugin's part of the cache: keys of its own, and those that several
/// share. It outlives the plugin's instances. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct PluginCache {
    keys: Arc<Keys>,
    counters: Arc<CacheCounters>,
}

#[derive(Debug)]
enum Keys {
    Memory(memory::Keys),
    Redis(redis::Keys),
}

impl PluginCache {
    /// The value under a key. With `shared` it is the store's key as it stands,
    /// and where that is not there the plugin's own.
    ///
    /// # Errors
    ///
    /// [`CacheError`]; never [`CacheError::Full`].
    pub(crate) async fn get(&self, key: &str, shared: bool) -> Result<Option<Vec<u8>>, CacheError> {
        check_key(key)?;
        self.counters.reads.fetch_add(1, Ordering::Relaxed);
        let value = match &*self.keys {
            Keys::Memory(keys) => keys.get(key, shared),
            Keys::Redis(keys) => keys.get(key, shared).await?,
        };
        self.counters.hits.fetch_add(value.is_some().into(), Ordering::Relaxed);
        Ok(value)
    }

    /// Puts a value under a key for at most [`TTL_MAX`], or removes it where
    /// `ttl` is 0. With `shared` it is the store's key as it stands, otherwise
    /// the plugin's own.
    ///
    /// # Errors
    ///
    /// [`CacheError`]. What was under the key still is; only where the store
    /// was too slow it may be either.
    pub(crate) async fn set(
        &self,
        key: String,
        value: Vec<u8>,
        ttl: Duration,
        shared: bool,
    ) -> Result<(), CacheError> {
        check_key(&key)?;
        if value.len() > VALUE_BYTES_MAX {
            return Err(CacheError::Value);
        }
        let ttl = ttl.min(TTL_MAX);
        match &*self.keys {
            Keys::Memory(keys) => keys.set(key, value, ttl, shared)?,
            Keys::Redis(keys) => keys.set(&key, &value, ttl, shared).await?,
        }
        self.counters.writes.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }
}

/// Which Redis; none where it is to be in memory.
fn address(config: &CacheConfig) -> Result<Option<redis::Address>, ConfigError> {
    let url = config.url.expose();
    let address = (url != "memory").then(|| redis::Address::parse(url)).transpose();
    address.map_err(|why| {
        ConfigError::Invalid(format!(
            "cache.url is neither \"memory\" nor the address of a Redis, such as \
             \"redis://localhost:6379/0\": {why}"
        ))
    })
}

fn check_key(key: &str) -> Result<(), CacheError> {
    if key.is_empty() || key.len() > KEY_BYTES_MAX {
        return Err(CacheError::Key);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    const HOUR: Duration = Duration::from_secs(3600);

    async fn set(cache: &PluginCache, key: &str, value: &[u8]) -> Result<(), CacheError> {
        cache.set(key.to_owned(), value.to_vec(), HOUR, false).await
    }

    #[tokio::test]
    async fn a_value_is_there_until_its_time_has_run_out_or_it_is_removed() {
        let cache = Cache::memory().of(&"p".into());
        set(&cache, "a", b"1").await.unwrap();
        cache.set("b".into(), b"2".to_vec(), Duration::from_nanos(1), false).await.unwrap();
        assert_eq!(cache.get("a", false).await, Ok(Some(b"1".to_vec())));
        assert_eq!(cache.get("b", false).await, Ok(None));
        cache.set("a".into(), Vec::new(), Duration::ZERO, false).await.unwrap();
        assert_eq!(cache.get("a", false).await, Ok(None));
        let counted = |number: &AtomicU64| number.load(Ordering::Relaxed);
        let counters = &cache.counters;
        assert_eq!(
            [&counters.reads, &counters.hits, &counters.writes, &counters.errors].map(counted),
            [3, 1, 3, 0]
        );
        assert_eq!(counted(&counters.connected), 1);
    }

    #[tokio::test]
    async fn what_is_over_a_limit_is_refused_and_leaves_what_was_there() {
        let cache = Cache::memory().of(&"p".into());
        assert_eq!(cache.get("", false).await, Err(CacheError::Key));
        assert_eq!(set(&cache, &"k".repeat(257), b"").await, Err(CacheError::Key));
        set(&cache, "k", b"1").await.unwrap();
        let large = vec![0; VALUE_BYTES_MAX + 1];
        assert_eq!(set(&cache, "k", &large).await, Err(CacheError::Value));
        for i in 0..15 {
            set(&cache, &format!("{i}"), &large[2..]).await.unwrap();
        }
        assert_eq!(set(&cache, "k", &large[2..]).await, Err(CacheError::Full));
        assert_eq!(cache.get("k", false).await, Ok(Some(b"1".to_vec())));
    }

    #[tokio::test]
    async fn each_plugin_has_keys_of_its_own_and_reads_what_is_shared() {
        let cache = Cache::memory();
        let (writer, reader) = (cache.of(&"writer".into()), cache.of(&"reader".into()));
        set(&writer, "k", b"own").await.unwrap();
        assert_eq!(reader.get("k", true).await, Ok(None), "it is the writer's own");
        assert_eq!(writer.get("k", true).await, Ok(Some(b"own".to_vec())), "no other is there");
        writer.set("k".into(), b"for all".to_vec(), HOUR, true).await.unwrap();
        for plugin in [&writer, &reader] {
            assert_eq!(plugin.get("k", true).await, Ok(Some(b"for all".to_vec())));
        }
        assert_eq!(reader.get("k", false).await, Ok(None), "it was not granted");
        writer.set("k".into(), Vec::new(), Duration::ZERO, true).await.unwrap();
        assert_eq!(writer.get("k", true).await, Ok(Some(b"own".to_vec())));
    }

    #[tokio::test]
    async fn a_url_that_is_none_is_refused_without_showing_it() {
        for url in [
            "",
            "redis",
            "http://hunter2@localhost",
            "redis://:hunter2@",
            "redis://:hunter2@localhost:port",
            "redis://:hunter2@localhost/hunter2",
            "rediss://:hunter2@localhost/#insecure",
        ] {
            let toml = format!("[cache]\nurl = {url:?}\n");
            let config: Config = toml::from_str(&toml).unwrap();
            let error = Cache::open(&config.cache).unwrap_err().to_string();
            assert!(error.starts_with("cache.url is neither"), "{error}");
            assert!(!error.contains("hunter2"), "{error}");
        }
    }
}
