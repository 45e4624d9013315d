//! The commands for those who write plugins, with the real tools.

mod running;

use std::ffi::{OsStr, OsString};
use std::fs;
use std::path::Path;

use serde_json::Value;
use tempfile::TempDir;

use crate::cli::{Outcome, run};
use crate::harness::{guest_path, mode};

/// A folder to work in, whose compile cache is in it too.
struct Desk(TempDir);

impl Desk {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    /// `telltale plugin …` in the folder.
    async fn plugin<A: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = A>) -> Outcome {
        self.plugin_with(arguments, &[]).await
    }

    async fn plugin_with<A: AsRef<OsStr>>(
        &self,
        arguments: impl IntoIterator<Item = A>,
        environment: &[(&str, &str)],
    ) -> Outcome {
        let arguments = arguments.into_iter().map(|argument| argument.as_ref().to_owned());
        let arguments: Vec<OsString> =
            [OsString::from("plugin")].into_iter().chain(arguments).collect();
        let cache = self.path().join("cache");
        let own = [("XDG_CACHE_HOME", cache.to_str().unwrap())];
        run(self.path(), arguments, &[&own[..], environment].concat()).await
    }

    /// A new project in the folder of its name.
    async fn new_project(&self, name: &str, lang: &str, kind: &str) {
        let outcome = self.plugin(["new", name, "--lang", lang, "--kind", kind]).await;
        assert!(outcome.status.success(), "{outcome:?}");
    }

    /// `check` of a guest with settings, as JSON.
    async fn check(&self, guest: &str, settings: &str) -> (Outcome, Value) {
        let file = self.path().join("settings.toml");
        fs::write(&file, settings).unwrap();
        let component = guest_path(guest);
        let command = [
            "check".as_ref(),
            component.as_os_str(),
            "--settings".as_ref(),
            file.as_ref(),
            "--json".as_ref(),
        ];
        let outcome = self.plugin(command).await;
        let report = serde_json::from_str(&outcome.stdout)
            .unwrap_or_else(|error| panic!("{error}: {outcome:?}"));
        (outcome, report)
    }
}

/// The step of a report.
#[track_caller]
fn step<'a>(report: &'a Value, name: &str) -> &'a Value {
    let steps = report["steps"].as_array().unwrap();
    steps.iter().find(|step| step["name"] == name).unwrap_or_else(|| panic!("{name} in {report}"))
}

#[track_caller]
fn exits(outcome: &Outcome, code: i32, words: &[&str]) {
    assert_eq!(outcome.status.code(), Some(code), "{outcome:?}");
    for words in words {
        assert!(outcome.stderr.contains(words), "it does not say {words:?}: {outcome:?}");
    }
}

/// Whether the tools for C are here. Where tests are run for others they must
/// be.
fn has_clang() -> bool {
    let asked = std::process::Command::new("clang")
        .args(["--target=wasm32-wasi", "-print-libgcc-file-name"])
        .output();
    let runtime = asked
        .is_ok_and(|answer| Path::new(String::from_utf8_lossy(&answer.stdout).trim()).is_file());
    let has = runtime && Path::new("/usr/lib/wasm32-wasi/libc.a").is_file();
    assert!(has || std::env::var_os("PLUGIN_TOOLS").is_none(), "clang for WebAssembly is missing");
    if !has {
        eprintln!("skipped: clang for WebAssembly is missing");
    }
    has
}

#[tokio::test]
async fn a_project_is_begun_once_in_each_language() {
    let desk = Desk::new();
    for lang in ["rust", "js", "python", "c"] {
        for kind in ["collector", "detector"] {
            let name = format!("{lang}-{kind}");
            desk.new_project(&name, lang, kind).await;
            let described =
                fs::read_to_string(desk.path().join(&name).join("telltale-plugin.toml")).unwrap();
            assert!(described.contains(&format!("name = \"{name}\"")), "{described}");
        }
    }
    let again = ["new", "c-detector", "--lang", "c", "--kind", "collector"];
    exits(&desk.plugin(again).await, 64, &["c-detector", "not empty", "--dir"]);
    let elsewhere = [&again[..], &["--dir", "fresh", "--json"]].concat();
    let outcome = desk.plugin(elsewhere).await;
    let told: Value = serde_json::from_str(&outcome.stdout).unwrap();
    for file in told["written"].as_array().unwrap() {
        assert!(desk.path().join(file.as_str().unwrap()).is_file(), "{file}");
    }
    let unnamed = ["new", "9lives", "--lang", "c", "--kind", "collector"];
    exits(&desk.plugin(unnamed).await, 64, &["9lives", "a letter"]);
    let unknown = ["new", "x", "--lang", "cobol", "--kind", "collector"];
    exits(&desk.plugin(unknown).await, 64, &["cobol", "python"]);
}

#[tokio::test]
async fn a_tool_that_is_missing_is_told_with_the_line_that_installs_it() {
    let desk = Desk::new();
    for (lang, line) in [
        ("rust", "sh.rustup.rs"),
        ("js", "npm install --save-dev componentize-qjs"),
        ("python", "pip install componentize-py"),
        ("c", "apt-get install clang lld wasi-libc libclang-rt-dev-wasm32"),
    ] {
        desk.new_project(lang, lang, "collector").await;
        let nowhere = [("PATH", "/nowhere"), ("WASI_SDK_PATH", ""), ("CC_WASM", "")];
        let outcome = desk.plugin_with(["build", lang], &nowhere).await;
        exits(&outcome, 1, &["is missing; install it with: ", line]);
        assert!(!desk.path().join(lang).join(format!("{lang}.wasm")).exists());
    }
    exits(&desk.plugin(["build", "nowhere"]).await, 64, &["telltale-plugin.toml"]);
}

#[tokio::test]
async fn a_plugin_in_c_is_built_checked_and_measured() {
    if !has_clang() {
        return;
    }
    let desk = Desk::new();
    for kind in ["collector", "detector"] {
        desk.new_project(kind, "c", kind).await;
        let outcome = desk.plugin(["build", kind]).await;
        exits(&outcome, 0, &[]);
        assert!(outcome.stdout.contains("KiB in "), "{outcome:?}");
        let file = format!("{kind}/{kind}.wasm");
        let outcome = desk.plugin(["check", &file]).await;
        exits(&outcome, 0, &[]);
        assert!(outcome.stdout.contains(&format!("world {kind} of")), "{outcome:?}");
        let outcome =
            desk.plugin(["bench", &file, "--series", "10", "--ticks", "20", "--json"]).await;
        exits(&outcome, 0, &[]);
        let costs: Value = serde_json::from_str(&outcome.stdout).unwrap();
        assert_eq!(costs["values"], if kind == "detector" { 10 } else { 1 }, "{costs}");
        assert_eq!(costs["call"]["count"], 20, "{costs}");
        for figure in ["compile_ms", "load_ms", "start_us", "ns_per_value", "memory_bytes"] {
            assert!(costs[figure].as_f64().is_some_and(|figure| figure > 0.0), "{figure}: {costs}");
        }
    }
    // The core module alone is made a component too.
    let core = ["build", "collector/build/core.wasm", "-o", "again.wasm"];
    exits(&desk.plugin(core).await, 64, &["--world"]);
    let core = [&core[..], &["--world", "collector"]].concat();
    exits(&desk.plugin(core).await, 0, &[]);
    exits(&desk.plugin(["check", "again.wasm"]).await, 0, &[]);
}

#[tokio::test]
async fn a_build_that_fails_shows_the_tools_own_words() {
    if !has_clang() {
        return;
    }
    let desk = Desk::new();
    desk.new_project("broken", "c", "collector").await;
    fs::write(desk.path().join("broken/plugin.c"), "int no_semicolon\n").unwrap();
    let outcome = desk.plugin(["build", "broken", "--json"]).await;
    exits(&outcome, 1, &["plugin.c:1:", "error:", "telltale: ", "clang failed"]);
    assert_eq!(outcome.stdout, "", "{outcome:?}");
}

/// Where tests are run for others, a tool that is needed must be there.
fn has_tool(name: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap();
    let has = std::env::split_paths(&path).any(|folder| folder.join(name).is_file());
    assert!(has || std::env::var_os("PLUGIN_TOOLS").is_none(), "{name} is missing");
    if !has {
        eprintln!("skipped: {name} is missing");
    }
    has
}

#[tokio::test]
async fn an_exception_in_javascript_is_told_with_its_line() {
    if !has_tool("componentize-qjs") {
        return;
    }
    let desk = Desk::new();
    desk.new_project("throws", "js", "collector").await;
    let source = "export const collect = {\n  configure(json) {},\n  collect(tick) {\n    throw new \
                  Error('boom');\n  },\n};\n";
    fs::write(desk.path().join("throws/app.js"), source).unwrap();
    exits(&desk.plugin(["build", "throws"]).await, 0, &[]);
    let outcome = desk.plugin(["check", "throws/throws.wasm"]).await;
    exits(&outcome, 1, &["boom", "app.js:4"]);
}

#[tokio::test]
async fn a_check_says_what_fails_and_what_to_change() {
    let desk = Desk::new();
    for (mode_of, at, words, advice) in [
        ("panic", "first ticks", "it panicked", "answer a fault"),
        ("spin", "first ticks", "collect_ms", "raise `collect_ms`"),
        ("memory", "memory", "memory_mib", "raise `memory_mib`"),
        ("unequal", "first ticks", "same length", "wit/collect.wit"),
        ("label-bomb", "first ticks", "1000 labels", "wit/collect.wit"),
        ("flood", "first ticks", "4 MiB", "less at once"),
        ("fatal", "first ticks", "all is lost", "`retry`"),
        ("config", "first ticks", "`thing` is missing", "[config]"),
        ("configure-panic", "configure", "it panicked", "answer a fault"),
    ] {
        let settings = format!("{}[limits]\ncollect_ms = 20\n", mode(mode_of));
        let (outcome, report) = desk.check("guest_collector", &settings).await;
        exits(&outcome, 1, &["failed"]);
        let step = step(&report, at);
        assert_eq!(step["outcome"], "failed", "{mode_of}: {report}");
        assert!(step["words"].as_str().unwrap().contains(words), "{mode_of}: {report}");
        assert!(step["advice"].as_str().unwrap().contains(advice), "{mode_of}: {report}");
        assert_eq!(report["passed"], false);
    }
}

#[tokio::test]
async fn a_check_lets_pass_what_the_hub_deals_with() {
    let desk = Desk::new();
    let (outcome, report) = desk.check("guest_collector", &mode("nan")).await;
    exits(&outcome, 0, &[]);
    let words = step(&report, "odd values")["words"].as_str().unwrap();
    assert!(words.contains("1 of its values are not finite"), "{report}");
    // What is not there yet is no mistake of the plugin's.
    let (outcome, report) = desk.check("guest_collector", &mode("retry")).await;
    exits(&outcome, 0, &[]);
    assert_eq!(step(&report, "first ticks")["outcome"], "warned", "{report}");
    assert_eq!(step(&report, "clock jump")["outcome"], "skipped", "{report}");
    assert_eq!(report["passed"], true);
    // What is over a limit is left out.
    let (outcome, report) =
        desk.check("guest_collector", "[config]\nseries = 20\n[limits]\nseries = 10\n").await;
    exits(&outcome, 0, &[]);
    let limits = step(&report, "limits");
    assert_eq!(limits["outcome"], "warned", "{report}");
    assert!(limits["advice"].as_str().unwrap().contains("`series`"), "{report}");
}

#[tokio::test]
async fn a_check_holds_the_imports_against_the_settings() {
    let desk = Desk::new();
    let settings = "[grant]\ncache = true\ndisk = [\"/\"]\n";
    let (_, report) = desk.check("guest_collector", settings).await;
    let import = |name: &str| {
        let imports = report["imports"].as_array().unwrap();
        let found = imports.iter().find(|import| import["name"].as_str().unwrap().contains(name));
        found.unwrap_or_else(|| panic!("{name} in {report}")).clone()
    };
    assert_eq!(import("plugin/cache")["answer"], "granted");
    assert_eq!(import("plugin/disk")["line"], "disk = [\"/\"]");
    assert_eq!(import("plugin/sql")["answer"], "denied");
    assert!(import("plugin/http")["line"].as_str().unwrap().starts_with("http = ["));
    assert_eq!(import("wasi:io/streams")["answer"], "open");
}

#[tokio::test]
async fn a_state_that_is_handed_over_is_compared() {
    let desk = Desk::new();
    for (guest, settings) in [("guest_keeper", ""), ("telltale_zscore", "")] {
        let (outcome, report) = desk.check(guest, settings).await;
        exits(&outcome, 0, &[]);
        assert!(report["world"].as_str().unwrap().starts_with("stateful-"), "{report}");
        let words = step(&report, "state")["words"].as_str().unwrap();
        assert!(words.contains("the same v"), "{report}");
        assert_eq!(step(&report, "foreign state")["outcome"], "passed", "{report}");
    }
}

#[tokio::test]
async fn what_can_be_no_plugin_is_refused_before_it_runs() {
    let desk = Desk::new();
    fs::write(desk.path().join("text.wasm"), "no component").unwrap();
    fs::write(desk.path().join("core.wasm"), b"\0asm\x01\0\0\0").unwrap();
    for file in ["text.wasm", "core.wasm"] {
        let outcome = desk.plugin(["check", file]).await;
        exits(&outcome, 1, &[file, "would be refused"]);
        assert!(outcome.stdout.contains("FAIL  component"), "{outcome:?}");
    }
    exits(&desk.plugin(["check", "nowhere.wasm"]).await, 1, &["nowhere.wasm"]);
    fs::write(desk.path().join("bad.toml"), "intervall = 1\n").unwrap();
    let component = guest_path("guest_keeper");
    let command =
        ["check".as_ref(), component.as_os_str(), "--settings".as_ref(), "bad.toml".as_ref()];
    exits(&desk.plugin(command).await, 64, &["bad.toml", "line 1", "intervall"]);
    fs::write(desk.path().join("idle.toml"), "interval_idle = \"1m\"\n").unwrap();
    for (guest, code, words) in [
        ("guest_keeper", 0, &[][..]),
        ("guest_detector", 64, &["idle.toml", "interval_idle = 60s is for collectors"]),
    ] {
        let component = guest_path(guest);
        let command =
            ["check".as_ref(), component.as_os_str(), "--settings".as_ref(), "idle.toml".as_ref()];
        exits(&desk.plugin(command).await, code, words);
    }
}

#[tokio::test]
async fn a_wrong_command_line_is_64_and_help_shows_the_way() {
    let desk = Desk::new();
    exits(&desk.plugin(["chekc"]).await, 64, &["chekc", "check"]);
    exits(&desk.plugin(["resume"]).await, 64, &["NAME"]);
    exits(&desk.plugin(["add", "sytsem"]).await, 64, &["did you mean `system`?"]);
    let help = desk.plugin(["--help"]).await;
    exits(&help, 0, &[]);
    let way =
        ["plugin new", "plugin build", "plugin check", "plugin dev", "plugin add", "Exit codes"];
    let found: Vec<usize> = way.iter().filter_map(|words| help.stdout.find(words)).collect();
    assert_eq!(found.len(), way.len(), "{help:?}");
    assert!(found.is_sorted(), "{help:?}");
}
