//! A plugin's settings: `name.toml` beside `name.wasm`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use globset::{Glob, GlobSet, GlobSetBuilder};
use serde::Deserialize;

/// The longest settings file.
pub(crate) const SETTINGS_BYTES_MAX: u64 = 64 * 1024;

/// What a plugin may do, how often it is asked, and what it is told. All of it
/// is optional; a plugin without settings has no grants and the default limits.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Settings {
    /// The file that holds the component, beside this one; the file of the
    /// same name where it is absent.
    pub(crate) component: Option<String>,
    /// How often a collector is asked, rounded to whole ticks; every tick where
    /// it is absent.
    #[serde(default, deserialize_with = "duration")]
    pub(crate) interval: Option<Duration>,
    /// Globs of the series' names that a detector is shown.
    #[serde(default)]
    pub(crate) series: Option<Vec<String>>,
    /// How many good answers another version has to give before it counts as
    /// the last good one; until then a fault brings back the version before it.
    /// 30 where it is absent.
    pub(crate) probation: Option<u32>,
    /// How often what the plugin knows is kept on disk while it runs; every
    /// minute where it is absent.
    #[serde(default, deserialize_with = "duration")]
    pub(crate) save: Option<Duration>,
    /// Handed to `configure` as JSON.
    #[serde(default)]
    pub(crate) config: toml::Table,
    #[serde(default)]
    pub(crate) grant: Grant,
    #[serde(default)]
    pub(crate) limits: Limits,
    /// The text that these settings were read from.
    #[serde(skip)]
    pub(crate) source: String,
}

/// The longest probation: hours at a second.
const PROBATION_MAX: u32 = 10_000;
/// The shortest time between two saves.
const SAVE_MIN: Duration = Duration::from_secs(1);

/// What a plugin may reach.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Grant {
    /// Folders that it may read, with all below them.
    #[serde(default)]
    pub(crate) read: Vec<PathBuf>,
    /// SQLite databases that it may read, by the name that it knows them by.
    #[serde(default)]
    pub(crate) sql: BTreeMap<String, PathBuf>,
    /// Paths whose file systems' usage it may ask, with all below them.
    #[serde(default)]
    pub(crate) disk: Vec<PathBuf>,
    /// Whether it has keys of its own in the cache.
    #[serde(default)]
    pub(crate) cache: bool,
}

/// What a plugin may use up. An absent limit has its default.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Limits {
    /// Linear memory in MiB; 64, a detector's 192.
    pub(crate) memory_mib: Option<u32>,
    /// Computing in a call, in milliseconds; 250, `observe` 50.
    pub(crate) collect_ms: Option<u32>,
    /// Waiting in a call, in milliseconds; 5,000.
    pub(crate) io_ms: Option<u32>,
    /// Series alive at once; 10,000.
    pub(crate) series: Option<u32>,
}

/// Why settings can't be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{file}: {words}")]
pub(crate) struct SettingsError {
    file: String,
    words: String,
}

impl Settings {
    /// Reads settings from their text. `file` is named in errors.
    ///
    /// # Errors
    ///
    /// The line and the key that can't be understood, or that ask for what
    /// can't be.
    pub(crate) fn parse(file: &Path, text: &str) -> Result<Self, SettingsError> {
        let refuse = |words: String| SettingsError {
            file: file.file_name().unwrap_or_default().to_string_lossy().into_owned(),
            words,
        };
        let settings: Self = toml::from_str(text)
            .map_err(|error| refuse(crate::config::toml_error(text, &error)))?;
        settings.check().map_err(refuse)?;
        Ok(Self { source: text.to_owned(), ..settings })
    }

    fn check(&self) -> Result<(), String> {
        if let Some(component) = &self.component
            && Path::new(component).file_name() != Some(component.as_ref())
        {
            return Err(format!("component = {component:?} is not the name of a file beside it"));
        }
        let grants = self.grant.read.iter().chain(self.grant.sql.values()).chain(&self.grant.disk);
        for path in grants {
            if !path.is_absolute() {
                return Err(format!("[grant] path {} is not absolute", path.display()));
            }
        }
        self.shown().map(drop)?;
        if self.probation.is_some_and(|ticks| ticks > PROBATION_MAX) {
            return Err(format!("probation is not from 0 to {PROBATION_MAX}"));
        }
        if self.save.is_some_and(|every| every < SAVE_MIN) {
            return Err("save = … is shorter than a second".to_owned());
        }
        Limits::check("memory_mib", self.limits.memory_mib, 4096)?;
        Limits::check("collect_ms", self.limits.collect_ms, 10_000)?;
        Limits::check("io_ms", self.limits.io_ms, 60_000)?;
        Limits::check("series", self.limits.series, 100_000)
    }

    /// The globs of `series`, if there are any.
    pub(crate) fn shown(&self) -> Result<Option<GlobSet>, String> {
        let Some(globs) = &self.series else { return Ok(None) };
        let mut set = GlobSetBuilder::new();
        for glob in globs {
            set.add(
                Glob::new(glob)
                    .map_err(|error| format!("series = [{glob:?}]: {}", error.kind()))?,
            );
        }
        set.build().map(Some).map_err(|error| format!("series: {}", error.kind()))
    }

    /// How many good answers make a version the last good one.
    pub(crate) fn probation_ticks(&self) -> u32 {
        self.probation.unwrap_or(30)
    }

    /// How often what the plugin knows is kept.
    pub(crate) fn save_every(&self) -> Duration {
        self.save.unwrap_or(Duration::from_secs(60))
    }

    /// `[config]` as the JSON object that `configure` gets.
    pub(crate) fn config_json(&self) -> String {
        serde_json::to_string(&self.config).unwrap_or_else(|_| "{}".to_owned())
    }
}

impl Limits {
    fn check(key: &str, value: Option<u32>, most: u32) -> Result<(), String> {
        match value {
            Some(value) if value == 0 || value > most => {
                Err(format!("[limits] {key} = {value} is not from 1 to {most}"))
            }
            _ => Ok(()),
        }
    }
}

fn duration<'de, D: serde::Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<Duration>, D::Error> {
    let text = String::deserialize(deserializer)?;
    let duration = humantime::parse_duration(&text).map_err(serde::de::Error::custom)?;
    if duration.is_zero() {
        return Err(serde::de::Error::custom("an interval of nothing"));
    }
    Ok(Some(duration))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Settings, String> {
        Settings::parse(Path::new("/plugins/p.toml"), text).map_err(|error| error.to_string())
    }

    #[test]
    fn an_empty_file_grants_nothing() {
        assert_eq!(parse("").unwrap(), Settings::default());
    }

    #[test]
    fn settings_are_read() {
        let text = r#"
            component = "scraper.wasm"
            interval = "5s"
            series = ["system.*"]
            [config]
            database = "skills"
            [grant]
            read = ["/proc"]
            sql = { skills = "/var/lib/app/skills.db" }
            disk = ["/"]
            cache = true
            [limits]
            memory_mib = 128
        "#;
        let settings = parse(text).unwrap();
        assert_eq!(settings.interval, Some(Duration::from_secs(5)));
        assert_eq!(settings.config_json(), r#"{"database":"skills"}"#);
        assert!(settings.shown().unwrap().unwrap().is_match("system.cpu.time"));
        assert_eq!(settings.limits.memory_mib, Some(128));
    }

    #[test]
    fn errors_name_the_file_the_line_and_the_key() {
        for (text, words) in [
            ("\nintervall = \"5s\"", "p.toml: line 2: unknown field `intervall`"),
            ("interval = \"soon\"", "p.toml: line 1"),
            ("component = \"../x.wasm\"", "not the name of a file beside it"),
            ("[grant]\nread = [\"proc\"]", "[grant] path proc is not absolute"),
            ("series = [\"a[\"]", "series = [\"a[\"]"),
            ("probation = 10001", "probation is not from 0 to 10000"),
            ("save = \"10ms\"", "shorter than a second"),
            ("[limits]\nmemory_mib = 0", "[limits] memory_mib = 0 is not from 1 to 4096"),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.contains(words), "{error:?} does not say {words:?}");
        }
    }
}
