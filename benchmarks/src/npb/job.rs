//! What two ranks do together. The process that measures is rank 0; the other one is started with the same job.

use std::error::Error;

use vincs_npb::apps::{self, Computed, SECTIONS, SIDE, SWEEPS};
use vincs_npb::class::Class;
use vincs_npb::kernel::Kernel;
use vincs_npb::team::ranks::{self, Costs, Place, Sharing, relaxed};

use super::primitives::{self, Primitive};

/// What goes wrong.
pub type Failure = Box<dyn Error + Send + Sync>;

/// Ranks of every job.
pub const RANKS: u16 = 2;

/// Bytes of arrays at each rank, for jobs that are no NAS kernel.
const ROOM: usize = 256 << 20;

/// Something to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Job {
    /// A NAS kernel in such memory.
    Kernel(Kernel, Class, Sharing),
    /// The stencil, in such memory.
    Jacobi(Sharing),
    /// Counters under a lock.
    Counter,
    /// Synchronisation by itself.
    Primitives,
}

/// What came of it at a rank.
#[derive(Clone, Debug)]
pub struct Done {
    /// Seconds of the timed part.
    pub seconds: f64,
    /// What the stencil has computed; of all else the results are checked here.
    pub value: Option<f64>,
    /// What it cost.
    pub costs: Costs,
    /// Of synchronisation by itself.
    pub primitives: Vec<Primitive>,
}

impl Job {
    /// As arguments.
    #[must_use]
    pub fn arguments(self) -> Vec<String> {
        let words = match self {
            Self::Kernel(kernel, class, sharing) => format!("kernel {} {class} {sharing}", kernel.name()),
            Self::Jacobi(sharing) => format!("jacobi {sharing}"),
            Self::Counter => "counter".to_owned(),
            Self::Primitives => "primitives".to_owned(),
        };
        words.split(' ').map(str::to_owned).collect()
    }

    /// That of these arguments.
    ///
    /// # Errors
    /// They are none's.
    pub fn from_arguments(arguments: &[String]) -> Result<Self, Failure> {
        let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
        Ok(match words[..] {
            ["kernel", kernel, class, sharing] => Self::Kernel(kernel.parse()?, class.parse()?, sharing.parse()?),
            ["jacobi", sharing] => Self::Jacobi(sharing.parse()?),
            ["counter"] => Self::Counter,
            ["primitives"] => Self::Primitives,
            _ => return Err(format!("no job {words:?}").into()),
        })
    }

    /// Does it as rank 0 of a new team.
    ///
    /// # Errors
    /// The team cannot be had, or the results are wrong.
    pub fn lead(self) -> Result<Done, Failure> {
        self.run(Place::lead(RANKS, &self.arguments())?)
    }

    /// Does it as a rank that another process has started.
    ///
    /// # Errors
    /// As for [`Self::lead`].
    pub fn follow(self) -> Result<Done, Failure> {
        self.run(Place::follow()?)
    }

    fn run(self, place: Place) -> Result<Done, Failure> {
        let done = |seconds, costs| Done { seconds, value: None, costs, primitives: Vec::new() };
        match self {
            Self::Kernel(kernel, class, sharing) => {
                let (outcome, costs) = ranks::run(place, sharing, kernel.room(class), |team| kernel.run(team, class))?;
                let outcome = outcome?;
                if !outcome.verified {
                    return Err(format!("{} {class} in {sharing} memory is not verified", kernel.name()).into());
                }
                Ok(done(outcome.seconds, costs))
            }
            Self::Jacobi(sharing) => {
                let (computed, costs) = ranks::run(place, sharing, ROOM, |team| apps::jacobi(team, SIDE, SWEEPS))?;
                let Computed { value, seconds } = computed?;
                Ok(Done { value: Some(value), ..done(seconds, costs) })
            }
            Self::Counter => {
                let (computed, costs) = relaxed::run(place, ROOM, |team| apps::counter(team, SECTIONS))?;
                let Computed { value, seconds } = computed?;
                let expected = (u64::from(RANKS) * SECTIONS * apps::COUNTERS as u64) as f64;
                if value != expected {
                    return Err(format!("the counters add up to {value}, not {expected}").into());
                }
                Ok(done(seconds, costs))
            }
            Self::Primitives => {
                let (primitives, costs) = relaxed::run(place, ROOM, primitives::measure)?;
                Ok(Done { primitives: primitives?, ..done(0.0, costs) })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jobs_are_those_of_their_arguments() {
        let jobs = [
            Job::Kernel(Kernel::Cg, Class::S, Sharing::Strict),
            Job::Jacobi(Sharing::Relaxed),
            Job::Counter,
            Job::Primitives,
        ];
        for job in jobs {
            assert_eq!(Job::from_arguments(&job.arguments()).unwrap(), job);
        }
        assert!(Job::from_arguments(&["kernel".to_owned()]).is_err());
    }
}
