//! Certificates that are replaced while the hub runs.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use futures_util::{SinkExt, StreamExt};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, Error, SignatureScheme};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::{WebSocketStream, client_async};

use super::asked::ask_on;
use super::counted;
use crate::harness::{Hub, within};

/// Takes any certificate: what is looked at is which one it was.
#[derive(Debug)]
struct AnyCertificate(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signed, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signed, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

/// Speaks TLS with whoever answers, and resumes where it may.
pub(super) fn trusting() -> TlsConnector {
    let provider = Arc::new(ring::default_provider());
    let verifier = Arc::new(AnyCertificate(provider.clone()));
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_no_client_auth();
    TlsConnector::from(Arc::new(config))
}

pub(super) async fn connect(address: SocketAddr, connector: &TlsConnector) -> TlsStream<TcpStream> {
    let connected = async {
        let tcp = TcpStream::connect(address).await.unwrap();
        let name = ServerName::try_from("localhost").unwrap();
        connector.connect(name, tcp).await.unwrap()
    };
    within("a connection over TLS", connected).await
}

fn shown(stream: &TlsStream<TcpStream>) -> Vec<u8> {
    stream.get_ref().1.peer_certificates().unwrap()[0].to_vec()
}

/// Puts a new certificate and its key in place, each by a rename; the
/// certificate.
pub(super) fn renew(folder: &Path) -> Vec<u8> {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    for (name, text) in
        [("cert.pem", made.cert.pem()), ("key.pem", made.signing_key.serialize_pem())]
    {
        place(folder, name, &text);
    }
    made.cert.der().to_vec()
}

fn place(folder: &Path, name: &str, text: &str) {
    fs::write(folder.join("next"), text).unwrap();
    fs::rename(folder.join("next"), folder.join(name)).unwrap();
}

async fn secure_hub() -> (Hub, Vec<u8>) {
    let setup = Hub::new();
    let certificate = renew(setup.path());
    let text = "[tls]\ncertificate_file = \"cert.pem\"\nkey_file = \"key.pem\"\n";
    (setup.configured(text).start_listening().await, certificate)
}

async fn next_tick(client: &mut WebSocketStream<TlsStream<TcpStream>>) {
    loop {
        let message = within("a message", client.next()).await.unwrap().unwrap();
        if matches!(&message, Message::Text(text) if text.contains(r#""push":"metrics""#)) {
            return;
        }
    }
}

#[tokio::test]
async fn new_connections_get_the_new_certificate_and_old_ones_go_on() {
    let (hub, first) = secure_hub().await;
    let connector = trusting();
    let stream = connect(hub.0, &connector).await;
    assert_eq!(shown(&stream), first);
    let url = format!("wss://localhost:{}/v1/stream", hub.0.port());
    let (mut client, _) = within("a WebSocket", client_async(&url, stream)).await.unwrap();
    let subscribe = r#"{"id":1,"op":"subscribe","channel":"metrics","filter":{"name":"telltale.tick.lateness"}}"#;
    client.send(Message::Text(subscribe.into())).await.unwrap();
    next_tick(&mut client).await;

    let second = renew(hub.path());
    hub.until("the new certificate", async || {
        (shown(&connect(hub.0, &connector).await) == second).then_some(())
    })
    .await;
    next_tick(&mut client).await;
    counted(&hub, "telltale.tls.reloaded", 1.0).await;

    // One that doesn't go with its key is not taken, and told of once.
    let other = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    place(hub.path(), "cert.pem", &other.cert.pem());
    counted(&hub, "telltale.tls.refused", 1.0).await;
    assert_eq!(shown(&connect(hub.0, &connector).await), second);
    let said = hub.program.stderr();
    let told = said.lines().filter(|line| line.contains("goes on with the certificate"));
    assert_eq!(told.clone().count(), 1, "{said}");
    assert!(
        told.clone().all(|line| line.contains("cert.pem") && line.contains("key.pem")),
        "{said}"
    );
    next_tick(&mut client).await;
}

#[tokio::test]
async fn browsers_are_told_to_stay_with_tls_but_for_this_machine() {
    let (hub, _) = secure_hub().await;
    let text = "[cors]\norigins = [\"https://dash.example\"]\n";
    let file = hub.path().join("telltale.toml");
    let text = fs::read_to_string(&file).unwrap() + text;
    let (_, setup) = hub.stop_with(rustix::process::Signal::TERM).await;
    let hub = setup.configured(&text).start_listening().await;
    let connector = trusting();
    let ask = async |host: &str| {
        let stream = connect(hub.0, &connector).await;
        ask_on(stream, &format!("GET /healthz HTTP/1.1\r\nHost: {host}")).await.head
    };
    assert!(ask("dash.example").await.contains("strict-transport-security: max-age=2592000"));
    assert!(!ask("localhost").await.contains("strict-transport-security"));
}
