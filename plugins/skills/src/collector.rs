//! Series and documents out of skills and anomalies.

use crate::queries::{Database, Failure, Skill, anomalies, top_skills};
use crate::settings::Settings;

/// A label's value may have this many bytes.
const LABEL_BYTES_MAX: usize = 256;

/// The series of a skill, in the order of their ids.
pub const METRICS: [Metric; 3] = [
    Metric {
        name: "skill.invocations",
        is_counter: true,
        unit: "{invocation}",
        description: "How often the skill was called",
    },
    Metric {
        name: "skill.completion_rate",
        is_counter: false,
        unit: "%",
        description: "How many of the skill's calls came to their end",
    },
    Metric {
        name: "skill.duration",
        is_counter: false,
        unit: "s",
        description: "How long a call of the skill takes on average",
    },
];

/// What the series of all skills have in common.
#[derive(Debug)]
pub struct Metric {
    /// Its name.
    pub name: &'static str,
    /// A counter, or else a gauge.
    pub is_counter: bool,
    /// The unit in UCUM.
    pub unit: &'static str,
    /// A sentence for the person who reads a dashboard.
    pub description: &'static str,
}

/// The answer to one tick.
#[derive(Debug, Default, PartialEq)]
pub struct Batch {
    /// New skills: the id of the first of their [`METRICS`], and their label.
    pub declare: Vec<(u32, String)>,
    /// Series that have a value.
    pub ids: Vec<u32>,
    /// Their values, parallel to `ids`.
    pub values: Vec<f64>,
    /// Series that have ended.
    pub gone: Vec<u32>,
    /// Documents that have changed, by name.
    pub documents: Vec<(&'static str, String)>,
}

/// The state of the plugin's instance.
#[derive(Debug, Default)]
pub struct Collector {
    settings: Settings,
    /// The skills whose series are alive: the place gives the ids.
    slots: Vec<Slot>,
    top_skills: Published,
    anomalies: Published,
}

#[derive(Debug)]
enum Slot {
    Free,
    Skill { label: String, seen: bool },
}

/// What the hub has of a document; nothing before the first, and after a fault.
#[derive(Debug, Default)]
struct Published(Option<String>);

impl Collector {
    /// Takes new settings; on an error the old ones stay.
    pub fn configure(&mut self, json: &str) -> Result<(), String> {
        self.settings = Settings::parse(json)?;
        Ok(())
    }

    /// The granted database's name.
    pub fn database(&self) -> &str {
        &self.settings.database
    }

    /// The batch of a tick. A failure says which database it is about; the
    /// series stay, since the hub keeps them too.
    pub fn collect(&mut self, database: &mut impl Database, now_s: f64) -> Result<Batch, Failure> {
        let read = top_skills(database).and_then(|top| Ok((top, anomalies(database, now_s)?)));
        let (skills, anomalies) = match read {
            Ok(read) => read,
            Err(failure) => {
                self.top_skills = Published(None);
                self.anomalies = Published(None);
                return Err(self.explain(failure));
            }
        };
        let mut batch = Batch::default();
        self.measure(&skills, &mut batch);
        let documents = [
            self.top_skills.publish("top_skills", json(&skills)),
            self.anomalies.publish("anomalies", json(&anomalies)),
        ];
        batch.documents.extend(documents.into_iter().flatten());
        Ok(batch)
    }

    fn explain(&self, failure: Failure) -> Failure {
        match failure {
            Failure::Failed(text) => Failure::Failed(format!(
                "database {:?}: {text}; [grant] sql must name Session-Buddy's database (schema V4)",
                self.settings.database
            )),
            denied => denied,
        }
    }

    fn measure(&mut self, skills: &[Skill], batch: &mut Batch) {
        for skill in skills {
            let label = label(&skill.skill_name);
            // Two names may be the same once they are labels: the first has it.
            let Some(id) = self.see(label, batch) else {
                continue;
            };
            let invocations = Some(skill.total_invocations as f64);
            let values = [invocations, skill.completion_rate, skill.avg_duration_seconds];
            for (id, value) in (id..).zip(values) {
                if let Some(value) = value {
                    batch.ids.push(id);
                    batch.values.push(value);
                }
            }
        }
        for (place, slot) in self.slots.iter_mut().enumerate() {
            match slot {
                Slot::Skill { seen, .. } if *seen => *seen = false,
                Slot::Skill { .. } => {
                    let id = first_id(place);
                    batch.gone.extend(id..id + METRICS.len() as u32);
                    *slot = Slot::Free;
                }
                Slot::Free => {}
            }
        }
    }

    /// The first id of a skill, which is declared if it is new. None if it was
    /// seen in this batch already.
    ///
    /// Slots are freed after all skills of a batch, so no id both ends and
    /// begins in one.
    fn see(&mut self, name: String, batch: &mut Batch) -> Option<u32> {
        for (place, slot) in self.slots.iter_mut().enumerate() {
            match slot {
                Slot::Skill { label, seen } if *label == name => {
                    return (!std::mem::replace(seen, true)).then(|| first_id(place));
                }
                _ => {}
            }
        }
        let is_free = |slot: &Slot| matches!(slot, Slot::Free);
        let place = self.slots.iter().position(is_free).unwrap_or_else(|| {
            self.slots.push(Slot::Free);
            self.slots.len() - 1
        });
        batch.declare.push((first_id(place), name.clone()));
        self.slots[place] = Slot::Skill { label: name, seen: true };
        Some(first_id(place))
    }
}

impl Published {
    fn publish(&mut self, name: &'static str, json: String) -> Option<(&'static str, String)> {
        if self.0.as_ref() == Some(&json) {
            return None;
        }
        self.0 = Some(json.clone());
        Some((name, json))
    }
}

fn first_id(place: usize) -> u32 {
    (place * METRICS.len()) as u32
}

fn json(rows: &impl serde::Serialize) -> String {
    serde_json::to_string(rows).expect("names and numbers are always JSON")
}

/// A name as a label's value: without control characters, and not too long.
fn label(name: &str) -> String {
    let mut label = name.replace(char::is_control, "\u{fffd}");
    label.truncate(label.floor_char_boundary(LABEL_BYTES_MAX));
    label
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::queries::tests::{NOON_S, database};

    const A_AND_B: &str =
        "INSERT INTO skill_metrics VALUES ('a', 100, 90, 1.5), ('b', 7, 50, NULL);";

    #[test]
    fn skills_become_series_and_documents() {
        let (mut collector, mut database) = (Collector::default(), database(A_AND_B));
        let first = collector.collect(&mut database, NOON_S).unwrap();
        assert_eq!(first.declare, [(0, "a".to_owned()), (3, "b".to_owned())]);
        // An unknown duration is no value.
        assert_eq!(first.ids, [0, 1, 2, 3, 4]);
        assert_eq!(first.values, [100.0, 90.0, 1.5, 7.0, 50.0]);
        let names: Vec<_> = first.documents.iter().map(|(name, _)| *name).collect();
        assert_eq!(names, ["top_skills", "anomalies"]);
        assert_eq!(first.documents[1].1, "[]");
    }

    #[test]
    fn documents_come_again_only_when_they_change_or_after_a_fault() {
        let (mut collector, mut database) = (Collector::default(), database(A_AND_B));
        collector.collect(&mut database, NOON_S).unwrap();
        let same = collector.collect(&mut database, NOON_S).unwrap();
        assert!(same.documents.is_empty() && same.declare.is_empty());

        database.execute_batch("UPDATE skill_metrics SET total_invocations = 101").unwrap();
        let changed = collector.collect(&mut database, NOON_S).unwrap();
        assert_eq!(changed.documents[0].0, "top_skills");
        assert_eq!(changed.documents.len(), 1);

        database.execute_batch("ALTER TABLE skill_anomalies RENAME TO away").unwrap();
        let failure = collector.collect(&mut database, NOON_S).unwrap_err();
        assert!(matches!(failure, Failure::Failed(text) if text.contains("database \"skills\"")));
        database.execute_batch("ALTER TABLE away RENAME TO skill_anomalies").unwrap();
        let after = collector.collect(&mut database, NOON_S).unwrap();
        assert_eq!((after.documents.len(), after.declare.len()), (2, 0));
    }

    #[test]
    fn a_skill_that_leaves_the_list_ends_and_its_ids_wait_a_batch() {
        let (mut collector, mut database) = (Collector::default(), database(A_AND_B));
        collector.collect(&mut database, NOON_S).unwrap();
        database
            .execute_batch("UPDATE skill_metrics SET skill_name = 'c' WHERE skill_name = 'a'")
            .unwrap();
        let swap = collector.collect(&mut database, NOON_S).unwrap();
        assert_eq!((swap.declare, swap.gone), (vec![(6, "c".to_owned())], vec![0, 1, 2]));
        database.execute_batch("INSERT INTO skill_metrics VALUES ('d', 1, 1, 1)").unwrap();
        let next = collector.collect(&mut database, NOON_S).unwrap();
        assert_eq!((next.declare, next.gone.len()), (vec![(0, "d".to_owned())], 0));
    }

    #[test]
    fn strange_names_are_bounded_in_labels_and_whole_in_documents() {
        let mut database = database(
            "INSERT INTO skill_metrics VALUES ('x' || char(10), 9, 1, 1), ('x' || char(13), 8, 1, 1),
                (replace(hex(zeroblob(200)), '00', 'ä'), 7, 1, 1);",
        );
        let batch = Collector::default().collect(&mut database, NOON_S).unwrap();
        assert_eq!(batch.declare[0].1, "x\u{fffd}");
        assert_eq!((batch.declare.len(), batch.declare[1].1.len()), (2, 256));
        assert!(batch.documents[0].1.contains("x\\r"));
        assert!(batch.documents[0].1.contains(&"ä".repeat(200)));
    }
}
