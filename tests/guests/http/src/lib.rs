//! A collector that makes its requests through `wasi:http`, several at once.
#![cfg(target_arch = "wasm32")]

use std::cell::RefCell;

use serde::Deserialize;
use wasip2::http::outgoing_handler::{self, FutureIncomingResponse};
use wasip2::http::types::{ErrorCode, Fields, IncomingBody, OutgoingRequest, Scheme};
use wasip2::io::streams::StreamError;

#[allow(missing_docs, unsafe_code, unreachable_pub, clippy::all, reason = "generated code")]
mod bindings {
    use super::Component;

    wit_bindgen::generate!({ path: "../../../wit", world: "collector" });
    export!(Component);
}

use bindings::exports::telltale::plugin::collect::{Batch, Fault, Guest, Tick};
use bindings::telltale::plugin::types::Document;

/// `[config]`
#[derive(Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Settings {
    /// The host and port that are asked for `/`.
    authority: String,
    /// How many requests are under way at once.
    requests: usize,
}

thread_local! {
    static SETTINGS: RefCell<Settings> = RefCell::default();
}

struct Component;

impl Guest for Component {
    fn configure(config_json: String) -> Result<(), Fault> {
        let settings = serde_json::from_str(&config_json)
            .map_err(|error| Fault::Config(format!("[config]: {error}")))?;
        SETTINGS.set(settings);
        Ok(())
    }

    /// A document `http` with what each request brought.
    fn collect(_tick: Tick) -> Result<Batch, Fault> {
        let Settings { authority, requests } = SETTINGS.with_borrow(Clone::clone);
        let sent: Vec<_> = (0..requests).map(|_| send(&authority)).collect();
        let answers: Vec<_> = sent.into_iter().map(|sent| told(sent.and_then(receive))).collect();
        let document = Document { name: "http".into(), json: format!("[{}]", answers.join(",")) };
        let documents = vec![document];
        Ok(Batch { declare: vec![], ids: vec![], values: vec![], gone: vec![], documents })
    }
}

fn send(authority: &str) -> Result<FutureIncomingResponse, String> {
    let request = OutgoingRequest::new(Fields::new());
    let set = request
        .set_scheme(Some(&Scheme::Http))
        .and_then(|()| request.set_authority(Some(authority)))
        .and_then(|()| request.set_path_with_query(Some("/")));
    set.map_err(|()| "no such URL")?;
    outgoing_handler::handle(request, None).map_err(coded)
}

/// The status and the body's length.
fn receive(future: FutureIncomingResponse) -> Result<(u16, usize), String> {
    future.subscribe().block();
    let answer = future.get().ok_or("it is not there")?.map_err(|()| "it was there before")?;
    let response = answer.map_err(coded)?;
    let body = response.consume().map_err(|()| "its body was taken")?;
    Ok((response.status(), length(&body)?))
}

fn length(body: &IncomingBody) -> Result<usize, String> {
    let stream = body.stream().map_err(|()| "its stream was taken")?;
    let mut bytes = 0;
    loop {
        match stream.blocking_read(64 * 1024) {
            Ok(piece) => bytes += piece.len(),
            Err(StreamError::Closed) => return Ok(bytes),
            Err(StreamError::LastOperationFailed(error)) => return Err(error.to_debug_string()),
        }
    }
}

fn coded(code: ErrorCode) -> String {
    format!("{code:?}")
}

fn told(answer: Result<(u16, usize), String>) -> String {
    match answer {
        Ok((status, bytes)) => serde_json::json!({ "status": status, "bytes": bytes }),
        Err(error) => serde_json::json!({ "error": error }),
    }
    .to_string()
}
