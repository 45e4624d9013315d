//! Outgoing HTTP: the one way out for the `http` import and for `wasi:http`.
//!
//! A host is checked against the grants, its name is resolved once, and the
//! connection goes to an address that was checked. Nothing is resolved again,
//! redirected, sent by way of a proxy, or kept for the next request.

mod body;
mod fetch;
mod grant;
mod host;
mod reach;
mod target;
#[cfg(test)]
mod tests;
mod tls;
mod wasi;

use std::error::Error;
use std::io;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::combinators::UnsyncBoxBody;
use hyper::client::conn::http1;
use hyper::header::{CONNECTION, HOST, HeaderValue};
use hyper::{HeaderMap, Method, Request, Response, Uri};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::{OnceCell, OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout_at};
use tokio_rustls::TlsConnector;

use body::ResponseBody;
pub(crate) use grant::HostGrant;
use host::Host;
use reach::Reach;
use target::Target;
pub(crate) use wasi::Hooks;

use super::limits::Refused;

/// Exchanges that an instance may have under way at once. `fetch` needs one;
/// a plugin that asks several hosts through `wasi:http` is served by a few.
const EXCHANGES_MAX: usize = 8;
/// The status line and the headers of a response together. It is also what
/// hyper buffers of a body at most.
const HEAD_BYTES_MAX: usize = 64 * 1024;
/// The addresses of one name that are tried, so that each gets a fair part of
/// the time.
const ADDRESSES_MAX: usize = 8;

/// A request's body, whoever makes it.
type RequestBody = UnsyncBoxBody<Bytes, Box<dyn Error + Send + Sync>>;

/// Finds the addresses of a name. It may block.
type Resolve = dyn Fn(&str) -> io::Result<Vec<IpAddr>> + Send + Sync;

/// An instance's way out: what it is granted, and what it has under way.
pub(crate) struct Connector {
    grants: Vec<HostGrant>,
    slots: Arc<Semaphore>,
    resolve: Arc<Resolve>,
    tls: &'static OnceCell<TlsConnector>,
    /// What was over the plugin's limits.
    refused: Refused,
}

/// How long the parts of an exchange may take.
#[derive(Clone, Copy, Debug)]
struct Patience {
    /// Until the connection stands, TLS included.
    connect: Duration,
    /// From there to the head of the response.
    first_byte: Duration,
    /// From one piece of the body to the next.
    between_bytes: Duration,
    /// The whole exchange, to the last byte of the body.
    whole: Duration,
}

impl Patience {
    fn of(whole: Duration) -> Self {
        Self { connect: whole, first_byte: whole, between_bytes: whole, whole }
    }
}

/// Why there is no response, or no more of it.
#[derive(Debug, thiserror::Error)]
pub(super) enum HttpError {
    #[error("{0}")]
    Denied(String),
    #[error("{0}")]
    Invalid(String),
    #[error("{EXCHANGES_MAX} requests are under way: let go of their responses first")]
    Busy,
    #[error("the name {name} can't be resolved: {source}")]
    Unresolved { name: String, source: io::Error },
    #[error("{authority} can't be reached: {source}")]
    Unreachable { authority: String, source: io::Error },
    #[error("no TLS with {authority}: {source}")]
    Tls { authority: String, source: io::Error },
    #[error("its headers have {0} bytes, and {HEAD_BYTES_MAX} is the limit")]
    LargeHead(usize),
    #[error("the exchange broke off: {}", cause(.0))]
    Broken(hyper::Error),
    #[error("it took too long")]
    Timeout,
}

/// Hyper keeps what happened in the source.
fn cause(error: &hyper::Error) -> String {
    match error.source() {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}

/// Bytes to and from a host, plain or through TLS.
trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

/// One of an instance's exchanges. It is shared with a name's resolution,
/// which can't be called off: until that has ended, the slot is taken.
type Slot = Arc<OwnedSemaphorePermit>;

impl Connector {
    /// A way out to the hosts that are granted.
    pub(crate) fn new(grants: Vec<HostGrant>, refused: Refused) -> Self {
        Self {
            grants,
            slots: Arc::new(Semaphore::new(EXCHANGES_MAX)),
            resolve: Arc::new(resolve_by_system),
            tls: &tls::NATIVE,
            refused,
        }
    }

    /// Sends a request and waits for the head of its response. Dropping the
    /// response's body closes the connection.
    async fn exchange(
        &self,
        request: Request<RequestBody>,
        patience: Patience,
    ) -> Result<Response<ResponseBody>, HttpError> {
        let answered = self.send(request, patience).await;
        if let Err(HttpError::Denied(_) | HttpError::Busy) = answered {
            self.refused.add(|counts| counts.requests += 1);
        }
        answered
    }

    async fn send(
        &self,
        mut request: Request<RequestBody>,
        patience: Patience,
    ) -> Result<Response<ResponseBody>, HttpError> {
        let deadline = Instant::now() + patience.whole;
        let by = |limit: Duration| (Instant::now() + limit.min(patience.whole)).min(deadline);
        let target = Target::of(request.uri())?;
        let reach = self.granted(&target)?;
        make_plain(&mut request, &target)?;
        let slot = self.slots.clone().try_acquire_owned().map_err(|_| HttpError::Busy)?;
        let slot = Arc::new(slot);
        let connect_by = by(patience.connect);
        let connected = self.connect(&target, reach, &slot, connect_by);
        let stream = timeout_at(connect_by, connected).await??;

        let answered = async {
            let (mut sender, connection) = http1::Builder::new()
                .max_buf_size(HEAD_BYTES_MAX)
                .handshake(TokioIo::new(stream))
                .await
                .map_err(HttpError::Broken)?;
            // Its drop ends the task, and with it the connection.
            let mut driver = JoinSet::new();
            driver.spawn(async move {
                let _slot = slot;
                // How it ended is told to who waits for the response.
                let _ = timeout_at(deadline, connection).await;
            });
            match sender.send_request(request).await {
                Ok(response) => Ok((response, driver)),
                // The driver may have heard of the deadline first.
                Err(_) if Instant::now() >= deadline => Err(HttpError::Timeout),
                Err(error) => Err(HttpError::Broken(error)),
            }
        };
        let (response, driver) = timeout_at(by(patience.first_byte), answered)
            .await
            .map_err(HttpError::from)
            .flatten()?;
        // Hyper checks its buffer only after it has read on.
        let head_bytes = bytes_of(response.headers());
        if head_bytes > HEAD_BYTES_MAX {
            return Err(HttpError::LargeHead(head_bytes));
        }
        let between_bytes = patience.between_bytes.min(patience.whole);
        Ok(response.map(|incoming| ResponseBody::new(incoming, driver, between_bytes, deadline)))
    }

    /// How far the plugin may reach under the target's name.
    fn granted(&self, target: &Target) -> Result<Reach, HttpError> {
        let reach =
            |grant: &HostGrant| grant.reach(&target.host, target.port, target.default_port());
        self.grants.iter().filter_map(reach).max().ok_or_else(|| {
            HttpError::Denied(format!("it may not call {}: {}", target, line_to_add(target)))
        })
    }

    async fn connect(
        &self,
        target: &Target,
        reach: Reach,
        slot: &Slot,
        deadline: Instant,
    ) -> Result<Box<dyn Stream>, HttpError> {
        let addresses = self.addresses(target, reach, slot).await?;
        let connected = connect_to_one(&addresses, deadline).await;
        let stream = connected.map_err(|source| match source.kind() {
            io::ErrorKind::TimedOut => HttpError::Timeout,
            _ => HttpError::Unreachable { authority: target.to_string(), source },
        })?;
        if !target.secure {
            return Ok(Box::new(stream));
        }
        let secured = tls::secure(self.tls, &target.host, stream).await;
        let secured =
            secured.map_err(|source| HttpError::Tls { authority: target.to_string(), source })?;
        Ok(Box::new(secured))
    }

    /// The target's addresses, those within reach: at least one.
    async fn addresses(
        &self,
        target: &Target,
        reach: Reach,
        slot: &Slot,
    ) -> Result<Vec<SocketAddr>, HttpError> {
        let found = match &target.host {
            Host::Address(address) => vec![*address],
            Host::Name(name) => self.resolved(name, slot.clone()).await?,
        };
        let checked = found.iter().filter(|address| reach::needed(**address) <= reach);
        let checked: Vec<_> = checked
            .take(ADDRESSES_MAX)
            .map(|address| SocketAddr::new(*address, target.port))
            .collect();
        match found.first() {
            Some(address) if checked.is_empty() => Err(out_of_reach(target, *address)),
            _ => Ok(checked),
        }
    }

    async fn resolved(&self, name: &str, slot: Slot) -> Result<Vec<IpAddr>, HttpError> {
        let (resolve, owned) = (self.resolve.clone(), name.to_owned());
        let resolution = tokio::task::spawn_blocking(move || {
            let _slot = slot;
            resolve(&owned)
        });
        let found = resolution.await.unwrap_or_else(|error| Err(io::Error::other(error)));
        let found = found.and_then(|addresses| match addresses.is_empty() {
            true => Err(io::Error::other("it has no address")),
            false => Ok(addresses),
        });
        found.map_err(|source| HttpError::Unresolved { name: name.to_owned(), source })
    }
}

fn resolve_by_system(name: &str) -> io::Result<Vec<IpAddr>> {
    Ok((name, 0).to_socket_addrs()?.map(|address| address.ip()).collect())
}

/// Tries each address, with an equal part of the time that is left.
async fn connect_to_one(addresses: &[SocketAddr], deadline: Instant) -> io::Result<TcpStream> {
    let mut failed = io::Error::from(io::ErrorKind::NotFound);
    for (at, address) in addresses.iter().enumerate() {
        let still_to_try = u32::try_from(addresses.len() - at).unwrap_or(u32::MAX);
        let part = deadline.saturating_duration_since(Instant::now()) / still_to_try;
        match timeout_at(Instant::now() + part, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => {
                stream.set_nodelay(true)?;
                return Ok(stream);
            }
            Ok(Err(error)) => failed = error,
            Err(_) => failed = io::ErrorKind::TimedOut.into(),
        }
    }
    Err(failed)
}

/// What is sent says of host and connection what we know, whatever the guest
/// may have put there.
fn make_plain(request: &mut Request<RequestBody>, target: &Target) -> Result<(), HttpError> {
    if request.method() == Method::CONNECT {
        return Err(HttpError::Invalid("CONNECT is for proxies".to_owned()));
    }
    let authority = HeaderValue::try_from(target.to_string());
    let authority = authority.map_err(|error| HttpError::Invalid(error.to_string()))?;
    // Displayed, a path begins with a slash where the URL has none.
    let path = request.uri().path_and_query().map_or_else(|| "/".to_owned(), ToString::to_string);
    *request.uri_mut() =
        Uri::try_from(path).map_err(|error| HttpError::Invalid(error.to_string()))?;
    request.headers_mut().insert(HOST, authority);
    request.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    Ok(())
}

fn bytes_of(headers: &HeaderMap) -> usize {
    headers.iter().map(|(name, value)| name.as_str().len() + value.len()).sum()
}

fn out_of_reach(target: &Target, address: IpAddr) -> HttpError {
    HttpError::Denied(match reach::needed(address) {
        Reach::Guarded => {
            let literal = Target { host: Host::Address(address), ..*target };
            format!(
                "{} is {address}, a link-local or metadata address, which is only reached as \
                 itself: {}, and ask for it by that address",
                target.host,
                line_to_add(&literal)
            )
        }
        Reach::Private | Reach::Public => format!(
            "{} is {address}, a private address, which a wildcard does not reach: {}",
            target.host,
            line_to_add(target)
        ),
    })
}

fn line_to_add(target: &Target) -> String {
    format!("add \"{target}\" to http = […] under [grant] in its settings")
}

/// What errors show of a text that a guest has chosen.
fn cut(text: &str) -> &str {
    super::output::cut(text, 256)
}

impl From<tokio::time::error::Elapsed> for HttpError {
    fn from(_: tokio::time::error::Elapsed) -> Self {
        Self::Timeout
    }
}
