//! The form in which windows outlive their instance.
//!
//! Little-endian: for each series its id (u32), how many values follow (u32),
//! the origin (f64), and the values' distances from it (f32), oldest first.

use crate::detector::Series;
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
pub fn save(series: &[Series]) -> Vec<u8> {
    save_within(series, BYTES_MAX)
}

fn save_within(all: &[Series], bytes_max: usize) -> Vec<u8> {
    let share = bytes_max / all.len().max(1);
    let count_max = share.saturating_sub(HEAD_BYTES) / size_of::<f32>();
    let bytes_of = |series: &Series| HEAD_BYTES + 4 * series.window.len().min(count_max);
    let mut bytes = Vec::with_capacity(all.iter().map(bytes_of).sum());
    for Series { id, window } in all.iter().filter(|series| !series.window.is_empty()) {
        let (older, newer) = window.newest(count_max);
        let count = older.len() + newer.len();
        bytes.extend_from_slice(&id.to_le_bytes());
        bytes.extend_from_slice(&(count as u32).to_le_bytes());
        bytes.extend_from_slice(&window.origin().to_le_bytes());
        for distance in older.iter().chain(newer) {
            bytes.extend_from_slice(&distance.to_le_bytes());
        }
    }
    bytes
}

/// The windows that the bytes hold, by rising id. Of damaged bytes it takes
/// what comes before the damage: a window that is wrong is soon a right one.
pub fn load(mut bytes: &[u8]) -> Vec<Series> {
    let mut all: Vec<Series> = Vec::new();
    while let Some(series) = take_series(&mut bytes) {
        let is_rising = all.last().is_none_or(|last| last.id < series.id);
        if !is_rising || all.len() == SERIES_MAX {
            break;
        }
        all.push(series);
    }
    all
}

fn take_series(bytes: &mut &[u8]) -> Option<Series> {
    let id = u32::from_le_bytes(take(bytes)?);
    let count = u32::from_le_bytes(take(bytes)?) as usize;
    let origin = f64::from_le_bytes(take(bytes)?);
    let (distances, rest) = bytes.split_at_checked(count.checked_mul(size_of::<f32>())?)?;
    *bytes = rest;
    let (chunks, _) = distances.as_chunks();
    let mut distances = Vec::with_capacity(chunks.len());
    let finite = chunks.iter().map(|chunk| f32::from_le_bytes(*chunk));
    distances.extend(finite.filter(|distance| distance.is_finite()));
    origin.is_finite().then(|| Series { id, window: Window::of(origin, distances) })
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
    use crate::detector::Detector;

    fn series() -> Vec<Series> {
        let window = |count: u16, origin: f64| {
            let mut window = Window::new(20);
            (0..count).for_each(|value| window.push(origin + f64::from(value), 20));
            window
        };
        let windows = [window(20, 0.0), window(7, 1e12), window(33, -5.0), window(0, 0.0)];
        let ids = [1, 5, 900_000, u32::MAX];
        let series = ids.into_iter().zip(windows);
        series.map(|(id, window)| Series { id, window }).collect()
    }

    fn values(series: &Series) -> Vec<f64> {
        let (older, newer) = series.window.newest(usize::MAX);
        let distances = older.iter().chain(newer);
        distances.map(|distance| series.window.origin() + f64::from(*distance)).collect()
    }

    #[test]
    fn what_is_saved_is_loaded() {
        let (before, after) = (series(), load(&save(&series())));
        // The one that was empty has nothing to save.
        assert_eq!(after.len(), 3);
        for (before, after) in before.iter().zip(&after) {
            assert_eq!((before.id, values(before)), (after.id, values(after)));
            assert_eq!(before.window.usual(), after.window.usual());
        }
    }

    #[test]
    fn what_would_be_too_much_is_cut_to_the_newest() {
        let bytes = save_within(&series(), 4 * (HEAD_BYTES + 4 * 5));
        let loaded = load(&bytes);
        assert!(loaded.iter().all(|series| series.window.len() == 5));
        assert_eq!(values(&loaded[0]), [15.0, 16.0, 17.0, 18.0, 19.0]);
        assert_eq!(values(&loaded[2]), [23.0, 24.0, 25.0, 26.0, 27.0]);
        assert!(load(&save_within(&series(), 10)).iter().all(|series| series.window.is_empty()));
    }

    /// Restores the bytes and goes on with them, whatever they are.
    fn survive(bytes: &[u8]) {
        let mut detector = Detector::default();
        detector.restore(load(bytes));
        detector.declare([1, 5, 900_000].into_iter());
        for value in [1.0, -1e300, 1e300] {
            let (scores, _) = detector.observe(&[1, 5, 900_000], &[value; 3]);
            assert!(scores.iter().all(|score| (0.0..=1.0).contains(score)));
        }
    }

    #[test]
    fn hostile_bytes_are_survived() {
        let whole = save(&series());
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
