//! Which rank this process is: told by whatever started it.

use std::fmt;

use crate::variables::{is_set, number};
use crate::{AllocationError, Environment};

/// What told the rank.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Launcher {
    /// Open MPI's mpirun.
    OpenMpi,
    /// A PMIx server, as of `srun --mpi=pmix`.
    Pmix,
    /// PMI-1 or PMI-2, as of MPICH's mpiexec or `srun --mpi=pmi2`.
    Pmi,
    /// Slurm's srun without MPI.
    Slurm,
}

impl fmt::Display for Launcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::OpenMpi => "Open MPI",
            Self::Pmix => "PMIx",
            Self::Pmi => "PMI",
            Self::Slurm => "Slurm",
        })
    }
}

/// A rank among ranks.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Place {
    /// From 0 to one less than [`Self::ranks`].
    pub rank: u32,
    /// How many there are, 1 or more.
    pub ranks: u32,
    /// What said so.
    pub launcher: Launcher,
    /// The variable that has the number of ranks, for messages.
    pub size_variable: &'static str,
    /// All ranks are known to be on one host.
    pub one_host: bool,
}

/// Where a launcher says the rank, and in which variables how many there are; the first that is set counts. Under mpirun inside
/// of a Slurm job, SLURM_PROCID is the launcher's own: hence the order.
const PLACES: [(Launcher, &str, &[&str]); 4] = [
    (Launcher::OpenMpi, "OMPI_COMM_WORLD_RANK", &["OMPI_COMM_WORLD_SIZE"]),
    (Launcher::Pmix, "PMIX_RANK", &["PMIX_SIZE", "SLURM_STEP_NUM_TASKS", "SLURM_NTASKS", "PMI_SIZE"]),
    (Launcher::Pmi, "PMI_RANK", &["PMI_SIZE", "SLURM_STEP_NUM_TASKS"]),
    (Launcher::Slurm, "SLURM_PROCID", &["SLURM_STEP_NUM_TASKS"]),
];

/// The rank that the environment tells; nothing when it tells none. Slurm sets SLURM_PROCID in a batch script too, which is no step:
/// only srun says how many tasks a step has (srun(1) and sbatch(1), output environment variables).
pub(crate) fn place(environment: &Environment) -> Result<Option<Place>, AllocationError> {
    let Some((launcher, rank_variable, sizes)) =
        PLACES.into_iter().find(|(_, variable, _)| is_set(environment, variable))
    else {
        return Ok(None);
    };
    let size_variable = sizes.iter().copied().find(|name| is_set(environment, name));
    if launcher == Launcher::Slurm && size_variable.is_none() {
        return Ok(None);
    }
    let rank = number(environment, rank_variable)?.unwrap_or_default();
    let Some(size_variable) = size_variable else {
        return Err(AllocationError::NoSize { variable: rank_variable, value: rank, sizes: sizes.join(", ") });
    };
    let ranks = number(environment, size_variable)?.unwrap_or_default();
    if ranks == 0 {
        return Err(AllocationError::NoRanks { variable: size_variable });
    }
    if rank >= ranks {
        return Err(AllocationError::Beyond { variable: rank_variable, rank, size_variable, ranks });
    }
    if launcher == Launcher::OpenMpi {
        // mpirun is a PMIx server as well, and sets both.
        agrees(environment, rank_variable, rank, "PMIX_RANK")?;
    }
    let one_host = match launcher {
        Launcher::OpenMpi => number(environment, "OMPI_COMM_WORLD_LOCAL_SIZE")? == Some(ranks),
        Launcher::Pmix | Launcher::Pmi | Launcher::Slurm => number(environment, "SLURM_STEP_NUM_NODES")? == Some(1_u32),
    };
    Ok(Some(Place { rank, ranks, launcher, size_variable, one_host }))
}

/// Another variable that is to say the same is not set, or does.
fn agrees(
    environment: &Environment,
    variable: &'static str,
    value: u32,
    other: &'static str,
) -> Result<(), AllocationError> {
    match number::<u32>(environment, other)? {
        Some(contrary) if contrary != value => Err(AllocationError::Contradiction {
            variable,
            value: value.to_string(),
            other,
            contrary: contrary.to_string(),
        }),
        Some(_) | None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::ffi::OsString;

    use super::*;

    fn environment(variables: &[(&str, &str)]) -> Environment {
        variables.iter().map(|(name, value)| (OsString::from(name), OsString::from(value))).collect()
    }

    fn found(variables: &[(&str, &str)]) -> Option<(u32, u32, Launcher)> {
        place(&environment(variables)).unwrap().map(|place| (place.rank, place.ranks, place.launcher))
    }

    fn message(variables: &[(&str, &str)]) -> String {
        place(&environment(variables)).unwrap_err().to_string()
    }

    #[test]
    fn each_launcher_is_understood() {
        assert_eq!(found(&[("PATH", "/bin")]), None);
        let open_mpi = [("OMPI_COMM_WORLD_RANK", "3"), ("OMPI_COMM_WORLD_SIZE", "8")];
        assert_eq!(found(&open_mpi), Some((3, 8, Launcher::OpenMpi)));
        assert_eq!(found(&[("PMIX_RANK", "1"), ("SLURM_STEP_NUM_TASKS", "2")]), Some((1, 2, Launcher::Pmix)));
        assert_eq!(found(&[("PMIX_RANK", "1"), ("SLURM_NTASKS", "4")]), Some((1, 4, Launcher::Pmix)));
        assert_eq!(found(&[("PMI_RANK", "0"), ("PMI_SIZE", "2")]), Some((0, 2, Launcher::Pmi)));
        assert_eq!(found(&[("SLURM_PROCID", "5"), ("SLURM_STEP_NUM_TASKS", "6")]), Some((5, 6, Launcher::Slurm)));
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
        assert_eq!(found(&nested), Some((7, 8, Launcher::OpenMpi)));
    }

    #[test]
    fn one_host_is_known_from_local_sizes() {
        let one_host = |variables: &[(&str, &str)]| place(&environment(variables)).unwrap().unwrap().one_host;
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
        for bad in ["-8", "+8", "", "8 ", "4294967296"] {
            let text = message(&[("OMPI_COMM_WORLD_RANK", "7"), ("OMPI_COMM_WORLD_SIZE", bad)]);
            assert!(text.contains(&format!("OMPI_COMM_WORLD_SIZE={bad} is no number")), "{text}");
        }
        let text = message(&[("PMIX_RANK", "7")]);
        assert!(text.contains("PMIX_RANK=7") && text.contains("SLURM_STEP_NUM_TASKS"), "{text}");
        let text = message(&[("PMI_RANK", "2"), ("PMI_SIZE", "2")]);
        assert!(text.contains("PMI_RANK=2") && text.contains("PMI_SIZE=2") && text.contains("0 to 1"), "{text}");
        assert!(message(&[("PMI_RANK", "0"), ("PMI_SIZE", "0")]).contains("PMI_SIZE=0"));
    }

    #[test]
    fn what_another_launcher_left_is_a_contradiction() {
        let left = [("OMPI_COMM_WORLD_RANK", "1"), ("OMPI_COMM_WORLD_SIZE", "2"), ("PMIX_RANK", "0")];
        let text = message(&left);
        assert!(text.contains("OMPI_COMM_WORLD_RANK=1") && text.contains("PMIX_RANK=0"), "{text}");
    }
}
