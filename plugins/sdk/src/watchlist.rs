//! What a detector knows of each series.

use crate::Observation;

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
        let mut entries = self.entries.iter_mut().peekable();
        let values = observation.ids.iter().zip(&observation.values);
        values.filter_map(move |(&id, &value)| {
            while entries.next_if(|(of, _)| *of < id).is_some() {}
            let (_, known) = entries.next_if(|(of, _)| *of == id)?;
            Some(Shown { id, value, known })
        })
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
    fn a_series_that_was_never_declared_is_passed_over() {
        let mut list = Watchlist::default();
        assert_eq!(sums(&mut list, &Observation::of(1, &[2], &[(1, 5.0), (2, 1.0)])), [(2, 1.0)]);
    }
}
