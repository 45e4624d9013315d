//! What plugins say: the `log` import, standard output and standard error.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::io::AsyncWrite;
use tracing::Level;
use wasmtime_wasi::cli::{IsTerminal, StdoutStream};
use wasmtime_wasi::p2::{OutputStream, Pollable, StreamResult};

use super::journal::Journal;
use super::limits::Refused;

/// Where a line is cut.
const LINE_BYTES_MAX: usize = 4096;

/// A plugin's way into the hub's log: named, cut, and limited in rate.
#[derive(Clone, Debug)]
pub(crate) struct PluginLog(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    journal: Arc<Journal>,
    lines_per_second_max: u32,
    window: Mutex<Window>,
    refused: Refused,
}

#[derive(Debug)]
struct Window {
    since: Instant,
    lines: u32,
    dropped: u32,
}

impl PluginLog {
    /// A log for a plugin's instances. Lines that are over the limit are
    /// counted in `refused`.
    pub(crate) fn new(lines_per_second_max: u32, refused: Refused, journal: Arc<Journal>) -> Self {
        let window = Mutex::new(Window { since: Instant::now(), lines: 0, dropped: 0 });
        Self(Arc::new(Inner { journal, lines_per_second_max, window, refused }))
    }

    /// Logs one line.
    pub(crate) fn line(&self, level: Level, message: &str) {
        let Some(dropped) = self.admit(Instant::now()) else { return };
        let plugin = &**self.0.journal.plugin();
        if dropped > 0 {
            let most = self.0.lines_per_second_max;
            tracing::warn!(
                plugin,
                dropped,
                "log lines over {most} a second dropped (limit `log_lines`)"
            );
        }
        let text = cut(message, LINE_BYTES_MAX);
        self.0.journal.add(level, text);
        match level {
            Level::ERROR => tracing::error!(plugin, "{text}"),
            Level::WARN => tracing::warn!(plugin, "{text}"),
            Level::INFO => tracing::info!(plugin, "{text}"),
            _ => tracing::debug!(plugin, "{text}"),
        }
    }

    /// Whether one more line may pass, and how many were dropped before it.
    fn admit(&self, now: Instant) -> Option<u32> {
        let mut window = self.0.window.lock().unwrap_or_else(PoisonError::into_inner);
        let mut before = 0;
        if now.saturating_duration_since(window.since) >= Duration::from_secs(1) {
            before = window.dropped;
            *window = Window { since: now, lines: 0, dropped: 0 };
        }
        if window.lines == self.0.lines_per_second_max {
            window.dropped += 1;
            self.0.refused.add(|counts| counts.log_lines += 1);
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Clock;

    #[test]
    fn lines_up_to_the_limit_pass_and_one_beyond_is_dropped_and_counted() {
        let refused = Refused::default();
        let journal = Journal::new("p".into(), Clock::system());
        let log = PluginLog::new(3, refused.clone(), Arc::new(journal));
        let now = Instant::now();
        assert_eq!([now; 4].map(|now| log.admit(now)), [Some(0), Some(0), Some(0), None]);
        assert_eq!(refused.counts().log_lines, 1);
        assert_eq!(log.admit(now + Duration::from_secs(2)), Some(1), "the next second");
    }
}
