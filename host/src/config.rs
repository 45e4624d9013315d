//! `telltale.toml`, the environment and the flags: what the operator wants.
//!
//! A key is taken from the file, then from `TELLTALE_…`, then from a flag; the
//! last one wins. A key that is not known is an error.

use std::fmt::Debug;
use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;

#[cfg(test)]
mod tests;

/// What every variable in the environment begins with.
const ENV_PREFIX: &str = "TELLTALE_";

/// More threads than this are a slip of the finger.
const WORKERS_MAX: usize = 1024;
/// So is more memory than this, a TiB.
const OUTBOX_MIB_MAX: u64 = 1 << 20;

/// All that can be configured. Every key is optional.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Where to listen; all dialects on each. Default `127.0.0.1:8765`.
    pub listen: Vec<SocketAddr>,
    /// How long a tick is: 50 ms to 1 h. Default 1 s.
    #[serde(deserialize_with = "duration")]
    pub tick: Duration,
    /// Database, compile cache and plugin states. Default `telltale-data`.
    pub data: PathBuf,
    /// The plugins folder. Default `plugins` in the data folder.
    pub plugins: Option<PathBuf>,
    /// Threads that serve clients: 1 to 1024. Default the number of processors.
    pub workers: Option<usize>,
    /// Who may come in.
    pub auth: AuthConfig,
    /// Web pages that may connect.
    pub cors: CorsConfig,
    /// How long samples are kept.
    pub retention: RetentionConfig,
    /// What clients may use up.
    pub limits: LimitsConfig,
    /// How a client that is no longer there is found.
    pub heartbeat: HeartbeatConfig,
    /// How clients are sent away when the hub stops.
    pub drain: DrainConfig,
    /// What the hub shows to prove who it is.
    pub tls: TlsConfig,
}

/// `[auth]`
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AuthConfig {
    /// Serve other machines though nobody has to say who they are. Default no.
    pub allow_open: bool,
}

/// `[cors]`
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CorsConfig {
    /// Origins of web pages that may connect beside those on loopback, such as
    /// `https://dashboard.example`. Default none.
    pub origins: Vec<String>,
}

/// `[retention]`
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RetentionConfig {
    /// Samples older than this go. Default 14 d, at least 1 min.
    #[serde(deserialize_with = "duration")]
    pub age: Duration,
    /// When samples need more than this many MiB, the oldest go. Default 1024,
    /// at least 16.
    pub size_mib: u64,
}

/// `[limits]`
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LimitsConfig {
    /// Connections at once, over all listeners. Default 10,000.
    pub connections: usize,
    /// MiB of memory for what waits to be sent, of all clients together: 16 to
    /// 1,048,576. Default 256.
    pub outbox_mib: u64,
}

/// `[heartbeat]`
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct HeartbeatConfig {
    /// A client that has been silent for this long is pinged; one that stays
    /// so for twice as long is gone. 1 s to 1 h, default 25 s.
    #[serde(deserialize_with = "duration")]
    pub interval: Duration,
}

/// `[drain]`
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DrainConfig {
    /// Over how long the clients of a hub that stops are told to come back, so
    /// that they don't all do so at once. 0 to 10 min, default 5 s.
    #[serde(deserialize_with = "duration")]
    pub window: Duration,
}

/// `[tls]`: both files or neither. With them every listener speaks TLS.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TlsConfig {
    /// The certificate, and those that vouch for it after it, as PEM.
    pub certificate_file: Option<PathBuf>,
    /// Its private key, as PEM.
    pub key_file: Option<PathBuf>,
}

impl TlsConfig {
    /// The certificate's file and the key's, if TLS is wanted.
    ///
    /// # Errors
    ///
    /// Only one of them is named.
    pub fn files(&self) -> Result<Option<(&Path, &Path)>, ConfigError> {
        let (named, missing) = match (&self.certificate_file, &self.key_file) {
            (None, None) => return Ok(None),
            (Some(certificate), Some(key)) => return Ok(Some((certificate, key))),
            (Some(certificate), None) => (("certificate_file", certificate), "key_file"),
            (None, Some(key)) => (("key_file", key), "certificate_file"),
        };
        let (key, file) = named;
        Err(ConfigError::Invalid(format!(
            "tls.{key} = {file:?} needs tls.{missing} beside it, or neither may be there"
        )))
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: vec![SocketAddr::from(([127, 0, 0, 1], 8765))],
            tick: Duration::from_secs(1),
            data: PathBuf::from("telltale-data"),
            plugins: None,
            workers: None,
            auth: AuthConfig::default(),
            cors: CorsConfig::default(),
            retention: RetentionConfig::default(),
            limits: LimitsConfig::default(),
            heartbeat: HeartbeatConfig::default(),
            drain: DrainConfig::default(),
            tls: TlsConfig::default(),
        }
    }
}

impl Default for RetentionConfig {
    fn default() -> Self {
        Self { age: Duration::from_secs(14 * 24 * 60 * 60), size_mib: 1024 }
    }
}

impl Default for LimitsConfig {
    fn default() -> Self {
        Self { connections: 10_000, outbox_mib: 256 }
    }
}

impl Default for HeartbeatConfig {
    fn default() -> Self {
        Self { interval: Duration::from_secs(25) }
    }
}

impl Default for DrainConfig {
    fn default() -> Self {
        Self { window: Duration::from_secs(5) }
    }
}

/// Why a configuration can't be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// The file can't be read.
    #[error("{path}: {words}")]
    Unreadable {
        /// Which file.
        path: PathBuf,
        /// Why.
        words: String,
    },
    /// The file says what can't be understood.
    #[error("{path}: {words}")]
    File {
        /// Which file.
        path: PathBuf,
        /// The line, the key, and what is wrong.
        words: String,
    },
    /// A variable says what can't be understood.
    #[error("{variable}: {words}")]
    Environment {
        /// Which variable.
        variable: String,
        /// What is wrong.
        words: String,
    },
    /// What is asked for can't be.
    #[error("{0}")]
    Invalid(String),
}

impl Config {
    /// Reads the file, if one is named, and the variables of `environment`
    /// that begin with `TELLTALE_`. What it says is checked by
    /// [`Config::check`], after the flags have had their say.
    ///
    /// # Errors
    ///
    /// [`ConfigError`], which names the line and the key, or the variable.
    pub fn load(
        file: Option<&Path>,
        environment: impl IntoIterator<Item = (String, String)>,
    ) -> Result<Self, ConfigError> {
        let mut table = toml::Table::new();
        if let Some(path) = file {
            let refuse = |words| ConfigError::File { path: path.to_owned(), words };
            let text = std::fs::read_to_string(path).map_err(|error| ConfigError::Unreadable {
                path: path.to_owned(),
                words: error.to_string(),
            })?;
            // Once into the types, for errors that know their line.
            toml::from_str::<Self>(&text).map_err(|error| refuse(toml_error(&text, &error)))?;
            table = toml::from_str(&text).map_err(|error| refuse(toml_error(&text, &error)))?;
        }
        for (variable, value) in environment {
            let Some(key) = variable.strip_prefix(ENV_PREFIX) else { continue };
            let refuse = |words| ConfigError::Environment { variable: variable.clone(), words };
            set(&mut table, key, &value).map_err(&refuse)?;
            // One after the other, so that an error is this variable's.
            Self::deserialize(table.clone()).map_err(|error| refuse(error.message().to_owned()))?;
        }
        Self::deserialize(table).map_err(|error| ConfigError::Invalid(error.message().to_owned()))
    }

    /// Checks what types can't.
    ///
    /// # Errors
    ///
    /// The key, its value and its limit.
    pub fn check(&self) -> Result<(), ConfigError> {
        let refuse = |words: String| Err(ConfigError::Invalid(words));
        if self.listen.is_empty() {
            return refuse("listen names no address".to_owned());
        }
        let hour = Duration::from_secs(3600);
        within("tick", self.tick, Duration::from_millis(50)..=hour, "50 ms to 1 h")?;
        if let Some(workers) = self.workers {
            within("workers", workers, 1..=WORKERS_MAX, "1 to 1024")?;
        }
        if self.retention.age < Duration::from_secs(60) {
            return refuse(format!(
                "retention.age = {:?} is less than a minute",
                self.retention.age
            ));
        }
        if self.retention.size_mib < 16 {
            return refuse(format!(
                "retention.size_mib = {} is less than 16",
                self.retention.size_mib
            ));
        }
        if self.limits.connections == 0 {
            return refuse("limits.connections = 0 lets nobody in".to_owned());
        }
        let outbox_mib = 16..=OUTBOX_MIB_MAX;
        within("limits.outbox_mib", self.limits.outbox_mib, outbox_mib, "16 to 1048576")?;
        let beat = Duration::from_secs(1)..=hour;
        within("heartbeat.interval", self.heartbeat.interval, beat, "1 s to 1 h")?;
        let window = Duration::ZERO..=Duration::from_secs(600);
        within("drain.window", self.drain.window, window, "0 s to 10 min")?;
        self.tls.files()?;
        if let Some(open) = self.listen.iter().find(|address| !is_loopback(address.ip()))
            && !self.auth.allow_open
        {
            return refuse(format!(
                "listen = {open} would let other machines in, and nobody has to say who they are: \
                 listen on 127.0.0.1, or set auth.allow_open = true"
            ));
        }
        Ok(())
    }

    /// The plugins folder.
    #[must_use]
    pub fn plugins_folder(&self) -> PathBuf {
        self.plugins.clone().unwrap_or_else(|| self.data.join("plugins"))
    }
}

/// Refuses a value that is not in its range, which `words` tell.
fn within<T: PartialOrd + Debug>(
    key: &str,
    value: T,
    range: RangeInclusive<T>,
    words: &str,
) -> Result<(), ConfigError> {
    if range.contains(&value) {
        return Ok(());
    }
    Err(ConfigError::Invalid(format!("{key} = {value:?} is not from {words}")))
}

/// Whether an address is this machine's own, and no other's.
#[must_use]
pub fn is_loopback(ip: IpAddr) -> bool {
    ip.to_canonical().is_loopback()
}

/// Puts a variable's value where its name says: `RETENTION_SIZE_MIB` is
/// `retention.size_mib`.
fn set(table: &mut toml::Table, key: &str, value: &str) -> Result<(), String> {
    const SECTIONS: [&str; 7] =
        ["auth", "cors", "retention", "limits", "heartbeat", "drain", "tls"];
    const LISTS: [&str; 2] = ["listen", "cors.origins"];
    let key = key.to_ascii_lowercase();
    let section = SECTIONS.iter().find_map(|section| {
        Some((*section, key.strip_prefix(section)?.strip_prefix('_')?.to_owned()))
    });
    let path = section.as_ref().map_or_else(|| key.clone(), |(s, rest)| format!("{s}.{rest}"));
    let value = if LISTS.contains(&&*path) {
        let items = value.split(',').map(|item| toml::Value::from(item.trim()));
        toml::Value::Array(items.collect())
    } else {
        // A number or a truth value as itself, all else as text.
        match value.parse::<toml::Value>() {
            Ok(plain @ (toml::Value::Integer(_) | toml::Value::Boolean(_))) => plain,
            _ => toml::Value::from(value),
        }
    };
    match section {
        None => {
            table.insert(key, value);
        }
        Some((section, rest)) => {
            let entry = table.entry(section).or_insert_with(|| toml::Table::new().into());
            let inner = entry.as_table_mut().ok_or_else(|| format!("{section} is no table"))?;
            inner.insert(rest, value);
        }
    }
    Ok(())
}

/// What is wrong with a TOML text: the line first, then the words.
pub(crate) fn toml_error(text: &str, error: &toml::de::Error) -> String {
    let words = error.message().lines().next().unwrap_or_default();
    match error.span() {
        Some(span) => {
            let before = &text.as_bytes()[..span.start.min(text.len())];
            let line = before.iter().filter(|byte| **byte == b'\n').count() + 1;
            let key = text.lines().nth(line - 1).unwrap_or_default().trim();
            format!("line {line}: {words} (`{key}`)")
        }
        None => words.to_owned(),
    }
}

fn duration<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    let text = String::deserialize(deserializer)?;
    humantime::parse_duration(&text).map_err(|error| {
        serde::de::Error::custom(format!(
            "{text:?} is no duration such as \"500ms\" or \"14d\": {error}"
        ))
    })
}
