//! A corpus in the layout of the Numenta Anomaly Benchmark:
//! `data/<category>/<file>.csv`, and `labels/combined_windows.json`.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use super::Failure;
use super::labels::{self, Labels};

/// The most files.
const FILES_MAX: usize = 10_000;

/// What lies there. Nothing is read but the labels.
pub(super) struct Corpus {
    /// In the order of their names.
    pub(super) files: Vec<CorpusFile>,
    /// The labels, where there are any.
    pub(super) labels: Option<Labels>,
}

/// A file of data.
pub(super) struct CorpusFile {
    /// `<category>/<file>.csv`.
    pub(super) name: String,
    pub(super) path: PathBuf,
    pub(super) bytes: u64,
}

impl Corpus {
    /// Looks at what is in `folder`; `labels_file` names other labels than those
    /// that lie there.
    ///
    /// # Errors
    ///
    /// It isn't laid out like that, or can't be read.
    pub(super) fn open(folder: &Path, labels_file: Option<&Path>) -> Result<Self, Failure> {
        let data = folder.join("data");
        let mut files = Vec::new();
        for category in entries(&data)? {
            if !category.is_dir() {
                continue;
            }
            for path in entries(&category)? {
                if path.extension().is_some_and(|ending| ending == "csv") {
                    files.push(CorpusFile::at(&category, path)?);
                }
            }
        }
        if files.is_empty() || files.len() > FILES_MAX {
            return Err(Failure::usage(format!(
                "{}: {} files data/<category>/<file>.csv, and it is from 1 to {FILES_MAX}",
                folder.display(),
                files.len()
            )));
        }
        files.sort_by(|one, other| one.name.cmp(&other.name));
        let usual = folder.join("labels").join("combined_windows.json");
        let labels = match labels_file {
            Some(file) => Some(labels::read(file)?),
            None if usual.is_file() => Some(labels::read(&usual)?),
            None => None,
        };
        let corpus = Self { files, labels };
        corpus.check(folder)?;
        Ok(corpus)
    }

    /// Labels of a file that isn't there would count as anomalies that nobody
    /// could find.
    fn check(&self, folder: &Path) -> Result<(), Failure> {
        let names: BTreeMap<&str, ()> = self.files.iter().map(|file| (&*file.name, ())).collect();
        let labelled = self.labels.iter().flat_map(BTreeMap::keys);
        for name in labelled {
            if !names.contains_key(&**name) {
                return Err(Failure::usage(format!(
                    "{}: there are labels of {name}, and there is no data/{name}",
                    folder.display()
                )));
            }
        }
        Ok(())
    }
}

impl CorpusFile {
    fn at(category: &Path, path: PathBuf) -> Result<Self, Failure> {
        let word =
            |path: &Path| path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let name = format!("{}/{}", word(category), word(&path));
        let length = fs::metadata(&path).map_err(|error| failed(&path, &error))?.len();
        Ok(Self { name, path, bytes: length })
    }
}

fn entries(folder: &Path) -> Result<Vec<PathBuf>, Failure> {
    let read = fs::read_dir(folder).map_err(|error| failed(folder, &error))?;
    read.map(|entry| entry.map(|entry| entry.path()).map_err(|error| failed(folder, &error)))
        .collect()
}

fn failed(path: &Path, error: &std::io::Error) -> Failure {
    Failure::usage(format!("{}: {error}; a corpus has data/<category>/<file>.csv", path.display()))
}
