//! `telltale backtest`: what a detector would have told of what has been.

mod corpus;
mod history;
mod labels;
mod nab;
mod output;
mod report;
mod run;
mod table;
mod times;
mod track;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use clap::Args;
use globset::{Glob, GlobSet, GlobSetBuilder};
use indicatif::{ProgressBar, ProgressStyle};
use tokio::signal::unix::{SignalKind, signal};

use super::plugin::near;
use super::plugin::subject;
use super::{Failure, client, load, print};
use crate::config::Config;
use crate::judge::Rules;
use crate::model::SeriesSpec;
use crate::plugin::replay::{Component, Replay, crowd, runtime};
use crate::plugin::{BUNDLED, Bundled};
use corpus::Corpus;
use labels::Labels;
use nab::More;
use output::Output;
use report::{Circumstances, Summary};
use run::{Run, STOPPED, Work};
use table::Table;
use track::Track;

/// More threads than this are a slip of the finger.
const THREADS_MAX: u16 = 1024;

/// What the help ends with.
pub(super) const EXAMPLES: &str = "\
Examples:
  telltale backtest zscore --from 2d --series 'system.cpu.*'   what the hub has kept of two days
  telltale backtest my.wasm --csv latency.csv                  a file: timestamp, value, …
  telltale backtest zscore --nab NAB --out results             a corpus in NAB's layout, with scores

Values go to the detector one after the other, in their order, through the call that live ticks go \
through, with their time as its clock. It can see nothing of what comes later. What is told is \
decided by the hub's policy: threshold, quiet time, habituation.
Exit codes: 0 all is well; 1 something went wrong; 64 the command line or a file that it names asks \
for what can't be.";

#[derive(Debug, Args)]
pub(super) struct Backtest {
    /// A bundled detector's name, or a component's file
    #[arg(value_name = "NAME | FILE")]
    detector: PathBuf,
    /// The detector's settings [default: those bundled with it, or NAME.toml beside its file]
    #[arg(long, value_name = "FILE")]
    settings: Option<PathBuf>,
    #[command(flatten)]
    source: Source,
    /// From this time on: RFC 3339, or how long ago it was (2d, 90m)
    #[arg(long, value_name = "TIME", value_parser = times::parse_or_ago, conflicts_with = "nab")]
    from: Option<u64>,
    /// Up to this time
    #[arg(long, value_name = "TIME", value_parser = times::parse_or_ago, conflicts_with = "nab")]
    to: Option<u64>,
    /// Labels in NAB's form, {"name": [["from", "to"], …]} [default: those of the corpus]
    #[arg(long, value_name = "FILE")]
    labels: Option<PathBuf>,
    /// Where the score of each value is written, and summary.json
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// The score from which a value may be told [default: that of the policy]
    #[arg(long, value_name = "SCORE", value_parser = score)]
    threshold: Option<f64>,
    /// Also NAB's score at the threshold that would have been best
    #[arg(long, requires = "nab")]
    optimise: bool,
    /// Also NAB's score with the threshold for each category chosen on the others
    #[arg(long, requires = "nab")]
    logo: bool,
    /// Leave out what a value and a series cost, which takes a second or two
    #[arg(long)]
    skip_costs: bool,
    /// How many threads work [default: as many as there are processors]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=i64::from(THREADS_MAX)))]
    threads: Option<u16>,
    /// Write JSON
    #[arg(long)]
    json: bool,
}

/// Where the values come from: a hub's history, if nothing else is named.
#[derive(Debug, Args)]
struct Source {
    /// The configuration file [default: telltale.toml, if there is one]
    #[arg(long, value_name = "FILE", env = "TELLTALE_CONFIG")]
    config: Option<PathBuf>,
    /// The data folder of the hub whose history it is [default: telltale-data]
    #[arg(long, value_name = "DIR", conflicts_with_all = ["csv", "nab"])]
    data: Option<PathBuf>,
    /// Series of the hub, by a glob of their names or of name{label="value"}; several times
    #[arg(long = "series", value_name = "GLOB", conflicts_with_all = ["csv", "nab"])]
    series: Vec<String>,
    /// A CSV file: a column of times, one or more of values
    #[arg(long, value_name = "FILE", conflicts_with = "nab")]
    csv: Option<PathBuf>,
    /// Its column of times [default: timestamp or the like, else the first]
    #[arg(long, value_name = "NAME", requires = "csv")]
    time_column: Option<String>,
    /// A column of values; several times [default: all others]
    #[arg(long = "column", value_name = "NAME", requires = "csv")]
    columns: Vec<String>,
    /// Its column that says where something was wrong, 0 or 1 [default: label or the like]
    #[arg(long, value_name = "NAME", requires = "csv")]
    label_column: Option<String>,
    /// A corpus in NAB's layout: data/<category>/<file>.csv, labels/combined_windows.json
    #[arg(long, value_name = "DIR")]
    nab: Option<PathBuf>,
}

fn score(text: &str) -> Result<f64, String> {
    let score = text.parse().ok().filter(|score| *score > 0.0 && *score < 1.0);
    score.ok_or_else(|| format!("{text:?} is no score above 0 and below 1"))
}

/// What is to be shown, and the labels of it.
struct Past {
    source: String,
    work: Vec<Work>,
    labels: Option<Labels>,
}

impl Backtest {
    pub(super) fn run(self) -> Result<(), Failure> {
        // Each of a thousand instances would say how it was configured.
        subject::show_log(tracing::Level::WARN);
        let config = load(self.source.config.as_ref())?;
        let replay = self.open()?;
        config.check().map_err(Failure::usage)?;
        let rules = Rules::new(&config.findings).map_err(Failure::usage)?;
        let begun = Instant::now();
        let past = self.past(&config, &replay)?;
        let threads = match self.threads {
            Some(threads) => threads.into(),
            None => std::thread::available_parallelism().map_or(1, Into::into),
        };
        let run = Arc::new(Run {
            replay,
            rules,
            threshold: self.threshold,
            output: self.out.as_deref().map(Output::open).transpose()?,
            threads,
            progress: progress(past.work.iter().map(Work::size).sum()),
            work: past.work,
            labels: past.labels,
            stop: AtomicBool::new(false),
        });
        let mut around = Circumstances {
            source: past.source,
            took: begun.elapsed(),
            cost: None,
            more: More { optimised: self.optimise, logo: self.logo },
        };
        let skip_costs = self.skip_costs;
        let (outcomes, cost) = until_stopped(run.clone(), move |run| {
            let outcomes = run.all()?;
            Ok((outcomes, if skip_costs { None } else { Some(costs(run)?) }))
        })?;
        (around.cost, around.took) = (cost, begun.elapsed());
        let summary = Summary::new(&run, &run.usual_policy()?, &around, outcomes);
        let json = summary.json().map_err(Failure::new)?;
        if let Some(output) = &run.output {
            output.file("summary.json", format!("{json}\n").as_bytes())?;
        }
        if self.json {
            print(&json);
        } else {
            summary.show();
        }
        Ok(())
    }

    /// Loads the detector.
    fn open(&self) -> Result<Replay, Failure> {
        let word = self.detector.to_str().unwrap_or_default();
        if let Some(bundled) = Bundled::named(word) {
            let settings = self.settings.as_deref();
            return Replay::open(Component::Bundled(bundled), settings, &subject::cache())
                .map_err(subject::failure);
        }
        let is_word = !word.is_empty() && !word.contains(['/', '.']);
        if is_word && !self.detector.exists() {
            let names: Vec<&str> = BUNDLED.iter().map(|bundled| bundled.name).collect();
            let hint = near::suggestion(word, &names);
            return Err(Failure::usage(format!(
                "no bundled detector is called `{word}`, and there is no such file{hint}"
            )));
        }
        let subject = subject::of(&self.detector, self.settings.as_deref());
        let component = Component::File(&subject.component);
        Replay::open(component, subject.settings.as_deref(), &subject.cache)
            .map_err(subject::failure)
    }

    /// Finds what is to be shown.
    fn past(&self, config: &Config, replay: &Replay) -> Result<Past, Failure> {
        if let Some(folder) = &self.source.nab {
            let corpus = Corpus::open(folder, self.labels.as_deref())?;
            let work = corpus.files.into_iter().map(Work::File).collect();
            return Ok(Past { source: shown(folder), work, labels: corpus.labels });
        }
        let (source, mut tracks) = match &self.source.csv {
            Some(file) => (shown(file), self.table(file).read()?),
            None => self.history(config, replay)?,
        };
        if let Some(file) = &self.labels {
            apply(file, labels::read(file)?, &mut tracks)?;
        }
        let work = tracks.into_iter().map(|track| Work::Track(Box::new(track))).collect();
        Ok(Past { source, work, labels: None })
    }

    fn table(&self, file: &Path) -> Table {
        Table {
            file: file.to_owned(),
            time: self.source.time_column.clone(),
            values: self.source.columns.clone(),
            label: self.source.label_column.clone(),
            from_ns: self.from.unwrap_or(0),
            to_ns: self.to.unwrap_or(u64::MAX),
            disorder: false,
        }
    }

    fn history(&self, config: &Config, replay: &Replay) -> Result<(String, Vec<Track>), Failure> {
        let folder = self.source.data.as_ref().unwrap_or(&config.data);
        let part = history::Part {
            folder,
            from_ns: self.from.unwrap_or(0),
            to_ns: self.to.unwrap_or(u64::MAX),
            tick: config.tick,
        };
        let globs = globs(&self.source.series)?;
        let tracks = history::read(&part, |spec: &SeriesSpec| match &globs {
            Some(globs) => globs.is_match(&*spec.key.name) || globs.is_match(spec.key.to_string()),
            None => replay.sees(&spec.key.name),
        })?;
        Ok((shown(&folder.join("history.db")), tracks))
    }
}

fn shown(path: &Path) -> String {
    path.display().to_string()
}

/// The globs of `--series`, if there are any.
fn globs(globs: &[String]) -> Result<Option<GlobSet>, Failure> {
    if globs.is_empty() {
        return Ok(None);
    }
    let refused = |glob: &str, error: &globset::Error| {
        Failure::usage(format!("--series {glob:?}: {}", error.kind()))
    };
    let mut set = GlobSetBuilder::new();
    for glob in globs {
        set.add(Glob::new(glob).map_err(|error| refused(glob, &error))?);
    }
    set.build().map(Some).map_err(|error| refused("", &error))
}

/// Gives the tracks their labels. With labels of some series at hand, one that
/// has none is one in which nothing was wrong.
fn apply(file: &Path, mut labels: Labels, tracks: &mut [Track]) -> Result<(), Failure> {
    for track in tracks.iter_mut() {
        track.windows = Some(labels.remove(&track.name).unwrap_or_default());
    }
    let Some((name, _)) = labels.first_key_value() else { return Ok(()) };
    let names: Vec<&str> = tracks.iter().map(|track| &*track.name).take(10).collect();
    Err(Failure::usage(format!(
        "{}: there are labels of {name:?}, and no such series is shown; there is {}",
        file.display(),
        names.join(", ")
    )))
}

fn progress(size: u64) -> ProgressBar {
    let bar = ProgressBar::new(size);
    // The pattern is right; without it the bar would only look otherwise.
    if let Ok(style) = ProgressStyle::with_template("{wide_bar} {percent} %, {eta} left") {
        bar.set_style(style);
    }
    bar
}

/// What a value and a series cost.
fn costs(run: &Run) -> Result<crate::plugin::replay::CrowdCost, Failure> {
    let runtime = runtime().map_err(Failure::new)?;
    let go_on = || !run.stop.load(Ordering::Relaxed);
    let cost = runtime.block_on(crowd(&run.replay, go_on));
    cost.map_err(|words| Failure::new(format!("what it costs can't be measured: {words}")))
}

/// Works off the main thread. Ctrl-C and SIGTERM end it between two values, and
/// never in the midst of a file that is written.
fn until_stopped<T: Send + 'static>(
    run: Arc<Run>,
    work: impl FnOnce(&Run) -> Result<T, Failure> + Send + 'static,
) -> Result<T, Failure> {
    client::wait_for(async move {
        let mut interrupt = signal(SignalKind::interrupt()).map_err(Failure::new)?;
        let mut terminate = signal(SignalKind::terminate()).map_err(Failure::new)?;
        let at_work = run.clone();
        let mut work = tokio::task::spawn_blocking(move || work(&at_work));
        let done = tokio::select! {
            done = &mut work => return done.map_err(Failure::new)?,
            _ = interrupt.recv() => work,
            _ = terminate.recv() => work,
        };
        run.stop.store(true, Ordering::Relaxed);
        // It may have been done in this very moment.
        let done = done.await.map_err(Failure::new)?;
        run.progress.finish_and_clear();
        done.map_err(|failure| match (failure.words.ends_with(STOPPED), &run.output) {
            (true, Some(_)) => Failure::new("stopped: the files that are there are whole"),
            (true, None) => Failure::new(STOPPED),
            (false, _) => failure,
        })
    })
}
