//! A collector that does what its settings say: measure steadily, or one of the
//! many things that a plugin should not do.
#![cfg(target_arch = "wasm32")]

use std::cell::RefCell;
use std::collections::BTreeMap;

use serde::Deserialize;

#[allow(missing_docs, unsafe_code, unreachable_pub, clippy::all, reason = "generated code")]
mod bindings {
    use super::Component;

    wit_bindgen::generate!({ path: "../../../wit", world: "collector" });
    export!(Component);
}

use bindings::exports::telltale::plugin::collect::{
    Batch, Declaration, Fault, Guest, Series, Tick,
};
use bindings::telltale::plugin::types::{Document, Kind, Label};
use bindings::telltale::plugin::{cache, disk, events, http, log, sql};

/// `[config]`
#[derive(Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Settings {
    /// What to do; see [`act`].
    mode: String,
    /// How many series.
    series: u32,
    /// Gauges, unless it says `counter`.
    kind: String,
    /// What its series are called.
    name: String,
    /// What they are measured in.
    unit: String,
    /// For modes that need one.
    path: String,
    /// For modes that need one.
    statement: String,
    /// For modes that need one.
    url: String,
    /// For modes that make much of something: how much.
    size: usize,
    /// What it measures in the mode `script`, over and over: the first at ticks
    /// whose number is divided by how many there are.
    values: Vec<f64>,
    /// What it publishes at each call, in the mode `publish`.
    events: Vec<Event>,
    /// How many of its calls it publishes in; all of them where it is 0.
    calls: u64,
}

/// An event to publish. `{n}` in its data and its key is how many were tried
/// before it.
#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Event {
    #[serde(rename = "type")]
    kind: String,
    #[serde(default)]
    source: Option<String>,
    data: String,
    #[serde(default)]
    rooms: Vec<String>,
    #[serde(default)]
    key: Option<String>,
    /// How often, in one call.
    #[serde(default = "once")]
    times: u64,
}

fn once() -> u64 {
    1
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            mode: "steady".into(),
            series: 1,
            kind: "gauge".into(),
            name: "guest.value".into(),
            unit: "1".into(),
            path: String::new(),
            statement: String::new(),
            url: String::new(),
            size: 4_000_000,
            values: vec![1.0],
            events: Vec::new(),
            calls: 0,
        }
    }
}

#[derive(Default)]
struct State {
    settings: Settings,
    /// The numbers of its series, by what tells them apart.
    declared: BTreeMap<(String, String, u32), u32>,
    next_id: u32,
    calls: u64,
    /// Events that it has tried to publish.
    tried: u64,
    /// What was answered, and how often.
    answers: BTreeMap<String, u64>,
}

thread_local! {
    static STATE: RefCell<State> = RefCell::default();
}

struct Component;

impl Guest for Component {
    fn configure(config_json: String) -> Result<(), Fault> {
        let settings: Settings = serde_json::from_str(&config_json)
            .map_err(|error| Fault::Config(format!("[config]: {error}")))?;
        match &*settings.mode {
            "configure-panic" => panic!("asked to panic in configure"),
            "configure-spin" => spin(),
            "configure-wait" => std::thread::sleep(std::time::Duration::from_secs(3600)),
            "configure-memory" => memory(),
            _ => {}
        }
        STATE.with_borrow_mut(|state| state.settings = settings);
        Ok(())
    }

    fn collect(tick: Tick) -> Result<Batch, Fault> {
        STATE.with_borrow_mut(|state| {
            state.calls += 1;
            act(state, tick)
        })
    }
}

#[expect(
    clippy::too_many_lines,
    clippy::print_stdout,
    reason = "a list of modes, some of which print what nobody should"
)]
fn act(state: &mut State, tick: Tick) -> Result<Batch, Fault> {
    let settings = state.settings.clone();
    match &*settings.mode {
        "panic" => panic!("asked to panic"),
        "spin" => spin(),
        "memory" => memory(),
        "recursion" => Ok(batch_of(&[recurse(1_000_000_000)])),
        "wait" => {
            std::thread::sleep(std::time::Duration::from_secs(3600));
            Ok(batch_of(&[]))
        }
        "slow" => {
            std::thread::sleep(std::time::Duration::from_millis(150));
            Ok(steady(state, tick))
        }
        "call-for-ever" => loop {
            log::log(log::Level::Debug, "again");
        },
        "retry" => Err(Fault::Retry("the thing is not there".into())),
        "config" => Err(Fault::Config("`thing` is missing under [config]".into())),
        "fatal" => Err(Fault::Fatal("all is lost".into())),
        "panic-at-3" if state.calls == 3 => panic!("asked to panic at the third call"),
        "nan" => {
            let mut batch = steady(state, tick);
            batch.values[0] = f64::NAN;
            Ok(batch)
        }
        "unequal" => Ok(Batch { values: vec![], ..steady(state, tick) }),
        "undeclared" => Ok(Batch { ids: vec![77], values: vec![1.0], ..batch_of(&[]) }),
        "flood" => Ok(batch_of(&vec![0.0; settings.size])),
        "twice" => Ok(twice(steady(state, tick))),
        "declared-twice" => Ok(declared_twice(steady(state, tick))),
        "alias" => Ok(alias(steady(state, tick))),
        "gone" => Ok(Batch { gone: vec![99], ..steady(state, tick) }),
        "strings" => Ok(strings(steady(state, tick), settings.size)),
        "parameters" => {
            let parameters = vec![sql::Value::Text(String::new()); settings.size];
            Err(Fault::Retry(format!("{:?}", sql::query("db", "SELECT 1", &parameters))))
        }
        "document" => Ok(Batch { documents: vec![document(settings.size)], ..steady(state, tick) }),
        "no-json" => Ok(Batch {
            documents: vec![Document { name: "d".into(), json: "{".into() }],
            ..steady(state, tick)
        }),
        "fetch-for-ever" => loop {
            let _ = http::fetch(&get(&settings.url));
        },
        "query" => match sql::query("db", &settings.statement, &[]) {
            Ok(_) => Ok(steady(state, tick)),
            Err(error) => Err(Fault::Retry(format!("{error:?}"))),
        },
        "query-for-ever" => loop {
            let _ = sql::query("db", &settings.statement, &[]);
        },
        "print-flood" => {
            (0..10_000).for_each(|i| println!("line {i}"));
            print!("{}", "a line without an end ".repeat(100_000));
            Ok(steady(state, tick))
        }
        "label-bomb" => {
            let mut batch = steady(state, tick);
            let label = |i| Label { key: format!("k{i}"), value: "v".repeat(1000) };
            batch.declare[0].series.labels = (0..1000).map(label).collect();
            Ok(batch)
        }
        "log-flood" => {
            (0..10_000).for_each(|i| log::log(log::Level::Info, &format!("line {i}")));
            Ok(steady(state, tick))
        }
        "pulse" => {
            let mut batch = steady(state, tick);
            batch.values.fill(if tick.number.is_multiple_of(12) { 100.0 } else { 1.0 });
            Ok(batch)
        }
        "script" => {
            let mut batch = steady(state, tick);
            let place = tick.number as usize % settings.values.len();
            batch.values.fill(settings.values[place]);
            Ok(batch)
        }
        "wave" => {
            let mut batch = steady(state, tick);
            let spike = tick.number.is_multiple_of(30);
            batch.values.fill(if spike { 100.0 } else { f64::from(tick.number as u8 % 3) });
            Ok(batch)
        }
        "imports" => Ok(imports(state, tick, &settings)),
        "cache" => Ok(caching(state, tick)),
        "publish" => Ok(publish(state, tick)),
        "publish-for-ever" => loop {
            tell(state);
        },
        "http-fetch" => Ok(http_fetch(state, &settings.url)),
        "odd" => Ok(odd(state)),
        _ => Ok(steady(state, tick)),
    }
}

/// Series whose units, labels and descriptions are all that they may be, the
/// same at each call.
fn odd(state: &mut State) -> Batch {
    let series = |name: &str, kind: Kind, unit: &str, labels: &[(&str, &str)]| Series {
        name: name.into(),
        kind,
        unit: unit.into(),
        description: "A \"quoted\" \\ word,\n# TYPE of two lines".into(),
        labels: labels
            .iter()
            .map(|(k, v)| Label { key: (*k).into(), value: (*v).into() })
            .collect(),
    };
    let all = [
        (series("odd.flow", Kind::Gauge, "By/s", &[("says", "a \"b\" \\n {c=1} #")]), 1.5),
        (series("odd.flow", Kind::Gauge, "By/s", &[("says", "größe €\u{2028}")]), -2e300),
        (series("odd.flow", Kind::Gauge, "By/s", &[("says", "")]), 3.0),
        // Which is the same to Prometheus.
        (series("odd.flow", Kind::Gauge, "By/s", &[]), 4.0),
        (
            series(
                "odd.seen",
                Kind::Counter,
                "{thing}",
                &[("le", "0.5"), ("a.b", "1"), ("a_b", "2")],
            ),
            5.0,
        ),
        (
            series(
                "odd.seen",
                Kind::Counter,
                "{thing}",
                &[("le", "+Inf"), ("otel_scope_name", "me")],
            ),
            1e18,
        ),
        (series("odd.seen", Kind::Counter, "{thing}", &[("le", "below zero")]), -1.0),
        (series("odd-level/total", Kind::Updown, "1", &[("quantile", "nan")]), 7.0),
        (series("odd.level.total", Kind::Updown, "1", &[("quantile", "2")]), 8.0),
    ];
    let declares = std::mem::replace(&mut state.next_id, 1) == 0;
    let (series, values): (Vec<_>, Vec<_>) = all.into_iter().unzip();
    let ids: Vec<u32> = (0..).take(values.len()).collect();
    let declare = ids.iter().zip(series).map(|(id, series)| Declaration { id: *id, series });
    let declare = if declares { declare.collect() } else { Vec::new() };
    Batch { declare, ids, values, gone: Vec::new(), documents: Vec::new() }
}

/// Series `name` with a label `n`, worth the tick's number plus `n`.
fn steady(state: &mut State, tick: Tick) -> Batch {
    let State { settings: Settings { series, kind, name, unit, .. }, declared, next_id, .. } =
        state;
    let key = |n: u32| (name.clone(), kind.clone(), n);
    let (mut declare, mut ids) = (Vec::new(), Vec::new());
    let gone =
        declared.extract_if(.., |(of, sort, n), _| of != name || sort != kind || *n >= *series);
    let gone = gone.map(|(_, id)| id).collect();
    for n in 0..*series {
        let id = *declared.entry(key(n)).or_insert_with(|| {
            *next_id += 1;
            declare.push(declaration(*next_id - 1, name, kind, unit, n));
            *next_id - 1
        });
        ids.push(id);
    }
    #[expect(clippy::cast_precision_loss, reason = "ticks of tests are few")]
    let value = |n: u32| tick.number as f64 + f64::from(n);
    Batch { declare, ids, values: (0..*series).map(value).collect(), gone, documents: Vec::new() }
}

fn declaration(id: u32, name: &str, kind: &str, unit: &str, n: u32) -> Declaration {
    let series = Series {
        name: name.into(),
        kind: if kind == "counter" { Kind::Counter } else { Kind::Gauge },
        unit: unit.into(),
        description: String::new(),
        labels: vec![Label { key: "n".into(), value: n.to_string() }],
    };
    Declaration { id, series }
}

fn batch_of(values: &[f64]) -> Batch {
    Batch { declare: vec![], ids: vec![], values: values.to_vec(), gone: vec![], documents: vec![] }
}

/// One id has two values.
fn twice(mut batch: Batch) -> Batch {
    batch.ids.push(batch.ids[0]);
    batch.values.push(1.0);
    batch
}

/// One id stands for two series.
fn declared_twice(mut batch: Batch) -> Batch {
    let id = batch.ids[0];
    batch.declare.push(declaration(id, "guest.other", "gauge", "1", 0));
    batch
}

/// One series has two ids.
fn alias(mut batch: Batch) -> Batch {
    batch.declare.push(declaration(99, "guest.value", "gauge", "1", 0));
    batch
}

/// A series with ever so many labels.
fn strings(mut batch: Batch, size: usize) -> Batch {
    let label = Label { key: String::new(), value: String::new() };
    batch.declare[0].series.labels = vec![label; size];
    batch
}

/// A document of so many bytes.
fn document(size: usize) -> Document {
    let json = format!("\"{}\"", "x".repeat(size - 2));
    Document { name: "large".into(), json }
}

fn spin() -> ! {
    let mut turns = 0u64;
    loop {
        turns = std::hint::black_box(turns.wrapping_add(1));
    }
}

fn memory() -> ! {
    let mut hoard = Vec::new();
    loop {
        hoard.push(std::hint::black_box(vec![1u8; 16 << 20]));
    }
}

#[expect(unconditional_recursion, reason = "it is to overflow the stack")]
fn recurse(depth: u64) -> f64 {
    1.0 + std::hint::black_box(recurse(std::hint::black_box(depth - 1)))
}

fn get(url: &str) -> http::Request {
    http::Request {
        method: "GET".into(),
        url: url.into(),
        headers: vec![],
        body: None,
        timeout_ms: 0,
        body_limit: 0,
    }
}

/// Fetches a URL: the status as series 0 and the body's length as series 1, or
/// the error as a document `http`.
fn http_fetch(state: &mut State, url: &str) -> Batch {
    state.settings.series = 2;
    let mut batch = steady(state, Tick { number: 0, time_ns: 0 });
    match http::fetch(&get(url)) {
        #[expect(clippy::cast_precision_loss, reason = "bodies of tests are short")]
        Ok(response) => batch.values = vec![response.status.into(), response.body.len() as f64],
        Err(error) => {
            batch.ids.clear();
            batch.values.clear();
            let json = serde_json::json!({ "error": format!("{error:?}") }).to_string();
            batch.documents.push(Document { name: "http".into(), json });
        }
    }
    batch
}

/// Publishes its events: what was answered until now as a document `published`.
fn publish(state: &mut State, tick: Tick) -> Batch {
    let calls = state.settings.calls;
    if calls == 0 || state.calls <= calls {
        tell(state);
    }
    let mut batch = steady(state, tick);
    let json = serde_json::json!(state.answers).to_string();
    batch.documents.push(Document { name: "published".into(), json });
    batch
}

fn tell(state: &mut State) {
    let State { settings, tried, answers, .. } = state;
    for event in &settings.events {
        for _ in 0..event.times {
            let number = tried.to_string();
            let numbered = |text: &String| text.replace("{n}", &number);
            *tried += 1;
            let answer = events::publish(&events::Event {
                type_: event.kind.clone(),
                source: event.source.clone(),
                data_json: numbered(&event.data),
                rooms: event.rooms.clone(),
                key: event.key.as_ref().map(numbered),
            });
            let answer = answer.map_or_else(|error| format!("{error:?}"), |()| "taken".to_owned());
            *answers.entry(answer).or_default() += 1;
        }
    }
}

/// Sets the key `path` to `statement` unless that is empty, and gets it: what was
/// answered, or how it begins, as a document `cache`.
fn caching(state: &mut State, tick: Tick) -> Batch {
    let mut batch = steady(state, tick);
    let Settings { path: key, statement: value, .. } = &state.settings;
    let set = (!value.is_empty()).then(|| cache::set(key, value.as_bytes(), 60_000));
    let text = |value: Vec<u8>| String::from_utf8_lossy(&value).into_owned();
    let got = format!("{:?}", cache::get(key).map(|got| got.map(text)));
    let got: String = got.chars().take(200).collect();
    let json = serde_json::json!({ "set": format!("{set:?}"), "got": got });
    batch.documents.push(Document { name: "cache".into(), json: json.to_string() });
    batch
}

/// What each import answers, as a document `imports`.
fn imports(state: &mut State, tick: Tick, settings: &Settings) -> Batch {
    let mut batch = steady(state, tick);
    let rows = sql::query("db", &settings.statement, &[]);
    let stored = cache::set("key", b"value", 60_000);
    let request = get("http://localhost:1/");
    let answers = serde_json::json!({
        "sql": format!("{rows:?}"),
        "cache": format!("{stored:?} {:?}", cache::get("key")),
        "http": format!("{:?}", http::fetch(&request).map(|response| response.status)),
        "disk": format!("{:?}", disk::usage("/").map(|usage| usage.size > 0)),
        "read": format!("{:?}", std::fs::read_to_string(&settings.path)),
        "write": format!("{:?}", std::fs::write(&settings.path, "x").is_ok()),
        "env": std::env::vars().count() + std::env::args().count(),
    });
    batch.documents.push(Document { name: "imports".into(), json: answers.to_string() });
    batch
}
