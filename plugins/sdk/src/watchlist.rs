//! What a detector knows of each series.

use crate::saved::{self, Saved};
use crate::{Observation, Watched};

/// What a detector knows of each series that it is shown, by the hub's number.
///
/// The hub shows series in the order of their numbers, so the list is kept in
/// that order and gone through beside the values: nothing is ever searched for.
#[derive(Debug)]
pub struct Watchlist<T> {
    entries: Vec<(u32, T)>,
    /// What was saved, until the first declarations say what of it goes on.
    restored: Vec<(u32, T)>,
}

/// A value, and what is known of its series.
#[derive(Debug)]
pub struct Shown<'a, T> {
    /// The hub's number for the series.
    pub id: u32,
    /// Its value at this tick.
    pub value: f64,
    /// What is known of it.
    pub known: &'a mut T,
}

impl<T> Default for Watchlist<T> {
    fn default() -> Self {
        Self { entries: Vec::new(), restored: Vec::new() }
    }
}

impl<T> Watchlist<T> {
    /// Forgets what is gone, and takes up what is new: with what was restored
    /// of it, or else with what `fresh` makes.
    pub fn follow(&mut self, observation: &Observation, mut fresh: impl FnMut() -> T) {
        let gone = &observation.gone;
        if !gone.is_empty() {
            self.entries.retain(|(id, _)| gone.binary_search(id).is_err());
        }
        if observation.declare.is_empty() {
            return;
        }
        let known = self.entries.len();
        let mut restored = std::mem::take(&mut self.restored).into_iter().peekable();
        for watched in &observation.declare {
            let id = watched.id;
            if find(&self.entries[..known], id).is_some() {
                continue;
            }
            // Both are in rising order: what is passed over has ended.
            while restored.next_if(|(of, _)| *of < id).is_some() {}
            let saved = restored.next_if(|(of, _)| *of == id);
            self.entries.push((id, saved.map_or_else(&mut fresh, |(_, saved)| saved)));
        }
        if self.entries.len() > known {
            self.entries.sort_by_key(|(id, _)| *id);
            self.entries.dedup_by_key(|(id, _)| *id);
        }
    }

    /// Each value with what is known of its series: all of them, since the hub
    /// declares what it shows.
    pub fn shown<'a>(
        &'a mut self,
        observation: &'a Observation,
    ) -> impl Iterator<Item = Shown<'a, T>> {
        let values = observation.ids.iter().copied().zip(observation.values.iter().copied());
        beside(&mut self.entries, values).map(|(id, value, known)| Shown { id, value, known })
    }

    /// The number of each series of which a value was due and did not come,
    /// with what is known of it.
    pub fn missed<'a>(
        &'a mut self,
        observation: &'a Observation,
    ) -> impl Iterator<Item = (u32, &'a mut T)> {
        let missed = observation.missed.iter().map(|&id| (id, ()));
        beside(&mut self.entries, missed).map(|(id, (), known)| (id, known))
    }

    /// What has just been declared, with what is known of each series.
    pub fn declared<'a>(
        &'a mut self,
        observation: &'a Observation,
    ) -> impl Iterator<Item = (&'a Watched, &'a mut T)> {
        let declared = observation.declare.iter().map(|watched| (watched.id, watched));
        beside(&mut self.entries, declared).map(|(_, watched, known)| (watched, known))
    }

    /// All that is known, by rising number: what is worth saving.
    pub fn iter(&self) -> impl Iterator<Item = (u32, &T)> {
        let all = if self.restored.is_empty() { &self.entries } else { &self.restored };
        all.iter().map(|(id, known)| (*id, known))
    }

    /// Changes all that is known, as new settings may want it.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = (u32, &mut T)> {
        let all = self.entries.iter_mut().chain(&mut self.restored);
        all.map(|(id, known)| (*id, known))
    }

    /// Takes what was saved. Series that the next declarations don't name have
    /// ended since, and are forgotten then.
    pub fn restore(&mut self, saved: impl IntoIterator<Item = (u32, T)>) {
        self.restored = saved.into_iter().collect();
        self.restored.sort_by_key(|(id, _)| *id);
        self.restored.dedup_by_key(|(id, _)| *id);
    }
}

impl<T: Saved> Watchlist<T> {
    /// All that is known as bytes, for [`State::save`](crate::State::save). What
    /// is over 63 MiB is left out, and the log says so.
    pub fn save(&self) -> Vec<u8> {
        saved::save(self.iter())
    }

    /// Takes what [`save`](Self::save) gave; of damaged bytes what comes before
    /// the damage.
    pub fn load(&mut self, bytes: &[u8]) {
        self.restore(saved::load(bytes));
    }
}

/// Goes through the entries beside something else in rising order.
fn beside<T, V>(
    entries: &mut [(u32, T)],
    others: impl Iterator<Item = (u32, V)>,
) -> impl Iterator<Item = (u32, V, &mut T)> {
    let mut entries = entries.iter_mut().peekable();
    others.filter_map(move |(id, other)| {
        while entries.next_if(|(of, _)| *of < id).is_some() {}
        let (_, known) = entries.next_if(|(of, _)| *of == id)?;
        Some((id, other, known))
    })
}

fn find<T>(entries: &[(u32, T)], id: u32) -> Option<usize> {
    entries.binary_search_by_key(&id, |(of, _)| *of).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Adds up the values of each series; what is known of all of them.
    fn sums(list: &mut Watchlist<f64>, observation: &Observation) -> Vec<(u32, f64)> {
        list.follow(observation, || 0.0);
        list.shown(observation).for_each(|shown| *shown.known += shown.value);
        list.iter().map(|(id, sum)| (id, *sum)).collect()
    }

    #[test]
    fn each_series_has_its_own() {
        let mut list = Watchlist::default();
        let first = Observation::of(1, &[2, 5], &[(2, 1.0), (5, 10.0)]);
        assert_eq!(sums(&mut list, &first), [(2, 1.0), (5, 10.0)]);
        // One that comes later takes its place; one that is declared again
        // keeps what is known of it.
        let second = Observation::of(2, &[3, 5], &[(3, 7.0), (5, 10.0)]);
        assert_eq!(sums(&mut list, &second), [(2, 1.0), (3, 7.0), (5, 20.0)]);
        let gone = Observation { gone: vec![2, 3], ..Observation::of(3, &[], &[]) };
        assert_eq!(sums(&mut list, &gone), [(5, 20.0)]);
    }

    #[test]
    fn what_is_restored_goes_on_and_the_rest_is_forgotten() {
        let mut list = Watchlist::default();
        list.restore([(7, 70.0), (3, 30.0)]);
        assert_eq!(list.iter().count(), 2);
        let first = Observation::of(1, &[7, 8], &[(7, 1.0), (8, 1.0)]);
        assert_eq!(sums(&mut list, &first), [(7, 71.0), (8, 1.0)]);
        assert_eq!(
            sums(&mut list, &Observation::of(2, &[3], &[])),
            [(3, 0.0), (7, 71.0), (8, 1.0)]
        );
    }

    #[test]
    fn what_was_due_and_what_is_declared_come_with_what_is_known() {
        let mut list = Watchlist::default();
        sums(&mut list, &Observation::of(1, &[2, 5, 9], &[(2, 1.0), (5, 2.0), (9, 3.0)]));
        let next = Observation { missed: vec![5, 7, 9], ..Observation::of(2, &[9], &[(2, 1.0)]) };
        let missed: Vec<_> = list.missed(&next).map(|(id, sum)| (id, *sum)).collect();
        assert_eq!(missed, [(5, 2.0), (9, 3.0)]);
        let declared: Vec<_> = list.declared(&next).map(|(of, sum)| (of.id, *sum)).collect();
        assert_eq!(declared, [(9, 3.0)]);
    }

    #[test]
    fn a_series_that_was_never_declared_is_passed_over() {
        let mut list = Watchlist::default();
        assert_eq!(sums(&mut list, &Observation::of(1, &[2], &[(1, 5.0), (2, 1.0)])), [(2, 1.0)]);
    }
}
