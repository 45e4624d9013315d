//! The thread that lets running guests be interrupted.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::{JoinHandle, Thread};
use std::time::Duration;

/// How often running guests are looked at. Finer costs more than it tells: an
/// idle ticker of 1 ms uses 2 % of a core, and deadlines are 50 ms and more.
pub(crate) const EPOCH: Duration = Duration::from_millis(10);

/// Raises the engine's epoch every 10 ms, but only while a guest runs.
#[derive(Debug)]
pub(crate) struct EpochTicker {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    running: AtomicUsize,
    parked: AtomicBool,
    stopping: AtomicBool,
}

/// A guest runs for as long as this lives.
#[derive(Debug)]
pub(crate) struct Running<'a>(&'a Shared);

impl EpochTicker {
    /// Starts the thread, which ends when this is dropped.
    ///
    /// # Errors
    ///
    /// The system gives no thread.
    pub(crate) fn start(engine: &wasmtime::Engine) -> std::io::Result<Self> {
        let shared = Arc::new(Shared::default());
        let (engine, seen) = (engine.clone(), shared.clone());
        let thread = std::thread::Builder::new()
            .name("telltale-epoch".to_owned())
            .spawn(move || tick(&engine, &seen))?;
        Ok(Self { shared, thread: Some(thread) })
    }

    /// Says that a guest runs.
    pub(crate) fn enter(&self) -> Running<'_> {
        self.shared.running.fetch_add(1, Ordering::SeqCst);
        if self.shared.parked.swap(false, Ordering::SeqCst) {
            self.wake();
        }
        Running(&self.shared)
    }

    fn wake(&self) {
        if let Some(thread) = self.thread.as_ref().map(JoinHandle::thread) {
            Thread::unpark(thread);
        }
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.0.running.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Drop for EpochTicker {
    fn drop(&mut self) {
        self.shared.stopping.store(true, Ordering::SeqCst);
        self.wake();
        if let Some(thread) = self.thread.take() {
            // It only ends by returning; a panic in it would have been told.
            drop(thread.join());
        }
    }
}

fn tick(engine: &wasmtime::Engine, shared: &Shared) {
    while !shared.stopping.load(Ordering::SeqCst) {
        if shared.running.load(Ordering::SeqCst) == 0 {
            shared.parked.store(true, Ordering::SeqCst);
            // A guest that came in between has either been seen here, or finds
            // `parked` set and wakes this thread.
            if shared.running.load(Ordering::SeqCst) == 0 && !shared.stopping.load(Ordering::SeqCst)
            {
                std::thread::park();
            }
            shared.parked.store(false, Ordering::SeqCst);
        }
        std::thread::park_timeout(EPOCH);
        engine.increment_epoch();
    }
}
