//! Which rank this process is: by its options, else by what started it.

use std::fmt;

pub(crate) use vincs_slurm::is_of_one_rank;
use vincs_slurm::{Allocation, AllocationError, Launcher};

/// Most ranks of a machine.
pub(crate) const MAX_RANKS: u32 = vincs_coherence::id::MAX_RANKS as u32;

/// What told the rank.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Source {
    /// Its environment.
    Launcher(Launcher),
    /// `--rank` and `--ranks`.
    Options,
}

impl Source {
    /// Whether MPI may know these ranks.
    pub(crate) fn may_be_mpi(self) -> bool {
        matches!(self, Self::Launcher(Launcher::OpenMpi | Launcher::Pmix | Launcher::Pmi))
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Launcher(launcher) => launcher.fmt(f),
            Self::Options => f.write_str("--rank"),
        }
    }
}

/// This process's place among the ranks.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct RankInfo {
    /// From 0.
    pub(crate) rank: u32,
    /// How many there are, at least 1 and at most [`MAX_RANKS`].
    pub(crate) ranks: u32,
    pub(crate) source: Source,
    /// All ranks are known to be on one host.
    pub(crate) one_host: bool,
}

/// Why the rank is not known.
#[derive(Debug, Eq, PartialEq, thiserror::Error)]
pub(crate) enum RankError {
    #[error(transparent)]
    Environment(#[from] AllocationError),
    #[error("{variable}={rank}: with {ranks} ranks, ranks are 0 to {}", ranks.saturating_sub(1))]
    Beyond { variable: &'static str, rank: u32, ranks: u32 },
    #[error("{variable}={ranks}: a machine has 1 to {MAX_RANKS} ranks")]
    Ranks { variable: &'static str, ranks: u32 },
    #[error("{missing} is missing: --rank R and --ranks N go together")]
    HalfOfOptions { missing: &'static str },
    #[error("no rank environment: start vincs-rank with mpirun or srun, or give --rank and --ranks; vincs runs alone")]
    None,
}

/// The rank that a launcher has told; nothing when it has told none.
///
/// # Errors
/// [`RankError::Ranks`] for more than a machine has.
pub(crate) fn of_launcher(allocation: &Allocation) -> Result<Option<RankInfo>, RankError> {
    let Some(place) = allocation.place else { return Ok(None) };
    let (rank, ranks, source) = (place.rank, place.ranks, Source::Launcher(place.launcher));
    checked(RankInfo { rank, ranks, source, one_host: place.one_host }, "", place.size_variable).map(Some)
}

/// The rank of `--rank` and `--ranks`; nothing when none is given.
///
/// # Errors
/// [`RankError`] when they are not possible.
pub(crate) fn from_options(rank: Option<u32>, ranks: Option<u32>) -> Result<Option<RankInfo>, RankError> {
    match (rank, ranks) {
        (None, None) => Ok(None),
        (Some(_), None) => Err(RankError::HalfOfOptions { missing: "--ranks" }),
        (None, Some(_)) => Err(RankError::HalfOfOptions { missing: "--rank" }),
        (Some(rank), Some(ranks)) => {
            let info = RankInfo { rank, ranks, source: Source::Options, one_host: false };
            checked(info, "--rank", "--ranks").map(Some)
        }
    }
}

fn checked(info: RankInfo, rank: &'static str, ranks: &'static str) -> Result<RankInfo, RankError> {
    if info.ranks == 0 || info.ranks > MAX_RANKS {
        return Err(RankError::Ranks { variable: ranks, ranks: info.ranks });
    }
    if info.rank >= info.ranks {
        return Err(RankError::Beyond { variable: rank, rank: info.rank, ranks: info.ranks });
    }
    Ok(info)
}

#[cfg(test)]
mod tests {
    use vincs_slurm::Place;

    use super::*;

    #[test]
    fn the_number_of_ranks_is_limited_at_both_edges() {
        let ask = |rank, ranks| from_options(Some(rank), Some(ranks)).map(|info| info.map(|info| info.ranks));
        assert_eq!((ask(0, 1), ask(0, MAX_RANKS)), (Ok(Some(1)), Ok(Some(MAX_RANKS))));
        assert_eq!(ask(0, 0), Err(RankError::Ranks { variable: "--ranks", ranks: 0 }));
        assert_eq!(ask(0, MAX_RANKS + 1), Err(RankError::Ranks { variable: "--ranks", ranks: MAX_RANKS + 1 }));
        assert_eq!(ask(2, 2), Err(RankError::Beyond { variable: "--rank", rank: 2, ranks: 2 }));
        assert_eq!(from_options(Some(1), None), Err(RankError::HalfOfOptions { missing: "--ranks" }));
        assert_eq!(from_options(None, Some(1)), Err(RankError::HalfOfOptions { missing: "--rank" }));
    }

    #[test]
    fn a_launcher_may_have_as_many_ranks_as_a_machine() {
        let told = |ranks| {
            let (launcher, size_variable) = (Launcher::Pmi, "PMI_SIZE");
            let place = Place { rank: 1, ranks, launcher, size_variable, one_host: true };
            of_launcher(&Allocation { place: Some(place), job: None })
        };
        let info = told(MAX_RANKS).unwrap().unwrap();
        assert_eq!((info.rank, info.ranks, info.one_host, info.source.may_be_mpi()), (1, MAX_RANKS, true, true));
        assert_eq!(told(MAX_RANKS + 1), Err(RankError::Ranks { variable: "PMI_SIZE", ranks: MAX_RANKS + 1 }));
        assert_eq!(of_launcher(&Allocation::default()), Ok(None));
    }
}
