//! What the system knows of processes and of its own memory, from `/proc`.
//! Where there is none, nothing is known.

use std::collections::BTreeMap;
use std::fs;
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// Linux shows processor time to programs in hundredths of a second.
const NANOS_PER_CLOCK_TICK: u64 = 10_000_000;

/// A process whose costs are looked at.
#[derive(Clone, Copy, Debug)]
pub(super) struct Process(pub(super) u32);

/// The processor time that a process has used so far.
#[derive(Clone, Debug)]
pub(super) struct ProcessorTime {
    /// Of threads that live, by thread, to the nanosecond.
    threads_ns: BTreeMap<String, u64>,
    /// Of all threads there ever were, to the hundredth of a second.
    all_ns: u64,
}

impl Process {
    /// What it has used so far; nothing if it runs no more.
    pub(super) fn processor_time(self) -> Option<ProcessorTime> {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.0)).ok()?;
        let mut threads_ns = BTreeMap::new();
        for thread in fs::read_dir(format!("/proc/{}/task", self.0)).ok()?.flatten() {
            // One that has ended since is in the sum of all.
            if let Ok(text) = fs::read_to_string(thread.path().join("schedstat"))
                && let Some(ns) = text.split(' ').next().and_then(|ns| ns.parse().ok())
            {
                threads_ns.insert(thread.file_name().to_string_lossy().into_owned(), ns);
            }
        }
        Some(ProcessorTime { threads_ns, all_ns: all_ns(&stat)? })
    }

    /// Its memory in user space that no file stands behind, in bytes.
    pub(super) fn rss_anon_bytes(self) -> Option<u64> {
        field_bytes(&format!("/proc/{}/status", self.0), "RssAnon:")
    }
}

impl ProcessorTime {
    /// What was used from an earlier reading to this one. By the threads'
    /// clocks, unless one of them has ended and taken its figure with it.
    pub(super) fn since(&self, earlier: &Self) -> Duration {
        let same = earlier.threads_ns.keys().all(|thread| self.threads_ns.contains_key(thread));
        let sum = |time: &Self| time.threads_ns.values().sum::<u64>();
        let ns = if same && !self.threads_ns.is_empty() {
            sum(self).saturating_sub(sum(earlier))
        } else {
            self.all_ns.saturating_sub(earlier.all_ns)
        };
        Duration::from_nanos(ns)
    }
}

/// User and system time of a process, of its `stat`: the fields 14 and 15. The
/// second is the program's name, in which there may be anything.
fn all_ns(stat: &str) -> Option<u64> {
    let (_, rest) = stat.rsplit_once(") ")?;
    let mut fields = rest.split(' ').skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    Some((user + system) * NANOS_PER_CLOCK_TICK)
}

/// The processor time that this process has used so far.
pub(super) fn own_processor_time() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(u64::try_from(time.tv_sec).unwrap_or(0), u32::try_from(time.tv_nsec).unwrap_or(0))
}

/// Memory of the kernel's, of the whole machine.
#[derive(Clone, Copy, Debug)]
pub(super) struct KernelMemory {
    /// What is in the buffers of TCP sockets.
    pub(super) tcp_bytes: u64,
    /// All that the kernel has for its own objects, sockets among them.
    pub(super) slab_bytes: u64,
}

impl KernelMemory {
    /// As it is now.
    pub(super) fn now() -> Option<Self> {
        let sockets = fs::read_to_string("/proc/net/sockstat").ok()?;
        let page_bytes = field_bytes("/proc/self/smaps", "KernelPageSize:")?;
        Some(Self {
            tcp_bytes: tcp_pages(&sockets)? * page_bytes,
            slab_bytes: field_bytes("/proc/meminfo", "Slab:")?,
        })
    }
}

/// `TCP: inuse 1 orphan 0 tw 1 alloc 1 mem 223`
fn tcp_pages(sockets: &str) -> Option<u64> {
    let line = sockets.lines().find_map(|line| line.strip_prefix("TCP: "))?;
    line.split(' ').skip_while(|word| *word != "mem").nth(1)?.parse().ok()
}

/// A figure that a file tells in kB, such as `Slab:   616392 kB`.
fn field_bytes(path: &str, name: &str) -> Option<u64> {
    let text = fs::read_to_string(path).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    let kib: u64 = line.trim().strip_suffix(" kB")?.parse().ok()?;
    Some(kib * 1024)
}

/// How many connections this machine has to one address: one for each port
/// that the system gives out.
pub(super) fn local_ports() -> Option<u64> {
    let range = fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").ok()?;
    let mut bounds = range.split_whitespace().map(str::parse::<u64>);
    let (first, last) = (bounds.next()?.ok()?, bounds.next()?.ok()?);
    last.checked_sub(first).map(|between| between + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_may_have_any_name() {
        let stat = "18219 (a) b (c)) R 1 2 3 0 -1 4194304 99 0 0 0 250 50 0 0 20 0 1 0 140938";
        assert_eq!(all_ns(stat), Some(3_000_000_000));
        assert_eq!(all_ns("18219 (cat) R 1"), None);
    }

    #[test]
    fn sockets_tell_their_pages() {
        let sockets = "sockets: used 15\nTCP: inuse 1 orphan 0 tw 1 alloc 1 mem 223\nUDP: mem 7\n";
        assert_eq!(tcp_pages(sockets), Some(223));
    }

    #[test]
    fn a_thread_that_has_ended_does_not_take_its_time_along() {
        let time = |threads: &[(&str, u64)], all_ns| ProcessorTime {
            threads_ns: threads.iter().map(|(id, ns)| ((*id).to_owned(), *ns)).collect(),
            all_ns,
        };
        let before = time(&[("1", 100), ("2", 5000)], 10_000_000);
        let both = time(&[("1", 200), ("2", 5000), ("3", 7)], 20_000_000);
        assert_eq!(both.since(&before).as_nanos(), 107);
        let one = time(&[("1", 200)], 20_000_000);
        assert_eq!(one.since(&before).as_nanos(), 10_000_000);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn this_process_is_known() {
        let process = Process(std::process::id());
        assert!(process.rss_anon_bytes().unwrap() > 0);
        let before = process.processor_time().unwrap();
        assert!(process.processor_time().unwrap().all_ns >= before.all_ns);
        assert!(KernelMemory::now().unwrap().slab_bytes > 0);
        assert!(local_ports().unwrap() > 0);
    }
}
