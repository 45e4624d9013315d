//! Who may come in, and what for.

mod claims;
mod globs;
mod identity;
mod issue;
mod keys;
#[cfg(test)]
pub(crate) mod tests;

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use jsonwebtoken::errors::{Error as TokenError, ErrorKind};
use jsonwebtoken::{Validation, decode, decode_header};

use crate::clock::Clock;
use crate::config::{AuthConfig, AuthMode};
use crate::shutdown::Shutdown;
use claims::{Claims, Reading};
use keys::{Holds, KeyFile, Keys};

pub use globs::Globs;
pub use identity::{ADMIN, ANONYMOUS, Identity, Layouts, Publish};
pub use issue::Issuer;

/// The longest token in bytes. A head of a request may have twice as many.
pub const TOKEN_BYTES_MAX: usize = 8 * 1024;
/// How often key files are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Decides who may come in.
#[derive(Debug)]
pub struct Access {
    clock: Clock,
    /// Of the token that allows everything, for this run of the hub.
    admin: Option<blake3::Hash>,
    /// `None` where nobody has to say who they are.
    tokens: Option<Tokens>,
    /// Who says who it is and does not prove it is believed.
    is_insecure: bool,
}

/// How tokens are checked.
#[derive(Debug)]
struct Tokens {
    reading: Reading,
    issuer: Vec<String>,
    audience: Vec<String>,
    /// Dialects that need none.
    anonymous: Vec<String>,
    secret: Option<keys::Key>,
    files: Mutex<Vec<KeyFile>>,
    keys: RwLock<Arc<Keys>>,
}

/// Why nobody could be let in.
#[derive(Clone, Debug, thiserror::Error)]
pub enum AccessError {
    /// A file of keys can't be used.
    #[error("{key} = {}: {words}", path.display())]
    KeyFile {
        /// The configuration's key.
        key: &'static str,
        /// Which file.
        path: PathBuf,
        /// Why.
        words: String,
    },
    /// A key of the configuration says what can't be.
    #[error("{key}: {words}")]
    Key {
        /// Which one.
        key: &'static str,
        /// Why.
        words: String,
    },
    /// It is not clear which of two keys is meant.
    #[error(
        "[auth] has two keys of {algorithm} with {}: give them different ones in the JWKS file",
        name.as_ref().map_or("no key id (kid)".to_owned(), |name| format!("the key id {name:?}"))
    )]
    Ambiguous {
        /// What they are for.
        algorithm: String,
        /// What both are called.
        name: Option<String>,
    },
}

/// A token is no good. What is wrong with it is for the operator's log; no
/// stranger is told more than that it was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the token was refused")]
pub struct Refused {
    /// For the operator.
    pub why: &'static str,
}

impl Refused {
    const EXPIRED: Self = Self { why: "it has expired (exp)" };

    /// Refused for a reason that has details.
    fn logged(why: &'static str, details: &dyn std::fmt::Display) -> Self {
        tracing::debug!(why, %details, "a token was refused");
        Self { why }
    }
}

impl Access {
    /// Nobody has to say who they are.
    #[must_use]
    pub fn open() -> Arc<Self> {
        Arc::new(Self { clock: Clock::system(), admin: None, tokens: None, is_insecure: true })
    }

    /// Who may come in by the configuration, which has been checked.
    ///
    /// # Errors
    ///
    /// A key can't be read, or a list of globs is none.
    pub fn new(config: &AuthConfig, clock: Clock) -> Result<Self, AccessError> {
        let tokens = match config.mode {
            AuthMode::None => None,
            AuthMode::Jwt => Some(Tokens::new(config)?),
        };
        Ok(Self { clock, admin: None, tokens, is_insecure: false })
    }

    /// The same, and who says who it is without proving it is believed by the
    /// dialects that have no other way (`auth.insecure_identity`).
    #[must_use]
    pub fn believing(self, is_insecure: bool) -> Self {
        Self { is_insecure, ..self }
    }

    /// The same, and whoever shows this token may do everything.
    #[must_use]
    pub fn with_admin(self, token: &str) -> Arc<Self> {
        Arc::new(Self { admin: Some(blake3::hash(token.as_bytes())), ..self })
    }

    /// Who shows this token.
    ///
    /// # Errors
    ///
    /// It is no good.
    pub fn verify(&self, token: &str) -> Result<Arc<Identity>, Refused> {
        if token.len() > TOKEN_BYTES_MAX {
            return Err(Refused { why: "it is longer than 8 KiB" });
        }
        let hash = blake3::hash(token.as_bytes());
        // Compared in constant time, as hashes are.
        if self.admin == Some(hash) {
            return Ok(Identity::admin());
        }
        let Some(tokens) = &self.tokens else {
            return Err(Refused { why: "no tokens are expected (auth.mode is none)" });
        };
        let (keys, now_ms) = (tokens.keys(), self.clock.now_ms());
        if let Some(known) = keys.recall(&hash) {
            let is_over = known.expires_ms.is_some_and(|at| at <= now_ms);
            return if is_over { Err(Refused::EXPIRED) } else { Ok(known) };
        }
        let identity = Arc::new(tokens.read(&keys, token, now_ms)?);
        keys.remember(hash, &identity);
        Ok(identity)
    }

    /// Who a client of a dialect is that shows no token; `None` where it must.
    #[must_use]
    pub fn without_token(&self, dialect: &str) -> Option<Arc<Identity>> {
        match &self.tokens {
            None => Some(Identity::open()),
            Some(tokens) => {
                let needs_none = tokens.anonymous.iter().any(|anonymous| anonymous == dialect);
                needs_none.then(Identity::anonymous)
            }
        }
    }

    /// Who a client of a dialect is, by the token that it shows if it shows one.
    /// `None`: it may not come in. Where nobody has to say who they are no token
    /// is wrong; where somebody must, a bad one is not the same as none.
    #[must_use]
    pub fn admit(&self, token: Option<&str>, dialect: &str) -> Option<Arc<Identity>> {
        let Some(token) = token else { return self.without_token(dialect) };
        match self.verify(token) {
            Ok(identity) => Some(identity),
            Err(_) if self.tokens.is_none() => Some(Identity::open()),
            Err(refused) => {
                tracing::info!(dialect, why = refused.why, "a token was refused");
                None
            }
        }
    }

    /// Whether nobody has to say who they are.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.tokens.is_none()
    }

    /// Who a client is that says so and does not prove it, where it is believed:
    /// `None` where it isn't, or where nobody can be called that.
    #[must_use]
    pub fn believe(&self, user: &str) -> Option<Arc<Identity>> {
        let is_believed = self.is_insecure && claims::is_user(user);
        is_believed.then(|| Identity::believed(user, self.tokens.is_none()))
    }

    /// Who a client of the sync dialect is that does not even say so; `None` where
    /// it has to.
    #[must_use]
    pub fn believe_nobody(&self) -> Option<Arc<Identity>> {
        self.is_insecure.then(|| Identity::believed(ANONYMOUS, self.tokens.is_none()))
    }

    /// Reads the files of keys again when they change, until `shutdown`.
    pub async fn watch(self: Arc<Self>, mut shutdown: Shutdown) {
        if self.tokens.as_ref().is_none_or(|tokens| tokens.lock_files().is_empty()) {
            return;
        }
        let mut interval = tokio::time::interval(LOOK_EVERY);
        interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = shutdown.requested() => return,
                _ = interval.tick() => {}
            }
            let access = self.clone();
            // A file may lie on another machine, and be long in coming. An error
            // means that the program ends.
            let _ = tokio::task::spawn_blocking(move || access.look_at_files()).await;
        }
    }

    /// Reads the files of keys again that have changed. What can't be used is
    /// told, and the keys stay as they were.
    fn look_at_files(&self) {
        let Some(tokens) = &self.tokens else { return };
        let mut files = tokens.lock_files();
        let mut has_changed = false;
        for file in files.iter_mut() {
            match file.look_again() {
                Ok(changed) => has_changed |= changed,
                Err(error) => {
                    tracing::error!(%error, "the keys can't be read again: those from before stay");
                }
            }
        }
        if !has_changed {
            return;
        }
        match tokens.gather(&files) {
            Ok(keys) => {
                tracing::info!("the keys of tokens were read again");
                *tokens.keys.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(keys);
            }
            Err(error) => {
                tracing::error!(%error, "the new keys can't be used: those from before stay");
            }
        }
    }
}

impl Tokens {
    fn new(config: &AuthConfig) -> Result<Self, AccessError> {
        let of = |key: &'static str| move |words: String| AccessError::Key { key, words };
        let secret = config.secret.as_ref().map(|secret| keys::secret(secret.expose().as_bytes()));
        let named = [
            (Holds::Secret, &config.secret_file),
            (Holds::PublicKey, &config.public_key_file),
            (Holds::Jwks, &config.jwks_file),
        ];
        let named = named.iter().filter_map(|(holds, path)| Some((*holds, path.as_deref()?)));
        let files = named.map(|(holds, path)| KeyFile::read(holds, path));
        let default_rooms = Globs::new(&config.default_rooms).map_err(of("auth.default_rooms"))?;
        let tokens = Self {
            reading: Reading {
                user_claim: config.user_claim.clone(),
                default_rooms,
                leeway: config.leeway,
            },
            issuer: config.issuer.clone(),
            audience: config.audience.clone(),
            anonymous: config.anonymous.clone(),
            secret: secret.transpose().map_err(of("auth.secret"))?,
            files: Mutex::new(files.collect::<Result<_, _>>()?),
            keys: RwLock::default(),
        };
        let keys = tokens.gather(&tokens.lock_files())?;
        Ok(Self { keys: RwLock::new(Arc::new(keys)), ..tokens })
    }

    /// The keys of the configuration and of all files.
    fn gather(&self, files: &[KeyFile]) -> Result<Keys, AccessError> {
        let of_files = files.iter().flat_map(KeyFile::keys);
        Keys::new(self.secret.iter().chain(of_files).cloned().collect())
    }

    fn keys(&self) -> Arc<Keys> {
        self.keys.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Forgets which tokens have been found good.
    #[cfg(test)]
    fn forget(&self) {
        let keys = self.gather(&self.lock_files()).unwrap();
        *self.keys.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(keys);
    }

    fn lock_files(&self) -> std::sync::MutexGuard<'_, Vec<KeyFile>> {
        self.files.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Checks a token, and reads what it says.
    fn read(&self, keys: &Keys, token: &str, now_ms: u64) -> Result<Identity, Refused> {
        let header = decode_header(token).map_err(|error| Refused::from(&error))?;
        if header.crit.is_some() {
            return Err(Refused { why: "it asks for what the hub does not know (crit)" });
        }
        let key = keys
            .choose(header.alg, header.kid.as_deref())
            .ok_or(Refused { why: "no key of its algorithm and its name (kid) is there" })?;
        let claims = decode::<Claims>(token, &key.key, &self.validation(key.algorithm));
        let claims = claims.map_err(|error| Refused::from(&error))?.claims;
        self.reading.identity(claims, now_ms)
    }

    /// What the library is to check: all but the times, which it takes from the
    /// machine.
    fn validation(&self, algorithm: jsonwebtoken::Algorithm) -> Validation {
        let mut validation = Validation::new(algorithm);
        (validation.validate_exp, validation.validate_nbf) = (false, false);
        validation.required_spec_claims.clear();
        for (claim, wanted) in [("iss", &self.issuer), ("aud", &self.audience)] {
            if !wanted.is_empty() {
                validation.required_spec_claims.insert(claim.to_owned());
            }
        }
        if !self.issuer.is_empty() {
            validation.set_issuer(&self.issuer);
        }
        if !self.audience.is_empty() {
            validation.set_audience(&self.audience);
        }
        validation
    }
}

impl From<&TokenError> for Refused {
    fn from(error: &TokenError) -> Self {
        let why = match error.kind() {
            ErrorKind::InvalidSignature => "its signature is not that of the key",
            ErrorKind::InvalidIssuer => "its issuer (iss) is not in auth.issuer",
            ErrorKind::InvalidAudience => "its audience (aud) is not in auth.audience",
            ErrorKind::MissingRequiredClaim(_) => "it has no issuer or audience (iss, aud)",
            ErrorKind::InvalidAlgorithm => "its algorithm is not the key's",
            ErrorKind::Json(_) => "it is no token, or its claims are not what they should be",
            _ => "it is no token, or of an algorithm that is not spoken here",
        };
        Self::logged(why, error)
    }
}
