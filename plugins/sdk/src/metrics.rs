//! What a collector measures: series by name or by number, and documents.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::rc::Rc;

use crate::{Batch, Declaration, Document, Kind, Label, Series};

/// A label's value may have this many bytes.
const LABEL_BYTES_MAX: usize = 256;

/// Takes values, and turns them into batches: it picks the numbers, declares
/// each series once, and tells each document only when it has changed.
///
/// A series that isn't set at a tick has no value at that tick. It lives until
/// it is ended.
#[derive(Debug, Default)]
pub struct Metrics {
    /// By number. What has ended leaves a place for another.
    slots: Vec<Slot>,
    /// The numbers of all living series.
    by_key: BTreeMap<Rc<str>, u32>,
    /// Places that the hub knows to be free.
    free: Vec<u32>,
    /// What the hub doesn't know yet: outlives a tick that ended in a fault.
    declare: Vec<Declaration>,
    gone: BTreeMap<Rc<str>, u32>,
    documents: Vec<Document>,
    /// What the hub has of each document.
    published: BTreeMap<String, String>,
}

/// A series that was declared: the quick way to set it.
///
/// One of a series that has ended does nothing, whatever its place is used for
/// since.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SeriesId {
    place: u32,
    life: u32,
}

#[derive(Debug)]
struct Slot {
    /// NaN if there is none at this tick.
    value: f64,
    /// How many series had this place before.
    life: u32,
    /// None if the place is free.
    key: Option<Rc<str>>,
}

impl Metrics {
    /// A series whose value goes up and down and is meant as it stands.
    pub fn gauge<'a>(&'a mut self, name: &'a str) -> SeriesDraft<'a> {
        self.draft(Kind::Gauge, name)
    }

    /// A series whose value is a total that only grows. The hub shows its rate.
    pub fn counter<'a>(&'a mut self, name: &'a str) -> SeriesDraft<'a> {
        self.draft(Kind::Counter, name)
    }

    /// A series whose value is a total that may fall too.
    pub fn updown<'a>(&'a mut self, name: &'a str) -> SeriesDraft<'a> {
        self.draft(Kind::Updown, name)
    }

    /// A series of a kind that is known only when the program runs.
    pub fn draft<'a>(&'a mut self, kind: Kind, name: &'a str) -> SeriesDraft<'a> {
        let (unit, description, labels) = ("1", "", Vec::new());
        SeriesDraft { metrics: self, kind, name, unit, description, labels }
    }

    /// Declares a series, unless one of that name and labels lives. Labels'
    /// values lose control characters and what is over 256 bytes.
    pub fn declare(&mut self, mut series: Series) -> SeriesId {
        for label in &mut series.labels {
            if label.value.len() > LABEL_BYTES_MAX || label.value.contains(char::is_control) {
                label.value = label_value(&label.value);
            }
        }
        self.find_or_add(key(&series.name, &mut series.labels), || series)
    }

    /// The value of a series at this tick; the last one counts, and one that is
    /// not finite is none.
    pub fn set(&mut self, id: SeriesId, value: f64) {
        if let Some(slot) = self.slots.get_mut(id.place as usize)
            && slot.life == id.life
        {
            slot.value = value;
        }
    }

    /// Ends a series: what it measured is not there any more.
    pub fn end(&mut self, id: SeriesId) {
        let slot = self.slots.get(id.place as usize);
        if slot.is_some_and(|slot| slot.life == id.life && slot.key.is_some()) {
            self.end_place(id.place);
        }
    }

    /// Ends each series that has no value at this tick: what was not found has
    /// gone.
    pub fn end_unset(&mut self) {
        for place in 0..self.slots.len() as u32 {
            let slot = &self.slots[place as usize];
            if slot.key.is_some() && !slot.value.is_finite() {
                self.end_place(place);
            }
        }
    }

    /// Publishes a document, if it is not what was published last. At most 16
    /// of them change in one tick.
    pub fn document(&mut self, name: &str, json: impl Display) {
        let json = json.to_string();
        if self.published.get(name) != Some(&json) {
            self.documents.retain(|document| document.name != name);
            self.documents.push(Document { name: name.to_owned(), json: json.clone() });
            self.published.insert(name.to_owned(), json);
        }
    }

    /// The values of this tick, by name and labels: `dice.roll{die=0}`. For
    /// tests.
    pub fn values(&self) -> BTreeMap<String, f64> {
        let values = self.by_key.iter().map(|(key, place)| {
            let value = self.slots[*place as usize].value;
            (readable(key), value)
        });
        values.filter(|(_, value)| value.is_finite()).collect()
    }

    /// Begins a tick: nothing has a value.
    pub fn begin(&mut self) {
        self.slots.iter_mut().for_each(|slot| slot.value = f64::NAN);
    }

    /// What the hub is told of the tick.
    pub fn batch(&mut self) -> Batch {
        let mut batch = Batch {
            declare: std::mem::take(&mut self.declare),
            ids: Vec::with_capacity(self.by_key.len()),
            values: Vec::with_capacity(self.by_key.len()),
            gone: self.take_gone(),
            documents: std::mem::take(&mut self.documents),
        };
        for (place, slot) in self.slots.iter().enumerate() {
            if slot.value.is_finite() {
                batch.ids.push(place as u32);
                batch.values.push(slot.value);
            }
        }
        batch
    }

    /// What has ended, in rising order. The batch after this one may use the
    /// places again.
    fn take_gone(&mut self) -> Vec<u32> {
        let mut gone: Vec<u32> = std::mem::take(&mut self.gone).into_values().collect();
        gone.sort_unstable();
        self.free.extend(gone.iter().rev());
        gone
    }

    /// Drops what was measured at a tick that ended in a fault. The hub may
    /// have dropped its documents too, so each is told again.
    pub(crate) fn abandon(&mut self) {
        self.documents.clear();
        self.published.clear();
    }

    fn find_or_add(&mut self, key: String, series: impl FnOnce() -> Series) -> SeriesId {
        let place = match self.by_key.get(key.as_str()) {
            Some(place) => *place,
            None => self.add(key, series()),
        };
        SeriesId { place, life: self.slots[place as usize].life }
    }

    fn add(&mut self, key: String, series: Series) -> u32 {
        let place = match self.gone.remove(key.as_str()) {
            // Ended and found again in one batch: the hub knows it still.
            Some(place) => place,
            None => {
                let place = self.free_place();
                self.declare.push(Declaration { id: place, series });
                place
            }
        };
        let key: Rc<str> = key.into();
        self.slots[place as usize].key = Some(key.clone());
        self.by_key.insert(key, place);
        place
    }

    fn free_place(&mut self) -> u32 {
        self.free.pop().unwrap_or_else(|| {
            self.slots.push(Slot { value: f64::NAN, life: 0, key: None });
            self.slots.len() as u32 - 1
        })
    }

    fn end_place(&mut self, place: u32) {
        let slot = &mut self.slots[place as usize];
        slot.value = f64::NAN;
        slot.life = slot.life.wrapping_add(1);
        let Some(key) = slot.key.take() else {
            return;
        };
        self.by_key.remove(&key);
        match self.declare.iter().position(|declared| declared.id == place) {
            // The hub has never heard of it.
            Some(index) => {
                self.declare.remove(index);
                self.free.push(place);
            }
            None => {
                self.gone.insert(key, place);
            }
        }
    }
}

/// A series on its way to its value.
///
/// ```
/// # let mut metrics = telltale_plugin::Metrics::default();
/// metrics.gauge("dice.roll").unit("1").label("die", 0).set(4.0);
/// ```
///
/// The series is looked up by name and labels each time. Where there are
/// thousands, keep what [`declare`](Self::declare) gives, and
/// [`set`](Metrics::set) that.
#[derive(Debug)]
#[must_use = "nothing happens before `set` or `declare`"]
pub struct SeriesDraft<'a> {
    metrics: &'a mut Metrics,
    kind: Kind,
    name: &'a str,
    unit: &'a str,
    description: &'a str,
    labels: Vec<Label>,
}

impl<'a> SeriesDraft<'a> {
    /// The unit in UCUM: `s`, `By`, `{request}`. Default `1`.
    pub fn unit(mut self, unit: &'a str) -> Self {
        self.unit = unit;
        self
    }

    /// A sentence for the person who reads a dashboard.
    pub fn description(mut self, description: &'a str) -> Self {
        self.description = description;
        self
    }

    /// A label that tells series of one name apart. The value loses control
    /// characters and what is over 256 bytes.
    pub fn label(mut self, key: &str, value: impl Display) -> Self {
        let value = label_value(&value.to_string());
        self.labels.push(Label { key: key.to_owned(), value });
        self
    }

    /// The series' value at this tick. The first time declares it.
    pub fn set(self, value: f64) {
        let (metrics, id) = self.find();
        metrics.set(id, value);
    }

    /// Declares the series, unless it lives.
    pub fn declare(self) -> SeriesId {
        self.find().1
    }

    fn find(self) -> (&'a mut Metrics, SeriesId) {
        let Self { metrics, kind, name, unit, description, mut labels } = self;
        let key = key(name, &mut labels);
        let (name, unit) = (name.to_owned(), unit.to_owned());
        let id = metrics.find_or_add(key, || {
            let description = description.to_owned();
            Series { name, kind, unit, description, labels }
        });
        (metrics, id)
    }
}

/// What a series is known by. The order of the labels doesn't matter, and no
/// value has a line break in it.
fn key(name: &str, labels: &mut [Label]) -> String {
    labels.sort_by(|a, b| a.key.cmp(&b.key));
    let mut key = name.to_owned();
    for label in labels {
        key.push('\n');
        key.push_str(&label.key);
        key.push('=');
        key.push_str(&label.value);
    }
    key
}

fn readable(key: &str) -> String {
    match key.split_once('\n') {
        Some((name, labels)) => format!("{name}{{{}}}", labels.replace('\n', ",")),
        None => key.to_owned(),
    }
}

/// A text as a label's value may be: control characters are replaced, and it is
/// cut at 256 bytes.
pub fn label_value(text: &str) -> String {
    let mut value = text.replace(char::is_control, "\u{fffd}");
    value.truncate(value.floor_char_boundary(LABEL_BYTES_MAX));
    value
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One tick, and what is told of it.
    fn tick(metrics: &mut Metrics, measure: impl FnOnce(&mut Metrics)) -> Batch {
        metrics.begin();
        measure(metrics);
        metrics.batch()
    }

    #[test]
    fn the_first_use_declares_and_what_is_not_set_has_no_value() {
        let mut metrics = Metrics::default();
        let first = tick(&mut metrics, |metrics| {
            metrics.gauge("a").unit("s").description("A").set(1.0);
            metrics.counter("b").label("y", 2).label("x", 1).set(2.0);
        });
        assert_eq!((first.ids, first.values), (vec![0, 1], vec![1.0, 2.0]));
        assert_eq!(first.declare[0].series.unit, "s");
        let labels: Vec<_> = first.declare[1].series.labels.iter().map(|l| &*l.key).collect();
        assert_eq!(labels, ["x", "y"]);
        assert_eq!(
            metrics.values(),
            [("a".to_owned(), 1.0), ("b{x=1,y=2}".to_owned(), 2.0)].into()
        );

        let second = tick(&mut metrics, |metrics| {
            metrics.counter("b").label("x", 1).label("y", 2).set(3.0);
            metrics.gauge("a").set(f64::NAN);
        });
        assert_eq!((second.declare.len(), second.ids), (0, vec![1]));
    }

    #[test]
    fn the_last_value_counts_and_a_series_is_told_once() {
        let mut metrics = Metrics::default();
        let batch = tick(&mut metrics, |metrics| {
            let id = metrics.gauge("a").label("of", "x\n").declare();
            assert_eq!(metrics.gauge("a").label("of", "x\r").declare(), id);
            metrics.set(id, 1.0);
            metrics.set(id, 2.0);
        });
        assert_eq!((batch.declare.len(), batch.ids.len(), batch.values[0]), (1, 1, 2.0));
    }

    #[test]
    fn a_place_is_used_again_only_after_the_batch_that_ended_its_series() {
        let mut metrics = Metrics::default();
        let mut old = None;
        tick(&mut metrics, |metrics| old = Some(metrics.gauge("a").declare()));
        let old = old.unwrap();
        let swap = tick(&mut metrics, |metrics| {
            metrics.end(old);
            metrics.end(old);
            metrics.gauge("b").set(1.0);
        });
        assert_eq!((swap.gone, swap.ids), (vec![0], vec![1]));
        let next = tick(&mut metrics, |metrics| {
            metrics.gauge("c").set(2.0);
            // It has ended: nothing of the series that has its place is touched.
            metrics.set(old, 9.0);
            metrics.end(old);
        });
        assert_eq!((next.declare[0].id, next.ids, next.values), (0, vec![0], vec![2.0]));
        assert!(next.gone.is_empty());
    }

    #[test]
    fn what_is_not_found_again_has_gone() {
        let mut metrics = Metrics::default();
        let found = |names: &'static [&str]| {
            move |metrics: &mut Metrics| {
                names.iter().for_each(|name| metrics.gauge(name).set(1.0));
                metrics.end_unset();
            }
        };
        tick(&mut metrics, found(&["a", "b"]));
        let batch = tick(&mut metrics, found(&["b", "c"]));
        assert_eq!((batch.gone, batch.declare.len()), (vec![0], 1));
    }

    #[test]
    fn what_comes_and_goes_within_a_tick_is_not_told() {
        let mut metrics = Metrics::default();
        let batch = tick(&mut metrics, |metrics| {
            let id = metrics.gauge("a").declare();
            metrics.end(id);
            metrics.gauge("b").set(1.0);
        });
        assert_eq!((batch.declare.len(), batch.gone.len(), batch.ids), (1, 0, vec![0]));
    }

    #[test]
    fn what_goes_and_comes_within_a_tick_goes_on() {
        let mut metrics = Metrics::default();
        tick(&mut metrics, |metrics| metrics.gauge("a").set(1.0));
        let batch = tick(&mut metrics, |metrics| {
            let id = metrics.gauge("a").declare();
            metrics.end(id);
            metrics.gauge("a").set(2.0);
        });
        assert_eq!((batch.declare.len(), batch.gone.len(), batch.values), (0, 0, vec![2.0]));
    }

    #[test]
    fn a_document_is_told_when_it_changes_and_after_a_fault() {
        let mut metrics = Metrics::default();
        let told = |metrics: &mut Metrics, json: &str| {
            let batch = tick(metrics, |metrics| metrics.document("d", json));
            batch.documents.len()
        };
        assert_eq!([told(&mut metrics, "1"), told(&mut metrics, "1")], [1, 0]);
        assert_eq!(told(&mut metrics, "2"), 1);
        metrics.abandon();
        assert_eq!(told(&mut metrics, "2"), 1);
    }

    #[test]
    fn labels_are_clean_and_bounded() {
        assert_eq!(label_value("a\u{1b}\nb"), "a\u{fffd}\u{fffd}b");
        assert_eq!(label_value(&"ä€".repeat(60)).len(), 255);
    }
}
