use std::path::Path;

use super::super::folder::Folder;
use super::super::load::check_plugin_name;
use super::*;

fn view(files: &[&str]) -> BTreeMap<String, Fingerprint> {
    let folder = tempfile::tempdir().unwrap();
    for file in files {
        std::fs::write(folder.path().join(file), b"").unwrap();
    }
    let (_, view) = Folder::open(folder.path().to_owned()).unwrap();
    (*view).clone()
}

/// The plugins that are wanted, each with its component.
fn plugins(files: &[&str], settings: &[(&str, &str)]) -> Vec<(String, String)> {
    let read = |file: &str| {
        let text = settings.iter().find(|(name, _)| *name == file).map_or("", |(_, text)| text);
        Settings::parse(Path::new(file), text).map_err(|error| error.to_string())
    };
    wanted(&view(files), read)
        .into_iter()
        .map(|(name, wanted)| (name, wanted.version.component.unwrap().0))
        .collect()
}

#[test]
fn each_component_is_a_plugin_and_settings_may_name_another_component() {
    let files = ["a.wasm", "a.toml", "b.toml", "c.toml", "notes.txt", ".hidden.wasm"];
    let settings = [("b.toml", "component = \"a.wasm\"")];
    assert_eq!(
        plugins(&files, &settings),
        [("a".to_owned(), "a.wasm".to_owned()), ("b".to_owned(), "a.wasm".to_owned())]
    );
}

#[test]
fn a_component_that_is_missing_is_wanted_all_the_same() {
    let settings = [("b.toml", "component = \"gone.wasm\"")];
    let read = |file: &str| {
        Settings::parse(Path::new(file), settings[0].1).map_err(|error| error.to_string())
    };
    let wanted = wanted(&view(&["b.toml"]), read);
    assert_eq!(wanted["b"].version.component, Some(("gone.wasm".to_owned(), None)));
}

#[test]
fn plugin_names_are_plain_words() {
    for good in ["a", "system", "my-plugin_2"] {
        assert!(check_plugin_name(good).is_ok());
    }
    for bad in ["", "telltale", "a.b", "ä", "a b", &"a".repeat(65)] {
        assert!(check_plugin_name(bad).is_err(), "{bad}");
    }
}
