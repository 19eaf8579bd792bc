//! What Slurm says of the job and the step that a process is in (srun(1) and sbatch(1), output environment variables).

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::hostlist;
use crate::variables::{number, text};
use crate::{AllocationError, Environment};

/// A Slurm job, and the step in it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Job {
    /// Its number.
    pub id: u32,
    /// The step's number; nothing in a batch script, which is no step.
    pub step: Option<u32>,
    /// The names of the step's nodes, or of the job's where there is no step, in Slurm's order.
    pub nodes: Vec<String>,
    /// How often Slurm has put the job back into its queue; 0 at first, when Slurm does not set SLURM_RESTART_COUNT.
    pub restarts: u32,
    /// When its time is over. Nothing where there is no limit, and with Slurms that do not say it (22.05 does not, outside of prologs). How long it has
    /// after a signal TERM, the partition's GraceTime, no Slurm says.
    pub end: Option<SystemTime>,
}

impl Job {
    /// A name that no other start of a step has: the job, the step, and the restarts if there were any. Nothing outside of a step.
    #[must_use]
    pub fn step_name(&self) -> Option<String> {
        let restarts = if self.restarts == 0 { String::new() } else { format!(".{}", self.restarts) };
        self.step.map(|step| format!("{}.{step}{restarts}", self.id))
    }
}

/// Names of the nodes and of their number: the step's before the job's.
const NODES: [(&str, &str); 2] =
    [("SLURM_STEP_NODELIST", "SLURM_STEP_NUM_NODES"), ("SLURM_JOB_NODELIST", "SLURM_JOB_NUM_NODES")];

/// The job of this environment; nothing outside of Slurm.
pub(crate) fn job(environment: &Environment) -> Result<Option<Job>, AllocationError> {
    let Some(id) = number(environment, "SLURM_JOB_ID")? else { return Ok(None) };
    let mut nodes = None;
    for (list, count) in NODES {
        let expanded = expanded(environment, list, count)?;
        nodes = nodes.or(expanded);
    }
    let end = number(environment, "SLURM_JOB_END_TIME")?;
    Ok(Some(Job {
        id,
        step: number(environment, "SLURM_STEP_ID")?,
        nodes: nodes.unwrap_or_default(),
        restarts: number(environment, "SLURM_RESTART_COUNT")?.unwrap_or_default(),
        end: end.and_then(|seconds| UNIX_EPOCH.checked_add(Duration::from_secs(seconds))),
    }))
}

/// The nodes of a list, which are as many as Slurm says.
fn expanded(
    environment: &Environment,
    list: &'static str,
    count: &'static str,
) -> Result<Option<Vec<String>>, AllocationError> {
    let Some(value) = text(environment, list) else { return Ok(None) };
    let nodes = match hostlist::expand(&value) {
        Ok(nodes) => nodes,
        Err(cause) => return Err(AllocationError::Nodes { variable: list, value, cause }),
    };
    match number::<usize>(environment, count)? {
        Some(told) if told != nodes.len() => {
            let contrary = told.to_string();
            let value = format!("{value}, {} nodes", nodes.len());
            Err(AllocationError::Contradiction { variable: list, value, other: count, contrary })
        }
        Some(_) | None => Ok(Some(nodes)),
    }
}

#[cfg(test)]
mod tests {
    use std::ffi::OsString;

    use super::*;

    fn read(variables: &[(&str, &str)]) -> Result<Option<Job>, AllocationError> {
        let pair = |(name, value): &(&str, &str)| (OsString::from(name), OsString::from(value));
        job(&variables.iter().map(pair).collect())
    }

    fn message(variables: &[(&str, &str)]) -> String {
        read(&[&[("SLURM_JOB_ID", "7")], variables].concat()).unwrap_err().to_string()
    }

    /// What Slurm 22.05 sets for a task of `srun -N 2` in a job of four nodes.
    const TASK: [(&str, &str); 6] = [
        ("SLURM_JOB_ID", "7"),
        ("SLURM_JOB_NODELIST", "n[1-4]"),
        ("SLURM_JOB_NUM_NODES", "4"),
        ("SLURM_STEP_ID", "3"),
        ("SLURM_STEP_NODELIST", "n[2,4]"),
        ("SLURM_STEP_NUM_NODES", "2"),
    ];

    #[test]
    fn a_step_has_its_own_nodes_and_a_batch_script_the_jobs() {
        assert_eq!(read(&[("SLURM_PROCID", "0")]), Ok(None));
        let step = read(&TASK).unwrap().unwrap();
        assert_eq!((step.id, step.step, step.restarts, step.end), (7, Some(3), 0, None));
        assert_eq!(step.nodes, ["n2", "n4"]);
        let script = read(&TASK[..3]).unwrap().unwrap();
        assert_eq!((script.step, script.nodes.len()), (None, 4));
    }

    #[test]
    fn each_start_of_a_step_has_a_name_of_its_own() {
        let name = |more: &[(&str, &str)]| read(&[&TASK[..4], more].concat()).unwrap().unwrap().step_name();
        assert_eq!(name(&[]), Some("7.3".into()));
        assert_eq!(name(&[("SLURM_RESTART_COUNT", "2")]), Some("7.3.2".into()));
        assert_eq!(read(&TASK[..3]).unwrap().unwrap().step_name(), None);
    }

    #[test]
    fn the_end_is_known_where_slurm_says_it() {
        let end = |seconds| read(&[("SLURM_JOB_ID", "7"), ("SLURM_JOB_END_TIME", seconds)]).unwrap().unwrap().end;
        assert_eq!(end("1700000000"), Some(UNIX_EPOCH + Duration::from_secs(1_700_000_000)));
        assert_eq!(end("18446744073709551615"), None, "as good as no limit");
    }

    #[test]
    fn what_is_wrong_is_named_with_its_value() {
        assert!(read(&[("SLURM_JOB_ID", "x")]).unwrap_err().to_string().contains("SLURM_JOB_ID=x is no number"));
        assert!(message(&[("SLURM_STEP_ID", "batch")]).contains("SLURM_STEP_ID=batch is no number"));
        assert!(message(&[("SLURM_RESTART_COUNT", "-1")]).contains("SLURM_RESTART_COUNT=-1 is no number"));
        assert!(message(&[("SLURM_JOB_END_TIME", "soon")]).contains("SLURM_JOB_END_TIME=soon is no number"));
        let text = message(&[("SLURM_JOB_NODELIST", "n[1-")]);
        assert!(text.starts_with("SLURM_JOB_NODELIST=n[1-: "), "{text}");
        let text = message(&[("SLURM_JOB_NODELIST", "n[1-3]"), ("SLURM_JOB_NUM_NODES", "2")]);
        assert!(
            text.contains("SLURM_JOB_NODELIST=n[1-3], 3 nodes") && text.contains("SLURM_JOB_NUM_NODES=2"),
            "{text}"
        );
        // Of a step as well, though the job's are not asked for then.
        let text =
            message(&[("SLURM_STEP_NODELIST", "n1"), ("SLURM_JOB_NODELIST", "n1"), ("SLURM_JOB_NUM_NODES", "9")]);
        assert!(text.contains("SLURM_JOB_NUM_NODES=9"), "{text}");
    }
}
