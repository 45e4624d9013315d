//! How soon a plugin is live, from its file being whole to its values in a
//! snapshot, compiled anew and from the cache, for a large and a small one; how long a hundred plugins take
//! to start; and what it costs to hand a state over.
//!
//! `cargo bench --bench reload` takes half a minute. All figures are wall time,
//! since that is what a user waits for: measure on a quiet machine.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use telltale::app::Hub;
use telltale::config::Config;
use telltale::plugin::place;

/// Short, so that many reloads fit into a short time; a tick is taken off again.
const TICK: Duration = Duration::from_millis(100);
/// Longer than anything here takes on a busy machine.
const LIMIT: Duration = Duration::from_secs(60);

fn main() {
    let measuring = std::env::args().any(|argument| argument == "--bench");
    let (reloads, plugins) = if measuring { (30, 100) } else { (2, 3) };
    let runtime = tokio::runtime::Runtime::new().expect("the system gives a runtime");
    runtime.block_on(async {
        for guest in ["guest_collector", "guest_keeper"] {
            drop_ins(guest, reloads).await;
        }
        start(plugins).await;
        hand_over(reloads).await;
    });
}

/// A hub in a folder of its own.
struct Bench {
    folder: tempfile::TempDir,
}

impl Bench {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        std::fs::create_dir(folder.path().join("plugins")).expect("a plugins folder");
        Self { folder }
    }

    fn plugins(&self) -> PathBuf {
        self.folder.path().join("plugins")
    }

    async fn start(&self) -> Hub {
        let config = Config {
            listen: vec![([127, 0, 0, 1], 0).into()],
            tick: TICK,
            data: self.folder.path().join("data"),
            plugins: Some(self.plugins()),
            ..Config::default()
        };
        Hub::start(config).await.expect("the hub starts")
    }

    fn put(&self, name: &str, component: &[u8]) {
        place(&self.plugins().join(format!("{name}.wasm")), component)
            .expect("the file is written");
    }
}

/// Waits until the plugins of these names have a value in a snapshot.
async fn live(hub: &Hub, names: &[String]) {
    let mut snapshots = hub.snapshot();
    let all_live = async {
        loop {
            let snapshot = snapshots.borrow_and_update().clone();
            let has = |name: &String| {
                let of = |series: &telltale::model::Series| **series.plugin() == **name;
                let mut all = snapshot.roster.series.iter().zip(&snapshot.values);
                all.any(|(series, value)| of(series) && value.is_finite())
            };
            if names.iter().all(has) {
                return;
            }
            snapshots.changed().await.expect("the hub runs");
        }
    };
    tokio::time::timeout(LIMIT, all_live).await.expect("the plugins get live");
}

async fn drop_ins(guest: &str, count: u8) {
    let bench = Bench::new();
    let hub = bench.start().await;
    let (mut anew, mut cached) = (Vec::new(), Vec::new());
    for number in 0..count {
        let component = version_of(guest, number);
        for (name, times) in [("anew", &mut anew), ("cached", &mut cached)] {
            let name = format!("{name}-{number}");
            let begun = Instant::now();
            bench.put(&name, &component);
            live(&hub, &[name]).await;
            times.push(begun.elapsed());
        }
    }
    hub.stop().await;
    let size = version_of(guest, 0).len() / 1024;
    show(&format!("{size} KiB live, compiled anew, less a tick"), &anew, TICK);
    show(&format!("{size} KiB live, from the cache, less a tick"), &cached, TICK);
}

async fn start(count: u8) {
    let bench = Bench::new();
    let names: Vec<String> = (0..count).map(|number| format!("p{number}")).collect();
    for (number, name) in (0..).zip(&names) {
        bench.put(name, &version_of("guest_collector", number));
    }
    let hub = bench.start().await;
    live(&hub, &names).await;
    hub.stop().await;
    let mut times = Vec::new();
    for _ in 0..5 {
        let begun = Instant::now();
        let hub = bench.start().await;
        let mut progress = hub.progress();
        progress.wait_for(|progress| progress.is_over()).await.expect("the hub runs");
        times.push(begun.elapsed());
        live(&hub, &names).await;
        hub.stop().await;
    }
    show(&format!("start of a hub with {count} cached plugins"), &times, Duration::ZERO);
}

async fn hand_over(count: u8) {
    let bench = Bench::new();
    // Its settings make it save so many bytes.
    let settings = format!("[config]\nsize = {}\n", 1 << 20);
    std::fs::write(bench.plugins().join("keeper.toml"), settings).expect("the file is written");
    bench.put("keeper", &version_of("guest_keeper", 0));
    let hub = bench.start().await;
    live(&hub, &["keeper".to_owned()]).await;
    let mut times = Vec::new();
    for number in 1..=count {
        let component = version_of("guest_keeper", number);
        let hash = blake3::hash(&component).to_hex()[..12].to_owned();
        bench.put("keeper", &component);
        let mut snapshots = hub.snapshot();
        let status = loop {
            let status = hub.statuses().get("keeper").expect("it is there");
            if status.component.as_ref() == Some(&hash) {
                break status;
            }
            snapshots.changed().await.expect("the hub runs");
        };
        assert_eq!(status.state_bytes, 1 << 20);
        times.push(Duration::from_secs_f64(status.handover_ms.unwrap_or_default() / 1e3));
    }
    hub.stop().await;
    show("1 MiB of state handed over", &times, Duration::ZERO);
}

/// A guest with other bytes: a custom section says which version it is.
fn version_of(guest: &str, version: u8) -> Vec<u8> {
    let path = Path::new(env!("TELLTALE_GUESTS")).join(format!("{guest}.wasm"));
    let component = std::fs::read(path).expect("host/build.rs has built the guests");
    [component, vec![0, 3, 1, b'v', version]].concat()
}

#[expect(clippy::print_stdout, reason = "a benchmark says what it has measured")]
fn show(what: &str, times: &[Duration], less: Duration) {
    let mut ms: Vec<f64> =
        times.iter().map(|time| (time.as_secs_f64() - less.as_secs_f64()) * 1e3).collect();
    ms.sort_by(f64::total_cmp);
    let (median, most) = (ms[ms.len() / 2], ms[ms.len() - 1]);
    println!("{what:<56} median {median:7.1} ms   max {most:7.1} ms   of {}", ms.len());
}
