//! Asking the running hub.

use std::path::Path;

use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper::Request;
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::TcpStream;

use crate::app::HubFile;

/// Asks the hub on a data folder.
///
/// # Errors
///
/// Why there is no answer, in one line.
pub(super) fn get(data: &Path, path: &str) -> Result<Value, String> {
    let hub = HubFile::read(data).map_err(|_| {
        format!(
            "no hub runs on the data folder {}: start one with `telltale serve`, or name its \
             folder with --data",
            data.display()
        )
    })?;
    let address = hub.addresses.first().cloned().unwrap_or_default();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| error.to_string())?;
    let answered = runtime.block_on(ask(&address, path));
    answered.map_err(|error| format!("the hub at {address} does not answer: {error}"))
}

async fn ask(address: &str, path: &str) -> Result<Value, Box<dyn std::error::Error>> {
    let stream = TcpStream::connect(address).await?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let request = Request::get(path).header("host", "localhost").body(Empty::<Bytes>::new())?;
    let exchange = async {
        let response = sender.send_request(request).await?;
        Ok::<_, hyper::Error>(response.into_body().collect().await?.to_bytes())
    };
    let (answered, _) = tokio::join!(exchange, async {
        // Ends with the exchange; an error is the exchange's too.
        let _ = connection.await;
    });
    Ok(serde_json::from_slice(&answered?)?)
}
