//! Files that are no plugins, that change while they are read, or that do harm
//! as they are started.

use std::fs::File;

use serde_json::{Value, json};

use crate::harness::{Assembled, Hub, Native, Start, guest, version_of};

/// The component with each `from` replaced, which must be as long as `to`.
fn patched(component: &[u8], from: &str, to: &str) -> Vec<u8> {
    let (from, to) = (from.as_bytes(), to.as_bytes());
    assert_eq!(from.len(), to.len());
    let mut patched = component.to_vec();
    let found: Vec<usize> =
        (0..patched.len() - from.len()).filter(|at| patched[*at..].starts_with(from)).collect();
    assert!(!found.is_empty());
    for at in found {
        patched[at..at + to.len()].copy_from_slice(to);
    }
    patched
}

/// A component that has nothing to do with telltale: it is empty.
fn of_another_world() -> Vec<u8> {
    b"\0asm\x0d\0\x01\0".to_vec()
}

#[tokio::test]
async fn files_that_are_no_plugins_are_refused_with_the_way_out() {
    let component = guest("guest_collector");
    let bad = [
        ("another-world", of_another_world(), "it exports neither `collect` nor `detect`"),
        (
            "another-import",
            patched(&component, "telltale:plugin/disk@", "telltale:plugin/dusk@"),
            "it can't be linked: component imports instance `telltale:plugin/dusk@0.1.0`",
        ),
        (
            "another-version",
            patched(&component, "@0.1.0", "@0.2.0"),
            "it is built for telltale:plugin@0.2.0, and this hub speaks 0.1.0",
        ),
        ("core-module", b"\0asm\x01\0\0\0".to_vec(), "it is a core module: build it"),
        ("truncated", component[..component.len() / 2].to_vec(), "is the file whole?"),
        ("garbage", vec![0xa5; 100_000], "it is not WebAssembly at all"),
        ("nearly", [b"\0asm\x0d\0\x01\0", &[0xa5; 1000][..]].concat(), "it is no component"),
        ("nothing", Vec::new(), "it is not WebAssembly at all"),
        (
            "start-traps",
            Assembled { start: Some(Start::Trap), ..Assembled::default() }.component(),
            "it panicked",
        ),
        (
            "start-spins",
            Assembled { start: Some(Start::Spin), ..Assembled::default() }.component(),
            "it computed for more than 100 ms as it was started (limit `configure_ms`)",
        ),
        (
            "large-memory",
            Assembled { pages: 65 * 16, ..Assembled::default() }.component(),
            "it asked for 65 MiB of memory, and may have 64 (limit `memory_mib`)",
        ),
        (
            "large-table",
            Assembled { elements: 9_000_000, ..Assembled::default() }.component(),
            "it asked for more than 100000 table elements",
        ),
    ];
    let mut setup = Hub::new().plugin("steady", "guest_collector", "");
    let oversized = File::create(setup.plugins().join("oversized.wasm")).unwrap();
    oversized.set_len((64 << 20) + 1).unwrap();
    for (name, bytes, _) in &bad {
        setup = setup
            .file(&format!("{name}.toml"), "[limits]\nconfigure_ms = 100\n")
            .file(&format!("{name}.wasm"), bytes);
    }
    let hub = setup.start().await;
    let said = bad.iter().map(|(name, _, words)| (*name, *words));
    for (name, words) in said.chain([("oversized", "is larger than 64 MiB")]) {
        let plugin = hub.state(name, "refused").await;
        let reason = plugin["reason"].as_str().unwrap();
        assert!(reason.contains(words), "{name}: {reason}");
    }
    assert!(hub.series("guest.value").await[0]["value"].is_number());
}

#[tokio::test]
async fn what_is_at_the_limit_of_a_start_is_started() {
    // Its exports trap, so that it is refused by the first, which is `configure`.
    let least = Assembled { pages: 64 * 16, elements: 100_000, start: None };
    let hub = Hub::new().file("least.wasm", least.component()).start().await;
    let plugin = hub.state("least", "refused").await;
    assert!(plugin["reason"].as_str().unwrap().starts_with("it panicked"), "{plugin}");
}

/// A client that sees each value of `steady`.
async fn watch(hub: &Hub) -> (Native, Value) {
    let mut client = hub.native().await;
    let ok = client.subscribe("metrics", json!({"name": "guest.value"})).await;
    let id = ok["snapshot"]["series"][0]["id"].clone();
    assert!(id.is_number(), "{ok}");
    (client, id)
}

/// Waits until the file that was dropped in last is what runs.
async fn settled(hub: &Hub, component: &[u8]) {
    let hash = blake3::hash(component).to_hex()[..12].to_owned();
    let last = |plugin: &Value| plugin["component"] == *hash && plugin["state"] == "running";
    let plugin = hub.plugin_until("steady", "run the last version", last).await;
    assert_eq!((&plugin["faults"], &plugin["reason"]), (&json!(0), &Value::Null), "{plugin}");
}

#[tokio::test]
async fn of_a_hundred_versions_at_once_the_last_one_runs_and_the_series_never_goes() {
    let hub = Hub::new().plugin("steady", "guest_collector", "").start().await;
    let (mut client, id) = watch(&hub).await;
    let component = guest("guest_collector");
    for version in 1..=100 {
        // Every third is only half there.
        let bytes = version_of(&component, version);
        let whole = if version % 3 == 0 { bytes.len() / 2 } else { bytes.len() };
        hub.drop_in("steady", &bytes[..whole]);
    }
    settled(&hub, &version_of(&component, 100)).await;
    let mut values = 0;
    while values < 3 {
        let push = client.next_push().await;
        assert_eq!(push.get("gone"), None, "{push}");
        values += usize::from(Native::value(&push, &id).is_some());
    }
}

#[tokio::test]
async fn a_file_that_changes_while_it_is_read_is_read_again() {
    let hub = Hub::new().plugin("steady", "guest_collector", "").start().await;
    let (mut client, id) = watch(&hub).await;
    let component = guest("guest_collector");
    let path = hub.setup().plugins().join("steady.wasm");
    for round in 1..=5 {
        // It takes a while to read; meanwhile it is overwritten, and replaced.
        let large = padded(&version_of(&component, round), 60 << 20);
        hub.drop_in("steady", &large);
        client.next_push().await;
        std::fs::write(&path, &large[..large.len() / 2]).unwrap();
        hub.drop_in("steady", &version_of(&component, 100 + round));
    }
    settled(&hub, &version_of(&component, 105)).await;
    let fresh = |push: &Value| Native::value(push, &id).is_some();
    client.push_until("a value of the last version", fresh).await;
}

/// The same component with a custom section of so many bytes.
fn padded(component: &[u8], bytes: usize) -> Vec<u8> {
    let length = u32::try_from(bytes + 2).unwrap();
    let leb = [0, 7, 14, 21, 28].map(|shift| {
        let low = u8::try_from(length >> shift & 0x7f).unwrap();
        if shift == 28 { low } else { low | 0x80 }
    });
    [component, &[0], &leb, &[1, b'p'], &vec![0; bytes]].concat()
}
