#![no_main]

use std::sync::LazyLock;

use parsers::Stage;

/// The folder stays until the hub has gone with the process.
static STAGE: LazyLock<Stage> =
    LazyLock::new(|| Stage::start(&tempfile::tempdir().expect("a folder").keep()));

libfuzzer_sys::fuzz_target!(|data: &[u8]| STAGE.http(data));
