//! Resume against a model: clients that are cut off, slow, forgetful or unlucky
//! know in the end what the hub knows, and have seen each entry once.

mod client;
mod connection;
mod inside;
mod killed;
mod schedule;
mod world;

use std::sync::Arc;

use telltale::channel::{RESUME_BYTES_MAX, RESUME_ENTRIES_MAX};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use client::Tally;
use inside::Ground;
use schedule::Schedule;

/// What a client may have missed and still goes on where it stopped.
const RESUME_MAX: (usize, usize) = (RESUME_ENTRIES_MAX, RESUME_BYTES_MAX);
/// Runs unless `RESUME_RUNS` says how many: some twenty seconds.
const RUNS: u64 = 250;
/// Runs at a time. Mostly they wait, and each has some forty files open.
const RUNS_AT_ONCE: usize = 12;

fn number_from(name: &str) -> Option<u64> {
    Some(std::env::var(name).ok()?.parse().unwrap())
}

/// `RESUME_SEED=n` repeats a run that has failed, and only that one.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn whatever_happens_a_client_ends_with_what_the_hub_knows_and_has_seen_each_entry_once() {
    let ground = Arc::new(Ground::new());
    let seeds = match number_from("RESUME_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number_from("RESUME_RUNS").unwrap_or(RUNS),
    };
    let is_whole = seeds.end - seeds.start >= RUNS;
    let room = Arc::new(Semaphore::new(RUNS_AT_ONCE));
    let mut runs = JoinSet::new();
    let mut tally = Tally::default();
    for seed in seeds {
        let room = room.clone().acquire_owned().await.unwrap();
        let ground = ground.clone();
        runs.spawn(async move {
            let _room = room;
            Schedule::of(seed).run(&ground).await
        });
        while let Some(run) = runs.try_join_next() {
            tally.add(run.unwrap());
        }
    }
    while let Some(run) = runs.join_next().await {
        tally.add(run.unwrap());
    }
    println!("{tally:?}");
    if is_whole {
        let Tally { duplicates, recovered_entries, unrecovered, gaps, skipped, .. } = tally;
        let seen = [duplicates, recovered_entries, unrecovered, gaps, skipped];
        assert!(seen.iter().all(|count| *count > 0), "something was not tested: {tally:?}");
    }
}
