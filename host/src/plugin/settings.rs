//! A plugin's settings: `name.toml` beside `name.wasm`.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

use globset::{Glob, GlobSet, GlobSetBuilder};
use serde::Deserialize;

use super::http::HostGrant;
use super::status::PluginRole;
use crate::access::{Globs, Publish};
use crate::config::Secret;
use crate::sql::Source;

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
    /// How often a collector is asked while nobody watches it, at least
    /// `interval`; as often as ever where it is absent.
    #[serde(default, deserialize_with = "duration")]
    pub(crate) interval_idle: Option<Duration>,
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
    pub(crate) limits: LimitSettings,
    /// The text that these settings were read from. There may be passwords in it.
    #[serde(skip)]
    pub(crate) source: Secret,
}

/// The longest probation: hours at a second.
const PROBATION_MAX: u32 = 10_000;
/// The shortest and the longest time between two saves.
const SAVE_MIN: Duration = Duration::from_secs(1);
const SAVE_MAX: Duration = Duration::from_secs(24 * 60 * 60);

/// What a plugin may reach.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Grant {
    /// Folders that it may read, with all below them.
    #[serde(default)]
    pub(crate) read: Vec<PathBuf>,
    /// Databases that it may read, by the name that it knows them by.
    #[serde(default, deserialize_with = "databases")]
    pub(crate) sql: BTreeMap<String, Source>,
    /// Hosts that it may call.
    #[serde(default)]
    pub(crate) http: Vec<HostGrant>,
    /// Paths whose file systems' usage it may ask, with all below them.
    #[serde(default)]
    pub(crate) disk: Vec<PathBuf>,
    /// Whether it has keys of its own in the cache, and which shared ones.
    #[serde(default)]
    pub(crate) cache: CacheGrant,
    /// Events that it may publish.
    #[serde(default, deserialize_with = "events")]
    pub(crate) events: Option<Publish>,
}

/// Files and servers. What can't be used is not told: there may be a password
/// in it.
fn databases<'de, D: serde::Deserializer<'de>>(
    deserializer: D,
) -> Result<BTreeMap<String, Source>, D::Error> {
    let texts = BTreeMap::<String, Secret>::deserialize(deserializer)?;
    let source = |(name, text): (String, Secret)| match Source::parse(text.expose()) {
        Ok(source) => Ok((name, source)),
        Err(words) => Err(serde::de::Error::custom(format!("sql: {name} {words}"))),
    };
    texts.into_iter().map(source).collect()
}

/// Types that may go to all rooms (`["…"]`), or to some (`{ types = ["…"],
/// rooms = ["…"] }`).
fn events<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<Publish>, D::Error> {
    #[derive(Deserialize)]
    #[serde(
        untagged,
        expecting = "events is [\"type\"] or { types = [\"type\"], rooms = [\"room\"] }"
    )]
    enum Text {
        Types(Vec<String>),
        InRooms(InRooms),
    }
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct InRooms {
        types: Vec<String>,
        rooms: Vec<String>,
    }
    let globs = |key: &str, texts: &[String]| {
        Globs::new(texts)
            .map_err(|error| serde::de::Error::custom(format!("events: {key} {error}")))
    };
    let (types, rooms) = match Text::deserialize(deserializer)? {
        Text::Types(types) => (types, None),
        Text::InRooms(InRooms { types, rooms }) => (types, Some(rooms)),
    };
    let rooms = rooms.map_or_else(|| Ok(Globs::all()), |rooms| globs("room", &rooms))?;
    Ok(Some(Publish { types: globs("type", &types)?, rooms: Some(rooms) }))
}

/// What a plugin may do with the cache: nothing, use keys of its own (`true`),
/// or these and read the shared ones that are named (`{ shared = ["…"] }`), or
/// set them too (`shared_write = true` beside it).
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct CacheGrant {
    pub(crate) own: bool,
    /// The store's keys that it sees as they stand.
    pub(crate) shared: BTreeSet<String>,
    /// Whether it sets them, and not its own of the same name.
    pub(crate) shared_write: bool,
}

impl<'de> Deserialize<'de> for CacheGrant {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged, expecting = "cache is true, false, or { shared = [\"key\"] }")]
        enum Text {
            Own(bool),
            Shared(Shared),
        }
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Shared {
            shared: BTreeSet<String>,
            #[serde(default)]
            shared_write: bool,
        }
        Ok(match Text::deserialize(deserializer)? {
            Text::Own(own) => Self { own, ..Self::default() },
            Text::Shared(Shared { shared, shared_write }) => {
                Self { own: true, shared, shared_write }
            }
        })
    }
}

/// What a plugin may use up, as its settings say. What an absent limit means is
/// in [`super::limits::Limits`].
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct LimitSettings {
    /// Linear memory in MiB; 64, a detector's 192.
    pub(crate) memory_mib: Option<u32>,
    /// Computing in `collect`, in milliseconds; 250, in `observe` 50.
    pub(crate) collect_ms: Option<u32>,
    /// Computing in the start and in `configure`, in milliseconds; 5,000.
    pub(crate) configure_ms: Option<u32>,
    /// Waiting in a call, in milliseconds; 5,000.
    pub(crate) io_ms: Option<u32>,
    /// One query on a database, in milliseconds; 50.
    pub(crate) query_ms: Option<u32>,
    /// Series shown at once; 10,000.
    pub(crate) series: Option<u32>,
    /// Documents in a batch; 16. Four times as many names are kept.
    pub(crate) documents: Option<u32>,
    /// The longest document in KiB; 256.
    pub(crate) document_kib: Option<u32>,
    /// The documents of a batch together, in KiB; 1,024. Four times as much is
    /// kept.
    pub(crate) documents_kib: Option<u32>,
    /// Findings in a verdict; 100.
    pub(crate) findings: Option<u32>,
    /// Log lines a second; 20.
    pub(crate) log_lines: Option<u32>,
    /// Events in one call; 100.
    pub(crate) events: Option<u32>,
    /// Events a second; 100.
    pub(crate) events_per_second: Option<u32>,
    /// The state in MiB; 4, a detector's 64.
    pub(crate) state_mib: Option<u32>,
    /// What is copied out of the plugin in one call or answer, in MiB; 4.
    pub(crate) copy_mib: Option<u32>,
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
        Ok(Self { source: Secret::from(text.to_owned()), ..settings })
    }

    fn check(&self) -> Result<(), String> {
        if let Some(component) = &self.component
            && Path::new(component).file_name() != Some(component.as_ref())
        {
            return Err(format!("component = {component:?} is not the name of a file beside it"));
        }
        let grants = self.grant.read.iter().chain(&self.grant.disk);
        for path in grants {
            if !path.is_absolute() {
                let path = path.display().to_string();
                let path = crate::config::without_address(&path);
                return Err(format!("[grant] path {path} is not absolute"));
            }
        }
        self.shown().map(drop)?;
        if let (Some(interval), Some(idle)) = (self.interval, self.interval_idle)
            && idle < interval
        {
            return Err(format!("interval_idle = {idle:?} is less than interval = {interval:?}"));
        }
        if self.probation.is_some_and(|ticks| ticks > PROBATION_MAX) {
            return Err(format!("probation is not from 0 to {PROBATION_MAX}"));
        }
        if self.save.is_some_and(|every| !(SAVE_MIN..=SAVE_MAX).contains(&every)) {
            return Err("save = … is not from a second to a day".to_owned());
        }
        self.limits.check()
    }

    /// Whether a plugin of this role can have these settings.
    ///
    /// # Errors
    ///
    /// The key that is for the other role.
    pub(crate) fn check_role(&self, role: PluginRole) -> Result<(), String> {
        match (role, self.interval_idle) {
            (PluginRole::Detector, Some(idle)) => Err(format!(
                "interval_idle = {idle:?} is for collectors; this is a detector, and is shown \
                 every tick"
            )),
            _ => Ok(()),
        }
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

impl LimitSettings {
    /// The most of each that an operator may grant: beyond it a slip of the
    /// finger is likelier than a need.
    fn check(&self) -> Result<(), String> {
        for (key, value, most) in [
            ("memory_mib", self.memory_mib, 4096),
            ("collect_ms", self.collect_ms, 10_000),
            ("configure_ms", self.configure_ms, 60_000),
            ("io_ms", self.io_ms, 60_000),
            ("query_ms", self.query_ms, 5000),
            ("series", self.series, 100_000),
            ("documents", self.documents, 256),
            ("document_kib", self.document_kib, 4096),
            ("documents_kib", self.documents_kib, 16_384),
            ("findings", self.findings, 10_000),
            ("log_lines", self.log_lines, 1000),
            ("events", self.events, 256),
            ("events_per_second", self.events_per_second, 10_000),
            ("state_mib", self.state_mib, 256),
            ("copy_mib", self.copy_mib, 64),
        ] {
            if let Some(value) = value
                && (value == 0 || value > most)
            {
                return Err(format!("[limits] {key} = {value} is not from 1 to {most}"));
            }
        }
        Ok(())
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
            interval_idle = "1m"
            series = ["system.*"]
            [config]
            database = "skills"
            [grant]
            read = ["/proc"]
            sql = { skills = "/var/lib/app/skills.db" }
            http = ["localhost:9090", "*.example.com", "[::1]:8080"]
            disk = ["/"]
            cache = { shared = ["metrics:latest"] }
            events = { types = ["build.*"], rooms = ["project:*"] }
            [limits]
            memory_mib = 128
        "#;
        let settings = parse(text).unwrap();
        assert_eq!(settings.interval, Some(Duration::from_secs(5)));
        assert_eq!(settings.interval_idle, Some(Duration::from_secs(60)));
        assert_eq!(settings.config_json(), r#"{"database":"skills"}"#);
        assert!(settings.shown().unwrap().unwrap().is_match("system.cpu.time"));
        assert_eq!(settings.grant.http.len(), 3);
        let cache = &settings.grant.cache;
        assert!(cache.own && cache.shared.contains("metrics:latest") && !cache.shared_write);
        let writes = parse("[grant]\ncache = { shared = [\"k\"], shared_write = true }").unwrap();
        assert!(writes.grant.cache.shared_write);
        assert_eq!(settings.limits.memory_mib, Some(128));
        let granted = settings.grant.events.unwrap();
        assert!(granted.types.matches("build.done") && !granted.types.matches("pr.created"));
        let everywhere = parse("[grant]\nevents = [\"pr.*\"]").unwrap().grant.events.unwrap();
        for (room, some) in [("project:42", true), ("user:ana", false), ("global", false)] {
            assert_eq!(granted.rooms.as_ref().unwrap().matches(room), some, "{room}");
            assert!(everywhere.rooms.as_ref().unwrap().matches(room), "{room}");
        }
    }

    #[test]
    fn errors_name_the_file_the_line_and_the_key() {
        for (text, words) in [
            ("\nintervall = \"5s\"", "p.toml: line 2: unknown field `intervall`"),
            ("interval = \"soon\"", "p.toml: line 1"),
            ("interval_idle = \"0s\"", "p.toml: line 1: an interval of nothing"),
            (
                "interval = \"5s\"\ninterval_idle = \"4s\"",
                "p.toml: interval_idle = 4s is less than interval = 5s",
            ),
            ("component = \"../x.wasm\"", "not the name of a file beside it"),
            ("[grant]\nread = [\"proc\"]", "[grant] path proc is not absolute"),
            (
                "[grant]\nhttp = [\"a\", \"http://b\"]",
                "p.toml: line 2: http = [\"http://b\"]: only a",
            ),
            (
                "[grant]\nsql = { app = \"s.db\" }",
                "p.toml: line 2: sql: app is neither the absolute path of a file nor postgres://",
            ),
            ("[grant]\ncache = { share = [] }", "line 2: cache is true, false, or"),
            ("[grant]\nevents = true", "line 2: events is [\"type\"] or { types ="),
            ("[grant]\nevents = [\"a[\"]", "line 2: events: type"),
            ("series = [\"a[\"]", "series = [\"a[\"]"),
            ("probation = 10001", "probation is not from 0 to 10000"),
            ("save = \"10ms\"", "not from a second to a day"),
            ("save = \"1000y\"", "not from a second to a day"),
            ("[limits]\nmemory_mib = 0", "[limits] memory_mib = 0 is not from 1 to 4096"),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.contains(words), "{error:?} does not say {words:?}");
        }
    }

    #[test]
    fn a_password_is_in_no_error_and_no_debug_output() {
        let address = "postgres://ana:s3cret@db.example/app";
        let settings = parse(&format!("[grant]\nsql = {{ app = \"{address}\" }}")).unwrap();
        assert_eq!(settings.grant.sql["app"].to_string(), "postgres://ana@db.example:5432/app");
        assert!(!format!("{settings:?}").contains("s3cret"), "{settings:?}");
        for text in [
            format!("[grant]\nsql = \"{address}\""),
            format!("[grant]\nsql = [\"{address}\"]"),
            format!("[grant]\nsql = [\n\"{address}\"]"),
            format!("[grant]\nread = \"{address}\""),
            format!("[grant]\nread = [\"{address}\"]"),
            format!("[grant]\ncache = \"{address}\""),
            format!("[grant]\nsql = {{ app = \"{address}?sslmode=verify-full\" }}"),
            format!("[grant]\nsql = {{ app = \"{address}\", app = \"{address}\" }}"),
            format!("[grant]\nsql = {{ app = \"{address} }}"),
            format!("[grant]\nsql = {{ app = {address} }}"),
            format!("[grant.sql]\napp = \"my{address}\""),
            "[grant.sql]\napp = \"postgres:/ana:s3cret@h\"".to_owned(),
            format!("save = \"{address}\""),
        ] {
            let error = parse(&text).unwrap_err();
            assert!(error.starts_with("p.toml: ") && !error.contains("s3cret"), "{text}: {error}");
        }
    }

    #[test]
    fn only_a_collector_can_be_idle() {
        let settings = parse("interval = \"1m\"\ninterval_idle = \"1m\"").unwrap();
        assert_eq!(settings.check_role(PluginRole::Collector), Ok(()));
        let words = settings.check_role(PluginRole::Detector).unwrap_err();
        assert!(words.starts_with("interval_idle = 60s is for collectors"), "{words}");
        assert_eq!(parse("").unwrap().check_role(PluginRole::Detector), Ok(()));
    }

    #[test]
    fn a_limit_at_its_most_is_taken_and_one_beyond_is_refused() {
        for (key, most) in [
            ("memory_mib", 4096),
            ("collect_ms", 10_000),
            ("configure_ms", 60_000),
            ("io_ms", 60_000),
            ("query_ms", 5000),
            ("series", 100_000),
            ("documents", 256),
            ("document_kib", 4096),
            ("documents_kib", 16_384),
            ("findings", 10_000),
            ("log_lines", 1000),
            ("events", 256),
            ("events_per_second", 10_000),
            ("state_mib", 256),
            ("copy_mib", 64),
        ] {
            assert!(parse(&format!("[limits]\n{key} = {most}")).is_ok(), "{key}");
            for wrong in [0, most + 1] {
                let error = parse(&format!("[limits]\n{key} = {wrong}")).unwrap_err();
                let words = format!("[limits] {key} = {wrong} is not from 1 to {most}");
                assert!(error.contains(&words), "{error:?} does not say {words:?}");
            }
        }
    }
}
