//! The bodies of requests: read whole, within bounds of length and of the memory
//! that all of them have together. How long one may take [`super::upload`] says.

use std::error::Error;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::StatusCode;
use hyper::body::Body;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::upload::UploadError;
use crate::dialect::native::Refusal;

/// Memory for all bodies that are being read, in KiB: sixteen of the longest
/// batches at once.
const ROOM_KIB: usize = 64 * 1024;
/// How much of a body that is too long is read and dropped, so that its sender
/// gets to reading the answer: a connection that is closed on what is unread is
/// reset, and the reset overtakes the answer.
const DROP_BYTES_MAX: usize = 16 * 1024 * 1024;
/// How long that may take.
const DROP_TIME_MAX: Duration = Duration::from_secs(5);

/// Memory for bodies that are being read. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Bodies(Arc<Semaphore>);

/// A body, and its part of the memory.
pub(super) struct Whole {
    pub(super) bytes: Bytes,
    _room: Option<OwnedSemaphorePermit>,
}

/// Why a body is not taken.
pub(super) type NotTaken = (StatusCode, Refusal);

impl Default for Bodies {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(ROOM_KIB)))
    }
}

impl Bodies {
    /// All of a body, up to `max` bytes.
    pub(super) async fn read<B>(&self, body: B, max: usize) -> Result<Whole, NotTaken>
    where
        B: Body<Data = Bytes>,
        B::Error: Into<Box<dyn Error + Send + Sync>>,
    {
        let mut body = pin!(body);
        if body.size_hint().lower() > max as u64 {
            drop_rest(&mut body).await;
            return Err(too_large(max));
        }
        let (mut bytes, mut room) = (BytesMut::new(), None);
        let mut limited = pin!(Limited::new(&mut body, max));
        loop {
            let frame = match limited.frame().await {
                Some(Ok(frame)) => frame,
                None => return Ok(Whole { bytes: bytes.freeze(), _room: room }),
                Some(Err(error)) if error.is::<LengthLimitError>() => {
                    drop_rest(&mut body).await;
                    return Err(too_large(max));
                }
                Some(Err(error)) => return Err(broke_off(&*error)),
            };
            let Ok(data) = frame.into_data() else { continue };
            bytes.extend_from_slice(&data);
            if !self.make_room(&mut room, bytes.len()) {
                return Err((StatusCode::SERVICE_UNAVAILABLE, busy()));
            }
        }
    }

    /// Sees to it that `room` is enough for so many bytes.
    fn make_room(&self, room: &mut Option<OwnedSemaphorePermit>, bytes: usize) -> bool {
        let have = room.as_ref().map_or(0, OwnedSemaphorePermit::num_permits);
        let more = bytes.div_ceil(1024).saturating_sub(have);
        let more = u32::try_from(more).unwrap_or(u32::MAX);
        let Ok(more) = self.0.clone().try_acquire_many_owned(more) else { return false };
        match room {
            Some(room) => room.merge(more),
            None => *room = Some(more),
        }
        true
    }
}

/// Reads on for a while, and keeps nothing.
async fn drop_rest<B>(body: &mut B)
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<Box<dyn Error + Send + Sync>>,
{
    let mut limited = Limited::new(body, DROP_BYTES_MAX);
    let all = async { while let Some(Ok(_)) = limited.frame().await {} };
    // Either way that was enough.
    let _ = tokio::time::timeout(DROP_TIME_MAX, all).await;
}

fn too_large(max: usize) -> NotTaken {
    let words = format!("the body is longer than {max} bytes");
    (StatusCode::PAYLOAD_TOO_LARGE, Refusal::new("too_large", words))
}

fn broke_off(error: &(dyn Error + Send + Sync + 'static)) -> NotTaken {
    match error.downcast_ref() {
        Some(UploadError::Slow) => {
            let words = "the body came too slowly";
            (StatusCode::REQUEST_TIMEOUT, Refusal::new("too_slow", words))
        }
        _ => (StatusCode::BAD_REQUEST, Refusal::new("bad_request", "the body broke off")),
    }
}

fn busy() -> Refusal {
    let words = "too much is being read just now: try again in a moment";
    Refusal { temporary: true, retry_after_ms: Some(1000), ..Refusal::new("busy", words) }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use futures_util::stream;
    use http_body_util::{Full, StreamBody};
    use hyper::body::Frame;

    use super::*;

    fn chunks(count: usize) -> impl Body<Data = Bytes, Error = Infallible> {
        let chunk = || Ok(Frame::data(Bytes::from_static(&[b'x'; 1000])));
        StreamBody::new(stream::iter((0..count).map(move |_| chunk())))
    }

    #[tokio::test]
    async fn a_body_is_read_up_to_its_limit() {
        let bodies = Bodies::default();
        for length in [0, 1, 1000] {
            let body = Full::new(Bytes::from(vec![b'x'; length]));
            assert_eq!(bodies.read(body, 1000).await.ok().unwrap().bytes.len(), length);
        }
        let told = bodies.read(Full::new(Bytes::from(vec![b'x'; 1001])), 1000).await;
        assert_eq!(told.err().unwrap().0, StatusCode::PAYLOAD_TOO_LARGE);
        assert_eq!(bodies.read(chunks(5), 5000).await.ok().unwrap().bytes.len(), 5000);
        let told = bodies.read(chunks(6), 5000).await;
        assert_eq!(told.err().unwrap().0, StatusCode::PAYLOAD_TOO_LARGE);
        assert_eq!(bodies.0.available_permits(), ROOM_KIB, "all of it was given back");
    }

    #[tokio::test]
    async fn all_bodies_share_one_memory() {
        let bodies = Bodies(Arc::new(Semaphore::new(6)));
        let first = bodies.read(chunks(4), 5000).await.ok().unwrap();
        let (status, refusal) = bodies.read(chunks(4), 5000).await.err().unwrap();
        assert_eq!((status, refusal.temporary), (StatusCode::SERVICE_UNAVAILABLE, true));
        drop(first);
        assert!(bodies.read(chunks(4), 5000).await.is_ok());
    }

    #[tokio::test]
    async fn a_body_that_does_not_come_is_told_how() {
        let failing = |error| {
            let frames = stream::iter([Err::<Frame<Bytes>, _>(error)]);
            async move { Bodies::default().read(StreamBody::new(frames), 10).await.err().unwrap().0 }
        };
        assert_eq!(failing(UploadError::Slow).await, StatusCode::REQUEST_TIMEOUT);
        let broken = stream::iter([Err::<Frame<Bytes>, _>(std::io::Error::other("gone"))]);
        let (status, _) = Bodies::default().read(StreamBody::new(broken), 10).await.err().unwrap();
        assert_eq!(status, StatusCode::BAD_REQUEST);
    }
}
