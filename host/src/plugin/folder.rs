//! The plugins folder: which files are in it, and whether they are whole.
//!
//! The system tells when a file was closed after writing or moved into place;
//! where it doesn't, a file counts as whole once it has stayed the same for a
//! while. Whatever the system tells only says *look again*: what is true is
//! what the folder shows.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use notify::event::{AccessKind, AccessMode, ModifyKind};
use notify::{EventKind, RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::mpsc;

/// How long a file that nobody announced must stay the same.
const SETTLE: Duration = Duration::from_millis(300);
/// The same for a file that somebody has begun to write and has not closed.
const SETTLE_WRITING: Duration = Duration::from_secs(5);
/// How often the folder is looked at unasked: file systems of other machines
/// announce nothing.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// Announcements that may wait: a thousand plugins that are copied at once make
/// four each. When more come, one look at the folder makes up for all that are
/// lost, though what they were about has to settle.
const EVENTS_MAX: usize = 4096;

/// What tells one content of a file from another without reading it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Fingerprint {
    inode: u64,
    bytes: u64,
    modified_ns: i128,
}

impl Fingerprint {
    pub(crate) fn of(metadata: &std::fs::Metadata) -> Self {
        let modified_ns =
            i128::from(metadata.mtime()) * 1_000_000_000 + i128::from(metadata.mtime_nsec());
        Self { inode: metadata.ino(), bytes: metadata.len(), modified_ns }
    }
}

/// The whole files of the folder that matter (`*.wasm`, `*.toml`), by name.
pub(crate) type View = Arc<BTreeMap<String, Fingerprint>>;

/// Watches a folder.
pub(crate) struct Folder {
    path: PathBuf,
    watcher: Option<RecommendedWatcher>,
    events: mpsc::Receiver<Touched>,
    sender: mpsc::Sender<Touched>,
    look: Look,
}

/// A file was touched.
#[derive(Debug)]
struct Touched {
    name: String,
    /// Whether it was closed or moved into place, or is being written.
    whole: bool,
}

impl Folder {
    /// Begins to watch `path`, and takes all that is in it for whole.
    ///
    /// # Errors
    ///
    /// The folder can't be read.
    pub(crate) fn open(path: PathBuf) -> io::Result<(Self, View)> {
        let (sender, events) = mpsc::channel(EVENTS_MAX);
        let mut folder = Self { path, watcher: None, events, sender, look: Look::default() };
        folder.watch();
        let now = Instant::now();
        let found = scan(&folder.path)?;
        folder.look.closed.extend(found.keys().cloned());
        let view = folder.look.take(found, now);
        Ok((folder, view))
    }

    /// The next view that differs from the last one.
    ///
    /// Cancel-safe: what was announced is kept in `self`.
    pub(crate) async fn changed(&mut self) -> View {
        loop {
            let wait = self.look.next_look(Instant::now()).min(LOOK_EVERY);
            tokio::select! {
                touched = self.events.recv() => self.note(touched),
                () = tokio::time::sleep(wait) => {}
            }
            while let Ok(touched) = self.events.try_recv() {
                self.note(Some(touched));
            }
            if self.watcher.is_none() {
                self.watch();
            }
            match scan(&self.path) {
                Ok(found) => {
                    let before = self.look.view.clone();
                    let view = self.look.take(found, Instant::now());
                    if view != before {
                        return view;
                    }
                }
                Err(error) => {
                    // What runs goes on; the folder may come back.
                    tracing::warn!(folder = %self.path.display(), %error, "plugins folder");
                    self.watcher = None;
                }
            }
        }
    }

    fn note(&mut self, touched: Option<Touched>) {
        let Some(Touched { name, whole }) = touched else { return };
        if whole {
            self.look.writing.remove(&name);
            self.look.closed.insert(name);
        } else {
            self.look.closed.remove(&name);
            self.look.writing.insert(name);
        }
    }

    fn watch(&mut self) {
        let sender = self.sender.clone();
        let announce = move |event: notify::Result<notify::Event>| {
            let Ok(event) = event else { return };
            let whole = match event.kind {
                EventKind::Access(AccessKind::Close(AccessMode::Write))
                | EventKind::Modify(ModifyKind::Name(_))
                | EventKind::Remove(_) => true,
                EventKind::Create(_) | EventKind::Modify(ModifyKind::Data(_)) => false,
                _ => return,
            };
            for path in event.paths {
                let Some(name) = path.file_name().and_then(|name| name.to_str()) else { continue };
                // When the queue is full a look is due anyway.
                let _ = sender.try_send(Touched { name: name.to_owned(), whole });
            }
        };
        let watcher = notify::recommended_watcher(announce).and_then(|mut watcher| {
            watcher.watch(&self.path, RecursiveMode::NonRecursive)?;
            Ok(watcher)
        });
        match watcher {
            Ok(watcher) => self.watcher = Some(watcher),
            Err(error) => {
                tracing::warn!(folder = %self.path.display(), %error, "the folder is looked at every few seconds only");
            }
        }
    }
}

/// What is known of the folder's files.
#[derive(Debug, Default)]
struct Look {
    view: View,
    /// Files that were closed or moved into place since the last look.
    closed: HashSet<String>,
    /// Files that somebody has begun to write.
    writing: HashSet<String>,
    /// Files that have changed and aren't known to be whole.
    settling: HashMap<String, (Fingerprint, Instant)>,
}

impl Look {
    /// The view after looking: of a file that isn't whole, the last whole one.
    fn take(&mut self, found: BTreeMap<String, Fingerprint>, now: Instant) -> View {
        let mut next = BTreeMap::new();
        self.settling.retain(|name, _| found.contains_key(name));
        self.writing.retain(|name| found.contains_key(name));
        for (name, print) in found {
            let before = self.view.get(&name).copied();
            let whole = before == Some(print) || self.closed.contains(&name) || {
                let (seen, since) = self.settling.entry(name.clone()).or_insert((print, now));
                if *seen != print {
                    (*seen, *since) = (print, now);
                }
                now - *since >= settle(&self.writing, &name)
            };
            if whole {
                self.settling.remove(&name);
                next.insert(name, print);
            } else if let Some(before) = before {
                next.insert(name, before);
            }
        }
        self.closed.clear();
        self.await_settings(&mut next, now);
        if next != *self.view {
            self.view = Arc::new(next);
        }
        self.view.clone()
    }

    /// A component that comes with settings is not whole before they are: it
    /// would be started without them.
    fn await_settings(&mut self, next: &mut BTreeMap<String, Fingerprint>, now: Instant) {
        let settling = self.settling.keys().filter_map(|name| name.strip_suffix(".toml"));
        let components: Vec<String> = settling.map(|stem| format!("{stem}.wasm")).collect();
        for component in components {
            if !self.view.contains_key(&component)
                && let Some(print) = next.remove(&component)
            {
                self.settling.insert(component, (print, now));
            }
        }
    }

    /// How long until a file may have settled.
    fn next_look(&self, now: Instant) -> Duration {
        let left = |(name, (_, since)): (&String, &(Fingerprint, Instant))| {
            (*since + settle(&self.writing, name)).saturating_duration_since(now)
        };
        self.settling.iter().map(left).min().unwrap_or(LOOK_EVERY)
    }
}

fn settle(writing: &HashSet<String>, name: &str) -> Duration {
    if writing.contains(name) { SETTLE_WRITING } else { SETTLE }
}

/// The files that matter, and what tells their content.
fn scan(path: &Path) -> io::Result<BTreeMap<String, Fingerprint>> {
    let mut files = BTreeMap::new();
    for entry in std::fs::read_dir(path)? {
        let entry = entry?;
        let Ok(name) = entry.file_name().into_string() else { continue };
        if name.starts_with('.') || !(name.ends_with(".wasm") || name.ends_with(".toml")) {
            continue;
        }
        // Follows links: what counts is the content behind them. A file that
        // is gone meanwhile is gone.
        let Ok(metadata) = std::fs::metadata(entry.path()) else { continue };
        if !metadata.is_file() {
            continue;
        }
        files.insert(name, Fingerprint::of(&metadata));
    }
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn print(bytes: u64) -> Fingerprint {
        Fingerprint { inode: 1, bytes, modified_ns: 0 }
    }

    fn found(files: &[(&str, u64)]) -> BTreeMap<String, Fingerprint> {
        files.iter().map(|&(name, bytes)| (name.to_owned(), print(bytes))).collect()
    }

    #[test]
    fn a_file_that_was_closed_is_whole_at_once() {
        let mut look = Look::default();
        look.closed.insert("a.wasm".into());
        let view = look.take(found(&[("a.wasm", 1), ("b.wasm", 1)]), Instant::now());
        assert_eq!(*view, found(&[("a.wasm", 1)]));
    }

    #[test]
    fn a_file_that_nobody_announced_must_settle() {
        let (mut look, start) = (Look::default(), Instant::now());
        assert!(look.take(found(&[("a.wasm", 1)]), start).is_empty());
        assert!(look.take(found(&[("a.wasm", 2)]), start + SETTLE).is_empty(), "it has grown");
        assert_eq!(look.next_look(start + SETTLE), SETTLE);
        assert_eq!(look.take(found(&[("a.wasm", 2)]), start + SETTLE * 2).len(), 1);
    }

    #[test]
    fn a_new_component_waits_for_its_settings() {
        let (mut look, start) = (Look::default(), Instant::now());
        let files = found(&[("a.toml", 1), ("a.wasm", 1)]);
        look.closed.insert("a.wasm".into());
        assert!(look.take(files.clone(), start).is_empty(), "nobody announced the settings");
        assert_eq!(*look.take(files.clone(), start + SETTLE), files);
        // One that runs goes on while its settings change.
        let changed = found(&[("a.toml", 2), ("a.wasm", 1)]);
        assert_eq!(*look.take(changed, start + SETTLE), files);
    }

    #[test]
    fn a_file_that_is_being_written_stays_what_it_was() {
        let (mut look, start) = (Look::default(), Instant::now());
        look.closed.insert("a.wasm".into());
        let old = look.take(found(&[("a.wasm", 1)]), start);
        look.writing.insert("a.wasm".into());
        assert_eq!(look.take(found(&[("a.wasm", 2)]), start), old);
        assert_eq!(look.take(found(&[("a.wasm", 2)]), start + SETTLE), old);
        assert_ne!(look.take(found(&[("a.wasm", 2)]), start + SETTLE_WRITING), old);
        assert!(look.take(found(&[]), start + SETTLE_WRITING).is_empty());
    }
}
