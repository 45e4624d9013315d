//! `[hooks]`: other systems that tell the hub what has happened.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::Deserialize;

use super::{ConfigError, Secret};
use crate::model::Room;

/// `[hooks]`
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct HooksConfig {
    /// GitHub's webhooks, at `/v1/hooks/github` and `/webhooks/github`.
    pub github: GithubConfig,
}

/// `[hooks.github]`: nothing is there without a secret.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct GithubConfig {
    /// The webhook's secret, at least 16 bytes; two while it is replaced. Default
    /// none; better in a file.
    #[serde(deserialize_with = "one_or_two")]
    pub secret: Vec<Secret>,
    /// The same in a file, each secret on a line of its own. Read at the start.
    pub secret_file: Option<PathBuf>,
    /// Project ids by `owner/repository`. One that isn't there is its own id.
    pub projects: BTreeMap<String, String>,
    /// User ids by login, whose rooms are told of what they do. Default none.
    pub users: BTreeMap<String, String>,
}

impl GithubConfig {
    /// The most secrets at a time.
    pub const SECRETS_MAX: usize = 2;
    /// The least bytes of a secret: 128 bits of randomness have as many.
    pub const SECRET_BYTES_MIN: usize = 16;
}

impl HooksConfig {
    /// Checks what types can't.
    pub(super) fn check(&self) -> Result<(), ConfigError> {
        let refuse = |words: String| Err(ConfigError::Invalid(words));
        let GithubConfig { secret, secret_file, projects, users } = &self.github;
        if !secret.is_empty() && secret_file.is_some() {
            return refuse(
                "hooks.github.secret and hooks.github.secret_file are both there: one is enough"
                    .to_owned(),
            );
        }
        if secret.len() > GithubConfig::SECRETS_MAX {
            return refuse(format!(
                "hooks.github.secret has {} secrets: one is enough, and while it is replaced there \
                 may be {}",
                secret.len(),
                GithubConfig::SECRETS_MAX
            ));
        }
        let least = GithubConfig::SECRET_BYTES_MIN;
        if let Some(short) = secret.iter().find(|secret| secret.expose().len() < least) {
            return refuse(format!(
                "hooks.github.secret has {} bytes, and at least {least} are needed: make one with \
                 `openssl rand -hex 32`",
                short.expose().len()
            ));
        }
        for (table, kind, ids) in [("projects", "project", projects), ("users", "user", users)] {
            for (name, id) in ids {
                if let Err(broken) = Room::new(&format!("{kind}:{id}")) {
                    return refuse(format!("hooks.github.{table}.{name:?} = {id:?}: {broken}"));
                }
            }
        }
        if let Some(name) = projects.keys().find(|name| !name.contains('/')) {
            return refuse(format!(
                "hooks.github.projects.{name:?} names no repository: it is \"owner/repository\""
            ));
        }
        Ok(())
    }
}

/// A list, or a text that stands for a list of one.
pub(super) fn one_or_two<'de, D: serde::Deserializer<'de>>(
    deserializer: D,
) -> Result<Vec<Secret>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged, expecting = "expected a text, or a list of texts")]
    enum Said {
        One(Secret),
        Several(Vec<Secret>),
    }
    Ok(match Said::deserialize(deserializer)? {
        Said::One(secret) => vec![secret],
        Said::Several(list) => list,
    })
}
