//! A project's sources, watched.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use notify::event::ModifyKind;
use notify::{EventKind, RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::mpsc;

use super::Failure;

/// How long nothing may change before a change counts as done: editors write a
/// file in several steps.
const QUIET: Duration = Duration::from_millis(200);
/// And how long at most this is waited for.
const QUIET_WITHIN: Duration = Duration::from_secs(2);
/// Folders that are watched: each costs the system a little. A project that has
/// more has others' sources in it.
const FOLDERS_MAX: usize = 1000;

/// Watches what a project is built from, and not what is built.
pub(super) struct Sources {
    folder: PathBuf,
    watcher: RecommendedWatcher,
    watched: BTreeSet<PathBuf>,
    touched: mpsc::Receiver<()>,
}

impl Sources {
    /// Begins to watch.
    ///
    /// # Errors
    ///
    /// The system doesn't let it.
    pub(super) fn watch(folder: &Path) -> Result<Self, Failure> {
        let folder = folder
            .canonicalize()
            .map_err(|error| Failure::new(format!("{}: {error}", folder.display())))?;
        // One message says as much as many: look again.
        let (touch, touched) = mpsc::channel(1);
        let root = folder.clone();
        let heard = move |event: notify::Result<notify::Event>| {
            if event.is_ok_and(|event| matters(&root, &event)) {
                let _ = touch.try_send(());
            }
        };
        let watcher = notify::recommended_watcher(heard).map_err(Failure::new)?;
        let mut sources = Self { folder, watcher, watched: BTreeSet::new(), touched };
        sources.follow();
        Ok(sources)
    }

    /// Waits for a change, and for its end.
    pub(super) async fn changed(&mut self) {
        if self.touched.recv().await.is_none() {
            return std::future::pending().await;
        }
        let quiet =
            async { while tokio::time::timeout(QUIET, self.touched.recv()).await.is_ok() {} };
        // Whoever writes all the time gets a build now and then.
        let _ = tokio::time::timeout(QUIET_WITHIN, quiet).await;
        self.follow();
    }

    /// Watches the folders that are there now.
    fn follow(&mut self) {
        let mut folders = vec![self.folder.clone()];
        let mut found = BTreeSet::new();
        while let Some(folder) = folders.pop() {
            if found.len() == FOLDERS_MAX {
                break;
            }
            let entries = std::fs::read_dir(&folder).into_iter().flatten().flatten();
            let inner = entries.map(|entry| entry.path()).filter(|path| {
                path.is_dir() && !path.is_symlink() && path.file_name().is_some_and(is_source)
            });
            folders.extend(inner);
            found.insert(folder);
        }
        for folder in found.difference(&self.watched) {
            // One that is gone again has nothing to tell.
            let _ = self.watcher.watch(folder, RecursiveMode::NonRecursive);
        }
        self.watched = found;
    }
}

/// Whether something was written that a build might read.
fn matters(root: &Path, event: &notify::Event) -> bool {
    let written = match event.kind {
        EventKind::Create(_) | EventKind::Remove(_) | EventKind::Any | EventKind::Other => true,
        EventKind::Modify(ModifyKind::Metadata(_)) | EventKind::Access(_) => false,
        EventKind::Modify(_) => true,
    };
    let source = |path: &PathBuf| path.strip_prefix(root).unwrap_or(path).iter().all(is_source);
    written && (event.paths.is_empty() || event.paths.iter().any(source))
}

/// Whether a name is one of a source or its folder, and not of what tools make
/// or keep.
fn is_source(name: &std::ffi::OsStr) -> bool {
    const MADE: [&str; 7] = [
        "build",
        "target",
        "node_modules",
        "__pycache__",
        "venv",
        "Cargo.lock",
        "package-lock.json",
    ];
    let name = name.to_string_lossy();
    let made = MADE.contains(&&*name) || name.ends_with(".wasm") || name.ends_with('~');
    !made && !name.starts_with('.')
}

#[cfg(test)]
mod tests {
    use notify::event::{AccessKind, CreateKind, DataChange};

    use super::*;

    fn event(kind: EventKind, path: &str) -> bool {
        matters(Path::new("/p"), &notify::Event::new(kind).add_path(path.into()))
    }

    #[test]
    fn what_tools_make_is_no_source() {
        let written = EventKind::Modify(ModifyKind::Data(DataChange::Any));
        for source in ["/p/app.js", "/p/src/lib.rs", "/p/telltale-plugin.toml", "/p/wasm/a.c"] {
            assert!(event(written, source), "{source}");
        }
        for made in [
            "/p/build/gen/collector.c",
            "/p/target/release/x",
            "/p/node_modules/a/b.js",
            "/p/dice.wasm",
            "/p/.dice.wasm.77",
            "/p/.git/index",
            "/p/Cargo.lock",
            "/p/app.js~",
        ] {
            assert!(!event(written, made), "{made}");
        }
        assert!(event(EventKind::Create(CreateKind::File), "/p/new.c"));
        assert!(!event(EventKind::Access(AccessKind::Any), "/p/app.js"), "a build reads it");
    }

    #[tokio::test]
    async fn a_change_is_told_once_also_in_a_folder_that_is_new() {
        let folder = tempfile::tempdir().unwrap();
        let mut sources = Sources::watch(folder.path()).unwrap();
        let limit = Duration::from_secs(30);
        std::fs::create_dir(folder.path().join("src")).unwrap();
        tokio::time::timeout(limit, sources.changed()).await.unwrap();
        std::fs::write(folder.path().join("src/lib.rs"), "fn main() {}").unwrap();
        tokio::time::timeout(limit, sources.changed()).await.unwrap();
        assert!(sources.touched.try_recv().is_err());
    }
}
