//! The hub's own numbers, as ordinary series of the plugin `telltale`: shown,
//! kept and judged like all others.

mod plugins;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::mpsc;

use crate::audit::AuditCounters;
use crate::cache::CacheCounters;
use crate::channel::ChannelCounters;
use crate::events::EventCounters;
use crate::exposition::ExpositionCounters;
use crate::gate::Gates;
use crate::judge::JudgeCounters;
use crate::layouts::LayoutCounters;
use crate::model::{
    Answer, Ask, Batch, Dictionary, Kind, Labels, PluginName, RuleBroken, Series, SeriesId,
    SeriesKey, SeriesSpec, Setback, SetbackKind,
};
use crate::notify::NotifyCounters;
use crate::plugin::Statuses;
use crate::server::Tls;
use crate::session::Limits;
use crate::store::Counters as StoreCounters;
use crate::tick::TickCounters;

use plugins::PluginSeries;

/// The plugin that the hub's own series belong to.
pub const NAME: &str = "telltale";

/// Every room's counters. Each is written by its room alone.
#[derive(Clone)]
pub struct Vitals {
    /// Of the loop.
    pub tick: Arc<TickCounters>,
    /// Of the store.
    pub store: Arc<StoreCounters>,
    /// Of what plugins keep.
    pub cache: Arc<CacheCounters>,
    /// Of the channels.
    pub channels: Arc<ChannelCounters>,
    /// Of the connections.
    pub gates: Arc<Gates>,
    /// Of what clients have had too much of.
    pub limits: Arc<Limits>,
    /// Of the certificate, where there is one.
    pub tls: Option<Arc<Tls>>,
    /// Of the judge.
    pub judge: Arc<JudgeCounters>,
    /// Of what other systems are told.
    pub notify: Arc<NotifyCounters>,
    /// Of what is published.
    pub events: Arc<EventCounters>,
    /// Of what is done to boards.
    pub layouts: Arc<LayoutCounters>,
    /// Of scrapes.
    pub exposition: Arc<ExpositionCounters>,
    /// Of the audit log.
    pub audit: Arc<AuditCounters>,
    /// What plugins cost.
    pub plugins: Statuses,
}

/// A number of the hub.
struct Number {
    name: &'static str,
    kind: Kind,
    unit: &'static str,
    meaning: &'static str,
    read: fn(&Vitals) -> f64,
}

/// All of them, in the order of the series.
const NUMBERS: &[Number] = &[
    gauge("telltale.tick.lateness", "s", "How late the last tick began", |v| {
        seconds(&v.tick.lateness_ns)
    }),
    gauge("telltale.tick.gather", "s", "How long the last tick waited and froze", |v| {
        seconds(&v.tick.gather_ns)
    }),
    counter(
        "telltale.tick.skipped",
        "{tick}",
        "Ticks skipped, the one before taking too long",
        |v| count(&v.tick.skipped),
    ),
    counter(
        "telltale.tick.late_answers",
        "{answer}",
        "Answers that were due and had not come",
        |v| count(&v.tick.late_answers),
    ),
    counter(
        "telltale.tick.skipped_observations",
        "{snapshot}",
        "Snapshots that a busy detector did not see",
        |v| count(&v.tick.skipped_observations),
    ),
    counter("telltale.tick.not_finite", "{value}", "Values of plugins that were not finite", |v| {
        count(&v.tick.not_finite)
    }),
    counter("telltale.store.samples", "{sample}", "Samples that were stored", |v| {
        count(&v.store.samples_written)
    }),
    counter("telltale.store.dropped", "{sample}", "Samples that were not stored", |v| {
        count(&v.store.samples_dropped)
    }),
    counter("telltale.store.flags", "{flag}", "Odd values that were stored as such", |v| {
        count(&v.store.flags_written)
    }),
    counter("telltale.store.flags_dropped", "{flag}", "Odd values that were not", |v| {
        count(&v.store.flags_dropped) + count(&v.judge.flags_dropped)
    }),
    counter("telltale.store.entries", "{entry}", "Log entries that were stored", |v| {
        count(&v.store.entries_written)
    }),
    counter("telltale.store.errors", "{error}", "Transactions that failed", |v| {
        count(&v.store.write_errors)
    }),
    gauge("telltale.store.queue", "{snapshot}", "Snapshots that wait to be stored", |v| {
        count(&v.store.snapshots_queued)
    }),
    gauge("telltale.store.history_size", "By", "Bytes that the history uses", |v| {
        count(&v.store.history_bytes_used)
    }),
    gauge("telltale.store.log_size", "By", "Bytes that the log uses", |v| {
        count(&v.store.log_bytes_used)
    }),
    counter("telltale.cache.reads", "{read}", "Times that plugins asked for a key", |v| {
        count(&v.cache.reads)
    }),
    counter("telltale.cache.hits", "{read}", "Of these, those that found a value", |v| {
        count(&v.cache.hits)
    }),
    counter("telltale.cache.writes", "{write}", "Values that plugins have set or removed", |v| {
        count(&v.cache.writes)
    }),
    counter(
        "telltale.cache.errors",
        "{operation}",
        "Reads and writes that the store did not do, being gone or saying no",
        |v| count(&v.cache.errors),
    ),
    counter("telltale.cache.timeouts", "{operation}", "Reads and writes that took too long", |v| {
        count(&v.cache.timeouts)
    }),
    gauge(
        "telltale.cache.connected",
        "{connection}",
        "1 while the store is there, 0 while it is not",
        |v| count(&v.cache.connected),
    ),
    gauge("telltale.store.boards", "{board}", "Boards that are kept", |v| count(&v.store.boards)),
    gauge("telltale.store.boards_size", "By", "Bytes that what stands on boards costs", |v| {
        count(&v.store.boards_bytes)
    }),
    gauge("telltale.channel.subscriptions", "{subscription}", "Distinct subscriptions", |v| {
        count(&v.channels.subscriptions)
    }),
    counter("telltale.channel.frames", "{frame}", "Frames that were encoded", |v| {
        count(&v.channels.frames)
    }),
    counter("telltale.channel.delivered", "{frame}", "Frames that were given to clients", |v| {
        count(&v.channels.delivered)
    }),
    counter("telltale.channel.skipped", "{frame}", "Frames that slow clients skipped", |v| {
        count(&v.channels.skipped)
    }),
    counter(
        "telltale.channel.behind",
        "{event}",
        "Times that a client could not keep up with the log",
        |v| count(&v.channels.behind),
    ),
    counter(
        "telltale.channel.gaps",
        "{event}",
        "Times that one was so far behind that the log was read for it",
        |v| count(&v.channels.gaps),
    ),
    counter(
        "telltale.channel.recovered",
        "{event}",
        "Clients that went on where they stopped",
        |v| count(&v.channels.recovered),
    ),
    counter(
        "telltale.channel.unrecovered",
        "{event}",
        "Clients that wanted to and had to start afresh",
        |v| count(&v.channels.unrecovered),
    ),
    counter(
        "telltale.channel.dropped",
        "{snapshot}",
        "Snapshots that the channels had no room for",
        |v| count(&v.channels.snapshots_dropped),
    ),
    gauge("telltale.session.connected", "{client}", "Clients that are connected", |v| {
        count(&v.gates.counters().connected)
    }),
    counter("telltale.session.received", "{message}", "Messages from clients", |v| {
        count(&v.gates.counters().received)
    }),
    counter("telltale.session.sent", "{message}", "Messages to clients", |v| {
        count(&v.gates.counters().sent)
    }),
    counter("telltale.session.not_understood", "{message}", "Messages that made no sense", |v| {
        count(&v.gates.counters().not_understood)
    }),
    counter(
        "telltale.session.stalled",
        "{client}",
        "Clients that took nothing for too long",
        |v| count(&v.gates.counters().stalled),
    ),
    counter("telltale.session.silent", "{client}", "Clients that did not answer pings", |v| {
        count(&v.gates.counters().silent)
    }),
    counter(
        "telltale.session.shed",
        "{client}",
        "Clients closed since all together had too much waiting",
        |v| count(&v.gates.counters().shed),
    ),
    counter(
        "telltale.session.refused",
        "{connection}",
        "Connections that were refused, all being in use",
        |v| count(&v.gates.counters().refused),
    ),
    counter(
        "telltale.session.address_refused",
        "{connection}",
        "Connections that were refused, their address having too many",
        |v| {
            count(&v.gates.counters().address_refused) + count(&v.limits.counters().address_refused)
        },
    ),
    counter(
        "telltale.session.user_refused",
        "{connection}",
        "Connections that were refused, their user having too many",
        |v| count(&v.limits.counters().user_refused),
    ),
    gauge(
        "telltale.session.handshakes",
        "{connection}",
        "Connections that are being made, or wait between two requests",
        |v| bytes(v.gates.handshakes()),
    ),
    counter(
        "telltale.session.handshakes_dropped",
        "{connection}",
        "Of these, those that gave way to newer ones",
        |v| count(&v.gates.counters().handshakes_dropped),
    ),
    counter(
        "telltale.session.too_late",
        "{connection}",
        "Handshakes and requests that did not come in time",
        |v| count(&v.gates.counters().too_late),
    ),
    counter(
        "telltale.session.throttled",
        "{message}",
        "Messages that came too fast, and were not looked at",
        |v| count(&v.limits.counters().messages_throttled),
    ),
    counter(
        "telltale.session.abusive",
        "{client}",
        "Clients closed since their messages came too fast for too long",
        |v| count(&v.limits.counters().abusive),
    ),
    counter(
        "telltale.events.throttled",
        "{event}",
        "Events that came too fast, and were not published",
        |v| count(&v.limits.counters().publishes_throttled),
    ),
    counter("telltale.tls.reloaded", "{certificate}", "Certificates that were replaced", |v| {
        v.tls.as_ref().map_or(0.0, |tls| count(&tls.counters().reloaded))
    }),
    counter(
        "telltale.tls.refused",
        "{certificate}",
        "Changed certificates that could not be used",
        |v| v.tls.as_ref().map_or(0.0, |tls| count(&tls.counters().refused)),
    ),
    gauge("telltale.session.waiting", "By", "Memory of what is sent and waits to be", |v| {
        bytes(v.gates.budget().used())
    }),
    counter("telltale.layouts.changed", "{change}", "Changes of boards that were made", |v| {
        count(&v.layouts.changed)
    }),
    counter(
        "telltale.layouts.repeated",
        "{change}",
        "Changes that came again with their id, and were answered as before",
        |v| count(&v.layouts.repeated),
    ),
    counter(
        "telltale.layouts.conflicts",
        "{change}",
        "Changes that were made on what stood no more",
        |v| count(&v.layouts.conflicts),
    ),
    counter(
        "telltale.layouts.refused",
        "{change}",
        "Changes that broke a rule, or whose client may not",
        |v| count(&v.layouts.refused),
    ),
    counter("telltale.layouts.busy", "{change}", "Changes that found no room in the log", |v| {
        count(&v.layouts.busy)
    }),
    counter("telltale.events.published", "{event}", "Events that were published", |v| {
        count(&v.events.published)
    }),
    counter(
        "telltale.events.repeated",
        "{event}",
        "Events that came again with their key, and were answered as before",
        |v| count(&v.events.repeated),
    ),
    counter("telltale.events.refused", "{event}", "Events that were refused", |v| {
        count(&v.events.refused)
    }),
    counter("telltale.events.busy", "{event}", "Events that the log had no room for", |v| {
        count(&v.events.busy)
    }),
    counter("telltale.exposition.written", "{page}", "Times that /metrics was written", |v| {
        count(&v.exposition.written)
    }),
    counter(
        "telltale.exposition.left_out",
        "{series}",
        "Series that it left out, another of that name being of another kind or unit",
        |v| count(&v.exposition.left_out),
    ),
    counter("telltale.audit.written", "{note}", "Notes in the audit log", |v| {
        count(&v.audit.written)
    }),
    counter("telltale.audit.dropped", "{note}", "Notes that its queue had no room for", |v| {
        count(&v.audit.dropped)
    }),
    counter("telltale.audit.failed", "{note}", "Notes that its disk did not take", |v| {
        count(&v.audit.failed)
    }),
    gauge("telltale.findings.open", "{finding}", "Findings that are open", |v| {
        count(&v.judge.open)
    }),
    counter("telltale.findings.opened", "{finding}", "Findings that were opened", |v| {
        count(&v.judge.opened)
    }),
    counter("telltale.findings.refused", "{finding}", "Findings that found no room", |v| {
        count(&v.judge.refused)
    }),
    counter(
        "telltale.findings.suppressed",
        "{value}",
        "Odd values that opened nothing, their series having told enough lately",
        |v| count(&v.judge.suppressed),
    ),
    counter(
        "telltale.findings.muted",
        "{value}",
        "Odd values that opened nothing, their series being muted",
        |v| count(&v.judge.muted),
    ),
    counter("telltale.notify.sent", "{delivery}", "Deliveries that receivers have taken", |v| {
        count(&v.notify.sent)
    }),
    counter("telltale.notify.findings", "{finding}", "Findings in them", |v| {
        count(&v.notify.findings)
    }),
    counter(
        "telltale.notify.left_out",
        "{finding}",
        "Findings that were only counted, their delivery having no room",
        |v| count(&v.notify.left_out),
    ),
    counter("telltale.notify.failed", "{attempt}", "Attempts that a receiver did not take", |v| {
        count(&v.notify.failed)
    }),
    counter("telltale.notify.dead", "{delivery}", "Deliveries that were given up", |v| {
        count(&v.notify.dead)
    }),
    counter(
        "telltale.notify.dropped",
        "{delivery}",
        "Dead letters that had to go, there being too many",
        |v| count(&v.notify.dropped),
    ),
    counter(
        "telltale.notify.gaps",
        "{event}",
        "Times that a receiver was further behind than the log reaches",
        |v| count(&v.notify.gaps),
    ),
];

type Read = fn(&Vitals) -> f64;

const fn gauge(
    name: &'static str,
    unit: &'static str,
    meaning: &'static str,
    read: Read,
) -> Number {
    Number { name, kind: Kind::Gauge, unit, meaning, read }
}

const fn counter(
    name: &'static str,
    unit: &'static str,
    meaning: &'static str,
    read: Read,
) -> Number {
    Number { name, kind: Kind::Counter, unit, meaning, read }
}

#[expect(clippy::cast_precision_loss, reason = "counts up to 2^53 are exact")]
fn count(number: &AtomicU64) -> f64 {
    number.load(Ordering::Relaxed) as f64
}

#[expect(clippy::cast_precision_loss, reason = "up to 2^53 bytes are exact")]
fn bytes(bytes: usize) -> f64 {
    bytes as f64
}

fn seconds(nanoseconds: &AtomicU64) -> f64 {
    count(nanoseconds) / 1e9
}

impl Vitals {
    /// Answers the tick's questions like any collector, until nobody asks.
    pub async fn run(
        self,
        interval_ns: u64,
        dictionary: Arc<Dictionary>,
        mut asks: mpsc::Receiver<Ask>,
        answers: mpsc::Sender<Answer>,
    ) {
        let plugin: PluginName = NAME.into();
        let mut series: Option<Vec<Arc<Series>>> = None;
        let mut of_plugins =
            PluginSeries::new(self.plugins.clone(), interval_ns, dictionary.clone());
        while let Some(ask) = asks.recv().await {
            let restarted = series.is_none();
            let declared = match series.take() {
                Some(declared) => Ok(declared),
                None => declare(&plugin, interval_ns, &dictionary).await,
            };
            let outcome = match declared {
                Ok(declared) => {
                    let values = self.read(&declared);
                    let declare = if restarted { declared.clone() } else { Vec::new() };
                    series = Some(declared);
                    let mut batch = Batch { restarted, declare, values, ..Batch::default() };
                    let added = of_plugins.add(ask.tick.number, &mut batch).await;
                    // Without them the hub's own are told all the same.
                    if let Err(setback) = added {
                        tracing::warn!(%setback, "what plugins cost is not told");
                    }
                    Ok(batch)
                }
                Err(setback) => Err(setback),
            };
            if answers.send(Answer { plugin: plugin.clone(), outcome }).await.is_err() {
                return;
            }
        }
    }

    fn read(&self, declared: &[Arc<Series>]) -> Vec<(SeriesId, f64)> {
        declared
            .iter()
            .zip(NUMBERS)
            .map(|(series, number)| (series.id, (number.read)(self)))
            .collect()
    }
}

async fn declare(
    plugin: &PluginName,
    interval_ns: u64,
    dictionary: &Dictionary,
) -> Result<Vec<Arc<Series>>, Setback> {
    let specs = specs(plugin).map_err(|broken| setback(&broken.to_string()))?;
    let ids = dictionary.resolve(&specs).await.map_err(|error| setback(&error.to_string()))?;
    let declared = ids.into_iter().zip(specs);
    Ok(declared.map(|(id, spec)| Arc::new(Series { id, spec, interval_ns })).collect())
}

fn specs(plugin: &PluginName) -> Result<Vec<SeriesSpec>, RuleBroken> {
    let spec = |number: &Number| {
        let (plugin, labels) = (plugin.clone(), Labels::default());
        let key = SeriesKey { plugin, name: number.name.into(), labels };
        SeriesSpec::new(key, number.kind, number.unit.into(), number.meaning.into())
    };
    NUMBERS.iter().map(spec).collect()
}

fn setback(words: &str) -> Setback {
    Setback { kind: SetbackKind::Retry, reason: words.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hubs_own_series_keep_the_rules_and_differ() {
        let specs = specs(&NAME.into()).unwrap();
        let names: std::collections::BTreeSet<_> = specs.iter().map(|s| &s.key.name).collect();
        assert_eq!(names.len(), specs.len());
        assert!(names.iter().all(|name| name.starts_with("telltale.")));
    }
}
