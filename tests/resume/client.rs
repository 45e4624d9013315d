//! A client that keeps its positions, and holds all that it is told against
//! what has happened.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde_json::{Value, json};
use telltale::model::{FindingState, LogChannel};
use tokio::sync::watch;

use super::connection::Connection;
use super::world::{Filter, World};

/// What the clients of a run are told by who leads it.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Stage {
    /// Where the hub is, while it runs.
    pub(super) address: Option<SocketAddr>,
    /// Nothing more happens after this offset and this tick.
    pub(super) end: Option<(u64, u64)>,
}

/// How often what happened, in all runs together: what never happens is not
/// tested.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Tally {
    pub(super) connections: u64,
    pub(super) entries: u64,
    pub(super) duplicates: u64,
    pub(super) recovered: u64,
    pub(super) recovered_entries: u64,
    pub(super) unrecovered: u64,
    pub(super) gaps: u64,
    pub(super) lost: u64,
    pub(super) skipped: u64,
    pub(super) deltas: u64,
}

impl Tally {
    pub(super) fn add(&mut self, other: Self) {
        self.connections += other.connections;
        self.entries += other.entries;
        self.duplicates += other.duplicates;
        self.recovered += other.recovered;
        self.recovered_entries += other.recovered_entries;
        self.unrecovered += other.unrecovered;
        self.gaps += other.gaps;
        self.lost += other.lost;
        self.skipped += other.skipped;
        self.deltas += other.deltas;
    }
}

/// A subscription that a client wants to have.
#[derive(Clone, Debug)]
pub(super) struct Wish {
    pub(super) filter: Filter,
    pub(super) of: Of,
}

#[derive(Clone, Debug)]
pub(super) enum Of {
    Metrics { full: bool, every: u64 },
    Log { channel: LogChannel, fields: bool },
}

impl Wish {
    pub(super) fn command(&self) -> Value {
        let mut command = json!({"op": "subscribe", "filter": self.filter.json()});
        match &self.of {
            Of::Metrics { full, every } => {
                command["channel"] = json!("metrics");
                command["form"] = json!(if *full { "full" } else { "delta" });
                command["max_rate_ms"] = json!(every * super::inside::TICK_MS);
            }
            Of::Log { channel, fields } => {
                command["channel"] = json!(channel.as_str());
                if *fields {
                    command["fields"] = json!(["plugin"]);
                }
            }
        }
        command
    }
}

/// What a client knows through one subscription.
#[derive(Debug)]
pub(super) struct Known {
    pub(super) wish: Wish,
    /// What it is called on this connection, once that is known.
    sub: Option<u64>,
    /// The hub may have ended it.
    ending: bool,
    position: Option<Position>,
    pub(super) open: BTreeSet<String>,
    tick: u64,
    pub(super) series: BTreeMap<u64, (Value, Value)>,
}

/// Where it is in the log.
#[derive(Clone, Debug)]
struct Position {
    epoch: String,
    /// It has got all that it is entitled to up to here.
    offset: u64,
    /// The same, without what other subscriptions tell of it.
    own: u64,
}

impl Known {
    pub(super) fn new(wish: Wish) -> Self {
        let (open, series) = (BTreeSet::new(), BTreeMap::new());
        Self { wish, sub: None, ending: false, position: None, open, tick: 0, series }
    }

    /// Begins with all that is told at once.
    pub(super) fn begin(&mut self, told: &Value) {
        let ids = |key: &str| told[key].as_array().unwrap().iter();
        match &self.wish.of {
            Of::Metrics { .. } => {
                let known = |series: &Value| {
                    let value = series["value"].clone();
                    (series["id"].as_u64().unwrap(), (value, series["stale"]["code"].clone()))
                };
                self.series = ids("series").map(known).collect();
                self.tick = told["tick"].as_u64().unwrap();
            }
            Of::Log { channel: LogChannel::Findings, .. } => {
                self.open = ids("open").map(|f| f["id"].as_str().unwrap().to_owned()).collect();
            }
            Of::Log { .. } => {}
        }
    }

    /// Takes in what has changed.
    fn take_changes(&mut self, push: &Value) {
        let list = |key: &str| push[key].as_array().cloned().unwrap_or_default();
        let id = |value: &Value| value.as_u64().unwrap();
        for series in list("declare") {
            self.series.insert(id(&series["id"]), (Value::Null, Value::Null));
        }
        for row in list("values") {
            let known = self.series.get_mut(&id(&row[0]));
            *known.unwrap_or_else(|| panic!("a series that is not known: {push}")) =
                (row[1].clone(), Value::Null);
        }
        for stale in list("stale") {
            self.series.get_mut(&id(&stale["id"])).unwrap().1 = stale["code"].clone();
        }
        for gone in list("gone") {
            // One that came and went between two pushes may not be known here.
            self.series.remove(&id(&gone));
        }
        self.tick = id(&push["tick"]);
    }
}

/// A client.
pub(super) struct Client {
    world: Arc<World>,
    rng: StdRng,
    pub(super) known: Vec<Known>,
    /// Commands without a reply: what each was about, and from where it wanted
    /// to go on.
    asked: HashMap<u64, Asked>,
    next_id: u64,
    /// The offset of the last entry that came on this connection.
    last: u64,
    /// Where this connection has begun afresh, having lost something.
    lost_at: Option<u64>,
    /// The reply to the last ping has come.
    answered: bool,
    pub(super) tally: Tally,
}

#[derive(Debug)]
enum Asked {
    Subscribe(usize, Option<(String, u64)>),
    Unsubscribe(usize),
    Ping,
}

impl Client {
    pub(super) fn new(seed: u64, wishes: Vec<Wish>, world: Arc<World>) -> Self {
        Self {
            world,
            rng: StdRng::seed_from_u64(seed),
            known: wishes.into_iter().map(Known::new).collect(),
            asked: HashMap::new(),
            next_id: 1,
            last: 0,
            lost_at: None,
            answered: false,
            tally: Tally::default(),
        }
    }

    /// Follows until nothing more happens and all is known.
    pub(super) async fn follow(mut self, mut stage: watch::Receiver<Stage>) -> Self {
        loop {
            let now = *stage.borrow_and_update();
            let Some(address) = now.address else {
                stage.changed().await.unwrap();
                continue;
            };
            let cut = match now.end {
                Some(_) => usize::MAX,
                None if self.rng.random_bool(0.2) => self.rng.random_range(1..200),
                None => self.rng.random_range(1..30_000),
            };
            match Connection::open(address, cut).await {
                Ok(connection) => {
                    if self.talk(connection, &mut stage).await {
                        return self;
                    }
                }
                Err(_) => tokio::time::sleep(Duration::from_millis(1)).await,
            }
        }
    }

    /// One connection; true if all is known.
    async fn talk(
        &mut self,
        mut connection: Connection,
        stage: &mut watch::Receiver<Stage>,
    ) -> bool {
        self.tally.connections += 1;
        self.asked.clear();
        (self.last, self.lost_at, self.answered) = (0, None, false);
        for known in &mut self.known {
            (known.sub, known.ending) = (None, false);
        }
        for at in 0..self.known.len() {
            if !self.subscribe(at, &mut connection).await {
                return false;
            }
        }
        let (mut pinged, mut lazy) = (false, self.rng.random_bool(0.3));
        loop {
            let end = stage.borrow().end;
            if let Some((head, tick)) = end {
                if self.answered {
                    return true;
                }
                if !pinged && self.has_all(head, tick) {
                    pinged = true;
                    if !self.ask(Asked::Ping, json!({"op": "ping"}), &mut connection).await {
                        return false;
                    }
                }
            } else {
                if self.rng.random_bool(if lazy { 0.3 } else { 0.02 }) {
                    let pause = self.rng.random_range(1..25);
                    tokio::time::sleep(Duration::from_millis(pause)).await;
                    lazy = self.rng.random_bool(0.5);
                }
                if self.rng.random_bool(0.02) && !self.change_something(&mut connection).await {
                    return false;
                }
            }
            tokio::select! {
                message = connection.next() => match message {
                    Some(message) => self.hear(&message),
                    None => return false,
                },
                changed = stage.changed() => changed.unwrap(),
            }
        }
    }

    /// Asks for what it has, once more, or ends it for a while.
    async fn change_something(&mut self, connection: &mut Connection) -> bool {
        let at = self.rng.random_range(0..self.known.len());
        match self.known[at].sub {
            Some(sub) if !self.known[at].ending && self.rng.random_bool(0.3) => {
                self.known[at].ending = true;
                let command = json!({"op": "unsubscribe", "sub": sub});
                self.ask(Asked::Unsubscribe(at), command, connection).await
                    && self.subscribe(at, connection).await
            }
            _ => self.subscribe(at, connection).await,
        }
    }

    async fn subscribe(&mut self, at: usize, connection: &mut Connection) -> bool {
        let mut command = self.known[at].wish.command();
        let mut sent = None;
        // Now and then it has forgotten where it was.
        if let Some(Position { epoch, offset, .. }) = &self.known[at].position
            && !self.rng.random_bool(0.02)
        {
            let (mut epoch, mut offset) = (epoch.clone(), *offset);
            match self.rng.random_range(0..20) {
                0 | 1 => offset = offset.saturating_sub(self.rng.random_range(1..40)),
                2 if self.rng.random_bool(0.2) => offset += 100_000,
                3 if self.rng.random_bool(0.2) => epoch.push('x'),
                _ => {}
            }
            command["resume"] = json!({"epoch": epoch, "offset": offset});
            sent = Some((epoch, offset));
        }
        self.ask(Asked::Subscribe(at, sent), command, connection).await
    }

    async fn ask(&mut self, asked: Asked, mut command: Value, connection: &mut Connection) -> bool {
        command["id"] = json!(self.next_id);
        self.asked.insert(self.next_id, asked);
        self.next_id += 1;
        connection.send(&command).await
    }

    /// Whether nothing is missing.
    fn has_all(&self, head: u64, tick: u64) -> bool {
        self.asked.is_empty()
            && self.known.iter().all(|known| match (&known.wish.of, &known.position) {
                _ if known.sub.is_none() => false,
                (Of::Metrics { .. }, _) => known.tick >= tick,
                (Of::Log { channel, .. }, Some(position)) => {
                    let next = self.world.next(*channel, &known.wish.filter, position.own);
                    next.is_none_or(|next| next > head)
                }
                (Of::Log { .. }, None) => false,
            })
    }

    fn hear(&mut self, message: &Value) {
        if let Some(id) = message["id"].as_u64() {
            let asked = self.asked.remove(&id).unwrap();
            let ok = message.get("ok");
            let ok = ok.unwrap_or_else(|| panic!("{asked:?} was answered {message}"));
            match asked {
                Asked::Ping => self.answered = true,
                Asked::Unsubscribe(at) => self.known[at].sub = None,
                Asked::Subscribe(at, sent) => self.hear_reply(at, sent, ok),
            }
            return;
        }
        let sub = message["sub"].as_u64().unwrap();
        let at = self.known.iter().position(|known| known.sub == Some(sub));
        let at = at.unwrap_or_else(|| panic!("for no subscription: {message}"));
        match message["push"].as_str().unwrap() {
            "metrics" => self.hear_metrics(at, message),
            "gap" => self.hear_gap(at, message),
            _ => self.hear_entry(at, message),
        }
    }

    fn hear_reply(&mut self, at: usize, sent: Option<(String, u64)>, ok: &Value) {
        let known = &mut self.known[at];
        known.sub = Some(ok["sub"].as_u64().unwrap());
        // Asked for after it was ended, it is another one.
        known.ending = false;
        let Of::Log { channel, .. } = known.wish.of else {
            known.begin(&ok["snapshot"]);
            return;
        };
        let (epoch, offset) = (ok["epoch"].as_str().unwrap(), ok["offset"].as_u64().unwrap());
        if ok["recovered"] == false {
            assert_eq!(ok["entries"], json!([]));
            if let Some((sent_epoch, sent)) = sent {
                self.tally.unrecovered += 1;
                let lost = self.world.may_be_lost(channel, sent, offset) || sent_epoch != epoch;
                assert!(lost, "{sent} could have been gone on from: {ok}");
            }
            self.start_afresh(at, ok);
            return;
        }
        assert_eq!(ok["recovered"], true);
        let (sent_epoch, sent) = sent.unwrap();
        assert_eq!(sent_epoch, epoch);
        let position = known.position.clone().unwrap();
        assert!(offset >= position.own, "it goes back from {}: {ok}", position.own);
        let missed = self.world.between(channel, &known.wish.filter, sent, offset);
        let entries = ok["entries"].as_array().unwrap();
        let told: Vec<_> = entries.iter().map(|e| e["offset"].as_u64().unwrap()).collect();
        assert_eq!(told, missed, "what was missed after {sent}: {ok}");
        self.tally.recovered += 1;
        let mut prev = sent;
        for entry in entries {
            assert_eq!(entry["prev"], prev, "{ok}");
            prev = entry["offset"].as_u64().unwrap();
            if prev <= position.own {
                self.tally.duplicates += 1;
            } else {
                self.tally.recovered_entries += 1;
                self.take_entry(at, entry);
            }
        }
        let epoch = epoch.to_owned();
        let offset = offset.max(position.offset);
        self.known[at].position = Some(Position { epoch, offset, own: offset });
    }

    fn start_afresh(&mut self, at: usize, told: &Value) {
        let known = &mut self.known[at];
        let (epoch, offset) = (told["epoch"].as_str().unwrap(), told["offset"].as_u64().unwrap());
        known.begin(told);
        known.position = Some(Position { epoch: epoch.to_owned(), offset, own: offset });
        if let Of::Log { channel: LogChannel::Findings, .. } = known.wish.of {
            let open = self.world.open(&known.wish.filter, offset);
            assert!(open.contains(&known.open), "{told}, but {open:?} is");
        }
    }

    fn hear_gap(&mut self, at: usize, push: &Value) {
        let position = self.known[at].position.clone().unwrap();
        let Of::Log { channel, .. } = self.known[at].wish.of else { panic!("{push}") };
        let (from, to) = (push["from"].as_u64().unwrap(), push["to"].as_u64().unwrap());
        assert!(from <= to, "{push}");
        if push.get("recovered").is_none() {
            self.tally.gaps += 1;
            return;
        }
        self.tally.lost += 1;
        assert_eq!(push["recovered"], false);
        let head = push["offset"].as_u64().unwrap();
        // All that a connection has begins afresh when a part of it has to.
        let mut logs = self.known.iter().filter(|known| known.sub.is_some());
        let lost = self.lost_at == Some(head)
            || logs.any(|known| {
                known
                    .position
                    .as_ref()
                    .is_some_and(|position| self.world.may_be_lost(channel, position.own, head))
            });
        assert!(lost, "{position:?}: {push}");
        self.lost_at = Some(head);
        self.start_afresh(at, push);
    }

    fn hear_entry(&mut self, at: usize, push: &Value) {
        let position = self.known[at].position.clone().unwrap();
        assert_eq!(push["epoch"], position.epoch);
        let offset = push["offset"].as_u64().unwrap();
        assert!(offset >= self.last, "{push} came after {}", self.last);
        assert!(
            push["prev"].as_u64().unwrap() <= position.offset,
            "something is missing after {position:?}: {push}"
        );
        self.last = offset;
        self.take_entry(at, push);
        let position = self.known[at].position.as_mut().unwrap();
        (position.own, position.offset) = (offset, offset.max(position.offset));
        // Entries come in the order of the log, whichever subscription they are
        // of: before this one nothing is missing.
        for known in self.known.iter_mut().filter(|known| known.sub.is_some()) {
            let Of::Log { channel, .. } = known.wish.of else { continue };
            let position = known.position.as_mut().unwrap();
            if position.offset < offset - 1 {
                position.offset = offset - 1;
                let next = self.world.next(channel, &known.wish.filter, position.own);
                assert!(
                    next.is_none_or(|next| next >= offset),
                    "{next:?} of {:?} was passed over by {push}",
                    known.wish
                );
            }
        }
    }

    /// Takes in an entry, which must be the next.
    fn take_entry(&mut self, at: usize, told: &Value) {
        self.tally.entries += 1;
        let offset = told["offset"].as_u64().unwrap();
        let known = &mut self.known[at];
        let Of::Log { channel, fields } = known.wish.of else { panic!("{told}") };
        let position = known.position.as_mut().unwrap();
        let next = self.world.next(channel, &known.wish.filter, position.own);
        assert_eq!(Some(offset), next, "the next one after {position:?}");
        position.own = offset;
        assert!(fields || told["entry"]["n"] == offset, "{told}");
        if let Some((id, state)) = self.world.finding(offset) {
            assert_eq!(told["entry"]["id"], id);
            match state {
                FindingState::Open => known.open.insert(id),
                FindingState::Close => known.open.remove(&id),
            };
        }
    }

    fn hear_metrics(&mut self, at: usize, push: &Value) {
        let known = &mut self.known[at];
        let tick = push["tick"].as_u64().unwrap();
        if push["full"] == true {
            self.tally.skipped += push["skipped"].as_u64().unwrap_or(0);
            assert!(tick >= known.tick, "{push} after tick {}", known.tick);
            known.begin(push);
        } else {
            self.tally.deltas += 1;
            assert!(tick > known.tick, "{push} after tick {}", known.tick);
            known.take_changes(push);
        }
    }
}
