//! `/metrics`: the newest value of each series, in the formats that Prometheus
//! and its kin read. Counters stand there as their plugins gave them, and what
//! is stale does not stand there at all.
//!
//! What is the same at each scrape is worked out when a series appears or ends,
//! and a snapshot is written once for all who ask for it.

mod names;
mod plan;
#[cfg(test)]
mod tests;

use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{Mutex, watch};
use tokio::task::spawn_blocking;

use crate::snapshot::{Mark, Snapshot, StaleReason};
use plan::Plan;

pub use plan::LeftOut;

/// How long a value stands though its plugin is late with the next. The tick
/// waits for nobody, and what came too late for one is there at the next.
const LATE_MAX: Duration = Duration::from_secs(5);
/// What a value needs beside its name and labels, about.
const VALUE_BYTES: usize = 8;

/// How an exposition is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// OpenMetrics 1.0.0.
    OpenMetrics,
    /// Prometheus' own text format, 0.0.4.
    Plain,
}

/// What became of scrapes, since the start.
#[derive(Debug, Default)]
pub struct ExpositionCounters {
    /// Expositions that were written.
    pub written: AtomicU64,
    /// Series that were left out of them, their family being of another kind or
    /// unit, or their value none that their kind can have.
    pub left_out: AtomicU64,
}

/// Writes expositions. One at a time, whoever asks.
#[derive(Debug, Default)]
pub struct Exposition {
    counters: Arc<ExpositionCounters>,
    kept: Arc<Mutex<Kept>>,
}

/// What was worked out for earlier scrapes.
#[derive(Debug, Default)]
struct Kept {
    plan: Plan,
    tick: u64,
    pages: [Option<Bytes>; 2],
}

impl Exposition {
    /// What became of scrapes.
    #[must_use]
    pub fn counters(&self) -> Arc<ExpositionCounters> {
        self.counters.clone()
    }

    /// The newest snapshot; `None` if the hub is stopping.
    pub async fn page(
        &self,
        newest: &watch::Receiver<Arc<Snapshot>>,
        format: Format,
    ) -> Option<Bytes> {
        let counters = self.counters.clone();
        self.ask(newest, move |kept, snapshot| kept.page(snapshot, format, &counters)).await
    }

    /// Which series of a plugin are left out.
    pub async fn left_out(
        &self,
        newest: &watch::Receiver<Arc<Snapshot>>,
        plugin: &str,
    ) -> Vec<LeftOut> {
        let plugin = plugin.to_owned();
        let asked = self.ask(newest, move |kept, snapshot| {
            kept.follow(snapshot);
            kept.plan.left_out(&plugin)
        });
        asked.await.unwrap_or_default()
    }

    /// Works beside the threads that serve clients: the series of a thousand
    /// plugins take tens of milliseconds.
    async fn ask<T: Send + 'static>(
        &self,
        newest: &watch::Receiver<Arc<Snapshot>>,
        work: impl FnOnce(&mut Kept, &Snapshot) -> T + Send + 'static,
    ) -> Option<T> {
        // The lock goes with the work, so that those who ask and go away again
        // leave one piece of work behind and not one each.
        let mut kept = self.kept.clone().lock_owned().await;
        let snapshot = newest.borrow().clone();
        spawn_blocking(move || work(&mut kept, &snapshot)).await.ok()
    }
}

impl Kept {
    fn follow(&mut self, snapshot: &Snapshot) {
        if self.plan.generation != snapshot.roster.generation {
            self.plan = Plan::new(&snapshot.roster);
        }
    }

    fn page(
        &mut self,
        snapshot: &Snapshot,
        format: Format,
        counters: &ExpositionCounters,
    ) -> Bytes {
        if self.tick != snapshot.tick.number {
            self.pages = [None, None];
            self.tick = snapshot.tick.number;
        }
        if let Some(page) = &self.pages[format as usize] {
            return page.clone();
        }
        self.follow(snapshot);
        let page = Bytes::from(write(&self.plan, snapshot, format, counters));
        self.pages[format as usize] = Some(page.clone());
        page
    }
}

/// Whether a series' value still stands.
fn is_fresh(snapshot: &Snapshot, position: usize) -> bool {
    match snapshot.marks[position] {
        Mark::Updated | Mark::Held => true,
        Mark::Missed | Mark::Stale => snapshot.stale.get(&position).is_some_and(|stale| {
            let ns = snapshot.tick.time_ns.saturating_sub(stale.since.time_ns);
            stale.reason == StaleReason::Late && Duration::from_nanos(ns) < LATE_MAX
        }),
    }
}

fn write(
    plan: &Plan,
    snapshot: &Snapshot,
    format: Format,
    counters: &ExpositionCounters,
) -> String {
    let line = |(_, name): &(usize, Box<str>)| name.len() + VALUE_BYTES;
    let bytes = |family: &plan::Family| {
        family.head(format).len() + family.samples.iter().map(line).sum::<usize>()
    };
    let mut text = String::with_capacity(plan.families.iter().map(bytes).sum());
    let mut left_out = plan.left_out;
    for family in &plan.families {
        let mut head = Some(family.head(format));
        for (position, name) in &family.samples {
            let value = snapshot.raw[*position];
            if !value.is_finite() || !is_fresh(snapshot, *position) {
                continue;
            }
            // Parsers refuse the whole exposition for it.
            if family.is_counter && value < 0.0 {
                left_out += 1;
                continue;
            }
            text.push_str(head.take().unwrap_or_default());
            text.push_str(name);
            // Writing to a string can't fail.
            let _ = writeln!(text, "{value:?}");
        }
    }
    if format == Format::OpenMetrics {
        text.push_str("# EOF\n");
    }
    counters.written.fetch_add(1, Ordering::Relaxed);
    counters.left_out.fetch_add(left_out, Ordering::Relaxed);
    text
}
