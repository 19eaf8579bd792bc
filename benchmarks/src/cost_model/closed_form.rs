//! The path of each kind of fault (docs/coherence.md), and its time when nothing else is under way and no page is within its hold time.

use std::fmt;

use super::inputs::Inputs;

/// A kind of fault, of a page with its home at another rank if nothing else is said.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Fault {
    /// To read what is clean at its home, by a chain of one-sided operations.
    CleanReadOneSided,
    /// The same by a message.
    ReadByMessage,
    /// To write what this rank has to read, and so many others besides the home.
    Upgrade {
        /// How many others.
        sharers: u64,
    },
    /// To write what this rank does not have, and so many others have to read besides the home.
    Write {
        /// How many others.
        sharers: u64,
    },
    /// To write at the home what so many others have to read.
    HomeWrite {
        /// How many others.
        sharers: u64,
    },
    /// To read what a third rank owns.
    Recall,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::CleanReadOneSided => write!(f, "clean read, one-sided"),
            Self::ReadByMessage => write!(f, "clean read, by message"),
            Self::Upgrade { sharers } => write!(f, "upgrade, other sharers: {sharers}"),
            Self::Write { sharers } => write!(f, "write, sharers: {sharers}"),
            Self::HomeWrite { sharers } => write!(f, "write at the home, sharers: {sharers}"),
            Self::Recall => write!(f, "read of what a third rank owns"),
        }
    }
}

/// What a fault goes through.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Path {
    /// Inputs of service threads, one after the other.
    pub services: u64,
    /// Ways between ranks, one after the other.
    pub ways: u64,
    /// Of them, those with the page.
    pub pages: u64,
    /// Sharers that are asked at once.
    pub sharers: u64,
    /// Inputs of the service thread at the home, apart from those of the rank that faults.
    pub at_home: u64,
    /// Inputs of service threads at sharers and the owner.
    pub elsewhere: u64,
    /// Work requests that the home's NIC takes part in.
    pub home_requests: u64,
    /// Pages that the rank that faults reads in a window.
    pub looked_at: u64,
    /// Pages that the home has to show for it, when nobody else reads them there.
    pub shown: u64,
}

impl Fault {
    /// What it goes through.
    #[must_use]
    pub fn path(self) -> Path {
        // The rank that faults: its fault and the answer. The home: the request.
        let by_message = Path {
            services: 3,
            ways: 2,
            pages: 1,
            sharers: 0,
            at_home: 1,
            elsewhere: 0,
            home_requests: 2,
            looked_at: 0,
            shown: 0,
        };
        match self {
            // Write the mark, read the word, the hash and the page: one after the other on one connection, answered together.
            Self::CleanReadOneSided => Path { services: 2, at_home: 0, looked_at: 1, shown: 1, ..by_message },
            Self::ReadByMessage => by_message,
            Self::Upgrade { sharers } => Path { pages: 0, ..by_message }.after_invalidations(sharers),
            Self::Write { sharers } => by_message.after_invalidations(sharers),
            Self::HomeWrite { sharers } => {
                Path { services: 1, ways: 0, pages: 0, at_home: 0, home_requests: 0, ..by_message }
                    .after_invalidations(sharers)
            }
            // The owner gets a recall and writes back, which the home passes on.
            Self::Recall => {
                Path { services: 5, ways: 4, pages: 2, at_home: 2, elsewhere: 1, home_requests: 4, ..by_message }
            }
        }
    }

    /// Its time in nanoseconds, in a machine of so many ranks.
    #[must_use]
    pub fn latency(self, inputs: &Inputs, ranks: u64) -> u64 {
        let (path, costs) = (self.path(), inputs.costs(ranks));
        // Sharers whose threads have no processor of their own come one after the other.
        let turns = path.sharers.div_ceil(inputs.at_once).saturating_sub(1);
        let waiting = turns * (2 * costs.message + costs.service);
        let looking = path.looked_at * inputs.hash_and_copy;
        let network = path.ways * costs.message + path.pages * costs.page;
        costs.fault + path.services * costs.service + network + waiting + looking
    }
}

impl Path {
    /// The same if the home first has to ask sharers to give up their copies: all at once, and it takes their answers one by one.
    fn after_invalidations(self, sharers: u64) -> Self {
        if sharers == 0 {
            return self;
        }
        Self {
            services: self.services + 1 + sharers,
            ways: self.ways + 2,
            sharers,
            at_home: self.at_home + sharers,
            elsewhere: self.elsewhere + sharers,
            home_requests: self.home_requests + 2 * sharers,
            ..self
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::inputs::{LOOPBACK, NDR};
    use super::*;

    #[test]
    fn without_sharers_nobody_is_asked() {
        let write = Fault::Write { sharers: 0 };
        assert_eq!(write.path(), Fault::ReadByMessage.path());
        let page = write.latency(&NDR, 8) - Fault::Upgrade { sharers: 0 }.latency(&NDR, 8);
        assert_eq!(page, NDR.page, "an upgrade moves no data");
        assert_eq!(Fault::HomeWrite { sharers: 0 }.latency(&NDR, 8), NDR.fault + NDR.service);
    }

    #[test]
    fn the_first_sharer_costs_a_round_trip_and_each_further_one_an_answer() {
        let at = |sharers| Fault::Write { sharers }.latency(&NDR, 64);
        assert_eq!(at(1) - at(0), 2 * NDR.costs(64).message + 2 * NDR.service);
        assert_eq!(at(62) - at(1), 61 * NDR.service);
        // On one processor each further one costs a round trip more.
        let at = |sharers| Fault::HomeWrite { sharers }.latency(&LOOPBACK, 8);
        assert_eq!(at(7) - at(1), 6 * (2 * LOOPBACK.message + 2 * LOOPBACK.service));
    }

    #[test]
    fn a_one_sided_read_saves_a_service_and_takes_a_hash_and_a_copy() {
        let [one_sided, by_message] = [Fault::CleanReadOneSided, Fault::ReadByMessage];
        let saved = by_message.latency(&NDR, 8) - one_sided.latency(&NDR, 8);
        assert_eq!(saved, NDR.service - NDR.hash_and_copy);
        assert_eq!((one_sided.path().at_home, by_message.path().at_home), (0, 1));
    }

    #[test]
    fn only_switches_make_a_machine_of_more_ranks_slower() {
        let kinds = [Fault::CleanReadOneSided, Fault::Recall, Fault::Upgrade { sharers: 3 }];
        for kind in kinds {
            assert_eq!(kind.latency(&NDR, 8), kind.latency(&NDR, 64));
            assert_eq!(kind.latency(&NDR, 1024) - kind.latency(&NDR, 64), kind.path().ways * 2 * NDR.switch);
        }
    }
}
