//! What is to run, by what lies in the folder.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::folder::Fingerprint;
use super::settings::Settings;

/// What a plugin is made of, as the folder shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Version {
    pub(crate) component: Option<(String, Option<Fingerprint>)>,
    pub(crate) settings: Option<Fingerprint>,
}

/// What is to run, by the folder's view.
#[derive(Debug)]
pub(crate) struct Wanted {
    pub(crate) version: Version,
    pub(crate) settings: Result<Arc<Settings>, String>,
}

/// What is to run: each `name.wasm`, and each `name.toml` that names another
/// component.
pub(crate) fn wanted(
    view: &BTreeMap<String, Fingerprint>,
    read: impl Fn(&str) -> Result<Settings, String>,
) -> BTreeMap<String, Wanted> {
    let mut plugins = BTreeMap::new();
    for file in view.keys() {
        let Some(name) = file.strip_suffix(".wasm").or_else(|| file.strip_suffix(".toml")) else {
            continue;
        };
        let (own, settings_file) = (format!("{name}.wasm"), format!("{name}.toml"));
        if plugins.contains_key(name) {
            continue;
        }
        let print = view.get(&settings_file).copied();
        let settings = match print {
            Some(_) => read(&settings_file).map(Arc::new),
            None => Ok(Arc::default()),
        };
        let named = settings.as_ref().ok().and_then(|settings| settings.component.clone());
        // Settings that can't be read may name one: who runs by them goes on.
        if settings.is_ok() && named.is_none() && !view.contains_key(&own) {
            continue; // Settings without a component: nothing to run.
        }
        let component = named.unwrap_or(own);
        let component_print = view.get(&component).copied();
        let version = Version { component: Some((component, component_print)), settings: print };
        plugins.insert(name.to_owned(), Wanted { version, settings });
    }
    plugins
}

#[cfg(test)]
#[path = "wanted_tests.rs"]
mod tests;
