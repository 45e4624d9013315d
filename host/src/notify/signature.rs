//! Signatures of deliveries, by the Standard Webhooks specification: an
//! HMAC-SHA256 of the delivery's id, the time of the attempt and the body.

use ring::hmac;

use crate::config::Secret;

/// What a secret may begin with.
const PREFIX: &str = "whsec_";
/// The fewest and the most bytes of one, by the specification.
const SECRET_BYTES: std::ops::RangeInclusive<usize> = 24..=64;
/// The letters of base64 (RFC 4648, 4).
const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// What deliveries are signed with: a key for each secret, or none.
#[derive(Debug)]
pub(super) struct Keys(Vec<hmac::Key>);

impl Keys {
    /// The keys of these secrets.
    ///
    /// # Errors
    ///
    /// One is none: what is wrong, without the secret.
    pub(super) fn new(secrets: &[Secret]) -> Result<Self, String> {
        let key = |secret: &Secret| {
            let text = secret.expose().trim();
            let bytes = decode(text.strip_prefix(PREFIX).unwrap_or(text)).ok_or(
                "is no base64: make one with `openssl rand -base64 32`, and give it to the receiver \
                 with `whsec_` before it",
            )?;
            if !SECRET_BYTES.contains(&bytes.len()) {
                let bytes = bytes.len();
                return Err(format!(
                    "has {bytes} bytes, and 24 to 64 are needed: make one with `openssl rand \
                     -base64 32`"
                ));
            }
            Ok(hmac::Key::new(hmac::HMAC_SHA256, &bytes))
        };
        secrets.iter().map(key).collect::<Result<_, _>>().map(Self)
    }

    /// The signatures with all keys, as `webhook-signature` has them; none
    /// without a key.
    pub(super) fn sign(&self, id: &str, time_s: u64, body: &[u8]) -> Option<String> {
        let signature = |key: &hmac::Key| {
            let mut context = hmac::Context::with_key(key);
            context.update(format!("{id}.{time_s}.").as_bytes());
            context.update(body);
            format!("v1,{}", encode(context.sign().as_ref()))
        };
        let signatures: Vec<String> = self.0.iter().map(signature).collect();
        (!signatures.is_empty()).then(|| signatures.join(" "))
    }
}

/// Bytes in base64, with padding.
fn encode(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let byte = |at: usize| u32::from(chunk.get(at).copied().unwrap_or(0));
        let bits = byte(0) << 16 | byte(1) << 8 | byte(2);
        for at in 0..4 {
            let letter = LETTERS[(bits >> (18 - 6 * at) & 63) as usize];
            text.push(if at <= chunk.len() { char::from(letter) } else { '=' });
        }
    }
    text
}

/// The bytes of a text in base64, with padding or without.
fn decode(text: &str) -> Option<Vec<u8>> {
    let text = text.trim_end_matches('=');
    let mut bytes = Vec::with_capacity(text.len() * 3 / 4);
    for chunk in text.as_bytes().chunks(4) {
        let mut bits = 0;
        for letter in chunk {
            let value = LETTERS.iter().position(|known| known == letter)?;
            bits = bits << 6 | u32::try_from(value).ok()?;
        }
        // One letter alone holds less than a byte.
        let whole = chunk.len().checked_sub(1).filter(|whole| *whole > 0)?;
        bits <<= 6 * (4 - chunk.len());
        bytes.extend_from_slice(&bits.to_be_bytes()[1..=whole]);
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_is_that_of_the_rfc() {
        for (bytes, text) in [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foob", "Zm9vYg=="),
            ("fooba", "Zm9vYmE="),
            ("foobar", "Zm9vYmFy"),
        ] {
            assert_eq!(encode(bytes.as_bytes()), text);
            assert_eq!(decode(text).unwrap(), bytes.as_bytes());
        }
        assert_eq!(encode(&[0xfb, 0xff, 0xfe]), "+//+");
        for text in ["A", "Zm9v*", "Zm 9v", "Zm9vY"] {
            assert_eq!(decode(text), None, "{text}");
        }
    }

    #[test]
    fn a_delivery_is_signed_as_the_specification_shows() {
        // The example that its libraries are tested with.
        let secrets = ["whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw".to_owned().into()];
        let keys = Keys::new(&secrets).unwrap();
        let signed =
            keys.sign("msg_p5jXN8AQM9LWM0D4loKWxJek", 1_614_265_330, br#"{"test": 2432232314}"#);
        assert_eq!(signed.unwrap(), "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
        assert_eq!(Keys::new(&[]).unwrap().sign("a", 1, b""), None);
    }

    #[test]
    fn a_secret_that_is_none_is_refused_and_not_shown() {
        for (secret, words) in [("not base64!", "is no base64"), ("c2hvcnQ=", "has 5 bytes")] {
            let said = Keys::new(&[secret.to_owned().into()]).unwrap_err();
            assert!(said.contains(words) && !said.contains(secret), "{said}");
        }
    }
}
