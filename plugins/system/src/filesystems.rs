//! How full the file systems are: which there are from `/proc/self/mounts`,
//! their usage from the hub.

use telltale_plugin::Metrics;
use telltale_plugin::disk::FileSystem;

use crate::machine::Machine;
use crate::series::{Family, Kind, Row, Spec, spec};
use crate::text::{fields, lines};

const MOUNTS_MAX: usize = 256;

/// File systems that are real though their device is no path.
const REAL: [&[u8]; 6] = [b"zfs", b"nfs", b"nfs4", b"cifs", b"9p", b"virtiofs"];

/// File systems that are always full, being made that way.
const LEFT_OUT: [&[u8]; 3] = [b"squashfs", b"iso9660", b"erofs"];

const USAGE: &str = "Bytes of the file system in this state; the states together are all";
const INODES: &str = "Inodes of the file system in this state";

const SPECS: &[Spec] = &[
    spec(Kind::Updown, "system.filesystem.usage", "By", &[("state", "used")], USAGE),
    spec(Kind::Updown, "system.filesystem.usage", "By", &[("state", "free")], USAGE),
    spec(Kind::Updown, "system.filesystem.usage", "By", &[("state", "reserved")], USAGE),
    spec(
        Kind::Gauge,
        "system.filesystem.utilization",
        "1",
        &[],
        "Share in use of what programs without privileges may use",
    ),
    spec(Kind::Updown, "system.filesystem.inodes.usage", "{inode}", &[("state", "used")], INODES),
    spec(Kind::Updown, "system.filesystem.inodes.usage", "{inode}", &[("state", "free")], INODES),
];

/// `system.filesystem.*` for each file system that holds files on a device.
#[derive(Debug)]
pub struct Filesystems {
    family: Family,
    /// The text from which `mounts` was made: it seldom changes.
    text: Vec<u8>,
    mounts: Vec<Mount>,
}

#[derive(Debug, PartialEq)]
struct Mount {
    device: Vec<u8>,
    mountpoint: String,
}

impl Default for Filesystems {
    fn default() -> Self {
        Self {
            family: Family::new(SPECS, &["device", "mountpoint"], MOUNTS_MAX),
            text: Vec::new(),
            mounts: Vec::new(),
        }
    }
}

impl Filesystems {
    /// Takes the text of `/proc/self/mounts` and asks for each one's usage.
    pub fn measure(&mut self, text: Vec<u8>, machine: &mut impl Machine, metrics: &mut Metrics) {
        if text != self.text {
            self.mounts = mounts(&text);
            self.text = text;
        }
        for mount in &self.mounts {
            let Some(usage) = machine.usage(&mount.mountpoint) else {
                continue;
            };
            let name = [&mount.device[..], mount.mountpoint.as_bytes()];
            if let Some(row) = self.family.device(metrics, name) {
                put(row, usage);
            }
        }
        self.family.finish(metrics);
    }
}

fn put(mut row: Row, usage: FileSystem) {
    let used = usage.size.saturating_sub(usage.free) as f64;
    let available = usage.available as f64;
    row.put(0, used);
    row.put(1, available);
    row.put(2, usage.free.saturating_sub(usage.available) as f64);
    row.put(3, used / (used + available));
    if usage.inodes > 0 {
        row.put(4, usage.inodes.saturating_sub(usage.inodes_free) as f64);
        row.put(5, usage.inodes_free as f64);
    }
}

/// The mounts that count: one for each device, at its shortest path, and of
/// those at one path the last, which hides the others.
fn mounts(text: &[u8]) -> Vec<Mount> {
    let mut mounts: Vec<Mount> = Vec::new();
    for mount in lines(text).filter_map(parse) {
        let same_path = |other: &Mount| other.mountpoint == mount.mountpoint;
        let same_device = |other: &Mount| other.device == mount.device;
        if let Some(hidden) = mounts.iter_mut().find(|other| same_path(other)) {
            *hidden = mount;
        } else if let Some(other) = mounts.iter_mut().find(|other| same_device(other)) {
            if mount.mountpoint.len() < other.mountpoint.len() {
                *other = mount;
            }
        } else if mounts.len() < MOUNTS_MAX {
            mounts.push(mount);
        }
    }
    mounts
}

/// `device mountpoint type options 0 0`; none if it isn't a real file system.
fn parse(line: &[u8]) -> Option<Mount> {
    let mut parts = fields(line);
    let (device, mountpoint, kind) = (parts.next()?, parts.next()?, parts.next()?);
    // A container's root has no device that it could see.
    let is_root = mountpoint == b"/" && kind != b"rootfs";
    let is_real = device.starts_with(b"/") || REAL.contains(&kind) || is_root;
    if !is_real || LEFT_OUT.contains(&kind) {
        return None;
    }
    Some(Mount {
        device: unescape(device),
        mountpoint: String::from_utf8(unescape(mountpoint)).ok()?,
    })
}

/// Blanks, newlines and backslashes are written as `\040`, in octal.
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let [first, tail @ ..] = rest {
        if let [b'\\', a @ b'0'..=b'3', b @ b'0'..=b'7', c @ b'0'..=b'7', tail @ ..] = rest {
            bytes.push((a - b'0') << 6 | (b - b'0') << 3 | (c - b'0'));
            rest = tail;
        } else {
            bytes.push(*first);
            rest = tail;
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::collector::tests::Fake;
    use crate::series::tests::{render, tick};

    #[track_caller]
    fn check(text: &[u8], expected: &[(&str, &str)]) {
        let found = mounts(text);
        let found = found.iter().map(|m| (str::from_utf8(&m.device).unwrap(), &*m.mountpoint));
        assert_eq!(found.collect::<Vec<_>>(), expected);
    }

    #[test]
    fn only_real_file_systems_count() {
        check(
            b"proc /proc proc rw 0 0\ntmpfs /run tmpfs rw 0 0\nrootfs / rootfs rw 0 0\n\
              /dev/vda / ext4 rw 0 0\n/dev/loop1 /snap/x squashfs ro 0 0\n\
              tank/home /home zfs rw 0 0\nhost:/srv /srv nfs4 rw 0 0\n\
              overlay /var/lib/docker/overlay2/x overlay rw 0 0\n",
            &[("/dev/vda", "/"), ("tank/home", "/home"), ("host:/srv", "/srv")],
        );
    }

    #[test]
    fn one_mount_of_a_device_and_the_last_at_a_path() {
        check(
            b"overlay / overlay rw 0 0\n/dev/sda1 /etc/hosts ext4 rw 0 0\n\
              /dev/sda1 /data ext4 rw 0 0\n/dev/sdb /mnt ext4 rw 0 0\n/dev/sdc /mnt xfs rw 0 0\n",
            &[("overlay", "/"), ("/dev/sda1", "/data"), ("/dev/sdc", "/mnt")],
        );
    }

    #[test]
    fn escapes_are_undone() {
        check(
            b"/dev/sda /my\\040disk\\134x\\ ext4 rw\n/dev/sdb /a\\04 ext4\n",
            &[("/dev/sda", "/my disk\\x\\"), ("/dev/sdb", "/a\\04")],
        );
    }

    #[test]
    fn garbage_is_no_mount() {
        for text in [&b""[..], b"/dev/sda", b"/dev/sda /", b"/dev/sda /\xff ext4", b"\\ \\ \\"] {
            check(text, &[]);
        }
    }

    #[test]
    fn a_file_system_has_bytes_and_inodes_while_the_hub_tells_them() {
        let text = b"/dev/vda / ext4 rw 0 0\n/dev/vdb /secret ext4 rw 0 0\n".to_vec();
        let (mut filesystems, mut fake) = (Filesystems::default(), Fake::default());
        let mut metrics = Metrics::default();
        let batch =
            tick(&mut metrics, |metrics| filesystems.measure(text.clone(), &mut fake, metrics));
        assert_eq!(
            render(&batch),
            [
                "system.filesystem.usage{device=/dev/vda,mountpoint=/,state=used} 60",
                "system.filesystem.usage{device=/dev/vda,mountpoint=/,state=free} 20",
                "system.filesystem.usage{device=/dev/vda,mountpoint=/,state=reserved} 20",
                "system.filesystem.utilization{device=/dev/vda,mountpoint=/} 0.75",
                "system.filesystem.inodes.usage{device=/dev/vda,mountpoint=/,state=used} 3",
                "system.filesystem.inodes.usage{device=/dev/vda,mountpoint=/,state=free} 7",
            ]
        );
        fake.denies_all = true;
        let batch = tick(&mut metrics, |metrics| filesystems.measure(text, &mut fake, metrics));
        assert_eq!(batch.gone, [0, 1, 2, 3, 4, 5]);
    }
}
