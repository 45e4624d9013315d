//! A certificate for the hub, and clients that trust it.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::{ClientConfig, RootCertStore};

/// Files for the hub, and what its clients need.
pub(crate) struct Tls {
    pub(crate) certificate: PathBuf,
    pub(crate) key: PathBuf,
    pub(crate) clients: Arc<ClientConfig>,
}

impl Tls {
    /// Makes a certificate for 127.0.0.1 that nobody else has signed.
    pub(crate) fn make(folder: &Path) -> io::Result<Self> {
        let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()])
            .map_err(io::Error::other)?;
        let (certificate, key) = (folder.join("certificate.pem"), folder.join("key.pem"));
        fs::write(&certificate, made.cert.pem())?;
        fs::write(&key, made.signing_key.serialize_pem())?;
        let mut trusted = RootCertStore::empty();
        trusted.add(made.cert.der().clone()).map_err(io::Error::other)?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let clients = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(io::Error::other)?
            .with_root_certificates(trusted)
            .with_no_client_auth();
        Ok(Self { certificate, key, clients: Arc::new(clients) })
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpListener;
    use std::thread;
    use std::time::Duration;

    use rustls::pki_types::pem::PemObject;
    use rustls::pki_types::{CertificateDer, PrivateKeyDer};
    use rustls::{ServerConfig, ServerConnection, StreamOwned};

    use super::*;
    use crate::client::{Crowd, Target, Wire};
    use crate::frame;
    use crate::tally::Tally;

    /// Shakes hands with whoever comes, and sends him what comes in pieces.
    fn serve(listener: &TcpListener, config: Arc<ServerConfig>, frames: &[u8]) {
        let (tcp, _) = listener.accept().unwrap();
        let mut stream = StreamOwned::new(ServerConnection::new(config).unwrap(), tcp);
        let (mut head, mut byte) = (Vec::new(), [0]);
        while !head.ends_with(b"\r\n\r\n") {
            stream.read_exact(&mut byte).unwrap();
            head.extend(byte);
        }
        stream.write_all(b"HTTP/1.1 101 Switching Protocols\r\n\r\n").unwrap();
        for piece in frames.chunks(1000) {
            stream.write_all(piece).unwrap();
            stream.flush().unwrap();
        }
        // The client goes first.
        let _ = stream.read(&mut byte);
    }

    #[test]
    fn clients_trust_the_certificate_and_count_what_comes_through_it() {
        let folder = tempfile::tempdir().unwrap();
        let tls = Tls::make(folder.path()).unwrap();
        let certificate = CertificateDer::from_pem_file(&tls.certificate).unwrap();
        let key = PrivateKeyDer::from_pem_file(&tls.key).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate], key)
            .unwrap();
        let update = |time: u64| {
            let pad = "x".repeat(3000);
            frame::from_server(&format!(r#"{{"push":"metrics","time":"{time}","pad":"{pad}"}}"#))
        };
        let frames: Vec<u8> = (1..=20).flat_map(update).collect();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let server = thread::spawn(move || serve(&listener, Arc::new(config), &frames));
        let wire = Wire::WebSocket("/");
        let target = Target { address, wire, tls: Some(tls.clients) };
        let mut crowd = Crowd::connect(&target, 1, Tally::new(1)).unwrap();
        // Some may have come with the handshake's end.
        let left = 20 - crowd.tally.seen.rounds;
        crowd.rounds(left, Duration::from_secs(60)).unwrap();
        assert_eq!(crowd.tally.seen.messages, 20);
        drop(crowd);
        server.join().unwrap();
    }
}
