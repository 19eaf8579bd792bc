//! What operations use up: messages, work requests, processor time.

use std::fmt;

use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};
use vincs_transport_rdma::verbs::counts::Counts;

use crate::ratio;

/// What a process has used up.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct Used {
    /// Processor time of all its threads in nanoseconds. What its kernel does for it in interrupts may be on another process's account.
    pub processor: u64,
    /// Work requests that send messages.
    pub messages: u64,
    /// Work requests for one-sided operations.
    pub one_sided: u64,
    /// Times that the NIC was told of work.
    pub doorbells: u64,
    /// Completions taken.
    pub completions: u64,
}

impl Used {
    /// What this process has used up by now, by the processor time that the kernel charges it and what the NIC was given and told.
    #[must_use]
    pub fn now(counts: Counts) -> Self {
        let time = clock_gettime(ClockId::ProcessCPUTime);
        let nanoseconds = [(time.tv_sec, 1_000_000_000), (time.tv_nsec, 1)];
        let processor = nanoseconds.into_iter().map(|(part, unit)| u64::try_from(part).unwrap_or(0) * unit).sum();
        let Counts { messages, one_sided, doorbells, completions, .. } = counts;
        Self { processor, messages, one_sided, doorbells, completions }
    }

    /// What was used since another moment.
    #[must_use]
    pub fn since(self, before: Self) -> Self {
        Self {
            processor: self.processor.saturating_sub(before.processor),
            messages: self.messages.saturating_sub(before.messages),
            one_sided: self.one_sided.saturating_sub(before.one_sided),
            doorbells: self.doorbells.saturating_sub(before.doorbells),
            completions: self.completions.saturating_sub(before.completions),
        }
    }
}

/// What so many operations have used up at both ends.
#[derive(Clone, Debug)]
pub struct Cost {
    /// Which.
    pub what: &'static str,
    /// How many.
    pub operations: u64,
    /// At the end that started them.
    pub here: Used,
    /// At the home.
    pub home: Used,
}

/// The names of a table's columns.
pub const HEADING: &str = "| each | messages | one-sided work requests | doorbells here | completions here | doorbells at the home | completions at the home | processor time here (µs) | of the home's threads (µs) |\n|---|---|---|---|---|---|---|---|---|";

impl fmt::Display for Cost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let each = |count: u64| ratio(count, self.operations);
        let (here, home) = (self.here, self.home);
        let messages = each(here.messages + home.messages);
        write!(f, "| {} | {messages:.2} | {:.2} | ", self.what, each(here.one_sided + home.one_sided))?;
        write!(f, "{:.2} | {:.2} | ", each(here.doorbells), each(here.completions))?;
        write!(f, "{:.2} | {:.2} | ", each(home.doorbells), each(home.completions))?;
        write!(f, "{:.2} | {:.2} |", each(here.processor) / 1000.0, each(home.processor) / 1000.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn costs_are_told_by_operation() {
        let used =
            |processor, messages, one_sided| Used { processor, messages, one_sided, doorbells: 30, completions: 5 };
        let before = used(1000, 2, 3);
        assert_eq!(before.since(used(2000, 1, 1)).processor, 0);
        let cost = Cost {
            what: "get",
            operations: 10,
            here: used(21_000, 2, 13).since(before),
            home: Used { processor: 500, messages: 1, ..Used::default() },
        };
        assert_eq!(cost.to_string(), "| get | 0.10 | 1.00 | 0.00 | 0.00 | 0.00 | 0.00 | 2.00 | 0.05 |");
        assert!(ratio(1, 0).abs() < f64::EPSILON);
    }
}
