//! What each plugin costs, as series of the hub: `telltale.plugin.*`, labelled
//! with the plugin's name, so that detectors watch the plugins too.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::{NAME, setback};
use crate::model::{
    Batch, Dictionary, Kind, Labels, PluginName, RuleBroken, Series, SeriesId, SeriesKey,
    SeriesSpec, Setback,
};
use crate::plugin::{PluginFigures, Statuses};

/// The figures are taken every so many ticks: a thousand plugins have ten
/// thousand of them.
const EVERY_TICKS: u64 = 5;

/// A figure of a plugin.
struct Figure {
    name: &'static str,
    kind: Kind,
    unit: &'static str,
    meaning: &'static str,
    /// `None` where there is nothing to tell yet.
    read: fn(&PluginFigures) -> Option<f64>,
}

const FIGURES: &[Figure] = &[
    gauge(
        "telltale.plugin.call.mean",
        "s",
        "Mean time of its last 256 calls, without waiting",
        |f| called(f, f.calls.mean_us),
    ),
    gauge("telltale.plugin.call.p99", "s", "What 99 of 100 of them stay under", |f| {
        called(f, f.calls.p99_us)
    }),
    gauge("telltale.plugin.call.max", "s", "The longest of them", |f| called(f, f.calls.max_us)),
    gauge("telltale.plugin.call.waiting", "s", "Mean time that they waited in host calls", |f| {
        called(f, f.calls.waiting_mean_us)
    }),
    gauge("telltale.plugin.memory", "By", "What its instance's memories have", |f| {
        Some(size(f.memory_bytes))
    }),
    gauge("telltale.plugin.values", "{value}", "Values in its last answer", |f| {
        Some(size(f.values))
    }),
    gauge("telltale.plugin.state", "By", "The size of the state that it saved last", |f| {
        Some(size(f.state_bytes))
    }),
    gauge(
        "telltale.plugin.reload",
        "s",
        "From its files being whole to its first answer, the last time",
        |f| (!f.reload.is_zero()).then_some(f.reload.as_secs_f64()),
    ),
    counter("telltale.plugin.late", "{call}", "Answers that were due and had not come", |f| {
        Some(count(f.late))
    }),
    counter("telltale.plugin.faults", "{fault}", "Traps, overruns and refused answers", |f| {
        Some(count(f.faults))
    }),
    counter(
        "telltale.plugin.refused",
        "{item}",
        "Series, documents, findings, log lines, values, requests and events that were left out",
        |f| Some(count(f.refused.total())),
    ),
    counter("telltale.plugin.events", "{event}", "Events that it has published", |f| {
        Some(count(f.events.published))
    }),
    counter(
        "telltale.plugin.events.failed",
        "{event}",
        "Events that it gave to the hub, and that were not published",
        |f| Some(count(f.events.failed)),
    ),
    counter("telltale.plugin.restarts", "{restart}", "Instances started after a failure", |f| {
        Some(count(f.restarts))
    }),
    counter("telltale.plugin.rollbacks", "{rollback}", "Returns to the last good version", |f| {
        Some(count(f.rollbacks))
    }),
];

type Read = fn(&PluginFigures) -> Option<f64>;

const fn gauge(
    name: &'static str,
    unit: &'static str,
    meaning: &'static str,
    read: Read,
) -> Figure {
    Figure { name, kind: Kind::Gauge, unit, meaning, read }
}

const fn counter(
    name: &'static str,
    unit: &'static str,
    meaning: &'static str,
    read: Read,
) -> Figure {
    Figure { name, kind: Kind::Counter, unit, meaning, read }
}

fn called(figures: &PluginFigures, us: f64) -> Option<f64> {
    (figures.calls.count > 0).then_some(us / 1e6)
}

#[expect(clippy::cast_precision_loss, reason = "counts up to 2^53 are exact")]
fn count(number: u64) -> f64 {
    number as f64
}

fn size(bytes: usize) -> f64 {
    count(bytes as u64)
}

/// The series of the plugins that are there.
pub(super) struct PluginSeries {
    statuses: Statuses,
    interval_ns: u64,
    dictionary: Arc<Dictionary>,
    declared: BTreeMap<PluginName, Vec<Arc<Series>>>,
}

impl PluginSeries {
    pub(super) fn new(statuses: Statuses, tick_ns: u64, dictionary: Arc<Dictionary>) -> Self {
        let interval_ns = tick_ns.saturating_mul(EVERY_TICKS);
        Self { statuses, interval_ns, dictionary, declared: BTreeMap::new() }
    }

    /// Adds to `batch` what the plugins cost, when it is due.
    ///
    /// # Errors
    ///
    /// The store gives no numbers; nothing was added.
    pub(super) async fn add(&mut self, tick: u64, batch: &mut Batch) -> Result<(), Setback> {
        if !tick.is_multiple_of(EVERY_TICKS) {
            return Ok(());
        }
        let mut figures: BTreeMap<_, _> = self.statuses.figures().into_iter().collect();
        // A file whose name can be no label is refused, and told as that.
        figures.retain(|plugin, _| spec(plugin, &FIGURES[0]).is_ok());
        let new: Vec<&PluginName> =
            figures.keys().filter(|plugin| !self.declared.contains_key(*plugin)).collect();
        if !new.is_empty() {
            let fresh = self.declare(&new).await?;
            batch.declare.extend(fresh.values().flatten().cloned());
            self.declared.extend(fresh);
        }
        self.declared.retain(|plugin, series| {
            let stays = figures.contains_key(plugin);
            if !stays {
                batch.gone.extend(series.iter().map(|series| series.id));
            }
            stays
        });
        for (plugin, series) in &self.declared {
            batch.values.extend(values(&figures[plugin], series));
        }
        Ok(())
    }

    async fn declare(
        &self,
        plugins: &[&PluginName],
    ) -> Result<BTreeMap<PluginName, Vec<Arc<Series>>>, Setback> {
        let specs = plugins.iter().flat_map(|plugin| FIGURES.iter().map(|f| spec(plugin, f)));
        let specs = specs.collect::<Result<Vec<_>, _>>();
        let specs = specs.map_err(|broken| setback(&broken.to_string()))?;
        let ids = self.dictionary.resolve(&specs).await;
        let ids = ids.map_err(|error| setback(&error.to_string()))?;
        let interval_ns = self.interval_ns;
        let mut series =
            ids.into_iter().zip(specs).map(|(id, spec)| Arc::new(Series { id, spec, interval_ns }));
        let of_one = |plugin: &&PluginName| {
            ((*plugin).clone(), series.by_ref().take(FIGURES.len()).collect())
        };
        Ok(plugins.iter().map(of_one).collect())
    }
}

fn values(
    figures: &PluginFigures,
    series: &[Arc<Series>],
) -> impl Iterator<Item = (SeriesId, f64)> {
    let read =
        |(figure, series): (&Figure, &Arc<Series>)| Some((series.id, (figure.read)(figures)?));
    FIGURES.iter().zip(series).filter_map(read)
}

fn spec(plugin: &PluginName, figure: &Figure) -> Result<SeriesSpec, RuleBroken> {
    let labels = Labels::new(vec![("plugin".into(), plugin.to_string().into())])?;
    let key = SeriesKey { plugin: NAME.into(), name: figure.name.into(), labels };
    SeriesSpec::new(key, figure.kind, figure.unit.into(), figure.meaning.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_series_of_a_plugin_keep_the_rules_and_differ() {
        let specs: Vec<_> = FIGURES.iter().map(|f| spec(&"p".into(), f).unwrap()).collect();
        let names: std::collections::BTreeSet<_> = specs.iter().map(|s| &s.key.name).collect();
        assert_eq!(names.len(), specs.len());
        assert!(specs.iter().all(|spec| spec.key.labels.get("plugin") == Some("p")));
    }
}
