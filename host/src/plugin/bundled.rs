//! The first-party plugins that the binary carries.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// A plugin in the binary: its component, and settings that explain themselves.
#[derive(Clone, Copy, Debug)]
pub struct Bundled {
    /// Its name.
    pub name: &'static str,
    /// What it is for, in one line.
    pub summary: &'static str,
    /// Whether a new plugins folder gets it.
    pub default: bool,
    component: &'static [u8],
    settings: &'static str,
}

/// All of them.
pub const BUNDLED: &[Bundled] = &[
    Bundled {
        name: "system",
        summary: "this machine: processors, memory, disks, network, processes",
        default: true,
        component: include_bytes!(env!("TELLTALE_PLUGIN_SYSTEM")),
        settings: include_str!("../../../plugins/system/system.toml"),
    },
    Bundled {
        name: "novelty",
        summary: "a detector: states that a series was never in, and values that nothing led to expect",
        default: true,
        component: include_bytes!(env!("TELLTALE_PLUGIN_NOVELTY")),
        settings: include_str!("../../../plugins/novelty/novelty.toml"),
    },
    Bundled {
        name: "zscore",
        summary: "a detector: values far from the mean of the last ones",
        default: false,
        component: include_bytes!(env!("TELLTALE_PLUGIN_ZSCORE")),
        settings: include_str!("../../../plugins/zscore/zscore.toml"),
    },
    Bundled {
        name: "ewma",
        summary: "a detector: values and changes far from exponentially weighted means",
        default: false,
        component: include_bytes!(env!("TELLTALE_PLUGIN_EWMA")),
        settings: include_str!("../../../plugins/ewma/ewma.toml"),
    },
    Bundled {
        name: "seasonal",
        summary: "a detector: values that are unusual for the time of day or of the week",
        default: false,
        component: include_bytes!(env!("TELLTALE_PLUGIN_SEASONAL")),
        settings: include_str!("../../../plugins/seasonal/seasonal.toml"),
    },
    Bundled {
        name: "flatline",
        summary: "a detector: series that have stopped moving",
        default: false,
        component: include_bytes!(env!("TELLTALE_PLUGIN_FLATLINE")),
        settings: include_str!("../../../plugins/flatline/flatline.toml"),
    },
    Bundled {
        name: "missing",
        summary: "a detector: series whose values don't come",
        default: false,
        component: include_bytes!(env!("TELLTALE_PLUGIN_MISSING")),
        settings: include_str!("../../../plugins/missing/missing.toml"),
    },
    Bundled {
        name: "changepoint",
        summary: "a detector: series that go on at another level, or stray more or less",
        default: false,
        component: include_bytes!(env!("TELLTALE_PLUGIN_CHANGEPOINT")),
        settings: include_str!("../../../plugins/changepoint/changepoint.toml"),
    },
    Bundled {
        name: "skills",
        summary: "Session-Buddy's skill metrics, from its SQLite database",
        default: false,
        component: include_bytes!(env!("TELLTALE_PLUGIN_SKILLS")),
        settings: include_str!("../../../plugins/skills/skills.toml"),
    },
    Bundled {
        name: "routing",
        summary: "an AI cost optimizer's routing metrics, from its cache or its database",
        default: false,
        component: include_bytes!(env!("TELLTALE_PLUGIN_ROUTING")),
        settings: include_str!("../../../plugins/routing/routing.toml"),
    },
];

impl Bundled {
    /// The component's bytes.
    pub(super) fn component(&self) -> &'static [u8] {
        self.component
    }

    /// Its settings, as a new plugins folder gets them.
    pub(super) fn settings(&self) -> &'static str {
        self.settings
    }

    /// The bundled plugin of that name.
    #[must_use]
    pub fn named(name: &str) -> Option<&'static Self> {
        BUNDLED.iter().find(|bundled| bundled.name == name)
    }

    /// Writes the component into `folder`, and its settings where there are
    /// none yet: those that are there are somebody's work.
    ///
    /// # Errors
    ///
    /// The folder can't be written.
    pub fn install(&self, folder: &Path) -> io::Result<Vec<PathBuf>> {
        let settings = folder.join(format!("{}.toml", self.name));
        let mut written = Vec::new();
        if !settings.exists() {
            fs::write(&settings, self.settings)?;
            written.push(settings);
        }
        let component = folder.join(format!("{}.wasm", self.name));
        place(&component, self.component)?;
        written.push(component);
        Ok(written)
    }
}

/// Puts a component into a plugins folder, whole: it appears there at once.
///
/// # Errors
///
/// The folder can't be written.
pub fn place(path: &Path, component: &[u8]) -> io::Result<()> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let unfinished = path.with_file_name(format!(".{name}.{}", std::process::id()));
    fs::write(&unfinished, component)?;
    fs::rename(unfinished, path)
}

/// Makes a plugins folder with the default plugins, if there is none. True if
/// it did.
///
/// # Errors
///
/// The folder can't be made or written.
pub fn furnish(folder: &Path) -> io::Result<bool> {
    if folder.exists() {
        return Ok(false);
    }
    fs::create_dir_all(folder)?;
    for bundled in BUNDLED.iter().filter(|bundled| bundled.default) {
        bundled.install(folder)?;
    }
    Ok(true)
}
