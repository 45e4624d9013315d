//! The form in which what a detector knows of its series outlives its instance.
//!
//! Little-endian: for each series its number (u32), how many bytes follow
//! (u32), and those bytes, which the detector writes and reads itself.

use crate::log;

/// Under the hub's 64 MiB for a detector's state.
const BYTES_MAX: usize = 63 << 20;

/// More series than any hub shows: bytes that say so are damaged.
const SERIES_MAX: usize = 1 << 17;

/// What is known of one series, as bytes. The version of the form is the
/// detector's [`State::VERSION`](crate::State::VERSION).
pub trait Saved: Sized {
    /// Writes all that is worth keeping behind what `bytes` holds already.
    fn write(&self, bytes: &mut Vec<u8>);

    /// Reads what [`write`](Self::write) has written. `None` of bytes that are
    /// damaged: whatever they are, what is read must be fit to go on with.
    fn read(bytes: &mut Reader<'_>) -> Option<Self>;
}

/// Reads numbers off the front of bytes. `None` where they end, and for floats
/// that are not finite.
#[derive(Debug)]
pub struct Reader<'a> {
    bytes: &'a [u8],
}

impl<'a> Reader<'a> {
    /// A reader of these bytes.
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { bytes }
    }

    /// The next byte.
    pub fn u8(&mut self) -> Option<u8> {
        self.take().map(u8::from_le_bytes)
    }

    /// The next four bytes as a number.
    pub fn u32(&mut self) -> Option<u32> {
        self.take().map(u32::from_le_bytes)
    }

    /// The next eight bytes as a number.
    pub fn u64(&mut self) -> Option<u64> {
        self.take().map(u64::from_le_bytes)
    }

    /// The next four bytes, if they are a finite float.
    pub fn f32(&mut self) -> Option<f32> {
        self.take().map(f32::from_le_bytes).filter(|value| value.is_finite())
    }

    /// The next eight bytes, if they are a finite float.
    pub fn f64(&mut self) -> Option<f64> {
        self.take().map(f64::from_le_bytes).filter(|value| value.is_finite())
    }

    /// Takes the next bytes off, if there are as many.
    pub fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (first, rest) = self.bytes.split_first_chunk()?;
        self.bytes = rest;
        Some(*first)
    }

    /// The next `count` bytes, to be read by themselves.
    pub fn part(&mut self, count: usize) -> Option<Reader<'a>> {
        let (part, rest) = self.bytes.split_at_checked(count)?;
        self.bytes = rest;
        Some(Reader { bytes: part })
    }
}

/// The bytes of all series. What would be more than the hub takes starts afresh
/// next time, and the log says of how many series.
pub(crate) fn save<'a, T: Saved + 'a>(series: impl Iterator<Item = (u32, &'a T)>) -> Vec<u8> {
    save_within(series, BYTES_MAX)
}

fn save_within<'a, T: Saved + 'a>(
    series: impl Iterator<Item = (u32, &'a T)>,
    bytes_max: usize,
) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut left_out = 0;
    for (id, known) in series {
        let begin = bytes.len();
        bytes.extend_from_slice(&id.to_le_bytes());
        bytes.extend_from_slice(&[0; 4]);
        let body = bytes.len();
        known.write(&mut bytes);
        if bytes.len() > bytes_max {
            bytes.truncate(begin);
            left_out += 1;
            continue;
        }
        let count = (bytes.len() - body) as u32;
        bytes[body - 4..body].copy_from_slice(&count.to_le_bytes());
    }
    if left_out > 0 {
        log::warn(&format!(
            "{left_out} series will start afresh: what is known of them is over {bytes_max} bytes; \
             show this detector fewer series"
        ));
    }
    bytes
}

/// What the bytes hold, by rising number. Of damaged bytes it takes what comes
/// before the damage.
pub(crate) fn load<T: Saved>(bytes: &[u8]) -> Vec<(u32, T)> {
    let mut bytes = Reader::new(bytes);
    let mut all: Vec<(u32, T)> = Vec::new();
    while let Some((id, known)) = take_series(&mut bytes) {
        let is_rising = all.last().is_none_or(|last| last.0 < id);
        if !is_rising || all.len() == SERIES_MAX {
            break;
        }
        all.push((id, known));
    }
    all
}

fn take_series<T: Saved>(bytes: &mut Reader<'_>) -> Option<(u32, T)> {
    let id = bytes.u32()?;
    let count = bytes.u32()?;
    let known = T::read(&mut bytes.part(count as usize)?)?;
    Some((id, known))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, PartialEq)]
    struct Known(u8, f64);

    impl Saved for Known {
        fn write(&self, bytes: &mut Vec<u8>) {
            bytes.push(self.0);
            bytes.extend_from_slice(&self.1.to_le_bytes());
        }

        fn read(bytes: &mut Reader<'_>) -> Option<Self> {
            Some(Self(bytes.u8()?, bytes.f64()?))
        }
    }

    const SERIES: [(u32, Known); 3] = [(1, Known(1, 0.5)), (7, Known(2, -1e9)), (9, Known(3, 3.0))];

    fn saved(bytes_max: usize) -> Vec<u8> {
        save_within(SERIES.iter().map(|(id, known)| (*id, known)), bytes_max)
    }

    #[test]
    fn what_is_saved_is_loaded() {
        assert_eq!(load::<Known>(&saved(BYTES_MAX)), SERIES);
    }

    #[test]
    fn what_would_be_too_much_is_left_out() {
        assert_eq!(load::<Known>(&saved(40)), SERIES[..2]);
        assert_eq!(load::<Known>(&saved(3)), []);
    }

    #[test]
    fn of_damaged_bytes_comes_what_is_before_the_damage() {
        let whole = saved(BYTES_MAX);
        for length in 0..whole.len() {
            assert_eq!(load::<Known>(&whole[..length]), SERIES[..length / 17]);
        }
        // A float that is none, a number that does not rise, a length too large.
        for (at, byte) in [(17 + 8 + 1 + 7, 0xff), (17, 1), (17 + 7, 0xff)] {
            let mut bytes = whole.clone();
            bytes[at] = byte;
            if byte == 0xff && at > 17 + 8 {
                bytes[at - 1] = 0xff;
            }
            assert_eq!(load::<Known>(&bytes), SERIES[..1], "{at}");
        }
    }
}
