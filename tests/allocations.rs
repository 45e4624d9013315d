//! What a broadcast allocates, counted. A binary of its own, since the
//! allocator is the whole program's.
#![expect(clippy::unwrap_used, reason = "a test that can't go on is to end where it stands")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::io::Read;
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use telltale::access::{Access, Identity};
use telltale::channel::{Channels, Feed, RecentBounds, Subscribe, Surroundings, Who, channels};
use telltale::clock::Clock;
use telltale::dialect::native::Native;
use telltale::gate::{Budget, GateIo, Gates};
use telltale::model::{
    Answer, Batch, ConnectionId, Kind, Labels, Series, SeriesId, SeriesKey, SeriesSpec, Tick,
};
use telltale::plugin::Statuses;
use telltale::session::{Act, Client, Dialect, HubFacts, Received};
use telltale::shutdown;
use telltale::snapshot::{Freezer, Snapshot};
use telltale::store::{Store, StoreConfig};
use tokio::net::TcpListener;
use tokio::sync::watch;

/// Counts what each thread allocates.
struct Counting;

#[global_allocator]
static COUNTING: Counting = Counting;

thread_local! {
    static COUNT: Cell<u64> = const { Cell::new(0) };
}

#[expect(unsafe_code, reason = "it only counts, and leaves the work to the system's allocator")]
// SAFETY: all is passed on as it comes.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        unsafe { System.alloc(layout) }
    }

    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count();
        unsafe { System.realloc(memory, layout, size) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        unsafe { System.dealloc(memory, layout) }
    }
}

fn count() {
    // An error means that the thread ends.
    let _ = COUNT.try_with(|count| count.set(count.get() + 1));
}

/// Ticks of which the cheapest counts: queues grow now and then.
const TICKS: u64 = 40;

#[test]
fn adding_a_subscriber_to_a_broadcast_allocates_nothing() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    for wish in ["", r#","form":"full""#] {
        let [few, many] = [10, 100].map(|clients| runtime.block_on(broadcast(clients, wish)));
        assert!(few > 0, "nothing was counted");
        assert_eq!(few, many, "allocations of a tick for 10 clients, and for 100");
    }
}

/// The allocations of one tick that is told to so many clients.
async fn broadcast(clients: u64, wish: &str) -> u64 {
    let folder = tempfile::tempdir().unwrap();
    let (channels, task) = channels();
    let config = StoreConfig {
        folder: folder.path().to_owned(),
        retention_age: Duration::from_secs(3600),
        retention_bytes: 1 << 30,
        boards_bytes: 1 << 26,
        clock: Clock::system(),
    };
    let (store, _) = Store::open(config, channels.logged()).unwrap();
    let budget = Budget::new(64 << 20);
    let gates = Gates::new(1000, Duration::from_secs(600), budget.clone());
    let (stop, shutdown) = shutdown::channel();
    let surroundings = Surroundings {
        feed: Feed::new(Statuses::default(), Clock::system(), "k3".into(), 0),
        recent: Vec::new(),
        recent_floor: 0,
        recent_bounds: RecentBounds::default(),
        reader: store.reader(),
        budget,
        audit: telltale::audit::Audit::off(),
        watching: watch::channel(Arc::default()).0,
    };
    let task = tokio::spawn(task.run(surroundings, shutdown));
    let snapshots = snapshots();
    channels.publish(snapshots[0].clone());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (mut ios, mut readers) = (Vec::new(), Vec::new());
    let mut received = Vec::new();
    for _ in 0..clients {
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        received.push(Arc::new(AtomicUsize::new(0)));
        readers.push(read(client, received[received.len() - 1].clone()));
        let (socket, _) = listener.accept().await.unwrap();
        let io = GateIo::plain(gates.enter().unwrap(), socket);
        subscribe(&channels, &io, wish);
        ios.push(io);
    }
    while ios.iter().any(|io| io.seat().is_none()) {
        tokio::task::yield_now().await;
    }
    let counters = channels.counters();
    let mut told = 0;
    let (mut least, mut had) = (u64::MAX, 0);
    for snapshot in snapshots.into_iter().skip(1) {
        let before = COUNT.get();
        channels.publish(snapshot);
        told += clients;
        while counters.delivered.load(Ordering::Relaxed) < told {
            tokio::task::yield_now().await;
        }
        least = least.min(COUNT.get() - before);
        // There is no session that would write what finds no room.
        let now = |received: &AtomicUsize| received.load(Ordering::Relaxed);
        while received.iter().any(|of_one| now(of_one) <= had || now(of_one) != now(&received[0])) {
            tokio::task::yield_now().await;
        }
        had = now(&received[0]);
    }
    assert_eq!(counters.skipped.load(Ordering::Relaxed), 0);
    assert_eq!(counters.frames.load(Ordering::Relaxed), TICKS);
    stop.fire();
    task.await.unwrap();
    drop(ios);
    readers.into_iter().for_each(|reader| reader.join().unwrap());
    assert!(had as u64 > TICKS * 1000, "{had} bytes");
    store.close().await;
    least
}

/// Reads on a thread whose allocations nobody asks for.
fn read(mut client: TcpStream, received: Arc<AtomicUsize>) -> std::thread::JoinHandle<()> {
    std::thread::spawn(move || {
        let mut buffer = [0; 16 * 1024];
        while let Ok(read @ 1..) = client.read(&mut buffer) {
            received.fetch_add(read, Ordering::Relaxed);
        }
    })
}

fn subscribe(channels: &Channels, io: &GateIo, wish: &str) {
    let facts = HubFacts {
        name: "hub".into(),
        version: "0",
        tick: Duration::from_secs(1),
        heartbeat: Duration::from_secs(25),
        epoch: "k3".into(),
        admin_token: "token".into(),
    };
    let address = std::net::IpAddr::from([127, 0, 0, 1]);
    let client = Client::new(ConnectionId(1), "native", address, 0, Some(Identity::open()));
    let mut native = Native::new(Clock::system(), Arc::new(facts), Access::open(), client);
    let command = format!(r#"{{"id":1,"op":"subscribe","channel":"metrics"{wish}}}"#);
    for act in native.receive(Received::Text(&command)) {
        let Act::Subscribe { only, key, lane, resume, reply, refusal } = act else {
            panic!("{command} is no subscription")
        };
        let gate = (**io).clone();
        let who = Who { connection: None, user: "ana".into() };
        channels.subscribe(Subscribe {
            who,
            gate,
            only,
            key,
            lane,
            resume,
            may_enter: Box::new(|_| true),
            reply,
            refusal,
        });
    }
}

/// Ticks of 100 series, all of whose values change.
fn snapshots() -> Vec<Arc<Snapshot>> {
    let series = |id: u32| {
        let key = SeriesKey {
            plugin: "steady".into(),
            name: format!("value.{id}").into(),
            labels: Labels::default(),
        };
        let spec = SeriesSpec::new(key, Kind::Gauge, "1".into(), "".into()).unwrap();
        Arc::new(Series { id: SeriesId(id), spec, interval_ns: 1_000_000_000 })
    };
    let mut freezer = Freezer::default();
    let tick = |number: u64| {
        freezer.begin(Tick { number, time_ns: number * 1_000_000_000 });
        let declare = if number == 1 { (0..100).map(series).collect() } else { vec![] };
        let values = (0..100).map(|id| (SeriesId(id), 1000.5 + (number % 2) as f64)).collect();
        let batch = Batch { restarted: number == 1, declare, values, ..Batch::default() };
        freezer.apply(Answer { plugin: "steady".into(), outcome: Ok(batch) });
        freezer.freeze()
    };
    (1..=TICKS + 1).map(tick).collect()
}
