//! What an exposition of a roster holds, worked out once for as long as no
//! series appears or ends: the heads of families, each sample's name and
//! labels, and what has to be left out.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt::Write as _;

use super::{Format, names};
use crate::model::{Kind, PluginName, Series};
use crate::snapshot::Roster;

/// The most series that are written; those with higher numbers are left out.
/// What is kept for them is some 500 bytes each, and a scrape of them some 20 MB.
const SERIES_MAX: usize = 100_000;
/// The most names that are told of one plugin; what is beyond is only counted.
const TOLD_MAX: usize = 100;

/// What is written at each scrape, but for the values.
#[derive(Debug, Default)]
pub(super) struct Plan {
    /// The roster that it was made for.
    pub(super) generation: u64,
    /// In the order of their names.
    pub(super) families: Vec<Family>,
    /// How many series are left out.
    pub(super) left_out: u64,
    told: BTreeMap<PluginName, Vec<LeftOut>>,
}

/// Samples of one name, kind and unit.
#[derive(Debug)]
pub(super) struct Family {
    heads: [String; 2],
    /// Its values never are below zero.
    pub(super) is_counter: bool,
    /// Where each sample's value stands, and what stands before it.
    pub(super) samples: Vec<(usize, Box<str>)>,
}

/// Series of a plugin that `/metrics` does not have.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct LeftOut {
    /// Their name.
    pub name: Box<str>,
    /// How many of that name.
    pub series: u64,
    /// Why.
    pub reason: String,
}

/// A family that is being put together.
struct Draft<'a> {
    /// The series that has decided what it is.
    first: &'a Series,
    name: String,
    unit: Option<String>,
    /// Another family's, if that has its name.
    holder: Option<&'a Series>,
    help: &'a str,
    labels: HashSet<String>,
    samples: Vec<(usize, Box<str>)>,
}

impl Family {
    pub(super) fn head(&self, format: Format) -> &str {
        &self.heads[format as usize]
    }
}

impl Plan {
    /// What a roster's series are called. Where two can't be told apart it is the
    /// one with the lower number that stays, so that it is the same one after
    /// each start.
    pub(super) fn new(roster: &Roster) -> Self {
        let mut plan = Self { generation: roster.generation, ..Self::default() };
        let mut drafts: BTreeMap<String, Draft<'_>> = BTreeMap::new();
        let mut taken: HashMap<String, &Series> = HashMap::new();
        for (position, series) in roster.series.iter().enumerate() {
            if position >= SERIES_MAX {
                plan.leave_out(series, || {
                    format!("{SERIES_MAX} series have lower numbers, which is the limit")
                });
                continue;
            }
            let base = names::base(series.name(), series.spec.kind);
            let draft = drafts.entry(base).or_insert_with_key(|base| {
                let mut draft = Draft::new(base, series);
                draft.take_name(&mut taken);
                draft
            });
            if let Err(reason) = draft.add(position, series) {
                plan.leave_out(series, || reason);
            }
        }
        plan.families = drafts.into_values().filter_map(Draft::finish).collect();
        plan
    }

    /// What of a plugin is left out.
    pub(super) fn left_out(&self, plugin: &str) -> Vec<LeftOut> {
        self.told.get(plugin).cloned().unwrap_or_default()
    }

    fn leave_out(&mut self, series: &Series, reason: impl FnOnce() -> String) {
        self.left_out += 1;
        let told = self.told.entry(series.plugin().clone()).or_default();
        if let Some(told) = told.iter_mut().find(|told| *told.name == *series.name()) {
            told.series += 1;
        } else if told.len() < TOLD_MAX {
            let name = series.name().into();
            told.push(LeftOut { name, series: 1, reason: reason() });
        }
    }
}

impl<'a> Draft<'a> {
    fn new(base: &str, first: &'a Series) -> Self {
        let unit = names::unit(&first.spec.unit, first.spec.kind);
        let name = names::family(base, unit.as_deref());
        let (labels, samples) = (HashSet::new(), Vec::new());
        Self { first, name, unit, holder: None, help: "", labels, samples }
    }

    /// Takes all names that its lines have, unless another family has one.
    fn take_name(&mut self, taken: &mut HashMap<String, &'a Series>) {
        let suffixes: &[&str] = if self.is_counter() { &["", "_total", "_created"] } else { &[""] };
        let own: Vec<String> = suffixes.iter().map(|s| format!("{}{s}", self.name)).collect();
        self.holder = own.iter().find_map(|name| taken.get(name).copied());
        if self.holder.is_none() {
            taken.extend(own.into_iter().map(|name| (name, self.first)));
        }
    }

    /// Adds a series.
    ///
    /// # Errors
    ///
    /// Why it can't be.
    fn add(&mut self, position: usize, series: &'a Series) -> Result<(), String> {
        let first = self.first;
        if let Some(holder) = self.holder {
            return Err(format!(
                "`{}` is what `{}` of the plugin `{}` is called there",
                self.name,
                holder.name(),
                holder.plugin()
            ));
        }
        if (series.spec.kind, &series.spec.unit) != (first.spec.kind, &first.spec.unit) {
            return Err(format!(
                "it is a {}, and `{}` of the plugin `{}` is a {}",
                kind(series),
                first.name(),
                first.plugin(),
                kind(first)
            ));
        }
        let labels = names::labels(series.plugin(), series.labels());
        let total = if self.is_counter() { "_total" } else { "" };
        let text = format!("{}{total}{labels} ", self.name).into();
        if !self.labels.insert(labels) {
            return Err("another of its series has the same labels there".to_owned());
        }
        if self.help.is_empty() {
            self.help = &series.spec.description;
        }
        self.samples.push((position, text));
        Ok(())
    }

    fn is_counter(&self) -> bool {
        self.first.spec.kind == Kind::Counter
    }

    fn finish(self) -> Option<Family> {
        let is_counter = self.is_counter();
        let Self { name, unit, help, samples, .. } = self;
        if samples.is_empty() {
            return None;
        }
        let sort = if is_counter { "counter" } else { "gauge" };
        let mut open = format!("# TYPE {name} {sort}\n");
        // Writing to a string can't fail.
        if let Some(unit) = unit {
            let _ = writeln!(open, "# UNIT {name} {unit}");
        }
        // There, a counter is called what its samples are.
        let total = if is_counter { "_total" } else { "" };
        let mut plain = String::new();
        if !help.is_empty() {
            let _ = writeln!(open, "# HELP {name} {}", names::escape(help));
            let _ = writeln!(plain, "# HELP {name}{total} {}", names::escape_help(help));
        }
        let _ = writeln!(plain, "# TYPE {name}{total} {sort}");
        let mut heads = [String::new(), String::new()];
        heads[Format::OpenMetrics as usize] = open;
        heads[Format::Plain as usize] = plain;
        Some(Family { heads, is_counter, samples })
    }
}

/// A series' kind and unit in words.
fn kind(series: &Series) -> String {
    format!("{} in `{}`", series.spec.kind.as_str(), series.spec.unit)
}
