//! One walk through what is known of a series, for saving and for restoring:
//! both go the same way, so they can't disagree.

/// The largest number that a model can come to hold: squares of distances. What
/// is beyond it is damaged.
const NUMBER_MAX: f32 = 1e36;

/// Writes or reads each field that it is shown.
pub trait Coder {
    /// A number, which must be finite.
    fn number(&mut self, of: &mut f32);
    /// A count or a time.
    fn word(&mut self, of: &mut u32);
    /// A count of two bytes.
    fn half(&mut self, of: &mut u16);
    /// A count of one byte.
    fn byte(&mut self, of: &mut u8);

    /// A time in nanoseconds.
    fn time(&mut self, of: &mut u64) {
        let (mut low, mut high) = (*of as u32, (*of >> 32) as u32);
        self.word(&mut low);
        self.word(&mut high);
        *of = u64::from(high) << 32 | u64::from(low);
    }

    /// A value as the hub shows it; one that isn't finite is read as 0.
    fn value(&mut self, of: &mut f64) {
        let mut bits = of.to_bits();
        self.time(&mut bits);
        let value = f64::from_bits(bits);
        *of = if value.is_finite() { value } else { 0.0 };
    }

    /// Numbers.
    fn numbers(&mut self, of: &mut [f32]) {
        of.iter_mut().for_each(|number| self.number(number));
    }
}

/// Appends fields to bytes, little-endian.
#[derive(Debug, Default)]
pub struct Writer {
    /// What was written.
    pub bytes: Vec<u8>,
}

impl Coder for Writer {
    fn number(&mut self, of: &mut f32) {
        self.bytes.extend_from_slice(&of.to_le_bytes());
    }
    fn word(&mut self, of: &mut u32) {
        self.bytes.extend_from_slice(&of.to_le_bytes());
    }
    fn half(&mut self, of: &mut u16) {
        self.bytes.extend_from_slice(&of.to_le_bytes());
    }
    fn byte(&mut self, of: &mut u8) {
        self.bytes.push(*of);
    }
}

/// Takes fields off bytes.
#[derive(Debug)]
pub struct Reader<'a> {
    bytes: &'a [u8],
    /// Whether all that was read was there, and could be so.
    pub is_sound: bool,
}

impl<'a> Reader<'a> {
    /// Reads these bytes.
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, is_sound: true }
    }

    /// What wasn't read yet.
    pub fn rest(&self) -> &'a [u8] {
        self.bytes
    }

    fn take<const N: usize>(&mut self) -> [u8; N] {
        match self.bytes.split_first_chunk() {
            Some((first, rest)) => {
                self.bytes = rest;
                *first
            }
            None => {
                self.is_sound = false;
                [0; N]
            }
        }
    }
}

impl Coder for Reader<'_> {
    fn number(&mut self, of: &mut f32) {
        *of = f32::from_le_bytes(self.take());
        // A NaN is in no range.
        if !(-NUMBER_MAX..=NUMBER_MAX).contains(of) {
            self.is_sound = false;
            *of = 0.0;
        }
    }
    fn word(&mut self, of: &mut u32) {
        *of = u32::from_le_bytes(self.take());
    }
    fn half(&mut self, of: &mut u16) {
        *of = u16::from_le_bytes(self.take());
    }
    fn byte(&mut self, of: &mut u8) {
        [*of] = self.take();
    }
}
