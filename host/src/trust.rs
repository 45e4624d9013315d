//! TLS towards others, by the machine's own root certificates.

use std::io;
use std::sync::Arc;

use rustls::{ClientConfig, RootCertStore};
use rustls_native_certs::CertificateResult;
use tokio::sync::OnceCell;

/// Trusts what the machine trusts. The certificates are read when they are
/// first needed, and once: they are some hundred files.
static NATIVE: OnceCell<Arc<ClientConfig>> = OnceCell::const_new();

/// How to speak TLS with whom the machine trusts.
///
/// # Errors
///
/// The machine has no root certificates.
pub(crate) async fn native() -> io::Result<Arc<ClientConfig>> {
    let load = async || {
        trusting_found(tokio::task::spawn_blocking(rustls_native_certs::load_native_certs).await?)
    };
    NATIVE.get_or_try_init(load).await.cloned()
}

fn trusting_found(found: CertificateResult) -> io::Result<Arc<ClientConfig>> {
    let mut roots = RootCertStore::empty();
    let (added, _) = roots.add_parsable_certificates(found.certs);
    if added == 0 {
        let why = found.errors.first().map(|error| format!(" ({error})")).unwrap_or_default();
        return Err(io::Error::other(format!(
            "this machine has no root certificates{why}: install ca-certificates, or set \
             SSL_CERT_FILE"
        )));
    }
    trusting(roots)
}

/// Trusts these roots.
///
/// # Errors
///
/// The crypto provider lacks the protocol: a defect of this file.
pub(crate) fn trusting(roots: RootCertStore) -> io::Result<Arc<ClientConfig>> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(io::Error::other)?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(Arc::new(config))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_that_trusts_nobody_is_told_what_it_lacks() {
        let error = trusting_found(CertificateResult::default()).err().unwrap();
        assert!(error.to_string().ends_with("install ca-certificates, or set SSL_CERT_FILE"));
    }
}
