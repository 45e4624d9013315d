//! What a token says, once it is known to be genuine.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;
use serde_json::Value;

use super::globs::GLOBS_MAX;
use super::identity::{ADMIN, ANONYMOUS, Identity, Layouts, PLUGIN, Publish};
use super::{Globs, Refused};
use crate::model::Room;

/// The longest name of a user, so that it fits into a room's.
const USER_BYTES_MAX: usize = 128;
/// The last time that can be written down: in the year 2554, as nanoseconds.
const TIME_MS_MAX: u64 = u64::MAX / 1_000_000;

/// The claims that the hub knows; those that it doesn't are somebody else's.
#[derive(Debug, Deserialize)]
pub(super) struct Claims {
    exp: Option<f64>,
    nbf: Option<f64>,
    rooms: Option<Vec<String>>,
    publish: Option<Vec<PublishClaim>>,
    read: Option<Vec<String>>,
    layouts: Option<LayoutsClaim>,
    admin: Option<bool>,
    #[serde(flatten)]
    others: BTreeMap<String, Value>,
}

/// Types that may be published, or such types and the rooms that they may go to.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum PublishClaim {
    Types(String),
    Rule(PublishRule),
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct PublishRule {
    types: Vec<String>,
    rooms: Option<Vec<String>>,
}

/// Boards that may be read, and boards that may be written.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct LayoutsClaim {
    #[serde(default)]
    read: Vec<String>,
    #[serde(default)]
    write: Vec<String>,
}

impl LayoutsClaim {
    fn rights(&self) -> Result<Layouts, String> {
        Ok(Layouts { read: Globs::new(&self.read)?, write: Globs::new(&self.write)? })
    }
}

/// How claims are read.
#[derive(Debug)]
pub(super) struct Reading {
    /// Claims that may name the user; the first that is there does.
    pub(super) user_claim: Vec<String>,
    /// The rooms of tokens that name none.
    pub(super) default_rooms: Globs,
    /// How far the clocks of hub and issuer may be apart.
    pub(super) leeway: Duration,
}

impl Reading {
    /// Who shows a token with these claims.
    pub(super) fn identity(&self, claims: Claims, now_ms: u64) -> Result<Identity, Refused> {
        let expires_ms = self.expiry(&claims, now_ms)?;
        let user = self.user(&claims.others)?;
        let bad = |why| move |error: String| Refused::logged(why, &error);
        let rooms = match claims.rooms {
            Some(rooms) => Globs::new(&rooms).map_err(bad("its rooms are no globs"))?,
            None => self.default_rooms.clone(),
        };
        let read = claims.read.map(|read| Globs::new(&read)).transpose();
        let publish = publish(claims.publish.unwrap_or_default());
        let layouts = claims.layouts.map(|claim| claim.rights()).transpose();
        Ok(Identity {
            user: user.into(),
            is_authenticated: true,
            rooms,
            publish: publish.map_err(bad("what it may publish are no globs"))?,
            read: read.map_err(bad("what it may read are no globs"))?,
            layouts: layouts.map_err(bad("the boards of its layouts are no globs"))?,
            admin: claims.admin.unwrap_or(false),
            expires_ms: Some(expires_ms),
        })
    }

    /// When the token expires, the skew included.
    fn expiry(&self, claims: &Claims, now_ms: u64) -> Result<u64, Refused> {
        let leeway_ms = u64::try_from(self.leeway.as_millis()).unwrap_or(u64::MAX);
        let exp = claims.exp.ok_or(Refused { why: "it has no expiry (exp)" })?;
        let expires_ms = millis(exp).saturating_add(leeway_ms).min(TIME_MS_MAX);
        if expires_ms <= now_ms {
            return Err(Refused::EXPIRED);
        }
        if claims.nbf.is_some_and(|nbf| millis(nbf) > now_ms.saturating_add(leeway_ms)) {
            return Err(Refused { why: "it is not valid yet (nbf)" });
        }
        Ok(expires_ms)
    }

    fn user(&self, claims: &BTreeMap<String, Value>) -> Result<String, Refused> {
        let said = self.user_claim.iter().find_map(|claim| claims.get(claim));
        let user = match said {
            Some(Value::String(user)) => user.clone(),
            // Ids of database rows.
            Some(Value::Number(id)) if id.is_u64() => id.to_string(),
            Some(_) => return Err(Refused { why: "its user is neither a text nor a number" }),
            None => return Err(Refused { why: "it names no user (auth.user_claim)" }),
        };
        if is_kept(&user) {
            return Err(Refused { why: "its user has a name that the hub keeps for others" });
        }
        if !is_legal(&user) {
            return Err(Refused {
                why: "its user is empty, over 128 bytes long, ends with a colon, or has spaces or \
                      control characters",
            });
        }
        Ok(user)
    }
}

/// Whether a user may have this name.
pub(super) fn is_user(user: &str) -> bool {
    is_legal(user) && !is_kept(user)
}

fn is_legal(user: &str) -> bool {
    !user.is_empty() && user.len() <= USER_BYTES_MAX && Room::of_user(user).is_ok()
}

/// Whether a name is that of somebody who shows no token of a user.
fn is_kept(user: &str) -> bool {
    user == ANONYMOUS || user == ADMIN || user.starts_with(PLUGIN)
}

/// Milliseconds since the epoch of a claim in seconds, which may have a
/// fraction. What is out of range becomes the nearest that is not.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "as wanted: it clamps")]
fn millis(seconds: f64) -> u64 {
    (seconds * 1000.0) as u64
}

/// The plain types together are one rule.
fn publish(claims: Vec<PublishClaim>) -> Result<Arc<[Publish]>, String> {
    let (mut plain, mut rules, mut globs) = (Vec::new(), Vec::new(), 0);
    for claim in claims {
        match claim {
            PublishClaim::Types(types) => plain.push(types),
            PublishClaim::Rule(PublishRule { types, rooms }) => {
                globs += types.len() + rooms.as_ref().map_or(0, Vec::len);
                let rooms = rooms.map(|rooms| Globs::new(&rooms)).transpose()?;
                rules.push(Publish { types: Globs::new(&types)?, rooms });
            }
        }
        if plain.len() + globs > GLOBS_MAX || rules.len() > GLOBS_MAX {
            return Err(format!("more than {GLOBS_MAX} globs"));
        }
    }
    if !plain.is_empty() {
        rules.push(Publish { types: Globs::new(&plain)?, rooms: None });
    }
    Ok(rules.into())
}
