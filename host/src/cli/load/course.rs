//! The course of a measurement: connecting, idle, subscribing, measuring.

use std::io::IsTerminal;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use tokio::sync::Semaphore;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout};

use super::client::{Phase, Shared, live};
use super::dialect::Dialect;
use super::events::Events;
use super::process::{KernelMemory, Process, ProcessorTime, own_processor_time};
use super::publisher::Publisher;
use super::report::{Connecting, Memory, Report, Window};
use super::tally::{Counts, Role};
use super::wire::Door;
use crate::cli::Failure;

/// Clients that shake hands at once: enough to keep the hub busy, and fewer than
/// fit into the queue of any listener (128). Who finds it full tries again
/// after a second, and that would be what is measured.
const JOINING_MAX: usize = 100;
/// How long it is waited for what has been done to be over, and for memory to
/// be as it stays.
const SETTLE: Duration = Duration::from_secs(1);
/// How long the answers to all subscriptions may take.
const SUBSCRIBE_MAX: Duration = Duration::from_secs(60);
/// How often it is looked whether the hub is between two ticks …
const LOOK_EVERY: Duration = Duration::from_millis(1);
/// … and for how long: where ticks overlap it never is.
const BETWEEN_MAX: Duration = Duration::from_secs(1);
/// How often progress is shown, and the end of all clients noticed.
const PROGRESS_EVERY: Duration = Duration::from_millis(100);
/// How long it is waited at the end for events that are on their way.
const ARRIVE_MAX: Duration = Duration::from_secs(5);
/// How long the clients may take to end.
const END_MAX: Duration = Duration::from_secs(10);

/// What is to be done.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) address: SocketAddr,
    /// Whose costs are told.
    pub(super) server: Option<Process>,
    pub(super) dialect: Dialect,
    pub(super) filter: Option<String>,
    /// What all of them show.
    pub(super) token: Option<String>,
    /// What is published, where clients are in rooms.
    pub(super) publish: Option<Publishing>,
    pub(super) clients: usize,
    pub(super) slow_percent: f64,
    pub(super) churn_percent_s: f64,
    pub(super) connect_rate_s: Option<f64>,
    pub(super) duration: Duration,
}

/// What is to be published.
#[derive(Clone, Copy, Debug)]
pub(super) struct Publishing {
    /// The rooms that clients and events are spread over.
    pub(super) rooms: u64,
    pub(super) per_second: f64,
    pub(super) data_bytes: usize,
    /// Connections that publish.
    pub(super) publishers: u64,
}

/// A measurement under way.
#[derive(Debug)]
pub(super) struct Course {
    plan: Plan,
    roles: Vec<Role>,
    /// How many come and go each second.
    churn_s: f64,
    shared: Arc<Shared>,
    clients: JoinSet<()>,
    /// Those of them that go, with their places, in the order in which they do.
    passing: Vec<(usize, AbortHandle)>,
    publishers: JoinSet<()>,
    progress: ProgressBar,
}

/// What can be read of the machine at a moment.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reading {
    pub(super) rss_anon_bytes: Option<u64>,
    pub(super) kernel: Option<KernelMemory>,
}

impl Course {
    /// # Errors
    ///
    /// The shares leave no client that reads from the beginning to the end.
    pub(super) fn new(plan: Plan) -> Result<Self, String> {
        let slow = share(plan.clients, plan.slow_percent);
        let churn_s = count(plan.clients) * plan.churn_percent_s / 100.0;
        // Each stays about a second, or longer where not even one goes in one.
        let passing = share(plan.clients, plan.churn_percent_s);
        if slow + passing >= plan.clients {
            return Err(format!(
                "of {} clients {slow} are slow and {passing} come and go, so that none is left to \
                 measure with: lower --slow or --churn",
                plan.clients
            ));
        }
        let roles = roles(plan.clients, slow, passing);
        let door = Door { address: plan.address, token: plan.token.clone() };
        let (rooms, events) = match plan.publish {
            Some(Publishing { rooms, per_second, .. }) => {
                (Some(rooms), Some(Events::new(rooms, per_second)))
            }
            None => (None, None),
        };
        let (dialect, filter) = (plan.dialect, plan.filter.clone());
        let shared = Shared::new(door, dialect, filter, rooms, plan.clients, events);
        Ok(Self {
            roles,
            churn_s,
            shared: Arc::new(shared),
            clients: JoinSet::new(),
            passing: Vec::new(),
            publishers: JoinSet::new(),
            progress: ProgressBar::hidden(),
            plan,
        })
    }

    /// Does all of it.
    ///
    /// # Errors
    ///
    /// No client could connect, or the hub refuses what they ask for.
    pub(super) async fn run(mut self) -> Result<Report, Failure> {
        let cpu_before = self.cpu_before().await;
        let before = self.reading();
        let connecting = self.connect().await?;
        self.phase("idle", 0);
        sleep(SETTLE).await;
        let idle = self.reading();
        self.subscribe().await?;
        self.begin_to_publish().await?;
        let steady = self.shared.tally().counts.steady;
        let (window, active) = self.measure(steady).await;
        self.end().await;
        self.progress.finish_and_clear();
        let memory = Memory { before, idle, active };
        let counts = &self.shared.tally().counts;
        let has = |role: fn(&Role) -> bool| self.roles.iter().filter(|one| role(one)).count();
        Ok(Report::new(
            &self.plan,
            [has(|role| *role == Role::Slow), has(|role| matches!(role, Role::Passing { .. }))],
            connecting,
            &Window { cpu_before, steady, ..window },
            &memory,
            counts,
        ))
    }

    /// What the hub uses in a second without any of the clients.
    async fn cpu_before(&mut self) -> Option<Duration> {
        self.phase("before", 0);
        let server = self.plan.server?;
        let (from, start) = (server.processor_time()?, Instant::now());
        sleep(SETTLE).await;
        let used = server.processor_time()?.since(&from);
        Some(used.div_f64(start.elapsed().as_secs_f64()))
    }

    fn reading(&self) -> Reading {
        Reading {
            rss_anon_bytes: self.plan.server.and_then(Process::rss_anon_bytes),
            kernel: KernelMemory::now(),
        }
    }

    fn processor_time(&self) -> Option<ProcessorTime> {
        self.plan.server.and_then(Process::processor_time)
    }

    /// Connects all clients.
    async fn connect(&mut self) -> Result<Connecting, Failure> {
        self.phase("connecting", self.roles.len());
        let (cpu, start) = (self.processor_time(), Instant::now());
        let turns = Arc::new(Semaphore::new(JOINING_MAX));
        let mut pace = self.plan.connect_rate_s.map(pace);
        for (place, role) in self.roles.clone().into_iter().enumerate() {
            if let Some(pace) = &mut pace {
                pace.tick().await;
            }
            let turn = turns.clone().acquire_owned().await.ok();
            let client = self.clients.spawn(live(self.shared.clone(), place, role, turn));
            if matches!(role, Role::Passing { .. }) {
                self.passing.push((place, client));
            }
            self.progress.inc(1);
        }
        self.until(|counts| counts.to_connect == 0).await;
        let cpu = elapsed(cpu.as_ref(), self.processor_time().as_ref());
        let counts = &self.shared.tally().counts;
        if counts.steady == 0 {
            let why = counts.failed.keys().next().map_or("all have gone again", String::as_str);
            return Err(Failure::new(format!(
                "no client can be measured at {}: {why}",
                self.plan.address
            )));
        }
        let took = counts.connected_last.map_or(Duration::ZERO, |last| last - start.into_std());
        Ok(Connecting { took, cpu })
    }

    /// Subscribes all of them, and lets them settle.
    async fn subscribe(&mut self) -> Result<(), Failure> {
        self.phase("subscribing", 0);
        self.shared.phase.send_replace(Phase::Subscribe);
        let all = self.until(|counts| counts.to_subscribe == 0 || counts.refusal.is_some());
        let in_time = timeout(SUBSCRIBE_MAX, all).await.is_ok();
        let counts = &self.shared.tally().counts;
        if let Some(reason) = &counts.refusal {
            return Err(Failure::new(format!("the hub refuses the subscription: {reason}")));
        }
        if !in_time {
            return Err(Failure::new(format!(
                "{} of the clients had no answer to their subscription in {} s",
                counts.to_subscribe,
                SUBSCRIBE_MAX.as_secs()
            )));
        }
        Ok(())
    }

    /// Has events published from now on.
    async fn begin_to_publish(&mut self) -> Result<(), Failure> {
        let Some(Publishing { rooms, data_bytes, publishers, .. }) = self.plan.publish else {
            return Ok(());
        };
        self.phase("publishers", 0);
        let mut joined = Vec::new();
        for place in 0..publishers {
            let shared = self.shared.clone();
            let publisher = Publisher::join(shared, (place, publishers), (rooms, data_bytes)).await;
            joined.push(publisher.map_err(|why| {
                Failure::new(format!(
                    "the hub lets no publisher in at {}: {why}",
                    self.plan.address
                ))
            })?);
        }
        let mut steady = vec![0; usize::try_from(rooms).unwrap_or(usize::MAX)];
        for (place, _) in self.roles.iter().enumerate().filter(|(_, role)| **role == Role::Steady) {
            let room = self.shared.room(place).and_then(|room| usize::try_from(room).ok());
            steady[room.unwrap_or(0)] += 1;
        }
        if let Some(events) = &mut self.shared.tally().counts.events {
            events.start(self.shared.clock.now_ns(), steady);
        }
        joined.into_iter().for_each(|publisher| drop(self.publishers.spawn(publisher.publish())));
        Ok(())
    }

    /// Counts what comes, while some come and go.
    async fn measure(&mut self, steady: usize) -> (Window, Reading) {
        let mut clients = std::mem::take(&mut self.clients);
        let mut passing = std::mem::take(&mut self.passing);
        let coming_and_going = churn(&self.shared, &mut clients, &mut passing, self.churn_s);
        let measured = tokio::select! {
            measured = self.window(steady) => measured,
            () = coming_and_going => unreachable!("it has no end"),
        };
        self.clients = clients;
        measured
    }

    async fn window(&self, steady: usize) -> (Window, Reading) {
        self.phase("settling", 0);
        sleep(SETTLE).await;
        self.between_ticks().await;
        let whole = self.plan.duration;
        self.phase("measuring", usize::try_from(whole.as_secs()).unwrap_or(0));
        let (cpu, own, start) = (self.processor_time(), own_processor_time(), Instant::now());
        self.shared.tally().counts.begin();
        while start.elapsed() < whole && self.shared.tally().counts.steady > 0 {
            sleep(PROGRESS_EVERY.min(whole.saturating_sub(start.elapsed()))).await;
            self.progress.set_position(start.elapsed().as_secs());
        }
        self.between_ticks().await;
        let took = self.stop_counting(start);
        let window = Window {
            took,
            cpu: elapsed(cpu.as_ref(), self.processor_time().as_ref()),
            own: own_processor_time().saturating_sub(own),
            cpu_before: None,
            steady,
        };
        let reading = self.reading();
        self.until_events_have_come().await;
        (window, reading)
    }

    /// Ends the counting of ticks, and the publishing; how long it was since
    /// `start`.
    fn stop_counting(&self, start: Instant) -> Duration {
        let counts = &mut self.shared.tally().counts;
        match &mut counts.events {
            Some(events) => events.end(),
            None => counts.end(),
        }
        start.elapsed()
    }

    /// Waits for events that were published and are on their way.
    async fn until_events_have_come(&self) {
        let start = Instant::now();
        let have_come = || {
            let events = &self.shared.tally().counts.events;
            events.as_ref().is_none_or(Events::has_settled)
        };
        while !have_come() && start.elapsed() < ARRIVE_MAX {
            sleep(PROGRESS_EVERY).await;
        }
        self.shared.tally().counts.end();
    }

    /// Waits until the newest tick has come to all, so that no tick is counted
    /// in part, and none that is late is left out.
    async fn between_ticks(&self) {
        if self.plan.publish.is_some() {
            return;
        }
        let start = Instant::now();
        while !self.shared.tally().counts.is_between_ticks() && start.elapsed() < BETWEEN_MAX {
            sleep(LOOK_EVERY).await;
        }
    }

    /// Lets all clients end, and those that never read see what became of them.
    async fn end(&mut self) {
        self.shared.phase.send_replace(Phase::End);
        let ended = async { while self.clients.join_next().await.is_some() {} };
        let _ = timeout(END_MAX, ended).await;
        self.clients.shutdown().await;
        self.publishers.shutdown().await;
    }

    /// Waits until the clients are as they are wanted.
    async fn until(&self, wanted: impl Fn(&Counts) -> bool) {
        while !wanted(&self.shared.tally().counts) {
            self.shared.changed.notified().await;
        }
    }

    /// Shows a phase of so many steps where somebody watches.
    fn phase(&self, name: &'static str, steps: usize) {
        if !std::io::stderr().is_terminal() {
            return;
        }
        self.progress.set_draw_target(indicatif::ProgressDrawTarget::stderr());
        let template = if steps == 0 { "{msg}" } else { "{msg:<11} {wide_bar} {pos}/{len}" };
        if let Ok(style) = ProgressStyle::with_template(template) {
            self.progress.set_style(style);
        }
        self.progress.set_length(steps as u64);
        self.progress.set_position(0);
        self.progress.set_message(name);
    }
}

/// Ends one client after the other, so many in a second, and puts another in
/// the place of each.
async fn churn(
    shared: &Arc<Shared>,
    clients: &mut JoinSet<()>,
    passing: &mut [(usize, AbortHandle)],
    churn_s: f64,
) {
    if passing.is_empty() {
        return std::future::pending().await;
    }
    let mut pace = pace(churn_s);
    for next in (0..passing.len()).cycle() {
        pace.tick().await;
        let (place, client) = &mut passing[next];
        client.abort();
        let role = Role::Passing { again: true };
        *client = clients.spawn(live(shared.clone(), *place, role, None));
        while clients.try_join_next().is_some() {}
    }
}

/// So many turns a second; those that were missed are made up for.
fn pace(per_second: f64) -> tokio::time::Interval {
    // Tokio's clock has milliseconds: those that are due at once come at once.
    let mut pace = interval(Duration::from_secs_f64((1.0 / per_second).clamp(1e-6, 1e6)));
    pace.set_missed_tick_behavior(MissedTickBehavior::Burst);
    pace
}

fn elapsed(from: Option<&ProcessorTime>, to: Option<&ProcessorTime>) -> Option<Duration> {
    Some(to?.since(from?))
}

#[expect(clippy::cast_precision_loss, reason = "there are not so many clients")]
fn count(clients: usize) -> f64 {
    clients as f64
}

/// A share of the clients: at least one if it is more than nothing.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "no share is negative or more than all"
)]
fn share(clients: usize, percent: f64) -> usize {
    let exact = count(clients) * percent / 100.0;
    if percent > 0.0 { (exact.round() as usize).max(1) } else { 0 }
}

/// What each client is there for, in the order in which they connect: spread
/// evenly, since a hub may serve them in that order.
fn roles(clients: usize, slow: usize, passing: usize) -> Vec<Role> {
    let mut roles = vec![Role::Steady; clients];
    let mut spread = |count: usize, role: Role| {
        let free: Vec<usize> =
            (0..clients).filter(|client| roles[*client] == Role::Steady).collect();
        for one in 0..count {
            roles[free[one * free.len() / count]] = role;
        }
    };
    spread(slow, Role::Slow);
    spread(passing, Role::Passing { again: false });
    roles
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn roles_are_spread_evenly() {
        let (steady, slow, passing) = (Role::Steady, Role::Slow, Role::Passing { again: false });
        assert_eq!(roles(8, 2, 2), [slow, passing, steady, steady, slow, passing, steady, steady]);
        for (slow, passing) in [(0, 0), (10, 5), (50, 49), (1, 98), (99, 0)] {
            let roles = roles(100, slow, passing);
            let count = |wanted: Role| roles.iter().filter(|role| **role == wanted).count();
            assert_eq!(count(Role::Slow), slow);
            assert_eq!(count(Role::Passing { again: false }), passing);
        }
    }

    #[test]
    fn a_share_is_at_least_one_client() {
        for (clients, percent, share_of_them) in
            [(1000, 10.0, 100), (10, 5.0, 1), (3, 1.0, 1), (1000, 0.0, 0), (30, 5.0, 2)]
        {
            assert_eq!(share(clients, percent), share_of_them);
        }
    }
}
