use std::net::Ipv4Addr;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use serde_json::{Value, json};

use super::*;

fn files(folder: &Path) -> AuditFiles {
    AuditFiles { file: folder.join("audit.jsonl"), bytes: 1 << 20, files: 3 }
}

fn clock() -> Clock {
    Clock::set_by(Arc::new(AtomicU64::new(1_770_724_800_250_000_000)))
}

fn lines(file: &Path) -> Vec<Value> {
    let text = fs::read_to_string(file).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn refusal(what: &str) -> Note {
    let user = Some("anonymous".into());
    let who = Actor { user, ..Actor::http(Ipv4Addr::LOCALHOST.into()) };
    Note::refused(who, what, "denied")
}

#[tokio::test]
async fn each_note_is_a_line_of_json_that_nobody_else_reads() {
    let folder = tempfile::tempdir().unwrap();
    let files = files(folder.path());
    // One that was there before, for all to read.
    fs::write(&files.file, "{}\n").unwrap();
    fs::set_permissions(&files.file, fs::Permissions::from_mode(0o644)).unwrap();
    let (audit, writer) = Audit::start(files.clone(), clock()).unwrap();
    audit.note(refusal("GET /metrics"));
    audit.note(Note::Published {
        who: Actor { connection: Some(ConnectionId(255)), ..Actor::default() },
        kind: "pr.created".into(),
        id: "e1".into(),
        offset: 7,
        rooms: vec!["project:42".into()],
    });
    writer.stop().await;
    let time = "2026-02-10T12:00:00.250Z";
    assert_eq!(
        lines(&files.file)[1..],
        [
            json!({"time": time, "act": "refused", "dialect": "http", "address": "127.0.0.1",
                "user": "anonymous", "what": "GET /metrics", "why": "denied"}),
            json!({"time": time, "act": "published", "connection": "00000000000000ff",
                "type": "pr.created", "id": "e1", "offset": 7, "rooms": ["project:42"]}),
        ]
    );
    assert_eq!(fs::metadata(&files.file).unwrap().permissions().mode() & 0o777, MODE);
    assert_eq!(audit.counters().written.load(Ordering::Relaxed), 2);
    audit.note(Note::Stopped);
    assert_eq!(audit.counters().dropped.load(Ordering::Relaxed), 1, "nobody writes any more");
}

#[tokio::test]
async fn files_take_turns_and_the_oldest_goes() {
    let folder = tempfile::tempdir().unwrap();
    let files = AuditFiles { bytes: 10_000, ..files(folder.path()) };
    let (audit, writer) = Audit::start(files.clone(), clock()).unwrap();
    let counters = audit.counters();
    for n in 0..2000 {
        audit.note(refusal(&format!("{n}")));
        // One at a time, so that no batch is larger than a file.
        while counters.written.load(Ordering::Relaxed) <= n {
            tokio::task::yield_now().await;
        }
    }
    writer.stop().await;
    let mut found: Vec<_> =
        fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().path()).collect();
    found.sort();
    assert_eq!(
        found,
        ["audit.jsonl", "audit.jsonl.1", "audit.jsonl.2"].map(|f| folder.path().join(f))
    );
    for file in &found {
        let meta = fs::metadata(file).unwrap();
        assert!(meta.len() < 11_000, "{}", meta.len());
        assert_eq!(meta.permissions().mode() & 0o777, MODE);
    }
    assert_eq!(lines(&found[0]).last().unwrap()["what"], "1999");
}

/// A queue that nobody empties.
fn stuck() -> (Audit, Receiver<Order>) {
    let (queue, orders) = sync_channel(2);
    (Audit(Some(Arc::new(Desk { clock: clock(), queue, counters: Arc::default() }))), orders)
}

#[test]
fn what_finds_no_room_is_counted_and_told() {
    let folder = tempfile::tempdir().unwrap();
    let (audit, orders) = stuck();
    (0..5).for_each(|n| audit.note(refusal(&n.to_string())));
    let counters = audit.counters();
    assert_eq!(counters.dropped.load(Ordering::Relaxed), 3);
    let files = files(folder.path());
    drop(audit);
    Paper::open(files.clone(), counters).unwrap().keep(&orders, &clock());
    let lines = lines(&files.file);
    assert_eq!(lines.len(), 3);
    assert_eq!(
        (&lines[1]["what"], &lines[2]["act"], &lines[2]["notes"]),
        (&json!("1"), &json!("dropped"), &json!(3))
    );
}

#[test]
fn a_file_that_was_taken_away_is_begun_anew() {
    let folder = tempfile::tempdir().unwrap();
    let files = files(folder.path());
    let mut paper = Paper::open(files.clone(), Arc::default()).unwrap();
    paper.add(0, &refusal("first"));
    paper.write();
    fs::rename(&files.file, folder.path().join("elsewhere")).unwrap();
    paper.add(0, &refusal("second"));
    paper.write();
    assert_eq!(lines(&files.file)[0]["what"], "second");
}

#[test]
fn a_disk_that_takes_nothing_loses_notes_and_says_so_once_it_does() {
    // What is written there always finds no space left.
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("audit.jsonl");
    std::os::unix::fs::symlink("/dev/full", &file).unwrap();
    let files = files(folder.path());
    let counters = Arc::<AuditCounters>::default();
    let rotate = FileRotate::new(
        &file,
        AppendCount::new(1),
        ContentLimit::BytesSurpassed(1 << 20),
        Compression::None,
        Some(options()),
    );
    let mut paper = Paper {
        file: rotate,
        files: files.clone(),
        counters: counters.clone(),
        batch: Vec::new(),
        notes: 0,
        told_missing: 0,
        is_torn: false,
        is_failing: false,
    };
    for _ in 0..2 {
        paper.add(0, &refusal("lost"));
        paper.write();
    }
    assert_eq!(counters.failed.load(Ordering::Relaxed), 2);
    assert!(paper.is_failing);
    fs::remove_file(&file).unwrap();
    paper.add(0, &refusal("kept"));
    paper.write();
    paper.tell_missing(&clock());
    paper.write();
    let text = fs::read_to_string(&file).unwrap();
    let lines: Vec<_> = text.lines().filter(|line| !line.is_empty()).collect();
    assert!(lines[0].contains("kept") && lines[1].contains("\"notes\":2"), "{text}");
}
