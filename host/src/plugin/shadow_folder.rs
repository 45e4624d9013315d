//! What is kept of shadows: the version that runs in the shadow of each
//! detector, the one that ran before a shadow was promoted, and the exchange
//! of two versions that is under way.
//!
//! An exchange changes several files. What it is to lead to is written down
//! first, whole, in one file: before that is there, a hub that is killed starts
//! with the version before; from then on, with the one after it.
//! The plugins' manager alone writes here.

use std::collections::HashSet;
use std::fmt;
use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::compile_cache::{sweep_unfinished, write_private};
use super::load::check_plugin_name;
use super::state_file::{Kept, Standing, StateFolder};

/// `NAME.shadow.json`, `NAME.before.json` and `NAME.exchange.json`, with states
/// under the same names, and the components that they name by their hashes.
#[derive(Clone, Debug)]
pub(crate) struct ShadowFolder {
    path: PathBuf,
    states: StateFolder,
}

/// A version: a component and settings.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Edition {
    /// The BLAKE3 hash of its component, in hexadecimal digits.
    pub(crate) component: String,
    /// The text of its settings. Without it a shadow has those of the detector
    /// beside it, and what ran before had none.
    pub(crate) settings: Option<String>,
    /// When it began to run in the shadow, or ceased to run before one: RFC 3339.
    pub(crate) since: String,
}

/// Without the settings, where passwords may be.
impl fmt::Debug for Edition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct("Edition");
        shown.field("component", &self.component).field("since", &self.since);
        shown.finish_non_exhaustive()
    }
}

/// Another version takes a detector's place in the plugins folder.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Exchange {
    /// The BLAKE3 hash of its component, in hexadecimal digits.
    pub(crate) to: String,
    pub(crate) settings: SettingsFile,
    /// What is to be gone back to from then on: there where a shadow is
    /// promoted, which then is none any more.
    pub(crate) before: Option<Edition>,
    /// The files whose place it takes: where others are there by the time it is
    /// carried out, these are newer than it.
    #[serde(default)]
    pub(crate) replaces: Option<FilesThere>,
}

/// A detector's files in the plugins folder, by the BLAKE3 hashes of their
/// bytes; `None` for one that is not there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct FilesThere {
    component: Option<String>,
    settings: Option<String>,
}

impl FilesThere {
    /// # Errors
    ///
    /// A file that is there can't be read, or the folder can't.
    pub(crate) fn of(name: &str, plugins: &Path) -> io::Result<Self> {
        // A folder that is not there, perhaps for now, says nothing of its files.
        drop(fs::read_dir(plugins)?);
        let hash_of = |ending| {
            let path = plugins.join(format!("{name}.{ending}"));
            match fs::metadata(&path) {
                Ok(metadata) if !metadata.is_file() => {
                    let words = format!("{} is no regular file", path.display());
                    Err(io::Error::other(words))
                }
                Ok(_) => fs::read(&path).map(|bytes| Some(hash(&bytes))),
                Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
                Err(error) => Err(error),
            }
        };
        Ok(Self { component: hash_of("wasm")?, settings: hash_of("toml")? })
    }
}

impl Exchange {
    /// Whether each of these files is the one that it replaces, or its own.
    fn knows(&self, there: &FilesThere) -> bool {
        let Some(replaces) = &self.replaces else { return true };
        let settings = match &self.settings {
            SettingsFile::Stays => replaces.settings.clone(),
            SettingsFile::Is(text) => Some(hash(text.as_bytes())),
            SettingsFile::Goes => None,
        };
        let is_component =
            there.component == replaces.component || there.component.as_deref() == Some(&*self.to);
        is_component && (there.settings == replaces.settings || there.settings == settings)
    }

    /// Whether that is the shadow which it promotes, and no later one.
    fn promotes(&self, shadow: &Edition) -> bool {
        let settings = match &self.settings {
            SettingsFile::Is(text) => Some(text),
            SettingsFile::Stays | SettingsFile::Goes => None,
        };
        self.before.is_some() && shadow.component == self.to && shadow.settings.as_ref() == settings
    }
}

/// What becomes of a detector's settings file.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum SettingsFile {
    /// It stays.
    Stays,
    /// It has this text.
    Is(String),
    /// There is none.
    Goes,
}

/// Without the text, where passwords may be.
impl fmt::Debug for SettingsFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Stays => "Stays",
            Self::Is(_) => "Is(…)",
            Self::Goes => "Goes",
        })
    }
}

/// The states that go with an exchange.
#[derive(Clone, Debug, Default)]
pub(crate) struct ExchangedStates {
    /// What the version knows that comes.
    pub(crate) to: Option<Kept>,
    /// What the version knew that is gone back to.
    pub(crate) before: Option<Kept>,
}

impl ShadowFolder {
    /// # Errors
    ///
    /// It can't be made or written.
    pub(crate) fn open(path: PathBuf) -> io::Result<Self> {
        let states = StateFolder::open(path.clone())?;
        sweep_unfinished(&path)?;
        Ok(Self { path, states })
    }

    /// What runs in a detector's shadow.
    pub(crate) fn shadow(&self, name: &str) -> Option<Edition> {
        self.read(name, "shadow")
    }

    /// Keeps what runs in a detector's shadow.
    pub(crate) fn keep_shadow(&self, name: &str, shadow: &Edition, bytes: &[u8]) -> io::Result<()> {
        self.keep_component(&shadow.component, bytes)?;
        self.write(name, "shadow", shadow)?;
        self.sweep()
    }

    /// Nothing runs in its shadow any more.
    pub(crate) fn forget_shadow(&self, name: &str) -> io::Result<()> {
        self.forget(name, "shadow")?;
        self.sweep()
    }

    /// What ran before a shadow was promoted, and what it knew then.
    pub(crate) fn before(&self, name: &str) -> Option<(Edition, Option<Kept>)> {
        let edition = self.read(name, "before")?;
        Some((edition, self.states.read(&format!("{name}.before"), Standing::Good)))
    }

    /// The detector is gone, with all that is kept here of it.
    pub(crate) fn forget_all(&self, name: &str) -> io::Result<()> {
        for record in ["shadow", "before", "exchange"] {
            self.forget(name, record)?;
        }
        for state in ["before", "exchange", "next"] {
            self.states.forget(&format!("{name}.{state}"), Standing::Good)?;
        }
        self.sweep()
    }

    /// The component of that hash, if it is here and whole.
    pub(crate) fn component(&self, hash: &str) -> Option<Vec<u8>> {
        let expected = blake3::Hash::from_hex(hash).ok()?;
        let bytes = fs::read(self.file(hash)).ok()?;
        (blake3::hash(&bytes) == expected).then_some(bytes)
    }

    /// Decides an exchange: once this has returned it is done, whatever becomes
    /// of the hub, and before it nothing is. `old` is the component that is gone
    /// back to.
    ///
    /// # Errors
    ///
    /// It can't be written, and is not decided.
    pub(crate) fn decide(
        &self,
        name: &str,
        exchange: &Exchange,
        states: &ExchangedStates,
        old: Option<&[u8]>,
    ) -> io::Result<()> {
        if self.component(&exchange.to).is_none() {
            return Err(io::Error::other("the component is not there, or is damaged"));
        }
        if let (Some(before), Some(old)) = (&exchange.before, old) {
            self.keep_component(&before.component, old)?;
        }
        for (record, kept) in [("exchange", &states.to), ("next", &states.before)] {
            self.keep_state(&format!("{name}.{record}"), kept.as_ref())?;
        }
        self.write(name, "exchange", exchange)
    }

    /// Does what was decided in the plugins folder, as often as it takes: what
    /// has been done already is done again.
    ///
    /// # Errors
    ///
    /// A file can't be written. The next start of the hub tries again.
    pub(crate) fn carry_out(
        &self,
        name: &str,
        exchange: &Exchange,
        plugins: &Path,
    ) -> io::Result<()> {
        let component = self
            .component(&exchange.to)
            .ok_or_else(|| io::Error::other("the component is not there, or is damaged"))?;
        // First, since it must not start again, though the rest may have to wait.
        if self.shadow(name).is_some_and(|shadow| exchange.promotes(&shadow)) {
            self.forget(name, "shadow")?;
        }
        let settings = plugins.join(format!("{name}.toml"));
        let own = plugins.join(format!("{name}.wasm"));
        // Both are written before either is there: a full disk leaves no mixture.
        let new_settings = match &exchange.settings {
            SettingsFile::Is(text) => prepare(&settings, text.as_bytes())?,
            SettingsFile::Stays | SettingsFile::Goes => None,
        };
        let new_component = prepare(&own, &component)?;
        if exchange.settings == SettingsFile::Goes {
            remove(&settings)?;
        }
        for (new, path) in [(new_settings, &settings), (new_component, &own)] {
            new.map_or(Ok(()), |new| fs::rename(new, path))?;
        }
        fs::File::open(plugins)?.sync_all()?;
        let before = format!("{name}.before");
        match &exchange.before {
            Some(edition) => {
                let state = self.states.read(&format!("{name}.next"), Standing::Good);
                self.keep_state(&before, state.as_ref())?;
                self.write(name, "before", edition)?;
            }
            None => {
                self.forget(name, "before")?;
                self.states.forget(&before, Standing::Good)?;
            }
        }
        self.end_exchange(name)
    }

    /// An exchange is done, or will not be: what it needed may go.
    fn end_exchange(&self, name: &str) -> io::Result<()> {
        self.forget(name, "exchange")?;
        for record in ["exchange", "next"] {
            self.states.forget(&format!("{name}.{record}"), Standing::Good)?;
        }
        self.sweep()
    }

    /// Carries out what an earlier run of the hub has decided and not finished.
    /// What can't be is told, and stays for the next start.
    ///
    /// # Errors
    ///
    /// The folder can't be read.
    pub(crate) fn finish(&self, plugins: &Path, states: &StateFolder) -> io::Result<()> {
        sweep_replacements(plugins);
        let files = fs::read_dir(&self.path)?.collect::<io::Result<Vec<_>>>()?;
        for file in files {
            let file = file.file_name().to_string_lossy().into_owned();
            let Some(name) = file.strip_suffix(".exchange.json") else { continue };
            let Err(error) = self.finish_one(name, plugins, states) else { continue };
            let record = self.record(name, "exchange");
            tracing::error!(
                plugin = name,
                %error,
                "another version of it was to take its place in the plugins folder, and can't: \
                 what the folder holds is loaded. See that {} can be written and start the hub \
                 again, or remove {} to keep what is there",
                plugins.display(),
                record.display(),
            );
        }
        Ok(())
    }

    fn finish_one(&self, name: &str, plugins: &Path, states: &StateFolder) -> io::Result<()> {
        let Some(exchange) = self.read::<Exchange>(name, "exchange") else { return Ok(()) };
        if !exchange.knows(&FilesThere::of(name, plugins)?) {
            tracing::warn!(
                plugin = name,
                "another version of it was to take its place in the plugins folder, and is given \
                 up: its files there have been changed since"
            );
            return self.end_exchange(name);
        }
        let state = self.states.read(&format!("{name}.exchange"), Standing::Good);
        if let Some(state) = state {
            let decided = fs::metadata(self.record(name, "exchange"))?.modified()?;
            if !states.has_newer(name, state.component, decided) {
                states.write(name, Standing::Trial, &state)?;
            }
        }
        self.carry_out(name, &exchange, plugins)?;
        tracing::info!(plugin = name, "an exchange that was interrupted is finished");
        Ok(())
    }

    fn keep_component(&self, hash: &str, bytes: &[u8]) -> io::Result<()> {
        match self.component(hash) {
            Some(_) => Ok(()),
            None => write_private(&self.file(hash), bytes),
        }
    }

    fn keep_state(&self, name: &str, kept: Option<&Kept>) -> io::Result<()> {
        match kept {
            Some(kept) => self.states.write(name, Standing::Good, kept),
            None => self.states.forget(name, Standing::Good),
        }
    }

    fn read<T: DeserializeOwned>(&self, name: &str, record: &str) -> Option<T> {
        let path = self.record(name, record);
        let text = fs::read(&path).ok()?;
        serde_json::from_slice(&text)
            .inspect_err(|error| tracing::warn!(file = %path.display(), %error, "ignored"))
            .ok()
    }

    fn write(&self, name: &str, record: &str, what: &impl Serialize) -> io::Result<()> {
        write_private(&self.record(name, record), &serde_json::to_vec(what)?)
    }

    fn forget(&self, name: &str, record: &str) -> io::Result<()> {
        remove(&self.record(name, record))
    }

    /// Removes the components that no record names.
    fn sweep(&self) -> io::Result<()> {
        /// The hashes in any of the records.
        #[derive(Deserialize)]
        struct Names {
            component: Option<String>,
            to: Option<String>,
            before: Option<Edition>,
        }
        let (mut used, mut components) = (HashSet::new(), Vec::new());
        for entry in fs::read_dir(&self.path)? {
            let path = entry?.path();
            match path.extension().and_then(|ending| ending.to_str()) {
                Some("json") => {
                    let Ok(names) = serde_json::from_slice::<Names>(&fs::read(&path)?) else {
                        continue;
                    };
                    let before = names.before.map(|before| before.component);
                    used.extend([names.component, names.to, before].into_iter().flatten());
                }
                Some("wasm") => components.push(path),
                _ => {}
            }
        }
        for path in components {
            let hash = path.file_stem().unwrap_or_default().to_string_lossy();
            if !used.contains(&*hash) {
                fs::remove_file(&path)?;
            }
        }
        Ok(())
    }

    fn record(&self, name: &str, record: &str) -> PathBuf {
        self.path.join(format!("{name}.{record}.json"))
    }

    fn file(&self, hash: &str) -> PathBuf {
        self.path.join(format!("{hash}.wasm"))
    }
}

/// In hexadecimal digits.
fn hash(bytes: &[u8]) -> String {
    blake3::hash(bytes).to_hex().to_string()
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Writes a file for the plugins folder, whole and safe, beside its place, where
/// it is to be moved. `None` if the same is there already. Who may read the one
/// before may read it; new settings only their owner may, since passwords may
/// be in them.
fn prepare(path: &Path, bytes: &[u8]) -> io::Result<Option<PathBuf>> {
    if fs::read(path).is_ok_and(|there| there == bytes) {
        return Ok(None);
    }
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let unfinished = path.with_file_name(format!(".{name}.{}", std::process::id()));
    let mut file = fs::File::create(&unfinished)?;
    let is_settings = path.extension().is_some_and(|ending| ending == "toml");
    match fs::metadata(path) {
        Ok(before) => file.set_permissions(before.permissions())?,
        Err(_) if is_settings => file.set_permissions(fs::Permissions::from_mode(0o600))?,
        Err(_) => {}
    }
    file.write_all(bytes)?;
    file.sync_all()?;
    Ok(Some(unfinished))
}

/// Removes what a process that was killed has left in the plugins folder of
/// [`prepare`]. Those of another one that lives are its own.
fn sweep_replacements(plugins: &Path) {
    let Ok(entries) = fs::read_dir(plugins) else { return };
    for entry in entries.flatten() {
        let file = entry.file_name();
        let Some((pid, name)) = file.to_str().and_then(replacement) else { continue };
        let lives = pid != rustix::process::getpid()
            && rustix::process::test_kill_process(pid) != Err(rustix::io::Errno::SRCH);
        if check_plugin_name(name).is_err() || lives {
            continue;
        }
        if let Err(error) = fs::remove_file(entry.path()) {
            tracing::warn!(file = %entry.path().display(), %error, "it can't be removed");
        }
    }
}

/// The process and the plugin of a file `.NAME.wasm.PID` or `.NAME.toml.PID`.
fn replacement(file: &str) -> Option<(rustix::process::Pid, &str)> {
    let (file, pid) = file.strip_prefix('.')?.rsplit_once('.')?;
    let name = file.strip_suffix(".wasm").or_else(|| file.strip_suffix(".toml"))?;
    let pid = i32::try_from(pid.parse::<u32>().ok()?).ok()?;
    Some((rustix::process::Pid::from_raw(pid)?, name))
}

#[cfg(test)]
#[path = "shadow_folder_tests.rs"]
mod tests;
