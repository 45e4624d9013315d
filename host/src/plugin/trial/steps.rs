//! The steps of a check.

mod state;

use std::sync::Arc;
use std::time::Duration;

use super::players::{Book, Player, Verdict};
use super::report::{Found, Outcome, Problem, Report, Step, step};
use super::scene::{self, Scene, noise, tick};
use super::{ImportAnswer, Trial};
use crate::model::{Batch, Dictionary, Tick};
use crate::plugin::status::PluginRole;
use crate::snapshot::Snapshot;

/// What a detector is shown in the end: as many series as one plugin may have.
const SERIES_MANY: u32 = 10_000;
/// The series of the other steps.
const SERIES: u32 = 50;
const YEAR_NS: u64 = 365 * 24 * 3600 * 1_000_000_000;

/// All that the steps share.
struct Check<'a> {
    trial: &'a Trial,
    book: Book,
    dictionary: Arc<Dictionary>,
}

pub(super) async fn check(trial: &Trial) -> Report {
    let check = Check { trial, book: Book::default(), dictionary: scene::dictionary() };
    let mut steps = vec![
        Step::passed(
            "component",
            format!("a {} of telltale:plugin@{}", trial.world(), trial.interface()),
        ),
        step("imports", check.imports()),
        step("configure", check.configure().await),
    ];
    if passed(&steps) {
        steps.push(step("first ticks", check.first_ticks().await));
    }
    if passed(&steps) {
        steps.push(step("clock jump", check.clock_jump().await));
        steps.push(step("odd values", check.odd_values().await));
        steps.push(step("many series", check.many_series().await));
        steps.push(check.state().await);
        steps.push(check.foreign_state().await);
    } else {
        let why = "not tried: what came before did not work";
        let tried = steps.len() - STEPS_BEFORE;
        steps.extend(STEPS[tried..].iter().map(|name| Step::skipped(name, why)));
    }
    steps.extend(check.events());
    steps.push(step("limits", check.left_out()));
    steps.push(step("memory", check.memory()));
    steps.push(step("deadline", check.deadline()));
    Report {
        plugin: trial.plugin.to_string(),
        world: trial.world(),
        interface: trial.interface().to_owned(),
        bytes: trial.bytes,
        imports: trial.imports(),
        events: check.book.events.take().first,
        steps,
    }
}

/// The steps that need an instance which answers …
const STEPS: [&str; 6] =
    ["first ticks", "clock jump", "odd values", "many series", "state", "foreign state"];
/// … and how many come before them.
const STEPS_BEFORE: usize = 3;

fn passed(steps: &[Step]) -> bool {
    steps.iter().all(|step| step.outcome == Outcome::Passed)
}

/// What came of a turn of either role.
enum Turn {
    Batch(Batch),
    Verdict(Verdict),
}

impl Check<'_> {
    fn imports(&self) -> Found {
        let imports = self.trial.imports();
        let of = |answer| imports.iter().filter(|import| import.answer == answer).count();
        Ok(format!(
            "{} open to all, {} granted, {} that would answer `denied`",
            of(ImportAnswer::Open),
            of(ImportAnswer::Granted),
            of(ImportAnswer::Denied)
        ))
    }

    async fn player(&self) -> Result<Player<'_>, Problem> {
        Player::start(self.trial, &self.book, &self.dictionary).await
    }

    /// Asks or shows: each role has its turn at a tick.
    async fn turn(&self, player: &mut Player<'_>, snapshot: &Snapshot) -> Result<Turn, Problem> {
        match self.trial.role() {
            PluginRole::Collector => player.collect(snapshot.tick).await.map(Turn::Batch),
            PluginRole::Detector => player.observe(snapshot).await.map(Turn::Verdict),
        }
    }

    async fn configure(&self) -> Found {
        let mut player = self.player().await?;
        player.configure().await.map_err(|problem| problem.at("the second time"))?;
        Ok("twice, with the same settings".to_owned())
    }

    async fn first_ticks(&self) -> Found {
        let mut player = self.player().await?;
        let mut scene = Scene::new(SERIES);
        let nothing = Scene::new(0).snapshot(tick(1), |_| 0.0);
        let first = self.turn(&mut player, &nothing).await;
        let first = first.map_err(|problem| problem.at("the first tick"))?;
        for number in 2..=4 {
            let snapshot = scene.snapshot(tick(number), |index| noise(tick(number), index));
            let turn = self.turn(&mut player, &snapshot).await;
            turn.map_err(|problem| problem.at(&format!("tick {number}")))?;
        }
        let nothing = scene.empty(tick(5));
        let last = self.turn(&mut player, &nothing).await;
        last.map_err(|problem| problem.at("when all that it was shown is gone"))?;
        Ok(match first {
            Turn::Batch(batch) => format!(
                "{} series, {} values and {} documents in the first answer",
                batch.declare.len(),
                batch.values.len(),
                batch.documents.len()
            ),
            Turn::Verdict(_) => "shown nothing, then something, then nothing".to_owned(),
        })
    }

    /// The time goes on by a year, stands still, and ticks are skipped.
    async fn clock_jump(&self) -> Found {
        let mut player = self.player().await?;
        let mut scene = Scene::new(SERIES);
        let later =
            |number: u64, by_ns: u64| Tick { number, time_ns: tick(number).time_ns + by_ns };
        let still = Tick { number: 4, ..later(3, YEAR_NS) };
        let ticks = [
            ("before", tick(1)),
            ("a second later", tick(2)),
            ("a year later", later(3, YEAR_NS)),
            ("at the same time again", still),
            ("a thousand ticks later", later(1004, YEAR_NS)),
        ];
        for (moment, tick) in ticks {
            let snapshot = scene.snapshot(tick, |index| noise(tick, index));
            let turn = self.turn(&mut player, &snapshot).await;
            turn.map_err(|problem| problem.at(moment))?;
        }
        Ok("a year forward, the same time twice, a thousand ticks skipped".to_owned())
    }

    /// A detector sees all that the hub lets through, the hub sees to a
    /// collector's own.
    async fn odd_values(&self) -> Found {
        let mut player = self.player().await?;
        let mut scene = Scene::new(ODD.len() as u32);
        let mut absent = 0;
        for number in 1..=60 {
            let snapshot = scene.snapshot(tick(number), |index| ODD[index](number));
            let turn = self.turn(&mut player, &snapshot).await;
            match turn.map_err(|problem| problem.at(&format!("tick {number}")))? {
                Turn::Batch(batch) => absent = absent.max(batch.not_finite.len()),
                Turn::Verdict(_) => {}
            }
        }
        Ok(match (self.trial.role(), absent) {
            (PluginRole::Detector, _) => {
                "largest, smallest, constant, alternating, absent: what is not finite is not shown"
                    .to_owned()
            }
            (PluginRole::Collector, 0) => "all of its values are finite".to_owned(),
            (PluginRole::Collector, _) => {
                format!("{absent} of its values are not finite, and count as absent")
            }
        })
    }

    async fn many_series(&self) -> Found {
        let mut player = self.player().await?;
        if self.trial.role() == PluginRole::Collector {
            let alive = self.alive(&mut player).await?;
            let limit = self.trial.kit.limits.series;
            return Ok(format!("{alive} alive, and {limit} is the limit"));
        }
        let mut scene = Scene::new(SERIES_MANY);
        for number in 1..=5 {
            let snapshot = scene.snapshot(tick(number), |index| noise(tick(number), index));
            player.observe(&snapshot).await.map_err(|problem| {
                let problem = problem.at(&format!("shown {SERIES_MANY} series"));
                let fewer = "show it fewer, with `series = [\"…\"]` in its settings";
                Problem { advice: format!("{}; or {fewer}", problem.advice), ..problem }
            })?;
        }
        Ok(format!("shown {SERIES_MANY}"))
    }

    /// How many series a collector has after a few ticks.
    async fn alive(&self, player: &mut Player<'_>) -> Result<usize, Problem> {
        for number in 1..=3 {
            player.collect(tick(number)).await?;
        }
        Ok(player.alive())
    }

    /// What it has published in all of this, if it can publish anything.
    fn events(&self) -> Option<Step> {
        let imports = &self.trial.kit.loadable.interface.imports;
        if !imports.iter().any(|name| name.starts_with("telltale:plugin/events@")) {
            return None;
        }
        let words = match self.book.events.borrow().count {
            0 => "none was published".to_owned(),
            count => format!("{count} published: told to nobody here"),
        };
        Some(Step::passed("events", words))
    }

    /// What the hub would not let through, and count.
    fn left_out(&self) -> Found {
        let left_out = self.book.left_out.borrow();
        if left_out.is_empty() {
            return Ok("nothing was over one and left out".to_owned());
        }
        let words: Vec<&str> = left_out.values().map(String::as_str).collect();
        let keys: Vec<String> = left_out.keys().map(|key| format!("`{key}`")).collect();
        let advice =
            format!("answer less, or raise {} under [limits] in its settings", keys.join(" and "));
        Err(Problem::warned(words.join("; "), advice))
    }

    fn memory(&self) -> Found {
        let limit = self.trial.kit.surroundings.memory_bytes_max;
        if let Some(over) = self.book.over_memory.borrow().as_ref() {
            let advice = "keep less, or raise `memory_mib` under [limits] in its settings";
            return Err(Problem::failed(over.clone(), advice));
        }
        let most = self.book.memory_bytes.get();
        let words = format!("{:.1} of {} MiB at most", mib(most), limit / (1024 * 1024));
        if most * 10 > limit * 9 {
            let advice = "raise `memory_mib` under [limits] in its settings before it fails";
            return Err(Problem::warned(words, advice));
        }
        Ok(words)
    }

    fn deadline(&self) -> Found {
        if let Some(over) = self.book.over_time.borrow().as_ref() {
            let advice = "do less in a call, or raise the limit that it names in its settings";
            return Err(Problem::failed(over.clone(), advice));
        }
        let limits = self.trial.kit.limits;
        let longest = self.book.longest.borrow();
        let millis = |time: Duration| time.as_secs_f64() * 1e3;
        let calls: Vec<String> = longest
            .iter()
            .map(|(call, took)| match *call {
                "collect" | "observe" => (call, took, Some(limits.collect)),
                "start" | "configure" => (call, took, Some(limits.configure)),
                _ => (call, took, None),
            })
            .map(|(call, took, limit)| match limit {
                Some(limit) => format!("{call} {:.2} of {} ms", millis(*took), limit.as_millis()),
                None => format!("{call} {:.2} ms", millis(*took)),
            })
            .collect();
        let words = format!("computing at most: {}", calls.join(", "));
        let turns = ["collect", "observe"].iter().filter_map(|call| longest.get(call));
        if turns.max().is_some_and(|took| *took * 2 > limits.collect) {
            let advice = "this machine may be faster than the hub's: do less in a call, or raise \
                          `collect_ms` under [limits] in its settings";
            return Err(Problem::warned(words, advice));
        }
        Ok(words)
    }
}

#[expect(clippy::cast_precision_loss, reason = "one digit is shown")]
fn mib(bytes: usize) -> f64 {
    bytes as f64 / (1024.0 * 1024.0)
}

/// The values of a series by the tick's number.
type Values = fn(u64) -> f64;

/// What real series have been seen to do, and worse.
const ODD: [Values; 10] = [
    |_| f64::MAX,
    |_| f64::MIN,
    |_| 5e-324,
    |_| 0.0,
    |tick| if tick % 2 == 0 { 0.0 } else { -0.0 },
    |tick| if tick % 2 == 0 { f64::MAX } else { f64::MIN },
    |tick| if tick % 10 == 0 { f64::NAN } else { 1.0 },
    |tick| if tick < 30 { f64::INFINITY } else { 1e-300 },
    |tick| if tick == 40 { 1e300 } else { 42.0 },
    |tick| (tick as f64).exp2(),
];
