//! How far the state of a series is from all that it was in before.

use crate::coder::Coder;
use crate::moment::Moment;
use crate::range::Range;
use crate::table::Table;

/// Prototypes in each table.
const M: usize = 64;

/// Novelty of the first values says nothing.
const AGE_MIN: f32 = 10.0;

/// Novelty is never more than twice the range.
const NOVELTY_MAX: f32 = 2.0;

/// Under alarm a range grows by no more than this share of it a value: after
/// an outlier the next one still counts.
const GROWTH_MAX: f32 = 0.5;

/// The states of one kind: `D` numbers each, the first of which has the range.
#[derive(Debug, Clone, Default)]
pub struct States<const D: usize> {
    range: Range,
    table: Table<D, M>,
}

/// How states of a kind are told apart and forgotten.
#[derive(Debug, Clone, Copy)]
pub struct Kind {
    /// States that are nearer than this share of the range are the same. About
    /// 1.3 / [`M`], or else prototypes drive each other out.
    pub vigilance: f32,
    /// How much of its width the range gives up at each value, at each end.
    pub decay: f32,
}

/// A state and its nearest.
#[derive(Debug, Clone, Copy)]
pub struct Compared<const D: usize> {
    state: [f32; D],
    nearest: usize,
    novelty: f32,
}

impl<const D: usize> Compared<D> {
    /// How far the state is from all that are known, as a share of the range.
    pub fn novelty(&self, moment: &Moment) -> f32 {
        if moment.age < AGE_MIN { 0.0 } else { self.novelty.min(NOVELTY_MAX) }
    }
}

impl<const D: usize> States<D> {
    /// Compares a state with all that are known.
    pub fn compare(&self, moment: &Moment, state: [f32; D]) -> Compared<D> {
        let (nearest, distance) = self.table.nearest(&state);
        let width = self.range.width(moment.range_min());
        let novelty = if self.table.is_empty() { 0.0 } else { distance / width };
        Compared { state, nearest, novelty }
    }

    /// Takes in a state; one `under_alarm` may come again and be as odd then.
    pub fn learn(&mut self, kind: Kind, moment: &Moment, of: &Compared<D>, under_alarm: bool) {
        let mut x = of.state[0];
        if under_alarm {
            x = self.range.near(x, GROWTH_MAX * self.range.width(moment.range_min()));
        } else {
            self.table.learn(&of.state, of.nearest, of.novelty, kind.vigilance, moment.age);
        }
        self.range.learn(x, kind.decay);
    }

    /// Saves or restores it.
    pub fn code(&mut self, coder: &mut impl Coder) {
        self.range.code(coder);
        self.table.code(coder);
    }
}
