//! Events in rooms while the real program is killed again and again on one
//! address and one data folder: publishers that publish until they are told
//! that it is safe, and clients that go on where they stopped. Each event that
//! was acknowledged comes once, in order, to each client that is entitled to it
//! and subscribed to it, and to no other.

mod native;
mod publisher;
mod socketio;
mod world;

use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use rustix::process::Signal;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::harness::{Hub, within};
use publisher::Publisher;
use world::{Follower, Known, Published, address_to_keep, compare, log, token};

/// Ends of the hub unless `ROOMS_KILLS` says how many.
const KILLS: u64 = 12;

/// Those who follow and those who publish, while the hub comes and goes.
struct Cast {
    stop: watch::Sender<bool>,
    followers: Vec<(watch::Receiver<u64>, JoinHandle<Known>)>,
    publishers: Vec<(watch::Receiver<u64>, JoinHandle<Published>)>,
    /// Clients are to end.
    end: watch::Sender<bool>,
}

impl Cast {
    /// Waits until each client has been told more than it had, and each
    /// publisher has had more acknowledged.
    async fn all_go_on(&mut self) {
        let followers = self.followers.iter_mut().map(|(seen, _)| seen);
        let publishers = self.publishers.iter_mut().map(|(acknowledged, _)| acknowledged);
        for progress in followers.chain(publishers) {
            let before = *progress.borrow();
            within("something to go on", progress.wait_for(|now| *now > before)).await.unwrap();
        }
    }
}

fn kills() -> u64 {
    std::env::var("ROOMS_KILLS").map_or(KILLS, |kills| kills.parse().unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn over_kills_of_the_program_each_acknowledged_event_comes_once_to_all_entitled_and_none_else()
 {
    let address = address_to_keep();
    let setup = Hub::new().listen(address).tick_ms(50);
    std::fs::write(setup.path().join("telltale.toml"), world::CONFIGURATION).unwrap();
    let mut hub = setup.start_listening().await;

    let (stop, stopped) = watch::channel(false);
    let (end, ended) = watch::channel(false);
    let mut cast = Cast { stop, followers: Vec::new(), publishers: Vec::new(), end };
    for wishes in world::wishes() {
        let follower = Follower::new(address, wishes);
        let seen = follower.seen.subscribe();
        cast.followers.push((seen, tokio::spawn(follower.follow(ended.clone()))));
    }
    // From here on each event is for all who are entitled to it.
    for (seen, _) in &mut cast.followers {
        within("a client to be subscribed", seen.wait_for(|seen| *seen > 0)).await.unwrap();
    }
    for place in 0..publisher::KINDS {
        let publisher = Publisher::new(address, place);
        let acknowledged = publisher.acknowledged.subscribe();
        cast.publishers.push((acknowledged, tokio::spawn(publisher.publish(stopped.clone()))));
    }

    let mut rng = StdRng::seed_from_u64(5);
    for round in 0..kills() {
        cast.all_go_on().await;
        tokio::time::sleep(Duration::from_millis(rng.random_range(0..40))).await;
        let setup = match round % 8 {
            7 => hub.stop_with(Signal::TERM).await.1,
            _ => hub.kill(),
        };
        hub = setup.start_listening().await;
    }
    cast.all_go_on().await;
    cast.stop.send_replace(true);
    let mut published = Vec::new();
    for (_, publisher) in cast.publishers {
        published.extend(within("a publisher to end", publisher).await.unwrap());
    }
    // What nobody has had yet is on its way.
    for (place, (seen, _)) in cast.followers.iter_mut().enumerate() {
        let wanted = world::entitled(&world::wishes()[place], &published).len() as u64;
        let all = seen.wait_for(|seen| *seen > wanted);
        within("all that was published to come", all).await.unwrap();
    }
    cast.end.send_replace(true);
    let data = hub.setup().data();
    let (_, _setup) = hub.stop_with(Signal::TERM).await;
    compare(&log(&data), &published);
    for (place, (_, follower)) in cast.followers.into_iter().enumerate() {
        let known = within("a client to end", follower).await.unwrap();
        let wishes = &world::wishes()[place];
        assert_eq!(known.events, world::entitled(wishes, &published), "{wishes:?}");
        println!("{} of {}: {known}", wishes.user, published.len());
    }
}

#[test]
fn a_token_says_who_a_client_is() {
    assert_eq!(token("ana", &["project:*"], false).split('.').count(), 3);
}
