//! What follows what: probation, the way back, what is kept in between, and
//! what people can do to a plugin over HTTP.

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::harness::{Answer, Hub, Native, guest, mode, version_of};

/// A client that hears of plugins and of the keeper's count.
async fn listener(hub: &Hub) -> Native {
    let mut client = hub.native().await;
    client.subscribe("hub", Value::Null).await;
    client
}

/// Waits until the keeper has counted to `least`.
async fn counted(hub: &Hub, least: f64) -> f64 {
    hub.until(&format!("a count of {least}"), async || {
        hub.series("keeper.count").await.first()?["value"].as_f64().filter(|count| *count >= least)
    })
    .await
}

/// Sends a request with the admin token.
async fn admin(hub: &Hub, method: &str, path: &str) -> Answer {
    let (address, token) = (&hub.file.addresses[0], &hub.file.admin_token);
    let head = format!("{method} {path} HTTP/1.1\r\nHost: {address}\r\nContent-Length: 0");
    hub.request(&format!("{head}\r\nAuthorization: Bearer {token}")).await
}

// Probation.

#[tokio::test]
async fn a_version_that_fails_in_its_probation_gives_way_to_the_one_before_with_its_state() {
    for (way, words) in [
        ("panic-at-3", "it panicked"),
        ("undeclared", "batch refused: id 77 is not declared"),
        ("spin", "it computed for more than 250 ms"),
        ("config", "`thing` is missing under [config]"),
    ] {
        // The keeper does not mind the mode; what comes under its name does.
        let hub = Hub::new().plugin("keeper", "guest_keeper", &mode(way)).start().await;
        let before = counted(&hub, 5.0).await;
        let mut client = listener(&hub).await;
        let good = hub.plugin("keeper").await.unwrap()["component"].clone();
        hub.drop_in("keeper", &guest("guest_collector"));
        client.event("reloaded", "keeper").await;
        let event = client.event("rolled_back", "keeper").await;
        assert!(event["reason"].as_str().unwrap().contains(words), "{event}");
        assert_eq!(event["to"], good, "{event}");
        counted(&hub, before + 1.0).await;
        let plugin = hub.plugin("keeper").await.unwrap();
        assert_eq!((&plugin["state"], &plugin["rollbacks"]), (&json!("running"), &json!(1)));
        assert_eq!(plugin["component"], good);
        let reason = plugin["reason"].as_str().unwrap();
        assert!(reason.contains("was taken back") && reason.contains(words), "{reason}");
    }
}

#[tokio::test]
async fn settings_that_make_a_plugin_fail_are_taken_back() {
    let hub = Hub::new().plugin("steady", "guest_collector", "").start().await;
    let mut client = listener(&hub).await;
    hub.settings("steady", &mode("panic"));
    client.event("reconfigured", "steady").await;
    client.event("rolled_back", "steady").await;
    let plugin = hub.state("steady", "running").await;
    assert!(plugin["reason"].as_str().unwrap().contains("settings"), "{plugin}");
    let fresh = hub.series("guest.value").await;
    assert!(fresh[0]["value"].is_number(), "{fresh:?}");
    // A configure that traps ends the instance; another gets the old settings.
    hub.settings("steady", &mode("configure-panic"));
    client.event("refused", "steady").await;
    let plugin = hub.state("steady", "running").await;
    assert!(plugin["reason"].as_str().unwrap().contains("it panicked"), "{plugin}");
}

#[tokio::test]
async fn a_version_that_has_passed_its_probation_is_the_last_good_one() {
    let settings = "probation = 3\n[config]\nmode = \"panic-at-3\"\n";
    let hub = Hub::new().plugin("keeper", "guest_keeper", settings).start().await;
    let mut client = listener(&hub).await;
    let passed = |plugin: &Value| plugin["probation_left"].is_null();
    hub.plugin_until("keeper", "pass its probation", passed).await;
    hub.drop_in("keeper", &version_of(&guest("guest_keeper"), 1));
    client.event("reloaded", "keeper").await;
    let second = hub.plugin_until("keeper", "pass again", passed).await["component"].clone();
    hub.drop_in("keeper", &guest("guest_collector"));
    assert_eq!(client.event("rolled_back", "keeper").await["to"], second);
    // After two answers of three it is good enough; failing later is failing.
    hub.settings("keeper", "probation = 2\n[config]\nmode = \"panic-at-3\"\n");
    client.event("failed", "keeper").await;
}

#[tokio::test]
async fn what_was_good_runs_when_the_hub_is_started_on_a_file_that_is_not() {
    for bad in [b"no component".to_vec(), guest("guest_collector")] {
        let settings = "probation = 2\n[config]\nmode = \"panic\"\n";
        let hub = Hub::new().plugin("keeper", "guest_keeper", settings).start().await;
        let before = counted(&hub, 5.0).await;
        let good = hub.plugin("keeper").await.unwrap()["component"].clone();
        let (_, setup) = hub.stop_with(rustix::process::Signal::TERM).await;
        let hub = setup.file("keeper.wasm", &bad).start().await;
        counted(&hub, before + 1.0).await;
        let returned = |plugin: &Value| plugin["component"] == good && !plugin["reason"].is_null();
        let plugin = hub.plugin_until("keeper", "return", returned).await;
        assert_eq!(plugin["state"], "running", "{plugin}");
    }
}

// What is kept.

#[tokio::test]
async fn what_a_plugin_knows_is_saved_in_between_and_survives_a_crash() {
    let settings = "probation = 0\nsave = \"1s\"\n";
    let hub = Hub::new().plugin("keeper", "guest_keeper", settings).start().await;
    let state = hub.setup().data().join("states/keeper.state");
    let first = hub.until("a state", async || std::fs::read(&state).ok()).await;
    hub.until("the next", async || std::fs::read(&state).ok().filter(|s| *s != first)).await;
    let known = counted(&hub, 1.0).await;
    let hub = hub.kill().start().await;
    let plugin = hub.plugin("keeper").await.unwrap();
    assert_eq!(plugin["handover"], "restored", "{plugin}");
    // A second has ten ticks, and one save may not have been finished.
    counted(&hub, known - 30.0).await;
    assert_eq!(plugin["probation_left"], Value::Null, "it was good before: {plugin}");
}

// What people can do.

#[tokio::test]
async fn a_quarantined_plugin_resumes_when_it_is_told_to() {
    let hub = Hub::new().plugin("bad", "guest_collector", &mode("panic")).start().await;
    hub.state("bad", "quarantined").await;
    let mut client = listener(&hub).await;
    let answer = admin(&hub, "POST", "/v1/plugins/bad/resume").await;
    assert_eq!(answer.status, 200, "{answer:?}");
    client.event("restarted", "bad").await;
    client.event("failed", "bad").await;
    assert_eq!(admin(&hub, "POST", "/v1/plugins/none/resume").await.status, 404);
}

#[tokio::test]
async fn a_refused_plugin_is_tried_again_when_it_is_told_to() {
    let folder = tempfile::tempdir().unwrap();
    let granted = folder.path().join("later");
    let settings = format!("[grant]\nread = [{granted:?}]\n");
    let hub = Hub::new().plugin("steady", "guest_collector", &settings).start().await;
    hub.state("steady", "refused").await;
    std::fs::create_dir(&granted).unwrap();
    assert_eq!(admin(&hub, "POST", "/v1/plugins/steady/resume").await.status, 200);
    hub.state("steady", "running").await;
}

#[tokio::test]
async fn what_changes_a_plugin_or_shows_what_it_says_needs_the_token() {
    let hub = Hub::new().plugin("steady", "guest_collector", "").start().await;
    let address = &hub.file.addresses[0];
    for (method, path) in [
        ("POST", "/v1/plugins/steady/resume"),
        ("DELETE", "/v1/plugins/steady"),
        ("GET", "/v1/plugins/steady/logs"),
    ] {
        let head = format!("{method} {path} HTTP/1.1\r\nHost: {address}\r\nContent-Length: 0");
        assert_eq!(hub.request(&head).await.status, 401, "{method} {path}");
        let wrong = hub.request(&format!("{head}\r\nAuthorization: Bearer guess")).await;
        assert_eq!(wrong.status, 401, "{method} {path}");
        assert!(wrong.body.contains("hub.json"), "{wrong:?}");
    }
    assert_eq!(admin(&hub, "PUT", "/v1/plugins/steady").await.status, 405);
    assert_eq!(hub.get("/v1/plugins/none").await.status, 404);
    hub.state("steady", "running").await;
}

#[tokio::test]
async fn a_plugin_is_inspected_its_lines_are_read_and_it_is_removed() {
    let hub = Hub::new()
        .plugin("loud", "guest_collector", &mode("log-flood"))
        .plugin("keeper", "guest_keeper", "")
        .start()
        .await;
    let shown = hub.get_json("/v1/plugins/loud").await;
    assert_eq!(shown["interface"], "0.1.0");
    let imports = shown["imports"].as_array().unwrap();
    assert!(imports.contains(&json!("telltale:plugin/log@0.1.0")), "{imports:?}");
    assert!(shown["calls"]["count"].as_u64().unwrap() > 0, "{shown}");
    let lines = admin(&hub, "GET", "/v1/plugins/loud/logs?after=0").await.json();
    assert_eq!(lines["lines"][0]["text"], "loaded, state cold");
    assert_eq!(lines["lines"][1]["text"], "line 0");
    let next = lines["next"].as_u64().unwrap();
    let path = format!("/v1/plugins/loud/logs?after={next}&wait_ms=20000");
    let more = admin(&hub, "GET", &path).await.json();
    assert_eq!(more["lines"][0]["seq"], next + 1);

    let removed = admin(&hub, "DELETE", "/v1/plugins/loud").await.json();
    let plugins = hub.setup().plugins();
    assert_eq!(removed["removed"], json!([plugins.join("loud.wasm")]));
    assert_eq!(removed["kept"], json!([plugins.join("loud.toml")]));
    assert!(hub.plugin("loud").await.is_none());
    counted(&hub, 3.0).await;
    admin(&hub, "DELETE", "/v1/plugins/keeper?purge=true").await;
    assert!(!plugins.join("keeper.wasm").exists());
    assert!(!hub.setup().data().join("states/keeper.state").exists());
    assert!(!hub.setup().data().join("states/keeper.trial.state").exists());
}

#[tokio::test]
async fn who_waits_for_a_line_does_not_hold_up_the_stop() {
    let hub = Hub::new().plugin("steady", "guest_collector", "").start().await;
    let (address, token) = (hub.file.addresses[0].clone(), hub.file.admin_token.clone());
    let mut stream = TcpStream::connect(&address).await.unwrap();
    // One after the other: when the first is answered the second is being dealt
    // with. It asks for more lines than there are.
    let head = |path: &str| format!("GET {path} HTTP/1.1\r\nHost: {address}\r\n");
    let first = head("/healthz");
    let second = head("/v1/plugins/steady/logs?after=1000&wait_ms=25000");
    let both = format!("{first}\r\n{second}Authorization: Bearer {token}\r\n\r\n");
    stream.write_all(both.as_bytes()).await.unwrap();
    let mut answers = String::new();
    while !answers.contains("\"version\"") {
        let mut some = [0; 4096];
        let count = stream.read(&mut some).await.unwrap();
        assert!(count > 0, "{answers}");
        answers.push_str(std::str::from_utf8(&some[..count]).unwrap());
    }
    assert!(hub.stop_with(rustix::process::Signal::TERM).await.0.success());
    stream.read_to_string(&mut answers).await.unwrap();
    assert!(answers.contains("503 Service Unavailable"), "{answers}");
}

#[tokio::test]
async fn what_a_plugin_costs_is_a_series_of_the_hub() {
    let hub = Hub::new().plugin("keeper", "guest_keeper", "").start().await;
    let cost = async |name: &str| {
        let name = format!("telltale.plugin.{name}");
        hub.until(&name, async || {
            let series = hub.series(&name).await;
            series.iter().find(|s| s["labels"]["plugin"] == "keeper")?["value"].as_f64()
        })
        .await
    };
    assert!(cost("call.mean").await > 0.0);
    assert!(cost("call.p99").await <= cost("call.max").await);
    assert!(cost("memory").await >= 65536.0);
    assert!(cost("reload").await > 0.0);
    assert_eq!(cost("values").await, 1.0);
    assert_eq!(cost("faults").await, 0.0);
    let mut client = hub.native().await;
    let ok = client.subscribe("metrics", json!({"name": "telltale.plugin.*"})).await;
    let ids = ok["snapshot"]["series"].as_array().unwrap().len();
    assert!(ids >= 12, "{ok}");
    hub.remove("keeper");
    let push = client.push_until("its series to go", |push| push["gone"].is_array()).await;
    assert_eq!(push["gone"].as_array().unwrap().len(), ids, "{push}");
}

#[tokio::test]
async fn a_version_that_is_taken_back_takes_its_interval_along() {
    let bad = format!("interval = \"1h\"\n{}", mode("panic"));
    let hub = Hub::new().plugin("steady", "guest_collector", "").start().await;
    let mut client = listener(&hub).await;
    hub.settings("steady", &bad);
    client.event("reloaded", "steady").await;
    client.event("rolled_back", "steady").await;
    let plugin = hub.state("steady", "running").await;
    assert_eq!(plugin["interval_ms"], Value::Null, "{plugin}");
    let ok = client.subscribe("metrics", json!({"name": "guest.value"})).await;
    let id = &ok["snapshot"]["series"][0]["id"];
    for _ in 0..3 {
        let what = "a value soon after a value";
        client.push_until(what, |push| Native::value(push, id).is_some()).await;
    }
}

#[tokio::test]
async fn a_detector_is_shown_other_series_when_its_settings_say_so() {
    let hub = Hub::new()
        .plugin("one", "guest_collector", "[config]\nname = \"guest.one\"\n")
        .plugin("two", "guest_collector", "[config]\nname = \"guest.two\"\nseries = 3\n")
        .plugin("watcher", "guest_detector", "series = [\"guest.one\"]\n")
        .start()
        .await;
    hub.plugin_until("watcher", "be shown one", |plugin| plugin["series"] == 1).await;
    let mut client = listener(&hub).await;
    hub.settings("watcher", "series = [\"guest.two\"]\n");
    client.event("reconfigured", "watcher").await;
    let plugin =
        hub.plugin_until("watcher", "be shown three", |plugin| plugin["series"] == 3).await;
    assert_eq!(plugin["restarts"], 0, "{plugin}");
}

#[tokio::test]
async fn what_an_operator_has_taken_away_does_not_come_back_with_a_failure() {
    // It may read a file, and says so; then it may not any more, and panics.
    let folder = tempfile::tempdir().unwrap();
    let secret = folder.path().join("secret");
    std::fs::write(&secret, "secret").unwrap();
    let reading = format!("[config]\nmode = \"imports\"\npath = {secret:?}\n");
    let granted = format!("{reading}[grant]\nread = [{:?}]\n", folder.path());
    let hub = Hub::new().plugin("curious", "guest_collector", &granted).start().await;
    let read = async || {
        let mut client = hub.native().await;
        let ok = client.subscribe("documents", Value::Null).await;
        ok["snapshot"]["documents"][0]["data"]["read"].as_str().unwrap_or_default().to_owned()
    };
    hub.until("the file to be read", async || read().await.contains("Ok(").then_some(())).await;
    let mut client = listener(&hub).await;
    hub.settings("curious", &mode("panic"));
    client.event("rolled_back", "curious").await;
    // The configuration before is back, the grant is not.
    hub.until("the file not to be read", async || read().await.contains("Err(").then_some(()))
        .await;
    assert_eq!(hub.state("curious", "running").await["rollbacks"], 1);
}

#[tokio::test]
async fn a_typo_in_settings_that_name_a_component_removes_nothing() {
    let settings = |rest: &str| format!("component = \"shared.wasm\"\n{rest}");
    let setup = Hub::new().file("shared.wasm", guest("guest_keeper"));
    let hub = setup.file("keeper.toml", settings("")).start().await;
    let before = counted(&hub, 3.0).await;
    let mut client = listener(&hub).await;
    hub.settings("keeper", &settings("intervall = 5\n"));
    let refused = client.event("refused", "keeper").await;
    assert!(refused["reason"].as_str().unwrap().contains("keeper.toml: line 2"), "{refused}");
    counted(&hub, before + 2.0).await;
    assert_eq!(hub.plugin("keeper").await.unwrap()["restarts"], 0);
}

#[tokio::test]
async fn settings_that_are_refused_leave_the_probation_as_it_was() {
    let hub = Hub::new().plugin("keeper", "guest_keeper", &mode("panic-at-3")).start().await;
    counted(&hub, 5.0).await;
    let mut client = listener(&hub).await;
    let good = hub.plugin("keeper").await.unwrap()["component"].clone();
    hub.settings("keeper", "[config]\nmode = \"steady\"\n");
    client.event("reconfigured", "keeper").await;
    hub.drop_in("keeper", &guest("guest_collector"));
    client.event("reloaded", "keeper").await;
    hub.settings("keeper", "[config]\nmood = \"bad\"\n");
    client.event("refused", "keeper").await;
    hub.settings("keeper", &mode("panic"));
    let event = client.event("rolled_back", "keeper").await;
    assert_eq!(event["to"], good, "{event}");
}

#[tokio::test]
async fn a_save_that_fails_on_a_change_of_settings_ends_the_instance_and_the_new_ones_count() {
    let settings = "probation = 0\n[config]\nmode = \"save-panic\"\n";
    let hub = Hub::new().plugin("keeper", "guest_keeper", settings).start().await;
    counted(&hub, 1.0).await;
    let mut client = listener(&hub).await;
    hub.settings("keeper", "probation = 0\n[config]\nmode = \"steady\"\n");
    client.event("reconfigured", "keeper").await;
    client.event("restarted", "keeper").await;
    let plugin = hub.state("keeper", "running").await;
    assert_eq!((&plugin["faults"], &plugin["rollbacks"]), (&json!(1), &json!(0)), "{plugin}");
}

#[tokio::test]
async fn what_was_refused_is_tried_again_on_resume() {
    let folder = tempfile::tempdir().unwrap();
    let granted = folder.path().join("later");
    let hub = Hub::new().plugin("steady", "guest_collector", "").start().await;
    let mut client = listener(&hub).await;
    hub.settings("steady", &format!("[grant]\nread = [{granted:?}]\n"));
    client.event("refused", "steady").await;
    std::fs::create_dir(&granted).unwrap();
    assert_eq!(admin(&hub, "POST", "/v1/plugins/steady/resume").await.status, 200);
    client.event("reloaded", "steady").await;
}

#[tokio::test]
async fn a_plugin_in_a_pause_can_be_returned_to() {
    let settings = "probation = 2\n[config]\nmode = \"panic-at-3\"\n";
    let hub = Hub::new().plugin("steady", "guest_collector", settings).start().await;
    let mut client = listener(&hub).await;
    // It has passed after two answers, and rests after the third.
    client.event("failed", "steady").await;
    let good = hub.plugin("steady").await.unwrap()["component"].clone();
    hub.drop_in("steady", &version_of(&guest("guest_collector"), 1));
    hub.settings("steady", "probation = 2\n[config]\nmode = \"panic\"\n");
    let event = client.event("rolled_back", "steady").await;
    assert_eq!(event["to"], good, "{event}");
}
