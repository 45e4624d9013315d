//! The hub's own numbers, as ordinary series of the plugin `telltale`: shown,
//! kept and judged like all others.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::mpsc;

use crate::channel::ChannelCounters;
use crate::judge::JudgeCounters;
use crate::model::{
    Answer, Ask, Batch, Dictionary, DictionaryError, Kind, Labels, PluginName, RuleBroken, Series,
    SeriesKey, SeriesSpec, Setback, SetbackKind,
};
use crate::session::SessionCounters;
use crate::store::Counters as StoreCounters;
use crate::tick::TickCounters;

/// The plugin that the hub's own series belong to.
pub const NAME: &str = "telltale";

/// Every room's counters. Each is written by its room alone.
#[derive(Clone, Debug)]
pub struct Vitals {
    /// Of the loop.
    pub tick: Arc<TickCounters>,
    /// Of the store.
    pub store: Arc<StoreCounters>,
    /// Of the channels.
    pub channels: Arc<ChannelCounters>,
    /// Of the sessions.
    pub sessions: Arc<SessionCounters>,
    /// Of the judge.
    pub judge: Arc<JudgeCounters>,
}

/// A number of the hub: its name, kind, unit and meaning, where to read it, and
/// by what to multiply it.
type Gauge<'a> = (&'static str, Kind, &'static str, &'static str, &'a AtomicU64, f64);

impl Vitals {
    /// All numbers, always in the same order.
    fn numbers(&self) -> Vec<Gauge<'_>> {
        let Self { tick, store, channels, sessions, judge } = self;
        let counter =
            |name, unit, meaning, source| (name, Kind::Counter, unit, meaning, source, 1.0);
        let gauge =
            |name, unit, meaning, source, scale| (name, Kind::Gauge, unit, meaning, source, scale);
        vec![
            gauge(
                "telltale.tick.lateness",
                "s",
                "How late the last tick began",
                &tick.lateness_ns,
                1e-9,
            ),
            gauge(
                "telltale.tick.gather",
                "s",
                "How long the last tick waited and froze",
                &tick.gather_ns,
                1e-9,
            ),
            counter(
                "telltale.tick.skipped",
                "{tick}",
                "Ticks skipped, the one before taking too long",
                &tick.skipped,
            ),
            counter(
                "telltale.tick.late_answers",
                "{answer}",
                "Answers that were due and had not come",
                &tick.late_answers,
            ),
            counter(
                "telltale.tick.skipped_observations",
                "{snapshot}",
                "Snapshots that a busy detector did not see",
                &tick.skipped_observations,
            ),
            counter(
                "telltale.tick.not_finite",
                "{value}",
                "Values of plugins that were not finite",
                &tick.not_finite,
            ),
            counter(
                "telltale.store.samples",
                "{sample}",
                "Samples that were stored",
                &store.samples_written,
            ),
            counter(
                "telltale.store.dropped",
                "{sample}",
                "Samples that were not stored",
                &store.samples_dropped,
            ),
            counter(
                "telltale.store.entries",
                "{entry}",
                "Log entries that were stored",
                &store.entries_written,
            ),
            counter(
                "telltale.store.errors",
                "{error}",
                "Transactions that failed",
                &store.write_errors,
            ),
            gauge(
                "telltale.store.queue",
                "{snapshot}",
                "Snapshots that wait to be stored",
                &store.snapshots_queued,
                1.0,
            ),
            gauge(
                "telltale.store.history_size",
                "By",
                "Bytes that the history uses",
                &store.history_bytes_used,
                1.0,
            ),
            gauge(
                "telltale.store.log_size",
                "By",
                "Bytes that the log uses",
                &store.log_bytes_used,
                1.0,
            ),
            gauge(
                "telltale.channel.subscriptions",
                "{subscription}",
                "Distinct subscriptions",
                &channels.subscriptions,
                1.0,
            ),
            counter(
                "telltale.channel.frames",
                "{frame}",
                "Frames that were encoded",
                &channels.frames,
            ),
            counter(
                "telltale.channel.offered",
                "{frame}",
                "Frames that were offered to clients",
                &channels.offered,
            ),
            counter(
                "telltale.channel.skipped",
                "{frame}",
                "Frames that slow clients skipped",
                &channels.skipped,
            ),
            counter(
                "telltale.channel.overflowed",
                "{client}",
                "Clients closed for want of room",
                &channels.overflowed,
            ),
            counter(
                "telltale.channel.dropped",
                "{snapshot}",
                "Snapshots that the channels had no room for",
                &channels.snapshots_dropped,
            ),
            gauge(
                "telltale.session.connected",
                "{client}",
                "Clients that are connected",
                &sessions.connected,
                1.0,
            ),
            counter(
                "telltale.session.received",
                "{message}",
                "Messages from clients",
                &sessions.received,
            ),
            counter("telltale.session.sent", "{message}", "Messages to clients", &sessions.sent),
            counter(
                "telltale.session.not_understood",
                "{message}",
                "Messages that made no sense",
                &sessions.not_understood,
            ),
            counter(
                "telltale.session.lost",
                "{client}",
                "Clients that accepted or said nothing for too long",
                &sessions.lost,
            ),
            gauge(
                "telltale.findings.open",
                "{finding}",
                "Findings that are open",
                &judge.open,
                1.0,
            ),
            counter(
                "telltale.findings.opened",
                "{finding}",
                "Findings that were opened",
                &judge.opened,
            ),
            counter(
                "telltale.findings.refused",
                "{finding}",
                "Findings that found no room",
                &judge.refused,
            ),
        ]
    }

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
        while asks.recv().await.is_some() {
            let restarted = series.is_none();
            let declared = match series.take() {
                Some(declared) => Ok(declared),
                None => self.declare(&plugin, interval_ns, &dictionary).await,
            };
            let outcome = declared.map(|declared| {
                let values = self.read(&declared);
                let declare = if restarted { declared.clone() } else { Vec::new() };
                series = Some(declared);
                Batch { restarted, declare, values, ..Batch::default() }
            });
            if answers.send(Answer { plugin: plugin.clone(), outcome }).await.is_err() {
                return;
            }
        }
    }

    fn read(&self, declared: &[Arc<Series>]) -> Vec<(crate::model::SeriesId, f64)> {
        let numbers = self.numbers();
        #[expect(clippy::cast_precision_loss, reason = "counts up to 2^53 are exact")]
        let value =
            |(_, _, _, _, source, scale): &Gauge<'_>| source.load(Ordering::Relaxed) as f64 * scale;
        declared.iter().zip(&numbers).map(|(series, number)| (series.id, value(number))).collect()
    }

    async fn declare(
        &self,
        plugin: &PluginName,
        interval_ns: u64,
        dictionary: &Dictionary,
    ) -> Result<Vec<Arc<Series>>, Setback> {
        let specs = self.specs(plugin).map_err(|broken| setback(&broken.to_string()))?;
        let ids = dictionary
            .resolve(&specs)
            .await
            .map_err(|error: DictionaryError| setback(&error.to_string()))?;
        let declared = ids.into_iter().zip(specs);
        Ok(declared.map(|(id, spec)| Arc::new(Series { id, spec, interval_ns })).collect())
    }

    fn specs(&self, plugin: &PluginName) -> Result<Vec<SeriesSpec>, RuleBroken> {
        let spec = |(name, kind, unit, meaning, _, _): Gauge<'_>| {
            let (plugin, labels) = (plugin.clone(), Labels::default());
            let key = SeriesKey { plugin, name: name.into(), labels };
            SeriesSpec::new(key, kind, unit.into(), meaning.into())
        };
        self.numbers().into_iter().map(spec).collect()
    }
}

fn setback(words: &str) -> Setback {
    Setback { kind: SetbackKind::Retry, reason: words.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hubs_own_series_keep_the_rules_and_differ() {
        let vitals = Vitals {
            tick: Arc::default(),
            store: Arc::default(),
            channels: Arc::default(),
            sessions: Arc::default(),
            judge: Arc::default(),
        };
        let specs = vitals.specs(&NAME.into()).unwrap();
        let names: std::collections::BTreeSet<_> = specs.iter().map(|s| &s.key.name).collect();
        assert_eq!(names.len(), specs.len());
        assert!(names.iter().all(|name| name.starts_with("telltale.")));
    }
}
