//! Where the scores of each value go: a file for each series, whole or not there.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use super::Failure;
use super::run::Scores;
use super::times;
use super::track::Track;

/// The columns that are added to what was read.
pub(super) const COLUMNS: [&str; 4] = ["timestamp", "value", "anomaly_score", "raw_score"];

/// A folder that files are written to.
pub(super) struct Output {
    folder: PathBuf,
}

impl Output {
    /// Makes the folder, if it is missing. The summary of an earlier run is
    /// removed, since its files are about to be replaced.
    pub(super) fn open(folder: &Path) -> Result<Self, Failure> {
        let output = Self { folder: folder.to_owned() };
        fs::create_dir_all(folder).map_err(|error| failed(folder, &error))?;
        let summary = output.summary();
        match fs::remove_file(&summary) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(failed(&summary, &error))
            }
            _ => Ok(output),
        }
    }

    /// Where the summary goes, once all else is there.
    pub(super) fn summary(&self) -> PathBuf {
        self.folder.join("summary.json")
    }

    /// Writes a file of this name, with folders in it, whole.
    pub(super) fn file(&self, name: &str, bytes: &[u8]) -> Result<(), Failure> {
        let path = self.folder.join(name);
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder).map_err(|error| failed(folder, &error))?;
        }
        let word = path.file_name().unwrap_or_default().to_string_lossy();
        let unfinished = path.with_file_name(format!(".{word}.{}", std::process::id()));
        let written = fs::File::create(&unfinished)
            .and_then(|mut file| file.write_all(bytes))
            .and_then(|()| fs::rename(&unfinished, &path));
        written.map_err(|error| {
            // It was told already what went wrong.
            let _ = fs::remove_file(&unfinished);
            failed(&path, &error)
        })
    }

    /// Writes the scores of a series of a hub, or of a column.
    pub(super) fn track(&self, track: &Track, scores: &Scores) -> Result<(), Failure> {
        let mut writer = csv::Writer::from_writer(Vec::new());
        let csv = |error: csv::Error| Failure::new(error);
        writer.write_record(COLUMNS).map_err(csv)?;
        for (at, point) in track.points.iter().enumerate() {
            let value = if point.value.is_nan() { String::new() } else { point.value.to_string() };
            let (told, raw) = (scores.told[at].to_string(), scores.raw[at].to_string());
            let row = [times::shown(point.time_ns), value, told, raw];
            writer.write_record(row).map_err(csv)?;
        }
        let bytes = writer.into_inner().map_err(Failure::new)?;
        self.file(&format!("{}.csv", name_of(track)), &bytes)
    }
}

/// A file's name for a series. Where something can't be in one, a hash tells it
/// from others that look alike without that.
fn name_of(track: &Track) -> String {
    const CHARACTERS_MAX: usize = 150;
    let legal = |c: char| if c.is_ascii_alphanumeric() || "._-=".contains(c) { c } else { '_' };
    let word: String = track.name.chars().map(legal).take(CHARACTERS_MAX).collect();
    if word == track.name && !word.starts_with('.') {
        return word;
    }
    let hash = blake3::hash(track.name.as_bytes()).to_hex();
    format!("{}-{}", word.trim_start_matches('.'), &hash[..12])
}

fn failed(path: &Path, error: &std::io::Error) -> Failure {
    Failure::new(format!("{}: {error}", path.display()))
}
