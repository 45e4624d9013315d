//! A WebSocket client that says what it waited for.

use std::net::SocketAddr;

use futures_util::{SinkExt, StreamExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::{Message, protocol::Role};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, client_async, connect_async};

use super::within;

/// One connection.
#[derive(Debug)]
pub(crate) struct Socket(WebSocketStream<MaybeTlsStream<TcpStream>>);

/// What came in.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Heard {
    Text(String),
    /// The hub has closed, with this code and reason.
    Close(u16, String),
    /// The connection has broken.
    Gone,
}

impl Socket {
    pub(crate) async fn connect(address: SocketAddr, path: &str) -> Self {
        let url = format!("ws://{address}{path}");
        let (socket, _) = within("a WebSocket", connect_async(&url)).await.unwrap();
        Self(socket)
    }

    /// A connection whose handshake shows a token.
    pub(crate) async fn connect_with(address: SocketAddr, path: &str, token: &str) -> Self {
        let mut request = format!("ws://{address}{path}").into_client_request().unwrap();
        let value = format!("Bearer {token}").parse().unwrap();
        request.headers_mut().insert("authorization", value);
        let (socket, _) = within("a WebSocket", connect_async(request)).await.unwrap();
        Self(socket)
    }

    /// A connection whose handshake has a cookie.
    pub(crate) async fn connect_with_cookie(address: SocketAddr, path: &str, cookie: &str) -> Self {
        let mut request = format!("ws://{address}{path}").into_client_request().unwrap();
        request.headers_mut().insert("cookie", cookie.parse().unwrap());
        let (socket, _) = within("a WebSocket", connect_async(request)).await.unwrap();
        Self(socket)
    }

    /// A connection that holds little of what is sent to it and not read.
    pub(crate) async fn connect_with_little_room(address: SocketAddr, path: &str) -> Self {
        let tcp = TcpSocket::new_v4().unwrap();
        // With less the system drops what comes, and sends it again only after
        // ever longer pauses, so that who reads again has to wait.
        tcp.set_recv_buffer_size(32 * 1024).unwrap();
        let stream = within("a connection", tcp.connect(address)).await.unwrap();
        let url = format!("ws://{address}{path}");
        let handshake = client_async(&url, MaybeTlsStream::Plain(stream));
        let (socket, _) = within("a WebSocket", handshake).await.unwrap();
        Self(socket)
    }

    /// A connection whose handshake was made by hand.
    pub(crate) async fn adopt(stream: TcpStream, read_already: Vec<u8>) -> Self {
        let stream = MaybeTlsStream::Plain(stream);
        Self(WebSocketStream::from_partially_read(stream, read_already, Role::Client, None).await)
    }

    pub(crate) async fn send(&mut self, text: impl Into<String>) {
        self.put(Message::Text(text.into().into())).await;
    }

    pub(crate) async fn send_binary(&mut self, bytes: &[u8]) {
        self.put(Message::Binary(bytes.to_vec().into())).await;
    }

    pub(crate) async fn close(&mut self) {
        within("the connection to close", self.0.close(None)).await.unwrap();
        within("the hub's goodbye", async { while let Some(Ok(_)) = self.0.next().await {} }).await;
    }

    /// Sends messages in as few packets as they fit in.
    pub(crate) async fn send_all(&mut self, messages: impl IntoIterator<Item = Message>) {
        let fed = async {
            for message in messages {
                self.0.feed(message).await.unwrap();
            }
            self.0.flush().await.unwrap();
        };
        within("messages to be sent", fed).await;
    }

    async fn put(&mut self, message: Message) {
        within("a message to be sent", self.0.send(message)).await.unwrap();
    }

    pub(crate) async fn hear(&mut self, what: &str) -> Heard {
        let heard = async {
            loop {
                return match self.0.next().await {
                    Some(Ok(Message::Text(text))) => Heard::Text(text.to_string()),
                    Some(Ok(Message::Close(Some(frame)))) => {
                        Heard::Close(frame.code.into(), frame.reason.to_string())
                    }
                    Some(Ok(Message::Close(None))) => Heard::Close(1005, String::new()),
                    Some(Ok(_)) => continue,
                    Some(Err(_)) | None => Heard::Gone,
                };
            }
        };
        within(what, heard).await
    }

    /// The next text; anything else is not what was waited for.
    pub(crate) async fn text(&mut self, what: &str) -> String {
        match self.hear(what).await {
            Heard::Text(text) => text,
            other => panic!("waited for {what}, and got {other:?}"),
        }
    }

    /// The close code and reason, after whatever else comes.
    pub(crate) async fn closed(&mut self) -> (u16, String) {
        loop {
            match self.hear("the hub to close the connection").await {
                Heard::Text(_) => {}
                Heard::Close(code, reason) => return (code, reason),
                Heard::Gone => panic!("the connection broke without a close frame"),
            }
        }
    }
}
