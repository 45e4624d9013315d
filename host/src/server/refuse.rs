//! Newcomers that are refused at the door, and are to know why.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio_util::task::TaskTracker;

use super::{HEAD_BYTES_MAX, Outgoing, Server, boxed, routes};
use crate::session::TooMany;

/// Newcomers that are told at a time why they are refused; more are cut off
/// without a word. They have no other place, so that this is all they cost.
const TOLD_AT_ONCE: usize = 64;
/// How long that may take, TLS and the request included.
const TOLD_WITHIN: Duration = Duration::from_secs(2);

/// Room to tell newcomers why they are refused.
#[derive(Clone, Debug)]
pub struct Refusals(Arc<Semaphore>);

impl Default for Refusals {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(TOLD_AT_ONCE)))
    }
}

/// The answer to one too many.
pub(super) fn too_many(why: TooMany) -> Response<Outgoing> {
    let status = StatusCode::TOO_MANY_REQUESTS;
    boxed(routes::not_now(status, TooMany::CODE, &why.to_string(), why.retry_after()))
}

impl Server {
    /// Refuses a newcomer whose address has as many connections as it may have.
    pub(super) fn turn_away(&self, socket: TcpStream, peer: SocketAddr, tasks: &TaskTracker) {
        self.services.gates.counters().address_refused.fetch_add(1, Ordering::Relaxed);
        tracing::debug!(%peer, "refused: its address has too many connections already");
        let Ok(room) = self.refusals.0.clone().try_acquire_owned() else { return };
        let server = self.clone();
        tasks.spawn(async move {
            let told = async {
                match &server.tls {
                    None => server.tell(socket).await,
                    Some(tls) => match tls.acceptor().accept(socket).await {
                        Ok(stream) => server.tell(stream).await,
                        Err(error) => tracing::debug!(%peer, %error, "TLS handshake"),
                    },
                }
            };
            // Late or not, it is over.
            let _ = tokio::time::timeout(TOLD_WITHIN, told).await;
            drop(room);
        });
    }

    async fn tell(&self, stream: impl AsyncRead + AsyncWrite + Unpin) {
        let is_tls = self.tls.is_some();
        let service = service_fn(|request: Request<Incoming>| async move {
            let admitted = self.guard.admit(request.headers(), is_tls).unwrap_or_default();
            let mut response = too_many(TooMany::OfAddress);
            self.guard.seal(&admitted, response.headers_mut());
            Ok::<_, Infallible>(response)
        });
        let told = hyper::server::conn::http1::Builder::new()
            .keep_alive(false)
            .timer(TokioTimer::new())
            .header_read_timeout(TOLD_WITHIN)
            .max_buf_size(HEAD_BYTES_MAX)
            .serve_connection(TokioIo::new(stream), service);
        if let Err(error) = told.await {
            tracing::debug!(%error, "a newcomer was not told why it is refused");
        }
    }
}
