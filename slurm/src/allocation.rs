//! All that the environment tells, and what can be wrong with it.

use std::ffi::OsStr;

use crate::job::{self, Job};
use crate::place::{self, Place};
use crate::{Environment, HostlistError};

/// What started this process.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Allocation {
    /// The rank; nothing for a process that no launcher started as one of several.
    pub place: Option<Place>,
    /// The Slurm job that it is in, whichever launcher said the rank.
    pub job: Option<Job>,
}

/// Why the environment makes no sense. Each message is one line with the variable and its value.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum AllocationError {
    /// A number was expected.
    #[error("{variable}={value} is no number: it should be set by what starts the ranks; unset it to run alone")]
    NoNumber {
        /// The variable.
        variable: &'static str,
        /// What it says.
        value: String,
    },
    /// A rank without a number of ranks.
    #[error(
        "{variable}={value} is set, but not how many ranks there are ({sizes}): start with mpirun or srun, or unset it"
    )]
    NoSize {
        /// The rank's variable.
        variable: &'static str,
        /// The rank.
        value: u32,
        /// The variables of which one should be set.
        sizes: String,
    },
    /// No such rank among so many.
    #[error("{variable}={rank}: with {size_variable}={ranks}, ranks are 0 to {}", ranks.saturating_sub(1))]
    Beyond {
        /// The rank's variable.
        variable: &'static str,
        /// The rank.
        rank: u32,
        /// The variable of the number of ranks.
        size_variable: &'static str,
        /// The number of ranks.
        ranks: u32,
    },
    /// There are no ranks at all.
    #[error("{variable}=0: there is at least one rank, this one; unset it to run alone")]
    NoRanks {
        /// The variable.
        variable: &'static str,
    },
    /// Two variables that say the same thing say different things.
    #[error(
        "{variable}={value}, but {other}={contrary}: both are to say the same; unset what is left from another job or step"
    )]
    Contradiction {
        /// A variable.
        variable: &'static str,
        /// What it says.
        value: String,
        /// The other one.
        other: &'static str,
        /// What that says.
        contrary: String,
    },
    /// The nodes are no list of nodes.
    #[error("{variable}={value}: {cause}")]
    Nodes {
        /// The variable.
        variable: &'static str,
        /// What it says.
        value: String,
        /// What is wrong.
        cause: HostlistError,
    },
}

/// Reads an environment.
///
/// # Errors
/// [`AllocationError`] for the first variable that cannot be read or contradicts another one.
pub fn allocation(environment: &Environment) -> Result<Allocation, AllocationError> {
    Ok(Allocation { place: place::place(environment)?, job: job::job(environment)? })
}

/// Variables with which a launcher speaks to one rank: of no use to a command in a machine, and misleading for what is started there. Names,
/// or what names begin with where they end in `_`.
const OF_ONE_RANK: [&str; 8] =
    ["OMPI_", "PMIX_", "PMI_", "ORTE_", "SLURM_PROCID", "SLURM_LOCALID", "SLURM_NODEID", "SLURM_TASK_PID"];

/// Whether a variable is a launcher's word to one rank.
#[must_use]
pub fn is_of_one_rank(variable: &OsStr) -> bool {
    let bytes = variable.as_encoded_bytes();
    OF_ONE_RANK.iter().any(|name| match name.ends_with('_') {
        true => bytes.starts_with(name.as_bytes()),
        false => bytes == name.as_bytes(),
    })
}

#[cfg(test)]
mod tests {
    use std::ffi::OsString;
    use std::os::unix::ffi::OsStringExt;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn only_what_a_launcher_says_to_one_rank_is_kept_from_the_command() {
        for own in ["OMPI_COMM_WORLD_RANK", "PMIX_RANK", "PMI_FD", "SLURM_PROCID"] {
            assert!(is_of_one_rank(OsStr::new(own)), "{own}");
        }
        for other in ["PATH", "SLURM_JOB_ID", "SLURM_PROCID2", "OMPI", "MY_PMI_RANK"] {
            assert!(!is_of_one_rank(OsStr::new(other)), "{other}");
        }
    }

    /// All that is read.
    const READ: [&str; 19] = [
        "OMPI_COMM_WORLD_RANK",
        "OMPI_COMM_WORLD_SIZE",
        "OMPI_COMM_WORLD_LOCAL_SIZE",
        "PMIX_RANK",
        "PMIX_SIZE",
        "PMI_RANK",
        "PMI_SIZE",
        "SLURM_PROCID",
        "SLURM_NTASKS",
        "SLURM_STEP_NUM_TASKS",
        "SLURM_STEP_NUM_NODES",
        "SLURM_STEP_NODELIST",
        "SLURM_STEP_ID",
        "SLURM_JOB_ID",
        "SLURM_JOB_NODELIST",
        "SLURM_JOB_NUM_NODES",
        "SLURM_RESTART_COUNT",
        "SLURM_JOB_END_TIME",
        "SLURM_JOB_PARTITION",
    ];

    fn value() -> impl Strategy<Value = OsString> {
        prop_oneof![
            (0..5_u32).prop_map(|number| number.to_string().into()),
            proptest::collection::vec(any::<u8>(), 0..8).prop_map(OsString::from_vec),
            "n\\[[0-9,-]{0,6}\\]?".prop_map(OsString::from),
        ]
    }

    proptest! {
        #[test]
        fn whatever_the_environment_says_there_is_an_answer_or_one_line(
            values in proptest::collection::vec(proptest::option::of(value()), READ.len())
        ) {
            let set = READ.iter().zip(values).filter_map(|(name, value)| Some((OsString::from(name), value?)));
            let environment: Environment = set.collect();
            match allocation(&environment) {
                Ok(Allocation { place: Some(place), .. }) => prop_assert!(place.rank < place.ranks),
                Ok(_) => {}
                Err(error) => {
                    let line = error.to_string();
                    let named = READ.iter().any(|name| line.starts_with(&format!("{name}=")));
                    prop_assert!(named, "{}", line);
                }
            }
        }
    }
}
