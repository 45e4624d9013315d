//! The way out of one namespace: packets into its connection's transport.

use std::collections::VecDeque;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use bytes::Bytes;
use engineioxide::Str;
use tokio::sync::mpsc::error::TrySendError;

use super::connection::Connection;
use super::{Handler, Socket};
use crate::dialect::socketio::Namespace;
use crate::dialect::socketio::packet::{self, Kind, SEPARATOR};
use crate::gate::{Packet, Packets};

/// Frames from this length on are shared among clients.
const SHARED_FROM: usize = 256;

/// The way out of one namespace.
pub(super) struct Outlet {
    handler: Arc<Handler>,
    socket: Weak<Socket>,
    namespace: Namespace,
    /// The client is not to come back by itself.
    is_final: Arc<AtomicBool>,
    /// A session is behind it.
    is_live: AtomicBool,
    /// What is left of a reply that has many packets: what was missed, at most
    /// as much as one reply may have.
    rest: Mutex<Rest>,
}

#[derive(Default)]
struct Rest {
    packets: VecDeque<Bytes>,
    bytes: usize,
    /// Some of it was sent since it was asked last.
    has_moved: bool,
}

impl Outlet {
    pub(super) fn new(handler: Arc<Handler>, socket: &Arc<Socket>, namespace: Namespace) -> Self {
        Self {
            handler,
            socket: Arc::downgrade(socket),
            namespace,
            is_final: Arc::default(),
            is_live: AtomicBool::new(false),
            rest: Mutex::default(),
        }
    }

    /// Set by who knows that the client is not to come back.
    pub(super) fn is_final(&self) -> Arc<AtomicBool> {
        self.is_final.clone()
    }

    /// A session is behind it.
    pub(super) fn begin(&self) {
        self.is_live.store(true, Ordering::Release);
    }

    /// The connection has no more to do with it.
    pub(super) fn end(&self) {
        self.is_live.store(false, Ordering::Release);
    }

    /// The connection, as long as it has to do with it.
    fn socket(&self) -> io::Result<Arc<Socket>> {
        let live = self.is_live.load(Ordering::Acquire).then(|| self.socket.upgrade());
        live.flatten().ok_or_else(|| io::ErrorKind::BrokenPipe.into())
    }

    fn rest(&self) -> MutexGuard<'_, Rest> {
        self.rest.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn send_text(&self, socket: &Socket, text: &Bytes) -> io::Result<()> {
        let permit = socket.reserve().map_err(refused)?;
        // One place is kept free: a ping that finds none ends the connection.
        drop(socket.reserve().map_err(refused)?);
        permit.emit(self.handler.shared(text)?);
        Ok(())
    }

    fn send_bundle(socket: &Socket, whole: &Bytes) -> io::Result<()> {
        let Some((text, attachments)) = packet::unbundle(whole) else { return Ok(()) };
        let permit = socket.reserve().map_err(refused)?;
        drop(socket.reserve().map_err(refused)?);
        let attachments = attachments.iter().map(|part| whole.slice_ref(part)).collect();
        permit.emit_many(Str::copy_from_slice(text), attachments);
        Ok(())
    }

    /// Sends what is left of a reply, as far as there is room.
    fn send_rest(&self, socket: &Socket, rest: &mut Rest) -> io::Result<()> {
        while let Some(next) = rest.packets.front() {
            if let Err(error) = self.send_text(socket, next) {
                // Who has gone is sent no more.
                if error.kind() != io::ErrorKind::WouldBlock {
                    *rest = Rest::default();
                }
                return Err(error);
            }
            rest.bytes -= next.len();
            rest.has_moved = true;
            rest.packets.pop_front();
        }
        rest.packets = VecDeque::new();
        Ok(())
    }
}

/// Its owner knows it as `Arc<dyn Packets>`; it has to know itself too.
impl Packets for Arc<Outlet> {
    fn try_send(&self, packet: Packet) -> io::Result<()> {
        let socket = self.socket()?;
        let mut rest = self.rest();
        self.send_rest(&socket, &mut rest)?;
        match packet {
            Packet::Binary(whole) => Outlet::send_bundle(&socket, &whole),
            // There was nothing to say.
            Packet::Text(text) if text.is_empty() => Ok(()),
            Packet::Text(text) if !text.contains(&(SEPARATOR as u8)) => {
                self.send_text(&socket, &text)
            }
            Packet::Text(text) => {
                let packets = text.split(|byte| *byte == SEPARATOR as u8);
                rest.packets = packets.map(|packet| text.slice_ref(packet)).collect();
                rest.bytes = rest.packets.iter().map(Bytes::len).sum();
                match self.send_rest(&socket, &mut rest) {
                    // It is taken; what is left is flushed.
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(()),
                    sent => sent,
                }
            }
        }
    }

    fn waiting(&self) -> usize {
        self.rest().bytes
    }

    fn try_flush(&self) -> io::Result<()> {
        let mut rest = self.rest();
        if rest.packets.is_empty() {
            return Ok(());
        }
        self.send_rest(&*self.socket()?, &mut rest)
    }

    fn has_moved(&self) -> bool {
        std::mem::take(&mut self.rest().has_moved)
    }

    fn close(&self) {
        let Ok(socket) = self.socket() else { return };
        if self.is_final.load(Ordering::Acquire) {
            let goodbye = packet::head(Kind::Disconnect, self.namespace.name(), None);
            // Who has no room for it is cut off soon.
            let _ = self.send_text(&socket, &goodbye.into());
            self.handler.dismiss(&socket, self);
        } else {
            self.handler.end(&socket);
        }
    }

    fn cut(&self) {
        if let Ok(socket) = self.socket() {
            Connection::cut(&socket);
        }
    }
}

impl Handler {
    /// A text as the crate wants it. One and the same text goes to many clients,
    /// one after the other.
    fn shared(&self, text: &Bytes) -> io::Result<Str> {
        let copy = || {
            let text = std::str::from_utf8(text).map_err(io::Error::other)?;
            Ok(Str::copy_from_slice(text))
        };
        if text.len() < SHARED_FROM {
            return copy();
        }
        let mut frame = self.frame.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((last, shared)) = &*frame
            && last.as_ptr() == text.as_ptr()
            && last.len() == text.len()
        {
            return Ok(shared.clone());
        }
        let shared = copy()?;
        *frame = Some((text.clone(), shared.clone()));
        Ok(shared)
    }
}

fn refused<T>(error: TrySendError<T>) -> io::Error {
    match error {
        TrySendError::Full(_) => io::ErrorKind::WouldBlock.into(),
        TrySendError::Closed(_) => io::ErrorKind::BrokenPipe.into(),
    }
}
