//! `[notify.NAME]`: other systems that are told of findings.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;

use super::hooks::one_or_two;
use super::{ConfigError, Secret, duration, one_or_several, within};

/// The most receivers: each has a task, and memory for what waits for it.
pub(super) const RECEIVERS_MAX: usize = 32;
/// The longest name of one; it is part of paths and of series' labels.
const NAME_BYTES_MAX: usize = 32;
/// The most headers that may be set.
const HEADERS_MAX: usize = 32;
/// What an hour is the most of.
const HOUR: Duration = Duration::from_secs(3600);

/// `[notify.NAME]`: a receiver of webhooks. Only `url` has to be there.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct NotifyConfig {
    /// Where deliveries are sent: `https://…` or `http://…`. It may be an
    /// address of this machine or its network. Shown to nobody beyond its host.
    pub url: Secret,
    /// The secret that deliveries are signed with, by the Standard Webhooks
    /// specification: 24 to 64 random bytes in base64, with or without `whsec_`
    /// before it. Two while it is replaced; then each delivery has two
    /// signatures. Default none, and then nothing is signed; better in a file.
    #[serde(deserialize_with = "one_or_two")]
    pub secret: Vec<Secret>,
    /// The same in a file, each secret on a line of its own. Read at the start.
    pub secret_file: Option<PathBuf>,
    /// Headers that each delivery has beside its own. Shown to nobody.
    pub headers: BTreeMap<String, Secret>,
    /// The authority that the receiver's certificate is by, as PEM. Default
    /// those that the machine trusts.
    pub ca_file: Option<PathBuf>,
    /// Globs of the detectors whose findings are told. Default all.
    #[serde(deserialize_with = "one_or_several")]
    pub detectors: Vec<String>,
    /// Globs of the names of series whose findings are told. Default all.
    #[serde(deserialize_with = "one_or_several")]
    pub series: Vec<String>,
    /// Findings that opened with a lower score are not told: 0 to 1, default 0,
    /// all that open.
    pub score: f64,
    /// Whether the end of a finding is told too. Default yes.
    pub closed: bool,
    /// What findings have in common that are told together: `detector`,
    /// `plugin`, `name`, `type`, `series`, `label.KEY`. Default nothing: all
    /// findings are one group.
    #[serde(deserialize_with = "one_or_several")]
    pub group_by: Vec<String>,
    /// How long a group waits for more after its first finding: 0 to 1 h,
    /// default 10 s.
    #[serde(deserialize_with = "duration")]
    pub group_wait: Duration,
    /// The least time between two deliveries of one group: 0 to 1 d, default
    /// 1 min.
    #[serde(deserialize_with = "duration")]
    pub group_interval: Duration,
    /// The most findings in a delivery; of more the strongest are told and the
    /// others counted: 1 to 1000, default 100.
    pub findings: usize,
    /// The most deliveries in any minute; what is due meanwhile is put together:
    /// 1 to 600, default 20.
    pub per_minute: usize,
    /// How long an answer may take, connecting included: 100 ms to 60 s, default
    /// 10 s.
    #[serde(deserialize_with = "duration")]
    pub timeout: Duration,
    /// How often a delivery is tried again before it is given up as a dead
    /// letter: 0 to 100, default 10, which is about a quarter of an hour.
    pub retries: u32,
    /// The first pause before that, twice as long each time: 100 ms to 1 h,
    /// default 1 s.
    #[serde(deserialize_with = "duration")]
    pub retry_first: Duration,
    /// The longest of these pauses: 100 ms to 1 h, default 5 min.
    #[serde(deserialize_with = "duration")]
    pub retry_most: Duration,
    /// The dashboard's address, for the delivery's `link`. Default none.
    pub link: Option<String>,
}

/// A score is compared with itself only as it was written.
impl Eq for NotifyConfig {}

impl Default for NotifyConfig {
    fn default() -> Self {
        Self {
            url: Secret::default(),
            secret: Vec::new(),
            secret_file: None,
            headers: BTreeMap::new(),
            ca_file: None,
            detectors: vec!["*".to_owned()],
            series: vec!["*".to_owned()],
            score: 0.0,
            closed: true,
            group_by: Vec::new(),
            group_wait: Duration::from_secs(10),
            group_interval: Duration::from_secs(60),
            findings: 100,
            per_minute: 20,
            timeout: Duration::from_secs(10),
            retries: 10,
            retry_first: Duration::from_secs(1),
            retry_most: Duration::from_secs(300),
            link: None,
        }
    }
}

impl NotifyConfig {
    /// The most secrets at a time.
    pub const SECRETS_MAX: usize = 2;

    /// Checks what types can't. What the URL, the secrets and the globs say is
    /// checked by who uses them.
    fn check(&self, name: &str) -> Result<(), ConfigError> {
        let refuse = |words: String| Err(ConfigError::Invalid(format!("notify.{name}{words}")));
        if self.url.expose().is_empty() {
            return refuse(".url is missing: where are its deliveries to be sent?".to_owned());
        }
        if !self.secret.is_empty() && self.secret_file.is_some() {
            return refuse(".secret and .secret_file are both there: one is enough".to_owned());
        }
        if self.secret.len() > Self::SECRETS_MAX {
            let words = format!(".secret has {} secrets", self.secret.len());
            return refuse(format!("{words}: while it is replaced there may be two, else one"));
        }
        if self.headers.len() > HEADERS_MAX {
            let count = self.headers.len();
            return refuse(format!(".headers has {count} of them, and {HEADERS_MAX} is the limit"));
        }
        for word in &self.group_by {
            let label = word.strip_prefix("label.").is_some_and(|key| !key.is_empty());
            if !label && !["detector", "plugin", "name", "type", "series"].contains(&&**word) {
                return refuse(format!(
                    ".group_by: {word:?} is none of detector, plugin, name, type, series and \
                     label.KEY"
                ));
            }
        }
        let key = |key: &str| format!("notify.{name}.{key}");
        within(&key("score"), self.score, 0.0..=1.0, "0 to 1")?;
        within(&key("group_wait"), self.group_wait, Duration::ZERO..=HOUR, "0 s to 1 h")?;
        let day = Duration::ZERO..=24 * HOUR;
        within(&key("group_interval"), self.group_interval, day, "0 s to 1 d")?;
        within(&key("findings"), self.findings, 1..=1000, "1 to 1000")?;
        within(&key("per_minute"), self.per_minute, 1..=600, "1 to 600")?;
        let least = Duration::from_millis(100);
        within(&key("timeout"), self.timeout, least..=HOUR / 60, "100 ms to 60 s")?;
        within(&key("retries"), self.retries, 0..=100, "0 to 100")?;
        within(&key("retry_first"), self.retry_first, least..=HOUR, "100 ms to 1 h")?;
        within(&key("retry_most"), self.retry_most, least..=HOUR, "100 ms to 1 h")
    }
}

/// Checks all receivers, and their names.
pub(super) fn check(receivers: &BTreeMap<String, NotifyConfig>) -> Result<(), ConfigError> {
    if receivers.len() > RECEIVERS_MAX {
        return Err(ConfigError::Invalid(format!(
            "notify has {} receivers, and {RECEIVERS_MAX} is the limit",
            receivers.len()
        )));
    }
    for (name, receiver) in receivers {
        let legal = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        if !(1..=NAME_BYTES_MAX).contains(&name.len()) || !name.bytes().all(legal) {
            return Err(ConfigError::Invalid(format!(
                "notify.{name:?} is no name: it is of small letters, digits and `-`, and at most \
                 {NAME_BYTES_MAX} of them"
            )));
        }
        receiver.check(name)?;
    }
    Ok(())
}
