//! What a client sends after the head of its request, and how long it may take.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use tokio::time::{Instant, Sleep, sleep};

use crate::gate::GateCounters;

/// How long a body may take, however short it is.
const UPLOAD_GRACE: Duration = Duration::from_secs(10);
/// How fast a body has to come on average, in bytes a second: a megabyte within
/// little more than a minute, which the slowest mobile networks can do.
const UPLOAD_RATE_MIN: u32 = 16 * 1024;
/// How long any body may take.
const UPLOAD_MAX: Duration = Duration::from_secs(120);

/// The body of a request. It ends with an error where it comes so slowly that
/// it is meant to hold the connection.
#[derive(Debug)]
pub(super) struct Upload {
    incoming: Incoming,
    /// Set with the first look at it.
    clock: Option<Pin<Box<Pace>>>,
    counters: Arc<GateCounters>,
}

#[derive(Debug)]
struct Pace {
    began: Instant,
    deadline: Pin<Box<Sleep>>,
    received: u64,
}

/// Why a body has not come.
#[derive(Debug, thiserror::Error)]
pub(super) enum UploadError {
    /// It came too slowly.
    #[error("the body came too slowly")]
    Slow,
    /// The connection has broken, or what came is no HTTP.
    #[error(transparent)]
    Broken(#[from] hyper::Error),
}

impl Upload {
    pub(super) fn new(incoming: Incoming, counters: Arc<GateCounters>) -> Self {
        Self { incoming, clock: None, counters }
    }
}

/// How long a body of which so much has come may have taken.
fn allowance(received: u64) -> Duration {
    let earned = Duration::from_millis(received.saturating_mul(1000) / u64::from(UPLOAD_RATE_MIN));
    (UPLOAD_GRACE + earned).min(UPLOAD_MAX)
}

impl Body for Upload {
    type Data = Bytes;
    type Error = UploadError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, UploadError>>> {
        let upload = self.get_mut();
        let clock = upload.clock.get_or_insert_with(|| {
            let (began, deadline) = (Instant::now(), Box::pin(sleep(UPLOAD_GRACE)));
            Box::pin(Pace { began, deadline, received: 0 })
        });
        // Looked at first: what comes byte by byte is always there.
        if clock.deadline.as_mut().poll(cx).is_ready() {
            upload.counters.too_late.fetch_add(1, Ordering::Relaxed);
            return Poll::Ready(Some(Err(UploadError::Slow)));
        }
        let frame = ready!(Pin::new(&mut upload.incoming).poll_frame(cx));
        if let Some(Ok(frame)) = &frame
            && let Some(data) = frame.data_ref()
        {
            clock.received += data.len() as u64;
            let deadline = clock.began + allowance(clock.received);
            clock.deadline.as_mut().reset(deadline);
        }
        Poll::Ready(frame.map(|frame| frame.map_err(UploadError::from)))
    }

    fn is_end_stream(&self) -> bool {
        self.incoming.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.incoming.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_has_the_longer_the_more_has_come_but_not_for_ever() {
        assert_eq!(allowance(0), Duration::from_secs(10));
        assert_eq!(allowance(16 * 1024), Duration::from_secs(11));
        assert_eq!(allowance(1 << 20), Duration::from_secs(74));
        assert_eq!(allowance(u64::MAX), UPLOAD_MAX);
    }
}
