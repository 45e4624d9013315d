//! Plugins' saved states on disk: one file each, whole or not at all.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::compile_cache::write_private;
use super::instance::Saved;

/// What every state file begins with; the digit is the layout's version.
const MAGIC: &[u8; 8] = b"tt-state";

/// The folder of state files.
#[derive(Clone, Debug)]
pub(crate) struct StateFolder(PathBuf);

impl StateFolder {
    pub(crate) fn open(folder: PathBuf) -> io::Result<Self> {
        fs::create_dir_all(&folder)?;
        Ok(Self(folder))
    }

    /// What the plugin of that name saved last. A file that is damaged is told
    /// and ignored.
    pub(crate) fn read(&self, plugin: &str) -> Option<Saved> {
        let path = self.path(plugin);
        let bytes = fs::read(&path).ok()?;
        let saved = decode(&bytes);
        if saved.is_none() {
            tracing::warn!(file = %path.display(), "a damaged state is ignored");
        }
        saved
    }

    pub(crate) fn write(&self, plugin: &str, saved: &Saved) -> io::Result<()> {
        write_private(&self.path(plugin), &encode(saved))
    }

    fn path(&self, plugin: &str) -> PathBuf {
        Path::new(&self.0).join(format!("{plugin}.state"))
    }
}

/// Magic, the plugin's version, a hash of the bytes, the bytes.
fn encode(saved: &Saved) -> Vec<u8> {
    [&MAGIC[..], &saved.version.to_le_bytes(), blake3::hash(&saved.bytes).as_bytes(), &saved.bytes]
        .concat()
}

fn decode(file: &[u8]) -> Option<Saved> {
    let rest = file.strip_prefix(MAGIC)?;
    let (version, rest) = rest.split_first_chunk::<4>()?;
    let (hash, bytes) = rest.split_first_chunk::<{ blake3::OUT_LEN }>()?;
    (blake3::hash(bytes) == *hash)
        .then(|| Saved { version: u32::from_le_bytes(*version), bytes: bytes.to_vec() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_comes_back_as_it_was_or_not_at_all() {
        let folder = tempfile::tempdir().unwrap();
        let states = StateFolder::open(folder.path().join("states")).unwrap();
        assert_eq!(states.read("p"), None);
        let saved = Saved { version: 3, bytes: vec![1, 2, 3] };
        states.write("p", &saved).unwrap();
        assert_eq!(states.read("p"), Some(saved.clone()));
        let mut damaged = encode(&saved);
        *damaged.last_mut().unwrap() ^= 1;
        for bad in [&damaged[..], &damaged[..20], b""] {
            fs::write(states.path("p"), bad).unwrap();
            assert_eq!(states.read("p"), None);
        }
    }
}
