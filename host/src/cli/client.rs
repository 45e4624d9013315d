//! Asking the running hub, over its HTTP API.

use std::future::Future;
use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::TcpStream;

use super::Failure;
use crate::app::HubFile;

/// How long an answer may take; what waits at the hub comes on top.
const ANSWER_MAX: Duration = Duration::from_secs(10);
/// The longest answer: 100,000 series with their labels have about 20 MB.
const ANSWER_BYTES_MAX: usize = 64 * 1024 * 1024;

/// A hub that runs on this machine, found by its data folder.
pub(super) struct HubClient {
    file: HubFile,
    address: String,
}

/// Why the hub did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub(super) enum AskError {
    /// There is no answer.
    #[error("the hub at {address} does not answer: {words}")]
    Unreachable { address: String, words: String },
    /// It says no.
    #[error("{reason}")]
    Refused {
        status: u16,
        code: String,
        reason: String,
        /// When the same may do, if it may later.
        retry_after: Option<Duration>,
    },
}

/// What the hub is asked.
struct Question<'a> {
    method: Method,
    path: &'a str,
    /// How long it may wait for something to tell.
    wait: Duration,
    /// Instead of the admin token.
    token: Option<&'a str>,
    /// Its idempotency key.
    key: Option<&'a str>,
    body: Bytes,
}

impl<'a> Question<'a> {
    fn new(method: Method, path: &'a str) -> Self {
        let (wait, body) = (Duration::ZERO, Bytes::new());
        Self { method, path, wait, token: None, key: None, body }
    }
}

impl From<AskError> for Failure {
    fn from(error: AskError) -> Self {
        Self::new(error)
    }
}

impl HubClient {
    /// The hub that runs on a data folder, which `flag` names.
    ///
    /// # Errors
    ///
    /// None has left its file there.
    pub(super) fn find(data: &Path, flag: &str) -> Result<Self, Failure> {
        let file = HubFile::read(data).map_err(|_| {
            Failure::new(format!(
                "no hub runs on the data folder {}: start one with `telltale serve`, or name its \
                 folder with {flag}",
                data.display()
            ))
        })?;
        let address = file.addresses.first().cloned().unwrap_or_default();
        Ok(Self { file, address })
    }

    /// What it says of itself in its data folder.
    pub(super) fn file(&self) -> &HubFile {
        &self.file
    }

    /// The folder that its plugins lie in.
    pub(super) fn plugins_folder(&self) -> &Path {
        &self.file.plugins_folder
    }

    /// What is at a path.
    pub(super) async fn get(&self, path: &str) -> Result<Value, AskError> {
        self.ask(Question::new(Method::GET, path)).await
    }

    /// As [`HubClient::get`], from a hub that waits up to `wait` for something to tell.
    pub(super) async fn get_waiting(&self, path: &str, wait: Duration) -> Result<Value, AskError> {
        self.ask(Question { wait, ..Question::new(Method::GET, path) }).await
    }

    pub(super) async fn post(&self, path: &str) -> Result<Value, AskError> {
        self.ask(Question::new(Method::POST, path)).await
    }

    /// As [`HubClient::post`], of a hub that waits up to `wait` for somebody else.
    pub(super) async fn post_waiting(&self, path: &str, wait: Duration) -> Result<Value, AskError> {
        self.ask(Question { wait, ..Question::new(Method::POST, path) }).await
    }

    /// Publishes what `body` says, with a token of somebody's if there is one,
    /// and an idempotency key.
    pub(super) async fn publish(
        &self,
        body: Bytes,
        token: Option<&str>,
        key: Option<&str>,
    ) -> Result<Value, AskError> {
        let question = Question::new(Method::POST, "/v1/events");
        self.ask(Question { body, token, key, ..question }).await
    }

    pub(super) async fn delete(&self, path: &str) -> Result<Value, AskError> {
        self.ask(Question::new(Method::DELETE, path)).await
    }

    async fn ask(&self, question: Question<'_>) -> Result<Value, AskError> {
        let limit = ANSWER_MAX + question.wait;
        let (status, body) = match tokio::time::timeout(limit, self.exchange(question)).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(error)) => return Err(self.unreachable(&error)),
            Err(_) => {
                return Err(self.unreachable(&format!("it took over {} s", limit.as_secs())));
            }
        };
        let answer: Option<Value> = serde_json::from_slice(&body).ok();
        if !status.is_success() {
            return Err(refused(status, answer.as_ref()));
        }
        answer.ok_or_else(|| self.unreachable(&"what it says is no JSON: is it a telltale?"))
    }

    async fn exchange(
        &self,
        question: Question<'_>,
    ) -> Result<(StatusCode, Bytes), Box<dyn std::error::Error + Send + Sync>> {
        let stream = TcpStream::connect(&self.address).await?;
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        let token = question.token.unwrap_or(&self.file.admin_token);
        let mut request = Request::builder()
            .method(question.method)
            .uri(question.path)
            .header("host", "localhost")
            .header("authorization", format!("Bearer {token}"));
        if let Some(key) = question.key {
            request = request.header("idempotency-key", key);
        }
        let request = request.body(Full::new(question.body))?;
        let exchange = async {
            // Moved in, so that the connection ends with the exchange.
            let response = sender.send_request(request).await?;
            drop(sender);
            let status = response.status();
            let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX).collect().await?;
            Ok((status, body.to_bytes()))
        };
        let (answered, _) = tokio::join!(exchange, async {
            // Ends with the exchange; an error is the exchange's too.
            let _ = connection.await;
        });
        answered
    }

    fn unreachable(&self, words: &impl ToString) -> AskError {
        AskError::Unreachable { address: self.address.clone(), words: words.to_string() }
    }
}

/// The hub's own words for a no, in one line.
fn refused(status: StatusCode, answer: Option<&Value>) -> AskError {
    let error = answer.map(|answer| &answer["error"]);
    let text = |key: &str| error.and_then(|error| error[key].as_str()).map(str::to_owned);
    let reason = text("reason").unwrap_or_else(|| format!("the hub answered {status}"));
    let code = text("code").unwrap_or_default();
    let retry_after = error.and_then(retry_after);
    AskError::Refused { status: status.as_u16(), code, reason, retry_after }
}

/// When what was refused may do, if it may later.
pub(super) fn retry_after(error: &Value) -> Option<Duration> {
    let ms = error["retry_after_ms"].as_u64().unwrap_or(1000);
    (error["temporary"] == true).then(|| Duration::from_millis(ms))
}

/// Runs what a command has to wait for.
///
/// # Errors
///
/// Those of `work`, or that the system gives no runtime.
pub(super) fn wait_for<T>(work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(Failure::new)?;
    let done = runtime.block_on(work);
    // Who has interrupted a build does not wait for its end.
    runtime.shutdown_background();
    done
}
