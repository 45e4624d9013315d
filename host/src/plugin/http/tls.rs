//! TLS towards hosts, by the machine's own root certificates.

use std::io;
use std::sync::Arc;

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore};
use rustls_native_certs::CertificateResult;
use tokio::net::TcpStream;
use tokio::sync::OnceCell;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::host::Host;

/// Trusts what the machine trusts. The certificates are read at the first
/// request that needs them, and once: they are some hundred files.
pub(super) static NATIVE: OnceCell<TlsConnector> = OnceCell::const_new();

/// Secures a connection to a host, whose certificate must be for its name.
pub(super) async fn secure(
    connector: &OnceCell<TlsConnector>,
    host: &Host,
    stream: TcpStream,
) -> io::Result<TlsStream<TcpStream>> {
    let name = match host {
        Host::Address(address) => ServerName::from(*address),
        Host::Name(name) => ServerName::try_from(name.clone()).map_err(io::Error::other)?,
    };
    connector.get_or_try_init(native).await?.connect(name, stream).await
}

async fn native() -> io::Result<TlsConnector> {
    trusting_found(tokio::task::spawn_blocking(rustls_native_certs::load_native_certs).await?)
}

fn trusting_found(found: CertificateResult) -> io::Result<TlsConnector> {
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
pub(super) fn trusting(roots: RootCertStore) -> io::Result<TlsConnector> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(io::Error::other)?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(TlsConnector::from(Arc::new(config)))
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
