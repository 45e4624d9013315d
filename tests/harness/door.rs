//! A hub as clients see it: an address.

use std::net::SocketAddr;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::{Native, SkillsClient, Socket, within};

/// Where a hub listens.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Door(pub(crate) SocketAddr);

/// The answer to an HTTP request.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: String,
}

impl Answer {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body)
            .unwrap_or_else(|error| panic!("{error} in the answer {self:?}"))
    }
}

impl Door {
    /// A client of the native dialect.
    pub(crate) async fn native(&self) -> Native {
        Native::connect(self.0).await
    }

    /// A client of the native dialect that shows a token in its handshake.
    pub(crate) async fn native_with(&self, token: &str) -> Native {
        Native::over(Socket::connect_with(self.0, "/v1/stream", token).await)
    }

    /// A client of the skills dialect, before its welcome.
    pub(crate) async fn skills(&self) -> SkillsClient {
        SkillsClient::connect(self.0, "/").await
    }

    /// A client of the skills dialect that has read its welcome.
    pub(crate) async fn welcomed(&self) -> SkillsClient {
        let mut client = self.skills().await;
        assert_eq!(client.next().await["type"], "connected");
        client
    }

    /// Asks for a path.
    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.request(&format!("GET {path} HTTP/1.1\r\nHost: {}", self.0)).await
    }

    /// Asks for something with a token, or without one.
    pub(crate) async fn ask(&self, method: &str, path: &str, token: Option<&str>) -> Answer {
        let token = token.map_or_else(String::new, |t| format!("\r\nAuthorization: Bearer {t}"));
        let head = format!("{method} {path} HTTP/1.1\r\nHost: {}\r\nContent-Length: 0", self.0);
        self.request(&format!("{head}{token}")).await
    }

    /// Asks for something with a token of a hub that may end meanwhile.
    pub(crate) async fn try_ask(&self, method: &str, path: &str, token: &str) -> Option<String> {
        let mut stream = TcpStream::connect(self.0).await.ok()?;
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: {}\r\nContent-Length: 0\r\nAuthorization: Bearer \
             {token}\r\nConnection: close\r\n\r\n",
            self.0
        );
        stream.write_all(head.as_bytes()).await.ok()?;
        let mut text = String::new();
        stream.read_to_string(&mut text).await.ok()?;
        Some(text)
    }

    /// Asks for a path, and wants a plain yes.
    pub(crate) async fn get_json(&self, path: &str) -> Value {
        let answer = self.get(path).await;
        assert_eq!(answer.status, 200, "{path}: {answer:?}");
        answer.json()
    }

    /// Sends the head of a request, which lacks its last lines, and reads all
    /// that comes.
    pub(crate) async fn request(&self, head: &str) -> Answer {
        let asked = async {
            let mut stream = TcpStream::connect(self.0).await.unwrap();
            let head = format!("{head}\r\nConnection: close\r\n\r\n");
            stream.write_all(head.as_bytes()).await.unwrap();
            let mut text = String::new();
            stream.read_to_string(&mut text).await.unwrap();
            text
        };
        let text = within("an answer over HTTP", asked).await;
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
        let status = status.unwrap_or_else(|| panic!("no HTTP answer: {text:?}"));
        Answer { status, head: head.to_owned(), body: body.to_owned() }
    }

    /// What `/v1/plugins` says of a plugin.
    pub(crate) async fn plugin(&self, name: &str) -> Option<Value> {
        let plugins = self.get_json("/v1/plugins").await;
        plugins["plugins"].as_array().unwrap().iter().find(|plugin| plugin["name"] == name).cloned()
    }

    /// A client that gets a push at every tick, and little in it.
    pub(crate) async fn ticks(&self) -> Native {
        let mut client = self.native().await;
        client.subscribe("metrics", json!({"name": "telltale.tick.lateness"})).await;
        client
    }

    /// Looks again after each tick until `look` has found what it looks for.
    pub(crate) async fn until<T>(&self, what: &str, look: impl AsyncFn() -> Option<T>) -> T {
        let mut ticks = self.ticks().await;
        let found = async {
            loop {
                match look().await {
                    Some(found) => return found,
                    None => ticks.next_push().await,
                };
            }
        };
        within(what, found).await
    }

    /// Waits until `/v1/plugins` shows a plugin as it is wanted.
    pub(crate) async fn plugin_until(
        &self,
        name: &str,
        what: &str,
        wanted: impl Fn(&Value) -> bool,
    ) -> Value {
        let what = format!("the plugin {name} to {what}");
        self.until(&what, async || self.plugin(name).await.filter(&wanted)).await
    }

    /// Waits until a plugin is in a state.
    pub(crate) async fn state(&self, name: &str, state: &str) -> Value {
        self.plugin_until(name, &format!("be {state}"), |plugin| plugin["state"] == state).await
    }

    /// The newest values of the series of a name, by what `/v1/series` says.
    pub(crate) async fn series(&self, name: &str) -> Vec<Value> {
        let list = self.get_json("/v1/series").await;
        let series = list["series"].as_array().unwrap().iter();
        series.filter(|series| series["name"] == name).cloned().collect()
    }
}
