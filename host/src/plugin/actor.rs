//! One task owns one plugin: it asks the instance that sits in the plugin's
//! seat, and follows the manager's orders between two calls.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use globset::GlobSet;
use tokio::sync::{mpsc, oneshot};

use super::archive::Keep;
use super::collector::CollectorDesk;
use super::detector::DetectorDesk;
use super::instance::{Failure, Saved};
use super::kit::Good;
use super::seat::{Next, Seat, Seated, Successor};
use super::status::short_hash;
use crate::model::{Answer, Ask, Batch, Judgement, RuleBroken, Setback};
use crate::snapshot::Snapshot;
use crate::tick::Change;

/// What the manager tells a plugin's task.
pub(crate) enum Order {
    /// Let this take over at the next tick.
    Follow(Next),
    /// Start again, whatever it failed at.
    Resume,
    /// Say what you know.
    Tell(oneshot::Sender<Option<Saved>>),
    /// Of a detector: let what comes take over as soon as it has come, between
    /// two ticks, and answer who sat here. Until then wait; if nothing comes, go
    /// on.
    Exchange { with: oneshot::Receiver<Successor>, done: oneshot::Sender<Result<Good, String>> },
    /// Of a detector that the tick does not know any more: judge what it was
    /// shown, and end.
    Finish(oneshot::Sender<Finished>),
    /// End, and say what is still to be kept.
    Retire(oneshot::Sender<Vec<Keep>>),
}

/// What a detector leaves that has judged all that it was shown.
pub(crate) struct Finished {
    /// The last tick that it was shown.
    pub(crate) last: u64,
    pub(crate) state: Option<Saved>,
    pub(crate) keeps: Vec<Keep>,
}

/// Runs a collector until it is retired. Each question gets one answer.
/// `change` is what the tick was told of it.
pub(crate) async fn run_collector(
    mut seat: Seat,
    mut change: Change,
    mut asks: mpsc::Receiver<Ask>,
    mut orders: mpsc::Receiver<Order>,
) {
    let mut desk = seat.collector_desk();
    let mut incarnation = seat.incarnation;
    loop {
        tokio::select! {
            biased;
            order = orders.recv() => match order {
                Some(Order::Follow(next)) => seat.follow_with(next),
                Some(Order::Resume) => seat.resume().await,
                Some(Order::Tell(reply)) => drop(reply.send(seat.tell_state().await)),
                // Only detectors have shadows: who asks hears that nobody answers.
                Some(Order::Exchange { .. } | Order::Finish(_)) => {}
                Some(Order::Retire(reply)) => return seat.retire(reply).await,
                None => return,
            },
            // Without questions, as when the hub stops, orders are waited for.
            Some(ask) = asks.recv() => {
                seat.at_boundary(ask.tick.number).await;
                if std::mem::replace(&mut incarnation, seat.incarnation) != seat.incarnation {
                    desk = seat.collector_desk();
                }
                let outcome = seat.collect(ask, &mut desk).await;
                let good = outcome.is_ok();
                let answer = Answer { plugin: seat.plugin.clone(), outcome };
                // An error means that the loop has ended; the order to end follows.
                drop(seat.office.answers.send(answer).await);
                if good {
                    seat.answered(desk.limits_hit()).await;
                }
                // Last, since a failure may have brought another version back.
                seat.reschedule(&mut change).await;
            }
        }
    }
}

/// Runs a detector until it is retired.
pub(crate) async fn run_detector(
    mut seat: Seat,
    mut snapshots: mpsc::Receiver<Arc<Snapshot>>,
    mut orders: mpsc::Receiver<Order>,
) {
    let mut watch = Watch { desk: seat.detector_desk(), incarnation: seat.incarnation, last: 0 };
    loop {
        tokio::select! {
            biased;
            order = orders.recv() => match order {
                Some(Order::Follow(next)) => seat.follow_with(next),
                Some(Order::Resume) => seat.resume().await,
                Some(Order::Tell(reply)) => drop(reply.send(seat.tell_state().await)),
                Some(Order::Exchange { with, done }) => {
                    // Who has given up sends nothing, and all goes on as it was.
                    let Ok(successor) = with.await else { continue };
                    drop(done.send(watch.exchange(&mut seat, &mut snapshots, successor).await));
                }
                Some(Order::Finish(reply)) => {
                    while let Some(snapshot) = snapshots.recv().await {
                        watch.show(&mut seat, &snapshot).await;
                    }
                    let keeps = seat.last_words().await;
                    let state = seat.last_state.clone();
                    drop(reply.send(Finished { last: watch.last, state, keeps }));
                    return;
                }
                Some(Order::Retire(reply)) => return seat.retire(reply).await,
                None => return,
            },
            Some(snapshot) = snapshots.recv() => watch.show(&mut seat, &snapshot).await,
        }
    }
}

/// What the instance in a detector's seat has been shown.
struct Watch {
    desk: DetectorDesk,
    incarnation: u64,
    /// The number of the last tick.
    last: u64,
}

impl Watch {
    async fn show(&mut self, seat: &mut Seat, snapshot: &Snapshot) {
        seat.at_boundary(snapshot.tick.number).await;
        self.last = snapshot.tick.number;
        if std::mem::replace(&mut self.incarnation, seat.incarnation) != seat.incarnation {
            let before = std::mem::replace(&mut self.desk, seat.detector_desk());
            self.desk = seat.detector_desk().after(before);
        }
        if std::mem::take(&mut seat.shown_changed) {
            self.desk.show(seat.shown());
        }
        let Some(judgement) = seat.judge(snapshot, &mut self.desk).await else { return };
        drop(seat.office.judgements.send(judgement).await);
        seat.answered(self.desk.limits_hit()).await;
    }

    /// Lets a successor take over after the last tick that it knows of: what
    /// waits here of these is still for the one before, and the next for it.
    async fn exchange(
        &mut self,
        seat: &mut Seat,
        snapshots: &mut mpsc::Receiver<Arc<Snapshot>>,
        successor: Successor,
    ) -> Result<Good, String> {
        let mut waiting = snapshots.try_recv().ok();
        while let Some(snapshot) = waiting.take_if(|s| s.tick.number <= successor.after) {
            self.show(seat, &snapshot).await;
            waiting = snapshots.try_recv().ok();
        }
        let tick = self.last.max(successor.after) + 1;
        let outcome = seat.exchange(successor, tick).await;
        if let Some(snapshot) = waiting {
            self.show(seat, &snapshot).await;
        }
        outcome
    }
}

impl Seat {
    fn collector_desk(&self) -> CollectorDesk {
        let dictionary = self.office.dictionary.clone();
        let refused = self.record.refused.clone();
        CollectorDesk::new(self.plugin.clone(), dictionary, self.kit.limits, refused)
    }

    /// Tells the tick how often who sits here is to be asked, if that is news.
    async fn reschedule(&mut self, change: &mut Change) {
        let Change::Collector { interval, interval_idle, .. } = change else { return };
        let settings = &self.kit.settings;
        if (*interval, *interval_idle) != (settings.interval, settings.interval_idle) {
            (*interval, *interval_idle) = (settings.interval, settings.interval_idle);
            // An error means that the loop has ended; the order to end follows.
            drop(self.office.changes.send(change.clone()).await);
        }
    }

    fn shown(&self) -> Option<GlobSet> {
        // The settings were checked when they were read.
        self.kit.settings.shown().unwrap_or(None)
    }

    fn detector_desk(&self) -> DetectorDesk {
        let filter = self.shown();
        let refused = self.record.refused.clone();
        let version = short_hash(self.kit.loadable.hash);
        let detector = self.shadow_of.as_ref().unwrap_or(&self.plugin).clone();
        DetectorDesk::new(detector, filter, &self.kit.limits, refused)
            .of_version(&version, self.shadow_of.is_some())
    }

    async fn retire(mut self, reply: oneshot::Sender<Vec<Keep>>) {
        let last_words = self.last_words().await;
        // Who asked may have given up waiting.
        let _ = reply.send(last_words);
    }

    async fn collect(&mut self, ask: Ask, desk: &mut CollectorDesk) -> Result<Batch, Setback> {
        let Seated::Running(instance) = &mut self.seated else { return Err(self.absence()) };
        let begun = Instant::now();
        let answer = instance.collect(ask.tick).await;
        self.record.cost.call(begun.elapsed(), instance.waited());
        let batch = match answer {
            Ok(wire) => {
                desk.check(wire).await.map_err(|refusal| Failure::Trap(refusal.to_string()))
            }
            Err(failure) => Err(failure),
        };
        match batch {
            Ok(batch) => {
                self.count(desk.alive(), batch.values.len());
                Ok(batch)
            }
            Err(failure) => Err(self.setback(failure).await),
        }
    }

    async fn judge(&mut self, snapshot: &Snapshot, desk: &mut DetectorDesk) -> Option<Judgement> {
        let Seated::Running(instance) = &mut self.seated else { return None };
        if let Some(now_ns) = &self.kit.surroundings.virtual_now_ns {
            now_ns.store(snapshot.tick.time_ns, Ordering::Relaxed);
        }
        let shown = desk.observe(snapshot);
        let begun = Instant::now();
        let verdict = instance.observe(&shown.wire).await;
        self.record.cost.call(begun.elapsed(), instance.waited());
        let values = shown.wire.values.len();
        let refused = |broken: RuleBroken| Failure::Trap(format!("verdict refused: {broken}"));
        let judged =
            verdict.and_then(|verdict| desk.check(snapshot, shown, verdict).map_err(refused));
        match judged {
            Ok(judgement) => {
                self.count(desk.watching(), values);
                Some(judgement)
            }
            Err(failure) => {
                self.setback(failure).await;
                None
            }
        }
    }

    fn count(&self, series: usize, values: usize) {
        self.record.cost.series.store(series, Ordering::Relaxed);
        self.record.cost.values.store(values, Ordering::Relaxed);
    }
}
