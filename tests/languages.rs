//! Plugins in each language: built from source by the real tools, and live in a
//! hub.
//!
//! `tests/tools.sh` installs the tools. A test whose tool is missing says so and
//! passes, unless `PLUGIN_TOOLS=required` is set.

pub(crate) mod workshop;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::task::JoinSet;

use crate::harness::{Hub, Native, guest};
use workshop::{EXAMPLES, Workshop, fingerprint};

const LANGUAGES: [&str; 4] = ["rust", "js", "python", "c"];

#[test]
fn what_examples_and_new_projects_share_is_the_same() {
    for (template, examples) in [
        ("js/telltale.js", ["js-ewma/telltale.js", "js-poller/telltale.js"]),
        ("python/telltale.py", ["python-ewma/telltale.py", "python-prometheus/telltale.py"]),
        ("c/collector/batch.h", ["c-interrupts/batch.h"; 2]),
    ] {
        let read = |path: &Path| fs::read_to_string(path).unwrap();
        let template = read(&workshop::root().join("host/templates").join(template));
        for example in examples {
            assert!(read(&Path::new(EXAMPLES).join(example)) == template, "{example}");
        }
    }
}

#[tokio::test]
async fn each_example_passes_its_own_test() {
    let workshop = Workshop::open().await;
    for entry in fs::read_dir(EXAMPLES).unwrap() {
        let folder = entry.unwrap().path();
        let Ok(readme) = fs::read_to_string(folder.join("README.md")) else { continue };
        if folder.join("telltale-plugin.toml").is_file() {
            let test = workshop::first_command(&readme);
            workshop.shell(test, &folder, &fingerprint(&folder)).await;
        }
    }
}

/// The example's component and its settings' file.
async fn example(workshop: &Workshop, folder: &str) -> Option<Vec<u8>> {
    workshop.component(&Path::new(EXAMPLES).join(folder)).await
}

#[tokio::test]
async fn the_detectors_of_all_languages_find_the_same() {
    let workshop = Workshop::open().await;
    let setup = Hub::new().tick_ms(200);
    workshop.lend_cache(&setup);
    let settings = "series = [\"guest.*\"]\n[config]\nalpha = 0.3\nthreshold = 5\nwarm_up = 10\n";
    let (mut setup, mut there) = (setup, Vec::new());
    for language in LANGUAGES {
        if let Some(component) = example(&workshop, &format!("{language}-ewma")).await {
            let file = |ending: &str| format!("{language}.{ending}");
            setup = setup.file(&file("toml"), settings).file(&file("wasm"), component);
            there.push(language);
        }
    }
    // All of them are there before the first value is.
    let hub = setup.start().await;
    for language in &there {
        hub.state(language, "running").await;
    }
    workshop.keep_cache(hub.setup());
    let mut client = hub.native().await;
    client.subscribe("findings", Value::Null).await;
    hub.settings("pulse", "[config]\nmode = \"wave\"\nseries = 3\n");
    hub.drop_in("pulse", &guest("guest_collector"));
    let mut found = Vec::new();
    while found.len() < 3 * there.len() {
        let push = client.push_until("a finding", |push| push["entry"]["state"] == "open").await;
        found.push(push["entry"].clone());
    }
    // Each of the three series is found once by each, in the same words.
    let words = |finding: &Value| {
        let keys = ["series", "type", "score", "deviation", "expected", "lower", "upper", "value"];
        keys.map(|key| finding[key].to_string()).join(" ")
    };
    let of = |language: &str| -> Vec<String> {
        let mut of: Vec<_> =
            found.iter().filter(|f| f["detector"] == language).map(words).collect();
        of.sort();
        of
    };
    let first = of(there[0]);
    assert_eq!(first.len(), 3, "{found:?}");
    for language in &there {
        assert_eq!(of(language), first, "{language} and {}", there[0]);
    }
}

#[tokio::test]
async fn a_detector_goes_on_in_another_language_with_what_it_has_learned() {
    let workshop = Workshop::open().await;
    let mut components = Vec::new();
    for language in LANGUAGES {
        components.extend(example(&workshop, &format!("{language}-ewma")).await);
    }
    let setup = Hub::new().plugin("steady", "guest_collector", "[config]\nseries = 5\n");
    workshop.lend_cache(&setup);
    let hub = setup.file("relay.wasm", &components[0]).start().await;
    let mut ticks = hub.ticks().await;
    let mut client = hub.native().await;
    client.subscribe("hub", Value::Null).await;
    for _ in 0..3 {
        ticks.next_push().await;
    }
    for component in components.iter().skip(1).chain([&components[0]]) {
        hub.drop_in("relay", component);
        let event = client.event("reloaded", "relay").await;
        let told = hub.plugin_until("relay", "have its state", |p| p["handover"] == "restored");
        assert_eq!(told.await["state"], "running", "{event}");
    }
    workshop.keep_cache(hub.setup());
}

/// A server that says the same to everybody.
async fn serving(content: &'static str) -> (u16, JoinSet<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let mut serving = JoinSet::new();
    serving.spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let length = content.len();
            let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n");
            // A client that goes away is none of this test's business.
            if stream.read(&mut [0; 4096]).await.is_ok() {
                let _ = stream.write_all(format!("{head}{content}").as_bytes()).await;
            }
        }
    });
    (port, serving)
}

/// Waits until a client sees that the series of `name` have these values, in
/// the order of their labels.
async fn measures(hub: &Hub, name: &str, wanted: &[f64]) {
    let mut client = hub.native().await;
    let ok = client.subscribe("metrics", json!({"name": name})).await;
    let mut seen = ok["snapshot"].clone();
    // By labels: the number and the value.
    let mut known: BTreeMap<String, (Value, Value)> = BTreeMap::new();
    crate::harness::within(&format!("{name} to be {wanted:?}"), async {
        loop {
            for series in ["series", "declare"].iter().filter_map(|key| seen[key].as_array()) {
                for series in series {
                    let number_and_value = (series["id"].clone(), series["value"].clone());
                    known.insert(series["labels"].to_string(), number_and_value);
                }
            }
            // A push tells what has changed.
            for (id, value) in known.values_mut() {
                *value = Native::value(&seen, id).map_or(value.take(), |new| json!(new));
            }
            let values = known.values().map(|(_, value)| value.as_f64());
            if values.collect::<Option<Vec<_>>>().is_some_and(|values| values == wanted) {
                return;
            }
            seen = client.next_push().await;
        }
    })
    .await;
}

/// A hub with the collector of an example.
async fn hub_with(workshop: &Workshop, folder: &str, name: &str, settings: &str) -> Option<Hub> {
    let component = example(workshop, folder).await?;
    let setup = Hub::new();
    workshop.lend_cache(&setup);
    let setup = setup.file(&format!("{name}.toml"), settings);
    let hub = setup.file(&format!("{name}.wasm"), component).start().await;
    hub.state(name, "running").await;
    workshop.keep_cache(hub.setup());
    Some(hub)
}

#[tokio::test]
async fn what_a_program_exposes_to_prometheus_is_scraped_in_python() {
    let (port, _serving) = serving(
        "# TYPE took histogram\ntook_bucket{le=\"0.1\"} 3\ntook_bucket{le=\"+Inf\"} 4\n\
         # TYPE heat gauge\nheat{room=\"1\"} 21.5\nheat{room=\"2\"} 19\n",
    )
    .await;
    let settings = format!(
        "[config]\nurl = \"http://localhost:{port}/metrics\"\nprefix = \"app.\"\n\
         [grant]\nhttp = [\"localhost:{port}\"]\n"
    );
    let workshop = Workshop::open().await;
    if let Some(hub) = hub_with(&workshop, "python-prometheus", "prometheus", &settings).await {
        measures(&hub, "app.heat", &[21.5, 19.0]).await;
        // Totals that stand still.
        measures(&hub, "app.took_bucket", &[0.0, 0.0]).await;
    }
}

#[tokio::test]
async fn numbers_of_a_json_api_are_polled_in_javascript() {
    let (port, _serving) = serving(r#"{"users": [{"n": 3}], "name": "ä"}"#).await;
    let settings = format!(
        "[config]\nurl = \"http://localhost:{port}/\"\n[config.series]\n\"app.users\" = \
         \"/users/0/n\"\n[grant]\nhttp = [\"localhost:{port}\"]\n"
    );
    let workshop = Workshop::open().await;
    if let Some(hub) = hub_with(&workshop, "js-poller", "poller", &settings).await {
        measures(&hub, "app.users", &[3.0]).await;
        // Without the grant it is told which line to add.
        hub.settings("poller", settings.split("[grant]").next().unwrap());
        let said =
            |plugin: &Value| plugin["reason"].as_str().is_some_and(|r| r.contains("http = "));
        hub.plugin_until("poller", "ask for its grant", said).await;
    }
}

#[tokio::test]
async fn addresses_are_probed_in_rust() {
    let (port, _serving) = serving("hello").await;
    let settings = format!(
        "[config]\nurls = [\"http://localhost:{port}/\", \"http://localhost:1/\"]\n\
         [grant]\nhttp = [\"localhost:{port}\", \"localhost:1\"]\n"
    );
    let workshop = Workshop::open().await;
    if let Some(hub) = hub_with(&workshop, "rust-probe", "probe", &settings).await {
        measures(&hub, "probe.status", &[200.0]).await;
        let up = hub.series("probe.up").await;
        assert_eq!(up.len(), 2, "{up:?}");
    }
}

#[tokio::test]
async fn interrupts_are_counted_in_c() {
    let settings = include_str!("../examples/plugins/c-interrupts/interrupts.toml");
    let workshop = Workshop::open().await;
    if let Some(hub) = hub_with(&workshop, "c-interrupts", "interrupts", settings).await {
        let lines = fs::read_to_string("/proc/interrupts").unwrap().lines().count() - 1;
        let all = |plugin: &Value| plugin["series"] == lines;
        hub.plugin_until("interrupts", &format!("have {lines} series"), all).await;
    }
}

/// The collectors are begun, tested and built by the commands in
/// docs/plugins.md.
#[tokio::test]
async fn a_new_detector_in_each_language_is_tested_built_and_keeps_the_rules() {
    let workshop = Workshop::open().await;
    for language in LANGUAGES {
        let folder = tempfile::tempdir().unwrap();
        let begin = format!("telltale plugin new limit --lang {language} --kind detector");
        workshop.run(&begin, folder.path()).await.unwrap();
        let project = folder.path().join("limit");
        let readme = fs::read_to_string(project.join("README.md")).unwrap();
        assert!(readme.lines().count() <= 12, "{readme}");
        let fingerprint = fingerprint(&project);
        workshop.lock_versions(&project);
        let test = workshop::first_command(&readme);
        if workshop.shell(test, &project, &fingerprint).await.is_some() {
            let build = "telltale plugin build && telltale plugin check limit.wasm";
            workshop.shell(build, &project, &fingerprint).await;
        }
    }
}
