//! What the disks read and write, from `/proc/diskstats`.

use telltale_plugin::Metrics;

use crate::series::{Family, Kind, Spec, spec};
use crate::text::{fields, lines, number};

const DISKS_MAX: usize = 256;

/// The kernel counts sectors of this size, whatever the disk's own is.
const SECTOR_BYTES: f64 = 512.0;

/// Kinds of disks that hold nothing of their own, or nothing for long.
const LEFT_OUT: [&[u8]; 5] = [b"loop", b"ram", b"zram", b"sr", b"fd"];

const READ: &[(&str, &str)] = &[("direction", "read")];
const WRITE: &[(&str, &str)] = &[("direction", "write")];
const IO: &str = "Bytes that went from or to the disk";
const OPERATIONS: &str = "Requests that the disk has completed";

const SPECS: &[Spec] = &[
    spec(Kind::Counter, "system.disk.io", "By", READ, IO),
    spec(Kind::Counter, "system.disk.io", "By", WRITE, IO),
    spec(Kind::Counter, "system.disk.operations", "{operation}", READ, OPERATIONS),
    spec(Kind::Counter, "system.disk.operations", "{operation}", WRITE, OPERATIONS),
    spec(
        Kind::Counter,
        "system.disk.io_time",
        "s",
        &[],
        "Time during which the disk had something to do",
    ),
];

/// `system.disk.*` for each whole disk that was ever used.
#[derive(Debug)]
pub struct Disks {
    family: Family,
}

impl Default for Disks {
    fn default() -> Self {
        Self { family: Family::new(SPECS, &["device"], DISKS_MAX) }
    }
}

impl Disks {
    /// Takes the text of `/proc/diskstats`.
    pub fn measure(&mut self, diskstats: &[u8], metrics: &mut Metrics) {
        let mut disk: &[u8] = b"";
        for line in lines(diskstats) {
            let Some((name, values)) = parse(line) else {
                continue;
            };
            // The kernel lists each disk before its partitions.
            if is_partition(name, disk) {
                continue;
            }
            disk = name;
            if values.iter().all(|value| *value == 0.0) || is_left_out(name) {
                continue;
            }
            if let Some(mut row) = self.family.device(metrics, [name, b""]) {
                for (spec, value) in values.into_iter().enumerate() {
                    row.put(spec, value);
                }
            }
        }
        self.family.finish(metrics);
    }
}

/// The name and the values in the order of [`SPECS`].
fn parse(line: &[u8]) -> Option<(&[u8], [f64; SPECS.len()])> {
    let mut parts = fields(line).skip(2);
    let name = parts.next()?;
    // Reads: completed, merged, sectors, ms; writes: the same; in flight; ms.
    let mut counts = [0; 10];
    for count in &mut counts {
        *count = number(parts.next()?)?;
    }
    let [reads, _, sectors_read, _, writes, _, sectors_written, _, _, busy_ms] =
        counts.map(|count| count as f64);
    let values = [
        sectors_read * SECTOR_BYTES,
        sectors_written * SECTOR_BYTES,
        reads,
        writes,
        busy_ms / 1000.0,
    ];
    Some((name, values))
}

/// The kernel names partitions `sda1`, but `nvme0n1p1`: with a `p` where the
/// disk's name ends in a digit.
fn is_partition(name: &[u8], disk: &[u8]) -> bool {
    let Some((last, rest)) = disk.last().zip(name.strip_prefix(disk)) else {
        return false;
    };
    let digits = match rest {
        [b'p', digits @ ..] if last.is_ascii_digit() => digits,
        _ if last.is_ascii_digit() => return false,
        digits => digits,
    };
    !digits.is_empty() && digits.iter().all(u8::is_ascii_digit)
}

fn is_left_out(name: &[u8]) -> bool {
    let digits = name.iter().rev().take_while(|byte| byte.is_ascii_digit());
    LEFT_OUT.contains(&&name[..name.len() - digits.count()])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::series::tests::{render, tick};
    use telltale_plugin::Batch;

    fn measure((disks, metrics): &mut (Disks, Metrics), diskstats: &str) -> Batch {
        tick(metrics, |metrics| disks.measure(diskstats.as_bytes(), metrics))
    }

    #[test]
    fn a_disk_has_its_five_totals() {
        let line = " 254 0 vda 21 6 40 350 3 2 80 75 0 8312 430 4 5 1 3\n";
        assert_eq!(
            render(&measure(&mut Default::default(), line)),
            [
                "system.disk.io{device=vda,direction=read} 20480",
                "system.disk.io{device=vda,direction=write} 40960",
                "system.disk.operations{device=vda,direction=read} 21",
                "system.disk.operations{device=vda,direction=write} 3",
                "system.disk.io_time{device=vda} 8.312",
            ]
        );
    }

    #[test]
    fn whole_disks_only() {
        let names = [
            "sda",
            "sda1",
            "sda12",
            "nvme0n1",
            "nvme0n1p1",
            "nvme0n10",
            "dm-1",
            "dm-10",
            "xvda1",
            "mmcblk0",
            "mmcblk0p2",
            "mmcblk0boot0",
            "loop3",
            "ram0",
            "zram0",
            "sr0",
            "srx",
        ];
        let text: String = names.map(|name| format!("8 0 {name} 1 1 1 1 1 1 1 1 1 1\n")).concat();
        let batch = measure(&mut Default::default(), &text);
        let kept = batch.declare.iter().step_by(5).map(|d| d.series.labels[0].value.as_str());
        let expected = [
            "sda",
            "nvme0n1",
            "nvme0n10",
            "dm-1",
            "dm-10",
            "xvda1",
            "mmcblk0",
            "mmcblk0boot0",
            "srx",
        ];
        assert!(kept.eq(expected));
    }

    #[test]
    fn a_disk_that_was_never_used_or_is_removed_has_no_series() {
        let mut disks = Default::default();
        assert!(measure(&mut disks, "8 0 sda 0 0 0 0 0 0 0 0 0 0\n").declare.is_empty());
        assert_eq!(measure(&mut disks, "8 0 sda 1 0 0 0 0 0 0 0 0 0\n").declare.len(), 5);
        assert_eq!(measure(&mut disks, "").gone, [0, 1, 2, 3, 4]);
    }

    #[test]
    fn garbage_has_no_values() {
        for text in ["8 0", "8 0 sda", "8 0 sda 1 2 3", "8 0 sda 1 x 3 4 5 6 7 8 9 10", "\0\0\0"] {
            assert!(measure(&mut Default::default(), text).declare.is_empty());
        }
    }
}
