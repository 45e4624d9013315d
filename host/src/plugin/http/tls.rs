//! TLS towards hosts.

use std::io;

use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio::sync::OnceCell;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::host::Host;
use crate::trust;

/// Trusts what the machine trusts.
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
    let native = async || Ok::<_, io::Error>(TlsConnector::from(trust::native().await?));
    connector.get_or_try_init(native).await?.connect(name, stream).await
}
