//! The corpora of the fuzz targets, through the same functions.

#[path = "fuzz/parsers.rs"]
mod parsers;

use std::path::PathBuf;

use parsers::Stage;

/// A target's inputs, with their names.
fn corpus(target: &str) -> Vec<(String, Vec<u8>)> {
    let folder =
        PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../tests/fuzz/corpus").join(target);
    let inputs = std::fs::read_dir(&folder).unwrap().map(|entry| {
        let entry = entry.unwrap();
        let name = format!("{target}/{}", entry.file_name().to_string_lossy());
        (name, std::fs::read(entry.path()).unwrap())
    });
    inputs.collect()
}

/// What a target does with each of its inputs, told where one fails.
fn feed(target: &str, take: impl Fn(&[u8])) {
    let inputs = corpus(target);
    assert!(!inputs.is_empty(), "{target} has no corpus");
    for (name, input) in inputs {
        let taken = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| take(&input)));
        assert!(taken.is_ok(), "tests/fuzz/corpus/{name}");
    }
}

#[test]
fn each_parser_takes_its_corpus() {
    feed("native", parsers::native);
    feed("skills", parsers::skills);
    feed("socketio", parsers::socketio);
    feed("sync", parsers::sync);
    feed("resume", parsers::resume);
    feed("events", parsers::events);
    feed("hook", parsers::hook);
    feed("token", parsers::token);
    feed("websocket", parsers::websocket);
}

#[test]
fn a_hub_takes_what_the_corpora_say_to_it() {
    let folder = tempfile::tempdir().unwrap();
    let stage = Stage::start(folder.path());
    feed("stream", |input| stage.stream(input));
    feed("http", |input| stage.http(input));
}

#[test]
fn the_corpora_are_small() {
    let targets = std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/fuzz/corpus"));
    let targets = targets.unwrap().map(|entry| entry.unwrap().file_name());
    let inputs = targets.flat_map(|target| corpus(&target.to_string_lossy()));
    let bytes: usize = inputs.map(|(_, input)| input.len()).sum();
    assert!(bytes < 200 * 1024, "{bytes} bytes: minimise them (tests/fuzz/run.sh --minimise)");
}
