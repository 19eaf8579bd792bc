//! Ranking keys by way of buckets.

use std::ops::Range;

use crate::team::shared::Shared;
use crate::team::{NoMemory, Team};

/// There are two to this many buckets, or as many as values if that is less.
const LOG_BUCKETS: u32 = 10;

/// A value as a key.
///
/// # Panics
///
/// When it has more than 32 bits, more than any problem's.
#[must_use]
pub fn key(value: usize) -> u32 {
    let key = u32::try_from(value);
    assert!(key.is_ok(), "a value that is no key");
    key.unwrap_or_default()
}

/// The buckets as one member sees them.
#[derive(Debug)]
pub struct Buckets {
    /// Bits of a key below those that name its bucket.
    shift: u32,
    buckets: usize,
    values: usize,
    /// How many keys each member has of each bucket, member by member.
    counts: Shared<u32>,
    /// The keys by their buckets, in each by members.
    keys: Shared<u32>,
    /// For each value how many keys are below it.
    below: Shared<u32>,
    /// Where each bucket begins among the keys, and where the last ends, since the last ranking.
    starts: Vec<usize>,
    /// The buckets whose keys this member counts, since the last ranking.
    mine: Range<usize>,
}

impl Buckets {
    /// Buckets for as many keys in all, of values below 2 to `log_values`.
    ///
    /// # Errors
    ///
    /// No memory for the arrays.
    pub fn new(team: &dyn Team, keys: usize, log_values: u32) -> Result<Self, NoMemory> {
        let log_buckets = LOG_BUCKETS.min(log_values);
        let buckets = 1 << log_buckets;
        Ok(Self {
            shift: log_values - log_buckets,
            buckets,
            values: 1 << log_values,
            counts: team.array(team.members() * buckets)?,
            keys: team.array(keys)?,
            below: team.array(1 << log_values)?,
            starts: vec![0; buckets + 1],
            mine: 0..0,
        })
    }

    /// Ranks the keys of all members, of which this one has these. It ends with a barrier.
    pub fn rank(&mut self, team: &dyn Team, keys: &[u32]) {
        self.count(team, keys);
        team.barrier();
        let places = self.places(team);
        self.distribute(keys, &places);
        team.barrier();
        self.mine = self.balanced(team);
        self.count_values();
        team.barrier();
    }

    /// The rank of a key: how many are below it.
    #[must_use]
    pub fn rank_of(&self, key: u32) -> usize {
        self.below.read(key as usize..key as usize + 1)[0] as usize
    }

    fn bucket(&self, key: u32) -> usize {
        (key >> self.shift) as usize
    }

    fn count(&self, team: &dyn Team, keys: &[u32]) {
        let mut mine = vec![0; self.buckets];
        for key in keys {
            mine[self.bucket(*key)] += 1;
        }
        let start = team.member() * self.buckets;
        self.counts.write(start..start + self.buckets).copy_from_slice(&mine);
    }

    /// Finds where buckets begin, and where this member's piece of each bucket goes.
    fn places(&mut self, team: &dyn Team) -> Vec<Range<usize>> {
        let counts = self.counts.read_all();
        let mut places = Vec::with_capacity(self.buckets);
        let mut start = 0;
        for bucket in 0..self.buckets {
            self.starts[bucket] = start;
            for (member, counts) in counts.chunks_exact(self.buckets).enumerate() {
                let end = start + counts[bucket] as usize;
                if member == team.member() {
                    places.push(start..end);
                }
                start = end;
            }
        }
        self.starts[self.buckets] = start;
        places
    }

    fn distribute(&self, keys: &[u32], places: &[Range<usize>]) {
        let mut pieces: Vec<_> = places.iter().map(|place| self.keys.write(place.clone())).collect();
        let mut free: Vec<_> = pieces.iter_mut().map(|piece| piece.iter_mut()).collect();
        for key in keys {
            if let Some(place) = free[self.bucket(*key)].next() {
                *place = *key;
            }
        }
    }

    /// The buckets that this member is to count: adjacent ones, and of all keys about as many as any other's.
    fn balanced(&self, team: &dyn Team) -> Range<usize> {
        let keys = self.starts[self.buckets];
        let first =
            |member: usize| self.starts[..self.buckets].partition_point(|start| start * team.members() < member * keys);
        let end = if team.member() + 1 == team.members() { self.buckets } else { first(team.member() + 1) };
        // Also the empty ones before the first key.
        if team.member() == 0 { 0..end } else { first(team.member())..end }
    }

    /// The keys in this member's buckets, and the values that these have.
    fn own(&self) -> (Range<usize>, Range<usize>) {
        let keys = self.starts[self.mine.start]..self.starts[self.mine.end];
        (keys, self.mine.start << self.shift..(self.mine.end << self.shift).min(self.values))
    }

    fn count_values(&self) {
        let (places, values) = self.own();
        let (keys, mut below) = (self.keys.read(places.clone()), self.below.write(values.clone()));
        below.fill(0);
        for key in keys.iter() {
            below[*key as usize - values.start] += 1;
        }
        let mut rank = key(places.start);
        for below in below.iter_mut() {
            rank += std::mem::replace(below, rank);
        }
    }

    /// Puts each key where its rank says, and tells whether all of them are in order then.
    ///
    /// # Errors
    ///
    /// No memory for the sorted keys.
    pub fn sorted(&self, team: &dyn Team) -> Result<bool, NoMemory> {
        let sorted = team.array::<u32>(self.keys.len())?;
        let (places, values) = self.own();
        let fits = self.permute(&mut sorted.write(places.clone()), &places, &values);
        team.barrier();
        // With the last key of the members before.
        let looked_at = sorted.read(places.start.saturating_sub(1)..places.end);
        let wrong = !fits || !looked_at.is_sorted();
        Ok(team.sum_one(f64::from(u8::from(wrong))) == 0.0)
    }

    /// Whether each of this member's keys has a place of its own among those of its buckets.
    fn permute(&self, sorted: &mut [u32], places: &Range<usize>, values: &Range<usize>) -> bool {
        let mut next = self.below.read(values.clone()).to_vec();
        let mut taken = vec![false; places.len()];
        self.keys.read(places.clone()).iter().all(|key| {
            let place = &mut next[*key as usize - values.start];
            let at = (*place as usize).wrapping_sub(places.start);
            *place += 1;
            let free = at < sorted.len() && !taken[at];
            if free {
                taken[at] = true;
                sorted[at] = *key;
            }
            free
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::team::threads;
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(60))]

        #[test]
        fn ranks_are_those_of_a_sort(
            keys in prop::collection::vec(prop_oneof![0_u32..4096, 100_u32..103, Just(4095)], 0..600),
            log_values in 12_u32..14,
            members in 1_usize..5,
        ) {
            let mut sorted = keys.clone();
            sorted.sort_unstable();
            let in_order = threads::run(members, |team| {
                let mut buckets = Buckets::new(team, keys.len(), log_values).unwrap();
                // Twice, as the second time must not see anything of the first.
                for _ in 0..2 {
                    buckets.rank(team, &keys[team.share(keys.len())]);
                }
                for key in &keys {
                    assert_eq!(buckets.rank_of(*key), sorted.partition_point(|other| other < key));
                }
                buckets.sorted(team).unwrap()
            });
            prop_assert!(in_order.unwrap());
        }
    }

    #[test]
    fn wrong_ranks_are_found() {
        let keys = [5, 1, 3, 1, 2000];
        let in_order = threads::run(2, |team| {
            let mut buckets = Buckets::new(team, keys.len(), 11).unwrap();
            buckets.rank(team, &keys[team.share(keys.len())]);
            if team.member() == 0 {
                // The ranks of 3 and 5 are exchanged.
                buckets.below.write(3..4)[0] = 3;
                buckets.below.write(5..6)[0] = 2;
            }
            team.barrier();
            buckets.sorted(team).unwrap()
        });
        assert!(!in_order.unwrap());
    }
}
