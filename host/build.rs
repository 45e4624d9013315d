//! Builds the plugins for `wasm32-wasip2`, so that `cargo run` alone works, and
//! the guests of the tests with them.
//!
//! They have a target directory of their own: the outer cargo holds the lock of
//! the usual one while it waits for this script.

use std::env;
use std::path::{Path, PathBuf};
use std::process::{Command, exit};

const TARGET: &str = "wasm32-wasip2";

/// First-party plugins: package, and the variable that names the component.
const PLUGINS: [(&str, &str); 10] = [
    ("telltale-routing", "TELLTALE_PLUGIN_ROUTING"),
    ("telltale-system", "TELLTALE_PLUGIN_SYSTEM"),
    ("telltale-skills", "TELLTALE_PLUGIN_SKILLS"),
    ("telltale-novelty", "TELLTALE_PLUGIN_NOVELTY"),
    ("telltale-zscore", "TELLTALE_PLUGIN_ZSCORE"),
    ("telltale-ewma", "TELLTALE_PLUGIN_EWMA"),
    ("telltale-seasonal", "TELLTALE_PLUGIN_SEASONAL"),
    ("telltale-flatline", "TELLTALE_PLUGIN_FLATLINE"),
    ("telltale-missing", "TELLTALE_PLUGIN_MISSING"),
    ("telltale-changepoint", "TELLTALE_PLUGIN_CHANGEPOINT"),
];

/// Guests of the tests and benchmarks, found through `TELLTALE_GUESTS`.
const GUESTS: [&str; 5] =
    ["guest-collector", "guest-detector", "guest-http", "guest-keeper", "guest-witness"];

fn main() {
    let root = PathBuf::from(var("CARGO_MANIFEST_DIR")).join("..");
    for watched in ["plugins", "wit", "tests/guests", "Cargo.toml", "Cargo.lock"] {
        println!("cargo::rerun-if-changed={}", root.join(watched).display());
    }
    if !has_target() {
        add_target();
    }
    let target_dir = target_dir();
    build(&root, &target_dir);
    let built = target_dir.join(TARGET).join("plugin");
    for (package, variable) in PLUGINS {
        let component = built.join(format!("{}.wasm", package.replace('-', "_")));
        println!("cargo::rustc-env={variable}={}", component.display());
    }
    println!("cargo::rustc-env=TELLTALE_GUESTS={}", built.display());
}

fn var(name: &str) -> String {
    env::var(name).unwrap_or_else(|_| fail(&format!("cargo does not set {name}")))
}

/// `target/telltale-plugins`, whatever profile the outer build has: two
/// profiles share one build of the plugins.
fn target_dir() -> PathBuf {
    let out = PathBuf::from(var("OUT_DIR"));
    // target/<profile>/build/<package>/out, with a triple before the profile
    // where one is named.
    let mut folders = out.ancestors();
    let target = folders.find(|folder| folder.join(".rustc_info.json").exists());
    target.unwrap_or(&out).join("telltale-plugins")
}

fn has_target() -> bool {
    let sysroot = Command::new(var("RUSTC")).args(["--print", "sysroot"]).output();
    let Ok(sysroot) = sysroot else { return false };
    let sysroot = String::from_utf8_lossy(&sysroot.stdout).trim().to_owned();
    Path::new(&sysroot).join("lib/rustlib").join(TARGET).join("lib").exists()
}

fn add_target() {
    let added = Command::new("rustup").args(["target", "add", TARGET]).status();
    match added {
        Ok(status) if status.success() => {}
        Ok(_) => fail(&format!("`rustup target add {TARGET}` failed: run it by hand to see why")),
        Err(_) => fail(&format!(
            "this toolchain has no {TARGET} and there is no rustup to add it: install rustup \
             (https://rustup.rs), or the target with your system's packages"
        )),
    }
}

fn build(root: &Path, target_dir: &Path) {
    let mut cargo = Command::new(var("CARGO"));
    cargo
        .current_dir(root)
        .args(["build", "--locked", "--profile", "plugin", "--target", TARGET, "--target-dir"])
        .arg(target_dir);
    for package in PLUGINS.map(|(package, _)| package).into_iter().chain(GUESTS) {
        cargo.args(["--package", package]);
    }
    // What the outer build was told about itself is not meant for the plugins.
    for name in ["RUSTFLAGS", "CARGO_ENCODED_RUSTFLAGS", "RUSTC_WRAPPER", "RUSTC_WORKSPACE_WRAPPER"]
    {
        cargo.env_remove(name);
    }
    for (name, _) in env::vars() {
        if name.starts_with("CARGO_BUILD_") || name.starts_with("CARGO_PROFILE_") {
            cargo.env_remove(name);
        }
    }
    match cargo.status() {
        Ok(status) if status.success() => {}
        _ => fail("the plugins could not be built; cargo's words are above"),
    }
}

fn fail(words: &str) -> ! {
    println!("cargo::error={words}");
    exit(1)
}
