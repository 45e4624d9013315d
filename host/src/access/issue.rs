//! Tokens for development and tests; those of real users are from whoever knows
//! who they are.

use std::path::Path;

use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use serde_json::Value;

use super::keys::{content, secret};

/// Signs tokens with one key.
#[derive(Debug)]
pub struct Issuer {
    header: Header,
    key: EncodingKey,
}

impl Issuer {
    /// Signs with a secret, by HS256.
    ///
    /// # Errors
    ///
    /// It is too short.
    pub fn of_secret(text: &[u8]) -> Result<Self, String> {
        secret(text)?;
        Ok(Self::new(Algorithm::HS256, EncodingKey::from_secret(text)))
    }

    /// Signs with what a file has: a private key of RSA, EC P-256 or Ed25519 in
    /// PEM (PKCS #8), or else a secret.
    ///
    /// # Errors
    ///
    /// It can't be read, or can't be used.
    pub fn of_file(path: &Path) -> Result<Self, String> {
        let content = content(path)?;
        let text = String::from_utf8_lossy(&content);
        if text.contains("-----BEGIN EC PRIVATE KEY-----") {
            return Err(format!(
                "this is a key in an old form: bring it into the usual one with `openssl pkcs8 \
                 -topk8 -nocrypt -in {}`",
                path.display()
            ));
        }
        if text.contains("PUBLIC KEY-----") {
            return Err("this is a public key, and tokens are signed with the private one".into());
        }
        if !text.contains("PRIVATE KEY-----") {
            return Self::of_secret(content.trim_ascii_end());
        }
        let named = [
            (Algorithm::EdDSA, EncodingKey::from_ed_pem(&content)),
            (Algorithm::ES256, EncodingKey::from_ec_pem(&content)),
            (Algorithm::RS256, EncodingKey::from_rsa_pem(&content)),
        ];
        let found = named.into_iter().find_map(|(algorithm, key)| Some((algorithm, key.ok()?)));
        let issuer = found.map(|(algorithm, key)| Self::new(algorithm, key));
        // What the key is worth shows when it signs.
        issuer
            .filter(|issuer| issuer.sign(&Value::Null).is_ok())
            .ok_or_else(|| "it is no private key of RSA, EC P-256 or Ed25519".to_owned())
    }

    fn new(algorithm: Algorithm, key: EncodingKey) -> Self {
        Self { header: Header::new(algorithm), key }
    }

    /// The same key by its name (`kid`) in a JWKS file.
    #[must_use]
    pub fn named(mut self, name: Option<String>) -> Self {
        self.header.kid = name;
        self
    }

    /// A token with these claims.
    ///
    /// # Errors
    ///
    /// The key can't sign.
    pub fn sign(&self, claims: &Value) -> Result<String, String> {
        encode(&self.header, claims, &self.key).map_err(|error| error.to_string())
    }
}
