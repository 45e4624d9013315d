//! What the binary carries for plugin authors: the interface, the projects that
//! `new` begins, and the guest crate that the ones in Rust stand on.

use std::io;
use std::path::{Path, PathBuf};

use super::project::{Kind, Lang};

/// A file: its path in its folder, and its text.
type Text = (&'static str, &'static str);

/// The texts of files that lie in one folder of this repository.
macro_rules! texts {
    ($folder:literal: $($file:literal),+ $(,)?) => {
        &[$(($file, include_str!(concat!("../../../../", $folder, "/", $file)))),+]
    };
}

/// The plugin interface.
pub(super) const WIT: &[Text] =
    texts!("wit": "collect.wit", "detect.wit", "host.wit", "state.wit", "types.wit", "worlds.wit");

/// The guest crate, which lies in `plugins/sdk`. A project in Rust gets it with
/// the interface beside its manifest: it is published nowhere.
const GUEST_CRATE: &[Text] = texts!("plugins/sdk":
    "Cargo.toml", "src/bindings.rs", "src/collecting.rs", "src/config.rs", "src/detecting.rs",
    "src/export.rs", "src/fake.rs", "src/fault.rs", "src/host.rs", "src/level.rs", "src/lib.rs",
    "src/metrics.rs", "src/saved.rs", "src/trial.rs", "src/watchlist.rs");
/// Where a project in Rust has it.
const GUEST_CRATE_FOLDER: &str = "telltale-plugin";

/// A project that `new` begins with. `{{name}}` stands for the plugin's name.
struct Template {
    lang: Lang,
    kind: Kind,
    files: &'static [Text],
}

const TEMPLATES: &[Template] = &[
    Template {
        lang: Lang::Rust,
        kind: Kind::Collector,
        files: texts!("host/templates/rust/collector":
            "README.md", "telltale-plugin.toml", "Cargo.toml", "src/lib.rs"),
    },
    Template {
        lang: Lang::Rust,
        kind: Kind::Detector,
        files: texts!("host/templates/rust/detector":
            "README.md", "telltale-plugin.toml", "Cargo.toml", "src/lib.rs"),
    },
    Template {
        lang: Lang::Js,
        kind: Kind::Collector,
        files: texts!("host/templates/js/collector":
            "README.md", "telltale-plugin.toml", "package.json", "app.js", "app.test.js"),
    },
    Template {
        lang: Lang::Js,
        kind: Kind::Detector,
        files: texts!("host/templates/js/detector":
            "README.md", "telltale-plugin.toml", "package.json", "app.js", "app.test.js"),
    },
    Template {
        lang: Lang::Python,
        kind: Kind::Collector,
        files: texts!("host/templates/python/collector":
            "README.md", "telltale-plugin.toml", "app.py", "test_app.py"),
    },
    Template {
        lang: Lang::Python,
        kind: Kind::Detector,
        files: texts!("host/templates/python/detector":
            "README.md", "telltale-plugin.toml", "app.py", "test_app.py"),
    },
    Template {
        lang: Lang::C,
        kind: Kind::Collector,
        files: texts!("host/templates/c/collector":
            "README.md", "telltale-plugin.toml", "plugin.c", "batch.h", "dice.h", "test/test.c"),
    },
    Template {
        lang: Lang::C,
        kind: Kind::Detector,
        files: texts!("host/templates/c/detector":
            "README.md", "telltale-plugin.toml", "plugin.c", "limit.h", "test/test.c"),
    },
];

/// What the projects of a language share.
fn shared(lang: Lang) -> Vec<(PathBuf, String)> {
    let texts: &[Text] = match lang {
        Lang::Js => texts!("host/templates/js": "telltale.js"),
        Lang::Python => texts!("host/templates/python": "telltale.py"),
        Lang::Rust => GUEST_CRATE,
        Lang::C => &[],
    };
    let folder = Path::new(if lang == Lang::Rust { GUEST_CRATE_FOLDER } else { "" });
    let wit = if lang == Lang::Rust { WIT } else { &[] };
    let file = |folder: PathBuf| move |(path, text): &Text| (folder.join(path), (*text).to_owned());
    let texts = texts.iter().map(file(folder.to_owned()));
    texts.chain(wit.iter().map(file(folder.join("wit")))).collect()
}

/// The files of a new project, with their paths in it.
pub(super) fn project(lang: Lang, kind: Kind, name: &str) -> Vec<(PathBuf, String)> {
    let template = TEMPLATES.iter().find(|t| (t.lang, t.kind) == (lang, kind));
    let files = template.map_or(&[][..], |template| template.files);
    let own =
        files.iter().map(|(path, text)| (PathBuf::from(path), text.replace("{{name}}", name)));
    own.chain(shared(lang)).collect()
}

/// Writes the interface into a folder, and takes away what else is in it: an
/// earlier version's files would be read with it.
///
/// # Errors
///
/// The folder can't be made or written.
pub(super) fn write_wit(folder: &Path) -> io::Result<()> {
    std::fs::create_dir_all(folder)?;
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_type()?.is_file() && !WIT.iter().any(|(name, _)| entry.file_name() == *name) {
            std::fs::remove_file(entry.path())?;
        }
    }
    for (name, text) in WIT {
        let file = folder.join(name);
        // Untouched, so that whoever goes by times has nothing to do.
        if std::fs::read_to_string(&file).ok().as_deref() != Some(text) {
            std::fs::write(file, text)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use clap::ValueEnum;

    use super::super::project::{FILE, Project, World};
    use super::*;

    #[test]
    fn each_language_has_a_project_of_each_kind() {
        for lang in Lang::value_variants() {
            for kind in Kind::value_variants() {
                let folder = tempfile::tempdir().unwrap();
                for (path, text) in project(*lang, *kind, "dice") {
                    assert!(!text.contains("{{name}}"), "{path:?} of {lang:?} {kind:?}: {text}");
                    let path = folder.path().join(path);
                    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
                    std::fs::write(path, text).unwrap();
                }
                let project = Project::open(folder.path()).unwrap();
                let collects = matches!(project.world, World::Collector | World::StatefulCollector);
                assert_eq!(project.name, "dice", "{FILE}");
                assert_eq!(project.lang, *lang, "{FILE}");
                assert_eq!(collects, *kind == Kind::Collector, "{lang:?} {kind:?}");
            }
        }
    }

    #[test]
    fn the_interface_is_written_without_what_was_there_before() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("old.wit"), "package telltale:plugin@0.0.1;").unwrap();
        write_wit(folder.path()).unwrap();
        write_wit(folder.path()).unwrap();
        let there = std::fs::read_dir(folder.path()).unwrap();
        let mut there: Vec<_> =
            there.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        there.sort();
        assert_eq!(there, names(WIT));
    }

    /// The files below a folder of this repository, in order; links are not
    /// followed.
    fn lies_in(folder: &str) -> Vec<String> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(folder);
        let (mut found, mut folders) = (Vec::new(), vec![root.clone()]);
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(folder).into_iter().flatten() {
                let entry = entry.unwrap();
                if entry.file_type().unwrap().is_dir() {
                    folders.push(entry.path());
                } else if entry.file_type().unwrap().is_file() {
                    let path = entry.path();
                    found.push(path.strip_prefix(&root).unwrap().display().to_string());
                }
            }
        }
        found.sort();
        found
    }

    fn names(texts: &[Text]) -> Vec<String> {
        let mut names: Vec<String> = texts.iter().map(|(name, _)| (*name).to_owned()).collect();
        names.sort();
        names
    }

    #[test]
    fn what_the_binary_carries_is_all_that_lies_in_the_repository() {
        assert_eq!(names(WIT), lies_in("wit"));
        assert_eq!(names(GUEST_CRATE), lies_in("plugins/sdk"));
        for Template { lang, kind, files } in TEMPLATES {
            let folder = format!("host/templates/{lang:?}/{kind:?}").to_lowercase();
            assert_eq!(names(files), lies_in(&folder), "{folder}");
        }
    }
}
