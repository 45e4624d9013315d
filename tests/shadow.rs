//! A second detector in the shadow of the first: what it finds, how it takes
//! the first one's place, and that nothing of it harms the first.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::path::{Path, PathBuf};

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::cli::{Outcome, run};
use crate::harness::{Hub, Setup, guest, guest_path, mode, version_of};

/// Settings of a witness that finds every value odd that is above this.
fn limit(limit: f64) -> String {
    format!("series = [\"guest.*\"]\n[config]\nlimit = {limit:?}\n")
}

/// No value of a test is above this.
const NEVER: f64 = 1e9;

/// A collector whose value rises, and the detector `d`, which finds nothing.
fn setup() -> Setup {
    Hub::new().plugin("steady", "guest_collector", "").plugin("d", "guest_witness", &limit(NEVER))
}

/// `telltale detector …` about a hub.
async fn detector<A: AsRef<OsStr>>(hub: &Hub, arguments: impl IntoIterator<Item = A>) -> Outcome {
    let arguments = arguments.into_iter().map(|argument| argument.as_ref().to_owned());
    let data = ["--data".into(), hub.setup().data().into_os_string()];
    let arguments: Vec<OsString> =
        [OsString::from("detector")].into_iter().chain(arguments).chain(data).collect();
    run(hub.path(), arguments, &[]).await
}

/// The same, which has to do what it is asked.
async fn does<A: AsRef<OsStr>>(hub: &Hub, arguments: impl IntoIterator<Item = A>) -> String {
    let outcome = detector(hub, arguments).await;
    assert!(outcome.status.success() && outcome.stderr.is_empty(), "{outcome:?}");
    outcome.stdout
}

/// Another version of the witness, as a file.
fn another(hub: &Hub) -> PathBuf {
    let file = hub.path().join("another.wasm");
    fs::write(&file, version_of(&guest("guest_witness"), 1)).unwrap();
    file
}

/// Lets another version run in the shadow of `d`, which finds every value odd.
async fn shadowed(hub: &Hub) {
    let settings = hub.path().join("shadow.toml");
    fs::write(&settings, limit(0.5)).unwrap();
    let file = another(hub);
    let settings = ["--settings".as_ref(), settings.as_os_str()];
    let command = ["shadow".as_ref(), "d".as_ref(), file.as_os_str()];
    let said = does(hub, command.into_iter().chain(settings)).await;
    assert!(said.contains("runs in the shadow of d (state restored)"), "{said}");
}

/// The ticks that a witness has been shown, by a state file: the first, the
/// last, how many, and how many twice.
fn witnessed(state: &Path) -> Option<[u64; 4]> {
    // Before it: the layout, the component, the version, a hash.
    let bytes = fs::read(state).ok()?;
    let numbers = bytes.get(76..)?.chunks(8).map(|n| u64::from_le_bytes(n.try_into().unwrap()));
    numbers.collect::<Vec<_>>().try_into().ok()
}

fn state(setup: &Setup, name: &str) -> PathBuf {
    setup.data().join("states").join(format!("{name}.state"))
}

/// The state of `d` as the next start finds it.
fn kept(setup: &Setup) -> [u64; 4] {
    let trial = witnessed(&state(setup, "d.trial"));
    trial.or_else(|| witnessed(&state(setup, "d"))).unwrap()
}

async fn diff(hub: &Hub) -> Value {
    hub.get_json("/v1/detectors/d/diff").await
}

/// Waits until the shadow has found something.
async fn found(hub: &Hub) -> Value {
    let found = |diff: &Value| diff["shadow"]["found"] != 0;
    hub.until("a finding of the shadow", async || Some(diff(hub).await).filter(found)).await
}

async fn component(hub: &Hub, name: &str) -> Value {
    hub.plugin(name).await.unwrap()["component"].clone()
}

#[tokio::test]
async fn what_a_shadow_finds_is_told_to_those_who_ask_for_it_and_nobody_else() {
    let hub = setup().start().await;
    let mut client = hub.native().await;
    let findings = client.subscribe("findings", Value::Null).await;
    client.subscribe("shadow", Value::Null).await;
    client.subscribe("hub", Value::Null).await;
    shadowed(&hub).await;
    let event = client.event("shadow_started", "d").await;
    assert_eq!(event["handover"], "restored", "{event}");
    let first = client.push_until("a finding", |push| push["push"] != "hub").await;
    let entry = &first["entry"];
    assert_eq!(first["push"], "shadow", "{first}");
    assert_eq!((&entry["detector"], &entry["shadow"]), (&json!("d"), &json!(true)), "{entry}");
    assert_eq!(entry["version"], component(&hub, "d.shadow").await);
    assert_eq!(findings["open"], json!([]), "{findings}");
    let told = found(&hub).await;
    assert_eq!(told["live"]["found"], 0, "{told}");
    assert_eq!((&told["shadow"]["alone"], &told["both"]), (&json!(1), &json!(0)), "{told}");
    assert_eq!(told["only_shadow"][0]["name"], "guest.value", "{told}");
    // Over the native protocol it is the same, but for its time.
    let native = client.command(json!({"op": "diff", "detector": "d", "listed": 0})).await;
    assert_eq!(native["ok"]["shadow"]["found"], 1, "{native}");
    assert_eq!(native["ok"]["only_shadow"], json!([]), "{native}");
    let none = client.command(json!({"op": "diff", "detector": "steady"})).await;
    assert_eq!(none["error"]["code"], "not_found", "{none}");
    // Who comes later is told what is open there.
    let standing = hub.native().await.subscribe("shadow", Value::Null).await;
    assert_eq!(standing["open"][0]["id"], entry["id"], "{standing}");
    // What both find is the same finding.
    hub.settings("d", &limit(0.5));
    hub.until("both to find it", async || Some(diff(&hub).await).filter(|d| d["both"] == 1)).await;
    let said = does(&hub, ["diff", "d"]).await;
    for words in ["found by both", "mean call", "ticks skipped", "faults"] {
        assert!(said.contains(words), "it does not say {words:?}: {said}");
    }
    // With the shadow ends what it had found.
    does(&hub, ["shadow", "d", "--stop"]).await;
    let closed = client.push_until("an end", |push| push["entry"]["state"] == "close").await;
    assert_eq!((&closed["push"], &closed["entry"]["id"]), (&json!("shadow"), &entry["id"]));
    client.event("shadow_stopped", "d").await;
    assert!(hub.plugin("d.shadow").await.is_none());
    assert_eq!(hub.get("/v1/detectors/d/diff").await.status, 404);
}

#[tokio::test]
async fn a_shadow_takes_its_place_with_what_it_has_learned_and_the_one_before_comes_back() {
    // Slow enough that a tick is skipped only if the machine stands still.
    let hub = setup().tick_ms(250).start().await;
    let old = component(&hub, "d").await;
    let file = hub.setup().plugins().join("d.wasm");
    let old_bytes = fs::read(&file).unwrap();
    shadowed(&hub).await;
    found(&hub).await;
    let shadow = hub.plugin("d.shadow").await.unwrap();
    let (new, late) = (shadow["component"].clone(), shadow["late"].as_u64().unwrap());
    let mut client = hub.native().await;
    client.subscribe("hub", Value::Null).await;
    client.subscribe("findings", Value::Null).await;
    let said = does(&hub, ["promote", "d"]).await;
    assert!(said.contains(&format!("promoted to {}", new.as_str().unwrap())), "{said}");
    let event = client.event("promoted", "d").await;
    assert_eq!((&event["to"], &event["handover"]), (&new, &json!("restored")), "{event}");
    // It finds under its own name from now on, with what it knew.
    let finding = client.push_until("a finding", |push| push["push"] == "findings").await;
    let ticks = finding["entry"]["note"].as_str().unwrap().split_once(' ').unwrap().0;
    assert!(ticks.parse::<u64>().unwrap() > 1, "{finding}");
    assert_eq!(finding["entry"]["version"], new);
    let plugin = hub.plugin("d").await.unwrap();
    assert_eq!((&plugin["component"], &plugin["before"]["component"]), (&new, &old), "{plugin}");
    assert!(hub.plugin("d.shadow").await.is_none());
    assert_ne!(fs::read(&file).unwrap(), old_bytes);
    assert_eq!(fs::read_to_string(hub.setup().plugins().join("d.toml")).unwrap(), limit(0.5));
    // What was the shadow's has all ticks, each once, but for those it skipped.
    let skipped = late + plugin["late"].as_u64().unwrap();
    let (_, setup) = hub.stop_with(Signal::TERM).await;
    let [first, last, count, twice] = kept(&setup);
    assert_eq!(twice, 0, "of {first} to {last}");
    assert!(last - first + 1 - count <= skipped + 2, "{count} of {first} to {last}");
    let before = witnessed(&setup.data().join("shadows/d.before.state")).unwrap();
    assert!(before[0] == first && before[1] < last, "{before:?} in {first} to {last}");
    // After a restart too there is something to go back to.
    let hub = setup.start().await;
    assert_eq!(component(&hub, "d").await, new);
    let said = does(&hub, ["rollback", "d"]).await;
    assert!(
        said.contains(&format!("back at {} (state restored)", old.as_str().unwrap())),
        "{said}"
    );
    assert_eq!(fs::read(file_of(&hub)).unwrap(), old_bytes);
    assert_eq!(fs::read_to_string(hub.setup().plugins().join("d.toml")).unwrap(), limit(NEVER));
    let again = detector(&hub, ["rollback", "d"]).await;
    assert!(again.stderr.contains("there is nothing to go back to"), "{again:?}");
    let (_, setup) = hub.stop_with(Signal::TERM).await;
    let [first_after, _, count_after, twice] = kept(&setup);
    assert_eq!((first_after, twice), (first, 0));
    // It knows nothing of what the other was shown after the promotion.
    assert!(count_after >= before[2], "{count_after} after {before:?}");
    let hub = setup.start().await;
    assert_eq!(component(&hub, "d").await, old);
}

fn file_of(hub: &Hub) -> PathBuf {
    hub.setup().plugins().join("d.wasm")
}

#[tokio::test]
async fn a_shadow_survives_a_restart_and_a_crash() {
    let hub = setup().start().await;
    shadowed(&hub).await;
    let since = found(&hub).await["since"].clone();
    let (_, setup) = hub.stop_with(Signal::TERM).await;
    let before = witnessed(&state(&setup, "d.shadow")).unwrap();
    let hub = setup.start().await;
    let shadow = hub.plugin("d.shadow").await.unwrap();
    assert_eq!((&shadow["handover"], &shadow["state"]), (&json!("restored"), &json!("running")));
    assert_eq!(found(&hub).await["since"], since, "it is the same shadow");
    let hub = hub.kill().start().await;
    hub.state("d.shadow", "running").await;
    let (_, setup) = hub.stop_with(Signal::TERM).await;
    let after = witnessed(&state(&setup, "d.shadow")).unwrap();
    assert!(after[0] == before[0] && after[2] > before[2], "{after:?} after {before:?}");
    // Its files are none of the plugins folder.
    let names = fs::read_dir(setup.plugins()).unwrap().map(|f| f.unwrap().file_name());
    let mut names: Vec<_> = names.map(|name| name.into_string().unwrap()).collect();
    names.sort();
    assert_eq!(names, ["d.toml", "d.wasm", "steady.wasm"]);
}

#[tokio::test]
async fn what_a_shadow_does_wrong_is_its_own() {
    for (way, ends) in [("panic", "quarantined"), ("spin", "quarantined"), ("flood", "running")] {
        let hub = setup().start().await;
        let settings = hub.path().join("bad.toml");
        fs::write(&settings, mode(way)).unwrap();
        let file = guest_path("guest_detector");
        let command: [&OsStr; 5] = [
            "shadow".as_ref(),
            "d".as_ref(),
            file.as_os_str(),
            "--settings".as_ref(),
            settings.as_ref(),
        ];
        does(&hub, command).await;
        let is_done = |plugin: &Value| {
            plugin["state"] == ends && (way != "flood" || plugin["refused"]["findings"] != 0)
        };
        let what = format!("be done with {way}");
        hub.plugin_until("d.shadow", &what, is_done).await;
        let live = hub.plugin("d").await.unwrap();
        assert_eq!((&live["state"], &live["faults"]), (&json!("running"), &json!(0)), "{live}");
        assert!(live["calls"]["count"].as_u64().unwrap() > 1, "{live}");
        if way == "flood" {
            continue;
        }
        let refused = detector(&hub, ["promote", "d"]).await;
        assert!(refused.stderr.contains("it has failed"), "{refused:?}");
        assert_eq!(hub.plugin("d").await.unwrap()["component"], live["component"]);
        does(&hub, ["shadow", "d", "--stop"]).await;
    }
}

#[tokio::test]
async fn a_shadow_that_refuses_the_state_starts_cold_and_says_so() {
    let hub = setup().start().await;
    let settings = hub.path().join("cold.toml");
    fs::write(&settings, format!("{}forgetful = true\n", limit(NEVER))).unwrap();
    let file = another(&hub);
    let command: [&OsStr; 5] =
        ["shadow".as_ref(), "d".as_ref(), file.as_ref(), "--settings".as_ref(), settings.as_ref()];
    let said = does(&hub, command).await;
    assert!(said.contains("(state cold)") && said.contains("not to my taste"), "{said}");
    // One that cannot take over what it knew as a shadow leaves the other there.
    let refused = detector(&hub, ["promote", "d"]).await;
    assert!(refused.stderr.contains("d goes on"), "{refused:?}");
    hub.state("d", "running").await;
    hub.state("d.shadow", "running").await;
}

#[tokio::test]
async fn what_can_be_no_shadow_is_told_with_the_way_out() {
    let setup = setup().file("other.toml", "component = \"d.wasm\"\n");
    let hub = setup.start().await;
    let file = another(&hub);
    let file = file.to_str().unwrap();
    let plain = hub.path().join("plain.txt");
    fs::write(&plain, "no component").unwrap();
    for (arguments, words) in [
        (["shadow", "none", file], "no plugin `none`"),
        (["shadow", "steady", file], "only detectors have shadows"),
        (["shadow", "d", file], "other runs d.wasm too"),
        (["shadow", "d", "nowhere.wasm"], "nowhere.wasm"),
    ] {
        let refused = detector(&hub, arguments).await;
        assert_eq!(refused.status.code(), Some(1), "{refused:?}");
        assert!(refused.stderr.contains(words), "it does not say {words:?}: {refused:?}");
    }
    let path = "/v1/detectors/d/promote";
    assert_eq!(hub.ask("POST", path, None).await.status, 401, "it is for admins");
    assert_eq!(hub.ask("GET", path, None).await.status, 405);
    fs::remove_file(hub.setup().plugins().join("other.toml")).unwrap();
    hub.until("other to go", async || hub.plugin("other").await.is_none().then_some(())).await;
    let refused = detector(&hub, ["shadow", "d", plain.to_str().unwrap()]).await;
    assert!(!refused.status.success(), "{refused:?}");
    assert!(hub.plugin("d.shadow").await.is_none(), "nothing is left of it");
    for (arguments, words) in [
        (["promote", "d"], "d has no shadow"),
        (["rollback", "d"], "nothing to go back to"),
        (["diff", "d"], "d has no shadow"),
    ] {
        let refused = detector(&hub, arguments).await;
        assert!(refused.stderr.contains(words), "it does not say {words:?}: {refused:?}");
    }
}

/// Killed at whichever moment of a promotion or of a return, a hub comes back
/// with one of the two versions and its settings.
#[tokio::test]
async fn a_kill_in_the_midst_of_a_promotion_leaves_the_old_or_the_new() {
    let mut setup = setup();
    for round in 0..8u32 {
        let hub = setup.start().await;
        if round == 0 {
            shadowed(&hub).await;
        }
        let is_promoted = hub.plugin("d.shadow").await.is_none();
        let act = if is_promoted { "rollback" } else { "promote" };
        let (door, token) = (*hub, hub.file.admin_token.clone());
        let path = format!("/v1/detectors/d/{act}");
        let asked = tokio::spawn(async move {
            // Nobody answers once it is killed.
            door.try_ask("POST", &path, &token).await
        });
        // What it is to lead to is written at a moment that nobody tells; each
        // round waits for it for another number of looks.
        let shadows = hub.setup().data().join("shadows");
        for _ in 0..round * 40 {
            if shadows.join("d.exchange.json").exists() {
                break;
            }
            tokio::task::yield_now().await;
        }
        setup = hub.kill();
        asked.abort();
        let component = fs::read(setup.plugins().join("d.wasm")).unwrap();
        assert!(component.starts_with(b"\0asm"), "round {round}");
        let hub = setup.start().await;
        let plugin = hub.state("d", "running").await;
        if round > 0 {
            assert_eq!(plugin["handover"], "restored", "round {round}: {plugin}");
        }
        let component = fs::read(file_of(&hub)).unwrap();
        let settings = fs::read_to_string(hub.setup().plugins().join("d.toml")).unwrap();
        let is_new = component == version_of(&guest("guest_witness"), 1);
        assert_eq!(settings, limit(if is_new { 0.5 } else { NEVER }), "round {round}");
        let hash = blake3::hash(&component).to_hex().to_string();
        assert_eq!(plugin["component"], hash[..12], "round {round}");
        assert!(!hub.setup().data().join("shadows/d.exchange.json").exists(), "round {round}");
        if !is_new && hub.plugin("d.shadow").await.is_none() {
            shadowed(&hub).await;
        }
        setup = hub.stop_with(Signal::TERM).await.1;
    }
}
