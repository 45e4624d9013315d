//! One receiver's task: it reads the log, gathers what there is to tell, keeps a
//! delivery, and sends it until it was taken or given up. Nobody waits for it.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, sleep, sleep_until};

use super::body::Frame;
use super::group::{Batch, Groups, Pace, Rules};
use super::wire::Answer;
use super::{NotifyCounters, Receiver, State};
use crate::clock::Clock;
use crate::model::{LogChannel, Topic};
use crate::shutdown::Shutdown;
use crate::store::{Delivery, DeliveryAct, DeliveryChange, Place, Reader, StoreError};

/// Findings that are read at once …
const PAGE_ENTRIES_MAX: usize = 500;
/// … and their bytes.
const PAGE_BYTES_MAX: usize = 1024 * 1024;
/// How long to wait when the log can't be read.
const READ_AGAIN: Duration = Duration::from_secs(5);
/// How often it is kept how far a receiver is that nothing is to be told: who is
/// told nothing for days need not hear of a gap when the log forgets these days.
const KEEP_PLACE: Duration = Duration::from_secs(60);
/// How long an attempt that is under way may go on when the hub stops: shorter
/// than what its rooms have for it.
const STOP_GRACE: Duration = Duration::from_secs(2);
/// After so many attempts the pause is not doubled any more.
const DOUBLINGS_MAX: u32 = 20;

/// What a receiver's task needs.
pub(super) struct Task {
    pub(super) receiver: Arc<Receiver>,
    pub(super) reader: Reader,
    pub(super) changes: mpsc::Sender<DeliveryChange>,
    /// The offset of the newest finding.
    pub(super) found: watch::Receiver<u64>,
    /// Where the log ended when the hub was started.
    pub(super) begins: u64,
    pub(super) counters: Arc<NotifyCounters>,
    pub(super) clock: Clock,
    pub(super) shutdown: Shutdown,
}

/// Where the task is.
struct Course {
    groups: Groups,
    pace: Pace,
    /// There may be deliveries that are on their way.
    undelivered: bool,
    /// A delivery was due and had to wait for its minute.
    held: bool,
    /// How far the receiver is, as it is kept, and since when.
    kept: (Place, Instant),
    /// The log could not be read; not before this again.
    again: Option<Instant>,
}

/// The hub stops.
struct Stopping;

impl Task {
    /// Tells the receiver until the hub stops.
    pub(super) async fn run(mut self) {
        let Ok(mut course) = self.begin().await else { return };
        while self.step(&mut course).await.is_ok() {}
        self.receiver.show(|status| status.state = State::Stopped);
        // What was read and was nothing to tell need not be read again.
        let place = course.groups.place();
        if place != course.kept.0 && !course.groups.has_gap() {
            self.keep(place, None).await;
        }
    }

    /// Finds out how far the receiver is. A new one begins with what comes.
    async fn begin(&mut self) -> Result<Course, Stopping> {
        let name = self.receiver.name.clone();
        let known = loop {
            match self.reader.place(name.clone()).await {
                Ok(known) => break known,
                Err(StoreError::Stopping) => return Err(Stopping),
                Err(error) => {
                    self.complain(&error);
                    self.pause(READ_AGAIN).await?;
                }
            }
        };
        let place = match known {
            Some(place) => place,
            None => {
                let place = Place { offset: self.begins, ..Place::default() };
                self.keep(place.clone(), None).await.ok_or(Stopping)?;
                place
            }
        };
        let rules = self.receiver.rules();
        Ok(Course {
            groups: Groups::new(rules, place.clone()),
            pace: Pace::new(self.receiver.config.per_minute),
            undelivered: true,
            held: false,
            kept: (place, Instant::now()),
            again: None,
        })
    }

    async fn step(&mut self, course: &mut Course) -> Result<(), Stopping> {
        if self.shutdown.is_requested() {
            return Err(Stopping);
        }
        if course.undelivered {
            return self.deliver_oldest(course).await;
        }
        self.read_on(course).await?;
        let now = Instant::now();
        let due = course.groups.due();
        let ready = course.pace.ready(now);
        self.show_waiting(course);
        if due.is_some_and(|due| due <= now) {
            if ready <= now {
                return self.gather(course, now).await;
            }
            course.held = true;
        }
        // Also where nothing was found for a receiver: the log was read up to its
        // head just now, and may forget all of it before something is.
        let keep_at = (!course.groups.has_gap()).then(|| course.kept.1 + KEEP_PLACE);
        if keep_at.is_some_and(|at| at <= now) {
            return self.keep_place(course).await;
        }
        let tell_at = due.map(|due| due.max(ready));
        let wake = [tell_at, keep_at, course.again].into_iter().flatten().min();
        let wake = async {
            match wake {
                Some(at) => sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            changed = self.found.changed(), if course.again.is_none() => {
                // The log has ended.
                changed.map_err(|_| Stopping)
            }
            () = self.receiver.woken.notified() => {
                course.undelivered = true;
                Ok(())
            }
            () = wake => {
                course.again = course.again.filter(|at| *at > Instant::now());
                Ok(())
            }
            () = self.shutdown.requested() => Err(Stopping),
        }
    }

    /// Reads what has come to the log, as far as there is room.
    async fn read_on(&mut self, course: &mut Course) -> Result<(), Stopping> {
        if course.again.is_some() {
            return Ok(());
        }
        self.found.borrow_and_update();
        while !course.groups.is_full() {
            let findings = vec![Topic::Channel(LogChannel::Findings)];
            let (after, bytes) = (course.groups.read(), PAGE_BYTES_MAX);
            let page = self.reader.missed(after, u64::MAX, findings, PAGE_ENTRIES_MAX, bytes);
            match page.await {
                Ok(Some(page)) => {
                    let (now, now_ms) = (Instant::now(), self.clock.now_ms());
                    for logged in &page.entries {
                        let age_ms = now_ms.saturating_sub(logged.entry.time_ms);
                        course.groups.add(logged, now, Duration::from_millis(age_ms));
                    }
                    course.groups.has_read(page.through);
                    if page.complete {
                        break;
                    }
                }
                Ok(None) => match self.reader.bounds().await {
                    Ok((pruned, head)) => self.miss(course, pruned.min(head)),
                    Err(error) => return self.read_later(course, &error),
                },
                Err(error) => return self.read_later(course, &error),
            }
        }
        Ok(())
    }

    /// What the receiver was to be told is no longer kept.
    fn miss(&self, course: &mut Course, through: u64) {
        let after = course.groups.read();
        tracing::warn!(
            receiver = self.receiver.name,
            after,
            through,
            "a receiver is so far behind that the log has no longer what it has missed"
        );
        self.counters.gaps.fetch_add(1, Ordering::Relaxed);
        course.groups.has_missed(through);
    }

    fn read_later(&self, course: &mut Course, error: &StoreError) -> Result<(), Stopping> {
        if matches!(error, StoreError::Stopping) {
            return Err(Stopping);
        }
        self.complain(error);
        course.again = Some(Instant::now() + READ_AGAIN);
        Ok(())
    }

    fn complain(&self, error: &StoreError) {
        tracing::warn!(receiver = self.receiver.name, %error, "the log can't be read yet");
    }

    /// Makes a delivery of what is due, and keeps it.
    async fn gather(&mut self, course: &mut Course, now: Instant) -> Result<(), Stopping> {
        let Some((batch, place)) = course.groups.take(now, course.held) else { return Ok(()) };
        course.held = false;
        let time_ms = self.clock.now_ms();
        let body = match self.receiver.frame(time_ms).of(&batch) {
            Ok(body) => body,
            Err(error) => {
                tracing::error!(%error, "a delivery can't be written as JSON");
                return Ok(());
            }
        };
        let Batch { opened, closed, left_out, .. } = batch;
        let delivery = Delivery {
            number: 0,
            receiver: self.receiver.name.clone(),
            id: super::message_id(),
            time_ms,
            attempts: 0,
            dead: None,
            findings: opened + closed,
            body,
        };
        self.keep(place.clone(), Some(Box::new(delivery))).await.ok_or(Stopping)?;
        self.counters.left_out.fetch_add(left_out, Ordering::Relaxed);
        course.kept = (place, now);
        course.undelivered = true;
        self.show_waiting(course);
        Ok(())
    }

    async fn keep_place(&mut self, course: &mut Course) -> Result<(), Stopping> {
        let place = course.groups.place();
        if place != course.kept.0 {
            self.keep(place.clone(), None).await.ok_or(Stopping)?;
        }
        course.kept = (place, Instant::now());
        Ok(())
    }

    async fn keep(&self, place: Place, delivery: Option<Box<Delivery>>) -> Option<u64> {
        let receiver = self.receiver.name.clone();
        self.change(DeliveryAct::Move { receiver, place, delivery }).await
    }

    /// Keeps something; none if the log has ended.
    async fn change(&self, act: DeliveryAct) -> Option<u64> {
        change(&self.changes, act).await
    }

    /// Sends the oldest delivery that is on its way, if there is one.
    async fn deliver_oldest(&mut self, course: &mut Course) -> Result<(), Stopping> {
        match self.reader.undelivered(self.receiver.name.clone()).await {
            Ok(Some(delivery)) => {
                self.wait_for_pace(course).await?;
                course.pace.begin(Instant::now());
                self.deliver(delivery).await
            }
            Ok(None) => {
                course.undelivered = false;
                Ok(())
            }
            Err(StoreError::Stopping) => Err(Stopping),
            Err(error) => {
                self.complain(&error);
                self.pause(READ_AGAIN).await
            }
        }
    }

    async fn wait_for_pace(&mut self, course: &Course) -> Result<(), Stopping> {
        tokio::select! {
            () = sleep_until(course.pace.ready(Instant::now())) => Ok(()),
            () = self.shutdown.requested() => Err(Stopping),
        }
    }

    async fn pause(&mut self, pause: Duration) -> Result<(), Stopping> {
        tokio::select! {
            () = sleep(pause) => Ok(()),
            () = self.receiver.woken.notified() => Ok(()),
            () = self.shutdown.requested() => Err(Stopping),
        }
    }

    /// Sends a delivery until it was taken or is given up.
    async fn deliver(&mut self, delivery: Delivery) -> Result<(), Stopping> {
        let Delivery { number, id, findings, body, .. } = delivery;
        let body = Bytes::from(body);
        let mut attempts = 0;
        loop {
            attempts += 1;
            self.receiver.show(|status| {
                (status.state, status.attempts, status.next_ms) = (State::Sending, attempts, None);
            });
            let (why, after) = match self.attempt(&id, body.clone()).await? {
                Answer::Taken(_) => {
                    self.change(DeliveryAct::Taken(number)).await.ok_or(Stopping)?;
                    self.was_taken(findings);
                    return Ok(());
                }
                Answer::Never(why) => return self.give_up(number, attempts, why).await,
                Answer::Later(why, after) => (why, after),
            };
            self.counters.failed.fetch_add(1, Ordering::Relaxed);
            if attempts > self.receiver.config.retries {
                return self.give_up(number, attempts, why).await;
            }
            let pause = self.receiver.backoff(attempts, after, super::random());
            let pause_ms = u64::try_from(pause.as_millis()).unwrap_or(u64::MAX);
            tracing::debug!(receiver = self.receiver.name, attempts, pause_ms, why, "tried again");
            let next_ms = self.clock.now_ms().saturating_add(pause_ms);
            self.receiver.show(|status| {
                (status.state, status.next_ms) = (State::Retrying, Some(next_ms));
                status.why = Some(why);
            });
            self.pause(pause).await?;
        }
    }

    /// One attempt. One that is under way when the hub stops may go on for a
    /// moment: what was taken is not to be sent again.
    async fn attempt(&mut self, id: &str, body: Bytes) -> Result<Answer, Stopping> {
        let receiver = self.receiver.clone();
        let cut = async {
            self.shutdown.requested().await;
            sleep(STOP_GRACE).await;
        };
        tokio::select! {
            answer = receiver.wire.send(id, body) => Ok(answer),
            () = cut => Err(Stopping),
        }
    }

    fn was_taken(&self, findings: u64) {
        self.counters.sent.fetch_add(1, Ordering::Relaxed);
        self.counters.findings.fetch_add(findings, Ordering::Relaxed);
        let now_ms = self.clock.now_ms();
        self.receiver.show(|status| {
            status.sent += 1;
            status.findings += findings;
            (status.attempts, status.why, status.next_ms) = (0, None, None);
            (status.state, status.sent_ms) = (State::Idle, Some(now_ms));
        });
    }

    /// Makes a dead letter of a delivery.
    async fn give_up(&mut self, number: u64, attempts: u32, why: String) -> Result<(), Stopping> {
        tracing::warn!(
            receiver = self.receiver.name,
            number,
            attempts,
            why,
            "a delivery was given up: `telltale notify dead` shows it"
        );
        let act = DeliveryAct::Dead(number, attempts, why.clone());
        let dropped = self.change(act).await.ok_or(Stopping)?;
        self.counters.dead.fetch_add(1, Ordering::Relaxed);
        self.counters.dropped.fetch_add(dropped, Ordering::Relaxed);
        self.receiver.show(|status| {
            status.dead += 1;
            (status.state, status.attempts, status.next_ms) = (State::Idle, 0, None);
            status.why = Some(why);
        });
        Ok(())
    }

    fn show_waiting(&self, course: &mut Course) {
        let (waiting, offset) = (course.groups.waiting(), course.groups.place().offset);
        self.receiver.show(|status| {
            status.state = if waiting > 0 { State::Gathering } else { State::Idle };
            (status.waiting, status.offset) = (waiting, offset);
        });
    }
}

impl Receiver {
    fn rules(&self) -> Rules {
        let config = &self.config;
        Rules {
            detectors: self.detectors.clone(),
            series: self.series.clone(),
            score: config.score,
            closed: config.closed,
            group_by: config.group_by.clone(),
            wait: config.group_wait,
            interval: config.group_interval,
            findings_max: config.findings,
        }
    }

    pub(super) fn frame(&self, time_ms: u64) -> Frame<'_> {
        Frame {
            hub: &self.hub,
            epoch: &self.epoch,
            receiver: &self.name,
            link: self.config.link.as_deref(),
            time_ms,
        }
    }

    /// The pause after so many attempts: twice as long each time, and by chance
    /// up to a half shorter, so that receivers that failed together are not all
    /// asked together; but as long as the receiver asks for. `chance` is of 0 to 1.
    pub(super) fn backoff(&self, attempts: u32, asked: Option<Duration>, chance: f64) -> Duration {
        let doublings = attempts.saturating_sub(1).min(DOUBLINGS_MAX);
        let pause = self.config.retry_first.saturating_mul(1 << doublings);
        let pause = pause.min(self.config.retry_most).mul_f64(1.0 - chance / 2.0);
        pause.max(asked.unwrap_or_default())
    }
}

/// Has something kept; none if the log has ended.
pub(super) async fn change(
    changes: &mpsc::Sender<DeliveryChange>,
    act: DeliveryAct,
) -> Option<u64> {
    let (done, answer) = oneshot::channel();
    changes.send(DeliveryChange { act, done }).await.ok()?;
    answer.await.ok()
}
