//! Plugins that do anything that plugins may do, the same in every run.

use std::sync::Arc;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde_json::value::RawValue;

use crate::channel::Feed;
use crate::clock::Clock;
use crate::model::{
    Answer, Batch, Document, Kind, Labels, PluginName, Series, SeriesId, SeriesKey, SeriesSpec,
    Setback, SetbackKind, Tick,
};
use crate::plugin::Statuses;
use crate::snapshot::Freezer;

/// Two plugins, `p0` and `p1`, with five series each that come and go.
pub(in super::super) struct World {
    pub(in super::super) dice: StdRng,
    freezer: Freezer,
    alive: [Vec<u32>; 2],
    tick: u64,
    /// How many different values there are.
    values: u32,
}

impl World {
    pub(in super::super) fn new(seed: u64) -> Self {
        Self {
            dice: StdRng::seed_from_u64(seed),
            freezer: Freezer::default(),
            alive: [Vec::new(), Vec::new()],
            tick: 0,
            values: if seed.is_multiple_of(2) { 3 } else { 1000 },
        }
    }

    pub(in super::super) fn feed() -> Feed {
        Feed::new(Statuses::default(), Clock::system(), "k3".into(), 40)
    }

    /// True once in so many times.
    pub(in super::super) fn once_in(&mut self, times: u32) -> bool {
        self.dice.random_range(0..times) == 0
    }

    /// The next tick.
    pub(in super::super) fn tick(&mut self, feed: &mut Feed) {
        self.tick += 1;
        self.freezer.begin(Tick { number: self.tick, time_ns: self.tick * 1_000_000_000 });
        for plugin in 0..2 {
            match self.answer(plugin) {
                Some(answer) => self.freezer.apply(answer),
                None => self.freezer.mark_late(name(plugin)),
            }
        }
        feed.take_snapshot(self.freezer.freeze());
    }

    fn answer(&mut self, plugin: u32) -> Option<Answer> {
        let outcome = match self.dice.random_range(0..8) {
            0 => return None,
            1 => Err(Setback { kind: SetbackKind::Retry, reason: "no luck".into() }),
            _ => Ok(self.batch(plugin)),
        };
        Some(Answer { plugin: name(plugin), outcome })
    }

    fn batch(&mut self, plugin: u32) -> Batch {
        let mut batch = Batch { restarted: self.once_in(6), ..Batch::default() };
        let mut alive = std::mem::take(&mut self.alive[plugin as usize]);
        if batch.restarted {
            alive.clear();
        }
        for id in plugin * 5..plugin * 5 + 5 {
            let known = alive.contains(&id);
            if known && self.once_in(10) {
                alive.retain(|other| *other != id);
                batch.gone.push(SeriesId(id));
            } else if known || self.once_in(2) {
                if !known {
                    alive.push(id);
                    batch.declare.push(self.series(plugin, id));
                }
                match self.dice.random_range(0..4) {
                    0 => {}
                    1 => batch.not_finite.push(SeriesId(id)),
                    _ => {
                        let value = f64::from(self.dice.random_range(0..self.values)) / 4.0;
                        batch.values.push((SeriesId(id), value));
                    }
                }
            }
        }
        self.alive[plugin as usize] = alive;
        if self.once_in(3) {
            batch.documents.push(self.document(plugin));
        }
        batch
    }

    fn series(&mut self, plugin: u32, id: u32) -> Arc<Series> {
        let key = SeriesKey {
            plugin: name(plugin),
            name: format!("s{}", id % 3).into(),
            labels: Labels::new(vec![("id".into(), id.to_string().into())]).unwrap(),
        };
        let kind = if self.once_in(4) { Kind::Counter } else { Kind::Gauge };
        let spec = SeriesSpec::new(key, kind, "1".into(), "\"one\"\n".into()).unwrap();
        Arc::new(Series { id: SeriesId(id), spec, interval_ns: 1_000_000_000 })
    }

    fn document(&mut self, plugin: u32) -> Arc<Document> {
        let json = RawValue::from_string(self.dice.random_range(0..100).to_string()).unwrap();
        let name_of = format!("d{}", self.dice.random_range(0..3));
        Arc::new(Document { plugin: name(plugin), name: name_of.into(), json })
    }
}

fn name(plugin: u32) -> PluginName {
    format!("p{plugin}").into()
}
