//! Series that are faster than anybody can react are judged in blocks, and by
//! the strongest that they have said: with 86,400 values a day even what is one
//! in ten thousand is nothing to tell of.

use crate::coder::Coder;
use crate::range::Range;

/// Values that come slower than this are judged one by one.
const BLOCK_S: f32 = 20.0;

/// One that is judged so is not gathered in blocks again before its values come
/// faster than this: a tick of 20 seconds is a little early at times.
const BLOCK_AGAIN_S: f32 = 18.0;

/// The median of so many blocks is judged: a burst that touches two of them is
/// not seen.
const BLOCKS: usize = 5;

/// After such a gap a block begins anew.
const GAP_S: f32 = 40.0;

/// How fast the mean and variance of single values follow.
const RATE: f32 = 2e-4;

/// How much of its width the range of single values gives up with each.
const DECAY: f32 = 1e-6;

/// A series whose range is not wider than so many deviations is tame.
const TAME: f32 = 12.0;

/// One value alone is judged after so many.
const ALONE_SEEN_MIN: u32 = 20_000;

/// So many blocks count for nothing, not even for the record.
const BLOCKS_UNCOUNTED: f32 = 60.0;

/// A strength counts as a share of the record times this ...
const RECORD_MARGIN: f32 = 4.5;

/// ... or of this, while the record is small.
const RECORD_MIN: f32 = 5.0;

/// How much of the record is forgotten with each block: half of it in two days.
const RECORD_DECAY: f32 = 8e-5;

/// What becomes of a record `r` at most at once, `4 r + 4`, and at most at all:
/// one incident must not hide the next.
const RECORD_GROWTH: f32 = 4.0;
const RECORD_MAX: f32 = 40.0;

/// What to do with a value.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Step {
    /// To judge this: the value, or what the last blocks were about.
    Judge(f32),
    /// To hold the last judgement.
    Hold,
}

/// Gathers the values of a fast series.
#[derive(Debug, Clone, Copy, Default)]
pub struct Fast {
    /// The usual seconds between two values; 0 while that isn't known.
    interval_s: f32,
    begun_ns: u64,
    sum: f32,
    count: u32,
    /// The means of the last blocks, newest last, and how many there are.
    means: [f32; BLOCKS - 1],
    blocks: u8,
    /// Its values are judged one by one.
    is_slow: bool,
    /// The values one by one.
    range: Range,
    mean: f32,
    variance: f32,
    seen: u32,
    /// The strongest that was said.
    record: f32,
}

impl Fast {
    /// Whether the series is judged in blocks.
    pub fn is_fast(&self) -> bool {
        !self.is_slow
    }

    /// Takes in a value that came `passed_s` seconds after the one before: what
    /// to do with it, and its strength by itself.
    pub fn step(&mut self, time_ns: u64, passed_s: f32, x: f32, error_min: f32) -> (Step, f32) {
        let is_first = self.seen == 0;
        self.seen = self.seen.saturating_add(1);
        if !is_first {
            let share = (1.0 / (self.seen - 1) as f32).max(0.1);
            self.interval_s += share * (passed_s - self.interval_s);
            let limit = if self.is_slow { BLOCK_AGAIN_S } else { BLOCK_S };
            self.is_slow = self.interval_s >= limit;
            if !self.is_fast() {
                (self.count, self.blocks) = (0, 0);
                return (Step::Judge(x), 0.0);
            }
        }
        let alone = self.alone(x, error_min);
        if self.count == 0 || passed_s > GAP_S {
            (self.begun_ns, self.sum, self.count) = (time_ns, 0.0, 0);
        }
        self.sum += x;
        self.count += 1;
        let lasted_s = time_ns.saturating_sub(self.begun_ns) as f32 * 1e-9 + self.interval_s;
        // Ticks are a little early at times.
        if is_first || lasted_s < BLOCK_S - 0.5 * self.interval_s {
            return (Step::Hold, alone);
        }
        (Step::Judge(self.end_block()), alone)
    }

    /// The median of the last blocks, with the one that ends.
    fn end_block(&mut self) -> f32 {
        let mean = self.sum / self.count as f32;
        self.count = 0;
        let mut blocks = [mean; BLOCKS];
        blocks[..BLOCKS - 1].copy_from_slice(&self.means);
        self.means.copy_from_slice(&blocks[1..]);
        self.blocks = self.blocks.saturating_add(1).min(BLOCKS as u8);
        if usize::from(self.blocks) < BLOCKS {
            return mean;
        }
        blocks.sort_unstable_by(f32::total_cmp);
        blocks[BLOCKS / 2]
    }

    /// The strength of one value: how far it is beyond all that there was.
    /// Takes it in.
    fn alone(&mut self, x: f32, error_min: f32) -> f32 {
        let is_known = self.seen > ALONE_SEEN_MIN;
        let tame = TAME * self.variance.sqrt();
        let strength = if is_known { self.range.far_beyond(x, error_min, tame) } else { 0.0 };
        let off = x - self.mean;
        let rate = RATE.max(1.0 / self.seen as f32);
        self.mean += rate * off;
        self.variance += rate * (off * off - self.variance);
        self.range.learn(x, DECAY);
        strength
    }

    /// Measures a strength by the record, and by how much of its first day the
    /// series has shown. `age` is how many blocks there were before.
    pub fn temper(&mut self, strength: f32, age: f32, share_of_day: f32) -> f32 {
        if age < BLOCKS_UNCOUNTED {
            return 0.0;
        }
        let record = self.record;
        let grown = (RECORD_GROWTH * (record + 1.0)).min(RECORD_MAX);
        self.record = (record * (1.0 - RECORD_DECAY)).max(strength.min(grown));
        let measure = (RECORD_MARGIN * record).max(RECORD_MIN);
        // In the first hours everything is new: nothing is strong enough then.
        share_of_day * share_of_day * share_of_day * strength / measure
    }

    /// Saves or restores it.
    pub fn code(&mut self, coder: &mut impl Coder) {
        coder.number(&mut self.interval_s);
        coder.time(&mut self.begun_ns);
        coder.number(&mut self.sum);
        coder.word(&mut self.count);
        coder.numbers(&mut self.means);
        coder.byte(&mut self.blocks);
        let mut is_slow = u8::from(self.is_slow);
        coder.byte(&mut is_slow);
        self.is_slow = is_slow != 0;
        self.range.code(coder);
        coder.number(&mut self.mean);
        coder.number(&mut self.variance);
        coder.word(&mut self.seen);
        coder.number(&mut self.record);
        self.blocks = self.blocks.min(BLOCKS as u8);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Which of the values, one each `interval_s` seconds, are judged.
    fn judged(interval_s: u64, values: usize) -> Vec<usize> {
        let mut fast = Fast::default();
        let is_judged = |at: &usize| {
            let time_ns = *at as u64 * interval_s * 1_000_000_000;
            matches!(fast.step(time_ns, interval_s as f32, 1.0, 1e-3).0, Step::Judge(_))
        };
        (0..values).filter(is_judged).collect()
    }

    #[test]
    fn blocks_are_twenty_seconds_and_slow_series_have_none() {
        assert_eq!(judged(1, 100), [19, 39, 59, 79, 99]);
        assert_eq!(judged(5, 12), [3, 7, 11]);
        // The first value doesn't tell how fast the series is.
        assert_eq!(judged(20, 5), [1, 2, 3, 4]);
        assert_eq!(judged(3600, 4), [1, 2, 3]);
    }

    #[test]
    fn a_tick_of_twenty_seconds_that_is_early_at_times_has_no_blocks() {
        let mut fast = Fast::default();
        let judged = (0..200_u64).filter(|at| {
            let early_ns = if at % 2 == 0 { 0 } else { 30_000_000 };
            let passed_s = if at % 2 == 0 { 20.03 } else { 19.97 };
            let step = fast.step(at * 20_000_000_000 + 60_000_000 - early_ns, passed_s, 1.0, 1e-3);
            matches!(step.0, Step::Judge(_))
        });
        assert!(judged.count() >= 198);
    }

    #[test]
    fn a_burst_in_two_blocks_is_not_seen() {
        let mut fast = Fast::default();
        for second in 0..400_u64 {
            let x = if (215..225).contains(&second) { 100.0 } else { 1.0 };
            if let (Step::Judge(x), _) = fast.step(second * 1_000_000_000, 1.0, x, 1e-3) {
                assert_eq!(x, 1.0, "{second}");
            }
        }
    }

    #[test]
    fn a_record_must_be_beaten() {
        let mut fast = Fast::default();
        assert_eq!(fast.temper(50.0, 10.0, 1.0), 0.0);
        assert!(fast.temper(6.0, 100.0, 1.0) > 1.0);
        assert!(fast.temper(6.0, 101.0, 1.0) < 1.0);
        assert!(fast.temper(60.0, 102.0, 0.1) < 1.0);
    }
}
