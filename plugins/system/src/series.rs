//! What measurements are made of: kinds of series, families of them that come
//! and go together, and the batch that they go into.

use crate::text::label;

/// What the numbers of a series mean.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Goes up and down, and is meant as it stands.
    Gauge,
    /// A total that only grows.
    Counter,
    /// A total that may fall too.
    UpDown,
}

/// All that is known of a series before its device is.
#[derive(Debug)]
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

/// A series that the hub doesn't know yet.
#[derive(Debug)]
pub struct Declaration {
    /// The number by which it will be called.
    pub id: u32,
    /// What it is.
    pub spec: &'static Spec,
    /// The labels of its device; those of `spec` come on top.
    pub labels: Vec<(&'static str, String)>,
}

/// The answer to one tick, as it grows.
#[derive(Debug, Default)]
pub struct Batch {
    /// Series that are new.
    pub declare: Vec<Declaration>,
    /// Series that have a value.
    pub ids: Vec<u32>,
    /// Their values, parallel to `ids`.
    pub values: Vec<f64>,
    /// Series that have ended.
    pub gone: Vec<u32>,
    /// Documents that have changed, by name.
    pub documents: Vec<(&'static str, String)>,
    /// The first number that no series ever had.
    pub next_id: u32,
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
    /// First ids of devices that the hub knows to be gone: free to be used.
    free: Vec<u32>,
    /// Those of which it learns from the batch that is being made.
    ended: Vec<u32>,
}

#[derive(Debug)]
struct Device {
    name: [Vec<u8>; 2],
    labels: Vec<(&'static str, String)>,
    /// The id of its first spec; the others follow.
    first_id: u32,
    /// One bit for each spec that the hub was told of.
    declared: u64,
    seen: bool,
}

impl Family {
    /// A family whose devices are told apart by the labels `keys`, none to two.
    pub fn new(specs: &'static [Spec], keys: &'static [&'static str], devices_max: usize) -> Self {
        assert!(specs.len() <= 64 && keys.len() <= 2);
        Self {
            specs,
            keys,
            devices_max,
            devices: Vec::new(),
            expected: 0,
            free: Vec::new(),
            ended: Vec::new(),
        }
    }

    /// The device of that name, to put its values into the batch. None if it
    /// was there in this batch already, or if there are too many.
    pub fn device<'a>(&'a mut self, batch: &'a mut Batch, name: [&[u8]; 2]) -> Option<Row<'a>> {
        let index = match self.find(name) {
            Some(index) => index,
            None => self.add(batch, name)?,
        };
        self.expected = index + 1;
        let device = &mut self.devices[index];
        if device.seen {
            return None;
        }
        device.seen = true;
        Some(Row { specs: self.specs, device, batch })
    }

    /// Ends the series of all devices that this batch did not see.
    pub fn finish(&mut self, batch: &mut Batch) {
        self.expected = 0;
        self.free.append(&mut self.ended);
        let ended = &mut self.ended;
        self.devices.retain_mut(|device| {
            if !device.seen {
                let bits = (0..u64::BITS).filter(|bit| device.declared >> bit & 1 == 1);
                batch.gone.extend(bits.map(|bit| device.first_id + bit));
                ended.push(device.first_id);
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

    fn add(&mut self, batch: &mut Batch, name: [&[u8]; 2]) -> Option<usize> {
        let labels: Vec<_> = self.keys.iter().copied().zip(name.map(label)).collect();
        // Two names may be the same once they are labels: the first has it.
        if self.devices.len() >= self.devices_max
            || self.devices.iter().any(|device| device.labels == labels)
        {
            return None;
        }
        let first_id = self.free.pop().unwrap_or_else(|| {
            let id = batch.next_id;
            batch.next_id += self.specs.len() as u32;
            id
        });
        self.devices.push(Device {
            name: name.map(<[u8]>::to_vec),
            labels,
            first_id,
            declared: 0,
            seen: false,
        });
        Some(self.devices.len() - 1)
    }
}

/// A device within a batch.
#[derive(Debug)]
pub struct Row<'a> {
    specs: &'static [Spec],
    device: &'a mut Device,
    batch: &'a mut Batch,
}

impl Row<'_> {
    /// The value of the device's series number `spec`. One that isn't finite
    /// only makes the series known.
    pub fn put(&mut self, spec: usize, value: f64) {
        let id = self.device.first_id + spec as u32;
        if self.device.declared >> spec & 1 == 0 {
            self.device.declared |= 1 << spec;
            self.batch.declare.push(Declaration {
                id,
                spec: &self.specs[spec],
                labels: self.device.labels.clone(),
            });
        }
        if value.is_finite() {
            self.batch.ids.push(id);
            self.batch.values.push(value);
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// The batch's declarations and values as lines, for comparison:
    /// `name{label=value} 1.5`, with `-` for a series without a value.
    pub(crate) fn render(batch: &Batch) -> Vec<String> {
        let line = |declaration: &Declaration| {
            let Declaration { id, spec, labels } = declaration;
            let mut all: Vec<_> = labels.iter().map(|(k, v)| format!("{k}={v}")).collect();
            all.extend(spec.labels.iter().map(|(k, v)| format!("{k}={v}")));
            let value = batch.ids.iter().position(|i| i == id);
            let value = value.map_or("-".to_owned(), |i| batch.values[i].to_string());
            format!("{}{{{}}} {value}", spec.name, all.join(","))
        };
        batch.declare.iter().map(line).collect()
    }

    const SPECS: &[Spec] =
        &[spec(Kind::Gauge, "a", "1", &[], ""), spec(Kind::Gauge, "b", "1", &[("state", "x")], "")];

    /// A batch in which each name has both values; gives what it holds.
    fn batch(family: &mut Family, names: &[&str], next_id: &mut u32) -> Batch {
        let mut batch = Batch { next_id: *next_id, ..Batch::default() };
        for name in names {
            if let Some(mut row) = family.device(&mut batch, [name.as_bytes(), b""]) {
                row.put(0, 1.0);
                row.put(1, f64::NAN);
            }
        }
        family.finish(&mut batch);
        *next_id = batch.next_id;
        batch
    }

    #[test]
    fn a_series_is_declared_once_and_keeps_its_id() {
        let (mut family, mut next) = (Family::new(SPECS, &["device"], 9), 0);
        let first = batch(&mut family, &["x", "y"], &mut next);
        assert_eq!(
            render(&first),
            ["a{device=x} 1", "b{device=x,state=x} -", "a{device=y} 1", "b{device=y,state=x} -"]
        );
        let second = batch(&mut family, &["y", "x"], &mut next);
        assert_eq!((second.declare.len(), second.gone.len()), (0, 0));
        assert_eq!(second.ids, [2, 0]);
    }

    #[test]
    fn an_id_is_used_again_only_after_the_batch_that_ended_it() {
        let (mut family, mut next) = (Family::new(SPECS, &["device"], 9), 0);
        batch(&mut family, &["x"], &mut next);
        let swap = batch(&mut family, &["y"], &mut next);
        assert_eq!((swap.gone, swap.ids), (vec![0, 1], vec![2]));
        batch(&mut family, &["y"], &mut next);
        let third = batch(&mut family, &["y", "x"], &mut next);
        assert_eq!((third.ids, third.declare[0].id), (vec![2, 0], 0));
        assert_eq!(next, 4);
    }

    #[test]
    fn names_that_come_twice_look_alike_or_are_too_many_are_left_out() {
        let (mut family, mut next) = (Family::new(SPECS, &["device"], 2), 0);
        let names = ["x\u{1}", "x\u{1}", "x\u{2}", "y", "z"];
        for _ in 0..3 {
            assert_eq!(batch(&mut family, &names, &mut next).ids.len(), 2);
        }
    }
}
