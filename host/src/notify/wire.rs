//! One attempt to deliver: a connection of its own, a signed POST, and what the
//! answer means.
//!
//! Redirects are not followed: what is signed for one address would go to another
//! that nobody has configured, and a POST that is redirected may arrive as a GET.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper::header::{
    CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, HOST, HeaderMap, HeaderName, HeaderValue, LOCATION,
    RETRY_AFTER, TRANSFER_ENCODING, USER_AGENT,
};
use hyper::{Method, Request, Response, StatusCode, Uri};
use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::NotifyError;
use super::signature::Keys;
use crate::clock::{Clock, parse_http_date};
use crate::config::{NotifyConfig, Secret};
use crate::trust;

/// The status line and the headers of an answer together.
const HEAD_BYTES_MAX: usize = 16 * 1024;
/// What is read of the body of an answer that says no.
const WORDS_BYTES_MAX: usize = 1024;
/// What is shown of it.
const WORDS_CHARS_MAX: usize = 200;
/// The longest pause that a receiver can ask for.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(3600);
/// What the receiver reads the delivery's name, time and signature from.
const ID: HeaderName = HeaderName::from_static("webhook-id");
const TIMESTAMP: HeaderName = HeaderName::from_static("webhook-timestamp");
const SIGNATURE: HeaderName = HeaderName::from_static("webhook-signature");

/// What came of an attempt.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// The receiver has it.
    Taken(u16),
    /// It may be taken later: why not now, and when at the earliest if it said.
    Later(String, Option<Duration>),
    /// It would not be taken later either: why.
    Never(String),
}

/// The way to a receiver.
#[derive(Debug)]
pub(super) struct Wire {
    is_secure: bool,
    host: String,
    port: u16,
    authority: HeaderValue,
    path: Uri,
    headers: HeaderMap,
    keys: Keys,
    /// None stands for what the machine trusts.
    trusted: Option<Arc<ClientConfig>>,
    timeout: Duration,
    clock: Clock,
}

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

impl Wire {
    /// The way to a receiver. Reads its files.
    ///
    /// # Errors
    ///
    /// One of its keys can't be used: which one, and what is wrong.
    pub(super) fn open(
        name: &str,
        config: &NotifyConfig,
        clock: Clock,
    ) -> Result<Self, NotifyError> {
        let refuse = |key: &str, words: String| NotifyError {
            receiver: name.to_owned(),
            key: key.to_owned(),
            words,
        };
        let (is_secure, uri) = parse(config.url.expose()).map_err(|words| refuse("url", words))?;
        let host = uri.host().unwrap_or_default().to_owned();
        let authority = uri.authority().map_or("", |authority| authority.as_str());
        let unusable = |_| refuse("url", "it names no host that can be asked".to_owned());
        let path = uri.path_and_query().map_or("/", |path| path.as_str());
        let secrets = secrets(config).map_err(|words| refuse("secret_file", words))?;
        let which = if config.secret_file.is_some() { "secret_file" } else { "secret" };
        let trusted = config.ca_file.as_deref().map(trust_in).transpose();
        Ok(Self {
            is_secure,
            port: uri.port_u16().unwrap_or(if is_secure { 443 } else { 80 }),
            authority: HeaderValue::from_str(authority).map_err(unusable)?,
            path: path.parse().map_err(|error| refuse("url", format!("{error}")))?,
            host,
            headers: headers(config).map_err(|words| refuse("headers", words))?,
            keys: Keys::new(&secrets).map_err(|words| refuse(which, words))?,
            trusted: trusted.map_err(|words| refuse("ca_file", words))?,
            timeout: config.timeout,
            clock,
        })
    }

    /// Where it goes, without what may be secret.
    pub(super) fn origin(&self) -> String {
        let scheme = if self.is_secure { "https" } else { "http" };
        format!("{scheme}://{}", self.authority.to_str().unwrap_or_default())
    }

    /// Whether deliveries are signed.
    pub(super) fn signs(&self) -> bool {
        self.keys.sign("", 0, b"").is_some()
    }

    /// Sends a body under a name, once.
    pub(super) async fn send(&self, id: &str, body: Bytes) -> Answer {
        match tokio::time::timeout(self.timeout, self.exchange(id, body)).await {
            Ok(answer) => answer.unwrap_or_else(|words| Answer::Later(words, None)),
            Err(_) => {
                let words = format!("no answer within {:?}", self.timeout);
                Answer::Later(words, None)
            }
        }
    }

    async fn exchange(&self, id: &str, body: Bytes) -> Result<Answer, String> {
        let request = self.request(id, body).map_err(|error| error.to_string())?;
        let stream = self.connect().await?;
        let (mut sender, connection) = http1::Builder::new()
            .max_buf_size(HEAD_BYTES_MAX)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(|error| broken(&error))?;
        let answered = async {
            let response = sender.send_request(request).await.map_err(|error| broken(&error))?;
            Ok(self.understand(response).await)
        };
        tokio::pin!(answered);
        tokio::select! {
            answer = &mut answered => answer,
            // What broke the connection is told by the exchange.
            _ = connection => answered.await,
        }
    }

    fn request(&self, id: &str, body: Bytes) -> Result<Request<Full<Bytes>>, hyper::http::Error> {
        let time_s = self.clock.now_ms() / 1000;
        let signature = self.keys.sign(id, time_s, &body);
        let mut request = Request::builder()
            .method(Method::POST)
            .uri(self.path.clone())
            .header(HOST, &self.authority)
            .header(CONNECTION, "close")
            .header(CONTENT_TYPE, "application/json")
            .header(USER_AGENT, concat!("telltale/", env!("CARGO_PKG_VERSION")))
            .header(ID, id)
            .header(TIMESTAMP, time_s);
        if let Some(signature) = signature {
            request = request.header(SIGNATURE, signature);
        }
        let mut request = request.body(Full::new(body))?;
        request.headers_mut().extend(self.headers.clone());
        Ok(request)
    }

    async fn connect(&self) -> Result<Box<dyn Stream>, String> {
        let host = self.host.trim_start_matches('[').trim_end_matches(']');
        let stream = TcpStream::connect((host, self.port)).await;
        let stream =
            stream.map_err(|error| format!("{} can't be reached: {error}", self.origin()))?;
        if !self.is_secure {
            return Ok(Box::new(stream));
        }
        let secured = async {
            let trusted = match &self.trusted {
                Some(trusted) => trusted.clone(),
                None => trust::native().await?,
            };
            let name = ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
            TlsConnector::from(trusted).connect(name, stream).await
        };
        let secured = secured.await;
        let secured = secured.map_err(|error| format!("no TLS with {}: {error}", self.origin()))?;
        Ok(Box::new(secured))
    }

    async fn understand(&self, response: Response<Incoming>) -> Answer {
        let status = response.status();
        if status.is_success() {
            return Answer::Taken(status.as_u16());
        }
        let after = response.headers().get(RETRY_AFTER).and_then(|value| self.pause(value));
        let elsewhere = response.headers().contains_key(LOCATION);
        let words = match words(response.into_body()).await {
            words if words.is_empty() => format!("it answered {status}"),
            words => format!("it answered {status}: {words}"),
        };
        let may_pass =
            [StatusCode::REQUEST_TIMEOUT, StatusCode::TOO_EARLY, StatusCode::TOO_MANY_REQUESTS];
        if status.is_server_error() || may_pass.contains(&status) {
            return Answer::Later(words, after);
        }
        Answer::Never(match status.is_redirection() && elsewhere {
            true => format!(
                "it answered {status}, and redirects are not followed: set url to where it points"
            ),
            false => words,
        })
    }

    /// The pause that `Retry-After` asks for.
    fn pause(&self, value: &HeaderValue) -> Option<Duration> {
        let text = value.to_str().ok()?.trim();
        let pause = match text.parse() {
            Ok(seconds) => Duration::from_secs(seconds),
            Err(_) => {
                let time_ms = parse_http_date(text)?;
                Duration::from_millis(time_ms.saturating_sub(self.clock.now_ms()))
            }
        };
        Some(pause.min(RETRY_AFTER_MAX))
    }
}

/// The beginning of what an answer says, in one line.
async fn words(mut body: Incoming) -> String {
    let mut bytes = Vec::new();
    while bytes.len() < WORDS_BYTES_MAX
        && let Some(Ok(frame)) = body.frame().await
    {
        if let Ok(data) = frame.into_data() {
            let room = WORDS_BYTES_MAX - bytes.len();
            bytes.extend_from_slice(&data[..data.len().min(room)]);
        }
    }
    let text = String::from_utf8_lossy(&bytes);
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    line.chars().filter(|letter| !letter.is_control()).take(WORDS_CHARS_MAX).collect()
}

/// Hyper keeps what happened in the source.
fn broken(error: &hyper::Error) -> String {
    let source = std::error::Error::source(error);
    let cause = source.map_or_else(String::new, |source| format!(": {source}"));
    format!("the exchange broke off: {error}{cause}")
}

/// Whether a URL is one of https, and the URL. What is wrong with it is said
/// without it.
fn parse(url: &str) -> Result<(bool, Uri), String> {
    let uri: Uri = url.parse().map_err(|error| format!("it is no URL: {error}"))?;
    let is_secure = match uri.scheme_str() {
        Some("https") => true,
        Some("http") => false,
        _ => return Err("it does not begin with https:// or http://".to_owned()),
    };
    let authority = uri.authority().map_or("", |authority| authority.as_str());
    if authority.is_empty() {
        return Err("it names no host".to_owned());
    }
    if authority.contains('@') {
        return Err(
            "it has a name and a password: set headers = { authorization = \"…\" } instead".into(),
        );
    }
    Ok((is_secure, uri))
}

fn secrets(config: &NotifyConfig) -> Result<Vec<Secret>, String> {
    let Some(path) = &config.secret_file else { return Ok(config.secret.clone()) };
    let text = std::fs::read_to_string(path).map_err(|error| format!("{path:?}: {error}"))?;
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    let secrets: Vec<Secret> = lines.map(|line| line.to_owned().into()).collect();
    match secrets.len() {
        0 => Err(format!("{path:?} holds no secret: `openssl rand -base64 32` makes one")),
        1..=NotifyConfig::SECRETS_MAX => Ok(secrets),
        lines => {
            Err(format!("{path:?} has {lines} lines: one secret, or two while it is replaced"))
        }
    }
}

fn headers(config: &NotifyConfig) -> Result<HeaderMap, String> {
    let own = [HOST, CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, TRANSFER_ENCODING];
    let mut headers = HeaderMap::new();
    for (name, value) in &config.headers {
        let header = HeaderName::try_from(name);
        let header = header.map_err(|_| format!("{name:?} is no name of a header"))?;
        if own.contains(&header) || [ID, TIMESTAMP, SIGNATURE].contains(&header) {
            return Err(format!("{name:?} is the hub's to set"));
        }
        let value = HeaderValue::try_from(value.expose());
        let mut value = value.map_err(|_| format!("{name:?} has no legal value"))?;
        value.set_sensitive(true);
        headers.insert(header, value);
    }
    Ok(headers)
}

/// Trusts the authorities of a file, and no others.
fn trust_in(path: &Path) -> Result<Arc<ClientConfig>, String> {
    let bytes = std::fs::read(path).map_err(|error| format!("{path:?}: {error}"))?;
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(&bytes) {
        let certificate = certificate.map_err(|error| format!("{path:?}: {error}"))?;
        roots.add(certificate).map_err(|error| format!("{path:?}: {error}"))?;
    }
    if roots.is_empty() {
        return Err(format!("{path:?} holds no certificate in PEM"));
    }
    trust::trusting(roots).map_err(|error| error.to_string())
}
