//! The sweeper: one task that looks at all gates, so that none needs a timer.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::frame::Piece;
use super::way::Way;
use super::{CloseReason, Ending, Gate, Gates, STALL_MAX};
use crate::shutdown::Shutdown;

/// How often it looks, or more often where the heartbeat is short.
const SWEEP_EVERY: Duration = Duration::from_secs(1);

impl Gates {
    /// Looks after all gates until `shutdown`.
    pub async fn sweep(self: Arc<Self>, mut shutdown: Shutdown) {
        let every = SWEEP_EVERY.min(self.heartbeat / 4);
        let mut interval = tokio::time::interval(every);
        interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                () = shutdown.requested() => return,
                () = self.budget.passed() => self.shed(),
                _ = interval.tick() => self.look(millis(every)),
            }
        }
    }

    pub(super) fn look(&self, every: u32) {
        let (now, heartbeat) = (self.now(), millis(self.heartbeat));
        for gate in self.all() {
            gate.look(now, heartbeat, every);
        }
        // Also when the limit was passed while nobody waited for it.
        if self.budget.excess() > 0 {
            self.shed();
        }
    }

    /// All gates. Nobody is told anything with the registry open: who is told may
    /// be the last to hold a client, and then its gate leaves the registry.
    fn all(&self) -> Vec<Arc<Gate>> {
        self.lock().iter().map(|(_, gate)| gate.clone()).collect()
    }

    /// Ends those that hold the most of what waits, until enough is free.
    fn shed(&self) {
        let mut holders: Vec<(usize, Arc<Gate>)> =
            self.all().into_iter().map(|gate| (gate.waiting(), gate)).collect();
        holders.retain(|(bytes, _)| *bytes > 0);
        holders.sort_unstable_by_key(|(bytes, _)| *bytes);
        while self.budget.excess() > 0
            && let Some((bytes, gate)) = holders.pop()
        {
            tracing::warn!(
                bytes,
                "a client was closed: the memory for what waits is used up (limits.outbox_mib)"
            );
            self.counters.shed.fetch_add(1, Ordering::Relaxed);
            gate.give_up(CloseReason::SHED);
            // What has begun to go out may be the most of it, and goes before
            // another client has to.
            if self.budget.excess() > 0 {
                gate.cut();
            }
        }
    }

    /// Tells all sessions to say goodbye, and refuses new ones from here on.
    /// The times at which clients are to come back are spread evenly over
    /// `window`.
    pub fn drain(&self, window: Duration) {
        if self.draining.swap(true, Ordering::AcqRel) {
            return;
        }
        let open = self.all();
        let sessions = || open.iter().filter(|gate| gate.is_session.load(Ordering::Acquire));
        let count = u32::try_from(sessions().count()).unwrap_or(u32::MAX).max(1);
        for (gate, nth) in sessions().zip(1..) {
            gate.end(Ending::Bye(window * nth / count));
        }
    }

    /// Whether [`Gates::drain`] was called.
    #[must_use]
    pub fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Acquire)
    }
}

impl Gate {
    pub(super) fn look(&self, now: u32, heartbeat: u32, every: u32) {
        let is_session = self.is_session.load(Ordering::Relaxed);
        let (blocked_at, ends) = {
            let out = self.lock();
            (out.blocked_at, out.ending.is_some())
        };
        // A session that ends has a limit of its own.
        if ends {
            return;
        }
        if blocked_at.is_some_and(|at| since(now, at) >= millis(STALL_MAX)) {
            self.gates.counters.stalled.fetch_add(1, Ordering::Relaxed);
            if is_session {
                self.give_up(CloseReason::TOO_SLOW);
            } else {
                self.cut();
            }
            return;
        }
        // A transport that takes whole messages has a heartbeat of its own.
        if !is_session || matches!(self.way, Way::Packets(_)) {
            return;
        }
        if self.is_full() || blocked_at.is_some() {
            // It is not read from, or it is busy taking something, which no ping
            // can overtake; that has a limit of its own.
            self.heard_at.store(now, Ordering::Relaxed);
            return;
        }
        let beat = self.beat.get();
        let heartbeat = beat.map_or(heartbeat, |beat| millis(beat.interval));
        let silent = since(now, self.heard_at.load(Ordering::Relaxed));
        let pinged = now.wrapping_sub(self.pinged_at.load(Ordering::Relaxed));
        // A machine that had no time to ping had none to listen either.
        let had_time = pinged < silent && pinged >= heartbeat / 2;
        // By the next look two heartbeats would be over.
        if silent.saturating_add(every) > 2 * heartbeat && had_time {
            self.gates.counters.silent.fetch_add(1, Ordering::Relaxed);
            self.give_up(beat.map_or(CloseReason::SILENT, |beat| beat.lost));
        } else if silent >= heartbeat && pinged >= heartbeat {
            self.pinged_at.store(now, Ordering::Relaxed);
            self.ping(now);
        }
    }

    /// Sends a ping before what has not begun to go out.
    fn ping(&self, now: u32) {
        let mut out = self.lock();
        if out.dead || out.is_closed {
            return;
        }
        let waits = !out.is_empty();
        out.cut_in(Piece::ping());
        if !waits {
            let written = out.flush(&self.way, || now);
            self.after(written, out);
        }
    }

    /// Ends a client that can't be served: what waits for it is dropped but for
    /// the message that has begun to go out.
    fn give_up(&self, reason: CloseReason) {
        self.lock().drop_unsent();
        self.end(Ending::Close(reason));
    }
}

/// How long ago `at` was. It may be a little after `now`, which was taken when
/// the sweep began.
pub(super) fn since(now: u32, at: u32) -> u32 {
    let since = now.wrapping_sub(at);
    if since > u32::MAX / 2 { 0 } else { since }
}

fn millis(duration: Duration) -> u32 {
    u32::try_from(duration.as_millis()).unwrap_or(u32::MAX)
}
