//! HTTP servers that are no good, on this machine.

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

/// What a server does with who comes.
#[derive(Clone, Copy)]
pub(crate) enum Manners {
    /// It listens, and never answers.
    Silent,
    /// It answers, and never comes to an end.
    Endless,
}

/// A server. It ends with the test.
pub(crate) struct Listener {
    pub(crate) address: SocketAddr,
    _serving: JoinSet<()>,
}

impl Listener {
    pub(crate) async fn start(manners: Manners) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut serving = JoinSet::new();
        serving.spawn(async move {
            let mut guests = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                guests.spawn(serve(stream, manners));
                while guests.try_join_next().is_some() {}
            }
        });
        Self { address, _serving: serving }
    }
}

/// Until the client goes away.
async fn serve(mut stream: TcpStream, manners: Manners) {
    match manners {
        Manners::Silent => {
            let mut heard = [0; 1024];
            while let Ok(1..) = stream.read(&mut heard).await {}
        }
        Manners::Endless => {
            let mut sent = stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await;
            while sent.is_ok() {
                sent = stream.write_all(&[b'x'; 65_536]).await;
            }
        }
    }
}
