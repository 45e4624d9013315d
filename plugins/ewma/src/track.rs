//! What is known of one series, and how far a value is from it.

use crate::settings::Settings;
use telltale_plugin::{Level, Reader, Saved, Tail};

/// The level of a series' values and of their changes: 72 bytes.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Track {
    level: Level,
    change: Level,
    last: f64,
    /// How far, in deviations, a value and a change were off at the most.
    tails: [Tail; 2],
    /// Whether the last value was odd: the change from it says nothing.
    was_odd: bool,
}

/// What was most odd about a value.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Odd {
    /// 1 at the threshold.
    pub height: f64,
    /// Deviations from what was expected, negative below it.
    pub off: f64,
    /// What was expected, in the series' unit.
    pub expected: f64,
    /// How far from that would have been usual.
    pub reach: f64,
    /// Whether it is the change from the last value that is odd.
    pub is_change: bool,
}

impl Track {
    /// How odd the value is; `None` while too few are known.
    pub fn judge(&mut self, value: f64, settings: &Settings) -> Option<Odd> {
        let change = value - self.last;
        let judged = (self.level.count() >= settings.min_values).then(|| {
            // What is little for the value is little for its change, whose own mean
            // is about 0.
            let least = self.level.deviation_min();
            let of_value = odd(&self.level, least, &mut self.tails[0], value, settings);
            let of_change = odd(&self.change, least, &mut self.tails[1], change, settings);
            if of_change.height > of_value.height && !self.was_odd {
                Odd { expected: self.last + of_change.expected, is_change: true, ..of_change }
            } else {
                of_value
            }
        });
        self.was_odd = judged.is_some_and(|odd| odd.height >= 1.0);
        self.level.push(value, settings.weight());
        if self.level.count() > 1 {
            self.change.push(change, settings.weight());
        }
        self.last = value;
        judged
    }
}

fn odd(level: &Level, least: f64, tail: &mut Tail, value: f64, settings: &Settings) -> Odd {
    let deviation = level.deviation().max(least);
    let off = level.off(value) * (level.deviation() / deviation);
    let (threshold, share) = (settings.threshold, settings.tail);
    let odd = Odd {
        height: tail.height(off, threshold, share),
        off,
        expected: level.mean(),
        reach: tail.reach(threshold, share) * deviation,
        is_change: false,
    };
    tail.push(off);
    odd
}

impl Saved for Track {
    fn write(&self, bytes: &mut Vec<u8>) {
        self.level.write(bytes);
        self.change.write(bytes);
        bytes.extend_from_slice(&self.last.to_le_bytes());
        self.tails.iter().for_each(|tail| tail.write(bytes));
        bytes.push(u8::from(self.was_odd));
    }

    fn read(bytes: &mut Reader<'_>) -> Option<Self> {
        let (level, change) = (Level::read(bytes)?, Level::read(bytes)?);
        let last = bytes.f64()?;
        let tails = [Tail::read(bytes)?, Tail::read(bytes)?];
        let was_odd = bytes.u8()? != 0;
        Some(Self { level, change, last, tails, was_odd })
    }
}
