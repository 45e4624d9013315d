//! `telltale.toml`, the environment and the flags: what the operator wants.
//!
//! A key is taken from the file, then from `TELLTALE_…`, then from a flag; the
//! last one wins. A key that is not known is an error.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ipnet::IpNet;
use serde::Deserialize;

mod findings;
mod hooks;
mod notify;

pub(crate) use findings::globs;
pub use findings::{Daily, FindingsConfig, FindingsRule, MuteConfig, Span};
pub use hooks::{GithubConfig, HooksConfig};
pub use notify::NotifyConfig;

#[cfg(test)]
mod tests;

/// What every variable in the environment begins with.
const ENV_PREFIX: &str = "TELLTALE_";

/// More threads than this are a slip of the finger.
const WORKERS_MAX: usize = 1024;
/// So is more memory than this, a TiB.
const OUTBOX_MIB_MAX: u64 = 1 << 20;
/// Faster than one a nanosecond nothing can be counted.
const RATE_MAX: u32 = 1_000_000_000;
/// The largest batch of events must fit.
const PUBLISH_BURST_MIN: u32 = 100;

/// All that can be configured. Every key is optional.
#[derive(Clone, Debug, PartialEq, Deserialize)]
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
    /// Who stands between clients and the hub.
    pub proxy: ProxyConfig,
    /// Where plugins keep what they may lose.
    pub cache: CacheConfig,
    /// What the clients of the routing dialect get.
    pub routing: RoutingConfig,
    /// How much boards may hold.
    pub layouts: LayoutsConfig,
    /// Which scores of detectors become findings.
    pub findings: FindingsConfig,
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
    /// Other systems that tell the hub what has happened.
    pub hooks: HooksConfig,
    /// Other systems that are told of findings, by their names.
    pub notify: BTreeMap<String, NotifyConfig>,
    /// Whether it is kept who did what.
    pub audit: AuditConfig,
}

/// `[auth]`
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AuthConfig {
    /// Whether clients have to say who they are. Default `none`.
    pub mode: AuthMode,
    /// The secret of tokens of HS256, at least 32 bytes. Default none; better
    /// in a file.
    pub secret: Option<Secret>,
    /// The same in a file; the end of its last line is no part of it.
    pub secret_file: Option<PathBuf>,
    /// The public key of tokens of RS256, ES256 or EdDSA, as PEM. All files of
    /// keys are read again when they change.
    pub public_key_file: Option<PathBuf>,
    /// Several keys, as a JWKS (RFC 7517). A token names its key with `kid`.
    pub jwks_file: Option<PathBuf>,
    /// Issuers (`iss`) that are believed, one or several. Default any.
    #[serde(deserialize_with = "one_or_several")]
    pub issuer: Vec<String>,
    /// Audiences (`aud`) that this hub is one of. Default none: then a token
    /// that names one is not meant for this hub.
    #[serde(deserialize_with = "one_or_several")]
    pub audience: Vec<String>,
    /// How far the clocks of hub and issuer may be apart: 0 to 5 min, default
    /// 30 s.
    #[serde(deserialize_with = "duration")]
    pub leeway: Duration,
    /// Claims that may name the user; the first that is there does. Default
    /// `["sub", "user_id"]`.
    #[serde(deserialize_with = "one_or_several")]
    pub user_claim: Vec<String>,
    /// Globs of the rooms of tokens without `rooms`. Default none.
    #[serde(deserialize_with = "one_or_several")]
    pub default_rooms: Vec<String>,
    /// Dialects whose clients need no token in mode `jwt`, and then only read.
    /// Default none.
    #[serde(deserialize_with = "one_or_several")]
    pub anonymous: Vec<String>,
    /// Serve other machines though nobody has to say who they are. Default no.
    pub allow_open: bool,
    /// Whether clients of the sync dialect are believed that say who they are
    /// (`?userId=`) and do not prove it. Default only where nobody has to prove
    /// it, and only this machine is served.
    pub insecure_identity: Option<bool>,
}

/// Whether clients have to say who they are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AuthMode {
    /// They don't.
    #[default]
    None,
    /// With a JSON Web Token.
    Jwt,
}

/// A text that is shown to nobody.
#[derive(Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    /// The text itself.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl From<String> for Secret {
    fn from(text: String) -> Self {
        Self(text)
    }
}

impl Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "({} bytes)", self.0.len())
    }
}

impl AuthConfig {
    /// The least bytes of a secret: as many as its hash has (RFC 7518, 3.2).
    pub const SECRET_BYTES_MIN: usize = 32;
    /// The dialects that clients may speak without a token.
    const DIALECTS: [&str; 4] = ["native", "skills", "socketio", "routing"];

    fn check(&self) -> Result<(), ConfigError> {
        let refuse = |words: String| Err(ConfigError::Invalid(words));
        let keys = [
            ("secret", self.secret.is_some()),
            ("secret_file", self.secret_file.is_some()),
            ("public_key_file", self.public_key_file.is_some()),
            ("jwks_file", self.jwks_file.is_some()),
        ];
        let key = keys.into_iter().find_map(|(key, is_there)| is_there.then_some(key));
        match (self.mode, key) {
            (AuthMode::Jwt, None) => {
                return refuse(
                    "auth.mode = \"jwt\" needs a key to check tokens with: set auth.secret_file \
                     (make one with `openssl rand -hex 32`), auth.public_key_file or auth.jwks_file"
                        .to_owned(),
                );
            }
            (AuthMode::None, Some(key)) => {
                return refuse(format!(
                    "auth.{key} is there, and auth.mode is \"none\", so that nobody is asked for a \
                     token: set auth.mode = \"jwt\", or take auth.{key} away"
                ));
            }
            _ => {}
        }
        if let Some(secret) = &self.secret {
            if self.secret_file.is_some() {
                return refuse(
                    "auth.secret and auth.secret_file are both there: one is enough".into(),
                );
            }
            if secret.0.len() < Self::SECRET_BYTES_MIN {
                return refuse(format!(
                    "auth.secret has {} bytes, and HS256 needs at least {}: make one with `openssl \
                     rand -hex 32`",
                    secret.0.len(),
                    Self::SECRET_BYTES_MIN
                ));
            }
        }
        let skew = Duration::ZERO..=Duration::from_secs(300);
        within("auth.leeway", self.leeway, skew, "0 s to 5 min")?;
        if self.user_claim.is_empty() {
            return refuse("auth.user_claim names no claim: the usual one is \"sub\"".to_owned());
        }
        let unknown = |dialect: &&String| !Self::DIALECTS.contains(&dialect.as_str());
        if let Some(dialect) = self.anonymous.iter().find(unknown) {
            return refuse(format!(
                "auth.anonymous = {dialect:?} is no dialect that clients may speak without a token: \
                 these are {}",
                Self::DIALECTS.join(", ")
            ));
        }
        Ok(())
    }
}

impl Default for AuthConfig {
    fn default() -> Self {
        Self {
            mode: AuthMode::None,
            secret: None,
            secret_file: None,
            public_key_file: None,
            jwks_file: None,
            issuer: Vec::new(),
            audience: Vec::new(),
            leeway: Duration::from_secs(30),
            user_claim: vec!["sub".to_owned(), "user_id".to_owned()],
            default_rooms: Vec::new(),
            anonymous: Vec::new(),
            allow_open: false,
            insecure_identity: None,
        }
    }
}

/// `[cors]`
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CorsConfig {
    /// Origins of web pages that may connect beside those on loopback, such as
    /// `https://dashboard.example`: scheme, host and port as the browser sends
    /// them. There is no wildcard. Default none.
    pub origins: Vec<String>,
    /// Whether these pages may send what the browser keeps for the hub, such as
    /// the cookies of a proxy that keeps a client on one hub. Default yes.
    pub credentials: bool,
}

/// `[proxy]`
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ProxyConfig {
    /// Addresses and networks, such as `10.0.0.0/8`, of proxies whose
    /// `X-Forwarded-For` is believed. Name proxies, and no network that clients
    /// are in. Default none.
    #[serde(deserialize_with = "networks")]
    pub trusted: Vec<IpNet>,
}

/// `[cache]`
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CacheConfig {
    /// `memory`, or the address of a Redis: `redis://host:6379/0`, with TLS
    /// `rediss://…`. There may be a password in it. Default `memory`.
    pub url: Secret,
}

impl Default for CacheConfig {
    fn default() -> Self {
        Self { url: Secret("memory".to_owned()) }
    }
}

/// `[routing]`
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RoutingConfig {
    /// How often a client gets the current metrics: 100 ms to 1 h. Default 5 s.
    #[serde(deserialize_with = "duration")]
    pub interval: Duration,
}

impl Default for RoutingConfig {
    fn default() -> Self {
        Self { interval: Duration::from_secs(5) }
    }
}

/// `[layouts]`
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LayoutsConfig {
    /// A client of the sync dialect that has been silent for this long is pinged;
    /// one that stays so for twice as long is gone. 1 s to 1 h, default 30 s,
    /// which is what its clients are used to.
    #[serde(deserialize_with = "duration")]
    pub heartbeat: Duration,
    /// MiB that the widgets and layouts of all boards may have together, as they
    /// stand: 1 to 1024. They are kept in memory too. Default 64.
    pub size_mib: u64,
}

impl Default for LayoutsConfig {
    fn default() -> Self {
        Self { heartbeat: Duration::from_secs(30), size_mib: 64 }
    }
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
    /// Connections at once that are being served, over all listeners. Default
    /// 10,000.
    pub connections: usize,
    /// Connections at once that are being made, or wait between two requests:
    /// 16 to 65,536. They have places of their own, and where all are taken the
    /// oldest gives way to the next. Default 1024.
    pub handshakes: usize,
    /// Connections at once from one address. Those of this machine and those of
    /// trusted proxies don't count, but the clients behind a proxy do, each by
    /// its own address. Default 1000: a company may be behind one address.
    pub connections_per_address: usize,
    /// Connections at once of one user. Who has not shown a token has no such
    /// limit. Default 100: a service with dozens of workers may have one token.
    pub connections_per_user: usize,
    /// Messages a second from one connection, on average. Default 1000, many
    /// times what a busy dashboard sends.
    pub messages_per_second: u32,
    /// Messages that may come at once, after a silence. Default 5000.
    pub messages_burst: u32,
    /// Events a second that one user may publish, on average; without a token,
    /// one address. Default 1000, so that no publisher has more than a part of
    /// what the log can write.
    pub publishes_per_second: u32,
    /// Events that may come at once, after a silence: at least 100, which is
    /// the largest batch. Default 2000.
    pub publishes_burst: u32,
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

/// `[audit]`
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AuditConfig {
    /// Whether there is an audit log. Default where clients have to say who they
    /// are.
    pub enabled: Option<bool>,
    /// Where it is written; older files have `.1`, `.2`, … at the end. Default
    /// `audit.jsonl` in the data folder.
    pub file: Option<PathBuf>,
    /// A file of so many MiB makes room for the next: 1 to 1024. Default 16.
    pub size_mib: usize,
    /// Files that are kept, the one that is written included: 2 to 1000.
    /// Default 8.
    pub files: usize,
}

impl Default for AuditConfig {
    fn default() -> Self {
        Self { enabled: None, file: None, size_mib: 16, files: 8 }
    }
}

impl AuditConfig {
    fn check(&self) -> Result<(), ConfigError> {
        within("audit.size_mib", self.size_mib, 1..=1024, "1 to 1024")?;
        within("audit.files", self.files, 2..=1000, "2 to 1000")
    }
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
            proxy: ProxyConfig::default(),
            cache: CacheConfig::default(),
            routing: RoutingConfig::default(),
            layouts: LayoutsConfig::default(),
            findings: FindingsConfig::default(),
            retention: RetentionConfig::default(),
            limits: LimitsConfig::default(),
            heartbeat: HeartbeatConfig::default(),
            drain: DrainConfig::default(),
            tls: TlsConfig::default(),
            hooks: HooksConfig::default(),
            notify: BTreeMap::new(),
            audit: AuditConfig::default(),
        }
    }
}

impl Default for CorsConfig {
    fn default() -> Self {
        Self { origins: Vec::new(), credentials: true }
    }
}

impl CorsConfig {
    /// Refuses what no browser would ever send as an origin.
    fn check(&self) -> Result<(), ConfigError> {
        for origin in &self.origins {
            let refuse = |words: &str| {
                Err(ConfigError::Invalid(format!("cors.origins: {origin:?} {words}")))
            };
            let rest = origin.strip_prefix("https://").or(origin.strip_prefix("http://"));
            let Some(rest) = rest.map(|rest| rest.strip_suffix('/').unwrap_or(rest)) else {
                return refuse("is no origin such as \"https://dashboard.example\"");
            };
            if rest.contains('*') {
                return refuse("has a wildcard, and there is none: name each origin");
            }
            if rest.is_empty() || rest.contains(['/', '?', '#', '@', ' ']) {
                return refuse("is more than scheme, host and port");
            }
        }
        Ok(())
    }
}

impl LimitsConfig {
    fn check(&self) -> Result<(), ConfigError> {
        if self.connections == 0 {
            let words = "limits.connections = 0 lets nobody in";
            return Err(ConfigError::Invalid(words.to_owned()));
        }
        within("limits.handshakes", self.handshakes, 16..=65_536, "16 to 65536")?;
        let many = 1..=usize::MAX;
        let words = "1 up";
        within(
            "limits.connections_per_address",
            self.connections_per_address,
            many.clone(),
            words,
        )?;
        within("limits.connections_per_user", self.connections_per_user, many, words)?;
        let rate = 1..=RATE_MAX;
        for (key, value) in [
            ("limits.messages_per_second", self.messages_per_second),
            ("limits.messages_burst", self.messages_burst),
            ("limits.publishes_per_second", self.publishes_per_second),
        ] {
            within(key, value, rate.clone(), "1 to 1000000000")?;
        }
        let burst = PUBLISH_BURST_MIN..=RATE_MAX;
        within("limits.publishes_burst", self.publishes_burst, burst, "100 to 1000000000")?;
        let outbox_mib = 16..=OUTBOX_MIB_MAX;
        within("limits.outbox_mib", self.outbox_mib, outbox_mib, "16 to 1048576")
    }
}

impl Default for RetentionConfig {
    fn default() -> Self {
        Self { age: Duration::from_secs(14 * 24 * 60 * 60), size_mib: 1024 }
    }
}

impl Default for LimitsConfig {
    fn default() -> Self {
        Self {
            connections: 10_000,
            handshakes: 1024,
            connections_per_address: 1000,
            connections_per_user: 100,
            messages_per_second: 1000,
            messages_burst: 5000,
            publishes_per_second: 1000,
            publishes_burst: 2000,
            outbox_mib: 256,
        }
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
            Self::deserialize(table.clone()).map_err(|error| {
                let words = error.message();
                let hidden = key.starts_with("NOTIFY_");
                refuse(if hidden { without_quoted(words) } else { words.to_owned() })
            })?;
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
        self.findings.check()?;
        self.limits.check()?;
        self.cors.check()?;
        let interval = Duration::from_millis(100)..=hour;
        within("routing.interval", self.routing.interval, interval, "100 ms to 1 h")?;
        within("layouts.size_mib", self.layouts.size_mib, 1..=1024, "1 to 1024")?;
        let beat = Duration::from_secs(1)..=hour;
        within("heartbeat.interval", self.heartbeat.interval, beat.clone(), "1 s to 1 h")?;
        within("layouts.heartbeat", self.layouts.heartbeat, beat, "1 s to 1 h")?;
        let window = Duration::ZERO..=Duration::from_secs(600);
        within("drain.window", self.drain.window, window, "0 s to 10 min")?;
        self.tls.files()?;
        self.hooks.check()?;
        notify::check(&self.notify)?;
        self.auth.check()?;
        self.audit.check()?;
        if let Some(open) = self.listen.iter().find(|address| !is_loopback(address.ip()))
            && self.auth.mode == AuthMode::None
            && !self.auth.allow_open
        {
            return refuse(format!(
                "listen = {open} would let other machines in, and nobody has to say who they are: \
                 listen on 127.0.0.1, ask for tokens with auth.mode = \"jwt\", or set \
                 auth.allow_open = true"
            ));
        }
        Ok(())
    }

    /// Whether clients are believed that say who they are and do not prove it.
    #[must_use]
    pub fn believes_identities(&self) -> bool {
        let is_open = self.auth.mode == AuthMode::None
            && self.listen.iter().all(|address| is_loopback(address.ip()));
        self.auth.insecure_identity.unwrap_or(is_open)
    }

    /// Whether there is to be an audit log.
    #[must_use]
    pub fn has_audit(&self) -> bool {
        self.audit.enabled.unwrap_or(self.auth.mode == AuthMode::Jwt)
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
    const SECTIONS: [&str; 14] = [
        "auth",
        "cors",
        "proxy",
        "cache",
        "routing",
        "layouts",
        "findings",
        "retention",
        "limits",
        "heartbeat",
        "drain",
        "tls",
        "audit",
        "hooks.github",
    ];
    const LISTS: [&str; 9] = [
        "listen",
        "cors.origins",
        "proxy.trusted",
        "auth.issuer",
        "auth.audience",
        "auth.user_claim",
        "auth.default_rooms",
        "auth.anonymous",
        "hooks.github.secret",
    ];
    let key = key.to_ascii_lowercase();
    // A receiver's name has no `_` in it.
    let receiver = key.strip_prefix("notify_").and_then(|rest| rest.split_once('_'));
    let receiver = receiver.map(|(name, rest)| (format!("notify.{name}"), rest.to_owned()));
    let section = SECTIONS.iter().find_map(|section| {
        let prefix = section.replace('.', "_");
        Some(((*section).to_owned(), key.strip_prefix(&*prefix)?.strip_prefix('_')?.to_owned()))
    });
    let section = section.or(receiver);
    let path = section.as_ref().map_or_else(|| key.clone(), |(s, rest)| format!("{s}.{rest}"));
    let of_receiver = || {
        let (_, rest) = path.strip_prefix("notify.")?.split_once('.')?;
        ["secret", "detectors", "series", "group_by"].contains(&rest).then_some(())
    };
    let value = if LISTS.contains(&&*path) || of_receiver().is_some() {
        let items = value.split(',').map(|item| toml::Value::from(item.trim()));
        toml::Value::Array(items.collect())
    } else {
        // A number or a truth value as itself, all else as text.
        match value.parse::<toml::Value>() {
            Ok(plain @ (toml::Value::Integer(_) | toml::Value::Boolean(_))) => plain,
            // Only here: elsewhere a text may look like one.
            Ok(share @ toml::Value::Float(_))
                if path.starts_with("findings.") || is_score_of_receiver(&path) =>
            {
                share
            }
            _ => toml::Value::from(value),
        }
    };
    match section {
        None => {
            table.insert(key, value);
        }
        Some((section, rest)) => {
            let mut inner = table;
            for name in section.split('.') {
                let entry = inner.entry(name).or_insert_with(|| toml::Table::new().into());
                inner = entry.as_table_mut().ok_or_else(|| format!("{section} is no table"))?;
            }
            inner.insert(rest, value);
        }
    }
    Ok(())
}

/// As [`toml_error`], of a text that whoever is told may have no right to read.
pub(crate) fn toml_error_unquoted(text: &str, error: &toml::de::Error) -> String {
    let words = without_address(error.message().lines().next().unwrap_or_default());
    match error.span() {
        Some(span) => {
            let before = &text.as_bytes()[..span.start.min(text.len())];
            let line = before.iter().filter(|byte| **byte == b'\n').count() + 1;
            format!("line {line}: {words}")
        }
        None => words,
    }
}

/// What is wrong with a TOML text: the line first, then the words.
pub(crate) fn toml_error(text: &str, error: &toml::de::Error) -> String {
    let words = without_address(error.message().lines().next().unwrap_or_default());
    match error.span() {
        Some(span) => {
            let before = &text.as_bytes()[..span.start.min(text.len())];
            let line = before.iter().filter(|byte| **byte == b'\n').count() + 1;
            let key = text.lines().nth(line - 1).unwrap_or_default().trim();
            // What is secret is not to be in a log; a receiver's headers may have any
            // name, and an address's path may be its only secret.
            let of_receiver = is_of_receiver(text, line);
            let is_name =
                |name: &str| name.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-.".contains(&b));
            let hidden = |name: &str| of_receiver || name.contains("secret");
            let key = match key.split_once('=') {
                Some((name, _)) if of_receiver && !is_name(name.trim()) => "…",
                Some((name, value)) if hidden(name) || has_address(value) => name.trim(),
                None if of_receiver || has_address(key) => "…",
                _ => key,
            };
            let words = if of_receiver { without_quoted(&words) } else { words };
            format!("line {line}: {words} (`{key}`)")
        }
        None => words,
    }
}

/// Whether the line, counted from 1, belongs to a receiver of findings.
fn is_of_receiver(text: &str, line: usize) -> bool {
    let plain = |line: &str| line.replace([' ', '\t', '"', '\''], "");
    let lines: Vec<String> = text.lines().take(line).map(plain).collect();
    let section = lines.iter().rfind(|line| line.starts_with('['));
    section.is_some_and(|section| section.trim_start_matches('[').starts_with("notify"))
        || lines.last().is_some_and(|line| line.starts_with("notify"))
}

/// Whether a key is the least score that a receiver is told.
fn is_score_of_receiver(path: &str) -> bool {
    path.starts_with("notify.") && path.ends_with(".score")
}

/// Words without what is quoted in them.
fn without_quoted(words: &str) -> String {
    let outside = |(at, part): (usize, &str)| if at % 2 == 0 { part } else { "…" }.to_owned();
    words.split('"').enumerate().map(outside).collect::<Vec<_>>().join("\"")
}

/// Whether there may be an address with a password in a value.
fn has_address(value: &str) -> bool {
    value.contains("://") || value.contains('@')
}

/// Words up to the first address that may have a password in it.
pub(crate) fn without_address(words: &str) -> String {
    let end = words.match_indices("://").map(|(at, _)| at).find(|at| {
        let before = &words[..*at];
        !before.ends_with("http") && !before.ends_with("https")
    });
    end.map_or_else(|| words.to_owned(), |end| format!("{}://…", &words[..end]))
}

fn duration<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    let text = String::deserialize(deserializer)?;
    humantime::parse_duration(&text).map_err(|error| {
        serde::de::Error::custom(format!(
            "{text:?} is no duration such as \"500ms\" or \"14d\": {error}"
        ))
    })
}

/// A list, or a text that stands for a list of one.
fn one_or_several<'de, D: serde::Deserializer<'de>>(
    deserializer: D,
) -> Result<Vec<String>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged, expecting = "expected a text, or a list of texts")]
    enum Said {
        One(String),
        Several(Vec<String>),
    }
    Ok(match Said::deserialize(deserializer)? {
        Said::One(text) => vec![text],
        Said::Several(list) => list,
    })
}

/// Networks, or single addresses.
fn networks<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Vec<IpNet>, D::Error> {
    let texts = Vec::<String>::deserialize(deserializer)?;
    let network = |text: &String| {
        let parsed = text.parse::<IpNet>().or_else(|_| text.parse::<IpAddr>().map(IpNet::from));
        parsed.map_err(|_| {
            serde::de::Error::custom(format!(
                "{text:?} is no address such as \"10.0.0.7\" and no network such as \"10.0.0.0/8\""
            ))
        })
    };
    texts.iter().map(network).collect()
}
