//! A client's side of the wire: the handshake, and frames to a server.

use std::io;
use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};

/// The longest head of an answer to the handshake; a hub's has 200 bytes.
const HEAD_BYTES_MAX: usize = 16 * 1024;
/// The key of the RFC's own example, and what a server answers to it.
const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

pub(super) const TEXT: u8 = 0x1;
pub(super) const PONG: u8 = 0xa;
/// What a server that was given up for broken is said to have closed with.
pub(super) const PROTOCOL_ERROR: u16 = 1002;

/// Where to connect, and as whom.
#[derive(Clone, Debug)]
pub(super) struct Door {
    pub(super) address: SocketAddr,
    /// What all clients and publishers show.
    pub(super) token: Option<String>,
}

impl Door {
    /// Connects, and shakes hands for a WebSocket at `path`. What has come with
    /// the answer is the connection's first bytes.
    ///
    /// # Errors
    ///
    /// In words: the hub doesn't want it.
    pub(super) async fn open(
        &self,
        path: &str,
        receive_buffer: Option<u32>,
    ) -> Result<(TcpStream, Vec<u8>), String> {
        let words = |error: io::Error| error.to_string();
        let mut stream = self.connect(receive_buffer).await.map_err(words)?;
        let token = self.token.as_ref();
        let token = token.map_or_else(String::new, |t| format!("Authorization: Bearer {t}\r\n"));
        let request = format!(
            "GET {path} HTTP/1.1\r\nHost: {}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {KEY}\r\n{token}\r\n",
            self.address
        );
        stream.write_all(request.as_bytes()).await.map_err(words)?;
        let mut read = Vec::new();
        let head_ends = loop {
            if let Some(at) = read.windows(4).position(|window| window == b"\r\n\r\n") {
                break at + 4;
            }
            if read.len() > HEAD_BYTES_MAX {
                return Err("the answer to the handshake does not end".to_owned());
            }
            if stream.read_buf(&mut read).await.map_err(words)? == 0 {
                let words = "closed before the handshake (limits.connections of the hub?)";
                return Err(words.to_owned());
            }
        };
        let first = read.split_off(head_ends);
        shaken(&String::from_utf8_lossy(&read))?;
        Ok((stream, first))
    }

    async fn connect(&self, receive_buffer: Option<u32>) -> io::Result<TcpStream> {
        let socket =
            if self.address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
        if let Some(bytes) = receive_buffer {
            socket.set_recv_buffer_size(bytes)?;
        }
        let stream = socket.connect(self.address).await?;
        stream.set_nodelay(true)?;
        // Its end is abrupt, and leaves no port behind that waits for a minute:
        // thousands that come and go would use them all up.
        stream.set_zero_linger()?;
        Ok(stream)
    }
}

/// Whether an answer to the handshake makes a WebSocket.
fn shaken(head: &str) -> Result<(), String> {
    let status = head.lines().next().unwrap_or_default();
    if !status.starts_with("HTTP/1.1 101") {
        return Err(format!("answered {:?}", status.chars().take(60).collect::<String>()));
    }
    if !head.contains(ACCEPT) {
        return Err("the answer to the handshake is not that of a WebSocket".to_owned());
    }
    Ok(())
}

/// Puts a frame behind what is still to be sent, masked as a client's must be.
pub(super) fn put_frame(out: &mut Vec<u8>, opcode: u8, payload: &[u8]) {
    // Masks guard against middlemen, of which loopback has none.
    let mask = getrandom::u32().unwrap_or_default().to_ne_bytes();
    out.push(0x80 | opcode);
    match (u8::try_from(payload.len()), u16::try_from(payload.len())) {
        (Ok(short @ ..=125), _) => out.push(0x80 | short),
        (_, Ok(length)) => {
            out.push(0x80 | 126);
            out.extend_from_slice(&length.to_be_bytes());
        }
        _ => {
            out.push(0x80 | 127);
            out.extend_from_slice(&(payload.len() as u64).to_be_bytes());
        }
    }
    out.extend_from_slice(&mask);
    out.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
}
