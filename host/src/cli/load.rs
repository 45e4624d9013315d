//! `telltale load`

mod client;
mod course;
mod dialect;
mod events;
mod process;
mod publisher;
mod report;
mod scanner;
mod tally;
mod wire;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use clap::Args;

use super::client::wait_for;
use super::plugin::Place;
use super::{Failure, print, serve, tell};
use crate::config::is_loopback;

use course::{Course, Plan, Publishing};
use dialect::Dialect;
use process::Process;

/// The longest measurement: figures that want more are those of days, which
/// the hub's own series tell.
const DURATION_MAX: Duration = Duration::from_secs(3600);
/// Open files beside the clients': standard streams, the runtime's, what is
/// read of `/proc`.
const FILES_KEPT: u64 = 64;
/// Rooms and events a second unless the command line says how many.
const ROOMS: u64 = 1;
const PUBLISH_S: f64 = 10.0;
/// A publisher for so many events a second, unless the command line says how
/// many: half of the messages that a hub takes of a connection by default,
/// few enough to be answered side by side.
const EVENTS_S_PER_PUBLISHER: f64 = 100.0;
const PUBLISHERS_MAX: u64 = 64;
/// Events of one measurement: what becomes of each is remembered.
const EVENTS_MAX: f64 = 10_000_000.0;
/// Bytes of an event's data, unless the command line says how many …
const DATA_BYTES: usize = 256;
/// … and at most: with the rest of the command they fit into one message.
const DATA_BYTES_MAX: u64 = 60_000;
/// The most connections a second that can be asked for: at more, the pace is
/// the machine's anyway.
const CONNECT_RATE_MAX: f64 = 100_000.0;

#[derive(Debug, Args)]
#[command(after_help = "\
The clients connect, are silent for a second, subscribe, and after another second count what \
comes. The load is open-loop: the hub sends at its own pace, and a message's latency is the time \
at which it was read minus the time of its tick, so that whoever is late is late in full. Only \
what comes while all are subscribed counts. With --dialect rooms or socketio events are published \
at --publish, each to one of --rooms, and a latency begins when its event was due.

The processor time and memory told of the hub are its process's own (RssAnon). The kernel's memory \
is told apart, for the whole machine: both ends of each connection are on it. With other work on \
the machine only figures of one run can be compared.

  telltale load --clients 1000 --for 30s                   the hub of ./telltale-data
  telltale load --clients 1000 --for 5m --slow 10% --churn 5%/s
  telltale load --clients 1000 --for 30s --dialect socketio --rooms 10 --publish 100/s
  telltale load --clients 100 --for 30s --dialect routing
  telltale load 127.0.0.1:9000 --clients 50 --for 10s --filter 'system.cpu.*' --json

Exit codes: 0 it was measured; 1 no message came, or something went wrong; 64 the command line \
asks for what can't be.")]
pub(super) struct Load {
    /// A hub's address on this machine [default: that of the hub on the data folder]
    #[arg(value_name = "ADDRESS")]
    address: Option<String>,
    /// How many clients
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    clients: u32,
    /// How long messages are counted, such as 30s; an hour at most
    #[arg(long = "for", value_name = "DURATION", value_parser = humantime::parse_duration)]
    duration: Duration,
    /// This share of the clients subscribes and then never reads; their sockets hold little
    #[arg(long, value_name = "P%", value_parser = percent, default_value = "0%")]
    slow: f64,
    /// This share of the clients goes each second without a word, and as many others come
    #[arg(long, value_name = "P%/s", value_parser = percent_a_second, default_value = "0%/s")]
    churn: f64,
    /// What the clients speak
    #[arg(long, value_enum, default_value_t)]
    dialect: Dialect,
    /// Subscribe only to series whose name matches (native)
    #[arg(long, value_name = "GLOB")]
    filter: Option<String>,
    /// Spread clients and events over so many rooms (rooms, socketio) [default: 1]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=100_000))]
    rooms: Option<u64>,
    /// Publish so many events a second (rooms, socketio) [default: 10/s]
    #[arg(long, value_name = "N/s", value_parser = a_second)]
    publish: Option<f64>,
    /// How many connections publish (rooms, socketio) [default: one for 100 events a second]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=1024))]
    publishers: Option<u64>,
    /// How long the data of an event is, in bytes (rooms, socketio) [default: 256]
    #[arg(long, value_name = "BYTES", value_parser = clap::value_parser!(u64).range(..=DATA_BYTES_MAX))]
    data_bytes: Option<u64>,
    /// The token that all of them show
    #[arg(long)]
    token: Option<String>,
    /// The hub's process, where an address is given: what it costs is told of that process
    #[arg(long, value_name = "PID")]
    pid: Option<u32>,
    /// Connect at most so many a second [default: as fast as the hub lets them in]
    #[arg(long, value_name = "N/s", value_parser = a_second)]
    connect_rate: Option<f64>,
    #[command(flatten)]
    place: Place,
    /// Write JSON
    #[arg(long)]
    json: bool,
}

impl Load {
    pub(super) fn run(self) -> Result<(), Failure> {
        self.check()?;
        let (address, pid) = self.target()?;
        let plan = Plan {
            address,
            server: pid.map(Process),
            dialect: self.dialect,
            filter: self.filter.clone(),
            token: self.token.clone(),
            publish: self.publishing()?,
            clients: usize::try_from(self.clients).map_err(Failure::new)?,
            slow_percent: self.slow,
            churn_percent_s: self.churn,
            connect_rate_s: self.connect_rate,
            duration: self.duration,
        };
        let course = Course::new(plan).map_err(Failure::usage)?;
        let report = wait_for(course.run())?;
        if self.json {
            print(&serde_json::to_string(&report).map_err(Failure::new)?);
        } else {
            print(&report.lines().join("\n"));
        }
        if let Some(warning) = report.warning() {
            tell(&format!("telltale: {warning}"));
        }
        report.verdict()
    }

    fn check(&self) -> Result<(), Failure> {
        if self.duration.is_zero() || self.duration > DURATION_MAX {
            let asked = humantime::format_duration(self.duration);
            return Err(Failure::usage(format!(
                "--for {asked} is not between 1 ms and an hour: what lasts longer is seen in the \
                 hub's own series, telltale.*"
            )));
        }
        if self.dialect != Dialect::Native && self.filter.is_some() {
            return Err(Failure::usage("--filter is of the native dialect: the others have none"));
        }
        let clients = u64::from(self.clients) + self.publishing()?.map_or(0, |all| all.publishers);
        if let Some(files_max) = serve::raise_open_files()
            && clients + FILES_KEPT > files_max
        {
            return Err(Failure::usage(format!(
                "--clients {clients} is more than the limit of open files allows, {files_max} \
                 with {FILES_KEPT} for other use: ask for at most {}, or raise the hard limit \
                 (ulimit -Hn), which the hub needs too",
                files_max.saturating_sub(FILES_KEPT)
            )));
        }
        if let Some(ports) = process::local_ports()
            && clients > ports
        {
            return Err(Failure::usage(format!(
                "--clients {clients} is more than this machine has ports to one address, {ports}: \
                 ask for no more, or widen net.ipv4.ip_local_port_range"
            )));
        }
        Ok(())
    }

    /// What is to be published, if anything.
    fn publishing(&self) -> Result<Option<Publishing>, Failure> {
        if !self.dialect.has_rooms() {
            let said = [
                ("--rooms", self.rooms.is_some()),
                ("--publish", self.publish.is_some()),
                ("--publishers", self.publishers.is_some()),
                ("--data-bytes", self.data_bytes.is_some()),
            ];
            return match said.iter().find(|(_, said)| *said) {
                None => Ok(None),
                Some((option, _)) => Err(Failure::usage(format!(
                    "{option} is of the dialects rooms and socketio: the others have no events"
                ))),
            };
        }
        let per_second = self.publish.unwrap_or(PUBLISH_S);
        if per_second * self.duration.as_secs_f64() > EVENTS_MAX {
            return Err(Failure::usage(format!(
                "--publish {per_second}/s for that long are more than {EVENTS_MAX} events: publish \
                 fewer, or measure for less time"
            )));
        }
        Ok(Some(Publishing {
            rooms: self.rooms.unwrap_or(ROOMS),
            per_second,
            data_bytes: self
                .data_bytes
                .map_or(Ok(DATA_BYTES), usize::try_from)
                .map_err(Failure::new)?,
            publishers: self.publishers.unwrap_or_else(|| publishers_for(per_second)),
        }))
    }

    /// Where the hub listens, and its process if that is known.
    fn target(&self) -> Result<(SocketAddr, Option<u32>), Failure> {
        let Some(address) = &self.address else {
            let hub = self.place.hub()?;
            let file = hub.file();
            let listens =
                file.addresses.iter().find_map(|address| reachable(address.parse().ok()?));
            let address = listens.ok_or_else(|| {
                elsewhere(&format!("the hub, which listens at {}", file.addresses.join(", ")))
            })?;
            return Ok((address, self.pid.or(Some(file.pid))));
        };
        let numbers = address.strip_prefix("localhost:").map(|port| format!("127.0.0.1:{port}"));
        let numbers: SocketAddr = numbers.as_ref().unwrap_or(address).parse().map_err(|_| {
            Failure::usage(format!("{address} is no address and port, such as 127.0.0.1:8765"))
        })?;
        if !is_loopback(numbers.ip()) {
            return Err(elsewhere(address));
        }
        Ok((numbers, self.pid))
    }
}

/// As many publishers as it takes.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "rates are positive and bounded"
)]
fn publishers_for(per_second: f64) -> u64 {
    ((per_second / EVENTS_S_PER_PUBLISHER).ceil() as u64).clamp(1, PUBLISHERS_MAX)
}

/// Where a listener can be reached from this machine alone.
fn reachable(listens: SocketAddr) -> Option<SocketAddr> {
    let ip = match listens.ip() {
        ip if is_loopback(ip) => ip,
        IpAddr::V4(Ipv4Addr::UNSPECIFIED) => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(Ipv6Addr::UNSPECIFIED) => Ipv6Addr::LOCALHOST.into(),
        _ => return None,
    };
    Some(SocketAddr::new(ip, listens.port()))
}

fn elsewhere(address: &str) -> Failure {
    Failure::usage(format!(
        "load goes to this machine's loopback addresses only, such as 127.0.0.1:8765, and not to \
         {address}: run it where the hub runs"
    ))
}

/// `10%`, or `10`.
fn percent(text: &str) -> Result<f64, String> {
    let share: Option<f64> = text.strip_suffix('%').unwrap_or(text).parse().ok();
    share
        .filter(|share| (0.0..=100.0).contains(share))
        .ok_or_else(|| "a share is 0% to 100%".to_owned())
}

/// `5%/s`, or `5%`, or `5`.
fn percent_a_second(text: &str) -> Result<f64, String> {
    percent(text.strip_suffix("/s").unwrap_or(text))
}

/// `200/s`, or `200`.
fn a_second(text: &str) -> Result<f64, String> {
    let rate: Option<f64> = text.strip_suffix("/s").unwrap_or(text).parse().ok();
    rate.filter(|rate| *rate > 0.0 && *rate <= CONNECT_RATE_MAX)
        .ok_or_else(|| format!("a rate is more than 0/s, and at most {CONNECT_RATE_MAX}/s"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_and_rates_are_read_with_and_without_their_units() {
        for (text, share) in [("10%", 10.0), ("2.5", 2.5), ("0%", 0.0), ("100%", 100.0)] {
            assert_eq!(percent(text), Ok(share));
            assert_eq!(percent_a_second(&format!("{text}/s")), Ok(share));
        }
        for text in ["", "%", "-1%", "101%", "NaN", "10/s"] {
            assert!(percent(text).is_err(), "{text}");
        }
        assert_eq!((a_second("200/s"), a_second("0.5")), (Ok(200.0), Ok(0.5)));
        for text in ["0/s", "inf/s", "NaN", "200%"] {
            assert!(a_second(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_hub_is_reached_over_loopback() {
        for (listens, at) in [
            ("127.0.0.1:80", Some("127.0.0.1:80")),
            ("0.0.0.0:80", Some("127.0.0.1:80")),
            ("[::]:80", Some("[::1]:80")),
            ("192.0.2.1:80", None),
        ] {
            let at: Option<SocketAddr> = at.map(|at| at.parse().unwrap());
            assert_eq!(reachable(listens.parse().unwrap()), at, "{listens}");
        }
    }
}
