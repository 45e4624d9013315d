//! Publishes what plugins hand over.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use tokio::sync::mpsc;

use crate::access::Identity;
use crate::events::{self, Events, PublishError};
use crate::model::{Draft, Room};
use crate::plugin::{Publication, Ticket};

/// How many events are published at once: what one commit takes in, so that the
/// next are there when it is done.
const TOGETHER_MAX: usize = 256;

/// How long to wait, and how often, where the log has no room: what was taken
/// from a plugin is not given up lightly. Meanwhile plugins are told to wait.
const BUSY_PAUSE: Duration = Duration::from_millis(100);
const BUSY_TIMES_MAX: u32 = 20;

/// The rooms that an event goes to, or what is wrong with it or its key.
pub(crate) fn check_event(draft: &Draft, key: Option<&str>) -> Result<Vec<Room>, String> {
    events::check(draft, key).map_err(|error| error.to_string())
}

/// What one plugin publishes at once.
struct Batch {
    by: Arc<Identity>,
    events: Vec<(Draft, Option<String>)>,
    tickets: Vec<Ticket>,
}

/// Publishes until the plugins have ended, those of one plugin in their order.
pub(super) async fn publish(events: Events, mut queue: mpsc::Receiver<Publication>) {
    let mut taken = Vec::with_capacity(TOGETHER_MAX);
    while queue.recv_many(&mut taken, TOGETHER_MAX).await > 0 {
        let batches = by_plugin(taken.drain(..));
        join_all(batches.map(|batch| publish_batch(&events, batch))).await;
    }
}

fn by_plugin(publications: impl Iterator<Item = Publication>) -> impl Iterator<Item = Batch> {
    let mut batches: BTreeMap<Arc<str>, Batch> = BTreeMap::new();
    for Publication { by, draft, key, ticket } in publications {
        let empty = || Batch { by: by.clone(), events: Vec::new(), tickets: Vec::new() };
        let batch = batches.entry(by.user.clone()).or_insert_with(empty);
        // Where its settings have changed meanwhile: as they are now.
        batch.by = by;
        batch.events.push((draft, key));
        batch.tickets.push(ticket);
    }
    batches.into_values()
}

async fn publish_batch(events: &Events, batch: Batch) {
    let Batch { by, events: mut drafts, mut tickets } = batch;
    for times in 1..=BUSY_TIMES_MAX {
        let answers = events.publish(&by, drafts.clone()).await;
        let (mut left, mut waiting) = (Vec::new(), Vec::new());
        for ((draft, ticket), answer) in drafts.into_iter().zip(tickets).zip(answers) {
            match answer {
                Ok(_) => ticket.published(),
                Err(PublishError::Busy) if times < BUSY_TIMES_MAX => {
                    left.push(draft);
                    waiting.push(ticket);
                }
                Err(error) => ticket.failed(error),
            }
        }
        if left.is_empty() {
            return;
        }
        (drafts, tickets) = (left, waiting);
        tokio::time::sleep(BUSY_PAUSE).await;
    }
}
