//! The same faults by the protocol's own code: in the simulator, whose messages, faults and service threads take the model's times.

use vincs_coherence::home::HomeMap;
use vincs_coherence::id::{Access, Page, Rank};
use vincs_coherence::sim::guest::{Instruction, Op, Touch};
use vincs_coherence::sim::network::Delays;
use vincs_coherence::sim::rng::Rng;
use vincs_coherence::sim::run_timed;
use vincs_coherence::sim::scenario::{Program, Scenario};
use vincs_coherence::sim::timing::{Costs, FaultTime};

use super::closed_form::Fault;
use super::inputs::Inputs;
use crate::median;

/// Nanoseconds of a unit of the simulation: fine enough that what it rounds, and the one unit that a processor's step takes, do not matter.
const UNIT: u64 = 10;

/// Pages of each home on a machine under load.
const PAGES: u32 = 8;

/// Accesses of each processor there.
const ACCESSES: u32 = 40;

/// One of so many of them is a write.
const WRITES: u64 = 4;

/// What goes wrong.
pub type Failure = Box<dyn std::error::Error + Send + Sync>;

/// Who does what, one after the other; all of one step at the same time.
type Steps = Vec<Vec<(u16, Op)>>;

/// What leads to a fault, and who has it in the last step; nothing for what the simulator does not know. Rank 0 is the home.
fn steps(fault: Fault) -> Option<(Steps, u16)> {
    let write = |rank| (rank, Op::Write(7));
    let readers = |first: u16, sharers: u64| {
        let last = first + u16::try_from(sharers).unwrap_or(0);
        (first..last).map(|rank| (rank, Op::Read)).collect::<Vec<_>>()
    };
    let home = vec![write(0)];
    Some(match fault {
        Fault::CleanReadOneSided => return None,
        Fault::ReadByMessage => (vec![home, readers(1, 1)], 1),
        Fault::Upgrade { sharers } => (vec![home, readers(1, sharers + 1), vec![write(1)]], 1),
        Fault::Write { sharers } => (vec![home, readers(2, sharers), vec![write(1)]], 1),
        Fault::HomeWrite { sharers } => (vec![home, readers(1, sharers), vec![write(0)]], 0),
        Fault::Recall => (vec![home, vec![write(2)], readers(1, 1)], 1),
    })
}

fn scenario(ranks: u16, pages: u32, programs: Vec<Program>) -> Result<Scenario, Failure> {
    let homes = HomeMap::new((0..ranks).map(|home| (pages, Rank(home))))?;
    // Only for how long a fault may wait at most. Guarded reads are told by the closed form alone: the times given to the simulator have none.
    let delays = Delays { shortest: 1, longest: 100_000, slow: 100_000 };
    Ok(Scenario::calm(ranks, homes, delays, programs))
}

fn costs(inputs: &Inputs, ranks: u16) -> Costs {
    let Costs { fault, service, message, page } = inputs.costs(ranks.into());
    Costs { fault: fault / UNIT, service: service / UNIT, message: message / UNIT, page: page / UNIT }
}

fn time(fault: &FaultTime) -> u64 {
    (fault.until - fault.from) * UNIT
}

/// The time of a fault in nanoseconds when nothing else is under way; nothing if the simulator does not know the kind.
///
/// # Errors
/// The protocol broke a rule.
pub fn alone(fault: Fault, inputs: &Inputs, ranks: u16) -> Result<Option<u64>, Failure> {
    let Some((steps, who)) = steps(fault) else { return Ok(None) };
    let program = |rank: u16| {
        let mut instructions = Vec::new();
        for step in &steps {
            instructions.push(Instruction::Meet);
            let mine = step.iter().filter(|(who, _)| *who == rank);
            instructions
                .extend(mine.map(|(_, op)| Instruction::Touch(vec![Touch { page: Page(0), word: 0, op: *op }])));
        }
        Program { rank: Rank(rank), instructions, buffer: 0 }
    };
    let scenario = scenario(ranks, 1, (0..ranks).map(program).collect())?;
    let outcome = run_timed(1, &scenario, costs(inputs, ranks)).map_err(|failure| failure.to_string())?;
    // With all meetings before it, that of the last step is answered last.
    Ok(outcome.faults.last().filter(|fault| fault.rank == Rank(who)).map(time))
}

/// Faults of a kind under load.
#[derive(Clone, Copy, Debug)]
pub struct Loaded {
    /// How many.
    pub count: usize,
    /// Their median in nanoseconds.
    pub median: u64,
    /// The longest.
    pub longest: u64,
}

/// What faults take where a processor of each rank touches pages of all homes at random, one after the other without a pause: to read, and to write.
///
/// # Errors
/// The protocol broke a rule.
pub fn loaded(inputs: &Inputs, ranks: u16) -> Result<[Loaded; 2], Failure> {
    let mut rng = Rng::new(ranks.into());
    let pages = PAGES * u32::from(ranks);
    let mut touch = || {
        let op = if rng.one_in(WRITES) { Op::Add(1) } else { Op::Read };
        Instruction::Touch(vec![Touch { page: Page(rng.below_u32(pages)), word: 0, op }])
    };
    let mut program = |rank| {
        let instructions = (0..ACCESSES).map(|_| touch()).collect();
        Program { rank: Rank(rank), instructions, buffer: 0 }
    };
    let scenario = scenario(ranks, PAGES, (0..ranks).map(&mut program).collect())?;
    let outcome = run_timed(1, &scenario, costs(inputs, ranks)).map_err(|failure| failure.to_string())?;
    Ok([Access::Read, Access::Write].map(|access| {
        let times: Vec<u64> = outcome.faults.iter().filter(|fault| fault.access == access).map(time).collect();
        let longest = times.iter().copied().max().unwrap_or(0);
        Loaded { count: times.len(), median: median(times), longest }
    }))
}

#[cfg(test)]
mod tests {
    use super::super::inputs::{LOOPBACK, NDR};
    use super::*;

    /// The paths of the closed form are those that the protocol takes: they differ by less than one part in a hundred.
    #[test]
    fn a_fault_alone_takes_what_the_closed_form_says() {
        // The simulator has a processor for each rank.
        for inputs in [NDR, Inputs { at_once: u64::MAX, ..LOOPBACK }] {
            for ranks in [8, 64] {
                let most = u64::from(ranks) - 2;
                let kinds = [
                    Fault::ReadByMessage,
                    Fault::Upgrade { sharers: 0 },
                    Fault::Upgrade { sharers: most },
                    Fault::Write { sharers: 0 },
                    Fault::Write { sharers: 1 },
                    Fault::Write { sharers: most },
                    Fault::HomeWrite { sharers: most },
                    Fault::Recall,
                ];
                for kind in kinds {
                    let simulated = alone(kind, &inputs, ranks).unwrap().unwrap();
                    let predicted = kind.latency(&inputs, ranks.into());
                    let apart = simulated.abs_diff(predicted);
                    assert!(apart * 100 < predicted, "{kind} of {ranks}: {simulated} ns, predicted {predicted}");
                }
            }
        }
    }

    #[test]
    fn faults_under_load_take_longer_and_all_end() {
        let [reads, writes] = loaded(&NDR, 8).unwrap();
        assert!(reads.count > 50 && writes.count > 20, "{reads:?} {writes:?}");
        assert!(reads.longest > Fault::ReadByMessage.latency(&NDR, 8));
        assert!(writes.longest >= writes.median && reads.longest >= reads.median);
    }

    #[test]
    fn the_simulator_does_not_know_one_sided_reads() {
        assert_eq!(alone(Fault::CleanReadOneSided, &NDR, 8).unwrap(), None);
    }
}
