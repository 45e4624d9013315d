//! A plugin's project: a folder with a `telltale-plugin.toml` in its root.

use std::fmt;
use std::path::{Path, PathBuf};

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use super::Failure;

/// The file that makes a folder a project.
pub(super) const FILE: &str = "telltale-plugin.toml";

/// What a plugin is written in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(super) enum Lang {
    Rust,
    Js,
    Python,
    C,
}

/// What sort of plugin it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Kind {
    /// Asked for measurements at each tick
    Collector,
    /// Shown each tick's values; says what is odd
    Detector,
}

/// The worlds of the plugin interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub(super) enum World {
    Collector,
    StatefulCollector,
    Detector,
    StatefulDetector,
}

impl fmt::Display for World {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Collector => "collector",
            Self::StatefulCollector => "stateful-collector",
            Self::Detector => "detector",
            Self::StatefulDetector => "stateful-detector",
        })
    }
}

/// A project, as its file describes it.
#[derive(Clone, Debug)]
pub(super) struct Project {
    /// Its root.
    pub(super) folder: PathBuf,
    /// What its component is called: NAME.wasm.
    pub(super) name: String,
    pub(super) lang: Lang,
    pub(super) world: World,
    /// The source that its language's tool begins with, where it isn't the
    /// usual one.
    pub(super) main: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Described {
    name: String,
    lang: Lang,
    world: World,
    main: Option<String>,
}

impl Project {
    /// The project in a folder.
    ///
    /// # Errors
    ///
    /// There is none, or its file can't be understood.
    pub(super) fn open(folder: &Path) -> Result<Self, Failure> {
        let file = folder.join(FILE);
        let text = std::fs::read_to_string(&file).map_err(|error| {
            Failure::usage(format!(
                "{}: {error} (`telltale plugin new` begins a project)",
                file.display()
            ))
        })?;
        let described: Described = toml::from_str(&text).map_err(|error| {
            let words = crate::config::toml_error(&text, &error);
            Failure::usage(format!("{}: {words}", file.display()))
        })?;
        let Described { name, lang, world, main } = described;
        check_name(&name)
            .map_err(|words| Failure::usage(format!("{}: name: {words}", file.display())))?;
        Ok(Self { folder: folder.to_owned(), name, lang, world, main })
    }

    /// Where its component is put.
    pub(super) fn component(&self) -> PathBuf {
        self.folder.join(format!("{}.wasm", self.name))
    }

    /// A folder for what is made on the way. It can be removed at any time.
    pub(super) fn build_folder(&self) -> PathBuf {
        self.folder.join("build")
    }
}

/// A name that the hub takes, and each language's tools too.
pub(super) fn check_name(name: &str) -> Result<(), String> {
    let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-');
    if name == "telltale" {
        return Err("`telltale` is the hub's own name".to_owned());
    }
    let letter = name.starts_with(|c: char| c.is_ascii_alphabetic());
    if !letter || name.len() > 64 || !name.chars().all(legal) {
        return Err(format!(
            "{name:?} is not a letter and then up to 63 letters, digits, `_` and `-`"
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(text: &str) -> Result<Project, String> {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join(FILE), text).unwrap();
        Project::open(folder.path()).map_err(|failure| failure.words)
    }

    #[test]
    fn a_project_is_read() {
        let project =
            open("name = \"dice\"\nlang = \"js\"\nworld = \"stateful-detector\"\n").unwrap();
        assert_eq!((project.lang, project.world), (Lang::Js, World::StatefulDetector));
        assert!(project.component().ends_with("dice.wasm"));
    }

    #[test]
    fn what_is_wrong_with_it_is_told_with_the_file_and_the_line() {
        for (text, words) in [
            ("name = \"dice\"\nlang = \"cobol\"\nworld = \"collector\"", "line 2"),
            ("name = \"dice\"\nlang = \"c\"\nworld = \"collector\"\nmian = \"a\"", "`mian`"),
            ("name = \"../x\"\nlang = \"c\"\nworld = \"collector\"", "name: \"../x\" is not"),
            ("name = \"telltale\"\nlang = \"c\"\nworld = \"collector\"", "the hub's own"),
        ] {
            let error = open(text).unwrap_err();
            assert!(error.contains(words) && error.contains(FILE), "{error:?}: {words:?}");
        }
        let none = Project::open(Path::new("/nowhere")).unwrap_err();
        assert!(none.words.contains("telltale plugin new"), "{none:?}");
    }
}
