//! Boards under dashboards that edit them by chance: over sockets that are cut
//! and over HTTP, with operations that are sent again, made on what stands no
//! more, and resolved, while the real program is stopped and killed again and
//! again. All end in the same state: that of the accepted operations in their
//! order, each once.
//!
//! `LAYOUTS_RUNS` says how many runs, `LAYOUTS_SEED` runs one seed alone.

mod board;
mod course;
mod dashboard;

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use rustix::process::Signal;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::harness::{Door, Hub};
use course::{Course, Tally};

/// Runs unless `LAYOUTS_RUNS` says how many.
const RUNS: u64 = 150;
/// Runs at the same time, each with a board of its own.
const LANES: usize = 12;
/// Runs between two ends of the hub.
const RUNS_AN_END: u64 = 10;

/// No limit but those of boards has a say.
const CONFIGURATION: &str = "
[limits]
messages_per_second = 100000
messages_burst = 100000
publishes_per_second = 100000
publishes_burst = 100000
[drain]
window = \"0s\"
";

fn of_environment(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|value| value.parse().unwrap())
}

/// The seeds of all runs: always the same.
fn seeds() -> Vec<u64> {
    match of_environment("LAYOUTS_SEED") {
        Some(seed) => vec![seed],
        None => (0..of_environment("LAYOUTS_RUNS").unwrap_or(RUNS)).collect(),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn over_kills_of_the_program_all_dashboards_end_in_the_state_of_the_accepted_operations() {
    let address = address_to_keep();
    let setup = Hub::new().listen(address).configured(CONFIGURATION);
    let mut hub = setup.start_listening().await;
    let started = Instant::now();

    let seeds = Arc::new(seeds());
    let (next, (done, mut finished)) = (Arc::new(AtomicU64::new(0)), watch::channel(0_u64));
    let mut lanes = JoinSet::new();
    for _ in 0..LANES.min(seeds.len()) {
        let (seeds, next, done) = (seeds.clone(), next.clone(), done.clone());
        lanes.spawn(async move {
            let mut tally = Tally::default();
            loop {
                let run = next.fetch_add(1, Ordering::Relaxed);
                let Some(seed) = usize::try_from(run).ok().and_then(|run| seeds.get(run)) else {
                    return tally;
                };
                tally.add(Course::new(*seed, run, Door(address)).run().await);
                done.send_modify(|done| *done += 1);
            }
        });
    }
    drop(done);

    let mut rng = StdRng::seed_from_u64(7);
    let (mut tally, mut ends) = (Tally::default(), 0_u64);
    loop {
        tokio::select! {
            // One that fails ends the test.
            lane = lanes.join_next() => match lane {
                Some(lane) => tally.add(lane.unwrap()),
                None => break,
            },
            // What it answers with would keep the lanes waiting.
            Ok(()) = async {
                finished.wait_for(|done| *done >= (ends + 1) * RUNS_AN_END).await.map(drop)
            } => {
                tokio::time::sleep(Duration::from_millis(rng.random_range(0..40))).await;
                ends += 1;
                let setup = match ends % 4 {
                    3 => hub.stop_with(Signal::TERM).await.1,
                    _ => hub.kill(),
                };
                hub = setup.start_listening().await;
            }
        }
    }
    println!("{tally:?}, {ends} ends of the hub, in {:.1} s", started.elapsed().as_secs_f64());
    let _setup = hub.stop_with(Signal::TERM).await;
}

/// An address that a hub can have again and again: its port is none of those
/// that the system gives to whoever asks for any, and none that the other tests
/// of this kind take.
fn address_to_keep() -> SocketAddr {
    let first = u16::try_from(std::process::id() % 600).unwrap();
    let free = (0..600).map(|n| SocketAddr::from(([127, 0, 0, 1], 31_500 + (first + n) % 600)));
    free.into_iter().find(|address| TcpListener::bind(address).is_ok()).unwrap()
}
