//! `wasi:http`: the same way out for those who bring its bindings.

use std::sync::Arc;
use std::time::Duration;

use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::{Request, Response};
use tracing::Level;
use wasmtime_wasi_http::{Error, RequestOptions, Result, WasiBody, WasiHttpHooks};

use super::{Connector, HttpError, Patience};
use crate::plugin::meter::Meter;
use crate::plugin::output::PluginLog;

/// The longest body either way, sixteen times what `fetch` reads: such a guest
/// takes it in pieces.
const BODY_BYTES_MAX: usize = 16 * 1024 * 1024;
/// What a guest may put into a request's body in one write. Two of them are
/// held for each request that it has not sent yet.
const CHUNK_BYTES_MAX: usize = 8 * 1024;

/// Sends the requests of an instance.
pub(crate) struct Hooks {
    pub(crate) connector: Arc<Connector>,
    /// Knows how long the call that asks may still wait.
    pub(crate) meter: Meter,
    /// Takes the reasons that `wasi:http` has no room for.
    pub(crate) log: PluginLog,
}

type Work = Box<dyn Future<Output = Result<()>> + Send>;
type Answer = Result<(Response<WasiBody>, Work)>;

impl WasiHttpHooks for Hooks {
    fn send_request(
        &mut self,
        request: Request<WasiBody>,
        options: Option<RequestOptions>,
        _consumed: Work,
    ) -> Box<dyn Future<Output = Answer> + Send> {
        let options = options.unwrap_or_default();
        let whole = self.meter.patience();
        let clipped = |asked: Option<Duration>| asked.map_or(whole, |asked| asked.min(whole));
        let patience = Patience {
            connect: clipped(options.connect_timeout),
            first_byte: clipped(options.first_byte_timeout),
            between_bytes: clipped(options.between_bytes_timeout),
            whole,
        };
        let (connector, log) = (self.connector.clone(), self.log.clone());
        let request = request.map(|body| Limited::new(body, BODY_BYTES_MAX).boxed_unsync());
        Box::new(async move {
            let sent = connector.exchange(request, patience).await;
            let response = sent.map_err(|error| coded(error, &log))?;
            let response = response.map(|body| {
                let body = Limited::new(body, BODY_BYTES_MAX).map_err(move |error| match error
                    .downcast::<HttpError>(
                ) {
                    Ok(error) => coded(*error, &log),
                    Err(other) if other.is::<LengthLimitError>() => {
                        Error::HttpResponseBodySize(Some(BODY_BYTES_MAX as u64))
                    }
                    Err(other) => Error::InternalError(Some(other.to_string())),
                });
                body.boxed_unsync()
            });
            // The body drives its connection itself.
            Ok((response, Box::new(std::future::ready(Ok(()))) as Work))
        })
    }

    fn p2_outgoing_body_chunk_size(&mut self) -> usize {
        CHUNK_BYTES_MAX
    }
}

/// The code for an error. Its words go to the plugin's log, which limits them.
fn coded(error: HttpError, log: &PluginLog) -> Error {
    log.line(Level::WARN, &format!("wasi:http: {error}"));
    match error {
        HttpError::Denied(_) => Error::HttpRequestDenied,
        HttpError::Invalid(_) => Error::HttpRequestUriInvalid,
        HttpError::Busy => Error::ConnectionLimitReached,
        HttpError::Unresolved { .. } => Error::DnsError { rcode: None, info_code: None },
        HttpError::Unreachable { .. } => Error::DestinationUnavailable,
        HttpError::Tls { .. } => Error::TlsProtocolError,
        HttpError::LargeHead(bytes) => {
            Error::HttpResponseHeaderSectionSize(u32::try_from(bytes).ok())
        }
        HttpError::Broken(_) => Error::HttpProtocolError,
        HttpError::Timeout => Error::HttpResponseTimeout,
    }
}
