//! One season of one series: what is usual at each time of the day, or of the
//! week.

use telltale_plugin::{Reader, Saved};

use crate::week::Place;

/// A bin is believed after so many visits: one alone may have been the odd one.
const VISITS_MIN: u8 = 2;

/// From so many visits on, one more can move a bin by no more than it strays.
const VISITS_ROBUST: u8 = 4;

/// By so many times what it strays.
const LIMIT: f32 = 3.0;

/// Nor by less than this share of what it strays now.
const SHARE_MIN: f32 = 0.1;

/// Three bins lie on a slope if they bend by no more than this share of it.
const BEND_MAX: f64 = 0.5;

/// Bins of one season: 9 bytes each.
#[derive(Debug, Clone, PartialEq)]
pub struct Profile<const N: usize> {
    means: [f32; N],
    /// How far values were from what was predicted, at this time.
    strays: [f32; N],
    visits: [u8; N],
    visit: Visit,
}

/// The visit to a bin that is not over yet.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
struct Visit {
    bin: u32,
    count: u32,
    sum: f64,
    squares: f64,
}

impl<const N: usize> Default for Profile<N> {
    fn default() -> Self {
        Self { means: [0.0; N], strays: [0.0; N], visits: [0; N], visit: Visit::default() }
    }
}

impl<const N: usize> Profile<N> {
    /// What is usual at this time, if enough is known of it. Where three bins lie
    /// on a slope, it is on the line between their middles; where there is a step,
    /// it is the bin's own.
    pub fn at(&self, place: Place) -> Option<f64> {
        let own = self.mean(place.bin)?;
        let before = self.mean((place.bin + N - 1) % N);
        let after = self.mean((place.bin + 1) % N);
        let (Some(before), Some(after)) = (before, after) else { return Some(own) };
        let (slope, bend) = (after - before, before - own + (after - own));
        if bend.abs() > BEND_MAX * slope.abs() {
            return Some(own);
        }
        let other = if place.within < 0.5 { before } else { after };
        Some(own + (place.within - 0.5).abs() * (other - own))
    }

    /// How far values are from that at this time.
    pub fn stray(&self, place: Place) -> f64 {
        f64::from(self.strays[place.bin])
    }

    fn mean(&self, bin: usize) -> Option<f64> {
        (self.visits[bin] >= VISITS_MIN).then(|| f64::from(self.means[bin]))
    }

    /// Takes in a value of this time, and how far it was from what was predicted.
    /// It counts once the visit to the bin is over, with all others of it, by
    /// this share of the whole.
    pub fn push(&mut self, place: Place, value: f64, off: f64, learn: f64) {
        if self.visit.bin as usize != place.bin {
            self.end_visit(learn as f32);
            self.visit = Visit { bin: place.bin as u32, ..Visit::default() };
        }
        self.visit.count = self.visit.count.saturating_add(1);
        self.visit.sum += value;
        self.visit.squares += off * off;
    }

    fn end_visit(&mut self, learn: f32) {
        let Visit { bin, count, sum, squares } = self.visit;
        let bin = bin as usize;
        if count == 0 {
            return;
        }
        let mean = narrow(sum / f64::from(count));
        let stray = narrow((squares / f64::from(count)).sqrt());
        let visits = self.visits[bin].saturating_add(1);
        let mut step = mean - self.means[bin];
        let mut widening = stray - self.strays[bin];
        if visits > VISITS_ROBUST {
            // Of a bin that never strayed, what it does now counts a little.
            let limit = LIMIT * self.strays[bin].max(SHARE_MIN * stray);
            step = step.clamp(-limit, limit);
            widening = widening.min(limit);
        }
        self.means[bin] += learn.max(1.0 / f32::from(visits)) * step;
        // Before the bin predicted anything there was nothing to stray from.
        if visits > VISITS_MIN {
            self.strays[bin] += learn.max(1.0 / f32::from(visits - VISITS_MIN)) * widening;
        }
        self.visits[bin] = visits;
    }
}

/// Rounds to what four bytes hold; never to infinity.
fn narrow(value: f64) -> f32 {
    let max = f64::from(f32::MAX) / 4.0;
    value.clamp(-max, max) as f32
}

impl<const N: usize> Saved for Profile<N> {
    fn write(&self, bytes: &mut Vec<u8>) {
        let both = self.means.iter().chain(&self.strays);
        both.for_each(|number| bytes.extend_from_slice(&number.to_le_bytes()));
        bytes.extend_from_slice(&self.visits);
        let Visit { bin, count, sum, squares } = self.visit;
        bytes.extend_from_slice(&bin.to_le_bytes());
        bytes.extend_from_slice(&count.to_le_bytes());
        bytes.extend_from_slice(&sum.to_le_bytes());
        bytes.extend_from_slice(&squares.to_le_bytes());
    }

    fn read(bytes: &mut Reader<'_>) -> Option<Self> {
        let mut profile = Self::default();
        for mean in &mut profile.means {
            *mean = narrow(f64::from(bytes.f32()?));
        }
        for stray in &mut profile.strays {
            *stray = narrow(f64::from(bytes.f32()?.max(0.0)));
        }
        profile.visits = bytes.take()?;
        let (bin, count) = (bytes.u32()?, bytes.u32()?);
        let (sum, squares) = (bytes.f64()?, bytes.f64()?.max(0.0));
        profile.visit = Visit { bin, count, sum, squares };
        ((bin as usize) < N).then_some(profile)
    }
}
