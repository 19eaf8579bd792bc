#!/bin/bash
# Adds a rank to a machine that runs: sbatch slurm/add-rank.sh [OPTIONS of vincs-rank]
#
# The job is the rank: while it runs, the machine has the node's processors and memory. `scancel -s TERM JOB` (slurm/remove-rank.sh) takes it away:
# the rank hands over what it has and the job ends with status 0. Preemption does the same, within the partition's GraceTime. Set for sbatch:
#
#   VINCS_RANK     the program                                    default: vincs-rank on PATH
#   VINCS_SHARED   directory of address files, seen by all nodes  default: where sbatch was called
#   VINCS_MACHINE  the machine's name, as it was started with     default: machine
#
#SBATCH --job-name=vincs-rank
#SBATCH --nodes=1
#SBATCH --ntasks=1
# A rank that was preempted or lost its node does not come back by itself: the machine may have ended meanwhile.
#SBATCH --no-requeue
set -euo pipefail
rank=${VINCS_RANK:-vincs-rank}
shared=${VINCS_SHARED:-${SLURM_SUBMIT_DIR:?this is a job script: sbatch slurm/add-rank.sh}}
file=$shared/vincs-${VINCS_MACHINE:-machine}.address

# What a job hands down that was itself inside of a job: its steps' numbers, and the place of a rank that this is not.
unset "${!SLURM_STEP_@}" "${!PMIX_@}" "${!PMI_@}" "${!OMPI_@}"

# Since Slurm 22.05 srun does not take the job's --cpus-per-task by itself.
[ -z "${SLURM_CPUS_PER_TASK:-}" ] || export SRUN_CPUS_PER_TASK=$SLURM_CPUS_PER_TASK

# By srun, though it is one process: signals of scancel and of preemption go to steps, not to batch scripts.
exec srun --mpi=none --unbuffered "$rank" --join "$file" "$@"
