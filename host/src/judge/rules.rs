//! Which policy a series of a detector has, and when nobody is told of it.

use std::collections::BTreeMap;

use globset::GlobSet;

use super::Policy;
use crate::config::{FindingsConfig, FindingsRule, globs};
use crate::model::Series;

/// `[findings]`, ready to be asked.
#[derive(Debug)]
pub struct Rules {
    config: FindingsConfig,
    /// Parallel to the rules.
    rules: Vec<Whom>,
    /// Parallel to the times to mute.
    mutes: Vec<Whom>,
}

/// Times to mute, by their places: a bit for each.
pub(super) type Mutes = u64;
const _: () = assert!(FindingsConfig::MUTES_MAX <= Mutes::BITS as usize);

impl Rules {
    /// The rules of these settings.
    ///
    /// # Errors
    ///
    /// A glob is none; [`crate::config::Config::check`] says which.
    pub fn new(config: &FindingsConfig) -> Result<Self, globset::Error> {
        let rules = config.rules.iter().map(|rule| {
            let FindingsRule { detector, series, labels, .. } = rule;
            Whom::new(detector, series, labels)
        });
        let mutes =
            config.mute.iter().map(|mute| Whom::new(&mute.detector, &mute.series, &mute.labels));
        Ok(Self {
            config: config.clone(),
            rules: rules.collect::<Result<_, _>>()?,
            mutes: mutes.take(FindingsConfig::MUTES_MAX).collect::<Result<_, _>>()?,
        })
    }

    /// The policy of a series of a detector: of each key the last rule that
    /// matches, else what holds for all.
    #[must_use]
    pub fn policy(&self, detector: &str, series: &Series) -> Policy {
        let config = &self.config;
        let all = config.rules.iter().zip(&self.rules);
        let rules = all.filter(|(_, whom)| whom.matches(detector, series)).map(|(rule, _)| rule);
        let rules: Vec<&FindingsRule> = rules.collect();
        let values = |span: crate::config::Span| span.values(series.interval_ns);
        let open = last(&rules, |rule| rule.open, config.open);
        Policy {
            open,
            close: last(&rules, |rule| rule.close, config.close).min(open),
            close_after: values(last(&rules, |rule| rule.close_after, config.close_after)).max(1),
            hold: values(last(&rules, |rule| rule.hold, config.hold)),
            quiet: values(last(&rules, |rule| rule.quiet, config.quiet)),
            again: last(&rules, |rule| rule.again, config.again),
            habituation: last(&rules, |rule| rule.habituation, config.habituation),
            habituation_values: last(
                &rules,
                |rule| rule.habituation_values,
                config.habituation_values,
            ),
        }
    }

    /// The times to mute that may hold for a series of a detector.
    pub(super) fn mutes(&self, detector: &str, series: &Series) -> Mutes {
        let matching = self.mutes.iter().enumerate();
        let matching = matching.filter(|(_, whom)| whom.matches(detector, series));
        matching.fold(0, |mutes, (place, _)| mutes | 1 << place)
    }

    /// Those that hold at a time, in nanoseconds since the Unix epoch.
    pub(super) fn muting(&self, time_ns: u64) -> Mutes {
        let holds = |mute: &crate::config::MuteConfig| {
            mute.from.is_none_or(|from| from <= time_ns)
                && mute.to.is_none_or(|to| time_ns < to)
                && mute.daily.is_none_or(|daily| daily.holds(time_ns))
        };
        let mutes = self.config.mute.iter().take(FindingsConfig::MUTES_MAX).enumerate();
        let holding = mutes.filter(|(_, mute)| holds(mute));
        holding.fold(0, |mutes, (place, _)| mutes | 1 << place)
    }
}

/// What the last rule that says anything says.
fn last<T>(rules: &[&FindingsRule], key: impl Fn(&FindingsRule) -> Option<T>, otherwise: T) -> T {
    rules.iter().rev().find_map(|rule| key(rule)).unwrap_or(otherwise)
}

/// Detectors and series.
#[derive(Debug)]
struct Whom {
    detector: Option<GlobSet>,
    series: Option<GlobSet>,
    labels: BTreeMap<String, String>,
}

impl Whom {
    fn new(
        detector: &[String],
        series: &[String],
        labels: &BTreeMap<String, String>,
    ) -> Result<Self, globset::Error> {
        Ok(Self { detector: globs(detector)?, series: globs(series)?, labels: labels.clone() })
    }

    fn matches(&self, detector: &str, series: &Series) -> bool {
        let is_in = |set: &Option<GlobSet>, name: &str| {
            set.as_ref().is_none_or(|globs| globs.is_match(name))
        };
        let has =
            |(key, value): (&String, &String)| series.labels().get(key) == Some(value.as_str());
        is_in(&self.detector, detector)
            && is_in(&self.series, series.name())
            && self.labels.iter().all(has)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::model::{Kind, Labels, SeriesId, SeriesKey, SeriesSpec};

    fn series(name: &str, core: &str) -> Arc<Series> {
        let labels = Labels::new(vec![("core".into(), core.into())]).unwrap();
        let key = SeriesKey { plugin: "p".into(), name: name.into(), labels };
        let spec = SeriesSpec::new(key, Kind::Gauge, "1".into(), "".into()).unwrap();
        Arc::new(Series { id: SeriesId(1), spec, interval_ns: 5_000_000_000 })
    }

    fn rules(text: &str) -> Rules {
        Rules::new(&toml::from_str(text).unwrap()).unwrap()
    }

    #[test]
    fn without_settings_the_policy_is_the_default() {
        assert_eq!(rules("").policy("any", &series("any", "0")), Policy::default());
    }

    #[test]
    fn of_each_key_the_last_rule_that_matches_holds() {
        let rules = rules(
            r#"
            open = 0.3
            quiet = "10m"
            [[rules]]
            detector = ["novelty", "z*"]
            open = 0.7
            for = 2
            [[rules]]
            series = "system.*"
            labels = { core = "1" }
            open = 0.9
            close = 0.8
            close_after = "12s"
            "#,
        );
        let policy = rules.policy("ewma", &series("system.load", "0"));
        assert_eq!((policy.open, policy.close, policy.quiet, policy.hold), (0.3, 0.3, 120, 1));
        let policy = rules.policy("zscore", &series("system.load", "0"));
        assert_eq!((policy.open, policy.close, policy.quiet, policy.hold), (0.7, 0.4, 120, 2));
        let policy = rules.policy("zscore", &series("system.load", "1"));
        assert_eq!((policy.open, policy.close, policy.hold), (0.9, 0.8, 2));
        assert_eq!(policy.close_after, 3, "in 12 s there are two values and a part of one");
        assert_eq!(rules.policy("zscore", &series("app.load", "1")).open, 0.7);
    }

    #[test]
    fn a_mute_holds_for_whom_it_names_and_when() {
        let rules = rules(
            r#"
            [[mute]]
            series = "backup.*"
            daily = "22:00-06:00"
            [[mute]]
            detector = "zscore"
            from = "2026-02-10T12:00:00Z"
            to = "2026-02-10T13:00:00Z"
            "#,
        );
        assert_eq!(rules.mutes("ewma", &series("backup.size", "0")), 0b01);
        assert_eq!(rules.mutes("zscore", &series("backup.size", "0")), 0b11);
        assert_eq!(rules.mutes("ewma", &series("size", "0")), 0);
        let noon = 1_770_724_800_000_000_000;
        let hour = 3_600_000_000_000;
        assert_eq!(rules.muting(noon - 1), 0);
        assert_eq!(rules.muting(noon), 0b10);
        assert_eq!(rules.muting(noon + hour), 0);
        assert_eq!(rules.muting(noon + 10 * hour), 0b01);
    }
}
