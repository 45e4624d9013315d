//! What came of a measurement, as JSON and for people.

use std::collections::BTreeMap;
use std::fmt::{Display, Formatter};
use std::time::Duration;

use hdrhistogram::Histogram;
use serde::Serialize;

use super::course::{Plan, Publishing, Reading};
use super::dialect::Dialect;
use super::events::{Events, Outcome};
use super::tally::Counts;
use crate::cli::Failure;
use crate::cli::plugin::text::{bytes, nanos};

/// From this share of a core on, what is measured is the generator.
const SATURATED: f64 = 0.9;

/// How connecting went.
#[derive(Debug)]
pub(super) struct Connecting {
    /// From the first attempt to the last connection.
    pub(super) took: Duration,
    /// What the hub used.
    pub(super) cpu: Option<Duration>,
}

/// What it took while messages were counted.
#[derive(Debug)]
pub(super) struct Window {
    pub(super) took: Duration,
    /// What the hub used, …
    pub(super) cpu: Option<Duration>,
    /// … in a second without any client, …
    pub(super) cpu_before: Option<Duration>,
    /// … and what the generator used.
    pub(super) own: Duration,
    /// Clients that should have had everything.
    pub(super) steady: usize,
}

/// Memory at the three moments.
#[derive(Debug)]
pub(super) struct Memory {
    pub(super) before: Reading,
    pub(super) idle: Reading,
    pub(super) active: Reading,
}

/// All that is reported. The keys of its JSON stay.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    address: String,
    dialect: Dialect,
    filter: Option<String>,
    publish: Option<Publish>,
    clients: Clients,
    connecting: ConnectingReport,
    /// How long messages were counted.
    window_s: f64,
    messages: u64,
    bytes: u64,
    /// Or events, where there are rooms.
    ticks: u64,
    /// Pushes that steady clients have not had.
    missing: u64,
    /// Pushes that the hub says it has left out.
    skipped: u64,
    latency: Option<Latency>,
    /// From the beginning of connecting, of those that get one unasked.
    first_message: Option<Latency>,
    last_client: Option<LastClient>,
    /// By close code.
    closes: BTreeMap<u16, u64>,
    slow_closes: BTreeMap<u16, u64>,
    server: Option<Server>,
    kernel: Option<Kernel>,
    generator: Generator,
}

#[derive(Debug, Serialize)]
struct Clients {
    asked: usize,
    connected: usize,
    steady: usize,
    slow: usize,
    passing: usize,
    /// They came in the place of others that had gone.
    returned: u64,
}

/// What was published while it was counted.
#[derive(Debug, Serialize)]
struct Publish {
    rooms: u64,
    publishers: u64,
    data_bytes: usize,
    asked_per_second: f64,
    acknowledged: u64,
    acknowledged_per_second: f64,
    /// Neither acknowledged nor refused.
    unanswered: u64,
    /// By code.
    refused: BTreeMap<String, u64>,
    latency: Option<Latency>,
}

#[derive(Debug, Serialize)]
struct ConnectingReport {
    seconds: f64,
    per_second: f64,
    errors: BTreeMap<String, u64>,
}

#[derive(Debug, Serialize)]
struct Latency {
    p50_us: u64,
    p99_us: u64,
    p999_us: u64,
    max_us: u64,
}

/// When the last steady client had a tick, or an event.
#[derive(Debug, Serialize)]
struct LastClient {
    median_us: u64,
    max_us: u64,
}

/// The hub's process.
#[derive(Debug, Serialize)]
struct Server {
    pid: u32,
    cpu_ms: Option<f64>,
    /// Of one core.
    cpu_cores: Option<f64>,
    cpu_us_per_message: Option<f64>,
    cpu_us_per_connection: Option<f64>,
    cpu_before_ms_per_s: Option<f64>,
    rss_anon_before_bytes: Option<u64>,
    rss_anon_idle_bytes: Option<u64>,
    rss_anon_active_bytes: Option<u64>,
    idle_bytes_per_client: Option<f64>,
    active_bytes_per_client: Option<f64>,
}

/// The kernel's memory for both ends of all connections.
#[derive(Debug, Serialize)]
struct Kernel {
    tcp_idle_bytes_per_client: f64,
    tcp_active_bytes_per_client: f64,
    slab_idle_bytes_per_client: f64,
    slab_active_bytes_per_client: f64,
}

#[derive(Debug, Serialize)]
struct Generator {
    cpu_ms: f64,
    /// Of one core, which is all that it can use.
    cpu_cores: f64,
    saturated: bool,
}

impl Report {
    /// `slow_passing`: how many clients never read, and how many come and go.
    pub(super) fn new(
        plan: &Plan,
        slow_passing: [usize; 2],
        connecting: Connecting,
        window: &Window,
        memory: &Memory,
        counts: &Counts,
    ) -> Self {
        let [slow, passing] = slow_passing;
        let published = counts.events.as_ref().map(|events| (events, events.outcome()));
        let (ticks, missing) = match &published {
            Some((_, outcome)) => (outcome.due, outcome.missing),
            None => counts.ticks_and_missing(plan.dialect.numbers_ticks(), window.steady),
        };
        let publish = plan.publish.zip(published);
        let publish = publish.map(|(asked, (events, outcome))| {
            Publish::new(asked, events, &outcome, window.took.as_secs_f64())
        });
        let connected = counts.connected;
        let seconds = connecting.took.as_secs_f64();
        let cpu_cores = ratio(window.own.as_secs_f64(), window.took.as_secs_f64());
        Self {
            address: plan.address.to_string(),
            dialect: plan.dialect,
            filter: plan.filter.clone(),
            publish,
            clients: Clients {
                asked: plan.clients,
                connected,
                steady: window.steady,
                slow,
                passing,
                returned: counts.returned,
            },
            connecting: ConnectingReport {
                seconds,
                per_second: ratio(exact(connected as u64), seconds),
                errors: counts.failed.clone(),
            },
            window_s: window.took.as_secs_f64(),
            messages: counts.messages,
            bytes: counts.bytes,
            ticks,
            missing,
            skipped: counts.skipped,
            latency: latency(&counts.latency_us),
            first_message: latency(&counts.first_message_us),
            last_client: last_client(counts),
            closes: counts.closes.clone(),
            slow_closes: counts.slow_closes.clone(),
            server: plan
                .server
                .map(|server| Server::new(server.0, &connecting, window, memory, counts)),
            kernel: Kernel::new(memory, connected),
            generator: Generator {
                cpu_ms: millis(window.own),
                cpu_cores,
                saturated: cpu_cores > SATURATED,
            },
        }
    }

    /// Why the figures are not those of the hub, if so.
    pub(super) fn warning(&self) -> Option<String> {
        self.generator.saturated.then(|| {
            format!(
                "the generator itself used {:.0} % of a core: the latencies are its own as much as \
                 the hub's; measure with fewer clients or longer ticks",
                self.generator.cpu_cores * 100.0
            )
        })
    }

    /// # Errors
    ///
    /// No message has come.
    pub(super) fn verdict(&self) -> Result<(), Failure> {
        // Where no event was due the clients were to be idle.
        if self.messages > 0 || self.publish.is_some() && self.ticks == 0 {
            return Ok(());
        }
        if let Some(publish) = &self.publish {
            let codes: Vec<&str> = publish.refused.keys().map(String::as_str).collect();
            let refused = if codes.is_empty() { String::new() } else { codes.join(", ") + "; " };
            return Err(Failure::new(format!(
                "no event came in {:.1} s, and {} were acknowledged ({refused}{} had no answer)",
                self.window_s, publish.acknowledged, publish.unanswered
            )));
        }
        Err(Failure::new(format!(
            "no message came in {:.1} s: does the hub {}, within that time?",
            self.window_s,
            if self.dialect.has_ticks() { "tick" } else { "reach its routing.interval" }
        )))
    }

    /// The report for people.
    pub(super) fn lines(&self) -> Vec<String> {
        let mut lines = self.who();
        lines.extend(self.what_came());
        lines.extend(self.server.iter().flat_map(Server::lines));
        lines.extend(self.kernel.as_ref().map(Kernel::line));
        lines.push(format!("generator    {:.2} of a core", self.generator.cpu_cores));
        lines
    }

    fn who(&self) -> Vec<String> {
        let Clients { connected, steady, slow, passing, returned, .. } = self.clients;
        let of = self.filter.as_ref().map_or_else(String::new, |glob| format!(", of {glob}"));
        let of = self.publish.as_ref().map_or(of, |publish| format!(", {} of them", publish.rooms));
        let mut lines = vec![format!("hub          {}, {}{of}", self.address, self.dialect.name())];
        let mut clients = format!("clients      {connected}, {steady} of them steady");
        if slow > 0 {
            clients += &format!(", {slow} slow");
        }
        if passing > 0 {
            clients += &format!(", {passing} passing ({returned} came in the place of others)");
        }
        lines.push(clients);
        let ConnectingReport { seconds, per_second, errors } = &self.connecting;
        let took = nanos(seconds * 1e9);
        lines.push(format!("connected    in {took}, {per_second:.0} a second"));
        let failed = |(why, times): (&String, &u64)| format!("not          {times} times: {why}");
        lines.extend(errors.iter().map(failed));
        lines
    }

    fn what_came(&self) -> Vec<String> {
        let mut lines: Vec<String> = self.publish.iter().flat_map(Publish::lines).collect();
        let of = match (&self.publish, self.dialect.has_ticks()) {
            (Some(_), _) => format!(" of {} events", self.ticks),
            (None, true) => format!(" of {} ticks", self.ticks),
            (None, false) => String::new(),
        };
        lines.push(format!(
            "messages     {}{of} in {:.1} s, {}",
            self.messages,
            self.window_s,
            bytes(self.bytes)
        ));
        let told = |name: &str, latency: &Latency| format!("{name:<12} {latency}");
        lines.extend(self.latency.as_ref().map(|latency| told("latency", latency)));
        lines.extend(self.first_message.as_ref().map(|first| told("first", first)));
        if let Some(LastClient { median_us, max_us }) = self.last_client {
            let [median, max] = [median_us, max_us].map(micros);
            lines.push(format!("last client  median {median}, max {max}"));
        }
        if self.publish.is_some() || self.dialect.has_ticks() {
            lines.push(format!(
                "missing      {} pushes; {} were left out by the hub",
                self.missing, self.skipped
            ));
        }
        for (whose, closes) in [("", &self.closes), (", slow", &self.slow_closes)] {
            let told =
                |(code, times): (&u16, &u64)| format!("closed       {times} with {code}{whose}");
            lines.extend(closes.iter().map(told));
        }
        lines
    }
}

impl Publish {
    fn new(asked: Publishing, events: &Events, outcome: &Outcome, seconds: f64) -> Self {
        Self {
            rooms: asked.rooms,
            publishers: asked.publishers,
            data_bytes: asked.data_bytes,
            asked_per_second: asked.per_second,
            acknowledged: outcome.acknowledged,
            acknowledged_per_second: ratio(exact(outcome.acknowledged), seconds),
            unanswered: outcome.unanswered,
            refused: events.refused.clone(),
            latency: latency(&events.acknowledged_us),
        }
    }

    fn lines(&self) -> Vec<String> {
        let mut lines = vec![format!(
            "published    {:.0} a second acknowledged, of {}; {} publishers, data of {}",
            self.acknowledged_per_second,
            self.asked_per_second,
            self.publishers,
            bytes(self.data_bytes as u64)
        )];
        lines.extend(self.latency.as_ref().map(|latency| format!("acknowledged {latency}")));
        if self.unanswered > 0 {
            lines.push(format!("not          {} events had no answer", self.unanswered));
        }
        let refused =
            |(code, times): (&String, &u64)| format!("not          {times} times: {code}");
        lines.extend(self.refused.iter().map(refused));
        lines
    }
}

impl Display for Latency {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        let Self { p50_us, p99_us, p999_us, max_us } = *self;
        let [p50, p99, p999, max] = [p50_us, p99_us, p999_us, max_us].map(micros);
        write!(f, "p50 {p50}, p99 {p99}, p99.9 {p999}, max {max}")
    }
}

impl Server {
    fn new(
        pid: u32,
        connecting: &Connecting,
        window: &Window,
        memory: &Memory,
        counts: &Counts,
    ) -> Self {
        let per = |time: Option<Duration>, count: u64| {
            time.filter(|_| count > 0).map(|time| time.as_secs_f64() * 1e6 / exact(count))
        };
        let connected = counts.connected;
        let before = memory.before.rss_anon_bytes;
        let per_client = |bytes: Option<u64>| Some(growth(before?, bytes?, connected));
        let (idle, active) = (memory.idle.rss_anon_bytes, memory.active.rss_anon_bytes);
        Self {
            pid,
            cpu_ms: window.cpu.map(millis),
            cpu_cores: window.cpu.map(|cpu| ratio(cpu.as_secs_f64(), window.took.as_secs_f64())),
            cpu_us_per_message: per(window.cpu, counts.messages),
            cpu_us_per_connection: per(connecting.cpu, connected as u64),
            cpu_before_ms_per_s: window.cpu_before.map(millis),
            rss_anon_before_bytes: before,
            rss_anon_idle_bytes: idle,
            rss_anon_active_bytes: active,
            idle_bytes_per_client: per_client(idle),
            active_bytes_per_client: per_client(active),
        }
    }

    fn lines(&self) -> Vec<String> {
        let micros = |time: Option<f64>| or_dash(time.map(|us| nanos(us * 1e3)));
        let millis = |time: Option<f64>| or_dash(time.map(|ms| nanos(ms * 1e6)));
        let of = |bytes: Option<f64>| or_dash(bytes.map(signed));
        vec![
            format!(
                "processor    {} a message, {} a connection; {} of a core, {} a second before there \
                 were any",
                micros(self.cpu_us_per_message),
                micros(self.cpu_us_per_connection),
                or_dash(self.cpu_cores.map(|cores| format!("{cores:.3}"))),
                millis(self.cpu_before_ms_per_s)
            ),
            format!(
                "memory       {} a client idle, {} active; {} before",
                of(self.idle_bytes_per_client),
                of(self.active_bytes_per_client),
                or_dash(self.rss_anon_before_bytes.map(bytes))
            ),
        ]
    }
}

impl Kernel {
    fn new(memory: &Memory, clients: usize) -> Option<Self> {
        let (before, idle, active) =
            (memory.before.kernel?, memory.idle.kernel?, memory.active.kernel?);
        Some(Self {
            tcp_idle_bytes_per_client: growth(before.tcp_bytes, idle.tcp_bytes, clients),
            tcp_active_bytes_per_client: growth(before.tcp_bytes, active.tcp_bytes, clients),
            slab_idle_bytes_per_client: growth(before.slab_bytes, idle.slab_bytes, clients),
            slab_active_bytes_per_client: growth(before.slab_bytes, active.slab_bytes, clients),
        })
    }

    fn line(&self) -> String {
        format!(
            "kernel       {} a client idle, {} active, and in the sockets {} and {}; both ends",
            signed(self.slab_idle_bytes_per_client),
            signed(self.slab_active_bytes_per_client),
            signed(self.tcp_idle_bytes_per_client),
            signed(self.tcp_active_bytes_per_client)
        )
    }
}

fn latency(all: &Histogram<u64>) -> Option<Latency> {
    (!all.is_empty()).then(|| Latency {
        p50_us: all.value_at_quantile(0.5),
        p99_us: all.value_at_quantile(0.99),
        p999_us: all.value_at_quantile(0.999),
        max_us: all.max(),
    })
}

fn last_client(counts: &Counts) -> Option<LastClient> {
    let mut last_us: Vec<u64> = match &counts.events {
        Some(events) => events.last_us().collect(),
        None => counts.receipts_of_ticks().iter().map(|receipts| receipts.last_us).collect(),
    };
    last_us.sort_unstable();
    let max_us = *last_us.last()?;
    Some(LastClient { median_us: last_us[last_us.len() / 2], max_us })
}

/// By how much a memory has grown for each client.
fn growth(before: u64, after: u64, clients: usize) -> f64 {
    ratio(exact(after) - exact(before), exact(clients as u64))
}

/// Nothing of nothing is nothing.
fn ratio(of: f64, by: f64) -> f64 {
    if by > 0.0 { of / by } else { 0.0 }
}

#[expect(clippy::cast_precision_loss, reason = "figures to be divided, far below 2^53")]
fn exact(count: u64) -> f64 {
    count as f64
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

fn micros(us: u64) -> String {
    nanos(exact(us) * 1e3)
}

/// Bytes that may have become fewer.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "whole bytes, whose sign is told apart"
)]
fn signed(value: f64) -> String {
    let sign = if value <= -0.5 { "-" } else { "" };
    format!("{sign}{}", bytes(value.abs().round() as u64))
}

fn or_dash(words: Option<String>) -> String {
    words.unwrap_or_else(|| "-".to_owned())
}
