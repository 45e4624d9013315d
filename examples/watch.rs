//! Watches a hub in a terminal: `cargo run --example watch -- ADDRESS GLOB TICKS`.
//!
//! Values at each tick; below them the findings that open and close, and what
//! becomes of plugins. A token is taken from `TOKEN` in the environment. It outlives
//! its connections: see `clients/rust/client.rs`.

#[path = "clients/rust/client.rs"]
#[expect(dead_code, reason = "it only looks, and publishes nothing")]
mod client;

use std::collections::BTreeMap;
use std::error::Error;
use std::io::{Result as Written, Write};

use serde_json::{Value, json};

use client::{Client, Event, Series, Subscription, labels};

/// The place of `metrics` among the subscriptions.
const METRICS: usize = 0;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let address = arguments.next().unwrap_or_else(|| "127.0.0.1:8765".to_owned());
    let glob = arguments.next().unwrap_or_else(|| "*".to_owned());
    let ticks: u64 = arguments.next().map_or(Ok(u64::MAX), |ticks| ticks.parse())?;

    let mut client = Client::new(&address)
        .subscribe(json!({"channel": "metrics", "filter": {"name": glob}}))
        .subscribe(json!({"channel": "findings"}))
        .subscribe(json!({"channel": "hub"}));
    if let Ok(token) = std::env::var("TOKEN") {
        client = client.token(move || token.clone());
    }
    let mut seen = 0;
    while seen < ticks {
        let event = client.next().await?;
        seen += u64::from(event == Event::Changed { at: METRICS });
        show(&event, &client.subscriptions)?;
    }
    Ok(())
}

fn show(event: &Event, subscriptions: &[Subscription]) -> Written<()> {
    let mut out = std::io::stdout().lock();
    match event {
        Event::Changed { at } => show_tick(&mut out, &subscriptions[*at]),
        Event::Entry { at, offset, entry } => {
            show_entry(&mut out, &subscriptions[*at].channel, &offset.to_string(), entry)
        }
        Event::Fresh { at, first } => {
            let Subscription { channel, open, position, .. } = &subscriptions[*at];
            if !first {
                let offset = position.as_ref().map_or(0, |position| position.offset);
                writeln!(out, "  {channel}: entries were lost before {offset}")?;
            }
            open.values().try_for_each(|finding| show_entry(&mut out, channel, "-", finding))
        }
        Event::Lost { reason, again_in } => {
            let again_in = again_in.as_millis();
            writeln!(std::io::stderr(), "lost: {reason}; again in {again_in} ms")
        }
        Event::Connected | Event::Gap { .. } => Ok(()),
    }
}

fn show_tick(out: &mut impl Write, metrics: &Subscription) -> Written<()> {
    let (tick, time) = &metrics.tick;
    writeln!(out, "tick {tick} {time}")?;
    for Series { name, labels, value, stale, .. } in metrics.series.values() {
        let number = value.map_or_else(|| "-".to_owned(), |value| format!("{value:.4}"));
        let stale = stale.as_ref().map_or_else(String::new, |code| format!("  ({code})"));
        writeln!(out, "  {number:>16}  {}{stale}", title(name, labels))?;
    }
    Ok(())
}

fn show_entry(out: &mut impl Write, channel: &str, offset: &str, entry: &Value) -> Written<()> {
    let word = |key: &str| entry[key].as_str().unwrap_or_default();
    let what = if channel == "findings" {
        let (state, kind, detector) = (word("state"), word("type"), word("detector"));
        let title = title(word("name"), &labels(entry));
        let peak = entry["peak"].as_f64().unwrap_or_default();
        format!("{state} {kind} {peak:.2} {title} by {detector}")
    } else {
        let reason = entry["reason"].as_str().map_or_else(String::new, |r| format!(": {r}"));
        format!("{} {}{reason}", word("event"), word("plugin"))
    };
    writeln!(out, "  {channel} {offset} {what}")
}

fn title(name: &str, labels: &BTreeMap<String, String>) -> String {
    labels.iter().fold(name.to_owned(), |title, (key, value)| format!("{title} {key}={value}"))
}
