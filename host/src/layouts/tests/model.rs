//! The store against a plain model of it.

use std::collections::HashMap;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::*;

const BOARDS: [&str; 3] = ["ada", "bob", "shared"];
const USERS: [&str; 2] = ["ada", "bob"];
const VERSIONS_KEPT: usize = 50;

#[derive(Clone, Debug, PartialEq)]
struct Past {
    version: u64,
    revision: u64,
    data: Option<Value>,
    user: &'static str,
}

#[derive(Clone, Default)]
struct BoardModel {
    revision: u64,
    floor: u64,
    forgotten: u64,
    /// Oldest first; the last is what stands.
    objects: BTreeMap<ObjectKey, Vec<Past>>,
}

#[derive(Clone, Debug)]
struct Doing {
    board: &'static str,
    user: &'static str,
    operations: Vec<Operation>,
    id: Option<String>,
}

/// What a client is told.
#[derive(Debug, PartialEq)]
enum Told {
    Made(u64, Vec<u64>),
    Stale { at: usize, current: Option<Version>, basis: Option<Version> },
    IdReused,
    NotKept(String),
}

/// A version's number and data.
type Version = (u64, Option<Value>);

#[derive(Default)]
struct Model {
    boards: BTreeMap<&'static str, BoardModel>,
    /// By board and id: what was done, and what its client was told.
    known: HashMap<(&'static str, String), (String, u64, Vec<u64>)>,
}

impl Model {
    fn make(&mut self, doing: &Doing) -> Told {
        let text = format!("{:?}", doing.operations);
        let key = doing.id.clone().map(|id| (doing.board, id));
        if let Some((other, revision, versions)) = key.as_ref().and_then(|key| self.known.get(key))
        {
            return match *other == text {
                true => Told::Made(*revision, versions.clone()),
                false => Told::IdReused,
            };
        }
        let mut board = self.boards.get(doing.board).cloned().unwrap_or_default();
        let before = board.clone();
        board.revision += 1;
        let mut versions = Vec::new();
        for (at, operation) in doing.operations.iter().enumerate() {
            match board.take(&before, at, operation, doing.user) {
                Ok(version) => versions.push(version),
                Err(told) => return told,
            }
        }
        board.forget();
        let revision = board.revision;
        self.boards.insert(doing.board, board);
        if let Some(key) = key {
            self.known.insert(key, (text, revision, versions.clone()));
        }
        Told::Made(revision, versions)
    }
}

fn version(past: &Past) -> Version {
    (past.version, past.data.clone())
}

impl BoardModel {
    fn current(&self, key: &ObjectKey) -> Option<&Past> {
        self.objects.get(key)?.last()
    }

    fn past(&self, key: &ObjectKey, version: u64) -> Option<&Past> {
        self.objects.get(key)?.iter().find(|past| past.version == version)
    }

    fn take(
        &mut self,
        before: &Self,
        at: usize,
        Operation { key, edit, base }: &Operation,
        user: &'static str,
    ) -> Result<u64, Told> {
        let is = |past: Option<&Past>, base: u64| match past {
            None => base == 0,
            Some(past) => past.version == base || (base == 0 && past.data.is_none()),
        };
        let current = self.current(key).cloned();
        if let Some(base) = *base
            && !is(current.as_ref(), base)
            && !is(before.current(key), base)
        {
            let basis = self.past(key, base).map(version);
            return Err(Told::Stale { at, current: current.as_ref().map(version), basis });
        }
        let stands = current.as_ref().and_then(|past| past.data.clone());
        let data = match edit {
            Edit::Merge(members) => {
                let mut merged = stands.clone().unwrap_or(json!({}));
                merged.as_object_mut().unwrap().extend(members.clone());
                Some(merged)
            }
            Edit::Replace(data) => Some(serde_json::from_str(data.get()).unwrap()),
            Edit::Delete => None,
            Edit::Restore(wanted) => match self.past(key, *wanted) {
                Some(past) => past.data.clone(),
                None => {
                    let oldest = self.objects.get(key).map(|pasts| pasts[0].version);
                    let clash = Clash::NotKept { key: key.clone(), version: *wanted, oldest };
                    return Err(Told::NotKept(ChangeError::from(clash).to_string()));
                }
            },
        };
        let number = current.as_ref().map_or(0, |past| past.version);
        if data.is_none() && stands.is_none() {
            return Ok(number);
        }
        let number = if number == 0 { self.forgotten } else { number } + 1;
        let past = Past { version: number, revision: self.revision, data, user };
        self.objects.entry(key.clone()).or_default().push(past);
        Ok(number)
    }

    fn forget(&mut self) {
        for pasts in self.objects.values_mut() {
            pasts.drain(..pasts.len().saturating_sub(VERSIONS_KEPT));
        }
        let mut gone: Vec<_> = self
            .objects
            .iter()
            .filter_map(|(key, pasts)| Some((pasts.last()?, key)))
            .filter(|(past, _)| past.data.is_none())
            .map(|(past, key)| (past.revision, key.clone(), past.version))
            .collect();
        gone.sort();
        for (revision, key, version) in gone.iter().take(gone.len().saturating_sub(BOARD_GONE_MAX))
        {
            self.floor = self.floor.max(*revision);
            self.forgotten = self.forgotten.max(*version);
            self.objects.remove(key);
        }
    }
}

/// Random changes, most of which can be made.
struct Chance {
    random: StdRng,
    /// Changes with an id, to be sent again.
    sent: Vec<Doing>,
    ids: u64,
}

impl Chance {
    fn key(&mut self) -> ObjectKey {
        let kind = match self.random.random_bool(0.8) {
            true => ObjectKind::Widget,
            false => ObjectKind::Layout,
        };
        // A few that are changed often, and many that come and go.
        let id = match self.random.random_bool(0.8) {
            true => format!("w{}", self.random.random_range(0..4)),
            false => format!("x{}", self.random.random_range(0..400)),
        };
        ObjectKey::new(kind, &id).unwrap()
    }

    fn data(&mut self) -> Value {
        let names = ["a", "b", "c", "title"];
        let count = self.random.random_range(0..3);
        let members = (0..count).map(|_| {
            let name = names[self.random.random_range(0..names.len())].to_owned();
            (name, json!(self.random.random_range(0..1000)))
        });
        Value::Object(members.collect())
    }

    fn operation(&mut self, board: &BoardModel) -> Operation {
        let key = self.key();
        let current = board.current(&key).map_or(0, |past| past.version);
        let edit = match self.random.random_range(0..10) {
            0..4 => Edit::Merge(members(self.data())),
            4..7 => Edit::Replace(raw(&self.data())),
            7..9 => Edit::Delete,
            _ => Edit::Restore(self.random.random_range(0..=current + 1)),
        };
        let base = match self.random.random_range(0..10) {
            0..5 => None,
            5..8 => Some(current),
            8 => Some(0),
            _ => Some(self.random.random_range(0..=current + 1)),
        };
        Operation { key, edit, base }
    }

    fn doing(&mut self, model: &Model) -> Doing {
        if !self.sent.is_empty() && self.random.random_bool(0.1) {
            let at = self.random.random_range(0..self.sent.len());
            let mut again = self.sent[at].clone();
            again.user = USERS[self.random.random_range(0..2)];
            if self.random.random_bool(0.3) {
                again.operations.reverse();
            }
            return again;
        }
        let name = BOARDS[self.random.random_range(0..BOARDS.len())];
        let unknown = BoardModel::default();
        let board = model.boards.get(name).unwrap_or(&unknown);
        let operations = match self.random.random_range(0..100) {
            // Many are made or deleted at once, as by a script.
            0 => self.many(board, false),
            1 => self.many(board, true),
            2..20 => (0..self.random.random_range(2..8)).map(|_| self.operation(board)).collect(),
            _ => vec![self.operation(board)],
        };
        let user = USERS[self.random.random_range(0..2)];
        let id = self.random.random_bool(0.5).then(|| {
            self.ids += 1;
            format!("op-{}", self.ids)
        });
        let doing = Doing { board: name, user, operations, id };
        if doing.id.is_some() {
            self.sent.push(doing.clone());
        }
        doing
    }

    /// All that comes and goes is made, or what is there of it deleted.
    fn many(&mut self, board: &BoardModel, is_deleted: bool) -> Vec<Operation> {
        let from = self.random.random_range(0..150);
        let stands = |key: &ObjectKey| board.current(key).is_some_and(|past| past.data.is_some());
        (from..from + 250)
            .map(|n| widget(&format!("x{n}")))
            .filter(|key| !is_deleted || stands(key))
            .chain([widget("w0")])
            .map(|key| {
                let edit = match is_deleted {
                    true => Edit::Delete,
                    false => Edit::Merge(members(json!({"a": from}))),
                };
                Operation { key, edit, base: None }
            })
            .collect()
    }
}

fn told(outcome: Result<Changed, ChangeError>) -> Told {
    let version =
        |object: &Object| (object.version, object.data.as_ref().map(|_| data(Some(object))));
    match outcome {
        Ok(Changed { revision, versions }) => {
            Told::Made(revision, versions.into_iter().map(|(_, version)| version).collect())
        }
        Err(ChangeError::Conflict(stale)) => Told::Stale {
            at: stale.at,
            current: stale.current.as_ref().map(version),
            basis: stale.basis.as_ref().map(version),
        },
        Err(ChangeError::IdReused) => Told::IdReused,
        Err(ChangeError::NotKept(words)) => Told::NotKept(words),
        Err(error) => panic!("{error}"),
    }
}

/// Whether what the channels know and what the store keeps is what the model has.
async fn compare(world: &World, model: &Model, seed: u64) {
    assert_eq!(world.feed.boards.len(), model.boards.len(), "seed {seed}");
    for (name, board) in &model.boards {
        let standing = &world.feed.boards[&Board::new(name).unwrap()];
        assert_eq!(
            (standing.revision, standing.floor),
            (board.revision, board.floor),
            "{name}, seed {seed}"
        );
        let stands: Vec<_> = standing.objects.values().map(|object| seen(object)).collect();
        let expected = board.objects.iter().filter_map(|(key, pasts)| {
            let past = pasts.last()?;
            Some((key.clone(), past.version, past.revision, past.data.clone()))
        });
        assert_eq!(stands, expected.collect::<Vec<_>>(), "{name}, seed {seed}");
    }
}

type Seen = (ObjectKey, u64, u64, Option<Value>);

fn seen(object: &Object) -> Seen {
    let data = object.data.as_ref().map(|_| data(Some(object)));
    (object.key.clone(), object.version, object.revision, data)
}

/// Whether all versions that are kept are what the model has.
async fn compare_versions(world: &World, model: &Model, seed: u64) {
    let reader = world.store.reader();
    for (name, board) in &model.boards {
        for (key, pasts) in &board.objects {
            let named = Board::new(name).unwrap();
            let kept = reader.versions(named.clone(), key.clone(), None).await.unwrap();
            let kept: Vec<_> = kept
                .iter()
                .rev()
                .map(|it| (it.object.version, it.object.revision, it.user.clone()))
                .collect();
            let expected: Vec<_> = pasts
                .iter()
                .map(|past| (past.version, past.revision, past.user.to_owned()))
                .collect();
            assert_eq!(kept, expected, "{name}, {key:?}, seed {seed}");
            let past = &pasts[pasts.len() / 2];
            let kept = reader.versions(named, key.clone(), Some(past.version)).await.unwrap();
            let kept = &kept[0].object;
            assert_eq!(kept.data.as_ref().map(|_| data(Some(kept))), past.data, "seed {seed}");
        }
    }
}

/// Makes so many changes, and answers how many boards have forgotten something.
async fn run(seed: u64, steps: usize) -> usize {
    let mut chance = Chance { random: StdRng::seed_from_u64(seed), sent: Vec::new(), ids: 0 };
    let mut model = Model::default();
    let mut world = World::fresh();
    let mut done = 0;
    while done < steps {
        let mut waiting = Vec::new();
        for _ in 0..chance.random.random_range(1..=100) {
            let doing = chance.doing(&model);
            let expected = model.make(&doing);
            let draft = draft(doing.board, doing.operations.clone(), doing.id.as_deref());
            let submitted = world.layouts.submit(&user(doing.user), draft);
            waiting.push((doing, expected, submitted));
        }
        done += waiting.len();
        for (doing, expected, submitted) in waiting {
            let outcome = told(world.layouts.settle(submitted).await);
            assert_eq!(outcome, expected, "seed {seed}: {doing:?}");
        }
        world.hear();
        compare(&world, &model, seed).await;
        world = match chance.random.random_range(0..10) {
            0 => world.reopen().await,
            1 => world.kill().await,
            _ => continue,
        };
        compare(&world, &model, seed).await;
    }
    compare_versions(&world, &model, seed).await;
    model.boards.values().filter(|board| board.forgotten > 0).count()
}

/// `LAYOUTS_SEED=n` repeats one run, `LAYOUTS_RUNS=n` makes more.
#[tokio::test]
async fn the_store_does_what_a_plain_model_does() {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse().ok());
    if let Some(seed) = number("LAYOUTS_SEED") {
        run(seed, 2000).await;
        return;
    }
    let mut forgotten = 0;
    for seed in 0..number("LAYOUTS_RUNS").unwrap_or(2) {
        forgotten += run(seed, 2000).await;
    }
    assert!(forgotten > 0, "no board has ever forgotten anything");
}
