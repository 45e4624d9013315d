//! From core modules to components, and from the interface to C.

use std::path::{Path, PathBuf};

use wasi_preview1_component_adapter_provider::{
    WASI_SNAPSHOT_PREVIEW1_ADAPTER_NAME, WASI_SNAPSHOT_PREVIEW1_REACTOR_ADAPTER,
};
use wit_component::{ComponentEncoder, StringEncoding, embed_component_metadata};
use wit_parser::{Resolve, SourceMap, WorldId};

use super::{Failure, World, templates};

/// Makes a component of a core module that may import `wasi_snapshot_preview1`.
/// The module says itself what world it is for, unless `world` does.
///
/// # Errors
///
/// What it lacks, in the encoder's words.
pub(super) fn of_module(module: &[u8], world: Option<World>) -> Result<Vec<u8>, String> {
    let mut module = module.to_vec();
    if let Some(world) = world {
        let (resolve, world) = resolve(world)?;
        embed_component_metadata(&mut module, &resolve, world, StringEncoding::UTF8)
            .map_err(|error| format!("{error:#}"))?;
    }
    ComponentEncoder::default()
        .validate(true)
        .module(&module)
        .and_then(|encoder| {
            encoder.adapter(
                WASI_SNAPSHOT_PREVIEW1_ADAPTER_NAME,
                WASI_SNAPSHOT_PREVIEW1_REACTOR_ADAPTER,
            )
        })
        .and_then(ComponentEncoder::encode)
        .map_err(|error| format!("{error:#}"))
}

/// Writes the bindings of a world for C into a folder; those of them that are
/// to be compiled and linked.
///
/// # Errors
///
/// The folder can't be made or written.
pub(super) fn c_bindings(world: World, folder: &Path) -> Result<Vec<PathBuf>, Failure> {
    let (mut resolve, world) = resolve(world).map_err(Failure::new)?;
    let mut files = Default::default();
    let mut generator = wit_bindgen_c::Opts::default().build();
    generator
        .generate(&mut resolve, world, &mut files)
        .map_err(|error| Failure::new(format!("the bindings for C: {error:#}")))?;
    let at = |path: &Path, error| Failure::new(format!("{}: {error}", path.display()));
    std::fs::create_dir_all(folder).map_err(|error| at(folder, error))?;
    let mut sources = Vec::new();
    for (name, content) in files.iter() {
        let path = folder.join(name);
        std::fs::write(&path, content).map_err(|error| at(&path, error))?;
        if !name.ends_with(".h") {
            sources.push(path);
        }
    }
    Ok(sources)
}

/// The interface that the binary carries, and a world of it.
fn resolve(world: World) -> Result<(Resolve, WorldId), String> {
    let mut sources = SourceMap::default();
    for (name, text) in templates::WIT {
        sources.push_str(name, *text);
    }
    let group = sources.parse().map_err(|(_, error)| error.to_string())?;
    let mut resolve = Resolve::default();
    let package = resolve.push_group(group).map_err(|error| error.to_string())?;
    let world = resolve.select_world(&[package], Some(&world.to_string()));
    world.map(|world| (resolve, world)).map_err(|error| format!("{error:#}"))
}

#[cfg(test)]
mod tests {
    use clap::ValueEnum;

    use super::*;

    #[test]
    fn each_world_has_bindings_for_c() {
        for world in World::value_variants() {
            let folder = tempfile::tempdir().unwrap();
            let sources = c_bindings(*world, folder.path()).unwrap();
            let name = world.to_string().replace('-', "_");
            for file in [format!("{name}.c"), format!("{name}_component_type.o")] {
                assert!(sources.contains(&folder.path().join(&file)), "{file}: {sources:?}");
            }
            assert!(folder.path().join(format!("{name}.h")).is_file());
        }
    }

    #[test]
    fn a_module_that_lacks_its_exports_is_refused() {
        let empty = b"\0asm\x01\0\0\0";
        let error = of_module(empty, Some(World::Collector)).unwrap_err();
        assert!(error.contains("collect"), "{error}");
    }
}
