//! C: clang makes a core module against wasi-libc, of which a component is made
//! here. The bindings come from the generator that the binary carries.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::tools::{answer, find, missing, run};
use super::{Failure, Project, component, read};

/// Debian and its relatives have all that it takes.
const INSTALL: &str = "apt-get install clang lld wasi-libc libclang-rt-dev-wasm32";

pub(super) fn build(project: &Project) -> Result<Vec<u8>, Failure> {
    let folder = std::path::absolute(&project.folder).map_err(Failure::new)?;
    let clang = Clang::find()?;
    let generated = folder.join("build/gen");
    let mut sources = sources(&folder, project)?;
    sources.extend(component::c_bindings(project.world, &generated)?);
    let core = folder.join("build/core.wasm");
    let mut command = Command::new(&clang.program);
    command
        .args(["--target=wasm32-wasi", "-mexec-model=reactor", "-O2", "-Wall", "-Wextra", "-s"])
        .arg(format!("--sysroot={}", clang.sysroot.display()))
        .arg("-I")
        .arg(&generated)
        .args(&sources)
        .arg("-o")
        .arg(&core);
    run(&mut command, &folder)?;
    component::of_module(&read(&core)?, None).map_err(|words| {
        Failure::new(format!("{} can't be made a component: {words}", core.display()))
    })
}

/// What a project consists of: its `main`, or each `.c` file in its root and in
/// `src`.
fn sources(folder: &Path, project: &Project) -> Result<Vec<PathBuf>, Failure> {
    if let Some(main) = &project.main {
        return Ok(vec![folder.join(main)]);
    }
    let listed = |folder: &Path| -> Vec<PathBuf> {
        let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
        entries.map(|entry| entry.path()).collect()
    };
    let mut sources = [listed(folder), listed(&folder.join("src"))].concat();
    sources.retain(|file| file.extension().is_some_and(|extension| extension == "c"));
    sources.sort();
    if sources.is_empty() {
        return Err(Failure::new(format!("there is no .c file in {}", folder.display())));
    }
    Ok(sources)
}

/// A compiler that can make WebAssembly.
struct Clang {
    program: PathBuf,
    sysroot: PathBuf,
}

impl Clang {
    /// `CC_WASM`, the one of `WASI_SDK_PATH`, or the system's with the newest
    /// number.
    fn find() -> Result<Self, Failure> {
        let sdk = std::env::var_os("WASI_SDK_PATH").map(PathBuf::from);
        let named = std::env::var_os("CC_WASM").map(PathBuf::from);
        let in_sdk = sdk.as_ref().map(|sdk| sdk.join("bin/clang"));
        let sysroot = sdk.map_or_else(|| PathBuf::from("/usr"), |s| s.join("share/wasi-sysroot"));
        let program = named.or(in_sdk).or_else(system_clang);
        let clang = Self { program: program.ok_or_else(|| missing("clang", INSTALL))?, sysroot };
        match clang.lacks() {
            Some(what) => Err(missing(what, INSTALL)),
            None => Ok(clang),
        }
    }

    /// What it has no use for without.
    fn lacks(&self) -> Option<&'static str> {
        let asked = |question: &str| {
            let mut command = Command::new(&self.program);
            answer(command.args(["--target=wasm32-wasi", question])).map(PathBuf::from)
        };
        let Some(linker) = asked("-print-prog-name=wasm-ld") else {
            return Some("a clang that knows wasm32-wasi");
        };
        if !linker.is_file() && find(&linker.to_string_lossy()).is_none() {
            return Some("the linker wasm-ld");
        }
        let headers = ["include/stdio.h", "include/wasm32-wasi/stdio.h"];
        if !headers.iter().any(|header| self.sysroot.join(header).is_file())
            || !self.sysroot.join("lib/wasm32-wasi/libc.a").is_file()
        {
            return Some("wasi-libc");
        }
        let builtins = asked("-print-libgcc-file-name").is_some_and(|file| file.is_file());
        (!builtins).then_some("clang's runtime for WebAssembly (libclang_rt.builtins)")
    }
}

/// `clang`, or the `clang-NN` with the largest number.
fn system_clang() -> Option<PathBuf> {
    find("clang").or_else(|| {
        let numbered = (11..=30).rev().map(|number| format!("clang-{number}"));
        numbered.map(OsString::from).find_map(|name| find(&name.to_string_lossy()))
    })
}
