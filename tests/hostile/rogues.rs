//! Plugins that misbehave, and what is said of each.

use crate::harness::mode;

/// One of them.
pub(super) struct Rogue {
    pub(super) name: String,
    pub(super) guest: &'static str,
    pub(super) settings: String,
    /// What its fault says.
    pub(super) words: &'static str,
}

/// All that fail once they run; those that can't even be started are in
/// [`refused`].
pub(super) fn rogues() -> Vec<Rogue> {
    let collectors = collectors().into_iter().map(|(name, settings, words)| Rogue {
        name: name.to_owned(),
        guest: "guest_collector",
        settings: format!("{}{settings}", mode(mode_of(name))),
        words,
    });
    let detectors = DETECTORS.into_iter().map(|(name, words)| Rogue {
        name: format!("d-{name}"),
        guest: "guest_detector",
        settings: mode(name),
        words,
    });
    // Their states are asked for as soon as may be.
    let keepers = KEEPERS.into_iter().map(|(name, settings, words)| Rogue {
        name: format!("k-{name}"),
        guest: "guest_keeper",
        settings: format!("save = \"1s\"\nprobation = 0\n{}{settings}", mode(mode_of(name))),
        words,
    });
    collectors.chain(detectors).chain(keepers).collect()
}

/// What stands before two dashes; what follows tells two of one mode apart.
fn mode_of(name: &str) -> &str {
    name.split("--").next().unwrap()
}

/// Collectors: mode, settings below `[config]`, and the fault.
fn collectors() -> Vec<(&'static str, &'static str, &'static str)> {
    vec![
        // What never comes back, or comes back no more.
        ("panic", "", "it panicked"),
        ("fatal", "", "all is lost"),
        ("spin", "", "it computed for more than 250 ms (limit `collect_ms`)"),
        (
            "spin--shorter",
            "[limits]\ncollect_ms = 60\n",
            "it computed for more than 60 ms (limit `collect_ms`)",
        ),
        ("recursion", "", "its stack overflowed"),
        ("memory", "", "MiB of memory, and may have 64 (limit `memory_mib`)"),
        (
            "memory--less",
            "[limits]\nmemory_mib = 20\n",
            "MiB of memory, and may have 20 (limit `memory_mib`)",
        ),
        ("wait", "[limits]\nio_ms = 300\n", "it waited for more than 300 ms (limit `io_ms`)"),
        // Too much at once.
        ("flood", "", "it handed over more than 4 MiB at once (limit `copy_mib`)"),
        (
            "flood--at-the-limit",
            "size = 131072\n[limits]\ncopy_mib = 1\n",
            "batch refused: 0 ids and 131072 values",
        ),
        (
            "flood--one-beyond",
            "size = 131073\n[limits]\ncopy_mib = 1\n",
            "it handed over more than 1 MiB at once (limit `copy_mib`)",
        ),
        (
            "strings",
            "size = 1_000_000\n",
            "it handed over more than 4 MiB at once (limit `copy_mib`)",
        ),
        (
            "parameters",
            "size = 1_000_000\n",
            "it handed over more than 4 MiB at once (limit `copy_mib`)",
        ),
        (
            "document",
            "size = 100_000_000\n[limits]\nmemory_mib = 512\ncollect_ms = 10_000\n",
            "it handed over more than 4 MiB at once (limit `copy_mib`)",
        ),
        (
            "document--without-memory",
            "size = 100_000_000\n",
            "MiB of memory, and may have 64 (limit `memory_mib`)",
        ),
        (
            "steady--of-ever-more-series",
            "series = 111\n[limits]\nseries = 10\n",
            "batch refused: 101 series declared beyond the 10 that are shown",
        ),
        // Lies.
        ("unequal", "", "batch refused: 1 ids and 0 values: the lists must be of the same length"),
        ("undeclared", "", "batch refused: id 77 is not declared"),
        ("twice", "", "batch refused: id 0 is in the batch twice"),
        ("declared-twice", "", "batch refused: id 0 of `guest.other{n=\"0\"}` is declared already"),
        ("alias", "", "batch refused: `guest.value{n=\"0\"}` is declared as 0 and as 99"),
        ("gone", "", "batch refused: id 99 is gone, but was not declared"),
        ("label-bomb", "", "batch refused: series \"guest.value\": 1000 labels"),
        ("no-json", "", "batch refused: document `d` is no JSON"),
        (
            "steady--as-the-hub",
            "name = \"telltale.tick.lateness\"\n",
            "names that begin with `telltale.` are the hub's own",
        ),
        ("steady--without-a-name", "name = \"\"\n", "batch refused: name \"\" is not a letter"),
    ]
}

/// Detectors: mode and fault.
const DETECTORS: [(&str, &str); 8] = [
    ("panic", "it panicked"),
    // It has 50 ms, and more as it is told of series.
    ("spin", " ms (limit `collect_ms`)"),
    ("memory", "MiB of memory, and may have 192 (limit `memory_mib`)"),
    ("scores", "verdict refused: "),
    ("lie-series", "verdict refused: a finding of series 4294967295, which it is not shown"),
    ("lie-score", "verdict refused: score 1.5 of `"),
    ("lie-word", "verdict refused: finding type \"not a word\" is not 1 to 64"),
    ("lie-note", "is longer than 1024 bytes"),
];

/// Keepers: mode, settings below `[config]`, and the fault.
const KEEPERS: [(&str, &str, &str); 7] = [
    ("version-spin", "", "it computed for more than 1000 ms in `version`, which no setting"),
    ("save-spin", "", "it computed for more than 1000 ms in `save`, which no setting prolongs"),
    ("save-panic", "", "it panicked"),
    ("save-wait", "[limits]\nio_ms = 300\n", "it waited for more than 300 ms (limit `io_ms`)"),
    (
        "untouched--gigabyte",
        "size = 1_073_741_824\n[limits]\nmemory_mib = 2048\n",
        "its state has more than 4 MiB (limit `state_mib`)",
    ),
    (
        "untouched--without-memory",
        "size = 1_073_741_824\n",
        "MiB of memory, and may have 64 (limit `memory_mib`)",
    ),
    (
        "written--one-beyond",
        "size = 1_048_577\n[limits]\nstate_mib = 1\n",
        "its state has more than 1 MiB (limit `state_mib`)",
    ),
];

/// Those that are refused as they are started: name, guest, settings, reason.
pub(super) fn refused() -> Vec<Rogue> {
    let limits = "[limits]\nconfigure_ms = 100\nio_ms = 300\n";
    [
        ("configure-panic", "guest_collector", "it panicked"),
        (
            "configure-spin",
            "guest_collector",
            "it computed for more than 100 ms in `configure` (limit `configure_ms`)",
        ),
        ("configure-wait", "guest_collector", "it waited for more than 300 ms (limit `io_ms`)"),
        (
            "configure-memory",
            "guest_collector",
            "MiB of memory, and may have 64 (limit `memory_mib`)",
        ),
        (
            "configure-spin",
            "guest_detector",
            "it computed for more than 100 ms in `configure` (limit `configure_ms`)",
        ),
    ]
    .into_iter()
    .map(|(name, guest, words)| Rogue {
        name: format!("{name}-{guest}"),
        guest,
        settings: format!("{}{limits}", mode(name)),
        words,
    })
    .collect()
}
