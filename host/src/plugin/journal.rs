//! The last lines of what a plugin said and of what became of it, for
//! `telltale plugin logs`.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;

use crate::clock::{Clock, rfc3339};
use crate::model::PluginName;

/// How many lines are kept of each plugin: what fits on a few screens …
const LINES_MAX: usize = 500;
/// … and how many bytes of them.
const BYTES_MAX: usize = 256 * 1024;

/// One line.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct JournalLine {
    /// Its number, rising by one from 1.
    pub seq: u64,
    /// When, RFC 3339.
    pub time: String,
    /// `debug`, `info`, `warn` or `error`.
    pub level: &'static str,
    /// What was said.
    pub text: String,
}

/// The newest lines of one plugin. It outlives the plugin's instances.
#[derive(Debug)]
pub(crate) struct Journal {
    plugin: PluginName,
    clock: Clock,
    kept: Mutex<Kept>,
    more: Notify,
}

#[derive(Debug, Default)]
struct Kept {
    lines: VecDeque<JournalLine>,
    bytes: usize,
    last: u64,
}

impl Journal {
    pub(crate) fn new(plugin: PluginName, clock: Clock) -> Self {
        Self { plugin, clock, kept: Mutex::default(), more: Notify::new() }
    }

    /// Whose it is.
    pub(crate) fn plugin(&self) -> &PluginName {
        &self.plugin
    }

    /// Adds a line, and lets the oldest go where there is no room.
    pub(crate) fn add(&self, level: tracing::Level, text: &str) {
        let time = rfc3339(self.clock.now_ns());
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.last += 1;
        kept.bytes += text.len();
        let (seq, level) = (kept.last, word(level));
        kept.lines.push_back(JournalLine { seq, time, level, text: text.to_owned() });
        while kept.lines.len() > LINES_MAX || kept.bytes > BYTES_MAX {
            let Some(oldest) = kept.lines.pop_front() else { break };
            kept.bytes -= oldest.text.len();
        }
        drop(kept);
        self.more.notify_waiters();
    }

    /// The lines after number `after`.
    pub(crate) fn after(&self, after: u64) -> Vec<JournalLine> {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.lines.iter().filter(|line| line.seq > after).cloned().collect()
    }

    /// The lines after number `after`; waits for one up to `wait` if there are
    /// none.
    pub(crate) async fn wait(&self, after: u64, wait: Duration) -> Vec<JournalLine> {
        let mut more = std::pin::pin!(self.more.notified());
        more.as_mut().enable();
        let lines = self.after(after);
        if !lines.is_empty() {
            return lines;
        }
        // Whether it came or the time is over, what is there now is the answer.
        let _ = tokio::time::timeout(wait, more).await;
        self.after(after)
    }
}

fn word(level: tracing::Level) -> &'static str {
    match level {
        tracing::Level::ERROR => "error",
        tracing::Level::WARN => "warn",
        tracing::Level::INFO => "info",
        _ => "debug",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tracing::Level;

    fn journal() -> Journal {
        Journal::new("p".into(), Clock::system())
    }

    fn add(journal: &Journal, text: &str) {
        journal.add(Level::INFO, text);
    }

    #[test]
    fn the_newest_lines_are_kept_and_numbered_on() {
        let journal = journal();
        for i in 1..=LINES_MAX + 10 {
            add(&journal, &format!("line {i}"));
        }
        let lines = journal.after(0);
        assert_eq!((lines.len(), lines[0].seq), (LINES_MAX, 11));
        assert_eq!(journal.after(lines[0].seq).len(), LINES_MAX - 1);
        add(&journal, &"x".repeat(BYTES_MAX));
        assert_eq!(journal.after(0).len(), 1, "one line that fills all the room");
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_gets_the_next_line_or_none_in_time() {
        let journal = journal();
        assert!(journal.wait(0, Duration::from_secs(1)).await.is_empty());
        let (lines, ()) = tokio::join!(journal.wait(0, Duration::from_secs(60)), async {
            add(&journal, "here");
        });
        assert_eq!(lines[0].text, "here");
    }
}
