//! Clients that take their time, to hold what others need.

use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use super::{counted, ended};
use crate::harness::Hub;

/// How often a slow client sends a byte. What the test waits for is the hub's
/// limit of 10 s, and not this.
const PAUSE: Duration = Duration::from_millis(500);

/// Sends `first`, and then `byte` over and over, until the hub has had enough.
async fn dribble(mut stream: TcpStream, first: String, byte: u8) {
    stream.write_all(first.as_bytes()).await.unwrap();
    let (mut read, mut write) = stream.split();
    let sending = async {
        while write.write_all(&[byte]).await.is_ok() {
            tokio::time::sleep(PAUSE).await;
        }
    };
    let mut rest = Vec::new();
    let reading = tokio::io::AsyncReadExt::read_to_end(&mut read, &mut rest);
    tokio::select! {
        // What the hub says last is of no interest.
        _ = reading => {}
        () = sending => {}
    }
}

#[tokio::test]
async fn no_connection_is_held_by_taking_ones_time() {
    let hub = Hub::new().start().await;
    let host = hub.0;
    let slow = [
        // Nothing at all; a head, a body that never end.
        (String::new(), None),
        (format!("GET / HTTP/1.1\r\nHost: {host}\r\nX-Slow: "), Some(b'x')),
        (
            format!(
                "POST /v1/events HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n\
                 Content-Length: 100000\r\n\r\n"
            ),
            Some(b' '),
        ),
        // A request that was answered, and none that follows.
        (format!("GET /healthz HTTP/1.1\r\nHost: {host}\r\n\r\n"), None),
    ];
    let mut clients = JoinSet::new();
    for (first, byte) in slow {
        let mut stream = TcpStream::connect(hub.0).await.unwrap();
        clients.spawn(async move {
            match byte {
                Some(byte) => dribble(stream, first, byte).await,
                None => {
                    stream.write_all(first.as_bytes()).await.unwrap();
                    ended(&mut stream).await;
                }
            }
        });
    }
    crate::harness::within("the hub to end all of them", async {
        while let Some(ended) = clients.join_next().await {
            ended.unwrap();
        }
    })
    .await;
    counted(&hub, "telltale.session.too_late", 1.0).await;
}
