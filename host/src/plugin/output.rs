//! What plugins say: the `log` import, standard output and standard error.

use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::io::AsyncWrite;
use tracing::Level;
use wasmtime_wasi::cli::{IsTerminal, StdoutStream};
use wasmtime_wasi::p2::{OutputStream, Pollable, StreamResult};

use super::journal::Journal;
use crate::clock::{Clock, rfc3339};
use crate::model::PluginName;

/// Lines a second that a plugin may log: enough to follow it by eye.
const LINES_PER_SECOND_MAX: u32 = 20;
/// Where a line is cut.
const LINE_BYTES_MAX: usize = 4096;

/// A plugin's way into the hub's log: named, cut, and limited in rate.
#[derive(Clone, Debug)]
pub(crate) struct PluginLog(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    plugin: PluginName,
    clock: Clock,
    journal: Journal,
    window: Mutex<Window>,
    dropped: AtomicU64,
}

#[derive(Debug)]
struct Window {
    since: Instant,
    lines: u32,
    dropped: u32,
}

impl PluginLog {
    pub(crate) fn new(plugin: PluginName, clock: Clock) -> Self {
        let window = Mutex::new(Window { since: Instant::now(), lines: 0, dropped: 0 });
        let (journal, dropped) = (Journal::default(), AtomicU64::new(0));
        Self(Arc::new(Inner { plugin, clock, journal, window, dropped }))
    }

    /// The last lines.
    pub(crate) fn journal(&self) -> &Journal {
        &self.0.journal
    }

    /// How many lines were dropped since the start.
    pub(crate) fn dropped(&self) -> u64 {
        self.0.dropped.load(Ordering::Relaxed)
    }

    /// Logs one line.
    pub(crate) fn line(&self, level: Level, message: &str) {
        let Some(dropped) = self.admit() else { return };
        let plugin = &*self.0.plugin;
        if dropped > 0 {
            tracing::warn!(
                plugin,
                dropped,
                "log lines over {LINES_PER_SECOND_MAX} a second dropped"
            );
        }
        let text = cut(message, LINE_BYTES_MAX);
        self.0.journal.add(rfc3339(self.0.clock.now_ns()), level, text);
        match level {
            Level::ERROR => tracing::error!(plugin, "{text}"),
            Level::WARN => tracing::warn!(plugin, "{text}"),
            Level::INFO => tracing::info!(plugin, "{text}"),
            _ => tracing::debug!(plugin, "{text}"),
        }
    }

    /// Whether one more line may pass, and how many were dropped before it.
    fn admit(&self) -> Option<u32> {
        let mut window = self.0.window.lock().unwrap_or_else(PoisonError::into_inner);
        let mut before = 0;
        if window.since.elapsed() >= Duration::from_secs(1) {
            before = window.dropped;
            *window = Window { since: Instant::now(), lines: 0, dropped: 0 };
        }
        if window.lines == LINES_PER_SECOND_MAX {
            window.dropped += 1;
            self.0.dropped.fetch_add(1, Ordering::Relaxed);
            return None;
        }
        window.lines += 1;
        Some(before)
    }
}

/// The longest start of `text` that has at most `bytes_max` bytes.
pub(crate) fn cut(text: &str, bytes_max: usize) -> &str {
    &text[..text.floor_char_boundary(bytes_max)]
}

/// A standard output or error that ends in the log, line by line.
#[derive(Clone, Debug)]
pub(crate) struct LineStream {
    log: PluginLog,
    level: Level,
    /// The line that has not ended yet. Shared, since a guest may ask for its
    /// stream several times.
    partial: Arc<Mutex<Vec<u8>>>,
}

impl LineStream {
    pub(crate) fn new(log: PluginLog, level: Level) -> Self {
        Self { log, level, partial: Arc::default() }
    }

    fn take(&self, bytes: &[u8]) {
        let mut partial = self.partial.lock().unwrap_or_else(PoisonError::into_inner);
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            let room = LINE_BYTES_MAX.saturating_sub(partial.len());
            partial.extend_from_slice(&piece[..piece.len().min(room)]);
            if piece.ends_with(b"\n") {
                let line = String::from_utf8_lossy(&partial);
                if !line.trim_end().is_empty() {
                    self.log.line(self.level, line.trim_end());
                }
                partial.clear();
            }
        }
    }
}

impl IsTerminal for LineStream {
    fn is_terminal(&self) -> bool {
        false
    }
}

impl StdoutStream for LineStream {
    fn async_stream(&self) -> Box<dyn AsyncWrite + Send + Sync> {
        Box::new(self.clone())
    }

    fn p2_stream(&self) -> Box<dyn OutputStream> {
        Box::new(self.clone())
    }
}

impl OutputStream for LineStream {
    fn write(&mut self, bytes: Bytes) -> StreamResult<()> {
        self.take(&bytes);
        Ok(())
    }

    fn flush(&mut self) -> StreamResult<()> {
        Ok(())
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        Ok(LINE_BYTES_MAX)
    }
}

#[wasmtime_wasi::async_trait]
impl Pollable for LineStream {
    async fn ready(&mut self) {}
}

impl AsyncWrite for LineStream {
    fn poll_write(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.take(bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
