//! A client of the skills dialect, and transcripts of what it says and hears.

use std::net::SocketAddr;

use serde_json::Value;

use super::Socket;

/// One client.
pub(crate) struct SkillsClient {
    pub(crate) socket: Socket,
}

impl SkillsClient {
    pub(crate) async fn connect(address: SocketAddr, path: &str) -> Self {
        Self { socket: Socket::connect(address, path).await }
    }

    pub(crate) async fn send(&mut self, text: &str) {
        self.socket.send(text).await;
    }

    /// The next message.
    pub(crate) async fn next(&mut self) -> Value {
        let text = self.socket.text("a message of the skills dialect").await;
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error} in {text}"))
    }

    /// The next message that is no update.
    pub(crate) async fn answer(&mut self) -> Value {
        loop {
            let message = self.next().await;
            if message["type"] != "metrics_update" {
                return message;
            }
        }
    }

    /// The `data` of the next update; nothing else may come.
    pub(crate) async fn update(&mut self) -> Value {
        let message = self.next().await;
        assert_eq!(message["type"], "metrics_update", "{message}");
        message["data"].clone()
    }

    /// The `data` of the first update that is as it is wanted.
    pub(crate) async fn update_until(
        &mut self,
        what: &str,
        wanted: impl Fn(&Value) -> bool,
    ) -> Value {
        let found = async {
            loop {
                let data = self.update().await;
                if wanted(&data) {
                    return data;
                }
            }
        };
        super::within(what, found).await
    }

    /// Waits for an update that has these skills, in this order.
    pub(crate) async fn skills_are(&mut self, names: &[&str]) -> Value {
        let what = format!("an update with the skills {names:?}");
        self.update_until(&what, |data| skills(data) == names).await
    }

    /// Plays a transcript: `> ` is said, `# ` is said as a binary message, `< `
    /// is what comes next, and `...` allows for updates before that. `TIME` is
    /// a time in ISO 8601 with an offset. Lines without a mark are for readers.
    pub(crate) async fn play(&mut self, transcript: &str) {
        let mut updates_allowed = false;
        for line in transcript.lines() {
            if let Some(said) = line.strip_prefix("> ") {
                self.send(said).await;
            } else if let Some(said) = line.strip_prefix("# ") {
                self.socket.send_binary(said.as_bytes()).await;
            } else if line == "..." {
                updates_allowed = true;
            } else if let Some(wanted) = line.strip_prefix("< ") {
                let wanted: Value = serde_json::from_str(wanted).unwrap();
                let heard = if std::mem::take(&mut updates_allowed) {
                    self.answer().await
                } else {
                    self.next().await
                };
                assert!(is_like(&heard, &wanted), "wanted {wanted}\n   got {heard}");
            }
        }
    }
}

/// The names in `top_skills`.
pub(crate) fn skills(data: &Value) -> Vec<&str> {
    let rows = data["top_skills"].as_array().unwrap();
    rows.iter().map(|row| row["skill_name"].as_str().unwrap()).collect()
}

/// Whether two messages are the same but for times, which only have to be some.
fn is_like(heard: &Value, wanted: &Value) -> bool {
    match (heard, wanted) {
        (Value::String(heard), Value::String(wanted)) if wanted == "TIME" => is_time(heard),
        (Value::Object(heard), Value::Object(wanted)) => {
            heard.len() == wanted.len()
                && wanted
                    .iter()
                    .all(|(key, wanted)| heard.get(key).is_some_and(|heard| is_like(heard, wanted)))
        }
        (Value::Array(heard), Value::Array(wanted)) => {
            heard.len() == wanted.len()
                && heard.iter().zip(wanted).all(|(heard, wanted)| is_like(heard, wanted))
        }
        _ => heard == wanted,
    }
}

/// Whether Python's `datetime.fromisoformat` would read it as a time of UTC.
fn is_time(text: &str) -> bool {
    text.ends_with("+00:00") && text.parse::<jiff::Timestamp>().is_ok()
}
