//! What the tests of a detector have in common: values to show it, bytes to
//! frighten it with, and a count of what it allocates.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use crate::{Detecting, Detector, Observation, State, Verdict};

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

/// The system's allocator, with a count for each thread.
///
/// ```
/// use telltale_plugin::trial;
///
/// #[global_allocator]
/// static ALLOCATOR: trial::CountingAllocator = trial::CountingAllocator;
///
/// assert_eq!(trial::allocations(|| drop(vec![1, 2, 3])), 1);
/// ```
#[derive(Debug)]
pub struct CountingAllocator;

// SAFETY: each call is the system's allocator's own, unchanged.
unsafe impl GlobalAlloc for CountingAllocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, place: *mut u8, layout: Layout) {
        unsafe { System.dealloc(place, layout) }
    }

    unsafe fn realloc(&self, place: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
        unsafe { System.realloc(place, layout, size) }
    }
}

/// How often `act` allocates on this thread, if the test's program has
/// [`CountingAllocator`]; else 0.
pub fn allocations(act: impl FnOnce()) -> u64 {
    let before = ALLOCATIONS.get();
    act();
    ALLOCATIONS.get() - before
}

/// About the normal distribution, with a mean of 0 and a deviation of 1, the
/// same for each seed anywhere.
pub fn noise(seed: u64) -> impl Iterator<Item = f64> {
    let mut seed = seed ^ 0x9e37_79b9_7f4a_7c15;
    let mut uniform = move || {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (seed >> 11) as f64 / (1_u64 << 53) as f64
    };
    // Twelve uniform ones have a variance of 1.
    std::iter::repeat_with(move || (0..12).map(|_| uniform()).sum::<f64>() - 6.0)
}

/// A detector, to which one series or a few are shown tick by tick.
#[derive(Debug)]
pub struct Trial<D> {
    /// The detector.
    pub detector: Detecting<D>,
    /// The next tick's number.
    pub tick: u64,
    /// Nanoseconds from tick to tick.
    pub interval_ns: u64,
}

impl<D: Detector> Trial<D> {
    /// A fresh detector with this `[config]`, as JSON, and a tick each second
    /// from 1970-01-05, a Monday, on.
    ///
    /// # Panics
    ///
    /// If it refuses the settings.
    pub fn new(config_json: &str) -> Self {
        let mut detector = Detecting::default();
        if let Err(fault) = detector.configure(config_json) {
            panic!("{fault:?}");
        }
        Self { detector, tick: 4 * 86_400, interval_ns: 1_000_000_000 }
    }

    /// The same with a tick each so many seconds.
    pub fn each(config_json: &str, seconds: u64) -> Self {
        let tick = 4 * 86_400 / seconds;
        Self { tick, interval_ns: seconds * 1_000_000_000, ..Self::new(config_json) }
    }

    /// Shows the values of a tick, by rising number; a series without one has
    /// missed it.
    ///
    /// # Panics
    ///
    /// If the detector has a fault, or a score is not from 0 to 1.
    pub fn show(&mut self, values: &[(u32, Option<f64>)]) -> Verdict {
        let ids: Vec<u32> = values.iter().map(|(id, _)| *id).collect();
        let came: Vec<_> = values.iter().filter_map(|(id, v)| v.map(|v| (*id, v))).collect();
        let mut observation = Observation::of(self.tick, &ids, &came);
        observation.tick.time_ns = self.tick * self.interval_ns;
        observation.missed =
            values.iter().filter(|(_, value)| value.is_none()).map(|(id, _)| *id).collect();
        self.tick += 1;
        let verdict = match self.detector.observe(&observation) {
            Ok(verdict) => verdict,
            Err(fault) => panic!("{fault:?}"),
        };
        assert!(verdict.scores.iter().all(|score| (0.0..=1.0).contains(score)), "{verdict:?}");
        verdict
    }

    /// Shows one series the values; the verdicts with a finding, by how many
    /// values were before.
    pub fn run(&mut self, values: impl IntoIterator<Item = f64>) -> Vec<(usize, Verdict)> {
        let verdicts = values.into_iter().map(|value| self.show(&[(1, Some(value))])).enumerate();
        verdicts.filter(|(_, verdict)| !verdict.findings.is_empty()).collect()
    }

    /// How often the detector allocates for a tick of so many series that are
    /// known already, when nothing is found.
    pub fn allocations(&mut self, series: u32, value: f64) -> u64 {
        let ids: Vec<u32> = (1..=series).collect();
        let values: Vec<_> = ids.iter().map(|id| (*id, value)).collect();
        let mut observation = Observation::of(self.tick, &ids, &values);
        for round in 0..3 {
            observation.tick.time_ns = (self.tick + round) * self.interval_ns;
            let _ = self.detector.observe(&observation);
            observation.declare.clear();
        }
        self.tick += 4;
        observation.tick.time_ns = (self.tick - 1) * self.interval_ns;
        allocations(|| drop(self.detector.observe(&observation)))
    }
}

impl<D: Detector + State> Trial<D> {
    /// Whether one that takes over goes on as this one would have.
    ///
    /// # Panics
    ///
    /// If it does not.
    pub fn goes_on(&mut self, config_json: &str, values: impl IntoIterator<Item = f64>) {
        let mut next =
            Self { tick: self.tick, interval_ns: self.interval_ns, ..Self::new(config_json) };
        assert_eq!(self.detector.hand_over(&mut next.detector), Ok(()));
        assert_eq!(self.detector.plugin.save(), next.detector.plugin.save());
        for value in values {
            let (old, new) = (self.show(&[(1, Some(value))]), next.show(&[(1, Some(value))]));
            assert_eq!(old, new);
        }
    }

    /// Restores what this one knows with each of its bytes wrong in turn, and
    /// cut at each length, and goes on with that; and bytes of another version.
    ///
    /// # Panics
    ///
    /// If the detector does, or if its scores are none.
    pub fn survives_hostile_bytes(&self) {
        let whole = self.detector.plugin.save();
        assert!(!whole.is_empty());
        // Of long states not each byte, but a different one in each record.
        let step = 1 + whole.len() / 500;
        for at in (0..whole.len()).step_by(step) {
            self.survives(D::VERSION, &whole[..at]);
            for flip in [1, 0x80, 0xff, 0x7f] {
                let mut bytes = whole.clone();
                bytes[at] ^= flip;
                self.survives(D::VERSION, &bytes);
            }
        }
        for byte in [0, 0x7f, 0xff] {
            self.survives(D::VERSION, &vec![byte; whole.len() + 3]);
        }
        // Whole records with other numbers in them: head and length stay.
        let mut bytes = whole.clone();
        for byte in [0x7e, 0xfe, 0x01] {
            bytes[8..].fill(byte);
            self.survives(D::VERSION, &bytes);
        }
        self.survives(D::VERSION + 1, &whole);
    }

    fn survives(&self, version: u32, bytes: &[u8]) {
        let mut next = Self { tick: self.tick, interval_ns: self.interval_ns, ..Self::new("{}") };
        assert_eq!(next.detector.plugin.restore(version, bytes), Ok(()));
        for value in [Some(1.0), None, Some(-1e300), Some(1e300), Some(0.0), Some(f64::MAX)] {
            next.show(&[(1, value), (5, value), (900_000, value)]);
        }
        let _ = next.detector.plugin.save();
    }
}
