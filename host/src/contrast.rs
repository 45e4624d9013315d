//! A detector and its shadow, side by side: what each has found that the other
//! has not, what both have, and what each costs.
//!
//! Made of the log's entries when somebody asks; nothing is kept here.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use serde_json::{Value, json};

use crate::access::Identity;
use crate::clock::{parse_rfc3339, rfc3339};
use crate::model::{Finding, FindingState, LogChannel, Logged, SeriesId};
use crate::plugin::{Counted, ShadowOf, Statuses, shadow_name};
use crate::store::{Reader, StoreError};

/// Entries of each of the two that are read: the newest.
const ENTRIES_MAX: usize = 10_000;
/// Findings that are listed in each of the three lists.
pub const LISTED_MAX: usize = 1000;
/// The same where nobody says how many.
pub const LISTED_DEFAULT: usize = 20;
/// So many ticks may lie between two findings that are the same.
const WITHIN_TICKS: u32 = 5;
/// The longest time that may.
pub const WITHIN_MAX: Duration = Duration::from_secs(24 * 60 * 60);

/// What is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// The detector that has a shadow.
    pub detector: String,
    /// From when on, in milliseconds since the epoch; since the shadow began
    /// where it is absent or earlier.
    pub since_ms: Option<u64>,
    /// Now.
    pub now_ms: u64,
    /// Two findings of one series are the same where no more lies between them.
    pub within: Duration,
    /// How many findings are listed in each list, at most [`LISTED_MAX`]: the
    /// newest.
    pub listed: usize,
}

/// Why there is nothing to tell.
#[derive(Debug, thiserror::Error)]
pub enum ContrastError {
    /// No shadow of that detector runs, or no detector of that name does.
    #[error("{0} has no shadow: `telltale detector shadow {0} FILE.wasm` starts one")]
    NoShadow(String),
    /// What was found can't be read.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Wanted {
    /// What one who says no more than its name wants to know of a detector, in a
    /// hub whose ticks are so long.
    #[must_use]
    pub fn of(detector: &str, now_ms: u64, tick: Duration) -> Self {
        let within = (tick * WITHIN_TICKS).min(WITHIN_MAX);
        let detector = detector.to_owned();
        Self { detector, since_ms: None, now_ms, within, listed: LISTED_DEFAULT }
    }
}

/// What a detector and its shadow have found since the shadow began, of what
/// `who` may read; what they cost only to those who may read all.
///
/// # Errors
///
/// [`ContrastError`].
pub async fn tell(
    reader: &Reader,
    statuses: &Statuses,
    wanted: &Wanted,
    who: &Identity,
) -> Result<Value, ContrastError> {
    let detector = &*wanted.detector;
    let shadow = statuses.get(&shadow_name(detector));
    let of = shadow.as_ref().and_then(|status| status.shadow.clone());
    let of = of.ok_or_else(|| ContrastError::NoShadow(detector.to_owned()))?;
    let began_ms = parse_rfc3339(&of.since).map_or(0, |ns| ns / 1_000_000);
    let asked_ms = wanted.since_ms.unwrap_or(began_ms).max(began_ms);
    let channels = [LogChannel::Findings, LogChannel::Shadow];
    let [live, hidden] =
        channels.map(|channel| reader.entries_since(channel, asked_ms, ENTRIES_MAX));
    let (live, hidden) = tokio::try_join!(live, hidden)?;
    // Of two that were read to different ends, the later counts for both.
    let reach = |read: &[Logged]| match read.len() {
        ENTRIES_MAX.. => read.first().map_or(0, |logged| logged.entry.time_ms),
        _ => 0,
    };
    let since_ms = asked_ms.max(reach(&live)).max(reach(&hidden));
    let (asked, reads) = (wanted.clone(), who.clone());
    // Twice as many entries as that to parse: not for a thread of the sessions.
    let compared = tokio::task::spawn_blocking(move || {
        let of_range = |read: Vec<Logged>| found(&read, &asked, since_ms, &reads);
        let sides = compare(of_range(live), of_range(hidden), asked.within);
        sides.told(asked.listed.min(LISTED_MAX))
    });
    let mut told = compared.await.map_err(|_| StoreError::Stopping)?;
    told["detector"] = json!(detector);
    told["since"] = json!(time(since_ms));
    told["until"] = json!(time(wanted.now_ms));
    told["complete"] = json!(since_ms == asked_ms);
    told["within_ms"] = json!(u64::try_from(wanted.within.as_millis()).unwrap_or(u64::MAX));
    for (side, name, is_shadow) in
        [("live", detector.into(), false), ("shadow", shadow_name(detector), true)]
    {
        told[side]["component"] = json!(statuses.get(&name).and_then(|status| status.component));
        told[side]["state"] = json!(statuses.get(&name).map(|status| status.state));
        if who.reads_all() {
            told[side]["cost"] = cost(statuses, &name, &of, is_shadow);
        }
    }
    Ok(told)
}

fn time(ms: u64) -> String {
    rfc3339(ms.saturating_mul(1_000_000))
}

/// What a detector has cost, counted since both run in this run of the hub.
fn cost(statuses: &Statuses, name: &str, of: &ShadowOf, is_shadow: bool) -> Value {
    let Some(figures) = statuses.figures_of(name) else { return Value::Null };
    let counted = Counted::of(&figures);
    let counted = if is_shadow { counted } else { counted.since(of.counted) };
    json!({
        "since": of.counted_since,
        "calls": counted.calls,
        "mean_us": figures.calls.mean_us,
        "p99_us": figures.calls.p99_us,
        "memory_bytes": figures.memory_bytes,
        "state_bytes": figures.state_bytes,
        "skipped": counted.skipped,
        "faults": counted.faults,
    })
}

/// A finding and its time, in milliseconds.
struct Found {
    finding: Finding,
    from_ms: u64,
    /// Now, while it is open.
    to_ms: u64,
}

/// The findings of a detector among entries that began in the range, by series,
/// in the order in which they began.
fn found(
    read: &[Logged],
    wanted: &Wanted,
    since_ms: u64,
    who: &Identity,
) -> BTreeMap<SeriesId, Vec<Found>> {
    let mut last: HashMap<String, Finding> = HashMap::new();
    for logged in read {
        let Ok(finding) = serde_json::from_str::<Finding>(logged.entry.body.get()) else {
            continue;
        };
        if finding.detector == wanted.detector && who.may_read(&finding.name) {
            // The entry that closes it has all that the one that opened it has.
            last.insert(finding.id.clone(), finding);
        }
    }
    let mut by_series: BTreeMap<SeriesId, Vec<Found>> = BTreeMap::new();
    for finding in last.into_values() {
        let ms = |text: &str| parse_rfc3339(text).map_or(0, |ns| ns / 1_000_000);
        let from_ms = ms(&finding.started);
        if from_ms < since_ms {
            continue; // The shadow, or what is read, had not begun.
        }
        let to_ms = match (&finding.state, &finding.ended) {
            (FindingState::Close, Some(ended)) => ms(ended).max(from_ms),
            _ => wanted.now_ms.max(from_ms),
        };
        by_series.entry(finding.series).or_default().push(Found { finding, from_ms, to_ms });
    }
    for found in by_series.values_mut() {
        found.sort_by(|a, b| (a.from_ms, &a.finding.id).cmp(&(b.from_ms, &b.finding.id)));
    }
    by_series
}

/// What each has found, and which of it the other has found too.
#[derive(Default)]
struct Sides {
    /// A finding of the live one, and the last of the shadow's that is the same.
    both: Vec<(Found, Value)>,
    only_live: Vec<Found>,
    only_shadow: Vec<Found>,
    /// Findings of the shadow that the live one has found too.
    shadow_shared: usize,
}

/// Two findings are the same where they are of one series and their times
/// overlap, or no more than `within` lies between them.
fn compare(
    live: BTreeMap<SeriesId, Vec<Found>>,
    mut shadow: BTreeMap<SeriesId, Vec<Found>>,
    within: Duration,
) -> Sides {
    let within = u64::try_from(within.as_millis()).unwrap_or(u64::MAX);
    let mut sides = Sides::default();
    for (series, live) in live {
        let shadow = shadow.remove(&series).unwrap_or_default();
        let of_shadow = Latest::of(&shadow);
        let of_live = Latest::of(&live);
        let shared: Vec<bool> =
            shadow.iter().map(|found| of_live.same(&live, found, within).is_some()).collect();
        let pairs: Vec<Option<Value>> = live
            .iter()
            .map(|found| Some(brief(&shadow[of_shadow.same(&shadow, found, within)?])))
            .collect();
        for (found, pair) in live.into_iter().zip(pairs) {
            match pair {
                Some(same) => sides.both.push((found, same)),
                None => sides.only_live.push(found),
            }
        }
        for (found, is_shared) in shadow.into_iter().zip(shared) {
            match is_shared {
                true => sides.shadow_shared += 1,
                false => sides.only_shadow.push(found),
            }
        }
    }
    sides.only_shadow.extend(shadow.into_values().flatten());
    sides
}

/// Of findings in the order in which they began, up to each, which ends last.
struct Latest(Vec<usize>);

impl Latest {
    fn of(found: &[Found]) -> Self {
        let mut latest = 0;
        let up_to = (0..found.len()).map(|at| {
            if found[at].to_ms >= found[latest].to_ms {
                latest = at;
            }
            latest
        });
        Self(up_to.collect())
    }

    /// One of `among` that is the same as `found`.
    fn same(&self, among: &[Found], found: &Found, within: u64) -> Option<usize> {
        let begun = |other: &Found| other.from_ms <= found.to_ms.saturating_add(within);
        let latest = *self.0.get(among.partition_point(begun).checked_sub(1)?)?;
        (among[latest].to_ms.saturating_add(within) >= found.from_ms).then_some(latest)
    }
}

impl Sides {
    /// As it is told, with the newest so many of each list.
    fn told(mut self, listed: usize) -> Value {
        let (both, only_live) = (self.both.len(), self.only_live.len());
        let only_shadow = self.only_shadow.len();
        let begun = |found: &Found| (found.from_ms, found.finding.id.clone());
        self.both.sort_by_cached_key(|(found, _)| begun(found));
        self.only_live.sort_by_cached_key(begun);
        self.only_shadow.sort_by_cached_key(begun);
        let newest = |list: &[Found]| list.iter().rev().take(listed).map(brief).collect::<Vec<_>>();
        let pair = |(live, shadow): &(Found, Value)| json!({"live": brief(live), "shadow": shadow});
        json!({
            "live": {"found": both + only_live, "alone": only_live},
            "shadow": {"found": self.shadow_shared + only_shadow, "alone": only_shadow},
            "both": both,
            "only_live": newest(&self.only_live),
            "only_shadow": newest(&self.only_shadow),
            "pairs": self.both.iter().rev().take(listed).map(pair).collect::<Vec<_>>(),
        })
    }
}

fn brief(found: &Found) -> Value {
    let Finding { id, series, name, labels, finding_type, score, peak, started, ended, .. } =
        &found.finding;
    json!({
        "id": id, "series": series, "name": name, "labels": labels, "type": finding_type,
        "score": score, "peak": peak, "started": started, "ended": ended,
    })
}

#[cfg(test)]
#[path = "contrast_tests.rs"]
mod tests;
