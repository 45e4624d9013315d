//! The `metrics` channel.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::encode::write_list;
use super::filter::{Fields, Filter};
use crate::channel::{Feed, StateEncoder, SubId, Texts, write_number};
use crate::model::{PluginName, Series, SeriesId};
use crate::snapshot::{Snapshot, Stale};

#[cfg(test)]
mod tests;

/// Whether a push says what has changed, or everything.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Form {
    #[default]
    Delta,
    Full,
}

/// The `metrics` channel through one filter.
pub(super) struct Metrics {
    filter: Filter,
    fields: Fields,
    form: Form,
    every: u64,
    /// The snapshot that was looked at last.
    latest: Arc<Snapshot>,
    /// Where the series that match stand in its roster.
    positions: Vec<usize>,
    /// What has happened to each of them since the last push.
    news: Vec<News>,
    /// Between which values each of them was since the last push. Empty where
    /// there is a push at every tick.
    extremes: Vec<Extremes>,
    /// Series that have ended since the last push; some may be there again.
    ended: Vec<SeriesId>,
    /// It has been pushed what there was: the next snapshot begins something
    /// new.
    told: bool,
}

/// What has happened to a series since the last push. A client that joined
/// between two pushes has seen some of it, so that what came and went counts.
#[derive(Clone, Copy, Debug, Default)]
struct News {
    /// It was declared.
    declared: bool,
    /// It had another value.
    moved: bool,
    /// It went stale, for another reason, or was healed.
    stale: bool,
}

/// The lowest and the highest value of an interval; the other way round if
/// there was none.
#[derive(Clone, Copy, Debug)]
struct Extremes {
    min: f64,
    max: f64,
}

impl Extremes {
    const NONE: Self = Self { min: f64::INFINITY, max: f64::NEG_INFINITY };

    fn take(&mut self, value: f64) {
        if value.is_finite() {
            self.min = self.min.min(value);
            self.max = self.max.max(value);
        }
    }
}

impl Metrics {
    /// `every` is how many ticks lie between two pushes.
    pub(super) fn new(filter: Filter, fields: Fields, form: Form, every: u64) -> Self {
        Self {
            filter,
            fields,
            form,
            every,
            latest: Arc::new(Snapshot::empty()),
            positions: Vec::new(),
            news: Vec::new(),
            extremes: Vec::new(),
            ended: Vec::new(),
            told: false,
        }
    }

    fn thins(&self) -> bool {
        self.every > 1
    }

    /// Takes in a snapshot, once.
    fn follow(&mut self, snapshot: &Arc<Snapshot>) {
        if Arc::ptr_eq(&self.latest, snapshot) {
            return;
        }
        if self.told {
            self.begin();
        }
        if self.latest.roster.generation == snapshot.roster.generation {
            self.compare(snapshot);
        } else {
            self.merge(snapshot);
        }
        for (extremes, at) in self.extremes.iter_mut().zip(&self.positions) {
            extremes.take(snapshot.values[*at]);
        }
        self.latest = snapshot.clone();
    }

    /// Forgets what has been told.
    fn begin(&mut self) {
        self.told = false;
        self.news.fill(News::default());
        self.extremes.fill(Extremes::NONE);
        self.ended.clear();
    }

    /// Notes what differs between `latest` and a snapshot of the same roster.
    fn compare(&mut self, snapshot: &Snapshot) {
        let before = &self.latest;
        for (news, at) in self.news.iter_mut().zip(&self.positions) {
            news.moved |= before.values[*at].to_bits() != snapshot.values[*at].to_bits();
        }
        if Arc::ptr_eq(&before.stale, &snapshot.stale) {
            return;
        }
        let (old, new) = (&before.stale, &snapshot.stale);
        let other = new.iter().filter(|(at, stale)| old.get(at) != Some(stale)).map(|(at, _)| at);
        let healed = old.keys().filter(|at| !new.contains_key(at));
        for at in other.chain(healed) {
            if let Ok(index) = self.positions.binary_search(at) {
                self.news[index].stale = true;
            }
        }
    }

    /// Goes over to a snapshot of another roster. Both are in the order of the
    /// series' numbers; only what is new is held against the filter.
    fn merge(&mut self, snapshot: &Snapshot) {
        let before = self.latest.clone();
        let (old, new) = (&before.roster.series, &snapshot.roster.series);
        let positions = std::mem::take(&mut self.positions);
        let news = std::mem::take(&mut self.news);
        let extremes = std::mem::take(&mut self.extremes);
        let (mut old_at, mut index) = (0, 0);
        for (at, series) in new.iter().enumerate() {
            old_at += old[old_at..].iter().take_while(|known| known.id < series.id).count();
            index += positions[index..].iter().take_while(|at| **at < old_at).count();
            let known = old.get(old_at).filter(|known| known.id == series.id);
            let matched = positions.get(index) == Some(&old_at);
            if !known.map_or_else(|| self.filter.matches(series), |_| matched) {
                continue;
            }
            self.positions.push(at);
            let (mut told, mut between) =
                (News { declared: true, ..News::default() }, Extremes::NONE);
            if known == Some(series) {
                told = news[index];
                told.moved |= before.values[old_at].to_bits() != snapshot.values[at].to_bits();
                told.stale |= before.stale.get(&old_at) != snapshot.stale.get(&at);
                between = extremes.get(index).copied().unwrap_or(between);
            }
            self.news.push(told);
            if self.thins() {
                self.extremes.push(between);
            }
        }
        let ids = positions.iter().map(|at| old[*at].id);
        self.ended.extend(ids.filter(|id| snapshot.roster.position(*id, 0).is_none()));
    }

    /// Writes what has happened since the last push: `"values":[…]` and so on.
    fn write_changes(&self, texts: &mut Texts<'_>, text: &mut String) {
        let snapshot = &self.latest;
        let (mut declare, mut stale) = (String::new(), String::new());
        text.push_str("\"values\":[");
        let mut comma = "";
        for (index, (news, &at)) in self.news.iter().zip(&self.positions).enumerate() {
            let between = self.extremes.get(index);
            let reason = if snapshot.stale.is_empty() { None } else { snapshot.stale.get(&at) };
            if news.declared {
                declare.push_str(if declare.is_empty() { "{" } else { ",{" });
                texts.write_series(at, self.fields.bits(), &mut declare);
                declare.push('}');
            }
            let value_now = snapshot.values[at].is_finite();
            // A value that heals a stale series is told even if it is the same.
            let row = if news.declared {
                value_now || between.is_some_and(|between| between.min <= between.max)
            } else {
                news.moved || (news.stale && reason.is_none())
            };
            if row {
                text.push_str(std::mem::replace(&mut comma, ","));
                write_row(texts, at, between, text);
            }
            // A value ends what was stale; where it still is, that is told again.
            if let Some(reason) = reason
                && (row || news.declared || news.stale)
            {
                write_stale(texts, snapshot.roster.series[at].id, reason, &mut stale);
            }
        }
        text.push(']');
        for (key, list) in [("declare", declare), ("stale", stale)] {
            if !list.is_empty() {
                // Writing to a string can't fail.
                let _ = write!(text, ",\"{key}\":[{list}]");
            }
        }
        write_list(text, "gone", &self.gone());
    }

    /// Series that have ended since the last push and are not there again. One
    /// that came and went is among them: who joined meanwhile knows it.
    fn gone(&self) -> Vec<SeriesId> {
        let mut gone = self.ended.clone();
        gone.retain(|id| self.latest.roster.position(*id, 0).is_none());
        gone.sort_unstable();
        gone.dedup();
        gone
    }

    /// Writes all that is known: `"series":[…]`, with the extremes if `thinned`.
    pub(super) fn write_series(&self, texts: &mut Texts<'_>, thinned: bool, text: &mut String) {
        let snapshot = texts.snapshot().clone();
        let thinned = thinned && Arc::ptr_eq(&snapshot, &self.latest);
        text.push_str("\"series\":[");
        let mut comma = "{";
        self.for_each(&snapshot, |index, at| {
            text.push_str(std::mem::replace(&mut comma, ",{"));
            texts.write_series(at, self.fields.bits(), text);
            text.push_str(",\"value\":");
            text.push_str(texts.value(at));
            if let Some(between) = self.extremes.get(index).filter(|_| thinned) {
                text.push_str(",\"min\":");
                write_extreme(texts, at, between.min, text);
                text.push_str(",\"max\":");
                write_extreme(texts, at, between.max, text);
            }
            if let Some(stale) = snapshot.stale.get(&at) {
                text.push_str(",\"stale\":");
                text.push_str(texts.stale(stale));
            }
            text.push('}');
        });
        text.push(']');
    }

    /// The series of a snapshot that match, counted, with their positions.
    fn for_each(&self, snapshot: &Snapshot, mut act: impl FnMut(usize, usize)) {
        if snapshot.roster.generation == self.latest.roster.generation {
            return self.positions.iter().enumerate().for_each(|(index, at)| act(index, *at));
        }
        let series = snapshot.roster.series.iter().enumerate();
        let matching = series.filter(|(_, series)| self.filter.matches(series));
        matching.enumerate().for_each(|(index, (at, _))| act(index, at));
    }
}

/// `[31,0.33]`, or `[31,0.33,0.3,0.4]`
fn write_row(texts: &mut Texts<'_>, at: usize, between: Option<&Extremes>, text: &mut String) {
    let Some(between) = between else { return text.push_str(texts.row(at)) };
    let row = texts.row(at);
    text.push_str(row.strip_suffix(']').unwrap_or(row));
    for extreme in [between.min, between.max] {
        text.push(',');
        write_extreme(texts, at, extreme, text);
    }
    text.push(']');
}

/// Writes an extreme, which often is the last value too.
fn write_extreme(texts: &mut Texts<'_>, at: usize, extreme: f64, text: &mut String) {
    if texts.snapshot().values[at].to_bits() == extreme.to_bits() {
        text.push_str(texts.value(at));
    } else {
        write_number(text, extreme);
    }
}

/// `{"id":31,"since":…}`, after those before it.
fn write_stale(texts: &mut Texts<'_>, id: SeriesId, stale: &Arc<Stale>, text: &mut String) {
    let comma = if text.is_empty() { "" } else { "," };
    let stale = texts.stale(stale);
    let _ = write!(text, "{comma}{{\"id\":{id},{}", stale.strip_prefix('{').unwrap_or(stale));
}

impl StateEncoder for Metrics {
    fn every(&self) -> u64 {
        self.every
    }

    fn observe(&mut self, feed: &Feed) {
        self.follow(&feed.snapshot);
    }

    fn push(&mut self, feed: &mut Feed, sub: SubId, text: &mut String) -> bool {
        self.follow(&feed.snapshot);
        if self.told {
            // Asked again at the same tick.
            self.begin();
        }
        let mut texts = feed.texts();
        let _ = write!(text, "{{\"push\":\"metrics\",\"sub\":{},{},", sub.0, texts.moment());
        match self.form {
            Form::Delta => self.write_changes(&mut texts, text),
            Form::Full => {
                text.push_str("\"full\":true,");
                self.write_series(&mut texts, true, text);
            }
        }
        text.push('}');
        self.told = true;
        true
    }

    fn state(&mut self, feed: &mut Feed, sub: SubId, text: &mut String) {
        let mut texts = feed.texts();
        let _ = write!(
            text,
            "{{\"channel\":\"metrics\",\"sub\":{},\"every\":{},\"snapshot\":{{{},",
            sub.0,
            self.every,
            texts.moment()
        );
        self.write_series(&mut texts, false, text);
        text.push_str("}}");
    }

    fn full(
        &mut self,
        feed: &mut Feed,
        sub: SubId,
        before: &mut String,
        after: &mut String,
    ) -> bool {
        let mut texts = feed.texts();
        let _ = write!(
            before,
            "{{\"push\":\"metrics\",\"sub\":{},{},\"full\":true,\"skipped\":",
            sub.0,
            texts.moment()
        );
        after.push(',');
        self.write_series(&mut texts, true, after);
        after.push('}');
        true
    }

    fn watches(&self, feed: &Feed, plugin: &mut dyn FnMut(&PluginName)) {
        if let Some(wanted) = self.filter.plugin() {
            return plugin(wanted);
        }
        let series = &feed.snapshot.roster.series;
        let mut last: Option<&Arc<Series>> = None;
        let mut named = BTreeSet::new();
        self.for_each(&feed.snapshot, |_, at| {
            // A plugin's series mostly stand together.
            if last.is_none_or(|last| !Arc::ptr_eq(last.plugin(), series[at].plugin())) {
                named.insert(series[at].plugin());
            }
            last = Some(&series[at]);
        });
        named.into_iter().for_each(plugin);
    }
}
