//! Plugins that hang, crash, flood and lie: they are stopped with a reason, and
//! nobody else notices.

mod files;
mod rogues;

use std::collections::BTreeMap;

use serde_json::{Value, json};

use self::rogues::{Rogue, refused, rogues};
use crate::harness::{
    Hub, Listener, Manners, Native, Setup, SkillsDatabase, guest, mode, version_of,
};
use crate::native::follows;

/// Ticks after which the hub's memory is looked at.
const CALM_TICKS: usize = 10;
/// What the hub may have more than before, after all rogues are gone: what the
/// allocator keeps for the next.
const MEMORY_KEPT_MAX: u64 = 64 << 20;

/// What a client sees while it watches a steady plugin beside others.
struct Watch {
    client: Native,
    steady: Value,
    lateness: Value,
    tick: u64,
    ticks: usize,
    late: usize,
    latenesses_s: Vec<f64>,
}

impl Watch {
    async fn start(hub: &Hub) -> Self {
        let mut client = hub.native().await;
        let filter = json!({"name": "{steady.value,telltale.tick.lateness}"});
        let ok = client.subscribe("metrics", filter).await;
        let id_of = |name: &str| {
            let mut series = ok["snapshot"]["series"].as_array().unwrap().iter();
            series.find(|series| series["name"] == name).unwrap()["id"].clone()
        };
        let (steady, lateness) = (id_of("steady.value"), id_of("telltale.tick.lateness"));
        let tick = ok["snapshot"]["tick"].as_u64().unwrap();
        let (ticks, late, latenesses_s) = (0, 0, Vec::new());
        Self { client, steady, lateness, tick, ticks, late, latenesses_s }
    }

    /// The next tick: it follows the one before, and nothing but a busy machine
    /// keeps the steady plugin's value away.
    async fn tick(&mut self) {
        let push = self.client.next_push().await;
        self.tick = follows(self.tick, &push);
        self.ticks += 1;
        self.latenesses_s.extend(Native::value(&push, &self.lateness));
        if Native::value(&push, &self.steady).is_none() {
            self.late += 1;
            for stale in push["stale"].as_array().into_iter().flatten() {
                assert_eq!(stale["code"], "late", "{push}");
            }
        }
    }

    fn report(mut self, what: &str) {
        self.latenesses_s.sort_by(f64::total_cmp);
        let at =
            |share: usize| self.latenesses_s[(self.latenesses_s.len() - 1) * share / 100] * 1e3;
        println!(
            "{what}: {} ticks, {} late answers, lateness p50 {:.3} ms, p99 {:.3} ms, max {:.3} ms",
            self.ticks,
            self.late,
            at(50),
            at(99),
            at(100)
        );
        assert!(self.late * 5 <= self.ticks, "{} of {} answers were late", self.late, self.ticks);
    }
}

/// A hub with a steady plugin, and one of each guest that runs already.
fn peaceful() -> Setup {
    Hub::new()
        .tick_ms(200)
        .plugin("steady", "guest_collector", "[config]\nname = \"steady.value\"\n")
        .plugin("calm", "guest_detector", "series = [\"calm.*\"]\n")
        .plugin("keeper", "guest_keeper", "")
}

fn let_in(hub: &Hub, rogues: &[Rogue]) {
    for rogue in rogues {
        hub.settings(&rogue.name, &rogue.settings);
        hub.drop_in(&rogue.name, &guest(rogue.guest));
    }
}

#[tokio::test]
async fn each_way_to_misbehave_ends_with_its_reason_and_no_neighbour_notices() {
    let hub = peaceful().start().await;
    let mut watch = Watch::start(&hub).await;
    for _ in 0..CALM_TICKS {
        watch.tick().await;
    }
    let before = hub.program.resident_bytes();
    let mut peak = before;

    let rogues: Vec<Rogue> = rogues().into_iter().chain(refused()).collect();
    let_in(&hub, &rogues);
    let mut faults = BTreeMap::new();
    while faults.len() < rogues.len() {
        watch.tick().await;
        peak = peak.max(hub.program.resident_bytes());
        let plugins = hub.get_json("/v1/plugins").await;
        for plugin in plugins["plugins"].as_array().unwrap() {
            let refused =
                if plugin["state"] == "refused" { &plugin["reason"] } else { &Value::Null };
            let fault = plugin["last_fault"].as_str().or(refused.as_str());
            if let Some(fault) = fault {
                faults.insert(plugin["name"].as_str().unwrap().to_owned(), fault.to_owned());
            }
        }
        let waiting = rogues.iter().filter(|rogue| !faults.contains_key(&rogue.name));
        let waiting: Vec<&str> = waiting.map(|rogue| &*rogue.name).collect();
        assert!(watch.ticks < 300, "these have not failed: {waiting:?}");
    }
    for Rogue { name, words, .. } in &rogues {
        assert!(faults[name].contains(words), "{name}: {}", faults[name]);
    }
    assert_eq!(faults.len(), rogues.len(), "a neighbour failed: {faults:?}");

    for rogue in &rogues {
        hub.remove(&rogue.name);
    }
    hub.until("all of them to be gone", async || {
        let plugins = hub.get_json("/v1/plugins").await;
        (plugins["plugins"].as_array()?.len() == 3).then_some(())
    })
    .await;
    for _ in 0..CALM_TICKS {
        watch.tick().await;
    }
    let after = hub.program.resident_bytes();
    watch.report(&format!("{} rogues", rogues.len()));
    let [before_mib, peak_mib, after_mib] = [before, peak, after].map(|bytes| bytes >> 20);
    println!("memory: {before_mib} MiB before, {peak_mib} at most, {after_mib} after");
    assert!(after <= before + MEMORY_KEPT_MAX, "{before_mib} MiB, then {after_mib}");
}

#[tokio::test]
async fn a_state_that_is_refused_in_a_bad_way_leaves_the_old_instance_running() {
    let hub = Hub::new().start().await;
    let mut client = hub.native().await;
    client.subscribe("hub", Value::Null).await;
    let ways = [
        ("restore-spin", "it computed for more than 1000 ms in `restore`, which no setting"),
        ("restore-panic", "it panicked"),
        ("restore-wait", "it waited for more than 300 ms (limit `io_ms`)"),
        ("version-spin", "it computed for more than 1000 ms in `version`, which no setting"),
    ];
    for (way, _) in ways {
        hub.settings(way, "[limits]\nio_ms = 300\n");
        hub.drop_in(way, &guest("guest_keeper"));
        hub.state(way, "running").await;
    }
    for (way, words) in ways {
        // The one that runs saves before it hears of its new ways.
        hub.settings(way, &format!("{}[limits]\nio_ms = 300\n", mode(way)));
        if way != "version-spin" {
            client.event("reconfigured", way).await;
        }
        hub.drop_in(way, &version_of(&guest("guest_keeper"), 1));
        let event = client.event("refused", way).await;
        assert!(event["reason"].as_str().unwrap().contains(words), "{way}: {event}");
        let plugin = hub.state(way, "running").await;
        assert!(plugin["reason"].as_str().unwrap().contains(words), "{way}: {plugin}");
    }
}

#[tokio::test]
async fn what_is_over_a_limit_is_left_out_counted_and_told_and_the_rest_goes_on() {
    let plugins = [
        (
            "many",
            "guest_collector",
            "[config]\nseries = 25\n[limits]\nseries = 10\n",
            "series",
            "series",
        ),
        (
            "bulky",
            "guest_collector",
            "[config]\nmode = \"document\"\nsize = 262145\n",
            "document_kib",
            "documents",
        ),
        ("chatty", "guest_collector", "[config]\nmode = \"log-flood\"\n", "log_lines", "log_lines"),
        ("loud", "guest_collector", "[config]\nmode = \"print-flood\"\n", "log_lines", "log_lines"),
        (
            "alarmed",
            "guest_detector",
            "series = [\"guest.*\"]\n[config]\nmode = \"flood\"\n",
            "findings",
            "findings",
        ),
    ];
    let hub = Hub::new().start().await;
    for (name, of, settings, limit, what) in plugins {
        let mut client = hub.native().await;
        client.subscribe("hub", Value::Null).await;
        hub.settings(name, settings);
        hub.drop_in(name, &guest(of));
        let event = client.event("limited", name).await;
        assert_eq!(event["limit"], limit, "{event}");
        let words = format!("(limit `{limit}`)");
        assert!(event["reason"].as_str().unwrap().contains(&words), "{event}");
        let counted = |plugin: &Value| plugin["refused"][what].as_u64().unwrap() > 0;
        let plugin = hub.plugin_until(name, "have its excess counted", counted).await;
        assert_eq!((&plugin["state"], &plugin["faults"]), (&json!("running"), &json!(0)));
    }
    let many = hub.plugin("many").await.unwrap();
    assert_eq!((&many["series"], &many["refused"]["series"]), (&json!(10), &json!(15)));
    let overflow = hub.until("the series of those that are not shown", async || {
        hub.series("telltale.overflow").await.pop().filter(|series| series["value"].is_number())
    });
    let overflow = overflow.await;
    assert_eq!((&overflow["plugin"], &overflow["value"]), (&json!("many"), &json!(15.0)));
    let fresh = hub.series("guest.value").await;
    assert_eq!(fresh.iter().filter(|series| series["plugin"] == "many").count(), 10);
    let lines = hub.program.stderr().lines().filter(|line| line.contains("line 9999")).count();
    assert_eq!(lines, 0);
}

#[tokio::test]
async fn what_is_at_its_limit_is_taken_whole() {
    let hub = Hub::new()
        .plugin("ten", "guest_collector", "[config]\nseries = 10\n[limits]\nseries = 10\n")
        .plugin("bulky", "guest_collector", "[config]\nmode = \"document\"\nsize = 262144\n")
        .plugin(
            "keeper",
            "guest_keeper",
            "save = \"1s\"\n[config]\nsize = 1_048_576\n[limits]\nstate_mib = 1\n",
        )
        .start()
        .await;
    let saved = |plugin: &Value| plugin["state_bytes"] == 1_048_576;
    hub.plugin_until("keeper", "save its state", saved).await;
    for name in ["ten", "bulky", "keeper"] {
        let plugin = hub.plugin(name).await.unwrap();
        assert_eq!((&plugin["state"], &plugin["faults"]), (&json!("running"), &json!(0)));
        let refused = plugin["refused"].as_object().unwrap();
        assert!(refused.values().all(|count| *count == 0), "{plugin}");
    }
    assert_eq!(hub.plugin("ten").await.unwrap()["series"], 10);
}

#[tokio::test]
async fn a_server_that_never_answers_or_never_ends_holds_nobody_up() {
    let silent = Listener::start(Manners::Silent).await;
    let endless = Listener::start(Manners::Endless).await;
    let settings = |way: &str, address| {
        let path = format!("path = \"http://{address}/\"\n");
        format!("{}{path}[grant]\nhttp = [\"{address}\"]\n[limits]\nio_ms = 300\n", mode(way))
    };
    let hub = peaceful()
        .plugin("hung", "guest_collector", &settings("fetch", silent.address))
        .plugin("stubborn", "guest_collector", &settings("fetch-for-ever", silent.address))
        .plugin("drowned", "guest_collector", &settings("fetch", endless.address))
        .plugin("thirsty", "guest_collector", &settings("fetch-for-ever", endless.address))
        .start()
        .await;
    let mut watch = Watch::start(&hub).await;
    let hung = hub.state("hung", "waiting").await;
    assert_eq!((&hung["reason"], &hung["faults"]), (&json!("fetch: Error::Timeout"), &json!(0)));
    for name in ["stubborn", "thirsty"] {
        let failed = |plugin: &Value| plugin["last_fault"].is_string();
        let fault = hub.plugin_until(name, "fail", failed).await["last_fault"].clone();
        // Whichever of its budgets is used up first.
        let words = ["it waited for more than 300 ms (limit `io_ms`)", "(limit `collect_ms`)"];
        assert!(words.iter().any(|words| fault.as_str().unwrap().contains(words)), "{fault}");
    }
    let mut client = hub.native().await;
    let fetched = json!({"status": 200, "bytes": 1 << 20, "truncated": true});
    let documents = client.subscribe("documents", Value::Null).await;
    let documents = documents["snapshot"]["documents"].as_array().unwrap().clone();
    assert_eq!(documents.len(), 1, "{documents:?}");
    assert_eq!((&documents[0]["plugin"], &documents[0]["data"]), (&json!("drowned"), &fetched));
    for _ in 0..CALM_TICKS {
        watch.tick().await;
    }
    watch.report("servers that are no good");
}

#[tokio::test]
async fn a_query_that_never_ends_is_given_up() {
    let statement = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) \
                     SELECT count(*) FROM n";
    let setup = peaceful();
    let database = setup.path().join("some.db");
    SkillsDatabase::create(&database);
    let settings = |way: &str| {
        let grant = format!("[grant]\nsql = {{ db = {database:?} }}\n[limits]\nio_ms = 300\n");
        format!("{}statement = {statement:?}\n{grant}", mode(way))
    };
    let hub = setup
        .plugin("once", "guest_collector", &settings("query"))
        .plugin("always", "guest_collector", &settings("query-for-ever"))
        .start()
        .await;
    let mut watch = Watch::start(&hub).await;
    assert_eq!(hub.state("once", "waiting").await["reason"], "Error::Timeout");
    let failed = |plugin: &Value| plugin["last_fault"].is_string();
    let always = hub.plugin_until("always", "fail", failed).await;
    assert_eq!(always["last_fault"], "it waited for more than 300 ms (limit `io_ms`)");
    for _ in 0..CALM_TICKS {
        watch.tick().await;
    }
    watch.report("queries that never end");
}

#[tokio::test]
async fn a_plugin_that_calls_the_host_for_ever_is_stopped_at_its_limit() {
    let settings = format!("{}[limits]\nio_ms = 300\n", mode("call-for-ever"));
    let hub = Hub::new().plugin("calls", "guest_collector", &settings).start().await;
    let failed = |plugin: &Value| plugin["last_fault"].is_string();
    let plugin = hub.plugin_until("calls", "fail", failed).await;
    let fault = plugin["last_fault"].as_str().unwrap();
    // Whichever of its budgets is used up first.
    assert!(fault.contains("(limit `io_ms`)") || fault.contains("(limit `collect_ms`)"), "{fault}");
}

#[tokio::test]
async fn a_plugin_that_says_why_it_has_nothing_is_waited_for() {
    let hub = Hub::new()
        .plugin("retry", "guest_collector", &mode("retry"))
        .plugin("config", "guest_collector", &mode("config"))
        .start()
        .await;
    let retry = hub.state("retry", "waiting").await;
    assert_eq!((&retry["reason"], &retry["faults"]), (&json!("the thing is not there"), &json!(0)));
    let config = hub.state("config", "waiting").await;
    assert_eq!(config["reason"], "`thing` is missing under [config]");
    for name in ["retry", "config"] {
        hub.settings(name, &mode("steady"));
        let plugin = hub.state(name, "running").await;
        assert_eq!(plugin["reason"], Value::Null);
    }
}

#[tokio::test]
async fn a_configure_that_fails_is_a_refusal_with_its_reason() {
    let hub = Hub::new().plugin("bad", "guest_collector", &mode("configure-panic")).start().await;
    let plugin = hub.state("bad", "refused").await;
    assert!(plugin["reason"].as_str().unwrap().starts_with("it panicked"), "{plugin}");
    hub.until("its last words in the log", async || {
        hub.program.stderr().contains("asked to panic in configure").then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_value_that_is_not_finite_is_absent_and_counted() {
    let hub = Hub::new()
        .plugin("nan", "guest_collector", "[config]\nmode = \"nan\"\nseries = 2\n")
        .start()
        .await;
    let series = hub.series("guest.value").await;
    let by_n = |n: &str| series.iter().find(|series| series["labels"]["n"] == n).unwrap();
    assert_eq!(
        (&by_n("0")["value"], &by_n("0")["stale"]["code"]),
        (&Value::Null, &json!("not_finite"))
    );
    assert!(by_n("1")["value"].is_number() && by_n("1").get("stale").is_none(), "{series:?}");
    hub.until("it to be counted", async || {
        let counted = hub.series("telltale.tick.not_finite").await;
        counted.first()?["value"].as_f64().filter(|rate| *rate > 0.0)
    })
    .await;
    assert_eq!(hub.plugin("nan").await.unwrap()["state"], "running");
}

#[tokio::test]
async fn a_plugin_that_is_slow_is_late_and_no_fault() {
    let hub = Hub::new().plugin("slow", "guest_collector", &mode("slow")).start().await;
    let mut client = hub.native().await;
    client.subscribe("metrics", json!({"name": "guest.*"})).await;
    let mut values = 0;
    while values < 5 {
        values += client.next_push().await["values"].as_array().unwrap().len();
    }
    let plugin = hub.plugin("slow").await.unwrap();
    assert_eq!((&plugin["state"], &plugin["faults"]), (&json!("running"), &json!(0)));
}

#[tokio::test]
async fn a_plugin_that_fails_once_comes_back_and_its_series_say_what_was() {
    let hub = Hub::new().start().await;
    let mut client = hub.native().await;
    client.subscribe("metrics", json!({"name": "guest.*"})).await;
    client.subscribe("hub", Value::Null).await;
    hub.settings("shaky", &mode("panic-at-3"));
    hub.drop_in("shaky", &guest("guest_collector"));
    let stale = client.push_until("stale series", |push| push["stale"].is_array()).await["stale"]
        [0]
    .clone();
    assert_eq!(stale["code"], "restarting");
    assert!(stale["reason"].as_str().unwrap().starts_with("it panicked"), "{stale}");
    assert!(stale["since"].is_string(), "{stale}");
    let healed = |push: &Value| Native::value(push, &stale["id"]).is_some();
    client.push_until("a value after the restart", healed).await;
}

#[tokio::test]
async fn five_faults_are_a_quarantine_that_other_settings_or_another_file_end() {
    let hub = Hub::new().start().await;
    let mut client = hub.native().await;
    client.subscribe("hub", Value::Null).await;
    hub.settings("bad", &mode("panic"));
    hub.drop_in("bad", &guest("guest_collector"));
    for pause_ms in [200, 400, 800, 1600] {
        let event = client.event("failed", "bad").await;
        assert_eq!(event["restart_after_ms"], pause_ms, "{event}");
    }
    let event = client.event("quarantined", "bad").await;
    assert!(event["reason"].as_str().unwrap().contains("failed 5 times in 10 minutes"), "{event}");
    let plugin = hub.state("bad", "quarantined").await;
    assert_eq!(plugin["faults"], 5);
    assert!(plugin["reason"].as_str().unwrap().contains("another file"), "{plugin}");
    // Another file, that is no better, gets its five.
    hub.drop_in("bad", &version_of(&guest("guest_collector"), 1));
    client.event("reloaded", "bad").await;
    client.event("failed", "bad").await;
    hub.settings("bad", &mode("steady"));
    client.event("reconfigured", "bad").await;
    let plugin = hub.state("bad", "running").await;
    assert_eq!(plugin["reason"], Value::Null);
    hub.until("its series", async || hub.series("guest.value").await.pop()).await;
}

#[tokio::test]
async fn a_detector_that_misbehaves_keeps_no_other_from_judging() {
    let hub = Hub::new()
        .plugin("pulse", "guest_collector", &mode("pulse"))
        .plugin("honest", "guest_detector", "series = [\"guest.*\"]\n[config]\nlimit = 50.0\n")
        .plugin("panic", "guest_detector", &mode("panic"))
        .plugin("spin", "guest_detector", &mode("spin"))
        .start_listening()
        .await;
    let mut client = hub.native().await;
    client.subscribe("findings", Value::Null).await;
    let push = client.push_until("a finding", |push| push["entry"]["state"] == "open").await;
    assert_eq!(push["entry"]["detector"], "honest");
}
