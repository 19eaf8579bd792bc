//! Which rank this process is: told by whatever started it, in its environment.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fmt;

/// Most ranks of a machine.
pub(crate) const MAX_RANKS: u32 = vincs_coherence::id::MAX_RANKS as u32;

/// Environment variables by name.
pub(crate) type Environment = BTreeMap<OsString, OsString>;

/// What told the rank.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Source {
    /// Open MPI's mpirun.
    OpenMpi,
    /// A PMIx server, as of `srun --mpi=pmix`.
    Pmix,
    /// PMI-1 or PMI-2, as of MPICH's mpiexec or `srun --mpi=pmi2`.
    Pmi,
    /// Slurm's srun without MPI.
    Slurm,
    /// `--rank` and `--ranks`.
    Options,
}

impl Source {
    /// Whether MPI may know these ranks.
    pub(crate) fn may_be_mpi(self) -> bool {
        matches!(self, Self::OpenMpi | Self::Pmix | Self::Pmi)
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::OpenMpi => "Open MPI",
            Self::Pmix => "PMIx",
            Self::Pmi => "PMI",
            Self::Slurm => "Slurm",
            Self::Options => "--rank",
        })
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
    #[error("{variable}={value} is no number: it should be set by what starts the ranks; unset it to run alone")]
    NoNumber { variable: &'static str, value: String },
    #[error(
        "{variable}={value} is set, but not how many ranks there are ({sizes}): start with mpirun or srun, or unset it"
    )]
    NoSize { variable: &'static str, value: String, sizes: String },
    #[error("{variable}={rank}: with {ranks} ranks, ranks are 0 to {}", ranks.saturating_sub(1))]
    Beyond { variable: &'static str, rank: u32, ranks: u32 },
    #[error("{variable}={ranks}: a machine has 1 to {MAX_RANKS} ranks")]
    Ranks { variable: &'static str, ranks: u32 },
    #[error("{missing} is missing: --rank R and --ranks N go together")]
    HalfOfOptions { missing: &'static str },
    #[error("no rank environment: start vincs-rank with mpirun or srun, or give --rank and --ranks; vincs runs alone")]
    None,
}

/// Where a launcher says the rank, and in which variables how many there are; the first that is set counts. Under mpirun inside
/// of a Slurm job, SLURM_PROCID is the launcher's own: hence the order.
const PLACES: [(Source, &str, &[&str]); 4] = [
    (Source::OpenMpi, "OMPI_COMM_WORLD_RANK", &["OMPI_COMM_WORLD_SIZE"]),
    (Source::Pmix, "PMIX_RANK", &["PMIX_SIZE", "SLURM_STEP_NUM_TASKS", "SLURM_NTASKS", "PMI_SIZE"]),
    (Source::Pmi, "PMI_RANK", &["PMI_SIZE", "SLURM_STEP_NUM_TASKS"]),
    (Source::Slurm, "SLURM_PROCID", &["SLURM_STEP_NUM_TASKS"]),
];

/// Variables with which a launcher speaks to one rank: of no use to CMD, and misleading for what is started inside the guest. Names,
/// or what names begin with where they end in `_`.
const OF_ONE_RANK: [&str; 8] =
    ["OMPI_", "PMIX_", "PMI_", "ORTE_", "SLURM_PROCID", "SLURM_LOCALID", "SLURM_NODEID", "SLURM_TASK_PID"];

/// Whether a variable is a launcher's word to one rank.
pub(crate) fn is_of_one_rank(variable: &OsStr) -> bool {
    let bytes = variable.as_encoded_bytes();
    OF_ONE_RANK.iter().any(|name| match name.ends_with('_') {
        true => bytes.starts_with(name.as_bytes()),
        false => bytes == name.as_bytes(),
    })
}

/// The rank that the environment tells; nothing when it tells none. Slurm sets SLURM_PROCID in a batch script too, which is no step:
/// only srun says how many tasks a step has (srun(1) and sbatch(1), output environment variables).
///
/// # Errors
/// [`RankError`], with the variable's name and value.
pub(crate) fn discover(environment: &Environment) -> Result<Option<RankInfo>, RankError> {
    let is_set = |name: &str| environment.contains_key(OsStr::new(name));
    let Some((source, rank_variable, sizes)) = PLACES.into_iter().find(|(_, variable, _)| is_set(variable)) else {
        return Ok(None);
    };
    let size_variable = sizes.iter().copied().find(|name| is_set(name));
    if source == Source::Slurm && size_variable.is_none() {
        return Ok(None);
    }
    let rank = number(environment, rank_variable)?;
    let Some(size_variable) = size_variable else {
        let value = rank.to_string();
        return Err(RankError::NoSize { variable: rank_variable, value, sizes: sizes.join(", ") });
    };
    let ranks = number(environment, size_variable)?;
    let one_host = match source {
        Source::OpenMpi => number(environment, "OMPI_COMM_WORLD_LOCAL_SIZE").ok() == Some(ranks),
        Source::Pmix | Source::Pmi | Source::Slurm => number(environment, "SLURM_STEP_NUM_NODES").ok() == Some(1),
        Source::Options => false,
    };
    checked(RankInfo { rank, ranks, source, one_host }, rank_variable, size_variable).map(Some)
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

fn number(environment: &Environment, variable: &'static str) -> Result<u32, RankError> {
    let value = environment.get(OsStr::new(variable)).map(|value| value.to_string_lossy().into_owned());
    let value = value.unwrap_or_default();
    value.parse().map_err(|_| RankError::NoNumber { variable, value })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn environment(variables: &[(&str, &str)]) -> Environment {
        variables.iter().map(|(name, value)| (OsString::from(name), OsString::from(value))).collect()
    }

    fn found(variables: &[(&str, &str)]) -> Option<(u32, u32, Source)> {
        discover(&environment(variables)).unwrap().map(|info| (info.rank, info.ranks, info.source))
    }

    fn message(variables: &[(&str, &str)]) -> String {
        discover(&environment(variables)).unwrap_err().to_string()
    }

    #[test]
    fn each_launcher_is_understood() {
        assert_eq!(found(&[("PATH", "/bin")]), None);
        let open_mpi = [("OMPI_COMM_WORLD_RANK", "3"), ("OMPI_COMM_WORLD_SIZE", "8")];
        assert_eq!(found(&open_mpi), Some((3, 8, Source::OpenMpi)));
        assert_eq!(found(&[("PMIX_RANK", "1"), ("SLURM_STEP_NUM_TASKS", "2")]), Some((1, 2, Source::Pmix)));
        assert_eq!(found(&[("PMIX_RANK", "1"), ("SLURM_NTASKS", "4")]), Some((1, 4, Source::Pmix)));
        assert_eq!(found(&[("PMI_RANK", "0"), ("PMI_SIZE", "2")]), Some((0, 2, Source::Pmi)));
        assert_eq!(found(&[("SLURM_PROCID", "5"), ("SLURM_STEP_NUM_TASKS", "6")]), Some((5, 6, Source::Slurm)));
    }

    #[test]
    fn a_batch_script_of_slurm_is_no_rank() {
        let script = [("SLURM_JOB_ID", "7"), ("SLURM_PROCID", "0"), ("SLURM_NTASKS", "8"), ("SLURM_NNODES", "2")];
        assert_eq!(found(&script), None);
    }

    #[test]
    fn under_mpirun_inside_of_a_slurm_job_mpirun_counts() {
        let nested = [
            ("SLURM_PROCID", "0"),
            ("SLURM_STEP_NUM_TASKS", "1"),
            ("PMIX_RANK", "7"),
            ("OMPI_COMM_WORLD_RANK", "7"),
            ("OMPI_COMM_WORLD_SIZE", "8"),
        ];
        assert_eq!(found(&nested), Some((7, 8, Source::OpenMpi)));
    }

    #[test]
    fn one_host_is_known_from_local_sizes() {
        let one_host = |variables: &[(&str, &str)]| discover(&environment(variables)).unwrap().unwrap().one_host;
        let mpi = [("OMPI_COMM_WORLD_RANK", "0"), ("OMPI_COMM_WORLD_SIZE", "2")];
        assert!(!one_host(&mpi));
        assert!(one_host(&[&mpi[..], &[("OMPI_COMM_WORLD_LOCAL_SIZE", "2")]].concat()));
        assert!(!one_host(&[&mpi[..], &[("OMPI_COMM_WORLD_LOCAL_SIZE", "1")]].concat()));
        let slurm = [("SLURM_PROCID", "0"), ("SLURM_STEP_NUM_TASKS", "2")];
        assert!(one_host(&[&slurm[..], &[("SLURM_STEP_NUM_NODES", "1")]].concat()));
        assert!(!one_host(&[&slurm[..], &[("SLURM_STEP_NUM_NODES", "2")]].concat()));
    }

    #[test]
    fn what_is_wrong_is_named_with_its_value() {
        let text = message(&[("OMPI_COMM_WORLD_RANK", "x7"), ("OMPI_COMM_WORLD_SIZE", "8")]);
        assert!(text.contains("OMPI_COMM_WORLD_RANK=x7"), "{text}");
        let text = message(&[("OMPI_COMM_WORLD_RANK", "7"), ("OMPI_COMM_WORLD_SIZE", "-8")]);
        assert!(text.contains("OMPI_COMM_WORLD_SIZE=-8"), "{text}");
        let text = message(&[("PMIX_RANK", "7")]);
        assert!(text.contains("PMIX_RANK=7") && text.contains("SLURM_STEP_NUM_TASKS"), "{text}");
        let text = message(&[("PMI_RANK", "2"), ("PMI_SIZE", "2")]);
        assert!(text.contains("PMI_RANK=2") && text.contains("0 to 1"), "{text}");
        assert!(message(&[("PMI_RANK", "0"), ("PMI_SIZE", "0")]).contains("PMI_SIZE=0"));
    }

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
    fn only_what_a_launcher_says_to_one_rank_is_kept_from_the_command() {
        for own in ["OMPI_COMM_WORLD_RANK", "PMIX_RANK", "PMI_FD", "SLURM_PROCID"] {
            assert!(is_of_one_rank(OsStr::new(own)), "{own}");
        }
        for other in ["PATH", "SLURM_JOB_ID", "SLURM_PROCID2", "OMPI", "MY_PMI_RANK"] {
            assert!(!is_of_one_rank(OsStr::new(other)), "{other}");
        }
    }
}
