//! The form in which models outlive their instance.
//!
//! Little-endian: the preset (one byte), then for each series its id (u32) and
//! the fields of its model. Models of a preset are all as long as each other.

use crate::coder::{Coder, Reader, Writer};
use crate::detector::Known;
use crate::settings::Preset;

/// The version of this form.
pub const VERSION: u32 = 1;

/// Under the hub's 64 MiB for a detector's state: about 17,000 full models.
/// Series beyond it start afresh.
const BYTES_MAX: usize = 63 << 20;

/// More series than any hub shows: bytes that say so are damaged.
const SERIES_MAX: usize = 1 << 17;

fn mark(preset: Preset) -> u8 {
    match preset {
        Preset::Full => 1,
        Preset::Light => 2,
    }
}

/// The bytes of all models, as many as there is room for.
pub fn save<'a>(preset: Preset, series: impl Iterator<Item = (u32, &'a Known)>) -> Vec<u8> {
    save_within(preset, series, BYTES_MAX)
}

fn save_within<'a>(
    preset: Preset,
    series: impl Iterator<Item = (u32, &'a Known)>,
    bytes_max: usize,
) -> Vec<u8> {
    let series: Vec<_> = series.collect();
    let bytes_each = size_of::<u32>() + Known::new(preset).size();
    let mut writer = Writer::default();
    writer.bytes.reserve_exact(bytes_max.min(1 + series.len() * bytes_each));
    writer.byte(&mut mark(preset));
    for (mut id, known) in series {
        if known.is_of(preset) && writer.bytes.len() + bytes_each <= bytes_max {
            writer.word(&mut id);
            known.clone().code(&mut writer);
        }
    }
    writer.bytes
}

/// The models that the bytes hold, by rising id, if they are of this preset. Of
/// damaged bytes it takes what is sound before the damage.
pub fn load(preset: Preset, bytes: &[u8]) -> Vec<(u32, Known)> {
    let mut all: Vec<(u32, Known)> = Vec::new();
    let mut reader = Reader::new(bytes);
    let mut of = 0;
    reader.byte(&mut of);
    if of != mark(preset) {
        return all;
    }
    while !reader.rest().is_empty() && all.len() < SERIES_MAX {
        let (mut id, mut known) = (0, Known::new(preset));
        reader.word(&mut id);
        known.code(&mut reader);
        let is_rising = all.last().is_none_or(|last| last.0 < id);
        if !reader.is_sound || !is_rising {
            break;
        }
        all.push((id, known));
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::detector::Novelty;
    use crate::settings::Settings;
    use telltale_plugin::{Detecting, Observation, State};

    fn series(preset: Preset) -> Vec<(u32, Known)> {
        let settings = Settings { preset, ..Settings::default() };
        let mut all: Vec<_> = [1, 5, u32::MAX].map(|id| (id, Known::new(preset))).into();
        for tick in 0..200_u32 {
            for (id, known) in &mut all {
                let value = f64::from((tick * 7 + *id % 11) % 50);
                known.judge(&settings, u64::from(tick) * 60_000_000_000, value);
            }
        }
        all
    }

    fn saved(preset: Preset, bytes_max: usize) -> Vec<u8> {
        save_within(preset, series(preset).iter().map(|(id, known)| (*id, known)), bytes_max)
    }

    #[test]
    fn what_is_saved_is_loaded() {
        for preset in [Preset::Full, Preset::Light] {
            let bytes = saved(preset, BYTES_MAX);
            let loaded = load(preset, &bytes);
            assert_eq!(loaded.iter().map(|(id, _)| *id).collect::<Vec<_>>(), [1, 5, u32::MAX]);
            assert_eq!(save(preset, loaded.iter().map(|(id, known)| (*id, known))), bytes);
        }
        assert!(load(Preset::Light, &saved(Preset::Full, BYTES_MAX)).is_empty());
    }

    #[test]
    fn what_would_be_too_much_is_left_out() {
        let bytes = saved(Preset::Light, 1200);
        assert!(bytes.len() <= 1200);
        assert_eq!(load(Preset::Light, &bytes).len(), 2);
    }

    /// Restores the bytes and goes on with them, whatever they are.
    fn survive(preset: &str, bytes: &[u8]) {
        let mut detector = Detecting::<Novelty>::default();
        detector.configure(&format!("{{\"preset\":\"{preset}\"}}")).unwrap();
        detector.plugin.restore(VERSION, bytes).unwrap();
        for value in [1.0, -1e300, 1e300, 3.0] {
            let values = [1, 5, 900_000].map(|id| (id, value));
            let shown = Observation::of(1, &[1, 5, 900_000], &values);
            let verdict = detector.observe(&shown).unwrap();
            assert!(verdict.scores.iter().all(|score| (0.0..=1.0).contains(score)));
        }
    }

    #[test]
    fn hostile_bytes_are_survived() {
        for (name, preset) in [("full", Preset::Full), ("light", Preset::Light)] {
            let whole = saved(preset, BYTES_MAX);
            for length in (0..whole.len()).step_by(7) {
                survive(name, &whole[..length]);
            }
            for at in 0..whole.len() / 3 + 1 {
                for flip in [1, 0x80, 0xff] {
                    let mut bytes = whole.clone();
                    bytes[at] ^= flip;
                    survive(name, &bytes);
                }
            }
            for fill in [0xff, 0, 0x7f] {
                let mut bytes = vec![fill; whole.len()];
                bytes[0] = whole[0];
                survive(name, &bytes);
            }
        }
    }
}
