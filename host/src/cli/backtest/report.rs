//! What came of it, for people and for programs.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Serialize;

use super::labels::{Figures, Tally};
use super::nab::{self, More, Score};
use super::run::{Alert, Outcome, Run};
use super::times::stretch;
use crate::cli::plugin::text::bytes;
use crate::cli::print;
use crate::judge::Policy;
use crate::plugin::replay::CrowdCost;

/// How many series, and how many alerts, are shown to people.
const SHOWN_MAX: usize = 20;

/// All of it.
#[derive(Debug, Serialize)]
pub(super) struct Summary {
    /// The detector's name.
    detector: String,
    /// The first digits of its component's hash.
    version: String,
    component_bytes: usize,
    /// From this score on a value may be told.
    threshold: f64,
    policy: PolicyShown,
    /// Where the values come from.
    source: String,
    series: usize,
    points: usize,
    /// Values that were due and had not come.
    missing: usize,
    /// All series together.
    series_seconds: f64,
    alerts: usize,
    alerts_per_series_per_day: Option<f64>,
    /// By labels, where there are any.
    #[serde(skip_serializing_if = "Option::is_none")]
    labels: Option<Figures>,
    /// NAB's scores, where it is a corpus with labels.
    #[serde(skip_serializing_if = "Option::is_none")]
    nab: Option<BTreeMap<&'static str, Score>>,
    /// One value among many in a call, as in a hub.
    #[serde(skip_serializing_if = "Option::is_none")]
    ns_per_point: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    bytes_per_series: Option<f64>,
    /// One value alone in its call, as here, with all that is done around it.
    ns_per_call: f64,
    /// Wall time.
    seconds: f64,
    threads: usize,
    /// Each series, in the order in which they were read.
    by_series: Vec<SeriesShown>,
}

#[derive(Debug, Serialize)]
struct PolicyShown {
    open: f64,
    close: f64,
    close_after: u32,
    #[serde(rename = "for")]
    hold: u32,
    quiet: u32,
    again: f64,
    habituation: f64,
    habituation_values: u32,
}

#[derive(Debug, Serialize)]
struct SeriesShown {
    name: String,
    points: usize,
    missing: usize,
    /// Rows whose time is before that of the row above.
    disorder: usize,
    alerts: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    labels: Option<Figures>,
    /// The first thousand of them.
    told: Vec<Alert>,
}

/// What is known of a run beside its outcomes.
pub(super) struct Circumstances {
    pub(super) source: String,
    pub(super) took: Duration,
    pub(super) cost: Option<CrowdCost>,
    pub(super) more: More,
}

impl Summary {
    pub(super) fn new(
        run: &Run,
        policy: &Policy,
        around: &Circumstances,
        outcomes: Vec<Outcome>,
    ) -> Self {
        let sum = |of: fn(&Outcome) -> usize| outcomes.iter().map(of).sum::<usize>();
        let (points, alerts) = (sum(|one| one.points), sum(|one| one.alert_count));
        let series_seconds: f64 = outcomes.iter().map(|outcome| outcome.seconds).sum();
        let computing: f64 = outcomes.iter().map(|one| one.computing.as_secs_f64()).sum();
        let scored: Vec<&nab::Rows> =
            outcomes.iter().filter_map(|outcome| outcome.nab.as_ref()).collect();
        let nab = (!scored.is_empty()).then(|| nab::scores(&scored, policy.open, around.more));
        Self {
            detector: run.replay.name().to_owned(),
            version: run.replay.version(),
            component_bytes: run.replay.component_bytes(),
            threshold: policy.open,
            policy: PolicyShown::of(policy),
            source: around.source.clone(),
            series: outcomes.len(),
            points,
            missing: sum(|one| one.missing),
            series_seconds,
            alerts,
            alerts_per_series_per_day: (series_seconds > 0.0)
                .then(|| alerts as f64 * 86_400.0 / series_seconds),
            labels: labels(&outcomes),
            nab,
            ns_per_point: around.cost.map(|cost| cost.ns_per_point),
            bytes_per_series: around.cost.map(|cost| cost.bytes_per_series),
            ns_per_call: computing * 1e9 / points.max(1) as f64,
            seconds: around.took.as_secs_f64(),
            threads: run.threads,
            by_series: outcomes.into_iter().map(SeriesShown::of).collect(),
        }
    }

    /// As JSON.
    pub(super) fn json(&self) -> serde_json::Result<String> {
        serde_json::to_string_pretty(self)
    }

    /// Shows it to people.
    pub(super) fn show(&self) {
        print(&format!("detector     {} {}", self.detector, self.version));
        print(&format!(
            "shown        {} values of {} series, {} missing ({})",
            self.points, self.series, self.missing, self.source
        ));
        let disorder: usize = self.by_series.iter().map(|series| series.disorder).sum();
        if disorder > 0 {
            print(&format!(
                "disorder     {disorder} times go back, and were shown as the last one"
            ));
        }
        let daily = self.alerts_per_series_per_day;
        let daily = daily.map_or(String::new(), |daily| format!(", {daily:.3} a series and day"));
        print(&format!("alerts       {} at threshold {}{daily}", self.alerts, self.threshold));
        if let Some(figures) = &self.labels {
            show_labels(figures);
        }
        // By chance the usual one comes last in the alphabet.
        for (profile, score) in self.nab.iter().flatten().rev() {
            show_score(profile, score);
        }
        if let (Some(ns), Some(memory)) = (self.ns_per_point, self.bytes_per_series) {
            print(&format!("cost         {ns:.0} ns a value, {} a series", bytes(memory as u64)));
        }
        print(&format!(
            "took         {:.2} s on {} threads, {:.0} ns a call",
            self.seconds, self.threads, self.ns_per_call
        ));
        self.show_series();
        self.show_alerts();
    }

    /// The series with the most alerts.
    fn show_series(&self) {
        let mut series: Vec<&SeriesShown> =
            self.by_series.iter().filter(|series| series.alerts > 0).collect();
        series.sort_by_key(|series| std::cmp::Reverse(series.alerts));
        if series.len() < 2 {
            return;
        }
        let width = series.iter().take(SHOWN_MAX).map(|one| one.name.len()).max().unwrap_or(0);
        let by_labels = if self.labels.is_some() { "  windows hit  false" } else { "" };
        print(&format!("\n{:<width$}  alerts  of values{by_labels}", "series"));
        for one in series.iter().take(SHOWN_MAX) {
            let labels = one.labels.as_ref().map_or(String::new(), |figures| {
                let hit = format!("{} of {}", figures.windows_hit, figures.windows);
                format!("  {hit:>11}  {:>5}", figures.false_alerts)
            });
            print(&format!("{:<width$}  {:>6}  {:>9}{labels}", one.name, one.alerts, one.points));
        }
        if series.len() > SHOWN_MAX {
            print(&format!("and {} more: --json tells all", series.len() - SHOWN_MAX));
        }
    }

    /// The alerts with the highest scores, where there is one series or few.
    fn show_alerts(&self) {
        let told =
            self.by_series.iter().flat_map(|one| one.told.iter().map(move |alert| (one, alert)));
        let mut told: Vec<(&SeriesShown, &Alert)> = told.collect();
        if told.is_empty() || self.nab.is_some() {
            return;
        }
        told.sort_by(|one, other| other.1.score.total_cmp(&one.1.score));
        let more = told.len().saturating_sub(SHOWN_MAX);
        told.truncate(SHOWN_MAX);
        told.sort_by(|one, other| one.1.time.cmp(&other.1.time));
        print("\ntime                      score  what");
        for (series, alert) in told {
            let value = alert.value.map_or("no value".to_owned(), |value| value.to_string());
            let kind = alert.finding_type.as_deref().unwrap_or("odd");
            let note = alert.note.as_ref().map_or(String::new(), |note| format!(": {note}"));
            let (time, score, name) = (&alert.time, alert.score, &series.name);
            print(&format!("{time}  {score:.3}  {kind} of {name}, {value}{note}"));
        }
        if more > 0 {
            print(&format!("and {more} with lower scores: --json tells them"));
        }
    }
}

/// How it did by all labels together.
fn labels(outcomes: &[Outcome]) -> Option<Figures> {
    let labelled = || outcomes.iter().filter_map(|one| Some((one, one.tally.as_ref()?)));
    labelled().next()?;
    let mut all = Tally::default();
    let (mut points, mut seconds) = (0, 0.0);
    for (outcome, tally) in labelled() {
        all.add(tally);
        points += outcome.counted;
        seconds += outcome.counted_seconds();
    }
    Some(all.figures(points, seconds))
}

impl Outcome {
    /// The part of its time that the tally goes by.
    fn counted_seconds(&self) -> f64 {
        self.seconds * self.counted as f64 / self.points.max(1) as f64
    }
}

impl SeriesShown {
    fn of(outcome: Outcome) -> Self {
        let seconds = outcome.counted_seconds();
        Self {
            labels: outcome.tally.as_ref().map(|tally| tally.figures(outcome.counted, seconds)),
            name: outcome.name,
            points: outcome.points,
            missing: outcome.missing,
            disorder: outcome.disorder,
            alerts: outcome.alert_count,
            told: outcome.alerts,
        }
    }
}

impl PolicyShown {
    fn of(policy: &Policy) -> Self {
        Self {
            open: policy.open,
            close: policy.close,
            close_after: policy.close_after,
            hold: policy.hold,
            quiet: policy.quiet,
            again: policy.again,
            habituation: policy.habituation,
            habituation_values: policy.habituation_values,
        }
    }
}

fn show_labels(figures: &Figures) {
    let percent = |share: Option<f64>| {
        share.map_or("none".to_owned(), |share| format!("{:.1} %", 100.0 * share))
    };
    print(&format!(
        "precision    {} ({} of {} alerts are in a labelled window)",
        percent(figures.precision),
        figures.true_alerts,
        figures.true_alerts + figures.false_alerts
    ));
    print(&format!(
        "recall       {} ({} of {} windows)",
        percent(figures.recall),
        figures.windows_hit,
        figures.windows
    ));
    if let (Some(seconds), Some(share)) = (figures.mean_delay_seconds, figures.mean_delay_share) {
        print(&format!(
            "delay        {} on average, {:.1} % of the window",
            stretch(seconds),
            100.0 * share
        ));
    }
    if let (Some(day), Some(million)) =
        (figures.false_alarms_per_day, figures.false_alarms_per_million_points)
    {
        print(&format!(
            "false alarms {}: {day:.3} a series and day, {million:.0} in a million values",
            figures.false_alerts
        ));
    }
}

fn show_score(profile: &str, score: &Score) {
    let mut words = format!("NAB          {:6.2} {profile}", score.score);
    if let (Some(best), Some(threshold)) = (score.optimised, score.optimised_threshold) {
        words.push_str(&format!(", {best:.2} at the best threshold, {threshold:.6}"));
    }
    if let Some(logo) = score.logo {
        words.push_str(&format!(", {logo:.2} with the other categories' threshold"));
    }
    print(&words);
}
