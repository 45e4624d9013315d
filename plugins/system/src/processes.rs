//! The busiest processes, from `/proc/<pid>/stat`.

use crate::cpu::TICKS_PER_S;
use crate::machine::{File, Machine};
use crate::settings::Settings;
use crate::text::{fields, number};
use serde::Serialize;

/// Each process is a file to open: more are not read.
const PROCESSES_MAX: usize = 4096;

/// How long to wait for the second reading, from which alone shares are known.
const FIRST_PERIOD_NS: u64 = 1_000_000_000;

/// The document `processes`: an array of the busiest, busiest first. One that
/// is new since the last reading is in it from the next on.
#[derive(Debug, Default)]
pub struct Processes {
    /// By rising pid.
    previous: Vec<Seen>,
    current: Vec<Seen>,
    pids: Vec<u32>,
    taken_ns: u64,
    due_ns: u64,
    page_bytes: Option<u64>,
}

/// What is remembered of a process.
#[derive(Debug, Clone, Copy)]
struct Seen {
    pid: u32,
    /// When it started, which tells it from another of the same number.
    started: u64,
    ticks: u64,
}

/// An element of the document.
#[derive(Debug, PartialEq, Serialize)]
struct Process {
    pid: u32,
    name: String,
    /// Share of one core since the reading before.
    cpu: f64,
    /// Resident memory in bytes.
    memory: u64,
    /// The kernel's letter: R runs, S sleeps, D waits for a disk, Z has ended.
    state: char,
}

/// The document's last element, if some processes were not read.
#[derive(Debug, Serialize)]
struct Note {
    note: String,
}

/// An element, as it is written.
#[derive(Debug, Serialize)]
#[serde(untagged)]
enum Element {
    Process(Process),
    Note(Note),
}

impl Processes {
    /// The document, at the ticks at which it is due.
    pub fn measure(
        &mut self,
        machine: &mut impl Machine,
        settings: &Settings,
        time_ns: u64,
    ) -> Option<String> {
        if settings.processes_every_s == 0 || time_ns < self.due_ns {
            return None;
        }
        let page_bytes = *self.page_bytes.get_or_insert_with(|| page_bytes(machine));
        machine.pids(&mut self.pids);
        self.pids.sort_unstable();
        let read_max = self.pids.len().min(PROCESSES_MAX);

        let period_s = time_ns.saturating_sub(self.taken_ns) as f64 / 1e9;
        let mut busiest: Vec<Process> = Vec::with_capacity(settings.processes + 1);
        self.current.clear();
        for &pid in &self.pids[..read_max] {
            let Some(text) = machine.process(pid) else {
                continue;
            };
            let Some(stat) = Stat::parse(&text) else {
                continue;
            };
            let now = Seen { pid, started: stat.started, ticks: stat.ticks };
            self.current.push(now);
            if let Some(spent) = spent(&self.previous, now) {
                let share = spent as f64 / TICKS_PER_S / period_s;
                let process = Process {
                    pid,
                    name: String::new(),
                    cpu: (share * 1e4).round() / 1e4,
                    memory: stat.pages.saturating_mul(page_bytes),
                    state: char::from(stat.state),
                };
                insert(&mut busiest, settings.processes, process, stat.name);
            }
        }
        let is_first = self.previous.is_empty();
        std::mem::swap(&mut self.previous, &mut self.current);
        self.taken_ns = time_ns;
        if is_first {
            self.due_ns = time_ns + FIRST_PERIOD_NS;
            return None;
        }
        self.due_ns = time_ns + settings.processes_every_s * 1_000_000_000;
        document(busiest, self.pids.len())
    }
}

/// The ticks that a process spent since the last reading; none if it was not
/// there then.
fn spent(previous: &[Seen], now: Seen) -> Option<u64> {
    let index = previous.binary_search_by_key(&now.pid, |seen| seen.pid).ok()?;
    let before = previous[index];
    (before.started == now.started).then(|| now.ticks.saturating_sub(before.ticks))
}

/// Keeps the `count` busiest, busiest first, and of equals the larger.
fn insert(busiest: &mut Vec<Process>, count: usize, process: Process, name: &[u8]) {
    let rank = |process: &Process| (process.cpu, process.memory);
    let place = busiest.partition_point(|other| rank(other) >= rank(&process));
    if place < count {
        let name = String::from_utf8_lossy(name).into_owned();
        busiest.insert(place, Process { name, ..process });
        busiest.truncate(count);
    }
}

fn document(busiest: Vec<Process>, count: usize) -> Option<String> {
    let mut elements: Vec<_> = busiest.into_iter().map(Element::Process).collect();
    if count > PROCESSES_MAX {
        let note = format!("of {count} processes only the first {PROCESSES_MAX} were read");
        elements.push(Element::Note(Note { note }));
    }
    serde_json::to_string(&elements).ok()
}

/// The size of a page, which the kernel tells each program among pairs of
/// numbers under 6 (`AT_PAGESZ`). It isn't 4096 on each ARM machine.
fn page_bytes(machine: &mut impl Machine) -> u64 {
    let auxv = machine.read(File::Auxv).unwrap_or_default();
    let (numbers, _) = auxv.as_chunks::<8>();
    let pairs = numbers.chunks_exact(2).map(|pair| (pair[0], pair[1]));
    let page = pairs.map(|(key, value)| (u64::from_le_bytes(key), u64::from_le_bytes(value)));
    let page = page.filter(|(key, _)| *key == 6).map(|(_, value)| value).next();
    page.filter(|bytes| bytes.is_power_of_two()).unwrap_or(4096)
}

/// What `/proc/<pid>/stat` says of a process.
#[derive(Debug, PartialEq)]
struct Stat<'a> {
    name: &'a [u8],
    state: u8,
    ticks: u64,
    started: u64,
    pages: u64,
}

impl<'a> Stat<'a> {
    /// `42 (a (strange) name) S 1 …`: the name ends at the last parenthesis.
    fn parse(text: &'a [u8]) -> Option<Self> {
        let open = text.iter().position(|&byte| byte == b'(')?;
        let close = text.iter().rposition(|&byte| byte == b')')?;
        let name = text.get(open + 1..close)?;
        let mut parts = fields(&text[close + 1..]);
        let state = *parts.next()?.first().filter(|state| state.is_ascii_alphabetic())?;
        // Counting from the state as 0: utime 11, stime 12, starttime 19, rss 21.
        let user = number(parts.nth(10)?)?;
        let system = number(parts.next()?)?;
        let started = number(parts.nth(6)?)?;
        let pages = number(parts.nth(1)?)?;
        Some(Self { name, state, ticks: user.saturating_add(system), started, pages })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::collector::tests::Fake;

    const S: u64 = 1_000_000_000;

    fn stat(name: &str, ticks: u64, started: u64) -> Vec<u8> {
        format!("7 ({name}) S 1 2 3 4 5 6 7 8 9 10 {ticks} 0 13 14 15 16 17 18 {started} 20 3 22\n")
            .into_bytes()
    }

    #[test]
    fn names_may_hold_parentheses_and_blanks() {
        let text = stat("a) S (b", 11, 19);
        let parsed = Stat::parse(&text).unwrap();
        assert_eq!((parsed.name, parsed.state), (&b"a) S (b"[..], b'S'));
        assert_eq!((parsed.ticks, parsed.started, parsed.pages), (11, 19, 3));
    }

    #[test]
    fn garbage_is_no_process() {
        let whole = stat("x", 1, 2);
        for text in [&b""[..], b")(", b"7 (x", b"7 (x)", b"7 (x) S 1 2", &whole[..50]] {
            assert_eq!(Stat::parse(text), None);
        }
    }

    #[test]
    fn the_busiest_come_first_and_once_a_period() {
        let (mut processes, mut fake) = (Processes::default(), Fake::default());
        let settings = Settings { processes: 2, ..Settings::default() };
        let mut at = |fake: &mut Fake, s| processes.measure(fake, &settings, s * S);
        fake.processes = vec![
            (9, stat("idle", 5, 1)),
            (8, stat("half", 100, 1)),
            (7, stat("full", 1000, 1)),
            (6, stat("new", 1000, 1)),
        ];
        assert_eq!(at(&mut fake, 10), None);
        fake.processes[1].1 = stat("half", 150, 1);
        fake.processes[2].1 = stat("full", 1100, 1);
        fake.processes[3].1 = stat("new", 9999, 2);
        assert_eq!(
            at(&mut fake, 11).unwrap(),
            r#"[{"pid":7,"name":"full","cpu":1.0,"memory":12288,"state":"S"},{"pid":8,"name":"half","cpu":0.5,"memory":12288,"state":"S"}]"#
        );
        assert_eq!(at(&mut fake, 15), None);
        assert!(at(&mut fake, 16).is_some());
    }

    #[test]
    fn off_means_nothing_is_read() {
        let off = Settings { processes_every_s: 0, ..Settings::default() };
        let (mut processes, mut fake) = (Processes::default(), Fake::default());
        assert_eq!(processes.measure(&mut fake, &off, S), None);
        assert_eq!(fake.reads, 0);
    }

    #[test]
    fn too_many_processes_are_cut_with_a_note() {
        let (mut processes, mut fake) = (Processes::default(), Fake::default());
        fake.processes = (1..=4097).map(|pid| (pid, stat("x", 1, 1))).collect();
        processes.measure(&mut fake, &Settings::default(), S);
        let json = processes.measure(&mut fake, &Settings::default(), 2 * S).unwrap();
        assert!(json.ends_with(r#"{"note":"of 4097 processes only the first 4096 were read"}]"#));
        assert_eq!(fake.reads, 1 + 2 * PROCESSES_MAX);
    }

    #[test]
    fn the_page_size_is_the_machines() {
        let mut fake = Fake::default();
        assert_eq!(page_bytes(&mut fake), 4096);
        let auxv = [3, 99, 6, 65536, 0, 0].map(u64::to_le_bytes).concat();
        fake.files = vec![(File::Auxv, auxv)];
        assert_eq!(page_bytes(&mut fake), 65536);
        fake.files[0].1.truncate(20);
        assert_eq!(page_bytes(&mut fake), 4096);
    }
}
