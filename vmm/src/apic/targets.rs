//! Which processors an interrupt is for, once its destination has been looked up.

use serde::{Deserialize, Serialize};

use crate::topology::MAX_VCPUS;

const WORDS: usize = 4;

/// A set of processors by APIC id. Ids that no processor can have ([`MAX_VCPUS`] and above) are never in it.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct Targets([u64; WORDS]);

const _: () = assert!(MAX_VCPUS as usize <= WORDS * u64::BITS as usize);

impl Targets {
    /// Adds a processor.
    pub fn insert(&mut self, id: u32) {
        if let Some((word, bit)) = place(id) {
            self.0[word] |= bit;
        }
    }

    /// Whether a processor is in it.
    #[must_use]
    pub fn contains(&self, id: u32) -> bool {
        place(id).is_some_and(|(word, bit)| self.0[word] & bit != 0)
    }

    /// Whether nobody is in it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0 == [0; WORDS]
    }
}

impl FromIterator<u32> for Targets {
    fn from_iter<T: IntoIterator<Item = u32>>(ids: T) -> Self {
        let mut targets = Self::default();
        ids.into_iter().for_each(|id| targets.insert(id));
        targets
    }
}

/// Word and bit of an id.
fn place(id: u32) -> Option<(usize, u64)> {
    (id < MAX_VCPUS).then(|| ((id / u64::BITS) as usize, 1 << (id % u64::BITS)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_has_what_was_put_in_and_no_id_that_is_none() {
        let ids = [0, 63, 64, MAX_VCPUS - 1];
        let targets: Targets = ids.into_iter().chain([MAX_VCPUS, u32::MAX]).collect();
        let found: Vec<u32> = (0..=MAX_VCPUS).chain([u32::MAX]).filter(|id| targets.contains(*id)).collect();
        assert_eq!(found, ids);
        assert!(!targets.is_empty() && Targets::default().is_empty());
    }
}
