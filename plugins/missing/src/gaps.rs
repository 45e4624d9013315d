//! How often the values of one series don't come.

use telltale_plugin::{Reader, Saved};

use crate::settings::Settings;

/// A series of which more than this share is usually missing is not judged.
const SHARE_MAX: f64 = 0.9;

/// What is missing beyond its usual share counts from this part of the rest on.
const SLACK: f64 = 0.25;

/// Misses of a series that often has some come in clumps by chance: it takes so
/// many times its share more of them.
const CLUMPS: f64 = 4.0;

/// The sum stops at so many times the threshold: when values come again, the
/// finding is to close within a few of them, however long they were missing.
const HEIGHT_MAX: f64 = 1.5;

/// The gaps of one series: 24 bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Gaps {
    /// How many values were due.
    due: u32,
    /// How many in a row did not come.
    gap: u32,
    /// The usual share of those that don't come.
    share: f32,
    /// How many more than usual did not come lately.
    excess: f32,
    /// Whose series it is: a place in the detector's list of collectors. Not
    /// saved, since each start declares it.
    pub(crate) collector: u32,
}

/// A gap that is judged.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Gap {
    /// 1 at the threshold.
    pub height: f64,
    /// How many values in a row did not come.
    pub values: u32,
    /// The usual share of those that don't come.
    pub share: f64,
}

impl Gaps {
    /// A value was due, and has come or not.
    pub fn push(&mut self, is_missing: bool, settings: &Settings) -> Option<Gap> {
        let share = f64::from(self.share);
        let missed = f64::from(u8::from(is_missing));
        let excess = f64::from(self.excess) + missed - (share + SLACK * (1.0 - share));
        let limit = settings.misses * (1.0 + CLUMPS * share);
        self.excess = excess.clamp(0.0, HEIGHT_MAX * limit) as f32;
        self.gap = if is_missing { self.gap.saturating_add(1) } else { 0 };
        self.due = self.due.saturating_add(1);
        let height = f64::from(self.excess) / limit;
        if height < 1.0 {
            // What is odd is not learned as usual.
            let weight = (1.0 / f64::from(settings.span)).max(1.0 / f64::from(self.due));
            self.share += (weight * (missed - share)) as f32;
        }
        let judged = self.due > settings.min_values && share <= SHARE_MAX;
        judged.then_some(Gap { height, values: self.gap, share })
    }
}

impl Saved for Gaps {
    fn write(&self, bytes: &mut Vec<u8>) {
        bytes.extend_from_slice(&self.due.to_le_bytes());
        bytes.extend_from_slice(&self.gap.to_le_bytes());
        bytes.extend_from_slice(&self.share.to_le_bytes());
        bytes.extend_from_slice(&self.excess.to_le_bytes());
    }

    fn read(bytes: &mut Reader<'_>) -> Option<Self> {
        let (due, gap) = (bytes.u32()?, bytes.u32()?);
        let share = bytes.f32()?.clamp(0.0, 1.0);
        let excess = bytes.f32()?.max(0.0);
        Some(Self { due, gap, share, excess, collector: 0 })
    }
}
