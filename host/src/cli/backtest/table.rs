//! A CSV file, as tracks: a column of times, one or more of values, and maybe one
//! that says where something was wrong.

use std::path::{Path, PathBuf};

use csv::{ByteRecord, ReaderBuilder};

use super::Failure;
use super::output::COLUMNS;
use super::run::Scores;
use super::times;
use super::track::{POINTS_MAX, Point, Track, Window};

/// The largest file: with two short columns it has the most values that are read.
pub(super) const FILE_BYTES_MAX: u64 = 1 << 30;
/// The most columns of values.
const COLUMNS_MAX: usize = 1000;
/// What a column of times is called, where nobody says so.
const TIME_NAMES: [&str; 6] = ["timestamp", "time", "ts", "date", "datetime", "_time"];
/// What a column is called that says where something was wrong.
const LABEL_NAMES: [&str; 5] = ["label", "is_anomaly", "anomaly", "is_outlier", "labels"];

/// Which file, and what its columns are.
#[derive(Debug)]
pub(super) struct Table {
    pub(super) file: PathBuf,
    /// The column of times.
    pub(super) time: Option<String>,
    /// Those of values; all others if empty.
    pub(super) values: Vec<String>,
    /// The one that says where something was wrong.
    pub(super) label: Option<String>,
    /// From this nanosecond on …
    pub(super) from_ns: u64,
    /// … to this one.
    pub(super) to_ns: u64,
    /// A time may be before the one above it, and is shown as that one.
    pub(super) disorder: bool,
}

/// Where the columns are.
struct Columns {
    time: usize,
    values: Vec<(usize, String)>,
    label: Option<usize>,
}

impl Table {
    /// A file of NAB's: `timestamp,value`.
    pub(super) fn plain(file: PathBuf) -> Self {
        Self {
            file,
            time: None,
            values: Vec::new(),
            label: None,
            from_ns: 0,
            to_ns: u64::MAX,
            disorder: true,
        }
    }

    /// Reads the file.
    ///
    /// # Errors
    ///
    /// With the file, the line and the column, and what is wrong there.
    pub(super) fn read(&self) -> Result<Vec<Track>, Failure> {
        self.tracks(&read(&self.file)?)
    }

    /// The tracks of a file that was read already.
    pub(super) fn tracks(&self, bytes: &[u8]) -> Result<Vec<Track>, Failure> {
        let mut reader = ReaderBuilder::new().flexible(false).from_reader(bytes);
        let header = reader.byte_headers().map_err(|error| self.csv(&error))?.clone();
        let columns = self.columns(&header)?;
        let mut rows = Rows::new(columns.values.len());
        let mut record = ByteRecord::new();
        while reader.read_byte_record(&mut record).map_err(|error| self.csv(&error))? {
            let line = record.position().map_or(0, csv::Position::line);
            self.row(&columns, &record, line, &mut rows)?;
        }
        if rows.times.is_empty() {
            return Err(self.failure("it has no rows in the range that is asked for"));
        }
        let windows = columns.label.map(|_| rows.windows());
        let tracks = columns.values.iter().zip(&rows.values).map(|((_, name), values)| {
            let points = rows.times.iter().zip(values);
            let points =
                points.map(|(time_ns, value)| Point { time_ns: *time_ns, value: *value }).collect();
            let track = Track::foreign(name, points).map_err(|words| self.failure(words))?;
            Ok(Track { windows: windows.clone(), ..track })
        });
        tracks.collect()
    }

    /// The one track of a file of a corpus: that of its column `value`, or of the
    /// only one that it has.
    pub(super) fn only(&self, bytes: &[u8]) -> Result<Track, Failure> {
        let mut tracks = self.tracks(bytes)?;
        let at = if tracks.len() == 1 {
            Some(0)
        } else {
            tracks.iter().position(|track| track.name == "value")
        };
        at.map(|at| tracks.swap_remove(at)).ok_or_else(|| {
            self.failure("it has several columns of values, and none is called `value`")
        })
    }

    /// The file once more, as far as a corpus' results go: its times and values
    /// as they are written there, and the scores of `column` beside them.
    pub(super) fn with_scores(
        &self,
        bytes: &[u8],
        column: &str,
        scores: &Scores,
    ) -> Result<Vec<u8>, Failure> {
        let mut reader = ReaderBuilder::new().from_reader(bytes);
        let header = reader.byte_headers().map_err(|error| self.csv(&error))?.clone();
        let columns = self.columns(&header)?;
        let value = columns.values.iter().find(|(_, name)| name == column);
        let value = value.map_or(columns.time, |(at, _)| *at);
        let mut writer = csv::Writer::from_writer(Vec::with_capacity(2 * bytes.len()));
        writer.write_record(COLUMNS).map_err(|error| self.csv(&error))?;
        let both = scores.told.iter().zip(&scores.raw);
        for (record, (told, raw)) in reader.byte_records().zip(both) {
            let record = record.map_err(|error| self.csv(&error))?;
            let (told, raw) = (told.to_string(), raw.to_string());
            let row = [&record[columns.time], &record[value], told.as_bytes(), raw.as_bytes()];
            writer.write_record(row).map_err(|error| self.csv(&error))?;
        }
        writer.into_inner().map_err(|error| self.failure(error))
    }

    fn row(
        &self,
        columns: &Columns,
        record: &ByteRecord,
        line: u64,
        rows: &mut Rows,
    ) -> Result<(), Failure> {
        let cell = |column: usize| std::str::from_utf8(&record[column]).unwrap_or("\u{fffd}");
        let text = cell(columns.time);
        let time_ns = times::parse(text).ok_or_else(|| {
            self.at(line, columns.time, format!(
                "{text:?} is no time: write 2026-02-10T12:00:00Z, 2026-02-10 12:00:00, or seconds or \
                 milliseconds since 1970"
            ))
        })?;
        if !(self.from_ns..=self.to_ns).contains(&time_ns) {
            return Ok(());
        }
        if rows.times.last().is_some_and(|last| time_ns < *last) && !self.disorder {
            let words =
                format!("{text} is before the time of the row above: sort the rows by time");
            return Err(self.at(line, columns.time, words));
        }
        rows.times.push(time_ns);
        for (values, (column, name)) in rows.values.iter_mut().zip(&columns.values) {
            let value = number(cell(*column)).ok_or_else(|| {
                let words = format!(
                    "{:?} is no number (column {name:?}): name the columns of values with --column",
                    cell(*column)
                );
                self.at(line, *column, words)
            })?;
            values.push(value);
        }
        if let Some(column) = columns.label {
            let odd = flag(cell(column)).ok_or_else(|| {
                let words = format!("the label {:?} is not 0 or 1", cell(column));
                self.at(line, column, words)
            })?;
            rows.odd.push(odd);
        }
        if rows.times.len() * rows.values.len() > POINTS_MAX {
            return Err(self.at(line, columns.time, format!(
                "more than {POINTS_MAX} values: narrow what is read with --column, --from and --to"
            )));
        }
        Ok(())
    }

    fn columns(&self, header: &ByteRecord) -> Result<Columns, Failure> {
        let names: Vec<String> =
            header.iter().map(|name| String::from_utf8_lossy(name).trim().to_owned()).collect();
        let place = |name: &str| {
            names.iter().position(|own| own == name).ok_or_else(|| {
                self.failure(format!("it has no column {name:?}; it has {}", names.join(", ")))
            })
        };
        let one_of = |known: &[&str]| {
            names.iter().position(|name| known.contains(&name.to_ascii_lowercase().as_str()))
        };
        let time = match &self.time {
            Some(name) => place(name)?,
            None => one_of(&TIME_NAMES).unwrap_or(0),
        };
        let label = match &self.label {
            Some(name) => Some(place(name)?),
            None => one_of(&LABEL_NAMES).filter(|at| !self.values.contains(&names[*at])),
        };
        let values: Vec<usize> = if self.values.is_empty() {
            (0..names.len()).filter(|at| *at != time && Some(*at) != label).collect()
        } else {
            self.values.iter().map(|name| place(name)).collect::<Result<_, _>>()?
        };
        if values.is_empty() {
            let words = "it has no column of values: the first line names the columns, as in \
                         timestamp,value";
            return Err(self.failure(words));
        }
        if values.len() > COLUMNS_MAX {
            let words = format!(
                "it has {} columns of values, and {COLUMNS_MAX} is the limit: name some \
                         with --column",
                values.len()
            );
            return Err(self.failure(words));
        }
        let values: Vec<(usize, String)> =
            values.into_iter().map(|at| (at, names[at].clone())).collect();
        let twice = |at: usize| values[..at].iter().any(|(_, name)| *name == values[at].1);
        if let Some(at) = (0..values.len()).find(|at| twice(*at)) {
            return Err(self.failure(format!(
                "two columns of values are called {:?}: rename one, since their scores go by name",
                values[at].1
            )));
        }
        Ok(Columns { time, values, label })
    }

    fn failure(&self, words: impl std::fmt::Display) -> Failure {
        Failure::usage(format!("{}: {words}", self.file.display()))
    }

    fn at(&self, line: u64, column: usize, words: impl std::fmt::Display) -> Failure {
        self.failure(format!("line {line}, column {}: {words}", column + 1))
    }

    fn csv(&self, error: &csv::Error) -> Failure {
        match error.kind() {
            csv::ErrorKind::UnequalLengths { pos, expected_len, len } => {
                let line = pos.as_ref().map_or(0, csv::Position::line);
                self.failure(format!("line {line}: {len} columns, and {expected_len} in the first"))
            }
            _ => self.failure(error),
        }
    }
}

/// Reads a file that is not too large.
pub(super) fn read(file: &Path) -> Result<Vec<u8>, Failure> {
    let failed = |words: String| Failure::usage(format!("{}: {words}", file.display()));
    let bytes = std::fs::metadata(file).map_err(|error| failed(error.to_string()))?.len();
    if bytes > FILE_BYTES_MAX {
        return Err(failed(format!("it has {bytes} bytes, and {FILE_BYTES_MAX} is the limit")));
    }
    std::fs::read(file).map_err(|error| failed(error.to_string()))
}

/// What was read so far.
struct Rows {
    times: Vec<u64>,
    /// For each column.
    values: Vec<Vec<f64>>,
    odd: Vec<bool>,
}

impl Rows {
    fn new(columns: usize) -> Self {
        Self { times: Vec::new(), values: vec![Vec::new(); columns], odd: Vec::new() }
    }

    /// The runs of rows that are labelled.
    fn windows(&self) -> Vec<Window> {
        let mut windows: Vec<Window> = Vec::new();
        let mut before = false;
        for (time_ns, odd) in self.times.iter().zip(&self.odd) {
            match windows.last_mut() {
                Some(window) if *odd && before => window.1 = *time_ns,
                _ if *odd => windows.push((*time_ns, *time_ns)),
                _ => {}
            }
            before = *odd;
        }
        windows
    }
}

/// A value; not a number where there is none.
fn number(text: &str) -> Option<f64> {
    let text = text.trim();
    if text.is_empty() || text.eq_ignore_ascii_case("null") {
        return Some(f64::NAN);
    }
    // An infinite value is one that a hub would not have taken.
    text.parse().ok().map(|value: f64| if value.is_finite() { value } else { f64::NAN })
}

fn flag(text: &str) -> Option<bool> {
    match text.trim() {
        "1" | "1.0" | "true" | "True" | "TRUE" => Some(true),
        "" | "0" | "0.0" | "false" | "False" | "FALSE" => Some(false),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> Table {
        Table { disorder: false, ..Table::plain(PathBuf::from("t.csv")) }
    }

    #[track_caller]
    fn refused(table: &Table, text: &str, words: &[&str]) {
        let failure = table.tracks(text.as_bytes()).unwrap_err();
        for word in ["t.csv"].iter().chain(words) {
            assert!(failure.words.contains(word), "{word}: {failure:?}");
        }
        assert_eq!(failure.exit, super::super::super::EXIT_USAGE, "{failure:?}");
    }

    #[test]
    fn each_column_of_values_is_a_series_of_its_own() {
        let text = "when,a,b,label\n10,1,2,0\n20,,3.5,1\n30,5,NaN,1\n40,6,7,0\n";
        let tracks = table().tracks(text.as_bytes()).unwrap();
        let names: Vec<&str> = tracks.iter().map(|track| &*track.name).collect();
        assert_eq!(names, ["a", "b"]);
        let values = |at: usize| -> Vec<String> {
            tracks[at].points.iter().map(|point| point.value.to_string()).collect()
        };
        assert_eq!(
            (values(0), values(1)),
            (
                ["1", "NaN", "5", "6"].map(String::from).to_vec(),
                ["2", "3.5", "NaN", "7"].map(String::from).to_vec(),
            )
        );
        assert_eq!(tracks[0].windows, Some(vec![(20_000_000_000, 30_000_000_000)]));
        assert_eq!(tracks[0].interval.as_secs(), 10);
    }

    #[test]
    fn what_is_wrong_in_a_file_is_told_with_its_line_and_column() {
        let table = table();
        refused(&table, "t,v\n10,1\nsoon,2\n", &["line 3, column 1", "\"soon\"", "1970"]);
        refused(&table, "t,v\n10,1\n20,high\n", &["line 3, column 2", "\"high\"", "--column"]);
        refused(&table, "t,v\n20,1\n10,2\n", &["line 3, column 1", "sort"]);
        refused(&table, "t,v,v\n10,1,2\n", &["two columns", "\"v\""]);
        refused(&table, "t,v\n10,1\n20,2,3\n", &["line 3", "3 columns, and 2"]);
        refused(&table, "t,v,label\n10,1,maybe\n", &["line 2, column 3", "\"maybe\""]);
        refused(&table, "t,v\n", &["no rows"]);
        refused(&table, "t\n10\n", &["no column of values"]);
        let named = Table { values: vec!["w".to_owned()], ..table };
        refused(&named, "t,v\n10,1\n", &["no column \"w\"", "t, v"]);
    }

    #[test]
    fn a_range_is_cut_out() {
        let table = Table { from_ns: 20_000_000_000, to_ns: 30_000_000_000, ..table() };
        let tracks = table.tracks(b"t,v\n10,1\n20,2\n30,3\n40,4\n").unwrap();
        assert_eq!(tracks[0].points.len(), 2);
    }
}
