//! Families of series that come and go together: those of a core, a disk, an
//! interface.

use telltale_plugin::{Label, Metrics, Series, SeriesId};

pub use telltale_plugin::Kind;

use crate::text::label;

/// All that is known of a series before its device is.
#[derive(Debug, Clone, Copy)]
pub struct Spec {
    /// OpenTelemetry's name, where it has one.
    pub name: &'static str,
    /// What its numbers mean.
    pub kind: Kind,
    /// The unit in UCUM.
    pub unit: &'static str,
    /// The labels that are the same on each device.
    pub labels: &'static [(&'static str, &'static str)],
    /// A sentence for the person who reads a dashboard.
    pub description: &'static str,
}

/// A [`Spec`], short enough for a table of them.
pub const fn spec(
    kind: Kind,
    name: &'static str,
    unit: &'static str,
    labels: &'static [(&'static str, &'static str)],
    description: &'static str,
) -> Spec {
    Spec { name, kind, unit, labels, description }
}

/// The series of all devices of one sort: each device has those in `specs`.
///
/// Between two batches a device is known by its raw name (of up to two parts),
/// which is compared and never copied again.
#[derive(Debug)]
pub struct Family {
    specs: &'static [Spec],
    keys: &'static [&'static str],
    devices_max: usize,
    devices: Vec<Device>,
    /// Where the next device is looked for first: they come in steady order.
    expected: usize,
}

#[derive(Debug)]
struct Device {
    name: [Vec<u8>; 2],
    labels: Vec<(&'static str, String)>,
    /// One for each spec that has had a value.
    ids: Box<[Option<SeriesId>]>,
    seen: bool,
}

impl Family {
    /// A family whose devices are told apart by the labels `keys`, none to two.
    pub fn new(specs: &'static [Spec], keys: &'static [&'static str], devices_max: usize) -> Self {
        assert!(keys.len() <= 2);
        Self { specs, keys, devices_max, devices: Vec::new(), expected: 0 }
    }

    /// The device of that name, to put its values into the metrics. None if it
    /// was there at this tick already, or if there are too many.
    pub fn device<'a>(&'a mut self, metrics: &'a mut Metrics, name: [&[u8]; 2]) -> Option<Row<'a>> {
        let index = match self.find(name) {
            Some(index) => index,
            None => self.add(name)?,
        };
        self.expected = index + 1;
        let device = &mut self.devices[index];
        if device.seen {
            return None;
        }
        device.seen = true;
        Some(Row { specs: self.specs, device, metrics })
    }

    /// Ends the series of all devices that this tick did not see.
    pub fn finish(&mut self, metrics: &mut Metrics) {
        self.expected = 0;
        self.devices.retain_mut(|device| {
            if !device.seen {
                device.ids.iter().flatten().for_each(|id| metrics.end(*id));
            }
            std::mem::take(&mut device.seen)
        });
    }

    fn find(&self, name: [&[u8]; 2]) -> Option<usize> {
        let is_it = |device: &Device| device.name[0] == name[0] && device.name[1] == name[1];
        match self.devices.get(self.expected) {
            Some(device) if is_it(device) => Some(self.expected),
            _ => self.devices.iter().position(is_it),
        }
    }

    fn add(&mut self, name: [&[u8]; 2]) -> Option<usize> {
        let labels: Vec<_> = self.keys.iter().copied().zip(name.map(label)).collect();
        // Two names may be the same once they are labels: the first has it.
        if self.devices.len() >= self.devices_max
            || self.devices.iter().any(|device| device.labels == labels)
        {
            return None;
        }
        let ids = vec![None; self.specs.len()].into();
        self.devices.push(Device { name: name.map(<[u8]>::to_vec), labels, ids, seen: false });
        Some(self.devices.len() - 1)
    }
}

/// A device at a tick.
#[derive(Debug)]
pub struct Row<'a> {
    specs: &'static [Spec],
    device: &'a mut Device,
    metrics: &'a mut Metrics,
}

impl Row<'_> {
    /// The value of the device's series number `spec`. One that isn't finite
    /// only makes the series known.
    pub fn put(&mut self, spec: usize, value: f64) {
        let id = self.device.ids[spec].unwrap_or_else(|| self.declare(spec));
        self.metrics.set(id, value);
    }

    fn declare(&mut self, spec: usize) -> SeriesId {
        let Spec { name, kind, unit, labels, description } = self.specs[spec];
        let fixed = labels.iter().map(|(key, value)| (*key, (*value).to_owned()));
        let labels = self.device.labels.iter().cloned().chain(fixed);
        let id = self.metrics.declare(Series {
            name: name.to_owned(),
            kind,
            unit: unit.to_owned(),
            description: description.to_owned(),
            labels: labels.map(|(key, value)| Label { key: key.to_owned(), value }).collect(),
        });
        self.device.ids[spec] = Some(id);
        id
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use telltale_plugin::{Batch, Declaration};

    /// What is told of a tick.
    pub(crate) fn tick(metrics: &mut Metrics, measure: impl FnOnce(&mut Metrics)) -> Batch {
        metrics.begin();
        measure(metrics);
        metrics.batch()
    }

    /// The batch's declarations and values as lines, for comparison:
    /// `name{label=value} 1.5`, with `-` for a series without a value.
    pub(crate) fn render(batch: &Batch) -> Vec<String> {
        let line = |declaration: &Declaration| {
            let Declaration { id, series } = declaration;
            let labels: Vec<_> =
                series.labels.iter().map(|l| format!("{}={}", l.key, l.value)).collect();
            let value = batch.ids.iter().position(|i| i == id);
            let value = value.map_or("-".to_owned(), |i| batch.values[i].to_string());
            format!("{}{{{}}} {value}", series.name, labels.join(","))
        };
        batch.declare.iter().map(line).collect()
    }

    const SPECS: &[Spec] =
        &[spec(Kind::Gauge, "a", "1", &[], ""), spec(Kind::Gauge, "b", "1", &[("state", "x")], "")];

    /// A tick in which each name has both values; gives what is told.
    fn batch(family: &mut Family, names: &[&str], metrics: &mut Metrics) -> Batch {
        tick(metrics, |metrics| {
            for name in names {
                if let Some(mut row) = family.device(metrics, [name.as_bytes(), b""]) {
                    row.put(0, 1.0);
                    row.put(1, f64::NAN);
                }
            }
            family.finish(metrics);
        })
    }

    fn family(devices_max: usize) -> (Family, Metrics) {
        (Family::new(SPECS, &["device"], devices_max), Metrics::default())
    }

    #[test]
    fn a_series_is_declared_once_and_keeps_its_id() {
        let (mut family, mut metrics) = family(9);
        let first = batch(&mut family, &["x", "y"], &mut metrics);
        assert_eq!(
            render(&first),
            ["a{device=x} 1", "b{device=x,state=x} -", "a{device=y} 1", "b{device=y,state=x} -"]
        );
        let second = batch(&mut family, &["y", "x"], &mut metrics);
        assert_eq!((second.declare.len(), second.gone.len()), (0, 0));
        assert_eq!(second.ids, [0, 2]);
    }

    #[test]
    fn a_device_that_was_not_seen_ends_with_all_its_series() {
        let (mut family, mut metrics) = family(9);
        batch(&mut family, &["x"], &mut metrics);
        let swap = batch(&mut family, &["y"], &mut metrics);
        assert_eq!((swap.gone, swap.ids), (vec![0, 1], vec![2]));
        let third = batch(&mut family, &["y", "x"], &mut metrics);
        assert_eq!((third.declare.len(), third.ids.len()), (2, 2));
    }

    #[test]
    fn names_that_come_twice_look_alike_or_are_too_many_are_left_out() {
        let (mut family, mut metrics) = family(2);
        let names = ["x\u{1}", "x\u{1}", "x\u{2}", "y", "z"];
        for _ in 0..3 {
            assert_eq!(batch(&mut family, &names, &mut metrics).ids.len(), 2);
        }
    }
}
