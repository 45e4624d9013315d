//! The form in which windows outlive their instance.
//!
//! Little-endian: for each series its id (u32), how many values follow (u32),
//! the origin (f64), and the values' distances from it (f32), oldest first.

use crate::window::Window;

/// The version of this form.
pub const VERSION: u32 = 1;

/// Under the hub's 64 MiB for a detector's state.
const BYTES_MAX: usize = 63 << 20;

/// The bytes before a series' values.
const HEAD_BYTES: usize = 16;

/// More series than any hub shows: bytes that say so are damaged.
const SERIES_MAX: usize = 1 << 17;

/// The bytes of all windows; if they would be too many, the newest of each.
pub fn save<'a>(series: impl Iterator<Item = (u32, &'a Window)>) -> Vec<u8> {
    save_within(series, BYTES_MAX)
}

fn save_within<'a>(series: impl Iterator<Item = (u32, &'a Window)>, bytes_max: usize) -> Vec<u8> {
    let all: Vec<_> = series.filter(|(_, window)| !window.is_empty()).collect();
    let share = bytes_max / all.len().max(1);
    let count_max = share.saturating_sub(HEAD_BYTES) / size_of::<f32>();
    let bytes_of = |window: &Window| HEAD_BYTES + 4 * window.len().min(count_max);
    let mut bytes = Vec::with_capacity(all.iter().map(|(_, window)| bytes_of(window)).sum());
    for (id, window) in all {
        let (older, newer) = window.newest(count_max);
        let count = older.len() + newer.len();
        bytes.extend_from_slice(&id.to_le_bytes());
        bytes.extend_from_slice(&(count as u32).to_le_bytes());
        bytes.extend_from_slice(&window.origin().to_le_bytes());
        put(&mut bytes, older);
        put(&mut bytes, newer);
    }
    bytes
}

/// Writes all values at once: one by one it is five times slower.
fn put(bytes: &mut Vec<u8>, distances: &[f32]) {
    let begin = bytes.len();
    bytes.resize(begin + size_of_val(distances), 0);
    let (chunks, _) = bytes[begin..].as_chunks_mut();
    for (chunk, distance) in chunks.iter_mut().zip(distances) {
        *chunk = distance.to_le_bytes();
    }
}

/// The windows that the bytes hold, by rising id. Of damaged bytes it takes
/// what comes before the damage: a window that is wrong is soon a right one.
pub fn load(mut bytes: &[u8]) -> Vec<(u32, Window)> {
    let mut all: Vec<(u32, Window)> = Vec::new();
    while let Some(series) = take_series(&mut bytes) {
        let is_rising = all.last().is_none_or(|last| last.0 < series.0);
        if !is_rising || all.len() == SERIES_MAX {
            break;
        }
        all.push(series);
    }
    all
}

fn take_series(bytes: &mut &[u8]) -> Option<(u32, Window)> {
    let id = u32::from_le_bytes(take(bytes)?);
    let count = u32::from_le_bytes(take(bytes)?) as usize;
    let origin = f64::from_le_bytes(take(bytes)?);
    let (distances, rest) = bytes.split_at_checked(count.checked_mul(size_of::<f32>())?)?;
    *bytes = rest;
    let (chunks, _) = distances.as_chunks();
    let mut distances: Vec<f32> = chunks.iter().map(|chunk| f32::from_le_bytes(*chunk)).collect();
    distances.retain(|distance| distance.is_finite());
    origin.is_finite().then(|| (id, Window::of(origin, distances)))
}

/// Takes the next bytes off, if there are as many.
fn take<const N: usize>(bytes: &mut &[u8]) -> Option<[u8; N]> {
    let (first, rest) = bytes.split_first_chunk()?;
    *bytes = rest;
    Some(*first)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::detector::Zscore;
    use telltale_plugin::{Detecting, Observation, State};

    type Series = (u32, Window);

    fn series() -> Vec<Series> {
        let window = |count: u16, origin: f64| {
            let mut window = Window::new(20);
            (0..count).for_each(|value| window.push(origin + f64::from(value), 20));
            window
        };
        let windows = [window(20, 0.0), window(7, 1e12), window(33, -5.0), window(0, 0.0)];
        [1, 5, 900_000, u32::MAX].into_iter().zip(windows).collect()
    }

    fn saved(series: &[Series], bytes_max: usize) -> Vec<u8> {
        save_within(series.iter().map(|(id, window)| (*id, window)), bytes_max)
    }

    fn values((_, window): &Series) -> Vec<f64> {
        let (older, newer) = window.newest(usize::MAX);
        let distances = older.iter().chain(newer);
        distances.map(|distance| window.origin() + f64::from(*distance)).collect()
    }

    #[test]
    fn what_is_saved_is_loaded() {
        let (before, after) = (series(), load(&saved(&series(), BYTES_MAX)));
        // The one that was empty has nothing to save.
        assert_eq!(after.len(), 3);
        for (before, after) in before.iter().zip(&after) {
            assert_eq!((before.0, values(before)), (after.0, values(after)));
            assert_eq!(before.1.usual(), after.1.usual());
        }
    }

    #[test]
    fn what_would_be_too_much_is_cut_to_the_newest() {
        let loaded = load(&saved(&series(), 3 * (HEAD_BYTES + 4 * 5)));
        assert!(loaded.iter().all(|(_, window)| window.len() == 5));
        assert_eq!(values(&loaded[0]), [15.0, 16.0, 17.0, 18.0, 19.0]);
        assert_eq!(values(&loaded[2]), [23.0, 24.0, 25.0, 26.0, 27.0]);
        assert!(load(&saved(&series(), 10)).iter().all(|(_, window)| window.is_empty()));
    }

    /// Restores the bytes and goes on with them, whatever they are.
    fn survive(bytes: &[u8]) {
        let mut detector = Detecting::<Zscore>::default();
        detector.plugin.restore(VERSION, bytes).unwrap();
        for value in [1.0, -1e300, 1e300] {
            let values = [1, 5, 900_000].map(|id| (id, value));
            let shown = Observation::of(1, &[1, 5, 900_000], &values);
            let verdict = detector.observe(&shown).unwrap();
            assert!(verdict.scores.iter().all(|score| (0.0..=1.0).contains(score)));
        }
    }

    #[test]
    fn hostile_bytes_are_survived() {
        let whole = saved(&series(), BYTES_MAX);
        for length in 0..whole.len() {
            survive(&whole[..length]);
        }
        for at in 0..whole.len() {
            for flip in [1, 0x80, 0xff] {
                let mut bytes = whole.clone();
                bytes[at] ^= flip;
                survive(&bytes);
            }
        }
        survive(&[0xff; 100]);
        survive(&[0; 100]);
    }
}
