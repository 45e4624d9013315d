//! Requests by hand, and what comes of them.

use serde_json::Value;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::harness::{Door, Socket, within};

/// The answer to a request, and the connection that it came on.
pub(crate) struct Reply<S = TcpStream> {
    pub(crate) status: u16,
    pub(crate) head: String,
    /// Null where it is no JSON.
    pub(crate) body: Value,
    pub(crate) text: String,
    pub(crate) stream: S,
}

impl<S> Reply<S> {
    /// The error's code.
    pub(crate) fn code(&self) -> &str {
        self.body["error"]["code"].as_str().unwrap_or_default()
    }
}

impl<S> std::fmt::Debug for Reply<S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}", self.head, self.body)
    }
}

/// Sends the head of a request, which lacks its last lines, and reads the
/// answer.
pub(crate) async fn ask(door: &Door, head: &str) -> Reply {
    let stream = within("a connection", TcpStream::connect(door.0)).await.unwrap();
    ask_on(stream, head).await
}

/// The same on a connection that is there.
pub(crate) async fn ask_on<S: AsyncRead + AsyncWrite + Unpin>(
    mut stream: S,
    head: &str,
) -> Reply<S> {
    let asked = async {
        stream.write_all(format!("{head}\r\n\r\n").as_bytes()).await.unwrap();
        let mut text = Vec::new();
        while !text.ends_with(b"\r\n\r\n") {
            text.push(stream.read_u8().await.unwrap());
        }
        let head = String::from_utf8(text).unwrap().to_lowercase();
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
        let mut body = vec![0; length.map_or(0, |length| length.parse().unwrap())];
        stream.read_exact(&mut body).await.unwrap();
        (head, body)
    };
    let (head, body) = within("an answer", asked).await;
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    let text = String::from_utf8_lossy(&body).into_owned();
    Reply { status, head, body: serde_json::from_str(&text).unwrap_or_default(), text, stream }
}

/// The head of a request for a WebSocket; `more` are lines that each end.
pub(crate) fn handshake(host: &str, path: &str, more: &str) -> String {
    format!(
        "GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\n{more}Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA=="
    )
}

/// Asks for a WebSocket.
pub(crate) async fn upgrade(door: &Door, path: &str, more: &str) -> Reply {
    ask(door, &handshake(&door.0.to_string(), path, more)).await
}

/// Opens a WebSocket, or is refused.
pub(crate) async fn open(door: &Door, path: &str, more: &str) -> Result<Socket, Reply> {
    let reply = upgrade(door, path, more).await;
    if reply.status == 101 { Ok(Socket::adopt(reply.stream, Vec::new()).await) } else { Err(reply) }
}
