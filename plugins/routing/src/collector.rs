//! Series and documents out of what the cache or the database has.

use serde_json::{Map, Value, json};
use telltale_plugin::log::Level;
use telltale_plugin::{Collector, Fault, Metrics, Tick, cache, log};

use crate::cached::{Cached, Found};
use crate::queries::{Database, NAMES_MAX, Unread};
use crate::settings::Settings;
use crate::time::{age_ms, naive};

/// The collector.
#[derive(Debug, Default)]
pub struct Routing {
    settings: Settings,
    database: Database,
    counts: Counts,
    /// How the cache did the last time, in a word.
    cache_was: &'static str,
}

/// How often, since the instance began.
#[derive(Debug, Default)]
struct Counts {
    from_cache: u64,
    from_database: u64,
    invalid: u64,
    unavailable: u64,
    unwritten: u64,
}

impl Collector for Routing {
    type Config = Settings;

    fn configure(&mut self, settings: Settings) -> Result<(), Fault> {
        settings.check()?;
        self.settings = settings;
        Ok(())
    }

    fn collect(&mut self, tick: Tick, metrics: &mut Metrics) -> Result<(), Fault> {
        let cached = Cached::look(&self.settings.key);
        let how = cached.word();
        self.note(&cached);
        let (source, found) = match cached {
            Cached::Hit(found) => ("cache", found),
            other => ("database", self.read(&other, tick.time_ns)?),
        };
        let found = found.stamped(&naive(tick.time_ns));
        let stamp = found.members.get("timestamp").and_then(Value::as_str);
        let age_ms = stamp.and_then(|stamp| age_ms(stamp, tick.time_ns));
        match source {
            "cache" => self.counts.from_cache += 1,
            _ => self.counts.from_database += 1,
        }
        measure(&found.members, metrics);
        if let Some(age_ms) = age_ms {
            let age = metrics.gauge("routing.age").unit("s");
            let age = age.description("How old the figures are");
            age.set(age_ms as f64 / 1e3);
        }
        self.counts.measure(metrics);
        // What was not found has gone.
        metrics.end_unset();
        let told = json!({"source": source, "age_ms": age_ms, "cache": how});
        metrics.document("routing", found.json);
        metrics.document("routing.source", told);
        Ok(())
    }
}

impl Routing {
    /// Counts how the cache did, and tells the log when it begins to do badly.
    fn note(&mut self, cached: &Cached) {
        match cached {
            Cached::Invalid(_) => self.counts.invalid += 1,
            Cached::Unavailable(_) => self.counts.unavailable += 1,
            Cached::Hit(_) | Cached::Miss | Cached::Denied(_) => {}
        }
        let was = std::mem::replace(&mut self.cache_was, cached.word());
        if was != cached.word() && !matches!(cached, Cached::Hit(_) | Cached::Miss) {
            let Settings { key, database, .. } = &self.settings;
            let why = cached.reason();
            log::log(Level::Warn, &format!("the cache's {key:?}: {why}; asking {database:?}"));
        }
    }

    /// Asks the database, and fills the cache again.
    fn read(&mut self, cached: &Cached, now_ns: u64) -> Result<Found, Fault> {
        let Settings { database, key, ttl_s, days } = &self.settings;
        let figures = self.database.figures(database, *days, now_ns);
        let figures = figures.map_err(|unread| both_failed(key, cached, database, &unread))?;
        let json = serde_json::to_vec(&figures).expect("names and numbers are always JSON");
        // One that doesn't answer is not waited for twice.
        let may_be_filled = matches!(cached, Cached::Miss | Cached::Invalid(_));
        if may_be_filled && cache::set(key, &json, ttl_s * 1000).is_err() {
            self.counts.unwritten += 1;
        }
        Ok(Found::read(json).expect("it was an object"))
    }
}

fn both_failed(key: &str, cached: &Cached, database: &str, unread: &Unread) -> Fault {
    let words =
        format!("the cache's {key:?}: {}; database {database:?}: {}", cached.reason(), unread.why);
    // As long as the one may answer some day, there is no need of other settings.
    match (cached, unread.is_denied) {
        (Cached::Denied(_), true) => Fault::config(words),
        _ => Fault::retry(words),
    }
}

impl Counts {
    fn measure(&self, metrics: &mut Metrics) {
        for (name, value, description) in [
            ("routing.source.cache", self.from_cache, "Times that the cache had the figures"),
            ("routing.source.database", self.from_database, "Times that the database had them"),
            ("routing.cache.invalid", self.invalid, "Times that the cache had what is none"),
            ("routing.cache.unavailable", self.unavailable, "Times that it did not answer"),
            ("routing.cache.unwritten", self.unwritten, "Times that it could not be filled"),
        ] {
            let counter = metrics.counter(name).unit("{time}").description(description);
            counter.set(value as f64);
        }
    }
}

/// The series that an object of the application has: as many of them as it has
/// the members for.
fn measure(members: &Map<String, Value>, metrics: &mut Metrics) {
    let total = members.get("total_decisions").and_then(Value::as_f64);
    if let Some(total) = total {
        let all = metrics.gauge("routing.decisions").unit("{decision}");
        all.description("Routing decisions of the last days").set(total);
    }
    // The mean of nothing is none.
    let confidence = members.get("avg_confidence").and_then(Value::as_f64);
    if let Some(confidence) = confidence.filter(|_| total != Some(0.0)) {
        let mean = metrics.gauge("routing.confidence");
        mean.description("How sure the decisions were, 0 to 1").set(confidence);
    }
    measure_strategies(members, metrics);
    for (name, value) in named(members, "provider_usage") {
        if let Some(count) = value.as_f64() {
            let of = metrics.gauge("routing.provider.decisions").unit("{decision}");
            let of = of.description("Decisions for a provider").label("provider", name);
            of.set(count);
        }
    }
    for (name, value) in named(members, "confidence_distribution") {
        if let Some(count) = value.as_f64() {
            let of = metrics.gauge("routing.level.decisions").unit("{decision}");
            let of = of.description("Decisions of a level of confidence").label("level", name);
            of.set(count);
        }
    }
}

fn measure_strategies(members: &Map<String, Value>, metrics: &mut Metrics) {
    let (mut known, mut cost) = (0.0, 0.0);
    for (name, value) in named(members, "strategy_performance") {
        let [count, avg_cost, avg_confidence] =
            ["count", "avg_cost", "avg_confidence"].map(|key| value.get(key)?.as_f64());
        if let Some(count) = count {
            let of = metrics.gauge("routing.strategy.decisions").unit("{decision}");
            let of = of.description("Decisions of a strategy").label("strategy", name);
            of.set(count);
        }
        if let Some(avg_cost) = avg_cost {
            let of = metrics.gauge("routing.strategy.cost").unit("{USD}");
            let of = of.description("What a decision of a strategy is expected to cost");
            of.label("strategy", name).set(avg_cost);
            known += count.unwrap_or(0.0);
            cost += count.unwrap_or(0.0) * avg_cost;
        }
        if let Some(avg_confidence) = avg_confidence {
            let of = metrics.gauge("routing.strategy.confidence");
            let of = of.description("How sure the decisions of a strategy were, 0 to 1");
            of.label("strategy", name).set(avg_confidence);
        }
    }
    if known > 0.0 {
        let mean = metrics.gauge("routing.cost").unit("{USD}");
        mean.description("What a decision is expected to cost on average").set(cost / known);
    }
}

/// The members of a member, as many as are told.
fn named<'a>(
    members: &'a Map<String, Value>,
    of: &str,
) -> impl Iterator<Item = (&'a String, &'a Value)> {
    let named = members.get(of).and_then(Value::as_object);
    named.into_iter().flatten().take(NAMES_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::queries::tests::{NOW_NS, decisions, granted};
    use std::collections::BTreeMap;
    use telltale_plugin::{Batch, Collecting, fake, sql};

    fn collect(collector: &mut Collecting<Routing>, after_s: u64) -> Result<Batch, Fault> {
        collector.collect(Tick { number: 1, time_ns: NOW_NS + after_s * 1_000_000_000 })
    }

    /// A tick so many seconds later: documents that are new, and values.
    fn told(
        collector: &mut Collecting<Routing>,
        after_s: u64,
    ) -> (BTreeMap<String, Value>, BTreeMap<String, f64>) {
        let batch = collect(collector, after_s).unwrap();
        let parsed = |json: &str| serde_json::from_str(json).unwrap();
        let documents = batch.documents.iter().map(|d| (d.name.clone(), parsed(&d.json)));
        (documents.collect(), collector.metrics.values())
    }

    fn put(json: &str) {
        cache::set("metrics:latest", json.as_bytes(), 30_000).unwrap();
    }

    const TWO: [(u32, &str, &str, &str); 2] =
        [(3, "'a'", "'p'", "'high'"), (1, "'b'", "'q'", "'low'")];

    fn with_two() -> std::rc::Rc<rusqlite::Connection> {
        let write = TWO.map(|(count, of, by, sure)| decisions(count, of, by, sure, "0.5"));
        granted(&write.concat())
    }

    #[test]
    fn a_miss_is_read_from_the_database_and_the_cache_filled() {
        with_two();
        let mut collector = Collecting::default();
        let (first, values) = told(&mut collector, 0);
        assert_eq!(
            first["routing.source"],
            json!({"source": "database", "age_ms": 0, "cache": "miss"})
        );
        assert_eq!(first["routing"]["total_decisions"], 4);
        assert_eq!(values["routing.decisions"], 4.0);
        assert_eq!(values["routing.strategy.decisions{strategy=a}"], 3.0);
        assert_eq!(values["routing.provider.decisions{provider=q}"], 1.0);
        assert_eq!(values["routing.level.decisions{level=medium}"], 0.0);
        assert_eq!(values["routing.strategy.confidence{strategy=b}"], 0.4);
        assert_eq!((values["routing.cost"], values["routing.age"]), (0.5, 0.0));
        // The database is not asked again as long as the cache has it.
        fake::sql(|_, _, _| panic!("the cache has it"));
        let (then, values) = told(&mut collector, 12);
        assert_eq!(
            then,
            BTreeMap::from([(
                "routing.source".to_owned(),
                json!({"source": "cache", "age_ms": 12_000, "cache": "hit"})
            )])
        );
        assert_eq!(values["routing.age"], 12.0);
        assert_eq!(values["routing.source.cache"], 1.0);
        assert_eq!(values["routing.source.database"], 1.0);
    }

    #[test]
    fn an_object_of_another_shape_is_told_whole_and_yields_the_series_that_it_has() {
        put(r#"{"hello": [1], "total_decisions": 9, "provider_usage": {"p": "many", "q": 2},
            "strategy_performance": [], "timestamp": 17}"#);
        let mut collector = Collecting::default();
        let (documents, values) = told(&mut collector, 0);
        assert_eq!(documents["routing"]["hello"], json!([1]));
        assert_eq!(documents["routing"]["timestamp"], 17);
        assert_eq!(documents["routing.source"]["age_ms"], Value::Null);
        let of_object: Vec<_> = values.keys().filter(|key| !key.contains("source")).collect();
        assert_eq!(
            of_object,
            [
                "routing.cache.invalid",
                "routing.cache.unavailable",
                "routing.cache.unwritten",
                "routing.decisions",
                "routing.provider.decisions{provider=q}",
            ]
        );
        put(r#"{}"#);
        let batch = collect(&mut collector, 0).unwrap();
        assert_eq!(batch.gone.len(), 2);
        assert!(batch.documents[0].json.contains("2025-11-16T12:34:56.789123"));
    }

    #[test]
    fn bad_json_is_counted_and_replaced_out_of_the_database() {
        with_two();
        put("{\"total_decisions\": 1");
        let mut collector = Collecting::default();
        let (first, values) = told(&mut collector, 0);
        assert_eq!(first["routing.source"]["cache"], "invalid");
        assert_eq!(values["routing.cache.invalid"], 1.0);
        assert_eq!(told(&mut collector, 1).0["routing.source"]["cache"], "hit");
    }

    #[test]
    fn a_cache_that_is_away_leaves_it_to_the_database() {
        with_two();
        let asked = std::rc::Rc::new(std::cell::Cell::new(0));
        let seen = asked.clone();
        fake::cache(move |_| {
            seen.set(seen.get() + 1);
            Err(cache::Error::Unavailable("connection refused".to_owned()))
        });
        let (first, values) = told(&mut Collecting::default(), 0);
        assert_eq!(
            first["routing.source"],
            json!({"source": "database", "age_ms": 0, "cache": "unavailable"})
        );
        assert_eq!(values["routing.cache.unavailable"], 1.0);
        assert_eq!(asked.get(), 1, "one that does not answer is not asked to take something");
        fake::cache(|_| Err(cache::Error::Denied("cache = true".to_owned())));
        assert_eq!(told(&mut Collecting::default(), 0).0["routing.source"]["cache"], "denied");
    }

    #[test]
    fn both_away_is_a_fault_that_says_what_is_wrong_with_each() {
        let away = || sql::Error::Unavailable("no such file".to_owned());
        fake::sql(move |_, _, _| Err(away()));
        fake::cache(|_| Err(cache::Error::Unavailable("connection refused".to_owned())));
        let mut collector = Collecting::default();
        let Err(Fault::Retry(words)) = collect(&mut collector, 0) else { panic!() };
        for part in ["metrics:latest", "connection refused", "\"routing\"", "no such file"] {
            assert!(words.contains(part), "{words}");
        }
        // Both back.
        with_two();
        fake::cache(|_| Ok(()));
        assert_eq!(told(&mut collector, 1).0["routing"]["total_decisions"], 4);
        assert_eq!(told(&mut collector, 2).0["routing.source"]["cache"], "hit");
    }

    #[test]
    fn what_is_not_granted_is_a_matter_of_settings_if_it_is_both() {
        fake::sql(|_, _, _| Err(sql::Error::Denied("sql = …".to_owned())));
        fake::cache(|_| Err(cache::Error::Denied("cache = true".to_owned())));
        let mut collector = Collecting::default();
        let Err(Fault::Config(words)) = collect(&mut collector, 0) else { panic!() };
        assert!(words.contains("sql = …") && words.contains("cache = true"), "{words}");
        // The application may fill the cache yet.
        fake::cache(|_| Ok(()));
        assert!(matches!(collect(&mut collector, 0), Err(Fault::Retry(_))));
        put("{}");
        assert_eq!(told(&mut collector, 0).0["routing.source"]["source"], "cache");
    }

    #[test]
    fn an_empty_database_has_no_mean() {
        granted("");
        let (documents, values) = told(&mut Collecting::default(), 0);
        assert_eq!(documents["routing"]["total_decisions"], 0);
        assert_eq!(values["routing.decisions"], 0.0);
        assert!(!values.contains_key("routing.confidence") && !values.contains_key("routing.cost"));
    }

    #[test]
    fn strange_names_are_bounded_in_labels_and_whole_in_documents() {
        let name = format!("x\n{}", "ä".repeat(200));
        put(&json!({"provider_usage": {&name: 1}}).to_string());
        let (documents, values) = told(&mut Collecting::default(), 0);
        assert_eq!(documents["routing"]["provider_usage"][&name], 1);
        let label = values.keys().find(|key| key.contains("provider=x\u{fffd}")).unwrap();
        assert!(label.len() < 300, "{label}");
    }
}
