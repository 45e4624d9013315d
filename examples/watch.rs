//! Watches a hub in a terminal: `cargo run --example watch -- ADDRESS GLOB TICKS`.
//!
//! A client of the native protocol needs no more than this: subscribe, take what
//! is known, then follow what changes.

use std::collections::BTreeMap;
use std::error::Error;
use std::io::Write;

use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio_tungstenite::connect_async;
use tokio_tungstenite::tungstenite::Message;

/// What is known of the series, by id: its title and its value.
type Known = BTreeMap<u64, (String, Option<f64>)>;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let address = arguments.next().unwrap_or_else(|| "127.0.0.1:8765".to_owned());
    let glob = arguments.next().unwrap_or_else(|| "*".to_owned());
    let ticks: u64 = arguments.next().map_or(Ok(u64::MAX), |ticks| ticks.parse())?;

    let (mut socket, _) = connect_async(format!("ws://{address}/v1/stream")).await?;
    let subscribe =
        json!({"id": 1, "op": "subscribe", "channel": "metrics", "filter": {"name": glob}});
    socket.send(Message::text(subscribe.to_string())).await?;

    let (mut known, mut seen) = (Known::new(), 0);
    while seen < ticks {
        let Some(message) = socket.next().await else { return Err("the hub has gone".into()) };
        let Message::Text(text) = message? else { continue };
        let message: Value = serde_json::from_str(&text)?;
        if let Some(error) = message.get("error") {
            return Err(error.to_string().into());
        }
        match message.pointer("/ok/snapshot") {
            Some(snapshot) => everything(&mut known, snapshot),
            None if message["full"] == true => everything(&mut known, &message),
            None => changes(&mut known, &message),
        }
        if message["push"] == "metrics" {
            seen += 1;
            show(&message, &known)?;
        }
    }
    socket.close(None).await?;
    Ok(())
}

fn everything(known: &mut Known, snapshot: &Value) {
    known.clear();
    list(snapshot, "series").for_each(|series| declare(known, series));
}

fn changes(known: &mut Known, push: &Value) {
    list(push, "gone").filter_map(Value::as_u64).for_each(|id| drop(known.remove(&id)));
    list(push, "declare").for_each(|series| declare(known, series));
    for pair in list(push, "values") {
        if let Some(series) = pair[0].as_u64().and_then(|id| known.get_mut(&id)) {
            series.1 = pair[1].as_f64();
        }
    }
}

fn declare(known: &mut Known, series: &Value) {
    let labels = series["labels"].as_object().into_iter().flatten();
    let labels: Vec<String> = labels.map(|(key, value)| format!("{key}={value}")).collect();
    let title = format!("{} {}", series["name"].as_str().unwrap_or_default(), labels.join(" "));
    if let Some(id) = series["id"].as_u64() {
        known.insert(id, (title, series["value"].as_f64()));
    }
}

fn list<'a>(message: &'a Value, key: &str) -> impl Iterator<Item = &'a Value> {
    message[key].as_array().into_iter().flatten()
}

fn show(push: &Value, known: &Known) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "tick {} {}", push["tick"], push["time"].as_str().unwrap_or_default())?;
    for (title, value) in known.values() {
        match value {
            Some(value) => writeln!(out, "  {value:>16.4}  {title}")?,
            None => writeln!(out, "  {:>16}  {title}", "-")?,
        }
    }
    Ok(())
}
