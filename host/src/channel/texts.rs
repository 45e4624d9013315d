//! What frames have in common, written once: the values of a snapshot, the
//! declarations of its series.

use std::fmt::Write as _;
use std::sync::Arc;

use crate::clock::write_rfc3339_micros;
use crate::model::Series;
use crate::snapshot::{Snapshot, Stale};

/// What is told of a series beside its `id`, in this order.
pub const MEMBERS: [&str; 7] =
    ["plugin", "name", "kind", "unit", "description", "labels", "interval_ms"];

/// Texts of the newest snapshot. Each is written when a frame first needs it;
/// from then on frames copy it.
#[derive(Debug)]
pub struct TextCache {
    /// What the texts are of.
    of: Arc<Snapshot>,
    /// `"tick":…,"time":"…"`, or empty.
    moment: String,
    /// Rows, one after the other, as frames have asked for them.
    rows: String,
    /// Where the row of each position is, if it is of this turn.
    places: Vec<Place>,
    /// Rises with each snapshot, so that nothing has to be cleared. It starts
    /// again after years, and then everything is.
    turn: u32,
    /// Declarations by position.
    declared: Vec<Option<Declared>>,
    /// The last reason for being stale: a plugin's series mostly share it.
    stale: Option<(Arc<Stale>, String)>,
}

/// Where a row stands in [`TextCache::rows`]. A row has less than 40 bytes, so that
/// 100 million fit.
#[derive(Clone, Copy, Debug, Default)]
struct Place {
    turn: u32,
    row: u32,
    /// Where its value begins; the row ends one byte after it.
    value: u32,
    end: u32,
}

/// `"id":…,"plugin":…` and so on.
#[derive(Debug)]
struct Declared {
    text: Box<str>,
    /// Where the id ends, and each of [`MEMBERS`].
    ends: [usize; MEMBERS.len() + 1],
}

impl Default for TextCache {
    fn default() -> Self {
        Self {
            of: Arc::new(Snapshot::empty()),
            moment: String::new(),
            rows: String::new(),
            places: Vec::new(),
            turn: 1,
            declared: Vec::new(),
            stale: None,
        }
    }
}

/// The texts of one snapshot.
#[derive(Debug)]
pub struct Texts<'a> {
    cache: &'a mut TextCache,
}

impl TextCache {
    /// The texts of `snapshot`.
    pub fn of(&mut self, snapshot: &Arc<Snapshot>) -> Texts<'_> {
        if !Arc::ptr_eq(&self.of, snapshot) {
            self.turn_to(snapshot.clone());
        }
        Texts { cache: self }
    }

    fn turn_to(&mut self, snapshot: Arc<Snapshot>) {
        self.moment.clear();
        self.rows.clear();
        self.turn = self.turn.wrapping_add(1);
        if self.turn == 0 {
            self.places.clear();
            self.turn = 1;
        }
        self.places.resize(snapshot.roster.series.len(), Place::default());
        if !Arc::ptr_eq(&self.of.roster, &snapshot.roster) {
            self.declared = self.declared_of(&snapshot);
        }
        self.of = snapshot;
    }

    /// The declarations that are good for `snapshot` too.
    fn declared_of(&mut self, snapshot: &Snapshot) -> Vec<Option<Declared>> {
        let (before, now) = (&self.of.roster.series, &snapshot.roster.series);
        let mut declared = Vec::new();
        if self.declared.is_empty() {
            return declared;
        }
        declared.resize_with(now.len(), || None);
        let mut hint = 0;
        for (series, known) in before.iter().zip(&mut self.declared) {
            let Some(known) = known.take() else { continue };
            let Some(at) = snapshot.roster.position(series.id, hint) else { continue };
            hint = at + 1;
            if Arc::ptr_eq(series, &now[at]) {
                declared[at] = Some(known);
            }
        }
        declared
    }

    fn place(&mut self, position: usize) -> Place {
        let place = self.places[position];
        if place.turn == self.turn {
            return place;
        }
        let row = self.rows.len();
        // Writing to a string can't fail.
        let _ = write!(self.rows, "[{},", self.of.roster.series[position].id);
        let value = self.rows.len();
        write_number(&mut self.rows, self.of.values[position]);
        let end = self.rows.len();
        self.rows.push(']');
        let [row, value, end] = [row, value, end].map(|at| u32::try_from(at).unwrap_or(u32::MAX));
        let place = Place { turn: self.turn, row, value, end };
        self.places[position] = place;
        place
    }
}

impl Texts<'_> {
    /// What they are of.
    #[must_use]
    pub fn snapshot(&self) -> &Arc<Snapshot> {
        &self.cache.of
    }

    /// `"tick":812,"time":"2026-02-10T12:00:00.250123Z"`
    #[must_use]
    pub fn moment(&mut self) -> &str {
        if self.cache.moment.is_empty() {
            let TextCache { of, moment, .. } = &mut *self.cache;
            let _ = write!(moment, "\"tick\":{},\"time\":\"", of.tick.number);
            write_rfc3339_micros(moment, of.tick.time_ns);
            moment.push('"');
        }
        &self.cache.moment
    }

    /// `[31,0.33]`: the number and the value of the series at a position in the
    /// roster. A value that is not there is null.
    #[must_use]
    pub fn row(&mut self, position: usize) -> &str {
        let place = self.cache.place(position);
        &self.cache.rows[place.row as usize..=place.end as usize]
    }

    /// `0.33`
    #[must_use]
    pub fn value(&mut self, position: usize) -> &str {
        let place = self.cache.place(position);
        &self.cache.rows[place.value as usize..place.end as usize]
    }

    /// `"id":31,"plugin":…` and so on: those of [`MEMBERS`] whose bits are set
    /// in `wanted`, the lowest standing for the first.
    pub fn write_series(&mut self, position: usize, wanted: u32, text: &mut String) {
        let TextCache { of, declared, .. } = &mut *self.cache;
        if declared.is_empty() {
            declared.resize_with(of.roster.series.len(), || None);
        }
        let declared =
            declared[position].get_or_insert_with(|| declare(&of.roster.series[position]));
        if wanted.count_ones() as usize == MEMBERS.len() {
            text.push_str(&declared.text);
            return;
        }
        text.push_str(&declared.text[..declared.ends[0]]);
        for (at, ends) in declared.ends.windows(2).enumerate() {
            if wanted & (1 << at) != 0 {
                text.push_str(&declared.text[ends[0]..ends[1]]);
            }
        }
    }

    /// Why something is out of date, as JSON.
    #[must_use]
    pub fn stale(&mut self, stale: &Arc<Stale>) -> &str {
        let written = &mut self.cache.stale;
        if written.as_ref().is_none_or(|(of, _)| of != stale) {
            *written = None;
        }
        &written.get_or_insert_with(|| (stale.clone(), to_json(stale))).1
    }
}

fn declare(series: &Series) -> Declared {
    let spec = &series.spec;
    let values = [
        to_json(&**series.plugin()),
        to_json(series.name()),
        to_json(&spec.kind),
        to_json(&*spec.unit),
        to_json(&*spec.description),
        to_json(series.labels()),
        (series.interval_ns / 1_000_000).to_string(),
    ];
    let mut text = format!("\"id\":{}", series.id);
    let mut ends = [text.len(); MEMBERS.len() + 1];
    for ((member, value), end) in MEMBERS.iter().zip(values).zip(&mut ends[1..]) {
        let _ = write!(text, ",\"{member}\":{value}");
        *end = text.len();
    }
    Declared { text: text.into(), ends }
}

/// Writes a number as JSON; one that is not finite is null.
pub fn write_number(text: &mut String, number: f64) {
    // Writing to a string can't fail. By way of a writer of bytes, whose text
    // is then checked again, it takes a quarter longer.
    let _ = match serde_json::Number::from_f64(number) {
        Some(number) => write!(text, "{number}"),
        None => text.write_str("null"),
    };
}

/// JSON of what can always be written as JSON.
fn to_json(value: &(impl serde::Serialize + ?Sized)) -> String {
    serde_json::to_string(value).unwrap_or_else(|_| "null".to_owned())
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::model::{Answer, Batch, Kind, Labels, SeriesId, SeriesKey, SeriesSpec, Tick};
    use crate::snapshot::Freezer;

    const VALUES: [f64; 12] = [
        0.0,
        -0.0,
        0.1,
        1.0,
        -3.5,
        1e15,
        1e16,
        1e17,
        1e300,
        f64::MIN_POSITIVE,
        f64::MAX,
        1.0 / 3.0,
    ];

    fn series(id: u32) -> Arc<Series> {
        let label = |key: &str, value: &str| (key.into(), value.into());
        let key = SeriesKey {
            plugin: "p\"1".into(),
            name: format!("name.{id}").into(),
            labels: Labels::new(vec![label("b", "\\ \"ö\""), label("a", "")]).unwrap(),
        };
        let spec = SeriesSpec::new(key, Kind::Updown, "By".into(), "two\nlines".into()).unwrap();
        Arc::new(Series { id: SeriesId(id), spec, interval_ns: 1_500_000_000 })
    }

    /// A tick with these values of the series from 0 on.
    fn snapshot(freezer: &mut Freezer, number: u64, values: &[f64]) -> Arc<Snapshot> {
        let ids = 0..u32::try_from(values.len()).unwrap();
        freezer.begin(Tick { number, time_ns: number * 1_000_000_000 });
        let batch = Batch {
            restarted: true,
            declare: ids.clone().map(series).collect(),
            values: ids.map(SeriesId).zip(values.iter().copied()).collect(),
            ..Batch::default()
        };
        freezer.apply(Answer { plugin: "p\"1".into(), outcome: Ok(batch) });
        freezer.freeze()
    }

    #[test]
    fn rows_are_what_direct_serialisation_writes() {
        let (mut freezer, mut cache) = (Freezer::default(), TextCache::default());
        for number in 1..=VALUES.len() {
            let mut values = VALUES;
            values.rotate_left(number);
            // Series come and go between the ticks.
            let snapshot = snapshot(&mut freezer, number as u64, &values[number / 2..]);
            let mut texts = cache.of(&snapshot);
            assert!(texts.moment().starts_with(&format!("\"tick\":{number},\"time\":\"1970")));
            for _ in 0..2 {
                for (at, series) in snapshot.roster.series.iter().enumerate().rev() {
                    let value = serde_json::to_string(&snapshot.values[at]).unwrap();
                    assert_eq!(texts.value(at), value);
                    assert_eq!(texts.row(at), format!("[{},{value}]", series.id));
                }
            }
        }
        let mut text = String::new();
        for not_finite in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
            write_number(&mut text, not_finite);
        }
        assert_eq!(text, "nullnullnull");
    }

    #[test]
    fn declarations_have_the_members_that_are_wanted() {
        let (mut freezer, mut cache) = (Freezer::default(), TextCache::default());
        let all = json!({
            "plugin": "p\"1", "name": "name.2", "kind": "updown", "unit": "By",
            "description": "two\nlines", "labels": {"a": "", "b": "\\ \"ö\""},
            "interval_ms": 1500,
        });
        for number in 1..4 {
            let snapshot = snapshot(&mut freezer, number, &VALUES[..5 + number as usize]);
            let mut texts = cache.of(&snapshot);
            for wanted in 0..1 << MEMBERS.len() {
                let mut text = "{".to_owned();
                texts.write_series(2, wanted, &mut text);
                let told: Value = serde_json::from_str(&(text + "}")).unwrap();
                let mut expected = json!({"id": 2});
                for (at, member) in MEMBERS.iter().enumerate() {
                    if wanted & (1 << at) != 0 {
                        expected[member] = all[member].clone();
                    }
                }
                assert_eq!(told, expected);
            }
        }
    }

    #[test]
    fn steady_ticks_use_the_same_memory() {
        let (mut freezer, mut cache) = (Freezer::default(), TextCache::default());
        let mut memory = Vec::new();
        for number in 1..10 {
            let snapshot = snapshot(&mut freezer, number, &VALUES);
            let mut texts = cache.of(&snapshot);
            let _ = texts.moment();
            let mut text = String::new();
            for at in 0..VALUES.len() {
                assert!(!texts.row(at).is_empty());
                texts.write_series(at, 0, &mut text);
            }
            memory.push((
                cache.rows.as_ptr(),
                cache.places.as_ptr(),
                cache.moment.as_ptr(),
                cache.declared[0].as_ref().map(|declared| declared.text.as_ptr()),
            ));
        }
        assert!(memory.windows(2).all(|two| two[0] == two[1]), "{memory:?}");
    }
}
