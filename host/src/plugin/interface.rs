//! What a component says of itself, read before it is compiled.

use wasmparser::{Encoding, Parser, Payload};

use super::bindings::VERSIONS;
use super::engine::LoadError;

/// The package that plugins are built against, without its version.
const PACKAGE: &str = "telltale:plugin/";

/// The names that a component imports and exports, `wasi:io/poll@0.2.6` and the
/// like.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Interface {
    /// The version of `telltale:plugin` that it is built for.
    pub(crate) version: String,
    pub(crate) imports: Vec<String>,
    pub(crate) exports: Vec<String>,
}

impl Interface {
    /// Reads the names from a component's bytes.
    ///
    /// # Errors
    ///
    /// The bytes are no component, or one for another version of the interface
    /// than this hub speaks.
    pub(crate) fn read(bytes: &[u8]) -> Result<Self, LoadError> {
        let mut interface = names(bytes)?;
        let mut versions = interface.imports.iter().chain(&interface.exports).filter_map(|name| {
            let (_, version) = name.strip_prefix(PACKAGE)?.split_once('@')?;
            Some(version)
        });
        let spoken = |version: &str| VERSIONS.contains(&version);
        if let Some(built_for) = versions.clone().find(|version| !spoken(version)) {
            return Err(LoadError::Version { built_for: built_for.to_owned() });
        }
        // Without a single name of the package it is refused for its role.
        interface.version = versions.next().unwrap_or_default().to_owned();
        Ok(interface)
    }
}

/// The names at the top of a component; those of what is nested in it are its
/// own affair.
fn names(bytes: &[u8]) -> Result<Interface, LoadError> {
    let broken = |error: wasmparser::BinaryReaderError| {
        LoadError::NotAComponent(format!("{error}: is the file whole?"))
    };
    if !bytes.starts_with(b"\0asm") {
        return Err(LoadError::NotAComponent("it is not WebAssembly at all".to_owned()));
    }
    let mut interface = Interface::default();
    let mut depth = 0_usize;
    for payload in Parser::new(0).parse_all(bytes) {
        match payload.map_err(broken)? {
            Payload::Version { encoding: Encoding::Module, .. } if depth == 0 => {
                return Err(LoadError::NotAComponent(
                    "it is a core module: build it for wasm32-wasip2, or with `telltale plugin \
                     build`"
                        .to_owned(),
                ));
            }
            Payload::ModuleSection { .. } | Payload::ComponentSection { .. } => depth += 1,
            Payload::End(_) => depth = depth.saturating_sub(1),
            Payload::ComponentImportSection(section) if depth == 0 => {
                for import in section {
                    interface.imports.push(import.map_err(broken)?.name.name.to_owned());
                }
            }
            Payload::ComponentExportSection(section) if depth == 0 => {
                for export in section {
                    interface.exports.push(export.map_err(broken)?.name.name.to_owned());
                }
            }
            _ => {}
        }
    }
    Ok(interface)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(bytes: &[u8]) -> String {
        Interface::read(bytes).unwrap_err().to_string()
    }

    /// A component that exports an empty instance under `name`.
    fn exporting(name: &str) -> Vec<u8> {
        let mut bytes = b"\0asm\x0d\0\x01\0".to_vec();
        // An instance of no exports; the export of that instance by its name.
        bytes.extend([5, 3, 1, 1, 0]);
        let name = name.as_bytes();
        let length = u8::try_from(name.len()).unwrap();
        bytes.extend([11, length + 6, 1, 1, length]);
        bytes.extend(name);
        bytes.extend([5, 0, 0]);
        bytes
    }

    #[test]
    fn names_are_read_and_the_version_with_them() {
        let interface = Interface::read(&exporting("telltale:plugin/collect@0.1.0")).unwrap();
        assert_eq!(interface.version, "0.1.0");
        assert_eq!(interface.exports, ["telltale:plugin/collect@0.1.0"]);
        let other = Interface::read(&exporting("wasi:cli/run@0.2.0")).unwrap();
        assert_eq!(other.version, "");
    }

    #[test]
    fn another_version_is_refused_by_name() {
        let words = refused(&exporting("telltale:plugin/collect@0.2.0"));
        assert!(words.contains("telltale:plugin@0.2.0"), "{words}");
        assert!(words.contains("speaks 0.1.0"), "{words}");
    }

    #[test]
    fn what_is_no_component_is_told_apart() {
        for (bytes, words) in [
            (&b"\0asm\x01\0\0\0"[..], "core module"),
            (b"#!/bin/sh", "not WebAssembly"),
            (b"", "not WebAssembly"),
            (&exporting("telltale:plugin/collect@0.1.0")[..20], "is the file whole?"),
        ] {
            assert!(refused(bytes).contains(words), "{} does not say {words}", refused(bytes));
        }
    }
}
