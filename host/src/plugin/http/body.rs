//! What is still to come of a response.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use hyper::body::{Body, Frame, Incoming};
use tokio::task::JoinSet;
use tokio::time::{Instant, Sleep, sleep_until};

use super::HttpError;

/// A body, with the connection that it comes from.
pub(super) struct ResponseBody {
    incoming: Incoming,
    /// Drives the connection; ends with this body.
    _driver: JoinSet<()>,
    /// How long a piece may keep one waiting.
    between_bytes: Duration,
    /// When the exchange ends, whole or not.
    deadline: Instant,
    /// The nearer of both.
    timer: Pin<Box<Sleep>>,
}

impl ResponseBody {
    pub(super) fn new(
        incoming: Incoming,
        driver: JoinSet<()>,
        between_bytes: Duration,
        deadline: Instant,
    ) -> Self {
        let timer = Box::pin(sleep_until(deadline.min(Instant::now() + between_bytes)));
        Self { incoming, _driver: driver, between_bytes, deadline, timer }
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = HttpError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, HttpError>>> {
        let polled = Pin::new(&mut self.incoming).poll_frame(context);
        // At its deadline the connection is closed, which can look like an end.
        if Instant::now() >= self.deadline {
            return Poll::Ready(Some(Err(HttpError::Timeout)));
        }
        match polled {
            Poll::Ready(Some(Ok(frame))) => {
                let next = self.deadline.min(Instant::now() + self.between_bytes);
                self.timer.as_mut().reset(next);
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(Some(Err(error))) => Poll::Ready(Some(Err(HttpError::Broken(error)))),
            Poll::Ready(None) => Poll::Ready(None),
            Poll::Pending => {
                self.timer.as_mut().poll(context).map(|()| Some(Err(HttpError::Timeout)))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.incoming.is_end_stream()
    }
}
