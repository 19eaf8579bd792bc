//! Locks that a rank lends its threads: what a driver keeps of them.

use std::collections::BTreeMap;

use crate::hlrc::LockId;

/// A lock that was lent.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
enum Lent {
    /// No thread has it.
    Free,
    /// A thread has it.
    Taken,
    /// A thread has it, and the node has asked for it.
    Wanted,
}

/// Those of a rank. One that lends nothing has every lock back at once.
#[derive(Clone, Debug, Default, Eq, Hash, PartialEq)]
pub struct Lending {
    lends: bool,
    locks: BTreeMap<LockId, Lent>,
}

impl Lending {
    /// Of a rank that lends locks, or does not.
    #[must_use]
    pub fn new(lends: bool) -> Self {
        Self { lends, locks: BTreeMap::new() }
    }

    /// The node lends a lock.
    pub fn lend(&mut self, lock: LockId) {
        if self.lends {
            self.locks.insert(lock, Lent::Free);
        }
    }

    /// The node asks for one; whether it is back.
    pub fn recall(&mut self, lock: LockId) -> bool {
        match self.locks.get_mut(&lock) {
            Some(lent @ (Lent::Taken | Lent::Wanted)) => {
                *lent = Lent::Wanted;
                false
            }
            Some(Lent::Free) | None => {
                self.locks.remove(&lock);
                true
            }
        }
    }

    /// A thread takes one without asking the node; false if it has to ask.
    pub fn take(&mut self, lock: LockId) -> bool {
        match self.locks.get_mut(&lock) {
            Some(lent @ Lent::Free) => {
                *lent = Lent::Taken;
                true
            }
            Some(Lent::Taken | Lent::Wanted) | None => false,
        }
    }

    /// A thread gives one back that it has taken so: whether the node is to be told. Nothing for one that it has from the node.
    pub fn give_back(&mut self, lock: LockId) -> Option<bool> {
        match self.locks.get_mut(&lock) {
            Some(lent @ Lent::Taken) => {
                *lent = Lent::Free;
                Some(false)
            }
            Some(Lent::Wanted) => {
                self.locks.remove(&lock);
                Some(true)
            }
            Some(Lent::Free) | None => None,
        }
    }
}
