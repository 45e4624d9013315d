//! The plugin as it runs in the hub: what it says, and its values.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::Value;

use super::event::{Changed, Event};
use super::logs::LogTail;
use super::{AskError, Failure, HubClient, path_of};
use crate::cli::plugin::text::{self, word};

/// How often the values are looked at.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// How long the hub may take to say yes or no to a component: a large one is
/// compiled for ten seconds of two cores.
const VERDICT_WITHIN: Duration = Duration::from_secs(120);
/// How long the first values may take, after that.
const VALUES_WITHIN: Duration = Duration::from_secs(60);
/// How long the hub is asked to wait for a line of the log.
const LINE_WAIT: Duration = Duration::from_secs(20);

/// One plugin in the hub.
pub(super) struct Live {
    name: String,
    log: LogTail,
    values: Values,
}

/// What the hub's log says of a component that was put into its folder.
#[derive(Debug, PartialEq, Eq)]
enum Said {
    Runs,
    Refused,
    SomethingElse,
}

/// By the words that the hub tells the life of a plugin in.
fn said(text: &str) -> Said {
    let begins = |words: [&str; 2]| words.iter().any(|word| text.starts_with(word));
    if begins(["loaded", "reloaded"]) {
        Said::Runs
    } else if begins(["refused", "quarantined"]) {
        Said::Refused
    } else {
        Said::SomethingElse
    }
}

impl Live {
    pub(super) fn new(name: &str) -> Self {
        Self { name: name.to_owned(), log: LogTail::new(name), values: Values::default() }
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Whether the hub runs the component with this hash.
    pub(super) async fn runs(&self, hub: &HubClient, hash: &str) -> Result<bool, Failure> {
        let status = self.status(hub).await?;
        let runs = matches!(status["state"].as_str(), Some("running" | "waiting"));
        Ok(runs && status["component"] == hash && status["reason"].is_null())
    }

    /// What the hub shows of the plugin; nothing if it does not know it.
    async fn status(&self, hub: &HubClient) -> Result<Value, Failure> {
        match hub.get(&path_of(&self.name, "")).await {
            Ok(status) => Ok(status),
            Err(AskError::Refused { status: 404, .. }) => Ok(Value::Null),
            Err(error) => Err(error.into()),
        }
    }

    /// Forgets what was said so far.
    pub(super) async fn skip_log(&mut self, hub: &HubClient) -> Result<(), Failure> {
        lines(&mut self.log, &self.name, hub, Duration::ZERO).await.map(drop)
    }

    /// Waits until the hub runs what was put into its folder, or refuses it.
    ///
    /// # Errors
    ///
    /// It refuses it, or takes too long to say so.
    pub(super) async fn verdict(
        &mut self,
        hub: &HubClient,
        say: impl Fn(Event<'_>),
    ) -> Result<(), Failure> {
        let decided = async {
            loop {
                for line in lines(&mut self.log, &self.name, hub, LOOK_EVERY).await? {
                    say(Event::Log { line: &line });
                    match said(line["text"].as_str().unwrap_or_default()) {
                        Said::Runs => return Ok(()),
                        Said::Refused => {
                            return Err(Failure::new("the hub does not run it; why is above"));
                        }
                        Said::SomethingElse => {}
                    }
                }
            }
        };
        tokio::time::timeout(VERDICT_WITHIN, decided).await.unwrap_or_else(|_| {
            let limit = VERDICT_WITHIN.as_secs();
            Err(Failure::new(format!("the hub has not loaded it within {limit} s")))
        })
    }

    /// Shows the first values of a collector.
    ///
    /// # Errors
    ///
    /// None come.
    pub(super) async fn first_values(
        &mut self,
        hub: &HubClient,
        say: impl Fn(Event<'_>),
    ) -> Result<(), Failure> {
        if self.status(hub).await?["role"] == "detector" {
            return Ok(());
        }
        let shown = async {
            while !self.values.show(hub, &self.name, &say).await? {
                tokio::time::sleep(LOOK_EVERY).await;
            }
            Ok(())
        };
        match tokio::time::timeout(VALUES_WITHIN, shown).await {
            Ok(shown) => shown,
            Err(_) => {
                let status = self.status(hub).await?;
                let (state, reason) = (word(&status["state"]), word(&status["reason"]));
                Err(Failure::new(format!("no values have come: it is {state}, reason {reason}")))
            }
        }
    }

    /// Shows what it says and its values, for good.
    ///
    /// # Errors
    ///
    /// The hub does not answer any more.
    pub(super) async fn show(
        &mut self,
        hub: &HubClient,
        say: impl Fn(Event<'_>),
    ) -> Result<(), Failure> {
        let Self { name, log, values } = self;
        let lines = async {
            loop {
                lines(log, name, hub, LINE_WAIT)
                    .await?
                    .iter()
                    .for_each(|line| say(Event::Log { line }));
            }
        };
        let values = async {
            loop {
                values.show(hub, name, &say).await?;
                tokio::time::sleep(LOOK_EVERY).await;
            }
        };
        tokio::select! {
            ended = lines => ended,
            ended = values => ended,
        }
    }
}

/// The lines that are new. A plugin that the hub does not know, or not any
/// more, may come: its log begins anew.
async fn lines(
    log: &mut LogTail,
    name: &str,
    hub: &HubClient,
    wait: Duration,
) -> Result<Vec<Value>, Failure> {
    match log.lines(hub, wait).await {
        Ok(lines) => Ok(lines),
        Err(AskError::Refused { status: 404, .. }) => {
            *log = LogTail::new(name);
            if !wait.is_zero() {
                tokio::time::sleep(LOOK_EVERY).await;
            }
            Ok(Vec::new())
        }
        Err(error) => Err(error.into()),
    }
}

/// The values that were shown last.
#[derive(Default)]
struct Values {
    shown: BTreeMap<String, Value>,
    tick: Value,
}

impl Values {
    /// Shows the values that are not what they were, if there is another tick.
    /// True if any were.
    async fn show(
        &mut self,
        hub: &HubClient,
        name: &str,
        say: impl Fn(Event<'_>),
    ) -> Result<bool, Failure> {
        let plugin: String = form_urlencoded::byte_serialize(name.as_bytes()).collect();
        let answer = hub.get(&format!("/v1/series?plugin={plugin}")).await?;
        if answer["tick"] == self.tick {
            return Ok(false);
        }
        self.tick = answer["tick"].clone();
        let values = self.changed(&answer);
        let any = !values.is_empty();
        if any {
            say(Event::Values { tick: &self.tick, values });
        }
        Ok(any)
    }

    fn changed(&mut self, answer: &Value) -> Vec<Changed> {
        let series = answer["series"].as_array().map(Vec::as_slice).unwrap_or_default();
        let now: BTreeMap<String, Value> =
            series.iter().map(|series| (text::series(series), series["value"].clone())).collect();
        let new = |(series, value): &(&String, &Value)| self.shown.get(*series) != Some(*value);
        let changed = now
            .iter()
            .filter(new)
            .map(|(series, value)| Changed { series: series.clone(), value: value.clone() });
        let changed = changed.filter(|changed| !changed.value.is_null()).collect();
        self.shown = now;
        changed
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_hubs_words_tell_whether_a_component_runs() {
        for (text, what) in [
            ("loaded, state cold", Said::Runs),
            ("reloaded at tick 7, state restored in 0.1 ms", Said::Runs),
            ("refused: it exports neither", Said::Refused),
            ("quarantined: it panicked", Said::Refused),
            ("a line of the plugin's own", Said::SomethingElse),
        ] {
            assert_eq!(said(text), what, "{text}");
        }
    }

    #[test]
    fn only_values_that_have_changed_are_shown() {
        let mut values = Values::default();
        let answer = |a: Value, b: Value| {
            let labels = json!({"n": "1"});
            json!({"series": [
                {"name": "a", "labels": {}, "value": a}, {"name": "b", "labels": labels, "value": b},
            ]})
        };
        let changed = |series: &str, value: Value| Changed { series: series.to_owned(), value };
        let first = values.changed(&answer(json!(1), Value::Null));
        assert_eq!(first, [changed("a", json!(1))]);
        let second = values.changed(&answer(json!(1), json!(2)));
        assert_eq!(second, [changed("b{n=1}", json!(2))]);
        assert_eq!(values.changed(&answer(json!(1), json!(2))), []);
    }
}
