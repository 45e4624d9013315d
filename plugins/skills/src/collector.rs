//! Series and documents out of skills and anomalies.

use serde::Serialize;
use telltale_plugin::{Collector, Fault, Metrics, SeriesId, Tick};

use crate::queries::{Skill, anomalies, top_skills};
use crate::settings::Settings;

/// The collector.
#[derive(Debug, Default)]
pub struct Skills {
    settings: Settings,
    /// The series of the skills that are in the list.
    series: Vec<[SeriesId; 3]>,
}

impl Collector for Skills {
    type Config = Settings;

    fn configure(&mut self, settings: Settings) -> Result<(), Fault> {
        settings.check()?;
        self.settings = settings;
        Ok(())
    }

    fn collect(&mut self, tick: Tick, metrics: &mut Metrics) -> Result<(), Fault> {
        let database = &self.settings.database;
        let skills = top_skills(database)?;
        let anomalies = anomalies(database, tick.time_ns as f64 / 1e9)?;
        self.measure(&skills, metrics);
        metrics.document("top_skills", json(&skills));
        metrics.document("anomalies", json(&anomalies));
        Ok(())
    }
}

impl Skills {
    fn measure(&mut self, skills: &[Skill], metrics: &mut Metrics) {
        let before = std::mem::take(&mut self.series);
        for skill in skills {
            let series = declare(&skill.skill_name, metrics);
            // Two names may be the same once they are labels: the first has it.
            if self.series.contains(&series) {
                continue;
            }
            let invocations = Some(skill.total_invocations as f64);
            let values = [invocations, skill.completion_rate, skill.avg_duration_seconds];
            for (id, value) in series.into_iter().zip(values) {
                value.into_iter().for_each(|value| metrics.set(id, value));
            }
            self.series.push(series);
        }
        let ended = before.iter().filter(|series| !self.series.contains(series));
        ended.flatten().for_each(|id| metrics.end(*id));
    }
}

/// A skill's series; one of them may have no value yet.
fn declare(skill: &str, metrics: &mut Metrics) -> [SeriesId; 3] {
    let invocations = metrics.counter("skill.invocations").unit("{invocation}");
    let invocations = invocations.description("How often the skill was called");
    let invocations = invocations.label("skill", skill).declare();
    let completion = metrics.gauge("skill.completion_rate").unit("%");
    let completion = completion.description("How many of the skill's calls came to their end");
    let completion = completion.label("skill", skill).declare();
    let duration = metrics.gauge("skill.duration").unit("s");
    let duration = duration.description("How long a call of the skill takes on average");
    let duration = duration.label("skill", skill).declare();
    [invocations, completion, duration]
}

fn json(rows: &impl Serialize) -> String {
    serde_json::to_string(rows).expect("names and numbers are always JSON")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::queries::tests::{NOON_S, granted};
    use telltale_plugin::{Batch, Collecting};

    const A_AND_B: &str =
        "INSERT INTO skill_metrics VALUES ('a', 100, 90, 1.5), ('b', 7, 50, NULL);";

    fn collect(collector: &mut Collecting<Skills>) -> Result<Batch, Fault> {
        collector.collect(Tick { number: 1, time_ns: NOON_S as u64 * 1_000_000_000 })
    }

    fn labels(batch: &Batch) -> Vec<&str> {
        batch.declare.iter().step_by(3).map(|d| d.series.labels[0].value.as_str()).collect()
    }

    #[test]
    fn skills_become_series_and_documents() {
        granted(A_AND_B);
        let first = collect(&mut Collecting::default()).unwrap();
        assert_eq!((labels(&first), first.declare.len()), (vec!["a", "b"], 6));
        // An unknown duration is no value.
        assert_eq!(first.ids, [0, 1, 2, 3, 4]);
        assert_eq!(first.values, [100.0, 90.0, 1.5, 7.0, 50.0]);
        let names: Vec<_> = first.documents.iter().map(|d| d.name.as_str()).collect();
        assert_eq!(names, ["top_skills", "anomalies"]);
        assert_eq!(first.documents[1].json, "[]");
    }

    #[test]
    fn documents_come_again_only_when_they_change_or_after_a_fault() {
        let (mut collector, database) = (Collecting::default(), granted(A_AND_B));
        collect(&mut collector).unwrap();
        let same = collect(&mut collector).unwrap();
        assert!(same.documents.is_empty() && same.declare.is_empty());

        database.execute_batch("UPDATE skill_metrics SET total_invocations = 101").unwrap();
        let changed = collect(&mut collector).unwrap();
        assert_eq!(changed.documents[0].name, "top_skills");
        assert_eq!(changed.documents.len(), 1);

        database.execute_batch("ALTER TABLE skill_anomalies RENAME TO away").unwrap();
        let fault = collect(&mut collector).unwrap_err();
        assert!(matches!(fault, Fault::Retry(words) if words.contains("database \"skills\"")));
        database.execute_batch("ALTER TABLE away RENAME TO skill_anomalies").unwrap();
        let after = collect(&mut collector).unwrap();
        assert_eq!((after.documents.len(), after.declare.len()), (2, 0));
    }

    #[test]
    fn a_skill_that_leaves_the_list_ends() {
        let (mut collector, database) = (Collecting::default(), granted(A_AND_B));
        collect(&mut collector).unwrap();
        let rename = "UPDATE skill_metrics SET skill_name = 'c' WHERE skill_name = 'a'";
        database.execute_batch(rename).unwrap();
        let swap = collect(&mut collector).unwrap();
        assert_eq!((labels(&swap), &*swap.gone), (vec!["c"], &[0, 1, 2][..]));
    }

    #[test]
    fn strange_names_are_bounded_in_labels_and_whole_in_documents() {
        granted(
            "INSERT INTO skill_metrics VALUES ('x' || char(10), 9, 1, 1), ('x' || char(13), 8, 1, 1),
                (replace(hex(zeroblob(200)), '00', 'ä'), 7, 1, 1);",
        );
        let batch = collect(&mut Collecting::default()).unwrap();
        assert_eq!((labels(&batch)[0], labels(&batch).len()), ("x\u{fffd}", 2));
        assert_eq!(labels(&batch)[1].len(), 256);
        assert!(batch.documents[0].json.contains("x\\r"));
        assert!(batch.documents[0].json.contains(&"ä".repeat(200)));
    }

    #[test]
    fn a_database_that_is_not_granted_is_a_matter_of_settings() {
        telltale_plugin::fake::sql(|_, _, _| Err(telltale_plugin::sql::Error::Denied("x".into())));
        assert_eq!(collect(&mut Collecting::default()), Err(Fault::config("x")));
    }
}
