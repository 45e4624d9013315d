//! Compiled components on disk, so that a start takes no compiling.
//!
//! Compiled code is machine code that the hub will run, so a file is believed
//! only if this hub wrote it: each carries a keyed hash, under a key that only
//! the hub's user can read. Files of other engine versions lie in other
//! folders, and anything that can't be believed is compiled anew.

use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use wasmtime::Engine as WasmEngine;
use wasmtime::component::Component;

/// How many compiled components are kept; the longest unused go first. A Python
/// plugin has 35 MB, so that the cache can grow to some gigabytes at worst.
const FILES_MAX: usize = 100;

/// A folder of compiled components.
#[derive(Debug)]
pub(crate) struct CompileCache {
    folder: PathBuf,
    key: [u8; blake3::KEY_LEN],
}

impl CompileCache {
    /// Opens the cache in `folder`, and makes it where it is missing.
    ///
    /// # Errors
    ///
    /// The folder can't be made or written, or others can write it too.
    pub(crate) fn open(folder: PathBuf) -> io::Result<Self> {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&folder)?;
        if !is_ours(&folder, 0o022)? {
            return Err(io::Error::other(
                "others may write here, and what is in it is run: remove it, or take their rights \
                 away",
            ));
        }
        let key = read_key(&folder.join("key"))?;
        Ok(Self { folder, key })
    }

    /// The compiled code of the component with this hash, if it is here and can
    /// be believed.
    pub(crate) fn get(&self, engine: &WasmEngine, hash: &blake3::Hash) -> Option<Component> {
        let path = self.path(engine, hash);
        let file = fs::read(&path).ok()?;
        let (mac, code) = file.split_first_chunk::<{ blake3::OUT_LEN }>()?;
        if self.mac(hash, code) != *mac {
            tracing::warn!(file = %path.display(), "a damaged file in the compile cache is ignored");
            return None;
        }
        // Used files are young files: see `evict`.
        if let Ok(file) = fs::File::options().append(true).open(&path) {
            let _ = file.set_modified(crate::clock::file_now());
        }
        #[expect(
            unsafe_code,
            reason = "deserialising machine code, which this hub has written: the keyed hash matches"
        )]
        // SAFETY: the bytes come from `Component::serialize` of this very
        // version of the engine, by way of `put`: only who has the key, which
        // is readable by the hub's user alone, can make a hash that matches.
        let component = unsafe { Component::deserialize(engine, code) };
        component.inspect_err(|error| tracing::warn!(%error, "compile cache: recompiling")).ok()
    }

    /// Keeps compiled code. That it can't is no reason to stop: it is told, and
    /// the next start compiles again.
    pub(crate) fn put(&self, engine: &WasmEngine, hash: &blake3::Hash, component: &Component) {
        let path = self.path(engine, hash);
        let written = component
            .serialize()
            .map_err(|error| io::Error::other(format!("{error:#}")))
            .and_then(|code| self.write(&path, hash, &code));
        if let Err(error) = written {
            tracing::warn!(file = %path.display(), %error, "the compile cache can't be written");
        }
    }

    fn write(&self, path: &Path, hash: &blake3::Hash, code: &[u8]) -> io::Result<()> {
        let folder = path.parent().unwrap_or(&self.folder);
        fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
        write_private(path, &[&self.mac(hash, code)[..], code].concat())?;
        evict(folder)
    }

    fn mac(&self, hash: &blake3::Hash, code: &[u8]) -> [u8; blake3::OUT_LEN] {
        let mut hasher = blake3::Hasher::new_keyed(&self.key);
        hasher.update(hash.as_bytes()).update(code);
        hasher.finalize().into()
    }

    fn path(&self, engine: &WasmEngine, hash: &blake3::Hash) -> PathBuf {
        let mut compatible = DefaultHasher::new();
        engine.precompile_compatibility_hash().hash(&mut compatible);
        let version = format!("{:016x}", compatible.finish());
        self.folder.join(version).join(format!("{}.cwasm", hash.to_hex()))
    }
}

fn read_key(path: &Path) -> io::Result<[u8; blake3::KEY_LEN]> {
    // A key that others can read is no key: with another one nothing that was
    // written under it is believed.
    if let Ok(true) = is_ours(path, 0o077)
        && let Ok(bytes) = fs::read(path)
        && let Ok(key) = bytes.try_into()
    {
        return Ok(key);
    }
    let mut key = [0; blake3::KEY_LEN];
    getrandom::fill(&mut key).map_err(io::Error::other)?;
    write_private(path, &key)?;
    Ok(key)
}

/// Whether a file or folder belongs to the hub's user, and others have none of
/// these rights.
fn is_ours(path: &Path, rights: u32) -> io::Result<bool> {
    let metadata = fs::metadata(path)?;
    let user = rustix::process::geteuid().as_raw();
    Ok(metadata.uid() == user && metadata.mode() & rights == 0)
}

/// What an unfinished file's ending begins with.
const UNFINISHED: &str = "tmp-";

/// Removes what a hub that was killed has not finished writing.
pub(crate) fn sweep_unfinished(folder: &Path) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let ending = path.extension().and_then(|ending| ending.to_str());
        if ending.is_some_and(|ending| ending.starts_with(UNFINISHED)) {
            fs::remove_file(path)?;
        }
    }
    Ok(())
}

/// Writes a file that only its user can read, whole or not at all.
pub(crate) fn write_private(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let unfinished = path.with_extension(format!("{UNFINISHED}{}", std::process::id()));
    let mut file = fs::File::options()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&unfinished)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&unfinished, path)
}

/// Removes the files that were unused the longest.
fn evict(folder: &Path) -> io::Result<()> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        files.push((entry.metadata()?.modified()?, entry.path()));
    }
    files.sort();
    let excess = files.len().saturating_sub(FILES_MAX);
    for (_, path) in files.drain(..excess) {
        fs::remove_file(path)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const EMPTY: &[u8] = b"\0asm\x0d\0\x01\0";

    fn cached(cache: &CompileCache, engine: &WasmEngine) -> bool {
        cache.get(engine, &blake3::hash(EMPTY)).is_some()
    }

    #[test]
    fn a_folder_that_others_can_write_or_a_key_that_they_can_read_is_not_believed() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("cache");
        let engine = WasmEngine::default();
        let cache = CompileCache::open(path.clone()).unwrap();
        cache.put(&engine, &blake3::hash(EMPTY), &Component::new(&engine, EMPTY).unwrap());
        fs::set_permissions(path.join("key"), fs::Permissions::from_mode(0o644)).unwrap();
        assert!(!cached(&CompileCache::open(path.clone()).unwrap(), &engine), "another key");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o770)).unwrap();
        assert!(CompileCache::open(path).unwrap_err().to_string().contains("others may write"));
    }

    #[test]
    fn a_component_is_found_again_unless_its_file_was_touched() {
        let folder = tempfile::tempdir().unwrap();
        let engine = WasmEngine::default();
        let cache = CompileCache::open(folder.path().join("cache")).unwrap();
        assert!(!cached(&cache, &engine));
        let component = Component::new(&engine, EMPTY).unwrap();
        cache.put(&engine, &blake3::hash(EMPTY), &component);
        assert!(cached(&cache, &engine));
        let again = CompileCache::open(folder.path().join("cache")).unwrap();
        assert!(cached(&again, &engine), "the key is kept");

        let path = cache.path(&engine, &blake3::hash(EMPTY));
        let mut bytes = fs::read(&path).unwrap();
        *bytes.last_mut().unwrap() ^= 1;
        fs::write(&path, &bytes).unwrap();
        assert!(!cached(&cache, &engine), "a flipped bit");
        fs::write(&path, &bytes[..16]).unwrap();
        assert!(!cached(&cache, &engine), "a truncated file");
    }
}
