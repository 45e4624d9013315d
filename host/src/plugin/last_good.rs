//! The last good version of each plugin: a component that has passed its
//! probation, with its settings, so that a later one that fails has something
//! to return to, after a restart of the hub too.

use std::collections::HashSet;
use std::fmt;
use std::fs;
use std::io;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::compile_cache::{sweep_unfinished, write_private};

/// The folder of last good versions: `NAME.json`, and the components that these
/// name by their hash, since several plugins may run one.
/// One task writes: see `archive`.
#[derive(Clone, Debug)]
pub(crate) struct LastGoodFolder(PathBuf);

/// What is kept of a last good version.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct LastGood {
    /// The BLAKE3 hash of its component, in hexadecimal digits.
    pub(crate) component: String,
    /// The text of its settings.
    pub(crate) settings: String,
    /// When it passed, RFC 3339.
    pub(crate) since: String,
}

/// Without the settings, where passwords may be.
impl fmt::Debug for LastGood {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct("LastGood");
        shown.field("component", &self.component).field("since", &self.since);
        shown.finish_non_exhaustive()
    }
}

impl LastGoodFolder {
    pub(crate) fn open(folder: PathBuf) -> io::Result<Self> {
        fs::create_dir_all(&folder)?;
        sweep_unfinished(&folder)?;
        Ok(Self(folder))
    }

    /// The last good version of a plugin, if there is one.
    pub(crate) fn read(&self, plugin: &str) -> Option<LastGood> {
        let text = fs::read(self.record(plugin)).ok()?;
        serde_json::from_slice(&text)
            .inspect_err(|error| tracing::warn!(plugin, %error, "its last good version is lost"))
            .ok()
    }

    /// The component of a last good version, if it is whole.
    pub(crate) fn component(&self, last_good: &LastGood) -> Option<Vec<u8>> {
        self.of_hash(&last_good.component)
    }

    /// The component of that hash, if it is here and whole.
    pub(crate) fn of_hash(&self, hash: &str) -> Option<Vec<u8>> {
        let expected = blake3::Hash::from_hex(hash).ok()?;
        let bytes = fs::read(self.file(hash)).ok()?;
        (blake3::hash(&bytes) == expected).then_some(bytes)
    }

    /// Keeps a version as the last good one, and lets go of the component
    /// before it if that is nobody's any more. Without `bytes` the component is
    /// here already.
    pub(crate) fn keep(
        &self,
        plugin: &str,
        last_good: &LastGood,
        bytes: Option<&[u8]>,
    ) -> io::Result<()> {
        if let Some(bytes) = bytes
            && self.component(last_good).is_none()
        {
            write_private(&self.file(&last_good.component), bytes)?;
        }
        if self.component(last_good).is_none() {
            return Err(io::Error::other("its component is not there, or is damaged"));
        }
        let before = self.read(plugin);
        write_private(&self.record(plugin), &serde_json::to_vec(last_good)?)?;
        match before {
            Some(before) if before.component != last_good.component => self.sweep(),
            _ => Ok(()),
        }
    }

    /// Forgets a plugin that is not to come back.
    pub(crate) fn forget(&self, plugin: &str) -> io::Result<()> {
        match fs::remove_file(self.record(plugin)) {
            Ok(()) => self.sweep(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error),
        }
    }

    fn sweep(&self) -> io::Result<()> {
        let (mut used, mut components) = (HashSet::new(), Vec::new());
        for entry in fs::read_dir(&self.0)? {
            let path = entry?.path();
            let stem = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
            match path.extension().and_then(|ending| ending.to_str()) {
                Some("json") => used.extend(self.read(&stem).map(|good| good.component)),
                Some("wasm") => components.push((stem, path)),
                _ => {}
            }
        }
        for (hash, path) in components {
            if !used.contains(&hash) {
                fs::remove_file(path)?;
            }
        }
        Ok(())
    }

    fn record(&self, plugin: &str) -> PathBuf {
        self.0.join(format!("{plugin}.json"))
    }

    fn file(&self, hash: &str) -> PathBuf {
        self.0.join(format!("{hash}.wasm"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn good(bytes: &[u8]) -> LastGood {
        let component = blake3::hash(bytes).to_hex().to_string();
        LastGood { component, settings: "interval = \"5s\"".into(), since: "then".into() }
    }

    #[test]
    fn a_version_is_found_again_and_its_component_goes_with_the_last_who_has_it() {
        let folder = tempfile::tempdir().unwrap();
        let kept = LastGoodFolder::open(folder.path().to_owned()).unwrap();
        assert_eq!(kept.read("a"), None);
        kept.keep("a", &good(b"one"), Some(b"one")).unwrap();
        kept.keep("b", &good(b"one"), None).unwrap();
        kept.keep("a", &good(b"two"), Some(b"two")).unwrap();
        assert_eq!(kept.read("a"), Some(good(b"two")));
        assert_eq!(kept.component(&good(b"one")).unwrap(), b"one");
        kept.forget("b").unwrap();
        kept.forget("b").unwrap();
        assert_eq!(kept.component(&good(b"one")), None);
        fs::write(kept.file(&good(b"two").component), b"tw").unwrap();
        assert_eq!(kept.component(&good(b"two")), None, "damaged");
    }
}
