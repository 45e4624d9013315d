//! A client of the native dialect.

use std::collections::VecDeque;
use std::net::SocketAddr;

use serde_json::{Value, json};

use super::Socket;

/// One client. Pushes that come while it waits for a reply are kept.
pub(crate) struct Native {
    pub(crate) socket: Socket,
    pushes: VecDeque<Value>,
    next_id: u64,
}

impl Native {
    pub(crate) async fn connect(address: SocketAddr) -> Self {
        Self::over(Socket::connect(address, "/v1/stream").await)
    }

    pub(crate) fn over(socket: Socket) -> Self {
        Self { socket, pushes: VecDeque::new(), next_id: 1 }
    }

    /// Sends a command, with an id, and waits for its reply.
    pub(crate) async fn command(&mut self, mut command: Value) -> Value {
        let id = self.next_id;
        self.next_id += 1;
        command["id"] = json!(id);
        self.send(command.to_string()).await;
        let reply = self.reply().await;
        assert_eq!(reply["id"], id, "the reply to another command: {reply}");
        reply
    }

    /// Sends a command that is to be obeyed; what was answered.
    pub(crate) async fn ok(&mut self, command: Value) -> Value {
        let reply = self.command(command.clone()).await;
        assert!(reply.get("ok").is_some(), "{command} was answered {reply}");
        reply["ok"].clone()
    }

    /// Sends a command that is to be refused; the refusal.
    pub(crate) async fn refused(&mut self, command: Value) -> Value {
        let reply = self.command(command.clone()).await;
        assert!(reply.get("error").is_some(), "{command} was answered {reply}");
        reply["error"].clone()
    }

    pub(crate) async fn send(&mut self, text: impl Into<String>) {
        self.socket.send(text).await;
    }

    /// The next message that is no push.
    pub(crate) async fn reply(&mut self) -> Value {
        loop {
            let message = self.message("a reply").await;
            if message.get("push").is_none() {
                return message;
            }
            self.pushes.push_back(message);
        }
    }

    /// Subscribes to a channel, with a filter unless it is null.
    pub(crate) async fn subscribe(&mut self, channel: &str, filter: Value) -> Value {
        let mut command = json!({"op": "subscribe", "channel": channel});
        if !filter.is_null() {
            command["filter"] = filter;
        }
        self.ok(command).await
    }

    /// The next push, of whichever subscription.
    pub(crate) async fn next_push(&mut self) -> Value {
        if let Some(push) = self.pushes.pop_front() {
            return push;
        }
        let message = self.message("a push").await;
        assert!(message.get("push").is_some(), "waited for a push, and got {message}");
        message
    }

    /// The first push that is as it is wanted; those before it are dropped.
    pub(crate) async fn push_until(
        &mut self,
        what: &str,
        wanted: impl Fn(&Value) -> bool,
    ) -> Value {
        let found = async {
            loop {
                let push = self.next_push().await;
                if wanted(&push) {
                    return push;
                }
            }
        };
        super::within(what, found).await
    }

    /// Waits until a push brings an event about a plugin on the hub channel.
    pub(crate) async fn event(&mut self, event: &str, plugin: &str) -> Value {
        let what = format!("the event `{event}` of {plugin}");
        let wanted = |push: &Value| {
            push["push"] == "hub"
                && push["entry"]["event"] == event
                && push["entry"]["plugin"] == plugin
        };
        self.push_until(&what, wanted).await["entry"].clone()
    }

    async fn message(&mut self, what: &str) -> Value {
        let text = self.socket.text(what).await;
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error} in {text}"))
    }
}

/// The value of a series in a push of `metrics`, if it has a new one.
impl Native {
    pub(crate) fn value(push: &Value, id: &Value) -> Option<f64> {
        let list = push["values"].as_array()?;
        list.iter().find(|pair| pair[0] == *id).and_then(|pair| pair[1].as_f64())
    }
}
