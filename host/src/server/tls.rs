//! What the hub shows to prove who it is.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::ServerConfig;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::TlsAcceptor;

/// Why TLS can't be spoken.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file can't be read, or is no PEM.
    #[error("{key} = {}: {words}", path.display())]
    File {
        /// The configuration's key.
        key: &'static str,
        /// Which file.
        path: PathBuf,
        /// Why.
        words: String,
    },
    /// The two don't belong together, or can't be used.
    #[error("the certificate {} can't be used with the key {}: {words}", certificate.display(), key.display())]
    Unusable {
        /// The certificate's file.
        certificate: PathBuf,
        /// The key's.
        key: PathBuf,
        /// Why.
        words: String,
    },
}

/// Speaks TLS 1.2 and 1.3 with a certificate and its key, both PEM files.
///
/// # Errors
///
/// A file can't be read, or they don't belong together.
pub fn acceptor(certificate: &Path, key: &Path) -> Result<TlsAcceptor, TlsError> {
    let refuse = |key: &'static str, path: &Path| {
        let path = path.to_owned();
        move |words: String| TlsError::File { key, path, words }
    };
    let no_certificate = refuse("tls.certificate_file", certificate);
    let chain = CertificateDer::pem_file_iter(certificate)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|error| no_certificate.clone()(error.to_string()))?;
    if chain.is_empty() {
        return Err(no_certificate("there is no certificate in it".to_owned()));
    }
    let private_key = PrivateKeyDer::from_pem_file(key)
        .map_err(|error| refuse("tls.key_file", key)(error.to_string()))?;
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .and_then(|builder| builder.with_no_client_auth().with_single_cert(chain, private_key));
    match config {
        Ok(config) => Ok(TlsAcceptor::from(Arc::new(config))),
        Err(error) => Err(TlsError::Unusable {
            certificate: certificate.to_owned(),
            key: key.to_owned(),
            words: error.to_string(),
        }),
    }
}
