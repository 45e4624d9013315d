//! The way to a server: its socket, TLS where it is wanted, and how many bytes
//! may come in.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio_postgres::config::{Host, SslMode};
use tokio_postgres::tls::{MakeTlsConnect, TlsConnect};
use tokio_postgres::{Client, Config, Error, NoTls};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::{Address, words_of};
use crate::trust;

/// A connection: reads and writes while it is awaited, until it ends.
pub(super) type Connection = Pin<Box<dyn Future<Output = Result<(), Error>> + Send>>;

/// How many bytes may still come in.
#[derive(Debug)]
pub(super) struct Budget {
    most: usize,
    left: AtomicUsize,
}

impl Budget {
    pub(super) fn new(most: usize) -> Arc<Self> {
        Arc::new(Self { most, left: AtomicUsize::new(most) })
    }

    /// All of it may come again.
    pub(super) fn renew(&self) {
        self.left.store(self.most, Ordering::Relaxed);
    }

    /// Whether as much came as may: the connection has failed for it.
    pub(super) fn is_spent(&self) -> bool {
        self.left.load(Ordering::Relaxed) == 0
    }

    fn spend(&self, bytes: usize) {
        let left = self.left.load(Ordering::Relaxed);
        self.left.store(left.saturating_sub(bytes), Ordering::Relaxed);
    }
}

/// Connects to a server, or says why that can't be. `sslmode` is as libpq has
/// it, but that TLS is always to be trusted: `prefer` goes on without where it
/// isn't, `require` does not.
pub(super) async fn connect(
    address: &Address,
    budget: &Arc<Budget>,
) -> Result<(Client, Connection), String> {
    let config = &address.0;
    let socket = Socket::open(address).await.map_err(|error| error.to_string())?;
    let name = match address.host() {
        Some(Host::Tcp(name)) => name,
        _ => return plain(config, Counted::new(socket, budget)).await,
    };
    let mode = config.get_ssl_mode();
    if mode == SslMode::Disable {
        return plain(config, Counted::new(socket, budget)).await;
    }
    match secured(config, name, Counted::new(socket, budget)).await {
        Ok(connected) => Ok(connected),
        // It has answered, and TLS is not what is wrong.
        Err(NotSecured { told: true, words }) => Err(words),
        Err(NotSecured { words, .. }) if mode == SslMode::Require => Err(words),
        Err(_) => {
            let socket = Socket::open(address).await.map_err(|error| error.to_string())?;
            plain(config, Counted::new(socket, budget)).await
        }
    }
}

/// Why there is no connection with TLS.
struct NotSecured {
    /// The server has said so.
    told: bool,
    words: String,
}

async fn secured(
    config: &Config,
    name: &str,
    stream: Counted,
) -> Result<(Client, Connection), NotSecured> {
    let trusted = trust::native().await;
    let trusted = trusted.map_err(|error| NotSecured { told: false, words: error.to_string() })?;
    let mut tls = MakeRustlsConnect::new((*trusted).clone());
    let Ok(tls) = MakeTlsConnect::<Counted>::make_tls_connect(&mut tls, name);
    connect_by(config, stream, tls).await.map_err(|error| NotSecured {
        told: error.as_db_error().is_some(),
        words: words_of(&error),
    })
}

async fn plain(config: &Config, stream: Counted) -> Result<(Client, Connection), String> {
    let mut config = config.clone();
    config.ssl_mode(SslMode::Disable);
    connect_by(&config, stream, NoTls).await.map_err(|error| words_of(&error))
}

async fn connect_by<T>(
    config: &Config,
    stream: Counted,
    tls: T,
) -> Result<(Client, Connection), Error>
where
    T: TlsConnect<Counted>,
    T::Stream: Send + 'static,
{
    let (client, connection) = config.connect_raw(stream, tls).await?;
    Ok((client, Box::pin(connection)))
}

/// A stream whose bytes in are counted against a budget. Over it, it fails:
/// what a server sends is kept in memory until a message is whole, and a
/// message may have a gigabyte.
pub(super) struct Counted {
    socket: Socket,
    budget: Arc<Budget>,
}

impl Counted {
    fn new(socket: Socket, budget: &Arc<Budget>) -> Self {
        Self { socket, budget: budget.clone() }
    }
}

enum Socket {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Socket {
    async fn open(address: &Address) -> io::Result<Self> {
        match address.host() {
            Some(Host::Tcp(name)) => {
                let stream = TcpStream::connect((name.as_str(), address.port())).await?;
                // A query is a few small messages that nothing else follows.
                stream.set_nodelay(true)?;
                Ok(Self::Tcp(stream))
            }
            Some(Host::Unix(folder)) => {
                let path = folder.join(format!(".s.PGSQL.{}", address.port()));
                UnixStream::connect(path).await.map(Self::Unix)
            }
            None => Err(io::Error::other("it names no host")),
        }
    }
}

impl AsyncRead for Counted {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let Self { socket, budget } = self.get_mut();
        if budget.is_spent() {
            return Poll::Ready(Err(io::Error::other("more bytes than may come")));
        }
        let before = buffer.filled().len();
        let read = match socket {
            Socket::Tcp(stream) => Pin::new(stream).poll_read(context, buffer),
            Socket::Unix(stream) => Pin::new(stream).poll_read(context, buffer),
        };
        budget.spend(buffer.filled().len() - before);
        read
    }
}

impl AsyncWrite for Counted {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match &mut self.get_mut().socket {
            Socket::Tcp(stream) => Pin::new(stream).poll_write(context, bytes),
            Socket::Unix(stream) => Pin::new(stream).poll_write(context, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().socket {
            Socket::Tcp(stream) => Pin::new(stream).poll_flush(context),
            Socket::Unix(stream) => Pin::new(stream).poll_flush(context),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().socket {
            Socket::Tcp(stream) => Pin::new(stream).poll_shutdown(context),
            Socket::Unix(stream) => Pin::new(stream).poll_shutdown(context),
        }
    }
}
