//! Plugins' saved states on disk: whole or not at all, and those of a version
//! on probation apart from those of the last good one.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::compile_cache::{sweep_unfinished, write_private};
use super::instance::Saved;

/// What every state file begins with; the digit is the layout's version.
const MAGIC: &[u8; 8] = b"ttstate2";

/// The folder of state files: `NAME.state`, and `NAME.trial.state` of a version
/// that has not proved itself.
#[derive(Clone, Debug)]
pub(crate) struct StateFolder(PathBuf);

/// Whose state it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    /// The last good version's.
    Good,
    /// That of a version on probation.
    Trial,
}

/// A state, and the component that saved it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Kept {
    pub(crate) component: blake3::Hash,
    pub(crate) saved: Saved,
}

impl StateFolder {
    pub(crate) fn open(folder: PathBuf) -> io::Result<Self> {
        fs::create_dir_all(&folder)?;
        sweep_unfinished(&folder)?;
        Ok(Self(folder))
    }

    /// What to hand to an instance of `component` when the hub starts: what the
    /// same component saved on probation, or else what the last good one saved.
    pub(crate) fn read_for(&self, plugin: &str, component: blake3::Hash) -> Option<Saved> {
        self.read(plugin, Standing::Trial)
            .filter(|kept| kept.component == component)
            .or_else(|| self.read(plugin, Standing::Good))
            .map(|kept| kept.saved)
    }

    /// What the plugin of that name saved last. A file that is damaged is told
    /// and ignored.
    pub(crate) fn read(&self, plugin: &str, standing: Standing) -> Option<Kept> {
        let path = self.path(plugin, standing);
        let bytes = fs::read(&path).ok()?;
        let kept = decode(&bytes);
        if kept.is_none() {
            tracing::warn!(file = %path.display(), "a damaged state is ignored");
        }
        kept
    }

    /// Whether an instance of `component` has saved anything after `time`.
    pub(crate) fn has_newer(
        &self,
        plugin: &str,
        component: blake3::Hash,
        time: std::time::SystemTime,
    ) -> bool {
        [Standing::Trial, Standing::Good].into_iter().any(|standing| {
            let modified = fs::metadata(self.path(plugin, standing)).and_then(|m| m.modified());
            modified.is_ok_and(|modified| modified > time)
                && self.read(plugin, standing).is_some_and(|kept| kept.component == component)
        })
    }

    /// Keeps a state. That of a good version ends what was kept of a trial.
    pub(crate) fn write(&self, plugin: &str, standing: Standing, kept: &Kept) -> io::Result<()> {
        write_private(&self.path(plugin, standing), &encode(kept))?;
        if standing == Standing::Good {
            self.forget(plugin, Standing::Trial)?;
        }
        Ok(())
    }

    /// Removes a state, if there is one.
    pub(crate) fn forget(&self, plugin: &str, standing: Standing) -> io::Result<()> {
        match fs::remove_file(self.path(plugin, standing)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    fn path(&self, plugin: &str, standing: Standing) -> PathBuf {
        let ending = match standing {
            Standing::Good => "state",
            Standing::Trial => "trial.state",
        };
        Path::new(&self.0).join(format!("{plugin}.{ending}"))
    }
}

/// Magic, the component's hash, the plugin's version, a hash of the bytes, the
/// bytes.
fn encode(Kept { component, saved }: &Kept) -> Vec<u8> {
    let version = saved.version.to_le_bytes();
    let hash = blake3::hash(&saved.bytes);
    [&MAGIC[..], component.as_bytes(), &version, hash.as_bytes(), &saved.bytes].concat()
}

fn decode(file: &[u8]) -> Option<Kept> {
    let rest = file.strip_prefix(MAGIC)?;
    let (component, rest) = rest.split_first_chunk::<{ blake3::OUT_LEN }>()?;
    let (version, rest) = rest.split_first_chunk::<4>()?;
    let (hash, bytes) = rest.split_first_chunk::<{ blake3::OUT_LEN }>()?;
    if blake3::hash(bytes) != *hash {
        return None;
    }
    let bytes = bytes.to_vec().into();
    let saved = Saved { version: u32::from_le_bytes(*version), bytes };
    Some(Kept { component: blake3::Hash::from_bytes(*component), saved })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept(by: &[u8], byte: u8) -> Kept {
        let saved = Saved { version: 3, bytes: vec![byte; 3].into() };
        Kept { component: blake3::hash(by), saved }
    }

    fn folder() -> (tempfile::TempDir, StateFolder) {
        let folder = tempfile::tempdir().unwrap();
        let states = StateFolder::open(folder.path().join("states")).unwrap();
        (folder, states)
    }

    #[test]
    fn a_state_comes_back_as_it_was_or_not_at_all() {
        let (_folder, states) = folder();
        assert_eq!(states.read("p", Standing::Good), None);
        let saved = kept(b"a", 1);
        states.write("p", Standing::Good, &saved).unwrap();
        assert_eq!(states.read("p", Standing::Good), Some(saved.clone()));
        let mut damaged = encode(&saved);
        *damaged.last_mut().unwrap() ^= 1;
        for bad in [&damaged[..], &damaged[..20], b""] {
            fs::write(states.path("p", Standing::Good), bad).unwrap();
            assert_eq!(states.read("p", Standing::Good), None);
        }
    }

    #[test]
    fn a_trial_keeps_its_state_to_itself_until_it_is_good() {
        let (_folder, states) = folder();
        let (good, trial) = (kept(b"old", 1), kept(b"new", 2));
        states.write("p", Standing::Good, &good).unwrap();
        states.write("p", Standing::Trial, &trial).unwrap();
        assert_eq!(states.read_for("p", blake3::hash(b"new")), Some(trial.saved.clone()));
        assert_eq!(states.read_for("p", blake3::hash(b"old")), Some(good.saved));
        states.write("p", Standing::Good, &trial).unwrap();
        assert_eq!(states.read_for("p", blake3::hash(b"old")), Some(trial.saved));
        assert_eq!(states.read("p", Standing::Trial), None);
    }
}
