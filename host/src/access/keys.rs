//! The keys that tokens are checked with. An algorithm belongs to its key; what
//! a token says of it chooses among the keys, and is never believed.

use std::collections::HashMap;
use std::fs::{File, Metadata};
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use jsonwebtoken::crypto::{self, rust_crypto};
use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk, KeyAlgorithm, PublicKeyUse};
use jsonwebtoken::{Algorithm, DecodingKey, DecodingKeyKind};
use serde_json::Value;

use super::AccessError;
use super::identity::Identity;
use crate::config::AuthConfig;

const SECRET_BYTES_MIN: usize = AuthConfig::SECRET_BYTES_MIN;
/// The longest key file. The longest that is of use has a few KiB.
const FILE_BYTES_MAX: u64 = 1024 * 1024;
/// The most keys of a JWKS file.
const KEYS_MAX: usize = 64;
/// The least and the most bytes of an RSA modulus: 2048 and 4096 bits.
const RSA_BYTES: std::ops::RangeInclusive<usize> = 256..=512;
/// Tokens that are remembered to be good, so that who sends many requests with
/// the same one is not checked each time anew.
const REMEMBERED_MAX: usize = 1024;

/// What a file holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Holds {
    Secret,
    PublicKey,
    Jwks,
}

impl Holds {
    /// The configuration's key.
    fn key(self) -> &'static str {
        match self {
            Self::Secret => "auth.secret_file",
            Self::PublicKey => "auth.public_key_file",
            Self::Jwks => "auth.jwks_file",
        }
    }
}

/// A key, and what it is for.
#[derive(Clone, Debug)]
pub(super) struct Key {
    pub(super) algorithm: Algorithm,
    pub(super) name: Option<String>,
    pub(super) key: DecodingKey,
}

/// A file of keys as it was when it was read.
#[derive(Debug)]
pub(super) struct KeyFile {
    holds: Holds,
    path: PathBuf,
    seen: Option<Stamp>,
    keys: Vec<Key>,
}

/// What changes when a file is written, renamed over, or when a link to it is
/// set anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    file: (u64, u64),
    length: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Stamp {
    fn of(file: &Metadata) -> Self {
        Self {
            file: (file.dev(), file.ino()),
            length: file.len(),
            modified: (file.mtime(), file.mtime_nsec()),
            changed: (file.ctime(), file.ctime_nsec()),
        }
    }
}

impl KeyFile {
    /// Reads a file.
    pub(super) fn read(holds: Holds, path: &Path) -> Result<Self, AccessError> {
        let mut file = Self { holds, path: path.to_owned(), seen: None, keys: Vec::new() };
        file.look_again()?;
        Ok(file)
    }

    pub(super) fn keys(&self) -> &[Key] {
        &self.keys
    }

    /// Reads the file again if it has changed; then true. One that can't be used
    /// is told once, and leaves the keys as they are.
    pub(super) fn look_again(&mut self) -> Result<bool, AccessError> {
        let refuse = |words: String| AccessError::KeyFile {
            key: self.holds.key(),
            path: self.path.clone(),
            words,
        };
        let found = std::fs::metadata(&self.path).map(|file| Stamp::of(&file));
        let stamp = found.as_ref().ok().copied();
        if stamp == self.seen && stamp.is_some() {
            return Ok(false);
        }
        let was_there = self.seen.is_some() || self.keys.is_empty();
        // Before it is read: what is written meanwhile is seen the next time.
        self.seen = stamp;
        if let Err(error) = found {
            return if was_there { Err(refuse(error.to_string())) } else { Ok(false) };
        }
        let content = content(&self.path).map_err(&refuse)?;
        self.keys = match self.holds {
            Holds::Secret => secret(content.trim_ascii_end()).map(|key| vec![key]),
            Holds::PublicKey => public_key(&content, &self.path).map(|key| vec![key]),
            Holds::Jwks => jwks(&content),
        }
        .map_err(&refuse)?;
        Ok(true)
    }
}

pub(super) fn content(path: &Path) -> Result<Vec<u8>, String> {
    let mut content = Vec::new();
    let file = File::open(path).map_err(|error| error.to_string())?;
    let read = file.take(FILE_BYTES_MAX + 1).read_to_end(&mut content);
    read.map_err(|error| error.to_string())?;
    if content.len() as u64 > FILE_BYTES_MAX {
        return Err("it is longer than 1 MiB, and no key is".to_owned());
    }
    Ok(content)
}

/// A secret of HS256.
pub(super) fn secret(secret: &[u8]) -> Result<Key, String> {
    if secret.len() < SECRET_BYTES_MIN {
        return Err(format!(
            "the secret has {} bytes, and HS256 needs at least {SECRET_BYTES_MIN}: make one with \
             `openssl rand -hex 32`",
            secret.len()
        ));
    }
    let key = DecodingKey::from_secret(secret);
    Ok(Key { algorithm: Algorithm::HS256, name: None, key })
}

/// A public key in PEM, by its content.
fn public_key(pem: &[u8], path: &Path) -> Result<Key, String> {
    let has = |words: &str| pem.windows(words.len()).any(|window| window == words.as_bytes());
    if has("PRIVATE KEY-----") {
        return Err(format!(
            "this is a private key, and the hub wants none: give it the public one, from `openssl \
             pkey -in {} -pubout`",
            path.display()
        ));
    }
    if !has("-----BEGIN PUBLIC KEY-----") && !has("-----BEGIN RSA PUBLIC KEY-----") {
        return Err("there is no PEM block `PUBLIC KEY` in it".to_owned());
    }
    let named = [
        (Algorithm::EdDSA, DecodingKey::from_ed_pem(pem)),
        (Algorithm::ES256, DecodingKey::from_ec_pem(pem)),
        (Algorithm::RS256, DecodingKey::from_rsa_pem(pem)),
    ];
    let found = named.into_iter().find_map(|(algorithm, key)| Some((algorithm, key.ok()?)));
    let Some((algorithm, key)) = found else {
        return Err("it is no key of RSA, EC P-256 or Ed25519".to_owned());
    };
    check(algorithm, &key)?;
    Ok(Key { algorithm, name: None, key })
}

/// The keys of a JWKS file that tokens can be checked with. Others, for
/// encryption or of other algorithms, are left out: issuers publish all theirs.
fn jwks(text: &[u8]) -> Result<Vec<Key>, String> {
    #[derive(serde::Deserialize)]
    struct Set {
        keys: Vec<Value>,
    }
    let set: Set = serde_json::from_slice(text).map_err(|error| format!("no JWKS: {error}"))?;
    if set.keys.len() > KEYS_MAX {
        return Err(format!("it has {} keys, and {KEYS_MAX} is the limit", set.keys.len()));
    }
    let mut keys = Vec::new();
    let mut left_out = String::new();
    for (at, value) in set.keys.into_iter().enumerate() {
        match serde_json::from_value(value).map_err(|error| error.to_string()).and_then(jwk) {
            Ok(key) => keys.push(key),
            Err(words) => {
                tracing::debug!(key = at, %words, "a key of auth.jwks_file is left out");
                left_out = format!(": key {at}: {words}");
            }
        }
    }
    if keys.is_empty() {
        return Err(format!("it has no key of HS256, RS256, ES256 or EdDSA{left_out}"));
    }
    Ok(keys)
}

fn jwk(jwk: Jwk) -> Result<Key, String> {
    if matches!(&jwk.common.public_key_use, Some(other) if *other != PublicKeyUse::Signature) {
        return Err("it is not for signatures".to_owned());
    }
    let (algorithm, known_as) = match &jwk.algorithm {
        AlgorithmParameters::RSA(_) => (Algorithm::RS256, KeyAlgorithm::RS256),
        AlgorithmParameters::EllipticCurve(ec) if ec.curve == EllipticCurve::P256 => {
            (Algorithm::ES256, KeyAlgorithm::ES256)
        }
        AlgorithmParameters::OctetKeyPair(ed) if ed.curve == EllipticCurve::Ed25519 => {
            (Algorithm::EdDSA, KeyAlgorithm::EdDSA)
        }
        AlgorithmParameters::OctetKey(_) => (Algorithm::HS256, KeyAlgorithm::HS256),
        _ => return Err("it is of another kind".to_owned()),
    };
    if jwk.common.key_algorithm.is_some_and(|wanted| wanted != known_as) {
        return Err("it is for another algorithm".to_owned());
    }
    let key = DecodingKey::from_jwk(&jwk).map_err(|error| error.to_string())?;
    check(algorithm, &key)?;
    Ok(Key { algorithm, name: jwk.common.key_id, key })
}

/// Whether a key is one of its algorithm, and a strong one. The library finds
/// some of it out only when a token comes, and some not without a panic.
fn check(algorithm: Algorithm, key: &DecodingKey) -> Result<(), String> {
    let raw = key.try_get_as_bytes().unwrap_or_default();
    match algorithm {
        Algorithm::HS256 => return secret(raw).map(|_| ()),
        Algorithm::RS256 => {
            let modulus = match key.kind() {
                DecodingKeyKind::RsaModulusExponent { n, .. } => n.clone(),
                DecodingKeyKind::SecretOrDer(der) => {
                    let utils = &rust_crypto::DEFAULT_PROVIDER.key_utils;
                    let parts = (utils.rsa_pub_components_from_public_key)(der);
                    parts.map_err(|_| "it is no RSA key".to_owned())?.0
                }
            };
            let bytes = modulus.iter().skip_while(|byte| **byte == 0).count();
            if !RSA_BYTES.contains(&bytes) {
                return Err(format!("an RSA key of {} bits: it must have 2048 to 4096", bytes * 8));
            }
        }
        Algorithm::EdDSA if raw.len() != 32 => return Err("it is no key of Ed25519".to_owned()),
        _ => {}
    }
    // The signature is none, but the key is read to find that out.
    crypto::verify("AAAA", b"", key, algorithm).map_err(|_| match algorithm {
        Algorithm::ES256 => "it is no key of EC P-256".to_owned(),
        _ => "it is no key of Ed25519".to_owned(),
    })?;
    Ok(())
}

/// All keys at a moment, and the tokens that have been found good with them.
#[derive(Debug, Default)]
pub(super) struct Keys {
    all: Vec<Key>,
    remembered: Mutex<HashMap<blake3::Hash, Arc<Identity>>>,
}

impl Keys {
    /// These together.
    pub(super) fn new(all: Vec<Key>) -> Result<Self, AccessError> {
        for (at, key) in all.iter().enumerate() {
            let is_same = |other: &Key| other.algorithm == key.algorithm && other.name == key.name;
            if all[..at].iter().any(is_same) {
                let (algorithm, name) = (key.algorithm, key.name.clone());
                return Err(AccessError::Ambiguous { algorithm: format!("{algorithm:?}"), name });
            }
        }
        Ok(Self { all, remembered: Mutex::default() })
    }

    /// The one key that a token of this algorithm, and of this key's name if it
    /// tells one, can be signed with. Never several: trying them out would be
    /// work that strangers can ask for.
    pub(super) fn choose(&self, algorithm: Algorithm, name: Option<&str>) -> Option<&Key> {
        let mut fitting = self.all.iter().filter(|key| key.algorithm == algorithm);
        let named = fitting.clone().find(|key| key.name.is_some() && key.name.as_deref() == name);
        let nameless = || fitting.clone().find(|key| key.name.is_none());
        named.or_else(nameless).or_else(|| {
            let only = fitting.next().filter(|_| name.is_none())?;
            fitting.next().is_none().then_some(only)
        })
    }

    /// Who showed a token that was good.
    pub(super) fn recall(&self, token: &blake3::Hash) -> Option<Arc<Identity>> {
        self.lock().get(token).cloned()
    }

    pub(super) fn remember(&self, token: blake3::Hash, identity: &Arc<Identity>) {
        let mut remembered = self.lock();
        if remembered.len() >= REMEMBERED_MAX {
            remembered.clear();
        }
        remembered.insert(token, identity.clone());
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<blake3::Hash, Arc<Identity>>> {
        self.remembered.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
